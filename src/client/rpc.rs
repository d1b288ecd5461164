//! Client of the avro and thrift sources: which host, the connection to it, calls and their answers.
//!
//! Flume: `RpcClientFactory` with its `NettyAvroRpcClient`, `ThriftRpcClient`, `FailoverRpcClient` and
//! `LoadBalancingRpcClient`. Belongs to one lane. Several calls may be on the way to another Millrace;
//! Flume's sources execute concurrent calls in any order, so they get one at a time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::codec::avro::protocol::Offer;
use crate::codec::avro::session::{Answer, AvroClient};
use crate::codec::thrift::message::{ThriftClient, Wire};
use crate::component::OpenError;
use crate::config::kerberos::ClientKerberos;
use crate::config::tls::ClientTls;
use crate::event::EventBatch;
use crate::io::kerberos;
use crate::io::tls::Connector;
use crate::io::zlib::ZlibStream;
use crate::io::{Io, Stream};
use crate::metrics::SinkCounters;

/// Calls on the way to another Millrace: 4 MiB per lane with [`COLUMNS_BYTES`] each, and 3.3 MiB with the 416 KiB that
/// TAILDIR reads at once, which fills a link of 1 Gbit/s up to a round trip of 27 ms.
const WINDOW: usize = 8;
/// Bytes of bodies that a call to another Millrace is meant to have; it is full with the piece of the channel that
/// crosses half of them.
pub const COLUMNS_BYTES: usize = 512 * 1024;
/// First pause of a host that failed, with `backoff = true`; it doubles up to `maxBackoff`.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Bytes of answers read at once.
const READ_BYTES: usize = 4096;
/// An output buffer above this is given back after the call.
const OUT_BYTES_KEPT: usize = 4 << 20;

/// Host and port of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Flume's `client.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientType {
    /// One host.
    Default,
    /// The first host that works.
    Failover,
    /// A host per call, in turn.
    RoundRobin,
    /// A host per call, by chance.
    Random,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// Avro, perhaps over zlib.
    Avro {
        /// Level of the deflate compression, if any.
        deflate: Option<u32>,
        /// Offer zstd.
        zstd: bool,
        /// With TLS and deflate: TLS is outside, as in Flume up to 1.9.
        tls_outside: bool,
    },
    /// Thrift.
    Thrift(Wire),
}

/// A client's settings.
#[derive(Clone, Debug)]
pub struct RpcConfig {
    /// At least one.
    pub hosts: Vec<Endpoint>,
    /// Which of them.
    pub client_type: ClientType,
    /// Hosts tried for one batch before the caller is told.
    pub max_attempts: usize,
    /// Failed hosts are left alone up to this long.
    pub backoff_max: Option<Duration>,
    /// Most events of a call to a Flume.
    pub batch_size: usize,
    /// For a connection.
    pub connect_timeout: Duration,
    /// For an answer.
    pub request_timeout: Duration,
    /// Age at which a connection is made anew.
    pub reset_interval: Option<Duration>,
    /// Protocol.
    pub speech: Speech,
    /// TLS.
    pub tls: Option<ClientTls>,
    /// Kerberos, within TLS.
    pub kerberos: Option<ClientKerberos>,
}

/// Why a call was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// No host could be reached.
    #[error("cannot connect to {endpoint}: {reason}")]
    Connect {
        /// Host and port.
        endpoint: Endpoint,
        /// What failed.
        reason: String,
    },
    /// The connection broke, or no answer came in time.
    #[error("connection to {endpoint} broke: {reason}")]
    Broken {
        /// Host and port.
        endpoint: Endpoint,
        /// What failed.
        reason: String,
    },
    /// The other side did not take the batch.
    #[error("{endpoint} refused the batch: {reason}")]
    Refused {
        /// Host and port.
        endpoint: Endpoint,
        /// Its words.
        reason: String,
    },
}

enum Session {
    Avro(Box<AvroClient>),
    Thrift(ThriftClient),
}

struct Connection {
    stream: Box<dyn Stream>,
    session: Session,
    input: BytesMut,
    opened: Duration,
    /// Kept until the handshake is over: the server may ask for the first call again.
    first: Option<EventBatch>,
}

struct Host {
    endpoint: Endpoint,
    connection: Option<Connection>,
    failures: u32,
    rests_until: Duration,
}

/// See the module.
pub struct RpcClient {
    io: Io,
    name: Arc<str>,
    config: Arc<RpcConfig>,
    tls: Option<Connector>,
    kerberos: Option<kerberos::Connector>,
    counters: Arc<SinkCounters>,
    hosts: Vec<Host>,
    /// The host in use, or tried next.
    current: usize,
    out: BytesMut,
    /// The log has said how this lane's batches travel.
    announced: bool,
}

