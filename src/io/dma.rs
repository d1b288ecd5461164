//! The engine of `--features glommio`: files through a storage executor of their own, sockets and timers
//! through tokio.
//!
//! Each shard has a glommio executor on a thread beside its own, which is not pinned. Durable direct writes go
//! through DMA files (`O_DIRECT|O_DSYNC`, from registered memory), everything else of a file through buffered
//! ones. The shard sends jobs and gets answers; nothing is shared between the two threads but file descriptors.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes};
use glommio::io::{BufferedFile, DmaFile, OpenOptions as DmaOptions};
use glommio::{ExecutorJoinHandle, GlommioError, LocalExecutorBuilder, Placement};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::buffer::BLOCK;
use super::kernel::Files;
use super::mmap::{self, Maps};
use super::{EngineKind, File, LocalBoxFuture, MapMut, Metadata, OpenOptions, leave_core, off_core, path};

/// Registered memory of one executor in bytes: the four writes in flight of a log, 512 KiB each. More comes
/// from the heap. It is locked, and so counts against `RLIMIT_MEMLOCK`, which glommio wants to be 512 KiB.
const REGISTERED_BYTES: usize = 2 << 20;
/// Submission queue of each of an executor's three rings.
const SUBMISSIONS: usize = 128;
/// Largest single read or write. Small in tests, so that they see what follows a short write.
const OPERATION_SIZE_MAX: usize = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// Pause between looks at jobs that are still under way when an executor ends.
const DRAIN_PAUSE: Duration = Duration::from_millis(1);

/// Runs on the executor's thread.
type Job = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

thread_local!(
    /// Jobs for this shard's executor. The queue is not bounded by itself: a shard has 4 writes per log, one
    /// read per tailed or spooled file and a sync per output file under way, and closes.
    static JOBS: RefCell<Option<mpsc::UnboundedSender<Job>>> = const { RefCell::new(None) };
    /// On the executor's thread: its open files.
    static OPEN: RefCell<std::collections::HashMap<u64, Rc<Handles>>> = RefCell::default();
);

/// A tokio runtime for this thread, and the executor beside it.
pub(super) struct Runtime {
    runtime: tokio::runtime::Runtime,
    jobs: mpsc::UnboundedSender<Job>,
    executor: ExecutorJoinHandle<()>,
}

/// Makes a runtime, and an executor that has proved that it works.
///
/// # Errors
/// What keeps glommio from having its rings.
pub(super) fn runtime(helper_threads_max: usize) -> io::Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(helper_threads_max)
        .build()?;
    let (jobs, queue) = mpsc::unbounded_channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .name("storage")
        .io_memory(REGISTERED_BYTES)
        .ring_depth(SUBMISSIONS)
        .spawn(move || async move {
            leave_core();
            let _ = ready.send(());
            serve(queue).await;
        })
        .map_err(plain_error)?;
    if is_ready.recv().is_ok() {
        return Ok(Runtime { runtime, jobs, executor });
    }
    match executor.join() {
        Err(error) => Err(plain_error(error)),
        Ok(()) => Err(io::Error::other("the storage executor ended at once")),
    }
}

/// Starts each job as it comes; when no more can come, waits for those under way.
async fn serve(mut queue: mpsc::UnboundedReceiver<Job>) {
    let under_way = Rc::new(());
    while let Some(job) = queue.recv().await {
        let token = Rc::clone(&under_way);
        glommio::spawn_local(async move {
            job().await;
            drop(token);
        })
        .detach();
    }
    while Rc::strong_count(&under_way) > 1 {
        glommio::timer::sleep(DRAIN_PAUSE).await;
    }
    OPEN.with(|open| open.take());
}

impl Runtime {
    /// Runs a future to its end on this thread, and then the executor to its.
    pub(super) fn block_on<F: Future>(self, future: F) -> F::Output {
        struct Leave;
        impl Drop for Leave {
            fn drop(&mut self) {
                JOBS.with(|jobs| jobs.take());
            }
        }
        let Self { runtime, jobs, executor } = self;
        let leave = Leave;
        JOBS.with(|current| current.replace(Some(jobs)));
        let tasks = LocalSet::new();
        let output = tasks.block_on(&runtime, future);
        // What was spawned may hold files, whose ends are jobs too.
        drop(tasks);
        drop(leave);
        if let Err(error) = executor.join() {
            tracing::error!(%error, "the storage executor failed");
        }
        output
    }
}

