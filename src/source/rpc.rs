//! What the RPC sources have in common: connections on every shard, calls put in order and answered in
//! order, only after the channels have committed.
//!
//! A client may send several calls without waiting. Each is put as soon as the one before it was, and the
//! commits run together, so that one group commit of a durable channel serves many calls; the answers keep
//! the order of the calls. Back-pressure is the socket: while a put waits for room, or the client does not
//! read its answers, nothing more is read from that client.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::connections::Connections;
use super::ip_filter::IpFilter;
use super::{Source, SourceContext, SourceError};
use crate::channel::ChannelError;
use crate::codec::rpc::{Inbound, Method, Outcome, ServerSession, Ticket};
use crate::event::EventBatch;
use crate::io::kerberos;
use crate::io::stop::{Phase, Stop};
use crate::io::tls::Acceptor;
use crate::io::zlib::ZlibStream;
use crate::io::{Listener, LocalBoxFuture, Stream, machine};

/// Bytes read at once, into one buffer for all connections of a shard.
const READ_BYTES: usize = 256 * 1024;
/// Bytes of unfinished calls a shard holds for all its connections: four frames of the largest size. The
/// connection that would exceed it is closed.
const HELD_BYTES_MAX: usize = 256 << 20;
/// Connections of a shard; more wait in the kernel's queue. An idle one costs about 2 KiB: 32 MiB.
const CONNECTIONS_MAX: usize = 16_384;
/// Calls of one connection that wait for their commit. Their events are in the channels, which have limits
/// of their own.
const PENDING_MAX: usize = 64;
/// Answers that wait for the client to read them; a refusal with its reason is the longest.
const OUT_BYTES_MAX: usize = 64 * 1024;
/// A peer in the middle of a call, of a handshake or of reading its answers makes some progress in this time.
const STALL_MAX: Duration = Duration::from_secs(60);
/// Level of the answers' compression: Flume's.
const ZLIB_LEVEL: u32 = 6;

/// What lies between the socket and the calls.
#[derive(Clone)]
pub struct Layers {
    /// TLS.
    pub tls: Option<Acceptor>,
    /// Kerberos, within TLS.
    pub kerberos: Option<kerberos::Acceptor>,
    /// zlib, in both directions.
    pub zlib: bool,
}

impl Layers {
    /// Wraps an accepted stream; with Kerberos also says who is there. With TLS and zlib the first byte tells which is outside: Flume 1.10 and
    /// later put zlib there, earlier releases TLS.
    async fn wrap(&self, stream: Box<dyn Stream>) -> io::Result<(Box<dyn Stream>, Option<String>)> {
        let stream = self.wrap_bytes(stream).await?;
        match &self.kerberos {
            None => Ok((stream, None)),
            Some(kerberos) => kerberos.accept(stream).await.map(|(stream, who)| (stream, Some(who))),
        }
    }

    async fn wrap_bytes(&self, mut stream: Box<dyn Stream>) -> io::Result<Box<dyn Stream>> {
        let Some(tls) = &self.tls else {
            return Ok(if self.zlib { zlib(stream) } else { stream });
        };
        if !self.zlib {
            return tls.accept(stream).await;
        }
        let first = stream.read_u8().await?;
        let stream: Box<dyn Stream> = Box::new(Peeked { first: Some(first), stream });
        // RFC 8446 §5.1: a handshake record is of type 22.
        if first == 22 { Ok(zlib(tls.accept(stream).await?)) } else { tls.accept(zlib(stream)).await }
    }
}

fn zlib(stream: Box<dyn Stream>) -> Box<dyn Stream> {
    Box::new(ZlibStream::new(stream, ZLIB_LEVEL, false))
}

/// A stream whose first byte was looked at.
struct Peeked {
    first: Option<u8>,
    stream: Box<dyn Stream>,
}

