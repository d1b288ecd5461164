//! `netcat` source: one event per line of text arriving on a TCP port.
//!
//! Flume: `org.apache.flume.source.NetcatSource`. Each shard listens on the same port and the kernel spreads
//! the connections. Answers `OK` per line, once the channels have committed it, unless
//! `ack-every-event = false`.
//!
//! All connections of a shard read into one buffer; a read of many lines is handed on as a batch as it
//! lies there. An idle connection keeps no buffer, only the beginning of a line if there is one.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use super::net::{self, Gauge, Share};
use super::{Claim, OpenError, Placement, Source, SourceConfig, SourceContext, SourceEntry, SourceError};
use crate::channel::ChannelError;
use crate::codec::charset::Charset;
use crate::codec::charset_lines::{OnMalformed, has_java_chars};
use crate::config::{ParseContext, Port, Positive, Property, PropertySpec};
use crate::event::{BatchBuilder, EventBatch, Separator};
use crate::io::buffer::{BufferPool, PooledBuf};
use crate::io::stop::{Phase, Stop};
use crate::io::{Listener, LocalBoxFuture, Stream};

const BIND: Property<String> =
    Property::required("bind", "Host name or IP address to listen on.").example("0.0.0.0");
const PORT: Property<Port> = Property::required("port", "TCP port to listen on.");
const MAX_LINE_LENGTH: Property<Positive> = Property::optional(
    "max-line-length",
    "512",
    "Longest accepted line, in characters, line feed included. A longer one is answered by FAILED and the \
     connection is closed.",
);
const ACK_EVERY_EVENT: Property<bool> =
    Property::optional("ack-every-event", "true", "Answer `OK` for each line the channels have taken.");
const ENCODING: Property<Charset> =
    Property::optional("encoding", "utf-8", "Character set of lines and answers; bodies are always UTF-8.");

/// Every property the netcat source reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&BIND, &PORT, &MAX_LINE_LENGTH, &ACK_EVERY_EVENT, &ENCODING];

/// Row of the registry.
pub const ENTRY: SourceEntry = SourceEntry {
    name: "netcat",
    class: "org.apache.flume.source.NetcatSource",
    summary: "One event per line of text arriving on a TCP port.",
    placement: Placement::EveryShard,
    properties: PROPERTIES,
    parse,
};

/// Most bytes of one read, and so of one batch: large enough that a commit is worth it.
const READ_BYTES: usize = 256 * 1024;
/// A smaller read is copied to a buffer of its size, so that a few bytes waiting in a channel do not hold
/// 256 KiB. Copying 32 KiB takes about 2 µs, less than the read itself.
const COPY_BYTES_MAX: usize = 32 * 1024;
/// Read buffers kept for reuse per shard: 32 × 256 KiB = 8 MiB.
const SPARE_BUFFERS: usize = 32;
/// Bytes read on a shard and not yet taken by the channels; at this limit nothing more is read. With the
/// spare buffers 24 MiB, within the 64 MiB a shard may use.
const IN_FLIGHT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of unfinished lines a shard keeps for all its connections. A line that would exceed it is refused.
const UNFINISHED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Connections of a shard; more wait in the kernel's queue. Idle ones cost about 1.5 KiB here (task, socket
/// registration): 24 MiB.
const CONNECTIONS_MAX: usize = 16_384;
/// A line longer than this is gathered in a buffer of its own instead of being moved to the front of the
/// shared one at each read.
const CARRY_INLINE_MAX: usize = READ_BYTES / 2;
/// Answers written at once.
const OKS: usize = 4096;
/// How long to wait before accepting again after the kernel refused (out of file descriptors or memory).
const ACCEPT_RETRY: Duration = Duration::from_millis(500);

/// A netcat source's settings.
#[derive(Debug)]
pub struct NetcatConfig {
    bind: String,
    port: u16,
    line_chars_max: usize,
    ack: bool,
    charset: Charset,
    /// `OK\n` in the charset, [`OKS`] times, and the size of one.
    oks: Bytes,
    ok_bytes: usize,
}

