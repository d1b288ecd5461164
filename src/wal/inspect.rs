//! Looking at a log without owning it: for tools, offline or beside the agent that writes it.
//!
//! Nothing here changes a file or takes the lock. Files are read, not mapped: a running agent recycles
//! segments under the reader, and a page that disappears from a mapping would kill the tool, while a read
//! comes back with something whose checksum says that it is not what was looked for.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use super::cipher::{Keys, LogCipher};
use super::frame::{FLAG_ENCRYPTED, FLAG_LAST, FrameHeader, FrameKind, HEADER_SIZE, MAGIC, u64_at};
use super::recovery::{STATE_FILE, boot};
use super::segment::{self, BLOCK_SIZE, Block, SegmentFooter, SegmentHeader};
use super::state::{PAGE_SIZE, State, Tracker};
use super::writer::SNAPSHOT_FIXED;
use super::{Damage, WalError, open_payload};
use crate::io::{File, Io, OpenOptions};

/// Files are read in pieces of this size, or of one frame if that is larger.
const WINDOW: u64 = 1 << 20;

/// A segment as its blocks describe it.
#[derive(Clone, Debug)]
pub struct SegmentView {
    /// The file.
    pub path: PathBuf,
    /// Its header block; rebuilt from the first frame if the block is damaged.
    pub header: SegmentHeader,
    /// Its footer block, once it is sealed.
    pub footer: Option<SegmentFooter>,
    /// Where its frames end.
    pub end: u64,
    /// Number of the first event behind it.
    pub end_seq: u64,
    /// The header block could not be read.
    pub rebuilt: bool,
}

impl SegmentView {
    /// Offset in the file of a log position.
    pub fn offset(&self, position: u64) -> u64 {
        position - self.header.base
    }
    fn frames_limit(&self) -> u64 {
        (self.header.base + self.header.size).saturating_sub(BLOCK_SIZE)
    }
}

/// What a log's directory holds.
#[derive(Clone, Debug)]
pub struct View {
    /// The directory.
    pub directory: PathBuf,
    /// The log; 0 if nothing was ever written.
    pub log_id: u64,
    /// The consumer's position as stored; `None` if the page is missing or damaged.
    pub state: Option<State>,
    /// Number of the first event not acknowledged.
    pub low_seq: u64,
    /// Position from which to read for it.
    pub low_position: u64,
    /// Live segments in order.
    pub segments: Vec<SegmentView>,
    /// Number behind the last event.
    pub end_seq: u64,
    /// Bytes behind the end that were never acknowledged.
    pub torn_bytes: u64,
    /// What encrypted frames are read with; `None` = payloads are not looked at.
    cipher: Option<Rc<LogCipher>>,
    /// Segments whose header and first frame are both unreadable, and those put aside earlier.
    pub unreadable: Vec<PathBuf>,
}

/// A frame with its payload, verified.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its header.
    pub header: FrameHeader,
    /// Marks and record of a data frame, or a snapshot.
    pub payload: Bytes,
    /// Index of its segment in the view.
    pub segment: usize,
}

impl Frame {
    /// The encoded marks.
    pub fn marks(&self) -> Bytes {
        match self.header.kind {
            FrameKind::Data => self.payload.slice(..(self.header.marks as usize).min(self.payload.len())),
            FrameKind::Snapshot => self.payload.slice(SNAPSHOT_FIXED.min(self.payload.len())..),
        }
    }
    /// The record; empty for a snapshot.
    pub fn record(&self) -> Bytes {
        match self.header.kind {
            FrameKind::Data => self.payload.slice((self.header.marks as usize).min(self.payload.len())..),
            FrameKind::Snapshot => Bytes::new(),
        }
    }
    /// Number behind its last event.
    pub fn end_seq(&self) -> u64 {
        self.header.first_seq + u64::from(self.header.events)
    }
}

/// One step of a [`Walk`].
#[derive(Debug)]
pub enum Step {
    /// A good frame.
    Frame(Frame),
    /// A place that should hold one.
    Damage(Damage),
    /// A segment that the running agent gave back meanwhile: its events are delivered.
    Gone,
}

/// Reads the frames of one segment.
pub(super) struct Frames {
    file: Rc<dyn File>,
    path: PathBuf,
    base: u64,
    log_id: u64,
    limit: u64,
    window: Bytes,
    at: u64,
}

