//! Which files of a directory are segments of the log, and what to do with those that cannot say so.
//!
//! A segment is known by its header. Where that cannot be read, the frames behind it say where they belong,
//! and the header is made again from the first good one. A file without a good frame is put aside, or
//! stops the opening: nothing that may hold events is removed.
//!
//! [`list`] only looks, for the agent and the tools alike; [`Listing::settle_files`] is what the agent then does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use super::frame::{FLAG_ENCRYPTED, FrameHeader, FrameKind, HEADER_SIZE, MAGIC, u64_at};
use super::frames::{WINDOW, Window, read_exactly};
use super::segment::{self, BLOCK_SIZE, Block, Segment, SegmentFooter, SegmentHeader};
use super::state::State;
use super::writer::SNAPSHOT_FIXED;
use super::{Damage, LogOptions, OnDamage, WalError};
use crate::io::{File, Io, OpenOptions};

/// A segment of the log.
pub(super) struct Found {
    pub(super) header: SegmentHeader,
    pub(super) footer: Option<SegmentFooter>,
    /// There is a footer block and it cannot be read.
    pub(super) footer_damaged: bool,
    pub(super) segment: Rc<Segment>,
    /// The header was made again from a frame: it does not know where the segment before it ended.
    pub(super) rebuilt: bool,
    /// The file has the name of another segment.
    pub(super) misnamed: bool,
    /// Size of the file, if that is less than the header says.
    pub(super) short: Option<u64>,
    /// First bytes of the first frame, as far as they are there.
    pub(super) head: Bytes,
}

/// What lies in a log's directory.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) log_id: Option<u64>,
    /// Segments that count, by position.
    pub(super) live: Vec<Found>,
    /// Files without anything: prepared and not used, or declared void by a later segment.
    pub(super) dropped: Vec<PathBuf>,
    /// Files that were being made.
    pub(super) unfinished: Vec<PathBuf>,
    /// Segments of another log.
    pub(super) foreign: Vec<PathBuf>,
    /// Files that must have held something and hold nothing that can be read.
    pub(super) lost: Vec<Damage>,
    /// Files that were put aside earlier.
    pub(super) aside: Vec<PathBuf>,
    pub(super) spare: Option<u64>,
    pub(super) next_number: u64,
    pub(super) next_base: u64,
    pub(super) generation: u64,
}

/// So many files are looked at side by side: on a cold disk each costs two reads.
const SIDE_BY_SIDE: usize = 32;

/// A file that is named like a segment.
struct Candidate {
    io: Io,
    number: u64,
    path: PathBuf,
    size: u64,
    block: Block<SegmentHeader>,
    /// What follows the header block.
    head: Bytes,
    /// The last block of the file.
    last: Vec<u8>,
}

impl Candidate {
    /// `None` if the file is gone: given back by a running agent since the directory was read.
    async fn open(io: Io, number: u64, path: PathBuf) -> Result<Option<Self>, WalError> {
        let file = match io.open(&path, OpenOptions::READ).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(WalError::io(&path)(error)),
        };
        let size = file.metadata().await.map_err(WalError::io(&path))?.size_bytes;
        let mut first = Bytes::from(read_exactly(&*file, &path, 0, 2 * BLOCK_SIZE as usize).await?);
        let head = first.split_off(first.len().min(BLOCK_SIZE as usize));
        let block = SegmentHeader::decode(&first);
        if let Block::Newer(version) = block {
            return Err(WalError::Newer { path, version });
        }
        let last = read_block(&*file, &path, size.saturating_sub(BLOCK_SIZE)).await?;
        Ok(Some(Self { io, number, path, size, block, head, last }))
    }
    /// The header, if it is one of the file's own.
    fn own(&self) -> Option<&SegmentHeader> {
        match &self.block {
            Block::Valid(header) if header.number == self.number => Some(header),
            _ => None,
        }
    }
    /// The file again: not all of them are kept open.
    async fn window(&self) -> Result<Window, WalError> {
        let file = self.io.open(&self.path, OpenOptions::READ).await.map_err(WalError::io(&self.path))?;
        Ok(Window::new(file, self.path.clone()))
    }
    /// A good frame at an offset, with its payload, that says of itself where it stands and whose it is.
    async fn frame_at(
        &self,
        window: &mut Window,
        offset: u64,
        log_id: Option<u64>,
    ) -> Result<Option<(FrameHeader, Bytes)>, WalError> {
        let head = window.bytes(offset, HEADER_SIZE as u64, self.size).await?;
        if head.len() < HEADER_SIZE {
            return Ok(None);
        }
        let (position, log_id) = (u64_at(&head, 16), log_id.unwrap_or_else(|| u64_at(&head, 64)));
        let Ok(header) = FrameHeader::peek(&head, position, log_id) else { return Ok(None) };
        let bytes = window.bytes(offset, u64::from(header.length), self.size).await?;
        let read = FrameHeader::read(&bytes, position, log_id).ok();
        Ok(read.map(|header| (header.clone(), header.payload(&bytes))))
    }
    /// The frame at the start of the file.
    async fn first_frame(&self, log_id: Option<u64>) -> Result<Option<FrameHeader>, WalError> {
        // Most prepared files are seen through at once.
        if !self.head.starts_with(&MAGIC) {
            return Ok(None);
        }
        Ok(self.frame_at(&mut self.window().await?, BLOCK_SIZE, log_id).await?.map(|(header, _)| header))
    }
}

