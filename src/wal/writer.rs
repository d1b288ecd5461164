//! Appending: frames are built in place in aligned buffers, sealed in groups, written up to four at a time,
//! and count in order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use tokio::sync::oneshot;

use super::frame::{self, FRAME_ALIGN, FrameHeader, FrameKind, HEADER_SIZE, frame_size};
use super::marks::{self, Mark, MarkTable};
use super::prepare::Prepared;
use super::segment::{BLOCK_SIZE, Segment, SegmentFooter};
use super::{IN_FLIGHT_MAX, Inner, Record, WalError};
use crate::io::buffer::{BLOCK, BufferPool, PooledBuf};
use crate::io::{self, File, MapMut};

/// Buffer while the disk keeps up: what an idle log holds.
pub(super) const SMALL_SIZE: usize = 64 << 10;
/// Buffer under load. Larger frames get one of their own.
pub(super) const LARGE_SIZE: usize = 512 << 10;
/// A group is written at once when it has reached this size and a write may start; smaller ones wait for a
/// write to complete. 128 to 512 KiB a write is where the disk is full and latency still low.
const GROUP_SIZE: usize = 192 << 10;
/// Appenders wait while this much is built and not written: the four writes in flight and two groups more.
const UNWRITTEN_MAX: usize = (IN_FLIGHT_MAX + 2) * LARGE_SIZE;
/// A snapshot of the marks is due after this many bytes, or after 32 times its own size: recovery reads from
/// the last one, and it costs at most a thirty-second part of what is written.
const SNAPSHOT_EVERY: u64 = 4 << 20;
/// Largest frame of a snapshot in bytes; larger tables take several.
const SNAPSHOT_FRAME_SIZE: usize = 256 << 10;
/// Bytes at the start of a snapshot before its marks: consumer's low watermark and position, bytes of records.
pub(super) const SNAPSHOT_FIXED: usize = 24;

/// Resolves when what was appended is as durable as the log promises.
#[derive(Debug)]
pub struct Commit {
    done: oneshot::Receiver<Result<(), WalError>>,
}

impl Future for Commit {
    type Output = Result<(), WalError>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.done).poll(cx));
        Poll::Ready(answer.unwrap_or(Err(WalError::Closed)))
    }
}

/// What the writer holds.
pub(super) struct Writer {
    pub(super) active: Option<Active>,
    pub(super) prepared: Option<Prepared>,
    building: Option<Building>,
    /// Groups sealed and not yet durable, in log order; the first `issued` are with the kernel.
    flights: VecDeque<Flight>,
    issued: usize,
    first_flight: u64,
    pub(super) in_flight: usize,
    unwritten: usize,
    flush_scheduled: bool,
    /// Where the next group starts.
    pub(super) next: u64,
    /// Number of the next event.
    pub(super) next_seq: u64,
    /// Bytes of records so far.
    pub(super) total_bytes: u64,
    waiters: VecDeque<(u64, oneshot::Sender<Result<(), WalError>>)>,
    pub(super) marks: MarkTable,
    /// Snapshots built and not yet durable: start and end.
    snapshots: VecDeque<(u64, u64)>,
    last_snapshot: u64,
    /// Footers to write once everything before them is durable.
    footers: VecDeque<Sealing>,
    small: BufferPool,
    large: BufferPool,
    /// Appends since the housekeeper last looked.
    pub(super) appended: bool,
    /// Where the log must be numbered and placed on: the next segment.
    pub(super) next_number: u64,
    pub(super) next_base: u64,
    pub(super) previous: (u64, u64),
    pub(super) reopened: bool,
    pub(super) segment_size: u64,
    /// Bytes available and required, while there is too little space.
    pub(super) short_of_space: Option<(u64, u64)>,
    pub(super) space_checked: Duration,
}

