//! `regex_filter` interceptor: keeps or drops events by a regular expression.
//!
//! Flume: `org.apache.flume.interceptor.RegexFilteringInterceptor`. The expression may match anywhere in
//! the body. A batch of which nothing is dropped is not copied.

use std::sync::Arc;

use super::{Interceptor, InterceptorConfig, InterceptorEntry, ready};
use crate::codec::java_regex::JavaRegex;
use crate::component::OpenError;
use crate::config::{ParseContext, Pattern, Property, PropertySpec};
use crate::event::EventBatch;
use crate::io::{Io, LocalBoxFuture};

const REGEX: Property<Pattern> =
    Property::optional("regex", ".*", "Regular expression to search for, everywhere in the body.");
const EXCLUDE_EVENTS: Property<bool> =
    Property::optional("excludeEvents", "false", "Drop the events that match, instead of those that do not.");

/// Row of the registry.
pub const ENTRY: InterceptorEntry = InterceptorEntry {
    name: "regex_filter",
    class: "org.apache.flume.interceptor.RegexFilteringInterceptor$Builder",
    summary: "Keeps, or drops, the events whose body matches a regular expression.",
    properties: PROPERTIES,
    parse,
};

/// Every property the regex filter reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&REGEX, &EXCLUDE_EVENTS];

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn InterceptorConfig>> {
    let (regex, exclude) = (cx.get(&REGEX), cx.get(&EXCLUDE_EVENTS));
    Some(Arc::new(RegexFilter { regex: regex?.0, keeps_matching: !exclude? }))
}

struct RegexFilter {
    regex: JavaRegex,
    keeps_matching: bool,
}

impl InterceptorConfig for RegexFilter {
    fn open(self: Arc<Self>, _io: Io) -> LocalBoxFuture<'static, Result<Box<dyn Interceptor>, OpenError>> {
        ready(self)
    }
}

impl Interceptor for Arc<RegexFilter> {
    fn intercept(&mut self, batch: &mut EventBatch) {
        let keep: Vec<bool> = batch.bodies().map(|b| self.regex.is_match(b) == self.keeps_matching).collect();
        batch.retain(|index| keep[index]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{batch, parsed, shown, through};
    use super::*;

    #[test]
    fn keeps_or_drops() {
        let input = ["k=v|666 is http", "this is http", "099 telnet\r"];
        let table: [(&str, &[&str]); 4] = [
            ("regex = ^[0-9].*$\nexcludeEvents = false", &["{k=v} 666 is http", "{} 099 telnet\r"]),
            ("regex = ^[0-9].*$\nexcludeEvents = true", &["{} this is http"]),
            ("", &["{k=v} 666 is http", "{} this is http", "{} 099 telnet\r"]),
            ("regex = zzz", &[]),
        ];
        for (lines, expected) in table {
            assert_eq!(shown(&through(&ENTRY, lines, batch(&input))), expected, "{lines}");
        }
    }

    #[test]
    fn marks_stay_when_all_events_go() {
        let mut input = batch(&["a"]);
        input.set_mark(crate::event::SourceMark {
            source: "r1".into(),
            key: bytes::Bytes::from_static(b"k"),
            value: bytes::Bytes::from_static(b"1"),
        });
        let out = through(&ENTRY, "regex = b", input);
        assert_eq!((out.len(), out.marks().len()), (0, 1));
    }

    #[test]
    fn properties_are_checked() {
        assert!(
            parsed(&ENTRY, "regex = [").1[0].starts_with("error: a1.sources.x1.regex = \"[\": not a regular")
        );
    }
}
