//! `regex_extractor` interceptor: groups of a regular expression become headers.
//!
//! Flume: `org.apache.flume.interceptor.RegexExtractorInterceptor`. The first match in the body counts:
//! its first group goes through the first serializer into that serializer's header, and so on. A group
//! that did not take part in the match sets nothing (Flume puts a null there, which breaks later parts).

use std::fmt::Write as _;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::{Interceptor, InterceptorConfig, InterceptorEntry, ready, rebuild_own_headers};
use crate::codec::date_pattern::{DatePattern, Dialect};
use crate::codec::java_regex::{Groups, JavaRegex, as_java_sees};
use crate::component::OpenError;
use crate::config::{ParseContext, Pattern, Property, PropertySpec, PropertyValue, Specs, Words};
use crate::event::EventBatch;
use crate::io::{Io, LocalBoxFuture};

const REGEX: Property<Pattern> =
    Property::required("regex", "Regular expression with groups; its first match in the body counts.");
const SERIALIZERS: Property<Words> = Property::required(
    "serializers",
    "Names, separated by blanks: the first is for the first group, and so on. Further groups are left out.",
)
.example("s1 s2");
/// What stands below `serializers.<name>.`, for the reference; read by [`parse_serializer`].
const SERIALIZER: Property<String> = Property::family(
    "serializers.",
    "`serializers.<s>.name` (required): header to set. `serializers.<s>.type`: `default` takes the text as it is, \
     `org.apache.flume.interceptor.RegexExtractorInterceptorMillisSerializer` reads a date in the form of \
     `serializers.<s>.pattern` (Joda-Time letters, local time zone) and writes milliseconds since 1970.",
)
.members(|get| {
    let names = get("serializers")?;
    const MEMBERS: Specs = &[&NAME, &TYPE, &PATTERN];
    let member = |name: &str| (format!("serializers.{name}."), MEMBERS);
    Some(names.split_whitespace().map(member).collect())
});
const NAME: Property<String> = Property::required("name", "Header to set.").example("host");
const TYPE: Property<Type> =
    Property::optional("type", "DEFAULT", "How the text becomes the header's value.");
const PATTERN: Property<JodaPattern> =
    Property::required("pattern", "Form of the date, in the pattern letters of Joda-Time.");

/// Row of the registry.
pub const ENTRY: InterceptorEntry = InterceptorEntry {
    name: "regex_extractor",
    class: "org.apache.flume.interceptor.RegexExtractorInterceptor$Builder",
    summary: "Sets headers from the groups of a regular expression.",
    properties: PROPERTIES,
    parse,
};

/// Every property the regex extractor reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&REGEX, &SERIALIZERS, &SERIALIZER];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    PassThrough,
    Millis,
}

impl PropertyValue for Type {
    const KIND: &'static str = "serializer";
    const EXAMPLE: &'static str = "DEFAULT";
    fn parse(text: &str) -> Result<Self, String> {
        const PASS_THROUGH: &str =
            "org.apache.flume.interceptor.RegexExtractorInterceptorPassThroughSerializer";
        const MILLIS: &str = "org.apache.flume.interceptor.RegexExtractorInterceptorMillisSerializer";
        // Flume takes the lower-case `default` of its own guide for a class name.
        match text {
            _ if text.eq_ignore_ascii_case("default") || text == PASS_THROUGH => Ok(Self::PassThrough),
            MILLIS => Ok(Self::Millis),
            _ => Err(format!("not a serializer; use DEFAULT or {MILLIS}")),
        }
    }
}

struct JodaPattern(DatePattern);

