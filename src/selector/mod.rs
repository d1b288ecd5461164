//! Channel selectors: which events go to which channels of a source.

use crate::event::EventBatch;

/// Where parts of a batch go. Channels are indices into the source's channel list.
#[derive(Debug, Default)]
pub struct Routes {
    /// Must be put; a failure is the source's failure.
    pub required: Vec<(usize, EventBatch)>,
    /// Put after the required ones; a failure is only logged.
    pub optional: Vec<(usize, EventBatch)>,
}

/// A selector of one shard.
pub trait ChannelSelector {
    /// Divides the batch.
    fn select(&mut self, batch: EventBatch) -> Routes;
}

/// A parsed selector.
pub trait SelectorConfig: Send + Sync {
    /// Makes the selector for one shard.
    fn build(&self) -> Box<dyn ChannelSelector>;
}
