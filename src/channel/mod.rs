//! Channels: where events wait between a source and a sink, and the transactions on them.
//!
//! Flume: `org.apache.flume.Channel`, `Transaction`. Two transaction types instead of one, because Flume's
//! file channel finds mixed puts and takes only at commit. A channel object belongs to one shard; its
//! capacity is shared by the shards of the agent.

use std::rc::Rc;
use std::sync::Arc;

use crate::component::{Claim, OpenError, Shard};
use crate::config::{ParseContext, PropertySpec};
use crate::event::{EventBatch, SourceMark};
use crate::io::{Io, LocalBoxFuture};
use crate::metrics::ChannelCounters;

pub mod budget;
mod byte_capacity;
pub mod file;
pub mod memory;
pub mod pseudo_txn;
mod queue;
pub mod spillable;

/// One row of the registry's table of channels.
pub struct ChannelEntry {
    /// Flume's alias; empty if Flume knows it by class name only. Accepted in any case.
    pub name: &'static str,
    /// Flume's class name.
    pub class: &'static str,
    /// One sentence for `describe`.
    pub summary: &'static str,
    /// Every property it reads.
    pub properties: &'static [&'static dyn PropertySpec],
    /// Text to config. `None` only after a complaint.
    pub parse: fn(&mut ParseContext<'_>) -> Option<Arc<dyn ChannelConfig>>,
}

/// One list of properties of two.
const fn joined<const N: usize>(
    first: &[&'static dyn PropertySpec],
    second: &[&'static dyn PropertySpec],
) -> [&'static dyn PropertySpec; N] {
    let mut all: [&'static dyn PropertySpec; N] = [second[0]; N];
    let mut at = 0;
    while at < N {
        all[at] = if at < first.len() { first[at] } else { second[at - first.len()] };
        at += 1;
    }
    all
}

/// What a channel gets when it is opened on a shard.
pub struct ChannelContext {
    /// The component's name.
    pub name: Arc<str>,
    /// The agent's name.
    pub agent: Arc<str>,
    /// This shard.
    pub shard: Shard,
    /// Files and time.
    pub io: Io,
    /// The component's counters, shared by all shards.
    pub counters: Arc<ChannelCounters>,
}

/// A parsed channel. One object per agent: what the shards share (the capacity) lives in it.
pub trait ChannelConfig: Send + Sync {
    /// What it claims for itself.
    fn claims(&self) -> Vec<Claim> {
        Vec::new()
    }
    /// Most events that may wait, over all shards.
    fn capacity(&self) -> u64;
    /// Most events of one transaction.
    fn transaction_capacity(&self) -> usize;
    /// What survives what, for the start-up report: `memory: nothing survives the process`.
    fn durability(&self) -> String;
    /// Opens the channel on one shard. Called on every shard.
    fn open(
        self: Arc<Self>,
        cx: ChannelContext,
    ) -> LocalBoxFuture<'static, Result<Rc<dyn Channel>, OpenError>>;
}

/// Why a channel refused a transaction. The text is what the client of a source is told.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// No room within `keep-alive`: Flume's `ChannelFullException`. Try again later.
    #[error("{0}")]
    Full(String),
    /// The batch can never fit (`transactionCapacity`, a body over the byte capacity): Flume's
    /// `ChannelException`. Trying again does not help.
    #[error("{0}")]
    TooLarge(String),
    /// The disk is full: puts fail until there is room, takes go on.
    #[error("{0}")]
    NoSpace(String),
    /// A write or sync failed; the channel accepts nothing until it is reopened.
    #[error("{0}")]
    Latched(String),
    /// The channel is closed.
    #[error("channel {0} is closed")]
    Closed(String),
    /// A stored frame is damaged and `onDamage` does not allow to skip it.
    #[error("{0}")]
    Damaged(String),
}

/// A channel as one shard sees it.
pub trait Channel {
    /// The component's name.
    fn name(&self) -> &str;
    /// Most events one transaction may put or take.
    fn transaction_capacity(&self) -> usize;
    /// Begins a transaction that puts.
    ///
    /// # Errors
    /// [`ChannelError::Closed`] or [`ChannelError::Latched`].
    fn begin_put(&self) -> Result<Box<dyn PutTransaction>, ChannelError>;
    /// Begins a transaction that takes. Several may be open at once.
    ///
    /// # Errors
    /// [`ChannelError::Closed`].
    fn begin_take(&self) -> Result<Box<dyn TakeTransaction>, ChannelError>;
    /// Resolves when there may be something to take. Spurious wake-ups are allowed. Cancel-safe.
    fn wait_ready(&self) -> LocalBoxFuture<'_, ()>;
    /// Once the sources have stopped and a take found nothing: true when there may be something to take
    /// after all, false when nothing can come any more. Cancel-safe.
    fn wait_last(&self) -> LocalBoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }
    /// For a source whose events stay where they are until it reads them: resolves when the sinks are close behind,
    /// or after a few milliseconds. A channel that wins nothing by it resolves at once.
    fn keep_pace(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
    /// The latest committed marks of a source, see [`SourceMark`]. Empty for channels that forget.
    fn marks(&self, source: &str) -> Vec<SourceMark>;
    /// True if a committed put survives the process: then a source may answer for it.
    fn is_durable(&self) -> bool;
    /// Stops accepting, writes what is open, gives the directory back.
    fn close(&self) -> LocalBoxFuture<'_, ()>;
}

/// Dropping it without `commit` is the rollback.
pub trait PutTransaction {
    /// Adds a batch to the transaction, waiting up to `keep-alive` for room. Room is reserved here, so that
    /// `commit` cannot fail for lack of it. The whole transaction becomes visible at once, or never.
    fn put(&mut self, batch: EventBatch) -> LocalBoxFuture<'_, Result<(), ChannelError>>;
    /// Commits; resolves when the events are as durable as the channel promises. Dropping the future does
    /// not undo the commit once it was polled.
    fn commit(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ChannelError>>;
}

/// Dropping it without `commit` is the rollback: the events go back to the head in order.
pub trait TakeTransaction {
    /// Takes up to `events_max` events; an empty batch if there are none (never waits). May be called
    /// repeatedly, up to the transaction capacity in all.
    fn take(&mut self, events_max: usize) -> LocalBoxFuture<'_, Result<EventBatch, ChannelError>>;
    /// The events are delivered: forget them.
    fn commit(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ChannelError>>;
}
