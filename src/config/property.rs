//! Property declarations: one constant per property, from which the parser, the unknown-key warning,
//! `describe` and `conf/PROPERTIES.md` derive.

use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use crate::codec::charset::Charset;
use crate::codec::java_regex::JavaRegex;

/// What `describe`, the generated reference and the unknown-key check need to know of a property.
pub trait PropertySpec: Sync {
    /// Key below the component, for example `max-line-length`; for a family the prefix, `headers.`.
    fn name(&self) -> &'static str;
    /// Default as an operator would write it.
    fn default(&self) -> Option<&'static str>;
    /// Must be set.
    fn is_required(&self) -> bool;
    /// Every key that starts with [`Self::name`] belongs to it.
    fn is_family(&self) -> bool;
    /// One or two sentences: meaning, unit, what is special.
    fn doc(&self) -> &'static str;
    /// What kind of value, for people: `TCP port`, `milliseconds`.
    fn kind(&self) -> &'static str;
    /// Checks that a text would be accepted.
    ///
    /// # Errors
    /// What is wrong with it.
    fn check(&self, text: &str) -> Result<(), String>;
    /// Value is a secret and prints as `[secret]`.
    fn is_secret(&self) -> bool;
    /// What may stand below a family: prefixes and their properties. `get` reads the component's settings beside
    /// the family. `None`: anything.
    fn members(&self, get: &dyn Fn(&str) -> Option<String>) -> Option<Vec<(String, Specs)>>;
}

/// Declarations of properties.
pub type Specs = &'static [&'static dyn PropertySpec];
/// Finds out what may stand below a family, see [`PropertySpec::members`].
pub type Members = fn(&dyn Fn(&str) -> Option<String>) -> Option<Vec<(String, Specs)>>;

/// A type a property's text can be read as.
pub trait PropertyValue: Sized + 'static {
    /// What kind of value, for people.
    const KIND: &'static str;
    /// An example for hints; empty if none helps.
    const EXAMPLE: &'static str;
    /// Reads the trimmed text.
    ///
    /// # Errors
    /// What is wrong, as in `not a TCP port`.
    fn parse(text: &str) -> Result<Self, String>;
    /// A value that is accepted but does not mean what it seems to; said as a warning.
    fn caution(_text: &str) -> Option<String> {
        None
    }
}

/// A property of a component, read as a `T`.
#[derive(Debug)]
pub struct Property<T> {
    name: &'static str,
    default: Option<&'static str>,
    required: bool,
    family: bool,
    secret: bool,
    members: Option<Members>,
    example: &'static str,
    doc: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T: PropertyValue> Property<T> {
    const fn new(
        name: &'static str,
        default: Option<&'static str>,
        required: bool,
        doc: &'static str,
    ) -> Self {
        Self {
            name,
            default,
            required,
            family: false,
            secret: false,
            members: None,
            example: "",
            doc,
            value: PhantomData,
        }
    }
    /// A property without which the component cannot work.
    pub const fn required(name: &'static str, doc: &'static str) -> Self {
        Self::new(name, None, true, doc)
    }
    /// A property with a default, which the same parser reads.
    pub const fn optional(name: &'static str, default: &'static str, doc: &'static str) -> Self {
        Self::new(name, Some(default), false, doc)
    }
    /// A property that may be absent; read it with `ParseContext::get_opt`.
    pub const fn absent(name: &'static str, doc: &'static str) -> Self {
        Self::new(name, None, false, doc)
    }
    /// All keys below a prefix that ends with a dot; read them with `ParseContext::family`.
    pub const fn family(prefix: &'static str, doc: &'static str) -> Self {
        let mut property = Self::new(prefix, None, false, doc);
        property.family = true;
        property
    }
    /// What an operator might write, for a property whose type gives no good example.
    #[must_use]
    pub const fn example(mut self, example: &'static str) -> Self {
        self.example = example;
        self
    }
    /// Of the property itself, else its default, else of its type; may be empty.
    pub fn shown_example(&self) -> &'static str {
        match (self.example, self.default) {
            // Who writes `yes` means true.
            ("", Some("true" | "false")) => T::EXAMPLE,
            ("", Some(default)) => default,
            ("", None) => T::EXAMPLE,
            (example, _) => example,
        }
    }
    /// Only these keys may stand below the family.
    #[must_use]
    pub const fn members(mut self, members: Members) -> Self {
        self.members = Some(members);
        self
    }
    /// The value prints as `[secret]`.
    #[must_use]
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

impl<T: PropertyValue> PropertySpec for Property<T> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn default(&self) -> Option<&'static str> {
        self.default
    }
    fn is_required(&self) -> bool {
        self.required
    }
    fn is_family(&self) -> bool {
        self.family
    }
    fn doc(&self) -> &'static str {
        self.doc
    }
    fn kind(&self) -> &'static str {
        T::KIND
    }
    fn check(&self, text: &str) -> Result<(), String> {
        T::parse(text).map(drop)
    }
    fn is_secret(&self) -> bool {
        self.secret
    }
    fn members(&self, get: &dyn Fn(&str) -> Option<String>) -> Option<Vec<(String, Specs)>> {
        self.members?(get)
    }
}

