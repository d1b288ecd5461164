//! `org.apache.flume.sink.hdfs.AvroEventSerializer$Builder`: an Avro container file of bodies that are Avro
//! data already.
//!
//! Flume: `org.apache.flume.sink.hdfs.AvroEventSerializer`. A container has one schema. Flume takes that of
//! the file's first event and appends whatever comes later, so that an event of another schema makes the
//! rest of the file unreadable; here the sink gives every schema a file of its own.

use std::rc::Rc;

use super::container::{self, Container};
use super::output::{EventSerializer, Output};
use crate::config::{ParseContext, Property, PropertySpec};
use crate::event::EventBatch;

/// Header with the address of an event's schema; goes before the literal, as in Flume.
pub const URL_HEADER: &str = "flume.avro.schema.url";
/// Header with the text of an event's schema.
pub const LITERAL_HEADER: &str = "flume.avro.schema.literal";

/// `schemaURL`
pub const SCHEMA_URL: Property<String> = Property::absent(
    "schemaURL",
    "Address of the schema of events without a header that names one: hdfs://, file://, http:// or https://. \
     It is read again after a minute.",
);

/// Options of the serializer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What all containers have.
    pub container: container::Options,
    /// `schemaURL`
    pub schema_url: Option<String>,
}

/// True if schemas can be read from this address, as far as its scheme says.
pub fn is_address(url: &str) -> bool {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    ["hdfs", "viewfs", "file", "http", "https"].contains(&scheme.as_str())
}

/// Reads the options.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Options> {
    let container = container::parse(cx);
    let schema_url = cx.get_opt(&SCHEMA_URL)?;
    if schema_url.as_deref().is_some_and(|url| !is_address(url)) {
        let example = format!(
            "for example: {} = hdfs://namenode:8020/schemas/event.avsc",
            cx.full_key(SCHEMA_URL.name())
        );
        cx.error(
            SCHEMA_URL.name(),
            "not an address that begins with hdfs://, file://, http:// or https://",
            Some(example),
        );
        return None;
    }
    Some(Options { container: container?, schema_url })
}

/// The serializer.
#[derive(Debug)]
pub struct AvroBody {
    container: Container,
    schema: Rc<str>,
}

impl AvroBody {
    /// A serializer for one file, whose events all have this schema.
    pub fn new(options: container::Options, schema: Rc<str>, random: [u64; 2]) -> Self {
        Self { container: Container::new(options, random), schema }
    }
}

impl EventSerializer for AvroBody {
    fn begin(&mut self, out: &mut Output) {
        self.container.begin(&self.schema, out);
    }
    fn append(&mut self, batch: &EventBatch, from: usize, to: usize, out: &mut Output) {
        for index in from..to {
            self.container.datum(out, |block| block.extend_from_slice(batch.body(index)));
        }
    }
    fn flush(&mut self, out: &mut Output) {
        self.container.end_block(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::avro::packing::Packing;
    use crate::config::Kind;
    use crate::event::{BatchBuilder, Separator};
    use crate::serializer::deserializer::Deserializer as _;
    use crate::serializer::deserializer::avro::{Container as Reader, SchemaHeader};
    use crate::testing;

    const SCHEMA: &str =
        r#"{ "type": "record", "name": "R", "fields": [ {"name": "s", "type": "string"} ] }"#;

    #[test]
    fn bodies_come_back_as_they_were() {
        let bodies = [&b"\x02a"[..], b"\x04bc", b"\x00", b"\x02d"];
        for packing in Packing::ALL {
            for separator in [Separator::None, Separator::Newline] {
                let mut builder = BatchBuilder::new(separator);
                bodies.iter().for_each(|b| builder.push(b));
                let batch = builder.finish();
                let options = container::Options { sync_interval_bytes: 32, packing };
                let mut serializer = AvroBody::new(options, SCHEMA.into(), [1, 2]);
                let mut out = Output::default();
                serializer.begin(&mut out);
                for (from, to) in [(0, 1), (1, 4)] {
                    serializer.append(&batch, from, to, &mut out);
                    serializer.flush(&mut out);
                }
                let file = out.take().concat();
                let mut reader = Reader::begin(SchemaHeader::Literal, &file).unwrap();
                let (mut batch, mut places) = (BatchBuilder::default(), Vec::new());
                let start = reader.start();
                reader.cut(&file[start.offset as usize..], start, true, &mut batch, &mut places).unwrap();
                let batch = batch.finish();
                assert_eq!(batch.bodies().collect::<Vec<_>>(), bodies, "{packing:?}");
                assert_eq!(batch.header(0, LITERAL_HEADER), Some(SCHEMA));
            }
        }
    }

    #[test]
    fn addresses_of_schemas() {
        let table = [
            ("", Some(None)),
            ("schemaURL = hdfs://nn:8020/s.avsc", Some(Some("hdfs://nn:8020/s.avsc"))),
            ("schemaURL = HTTPS://h/s", Some(Some("HTTPS://h/s"))),
            ("schemaURL = file:/s.avsc", Some(Some("file:/s.avsc"))),
            ("schemaURL = /s.avsc", None),
            ("schemaURL = ftp://h/s.avsc", None),
        ];
        for (lines, expected) in table {
            let (options, complaints) = testing::parse(Kind::Sink, lines, parse);
            assert_eq!(options.as_ref().map(|o| o.schema_url.as_deref()), expected, "{lines}");
            assert_eq!(complaints.is_empty(), expected.is_some(), "{lines}: {complaints:?}");
        }
    }
}