/// The segment being written.
pub(super) struct Active {
    pub(super) segment: Rc<Segment>,
    pub(super) file: Rc<dyn File>,
    pub(super) map: Option<Rc<RefCell<Box<dyn MapMut>>>>,
    pub(super) opened: Duration,
    pub(super) oldest_ms: u64,
    pub(super) newest_ms: u64,
    pub(super) has_data: bool,
}

/// A segment that was left and the footer it is to get.
pub(super) struct Sealing {
    pub(super) file: Rc<dyn File>,
    pub(super) map: Option<Rc<RefCell<Box<dyn MapMut>>>>,
    pub(super) segment: Rc<Segment>,
    pub(super) footer: SegmentFooter,
}

struct Building {
    buf: PooledBuf,
    position: u64,
    used: usize,
    last: usize,
}

impl Building {
    fn end(&self) -> u64 {
        self.position + self.used as u64
    }
}

struct Flight {
    /// Not yet with the kernel.
    data: Option<Bytes>,
    file: Rc<dyn File>,
    map: Option<Rc<RefCell<Box<dyn MapMut>>>>,
    segment: Rc<Segment>,
    offset: u64,
    size: usize,
    end: u64,
    /// The end of the last whole transaction in it or before.
    visible: u64,
    done: bool,
}

struct Spec {
    kind: FrameKind,
    flags: u8,
    events: u32,
    payload: usize,
    marks: usize,
}

impl Writer {
    pub(super) fn new(next_number: u64, next_base: u64, segment_size: u64) -> Self {
        Self {
            active: None,
            prepared: None,
            building: None,
            flights: VecDeque::new(),
            issued: 0,
            first_flight: 0,
            in_flight: 0,
            unwritten: 0,
            flush_scheduled: false,
            next: next_base,
            next_seq: 0,
            total_bytes: 0,
            waiters: VecDeque::new(),
            marks: MarkTable::default(),
            snapshots: VecDeque::new(),
            last_snapshot: 0,
            footers: VecDeque::new(),
            small: small_pool(),
            large: large_pool(),
            appended: false,
            next_number,
            next_base,
            previous: (0, 0),
            reopened: true,
            segment_size,
            short_of_space: None,
            space_checked: Duration::ZERO,
        }
    }

    /// Where the next frame starts.
    fn end(&self) -> u64 {
        self.building.as_ref().map_or(self.next, Building::end)
    }

    /// True if nothing is built or on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.building.is_none() && self.flights.is_empty()
    }

    /// The footer queued last, to be written by the caller.
    pub(super) fn take_footer(&mut self) -> Option<Sealing> {
        self.footers.pop_back()
    }

    /// Gives unused buffers back to the system.
    pub(super) fn trim(&mut self) {
        self.small = small_pool();
        self.large = large_pool();
    }

    /// Bytes a snapshot takes at most, padding included.
    pub(super) fn snapshot_size(&self) -> u64 {
        let marks = self.marks.encoded_size();
        let frames = marks / SNAPSHOT_FRAME_SIZE + 2;
        // A mark may be cut off from a full frame: one mark of slack each, and padding.
        (marks + frames * (HEADER_SIZE + SNAPSHOT_FIXED + BLOCK)) as u64 * 2
    }
}

/// 4 spare: 256 KiB.
fn small_pool() -> BufferPool {
    BufferPool::new(SMALL_SIZE, 4)
}
/// Under load a buffer is being filled, four are written and some are read: 8 spare, 4 MiB, given back when
/// the log is idle.
fn large_pool() -> BufferPool {
    BufferPool::new(LARGE_SIZE, 8)
}

impl Inner {
    /// The error every append gets from now on, if there is one.
    pub(super) fn check_open(&self) -> Result<(), WalError> {
        if let Some(error) = &*self.failed.borrow() {
            return Err(error.clone());
        }
        if self.closed.get() || self.options.take_only { Err(WalError::Closed) } else { Ok(()) }
    }

