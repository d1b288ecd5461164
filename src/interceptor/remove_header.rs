//! `remove_header` interceptor: takes headers off by name, from a list or by pattern.
//!
//! Flume: `org.apache.flume.interceptor.RemoveHeaderInterceptor`.

use std::sync::Arc;

use super::{Interceptor, InterceptorConfig, InterceptorEntry, ready};
use crate::codec::java_regex::JavaRegex;
use crate::component::OpenError;
use crate::config::{ParseContext, Pattern, Property, PropertySpec};
use crate::event::EventBatch;
use crate::io::{Io, LocalBoxFuture};

const WITH_NAME: Property<String> = Property::absent("withName", "Header to remove.");
const FROM_LIST: Property<String> =
    Property::absent("fromList", "Headers to remove, see `fromListSeparator`.");
const FROM_LIST_SEPARATOR: Property<Pattern> = Property::optional(
    "fromListSeparator",
    r"\s*,\s*",
    "Regular expression between the names of `fromList`.",
);
const MATCHING: Property<Pattern> =
    Property::absent("matching", "Regular expression; headers whose whole name matches it are removed.");

/// Row of the registry.
pub const ENTRY: InterceptorEntry = InterceptorEntry {
    name: "remove_header",
    class: "org.apache.flume.interceptor.RemoveHeaderInterceptor$Builder",
    summary: "Removes headers by name, list or pattern.",
    properties: PROPERTIES,
    parse,
};

/// Every property the remove-header interceptor reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&WITH_NAME, &FROM_LIST, &FROM_LIST_SEPARATOR, &MATCHING];

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn InterceptorConfig>> {
    let (name, list) = (cx.get_opt(&WITH_NAME), cx.get_opt(&FROM_LIST));
    let (separator, matching) = (cx.get(&FROM_LIST_SEPARATOR), cx.get_opt(&MATCHING));
    let (name, list, separator, matching) = (name?, list?, separator?, matching?);
    if name.is_none() && list.is_none() && matching.is_none() {
        let hint = format!("add: {} = <header>", cx.full_key("withName"));
        cx.warning(
            "withName",
            "neither withName, fromList nor matching is set: nothing is removed",
            Some(hint),
        );
    }
    let mut names: Vec<String> = name.into_iter().collect();
    names.extend(list.iter().flat_map(|list| split(list, &separator.0)));
    Some(Arc::new(RemoveHeader { names, matching: matching.map(|m| m.0) }))
}

/// Java's `String.split`: what lies between the matches, without empty pieces at the end.
fn split(list: &str, separator: &JavaRegex) -> Vec<String> {
    let (mut pieces, mut from, mut at) = (Vec::new(), 0, 0);
    let mut groups = separator.groups();
    while at <= list.len() && separator.find_at(list.as_bytes(), at, &mut groups) {
        let Some(found) = groups.get(0) else { break };
        if found.is_empty() {
            // An expression that matches nothing separates every character; names are no characters.
            at = found.end + 1;
            continue;
        }
        pieces.push(list[from..found.start].to_owned());
        (from, at) = (found.end, found.end);
    }
    pieces.push(list[from..].to_owned());
    while pieces.last().is_some_and(String::is_empty) {
        pieces.pop();
    }
    pieces
}

#[derive(Debug)]
struct RemoveHeader {
    names: Vec<String>,
    matching: Option<JavaRegex>,
}

impl InterceptorConfig for RemoveHeader {
    fn open(self: Arc<Self>, _io: Io) -> LocalBoxFuture<'static, Result<Box<dyn Interceptor>, OpenError>> {
        ready(self)
    }
    fn removes_header(&self, name: &str) -> bool {
        !self.keeps(name)
    }
}

impl RemoveHeader {
    fn keeps(&self, key: &str) -> bool {
        !self.names.iter().any(|name| name == key)
            && !self.matching.as_ref().is_some_and(|matching| matching.is_full_match(key.as_bytes()))
    }
}

impl Interceptor for Arc<RemoveHeader> {
    fn intercept(&mut self, batch: &mut EventBatch) {
        batch.retain_headers(|key, _| self.keeps(key));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{batch, parsed, shown, through};
    use super::*;

    fn input() -> EventBatch {
        let mut batch = batch(&["a=1|x", "b=2|y", "ab=3|z"]);
        batch.common_mut().insert("common", "0");
        batch
    }

    #[test]
    fn removes_what_is_named() {
        let table: [(&str, [&str; 3]); 6] = [
            ("withName = a", ["{common=0} x", "{b=2, common=0} y", "{ab=3, common=0} z"]),
            ("withName = common", ["{a=1} x", "{b=2} y", "{ab=3} z"]),
            ("fromList = a , b,zz", ["{common=0} x", "{common=0} y", "{ab=3, common=0} z"]),
            ("fromList = a;common\nfromListSeparator = ;", ["{} x", "{b=2} y", "{ab=3} z"]),
            ("matching = a.?", ["{common=0} x", "{b=2, common=0} y", "{common=0} z"]),
            ("matching = a\nwithName = b\nfromList = ab", ["{common=0} x", "{common=0} y", "{common=0} z"]),
        ];
        for (lines, expected) in table {
            assert_eq!(shown(&through(&ENTRY, lines, input())), expected, "{lines}");
        }
    }

    #[test]
    fn properties_are_checked() {
        assert!(parsed(&ENTRY, "").1[0].contains("nothing is removed"));
        assert!(parsed(&ENTRY, "matching = (").1[0].contains("matching = \"(\": not a regular expression"));
    }
}