/// Lists a directory, whose state page says `state` and, in this run of the kernel, that everything before
/// `durable` is on the medium.
pub(super) async fn list(
    io: &Io,
    directory: &Path,
    state: Option<&State>,
    durable: u64,
) -> Result<Listing, WalError> {
    let mut listing = Listing { generation: state.map_or(0, |s| s.generation), ..Listing::default() };
    let candidates = candidates(io, directory, &mut listing).await?;
    listing.log_id = identity(&candidates, state).await?;
    listing.next_number = candidates.last().map_or(0, |c| c.number) + 1;
    let state = state.filter(|s| Some(s.log_id) == listing.log_id);
    let durable = if state.is_some() { durable } else { 0 };
    let log_id = listing.log_id.unwrap_or(0);
    // What lies before the consumer's position, as the log itself stored it, is missed by nobody.
    let done = state.filter(|s| s.boot != 0).map_or(0, |s| s.low_position);
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
        let number = candidate.number;
        let mut misnamed = false;
        let known = match &candidate.block {
            Block::Valid(header) if header.log_id != log_id => {
                // Neither ours nor ours to remove.
                listing.foreign.push(candidate.path);
                continue;
            }
            Block::Valid(header) if header.number == number => Some(header.clone()),
            Block::Valid(header)
                if !named.contains(&header.number)
                    && is_misnamed(&candidate, header, state, &ends).await? =>
            {
                misnamed = true;
                Some(header.clone())
            }
            _ => None,
        };
        let rebuilt = known.is_none();
        let header = match known {
            Some(header) => header,
            None => {
                let missed = is_missed(&candidate, durable, listing.next_base.max(done)).await?;
                match rebuild(&candidate, log_id, missed, listing.next_base).await? {
                    Some(header) => header,
                    None if missed => {
                        let size = candidate.size;
                        listing.lost.push(Damage { path: candidate.path, offset: 0, size, events: None });
                        listing.next_base =
                            listing.next_base.max(durable.next_multiple_of(BLOCK_SIZE)) + size;
                        continue;
                    }
                    None => {
                        listing.dropped.push(candidate.path);
                        continue;
                    }
                }
            }
        };
        let footer_at = header.size - BLOCK_SIZE.min(header.size);
        let footer = match footer_at + BLOCK_SIZE == candidate.size {
            true => SegmentFooter::decode(&candidate.last),
            false => SegmentFooter::decode(
                &candidate.window().await?.bytes(footer_at, BLOCK_SIZE, footer_at + BLOCK_SIZE).await?,
            ),
        };
        let footer_damaged = matches!(footer, Block::Damaged | Block::Newer(_));
        let footer = footer.valid().filter(|f| f.number == header.number && f.log_id == log_id);
        let short = (header.size > candidate.size).then_some(candidate.size);
        let segment = Rc::new(Segment::new(&header, candidate.path, None));
        listing.next_base = listing.next_base.max(header.base + header.size);
        let head = candidate.head;
        listing.live.push(Found { header, footer, footer_damaged, segment, rebuilt, misnamed, short, head });
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

    /// True if there is something in the directory that a sound log does not have.
    pub(super) fn is_odd(&self) -> bool {
        let odd = |f: &Found| f.rebuilt || f.misnamed || f.short.is_some() || f.footer_damaged;
        !self.foreign.is_empty() || !self.lost.is_empty() || self.live.iter().any(odd)
    }

    /// Does with the files what was found out about them, before the log goes on: puts aside what is not its
    /// own, gives files that were cut short their size back, removes what was never finished.
    ///
    /// # Errors
    /// [`WalError::Damaged`] if nothing in a file can be read, unless damage is skipped.
    pub(super) async fn settle_files(&self, io: &Io, options: &LogOptions) -> Result<(), WalError> {
        let directory = &options.directory;
        for path in &self.unfinished {
            io.remove_file(path).await.map_err(WalError::io(path))?;
        }
        for path in &self.foreign {
            put_aside(io, directory, path, "it belongs to another log").await?;
        }
        for damage in &self.lost {
            if options.on_damage == OnDamage::Stop {
                return Err(WalError::Damaged(damage.clone()));
            }
            tracing::error!(channel = %options.channel, %damage, "a log file is damaged: skipped");
            put_aside(io, directory, &damage.path, "nothing in it can be read").await?;
        }
        for found in &self.live {
            let path = &found.segment.path;
            if found.misnamed {
                tracing::warn!(
                    file = %path.display(), belongs = segment::file_name(found.header.number),
                    "a log file has the name of another; it counts as what its header says"
                );
            }
            if found.rebuilt {
                tracing::error!(
                    file = %path.display(),
                    "the header of a log file is missing or damaged; it was made again from the file's frames"
                );
            }
            if let Some(size) = found.short {
                lengthen(io, path, size, found.header.size).await?;
            }
        }
        Ok(())
    }
}

