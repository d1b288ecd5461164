//! `LINE`: one event per line of text.
//!
//! Flume: `org.apache.flume.serialization.LineDeserializer`. A line ends at `\n`; a `\r` before it stays. A
//! line of `maxLineLength` characters or more is cut there and the rest is the next event; a line of exactly
//! so many leaves an empty one behind, since the line feed is read as a line of its own.

use bytes::BytesMut;

use super::{BadFile, Deserializer, Place, TextInput};
use crate::codec::charset::Charset;
use crate::codec::charset_lines::OnMalformed;
use crate::event::BatchBuilder;

/// Options below `deserializer.`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineOptions {
    /// Longest event in Java's characters (UTF-16 units).
    pub chars_max: usize,
    /// Character set of bodies.
    pub output: Charset,
}

/// Bytes of one character, at most (GB18030, UTF-8, UTF-32).
const CHAR_BYTES_MAX: usize = 4;
/// A window grows no further than this, whatever `maxLineLength` says; then the line is cut.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Reads lines of one file.
#[derive(Debug)]
pub struct Lines {
    options: LineOptions,
    text: TextInput,
    skip: u64,
    decoded: String,
    encoded: BytesMut,
}

impl Lines {
    /// For a file that begins with these bytes.
    pub fn begin(options: LineOptions, mut text: TextInput, first: &[u8]) -> Self {
        let (charset, skip) = text.charset.resolve(first);
        text.charset = charset;
        Self { options, text, skip: skip as u64, decoded: String::new(), encoded: BytesMut::new() }
    }

    /// Pushes one line's bytes, without its end, as an event.
    fn push(&mut self, raw: &[u8], offset: u64, batch: &mut BatchBuilder) -> Result<(), BadFile> {
        let TextInput { charset, on_malformed } = self.text;
        if self.options.output == Charset::Utf8 && charset.is_utf8(raw) {
            batch.push(raw);
            return Ok(());
        }
        self.decoded.clear();
        charset.decode_into(raw, on_malformed, &mut self.decoded).map_err(|malformed| {
            BadFile(format!(
                "byte {} is no text in the inputCharset; set inputCharset to the file's, or decodeErrorPolicy = REPLACE",
                offset + malformed.offset as u64
            ))
        })?;
        self.encoded.clear();
        self.options.output.encode(&self.decoded, &mut self.encoded);
        batch.push(&self.encoded);
        Ok(())
    }
}

impl Deserializer for Lines {
    fn start(&self) -> Place {
        Place { offset: self.skip, inner: 0 }
    }
    fn window_max(&self) -> usize {
        // One more character than is needed to know that a line is too long.
        self.options.chars_max.saturating_add(1).saturating_mul(CHAR_BYTES_MAX).min(LINE_BYTES_MAX)
    }
    fn cut(
        &mut self,
        window: &[u8],
        place: Place,
        at_end: bool,
        batch: &mut BatchBuilder,
        places: &mut Vec<Place>,
    ) -> Result<(), BadFile> {
        let TextInput { charset, on_malformed } = self.text;
        let unit = charset.unit_bytes();
        let chars_max = self.options.chars_max;
        let mut start = 0;
        while start < window.len() {
            let newline = charset.find_newline(window, start);
            let raw_end = newline.unwrap_or(window.len());
            let raw = window.get(start..raw_end).unwrap_or_default();
            // No character takes less than a unit.
            let cut = (raw.len() / unit >= chars_max)
                .then(|| prefix_bytes(charset, on_malformed, raw, chars_max))
                .flatten();
            let (size, next) = match (cut, newline) {
                (Some(size), _) => (size, start + size),
                (None, Some(end)) => (raw.len(), end + unit),
                (None, None) if at_end => (raw.len(), window.len()),
                (None, None) if window.len() - start >= self.window_max() => (raw.len(), window.len()),
                (None, None) => break,
            };
            let raw = window.get(start..start + size).unwrap_or_default();
            self.push(raw, place.offset + start as u64, batch)?;
            start = next;
            places.push(Place { offset: place.offset + start as u64, inner: 0 });
        }
        Ok(())
    }
}

