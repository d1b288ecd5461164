//! `http` sink: each event is the body of a POST to one URL.
//!
//! Flume: `org.apache.flume.sink.http.HttpSink`. What an answer's status does (commit or roll back, back
//! off, count) is configured per code (`200`), per group of codes (`2XX`), or by default. The connection is
//! kept between events. An event is one transaction, since each has an answer of its own; for throughput
//! the sink runs in as many lanes as there are shards.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Uri};

use super::{DeliveryError, Lanes, OpenError, Sink, SinkConfig, SinkContext, SinkEntry, Status};
use crate::config::tls::{ClientTls, global_truststore};
use crate::config::{Millis, ParseContext, Property, PropertySpec, PropertyValue};
use crate::io::tls::Connector;
use crate::io::{Io, LocalBoxFuture, Stream};

const ENDPOINT: Property<Endpoint> = Property::required(
    "endpoint",
    "URL to post to, `http://` or `https://`. With `https://` the certificate must be for the host, and signed by \
     whom -Djavax.net.ssl.trustStore, FLUME_SSL_TRUSTSTORE_PATH or the system trusts.",
);
const CONNECT_TIMEOUT: Property<Millis> =
    Property::optional("connectTimeout", "5000", "How long connecting may take; 0 = no limit.");
const REQUEST_TIMEOUT: Property<Millis> =
    Property::optional("requestTimeout", "5000", "How long an answer may take; 0 = no limit.");
const CONTENT_TYPE: Property<HeaderText> =
    Property::optional("contentTypeHeader", "text/plain", "The request's `Content-Type`.");
const ACCEPT: Property<HeaderText> =
    Property::optional("acceptHeader", "text/plain", "The request's `Accept`.");
const DEFAULT_BACKOFF: Property<bool> =
    Property::optional("defaultBackoff", "true", "Pause behind an answer whose code says nothing else.");
const DEFAULT_ROLLBACK: Property<bool> = Property::optional(
    "defaultRollback",
    "true",
    "Keep the event and send it again behind an answer whose code says nothing else. As in Flume this holds for success, \
     too: set `rollback.2XX = false`.",
);
const DEFAULT_INCREMENT: Property<bool> = Property::optional(
    "defaultIncrementMetrics",
    "false",
    "Count the event as delivered behind an answer whose code says nothing else.",
);
const BACKOFF: Property<bool> = Property::family(
    "backoff.",
    "`backoff.<code>`: the same for one code (`200`) or a group of codes (`2XX`).",
);
const ROLLBACK: Property<bool> = Property::family(
    "rollback.",
    "`rollback.<code>`: the same for one code (`200`) or a group of codes (`2XX`).",
);
const INCREMENT: Property<bool> = Property::family(
    "incrementMetrics.",
    "`incrementMetrics.<code>`: the same for one code (`200`) or a group of codes (`2XX`).",
);

/// Every property the http sink reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[
    &ENDPOINT,
    &CONNECT_TIMEOUT,
    &REQUEST_TIMEOUT,
    &CONTENT_TYPE,
    &ACCEPT,
    &DEFAULT_BACKOFF,
    &DEFAULT_ROLLBACK,
    &DEFAULT_INCREMENT,
    &BACKOFF,
    &ROLLBACK,
    &INCREMENT,
];

/// Row of the registry.
pub const ENTRY: SinkEntry = SinkEntry {
    name: "http",
    class: "org.apache.flume.sink.http.HttpSink",
    summary: "Posts each event to a URL.",
    lanes: Lanes::PerShard,
    properties: PROPERTIES,
    parse,
};

/// Bytes of an answer that are read so that the connection can be used again; behind a longer one it is
/// closed.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// An `http` or `https` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Endpoint {
    url: Uri,
    is_tls: bool,
    host: String,
    port: u16,
}

impl PropertyValue for Endpoint {
    const KIND: &'static str = "URL";
    const EXAMPLE: &'static str = "http://collector.example.com:8080/events";
    fn parse(text: &str) -> Result<Self, String> {
        let url: Uri = text.parse().map_err(|error| format!("not a URL ({error})"))?;
        let is_tls = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("not a URL that begins with http:// or https://".to_owned()),
        };
        let host = url.host().filter(|host| !host.is_empty()).ok_or("a URL without a host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self { url, is_tls, host, port })
    }
}

