//! `logger` sink: one line per event in the log, with the headers and the first bytes of the body.
//!
//! Flume: `org.apache.flume.sink.LoggerSink`, `EventHelper.dumpEvent`. Flume's loader never hands
//! `maxBytesToLog` to the sink; here it counts. Several events are taken in one transaction.

use std::fmt::Write;
use std::sync::Arc;

use super::{DeliveryError, Lanes, OpenError, Sink, SinkConfig, SinkContext, SinkEntry, Status};
use crate::codec::java_map;
use crate::config::{ParseContext, Property, PropertySpec};
use crate::event::EventBatch;
use crate::io::LocalBoxFuture;

const MAX_BYTES_TO_LOG: Property<usize> =
    Property::optional("maxBytesToLog", "16", "How many bytes of each body are shown.");

/// Every property it reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&MAX_BYTES_TO_LOG];

/// Its row of the registry.
pub const ENTRY: SinkEntry = SinkEntry {
    name: "logger",
    class: "org.apache.flume.sink.LoggerSink",
    summary: "Writes each event to the log at INFO: headers, hex dump and text of the body.",
    lanes: Lanes::One,
    properties: PROPERTIES,
    parse,
};

/// Events of one transaction. A logged line is not more durable for being committed alone.
const BATCH_SIZE: usize = 100;

struct LoggerConfig {
    bytes_max: usize,
}

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SinkConfig>> {
    Some(Arc::new(LoggerConfig { bytes_max: cx.get(&MAX_BYTES_TO_LOG)? }))
}

impl SinkConfig for LoggerConfig {
    fn open(self: Arc<Self>, cx: SinkContext) -> LocalBoxFuture<'static, Result<Box<dyn Sink>, OpenError>> {
        Box::pin(async move {
            Ok(Box::new(Logger { bytes_max: self.bytes_max, cx, line: String::new() }) as Box<dyn Sink>)
        })
    }
}

struct Logger {
    bytes_max: usize,
    cx: SinkContext,
    line: String,
}

impl Logger {
    async fn take(&mut self) -> Result<Status, DeliveryError> {
        let mut transaction = self.cx.channel.begin_take()?;
        let most = BATCH_SIZE.min(self.cx.channel.transaction_capacity());
        let batch = transaction.take(most).await?;
        self.cx.counters.took(batch.len(), most);
        if batch.is_empty() {
            return Ok(Status::Empty);
        }
        self.cx.counters.event_drain_attempt.add(batch.len() as u64);
        for index in 0..batch.len() {
            self.line.clear();
            write_event(&batch, index, self.bytes_max, &mut self.line);
            tracing::info!(target: "logger", "{}", self.line);
        }
        transaction.commit().await?;
        self.cx.counters.event_drain_success.add(batch.len() as u64);
        Ok(Status::Ready)
    }
}

/// Appends an event as Flume prints it.
fn write_event(batch: &EventBatch, index: usize, bytes_max: usize, out: &mut String) {
    out.push_str("Event: { headers:");
    java_map::write(batch.headers(index), out);
    out.push_str(" body:");
    let body = batch.body(index);
    let shown = &body[..body.len().min(bytes_max)];
    for (row, bytes) in shown.chunks(16).enumerate() {
        // The offset of the first row is left out, and the line feed of the last.
        if row > 0 {
            let _ = write!(out, "\n{:08X}", row * 16);
        }
        out.push(' ');
        for at in 0..16 {
            match bytes.get(at) {
                Some(byte) => {
                    let _ = write!(out, "{byte:02X} ");
                }
                None => out.push_str("   "),
            }
        }
        out.extend(bytes.iter().map(|b| if (0x20..0x7f).contains(b) { char::from(*b) } else { '.' }));
    }
    out.push_str(" }");
}

impl Sink for Logger {
    fn process(&mut self) -> LocalBoxFuture<'_, Result<Status, DeliveryError>> {
        Box::pin(self.take())
    }
    fn stop(&mut self) -> LocalBoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
    fn describe(&self) -> String {
        "writes events to the log".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::event::Headers;
    use crate::io::{EngineKind, run_local};
    use crate::testing;

    fn line(headers: &[(&str, &str)], body: &'static str, bytes_max: usize) -> String {
        let batch = EventBatch::single(headers.iter().copied().collect::<Headers>(), body);
        let mut out = String::new();
        write_event(&batch, 0, bytes_max, &mut out);
        out
    }

    #[test]
    fn lines_are_flumes() {
        let table: &[(&str, usize, &str)] = &[
            ("hello_world\r", 16, "68 65 6C 6C 6F 5F 77 6F 72 6C 64 0D             hello_world."),
            ("are you ready?\r", 16, "61 72 65 20 79 6F 75 20 72 65 61 64 79 3F 0D    are you ready?."),
            ("0123456789abcdefXYZ", 16, "30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66 0123456789abcdef"),
            (
                "0123456789abcdefXYZ",
                18,
                "30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66 0123456789abcdef\n\
                 00000010 58 59                                           XY",
            ),
        ];
        for (body, bytes_max, expected) in table {
            assert_eq!(line(&[], body, *bytes_max), format!("Event: {{ headers:{{}} body: {expected} }}"));
        }
        assert_eq!(line(&[], "", 16), "Event: { headers:{} body: }");
        assert_eq!(line(&[], "x", 0), "Event: { headers:{} body: }");
        assert_eq!(
            line(&[("k2", "parm2"), ("k1", "param1")], "6", 16),
            format!("Event: {{ headers:{{k1=param1, k2=parm2}} body: 36 {}6 }}", " ".repeat(45))
        );
        assert!(line(&[], "\u{7f}\u{e9}", 16).ends_with("... }"));
    }

    #[test]
    fn settings() {
        for (lines, accepted) in [("", true), ("maxBytesToLog = 64", true), ("maxBytesToLog = -1", false)] {
            assert_eq!(testing::parse(Kind::Sink, lines, parse).0.is_some(), accepted, "{lines}");
        }
    }

    #[test]
    fn takes_what_is_there() {
        run_local(EngineKind::Portable, |io| async move {
            let channel = testing::memory_channel(&io, 10);
            testing::put(&*channel, &[], &["a", "b", "c"]).await;
            let config = testing::parse(Kind::Sink, "", parse).0.unwrap();
            let mut sink = config.open(testing::sink_context(&io, channel.clone())).await.unwrap();
            assert_eq!(sink.process().await.unwrap(), Status::Ready);
            while sink.process().await.unwrap() == Status::Ready {}
            assert!(channel.is_empty());
        })
        .unwrap();
    }
}
