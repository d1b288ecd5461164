//! `AVRO`: one event per datum of an Avro container file.
//!
//! Flume: `org.apache.flume.serialization.AvroEventDeserializer`. The body is the datum in binary form; a
//! header says its schema, by fingerprint or in full.

use std::borrow::Cow;

use super::{BadFile, Deserializer, Place};
use crate::codec::avro::packing::{MAGIC, Packing, SYNC_BYTES};
use crate::codec::avro::schema::{Schema, bytes, long};
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

/// Bodies of one cut: a block of a few KiB may hold 64 MiB when it is unpacked, and a window many of those.
const CUT_BYTES: usize = 8 * 1024 * 1024;
/// Events of one cut: with 20 bytes of offsets and places each, 5 MiB.
const CUT_EVENTS: usize = 1 << 18;
/// Events of one block that may have no bytes at all, such as those of the schema `null`.
const EMPTY_EVENTS_MAX: u64 = 1 << 20;

/// A block that is not read to its end.
#[derive(Debug)]
struct Rest {
    /// Where the block begins in the file.
    offset: u64,
    /// Events read of it, and the byte of the unpacked block behind them.
    events: u32,
    at: usize,
    /// The unpacked block, unless it stands in the file as it is.
    data: Vec<u8>,
}

/// Reads one container.
#[derive(Debug)]
pub struct Container {
    rest: Option<Rest>,
    schema: Schema,
    packing: Packing,
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
        let (mut schema, mut packing) = (None, Packing::Null);
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
                        packing = Packing::ALL
                            .into_iter()
                            .find(|p| p.name().as_bytes() == value)
                            .ok_or_else(|| {
                                let value = String::from_utf8_lossy(value);
                                BadFile(format!(
                                    "its blocks are packed with {value}; {} can be read",
                                    Packing::LIST
                                ))
                            })?;
                    }
                    _ => {}
                }
            }
        }
        let (sync, after) = rest.split_first_chunk::<SYNC_BYTES>().ok_or_else(cut_off)?;
        let text = schema.and_then(|s| std::str::from_utf8(s).ok());
        let text = text.ok_or_else(|| BadFile("its Avro header has no schema".to_owned()))?;
        let schema =
            Schema::parse(text).map_err(|e| BadFile(format!("its Avro schema cannot be used: {e}")))?;
        let header = match kind {
            SchemaHeader::Hash => ("flume.avro.schema.hash", schema.fingerprint()),
            SchemaHeader::Literal => ("flume.avro.schema.literal", text.to_owned()),
        };
        let header_size = (first.len() - after.len()) as u64;
        Ok(Self { rest: None, schema, packing, sync: *sync, header_size, header })
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
            let damaged =
                |what: &str| BadFile(format!("its block at byte {} is damaged: {what}", place.offset));
            let known = self.rest.take().filter(|r| r.offset == place.offset && r.events == place.inner);
            let (data, first, mut at) = match known {
                Some(known) if self.packing == Packing::Null => {
                    (Cow::Borrowed(packed), known.events, known.at)
                }
                Some(known) => (Cow::Owned(known.data), known.events, known.at),
                None => {
                    let data =
                        self.packing.unpack(packed, BLOCK_BYTES_MAX).map_err(|problem| damaged(&problem))?;
                    (data, 0, 0)
                }
            };
            let behind = Place { offset: place.offset + (rest.len() - after.len()) as u64, inner: 0 };
            let count = u32::try_from(count).map_err(|_| damaged("count"))?;
            if u64::from(count) > data.len() as u64 + EMPTY_EVENTS_MAX {
                return Err(damaged(&format!("{count} events in {} bytes", data.len())));
            }
            for index in first..count {
                let left = data.get(at..).unwrap_or_default();
                let Some(next) = self.schema.skip(left) else {
                    return Err(damaged(&format!("event {index}")));
                };
                let size = left.len() - next.len();
                if index >= place.inner {
                    if batch.area_bytes() >= CUT_BYTES || places.len() >= CUT_EVENTS {
                        let data = if self.packing == Packing::Null { Vec::new() } else { data.into_owned() };
                        self.rest = Some(Rest { offset: place.offset, events: index, at, data });
                        return Ok(());
                    }
                    batch.push(left.get(..size).unwrap_or_default());
                    let inner = Place { offset: place.offset, inner: index + 1 };
                    places.push(if index + 1 == count { behind } else { inner });
                }
                at += size;
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
        for packing in Packing::ALL {
            let file = container(packing.name(), |data| packing.pack(data).into_owned());
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
    /// Cuts again and again as a source does; the events, and how many cuts it took.
    fn cut_all(file: &[u8]) -> Result<(usize, usize, usize), BadFile> {
        let mut reader = Container::begin(SchemaHeader::Hash, file)?;
        let (mut place, mut events, mut largest, mut cuts) = (reader.start(), 0, 0, 0);
        while place.offset < file.len() as u64 {
            let (batch, places, problem) = cut(&mut reader, file, place, true);
            assert_eq!(batch.len(), places.len());
            if let Some(problem) = problem {
                return Err(problem);
            }
            (events, largest, cuts) = (events + batch.len(), largest.max(batch.area().0.len()), cuts + 1);
            place = *places.last().unwrap();
        }
        Ok((events, largest, cuts))
    }

    #[test]
    fn a_small_file_of_large_blocks_is_read_in_portions() {
        let event = [&[0x80, 0x80, 0x08][..], &[b'x'; 64 * 1024]].concat();
        for packing in [Packing::Null, Packing::Zstandard, Packing::Deflate] {
            let file = blocks(SCHEMA, packing, &[(300, event.repeat(300)), (200, event.repeat(200))]);
            let (events, largest, cuts) = cut_all(&file).unwrap();
            assert_eq!((events, cuts), (500, 4), "{packing:?}");
            assert!(largest < CUT_BYTES + 2 * event.len(), "{largest}");
        }
        let tiny = blocks(SCHEMA, Packing::Zstandard, &[(1 << 20, vec![0; 1 << 20])]);
        assert_eq!(cut_all(&tiny).map(|(events, _, cuts)| (events, cuts)), Ok((1 << 20, 4)));
    }

    #[test]
    fn events_out_of_nothing_are_bounded() {
        let nulls = blocks("\"null\"", Packing::Null, &[(1000, Vec::new())]);
        assert_eq!(cut_all(&nulls).map(|(events, ..)| events), Ok(1000));
        let many = blocks("\"null\"", Packing::Null, &[(i64::from(u32::MAX), Vec::new())]);
        let problem = cut_all(&many).unwrap_err().0;
        assert!(problem.contains("4294967295 events in 0 bytes"), "{problem}");
    }

    /// A container of blocks with these counts and contents.
    fn blocks(schema: &str, packing: Packing, blocks: &[(i64, Vec<u8>)]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        put_long(2, &mut file);
        for (key, value) in [("avro.schema", schema), ("avro.codec", packing.name())] {
            put_bytes(key.as_bytes(), &mut file);
            put_bytes(value.as_bytes(), &mut file);
        }
        put_long(0, &mut file);
        file.extend_from_slice(&[7; SYNC_BYTES]);
        for (count, data) in blocks {
            put_long(*count as usize, &mut file);
            put_bytes(&packing.pack(data), &mut file);
            file.extend_from_slice(&[7; SYNC_BYTES]);
        }
        file
    }
}
