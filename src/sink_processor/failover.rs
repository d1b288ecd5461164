//! `failover` sink processor: the live sink of highest priority delivers; one that fails rests.
//!
//! Flume: `org.apache.flume.sink.FailoverSinkProcessor`. A failing sink rests 2 s, then 4 s, 8 s … up to
//! `maxpenalty`; when its rest is over it is tried before the live ones and comes back with its first
//! delivered batch. A sink that *returns* back-off has not failed and is not passed over.

use std::sync::Arc;
use std::time::Duration;

use super::{NamedSink, ProcessorConfig, ProcessorEntry, SinkProcessor, all_failed};
use crate::config::{Millis, ParseContext, Property, PropertySpec};
use crate::io::{Io, LocalBoxFuture};
use crate::sink::{DeliveryError, Status};

const PRIORITY: Property<i32> = Property::family(
    "priority.",
    "`priority.<sink>`: the live sink with the highest number delivers. A sink without one comes after all that have one \
     above -1, in the order of the group's `sinks`. Of two sinks with the same number the one listed first goes first (Flume never \
     uses the other).",
);
const MAX_PENALTY: Property<Millis> = Property::optional(
    "maxpenalty",
    "30000",
    "Longest rest of a failed sink before it is tried again; the rest doubles with each failure, from 2000.",
);

/// Row of the registry.
pub const ENTRY: ProcessorEntry = ProcessorEntry {
    name: "failover",
    class: "org.apache.flume.sink.FailoverSinkProcessor",
    summary: "The working sink of highest priority delivers; the others wait for it to fail.",
    properties: PROPERTIES,
    parse,
};

/// Every property the failover processor reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&PRIORITY, &MAX_PENALTY];

/// The first rest is two of these, as in Flume.
const PENALTY_UNIT: Duration = Duration::from_millis(1000);

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>, sinks: &[String]) -> Option<Arc<dyn ProcessorConfig>> {
    Some(Arc::new(read(cx, sinks)?))
}

fn read(cx: &mut ParseContext<'_>, sinks: &[String]) -> Option<Config> {
    let max_penalty = cx.get(&MAX_PENALTY);
    let written = cx.family(&PRIORITY);
    for (name, _) in &written {
        if !sinks.contains(name) {
            let hint = format!("the group's sinks are {}", sinks.join(" "));
            cx.warning(&format!("priority.{name}"), format!("the group has no sink {name:?}"), Some(hint));
        }
    }
    let mut absent = 0;
    let mut priorities: Vec<i32> = Vec::with_capacity(sinks.len());
    for name in sinks {
        let priority = written.iter().find(|(n, _)| n == name).map_or_else(
            || {
                absent -= 1;
                absent
            },
            |(_, priority)| *priority,
        );
        if let Some(other) = priorities.iter().position(|p| *p == priority) {
            let message = format!("{} has the same priority; the one listed first goes first", sinks[other]);
            cx.warning(
                &format!("priority.{name}"),
                message,
                Some("give each sink of the group its own number".to_owned()),
            );
        }
        priorities.push(priority);
    }
    // Stable: equal numbers keep the order of the list.
    let mut order: Vec<usize> = (0..sinks.len()).collect();
    order.sort_by_key(|&sink| std::cmp::Reverse(priorities[sink]));
    Some(Config { order, max_penalty: max_penalty?.0 })
}

#[derive(Debug)]
struct Config {
    /// Sinks from the highest priority to the lowest.
    order: Vec<usize>,
    max_penalty: Duration,
}

impl ProcessorConfig for Config {
    fn build(&self, io: Io, sinks: Vec<NamedSink>) -> Box<dyn SinkProcessor> {
        Box::new(self.processor(sinks, move || io.now()))
    }
}

impl Config {
    fn processor<N: Fn() -> Duration>(&self, sinks: Vec<NamedSink>, now: N) -> Failover<N> {
        let resting = vec![None; sinks.len()];
        Failover { sinks, order: self.order.clone(), resting, max_penalty: self.max_penalty, now }
    }
}

/// A failed sink's rest.
#[derive(Clone, Copy, Debug)]
struct Rest {
    failures: u32,
    until: Duration,
}

struct Failover<N> {
    sinks: Vec<NamedSink>,
    order: Vec<usize>,
    resting: Vec<Option<Rest>>,
    max_penalty: Duration,
    now: N,
}

