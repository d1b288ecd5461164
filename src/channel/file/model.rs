//! The channel against a plain queue: random puts, takes, commits, rollbacks, crashes and reopens on the
//! simulated disk. Cases that once failed are kept in `proptest-regressions/`.

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::channel::TakeTransaction;
use crate::component::Shard;
use crate::config::Kind;
use crate::event::{BatchBuilder, EventBatch, Separator};
use crate::io::sim::{Outcome, StopKind, World};
use crate::testing;

#[derive(Clone, Debug)]
enum Step {
    /// Puts transactions of so many events of this size, each of so many batches.
    Put { batches: usize, events: usize, size: usize },
    /// Begins to put, and rolls back.
    PutAndRollback,
    /// Opens a take of up to so many events.
    Take { events: usize },
    /// Commits the open take at this place (modulo their number).
    Commit(usize),
    /// Rolls it back.
    Rollback(usize),
    /// Time passes.
    Wait { ms: u64 },
    /// Closes and opens again.
    Reopen,
    /// Stops in the middle of a put.
    Crash { power: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..3usize, 1..30usize, prop_oneof![4 => 0..200usize, 1 => 5_000..40_000usize])
            .prop_map(|(batches, events, size)| Step::Put { batches, events: events.min(1 + 150_000 / (size + 1)), size }),
        1 => Just(Step::PutAndRollback),
        6 => (1..80usize).prop_map(|events| Step::Take { events }),
        4 => any::<usize>().prop_map(Step::Commit),
        3 => any::<usize>().prop_map(Step::Rollback),
        1 => (0..2_500u64).prop_map(|ms| Step::Wait { ms }),
        1 => Just(Step::Reopen),
        2 => any::<bool>().prop_map(|power| Step::Crash { power }),
    ]
}

/// What must be in the channel.
#[derive(Default)]
struct Queue {
    /// Events put and not delivered, in order: their numbers rise.
    waiting: BTreeSet<u64>,
    /// Delivered ones; only a loss of power may bring them back.
    delivered: BTreeSet<u64>,
    /// Of a put in the middle of which the machine stopped: all or none.
    uncertain: BTreeSet<u64>,
    next: u64,
}

fn config() -> Arc<FileConfig> {
    let text = "checkpointDir = /checkpoint\ndataDirs = /data\nkeep-alive = 0\nmaxFileSize = 524288\ncheckpointInterval = 1000";
    let (config, complaints) = testing::parse(Kind::Channel, text, parse_config);
    assert_eq!(complaints, [""; 0]);
    Arc::new(config.unwrap())
}

async fn open(io: &Io) -> Rc<FileChannel> {
    let shard = Shard { index: 0, count: 1 };
    FileChannel::open(config(), ChannelContext { shard, ..testing::channel_context(io) }).await.unwrap()
}

fn batch(queue: &mut Queue, events: usize, size: usize) -> (EventBatch, Vec<u64>) {
    let mut builder = BatchBuilder::new(Separator::Newline);
    let mut numbers = Vec::new();
    for _ in 0..events {
        builder.push(format!("{:012}{}", queue.next, "z".repeat(size)).as_bytes());
        numbers.push(queue.next);
        queue.next += 1;
    }
    (builder.finish(), numbers)
}
fn numbers(batch: &EventBatch) -> Vec<u64> {
    batch.bodies().map(|b| std::str::from_utf8(&b[..12]).unwrap().parse().unwrap()).collect()
}

/// Everything in the channel, taken and rolled back.
async fn peek(channel: &FileChannel) -> Vec<u64> {
    let mut transaction = channel.begin_take().unwrap();
    let mut all = Vec::new();
    loop {
        let batch = transaction.take(10_000 - all.len()).await.unwrap();
        if batch.is_empty() {
            return all;
        }
        all.extend(numbers(&batch));
    }
}

/// After an opening: holds the channel against the queue, and goes on from what is there.
async fn check_opened(channel: &FileChannel, queue: &RefCell<Queue>, power_lost: bool) {
    let found = peek(channel).await;
    assert!(found.windows(2).all(|w| w[0] < w[1]), "order: {found:?}");
    assert_eq!(channel.waiting(), found.len() as u64);
    let queue = &mut *queue.borrow_mut();
    let found: BTreeSet<u64> = found.into_iter().collect();
    let lost: Vec<_> = queue.waiting.difference(&found).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    for number in found.difference(&queue.waiting) {
        let again = power_lost && queue.delivered.contains(number);
        assert!(again || queue.uncertain.contains(number), "{number} is there and must not be");
    }
    let part = queue.uncertain.intersection(&found).count();
    assert!(part == 0 || part == queue.uncertain.len(), "half of a transaction: {part} events");
    queue.uncertain.clear();
    queue.delivered.retain(|number| !found.contains(number));
    queue.waiting = found;
}

