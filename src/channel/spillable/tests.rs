use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::component::Shard;
use crate::config::Kind;
use crate::event::{BatchBuilder, Separator};
use crate::io::sim::{Outcome, StopKind, World};
use crate::io::{EngineKind, run_local};
use crate::testing;

fn config(directory: &Path, lines: &str) -> Arc<SpillableConfig> {
    let text = format!(
        "checkpointDir = {0}/checkpoint\ndataDirs = {0}/data\noverflowTimeout = 0\nminimumRequiredSpace = 1048576\n{lines}",
        directory.display()
    );
    let (config, complaints) = testing::parse(Kind::Channel, &text, parse_config);
    assert_eq!(complaints, [""; 0]);
    Arc::new(config.unwrap())
}

async fn open(io: &Io, directory: &Path, lines: &str) -> Rc<SpillableChannel> {
    SpillableChannel::open(config(directory, lines), testing::channel_context(io)).await.unwrap()
}

fn on_disk(test: impl AsyncFnOnce(Io, &Path)) {
    let directory = tempfile::tempdir().unwrap();
    run_local(EngineKind::Portable, |io| async {
        tokio::time::timeout(Duration::from_secs(60), test(io, directory.path()))
            .await
            .expect("takes too long");
    })
    .unwrap();
}

fn numbered(from: u64, to: u64) -> EventBatch {
    let mut builder = BatchBuilder::new(Separator::Newline);
    (from..to).for_each(|i| builder.push(i.to_string().as_bytes()));
    builder.finish()
}
fn numbers(batch: &EventBatch) -> Vec<u64> {
    batch.bodies().map(|b| std::str::from_utf8(b).unwrap().parse().unwrap()).collect()
}
async fn put(channel: &SpillableChannel, from: u64, to: u64) -> Result<(), ChannelError> {
    let mut transaction = channel.begin_put()?;
    transaction.put(numbered(from, to)).await?;
    transaction.commit().await
}
/// A take of exactly so many events, in as many steps as it needs.
async fn take(channel: &SpillableChannel, events: usize) -> (Box<dyn TakeTransaction>, Vec<u64>) {
    let mut transaction = channel.begin_take().unwrap();
    let mut all = Vec::new();
    while all.len() < events {
        let batch = transaction.take(events - all.len()).await.unwrap();
        assert!(!batch.is_empty(), "only {all:?}");
        all.extend(numbers(&batch));
    }
    (transaction, all)
}
async fn rest(channel: &SpillableChannel) -> Vec<u64> {
    testing::drain_bodies(channel).await.iter().map(|b| b.parse().unwrap()).collect()
}
/// Events in memory and on disk.
fn split(channel: &SpillableChannel) -> (u64, u64) {
    let memory = channel.0.queue.borrow().iter().map(|run| run.batch.len() as u64).sum();
    (memory, channel.0.log.as_ref().map_or(0, |log| log.waiting()))
}

#[test]
fn settings() {
    let valid = [
        ("", 100_010_000, 10_000),
        ("memoryCapacity = 0", 100_000_000, 10_000),
        ("overflowCapacity = 0\nmemoryCapacity = 5", 5, 10_000),
        ("memoryCapacity = 10\noverflowCapacity = 20\ntransactionCapacity = 20", 30, 20),
    ];
    for (lines, capacity, transaction_capacity) in valid {
        let (config, complaints) = testing::parse(Kind::Channel, lines, parse_config);
        assert_eq!(complaints, [""; 0], "{lines}");
        let config = config.unwrap();
        assert_eq!((config.capacity(), config.transaction_capacity()), (capacity, transaction_capacity));
    }
    let invalid = [
        ("memoryCapacity = 0\noverflowCapacity = 0", "both 0"),
        ("memoryCapacity = -1", "memoryCapacity"),
        ("overflowCapacity = x", "overflowCapacity"),
        ("overflowCapacity = 10\ntransactionCapacity = 11", "set a1.channels.x1.overflowCapacity = 11"),
        ("avgEventSize = 0", "avgEventSize"),
        ("byteCapacityBufferPercentage = 101", "byteCapacityBufferPercentage"),
        ("overflowDeactivationThreshold = five", "overflowDeactivationThreshold"),
        ("useDualCheckpoints = true", "useDualCheckpoints"),
    ];
    for (lines, complaint) in invalid {
        let (config, complaints) = testing::parse(Kind::Channel, lines, parse_config);
        assert!(config.is_none(), "{lines}");
        assert!(complaints.iter().any(|c| c.contains(complaint)), "{lines}: {complaints:?}");
    }
}