    pub(super) async fn append<R: Record>(
        self: &Rc<Self>,
        records: &[R],
        marks: &[Mark],
    ) -> Result<Commit, WalError> {
        let _turn = match self.turn.try_acquire() {
            Ok(turn) => turn,
            Err(_) => self.turn.acquire().await.map_err(|_| WalError::Closed)?,
        };
        let marks_size = marks::encoded_size(marks);
        let overhead = self.cipher.overhead();
        let mut size = frame_size(marks_size + overhead) + 2 * BLOCK;
        for record in records {
            // Each frame may be the last of its group.
            size += frame_size(record.size() + overhead) + BLOCK;
        }
        let size = size as u64;
        loop {
            self.check_open()?;
            let room = self.room.notified();
            let (unwritten, fits) = {
                let writer = self.writer.borrow();
                let limit = writer.active.as_ref().map_or(0, |a| a.segment.frames_limit());
                let built = writer.building.as_ref().map_or(0, |b| b.used);
                (writer.unwritten + built, writer.end() + size <= limit)
            };
            if unwritten >= UNWRITTEN_MAX {
                room.await;
            } else if !fits {
                self.roll(size).await?;
            } else {
                break;
            }
        }
        self.check_space(size).await?;
        self.check_open()?;
        Ok(self.build(records, marks, marks_size))
    }

    /// Writes a snapshot out of turn.
    pub(super) async fn save_marks(self: &Rc<Self>) -> Result<(), WalError> {
        let commit = {
            let _turn = self.turn.acquire().await.map_err(|_| WalError::Closed)?;
            self.check_open()?;
            let (size, fits) = {
                let writer = self.writer.borrow();
                let limit = writer.active.as_ref().map_or(0, |a| a.segment.frames_limit());
                let size = writer.snapshot_size();
                (size, writer.end() + size <= limit)
            };
            if !fits {
                self.roll(size).await?;
                self.check_open()?;
            }
            let mut writer = self.writer.borrow_mut();
            let writer = &mut *writer;
            self.snapshot(writer);
            writer.appended = true;
            if let Some(active) = &mut writer.active {
                active.has_data = true;
            }
            let (answer, done) = oneshot::channel();
            writer.waiters.push_back((writer.end(), answer));
            self.flush_soon(writer);
            Commit { done }
        };
        commit.await
    }

    /// Builds the frames of a transaction. There is room.
    fn build<R: Record>(self: &Rc<Self>, records: &[R], marks: &[Mark], marks_size: usize) -> Commit {
        let mut writer = self.writer.borrow_mut();
        let writer = &mut *writer;
        let before = writer.end();
        let count = records.len().max(1);
        for index in 0..count {
            let is_last = index + 1 == count;
            let record = records.get(index);
            let first = if index == 0 { frame::FLAG_FIRST } else { 0 };
            let last = if is_last { frame::FLAG_LAST } else { 0 };
            let marks_size = if is_last { marks_size } else { 0 };
            let events = record.map_or(0, R::events);
            let spec = Spec {
                kind: FrameKind::Data,
                flags: first | last,
                events,
                payload: marks_size + record.map_or(0, R::size),
                marks: marks_size,
            };
            self.frame(writer, &spec, before, |out| {
                let (mut head, body) = out.split_at_mut(marks_size);
                if is_last {
                    marks.iter().for_each(|(key, value)| marks::encode(&mut head, key, value, 0));
                }
                if let Some(record) = record {
                    record.write(body);
                }
            });
            writer.next_seq += u64::from(events);
            writer.total_bytes += record.map_or(0, |r| r.size() as u64);
        }
        if !marks.is_empty() {
            let now_ms = self.io.unix_time().as_millis() as u64;
            for (key, value) in marks {
                // Copied: a mark must not keep the memory of a source's buffer alive.
                let copy = |b: &Bytes| Bytes::copy_from_slice(b);
                writer.marks.set(copy(key), copy(value), now_ms);
            }
        }
        writer.appended = true;
        if let Some(active) = &mut writer.active {
            active.has_data = true;
        }
        let end = writer.end();
        let (answer, done) = oneshot::channel();
        writer.waiters.push_back((end, answer));
        let snapshot_due = SNAPSHOT_EVERY.max(32 * writer.marks.encoded_size() as u64);
        if end - writer.last_snapshot > snapshot_due {
            let limit = writer.active.as_ref().map_or(0, |a| a.segment.frames_limit());
            if end + writer.snapshot_size() <= limit {
                self.snapshot(writer);
            }
        }
        self.flush_soon(writer);
        Commit { done }
    }