impl Frames {
    pub(super) async fn open(
        io: &Io,
        segment: &SegmentView,
        log_id: u64,
        limit: u64,
    ) -> Result<Self, WalError> {
        let file = io.open(&segment.path, OpenOptions::READ).await.map_err(WalError::io(&segment.path))?;
        let path = segment.path.clone();
        Ok(Self { file, path, base: segment.header.base, log_id, limit, window: Bytes::new(), at: 0 })
    }

    /// The bytes from a position on: at least `size` of them, unless the file or the limit ends before.
    async fn bytes(&mut self, position: u64, size: u64) -> Result<Bytes, WalError> {
        let end = position.saturating_add(size).min(self.limit);
        if position < self.at || end > self.at + self.window.len() as u64 {
            let count = (end.saturating_sub(position)).max(WINDOW).min(self.limit.saturating_sub(position));
            self.window =
                read_exactly(&*self.file, &self.path, position - self.base, count as usize).await?.into();
            self.at = position;
        }
        let from = ((position - self.at) as usize).min(self.window.len());
        Ok(self.window.slice(from..))
    }

    /// The frame at a position, verified, with its payload.
    pub(super) async fn read(&mut self, position: u64) -> Result<Option<(FrameHeader, Bytes)>, WalError> {
        if position + HEADER_SIZE as u64 > self.limit {
            return Ok(None);
        }
        let bytes = self.bytes(position, HEADER_SIZE as u64).await?;
        let Ok(header) = FrameHeader::peek(&bytes, position, self.log_id) else { return Ok(None) };
        if header.end() > self.limit {
            return Ok(None);
        }
        let bytes = self.bytes(position, u64::from(header.length)).await?;
        if FrameHeader::read(&bytes, position, self.log_id).is_err() {
            return Ok(None);
        }
        let payload = header.payload(&bytes);
        Ok(Some((header, payload)))
    }

    /// The first good frame at or behind a position.
    pub(super) async fn find(&mut self, from: u64) -> Result<Option<FrameHeader>, WalError> {
        let finder = memchr::memmem::Finder::new(&MAGIC);
        let mut position = from.next_multiple_of(8);
        while position + HEADER_SIZE as u64 <= self.limit {
            let window = self.bytes(position, WINDOW).await?;
            let count = (window.len() as u64).min(WINDOW);
            if count < HEADER_SIZE as u64 {
                return Ok(None);
            }
            for at in finder.find_iter(&window[..count as usize]).filter(|at| at % 8 == 0) {
                if let Some((header, _)) = self.read(position + at as u64).await? {
                    return Ok(Some(header));
                }
            }
            position += count / 8 * 8;
        }
        Ok(None)
    }
}

async fn read_exactly(
    file: &dyn File,
    path: &Path,
    mut offset: u64,
    size: usize,
) -> Result<Vec<u8>, WalError> {
    let mut all = Vec::new();
    while all.len() < size {
        let (result, piece) = file.read_at(Vec::with_capacity(size - all.len()), offset).await;
        let count = result.map_err(WalError::io(path))?;
        if count == 0 {
            break;
        }
        offset += count as u64;
        if all.is_empty() { all = piece } else { all.extend_from_slice(&piece) }
    }
    Ok(all)
}

async fn read_block(file: &dyn File, path: &Path, offset: u64) -> Result<Vec<u8>, WalError> {
    read_exactly(file, path, offset, BLOCK_SIZE as usize).await
}

/// A header as the first frame of a file implies it.
fn rebuild(
    frame: &[u8],
    number: u64,
    size: u64,
    log_id: Option<u64>,
    base_min: u64,
) -> Option<SegmentHeader> {
    let position = frame.get(16..24).map(|b| u64_at(b, 0))?;
    let log_id = log_id.or_else(|| frame.get(64..72).map(|b| u64_at(b, 0)))?;
    let header = FrameHeader::read(frame, position, log_id).ok()?;
    let base = position.checked_sub(BLOCK_SIZE).filter(|base| *base >= base_min)?;
    Some(SegmentHeader {
        log_id,
        number,
        base,
        size,
        start_seq: header.first_seq,
        start_bytes: 0,
        previous: 0,
        previous_end: 0,
        reopened: false,
        mapped: false,
        shard: 0,
        time_ms: header.time_ms,
        low_seq: 0,
        low_position: 0,
    })
}

