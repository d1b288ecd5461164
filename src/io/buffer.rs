//! Aligned buffers for direct writes, reused through a pool.

#![allow(unsafe_code, reason = "aligned allocation; safe code can only allocate with a type's own alignment")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;

/// Alignment of buffers, sizes and offsets of direct writes, in bytes.
pub const BLOCK: usize = 4096;

/// Rounds up to whole blocks.
pub const fn round_up(size_bytes: usize) -> usize {
    size_bytes.next_multiple_of(BLOCK)
}

/// A zeroed, block-aligned piece of memory.
pub struct AlignedBuf {
    start: NonNull<u8>,
    size_bytes: usize,
}

// SAFETY: the memory is owned and plain bytes.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// Allocates at least one block; the size is rounded up to whole blocks.
    pub fn new(size_bytes: usize) -> Self {
        let size_bytes = round_up(size_bytes.max(1));
        let layout = Self::layout(size_bytes);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, size_bytes }
    }
    fn layout(size_bytes: usize) -> Layout {
        Layout::from_size_align(size_bytes, BLOCK)
            .unwrap_or_else(|_| panic!("a buffer of {size_bytes} bytes"))
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.size_bytes)) }
    }
}
impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `size_bytes` initialised bytes, borrowed with `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size_bytes) }
    }
}
impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size_bytes) }
    }
}
impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.size_bytes)
    }
}

/// Keeps buffers of one size for reuse, up to a limit. Buffers may come back from any core.
#[derive(Clone, Debug)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    size_bytes: usize,
    spare_max: usize,
    spare: Mutex<Vec<AlignedBuf>>,
}

impl BufferPool {
    /// A pool of buffers of `size_bytes` that keeps at most `spare_max` of them unused.
    pub fn new(size_bytes: usize, spare_max: usize) -> Self {
        let spare = Mutex::new(Vec::new());
        Self { shared: Arc::new(Shared { size_bytes: round_up(size_bytes), spare_max, spare }) }
    }
    /// Size of each buffer in bytes.
    pub fn size_bytes(&self) -> usize {
        self.shared.size_bytes
    }
    /// A buffer with arbitrary content.
    pub fn take(&self) -> PooledBuf {
        let spare = self.shared.spare.lock().unwrap_or_else(|e| e.into_inner()).pop();
        let buf = spare.unwrap_or_else(|| AlignedBuf::new(self.shared.size_bytes));
        PooledBuf { buf: Some(buf), home: Arc::downgrade(&self.shared) }
    }
}

/// A buffer that goes back to its pool when dropped.
#[derive(Debug)]
pub struct PooledBuf {
    buf: Option<AlignedBuf>,
    home: Weak<Shared>,
}

impl PooledBuf {
    /// A buffer that belongs to no pool.
    pub fn unpooled(size_bytes: usize) -> Self {
        Self { buf: Some(AlignedBuf::new(size_bytes)), home: Weak::new() }
    }
    /// Shares the buffer; it goes back to the pool when the last reference is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}
impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        self.buf.as_deref().unwrap_or_default()
    }
}
impl AsMut<[u8]> for PooledBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        self.buf.as_deref_mut().unwrap_or_default()
    }
}
impl Drop for PooledBuf {
    fn drop(&mut self) {
        if let (Some(home), Some(buf)) = (self.home.upgrade(), self.buf.take()) {
            let mut spare = home.spare.lock().unwrap_or_else(|e| e.into_inner());
            if spare.len() < home.spare_max {
                spare.push(buf);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let pool = BufferPool::new(10_000, 1);
        let mut a = pool.take();
        a.as_mut()[0] = 7;
        assert_eq!(a.as_ref().len(), 12_288);
        assert_eq!(a.as_ref().as_ptr() as usize % BLOCK, 0);
        let shared = a.freeze();
        let part = shared.slice(0..1);
        drop(shared);
        assert_eq!(part[0], 7);
        drop(part);
        assert_eq!(pool.take().as_ref()[0], 7);
    }
}
