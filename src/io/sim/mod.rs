//! The simulated engine: disk, network and clock behind the same traits, one seed, virtual time.
//!
//! For tests of what the machine room does to a program: power that goes, writes that tear or fail, full
//! disks, flipped bits, late completions, cut connections. A harness owns a [`World`]; the [`Disk`] in it
//! keeps its bytes from one life of the program to the next:
//!
//! ```
//! use millrace::io::sim::{Outcome, StopKind, World};
//! use millrace::io::OpenOptions;
//! # use std::path::Path;
//!
//! let world = World::new(42);
//! world.disk.stop_at(1, StopKind::PowerLoss); // the second durability point is not reached
//! let life = world.run(|io| async move {
//!     let file = io.open(Path::new("/log"), OpenOptions::CREATE_NEW).await.unwrap();
//!     io.sync_dir(Path::new("/")).await.unwrap();
//!     file.write_at("acknowledged?".into(), 0).await.unwrap();
//!     file.sync_data().await.unwrap();
//! });
//! assert!(matches!(life, Outcome::PowerLost));
//! let found = world.run(|io| async move { io.metadata(Path::new("/log")).await.is_ok() });
//! assert!(matches!(found, Outcome::Finished(true)));
//! ```
//!
//! **Crash tests.** Count [`Stats::durability_points`] of a run that ends well, then run again on a fresh
//! world for every point, with [`Disk::stop_at`]; after each, run recovery and check the promises. A point
//! that stops the machine is not reached: its data are in flight, and a loss of power may keep, lose or
//! tear them. [`World::stop_after`] and [`StopButton`] stop at other moments.
//!
//! **The disk.** Every file has content that reads see and content that is durable, in sectors of 4 KiB.
//! Direct writes become durable when they complete, other writes and stores into a [`MapMut`] with the next
//! `sync_data` or `flush` that is *called* after they completed, names with `sync_dir` of their directory,
//! and with nothing else. At a loss of power every atom (4 KiB, or 512 bytes by [`CrashPolicy`]) of what is
//! not durable takes any version it had since, each on its own; at a kill all completed writes and stores
//! stay and those in flight happen in part. [`Disk::add_fault`] makes operations fail, also a sync, after
//! which the disk lies as Linux does; [`Disk::set_capacity`] fills it up; [`Disk::damage`] and
//! [`Disk::flip_bit`] rot it.
//!
//! **Mappings.** [`File::map`] is a copy of what is seen at that moment: unlike a real mapping it does not
//! follow later writes, on which nobody may rely. [`File::map_mut`] stores into what is seen.
//!
//! **Time** is tokio's paused clock: it jumps to the next timer when everybody waits, so hours cost nothing.
//! It goes on from life to life. Operations complete after random delays ([`Latency`]), so in any order; as
//! with a real kernel, dropping a future that was polled does not take the operation back. A life that
//! waits for something that never comes ends in a panic after [`LIFE_MAX`].
//!
//! **One seed, one story**, as long as the program uses `biased` in `tokio::select!`, iterates over nothing
//! hashed, and does not call [`off_core`](super::off_core).
//!
//! **The network** carries connections between tasks of one life, with [`Network::set_latency`] and
//! [`Network::cut_all`]; datagrams may get lost. Tests put the other side into the same `main`.

use std::cell::Cell;
use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::{
    Engine, EngineKind, File, FileType, Io, ListenOptions, Listener, LocalBoxFuture, Lock, Metadata,
    OpenOptions, Space, Stream, Transport, Udp, Watch,
};

mod disk;
mod file;
mod image;
mod net;
mod policy;
mod rng;
#[cfg(test)]
mod tests;

pub use disk::Disk;
pub use net::Network;
pub use policy::{CrashPolicy, Fault, Keep, Latency, Names, Operation, Stats};
use rng::Rng;

/// Wall-clock time at which worlds begin: 2026-01-01T00:00:00Z.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// Virtual time after which a life counts as stuck.
pub const LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How a machine stops in the middle of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopKind {
    /// `kill -9`: the kernel and what it was given live on.
    Kill,
    /// The power goes.
    PowerLoss,
}

/// How a life ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// `main` returned.
    Finished(T),
    /// By [`StopKind::Kill`].
    Killed,
    /// By [`StopKind::PowerLoss`]; the disk has chosen already what survived.
    PowerLost,
}

