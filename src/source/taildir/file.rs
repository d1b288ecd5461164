//! One file as it is read: what is new in it, and whether it is still the same file.
//!
//! Everything is decided by what the open file gives, never by its name. Each read begins a little before
//! the position, at bytes that are known, and ends with the file's beginning: if one of them has changed,
//! the file was truncated and written anew (`copytruncate`), even if it is longer by now.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use super::table::{FileId, Position, Print};
use crate::io::{File, Io, Metadata, OpenOptions};

/// Bytes of a file's beginning by which it is recognised.
pub const HEAD_BYTES: usize = 256;
/// Bytes before the position that are compared at each read.
pub const TAIL_BYTES: usize = 64;
/// Most new bytes of one read, and so of one batch: with the ends of lines of 52 bytes and more it fits one frame of a
/// file channel (448 KiB), and it fills a call of the avro sink as it is. A larger one costs less per byte: a hop took
/// 1.29 CPU-seconds per GB with it and 1.50 with 320 KiB.
pub const READ_BYTES: usize = 416 * 1024;
/// A longer line becomes several events of this size; Flume has no limit but its heap.
pub const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A file being read.
pub struct Tailed {
    /// Which file.
    pub id: FileId,
    /// Its name, or its last one that matched.
    pub path: PathBuf,
    /// Index of its group.
    pub group: usize,
    /// Bytes that are in the channels or on their way there.
    pub offset: u64,
    /// Its first bytes, up to [`HEAD_BYTES`].
    pub head: Vec<u8>,
    /// The bytes before the offset, up to [`TAIL_BYTES`].
    pub tail: Vec<u8>,
    /// Open while it is read; closed when idle.
    pub file: Option<Rc<dyn File>>,
    /// Size and time of the last look.
    pub seen: Option<(u64, SystemTime)>,
    /// False while it was empty ever since it was found: it may become a copy.
    pub placed: bool,
    /// When it was changed, as the last scan found it.
    pub modified: SystemTime,
    /// When it last grew.
    pub grown_at: Duration,
    /// There may be something to read.
    pub dirty: bool,
    /// A name that matches was found by the last scan.
    pub listed: bool,
    /// Scans since then.
    pub scans_missed: u32,
    /// A complaint was logged; not again until it works.
    pub complained: bool,
    /// Bytes asked of the next read: more than usual if a line is longer.
    pub want: usize,
}

/// What a read gave.
pub enum Piece {
    /// `known` bytes that were known, then new ones; `bytes` as they were read.
    New {
        /// What was read.
        bytes: Vec<u8>,
        /// How many of them lie before the position.
        known: usize,
    },
    /// Nothing new.
    End,
    /// The content before the position is not what was read: begin anew.
    Replaced,
}

/// Reads exactly `size` bytes at `offset` unless the file ends before.
pub async fn read(file: &dyn File, offset: u64, size: usize) -> std::io::Result<Vec<u8>> {
    let (result, mut bytes) = file.read_at(Vec::with_capacity(size), offset).await;
    result?;
    // A short read is possible without the end of the file.
    while bytes.len() < size {
        let (result, more) =
            file.read_at(Vec::with_capacity(size - bytes.len()), offset + bytes.len() as u64).await;
        if result? == 0 {
            break;
        }
        bytes.extend_from_slice(&more);
    }
    // An allocator may give more room than asked.
    bytes.truncate(size);
    Ok(bytes)
}

/// True if the file holds these pieces: at its start, and before `offset`. With the bytes found.
pub async fn holds(
    file: &dyn File,
    head: Print,
    tail: Print,
    offset: u64,
) -> std::io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let first = read(file, 0, usize::from(head.size)).await?;
    if Print::of(&first) != head {
        return Ok(None);
    }
    let before = read(file, offset.saturating_sub(u64::from(tail.size)), usize::from(tail.size)).await?;
    Ok((Print::of(&before) == tail).then_some((first, before)))
}

impl Tailed {
    /// A file found now, to be read from its start.
    pub fn new(id: FileId, path: PathBuf, group: usize, now: Duration) -> Self {
        Self {
            id,
            path,
            group,
            offset: 0,
            head: Vec::new(),
            tail: Vec::new(),
            file: None,
            seen: None,
            placed: true,
            modified: SystemTime::UNIX_EPOCH,
            grown_at: now,
            dirty: true,
            listed: true,
            scans_missed: 0,
            complained: false,
            want: READ_BYTES,
        }
    }

    /// Opens it if it is not open. `None` if its name belongs to another file by now.
    pub async fn open(&mut self, io: &Io) -> std::io::Result<Option<Rc<dyn File>>> {
        if let Some(file) = &self.file {
            return Ok(Some(file.clone()));
        }
        let Some(file) = open_as(io, &self.path, self.id).await? else { return Ok(None) };
        self.file = Some(file.clone());
        Ok(Some(file))
    }

    /// What is new.
    pub async fn read_new(&mut self, file: &dyn File, metadata: &Metadata) -> std::io::Result<Piece> {
        if metadata.size_bytes < self.offset {
            return Ok(Piece::Replaced);
        }
        let new = (metadata.size_bytes - self.offset).min(self.want as u64) as usize;
        let known = self.tail.len();
        let is_changed = self.seen.is_none_or(|seen| seen != (metadata.size_bytes, metadata.modified));
        if new == 0 && !is_changed {
            return Ok(Piece::End);
        }
        let bytes = read(file, self.offset - known as u64, known + new).await?;
        if bytes.get(..known) != Some(&self.tail) {
            return Ok(Piece::Replaced);
        }
        // The beginning is read last: if it has not changed, no truncation came before the other read. Lines
        // of one length that end alike are told apart by it only.
        let head = read(file, 0, HEAD_BYTES).await?;
        if !head.starts_with(&self.head) {
            return Ok(Piece::Replaced);
        }
        self.head = head;
        Ok(if bytes.len() > known { Piece::New { bytes, known } } else { Piece::End })
    }

    /// Begins at the start of new content.
    pub fn restart(&mut self) {
        self.offset = 0;
        self.head.clear();
        self.tail.clear();
        self.seen = None;
        self.want = READ_BYTES;
        self.dirty = true;
    }

    /// The position behind `bytes`, which end at `offset`; `bytes` begin with what was known before.
    pub fn position_at(&self, offset: u64, bytes: &[u8], stamp: u64) -> Position {
        position(&self.head, offset, bytes, self.path.clone(), stamp)
    }
}

/// The position behind `bytes`, which end at `offset` of a file that begins with `head`.
pub fn position(head: &[u8], offset: u64, bytes: &[u8], path: PathBuf, stamp: u64) -> Position {
    let head = head.get(..head.len().min(offset as usize)).unwrap_or_default();
    Position { offset, head: Print::of(head), tail: Print::of(last(bytes)), path, stamp }
}

/// The last [`TAIL_BYTES`].
pub fn last(bytes: &[u8]) -> &[u8] {
    bytes.get(bytes.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default()
}

/// Opens a name, unless it belongs to another file.
pub async fn open_as(io: &Io, path: &Path, id: FileId) -> std::io::Result<Option<Rc<dyn File>>> {
    let file = io.open(path, OpenOptions::READ).await?;
    let metadata = file.metadata().await?;
    Ok((FileId { device: metadata.device, inode: metadata.inode } == id).then_some(file))
}
