//! `avro_event`: an Avro container file of records `Event{headers, body}`.
//!
//! Flume: `org.apache.flume.serialization.FlumeEventAvroEventSerializer`. Avro specification 1.11, "Object
//! Container Files". A block ends after `syncIntervalBytes` and at every flush.

use std::io::{Read, Write};

use super::output::{EventSerializer, Output};
use crate::config::{ParseContext, Property, PropertySpec};
use crate::event::EventBatch;

/// `syncIntervalBytes`
pub const SYNC_INTERVAL_BYTES: Property<usize> = Property::optional(
    "syncIntervalBytes",
    "2048000",
    "Size of a block, in bytes before compression, after which the next begins.",
);
/// `compressionCodec`
pub const COMPRESSION_CODEC: Property<String> = Property::optional(
    "compressionCodec",
    "null",
    "Avro's name of the compression: null, deflate, snappy, bzip2 or zstandard.",
);

/// Schema text, as Flume writes it.
const SCHEMA: &str = r#"{"type":"record","name":"Event","fields":[{"name":"headers","type":{"type":"map","values":"string"}},{"name":"body","type":"bytes"}]}"#;

/// Compression of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// `null`
    Null,
    /// `deflate`: raw deflate
    Deflate,
    /// `snappy`: with a CRC-32 behind it
    Snappy,
    /// `bzip2`
    Bzip2,
    /// `zstandard`
    Zstandard,
}

impl Codec {
    const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Deflate => "deflate",
            Self::Snappy => "snappy",
            Self::Bzip2 => "bzip2",
            Self::Zstandard => "zstandard",
        }
    }
    fn compress(self, block: &[u8]) -> Vec<u8> {
        // Reading from memory does not fail.
        let read = |mut reader: Box<dyn Read + '_>| {
            let mut out = Vec::with_capacity(block.len() / 3);
            reader.read_to_end(&mut out).unwrap_or_else(|e| panic!("compressing in memory: {e}"));
            out
        };
        match self {
            Self::Null => block.to_vec(),
            Self::Deflate => {
                read(Box::new(flate2::read::DeflateEncoder::new(block, flate2::Compression::default())))
            }
            Self::Bzip2 => read(Box::new(bzip2::read::BzEncoder::new(block, bzip2::Compression::best()))),
            Self::Snappy => {
                let mut out = snap::raw::Encoder::new()
                    .compress_vec(block)
                    .unwrap_or_else(|e| panic!("compressing {} bytes: {e}", block.len()));
                let _ = out.write_all(&crc32fast::hash(block).to_be_bytes());
                out
            }
            Self::Zstandard => zstd::bulk::compress(block, 3).unwrap_or_else(|e| panic!("compressing: {e}")),
        }
    }
}

/// Options of the serializer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `syncIntervalBytes`
    pub sync_interval_bytes: usize,
    /// `compressionCodec`
    pub codec: Codec,
}

/// Largest block: Avro readers keep a block in memory.
const SYNC_INTERVAL_MAX: usize = 1 << 30;

/// Reads the options.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Options> {
    let interval = cx.get(&SYNC_INTERVAL_BYTES);
    let name = cx.get(&COMPRESSION_CODEC)?;
    let codecs = [Codec::Null, Codec::Deflate, Codec::Snappy, Codec::Bzip2, Codec::Zstandard];
    let codec = codecs.into_iter().find(|c| c.name() == name).unwrap_or_else(|| {
        cx.warning(
            COMPRESSION_CODEC.name(),
            "not a codec this program has; the file is written without compression, as in Flume",
            Some("use null, deflate, snappy, bzip2 or zstandard".to_owned()),
        );
        Codec::Null
    });
    let sync_interval_bytes = interval?;
    if !(32..=SYNC_INTERVAL_MAX).contains(&sync_interval_bytes) {
        cx.error(SYNC_INTERVAL_BYTES.name(), format!("not from 32 to {SYNC_INTERVAL_MAX}"), None);
        return None;
    }
    Some(Options { sync_interval_bytes, codec })
}

/// The serializer.
#[derive(Debug)]
pub struct AvroEvent {
    options: Options,
    marker: [u8; 16],
    block: Vec<u8>,
    events: u64,
}

impl AvroEvent {
    /// A serializer for one file.
    pub fn new(options: Options, random: [u64; 2]) -> Self {
        let mut marker = [0; 16];
        marker[..8].copy_from_slice(&random[0].to_le_bytes());
        marker[8..].copy_from_slice(&random[1].to_le_bytes());
        Self { options, marker, block: Vec::new(), events: 0 }
    }
    fn end_block(&mut self, out: &mut Output) {
        if self.events == 0 {
            return;
        }
        let data = self.options.codec.compress(&self.block);
        let mut head = Vec::with_capacity(20);
        put_long(&mut head, self.events as i64);
        put_long(&mut head, data.len() as i64);
        out.put(&head);
        out.put(&data);
        out.put(&self.marker);
        self.block.clear();
        self.events = 0;
    }
}

