//! `avro` sink: events to the avro source of another agent.
//!
//! Flume: `org.apache.flume.sink.AvroSink`. Each lane has its own connection. Between two Millrace processes
//! batches travel by columns, pipelined and, with `compression-type = zstd`, compressed; that is agreed on in
//! the handshake, and any Flume is spoken to as Flume does.

use std::sync::Arc;

use super::rpc::{self, RpcSink};
use super::{Lanes, OpenError, Sink, SinkConfig, SinkContext, SinkEntry};
use crate::client::rpc::{RpcConfig, Speech};
use crate::config::{ParseContext, Property, PropertySpec, tls};
use crate::io::LocalBoxFuture;

const COMPRESSION_TYPE: Property<String> = Property::optional(
    "compression-type",
    "none",
    "none; deflate, which the source has to be set to as well; or zstd, used if the other side is a Millrace and none otherwise.",
);
const COMPRESSION_LEVEL: Property<u32> =
    Property::optional("compression-level", "6", "Level of deflate, 0 (none) to 9 (best).");
const TLS_COMPRESSION_ORDER: Property<String> = Property::optional(
    "tls-compression-order",
    "deflate-outside",
    "With ssl and deflate: deflate-outside for sources of Flume 1.10 and later, tls-outside for Flume up to 1.9. A Millrace understands both.",
);
const MAX_IO_WORKERS: Property<u32> =
    Property::absent("maxIoWorkers", "Accepted and not needed, as in Flume since 1.10.");

/// Every property the avro sink reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[
    &rpc::HOSTNAME,
    &rpc::PORT,
    &rpc::BATCH_SIZE,
    &rpc::CONNECT_TIMEOUT,
    &rpc::REQUEST_TIMEOUT,
    &rpc::RESET_INTERVAL,
    &COMPRESSION_TYPE,
    &COMPRESSION_LEVEL,
    &TLS_COMPRESSION_ORDER,
    &MAX_IO_WORKERS,
    &rpc::CLIENT_TYPE,
    &rpc::HOSTS,
    &rpc::HOSTS_EACH,
    &rpc::MAX_ATTEMPTS,
    &rpc::HOST_SELECTOR,
    &rpc::BACKOFF,
    &rpc::MAX_BACKOFF,
    &tls::SSL,
    &tls::TRUST_ALL,
    &tls::TRUSTSTORE,
    &tls::TRUSTSTORE_PASSWORD,
    &tls::TRUSTSTORE_TYPE,
    &tls::INCLUDE_PROTOCOLS,
    &tls::EXCLUDE_PROTOCOLS,
    &tls::INCLUDE_CIPHER_SUITES,
    &tls::EXCLUDE_CIPHER_SUITES,
];

/// Row of the registry.
pub const ENTRY: SinkEntry = SinkEntry {
    name: "avro",
    class: "org.apache.flume.sink.AvroSink",
    summary: "Events to the avro source of another agent.",
    lanes: Lanes::PerShard,
    properties: PROPERTIES,
    parse,
};

/// Reads the settings of an avro sink.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SinkConfig>> {
    Some(Arc::new(AvroConfig(Arc::new(parse_client(cx)?))))
}

/// Reads the settings of an Avro client, of the sink's or the command line's.
pub fn parse_client(cx: &mut ParseContext<'_>) -> Option<RpcConfig> {
    let _ = cx.get_opt(&MAX_IO_WORKERS);
    let compression = cx.get(&COMPRESSION_TYPE)?.to_ascii_lowercase();
    let level = cx.get(&COMPRESSION_LEVEL)?;
    if level > 9 {
        cx.error("compression-level", "not a level from 0 to 9", None);
        return None;
    }
    if !["none", "deflate", "zstd"].contains(&compression.as_str()) {
        cx.error("compression-type", "not a compression", Some("use none, deflate or zstd".to_owned()));
        return None;
    }
    let tls_outside = match cx.get(&TLS_COMPRESSION_ORDER)?.as_str() {
        "deflate-outside" => false,
        "tls-outside" => true,
        _ => {
            cx.error(
                "tls-compression-order",
                "not an order",
                Some("use deflate-outside or tls-outside".to_owned()),
            );
            return None;
        }
    };
    let speech = Speech::Avro {
        deflate: (compression == "deflate").then_some(level),
        zstd: compression == "zstd",
        tls_outside,
    };
    let tls = tls::parse_client(cx);
    rpc::parse(cx, Some(speech), tls)
}

struct AvroConfig(Arc<RpcConfig>);

