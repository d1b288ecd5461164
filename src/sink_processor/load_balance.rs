//! `load_balance` sink processor: the sinks of a group take turns.
//!
//! Flume: `org.apache.flume.sink.LoadBalancingSinkProcessor` with its round-robin and random selectors.
//! When a sink fails the next one is tried in the same call. With `backoff` a failed sink is left out for
//! 2 s, then 4 s … up to `selector.maxTimeOut`; a success in between does not reset that, an hour does.

use std::sync::Arc;
use std::time::Duration;

use super::{NamedSink, ProcessorConfig, ProcessorEntry, SinkProcessor, all_failed};
use crate::config::{Millis, ParseContext, Property, PropertySpec, PropertyValue};
use crate::io::{Io, LocalBoxFuture};
use crate::sink::{DeliveryError, Status};

const BACKOFF: Property<bool> =
    Property::optional("backoff", "false", "Leave a failed sink out for a while, longer each time.");
const SELECTOR: Property<Order> = Property::optional(
    "selector",
    "round_robin",
    "Who is next: `round_robin`, or `random` (all sinks in random order at each call).",
);
const MAX_TIME_OUT: Property<Millis> = Property::optional(
    "selector.maxTimeOut",
    "30000",
    "Longest time a failed sink is left out; only with `backoff = true`.",
);

/// Row of the registry.
pub const ENTRY: ProcessorEntry = ProcessorEntry {
    name: "load_balance",
    class: "org.apache.flume.sink.LoadBalancingSinkProcessor",
    summary: "The sinks of the group take turns, in order or at random.",
    properties: PROPERTIES,
    parse,
};

/// Every property the load-balancing processor reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&BACKOFF, &SELECTOR, &MAX_TIME_OUT];

/// Flume: `OrderSelector.EXP_BACKOFF_COUNTER_LIMIT`.
const FAILURES_MAX: u32 = 16;
/// Flume: `OrderSelector.CONSIDER_SEQUENTIAL_RANGE`: failures this far apart still count as consecutive.
const CONSECUTIVE_RANGE: Duration = Duration::from_secs(3600);
/// The first time-out is two of these, as in Flume.
const TIME_OUT_UNIT: Duration = Duration::from_millis(1000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    RoundRobin,
    Random,
}

impl PropertyValue for Order {
    const KIND: &'static str = "round_robin or random";
    const EXAMPLE: &'static str = "round_robin";
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "round_robin" => Ok(Self::RoundRobin),
            "random" => Ok(Self::Random),
            _ if text.contains('.') => {
                Err("selectors of your own are Java classes and cannot run here; use round_robin or random"
                    .to_owned())
            }
            _ => Err("not a selector; use round_robin or random".to_owned()),
        }
    }
}

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>, sinks: &[String]) -> Option<Arc<dyn ProcessorConfig>> {
    Some(Arc::new(read(cx, sinks)?))
}

fn read(cx: &mut ParseContext<'_>, sinks: &[String]) -> Option<Config> {
    let (backoff, order, longest) = (cx.get(&BACKOFF), cx.get(&SELECTOR), cx.get(&MAX_TIME_OUT));
    if sinks.len() < 2 {
        let message = format!("load balancing needs more than one sink, this group has {}", sinks.len());
        let hint = format!("use: {} = default, or list more sinks", cx.full_key("type"));
        cx.error("type", message, Some(hint));
        return None;
    }
    Some(Config { order: order?, time_out_max: backoff?.then_some(longest?.0) })
}

#[derive(Debug)]
struct Config {
    order: Order,
    /// `None` without back-off.
    time_out_max: Option<Duration>,
}

impl ProcessorConfig for Config {
    fn build(&self, io: Io, sinks: Vec<NamedSink>) -> Box<dyn SinkProcessor> {
        let random = io.clone();
        Box::new(self.processor(sinks, move || io.now(), move || random.random()))
    }
}

impl Config {
    fn processor<N: Fn() -> Duration, R: Fn() -> u64>(
        &self,
        sinks: Vec<NamedSink>,
        now: N,
        random: R,
    ) -> LoadBalance<N, R> {
        LoadBalance {
            failures: vec![None; sinks.len()],
            turn: Vec::with_capacity(sinks.len()),
            sinks,
            order: self.order,
            time_out_max: self.time_out_max,
            next: 0,
            now,
            random,
        }
    }
}

