//! What serializers write, and what a serializer is.
//!
//! Flume: `org.apache.flume.serialization.EventSerializer`. A serializer belongs to one file; it appends runs
//! of events to an [`Output`], which keeps large areas as they are instead of copying them.

use bytes::{Bytes, BytesMut};

use crate::event::EventBatch;

/// Shared areas below this are copied: a write each would cost more than the copy.
const SHARE_BYTES_MIN: usize = 8 * 1024;

/// Bytes on their way to a file, in pieces.
#[derive(Debug, Default)]
pub struct Output {
    pieces: Vec<Bytes>,
    tail: BytesMut,
    size_bytes: usize,
}

impl Output {
    /// Appends a copy.
    pub fn put(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.size_bytes += bytes.len();
    }
    /// Appends without copying if that pays.
    pub fn share(&mut self, bytes: Bytes) {
        if bytes.len() < SHARE_BYTES_MIN {
            return self.put(&bytes);
        }
        self.size_bytes += bytes.len();
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
        self.pieces.push(bytes);
    }
    /// Bytes not yet taken.
    pub fn len(&self) -> usize {
        self.size_bytes
    }
    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.size_bytes == 0
    }
    /// Takes everything, in order.
    pub fn take(&mut self) -> Vec<Bytes> {
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
        self.size_bytes = 0;
        std::mem::take(&mut self.pieces)
    }
}

/// Writes the events of one file.
pub trait EventSerializer {
    /// Start of the file.
    fn begin(&mut self, _out: &mut Output) {}
    /// Appends events `from..to`.
    fn append(&mut self, batch: &EventBatch, from: usize, to: usize, out: &mut Output);
    /// Hands over what is buffered: a file cut off here can be read up to here.
    fn flush(&mut self, _out: &mut Output) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_their_order_and_large_ones_are_shared() {
        let mut out = Output::default();
        let large = Bytes::from(vec![b'x'; SHARE_BYTES_MIN]);
        out.put(b"a");
        out.share(large.clone());
        out.share(Bytes::from_static(b"b"));
        out.put(b"c");
        assert_eq!(out.len(), SHARE_BYTES_MIN + 3);
        let pieces = out.take();
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [1, SHARE_BYTES_MIN, 2]);
        assert_eq!(pieces[1].as_ptr(), large.as_ptr());
        assert_eq!(pieces[2], "bc");
        assert!(out.is_empty() && out.take().is_empty());
    }
}
