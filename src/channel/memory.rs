//! `memory` channel: events wait in this process's memory.
//!
//! Flume: `org.apache.flume.channel.MemoryChannel`. Each shard has its own queue; `capacity` and
//! `byteCapacity` are shared. Nothing survives the end of the process.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::budget::Budget;
use super::byte_capacity::{self, BYTE_CAPACITY, BYTE_CAPACITY_BUFFER_PERCENTAGE, slots_of, slots_within};
use super::queue::Queue;
use super::{
    Channel, ChannelConfig, ChannelContext, ChannelEntry, ChannelError, PutTransaction, TakeTransaction,
};
use crate::component::OpenError;
use crate::config::{ParseContext, Property, PropertySpec, Seconds};
use crate::event::{EventBatch, SourceMark};
use crate::io::LocalBoxFuture;

const CAPACITY: Property<i64> =
    Property::optional("capacity", "100", "Most events that may wait. 0 or less counts as 100.");
const TRANSACTION_CAPACITY: Property<i64> = Property::optional(
    "transactionCapacity",
    "100",
    "Most events of one put or take transaction. 0 or less counts as 100. Must not exceed `capacity`.",
);
const KEEP_ALIVE: Property<Seconds> = Property::optional(
    "keep-alive",
    "3",
    "How long a put waits for room before the source is told that the channel is full.",
);
/// Row of the registry.
pub const ENTRY: ChannelEntry = ChannelEntry {
    name: "memory",
    class: "org.apache.flume.channel.MemoryChannel",
    summary: "Events wait in memory: fastest, and gone when the process ends.",
    properties: PROPERTIES,
    parse,
};

/// Every property the memory channel reads.
pub const PROPERTIES: &[&dyn PropertySpec] =
    &[&CAPACITY, &TRANSACTION_CAPACITY, &KEEP_ALIVE, &BYTE_CAPACITY, &BYTE_CAPACITY_BUFFER_PERCENTAGE];

/// Bytes of one slot of the byte budget, as in Flume (`byteCapacitySlotSize`).
const SLOT_BYTES: u64 = 100;
/// Flume's default of both capacities.
const CAPACITY_DEFAULT: i64 = 100;

/// A memory channel's settings and what its shards share.
#[derive(Debug)]
pub struct MemoryConfig {
    events: Budget,
    slots: Budget,
    byte_capacity: u64,
    transaction_capacity: usize,
    keep_alive: Duration,
}

impl MemoryConfig {
    /// Settings without a file, for tests and for channels built upon this one.
    pub fn new(
        capacity: u64,
        transaction_capacity: usize,
        keep_alive: Duration,
        byte_capacity: u64,
        percentage: u32,
    ) -> Self {
        Self {
            events: Budget::new(capacity),
            slots: Budget::new(slots_within(byte_capacity, percentage, SLOT_BYTES)),
            byte_capacity,
            transaction_capacity,
            keep_alive,
        }
    }
}

/// Reads the settings of a memory channel.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn ChannelConfig>> {
    let positive = |cx: &mut ParseContext<'_>, property: &Property<i64>| {
        let number = cx.get(property)?;
        if number <= 0 {
            cx.warning(
                property.name(),
                format!("must be above 0; {CAPACITY_DEFAULT} is used, as in Flume"),
                None,
            );
            return Some(CAPACITY_DEFAULT);
        }
        Some(number)
    };
    let capacity = positive(cx, &CAPACITY);
    let transaction_capacity = positive(cx, &TRANSACTION_CAPACITY);
    let keep_alive = cx.get(&KEEP_ALIVE);
    let bytes = byte_capacity::parse(cx);
    let (capacity, transaction_capacity) = (capacity?, transaction_capacity?);
    if transaction_capacity > capacity {
        cx.error(
            TRANSACTION_CAPACITY.name(),
            format!("Transaction capacity of Memory Channel cannot be higher than the capacity ({capacity})"),
            Some(format!("set {} = {transaction_capacity}", cx.full_key(CAPACITY.name()))),
        );
        return None;
    }
    let (byte_capacity, percentage) = bytes?;
    Some(Arc::new(MemoryConfig::new(
        capacity as u64,
        transaction_capacity as usize,
        keep_alive?.0,
        byte_capacity,
        percentage,
    )))
}

impl ChannelConfig for MemoryConfig {
    fn capacity(&self) -> u64 {
        self.events.capacity()
    }
    fn transaction_capacity(&self) -> usize {
        self.transaction_capacity
    }
    fn durability(&self) -> String {
        "memory: events that wait are lost when the process ends".to_owned()
    }
    fn open(
        self: Arc<Self>,
        cx: ChannelContext,
    ) -> LocalBoxFuture<'static, Result<Rc<dyn Channel>, OpenError>> {
        Box::pin(async move { Ok(MemoryChannel::open(self, cx) as Rc<dyn Channel>) })
    }
}

/// A memory channel of one shard.
pub struct MemoryChannel(Rc<Queue<MemoryConfig>>);

impl MemoryChannel {
    /// A channel over shared settings.
    pub fn open(config: Arc<MemoryConfig>, cx: ChannelContext) -> Rc<Self> {
        Rc::new(Self(Queue::open(config, cx)))
    }
    /// Events that wait on this shard.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// True if none waits on this shard.
    pub fn is_empty(&self) -> bool {
        self.0.batches.borrow().is_empty()
    }
}

