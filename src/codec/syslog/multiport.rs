//! The parser behind `multiport_syslogtcp`.
//!
//! Flume: `org.apache.flume.source.SyslogParser`. Headers `Priority`, `Facility`, `Severity`, `Version`
//! (capitalised, unlike the other parser's), `timestamp`, `host`; `flume.syslog.status`. A time of RFC 3164
//! is taken as UTC. Where Flume falls short of what it promises, this does not: such a time gets the
//! nearest year and not 1999 or 2001, and a fraction of a second without a zone makes one event invalid,
//! not all that arrived with it.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::{Decimal, INCOMPLETE, INVALID, IsoStamp, KeepFields, Preamble, STATUS};
use super::{bsd_date_time, civil_now, digits, fraction, iso_date_time, offset};
use crate::codec::charset::Charset;
use crate::event::BatchBuilder;

/// Digits of a fraction that are read; more are an invalid time.
const FRACTION_DIGITS_MAX: usize = 18;

/// Messages to events.
#[derive(Debug)]
pub struct Parser {
    keep: KeepFields,
    latest: (Vec<u8>, i64),
    body: Vec<u8>,
}

struct Parsed<'a> {
    priority: i64,
    timestamp: i64,
    preamble: Preamble<'a>,
    text: &'a [u8],
}

impl Parser {
    /// A parser.
    pub fn new(keep: KeepFields) -> Self {
        Self { keep, latest: (Vec::new(), 0), body: Vec::new() }
    }

    /// Adds the event of one message; false if it is no syslog message. `unix_milliseconds` is now.
    pub fn push(
        &mut self,
        message: &[u8],
        is_cut: bool,
        charset: Charset,
        unix_milliseconds: i64,
        batch: &mut BatchBuilder,
    ) -> bool {
        let Some(parsed) = self.parse(message, unix_milliseconds) else {
            batch.push(message);
            batch.header(STATUS, INVALID);
            return false;
        };
        // A message without a text is its own body, as in Flume.
        if self.keep.all || parsed.text.is_empty() {
            batch.push(message);
        } else if self.keep.any() {
            self.body.clear();
            parsed.preamble.keep(self.keep, &mut self.body);
            self.body.extend_from_slice(parsed.text);
            batch.push(&self.body);
        } else {
            batch.push(parsed.text);
        }
        batch.header("Priority", Decimal::new(parsed.priority).as_str());
        batch.header("Facility", Decimal::new(parsed.priority / 8).as_str());
        batch.header("Severity", Decimal::new(parsed.priority % 8).as_str());
        if !parsed.preamble.version.is_empty() {
            batch.header("Version", "1");
        }
        batch.header("timestamp", Decimal::new(parsed.timestamp).as_str());
        batch.header("host", &charset.decode(parsed.preamble.host));
        if is_cut {
            batch.header(STATUS, INCOMPLETE);
        }
        true
    }

    fn parse<'a>(&mut self, message: &'a [u8], unix_milliseconds: i64) -> Option<Parsed<'a>> {
        let rest = message.strip_prefix(b"<")?;
        // Up to five characters, of which a sign may be one, as Java's number parser has it.
        let end = rest.iter().take(6).position(|b| *b == b'>').filter(|end| *end > 0)?;
        let priority = digits(&rest[..end])?;
        let mut behind = &rest[end + 1..];
        let version = match behind {
            [b'1', b' ', after @ ..] => {
                let version = &behind[..1];
                behind = after;
                version
            }
            _ => &[],
        };
        let (stamp, timestamp) = match behind.first()? {
            b'-' if behind.get(1) == Some(&b' ') => (&behind[..1], unix_milliseconds),
            b'A'..=b'Z' => {
                // Always 15 characters: the day is padded with a blank.
                let stamp = behind.get(..15)?;
                let civil = bsd_date_time(stamp, civil_now(unix_milliseconds / 1000, &TimeZone::UTC));
                let value = civil.filter(|(_, size)| *size == 15).and_then(|(civil, _)| utc(civil?));
                (stamp, value.unwrap_or(0))
            }
            _ => {
                let size = memchr::memchr(b' ', behind)?;
                let stamp = &behind[..size];
                (stamp, self.rfc5424(stamp)?)
            }
        };
        let rest = behind.get(stamp.len()..)?.strip_prefix(b" ")?;
        let (host, text) = match memchr::memchr(b' ', rest) {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        if host.is_empty() {
            return None;
        }
        let preamble = Preamble { priority: &message[1..=end], version, timestamp: stamp, host };
        Some(Parsed { priority, timestamp, preamble, text })
    }

    fn rfc5424(&mut self, stamp: &[u8]) -> Option<i64> {
        if self.latest.0 == stamp {
            return Some(self.latest.1);
        }
        let civil = iso_date_time(stamp)??;
        let mut at = 19;
        let mut milliseconds = 0;
        if let Some((value, size)) = fraction(&stamp[at..], FRACTION_DIGITS_MAX) {
            (milliseconds, at) = (value, at + size);
        }
        let (seconds, size) = offset(&stamp[at..])?;
        if at + size != stamp.len() {
            return None;
        }
        let stamp_fields = IsoStamp { civil, milliseconds, offset_seconds: Some(seconds) };
        let value = stamp_fields.epoch_milliseconds(&TimeZone::UTC)?;
        self.latest.0.clear();
        self.latest.0.extend_from_slice(stamp);
        self.latest.1 = value;
        Some(value)
    }
}

