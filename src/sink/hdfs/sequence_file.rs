//! Hadoop's SequenceFile, version 6: what Flume writes unless told otherwise.
//!
//! Key: `LongWritable`, the event's time in milliseconds. Value: `BytesWritable` or `Text`, the body. Without a
//! codec one record after the other, with a marker every 100 KiB and at each flush; with a codec blocks of
//! about 1 MB: keys and values gathered and compressed apart.
//! Hadoop: `org.apache.hadoop.io.SequenceFile`. Flume: `HDFSSequenceFile`, `HDFSWritableSerializer`.

use crate::codec::escape::TIMESTAMP;
use crate::codec::hadoop_codec::HadoopCodec;
use crate::event::EventBatch;
use crate::serializer::output::Output;

/// `hdfs.writeFormat`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteFormat {
    /// Values are `BytesWritable`.
    Writable,
    /// Values are `Text`, with the body's bytes as they are.
    Text,
}

/// Bytes between two markers (Hadoop: `SequenceFile.SYNC_INTERVAL`).
const SYNC_INTERVAL: u64 = 100 * 1024;
/// Keys and values of one block (Hadoop: `io.seqfile.compress.blocksize`).
const BLOCK_BYTES: usize = 1_000_000;
/// Stands where a record's length would.
const ESCAPE: [u8; 4] = (-1i32).to_be_bytes();

/// Writes one file.
pub struct SequenceFile {
    values: WriteFormat,
    codec: Option<HadoopCodec>,
    marker: [u8; 16],
    /// Bytes of the file so far, and where the last marker ended.
    position: u64,
    marked: u64,
    record: Vec<u8>,
    block: Block,
}

#[derive(Default)]
struct Block {
    records: i64,
    key_sizes: Vec<u8>,
    keys: Vec<u8>,
    value_sizes: Vec<u8>,
    values: Vec<u8>,
}

impl SequenceFile {
    /// A writer with a marker of its own.
    pub fn new(values: WriteFormat, codec: Option<HadoopCodec>, random: [u64; 2]) -> Self {
        let mut marker = [0; 16];
        marker[..8].copy_from_slice(&random[0].to_le_bytes());
        marker[8..].copy_from_slice(&random[1].to_le_bytes());
        Self { values, codec, marker, position: 0, marked: 0, record: Vec::new(), block: Block::default() }
    }

    fn put(&mut self, bytes: &[u8], out: &mut Output) {
        out.put(bytes);
        self.position += bytes.len() as u64;
    }
    fn mark(&mut self, out: &mut Output) {
        if self.marked != self.position {
            let marker = self.marker;
            self.put(&ESCAPE, out);
            self.put(&marker, out);
            self.marked = self.position;
        }
    }

    /// Start of the file.
    pub fn begin(&mut self, out: &mut Output) {
        let mut head = b"SEQ\x06".to_vec();
        let value_class = match self.values {
            WriteFormat::Writable => "org.apache.hadoop.io.BytesWritable",
            WriteFormat::Text => "org.apache.hadoop.io.Text",
        };
        put_text(&mut head, b"org.apache.hadoop.io.LongWritable");
        put_text(&mut head, value_class.as_bytes());
        // Compressed, and in blocks.
        head.extend([u8::from(self.codec.is_some()); 2]);
        if let Some(codec) = self.codec {
            put_text(&mut head, codec.class().as_bytes());
        }
        // No metadata.
        head.extend(0u32.to_be_bytes());
        head.extend(self.marker);
        self.put(&head, out);
    }

    /// Appends events `from..to`.
    pub fn append(&mut self, batch: &EventBatch, from: usize, to: usize, unix_ms: i64, out: &mut Output) {
        for index in from..to {
            let stamp = batch.header(index, TIMESTAMP).and_then(|text| text.parse::<i64>().ok());
            let key = stamp.unwrap_or(unix_ms).to_be_bytes();
            let body = batch.body(index);
            if self.codec.is_some() {
                let before = self.block.values.len();
                put_value(self.values, &mut self.block.values, body);
                let size = self.block.values.len() - before;
                put_vlong(&mut self.block.key_sizes, key.len() as i64);
                self.block.keys.extend(key);
                put_vlong(&mut self.block.value_sizes, size as i64);
                self.block.records += 1;
                if self.block.keys.len() + self.block.values.len() >= BLOCK_BYTES {
                    self.end_block(out);
                }
                continue;
            }
            if self.position >= self.marked + SYNC_INTERVAL {
                self.mark(out);
            }
            let mut record = std::mem::take(&mut self.record);
            record.clear();
            record.extend([0; 4]);
            record.extend((key.len() as u32).to_be_bytes());
            record.extend(key);
            put_value(self.values, &mut record, body);
            let size = (record.len() - 8) as u32;
            record[..4].copy_from_slice(&size.to_be_bytes());
            self.put(&record, out);
            self.record = record;
        }
    }