impl<T> Outcome<T> {
    /// What `main` returned, if it did.
    pub fn finished(self) -> Option<T> {
        match self {
            Self::Finished(value) => Some(value),
            Self::Killed | Self::PowerLost => None,
        }
    }
}

/// A disk, a network and a clock, for any number of lives one after the other.
pub struct World {
    /// The disk.
    pub disk: Disk,
    /// The network; connections and listeners do not outlive a life, its settings do.
    pub network: Network,
    rng: Rc<Rng>,
    stop: Rc<StopSwitch>,
}

/// Asks the present life to stop.
#[derive(Default)]
struct StopSwitch {
    asked: Cell<Option<StopKind>>,
    notify: Notify,
}

impl StopSwitch {
    fn ask(&self, kind: StopKind) {
        if self.asked.get().is_none() {
            self.asked.set(Some(kind));
            self.notify.notify_one();
        }
    }
}

/// Stops the present life from inside; cheap to clone.
#[derive(Clone)]
pub struct StopButton(Rc<StopSwitch>);

impl StopButton {
    /// Stops it now; nothing it does from here on has any effect.
    pub fn press(&self, kind: StopKind) {
        self.0.ask(kind);
    }

    /// True if the life was asked to stop, by whomever.
    pub fn is_pressed(&self) -> bool {
        self.0.asked.get().is_some()
    }
}

impl World {
    /// A new world with an empty disk.
    pub fn new(seed: u64) -> Self {
        let rng = Rc::new(Rng::new(seed));
        Self { disk: Disk::new(rng.next()), network: Network::new(rng.next()), rng, stop: Rc::default() }
    }

    /// For stopping a life from inside `main`.
    pub fn stop_button(&self) -> StopButton {
        StopButton(self.stop.clone())
    }

    /// Runs one life: `main`, and whatever it spawns, until `main` returns or the machine stops.
    ///
    /// # Panics
    /// If the life is stuck, or `main` panics.
    pub fn run<T, F: Future<Output = T>>(&self, main: impl FnOnce(Io) -> F) -> Outcome<T> {
        self.run_for(None, main)
    }

    /// As [`World::run`], but stops the machine after some virtual time.
    ///
    /// # Panics
    /// As [`World::run`].
    pub fn stop_after<T, F: Future<Output = T>>(
        &self,
        time: Duration,
        kind: StopKind,
        main: impl FnOnce(Io) -> F,
    ) -> Outcome<T> {
        self.run_for(Some((time, kind)), main)
    }

    fn run_for<T, F: Future<Output = T>>(
        &self,
        limit: Option<(Duration, StopKind)>,
        main: impl FnOnce(Io) -> F,
    ) -> Outcome<T> {
        let runtime =
            match tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build() {
                Ok(runtime) => runtime,
                Err(error) => panic!("no runtime for the simulator: {error}"),
            };
        self.stop.asked.set(None);
        self.network.forget_everything();
        let tasks = LocalSet::new();
        let (outcome, machine, lived) = tasks.block_on(&runtime, async {
            // A press that nobody waited for belongs to the life before.
            let _ = tokio::time::timeout(Duration::ZERO, self.stop.notify.notified()).await;
            let machine = Rc::new(Machine::new(self));
            let sim = Sim { machine: machine.clone(), rng: Rng::new(self.rng.next()) };
            let life = main(Io::new(Rc::new(sim)));
            let (time, kind) = limit.map_or((LIFE_MAX, None), |(time, kind)| (time, Some(kind)));
            let outcome = tokio::select! {
                biased;
                () = self.stop.notify.notified() => None,
                value = life => Some(value),
                () = tokio::time::sleep(time) => match kind {
                    Some(kind) => { self.stop.ask(kind); None }
                    None => panic!("this life has not ended after {LIFE_MAX:?} of virtual time: it is stuck"),
                },
            };
            let lived = machine.born.elapsed();
            (outcome, machine, lived)
        });
        let stopped = self.stop.asked.get();
        let outcome = match (stopped, outcome) {
            // Whatever destructors still want to do, the machine does not do it.
            (Some(kind), _) => {
                machine.dead.set(true);
                match kind {
                    StopKind::Kill => {
                        self.disk.kill();
                        Outcome::Killed
                    }
                    StopKind::PowerLoss => {
                        self.disk.lose_power();
                        Outcome::PowerLost
                    }
                }
            }
            (None, Some(value)) => Outcome::Finished(value),
            (None, None) => unreachable!("a life without a value was stopped"),
        };
        drop(tasks);
        drop(runtime);
        machine.dead.set(true);
        if matches!(outcome, Outcome::Finished(_)) {
            self.disk.settle();
        }
        self.disk.state.borrow_mut().clock += lived + Duration::from_millis(1);
        outcome
    }
}

