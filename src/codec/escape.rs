//! Escape sequences in paths and file prefixes: `%Y`, `%{header}`, `%[host]`.
//!
//! Flume: `org.apache.flume.formatter.output.BucketPath`. A template is compiled once into segments; what it
//! depends on is known, so that a batch whose inputs are common is resolved once. A lone `%`, `%{}` and
//! the like stay as they are, unknown letters vanish, `%%` is `%`.

use std::fmt::Write;
use std::time::Duration;

use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

use crate::event::EventBatch;

/// Header with the time of an event, in milliseconds since 1970.
pub const TIMESTAMP: &str = "timestamp";

/// Names of this machine, for `%[…]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// `%[localhost]`
    pub name: String,
    /// `%[IP]`
    pub address: String,
    /// `%[FQDN]`
    pub full_name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MachinePart {
    Name,
    Address,
    FullName,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Header(String),
    Time(char),
    Machine(MachinePart),
}

/// A compiled text with escape sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    segments: Vec<Segment>,
}

impl Template {
    /// Compiles a text.
    ///
    /// # Errors
    /// For `%[name]` with a name that is none of `localhost`, `IP`, `FQDN` (in any case).
    pub fn new(text: &str) -> Result<Self, String> {
        let mut segments = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            literal.push_str(&rest[..at]);
            rest = &rest[at..];
            let (segment, size) = match rest.as_bytes().get(1) {
                Some(b'{') => match bracketed(rest, '}', |c| c == '_' || c == '.' || c == '-') {
                    Some(name) => (Segment::Header(name.to_owned()), name.len() + 3),
                    None => (Segment::Literal("%".to_owned()), 1),
                },
                Some(b'[') => match bracketed(rest, ']', |c| c == '_' || c == '.' || c == '-') {
                    Some(name) => {
                        let part = match name.to_ascii_lowercase().as_str() {
                            "localhost" => MachinePart::Name,
                            "ip" => MachinePart::Address,
                            "fqdn" => MachinePart::FullName,
                            _ => {
                                return Err(format!(
                                    "has %[{name}]; only %[localhost], %[IP] and %[FQDN] are known"
                                ));
                            }
                        };
                        (Segment::Machine(part), name.len() + 3)
                    }
                    None => (Segment::Literal("%".to_owned()), 1),
                },
                Some(letter) if letter.is_ascii_alphanumeric() || *letter == b'_' || *letter == b'%' => {
                    (Segment::Time(char::from(*letter)), 2)
                }
                _ => (Segment::Literal("%".to_owned()), 1),
            };
            rest = &rest[size..];
            match segment {
                Segment::Literal(text) => literal.push_str(&text),
                segment => {
                    if !literal.is_empty() {
                        segments.push(Segment::Literal(std::mem::take(&mut literal)));
                    }
                    segments.push(segment);
                }
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            segments.push(Segment::Literal(literal));
        }
        Ok(Self { segments })
    }

    /// True if resolving it needs the time (`%%` does not, although Flume asks for it even then).
    pub fn needs_time(&self) -> bool {
        self.segments.iter().any(|s| matches!(s, Segment::Time(letter) if *letter != '%'))
    }
    /// True if it has `%[…]`.
    pub fn needs_machine(&self) -> bool {
        self.segments.iter().any(|s| matches!(s, Segment::Machine(_)))
    }
    /// Headers it names.
    pub fn headers(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|s| match s {
            Segment::Header(name) => Some(name.as_str()),
            _ => None,
        })
    }
    /// Whether the result stays the same within one minute or only within one second or not even that.
    fn granularity_ms(&self) -> i64 {
        let finest = |s: &Segment| match s {
            Segment::Time('t') => 1,
            Segment::Time('S' | 's' | 'c') => 1_000,
            _ => 60_000,
        };
        self.segments.iter().map(finest).min().unwrap_or(60_000)
    }

    /// Appends the text for event `index` at this time.
    pub fn write(
        &self,
        batch: &EventBatch,
        index: usize,
        time: Option<&Moment>,
        machine: &Machine,
        out: &mut String,
    ) {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => out.push_str(text),
                Segment::Header(name) => out.push_str(batch.header(index, name).unwrap_or_default()),
                Segment::Machine(MachinePart::Name) => out.push_str(&machine.name),
                Segment::Machine(MachinePart::Address) => out.push_str(&machine.address),
                Segment::Machine(MachinePart::FullName) => out.push_str(&machine.full_name),
                Segment::Time('%') => out.push('%'),
                Segment::Time(letter) => {
                    if let Some(time) = time {
                        time.write(*letter, out);
                    }
                }
            }
        }
    }
}

