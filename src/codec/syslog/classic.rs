//! The parser behind `syslogtcp` and `syslogudp`.
//!
//! Flume: `org.apache.flume.source.SyslogUtils`. Headers: `Facility` and `Severity` always; `priority`,
//! `version`, `timestamp` (milliseconds since 1970) and `host` if the message has the form of RFC 5424 or
//! RFC 3164; `flume.syslog.status` if it is none or was cut. Where Flume falls short of what it promises,
//! this does not: `priority` and `version` of one message do not appear on later ones, a fraction of a
//! second does not lose the zone behind it, `.5` is 500 ms.

use jiff::tz::TimeZone;

use super::{Decimal, INCOMPLETE, INVALID, IsoStamp, KeepFields, Preamble, STATUS};
use super::{bsd_date_time, civil_now, digits, fraction, iso_date_time, offset};
use crate::codec::date_pattern::DatePattern;
use crate::codec::java_regex::{JavaRegex, Replacement, as_java_sees};
use crate::event::BatchBuilder;

/// A format of the operator's own, tried first: `format.*`.
#[derive(Clone, Debug)]
pub struct CustomFormat {
    /// Must match the whole message. Groups: priority, version, time stamp, host, text.
    pub regex: JavaRegex,
    /// What is replaced in the time stamp before it is read.
    pub replace: Option<(JavaRegex, Replacement)>,
    /// Form of the time stamp; not set: it is not read.
    pub date: Option<DatePattern>,
}

/// Messages to events. Keeps what makes the next message cheaper; no message influences another.
#[derive(Debug)]
pub struct Parser {
    keep: KeepFields,
    custom: Option<CustomFormat>,
    zone: TimeZone,
    /// The time stamp read last and its value: most messages of a second share it.
    latest: (Vec<u8>, Option<i64>),
    /// The body under construction.
    body: Vec<u8>,
}

/// What a message's form gives.
struct Parsed<'a> {
    preamble: Preamble<'a>,
    timestamp: Option<i64>,
    text: &'a [u8],
}

impl Parser {
    /// A parser for local times of this zone.
    pub fn new(keep: KeepFields, custom: Option<CustomFormat>, zone: TimeZone) -> Self {
        Self { keep, custom, zone, latest: (Vec::new(), None), body: Vec::new() }
    }

    /// Adds the event of one message. `unix_seconds` is now.
    pub fn push(&mut self, message: &[u8], is_cut: bool, unix_seconds: i64, batch: &mut BatchBuilder) {
        let Some((priority, priority_digits)) = priority(message) else {
            batch.push(message);
            batch.header("Facility", "0");
            batch.header("Severity", "0");
            batch.header(STATUS, INVALID);
            return;
        };
        let custom = self.custom.take();
        let parsed =
            match custom.as_ref().and_then(|format| self.push_custom(format, message, unix_seconds, batch)) {
                Some(()) => None,
                None => Some(self.parse(message, priority_digits, unix_seconds)),
            };
        self.custom = custom;
        match parsed {
            None => {}
            Some(Some(parsed)) => self.push_parsed(message, &parsed, batch),
            Some(None) => batch.push(message),
        }
        batch.header("Facility", Decimal::new(priority / 8).as_str());
        batch.header("Severity", Decimal::new(priority % 8).as_str());
        if is_cut {
            batch.header(STATUS, INCOMPLETE);
        }
    }

    fn push_parsed(&mut self, message: &[u8], parsed: &Parsed<'_>, batch: &mut BatchBuilder) {
        // A message without a text is its own body, as in Flume.
        if self.keep.all || (parsed.text.is_empty() && !self.keep.any()) {
            batch.push(message);
        } else if self.keep.any() {
            self.body.clear();
            parsed.preamble.keep(self.keep, &mut self.body);
            self.body.extend_from_slice(parsed.text);
            batch.push(&self.body);
        } else {
            batch.push(parsed.text);
        }
        let text = |bytes: &[u8], key: &str, batch: &mut BatchBuilder| {
            if !bytes.is_empty() {
                batch.header(key, &String::from_utf8_lossy(bytes));
            }
        };
        text(parsed.preamble.priority, "priority", batch);
        text(parsed.preamble.version, "version", batch);
        if let Some(timestamp) = parsed.timestamp {
            batch.header("timestamp", Decimal::new(timestamp).as_str());
        }
        text(parsed.preamble.host, "host", batch);
    }

