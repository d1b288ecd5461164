//! Event serializers: bodies, and headers if wanted, as the bytes of a file.
//!
//! Flume: `org.apache.flume.serialization.EventSerializer`. A serializer belongs to one file; it appends runs
//! of events to an [`Output`], which keeps large areas as they are instead of copying them.

use bytes::{Bytes, BytesMut};

use super::{avro_event, header_and_text, text};
use crate::config::{ParseContext, Property, PropertySpec, Specs};
use crate::event::EventBatch;

/// `serializer`
pub const SERIALIZER: Property<String> = Property::optional(
    "serializer",
    "TEXT",
    "How events become bytes: TEXT (the body), HEADER_AND_TEXT (headers, a blank, the body) or avro_event (an \
     Avro container file), in any case, or Flume's class name of its Builder.",
);
/// Options of the serializer, for the tables of sinks whose keys begin with `serializer.`.
pub const OPTIONS: Property<String> = Property::family(
    "serializer.",
    "Options of the serializer. TEXT and HEADER_AND_TEXT: appendNewline (true). avro_event: syncIntervalBytes \
     (2048000), compressionCodec (null, deflate, snappy, bzip2, zstandard).",
)
.members(|get| options(get("serializer")));

/// What may stand below `serializer.` of a sink that is told this `serializer`. `None` if it is unknown.
pub fn options(serializer: Option<String>) -> Option<Vec<(String, Specs)>> {
    let specs: Specs = match Kind::named(serializer.as_deref().unwrap_or("TEXT"))? {
        Kind::Text | Kind::HeaderAndText => &[&text::APPEND_NEWLINE],
        Kind::AvroEvent => &[&avro_event::SYNC_INTERVAL_BYTES, &avro_event::COMPRESSION_CODEC],
    };
    Some(vec![("serializer.".to_owned(), specs)])
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    HeaderAndText,
    AvroEvent,
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        let class = name.strip_prefix("org.apache.flume.serialization.").unwrap_or(name);
        match class.to_ascii_lowercase().as_str() {
            "text" | "bodytexteventserializer$builder" => Some(Self::Text),
            "header_and_text" | "headerandbodytexteventserializer$builder" => Some(Self::HeaderAndText),
            "avro_event" | "flumeeventavroeventserializer$builder" => Some(Self::AvroEvent),
            _ => None,
        }
    }
}

/// Shared areas below this are copied: a write each would cost more than the copy.
const SHARE_BYTES_MIN: usize = 8 * 1024;

/// Bytes on their way to a file, in pieces.
#[derive(Debug, Default)]
pub struct Output {
    pieces: Vec<Bytes>,
    tail: BytesMut,
    size_bytes: usize,
}

impl Output {
    /// Appends a copy.
    pub fn put(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.size_bytes += bytes.len();
    }
    /// Appends without copying if that pays.
    pub fn share(&mut self, bytes: Bytes) {
        if bytes.len() < SHARE_BYTES_MIN {
            return self.put(&bytes);
        }
        self.size_bytes += bytes.len();
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
        self.pieces.push(bytes);
    }
    /// Bytes not yet taken.
    pub fn len(&self) -> usize {
        self.size_bytes
    }
    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.size_bytes == 0
    }
    /// Takes everything, in order.
    pub fn take(&mut self) -> Vec<Bytes> {
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
        self.size_bytes = 0;
        std::mem::take(&mut self.pieces)
    }
}

/// A serializer with its options, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerializerConfig {
    /// `TEXT`
    Text(text::Options),
    /// `HEADER_AND_TEXT`
    HeaderAndText(text::Options),
    /// `avro_event`
    AvroEvent(avro_event::Options),
}

impl SerializerConfig {
    /// Makes a serializer for one file. The random bits tell apart files that need a marker of their own.
    pub fn build(&self, random: [u64; 2]) -> Box<dyn EventSerializer> {
        match self {
            Self::Text(options) => Box::new(text::Text::new(*options)),
            Self::HeaderAndText(options) => Box::new(header_and_text::HeaderAndText::new(*options)),
            Self::AvroEvent(options) => Box::new(avro_event::AvroEvent::new(*options, random)),
        }
    }
}

/// Writes the events of one file.
pub trait EventSerializer {
    /// Start of the file.
    fn begin(&mut self, _out: &mut Output) {}
    /// Appends events `from..to`.
    fn append(&mut self, batch: &EventBatch, from: usize, to: usize, out: &mut Output);
    /// Hands over what is buffered: a file cut off here can be read up to here.
    fn flush(&mut self, _out: &mut Output) {}
}

/// Reads `serializer` and `serializer.*`. `None` only after a complaint.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<SerializerConfig> {
    let name = cx.get(&SERIALIZER)?;
    let mut below = cx.below("serializer.");
    match Kind::named(&name) {
        Some(Kind::Text) => text::parse(&mut below).map(SerializerConfig::Text),
        Some(Kind::HeaderAndText) => text::parse(&mut below).map(SerializerConfig::HeaderAndText),
        Some(Kind::AvroEvent) => avro_event::parse(&mut below).map(SerializerConfig::AvroEvent),
        None => {
            let (problem, hint) = match name.contains("AvroEventSerializer") {
                // Its events bring their schema along, and every file has one.
                true => (
                    "writes bodies that are Avro data under a schema of their own, which this program does not",
                    "use avro_event, whose records keep headers and body, and take the body apart behind it",
                ),
                false => ("not a serializer this program has", "use TEXT, HEADER_AND_TEXT or avro_event"),
            };
            cx.error(SERIALIZER.name(), problem, Some(hint.to_owned()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::testing;

    #[test]
    fn pieces_keep_their_order_and_large_ones_are_shared() {
        let mut out = Output::default();
        let large = Bytes::from(vec![b'x'; SHARE_BYTES_MIN]);
        out.put(b"a");
        out.share(large.clone());
        out.share(Bytes::from_static(b"b"));
        out.put(b"c");
        assert_eq!(out.len(), SHARE_BYTES_MIN + 3);
        let pieces = out.take();
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [1, SHARE_BYTES_MIN, 2]);
        assert_eq!(pieces[1].as_ptr(), large.as_ptr());
        assert_eq!(pieces[2], "bc");
        assert!(out.is_empty() && out.take().is_empty());
    }

    #[test]
    fn names_and_options() {
        let table = [
            ("", Some(SerializerConfig::Text(text::Options { append_newline: true }))),
            (
                "serializer = text\nserializer.appendNewline = false",
                Some(SerializerConfig::Text(text::Options { append_newline: false })),
            ),
            (
                "serializer = org.apache.flume.serialization.BodyTextEventSerializer$Builder",
                Some(SerializerConfig::Text(text::Options { append_newline: true })),
            ),
            (
                "serializer = Header_And_Text",
                Some(SerializerConfig::HeaderAndText(text::Options { append_newline: true })),
            ),
            ("serializer = com.example.Mine", None),
            ("serializer = org.apache.flume.sink.hdfs.AvroEventSerializer$Builder", None),
        ];
        for (lines, expected) in table {
            let (config, complaints) = testing::parse(config::Kind::Sink, lines, parse);
            assert_eq!(config, expected, "{lines}");
            assert_eq!(complaints.is_empty(), expected.is_some(), "{lines}: {complaints:?}");
        }
    }
}