/// `%{name}` or `%[name]` at the start of `text`: the name.
fn bracketed(text: &str, close: char, also: impl Fn(char) -> bool) -> Option<&str> {
    let inner = &text[2..];
    let name = &inner[..inner.find(close)?];
    (!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || also(c))).then_some(name)
}

/// What `round`, `roundValue` and `roundUnit` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Seconds to a multiple of this.
    Second(i8),
    /// Minutes to a multiple of this; seconds are 0.
    Minute(i8),
    /// Hours to a multiple of this; minutes and seconds are 0.
    Hour(i8),
}

/// A time as the letters show it.
#[derive(Clone, Debug)]
pub struct Moment {
    unix_ms: i64,
    shown: Zoned,
}

impl Moment {
    /// The moment of a Unix time in a zone, rounded down. Times outside the years -9999 to 9999 are clamped.
    pub fn new(unix_ms: i64, zone: &TimeZone, rounding: Option<Rounding>) -> Self {
        let clamped = unix_ms.clamp(-377_705_023_201_000, 253_402_207_200_000);
        let exact =
            Timestamp::from_millisecond(clamped).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(zone.clone());
        let down = |value: i8, step: i8| value - value % step.max(1);
        let with = exact.with().subsec_nanosecond(0);
        let rounded = match rounding {
            None => return Self { unix_ms, shown: exact },
            Some(Rounding::Second(step)) => with.second(down(exact.second(), step)),
            Some(Rounding::Minute(step)) => with.minute(down(exact.minute(), step)).second(0),
            Some(Rounding::Hour(step)) => with.hour(down(exact.hour(), step)).minute(0).second(0),
        };
        Self { unix_ms, shown: rounded.build().unwrap_or(exact) }
    }

    fn write(&self, letter: char, out: &mut String) {
        const MONTHS: [&str; 12] = [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ];
        const DAYS: [&str; 7] =
            ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
        let t = &self.shown;
        let month = MONTHS[(t.month() - 1) as usize];
        let day = DAYS[t.weekday().to_monday_zero_offset() as usize];
        let hour_of_half = match t.hour() % 12 {
            0 => 12,
            hour => hour,
        };
        let short_year = t.year().rem_euclid(100);
        // Writing to a String cannot fail.
        let _ = match letter {
            'a' => write!(out, "{}", &day[..3]),
            'A' => write!(out, "{day}"),
            'b' => write!(out, "{}", &month[..3]),
            'B' => write!(out, "{month}"),
            'c' => {
                write!(
                    out,
                    "{} {} {} {:02}:{:02}:{:02} {:04}",
                    &day[..3],
                    &month[..3],
                    t.day(),
                    t.hour(),
                    t.minute(),
                    t.second(),
                    t.year()
                )
            }
            'd' => write!(out, "{:02}", t.day()),
            'e' => write!(out, "{}", t.day()),
            'D' => write!(out, "{:02}/{:02}/{short_year:02}", t.month(), t.day()),
            'H' => write!(out, "{:02}", t.hour()),
            'I' => write!(out, "{hour_of_half:02}"),
            'j' => write!(out, "{:03}", t.day_of_year()),
            'k' => write!(out, "{}", t.hour()),
            'l' => write!(out, "{hour_of_half}"),
            'm' => write!(out, "{:02}", t.month()),
            'M' => write!(out, "{:02}", t.minute()),
            'n' => write!(out, "{}", t.month()),
            'p' => write!(out, "{}", if t.hour() < 12 { "AM" } else { "PM" }),
            's' => write!(out, "{}", t.timestamp().as_second()),
            'S' => write!(out, "{:02}", t.second()),
            't' => write!(out, "{}", self.unix_ms),
            'y' => write!(out, "{short_year:02}"),
            'Y' => write!(out, "{:04}", t.year()),
            'z' => {
                let minutes = t.offset().seconds() / 60;
                let sign = if minutes < 0 { '-' } else { '+' };
                write!(out, "{sign}{:02}{:02}", minutes.abs() / 60, minutes.abs() % 60)
            }
            // An unknown letter vanishes, as in Flume.
            _ => Ok(()),
        };
    }
}