/// Files named like segments by number, with their headers; notes the others.
async fn candidates(io: &Io, directory: &Path, listing: &mut Listing) -> Result<Vec<Candidate>, WalError> {
    let entries = io.read_dir(directory).await.map_err(WalError::io(directory))?;
    let mut numbers = Vec::new();
    for name in entries.into_iter().filter_map(|(name, _)| name.into_string().ok()) {
        let path = directory.join(&name);
        if name.ends_with(".tmp") {
            listing.unfinished.push(path);
        } else if name.ends_with(".seg.damaged") {
            listing.aside.push(path);
        } else if path == segment::spare_path(directory) {
            // Beside a running agent it may be in use by now.
            listing.spare = io.metadata(&path).await.ok().map(|m| m.size_bytes);
        } else if let Some(number) = segment::file_number(&name) {
            numbers.push((number, path));
        }
    }
    numbers.sort();
    let mut candidates = Vec::new();
    for some in numbers.chunks(SIDE_BY_SIDE) {
        let open = |(number, path): &(u64, PathBuf)| {
            crate::io::spawn(Candidate::open(io.clone(), *number, path.clone()))
        };
        let opening: Vec<_> = some.iter().map(open).collect();
        for one in opening {
            candidates.extend(match one.await.map_err(tokio::task::JoinError::try_into_panic) {
                Ok(found) => found?,
                Err(Ok(panic)) => std::panic::resume_unwind(panic),
                // Nobody aborts it but the end of the shard.
                Err(Err(_)) => return Err(WalError::Closed),
            });
        }
    }
    Ok(candidates)
}

/// Which log this is: what the state page says, unless no file agrees; then what most headers say, or, if
/// there is none, what a frame says.
async fn identity(candidates: &[Candidate], state: Option<&State>) -> Result<Option<u64>, WalError> {
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for header in candidates.iter().filter_map(Candidate::own) {
        *votes.entry(header.log_id).or_default() += 1;
    }
    let stated = state.map(|s| s.log_id).filter(|id| *id != 0);
    if votes.is_empty() && stated.is_none() {
        for candidate in candidates {
            if let Some(frame) = candidate.first_frame(None).await? {
                return Ok(Some(frame.log_id));
            }
        }
    }
    let most = votes.iter().max_by_key(|(_, count)| **count).map(|(id, _)| *id);
    Ok(stated.filter(|id| votes.is_empty() || votes.contains_key(id)).or(most))
}

/// True for a header in a file of another number that is not just what a recycled file still holds: those
/// are behind the consumer.
async fn is_misnamed(
    candidate: &Candidate,
    header: &SegmentHeader,
    state: Option<&State>,
    ends: &BTreeMap<u64, u64>,
) -> Result<bool, WalError> {
    let end = ends.get(&header.number).copied().unwrap_or(header.base + header.size);
    if state.is_none_or(|s| s.low_position >= end) {
        return Ok(false);
    }
    let frame = candidate.first_frame(Some(header.log_id)).await?;
    Ok(frame.is_some_and(|f| f.position == header.first_frame()))
}

