//! Numbers and texts as Java's `DataOutputStream` writes them: big-endian, lengths in front.

/// Reads from the front of a slice; `None` where it ends too early.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over these bytes.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
    /// What has not been read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
    /// The next `size` bytes.
    pub fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(size)?;
        self.rest = tail;
        Some(head)
    }
    /// A `short`, without sign.
    pub fn u16(&mut self) -> Option<u16> {
        let (head, tail) = self.rest.split_first_chunk()?;
        self.rest = tail;
        Some(u16::from_be_bytes(*head))
    }
    /// An `int`, without sign.
    pub fn u32(&mut self) -> Option<u32> {
        let (head, tail) = self.rest.split_first_chunk()?;
        self.rest = tail;
        Some(u32::from_be_bytes(*head))
    }
    /// The bytes of a text of `writeUTF`.
    pub fn text(&mut self) -> Option<&'a [u8]> {
        let size = self.u16()?;
        self.take(size.into())
    }
    /// Bytes with their number in an `int` before them.
    pub fn sized(&mut self) -> Option<&'a [u8]> {
        let size = self.u32()?;
        self.take(usize::try_from(size).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_off_the_front() {
        let mut reader = Reader::new(b"\x01\x02\0\0\0\x03\0\x02hi\0\0\0\x01xrest");
        assert_eq!((reader.u16(), reader.u32()), (Some(0x102), Some(3)));
        assert_eq!((reader.text(), reader.sized()), (Some(&b"hi"[..]), Some(&b"x"[..])));
        assert_eq!((reader.u32().is_some(), reader.u16(), reader.rest()), (true, None, &b""[..]));
        for bytes in [&b"\0\x03ab"[..], b"\0"] {
            assert_eq!(Reader::new(bytes).text(), None);
        }
        assert_eq!(Reader::new(b"\xff\xff\xff\xffab").sized(), None);
        assert_eq!(Reader::new(b"ab").take(3), None);
    }
}
