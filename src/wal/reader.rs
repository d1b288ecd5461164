//! Reading: from the groups still in memory, else through a read mapping of the segment, verified.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use super::frame::{FrameHeader, FrameKind, HEADER_SIZE};
use super::frames::find_frame;
use super::segment::Segment;
use super::{Damage, Inner, OnDamage, WalError, open_payload};
use crate::io;

/// Groups kept in memory for the consumer: a consumer that keeps up never reads the disk. 16 large buffers.
pub(super) const KEEP_SIZE: usize = 8 << 20;
/// The same for a log without traffic.
const KEEP_SIZE_IDLE: usize = 256 << 10;
/// The disk is read this far ahead of the consumer: four reads at once keep a disk busy whose reads take
/// milliseconds beside the writes. A shard that catches up maps 8 MiB with what is not given back yet.
const AHEAD: u64 = 4 << 20;
/// One of those reads.
const READ: u64 = 1 << 20;
/// Pages behind the consumer are given back in pieces of this size.
const FORGET: u64 = 4 << 20;

/// A run of events as the log holds them.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Number of the first event.
    pub first_seq: u64,
    /// Number of events.
    pub events: u32,
    /// The record.
    pub payload: Bytes,
    /// When it was written, in milliseconds since 1970.
    pub time_ms: u64,
}

/// Where the consumer reads.
pub(super) struct Reader {
    pub(super) cursor: u64,
    pub(super) next_seq: u64,
    /// Pages up to here are in memory.
    ready_to: u64,
    /// Up to here they are being read, or are.
    asked_to: u64,
    /// The ends of the reads under way, in order, and which are done.
    reads: VecDeque<(u64, bool)>,
    forgot_to: u64,
    segment: Option<Rc<Segment>>,
    kept: VecDeque<(u64, Bytes)>,
    kept_size: usize,
    pub(super) damaged: Option<Damage>,
    pub(super) skipped: u64,
}

enum Step {
    Empty,
    Frame(Entry),
    /// Pages to bring in first.
    Fetch(Rc<Segment>, Range<u64>),
    /// A frame that cannot be read.
    Fault(Rc<Segment>),
}

impl Reader {
    pub(super) fn new(cursor: u64, next_seq: u64) -> Self {
        Self {
            cursor,
            next_seq,
            ready_to: 0,
            asked_to: 0,
            reads: VecDeque::new(),
            forgot_to: 0,
            segment: None,
            kept: VecDeque::new(),
            kept_size: 0,
            damaged: None,
            skipped: 0,
        }
    }

    /// Keeps a group for the consumer.
    pub(super) fn keep(&mut self, position: u64, data: Bytes) {
        // The memory held is that of the buffer, which may be larger than what is used of it.
        self.kept_size += data.len().max(super::writer::SMALL_SIZE);
        self.kept.push_back((position, data));
        self.limit(KEEP_SIZE);
    }
    fn limit(&mut self, size: usize) {
        while self.kept_size > size {
            let Some((_, data)) = self.kept.pop_front() else { break };
            self.kept_size -= data.len().max(super::writer::SMALL_SIZE);
        }
    }
    pub(super) fn trim(&mut self) {
        self.limit(KEEP_SIZE_IDLE);
    }
    /// True if the consumer reads in this segment.
    pub(super) fn is_in(&self, segment: &Rc<Segment>) -> bool {
        self.segment.as_ref().is_some_and(|s| Rc::ptr_eq(s, segment))
    }
    pub(super) fn skip_to(&mut self, position: u64) {
        self.cursor = self.cursor.max(position);
    }
    /// A read is done: what is ready without a gap.
    fn read_done(&mut self, end: u64) {
        if let Some(read) = self.reads.iter_mut().find(|(other, _)| *other == end) {
            read.1 = true;
        }
        while let Some((end, true)) = self.reads.front() {
            self.ready_to = self.ready_to.max(*end);
            self.reads.pop_front();
        }
    }
    /// A read failed: it and those behind it count as not asked for. The error comes again when the consumer
    /// gets there.
    fn read_failed(&mut self, range: &Range<u64>) {
        if let Some(index) = self.reads.iter().position(|(end, _)| *end == range.end) {
            self.reads.truncate(index);
            self.asked_to = range.start;
        }
    }
    /// The rest of the kept group that the cursor is in.
    fn at_hand(&mut self) -> Option<Bytes> {
        while let Some((position, data)) = self.kept.front() {
            if *position > self.cursor {
                return None;
            }
            let offset = (self.cursor - position) as usize;
            if offset < data.len() {
                return Some(data.slice(offset..));
            }
            self.kept_size -= data.len().max(super::writer::SMALL_SIZE);
            self.kept.pop_front();
        }
        None
    }
}

impl Inner {
    pub(super) fn is_at_hand(&self) -> bool {
        let mut reader = self.reader.borrow_mut();
        reader.cursor < self.visible.get() && reader.at_hand().is_some()
    }

