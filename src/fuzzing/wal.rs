//! Fuzzing of the write-ahead log: its decoders, and recovery over a log whose files were tampered with.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::channel::file::payload;
use crate::io::{EngineKind, Io, OpenOptions, run_local};
use crate::wal::frame::{self, FrameHeader, HEADER_SIZE};
use crate::wal::segment::{SegmentFooter, SegmentHeader};
use crate::wal::state::State;
use crate::wal::{Durability, Log, LogOptions, MarkTable, OnDamage, Record};

/// What a log reads from its files, as it comes and with the checksum made right.
pub fn wal_frame(data: &[u8]) {
    let _ = SegmentHeader::decode(data);
    let _ = SegmentFooter::decode(data);
    let _ = State::from_page(data);
    MarkTable::default().read(data, 7);
    let record = Bytes::copy_from_slice(data);
    for (from, to) in [(0, 1), (0, 3), (2, 3)] {
        let _ = payload::decode(&record, from, to);
    }
    let read = |bytes: &[u8]| {
        if bytes.len() < HEADER_SIZE {
            return;
        }
        let (position, log_id) = (frame::u64_at(bytes, 16), frame::u64_at(bytes, 64));
        if let Ok(header) = FrameHeader::read(bytes, position, log_id) {
            let payload = header.payload(&Bytes::copy_from_slice(bytes));
            assert_eq!(payload.len(), header.stored as usize);
            assert!(header.end() >= position + HEADER_SIZE as u64);
            let marks = (header.marks as usize).min(payload.len());
            MarkTable::default().read(&payload[..marks], header.time_ms);
        }
    };
    read(data);
    let mut frame = data.to_vec();
    frame.resize(data.len().max(HEADER_SIZE).next_multiple_of(8), 0);
    frame[..4].copy_from_slice(&frame::MAGIC);
    let length = frame.len() as u32;
    frame::put_u32(&mut frame, 8, length);
    (frame[52], frame[53]) = (frame::VERSION, 1 + frame[53] % 2);
    frame::seal(&mut frame, 0, 0);
    read(&frame);
}

const TRANSACTIONS: u64 = 12;

struct Numbered(u64);

impl Record for Numbered {
    fn events(&self) -> u32 {
        2
    }
    fn size(&self) -> usize {
        6000
    }
    fn write(&self, out: &mut [u8]) {
        out.fill(0x2e);
        out[..8].copy_from_slice(&self.0.to_le_bytes());
    }
}

fn options(directory: &Path, on_damage: OnDamage) -> LogOptions {
    LogOptions {
        directory: directory.to_owned(),
        channel: "c1".into(),
        shard: 0,
        segment_size_max: 64 << 10,
        transaction_size_max: 64 << 10,
        minimum_space: 0,
        durability: Durability::Commit,
        state_interval: Duration::from_secs(3600),
        copies: Vec::new(),
        on_damage,
        take_only: true,
        keys: std::sync::Arc::default(),
    }
}

/// A directory that is gone when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("millrace-fuzz-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}
impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

type Files = Vec<(String, Vec<u8>)>;

/// The files of a good log with two segments that was not closed.
fn good_log() -> Files {
    let scratch = Scratch::new();
    let directory = scratch.0.clone();
    let made = run_local(EngineKind::Portable, |io| async move {
        let mut options = options(&directory, OnDamage::Stop);
        options.take_only = false;
        let (log, _) = Log::open(&io, options).await.ok()?;
        for number in 1..=TRANSACTIONS {
            let mark = (Bytes::from_static(b"key"), Bytes::copy_from_slice(&number.to_le_bytes()));
            log.append(&[Numbered(number)], &[mark]).await.ok()?.await.ok()?;
        }
        Some(())
    });
    assert!(matches!(made, Ok(Some(()))), "cannot make a log in {}", scratch.0.display());
    let entries = std::fs::read_dir(&scratch.0).into_iter().flatten().flatten();
    let mut files: Files = entries
        .filter_map(|e| Some((e.file_name().into_string().ok()?, std::fs::read(e.path()).ok()?)))
        .filter(|(_, bytes)| !bytes.is_empty())
        .collect();
    files.sort();
    files
}

/// Edits of eight bytes each: which file, what to do, a value, how much, and where.
fn edit(files: &mut Files, data: &[u8]) {
    for edit in data.chunks_exact(8).take(64) {
        let count = files.len();
        let Some((_, bytes)) = files.get_mut(edit[0] as usize % count.max(1)) else { return };
        let at = (frame::u32_at(edit, 4) as usize) % (bytes.len() + 1);
        let end = (at + 8 * (1 + edit[3] as usize)).min(bytes.len());
        match edit[1] % 6 {
            0 => bytes[at..end].iter_mut().take(1).for_each(|b| *b ^= edit[2].max(1)),
            1 => bytes[at..end].fill(edit[2]),
            2 => bytes.truncate(at),
            3 => {
                let from = (at + edit[2] as usize * 512) % (bytes.len() + 1);
                let size = (end - at).min(bytes.len() - from);
                bytes.copy_within(from..from + size, at);
            }
            4 if at / 4096 * 4096 + 4096 <= bytes.len() => bytes[at / 4096 * 4096..][..4096].fill(edit[2]),
            5 => {
                let copy = bytes.clone();
                files.push((format!("{:010}.seg", 1 + edit[2] % 6), copy));
            }
            _ => {}
        }
    }
}

async fn recover(io: Io, directory: &Path, files: &Files, on_damage: OnDamage) -> std::io::Result<()> {
    io.create_dir_all(directory).await?;
    for (name, bytes) in files {
        let file = io.open(&directory.join(name), OpenOptions::TRUNCATE).await?;
        file.write_at(bytes.clone().into(), 0).await?;
    }
    let Ok((log, _)) = Log::open(&io, options(directory, on_damage)).await else { return Ok(()) };
    let mut last = 0;
    while let Ok(Some(entry)) = log.next().await {
        // Whatever was done to the files, what comes out is what was put, in order.
        let number = frame::u64_at(&entry.payload, 0);
        assert!(entry.events == 2 && entry.payload.len() == 6000);
        assert!((1..=TRANSACTIONS).contains(&number) && number > last, "{number} after {last}");
        last = number;
    }
    log.close().await;
    Ok(())
}

/// Opens and reads a log whose files were edited, with both ways to treat damage.
pub fn wal_recovery(data: &[u8]) {
    thread_local! {
        static GOOD: OnceCell<Files> = const { OnceCell::new() };
    }
    let mut files = GOOD.with(|good| good.get_or_init(good_log).clone());
    edit(&mut files, data);
    for on_damage in [OnDamage::Stop, OnDamage::Skip] {
        let scratch = Scratch::new();
        let result = run_local(EngineKind::Portable, |io| recover(io, &scratch.0, &files, on_damage));
        assert!(matches!(result, Ok(Ok(()))), "cannot write to {}: {result:?}", scratch.0.display());
    }
}
