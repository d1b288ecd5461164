//! Opening a log: what is there, where it ends, what was acknowledged.
//!
//! Reads the state page, the header and footer of each segment, and the frames behind the last snapshot of
//! marks that is known to be durable: time depends on neither the backlog nor the size of the segments.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::{Path, PathBuf};

use tokio::sync::{Notify, Semaphore};

use super::cipher::{CipherFault, LogCipher};
use super::frame::{
    FLAG_ENCRYPTED, FLAG_FIRST, FLAG_LAST, FrameHeader, FrameKind, HEADER_SIZE, MAGIC, u64_at,
};
use super::listing::{self, Found};
use super::marks::MarkTable;
use super::reader::Reader;
use super::segment::{self, Segment};
use super::state::{PAGE_SIZE, State, StatePage, Tracker};
use super::writer::{SNAPSHOT_FIXED, Writer};
use super::{Consumer, Inner, LogOptions, Recovered, WalError, create_directory, open_payload};
use crate::component::stable_hash;
use crate::io::{Io, OpenOptions};

/// Name of the state page in a log's directory.
pub const STATE_FILE: &str = "state";
/// Name of the lock in a log's directory.
pub const LOCK_FILE: &str = "in_use.lock";
/// Segments are read in pieces of this size.
const WINDOW: u64 = 1 << 20;

/// Path of a copy of a log's state page.
pub(super) fn copy_path(directory: &Path, log_id: u64) -> PathBuf {
    directory.join(format!("{log_id:016x}.state"))
}

/// What the frames say.
struct End {
    position: u64,
    seq: u64,
    bytes: u64,
    torn: u64,
}

/// Reads frames one after another.
struct Frames<'a> {
    io: &'a Io,
    segment: &'a Segment,
    log_id: u64,
    limit: u64,
    ready_to: u64,
}

impl<'a> Frames<'a> {
    fn new(io: &'a Io, segment: &'a Segment, log_id: u64, limit: u64) -> Self {
        Self { io, segment, log_id, limit, ready_to: 0 }
    }
    /// The bytes from a position on, with at least `size` of them in memory.
    async fn bytes(&mut self, position: u64, size: u64) -> Result<bytes::Bytes, WalError> {
        let wrap = |error| WalError::io(&self.segment.path)(error);
        let file = self.segment.open(self.io).await.map_err(wrap)?;
        let end = (position + size).min(self.limit);
        if end > self.ready_to {
            let to = end.max(position + WINDOW).min(self.limit);
            let range = self.segment.offset(position)..self.segment.offset(to);
            file.prefetch(range).await.map_err(wrap)?;
            self.ready_to = to;
        }
        let map = self.segment.map().map_err(wrap)?;
        Ok(map.slice(self.segment.offset(position) as usize..self.segment.offset(self.limit) as usize))
    }
    /// The frame at a position, verified, with its payload; `None` if there is none.
    async fn read(&mut self, position: u64) -> Result<Option<(FrameHeader, bytes::Bytes)>, WalError> {
        if position + HEADER_SIZE as u64 > self.limit {
            return Ok(None);
        }
        let bytes = self.bytes(position, HEADER_SIZE as u64).await?;
        let Ok(header) = FrameHeader::peek(&bytes, position, self.log_id) else { return Ok(None) };
        if header.end() > self.limit {
            return Ok(None);
        }
        let bytes = self.bytes(position, u64::from(header.length)).await?;
        let valid = FrameHeader::read(&bytes, position, self.log_id).is_ok();
        Ok(valid.then(|| (header.clone(), header.payload(&bytes))))
    }
    /// The first good frame at or behind a position.
    async fn find(&mut self, from: u64) -> Result<Option<FrameHeader>, WalError> {
        let finder = memchr::memmem::Finder::new(&MAGIC);
        let mut position = from.next_multiple_of(8);
        while position + HEADER_SIZE as u64 <= self.limit {
            let end = (position + WINDOW).min(self.limit);
            let bytes = self.bytes(position, end - position).await?;
            let window = &bytes[..(end - position) as usize];
            for at in finder.find_iter(window).filter(|at| at % 8 == 0) {
                let place = position + at as u64;
                let fits = FrameHeader::peek(&bytes[at..], place, self.log_id).is_ok();
                if fits && let Some((header, _)) = self.read(place).await? {
                    return Ok(Some(header));
                }
            }
            position = end;
        }
        Ok(None)
    }
}

