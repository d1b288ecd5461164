//! What the engines over a real kernel have in common: everything but how bytes of a file move.
//!
//! Path operations other than open, rename, remove and sync run on helper threads in both engines: the
//! kernel punts them from a ring to worker threads of its own, so a ring would gain nothing.

use std::cell::Cell;
use std::ffi::OsString;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::{
    Engine, EngineKind, File, FileType, ListenOptions, Listener, LocalBoxFuture, Lock, Metadata, OpenOptions,
    Space, Stream, Transport, Udp, Watch, claim, net, off_core, path, watch,
};

/// How an engine opens files and changes names.
pub(super) trait Files: 'static {
    /// Which engine this makes.
    const KIND: EngineKind;
    /// [`Engine::open`].
    fn open(path: PathBuf, options: OpenOptions) -> LocalBoxFuture<'static, io::Result<Rc<dyn File>>>;
    /// [`Engine::rename`].
    fn rename(from: PathBuf, to: PathBuf) -> LocalBoxFuture<'static, io::Result<()>>;
    /// [`Engine::remove_file`].
    fn remove_file(path: PathBuf) -> LocalBoxFuture<'static, io::Result<()>>;
    /// [`Engine::sync_dir`].
    fn sync_dir(path: PathBuf) -> LocalBoxFuture<'static, io::Result<()>>;
}

/// An engine over a real kernel.
pub(super) struct Kernel<F> {
    random: Cell<u64>,
    files: std::marker::PhantomData<F>,
}

impl<F: Files> Kernel<F> {
    /// An engine for the runtime of this thread.
    pub(super) fn new() -> Self {
        // The standard library seeds each `RandomState` differently, from the kernel's generator.
        let seed = RandomState::new().build_hasher().finish();
        Self { random: Cell::new(seed), files: std::marker::PhantomData }
    }
}

/// The start that monotonic time counts from: one for all shards, so that their times compare.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// Runs a blocking path operation on a helper thread.
fn on_path<T: Send + 'static>(
    path: &Path,
    operation: fn(&Path) -> io::Result<T>,
) -> LocalBoxFuture<'static, io::Result<T>> {
    let path = path.to_owned();
    Box::pin(off_core(move || operation(&path)))
}

impl<F: Files> Engine for Kernel<F> {
    fn kind(&self) -> EngineKind {
        F::KIND
    }

    fn open(&self, path: &Path, options: OpenOptions) -> LocalBoxFuture<'static, io::Result<Rc<dyn File>>> {
        F::open(path.to_owned(), options)
    }
    fn rename(&self, from: &Path, to: &Path) -> LocalBoxFuture<'static, io::Result<()>> {
        F::rename(from.to_owned(), to.to_owned())
    }
    fn rename_new(&self, from: &Path, to: &Path) -> LocalBoxFuture<'static, io::Result<()>> {
        let (from, to) = (from.to_owned(), to.to_owned());
        Box::pin(off_core(move || path::rename_new(&from, &to)))
    }
    fn remove_file(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<()>> {
        F::remove_file(path.to_owned())
    }
    fn remove_dir(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<()>> {
        on_path(path, |p| std::fs::remove_dir(p))
    }
    fn create_dir_all(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<()>> {
        on_path(path, |p| std::fs::create_dir_all(p))
    }
    fn read_dir(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<Vec<(OsString, FileType)>>> {
        on_path(path, path::read_dir)
    }
    fn metadata(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<Metadata>> {
        on_path(path, path::metadata)
    }
    fn sync_dir(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<()>> {
        F::sync_dir(path.to_owned())
    }
    fn space(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<Space>> {
        on_path(path, path::space)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        path::lock(path)
    }
    fn watch(&self, directory: &Path) -> io::Result<Box<dyn Watch>> {
        watch::open(directory)
    }

    fn claim_port(&self, address: SocketAddr, transport: Transport) -> io::Result<Box<dyn Lock>> {
        claim::claim_port(address, transport)
    }
    fn listen(&self, address: SocketAddr, options: ListenOptions) -> io::Result<Rc<dyn Listener>> {
        net::listen(address, options)
    }
    fn bind_udp(&self, address: SocketAddr, shared: bool) -> io::Result<Rc<dyn Udp>> {
        net::bind_udp(address, shared)
    }
    fn connect(&self, address: SocketAddr) -> LocalBoxFuture<'static, io::Result<Box<dyn Stream>>> {
        Box::pin(net::connect(address))
    }
    fn resolve(&self, host: &str, port: u16) -> LocalBoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect()) })
    }

    fn now(&self) -> Duration {
        // tokio's clock is the system's, except in tests that pause it.
        let epoch = epoch();
        Instant::now().saturating_duration_since(epoch)
    }
    fn unix_time(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
    fn random(&self) -> u64 {
        super::split_mix(&self.random)
    }
}
