//! `search_replace` interceptor: edits bodies with a regular expression.
//!
//! Flume: `org.apache.flume.interceptor.SearchAndReplaceInterceptor`, with Java's `replaceAll` rules. A
//! batch in which nothing matches is not copied.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::{Interceptor, InterceptorConfig, InterceptorEntry, ready};
use crate::codec::charset::Charset;
use crate::codec::java_regex::{Groups, JavaRegex, Replacement, as_java_sees};
use crate::component::OpenError;
use crate::config::{ParseContext, Pattern, Property, PropertySpec};
use crate::event::EventBatch;
use crate::io::{Io, LocalBoxFuture};

const SEARCH_PATTERN: Property<Pattern> =
    Property::required("searchPattern", "Regular expression to search for, everywhere in the body.");
const REPLACE_STRING: Property<String> = Property::absent(
    "replaceString",
    r"What replaces each match: `$1` or `${name}` stand for groups, `\$` for a dollar sign. Not set: nothing.",
);
const CHARSET: Property<Charset> = Property::optional("charset", "UTF-8", "Character set of the bodies.");

/// Row of the registry.
pub const ENTRY: InterceptorEntry = InterceptorEntry {
    name: "search_replace",
    class: "org.apache.flume.interceptor.SearchAndReplaceInterceptor$Builder",
    summary: "Replaces what matches a regular expression in bodies.",
    properties: PROPERTIES,
    parse,
};

/// Every property the search-and-replace interceptor reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&SEARCH_PATTERN, &REPLACE_STRING, &CHARSET];

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn InterceptorConfig>> {
    let (pattern, text, charset) = (cx.get(&SEARCH_PATTERN), cx.get_opt(&REPLACE_STRING), cx.get(&CHARSET));
    let pattern = pattern?.0;
    let replacement = match Replacement::new(&text?.unwrap_or_default(), &pattern) {
        Ok(replacement) => replacement,
        Err(error) => {
            cx.error("replaceString", error, Some(r"groups are $1, $2, …; a dollar sign is \$".to_owned()));
            return None;
        }
    };
    Some(Arc::new(Config { pattern, replacement, charset: charset? }))
}

#[derive(Debug)]
struct Config {
    pattern: JavaRegex,
    replacement: Replacement,
    charset: Charset,
}

impl InterceptorConfig for Config {
    fn open(self: Arc<Self>, _io: Io) -> LocalBoxFuture<'static, Result<Box<dyn Interceptor>, OpenError>> {
        let groups = self.pattern.groups();
        ready(SearchReplace { config: self, groups, edited: BytesMut::new() })
    }
}

struct SearchReplace {
    config: Arc<Config>,
    groups: Groups,
    /// An edited body that is not in UTF-8, before it is encoded.
    edited: BytesMut,
}

impl Interceptor for SearchReplace {
    fn intercept(&mut self, batch: &mut EventBatch) {
        let Self { config, groups, edited } = self;
        let Config { pattern, replacement, charset } = &**config;
        if *charset == Charset::Utf8 {
            if batch.bodies().any(|body| pattern.is_match(body)) {
                batch.map_bodies(|body, out| {
                    if !pattern.replace_all(&as_java_sees(body), replacement, groups, out) {
                        out.put_slice(body);
                    }
                });
            }
            return;
        }
        batch.map_bodies(|body, out| {
            edited.clear();
            match pattern.replace_all(charset.decode(body).as_bytes(), replacement, groups, edited) {
                true => charset.encode(&String::from_utf8_lossy(edited), out),
                false => out.put_slice(body),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{batch, parsed, shown, through};
    use super::*;
    use crate::event::Headers;

    #[test]
    fn replaces_in_every_body() {
        let out = through(&ENTRY, "searchPattern = ^[A-Za-z0-9_]+", batch(&["k=v|word rest", " x", "abc"]));
        assert_eq!(shown(&out), ["{k=v}  rest", "{}  x", "{} "], "an empty replaceString is none at all");
        let out = through(
            &ENTRY,
            "searchPattern = The quick brown ([a-z]+) jumped over the lazy ([a-z]+)\n\
             replaceString = The hungry $2 ate the careless $1",
            batch(&["The quick brown fox jumped over the lazy dog"]),
        );
        assert_eq!(out.body(0), b"The hungry dog ate the careless fox");
    }

    #[test]
    fn without_a_match_nothing_is_copied() {
        let input = batch(&["abc", "d"]);
        let body = input.body(0).as_ptr();
        assert_eq!(through(&ENTRY, "searchPattern = z", input).body(0).as_ptr(), body);
    }

    #[test]
    fn other_character_sets() {
        let input = EventBatch::single(Headers::new(), vec![b'a', 0xe9, b'b']);
        let out =
            through(&ENTRY, "searchPattern = \u{e9}\nreplaceString = \u{e8}\ncharset = ISO-8859-1", input);
        assert_eq!(out.body(0), [b'a', 0xe8, b'b']);
        let input = EventBatch::single(Headers::new(), vec![b'a', 0xff, b'b']);
        let out = through(&ENTRY, "searchPattern = z", input);
        assert_eq!(
            out.body(0),
            [b'a', 0xff, b'b'],
            "a body that is no UTF-8 and does not match stays as it is"
        );
    }

    #[test]
    fn properties_are_checked() {
        for (lines, part) in [
            ("", "searchPattern: is required and not set"),
            ("searchPattern = (?=x)", "look-ahead"),
            ("searchPattern = a\nreplaceString = $1", "replaceString = \"$1\": the pattern has no group 1"),
            ("searchPattern = a\ncharset = UTF-7", "charset = \"UTF-7\": not a character set"),
        ] {
            let (config, complaints) = parsed(&ENTRY, lines);
            assert!(config.is_none() && complaints[0].contains(part), "{lines}: {complaints:?}");
        }
    }
}
