//! `timestamp` interceptor: when the event passed, in milliseconds since 1970, as a header.
//!
//! Flume: `org.apache.flume.interceptor.TimestampInterceptor`. One value per batch, O(1).

use std::sync::Arc;

use super::{Interceptor, InterceptorConfig, InterceptorEntry, ready};
use crate::component::OpenError;
use crate::config::{ParseContext, Property, PropertySpec};
use crate::event::EventBatch;
use crate::io::{Io, LocalBoxFuture};

const HEADER_NAME: Property<String> = Property::optional("headerName", "timestamp", "Header to set.");
const HEADER: Property<String> =
    Property::absent("header", "The name some documentation gives `headerName`; counts if that is not set.");
const PRESERVE_EXISTING: Property<bool> =
    Property::optional("preserveExisting", "false", "Leave events alone that have the header.");

/// Row of the registry.
pub const ENTRY: InterceptorEntry = InterceptorEntry {
    name: "timestamp",
    class: "org.apache.flume.interceptor.TimestampInterceptor$Builder",
    summary: "Sets a header to the time the event passed, in milliseconds since 1970.",
    properties: PROPERTIES,
    parse,
};

/// Every property the timestamp interceptor reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&HEADER_NAME, &HEADER, &PRESERVE_EXISTING];

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn InterceptorConfig>> {
    let header = match cx.raw("headerName") {
        Some(_) => cx.get(&HEADER_NAME),
        None => cx.get_opt(&HEADER)?.or_else(|| cx.get(&HEADER_NAME)),
    };
    let preserve = cx.get(&PRESERVE_EXISTING);
    Some(Arc::new(Config { header: header?, preserve: preserve? }))
}

struct Config {
    header: String,
    preserve: bool,
}

impl InterceptorConfig for Config {
    fn open(self: Arc<Self>, io: Io) -> LocalBoxFuture<'static, Result<Box<dyn Interceptor>, OpenError>> {
        ready(Timestamp { config: self, io })
    }
    fn headers_set(&self) -> Vec<String> {
        vec![self.header.clone()]
    }
}

struct Timestamp {
    config: Arc<Config>,
    io: Io,
}

impl Interceptor for Timestamp {
    fn intercept(&mut self, batch: &mut EventBatch) {
        let now = self.io.unix_time().as_millis().to_string();
        batch.set_header(&self.config.header, &now, self.config.preserve);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{batch, parsed, through};
    use super::*;

    fn is_recent(text: Option<&str>) -> bool {
        // Between 2020 and 2100.
        text.and_then(|t| t.parse::<u64>().ok())
            .is_some_and(|ms| (1_577_836_800_000..4_102_444_800_000).contains(&ms))
    }

    #[test]
    fn sets_the_time() {
        let out = through(&ENTRY, "", batch(&["a", "timestamp=5|b"]));
        assert!(is_recent(out.header(0, "timestamp")) && is_recent(out.header(1, "timestamp")));
        assert_eq!(out.body(1), b"b");
    }

    #[test]
    fn names_and_preserves() {
        for name in ["headerName = at", "header = at", "headerName = at\nheader = other"] {
            let out = through(&ENTRY, &format!("{name}\npreserveExisting = true"), batch(&["a", "at=5|b"]));
            assert!(is_recent(out.header(0, "at")));
            assert_eq!(out.header(1, "at"), Some("5"));
            assert_eq!(out.header(0, "timestamp"), None);
        }
        assert!(parsed(&ENTRY, "preserveExisting = yes").1[0].starts_with("warning"));
    }
}
