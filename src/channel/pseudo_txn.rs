//! `PseudoTxnMemoryChannel`: a queue in memory whose transactions do nothing.
//!
//! Flume: `org.apache.flume.channel.PseudoTxnMemoryChannel`, known by its class name only. A put is visible at
//! once and waits for room as long as it takes; a take is final at once, so a sink that fails loses what it
//! took. Each shard has its own queue; `capacity` is shared.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::budget::Budget;
use super::queue::Queue;
use super::{
    Channel, ChannelConfig, ChannelContext, ChannelEntry, ChannelError, PutTransaction, TakeTransaction,
};
use crate::component::OpenError;
use crate::config::{ParseContext, Positive, Property, PropertySpec, Seconds};
use crate::event::{EventBatch, SourceMark};
use crate::io::LocalBoxFuture;

const CAPACITY: Property<Positive> =
    Property::optional("capacity", "50", "Most events that may wait. A put waits for room without limit.");
const KEEP_ALIVE: Property<Seconds> = Property::optional(
    "keep-alive",
    "3",
    "Accepted and without effect: how long a take waits for an event. Here a sink is woken when there is one.",
);

/// Every property the channel reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&CAPACITY, &KEEP_ALIVE];

/// Row of the registry.
pub const ENTRY: ChannelEntry = ChannelEntry {
    name: "",
    class: "org.apache.flume.channel.PseudoTxnMemoryChannel",
    summary: "A queue in memory without transactions: what a sink took and could not deliver is lost. For tests.",
    properties: PROPERTIES,
    parse,
};

/// How long one wait for room takes before the next begins.
const WAIT: Duration = Duration::from_secs(3600);
/// A transaction may have any size, since it is none.
const TRANSACTION_EVENTS_MAX: usize = u32::MAX as usize;

/// The channel's settings and what its shards share.
#[derive(Debug)]
pub struct PseudoTxnConfig {
    events: Budget,
}

/// Reads the settings.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn ChannelConfig>> {
    let (capacity, keep_alive) = (cx.get(&CAPACITY), cx.get(&KEEP_ALIVE));
    keep_alive?;
    Some(Arc::new(PseudoTxnConfig { events: Budget::new(capacity?.0 as u64) }))
}

impl ChannelConfig for PseudoTxnConfig {
    fn capacity(&self) -> u64 {
        self.events.capacity()
    }
    fn transaction_capacity(&self) -> usize {
        TRANSACTION_EVENTS_MAX
    }
    fn durability(&self) -> String {
        "memory without transactions: events that wait are lost when the process ends, and those a sink could not deliver are lost at once".to_owned()
    }
    fn open(
        self: Arc<Self>,
        cx: ChannelContext,
    ) -> LocalBoxFuture<'static, Result<Rc<dyn Channel>, OpenError>> {
        Box::pin(async move { Ok(PseudoTxnChannel::open(self, cx) as Rc<dyn Channel>) })
    }
}

/// The channel of one shard.
pub struct PseudoTxnChannel(Rc<Queue<PseudoTxnConfig>>);

impl PseudoTxnChannel {
    fn open(config: Arc<PseudoTxnConfig>, cx: ChannelContext) -> Rc<Self> {
        Rc::new(Self(Queue::open(config, cx)))
    }
}