fn utc(civil: DateTime) -> Option<i64> {
    Some(TimeZone::UTC.to_timestamp(civil).ok()?.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventBatch, Separator};

    /// 2026-11-20T00:00:00.007Z
    const NOW: i64 = 1_795_132_800_007;

    fn parsed(keep: &str, message: &str, is_cut: bool) -> (EventBatch, bool) {
        let mut parser = Parser::new(KeepFields::named(keep));
        let mut batch = BatchBuilder::new(Separator::None);
        let valid = parser.push(message.as_bytes(), is_cut, Charset::Utf8, NOW, &mut batch);
        (batch.finish(), valid)
    }
    fn shown(message: &str, is_cut: bool) -> String {
        let (batch, _) = parsed("none", message, is_cut);
        let mut headers: Vec<String> = batch.headers(0).map(|(k, v)| format!("{k}={v}")).collect();
        headers.sort();
        format!("{{{}}} {}", headers.join(", "), String::from_utf8_lossy(batch.body(0)))
    }

    #[test]
    fn messages_become_events() {
        let table = [
            (
                "<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - failed",
                "{Facility=4, Priority=34, Severity=2, Version=1, host=mymachine.example.com, timestamp=1065910455003} \
                 su - ID47 - failed",
            ),
            (
                "<13>2003-10-11T22:14:15+02:00 h x",
                "{Facility=1, Priority=13, Severity=5, host=h, timestamp=1065903255000} x",
            ),
            (
                "<13>1 2003-10-11T22:14:15.123456789Z h x",
                "{Facility=1, Priority=13, Severity=5, Version=1, host=h, timestamp=1065910455123} x",
            ),
            (
                "<13>1 - - x y",
                "{Facility=1, Priority=13, Severity=5, Version=1, host=-, timestamp=1795132800007} x y",
            ),
            (
                "<34>Oct 11 22:14:15 mymachine su: x",
                "{Facility=4, Priority=34, Severity=2, host=mymachine, timestamp=1791756855000} su: x",
            ),
            (
                "<34>Oct  1 22:14:15 h x",
                "{Facility=4, Priority=34, Severity=2, host=h, timestamp=1790892855000} x",
            ),
            ("<34>Foo 99 22:14:15 h x", "{Facility=4, Priority=34, Severity=2, host=h, timestamp=0} x"),
            (
                "<34>Oct 11 22:14:15 h",
                "{Facility=4, Priority=34, Severity=2, host=h, timestamp=1791756855000} <34>Oct 11 22:14:15 h",
            ),
        ];
        for (message, expected) in table {
            assert_eq!(shown(message, false), expected, "{message}");
        }
        assert!(shown("<34>Oct 11 22:14:15 h x", true).contains("flume.syslog.status=Incomplete"));
    }

    #[test]
    fn what_is_none_is_invalid() {
        for message in [
            "",
            "hello",
            "<>x",
            "<a>x",
            "<1234567>x",
            "<13>",
            "<13>2 2003-10-11T22:14:15Z h x",
            "<13>1 2003-10-11T22:14:15 h x",
            "<13>1 2003-10-11T22:14:15.5 h x",
            "<13>1 2003-10-11T22:14:15+0200 h x",
            "<13>1 2003-99-11T22:14:15Z h x",
            "<13>Oct 11",
            "<13>1 2003-10-11T22:14:15Z",
            "<13>1 2003-10-11T22:14:15Z ",
        ] {
            let (batch, valid) = parsed("none", message, false);
            assert!(!valid, "{message}");
            assert_eq!(batch.headers(0).collect::<Vec<_>>(), [(STATUS, INVALID)], "{message}");
            assert_eq!(batch.body(0), message.as_bytes());
        }
    }

    #[test]
    fn fields_are_kept() {
        let message = "<34>1 2003-10-11T22:14:15Z h the text";
        for (keep, body) in [
            ("none", "the text"),
            ("all", message),
            ("priority version timestamp hostname", message),
            ("timestamp", "2003-10-11T22:14:15Z the text"),
        ] {
            assert_eq!(String::from_utf8_lossy(parsed(keep, message, false).0.body(0)), body, "{keep}");
        }
    }
}
