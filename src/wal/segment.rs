//! Segments: the files of the log, each with a header block, frames, and a footer block once it is sealed.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use super::frame::{put_u32, put_u64, u32_at, u64_at};
use crate::io::buffer::{BLOCK, PooledBuf};
use crate::io::{File, Io, OpenOptions};

/// Size of the header block and of the footer block.
pub const BLOCK_SIZE: u64 = BLOCK as u64;
/// Version of the format, in every header and footer.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes of a header or footer that carry something; within one sector, so that it is never half written.
const USED: usize = 256;

const HEADER_MAGIC: &[u8; 8] = b"MRsegHDR";
const FOOTER_MAGIC: &[u8; 8] = b"MRsegEND";
const FLAG_REOPENED: u32 = 1;
const FLAG_MAPPED: u32 = 2;

/// First block of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The log it belongs to.
    pub log_id: u64,
    /// Number of the segment, from 1; also its file's name.
    pub number: u64,
    /// Log position of the file's first byte.
    pub base: u64,
    /// Size of the file in bytes.
    pub size: u64,
    /// Number of the first event.
    pub start_seq: u64,
    /// Bytes of records before this segment.
    pub start_bytes: u64,
    /// Number of the segment before it; 0 if none.
    pub previous: u64,
    /// Where the frames of the segment before it really end.
    pub previous_end: u64,
    /// Written when the log was opened: `previous_end` is what recovery found, and segments numbered
    /// between `previous` and this one do not count.
    pub reopened: bool,
    /// Frames are stored through a mapping and synced now and then, not written durably one by one.
    pub mapped: bool,
    /// Shard the log was written by.
    pub shard: u32,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// Consumer's low watermark then: number of the first event not acknowledged.
    pub low_seq: u64,
    /// And the position of its frame.
    pub low_position: u64,
}

/// Last block of a sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFooter {
    /// The log it belongs to.
    pub log_id: u64,
    /// Number of the segment.
    pub number: u64,
    /// Log position where its frames end.
    pub end: u64,
    /// Number of the first event behind it.
    pub end_seq: u64,
    /// Bytes of records before its end.
    pub end_bytes: u64,
    /// Position of its last snapshot of marks.
    pub snapshot: u64,
    /// When its first and last frames were sealed, in milliseconds since 1970.
    pub oldest_ms: u64,
    /// See `oldest_ms`.
    pub newest_ms: u64,
}

fn block(magic: &[u8; 8], fill: impl FnOnce(&mut [u8])) -> Bytes {
    let mut buf = PooledBuf::unpooled(BLOCK);
    let out = buf.as_mut();
    out[..8].copy_from_slice(magic);
    put_u32(out, 12, FORMAT_VERSION);
    fill(out);
    let checksum = crc32fast::hash(&out[..USED]);
    put_u32(out, 8, checksum);
    buf.freeze()
}

/// What the bytes of a header or footer block turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block<T> {
    /// A good one.
    Valid(T),
    /// Never written.
    Absent,
    /// Written by a newer version of this program.
    Newer(u32),
    /// Something else.
    Damaged,
}

impl<T> Block<T> {
    /// The good one.
    pub fn valid(self) -> Option<T> {
        match self {
            Self::Valid(block) => Some(block),
            _ => None,
        }
    }
}

fn open_block<T>(magic: &[u8; 8], bytes: &[u8], read: impl FnOnce(&[u8]) -> T) -> Block<T> {
    let Some(bytes) = bytes.get(..USED) else { return Block::Absent };
    if bytes.iter().all(|b| *b == 0) {
        return Block::Absent;
    }
    if bytes[..8] != *magic {
        return Block::Damaged;
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..8]);
    hasher.update(&[0; 4]);
    hasher.update(&bytes[12..]);
    if hasher.finalize() != u32_at(bytes, 8) {
        return Block::Damaged;
    }
    match u32_at(bytes, 12) {
        FORMAT_VERSION => Block::Valid(read(bytes)),
        version => Block::Newer(version),
    }
}

