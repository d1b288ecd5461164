//! Opening a log: what is there, where it ends, what was acknowledged.
//!
//! Reads the state page, the header and footer of each segment, and the frames behind the last snapshot of
//! marks that is known to be durable: time depends on neither the backlog nor the size of the segments.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use tokio::sync::{Notify, Semaphore};

use super::cipher::{CipherFault, LogCipher};
use super::ends::{self, End, Known};
use super::frame::{FLAG_ENCRYPTED, FLAG_FIRST, FLAG_LAST, FrameHeader, FrameKind, HEADER_SIZE, u64_at};
use super::frames::Frames;
use super::listing::{self, Found, Listing};
use super::marks::MarkTable;
use super::reader::Reader;
use super::segment::{self, SegmentHeader};
use super::state::{PAGE_SIZE, State, StatePage, Tracker, is_untouched};
use super::writer::{SNAPSHOT_FIXED, Writer};
use super::{Consumer, Inner, LogOptions, Recovered, WalError, create_directory, open_payload};
use crate::component::stable_hash;
use crate::io::{Io, OpenOptions};

/// Name of the state page in a log's directory.
pub const STATE_FILE: &str = "state";
/// Name of the lock in a log's directory.
pub const LOCK_FILE: &str = "in_use.lock";

/// Path of a copy of a log's state page.
pub(super) fn copy_path(directory: &Path, log_id: u64) -> PathBuf {
    directory.join(format!("{log_id:016x}.state"))
}

/// See [`super::Log::open`].
pub(super) async fn open(io: &Io, options: LogOptions) -> Result<(Inner, Recovered), WalError> {
    let directory = options.directory.clone();
    let at = |error| WalError::io(&directory)(error);
    create_directory(io, &directory, STATE_FILE).await.map_err(at)?;
    let lock = io.lock(&directory.join(LOCK_FILE)).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => WalError::Locked(directory.clone()),
        _ => at(error),
    })?;
    let boot = boot(io).await;
    let (page, stored, untouched) = open_page(io, &directory).await?;
    let known = Known::new(stored.as_ref(), boot);
    let mut listing = listing::list(io, &directory, stored.as_ref(), known.durable).await?;
    listing.settle_files(io, &options).await?;
    let log_id = listing.log_id.unwrap_or_else(|| io.random().max(1));
    let cipher = LogCipher::new(&options.keys, log_id, io.random());
    check_keys(&listing.live, log_id, &cipher)?;
    let mut state = stored.filter(|s| s.log_id == log_id);
    if state.is_none() && !listing.live.is_empty() {
        state = read_copies(io, &options.copies, log_id).await;
        tracing::warn!(
            channel = %options.channel, directory = %directory.display(), from_copy = state.is_some(),
            "the consumer's position is missing or damaged; events that were delivered may come again"
        );
    }
    let known = Known::new(state.as_ref(), boot).or_untouched(untouched);
    let end = find_end(io, &options, &cipher, &mut listing, log_id, known).await?;
    listing::repair(io, &listing.live).await?;
    for file in &listing.dropped {
        io.remove_file(file).await.map_err(WalError::io(file))?;
    }
    // For good, before the state page speaks of the log without them.
    io.sync_dir(&directory).await.map_err(at)?;
    let was_mapped = listing.live.last().is_some_and(|f| f.header.mapped);
    if listing.spare.is_some() && was_mapped != options.durability.is_mapped() {
        // It was made for the other class.
        listing.spare = None;
        let spare = segment::spare_path(&directory);
        io.remove_file(&spare).await.map_err(WalError::io(&spare))?;
    }
    let (marks, noted) = read_marks(io, &cipher, &listing.live, log_id, known.snapshot).await?;

    // Where the consumer goes on.
    let is_ahead = state.as_ref().is_some_and(|s| s.is_ahead_of(end.seq));
    let start = Start::new(listing.live.first().map(|f| &f.header), &end, state, noted);
    let (low_position, low_seq, next_seq) = (start.position, start.seq, end.seq.max(start.seq));
    let tracker = Tracker::new(low_seq, low_position, &start.ranges);

    let first_size = Inner::first_size(options.segment_size_max);
    let mut writer = Writer::new(listing.next_number, listing.next_base, first_size);
    writer.next_seq = next_seq;
    writer.total_bytes = end.bytes;
    writer.marks = marks;
    writer.previous = listing.live.last().map_or((0, 0), |f| (f.header.number, end.position));
    let recovered = Recovered {
        events: next_seq - low_seq - tracker.acked_above(),
        segments: listing.live.len(),
        torn_bytes: end.torn,
    };
    let state = State { log_id, boot, durable: end.position, synced: end.position, ..State::default() };
    let generation = listing.generation;
    let mut consumer =
        Consumer { page: Some(page), state: State { generation, ..state }, tracker, dirty: false };
    if !listing.live.is_empty() {
        consumer.store();
    }
    if is_ahead {
        // It speaks of events that went with the power; their numbers are given out again, and neither slot may
        // claim after another loss of power that those are delivered.
        consumer.store();
        consumer.store();
        if let Some(flush) = consumer.page.as_ref().map(StatePage::flush) {
            flush.await.map_err(WalError::io(&directory.join(STATE_FILE)))?;
        }
    }
    let inner = Inner {
        io: io.clone(),
        log_id,
        cipher,
        segments: RefCell::new(listing.live.into_iter().map(|f| f.segment).collect()),
        writer: RefCell::new(writer),
        turn: Semaphore::new(1),
        preparing: Semaphore::new(1),
        syncing: Semaphore::new(1),
        saving: Semaphore::new(1),
        sealing: Cell::new(0),
        spare: Cell::new(listing.spare),
        room: Notify::new(),
        pages: Notify::new(),
        moved: Notify::new(),
        stands_at: Cell::new(u64::MAX),
        ready: Notify::new(),
        durable: Cell::new(end.position),
        visible: Cell::new(end.position),
        synced: Cell::new(end.position),
        failed: RefCell::new(None),
        closed: Cell::new(false),
        reader: RefCell::new(Reader::new(low_position, low_seq)),
        consumer: RefCell::new(consumer),
        reclaiming: Cell::new(false),
        state_errors: RefCell::default(),
        lock: RefCell::new(Some(lock)),
        options,
    };
    Ok((inner, recovered))
}