    /// Adds a frame to the group being built. `whole` is the end of the last whole transaction.
    fn frame(&self, writer: &mut Writer, spec: &Spec, whole: u64, fill: impl FnOnce(&mut [u8])) {
        let stored = spec.payload + self.cipher.overhead();
        let size = frame_size(stored);
        if writer.building.as_ref().is_some_and(|b| b.used + size > b.buf.as_ref().len()) {
            self.seal(writer, whole);
        }
        let position = writer.end();
        let busy = !writer.flights.is_empty();
        let (small, large) = (&writer.small, &writer.large);
        let next = writer.next;
        let building = writer.building.get_or_insert_with(|| {
            let buf = match size {
                size if size <= SMALL_SIZE && !busy => small.take(),
                size if size <= LARGE_SIZE => large.take(),
                size => PooledBuf::unpooled(size),
            };
            Building { buf, position: next, used: 0, last: 0 }
        });
        let header = FrameHeader {
            length: size as u32,
            stored: stored as u32,
            position,
            durable: 0,
            first_seq: writer.next_seq,
            events: spec.events,
            raw: spec.payload as u32,
            marks: spec.marks as u32,
            kind: spec.kind,
            flags: spec.flags | if self.cipher.is_active() { frame::FLAG_ENCRYPTED } else { 0 },
            time_ms: 0,
            log_id: self.log_id,
        };
        let out = &mut building.buf.as_mut()[building.used..building.used + size];
        header.write(out);
        let (payload, gap) = out[HEADER_SIZE..].split_at_mut(stored);
        fill(self.cipher.plain(payload));
        self.cipher.seal(&header, payload);
        gap.fill(0);
        building.last = building.used;
        building.used += size;
    }

    /// Adds all marks as they stand.
    pub(super) fn snapshot(&self, writer: &mut Writer) {
        let start = writer.end();
        let mut fixed = Vec::with_capacity(SNAPSHOT_FIXED);
        {
            let consumer = self.consumer.borrow();
            fixed.put_u64_le(consumer.tracker.low_seq);
            fixed.put_u64_le(consumer.tracker.low_position);
            fixed.put_u64_le(writer.total_bytes);
        }
        let mut parts = vec![fixed.clone()];
        for (key, value, time_ms) in writer.marks.all() {
            if parts.last().is_some_and(|p| p.len() > SNAPSHOT_FRAME_SIZE) {
                parts.push(fixed.clone());
            }
            if let Some(part) = parts.last_mut() {
                marks::encode(part, key, value, time_ms.max(1));
            }
        }
        let count = parts.len();
        for (index, part) in parts.iter().enumerate() {
            let first = if index == 0 { frame::FLAG_FIRST } else { 0 };
            let last = if index + 1 == count { frame::FLAG_LAST } else { 0 };
            let spec = Spec {
                kind: FrameKind::Snapshot,
                flags: first | last,
                events: 0,
                payload: part.len(),
                marks: part.len() - SNAPSHOT_FIXED,
            };
            self.frame(writer, &spec, start, |out| out.copy_from_slice(part));
        }
        writer.last_snapshot = start;
        let end = writer.end();
        writer.snapshots.push_back((start, end));
    }

