//! Puts what a source read into the channels, and waits with it while they have no room.
//!
//! For sources that can wait: files, pipes, generators. Nothing is dropped; a full channel stops the
//! reading.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::channel::ChannelError;
use crate::channel_processor::ChannelProcessor;
use crate::event::{EventBatch, SourceMark};
use crate::io::Io;
use crate::io::stop::Stop;
use crate::metrics::SourceCounters;

use super::SourceContext;

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

/// One source's way into its channels on one shard.
pub struct Deliver {
    name: Arc<str>,
    io: Io,
    channels: Rc<ChannelProcessor>,
    counters: Arc<SourceCounters>,
    backoff: Backoff,
    /// Most events of one transaction now: halved when a channel refuses, doubled back as it takes.
    limit: usize,
    limit_max: usize,
    is_received: bool,
}

impl Deliver {
    /// `limit_max`: most events of one transaction; the channels' own limit holds too.
    pub fn new(cx: &SourceContext, limit_max: usize, backoff: Backoff) -> Self {
        let limit_max = limit_max.min(cx.channels.transaction_capacity()).max(1);
        Self {
            name: cx.name.clone(),
            io: cx.io.clone(),
            channels: cx.channels.clone(),
            counters: cx.counters.clone(),
            backoff,
            limit: limit_max,
            limit_max,
            is_received: true,
        }
    }

    /// The same for events that are made here: as in Flume, they do not count as received.
    #[must_use]
    pub fn of_own(mut self) -> Self {
        self.is_received = false;
        self
    }

    /// Most events one transaction may have.
    pub fn limit_max(&self) -> usize {
        self.limit_max
    }

    /// Puts a batch in as many transactions as it takes, each carrying the mark `mark_after` gives for the
    /// number of events in the channels then. Waits and tries again while a channel refuses, with fewer
    /// events each time, since a channel limited in bytes may never have room for all at once.
    ///
    /// Returns how many events the channels have: all, or fewer because the stop was requested.
    pub async fn put(
        &mut self,
        batch: EventBatch,
        mark_after: impl Fn(usize) -> Option<SourceMark>,
        stop: &Stop,
    ) -> usize {
        let total = batch.len();
        if self.is_received {
            self.counters.append_batch_received.add(1);
            self.counters.event_received.add(total as u64);
        }
        let mut done = 0;
        loop {
            let count = (total - done).min(self.limit);
            let mut part = if count == total { batch.clone() } else { batch.slice(done, done + count) };
            if let Some(mark) = mark_after(done + count) {
                part.set_mark(mark);
            }
            match self.channels.process_batch(part).await {
                Ok(()) => {
                    done += count;
                    self.counters.event_accepted.add(count as u64);
                    self.backoff.reset();
                    self.limit = (self.limit * 2).min(self.limit_max);
                    if done == total {
                        self.counters.append_batch_accepted.add(1);
                        return done;
                    }
                }
                Err(error) => {
                    self.counters.channel_write_fail.add(1);
                    if matches!(error, ChannelError::Full(_) | ChannelError::TooLarge(_)) {
                        self.limit = (count / 2).max(1);
                    }
                    let wait = self.backoff.step();
                    tracing::warn!(source = %self.name, events = count, retry_ms = wait.as_millis() as u64, %error, "channel did not take a batch; reading waits");
                    if stop.or(self.io.sleep(wait)).await.is_none() {
                        return done;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{BatchBuilder, Separator};
    use crate::io::{EngineKind, run_local, stop};
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
            let mut deliver = Deliver::new(&testing::source_context(&io, channel.clone()), 100, backoff());
            let (_handle, stop) = stop::channel();
            let put = crate::io::spawn(async move { deliver.put(batch(25), |_| None, &stop).await });
            let bodies = testing::expect_bodies(&io, &*channel, 25).await;
            assert_eq!(bodies, (0..25).map(|i| i.to_string()).collect::<Vec<_>>());
            assert_eq!(put.await.unwrap(), 25);
        })
        .unwrap();
    }

    #[test]
    fn the_stop_ends_the_waiting_and_says_what_was_taken() {
        run_local(EngineKind::Portable, |io| async move {
            let channel = testing::memory_channel(&io, 10);
            let cx = testing::source_context(&io, channel.clone());
            let counters = cx.counters.clone();
            let mut deliver = Deliver::new(&cx, 4, backoff());
            let (handle, stop) = stop::channel();
            let put = crate::io::spawn(async move { deliver.put(batch(25), |_| None, &stop).await });
            while counters.channel_write_fail.value() < 6 {
                io.sleep(Duration::from_millis(1)).await;
            }
            handle.request(stop::Phase::Stopping);
            // 4 + 4, then 2 after the refusal of 4.
            assert_eq!(put.await.unwrap(), 10);
            assert_eq!((counters.event_received.value(), counters.event_accepted.value()), (25, 10));
        })
        .unwrap();
    }
}
