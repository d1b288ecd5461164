//! The JSON of Flume's HTTP source: an array of `{"headers": {…}, "body": "…"}`, straight into a batch.
//!
//! As lenient as the Gson parser behind `org.apache.flume.source.http.JSONHandler`: comments, unquoted and
//! single-quoted names and texts, `=` or `=>` for `:`, `;` for `,`, either member left out, other members
//! ignored, numbers and booleans where a text is expected. Nothing is allocated per event: a body without
//! escapes is copied once, from the request into the batch; headers that all events share are kept once.
//! Nesting in ignored members is bounded, and so is everything else by the length of the text.

use std::ops::Range;

use bytes::BytesMut;

use super::charset::Charset;
use crate::event::{BatchBuilder, EventBatch, EventHeadersBuilder, Separator};

/// Deepest nesting in a member that is ignored.
const DEPTH_MAX: usize = 512;
/// With more headers than this in one event, repeated names are looked for by sorting.
const HEADERS_COMPARED_PAIRWISE: usize = 16;

/// More headers than this are kept per event even if all events share them: those of a batch are looked
/// up, and checked for repetition, one by one.
const HEADERS_SHARED_MAX: usize = 64;

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset}")]
pub struct JsonError {
    /// What was found and what was expected.
    pub what: String,
    /// Where, counted in bytes of the text as UTF-8.
    pub offset: usize,
    /// True if the text is well-formed but has no event where one must be (an empty text, `null`).
    pub is_missing_event: bool,
}

/// Reads a text; bodies are written in `charset`.
///
/// # Errors
/// See [`JsonError`]. Nothing of a text with an error is used.
pub fn read_events(text: &str, charset: Charset) -> Result<EventBatch, JsonError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { text: text.as_bytes(), at: 0 };
    let mut events = Events::new(text.len(), charset);
    reader.skip_blank()?;
    if reader.peek().is_none() {
        return Err(reader.missing("the request is empty; expected an array of events"));
    }
    if reader.peek() != Some(b'[') {
        let literal = reader.literal_range();
        return Err(match reader.text[literal].eq_ignore_ascii_case(b"null") {
            true => reader.missing("null where an array of events is expected"),
            false => reader.wrong("an array of events"),
        });
    }
    reader.at += 1;
    let mut first = true;
    loop {
        reader.skip_blank()?;
        match reader.peek() {
            Some(b']') if first => {
                reader.at += 1;
                break;
            }
            Some(b'{') => events.read_one(&mut reader)?,
            // Gson reads nothing between two commas as null.
            Some(b',' | b';' | b']') => return Err(reader.missing("null where an event is expected")),
            _ => {
                let literal = reader.literal_range();
                return Err(match reader.text[literal].eq_ignore_ascii_case(b"null") {
                    true => reader.missing("null where an event is expected"),
                    false => reader.wrong("an event: {\"headers\": {…}, \"body\": \"…\"}"),
                });
            }
        }
        first = false;
        if !reader.next_item(b']')? {
            break;
        }
    }
    reader.skip_blank()?;
    match reader.peek() {
        None => Ok(events.finish()),
        Some(_) => Err(reader.wrong("the end of the text")),
    }
}

/// Where a text lies.
#[derive(Clone, Debug)]
enum Str {
    /// In the input.
    Input(Range<usize>),
    /// In the scratch area, its escapes resolved.
    Scratch(Range<usize>),
}

/// The events read so far, and scratch areas reused from event to event.
struct Events {
    builder: BatchBuilder,
    charset: Charset,
    /// Texts of the current event that had escapes.
    scratch: Vec<u8>,
    /// Headers of the current event.
    headers: Vec<(Str, Str)>,
    /// Positions in `headers`, for finding repeated names.
    order: Vec<u32>,
    /// Headers of the first event: key length, value length, key, value; texts resolved.
    shared: Vec<u8>,
    current: Vec<u8>,
    /// `None` while every event has the headers in `shared`.
    each: Option<EventHeadersBuilder>,
    encoded_body: BytesMut,
}

impl Events {
    fn new(text_bytes: usize, charset: Charset) -> Self {
        Self {
            // Bodies are most of the text; room for more than 1 MiB is taken as it is needed.
            builder: BatchBuilder::with_capacity(Separator::None, text_bytes.min(1 << 20), 16),
            charset,
            scratch: Vec::new(),
            headers: Vec::new(),
            order: Vec::new(),
            shared: Vec::new(),
            current: Vec::new(),
            each: None,
            encoded_body: BytesMut::new(),
        }
    }

