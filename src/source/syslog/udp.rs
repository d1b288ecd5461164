//! `syslogudp` source: syslog messages over UDP.
//!
//! Flume: `org.apache.flume.source.SyslogUDPSource`. A datagram is one event, up to its first line feed.
//! Datagrams that arrive while a transaction is being committed make up the next one; beyond a bound they
//! stay in the kernel's buffer, and what does not fit there is lost, as UDP has it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use super::classic::{FORMAT_DATE, FORMAT_REGEX, FORMAT_REPLACE, FORMAT_SEARCH, Format};
use super::{CLIENT_HOSTNAME_HEADER, CLIENT_IP_HEADER, ClientHeaders, HOST, KEEP_FIELDS, Names, sender};
use crate::codec::syslog::classic::Parser;
use crate::config::{ParseContext, Port, Property, PropertySpec};
use crate::event::{BatchBuilder, Separator};
use crate::io::stop::Stop;
use crate::io::{LocalBoxFuture, Udp};
use crate::source::{
    Claim, OpenError, Placement, Source, SourceConfig, SourceContext, SourceEntry, SourceError, net,
};

const PORT: Property<Port> = Property::required("port", "UDP port to listen on.");

/// Every property the source reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[
    &HOST,
    &PORT,
    &KEEP_FIELDS,
    &CLIENT_IP_HEADER,
    &CLIENT_HOSTNAME_HEADER,
    &FORMAT_REGEX,
    &FORMAT_SEARCH,
    &FORMAT_REPLACE,
    &FORMAT_DATE,
];

/// Row of the registry.
pub const ENTRY: SourceEntry = SourceEntry {
    name: "syslogudp",
    class: "org.apache.flume.source.SyslogUDPSource",
    summary: "Syslog messages (RFC 3164, RFC 5424) over UDP.",
    placement: Placement::EveryShard,
    properties: PROPERTIES,
    parse,
};

/// Largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// Events, and bytes of their bodies, that wait for a transaction on a shard.
const WAITING_EVENTS_MAX: usize = 16_384;
const WAITING_BYTES_MAX: usize = 4 << 20;

#[derive(Debug)]
struct Config {
    host: String,
    port: u16,
    format: Format,
    client: ClientHeaders,
}

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    Some(Arc::new(read(cx)?))
}

fn read(cx: &mut ParseContext<'_>) -> Option<Config> {
    let (host, port) = (cx.get(&HOST), cx.get(&PORT));
    let (address, name) = (cx.get_opt(&CLIENT_IP_HEADER), cx.get_opt(&CLIENT_HOSTNAME_HEADER));
    let format = Format::parse(cx);
    let client = ClientHeaders { address: address?, name: name? };
    Some(Config { host: host?, port: port?.0, format: format?, client })
}

impl SourceConfig for Config {
    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Udp(self.host.clone(), self.port)]
    }
    fn open(
        self: Arc<Self>,
        cx: SourceContext,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Source>, OpenError>> {
        Box::pin(async move {
            let socket = net::bind_udp(&cx.io, &self.host, self.port).await.map_err(super::blame_host)?;
            Ok(Box::new(SyslogUdp { socket, config: self, cx }) as Box<dyn Source>)
        })
    }
}

struct SyslogUdp {
    socket: Rc<dyn Udp>,
    config: Arc<Config>,
    cx: SourceContext,
}

/// Events that wait for their transaction.
struct Waiting {
    batch: RefCell<BatchBuilder>,
    arrived: Notify,
    taken: Notify,
    is_closed: Cell<bool>,
}

impl SyslogUdp {
    /// Reads datagrams until the stop.
    async fn receive(&self, waiting: &Waiting, stop: &Stop) {
        let names = Names::default();
        let mut parser: Parser = self.config.format.parser();
        let mut buffer = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        loop {
            loop {
                let taken = waiting.taken.notified();
                let is_full = {
                    let batch = waiting.batch.borrow();
                    batch.len() >= WAITING_EVENTS_MAX || batch.area_bytes() >= WAITING_BYTES_MAX
                };
                if !is_full {
                    break;
                }
                if stop.or(taken).await.is_none() {
                    return;
                }
            }
            let Some((received, datagram)) = stop.or(self.socket.recv_from(buffer)).await else { return };
            buffer = datagram;
            let peer = match received {
                Ok(peer) => peer,
                Err(error) => {
                    tracing::warn!(source = %self.cx.name, %error, "cannot receive a datagram");
                    self.cx.io.sleep(super::RETRY.0).await;
                    continue;
                }
            };
            let client = &self.config.client;
            let name = match &client.name {
                Some(key) => Some((key, names.of(&self.cx.io, sender(peer)).await)),
                None => None,
            };
            let line = buffer.split(|b| *b == b'\n').next().unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let mut batch = waiting.batch.borrow_mut();
            parser.push(line, false, self.cx.io.unix_time().as_secs() as i64, &mut batch);
            if let Some(key) = &client.address {
                batch.header(key, &sender(peer).to_string());
            }
            if let Some((key, name)) = name {
                batch.header(key, &name);
            }
            drop(batch);
            self.cx.counters.event_received.add(1);
            waiting.arrived.notify_one();
        }
    }

