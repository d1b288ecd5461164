//! Dates in the pattern letters of Joda-Time and of Java's `SimpleDateFormat`, read to epoch milliseconds.
//!
//! `yyyy-MM-dd HH:mm:ss,SSS Z`: a run of one letter is a field, text between apostrophes and everything
//! that is no letter stands for itself, two apostrophes are one. Names are English, in any case.

use jiff::Zoned;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};

/// Whose rules apply where the two differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `S` is a fraction of a second; a date without year is of 2000; nothing may follow the date.
    Joda,
    /// `S` is a number of milliseconds; a date without year is of 1970; text may follow the date.
    SimpleDateFormat,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Literal(String),
    Field { letter: char, count: usize },
}

impl Item {
    fn is_number(&self) -> bool {
        match self {
            Self::Literal(_) => false,
            Self::Field { letter: 'M', count } => *count < 3,
            Self::Field { letter, .. } => !matches!(letter, 'a' | 'E' | 'Z' | 'X' | 'z' | 'G'),
        }
    }
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct DatePattern {
    items: Vec<Item>,
    dialect: Dialect,
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// The fields found in a text.
#[derive(Clone, Copy, Default)]
struct Fields {
    year: Option<i16>,
    month: Option<i8>,
    day: Option<i8>,
    day_of_year: Option<i16>,
    hour: Option<i8>,
    half_day_hour: Option<i8>,
    is_afternoon: bool,
    minute: i8,
    second: i8,
    milliseconds: i64,
    offset: Option<Offset>,
}

impl DatePattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// A letter that is not supported, or an open quotation.
    pub fn new(pattern: &str, dialect: Dialect) -> Result<Self, String> {
        let mut items: Vec<Item> = Vec::new();
        let mut literal = String::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\'' if chars.next_if_eq(&'\'').is_some() => literal.push('\''),
                '\'' => loop {
                    match chars.next() {
                        Some('\'') if chars.next_if_eq(&'\'').is_some() => literal.push('\''),
                        Some('\'') => break,
                        Some(c) => literal.push(c),
                        None => return Err("has an apostrophe without its partner".to_owned()),
                    }
                },
                c if c.is_ascii_alphabetic() => {
                    if !"yYuMdDHkhKmsSaEZXzGe".contains(c) {
                        return Err(format!(
                            "has the letter {c:?}, which is no date field known here; quote text: 'T'"
                        ));
                    }
                    let mut count = 1;
                    while chars.next_if_eq(&c).is_some() {
                        count += 1;
                    }
                    if !literal.is_empty() {
                        items.push(Item::Literal(std::mem::take(&mut literal)));
                    }
                    items.push(Item::Field { letter: c, count });
                }
                c => literal.push(c),
            }
        }
        if !literal.is_empty() {
            items.push(Item::Literal(literal));
        }
        Ok(Self { items, dialect })
    }

    /// Reads a text; `zone` counts unless the text has an offset of its own. `current_year` places years
    /// of two digits.
    ///
    /// # Errors
    /// What does not fit, and where.
    pub fn parse(&self, text: &str, zone: &TimeZone, current_year: i16) -> Result<i64, String> {
        let mut fields = Fields::default();
        let mut rest = text;
        let wrong = |rest: &str| format!("{text:?} does not fit the pattern at {rest:?}");
        for (index, item) in self.items.iter().enumerate() {
            rest = match item {
                Item::Literal(literal) => rest.strip_prefix(literal.as_str()).ok_or_else(|| wrong(rest))?,
                Item::Field { letter, count } => {
                    let adjacent = self.items.get(index + 1).is_some_and(Item::is_number);
                    let digits_max = if adjacent { Some(*count) } else { None };
                    self.field(*letter, *count, digits_max, rest, &mut fields, current_year)
                        .ok_or_else(|| wrong(rest))?
                }
            };
        }
        if self.dialect == Dialect::Joda && !rest.is_empty() {
            return Err(wrong(rest));
        }
        self.resolve(&fields, zone).map_err(|error| format!("{text:?} is no date: {error}"))
    }

    /// Writes a moment the way `SimpleDateFormat` does, in English.
    pub fn format(&self, time: &Zoned) -> String {
        let mut out = String::new();
        for item in &self.items {
            match item {
                Item::Literal(literal) => out.push_str(literal),
                Item::Field { letter, count } => write_field(&mut out, *letter, *count, time),
            }
        }
        out
    }

    fn field<'t>(
        &self,
        letter: char,
        count: usize,
        digits_max: Option<usize>,
        text: &'t str,
        fields: &mut Fields,
        current_year: i16,
    ) -> Option<&'t str> {
        let number = |most: usize| number(text, digits_max.unwrap_or(most));
        match letter {
            'y' | 'Y' | 'u' => {
                let (value, rest) = number(4)?;
                let written = text.len() - rest.len();
                let year = i16::try_from(value).ok()?;
                // Two digits are a year within 80 years before and 19 after now.
                let two_digits = |year: i16| {
                    let floor = current_year - 80;
                    floor + (year - floor).rem_euclid(100)
                };
                fields.year = Some(if count == 2 && written == 2 { two_digits(year) } else { year });
                Some(rest)
            }
            'M' if count >= 3 => {
                let (month, rest) = name(text, &MONTHS)?;
                fields.month = Some(month as i8 + 1);
                Some(rest)
            }
            'E' => name(text, &DAYS).map(|(_, rest)| rest),
            'a' => {
                let half = text.get(..2)?;
                fields.is_afternoon = half.eq_ignore_ascii_case("pm");
                (fields.is_afternoon || half.eq_ignore_ascii_case("am")).then(|| &text[2..])
            }
            'G' => text.strip_prefix("AD"),
            'Z' | 'X' | 'z' => {
                let (offset, rest) = offset(text)?;
                fields.offset = Some(offset);
                Some(rest)
            }
            'S' if self.dialect == Dialect::Joda => {
                let written = digits(text, digits_max.unwrap_or(9));
                let (fraction, rest) = text.split_at_checked(written).filter(|_| written > 0)?;
                // A fraction of any length, of which milliseconds count.
                let three = fraction.bytes().chain([b'0'; 3]).take(3);
                fields.milliseconds = three.fold(0, |millis, digit| millis * 10 + i64::from(digit - b'0'));
                Some(rest)
            }
            'S' => {
                let (value, rest) = number(9)?;
                fields.milliseconds = value;
                Some(rest)
            }
            'D' => {
                let (value, rest) = number(3)?;
                fields.day_of_year = Some(i16::try_from(value).ok()?);
                Some(rest)
            }
            _ => {
                let (value, rest) = number(2)?;
                let value = i8::try_from(value).ok()?;
                match letter {
                    'M' => fields.month = Some(value),
                    'd' => fields.day = Some(value),
                    'H' => fields.hour = Some(value),
                    'k' => fields.hour = Some(value % 24),
                    'h' | 'K' => fields.half_day_hour = Some(value % 12),
                    'm' => fields.minute = value,
                    's' => fields.second = value,
                    _ => {}
                }
                Some(rest)
            }
        }
    }

    fn resolve(&self, fields: &Fields, zone: &TimeZone) -> Result<i64, jiff::Error> {
        let year = fields.year.unwrap_or(match self.dialect {
            Dialect::Joda if fields.month.is_some() || fields.day.is_some() => 2000,
            _ => 1970,
        });
        let date = match fields.day_of_year {
            Some(day) => {
                Date::new(year, 1, 1)?.checked_add(jiff::Span::new().try_days(i64::from(day) - 1)?)?
            }
            None => Date::new(year, fields.month.unwrap_or(1), fields.day.unwrap_or(1))?,
        };
        let afternoon = if fields.is_afternoon { 12 } else { 0 };
        let hour = fields.hour.or(fields.half_day_hour.map(|hour| hour + afternoon)).unwrap_or(0);
        let time = Time::new(hour, fields.minute, fields.second, 0)?;
        let local = DateTime::from_parts(date, time);
        let instant = match fields.offset {
            Some(offset) => offset.to_timestamp(local)?,
            None => zone.to_ambiguous_timestamp(local).compatible()?,
        };
        Ok(instant.as_millisecond().saturating_add(fields.milliseconds))
    }
}

