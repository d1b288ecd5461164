//! The seam to the kernel: the only module with system calls and `unsafe`.
//!
//! Everything a shard does with files, sockets and time goes through an [`Io`], a handle to one of the
//! engines: `uring` (tokio-uring, default), `portable` (threads, pwrite, fdatasync) and, in tests, `sim`
//! (simulated disk, network and clock). Futures are local to the shard's thread. A buffer given to the
//! kernel is shared (`Bytes`) or goes in by value and comes back, so that dropping a future frees nothing
//! the kernel still uses.

use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::{Deref, Range};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

pub mod buffer;
mod claim;
mod deal;
#[cfg(feature = "glommio")]
mod dma;
mod gssapi;
pub mod kerberos;
mod kernel;
pub mod machine;
mod mmap;
mod net;
mod path;
mod portable;
pub mod probe;
mod process;
mod runtime;
pub mod service;
#[cfg(any(test, feature = "testing"))]
pub mod sim;
pub mod stop;
#[cfg(test)]
mod tests;
pub mod tls;
mod uring;
mod watch;
pub mod zlib;

pub use process::{Child, spawn_process};
pub(crate) use runtime::leave_core;
pub use runtime::{pin_to_core, run_local};

/// A boxed future that stays on its shard; one per operation or batch, never per event.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Which engine an [`Io`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// tokio-uring: files through the ring, sockets through tokio on the same thread.
    Uring,
    /// Threads, pwrite and fdatasync.
    Portable,
    /// glommio: files through a storage executor per shard, sockets through tokio. Only in builds with the
    /// feature `glommio`.
    Glommio,
    /// Simulated disk, network and clock.
    Sim,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::Portable => "portable",
            Self::Glommio => "glommio",
            Self::Sim => "sim",
        })
    }
}

/// One shard's handle to its engine. Cheap to clone; not `Send`.
#[derive(Clone)]
pub struct Io(Rc<dyn Engine>);

impl Io {
    /// Wraps an engine.
    pub fn new(engine: Rc<dyn Engine>) -> Self {
        Self(engine)
    }
}
impl Deref for Io {
    type Target = dyn Engine;
    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}
impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Io({})", self.kind())
    }
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Open for writing as well as reading.
    pub write: bool,
    /// Create the file if it does not exist.
    pub create: bool,
    /// Fail if it exists.
    pub create_new: bool,
    /// Cut it to nothing.
    pub truncate: bool,
    /// Writes bypass the page cache and are durable when they return (`O_DIRECT|O_DSYNC`). Buffers, sizes
    /// and offsets must then be multiples of [`buffer::BLOCK`]. Where the file system refuses
    /// `O_DIRECT` (tmpfs), the engine falls back to write + fdatasync.
    pub direct_sync: bool,
}

impl OpenOptions {
    /// Read only.
    pub const READ: Self =
        Self { write: false, create: false, create_new: false, truncate: false, direct_sync: false };
    /// Read and write, created if missing.
    pub const WRITE: Self = Self { write: true, create: true, ..Self::READ };
    /// Read and write, must not exist.
    pub const CREATE_NEW: Self = Self { create_new: true, ..Self::WRITE };
    /// Read and write, emptied.
    pub const TRUNCATE: Self = Self { truncate: true, ..Self::WRITE };
    /// Read and durable direct write, created if missing.
    pub const DIRECT: Self = Self { direct_sync: true, ..Self::WRITE };
}

/// What `stat` says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Bytes the file occupies on disk.
    pub allocated_bytes: u64,
    /// Time of last modification.
    pub modified: SystemTime,
    /// Number of names; 0 = deleted but open.
    pub links: u64,
    /// Regular file, directory or something else.
    pub file_type: FileType,
}

/// Kind of a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link (only from [`Engine::read_dir`]; `metadata` follows links).
    Symlink,
    /// Pipe, socket, device.
    Other,
}

/// Space of a file system in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What an unprivileged user may still write.
    pub available_bytes: u64,
    /// Size of the file system.
    pub total_bytes: u64,
}

