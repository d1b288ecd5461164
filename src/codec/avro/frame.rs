//! The frames of Avro's Netty transport: a serial number and a list of buffers.
//!
//! `serial: i32, count: i32, count × (size: i32, bytes)`, big-endian. The buffers of a frame are one stream:
//! Java cuts it every 8192 bytes, so a value may straddle two of them. A peer that announces more than it may
//! send is refused at the announcement; memory grows only with bytes that have arrived.

use bytes::{BufMut, BytesMut};

/// Most buffers in one frame: 64 MiB cut into pieces of 64 bytes. Java writers cut at 8192.
pub const BUFFERS_MAX: u32 = 1 << 20;

/// Why a peer's bytes are not frames. The text goes to the log, with the peer's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A list without buffers, or with absurdly many.
    #[error("a frame with {count} buffers (1 to {BUFFERS_MAX} are accepted){}", hint(*.first))]
    Count {
        /// As announced.
        count: i32,
        /// First four bytes of the frame, to recognise other protocols by.
        first: [u8; 4],
    },
    /// A buffer of negative size, or a frame larger than the limit.
    #[error("a buffer of {size} bytes in a frame that may have {limit}{}", hint(*.first))]
    Size {
        /// As announced.
        size: i32,
        /// Largest frame in bytes.
        limit: usize,
        /// First four bytes of the frame.
        first: [u8; 4],
    },
}

/// Names the protocol that somebody speaks by mistake.
fn hint(first: [u8; 4]) -> &'static str {
    match first {
        [0x16, 3, ..] => "; the peer speaks TLS: set ssl on both sides or on neither",
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => {
            "; the peer sends deflate: set compression-type on both sides or on neither"
        }
        [b'G', b'E', b'T', b' '] | [b'P', b'O', b'S', b'T'] => "; the peer speaks HTTP",
        [0, _, _, _] => "; a Thrift client perhaps, or an Avro client whose TLS or compression differs",
        _ => "; the peer does not speak Avro RPC, or TLS or compression differ",
    }
}

/// A complete frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Chosen by the client, echoed in the answer.
    pub serial: i32,
    /// The buffers, joined.
    pub payload: Vec<u8>,
}

/// Puts frames together from pieces of a stream.
#[derive(Debug)]
pub struct FrameDecoder {
    limit: usize,
    state: State,
    word: [u8; 4],
    word_filled: usize,
    serial: i32,
    buffers_left: u32,
    payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Serial,
    Count,
    Size,
    Bytes(usize),
}

impl FrameDecoder {
    /// A decoder that refuses frames with more than `limit` bytes of payload.
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            state: State::Serial,
            word: [0; 4],
            word_filled: 0,
            serial: 0,
            buffers_left: 0,
            payload: Vec::new(),
        }
    }
    /// True within a frame.
    pub fn is_inside(&self) -> bool {
        self.state != State::Serial || self.word_filled > 0
    }
    /// Bytes of the unfinished frame held in memory.
    pub fn held_bytes(&self) -> usize {
        self.payload.capacity()
    }
    /// Reads from the front of `input`, which is advanced; a frame as soon as it is complete.
    ///
    /// # Errors
    /// What is wrong; the stream cannot be continued.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        loop {
            if let State::Bytes(left) = self.state {
                let size = left.min(input.len());
                let (bytes, rest) = input.split_at(size);
                self.payload.extend_from_slice(bytes);
                *input = rest;
                if size < left {
                    self.state = State::Bytes(left - size);
                    return Ok(None);
                }
                self.buffers_left -= 1;
                if self.buffers_left == 0 {
                    self.state = State::Serial;
                    return Ok(Some(Frame {
                        serial: self.serial,
                        payload: std::mem::take(&mut self.payload),
                    }));
                }
                self.state = State::Size;
            }
            let Some(word) = self.next_word(input) else { return Ok(None) };
            self.state = match self.state {
                State::Serial => {
                    self.serial = word;
                    State::Count
                }
                State::Count => match u32::try_from(word) {
                    Ok(count @ 1..=BUFFERS_MAX) => {
                        self.buffers_left = count;
                        State::Size
                    }
                    _ => return Err(FrameError::Count { count: word, first: self.serial.to_be_bytes() }),
                },
                State::Size | State::Bytes(_) => match usize::try_from(word) {
                    Ok(size) if size <= self.limit - self.payload.len() => {
                        // One allocation for the usual buffer; a large claim has to be backed by bytes.
                        self.payload.reserve(size.min(64 * 1024));
                        State::Bytes(size)
                    }
                    _ => {
                        let first = self.serial.to_be_bytes();
                        return Err(FrameError::Size { size: word, limit: self.limit, first });
                    }
                },
            };
        }
    }

    fn next_word(&mut self, input: &mut &[u8]) -> Option<i32> {
        while self.word_filled < 4 {
            let (&byte, rest) = input.split_first()?;
            *input = rest;
            if let Some(slot) = self.word.get_mut(self.word_filled) {
                *slot = byte;
            }
            self.word_filled += 1;
        }
        self.word_filled = 0;
        Some(i32::from_be_bytes(self.word))
    }
}