    pub(super) async fn next(self: &Rc<Self>) -> Result<Option<Entry>, WalError> {
        loop {
            match self.step()? {
                Step::Empty => return Ok(None),
                Step::Frame(entry) => return Ok(Some(entry)),
                Step::Fetch(segment, range) => self.fetch(segment, range).await?,
                Step::Fault(segment) => self.fault(&segment).await?,
            }
        }
    }

    /// One step of reading; never waits. Whoever gets a frame has moved the cursor past it, so several
    /// takes may read at once and still every frame is read once and in order.
    fn step(self: &Rc<Self>) -> Result<Step, WalError> {
        let mut reader = self.reader.borrow_mut();
        let reader = &mut *reader;
        loop {
            if reader.cursor >= self.visible.get() {
                return Ok(Step::Empty);
            }
            let Some(segment) = self.locate(reader) else { return Ok(Step::Empty) };
            if reader.cursor >= self.visible.get() {
                return Ok(Step::Empty);
            }
            let position = reader.cursor;
            let limit = segment.end.get().min(segment.frames_limit());
            let (header, bytes) = if let Some(bytes) = reader.at_hand() {
                // Built here, checksummed, and still in the same memory.
                match FrameHeader::peek(&bytes, position, self.log_id) {
                    Ok(header) => (header, bytes),
                    Err(_) => return Ok(Step::Fault(segment)),
                }
            } else {
                if let Some(damage) = &reader.damaged {
                    return Err(WalError::Damaged(damage.clone()));
                }
                let available = limit.min(self.visible.get());
                if reader.ready_to < available.min(position + HEADER_SIZE as u64) {
                    return Ok(Step::Fetch(segment, position..available.min(position + READ)));
                }
                let map = match segment.map() {
                    Ok(map) => map,
                    Err(error) if error.kind() == std::io::ErrorKind::NotConnected => {
                        return Ok(Step::Fetch(segment, position..available.min(position + READ)));
                    }
                    Err(error) => return Err(WalError::io(&segment.path)(error)),
                };
                let from = segment.offset(position) as usize;
                let bytes = map.slice(from..segment.offset(limit) as usize);
                let header = match FrameHeader::peek(&bytes, position, self.log_id) {
                    Ok(header) if header.end() <= limit => header,
                    _ => return Ok(Step::Fault(segment)),
                };
                if header.end() > reader.ready_to {
                    return Ok(Step::Fetch(segment, position..header.end()));
                }
                if FrameHeader::read(&bytes, position, self.log_id).is_err() {
                    return Ok(Step::Fault(segment));
                }
                self.read_ahead(reader, &segment, available);
                (header, bytes)
            };
            let payload = match header.kind {
                FrameKind::Data => {
                    let stored = header.payload(&bytes);
                    match open_payload(&self.cipher, &header, stored, &segment.path)? {
                        Some(payload) => payload,
                        None => return Ok(Step::Fault(segment)),
                    }
                }
                FrameKind::Snapshot => Bytes::new(),
            };
            let end = header.end();
            let end_seq = header.first_seq + u64::from(header.events);
            self.moved.notify_waiters();
            let mut consumer = self.consumer.borrow_mut();
            let missing = header.first_seq.saturating_sub(reader.next_seq.max(consumer.tracker.low_seq));
            if header.kind == FrameKind::Data && missing > 0 {
                let damage = Damage {
                    path: segment.path.clone(),
                    offset: segment.offset(position),
                    size: 0,
                    events: Some(missing),
                };
                let channel = &self.options.channel;
                if self.options.on_damage == OnDamage::Stop {
                    tracing::error!(%channel, %damage, "events before this place are missing: takes stop here");
                    reader.damaged = Some(damage.clone());
                    return Err(WalError::Damaged(damage));
                }
                tracing::error!(%channel, %damage, "events before this place are missing: skipped");
            }
            reader.cursor = end;
            if header.kind == FrameKind::Data {
                if header.first_seq > reader.next_seq {
                    // Events that damage took: they are done with.
                    consumer.tracker.ack(reader.next_seq, header.first_seq);
                    reader.skipped += header.first_seq - reader.next_seq;
                }
                reader.next_seq = end_seq;
            }
            consumer.tracker.deliver(end_seq, position, end);
            let is_open = consumer.tracker.first_open(header.first_seq, end_seq).is_some();
            drop(consumer);
            if header.kind != FrameKind::Data || !is_open {
                continue;
            }
            let marks = (header.marks as usize).min(payload.len());
            return Ok(Step::Frame(Entry {
                first_seq: header.first_seq,
                events: header.events,
                payload: payload.slice(marks..),
                time_ms: header.time_ms,
            }));
        }
    }

    /// The segment the cursor is in; moves the cursor over the end of a segment.
    fn locate(&self, reader: &mut Reader) -> Option<Rc<Segment>> {
        if let Some(segment) = &reader.segment
            && reader.cursor >= segment.first_frame()
            && reader.cursor < segment.end.get()
        {
            return Some(segment.clone());
        }
        let segments = self.segments.borrow();
        let mut index = segments.partition_point(|s| s.base + s.size <= reader.cursor);
        while segments.get(index).is_some_and(|s| s.end.get() <= reader.cursor) {
            index += 1;
        }
        let segment = segments.get(index)?.clone();
        reader.cursor = reader.cursor.max(segment.first_frame());
        if let Some(old) = reader.segment.replace(segment.clone()) {
            old.release();
        }
        reader.forgot_to = reader.cursor;
        Some(segment)
    }

