//! Looking at a log without owning it: for tools, offline or beside the agent that writes it.
//!
//! Nothing here changes a file or takes the lock. Which files count and where they end is found out by the very
//! code that opens a log (`listing`, `ends`), so that what a tool calls damaged is what an agent calls damaged.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use super::cipher::{Keys, LogCipher};
use super::ends::{self, Known};
use super::frame::{FLAG_ENCRYPTED, FLAG_FIRST, FrameHeader, FrameKind};
use super::frames::{Frames, read_exactly};
use super::listing::{self, Listing};
use super::recovery::{STATE_FILE, Start, boot};
use super::segment::{self, Segment, SegmentFooter, SegmentHeader};
use super::state::{PAGE_SIZE, State, Tracker, is_untouched};
use super::writer::SNAPSHOT_FIXED;
use super::{Damage, WalError, open_payload};
use crate::io::{Io, OpenOptions};

/// How often a directory that looks odd is listed again: a running agent may have been changing it.
const LOOKS: usize = 5;

/// A segment as its blocks describe it.
#[derive(Clone)]
pub struct SegmentView {
    /// The file.
    pub path: PathBuf,
    /// Its header block; rebuilt from a frame if the block is damaged.
    pub header: SegmentHeader,
    /// Its footer block, once it is sealed.
    pub footer: Option<SegmentFooter>,
    /// Where its frames end.
    pub end: u64,
    /// Number of the first event behind it.
    pub end_seq: u64,
    /// The header block could not be read.
    pub rebuilt: bool,
    /// The file has the name of another segment.
    pub misnamed: bool,
    /// There is a footer block and it cannot be read.
    pub footer_damaged: bool,
    /// Size of the file, if that is less than the header says.
    pub short: Option<u64>,
    segment: Rc<Segment>,
}

impl SegmentView {
    /// Offset in the file of a log position.
    pub fn offset(&self, position: u64) -> u64 {
        position - self.header.base
    }
}

/// What a log's directory holds.
#[derive(Clone)]
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
    /// Files that must have held events and hold nothing that can be read. An agent does not start with them,
    /// unless it is to skip what is damaged.
    pub lost: Vec<Damage>,
    /// Segments of another log, and files an agent put aside earlier: their events are not part of this log.
    pub aside: Vec<PathBuf>,
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

/// Something that is wrong with a log's files, beside what a [`Walk`] meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Nothing in a file can be read, and something must have been in it.
    Lost(Damage),
    /// A file was put aside, or belongs to another log.
    Aside(PathBuf),
    /// The state page is missing or damaged.
    NoState,
    /// A header block is damaged; the frames replace it.
    Header(PathBuf),
    /// A file has the name of another segment: the one that it is.
    Name(PathBuf, u64),
    /// A file is shorter than its header says: its size, and the size it should have.
    Short(PathBuf, u64, u64),
    /// A footer block is damaged.
    Footer(PathBuf),
    /// A footer does not say what the frames say: the file, what is counted, the footer's number, the frames'.
    FooterSum(PathBuf, &'static str, u64, u64),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(damage) => write!(
                f,
                "{}: nothing in it can be read; an agent starts without its events only with onDamage = skip",
                damage.path.display()
            ),
            Self::Aside(path) => write!(
                f,
                "{}: put aside, or of another log; it does not count any more",
                path.display()
            ),
            Self::NoState => f.write_str(
                "state: the consumer's position is missing or damaged; events that were delivered may come again",
            ),
            Self::Header(path) => {
                write!(f, "{}: the header is damaged; the frames replace it", path.display())
            }
            Self::Name(path, number) => {
                write!(f, "{}: the file should be named {}", path.display(), segment::file_name(*number))
            }
            Self::Short(path, size, wanted) => {
                write!(f, "{}: the file has {size} bytes instead of {wanted}", path.display())
            }
            Self::Footer(path) => write!(f, "{}: the footer is damaged; the frames replace it", path.display()),
            Self::FooterSum(path, what, footer, frames) => write!(
                f,
                "{}: the footer is wrong: {what} {footer}, by the frames {frames}",
                path.display()
            ),
        }
    }
}