/// A file that is shorter than its header says gets its size back; what was cut off shows as damage where
/// it held frames.
async fn lengthen(io: &Io, path: &Path, size: u64, expected: u64) -> Result<(), WalError> {
    tracing::error!(file = %path.display(), bytes = size, expected, "a log file was cut short");
    let wrap = |error| WalError::io(path)(error);
    let file = io.open(path, OpenOptions { create: false, ..OpenOptions::WRITE }).await.map_err(wrap)?;
    file.set_len(expected).await.map_err(wrap)?;
    file.sync_data().await.map_err(wrap)
}

async fn put_aside(io: &Io, directory: &Path, path: &Path, reason: &str) -> Result<(), WalError> {
    let kept = path.with_extension("seg.damaged");
    tracing::error!(file = %path.display(), kept = %kept.display(), reason, "a log file is put aside");
    io.rename(path, &kept).await.map_err(WalError::io(path))?;
    io.sync_dir(directory).await.map_err(WalError::io(directory))
}

pub(super) async fn read_block(file: &dyn File, path: &Path, offset: u64) -> Result<Vec<u8>, WalError> {
    read_exactly(file, path, offset, BLOCK_SIZE as usize).await
}

/// True if the file may not just be dropped: something that was durable must have been in it, or it is not
/// one that was prepared and never used. The first thing written into those is a frame at their start.
async fn is_missed(candidate: &Candidate, durable: u64, next_base: u64) -> Result<bool, WalError> {
    if durable > next_base {
        return Ok(true);
    }
    if !matches!(candidate.block, Block::Damaged) {
        return Ok(false);
    }
    let recycled = candidate.first_frame(None).await?.is_some_and(|frame| frame.position < next_base);
    if recycled {
        return Ok(false);
    }
    let mut window = candidate.window().await?;
    let mut offset = BLOCK_SIZE;
    while offset < candidate.size {
        let bytes = window.bytes(offset, WINDOW, candidate.size).await?;
        if bytes.is_empty() || bytes.iter().any(|b| *b != 0) {
            return Ok(!bytes.is_empty());
        }
        offset += bytes.len() as u64;
    }
    Ok(false)
}

/// A header as the first good frame of the file implies it. Frames that an earlier use of the file left
/// name positions that belong to segments before it.
async fn rebuild(
    candidate: &Candidate,
    log_id: u64,
    whole: bool,
    next_base: u64,
) -> Result<Option<SegmentHeader>, WalError> {
    // A prepared file has no frame at its start and need not be searched.
    let limit = if whole { candidate.size } else { candidate.size.min(BLOCK_SIZE + MAGIC.len() as u64) };
    let finder = memchr::memmem::Finder::new(&MAGIC);
    let (mut search, mut reading) = (candidate.window().await?, candidate.window().await?);
    let mut offset = BLOCK_SIZE;
    while offset < limit {
        let window = search.bytes(offset, WINDOW, limit).await?;
        let places = finder.find_iter(&window).filter(|at| at % 8 == 0).map(|at| offset + at as u64);
        for place in places {
            let Some((frame, payload)) = candidate.frame_at(&mut reading, place, Some(log_id)).await? else {
                continue;
            };
            let Some(base) = frame.position.checked_sub(place) else { continue };
            if base < next_base || !base.is_multiple_of(BLOCK_SIZE) {
                continue;
            }
            let snapshot = frame.kind == FrameKind::Snapshot
                && !frame.has(FLAG_ENCRYPTED)
                && payload.len() >= SNAPSHOT_FIXED;
            let number_at = |at| if snapshot { u64_at(&payload, at) } else { 0 };
            return Ok(Some(SegmentHeader {
                log_id,
                number: candidate.number,
                base,
                size: candidate.size / BLOCK_SIZE * BLOCK_SIZE,
                start_seq: frame.first_seq,
                start_bytes: number_at(16),
                previous: 0,
                previous_end: 0,
                reopened: false,
                mapped: false,
                shard: 0,
                time_ms: frame.time_ms,
                low_seq: number_at(0),
                low_position: number_at(8),
            }));
        }
        if (window.len() as u64) < 8 {
            break;
        }
        offset += window.len() as u64 / 8 * 8;
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