/// A sink's latest failure.
#[derive(Clone, Copy, Debug)]
struct Failure {
    consecutive: u32,
    at: Duration,
    restored: Duration,
}

struct LoadBalance<N, R> {
    sinks: Vec<NamedSink>,
    order: Order,
    time_out_max: Option<Duration>,
    failures: Vec<Option<Failure>>,
    /// Sinks of the current call in the order they are asked; kept to allocate nothing.
    turn: Vec<usize>,
    /// Who begins next, among those not left out.
    next: usize,
    now: N,
    random: R,
}

impl<N: Fn() -> Duration, R: Fn() -> u64> LoadBalance<N, R> {
    fn take_turns(&mut self) {
        let now = (self.now)();
        let failures = &self.failures;
        self.turn.clear();
        self.turn.extend((0..self.sinks.len()).filter(|&s| failures[s].is_none_or(|f| f.restored < now)));
        let active = self.turn.len();
        match self.order {
            Order::RoundRobin if active > 0 => {
                let first = if self.next >= active { 0 } else { self.next };
                self.next = (first + 1) % active;
                self.turn.rotate_left(first);
            }
            Order::RoundRobin => {}
            Order::Random => {
                for last in (1..active).rev() {
                    self.turn.swap(last, ((self.random)() % (last as u64 + 1)) as usize);
                }
            }
        }
    }

    fn note_failure(&mut self, sink: usize) {
        let Some(longest) = self.time_out_max else { return };
        let now = (self.now)();
        let time_out = |failures: u32| TIME_OUT_UNIT.saturating_mul(1 << failures).min(longest);
        let consecutive = match self.failures[sink] {
            Some(last) if now - last.at < time_out(last.consecutive) + CONSECUTIVE_RANGE => {
                (last.consecutive + 1).min(FAILURES_MAX)
            }
            _ => 1,
        };
        self.failures[sink] = Some(Failure { consecutive, at: now, restored: now + time_out(consecutive) });
    }
}

