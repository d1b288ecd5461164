//! What the avro and the thrift sink have in common: their properties, and the delivery itself.
//!
//! Flume: `org.apache.flume.sink.AbstractRpcSink`. A batch is committed when the other side has answered OK.
//! Towards another Millrace several batches are on the way at once, each in a take transaction of its own;
//! they are committed in order, and after a failure the ones without an answer go back to the head of the
//! channel in order. So a failure repeats at most the window (8 batches of 512 KiB).

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{DeliveryError, Sink, SinkContext, Status};
use crate::channel::TakeTransaction;
use crate::client::rpc::{COLUMNS_BYTES, ClientType, Endpoint, RpcClient, RpcConfig, RpcError, Speech};
use crate::component::OpenError;
use crate::config::tls::ClientTls;
use crate::config::{ParseContext, Port, Property, Words};
use crate::event::EventBatch;
use crate::io::LocalBoxFuture;

/// `hostname`
pub const HOSTNAME: Property<String> =
    Property::absent("hostname", "Host to deliver to. Required unless `hosts` is set.");
/// `port`
pub const PORT: Property<Port> =
    Property::absent("port", "Port to deliver to. Required unless `hosts` is set.");
/// `batch-size`
pub const BATCH_SIZE: Property<i64> = Property::optional(
    "batch-size",
    "100",
    "Most events of one call. Below 1 counts as 100. Towards another Millrace, calls grow up to 512 KiB while events wait.",
);
/// `connect-timeout`
pub const CONNECT_TIMEOUT: Property<i64> = Property::optional(
    "connect-timeout",
    "20000",
    "Most milliseconds for a connection, TLS included. Below 1000 counts as 20000.",
);
/// `request-timeout`
pub const REQUEST_TIMEOUT: Property<i64> = Property::optional(
    "request-timeout",
    "20000",
    "Most milliseconds for the answer to a call. Below 1000 counts as 20000.",
);
/// `reset-connection-interval`
pub const RESET_INTERVAL: Property<u64> = Property::optional(
    "reset-connection-interval",
    "0",
    "Age in seconds at which a connection is made anew, so that hosts added behind a load balancer get their part. 0 = never.",
);
/// `client.type`
pub const CLIENT_TYPE: Property<String> = Property::absent(
    "client.type",
    "default (one host), default_failover (the first host that works) or default_loadbalance (a host per call).",
);
/// `hosts`
pub const HOSTS: Property<Words> = Property::absent(
    "hosts",
    "Names of the hosts, separated by blanks; each with `hosts.<name> = host:port`.",
);
/// `hosts.`
pub const HOSTS_EACH: Property<String> = Property::family("hosts.", "`host:port` of each of the `hosts`.");
/// `max-attempts`
pub const MAX_ATTEMPTS: Property<usize> =
    Property::absent("max-attempts", "Hosts tried for one batch. Default: as many as there are hosts.");
/// `host-selector`
pub const HOST_SELECTOR: Property<String> =
    Property::optional("host-selector", "ROUND_ROBIN", "With default_loadbalance: ROUND_ROBIN or RANDOM.");
/// `backoff`
pub const BACKOFF: Property<bool> = Property::optional(
    "backoff",
    "false",
    "With default_loadbalance: leave a failed host alone, each time for twice as long.",
);
/// `maxBackoff`
pub const MAX_BACKOFF: Property<i64> =
    Property::optional("maxBackoff", "30000", "Longest time in milliseconds a failed host is left alone.");

/// How long one call of `process` goes on while events wait: the runner looks after the stop in between.
const QUANTUM: Duration = Duration::from_secs(1);

fn timeout(cx: &mut ParseContext<'_>, property: &Property<i64>, key: &str) -> Option<Duration> {
    let value = cx.get(property)?;
    if value < 1000 {
        cx.warning(key, "is below 1000 ms and counts as 20000, as in Flume", None);
        return Some(Duration::from_millis(20_000));
    }
    Some(Duration::from_millis(value.unsigned_abs()))
}

