//! `avro` source: events from the avro sinks and clients of other agents.
//!
//! Flume: `org.apache.flume.source.AvroSource`. Each shard listens on the same port and the kernel spreads
//! the connections. A call is answered with OK only when the channels have committed its events.

use std::sync::Arc;

use super::ip_filter::IpFilter;
use super::rpc::{Layers, RpcSource};
use super::{Claim, OpenError, Placement, Source, SourceConfig, SourceContext, SourceEntry, net};
use crate::codec::avro::session::AvroServer;
use crate::config::tls::{self, ServerTls};
use crate::config::{ParseContext, Port, Property, PropertySpec};
use crate::io::LocalBoxFuture;
use crate::io::tls::Acceptor;

const BIND: Property<String> =
    Property::required("bind", "Host name or IP address to listen on.").example("0.0.0.0");
const PORT: Property<Port> = Property::required("port", "TCP port to listen on.");
const THREADS: Property<u32> = Property::absent(
    "threads",
    "Accepted and not needed: every shard serves its connections on its own core.",
);
const COMPRESSION_TYPE: Property<String> = Property::optional(
    "compression-type",
    "none",
    "`deflate` if the clients compress with deflate (both directions). Anything else is none. The zstd of \
     another Millrace is agreed on without this property.",
);
const IP_FILTER: Property<bool> = Property::optional("ipFilter", "false", "Apply `ipFilterRules`.");
const IP_FILTER_RULES: Property<String> = Property::absent(
    "ipFilterRules",
    "Rules `allow|deny:ip|name:<pattern>` separated by commas; `*` and `?` are wildcards. The first match \
     counts, no match is allowed.",
);
const MAX_FRAME_SIZE: Property<u32> = Property::optional(
    "max-frame-size",
    "67108864",
    "Largest call in bytes; a client that announces more is disconnected. 1 MiB to 1 GiB.",
);

/// Every property the avro source reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[
    &BIND,
    &PORT,
    &THREADS,
    &COMPRESSION_TYPE,
    &IP_FILTER,
    &IP_FILTER_RULES,
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
    name: "avro",
    class: "org.apache.flume.source.AvroSource",
    summary: "Events from avro sinks and clients of other agents.",
    placement: Placement::EveryShard,
    properties: PROPERTIES,
    parse,
};

/// An avro source's settings.
#[derive(Debug)]
pub struct AvroConfig {
    bind: String,
    port: u16,
    deflate: bool,
    filter: Option<IpFilter>,
    frame_bytes_max: usize,
    tls: Option<ServerTls>,
}

/// Reads the settings of an avro source.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    let bind = cx.get(&BIND);
    let port = cx.get(&PORT);
    let _ = cx.get_opt(&THREADS);
    let compression = cx.get(&COMPRESSION_TYPE)?;
    let deflate = compression.eq_ignore_ascii_case("deflate");
    if !deflate && !compression.eq_ignore_ascii_case("none") {
        cx.warning(
            "compression-type",
            "is not known and counts as none, as in Flume",
            Some("use deflate or none".into()),
        );
    }
    let frame_bytes_max = cx.get(&MAX_FRAME_SIZE);
    if let Some(size) = frame_bytes_max
        && !(1 << 20..=1 << 30).contains(&size)
    {
        cx.error("max-frame-size", "not a size from 1048576 to 1073741824", None);
        return None;
    }
    let tls = tls::parse_server(cx);
    let filter = if cx.get(&IP_FILTER)? {
        let example = format!("for example: {} = allow:ip:127.*,deny:ip:*", cx.full_key("ipFilterRules"));
        match cx.get_opt(&IP_FILTER_RULES)?.as_deref().map(IpFilter::parse) {
            Some(Ok(filter)) => Some(filter),
            Some(Err(problem)) => {
                cx.error("ipFilterRules", problem, Some(example));
                return None;
            }
            None => {
                cx.error("ipFilterRules", "is required with ipFilter = true", Some(example));
                return None;
            }
        }
    } else {
        None
    };
    Some(Arc::new(AvroConfig {
        bind: bind?,
        port: port?.0,
        deflate,
        filter,
        frame_bytes_max: frame_bytes_max? as usize,
        tls: tls?,
    }))
}