impl PropertyValue for JodaPattern {
    const KIND: &'static str = "date pattern";
    const EXAMPLE: &'static str = "yyyy-MM-dd HH:mm";
    fn parse(text: &str) -> Result<Self, String> {
        DatePattern::new(text, Dialect::Joda).map(Self).map_err(|e| format!("not a date pattern: it {e}"))
    }
}

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn InterceptorConfig>> {
    let (regex, names) = (cx.get(&REGEX), cx.get(&SERIALIZERS));
    let names = names?.0;
    let mut serializers = Vec::with_capacity(names.len());
    for name in &names {
        serializers.push(parse_serializer(&mut cx.below(&format!("serializers.{name}."))));
    }
    let regex = regex?.0;
    if regex.group_count() < names.len() {
        let message = format!(
            "names {} serializers, but the expression has {} groups",
            names.len(),
            regex.group_count()
        );
        cx.warning(
            "serializers",
            message,
            Some("put parentheses around what is to become a header".to_owned()),
        );
    }
    let serializers = serializers.into_iter().collect::<Option<Vec<Serializer>>>()?;
    Some(Arc::new(Config { regex, serializers }))
}

fn parse_serializer(cx: &mut ParseContext<'_>) -> Option<Serializer> {
    let (header, kind) = (cx.get(&NAME), cx.get(&TYPE));
    let millis = match kind? {
        Type::PassThrough => None,
        Type::Millis => Some(cx.get(&PATTERN)?.0),
    };
    Some(Serializer { header: header?, millis })
}

#[derive(Debug)]
struct Serializer {
    header: String,
    /// `None`: the text as it is.
    millis: Option<DatePattern>,
}

#[derive(Debug)]
struct Config {
    regex: JavaRegex,
    serializers: Vec<Serializer>,
}

impl InterceptorConfig for Config {
    fn open(self: Arc<Self>, io: Io) -> LocalBoxFuture<'static, Result<Box<dyn Interceptor>, OpenError>> {
        let groups = self.regex.groups();
        ready(RegexExtractor {
            config: self,
            io,
            groups,
            zone: TimeZone::system(),
            found: Vec::new(),
            text: String::new(),
        })
    }
    fn headers_set(&self) -> Vec<String> {
        self.serializers.iter().map(|s| s.header.clone()).collect()
    }
}

struct RegexExtractor {
    config: Arc<Config>,
    io: Io,
    groups: Groups,
    zone: TimeZone,
    /// Where the values of the current batch end in `text`: serializers × events; `None` = not set.
    found: Vec<Option<u32>>,
    /// The values of the current batch; kept to allocate nothing per event.
    text: String,
}

impl RegexExtractor {
    fn extract(&mut self, body: &[u8]) {
        let Config { regex, serializers } = &*self.config;
        let body = as_java_sees(body);
        let matched = regex.find_at(&body, 0, &mut self.groups);
        for (index, serializer) in serializers.iter().enumerate() {
            let range = self.groups.get(index + 1).filter(|_| matched && index < regex.group_count());
            let value = range.and_then(|range| std::str::from_utf8(&body[range]).ok());
            self.found.push(value.and_then(|value| {
                match &serializer.millis {
                    None => self.text.push_str(value),
                    Some(pattern) => match pattern.parse(value, &self.zone, current_year(&self.io)) {
                        Ok(millis) => {
                            // Writing to a string does not fail.
                            let _ = write!(self.text, "{millis}");
                        }
                        Err(error) => {
                            tracing::debug!(header = %serializer.header, %error, "not set");
                            return None;
                        }
                    },
                }
                Some(self.text.len() as u32)
            }));
        }
    }
}

impl Interceptor for RegexExtractor {
    fn intercept(&mut self, batch: &mut EventBatch) {
        self.found.clear();
        self.text.clear();
        for index in 0..batch.len() {
            self.extract(batch.body(index));
        }
        if self.found.iter().all(Option::is_none) {
            return;
        }
        let (serializers, found) = (&self.config.serializers, &self.found);
        let sets = |event: usize, key: &str| {
            let row = &found[event * serializers.len()..][..serializers.len()];
            serializers.iter().zip(row).any(|(s, value)| value.is_some() && s.header == key)
        };
        let mut start = 0;
        rebuild_own_headers(
            batch,
            |event, key| !sets(event, key),
            |event, builder| {
                for (index, serializer) in serializers.iter().enumerate() {
                    let Some(end) = found[event * serializers.len() + index] else { continue };
                    let value = &self.text[start..end as usize];
                    start = end as usize;
                    // Of two serializers with one header the last that has a value counts, as in Flume.
                    let later = &serializers[index + 1..];
                    let row = &found[event * serializers.len() + index + 1..][..later.len()];
                    if !later.iter().zip(row).any(|(s, v)| v.is_some() && s.header == serializer.header) {
                        builder.header(&serializer.header, value);
                    }
                }
            },
        );
    }
}

