//! Regular expressions as operators wrote them for Java, run by the `regex` crate in linear time.
//!
//! Java's syntax is translated where both mean different things by the same text:
//!
//! | Java | here |
//! | --- | --- |
//! | `.` stops at `\n`, `\r`, U+0085, U+2028, U+2029 | a class |
//! | `$` also matches before a final line terminator | `\z`, and the text is tried again without its terminator |
//! | `\d \w \s` are ASCII | ASCII classes |
//! | `\h \v \R \e \cX \0nn \Q…\E \uXXXX`, `\p{Punct}` | spelled out |
//! | `a*+` possessive | greedy: finds at least as much |
//!
//! Look-around, back-references and atomic groups need backtracking and are refused: hostile input must
//! not be able to stall a core. Bodies that are not UTF-8 are matched as Java sees them, with U+FFFD for
//! malformed sequences.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{BufMut, BytesMut};
use regex::bytes::{CaptureLocations, Regex};

/// A line terminator of Java's.
const TERMINATORS: &str = r"\n\r\x{85}\x{2028}\x{2029}";

/// A translated expression. See the module's doc.
#[derive(Clone, Debug)]
pub struct JavaRegex {
    anywhere: Regex,
    whole: Regex,
    has_end_anchor: bool,
}

impl JavaRegex {
    /// Translates and compiles.
    ///
    /// # Errors
    /// What is wrong with it, or which construct is not supported.
    pub fn new(java: &str) -> Result<Self, String> {
        let (pattern, has_end_anchor) = translate(java)?;
        let compile = |pattern: &str| {
            Regex::new(pattern).map_err(|error| {
                let reason = error.to_string();
                reason.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned()
            })
        };
        Ok(Self {
            anywhere: compile(&pattern)?,
            whole: compile(&format!(r"\A(?:{pattern})\z"))?,
            has_end_anchor,
        })
    }

    /// Java's `find`: the expression matches somewhere.
    pub fn is_match(&self, text: &[u8]) -> bool {
        let text = as_java_sees(text);
        self.anywhere.is_match(&text)
            || (self.has_end_anchor
                && without_terminator(&text).is_some_and(|end| self.anywhere.is_match(&text[..end])))
    }

    /// Java's `matches`: the expression matches the whole text.
    pub fn is_full_match(&self, text: &[u8]) -> bool {
        self.whole.is_match(&as_java_sees(text))
    }

    /// Java's `matches`, with its groups.
    pub fn full_match<'t>(&self, text: &'t [u8]) -> Option<regex::bytes::Captures<'t>> {
        self.whole.captures(text)
    }

    /// Number of groups, the whole match not counted.
    pub fn group_count(&self) -> usize {
        self.anywhere.captures_len() - 1
    }

    /// Number of a named group.
    pub fn group_named(&self, name: &str) -> Option<usize> {
        self.anywhere.capture_names().position(|n| n == Some(name))
    }

    /// Room for the groups of one match, to be reused.
    pub fn groups(&self) -> Groups {
        Groups {
            first: self.anywhere.capture_locations(),
            second: self.anywhere.capture_locations(),
            is_second: false,
        }
    }

    /// Finds the first match at or behind `from`. `text` must be UTF-8 ([`as_java_sees`]).
    pub fn find_at(&self, text: &[u8], from: usize, groups: &mut Groups) -> bool {
        let first = self.anywhere.captures_read_at(&mut groups.first, text, from).map(|m| m.start());
        groups.is_second = false;
        if !self.has_end_anchor {
            return first.is_some();
        }
        let Some(end) = without_terminator(text).filter(|end| *end >= from) else { return first.is_some() };
        let second =
            self.anywhere.captures_read_at(&mut groups.second, &text[..end], from).map(|m| m.start());
        groups.is_second = second.is_some_and(|second| first.is_none_or(|first| second < first));
        first.is_some() || second.is_some()
    }

    /// Java's `replaceAll`: appends the edited text to `out`. False, and nothing appended, if nothing matches.
    pub fn replace_all(
        &self,
        text: &[u8],
        replacement: &Replacement,
        groups: &mut Groups,
        out: &mut BytesMut,
    ) -> bool {
        let mut copied = 0;
        let mut from = 0;
        while from <= text.len() && self.find_at(text, from, groups) {
            let Some(found) = groups.get(0) else { break };
            out.put_slice(&text[copied..found.start]);
            for piece in &replacement.0 {
                match piece {
                    Piece::Literal(literal) => out.put_slice(literal.as_bytes()),
                    Piece::Group(group) => {
                        if let Some(range) = groups.get(*group) {
                            out.put_slice(&text[range]);
                        }
                    }
                }
            }
            copied = found.end;
            // Behind an empty match the search goes on one character further.
            from = match found.is_empty() {
                false => found.end,
                true => found.end + text.get(found.end).map_or(1, |lead| char_size(*lead)),
            };
            if from > text.len() {
                break;
            }
        }
        if copied == 0 && from == 0 {
            return false;
        }
        out.put_slice(&text[copied..]);
        true
    }
}

