//! Syslog messages to events: RFC 3164 and RFC 5424, newline and octet-counting framing (RFC 6587).
//!
//! Flume has two parsers with different headers: [`classic`] behind `syslogtcp` and `syslogudp`
//! (`SyslogUtils`), [`multiport`] behind `multiport_syslogtcp` (`SyslogParser`).

pub mod classic;
pub mod frame;
pub mod multiport;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

/// Header that says what is wrong with an event.
pub const STATUS: &str = "flume.syslog.status";
/// [`STATUS`] of what is no syslog message.
pub const INVALID: &str = "Invalid";
/// [`STATUS`] of a message cut off at the event size.
pub const INCOMPLETE: &str = "Incomplete";

/// Which fields stay in front of the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepFields {
    /// The message as it came.
    pub all: bool,
    /// `<13>`
    pub priority: bool,
    /// `1 `
    pub version: bool,
    /// The time stamp as it was written.
    pub timestamp: bool,
    /// The host's name.
    pub hostname: bool,
}

impl KeepFields {
    /// Reads Flume's text: `none`, `all`, or names of fields.
    pub fn named(text: &str) -> Self {
        let has = |word: &str| text.contains(word);
        match text.trim().to_ascii_lowercase().as_str() {
            "none" | "false" => Self::default(),
            "all" | "true" => Self { all: true, ..Self::default() },
            _ => Self {
                all: false,
                priority: has("priority"),
                version: has("version"),
                timestamp: has("timestamp"),
                hostname: has("hostname"),
            },
        }
    }
    fn any(self) -> bool {
        self.priority || self.version || self.timestamp || self.hostname
    }
}

/// What is in front of a message's text.
#[derive(Clone, Copy, Debug, Default)]
struct Preamble<'a> {
    priority: &'a [u8],
    version: &'a [u8],
    timestamp: &'a [u8],
    host: &'a [u8],
}

impl Preamble<'_> {
    /// Appends the fields to keep, each but the priority with a blank behind it.
    fn keep(&self, fields: KeepFields, out: &mut Vec<u8>) {
        if fields.priority && !self.priority.is_empty() {
            out.push(b'<');
            out.extend_from_slice(self.priority);
            out.push(b'>');
        }
        for (kept, field) in
            [(fields.version, self.version), (fields.timestamp, self.timestamp), (fields.hostname, self.host)]
        {
            if kept && !field.is_empty() {
                out.extend_from_slice(field);
                out.push(b' ');
            }
        }
    }
}

/// A time stamp's fields: the civil time, milliseconds, and the offset if it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IsoStamp {
    civil: DateTime,
    milliseconds: i64,
    offset_seconds: Option<i64>,
}

impl IsoStamp {
    fn epoch_milliseconds(&self, zone: &TimeZone) -> Option<i64> {
        let utc = |offset: i64| {
            let seconds = TimeZone::UTC.to_timestamp(self.civil).ok()?.as_second() - offset;
            Some(seconds * 1000 + self.milliseconds)
        };
        match self.offset_seconds {
            Some(offset) => utc(offset),
            None => Some(zone.to_timestamp(self.civil).ok()?.as_millisecond() + self.milliseconds),
        }
    }
}

/// Digits as a number; `None` if one is no digit.
fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0i64, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
}

/// `YYYY-MM-DDThh:mm:ss`, 19 characters. Outer `None`: another shape; inner: the shape of a date that is
/// none.
fn iso_date_time(text: &[u8]) -> Option<Option<DateTime>> {
    let text = text.get(..19)?;
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !marks.iter().all(|(at, mark)| text[*at] == *mark) {
        return None;
    }
    let field = |from: usize, to: usize| digits(&text[from..to]);
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
    let date = Date::new(year as i16, month as i8, day as i8).ok();
    // A leap second counts as the one before it.
    let time = Time::new(hour as i8, minute as i8, second.min(59) as i8, 0).ok().filter(|_| second <= 60);
    Some(date.zip(time).map(|(date, time)| DateTime::from_parts(date, time)))
}

/// `Z` or `±hh:mm`: seconds east of Greenwich, and the bytes it takes.
fn offset(text: &[u8]) -> Option<(i64, usize)> {
    match text.first()? {
        b'Z' => Some((0, 1)),
        sign @ (b'+' | b'-') => {
            let text = text.get(1..6).filter(|text| text[2] == b':')?;
            let seconds = digits(&text[..2])? * 3600 + digits(&text[3..5])? * 60;
            Some((if *sign == b'+' { seconds } else { -seconds }, 6))
        }
        _ => None,
    }
}

/// `.` and digits: milliseconds, and the bytes it takes.
fn fraction(text: &[u8], digits_max: usize) -> Option<(i64, usize)> {
    let count = text.strip_prefix(b".")?.iter().take(digits_max).take_while(|b| b.is_ascii_digit()).count();
    let kept = digits(text.get(1..=count.min(3))?).filter(|_| count > 0)?;
    Some((kept * [0, 100, 10, 1][count.min(3)], 1 + count))
}

