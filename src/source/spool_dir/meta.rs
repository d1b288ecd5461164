//! Flume's position file `.flumespool-main.meta`: an Avro container whose last record says how far the file
//! named in its header has been read.
//!
//! Written for Flume and for channels that keep no marks, a few times a second at most; marks are exact.

use bytes::{BufMut, Bytes, BytesMut};

const MAGIC: &[u8] = b"Obj\x01";
const SCHEMA: &str = r#"{"type":"record","name":"TransferStateFileMeta","namespace":"org.apache.flume.serialization","fields":[{"name":"offset","type":"long"}]}"#;
const SYNC_BYTES: usize = 16;

/// The container for a file and an offset.
pub fn write(file: &[u8], offset: u64, sync: [u8; SYNC_BYTES]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(MAGIC);
    put_long(2, &mut out);
    for (key, value) in [(&b"avro.schema"[..], SCHEMA.as_bytes()), (b"file", file)] {
        put_bytes(key, &mut out);
        put_bytes(value, &mut out);
    }
    put_long(0, &mut out);
    out.put_slice(&sync);
    let mut record = BytesMut::new();
    put_long(offset.cast_signed(), &mut record);
    put_long(1, &mut out);
    put_bytes(&record, &mut out);
    out.put_slice(&sync);
    out.freeze()
}

/// The file's name and the last offset. `None` if it is no such container; a torn last record is left out.
pub fn read(text: &[u8]) -> Option<(Vec<u8>, u64)> {
    let mut rest = text.strip_prefix(MAGIC)?;
    let mut file = None;
    loop {
        let (count, after) = long(rest)?;
        rest = after;
        if count == 0 {
            break;
        }
        if count < 0 {
            rest = long(rest)?.1;
        }
        for _ in 0..count.unsigned_abs() {
            let (key, after) = bytes(rest)?;
            let (value, after) = bytes(after)?;
            rest = after;
            if key == b"file" {
                file = Some(value.to_vec());
            }
        }
    }
    let (sync, mut rest) = rest.split_first_chunk::<SYNC_BYTES>()?;
    let mut offset = 0;
    while let Some((block, after)) = block(rest, sync) {
        let mut records = block;
        while let Some((value, next)) = long(records) {
            offset = u64::try_from(value).ok()?;
            records = next;
        }
        rest = after;
    }
    Some((file?, offset))
}

fn block<'a>(from: &'a [u8], sync: &[u8; SYNC_BYTES]) -> Option<(&'a [u8], &'a [u8])> {
    let (_, rest) = long(from)?;
    let (records, rest) = bytes(rest)?;
    let (found, rest) = rest.split_first_chunk::<SYNC_BYTES>()?;
    (found == sync).then_some((records, rest))
}

fn put_long(value: i64, out: &mut BytesMut) {
    let mut zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while zigzag >= 0x80 {
        out.put_u8(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.put_u8(zigzag as u8);
}

fn put_bytes(bytes: &[u8], out: &mut BytesMut) {
    put_long(bytes.len() as i64, out);
    out.put_slice(bytes);
}

fn long(from: &[u8]) -> Option<(i64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in from.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(((value >> 1).cast_signed() ^ -(value & 1).cast_signed(), from.get(index + 1..)?));
        }
    }
    None
}

fn bytes(from: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = long(from)?;
    rest.split_at_checked(usize::try_from(size).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for offset in [0, 1, 63, 64, 300, u64::from(u32::MAX) * 7] {
            assert_eq!(read(&write(b"/spool/a", offset, [9; 16])), Some((b"/spool/a".to_vec(), offset)));
        }
    }

    #[test]
    fn the_last_whole_record_counts() {
        let first = write(b"/a", 5, [9; 16]);
        let header = first.len() - 3 - SYNC_BYTES;
        let mut two = first.to_vec();
        two.extend_from_slice(&write(b"/a", 7, [9; 16])[header..]);
        assert_eq!(read(&two), Some((b"/a".to_vec(), 7)));
        assert_eq!(read(&two[..two.len() - 1]), Some((b"/a".to_vec(), 5)));
        for size in 0..header {
            assert_eq!(read(&two[..size]), None);
        }
    }
}