/// Reads the settings of a netcat source.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    let bind = cx.get(&BIND);
    let port = cx.get(&PORT);
    let line_chars_max = cx.get(&MAX_LINE_LENGTH);
    let ack = cx.get(&ACK_EVERY_EVENT);
    let charset = cx.get(&ENCODING)?;
    let mut ok = BytesMut::new();
    answer_charset(charset).encode("OK\n", &mut ok);
    Some(Arc::new(NetcatConfig {
        bind: bind?,
        port: port?.0,
        line_chars_max: line_chars_max?.0,
        ack: ack?,
        charset,
        ok_bytes: ok.len(),
        oks: Bytes::from(ok.repeat(OKS)),
    }))
}

/// Answers in UTF-16 are big-endian, as Java's, and have no byte order mark: they are pieces of one stream.
fn answer_charset(charset: Charset) -> Charset {
    if charset == Charset::Utf16 { Charset::Utf16Be } else { charset }
}

impl SourceConfig for NetcatConfig {
    fn headers_set(&self) -> Option<Vec<String>> {
        Some(Vec::new())
    }
    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Tcp(self.bind.clone(), self.port)]
    }
    fn open(
        self: Arc<Self>,
        cx: SourceContext,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Source>, OpenError>> {
        Box::pin(async move {
            let listener = net::listen(&cx.io, &self.bind, self.port).await?;
            Ok(Box::new(Netcat::new(self, cx, listener)) as Box<dyn Source>)
        })
    }
}

/// A listening netcat source of one shard.
struct Netcat {
    shared: Rc<Shared>,
    listener: Rc<dyn Listener>,
}

/// What the connections of a shard share.
struct Shared {
    config: Arc<NetcatConfig>,
    cx: SourceContext,
    pool: BufferPool,
    /// The buffer all connections read into. Borrowed only while one of them is polled.
    scratch: RefCell<Option<PooledBuf>>,
    connections: Rc<Gauge>,
    in_flight: Rc<Gauge>,
    unfinished: Rc<Gauge>,
}

impl Netcat {
    fn new(config: Arc<NetcatConfig>, cx: SourceContext, listener: Rc<dyn Listener>) -> Self {
        let shared = Shared {
            config,
            cx,
            pool: BufferPool::new(READ_BYTES, SPARE_BUFFERS),
            scratch: RefCell::default(),
            connections: Rc::default(),
            in_flight: Rc::default(),
            unfinished: Rc::default(),
        };
        Self { shared: Rc::new(shared), listener }
    }