/// Finds a time zone by the names Java knows: `Europe/Berlin`, `UTC`, `GMT+8`, `GMT-03:30`, `PST`.
pub fn time_zone(name: &str) -> Option<TimeZone> {
    if let Some(rest) = name.strip_prefix("GMT").or_else(|| name.strip_prefix("UTC"))
        && let Some(sign) = rest.chars().next().and_then(|c| match c {
            '+' => Some(1),
            '-' => Some(-1),
            _ => None,
        })
    {
        let digits = &rest[1..];
        let (hours, minutes) = match digits.split_once(':') {
            Some(parts) => parts,
            None if digits.len() > 2 => digits.split_at_checked(digits.len() - 2)?,
            None => (digits, "0"),
        };
        let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
        let valid = (0..24).contains(&hours) && (0..60).contains(&minutes);
        let offset = Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()?;
        return valid.then(|| TimeZone::fixed(offset));
    }
    // Java's three-letter names that the database has not got.
    let name = match name {
        "PST" => "America/Los_Angeles",
        "CST" => "America/Chicago",
        "IST" => "Asia/Kolkata",
        "JST" => "Asia/Tokyo",
        "CTT" => "Asia/Shanghai",
        "AET" => "Australia/Sydney",
        "ACT" => "Australia/Darwin",
        "BST" => "Asia/Dhaka",
        "ECT" => "Europe/Paris",
        "ART" => "Africa/Cairo",
        "CAT" => "Africa/Harare",
        "EAT" => "Africa/Addis_Ababa",
        "PLT" => "Asia/Karachi",
        "VST" => "Asia/Ho_Chi_Minh",
        "NST" => "Pacific/Auckland",
        "SST" => "Pacific/Guadalcanal",
        "MIT" => "Pacific/Apia",
        "NET" => "Asia/Yerevan",
        "AST" => "America/Anchorage",
        "PNT" => "America/Phoenix",
        "PRT" => "America/Puerto_Rico",
        "CNT" => "America/St_Johns",
        "AGT" => "America/Argentina/Buenos_Aires",
        "BET" => "America/Sao_Paulo",
        "IET" => "America/Indiana/Indianapolis",
        name => name,
    };
    TimeZone::get(name).ok()
}

/// Where the time of an event comes from, and how it is shown.
#[derive(Clone, Debug)]
pub struct Times {
    /// `timeZone`, or the machine's.
    pub zone: TimeZone,
    /// `round`, `roundValue`, `roundUnit`.
    pub rounding: Option<Rounding>,
    /// `useLocalTimeStamp`: the clock instead of the header.
    pub use_clock: bool,
}

/// Resolves two templates, path and prefix, to one key per event: `path + "/" + prefix`.
///
/// An event without a usable `timestamp` header is given the time of the clock and counted. Flume fails the
/// whole batch, rolls it back and meets the same event again, for ever; an event in the directory of the
/// hour in which it was written is what an operator can still find.
#[derive(Debug)]
pub struct Resolver {
    path: Template,
    prefix: Template,
    times: Times,
    machine: Machine,
    key: String,
    path_size: usize,
    /// Unix milliseconds for which the time's part of `key` holds: from, to (excluded).
    valid: (i64, i64),
    moment: Option<Moment>,
    untimed: u64,
}

impl Resolver {
    /// A resolver for one lane.
    pub fn new(path: Template, prefix: Template, times: Times, machine: Machine) -> Self {
        Self {
            path,
            prefix,
            times,
            machine,
            key: String::new(),
            path_size: 0,
            valid: (0, 0),
            moment: None,
            untimed: 0,
        }
    }

    /// True if all events of a batch have one key: then resolving the first is enough.
    pub fn is_common(&self, batch: &EventBatch) -> bool {
        if batch.each().is_none() {
            return true;
        }
        let timed = self.reads_timestamp();
        let mut headers = self.path.headers().chain(self.prefix.headers());
        headers.all(|h| batch.is_common(h)) && (!timed || batch.is_common(TIMESTAMP))
    }