/// The groups of one match.
#[derive(Clone, Debug)]
pub struct Groups {
    first: CaptureLocations,
    second: CaptureLocations,
    is_second: bool,
}

impl Groups {
    /// Where a group matched; 0 is the whole match.
    pub fn get(&self, group: usize) -> Option<Range<usize>> {
        let locations = if self.is_second { &self.second } else { &self.first };
        locations.get(group).map(|(start, end)| start..end)
    }
}

/// Bytes as Java's decoder turns them into text.
pub fn as_java_sees(bytes: &[u8]) -> Cow<'_, [u8]> {
    match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(_) => Cow::Borrowed(bytes),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

/// Where the text ends without its final line terminator, if it has one.
fn without_terminator(text: &[u8]) -> Option<usize> {
    let terminators: [&[u8]; 6] =
        [b"\r\n", b"\n", b"\r", "\u{85}".as_bytes(), "\u{2028}".as_bytes(), "\u{2029}".as_bytes()];
    terminators.iter().find(|t| text.ends_with(t)).map(|t| text.len() - t.len())
}

fn char_size(lead: u8) -> usize {
    match lead {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    }
}

/// The text that replaces a match, in Java's syntax: `$1`, `${name}`, `\$`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Group(usize),
}

impl Replacement {
    /// Reads it for an expression.
    ///
    /// # Errors
    /// A group the expression does not have, or a lone `$` or `\`: Java finds these when the first event
    /// matches.
    pub fn new(java: &str, regex: &JavaRegex) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut chars = java.chars().peekable();
        while let Some(c) = chars.next() {
            let group = match c {
                '\\' => {
                    literal.push(chars.next().ok_or(r"ends with a lone `\`; write `\\` for one")?);
                    continue;
                }
                '$' => match chars.peek() {
                    Some('{') => {
                        chars.next();
                        let name: String = chars.by_ref().take_while(|c| *c != '}').collect();
                        regex
                            .group_named(&name)
                            .ok_or_else(|| format!("the pattern has no group named {name:?}"))?
                    }
                    Some(digit) if digit.is_ascii_digit() => {
                        let mut number = 0;
                        // Java takes further digits as long as there is such a group.
                        let mut first = true;
                        while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                            let longer = number * 10 + digit as usize;
                            if !first && longer > regex.group_count() {
                                break;
                            }
                            (number, first) = (longer, false);
                            chars.next();
                        }
                        if number > regex.group_count() {
                            return Err(format!(
                                "the pattern has no group {number}, only {}",
                                regex.group_count()
                            ));
                        }
                        number
                    }
                    _ => {
                        return Err(
                            r"has a `$` without a group number; write `\$` for a dollar sign".to_owned()
                        );
                    }
                },
                c => {
                    literal.push(c);
                    continue;
                }
            };
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Group(group));
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }
}

#[derive(Clone, Copy, Default)]
struct Flags {
    dot_all: bool,
    multi_line: bool,
    unix_lines: bool,
}

