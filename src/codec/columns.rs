//! A batch by columns, for the way from one Millrace to another: no event is touched on either side.
//!
//! ```text
//! version u8 = 1 · flags u8 · size of the columns in bytes u32 · columns (zstd if flag 4)
//! flags   1 = bodies are followed by a line feed, 2 = events have headers of their own, 4 = zstd
//! columns events u32 · bytes of bodies u32 · of events' own headers u32 · of common headers u32
//!         · end of each body, u32 each · end of each event's headers, u32 each (flag 2)
//!         · common headers · events' own headers · bodies
//! ```
//! Integers are little-endian. Headers are encoded as in [`EventHeaders`]. Marks stay behind: they belong to
//! the channel of the sender.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::event::{EventBatch, EventHeaders, EventHeadersBuilder, Headers, Separator};

const VERSION: u8 = 1;
const NEWLINE: u8 = 1;
const EACH: u8 = 2;
const ZSTD: u8 = 4;
/// Compression level: 1 costs about a third of deflate 1 and compresses better.
const LEVEL: i32 = 1;
/// Smaller columns are not worth a compressor's start.
const COMPRESS_MIN: usize = 256;

/// Writes batches; keeps its compressor.
#[derive(Default)]
pub struct ColumnsEncoder {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    plain: BytesMut,
}

impl ColumnsEncoder {
    /// Appends a batch.
    ///
    /// # Errors
    /// What the compressor says (out of memory).
    pub fn put(&mut self, out: &mut BytesMut, batch: &EventBatch, compress: bool) -> std::io::Result<()> {
        let (_, _, separator) = batch.area();
        let mut flags = if separator == Separator::Newline { NEWLINE } else { 0 };
        if batch.each().is_some() {
            flags |= EACH;
        }
        let parts = Columns::of(batch);
        let size = parts.size();
        let compress = compress && size >= COMPRESS_MIN;
        out.put_slice(&[VERSION, if compress { flags | ZSTD } else { flags }]);
        out.put_u32_le(size as u32);
        if compress {
            self.plain.clear();
            let columns = &mut self.plain;
            parts.put(columns);
            let zstd = match &mut self.zstd {
                Some(zstd) => zstd,
                slot => slot.insert(zstd::bulk::Compressor::new(LEVEL)?),
            };
            let start = out.len();
            out.resize(start + zstd::zstd_safe::compress_bound(size), 0);
            let target = out.get_mut(start..).unwrap_or_default();
            let written = zstd.compress_to_buffer(columns.as_ref(), target)?;
            out.truncate(start + written);
        } else {
            parts.put(out);
        }
        // A rare giant is not worth keeping.
        if self.plain.capacity() > 4 << 20 {
            self.plain = BytesMut::new();
        }
        Ok(())
    }
}

/// The columns of a batch, as they lie in it.
struct Columns<'a> {
    ends: &'a [u32],
    each_ends: &'a [u32],
    common: Option<EventHeaders>,
    each: &'a [u8],
    bodies: &'a [u8],
}

impl<'a> Columns<'a> {
    fn of(batch: &'a EventBatch) -> Self {
        let (bodies, ends, _) = batch.area();
        let mut common = EventHeadersBuilder::default();
        batch.common().iter().for_each(|(k, v)| common.header(k, v));
        common.end_event();
        let (each, each_ends) = batch.each().map_or((&[][..], &[][..]), |e| {
            let (encoded, ends) = e.as_encoded();
            (&encoded[..], ends)
        });
        Self { ends, each_ends, common: common.finish(), each, bodies }
    }
    fn common(&self) -> &[u8] {
        self.common.as_ref().map_or(&[][..], |c| c.as_encoded().0)
    }
    fn size(&self) -> usize {
        let ends = 4 * (self.ends.len() + self.each_ends.len());
        16 + ends + self.common().len() + self.each.len() + self.bodies.len()
    }
    fn put(&self, out: &mut BytesMut) {
        out.reserve(self.size());
        let common = self.common();
        for size in [self.ends.len(), self.bodies.len(), self.each.len(), common.len()] {
            out.put_u32_le(size as u32);
        }
        self.ends.iter().chain(self.each_ends).for_each(|end| out.put_u32_le(*end));
        out.put_slice(common);
        out.put_slice(self.each);
        out.put_slice(self.bodies);
    }
}

