//! Puts into the log and takes out of it, all or nothing.

use std::rc::Rc;

use bytes::Bytes;

use super::payload::{self, Part};
use super::shard::{Inner, Piece, mark};
use crate::channel::{ChannelError, PutTransaction, TakeTransaction};
use crate::event::{BatchBuilder, EventBatch};
use crate::io::LocalBoxFuture;
use crate::wal::{Mark, WalError};

/// Small batches that follow each other are joined by copying up to this many bytes, so that a sink does
/// not pay its costs per batch of every small client.
const JOIN_SIZE_MAX: usize = 256 << 10;

/// A put transaction of a file channel.
pub(super) struct FilePut {
    channel: Rc<Inner>,
    batches: Vec<EventBatch>,
    /// Events reserved in the budget and not in the log.
    events: u64,
}

impl FilePut {
    pub(super) fn new(channel: Rc<Inner>) -> Self {
        Self { channel, batches: Vec::new(), events: 0 }
    }
}

impl PutTransaction for FilePut {
    fn put(&mut self, batch: EventBatch) -> LocalBoxFuture<'_, Result<(), ChannelError>> {
        Box::pin(async move {
            let (channel, count) = (&self.channel, batch.len() as u64);
            channel.counters.event_put_attempt.add(count);
            let (config, name) = (&channel.config, &channel.name);
            if self.events + count > config.transaction_capacity as u64 {
                channel.put_errors.add(1);
                return Err(ChannelError::TooLarge(format!(
                    "Put queue for FileBackedTransaction of capacity {} full, consider committing more frequently, increasing \
                     capacity or increasing thread count. [channel={name}: a transaction of {} events; set transactionCapacity to \
                     at least that, or send smaller batches]",
                    config.transaction_capacity,
                    self.events + count,
                )));
            }
            if count > 0 && !config.budget.reserve(count, config.keep_alive, &channel.io).await {
                channel.put_errors.add(1);
                return Err(ChannelError::Full(format!(
                    "The channel has reached it's capacity. This might be the result of a sink on the channel having too low \
                     of batch size, a downstream system running slower than normal, or that the channel capacity is just too \
                     low. [channel={name}: capacity {}, waiting {}, no room for {count} within {} s]",
                    config.budget.capacity(),
                    config.budget.used(),
                    config.keep_alive.as_secs(),
                )));
            }
            self.events += count;
            self.batches.push(batch);
            Ok(())
        })
    }
    fn commit(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ChannelError>> {
        Box::pin(async move {
            let channel = self.channel.clone();
            let marks: Vec<Mark> =
                self.batches.iter_mut().flat_map(EventBatch::take_marks).map(mark).collect();
            let deleted: Vec<Bytes> =
                marks.iter().filter(|(_, value)| value.is_empty()).map(|(key, _)| key.clone()).collect();
            let mut parts = Vec::new();
            self.batches.iter().for_each(|batch| Part::split(batch, &mut parts));
            if parts.is_empty() && marks.is_empty() {
                return Ok(());
            }
            let appended = channel.own.append(&parts, &marks).await;
            drop(parts);
            let commit = appended.map_err(|error| {
                channel.put_errors.add(1);
                channel.error(error)
            })?;
            // From here on the events are the log's, whatever becomes of this future.
            let events = std::mem::take(&mut self.events);
            self.batches.clear();
            let now_ms = channel.io.unix_time().as_millis() as u64;
            let gone = channel.config.delete_marks(&deleted, now_ms);
            gone.iter().for_each(|key| channel.own.forget_mark(key));
            channel.counters.channel_size.add(events);
            let mut appended = Appended { channel, events };
            match commit.await {
                Ok(()) => Ok(()),
                Err(error) => {
                    appended.fail();
                    Err(appended.channel.error(error))
                }
            }
        })
    }
}

/// Events in the log whose commit is awaited. If nobody awaits it any more (the client has gone) they count as
/// put: only a failed write would make that wrong, and then the channel is closed for puts anyway.
struct Appended {
    channel: Rc<Inner>,
    events: u64,
}

impl Appended {
    fn fail(&mut self) {
        let events = std::mem::take(&mut self.events);
        self.channel.counters.channel_size.subtract(events);
        self.channel.config.budget.release(events);
        self.channel.put_errors.add(1);
    }
}

impl Drop for Appended {
    fn drop(&mut self) {
        self.channel.counters.event_put_success.add(self.events);
    }
}

impl Drop for FilePut {
    fn drop(&mut self) {
        self.channel.config.budget.release(self.events);
    }
}

/// A take transaction of a file channel.
pub(in crate::channel) struct FileTake {
    channel: Rc<Inner>,
    taken: Vec<Piece>,
    events: usize,
}

/// Pieces of a take that is not finished; dropped, they go back.
struct Collected<'a> {
    channel: &'a Inner,
    pieces: Vec<Piece>,
}

impl Drop for Collected<'_> {
    fn drop(&mut self) {
        if !self.pieces.is_empty() {
            self.channel.give_back(std::mem::take(&mut self.pieces));
            self.channel.ready.notify_waiters();
        }
    }
}

impl FileTake {
    pub(super) fn new(channel: Rc<Inner>) -> Self {
        Self { channel, taken: Vec::new(), events: 0 }
    }

