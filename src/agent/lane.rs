//! Lanes: how a sink on one shard takes from the channels of others.
//!
//! A sink runs in one or more lanes, each on one shard. A lane takes from the channels of the shards
//! assigned to it: its own directly, another shard's as *handed-over* batches. On the owning shard a
//! [`feed`] task takes a batch, sends it and waits for the verdict; only when every event of the batch is
//! committed by the lane is the take committed. This is the only place where a batch changes cores, as a
//! message, never through a lock.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use tokio::sync::{mpsc, oneshot};

use crate::channel::{Channel, ChannelError, PutTransaction, TakeTransaction};
use crate::event::{EventBatch, SourceMark};
use crate::io::LocalBoxFuture;
use crate::io::stop::{Phase, Stop};

/// Batches of one feeding shard under way to a lane and not yet acknowledged: enough to keep the lane
/// busy during a round trip between cores (about 50 µs, a batch of 256 KiB takes longer to write).
const HANDED_MAX: usize = 8;

/// A batch on its way to another shard.
#[derive(Debug)]
pub struct Handed {
    batch: EventBatch,
    delivered: oneshot::Sender<()>,
}

/// The two ends between a feeding shard and a lane.
pub fn handover() -> (mpsc::Sender<Handed>, mpsc::Receiver<Handed>) {
    mpsc::channel(HANDED_MAX)
}

/// Takes from `channel` and hands over to a lane. Once the stop is requested it ends with the first take that
/// finds nothing, which tells the lane that nothing follows; it also ends when the lane is gone or the stop
/// reaches [`Phase::Now`]. Runs on the shard that owns the channel.
///
/// A verdict that never comes (the lane is gone) is a rollback.
pub async fn feed(channel: Rc<dyn Channel>, lane: mpsc::Sender<Handed>, stop: Stop) {
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(HANDED_MAX));
    loop {
        let ready = async {
            let slot = slots.clone().acquire_owned().await;
            stop.or(channel.wait_ready()).await;
            slot
        };
        let slot = tokio::select! {
            biased;
            () = stop.reached(Phase::Now) => break,
            () = lane.closed() => break,
            slot = ready => slot,
        };
        // Asked before the take: what was put before the stop is seen by the take.
        let stopping = stop.is_requested();
        let Ok(mut transaction) = channel.begin_take() else { break };
        let batch = match transaction.take(channel.transaction_capacity()).await {
            Ok(batch) if batch.is_empty() && stopping => break,
            Ok(batch) if batch.is_empty() => continue,
            Ok(batch) => batch,
            Err(error) => {
                tracing::error!(channel = channel.name(), %error, "cannot take from the channel");
                break;
            }
        };
        let (delivered, verdict) = oneshot::channel();
        if lane.send(Handed { batch, delivered }).await.is_err() {
            break;
        }
        let (name, stop) = (channel.name().to_owned(), stop.clone());
        crate::io::spawn(async move {
            let _slot = slot;
            let verdict = tokio::select! {
                biased;
                verdict = verdict => verdict.is_ok(),
                () = stop.reached(Phase::Now) => false,
            };
            if verdict && let Err(error) = transaction.commit().await {
                tracing::error!(channel = %name, %error, "a delivered batch could not be committed; it will be delivered again");
            }
        });
    }
    // The lane learns of the end; the channel stays open until the last verdicts are in.
    drop(lane);
    let _ = slots.acquire_many(HANDED_MAX as u32).await;
}

/// What a lane's sink sees as its channel: the shard's own, and those of other shards.
pub struct LaneChannel {
    name: String,
    transaction_capacity: usize,
    inputs: Vec<Rc<Input>>,
    /// Input the next transaction starts with, so that all shards get their turn.
    turn: Cell<usize>,
}

enum Input {
    Own(Rc<dyn Channel>),
    Other { receiver: RefCell<mpsc::Receiver<Handed>>, waiting: RefCell<VecDeque<Part>> },
}

/// What is left to take of a handed-over batch.
struct Part {
    batch: EventBatch,
    whole: Rc<Whole>,
}

/// A handed-over batch: delivered when its last event is committed.
struct Whole {
    open: Cell<usize>,
    delivered: Cell<Option<oneshot::Sender<()>>>,
}

impl LaneChannel {
    /// A lane's view: the own shard's channel if it feeds this lane, and the receivers of the others.
    pub fn view(
        name: &str,
        transaction_capacity: usize,
        own: Option<Rc<dyn Channel>>,
        others: Vec<mpsc::Receiver<Handed>>,
    ) -> Rc<dyn Channel> {
        if let (Some(own), true) = (&own, others.is_empty()) {
            return own.clone();
        }
        let own = own.map(Input::Own);
        let others = others
            .into_iter()
            .map(|receiver| Input::Other { receiver: RefCell::new(receiver), waiting: RefCell::default() });
        Rc::new(Self {
            name: name.to_owned(),
            transaction_capacity,
            inputs: own.into_iter().chain(others).map(Rc::new).collect(),
            turn: Cell::new(0),
        })
    }
}

