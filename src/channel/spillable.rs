//! `spillablememory` channel: events wait in memory, and in a write-ahead log on disk while memory is full.
//!
//! Flume: `org.apache.flume.channel.SpillableMemoryChannel`. Each shard has a queue in memory and, unless
//! `overflowCapacity = 0`, a [`super::file`] channel behind it; the capacities are shared. A transaction goes
//! wholly to one of them. Sinks get events in the order of the commits, whichever way they went.
//!
//! Order: a transaction in memory remembers the number that the log would have given to the next event. What
//! is in the log below that number was committed before it, the rest after. So the log and the queue are merged
//! without a list of what went where, and a rollback of either restores the order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::budget::Budget;
use super::byte_capacity::{self, BYTE_CAPACITY, BYTE_CAPACITY_BUFFER_PERCENTAGE, slots_of, slots_within};
use super::file::{self, FileChannel, FileConfig, FileTake};
use super::{
    Channel, ChannelConfig, ChannelContext, ChannelEntry, ChannelError, PutTransaction, TakeTransaction,
};
use crate::component::{Claim, OpenError};
use crate::config::{ParseContext, Positive, Property, PropertySpec, Seconds};
use crate::event::{EventBatch, SourceMark};
use crate::io::{Io, LocalBoxFuture};
use crate::metrics::ChannelCounters;

const MEMORY_CAPACITY: Property<u64> =
    Property::optional("memoryCapacity", "10000", "Most events that may wait in memory. 0 = all go to disk.");
const OVERFLOW_CAPACITY: Property<u64> = Property::optional(
    "overflowCapacity",
    "100000000",
    "Most events that may wait on disk. 0 = memory only; then no file is touched.",
);
const OVERFLOW_TIMEOUT: Property<Seconds> = Property::optional(
    "overflowTimeout",
    "3",
    "How long a put waits for room in memory before it goes to disk, and there for room before the source is \
     told that the channel is full. While events overflow, the first wait is left out.",
);
const OVERFLOW_DEACTIVATION_THRESHOLD: Property<u32> = Property::optional(
    "overflowDeactivationThreshold",
    "5",
    "Part of `memoryCapacity` that must be free before puts wait for room in memory again, in percent.",
);
const AVG_EVENT_SIZE: Property<Positive> = Property::optional(
    "avgEventSize",
    "500",
    "Unit in which `byteCapacity` is counted, in bytes: a body takes a whole number of them.",
);

/// Every property the spillable memory channel reads: those of the file channel except `capacity` and
/// `keep-alive`, and its own.
pub const PROPERTIES: &[&dyn PropertySpec] = {
    const OWN: [&dyn PropertySpec; 7] = [
        &MEMORY_CAPACITY,
        &OVERFLOW_CAPACITY,
        &OVERFLOW_TIMEOUT,
        &OVERFLOW_DEACTIVATION_THRESHOLD,
        &BYTE_CAPACITY,
        &BYTE_CAPACITY_BUFFER_PERCENTAGE,
        &AVG_EVENT_SIZE,
    ];
    &super::joined::<{ OWN.len() + file::STORE_PROPERTIES.len() }>(&OWN, file::STORE_PROPERTIES)
};

/// Row of the registry.
pub const ENTRY: ChannelEntry = ChannelEntry {
    name: "spillablememory",
    class: "org.apache.flume.channel.SpillableMemoryChannel",
    summary: "Events wait in memory, and on disk while memory is full. Those in memory are lost when the process dies.",
    properties: PROPERTIES,
    parse,
};

/// The channel's settings and what its shards share.
#[derive(Debug)]
pub struct SpillableConfig {
    memory: Budget,
    slots: Budget,
    slot_bytes: u64,
    /// Without it a full memory is a full channel.
    overflow: Option<Arc<FileConfig>>,
    /// Where events may lie from a time when there was an overflow.
    unused: Option<FileConfig>,
    /// What the log counts for itself; this channel counts the events.
    overflow_counters: Arc<ChannelCounters>,
    overflow_timeout: Duration,
    transaction_capacity: usize,
    /// Percent of the memory that must be free before puts wait for it again.
    threshold: u64,
    /// Memory was full when a put came, and has not been drained to the threshold since.
    is_overflowing: AtomicBool,
}

/// Reads the settings of a spillable memory channel.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn ChannelConfig>> {
    parse_config(cx).map(|config| Arc::new(config) as Arc<dyn ChannelConfig>)
}