impl Channel for MemoryChannel {
    fn name(&self) -> &str {
        &self.0.name
    }
    fn transaction_capacity(&self) -> usize {
        self.0.config.transaction_capacity
    }
    fn begin_put(&self) -> Result<Box<dyn PutTransaction>, ChannelError> {
        self.0.check_open()?;
        Ok(Box::new(MemoryPut {
            queue: self.0.clone(),
            batches: Vec::new(),
            events: 0,
            slots: 0,
            committed: false,
        }))
    }
    fn begin_take(&self) -> Result<Box<dyn TakeTransaction>, ChannelError> {
        Ok(Box::new(MemoryTake { queue: self.0.clone(), taken: Vec::new(), events: 0 }))
    }
    fn wait_ready(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.0.wait_ready())
    }
    fn marks(&self, _source: &str) -> Vec<SourceMark> {
        Vec::new()
    }
    fn is_durable(&self) -> bool {
        false
    }
    fn close(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async { self.0.close() })
    }
}

struct MemoryPut {
    queue: Rc<Queue<MemoryConfig>>,
    batches: Vec<EventBatch>,
    events: u64,
    slots: u64,
    committed: bool,
}

impl PutTransaction for MemoryPut {
    fn put(&mut self, mut batch: EventBatch) -> LocalBoxFuture<'_, Result<(), ChannelError>> {
        Box::pin(async move {
            let queue = &self.queue;
            let config = &queue.config;
            batch.take_marks();
            let events = batch.len() as u64;
            if events == 0 {
                return Ok(());
            }
            queue.counters.event_put_attempt.add(events);
            if self.events + events > config.transaction_capacity as u64 {
                return Err(ChannelError::TooLarge(format!(
                    "Put queue for MemoryTransaction of capacity {0} full, consider committing more frequently, increasing \
                     capacity or increasing thread count [channel={1}: a transaction of {2} events; set transactionCapacity \
                     of {1} to at least {2}]",
                    config.transaction_capacity,
                    queue.name,
                    self.events + events,
                )));
            }
            let slots = slots_of(&batch, SLOT_BYTES);
            if !config.slots.reserve(slots, config.keep_alive, &queue.io).await {
                return Err(ChannelError::Full(format!(
                    "Cannot commit transaction. Byte capacity allocated to store event body {} reached. Please increase heap \
                     space/byte capacity allocated to the channel as the sinks may not be keeping up with the sources \
                     [channel={}: byteCapacity {}, in use about {} bytes, needed {}]",
                    config.slots.capacity() * SLOT_BYTES,
                    queue.name,
                    config.byte_capacity,
                    config.slots.used() * SLOT_BYTES,
                    slots * SLOT_BYTES,
                )));
            }
            if !config.events.reserve(events, config.keep_alive, &queue.io).await {
                config.slots.release(slots);
                return Err(ChannelError::Full(format!(
                    "Space for commit to queue couldn't be acquired. Sinks are likely not keeping up with sources, or the \
                     buffer size is too tight [channel={}: capacity {}, {} events wait, {events} more do not fit; raise \
                     capacity or speed up the sink]",
                    queue.name,
                    config.events.capacity(),
                    config.events.used(),
                )));
            }
            self.events += events;
            self.slots += slots;
            self.batches.push(batch);
            Ok(())
        })
    }
    fn commit(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ChannelError>> {
        self.committed = true;
        let queue = &self.queue;
        queue.counters.event_put_success.add(self.events);
        queue.counters.channel_size.add(self.events);
        queue.batches.borrow_mut().extend(self.batches.drain(..));
        queue.ready.notify_waiters();
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Drop for MemoryPut {
    fn drop(&mut self) {
        if !self.committed {
            self.queue.config.events.release(self.events);
            self.queue.config.slots.release(self.slots);
        }
    }
}

struct MemoryTake {
    queue: Rc<Queue<MemoryConfig>>,
    taken: Vec<EventBatch>,
    events: usize,
}

impl TakeTransaction for MemoryTake {
    fn take(&mut self, events_max: usize) -> LocalBoxFuture<'_, Result<EventBatch, ChannelError>> {
        let capacity = self.queue.config.transaction_capacity;
        let counters = &self.queue.counters;
        let room = capacity - self.events;
        let mut queue = self.queue.batches.borrow_mut();
        let result = if room == 0 && events_max > 0 {
            counters.event_take_attempt.add(1);
            Err(ChannelError::TooLarge(format!(
                "Take list for MemoryTransaction, capacity {capacity} full, consider committing more frequently, increasing \
                 capacity, or increasing thread count [channel={}: set transactionCapacity to at least the sink's batch size]",
                self.queue.name,
            )))
        } else if let Some(front) = queue.front_mut() {
            let batch = front.split_to(events_max.min(room));
            if front.is_empty() {
                queue.pop_front();
            }
            counters.event_take_attempt.add(batch.len() as u64);
            self.events += batch.len();
            self.taken.push(batch.clone());
            Ok(batch)
        } else {
            counters.event_take_attempt.add(1);
            Ok(EventBatch::default())
        };
        Box::pin(std::future::ready(result))
    }
    fn commit(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ChannelError>> {
        let queue = &self.queue;
        let events = self.events as u64;
        queue.config.events.release(events);
        queue.config.slots.release(self.taken.iter().map(|b| slots_of(b, SLOT_BYTES)).sum());
        queue.counters.event_take_success.add(events);
        queue.counters.channel_size.subtract(events);
        self.taken.clear();
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Drop for MemoryTake {
    fn drop(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let mut queue = self.queue.batches.borrow_mut();
        for batch in self.taken.drain(..).rev() {
            queue.push_front(batch);
        }
        drop(queue);
        self.queue.ready.notify_waiters();
    }
}