/// Digits a text begins with, and at most so many.
fn digits(text: &str, most: usize) -> usize {
    text.bytes().take(most).take_while(u8::is_ascii_digit).count()
}

fn number(text: &str, digits_max: usize) -> Option<(i64, &str)> {
    let digits = digits(text, digits_max);
    let value = text.get(..digits)?.parse().ok()?;
    Some((value, &text[digits..]))
}

/// A full name or its first three letters.
fn name<'t>(text: &'t str, names: &[&str]) -> Option<(usize, &'t str)> {
    let starts = |name: &str| text.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let full = names.iter().position(|name| starts(name)).map(|index| (index, names[index].len()));
    let (index, length) = full.or_else(|| Some((names.iter().position(|name| starts(&name[..3]))?, 3)))?;
    Some((index, &text[length..]))
}

/// `Z`, `UTC`, `GMT`, `+hh`, `+hhmm` or `+hh:mm`.
fn offset(text: &str) -> Option<(Offset, &str)> {
    for zero in ["UTC", "GMT", "Z", "z"] {
        if let Some(rest) = text.strip_prefix(zero) {
            return Some((Offset::UTC, rest));
        }
    }
    let sign = match text.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, rest) = number(&text[1..], 2).filter(|(_, rest)| text.len() - rest.len() == 3)?;
    let minutes = rest.strip_prefix(':').unwrap_or(rest);
    let (minutes, rest) = match number(minutes, 2) {
        Some((value, after)) if minutes.len() - after.len() == 2 => (value, after),
        _ => (0, rest),
    };
    let seconds = sign * (hours * 3600 + minutes * 60);
    Some((Offset::from_seconds(i32::try_from(seconds).ok()?).ok()?, rest))
}

