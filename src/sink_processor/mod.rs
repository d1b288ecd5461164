//! Sink processors: which sink of a group delivers next.
//!
//! Flume: `org.apache.flume.SinkProcessor`. All sinks of a group are called from one task, one at a time.

use std::sync::Arc;

use crate::config::{ParseContext, PropertySpec};
use crate::io::{Io, LocalBoxFuture};
use crate::sink::{DeliveryError, Sink, Status};

pub mod default;
pub mod failover;
pub mod load_balance;

/// One row of the registry's table of sink processors.
pub struct ProcessorEntry {
    /// Flume's alias.
    pub name: &'static str,
    /// Flume's class name.
    pub class: &'static str,
    /// One sentence for `describe`.
    pub summary: &'static str,
    /// Every property it reads, below `processor.`.
    pub properties: &'static [&'static dyn PropertySpec],
    /// Text to config; the names are the group's sinks. `None` only after a complaint.
    pub parse: fn(&mut ParseContext<'_>, &[String]) -> Option<Arc<dyn ProcessorConfig>>,
}

/// A parsed sink processor.
pub trait ProcessorConfig: Send + Sync {
    /// Makes the processor for one lane over the group's opened sinks.
    fn build(&self, io: Io, sinks: Vec<NamedSink>) -> Box<dyn SinkProcessor>;
}

/// A sink with its name.
pub struct NamedSink {
    /// The component's name.
    pub name: Arc<str>,
    /// The opened sink.
    pub sink: Box<dyn Sink>,
}

/// Calls the sinks of a group.
pub trait SinkProcessor {
    /// Lets one sink process, and others if it fails, as the policy says.
    fn process(&mut self) -> LocalBoxFuture<'_, Result<Status, DeliveryError>>;
    /// Every sink of the group, for ticks and stop.
    fn sinks_mut(&mut self) -> &mut [NamedSink];
}

/// The error when no sink of a group could deliver: Flume's words, and why each failed.
fn all_failed(what: &str, sinks: &[NamedSink], errors: Vec<Option<DeliveryError>>) -> DeliveryError {
    let reasons: Vec<String> = sinks
        .iter()
        .zip(errors)
        .filter_map(|(sink, error)| Some(format!("{}: {}", sink.name, error?)))
        .collect();
    match reasons.is_empty() {
        true => DeliveryError::Destination(format!("{what} (all rest after earlier failures)")),
        false => DeliveryError::Destination(format!("{what} ({})", reasons.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    //! Sinks that answer as a test tells them.

    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    pub(super) enum Answer {
        Ready,
        Empty,
        Backoff,
        Fail,
    }

    #[derive(Clone, Default)]
    pub(super) struct Script(Rc<RefCell<(Vec<Answer>, Vec<usize>)>>);
    impl Script {
        pub(super) fn answers(&self, answers: &[Answer]) {
            self.0.borrow_mut().0 = answers.to_vec();
        }
        /// Which sinks were asked since the last time, in order.
        pub(super) fn asked(&self) -> Vec<usize> {
            std::mem::take(&mut self.0.borrow_mut().1)
        }
    }

    struct Scripted(usize, Script);
    impl Sink for Scripted {
        fn process(&mut self) -> LocalBoxFuture<'_, Result<Status, DeliveryError>> {
            let mut script = self.1.0.borrow_mut();
            script.1.push(self.0);
            let answer = match script.0[self.0] {
                Answer::Ready => Ok(Status::Ready),
                Answer::Empty => Ok(Status::Empty),
                Answer::Backoff => Ok(Status::Backoff),
                Answer::Fail => Err(DeliveryError::Destination("broken".to_owned())),
            };
            Box::pin(std::future::ready(answer))
        }
        fn stop(&mut self) -> LocalBoxFuture<'_, ()> {
            Box::pin(async {})
        }
        fn describe(&self) -> String {
            String::new()
        }
    }

    /// Sinks `k1`, `k2` … under one script.
    pub(super) fn scripted(count: usize) -> (Vec<NamedSink>, Script) {
        let script = Script::default();
        let sink = |index: usize| NamedSink {
            name: format!("k{}", index + 1).into(),
            sink: Box::new(Scripted(index, script.clone())),
        };
        ((0..count).map(sink).collect(), script)
    }

    /// Runs a future that never waits.
    pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(value) => value,
            std::task::Poll::Pending => panic!("the future waits"),
        }
    }
}