fn endpoint(text: &str) -> Option<Endpoint> {
    let (host, port) = text.trim().rsplit_once(':')?;
    let port = port.trim().parse().ok()?;
    let host = host.trim().trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then(|| Endpoint { host: host.to_owned(), port })
}

fn parse_hosts(cx: &mut ParseContext<'_>) -> Option<Vec<Endpoint>> {
    let hostname = cx.get_opt(&HOSTNAME)?;
    let port = cx.get_opt(&PORT)?;
    let names = cx.get_opt(&HOSTS)?;
    let each = cx.family(&HOSTS_EACH);
    let Some(Words(names)) = names else {
        for (key, set, example) in
            [("hostname", hostname.is_some(), "collector.example.org"), ("port", port.is_some(), "4141")]
        {
            if !set {
                let hint = format!("add: {} = {example}", cx.full_key(key));
                cx.error(key, "is required and not set", Some(hint));
            }
        }
        return Some(vec![Endpoint { host: hostname?, port: port?.0 }]);
    };
    let mut hosts = Vec::new();
    for name in &names {
        let key = format!("hosts.{name}");
        match each.iter().find(|(n, _)| n == name).map(|(_, text)| endpoint(text)) {
            Some(Some(endpoint)) => hosts.push(endpoint),
            Some(None) => cx.error(
                &key,
                "not host:port",
                Some(format!("for example: {} = collector1:4141", cx.full_key(&key))),
            ),
            None => {
                let hint = format!("add: {} = host:port", cx.full_key(&key));
                cx.error("hosts", format!("names {name}, which has no address"), Some(hint));
            }
        }
    }
    (hosts.len() == names.len()).then_some(hosts)
}

/// Reads what both sinks and the command line client have in common.
pub fn parse(
    cx: &mut ParseContext<'_>,
    speech: Option<Speech>,
    tls: Option<Option<ClientTls>>,
) -> Option<RpcConfig> {
    let hosts = parse_hosts(cx);
    let mut batch_size = cx.get(&BATCH_SIZE)?;
    if batch_size < 1 {
        cx.warning("batch-size", "is below 1 and counts as 100, as in Flume", None);
        batch_size = 100;
    }
    let connect_timeout = timeout(cx, &CONNECT_TIMEOUT, "connect-timeout");
    let request_timeout = timeout(cx, &REQUEST_TIMEOUT, "request-timeout");
    let reset = cx.get(&RESET_INTERVAL)?;
    let selector = cx.get(&HOST_SELECTOR)?;
    let round_robin = match selector.to_ascii_uppercase().as_str() {
        "ROUND_ROBIN" => true,
        "RANDOM" => false,
        _ => {
            cx.error("host-selector", "not a host selector", Some("use ROUND_ROBIN or RANDOM".to_owned()));
            return None;
        }
    };
    let client_type = match cx.get_opt(&CLIENT_TYPE)?.unwrap_or_default().to_ascii_lowercase().as_str() {
        "" | "default" | "thrift" => ClientType::Default,
        "default_failover" => ClientType::Failover,
        "default_loadbalance" if round_robin => ClientType::RoundRobin,
        "default_loadbalance" => ClientType::Random,
        _ => {
            let hint = "use default, default_failover or default_loadbalance".to_owned();
            cx.error("client.type", "not a client type", Some(hint));
            return None;
        }
    };
    let backoff = cx.get(&BACKOFF)?;
    let backoff_max = Duration::from_millis(cx.get(&MAX_BACKOFF)?.max(0).unsigned_abs());
    let attempts = cx.get_opt(&MAX_ATTEMPTS)?;
    let hosts = hosts?;
    if hosts.is_empty() {
        cx.error("hosts", "names no host", None);
        return None;
    }
    if client_type == ClientType::Default && hosts.len() > 1 {
        cx.warning(
            "hosts",
            "names several hosts, of which client.type = default uses the first",
            Some("set client.type = default_failover or default_loadbalance".to_owned()),
        );
    }
    let count = if client_type == ClientType::Default { 1 } else { hosts.len() };
    Some(RpcConfig {
        max_attempts: attempts.filter(|a| *a > 0).unwrap_or(count).min(64),
        hosts: if count == 1 { hosts.into_iter().take(1).collect() } else { hosts },
        client_type,
        backoff_max: backoff.then_some(backoff_max),
        batch_size: usize::try_from(batch_size).unwrap_or(usize::MAX),
        connect_timeout: connect_timeout?,
        request_timeout: request_timeout?,
        reset_interval: (reset > 0).then(|| Duration::from_secs(reset)),
        speech: speech?,
        tls: tls?,
        kerberos: None,
    })
}

