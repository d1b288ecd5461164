//! Reading segment files in windows, for everything but the consumer's takes: opening a log, checking it in
//! the background, and the tools.
//!
//! Files are read, not mapped: a bad sector or a file that an agent recycles under a tool is then an error or
//! something whose checksum is wrong, not a signal; memory is one window; and what is read can be counted.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use super::WalError;
use super::frame::{FrameHeader, HEADER_SIZE, MAGIC};
use super::segment::Segment;
use crate::io::{File, Io, OpenOptions};

/// Files are read in pieces of this size, or of one frame if that is larger.
pub(super) const WINDOW: u64 = 1 << 20;

/// A part of a file in memory.
pub(super) struct Window {
    file: Rc<dyn File>,
    path: PathBuf,
    bytes: Bytes,
    at: u64,
}

impl Window {
    pub(super) fn new(file: Rc<dyn File>, path: PathBuf) -> Self {
        Self { file, path, bytes: Bytes::new(), at: 0 }
    }

    /// The bytes from an offset on: at least `size` of them, unless `limit` or the file ends before.
    pub(super) async fn bytes(&mut self, offset: u64, size: u64, limit: u64) -> Result<Bytes, WalError> {
        let end = offset.saturating_add(size).min(limit);
        if offset < self.at || end > self.at + self.bytes.len() as u64 {
            let count = end.saturating_sub(offset).max(WINDOW).min(limit.saturating_sub(offset));
            self.bytes = read_exactly(&*self.file, &self.path, offset, count as usize).await?.into();
            self.at = offset;
        }
        let from = ((offset - self.at) as usize).min(self.bytes.len());
        Ok(self.bytes.slice(from..))
    }
}

/// Reads as many bytes as the file has there.
pub(super) async fn read_exactly(
    file: &dyn File,
    path: &Path,
    mut offset: u64,
    size: usize,
) -> Result<Vec<u8>, WalError> {
    let mut all = Vec::new();
    while all.len() < size {
        let (result, piece) = file.read_at(Vec::with_capacity(size - all.len()), offset).await;
        let count = result.map_err(WalError::io(path))?;
        if count == 0 {
            break;
        }
        offset += count as u64;
        if all.is_empty() { all = piece } else { all.extend_from_slice(&piece) }
    }
    all.truncate(size);
    Ok(all)
}

/// Reads the frames of one segment.
pub(super) struct Frames {
    window: Window,
    base: u64,
    log_id: u64,
    limit: u64,
}

impl Frames {
    /// Frames of a segment up to a position.
    pub(super) async fn open(io: &Io, segment: &Segment, log_id: u64, limit: u64) -> Result<Self, WalError> {
        let path = &segment.path;
        // A handle of its own: whoever takes may close the segment's meanwhile.
        let file = io.open(path, OpenOptions::READ).await.map_err(WalError::io(path))?;
        Ok(Self { window: Window::new(file, path.clone()), base: segment.base, log_id, limit })
    }

    /// The file.
    pub(super) fn file(&self) -> &dyn File {
        &*self.window.file
    }
    /// Offset in the file of a log position.
    pub(super) fn offset(&self, position: u64) -> u64 {
        position - self.base
    }

    async fn bytes(&mut self, position: u64, size: u64) -> Result<Bytes, WalError> {
        let limit = self.limit - self.base;
        self.window.bytes(self.offset(position), size, limit).await
    }

    /// The frame at a position, verified, with its payload as it is stored; `None` if there is none.
    pub(super) async fn read(&mut self, position: u64) -> Result<Option<(FrameHeader, Bytes)>, WalError> {
        if position + HEADER_SIZE as u64 > self.limit {
            return Ok(None);
        }
        let bytes = self.bytes(position, HEADER_SIZE as u64).await?;
        let Ok(header) = FrameHeader::peek(&bytes, position, self.log_id) else { return Ok(None) };
        if header.end() > self.limit {
            return Ok(None);
        }
        let bytes = self.bytes(position, u64::from(header.length)).await?;
        if FrameHeader::read(&bytes, position, self.log_id).is_err() {
            return Ok(None);
        }
        let payload = header.payload(&bytes);
        Ok(Some((header, payload)))
    }

    /// The first good frame at or behind a position.
    pub(super) async fn find(&mut self, from: u64) -> Result<Option<FrameHeader>, WalError> {
        let finder = memchr::memmem::Finder::new(&MAGIC);
        let mut position = from.next_multiple_of(8);
        while position + HEADER_SIZE as u64 <= self.limit {
            let window = self.bytes(position, WINDOW).await?;
            let count = (window.len() as u64).min(WINDOW);
            if count < HEADER_SIZE as u64 {
                return Ok(None);
            }
            for at in finder.find_iter(&window[..count as usize]).filter(|at| at % 8 == 0) {
                if let Some((header, _)) = self.read(position + at as u64).await? {
                    return Ok(Some(header));
                }
            }
            position += count / 8 * 8;
        }
        Ok(None)
    }
}

/// The first good frame in a range of a segment.
pub(super) async fn find_frame(
    io: &Io,
    segment: &Segment,
    log_id: u64,
    range: Range<u64>,
) -> Result<Option<FrameHeader>, WalError> {
    Frames::open(io, segment, log_id, range.end).await?.find(range.start).await
}