/// Appends a frame of these buffers.
pub fn put_frame(out: &mut BytesMut, serial: i32, buffers: &[&[u8]]) {
    out.reserve(8 + buffers.iter().map(|b| 4 + b.len()).sum::<usize>());
    out.put_i32(serial);
    out.put_i32(buffers.len() as i32);
    for buffer in buffers {
        out.put_i32(buffer.len() as i32);
        out.put_slice(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: &[u8] = include_bytes!("../../../tests/fixtures/avro/avro-plain.request.bin");

    fn decode(bytes: &[u8], piece: usize) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = FrameDecoder::new(1 << 20);
        let mut frames = Vec::new();
        for mut piece in bytes.chunks(piece) {
            while let Some(frame) = decoder.feed(&mut piece)? {
                frames.push(frame);
            }
        }
        assert!(!decoder.is_inside());
        Ok(frames)
    }

    #[test]
    fn frames_come_in_any_pieces() {
        let whole = decode(REQUESTS, usize::MAX).unwrap();
        assert_eq!(whole.iter().map(|f| f.serial).collect::<Vec<_>>(), [1, 2, 3]);
        for piece in [1, 2, 3, 7, 8191] {
            assert_eq!(decode(REQUESTS, piece).unwrap(), whole);
        }
    }

    #[test]
    fn absurd_announcements_are_refused_before_memory_is_taken() {
        for (bytes, expected) in [
            ([0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0], "2147483647 buffers"),
            ([0, 0, 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0], "-2147483648 buffers"),
            ([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], "with 0 buffers"),
            ([0, 0, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff], "2147483647 bytes"),
            ([0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff], "-1 bytes"),
            ([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0], "ssl"),
            ([0x78, 0x9c, 0x62, 0x60, 0x60, 0x60, 0x64, 0, 0, 0, 0, 0], "compression-type"),
            (*b"GET / HTTP/1", "HTTP"),
        ] {
            let error = decode(&bytes, usize::MAX).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let mut decoder = FrameDecoder::new(1 << 30);
        assert_eq!(decoder.feed(&mut &[0, 0, 0, 1, 0, 0, 0, 1, 0x3f, 0, 0, 0, 1][..]), Ok(None));
        assert!(decoder.held_bytes() <= 64 * 1024);
    }

    #[test]
    fn the_limit_counts_all_buffers_of_a_frame() {
        let mut bytes = BytesMut::new();
        put_frame(&mut bytes, 1, &[&[0; 600_000], &[0; 448_576]]);
        assert_eq!(decode(&bytes, 1000).unwrap()[0].payload.len(), 1 << 20);
        bytes.clear();
        put_frame(&mut bytes, 1, &[&[0; 600_000], &[0; 448_577]]);
        assert!(decode(&bytes, 1000).is_err());
    }
}