#[test]
fn the_order_is_kept_across_memory_and_overflow() {
    on_disk(async |io, directory| {
        let lines = "memoryCapacity = 10\noverflowCapacity = 100\ntransactionCapacity = 100";
        let channel = open(&io, directory, lines).await;
        put(&channel, 0, 8).await.unwrap();
        put(&channel, 8, 12).await.unwrap();
        assert_eq!(split(&channel), (8, 4));
        // There is room for two more in memory, behind what is on disk.
        put(&channel, 12, 14).await.unwrap();
        put(&channel, 14, 20).await.unwrap();
        assert_eq!(split(&channel), (10, 10));
        // Two sinks, both fail, the later one first and then the other way round.
        for is_swapped in [false, true] {
            let (first, a) = take(&channel, 10).await;
            let (second, b) = take(&channel, 10).await;
            assert_eq!((a, b), ((0..10).collect(), (10..20).collect()));
            let (x, y) = if is_swapped { (second, first) } else { (first, second) };
            drop(x);
            drop(y);
        }
        let (transaction, _) = take(&channel, 3).await;
        let (abandoned, numbers) = take(&channel, 12).await;
        assert_eq!(numbers, (3..15).collect::<Vec<_>>());
        drop(abandoned);
        transaction.commit().await.unwrap();
        assert_eq!(rest(&channel).await, (3..20).collect::<Vec<_>>());
        let counters = &channel.0.counters;
        assert_eq!((counters.channel_size.value(), counters.channel_capacity.value()), (0, 110));
        assert_eq!((counters.event_put_success.value(), counters.event_take_success.value()), (20, 20));
        assert_eq!(counters.event_put_attempt.value(), 20);
        assert_eq!((channel.0.config.memory.used(), channel.0.config.slots.used()), (0, 0));
        assert!(counters.extras.snapshot().iter().any(|(info, value)| info.key == "Open" && *value == 1));
        channel.close().await;
    });
}

#[test]
fn a_transaction_goes_wholly_to_one_of_them() {
    on_disk(async |io, directory| {
        let channel = open(&io, directory, "memoryCapacity = 10").await;
        let mut transaction = channel.begin_put().unwrap();
        for from in [0, 4, 8] {
            transaction.put(numbered(from, from + 4)).await.unwrap();
        }
        // Nothing is visible, and the room in memory is given back.
        assert_eq!((split(&channel), channel.0.config.memory.used()), ((0, 0), 0));
        transaction.commit().await.unwrap();
        assert_eq!(split(&channel), (0, 12));
        let mut abandoned = channel.begin_put().unwrap();
        abandoned.put(numbered(0, 9)).await.unwrap();
        drop(abandoned);
        assert_eq!(channel.0.config.memory.used(), 0);
        assert_eq!(rest(&channel).await, (0..12).collect::<Vec<_>>());
        channel.close().await;
    });
}

#[test]
fn memory_is_waited_for_until_it_overflows_and_again_when_it_is_drained() {
    on_disk(async |io, directory| {
        let lines = "memoryCapacity = 100\noverflowDeactivationThreshold = 5";
        let channel = open(&io, directory, lines).await;
        let is_overflowing = || channel.0.config.is_overflowing.load(Ordering::Relaxed);
        put(&channel, 0, 100).await.unwrap();
        assert!(!is_overflowing());
        put(&channel, 100, 101).await.unwrap();
        assert!(is_overflowing());
        take(&channel, 4).await.0.commit().await.unwrap();
        assert!(is_overflowing(), "4 % are free");
        take(&channel, 1).await.0.commit().await.unwrap();
        assert!(!is_overflowing(), "5 % are free");
        channel.close().await;
    });
}

