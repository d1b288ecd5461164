//! What can go wrong with a simulated disk, and how: the words a test says it in.

use crate::io::buffer::BLOCK;

/// Kinds of operations that a [`Fault`] can hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opening or creating a file.
    Open,
    /// [`File::read_at`](crate::io::File::read_at).
    Read,
    /// [`File::write_at`](crate::io::File::write_at). The disk keeps any subset of the sectors.
    Write,
    /// [`File::sync_data`](crate::io::File::sync_data) and [`MapMut::flush`](crate::io::MapMut::flush). As
    /// on Linux, what was to be synced counts as clean afterwards: any subset of it is durable, and a later
    /// sync that succeeds says nothing about the rest.
    Sync,
    /// [`File::allocate`](crate::io::File::allocate) and [`File::set_len`](crate::io::File::set_len).
    Allocate,
    /// `rename` and `rename_new`.
    Rename,
    /// `remove_file` and `remove_dir`.
    Remove,
    /// `sync_dir`.
    SyncDir,
}

/// A failure to come.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What fails.
    pub operation: Operation,
    /// Only on paths that contain this text; empty for all.
    pub path_contains: String,
    /// How many such operations succeed first.
    pub after: u64,
    /// How many then fail; `u64::MAX` for all from there on.
    pub count: u64,
    /// The error, as a Linux error number.
    pub errno: i32,
}

impl Fault {
    /// The next operation of this kind fails with EIO, once.
    pub fn next(operation: Operation) -> Self {
        Self { operation, path_contains: String::new(), after: 0, count: 1, errno: libc::EIO }
    }
}

/// What a loss of power leaves of names that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// The changes up to some moment, in order: a journaling file system (ext4, xfs).
    Ordered,
    /// Any subset of the changes: all that POSIX promises.
    AnySubset,
}

/// What a loss of power leaves of content that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// For each atom any version between the durable one and the newest, by the seed: torn, lost and
    /// reordered writes.
    Random,
    /// Only what is durable.
    Nothing,
    /// The newest of everything.
    Everything,
}

/// How a disk loses power.
#[derive(Clone, Copy, Debug)]
pub struct CrashPolicy {
    /// Content.
    pub keep: Keep,
    /// Names.
    pub names: Names,
    /// The unit that is written whole or not at all, in bytes: 4096, or 512 for older disks.
    pub atom_bytes: usize,
}

impl Default for CrashPolicy {
    fn default() -> Self {
        Self { keep: Keep::Random, names: Names::Ordered, atom_bytes: BLOCK }
    }
}

/// How long operations take, in milliseconds of virtual time.
#[derive(Clone, Debug)]
pub struct Latency {
    /// Most operations.
    pub usual_ms: std::ops::RangeInclusive<u64>,
    /// Some operations.
    pub slow_ms: std::ops::RangeInclusive<u64>,
    /// How many of a hundred are slow.
    pub slow_percent: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { usual_ms: 0..=4, slow_ms: 20..=60, slow_percent: 3 }
    }
}

/// What happened so far, since the disk was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Completed writes.
    pub writes: u64,
    /// Bytes of completed writes.
    pub bytes_written: u64,
    /// Bytes read and prefetched; what is read through a mapping without that is not seen.
    pub bytes_read: u64,
    /// Completed syncs of content: `sync_data` and `flush`, not direct writes.
    pub syncs: u64,
    /// Completed syncs of names.
    pub dir_syncs: u64,
    /// Moments at which something became durable: direct writes, syncs, flushes and syncs of names.
    pub durability_points: u64,
}
