//! `http` source: events in the bodies of HTTP requests; one request is one batch and one transaction.
//!
//! Flume: `org.apache.flume.source.http.HTTPSource`. Each shard listens on the same port and the kernel
//! spreads the connections. 200 is answered once every required channel has committed the batch; 400 says
//! that the request is wrong, 503 that a channel has no room, 413 that the request is too large.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::connections::Connections;
use super::net;
use super::{Claim, OpenError, Placement, Source, SourceConfig, SourceContext, SourceEntry, SourceError};
use crate::config::tls::{self, ServerTls};
use crate::config::{CommaList, Millis, ParseContext, Port, Positive, Property, PropertySpec, Words};
use crate::io::stop::Stop;
use crate::io::tls::Acceptor;
use crate::io::{Listener, LocalBoxFuture};
use handler::Handler;
use server::Server;

mod handler;
mod server;

const BIND: Property<String> = Property::optional("bind", "0.0.0.0", "Host name or IP address to listen on.");
const PORT: Property<Port> = Property::required("port", "TCP port to listen on.");
const HANDLER: Property<String> = Property::optional(
    "handler",
    "org.apache.flume.source.http.JSONHandler",
    "What reads the requests: `org.apache.flume.source.http.JSONHandler` (an array of events), \
     `org.apache.flume.source.http.BLOBHandler` or `org.apache.flume.sink.solr.morphline.BlobHandler` (the body is one \
     event, the request's parameters are its headers).",
);
const MANDATORY_PARAMETERS: Property<CommaList> = Property::absent(
    "handler.mandatoryParameters",
    "BLOBHandler: parameters without which a request is refused, separated by commas.",
);
const MAX_BLOB_LENGTH: Property<Positive> = Property::optional(
    "handler.maxBlobLength",
    "100000000",
    "BlobHandler: most bytes of a body that are kept; the rest is cut off.",
);
const MAX_REQUEST_BYTES: Property<Positive> = Property::optional(
    "maxRequestBytes",
    "33554432",
    "Largest body of a request, in bytes; a larger one is answered by 413. (Flume takes what its heap holds.)",
);
const REQUEST_HEADER_SIZE: Property<Positive> = Property::optional(
    "HttpConfiguration.requestHeaderSize",
    "65536",
    "Largest request head, in bytes, at least 8192; a larger one is answered by 431.",
);
const IDLE_TIMEOUT: Property<Millis> = Property::optional(
    "ServerConnector.idleTimeout",
    "30000",
    "How long a client may be silent: between requests, within a request head, between parts of a body, while an \
     answer waits to be read.",
);
const THREAD_POOL: Property<String> = Property::family(
    "QueuedThreadPool.",
    "Settings of Flume's web server that have no counterpart here; ignored.",
);
const HTTP_CONFIGURATION: Property<String> =
    Property::family("HttpConfiguration.", "Others than the one above: ignored, as `QueuedThreadPool.`.");
const SERVER_CONNECTOR: Property<String> =
    Property::family("ServerConnector.", "Others than the one above: ignored, as `QueuedThreadPool.`.");

const SSL_FACTORY: Property<String> = Property::family(
    "SslContextFactory.",
    "Settings of Flume's web server; ignored, as `QueuedThreadPool.`.",
);
const ENABLE_SSL: Property<bool> =
    Property::absent("enableSSL", "Older name of `ssl`; counts if that is not set.");
const EXCLUDE_PROTOCOLS: Property<Words> =
    Property::absent("excludeProtocols", "Older name of `exclude-protocols`; counts if that is not set.");
const KEYSTORE_PASSWORD: Property<String> =
    Property::absent("keystorePassword", "Older name of `keystore-password`; counts if that is not set.")
        .secret();

/// Every property the http source reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[
    &BIND,
    &PORT,
    &HANDLER,
    &MANDATORY_PARAMETERS,
    &MAX_BLOB_LENGTH,
    &MAX_REQUEST_BYTES,
    &REQUEST_HEADER_SIZE,
    &IDLE_TIMEOUT,
    &THREAD_POOL,
    &HTTP_CONFIGURATION,
    &SERVER_CONNECTOR,
    &SSL_FACTORY,
    &tls::SSL,
    &tls::KEYSTORE,
    &tls::KEYSTORE_PASSWORD,
    &tls::KEYSTORE_TYPE,
    &tls::INCLUDE_PROTOCOLS,
    &tls::EXCLUDE_PROTOCOLS,
    &tls::INCLUDE_CIPHER_SUITES,
    &tls::EXCLUDE_CIPHER_SUITES,
    &ENABLE_SSL,
    &EXCLUDE_PROTOCOLS,
    &KEYSTORE_PASSWORD,
];

/// Row of the registry.
pub const ENTRY: SourceEntry = SourceEntry {
    name: "http",
    class: "org.apache.flume.source.http.HTTPSource",
    summary: "Events posted over HTTP, as JSON or as whole bodies.",
    placement: Placement::EveryShard,
    properties: PROPERTIES,
    parse,
};

