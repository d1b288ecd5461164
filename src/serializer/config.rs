//! Which serializer, and its options.

use std::rc::Rc;

use super::output::EventSerializer;
use super::{avro_body, avro_event, container, header_and_text, text};
use crate::config::{ParseContext, Property, PropertySpec, Specs};

/// `serializer`
pub const SERIALIZER: Property<String> = Property::optional(
    "serializer",
    "TEXT",
    "How events become bytes: TEXT (the body), HEADER_AND_TEXT (headers, a blank, the body) or avro_event (an \
     Avro container file of headers and bodies), in any case, or Flume's class name of its Builder. \
     `org.apache.flume.sink.hdfs.AvroEventSerializer$Builder` writes bodies that are Avro data already, under \
     the schema that the header `flume.avro.schema.url` or `flume.avro.schema.literal` or the option schemaURL \
     names; events of another schema go into a file of their own.",
);
/// Options of the serializer, for the tables of sinks whose keys begin with `serializer.`.
pub const OPTIONS: Property<String> = Property::family(
    "serializer.",
    "Options of the serializer. TEXT and HEADER_AND_TEXT: appendNewline (true). avro_event and \
     AvroEventSerializer: syncIntervalBytes (2048000), compressionCodec (null, deflate, snappy, bzip2, xz, \
     zstandard). AvroEventSerializer: schemaURL (hdfs, file, http or https).",
)
.members(|get| options(get("serializer")));

/// What may stand below `serializer.` of a sink that is told this `serializer`. `None` if it is unknown.
pub fn options(serializer: Option<String>) -> Option<Vec<(String, Specs)>> {
    let specs: Specs = match Kind::named(serializer.as_deref().unwrap_or("TEXT"))? {
        Kind::Text | Kind::HeaderAndText => &[&text::APPEND_NEWLINE],
        Kind::AvroEvent => &[&container::SYNC_INTERVAL_BYTES, &container::COMPRESSION_CODEC],
        Kind::AvroBody => {
            &[&container::SYNC_INTERVAL_BYTES, &container::COMPRESSION_CODEC, &avro_body::SCHEMA_URL]
        }
    };
    Some(vec![("serializer.".to_owned(), specs)])
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    HeaderAndText,
    AvroEvent,
    AvroBody,
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        let class = name.strip_prefix("org.apache.flume.serialization.").unwrap_or(name);
        match class.to_ascii_lowercase().as_str() {
            "text" | "bodytexteventserializer$builder" => Some(Self::Text),
            "header_and_text" | "headerandbodytexteventserializer$builder" => Some(Self::HeaderAndText),
            "avro_event" | "flumeeventavroeventserializer$builder" => Some(Self::AvroEvent),
            // Flume has no short name for it.
            "org.apache.flume.sink.hdfs.avroeventserializer$builder" => Some(Self::AvroBody),
            _ => None,
        }
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
    AvroEvent(container::Options),
    /// `org.apache.flume.sink.hdfs.AvroEventSerializer$Builder`
    AvroBody(avro_body::Options),
}

/// What a serializer is told of its file.
#[derive(Clone, Debug, Default)]
pub struct FileTraits {
    /// Tell apart files that need a marker of their own.
    pub random: [u64; 2],
    /// Schema of the bodies, for [`SerializerConfig::AvroBody`].
    pub schema: Option<Rc<str>>,
}

impl SerializerConfig {
    /// Makes a serializer for one file.
    ///
    /// # Panics
    /// If the file's schema is missing where one is needed.
    pub fn build(&self, file: FileTraits) -> Box<dyn EventSerializer> {
        match self {
            Self::Text(options) => Box::new(text::Text::new(*options)),
            Self::HeaderAndText(options) => Box::new(header_and_text::HeaderAndText::new(*options)),
            Self::AvroEvent(options) => Box::new(avro_event::AvroEvent::new(*options, file.random)),
            Self::AvroBody(options) => {
                let schema = file.schema.expect("a file of Avro bodies has a schema");
                Box::new(avro_body::AvroBody::new(options.container, schema, file.random))
            }
        }
    }
    /// Options of the serializer whose files have the schema of their events.
    pub fn avro_body(&self) -> Option<&avro_body::Options> {
        match self {
            Self::AvroBody(options) => Some(options),
            _ => None,
        }
    }
}

/// Reads `serializer` and `serializer.*`. `None` only after a complaint.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<SerializerConfig> {
    let name = cx.get(&SERIALIZER)?;
    let mut below = cx.below("serializer.");
    match Kind::named(&name) {
        Some(Kind::Text) => text::parse(&mut below).map(SerializerConfig::Text),
        Some(Kind::HeaderAndText) => text::parse(&mut below).map(SerializerConfig::HeaderAndText),
        Some(Kind::AvroEvent) => container::parse(&mut below).map(SerializerConfig::AvroEvent),
        Some(Kind::AvroBody) => avro_body::parse(&mut below).map(SerializerConfig::AvroBody),
        None => {
            let hint = "use TEXT, HEADER_AND_TEXT or avro_event";
            cx.error(SERIALIZER.name(), "not a serializer this program has", Some(hint.to_owned()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::avro::packing::Packing;
    use crate::config;
    use crate::testing;

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
            ("serializer = AvroEventSerializer$Builder", None),
            (
                "serializer = org.apache.flume.sink.hdfs.AvroEventSerializer$Builder\n\
                 serializer.compressionCodec = xz\nserializer.schemaURL = hdfs://nn/s.avsc",
                Some(SerializerConfig::AvroBody(avro_body::Options {
                    container: container::Options { sync_interval_bytes: 2_048_000, packing: Packing::Xz },
                    schema_url: Some("hdfs://nn/s.avsc".to_owned()),
                })),
            ),
        ];
        for (lines, expected) in table {
            let (config, complaints) = testing::parse(config::Kind::Sink, lines, parse);
            assert_eq!(config, expected, "{lines}");
            assert_eq!(complaints.is_empty(), expected.is_some(), "{lines}: {complaints:?}");
        }
    }
}
