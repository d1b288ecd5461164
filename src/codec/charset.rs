//! Character sets under Java's names.
//!
//! Malformed input becomes U+FFFD and what a set cannot express `?`, as with Java's default decoders and
//! encoders. ISO-8859-1 and US-ASCII are Java's, not the web's (which reads them as windows-1252).

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use encoding_rs::{CoderResult, Encoding, UTF_16BE, UTF_16LE};

/// A character set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charset {
    /// `UTF-8`
    Utf8,
    /// `UTF-16`: reads a byte order mark, else big-endian; writes big-endian with a mark.
    Utf16,
    /// `UTF-16BE`
    Utf16Be,
    /// `UTF-16LE`
    Utf16Le,
    /// `UTF-32`: reads a byte order mark, else big-endian; writes big-endian without one. Also `UTF-32BE`.
    Utf32,
    /// `UTF-32LE`
    Utf32Le,
    /// `ISO-8859-1`
    Latin1,
    /// `US-ASCII`
    Ascii,
    /// Any other, by its name on the web.
    Other(&'static Encoding),
}

impl Charset {
    /// Finds a set by one of its names, in any case.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name.trim().to_ascii_uppercase().as_str() {
            "UTF-8" | "UTF8" => Self::Utf8,
            "UTF-16" | "UTF16" | "UNICODE" => Self::Utf16,
            "UTF-16BE" | "UTF-16-BE" => Self::Utf16Be,
            "UTF-16LE" | "UTF-16-LE" => Self::Utf16Le,
            "UTF-32" | "UTF32" | "UTF-32BE" => Self::Utf32,
            "UTF-32LE" => Self::Utf32Le,
            "ISO-8859-1" | "ISO8859-1" | "ISO8859_1" | "ISO_8859-1" | "LATIN1" | "L1" => Self::Latin1,
            "US-ASCII" | "ASCII" | "ISO646-US" => Self::Ascii,
            other => Self::Other(Encoding::for_label(other.as_bytes()).or_else(|| match other {
                // Java's own spellings of sets the web knows.
                "MS936" | "CP936" => Some(encoding_rs::GBK),
                "MS950" | "CP950" => Some(encoding_rs::BIG5),
                "MS932" | "CP932" | "WINDOWS-31J" => Some(encoding_rs::SHIFT_JIS),
                _ => Encoding::for_label(other.replacen("CP", "WINDOWS-", 1).as_bytes()),
            })?),
        })
    }

    /// Bytes to text.
    pub fn decode(self, bytes: &[u8]) -> Cow<'_, str> {
        match self {
            Self::Utf8 => String::from_utf8_lossy(bytes),
            Self::Utf16 => match bytes {
                [0xfe, 0xff, rest @ ..] => UTF_16BE.decode_without_bom_handling(rest).0,
                [0xff, 0xfe, rest @ ..] => UTF_16LE.decode_without_bom_handling(rest).0,
                _ => UTF_16BE.decode_without_bom_handling(bytes).0,
            },
            Self::Utf16Be => UTF_16BE.decode_without_bom_handling(bytes).0,
            Self::Utf16Le => UTF_16LE.decode_without_bom_handling(bytes).0,
            Self::Utf32 => Cow::Owned(match bytes {
                [0, 0, 0xfe, 0xff, rest @ ..] => utf32(rest, u32::from_be_bytes),
                [0xff, 0xfe, 0, 0, rest @ ..] => utf32(rest, u32::from_le_bytes),
                _ => utf32(bytes, u32::from_be_bytes),
            }),
            Self::Utf32Le => Cow::Owned(utf32(bytes, u32::from_le_bytes)),
            Self::Latin1 => encoding_rs::mem::decode_latin1(bytes),
            Self::Ascii => match bytes.is_ascii() {
                true => String::from_utf8_lossy(bytes),
                false => {
                    let char =
                        |b: &u8| if b.is_ascii() { char::from(*b) } else { char::REPLACEMENT_CHARACTER };
                    Cow::Owned(bytes.iter().map(char).collect())
                }
            },
            Self::Other(encoding) => encoding.decode_without_bom_handling(bytes).0,
        }
    }

    /// Appends text as bytes of this set.
    pub fn encode(self, text: &str, out: &mut BytesMut) {
        match self {
            Self::Utf8 => out.put_slice(text.as_bytes()),
            Self::Utf16 => {
                if !text.is_empty() {
                    out.put_slice(&[0xfe, 0xff]);
                }
                text.encode_utf16().for_each(|unit| out.put_u16(unit));
            }
            Self::Utf16Be => text.encode_utf16().for_each(|unit| out.put_u16(unit)),
            Self::Utf16Le => text.encode_utf16().for_each(|unit| out.put_u16_le(unit)),
            Self::Utf32 => text.chars().for_each(|c| out.put_u32(c as u32)),
            Self::Utf32Le => text.chars().for_each(|c| out.put_u32_le(c as u32)),
            Self::Latin1 => text.chars().for_each(|c| out.put_u8(u8::try_from(c as u32).unwrap_or(b'?'))),
            Self::Ascii => text.chars().for_each(|c| out.put_u8(if c.is_ascii() { c as u8 } else { b'?' })),
            Self::Other(encoding) => encode_other(encoding, text, out),
        }
    }
}

