//! Which files of a directory are segments of the log, and what to do with those that cannot say so.
//!
//! A segment is known by its header. Where that cannot be read, the frames behind it say where they belong,
//! and the header is made again from the first good one. A file without a good frame is put aside, or
//! stops the opening: nothing that may hold events is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use super::frame::{FrameHeader, FrameKind, HEADER_SIZE, MAGIC, u64_at};
use super::segment::{self, BLOCK_SIZE, Block, Segment, SegmentFooter, SegmentHeader};
use super::state::State;
use super::writer::SNAPSHOT_FIXED;
use super::{Damage, LogOptions, OnDamage, WalError};
use crate::io::{File, Io, OpenOptions};

/// A segment of the log.
pub(super) struct Found {
    pub(super) header: SegmentHeader,
    pub(super) footer: Option<SegmentFooter>,
    pub(super) segment: Rc<Segment>,
    /// The header was made again from a frame: it does not know where the segment before it ended.
    pub(super) rebuilt: bool,
}

/// What lies in a log's directory.
pub(super) struct Listing {
    pub(super) log_id: Option<u64>,
    /// Segments that count, by position.
    pub(super) live: Vec<Found>,
    /// Files without anything: prepared and not used, or declared void by a later segment.
    pub(super) dropped: Vec<PathBuf>,
    pub(super) spare: Option<u64>,
    pub(super) next_number: u64,
    pub(super) next_base: u64,
    pub(super) generation: u64,
}

/// A file that is named like a segment.
struct Candidate {
    number: u64,
    path: PathBuf,
    file: Rc<dyn File>,
    size: u64,
    block: Block<SegmentHeader>,
}

impl Candidate {
    /// The header, if it is one of the file's own.
    fn own(&self) -> Option<&SegmentHeader> {
        match &self.block {
            Block::Valid(header) if header.number == self.number => Some(header),
            _ => None,
        }
    }
    fn map(&self) -> Result<Bytes, WalError> {
        self.file.map().map_err(WalError::io(&self.path))
    }
}

/// Lists a directory, whose state page says `state`.
pub(super) async fn list(io: &Io, options: &LogOptions, state: Option<&State>) -> Result<Listing, WalError> {
    let directory = &options.directory;
    let (candidates, spare) = candidates(io, directory).await?;
    let mut listing = Listing {
        log_id: identity(&candidates, state)?,
        live: Vec::new(),
        dropped: Vec::new(),
        spare,
        next_number: candidates.last().map_or(0, |c| c.number) + 1,
        next_base: 0,
        generation: state.map_or(0, |s| s.generation),
    };
    let state = state.filter(|s| Some(s.log_id) == listing.log_id);
    let log_id = listing.log_id.unwrap_or(0);
    let named: BTreeSet<u64> = candidates
        .iter()
        .filter_map(Candidate::own)
        .filter(|h| h.log_id == log_id)
        .map(|h| h.number)
        .collect();
    // Where segments end, as the ones behind them say.
    let ends: BTreeMap<u64, u64> = candidates
        .iter()
        .filter_map(|c| match &c.block {
            Block::Valid(header) => Some((header.previous, header.previous_end)),
            _ => None,
        })
        .collect();
    for candidate in candidates {
        let (path, number) = (&candidate.path, candidate.number);
        let known = match &candidate.block {
            Block::Valid(header) if header.log_id != log_id => {
                // Neither ours nor ours to remove.
                put_aside(io, directory, path, "it belongs to another log").await?;
                continue;
            }
            Block::Valid(header) if header.number == number => Some(header.clone()),
            Block::Valid(header)
                if !named.contains(&header.number) && is_misnamed(&candidate, header, state, &ends)? =>
            {
                tracing::warn!(
                    file = %path.display(), belongs = segment::file_name(header.number),
                    "a log file has the name of another; it counts as what its header says"
                );
                Some(header.clone())
            }
            _ => None,
        };
        let rebuilt = known.is_none();
        let header = match known {
            Some(header) => {
                if header.size > candidate.size {
                    lengthen(io, &candidate, header.size).await?;
                }
                header
            }
            None => match rebuild(&candidate, log_id, is_missed(&candidate, state, &listing)?, &listing)? {
                Some(header) => header,
                None if is_missed(&candidate, state, &listing)? => {
                    lost(io, options, &candidate).await?;
                    let durable = state.map_or(0, |s| s.durable.next_multiple_of(BLOCK_SIZE));
                    listing.next_base = listing.next_base.max(durable) + candidate.size;
                    continue;
                }
                None => {
                    listing.dropped.push(candidate.path);
                    continue;
                }
            },
        };
        let footer_at = header.size - BLOCK_SIZE.min(header.size);
        let footer = SegmentFooter::decode(&read_block(&*candidate.file, path, footer_at).await?).valid();
        let footer = footer.filter(|f| f.number == header.number && f.log_id == log_id);
        let segment = Rc::new(Segment::new(&header, candidate.path, None));
        listing.next_base = listing.next_base.max(header.base + header.size);
        listing.live.push(Found { header, footer, segment, rebuilt });
    }
    listing.settle();
    Ok(listing)
}