/// Adds up the frames of segments, to hold the sums against their footers. Fed with what a [`Walk::all`] gives.
pub struct FooterSums<'a> {
    view: &'a View,
    index: usize,
    end: u64,
    end_seq: u64,
    end_bytes: u64,
    snapshot: u64,
    times: Option<(u64, u64)>,
    whole: bool,
    problems: Vec<Problem>,
}

impl<'a> FooterSums<'a> {
    /// Sums of a log.
    pub fn new(view: &'a View) -> Self {
        let mut sums = Self {
            view,
            index: 0,
            end: 0,
            end_seq: 0,
            end_bytes: 0,
            snapshot: 0,
            times: None,
            whole: true,
            problems: Vec::new(),
        };
        sums.start(0);
        sums
    }
    fn start(&mut self, index: usize) {
        self.index = index;
        (self.snapshot, self.times) = (0, None);
        if let Some(segment) = self.view.segments.get(index) {
            self.end = segment.header.first_frame();
            (self.end_seq, self.end_bytes) = (segment.header.start_seq, segment.header.start_bytes);
            // A header that was made again does not know how many bytes went before.
            self.whole = !segment.rebuilt;
        }
    }
    fn finish(&mut self) {
        let Some(segment) = self.view.segments.get(self.index) else { return };
        let Some(footer) = &segment.footer else { return };
        let (oldest, newest) = self.times.unwrap_or_default();
        // The next file knows where this one ends.
        let next = self.view.segments.get(self.index + 1).filter(|s| !s.rebuilt).map(|s| &s.header);
        let told = next.filter(|h| h.previous == segment.header.number).map(|h| h.previous_end);
        let sums = [
            ("the frames end at", footer.end, told.unwrap_or(self.end), told.is_some() || self.whole),
            ("the events end at number", footer.end_seq, self.end_seq, self.whole),
            ("bytes of records so far", footer.end_bytes, self.end_bytes, self.whole),
            ("the last snapshot lies at", footer.snapshot, self.snapshot, self.whole),
            ("the first frame is of", footer.oldest_ms, oldest, self.whole),
            ("the last frame is of", footer.newest_ms, newest, self.whole),
        ];
        for (what, said, counted, comparable) in sums {
            if comparable && said != counted {
                self.problems.push(Problem::FooterSum(segment.path.clone(), what, said, counted));
            }
        }
    }
    /// A step of the walk.
    pub fn step(&mut self, step: &Step) {
        let Step::Frame(frame) = step else {
            self.whole = false;
            return;
        };
        while self.index < frame.segment {
            self.finish();
            self.start(self.index + 1);
        }
        let header = &frame.header;
        self.end = header.end();
        match header.kind {
            FrameKind::Data => {
                self.end_seq = frame.end_seq();
                self.end_bytes += u64::from(header.raw - header.marks);
            }
            FrameKind::Snapshot if header.has(FLAG_FIRST) => self.snapshot = header.position,
            FrameKind::Snapshot => {}
        }
        self.times = Some((self.times.map_or(header.time_ms, |(first, _)| first), header.time_ms));
    }
    /// What does not agree.
    pub fn problems(mut self) -> Vec<Problem> {
        while self.index < self.view.segments.len() {
            self.finish();
            self.start(self.index + 1);
        }
        self.problems
    }
}

