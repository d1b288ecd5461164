//! What `syslogtcp` and `syslogudp` have in common: the operator's own format.

use jiff::tz::TimeZone;

use super::Keep;
use crate::codec::date_pattern::{DatePattern, Dialect};
use crate::codec::java_regex::Replacement;
use crate::codec::syslog::classic::{CustomFormat, Parser};
use crate::config::{ParseContext, Pattern, Property, PropertyValue};

pub(super) const FORMAT_REGEX: Property<Pattern> = Property::absent(
    "format.regex",
    "A form of messages that is tried before RFC 5424 and RFC 3164. It must match the whole message; its groups are \
     priority, version, time stamp, host and text, in this order.",
);
pub(super) const FORMAT_SEARCH: Property<Pattern> = Property::absent(
    "format.search",
    "What is replaced in the time stamp of `format.regex` before it is read.",
);
pub(super) const FORMAT_REPLACE: Property<String> =
    Property::absent("format.replace", "What replaces it; not set: nothing.");
pub(super) const FORMAT_DATE: Property<JavaDate> = Property::absent(
    "format.dateFormat",
    "Form of that time stamp, in the letters of Java's SimpleDateFormat. Not set: it is not read.",
);

/// A pattern of `SimpleDateFormat`.
#[derive(Clone, Debug)]
pub(super) struct JavaDate(DatePattern);

impl PropertyValue for JavaDate {
    const KIND: &'static str = "date pattern";
    const EXAMPLE: &'static str = "yyyy-MM-dd HH:mm:ss";
    fn parse(text: &str) -> Result<Self, String> {
        DatePattern::new(text, Dialect::SimpleDateFormat)
            .map(Self)
            .map_err(|e| format!("not a date pattern: it {e}"))
    }
}

/// How messages are read.
#[derive(Clone, Debug)]
pub(super) struct Format {
    keep: Keep,
    custom: Option<CustomFormat>,
}

impl Format {
    pub(super) fn parse(cx: &mut ParseContext<'_>) -> Option<Self> {
        let keep = cx.get(&super::KEEP_FIELDS);
        let (regex, search) = (cx.get_opt(&FORMAT_REGEX), cx.get_opt(&FORMAT_SEARCH));
        let (replace, date) = (cx.get_opt(&FORMAT_REPLACE), cx.get_opt(&FORMAT_DATE));
        let (regex, search, replace, date) = (regex?, search?, replace?, date?);
        let Some(regex) = regex else {
            for key in ["format.search", "format.replace", "format.dateFormat"] {
                if cx.raw(key).is_some() {
                    cx.warning(key, "has no effect without format.regex", None);
                }
            }
            return Some(Self { keep: keep?, custom: None });
        };
        let replace = match search {
            None => None,
            Some(search) => match Replacement::new(&replace.unwrap_or_default(), &search.0) {
                Ok(replacement) => Some((search.0, replacement)),
                Err(problem) => {
                    cx.error("format.replace", problem, None);
                    return None;
                }
            },
        };
        let custom = CustomFormat { regex: regex.0, replace, date: date.map(|d| d.0) };
        Some(Self { keep: keep?, custom: Some(custom) })
    }

    pub(super) fn parser(&self) -> Parser {
        Parser::new(self.keep.0, self.custom.clone(), TimeZone::system())
    }
}
