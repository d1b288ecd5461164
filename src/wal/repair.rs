//! Cutting a log at a position, with everything that is cut kept in a backup directory.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::frame::{FLAG_FIRST, FLAG_LAST, FrameKind};
use super::inspect::{Step, View, Walk};
use super::recovery::{LOCK_FILE, STATE_FILE};
use super::segment::SegmentFooter;
use super::state::State;
use super::{Record, WalError};
use crate::io::{Io, Lock, OpenOptions};

/// Files are copied in pieces of this size.
const COPY_SIZE: usize = 1 << 20;
/// Size of a slot of the state page.
const SLOT_SIZE: u64 = 4096;

/// A record that is copied as it is.
#[derive(Clone, Debug)]
pub struct Raw {
    /// Number of events.
    pub events: u32,
    /// The record.
    pub record: Bytes,
}

impl Record for Raw {
    fn events(&self) -> u32 {
        self.events
    }
    fn size(&self) -> usize {
        self.record.len()
    }
    fn write(&self, out: &mut [u8]) {
        out.copy_from_slice(&self.record);
    }
}

/// Why a log was not cut.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// Something with the files, or the log is in use.
    #[error(transparent)]
    Log(#[from] WalError),
    /// No transaction ends there.
    #[error("no transaction ends at position {position}")]
    Between {
        /// As asked for.
        position: u64,
        /// The nearest place before it.
        before: u64,
        /// The nearest place behind it.
        after: Option<u64>,
    },
    /// The log ends there already, or before.
    #[error("the log ends at position {0} already")]
    Beyond(u64),
}

/// What cutting did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Events cut off, acknowledged ones included.
    pub events: u64,
    /// Bytes of log cut off.
    pub bytes: u64,
    /// Where they are kept.
    pub backup: PathBuf,
}

/// Takes the lock of a log, so that no agent starts on it meanwhile.
///
/// # Errors
/// [`WalError::Locked`], [`WalError::Io`].
pub fn lock(io: &Io, directory: &Path) -> Result<Box<dyn Lock>, WalError> {
    let path = directory.join(LOCK_FILE);
    io.lock(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => WalError::Locked(directory.to_owned()),
        _ => WalError::io(&path)(error),
    })
}

/// Cuts the log of a directory at a position where a transaction ends. Later segments move to `backup`, a
/// new directory; the one that is cut and the consumer's position are copied there.
///
/// Interrupted, it leaves a log that is whole, or one whose missing end is reported; run again, it goes on.
///
/// # Errors
/// [`CutError`]; the log is unchanged unless writing to it failed.
pub async fn truncate(io: &Io, directory: &Path, position: u64, backup: &Path) -> Result<Cut, CutError> {
    let _lock = lock(io, directory)?;
    let view = View::open(io, directory).await?;
    if position >= view.end_position() {
        return Err(CutError::Beyond(view.end_position()));
    }
    // The last segment that keeps a frame.
    let kept = view.segments.partition_point(|s| s.header.first_frame() < position);
    let cut = match kept.checked_sub(1) {
        Some(index) => Some(measure(io, &view, index, position).await?),
        None => None,
    };
    let end = cut.as_ref().map_or(0, |f| f.end);
    let end_seq = cut
        .as_ref()
        .map_or_else(|| view.segments.first().map_or(0, |s| s.header.start_seq), |footer| footer.end_seq);

    let wrap = |error| CutError::Log(WalError::io(backup)(error));
    io.create_dir_all(backup).await.map_err(wrap)?;
    let state_path = directory.join(STATE_FILE);
    let keep = |path: &Path| backup.join(path.file_name().unwrap_or_default());
    if view.state.is_some() {
        copy(io, &state_path, &keep(&state_path)).await?;
    }
    if let Some(segment) = kept.checked_sub(1).and_then(|i| view.segments.get(i)) {
        copy(io, &segment.path, &keep(&segment.path)).await?;
    }
    io.sync_dir(backup).await.map_err(wrap)?;

    // From the last one on, so that at every moment what is left is the beginning of the log.
    for segment in view.segments.iter().skip(kept).rev() {
        let at = |error| CutError::Log(WalError::io(&segment.path)(error));
        io.rename(&segment.path, &keep(&segment.path)).await.map_err(at)?;
    }
    let wrap = |error| CutError::Log(WalError::io(directory)(error));
    io.sync_dir(backup).await.map_err(wrap)?;
    io.sync_dir(directory).await.map_err(wrap)?;
    match (kept.checked_sub(1).and_then(|i| view.segments.get(i)), &cut) {
        (Some(segment), Some(footer)) => {
            let at = |error| CutError::Log(WalError::io(&segment.path)(error));
            let file = io.open(&segment.path, OpenOptions::WRITE).await.map_err(at)?;
            let offset = segment.header.size - super::segment::BLOCK_SIZE;
            file.write_at(footer.encode(), offset).await.map_err(at)?;
            file.sync_data().await.map_err(at)?;
            if let Some(state) = &view.state {
                write_state(io, &state_path, state, footer).await?;
            }
        }
        // Nothing is left: without the position the next start begins a new log, whose positions are new too.
        _ if view.state.is_some() => io.remove_file(&state_path).await.map_err(wrap)?,
        _ => {}
    }
    Ok(Cut {
        events: view.segments.last().map_or(0, |s| s.end_seq).saturating_sub(end_seq),
        bytes: view.bytes_between(end, u64::MAX),
        backup: backup.to_owned(),
    })
}

