//! Lines of text in any character set.
//!
//! A line is cut out of the raw bytes before it is decoded, which every supported set allows: a line feed
//! is one byte `0A` that occurs inside no other character, or in UTF-16 and UTF-32 one whole unit. So
//! positions in a file stay byte positions, and no decoder state crosses a line.

use encoding_rs::DecoderResult;

use super::charset::Charset;

/// What to do with bytes that are no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMalformed {
    /// Refuse.
    Fail,
    /// U+FFFD.
    Replace,
    /// Leave them out.
    Ignore,
}

/// Bytes that are no text of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Where, from the start of what was decoded.
    pub offset: usize,
}

/// The end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineEnd {
    /// Where it begins.
    pub at: usize,
    /// It is a carriage return; a line feed may follow.
    pub is_return: bool,
}

impl Charset {
    /// Settles the byte order of UTF-16 and UTF-32 by the first bytes of a stream; also how many of them
    /// are a byte order mark to skip. Other sets have nothing to settle.
    pub fn resolve(self, first: &[u8]) -> (Self, usize) {
        match (self, first) {
            (Self::Utf16, [0xFE, 0xFF, ..]) => (Self::Utf16Be, 2),
            (Self::Utf16, [0xFF, 0xFE, ..]) => (Self::Utf16Le, 2),
            (Self::Utf16, _) => (Self::Utf16Be, 0),
            (Self::Utf32, [0, 0, 0xFE, 0xFF, ..]) => (Self::Utf32, 4),
            (Self::Utf32, [0xFF, 0xFE, 0, 0, ..]) => (Self::Utf32Le, 4),
            _ => (self, 0),
        }
    }

    /// Bytes of a line feed.
    pub fn unit_bytes(self) -> usize {
        match self {
            Self::Utf16 | Self::Utf16Be | Self::Utf16Le => 2,
            Self::Utf32 | Self::Utf32Le => 4,
            _ => 1,
        }
    }

    /// Where the first line feed at or behind `from`, a multiple of [`Self::unit_bytes`], begins.
    pub fn find_newline(self, bytes: &[u8], from: usize) -> Option<usize> {
        if self.unit_bytes() == 1 {
            return memchr::memchr(b'\n', bytes.get(from..)?).map(|i| from + i);
        }
        self.find_unit(bytes, from, b"\n")
    }

    /// The first line feed or carriage return at or behind `from`, a multiple of [`Self::unit_bytes`].
    pub fn find_line_end(self, bytes: &[u8], from: usize) -> Option<LineEnd> {
        let at = if self.unit_bytes() == 1 {
            from + memchr::memchr2(b'\n', b'\r', bytes.get(from..)?)?
        } else {
            self.find_unit(bytes, from, b"\n\r")?
        };
        Some(LineEnd { at, is_return: bytes.get(at..at + self.unit_bytes())?.contains(&b'\r') })
    }

    fn find_unit(self, bytes: &[u8], from: usize, wanted: &[u8]) -> Option<usize> {
        let unit_bytes = self.unit_bytes();
        let is_wanted = |unit: &[u8]| {
            let ends = match self {
                Self::Utf16Le | Self::Utf32Le => unit.split_first(),
                _ => unit.split_last(),
            };
            ends.is_some_and(|(low, rest)| wanted.contains(low) && rest.iter().all(|b| *b == 0))
        };
        bytes.get(from..)?.chunks_exact(unit_bytes).position(is_wanted).map(|i| from + unit_bytes * i)
    }

    /// True if the bytes are the UTF-8 of the text they stand for, so that they need no decoding.
    pub fn is_utf8(self, bytes: &[u8]) -> bool {
        match self {
            Self::Utf8 => std::str::from_utf8(bytes).is_ok(),
            Self::Ascii | Self::Latin1 => bytes.is_ascii(),
            Self::Other(encoding) => encoding.is_ascii_compatible() && bytes.is_ascii(),
            _ => bytes.is_empty(),
        }
    }