    fn parse<'a>(
        &mut self,
        message: &'a [u8],
        priority_digits: usize,
        unix_seconds: i64,
    ) -> Option<Parsed<'a>> {
        let priority = &message[1..1 + priority_digits];
        let behind = &message[priority_digits + 2..];
        // The version and the blank behind it are both optional, and a time stamp may begin with a digit:
        // with a version if that fits, else without.
        let with_version = behind.first().filter(|b| b.is_ascii_digit()).map(|_| 1);
        for version in with_version.into_iter().chain([0]) {
            for blank in [1, 0] {
                let Some(rest) = behind.get(version + blank..) else { continue };
                if blank == 1 && !behind[version].is_ascii_whitespace() {
                    continue;
                }
                let fields = self.rfc5424(rest).or_else(|| self.rfc3164(rest, unix_seconds));
                if let Some((stamp, timestamp, host, text)) = fields {
                    let version = &behind[..version];
                    let preamble = Preamble { priority, version, timestamp: stamp, host };
                    return Some(Parsed { preamble, timestamp, text });
                }
            }
        }
        None
    }

    /// Time stamp, its value, host and text of RFC 5424 §6.2, as far as Flume looks.
    #[allow(
        clippy::type_complexity,
        reason = "four fields of one line, taken apart at once by the only caller"
    )]
    fn rfc5424<'a>(&mut self, rest: &'a [u8]) -> Option<(&'a [u8], Option<i64>, &'a [u8], &'a [u8])> {
        let (stamp, timestamp, size) = match rest.first()? {
            b'-' => (&rest[..0], None, 1),
            _ => {
                let civil = iso_date_time(rest)?;
                let mut size = 19;
                let milliseconds = match fraction(&rest[size..], 6) {
                    Some((milliseconds, digits)) => {
                        size += digits;
                        milliseconds
                    }
                    None => 0,
                };
                let offset_seconds = offset(&rest[size..]).map(|(seconds, bytes)| {
                    size += bytes;
                    seconds
                });
                let stamp = &rest[..size];
                let zone = self.zone.clone();
                let value = self.remember(stamp, || {
                    IsoStamp { civil: civil?, milliseconds, offset_seconds }.epoch_milliseconds(&zone)
                });
                (stamp, value, size)
            }
        };
        let rest = rest.get(size..)?;
        let rest = rest.split_first().filter(|(blank, _)| blank.is_ascii_whitespace())?.1;
        let (host, text) = match rest.first()? {
            b'-' => (&rest[..0], rest.get(1..)?),
            _ => host(rest)?,
        };
        let text = text.split_first().filter(|(blank, _)| blank.is_ascii_whitespace())?.1;
        Some((stamp, timestamp, host, text))
    }

    /// The same of RFC 3164 §4.1.
    #[allow(
        clippy::type_complexity,
        reason = "four fields of one line, taken apart at once by the only caller"
    )]
    fn rfc3164<'a>(
        &mut self,
        rest: &'a [u8],
        unix_seconds: i64,
    ) -> Option<(&'a [u8], Option<i64>, &'a [u8], &'a [u8])> {
        let zone = self.zone.clone();
        let (civil, size) = bsd_date_time(rest, civil_now(unix_seconds, &zone))?;
        let stamp = &rest[..size];
        let value = self.remember(stamp, || Some(zone.to_timestamp(civil?).ok()?.as_millisecond()));
        let rest = rest[size..].split_first().filter(|(blank, _)| blank.is_ascii_whitespace())?.1;
        let (host, text) = host(rest)?;
        let text = text.split_first().filter(|(blank, _)| blank.is_ascii_whitespace())?.1;
        Some((stamp, value, host, text))
    }

    fn remember(&mut self, stamp: &[u8], read: impl FnOnce() -> Option<i64>) -> Option<i64> {
        if self.latest.0 != stamp {
            let value = read();
            self.latest.0.clear();
            self.latest.0.extend_from_slice(stamp);
            self.latest.1 = value;
        }
        self.latest.1
    }

    fn push_custom(
        &mut self,
        format: &CustomFormat,
        message: &[u8],
        unix_seconds: i64,
        batch: &mut BatchBuilder,
    ) -> Option<()> {
        let text = as_java_sees(message);
        let groups = format.regex.full_match(&text)?;
        let group = |index: usize| groups.get(index).map_or(&[] as &[u8], |m| m.as_bytes());
        let stamp = group(3);
        let mut edited = bytes::BytesMut::new();
        let read = match &format.replace {
            Some((search, replacement))
                if search.replace_all(stamp, replacement, &mut search.groups(), &mut edited) =>
            {
                &edited[..]
            }
            _ => stamp,
        };
        let year = civil_now(unix_seconds, &self.zone).year();
        let timestamp = format
            .date
            .as_ref()
            .and_then(|date| date.parse(std::str::from_utf8(read).ok()?, &self.zone, year).ok());
        let preamble = Preamble { priority: group(1), version: group(2), timestamp: stamp, host: group(4) };
        self.push_parsed(message, &Parsed { preamble, timestamp, text: group(5) }, batch);
        Some(())
    }
}