    fn end_block(&mut self, out: &mut Output) {
        let Some(codec) = self.codec else { return };
        if self.block.records == 0 {
            return;
        }
        self.mark(out);
        let block = std::mem::take(&mut self.block);
        let mut bytes = Vec::new();
        put_vlong(&mut bytes, block.records);
        for part in [&block.key_sizes, &block.keys, &block.value_sizes, &block.values] {
            let packed = codec.compress(&[part]);
            put_vlong(&mut bytes, packed.len() as i64);
            bytes.extend(packed);
        }
        self.put(&bytes, out);
    }

    /// Writes out what is gathered, and a marker.
    pub fn flush(&mut self, out: &mut Output) {
        match self.codec {
            Some(_) => self.end_block(out),
            None => self.mark(out),
        }
    }
}

fn put_value(values: WriteFormat, out: &mut Vec<u8>, body: &[u8]) {
    match values {
        WriteFormat::Writable => out.extend((body.len() as u32).to_be_bytes()),
        WriteFormat::Text => put_vlong(out, body.len() as i64),
    }
    out.extend_from_slice(body);
}
fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_vlong(out, text.len() as i64);
    out.extend_from_slice(text);
}

/// Hadoop: `WritableUtils.writeVLong`. One byte for -112 to 127, else sign and number of bytes in the first.
fn put_vlong(out: &mut Vec<u8>, value: i64) {
    if (-112..=127).contains(&value) {
        return out.push(value as u8);
    }
    let (bits, base) = if value < 0 { (!value, -120) } else { (value, -112) };
    let bytes = bits.to_be_bytes();
    let skip = bits.leading_zeros() as usize / 8;
    let count = 8 - skip;
    out.push((base - count as i64) as u8);
    out.extend(&bytes[skip..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{BatchBuilder, Headers, Separator};

    #[test]
    fn lengths_are_hadoops() {
        let table: &[(i64, &[u8])] = &[
            (0, &[0]),
            (127, &[127]),
            (-112, &[0x90]),
            (128, &[0x8f, 0x80]),
            (255, &[0x8f, 0xff]),
            (256, &[0x8e, 1, 0]),
            (-113, &[0x87, 0x70]),
            (1 << 20, &[0x8d, 0x10, 0, 0]),
        ];
        for (value, bytes) in table {
            let mut out = Vec::new();
            put_vlong(&mut out, *value);
            assert_eq!(out, *bytes, "{value}");
        }
    }

    #[test]
    fn records_byte_for_byte() {
        let batch = EventBatch::single([("timestamp", "5")].into_iter().collect::<Headers>(), "ab");
        for (values, class, value) in [
            (WriteFormat::Writable, "\u{22}org.apache.hadoop.io.BytesWritable", &b"\0\0\0\x02ab"[..]),
            (WriteFormat::Text, "\u{19}org.apache.hadoop.io.Text", &b"\x02ab"[..]),
        ] {
            let mut out = Output::default();
            let mut file = SequenceFile::new(values, None, [1, 2]);
            file.begin(&mut out);
            file.append(&batch, 0, 1, 9, &mut out);
            file.flush(&mut out);
            file.flush(&mut out);
            let marker = [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
            let mut expected =
                format!("SEQ\u{6}!org.apache.hadoop.io.LongWritable{class}\0\0\0\0\0\0").into_bytes();
            expected.extend(marker);
            expected.extend((8 + value.len() as u32).to_be_bytes());
            expected.extend(8u32.to_be_bytes());
            expected.extend(5i64.to_be_bytes());
            expected.extend(value);
            expected.extend(ESCAPE);
            expected.extend(marker);
            assert_eq!(out.take().concat(), expected);
        }
    }

    #[test]
    fn markers_come_often_enough_and_blocks_end() {
        let mut builder = BatchBuilder::new(Separator::None);
        (0..3000).for_each(|_| builder.push(&[b'x'; 1000]));
        let batch = builder.finish();
        for (codec, markers) in [(None, 30), (Some(HadoopCodec::Default), 3)] {
            let mut out = Output::default();
            let mut file = SequenceFile::new(WriteFormat::Writable, codec, [u64::MAX, 7]);
            file.begin(&mut out);
            file.append(&batch, 0, batch.len(), 9, &mut out);
            file.flush(&mut out);
            let bytes = out.take().concat();
            let mark: Vec<u8> = ESCAPE.iter().chain(&file.marker).copied().collect();
            let found = bytes.windows(mark.len()).filter(|w| *w == mark).count();
            assert!(found >= markers && found <= markers + 2, "{codec:?}: {found}");
        }
    }
}
