//! `null` sink: throws events away.
//!
//! Flume: `org.apache.flume.sink.NullSink`. Runs in as many lanes as there are shards.

use std::sync::Arc;

use super::{DeliveryError, Lanes, OpenError, Sink, SinkConfig, SinkContext, SinkEntry, Status};
use crate::config::{ParseContext, Positive, Property, PropertySpec};
use crate::event::EventBatch;
use crate::io::LocalBoxFuture;

const BATCH_SIZE: Property<Positive> =
    Property::optional("batchSize", "100", "Most events of one transaction.");
const LOG_EVERY_N_EVENTS: Property<Positive> = Property::optional(
    "logEveryNEvents",
    "10000",
    "After how many events a line with the number so far is logged, per lane.",
);

/// Every property it reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&BATCH_SIZE, &LOG_EVERY_N_EVENTS];

/// Its row of the registry.
pub const ENTRY: SinkEntry = SinkEntry {
    name: "null",
    class: "org.apache.flume.sink.NullSink",
    summary: "Throws events away; for measuring and for events nobody wants.",
    lanes: Lanes::PerShard,
    properties: PROPERTIES,
    parse,
};

struct NullConfig {
    batch_size: usize,
    log_every_events: u64,
}

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SinkConfig>> {
    let batch_size = cx.get(&BATCH_SIZE);
    let log_every = cx.get(&LOG_EVERY_N_EVENTS);
    Some(Arc::new(NullConfig { batch_size: batch_size?.0, log_every_events: log_every?.0 as u64 }))
}

impl SinkConfig for NullConfig {
    fn batch_size(&self) -> Option<usize> {
        Some(self.batch_size)
    }
    fn open(self: Arc<Self>, cx: SinkContext) -> LocalBoxFuture<'static, Result<Box<dyn Sink>, OpenError>> {
        Box::pin(async move { Ok(Box::new(Null { config: self, cx, events: 0 }) as Box<dyn Sink>) })
    }
}

struct Null {
    config: Arc<NullConfig>,
    cx: SinkContext,
    events: u64,
}

impl Null {
    async fn take(&mut self) -> Result<Status, DeliveryError> {
        let mut transaction = self.cx.channel.begin_take()?;
        let batch: EventBatch = transaction.take(self.config.batch_size).await?;
        self.cx.counters.took(batch.len(), self.config.batch_size);
        if batch.is_empty() {
            return Ok(Status::Empty);
        }
        self.cx.counters.event_drain_attempt.add(batch.len() as u64);
        transaction.commit().await?;
        self.cx.counters.event_drain_success.add(batch.len() as u64);
        let before = self.events / self.config.log_every_events;
        self.events += batch.len() as u64;
        if self.events / self.config.log_every_events > before {
            tracing::info!(sink = %self.cx.name, lane = self.cx.lane, events = self.events, "null sink successfully processed events");
        }
        Ok(Status::Ready)
    }
}

impl Sink for Null {
    fn process(&mut self) -> LocalBoxFuture<'_, Result<Status, DeliveryError>> {
        Box::pin(self.take())
    }
    fn stop(&mut self) -> LocalBoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
    fn describe(&self) -> String {
        "throws events away".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::io::{EngineKind, run_local};
    use crate::testing;

    #[test]
    fn settings() {
        for (lines, accepted) in [
            ("", true),
            ("batchSize = 1\nlogEveryNEvents = 1", true),
            ("batchSize = 0", false),
            ("logEveryNEvents = -1", false),
            ("batchSize = x", false),
        ] {
            let (config, complaints) = testing::parse(Kind::Sink, lines, parse);
            assert_eq!((config.is_some(), complaints.is_empty()), (accepted, accepted), "{lines}");
        }
    }

    #[test]
    fn empties_the_channel_a_batch_at_a_time() {
        run_local(EngineKind::Portable, |io| async move {
            let channel = testing::memory_channel(&io, 10);
            testing::put(&*channel, &[], &["a", "b", "c"]).await;
            let config = testing::parse(Kind::Sink, "batchSize = 2", parse).0.unwrap();
            let mut sink = config.open(testing::sink_context(&io, channel.clone())).await.unwrap();
            assert_eq!(sink.process().await.unwrap(), Status::Ready);
            assert_eq!(channel.len(), 1);
            assert_eq!(sink.process().await.unwrap(), Status::Ready);
            assert_eq!(sink.process().await.unwrap(), Status::Empty);
        })
        .unwrap();
    }
}
