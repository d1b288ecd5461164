//! What stands between a source and its channels: interceptors, then the selector, then one put
//! transaction per chosen channel.
//!
//! Flume: `org.apache.flume.channel.ChannelProcessor`.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Poll;

use crate::channel::{Channel, ChannelError};
use crate::event::{EventBatch, SourceMark};
use crate::interceptor::Interceptor;
use crate::io::LocalBoxFuture;
use crate::selector::{ChannelSelector, Routes};

/// Interceptors, selector and channels of one source on one shard.
pub struct ChannelProcessor {
    /// Borrowed only while a batch passes through, never across an await.
    route: RefCell<(Vec<Box<dyn Interceptor>>, Box<dyn ChannelSelector>)>,
    channels: Vec<Rc<dyn Channel>>,
}

/// A batch that has its place in the required channels.
pub struct Started {
    /// Resolves when all of them have committed, or with the first failure.
    pub required: LocalBoxFuture<'static, Result<(), ChannelError>>,
    /// Then puts it into the optional ones.
    pub optional: Option<LocalBoxFuture<'static, ()>>,
}

impl Started {
    /// Both, one after the other.
    pub async fn finish(self) -> Result<(), ChannelError> {
        self.required.await?;
        if let Some(optional) = self.optional {
            optional.await;
        }
        Ok(())
    }
}

/// One channel's part of a batch on its way to the disk.
struct Commit {
    running: LocalBoxFuture<'static, Result<(), ChannelError>>,
    outcome: Option<Result<(), ChannelError>>,
}

impl Commit {
    fn poll(&mut self, cx: &mut std::task::Context<'_>) {
        if self.outcome.is_none()
            && let Poll::Ready(outcome) = self.running.as_mut().poll(cx)
        {
            self.outcome = Some(outcome);
        }
    }
}

impl ChannelProcessor {
    /// A processor over the source's channels, in the order of its `channels` property.
    pub fn new(
        interceptors: Vec<Box<dyn Interceptor>>,
        selector: Box<dyn ChannelSelector>,
        channels: Vec<Rc<dyn Channel>>,
    ) -> Self {
        Self { route: RefCell::new((interceptors, selector)), channels }
    }

    /// Largest batch that fits one transaction of every channel.
    pub fn transaction_capacity(&self) -> usize {
        self.channels.iter().map(|c| c.transaction_capacity()).min().unwrap_or(usize::MAX).max(1)
    }

    /// True if what a channel accepted survives the process, for all channels.
    pub fn is_durable(&self) -> bool {
        self.channels.iter().all(|c| c.is_durable())
    }

    /// Marks of this source in every durable channel that may be required.
    ///
    /// With several channels a key counts only if all of them know it; the values are returned per channel
    /// so that the source can resume from the furthest position that all have passed. Channels that are
    /// only ever optional do not count: they may have missed batches that nobody repeats.
    pub fn marks(&self, source: &str) -> Vec<Vec<SourceMark>> {
        let (_, selector) = &*self.route.borrow();
        let channels = self.channels.iter().enumerate();
        let counting =
            channels.filter(|(index, channel)| channel.is_durable() && selector.may_require(*index));
        counting.map(|(_, channel)| channel.marks(source)).collect()
    }

    /// Puts a batch: one transaction per required channel in turn, then the optional ones. Resolves when
    /// all required channels have committed.
    ///
    /// # Errors
    /// The first failing required channel's. Channels that committed before keep their copy, as in Flume.
    pub async fn process_batch(&self, batch: EventBatch) -> Result<(), ChannelError> {
        let Some(routes) = self.route(batch) else { return Ok(()) };
        for (channel, batch) in routes.required {
            // Marks alone are nothing to a channel that forgets them.
            if batch.is_empty() && !self.channels[channel].is_durable() {
                continue;
            }
            self.put(channel, batch).await?;
        }
        self.put_optional(routes.optional).await;
        Ok(())
    }

