//! `thrift` source: events from the thrift sinks and clients of other agents.
//!
//! Flume: `org.apache.flume.source.ThriftSource`. Each shard listens on the same port and the kernel spreads
//! the connections. A call is answered with OK only when the channels have committed its events.

use std::sync::Arc;

use super::rpc::{Layers, RpcSource};
use super::{Claim, OpenError, Placement, Source, SourceConfig, SourceContext, SourceEntry, net};
use crate::codec::thrift::message::ThriftServer;
use crate::codec::thrift::value::Wire;
use crate::config::kerberos::{self, ServerKerberos};
use crate::config::tls::{self, ServerTls};
use crate::config::{ParseContext, Port, Property, PropertySpec};
use crate::io::LocalBoxFuture;
use crate::io::kerberos as io_kerberos;
use crate::io::tls::Acceptor;

const BIND: Property<String> =
    Property::required("bind", "Host name or IP address to listen on.").example("0.0.0.0");
const PORT: Property<Port> = Property::required("port", "TCP port to listen on.");
const THREADS: Property<u32> = Property::absent(
    "threads",
    "Accepted and not needed: every shard serves its connections on its own core.",
);
const PROTOCOL: Property<String> = Property::optional("protocol", "compact", "Encoding: compact or binary.");
const MAX_FRAME_SIZE: Property<u32> = Property::optional(
    "max-frame-size",
    "67108864",
    "Largest call in bytes; a client that announces more is disconnected. 1 MiB to 1 GiB.",
);

/// Every property the thrift source reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[
    &BIND,
    &PORT,
    &THREADS,
    &PROTOCOL,
    &kerberos::KERBEROS,
    &kerberos::AGENT_PRINCIPAL,
    &kerberos::AGENT_KEYTAB,
    &MAX_FRAME_SIZE,
    &tls::SSL,
    &tls::KEYSTORE,
    &tls::KEYSTORE_PASSWORD,
    &tls::KEYSTORE_TYPE,
    &tls::INCLUDE_PROTOCOLS,
    &tls::EXCLUDE_PROTOCOLS,
    &tls::INCLUDE_CIPHER_SUITES,
    &tls::EXCLUDE_CIPHER_SUITES,
];

/// Row of the registry.
pub const ENTRY: SourceEntry = SourceEntry {
    name: "thrift",
    class: "org.apache.flume.source.ThriftSource",
    summary: "Events from thrift sinks and clients of other agents.",
    placement: Placement::EveryShard,
    properties: PROPERTIES,
    parse,
};

struct ThriftConfig {
    bind: String,
    port: u16,
    wire: Wire,
    frame_bytes_max: usize,
    tls: Option<ServerTls>,
    kerberos: Option<ServerKerberos>,
}

/// Reads the settings of a thrift source.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    let bind = cx.get(&BIND);
    let port = cx.get(&PORT);
    let _ = cx.get_opt(&THREADS);
    let wire = match cx.get(&PROTOCOL)?.as_str() {
        "binary" => Wire::Binary,
        other if other.eq_ignore_ascii_case("compact") => Wire::Compact,
        other if other.eq_ignore_ascii_case("binary") => {
            let hint = format!("for the binary encoding: {} = binary", cx.full_key("protocol"));
            cx.warning("protocol", "is not all lower case and counts as compact, as in Flume", Some(hint));
            Wire::Compact
        }
        _ => {
            cx.error("protocol", "not an encoding", Some("use compact or binary".to_owned()));
            return None;
        }
    };
    let frame_bytes_max = cx.get(&MAX_FRAME_SIZE)?;
    if !(1 << 20..=1 << 30).contains(&frame_bytes_max) {
        cx.error("max-frame-size", "not a size from 1048576 to 1073741824", None);
        return None;
    }
    let kerberos = kerberos::parse_server(cx);
    let tls = tls::parse_server(cx);
    Some(Arc::new(ThriftConfig {
        bind: bind?,
        port: port?.0,
        wire,
        frame_bytes_max: frame_bytes_max as usize,
        tls: tls?,
        kerberos: kerberos?,
    }))
}

impl SourceConfig for ThriftConfig {
    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Tcp(self.bind.clone(), self.port)]
    }
    fn open(
        self: Arc<Self>,
        cx: SourceContext,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Source>, OpenError>> {
        Box::pin(async move {
            let tls = Acceptor::open_if(&cx.io, self.tls.as_ref()).await?;
            let kerberos = match &self.kerberos {
                Some(settings) => Some(io_kerberos::Acceptor::open(&cx.io, settings).await?),
                None => None,
            };
            let listener = net::listen(&cx.io, &self.bind, self.port).await?;
            let (wire, limit) = (self.wire, self.frame_bytes_max);
            let session = Box::new(move || Box::new(ThriftServer::new(wire, limit)) as _);
            let layers = Layers { tls, zlib: false, kerberos };
            Ok(Box::new(RpcSource::new(cx, listener, layers, None, session)) as Box<dyn Source>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::testing;

    #[test]
    fn properties() {
        for (lines, complaint) in [
            ("port = 4141", "bind"),
            ("bind = h\nport = 70000", "not a port"),
            ("bind = h\nport = 1\nprotocol = json", "compact or binary"),
            ("bind = h\nport = 1\nkerberos = true\nagent-keytab = /k", "agent-principal"),
            ("bind = h\nport = 1\nkerberos = true\nagent-principal = flume/h@R", "agent-keytab"),
            (
                "bind = h\nport = 1\nkerberos = true\nagent-keytab = /k\nagent-principal = flume@R",
                "service/host@REALM",
            ),
            (
                "bind = h\nport = 1\nkerberos = true\nagent-keytab = /k\nagent-principal = flume/h@R@S",
                "service/host@REALM",
            ),
            ("bind = h\nport = 1\nssl = true", "keystore"),
            ("bind = h\nport = 1\nmax-frame-size = 1", "1048576"),
        ] {
            let (config, complaints) = testing::parse(Kind::Source, lines, parse);
            assert!(config.is_none(), "{lines}");
            assert!(complaints.iter().any(|c| c.contains(complaint)), "{lines}: {complaints:?}");
        }
        let (config, complaints) = testing::parse(Kind::Source, "bind = h\nport = 1\nthreads = 9", parse);
        assert!(config.is_some() && complaints.is_empty());
        let (config, complaints) =
            testing::parse(Kind::Source, "bind = h\nport = 1\nprotocol = Binary", parse);
        assert!(config.is_some() && complaints[0].contains("counts as compact"), "{complaints:?}");
    }
}
