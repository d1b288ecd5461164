//! `netcatudp` source: one event per datagram, up to its first line feed.
//!
//! Flume: `org.apache.flume.source.NetcatUdpSource`. Each shard receives on the same port and the kernel
//! spreads the senders. Datagrams that arrived together go in one transaction. UDP has no way to slow a
//! sender: what the channels refuse is lost, counted and logged.
//!
//! Without `remoteAddressHeader` no header is set; Flume sets one without a name, which its file channel
//! refuses.

use std::fmt::Write;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::net;
use super::{Claim, OpenError, Placement, Source, SourceConfig, SourceContext, SourceEntry, SourceError};
use crate::config::{ParseContext, Port, Property, PropertySpec};
use crate::event::{BatchBuilder, Separator};
use crate::io::stop::Stop;
use crate::io::{LocalBoxFuture, Udp};

const BIND: Property<String> =
    Property::optional("bind", "0.0.0.0", "Host name or IP address to receive on. Not set: all.");
const PORT: Property<Port> = Property::required("port", "UDP port to receive on.");
const REMOTE_ADDRESS_HEADER: Property<String> = Property::absent(
    "remoteAddressHeader",
    "Header that gets the sender's address, in the form `/192.0.2.1:5140`. Not set: no header.",
);

/// Every property the netcatudp source reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&BIND, &PORT, &REMOTE_ADDRESS_HEADER];

/// Row of the registry.
pub const ENTRY: SourceEntry = SourceEntry {
    name: "netcatudp",
    class: "org.apache.flume.source.NetcatUdpSource",
    summary: "One event per UDP datagram, up to its first line feed.",
    placement: Placement::EveryShard,
    properties: PROPERTIES,
    parse,
};

/// Largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// Datagrams of one transaction, if as many wait: with the usual 1.4 KB about 360 KB.
const BATCH_EVENTS_MAX: usize = 256;
/// Bytes of one transaction; one more datagram may come on top.
const BATCH_BYTES_MAX: usize = 512 * 1024;

struct UdpConfig {
    bind: String,
    port: u16,
    header: Option<String>,
}

/// Reads the settings of a netcatudp source.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    let bind = cx.get(&BIND);
    let port = cx.get(&PORT);
    let header = cx.get_opt(&REMOTE_ADDRESS_HEADER);
    Some(Arc::new(UdpConfig { bind: bind?, port: port?.0, header: header? }))
}

impl SourceConfig for UdpConfig {
    fn headers_set(&self) -> Option<Vec<String>> {
        Some(Vec::new())
    }
    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Udp(self.bind.clone(), self.port)]
    }
    fn open(
        self: Arc<Self>,
        cx: SourceContext,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Source>, OpenError>> {
        Box::pin(async move {
            let socket = net::bind_udp(&cx.io, &self.bind, self.port).await?;
            Ok(Box::new(NetcatUdp { config: self, cx, socket }) as Box<dyn Source>)
        })
    }
}

struct NetcatUdp {
    config: Arc<UdpConfig>,
    cx: SourceContext,
    socket: Rc<dyn Udp>,
}

impl NetcatUdp {
    fn push(&self, builder: &mut BatchBuilder, datagram: &[u8], from: SocketAddr, text: &mut String) {
        let end = memchr::memchr(b'\n', datagram).unwrap_or(datagram.len());
        builder.push(datagram.get(..end).unwrap_or_default());
        if let Some(header) = &self.config.header {
            text.clear();
            let _ = write!(text, "/{from}");
            builder.header(header, text);
        }
    }

