//! Interceptors: change or drop events between a source and its channels.

use std::sync::Arc;

use crate::component::OpenError;
use crate::config::{ParseContext, PropertySpec};
use crate::event::EventBatch;
use crate::io::{Io, LocalBoxFuture};

/// One row of the registry's table of interceptors.
pub struct InterceptorEntry {
    /// Flume's alias; empty if Flume knows it by class name only.
    pub name: &'static str,
    /// Class name of Flume's builder, for example `org.apache.flume.interceptor.HostInterceptor$Builder`.
    pub class: &'static str,
    /// One sentence for `describe`.
    pub summary: &'static str,
    /// Every property it reads, below `interceptors.<name>.`.
    pub properties: &'static [&'static dyn PropertySpec],
    /// Text to config. `None` only after a complaint.
    pub parse: fn(&mut ParseContext<'_>) -> Option<Arc<dyn InterceptorConfig>>,
}

/// A parsed interceptor.
pub trait InterceptorConfig: Send + Sync {
    /// Makes the interceptor for one shard; looks up what it needs of the world (the host's address).
    fn open(self: Arc<Self>, io: Io) -> LocalBoxFuture<'static, Result<Box<dyn Interceptor>, OpenError>>;
}

/// An interceptor of one shard.
pub trait Interceptor {
    /// Changes the batch. May drop events, never adds any. Marks stay.
    fn intercept(&mut self, batch: &mut EventBatch);
}