/// The machine of one life.
struct Machine {
    disk: Disk,
    network: Network,
    stop: Rc<StopSwitch>,
    born: Instant,
    /// Number of the life on the disk.
    life: u64,
    /// Wall-clock time at birth.
    clock: Duration,
    dead: Cell<bool>,
}

impl Machine {
    fn new(world: &World) -> Self {
        let (life, clock) = {
            let state = world.disk.state.borrow();
            (state.life, state.clock)
        };
        Self {
            disk: world.disk.clone(),
            network: world.network.clone(),
            stop: world.stop.clone(),
            born: Instant::now(),
            life,
            clock,
            dead: Cell::new(false),
        }
    }

    /// Wall-clock time.
    fn unix_time(&self) -> Duration {
        self.clock + self.born.elapsed()
    }

    /// True once nothing has any effect any more.
    fn is_dead(&self) -> bool {
        self.dead.get() || self.stop.asked.get().is_some()
    }

    /// Waits as long as the disk takes for an operation, or for ever on a dead machine.
    async fn delay(&self) {
        let time = {
            let latency = &self.disk.state.borrow().latency;
            let slow = self.disk.rng.next() % 100 < latency.slow_percent;
            self.disk.rng.within(if slow { &latency.slow_ms } else { &latency.usual_ms })
        };
        if time == 0 {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(Duration::from_millis(time)).await;
        }
        self.alive().await;
    }

    async fn alive(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    /// Passes a durability point, unless the machine is to stop at it.
    async fn durability_point(&self) {
        let stop = {
            let state = &mut *self.disk.state.borrow_mut();
            match &mut state.stop_in {
                Some((0, kind)) => Some(*kind),
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        match stop {
            Some(kind) => self.stop.ask(kind),
            None => self.disk.state.borrow_mut().stats.durability_points += 1,
        }
        self.alive().await;
    }

    /// Hands an operation to the machine when the future is first polled; it then runs on its own.
    fn submit<T: 'static>(
        self: &Rc<Self>,
        operation: impl Future<Output = T> + 'static,
    ) -> LocalBoxFuture<'static, T> {
        let machine = self.clone();
        Box::pin(async move {
            machine.alive().await;
            match super::spawn(operation).await {
                Ok(value) => {
                    machine.alive().await;
                    value
                }
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_cancelled) => std::future::pending().await,
            }
        })
    }

    /// A path operation that happens at once when its time comes.
    fn on_path<T: 'static>(
        self: &Rc<Self>,
        operation: impl FnOnce(&mut disk::State, Duration) -> io::Result<T> + 'static,
    ) -> LocalBoxFuture<'static, io::Result<T>> {
        let machine = self.clone();
        self.submit(async move {
            machine.delay().await;
            let now = machine.unix_time();
            operation(&mut machine.disk.state.borrow_mut(), now)
        })
    }
}

/// The engine of one life.
struct Sim {
    machine: Rc<Machine>,
    rng: Rng,
}

impl Engine for Sim {
    fn kind(&self) -> EngineKind {
        EngineKind::Sim
    }

