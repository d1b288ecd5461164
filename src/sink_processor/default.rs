//! `default` sink processor: one sink, called again and again.
//!
//! Flume: `org.apache.flume.sink.DefaultSinkProcessor`. Every sink outside a group runs behind it.

use std::sync::Arc;

use super::{NamedSink, ProcessorConfig, ProcessorEntry, SinkProcessor};
use crate::config::{ParseContext, PropertySpec};
use crate::io::{Io, LocalBoxFuture};
use crate::sink::{DeliveryError, Status};

/// Row of the registry.
pub const ENTRY: ProcessorEntry = ProcessorEntry {
    name: "default",
    class: "org.apache.flume.sink.DefaultSinkProcessor",
    summary: "One sink on its own (the default).",
    properties: PROPERTIES,
    parse,
};

/// It reads none.
pub const PROPERTIES: &[&dyn PropertySpec] = &[];

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>, sinks: &[String]) -> Option<Arc<dyn ProcessorConfig>> {
    if sinks.len() == 1 {
        return Some(Arc::new(Config));
    }
    let message = format!(
        "the default processor takes exactly one sink, this group has {}: {}",
        sinks.len(),
        sinks.join(" ")
    );
    let hint = format!("use: {} = load_balance, or failover", cx.full_key("type"));
    cx.error("type", message, Some(hint));
    None
}

struct Config;

impl ProcessorConfig for Config {
    fn build(&self, _io: Io, sinks: Vec<NamedSink>) -> Box<dyn SinkProcessor> {
        Box::new(Default { sinks })
    }
}

/// The processor of a sink outside any group.
pub fn single(sink: NamedSink) -> Box<dyn SinkProcessor> {
    Box::new(Default { sinks: vec![sink] })
}

struct Default {
    /// Exactly one.
    sinks: Vec<NamedSink>,
}

impl SinkProcessor for Default {
    fn process(&mut self) -> LocalBoxFuture<'_, Result<Status, DeliveryError>> {
        self.sinks[0].sink.process()
    }
    fn sinks_mut(&mut self) -> &mut [NamedSink] {
        &mut self.sinks
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Kind;
    use crate::testing;

    #[test]
    fn takes_exactly_one_sink() {
        let sinks = ["k1", "k2"].map(str::to_owned);
        let parse = |sinks: &[String]| {
            testing::parse(Kind::SinkGroup, "processor.type = default", |cx| {
                super::parse(&mut cx.below("processor."), sinks)
            })
        };
        assert!(parse(&sinks[..1]).0.is_some());
        let (config, complaints) = parse(&sinks);
        assert!(config.is_none());
        assert_eq!(
            complaints,
            [
                "error: a1.sinkgroups.x1.processor.type = \"default\": the default processor takes exactly one sink, this group \
              has 2: k1 k2\n  --> flow.properties:2\n  hint: use: a1.sinkgroups.x1.processor.type = load_balance, or failover"
            ]
        );
    }
}