/// What can change under a watched directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A name in the directory appeared, disappeared or was renamed.
    Names,
    /// A file of this name was written to.
    Written(OsString),
    /// The kernel dropped notifications: look at everything.
    Overflow,
}

/// How to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Other shards of this process listen on the same address (`SO_REUSEPORT`). A port that another
    /// process listens on is refused all the same: the caller claims it first with [`Engine::claim_port`].
    pub shared: bool,
    /// Length of the queue of connections not yet accepted.
    pub backlog: u32,
}

/// One core's way to the kernel. See [`Io`].
pub trait Engine {
    /// Which engine.
    fn kind(&self) -> EngineKind;

    /// Opens a file.
    fn open(&self, path: &Path, options: OpenOptions) -> LocalBoxFuture<'static, io::Result<Rc<dyn File>>>;
    /// `rename(2)`: replaces the target.
    fn rename(&self, from: &Path, to: &Path) -> LocalBoxFuture<'static, io::Result<()>>;
    /// `renameat2(2)` with `RENAME_NOREPLACE`: fails with `AlreadyExists` if the target exists.
    fn rename_new(&self, from: &Path, to: &Path) -> LocalBoxFuture<'static, io::Result<()>>;
    /// `unlink(2)`.
    fn remove_file(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<()>>;
    /// `rmdir(2)`.
    fn remove_dir(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<()>>;
    /// Creates a directory and its parents.
    fn create_dir_all(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<()>>;
    /// Names and kinds in a directory, in no order.
    fn read_dir(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<Vec<(OsString, FileType)>>>;
    /// `stat(2)`, following links.
    fn metadata(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<Metadata>>;
    /// Makes names created, renamed or removed in a directory durable.
    fn sync_dir(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<()>>;
    /// Space of the file system a path lies on.
    fn space(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<Space>>;
    /// Takes an exclusive lock (`flock(2)`) on a file, created if missing; held until dropped.
    ///
    /// # Errors
    /// `WouldBlock` if somebody else holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
    /// Watches a directory (inotify).
    ///
    /// # Errors
    /// Where no watch can be had the caller polls.
    fn watch(&self, directory: &Path) -> io::Result<Box<dyn Watch>>;

    /// Claims a TCP or UDP address for this process, so that a second process is refused although shards
    /// share it by `SO_REUSEPORT`. Held until dropped; shards of one process claim it once.
    fn claim_port(&self, address: SocketAddr, transport: Transport) -> io::Result<Box<dyn Lock>>;
    /// Listens on a TCP address.
    fn listen(&self, address: SocketAddr, options: ListenOptions) -> io::Result<Rc<dyn Listener>>;
    /// Binds a UDP address.
    fn bind_udp(&self, address: SocketAddr, shared: bool) -> io::Result<Rc<dyn Udp>>;
    /// Connects to a TCP address; `TCP_NODELAY` and keep-alive are on.
    fn connect(&self, address: SocketAddr) -> LocalBoxFuture<'static, io::Result<Box<dyn Stream>>>;
    /// Resolves a host name (off the core).
    fn resolve(&self, host: &str, port: u16) -> LocalBoxFuture<'static, io::Result<Vec<SocketAddr>>>;

    /// Monotonic time since an arbitrary start.
    fn now(&self) -> Duration;
    /// Wall-clock time since 1970-01-01T00:00:00Z.
    fn unix_time(&self) -> Duration;
    /// Waits.
    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()>;
    /// Random bits, for names and jitter, not for keys.
    fn random(&self) -> u64;
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Stream sockets.
    Tcp,
    /// Datagram sockets.
    Udp,
}

/// A lock or claim, given back when dropped.
pub trait Lock: fmt::Debug {}

/// An open file. Reads and writes carry their own offset.
pub trait File {
    /// Reads up to `buf.capacity()` bytes at `offset` into `buf` (emptied first); short only at the end of
    /// the file or by chance. The buffer comes back with what was read.
    fn read_at(&self, buf: Vec<u8>, offset: u64) -> LocalBoxFuture<'_, (io::Result<usize>, Vec<u8>)>;
    /// Writes all of `data` at `offset`.
    fn write_at(&self, data: Bytes, offset: u64) -> LocalBoxFuture<'_, io::Result<()>>;
    /// Makes what was written durable (`fdatasync(2)`). Not needed after direct writes.
    fn sync_data(&self) -> LocalBoxFuture<'_, io::Result<()>>;
    /// Sets the size; a longer file is padded with zeros (a hole).
    fn set_len(&self, size_bytes: u64) -> LocalBoxFuture<'_, io::Result<()>>;
    /// Reserves room on disk for the first `size_bytes`, so that later writes cannot fail for lack of it.
    fn allocate(&self, size_bytes: u64) -> LocalBoxFuture<'_, io::Result<()>>;
    /// `fstat(2)`.
    fn metadata(&self) -> LocalBoxFuture<'_, io::Result<Metadata>>;
    /// Maps the whole file for reading. The bytes stay valid while the value lives, even if the file is
    /// deleted; the caller sees to it that mapped parts are not overwritten or cut off meanwhile.
    fn map(&self) -> io::Result<Bytes>;
    /// Maps the first `size_bytes` for writing (shared).
    fn map_mut(&self, size_bytes: usize) -> io::Result<Box<dyn MapMut>>;
    /// Brings a range of the file into the page cache, off the core, so that reading it through
    /// [`File::map`] does not stall the shard.
    fn prefetch(&self, range: Range<u64>) -> LocalBoxFuture<'_, io::Result<()>>;
    /// Tells the kernel that a range of a mapping or of the page cache will not be needed soon.
    fn forget(&self, map: &Bytes, range: Range<u64>);
}

/// A shared writable mapping. Stores survive the death of the process at once, power loss after `flush`.
pub trait MapMut {
    /// Size in bytes.
    fn len(&self) -> usize;
    /// True for an empty mapping.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Copies bytes into the mapping. Panics outside its range.
    fn write(&mut self, offset: usize, bytes: &[u8]);
    /// Copies bytes out of the mapping. Panics outside its range.
    fn read(&self, offset: usize, into: &mut [u8]);
    /// Makes a range durable (`msync(2)`, off the core).
    fn flush(&self, range: Range<usize>) -> LocalBoxFuture<'static, io::Result<()>>;
}

/// A listening TCP socket.
pub trait Listener {
    /// Next connection and the peer's address.
    fn accept(&self) -> LocalBoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>>;
    /// The address it listens on, with the real port if 0 was asked for.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A UDP socket.
pub trait Udp {
    /// Next datagram: size in `buf` (up to its capacity; the rest is cut off) and the sender.
    fn recv_from(&self, buf: Vec<u8>) -> LocalBoxFuture<'_, (io::Result<SocketAddr>, Vec<u8>)>;
    /// Sends a datagram.
    fn send_to(&self, data: Bytes, to: SocketAddr) -> LocalBoxFuture<'_, io::Result<()>>;
    /// The address it is bound to.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A connected byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A watched directory.
pub trait Watch {
    /// Next changes; waits for at least one.
    fn changed(&mut self) -> LocalBoxFuture<'_, io::Result<Vec<Change>>>;
}

/// Runs a future on this shard beside the caller.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> tokio::task::JoinHandle<T> {
    tokio::task::spawn_local(future)
}

/// Runs blocking work on a helper thread; for foreign blocking libraries and page faults only.
///
/// Dropping the future does not stop the work.
pub async fn off_core<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let job = tokio::task::spawn_blocking(move || {
        leave_core();
        work()
    });
    match job.await.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(value) => value,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime is going down, and the task that waits here with it.
        Err(Err(_cancelled)) => std::future::pending().await,
    }
}

/// The next number of a SplitMix64 sequence: quick, and good enough for names and jitter.
fn split_mix(state: &std::cell::Cell<u64>) -> u64 {
    state.set(state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
    let mut z = state.get();
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
