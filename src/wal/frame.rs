//! Frames: the checksummed units of the log. Layout in `FORMAT.md`.

use bytes::Bytes;

/// Size of a frame's header in bytes.
pub const HEADER_SIZE: usize = 72;
/// Frames start and end on multiples of this.
pub const FRAME_ALIGN: usize = 8;
/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"MRfr";
/// Version of the frame layout.
pub const VERSION: u8 = 1;

/// First frame of a transaction.
pub const FLAG_FIRST: u8 = 1;
/// Last frame of a transaction: only with it the transaction counts.
pub const FLAG_LAST: u8 = 2;
/// The payload is a zstd frame.
pub const FLAG_ZSTD: u8 = 4;
/// The payload is encrypted: nonce, ciphertext, tag.
pub const FLAG_ENCRYPTED: u8 = 8;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Events, and marks that are committed with them.
    Data,
    /// All marks as they stand at this place.
    Snapshot,
}

/// A frame's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Size of the whole frame in bytes, padding included.
    pub length: u32,
    /// Bytes stored behind the header.
    pub stored: u32,
    /// Where in the log the frame starts.
    pub position: u64,
    /// Everything before this position was durable when the frame was sealed.
    pub durable: u64,
    /// Number of the first event, counted from the beginning of the log.
    pub first_seq: u64,
    /// Number of events.
    pub events: u32,
    /// Bytes of the payload before compression and encryption.
    pub raw: u32,
    /// How many of the payload's first bytes are marks.
    pub marks: u32,
    /// Events or marks.
    pub kind: FrameKind,
    /// `FLAG_…`
    pub flags: u8,
    /// When it was sealed, in milliseconds since 1970.
    pub time_ms: u64,
    /// The log it belongs to.
    pub log_id: u64,
}

/// Why bytes are not the frame that was expected there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// No frame of this log was ever completed here: other bytes, or what an earlier use of the file left.
    Absent,
    /// It starts like the frame that belongs here, but its checksum or a length is wrong.
    Damaged,
}

impl FrameHeader {
    /// End of the frame.
    pub fn end(&self) -> u64 {
        self.position + u64::from(self.length)
    }
    /// True if the flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Writes the header with checksum 0; [`seal`] completes it.
    pub fn write(&self, out: &mut [u8]) {
        out[..HEADER_SIZE].fill(0);
        out[0..4].copy_from_slice(&MAGIC);
        put_u32(out, 8, self.length);
        put_u32(out, 12, self.stored);
        put_u64(out, 16, self.position);
        put_u64(out, 24, self.durable);
        put_u64(out, 32, self.first_seq);
        put_u32(out, 40, self.events);
        put_u32(out, 44, self.raw);
        put_u32(out, 48, self.marks);
        out[52] = VERSION;
        out[53] = match self.kind {
            FrameKind::Data => 1,
            FrameKind::Snapshot => 2,
        };
        out[54] = self.flags;
        put_u64(out, 56, self.time_ms);
        put_u64(out, 64, self.log_id);
    }

    /// Reads and verifies the frame at the start of `bytes`, which must hold all of it.
    ///
    /// # Errors
    /// What is there instead.
    pub fn read(bytes: &[u8], position: u64, log_id: u64) -> Result<Self, FrameFault> {
        let header = Self::peek(bytes, position, log_id)?;
        let frame = bytes.get(..header.length as usize).ok_or(FrameFault::Damaged)?;
        if checksum(frame) != u32_at(frame, 4) {
            return Err(FrameFault::Damaged);
        }
        Ok(header)
    }

