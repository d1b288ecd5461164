//! `multiport_syslogtcp` source: syslog messages over TCP on several ports.
//!
//! Flume: `org.apache.flume.source.MultiportSyslogTCPSource`. Its headers are spelt differently from those
//! of `syslogtcp`. Each shard listens on every port and the kernel spreads the connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::stream::{CONNECTIONS_MAX, Limits, Shared, serve};
use super::tcp::client_headers;
use super::{CLIENT_HOSTNAME_HEADER, CLIENT_IP_HEADER, ClientHeaders, EVENT_SIZE, HOST, KEEP_FIELDS, Names};
use crate::codec::charset::Charset;
use crate::codec::syslog::KeepFields;
use crate::codec::syslog::multiport::Parser;
use crate::config::tls::{self, ServerTls};
use crate::config::{ParseContext, Port, Positive, Property, PropertySpec, PropertyValue, Words};
use crate::io::stop::Stop;
use crate::io::tls::Acceptor;
use crate::io::{Listener, LocalBoxFuture, Stream};
use crate::source::connections::Connections;
use crate::source::{
    Claim, OpenError, Placement, Source, SourceConfig, SourceContext, SourceEntry, SourceError, net,
};

const PORTS: Property<Words> =
    Property::required("ports", "TCP ports to listen on, separated by blanks.").example("10001 10002");
const PORT_HEADER: Property<String> = Property::absent(
    "portHeader",
    "Header to set to the port a message came in by. Not set: no such header.",
);
const CHARSET_DEFAULT: Property<Charset> =
    Property::optional("charset.default", "UTF-8", "Character set of host names in messages.");
const CHARSET_PORT: Property<Charset> =
    Property::family("charset.port.", "`charset.port.<port>`: the same for one port.");
const BATCH_SIZE: Property<Positive> = Property::absent(
    "batchSize",
    "Most events of one transaction. Not set (Flume: 100): what one read brings, within the channels' transactionCapacity, \
     which is fewer and larger transactions.",
);
const READ_BUFFER_BYTES: Property<Positive> = Property::optional(
    "readBufferBytes",
    "1024",
    "Flume's read buffer. Without effect: the connections of a core share one of 256 KiB.",
);
const READ_BUFFER_SIZE: Property<Positive> = Property::absent(
    "readBufferSize",
    "What Flume's guide calls `readBufferBytes`. Without effect, as in Flume.",
);
const NUM_PROCESSORS: Property<Positive> =
    Property::absent("numProcessors", "Flume's number of threads. Without effect: there is one per core.");

/// Every property the source reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[
    &HOST,
    &PORTS,
    &EVENT_SIZE,
    &KEEP_FIELDS,
    &PORT_HEADER,
    &CLIENT_IP_HEADER,
    &CLIENT_HOSTNAME_HEADER,
    &CHARSET_DEFAULT,
    &CHARSET_PORT,
    &BATCH_SIZE,
    &READ_BUFFER_BYTES,
    &READ_BUFFER_SIZE,
    &NUM_PROCESSORS,
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
    name: "multiport_syslogtcp",
    class: "org.apache.flume.source.MultiportSyslogTCPSource",
    summary: "Syslog messages (RFC 3164, RFC 5424) over TCP, on several ports.",
    placement: Placement::EveryShard,
    properties: PROPERTIES,
    parse,
};

#[derive(Debug)]
struct Config {
    host: String,
    ports: Vec<u16>,
    event_size: usize,
    keep: KeepFields,
    port_header: Option<String>,
    client: ClientHeaders,
    charset: Charset,
    port_charsets: HashMap<u16, Charset>,
    batch_size: Option<usize>,
    tls: Option<ServerTls>,
}

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    Some(Arc::new(read(cx)?))
}