/// A batch on its way.
struct Sent {
    transaction: Box<dyn TakeTransaction>,
    events: u64,
}

/// Batches on their way, oldest first. Dropping it rolls them back, newest first, so that the channel's order
/// is restored.
#[derive(Default)]
struct Flight(VecDeque<Sent>);

impl Drop for Flight {
    fn drop(&mut self) {
        while self.0.pop_back().is_some() {}
    }
}

/// The avro or thrift sink of one lane.
pub struct RpcSink {
    cx: SinkContext,
    config: Arc<RpcConfig>,
    client: RpcClient,
    /// Average size of an event in the last call.
    event_bytes: Cell<usize>,
}

impl RpcSink {
    /// Opens the sink; it connects when there is something to deliver.
    ///
    /// # Errors
    /// What is wrong with the trust store.
    pub async fn open(config: Arc<RpcConfig>, cx: SinkContext) -> Result<Box<dyn Sink>, OpenError> {
        let client =
            RpcClient::open(cx.io.clone(), cx.name.clone(), config.clone(), cx.counters.clone()).await?;
        Ok(Box::new(Self { cx, config, client, event_bytes: Cell::new(COLUMNS_BYTES) }))
    }

    /// Takes a call's worth of events; none if the channel is empty.
    async fn take(&self) -> Result<Option<(Sent, EventBatch)>, DeliveryError> {
        let channel = &self.cx.channel;
        let capacity = channel.transaction_capacity();
        let columns = self.client.speaks_columns();
        // Towards another Millrace, as many as fill a call if they are of the size that the last ones had. When they
        // are much larger the call is as well, once.
        let step = match columns {
            true => self.config.batch_size.max(COLUMNS_BYTES / self.event_bytes.get()).min(capacity),
            false => self.config.batch_size.min(capacity),
        };
        let most = if columns { capacity } else { step };
        let mut transaction =
            channel.begin_take().inspect_err(|_| self.cx.counters.channel_read_fail.add(1))?;
        let (mut parts, mut events, mut bytes) = (Vec::new(), 0, 0);
        // What the channel gives at once is sent as it is; only small pieces are worth a copy.
        while events < most && (bytes < COLUMNS_BYTES / 2 || !columns) {
            let taken = transaction.take(step.min(most - events)).await;
            let part = taken.inspect_err(|_| self.cx.counters.channel_read_fail.add(1))?;
            if part.is_empty() {
                break;
            }
            events += part.len();
            bytes += part.size_bytes();
            parts.push(part);
        }
        let Some(event_bytes) = bytes.checked_div(events) else { return Ok(None) };
        self.event_bytes.set(event_bytes.max(1));
        Ok(Some((Sent { transaction, events: events as u64 }, EventBatch::concat(parts))))
    }

    /// Counts a batch that is about to be sent.
    fn attempt(&self, events: u64) {
        let step = self.config.batch_size.min(self.cx.channel.transaction_capacity());
        self.cx.counters.took(events as usize, step);
        self.cx.counters.event_drain_attempt.add(events);
    }

