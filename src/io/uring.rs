//! The default engine: files through io_uring (tokio-uring), sockets and timers through tokio on the same
//! thread.

#![allow(unsafe_code, reason = "tokio-uring gives its descriptors as numbers only, and submits too late")]

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Mutex;
use std::task::Poll;
use std::time::Duration;

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

/// Attempts to tell a new ring among the open files; another thread's must end in the same microsecond for
/// one to fail.
const ATTEMPTS_MAX: usize = 8;
/// Pause before operations that the kernel had no room for are offered again.
const RETRY_PAUSE: Duration = Duration::from_millis(1);

thread_local!(
    /// The ring of this thread's runtime, while it runs.
    static RING: RefCell<Option<Rc<OwnedFd>>> = const { RefCell::new(None) }
);

/// A tokio runtime with a ring, for this thread.
pub(super) struct Runtime {
    runtime: tokio_uring::Runtime,
    ring: Rc<OwnedFd>,
}

/// Makes a runtime.
///
/// # Errors
/// If the kernel has no ring for us, or does not say which descriptor it is.
pub(super) fn runtime() -> io::Result<Runtime> {
    /// Rings are made one at a time, so that a new one is ours.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    for _ in 0..ATTEMPTS_MAX {
        let before = rings()?;
        let mut builder = tokio_uring::uring_builder();
        builder.setup_cqsize(COMPLETIONS);
        let runtime =
            tokio_uring::Runtime::new(tokio_uring::builder().entries(SUBMISSIONS).uring_builder(&builder))?;
        let after = rings()?;
        // None if a ring that ended meanwhile left its number to the new one.
        if let Some(fd) = after.iter().find(|fd| !before.contains(fd)) {
            // SAFETY: found open just now; whether it is the right one is seen below.
            let ring = unsafe { BorrowedFd::borrow_raw(*fd) }.try_clone_to_owned()?;
            let runtime = Runtime { runtime, ring: Rc::new(ring) };
            if runtime.submits() {
                return Ok(runtime);
            }
        }
    }
    Err(io::Error::other("cannot tell the new ring among the open files"))
}

/// Descriptors of the rings of this process.
fn rings() -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // Another thread may have closed it since.
        let is_ring = std::fs::read_link(entry.path()).is_ok_and(|l| l == Path::new("anon_inode:[io_uring]"));
        if is_ring && let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push(fd);
        }
    }
    Ok(found)
}

impl Runtime {
    /// True if [`submit`] reaches this runtime's ring: the kernel takes the one operation that is queued.
    fn submits(&self) -> bool {
        self.block_on(async {
            let mut operation = std::pin::pin!(tokio_uring::no_op());
            let queued =
                std::future::poll_fn(|cx| Poll::Ready(operation.as_mut().poll(cx).is_pending())).await;
            queued && submit().is_ok_and(|taken| taken == 1)
        })
    }

    /// Runs a future to its end on this thread.
    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        struct Leave;
        impl Drop for Leave {
            fn drop(&mut self) {
                RING.with(|ring| ring.take());
            }
        }
        RING.with(|ring| ring.replace(Some(self.ring.clone())));
        let _leave = Leave;
        self.runtime.block_on(future)
    }
}

/// Hands everything queued to the kernel; gives the number of operations it took.
fn submit() -> io::Result<libc::c_long> {
    RING.with(|ring| {
        let Some(ring) = &*ring.borrow() else { return Ok(0) };
        let fd = ring.as_raw_fd();
        let (wait_for, flags, no_mask, mask_size) = (0, 0, std::ptr::null::<libc::sigset_t>(), 0_usize);
        // SAFETY: io_uring_enter(2) takes no pointer here. What it submits was put into the queue by
        // tokio-uring, complete and with its buffers held, on this thread.
        let taken = unsafe {
            libc::syscall(libc::SYS_io_uring_enter, fd, SUBMISSIONS, wait_for, flags, no_mask, mask_size)
        };
        if taken < 0 { Err(io::Error::last_os_error()) } else { Ok(taken) }
    })
}

/// Sees an operation of the ring through, and to it that it begins at once.
///
/// tokio-uring hands its queue to the kernel only when the thread is about to sleep. On a core that always
/// has something to do, such as reading busy sockets, that is never: the log would stand still.
async fn at_once<T>(operation: impl Future<Output = T>) -> T {
    let mut operation = std::pin::pin!(operation);
    let mut queued = false;
    std::future::poll_fn(move |cx| {
        let polled = operation.as_mut().poll(cx);
        if polled.is_pending() && !std::mem::replace(&mut queued, true) && submit().is_err() {
            // Out of memory for requests, or the completion queue is full; both pass.
            super::spawn(async {
                while submit().is_err() {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            });
        }
        polled
    })
    .await
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
                .clone();
            let plain = at_once(plain.open(&path)).await?;
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
        Box::pin(at_once(fs::rename(from, to)))
    }
    fn remove_file(path: PathBuf) -> LocalBoxFuture<'static, io::Result<()>> {
        Box::pin(at_once(fs::remove_file(path)))
    }
    fn sync_dir(path: PathBuf) -> LocalBoxFuture<'static, io::Result<()>> {
        Box::pin(async move {
            let options = fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).clone();
            let directory = at_once(options.open(path)).await?;
            at_once(directory.sync_all()).await
        })
    }
}

/// See [`path::open_direct`].
async fn open_direct(path: &Path, plain: &fs::File) -> io::Result<Option<fs::File>> {
    let options = fs::OpenOptions::new().read(true).write(true).custom_flags(path::DIRECT_FLAGS).clone();
    match at_once(options.open(path)).await {
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
        if self.durable_writes { at_once(self.plain.sync_data()).await } else { Ok(()) }
    }
}

/// Writes until nothing is left. After a short write it goes on at a multiple of `unit`.
async fn write_all(file: &fs::File, mut data: Bytes, mut offset: u64, unit: usize) -> io::Result<()> {
    while !data.is_empty() {
        let part = Bytes::slice(&data, ..data.len().min(OPERATION_SIZE_MAX));
        match at_once(file.write_at(part, offset).submit()).await.0 {
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
                let (result, slice) = at_once(self.plain.read_at(buf.slice(..size), offset)).await;
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
        Box::pin(at_once(self.plain.sync_data()))
    }
    fn set_len(&self, size_bytes: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        self.run(move |file| file.set_len(size_bytes))
    }
    fn allocate(&self, size_bytes: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            match at_once(self.plain.fallocate(0, size_bytes, 0)).await {
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
