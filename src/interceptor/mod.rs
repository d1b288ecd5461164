//! Interceptors: change or drop events between a source and its channels.
//!
//! Flume: `org.apache.flume.interceptor.Interceptor`. They run on the core of their source, on whole
//! batches: what sets one value for all events costs O(1) per batch, a regular expression works on slices
//! of the batch's body area.

use std::sync::Arc;

use crate::component::OpenError;
use crate::config::{ParseContext, PropertySpec};
use crate::event::{EventBatch, EventHeadersBuilder};
use crate::io::{Io, LocalBoxFuture};

pub mod fixed;
pub mod host;
pub mod regex_extractor;
pub mod regex_filter;
pub mod remove_header;
pub mod search_replace;
pub mod timestamp;
pub mod uuid;

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
    /// Headers every event has behind it, for the check of header names through a flow.
    fn headers_set(&self) -> Vec<String> {
        Vec::new()
    }
    /// True if no event has this header behind it.
    fn removes_header(&self, _name: &str) -> bool {
        false
    }
}

/// An interceptor of one shard.
pub trait Interceptor {
    /// Changes the batch. May drop events, never adds any. Marks stay.
    fn intercept(&mut self, batch: &mut EventBatch);
}

/// An interceptor that is ready without looking anything up.
fn ready(
    interceptor: impl Interceptor + 'static,
) -> LocalBoxFuture<'static, Result<Box<dyn Interceptor>, OpenError>> {
    Box::pin(std::future::ready(Ok(Box::new(interceptor) as Box<dyn Interceptor>)))
}

/// Gives each event the headers `add(index, builder)` adds, and keeps its own for which `keep(key)` holds.
fn rebuild_own_headers(
    batch: &mut EventBatch,
    mut keep: impl FnMut(usize, &str) -> bool,
    mut add: impl FnMut(usize, &mut EventHeadersBuilder),
) {
    let mut builder = EventHeadersBuilder::with_capacity(batch.len());
    for index in 0..batch.len() {
        if let Some(own) = batch.each() {
            own.iter(index).filter(|(key, _)| keep(index, key)).for_each(|(k, v)| builder.header(k, v));
        }
        add(index, &mut builder);
        builder.end_event();
    }
    batch.set_each(builder.finish());
}

#[cfg(test)]
mod tests {
    //! Fixtures for interceptors.

    use super::*;
    use crate::config::Kind;
    use crate::event::{BatchBuilder, Separator};
    use crate::io::{EngineKind, run_local};
    use crate::testing;

    /// What parsing an interceptor's properties gives.
    pub(super) fn parsed(
        entry: &InterceptorEntry,
        lines: &str,
    ) -> (Option<Arc<dyn InterceptorConfig>>, Vec<String>) {
        testing::parse(Kind::Source, lines, entry.parse)
    }

    /// Sends a batch through the interceptor these lines describe.
    pub(super) fn through(entry: &InterceptorEntry, lines: &str, mut batch: EventBatch) -> EventBatch {
        let (config, complaints) = parsed(entry, lines);
        assert_eq!(complaints, Vec::<String>::new(), "{lines}");
        run_local(EngineKind::Portable, |io| async move {
            let mut interceptor = config.unwrap().open(io).await.unwrap();
            interceptor.intercept(&mut batch);
            batch
        })
        .unwrap()
    }

    /// Events with these bodies; a body `k=v|text` gives the event a header of its own.
    pub(super) fn batch(events: &[&str]) -> EventBatch {
        let mut builder = BatchBuilder::new(Separator::Newline);
        for event in events {
            match event.split_once('|').and_then(|(header, body)| Some((header.split_once('=')?, body))) {
                Some(((key, value), body)) => {
                    builder.push(body.as_bytes());
                    builder.header(key, value);
                }
                None => builder.push(event.as_bytes()),
            }
        }
        builder.finish()
    }

    /// The events of a batch as `{k=v, k=v} body`, headers sorted.
    pub(super) fn shown(batch: &EventBatch) -> Vec<String> {
        let event = |index: usize| {
            let mut headers: Vec<String> = batch.headers(index).map(|(k, v)| format!("{k}={v}")).collect();
            headers.sort();
            format!("{{{}}} {}", headers.join(", "), String::from_utf8_lossy(batch.body(index)))
        };
        (0..batch.len()).map(event).collect()
    }
}