/// The footer of a segment that ends at a position.
async fn measure(io: &Io, view: &View, index: usize, position: u64) -> Result<SegmentFooter, CutError> {
    let segment = &view.segments[index];
    let mut footer = SegmentFooter {
        log_id: view.log_id,
        number: segment.header.number,
        end: segment.header.first_frame(),
        end_seq: segment.header.start_seq,
        end_bytes: segment.header.start_bytes,
        snapshot: 0,
        oldest_ms: 0,
        newest_ms: 0,
    };
    if position >= segment.end {
        // It stays whole.
        footer.end = segment.end;
    }
    let limit = position.min(segment.end);
    let mut snapshot = 0;
    let mut walk = Walk::from(view, io, segment.header.first_frame());
    let (mut seq, mut bytes, mut open) = (footer.end_seq, footer.end_bytes, false);
    let mut whole = segment.header.first_frame();
    while walk.position() < limit {
        let Some(step) = walk.next().await? else { break };
        // What is damaged before the place counts as it would for a sink that skips it.
        let Step::Frame(frame) = step else { continue };
        let header = &frame.header;
        if frame.segment != index {
            break;
        }
        if header.end() > limit {
            // Somebody asked for the middle of this frame.
            let after = header.has(FLAG_LAST).then(|| header.end());
            return Err(CutError::Between { position, before: whole, after });
        }
        match header.kind {
            FrameKind::Data => {
                seq = frame.end_seq();
                bytes += u64::from(header.raw - header.marks);
                open = !header.has(FLAG_LAST);
            }
            FrameKind::Snapshot if header.has(FLAG_FIRST) => snapshot = header.position,
            FrameKind::Snapshot => {}
        }
        if header.kind == FrameKind::Snapshot && header.has(FLAG_LAST) {
            footer.snapshot = snapshot;
        }
        if footer.oldest_ms == 0 {
            footer.oldest_ms = header.time_ms;
        }
        footer.newest_ms = header.time_ms;
        if !open {
            whole = header.end();
            (footer.end_seq, footer.end_bytes) = (seq, bytes);
        }
    }
    if whole != limit {
        return Err(CutError::Between { position, before: whole, after: None });
    }
    footer.end = whole;
    Ok(footer)
}

async fn write_state(io: &Io, path: &Path, state: &State, footer: &SegmentFooter) -> Result<(), CutError> {
    let wrap = |error| CutError::Log(WalError::io(path)(error));
    // The number of the first open event stays even if it was cut off: no number is used a second time.
    let state = State {
        generation: state.generation + 1,
        low_position: state.low_position.min(footer.end),
        durable: footer.end,
        synced: footer.end,
        snapshot: footer.snapshot,
        boot: 0,
        ranges: state.ranges.iter().copied().filter(|(_, to)| *to <= footer.end_seq).collect(),
        ..state.clone()
    };
    let file = io.open(path, OpenOptions::WRITE).await.map_err(wrap)?;
    let slot = state.generation % 2 * SLOT_SIZE;
    file.write_at(state.encode().into(), slot).await.map_err(wrap)?;
    file.sync_data().await.map_err(wrap)
}

async fn copy(io: &Io, from: &Path, to: &Path) -> Result<(), CutError> {
    let (source, target) = (
        io.open(from, OpenOptions::READ).await.map_err(WalError::io(from))?,
        io.open(to, OpenOptions::TRUNCATE).await.map_err(WalError::io(to))?,
    );
    let mut offset = 0;
    loop {
        let (result, piece) = source.read_at(Vec::with_capacity(COPY_SIZE), offset).await;
        let count = result.map_err(WalError::io(from))?;
        if count == 0 {
            break;
        }
        target.write_at(piece.into(), offset).await.map_err(WalError::io(to))?;
        offset += count as u64;
    }
    target.sync_data().await.map_err(WalError::io(to))?;
    Ok(())
}
