//! Puts what a source read into the channels, and waits with it while they have no room.
//!
//! For sources that can wait: files, pipes, generators. Nothing is dropped; a full channel stops the
//! reading. A source reads on while earlier batches are being committed: what it pushed goes through a window,
//! in order. A batch is started only behind the one before it, and a refusal sends everything from the refused
//! batch on once more, so that what the channels have is at any moment the beginning of what was pushed. Marks and
//! positions therefore never run ahead of the events.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::channel::ChannelError;
use crate::channel_processor::{ChannelProcessor, Started};
use crate::event::{EventBatch, SourceMark};
use crate::io::stop::Stop;
use crate::io::{Io, LocalBoxFuture};
use crate::metrics::SourceCounters;

use super::SourceContext;

/// Bytes pushed and not yet committed after which a source waits: 10 reads of 416 KiB, about what a file channel
/// writes at once. One batch more may be larger than that: a line has at most 4 MiB, so a shard holds at most 8 MiB
/// for a source.
const WINDOW_BYTES: usize = 4 << 20;
/// The same in batches, for many small ones (a few lines of each of many files), and in transactions.
const WINDOW_BATCHES: usize = 64;

/// Waiting times that double up to a limit.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits `first`, then twice as long each time, up to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first: first.min(most), most, next: first.min(most) }
    }
    /// How long to wait now.
    pub fn step(&mut self) -> Duration {
        let now = self.next;
        self.next = (self.next * 2).min(self.most);
        now
    }
    /// Things work again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// What a source knows of a batch it has pushed.
pub trait Progress {
    /// The mark of a transaction after which the channels have `events` of the batch.
    fn mark(&self, _events: usize) -> Option<SourceMark> {
        None
    }
    /// The channels have `events` of the batch now. Called in the order of the pushes.
    fn committed(&self, _events: usize) {}
}

/// For sources that cannot resume.
pub struct Unmarked;
impl Progress for Unmarked {}

/// Only a mark.
impl Progress for SourceMark {
    fn mark(&self, _events: usize) -> Option<SourceMark> {
        Some(self.clone())
    }
}

/// One source's way into its channels on one shard. Dropped, it leaves what is not committed: the source
/// reads that again when it is started again.
pub struct Deliver {
    shared: Rc<Shared>,
    worker: JoinHandle<()>,
    limit_max: usize,
}

struct Shared {
    name: Arc<str>,
    io: Io,
    channels: Rc<ChannelProcessor>,
    counters: Arc<SourceCounters>,
    is_received: bool,
    window: RefCell<Window>,
    /// Something was committed, or given up.
    moved: Notify,
}

/// What was pushed and is not committed as a whole. Borrowed only for a look or a change.
#[derive(Default)]
struct Window {
    jobs: VecDeque<Job>,
    /// Number of the first of them.
    first: u64,
    bytes: usize,
    /// The stop was requested: the next refusal ends it.
    stopping: bool,
    /// A channel refused after that; nothing more is put.
    ended: bool,
    /// The worker has left, and nothing is on its way.
    gone: bool,
    /// Of the worker.
    waker: Option<Waker>,
}

struct Job {
    batch: EventBatch,
    progress: Box<dyn Progress>,
    /// A transaction was begun; an empty batch needs one, too.
    begun: bool,
    /// Events in transactions begun.
    started: usize,
    /// Events in the channels.
    done: usize,
}

impl Job {
    fn is_started(&self) -> bool {
        self.begun && self.started == self.batch.len()
    }
}

