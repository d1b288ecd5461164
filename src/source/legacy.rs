//! The legacy sources: events from the Avro and Thrift sinks of Flume 0.9.
//!
//! Flume: `org.apache.flume.source.avroLegacy.AvroLegacySource` and
//! `org.apache.flume.source.thriftLegacy.ThriftLegacySource`. Each shard listens on the same port. The fields
//! of an old event become headers. Thrift's calls are one-way: a full channel slows the client down and, after
//! `keep-alive`, loses the event with a warning; that is the old protocol's promise.

use std::sync::Arc;

use super::rpc::{Layers, NewSession, RpcSource};
use super::{Claim, OpenError, Placement, Source, SourceConfig, SourceContext, SourceEntry, net};
use crate::codec::avro::legacy::{Known, OldAvroServer};
use crate::codec::thrift::scribe::OldThriftServer;
use crate::config::{ParseContext, Port, Property, PropertySpec};
use crate::io::LocalBoxFuture;

const HOST: Property<String> =
    Property::required("host", "Host name or IP address to listen on.").example("0.0.0.0");
const PORT: Property<Port> = Property::required("port", "TCP port to listen on.");

/// Largest call in bytes: Flume 0.9 sent one event of at most 32 KiB unless configured otherwise.
const CALL_BYTES_MAX: usize = 16 << 20;

/// Every property the legacy sources read.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&HOST, &PORT];

/// Row of the registry: Avro over HTTP.
pub const AVRO_ENTRY: SourceEntry = SourceEntry {
    name: "",
    class: "org.apache.flume.source.avroLegacy.AvroLegacySource",
    summary: "Events from the Avro sink of Flume 0.9.",
    placement: Placement::EveryShard,
    properties: PROPERTIES,
    parse: parse_avro,
};

/// Row of the registry: Thrift.
pub const THRIFT_ENTRY: SourceEntry = SourceEntry {
    name: "",
    class: "org.apache.flume.source.thriftLegacy.ThriftLegacySource",
    summary: "Events from the Thrift sink of Flume 0.9.",
    placement: Placement::EveryShard,
    properties: PROPERTIES,
    parse: parse_thrift,
};

struct LegacyConfig {
    host: String,
    port: u16,
    thrift: bool,
}

/// Reads the settings of an Avro legacy source.
pub fn parse_avro(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    parse(cx, false)
}

/// Reads the settings of a Thrift legacy source.
pub fn parse_thrift(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    parse(cx, true)
}

fn parse(cx: &mut ParseContext<'_>, thrift: bool) -> Option<Arc<dyn SourceConfig>> {
    let host = cx.get(&HOST);
    let port = cx.get(&PORT);
    Some(Arc::new(LegacyConfig { host: host?, port: port?.0, thrift }))
}

impl SourceConfig for LegacyConfig {
    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Tcp(self.host.clone(), self.port)]
    }
    fn open(
        self: Arc<Self>,
        cx: SourceContext,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Source>, OpenError>> {
        Box::pin(async move {
            let listener = net::listen(&cx.io, &self.host, self.port).await.map_err(|mut error| {
                // The shared helper blames `bind`, which is called `host` here.
                if error.property == "bind" {
                    error.property = "host";
                }
                error
            })?;
            let known = Known::default();
            let session: NewSession = if self.thrift {
                Box::new(|| Box::new(OldThriftServer::new(CALL_BYTES_MAX)))
            } else {
                Box::new(move || Box::new(OldAvroServer::new(CALL_BYTES_MAX, known.clone())))
            };
            let layers = Layers { tls: None, zlib: false, kerberos: None };
            Ok(Box::new(RpcSource::new(cx, listener, layers, None, session)) as Box<dyn Source>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::io::stop::{self, Phase};
    use crate::io::{EngineKind, run_local};
    use crate::testing;
    use tokio::io::AsyncWriteExt;

    #[test]
    fn properties() {
        for (lines, complaint) in [("port = 1", "host"), ("host = h", "port"), ("bind = h\nport = 1", "host")]
        {
            for parse in [parse_avro, parse_thrift] {
                let (config, complaints) = testing::parse(Kind::Source, lines, parse);
                assert!(config.is_none());
                assert!(complaints.iter().any(|c| c.contains(complaint)), "{complaints:?}");
            }
        }
        run_local(EngineKind::Portable, |io| async move {
            let config = testing::parse(Kind::Source, "host = 192.0.2.1\nport = 1", parse_avro).0.unwrap();
            let channel = testing::memory_channel(&io, 1);
            let error = config.open(testing::source_context(&io, channel)).await.err().unwrap();
            assert_eq!(error.property, "host");
        })
        .unwrap();
    }

    #[test]
    fn a_thrift_event_arrives() {
        run_local(EngineKind::Portable, |io| async move {
            let config = testing::parse(Kind::Source, "host = 127.0.0.1\nport = 0", parse_thrift).0.unwrap();
            let channel = testing::memory_channel(&io, 10);
            let source = config.open(testing::source_context(&io, channel.clone())).await.unwrap();
            let address = source.describe().rsplit(' ').next().unwrap().parse().unwrap();
            let (handle, stop) = stop::channel();
            crate::io::spawn(source.run(stop));
            let mut stream = io.connect(address).await.unwrap();
            // append, oneway: { 3: "hello" }
            let call = b"\x80\x01\0\x04\0\0\0\x06append\0\0\0\0\x0c\0\x01\x0b\0\x03\0\0\0\x05hello\0\0";
            stream.write_all(call).await.unwrap();
            assert_eq!(testing::expect_bodies(&io, &*channel, 1).await, ["hello"]);
            handle.request(Phase::Now);
        })
        .unwrap();
    }
}
