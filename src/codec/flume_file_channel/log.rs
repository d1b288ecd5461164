//! Log files: `log-<N>` and `log-<N>.meta`.

use std::borrow::Cow;

use super::protobuf::{Fields, Value, delimited};
use super::{Malformed, Pointer};

const OP_RECORD: u8 = 0x7f;
const OP_NOOP: u8 = 0x00;
const OP_EOF: u8 = 0x80;
/// Bytes before a record's payload.
const PREFIX: usize = 5;
/// The only version of logs with metadata beside them.
const VERSION: u32 = 3;

/// What stands at a place of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot<'a> {
    /// A record; the next one starts at `next`.
    Record {
        /// Three messages, or their ciphertext.
        payload: &'a [u8],
        /// Offset of the next slot.
        next: usize,
    },
    /// A record that Flume's integrity tool invalidated.
    Invalidated {
        /// Offset of the next slot.
        next: usize,
    },
    /// The end.
    End,
}

/// Reads the slot at an offset.
///
/// # Errors
/// Neither a record nor the end.
pub fn slot(log: &[u8], offset: usize) -> Result<Slot<'_>, Malformed> {
    let rest = log.get(offset..).unwrap_or_default();
    let Some((&op, tail)) = rest.split_first() else { return Ok(Slot::End) };
    if op == OP_EOF {
        return Ok(Slot::End);
    }
    if op != OP_RECORD && op != OP_NOOP {
        return Err(Malformed("no record starts here"));
    }
    let length = tail.first_chunk::<4>().map(|b| u32::from_be_bytes(*b) as usize);
    let length = length.ok_or(Malformed("the log is cut short"))?;
    if op == OP_NOOP && length == 0 {
        // What a file system leaves where nothing was written.
        let blank = rest.iter().all(|b| *b == 0);
        return if blank { Ok(Slot::End) } else { Err(Malformed("no record starts here")) };
    }
    let payload = tail.get(4..).and_then(|t| t.get(..length));
    let payload = payload.ok_or(Malformed("a record is longer than the log"))?;
    let next = offset + PREFIX + length;
    Ok(if op == OP_RECORD { Slot::Record { payload, next } } else { Slot::Invalidated { next } })
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The transaction it belongs to.
    pub transaction: u64,
    /// Its place among the records of all logs.
    pub order: u64,
    /// The rest.
    pub body: Body<'a>,
}

/// Kinds of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// An event.
    Put(Event<'a>),
    /// An event was given to a sink.
    Take(Pointer),
    /// The transaction is void.
    Rollback,
    /// The transaction counts: its takes if true, its puts if false.
    Commit {
        /// What it committed.
        takes: bool,
    },
}

/// A stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    message: &'a [u8],
    /// The body.
    pub body: &'a [u8],
    checksum: Option<u64>,
}

impl<'a> Event<'a> {
    /// Key and value of each header.
    pub fn headers(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        let headers = Fields::new(self.message).filter_map(|field| match field {
            Ok((1, Value::Bytes(header))) => Some(header),
            _ => None,
        });
        headers.filter_map(|header| {
            let (mut key, mut value) = (None, Cow::Borrowed(""));
            for field in Fields::new(header) {
                match field {
                    Ok((1, Value::Bytes(bytes))) => key = Some(String::from_utf8_lossy(bytes)),
                    Ok((2, Value::Bytes(bytes))) => value = String::from_utf8_lossy(bytes),
                    _ => {}
                }
            }
            Some((key?, value))
        })
    }
    /// True if the body is what was put; true too where no checksum was written.
    pub fn is_sound(&self) -> bool {
        match self.checksum {
            None | Some(u64::MAX) => true,
            Some(checksum) => u64::from(crc32fast::hash(self.body)) == checksum,
        }
    }
}