/// Zigzag, then 7 bits a byte, least significant first.
fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut bits = ((value << 1) ^ (value >> 63)) as u64;
    while bits >= 0x80 {
        out.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}

impl EventSerializer for AvroEvent {
    fn begin(&mut self, out: &mut Output) {
        let mut head = b"Obj\x01".to_vec();
        let codec = self.options.codec;
        put_long(&mut head, 1 + i64::from(codec != Codec::Null));
        if codec != Codec::Null {
            put_bytes(&mut head, b"avro.codec");
            put_bytes(&mut head, codec.name().as_bytes());
        }
        put_bytes(&mut head, b"avro.schema");
        put_bytes(&mut head, SCHEMA.as_bytes());
        put_long(&mut head, 0);
        head.extend_from_slice(&self.marker);
        out.put(&head);
    }
    fn append(&mut self, batch: &EventBatch, from: usize, to: usize, out: &mut Output) {
        for index in from..to {
            let count = batch.headers(index).count();
            if count > 0 {
                put_long(&mut self.block, count as i64);
                for (key, value) in batch.headers(index) {
                    put_bytes(&mut self.block, key.as_bytes());
                    put_bytes(&mut self.block, value.as_bytes());
                }
            }
            put_long(&mut self.block, 0);
            put_bytes(&mut self.block, batch.body(index));
            self.events += 1;
            if self.block.len() >= self.options.sync_interval_bytes {
                self.end_block(out);
            }
        }
    }
    fn flush(&mut self, out: &mut Output) {
        self.end_block(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::event::Headers;
    use crate::testing;

    fn file(codec: Codec) -> Vec<u8> {
        let batch = EventBatch::single([("k", "v")].into_iter().collect::<Headers>(), "body");
        let mut out = Output::default();
        let mut serializer = AvroEvent::new(Options { sync_interval_bytes: 64_000, codec }, [1, 2]);
        serializer.begin(&mut out);
        serializer.append(&batch, 0, 1, &mut out);
        serializer.flush(&mut out);
        serializer.flush(&mut out);
        out.take().concat()
    }

    #[test]
    fn a_container_byte_for_byte() {
        let mut expected = b"Obj\x01\x02\x16avro.schema".to_vec();
        put_bytes(&mut expected, SCHEMA.as_bytes());
        expected.push(0);
        let marker = [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        expected.extend(marker);
        expected.extend(b"\x02\x16\x02\x02k\x02v\x00\x08body");
        expected.extend(marker);
        assert_eq!(file(Codec::Null), expected);
    }

    #[test]
    fn codecs_round_trip() {
        let data = b"\x02\x02k\x02v\x00\x08body";
        let all = |mut r: Box<dyn Read + '_>| {
            let mut out = Vec::new();
            r.read_to_end(&mut out).unwrap();
            out
        };
        let deflated = Codec::Deflate.compress(data);
        assert_eq!(all(Box::new(flate2::read::DeflateDecoder::new(&deflated[..]))), data);
        let bzipped = Codec::Bzip2.compress(data);
        assert_eq!(all(Box::new(bzip2::read::BzDecoder::new(&bzipped[..]))), data);
        assert_eq!(zstd::bulk::decompress(&Codec::Zstandard.compress(data), 100).unwrap(), data);
        let snapped = Codec::Snappy.compress(data);
        let (body, check) = snapped.split_at(snapped.len() - 4);
        assert_eq!(snap::raw::Decoder::new().decompress_vec(body).unwrap(), data);
        assert_eq!(check, crc32fast::hash(data).to_be_bytes());
        assert!(String::from_utf8_lossy(&file(Codec::Snappy)).contains("avro.codec\u{c}snappy"));
    }

    #[test]
    fn options() {
        let read = |lines: &str| testing::parse(Kind::Sink, lines, parse);
        assert_eq!(read("").0, Some(Options { sync_interval_bytes: 2_048_000, codec: Codec::Null }));
        assert_eq!(read("compressionCodec = snappy").0.unwrap().codec, Codec::Snappy);
        let (config, complaints) = read("compressionCodec = lzma");
        assert_eq!(config.unwrap().codec, Codec::Null);
        assert!(
            complaints[0].starts_with("warning: a1.sinks.x1.compressionCodec = \"lzma\""),
            "{complaints:?}"
        );
        assert_eq!(read("syncIntervalBytes = 0").0, None);
        assert_eq!(read("syncIntervalBytes = many").0, None);
    }
}
