//! Sink processors: which sink of a group delivers next.
//!
//! Flume: `org.apache.flume.SinkProcessor`. All sinks of a group are called from one task, one at a time.

use std::sync::Arc;

use crate::config::{ParseContext, PropertySpec};
use crate::io::{Io, LocalBoxFuture};
use crate::sink::{DeliveryError, Sink, Status};

pub mod default;

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