    async fn collect(&mut self, wanted: usize, before: u64) -> Result<EventBatch, WalError> {
        let channel = self.channel.clone();
        let mut collected = Collected { channel: &channel, pieces: Vec::new() };
        let Some(first) = channel.next_piece(wanted, before).await? else { return Ok(EventBatch::default()) };
        let mut batch = decode(&channel, &first)?;
        collected.pieces.push(first);
        // A batch of a good size is passed on as it is; small ones are worth a copy.
        if batch.len() * 2 <= wanted && batch.size_bytes() < JOIN_SIZE_MAX / 2 {
            let mut batches = vec![batch];
            let (mut events, mut size) = (batches[0].len(), batches[0].size_bytes());
            while events < wanted && size < JOIN_SIZE_MAX {
                // An error comes again with the next take.
                let Ok(Some(piece)) = channel.next_piece(wanted - events, before).await else { break };
                let Ok(next) = decode(&channel, &piece) else {
                    channel.give_back(vec![piece]);
                    break;
                };
                events += next.len();
                size += next.size_bytes();
                collected.pieces.push(piece);
                batches.push(next);
            }
            batch = join(batches);
        }
        self.events += batch.len();
        self.taken.append(&mut collected.pieces);
        Ok(batch)
    }
}

fn decode(channel: &Inner, piece: &Piece) -> Result<EventBatch, WalError> {
    payload::decode(&piece.entry.payload, piece.from as usize, piece.to as usize).ok_or_else(|| {
        // The checksum was right, so this was written by something else than this program.
        WalError::Damaged(crate::wal::Damage {
            path: channel.own.directory().to_owned(),
            offset: piece.entry.first_seq,
            size: piece.entry.payload.len() as u64,
            events: Some(u64::from(piece.entry.events)),
        })
    })
}

/// One batch of several. Headers they all share stay common; others become the events' own.
fn join(mut batches: Vec<EventBatch>) -> EventBatch {
    if batches.len() == 1 {
        return batches.remove(0);
    }
    let first = &batches[0];
    let separator = first.area().2;
    let same_separator = batches.iter().all(|b| b.area().2 == separator);
    let separator = if same_separator { separator } else { Default::default() };
    let mut common = first.common().clone();
    common.retain(|key, value| batches.iter().all(|b| b.common().get(key) == Some(value)));
    let (bytes, events) = batches.iter().fold((0, 0), |(s, e), b| (s + b.size_bytes(), e + b.len()));
    let mut builder = BatchBuilder::with_capacity(separator, bytes, events);
    for batch in &batches {
        let has_own = batch.each().is_some() || batch.common().len() > common.len();
        for index in 0..batch.len() {
            builder.push(batch.body(index));
            if has_own {
                let own = batch.headers(index).filter(|(key, value)| common.get(key) != Some(value));
                own.for_each(|(key, value)| builder.header(key, value));
            }
        }
    }
    *builder.common_mut() = common;
    builder.finish()
}

impl FileTake {
    /// As [`TakeTransaction::take`], but of this shard's log only events numbered below `before`.
    pub(in crate::channel) async fn take_before(
        &mut self,
        events_max: usize,
        before: u64,
    ) -> Result<EventBatch, ChannelError> {
        let channel = self.channel.clone();
        let capacity = channel.config.transaction_capacity;
        let room = capacity - self.events;
        if room == 0 && events_max > 0 {
            channel.counters.event_take_attempt.add(1);
            return Err(ChannelError::TooLarge(format!(
                "Take list for FileBackedTransaction, capacity {capacity} full, consider committing more frequently, \
                 increasing capacity, or increasing thread count. [channel={}: set transactionCapacity to at least the \
                 sink's batch size]",
                channel.name
            )));
        }
        let batch = match events_max.min(room) {
            0 => EventBatch::default(),
            wanted => {
                let collected = self.collect(wanted, before).await;
                channel.settle_skipped();
                collected.map_err(|error| {
                    channel.take_errors.add(1);
                    channel.error_of("Take", error)
                })?
            }
        };
        channel.counters.event_take_attempt.add(batch.len().max(1) as u64);
        Ok(batch)
    }
}

impl TakeTransaction for FileTake {
    fn take(&mut self, events_max: usize) -> LocalBoxFuture<'_, Result<EventBatch, ChannelError>> {
        Box::pin(self.take_before(events_max, u64::MAX))
    }
    fn commit(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ChannelError>> {
        let taken = std::mem::take(&mut self.taken);
        if !taken.is_empty() {
            let channel = &self.channel;
            let events: u64 = taken.iter().map(|p| p.len() as u64).sum();
            {
                let logs = channel.logs.borrow();
                let log_of = |piece: &Piece| logs.get(piece.log).and_then(Option::as_ref);
                for (index, piece) in taken.iter().enumerate() {
                    let Some(log) = log_of(piece) else { continue };
                    log.ack(piece.first(), piece.end());
                    // Stored once per log, after its last piece.
                    if taken.get(index + 1).is_none_or(|next| next.log != piece.log) {
                        log.acked();
                    }
                }
            }
            channel.gone(events);
            channel.counters.event_take_success.add(events);
            if channel.logs.borrow().len() > 1 {
                channel.remove_drained();
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Drop for FileTake {
    fn drop(&mut self) {
        if !self.taken.is_empty() {
            self.channel.give_back(std::mem::take(&mut self.taken));
            self.channel.ready.notify_waiters();
        }
    }
}