fn parse_config(cx: &mut ParseContext<'_>) -> Option<SpillableConfig> {
    let memory = cx.get(&MEMORY_CAPACITY);
    let overflow = cx.get(&OVERFLOW_CAPACITY);
    let timeout = cx.get(&OVERFLOW_TIMEOUT);
    let threshold = cx.get(&OVERFLOW_DEACTIVATION_THRESHOLD);
    let slot_bytes = cx.get(&AVG_EVENT_SIZE);
    let bytes = byte_capacity::parse(cx);
    // Without an overflow the log's settings are checked all the same, against a capacity that admits them.
    let log_capacity = overflow.map(|capacity| if capacity == 0 { u64::MAX } else { capacity });
    let log = file::parse_rest(cx, OVERFLOW_CAPACITY.name(), log_capacity, timeout);
    let (memory, overflow, slot_bytes) = (memory?, overflow?, slot_bytes?.0 as u64);
    if memory == 0 && overflow == 0 {
        let hint = format!("add: {} = 10000", cx.full_key(MEMORY_CAPACITY.name()));
        let message = "memoryCapacity and overflowCapacity are both 0: no event would fit";
        cx.error(MEMORY_CAPACITY.name(), message, Some(hint));
        return None;
    }
    let (byte_capacity, percentage) = bytes?;
    let log = log?;
    let transaction_capacity = log.transaction_capacity();
    let (overflow, unused) = if overflow > 0 { (Some(Arc::new(log)), None) } else { (None, Some(log)) };
    Some(SpillableConfig {
        memory: Budget::new(memory),
        slots: Budget::new(slots_within(byte_capacity, percentage, slot_bytes)),
        slot_bytes,
        transaction_capacity,
        overflow,
        unused,
        overflow_counters: Arc::default(),
        overflow_timeout: timeout?.0,
        threshold: u64::from(threshold?),
        is_overflowing: AtomicBool::new(false),
    })
}

impl SpillableConfig {
    /// Nothing waits in memory: this is a file channel under another name.
    fn is_disk_only(&self) -> bool {
        self.memory.capacity() == 0
    }
    /// Called after memory was given back.
    fn end_overflow(&self, channel: &str) {
        if !self.is_overflowing.load(Ordering::Relaxed) {
            return;
        }
        let (capacity, used) = (self.memory.capacity(), self.memory.used());
        let is_drained = capacity.saturating_sub(used) * 100 >= capacity * self.threshold;
        if is_drained && self.is_overflowing.swap(false, Ordering::Relaxed) {
            tracing::info!(%channel, "there is room in memory again; puts wait for it before they go to disk");
        }
    }
}

impl ChannelConfig for SpillableConfig {
    fn claims(&self) -> Vec<Claim> {
        self.overflow.as_ref().map_or_else(Vec::new, |log| log.claims())
    }
    fn capacity(&self) -> u64 {
        self.memory.capacity() + self.overflow.as_ref().map_or(0, |log| log.capacity())
    }
    fn transaction_capacity(&self) -> usize {
        self.transaction_capacity
    }
    fn durability(&self) -> String {
        let memory = self.memory.capacity();
        match &self.overflow {
            None => format!("memory: up to {memory} events that wait are lost when the process ends"),
            Some(log) if self.is_disk_only() => log.durability(),
            Some(log) => format!(
                "up to {memory} events that wait in memory are lost when the process dies (an orderly stop writes them \
                 to the overflow); the overflow on disk: {}",
                log.durability()
            ),
        }
    }
    fn open(
        self: Arc<Self>,
        cx: ChannelContext,
    ) -> LocalBoxFuture<'static, Result<Rc<dyn Channel>, OpenError>> {
        Box::pin(async move { Ok(SpillableChannel::open(self, cx).await? as Rc<dyn Channel>) })
    }
}

/// A spillable memory channel of one shard.
pub struct SpillableChannel(Rc<Inner>);

struct Inner {
    config: Arc<SpillableConfig>,
    name: Arc<str>,
    io: Io,
    counters: Arc<ChannelCounters>,
    log: Option<Rc<FileChannel>>,
    queue: RefCell<VecDeque<Run>>,
    /// Number of the next event that goes to memory.
    next_number: Cell<u64>,
    ready: Notify,
    closed: Cell<bool>,
}

/// Events in memory that were put together.
struct Run {
    /// Number of the first one among those in memory.
    number: u64,
    /// Number the log would have given to the first event put behind them.
    after: u64,
    batch: EventBatch,
}