    /// Waits for the sinks as [`Channel::keep_pace`] does, for all channels.
    pub async fn keep_pace(&self) {
        for channel in &self.channels {
            channel.keep_pace().await;
        }
    }

    /// As [`Self::process_batch`], in two steps: resolves when every required channel has room for the batch
    /// and the commits are under way. Batches keep the order of these calls although their commits overlap.
    ///
    /// # Errors
    /// The first required channel that has no room; nothing is committed then.
    pub async fn start_batch(self: &Rc<Self>, batch: EventBatch) -> Result<Started, ChannelError> {
        let Some(routes) = self.route(batch) else {
            return Ok(Started { required: Box::pin(std::future::ready(Ok(()))), optional: None });
        };
        let mut transactions = Vec::with_capacity(routes.required.len());
        for (channel, batch) in routes.required {
            if batch.is_empty() && !self.channels[channel].is_durable() {
                continue;
            }
            let mut transaction = self.channels[channel].begin_put()?;
            transaction.put(batch).await?;
            transactions.push(transaction);
        }
        let mut commits: Vec<_> =
            transactions.into_iter().map(|t| Commit { running: t.commit(), outcome: None }).collect();
        // The first poll takes the place in the channel; whoever starts later comes behind.
        std::future::poll_fn(|cx| {
            commits.iter_mut().for_each(|c| c.poll(cx));
            Poll::Ready(())
        })
        .await;
        let required = Box::pin(async move {
            // The first failure counts at once: whoever put a batch behind this one must not go on with it.
            std::future::poll_fn(|cx| {
                commits.iter_mut().for_each(|c| c.poll(cx));
                if let Some(failed) = commits.iter_mut().find(|c| matches!(c.outcome, Some(Err(_)))) {
                    return Poll::Ready(failed.outcome.take().unwrap_or(Ok(())));
                }
                if commits.iter().all(|c| c.outcome.is_some()) { Poll::Ready(Ok(())) } else { Poll::Pending }
            })
            .await
        });
        let (processor, optional) = (self.clone(), routes.optional);
        let optional = (!optional.is_empty()).then(|| {
            Box::pin(async move { processor.put_optional(optional).await }) as LocalBoxFuture<'static, ()>
        });
        Ok(Started { required, optional })
    }

    /// Interceptors and selector; `None` if nothing is left.
    fn route(&self, mut batch: EventBatch) -> Option<Routes> {
        Some({
            let (interceptors, selector) = &mut *self.route.borrow_mut();
            for interceptor in interceptors {
                if batch.is_empty() {
                    break;
                }
                interceptor.intercept(&mut batch);
            }
            // An empty batch may still carry marks: the position moves past filtered lines.
            if batch.is_empty() && batch.marks().is_empty() {
                return None;
            }
            selector.select(batch)
        })
    }

    async fn put_optional(&self, optional: Vec<(usize, EventBatch)>) {
        for (channel, batch) in optional {
            let events = batch.len();
            if let Err(error) = self.put(channel, batch).await {
                let name = self.channels[channel].name();
                tracing::warn!(channel = name, events, %error, "optional channel did not take a batch; it goes on without");
            }
        }
    }

    /// As [`Self::process_batch`], but in as many transactions as the channels' transaction capacity asks
    /// for. For sources whose batches are our own grouping and not the sender's.
    ///
    /// # Errors
    /// The number of events committed before the failing part, and the error.
    pub async fn process_stream(&self, mut batch: EventBatch) -> Result<(), (usize, ChannelError)> {
        let most = self.transaction_capacity();
        let mut done = 0;
        while batch.len() > most {
            let part = batch.split_to(most);
            self.process_batch(part).await.map_err(|e| (done, e))?;
            done += most;
        }
        self.process_batch(batch).await.map_err(|e| (done, e))
    }

    async fn put(&self, channel: usize, batch: EventBatch) -> Result<(), ChannelError> {
        let mut transaction = self.channels[channel].begin_put()?;
        transaction.put(batch).await?;
        transaction.commit().await
    }
}
