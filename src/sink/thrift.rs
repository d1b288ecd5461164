//! `thrift` sink: events to the thrift source of another agent.
//!
//! Flume: `org.apache.flume.sink.ThriftSink`. Each lane has its own connection.

use std::sync::Arc;

use super::rpc::{self, RpcSink};
use super::{Lanes, OpenError, Sink, SinkConfig, SinkContext, SinkEntry};
use crate::client::rpc::{RpcConfig, Speech};
use crate::codec::thrift::value::Wire;
use crate::config::{ParseContext, Property, PropertySpec, kerberos, tls};
use crate::io::LocalBoxFuture;

const PROTOCOL: Property<String> = Property::optional(
    "protocol",
    "compact",
    "Encoding: compact or binary. Anything else counts as compact, as in Flume.",
);
const MAX_CONNECTIONS: Property<u32> = Property::absent(
    "maxConnections",
    "Accepted and not needed: a lane has one connection, as Flume's sink.",
);

/// Every property the thrift sink reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[
    &rpc::HOSTNAME,
    &rpc::PORT,
    &rpc::BATCH_SIZE,
    &rpc::CONNECT_TIMEOUT,
    &rpc::REQUEST_TIMEOUT,
    &rpc::RESET_INTERVAL,
    &PROTOCOL,
    &kerberos::KERBEROS,
    &kerberos::CLIENT_PRINCIPAL,
    &kerberos::CLIENT_KEYTAB,
    &kerberos::SERVER_PRINCIPAL,
    &MAX_CONNECTIONS,
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
    name: "thrift",
    class: "org.apache.flume.sink.ThriftSink",
    summary: "Events to the thrift source of another agent.",
    lanes: Lanes::PerShard,
    properties: PROPERTIES,
    parse,
};

/// Reads the settings of a thrift sink.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SinkConfig>> {
    let protocol = cx.get(&PROTOCOL)?;
    let _ = cx.get_opt(&MAX_CONNECTIONS);
    let kerberos = kerberos::parse_client(cx);
    let wire = match protocol.as_str() {
        "binary" => Wire::Binary,
        other => {
            if !other.eq_ignore_ascii_case("compact") {
                let hint =
                    format!("use {0} = compact or {0} = binary, in lower case", cx.full_key("protocol"));
                cx.warning("protocol", "is not known and counts as compact, as in Flume", Some(hint));
            }
            Wire::Compact
        }
    };
    let tls = tls::parse_client(cx);
    let config = rpc::parse(cx, Some(Speech::Thrift(wire)), tls)?;
    let config = RpcConfig { kerberos: kerberos?, ..config };
    Some(Arc::new(ThriftConfig(Arc::new(config))))
}

struct ThriftConfig(Arc<RpcConfig>);

impl SinkConfig for ThriftConfig {
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
    use crate::config::Kind;
    use crate::io::stop::{self, Phase};
    use crate::io::{EngineKind, run_local};
    use crate::sink::Status;
    use crate::{source, testing};

    #[test]
    fn properties() {
        for (lines, complaint) in [
            ("port = 4141", "hostname"),
            (
                "hostname = h\nport = 1\nkerberos = true\nclient-keytab = /k\nserver-principal = s/h@R",
                "client-principal",
            ),
            (
                "hostname = h\nport = 1\nkerberos = true\nclient-principal = c@R\nserver-principal = s/h@R",
                "client-keytab",
            ),
            (
                "hostname = h\nport = 1\nkerberos = true\nclient-principal = c@R\nclient-keytab = /k",
                "server-principal",
            ),
            (
                "hostname = h\nport = 1\nkerberos = true\nclient-principal = c@R\nclient-keytab = /k\nserver-principal = s@R",
                "service/host@REALM",
            ),
            ("hostname = h\nport = x", "not a port"),
        ] {
            let (config, complaints) = testing::parse(Kind::Sink, lines, parse);
            assert!(config.is_none(), "{lines}");
            assert!(complaints.iter().any(|c| c.contains(complaint)), "{lines}: {complaints:?}");
        }
        for (protocol, warned) in [("compact", false), ("Compact", false), ("BINARY", true), ("json", true)] {
            let lines = format!("hostname = h\nport = 1\nprotocol = {protocol}");
            let (config, complaints) = testing::parse(Kind::Sink, &lines, parse);
            assert!(config.is_some(), "{lines}");
            assert_eq!(complaints.iter().any(|c| c.contains("counts as compact")), warned, "{lines}");
        }
    }

    #[test]
    fn events_arrive_in_both_encodings_and_with_tls() {
        let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keystore/");
        run_local(EngineKind::Portable, |io| async move {
            for (secure, protocol) in [(false, "compact"), (false, "binary"), (true, "compact")] {
                let tls = if secure {
                    format!("ssl = true\nkeystore = {keys}server.jks\nkeystore-password = changeit")
                } else {
                    String::new()
                };
                let lines = format!("bind = 127.0.0.1\nport = 0\nprotocol = {protocol}\n{tls}");
                let config = testing::parse(Kind::Source, &lines, source::thrift::parse).0.unwrap();
                let target = testing::memory_channel(&io, 10_000);
                let source = config.open(testing::source_context(&io, target.clone())).await.unwrap();
                let port = source
                    .describe()
                    .split([' ', ','])
                    .nth(2)
                    .unwrap()
                    .rsplit(':')
                    .next()
                    .unwrap()
                    .to_owned();
                let (handle, stop) = stop::channel();
                crate::io::spawn(source.run(stop));

                let channel = testing::memory_channel(&io, 10_000);
                testing::put(&*channel, &[("k\u{e9}y", "v")], &["one", "", "three"]).await;
                let tls = if secure {
                    format!("ssl = true\ntruststore = {keys}trust.p12\ntruststore-password = changeit")
                } else {
                    String::new()
                };
                let lines = format!(
                    "hostname = localhost\nport = {port}\nbatch-size = 2\nprotocol = {protocol}\n{tls}"
                );
                let config = testing::parse(Kind::Sink, &lines, parse).0.unwrap();
                let mut sink = config.open(testing::sink_context(&io, channel.clone())).await.unwrap();
                assert_eq!(sink.process().await.unwrap(), Status::Ready);
                let batches = testing::drain(&*target).await;
                assert_eq!(
                    batches.iter().flat_map(|b| b.bodies()).collect::<Vec<_>>(),
                    [&b"one"[..], b"", b"three"]
                );
                assert!(batches.iter().all(|b| b.header(0, "k\u{e9}y") == Some("v")));
                handle.request(Phase::Now);
            }
        })
        .unwrap();
    }
}