impl<N: Fn() -> Duration> Failover<N> {
    fn rest(&mut self, sink: usize) {
        let failures = self.resting[sink].map_or(1, |rest| rest.failures.saturating_add(1));
        // Flume shifts an int, which wraps at the 31st failure; this one stays at the limit.
        let penalty = PENALTY_UNIT.saturating_mul(1 << failures.min(30)).min(self.max_penalty);
        self.resting[sink] = Some(Rest { failures, until: (self.now)() + penalty });
    }

    /// The failed sink whose rest ended first, if one's has.
    fn rested(&self, now: Duration) -> Option<usize> {
        let due = |sink: &usize| self.resting[*sink].filter(|rest| rest.until < now).map(|rest| rest.until);
        (0..self.sinks.len()).filter(|sink| due(sink).is_some()).min_by_key(|sink| due(sink))
    }
}

impl<N: Fn() -> Duration> SinkProcessor for Failover<N> {
    fn process(&mut self) -> LocalBoxFuture<'_, Result<Status, DeliveryError>> {
        Box::pin(async move {
            let mut errors: Vec<Option<DeliveryError>> = self.sinks.iter().map(|_| None).collect();
            let started = (self.now)();
            while let Some(sink) = self.rested(started) {
                match self.sinks[sink].sink.process().await {
                    Ok(status) => {
                        if status == Status::Ready {
                            tracing::info!(sink = %self.sinks[sink].name, "delivers again");
                            self.resting[sink] = None;
                        }
                        return Ok(status);
                    }
                    Err(error) => {
                        tracing::debug!(sink = %self.sinks[sink].name, %error, "still fails");
                        self.rest(sink);
                        errors[sink] = Some(error);
                    }
                }
            }
            for position in 0..self.order.len() {
                let sink = self.order[position];
                if self.resting[sink].is_some() {
                    continue;
                }
                match self.sinks[sink].sink.process().await {
                    Ok(status) => return Ok(status),
                    Err(error) => {
                        tracing::warn!(sink = %self.sinks[sink].name, %error, "sink failed; another takes over if there is one");
                        self.rest(sink);
                        errors[sink] = Some(error);
                    }
                }
            }
            Err(all_failed("All sinks failed to process, nothing left to failover to", &self.sinks, errors))
        })
    }
    fn sinks_mut(&mut self) -> &mut [NamedSink] {
        &mut self.sinks
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::super::tests::{Answer, Script, block_on, scripted};
    use super::*;
    use crate::config::Kind;
    use crate::testing;

    fn config(lines: &str) -> (Option<Arc<dyn ProcessorConfig>>, Vec<String>) {
        let sinks = ["k1", "k2", "k3"].map(str::to_owned);
        testing::parse(Kind::SinkGroup, lines, |cx| parse(&mut cx.below("processor."), &sinks))
    }

    struct Group {
        processor: Failover<Box<dyn Fn() -> Duration>>,
        script: Script,
        clock: Rc<Cell<u64>>,
    }
    impl Group {
        /// Three sinks, the last of highest priority.
        fn new(max_penalty_ms: u64) -> Self {
            let (sinks, script) = scripted(3);
            let clock = Rc::new(Cell::new(1_000_000));
            let now = Rc::clone(&clock);
            let config = Config { order: vec![2, 1, 0], max_penalty: Duration::from_millis(max_penalty_ms) };
            let now: Box<dyn Fn() -> Duration> = Box::new(move || Duration::from_millis(now.get()));
            Self { processor: config.processor(sinks, now), script, clock }
        }
        /// Lets the clock run, calls once; which sinks were asked.
        fn step(&mut self, milliseconds: u64, answers: [Answer; 3]) -> (Vec<usize>, Result<Status, String>) {
            self.clock.set(self.clock.get() + milliseconds);
            self.script.answers(&answers);
            let result = block_on(self.processor.process()).map_err(|e| e.to_string());
            (self.script.asked(), result)
        }
    }
    use Answer::{Backoff, Empty, Fail, Ready};

    #[test]
    fn the_highest_delivers_and_comes_back_after_its_rest() {
        let mut group = Group::new(10_000);
        assert_eq!(group.step(0, [Ready, Ready, Ready]), (vec![2], Ok(Status::Ready)));
        assert_eq!(
            group.step(0, [Ready, Ready, Fail]),
            (vec![2, 1], Ok(Status::Ready)),
            "at once, in one call"
        );
        assert_eq!(group.step(2000, [Ready, Ready, Ready]), (vec![1], Ok(Status::Ready)), "rests 2 s");
        assert_eq!(
            group.step(1, [Ready, Ready, Fail]),
            (vec![2, 1], Ok(Status::Ready)),
            "then is tried first"
        );
        assert_eq!(group.step(4000, [Ready, Ready, Ready]).0, [1], "and rests 4 s");
        assert_eq!(group.step(1, [Ready, Ready, Ready]), (vec![2], Ok(Status::Ready)));
        assert_eq!(group.step(0, [Ready, Ready, Ready]).0, [2], "is back");
        assert_eq!(group.step(0, [Ready, Ready, Fail]).0, [2, 1]);
        assert_eq!(group.step(2001, [Ready, Ready, Ready]).0, [2], "and its count began anew");
    }

    #[test]
    fn the_rest_is_bounded() {
        let mut group = Group::new(10_000);
        let mut rests = Vec::new();
        let _ = group.step(0, [Ready, Ready, Fail]);
        for _ in 0..40 {
            let mut waited = 0;
            while group.step(1000, [Ready, Ready, Fail]).0 == [1] {
                waited += 1;
            }
            rests.push(waited);
        }
        assert_eq!(rests[..4], [2, 4, 8, 10]);
        assert!(rests[4..].iter().all(|rest| *rest == 10), "{rests:?}");
    }

    #[test]
    fn a_rested_sink_with_nothing_to_do_stays_in_the_queue() {
        let mut group = Group::new(10_000);
        let _ = group.step(0, [Ready, Ready, Fail]);
        assert_eq!(group.step(2001, [Ready, Ready, Empty]), (vec![2], Ok(Status::Empty)));
        assert_eq!(
            group.step(0, [Ready, Ready, Backoff]),
            (vec![2], Ok(Status::Backoff)),
            "its time stays over"
        );
        assert_eq!(group.step(0, [Ready, Ready, Ready]), (vec![2], Ok(Status::Ready)));
    }

    #[test]
    fn back_off_is_not_failure() {
        let mut group = Group::new(10_000);
        assert_eq!(group.step(0, [Ready, Ready, Backoff]), (vec![2], Ok(Status::Backoff)));
        assert_eq!(group.step(0, [Ready, Ready, Backoff]), (vec![2], Ok(Status::Backoff)));
    }

    #[test]
    fn when_all_fail_every_reason_is_told() {
        let mut group = Group::new(10_000);
        let (asked, result) = group.step(0, [Fail, Fail, Fail]);
        assert_eq!(asked, [2, 1, 0]);
        assert_eq!(
            result,
            Err("All sinks failed to process, nothing left to failover to (k1: broken, k2: broken, k3: broken)"
                .to_owned())
        );
        let (asked, result) = group.step(1, [Fail, Fail, Fail]);
        assert!(asked.is_empty() && result.is_err(), "all rest");
    }

    #[test]
    fn priorities_are_checked() {
        let (config_, complaints) =
            config("processor.priority.k1 = 5\nprocessor.priority.k2 = 10\nprocessor.maxpenalty = 10000");
        assert!(config_.is_some() && complaints.is_empty(), "{complaints:?}");
        let (_, complaints) =
            config("processor.priority.k1 = 5\nprocessor.priority.k2 = 5\nprocessor.priority.k9 = 1");
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].contains("priority.k9 = \"1\": the group has no sink \"k9\""));
        assert!(complaints[1].contains("priority.k2 = \"5\": k1 has the same priority"));
        for bad in ["processor.priority.k1 = high", "processor.maxpenalty = 10s", "processor.maxpenalty = -1"]
        {
            let (_, complaints) = config(bad);
            assert!(complaints[0].starts_with("error"), "{bad}: {complaints:?}");
        }
    }

    #[test]
    fn sinks_without_priority_come_last_in_order() {
        let sinks = ["k1", "k2", "k3", "k4"].map(str::to_owned);
        let lines = "processor.priority.k3 = 0\nprocessor.priority.k4 = -5";
        let settings = testing::settings(Kind::SinkGroup, lines);
        let mut diagnostics = Vec::new();
        let mut cx = ParseContext::new(&settings, &mut diagnostics);
        let config = read(&mut cx.below("processor."), &sinks).unwrap();
        assert_eq!(config.order, [2, 0, 1, 3]);
    }
}