    /// Reads the object the reader stands on.
    fn read_one(&mut self, reader: &mut Reader<'_>) -> Result<(), JsonError> {
        self.scratch.clear();
        self.headers.clear();
        let mut body = None;
        reader.at += 1;
        let mut first = true;
        loop {
            reader.skip_blank()?;
            if reader.peek() == Some(b'}') && first {
                reader.at += 1;
                break;
            }
            first = false;
            let mark = self.scratch.len();
            let name = reader.name(&mut self.scratch)?;
            let member = resolve(&name, reader.text, &self.scratch);
            let (is_headers, is_body) = (member == b"headers", member == b"body");
            self.scratch.truncate(mark);
            reader.skip_blank()?;
            if is_headers {
                self.read_headers(reader)?;
            } else if is_body {
                body = reader.text_value(&mut self.scratch, "the text of the body")?;
            } else {
                reader.skip_value()?;
            }
            if !reader.next_item(b'}')? {
                break;
            }
        }
        let body = body.as_ref().map_or(&[] as &[u8], |body| resolve(body, reader.text, &self.scratch));
        if self.charset == Charset::Utf8 {
            self.builder.push(body);
        } else {
            self.encoded_body.clear();
            self.charset.encode(std::str::from_utf8(body).unwrap_or_default(), &mut self.encoded_body);
            self.builder.push(&self.encoded_body);
        }
        self.add_headers(reader.text);
        Ok(())
    }

    fn read_headers(&mut self, reader: &mut Reader<'_>) -> Result<(), JsonError> {
        // The last `headers` member counts.
        self.headers.clear();
        if reader.peek() != Some(b'{') {
            let literal = reader.literal_range();
            if !reader.text[literal.clone()].eq_ignore_ascii_case(b"null") {
                return Err(reader.wrong("an object of headers"));
            }
            reader.at = literal.end;
            return Ok(());
        }
        let start = reader.at;
        reader.at += 1;
        let mut first = true;
        loop {
            reader.skip_blank()?;
            if reader.peek() == Some(b'}') && first {
                reader.at += 1;
                break;
            }
            first = false;
            let name = reader.name(&mut self.scratch)?;
            reader.skip_blank()?;
            // A header without a value is no header.
            if let Some(value) = reader.text_value(&mut self.scratch, "the text of a header")? {
                self.headers.push((name, value));
            }
            if !reader.next_item(b'}')? {
                break;
            }
        }
        match self.repeated(reader.text) {
            Some(name) => {
                reader.at = start;
                Err(reader.error(format!("the header {name:?} stands twice in one event")))
            }
            None => Ok(()),
        }
    }

    fn repeated(&mut self, text: &[u8]) -> Option<String> {
        let scratch = &self.scratch;
        let headers = &self.headers;
        let key = |index: usize| resolve(&headers[index].0, text, scratch);
        let found = if headers.len() <= HEADERS_COMPARED_PAIRWISE {
            (1..headers.len()).find(|&i| (0..i).any(|j| key(i) == key(j)))
        } else {
            self.order.clear();
            self.order.extend(0..headers.len() as u32);
            self.order.sort_unstable_by(|a, b| key(*a as usize).cmp(key(*b as usize)));
            self.order.windows(2).find(|w| key(w[0] as usize) == key(w[1] as usize)).map(|w| w[0] as usize)
        };
        found.map(|index| String::from_utf8_lossy(key(index)).into_owned())
    }

    /// Gives the event pushed last its headers.
    fn add_headers(&mut self, text: &[u8]) {
        self.current.clear();
        for (key, value) in &self.headers {
            let (key, value) = (resolve(key, text, &self.scratch), resolve(value, text, &self.scratch));
            self.current.extend_from_slice(&(key.len() as u32).to_le_bytes());
            self.current.extend_from_slice(&(value.len() as u32).to_le_bytes());
            self.current.extend_from_slice(key);
            self.current.extend_from_slice(value);
        }
        let events = self.builder.len();
        if events == 1 {
            std::mem::swap(&mut self.shared, &mut self.current);
            return;
        }
        if self.each.is_none() && self.current != self.shared {
            let mut each = EventHeadersBuilder::with_capacity(events);
            for _ in 1..events {
                entries(&self.shared).for_each(|(key, value)| each.header(key, value));
                each.end_event();
            }
            self.each = Some(each);
        }
        if let Some(each) = &mut self.each {
            entries(&self.current).for_each(|(key, value)| each.header(key, value));
            each.end_event();
        }
    }

