//! The checkpoint: which events waited when it was written.

use md5::{Digest, Md5};

use super::protobuf::{Fields, Value, delimited};
use super::{Malformed, Pointer, u64_be};

const VERSION: u64 = 3;
const INDEX_VERSION: usize = 0;
const INDEX_ORDER: usize = 1;
const INDEX_MARKER: usize = 4;
/// First slot of the ring, in 8-byte words.
const RING_START: usize = 1029;
/// Words at the end of an in-flight file.
const INFLIGHT_TAIL: usize = 16;

/// Events that waited, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Records with a higher order came later.
    pub order: u64,
    /// The queue, head first; takes in flight are not in it.
    pub queue: Vec<Pointer>,
    /// Puts not committed then, by transaction.
    pub puts: Vec<(u64, Vec<Pointer>)>,
    /// Takes not committed then.
    pub takes: Vec<(u64, Vec<Pointer>)>,
}

/// Reads the files of a checkpoint directory. Missing in-flight files are passed as empty.
///
/// # Errors
/// The checkpoint is incomplete or damaged: the logs must be read from their beginning instead, as Flume does.
pub fn read(checkpoint: &[u8], meta: &[u8], puts: &[u8], takes: &[u8]) -> Result<Checkpoint, Malformed> {
    let word = |index: usize| u64_be(checkpoint, 8 * index).ok_or(Malformed("the checkpoint is cut short"));
    if word(INDEX_VERSION)? != VERSION {
        return Err(Malformed("the checkpoint is not of version 3"));
    }
    if word(INDEX_MARKER)? != 0 {
        return Err(Malformed("the checkpoint was being written when the agent died"));
    }
    let order = word(INDEX_ORDER)?;
    let (mut version, mut meta_order, mut size, mut head) = (0, 0, 0, 0);
    let mut rest = meta;
    for field in Fields::new(delimited(&mut rest)?) {
        match field? {
            (1, Value::Fixed32(n)) => version = u64::from(n),
            (2, Value::Fixed64(n)) => meta_order = n,
            (3, Value::Fixed32(n)) => size = n as usize,
            (4, Value::Fixed32(n)) => head = n as usize,
            _ => {}
        }
    }
    if version != VERSION || meta_order != order {
        return Err(Malformed("checkpoint and checkpoint.meta are not of one time"));
    }
    let capacity = (checkpoint.len() / 8).saturating_sub(RING_START);
    if !checkpoint.len().is_multiple_of(8) || size > capacity || (size > 0 && head >= capacity) {
        return Err(Malformed("the queue in the checkpoint is larger than the file"));
    }
    let mut queue = Vec::with_capacity(size);
    for index in 0..size {
        let packed = word(RING_START + (head + index) % capacity)?;
        if packed == 0 {
            return Err(Malformed("the queue in the checkpoint has an empty place"));
        }
        queue.push(Pointer::unpack(packed));
    }
    Ok(Checkpoint { order, queue, puts: inflight(puts)?, takes: inflight(takes)? })
}

/// Reads `inflightputs` or `inflighttakes`.
fn inflight(bytes: &[u8]) -> Result<Vec<(u64, Vec<Pointer>)>, Malformed> {
    let Some((digest, content)) = bytes.split_first_chunk::<16>() else {
        return if bytes.is_empty() {
            Ok(Vec::new())
        } else {
            Err(Malformed("an in-flight file is cut short"))
        };
    };
    if Md5::digest(content).as_slice() != digest {
        return Err(Malformed("the checksum of an in-flight file is wrong"));
    }
    let cut = Malformed("an in-flight file is cut short");
    let end = content.len().checked_sub(INFLIGHT_TAIL).ok_or(cut.clone())?;
    let mut transactions = Vec::new();
    let mut at = 0;
    while at < end {
        let (transaction, count) = u64_be(content, at).zip(u64_be(content, at + 8)).ok_or(cut.clone())?;
        at += 16;
        let mut pointers = Vec::new();
        for _ in 0..count {
            let packed = u64_be(content, at).filter(|_| at + 8 <= end).ok_or(cut.clone())?;
            pointers.push(Pointer::unpack(packed));
            at += 8;
        }
        transactions.push((transaction, pointers));
    }
    Ok(transactions)
}