fn read(cx: &mut ParseContext<'_>) -> Option<Config> {
    let (host, ports, event_size) = (cx.get(&HOST), cx.get(&PORTS), cx.get(&EVENT_SIZE));
    let (keep, port_header) = (cx.get(&KEEP_FIELDS), cx.get_opt(&PORT_HEADER));
    let (address, name) = (cx.get_opt(&CLIENT_IP_HEADER), cx.get_opt(&CLIENT_HOSTNAME_HEADER));
    let tls = tls::parse_server(cx);
    let (charset, batch_size) = (cx.get(&CHARSET_DEFAULT), cx.get_opt(&BATCH_SIZE));
    let unused = (cx.get(&READ_BUFFER_BYTES), cx.get_opt(&READ_BUFFER_SIZE), cx.get_opt(&NUM_PROCESSORS));
    let mut is_complete = unused.0.is_some() && unused.1.is_some() && unused.2.is_some();
    let mut numbers = Vec::new();
    for word in ports.iter().flat_map(|words| &words.0) {
        match Port::parse(word) {
            Ok(Port(port)) if numbers.contains(&port) && port != 0 => {
                cx.warning("ports", format!("names {port} twice"), None);
            }
            Ok(Port(port)) => numbers.push(port),
            Err(problem) => {
                is_complete = false;
                cx.error(
                    "ports",
                    format!("{word:?} is {problem}"),
                    Some("for example: 10001 10002".to_owned()),
                );
            }
        }
    }
    let mut port_charsets = HashMap::new();
    for (text, charset) in cx.family(&CHARSET_PORT) {
        let key = format!("charset.port.{text}");
        match Port::parse(&text) {
            Ok(Port(port)) => {
                if !numbers.contains(&port) {
                    cx.warning(&key, format!("{port} is none of the ports"), None);
                }
                port_charsets.insert(port, charset);
            }
            Err(problem) => {
                is_complete = false;
                cx.error(&key, format!("{text:?} is {problem}"), None);
            }
        }
    }
    ports?;
    is_complete.then_some(())?;
    Some(Config {
        host: host?,
        ports: numbers,
        event_size: event_size?.0,
        keep: keep?.0,
        port_header: port_header?,
        client: ClientHeaders { address: address?, name: name? },
        charset: charset?,
        port_charsets,
        batch_size: batch_size?.map(|b| b.0),
        tls: tls?,
    })
}