    async fn accept_loop(&self, stop: &Stop) {
        let shared = &self.shared;
        let name = &shared.cx.name;
        loop {
            if shared.connections.value() >= CONNECTIONS_MAX {
                tracing::warn!(source = %name, connections = CONNECTIONS_MAX, "connection limit of this shard reached; new ones wait");
                shared.connections.below(CONNECTIONS_MAX).await;
            }
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    tracing::debug!(source = %name, %peer, "connected");
                    let share = shared.connections.add(1);
                    shared.cx.counters.open_connection.add(1);
                    let connection = Connection { shared: shared.clone(), stream, peer, stop: stop.clone() };
                    crate::io::spawn(async move {
                        let _share = share;
                        let counters = connection.shared.cx.counters.clone();
                        if let Err(error) = connection.serve().await {
                            tracing::debug!(%peer, %error, "connection broke");
                        }
                        counters.open_connection.subtract(1);
                    });
                }
                Err(error) => {
                    tracing::warn!(source = %name, %error, "cannot accept a connection; raise the limit of open files (ulimit -n) if there are too many");
                    shared.cx.io.sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

impl Source for Netcat {
    fn run(self: Box<Self>, stop: Stop) -> LocalBoxFuture<'static, Result<(), SourceError>> {
        Box::pin(async move {
            stop.or(self.accept_loop(&stop)).await;
            let Self { shared, listener } = *self;
            drop(listener);
            // Each connection finishes the batch it has read, answers it and closes.
            tokio::select! {
                () = shared.connections.below(1) => {}
                () = stop.reached(Phase::Now) => {}
            }
            Ok(())
        })
    }
    fn describe(&self) -> String {
        match self.listener.local_addr() {
            Ok(address) => format!("listens on {address}"),
            Err(_) => format!("listens on {}:{}", self.shared.config.bind, self.shared.config.port),
        }
    }
}

/// Complete lines, cut out of what was read.
struct Lines {
    area: Bytes,
    ends: Vec<u32>,
    /// Where the first line begins: behind a byte order mark.
    start: usize,
    /// The batch cannot be handed on as it lies there.
    decode: bool,
    /// A line was longer than allowed; those before it count.
    too_long: bool,
}

struct Connection {
    shared: Rc<Shared>,
    stream: Box<dyn Stream>,
    peer: SocketAddr,
    stop: Stop,
}

impl Connection {
    async fn serve(mut self) -> io::Result<()> {
        let shared = self.shared.clone();
        let mut carry: Vec<u8> = Vec::new();
        let mut carry_share: Option<Share> = None;
        let mut charset = shared.config.charset;
        loop {
            if shared.in_flight.value() >= IN_FLIGHT_BYTES_MAX {
                if self.stop.or(shared.in_flight.below(IN_FLIGHT_BYTES_MAX)).await.is_none() {
                    return Ok(());
                }
                continue;
            }
            let stream = &mut self.stream;
            let read = poll_fn(|cx| shared.poll_read(stream, cx, &mut carry));
            let Some(read) = self.stop.or(read).await else { return Ok(()) };
            let Some(area) = read? else { return Ok(()) };
            let area_bytes = area.len();
            let lines = {
                let (settled, skip) = charset.resolve(&area);
                charset = settled;
                shared.cut(area, skip, charset, &mut carry)
            };
            carry_share = (!carry.is_empty()).then(|| {
                drop(carry_share.take());
                shared.unfinished.add(carry.len())
            });
            let out_of_room = shared.unfinished.value() > UNFINISHED_BYTES_MAX;
            let too_long = lines.too_long;
            if !lines.ends.is_empty() {
                let _share = shared.in_flight.add(area_bytes);
                // Boxed, so that an idle connection's task stays small.
                Box::pin(self.take_lines(lines, charset)).await?;
            }
            if too_long || out_of_room {
                let problem = if too_long {
                    let most = shared.config.line_chars_max;
                    format!("FAILED: Event exceeds the maximum length ({most} chars, including newline)\n")
                } else {
                    format!(
                        "FAILED: unfinished lines of all connections exceed {UNFINISHED_BYTES_MAX} bytes\n"
                    )
                };
                tracing::warn!(source = %shared.cx.name, peer = %self.peer, problem = problem.trim_end(), "line refused, connection closed");
                shared.cx.counters.event_read_fail.add(1);
                self.answer(&problem).await?;
                self.stream.shutdown().await?;
                return Ok(());
            }
        }
    }

    /// Puts the lines into the channels and answers them.
    async fn take_lines(&mut self, lines: Lines, charset: Charset) -> io::Result<()> {
        let shared = self.shared.clone();
        let counters = &shared.cx.counters;
        let batch = lines.into_batch(charset);
        let total = batch.len();
        counters.event_received.add(total as u64);
        let most = shared.cx.channels.transaction_capacity();
        let mut step = most;
        let mut done = 0;
        while done < total {
            let count = (total - done).min(step);
            let part = if count == total { batch.clone() } else { batch.slice(done, done + count) };
            match shared.cx.channels.process_batch(part).await {
                Ok(()) => {
                    counters.event_accepted.add(count as u64);
                    done += count;
                    if shared.config.ack {
                        self.acknowledge(count).await?;
                    }
                }
                // The client has waited keep-alive already. Fewer may fit: Flume puts each line by itself.
                Err(ChannelError::Full(_) | ChannelError::TooLarge(_)) if count > 1 => step = count / 2,
                Err(error) => {
                    counters.channel_write_fail.add(1);
                    // An event that can never fit says nothing about the others.
                    let failed = match error {
                        ChannelError::TooLarge(_) => count,
                        _ => total - done,
                    };
                    tracing::warn!(source = %shared.cx.name, peer = %self.peer, events = failed, %error, "lines refused; their sender was told");
                    let answer = format!("FAILED: {error}\n");
                    for _ in 0..failed {
                        self.answer(&answer).await?;
                    }
                    done += failed;
                    step = most;
                }
            }
        }
        Ok(())
    }

    async fn acknowledge(&mut self, mut count: usize) -> io::Result<()> {
        let config = self.shared.config.clone();
        while count > 0 {
            let now = count.min(OKS);
            let answers = config.oks.get(..now * config.ok_bytes).unwrap_or_default();
            self.write(answers).await?;
            count -= now;
        }
        Ok(())
    }

    async fn answer(&mut self, text: &str) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        answer_charset(self.shared.config.charset).encode(text, &mut bytes);
        self.write(&bytes).await
    }

    /// Writes; a client that does not read its answers must not delay the stop for ever.
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stop = self.stop.clone();
        let io = self.shared.cx.io.clone();
        let patience = async {
            stop.requested().await;
            io.sleep(Duration::from_secs(1)).await;
        };
        tokio::select! {
            biased;
            written = self.stream.write_all(bytes) => written,
            () = patience => Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answers")),
        }
    }
}