/// Java's syntax to that of the `regex` crate; and whether `$` or `\Z` occurs outside multi-line mode.
fn translate(java: &str) -> Result<(String, bool), String> {
    let mut t = Translator {
        rest: java.chars().collect(),
        at: 0,
        out: String::with_capacity(java.len() + 16),
        flags: Flags::default(),
        outer: Vec::new(),
        has_end_anchor: false,
    };
    t.run()?;
    Ok((t.out, t.has_end_anchor))
}

struct Translator {
    rest: Vec<char>,
    at: usize,
    out: String,
    flags: Flags,
    outer: Vec<Flags>,
    has_end_anchor: bool,
}

impl Translator {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }
    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }
    fn looking_at(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(i, c)| self.rest.get(self.at + i) == Some(&c))
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(c) = self.next() {
            match c {
                '\\' => self.escape(false)?,
                '[' => self.class()?,
                '.' if self.flags.dot_all => self.out.push_str("(?s:.)"),
                '.' if self.flags.unix_lines => self.out.push_str(r"[^\n]"),
                '.' => {
                    self.out.push_str("[^");
                    self.out.push_str(TERMINATORS);
                    self.out.push(']');
                }
                '$' if self.flags.multi_line => self.out.push('$'),
                '$' => self.end_anchor(),
                '(' => self.group()?,
                ')' => {
                    self.flags = self.outer.pop().ok_or("has a `)` without its `(`")?;
                    self.out.push(')');
                }
                '*' | '+' | '?' => {
                    self.out.push(c);
                    self.quantifier_suffix();
                }
                '{' => {
                    self.out.push(c);
                    while let Some(c) = self.next() {
                        self.out.push(c);
                        if c == '}' {
                            break;
                        }
                    }
                    self.quantifier_suffix();
                }
                c => self.out.push(c),
            }
        }
        if self.outer.is_empty() { Ok(()) } else { Err("has a `(` without its `)`".to_owned()) }
    }

    fn end_anchor(&mut self) {
        self.has_end_anchor = true;
        self.out.push_str(r"\z");
    }

    fn quantifier_suffix(&mut self) {
        match self.peek() {
            Some('+') => self.at += 1,
            Some('?') => {
                self.at += 1;
                self.out.push('?');
            }
            _ => {}
        }
    }

    fn group(&mut self) -> Result<(), String> {
        for (text, what) in [
            ("?=", "look-ahead"),
            ("?!", "look-ahead"),
            ("?<=", "look-behind"),
            ("?<!", "look-behind"),
            ("?>", "an atomic group"),
        ] {
            if self.looking_at(text) {
                return Err(format!(
                    "uses {what} `({text}`, which is not supported: it can take exponential time; write it without"
                ));
            }
        }
        let outer = self.flags;
        if !self.looking_at("?") {
            self.outer.push(outer);
            self.out.push('(');
            return Ok(());
        }
        self.at += 1;
        if self.looking_at("<") {
            self.outer.push(outer);
            self.out.push_str("(?");
            while let Some(c) = self.next() {
                self.out.push(c);
                if c == '>' {
                    break;
                }
            }
            return Ok(());
        }
        // Inline flags, for the rest of the enclosing group or for a group of their own.
        let (mut on, mut off) = (String::new(), String::new());
        let mut negative = false;
        loop {
            let list = if negative { &mut off } else { &mut on };
            match self.next() {
                Some('i') => list.push('i'),
                Some('x') => list.push('x'),
                Some('s') => self.flags.dot_all = !negative,
                Some('d') => self.flags.unix_lines = !negative,
                Some('m') => {
                    self.flags.multi_line = !negative;
                    list.push('m');
                    if !negative && !self.flags.unix_lines {
                        list.push('R');
                    }
                }
                Some('u' | 'U') => {}
                Some('-') => negative = true,
                Some(end @ (':' | ')')) => {
                    let minus = if off.is_empty() { "" } else { "-" };
                    if end == ':' {
                        self.outer.push(outer);
                        self.out.push_str(&format!("(?{on}{minus}{off}:"));
                    } else if !(on.is_empty() && off.is_empty()) {
                        self.out.push_str(&format!("(?{on}{minus}{off})"));
                    }
                    return Ok(());
                }
                other => {
                    return Err(format!(
                        "has an unknown group `(?{}`",
                        other.map(String::from).unwrap_or_default()
                    ));
                }
            }
        }
    }

    /// Behind a backslash, in a class or outside.
    fn escape(&mut self, in_class: bool) -> Result<(), String> {
        let c = self.next().ok_or(r"ends with a lone `\`; write `\\` for one")?;
        let class = |body: &str| if in_class { body.to_owned() } else { format!("[{body}]") };
        let horizontal = r"\x20\t\x{a0}\x{1680}\x{180e}\x{2000}-\x{200a}\x{202f}\x{205f}\x{3000}";
        let vertical = r"\n\x0b\x0c\r\x{85}\x{2028}\x{2029}";
        let text = match c {
            'd' => class("0-9"),
            'D' => "[^0-9]".to_owned(),
            'w' => class("a-zA-Z0-9_"),
            'W' => "[^a-zA-Z0-9_]".to_owned(),
            's' => class(r"\x20\t\n\x0b\x0c\r"),
            'S' => r"[^\x20\t\n\x0b\x0c\r]".to_owned(),
            'h' => class(horizontal),
            'H' => format!("[^{horizontal}]"),
            'v' => class(vertical),
            'V' => format!("[^{vertical}]"),
            'R' if !in_class => format!(r"(?:\r\n|[{vertical}])"),
            'n' | 't' | 'r' | 'f' => format!("\\{c}"),
            'a' => r"\x07".to_owned(),
            'e' => r"\x1b".to_owned(),
            'c' => {
                let control = self.next().ok_or(r"has `\c` without a character")?;
                code((control as u32) ^ 0x40)
            }
            'x' if self.peek() == Some('{') => {
                let digits: String = self.rest[self.at..].iter().take_while(|c| **c != '}').skip(1).collect();
                self.at += digits.chars().count() + 2;
                format!(r"\x{{{digits}}}")
            }
            'x' => code(self.hex(2)?),
            'u' => {
                let mut unit = self.hex(4)?;
                if (0xd800..0xdc00).contains(&unit) && self.looking_at("\\u") {
                    self.at += 2;
                    let low = self.hex(4)?;
                    unit = 0x10000 + ((unit - 0xd800) << 10) + low.wrapping_sub(0xdc00);
                }
                code(unit)
            }
            '0' => {
                let mut value = 0;
                for index in 0..3 {
                    let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else { break };
                    if index == 2 && value > 0o37 {
                        break;
                    }
                    value = value * 8 + digit;
                    self.at += 1;
                }
                code(value)
            }
            'p' | 'P' => self.property(c, in_class)?,
            'Q' => {
                let mut quoted = String::new();
                while !self.looking_at("\\E") {
                    match self.next() {
                        Some(c) => quoted.push(c),
                        None => break,
                    }
                }
                self.at = (self.at + 2).min(self.rest.len());
                regex::escape(&quoted)
            }
            'E' => String::new(),
            'b' | 'B' | 'A' | 'z' if !in_class => format!("\\{c}"),
            'Z' if !in_class => {
                self.end_anchor();
                return Ok(());
            }
            '1'..='9' | 'k' => {
                return Err(format!(
                    "uses the back-reference `\\{c}`, which is not supported; write it without"
                ));
            }
            c if c.is_ascii_alphabetic() => return Err(format!("has an unknown escape `\\{c}`")),
            c => literal(c),
        };
        self.out.push_str(&text);
        Ok(())
    }

    fn hex(&mut self, digits: usize) -> Result<u32, String> {
        let text: String = self.rest[self.at..].iter().take(digits).collect();
        self.at += text.chars().count();
        u32::from_str_radix(&text, 16)
            .ok()
            .filter(|_| text.len() == digits)
            .ok_or_else(|| format!("needs {digits} hexadecimal digits where it has {text:?}"))
    }

    fn property(&mut self, letter: char, in_class: bool) -> Result<String, String> {
        if self.peek() != Some('{') {
            let name = self.next().ok_or(r"ends behind `\p`")?;
            return Ok(format!("\\{letter}{name}"));
        }
        let name: String = self.rest[self.at + 1..].iter().take_while(|c| **c != '}').collect();
        self.at = (self.at + name.chars().count() + 2).min(self.rest.len());
        let posix = match name.as_str() {
            "Lower" => "a-z",
            "Upper" => "A-Z",
            "ASCII" => r"\x00-\x7f",
            "Alpha" => "a-zA-Z",
            "Digit" => "0-9",
            "Alnum" => "a-zA-Z0-9",
            "Punct" => r"!-/:-@\[-`{-~",
            "Graph" => "!-~",
            "Print" => r"\x20-~",
            "Blank" => r"\x20\t",
            "Cntrl" => r"\x00-\x1f\x7f",
            "XDigit" => "0-9a-fA-F",
            "Space" => r"\x20\t\n\x0b\x0c\r",
            _ => {
                let name = name.strip_prefix("Is").or_else(|| name.strip_prefix("In")).unwrap_or(&name);
                return Ok(format!("\\{letter}{{{name}}}"));
            }
        };
        Ok(match (letter, in_class) {
            ('p', true) => posix.to_owned(),
            ('p', false) => format!("[{posix}]"),
            _ => format!("[^{posix}]"),
        })
    }

    /// Behind a `[`.
    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.peek() == Some('^') {
            self.at += 1;
            self.out.push('^');
        }
        let mut first = true;
        loop {
            match self.next().ok_or("has a `[` without its `]`")? {
                ']' if !first => {
                    self.out.push(']');
                    return Ok(());
                }
                '[' => self.class()?,
                '\\' => self.escape(true)?,
                c @ ('-' | '&') if !(c == '-' && self.peek() == Some('-')) => self.out.push(c),
                c => self.out.push_str(&literal(c)),
            }
            first = false;
        }
    }
}

