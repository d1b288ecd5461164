#![doc = include_str!("FORMAT.md")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};

use crate::io::{Io, Lock};
use crate::metrics::Counter;

pub mod cipher;
mod ends;
pub mod frame;
mod frames;
mod housekeeping;
pub mod inspect;
mod listing;
pub mod marks;
mod pace;
mod prepare;
mod reader;
mod recovery;
pub mod repair;
pub mod segment;
pub mod state;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use marks::{Mark, MarkTable};
pub use reader::Entry;
pub use recovery::{LOCK_FILE, STATE_FILE};
pub use verify::{Checked, Verification};
pub use writer::Commit;

use cipher::{CipherFault, Keys, LogCipher};
use reader::Reader;
use segment::Segment;
use state::{State, StatePage, Tracker};
use writer::Writer;

/// Size of a log's first segment: what an idle log costs, zero-filled in a few milliseconds.
pub const SEGMENT_SIZE_FIRST: u64 = 1 << 20;
/// Size up to which segments grow while they fill quickly.
pub const SEGMENT_SIZE_MAX: u64 = 256 << 20;
/// Smallest segment an operator may ask for.
pub const SEGMENT_SIZE_MIN: u64 = 64 << 10;
/// Writes in flight at once. With 4 of 128 to 512 KiB the disk is full and a commit still waits only 1.5 ms.
pub const IN_FLIGHT_MAX: usize = 4;

/// When a commit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When its frames are on the medium: survives power loss.
    Commit,
    /// When its frames are in the page cache, which is written out at this interval: survives the death of
    /// the process; power loss takes what is younger.
    Interval(Duration),
    /// As the interval, but writing out is left to the operating system.
    Os,
}

impl Durability {
    /// Frames are stored through a mapping instead of written durably one by one.
    pub fn is_mapped(self) -> bool {
        self != Self::Commit
    }
}

impl std::fmt::Display for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Commit => f.write_str("commit"),
            Self::Interval(every) => write!(f, "interval:{}s", every.as_secs()),
            Self::Os => f.write_str("os"),
        }
    }
}

/// What a consumer does at a damaged frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnDamage {
    /// Stops there, with instructions.
    #[default]
    Stop,
    /// Goes on behind it and counts what was lost.
    Skip,
}

/// Settings of a log.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Directory of this log alone.
    pub directory: PathBuf,
    /// Name of the channel, for messages.
    pub channel: Arc<str>,
    /// Shard that writes it.
    pub shard: u32,
    /// Largest segment made as a matter of course, and
    pub segment_size_max: u64,
    /// largest segment made for a single transaction: no transaction may be larger.
    pub transaction_size_max: u64,
    /// Appends are refused when less would be left on the file system.
    pub minimum_space: u64,
    /// When a commit counts.
    pub durability: Durability,
    /// How often the state page is made durable and copied.
    pub state_interval: Duration,
    /// Directories for copies of the state page.
    pub copies: Vec<PathBuf>,
    /// What to do at a damaged frame.
    pub on_damage: OnDamage,
    /// Nothing will be appended: a log left over from another number of shards.
    pub take_only: bool,
    /// Keys to encrypt and read with; none = new frames are not encrypted.
    pub keys: Arc<Keys>,
}

/// Why the log refuses.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WalError {
    /// An earlier write or sync failed: nothing more is acknowledged.
    #[error("a write to {} failed, so nothing more is acknowledged until the channel is opened again: {error}", path.display())]
    Latched {
        /// File that could not be written.
        path: PathBuf,
        /// What the kernel said.
        error: Arc<io::Error>,
    },
    /// The disk is full. Takes go on; appends go on when there is space again.
    #[error("Usable space exhausted, only {available} bytes remaining, required {required} bytes in {}", directory.display())]
    NoSpace {
        /// Directory on the full file system.
        directory: PathBuf,
        /// Bytes free.
        available: u64,
        /// Bytes needed, the minimum that must stay free included.
        required: u64,
    },
    /// The transaction does not fit a segment.
    #[error("the transaction needs {size} bytes, more than the {max} that one log file may have")]
    TooLarge {
        /// Bytes it needs.
        size: u64,
        /// Bytes it may have.
        max: u64,
    },
    /// A frame that was durable cannot be read.
    #[error("{0}")]
    Damaged(Damage),
    /// The log is closed.
    #[error("the log is closed")]
    Closed,
    /// Somebody else has the directory.
    #[error("Cannot lock {}. The directory is already locked.", .0.display())]
    Locked(PathBuf),
    /// A file cannot be used.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        error: Arc<io::Error>,
    },
    /// Frames are encrypted and the key is not there.
    #[error("{} is encrypted with a key that is not among those given ({})", path.display(), if keys.is_empty() { "none" } else { keys })]
    NoKey {
        /// The file.
        path: PathBuf,
        /// Names of the keys given.
        keys: String,
    },
    /// Written by a newer version.
    #[error("{} has format version {version}; this program reads up to {}", path.display(), segment::FORMAT_VERSION)]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl WalError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error: Arc::new(error) }
    }
}

