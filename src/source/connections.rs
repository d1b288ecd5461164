//! Accepting connections: what TCP sources have in common.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::SourceContext;
use super::net::Gauge;
use crate::io::stop::{Phase, Stop};
use crate::io::tls::Acceptor;
use crate::io::{Io, Listener, LocalBoxFuture, Stream};
use crate::metrics::SourceCounters;

/// How long to wait before accepting again after the kernel refused (out of file descriptors or memory).
const ACCEPT_RETRY: Duration = Duration::from_millis(500);

/// How long a client may take for its part of the TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// The open connections of a source on one shard.
#[derive(Clone)]
pub struct Connections {
    name: Arc<str>,
    io: Io,
    counters: Arc<SourceCounters>,
    open: Rc<Gauge>,
    most: usize,
    tls: Option<Acceptor>,
}

impl Connections {
    /// At most `most` at once; more wait in the kernel's queue.
    pub fn new(cx: &SourceContext, most: usize) -> Self {
        Self {
            name: cx.name.clone(),
            io: cx.io.clone(),
            counters: cx.counters.clone(),
            open: Rc::default(),
            most,
            tls: None,
        }
    }

    /// The same inside TLS, if there is an acceptor.
    #[must_use]
    pub fn secured(mut self, tls: Option<Acceptor>) -> Self {
        self.tls = tls;
        self
    }

    /// Accepts until the stop; each connection is served by a task of its own.
    pub async fn accept(
        &self,
        listener: &dyn Listener,
        stop: &Stop,
        serve: impl Fn(Box<dyn Stream>, SocketAddr) -> LocalBoxFuture<'static, ()>,
    ) {
        stop.or(async {
            loop {
                if self.open.value() >= self.most {
                    tracing::warn!(source = %self.name, connections = self.most, "connection limit of this shard reached; new ones wait");
                    self.open.below(self.most).await;
                }
                match listener.accept().await {
                    Ok((stream, peer)) => {
                        tracing::debug!(source = %self.name, %peer, "connected");
                        let share = self.open.add(1);
                        self.counters.open_connection.add(1);
                        let counters = self.counters.clone();
                        let served = serve(stream, peer);
                        crate::io::spawn(async move {
                            served.await;
                            counters.open_connection.subtract(1);
                            drop(share);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(source = %self.name, %error, "cannot accept a connection; raise the limit of open files (ulimit -n) if there are too many");
                        self.io.sleep(ACCEPT_RETRY).await;
                    }
                }
            }
        })
        .await;
    }

    /// The stream inside TLS, if the source speaks it; `None` if the handshake failed.
    fn handshake(
        &self,
        stream: Box<dyn Stream>,
        peer: SocketAddr,
    ) -> impl Future<Output = Option<Box<dyn Stream>>> + 'static {
        let (tls, io, name) = (self.tls.clone(), self.io.clone(), self.name.clone());
        async move {
            let Some(tls) = tls else { return Some(stream) };
            let problem = tokio::select! {
                shaken = tls.accept(stream) => match shaken {
                    Ok(stream) => return Some(stream),
                    Err(error) => error.to_string(),
                },
                () = io.sleep(HANDSHAKE_TIME) => format!("not finished within {} s", HANDSHAKE_TIME.as_secs()),
            };
            tracing::warn!(source = %name, %peer, problem, "TLS handshake failed");
            None
        }
    }

    /// Serves each connection, inside TLS if the source speaks it, until the stop; then waits until all are
    /// closed.
    pub async fn serve<F: Future<Output = ()> + 'static>(
        &self,
        listener: Rc<dyn Listener>,
        stop: &Stop,
        serve: impl Fn(Box<dyn Stream>, SocketAddr, Stop) -> F + Clone + 'static,
    ) {
        let accepting = self.accept(&*listener, stop, |stream, peer| {
            let (secured, serve, stop) = (self.handshake(stream, peer), serve.clone(), stop.clone());
            Box::pin(async move {
                if let Some(stream) = secured.await {
                    serve(stream, peer, stop).await;
                }
            })
        });
        accepting.await;
        drop(listener);
        self.closed(stop).await;
    }

    /// Waits until all connections are closed, or until nothing is to be waited for any more.
    pub async fn closed(&self, stop: &Stop) {
        tokio::select! {
            () = self.open.below(1) => {}
            () = stop.reached(Phase::Now) => {}
        }
    }
}
