//! Sinks: where events go.
//!
//! Phases as for sources: parse, open, then [`Sink::process`] again and again by the sink runner.

use std::rc::Rc;
use std::sync::Arc;

use crate::channel::{Channel, ChannelError};
pub use crate::component::{Claim, OpenError};
use crate::config::{ParseContext, PropertySpec};
use crate::io::{Io, LocalBoxFuture};
use crate::metrics::SinkCounters;

pub mod avro;
pub mod file_roll;
mod group;
pub mod hdfs;
pub mod http;
pub mod logger;
pub mod null;
pub mod rpc;
mod schemas;
pub mod thrift;

pub use group::Group;
pub use schemas::{EventSchema, Schemas};

/// One row of the registry's table of sinks.
pub struct SinkEntry {
    /// Flume's alias; empty if Flume knows it by class name only. Accepted in any case.
    pub name: &'static str,
    /// Flume's class name.
    pub class: &'static str,
    /// One sentence for `describe`.
    pub summary: &'static str,
    /// Lanes it runs in unless the flow says otherwise.
    pub lanes: Lanes,
    /// Every property it reads.
    pub properties: &'static [&'static dyn PropertySpec],
    /// Text to config. `None` only after a complaint.
    pub parse: fn(&mut ParseContext<'_>) -> Option<Arc<dyn SinkConfig>>,
}

/// Default number of lanes of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// One: people count and read its output in order.
    One,
    /// As many as shards.
    PerShard,
}

/// What a sink gets when it is opened on a lane.
pub struct SinkContext {
    /// The component's name.
    pub name: Arc<str>,
    /// The agent's name.
    pub agent: Arc<str>,
    /// Index of this lane, from 0.
    pub lane: usize,
    /// Number of lanes of this sink.
    pub lanes: usize,
    /// Files, sockets, time.
    pub io: Io,
    /// The channel it takes from.
    pub channel: Rc<dyn Channel>,
    /// The component's counters, shared by all lanes.
    pub counters: Arc<SinkCounters>,
}

/// What a call of [`Sink::process`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Events were delivered; call again at once.
    Ready,
    /// The channel was empty (Flume: BACKOFF). The runner waits for events.
    Empty,
    /// Delivery did not work this time (Flume: BACKOFF). The runner sleeps, longer each time.
    Backoff,
}

/// Why a delivery failed; the transaction was rolled back. The runner sleeps 5 s, a sink processor tries
/// another sink.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The other side or the disk: worth trying again.
    #[error("{0}")]
    Destination(String),
    /// The channel.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

/// A parsed sink.
pub trait SinkConfig: Send + Sync {
    /// What it claims for itself.
    fn claims(&self) -> Vec<Claim> {
        Vec::new()
    }
    /// Batch size to be checked against `transactionCapacity`.
    fn batch_size(&self) -> Option<usize> {
        None
    }
    /// Opens directories and so on. Connections to other hosts are made on demand. Called on each lane.
    fn open(self: Arc<Self>, cx: SinkContext) -> LocalBoxFuture<'static, Result<Box<dyn Sink>, OpenError>>;
}

/// An opened sink.
pub trait Sink {
    /// Takes at most one transaction's worth of events, delivers and commits them. When it returns an error
    /// or [`Status::Backoff`] the transaction was rolled back.
    fn process(&mut self) -> LocalBoxFuture<'_, Result<Status, DeliveryError>>;
    /// Does what is due without new events (timers that roll files). Called when the channel is empty at
    /// least every [`Sink::tick_interval`].
    fn tick(&mut self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async {})
    }
    /// How often [`Sink::tick`] wants to be called.
    fn tick_interval(&self) -> std::time::Duration {
        std::time::Duration::from_secs(1)
    }
    /// Closes files and connections. Nothing is taken after it.
    fn stop(&mut self) -> LocalBoxFuture<'_, ()>;
    /// Where it delivers, for the start-up report.
    fn describe(&self) -> String;
}
