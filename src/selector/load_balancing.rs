//! `load_balancing` selector: every event goes to one of the channels.
//!
//! Flume: `org.apache.flume.channel.LoadBalancingChannelSelector`, which no released Flume can start (its
//! validator does not know the type). A batch is dealt out in runs: each channel gets as many events as if
//! they had been dealt one by one, and no body is copied.

use std::sync::Arc;

use super::{ChannelSelector, Routes, SelectorConfig, SelectorEntry};
use crate::config::{ParseContext, Property, PropertySpec, PropertyValue};
use crate::event::EventBatch;
use crate::io::Io;

const POLICY: Property<Policy> = Property::optional(
    "policy",
    "round_robin",
    "Which channel is next: `round_robin` deals the events in turn, `random` draws for each event.",
);

/// Row of the registry.
pub const ENTRY: SelectorEntry = SelectorEntry {
    name: "load_balancing",
    class: "org.apache.flume.channel.LoadBalancingChannelSelector",
    summary: "Every event goes to one channel of the source, in turn or at random.",
    properties: PROPERTIES,
    parse,
};

/// Every property the load-balancing selector reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&POLICY];

/// How the next channel is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    RoundRobin,
    Random,
}

impl PropertyValue for Policy {
    const KIND: &'static str = "round_robin or random";
    const EXAMPLE: &'static str = "round_robin";
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "round_robin" => Ok(Self::RoundRobin),
            "random" => Ok(Self::Random),
            _ => Err("not a policy; use round_robin or random".to_owned()),
        }
    }
}

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>, channels: &[String]) -> Option<Arc<dyn SelectorConfig>> {
    Some(Arc::new(read(cx, channels)?))
}

fn read(cx: &mut ParseContext<'_>, channels: &[String]) -> Option<Config> {
    Some(Config { policy: cx.get(&POLICY)?, channels: channels.len() })
}

struct Config {
    policy: Policy,
    channels: usize,
}

impl SelectorConfig for Config {
    fn build(&self, io: &Io) -> Box<dyn ChannelSelector> {
        let io = io.clone();
        Box::new(self.selector(move || io.random()))
    }
}

impl Config {
    fn selector<R: Fn() -> u64>(&self, random: R) -> LoadBalancing<R> {
        LoadBalancing { policy: self.policy, next: 0, counts: vec![0; self.channels], random }
    }
}

struct LoadBalancing<R> {
    policy: Policy,
    /// Channel of the next event.
    next: usize,
    /// Events of the current batch per channel; kept to allocate nothing.
    counts: Vec<usize>,
    random: R,
}

impl<R: Fn() -> u64> ChannelSelector for LoadBalancing<R> {
    fn select(&mut self, mut batch: EventBatch) -> Routes {
        let (events, channels) = (batch.len(), self.counts.len());
        match self.policy {
            Policy::RoundRobin => {
                for (channel, count) in self.counts.iter_mut().enumerate() {
                    let turn = (channel + channels - self.next) % channels;
                    *count = events / channels + usize::from(turn < events % channels);
                }
            }
            Policy::Random => {
                self.counts.fill(0);
                let channels = channels as u64;
                (0..events).for_each(|_| self.counts[((self.random)() % channels) as usize] += 1);
            }
        }
        let first = self.next;
        self.next = (self.next + events) % channels;
        let marks = batch.take_marks();
        let mut routes = Routes::default();
        for turn in 0..channels {
            let channel = (first + turn) % channels;
            let count = self.counts[channel];
            if count > 0 {
                routes.required.push((channel, batch.split_to(count)));
            }
        }
        routes.spread_marks(marks, &vec![true; channels]);
        routes
    }
    fn may_require(&self, _channel: usize) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::mark;
    use super::*;
    use crate::config::Kind;
    use crate::event::{BatchBuilder, Separator};
    use crate::testing;

    fn config(lines: &str) -> (Option<Config>, Vec<String>) {
        let channels = ["c1", "c2", "c3"].map(str::to_owned);
        testing::parse(Kind::Source, lines, |cx| read(&mut cx.below("selector."), &channels))
    }
    fn batch(events: usize) -> EventBatch {
        let mut builder = BatchBuilder::new(Separator::Newline);
        (0..events).for_each(|i| builder.push(i.to_string().as_bytes()));
        builder.finish()
    }

    #[test]
    fn round_robin_goes_on_where_it_stopped() {
        let mut selector = config("").0.unwrap().selector(|| unreachable!());
        let counts = |routes: &Routes| {
            let mut counts = [0; 3];
            routes.required.iter().for_each(|(c, b)| counts[*c] += b.len());
            counts
        };
        assert_eq!(counts(&selector.select(batch(1))), [1, 0, 0]);
        assert_eq!(counts(&selector.select(batch(1))), [0, 1, 0]);
        assert_eq!(counts(&selector.select(batch(7))), [2, 2, 3], "third, first, second, …");
        assert_eq!(counts(&selector.select(batch(1))), [1, 0, 0]);
    }

    #[test]
    fn random_loses_and_invents_nothing() {
        let state = std::cell::Cell::new(7u64);
        let random = move || {
            state.set(state.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            state.get() >> 33
        };
        let mut selector = config("selector.policy = RANDOM").0.unwrap().selector(random);
        let mut with_mark = batch(1000);
        with_mark.set_mark(mark("9"));
        let routes = selector.select(with_mark);
        let mut bodies: Vec<Vec<u8>> =
            routes.required.iter().flat_map(|(_, b)| b.bodies().map(<[u8]>::to_vec)).collect();
        bodies.sort_by_key(|b| String::from_utf8_lossy(b).parse::<u32>().unwrap());
        assert_eq!(bodies, batch(1000).bodies().map(<[u8]>::to_vec).collect::<Vec<_>>());
        assert!(routes.required.iter().all(|(_, b)| b.len() > 200 && b.marks().len() == 1));
    }

    #[test]
    fn the_policy_is_checked() {
        for text in ["round_robin", "Round_Robin", "random"] {
            assert!(config(&format!("selector.policy = {text}")).0.is_some());
        }
        let (config, complaints) = config("selector.policy = roundrobin");
        assert!(config.is_none());
        assert!(complaints[0].contains("selector.policy = \"roundrobin\": not a policy"), "{complaints:?}");
    }
}
