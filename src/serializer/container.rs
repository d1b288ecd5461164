//! Avro container files: what their serializers have in common.
//!
//! Avro specification 1.11, "Object Container Files". A block ends after `syncIntervalBytes` and at every flush.

use bytes::{Bytes, BytesMut};

use super::output::Output;
use crate::codec::avro::datum::{put_bytes, put_long};
use crate::codec::avro::packing::{MAGIC, Packing, SYNC_BYTES};
use crate::config::{ParseContext, Property, PropertySpec};

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
    "Avro's name of the compression: null, deflate, snappy, bzip2, xz or zstandard.",
);

/// Options of the serializers that write containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `syncIntervalBytes`
    pub sync_interval_bytes: usize,
    /// `compressionCodec`
    pub packing: Packing,
}

/// Largest block: Avro readers keep a block in memory.
const SYNC_INTERVAL_MAX: usize = 1 << 30;

/// Reads the options.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Options> {
    let interval = cx.get(&SYNC_INTERVAL_BYTES);
    let name = cx.get(&COMPRESSION_CODEC)?;
    let packing = Packing::ALL.into_iter().find(|p| p.name() == name).unwrap_or_else(|| {
        cx.warning(
            COMPRESSION_CODEC.name(),
            "not a codec this program has; the file is written without compression, as in Flume",
            Some(format!("there are {}", Packing::LIST)),
        );
        Packing::Null
    });
    let sync_interval_bytes = interval?;
    if !(32..=SYNC_INTERVAL_MAX).contains(&sync_interval_bytes) {
        cx.error(SYNC_INTERVAL_BYTES.name(), format!("not from 32 to {SYNC_INTERVAL_MAX}"), None);
        return None;
    }
    Some(Options { sync_interval_bytes, packing })
}

/// Writes one container.
#[derive(Debug)]
pub struct Container {
    options: Options,
    marker: [u8; SYNC_BYTES],
    block: BytesMut,
    data: u64,
}

impl Container {
    /// A container with a marker made of these random bits.
    pub fn new(options: Options, random: [u64; 2]) -> Self {
        let mut marker = [0; SYNC_BYTES];
        marker[..8].copy_from_slice(&random[0].to_le_bytes());
        marker[8..].copy_from_slice(&random[1].to_le_bytes());
        Self { options, marker, block: BytesMut::new(), data: 0 }
    }
    /// Start of the file.
    pub fn begin(&self, schema: &str, out: &mut Output) {
        let mut head = BytesMut::from(MAGIC);
        let packing = self.options.packing;
        put_long(&mut head, 1 + i64::from(packing != Packing::Null));
        if packing != Packing::Null {
            put_bytes(&mut head, b"avro.codec");
            put_bytes(&mut head, packing.name().as_bytes());
        }
        put_bytes(&mut head, b"avro.schema");
        put_bytes(&mut head, schema.as_bytes());
        put_long(&mut head, 0);
        head.extend_from_slice(&self.marker);
        out.share(head.freeze());
    }
    /// Appends what `write` writes as one datum.
    pub fn datum(&mut self, out: &mut Output, write: impl FnOnce(&mut BytesMut)) {
        write(&mut self.block);
        self.data += 1;
        if self.block.len() >= self.options.sync_interval_bytes {
            self.end_block(out);
        }
    }
    /// Ends the block; without effect if it is empty.
    pub fn end_block(&mut self, out: &mut Output) {
        if self.data == 0 {
            return;
        }
        let room = self.block.len();
        let block = self.block.split().freeze();
        let packed = match self.options.packing {
            Packing::Null => block,
            packing => Bytes::from(packing.pack(&block).into_owned()),
        };
        self.block.reserve(room);
        let mut head = BytesMut::with_capacity(20);
        put_long(&mut head, self.data.cast_signed());
        put_long(&mut head, packed.len() as i64);
        out.put(&head);
        out.share(packed);
        out.put(&self.marker);
        self.data = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::testing;

    #[test]
    fn options() {
        let read = |lines: &str| testing::parse(Kind::Sink, lines, parse);
        assert_eq!(read("").0, Some(Options { sync_interval_bytes: 2_048_000, packing: Packing::Null }));
        assert_eq!(read("compressionCodec = snappy").0.unwrap().packing, Packing::Snappy);
        let (config, complaints) = read("compressionCodec = lzma");
        assert_eq!(config.unwrap().packing, Packing::Null);
        assert!(
            complaints[0].starts_with("warning: a1.sinks.x1.compressionCodec = \"lzma\""),
            "{complaints:?}"
        );
        assert_eq!(read("syncIntervalBytes = 0").0, None);
        assert_eq!(read("syncIntervalBytes = many").0, None);
    }

    #[test]
    fn a_block_ends_at_the_interval_and_when_told() {
        let mut container =
            Container::new(Options { sync_interval_bytes: 32, packing: Packing::Null }, [7, 7]);
        let mut out = Output::default();
        for _ in 0..3 {
            container.datum(&mut out, |block| block.extend_from_slice(&[b'x'; 20]));
        }
        // Two data of 20 bytes are a block; the third waits.
        assert_eq!(out.len(), 1 + 1 + 40 + 16);
        container.end_block(&mut out);
        container.end_block(&mut out);
        assert_eq!(out.len(), 58 + 1 + 1 + 20 + 16);
    }
}