impl SpillableChannel {
    async fn open(config: Arc<SpillableConfig>, cx: ChannelContext) -> Result<Rc<Self>, OpenError> {
        let log = match &config.overflow {
            None => None,
            Some(log) => {
                let counters = config.overflow_counters.clone();
                let cx = ChannelContext {
                    name: cx.name.clone(),
                    agent: cx.agent.clone(),
                    io: cx.io.clone(),
                    counters,
                    ..cx
                };
                Some(FileChannel::open(log.clone(), cx).await?)
            }
        };
        if let Some(unused) = &config.unused
            && cx.shard.index == 0
            && let Some(directory) = unused.old_log(&cx.io).await
        {
            tracing::warn!(
                channel = %cx.name, directory = %directory.display(),
                "overflowCapacity is 0, but a log of an earlier run lies there; its events are not read. Set overflowCapacity to get them"
            );
        }
        cx.counters.channel_capacity.set(config.capacity());
        if let Some(log) = &log {
            cx.counters.extras.adopt(&config.overflow_counters.extras);
            cx.counters.channel_size.add(log.waiting());
        }
        Ok(Rc::new(Self(Rc::new(Inner {
            config,
            name: cx.name,
            io: cx.io,
            counters: cx.counters,
            log,
            queue: RefCell::default(),
            next_number: Cell::new(0),
            ready: Notify::new(),
            closed: Cell::new(false),
        }))))
    }
}

impl Inner {
    /// Puts runs back where they belong.
    fn give_back(&self, runs: impl DoubleEndedIterator<Item = Run>) {
        let mut queue = self.queue.borrow_mut();
        for run in runs.rev() {
            let at = queue.partition_point(|r| r.number < run.number);
            queue.insert(at, run);
        }
    }

    fn is_ready(&self) -> bool {
        !self.queue.borrow().is_empty() || self.log.as_ref().is_some_and(|log| log.is_ready())
    }

    /// Writes what waits in memory to the log. Events that were in the log before keep their place before it.
    async fn save(&self, log: &FileChannel) -> Result<(), ChannelError> {
        loop {
            let Some(mut run) = self.queue.borrow_mut().pop_front() else { return Ok(()) };
            let rest_from = run.number + self.config.transaction_capacity as u64;
            let batch = run.batch.split_to(self.config.transaction_capacity);
            if !run.batch.is_empty() {
                let rest = Run { number: rest_from, after: run.after, batch: std::mem::take(&mut run.batch) };
                self.queue.borrow_mut().push_front(rest);
            }
            let saved = async {
                let mut put = log.begin_put()?;
                put.put(batch.clone()).await?;
                put.commit().await
            };
            if let Err(error) = saved.await {
                self.queue.borrow_mut().push_front(Run { batch, ..run });
                return Err(error);
            }
        }
    }
}

impl Channel for SpillableChannel {
    fn name(&self) -> &str {
        &self.0.name
    }
    fn transaction_capacity(&self) -> usize {
        self.0.config.transaction_capacity
    }
    fn begin_put(&self) -> Result<Box<dyn PutTransaction>, ChannelError> {
        if self.0.closed.get() {
            return Err(ChannelError::Closed(self.0.name.to_string()));
        }
        let memory = Memory { channel: self.0.clone(), batches: Vec::new(), events: 0, slots: 0 };
        Ok(Box::new(SpillablePut { memory, log: None, events: 0 }))
    }
    fn begin_take(&self) -> Result<Box<dyn TakeTransaction>, ChannelError> {
        if self.0.closed.get() {
            return Err(ChannelError::Closed(self.0.name.to_string()));
        }
        let log = self.0.log.as_ref().map(|log| log.begin_bounded()).transpose()?;
        Ok(Box::new(SpillableTake {
            channel: self.0.clone(),
            log,
            from_log: 0,
            taken: Vec::new(),
            events: 0,
        }))
    }
    fn wait_ready(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async {
            loop {
                let queued = self.0.ready.notified();
                if self.0.is_ready() {
                    return;
                }
                match &self.0.log {
                    None => queued.await,
                    Some(log) => tokio::select! {
                        () = queued => {}
                        () = log.wait_ready() => {}
                    },
                }
            }
        })
    }
    fn marks(&self, source: &str) -> Vec<SourceMark> {
        match &self.0.log {
            Some(log) if self.0.config.is_disk_only() => log.marks(source),
            _ => Vec::new(),
        }
    }
    fn is_durable(&self) -> bool {
        self.0.config.is_disk_only()
    }
    fn close(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async {
            self.0.closed.set(true);
            let waiting = || -> u64 { self.0.queue.borrow().iter().map(|run| run.batch.len() as u64).sum() };
            let before = waiting();
            let mut problem = None;
            if let Some(log) = &self.0.log {
                problem = self.0.save(log).await.err();
                log.close().await;
            }
            let lost = waiting();
            if before > lost {
                tracing::info!(channel = %self.0.name, events = before - lost, "wrote the events that waited in memory to the overflow");
            }
            if lost > 0 {
                let problem = problem.map_or_else(|| "there is no overflow".to_owned(), |e| e.to_string());
                tracing::warn!(channel = %self.0.name, events = lost, %problem, "closed with events in memory that no sink took; they are lost");
            }
        })
    }
}

