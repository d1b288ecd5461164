//! `java.util.Properties` text, with the line of every key kept.
//!
//! Source: the `load` method of that class. Keys end at the first unescaped `=`, `:` or blank; a line that
//! ends in an odd number of backslashes goes on in the next one, whose leading blanks are skipped; `\t \n \r
//! \f \uXXXX` are escapes and any other escaped character stands for itself; `#` and `!` begin a comment only
//! as the first character of a line that does not continue another.
//!
//! Character set: Flume 1.10 and later read ISO-8859-1, earlier ones the platform's. A file that is valid
//! UTF-8 is read as UTF-8 here (for ASCII there is no difference), any other as ISO-8859-1.

use std::sync::Arc;

use super::diagnostic::Location;

/// One key with its value, as written (escapes resolved, not trimmed, not substituted).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value; may be empty.
    pub value: String,
    /// Where the key begins.
    pub location: Location,
}

/// Reads a file's content into entries in the order they stand, duplicates included.
///
/// # Errors
/// A malformed `\uXXXX` escape: the place and what is wrong.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Vec<Entry>, (Location, String)> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|b| char::from(*b)).collect(),
    };
    let file: Arc<str> = file.into();
    let mut entries = Vec::new();
    let mut lines = natural_lines(&text).enumerate();
    while let Some((index, line)) = lines.next() {
        let start = line.trim_start_matches(BLANKS);
        if start.is_empty() || start.starts_with(['#', '!']) {
            continue;
        }
        let location = Location { file: file.clone(), line: index as u32 + 1 };
        let mut logical = start.to_owned();
        while continues(&logical) {
            logical.pop();
            match lines.next() {
                Some((_, next)) => logical.push_str(next.trim_start_matches(BLANKS)),
                None => break,
            }
        }
        let (key, value) = split(&logical);
        let unescape = |text: &str| unescape(text).map_err(|problem| (location.clone(), problem));
        entries.push(Entry { key: unescape(key)?, value: unescape(value)?, location: location.clone() });
    }
    Ok(entries)
}

/// What java.util.Properties skips at the start of a line and around the separator.
const BLANKS: [char; 3] = [' ', '\t', '\u{c}'];

/// Lines ended by `\n`, `\r` or `\r\n`.
fn natural_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        match text.find(['\n', '\r']) {
            None => {
                rest = None;
                (!text.is_empty()).then_some(text)
            }
            Some(end) => {
                let skip = if text[end..].starts_with("\r\n") { 2 } else { 1 };
                rest = Some(&text[end + skip..]);
                Some(&text[..end])
            }
        }
    })
}

fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == '=' || c == ':' || BLANKS.contains(&c) {
            let value = line[at..].trim_start_matches(BLANKS);
            let value = value.strip_prefix(['=', ':']).map_or(value, |v| v.trim_start_matches(BLANKS));
            return (&line[..at], value);
        }
    }
    (line, "")
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.extend(c.encode_utf16(&mut [0; 2]).iter());
            continue;
        }
        match chars.next() {
            Some('u') => {
                let digits: String = chars.by_ref().take(4).collect();
                let unit = (digits.len() == 4 && digits.chars().all(|d| d.is_ascii_hexdigit()))
                    .then(|| u16::from_str_radix(&digits, 16).ok())
                    .flatten();
                out.push(unit.ok_or_else(|| format!("malformed \\uxxxx encoding: \\u{digits}"))?);
            }
            Some('t') => out.push(9),
            Some('n') => out.push(10),
            Some('r') => out.push(13),
            Some('f') => out.push(12),
            Some(c) => out.extend(c.encode_utf16(&mut [0; 2]).iter()),
            None => {}
        }
    }
    Ok(String::from_utf16_lossy(&out))
}

/// One key and its value as a line that reads back as they are, here and in Java of any version.
pub fn line(key: &str, value: &str) -> String {
    let mut out = String::new();
    escape(key, true, &mut out);
    out.push_str(" = ");
    escape(value, false, &mut out);
    out.push('\n');
    out
}