impl AsyncRead for Peeked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() > 0
            && let Some(first) = self.first.take()
        {
            buf.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Peeked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// An RPC source of one shard.
pub struct RpcSource {
    shared: Rc<Shared>,
    listener: Rc<dyn Listener>,
}

/// Makes the session of a new connection.
pub type NewSession = Box<dyn Fn() -> Box<dyn ServerSession>>;

struct Shared {
    cx: SourceContext,
    layers: Layers,
    filter: Option<IpFilter>,
    new_session: NewSession,
    /// Bytes of unfinished calls.
    held: Cell<usize>,
    /// Borrowed only while a connection is polled.
    scratch: RefCell<Vec<u8>>,
}

impl RpcSource {
    /// A source over a listening socket.
    pub fn new(
        cx: SourceContext,
        listener: Rc<dyn Listener>,
        layers: Layers,
        filter: Option<IpFilter>,
        new_session: NewSession,
    ) -> Self {
        let shared =
            Shared { cx, layers, filter, new_session, held: Cell::new(0), scratch: RefCell::default() };
        Self { shared: Rc::new(shared), listener }
    }
}

impl Source for RpcSource {
    fn run(self: Box<Self>, stop: Stop) -> LocalBoxFuture<'static, Result<(), SourceError>> {
        Box::pin(async move {
            let Self { shared, listener } = *self;
            let connections = Connections::new(&shared.cx, CONNECTIONS_MAX);
            let serve = |stream, peer| {
                let (shared, stop) = (shared.clone(), stop.clone());
                Box::pin(async move {
                    tokio::select! {
                        () = shared.serve(stream, peer, &stop) => {}
                        () = stop.reached(Phase::Now) => {}
                    }
                }) as LocalBoxFuture<'static, ()>
            };
            connections.accept(&*listener, &stop, serve).await;
            drop(listener);
            // Each connection answers the calls it has put and closes.
            connections.closed(&stop).await;
            Ok(())
        })
    }
    fn describe(&self) -> String {
        let mut text = match self.listener.local_addr() {
            Ok(address) => format!("listens on {address}"),
            Err(_) => "listens".to_owned(),
        };
        if self.shared.layers.tls.is_some() {
            text.push_str(", TLS");
        }
        if self.shared.layers.zlib {
            text.push_str(", deflate");
        }
        if self.shared.layers.kerberos.is_some() {
            text.push_str(", Kerberos");
        }
        text
    }
}

impl Shared {
    async fn serve(self: Rc<Self>, stream: Box<dyn Stream>, peer: SocketAddr, stop: &Stop) {
        let source = self.cx.name.clone();
        if !self.admits(peer).await {
            tracing::warn!(%source, %peer, "connection refused by ipFilterRules");
            return;
        }
        let wrapped = tokio::select! {
            wrapped = self.layers.wrap(stream) => wrapped,
            () = self.cx.io.sleep(STALL_MAX) => Err(io::ErrorKind::TimedOut.into()),
            () = stop.requested() => return,
        };
        let stream = match wrapped {
            Ok((stream, None)) => stream,
            Ok((stream, Some(principal))) => {
                tracing::info!(%source, %peer, %principal, "connected");
                stream
            }
            Err(error) => {
                let failed =
                    if self.layers.kerberos.is_some() { "handshake failed" } else { "TLS handshake failed" };
                tracing::warn!(%source, %peer, %error, "connection closed: {failed}");
                return;
            }
        };
        let session = (self.new_session)();
        let mut connection = Connection::new(self, stream, session);
        match connection.run(stop).await {
            Ok(()) => tracing::debug!(%source, %peer, "disconnected"),
            Err(End::Broken(error)) => tracing::debug!(%source, %peer, %error, "connection broke"),
            Err(End::Hostile(reason)) => tracing::warn!(%source, %peer, reason, "connection closed"),
        }
    }

    async fn admits(&self, peer: SocketAddr) -> bool {
        let Some(filter) = &self.filter else { return true };
        let ip = peer.ip().to_canonical();
        let mut name = None;
        let mut local = ip.is_loopback();
        if filter.needs_name() {
            let io = &self.cx.io;
            name = crate::io::off_core(move || machine::canonical_name(ip)).await;
            if !local {
                let own = io.resolve(&machine::host_name(), 0).await;
                local = own.is_ok_and(|all| all.iter().any(|a| a.ip() == ip));
            }
        }
        filter.allows(ip, name.as_deref(), local)
    }
}

/// Why a connection ended before its time.
enum End {
    /// The network or the peer went away.
    Broken(io::Error),
    /// The peer does what it must not.
    Hostile(String),
}

type Commit = LocalBoxFuture<'static, Result<(), ChannelError>>;

/// A call that is owed an answer.
enum Owed {
    Answer(Bytes),
    Commit { ticket: Ticket, events: u64, commit: Commit },
}

/// What [`Connection::poll`] came upon.
enum Step {
    Read,
    Progress,
    Eof,
    /// All answers are written (while stopping).
    Done,
}