impl Listing {
    /// Puts the segments in order and drops those that a later one declared void.
    fn settle(&mut self) {
        let mut found = std::mem::take(&mut self.live);
        found.sort_by_key(|f| f.header.number);
        for mut segment in found {
            if segment.rebuilt {
                segment.header.previous = self.live.last().map_or(0, |f| f.header.number);
            }
            if segment.header.reopened {
                while self.live.last().is_some_and(|f| f.header.number > segment.header.previous) {
                    self.dropped.extend(self.live.pop().map(|f| f.segment.path.clone()));
                }
            }
            self.live.push(segment);
        }
    }
}

/// Files named like segments by number, with their headers, and the size of the spare file.
async fn candidates(io: &Io, directory: &Path) -> Result<(Vec<Candidate>, Option<u64>), WalError> {
    let entries = io.read_dir(directory).await.map_err(WalError::io(directory))?;
    let mut numbers = Vec::new();
    let mut spare = None;
    for name in entries.into_iter().filter_map(|(name, _)| name.into_string().ok()) {
        let path = directory.join(&name);
        if name.ends_with(".tmp") {
            io.remove_file(&path).await.map_err(WalError::io(&path))?;
        } else if path == segment::spare_path(directory) {
            spare = Some(io.metadata(&path).await.map_err(WalError::io(&path))?.size_bytes);
        } else if let Some(number) = segment::file_number(&name) {
            numbers.push((number, path));
        }
    }
    numbers.sort();
    let mut candidates = Vec::new();
    for (number, path) in numbers {
        let file = io.open(&path, OpenOptions::READ).await.map_err(WalError::io(&path))?;
        let size = file.metadata().await.map_err(WalError::io(&path))?.size_bytes;
        let block = SegmentHeader::decode(&read_block(&*file, &path, 0).await?);
        if let Block::Newer(version) = block {
            return Err(WalError::Newer { path, version });
        }
        candidates.push(Candidate { number, path, file, size, block });
    }
    Ok((candidates, spare))
}

/// Which log this is: what the state page says, unless no file agrees; then what most headers say, or, if
/// there is none, what a frame says.
fn identity(candidates: &[Candidate], state: Option<&State>) -> Result<Option<u64>, WalError> {
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for header in candidates.iter().filter_map(Candidate::own) {
        *votes.entry(header.log_id).or_default() += 1;
    }
    let stated = state.map(|s| s.log_id).filter(|id| *id != 0);
    if votes.is_empty() && stated.is_none() {
        for candidate in candidates {
            let bytes = candidate.map()?;
            let Some(bytes) = bytes.get(BLOCK_SIZE as usize..) else { continue };
            if bytes.len() >= HEADER_SIZE
                && let id = u64_at(bytes, 64)
                && FrameHeader::read(bytes, u64_at(bytes, 16), id).is_ok()
            {
                return Ok(Some(id));
            }
        }
    }
    let most = votes.iter().max_by_key(|(_, count)| **count).map(|(id, _)| *id);
    Ok(stated.filter(|id| votes.is_empty() || votes.contains_key(id)).or(most))
}

/// True for a header in a file of another number that is not just what a recycled file still holds: those
/// are behind the consumer.
fn is_misnamed(
    candidate: &Candidate,
    header: &SegmentHeader,
    state: Option<&State>,
    ends: &BTreeMap<u64, u64>,
) -> Result<bool, WalError> {
    let end = ends.get(&header.number).copied().unwrap_or(header.base + header.size);
    if state.is_none_or(|s| s.low_position >= end) {
        return Ok(false);
    }
    let bytes = candidate.map()?;
    let frame = bytes.get(BLOCK_SIZE as usize..).unwrap_or_default();
    Ok(FrameHeader::read(frame, header.first_frame(), header.log_id).is_ok())
}

/// A file that is shorter than its header says gets its size back; what was cut off shows as damage where
/// it held frames.
async fn lengthen(io: &Io, candidate: &Candidate, size: u64) -> Result<(), WalError> {
    let path = &candidate.path;
    tracing::error!(file = %path.display(), bytes = candidate.size, expected = size, "a log file was cut short");
    let wrap = |error| WalError::io(path)(error);
    let file = io.open(path, OpenOptions { create: false, ..OpenOptions::WRITE }).await.map_err(wrap)?;
    file.set_len(size).await.map_err(wrap)?;
    file.sync_data().await.map_err(wrap)
}