impl PropertyValue for String {
    const KIND: &'static str = "text";
    const EXAMPLE: &'static str = "";
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl PropertyValue for PathBuf {
    const KIND: &'static str = "path";
    const EXAMPLE: &'static str = "";
    /// A leading `~/` is the home directory, as in Flume's own defaults.
    fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("~/") {
            Some(rest) => {
                let home = std::env::var_os("HOME").ok_or("`~` needs the environment variable HOME")?;
                Ok(PathBuf::from(home).join(rest))
            }
            None => Ok(PathBuf::from(text)),
        }
    }
}

impl PropertyValue for bool {
    const KIND: &'static str = "true or false";
    const EXAMPLE: &'static str = "true";
    /// Java's `Boolean.parseBoolean`: `true` in any case, anything else is false.
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.eq_ignore_ascii_case("true"))
    }
    fn caution(text: &str) -> Option<String> {
        (!text.eq_ignore_ascii_case("true") && !text.eq_ignore_ascii_case("false"))
            .then(|| "neither true nor false; it counts as false, as in Flume".to_owned())
    }
}

/// A whole number of the type's range, with a clear message.
fn whole_number<N: std::str::FromStr>(
    text: &str,
    low: impl std::fmt::Display,
    high: impl std::fmt::Display,
) -> Result<N, String> {
    text.trim().parse().map_err(|_| match (low.to_string().as_str(), high.to_string().as_str()) {
        // Nobody is helped by the limits of 64 bits.
        ("0", "18446744073709551615") => "not a whole number of 0 or more".to_owned(),
        ("-9223372036854775808", _) => "not a whole number".to_owned(),
        (low, high) => format!("not a whole number from {low} to {high}"),
    })
}

macro_rules! whole_numbers {
    ($($t:ty),*) => {$(
        impl PropertyValue for $t {
            const KIND: &'static str = "whole number";
            const EXAMPLE: &'static str = "100";
            fn parse(text: &str) -> Result<Self, String> {
                whole_number(text, <$t>::MIN, <$t>::MAX)
            }
        }
    )*};
}
whole_numbers!(u32, u64, i32, i64, usize);

/// A TCP or UDP port, 1 to 65535 (0 = the system chooses, for tests).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(pub u16);
impl PropertyValue for Port {
    const KIND: &'static str = "port";
    const EXAMPLE: &'static str = "44444";
    fn parse(text: &str) -> Result<Self, String> {
        text.trim().parse().map(Self).map_err(|_| "not a port; use a number from 1 to 65535".to_owned())
    }
}

/// A whole number of at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positive(pub usize);
impl PropertyValue for Positive {
    const KIND: &'static str = "whole number above 0";
    const EXAMPLE: &'static str = "100";
    fn parse(text: &str) -> Result<Self, String> {
        match text.trim().parse() {
            Ok(number) if number > 0 => Ok(Self(number)),
            _ => Err("not a whole number above 0".to_owned()),
        }
    }
}

/// A duration written in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Millis(pub Duration);
impl PropertyValue for Millis {
    const KIND: &'static str = "milliseconds";
    const EXAMPLE: &'static str = "3000";
    fn parse(text: &str) -> Result<Self, String> {
        whole_number(text, 0, u64::MAX).map(|ms| Self(Duration::from_millis(ms)))
    }
}

/// A duration written in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub Duration);
impl PropertyValue for Seconds {
    const KIND: &'static str = "seconds";
    const EXAMPLE: &'static str = "30";
    fn parse(text: &str) -> Result<Self, String> {
        whole_number(text, 0, u64::MAX).map(|s| Self(Duration::from_secs(s)))
    }
}

/// Words separated by white space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words(pub Vec<String>);
impl PropertyValue for Words {
    const KIND: &'static str = "words separated by blanks";
    const EXAMPLE: &'static str = "";
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(text.split_whitespace().map(str::to_owned).collect()))
    }
}

/// Items separated by commas, trimmed; empty ones are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommaList(pub Vec<String>);
impl PropertyValue for CommaList {
    const KIND: &'static str = "items separated by commas";
    const EXAMPLE: &'static str = "";
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()))
    }
}

/// A regular expression in Java's syntax.
#[derive(Clone, Debug)]
pub struct Pattern(pub JavaRegex);
impl PropertyValue for Pattern {
    const KIND: &'static str = "regular expression";
    const EXAMPLE: &'static str = "^[0-9].*$";
    fn parse(text: &str) -> Result<Self, String> {
        JavaRegex::new(text)
            .map(Self)
            .map_err(|e| format!("not a regular expression this program can run: {e}"))
    }
}

/// A character set, under one of Java's names.
impl PropertyValue for Charset {
    const KIND: &'static str = "character set";
    const EXAMPLE: &'static str = "UTF-8";
    fn parse(text: &str) -> Result<Self, String> {
        Self::named(text).ok_or_else(|| "not a character set this program knows".to_owned())
    }
}