    /// Sees to it that these pages are in memory: waits for reads under way, or reads.
    async fn fetch(&self, segment: Rc<Segment>, range: Range<u64>) -> Result<(), WalError> {
        let pages = self.pages.notified();
        let is_asked = {
            let reader = self.reader.borrow();
            !reader.reads.is_empty() && reader.asked_to >= range.end
        };
        if is_asked {
            pages.await;
            return Ok(());
        }
        let end = range.end;
        self.bring_in(segment, range).await?;
        let mut reader = self.reader.borrow_mut();
        reader.ready_to = reader.ready_to.max(end);
        Ok(())
    }

    /// Brings pages in, off the core.
    async fn bring_in(&self, segment: Rc<Segment>, range: Range<u64>) -> Result<(), WalError> {
        let file = segment.open(&self.io).await.map_err(WalError::io(&segment.path))?;
        let offsets = segment.offset(range.start)..segment.offset(range.end);
        file.prefetch(offsets).await.map_err(WalError::io(&segment.path))
    }

    /// Keeps the disk reading ahead of the consumer, and gives back what is behind it.
    fn read_ahead(self: &Rc<Self>, reader: &mut Reader, segment: &Rc<Segment>, available: u64) {
        if reader.asked_to < reader.ready_to {
            // The consumer was somewhere else in between.
            reader.reads.clear();
            reader.asked_to = reader.ready_to;
        }
        // Small pieces are not worth a read each; the last one may be small.
        let to = available.min(reader.cursor + AHEAD);
        while reader.asked_to < to && (reader.asked_to + READ <= to || reader.reads.is_empty()) {
            let range = reader.asked_to..to.min(reader.asked_to + READ);
            reader.asked_to = range.end;
            reader.reads.push_back((range.end, false));
            let (inner, segment) = (self.clone(), segment.clone());
            io::spawn(async move {
                let outcome = inner.bring_in(segment, range.clone()).await;
                {
                    let mut reader = inner.reader.borrow_mut();
                    match outcome {
                        Ok(()) => reader.read_done(range.end),
                        Err(_) => reader.read_failed(&range),
                    }
                }
                inner.pages.notify_waiters();
            });
        }
        if reader.cursor - reader.forgot_to >= FORGET
            && let Some(file) = segment.file()
            && let Ok(map) = segment.map()
        {
            let range = segment.offset(reader.forgot_to)..segment.offset(reader.cursor);
            reader.forgot_to = reader.cursor;
            file.forget(&map, range);
        }
    }

    /// Deals with a frame that cannot be read: finds the next good one and says what lies between.
    async fn fault(self: &Rc<Self>, segment: &Rc<Segment>) -> Result<(), WalError> {
        let (position, next_seq) = {
            let reader = self.reader.borrow();
            (reader.cursor, reader.next_seq)
        };
        let limit = segment.end.get().min(segment.frames_limit()).min(self.visible.get());
        let found = find_frame(&self.io, segment, self.log_id, position + 1..limit).await?;
        let resume_seq = found.as_ref().map(|f| f.first_seq).or_else(|| self.seq_behind(segment));
        let resume = found.map_or(limit, |f| f.position);
        let damage = Damage {
            path: segment.path.clone(),
            offset: segment.offset(position),
            size: resume - position,
            events: resume_seq.map(|seq| seq.saturating_sub(next_seq)),
        };
        let channel = &self.options.channel;
        let mut reader = self.reader.borrow_mut();
        if reader.cursor != position {
            return Ok(());
        }
        // Without events (a snapshot of marks): nothing is lost by going on.
        let on_damage = if damage.events == Some(0) { OnDamage::Skip } else { self.options.on_damage };
        match on_damage {
            OnDamage::Stop => {
                tracing::error!(%channel, %damage, "the log is damaged: takes stop here");
                reader.damaged = Some(damage);
            }
            OnDamage::Skip => {
                tracing::error!(%channel, %damage, "the log is damaged: skipped");
                let mut consumer = self.consumer.borrow_mut();
                if let Some(seq) = resume_seq.filter(|seq| *seq > next_seq) {
                    consumer.tracker.ack(next_seq, seq);
                    reader.skipped += seq - next_seq;
                    reader.next_seq = seq;
                }
                let seq = reader.next_seq;
                consumer.tracker.deliver(seq, position, resume);
                reader.cursor = resume;
                consumer.store();
            }
        }
        Ok(())
    }

    /// Number of the first event behind a segment, if that is known.
    pub(super) fn seq_behind(&self, segment: &Segment) -> Option<u64> {
        let segments = self.segments.borrow();
        let next = segments.iter().find(|s| s.base > segment.base).map(|s| s.start_seq);
        segment.end_seq.get().or(next)
    }
}