/// `Mmm d hh:mm:ss` of RFC 3164 §4.1.2, whose year is a guess: the one that puts it nearest to now. Outer
/// `None`: another shape; inner: no such date.
fn bsd_date_time(text: &[u8], now: DateTime) -> Option<(Option<DateTime>, usize)> {
    let month_name = text.get(..3)?;
    let shape =
        |b: &[u8]| b[0].is_ascii_uppercase() && b[1].is_ascii_lowercase() && b[2].is_ascii_lowercase();
    if !shape(month_name) || text.get(3) != Some(&b' ') {
        return None;
    }
    let mut at = 4 + usize::from(text.get(4) == Some(&b' '));
    let day_digits = text.get(at..)?.iter().take(2).take_while(|b| b.is_ascii_digit()).count();
    let day = digits(text.get(at..at + day_digits)?).filter(|_| day_digits > 0)?;
    at += day_digits;
    let clock = text.get(at..at + 9)?;
    if clock[0] != b' ' || clock[3] != b':' || clock[6] != b':' {
        return None;
    }
    let (hour, minute, second) = (digits(&clock[1..3])?, digits(&clock[4..6])?, digits(&clock[7..9])?);
    at += 9;
    const MONTHS: [&[u8; 3]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    let month = MONTHS.iter().position(|name| month_name == *name).map(|index| index as i8 + 1);
    let time = Time::new(hour as i8, minute as i8, second.min(59) as i8, 0).ok().filter(|_| second <= 60);
    let in_year = |year: i16| {
        let date = Date::new(year, month?, i8::try_from(day).ok()?).ok()?;
        Some(DateTime::from_parts(date, time?))
    };
    // 29 February is a date in some of the three years only.
    let years = [now.year(), now.year() - 1, now.year() + 1];
    let distance = |date: &DateTime| now.duration_until(*date).as_secs().abs();
    let found = years.into_iter().filter_map(in_year).min_by_key(distance);
    Some((found, at))
}

/// The civil time in a zone.
fn civil_now(unix_seconds: i64, zone: &TimeZone) -> DateTime {
    jiff::Timestamp::from_second(unix_seconds).map_or(DateTime::default(), |now| zone.to_datetime(now))
}

/// A whole number in a small buffer, without allocation.
struct Decimal {
    buffer: [u8; 20],
    start: usize,
}

impl Decimal {
    fn new(value: i64) -> Self {
        let mut decimal = Self { buffer: [0; 20], start: 20 };
        let mut rest = value.unsigned_abs();
        loop {
            decimal.start -= 1;
            decimal.buffer[decimal.start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            decimal.start -= 1;
            decimal.buffer[decimal.start] = b'-';
        }
        decimal
    }
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.buffer[self.start..]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_fields_as_flume_reads_them() {
        assert_eq!(KeepFields::named("none"), KeepFields::default());
        assert_eq!(KeepFields::named("FALSE"), KeepFields::default());
        assert!(KeepFields::named("true").all && KeepFields::named("All").all);
        let some = KeepFields::named("timestamp, hostname");
        assert!(some.timestamp && some.hostname && !some.priority && !some.version && !some.all);
    }

    #[test]
    fn pieces_of_dates() {
        assert_eq!(offset(b"Z rest"), Some((0, 1)));
        assert_eq!(offset(b"-02:30"), Some((-9000, 6)));
        assert_eq!(offset(b"+0800"), None);
        assert_eq!(fraction(b".5Z", 6), Some((500, 2)));
        assert_eq!(fraction(b".123456", 6), Some((123, 7)));
        assert_eq!(fraction(b".", 6), None);
        assert_eq!(Decimal::new(0).as_str(), "0");
        assert_eq!(Decimal::new(i64::MIN).as_str(), i64::MIN.to_string());
        assert_eq!(Decimal::new(i64::MAX).as_str(), i64::MAX.to_string());
    }

    #[test]
    fn the_year_is_the_nearest() {
        let now: DateTime = "2026-01-05T00:00:00".parse().unwrap();
        let year = |text: &str| bsd_date_time(text.as_bytes(), now).unwrap().0.map(|d| d.year());
        assert_eq!(year("Jan  5 00:00:01"), Some(2026));
        assert_eq!(year("Dec 31 23:59:59"), Some(2025));
        assert_eq!(year("Jun 1 00:00:00"), Some(2026));
        let december: DateTime = "2026-12-30T00:00:00".parse().unwrap();
        assert_eq!(bsd_date_time(b"Jan 1 00:00:00", december).unwrap().0.unwrap().year(), 2027);
        assert_eq!(year("Foo 99 00:00:00"), None);
        assert!(bsd_date_time(b"jan 1 00:00:00", now).is_none());
        assert!(bsd_date_time(b"Jan   1 00:00:00", now).is_none());
        assert!(bsd_date_time(b"Jan 1 0:00:00", now).is_none());
        assert!(bsd_date_time(b"Jan", now).is_none());
    }
}