/// Deals with a file that holds nothing that can be read.
async fn lost(io: &Io, options: &LogOptions, candidate: &Candidate) -> Result<(), WalError> {
    let path = candidate.path.clone();
    let damage = Damage { path, offset: 0, size: candidate.size, events: None };
    match options.on_damage {
        OnDamage::Stop => Err(WalError::Damaged(damage)),
        OnDamage::Skip => {
            tracing::error!(channel = %options.channel, %damage, "a log file is damaged: skipped");
            put_aside(io, &options.directory, &damage.path, "nothing in it can be read").await
        }
    }
}

async fn put_aside(io: &Io, directory: &Path, path: &Path, reason: &str) -> Result<(), WalError> {
    let kept = path.with_extension("seg.damaged");
    tracing::error!(file = %path.display(), kept = %kept.display(), reason, "a log file is put aside");
    io.rename(path, &kept).await.map_err(WalError::io(path))?;
    io.sync_dir(directory).await.map_err(WalError::io(directory))
}

pub(super) async fn read_block(file: &dyn File, path: &Path, offset: u64) -> Result<Vec<u8>, WalError> {
    let (result, bytes) = file.read_at(Vec::with_capacity(BLOCK_SIZE as usize), offset).await;
    result.map_err(WalError::io(path))?;
    Ok(bytes)
}

/// True if the file may not just be dropped: something that was durable must have been in it, or it is not
/// one that was prepared and never used. The first thing written into those is a frame at their start.
fn is_missed(candidate: &Candidate, state: Option<&State>, listing: &Listing) -> Result<bool, WalError> {
    if state.is_some_and(|s| s.durable > listing.next_base) {
        return Ok(true);
    }
    if !matches!(candidate.block, Block::Damaged) {
        return Ok(false);
    }
    let bytes = candidate.map()?;
    let rest = bytes.get(BLOCK_SIZE as usize..).filter(|rest| rest.len() >= HEADER_SIZE).unwrap_or_default();
    let is_recycled = || {
        let (position, id) = (u64_at(rest, 16), u64_at(rest, 64));
        position < listing.next_base && FrameHeader::read(rest, position, id).is_ok()
    };
    Ok(rest.iter().any(|b| *b != 0) && !is_recycled())
}

/// A header as the first good frame of the file implies it. Frames that an earlier use of the file left
/// name positions that belong to segments before it.
fn rebuild(
    candidate: &Candidate,
    log_id: u64,
    whole: bool,
    listing: &Listing,
) -> Result<Option<SegmentHeader>, WalError> {
    let bytes = candidate.map()?;
    let first = BLOCK_SIZE as usize;
    // A prepared file has no frame at its start and need not be searched.
    let searched = if whole { bytes.len() } else { bytes.len().min(first + MAGIC.len()) };
    let Some(window) = bytes.get(first..searched) else { return Ok(None) };
    let finder = memchr::memmem::Finder::new(&MAGIC);
    for at in finder.find_iter(window).filter(|at| at % 8 == 0).map(|at| first + at) {
        let Some(frame) = bytes.get(at..).filter(|f| f.len() >= HEADER_SIZE) else { break };
        let position = u64_at(frame, 16);
        let Some(base) = position.checked_sub(at as u64) else { continue };
        if base < listing.next_base || !base.is_multiple_of(BLOCK_SIZE) {
            continue;
        }
        let Ok(header) = FrameHeader::read(frame, position, log_id) else { continue };
        let payload = &frame[HEADER_SIZE..HEADER_SIZE + header.stored as usize];
        let snapshot = header.kind == FrameKind::Snapshot && payload.len() >= SNAPSHOT_FIXED;
        let number_at = |at| if snapshot { u64_at(payload, at) } else { 0 };
        tracing::error!(
            file = %candidate.path.display(),
            "the header of a log file is missing or damaged; it was made again from the file's frames"
        );
        return Ok(Some(SegmentHeader {
            log_id,
            number: candidate.number,
            base,
            size: candidate.size / BLOCK_SIZE * BLOCK_SIZE,
            start_seq: header.first_seq,
            start_bytes: number_at(16),
            previous: 0,
            previous_end: 0,
            reopened: false,
            mapped: false,
            shard: 0,
            time_ms: header.time_ms,
            low_seq: number_at(0),
            low_position: number_at(8),
        }));
    }
    Ok(None)
}

/// Writes the headers that were made again, now that it is known where the segments before them end.
pub(super) async fn repair(io: &Io, live: &[Found]) -> Result<(), WalError> {
    for (index, found) in live.iter().enumerate().filter(|(_, f)| f.rebuilt) {
        let previous = index.checked_sub(1).and_then(|i| live.get(i));
        let header = SegmentHeader {
            previous_end: previous.map_or(0, |f| f.segment.end.get()),
            ..found.header.clone()
        };
        let path = &found.segment.path;
        let file = io.open(path, OpenOptions { create: false, ..OpenOptions::DIRECT }).await;
        let file = file.map_err(WalError::io(path))?;
        file.write_at(header.encode(), 0).await.map_err(WalError::io(path))?;
    }
    Ok(())
}
