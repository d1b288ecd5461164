//! What the queues in memory have in common: batches that wait on one shard.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use super::{ChannelConfig, ChannelContext, ChannelError};
use crate::event::EventBatch;
use crate::io::Io;
use crate::metrics::ChannelCounters;

/// The batches of one shard's queue.
pub(super) struct Queue<C> {
    pub config: Arc<C>,
    pub name: Arc<str>,
    pub io: Io,
    pub counters: Arc<ChannelCounters>,
    pub batches: RefCell<VecDeque<EventBatch>>,
    /// Told when a batch was added.
    pub ready: Notify,
    closed: Cell<bool>,
}

impl<C: ChannelConfig> Queue<C> {
    /// An empty queue.
    pub fn open(config: Arc<C>, cx: ChannelContext) -> Rc<Self> {
        cx.counters.channel_capacity.set(config.capacity());
        Rc::new(Self {
            config,
            name: cx.name,
            io: cx.io,
            counters: cx.counters,
            batches: RefCell::default(),
            ready: Notify::new(),
            closed: Cell::new(false),
        })
    }
    /// Events that wait.
    pub fn len(&self) -> usize {
        self.batches.borrow().iter().map(EventBatch::len).sum()
    }
    /// # Errors
    /// The queue is closed.
    pub fn check_open(&self) -> Result<(), ChannelError> {
        match self.closed.get() {
            true => Err(ChannelError::Closed(self.name.to_string())),
            false => Ok(()),
        }
    }
    /// Waits until a batch waits.
    pub async fn wait_ready(&self) {
        loop {
            let ready = self.ready.notified();
            if !self.batches.borrow().is_empty() {
                return;
            }
            ready.await;
        }
    }
    /// Takes nothing more, and says what is lost.
    pub fn close(&self) {
        self.closed.set(true);
        let lost = self.len();
        if lost > 0 {
            tracing::warn!(channel = %self.name, events = lost, "channel closed with events that no sink took; they are lost");
        }
    }
}