    /// Closes the group being built: pads its last frame, seals every frame, and queues it for writing.
    pub(super) fn seal(&self, writer: &mut Writer, whole: u64) {
        let (Some(mut building), Some(active)) = (writer.building.take(), writer.active.as_mut()) else {
            return;
        };
        // Blocks written directly are never written again, so a group ends with its block. Stored through
        // a mapping it need not.
        let unit = if active.map.is_some() { FRAME_ALIGN } else { BLOCK };
        let padded = building.used.next_multiple_of(unit);
        let now_ms = self.io.unix_time().as_millis() as u64;
        let buf = &mut building.buf.as_mut()[..padded];
        buf[building.used..].fill(0);
        frame::pad(&mut buf[building.last..], (padded - building.used) as u32);
        let mut at = 0;
        while at < padded {
            let length = frame::u32_at(buf, at + 8) as usize;
            frame::seal(&mut buf[at..at + length], self.synced.get(), now_ms);
            at += length;
        }
        active.newest_ms = now_ms;
        if active.oldest_ms == 0 {
            active.oldest_ms = now_ms;
        }
        let end = building.position + padded as u64;
        // A waiter for the unpadded end is served by the padded one, which is beyond it.
        let visible = if whole >= building.position + building.used as u64 { end } else { whole };
        let data = building.buf.freeze().slice(..padded);
        self.reader.borrow_mut().keep(building.position, data.clone());
        let flight = Flight {
            data: Some(data),
            file: active.file.clone(),
            map: active.map.clone(),
            segment: active.segment.clone(),
            offset: active.segment.offset(building.position),
            size: padded,
            end,
            visible,
            done: false,
        };
        writer.next = end;
        writer.unwritten += padded;
        writer.flights.push_back(flight);
    }

    /// Sees to it that what was built is written before long.
    fn flush_soon(self: &Rc<Self>, writer: &mut Writer) {
        let Some(building) = &writer.building else { return self.pump(writer) };
        if building.used >= GROUP_SIZE && writer.in_flight < IN_FLIGHT_MAX {
            return self.flush(writer);
        }
        self.pump(writer);
        // A mapped log has stored by now whatever was sealed while the transaction was built.
        if writer.flights.is_empty() && !writer.flush_scheduled {
            // The disk is idle: write at the end of this turn, so that what other connections brought in
            // the same turn joins.
            writer.flush_scheduled = true;
            let inner = self.clone();
            io::spawn(async move {
                tokio::task::yield_now().await;
                let mut writer = inner.writer.borrow_mut();
                writer.flush_scheduled = false;
                if writer.in_flight == 0 {
                    inner.flush(&mut writer);
                }
            });
        }
    }

    /// Writes everything built so far. Call only between transactions.
    pub(super) fn flush(self: &Rc<Self>, writer: &mut Writer) {
        let whole = writer.end();
        self.seal(writer, whole);
        self.pump(writer);
    }

    /// Queues the header block of a new segment; everything behind it counts only after it.
    pub(super) fn queue_header(&self, writer: &mut Writer, data: Bytes) {
        let Some(active) = &writer.active else { return };
        let end = active.segment.first_frame();
        writer.flights.push_back(Flight {
            size: data.len(),
            data: Some(data),
            file: active.file.clone(),
            map: active.map.clone(),
            segment: active.segment.clone(),
            offset: 0,
            end,
            visible: end,
            done: false,
        });
        writer.unwritten += BLOCK_SIZE as usize;
        writer.next = end;
    }

    /// Queues the footer of the segment being left; it is written when everything before it is durable.
    pub(super) fn queue_footer(&self, writer: &mut Writer) {
        let Some(active) = &writer.active else { return };
        let footer = SegmentFooter {
            log_id: self.log_id,
            number: active.segment.number,
            end: writer.next,
            end_seq: writer.next_seq,
            end_bytes: writer.total_bytes,
            snapshot: writer.last_snapshot,
            oldest_ms: active.oldest_ms,
            newest_ms: active.newest_ms,
        };
        active.segment.end.set(writer.next);
        active.segment.end_seq.set(Some(writer.next_seq));
        let (file, map) = (active.file.clone(), active.map.clone());
        let sealing = Sealing { file, map, segment: active.segment.clone(), footer };
        writer.footers.push_back(sealing);
    }