impl Shared {
    /// Reads what there is; `None` at the end of the stream. What was carried stands in front, and `carry`
    /// is empty then. Keeps no buffer while there is nothing.
    fn poll_read(
        &self,
        stream: &mut Box<dyn Stream>,
        cx: &mut Context<'_>,
        carry: &mut Vec<u8>,
    ) -> Poll<io::Result<Option<Bytes>>> {
        let mut scratch = self.scratch.borrow_mut();
        let buffer = scratch.get_or_insert_with(|| self.pool.take());
        let front = if carry.len() > CARRY_INLINE_MAX { 0 } else { carry.len() };
        let Some(room) = buffer.as_mut().get_mut(front..) else { return Poll::Pending };
        let mut room = ReadBuf::new(room);
        match Pin::new(stream).poll_read(cx, &mut room) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {}
        }
        let size = room.filled().len();
        if size == 0 {
            return Poll::Ready(Ok(None));
        }
        if carry.len() > CARRY_INLINE_MAX {
            let grown = carry.len() + size;
            carry.extend_from_slice(room.filled());
            // Nothing to cut in it yet: a long line must not be looked through again with each of its parts.
            let is_part =
                self.config.charset.unit_bytes() == 1 && memchr::memchr(b'\n', room.filled()).is_none();
            if is_part && grown < self.config.line_chars_max && grown <= UNFINISHED_BYTES_MAX {
                return Poll::Ready(Ok(Some(Bytes::new())));
            }
            return Poll::Ready(Ok(Some(Bytes::from(std::mem::take(carry)))));
        }
        let end = front + size;
        if let Some(start) = buffer.as_mut().get_mut(..front) {
            start.copy_from_slice(carry);
        }
        carry.clear();
        let area = if end < COPY_BYTES_MAX {
            Bytes::copy_from_slice(buffer.as_ref().get(..end).unwrap_or_default())
        } else {
            let full = scratch.take().map(PooledBuf::freeze).unwrap_or_default();
            full.slice(..end)
        };
        Poll::Ready(Ok(Some(area)))
    }

    /// Cuts complete lines off the front of `area`, at `skip`; the rest is carried to the next read.
    fn cut(&self, area: Bytes, skip: usize, charset: Charset, carry: &mut Vec<u8>) -> Lines {
        let unit = charset.unit_bytes();
        let most = self.config.line_chars_max;
        let mut ends = Vec::new();
        let mut start = skip;
        let mut too_long = false;
        if unit == 1 {
            for end in memchr::memchr_iter(b'\n', area.get(start..).unwrap_or_default()) {
                let end = skip + end;
                if end - start >= most && is_too_long(area.get(start..end), charset, most) {
                    too_long = true;
                    break;
                }
                ends.push(end as u32);
                start = end + 1;
            }
        } else {
            while let Some(end) = charset.find_newline(&area, start) {
                if end - start >= most && is_too_long(area.get(start..end), charset, most) {
                    too_long = true;
                    break;
                }
                ends.push(end as u32);
                start = end + unit;
            }
        }
        let rest = area.get(start..).unwrap_or_default();
        too_long = too_long || (rest.len() >= most && is_too_long(Some(rest), charset, most));
        if !too_long && !rest.is_empty() {
            carry.extend_from_slice(rest);
        }
        let whole = area.slice(..start);
        let decode = skip > 0 || unit > 1 || !charset.is_utf8(&whole);
        Lines { area: whole, ends, start: skip, decode, too_long }
    }
}