    /// Reads the header alone, without the checksum: enough to learn how much to read.
    ///
    /// # Errors
    /// What is there instead.
    pub fn peek(bytes: &[u8], position: u64, log_id: u64) -> Result<Self, FrameFault> {
        let bytes = bytes.get(..HEADER_SIZE).ok_or(FrameFault::Absent)?;
        if bytes[0..4] != MAGIC || u64_at(bytes, 16) != position || u64_at(bytes, 64) != log_id {
            return Err(FrameFault::Absent);
        }
        let kind = match (bytes[52], bytes[53]) {
            (VERSION, 1) => FrameKind::Data,
            (VERSION, 2) => FrameKind::Snapshot,
            _ => return Err(FrameFault::Damaged),
        };
        let header = Self {
            length: u32_at(bytes, 8),
            stored: u32_at(bytes, 12),
            position,
            durable: u64_at(bytes, 24),
            first_seq: u64_at(bytes, 32),
            events: u32_at(bytes, 40),
            raw: u32_at(bytes, 44),
            marks: u32_at(bytes, 48),
            kind,
            flags: bytes[54],
            time_ms: u64_at(bytes, 56),
            log_id,
        };
        let fits = header.length as usize >= HEADER_SIZE
            && (header.length as usize).is_multiple_of(FRAME_ALIGN)
            && header.stored as usize <= header.length as usize - HEADER_SIZE
            && header.marks <= header.raw
            && header.first_seq.checked_add(u64::from(header.events)).is_some()
            && position.checked_add(u64::from(header.length)).is_some();
        if fits { Ok(header) } else { Err(FrameFault::Damaged) }
    }

    /// The stored payload of a frame that starts at the start of `bytes`.
    pub fn payload(&self, bytes: &Bytes) -> Bytes {
        bytes.slice(HEADER_SIZE..HEADER_SIZE + self.stored as usize)
    }
}

/// Size of a frame around a payload of this size.
pub const fn frame_size(stored: usize) -> usize {
    (HEADER_SIZE + stored).next_multiple_of(FRAME_ALIGN)
}

/// Completes a frame: notes what is durable and the time, and computes the checksum.
pub fn seal(frame: &mut [u8], durable: u64, time_ms: u64) {
    put_u64(frame, 24, durable);
    put_u64(frame, 56, time_ms);
    put_u32(frame, 4, 0);
    let checksum = checksum(frame);
    put_u32(frame, 4, checksum);
}

/// Lengthens a frame that is not sealed yet by padding, which the checksum then covers.
pub fn pad(frame: &mut [u8], padding: u32) {
    let length = u32_at(frame, 8);
    put_u32(frame, 8, length + padding);
}

/// CRC-32 of a frame with the checksum field zero.
fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&[0; 4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// Little-endian number at an offset that the caller has checked.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}
/// Little-endian number at an offset that the caller has checked.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
/// Writes a little-endian number.
pub fn put_u32(out: &mut [u8], at: usize, number: u32) {
    out[at..at + 4].copy_from_slice(&number.to_le_bytes());
}
/// Writes a little-endian number.
pub fn put_u64(out: &mut [u8], at: usize, number: u64) {
    out[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Vec<u8> {
        let header = FrameHeader {
            length: frame_size(5) as u32,
            stored: 5,
            position: 4096,
            durable: 0,
            first_seq: 7,
            events: 2,
            raw: 5,
            marks: 1,
            kind: FrameKind::Data,
            flags: FLAG_FIRST | FLAG_LAST,
            time_ms: 0,
            log_id: 99,
        };
        let mut bytes = vec![0; frame_size(5)];
        header.write(&mut bytes);
        bytes[HEADER_SIZE..HEADER_SIZE + 5].copy_from_slice(b"hello");
        seal(&mut bytes, 12, 34);
        bytes
    }

    #[test]
    fn a_frame_comes_back() {
        let bytes = frame();
        let header = FrameHeader::read(&bytes, 4096, 99).unwrap();
        assert_eq!((header.first_seq, header.events, header.durable, header.time_ms), (7, 2, 12, 34));
        assert_eq!(header.payload(&Bytes::from(bytes)).as_ref(), b"hello");
    }

    #[test]
    fn another_place_or_log_is_not_ours() {
        assert_eq!(FrameHeader::read(&frame(), 8192, 99), Err(FrameFault::Absent));
        assert_eq!(FrameHeader::read(&frame(), 4096, 98), Err(FrameFault::Absent));
        assert_eq!(FrameHeader::read(&[0; 100], 4096, 99), Err(FrameFault::Absent));
        assert_eq!(FrameHeader::read(&[], 4096, 99), Err(FrameFault::Absent));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = frame();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::read(&bytes, 4096, 99).is_err(), "bit {bit}");
        }
        for cut in 0..good.len() {
            assert!(FrameHeader::read(&good[..cut], 4096, 99).is_err(), "cut at {cut}");
        }
    }
}