impl View {
    /// Looks at a directory: state page, headers, footers, and the frames behind the last snapshot.
    ///
    /// # Errors
    /// [`WalError::Io`], [`WalError::Newer`].
    pub async fn open(io: &Io, directory: &Path) -> Result<Self, WalError> {
        // The page first: whatever it says is durable is in the segments listed after it.
        let path = directory.join(STATE_FILE);
        let state = match io.open(&path, OpenOptions::READ).await {
            Ok(file) => State::from_page(&read_exactly(&*file, &path, 0, PAGE_SIZE).await?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(WalError::io(&path)(error)),
        };
        let mut view = Self {
            directory: directory.to_owned(),
            log_id: 0,
            state,
            low_seq: 0,
            low_position: 0,
            segments: Vec::new(),
            end_seq: 0,
            torn_bytes: 0,
            cipher: None,
            unreadable: Vec::new(),
        };
        view.list(io).await?;
        view.find_ends(io).await?;
        view.place_consumer();
        Ok(view)
    }

    /// The keys to read payloads with. Without this call a walk gives encrypted payloads empty.
    pub fn set_keys(&mut self, keys: &Keys) {
        self.cipher = Some(Rc::new(LogCipher::new(keys, self.log_id, 0)));
    }

    async fn list(&mut self, io: &Io) -> Result<(), WalError> {
        let entries = io.read_dir(&self.directory).await.map_err(WalError::io(&self.directory))?;
        let mut files = Vec::new();
        for (name, _) in entries {
            let Some(name) = name.to_str() else { continue };
            let path = self.directory.join(name);
            if name.ends_with(".seg.damaged") {
                self.unreadable.push(path);
            } else if let Some(number) = segment::file_number(name) {
                files.push((number, path));
            }
        }
        files.sort();
        let mut log_id = self.state.as_ref().map(|s| s.log_id).filter(|id| *id != 0);
        let mut next_base = 0;
        for (number, path) in files {
            let file = match io.open(&path, OpenOptions::READ).await {
                Ok(file) => file,
                // Given back since the directory was read.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(WalError::io(&path)(error)),
            };
            let size = file.metadata().await.map_err(WalError::io(&path))?.size_bytes;
            let block = SegmentHeader::decode(&read_block(&*file, &path, 0).await?);
            let mut rebuilt = false;
            let header = match block {
                Block::Newer(version) => return Err(WalError::Newer { path, version }),
                Block::Absent => continue,
                Block::Valid(header) if header.number != number => continue,
                Block::Valid(header)
                    if header.size <= size && log_id.is_none_or(|id| id == header.log_id) =>
                {
                    Some(header)
                }
                Block::Valid(_) | Block::Damaged => {
                    rebuilt = true;
                    let head = read_exactly(&*file, &path, BLOCK_SIZE, WINDOW as usize).await?;
                    rebuild(&head, number, size, log_id, next_base)
                }
            };
            let Some(header) = header else {
                self.unreadable.push(path);
                next_base += size;
                continue;
            };
            log_id.get_or_insert(header.log_id);
            next_base = header.base + header.size;
            if header.reopened {
                while self.segments.last().is_some_and(|s| s.header.number > header.previous) {
                    self.segments.pop();
                }
            }
            let footer_at = header.size.saturating_sub(BLOCK_SIZE);
            let footer = SegmentFooter::decode(&read_block(&*file, &path, footer_at).await?).valid();
            let footer = footer.filter(|f| f.number == number && f.log_id == header.log_id);
            self.segments.push(SegmentView { path, header, footer, end: 0, end_seq: 0, rebuilt });
        }
        self.log_id = log_id.unwrap_or(0);
        Ok(())
    }

    /// Where each segment ends, as opening the log would find it.
    async fn find_ends(&mut self, io: &Io) -> Result<(), WalError> {
        let mapped = self.segments.last().is_some_and(|s| s.header.mapped);
        let run = boot(io).await;
        let exact = run != 0 && self.state.as_ref().is_some_and(|s| s.boot == run);
        let durable = self.state.as_ref().filter(|_| exact || !mapped).map_or(0, |s| s.durable);
        let snapshot = self.state.as_ref().map_or(0, |s| s.snapshot);
        let mut index = 0;
        while index < self.segments.len() {
            let segment = &self.segments[index];
            let next = self.segments.get(index + 1).map(|s| &s.header);
            let successor = next.filter(|h| h.previous == segment.header.number);
            let known = successor.filter(|h| h.reopened || h.first_frame() <= durable);
            let sealed = match (known, &segment.footer) {
                (Some(h), _) if h.reopened => Some((h.previous_end, h.start_seq)),
                (_, Some(footer)) => Some((footer.end, footer.end_seq)),
                (Some(h), None) => Some((h.previous_end, h.start_seq)),
                (None, None) => None,
            };
            let expected = successor.map(|h| h.previous_end);
            let mut cut_off = false;
            let (end, end_seq) = match sealed {
                Some(sealed) => sealed,
                None => {
                    let found = self.scan(io, index, durable, exact, snapshot, expected).await?;
                    self.torn_bytes += found.2;
                    cut_off = expected.is_some_and(|e| e != found.0) && !found.3;
                    (found.0, found.1)
                }
            };
            let segment = &mut self.segments[index];
            segment.end = end.clamp(segment.header.first_frame(), segment.frames_limit());
            segment.end_seq = end_seq;
            self.end_seq = end_seq;
            if cut_off {
                // Never acknowledged, whatever follows.
                self.segments.truncate(index + 1);
            }
            index += 1;
        }
        Ok(())
    }

    /// End position and event number of a segment that was not sealed, bytes of its torn tail, and whether
    /// what could not be read was damage.
    async fn scan(
        &self,
        io: &Io,
        index: usize,
        durable: u64,
        exact: bool,
        snapshot: u64,
        expected: Option<u64>,
    ) -> Result<(u64, u64, u64, bool), WalError> {
        let segment = &self.segments[index];
        let limit = segment.frames_limit();
        let mut frames = Frames::open(io, segment, self.log_id, limit).await?;
        let mut position = segment.header.first_frame();
        let mut end = (position, segment.header.start_seq);
        if (position..limit).contains(&snapshot)
            && snapshot <= durable
            && let Some((header, _)) = frames.read(snapshot).await?
            && header.kind == FrameKind::Snapshot
        {
            position = snapshot;
            end = (position, header.first_seq);
        }
        let (mut seq, mut open, mut damaged, mut torn) = (end.1, false, false, 0);
        loop {
            while let Some((header, _)) = frames.read(position).await? {
                position = header.end();
                if header.kind == FrameKind::Data {
                    seq = header.first_seq + u64::from(header.events);
                    open = !header.has(FLAG_LAST);
                }
                if !open {
                    end = (position, seq);
                }
            }
            if expected == Some(position) || position >= limit {
                break;
            }
            let mut claim = position < durable;
            let mut stray = 0;
            if !claim && !exact {
                let mut from = position + 1;
                while let Some(header) = frames.find(from).await? {
                    stray += u64::from(header.length);
                    from = header.end();
                    if header.durable > position {
                        claim = true;
                        break;
                    }
                }
            }
            if !claim {
                torn = position - end.0 + stray;
                break;
            }
            damaged = true;
            match frames.find(position + 1).await? {
                Some(header) => position = header.position,
                None => {
                    end = (expected.unwrap_or(durable).clamp(position, limit), seq);
                    break;
                }
            }
        }
        Ok((end.0, end.1, torn, damaged))
    }

    fn place_consumer(&mut self) {
        let noted = self.segments.iter().map(|s| (s.header.low_seq, s.header.low_position)).max();
        let stored = self.state.as_ref().filter(|s| s.log_id == self.log_id);
        let (mut seq, mut position) =
            stored.map(|s| (s.low_seq, s.low_position)).or(noted).unwrap_or_default();
        if let Some(first) = self.segments.first()
            && position < first.header.first_frame()
        {
            (seq, position) = (seq.max(first.header.start_seq), first.header.first_frame());
        }
        self.low_seq = seq;
        self.low_position = position.min(self.end_position());
        self.end_seq = self.end_seq.max(seq);
    }

    /// Where the log ends.
    pub fn end_position(&self) -> u64 {
        self.segments.last().map_or(0, |s| s.end)
    }

    /// Which events are acknowledged.
    pub fn tracker(&self) -> Tracker {
        let ranges = self.state.as_ref().filter(|s| s.log_id == self.log_id).map(|s| s.ranges.as_slice());
        Tracker::new(self.low_seq, self.low_position, ranges.unwrap_or_default())
    }

    /// Events not acknowledged.
    pub fn waiting(&self) -> u64 {
        (self.end_seq - self.low_seq).saturating_sub(self.tracker().acked_above())
    }

    /// Bytes of log between two positions: frames with their headers and padding.
    pub fn bytes_between(&self, from: u64, to: u64) -> u64 {
        let part = |s: &SegmentView| s.end.min(to).saturating_sub(s.header.first_frame().max(from));
        self.segments.iter().map(part).sum()
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> u64 {
        self.bytes_between(self.low_position, u64::MAX)
    }

    /// When the oldest event that waits was written, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`WalError::Io`].
    pub async fn oldest_ms(&self, io: &Io) -> Result<Option<u64>, WalError> {
        if self.waiting() == 0 {
            return Ok(None);
        }
        let mut walk = Walk::from(self, io, self.low_position);
        while let Some(step) = walk.next().await? {
            if let Step::Frame(frame) = step
                && frame.header.kind == FrameKind::Data
                && frame.end_seq() > self.low_seq
            {
                return Ok(Some(frame.header.time_ms));
            }
        }
        Ok(None)
    }

    fn open_payload(
        &self,
        segment: &SegmentView,
        header: FrameHeader,
        stored: Bytes,
    ) -> Result<Option<(FrameHeader, Bytes)>, WalError> {
        let payload = match &self.cipher {
            Some(cipher) => open_payload(cipher, &header, stored, &segment.path)?,
            None if header.has(FLAG_ENCRYPTED) => Some(Bytes::new()),
            None => Some(stored),
        };
        Ok(payload.map(|payload| (header, payload)))
    }

    /// True if a segment still is what it was when the view was made.
    async fn is_there(&self, io: &Io, index: usize) -> bool {
        let segment = &self.segments[index];
        let Ok(file) = io.open(&segment.path, OpenOptions::READ).await else { return false };
        let Ok(block) = read_block(&*file, &segment.path, 0).await else { return false };
        segment.rebuilt || SegmentHeader::decode(&block).valid().as_ref() == Some(&segment.header)
    }
}

/// Reads the frames of a log in order, up to the end the view found.
pub struct Walk<'a> {
    view: &'a View,
    io: &'a Io,
    index: usize,
    frames: Option<Frames>,
    position: u64,
    next_seq: u64,
}

impl<'a> Walk<'a> {
    /// From the first frame on disk.
    pub fn all(view: &'a View, io: &'a Io) -> Self {
        Self::from(view, io, 0)
    }