/// Which run of the kernel this is.
pub(super) async fn boot(io: &Io) -> u64 {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let Ok(file) = io.open(path, OpenOptions::READ).await else { return 0 };
    match file.read_at(Vec::with_capacity(64), 0).await {
        (Ok(count), text) if count > 0 => stable_hash(&text).max(1),
        _ => 0,
    }
}

/// Opens the state page, made in full before it is used so that a full disk never stops an acknowledgement.
/// The last is true if it was there and nothing was ever stored to it.
async fn open_page(io: &Io, directory: &Path) -> Result<(StatePage, Option<State>, bool), WalError> {
    let path = directory.join(STATE_FILE);
    let wrap = |error| WalError::io(&path)(error);
    let file = io.open(&path, OpenOptions::WRITE).await.map_err(wrap)?;
    let (result, bytes) = file.read_at(Vec::with_capacity(PAGE_SIZE), 0).await;
    let count = result.map_err(wrap)?;
    if count < PAGE_SIZE {
        let mut whole = bytes.clone();
        whole.resize(PAGE_SIZE, 0);
        file.write_at(whole.into(), 0).await.map_err(wrap)?;
        file.sync_data().await.map_err(wrap)?;
    }
    // Also if it was there: its maker may have died before this.
    io.sync_dir(directory).await.map_err(wrap)?;
    let map = file.map_mut(PAGE_SIZE).map_err(wrap)?;
    Ok((StatePage::new(map), State::from_page(&bytes), is_untouched(&bytes)))
}

async fn read_copies(io: &Io, copies: &[PathBuf], log_id: u64) -> Option<State> {
    let mut best: Option<State> = None;
    for directory in copies {
        let Ok(file) = io.open(&copy_path(directory, log_id), OpenOptions::READ).await else { continue };
        let (Ok(_), bytes) = file.read_at(Vec::with_capacity(PAGE_SIZE), 0).await else { continue };
        let state = State::decode(&bytes).filter(|s| s.log_id == log_id);
        if state.as_ref().is_some_and(|s| best.as_ref().is_none_or(|b| b.low_seq < s.low_seq)) {
            best = state;
        }
    }
    // A copy may be older than the log: only its acknowledgements count.
    best.map(|state| State { durable: 0, synced: 0, boot: 0, ..state })
}

/// Refuses a log with frames under a key that is not there: the first frame of each segment tells.
fn check_keys(live: &[Found], log_id: u64, cipher: &LogCipher) -> Result<(), WalError> {
    for found in live {
        if let Ok(header) = FrameHeader::peek(&found.head, found.segment.first_frame(), log_id)
            && header.has(FLAG_ENCRYPTED)
            && let Err(CipherFault::Key(keys)) =
                cipher.key_of(found.head.get(HEADER_SIZE..).unwrap_or_default())
        {
            return Err(WalError::NoKey { path: found.segment.path.clone(), keys });
        }
    }
    Ok(())
}