/// Runs the steps up to the next crash; gives the number of steps done.
async fn live(
    io: Io,
    steps: &[Step],
    queue: &RefCell<Queue>,
    power_lost: bool,
    stop: impl Fn(StopKind),
) -> usize {
    let mut channel = open(&io).await;
    check_opened(&channel, queue, power_lost).await;
    let mut open_takes: Vec<(Box<dyn TakeTransaction>, Vec<u64>)> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        match *step {
            Step::Put { batches, events, size } => {
                let mut transaction = channel.begin_put().unwrap();
                let mut all = Vec::new();
                for _ in 0..batches {
                    let (batch, numbers) = batch(&mut queue.borrow_mut(), events, size);
                    transaction.put(batch).await.unwrap();
                    all.extend(numbers);
                }
                transaction.commit().await.unwrap();
                queue.borrow_mut().waiting.extend(all);
            }
            Step::PutAndRollback => {
                let (batch, _) = batch(&mut queue.borrow_mut(), 3, 10);
                channel.begin_put().unwrap().put(batch).await.unwrap();
            }
            Step::Take { events } => {
                let mut transaction = channel.begin_take().unwrap();
                let taken = numbers(&transaction.take(events).await.unwrap());
                let held: BTreeSet<u64> = open_takes.iter().flat_map(|(_, n)| n.iter().copied()).collect();
                let free: Vec<u64> = queue.borrow().waiting.difference(&held).copied().collect();
                // May be fewer than asked for, but always the first ones, and not none of some.
                assert!(taken.len() <= events && taken.len() <= free.len());
                assert_eq!(taken, free[..taken.len()]);
                assert_eq!(taken.is_empty(), free.is_empty());
                open_takes.push((transaction, taken));
            }
            Step::Commit(which) if !open_takes.is_empty() => {
                let (transaction, taken) = open_takes.remove(which % open_takes.len());
                transaction.commit().await.unwrap();
                let queue = &mut *queue.borrow_mut();
                queue.waiting.retain(|number| !taken.contains(number));
                queue.delivered.extend(taken);
            }
            Step::Rollback(which) if !open_takes.is_empty() => {
                drop(open_takes.remove(which % open_takes.len()));
            }
            Step::Commit(_) | Step::Rollback(_) => {}
            Step::Wait { ms } => io.sleep(Duration::from_millis(ms)).await,
            Step::Reopen => {
                open_takes.clear();
                channel.close().await;
                drop(channel);
                channel = open(&io).await;
                check_opened(&channel, queue, false).await;
            }
            Step::Crash { power } => {
                let (batch, numbers) = batch(&mut queue.borrow_mut(), 20, 3_000);
                let mut transaction = channel.begin_put().unwrap();
                transaction.put(batch).await.unwrap();
                queue.borrow_mut().uncertain.extend(numbers);
                let commit = crate::io::spawn(transaction.commit());
                for _ in 0..index % 4 {
                    tokio::task::yield_now().await;
                }
                stop(if power { StopKind::PowerLoss } else { StopKind::Kill });
                let _ = commit.await;
                return index + 1;
            }
        }
    }
    open_takes.clear();
    channel.close().await;
    steps.len()
}

fn run(steps: &[Step], seed: u64) {
    let world = World::new(seed);
    let queue = RefCell::new(Queue::default());
    let (mut done, mut power_lost) = (0, false);
    let crashes: Vec<usize> = steps
        .iter()
        .enumerate()
        .filter(|(_, s)| matches!(s, Step::Crash { .. }))
        .map(|(i, _)| i + 1)
        .collect();
    let mut crashes = crashes.into_iter();
    while done < steps.len() {
        let button = world.stop_button();
        let outcome =
            world.run(|io| live(io, &steps[done..], &queue, power_lost, move |kind| button.press(kind)));
        power_lost = outcome == Outcome::PowerLost;
        done = match outcome {
            Outcome::Finished(_) => steps.len(),
            _ => crashes.next().unwrap_or(steps.len()),
        };
    }
    let last = world.run(|io| live(io, &[], &queue, power_lost, |_| {}));
    assert_eq!(last, Outcome::Finished(0));
}

/// `PROPTEST_CASES=1000` for a night.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn a_file_channel_is_a_queue(steps in prop::collection::vec(step(), 1..40), seed in any::<u64>()) {
        run(&steps, seed);
    }
}