/// True if a line without its end leaves no room for the line feed within `most` characters.
fn is_too_long(line: Option<&[u8]>, charset: Charset, most: usize) -> bool {
    let line = line.unwrap_or_default();
    match std::str::from_utf8(line) {
        Ok(text) if charset == Charset::Utf8 => has_java_chars(text, most),
        _ => {
            let mut text = String::new();
            let _ = charset.decode_into(line, OnMalformed::Replace, &mut text);
            has_java_chars(&text, most)
        }
    }
}

impl Lines {
    fn into_batch(self, charset: Charset) -> EventBatch {
        let Self { area, ends, mut start, decode, .. } = self;
        if !decode {
            if let Some(batch) = EventBatch::from_parts(area, ends, Separator::Newline) {
                return batch;
            }
            unreachable!("ends rise and the area stops behind the last line feed");
        }
        let mut builder =
            BatchBuilder::with_capacity(Separator::Newline, area.len() + area.len() / 2, ends.len());
        let mut text = String::new();
        for end in ends {
            text.clear();
            let line = area.get(start..end as usize).unwrap_or_default();
            let _ = charset.decode_into(line, OnMalformed::Replace, &mut text);
            builder.push(text.as_bytes());
            start = end as usize + charset.unit_bytes();
        }
        builder.finish()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::channel::memory::MemoryChannel;
    use crate::config::Kind;
    use crate::io::stop::StopHandle;
    use crate::io::{EngineKind, Io, run_local, stop};
    use crate::metrics::SourceCounters;
    use crate::testing;

    struct Running {
        io: Io,
        channel: Rc<MemoryChannel>,
        address: SocketAddr,
        stop: StopHandle,
        task: JoinHandle<Result<(), SourceError>>,
        counters: Arc<SourceCounters>,
    }

    async fn start(io: &Io, capacity: usize, lines: &str) -> Running {
        let settings = testing::settings(Kind::Source, &format!("bind = 127.0.0.1\nport = 0\n{lines}"));
        let mut diagnostics = Vec::new();
        let config = parse(&mut ParseContext::new(&settings, &mut diagnostics)).unwrap();
        let channel = testing::memory_channel(io, capacity);
        let cx = testing::source_context(io, channel.clone());
        let counters = cx.counters.clone();
        let source = config.open(cx).await.map_err(|e| e.message).unwrap();
        let address = source.describe().strip_prefix("listens on ").unwrap().parse().unwrap();
        let (handle, stop) = stop::channel();
        let task = crate::io::spawn(source.run(stop));
        Running { io: io.clone(), channel, address, stop: handle, task, counters }
    }

    impl Running {
        async fn connect(&self) -> Box<dyn Stream> {
            self.io.connect(self.address).await.unwrap()
        }
        /// Sends, closes the sending half and reads all answers.
        async fn talk(&self, bytes: &[u8]) -> Vec<u8> {
            let mut stream = self.connect().await;
            stream.write_all(bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answers = Vec::new();
            stream.read_to_end(&mut answers).await.unwrap();
            answers
        }
        async fn stop(self) {
            self.stop.request(Phase::Stopping);
            self.task.await.unwrap().unwrap();
        }
    }

    fn with_source<F: Future<Output = ()>>(
        capacity: usize,
        lines: &'static str,
        test: impl FnOnce(Running) -> F,
    ) {
        run_local(EngineKind::Portable, |io| async move { test(start(&io, capacity, lines).await).await })
            .unwrap();
    }

    #[test]
    fn properties() {
        for (lines, complaint) in [
            ("port = 1", "a1.sources.x1.bind: is required and not set"),
            ("bind = h", "a1.sources.x1.port: is required and not set"),
            ("bind = h\nport = 99999", "a1.sources.x1.port = \"99999\": not a port"),
            ("bind = h\nport = 1\nmax-line-length = 0", "max-line-length = \"0\""),
            ("bind = h\nport = 1\nencoding = klingon", "encoding = \"klingon\""),
        ] {
            let (config, complaints) = testing::parse(Kind::Source, lines, parse);
            assert!(config.is_none(), "{lines}");
            assert!(complaints.len() == 1 && complaints[0].contains(complaint), "{complaints:?}");
        }
        let (config, complaints) = testing::parse(Kind::Source, "bind = h\nport = 4", parse);
        assert_eq!(config.unwrap().claims(), [Claim::Tcp("h".into(), 4)]);
        assert!(complaints.is_empty());
    }

    #[test]
    fn a_line_is_an_event_and_is_answered() {
        with_source(100, "", |source| async move {
            // A carriage return stays, an empty line is an empty event, the unfinished rest is dropped.
            assert_eq!(source.talk(b"hello\r\n\nlast\nrest").await, b"OK\nOK\nOK\n");
            assert_eq!(testing::drain_bodies(&*source.channel).await, ["hello\r", "", "last"]);
            assert_eq!(source.counters.event_accepted.value(), 3);
            source.stop().await;
        });
    }

    #[test]
    fn lines_cut_anywhere_are_put_together() {
        with_source(100, "", |source| async move {
            let mut stream = source.connect().await;
            for piece in ["ab", "cd\nx", "y", "\n"] {
                stream.write_all(piece.as_bytes()).await.unwrap();
                source.io.sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(testing::expect_bodies(&source.io, &*source.channel, 2).await, ["abcd", "xy"]);
            source.stop().await;
        });
    }

    #[test]
    fn acknowledgements_can_be_left_out() {
        with_source(100, "ack-every-event = false", |source| async move {
            assert_eq!(source.talk(b"a\nb\n").await, b"");
            assert_eq!(testing::drain_bodies(&*source.channel).await, ["a", "b"]);
            source.stop().await;
        });
    }

    #[test]
    fn a_long_line_is_refused_and_ends_the_connection() {
        with_source(100, "max-line-length = 5", |source| async move {
            let failed = "OK\nFAILED: Event exceeds the maximum length (5 chars, including newline)\n";
            // Four characters and the line feed fit, however many bytes they are.
            for long in ["éééé\nlonger\nmore\n", "abcd\nabcde"] {
                let mut stream = source.connect().await;
                stream.write_all(long.as_bytes()).await.unwrap();
                let mut answers = String::new();
                // The connection may be reset, since it is closed with bytes unread.
                let _ = stream.read_to_string(&mut answers).await;
                assert_eq!(answers, failed);
            }
            assert_eq!(testing::drain_bodies(&*source.channel).await, ["éééé", "abcd"]);
            source.stop().await;
        });
    }

    #[test]
    fn malformed_text_is_replaced() {
        with_source(100, "", |source| async move {
            assert_eq!(source.talk(b"good\nb\xFFd\n").await, b"OK\nOK\n");
            assert_eq!(testing::drain_bodies(&*source.channel).await, ["good", "b\u{FFFD}d"]);
            source.stop().await;
        });
    }

    #[test]
    fn other_encodings_become_utf8() {
        with_source(100, "encoding = iso-8859-1", |source| async move {
            assert_eq!(source.talk(b"caf\xE9\n").await, b"OK\n");
            assert_eq!(testing::drain_bodies(&*source.channel).await, ["café"]);
            source.stop().await;
        });
        with_source(100, "encoding = utf-16", |source| async move {
            assert_eq!(source.talk(b"\xFF\xFEh\0i\0\n\0\n\0").await, b"\0O\0K\0\n\0O\0K\0\n");
            assert_eq!(testing::drain_bodies(&*source.channel).await, ["hi", ""]);
            source.stop().await;
        });
    }

    #[test]
    fn a_full_channel_takes_what_fits_and_refuses_the_rest() {
        with_source(10, "", |source| async move {
            let answers = String::from_utf8(source.talk(&b"x\n".repeat(7)).await).unwrap();
            assert_eq!(answers, "OK\n".repeat(7));
            let answers = String::from_utf8(source.talk(&b"y\n".repeat(5)).await).unwrap();
            let lines: Vec<&str> = answers.lines().collect();
            assert_eq!(lines[..3], ["OK"; 3]);
            assert_eq!(lines.len(), 5);
            assert!(lines[3..].iter().all(|l| l.starts_with("FAILED: Space for commit")), "{lines:?}");
            assert_eq!(testing::drain_bodies(&*source.channel).await.len(), 10);
            assert_eq!(source.talk(b"z\n").await, b"OK\n");
            source.stop().await;
        });
    }

    #[test]
    fn a_flood_arrives_in_order() {
        with_source(1_000_000, "max-line-length = 1000000", |source| async move {
            let mut flood: Vec<u8> = (0..100_000).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
            flood.extend(std::iter::repeat_n(b'x', 900_000));
            flood.extend_from_slice(b"\nend\n");
            let (mut read, mut write) = tokio::io::split(source.connect().await);
            let sender = crate::io::spawn(async move { write.write_all(&flood).await.unwrap() });
            let mut answers = vec![0; 3 * 100_002];
            read.read_exact(&mut answers).await.unwrap();
            sender.await.unwrap();
            assert!(answers.chunks(3).all(|a| a == b"OK\n"));
            let bodies = testing::drain_bodies(&*source.channel).await;
            assert!(bodies.iter().take(100_000).enumerate().all(|(i, b)| *b == format!("line {i}")));
            assert_eq!((bodies[100_000].len(), bodies[100_001].as_str()), (900_000, "end"));
            source.stop().await;
        });
    }

    #[test]
    fn an_idle_connection_is_small() {
        with_source(1, "", |source| async move {
            let shared = Netcat::new(
                Arc::new(NetcatConfig {
                    bind: String::new(),
                    port: 0,
                    line_chars_max: 1,
                    ack: true,
                    charset: Charset::Utf8,
                    oks: Bytes::new(),
                    ok_bytes: 3,
                }),
                testing::source_context(&source.io, source.channel.clone()),
                net::listen(&source.io, "127.0.0.1", 0).await.unwrap(),
            )
            .shared;
            let (_handle, stop) = stop::channel();
            let task =
                Connection { shared, stream: source.connect().await, peer: source.address, stop }.serve();
            assert!(size_of_val(&task) <= 1024, "{} bytes", size_of_val(&task));
            source.stop().await;
        });
    }

    #[test]
    fn the_stop_closes_idle_connections() {
        with_source(10, "", |source| async move {
            let mut stream = source.connect().await;
            stream.write_all(b"a\n").await.unwrap();
            let mut answer = [0; 3];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(source.counters.open_connection.value(), 1);
            let counters = source.counters.clone();
            source.stop().await;
            assert_eq!(stream.read(&mut answer).await.unwrap(), 0);
            assert_eq!(counters.open_connection.value(), 0);
        });
    }
}
