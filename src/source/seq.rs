//! `seq` source: numbers, counting up from 0.
//!
//! Flume: `org.apache.flume.source.SequenceGeneratorSource`. Runs on one shard.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use super::deliver::{Backoff, Deliver, Unmarked};
use super::{OpenError, Placement, Source, SourceConfig, SourceContext, SourceEntry, SourceError};
use crate::config::{ParseContext, Positive, Property, PropertySpec};
use crate::event::{BatchBuilder, Separator};
use crate::io::LocalBoxFuture;
use crate::io::stop::Stop;

const BATCH_SIZE: Property<Positive> = Property::optional("batchSize", "1", "Events of one transaction.");
const TOTAL_EVENTS: Property<u64> =
    Property::optional("totalEvents", "9223372036854775807", "Stops after as many events.");

/// Every property the seq source reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&BATCH_SIZE, &TOTAL_EVENTS];

/// Row of the registry.
pub const ENTRY: SourceEntry = SourceEntry {
    name: "seq",
    class: "org.apache.flume.source.SequenceGeneratorSource",
    summary: "Numbers, counting up from 0; for tests.",
    placement: Placement::OneShard,
    properties: PROPERTIES,
    parse,
};

struct SeqConfig {
    batch_size: usize,
    total_events: u64,
}

/// Reads the settings of a seq source.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    let batch_size = cx.get(&BATCH_SIZE);
    let total_events = cx.get(&TOTAL_EVENTS);
    Some(Arc::new(SeqConfig { batch_size: batch_size?.0, total_events: total_events? }))
}

impl SourceConfig for SeqConfig {
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
        Box::pin(async move { Ok(Box::new(Seq { config: self, cx }) as Box<dyn Source>) })
    }
}

struct Seq {
    config: Arc<SeqConfig>,
    cx: SourceContext,
}

impl Source for Seq {
    fn run(self: Box<Self>, stop: Stop) -> LocalBoxFuture<'static, Result<(), SourceError>> {
        Box::pin(async move {
            let backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
            let deliver = Deliver::of_own(&self.cx, self.config.batch_size, backoff);
            let mut text = String::new();
            let mut next = 0;
            while next < self.config.total_events && !stop.is_requested() {
                let count = (self.config.batch_size as u64).min(self.config.total_events - next);
                let mut builder = BatchBuilder::new(Separator::None);
                for number in next..next + count {
                    text.clear();
                    let _ = write!(text, "{number}");
                    builder.push(text.as_bytes());
                }
                next += count;
                deliver.push(builder.finish(), Unmarked, &stop).await;
                // A channel that is never waited for must not keep the others from the core.
                tokio::task::yield_now().await;
            }
            deliver.settle(&stop).await;
            Ok(())
        })
    }
    fn describe(&self) -> String {
        "counts up from 0".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::io::{EngineKind, run_local, stop};
    use crate::testing;

    #[test]
    fn counts_to_the_total() {
        run_local(EngineKind::Portable, |io| async move {
            let (config, _) = testing::parse(Kind::Source, "batchSize = 4\ntotalEvents = 10", parse);
            let channel = testing::memory_channel(&io, 100);
            let source = config.unwrap().open(testing::source_context(&io, channel.clone())).await;
            let (_handle, stop) = stop::channel();
            source.map_err(|e| e.message).unwrap().run(stop).await.unwrap();
            assert_eq!(
                testing::drain_bodies(&*channel).await,
                ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
            );
        })
        .unwrap();
    }

    #[test]
    fn a_batch_has_at_least_one_event() {
        let (config, complaints) = testing::parse(Kind::Source, "batchSize = 0", parse);
        assert!(config.is_none() && complaints[0].contains("batchSize = \"0\""), "{complaints:?}");
        let (config, _) = testing::parse(Kind::Source, "batchSize = 7", parse);
        assert_eq!(config.unwrap().batch_size(), Some(7));
    }
}