/// Finds the end of the log, says what is damaged before it, removes what lies behind it, and makes certain
/// that what was found will still be there after a loss of power.
async fn find_end(
    io: &Io,
    options: &LogOptions,
    cipher: &LogCipher,
    listing: &mut Listing,
    log_id: u64,
    known: Known,
) -> Result<End, WalError> {
    let channel = &options.channel;
    let live = &mut listing.live;
    let mut ends = ends::find(io, live, log_id, Some(cipher), known).await?;
    for hole in &ends.holes {
        let file = live.get(hole.segment).map(|f| f.segment.path.display().to_string()).unwrap_or_default();
        tracing::error!(
            %channel, file, offset = hole.offset, bytes = hole.size,
            "the log is damaged here; takes go on up to this place"
        );
    }
    for dropped in live.drain(ends.keep..) {
        let path = &dropped.segment.path;
        tracing::info!(%channel, file = %path.display(), "a log file behind the torn end is dropped");
        io.remove_file(path).await.map_err(WalError::io(path))?;
    }
    if ends.end.torn > 0 {
        tracing::info!(
            %channel, directory = %options.directory.display(), bytes = ends.end.torn,
            "cut the torn end of the log: transactions that were never acknowledged"
        );
    }
    // One with a footer was synced before that was written.
    ends.unsealed.retain(|index| *index < live.len());
    for index in ends.unsealed {
        let Some(found) = live.get(index) else { continue };
        let (segment, wrap) = (&found.segment, |e| WalError::io(&found.segment.path)(e));
        let file = segment.open(io).await.map_err(wrap)?;
        file.sync_data().await.map_err(wrap)?;
        segment.release();
    }
    Ok(ends.end)
}

/// Where the consumer goes on.
pub(super) struct Start {
    pub(super) position: u64,
    pub(super) seq: u64,
    /// Acknowledged events above it.
    pub(super) ranges: Vec<(u64, u64)>,
}

impl Start {
    /// From the state page; without one from the position that the log noted last.
    pub(super) fn new(
        first: Option<&SegmentHeader>,
        end: &End,
        state: Option<State>,
        noted: (u64, u64),
    ) -> Self {
        let (mut seq, mut position, mut ranges) = match state {
            Some(state) => (state.low_seq, state.low_position, state.ranges),
            None => (noted.0, noted.1, Vec::new()),
        };
        let first = first.map_or((end.position, end.seq), |h| (h.first_frame(), h.start_seq));
        if position < first.0 {
            (seq, position) = (seq.max(first.1), first.0);
        }
        if seq >= end.seq || position > end.position {
            position = end.position;
            seq = seq.max(end.seq);
        }
        ranges.retain(|(_, to)| *to <= end.seq.max(seq));
        Self { position, seq, ranges }
    }
}

/// All marks, and the consumer's position noted last: from the last whole snapshot on.
async fn read_marks(
    io: &Io,
    cipher: &LogCipher,
    live: &[Found],
    log_id: u64,
    snapshot: u64,
) -> Result<(MarkTable, (u64, u64)), WalError> {
    let mut noted = (0, 0);
    for start in (0..live.len()).rev() {
        let mut table = MarkTable::default();
        // A snapshot counts once its last frame was read.
        let mut snapshot_marks = MarkTable::default();
        let mut whole = false;
        for (index, found) in live.iter().enumerate().skip(start) {
            let segment = &found.segment;
            noted = noted.max((found.header.low_seq, found.header.low_position));
            let limit = segment.end.get().min(segment.frames_limit());
            let mut position = segment.first_frame();
            let known = [snapshot, found.footer.as_ref().map_or(0, |f| f.snapshot)];
            if index == start
                && let Some(known) = known.into_iter().filter(|p| (position..limit).contains(p)).max()
            {
                position = known;
            }
            let mut frames = Frames::open(io, segment, log_id, limit).await?;
            if frames.read(position).await?.is_none() {
                position = segment.first_frame();
            }
            while let Some((header, stored)) = frames.read(position).await? {
                position = header.end();
                if header.kind == FrameKind::Data && header.marks == 0 {
                    continue;
                }
                let payload = open_payload(cipher, &header, stored, &segment.path)?;
                let Some(payload) = payload else { continue };
                let marks = (header.marks as usize).min(payload.len());
                if header.kind == FrameKind::Snapshot && payload.len() >= SNAPSHOT_FIXED {
                    if header.has(FLAG_FIRST) {
                        snapshot_marks.clear();
                    }
                    noted = noted.max((u64_at(&payload, 0), u64_at(&payload, 8)));
                    snapshot_marks.read(&payload[SNAPSHOT_FIXED..], header.time_ms);
                    if header.has(FLAG_LAST) {
                        table = std::mem::take(&mut snapshot_marks);
                        whole = true;
                    }
                } else {
                    table.read(&payload[..marks], header.time_ms);
                }
            }
        }
        if whole || start == 0 {
            return Ok((table, noted));
        }
    }
    Ok((MarkTable::default(), noted))
}
