//! The engine for kernels that forbid io_uring: files by helper threads, pread, pwrite and fdatasync.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::kernel::Files;
use super::mmap::{self, Maps};
use super::{EngineKind, File, LocalBoxFuture, MapMut, Metadata, OpenOptions, off_core, path};

/// Files by helper threads.
pub(super) struct Threads;

impl Files for Threads {
    const KIND: EngineKind = EngineKind::Portable;

    fn open(path: PathBuf, options: OpenOptions) -> LocalBoxFuture<'static, io::Result<Rc<dyn File>>> {
        Box::pin(async move {
            let handles = off_core(move || Handles::open(&path, options)).await?;
            let file = ThreadFile { handles: Arc::new(handles), maps: Maps::default() };
            Ok(Rc::new(file) as Rc<dyn File>)
        })
    }
    fn rename(from: PathBuf, to: PathBuf) -> LocalBoxFuture<'static, io::Result<()>> {
        Box::pin(off_core(move || std::fs::rename(from, to)))
    }
    fn remove_file(path: PathBuf) -> LocalBoxFuture<'static, io::Result<()>> {
        Box::pin(off_core(move || std::fs::remove_file(path)))
    }
    fn sync_dir(path: PathBuf) -> LocalBoxFuture<'static, io::Result<()>> {
        Box::pin(off_core(move || path::sync_dir(&path)))
    }
}

/// The descriptors of one file; helper threads hold them as long as an operation lasts.
struct Handles {
    plain: std::fs::File,
    /// For direct writes, if the file system takes them.
    direct: Option<std::fs::File>,
    /// Writes are to be durable when they return.
    durable_writes: bool,
    /// The file system took `O_DIRECT` at open but refused a write.
    direct_refused: AtomicBool,
}

impl Handles {
    fn open(path: &std::path::Path, options: OpenOptions) -> io::Result<Self> {
        let plain = path::open(path, options)?;
        let direct = if options.direct_sync { path::open_direct(path, &plain)? } else { None };
        let direct_refused = AtomicBool::new(false);
        Ok(Self { plain, direct, durable_writes: options.direct_sync, direct_refused })
    }

    fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        if self.durable_writes {
            path::check_direct(data, offset)?;
        }
        if let Some(direct) = &self.direct
            && !self.direct_refused.load(Ordering::Relaxed)
        {
            match direct.write_all_at(data, offset) {
                Err(error) if path::refuses_direct(&error) => {
                    self.direct_refused.store(true, Ordering::Relaxed)
                }
                result => return result,
            }
        }
        self.plain.write_all_at(data, offset)?;
        if self.durable_writes { self.plain.sync_data() } else { Ok(()) }
    }

    fn read(&self, buf: &mut Vec<u8>, offset: u64) -> io::Result<usize> {
        buf.clear();
        if buf.capacity() == 0 {
            return Ok(0);
        }
        loop {
            match rustix::io::pread(&self.plain, rustix::buffer::spare_capacity(buf), offset) {
                Err(rustix::io::Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    fn allocate(&self, size_bytes: u64) -> io::Result<()> {
        path::allocate(&self.plain, size_bytes)
    }
}

struct ThreadFile {
    handles: Arc<Handles>,
    maps: Maps,
}

impl ThreadFile {
    /// Runs an operation on a helper thread.
    fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Handles) -> T + Send + 'static,
    ) -> LocalBoxFuture<'_, T> {
        let handles = Arc::clone(&self.handles);
        Box::pin(off_core(move || operation(&handles)))
    }
}

impl File for ThreadFile {
    fn read_at(&self, mut buf: Vec<u8>, offset: u64) -> LocalBoxFuture<'_, (io::Result<usize>, Vec<u8>)> {
        self.run(move |handles| (handles.read(&mut buf, offset), buf))
    }
    fn write_at(&self, data: Bytes, offset: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        self.run(move |handles| handles.write(&data, offset))
    }
    fn sync_data(&self) -> LocalBoxFuture<'_, io::Result<()>> {
        self.run(|handles| handles.plain.sync_data())
    }
    fn set_len(&self, size_bytes: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        self.run(move |handles| handles.plain.set_len(size_bytes))
    }
    fn allocate(&self, size_bytes: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        self.run(move |handles| handles.allocate(size_bytes))
    }
    fn metadata(&self) -> LocalBoxFuture<'_, io::Result<Metadata>> {
        Box::pin(std::future::ready(path::file_metadata(&self.handles.plain)))
    }
    fn map(&self) -> io::Result<Bytes> {
        self.maps.map(&self.handles.plain)
    }
    fn map_mut(&self, size_bytes: usize) -> io::Result<Box<dyn MapMut>> {
        mmap::map_mut(&self.handles.plain, size_bytes)
    }
    fn prefetch(&self, range: Range<u64>) -> LocalBoxFuture<'_, io::Result<()>> {
        self.run(move |handles| mmap::fault_in(&handles.plain, range))
    }
    fn forget(&self, map: &Bytes, range: Range<u64>) {
        self.maps.forget(self.handles.plain.as_fd().try_clone_to_owned(), map, range);
    }
}
