//! Fixtures for unit tests: one constructor per thing a component needs.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::channel::memory::{MemoryChannel, MemoryConfig};
use crate::channel::{Channel, ChannelContext};
use crate::channel_processor::ChannelProcessor;
use crate::component::Shard;
use crate::config::{ComponentSettings, Diagnostic, Kind, Location, ParseContext, Setting};
use crate::event::{EventBatch, Headers};
use crate::io::Io;
use crate::metrics::{SinkCounters, SourceCounters};
use crate::selector::replicating::Replicating;
use crate::sink::SinkContext;
use crate::source::SourceContext;

/// Settings of a component called `x1` of agent `a1`, one `key = value` a line of `flow.properties`.
pub fn settings(kind: Kind, lines: &str) -> ComponentSettings {
    let location = |line: usize| Location { file: "flow.properties".into(), line: line as u32 };
    let entries = lines.lines().enumerate().filter_map(|(index, line)| {
        let (key, value) = line.split_once('=')?;
        let setting =
            Setting { value: value.trim().to_owned(), location: location(index + 2), is_secret: false };
        (!setting.value.is_empty()).then(|| (key.trim().to_owned(), setting))
    });
    ComponentSettings {
        agent: "a1".into(),
        kind,
        name: "x1".into(),
        settings: entries.collect(),
        listed: Some(location(1)),
        globals: Default::default(),
    }
}

/// Runs a parse function on such settings; the complaints come rendered.
pub fn parse<T>(
    kind: Kind,
    lines: &str,
    parse: impl FnOnce(&mut ParseContext<'_>) -> Option<T>,
) -> (Option<T>, Vec<String>) {
    let settings = settings(kind, lines);
    let mut diagnostics: Vec<Diagnostic> = Vec::new();
    let config = parse(&mut ParseContext::new(&settings, &mut diagnostics));
    (config, diagnostics.iter().map(ToString::to_string).collect())
}

/// A memory channel `c1` with this capacity (also per transaction), without keep-alive.
pub fn memory_channel(io: &Io, capacity: usize) -> Rc<MemoryChannel> {
    let config = MemoryConfig::new(capacity as u64, capacity, Duration::ZERO, 0, 20);
    MemoryChannel::open(Arc::new(config), channel_context(io))
}

/// A context for a channel `c1` on the only shard.
pub fn channel_context(io: &Io) -> ChannelContext {
    ChannelContext {
        name: "c1".into(),
        agent: "a1".into(),
        shard: Shard { index: 0, count: 1 },
        io: io.clone(),
        counters: Arc::default(),
    }
}

/// A context for a source `r1` on the only shard, in front of one channel, without interceptors.
pub fn source_context(io: &Io, channel: Rc<dyn Channel>) -> SourceContext {
    SourceContext {
        name: "r1".into(),
        agent: "a1".into(),
        shard: Shard { index: 0, count: 1 },
        io: io.clone(),
        channels: Rc::new(ChannelProcessor::new(
            Vec::new(),
            Box::new(Replicating::new(1, &[])),
            vec![channel],
        )),
        counters: Arc::<SourceCounters>::default(),
    }
}

/// A context for a sink `k1` with one lane behind a channel.
pub fn sink_context(io: &Io, channel: Rc<dyn Channel>) -> SinkContext {
    SinkContext {
        name: "k1".into(),
        agent: "a1".into(),
        lane: 0,
        lanes: 1,
        io: io.clone(),
        channel,
        counters: Arc::<SinkCounters>::default(),
    }
}

/// Puts events with these bodies, and the same headers, in one transaction.
pub async fn put(channel: &dyn Channel, headers: &[(&str, &str)], bodies: &[&str]) {
    let mut builder = crate::event::BatchBuilder::default();
    bodies.iter().for_each(|b| builder.push(b.as_bytes()));
    *builder.common_mut() = headers.iter().map(|(k, v)| (*k, *v)).collect::<Headers>();
    let mut transaction = channel.begin_put().unwrap();
    transaction.put(builder.finish()).await.unwrap();
    transaction.commit().await.unwrap();
}

/// Schema and data of an Avro container file.
pub fn avro_file(bytes: &[u8]) -> (String, Vec<Vec<u8>>) {
    use crate::serializer::deserializer::Deserializer as _;
    use crate::serializer::deserializer::avro::{Container, SchemaHeader};
    let mut reader = Container::begin(SchemaHeader::Literal, bytes).unwrap();
    let (mut batch, mut places) = (crate::event::BatchBuilder::default(), Vec::new());
    let start = reader.start();
    let data = bytes.get(start.offset as usize..).unwrap();
    reader.cut(data, start, true, &mut batch, &mut places).unwrap();
    let batch = batch.finish();
    let schema = batch.common().get("flume.avro.schema.literal").unwrap().to_owned();
    (schema, batch.bodies().map(<[u8]>::to_vec).collect())
}

/// Takes and commits everything that waits.
pub async fn drain(channel: &dyn Channel) -> Vec<EventBatch> {
    let mut batches = Vec::new();
    loop {
        let mut transaction = channel.begin_take().unwrap();
        let batch = transaction.take(channel.transaction_capacity()).await.unwrap();
        transaction.commit().await.unwrap();
        if batch.is_empty() {
            return batches;
        }
        batches.push(batch);
    }
}

/// Takes and commits everything that waits; bodies as text.
pub async fn drain_bodies(channel: &dyn Channel) -> Vec<String> {
    let batches = drain(channel).await;
    batches.iter().flat_map(EventBatch::bodies).map(|b| String::from_utf8_lossy(b).into_owned()).collect()
}

/// Waits until as many events arrived in the channel, then takes them all; panics after 10 s.
pub async fn expect_bodies(io: &Io, channel: &dyn Channel, count: usize) -> Vec<String> {
    let deadline = io.now() + Duration::from_secs(10);
    let mut bodies = Vec::new();
    loop {
        bodies.extend(drain_bodies(channel).await);
        if bodies.len() >= count {
            return bodies;
        }
        assert!(io.now() < deadline, "only {} of {count} events after 10 s: {bodies:?}", bodies.len());
        tokio::select! {
            () = channel.wait_ready() => {}
            () = io.sleep(Duration::from_millis(20)) => {}
        }
    }
}

/// Waits until the condition holds; panics after 10 s.
pub async fn expect(io: &Io, condition: impl Fn() -> bool) {
    let deadline = io.now() + Duration::from_secs(10);
    while !condition() {
        assert!(io.now() < deadline, "not within 10 s");
        io.sleep(Duration::from_millis(1)).await;
    }
}
