//! Accepting connections: what TCP sources have in common.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::SourceContext;
use super::net::Gauge;
use crate::io::stop::{Phase, Stop};
use crate::io::{Io, Listener, LocalBoxFuture, Stream};
use crate::metrics::SourceCounters;

/// How long to wait before accepting again after the kernel refused (out of file descriptors or memory).
const ACCEPT_RETRY: Duration = Duration::from_millis(500);

/// The open connections of a source on one shard.
#[derive(Clone)]
pub struct Connections {
    name: Arc<str>,
    io: Io,
    counters: Arc<SourceCounters>,
    open: Rc<Gauge>,
    most: usize,
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
        }
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

    /// Waits until all connections are closed, or until nothing is to be waited for any more.
    pub async fn closed(&self, stop: &Stop) {
        tokio::select! {
            () = self.open.below(1) => {}
            () = stop.reached(Phase::Now) => {}
        }
    }
}
