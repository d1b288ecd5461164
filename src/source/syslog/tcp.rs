//! `syslogtcp` source: syslog messages over TCP.
//!
//! Flume: `org.apache.flume.source.SyslogTcpSource`. Each shard listens on the same port and the kernel
//! spreads the connections. Messages end at line feeds or are octet-counted (RFC 6587), told apart by
//! their first character.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::classic::{FORMAT_DATE, FORMAT_REGEX, FORMAT_REPLACE, FORMAT_SEARCH, Format};
use super::stream::{CONNECTIONS_MAX, Limits, Shared, serve};
use super::{
    CLIENT_HOSTNAME_HEADER, CLIENT_IP_HEADER, ClientHeaders, EVENT_SIZE, HOST, KEEP_FIELDS, Names, sender,
};
use crate::config::tls::{self, ServerTls};
use crate::config::{ParseContext, Port, Property, PropertySpec};
use crate::event::Headers;
use crate::io::stop::Stop;
use crate::io::tls::Acceptor;
use crate::io::{Listener, LocalBoxFuture, Stream};
use crate::source::connections::Connections;
use crate::source::{
    Claim, OpenError, Placement, Source, SourceConfig, SourceContext, SourceEntry, SourceError, net,
};

const PORT: Property<Port> = Property::required("port", "TCP port to listen on.");

/// Every property the source reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[
    &HOST,
    &PORT,
    &EVENT_SIZE,
    &KEEP_FIELDS,
    &CLIENT_IP_HEADER,
    &CLIENT_HOSTNAME_HEADER,
    &FORMAT_REGEX,
    &FORMAT_SEARCH,
    &FORMAT_REPLACE,
    &FORMAT_DATE,
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
    name: "syslogtcp",
    class: "org.apache.flume.source.SyslogTcpSource",
    summary: "Syslog messages (RFC 3164, RFC 5424) over TCP.",
    placement: Placement::EveryShard,
    properties: PROPERTIES,
    parse,
};

#[derive(Debug)]
struct Config {
    host: String,
    port: u16,
    event_size: usize,
    format: Format,
    client: ClientHeaders,
    tls: Option<ServerTls>,
}

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    Some(Arc::new(read(cx)?))
}

fn read(cx: &mut ParseContext<'_>) -> Option<Config> {
    let (host, port, event_size) = (cx.get(&HOST), cx.get(&PORT), cx.get(&EVENT_SIZE));
    let (address, name) = (cx.get_opt(&CLIENT_IP_HEADER), cx.get_opt(&CLIENT_HOSTNAME_HEADER));
    let tls = tls::parse_server(cx);
    let format = Format::parse(cx);
    Some(Config {
        host: host?,
        port: port?.0,
        event_size: event_size?.0,
        format: format?,
        client: ClientHeaders { address: address?, name: name? },
        tls: tls?,
    })
}

impl SourceConfig for Config {
    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Tcp(self.host.clone(), self.port)]
    }
    fn open(
        self: Arc<Self>,
        cx: SourceContext,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Source>, OpenError>> {
        Box::pin(async move {
            let tls = Acceptor::open_if(&cx.io, self.tls.as_ref()).await?;
            let listener = net::listen(&cx.io, &self.host, self.port).await.map_err(super::blame_host)?;
            let connections = Connections::new(&cx, CONNECTIONS_MAX).secured(tls);
            let server = Rc::new(Server { shared: Shared::new(cx), config: self, names: Names::default() });
            Ok(Box::new(SyslogTcp { listener, connections, server }) as Box<dyn Source>)
        })
    }
}

struct SyslogTcp {
    listener: Rc<dyn Listener>,
    connections: Connections,
    server: Rc<Server>,
}

struct Server {
    shared: Rc<Shared>,
    config: Arc<Config>,
    names: Names,
}

impl Server {
    async fn serve(self: Rc<Self>, stream: Box<dyn Stream>, peer: SocketAddr, stop: Stop) {
        let headers = client_headers(&self.config.client, &self.names, &self.shared.cx, peer).await;
        let mut parser = self.config.format.parser();
        let io = self.shared.cx.io.clone();
        let push = |message: &[u8], is_cut: bool, batch: &mut _| {
            parser.push(message, is_cut, io.unix_time().as_secs() as i64, batch);
        };
        let limits = Limits { event_size: self.config.event_size, batch_size: None };
        serve(&self.shared, (stream, peer), limits, headers, &stop, push).await;
    }
}

/// The headers of all events of a connection.
pub(super) async fn client_headers(
    client: &ClientHeaders,
    names: &Names,
    cx: &SourceContext,
    peer: SocketAddr,
) -> Headers {
    let mut headers = Headers::new();
    if let Some(key) = &client.address {
        headers.insert(key.as_str(), sender(peer).to_string());
    }
    if let Some(key) = &client.name {
        headers.insert(key.as_str(), &*names.of(&cx.io, sender(peer)).await);
    }
    headers
}