/// The first good frame in a range of a segment.
pub(super) async fn find_frame(
    io: &Io,
    segment: &Segment,
    log_id: u64,
    range: Range<u64>,
) -> Result<Option<FrameHeader>, WalError> {
    Frames::new(io, segment, log_id, range.end).find(range.start).await
}

/// See [`super::Log::open`].
pub(super) async fn open(io: &Io, options: LogOptions) -> Result<(Inner, Recovered), WalError> {
    let directory = options.directory.clone();
    let at = |error| WalError::io(&directory)(error);
    create_directory(io, &directory).await.map_err(at)?;
    let lock = io.lock(&directory.join(LOCK_FILE)).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => WalError::Locked(directory.clone()),
        _ => at(error),
    })?;
    let boot = boot(io).await;
    let (page, stored) = open_page(io, &directory).await?;
    let mut listing = listing::list(io, &options, stored.as_ref()).await?;
    let log_id = listing.log_id.unwrap_or_else(|| io.random().max(1));
    let cipher = LogCipher::new(&options.keys, log_id, io.random());
    check_keys(io, &listing.live, log_id, &cipher).await?;
    let mut state = stored.filter(|s| s.log_id == log_id);
    if state.is_none() && !listing.live.is_empty() {
        state = read_copies(io, &options.copies, log_id).await;
        tracing::warn!(
            channel = %options.channel, directory = %directory.display(), from_copy = state.is_some(),
            "the consumer's position is missing or damaged; events that were delivered may come again"
        );
    }
    let mapped = listing.live.last().is_some_and(|f| f.header.mapped);
    let exact = boot != 0 && state.as_ref().is_some_and(|s| s.boot == boot);
    // Written in another run of the kernel, the page of a mapped log may be ahead of it.
    let durable = state.as_ref().filter(|_| exact || !mapped).map_or(0, |s| s.durable);
    let snapshot = state.as_ref().map_or(0, |s| s.snapshot);
    let end = find_end(io, &options, &cipher, &mut listing.live, log_id, durable, exact, snapshot).await?;
    listing::repair(io, &listing.live).await?;
    for file in &listing.dropped {
        io.remove_file(file).await.map_err(WalError::io(file))?;
    }
    let (marks, noted) = read_marks(io, &cipher, &listing.live, log_id, snapshot).await?;

    // Where the consumer goes on.
    let first = listing.live.first().map(|f| (f.header.first_frame(), f.header.start_seq));
    let (first_position, first_seq) = first.unwrap_or((end.position, end.seq));
    let (mut low_seq, mut low_position, mut ranges) = match state {
        Some(state) => (state.low_seq, state.low_position, state.ranges),
        None => (noted.0, noted.1, Vec::new()),
    };
    if low_position < first_position {
        (low_seq, low_position) = (low_seq.max(first_seq), first_position);
    }
    if low_seq >= end.seq || low_position > end.position {
        low_position = end.position;
        low_seq = low_seq.max(end.seq);
    }
    let next_seq = end.seq.max(low_seq);
    ranges.retain(|(_, to)| *to <= next_seq);
    let tracker = Tracker::new(low_seq, low_position, &ranges);

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
    let state = State { log_id, boot, durable: end.position, ..State::default() };
    let generation = listing.generation;
    let mut consumer =
        Consumer { page: Some(page), state: State { generation, ..state }, tracker, dirty: false };
    if !listing.live.is_empty() {
        consumer.store();
    }
    let inner = Inner {
        io: io.clone(),
        log_id,
        cipher,
        segments: RefCell::new(listing.live.into_iter().map(|f| f.segment).collect()),
        writer: RefCell::new(writer),
        turn: Semaphore::new(1),
        preparing: Semaphore::new(1),
        spare: Cell::new(listing.spare),
        room: Notify::new(),
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
async fn open_page(io: &Io, directory: &Path) -> Result<(StatePage, Option<State>), WalError> {
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
    Ok((StatePage::new(map), State::from_page(&bytes)))
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
    best.map(|state| State { durable: 0, boot: 0, ..state })
}

/// Refuses a log with frames under a key that is not there: the first frame of each segment tells.
async fn check_keys(io: &Io, live: &[Found], log_id: u64, cipher: &LogCipher) -> Result<(), WalError> {
    for found in live {
        let (segment, position) = (&found.segment, found.segment.first_frame());
        let file = segment.open(io).await.map_err(WalError::io(&segment.path))?;
        let head = listing::read_block(&*file, &segment.path, segment::BLOCK_SIZE).await?;
        segment.release();
        if let Ok(header) = FrameHeader::peek(&head, position, log_id)
            && header.has(FLAG_ENCRYPTED)
            && let Err(CipherFault::Key(keys)) = cipher.key_of(head.get(HEADER_SIZE..).unwrap_or_default())
        {
            return Err(WalError::NoKey { path: segment.path.clone(), keys });
        }
    }
    Ok(())
}

/// Sets the end of every segment and finds that of the log; drops segments behind it from the list.
#[expect(clippy::too_many_arguments, reason = "one call, and each is a different fact about the log")]
async fn find_end(
    io: &Io,
    options: &LogOptions,
    cipher: &LogCipher,
    live: &mut Vec<Found>,
    log_id: u64,
    durable: u64,
    exact: bool,
    snapshot: u64,
) -> Result<End, WalError> {
    let mut end = End { position: 0, seq: 0, bytes: 0, torn: 0 };
    let mut index = 0;
    while index < live.len() {
        let found = &live[index];
        let number = found.header.number;
        let successor = live.get(index + 1).filter(|f| f.header.previous == number);
        let informed = successor.filter(|f| !f.rebuilt).map(|f| &f.header);
        // A later open says where the segment really ended; otherwise its own footer does, or that
        // something behind it was durable.
        let known = informed.filter(|h| h.reopened || h.first_frame() <= durable);
        let sealed = match (known, &found.footer) {
            (Some(h), _) if h.reopened => Some((h.previous_end, h.start_seq, h.start_bytes)),
            (_, Some(footer)) => Some((footer.end, footer.end_seq, footer.end_bytes)),
            (Some(h), None) => Some((h.previous_end, h.start_seq, h.start_bytes)),
            (None, None) => None,
        };
        if let Some((position, seq, bytes)) = sealed {
            found.segment.end.set(position);
            if found.footer.is_none() && !opens_with_snapshot(io, &found.segment, log_id).await? {
                found.segment.opening_end.set(u64::MAX);
            }
            end = End { position, seq, bytes, torn: 0 };
            index += 1;
            continue;
        }
        let expected = Expected {
            position: informed.map(|h| h.previous_end),
            seq: successor.filter(|f| f.rebuilt).map(|f| f.header.start_seq),
        };
        if !opens_with_snapshot(io, &found.segment, log_id).await? {
            found.segment.opening_end.set(u64::MAX);
        }
        let mut known = Known { durable, exact, snapshot };
        let gap = loop {
            let torn = end.torn;
            let gap = scan(io, options, cipher, found, log_id, &known, &expected, &mut end).await?;
            // Something in a later segment may say that this is damage and not where the log ended.
            let Some(at) = gap.filter(|_| !exact) else { break gap };
            let Some(claim) = later_claim(io, &live[index + 1..], log_id, at).await? else { break gap };
            known.durable = claim;
            end.torn = torn;
        };
        found.segment.end.set(end.position);
        if gap.is_some() {
            // Whatever follows was never acknowledged.
            for dropped in live.drain(index + 1..) {
                end.torn += dropped.header.size;
                let path = &dropped.segment.path;
                tracing::info!(channel = %options.channel, file = %path.display(), "a log file behind the torn end is dropped");
                io.remove_file(path).await.map_err(WalError::io(path))?;
            }
        }
        index += 1;
    }
    if end.torn > 0 {
        tracing::info!(
            channel = %options.channel, directory = %options.directory.display(), bytes = end.torn,
            "cut the torn end of the log: transactions that were never acknowledged"
        );
    }
    Ok(end)
}

/// True if the snapshot of marks at the start of a segment is whole: otherwise they are only in segments
/// before it, which must then be kept.
async fn opens_with_snapshot(io: &Io, segment: &Segment, log_id: u64) -> Result<bool, WalError> {
    let mut frames = Frames::new(io, segment, log_id, segment.frames_limit());
    let mut position = segment.first_frame();
    while let Some((header, _)) = frames.read(position).await? {
        if header.kind != FrameKind::Snapshot {
            break;
        }
        if header.has(FLAG_LAST) {
            return Ok(true);
        }
        position = header.end();
    }
    Ok(false)
}

/// What the state page knows.
struct Known {
    /// Everything before it was durable.
    durable: u64,
    /// And nothing behind it was.
    exact: bool,
    snapshot: u64,
}

/// What the segment behind one knows of its end.
struct Expected {
    position: Option<u64>,
    seq: Option<u64>,
}

/// A watermark beyond a position that a frame in one of these segments claims.
async fn later_claim(io: &Io, later: &[Found], log_id: u64, position: u64) -> Result<Option<u64>, WalError> {
    for found in later {
        let segment = &found.segment;
        let mut frames = Frames::new(io, segment, log_id, segment.frames_limit());
        let mut from = segment.first_frame();
        while let Some(header) = frames.find(from).await? {
            if header.durable > position {
                return Ok(Some(header.durable));
            }
            from = header.end();
        }
    }
    Ok(None)
}

/// Reads the frames of a segment that was not sealed. `None` if it ends where the segment behind it says, or
/// if what cannot be read is damage; otherwise where its frames end, which is the end of the log.
#[expect(clippy::too_many_arguments, reason = "one call, and each is a different fact about the log")]
async fn scan(
    io: &Io,
    options: &LogOptions,
    cipher: &LogCipher,
    found: &Found,
    log_id: u64,
    known: &Known,
    expected: &Expected,
    end: &mut End,
) -> Result<Option<u64>, WalError> {
    let &Known { durable, exact, snapshot } = known;
    let segment = &found.segment;
    let limit = segment.frames_limit();
    let mut frames = Frames::new(io, segment, log_id, limit);
    let mut position = segment.first_frame();
    *end = End { position, seq: found.header.start_seq, bytes: found.header.start_bytes, torn: end.torn };
    // Everything before a snapshot known to be durable need not be read.
    if (position..limit).contains(&snapshot)
        && snapshot <= durable
        && let Some((header, stored)) = frames.read(snapshot).await?
        && header.kind == FrameKind::Snapshot
        && let Some(payload) = open_payload(cipher, &header, stored, &segment.path)?
        && payload.len() >= SNAPSHOT_FIXED
    {
        position = snapshot;
        *end = End { position, seq: header.first_seq, bytes: u64_at(&payload, 16), torn: end.torn };
    }
    // Makes certain that what is read here will still be there after a power loss.
    let file = segment.open(io).await.map_err(WalError::io(&segment.path))?;
    file.sync_data().await.map_err(WalError::io(&segment.path))?;
    let mut gap = None;
    let (mut seq, mut bytes) = (end.seq, end.bytes);
    let mut open = false;
    loop {
        while let Some((header, _)) = frames.read(position).await? {
            position = header.end();
            if header.kind == FrameKind::Data {
                seq = header.first_seq + u64::from(header.events);
                bytes += u64::from(header.raw - header.marks);
                open = !header.has(FLAG_LAST);
            }
            if !open {
                *end = End { position, seq, bytes, torn: end.torn };
            }
        }
        let is_end = expected.position == Some(position) || (expected.seq == Some(seq) && !open);
        if is_end || position >= limit {
            break;
        }
        // No frame here. If something behind it was durable, this is damage; in the run of the kernel
        // that wrote the state page, that page knows.
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
            end.torn += position - end.position + stray;
            gap = Some(position);
            break;
        }
        let resume = frames.find(position + 1).await?.map(|h| h.position);
        tracing::error!(
            channel = %options.channel, file = %segment.path.display(), offset = segment.offset(position),
            bytes = resume.unwrap_or(durable.min(limit)).saturating_sub(position),
            "the log is damaged here; takes go on up to this place"
        );
        match resume {
            Some(resume) => position = resume,
            None => {
                let known = expected.position.unwrap_or(durable).clamp(position, limit);
                *end = End { position: known, seq, bytes, torn: end.torn };
                break;
            }
        }
    }
    Ok(gap)
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
            let mut frames = Frames::new(io, segment, log_id, limit);
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
            segment.release();
        }
        if whole || start == 0 {
            return Ok((table, noted));
        }
    }
    Ok((MarkTable::default(), noted))
}