/// A header's value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HeaderText(HeaderValue);

impl PropertyValue for HeaderText {
    const KIND: &'static str = "header value";
    const EXAMPLE: &'static str = "application/json";
    fn parse(text: &str) -> Result<Self, String> {
        HeaderValue::from_str(text).map(Self).map_err(|_| "not a value an HTTP header can have".to_owned())
    }
}

/// What holds per status code.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PerCode {
    default: bool,
    /// `2` → the group `2XX`, `200` → the code.
    exceptions: Vec<(u16, bool)>,
}

impl PerCode {
    fn parse(cx: &mut ParseContext<'_>, default: &Property<bool>, family: &Property<bool>) -> Option<Self> {
        let default = cx.get(default);
        let mut exceptions = Vec::new();
        let mut is_complete = true;
        for (code, value) in cx.family(family) {
            let group = code.len() == 3 && code[1..].eq_ignore_ascii_case("xx");
            let number = if group { code[..1].parse() } else { code.parse() };
            match number {
                Ok(number) if (group && (1..=5).contains(&number)) || (100..600).contains(&number) => {
                    exceptions.push((number, value));
                }
                _ => {
                    is_complete = false;
                    let key = format!("{}{code}", PropertySpec::name(family));
                    let hint = format!("for example: {} = {value}", cx.full_key(&key.replace(&code, "2XX")));
                    cx.error(
                        &key,
                        format!("{code:?} is neither a status code nor a group of them"),
                        Some(hint),
                    );
                }
            }
        }
        Some(Self { default: default?, exceptions }).filter(|_| is_complete)
    }

    /// A code's own value, else its group's, else the default.
    fn of(&self, code: u16) -> bool {
        let find = |wanted: u16| self.exceptions.iter().find(|(c, _)| *c == wanted).map(|(_, value)| *value);
        find(code).or_else(|| find(code / 100)).unwrap_or(self.default)
    }
}

#[derive(Debug)]
struct Config {
    endpoint: Endpoint,
    /// Java's defaults: one trust store for the process, and the certificate must be for the host.
    tls: ClientTls,
    connect_timeout: Option<Duration>,
    request_timeout: Option<Duration>,
    content_type: HeaderValue,
    accept: HeaderValue,
    backoff: PerCode,
    rollback: PerCode,
    increment: PerCode,
}

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SinkConfig>> {
    Some(Arc::new(read(cx)?))
}

fn read(cx: &mut ParseContext<'_>) -> Option<Config> {
    let endpoint = cx.get(&ENDPOINT);
    let (connect, request) = (cx.get(&CONNECT_TIMEOUT), cx.get(&REQUEST_TIMEOUT));
    let (content_type, accept) = (cx.get(&CONTENT_TYPE), cx.get(&ACCEPT));
    let backoff = PerCode::parse(cx, &DEFAULT_BACKOFF, &BACKOFF);
    let rollback = PerCode::parse(cx, &DEFAULT_ROLLBACK, &ROLLBACK);
    let increment = PerCode::parse(cx, &DEFAULT_INCREMENT, &INCREMENT);
    let rollback = rollback?;
    if rollback.of(200) {
        let message = "an answer of 200 keeps the event, which is then sent again for ever";
        let hint = format!("add: {} = false", cx.full_key("rollback.2XX"));
        cx.warning("defaultRollback", message, Some(hint));
    }
    let limit = |millis: Millis| Some(millis.0).filter(|limit| !limit.is_zero());
    Some(Config {
        endpoint: endpoint?,
        tls: ClientTls {
            truststore: global_truststore(cx.globals()),
            verify_host: true,
            ..ClientTls::default()
        },
        connect_timeout: limit(connect?),
        request_timeout: limit(request?),
        content_type: content_type?.0,
        accept: accept?.0,
        backoff: backoff?,
        rollback,
        increment: increment?,
    })
}

impl SinkConfig for Config {
    fn open(self: Arc<Self>, cx: SinkContext) -> LocalBoxFuture<'static, Result<Box<dyn Sink>, OpenError>> {
        Box::pin(async move {
            let tls = match self.endpoint.is_tls {
                true => Some(Connector::open(&cx.io, &self.tls).await?),
                false => None,
            };
            Ok(Box::new(Http { config: self, cx, tls, connection: None }) as Box<dyn Sink>)
        })
    }
}