impl Window {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
    fn has_room(&self) -> bool {
        self.jobs.is_empty() || (self.jobs.len() < WINDOW_BATCHES && self.bytes < WINDOW_BYTES)
    }
    /// What is left, if nothing is on its way any more.
    fn left(&self) -> Option<Left> {
        let events = || self.jobs.iter().map(|job| job.batch.len() - job.done).sum();
        (self.gone || self.jobs.is_empty()).then(|| Left { batches: self.jobs.len(), events: events() })
    }
    fn job(&mut self, number: u64) -> Option<&mut Job> {
        self.jobs.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
    /// The next transaction: which job, and which of its events.
    fn next(&mut self, limit: usize) -> Option<(Span, EventBatch)> {
        let index = self.jobs.iter().position(|job| !job.is_started())?;
        let job = self.jobs.get_mut(index)?;
        let (from, total) = (job.started, job.batch.len());
        let to = total.min(from + limit);
        let mut part = if to - from == total { job.batch.clone() } else { job.batch.slice(from, to) };
        if let Some(mark) = job.progress.mark(to) {
            part.set_mark(mark);
        }
        (job.begun, job.started) = (true, to);
        Some((Span { job: self.first + index as u64, from, to }, part))
    }
    /// Everything from a transaction on has to be started again.
    fn go_back(&mut self, to: Span) {
        if let Some(job) = self.job(to.job) {
            (job.begun, job.started) = (to.from > 0, to.from);
        }
        let behind = (to.job - self.first) as usize + 1;
        for job in self.jobs.iter_mut().skip(behind) {
            (job.begun, job.started) = (false, 0);
        }
    }
}

/// The events of one transaction.
#[derive(Clone, Copy, Debug)]
struct Span {
    job: u64,
    from: usize,
    to: usize,
}

/// A transaction that has its place in the channels.
struct Flight {
    span: Span,
    started: Started,
    done: bool,
}

/// Carries the window's batches into the channels, in a task of its own: a commit under way must not wait for
/// the source's next read.
struct Worker {
    shared: Rc<Shared>,
    /// Oldest first.
    flights: VecDeque<Flight>,
    /// The one transaction that waits for room.
    starting: Option<(Span, LocalBoxFuture<'static, Result<Started, ChannelError>>)>,
    /// Runs after a refusal.
    resting: Option<LocalBoxFuture<'static, ()>>,
    backoff: Backoff,
    /// Most events of one transaction now: halved when a channel refuses, doubled back as it takes.
    limit: usize,
    limit_max: usize,
}

impl Worker {
    /// Does what can be done; ready when a refusal came after the stop.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // Oldest first, and nothing behind a failure is polled again: a commit that has not got its place
            // in the log yet waits for the one before it, so it cannot have passed a failed one.
            let mut failed = None;
            for (index, flight) in self.flights.iter_mut().enumerate().filter(|(_, flight)| !flight.done) {
                match flight.started.required.as_mut().poll(cx) {
                    Poll::Ready(Ok(())) => flight.done = true,
                    Poll::Ready(Err(error)) => {
                        failed = Some((index, flight.span, error));
                        break;
                    }
                    Poll::Pending => {}
                }
            }
            if let Some((index, span, error)) = failed {
                self.flights.truncate(index);
                self.starting = None;
                self.refused(span, &error);
            }
            while let Some(flight) = self.flights.front_mut().filter(|flight| flight.done) {
                // One batch at a time goes into the optional channels, so that they have the same order.
                let span = flight.span;
                if let Some(optional) = &mut flight.started.optional
                    && optional.as_mut().poll(cx).is_pending()
                {
                    break;
                }
                self.flights.pop_front();
                self.committed(span);
            }
            if let Some(rest) = &mut self.resting
                && rest.as_mut().poll(cx).is_ready()
            {
                self.resting = None;
            }
            if let Some((span, start)) = &mut self.starting {
                let span = *span;
                match start.as_mut().poll(cx) {
                    Poll::Ready(Ok(started)) => {
                        self.starting = None;
                        self.flights.push_back(Flight { span, started, done: false });
                        // Polled, or nobody wakes us.
                        continue;
                    }
                    Poll::Ready(Err(error)) => {
                        self.starting = None;
                        self.refused(span, &error);
                        continue;
                    }
                    Poll::Pending => {}
                }
            }
            let mut window = self.shared.window.borrow_mut();
            if window.ended || (self.resting.is_some() && window.stopping) {
                window.ended = true;
                drop(window);
                if self.flights.is_empty() {
                    return Poll::Ready(());
                }
                return Poll::Pending;
            }
            if self.starting.is_none()
                && self.resting.is_none()
                && self.flights.len() < WINDOW_BATCHES
                && let Some((span, part)) = window.next(self.limit)
            {
                drop(window);
                let channels = self.shared.channels.clone();
                let start = async move {
                    channels.keep_pace().await;
                    channels.start_batch(part).await
                };
                self.starting = Some((span, Box::pin(start)));
                continue;
            }
            if window.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
                window.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
    }