    /// Puts what has arrived until nothing more will.
    async fn put(&self, waiting: &Waiting, stop: &Stop) {
        loop {
            let batch = waiting.batch.replace(BatchBuilder::new(Separator::None)).finish();
            waiting.taken.notify_one();
            if !batch.is_empty() {
                super::put_patiently(&self.cx, batch, stop).await;
            } else if waiting.is_closed.get() {
                return;
            } else {
                waiting.arrived.notified().await;
            }
        }
    }
}

impl Source for SyslogUdp {
    fn run(self: Box<Self>, stop: Stop) -> LocalBoxFuture<'static, Result<(), SourceError>> {
        Box::pin(async move {
            let waiting = Waiting {
                batch: RefCell::new(BatchBuilder::new(Separator::None)),
                arrived: Notify::new(),
                taken: Notify::new(),
                is_closed: Cell::new(false),
            };
            let receive = async {
                self.receive(&waiting, &stop).await;
                waiting.is_closed.set(true);
                waiting.arrived.notify_one();
            };
            tokio::join!(receive, self.put(&waiting, &stop));
            Ok(())
        })
    }
    fn describe(&self) -> String {
        match self.socket.local_addr() {
            Ok(address) => format!("listens on udp {address}"),
            Err(error) => format!("listens on an unknown address ({error})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::config::Kind;
    use crate::io::stop::{self, Phase};
    use crate::io::{EngineKind, run_local, spawn};
    use crate::testing;

    #[test]
    fn a_datagram_is_an_event() {
        run_local(EngineKind::Portable, |io| async move {
            let lines = "host = 127.0.0.1\nport = 0\nclientIPHeader = ip";
            let (config, complaints) = testing::parse(Kind::Source, lines, read);
            assert_eq!(complaints, Vec::<String>::new());
            let channel = testing::memory_channel(&io, 100);
            let cx = testing::source_context(&io, channel.clone());
            let counters = cx.counters.clone();
            let source = Arc::new(config.unwrap()).open(cx).await.unwrap();
            let address = source.describe().rsplit(' ').next().unwrap().parse().unwrap();
            let (handle, stop) = stop::channel();
            let running = spawn(source.run(stop));
            let sender = io.bind_udp("127.0.0.1:0".parse().unwrap(), false).unwrap();
            let messages: [&'static [u8]; 4] =
                [b"<13>Oct 11 22:14:15 web one", b"<13>Oct 11 22:14:15 web two\r\nthree", b"none", b""];
            for message in messages {
                sender.send_to(Bytes::from_static(message), address).await.unwrap();
            }
            let mut batches = Vec::new();
            while batches.iter().map(crate::event::EventBatch::len).sum::<usize>() < 4 {
                crate::channel::Channel::wait_ready(&*channel).await;
                batches.extend(testing::drain(&*channel).await);
            }
            let bodies: Vec<_> = batches.iter().flat_map(|b| b.bodies()).collect();
            assert_eq!(bodies, [&b"one"[..], b"two", b"none", b""]);
            assert_eq!(
                (batches[0].header(0, "ip"), batches[0].header(0, "host")),
                (Some("127.0.0.1"), Some("web"))
            );
            handle.request(Phase::Stopping);
            running.await.unwrap().unwrap();
            assert_eq!((counters.event_received.value(), counters.event_accepted.value()), (4, 4));
        })
        .unwrap();
    }

    #[test]
    fn properties_are_checked() {
        let (_, complaints) = testing::parse(Kind::Source, "port = x", read);
        assert!(complaints[0].contains("not a port"), "{complaints:?}");
        let (config, _) = testing::parse(Kind::Source, "port = 514", read);
        assert_eq!(config.unwrap().claims(), [Claim::Udp("0.0.0.0".to_owned(), 514)]);
    }
}