/// Sends a job; `None` if the executor is gone.
fn send<T: Send + 'static, F: Future<Output = T> + 'static>(
    work: impl FnOnce() -> F + Send + 'static,
) -> Option<oneshot::Receiver<T>> {
    let (answer, answered) = oneshot::channel();
    let job: Job = Box::new(move || {
        Box::pin(async move {
            let _ = answer.send(work().await);
        })
    });
    let sent = JOBS.with(|jobs| jobs.borrow().as_ref().is_some_and(|jobs| jobs.send(job).is_ok()));
    sent.then_some(answered)
}

/// Has work done by the executor.
async fn on_storage<T: Send + 'static, F: Future<Output = io::Result<T>> + 'static>(
    work: impl FnOnce() -> F + Send + 'static,
) -> io::Result<T> {
    let gone = || io::Error::other("the storage executor has ended");
    send(work).ok_or_else(gone)?.await.map_err(|_| gone())?
}

/// The kernel's own error, whose number says what to do about it.
fn plain_error(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::IoError(source) | GlommioError::EnhancedIoError { source, .. } => source,
        other => io::Error::other(other.to_string()),
    }
}

/// Files through the executor.
pub(super) struct Dma;

impl Files for Dma {
    const KIND: EngineKind = EngineKind::Glommio;

    fn open(path: PathBuf, options: OpenOptions) -> LocalBoxFuture<'static, io::Result<Rc<dyn File>>> {
        /// Names open files between the threads.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Box::pin(async move {
            let plain = Arc::new(off_core(move || path::open(&path, options)).await?);
            let id = NEXT.fetch_add(1, Ordering::Relaxed);
            // Closed by its drop if what follows fails.
            let file = DmaShare { id, plain: plain.clone(), maps: Maps::default() };
            on_storage(move || async move {
                let handles = Handles::new(&plain, options).await?;
                OPEN.with(|open| open.borrow_mut().insert(id, Rc::new(handles)));
                Ok(())
            })
            .await?;
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

/// A file as the executor has it.
struct Handles {
    plain: BufferedFile,
    /// For direct writes, if the file system takes them.
    direct: Option<DmaFile>,
    /// Writes are to be durable when they return.
    durable_writes: bool,
    /// The file system took `O_DIRECT` at open but refused a write.
    direct_refused: Cell<bool>,
}

impl Handles {
    #[allow(unsafe_code, reason = "glommio takes descriptors as numbers only")]
    async fn new(file: &std::fs::File, options: OpenOptions) -> io::Result<Self> {
        let copy = file.as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is a fresh copy, given away here and closed by its new owner.
        let plain = unsafe { BufferedFile::from_raw_fd(copy.into_raw_fd()) };
        let direct = if options.direct_sync { open_direct(file).await? } else { None };
        let durable_writes = options.direct_sync;
        Ok(Self { plain, direct, durable_writes, direct_refused: Cell::new(false) })
    }

    async fn write(&self, data: Bytes, offset: u64) -> io::Result<()> {
        if let Some(direct) = self.direct.as_ref().filter(|_| !self.direct_refused.get()) {
            match write_direct(direct, data.clone(), offset).await {
                Err(error) if path::refuses_direct(&error) => self.direct_refused.set(true),
                result => return result,
            }
        }
        write_plain(&self.plain, data, offset).await?;
        if self.durable_writes { self.plain.fdatasync().await.map_err(plain_error) } else { Ok(()) }
    }

    async fn read(&self, buf: &mut Vec<u8>, offset: u64) -> io::Result<usize> {
        buf.clear();
        let size = buf.capacity().min(OPERATION_SIZE_MAX);
        if size == 0 {
            return Ok(0);
        }
        loop {
            match self.plain.read_at(offset, size).await.map_err(plain_error) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(read) => {
                    buf.extend_from_slice(&read);
                    return Ok(read.len());
                }
            }
        }
    }
}