/// Connections of a shard; more wait in the kernel's queue. One that has sent nothing yet costs about
/// 1.5 KiB, one that has, 8 KiB more for its read buffer: at most 160 MiB while all of them send heads,
/// 25 MiB while they are idle and new.
const CONNECTIONS_MAX: usize = 16_384;
/// Bodies being received or waiting for a channel on a shard; beyond it requests wait, then get 503. At
/// least two of the largest, so that one does not lock out the rest. Reading a body into a batch takes as
/// much again for a moment, one request at a time.
const IN_FLIGHT_BYTES_MIN: usize = 48 << 20;
/// hyper needs room for this much of a head.
const HEAD_BYTES_MIN: usize = 8192;

/// An http source's settings.
#[derive(Debug)]
pub(super) struct HttpConfig {
    bind: String,
    port: u16,
    handler: Handler,
    limits: Limits,
    tls: Option<ServerTls>,
}

/// What a client may ask for.
#[derive(Clone, Copy, Debug)]
struct Limits {
    body_bytes_max: usize,
    in_flight_bytes_max: usize,
    head_bytes_max: usize,
    idle: Duration,
}

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    Some(Arc::new(read(cx)?))
}

fn read(cx: &mut ParseContext<'_>) -> Option<HttpConfig> {
    let (bind, port) = (cx.get(&BIND), cx.get(&PORT));
    let handler = cx.get(&HANDLER);
    let (mandatory, blob_max) = (cx.get_opt(&MANDATORY_PARAMETERS), cx.get(&MAX_BLOB_LENGTH));
    let (body_max, head_max, idle) =
        (cx.get(&MAX_REQUEST_BYTES), cx.get(&REQUEST_HEADER_SIZE), cx.get(&IDLE_TIMEOUT));
    for family in [&THREAD_POOL, &HTTP_CONFIGURATION, &SERVER_CONNECTOR, &SSL_FACTORY] {
        for (key, _) in cx.family(family) {
            let key = format!("{}{key}", PropertySpec::name(family));
            if key != PropertySpec::name(&REQUEST_HEADER_SIZE) && key != PropertySpec::name(&IDLE_TIMEOUT) {
                cx.warning(&key, "has no counterpart here and is ignored", None);
            }
        }
    }
    let tls = read_tls(cx);
    let mandatory = mandatory?.map_or(Vec::new(), |list| list.0);
    let handler = match Handler::named(&handler?, mandatory, blob_max?.0) {
        Ok(handler) => handler,
        Err(problem) => {
            cx.error("handler", problem, Some(format!("leave it out for {}", handler::JSON_CLASS)));
            return None;
        }
    };
    let body_bytes_max = body_max?.0;
    let largest = handler.cuts_behind().unwrap_or(body_bytes_max);
    let limits = Limits {
        body_bytes_max,
        in_flight_bytes_max: IN_FLIGHT_BYTES_MIN.max(largest.saturating_mul(2)),
        head_bytes_max: head_max?.0.max(HEAD_BYTES_MIN),
        idle: idle?.0,
    };
    Some(HttpConfig { bind: bind?, port: port?.0, handler, limits, tls: tls? })
}

/// The TLS properties, under their older names too.
fn read_tls(cx: &mut ParseContext<'_>) -> Option<Option<ServerTls>> {
    let mut component = cx.component().clone();
    let names = [
        ("enableSSL", "ssl"),
        ("excludeProtocols", "exclude-protocols"),
        ("keystorePassword", "keystore-password"),
    ];
    for (old, new) in names {
        if let (Some(setting), None) = (cx.raw(old), cx.raw(new)) {
            component.settings.insert(new.to_owned(), setting.clone());
        }
    }
    let mut complaints = Vec::new();
    let tls = tls::parse_server(&mut ParseContext::new(&component, &mut complaints));
    cx.adopt(complaints);
    tls
}

impl SourceConfig for HttpConfig {
    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Tcp(self.bind.clone(), self.port)]
    }
    fn open(
        self: Arc<Self>,
        cx: SourceContext,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Source>, OpenError>> {
        Box::pin(async move {
            let tls = Acceptor::open_if(&cx.io, self.tls.as_ref()).await?;
            let listener = net::listen(&cx.io, &self.bind, self.port).await?;
            let connections = Connections::new(&cx, CONNECTIONS_MAX).secured(tls);
            let is_tls = self.tls.is_some();
            let server = Rc::new(Server::new(cx, self));
            Ok(Box::new(Http { listener, connections, server, is_tls }) as Box<dyn Source>)
        })
    }
}

/// A listening http source of one shard.
struct Http {
    listener: Rc<dyn Listener>,
    connections: Connections,
    server: Rc<Server>,
    is_tls: bool,
}

impl Source for Http {
    fn run(self: Box<Self>, stop: Stop) -> LocalBoxFuture<'static, Result<(), SourceError>> {
        Box::pin(async move {
            let Self { listener, connections, server, is_tls: _ } = *self;
            // Each connection answers the request it has begun and closes.
            let serve = move |stream, peer, stop| Rc::clone(&server).serve(stream, peer, stop);
            connections.serve(listener, &stop, serve).await;
            Ok(())
        })
    }
    fn describe(&self) -> String {
        match self.listener.local_addr() {
            Ok(address) => format!("listens on {}://{address}", if self.is_tls { "https" } else { "http" }),
            Err(error) => format!("listens on an unknown address ({error})"),
        }
    }
}

#[cfg(test)]
mod tests;