    fn finish(mut self) -> EventBatch {
        if self.each.is_none() && entries(&self.shared).count() > HEADERS_SHARED_MAX {
            let mut each = EventHeadersBuilder::with_capacity(self.builder.len());
            for _ in 0..self.builder.len() {
                entries(&self.shared).for_each(|(key, value)| each.header(key, value));
                each.end_event();
            }
            self.each = Some(each);
        }
        if self.each.is_none() {
            for (key, value) in entries(&self.shared) {
                self.builder.common_mut().insert(key, value);
            }
        }
        let mut batch = self.builder.finish();
        if let Some(each) = self.each {
            batch.set_each(each.finish());
        }
        batch
    }
}

fn resolve<'a>(text: &Str, input: &'a [u8], scratch: &'a [u8]) -> &'a [u8] {
    match text {
        Str::Input(range) => &input[range.clone()],
        Str::Scratch(range) => &scratch[range.clone()],
    }
}

/// The headers in an area that [`Events::add_headers`] wrote.
fn entries(mut area: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    std::iter::from_fn(move || {
        let (key_size, rest) = area.split_first_chunk::<4>()?;
        let (value_size, rest) = rest.split_first_chunk::<4>()?;
        let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_size) as usize)?;
        let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_size) as usize)?;
        area = rest;
        Some((std::str::from_utf8(key).unwrap_or_default(), std::str::from_utf8(value).unwrap_or_default()))
    })
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn error(&self, what: impl Into<String>) -> JsonError {
        JsonError { what: what.into(), offset: self.at, is_missing_event: false }
    }
    fn missing(&self, what: &str) -> JsonError {
        JsonError { is_missing_event: true, ..self.error(what) }
    }
    fn wrong(&self, expected: &str) -> JsonError {
        let found = match self.peek() {
            None => "the end of the text".to_owned(),
            Some(_) => {
                // A character, not a byte of one.
                let rest = &self.text[self.at..(self.at + 4).min(self.text.len())];
                let lossy = String::from_utf8_lossy(rest);
                format!("{:?}", lossy.chars().next().unwrap_or_default())
            }
        };
        self.error(format!("{found} where {expected} is expected"))
    }

    /// Skips white space and comments.
    fn skip_blank(&mut self) -> Result<(), JsonError> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                Some(b'#') => self.skip_line(),
                Some(b'/') => match self.text.get(self.at + 1) {
                    Some(b'/') => self.skip_line(),
                    Some(b'*') => match memchr::memmem::find(&self.text[self.at + 2..], b"*/") {
                        Some(end) => self.at += end + 4,
                        None => return Err(self.error("a comment without its end")),
                    },
                    _ => return Ok(()),
                },
                _ => return Ok(()),
            }
        }
    }
    fn skip_line(&mut self) {
        let rest = &self.text[self.at..];
        self.at += memchr::memchr2(b'\n', b'\r', rest).map_or(rest.len(), |end| end + 1);
    }

    /// Behind an item: true if another follows, false behind the end.
    fn next_item(&mut self, end: u8) -> Result<bool, JsonError> {
        self.skip_blank()?;
        match self.peek() {
            Some(b',' | b';') => {
                self.at += 1;
                Ok(true)
            }
            Some(found) if found == end => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.wrong(if end == b']' { "a comma or `]`" } else { "a comma or `}`" })),
        }
    }

    /// A member's name and the colon behind it.
    fn name(&mut self, scratch: &mut Vec<u8>) -> Result<Str, JsonError> {
        let name = match self.peek() {
            Some(b'"' | b'\'') => self.quoted(scratch)?,
            _ => {
                let literal = self.literal_range();
                if literal.is_empty() {
                    return Err(self.wrong("a name"));
                }
                self.at = literal.end;
                Str::Input(literal)
            }
        };
        self.skip_blank()?;
        match self.peek() {
            Some(b':') => self.at += 1,
            Some(b'=') => self.at += 1 + usize::from(self.text.get(self.at + 1) == Some(&b'>')),
            _ => return Err(self.wrong("a colon")),
        }
        Ok(name)
    }

    /// A text, number or boolean; `None` for null.
    fn text_value(&mut self, scratch: &mut Vec<u8>, expected: &str) -> Result<Option<Str>, JsonError> {
        match self.peek() {
            Some(b'"' | b'\'') => self.quoted(scratch).map(Some),
            _ => {
                let literal = self.literal_range();
                if literal.is_empty() {
                    return Err(self.wrong(expected));
                }
                self.at = literal.end;
                let word = &self.text[literal.clone()];
                if word.eq_ignore_ascii_case(b"null") {
                    return Ok(None);
                }
                if word.eq_ignore_ascii_case(b"true") || word.eq_ignore_ascii_case(b"false") {
                    let start = scratch.len();
                    scratch.extend(word.iter().map(u8::to_ascii_lowercase));
                    return Ok(Some(Str::Scratch(start..scratch.len())));
                }
                Ok(Some(Str::Input(literal)))
            }
        }
    }

    /// Where the unquoted word at this place ends.
    fn literal_range(&self) -> Range<usize> {
        let rest = &self.text[self.at..];
        let is_end = |b: &u8| {
            matches!(
                b,
                b'/' | b'\\' | b';' | b'#' | b'=' | b'{' | b'}' | b'[' | b']' | b':' | b',' | b'"' | b'\''
            ) || b.is_ascii_whitespace()
        };
        let size = rest.iter().position(is_end).unwrap_or(rest.len());
        self.at..self.at + size
    }

    /// A text between quotation marks.
    fn quoted(&mut self, scratch: &mut Vec<u8>) -> Result<Str, JsonError> {
        let open = self.at;
        let mark = self.text[self.at];
        self.at += 1;
        let start = self.at;
        let mut copied: Option<usize> = None;
        loop {
            let rest = &self.text[self.at..];
            let Some(end) = memchr::memchr2(mark, b'\\', rest) else {
                self.at = open;
                return Err(self.error("a text without its closing quotation mark"));
            };
            if copied.is_some() {
                scratch.extend_from_slice(&rest[..end]);
            }
            self.at += end + 1;
            if rest[end] == mark {
                return Ok(match copied {
                    None => Str::Input(start..self.at - 1),
                    Some(from) => Str::Scratch(from..scratch.len()),
                });
            }
            if copied.is_none() {
                copied = Some(scratch.len());
                scratch.extend_from_slice(&self.text[start..self.at - 1]);
            }
            self.escape(scratch)?;
        }
    }

    /// Behind a backslash.
    fn escape(&mut self, scratch: &mut Vec<u8>) -> Result<(), JsonError> {
        let Some(letter) = self.peek() else { return Err(self.wrong("an escaped character")) };
        self.at += 1;
        scratch.push(match letter {
            b'"' | b'\'' | b'\\' | b'/' | b'\n' => letter,
            b't' => b'\t',
            b'b' => 0x08,
            b'n' => b'\n',
            b'r' => b'\r',
            b'f' => 0x0c,
            b'u' => {
                let unit = self.hex4()?;
                let mut code = u32::from(unit);
                if (0xd800..0xdc00).contains(&unit) && self.text[self.at..].starts_with(b"\\u") {
                    let back = self.at;
                    self.at += 2;
                    let low = self.hex4()?;
                    match (0xdc00..0xe000).contains(&low) {
                        true => {
                            code = 0x10000 + ((u32::from(unit) - 0xd800) << 10) + (u32::from(low) - 0xdc00)
                        }
                        false => self.at = back,
                    }
                }
                // Half a surrogate pair is what Java cannot encode: `?`.
                let char = char::from_u32(code).unwrap_or('?');
                scratch.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => {
                self.at -= 1;
                return Err(self.wrong("an escape (one of \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\u)"));
            }
        });
        Ok(())
    }

    fn hex4(&mut self) -> Result<u16, JsonError> {
        let digits = self.text.get(self.at..self.at + 4).filter(|d| d.iter().all(u8::is_ascii_hexdigit));
        let value =
            digits.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u16::from_str_radix(d, 16).ok());
        match value {
            Some(value) => {
                self.at += 4;
                Ok(value)
            }
            None => Err(self.wrong("four hexadecimal digits")),
        }
    }

    /// Skips a value of any kind, without recursion.
    fn skip_value(&mut self) -> Result<(), JsonError> {
        let mut scratch = Vec::new();
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.skip_blank()?;
            // A value, or the end of an empty container.
            match self.peek() {
                Some(b'[') => {
                    self.at += 1;
                    open.push(b']');
                    self.skip_blank()?;
                    if self.peek() != Some(b']') {
                        if open.len() > DEPTH_MAX {
                            return Err(self.error(format!("nesting deeper than {DEPTH_MAX}")));
                        }
                        continue;
                    }
                    open.pop();
                    self.at += 1;
                }
                Some(b'{') => {
                    self.at += 1;
                    open.push(b'}');
                    self.skip_blank()?;
                    if self.peek() != Some(b'}') {
                        if open.len() > DEPTH_MAX {
                            return Err(self.error(format!("nesting deeper than {DEPTH_MAX}")));
                        }
                        scratch.clear();
                        self.name(&mut scratch)?;
                        continue;
                    }
                    open.pop();
                    self.at += 1;
                }
                _ => {
                    scratch.clear();
                    self.text_value(&mut scratch, "a value")?;
                }
            }
            // What follows it, out to where another value begins.
            loop {
                let Some(&end) = open.last() else { return Ok(()) };
                if self.next_item(end)? {
                    if end == b'}' {
                        self.skip_blank()?;
                        scratch.clear();
                        self.name(&mut scratch)?;
                    }
                    break;
                }
                open.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a text as `{k=v, k=v} body`, headers sorted.
    fn shown(text: &str) -> Vec<String> {
        let batch = read_events(text, Charset::Utf8).unwrap_or_else(|e| panic!("{text}: {e}"));
        let event = |index: usize| {
            let mut headers: Vec<String> = batch.headers(index).map(|(k, v)| format!("{k}={v}")).collect();
            headers.sort();
            format!("{{{}}} {}", headers.join(", "), String::from_utf8_lossy(batch.body(index)))
        };
        (0..batch.len()).map(event).collect()
    }

    #[test]
    fn reads_what_gson_reads() {
        let table: &[(&str, &[&str])] = &[
            ("[]", &[]),
            (" [ ] ", &[]),
            ("[{}]", &["{} "]),
            (
                r#"[{"headers":{"k1":"param1","k2":"parm2"},"body":"666 is http"}]"#,
                &["{k1=param1, k2=parm2} 666 is http"],
            ),
            (r#"[{"body":"a","headers":{"k":"v"}},{"body":"b"}]"#, &["{k=v} a", "{} b"]),
            (
                r#"[{"headers":{"k":"v"},"body":"a"},{"headers":{"k":"v"},"body":"b"}]"#,
                &["{k=v} a", "{k=v} b"],
            ),
            (r#"[{"headers":{"k":"v"},"body":"a"},{"headers":{"k":"w"}}]"#, &["{k=v} a", "{k=w} "]),
            (r#"[{"headers":null,"body":null}]"#, &["{} "]),
            (
                r#"[{"headers":{"n":1.50,"t":TRUE,"z":null,"e":-1e5},"body":7}]"#,
                &["{e=-1e5, n=1.50, t=true} 7"],
            ),
            (r#"[{"other":[1,{"a":[[],{}]},"x"],"body":"b","more":{"x":{"y":null}}}]"#, &["{} b"]),
            (r#"[{"body":"first","body":"last"}]"#, &["{} last"]),
            (r#"[{"headers":{"a":"1"},"headers":{"b":"2"},"body":"x"}]"#, &["{b=2} x"]),
            (r#"[{"body":"\u00e9\u6f22\ud83d\ude00\t\"\\\/\n"}]"#, &["{} \u{e9}\u{6f22}\u{1f600}\t\"\\/\n"]),
            (r#"[{"body":"\ud83d x \ud83d\u0041"}]"#, &["{} ? x ?A"]),
            (r#"[{"h\u0065aders":{"\u006b":"a\tb"},"body":"x"}]"#, &["{k=a\tb} x"]),
            ("[{'body':'it\\'s'}]", &["{} it's"]),
            ("[{body:text,headers={a=>b;c:d}}]", &["{a=b, c=d} text"]),
            ("# one\n[ // two\r\n{/* three */ body /**/ : \"b\"}] # four", &["{} b"]),
            ("\u{feff}[{\"body\":\"b\"};{\"body\":\"c\"}]", &["{} b", "{} c"]),
            ("[{\"body\":\"line\nbreak\"}]", &["{} line\nbreak"]),
            ("[{\"Body\":\"x\"}]", &["{} "]),
        ];
        for (text, expected) in table {
            assert_eq!(shown(text), *expected, "{text}");
        }
    }

    #[test]
    fn headers_all_events_share_are_kept_once() {
        let text = r#"[{"headers":{"h":"v"},"body":"a"},{"headers":{"h":"v"},"body":"b"}]"#;
        let batch = read_events(text, Charset::Utf8).unwrap();
        assert!(batch.each().is_none());
        assert_eq!(batch.common().get("h"), Some("v"));
    }

    #[test]
    fn many_shared_headers_are_kept_with_the_events() {
        let many: Vec<String> = (0..65).map(|i| format!("h{i}:v")).collect();
        let event = format!("{{headers:{{{}}}}}", many.join(","));
        let batch = read_events(&format!("[{event},{event}]"), Charset::Utf8).unwrap();
        assert_eq!((batch.common().len(), batch.headers(1).count()), (0, 65));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let table = [
            ("{", "'{' where an array of events is expected at byte 0"),
            ("[", "the end of the text where an event"),
            ("[1]", "'1' where an event"),
            ("[[]]", "'[' where an event"),
            ("[{]", "']' where a name is expected at byte 2"),
            ("[{\"body\"}]", "'}' where a colon"),
            ("[{\"body\":}]", "'}' where the text of the body"),
            ("[{\"body\":{}}]", "'{' where the text of the body"),
            ("[{\"body\":\"x\",}]", "'}' where a name"),
            ("[{\"body\":\"x}]", "a text without its closing quotation mark at byte 9"),
            ("[{\"body\":\"\\q\"}]", "'q' where an escape"),
            ("[{\"body\":\"\\u12\"}]", "where four hexadecimal digits"),
            ("[{\"headers\":[]}]", "'[' where an object of headers"),
            ("[{\"headers\":\"x\"}]", "where an object of headers"),
            ("[{\"headers\":{\"a\":[]}}]", "where the text of a header"),
            ("[{\"headers\":{\"a\":1,\"a\":2}}]", "the header \"a\" stands twice"),
            ("[{}] x", "'x' where the end of the text"),
            ("[{} {}]", "'{' where a comma or `]`"),
            ("[{\"a\":1 \"b\":2}]", "where a comma or `}`"),
            ("[/* ", "a comment without its end"),
            ("[\u{e9}]", "'\u{e9}' where an event"),
        ];
        for (text, part) in table {
            let error = read_events(text, Charset::Utf8).unwrap_err();
            assert!(error.to_string().contains(part), "{text}: {error}");
            assert!(!error.is_missing_event, "{text}");
        }
        for text in ["", "  ", "# only a comment", "null", "[null]", "[{},]", "[,{}]", "[{},,{}]", "[NULL]"] {
            assert!(read_events(text, Charset::Utf8).unwrap_err().is_missing_event, "{text}");
        }
    }

    #[test]
    fn many_headers_and_deep_nesting_are_bounded() {
        let many: Vec<String> = (0..200_000).map(|i| format!("\"h{i}\":\"\"")).collect();
        let text = format!("[{{\"headers\":{{{}}}}}]", many.join(","));
        assert_eq!(read_events(&text, Charset::Utf8).unwrap().headers(0).count(), 200_000);
        let text = format!("[{{\"headers\":{{{},\"h7\":\"\"}}}}]", many.join(","));
        assert!(read_events(&text, Charset::Utf8).unwrap_err().what.contains("\"h7\" stands twice"));
        for open in ["[", "{\"a\":"] {
            let text = format!("[{{\"x\":{}", open.repeat(1_000_000));
            assert!(read_events(&text, Charset::Utf8).unwrap_err().what.contains("nesting deeper"));
        }
    }

    #[test]
    fn bodies_are_written_in_the_charset_of_the_request() {
        let batch =
            read_events("[{\"headers\":{\"k\":\"\u{e9}\"},\"body\":\"\u{e9}\"}]", Charset::Utf16).unwrap();
        assert_eq!(batch.body(0), [0xfe, 0xff, 0, 0xe9]);
        assert_eq!(batch.header(0, "k"), Some("\u{e9}"), "headers stay text");
    }
}
