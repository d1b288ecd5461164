//! Takes of a sink that makes many events durable at once.
//!
//! A file is synced at the same price for one event as for 4 MiB, so while there is a backlog a sink takes
//! transaction after transaction and syncs once for all of them.

use std::time::Duration;

use crate::channel::{Channel, ChannelError, TakeTransaction};
use crate::event::EventBatch;
use crate::io::Io;
use crate::metrics::SinkCounters;

/// Bodies after which a group is full: one sync per 4 MiB costs little beside none at all.
pub const GROUP_BYTES: u64 = 4 * 1024 * 1024;
/// Time after which a group is full.
pub const GROUP_TIME: Duration = Duration::from_millis(100);

/// Open take transactions whose events are delivered together.
///
/// Dropped, it rolls back the last transaction first, so that the events go back to the head of the channel
/// in their order.
#[derive(Default)]
pub struct Group {
    transactions: Vec<(Box<dyn TakeTransaction>, u64)>,
    body_bytes: u64,
    began: Option<Duration>,
    exhausted: bool,
}

impl Group {
    /// Takes the next transaction's events, at most `batch_size`. `None` when the group is full or the
    /// channel has no more; counts batches as Flume does.
    ///
    /// # Errors
    /// The channel's. What was taken before stays in the group.
    pub async fn next(
        &mut self,
        channel: &dyn Channel,
        batch_size: usize,
        io: &Io,
        counters: &SinkCounters,
    ) -> Result<Option<Vec<EventBatch>>, ChannelError> {
        let began = *self.began.get_or_insert_with(|| io.now());
        if self.exhausted || self.body_bytes >= GROUP_BYTES || io.now() - began >= GROUP_TIME {
            return Ok(None);
        }
        let read = async {
            let mut transaction = channel.begin_take()?;
            let (mut batches, mut events) = (Vec::new(), 0);
            while events < batch_size {
                let batch = transaction.take(batch_size - events).await?;
                if batch.is_empty() {
                    break;
                }
                events += batch.len();
                batches.push(batch);
            }
            Ok((transaction, batches, events))
        };
        let (transaction, batches, events) = read.await.inspect_err(|_| counters.channel_read_fail.add(1))?;
        self.exhausted = events < batch_size;
        if events > 0 || self.transactions.is_empty() {
            counters.took(events, batch_size);
        }
        if events == 0 {
            return Ok(None);
        }
        self.body_bytes += batches.iter().map(EventBatch::body_bytes).sum::<u64>();
        self.transactions.push((transaction, events as u64));
        Ok(Some(batches))
    }

    /// True if nothing was taken.
    pub fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }
    /// Lets no further transaction in.
    pub fn close(&mut self) {
        self.exhausted = true;
    }

    /// Everything is delivered: commits the transactions in order and counts their events.
    ///
    /// # Errors
    /// The channel's; the transactions that were not committed are rolled back.
    pub async fn commit(mut self, counters: &SinkCounters) -> Result<(), ChannelError> {
        self.transactions.reverse();
        while let Some((transaction, events)) = self.transactions.pop() {
            if let Err(error) = transaction.commit().await {
                self.transactions.reverse();
                return Err(error);
            }
            counters.event_drain_success.add(events);
        }
        Ok(())
    }

    /// Gives the transactions away, each with its number of events, in order.
    pub fn into_transactions(mut self) -> Vec<(Box<dyn TakeTransaction>, u64)> {
        std::mem::take(&mut self.transactions)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        while let Some(last) = self.transactions.pop() {
            drop(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{EngineKind, run_local};
    use crate::testing;

    #[test]
    fn groups_transactions_and_rolls_back_in_order() {
        run_local(EngineKind::Portable, |io| async move {
            let channel = testing::memory_channel(&io, 10);
            testing::put(&*channel, &[], &["a", "b", "c", "d", "e"]).await;
            let counters = SinkCounters::default();
            let mut group = Group::default();
            let mut bodies = Vec::new();
            while let Some(batches) = group.next(&*channel, 2, &io, &counters).await.unwrap() {
                bodies.push(batches.iter().map(EventBatch::len).sum::<usize>());
            }
            assert_eq!(bodies, [2, 2, 1]);
            assert_eq!((counters.batch_complete.value(), counters.batch_underflow.value()), (2, 1));
            drop(group);
            assert_eq!(testing::drain_bodies(&*channel).await, ["a", "b", "c", "d", "e"]);

            testing::put(&*channel, &[], &["f"]).await;
            let mut group = Group::default();
            assert!(group.next(&*channel, 2, &io, &counters).await.unwrap().is_some());
            assert!(group.next(&*channel, 2, &io, &counters).await.unwrap().is_none());
            group.commit(&counters).await.unwrap();
            assert_eq!(counters.event_drain_success.value(), 1);
            let mut group = Group::default();
            assert!(group.next(&*channel, 2, &io, &counters).await.unwrap().is_none());
            assert!(group.is_empty());
            assert_eq!(counters.batch_empty.value(), 1);
        })
        .unwrap();
    }
}