impl View {
    /// Looks at a directory: state page, headers, footers, and the frames behind the last snapshot.
    ///
    /// # Errors
    /// [`WalError::Io`], [`WalError::Newer`].
    pub async fn open(io: &Io, directory: &Path) -> Result<Self, WalError> {
        let run = boot(io).await;
        let (mut state, mut untouched, mut listing) = look(io, directory, run).await?;
        for _ in 1..LOOKS {
            let before = state.as_ref().map(|s| s.generation);
            if !listing.is_odd() {
                break;
            }
            (state, untouched, listing) = look(io, directory, run).await?;
            if state.as_ref().map(|s| s.generation) == before {
                break;
            }
        }
        let log_id = listing.log_id.unwrap_or(0);
        let state = state.filter(|s| s.log_id == log_id);
        let known = Known::new(state.as_ref(), run).or_untouched(untouched);
        let ends = ends::find(io, &listing.live, log_id, None, known).await?;
        listing.live.truncate(ends.keep);
        let noted = listing.live.iter().map(|f| (f.header.low_seq, f.header.low_position)).max();
        let first = listing.live.first().map(|f| &f.header);
        let start = Start::new(first, &ends.end, state.clone(), noted.unwrap_or_default());
        let segments = listing.live.into_iter().zip(ends.seqs).map(|(found, end_seq)| SegmentView {
            path: found.segment.path.clone(),
            header: found.header,
            footer: found.footer,
            end: found.segment.end.get(),
            end_seq,
            rebuilt: found.rebuilt,
            misnamed: found.misnamed,
            footer_damaged: found.footer_damaged,
            short: found.short,
            segment: found.segment,
        });
        let mut aside = listing.foreign;
        aside.extend(listing.aside);
        aside.sort();
        Ok(Self {
            directory: directory.to_owned(),
            log_id,
            state,
            low_seq: start.seq,
            low_position: start.position,
            segments: segments.collect(),
            end_seq: ends.end.seq.max(start.seq),
            torn_bytes: ends.end.torn,
            cipher: None,
            lost: listing.lost,
            aside,
        })
    }

    /// The keys to read payloads with. Without this call a walk gives encrypted payloads empty.
    pub fn set_keys(&mut self, keys: &Keys) {
        self.cipher = Some(Rc::new(LogCipher::new(keys, self.log_id, 0)));
    }

    /// What is wrong with the files as such.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.lost.iter().cloned().map(Problem::Lost).collect();
        problems.extend(self.aside.iter().cloned().map(Problem::Aside));
        if self.state.is_none() && !self.segments.is_empty() {
            problems.push(Problem::NoState);
        }
        for segment in &self.segments {
            let path = &segment.path;
            if segment.rebuilt {
                problems.push(Problem::Header(path.clone()));
            }
            if segment.misnamed {
                problems.push(Problem::Name(path.clone(), segment.header.number));
            }
            if let Some(size) = segment.short {
                problems.push(Problem::Short(path.clone(), size, segment.header.size));
            }
            if segment.footer_damaged {
                problems.push(Problem::Footer(path.clone()));
            }
        }
        problems
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
        let Ok(block) = listing::read_block(&*file, &segment.path, 0).await else { return false };
        segment.rebuilt || SegmentHeader::decode(&block).valid().as_ref() == Some(&segment.header)
    }
}

/// The state page, whether it is as it was made, and the files of a directory.
async fn look(io: &Io, directory: &Path, run: u64) -> Result<(Option<State>, bool, Listing), WalError> {
    // The page first: whatever it says is durable is in the segments listed after it.
    let path = directory.join(STATE_FILE);
    let (state, untouched) = match io.open(&path, OpenOptions::READ).await {
        Ok(file) => {
            let page = read_exactly(&*file, &path, 0, PAGE_SIZE).await?;
            (State::from_page(&page), is_untouched(&page))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (None, false),
        Err(error) => return Err(WalError::io(&path)(error)),
    };
    let durable = Known::new(state.as_ref(), run).durable;
    let listing = listing::list(io, directory, state.as_ref(), durable).await?;
    Ok((state, untouched, listing))
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
                match Frames::open(self.io, &segment.segment, self.view.log_id, segment.end).await {
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
                let missing = header.first_seq.saturating_sub(self.next_seq.max(self.view.low_seq));
                if header.kind == FrameKind::Data && missing > 0 {
                    // As an agent's takes see it: what was here is in no file.
                    self.next_seq = header.first_seq;
                    return Ok(Some(Step::Damage(Damage {
                        path: segment.path.clone(),
                        offset: segment.offset(self.position),
                        size: 0,
                        events: Some(missing),
                    })));
                }
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
            let next = || self.view.segments.get(self.index + 1).map(|s| s.header.start_seq);
            let resume_seq =
                found.map(|f| f.first_seq).or_else(|| segment.segment.end_seq.get()).or_else(next);
            let damage = Damage {
                path: segment.path.clone(),
                offset: segment.offset(self.position),
                size: resume - self.position,
                events: resume_seq.map(|seq| seq.saturating_sub(self.next_seq.max(self.view.low_seq))),
            };
            self.position = resume;
            self.next_seq = self.next_seq.max(resume_seq.unwrap_or(0));
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
