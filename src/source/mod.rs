//! Sources: where events come from.
//!
//! Three phases, never mixed: `parse` (pure, in each component's file) gives a [`SourceConfig`]; `open`
//! touches the world; `run` works until told to stop.

pub mod avro;
pub mod connections;
pub mod deliver;
pub mod exec;
pub mod http;
pub mod ip_filter;
pub mod legacy;
pub mod net;
pub mod netcat;
pub mod netcat_udp;
pub mod rpc;
pub mod scribe;
pub mod seq;
pub mod spool_dir;
pub mod stress;
pub mod syslog;
pub mod taildir;
pub mod thrift;

use std::rc::Rc;
use std::sync::Arc;

use crate::channel_processor::ChannelProcessor;
pub use crate::component::{Claim, OpenError, Shard, stable_hash};
use crate::config::{ParseContext, PropertySpec};
use crate::io::stop::Stop;
use crate::io::{Io, LocalBoxFuture};
use crate::metrics::SourceCounters;

/// One row of the registry's table of sources.
pub struct SourceEntry {
    /// Flume's alias; empty if Flume knows it by class name only. Accepted in any case.
    pub name: &'static str,
    /// Flume's class name.
    pub class: &'static str,
    /// One sentence for `describe`.
    pub summary: &'static str,
    /// On which shards it runs.
    pub placement: Placement,
    /// Every property it reads.
    pub properties: &'static [&'static dyn PropertySpec],
    /// Text to config. `None` only after a complaint.
    pub parse: fn(&mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>>,
}

/// On which shards a source runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On all: it listens on a shared port, or divides its files by [`Shard::owns`].
    EveryShard,
    /// On one, chosen by a hash of the component's name.
    OneShard,
}

/// What a source gets when it is opened on a shard.
pub struct SourceContext {
    /// The component's name.
    pub name: Arc<str>,
    /// The agent's name.
    pub agent: Arc<str>,
    /// This shard.
    pub shard: Shard,
    /// Files, sockets, time.
    pub io: Io,
    /// Interceptors, selector and channels behind this source.
    pub channels: Rc<ChannelProcessor>,
    /// The component's counters, shared by all shards.
    pub counters: Arc<SourceCounters>,
}

/// Why a source ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// A parsed source.
pub trait SourceConfig: Send + Sync {
    /// What it claims for itself.
    fn claims(&self) -> Vec<Claim> {
        Vec::new()
    }
    /// Largest batch it puts in one transaction, to be checked against `transactionCapacity`; `None` if it
    /// fits itself to the channel.
    fn batch_size(&self) -> Option<usize> {
        None
    }
    /// Headers its events may have, for the check of header names through a flow; `None` if clients decide.
    fn headers_set(&self) -> Option<Vec<String>> {
        None
    }
    /// Binds ports, opens directories. Called on each shard the source runs on.
    fn open(
        self: Arc<Self>,
        cx: SourceContext,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Source>, OpenError>>;
}

/// An opened source.
pub trait Source {
    /// Works until the stop is requested or the source has nothing more to give.
    fn run(self: Box<Self>, stop: Stop) -> LocalBoxFuture<'static, Result<(), SourceError>>;
    /// What it listens on or reads, for the start-up report: `listens on 127.0.0.1:44444`.
    fn describe(&self) -> String;
}