fn utf32(bytes: &[u8], read: impl Fn([u8; 4]) -> u32) -> String {
    let (units, rest) = bytes.as_chunks::<4>();
    let char = |unit: &[u8; 4]| char::from_u32(read(*unit)).unwrap_or(char::REPLACEMENT_CHARACTER);
    let cut = (!rest.is_empty()).then_some(char::REPLACEMENT_CHARACTER);
    units.iter().map(char).chain(cut).collect()
}

fn encode_other(encoding: &'static Encoding, text: &str, out: &mut BytesMut) {
    let mut encoder = encoding.new_encoder();
    let mut buffer = [0; 1024];
    let mut rest = text;
    loop {
        let (result, read, written) = encoder.encode_from_utf8_without_replacement(rest, &mut buffer, true);
        out.put_slice(&buffer[..written]);
        rest = &rest[read..];
        match result {
            encoding_rs::EncoderResult::InputEmpty => return,
            encoding_rs::EncoderResult::OutputFull => {}
            encoding_rs::EncoderResult::Unmappable(_) => out.put_u8(b'?'),
        }
    }
}

/// Reads text in pieces: a character cut in two by the end of a piece is kept for the next.
#[derive(Debug)]
pub struct IncrementalDecoder(encoding_rs::Decoder);

impl IncrementalDecoder {
    /// For sets known to the web; `None` for UTF-32, US-ASCII and ISO-8859-1, which need no state.
    pub fn new(charset: Charset) -> Option<Self> {
        let encoding = match charset {
            Charset::Utf8 => encoding_rs::UTF_8,
            Charset::Utf16 | Charset::Utf16Be => UTF_16BE,
            Charset::Utf16Le => UTF_16LE,
            Charset::Other(encoding) => encoding,
            _ => return None,
        };
        Some(Self(encoding.new_decoder_without_bom_handling()))
    }
    /// Appends what `bytes` decode to.
    pub fn decode(&mut self, mut bytes: &[u8], last: bool, out: &mut String) {
        loop {
            let room = self.0.max_utf8_buffer_length(bytes.len()).unwrap_or(bytes.len()).min(64 * 1024);
            out.reserve(room.max(16));
            let (result, read, _) = self.0.decode_to_string(bytes, out, last);
            bytes = &bytes[read..];
            if result == CoderResult::InputEmpty {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        for name in
            ["utf-8", "UTF-16", "utf-16le", "UTF-16BE", "UTF-32", "UTF-32LE", "GBK", "gb18030", "EUC-JP"]
        {
            let charset = Charset::named(name).unwrap();
            for text in ["", "plain", "\u{6f22}\u{5b57} mixed"] {
                let mut bytes = BytesMut::new();
                charset.encode(text, &mut bytes);
                assert_eq!(charset.decode(&bytes), text, "{name}");
            }
        }
        assert_eq!(Charset::named("latin-one"), None);
    }

    #[test]
    fn javas_details() {
        let encoded = |name: &str, text: &str| {
            let mut out = BytesMut::new();
            Charset::named(name).unwrap().encode(text, &mut out);
            out.to_vec()
        };
        assert_eq!(encoded("UTF-16", "a"), [0xfe, 0xff, 0, b'a']);
        assert!(encoded("UTF-16", "").is_empty());
        assert_eq!(encoded("UTF-32", "a"), [0, 0, 0, b'a']);
        assert_eq!(encoded("ISO-8859-1", "\u{e9}\u{6f22}"), [0xe9, b'?']);
        assert_eq!(encoded("US-ASCII", "a\u{e9}"), [b'a', b'?']);
        assert_eq!(encoded("windows-1252", "\u{20ac}\u{6f22}"), [0x80, b'?']);
        assert_eq!(encoded("Cp1252", "\u{20ac}"), [0x80]);
        assert_eq!(Charset::Latin1.decode(&[0x80, 0xe9]), "\u{80}\u{e9}");
        assert_eq!(Charset::Ascii.decode(b"a\xe9"), "a\u{fffd}");
        assert_eq!(Charset::Utf16.decode(&[0xff, 0xfe, b'a', 0]), "a");
        assert_eq!(Charset::Utf16.decode(&[0, b'a']), "a");
        assert_eq!(Charset::Utf32.decode(&[0xff, 0xfe, 0, 0, b'a', 0, 0, 0]), "a");
        assert_eq!(Charset::Utf32.decode(&[0, 0, 0, b'a', 0]), "a\u{fffd}");
        assert_eq!(Charset::Utf32.decode(&[0, 0x11, 0, 0]), "\u{fffd}");
    }

    #[test]
    fn characters_cut_in_two() {
        let mut decoder = IncrementalDecoder::new(Charset::Utf8).unwrap();
        let mut text = String::new();
        decoder.decode(b"a\xc3", false, &mut text);
        decoder.decode(b"\xa9b\xc3", true, &mut text);
        assert_eq!(text, "a\u{e9}b\u{fffd}");
    }
}
