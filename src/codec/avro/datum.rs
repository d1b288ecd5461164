//! Avro's binary encoding: reading it from a slice, writing it to a buffer.
//!
//! Avro specification, "Binary Encoding". Sizes come from outside and are believed only as far as the bytes
//! that are there.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

/// Why bytes are not the datum they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatumError {
    /// The bytes end within a value.
    #[error("the data ends within a value")]
    End,
    /// A variable-length integer of more than ten bytes, or outside its type's range.
    #[error("not a variable-length integer")]
    Integer,
    /// A size below zero.
    #[error("negative size {0}")]
    NegativeSize(i64),
    /// A boolean other than 0 and 1.
    #[error("not a boolean: {0}")]
    Boolean(u8),
    /// No such branch of a union.
    #[error("no branch {0} in the union")]
    Branch(i64),
    /// More items than this reader accepts.
    #[error("more than {0} items")]
    TooMany(usize),
}

/// Reads values from the front of a slice.
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
    /// True at the end.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
    /// The next `size` bytes as they are (a `fixed`).
    ///
    /// # Errors
    /// [`DatumError::End`].
    pub fn fixed(&mut self, size: usize) -> Result<&'a [u8], DatumError> {
        let (head, tail) = self.rest.split_at_checked(size).ok_or(DatumError::End)?;
        self.rest = tail;
        Ok(head)
    }
    /// A `long` (or `int`): zigzag, seven bits per byte, low ones first.
    ///
    /// # Errors
    /// [`DatumError::End`], [`DatumError::Integer`].
    #[inline]
    pub fn long(&mut self) -> Result<i64, DatumError> {
        let mut value = 0u64;
        for (index, &byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * index as u32).min(63);
            if byte & 0x80 == 0 {
                // The tenth byte has room for one bit.
                if index == 9 && byte > 1 {
                    return Err(DatumError::Integer);
                }
                self.rest = self.rest.get(index + 1..).unwrap_or_default();
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(if self.rest.len() < 10 { DatumError::End } else { DatumError::Integer })
    }
    /// A size: a long that must not be negative.
    ///
    /// # Errors
    /// As [`Self::long`], and [`DatumError::NegativeSize`].
    #[inline]
    pub fn size(&mut self) -> Result<usize, DatumError> {
        let size = self.long()?;
        usize::try_from(size).map_err(|_| DatumError::NegativeSize(size))
    }
    /// `bytes`.
    ///
    /// # Errors
    /// As [`Self::size`].
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], DatumError> {
        let size = self.size()?;
        self.fixed(size)
    }
    /// A `string`; malformed UTF-8 becomes U+FFFD, as in Java. Borrowed unless malformed.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    #[inline]
    pub fn string(&mut self) -> Result<Cow<'a, str>, DatumError> {
        self.bytes().map(String::from_utf8_lossy)
    }
    /// A `boolean`.
    ///
    /// # Errors
    /// [`DatumError::End`], [`DatumError::Boolean`].
    pub fn boolean(&mut self) -> Result<bool, DatumError> {
        match self.fixed(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            other => Err(DatumError::Boolean(other.first().copied().unwrap_or_default())),
        }
    }
    /// Branch of a union of `[null, something]`: true if something follows.
    ///
    /// # Errors
    /// As [`Self::long`], and [`DatumError::Branch`].
    pub fn optional(&mut self) -> Result<bool, DatumError> {
        match self.long()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DatumError::Branch(other)),
        }
    }
    /// Start of the next block of an array or map: the number of items in it, 0 at the end. A negative
    /// count is followed by the block's size in bytes, which nobody needs here.
    ///
    /// # Errors
    /// As [`Self::size`].
    #[inline]
    pub fn block(&mut self) -> Result<usize, DatumError> {
        let count = self.long()?;
        if count < 0 {
            self.size()?;
        }
        usize::try_from(count.unsigned_abs()).map_err(|_| DatumError::Integer)
    }
    /// A map of strings to bytes or strings: calls `entry` for each.
    ///
    /// # Errors
    /// As the parts'.
    pub fn map(&mut self, mut entry: impl FnMut(&'a [u8], &'a [u8])) -> Result<(), DatumError> {
        loop {
            let count = self.block()?;
            if count == 0 {
                return Ok(());
            }
            // Each entry takes at least two bytes, so the loop ends where the bytes end.
            for _ in 0..count {
                let key = self.bytes()?;
                let value = self.bytes()?;
                entry(key, value);
            }
        }
    }
}

/// Writes a `long` (or `int`).
#[inline]
pub fn put_long(out: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// Writes `bytes` or a `string`.
#[inline]
pub fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_long(out, bytes.len() as i64);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn longs_come_back(value in any::<i64>()) {
            let mut out = BytesMut::new();
            put_long(&mut out, value);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.long(), Ok(value));
            prop_assert!(reader.is_empty());
            for cut in 0..out.len() {
                prop_assert_eq!(Reader::new(&out[..cut]).long(), Err(DatumError::End));
            }
        }
        #[test]
        fn bytes_come_back(value in any::<Vec<u8>>()) {
            let mut out = BytesMut::new();
            put_bytes(&mut out, &value);
            prop_assert_eq!(Reader::new(&out).bytes(), Ok(&value[..]));
        }
        #[test]
        fn anything_is_read_or_refused(value in any::<Vec<u8>>()) {
            let mut reader = Reader::new(&value);
            while reader.map(|_, _| ()).is_ok() && !reader.is_empty() {}
        }
    }

    #[test]
    fn examples_of_the_specification() {
        for (value, bytes) in [(0, &[0u8][..]), (-1, &[1]), (1, &[2]), (-64, &[0x7f]), (64, &[0x80, 1])] {
            let mut out = BytesMut::new();
            put_long(&mut out, value);
            assert_eq!(&out[..], bytes);
        }
    }

    #[test]
    fn hostile_numbers() {
        assert_eq!(Reader::new(&[0xff; 10]).long(), Err(DatumError::Integer));
        assert_eq!(Reader::new(&[0xff; 9]).long(), Err(DatumError::End));
        let two_to_the_64 = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02];
        assert_eq!(Reader::new(&two_to_the_64).long(), Err(DatumError::Integer));
        assert_eq!(Reader::new(&[1]).bytes(), Err(DatumError::NegativeSize(-1)));
        let mut out = BytesMut::new();
        put_long(&mut out, i64::MAX);
        assert_eq!(Reader::new(&out).bytes(), Err(DatumError::End));
        out.clear();
        put_long(&mut out, i64::MIN);
        put_long(&mut out, 0);
        assert!(Reader::new(&out).map(|_, _| ()).is_err());
    }

    #[test]
    fn maps_in_several_blocks_with_and_without_sizes() {
        let bytes = [2, 2, b'a', 2, b'1', 1, 8, 2, b'b', 2, b'2', 0];
        let mut entries = Vec::new();
        Reader::new(&bytes).map(|k, v| entries.push((k, v))).unwrap();
        assert_eq!(entries, [(&b"a"[..], &b"1"[..]), (b"b", b"2")]);
    }
}
