//! Runs a sink, or a group of sinks behind its processor, on one lane.
//!
//! Flume: `org.apache.flume.SinkRunner`. Sleeps as Flume's does after BACKOFF and after an exception; when
//! the channel was merely empty it does not sleep but waits for events.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::channel::Channel;
use crate::io::stop::{Phase, Stop};
use crate::io::{Io, LocalBoxFuture};
use crate::sink::Status;
use crate::sink_processor::SinkProcessor;

/// Flume: `SinkRunner.backoffSleepIncrement`.
const BACKOFF_INCREMENT: Duration = Duration::from_millis(1000);
/// Flume: `SinkRunner.maxBackoffSleep`; also the sleep after an exception.
const BACKOFF_MAX: Duration = Duration::from_millis(5000);
/// Empty takes in a row after a wake-up before the runner sleeps a little: wake-ups may be spurious, a
/// busy loop is not acceptable.
const SPURIOUS_MAX: u32 = 16;
/// Sleep after spurious wake-ups.
const SPURIOUS_SLEEP: Duration = Duration::from_millis(5);

/// One lane of a sink or group.
pub struct Runner {
    /// Name of the sink or group, for messages.
    pub name: String,
    /// The sinks.
    pub processor: Box<dyn SinkProcessor>,
    /// Channels the sinks take from.
    pub channels: Vec<Rc<dyn Channel>>,
    /// Files and time.
    pub io: Io,
}

impl Runner {
    /// Works until the stop; then drains for a bounded time and stops the sinks.
    pub async fn run(mut self, stop: Stop) {
        let mut failures = 0u32;
        let mut empty = 0u32;
        let mut deadline = None;
        let mut next_tick = self.io.now();
        loop {
            if stop.is_requested() {
                let deadline = *deadline.get_or_insert(self.io.now() + stop.limit());
                if stop.phase() == Phase::Now || self.io.now() >= deadline {
                    break;
                }
            }
            if self.io.now() >= next_tick {
                next_tick = self.tick().await;
            }
            let outcome = tokio::select! {
                biased;
                () = stop.reached(Phase::Now) => break,
                outcome = self.processor.process() => outcome,
            };
            match outcome {
                Ok(Status::Ready) => (failures, empty) = (0, 0),
                Ok(Status::Empty) => {
                    failures = 0;
                    if stop.is_requested() {
                        // Other shards may still have events for this lane.
                        let end = *deadline.get_or_insert(self.io.now() + stop.limit());
                        let more = tokio::select! {
                            biased;
                            () = stop.reached(Phase::Now) => false,
                            more = any_last(&self.channels) => more,
                            () = self.io.sleep(end.saturating_sub(self.io.now())) => false,
                        };
                        if !more {
                            break;
                        }
                    }
                    empty += 1;
                    let pause = if empty > SPURIOUS_MAX { SPURIOUS_SLEEP } else { Duration::ZERO };
                    self.wait(&stop, pause, next_tick).await;
                }
                Ok(Status::Backoff) => {
                    failures += 1;
                    self.pause(&stop, (BACKOFF_INCREMENT * failures.min(5)).min(BACKOFF_MAX)).await;
                }
                Err(error) => {
                    tracing::error!(sink = %self.name, %error, "unable to deliver events; trying again in {} s", BACKOFF_MAX.as_secs());
                    self.pause(&stop, BACKOFF_MAX).await;
                }
            }
        }
        for sink in self.processor.sinks_mut() {
            sink.sink.stop().await;
        }
    }

    /// Ticks all sinks; returns when they want to be ticked next.
    async fn tick(&mut self) -> Duration {
        let mut interval = Duration::from_secs(60);
        for sink in self.processor.sinks_mut() {
            sink.sink.tick().await;
            interval = interval.min(sink.sink.tick_interval());
        }
        self.io.now() + interval.max(Duration::from_millis(1))
    }

    /// Waits for events, the next tick or the stop.
    async fn wait(&self, stop: &Stop, pause: Duration, next_tick: Duration) {
        if !pause.is_zero() {
            self.io.sleep(pause).await;
        }
        tokio::select! {
            () = stop.requested() => {}
            () = any_ready(&self.channels) => {}
            () = self.io.sleep(next_tick.saturating_sub(self.io.now())) => {}
        }
    }

    /// Sleeps after a failure. While stopping, events that cannot be delivered stay in the channel.
    async fn pause(&self, stop: &Stop, duration: Duration) {
        if !stop.is_requested() {
            stop.or(self.io.sleep(duration)).await;
        } else {
            self.io.sleep(Duration::from_millis(100)).await;
        }
    }
}

/// True when one of the channels may have something to take, false when nothing comes from any of them.
async fn any_last(channels: &[Rc<dyn Channel>]) -> bool {
    let mut last: Vec<Option<LocalBoxFuture<'_, bool>>> =
        channels.iter().map(|c| Some(c.wait_last())).collect();
    poll_fn(|cx| {
        for slot in &mut last {
            match slot.as_mut().map(|last| last.as_mut().poll(cx)) {
                Some(Poll::Ready(true)) => return Poll::Ready(true),
                Some(Poll::Ready(false)) => *slot = None,
                Some(Poll::Pending) | None => {}
            }
        }
        if last.iter().all(Option::is_none) { Poll::Ready(false) } else { Poll::Pending }
    })
    .await
}

/// Resolves when one of the channels may have something to take.
async fn any_ready(channels: &[Rc<dyn Channel>]) {
    let mut ready: Vec<LocalBoxFuture<'_, ()>> = channels.iter().map(|c| c.wait_ready()).collect();
    poll_fn(|cx| match ready.iter_mut().any(|r| r.as_mut().poll(cx).is_ready()) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}