struct Http {
    config: Arc<Config>,
    cx: SinkContext,
    tls: Option<Connector>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Http {
    async fn take(&mut self) -> Result<Status, DeliveryError> {
        let mut transaction = self.cx.channel.begin_take()?;
        let batch = transaction.take(1).await?;
        if batch.is_empty() {
            return Ok(Status::Empty);
        }
        let body = batch.body_shared(0);
        if body.is_empty() {
            tracing::warn!(sink = %self.cx.name, "an event without a body is left out");
            transaction.commit().await?;
            return Ok(Status::Backoff);
        }
        let counters = Arc::clone(&self.cx.counters);
        counters.event_drain_attempt.add(1);
        let code = match self.post(body).await {
            Ok(code) => code,
            Err(problem) => {
                // The dropped transaction is the rollback.
                self.connection = None;
                counters.connection_failed.add(1);
                tracing::error!(sink = %self.cx.name, endpoint = %self.config.endpoint.url, problem, "cannot post an event; trying again");
                return Ok(Status::Backoff);
            }
        };
        let config = &self.config;
        tracing::debug!(sink = %self.cx.name, code, "answered");
        if config.rollback.of(code) {
            tracing::warn!(sink = %self.cx.name, code, "the answer's code says to send the event again");
            drop(transaction);
        } else {
            transaction.commit().await?;
        }
        if config.increment.of(code) {
            counters.event_drain_success.add(1);
        }
        Ok(if config.backoff.of(code) { Status::Backoff } else { Status::Ready })
    }

    /// Posts a body; the answer's code.
    async fn post(&mut self, body: Bytes) -> Result<u16, String> {
        let config = Arc::clone(&self.config);
        let io = self.cx.io.clone();
        // A kept connection may have been closed by the other side meanwhile: then once more on a new one.
        if let Some(mut connection) = self.connection.take() {
            if connection.ready().await.is_ok() {
                let sent =
                    limited(&io, config.request_timeout, exchange(&mut connection, &config, body.clone()))
                        .await;
                match sent {
                    Some(Ok((code, is_reusable))) => {
                        self.connection = is_reusable.then_some(connection);
                        return Ok(code);
                    }
                    Some(Err(error))
                        if error.is_closed() || error.is_canceled() || error.is_incomplete_message() =>
                    {
                        self.cx.counters.connection_closed.add(1);
                    }
                    Some(Err(error)) => return Err(error.to_string()),
                    None => return Err("no answer within requestTimeout".to_owned()),
                }
            } else {
                self.cx.counters.connection_closed.add(1);
            }
        }
        let mut connection = limited(&io, config.connect_timeout, self.connect())
            .await
            .ok_or("no connection within connectTimeout")?
            .map_err(|error| format!("cannot connect: {error}"))?;
        self.cx.counters.connection_created.add(1);
        let sent = limited(&io, config.request_timeout, exchange(&mut connection, &config, body)).await;
        let (code, is_reusable) =
            sent.ok_or("no answer within requestTimeout")?.map_err(|error| error.to_string())?;
        self.connection = is_reusable.then_some(connection);
        Ok(code)
    }

    async fn connect(&self) -> std::io::Result<SendRequest<Full<Bytes>>> {
        let Endpoint { host, port, .. } = &self.config.endpoint;
        let mut latest = std::io::Error::new(std::io::ErrorKind::NotFound, "the host has no address");
        for address in self.cx.io.resolve(host, *port).await? {
            let stream = match self.cx.io.connect(address).await {
                Ok(stream) => stream,
                Err(error) => {
                    latest = error;
                    continue;
                }
            };
            let stream: Box<dyn Stream> = match &self.tls {
                Some(tls) => tls.connect(host, stream).await?,
                None => stream,
            };
            let io = hyper_util::rt::TokioIo::new(stream);
            let (sender, connection) =
                hyper::client::conn::http1::handshake(io).await.map_err(std::io::Error::other)?;
            // Ends when the sender is dropped.
            crate::io::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection broke");
                }
            });
            return Ok(sender);
        }
        Err(latest)
    }
}