impl Source for SyslogTcp {
    fn run(self: Box<Self>, stop: Stop) -> LocalBoxFuture<'static, Result<(), SourceError>> {
        Box::pin(async move {
            let Self { listener, connections, server } = *self;
            let serve = move |stream, peer, stop| Rc::clone(&server).serve(stream, peer, stop);
            connections.serve(listener, &stop, serve).await;
            Ok(())
        })
    }
    fn describe(&self) -> String {
        match self.listener.local_addr() {
            Ok(address) => format!("listens on {address}"),
            Err(error) => format!("listens on an unknown address ({error})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::config::Kind;
    use crate::io::stop::{self, Phase};
    use crate::io::{EngineKind, Io, run_local, spawn};
    use crate::testing;

    async fn open(
        io: &Io,
        lines: &str,
        capacity: usize,
    ) -> (Box<dyn Source>, Rc<crate::channel::memory::MemoryChannel>, SourceContext) {
        let lines = format!("host = 127.0.0.1\nport = 0\n{lines}");
        let (config, complaints) = testing::parse(Kind::Source, &lines, read);
        assert_eq!(complaints, Vec::<String>::new());
        let channel = testing::memory_channel(io, capacity);
        let cx = testing::source_context(io, channel.clone());
        let twin = SourceContext {
            name: cx.name.clone(),
            agent: cx.agent.clone(),
            shard: cx.shard,
            io: cx.io.clone(),
            channels: cx.channels.clone(),
            counters: cx.counters.clone(),
        };
        (Arc::new(config.unwrap()).open(cx).await.unwrap(), channel, twin)
    }
    fn address(source: &dyn Source) -> SocketAddr {
        source.describe().rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn lines_and_counted_messages_arrive() {
        run_local(EngineKind::Portable, |io| async move {
            let (source, channel, cx) =
                open(&io, "clientIPHeader = ip\nclientHostnameHeader = name", 100).await;
            let address = address(&*source);
            let (handle, stop) = stop::channel();
            let running = spawn(source.run(stop));
            let mut stream = io.connect(address).await.unwrap();
            stream
                .write_all(b"<13>Oct 11 22:14:15 web one\r\n<13>Oct 11 22:14:15 web two\n27 <13>Oct 11 22:14")
                .await
                .unwrap();
            assert_eq!(testing::expect_bodies(&io, &*channel, 2).await, ["one", "two"]);
            stream.write_all(b":15 web 3\nfbad\nunfinished").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut batches = Vec::new();
            while batches.iter().map(crate::event::EventBatch::len).sum::<usize>() < 3 {
                io.sleep(Duration::from_millis(1)).await;
                batches.extend(testing::drain(&*channel).await);
            }
            let bodies: Vec<_> = batches.iter().flat_map(|b| b.bodies()).collect();
            assert_eq!(bodies, [&b"3\nf"[..], b"bad", b"unfinished"]);
            assert_eq!(batches[0].header(0, "ip"), Some("127.0.0.1"));
            assert!(batches[0].header(0, "name").is_some());
            assert_eq!(batches[0].header(0, "host"), Some("web"));
            handle.request(Phase::Stopping);
            running.await.unwrap().unwrap();
            let counters = &cx.counters;
            assert_eq!((counters.event_received.value(), counters.event_accepted.value()), (5, 5));
            assert_eq!(counters.open_connection.value(), 0);
        })
        .unwrap();
    }

    #[test]
    fn a_full_channel_stops_the_reading_and_nothing_is_lost() {
        run_local(EngineKind::Portable, |io| async move {
            let (source, channel, _) = open(&io, "", 10).await;
            let address = address(&*source);
            let (handle, stop) = stop::channel();
            let running = spawn(source.run(stop));
            let mut stream = io.connect(address).await.unwrap();
            let lines: String = (0..35).map(|i| format!("<13>Oct 11 22:14:15 web {i}\n")).collect();
            stream.write_all(lines.as_bytes()).await.unwrap();
            let bodies = testing::expect_bodies(&io, &*channel, 35).await;
            assert_eq!(bodies, (0..35).map(|i| i.to_string()).collect::<Vec<_>>());
            handle.request(Phase::Stopping);
            running.await.unwrap().unwrap();
        })
        .unwrap();
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        run_local(EngineKind::Portable, |io| async move {
            let (source, channel, _) = open(&io, "eventSize = 1000", 10_000).await;
            let address = address(&*source);
            let (_handle, stop) = stop::channel();
            let running = spawn(source.run(stop));
            let mut stream = io.connect(address).await.unwrap();
            stream.write_all(&vec![b'x'; 5_000_000]).await.unwrap();
            let bodies = testing::expect_bodies(&io, &*channel, 5000).await;
            assert!(bodies.iter().all(|body| body.len() == 1000));
            running.abort();
        })
        .unwrap();
    }

    #[test]
    fn properties_are_checked() {
        for (lines, part) in [
            ("", "x1.port: is required"),
            ("port = 1\neventSize = 0", "not a number of bytes from 10"),
            ("port = 1\nkeepFields = hosts", "names no field"),
            ("port = 1\nformat.regex = (", "not a regular expression"),
            ("port = 1\nformat.regex = a\nformat.search = a\nformat.replace = $1", "has no group 1"),
            ("port = 1\nformat.dateFormat = yyyy", "has no effect without format.regex"),
            ("port = 1\nformat.regex = a\nformat.dateFormat = Q", "not a date pattern"),
        ] {
            let (_, complaints) = testing::parse(Kind::Source, lines, read);
            assert!(complaints.iter().any(|c| c.contains(part)), "{lines}: {complaints:?}");
        }
        let (config, _) = testing::parse(Kind::Source, "port = 1\neventSize = 5", read);
        assert_eq!(config.unwrap().event_size, 10, "Flume's floor");
    }
}