/// The DMA file of a file that is open, by way of its descriptor and so surely the same; see
/// [`path::open_direct`].
async fn open_direct(file: &std::fs::File) -> io::Result<Option<DmaFile>> {
    let name = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let mut options = DmaOptions::new();
    options.read(true).write(true).custom_flags(path::DIRECT_FLAGS);
    match options.dma_open(name).await.map_err(plain_error) {
        Ok(direct) => Ok(Some(direct)),
        Err(error) if path::refuses_direct(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How far a write got: the bytes the kernel took, in whole `unit`s.
fn taken(written: io::Result<usize>, unit: usize) -> io::Result<usize> {
    match written {
        Ok(count) if count < unit => Err(io::ErrorKind::WriteZero.into()),
        Ok(count) => Ok(count - count % unit),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(error) => Err(error),
    }
}

async fn write_direct(file: &DmaFile, mut data: Bytes, mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        let size = data.len().min(OPERATION_SIZE_MAX);
        let mut buffer = file.alloc_dma_buffer(size);
        buffer.as_bytes_mut().copy_from_slice(&data[..size]);
        let count = taken(file.write_at(buffer, offset).await.map_err(plain_error), BLOCK)?;
        data.advance(count);
        offset += count as u64;
    }
    Ok(())
}

async fn write_plain(file: &BufferedFile, mut data: Bytes, mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        let size = data.len().min(OPERATION_SIZE_MAX);
        let count = taken(file.write_at(data[..size].to_vec(), offset).await.map_err(plain_error), 1)?;
        data.advance(count);
        offset += count as u64;
    }
    Ok(())
}

/// A file as the shard has it.
struct DmaShare {
    id: u64,
    plain: Arc<std::fs::File>,
    maps: Maps,
}

impl DmaShare {
    /// Has something done with the executor's half.
    fn on_handles<T: Send + 'static, F: Future<Output = io::Result<T>> + 'static>(
        &self,
        work: impl FnOnce(Rc<Handles>) -> F + Send + 'static,
    ) -> LocalBoxFuture<'_, io::Result<T>> {
        let id = self.id;
        Box::pin(on_storage(move || async move {
            let handles = OPEN.with(|open| open.borrow().get(&id).cloned());
            work(handles.ok_or_else(|| io::Error::other("the file is closed"))?).await
        }))
    }

    /// Runs what the executor has not got on a helper thread.
    fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&std::fs::File) -> io::Result<T> + Send + 'static,
    ) -> LocalBoxFuture<'_, io::Result<T>> {
        let plain = self.plain.clone();
        Box::pin(off_core(move || operation(&plain)))
    }
}

impl Drop for DmaShare {
    fn drop(&mut self) {
        let id = self.id;
        // Behind every operation that was sent before; those under way hold the file themselves.
        let _ = send(move || async move {
            OPEN.with(|open| open.borrow_mut().remove(&id));
        });
    }
}

impl File for DmaShare {
    fn read_at(&self, mut buf: Vec<u8>, offset: u64) -> LocalBoxFuture<'_, (io::Result<usize>, Vec<u8>)> {
        let read = self.on_handles(move |handles| async move {
            let result = handles.read(&mut buf, offset).await;
            Ok((result, buf))
        });
        Box::pin(async move { read.await.unwrap_or_else(|error| (Err(error), Vec::new())) })
    }
    fn write_at(&self, data: Bytes, offset: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        self.on_handles(move |handles| async move {
            if handles.durable_writes {
                path::check_direct(&data, offset)?;
            }
            handles.write(data, offset).await
        })
    }
    fn sync_data(&self) -> LocalBoxFuture<'_, io::Result<()>> {
        self.on_handles(|handles| async move { handles.plain.fdatasync().await.map_err(plain_error) })
    }
    fn set_len(&self, size_bytes: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        self.run(move |file| file.set_len(size_bytes))
    }
    fn allocate(&self, size_bytes: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        self.run(move |file| path::allocate(file, size_bytes))
    }
    fn metadata(&self) -> LocalBoxFuture<'_, io::Result<Metadata>> {
        Box::pin(std::future::ready(path::file_metadata(&*self.plain)))
    }
    fn map(&self) -> io::Result<Bytes> {
        self.maps.map(&*self.plain)
    }
    fn map_mut(&self, size_bytes: usize) -> io::Result<Box<dyn MapMut>> {
        mmap::map_mut(&*self.plain, size_bytes)
    }
    fn prefetch(&self, range: Range<u64>) -> LocalBoxFuture<'_, io::Result<()>> {
        self.run(move |file| mmap::fault_in(file, range))
    }
    fn forget(&self, map: &Bytes, range: Range<u64>) {
        self.maps.forget(self.plain.as_fd().try_clone_to_owned(), map, range);
    }
}