impl SourceConfig for Config {
    fn claims(&self) -> Vec<Claim> {
        self.ports.iter().map(|port| Claim::Tcp(self.host.clone(), *port)).collect()
    }
    fn batch_size(&self) -> Option<usize> {
        self.batch_size
    }
    fn open(
        self: Arc<Self>,
        cx: SourceContext,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Source>, OpenError>> {
        Box::pin(async move {
            let tls = Acceptor::open_if(&cx.io, self.tls.as_ref()).await?;
            let mut listeners = Vec::with_capacity(self.ports.len());
            for port in &self.ports {
                let listener = net::listen(&cx.io, &self.host, *port).await.map_err(|mut error| {
                    error = super::blame_host(error);
                    if error.property == "port" {
                        error.property = "ports";
                    }
                    error
                })?;
                listeners.push(listener);
            }
            let connections = Connections::new(&cx, CONNECTIONS_MAX).secured(tls);
            let server = Rc::new(Server { shared: Shared::new(cx), config: self, names: Names::default() });
            Ok(Box::new(Multiport { listeners, connections, server }) as Box<dyn Source>)
        })
    }
}

struct Multiport {
    listeners: Vec<Rc<dyn Listener>>,
    connections: Connections,
    server: Rc<Server>,
}

struct Server {
    shared: Rc<Shared>,
    config: Arc<Config>,
    names: Names,
}

impl Server {
    async fn serve(self: Rc<Self>, stream: Box<dyn Stream>, peer: SocketAddr, port: u16, stop: Stop) {
        let Self { shared, config, names } = &*self;
        let mut headers = client_headers(&config.client, names, &shared.cx, peer).await;
        if let Some(key) = &config.port_header {
            headers.insert(key.as_str(), port.to_string());
        }
        let charset = config.port_charsets.get(&port).copied().unwrap_or(config.charset);
        let mut parser = Parser::new(config.keep);
        let cx = &shared.cx;
        let push = |message: &[u8], is_cut: bool, batch: &mut _| {
            let now = cx.io.unix_time().as_millis() as i64;
            if !parser.push(message, is_cut, charset, now, batch) {
                cx.counters.event_read_fail.add(1);
            }
        };
        let limits = Limits { event_size: config.event_size, batch_size: config.batch_size };
        serve(shared, (stream, peer), limits, headers, &stop, push).await;
    }
}

impl Source for Multiport {
    fn run(self: Box<Self>, stop: Stop) -> LocalBoxFuture<'static, Result<(), SourceError>> {
        Box::pin(async move {
            let Self { listeners, connections, server } = *self;
            let mut accepting = tokio::task::JoinSet::new();
            for listener in listeners {
                let (connections, server, stop) = (connections.clone(), Rc::clone(&server), stop.clone());
                accepting.spawn_local(async move {
                    let port = listener.local_addr().map_or(0, |address| address.port());
                    let serve = move |stream, peer, stop| Rc::clone(&server).serve(stream, peer, port, stop);
                    connections.serve(listener, &stop, serve).await;
                });
            }
            while accepting.join_next().await.is_some() {}
            Ok(())
        })
    }
    fn describe(&self) -> String {
        let address = |l: &Rc<dyn Listener>| l.local_addr().map_or_else(|e| e.to_string(), |a| a.to_string());
        format!("listens on {}", self.listeners.iter().map(address).collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::config::Kind;
    use crate::io::stop::{self, Phase};
    use crate::io::{EngineKind, run_local, spawn};
    use crate::testing;

    #[test]
    fn every_port_is_served() {
        run_local(EngineKind::Portable, |io| async move {
            let lines = "host = 127.0.0.1\nports = 0 0\nportHeader = port";
            let (config, complaints) = testing::parse(Kind::Source, lines, read);
            assert_eq!(complaints, Vec::<String>::new());
            let channel = testing::memory_channel(&io, 100);
            let cx = testing::source_context(&io, channel.clone());
            let counters = cx.counters.clone();
            let source = Arc::new(config.unwrap()).open(cx).await.unwrap();
            let description = source.describe();
            let addresses: Vec<SocketAddr> =
                description.split(' ').skip(2).map(|a| a.parse().unwrap()).collect();
            assert_eq!(addresses.len(), 2);
            let (handle, stop) = stop::channel();
            let running = spawn(source.run(stop));
            for address in addresses {
                let mut stream = io.connect(address).await.unwrap();
                stream.write_all(b"<13>1 2003-10-11T22:14:15Z h text\nbad\n").await.unwrap();
                let batch = loop {
                    if let Some(batch) = testing::drain(&*channel).await.into_iter().next() {
                        break batch;
                    }
                    channel_ready(&*channel).await;
                };
                assert_eq!(batch.bodies().collect::<Vec<_>>(), [&b"text"[..], b"bad"]);
                assert_eq!(batch.header(0, "Priority"), Some("13"));
                assert_eq!(batch.header(0, "port"), Some(address.port().to_string().as_str()));
            }
            handle.request(Phase::Stopping);
            running.await.unwrap().unwrap();
            assert_eq!(counters.event_read_fail.value(), 2);
        })
        .unwrap();
    }

    #[test]
    fn transactions_have_no_more_than_batch_size_events() {
        run_local(EngineKind::Portable, |io| async move {
            for (line, largest) in [("batchSize = 3", 3), ("", 10)] {
                let lines = format!("host = 127.0.0.1\nports = 0\n{line}");
                let config = testing::parse(Kind::Source, &lines, read).0.unwrap();
                let channel = testing::memory_channel(&io, 100);
                let source =
                    Arc::new(config).open(testing::source_context(&io, channel.clone())).await.unwrap();
                let description = source.describe();
                let address: SocketAddr = description.rsplit(' ').next().unwrap().parse().unwrap();
                let (handle, stop) = stop::channel();
                let running = spawn(source.run(stop));
                let mut stream = io.connect(address).await.unwrap();
                let message = "<13>1 2003-10-11T22:14:15Z h - - - - text\n";
                stream.write_all(message.repeat(10).as_bytes()).await.unwrap();
                let mut sizes = Vec::new();
                while sizes.iter().sum::<usize>() < 10 {
                    channel_ready(&*channel).await;
                    sizes.extend(testing::drain(&*channel).await.iter().map(crate::event::EventBatch::len));
                }
                assert_eq!(sizes.iter().max(), Some(&largest), "{sizes:?}");
                handle.request(Phase::Stopping);
                running.await.unwrap().unwrap();
            }
        })
        .unwrap();
    }

    async fn channel_ready(channel: &dyn crate::channel::Channel) {
        channel.wait_ready().await;
    }

    #[test]
    fn properties_are_checked() {
        for (lines, part) in [
            ("", "x1.ports: is required"),
            ("ports = 1 x 70000", "\"x\" is not a port"),
            ("ports = 1 1", "names 1 twice"),
            ("ports = 1\ncharset.default = UTF-7", "not a character set"),
            ("ports = 1\ncharset.port.2 = UTF-8", "2 is none of the ports"),
            ("ports = 1\ncharset.port.x = UTF-8", "\"x\" is not a port"),
            ("ports = 1\nbatchSize = 0", "not a whole number above 0"),
        ] {
            let (_, complaints) = testing::parse(Kind::Source, lines, read);
            assert!(complaints.iter().any(|c| c.contains(part)), "{lines}: {complaints:?}");
        }
        let (config, _) =
            testing::parse(Kind::Source, "ports = 1 2\nbatchSize = 7\nreadBufferSize = 2048", read);
        assert_eq!(config.as_ref().unwrap().batch_size(), Some(7));
        assert_eq!(config.unwrap().claims().len(), 2);
    }
}