    fn open(&self, path: &Path, options: OpenOptions) -> LocalBoxFuture<'static, io::Result<Rc<dyn File>>> {
        let path = path.to_owned();
        let machine = self.machine.clone();
        self.machine.submit(async move {
            machine.delay().await;
            let now = machine.unix_time();
            let ino = {
                let state = &mut *machine.disk.state.borrow_mut();
                if let Some(error) = state.fault(Operation::Open, &path) {
                    return Err(error);
                }
                state.open(&path, options, now)?
            };
            Ok(Rc::new(file::SimFile::new(machine, ino, path, options)) as Rc<dyn File>)
        })
    }
    fn rename(&self, from: &Path, to: &Path) -> LocalBoxFuture<'static, io::Result<()>> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.machine.on_path(move |state, _| match state.fault(Operation::Rename, &from) {
            Some(error) => Err(error),
            None => state.rename(&from, &to, true),
        })
    }
    fn rename_new(&self, from: &Path, to: &Path) -> LocalBoxFuture<'static, io::Result<()>> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.machine.on_path(move |state, _| match state.fault(Operation::Rename, &from) {
            Some(error) => Err(error),
            None => state.rename(&from, &to, false),
        })
    }
    fn remove_file(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<()>> {
        let path = path.to_owned();
        self.machine.on_path(move |state, _| match state.fault(Operation::Remove, &path) {
            Some(error) => Err(error),
            None => state.remove(&path, FileType::File).map(|()| state.reap()),
        })
    }
    fn remove_dir(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<()>> {
        let path = path.to_owned();
        self.machine.on_path(move |state, _| match state.fault(Operation::Remove, &path) {
            Some(error) => Err(error),
            None => state.remove(&path, FileType::Directory).map(|()| state.reap()),
        })
    }
    fn create_dir_all(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<()>> {
        let path = path.to_owned();
        self.machine.on_path(move |state, now| state.create_dir_all(&path, now))
    }
    fn read_dir(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<Vec<(OsString, FileType)>>> {
        let path = path.to_owned();
        self.machine.on_path(move |state, _| state.read_dir(&path))
    }
    fn metadata(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<Metadata>> {
        let path = path.to_owned();
        self.machine.on_path(move |state, _| state.metadata(state.find(&path)?))
    }
    fn sync_dir(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<()>> {
        let path = path.to_owned();
        let machine = self.machine.clone();
        self.machine.submit(async move {
            let (directory, number) = {
                let state = machine.disk.state.borrow();
                (state.check_directory(&path)?, state.change_number())
            };
            machine.delay().await;
            if let Some(error) = machine.disk.state.borrow_mut().fault(Operation::SyncDir, &path) {
                return Err(error);
            }
            machine.durability_point().await;
            let state = &mut *machine.disk.state.borrow_mut();
            state.sync_names(directory, number);
            state.stats.dir_syncs += 1;
            Ok(())
        })
    }
    fn space(&self, path: &Path) -> LocalBoxFuture<'static, io::Result<Space>> {
        let path = path.to_owned();
        self.machine.on_path(move |state, _| state.find(&path).map(|_| state.space()))
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let now = self.machine.unix_time();
        let ino = {
            let state = &mut *self.machine.disk.state.borrow_mut();
            let ino = state.open(path, OpenOptions::WRITE, now)?;
            if !state.lock(ino) {
                state.close(ino);
                let text = format!("{} is locked by another owner", path.display());
                return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
            }
            ino
        };
        Ok(Box::new(file::SimLock::new(self.machine.clone(), ino)))
    }
    fn watch(&self, directory: &Path) -> io::Result<Box<dyn Watch>> {
        let watcher = self.machine.disk.state.borrow_mut().watch(directory)?;
        Ok(Box::new(SimWatch { watcher }))
    }

    fn claim_port(&self, address: SocketAddr, transport: Transport) -> io::Result<Box<dyn Lock>> {
        self.machine.network.claim(address, transport)
    }
    fn listen(&self, address: SocketAddr, options: ListenOptions) -> io::Result<Rc<dyn Listener>> {
        self.machine.network.listen(address, options)
    }
    fn bind_udp(&self, address: SocketAddr, shared: bool) -> io::Result<Rc<dyn Udp>> {
        self.machine.network.bind_udp(address, shared)
    }
    fn connect(&self, address: SocketAddr) -> LocalBoxFuture<'static, io::Result<Box<dyn Stream>>> {
        Box::pin(self.machine.network.clone().connect(address))
    }
    fn resolve(&self, host: &str, port: u16) -> LocalBoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(std::future::ready(self.machine.network.resolve(host, port)))
    }

    fn now(&self) -> Duration {
        // Counted from the beginning of the world, so that it goes on from life to life.
        self.machine.unix_time().saturating_sub(EPOCH)
    }
    fn unix_time(&self) -> Duration {
        self.machine.unix_time()
    }
    fn sleep(&self, duration: Duration) -> LocalBoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
    fn random(&self) -> u64 {
        self.rng.next()
    }
}

struct SimWatch {
    watcher: Rc<disk::Watcher>,
}

impl Watch for SimWatch {
    fn changed(&mut self) -> LocalBoxFuture<'_, io::Result<Vec<super::Change>>> {
        Box::pin(async move {
            loop {
                let changes = std::mem::take(&mut *self.watcher.changes.borrow_mut());
                if !changes.is_empty() {
                    return Ok(changes);
                }
                if self.watcher.gone.get() {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "the watched directory was removed"));
                }
                self.watcher.notify.notified().await;
            }
        })
    }
}