/// A character that stands for itself, in a class or outside.
fn literal(c: char) -> String {
    if c.is_ascii_punctuation() || c.is_ascii_whitespace() || c == '\x0b' {
        code(c as u32)
    } else {
        c.to_string()
    }
}

fn code(value: u32) -> String {
    format!(r"\x{{{value:x}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_as_java_does() {
        // (pattern, text, found): each checked against java.util.regex.
        let table: &[(&str, &str, bool)] = &[
            ("^[0-9].*$", "666 is http", true),
            ("^[0-9].*$", "this is http", false),
            ("^[0-9].*$", "099 telnet\r", true),
            ("^foo$", "foo\r", true),
            ("^foo$", "foo\r\n", true),
            ("^foo$", "foo\n\n", false),
            ("^foo\\z", "foo\n", false),
            ("^foo\\Z", "foo\n", true),
            ("a.b", "a\nb", false),
            ("a.b", "a\rb", false),
            ("a.b", "a\u{85}b", false),
            ("(?s)a.b", "a\nb", true),
            ("(?s:a.)b.", "a\nb\n", false),
            ("(?d)a.b", "a\rb", true),
            ("(?m)^b$", "a\nb\nc", true),
            ("(?m)^b$", "a\r\nb\r\nc", true),
            ("(?i)ERROR", "an error", true),
            ("(?i:E)rror", "error", true),
            ("(?i:E)RROR", "error", false),
            (r"\d", "\u{0663}", false),
            (r"\w", "\u{e9}", false),
            (r"^\W$", "\u{e9}", true),
            (r"^[\w.-]+$", "web-1.example", true),
            (r"^[^\s]+$", "a b", false),
            (r"^[\D]$", "x", true),
            (r"\Qa.b\E+", "a.bbb", true),
            (r"\Qa.b\E", "axb", false),
            (r"^\p{Punct}$", "$", true),
            (r"^\p{Alpha}$", "\u{e9}", false),
            (r"^\p{L}$", "\u{e9}", true),
            (r"^\p{IsHan}$", "\u{6f22}", true),
            (r"^[\p{Upper}\d]+$", "A1", true),
            (r"^\P{Digit}$", "x", true),
            (r"\<\d+\>", "<14>", true),
            (r"\u00e9\x41\x{42}\0103", "\u{e9}ABC", true),
            (r"\ud83d\ude00", "\u{1f600}", true),
            (r"\cA\e\a\h\v", "\u{1}\u{1b}\u{7}\t\n", true),
            (r"a\Rb", "a\r\nb", true),
            ("[a-z&&[^b]]", "b", false),
            ("[a-z&&[^b]]", "c", true),
            ("[]a]", "]", true),
            ("[[:alpha:]]", "z", false),
            ("[~~#]", "#", true),
            ("a++b", "aaab", true),
            ("a{2,3}+b", "aab", true),
            ("a+?b", "aab", true),
            ("(?<year>\\d{4})", "in 2026", true),
            ("", "", true),
        ];
        for (pattern, text, found) in table {
            let regex = JavaRegex::new(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
            assert_eq!(regex.is_match(text.as_bytes()), *found, "{pattern:?} in {text:?}");
        }
    }

    #[test]
    fn whole_matches() {
        for (pattern, text, matches) in
            [("a|ab", "ab", true), ("foo$", "foo\n", false), ("fo", "foo", false), (".*", "a\nb", false)]
        {
            assert_eq!(
                JavaRegex::new(pattern).unwrap().is_full_match(text.as_bytes()),
                matches,
                "{pattern} {text:?}"
            );
        }
    }

    #[test]
    fn malformed_utf8_counts_as_replacement_characters() {
        assert!(JavaRegex::new("^a.b$").unwrap().is_match(b"a\xffb"));
        assert!(!JavaRegex::new("^a..b$").unwrap().is_match(b"a\xffb"));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (pattern, part) in [
            ("(?=a)", "look-ahead"),
            ("(?<!a)b", "look-behind"),
            ("(?>a)", "atomic"),
            (r"(a)\1", "back-reference"),
            (r"\k<a>", "back-reference"),
            ("a\\", "lone `\\`"),
            ("(a", "without its `)`"),
            ("a)", "without its `(`"),
            ("[a", "without its `]`"),
            (r"\u12", "4 hexadecimal digits"),
            (r"\y", "unknown escape"),
            ("(?z)", "unknown group"),
            ("*a", "repetition operator"),
            (r"\p{Nonsense}", "property"),
        ] {
            let error = JavaRegex::new(pattern).unwrap_err();
            assert!(error.to_lowercase().contains(part), "{pattern}: {error}");
        }
    }

    fn replaced(pattern: &str, replacement: &str, text: &str) -> String {
        let regex = JavaRegex::new(pattern).unwrap();
        let replacement = Replacement::new(replacement, &regex).unwrap();
        let mut out = BytesMut::new();
        match regex.replace_all(text.as_bytes(), &replacement, &mut regex.groups(), &mut out) {
            true => String::from_utf8(out.to_vec()).unwrap(),
            false => text.to_owned(),
        }
    }

    #[test]
    fn replaces_as_java_does() {
        for (pattern, replacement, text, expected) in [
            ("^[A-Za-z0-9_]+", "", "word rest", " rest"),
            (
                "The quick brown ([a-z]+) jumped over the lazy ([a-z]+)",
                "The hungry $2 ate the careless $1",
                "The quick brown fox jumped over the lazy dog",
                "The hungry dog ate the careless fox",
            ),
            ("x*", "-", "xab", "--a-b-"),
            ("x*", "-", "", "-"),
            ("x*", "-", "\u{e9}", "-\u{e9}-"),
            ("b", "[$0]", "abcb", "a[b]c[b]"),
            ("(a)", "$12", "a", "a2"),
            ("(?<n>a)", "${n}${n}", "a", "aa"),
            ("a", r"\$\\", "a", r"$\"),
            ("(a)|(b)", "<$1$2>", "ab", "<a><b>"),
            ("foo$", "bar", "foo\r", "bar\r"),
            ("z", "y", "abc", "abc"),
        ] {
            assert_eq!(
                replaced(pattern, replacement, text),
                expected,
                "{pattern} -> {replacement} in {text:?}"
            );
        }
    }

    #[test]
    fn bad_replacements_are_refused() {
        let regex = JavaRegex::new("(a)").unwrap();
        for bad in ["$2", "a$", "$x", "a\\", "${n}"] {
            assert!(Replacement::new(bad, &regex).is_err(), "{bad}");
        }
    }
}
