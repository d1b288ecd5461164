//! `avro_event`: an Avro container file of records `Event{headers, body}`.
//!
//! Flume: `org.apache.flume.serialization.FlumeEventAvroEventSerializer`.

use super::container::{Container, Options};
use super::output::{EventSerializer, Output};
use crate::codec::avro::datum::{put_bytes, put_long};
use crate::event::EventBatch;

/// Schema text, as Flume writes it.
const SCHEMA: &str = r#"{"type":"record","name":"Event","fields":[{"name":"headers","type":{"type":"map","values":"string"}},{"name":"body","type":"bytes"}]}"#;

/// The serializer.
#[derive(Debug)]
pub struct AvroEvent {
    container: Container,
}

impl AvroEvent {
    /// A serializer for one file.
    pub fn new(options: Options, random: [u64; 2]) -> Self {
        Self { container: Container::new(options, random) }
    }
}

impl EventSerializer for AvroEvent {
    fn begin(&mut self, out: &mut Output) {
        self.container.begin(SCHEMA, out);
    }
    fn append(&mut self, batch: &EventBatch, from: usize, to: usize, out: &mut Output) {
        for index in from..to {
            self.container.datum(out, |block| {
                let count = batch.headers(index).count();
                if count > 0 {
                    put_long(block, count as i64);
                    for (key, value) in batch.headers(index) {
                        put_bytes(block, key.as_bytes());
                        put_bytes(block, value.as_bytes());
                    }
                }
                put_long(block, 0);
                put_bytes(block, batch.body(index));
            });
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
    use crate::event::{BatchBuilder, Headers};
    use crate::serializer::deserializer::Deserializer as _;
    use crate::serializer::deserializer::avro::{Container as Reader, SchemaHeader};

    fn file(packing: Packing) -> Vec<u8> {
        let batch = EventBatch::single([("k", "v")].into_iter().collect::<Headers>(), "body");
        let mut out = Output::default();
        let mut serializer = AvroEvent::new(Options { sync_interval_bytes: 64_000, packing }, [1, 2]);
        serializer.begin(&mut out);
        serializer.append(&batch, 0, 1, &mut out);
        serializer.flush(&mut out);
        serializer.flush(&mut out);
        out.take().concat()
    }

    #[test]
    fn a_container_byte_for_byte() {
        let mut expected = bytes::BytesMut::from(&b"Obj\x01\x02\x16avro.schema"[..]);
        put_bytes(&mut expected, SCHEMA.as_bytes());
        expected.extend(b"\0");
        let marker = [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        expected.extend(marker);
        expected.extend(b"\x02\x16\x02\x02k\x02v\x00\x08body");
        expected.extend(marker);
        assert_eq!(file(Packing::Null), expected);
    }

    #[test]
    fn every_packing_can_be_read_back() {
        for packing in Packing::ALL {
            let file = file(packing);
            let mut reader = Reader::begin(SchemaHeader::Literal, &file).unwrap();
            let (mut batch, mut places) = (BatchBuilder::default(), Vec::new());
            let start = reader.start();
            reader.cut(&file[start.offset as usize..], start, true, &mut batch, &mut places).unwrap();
            let batch = batch.finish();
            assert_eq!(batch.bodies().collect::<Vec<_>>(), [b"\x02\x02k\x02v\x00\x08body"], "{packing:?}");
            assert_eq!(batch.header(0, "flume.avro.schema.literal"), Some(SCHEMA));
        }
    }
}