impl SegmentHeader {
    /// The block as it is written.
    pub fn encode(&self) -> Bytes {
        block(HEADER_MAGIC, |out| {
            let numbers = [
                self.log_id,
                self.number,
                self.base,
                self.size,
                self.start_seq,
                self.start_bytes,
                self.previous,
                self.previous_end,
            ];
            numbers.iter().enumerate().for_each(|(i, n)| put_u64(out, 16 + 8 * i, *n));
            let flag = |set, flag| if set { flag } else { 0 };
            put_u32(out, 80, flag(self.reopened, FLAG_REOPENED) | flag(self.mapped, FLAG_MAPPED));
            put_u32(out, 84, self.shard);
            put_u64(out, 88, self.time_ms);
            put_u64(out, 96, self.low_seq);
            put_u64(out, 104, self.low_position);
        })
    }
    /// Reads a header block.
    pub fn decode(bytes: &[u8]) -> Block<Self> {
        open_block(HEADER_MAGIC, bytes, |b| Self {
            log_id: u64_at(b, 16),
            number: u64_at(b, 24),
            base: u64_at(b, 32),
            size: u64_at(b, 40),
            start_seq: u64_at(b, 48),
            start_bytes: u64_at(b, 56),
            previous: u64_at(b, 64),
            previous_end: u64_at(b, 72),
            reopened: u32_at(b, 80) & FLAG_REOPENED != 0,
            mapped: u32_at(b, 80) & FLAG_MAPPED != 0,
            shard: u32_at(b, 84),
            time_ms: u64_at(b, 88),
            low_seq: u64_at(b, 96),
            low_position: u64_at(b, 104),
        })
    }
    /// Position of the first frame.
    pub fn first_frame(&self) -> u64 {
        self.base + BLOCK_SIZE
    }
}

impl SegmentFooter {
    /// The block as it is written.
    pub fn encode(&self) -> Bytes {
        block(FOOTER_MAGIC, |out| {
            let numbers = [
                self.log_id,
                self.number,
                self.end,
                self.end_seq,
                self.end_bytes,
                self.snapshot,
                self.oldest_ms,
                self.newest_ms,
            ];
            numbers.iter().enumerate().for_each(|(i, n)| put_u64(out, 16 + 8 * i, *n));
        })
    }
    /// Reads a footer block.
    pub fn decode(bytes: &[u8]) -> Block<Self> {
        open_block(FOOTER_MAGIC, bytes, |b| Self {
            log_id: u64_at(b, 16),
            number: u64_at(b, 24),
            end: u64_at(b, 32),
            end_seq: u64_at(b, 40),
            end_bytes: u64_at(b, 48),
            snapshot: u64_at(b, 56),
            oldest_ms: u64_at(b, 64),
            newest_ms: u64_at(b, 72),
        })
    }
}

/// Name of a segment's file.
pub fn file_name(number: u64) -> String {
    format!("{number:010}.seg")
}

/// Number in a segment's file name.
pub fn file_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let plain = digits.len() >= 10 && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// A live segment. The file is open only while it is written or read.
pub struct Segment {
    /// Number of the segment.
    pub number: u64,
    /// Log position of the file's first byte.
    pub base: u64,
    /// Size of the file.
    pub size: u64,
    /// The file.
    pub path: PathBuf,
    /// Frames are stored through a mapping; parts of the file may never have been written.
    pub mapped: bool,
    /// Number of its first event.
    pub start_seq: u64,
    /// Where its frames end; `u64::MAX` while it is written.
    pub end: Cell<u64>,
    /// Number behind its last event, if that is known for certain.
    pub end_seq: Cell<Option<u64>>,
    /// Where its opening snapshot of marks ends: from then on earlier segments are not needed for marks.
    pub opening_end: Cell<u64>,
    file: RefCell<Option<Rc<dyn File>>>,
    map: RefCell<Option<Bytes>>,
}