fn write_field(out: &mut String, letter: char, count: usize, time: &Zoned) {
    let title = |name: &str| -> String {
        let mut letters = name.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        let whole: String = first.into_iter().chain(letters).collect();
        // Three letters or fewer are the short form.
        if count > 3 { whole } else { whole.chars().take(3).collect() }
    };
    let offset = || {
        let seconds = time.offset().seconds();
        let sign = if seconds < 0 { '-' } else { '+' };
        (sign, seconds.abs() / 3600, seconds.abs() / 60 % 60)
    };
    let hour = i64::from(time.hour());
    let number = match letter {
        'y' | 'Y' if count == 2 => i64::from(time.year().rem_euclid(100)),
        'y' | 'Y' => i64::from(time.year()),
        'M' if count >= 3 => {
            return out.push_str(&title(MONTHS.get(time.month() as usize - 1).copied().unwrap_or_default()));
        }
        'M' => i64::from(time.month()),
        'd' => i64::from(time.day()),
        'D' => i64::from(time.day_of_year()),
        'H' => hour,
        'k' => {
            if hour == 0 {
                24
            } else {
                hour
            }
        }
        'K' => hour % 12,
        'h' => {
            if hour % 12 == 0 {
                12
            } else {
                hour % 12
            }
        }
        'm' => i64::from(time.minute()),
        's' => i64::from(time.second()),
        'S' => i64::from(time.millisecond()),
        'u' | 'e' => i64::from(time.weekday().to_monday_one_offset()),
        'E' => {
            let day = time.weekday().to_monday_zero_offset() as usize;
            return out.push_str(&title(DAYS.get(day).copied().unwrap_or_default()));
        }
        'a' => return out.push_str(if hour < 12 { "AM" } else { "PM" }),
        'G' => return out.push_str("AD"),
        'X' if time.offset().seconds() == 0 => return out.push('Z'),
        'X' => {
            let (sign, hours, minutes) = offset();
            let text = match count {
                1 => format!("{sign}{hours:02}"),
                2 => format!("{sign}{hours:02}{minutes:02}"),
                _ => format!("{sign}{hours:02}:{minutes:02}"),
            };
            return out.push_str(&text);
        }
        'z' => return out.push_str(&time.strftime("%Z").to_string()),
        _ => {
            let (sign, hours, minutes) = offset();
            return out.push_str(&format!("{sign}{hours:02}{minutes:02}"));
        }
    };
    out.push_str(&format!("{number:0count$}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pattern: &str, dialect: Dialect, text: &str) -> Result<i64, String> {
        DatePattern::new(pattern, dialect)?.parse(text, &TimeZone::UTC, 2026)
    }

    #[test]
    fn dates_are_read() {
        use Dialect::{Joda, SimpleDateFormat};
        let table = [
            ("yyyy-MM-dd HH:mm", Joda, "2012-10-18 18:47", 1_350_586_020_000),
            ("yyyy-MM-dd HH:mm:ss,SSS", Joda, "2012-10-18 18:47:57,614", 1_350_586_077_614),
            ("yyyy-MM-dd HH:mm:ss.SSS", Joda, "2012-10-18 18:47:57.5", 1_350_586_077_500),
            ("yyyy-MM-dd HH:mm:ss.SSS", SimpleDateFormat, "2012-10-18 18:47:57.5", 1_350_586_077_005),
            ("yyyy-MM-dd'T'HH:mm:ssZ", Joda, "2012-10-18T20:47:57+0200", 1_350_586_077_000),
            ("yyyy-MM-dd'T'HH:mm:ssZZ", Joda, "2012-10-18T20:47:57+02:00", 1_350_586_077_000),
            (
                "yyyy-MM-dd'T'HH:mm:ssXXX",
                SimpleDateFormat,
                "2012-10-18T18:47:57Z and more",
                1_350_586_077_000,
            ),
            ("dd/MMM/yyyy:HH:mm:ss Z", Joda, "18/Oct/2012:18:47:57 +0000", 1_350_586_077_000),
            ("EEE, dd MMMM yy hh:mm:ss a", Joda, "Thu, 18 October 12 06:47:57 PM", 1_350_586_077_000),
            ("yyyyMMddHHmmss", Joda, "20121018184757", 1_350_586_077_000),
            ("yyyy.SSSSSSSSSSSSSSSSSSSSSSSSyy", Joda, "1970.01234567890123456789012370", 12),
            ("yyyyMMddHHmmssSSS", Joda, "20121018184757614", 1_350_586_077_614),
            ("yyyy D", Joda, "2012 292", 1_350_518_400_000),
            ("h 'o''clock' a", Joda, "12 o'clock AM", 0),
            ("M/d HH:mm:ss", Joda, "1/1 00:00:00", 946_684_800_000),
            ("MMM d HH:mm:ss", SimpleDateFormat, "jan 1 00:00:00", 0),
            ("kk:mm", Joda, "24:01", 60_000),
        ];
        for (pattern, dialect, text, expected) in table {
            assert_eq!(read(pattern, dialect, text), Ok(expected), "{pattern} {text}");
        }
    }

    #[test]
    fn local_time_is_of_the_given_zone() {
        let pattern = DatePattern::new("yyyy-MM-dd HH:mm", Dialect::Joda).unwrap();
        let zone = TimeZone::fixed(Offset::from_seconds(8 * 3600).unwrap());
        assert_eq!(pattern.parse("2012-10-19 02:47", &zone, 2026), Ok(1_350_586_020_000));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let table = [
            ("yyyy-MM-dd", "2012-13-01"),
            ("yyyy-MM-dd", "2012-02-30"),
            ("yyyy-MM-dd", "2012-10-18 and more"),
            ("yyyy-MM-dd", "2012/10/18"),
            ("yyyy-MM-dd", ""),
            ("HH:mm", "25:00"),
            ("Z", "+5"),
            ("MMM", "Foo"),
            ("a", "\u{e9}"),
        ];
        for (pattern, text) in table {
            assert!(read(pattern, Dialect::Joda, text).is_err(), "{pattern} {text}");
        }
        for pattern in ["yyyy 'open", "yyyy w", "Q"] {
            assert!(DatePattern::new(pattern, Dialect::Joda).is_err(), "{pattern}");
        }
    }

    #[test]
    fn dates_are_written() {
        let time: Zoned = "2026-03-07T15:04:05.067+01:00[Europe/Berlin]".parse().unwrap();
        for (pattern, expected) in [
            ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "2026-03-07T15:04:05.067+01:00"),
            ("yy/M/d h:mm a", "26/3/7 3:04 PM"),
            ("EEE EEEE MMM MMMM", "Sat Saturday Mar March"),
            ("D DDD k K Z z", "66 066 15 3 +0100 CET"),
            ("'of' y''", "of 2026'"),
        ] {
            let compiled = DatePattern::new(pattern, Dialect::SimpleDateFormat).unwrap();
            assert_eq!(compiled.format(&time), expected, "{pattern}");
        }
    }
}
