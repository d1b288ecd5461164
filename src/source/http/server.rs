//! The connections of the http source: HTTP/1.1, limits, answers.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, Semaphore};

use super::handler::{self, Refusal};
use super::{HttpConfig, Limits};
use crate::channel::ChannelError;
use crate::event::EventBatch;
use crate::io::stop::Stop;
use crate::io::{Io, LocalBoxFuture, Stream, off_core};
use crate::source::SourceContext;
use crate::source::net::{Gauge, Share};

/// Slowest body that is waited for, in bytes per second, behind the first idle time.
const BODY_RATE_MIN: u64 = 16 * 1024;
/// How long the rest of a body that is too large is read and thrown away behind its answer, so that a client
/// gets to reading it that sends everything first.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Bodies from this size on are read on a helper thread: below it the core is held for 9 ms at the worst and for
/// half a millisecond usually, and a helper costs some 50 us.
const OFF_CORE_BYTES_MIN: usize = 256 * 1024;
/// Bodies read on helper threads at once, of one shard: what they need of memory beside the bytes in flight is
/// that of two bodies more.
const LONG_READS_MAX: usize = 2;
/// Bodies grow by at least this much.
const BODY_GROWTH_BYTES: usize = 64 * 1024;

type Answer = Response<Full<Bytes>>;

/// Serves the connections of one shard.
pub(super) struct Server {
    cx: SourceContext,
    config: Arc<HttpConfig>,
    in_flight: Rc<Gauge>,
    /// Turns of the helper threads.
    long_reads: Arc<Semaphore>,
}

/// A connection, as its requests see it.
struct Visit {
    peer: SocketAddr,
    /// Somebody has given up reading what the client sends.
    given_up: Notify,
}

impl Server {
    pub(super) fn new(cx: SourceContext, config: Arc<HttpConfig>) -> Self {
        Self { cx, config, in_flight: Rc::default(), long_reads: Arc::new(Semaphore::new(LONG_READS_MAX)) }
    }

    fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// Serves a connection until it closes or, behind the request under way, until the stop.
    pub(super) async fn serve(self: Rc<Self>, stream: Box<dyn Stream>, peer: SocketAddr, stop: Stop) {
        let Some(stream) = stop.or(self.first_byte(stream)).await.flatten() else { return };
        let visit = Rc::new(Visit { peer, given_up: Notify::new() });
        let (server, visitor) = (Rc::clone(&self), Rc::clone(&visit));
        let service = hyper::service::service_fn(move |request| {
            let (server, visit) = (Rc::clone(&server), Rc::clone(&visitor));
            async move { Ok::<_, Infallible>(server.answer(request, &visit).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(hyper_util::rt::TokioTimer::new())
            .header_read_timeout(self.limits().idle)
            .max_buf_size(self.limits().head_bytes_max)
            .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = visit.given_up.notified() => return,
            () = stop.requested() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(source = %self.cx.name, %peer, %error, "connection broke");
        }
    }

    /// Waits for a connection's first byte before it is given buffers.
    async fn first_byte(&self, mut stream: Box<dyn Stream>) -> Option<Guarded> {
        let mut byte = [0];
        let read = poll_fn(|task| {
            let mut buffer = ReadBuf::new(&mut byte);
            Pin::new(&mut stream).poll_read(task, &mut buffer).map_ok(|()| buffer.filled().len())
        });
        tokio::select! {
            read = read => read.is_ok_and(|count| count == 1).then_some(Guarded {
                byte: Some(byte[0]),
                stream,
                io: self.cx.io.clone(),
                patience: self.limits().idle,
                stalled: None,
            }),
            () = self.cx.io.sleep(self.limits().idle) => None,
        }
    }

    async fn answer(&self, request: Request<Incoming>, visit: &Rc<Visit>) -> Answer {
        let peer = visit.peer;
        match *request.method() {
            Method::GET | Method::POST | Method::HEAD => {}
            Method::TRACE | Method::OPTIONS => {
                return refusal(StatusCode::FORBIDDEN, "TRACE and OPTIONS are not allowed.");
            }
            _ => return refusal(StatusCode::METHOD_NOT_ALLOWED, "Events come by POST."),
        }
        let (head, body) = request.into_parts();
        let expects_continue = head.headers.contains_key(header::EXPECT);
        let received = match self.receive(body, expects_continue, visit).await {
            Ok(received) => received,
            Err(answer) => return answer,
        };
        let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let request = handler::Request {
            query: head.uri.query().unwrap_or_default(),
            content_type,
            body: received.bytes.clone(),
        };
        let counters = &self.cx.counters;
        let batch = match self.read(request).await {
            Ok(batch) => batch,
            Err(Refusal::BadRequest(reason)) => {
                counters.event_read_fail.add(1);
                tracing::warn!(source = %self.cx.name, %peer, %reason, "received a bad request");
                return refusal(StatusCode::BAD_REQUEST, &format!("Bad request from client. {reason}"));
            }
            Err(Refusal::Unexpected(reason)) => {
                counters.event_read_fail.add(1);
                tracing::warn!(source = %self.cx.name, %peer, %reason, "received a request without events");
                let text = format!("Deserializer threw unexpected exception. {reason}");
                return refusal(StatusCode::INTERNAL_SERVER_ERROR, &text);
            }
        };
        let Received { bytes, share } = received;
        drop(bytes);
        let events = batch.len() as u64;
        counters.append_batch_received.add(1);
        counters.event_received.add(events);
        let outcome = self.cx.channels.process_batch(batch).await;
        drop(share);
        match outcome {
            Ok(()) => {
                counters.append_batch_accepted.add(1);
                counters.event_accepted.add(events);
                Response::new(Full::default())
            }
            Err(error) => self.channel_refused(peer, events, &error),
        }
    }

    /// The events of a request. A long one is read on a helper thread: at 30 MB/s, which is what the worst that
    /// fits into JSON takes, it would keep everybody else on this core waiting.
    async fn read(&self, request: handler::Request<'_>) -> Result<EventBatch, Refusal> {
        if request.body.len() < OFF_CORE_BYTES_MIN {
            return self.config.handler.events(request);
        }
        // Held by the helper itself, which goes on if the client does not wait for it.
        let turn = Arc::clone(&self.long_reads).acquire_owned().await.ok();
        let config = Arc::clone(&self.config);
        let (query, content_type) = (request.query.to_owned(), request.content_type.map(str::to_owned));
        let body = request.body;
        off_core(move || {
            let content_type = content_type.as_deref();
            let read = config.handler.events(handler::Request { query: &query, content_type, body });
            drop(turn);
            read
        })
        .await
    }

    fn channel_refused(&self, peer: SocketAddr, events: u64, error: &ChannelError) -> Answer {
        let counters = &self.cx.counters;
        tracing::warn!(source = %self.cx.name, %peer, events, %error, "channel did not take a request's events; the client is told");
        match error {
            ChannelError::Full(_) | ChannelError::TooLarge(_) | ChannelError::NoSpace(_) => {
                counters.channel_write_fail.add(1);
                let text = format!("Error appending event to channel. Channel might be full. {error}");
                let mut answer = refusal(StatusCode::SERVICE_UNAVAILABLE, &text);
                if !matches!(error, ChannelError::TooLarge(_)) {
                    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
                }
                answer
            }
            ChannelError::Latched(_) | ChannelError::Closed(_) | ChannelError::Damaged(_) => {
                counters.generic_processing_fail.add(1);
                let text = format!("Unexpected error while appending event to channel. {error}");
                refusal(StatusCode::INTERNAL_SERVER_ERROR, &text)
            }
        }
    }

    /// Reads a body within the limits.
    async fn receive(
        &self,
        body: Incoming,
        expects_continue: bool,
        visit: &Rc<Visit>,
    ) -> Result<Received, Answer> {
        let limits = self.limits();
        let announced = body.size_hint().exact();
        let cut = self.config.handler.cuts_behind();
        let most = cut.unwrap_or(limits.body_bytes_max).min(limits.in_flight_bytes_max / 2);
        let too_large = || {
            tracing::warn!(source = %self.cx.name, peer = %visit.peer, limit = most, "received a request that is too large; see maxRequestBytes");
            let text = format!(
                "The request is larger than {most} bytes; send smaller batches, or raise maxRequestBytes of source {}.",
                self.cx.name
            );
            refusal(StatusCode::PAYLOAD_TOO_LARGE, &text)
        };
        if cut.is_none() && announced.is_some_and(|size| size > most as u64) {
            // A client that asked first has sent nothing yet.
            if !expects_continue {
                self.drain(body, visit);
            }
            return Err(too_large());
        }
        let busy = || {
            let text = format!(
                "Source {} has {} MiB of requests in work and takes no more at the moment.",
                self.cx.name,
                limits.in_flight_bytes_max >> 20
            );
            let mut answer = refusal(StatusCode::SERVICE_UNAVAILABLE, &text);
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            answer
        };
        tokio::select! {
            biased;
            () = self.in_flight.below(limits.in_flight_bytes_max) => {}
            () = self.cx.io.sleep(limits.idle) => return Err(busy()),
        }
        let mut share = Held { gauge: Rc::clone(&self.in_flight), shares: Vec::new() };
        let mut body = body;
        let mut first = Bytes::new();
        let mut gathered = BytesMut::new();
        let started = self.cx.io.now();
        let mut arrived: u64 = 0;
        loop {
            let frame = tokio::select! {
                biased;
                frame = body.frame() => frame,
                () = self.cx.io.sleep(limits.idle) => return Err(refusal(StatusCode::REQUEST_TIMEOUT, "The body took too long.")),
            };
            let Some(frame) = frame else { break };
            let Ok(frame) = frame else {
                return Err(refusal(StatusCode::BAD_REQUEST, "The body of the request broke off."));
            };
            let Ok(mut data) = frame.into_data() else { continue };
            arrived += data.len() as u64;
            let allowed = limits.idle + Duration::from_secs(arrived / BODY_RATE_MIN);
            if self.cx.io.now() - started > allowed {
                return Err(refusal(StatusCode::REQUEST_TIMEOUT, "The body took too long."));
            }
            let have = first.len() + gathered.len();
            if have + data.len() > most {
                if cut.is_none() {
                    self.drain(body, visit);
                    return Err(too_large());
                }
                data.truncate(most - have);
            }
            if data.is_empty() {
                continue;
            }
            if self.in_flight.value() + data.len() > limits.in_flight_bytes_max {
                self.drain(body, visit);
                return Err(busy());
            }
            share.grow(data.len());
            if have == 0 {
                first = data;
            } else {
                if gathered.is_empty() {
                    let rest = announced.map_or(0, |size| size as usize).min(most).min(have + (1 << 20));
                    gathered.reserve(rest.max(have + data.len() + BODY_GROWTH_BYTES));
                    gathered.extend_from_slice(&std::mem::take(&mut first));
                }
                gathered.extend_from_slice(&data);
            }
        }
        let bytes = if gathered.is_empty() { first } else { gathered.freeze() };
        Ok(Received { bytes, share })
    }

    /// Reads what is left of a body and throws it away, for a while, beside the answer.
    fn drain(&self, mut body: Incoming, visit: &Rc<Visit>) {
        let (io, visit) = (self.cx.io.clone(), Rc::clone(visit));
        crate::io::spawn(async move {
            let drained = async {
                while let Some(frame) = body.frame().await {
                    if frame.is_err() {
                        return false;
                    }
                }
                true
            };
            let is_at_end = tokio::select! {
                is_at_end = drained => is_at_end,
                () = io.sleep(DRAIN_TIME) => false,
            };
            if !is_at_end {
                visit.given_up.notify_one();
            }
        });
    }
}

/// A body, and its share of the bytes in flight.
struct Received {
    bytes: Bytes,
    share: Held,
}

/// What a growing body holds of a gauge.
struct Held {
    gauge: Rc<Gauge>,
    shares: Vec<Share>,
}

impl Held {
    fn grow(&mut self, amount: usize) {
        self.shares.push(self.gauge.add(amount));
    }
}

/// An error page, in the form a servlet container gives it.
fn refusal(status: StatusCode, text: &str) -> Answer {
    let reason = status.canonical_reason().unwrap_or_default();
    let code = status.as_u16();
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let page = format!(
        "<html>\n<head>\n<meta http-equiv=\"Content-Type\" content=\"text/html;charset=utf-8\"/>\n\
         <title>Error {code} {reason}</title>\n</head>\n<body>\n<h2>HTTP ERROR {code} {reason}</h2>\n<p>{text}</p>\n</body>\n</html>\n"
    );
    let mut answer = Response::new(Full::new(Bytes::from(page)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html;charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// A stream whose first byte was read already, and which breaks when the client does not take what is
/// written for as long as it may be silent.
struct Guarded {
    byte: Option<u8>,
    stream: Box<dyn Stream>,
    io: Io,
    patience: Duration,
    /// Runs while the client takes nothing.
    stalled: Option<LocalBoxFuture<'static, ()>>,
}

impl Guarded {
    fn guard<T>(&mut self, written: Poll<io::Result<T>>, task: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| self.io.sleep(self.patience));
        stalled
            .as_mut()
            .poll(task)
            .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answers")))
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.byte.take_if(|_| buffer.remaining() > 0) {
            Some(byte) => {
                buffer.put_slice(&[byte]);
                Poll::Ready(Ok(()))
            }
            None => Pin::new(&mut self.stream).poll_read(task, buffer),
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(task, data);
        self.guard(written, task)
    }
    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.stream).poll_flush(task);
        self.guard(written, task)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = Pin::new(&mut self.stream).poll_shutdown(task);
        self.guard(written, task)
    }
}
