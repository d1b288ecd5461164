//! Channel selectors: which events go to which channels of a source.
//!
//! Flume: `org.apache.flume.ChannelSelector`. A selector runs on the core of its source and divides whole
//! batches; where a batch goes to one place undivided, nothing is copied.
//!
//! Marks (what a source needs to resume) go to every channel that may ever be required, even if no event of
//! the batch does: a source resumes behind the position that *all* of them have committed, so a channel that
//! happens to get no events for an hour must not hold that position back.

use std::sync::Arc;

use crate::config::{ParseContext, PropertySpec};
use crate::event::{EventBatch, SourceMark};
use crate::io::Io;

pub mod load_balancing;
pub mod multiplexing;
pub mod replicating;

/// One row of the registry's table of selectors.
pub struct SelectorEntry {
    /// Flume's alias.
    pub name: &'static str,
    /// Flume's class name.
    pub class: &'static str,
    /// One sentence for `describe`.
    pub summary: &'static str,
    /// Every property it reads, below `selector.`.
    pub properties: &'static [&'static dyn PropertySpec],
    /// Text to config; the names are the source's channels. `None` only after a complaint.
    pub parse: fn(&mut ParseContext<'_>, &[String]) -> Option<Arc<dyn SelectorConfig>>,
}

/// Where parts of a batch go. Channels are indices into the source's channel list.
#[derive(Debug, Default)]
pub struct Routes {
    /// Must be put; a failure is the source's failure.
    pub required: Vec<(usize, EventBatch)>,
    /// Put after the required ones; a failure is only logged.
    pub optional: Vec<(usize, EventBatch)>,
}

impl Routes {
    /// Lets the marks reach every channel that may be required, see the module's doc.
    fn spread_marks(&mut self, marks: Vec<SourceMark>, may_require: &[bool]) {
        if marks.is_empty() {
            return;
        }
        for channel in (0..may_require.len()).filter(|&c| may_require[c]) {
            if !self.required.iter().any(|(c, _)| *c == channel) {
                self.required.push((channel, EventBatch::default()));
            }
        }
        for (_, batch) in &mut self.required {
            marks.iter().for_each(|mark| batch.set_mark(mark.clone()));
        }
    }
}

/// A selector of one shard.
pub trait ChannelSelector {
    /// Divides the batch. A part may be empty but for its marks.
    fn select(&mut self, batch: EventBatch) -> Routes;
    /// True if some event could make this channel a required one. Only such channels' positions count when
    /// a source resumes: an optional channel may have missed batches.
    fn may_require(&self, channel: usize) -> bool;
}

/// A parsed selector.
pub trait SelectorConfig: Send + Sync {
    /// Makes the selector for one shard.
    fn build(&self, io: &Io) -> Box<dyn ChannelSelector>;
}

/// Finds the channels a property names; complains about each that the source does not have. A channel
/// named twice counts once.
fn channels_named(
    cx: &mut ParseContext<'_>,
    key: &str,
    names: &[String],
    channels: &[String],
) -> Option<Vec<usize>> {
    let mut found = Vec::with_capacity(names.len());
    let mut complete = true;
    for name in names {
        match channels.iter().position(|c| c == name) {
            Some(channel) if found.contains(&channel) => {}
            Some(channel) => found.push(channel),
            None => {
                complete = false;
                let hint = format!(
                    "name some of this source's channels ({}), or add {name} to {}",
                    channels.join(" "),
                    cx.component().full_key("channels"),
                );
                cx.error(key, format!("the source has no channel {name:?}"), Some(hint));
            }
        }
    }
    complete.then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// A mark as a file source would set it.
    pub(super) fn mark(position: &'static str) -> SourceMark {
        SourceMark {
            source: "r1".into(),
            key: Bytes::from_static(b"file"),
            value: Bytes::from_static(position.as_bytes()),
        }
    }

    #[test]
    fn marks_reach_channels_without_events() {
        let mut routes = Routes {
            required: vec![(1, EventBatch::single(Default::default(), "x"))],
            optional: vec![(2, EventBatch::single(Default::default(), "x"))],
        };
        routes.spread_marks(vec![mark("7")], &[true, true, false]);
        let seen: Vec<_> = routes.required.iter().map(|(c, b)| (*c, b.len(), b.marks().len())).collect();
        assert_eq!(seen, [(1, 1, 1), (0, 0, 1)]);
        assert!(routes.optional[0].1.marks().is_empty());
    }

    #[test]
    fn without_marks_no_part_is_added() {
        let mut routes = Routes::default();
        routes.spread_marks(Vec::new(), &[true, true]);
        assert!(routes.required.is_empty());
    }
}