/// Sends a request; the answer's code, and whether the connection can be used again.
async fn exchange(
    connection: &mut SendRequest<Full<Bytes>>,
    config: &Config,
    body: Bytes,
) -> hyper::Result<(u16, bool)> {
    let url = &config.endpoint.url;
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.parse().unwrap_or_default();
    let headers = request.headers_mut();
    if let Some(host) =
        url.authority().and_then(|a| HeaderValue::from_str(a.as_str().rsplit('@').next()?).ok())
    {
        headers.insert(header::HOST, host);
    }
    headers.insert(header::CONTENT_TYPE, config.content_type.clone());
    headers.insert(header::ACCEPT, config.accept.clone());
    let answer = connection.send_request(request).await?;
    let code = answer.status().as_u16();
    let mut body = answer.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, Bytes::len);
        if bytes > ANSWER_BYTES_MAX {
            return Ok((code, false));
        }
    }
    Ok((code, true))
}

/// Runs a future for a limited time.
async fn limited<T>(io: &Io, limit: Option<Duration>, future: impl Future<Output = T>) -> Option<T> {
    match limit {
        None => Some(future.await),
        Some(limit) => tokio::select! {
            value = future => Some(value),
            () = io.sleep(limit) => None,
        },
    }
}

impl Sink for Http {
    fn process(&mut self) -> LocalBoxFuture<'_, Result<Status, DeliveryError>> {
        Box::pin(self.take())
    }
    fn stop(&mut self) -> LocalBoxFuture<'_, ()> {
        if self.connection.take().is_some() {
            self.cx.counters.connection_closed.add(1);
        }
        Box::pin(std::future::ready(()))
    }
    fn describe(&self) -> String {
        format!("posts to {}", self.config.endpoint.url)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::config::Kind;
    use crate::io::{EngineKind, ListenOptions, run_local, spawn};
    use crate::testing;

    /// A server that answers with these codes in turn, one connection after the other; what it was sent.
    async fn server(io: &Io, codes: &'static [u16], closes: bool) -> (u16, Rc<RefCell<Vec<String>>>) {
        let listener =
            io.listen("127.0.0.1:0".parse().unwrap(), ListenOptions { shared: false, backlog: 8 }).unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&requests);
        spawn(async move {
            let mut codes = codes.iter();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut data = Vec::new();
                while stream.read_buf(&mut data).await.is_ok_and(|count| count > 0) {
                    let text = String::from_utf8_lossy(&data).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let size = head
                        .to_lowercase()
                        .split("content-length: ")
                        .nth(1)
                        .and_then(|t| t.lines().next()?.parse().ok());
                    if body.len() < size.unwrap_or(0) {
                        continue;
                    }
                    seen.borrow_mut().push(text);
                    data.clear();
                    let Some(code) = codes.next() else { return };
                    let answer = format!("HTTP/1.1 {code} X\r\nContent-Length: 2\r\n\r\nok");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    if closes {
                        break;
                    }
                }
            }
        });
        (port, requests)
    }

    fn config(lines: &str) -> (Option<Config>, Vec<String>) {
        testing::parse(Kind::Sink, lines, read)
    }

    async fn sink(
        io: &Io,
        port: u16,
        lines: &str,
        bodies: &[&str],
    ) -> (Box<dyn Sink>, Rc<crate::channel::memory::MemoryChannel>, Arc<crate::metrics::SinkCounters>) {
        let lines = format!("endpoint = http://127.0.0.1:{port}/in?x=y\n{lines}");
        let channel = testing::memory_channel(io, 10);
        testing::put(&*channel, &[], bodies).await;
        let cx = testing::sink_context(io, channel.clone());
        let counters = Arc::clone(&cx.counters);
        (Arc::new(config(&lines).0.unwrap()).open(cx).await.unwrap(), channel, counters)
    }

    #[test]
    fn an_event_is_a_post() {
        run_local(EngineKind::Portable, |io| async move {
            let (port, requests) = server(&io, &[200, 201, 500, 302], false).await;
            let lines = "rollback.2XX = false\nbackoff.200 = false\nincrementMetrics.2XX = true\nincrementMetrics.201 = false\n\
                         contentTypeHeader = application/json\nrollback.302 = false\nbackoff.302 = false";
            let (mut sink, channel, counters) = sink(&io, port, lines, &["one", "two", "three"]).await;
            assert_eq!(sink.process().await.unwrap(), Status::Ready);
            assert_eq!(sink.process().await.unwrap(), Status::Backoff, "201: committed, but backs off");
            assert_eq!(channel.len(), 1);
            assert_eq!(sink.process().await.unwrap(), Status::Backoff, "500: rolled back");
            assert_eq!(channel.len(), 1);
            assert_eq!(sink.process().await.unwrap(), Status::Ready, "302");
            assert_eq!(sink.process().await.unwrap(), Status::Empty);
            let requests = requests.borrow();
            assert_eq!(requests.len(), 4);
            assert!(requests[0].starts_with("POST /in?x=y HTTP/1.1\r\n"), "{}", requests[0]);
            let head = requests[0].to_lowercase();
            for line in [format!("host: 127.0.0.1:{port}"), "content-type: application/json".into(), "accept: text/plain".into()] {
                assert!(head.lines().any(|l| l == line), "{line}: {head}");
            }
            assert!(requests[0].ends_with("\r\n\r\none") && requests[2].ends_with("three"));
            assert_eq!((counters.event_drain_attempt.value(), counters.event_drain_success.value()), (4, 1));
            assert_eq!(counters.connection_created.value(), 1, "the connection is kept");
        })
        .unwrap();
    }

    #[test]
    fn a_closed_connection_is_made_anew() {
        run_local(EngineKind::Portable, |io| async move {
            let (port, requests) = server(&io, &[200, 200], true).await;
            let (mut sink, channel, _) = sink(&io, port, "rollback.200 = false", &["one", "two"]).await;
            sink.process().await.unwrap();
            sink.process().await.unwrap();
            assert_eq!((channel.len(), requests.borrow().len()), (0, 2));
        })
        .unwrap();
    }

    #[test]
    fn without_an_answer_the_event_stays() {
        run_local(EngineKind::Portable, |io| async move {
            let silent = io
                .listen("127.0.0.1:0".parse().unwrap(), ListenOptions { shared: false, backlog: 8 })
                .unwrap();
            let port = silent.local_addr().unwrap().port();
            let (mut sink, channel, counters) = sink(&io, port, "requestTimeout = 50", &["one"]).await;
            assert_eq!(sink.process().await.unwrap(), Status::Backoff);
            drop(silent);
            assert_eq!(sink.process().await.unwrap(), Status::Backoff, "refused");
            assert_eq!((channel.len(), counters.connection_failed.value()), (1, 2));
        })
        .unwrap();
    }

    #[test]
    fn an_empty_body_is_not_sent() {
        run_local(EngineKind::Portable, |io| async move {
            let (mut sink, channel, counters) = sink(&io, 1, "", &[""]).await;
            assert_eq!(sink.process().await.unwrap(), Status::Backoff);
            assert_eq!((channel.len(), counters.event_drain_attempt.value()), (0, 0));
        })
        .unwrap();
    }

    #[test]
    fn properties_are_checked() {
        let (found, complaints) = config("endpoint = http://h/p");
        assert!(found.is_some());
        assert!(
            complaints[0]
                .starts_with("warning: a1.sinks.x1.defaultRollback: an answer of 200 keeps the event"),
            "{complaints:?}"
        );
        let found = config("endpoint = https://h/p\nrollback.2XX = false\nrollback.200 = true").0.unwrap();
        assert_eq!(
            (found.endpoint.port, found.rollback.of(200), found.rollback.of(201), found.rollback.of(500)),
            (443, true, false, true)
        );
        for (lines, part) in [
            ("", "x1.endpoint: is required"),
            ("endpoint = h", "not a URL"),
            ("endpoint = ftp://h", "begins with http://"),
            ("endpoint = http://h\nrollback.2X = false", "\"2X\" is neither a status code"),
            ("endpoint = http://h\nbackoff.999 = false", "\"999\" is neither"),
            ("endpoint = http://h\nconnectTimeout = x", "not a whole number"),
        ] {
            assert!(config(lines).1.iter().any(|c| c.contains(part)), "{lines}: {:?}", config(lines).1);
        }
    }
}
