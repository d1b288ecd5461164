//! The default engine: files through io_uring (tokio-uring), sockets and timers through tokio on the same
//! thread.

#![allow(unsafe_code, reason = "tokio-uring gives its descriptors as numbers only")]

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::{Buf, Bytes};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs;

use super::buffer::BLOCK;
use super::kernel::Files;
use super::mmap::{self, Maps};
use super::{EngineKind, File, LocalBoxFuture, MapMut, Metadata, OpenOptions, off_core, path};

/// Submission queue of one shard. Full, it is handed to the kernel and goes on; so it bounds nothing.
const SUBMISSIONS: u32 = 256;
/// Completion queue of one shard: 16 bytes each, 64 KiB. A shard has 4 writes per log, one read per
/// tailed or spooled file and a sync per output file in flight, far fewer than this; beyond it the kernel
/// keeps completions in its own memory until there is room (`IORING_FEAT_NODROP`).
const COMPLETIONS: u32 = 4096;
/// Largest single read or write, because the length of a ring operation is 32 bits wide. Small in tests, so
/// that they see what follows a short write.
const OPERATION_SIZE_MAX: usize = if cfg!(test) { 1 << 20 } else { 1 << 30 };

/// A tokio runtime with a ring, for this thread.
pub(super) fn runtime() -> io::Result<tokio_uring::Runtime> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(COMPLETIONS);
    tokio_uring::Runtime::new(tokio_uring::builder().entries(SUBMISSIONS).uring_builder(&ring))
}

/// Files through the ring.
pub(super) struct Ring;

impl Files for Ring {
    const KIND: EngineKind = EngineKind::Uring;

    fn open(path: PathBuf, options: OpenOptions) -> LocalBoxFuture<'static, io::Result<Rc<dyn File>>> {
        Box::pin(async move {
            let plain = fs::OpenOptions::new()
                .read(true)
                .write(options.write)
                .create(options.create && !options.create_new)
                .create_new(options.create_new)
                .truncate(options.truncate)
                .open(&path)
                .await?;
            let direct = if options.direct_sync { open_direct(&path, &plain).await? } else { None };
            let file = RingFile {
                plain,
                direct,
                durable_writes: options.direct_sync,
                direct_refused: Cell::new(false),
                maps: Maps::default(),
            };
            Ok(Rc::new(file) as Rc<dyn File>)
        })
    }
    fn rename(from: PathBuf, to: PathBuf) -> LocalBoxFuture<'static, io::Result<()>> {
        Box::pin(fs::rename(from, to))
    }
    fn remove_file(path: PathBuf) -> LocalBoxFuture<'static, io::Result<()>> {
        Box::pin(fs::remove_file(path))
    }
    fn sync_dir(path: PathBuf) -> LocalBoxFuture<'static, io::Result<()>> {
        Box::pin(async move {
            let directory =
                fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path).await?;
            directory.sync_all().await
        })
    }
}

/// See [`path::open_direct`].
async fn open_direct(path: &Path, plain: &fs::File) -> io::Result<Option<fs::File>> {
    let opened =
        fs::OpenOptions::new().read(true).write(true).custom_flags(path::DIRECT_FLAGS).open(path).await;
    match opened {
        Ok(direct) => {
            path::same_file(path, &borrow(plain), &borrow(&direct))?;
            Ok(Some(direct))
        }
        Err(error) if path::refuses_direct(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn borrow(file: &fs::File) -> BorrowedFd<'_> {
    // SAFETY: the file is open as long as it is borrowed; only `File::close` by value closes it earlier.
    unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) }
}

struct RingFile {
    plain: fs::File,
    /// For direct writes, if the file system takes them.
    direct: Option<fs::File>,
    /// Writes are to be durable when they return.
    durable_writes: bool,
    /// The file system took `O_DIRECT` at open but refused a write.
    direct_refused: Cell<bool>,
    maps: Maps,
}

impl RingFile {
    /// A descriptor that a helper thread may keep.
    fn copy(&self) -> io::Result<OwnedFd> {
        borrow(&self.plain).try_clone_to_owned()
    }

    /// Runs an operation that the ring has not got on a helper thread.
    fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&std::fs::File) -> io::Result<T> + Send + 'static,
    ) -> LocalBoxFuture<'_, io::Result<T>> {
        let copy = self.copy();
        Box::pin(async move {
            let file = std::fs::File::from(copy?);
            off_core(move || operation(&file)).await
        })
    }

    async fn write(&self, data: Bytes, offset: u64) -> io::Result<()> {
        if self.durable_writes {
            path::check_direct(&data, offset)?;
        }
        if let Some(direct) = self.direct.as_ref().filter(|_| !self.direct_refused.get()) {
            match write_all(direct, data.clone(), offset, BLOCK).await {
                Err(error) if path::refuses_direct(&error) => self.direct_refused.set(true),
                result => return result,
            }
        }
        write_all(&self.plain, data, offset, 1).await?;
        if self.durable_writes { self.plain.sync_data().await } else { Ok(()) }
    }
}

/// Writes until nothing is left. After a short write it goes on at a multiple of `unit`.
async fn write_all(file: &fs::File, mut data: Bytes, mut offset: u64, unit: usize) -> io::Result<()> {
    while !data.is_empty() {
        let part = Bytes::slice(&data, ..data.len().min(OPERATION_SIZE_MAX));
        match file.write_at(part, offset).submit().await.0 {
            Ok(count) => {
                let count = count - count % unit;
                if count == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                data.advance(count);
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl File for RingFile {
    fn read_at(&self, mut buf: Vec<u8>, offset: u64) -> LocalBoxFuture<'_, (io::Result<usize>, Vec<u8>)> {
        Box::pin(async move {
            if buf.capacity() == 0 {
                return (Ok(0), buf);
            }
            loop {
                buf.clear();
                let size = buf.capacity().min(OPERATION_SIZE_MAX);
                let (result, slice) = self.plain.read_at(buf.slice(..size), offset).await;
                buf = slice.into_inner();
                match result {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => return (result, buf),
                }
            }
        })
    }
    fn write_at(&self, data: Bytes, offset: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(self.write(data, offset))
    }
    fn sync_data(&self) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(self.plain.sync_data())
    }
    fn set_len(&self, size_bytes: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        self.run(move |file| file.set_len(size_bytes))
    }
    fn allocate(&self, size_bytes: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            match self.plain.fallocate(0, size_bytes, 0).await {
                Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => {
                    self.run(move |file| path::allocate_by_writing(file, size_bytes)).await
                }
                result => result,
            }
        })
    }
    fn metadata(&self) -> LocalBoxFuture<'_, io::Result<Metadata>> {
        Box::pin(std::future::ready(path::file_metadata(borrow(&self.plain))))
    }
    fn map(&self) -> io::Result<Bytes> {
        self.maps.map(borrow(&self.plain))
    }
    fn map_mut(&self, size_bytes: usize) -> io::Result<Box<dyn MapMut>> {
        mmap::map_mut(borrow(&self.plain), size_bytes)
    }
    fn prefetch(&self, range: Range<u64>) -> LocalBoxFuture<'_, io::Result<()>> {
        self.run(move |file| mmap::fault_in(file, range))
    }
    fn forget(&self, map: &Bytes, range: Range<u64>) {
        self.maps.forget(self.copy(), map, range);
    }
}