#[test]
fn bodies_have_a_limit_in_memory() {
    on_disk(async |io, directory| {
        // 1000 bytes less 20 % are 8 units of 100.
        let lines = "byteCapacity = 1000\navgEventSize = 100\nmemoryCapacity = 1000";
        let channel = open(&io, directory, lines).await;
        for (body, place) in [(101, (1, 0)), (600, (2, 0)), (1, (2, 1))] {
            testing::put(&*channel, &[], &["x".repeat(body).as_str()]).await;
            assert_eq!(split(&channel), place, "{body}");
        }
        assert_eq!(channel.0.config.memory.used(), 2);
        channel.close().await;
    });
}

#[test]
fn a_full_channel_says_what_to_do() {
    on_disk(async |io, directory| {
        let channel = open(&io, directory, "memoryCapacity = 10\noverflowCapacity = 0").await;
        put(&channel, 0, 10).await.unwrap();
        let error = put(&channel, 10, 11).await.unwrap_err();
        assert!(
            matches!(&error, ChannelError::Full(text) if text.contains("Consider increasing memoryCapacity"))
        );
        assert!(!directory.join("data").exists(), "no file is touched");
        channel.close().await;

        let lines = "memoryCapacity = 10\noverflowCapacity = 10\ntransactionCapacity = 10";
        let channel = open(&io, directory, lines).await;
        put(&channel, 0, 10).await.unwrap();
        put(&channel, 10, 20).await.unwrap();
        assert!(matches!(put(&channel, 20, 21).await, Err(ChannelError::Full(_))));
        let error = put(&channel, 0, 11).await.unwrap_err();
        assert!(matches!(&error, ChannelError::TooLarge(text) if text.contains("11 events")), "{error}");
        let (mut transaction, _) = take(&channel, 10).await;
        assert!(matches!(transaction.take(1).await, Err(ChannelError::TooLarge(_))));
        drop(transaction);
        assert_eq!(rest(&channel).await, (0..20).collect::<Vec<_>>());
        channel.close().await;
    });
}

#[test]
fn a_stop_saves_what_waits_in_memory() {
    on_disk(async |io, directory| {
        let lines = "memoryCapacity = 10\ntransactionCapacity = 3";
        let channel = open(&io, directory, lines).await;
        for from in (0..9).step_by(3) {
            put(&channel, from, from + 3).await.unwrap();
        }
        assert_eq!(split(&channel), (9, 0));
        channel.close().await;
        let channel = open(&io, directory, lines).await;
        assert_eq!((split(&channel), channel.0.counters.channel_size.value()), ((0, 9), 9));
        put(&channel, 9, 12).await.unwrap();
        assert_eq!(split(&channel), (3, 9));
        assert_eq!(rest(&channel).await, (0..12).collect::<Vec<_>>());
        channel.close().await;
    });
}

#[test]
fn marks_are_kept_only_with_the_disk_alone() {
    on_disk(async |io, directory| {
        for (memory, kept) in [(10, 0), (0, 1)] {
            let channel = open(&io, directory, &format!("memoryCapacity = {memory}")).await;
            let mut batch = numbered(0, 20);
            batch.set_mark(SourceMark { source: "r1".into(), key: "k".into(), value: "v".into() });
            let mut transaction = channel.begin_put().unwrap();
            transaction.put(batch).await.unwrap();
            transaction.commit().await.unwrap();
            assert_eq!((split(&channel).0, channel.marks("r1").len()), (0, kept));
            assert_eq!(channel.is_durable(), kept == 1);
            assert_eq!(rest(&channel).await.len(), 20);
            channel.close().await;
        }
    });
}

#[derive(Clone, Debug)]
enum Step {
    Put(u64),
    PutAndRollback(u64),
    Take(usize),
    Commit(usize),
    Rollback(usize),
    Stop,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..16u64).prop_map(Step::Put),
        1 => (1..16u64).prop_map(Step::PutAndRollback),
        8 => (1..24usize).prop_map(Step::Take),
        4 => any::<usize>().prop_map(Step::Commit),
        4 => any::<usize>().prop_map(Step::Rollback),
        1 => Just(Step::Stop),
        1 => Just(Step::Kill),
    ]
}

/// Events put and not delivered, in the order they must come.
#[derive(Default)]
struct Model {
    waiting: Vec<u64>,
    next: u64,
}