    /// True if the `timestamp` header is read.
    pub fn reads_timestamp(&self) -> bool {
        !self.times.use_clock && (self.path.needs_time() || self.prefix.needs_time())
    }

    /// The path of event `index` and the prefix of its file; `now` is the clock's Unix time.
    pub fn resolve(&mut self, batch: &EventBatch, index: usize, now: Duration) -> (&str, &str) {
        if self.path.needs_time() || self.prefix.needs_time() {
            let clock = now.as_millis() as i64;
            let unix_ms = if self.times.use_clock {
                clock
            } else {
                let stamp = batch.header(index, TIMESTAMP).and_then(|text| text.parse().ok());
                self.untimed += u64::from(stamp.is_none());
                stamp.unwrap_or(clock)
            };
            if self.moment.is_none() || unix_ms < self.valid.0 || unix_ms >= self.valid.1 {
                let step = self.path.granularity_ms().min(self.prefix.granularity_ms());
                let from = unix_ms.saturating_sub(unix_ms.rem_euclid(step));
                self.valid = (from, from.saturating_add(step));
                self.moment = Some(Moment::new(unix_ms, &self.times.zone, self.times.rounding));
            }
        }
        self.key.clear();
        self.path.write(batch, index, self.moment.as_ref(), &self.machine, &mut self.key);
        self.path_size = self.key.len();
        self.prefix.write(batch, index, self.moment.as_ref(), &self.machine, &mut self.key);
        self.key.split_at(self.path_size)
    }

