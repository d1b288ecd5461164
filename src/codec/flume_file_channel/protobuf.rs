//! As much of the protobuf wire format as the file channel uses.

use super::Malformed;

/// Value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

/// The fields of a message, in order.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Fields of a message.
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }
    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(size)?;
        self.rest = tail;
        Some(head)
    }
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = varint(&mut self.rest)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut self.rest)?),
            1 => Value::Fixed64(u64::from_le_bytes(*self.take(8)?.first_chunk()?)),
            2 => {
                let size = usize::try_from(varint(&mut self.rest)?).ok()?;
                Value::Bytes(self.take(size)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(*self.take(4)?.first_chunk()?)),
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.rest = &[];
        }
        Some(field.ok_or(Malformed("a protobuf message is cut short or has an unknown type of field")))
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// The message whose size stands before it; moves behind it.
pub fn delimited<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let message = varint(rest).and_then(|size| rest.split_at_checked(usize::try_from(size).ok()?));
    let (message, tail) = message.ok_or(Malformed("a delimited protobuf message is cut short"))?;
    *rest = tail;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_type() {
        let bytes = [0x08, 0x96, 0x01, 0x11, 1, 0, 0, 0, 0, 0, 0, 0, 0x1a, 2, b'h', b'i', 0x25, 7, 0, 0, 0];
        let fields: Vec<_> = Fields::new(&bytes).map(Result::unwrap).collect();
        let expected = [
            (1, Value::Varint(150)),
            (2, Value::Fixed64(1)),
            (3, Value::Bytes(b"hi")),
            (4, Value::Fixed32(7)),
        ];
        assert_eq!(fields, expected);
        for bytes in [&[0x08, 0x96][..], &[0x11, 1], &[0x1a, 9, 1], &[0x0b], &[0xff; 12]] {
            assert!(Fields::new(bytes).any(|f| f.is_err()), "{bytes:?}");
        }
    }

    #[test]
    fn delimited_messages() {
        let mut rest: &[u8] = &[2, 1, 2, 0, 5, 1];
        assert_eq!(delimited(&mut rest), Ok(&[1, 2][..]));
        assert_eq!(delimited(&mut rest), Ok(&[][..]));
        assert!(delimited(&mut rest).is_err());
    }
}