/// Size of the first `chars` characters (UTF-16 units; a pair is not torn), if there are as many.
fn prefix_bytes(charset: Charset, on_malformed: OnMalformed, raw: &[u8], chars: usize) -> Option<usize> {
    let mut units = 0;
    let mut at = 0;
    match charset {
        Charset::Utf8 => {
            for chunk in raw.utf8_chunks() {
                for c in chunk.valid().chars() {
                    units += c.len_utf16();
                    at += c.len_utf8();
                    if units >= chars {
                        return Some(at);
                    }
                }
                if !chunk.invalid().is_empty() {
                    units += usize::from(on_malformed != OnMalformed::Ignore);
                    at += chunk.invalid().len();
                    if units >= chars {
                        return Some(at);
                    }
                }
            }
            None
        }
        Charset::Ascii | Charset::Latin1 => (raw.len() >= chars).then_some(chars),
        Charset::Utf32 | Charset::Utf32Le => (raw.len() / 4 >= chars).then_some(chars * 4),
        Charset::Utf16 | Charset::Utf16Be | Charset::Utf16Le => {
            if raw.len() / 2 < chars {
                return None;
            }
            let high = raw.get(chars * 2 - 2 + usize::from(charset == Charset::Utf16Le))?;
            // D800..DBFF begins a pair.
            let torn = (0xD8..0xDC).contains(high) && raw.len() >= chars * 2 + 2;
            Some(chars * 2 + if torn { 2 } else { 0 })
        }
        Charset::Other(encoding) => {
            let mut decoder = encoding.new_decoder_without_bom_handling();
            let mut text = String::with_capacity(16);
            for (index, byte) in raw.chunks(1).enumerate() {
                text.clear();
                text.reserve(16);
                let (_, _, _) = decoder.decode_to_string(byte, &mut text, false);
                units += text.encode_utf16().count();
                if units >= chars {
                    return Some(index + 1);
                }
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(
        charset: &str,
        policy: OnMalformed,
        chars_max: usize,
        window: &[u8],
        at_end: bool,
    ) -> (Vec<String>, Vec<u64>, Option<String>) {
        let charset = Charset::named(charset).unwrap();
        let text = TextInput { charset, on_malformed: policy };
        let mut lines = Lines::begin(LineOptions { chars_max, output: Charset::Utf8 }, text, window);
        let start = lines.start();
        let (mut batch, mut places) = (BatchBuilder::default(), Vec::new());
        let window = &window[start.offset as usize..];
        let problem = lines.cut(window, start, at_end, &mut batch, &mut places).err().map(|e| e.0);
        let bodies = batch.finish().bodies().map(|b| String::from_utf8(b.to_vec()).unwrap()).collect();
        (bodies, places.iter().map(|p| p.offset).collect(), problem)
    }

    #[test]
    fn lines_and_their_places() {
        let (bodies, places, _) = cut("utf-8", OnMalformed::Fail, 2048, b"a\r\n\nbc\nrest", false);
        assert_eq!((bodies, places), (vec!["a\r".into(), "".into(), "bc".into()], vec![3, 4, 7]));
        let (bodies, places, _) = cut("utf-8", OnMalformed::Fail, 2048, b"a\nrest", true);
        assert_eq!((bodies, places), (vec!["a".into(), "rest".into()], vec![2, 6]));
    }

    #[test]
    fn long_lines_are_cut() {
        // Exactly as long as allowed leaves an empty line behind, as in Flume.
        let (bodies, places, _) = cut("utf-8", OnMalformed::Fail, 4, "abc\nabcd\nabcdé\n".as_bytes(), true);
        assert_eq!(bodies, ["abc", "abcd", "", "abcd", "é"]);
        assert_eq!(places, [4, 8, 9, 13, 16]);
        for (charset, bytes) in [
            ("utf-16le", &b"a\0b\0c\0\n\0"[..]),
            ("utf-32", b"\0\0\0a\0\0\0b\0\0\0c\0\0\0\n"),
            ("latin1", b"abc\n"),
            ("gbk", b"abc\n"),
        ] {
            assert_eq!(cut(charset, OnMalformed::Fail, 2, bytes, true).0, ["ab", "c"], "{charset}");
        }
    }

    #[test]
    fn a_long_line_is_cut_before_its_end_is_seen() {
        assert_eq!(cut("utf-8", OnMalformed::Fail, 4, b"abcdefgh12", false).0, ["abcd", "efgh"]);
    }

    #[test]
    fn malformed_text_follows_the_policy() {
        let text = b"good\nb\xFFd\nmore\n";
        let (bodies, places, problem) = cut("utf-8", OnMalformed::Fail, 99, text, true);
        assert_eq!((bodies, places), (vec!["good".to_owned()], vec![5]));
        assert!(problem.unwrap().starts_with("byte 6 is no text"));
        assert_eq!(cut("utf-8", OnMalformed::Replace, 99, text, true).0, ["good", "b\u{FFFD}d", "more"]);
        assert_eq!(cut("utf-8", OnMalformed::Ignore, 99, text, true).0, ["good", "bd", "more"]);
    }

    #[test]
    fn a_byte_order_mark_settles_utf_16() {
        let (bodies, places, _) = cut("utf-16", OnMalformed::Fail, 99, b"\xFF\xFEa\0\n\0b\0", true);
        assert_eq!((bodies, places), (vec!["a".into(), "b".into()], vec![6, 8]));
    }

    #[test]
    fn bodies_can_have_another_charset() {
        let text = TextInput { charset: Charset::Utf8, on_malformed: OnMalformed::Fail };
        let options = LineOptions { chars_max: 99, output: Charset::Latin1 };
        let (mut batch, mut places) = (BatchBuilder::default(), Vec::new());
        Lines::begin(options, text, b"")
            .cut("é\n".as_bytes(), Place::default(), true, &mut batch, &mut places)
            .unwrap();
        assert_eq!(batch.finish().body(0), b"\xE9");
    }
}