fn current_year(io: &Io) -> i16 {
    let seconds = i64::try_from(io.unix_time().as_secs()).unwrap_or(0);
    jiff::Timestamp::from_second(seconds).map_or(1970, |now| now.to_zoned(TimeZone::UTC).year())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{batch, parsed, shown, through};
    use super::*;

    #[test]
    fn groups_become_headers() {
        let lines = "regex = (\\d):(\\d):(\\d)\nserializers = s1 s2 s3\nserializers.s1.name = one\n\
                     serializers.s2.name = two\nserializers.s3.name = three\nserializers.s2.type = default";
        let out = through(&ENTRY, lines, batch(&["1:2:3.4foobar5", "one=x|none", "a=b|x 7:8:9 1:1:1"]));
        assert_eq!(
            shown(&out),
            [
                "{one=1, three=3, two=2} 1:2:3.4foobar5",
                "{one=x} none",
                "{a=b, one=7, three=9, two=8} x 7:8:9 1:1:1"
            ]
        );
    }

    #[test]
    fn own_headers_are_replaced_and_missing_groups_set_nothing() {
        let lines = "regex = (a)?(b)\nserializers = s1 s2\nserializers.s1.name = h\nserializers.s2.name = b";
        assert_eq!(
            shown(&through(&ENTRY, lines, batch(&["h=x|b", "h=x|ab"]))),
            ["{b=b, h=x} b", "{b=b, h=a} ab"]
        );
        let lines = "regex = (a)(b)?\nserializers = s1 s2\nserializers.s1.name = h\nserializers.s2.name = h";
        assert_eq!(
            shown(&through(&ENTRY, lines, batch(&["ab", "a", "h=0|zz"]))),
            ["{h=b} ab", "{h=a} a", "{h=0} zz"]
        );
    }

    #[test]
    fn dates_become_milliseconds() {
        // The guide's example, with the offset in the text so that the test does not depend on this host's zone.
        let lines = "regex = ^(\\d\\d\\d\\d-\\d\\d-\\d\\d\\s\\d\\d:\\d\\d \\S+)\nserializers = s1\n\
                     serializers.s1.type = org.apache.flume.interceptor.RegexExtractorInterceptorMillisSerializer\n\
                     serializers.s1.name = timestamp\nserializers.s1.pattern = yyyy-MM-dd HH:mm Z";
        let out = through(&ENTRY, lines, batch(&["2012-10-18 18:47 +0000 x", "2012-13-18 18:47 +0000 x"]));
        assert_eq!(out.header(0, "timestamp"), Some("1350586020000"));
        assert_eq!(out.header(1, "timestamp"), None, "no such month: the event goes on without");
    }

    #[test]
    fn properties_are_checked() {
        for (lines, part) in [
            ("serializers = s1\nserializers.s1.name = a", "x1.regex: is required"),
            ("regex = (a)", "x1.serializers: is required"),
            ("regex = (a)\nserializers = s1", "serializers.s1.name: is required"),
            (
                "regex = (a)\nserializers = s1\nserializers.s1.name = a\nserializers.s1.type = x",
                "not a serializer; use DEFAULT",
            ),
            (
                "regex = (a)\nserializers = s1\nserializers.s1.name = a\n\
                 serializers.s1.type = org.apache.flume.interceptor.RegexExtractorInterceptorMillisSerializer",
                "serializers.s1.pattern: is required",
            ),
        ] {
            let (config, complaints) = parsed(&ENTRY, lines);
            assert!(
                config.is_none() && complaints.iter().any(|c| c.contains(part)),
                "{lines}: {complaints:?}"
            );
        }
        let (config, complaints) = parsed(&ENTRY, "regex = a\nserializers = s1\nserializers.s1.name = a");
        assert!(config.is_some() && complaints[0].starts_with("warning"), "{complaints:?}");
    }
}