    /// From a position where a frame starts.
    pub fn from(view: &'a View, io: &'a Io, position: u64) -> Self {
        let index = view.segments.partition_point(|s| s.end <= position);
        let next_seq = view.segments.get(index).map_or(0, |s| s.header.start_seq);
        let next_seq = if position > 0 { next_seq.max(view.low_seq) } else { next_seq };
        Self { view, io, index, frames: None, position, next_seq }
    }

    /// Where the next frame is looked for.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next frame, or what is wrong there; `None` at the end.
    ///
    /// # Errors
    /// [`WalError::Io`].
    pub async fn next(&mut self) -> Result<Option<Step>, WalError> {
        loop {
            let Some(segment) = self.view.segments.get(self.index) else { return Ok(None) };
            self.position = self.position.max(segment.header.first_frame());
            if self.position >= segment.end {
                self.index += 1;
                self.frames = None;
                continue;
            }
            if self.frames.is_none() {
                match Frames::open(self.io, segment, self.view.log_id, segment.end).await {
                    Ok(frames) => self.frames = Some(frames),
                    Err(WalError::Io { error, .. }) if error.kind() == std::io::ErrorKind::NotFound => {
                        return Ok(Some(self.gone()));
                    }
                    Err(error) => return Err(error),
                }
            }
            let Some(frames) = &mut self.frames else { return Ok(None) };
            let read = match frames.read(self.position).await? {
                Some((header, stored)) => self.view.open_payload(segment, header, stored)?,
                None => None,
            };
            if let Some((header, payload)) = read {
                self.position = header.end();
                let frame = Frame { header, payload, segment: self.index };
                if frame.header.kind == FrameKind::Data {
                    self.next_seq = frame.end_seq();
                }
                return Ok(Some(Step::Frame(frame)));
            }
            let found = frames.find(self.position + 1).await?;
            if !self.view.is_there(self.io, self.index).await {
                return Ok(Some(self.gone()));
            }
            let resume = found.as_ref().map_or(segment.end, |f| f.position);
            let resume_seq = found.map_or(segment.end_seq, |f| f.first_seq);
            let damage = Damage {
                path: segment.path.clone(),
                offset: segment.offset(self.position),
                size: resume - self.position,
                events: Some(resume_seq.saturating_sub(self.next_seq)),
            };
            self.position = resume;
            self.next_seq = self.next_seq.max(resume_seq);
            return Ok(Some(Step::Damage(damage)));
        }
    }

    fn gone(&mut self) -> Step {
        if let Some(segment) = self.view.segments.get(self.index) {
            self.position = segment.end;
        }
        self.index += 1;
        self.frames = None;
        Step::Gone
    }
}