/// The payload of a frame in plain text; `None` if it was changed, which is damage like any other.
fn open_payload(
    cipher: &LogCipher,
    header: &frame::FrameHeader,
    stored: Bytes,
    path: &Path,
) -> Result<Option<Bytes>, WalError> {
    match cipher.open(header, stored) {
        Ok(payload) => Ok(Some(payload)),
        Err(CipherFault::Forged) => Ok(None),
        Err(CipherFault::Key(keys)) => Err(WalError::NoKey { path: path.to_owned(), keys }),
    }
}

/// A place where the log cannot be read although it was durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Offset in it.
    pub offset: u64,
    /// Bytes up to the next good frame.
    pub size: u64,
    /// Events lost with it; `None` if no frame behind it says.
    pub events: Option<u64>,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, offset, size, events } = self;
        write!(f, "{} is damaged at offset {offset}: {size} bytes", path.display())?;
        match events {
            Some(events) => write!(f, " with {events} events"),
            None => f.write_str(" with an unknown number of events"),
        }?;
        f.write_str(
            " cannot be read. Restore the file from a copy, or set `onDamage = skip` to go on without them",
        )
    }
}

/// Something the log stores: a run of events, already encoded or able to encode itself in place.
pub trait Record {
    /// Number of events.
    fn events(&self) -> u32;
    /// Size of the payload.
    fn size(&self) -> usize;
    /// Writes the payload into exactly that many bytes.
    fn write(&self, out: &mut [u8]);
}

/// What was found when a log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Events waiting.
    pub events: u64,
    /// Live segments.
    pub segments: usize,
    /// Bytes behind the end of the log that were never acknowledged.
    pub torn_bytes: u64,
}

/// A write-ahead log of one directory, on one shard. Cheap to clone.
///
/// Appends are durable in the order they were made; only durable ones are read. Dropping it without
/// [`Log::close`] is what a crash looks like, less the page cache.
#[derive(Clone)]
pub struct Log(Rc<Inner>);

struct Inner {
    io: Io,
    options: LogOptions,
    log_id: u64,
    cipher: LogCipher,
    /// Live segments by position, the one being written last.
    segments: RefCell<VecDeque<Rc<Segment>>>,
    writer: RefCell<Writer>,
    /// Appenders take turns, in the order they came.
    turn: Semaphore,
    /// One segment is prepared at a time.
    preparing: Semaphore,
    /// Segments of a mapped log are synced one at a time, in order.
    syncing: Semaphore,
    /// One at a time stores the state page: whoever finds nothing to store may rely on what is stored.
    saving: Semaphore,
    /// Segments that were left and have no footer yet.
    sealing: Cell<usize>,
    /// Size of the spare file, if there is one.
    spare: Cell<Option<u64>>,
    /// Something was written: there may be room for a waiting appender.
    room: Notify,
    /// Something became visible.
    ready: Notify,
    /// Pages have been read ahead, or could not be.
    pages: Notify,
    /// The consumer moved.
    moved: Notify,
    /// Where the consumer was when somebody waited for it in vain.
    stands_at: Cell<u64>,
    /// Everything before it is durable (or as durable as the class promises).
    durable: Cell<u64>,
    /// The end of the last whole transaction before `durable`.
    visible: Cell<u64>,
    /// Everything before it is on the medium; behind `durable` only if the log is mapped.
    synced: Cell<u64>,
    failed: RefCell<Option<WalError>>,
    closed: Cell<bool>,
    reader: RefCell<Reader>,
    consumer: RefCell<Consumer>,
    reclaiming: Cell<bool>,
    /// One per copy of the state: failures to write it. The first counts failed syncs too.
    state_errors: RefCell<Vec<Arc<Counter>>>,
    lock: RefCell<Option<Box<dyn Lock>>>,
}

/// The consumer's position, in memory and mapped.
struct Consumer {
    page: Option<StatePage>,
    state: State,
    tracker: Tracker,
    dirty: bool,
}

impl Consumer {
    fn store(&mut self) {
        self.dirty = true;
        if let Some(page) = &mut self.page {
            page.store(&mut self.state, &self.tracker);
        }
    }
}

/// Creates a directory and its parents so that a power loss does not take them away again.
///
/// Parents that were there already are synced too: the process that made them may have died before it could. Not so
/// if `witness` lies in the directory, a file that is made after this function was done.
///
/// # Errors
/// As [`crate::io::Engine::create_dir_all`] and [`crate::io::Engine::sync_dir`].
pub async fn create_directory(io: &Io, directory: &Path, witness: &str) -> io::Result<()> {
    if io.metadata(&directory.join(witness)).await.is_ok() {
        return Ok(());
    }
    io.create_dir_all(directory).await?;
    for above in directory.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match io.sync_dir(above).await {
            // A directory that cannot be opened was not made by this user.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            result => result?,
        }
    }
    Ok(())
}