    fn committed(&mut self, span: Span) {
        let count = span.to - span.from;
        let counters = &self.shared.counters;
        counters.event_accepted.add(count as u64);
        self.backoff.reset();
        self.limit = (self.limit * 2).min(self.limit_max);
        let mut window = self.shared.window.borrow_mut();
        let Some(job) = window.job(span.job) else { return };
        job.done = span.to;
        job.progress.committed(span.to);
        // Transactions come back in order, so it is the first.
        if job.done == job.batch.len() {
            let size = job.batch.size_bytes();
            window.jobs.pop_front();
            window.first += 1;
            window.bytes -= size;
            counters.append_batch_accepted.add(1);
        }
        drop(window);
        self.shared.moved.notify_waiters();
    }

    /// The channels did not take a transaction: everything from it on is put again, after a while.
    fn refused(&mut self, span: Span, error: &ChannelError) {
        let count = span.to - span.from;
        self.shared.counters.channel_write_fail.add(1);
        if matches!(error, ChannelError::Full(_) | ChannelError::TooLarge(_)) {
            self.limit = (count / 2).max(1);
        }
        let wait = self.backoff.step();
        tracing::warn!(source = %self.shared.name, events = count, retry_ms = wait.as_millis() as u64, %error, "channel did not take a batch; reading waits");
        self.shared.window.borrow_mut().go_back(span);
        self.resting = Some(self.shared.io.sleep(wait));
    }
}

/// Tells whoever waits that the worker is no more, also when it was ended by a panic.
struct Leaving(Rc<Shared>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Ok(mut window) = self.0.window.try_borrow_mut() {
            (window.ended, window.gone) = (true, true);
        }
        self.0.moved.notify_waiters();
    }
}

impl Deliver {
    /// `limit_max`: most events of one transaction; the channels' own limit holds too.
    pub fn new(cx: &SourceContext, limit_max: usize, backoff: Backoff) -> Self {
        Self::start(cx, limit_max, backoff, true)
    }

    /// The same for events that are made here: as in Flume, they do not count as received.
    pub fn of_own(cx: &SourceContext, limit_max: usize, backoff: Backoff) -> Self {
        Self::start(cx, limit_max, backoff, false)
    }

    fn start(cx: &SourceContext, limit_max: usize, backoff: Backoff, is_received: bool) -> Self {
        let limit_max = limit_max.min(cx.channels.transaction_capacity()).max(1);
        let shared = Rc::new(Shared {
            name: cx.name.clone(),
            io: cx.io.clone(),
            channels: cx.channels.clone(),
            counters: cx.counters.clone(),
            is_received,
            window: RefCell::default(),
            moved: Notify::new(),
        });
        let mut worker = Worker {
            shared: shared.clone(),
            flights: VecDeque::new(),
            starting: None,
            resting: None,
            backoff,
            limit: limit_max,
            limit_max,
        };
        let worker = crate::io::spawn(async move {
            let _leaving = Leaving(worker.shared.clone());
            poll_fn(|cx| worker.poll(cx)).await;
        });
        Self { shared, worker, limit_max }
    }

    /// Most events one transaction may have.
    pub fn limit_max(&self) -> usize {
        self.limit_max
    }

    /// Adds a batch to the window; waits while it is full. It is put in as many transactions as it takes, each
    /// with the mark for the number of events the channels have then. While a channel refuses it is tried again,
    /// with fewer events each time, since a channel limited in bytes may never have room for all at once.
    ///
    /// False if the stop came before there was room: then the batch was not added, nor is any later one.
    pub async fn push(&self, batch: EventBatch, progress: impl Progress + 'static, stop: &Stop) -> bool {
        loop {
            let moved = self.shared.moved.notified();
            {
                let mut window = self.shared.window.borrow_mut();
                if window.ended {
                    return false;
                }
                if window.has_room() {
                    if self.shared.is_received {
                        self.shared.counters.append_batch_received.add(1);
                        self.shared.counters.event_received.add(batch.len() as u64);
                    }
                    window.bytes += batch.size_bytes();
                    let progress = Box::new(progress);
                    window.jobs.push_back(Job { batch, progress, begun: false, started: 0, done: 0 });
                    window.wake();
                    return true;
                }
            }
            self.or_stop(moved, stop).await;
        }
    }

    /// Waits until the channels have everything that was pushed, or until one of them refuses after the
    /// stop. Gives the number of batches left, and of their events.
    pub async fn settle(&self, stop: &Stop) -> Left {
        loop {
            let moved = self.shared.moved.notified();
            if let Some(left) = self.shared.window.borrow().left() {
                return left;
            }
            self.or_stop(moved, stop).await;
        }
    }