/// Reads a record's payload.
///
/// # Errors
/// The bytes are no record.
pub fn record(mut payload: &[u8]) -> Result<Record<'_>, Malformed> {
    let header = delimited(&mut payload)?;
    let body = delimited(&mut payload)?;
    delimited(&mut payload)?;
    let (mut kind, mut transaction, mut order) = (None, None, None);
    for field in Fields::new(header) {
        match field? {
            (1, Value::Fixed32(n)) => kind = Some(n),
            (2, Value::Fixed64(n)) => transaction = Some(n),
            (3, Value::Fixed64(n)) => order = Some(n),
            _ => {}
        }
    }
    let incomplete = Malformed("a record lacks a field");
    let body = match kind.ok_or(incomplete.clone())? {
        1 => Body::Put(event(body)?),
        2 => {
            let (mut file, mut offset) = (None, None);
            for field in Fields::new(body) {
                match field? {
                    (1, Value::Fixed32(n)) => file = Some(n),
                    (2, Value::Fixed32(n)) => offset = Some(n),
                    _ => {}
                }
            }
            let (file, offset) = file.zip(offset).ok_or(incomplete.clone())?;
            Body::Take(Pointer { file, offset })
        }
        3 => Body::Rollback,
        4 => {
            let kind = Fields::new(body).find_map(|field| match field {
                Ok((1, Value::Fixed32(n))) => Some(n),
                _ => None,
            });
            match kind {
                Some(1) => Body::Commit { takes: false },
                Some(2) => Body::Commit { takes: true },
                _ => return Err(Malformed("a commit of an unknown kind")),
            }
        }
        _ => return Err(Malformed("a record of an unknown kind")),
    };
    Ok(Record { transaction: transaction.ok_or(incomplete.clone())?, order: order.ok_or(incomplete)?, body })
}

fn event(put: &[u8]) -> Result<Event<'_>, Malformed> {
    let (mut message, mut checksum, mut body) = (None, None, None);
    for field in Fields::new(put) {
        match field? {
            (1, Value::Bytes(bytes)) => message = Some(bytes),
            (2, Value::Fixed64(n)) => checksum = Some(n),
            _ => {}
        }
    }
    let message = message.ok_or(Malformed("a put without an event"))?;
    for field in Fields::new(message) {
        if let (2, Value::Bytes(bytes)) = field? {
            body = Some(bytes);
        }
    }
    Ok(Event { message, body: body.ok_or(Malformed("an event without a body"))?, checksum })
}

/// How a log is encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// `AESCTRNOPADDING`.
    pub cipher: String,
    /// Name of the key in its store.
    pub key: String,
    /// Initial counter block.
    pub parameters: Vec<u8>,
}

/// `log-<N>.meta`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Number of the log.
    pub id: u32,
    /// Where the log ended at the last checkpoint; 0 = none.
    pub checkpoint_position: u64,
    /// Order of that checkpoint.
    pub checkpoint_order: u64,
    /// Set if the records are encrypted.
    pub encryption: Option<Encryption>,
}

/// Reads `log-<N>.meta`.
///
/// # Errors
/// The bytes are no metadata of version 3.
pub fn meta(mut bytes: &[u8]) -> Result<Meta, Malformed> {
    let mut meta = Meta { id: 0, checkpoint_position: 0, checkpoint_order: 0, encryption: None };
    let mut version = None;
    for field in Fields::new(delimited(&mut bytes)?) {
        match field? {
            (1, Value::Fixed32(n)) => version = Some(n),
            (2, Value::Fixed32(n)) => meta.id = n,
            (3, Value::Fixed64(n)) => meta.checkpoint_position = n,
            (4, Value::Fixed64(n)) => meta.checkpoint_order = n,
            (5, Value::Bytes(message)) => meta.encryption = Some(encryption(message)?),
            _ => {}
        }
    }
    if version == Some(VERSION) { Ok(meta) } else { Err(Malformed("the log is not of version 3")) }
}

fn encryption(message: &[u8]) -> Result<Encryption, Malformed> {
    let mut encryption = Encryption { cipher: String::new(), key: String::new(), parameters: Vec::new() };
    for field in Fields::new(message) {
        match field? {
            (1, Value::Bytes(text)) => encryption.cipher = String::from_utf8_lossy(text).into_owned(),
            (2, Value::Bytes(text)) => encryption.key = String::from_utf8_lossy(text).into_owned(),
            (3, Value::Bytes(bytes)) => encryption.parameters = bytes.to_vec(),
            _ => {}
        }
    }
    Ok(encryption)
}
