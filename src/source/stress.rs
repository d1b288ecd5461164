//! Stress source: the same body over and over, as fast as the channels take it.
//!
//! Flume: `org.apache.flume.source.StressSource`. Runs on one shard.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{OpenError, Placement, Source, SourceConfig, SourceContext, SourceEntry, SourceError};
use crate::config::{ParseContext, Positive, Property, PropertySpec};
use crate::event::{BODIES_BYTES_MAX, EventBatch, Separator};
use crate::io::LocalBoxFuture;
use crate::io::stop::Stop;

const SIZE: Property<u32> = Property::optional("size", "500", "Size of each body, in bytes.");
const MAX_TOTAL_EVENTS: Property<i64> =
    Property::optional("maxTotalEvents", "-1", "Stops after as many events were tried. -1 = never.");
const MAX_SUCCESSFUL_EVENTS: Property<i64> =
    Property::optional("maxSuccessfulEvents", "-1", "Stops after the channels took as many. -1 = never.");
const BATCH_SIZE: Property<Positive> = Property::optional("batchSize", "1", "Events of one transaction.");
const MAX_EVENTS_PER_SECOND: Property<u32> =
    Property::optional("maxEventsPerSecond", "0", "Most events a second. 0 = no limit.");

/// Every property the stress source reads.
pub const PROPERTIES: &[&dyn PropertySpec] =
    &[&SIZE, &MAX_TOTAL_EVENTS, &MAX_SUCCESSFUL_EVENTS, &BATCH_SIZE, &MAX_EVENTS_PER_SECOND];

/// Row of the registry.
pub const ENTRY: SourceEntry = SourceEntry {
    name: "",
    class: "org.apache.flume.source.StressSource",
    summary: "The same body over and over; for load tests.",
    placement: Placement::OneShard,
    properties: PROPERTIES,
    parse,
};

/// Every byte of a body, as in Flume.
const FILLING: u8 = 0x7F;
/// How long to wait after a channel refused a batch: Flume's back-off grows from 1 s to 5 s, which would
/// measure the waiting and not the channel.
const REFUSED_WAIT: Duration = Duration::from_millis(100);

struct StressConfig {
    size: u32,
    total_max: Option<u64>,
    successful_max: Option<u64>,
    batch_size: usize,
    per_second_max: u32,
}

/// Reads the settings of a stress source.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    let size = cx.get(&SIZE);
    let total_max = cx.get(&MAX_TOTAL_EVENTS);
    let successful_max = cx.get(&MAX_SUCCESSFUL_EVENTS);
    let batch_size = cx.get(&BATCH_SIZE);
    let per_second_max = cx.get(&MAX_EVENTS_PER_SECOND);
    let (size, batch_size) = (size?, batch_size?.0);
    if (size as usize).saturating_mul(batch_size) >= BODIES_BYTES_MAX {
        cx.error(
            BATCH_SIZE.name(),
            format!("{batch_size} events of {size} bytes are more than one transaction can hold (4 GiB)"),
            Some(format!(
                "set {} = {}",
                cx.full_key(BATCH_SIZE.name()),
                (BODIES_BYTES_MAX / 2) / size.max(1) as usize
            )),
        );
        return None;
    }
    Some(Arc::new(StressConfig {
        size,
        total_max: u64::try_from(total_max?).ok(),
        successful_max: u64::try_from(successful_max?).ok(),
        batch_size,
        per_second_max: per_second_max?,
    }))
}