/// The value of `<…>` and its number of digits, one to three.
fn priority(message: &[u8]) -> Option<(i64, usize)> {
    let rest = message.strip_prefix(b"<")?;
    let end = rest.iter().take(4).position(|b| *b == b'>').filter(|end| *end > 0)?;
    Some((digits(&rest[..end])?, end))
}

/// A host's name, which begins with a letter, a digit or `_`, and what is behind it.
fn host(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let size = rest.iter().take_while(|b| is_word(**b) || matches!(b, b'.' | b'@' | b'-')).count();
    (size > 0 && is_word(rest[0])).then(|| rest.split_at(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::date_pattern::Dialect;
    use crate::event::{EventBatch, Separator};

    /// 2026-11-20T00:00:00Z
    const NOW: i64 = 1_795_132_800;

    fn parsed(keep: &str, messages: &[(&str, bool)]) -> EventBatch {
        let mut parser = Parser::new(KeepFields::named(keep), None, TimeZone::UTC);
        let mut batch = BatchBuilder::new(Separator::None);
        messages.iter().for_each(|(message, cut)| parser.push(message.as_bytes(), *cut, NOW, &mut batch));
        batch.finish()
    }
    fn shown(batch: &EventBatch, index: usize) -> String {
        let mut headers: Vec<String> = batch.headers(index).map(|(k, v)| format!("{k}={v}")).collect();
        headers.sort();
        format!("{{{}}} {}", headers.join(", "), String::from_utf8_lossy(batch.body(index)))
    }
    fn one(message: &str) -> String {
        shown(&parsed("none", &[(message, false)]), 0)
    }

    #[test]
    fn messages_become_events() {
        let table = [
            // RFC 5424 §6.5, example 1.
            (
                "<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - failed",
                "{Facility=4, Severity=2, host=mymachine.example.com, priority=34, timestamp=1065910455003, version=1} \
                 su - ID47 - failed",
            ),
            (
                "<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710",
                "{Facility=20, Severity=5, host=192.0.2.1, priority=165, timestamp=1061727255000, version=1} myproc 8710",
            ),
            (
                "<13>2003-10-11T22:14:15Z h x",
                "{Facility=1, Severity=5, host=h, priority=13, timestamp=1065910455000} x",
            ),
            (
                "<13>1 2003-10-11T22:14:15 h x",
                "{Facility=1, Severity=5, host=h, priority=13, timestamp=1065910455000, version=1} x",
            ),
            ("<13>1 - - x y", "{Facility=1, Severity=5, priority=13, version=1} x y"),
            ("<13>1 - h ", "{Facility=1, Severity=5, host=h, priority=13, version=1} <13>1 - h "),
            // RFC 3164 §5.4, example 1: last month is this year.
            (
                "<34>Oct 11 22:14:15 mymachine su: 'su root' failed",
                "{Facility=4, Severity=2, host=mymachine, priority=34, timestamp=1791756855000} su: 'su root' failed",
            ),
            (
                "<13>1 Oct  1 22:14:15 h x",
                "{Facility=1, Severity=5, host=h, priority=13, timestamp=1790892855000, version=1} x",
            ),
            ("<13>Foo 99 22:14:15 h x", "{Facility=1, Severity=5, host=h, priority=13} x"),
            ("<13>2003-99-11T22:14:15Z h x", "{Facility=1, Severity=5, host=h, priority=13} x"),
            (
                "<999>Oct 11 22:14:15 h x",
                "{Facility=124, Severity=7, host=h, priority=999, timestamp=1791756855000} x",
            ),
            // Neither form.
            ("<13>some text", "{Facility=1, Severity=5} <13>some text"),
            ("<13>Oct 11 22:14:15  h x", "{Facility=1, Severity=5} <13>Oct 11 22:14:15  h x"),
            (
                "<13>1 2003-10-11T22:14:15+0800 h x",
                "{Facility=1, Severity=5} <13>1 2003-10-11T22:14:15+0800 h x",
            ),
            ("<13>", "{Facility=1, Severity=5} <13>"),
            // No syslog.
            ("hello", "{Facility=0, Severity=0, flume.syslog.status=Invalid} hello"),
            ("<>x", "{Facility=0, Severity=0, flume.syslog.status=Invalid} <>x"),
            ("<a>x", "{Facility=0, Severity=0, flume.syslog.status=Invalid} <a>x"),
            ("<1234>x", "{Facility=0, Severity=0, flume.syslog.status=Invalid} <1234>x"),
            ("<12", "{Facility=0, Severity=0, flume.syslog.status=Invalid} <12"),
            ("", "{Facility=0, Severity=0, flume.syslog.status=Invalid} "),
        ];
        for (message, expected) in table {
            assert_eq!(one(message), expected, "{message}");
        }
    }

    #[test]
    fn nothing_leaks_into_the_next_event() {
        let batch =
            parsed("none", &[("<34>1 2003-10-11T22:14:15Z h x", false), ("<13>text", true), ("bad", false)]);
        assert_eq!(shown(&batch, 1), "{Facility=1, Severity=5, flume.syslog.status=Incomplete} <13>text");
        assert_eq!(shown(&batch, 2), "{Facility=0, Severity=0, flume.syslog.status=Invalid} bad");
    }

    #[test]
    fn fields_are_kept() {
        let message = "<34>1 2003-10-11T22:14:15Z h the text";
        let table = [
            ("none", "the text"),
            ("all", message),
            ("priority", "<34>the text"),
            ("version timestamp", "1 2003-10-11T22:14:15Z the text"),
            ("priority version timestamp hostname", message),
            ("hostname", "h the text"),
        ];
        for (keep, body) in table {
            let batch = parsed(keep, &[(message, false)]);
            assert_eq!(String::from_utf8_lossy(batch.body(0)), body, "{keep}");
        }
    }

    #[test]
    fn local_times_are_of_the_hosts_zone() {
        let zone = TimeZone::fixed(jiff::tz::offset(8));
        let mut parser = Parser::new(KeepFields::default(), None, zone);
        let mut batch = BatchBuilder::new(Separator::None);
        parser.push(b"<13>Oct 11 22:14:15 h x", false, NOW, &mut batch);
        parser.push(b"<13>2003-10-11T22:14:15.5 h x", false, NOW, &mut batch);
        parser.push(b"<13>2003-10-11T22:14:15.5Z h x", false, NOW, &mut batch);
        let batch = batch.finish();
        let stamps: Vec<_> = (0..3).map(|i| batch.header(i, "timestamp").unwrap()).collect();
        assert_eq!(stamps, ["1791728055000", "1065881655500", "1065910455500"]);
    }

    #[test]
    fn a_format_of_the_operators_own() {
        let regex = JavaRegex::new(r"<(\d+)>()(\S+ \S+) \[(\w+)\] (.*)").unwrap();
        let search = JavaRegex::new("/").unwrap();
        let replacement = Replacement::new("-", &search).unwrap();
        let date = DatePattern::new("yyyy-MM-dd HH:mm:ss", Dialect::SimpleDateFormat).unwrap();
        let custom = CustomFormat { regex, replace: Some((search, replacement)), date: Some(date) };
        let mut parser = Parser::new(KeepFields::default(), Some(custom), TimeZone::UTC);
        let mut batch = BatchBuilder::new(Separator::None);
        parser.push(b"<13>2003/10/11 22:14:15 [web] text", false, NOW, &mut batch);
        parser.push(b"<13>Oct 11 22:14:15 h x", false, NOW, &mut batch);
        let batch = batch.finish();
        assert_eq!(
            shown(&batch, 0),
            "{Facility=1, Severity=5, host=web, priority=13, timestamp=1065910455000} text"
        );
        assert_eq!(batch.header(1, "host"), Some("h"), "the others are tried after it");
    }
}