/// Reads batches; keeps its decompressor.
#[derive(Default)]
pub struct ColumnsDecoder {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl ColumnsDecoder {
    /// Reads a batch. Its bodies and headers share `bytes` unless it was compressed.
    ///
    /// # Errors
    /// What is wrong with the bytes; `limit` bounds the size of the columns.
    pub fn read(&mut self, mut bytes: Bytes, limit: usize) -> Result<EventBatch, String> {
        if bytes.len() < 6 {
            return Err("columns cut short".to_owned());
        }
        let (version, flags, size) = (bytes.get_u8(), bytes.get_u8(), bytes.get_u32_le() as usize);
        if version != VERSION {
            return Err(format!("columns of version {version}, this release knows {VERSION}"));
        }
        if flags & !(NEWLINE | EACH | ZSTD) != 0 {
            return Err(format!("columns with unknown flags {flags:#x}"));
        }
        if size > limit {
            return Err(format!("columns of {size} bytes, at most {limit} are accepted"));
        }
        if flags & ZSTD != 0 {
            let zstd = match &mut self.zstd {
                Some(zstd) => zstd,
                slot => {
                    slot.insert(zstd::bulk::Decompressor::new().map_err(|e| format!("no decompressor: {e}"))?)
                }
            };
            let plain = zstd.decompress(&bytes, size).map_err(|e| format!("damaged zstd block: {e}"))?;
            bytes = Bytes::from(plain);
        }
        if bytes.len() != size {
            return Err(format!("columns of {} bytes, {size} were announced", bytes.len()));
        }
        read_columns(bytes, flags).ok_or_else(|| "columns that contradict themselves".to_owned())
    }
}

fn read_columns(mut bytes: Bytes, flags: u8) -> Option<EventBatch> {
    if bytes.len() < 16 {
        return None;
    }
    let [events, bodies_size, each_size, common_size] = std::array::from_fn(|_| bytes.get_u32_le() as usize);
    let has_each = flags & EACH != 0;
    let ends_size = events.checked_mul(4)?;
    let all = ends_size
        .checked_mul(if has_each { 2 } else { 1 })?
        .checked_add(bodies_size)?
        .checked_add(each_size)?
        .checked_add(common_size)?;
    if all != bytes.len() || (!has_each && each_size > 0) {
        return None;
    }
    let mut ends = || -> Vec<u32> {
        let column = bytes.split_to(ends_size);
        column.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap_or_default())).collect()
    };
    let body_ends = ends();
    let each_ends = has_each.then(&mut ends);
    let common = EventHeaders::from_encoded(bytes.split_to(common_size), vec![common_size as u32])?;
    let each = match each_ends {
        Some(each_ends) => Some(EventHeaders::from_encoded(bytes.split_to(each_size), each_ends)?),
        None => None,
    };
    let separator = if flags & NEWLINE != 0 { Separator::Newline } else { Separator::None };
    let mut batch = EventBatch::from_parts(bytes, body_ends, separator)?;
    *batch.common_mut() = common.iter(0).collect::<Headers>();
    batch.set_each(each);
    Some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::BatchBuilder;
    use proptest::prelude::*;

    fn sample(events: usize, each: bool, separator: Separator) -> EventBatch {
        let mut b = BatchBuilder::new(separator);
        for i in 0..events {
            b.push(format!("line {i} of a log that repeats itself").as_bytes());
            if each && i % 3 == 1 {
                b.header("n", &i.to_string());
            }
        }
        b.common_mut().insert("host", "web1");
        b.finish()
    }
    fn encode(batch: &EventBatch, compress: bool) -> Bytes {
        let mut out = BytesMut::new();
        ColumnsEncoder::default().put(&mut out, batch, compress).unwrap();
        out.freeze()
    }
    fn read(bytes: Bytes, limit: usize) -> Result<EventBatch, String> {
        ColumnsDecoder::default().read(bytes, limit)
    }

    #[test]
    fn batches_come_back() {
        for compress in [false, true] {
            for events in [0, 1, 500] {
                for each in [false, true] {
                    for separator in [Separator::None, Separator::Newline] {
                        let batch = sample(events, each, separator);
                        let back = read(encode(&batch, compress), 1 << 20).unwrap();
                        assert_eq!(back.len(), events);
                        for i in 0..events {
                            assert_eq!(back.body(i), batch.body(i));
                            assert_eq!(
                                back.headers(i).collect::<Vec<_>>(),
                                batch.headers(i).collect::<Vec<_>>()
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_part_of_a_batch_travels_alone() {
        let mut batch = sample(10, true, Separator::Newline);
        batch.split_to(4);
        let back = read(encode(&batch, true), 1 << 20).unwrap();
        assert_eq!((back.len(), back.body(0), back.header(0, "n")), (6, batch.body(0), Some("4")));
    }

    #[test]
    fn bombs_and_lies_are_refused() {
        let bomb = {
            let mut b = BatchBuilder::default();
            b.push(&vec![0; 10 << 20]);
            encode(&b.finish(), true)
        };
        assert!(bomb.len() < 10_000);
        assert!(read(bomb.clone(), 1 << 20).unwrap_err().contains("at most 1048576"));
        let mut lie = bomb.to_vec();
        lie[2..6].copy_from_slice(&1000u32.to_le_bytes());
        assert!(read(Bytes::from(lie), 1 << 20).unwrap_err().contains("zstd"));
        let plain = encode(&sample(5, true, Separator::None), false);
        for cut in 0..plain.len() {
            assert!(read(plain.slice(..cut), 1 << 20).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_flipped_byte_is_read_or_refused(place in 0usize..200, bits in 1u8..) {
            let mut bytes = encode(&sample(5, true, Separator::Newline), false).to_vec();
            let size = bytes.len();
            bytes[place % size] ^= bits;
            if let Ok(batch) = read(Bytes::from(bytes), 1 << 16) {
                for i in 0..batch.len() {
                    let _ = (batch.body(i), batch.headers(i).count());
                }
            }
        }
    }
}