impl RpcClient {
    /// Reads the trust store; connections are made on demand.
    ///
    /// # Errors
    /// What is wrong with the store.
    pub async fn open(
        io: Io,
        name: Arc<str>,
        config: Arc<RpcConfig>,
        counters: Arc<SinkCounters>,
    ) -> Result<Self, OpenError> {
        let tls = match &config.tls {
            Some(tls) => Some(Connector::open(&io, tls).await?),
            None => None,
        };
        let kerberos = match &config.kerberos {
            Some(settings) => Some(kerberos::Connector::open(&io, &name, settings).await?),
            None => None,
        };
        let hosts = config.hosts.iter().cloned();
        let hosts = hosts.map(|endpoint| Host {
            endpoint,
            connection: None,
            failures: 0,
            rests_until: Duration::ZERO,
        });
        let hosts = hosts.collect();
        let mut client = Self {
            io,
            name,
            config,
            tls,
            kerberos,
            counters,
            hosts,
            current: 0,
            out: BytesMut::new(),
            announced: false,
        };
        if client.config.client_type == ClientType::RoundRobin {
            // Lanes and agents do not begin with the same host.
            client.current = client.io.random() as usize % client.hosts.len();
        }
        Ok(client)
    }

    /// Calls that may be on the way at once.
    pub fn window(&self) -> usize {
        let balanced = matches!(self.config.client_type, ClientType::RoundRobin | ClientType::Random);
        if self.speaks_columns() && !balanced { WINDOW } else { 1 }
    }
    /// True if the host in use is a Millrace that takes batches of any size.
    pub fn speaks_columns(&self) -> bool {
        match self.connection().map(|c| &c.session) {
            Some(Session::Avro(session)) => session.is_matched() && session.agreed().columns,
            _ => false,
        }
    }
    /// True if there is a connection already.
    pub fn is_connected(&self) -> bool {
        self.connection().is_some()
    }
    /// True if the connection is due to be made anew (`reset-connection-interval`).
    pub fn is_due(&self) -> bool {
        let age = |c: &Connection| self.io.now().saturating_sub(c.opened);
        self.config.reset_interval.is_some_and(|limit| self.connection().is_some_and(|c| age(c) >= limit))
    }
    fn connection(&self) -> Option<&Connection> {
        self.hosts.get(self.current).and_then(|h| h.connection.as_ref())
    }