    /// Appends the text of some bytes.
    ///
    /// # Errors
    /// The first malformed place, only with [`OnMalformed::Fail`]; what stands before it is appended.
    pub fn decode_into(
        self,
        bytes: &[u8],
        on_malformed: OnMalformed,
        out: &mut String,
    ) -> Result<(), Malformed> {
        let bad = |out: &mut String, offset: usize| match on_malformed {
            OnMalformed::Fail => Err(Malformed { offset }),
            OnMalformed::Replace => {
                out.push(char::REPLACEMENT_CHARACTER);
                Ok(())
            }
            OnMalformed::Ignore => Ok(()),
        };
        let mut at = 0;
        match self {
            Self::Utf8 => {
                for chunk in bytes.utf8_chunks() {
                    out.push_str(chunk.valid());
                    at += chunk.valid().len();
                    if !chunk.invalid().is_empty() {
                        bad(out, at)?;
                        at += chunk.invalid().len();
                    }
                }
            }
            Self::Ascii => {
                for (at, &byte) in bytes.iter().enumerate() {
                    if byte.is_ascii() { out.push(char::from(byte)) } else { bad(out, at)? }
                }
            }
            Self::Latin1 => out.extend(bytes.iter().map(|&byte| char::from(byte))),
            Self::Utf16 | Self::Utf16Be | Self::Utf16Le => {
                let (pairs, odd) = bytes.as_chunks::<2>();
                let little = self == Self::Utf16Le;
                let unit = |p: &[u8; 2]| if little { u16::from_le_bytes(*p) } else { u16::from_be_bytes(*p) };
                for decoded in char::decode_utf16(pairs.iter().map(unit)) {
                    match decoded {
                        Ok(c) => {
                            out.push(c);
                            at += 2 * c.len_utf16();
                        }
                        Err(_) => {
                            bad(out, at)?;
                            at += 2;
                        }
                    }
                }
                if !odd.is_empty() {
                    bad(out, at)?;
                }
            }
            Self::Utf32 | Self::Utf32Le => {
                let (units, odd) = bytes.as_chunks::<4>();
                for unit in units {
                    let little = self == Self::Utf32Le;
                    let code = if little { u32::from_le_bytes(*unit) } else { u32::from_be_bytes(*unit) };
                    match char::from_u32(code) {
                        Some(c) => out.push(c),
                        None => bad(out, at)?,
                    }
                    at += 4;
                }
                if !odd.is_empty() {
                    bad(out, at)?;
                }
            }
            Self::Other(encoding) => {
                let mut decoder = encoding.new_decoder_without_bom_handling();
                loop {
                    let rest = bytes.get(at..).unwrap_or_default();
                    let room = decoder.max_utf8_buffer_length_without_replacement(rest.len());
                    out.reserve(room.unwrap_or(3 * rest.len()) + 16);
                    let (result, read) = decoder.decode_to_string_without_replacement(rest, out, true);
                    at += read;
                    match result {
                        DecoderResult::InputEmpty => break,
                        DecoderResult::OutputFull => {}
                        DecoderResult::Malformed(size, _) => bad(out, at.saturating_sub(usize::from(size)))?,
                    }
                }
            }
        }
        Ok(())
    }
}

/// True if a text has at least `limit` of Java's characters (UTF-16 units).
pub fn has_java_chars(text: &str, limit: usize) -> bool {
    // No character takes fewer bytes than units.
    text.len() >= limit
        && (text.is_ascii()
            || text
                .chars()
                .scan(0, |units, c| {
                    *units += c.len_utf16();
                    Some(*units)
                })
                .any(|units| units >= limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charset(name: &str) -> Charset {
        Charset::named(name).unwrap()
    }
    fn decode(name: &str, bytes: &[u8], policy: OnMalformed) -> Result<String, usize> {
        let mut out = String::new();
        charset(name).decode_into(bytes, policy, &mut out).map(|()| out).map_err(|m| m.offset)
    }

    #[test]
    fn malformed_bytes_follow_the_policy() {
        let cases: &[(&str, &[u8], usize, &str, &str)] = &[
            ("utf-8", b"a\xFFb", 1, "a\u{FFFD}b", "ab"),
            ("us-ascii", b"ab\x80", 2, "ab\u{FFFD}", "ab"),
            ("utf-16be", b"\0a\xD8\0\0b", 2, "a\u{FFFD}b", "ab"),
            ("utf-16le", b"a\0b", 2, "a\u{FFFD}", "a"),
            ("utf-32", b"\0\0\0a\0\xFF\0\0\0\0\0b", 4, "a\u{FFFD}b", "ab"),
            ("shift_jis", b"a\xFFb", 1, "a\u{FFFD}b", "ab"),
        ];
        for (name, bytes, offset, replaced, ignored) in cases {
            assert_eq!(decode(name, bytes, OnMalformed::Fail), Err(*offset), "{name}");
            assert_eq!(decode(name, bytes, OnMalformed::Replace).as_deref(), Ok(*replaced), "{name}");
            assert_eq!(decode(name, bytes, OnMalformed::Ignore).as_deref(), Ok(*ignored), "{name}");
        }
    }

    #[test]
    fn line_ends_are_found_on_units() {
        // U+0A0A holds two bytes 0A and is no line feed.
        let bytes = [0x0A, 0x0A, 0x00, 0x0D, 0x00, 0x0A];
        assert_eq!(charset("utf-16be").find_newline(&bytes, 0), Some(4));
        assert_eq!(charset("utf-16be").find_line_end(&bytes, 0), Some(LineEnd { at: 2, is_return: true }));
        assert_eq!(charset("utf-32le").find_newline(b"a\0\0\0\n\0\0\0", 0), Some(4));
        assert_eq!(charset("utf-8").find_line_end(b"ab\ncd", 0), Some(LineEnd { at: 2, is_return: false }));
        assert_eq!(charset("utf-8").find_newline(b"ab\n", 3), None);
        assert_eq!(charset("utf-16").resolve(&[0xFF, 0xFE, b'a', 0]), (Charset::Utf16Le, 2));
        assert_eq!(charset("utf-16").resolve(&[0, b'a']), (Charset::Utf16Be, 0));
    }

    #[test]
    fn characters_are_javas() {
        assert!(has_java_chars("abc", 3) && !has_java_chars("abc", 4));
        assert!(has_java_chars("é😀", 3) && !has_java_chars("é😀", 4));
    }
}