    /// Delivers until the channel is empty or the deadline passes. `delivered` becomes true with the first
    /// committed batch, also if a later one fails.
    async fn deliver(&mut self, deadline: Duration, delivered: &mut bool) -> Result<Status, Failure> {
        let mut flight = Flight::default();
        let mut dry = false;
        loop {
            let full = flight.0.len() >= self.client.window();
            let ending = self.cx.io.now() >= deadline || self.client.is_due();
            let enough = ending && (*delivered || !flight.0.is_empty());
            if !full && !enough && !dry {
                match self.take().await.map_err(Failure::Channel)? {
                    Some((sent, batch)) => {
                        let events = sent.events;
                        flight.0.push_back(sent);
                        if flight.0.len() == 1 {
                            if self.client.is_due() {
                                self.client.close().await;
                            }
                            self.client.connect().await.map_err(Failure::Unreachable)?;
                        }
                        self.attempt(events);
                        self.client.send(&batch).await.map_err(Failure::Call)?;
                        continue;
                    }
                    None if flight.0.is_empty() => {
                        if *delivered {
                            return Ok(Status::Ready);
                        }
                        self.cx.counters.batch_empty.add(1);
                        return Ok(Status::Empty);
                    }
                    None => dry = true,
                }
            }
            if flight.0.is_empty() {
                return Ok(Status::Ready);
            }
            let answered = if dry && !full && !enough {
                // Events that come while answers are awaited leave at once.
                tokio::select! {
                    biased;
                    answered = self.client.answer() => answered,
                    () = self.cx.channel.wait_ready() => {
                        dry = false;
                        // A wake-up for nothing must not keep the answers from being read.
                        if let Some((sent, batch)) = self.take().await.map_err(Failure::Channel)? {
                            self.attempt(sent.events);
                            flight.0.push_back(sent);
                            self.client.send(&batch).await.map_err(Failure::Call)?;
                            continue;
                        }
                        self.client.answer().await
                    }
                }
            } else {
                self.client.answer().await
            };
            answered.map_err(Failure::Call)?;
            dry = false;
            if let Some(Sent { transaction, events }) = flight.0.pop_front() {
                transaction.commit().await.map_err(|e| Failure::Channel(e.into()))?;
                self.cx.counters.event_drain_success.add(events);
                *delivered = true;
            }
        }
    }
}

enum Failure {
    Channel(DeliveryError),
    Unreachable(RpcError),
    Call(RpcError),
}

impl Sink for RpcSink {
    fn process(&mut self) -> LocalBoxFuture<'_, Result<Status, DeliveryError>> {
        Box::pin(async move {
            let deadline = self.cx.io.now() + QUANTUM;
            let mut delivered = false;
            // A connection that was idle may have been closed by the other side: that alone is no failure.
            let mut attempts = self.config.max_attempts + usize::from(self.client.is_connected());
            loop {
                match self.deliver(deadline, &mut delivered).await {
                    Ok(status) => return Ok(status),
                    Err(Failure::Channel(error)) => {
                        self.client.fail();
                        return Err(error);
                    }
                    Err(Failure::Unreachable(error)) => {
                        self.cx.counters.event_write_fail.add(1);
                        return Err(DeliveryError::Destination(error.to_string()));
                    }
                    Err(Failure::Call(error)) => {
                        self.cx.counters.event_write_fail.add(1);
                        self.client.fail();
                        attempts = attempts.saturating_sub(1);
                        if attempts == 0
                            || matches!(error, RpcError::Refused { .. }) && self.config.hosts.len() == 1
                        {
                            return Err(DeliveryError::Destination(error.to_string()));
                        }
                        tracing::warn!(sink = %self.cx.name, %error, "delivery failed; trying again at once");
                    }
                }
            }
        })
    }
    fn stop(&mut self) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.client.close())
    }
    fn describe(&self) -> String {
        format!("delivers to {}", self.client.describe())
    }
}