impl SourceConfig for AvroConfig {
    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Tcp(self.bind.clone(), self.port)]
    }
    fn open(
        self: Arc<Self>,
        cx: SourceContext,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Source>, OpenError>> {
        Box::pin(async move {
            let tls = Acceptor::open_if(&cx.io, self.tls.as_ref()).await?;
            let listener = net::listen(&cx.io, &self.bind, self.port).await?;
            let layers = Layers { tls, zlib: self.deflate, kerberos: None };
            let limit = self.frame_bytes_max;
            let session = Box::new(move || Box::new(AvroServer::new(limit)) as _);
            Ok(Box::new(RpcSource::new(cx, listener, layers, self.filter.clone(), session))
                as Box<dyn Source>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Channel;
    use crate::config::Kind;
    use crate::io::{EngineKind, Io, run_local, stop};
    use crate::testing;
    use std::net::SocketAddr;
    use std::rc::Rc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/fixtures/avro/", $name, ".bin")).as_slice()
        };
    }

    fn config(lines: &str) -> Arc<dyn SourceConfig> {
        let lines = format!("bind = 127.0.0.1\nport = 0\n{lines}");
        let (config, complaints) = testing::parse(Kind::Source, &lines, parse);
        config.unwrap_or_else(|| panic!("{complaints:?}"))
    }

    /// Opens a source over a memory channel, runs the test against its address, stops it.
    fn with_source<F: Future<Output = ()>>(
        lines: &'static str,
        capacity: usize,
        test: impl FnOnce(Io, SocketAddr, Rc<dyn Channel>, stop::StopHandle) -> F + 'static,
    ) {
        run_local(EngineKind::Portable, |io| async move {
            let channel = testing::memory_channel(&io, capacity);
            let cx = testing::source_context(&io, channel.clone());
            let source = config(lines).open(cx).await.unwrap();
            let text = source.describe();
            let address = text.split_whitespace().nth(2).unwrap().trim_end_matches(',').parse().unwrap();
            let (handle, stop) = stop::channel();
            let running = crate::io::spawn(source.run(stop));
            let patience = io.sleep(Duration::from_secs(20));
            tokio::select! {
                () = test(io.clone(), address, channel, handle.clone()) => {}
                () = patience => panic!("the test hangs"),
            }
            handle.request(stop::Phase::Stopping);
            running.await.unwrap().unwrap();
        })
        .unwrap();
    }

    async fn exchange(io: &Io, address: SocketAddr, request: &[u8], answer: &[u8]) {
        let mut stream = io.connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        stream.flush().await.unwrap();
        let mut back = vec![0; answer.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, answer);
    }

    #[test]
    fn properties() {
        for (lines, complaint) in [
            ("port = 4141", "bind"),
            ("bind = h\nport = x", "not a port"),
            ("bind = h\nport = 1\nipFilter = true", "ipFilterRules"),
            ("bind = h\nport = 1\nipFilter = true\nipFilterRules = permit:ip:*", "permit:ip:*"),
            ("bind = h\nport = 1\nssl = true\nkeystore = /k", "keystore-password"),
            ("bind = h\nport = 1\nmax-frame-size = 7", "1048576"),
        ] {
            let (config, complaints) = testing::parse(Kind::Source, lines, parse);
            assert!(config.is_none(), "{lines}");
            assert!(complaints.iter().any(|c| c.contains(complaint)), "{lines}: {complaints:?}");
        }
        let (config, complaints) =
            testing::parse(Kind::Source, "bind = h\nport = 1\ncompression-type = gzip\nthreads = 5", parse);
        assert!(config.is_some() && complaints[0].contains("counts as none"), "{complaints:?}");
    }

    #[test]
    fn recorded_clients_are_answered_byte_for_byte() {
        with_source("", 100, |io, address, channel, _| async move {
            exchange(&io, address, fixture!("avro-plain.request"), fixture!("avro-plain.response")).await;
            assert_eq!(testing::expect_bodies(&io, &*channel, 5).await[0], "hello");
            exchange(
                &io,
                address,
                fixture!("avro-raw-none-error.request"),
                fixture!("avro-raw-none-error.response"),
            )
            .await;
        });
    }

    #[test]
    fn a_deflating_client_is_answered() {
        with_source("compression-type = DEFLATE", 100, |io, address, channel, _| async move {
            let stream = io.connect(address).await.unwrap();
            let mut stream = crate::io::zlib::ZlibStream::new(stream, 6, true);
            stream.write_all(fixture!("avro-plain.request")).await.unwrap();
            stream.flush().await.unwrap();
            let mut back = vec![0; fixture!("avro-plain.response").len()];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(back, fixture!("avro-plain.response"));
            assert_eq!(testing::expect_bodies(&io, &*channel, 5).await.len(), 5);
        });
    }

    #[test]
    fn a_full_channel_is_told() {
        with_source("", 1, |io, address, channel, _| async move {
            exchange(
                &io,
                address,
                fixture!("avro-full-append.request"),
                fixture!("avro-full-append.response"),
            )
            .await;
            assert_eq!(testing::drain_bodies(&*channel).await, ["hello"]);
            exchange(&io, address, fixture!("avro-full-batch.request"), fixture!("avro-full-batch.response"))
                .await;
        });
    }

    #[test]
    fn hostile_peers_are_disconnected_and_others_served() {
        with_source("", 100, |io, address, channel, _| async move {
            let mut idle = io.connect(address).await.unwrap();
            for bytes in [
                &[0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff][..],
                &[0, 0, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff],
                &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 1, 2],
                b"GET / HTTP/1.1\r\n\r\n",
                &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 9],
            ] {
                let mut stream = io.connect(address).await.unwrap();
                stream.write_all(bytes).await.unwrap();
                let end = stream.read(&mut [0; 10]).await;
                assert!(matches!(end, Ok(0) | Err(_)), "{bytes:?}");
            }
            idle.write_all(fixture!("avro-plain.request")).await.unwrap();
            assert_eq!(testing::expect_bodies(&io, &*channel, 5).await.len(), 5);
        });
    }

    #[test]
    fn filtered_peers_are_not_served() {
        with_source("ipFilter = true\nipFilterRules = deny:ip:127.*", 100, |io, address, _, _| async move {
            let mut stream = io.connect(address).await.unwrap();
            let _ = stream.write_all(fixture!("avro-plain.request")).await;
            let end = stream.read(&mut [0; 10]).await;
            assert!(matches!(end, Ok(0) | Err(_)));
        });
    }

    #[test]
    fn stopping_closes_idle_connections() {
        with_source("", 100, |io, address, _, handle| async move {
            let mut stream = io.connect(address).await.unwrap();
            stream.write_all(&fixture!("avro-plain.request")[..20]).await.unwrap();
            io.sleep(Duration::from_millis(1)).await;
            handle.request(stop::Phase::Stopping);
            let end = stream.read(&mut [0; 10]).await;
            assert!(matches!(end, Ok(0) | Err(_)));
        });
    }

    #[test]
    fn tls_in_both_orders() {
        let lines = concat!(
            "ssl = true\ncompression-type = deflate\nkeystore-password = changeit\nkeystore = ",
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/keystore/server.jks"
        );
        with_source(lines, 100, |io, address, channel, _| async move {
            use crate::io::{Stream, tls::Connector, zlib::ZlibStream};
            let trust = tls::ClientTls { trust_all: true, ..tls::ClientTls::default() };
            let connector = Connector::open(&io, &trust).await.unwrap();
            for tls_outside in [false, true] {
                let stream = io.connect(address).await.unwrap();
                let mut stream: Box<dyn Stream> = if tls_outside {
                    Box::new(ZlibStream::new(connector.connect("h", stream).await.unwrap(), 6, true))
                } else {
                    connector.connect("h", Box::new(ZlibStream::new(stream, 6, true))).await.unwrap()
                };
                stream.write_all(fixture!("avro-plain.request")).await.unwrap();
                stream.flush().await.unwrap();
                let mut back = vec![0; fixture!("avro-plain.response").len()];
                stream.read_exact(&mut back).await.unwrap();
                assert_eq!(back, fixture!("avro-plain.response"));
                assert_eq!(testing::expect_bodies(&io, &*channel, 5).await.len(), 5);
            }
        });
    }
}