/// What a put holds in memory; dropped, it gives back its room.
struct Memory {
    channel: Rc<Inner>,
    batches: Vec<EventBatch>,
    events: u64,
    slots: u64,
}

impl Memory {
    /// Waits for room for a batch. False if it could not be had in time.
    async fn reserve(&mut self, batch: &EventBatch, timeout: Duration) -> bool {
        let config = &self.channel.config;
        let (events, slots) = (batch.len() as u64, slots_of(batch, config.slot_bytes));
        if !config.memory.reserve(events, timeout, &self.channel.io).await {
            return false;
        }
        // Taken back if this future is dropped while it waits for bytes.
        self.events += events;
        if !config.slots.reserve(slots, timeout, &self.channel.io).await {
            self.events -= events;
            config.memory.release(events);
            return false;
        }
        self.slots += slots;
        true
    }
    fn release(&mut self) {
        self.channel.config.memory.release(std::mem::take(&mut self.events));
        self.channel.config.slots.release(std::mem::take(&mut self.slots));
    }
    fn commit(&mut self) {
        let channel = &self.channel;
        let after = channel.log.as_ref().map_or(0, |log| log.end());
        let mut queue = channel.queue.borrow_mut();
        for batch in self.batches.drain(..) {
            let number = channel.next_number.get();
            channel.next_number.set(number + batch.len() as u64);
            queue.push_back(Run { number, after, batch });
        }
        drop(queue);
        // The events in the queue keep their room.
        (self.events, self.slots) = (0, 0);
        channel.ready.notify_waiters();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.release();
    }
}

struct SpillablePut {
    memory: Memory,
    /// Set once the transaction did not fit in memory.
    log: Option<Box<dyn PutTransaction>>,
    events: u64,
}

impl SpillablePut {
    fn too_large(&self, events: u64) -> ChannelError {
        let (config, name) = (&self.memory.channel.config, &self.memory.channel.name);
        ChannelError::TooLarge(format!(
            "Put queue in {name} channel's Transaction having capacity {} full, consider reducing batch size of sources \
             [channel={name}: a transaction of {events} events; set transactionCapacity to at least that]",
            config.transaction_capacity,
        ))
    }

    /// Moves the transaction to the log.
    async fn spill(&mut self) -> Result<(), ChannelError> {
        let channel = self.memory.channel.clone();
        let (config, name) = (&channel.config, &channel.name);
        let Some(log) = &channel.log else {
            return Err(ChannelError::Full(format!(
                "Spillable Memory Channel's memory capacity has been reached and overflow is disabled. Consider increasing \
                 memoryCapacity. [channel={name}: memoryCapacity {}, {} events wait; about {} of {} bytes of bodies are in use; \
                 or set overflowCapacity]",
                config.memory.capacity(),
                config.memory.used(),
                config.slots.used() * config.slot_bytes,
                config.slots.capacity() * config.slot_bytes,
            )));
        };
        if !config.is_disk_only() && !config.is_overflowing.swap(true, Ordering::Relaxed) {
            tracing::info!(channel = %name, memory_capacity = config.memory.capacity(), "memory is full; events go to the overflow on disk");
        }
        self.memory.release();
        let mut put = log.begin_put()?;
        for batch in std::mem::take(&mut self.memory.batches) {
            put.put(batch).await?;
        }
        self.log = Some(put);
        Ok(())
    }
}

