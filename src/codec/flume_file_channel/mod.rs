//! The directories of Flume's own file channel, format version 3: read-only, to bring their events over.
//!
//! ```text
//! log-<N>          records: op u8 (7f record, 00 invalidated, 80 end), length u32 BE, three delimited
//!                  protobuf messages: header (type, transaction, write order), body, empty footer
//! log-<N>.meta     one delimited message: version, id, position and order of the last checkpoint, encryption
//! checkpoint       i64 BE: version, order, ..., [4] = marker, [1029...] = ring of event pointers
//! checkpoint.meta  one delimited message: version, order, size and head of the queue
//! inflightputs     MD5, then i64 BE: transaction, count, pointers ...; 16 zero bytes at the end
//! inflighttakes    the same
//! ```
//! Flume: `org.apache.flume.channel.file` (`LogFileV3`, `TransactionEventRecord`, `EventQueueBackingStoreFileV3`,
//! `FlumeEventQueue`, `ReplayHandler`).

pub mod checkpoint;
pub mod cipher;
pub mod log;
mod protobuf;
pub mod replay;

/// Where an event was put: number of the log file, and offset of its record there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer {
    /// Number of the log file.
    pub file: u32,
    /// Offset of the record's op byte.
    pub offset: u32,
}

impl Pointer {
    /// From Flume's packed form.
    pub fn unpack(packed: u64) -> Self {
        Self { file: (packed >> 32) as u32, offset: packed as u32 }
    }
}

/// Bytes that are not what the format says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

fn u64_be(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk::<8>().map(|b| u64::from_be_bytes(*b))
}
