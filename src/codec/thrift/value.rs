//! Values in Thrift's binary and compact encodings, read from a slice.
//!
//! Thrift specification, "Thrift Binary protocol encoding" and "Thrift Compact protocol encoding". Sizes are
//! believed only as far as the bytes that are there; nesting is bounded.

use bytes::{BufMut, BytesMut};

/// How values are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Variable-length integers; field numbers as differences.
    Compact,
    /// Fixed-length integers.
    Binary,
}

/// Type of a value, as in the binary encoding.
pub type Type = u8;
/// End of a struct.
pub const STOP: Type = 0;
/// A boolean whose value is in the field's header (compact only).
const INLINE_BOOL: Type = 1;
/// `bool`
pub const BOOL: Type = 2;
/// `byte`
pub const BYTE: Type = 3;
/// `double`
pub const DOUBLE: Type = 4;
/// `i16`
pub const I16: Type = 6;
/// `i32` and enums
pub const I32: Type = 8;
/// `i64`
pub const I64: Type = 10;
/// `string` and `binary`
pub const STRING: Type = 11;
/// A struct.
pub const STRUCT: Type = 12;
/// A map.
pub const MAP: Type = 13;
/// A set.
pub const SET: Type = 14;
/// A list.
pub const LIST: Type = 15;

/// Structs, lists and maps within each other that are skipped; Flume's own go four deep.
const DEPTH_MAX: usize = 32;

/// Why bytes are not the value they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The bytes end within a value.
    #[error("the data ends within a value")]
    End,
    /// A variable-length integer that is too long.
    #[error("not a variable-length integer")]
    Integer,
    /// A size below zero.
    #[error("negative size")]
    NegativeSize,
    /// No such type.
    #[error("unknown type {0}")]
    Type(u8),
    /// Another type than the service has there.
    #[error("field {0} is of another type")]
    Field(i16),
    /// A field that must be there is not.
    #[error("required field {0} is missing")]
    Missing(i16),
    /// Too many values within values.
    #[error("nested deeper than {DEPTH_MAX}")]
    Depth,
    /// Not a message.
    #[error("not a message of this protocol")]
    Message,
}

/// Reads values from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    wire: Wire,
    rest: &'a [u8],
}

/// Head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// Name of the method.
    pub name: &'a [u8],
    /// [`CALL`] and so on.
    pub kind: u8,
    /// Number of the call, echoed in the answer.
    pub sequence: i32,
}

/// A call with an answer.
pub const CALL: u8 = 1;
/// An answer.
pub const REPLY: u8 = 2;
/// An answer that the call failed.
pub const EXCEPTION: u8 = 3;
/// A call without an answer.
pub const ONEWAY: u8 = 4;

