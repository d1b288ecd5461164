//! `static` interceptor: the same header with the same value on every event.
//!
//! Flume: `org.apache.flume.interceptor.StaticInterceptor`. O(1) per batch.

use std::sync::Arc;

use super::{Interceptor, InterceptorConfig, InterceptorEntry, ready};
use crate::component::OpenError;
use crate::config::{ParseContext, Property, PropertySpec};
use crate::event::EventBatch;
use crate::io::{Io, LocalBoxFuture};

const KEY: Property<String> = Property::optional("key", "key", "Header to set.");
const VALUE: Property<String> = Property::optional("value", "value", "Its value.");
const PRESERVE_EXISTING: Property<bool> =
    Property::optional("preserveExisting", "true", "Leave events alone that have the header.");

/// Row of the registry.
pub const ENTRY: InterceptorEntry = InterceptorEntry {
    name: "static",
    class: "org.apache.flume.interceptor.StaticInterceptor$Builder",
    summary: "Sets one header to one value on every event.",
    properties: PROPERTIES,
    parse,
};

/// Every property the static interceptor reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&KEY, &VALUE, &PRESERVE_EXISTING];

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn InterceptorConfig>> {
    let (key, value, preserve) = (cx.get(&KEY), cx.get(&VALUE), cx.get(&PRESERVE_EXISTING));
    Some(Arc::new(Fixed { key: key?, value: value?, preserve: preserve? }))
}

struct Fixed {
    key: String,
    value: String,
    preserve: bool,
}

impl InterceptorConfig for Fixed {
    fn open(self: Arc<Self>, _io: Io) -> LocalBoxFuture<'static, Result<Box<dyn Interceptor>, OpenError>> {
        ready(self)
    }
    fn headers_set(&self) -> Vec<String> {
        vec![self.key.clone()]
    }
}

impl Interceptor for Arc<Fixed> {
    fn intercept(&mut self, batch: &mut EventBatch) {
        batch.set_header(&self.key, &self.value, self.preserve);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{batch, shown, through};
    use super::*;

    #[test]
    fn sets_and_preserves() {
        let table = [
            ("", "dc=x|b", ["{key=value} a", "{dc=x, key=value} b"]),
            ("key = dc\nvalue = NEW_YORK", "dc=x|b", ["{dc=NEW_YORK} a", "{dc=x} b"]),
            (
                "key = dc\nvalue = NEW_YORK\npreserveExisting = false",
                "dc=x|b",
                ["{dc=NEW_YORK} a", "{dc=NEW_YORK} b"],
            ),
        ];
        for (lines, second, expected) in table {
            assert_eq!(shown(&through(&ENTRY, lines, batch(&["a", second]))), expected, "{lines}");
        }
    }

    #[test]
    fn bodies_are_not_copied() {
        let input = batch(&["a", "b"]);
        let body = input.body(0).as_ptr();
        let out = through(&ENTRY, "", input);
        assert_eq!(out.body(0).as_ptr(), body);
        assert!(out.each().is_none(), "one header for the whole batch");
    }
}