    /// Gives the kernel as many groups as may be in flight.
    pub(super) fn pump(self: &Rc<Self>, writer: &mut Writer) {
        if self.failed.borrow().is_some() {
            return;
        }
        let mut stored = false;
        while writer.in_flight < IN_FLIGHT_MAX && writer.issued < writer.flights.len() {
            let id = writer.first_flight + writer.issued as u64;
            let flight = &mut writer.flights[writer.issued];
            let Some(data) = flight.data.take() else { break };
            writer.issued += 1;
            if let Some(map) = &flight.map {
                map.borrow_mut().write(flight.offset as usize, &data);
                flight.done = true;
                stored = true;
                continue;
            }
            #[cfg(test)]
            if broken::acknowledges_early() {
                flight.done = true;
                stored = true;
            }
            writer.in_flight += 1;
            let (inner, file, offset) = (self.clone(), flight.file.clone(), flight.offset);
            io::spawn(async move {
                let result = file.write_at(data, offset).await;
                inner.completed(id, result);
            });
        }
        if stored {
            self.advance(writer);
        }
    }

    fn completed(self: &Rc<Self>, id: u64, result: std::io::Result<()>) {
        let mut writer = self.writer.borrow_mut();
        let writer = &mut *writer;
        writer.in_flight -= 1;
        // Only a log that is broken on purpose has forgotten a flight before it lands.
        let flight = id.checked_sub(writer.first_flight).and_then(|i| writer.flights.get_mut(i as usize));
        match (flight, result) {
            (Some(flight), Ok(())) => flight.done = true,
            (Some(flight), Err(error)) => {
                let path = flight.segment.path.clone();
                self.fail(writer, path, error);
                return;
            }
            // Counted before it completed: only the broken log of the power test does that.
            (None, _) => {}
        }
        self.advance(writer);
        // Something completed: the disk has room for what gathered meanwhile.
        if self.failed.borrow().is_none() && writer.in_flight < IN_FLIGHT_MAX {
            self.flush(writer);
        }
    }

    /// Latches: nothing that is not durable now will ever be acknowledged by this log.
    pub(super) fn fail(&self, writer: &mut Writer, path: std::path::PathBuf, error: std::io::Error) {
        let mut failed = self.failed.borrow_mut();
        if failed.is_none() {
            tracing::error!(
                channel = %self.options.channel, file = %path.display(), %error,
                "a write failed: the channel acknowledges nothing more until it is opened again; takes go on"
            );
            *failed = Some(WalError::Latched { path, error: Arc::new(error) });
        }
        let error = failed.clone().unwrap_or(WalError::Closed);
        drop(failed);
        writer.building = None;
        while writer.flights.len() > writer.issued {
            writer.flights.pop_back();
        }
        for (_, waiter) in writer.waiters.drain(..) {
            let _ = waiter.send(Err(error.clone()));
        }
        self.room.notify_waiters();
    }