    /// Connects if need be, so that [`Self::window`] and [`Self::speaks_columns`] mean the host that the
    /// next call goes to.
    ///
    /// # Errors
    /// [`RpcError::Connect`] for the last host tried, when none can be reached.
    pub async fn connect(&mut self) -> Result<(), RpcError> {
        match self.config.client_type {
            ClientType::Default | ClientType::Failover => {}
            ClientType::RoundRobin => self.current = (self.current + 1) % self.hosts.len(),
            ClientType::Random => self.current = self.io.random() as usize % self.hosts.len(),
        }
        let now = self.io.now();
        let count = self.hosts.len();
        let order = (0..count).map(|step| (self.current + step) % count);
        let (mut order, resting): (Vec<_>, Vec<_>) =
            order.partition(|index| self.hosts.get(*index).is_some_and(|h| h.rests_until <= now));
        // When all of them rest, the one that has rested longest may as well be tried.
        if order.is_empty() {
            order = resting;
        }
        let mut last = None;
        for index in order.into_iter().take(self.config.max_attempts) {
            self.current = index;
            let Some(host) = self.hosts.get_mut(index) else { continue };
            if host.connection.is_some() {
                return Ok(());
            }
            let connecting =
                open(&self.io, &host.endpoint, &self.config, self.tls.as_ref(), self.kerberos.as_ref());
            let opened = tokio::select! {
                opened = connecting => opened,
                () = self.io.sleep(self.config.connect_timeout) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection within {} ms (connect-timeout)", self.config.connect_timeout.as_millis()),
                )),
            };
            match opened {
                Ok(stream) => {
                    self.counters.connection_created.add(1);
                    host.failures = 0;
                    host.connection = Some(Connection {
                        stream,
                        session: session(&self.config.speech),
                        input: BytesMut::new(),
                        opened: self.io.now(),
                        first: None,
                    });
                    tracing::info!(sink = %self.name, endpoint = %host.endpoint, "connected");
                    return Ok(());
                }
                Err(error) => {
                    self.counters.connection_failed.add(1);
                    let reason = format!("{error}{}", layers_hint(&error, &self.config));
                    last = Some(RpcError::Connect { endpoint: host.endpoint.clone(), reason });
                    self.rest();
                }
            }
        }
        // The next try begins with the host after the last one.
        self.current = (self.current + 1) % count;
        Err(last.unwrap_or_else(|| RpcError::Connect {
            endpoint: Endpoint { host: "no host".to_owned(), port: 0 },
            reason: "max-attempts is 0".to_owned(),
        }))
    }

    /// The current host failed: with `backoff` it is left alone for a while.
    fn rest(&mut self) {
        let now = self.io.now();
        if let (Some(host), Some(most)) = (self.hosts.get_mut(self.current), self.config.backoff_max) {
            let pause = BACKOFF_FIRST.saturating_mul(1 << host.failures.min(16)).min(most);
            host.failures += 1;
            host.rests_until = now + pause;
        }
    }

    /// Closes the current connection politely.
    pub async fn close(&mut self) {
        for host in &mut self.hosts {
            if let Some(mut connection) = host.connection.take() {
                self.counters.connection_closed.add(1);
                tokio::select! {
                    _ = connection.stream.shutdown() => {}
                    () = self.io.sleep(Duration::from_secs(1)) => {}
                }
            }
        }
    }

    /// Gives up the current connection and turns to the next host. Every call on the way counts as failed.
    pub fn fail(&mut self) {
        if let Some(host) = self.hosts.get_mut(self.current)
            && host.connection.take().is_some()
        {
            self.counters.connection_closed.add(1);
        }
        self.rest();
        if self.config.client_type == ClientType::Failover {
            self.current = (self.current + 1) % self.hosts.len();
        }
    }

    fn broken(&self, reason: impl Into<String>) -> RpcError {
        let endpoint = self.hosts.get(self.current).map(|h| h.endpoint.clone());
        let endpoint = endpoint.unwrap_or(Endpoint { host: String::new(), port: 0 });
        RpcError::Broken { endpoint, reason: reason.into() }
    }

    /// Sends a batch as one call, after [`Self::connect`].
    ///
    /// # Errors
    /// [`RpcError::Broken`]; then call [`Self::fail`].
    pub async fn send(&mut self, batch: &EventBatch) -> Result<(), RpcError> {
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let outcome = self.send_through(batch, &mut out).await;
        if out.capacity() <= OUT_BYTES_KEPT {
            self.out = out;
        }
        outcome.map_err(|error| self.broken(error.to_string()))
    }

    async fn send_through(&mut self, batch: &EventBatch, out: &mut BytesMut) -> io::Result<()> {
        let limit = self.config.request_timeout;
        let Some(connection) = self.hosts.get_mut(self.current).and_then(|h| h.connection.as_mut()) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        match &mut connection.session {
            Session::Avro(session) => {
                connection.first = (!session.is_matched()).then(|| batch.clone());
                session.put_call(out, batch, false)?;
            }
            Session::Thrift(session) => session.put_call(out, batch),
        }
        let writing = async {
            connection.stream.write_all(out).await?;
            connection.stream.flush().await
        };
        tokio::select! {
            written = writing => written,
            () = self.io.sleep(limit) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the call could not be written within {} ms", limit.as_millis()),
            )),
        }
    }

    /// Waits for the answer to the oldest call. Cancel-safe.
    ///
    /// # Errors
    /// [`RpcError::Refused`] or [`RpcError::Broken`]; then call [`Self::fail`].
    pub async fn answer(&mut self) -> Result<(), RpcError> {
        loop {
            let limit = self.config.request_timeout;
            let answered = match self.hosts.get_mut(self.current).and_then(|h| h.connection.as_mut()) {
                None => return Err(self.broken("not connected")),
                Some(connection) => tokio::select! {
                    biased;
                    answer = connection.answer() => answer,
                    () = self.io.sleep(limit) => Err(format!("no answer within {} ms (request-timeout)", limit.as_millis())),
                },
            };
            match answered {
                Ok(Answer::Ok) => {
                    self.announce();
                    return Ok(());
                }
                Ok(Answer::Refused(reason)) => {
                    let endpoint = self.hosts.get(self.current).map(|h| h.endpoint.clone());
                    let endpoint = endpoint.unwrap_or(Endpoint { host: String::new(), port: 0 });
                    return Err(RpcError::Refused { endpoint, reason });
                }
                Ok(Answer::Again) => {
                    let connection = self.hosts.get_mut(self.current).and_then(|h| h.connection.as_mut());
                    let first = connection.and_then(|c| c.first.take());
                    let Some(batch) = first else { return Err(self.broken("a handshake out of turn")) };
                    self.send(&batch).await?;
                }
                Err(reason) => return Err(self.broken(reason)),
            }
        }
    }

    /// Says once how batches travel, and drops what was kept for the handshake.
    fn announce(&mut self) {
        let zstd = matches!(self.config.speech, Speech::Avro { zstd: true, .. });
        let name = self.name.clone();
        let announced = std::mem::replace(&mut self.announced, true);
        let Some(host) = self.hosts.get_mut(self.current) else { return };
        let Some(Connection { session: Session::Avro(session), first, .. }) = &mut host.connection else {
            return;
        };
        *first = None;
        let (endpoint, agreed) = (&host.endpoint, session.agreed());
        match (announced, agreed.zstd, zstd) {
            (true, ..) => {}
            (false, true, _) => {
                tracing::info!(sink = %name, %endpoint, "batches travel by columns, compressed with zstd")
            }
            (false, false, true) => tracing::warn!(
                sink = %name, %endpoint,
                "the other side is no Millrace and does not understand zstd; batches travel uncompressed (compression-type = deflate, set on both sides, is what Flume understands)"
            ),
            (false, ..) if agreed.columns => {
                tracing::info!(sink = %name, %endpoint, "batches travel by columns")
            }
            _ => {}
        }
    }

    /// Where it delivers.
    pub fn describe(&self) -> String {
        let hosts: Vec<_> = self.config.hosts.iter().map(Endpoint::to_string).collect();
        hosts.join(", ")
    }
}