    /// Waits for a move of the window; tells the worker of the stop.
    async fn or_stop(&self, moved: impl Future<Output = ()>, stop: &Stop) {
        if self.shared.window.borrow().stopping {
            return moved.await;
        }
        if stop.or(moved).await.is_none() {
            let mut window = self.shared.window.borrow_mut();
            window.stopping = true;
            window.wake();
        }
    }
}

/// What the channels have not got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Batches, perhaps parts of them.
    pub batches: usize,
    /// Their events.
    pub events: usize,
}

impl Left {
    /// Nothing is left.
    pub fn is_none(self) -> bool {
        self.batches == 0
    }
}

impl Drop for Deliver {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::channel::{Channel, PutTransaction, TakeTransaction};
    use crate::event::{BatchBuilder, Separator};
    use crate::io::{EngineKind, run_local, stop};
    use crate::selector::replicating::Replicating;
    use crate::testing;

    fn batch(count: usize) -> EventBatch {
        let mut builder = BatchBuilder::new(Separator::Newline);
        (0..count).for_each(|i| builder.push(i.to_string().as_bytes()));
        builder.finish()
    }
    fn backoff() -> Backoff {
        Backoff::new(Duration::from_millis(1), Duration::from_millis(4))
    }

    #[test]
    fn waiting_times_double_up_to_the_limit() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let seconds: Vec<u64> = (0..5).map(|_| backoff.step().as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 5, 5]);
        backoff.reset();
        assert_eq!(backoff.step().as_secs(), 1);
    }

    #[test]
    fn a_full_channel_gets_it_in_pieces_and_in_order() {
        run_local(EngineKind::Portable, |io| async move {
            let channel = testing::memory_channel(&io, 10);
            let deliver = Deliver::new(&testing::source_context(&io, channel.clone()), 100, backoff());
            let (_handle, stop) = stop::channel();
            assert!(deliver.push(batch(25), Unmarked, &stop).await);
            let bodies = testing::expect_bodies(&io, &*channel, 25).await;
            assert_eq!(bodies, (0..25).map(|i| i.to_string()).collect::<Vec<_>>());
            assert!(deliver.settle(&stop).await.is_none());
        })
        .unwrap();
    }

    #[test]
    fn the_stop_ends_the_waiting_and_says_what_was_not_taken() {
        run_local(EngineKind::Portable, |io| async move {
            let channel = testing::memory_channel(&io, 10);
            let cx = testing::source_context(&io, channel.clone());
            let counters = cx.counters.clone();
            let deliver = Deliver::new(&cx, 4, backoff());
            let (handle, stop) = stop::channel();
            assert!(deliver.push(batch(25), Unmarked, &stop).await);
            while counters.channel_write_fail.value() < 6 {
                io.sleep(Duration::from_millis(1)).await;
            }
            handle.request(stop::Phase::Stopping);
            // 4 + 4, then 2 after the refusal of 4.
            assert_eq!(deliver.settle(&stop).await, Left { batches: 1, events: 15 });
            assert_eq!((counters.event_received.value(), counters.event_accepted.value()), (25, 10));
            assert!(!deliver.push(batch(1), Unmarked, &stop).await, "nothing is put behind what was refused");
        })
        .unwrap();
    }

    #[test]
    fn a_stop_lets_what_is_on_its_way_arrive() {
        run_local(EngineKind::Portable, |io| async move {
            let channel = testing::memory_channel(&io, 1000);
            let deliver = Deliver::new(&testing::source_context(&io, channel.clone()), 4, backoff());
            let (handle, stop) = stop::channel();
            handle.request(stop::Phase::Stopping);
            assert!(deliver.push(batch(100), Unmarked, &stop).await);
            assert!(deliver.settle(&stop).await.is_none());
            assert_eq!(channel.len(), 100);
        })
        .unwrap();
    }

    #[test]
    fn the_window_is_bounded() {
        run_local(EngineKind::Portable, |io| async move {
            // Nothing fits, so nothing leaves the window.
            let channel = testing::memory_channel(&io, 0);
            let (_handle, stop) = stop::channel();
            let pushed = async |size: usize| {
                let deliver = Deliver::new(&testing::source_context(&io, channel.clone()), 4, backoff());
                let mut count = 0;
                loop {
                    let event = EventBatch::single(Default::default(), vec![b'x'; size]);
                    let push = deliver.push(event, Unmarked, &stop);
                    tokio::select! {
                        pushed = push => assert!(pushed),
                        () = io.sleep(Duration::from_millis(50)) => return count,
                    }
                    count += 1;
                }
            };
            assert_eq!(pushed(1).await, WINDOW_BATCHES);
            assert_eq!(pushed(WINDOW_BYTES / 4).await, 4);
            assert_eq!(pushed(2 * WINDOW_BYTES).await, 1);
        })
        .unwrap();
    }

    /// A durable channel whose puts and commits fail now and then, and take their time: like a log, one appends
    /// after the other, and becomes durable later. It checks at every append what must be true of it.
    struct Fickle {
        turn: Rc<tokio::sync::Semaphore>,
        stored: Rc<RefCell<Stored>>,
        random: Rc<Cell<u64>>,
    }

    #[derive(Default)]
    struct Stored {
        /// How many different events there are; they come in order.
        events: u64,
        repeated: u64,
        mark: u64,
        failures: u64,
        /// Transactions between append and answer.
        open: usize,
        open_most: usize,
        may_repeat: bool,
    }

    struct FicklePut(Fickle, EventBatch);

    impl Fickle {
        fn new(seed: u64, may_repeat: bool) -> Rc<Self> {
            let stored = Rc::new(RefCell::new(Stored { may_repeat, ..Stored::default() }));
            let turn = Rc::new(tokio::sync::Semaphore::new(1));
            Rc::new(Self { turn, stored, random: Rc::new(Cell::new(seed)) })
        }
        fn share(&self) -> Self {
            Self { turn: self.turn.clone(), stored: self.stored.clone(), random: self.random.clone() }
        }
        fn below(&self, limit: u64) -> u64 {
            let next = self.random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            self.random.set(next);
            (next >> 33) % limit
        }
        async fn dawdle(&self) {
            for _ in 0..self.below(4) {
                tokio::task::yield_now().await;
            }
        }
        fn fails(&self) -> bool {
            let fails = self.below(12) == 0;
            self.stored.borrow_mut().failures += u64::from(fails);
            fails
        }
    }

    impl PutTransaction for FicklePut {
        fn put(&mut self, batch: EventBatch) -> LocalBoxFuture<'_, Result<(), ChannelError>> {
            Box::pin(async move {
                self.0.dawdle().await;
                self.1 = batch;
                if self.0.fails() { Err(ChannelError::Full("no room".to_owned())) } else { Ok(()) }
            })
        }
        fn commit(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ChannelError>> {
            Box::pin(async move {
                let Self(channel, batch) = *self;
                {
                    let _turn = channel.turn.acquire().await.unwrap();
                    channel.dawdle().await;
                    if channel.fails() {
                        return Err(ChannelError::NoSpace("no space".to_owned()));
                    }
                    let mut stored = channel.stored.borrow_mut();
                    for body in batch.bodies() {
                        let number: u64 = std::str::from_utf8(body).unwrap().parse().unwrap();
                        assert!(number <= stored.events, "{number} where {} was due", stored.events);
                        assert!(number == stored.events || stored.may_repeat, "{number} came twice");
                        stored.repeated += u64::from(number < stored.events);
                        stored.events = stored.events.max(number + 1);
                    }
                    let mark = batch.marks().first().expect("each transaction has its mark");
                    stored.mark = u64::from_le_bytes((&mark.value[..]).try_into().unwrap());
                    assert!(stored.mark <= stored.events, "a mark behind events that are not there");
                    stored.open += 1;
                    stored.open_most = stored.open_most.max(stored.open);
                }
                for _ in 0..8 {
                    tokio::task::yield_now().await;
                }
                channel.stored.borrow_mut().open -= 1;
                Ok(())
            })
        }
    }

    impl Channel for Fickle {
        fn name(&self) -> &str {
            "fickle"
        }
        fn transaction_capacity(&self) -> usize {
            7
        }
        fn begin_put(&self) -> Result<Box<dyn PutTransaction>, ChannelError> {
            Ok(Box::new(FicklePut(self.share(), EventBatch::default())))
        }
        fn begin_take(&self) -> Result<Box<dyn TakeTransaction>, ChannelError> {
            Err(ChannelError::Closed("fickle".to_owned()))
        }
        fn wait_ready(&self) -> LocalBoxFuture<'_, ()> {
            Box::pin(std::future::pending())
        }
        fn marks(&self, _source: &str) -> Vec<SourceMark> {
            Vec::new()
        }
        fn is_durable(&self) -> bool {
            true
        }
        fn close(&self) -> LocalBoxFuture<'_, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    /// Numbers from `start`; the position is the number of the next one.
    struct Numbers {
        start: u64,
        committed: Rc<Cell<u64>>,
        channels: Vec<Rc<Fickle>>,
    }
    impl Progress for Numbers {
        fn mark(&self, events: usize) -> Option<SourceMark> {
            let value = (self.start + events as u64).to_le_bytes().to_vec().into();
            Some(SourceMark { source: "r1".into(), key: "k".into(), value })
        }
        fn committed(&self, events: usize) {
            let now = self.start + events as u64;
            assert!(now >= self.committed.get(), "positions go forward");
            for channel in &self.channels {
                assert!(channel.stored.borrow().mark >= now, "a position that is not committed");
            }
            self.committed.set(now);
        }
    }

    /// Sends 400 numbers, is killed or stopped now and then, and goes on behind the marks.
    async fn number_through(io: &Io, channels: &[Rc<Fickle>]) {
        const TOTAL: u64 = 400;
        let mut runs = 0;
        let furthest = || channels.iter().map(|c| c.stored.borrow().mark).min().unwrap();
        while furthest() < TOTAL {
            runs += 1;
            assert!(runs < 10_000, "it does not get on");
            let mut cx = testing::source_context(io, channels[0].clone());
            cx.channels = Rc::new(ChannelProcessor::new(
                Vec::new(),
                Box::new(Replicating::new(channels.len(), &[])),
                channels.iter().map(|c| c.clone() as Rc<dyn Channel>).collect(),
            ));
            let counters = cx.counters.clone();
            let first = furthest();
            let backoff = Backoff::new(Duration::from_micros(1), Duration::from_micros(1));
            let deliver = Deliver::new(&cx, usize::MAX, backoff);
            let (handle, stop) = stop::channel();
            let committed = Rc::new(Cell::new(first));
            let until = (first + 1 + channels[0].below(150)).min(TOTAL);
            let mut next = first;
            while next < until {
                let count = (channels[0].below(20)).min(until - next);
                let mut builder = BatchBuilder::new(Separator::Newline);
                (next..next + count).for_each(|n| builder.push(n.to_string().as_bytes()));
                let progress =
                    Numbers { start: next, committed: committed.clone(), channels: channels.to_vec() };
                assert!(deliver.push(builder.finish(), progress, &stop).await);
                next += count;
                channels[0].dawdle().await;
            }
            match channels[0].below(3) {
                // Killed with a window under way.
                0 => drop(deliver),
                1 => {
                    handle.request(stop::Phase::Stopping);
                    let left = deliver.settle(&stop).await;
                    let accepted = counters.event_accepted.value();
                    assert_eq!(left.events as u64 + accepted, next - first);
                    assert_eq!(committed.get(), first + accepted);
                }
                _ => {
                    assert!(deliver.settle(&stop).await.is_none());
                    assert_eq!(committed.get(), next);
                    assert_eq!(counters.event_accepted.value(), next - first);
                }
            }
        }
    }

    #[test]
    fn failures_within_the_window_lose_repeat_and_reorder_nothing() {
        run_local(EngineKind::Portable, |io| async move {
            let (mut failures, mut open_most) = (0, 0);
            for seed in 0..100 {
                let channel = Fickle::new(seed, false);
                number_through(&io, std::slice::from_ref(&channel)).await;
                let stored = channel.stored.borrow();
                assert_eq!(stored.events, 400, "seed {seed}");
                failures += stored.failures;
                open_most = open_most.max(stored.open_most);
            }
            assert!(failures > 1000, "only {failures} failures");
            assert!(open_most > 4, "at most {open_most} commits at once");
        })
        .unwrap();
    }

    #[test]
    fn with_several_channels_each_has_everything_in_order() {
        run_local(EngineKind::Portable, |io| async move {
            let mut repeated = 0;
            for seed in 0..100 {
                // A channel that took a batch which another refused gets it again, as in Flume.
                let channels: Vec<_> = (0..3).map(|n| Fickle::new(3 * seed + n, true)).collect();
                number_through(&io, &channels).await;
                for channel in &channels {
                    let stored = channel.stored.borrow();
                    assert_eq!(stored.events, 400, "seed {seed}");
                    repeated += stored.repeated;
                }
            }
            assert!(repeated > 0, "no channel was ahead of another");
        })
        .unwrap();
    }
}