impl SinkConfig for AvroConfig {
    fn batch_size(&self) -> Option<usize> {
        Some(self.0.batch_size)
    }
    fn open(self: Arc<Self>, cx: SinkContext) -> LocalBoxFuture<'static, Result<Box<dyn Sink>, OpenError>> {
        Box::pin(RpcSink::open(self.0.clone(), cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Channel;
    use crate::config::Kind;
    use crate::io::stop::{self, Phase, StopHandle};
    use crate::io::{EngineKind, Io, run_local};
    use crate::sink::Status;
    use crate::source;
    use crate::testing;
    use std::rc::Rc;

    struct Served {
        address: std::net::SocketAddr,
        channel: Rc<dyn Channel>,
        stop: StopHandle,
    }

    /// An avro source of our own to deliver to.
    async fn serve(io: &Io, lines: &str, capacity: usize) -> Served {
        let lines = format!("bind = 127.0.0.1\nport = 0\n{lines}");
        let (config, complaints) = testing::parse(Kind::Source, &lines, source::avro::parse);
        let config = config.unwrap_or_else(|| panic!("{complaints:?}"));
        let channel = testing::memory_channel(io, capacity);
        let source = config.open(testing::source_context(io, channel.clone())).await.unwrap();
        let text = source.describe();
        let address = text.split_whitespace().nth(2).unwrap().trim_end_matches(',').parse().unwrap();
        let (handle, stop) = stop::channel();
        crate::io::spawn(source.run(stop));
        Served { address, channel, stop: handle }
    }

    async fn sink(io: &Io, channel: Rc<dyn Channel>, lines: &str) -> Box<dyn Sink> {
        let (config, complaints) = testing::parse(Kind::Sink, lines, parse);
        let config = config.unwrap_or_else(|| panic!("{complaints:?}"));
        config.open(testing::sink_context(io, channel)).await.unwrap()
    }

    fn bodies(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|i| format!("event {i}")).collect()
    }
    async fn put(channel: &dyn Channel, bodies: &[String]) {
        for part in bodies.chunks(50) {
            let part: Vec<&str> = part.iter().map(String::as_str).collect();
            testing::put(channel, &[("host", "web1")], &part).await;
        }
    }

    #[test]
    fn properties() {
        for (lines, complaint) in [
            ("port = 4141", "hostname"),
            ("hostname = h", "port"),
            ("hostname = h\nport = 1\ncompression-type = gzip", "use none, deflate or zstd"),
            ("hostname = h\nport = 1\ncompression-level = 10", "0 to 9"),
            ("hostname = h\nport = 1\nclient.type = best", "default_failover"),
            ("hosts = a b\nhosts.a = h:1", "names b"),
            ("hosts = a\nhosts.a = h", "not host:port"),
            ("hostname = h\nport = 1\nhost-selector = x", "ROUND_ROBIN"),
            ("hostname = h\nport = 1\ntls-compression-order = x", "tls-outside"),
        ] {
            let (config, complaints) = testing::parse(Kind::Sink, lines, parse);
            assert!(config.is_none(), "{lines}");
            assert!(complaints.iter().any(|c| c.contains(complaint)), "{lines}: {complaints:?}");
        }
        let lines = "hostname = h\nport = 1\nbatch-size = 0\nconnect-timeout = 5\nmaxIoWorkers = 3";
        let (config, complaints) = testing::parse(Kind::Sink, lines, parse_client);
        let config = config.unwrap();
        assert_eq!(
            (config.batch_size, config.connect_timeout.as_millis(), complaints.len()),
            (100, 20_000, 2)
        );
        let lines = "hosts = a b\nhosts.a = h:1\nhosts.b = [::1]:2\nclient.type = default_loadbalance\nbackoff = true";
        let config = testing::parse(Kind::Sink, lines, parse_client).0.unwrap();
        assert_eq!((config.hosts[1].host.as_str(), config.max_attempts), ("::1", 2));
        assert!(config.backoff_max.is_some());
    }

    #[test]
    fn every_compression_and_layer_arrives_in_order() {
        let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keystore/");
        let secure = format!("ssl = true\nkeystore = {keys}server.p12\nkeystore-password = changeit\n");
        let trust = format!("ssl = true\ntruststore = {keys}trust.jks\ntruststore-password = changeit\n");
        run_local(EngineKind::Portable, |io| async move {
            for (source_lines, sink_lines) in [
                (String::new(), String::new()),
                (String::new(), "compression-type = zstd".to_owned()),
                (
                    "compression-type = deflate".to_owned(),
                    "compression-type = deflate\ncompression-level = 1".to_owned(),
                ),
                (secure.clone(), trust.clone()),
                (format!("{secure}compression-type = deflate"), format!("{trust}compression-type = deflate")),
                (
                    format!("{secure}compression-type = deflate"),
                    format!("{trust}compression-type = deflate\ntls-compression-order = tls-outside"),
                ),
            ] {
                let served = serve(&io, &source_lines, 10_000).await;
                let channel = testing::memory_channel(&io, 10_000);
                let sent = bodies(0..3000);
                put(&*channel, &sent).await;
                let lines = format!(
                    "hostname = 127.0.0.1\nport = {}\nbatch-size = 70\n{sink_lines}",
                    served.address.port()
                );
                let mut sink = sink(&io, channel.clone(), &lines).await;
                assert_eq!(sink.process().await.unwrap(), Status::Ready, "{lines}");
                assert_eq!(sink.process().await.unwrap(), Status::Empty, "{lines}");
                let batches = testing::drain(&*served.channel).await;
                let received: Vec<_> = batches
                    .iter()
                    .flat_map(|b| b.bodies())
                    .map(|b| String::from_utf8_lossy(b).into_owned())
                    .collect();
                assert!(received == sent, "{lines}");
                assert!(batches.iter().all(|b| b.header(0, "host") == Some("web1")));
                sink.stop().await;
                served.stop.request(Phase::Now);
            }
        })
        .unwrap();
    }

    #[test]
    fn a_refused_batch_goes_back_in_order() {
        run_local(EngineKind::Portable, |io| async move {
            let served = serve(&io, "", 150).await;
            let channel = testing::memory_channel(&io, 10_000);
            let sent = bodies(0..400);
            put(&*channel, &sent).await;
            let lines = format!("hostname = 127.0.0.1\nport = {}", served.address.port());
            let mut sink = sink(&io, channel.clone(), &lines).await;
            let error = sink.process().await.unwrap_err().to_string();
            assert!(error.contains("refused"), "{error}");
            let mut received = testing::drain_bodies(&*served.channel).await;
            let first = received.len();
            assert!((100..=150).contains(&first), "{first}");
            while sink.process().await.is_ok_and(|s| s == Status::Ready) || received.len() < 400 {
                received.extend(testing::drain_bodies(&*served.channel).await);
                assert!(received.len() < 4000);
            }
            received.extend(testing::drain_bodies(&*served.channel).await);
            let mut unique = received.clone();
            unique.sort();
            unique.dedup();
            assert_eq!(unique.len(), 400, "nothing is lost");
            served.stop.request(Phase::Now);
        })
        .unwrap();
    }

    #[test]
    fn the_next_host_takes_over_and_balancing_uses_all() {
        run_local(EngineKind::Portable, |io| async move {
            let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let (one, two) = (serve(&io, "", 10_000).await, serve(&io, "", 10_000).await);
            for (client_type, both) in [("default_failover", false), ("default_loadbalance", true)] {
                let channel = testing::memory_channel(&io, 10_000);
                put(&*channel, &bodies(0..1000)).await;
                let lines = format!(
                    "hosts = h1 h2 h3\nhosts.h1 = {dead}\nhosts.h2 = {}\nhosts.h3 = {}\nclient.type = {client_type}\nbackoff = {both}",
                    one.address, two.address
                );
                let mut sink = sink(&io, channel.clone(), &lines).await;
                while sink.process().await.unwrap() != Status::Empty {}
                let (a, b) = (
                    testing::drain_bodies(&*one.channel).await.len(),
                    testing::drain_bodies(&*two.channel).await.len(),
                );
                assert_eq!(a + b, 1000, "{client_type}");
                assert_eq!(a > 0 && b > 0, both, "{client_type}: {a} and {b}");
            }
            one.stop.request(Phase::Now);
            two.stop.request(Phase::Now);
        })
        .unwrap();
    }

    #[test]
    fn a_broken_connection_is_made_anew() {
        run_local(EngineKind::Portable, |io| async move {
            let served = serve(&io, "", 10_000).await;
            let channel = testing::memory_channel(&io, 10_000);
            put(&*channel, &bodies(0..10)).await;
            let lines = format!("hostname = 127.0.0.1\nport = {}", served.address.port());
            let mut sink = sink(&io, channel.clone(), &lines).await;
            assert_eq!(sink.process().await.unwrap(), Status::Ready);
            served.stop.request(Phase::Now);
            put(&*channel, &bodies(10..20)).await;
            let error = sink.process().await.unwrap_err().to_string();
            assert!(error.contains(&served.address.to_string()), "{error}");
            let port = format!("port = {}", served.address.port());
            let again = serve(&io, &port, 10_000).await;
            assert_eq!(sink.process().await.unwrap(), Status::Ready);
            assert_eq!(testing::drain_bodies(&*again.channel).await, bodies(10..20));
            again.stop.request(Phase::Now);
        })
        .unwrap();
    }
}