fn escape(text: &str, is_key: bool, out: &mut String) {
    for (at, unit) in text.encode_utf16().enumerate() {
        match char::from_u32(unit.into()) {
            Some('\t') => out.push_str("\\t"),
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\u{c}') => out.push_str("\\f"),
            Some('\\') => out.push_str("\\\\"),
            Some(' ') if at == 0 || is_key => out.push_str("\\ "),
            Some(c @ ('=' | ':' | '#' | '!')) if is_key => out.extend(['\\', c]),
            Some(c @ ' '..='~') => out.push(c),
            _ => out.push_str(&format!("\\u{unit:04x}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, String, u32)> {
        let entries = parse("f", text.as_bytes()).unwrap();
        entries.into_iter().map(|e| (e.key, e.value, e.location.line)).collect()
    }

    #[test]
    fn as_java_reads_it() {
        let cases: &[(&str, &str, &str)] = &[
            ("a=b", "a", "b"),
            ("a = b ", "a", "b "),
            ("a:b", "a", "b"),
            ("a b", "a", "b"),
            ("a  =  b = c", "a", "b = c"),
            ("a\\=b=c", "a=b", "c"),
            ("a\\ b c", "a b", "c"),
            ("a", "a", ""),
            ("a=", "a", ""),
            ("  a\t:\tb", "a", "b"),
            ("a=b#c", "a", "b#c"),
            ("a=\\u00e9\\ud83d\\ude00", "a", "é😀"),
            ("a=\\d+\\\\d", "a", "d+\\d"),
            ("a=x\\\n   y", "a", "xy"),
            ("a=x\\\\\n#y", "a", "x\\"),
            ("a\\\n=b", "a", "b"),
            ("a=b\\", "a", "b"),
            ("=b", "", "b"),
        ];
        for (text, key, value) in cases {
            assert_eq!(read(text)[0], ((*key).to_owned(), (*value).to_owned(), 1), "{text:?}");
        }
    }

    #[test]
    fn lines_are_counted_and_comments_skipped() {
        let found = read("# c\r\n! d\r\n\r\na=1\\\n 2\n#x\\\nb=3\rc=4");
        let expected = [("a", "12", 4), ("b", "3", 7), ("c", "4", 8)];
        assert_eq!(found, expected.map(|(k, v, l)| (k.to_owned(), v.to_owned(), l)));
    }

    #[test]
    fn a_bad_escape_is_an_error_with_its_line() {
        let (location, problem) = parse("f", b"a=1\nb=\\u12x4").unwrap_err();
        assert_eq!((location.line, problem.as_str()), (2, "malformed \\uxxxx encoding: \\u12x4"));
    }

    #[test]
    fn latin_1_where_it_is_not_utf_8() {
        assert_eq!(parse("f", b"a=\xe9").unwrap()[0].value, "é");
    }

    /// Against `tests/fixtures/properties/expected.txt`, which `Dump.java` beside it recorded.
    #[test]
    fn as_java_itself_read_the_fixtures() {
        let cases = include_str!("../../tests/fixtures/properties/cases.txt");
        let expected = include_str!("../../tests/fixtures/properties/expected.txt");
        let expected: Vec<&str> = expected.split("-----\n").skip(1).collect();
        let cases: Vec<&str> = cases.split("-----\n").collect();
        assert_eq!((cases.len(), expected.len()), (52, 52));
        let show = |text: &str| -> String {
            let unit = |c: u16| match char::from_u32(u32::from(c)) {
                Some(c) if (' '..='~').contains(&c) && c != '\\' => c.to_string(),
                _ => format!("\\u{c:04x}"),
            };
            text.encode_utf16().map(unit).collect()
        };
        for (case, expected) in cases.iter().zip(expected) {
            let found = match parse("f", case.as_bytes()) {
                Ok(entries) => {
                    let last: std::collections::BTreeMap<_, _> =
                        entries.into_iter().map(|e| (e.key, e.value)).collect();
                    last.iter().map(|(k, v)| format!("[{}] = [{}]\n", show(k), show(v))).collect()
                }
                Err(_) => "refused\n".to_owned(),
            };
            assert_eq!(found, expected, "{case:?}");
        }
    }
}