impl<N: Fn() -> Duration, R: Fn() -> u64> SinkProcessor for LoadBalance<N, R> {
    fn process(&mut self) -> LocalBoxFuture<'_, Result<Status, DeliveryError>> {
        Box::pin(async move {
            self.take_turns();
            let mut errors: Vec<Option<DeliveryError>> = self.sinks.iter().map(|_| None).collect();
            for position in 0..self.turn.len() {
                let sink = self.turn[position];
                match self.sinks[sink].sink.process().await {
                    Ok(status) => return Ok(status),
                    Err(error) => {
                        tracing::warn!(sink = %self.sinks[sink].name, %error, "sink failed; the next one is tried if there is one");
                        self.note_failure(sink);
                        errors[sink] = Some(error);
                    }
                }
            }
            Err(all_failed("All configured sinks have failed", &self.sinks, errors))
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

    use super::super::tests::Answer::{Backoff, Empty, Fail, Ready};
    use super::super::tests::{Answer, Script, block_on, scripted};
    use super::*;
    use crate::config::Kind;
    use crate::testing;

    fn config(lines: &str, sinks: &[&str]) -> (Option<Config>, Vec<String>) {
        let sinks: Vec<String> = sinks.iter().map(|s| (*s).to_owned()).collect();
        testing::parse(Kind::SinkGroup, lines, |cx| read(&mut cx.below("processor."), &sinks))
    }

    struct Group {
        processor: Box<dyn SinkProcessor>,
        script: Script,
        clock: Rc<Cell<u64>>,
    }
    impl Group {
        fn new(order: Order, time_out_max_ms: Option<u64>) -> Self {
            let (sinks, script) = scripted(3);
            let clock = Rc::new(Cell::new(0));
            let now = Rc::clone(&clock);
            let config = Config { order, time_out_max: time_out_max_ms.map(Duration::from_millis) };
            let seed = Cell::new(1u64);
            let random = move || {
                seed.set(
                    seed.get()
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407),
                );
                seed.get() >> 33
            };
            let processor = config.processor(sinks, move || Duration::from_millis(now.get()), random);
            Self { processor: Box::new(processor), script, clock }
        }
        fn step(&mut self, milliseconds: u64, answers: [Answer; 3]) -> Vec<usize> {
            self.clock.set(self.clock.get() + milliseconds);
            self.script.answers(&answers);
            let _ = block_on(self.processor.process());
            self.script.asked()
        }
    }

    #[test]
    fn round_robin_starts_one_further_each_call() {
        let mut group = Group::new(Order::RoundRobin, None);
        let turns: Vec<_> = (0..4).map(|_| group.step(0, [Ready; 3])[0]).collect();
        assert_eq!(turns, [0, 1, 2, 0]);
        assert_eq!(group.step(0, [Ready, Fail, Ready]), [1, 2], "and goes on through the others");
        assert_eq!(group.step(0, [Ready, Fail, Ready]), [2]);
        assert_eq!(group.step(0, [Empty, Ready, Ready]), [0], "nothing to do counts as success");
        assert_eq!(group.step(0, [Ready, Backoff, Ready]), [1], "and so does back-off");
    }

    #[test]
    fn without_back_off_a_failed_sink_is_asked_again_at_once() {
        let mut group = Group::new(Order::RoundRobin, None);
        assert_eq!(group.step(0, [Fail; 3]), [0, 1, 2]);
        assert_eq!(group.step(0, [Fail; 3]), [1, 2, 0]);
        assert_eq!(
            block_on(group.processor.process()).unwrap_err().to_string(),
            "All configured sinks have failed (k1: broken, k2: broken, k3: broken)"
        );
    }

    #[test]
    fn with_back_off_a_failed_sink_is_left_out() {
        let mut group = Group::new(Order::RoundRobin, Some(5000));
        assert_eq!(group.step(0, [Fail, Ready, Ready]), [0, 1]);
        assert_eq!(group.step(2000, [Ready; 3]), [2], "two are left; the second of them begins");
        assert_eq!(group.step(1, [Fail, Ready, Ready]), [0, 1], "after 2 s it is back");
        let mut calls = 0;
        while group.step(1000, [Ready; 3]) != [0] {
            calls += 1;
            assert!(calls < 20);
        }
        assert!(calls >= 4, "then left out for 4 s");
    }

    #[test]
    fn all_left_out_is_a_failure() {
        let mut group = Group::new(Order::Random, Some(30_000));
        let mut asked = group.step(0, [Fail; 3]);
        asked.sort_unstable();
        assert_eq!(asked, [0, 1, 2]);
        assert_eq!(group.step(1, [Ready; 3]), Vec::<usize>::new());
        assert!(block_on(group.processor.process()).is_err());
        assert_eq!(group.step(2001, [Ready; 3]).len(), 1);
    }

    #[test]
    fn random_asks_each_sometimes() {
        let mut group = Group::new(Order::Random, None);
        let mut counts = [0; 3];
        (0..300).for_each(|_| counts[group.step(0, [Ready; 3])[0]] += 1);
        assert!(counts.iter().all(|count| *count > 60), "{counts:?}");
    }

    #[test]
    fn time_outs_double_up_to_the_limit_and_are_forgotten_after_an_hour() {
        let (sinks, _) = scripted(2);
        let clock = Rc::new(Cell::new(Duration::ZERO));
        let now = Rc::clone(&clock);
        let config = Config { order: Order::RoundRobin, time_out_max: Some(Duration::from_secs(30)) };
        let mut processor = config.processor(sinks, move || now.get(), || 0);
        let mut lengths = Vec::new();
        for _ in 0..20 {
            processor.note_failure(0);
            let restored = processor.failures[0].unwrap().restored;
            lengths.push((restored - clock.get()).as_secs());
            clock.set(restored);
        }
        assert_eq!(lengths[..6], [2, 4, 8, 16, 30, 30]);
        clock.set(clock.get() + Duration::from_secs(3601));
        processor.note_failure(0);
        assert_eq!(processor.failures[0].unwrap().consecutive, 1);
    }

    #[test]
    fn properties_are_checked() {
        let table = [
            ("", true),
            (
                "processor.backoff = true\nprocessor.selector = RANDOM\nprocessor.selector.maxTimeOut = 10000",
                true,
            ),
            ("processor.selector = com.example.Mine", false),
            ("processor.selector = roundrobin", false),
            ("processor.selector.maxTimeOut = 10s", false),
        ];
        for (lines, valid) in table {
            let (config, complaints) = config(lines, &["k1", "k2"]);
            assert_eq!(config.is_some(), valid, "{lines}: {complaints:?}");
            assert_eq!(complaints.is_empty(), valid);
        }
        assert_eq!(config("processor.type = load_balance", &["k1"]).1.len(), 1);
        let config = config("processor.selector.maxTimeOut = 10", &["k1", "k2"]).0.unwrap();
        assert_eq!(config.time_out_max, None, "unused without back-off");
    }
}