impl Channel for PseudoTxnChannel {
    fn name(&self) -> &str {
        &self.0.name
    }
    fn transaction_capacity(&self) -> usize {
        TRANSACTION_EVENTS_MAX
    }
    fn begin_put(&self) -> Result<Box<dyn PutTransaction>, ChannelError> {
        self.0.check_open()?;
        Ok(Box::new(PseudoPut(self.0.clone())))
    }
    fn begin_take(&self) -> Result<Box<dyn TakeTransaction>, ChannelError> {
        Ok(Box::new(PseudoTake(self.0.clone())))
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

struct PseudoPut(Rc<Queue<PseudoTxnConfig>>);

impl PutTransaction for PseudoPut {
    /// Puts at once, piece by piece as there is room. Dropped half-way, what was put stays, as in Flume.
    fn put(&mut self, mut batch: EventBatch) -> LocalBoxFuture<'_, Result<(), ChannelError>> {
        Box::pin(async move {
            let queue = &self.0;
            batch.take_marks();
            queue.counters.event_put_attempt.add(batch.len() as u64);
            let budget = &queue.config.events;
            while !batch.is_empty() {
                // What fits now, or one event: a put larger than the capacity goes on as sinks take.
                let free = budget.capacity().saturating_sub(budget.used()).max(1);
                let events = (batch.len() as u64).min(free);
                while !budget.reserve(events, WAIT, &queue.io).await {}
                let piece = batch.split_to(events as usize);
                queue.counters.event_put_success.add(events);
                queue.counters.channel_size.add(events);
                queue.batches.borrow_mut().push_back(piece);
                queue.ready.notify_waiters();
            }
            Ok(())
        })
    }
    fn commit(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ChannelError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

struct PseudoTake(Rc<Queue<PseudoTxnConfig>>);

impl TakeTransaction for PseudoTake {
    /// Final at once: there is nothing to commit or to roll back.
    fn take(&mut self, events_max: usize) -> LocalBoxFuture<'_, Result<EventBatch, ChannelError>> {
        let queue = &self.0;
        let mut batches = queue.batches.borrow_mut();
        let batch = match batches.front_mut() {
            Some(front) if events_max > 0 => {
                let batch = front.split_to(events_max);
                if front.is_empty() {
                    batches.pop_front();
                }
                batch
            }
            _ => EventBatch::default(),
        };
        let events = batch.len() as u64;
        queue.counters.event_take_attempt.add(events.max(1));
        queue.counters.event_take_success.add(events);
        queue.counters.channel_size.subtract(events);
        queue.config.events.release(events);
        Box::pin(std::future::ready(Ok(batch)))
    }
    fn commit(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ChannelError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::io::{EngineKind, Io, run_local};
    use crate::testing;

    fn channel(io: &Io, lines: &str) -> Rc<PseudoTxnChannel> {
        let config = PseudoTxnConfig { events: Budget::new(lines.parse().unwrap()) };
        PseudoTxnChannel::open(Arc::new(config), testing::channel_context(io))
    }

    #[test]
    fn settings() {
        for (lines, capacity) in
            [("", Some(50)), ("capacity = 7\nkeep-alive = 1", Some(7)), ("capacity = 0", None)]
        {
            let (config, complaints) = testing::parse(Kind::Channel, lines, parse);
            assert_eq!(config.map(|c| c.capacity()), capacity, "{lines}");
            assert_eq!(complaints.is_empty(), capacity.is_some(), "{complaints:?}");
        }
    }

    #[test]
    fn a_put_is_visible_and_a_take_is_final_at_once() {
        run_local(EngineKind::Portable, |io| async move {
            let channel = channel(&io, "50");
            let mut put = channel.begin_put().unwrap();
            put.put(EventBatch::single(Default::default(), "a")).await.unwrap();
            let mut take = channel.begin_take().unwrap();
            assert_eq!(take.take(10).await.unwrap().body(0), b"a");
            drop((put, take));
            assert_eq!(testing::drain_bodies(&*channel).await, [""; 0], "a rollback brings nothing back");
            let size = channel.0.counters.channel_size.value();
            assert_eq!((size, channel.0.counters.event_take_success.value()), (0, 1));
        })
        .unwrap();
    }

    #[test]
    fn a_put_waits_for_room() {
        run_local(EngineKind::Portable, |io| async move {
            let channel = channel(&io, "3");
            let source = channel.clone();
            let bodies: Vec<String> = (0..10).map(|i| i.to_string()).collect();
            let expected = bodies.clone();
            let put = crate::io::spawn(async move {
                let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
                testing::put(&*source, &[], &bodies).await;
            });
            testing::expect(&io, || channel.0.counters.channel_size.value() == 3).await;
            assert!(!put.is_finished());
            assert_eq!(testing::expect_bodies(&io, &*channel, 10).await, expected);
            put.await.unwrap();
        })
        .unwrap();
    }
}