impl Segment {
    /// A segment whose header was read or is about to be written.
    pub fn new(header: &SegmentHeader, path: PathBuf, file: Option<Rc<dyn File>>) -> Self {
        Self {
            number: header.number,
            base: header.base,
            size: header.size,
            path,
            mapped: header.mapped,
            start_seq: header.start_seq,
            end: Cell::new(u64::MAX),
            end_seq: Cell::new(None),
            opening_end: Cell::new(header.first_frame()),
            file: RefCell::new(file),
            map: RefCell::new(None),
        }
    }
    /// Position of the first frame.
    pub fn first_frame(&self) -> u64 {
        self.base + BLOCK_SIZE
    }
    /// Where the footer block starts: frames end before it.
    pub fn frames_limit(&self) -> u64 {
        self.base + self.size - BLOCK_SIZE
    }
    /// Opens the file if it is not open.
    pub async fn open(&self, io: &Io) -> io::Result<Rc<dyn File>> {
        let open = self.file.borrow().clone();
        if let Some(file) = open {
            return Ok(file);
        }
        let file = io.open(&self.path, OpenOptions::READ).await?;
        Ok(self.file.borrow_mut().get_or_insert(file).clone())
    }
    /// The file, if it is open.
    pub fn file(&self) -> Option<Rc<dyn File>> {
        self.file.borrow().clone()
    }
    /// Closes the file. The mapping stays, so that [`Self::is_unshared`] still knows who reads it.
    pub fn release(&self) {
        *self.file.borrow_mut() = None;
    }
    /// The whole file as a read mapping.
    ///
    /// # Errors
    /// If the file is not open, cannot be mapped, or is shorter than its header says.
    pub fn map(&self) -> io::Result<Bytes> {
        if let Some(map) = &*self.map.borrow() {
            return Ok(map.clone());
        }
        let file = self.file().ok_or(io::ErrorKind::NotConnected)?;
        let map = file.map()?;
        if (map.len() as u64) < self.size {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{} has {} bytes instead of {}", self.path.display(), map.len(), self.size),
            ));
        }
        Ok(self.map.borrow_mut().insert(map).clone())
    }
    /// True if nobody holds bytes of the mapping, so that the file may be overwritten.
    pub fn is_unshared(&self) -> bool {
        self.map.borrow().as_ref().is_none_or(Bytes::is_unique)
    }
    /// Offset in the file of a log position.
    pub fn offset(&self, position: u64) -> u64 {
        position - self.base
    }
}

/// Path of the spare file kept for the next segment.
pub fn spare_path(directory: &Path) -> PathBuf {
    directory.join("spare")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            log_id: 1,
            number: 2,
            base: 3,
            size: 4,
            start_seq: 5,
            start_bytes: 6,
            previous: 7,
            previous_end: 8,
            reopened: true,
            mapped: false,
            shard: 9,
            time_ms: 10,
            low_seq: 11,
            low_position: 12,
        }
    }
    fn footer() -> SegmentFooter {
        SegmentFooter {
            log_id: 1,
            number: 2,
            end: 3,
            end_seq: 4,
            end_bytes: 5,
            snapshot: 6,
            oldest_ms: 7,
            newest_ms: 8,
        }
    }

    #[test]
    fn blocks_come_back() {
        assert_eq!(SegmentHeader::decode(&header().encode()), Block::Valid(header()));
        assert_eq!(SegmentFooter::decode(&footer().encode()), Block::Valid(footer()));
        assert_eq!(SegmentHeader::decode(&[0; 4096]), Block::Absent);
        assert_eq!(SegmentHeader::decode(&[]), Block::Absent);
        assert_eq!(SegmentHeader::decode(&footer().encode()), Block::Damaged);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = header().encode();
        for bit in 0..USED * 8 {
            let mut bytes = good.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bytes), Block::Damaged, "bit {bit}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(file_name(12), "0000000012.seg");
        let table =
            [("0000000012.seg", Some(12)), ("12.seg", None), ("00000000x2.seg", None), ("state", None)];
        table.iter().for_each(|(name, number)| assert_eq!(file_number(name), *number, "{name}"));
    }
}