impl Input {
    /// Moves what arrived to the waiting queue; true if anything waits.
    fn receive(&self) -> bool {
        let Self::Other { receiver, waiting } = self else { return false };
        let mut waiting = waiting.borrow_mut();
        while let Ok(handed) = receiver.borrow_mut().try_recv() {
            waiting.push_back(handed.into());
        }
        !waiting.is_empty()
    }
}

impl From<Handed> for Part {
    fn from(handed: Handed) -> Self {
        let whole =
            Whole { open: Cell::new(handed.batch.len()), delivered: Cell::new(Some(handed.delivered)) };
        Self { batch: handed.batch, whole: Rc::new(whole) }
    }
}

impl Channel for LaneChannel {
    fn name(&self) -> &str {
        &self.name
    }
    fn transaction_capacity(&self) -> usize {
        self.transaction_capacity
    }
    fn begin_put(&self) -> Result<Box<dyn PutTransaction>, ChannelError> {
        Err(ChannelError::Closed(format!("{} (a lane only takes)", self.name)))
    }
    fn begin_take(&self) -> Result<Box<dyn TakeTransaction>, ChannelError> {
        let turn = self.turn.get();
        self.turn.set((turn + 1) % self.inputs.len().max(1));
        let mut inputs = self.inputs.clone();
        if !inputs.is_empty() {
            inputs.rotate_left(turn % self.inputs.len());
        }
        Ok(Box::new(LaneTake { inputs, own: None, parts: Vec::new(), room: self.transaction_capacity }))
    }
    fn wait_ready(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async {
            let mut own: Vec<LocalBoxFuture<'_, ()>> = Vec::new();
            for input in &self.inputs {
                if let Input::Own(channel) = &**input {
                    own.push(channel.wait_ready());
                }
            }
            poll_fn(|cx| {
                if own.iter_mut().any(|ready| ready.as_mut().poll(cx).is_ready()) {
                    return Poll::Ready(());
                }
                for input in &self.inputs {
                    let Input::Other { receiver, waiting } = &**input else { continue };
                    if !waiting.borrow().is_empty() {
                        return Poll::Ready(());
                    }
                    if let Poll::Ready(Some(handed)) = receiver.borrow_mut().poll_recv(cx) {
                        waiting.borrow_mut().push_back(handed.into());
                        return Poll::Ready(());
                    }
                }
                Poll::Pending
            })
            .await;
        })
    }
    fn wait_last(&self) -> LocalBoxFuture<'_, bool> {
        Box::pin(poll_fn(|cx| {
            let mut ended = true;
            for input in &self.inputs {
                let Input::Other { receiver, waiting } = &**input else { continue };
                if !waiting.borrow().is_empty() {
                    return Poll::Ready(true);
                }
                match receiver.borrow_mut().poll_recv(cx) {
                    Poll::Ready(Some(handed)) => {
                        waiting.borrow_mut().push_back(handed.into());
                        return Poll::Ready(true);
                    }
                    Poll::Ready(None) => {}
                    Poll::Pending => ended = false,
                }
            }
            if ended { Poll::Ready(false) } else { Poll::Pending }
        }))
    }
    fn marks(&self, _source: &str) -> Vec<SourceMark> {
        Vec::new()
    }
    fn is_durable(&self) -> bool {
        self.inputs.iter().any(|input| matches!(&**input, Input::Own(channel) if channel.is_durable()))
    }
    fn close(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

struct LaneTake {
    /// Inputs in the order this transaction asks them.
    inputs: Vec<Rc<Input>>,
    own: Option<Box<dyn TakeTransaction>>,
    /// Taken from other shards: which input, and what.
    parts: Vec<(Rc<Input>, Part)>,
    room: usize,
}

impl TakeTransaction for LaneTake {
    fn take(&mut self, events_max: usize) -> LocalBoxFuture<'_, Result<EventBatch, ChannelError>> {
        Box::pin(async move {
            for input in &self.inputs {
                match &**input {
                    Input::Own(channel) => {
                        let transaction = match &mut self.own {
                            Some(transaction) => transaction,
                            None => self.own.insert(channel.begin_take()?),
                        };
                        let batch = transaction.take(events_max).await?;
                        if !batch.is_empty() {
                            return Ok(batch);
                        }
                    }
                    Input::Other { waiting, .. } => {
                        if !input.receive() || self.room == 0 {
                            continue;
                        }
                        let mut waiting = waiting.borrow_mut();
                        let Some(front) = waiting.front_mut() else { continue };
                        let batch = front.batch.split_to(events_max.min(self.room));
                        let whole = front.whole.clone();
                        if front.batch.is_empty() {
                            waiting.pop_front();
                        }
                        self.room -= batch.len();
                        self.parts.push((input.clone(), Part { batch: batch.clone(), whole }));
                        return Ok(batch);
                    }
                }
            }
            Ok(EventBatch::default())
        })
    }
    fn commit(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ChannelError>> {
        for (_, part) in self.parts.drain(..) {
            let open = part.whole.open.get() - part.batch.len();
            part.whole.open.set(open);
            if open == 0
                && let Some(delivered) = part.whole.delivered.take()
            {
                // The feeding shard may have gone: then the batch is delivered again later.
                let _ = delivered.send(());
            }
        }
        match self.own.take() {
            Some(transaction) => transaction.commit(),
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }
}

impl Drop for LaneTake {
    fn drop(&mut self) {
        for (input, part) in self.parts.drain(..).rev() {
            if let Input::Other { waiting, .. } = &*input {
                waiting.borrow_mut().push_front(part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{self, EngineKind, run_local, stop};
    use crate::testing::{drain_bodies, memory_channel, put};

    /// Takes at most `count` events; the transaction and the bodies.
    async fn take(channel: &dyn Channel, count: usize) -> (Box<dyn TakeTransaction>, Vec<String>) {
        let mut transaction = channel.begin_take().unwrap();
        let batch = transaction.take(count).await.unwrap();
        let bodies = batch.bodies().map(|b| String::from_utf8_lossy(b).into_owned()).collect();
        (transaction, bodies)
    }

    #[test]
    fn events_of_another_shard_arrive_in_order_and_are_committed_there() {
        run_local(EngineKind::Portable, |io| async move {
            let origin = memory_channel(&io, 100);
            put(&*origin, &[], &["1", "2", "3"]).await;
            put(&*origin, &[], &["4"]).await;
            let (sender, receiver) = handover();
            let (handle, view) = stop::channel();
            io::spawn(feed(origin.clone(), sender, view));
            let lane = LaneChannel::view("c1", 100, None, vec![receiver]);

            lane.wait_ready().await;
            let (first, bodies) = take(&*lane, 2).await;
            assert_eq!(bodies, ["1", "2"]);
            let (second, bodies) = take(&*lane, 9).await;
            assert_eq!(bodies, ["3"]);
            // Rolled back: comes again, before what follows.
            drop(second);
            first.commit().await.unwrap();
            let (second, bodies) = take(&*lane, 9).await;
            assert_eq!(bodies, ["3"]);
            second.commit().await.unwrap();
            let (third, bodies) = take(&*lane, 9).await;
            assert_eq!(bodies, ["4"]);
            // The lane goes away with the fourth event not committed: it is back where it came from.
            drop(third);
            drop(lane);
            crate::testing::expect(&io, || origin.len() == 1).await;
            assert_eq!(drain_bodies(&*origin).await, ["4"]);
            drop(handle);
        })
        .unwrap();
    }

    #[test]
    fn a_stopping_lane_waits_for_all_a_slow_shard_has() {
        run_local(EngineKind::Portable, |io| async move {
            let origin = memory_channel(&io, 100);
            put(&*origin, &[], &["1", "2"]).await;
            let (sender, receiver) = handover();
            let lane = LaneChannel::view("c1", 100, None, vec![receiver]);
            let (handle, view) = stop::channel();
            handle.request(Phase::Stopping);
            // Nothing has arrived, and the other shard does not get to run for a while.
            let (nothing, bodies) = take(&*lane, 9).await;
            assert!(bodies.is_empty());
            drop(nothing);
            {
                let mut last = lane.wait_last();
                let pending = poll_fn(|cx| Poll::Ready(last.as_mut().poll(cx).is_pending())).await;
                assert!(pending, "ended although the other shard may have events");
            }
            io::spawn(feed(origin.clone(), sender, view));
            let mut all = Vec::new();
            while lane.wait_last().await {
                let (transaction, bodies) = take(&*lane, 1).await;
                transaction.commit().await.unwrap();
                all.extend(bodies);
            }
            assert_eq!(all, ["1", "2"]);
            crate::testing::expect(&io, || origin.is_empty()).await;
        })
        .unwrap();
    }

    #[test]
    fn own_and_other_shards_take_turns() {
        run_local(EngineKind::Portable, |io| async move {
            let (own, other) = (memory_channel(&io, 100), memory_channel(&io, 100));
            for n in ["a", "b", "c"] {
                put(&*own, &[], &[n]).await;
                put(&*other, &[], &[&n.to_uppercase()]).await;
            }
            let (sender, receiver) = handover();
            let (_handle, view) = stop::channel();
            io::spawn(feed(other.clone(), sender, view));
            let lane = LaneChannel::view("c1", 100, Some(own), vec![receiver]);
            let mut all = Vec::new();
            while all.len() < 6 {
                lane.wait_ready().await;
                let (transaction, bodies) = take(&*lane, 1).await;
                transaction.commit().await.unwrap();
                all.extend(bodies);
            }
            let (mine, theirs): (Vec<String>, Vec<String>) =
                all.into_iter().partition(|b| b.chars().all(char::is_lowercase));
            assert_eq!((mine.concat(), theirs.concat()), ("abc".into(), "ABC".into()));
            crate::testing::expect(&io, || other.is_empty()).await;
        })
        .unwrap();
    }
}