/// Runs the steps up to the next kill; gives the number of steps done.
async fn live(io: Io, steps: &[Step], model: &RefCell<Model>, stop: impl Fn()) -> usize {
    let open = async || {
        let lines = "memoryCapacity = 20\noverflowCapacity = 10000\nmaxFileSize = 524288";
        let shard = Shard { index: 0, count: 1 };
        let cx = ChannelContext { shard, ..testing::channel_context(&io) };
        SpillableChannel::open(config(Path::new(""), lines), cx).await.unwrap()
    };
    let peek = async |channel: &SpillableChannel| {
        let mut transaction = channel.begin_take().unwrap();
        let mut all = Vec::new();
        loop {
            let batch = transaction.take(10_000 - all.len()).await.unwrap();
            if batch.is_empty() {
                return all;
            }
            all.extend(numbers(&batch));
        }
    };
    let mut channel = open().await;
    // Of what was in memory nothing is left, the rest is there in its order.
    let found = peek(&channel).await;
    {
        let before: BTreeSet<u64> = model.borrow().waiting.iter().copied().collect();
        assert!(found.iter().all(|number| before.contains(number)), "{found:?} of {before:?}");
        assert!(before.len() - found.len() <= 20, "more than the memory is lost");
        model.borrow_mut().waiting = found;
    }
    let mut takes: Vec<(Box<dyn TakeTransaction>, Vec<u64>)> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        match *step {
            Step::Put(events) => {
                let from = model.borrow().next;
                put(&channel, from, from + events).await.unwrap();
                let model = &mut *model.borrow_mut();
                model.waiting.extend(from..from + events);
                model.next += events;
            }
            Step::PutAndRollback(events) => {
                channel.begin_put().unwrap().put(numbered(0, events)).await.unwrap();
            }
            Step::Take(events) => {
                let mut transaction = channel.begin_take().unwrap();
                let taken = numbers(&transaction.take(events).await.unwrap());
                let free: Vec<u64> = {
                    let model = model.borrow();
                    let held = |n: &u64| takes.iter().any(|(_, numbers)| numbers.contains(n));
                    model.waiting.iter().copied().filter(|n| !held(n)).collect()
                };
                assert!(taken.len() <= events);
                assert_eq!(taken, free[..taken.len()]);
                assert_eq!(taken.is_empty(), free.is_empty());
                takes.push((transaction, taken));
            }
            Step::Commit(which) if !takes.is_empty() => {
                let (transaction, taken) = takes.remove(which % takes.len());
                transaction.commit().await.unwrap();
                model.borrow_mut().waiting.retain(|number| !taken.contains(number));
            }
            Step::Rollback(which) if !takes.is_empty() => drop(takes.remove(which % takes.len())),
            Step::Commit(_) | Step::Rollback(_) => {}
            Step::Stop => {
                takes.clear();
                channel.close().await;
                drop(channel);
                channel = open().await;
                // What was in memory now stands behind what was on disk.
                let found = peek(&channel).await;
                let mut sorted = found.clone();
                sorted.sort_unstable();
                let mut expected = model.borrow().waiting.clone();
                expected.sort_unstable();
                assert_eq!(sorted, expected, "an orderly stop loses nothing");
                model.borrow_mut().waiting = found;
            }
            Step::Kill => {
                stop();
                io.sleep(Duration::from_millis(1)).await;
                return index + 1;
            }
        }
        let size = channel.0.counters.channel_size.value();
        assert_eq!(size, model.borrow().waiting.len() as u64);
    }
    takes.clear();
    channel.close().await;
    steps.len()
}

fn run(steps: &[Step], seed: u64) {
    let world = World::new(seed);
    let model = RefCell::new(Model::default());
    let kills = steps.iter().enumerate().filter(|(_, s)| matches!(s, Step::Kill)).map(|(i, _)| i + 1);
    let mut kills = kills.collect::<Vec<_>>().into_iter();
    let mut done = 0;
    while done < steps.len() {
        let button = world.stop_button();
        let outcome = world.run(|io| live(io, &steps[done..], &model, move || button.press(StopKind::Kill)));
        done = match outcome {
            Outcome::Finished(_) => steps.len(),
            _ => kills.next().unwrap_or(steps.len()),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn a_spillable_channel_is_a_queue(steps in prop::collection::vec(step(), 1..50), seed in any::<u64>()) {
        run(&steps, seed);
    }
}