impl<'a> Reader<'a> {
    /// A reader over these bytes.
    pub const fn new(wire: Wire, rest: &'a [u8]) -> Self {
        Self { wire, rest }
    }
    /// What has not been read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
    fn take(&mut self, size: usize) -> Result<&'a [u8], ValueError> {
        let (head, tail) = self.rest.split_at_checked(size).ok_or(ValueError::End)?;
        self.rest = tail;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], ValueError> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(ValueError::End)?;
        self.rest = tail;
        Ok(*head)
    }
    fn byte(&mut self) -> Result<u8, ValueError> {
        self.array::<1>().map(|[b]| b)
    }
    #[inline]
    fn varint(&mut self) -> Result<u64, ValueError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ValueError::Integer)
    }
    fn zigzag(&mut self) -> Result<i64, ValueError> {
        self.varint().map(|v| (v >> 1) as i64 ^ -((v & 1) as i64))
    }
    /// `i32`
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn i32(&mut self) -> Result<i32, ValueError> {
        match self.wire {
            Wire::Binary => self.array().map(i32::from_be_bytes),
            Wire::Compact => self.zigzag().map(|v| v as i32),
        }
    }
    /// `i64`
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn i64(&mut self) -> Result<i64, ValueError> {
        match self.wire {
            Wire::Binary => self.array().map(i64::from_be_bytes),
            Wire::Compact => self.zigzag(),
        }
    }
    fn i16(&mut self) -> Result<i16, ValueError> {
        match self.wire {
            Wire::Binary => self.array().map(i16::from_be_bytes),
            Wire::Compact => self.zigzag().map(|v| v as i16),
        }
    }
    #[inline]
    fn size(&mut self) -> Result<usize, ValueError> {
        let size = match self.wire {
            Wire::Binary => self.i32()?.into(),
            Wire::Compact => i64::try_from(self.varint()?).unwrap_or(-1),
        };
        usize::try_from(size).map_err(|_| ValueError::NegativeSize)
    }
    /// `string` or `binary`
    ///
    /// # Errors
    /// What is wrong with the bytes.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], ValueError> {
        let size = self.size()?;
        self.take(size)
    }
    fn kind(&self, code: u8) -> Result<Type, ValueError> {
        match self.wire {
            Wire::Binary => match code {
                BOOL | BYTE | DOUBLE | I16 | I32 | I64 | STRING | STRUCT | MAP | SET | LIST => Ok(code),
                _ => Err(ValueError::Type(code)),
            },
            Wire::Compact => Ok(match code {
                1 | 2 => BOOL,
                3 => BYTE,
                4 => I16,
                5 => I32,
                6 => I64,
                7 => DOUBLE,
                8 => STRING,
                9 => LIST,
                10 => SET,
                11 => MAP,
                12 => STRUCT,
                _ => return Err(ValueError::Type(code)),
            }),
        }
    }
    /// Header of the next field; `None` at the end of the struct. `last` is the number of the field before,
    /// 0 at the beginning.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    #[inline]
    pub fn field(&mut self, last: &mut i16) -> Result<Option<(i16, Type)>, ValueError> {
        let head = self.byte()?;
        if head == STOP {
            return Ok(None);
        }
        match self.wire {
            Wire::Binary => {
                *last = self.i16()?;
                Ok(Some((*last, self.kind(head)?)))
            }
            Wire::Compact => {
                *last = match head >> 4 {
                    0 => self.i16()?,
                    delta => last.wrapping_add(delta.into()),
                };
                let kind = self.kind(head & 15)?;
                Ok(Some((*last, if kind == BOOL { INLINE_BOOL } else { kind })))
            }
        }
    }
    /// Head of a list or set: type of the items and their number.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn list(&mut self) -> Result<(Type, usize), ValueError> {
        let head = self.byte()?;
        match self.wire {
            Wire::Binary => Ok((self.kind(head)?, self.size()?)),
            Wire::Compact => {
                let count = if head >> 4 == 15 { self.size()? } else { usize::from(head >> 4) };
                Ok((self.kind(head & 15)?, count))
            }
        }
    }
    /// Head of a map: types of keys and values and the number of entries.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    #[inline]
    pub fn map(&mut self) -> Result<(Type, Type, usize), ValueError> {
        match self.wire {
            Wire::Binary => {
                let [key, value] = self.array()?;
                let count = self.size()?;
                // Empty maps carry no types worth checking.
                if count == 0 {
                    Ok((STRING, STRING, 0))
                } else {
                    Ok((self.kind(key)?, self.kind(value)?, count))
                }
            }
            Wire::Compact => match self.size()? {
                0 => Ok((STRING, STRING, 0)),
                count => {
                    let types = self.byte()?;
                    Ok((self.kind(types >> 4)?, self.kind(types & 15)?, count))
                }
            },
        }
    }
    /// Passes over a value.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn skip(&mut self, kind: Type) -> Result<(), ValueError> {
        self.skip_nested(kind, 0)
    }
    fn skip_nested(&mut self, kind: Type, depth: usize) -> Result<(), ValueError> {
        if depth > DEPTH_MAX {
            return Err(ValueError::Depth);
        }
        match kind {
            INLINE_BOOL => {}
            BOOL | BYTE => drop(self.byte()?),
            I16 => drop(self.i16()?),
            I32 => drop(self.i32()?),
            I64 => drop(self.i64()?),
            DOUBLE => drop(self.array::<8>()?),
            STRING => drop(self.bytes()?),
            STRUCT => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip_nested(kind, depth + 1)?;
                }
            }
            LIST | SET => {
                let (kind, count) = self.list()?;
                // Every item takes at least a byte, so the loop ends where the bytes end.
                for _ in 0..count {
                    self.skip_nested(kind, depth + 1)?;
                }
            }
            MAP => {
                let (key, value, count) = self.map()?;
                for _ in 0..count {
                    self.skip_nested(key, depth + 1)?;
                    self.skip_nested(value, depth + 1)?;
                }
            }
            other => return Err(ValueError::Type(other)),
        }
        Ok(())
    }
    /// Head of a message. In the binary encoding the old form without a version is understood too.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn message(&mut self) -> Result<Head<'a>, ValueError> {
        match self.wire {
            Wire::Compact => {
                let [0x82, version] = self.array()? else { return Err(ValueError::Message) };
                if version & 0x1f != 1 {
                    return Err(ValueError::Message);
                }
                let sequence = self.varint()? as i32;
                Ok(Head { name: self.bytes()?, kind: version >> 5 & 7, sequence })
            }
            Wire::Binary => {
                let first: [u8; 4] = self.array()?;
                if let [0x80, 1, _, kind] = first {
                    let name = self.bytes()?;
                    return Ok(Head { name, kind: kind & 7, sequence: self.i32()? });
                }
                let size = i32::from_be_bytes(first);
                let size = usize::try_from(size).map_err(|_| ValueError::Message)?;
                let name = self.take(size)?;
                Ok(Head { name, kind: self.byte()?, sequence: self.i32()? })
            }
        }
    }
}

/// Writes values; what is written is ours, so nothing is checked.
pub struct Writer<'a> {
    wire: Wire,
    out: &'a mut BytesMut,
}

