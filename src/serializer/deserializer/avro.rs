//! `AVRO`: one event per datum of an Avro container file.
//!
//! Flume: `org.apache.flume.serialization.AvroEventDeserializer`. The body is the datum in binary form; a
//! header says its schema, by fingerprint or in full.

use std::borrow::Cow;
use std::io::Read;

use super::avro_schema::{Schema, bytes, long};
use super::{BadFile, Deserializer, Place};
use crate::event::BatchBuilder;

/// How the schema is given to events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaHeader {
    /// `flume.avro.schema.hash`: its fingerprint.
    Hash,
    /// `flume.avro.schema.literal`: its text.
    Literal,
}

/// Bytes of one block, packed and unpacked: containers are written with blocks of 16 to 64 KiB or a few MiB.
const BLOCK_BYTES_MAX: usize = 64 * 1024 * 1024;
const MAGIC: &[u8] = b"Obj\x01";
const SYNC_BYTES: usize = 16;

/// How blocks are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codec {
    Null,
    Deflate,
    Snappy,
    Zstandard,
}

/// Reads one container.
#[derive(Debug)]
pub struct Container {
    schema: Schema,
    codec: Codec,
    sync: [u8; SYNC_BYTES],
    header_size: u64,
    header: (&'static str, String),
}

impl Container {
    /// For a file that begins with these bytes.
    ///
    /// # Errors
    /// It is no container, or one with an unknown codec or schema.
    pub fn begin(kind: SchemaHeader, first: &[u8]) -> Result<Self, BadFile> {
        let cut_off = || BadFile("its Avro header is cut off or longer than 1 MiB".to_owned());
        let mut rest =
            first.strip_prefix(MAGIC).ok_or_else(|| BadFile("not an Avro container file".to_owned()))?;
        let (mut schema, mut codec) = (None, Codec::Null);
        loop {
            let (mut count, after) = long(rest).ok_or_else(cut_off)?;
            rest = after;
            if count == 0 {
                break;
            }
            if count < 0 {
                // With the block's size in bytes.
                rest = long(rest).ok_or_else(cut_off)?.1;
                count = count.saturating_neg();
            }
            for _ in 0..count {
                let (key, after) = bytes(rest).ok_or_else(cut_off)?;
                let (value, after) = bytes(after).ok_or_else(cut_off)?;
                rest = after;
                match key {
                    b"avro.schema" => schema = Some(value),
                    b"avro.codec" => {
                        codec = match value {
                            b"null" => Codec::Null,
                            b"deflate" => Codec::Deflate,
                            b"snappy" => Codec::Snappy,
                            b"zstandard" => Codec::Zstandard,
                            other => {
                                let other = String::from_utf8_lossy(other);
                                return Err(BadFile(format!(
                                    "its blocks are packed with {other}; null, deflate, snappy and zstandard can be read"
                                )));
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        let (sync, after) = rest.split_first_chunk::<SYNC_BYTES>().ok_or_else(cut_off)?;
        let text = schema.and_then(|s| std::str::from_utf8(s).ok());
        let text = text.ok_or_else(|| BadFile("its Avro header has no schema".to_owned()))?;
        let schema = Schema::parse(text)?;
        let header = match kind {
            SchemaHeader::Hash => ("flume.avro.schema.hash", schema.fingerprint()),
            SchemaHeader::Literal => ("flume.avro.schema.literal", text.to_owned()),
        };
        let header_size = (first.len() - after.len()) as u64;
        Ok(Self { schema, codec, sync: *sync, header_size, header })
    }

    fn unpack<'a>(&self, packed: &'a [u8], offset: u64) -> Result<Cow<'a, [u8]>, BadFile> {
        let damaged = |what: &str| BadFile(format!("its block at byte {offset} is damaged: {what}"));
        let read = |from: &mut dyn Read| {
            let mut data = Vec::new();
            from.take(BLOCK_BYTES_MAX as u64 + 1)
                .read_to_end(&mut data)
                .map_err(|e| damaged(&e.to_string()))?;
            if data.len() > BLOCK_BYTES_MAX {
                return Err(damaged("more than 64 MiB unpacked"));
            }
            Ok(Cow::Owned(data))
        };
        match self.codec {
            Codec::Null => Ok(Cow::Borrowed(packed)),
            Codec::Deflate => read(&mut flate2::read::DeflateDecoder::new(packed)),
            Codec::Zstandard => read(&mut zstd::Decoder::new(packed).map_err(|e| damaged(&e.to_string()))?),
            Codec::Snappy => {
                let (packed, crc) = packed.split_last_chunk::<4>().ok_or_else(|| damaged("too short"))?;
                let size = snap::raw::decompress_len(packed).map_err(|e| damaged(&e.to_string()))?;
                if size > BLOCK_BYTES_MAX {
                    return Err(damaged("more than 64 MiB unpacked"));
                }
                let data =
                    snap::raw::Decoder::new().decompress_vec(packed).map_err(|e| damaged(&e.to_string()))?;
                if crc32fast::hash(&data) != u32::from_be_bytes(*crc) {
                    return Err(damaged("checksum"));
                }
                Ok(Cow::Owned(data))
            }
        }
    }
}

impl Deserializer for Container {
    fn start(&self) -> Place {
        Place { offset: self.header_size, inner: 0 }
    }
    fn window_max(&self) -> usize {
        BLOCK_BYTES_MAX
    }
    fn cut(
        &mut self,
        window: &[u8],
        mut place: Place,
        at_end: bool,
        batch: &mut BatchBuilder,
        places: &mut Vec<Place>,
    ) -> Result<(), BadFile> {
        batch.common_mut().insert(self.header.0, self.header.1.as_str());
        let mut rest = window;
        while !rest.is_empty() {
            let whole = || {
                let (count, rest) = long(rest)?;
                let (packed, rest) = bytes(rest)?;
                let (sync, rest) = rest.split_first_chunk::<SYNC_BYTES>()?;
                Some((count, packed, sync, rest))
            };
            let Some((count, packed, sync, after)) = whole() else {
                if at_end {
                    return Err(BadFile(format!("it ends within the block at byte {}", place.offset)));
                }
                return Ok(());
            };
            if *sync != self.sync {
                return Err(BadFile(format!("its block at byte {} is damaged: sync marker", place.offset)));
            }
            let data = self.unpack(packed, place.offset)?;
            let mut data: &[u8] = &data;
            let behind = Place { offset: place.offset + (rest.len() - after.len()) as u64, inner: 0 };
            let count = u32::try_from(count)
                .map_err(|_| BadFile(format!("its block at byte {} is damaged: count", place.offset)))?;
            for index in 0..count {
                let Some(next) = self.schema.skip(data) else {
                    return Err(BadFile(format!(
                        "its block at byte {} is damaged: event {index}",
                        place.offset
                    )));
                };
                if index >= place.inner {
                    batch.push(data.get(..data.len() - next.len()).unwrap_or_default());
                    let inner = Place { offset: place.offset, inner: index + 1 };
                    places.push(if index + 1 == count { behind } else { inner });
                }
                data = next;
            }
            place = behind;
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"{"type":"record","name":"R","fields":[{"name":"s","type":"string"}]}"#;

    fn put_long(value: usize, out: &mut Vec<u8>) {
        let mut value = value << 1;
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
    fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
        put_long(bytes.len(), out);
        out.extend_from_slice(bytes);
    }
    fn container(codec: &str, pack: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        put_long(2, &mut file);
        for (key, value) in [("avro.schema", SCHEMA), ("avro.codec", codec)] {
            put_bytes(key.as_bytes(), &mut file);
            put_bytes(value.as_bytes(), &mut file);
        }
        put_long(0, &mut file);
        file.extend_from_slice(&[7; SYNC_BYTES]);
        for block in [&["a", "bc"][..], &["d"]] {
            let mut data = Vec::new();
            block.iter().for_each(|s| put_bytes(s.as_bytes(), &mut data));
            put_long(block.len(), &mut file);
            put_bytes(&pack(&data), &mut file);
            file.extend_from_slice(&[7; SYNC_BYTES]);
        }
        file
    }
    fn cut(
        container: &mut Container,
        file: &[u8],
        place: Place,
        at_end: bool,
    ) -> (crate::event::EventBatch, Vec<Place>, Option<BadFile>) {
        let (mut batch, mut places) = (BatchBuilder::default(), Vec::new());
        let window = &file[place.offset as usize..];
        let problem = container.cut(window, place, at_end, &mut batch, &mut places).err();
        (batch.finish(), places, problem)
    }

    #[test]
    fn every_codec_gives_the_same_events() {
        let snappy = |data: &[u8]| {
            let mut packed = snap::raw::Encoder::new().compress_vec(data).unwrap();
            packed.extend_from_slice(&crc32fast::hash(data).to_be_bytes());
            packed
        };
        let deflate = |data: &[u8]| {
            let mut packed = Vec::new();
            flate2::read::DeflateEncoder::new(data, flate2::Compression::default())
                .read_to_end(&mut packed)
                .unwrap();
            packed
        };
        for file in [
            container("null", <[u8]>::to_vec),
            container("deflate", deflate),
            container("snappy", snappy),
            container("zstandard", |data| zstd::encode_all(data, 1).unwrap()),
        ] {
            let mut reader = Container::begin(SchemaHeader::Literal, &file).unwrap();
            let start = reader.start();
            let (batch, places, problem) = cut(&mut reader, &file, start, true);
            assert_eq!(problem, None);
            assert_eq!(batch.bodies().collect::<Vec<_>>(), [&b"\x02a"[..], b"\x04bc", b"\x02d"]);
            assert_eq!(batch.header(2, "flume.avro.schema.literal"), Some(SCHEMA));
            assert_eq!(places[0], Place { offset: start.offset, inner: 1 });
            assert_eq!(places[2], Place { offset: file.len() as u64, inner: 0 });
            // Every place is one to go on from.
            for (index, place) in places.iter().enumerate() {
                assert_eq!(cut(&mut reader, &file, *place, true).0.len(), 2 - index);
            }
        }
    }

    #[test]
    fn the_hash_is_the_fingerprint() {
        let file = container("null", <[u8]>::to_vec);
        let mut reader = Container::begin(SchemaHeader::Hash, &file).unwrap();
        let start = reader.start();
        let hash = Schema::parse(SCHEMA).unwrap().fingerprint();
        let batch = cut(&mut reader, &file, start, true).0;
        assert_eq!(batch.header(0, "flume.avro.schema.hash"), Some(hash.as_str()));
    }

    #[test]
    fn damage_is_named() {
        let file = container("null", <[u8]>::to_vec);
        for size in 0..file.len() {
            // A cut file gives whole events and then a reason, or waits for more.
            if let Ok(mut reader) = Container::begin(SchemaHeader::Hash, &file[..size]) {
                let start = reader.start();
                let (_, _, waiting) = cut(&mut reader, &file[..size], start, false);
                assert_eq!(waiting, None);
                cut(&mut reader, &file[..size], start, true);
            }
        }
        let problem = |file: &[u8]| Container::begin(SchemaHeader::Hash, file).unwrap_err().0;
        assert_eq!(problem(b"hello"), "not an Avro container file");
        assert!(problem(&container("lzo", <[u8]>::to_vec)).contains("packed with lzo"));
        let mut flipped = file.clone();
        *flipped.last_mut().unwrap() = 0;
        let mut reader = Container::begin(SchemaHeader::Hash, &flipped).unwrap();
        let start = reader.start();
        let (batch, _, problem) = cut(&mut reader, &flipped, start, true);
        assert_eq!(batch.len(), 2);
        assert!(problem.unwrap().0.contains("sync marker"));
    }
}