    /// Events since the last call that had no usable `timestamp` header although one was needed.
    pub fn take_untimed(&mut self) -> u64 {
        std::mem::take(&mut self.untimed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{BatchBuilder, Headers, Separator};

    fn machine() -> Machine {
        Machine { name: "web1".into(), address: "10.0.0.7".into(), full_name: "web1.example.org".into() }
    }

    fn resolve(template: &str, headers: &[(&str, &str)], rounding: Option<Rounding>) -> String {
        let batch = EventBatch::single(headers.iter().copied().collect::<Headers>(), "body");
        let times = Times { zone: TimeZone::UTC, rounding, use_clock: false };
        let template = Template::new(template).unwrap();
        let mut resolver = Resolver::new(template, Template::new("").unwrap(), times, machine());
        resolver.resolve(&batch, 0, Duration::from_secs(1)).0.to_owned()
    }

    /// 2012-10-08 09:05:03.456 UTC, a Monday.
    const STAMP: (&str, &str) = ("timestamp", "1349687103456");

    #[test]
    fn every_letter() {
        let table = [
            ("%a", "Mon"),
            ("%A", "Monday"),
            ("%b", "Oct"),
            ("%B", "October"),
            ("%c", "Mon Oct 8 09:05:03 2012"),
            ("%d", "08"),
            ("%e", "8"),
            ("%D", "10/08/12"),
            ("%H", "09"),
            ("%I", "09"),
            ("%j", "282"),
            ("%k", "9"),
            ("%l", "9"),
            ("%m", "10"),
            ("%M", "05"),
            ("%n", "10"),
            ("%p", "AM"),
            ("%s", "1349687103"),
            ("%S", "03"),
            ("%t", "1349687103456"),
            ("%y", "12"),
            ("%Y", "2012"),
            ("%z", "+0000"),
            ("%%", "%"),
            ("%q", ""),
            ("%9", ""),
        ];
        for (template, expected) in table {
            assert_eq!(resolve(template, &[STAMP], None), expected, "{template}");
        }
        let midnight = ("timestamp", "1349654400000");
        assert_eq!(resolve("%I %l %p", &[midnight], None), "12 12 AM");
        let noon = ("timestamp", "1349697600000");
        assert_eq!(resolve("%I %k %p", &[noon], None), "12 12 PM");
    }

    #[test]
    fn headers_machine_and_what_is_no_escape() {
        let headers = [("state", "CA"), ("a.b-c_d", "x$1\\"), STAMP];
        let table = [
            ("/x/%{state}/%{a.b-c_d}", "/x/CA/x$1\\"),
            ("%{missing}|", "|"),
            ("%[localhost] %[IP] %[fqdn]", "web1 10.0.0.7 web1.example.org"),
            ("%", "%"),
            ("a%", "a%"),
            ("%{}", "%{}"),
            ("%{a b}", "%{a b}"),
            ("%[x", "%[x"),
            ("%-", "%-"),
            ("%%H", "%H"),
            ("\u{e4}%\u{e4}", "\u{e4}%\u{e4}"),
        ];
        for (template, expected) in table {
            assert_eq!(resolve(template, &headers, None), expected, "{template}");
        }
        assert!(Template::new("%[nonsense]").unwrap_err().contains("%[nonsense]"));
    }

    #[test]
    fn rounding_lowers_the_field_and_clears_what_is_below() {
        let table = [
            (Rounding::Second(2), "09:05:02 1349687102 1349687103456"),
            (Rounding::Minute(10), "09:00:00 1349686800 1349687103456"),
            (Rounding::Minute(2), "09:04:00 1349687040 1349687103456"),
            (Rounding::Hour(6), "06:00:00 1349676000 1349687103456"),
        ];
        for (rounding, expected) in table {
            assert_eq!(resolve("%H:%M:%S %s %t", &[STAMP], Some(rounding)), expected);
        }
    }

    #[test]
    fn zones_as_java_names_them() {
        let show = |zone: &str| {
            let zone = time_zone(zone).unwrap();
            let mut out = String::new();
            let moment = Moment::new(1_349_687_103_456, &zone, None);
            "H:M z".chars().for_each(|c| match c {
                ':' | ' ' => out.push(c),
                c => moment.write(c, &mut out),
            });
            out
        };
        let table = [
            ("Europe/Berlin", "11:05 +0200"),
            ("UTC", "09:05 +0000"),
            ("GMT", "09:05 +0000"),
            ("GMT+8", "17:05 +0800"),
            ("GMT-0330", "05:35 -0330"),
            ("GMT-03:30", "05:35 -0330"),
            ("PST", "02:05 -0700"),
            ("Asia/Kolkata", "14:35 +0530"),
        ];
        for (zone, expected) in table {
            assert_eq!(show(zone), expected, "{zone}");
        }
        for zone in ["Nowhere/Town", "GMT+25", "GMT+1:99", "GMT+x"] {
            assert!(time_zone(zone).is_none(), "{zone}");
        }
    }

    #[test]
    fn an_event_without_time_gets_the_clocks_and_is_counted() {
        let times = Times { zone: TimeZone::UTC, rounding: None, use_clock: false };
        let template = Template::new("%Y").unwrap();
        let mut resolver = Resolver::new(template, Template::new("p").unwrap(), times, machine());
        for headers in [Headers::new(), [("timestamp", " 1 ")].into_iter().collect()] {
            let batch = EventBatch::single(headers, "x");
            assert_eq!(resolver.resolve(&batch, 0, Duration::from_secs(1_349_687_103)), ("2012", "p"));
            assert_eq!((resolver.take_untimed(), resolver.take_untimed()), (1, 0));
        }
    }

    #[test]
    fn a_batch_is_common_unless_a_header_in_use_differs() {
        let mut builder = BatchBuilder::new(Separator::None);
        builder.push(b"a");
        builder.header("offset", "1");
        builder.push(b"b");
        builder.header("offset", "2");
        builder.common_mut().insert("timestamp", "1");
        let batch = builder.finish();
        let resolver = |path: &str| {
            let times = Times { zone: TimeZone::UTC, rounding: None, use_clock: false };
            Resolver::new(Template::new(path).unwrap(), Template::new("p").unwrap(), times, machine())
        };
        assert!(resolver("/x/%Y").is_common(&batch));
        assert!(!resolver("/x/%{offset}").is_common(&batch));
        let mut batch = batch;
        let mut each = crate::event::EventHeadersBuilder::default();
        each.header("timestamp", "1");
        each.end_event();
        each.header("timestamp", "999999");
        each.end_event();
        batch.set_each(each.finish());
        assert!(!resolver("/x/%Y").is_common(&batch));
        assert!(resolver("/x").is_common(&batch));
        let mut seconds = resolver("%S");
        assert_eq!(seconds.resolve(&batch, 0, Duration::ZERO).0, "00");
        assert_eq!(seconds.resolve(&batch, 1, Duration::ZERO).0, "39");
    }
}