impl Log {
    /// Opens or creates the log of a directory and recovers what it holds.
    ///
    /// # Errors
    /// [`WalError::Locked`], [`WalError::Newer`], [`WalError::Io`].
    pub async fn open(io: &Io, options: LogOptions) -> Result<(Self, Recovered), WalError> {
        let (inner, recovered) = recovery::open(io, options).await?;
        let log = Self(Rc::new(inner));
        log.0.start_housekeeping();
        Ok((log, recovered))
    }

    /// Appends the records and marks as one transaction. The returned future resolves when they are as
    /// durable as the log promises; dropping it does not undo the append.
    ///
    /// Waits while more than the writer's bound is unwritten or the next segment is not ready. Cancel-safe:
    /// cancelled, nothing was appended. Allocates nothing per event.
    ///
    /// # Errors
    /// [`WalError::Latched`], [`WalError::NoSpace`], [`WalError::TooLarge`], [`WalError::Closed`]: nothing
    /// was appended.
    pub async fn append<R: Record>(&self, records: &[R], marks: &[Mark]) -> Result<Commit, WalError> {
        self.0.append(records, marks).await
    }

    /// The next frame with events that is durable and not acknowledged; `None` if there is none now.
    ///
    /// # Errors
    /// [`WalError::Damaged`] unless damage is skipped; [`WalError::Io`].
    pub async fn next(&self) -> Result<Option<Entry>, WalError> {
        self.0.next().await
    }

    /// True if [`Self::next`] can answer at once from memory.
    pub fn is_at_hand(&self) -> bool {
        self.0.is_at_hand()
    }

    /// True if there is something to read that was not read yet.
    pub fn has_unread(&self) -> bool {
        self.0.reader.borrow().cursor < self.0.visible.get()
    }

    /// The first run of events in `from..to` that is not acknowledged.
    pub fn first_open(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        self.0.consumer.borrow().tracker.first_open(from, to)
    }

    /// Acknowledges events: they will not be read again, not even after a crash of the process. Call
    /// [`Self::acked`] once after the last of several.
    pub fn ack(&self, from: u64, to: u64) {
        self.0.consumer.borrow_mut().tracker.ack(from, to);
    }

    /// Stores what was acknowledged and gives back segments that are done with.
    pub fn acked(&self) {
        self.0.consumer.borrow_mut().store();
        self.0.reclaim();
    }

    /// Resolves when something became visible after this future was made.
    pub fn ready(&self) -> impl Future<Output = ()> + '_ {
        self.0.ready.notified()
    }

    /// The latest marks, those of transactions not durable yet included.
    pub fn with_marks<T>(&self, read: impl FnOnce(&MarkTable) -> T) -> T {
        read(&self.0.writer.borrow().marks)
    }

    /// Forgets that a mark was deleted: no other log has a value for it.
    pub fn forget_mark(&self, key: &[u8]) {
        self.0.writer.borrow_mut().marks.forget(key);
    }

    /// Takes over a mark, or that it was deleted, from another log unless something later is known. It is written
    /// with the next snapshot: see [`Self::save_marks`].
    pub fn adopt_mark(&self, key: Bytes, value: Bytes, time_ms: u64) {
        self.0.writer.borrow_mut().marks.merge(key, value, time_ms);
    }

    /// Writes all marks as they stand, with their times. Resolves when they are as durable as the log promises.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub async fn save_marks(&self) -> Result<(), WalError> {
        self.0.save_marks().await
    }

    /// Number the next event to be appended will have. Whatever was committed before has a lower one.
    pub fn next_seq(&self) -> u64 {
        self.0.writer.borrow().next_seq
    }

    /// Events appended and not acknowledged.
    pub fn waiting(&self) -> u64 {
        let consumer = self.0.consumer.borrow();
        let end = self.0.writer.borrow().next_seq;
        end.saturating_sub(consumer.tracker.low_seq).saturating_sub(consumer.tracker.acked_above())
    }

    /// Where failures to sync or copy the consumer's position are counted: one counter per copy, the first
    /// for syncs too.
    pub fn count_state_errors(&self, counters: Vec<Arc<Counter>>) {
        *self.0.state_errors.borrow_mut() = counters;
    }

    /// The error after which nothing more is acknowledged.
    pub fn failure(&self) -> Option<WalError> {
        self.0.failed.borrow().clone()
    }

    /// Events lost to damage and skipped.
    pub fn skipped(&self) -> u64 {
        self.0.reader.borrow().skipped
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.0.options.directory
    }

    /// Writes what is open, seals the segment, makes the state durable and gives the directory back.
    pub async fn close(&self) {
        self.0.close().await;
    }

    /// Closes the log and removes its directory. For a left-over log that is drained.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub async fn remove(self) -> Result<(), WalError> {
        self.0.remove().await
    }
}