struct Connection {
    shared: Rc<Shared>,
    stream: Box<dyn Stream>,
    session: Box<dyn ServerSession>,
    inbound: VecDeque<Inbound>,
    /// The one call that is being put.
    starting: Option<(Ticket, u64, LocalBoxFuture<'static, Result<Commit, ChannelError>>)>,
    owed: VecDeque<Owed>,
    out: BytesMut,
    flushed: bool,
    held: usize,
    /// Runs while the peer owes us progress.
    stalled: Option<LocalBoxFuture<'static, ()>>,
    /// Nothing more is read.
    closing: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.held.set(self.shared.held.get() - self.held);
    }
}

impl Connection {
    fn new(shared: Rc<Shared>, stream: Box<dyn Stream>, session: Box<dyn ServerSession>) -> Self {
        Self {
            shared,
            stream,
            session,
            inbound: VecDeque::new(),
            starting: None,
            owed: VecDeque::new(),
            out: BytesMut::new(),
            flushed: true,
            held: 0,
            stalled: None,
            closing: false,
        }
    }

    async fn run(&mut self, stop: &Stop) -> Result<(), End> {
        loop {
            let step = if self.closing {
                std::future::poll_fn(|cx| self.poll(cx)).await
            } else {
                tokio::select! {
                    biased;
                    step = std::future::poll_fn(|cx| self.poll(cx)) => step,
                    () = stop.requested() => {
                        self.close();
                        continue;
                    }
                }
            };
            match step? {
                Step::Read | Step::Progress => {}
                Step::Eof if self.held > 0 && self.starting.is_none() && self.owed.is_empty() => {
                    return Err(End::Hostile("the peer left in the middle of a call".to_owned()));
                }
                Step::Eof => self.close(),
                Step::Done => {
                    let _ = tokio::io::AsyncWriteExt::shutdown(&mut self.stream).await;
                    return Ok(());
                }
            }
        }
    }

    /// Nothing more is read; calls not yet begun are left to the client, who has no answer for them.
    fn close(&mut self) {
        self.closing = true;
        self.inbound.clear();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, End>> {
        let mut progress = false;
        // Answers of committed calls, in order.
        while self.out.len() < OUT_BYTES_MAX {
            match self.owed.front_mut() {
                Some(Owed::Answer(bytes)) => self.out.extend_from_slice(bytes),
                Some(Owed::Commit { ticket, events, commit }) => match commit.as_mut().poll(cx) {
                    Poll::Ready(outcome) => {
                        answer(&self.shared, &mut *self.session, ticket, *events, outcome, &mut self.out);
                    }
                    Poll::Pending => break,
                },
                None => break,
            }
            self.owed.pop_front();
            progress = true;
        }
        // The next call goes into the channels.
        while self.owed.len() < PENDING_MAX {
            if let Some((ticket, events, start)) = &mut self.starting {
                let Poll::Ready(started) = start.as_mut().poll(cx) else { break };
                let commit = started.unwrap_or_else(|error| Box::pin(std::future::ready(Err(error))));
                let ticket = Ticket { prefix: std::mem::take(&mut ticket.prefix), ..*ticket };
                self.owed.push_back(Owed::Commit { ticket, events: *events, commit });
                self.starting = None;
                progress = true;
            }
            match self.inbound.pop_front() {
                Some(Inbound::Answer(bytes)) => self.owed.push_back(Owed::Answer(bytes)),
                Some(Inbound::Close) => self.close(),
                Some(Inbound::Call(ticket, batch)) => {
                    count_received(&self.shared, ticket.method, batch.len() as u64);
                    let events = batch.len() as u64;
                    let start = start(self.shared.clone(), ticket.method, batch);
                    self.starting = Some((ticket, events, Box::pin(start)));
                }
                None => break,
            }
        }
        if progress {
            // A commit that was just begun has to be polled, or nobody wakes us.
            return Poll::Ready(Ok(Step::Progress));
        }
        // What can be written is written, before anything more is read.
        let mut wrote = false;
        while !self.out.is_empty() || !self.flushed {
            let written = if self.out.is_empty() {
                Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| None)
            } else {
                Pin::new(&mut self.stream).poll_write(cx, &self.out).map_ok(Some)
            };
            match written {
                Poll::Ready(Ok(Some(size))) => {
                    self.out.advance(size);
                    self.flushed = false;
                    self.stalled = None;
                    wrote = true;
                }
                Poll::Ready(Ok(None)) => self.flushed = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(End::Broken(error))),
                Poll::Pending => return self.poll_stalled(cx, "the peer does not read its answers"),
            }
        }
        if self.out.capacity() > OUT_BYTES_MAX {
            self.out = BytesMut::new();
        }
        if wrote && !self.owed.is_empty() {
            // There is room again for answers that were not even asked for while there was none.
            return Poll::Ready(Ok(Step::Progress));
        }
        if self.closing {
            let idle = self.starting.is_none() && self.owed.is_empty();
            return if idle { Poll::Ready(Ok(Step::Done)) } else { Poll::Pending };
        }
        if self.starting.is_some() || !self.inbound.is_empty() {
            return Poll::Pending;
        }
        self.poll_read(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, End>> {
        if self.session.has_more() {
            return Poll::Ready(self.feed(&[]));
        }
        let shared = self.shared.clone();
        let mut scratch = shared.scratch.borrow_mut();
        scratch.resize(READ_BYTES, 0);
        let mut buf = ReadBuf::new(&mut scratch);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => return Poll::Ready(Ok(Step::Eof)),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                let reason = format!("{error}; compression-type or ssl may differ on the two sides");
                return Poll::Ready(Err(End::Hostile(reason)));
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(End::Broken(error))),
            Poll::Pending => {
                drop(scratch);
                if self.held > 0 {
                    return self.poll_stalled(cx, "the peer stopped in the middle of a call");
                }
                return Poll::Pending;
            }
        }
        self.stalled = None;
        Poll::Ready(self.feed(buf.filled()))
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<Step, End> {
        // What came before an offence is the peer's own, but nothing it may rely on: unanswered.
        self.session.feed(bytes, &mut self.inbound).map_err(End::Hostile)?;
        let shared = &self.shared;
        let held = self.session.held_bytes();
        shared.held.set(shared.held.get() + held - self.held);
        self.held = held;
        if shared.held.get() > HELD_BYTES_MAX {
            let reason = format!("{HELD_BYTES_MAX} bytes of unfinished calls are in memory on this shard");
            return Err(End::Hostile(reason));
        }
        Ok(Step::Read)
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>, reason: &str) -> Poll<Result<Step, End>> {
        let timer = self.stalled.get_or_insert_with(|| self.shared.cx.io.sleep(STALL_MAX));
        timer
            .as_mut()
            .poll(cx)
            .map(|()| Err(End::Hostile(format!("{reason}: no progress for {} s", STALL_MAX.as_secs()))))
    }
}