impl Connection {
    async fn answer(&mut self) -> Result<Answer, String> {
        loop {
            let mut rest = &self.input[..];
            let answer = match &mut self.session {
                Session::Avro(session) => session.feed(&mut rest)?,
                Session::Thrift(session) => session.feed(&mut rest)?,
            };
            let used = self.input.len() - rest.len();
            self.input.advance(used);
            if let Some(answer) = answer {
                return Ok(answer);
            }
            self.input.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => {
                    return Err(
                        "the other side closed it; TLS, compression or protocol may differ".to_owned()
                    );
                }
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// With both layers a handshake that fails, or to which Flume gives no answer, may be one of order.
fn layers_hint(error: &io::Error, config: &RpcConfig) -> &'static str {
    let unreached = matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable | io::ErrorKind::NotFound
    );
    match config.speech {
        Speech::Avro { deflate: Some(_), tls_outside, .. } if config.tls.is_some() && !unreached => {
            if tls_outside {
                "; a Flume from 1.10 on needs tls-compression-order = deflate-outside"
            } else {
                "; a Flume up to 1.9 needs tls-compression-order = tls-outside"
            }
        }
        _ => "",
    }
}

fn session(speech: &Speech) -> Session {
    match *speech {
        Speech::Avro { zstd, .. } => Session::Avro(Box::new(AvroClient::new(Offer { columns: true, zstd }))),
        Speech::Thrift(wire) => Session::Thrift(ThriftClient::new(wire)),
    }
}

async fn open(
    io: &Io,
    endpoint: &Endpoint,
    config: &RpcConfig,
    tls: Option<&Connector>,
    kerberos: Option<&kerberos::Connector>,
) -> io::Result<Box<dyn Stream>> {
    let addresses = io.resolve(&endpoint.host, endpoint.port).await?;
    let mut connected = Err(io::Error::new(io::ErrorKind::NotFound, "the host name has no address"));
    for address in addresses {
        connected = io.connect(address).await;
        if connected.is_ok() {
            break;
        }
    }
    let stream = connected?;
    let (deflate, tls_outside) = match config.speech {
        Speech::Avro { deflate, tls_outside, .. } => (deflate, tls_outside),
        Speech::Thrift(_) => (None, false),
    };
    let zlib = |stream: Box<dyn Stream>| -> Box<dyn Stream> {
        match deflate {
            Some(level) => Box::new(ZlibStream::new(stream, level, true)),
            None => stream,
        }
    };
    let stream = match tls {
        None => zlib(stream),
        Some(tls) if tls_outside => zlib(tls.connect(&endpoint.host, stream).await?),
        Some(tls) => tls.connect(&endpoint.host, zlib(stream)).await?,
    };
    match kerberos {
        None => Ok(stream),
        Some(kerberos) => kerberos.connect(&endpoint.host, stream).await,
    }
}