impl SourceConfig for StressConfig {
    fn headers_set(&self) -> Option<Vec<String>> {
        Some(Vec::new())
    }
    fn batch_size(&self) -> Option<usize> {
        Some(self.batch_size)
    }
    fn open(
        self: Arc<Self>,
        cx: SourceContext,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Source>, OpenError>> {
        Box::pin(async move { Ok(Box::new(Stress { config: self, cx }) as Box<dyn Source>) })
    }
}

struct Stress {
    config: Arc<StressConfig>,
    cx: SourceContext,
}

impl Stress {
    /// One batch, made once: every put shares its bodies.
    fn batch(&self) -> EventBatch {
        let StressConfig { size, batch_size, .. } = *self.config;
        let bodies = Bytes::from(vec![FILLING; size as usize * batch_size]);
        let ends = (1..=batch_size as u32).map(|i| i * size).collect();
        EventBatch::from_parts(bodies, ends, Separator::None).unwrap_or_default()
    }
}

impl Source for Stress {
    fn run(self: Box<Self>, stop: Stop) -> LocalBoxFuture<'static, Result<(), SourceError>> {
        Box::pin(async move {
            let config = &self.config;
            let (io, counters) = (&self.cx.io, &self.cx.counters);
            let batch = self.batch();
            let (mut total, mut successful) = (0u64, 0u64);
            // When the next batch may go if the rate is limited.
            let mut due = io.now();
            while !stop.is_requested() {
                let left = config.total_max.map_or(u64::MAX, |max| max.saturating_sub(total));
                if left == 0 || config.successful_max.is_some_and(|max| successful >= max) {
                    break;
                }
                let count = (batch.len() as u64).min(left);
                if config.per_second_max > 0 {
                    let now = io.now();
                    if due > now && stop.or(io.sleep(due - now)).await.is_none() {
                        break;
                    }
                    let share = Duration::from_secs_f64(count as f64 / f64::from(config.per_second_max));
                    due = due.max(now) + share;
                }
                counters.event_received.add(count);
                let part =
                    if count == batch.len() as u64 { batch.clone() } else { batch.slice(0, count as usize) };
                total += count;
                match self.cx.channels.process_batch(part).await {
                    Ok(()) => {
                        successful += count;
                        counters.event_accepted.add(count);
                        tokio::task::yield_now().await;
                    }
                    Err(error) => {
                        counters.channel_write_fail.add(1);
                        tracing::debug!(source = %self.cx.name, %error, "channel did not take a batch");
                        stop.or(io.sleep(REFUSED_WAIT)).await;
                    }
                }
            }
            tracing::info!(source = %self.cx.name, total, successful, "stress source has finished");
            Ok(())
        })
    }
    fn describe(&self) -> String {
        format!("makes events of {} bytes", self.config.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::io::{EngineKind, run_local, stop};
    use crate::testing;

    #[test]
    fn makes_as_many_as_asked() {
        run_local(EngineKind::Portable, |io| async move {
            let lines = "size = 3\nbatchSize = 4\nmaxTotalEvents = 10\nmaxEventsPerSecond = 1000000";
            let (config, _) = testing::parse(Kind::Source, lines, parse);
            let channel = testing::memory_channel(&io, 100);
            let source = config.unwrap().open(testing::source_context(&io, channel.clone())).await;
            let (_handle, stop) = stop::channel();
            source.map_err(|e| e.message).unwrap().run(stop).await.unwrap();
            assert_eq!(testing::drain_bodies(&*channel).await, ["\x7F\x7F\x7F"; 10]);
        })
        .unwrap();
    }

    #[test]
    fn refused_events_count_for_the_total_only() {
        run_local(EngineKind::Portable, |io| async move {
            let lines = "size = 1\nbatchSize = 3\nmaxTotalEvents = 8\nmaxSuccessfulEvents = 100";
            let (config, _) = testing::parse(Kind::Source, lines, parse);
            let channel = testing::memory_channel(&io, 4);
            let cx = testing::source_context(&io, channel.clone());
            let counters = cx.counters.clone();
            let source = config.unwrap().open(cx).await;
            let (_handle, stop) = stop::channel();
            source.map_err(|e| e.message).unwrap().run(stop).await.unwrap();
            assert_eq!((counters.event_received.value(), counters.event_accepted.value()), (8, 3));
        })
        .unwrap();
    }

    #[test]
    fn a_batch_must_fit_one_buffer() {
        let (config, complaints) = testing::parse(Kind::Source, "size = 1000000\nbatchSize = 10000", parse);
        assert!(config.is_none() && complaints[0].contains("batchSize"), "{complaints:?}");
    }
}
