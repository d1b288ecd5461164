//! `replicating` selector: every event goes to every channel.
//!
//! Flume: `org.apache.flume.channel.ReplicatingChannelSelector`. O(channels) per batch: the copies share
//! their bodies and headers.

use std::sync::Arc;

use super::{ChannelSelector, Routes, SelectorConfig, SelectorEntry, channels_named};
use crate::config::{ParseContext, Property, PropertySpec, Words};
use crate::event::EventBatch;
use crate::io::Io;

const OPTIONAL: Property<Words> = Property::absent(
    "optional",
    "Channels, separated by blanks, that need not succeed: they are put last, and what they refuse is logged and lost for \
     them alone.",
);

/// Row of the registry.
pub const ENTRY: SelectorEntry = SelectorEntry {
    name: "replicating",
    class: "org.apache.flume.channel.ReplicatingChannelSelector",
    summary: "Every event goes to every channel of the source (the default).",
    properties: PROPERTIES,
    parse,
};

/// Every property the replicating selector reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&OPTIONAL];

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>, channels: &[String]) -> Option<Arc<dyn SelectorConfig>> {
    let optional = cx.get_opt(&OPTIONAL)?.map_or(Vec::new(), |words| words.0);
    let optional = channels_named(cx, "optional", &optional, channels)?;
    Some(Arc::new(Replicating::new(channels.len(), &optional)))
}

/// The selector and its config: it has no state.
#[derive(Clone, Debug)]
pub struct Replicating {
    is_required: Vec<bool>,
}

impl Replicating {
    /// Over `channels` channels, of which these are optional.
    pub fn new(channels: usize, optional: &[usize]) -> Self {
        Self { is_required: (0..channels).map(|c| !optional.contains(&c)).collect() }
    }
}

impl SelectorConfig for Replicating {
    fn build(&self, _io: &Io) -> Box<dyn ChannelSelector> {
        Box::new(self.clone())
    }
}

impl ChannelSelector for Replicating {
    fn select(&mut self, batch: EventBatch) -> Routes {
        let mut routes = Routes::default();
        for (channel, required) in self.is_required.iter().enumerate() {
            if !required && !batch.is_empty() {
                let mut copy = batch.clone();
                copy.take_marks();
                routes.optional.push((channel, copy));
            }
        }
        // The last required channel gets the batch itself.
        let mut required: Vec<usize> = (0..self.is_required.len()).filter(|&c| self.is_required[c]).collect();
        let last = required.pop();
        routes.required.extend(required.into_iter().map(|channel| (channel, batch.clone())));
        routes.required.extend(last.map(|channel| (channel, batch)));
        routes
    }
    fn may_require(&self, channel: usize) -> bool {
        self.is_required[channel]
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::mark;
    use super::*;
    use crate::config::Kind;
    use crate::event::Headers;
    use crate::testing;

    fn config(lines: &str) -> (Option<Arc<dyn SelectorConfig>>, Vec<String>) {
        let channels = ["c1", "c2", "c3"].map(str::to_owned);
        testing::parse(Kind::Source, lines, |cx| parse(&mut cx.below("selector."), &channels))
    }

    #[test]
    fn every_channel_gets_a_copy_that_shares_the_bodies() {
        let mut selector = Replicating::new(3, &[1]);
        let mut batch = EventBatch::single(Headers::new(), "a body");
        batch.set_mark(mark("6"));
        let body = batch.body(0).as_ptr();
        let routes = selector.select(batch);
        assert_eq!(routes.required.iter().map(|(c, _)| *c).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(routes.optional.iter().map(|(c, _)| *c).collect::<Vec<_>>(), [1]);
        assert!(routes.required.iter().all(|(_, b)| b.body(0).as_ptr() == body && b.marks().len() == 1));
        assert!(routes.optional[0].1.marks().is_empty(), "an optional channel's position does not count");
        assert!(selector.may_require(0) && !selector.may_require(1));
    }

    #[test]
    fn marks_alone_reach_the_required_channels_only() {
        let mut batch = EventBatch::default();
        batch.set_mark(mark("6"));
        let routes = Replicating::new(2, &[1]).select(batch);
        assert_eq!((routes.required.len(), routes.optional.len()), (1, 0));
    }

    #[test]
    fn optional_is_checked() {
        for lines in
            ["", "selector.optional = c2", "selector.optional = c2\tc3  c1", "selector.optional = c2 c2"]
        {
            let (config, complaints) = config(lines);
            assert!(config.is_some() && complaints.is_empty(), "{lines}: {complaints:?}");
        }
        let (config, complaints) = config("selector.optional = c2 c4");
        assert!(config.is_none());
        assert_eq!(
            complaints,
            ["error: a1.sources.x1.selector.optional = \"c2 c4\": the source has no channel \"c4\"\n  \
              --> flow.properties:2\n  \
              hint: name some of this source's channels (c1 c2 c3), or add c4 to a1.sources.x1.channels"]
        );
    }
}