impl PutTransaction for SpillablePut {
    fn put(&mut self, mut batch: EventBatch) -> LocalBoxFuture<'_, Result<(), ChannelError>> {
        Box::pin(async move {
            let channel = self.memory.channel.clone();
            let config = &channel.config;
            if !config.is_disk_only() {
                // A position stored with some events and not with others would lie.
                batch.take_marks();
            }
            let count = batch.len() as u64;
            channel.counters.event_put_attempt.add(count);
            if self.events + count > config.transaction_capacity as u64 {
                return Err(self.too_large(self.events + count));
            }
            if self.log.is_none() {
                let is_overflowing = config.is_overflowing.load(Ordering::Relaxed);
                let timeout = if is_overflowing { Duration::ZERO } else { config.overflow_timeout };
                if !config.is_disk_only() && (count == 0 || self.memory.reserve(&batch, timeout).await) {
                    self.events += count;
                    self.memory.batches.push(batch);
                    return Ok(());
                }
                self.spill().await?;
            }
            if let Some(put) = &mut self.log {
                put.put(batch).await?;
                self.events += count;
            }
            Ok(())
        })
    }
    fn commit(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ChannelError>> {
        let counters = self.memory.channel.counters.clone();
        let events = self.events;
        let Some(put) = self.log.take() else {
            self.memory.commit();
            counters.channel_size.add(events);
            counters.event_put_success.add(events);
            return Box::pin(std::future::ready(Ok(())));
        };
        Box::pin(async move {
            // Counted before it can be taken; see also below.
            counters.channel_size.add(events);
            let done = put.commit().await;
            match done {
                Ok(()) => counters.event_put_success.add(events),
                Err(_) => counters.channel_size.subtract(events),
            }
            done
        })
    }
}

struct SpillableTake {
    channel: Rc<Inner>,
    log: Option<FileTake>,
    /// Events taken from the log.
    from_log: u64,
    taken: Vec<Run>,
    events: usize,
}

impl SpillableTake {
    async fn take_some(&mut self, wanted: usize) -> Result<EventBatch, ChannelError> {
        let channel = self.channel.clone();
        loop {
            let before = channel.queue.borrow().front().map(|run| run.after);
            if let (Some(log), Some(take)) = (&channel.log, &mut self.log)
                && log.is_ready()
            {
                let batch = take.take_before(wanted, before.unwrap_or(u64::MAX)).await?;
                if !batch.is_empty() {
                    self.from_log += batch.len() as u64;
                    return Ok(batch);
                }
            }
            let mut queue = channel.queue.borrow_mut();
            // Others may have put and taken while the log was asked.
            if queue.front().map(|run| run.after) != before {
                continue;
            }
            let Some(front) = queue.front_mut() else { return Ok(EventBatch::default()) };
            let batch = front.batch.split_to(wanted);
            let run = Run { number: front.number, after: front.after, batch: batch.clone() };
            front.number += batch.len() as u64;
            if front.batch.is_empty() {
                queue.pop_front();
            }
            self.taken.push(run);
            return Ok(batch);
        }
    }
}

impl TakeTransaction for SpillableTake {
    fn take(&mut self, events_max: usize) -> LocalBoxFuture<'_, Result<EventBatch, ChannelError>> {
        Box::pin(async move {
            let channel = self.channel.clone();
            let capacity = channel.config.transaction_capacity;
            let room = capacity - self.events;
            if room == 0 && events_max > 0 {
                channel.counters.event_take_attempt.add(1);
                return Err(ChannelError::TooLarge(format!(
                    "Take list for SpillableMemoryTransaction, capacity {capacity} full, consider committing more frequently, \
                     increasing capacity, or increasing thread count [channel={}: set transactionCapacity to at least the \
                     sink's batch size]",
                    channel.name
                )));
            }
            let batch = match events_max.min(room) {
                0 => EventBatch::default(),
                wanted => self.take_some(wanted).await?,
            };
            self.events += batch.len();
            channel.counters.event_take_attempt.add(batch.len().max(1) as u64);
            Ok(batch)
        })
    }
    fn commit(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ChannelError>> {
        let (channel, config) = (&self.channel, &self.channel.config);
        let taken = std::mem::take(&mut self.taken);
        let from_memory: u64 = taken.iter().map(|run| run.batch.len() as u64).sum();
        config.memory.release(from_memory);
        config.slots.release(taken.iter().map(|run| slots_of(&run.batch, config.slot_bytes)).sum());
        let events = from_memory + self.from_log;
        channel.counters.event_take_success.add(events);
        channel.counters.channel_size.subtract(events);
        if events > 0 {
            config.end_overflow(&channel.name);
        }
        match self.log.take() {
            Some(log) => (Box::new(log) as Box<dyn TakeTransaction>).commit(),
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }
}

impl Drop for SpillableTake {
    fn drop(&mut self) {
        if !self.taken.is_empty() {
            self.channel.give_back(std::mem::take(&mut self.taken).into_iter());
            self.channel.ready.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