impl<'a> Writer<'a> {
    /// A writer at the end of this buffer.
    pub fn new(wire: Wire, out: &'a mut BytesMut) -> Self {
        Self { wire, out }
    }
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.put_u8(value as u8);
    }
    fn size(&mut self, size: usize) {
        match self.wire {
            Wire::Binary => self.out.put_i32(size as i32),
            Wire::Compact => self.varint(size as u64),
        }
    }
    fn code(&self, kind: Type) -> u8 {
        match self.wire {
            Wire::Binary => kind,
            Wire::Compact => match kind {
                BYTE => 3,
                I16 => 4,
                I32 => 5,
                I64 => 6,
                DOUBLE => 7,
                STRING => 8,
                LIST => 9,
                SET => 10,
                MAP => 11,
                STRUCT => 12,
                _ => 1,
            },
        }
    }
    /// Head of a message.
    pub fn message(&mut self, name: &[u8], kind: u8, sequence: i32) {
        match self.wire {
            Wire::Binary => {
                self.out.put_slice(&[0x80, 1, 0, kind]);
                self.bytes(name);
                self.out.put_i32(sequence);
            }
            Wire::Compact => {
                self.out.put_slice(&[0x82, 1 | kind << 5]);
                self.varint(u64::from(sequence as u32));
                self.bytes(name);
            }
        }
    }
    /// Head of a message in the old form of the binary encoding.
    pub fn unversioned_message(&mut self, name: &[u8], kind: u8, sequence: i32) {
        self.bytes(name);
        self.out.put_u8(kind);
        self.out.put_i32(sequence);
    }
    /// Header of a field; `last` is the number of the one before, 0 at the beginning.
    pub fn field(&mut self, last: &mut i16, number: i16, kind: Type) {
        let code = self.code(kind);
        match self.wire {
            Wire::Binary => {
                self.out.put_u8(code);
                self.out.put_i16(number);
            }
            Wire::Compact => match number - *last {
                delta @ 1..=15 => self.out.put_u8((delta as u8) << 4 | code),
                _ => {
                    self.out.put_u8(code);
                    self.varint((i32::from(number) << 1 ^ i32::from(number) >> 15) as u32 as u64);
                }
            },
        }
        *last = number;
    }
    /// End of a struct.
    pub fn stop(&mut self) {
        self.out.put_u8(STOP);
    }
    /// `i32`
    pub fn i32(&mut self, value: i32) {
        match self.wire {
            Wire::Binary => self.out.put_i32(value),
            Wire::Compact => self.varint(u64::from((value << 1 ^ value >> 31) as u32)),
        }
    }
    /// `string` or `binary`
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.size(bytes.len());
        self.out.put_slice(bytes);
    }
    /// Head of a list.
    pub fn list(&mut self, kind: Type, count: usize) {
        let code = self.code(kind);
        match self.wire {
            Wire::Binary => {
                self.out.put_u8(code);
                self.size(count);
            }
            Wire::Compact if count < 15 => self.out.put_u8((count as u8) << 4 | code),
            Wire::Compact => {
                self.out.put_u8(0xf0 | code);
                self.size(count);
            }
        }
    }
    /// Head of a map.
    pub fn map(&mut self, key: Type, value: Type, count: usize) {
        let (key, value) = (self.code(key), self.code(value));
        match self.wire {
            Wire::Binary => {
                self.out.put_slice(&[key, value]);
                self.size(count);
            }
            Wire::Compact => {
                self.size(count);
                if count > 0 {
                    self.out.put_u8(key << 4 | value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_come_back(number in any::<i32>(), text in any::<Vec<u8>>(), id in 0i16..100, count in 0usize..40) {
            for wire in [Wire::Compact, Wire::Binary] {
                let mut out = BytesMut::new();
                let mut writer = Writer::new(wire, &mut out);
                writer.message(&text, CALL, number);
                writer.field(&mut 0, id, I32);
                writer.i32(number);
                writer.list(STRUCT, count);
                writer.map(STRING, STRING, count);
                let mut reader = Reader::new(wire, &out);
                prop_assert_eq!(reader.message(), Ok(Head { name: &text, kind: CALL, sequence: number }));
                prop_assert_eq!(reader.field(&mut 0), Ok(Some((id, I32))));
                prop_assert_eq!(reader.i32(), Ok(number));
                prop_assert_eq!(reader.list(), Ok((STRUCT, count)));
                prop_assert_eq!(reader.map(), Ok((STRING, STRING, count)));
                prop_assert!(reader.rest().is_empty());
            }
        }
        #[test]
        fn anything_is_skipped_or_refused(bytes in any::<Vec<u8>>()) {
            for wire in [Wire::Compact, Wire::Binary] {
                let _ = Reader::new(wire, &bytes).message();
                let _ = Reader::new(wire, &bytes).skip(STRUCT);
            }
        }
    }

    #[test]
    fn nesting_is_bounded() {
        for wire in [Wire::Compact, Wire::Binary] {
            let deep = match wire {
                Wire::Compact => vec![0x1c; 10_000],
                Wire::Binary => [12, 0, 1].repeat(10_000),
            };
            assert_eq!(Reader::new(wire, &deep).skip(STRUCT), Err(ValueError::Depth));
        }
    }
}