/// Puts a batch into the channels; what is returned is the commit under way.
async fn start(shared: Rc<Shared>, method: Method, mut batch: EventBatch) -> Result<Commit, ChannelError> {
    let channels = &shared.cx.channels;
    let most = channels.transaction_capacity();
    if method != Method::Columns || batch.len() <= most {
        return Ok(Box::pin(channels.start_batch(batch).await?.finish()));
    }
    let mut commits = Vec::new();
    while !batch.is_empty() {
        let part = batch.split_to(most);
        match channels.start_batch(part).await {
            Ok(started) => commits.push(Box::pin(started.finish()) as Commit),
            // What was put before stays; the sender repeats the whole and is told so by the failure.
            Err(error) => commits.push(Box::pin(std::future::ready(Err(error)))),
        }
    }
    Ok(Box::pin(async move {
        let mut outcome = Ok(());
        for commit in commits {
            outcome = outcome.and(commit.await);
        }
        outcome
    }))
}

fn count_received(shared: &Shared, method: Method, events: u64) {
    let counters = &shared.cx.counters;
    counters.event_received.add(events);
    match method {
        Method::Append => counters.append_received.add(1),
        Method::AppendBatch | Method::Columns => counters.append_batch_received.add(1),
    }
}

fn answer(
    shared: &Shared,
    session: &mut dyn ServerSession,
    ticket: &Ticket,
    events: u64,
    outcome: Result<(), ChannelError>,
    out: &mut BytesMut,
) {
    let counters = &shared.cx.counters;
    match outcome {
        Ok(()) => {
            counters.event_accepted.add(events);
            match ticket.method {
                Method::Append => counters.append_accepted.add(1),
                Method::AppendBatch | Method::Columns => counters.append_batch_accepted.add(1),
            }
            session.answer(ticket, Outcome::Ok, out);
        }
        Err(error) => {
            counters.channel_write_fail.add(1);
            tracing::warn!(source = %shared.cx.name, events, %error, "a batch was refused; its sender is told to repeat it");
            session.answer(ticket, Outcome::Failed(&error.to_string()), out);
        }
    }
}