    /// Moves the watermarks over everything that is durable without a gap, and tells whoever waits.
    fn advance(self: &Rc<Self>, writer: &mut Writer) {
        if self.failed.borrow().is_some() {
            return;
        }
        let mut moved = false;
        while writer.flights.front().is_some_and(|f| f.done) {
            let Some(flight) = writer.flights.pop_front() else { break };
            writer.first_flight += 1;
            writer.issued -= 1;
            writer.unwritten -= flight.size;
            self.durable.set(flight.end);
            self.visible.set(flight.visible.max(self.visible.get()));
            if flight.map.is_none() {
                self.synced.set(flight.end);
            }
            moved = true;
        }
        if !moved {
            return;
        }
        let durable = self.durable.get();
        {
            let mut consumer = self.consumer.borrow_mut();
            consumer.state.durable = durable;
            consumer.state.synced = self.synced.get();
            while writer.snapshots.front().is_some_and(|(_, end)| *end <= durable) {
                let Some((start, end)) = writer.snapshots.pop_front() else { break };
                consumer.state.snapshot = start;
                if let Some(active) = &writer.active
                    && start == active.segment.first_frame()
                {
                    active.segment.opening_end.set(end);
                }
            }
            consumer.store();
        }
        while writer.footers.front().is_some_and(|s| s.footer.end <= durable) {
            let Some(sealing) = writer.footers.pop_front() else { break };
            self.write_footer(sealing);
        }
        // In log order, so that nobody is woken in vain.
        while writer.waiters.front().is_some_and(|(end, _)| *end <= durable) {
            if let Some((_, waiter)) = writer.waiters.pop_front() {
                let _ = waiter.send(Ok(()));
            }
        }
        self.room.notify_waiters();
        self.ready.notify_waiters();
        if writer.active.as_ref().is_some_and(|a| durable >= a.segment.first_frame()) {
            self.reclaim();
        }
        self.prepare_ahead(writer);
    }

    /// Writes the footer of a segment that was left: a promise that everything in it is on the medium.
    fn write_footer(self: &Rc<Self>, sealing: Sealing) {
        let inner = self.clone();
        self.sealing.set(self.sealing.get() + 1);
        io::spawn(async move {
            inner.seal_segment(sealing).await;
            inner.sealing.set(inner.sealing.get() - 1);
            inner.room.notify_waiters();
        });
    }

    pub(super) async fn seal_segment(self: &Rc<Self>, sealing: Sealing) {
        let Sealing { file, map, segment, footer } = sealing;
        if let Some(map) = map {
            // One after the other in log order, so that everything before the end of this one is synced, too.
            let Ok(_turn) = self.syncing.acquire().await else { return };
            if self.synced.get() < footer.end {
                let flush = map.borrow().flush(0..map.borrow().len());
                if let Err(error) = flush.await {
                    return self.fail(&mut self.writer.borrow_mut(), segment.path.clone(), error);
                }
                self.note_synced(footer.end);
            }
        }
        let offset = segment.size - BLOCK_SIZE;
        if let Err(error) = file.write_at(footer.encode(), offset).await {
            // The frames are durable without it; the next start reads the segment instead.
            let channel = &self.options.channel;
            tracing::warn!(%channel, file = %segment.path.display(), %error, "cannot write the footer of a log file");
        }
        // A backlog of many files must not hold as many open; whoever reads this one opens it again.
        if !self.reader.borrow().is_in(&segment) {
            segment.release();
        }
    }

    /// Everything before this position is on the medium.
    pub(super) fn note_synced(self: &Rc<Self>, position: u64) {
        self.synced.set(self.synced.get().max(position));
        {
            let mut consumer = self.consumer.borrow_mut();
            consumer.state.synced = self.synced.get();
            consumer.store();
        }
        self.reclaim();
    }

    /// Waits until everything built is durable or the log has failed.
    pub(super) async fn drained(self: &Rc<Self>) {
        loop {
            let room = self.room.notified();
            {
                let mut writer = self.writer.borrow_mut();
                if self.failed.borrow().is_some() {
                    if writer.in_flight == 0 {
                        return;
                    }
                } else {
                    self.flush(&mut writer);
                    if writer.is_idle() {
                        return;
                    }
                }
            }
            tokio::select! {
                () = room => {}
                () = self.io.sleep(Duration::from_millis(10)) => {}
            }
        }
    }
}

/// Breaks the log on purpose, to show that the tests notice.
#[cfg(test)]
pub(super) mod broken {
    use std::cell::Cell;

    thread_local! {
        static EARLY: Cell<bool> = const { Cell::new(false) };
    }

    /// From now on, on this thread, the watermark moves when a write is handed over, not when it is complete.
    pub(in crate::wal) fn acknowledge_early(early: bool) {
        EARLY.set(early);
    }
    pub(super) fn acknowledges_early() -> bool {
        EARLY.get()
    }
}
