//! Mappings: read-only ones as [`Bytes`], writable ones as [`MapMut`], and advice on the page cache.

#![allow(unsafe_code, reason = "mapping a file and storing into a shared mapping; safe code cannot")]

use std::cell::RefCell;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions, MmapRaw, UncheckedAdvice};

use super::buffer::BLOCK;
use super::{LocalBoxFuture, MapMut, off_core};

/// The live read mappings of one file, so that advice goes only to memory known to be one.
#[derive(Debug, Default)]
pub(super) struct Maps(RefCell<Vec<Weak<Mmap>>>);

struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Maps {
    /// Maps a whole file for reading.
    pub(super) fn map(&self, file: impl AsFd) -> io::Result<Bytes> {
        let file = file.as_fd();
        let size_bytes = address_size(file_size(file)?)?;
        if size_bytes == 0 {
            return Ok(Bytes::new());
        }
        // SAFETY: as for any mapping the kernel backs by a file, it must not be cut or changed below the
        // reader; `File::map` puts that on the caller, who owns the file (sealed segments, spooled files).
        let map = unsafe { MmapOptions::new().len(size_bytes).map(file.as_raw_fd())? };
        let map = Arc::new(map);
        let mut maps = self.0.borrow_mut();
        maps.retain(|m| m.strong_count() > 0);
        maps.push(Arc::downgrade(&map));
        Ok(Bytes::from_owner(Owner(map)))
    }

    /// Gives pages back, on a helper thread. `file` is a copy of the descriptor.
    pub(super) fn forget(&self, file: io::Result<OwnedFd>, bytes: &Bytes, range: Range<u64>) {
        let maps = self.0.borrow();
        let map = maps.iter().filter_map(Weak::upgrade).find(|m| m.as_ptr() == bytes.as_ptr());
        // Advice that fails costs only memory, so errors are of no interest.
        tokio::task::spawn_blocking(move || {
            let Some(len) = range.end.checked_sub(range.start).and_then(NonZeroU64::new) else { return };
            if let Some(map) = map
                && let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end))
                && let start = start / BLOCK * BLOCK
                && let end = end.min(map.len())
                && start < end
            {
                // SAFETY: a shared read-only mapping of a file: pages dropped from it come back from the
                // page cache or the disk with the same content.
                let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
            }
            if let Ok(file) = file {
                let _ = rustix::fs::fadvise(&file, range.start, Some(len), rustix::fs::Advice::DontNeed);
            }
        });
    }
}

fn file_size(file: impl AsFd) -> io::Result<u64> {
    Ok(super::path::file_metadata(file)?.size_bytes)
}

fn address_size(size_bytes: u64) -> io::Result<usize> {
    usize::try_from(size_bytes).map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "too large to map"))
}

/// Brings a range into the page cache; blocks until it is there.
pub(super) fn fault_in(file: &std::fs::File, range: Range<u64>) -> io::Result<()> {
    let start = range.start / BLOCK as u64 * BLOCK as u64;
    let end = range.end.min(file.metadata()?.len());
    if start >= end {
        return Ok(());
    }
    let len = address_size(end - start)?;
    // A mapping of its own: populating it reads with the kernel's full read-ahead and copies nothing. If
    // the file is cut meanwhile, `MADV_POPULATE_READ` answers with an error and not with a signal.
    // SAFETY: the mapping is never dereferenced.
    let map = unsafe { MmapOptions::new().offset(start).len(len).map(file)? };
    if map.advise(Advice::PopulateRead).is_ok() {
        return Ok(());
    }
    drop(map);
    // Before Linux 5.14 there is no such advice: read the range and throw it away.
    let mut scratch = Vec::with_capacity(64 * 1024);
    let mut offset = start;
    while offset < end {
        scratch.clear();
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut scratch), offset) {
            Ok(0) => break,
            Ok(count) => offset += count as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A shared writable mapping.
struct Writable {
    map: Arc<MmapRaw>,
}

/// Maps the first `size_bytes` of a file for writing.
pub(super) fn map_mut(file: impl AsFd, size_bytes: usize) -> io::Result<Box<dyn MapMut>> {
    let file = file.as_fd();
    let present = file_size(file)?;
    // A store beyond the end would be a signal.
    if size_bytes == 0 || present < size_bytes as u64 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("cannot map {size_bytes} bytes of a file of {present}"),
        ));
    }
    let map = MmapOptions::new().len(size_bytes).map_raw(file.as_raw_fd())?;
    Ok(Box::new(Writable { map: Arc::new(map) }))
}

impl Writable {
    /// Start of a range, checked.
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.map.len()),
            "{len} bytes at {offset} of a mapping of {}",
            self.map.len()
        );
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.map.as_mut_ptr().add(offset) }
    }
}

impl MapMut for Writable {
    fn len(&self) -> usize {
        self.map.len()
    }
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        // SAFETY: `at` checked the range; `bytes` is ordinary memory, never part of this mapping, because
        // nothing gives out references into it. Helper threads flush it but do not look at it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }
    fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.at(offset, into.len());
        // SAFETY: as above, the other way round.
        unsafe { std::ptr::copy_nonoverlapping(from.cast_const(), into.as_mut_ptr(), into.len()) }
    }
    fn flush(&self, range: Range<usize>) -> LocalBoxFuture<'static, io::Result<()>> {
        self.at(range.start, range.len());
        let map = Arc::clone(&self.map);
        Box::pin(off_core(move || map.flush_range(range.start, range.len())))
    }
}