    async fn receive(&self) {
        let counters = &self.cx.counters;
        let events_max = BATCH_EVENTS_MAX.min(self.cx.channels.transaction_capacity());
        let mut text = String::new();
        let mut next = self.socket.recv_from(Vec::with_capacity(DATAGRAM_BYTES_MAX));
        loop {
            let mut builder = BatchBuilder::new(Separator::Newline);
            let mut arrived = Some((&mut next).await);
            while let Some((result, buffer)) = arrived.take() {
                match result {
                    Ok(from) => self.push(&mut builder, &buffer, from, &mut text),
                    Err(error) => {
                        counters.event_read_fail.add(1);
                        tracing::warn!(source = %self.cx.name, %error, "cannot receive");
                        // The kernel reports errors of earlier packets here; none repeats by itself.
                        tokio::task::yield_now().await;
                    }
                }
                next = self.socket.recv_from(buffer);
                if builder.len() >= events_max || builder.area_bytes() >= BATCH_BYTES_MAX {
                    break;
                }
                // What has arrived already joins the batch; the receive under way is kept otherwise.
                let pending = &mut next;
                arrived = poll_fn(|cx| {
                    Poll::Ready(match pending.as_mut().poll(cx) {
                        Poll::Ready(datagram) => Some(datagram),
                        Poll::Pending => None,
                    })
                })
                .await;
            }
            if builder.is_empty() {
                continue;
            }
            let batch = builder.finish();
            let events = batch.len();
            counters.event_received.add(events as u64);
            match self.cx.channels.process_stream(batch).await {
                Ok(()) => counters.event_accepted.add(events as u64),
                Err((taken, error)) => {
                    counters.event_accepted.add(taken as u64);
                    counters.channel_write_fail.add(1);
                    tracing::error!(source = %self.cx.name, lost = events - taken, %error, "channel did not take datagrams; they are lost");
                }
            }
        }
    }
}

impl Source for NetcatUdp {
    fn run(self: Box<Self>, stop: Stop) -> LocalBoxFuture<'static, Result<(), SourceError>> {
        Box::pin(async move {
            stop.or(self.receive()).await;
            Ok(())
        })
    }
    fn describe(&self) -> String {
        match self.socket.local_addr() {
            Ok(address) => format!("receives on {address}"),
            Err(_) => format!("receives on {}:{}", self.config.bind, self.config.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::io::stop::Phase;
    use crate::io::{EngineKind, run_local, stop};
    use crate::testing;

    #[test]
    fn properties() {
        let (config, complaints) = testing::parse(Kind::Source, "bind = 127.0.0.1", parse);
        assert!(config.is_none() && complaints[0].contains("port: is required"), "{complaints:?}");
        let (config, _) = testing::parse(Kind::Source, "port = 6", parse);
        assert_eq!(config.unwrap().claims(), [Claim::Udp("0.0.0.0".into(), 6)]);
    }

    #[test]
    fn a_datagram_is_an_event_up_to_its_first_line_feed() {
        run_local(EngineKind::Portable, |io| async move {
            let lines = "bind = 127.0.0.1\nport = 0\nremoteAddressHeader = from";
            let (config, _) = testing::parse(Kind::Source, lines, parse);
            let channel = testing::memory_channel(&io, 100);
            let source = config.unwrap().open(testing::source_context(&io, channel.clone())).await;
            let source = source.map_err(|e| e.message).unwrap();
            let address: SocketAddr =
                source.describe().strip_prefix("receives on ").unwrap().parse().unwrap();
            let (handle, stop) = stop::channel();
            let task = crate::io::spawn(source.run(stop));
            let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            for datagram in ["one\ntwo\n", "three", ""] {
                sender.send_to(datagram.as_bytes(), address).unwrap();
            }
            let mut seen = Vec::new();
            while seen.len() < 3 {
                channel_wait(&io, &*channel).await;
                for batch in testing::drain(&*channel).await {
                    for i in 0..batch.len() {
                        seen.push((
                            String::from_utf8_lossy(batch.body(i)).into_owned(),
                            batch.header(i, "from").map(str::to_owned),
                        ));
                    }
                }
            }
            let from = Some(format!("/{}", sender.local_addr().unwrap()));
            let expected = ["one", "three", ""].map(|body| (body.to_owned(), from.clone()));
            assert_eq!(seen, expected);
            handle.request(Phase::Stopping);
            task.await.unwrap().unwrap();
        })
        .unwrap();
    }

    async fn channel_wait(io: &crate::io::Io, channel: &dyn crate::channel::Channel) {
        tokio::select! {
            () = channel.wait_ready() => {}
            () = io.sleep(std::time::Duration::from_secs(10)) => panic!("no datagram within 10 s"),
        }
    }
}
