//! The channel of one shard: its logs, what was given back, its counters.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::Notify;

use super::FileConfig;
use super::transaction::{FilePut, FileTake};
use crate::channel::{Channel, ChannelContext, ChannelError, PutTransaction, TakeTransaction};
use crate::component::OpenError;
use crate::event::{SourceMark, Text};
use crate::io::{self, Io, LocalBoxFuture, Lock};
use crate::metrics::{ChannelCounters, Counter, ValueInfo, ValueKind};
use crate::wal::{Durability, Entry, Log, Mark, WalError};

const UNHEALTHY: ValueInfo = ValueInfo {
    key: "Unhealthy",
    doc: "1 after a failed write: the channel acknowledges nothing more.",
    kind: ValueKind::Gauge,
};
const PUT_ERRORS: ValueInfo =
    ValueInfo { key: "EventPutErrorCount", doc: "Puts that failed.", kind: ValueKind::Count };
const TAKE_ERRORS: ValueInfo =
    ValueInfo { key: "EventTakeErrorCount", doc: "Takes that failed.", kind: ValueKind::Count };
const SKIPPED: ValueInfo = ValueInfo {
    key: "SkippedEventCount",
    doc: "Events lost to damage and skipped (`onDamage = skip`).",
    kind: ValueKind::Count,
};
const OPEN: ValueInfo =
    ValueInfo { key: "Open", doc: "1 while the channel is open on any shard.", kind: ValueKind::Flag };
const CLOSED: ValueInfo =
    ValueInfo { key: "Closed", doc: "1 when the channel is closed on every shard.", kind: ValueKind::Gauge };
const CHECKPOINT_ERRORS: ValueInfo = ValueInfo {
    key: "CheckpointWriteErrorCount",
    doc: "How often the consumers' positions could not be synced or copied to `checkpointDir`.",
    kind: ValueKind::Count,
};
const BACKUP_ERRORS: ValueInfo = ValueInfo {
    key: "CheckpointBackupWriteErrorCount",
    doc: "How often the consumers' positions could not be copied to `backupCheckpointDir`.",
    kind: ValueKind::Count,
};
const DURABILITY: ValueInfo = ValueInfo {
    key: "Durability",
    doc: "When a commit counts: 0 = `commit`, on the medium; otherwise the seconds between syncs \
          (`interval`), or 4294967295 for `os`.",
    kind: ValueKind::Gauge,
};

/// A file channel of one shard.
pub struct FileChannel(Rc<Inner>);

/// What the channel and its transactions share.
pub(super) struct Inner {
    pub(super) config: Arc<FileConfig>,
    pub(super) name: Arc<str>,
    pub(super) io: Io,
    pub(super) counters: Arc<ChannelCounters>,
    unhealthy: Arc<Counter>,
    pub(super) put_errors: Arc<Counter>,
    pub(super) take_errors: Arc<Counter>,
    skipped: Arc<Counter>,
    open: Arc<Counter>,
    closed_flag: Arc<Counter>,
    /// Left-over logs first, this shard's own last. `None` once drained and removed.
    pub(super) logs: RefCell<Vec<Option<Log>>>,
    /// Events of each log that were skipped and no longer count as waiting.
    settled: RefCell<Vec<u64>>,
    pub(super) own: Log,
    /// What was taken and rolled back, and rests of entries, in order.
    returned: RefCell<VecDeque<Piece>>,
    pub(super) ready: Notify,
    closed: Cell<bool>,
    /// Events found on disk beyond the capacity: their takes give nothing back.
    beyond_capacity: Cell<u64>,
    locks: RefCell<Vec<Box<dyn Lock>>>,
}

/// Events of one entry of a log.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) log: usize,
    pub(super) entry: Entry,
    pub(super) from: u32,
    pub(super) to: u32,
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        (self.to - self.from) as usize
    }
    pub(super) fn first(&self) -> u64 {
        self.entry.first_seq + u64::from(self.from)
    }
    fn order(&self) -> (usize, u64) {
        (self.log, self.first())
    }
    pub(super) fn end(&self) -> u64 {
        self.entry.first_seq + u64::from(self.to)
    }
}

impl FileChannel {
    /// Opens the logs of this shard.
    pub(in crate::channel) async fn open(
        config: Arc<FileConfig>,
        cx: ChannelContext,
    ) -> Result<Rc<Self>, OpenError> {
        let (io, name) = (&cx.io, &cx.name);
        let mut locks = Vec::new();
        let mut directories = vec![(CHECKPOINT_DIR_NAME, &config.checkpoint_dir)];
        directories.extend(config.backup_dir.as_ref().map(|dir| (BACKUP_DIR_NAME, dir)));
        directories.extend(config.data_dirs.iter().map(|dir| (DATA_DIRS_NAME, dir)));
        for (property, directory) in directories {
            let fail = |error: std::io::Error| unusable(property, directory, &error.to_string());
            crate::wal::create_directory(io, directory, crate::wal::LOCK_FILE).await.map_err(fail)?;
            // One shard stands for all of them; each log has a lock besides.
            if cx.shard.index == 0 {
                let lock = io.lock(&directory.join(crate::wal::LOCK_FILE));
                locks.push(lock.map_err(|error| match error.kind() {
                    std::io::ErrorKind::WouldBlock => locked(property, directory, name),
                    _ => fail(error),
                })?);
            }
        }

        config.space_checked.get_or_try_init(|| config.check_space(io)).await?;
        let keys = config.keys(io).await?;
        let own_options =
            config.log_options(config.log_directory(cx.shard.index), name, cx.shard.index, false, &keys);
        let left_over = config.left_over(io, cx.shard.index, cx.shard.count).await;
        let left_over = left_over
            .map_err(|error| unusable(DATA_DIRS_NAME, &own_options.directory, &error.to_string()))?;
        let mut logs = Vec::new();
        let mut waiting = 0;
        for (shard, directory) in left_over {
            let options = config.log_options(directory, name, shard, true, &keys);
            let (log, found) = open_log(io, options).await?;
            tracing::info!(
                channel = %name, directory = %log.directory().display(), events = found.events,
                "adopting the log of a shard that no longer runs"
            );
            waiting += found.events;
            logs.push(Some(log));
        }
        let (own, found) = open_log(io, own_options).await?;
        waiting += found.events;
        // Before it takes over any: what another log has counts too.
        own.with_marks(|marks| config.share_marks(marks));
        for log in logs.iter().flatten() {
            log.with_marks(|marks| {
                config.share_marks(marks);
                marks.all().for_each(|(k, v, t)| own.adopt_mark(k.clone(), v.clone(), t));
            });
        }
        logs.push(Some(own.clone()));

        cx.counters.channel_capacity.set(config.budget.capacity());
        cx.counters.channel_size.add(waiting);
        let beyond = config.budget.adopt(waiting);
        tracing::info!(
            channel = %name, shard = cx.shard.index, directory = %own.directory().display(),
            events = waiting, durability = %config.durability, "file channel open"
        );
        let extras = &cx.counters.extras;
        let (unhealthy, put_errors, take_errors) =
            (extras.value(UNHEALTHY), extras.value(PUT_ERRORS), extras.value(TAKE_ERRORS));
        let (open, closed_flag) = (extras.value(OPEN), extras.value(CLOSED));
        open.set(1);
        closed_flag.set(0);
        extras.value(DURABILITY).set(match config.durability {
            Durability::Commit => 0,
            Durability::Interval(every) => every.as_secs(),
            Durability::Os => u64::from(u32::MAX),
        });
        let mut state_errors = vec![extras.value(CHECKPOINT_ERRORS), extras.value(BACKUP_ERRORS)];
        state_errors.truncate(1 + usize::from(config.backup_dir.is_some()));
        for log in logs.iter().flatten() {
            log.count_state_errors(state_errors.clone());
        }
        config.open_shards.fetch_add(1, Ordering::Relaxed);
        let verifications = logs.iter().flatten().map(Log::verification).collect();
        super::verify::start(io, &config, name, cx.shard.index, extras, verifications);
        let channel = Inner {
            settled: RefCell::new(vec![0; logs.len()]),
            skipped: extras.value(SKIPPED),
            config,
            name: cx.name,
            io: cx.io,
            counters: cx.counters,
            unhealthy,
            put_errors,
            take_errors,
            open,
            closed_flag,
            logs: RefCell::new(logs),
            own,
            returned: RefCell::default(),
            ready: Notify::new(),
            closed: Cell::new(false),
            beyond_capacity: Cell::new(beyond),
            locks: RefCell::new(locks),
        };
        let channel = Rc::new(channel);
        channel.remove_drained();
        Ok(Rc::new(Self(channel)))
    }

    /// Events that wait on this shard.
    pub fn waiting(&self) -> u64 {
        self.0.logs.borrow().iter().flatten().map(Log::waiting).sum()
    }
    /// Number of this shard's log that the next event to be put will have. What was committed before has a
    /// lower one.
    pub(in crate::channel) fn end(&self) -> u64 {
        self.0.own.next_seq()
    }
    /// True if there may be something to take.
    pub(in crate::channel) fn is_ready(&self) -> bool {
        self.0.is_ready()
    }
    /// Begins a take that can be told where to stop, see [`FileTake::take_before`].
    pub(in crate::channel) fn begin_bounded(&self) -> Result<FileTake, ChannelError> {
        if self.0.closed.get() {
            return Err(ChannelError::Closed(self.0.name.to_string()));
        }
        Ok(FileTake::new(self.0.clone()))
    }
    /// The channel's counters, those of all shards.
    pub fn counters(&self) -> &ChannelCounters {
        &self.0.counters
    }
    /// This shard's log.
    #[cfg(test)]
    pub(super) fn own_log(&self) -> &Log {
        &self.0.own
    }
    /// Directory of this shard's log.
    pub fn directory(&self) -> &Path {
        self.0.own.directory()
    }
}

const CHECKPOINT_DIR_NAME: &str = "checkpointDir";
const BACKUP_DIR_NAME: &str = "backupCheckpointDir";
const DATA_DIRS_NAME: &str = "dataDirs";

fn unusable(property: &'static str, directory: &Path, problem: &str) -> OpenError {
    OpenError::new(property, directory.display().to_string(), format!("cannot use the directory: {problem}"))
        .hint("name a directory this user may create and write to")
}

fn locked(property: &'static str, directory: &Path, channel: &str) -> OpenError {
    let message =
        format!("Cannot lock {}. The directory is already locked. [channel={channel}]", directory.display());
    OpenError::new(property, directory.display().to_string(), message)
        .hint("stop the other agent that uses it, or name another directory")
}

async fn open_log(
    io: &Io,
    options: crate::wal::LogOptions,
) -> Result<(Log, crate::wal::Recovered), OpenError> {
    let (directory, channel) = (options.directory.clone(), options.channel.clone());
    Log::open(io, options).await.map_err(|error| match error {
        WalError::Locked(_) => locked(DATA_DIRS_NAME, &directory, &channel),
        WalError::NoKey { .. } => {
            OpenError::new("encryption.", directory.display().to_string(), error.to_string()).hint(
                "add the key that wrote it to encryption.keyProvider.keys, or its file to encryption.keyFile",
            )
        }
        error => unusable(DATA_DIRS_NAME, &directory, &error.to_string()),
    })
}

impl Inner {
    /// Events wait no longer.
    pub(super) fn gone(&self, events: u64) {
        let beyond = self.beyond_capacity.get().min(events);
        self.beyond_capacity.set(self.beyond_capacity.get() - beyond);
        self.config.budget.release(events - beyond);
        self.counters.channel_size.subtract(events);
    }

    /// Events that the reader had to skip wait no longer either.
    pub(super) fn settle_skipped(&self) {
        let mut settled = self.settled.borrow_mut();
        for (log, settled) in self.logs.borrow().iter().zip(settled.iter_mut()) {
            let Some(log) = log else { continue };
            let lost = log.skipped() - std::mem::replace(settled, log.skipped());
            if lost > 0 {
                self.gone(lost);
                self.skipped.add(lost);
            }
        }
    }

    pub(super) fn error(&self, error: WalError) -> ChannelError {
        self.error_of("Put", error)
    }

    pub(super) fn error_of(&self, operation: &str, error: WalError) -> ChannelError {
        let channel = &self.name;
        match error {
            WalError::Closed => ChannelError::Closed(channel.to_string()),
            WalError::NoSpace { .. } => ChannelError::NoSpace(format!(
                "{operation} failed due to IO error [channel={channel}]: {error}"
            )),
            WalError::TooLarge { .. } => ChannelError::TooLarge(format!(
                "{error} [channel={channel}: send smaller batches or raise maxFileSize]"
            )),
            WalError::Damaged(_) => ChannelError::Damaged(format!(
                "Corrupt event found. Please run File Channel Integrity tool. [channel={channel}]: {error}"
            )),
            error => {
                if matches!(error, WalError::Latched { .. }) {
                    self.unhealthy.set(1);
                }
                ChannelError::Latched(format!(
                    "{operation} failed due to IO error [channel={channel}]: {error}"
                ))
            }
        }
    }

    /// The next events that nobody has, up to a number of them, and of the own log only those numbered
    /// below `before`.
    pub(super) async fn next_piece(&self, events_max: usize, before: u64) -> Result<Option<Piece>, WalError> {
        loop {
            if let Some(found) = self.pop_returned(events_max, before) {
                return Ok(found);
            }
            let count = self.logs.borrow().len();
            let mut found = None;
            for index in 0..count {
                let Some(log) = self.logs.borrow().get(index).cloned().flatten() else { continue };
                if let Some(entry) = log.next().await? {
                    found = Some((index, log, entry));
                    break;
                }
            }
            let Some((index, log, entry)) = found else { return Ok(None) };
            // Some of its events may have been acknowledged before a restart.
            let mut pieces = Vec::new();
            let (mut at, end) = (entry.first_seq, entry.first_seq + u64::from(entry.events));
            while let Some((from, to)) = log.first_open(at, end) {
                let offset = |seq: u64| (seq - entry.first_seq) as u32;
                pieces.push(Piece { log: index, from: offset(from), to: offset(to), entry: entry.clone() });
                at = to;
            }
            self.give_back(pieces);
        }
    }

    /// `Some(None)` if what is next must not be taken.
    fn pop_returned(&self, events_max: usize, before: u64) -> Option<Option<Piece>> {
        let own = self.logs.borrow().len() - 1;
        let mut returned = self.returned.borrow_mut();
        let front = returned.front_mut()?;
        let allowed = if front.log == own { before.saturating_sub(front.first()) } else { u64::MAX };
        if allowed == 0 {
            return Some(None);
        }
        let events_max = events_max.min(usize::try_from(allowed).unwrap_or(usize::MAX));
        if front.len() <= events_max {
            return Some(returned.pop_front());
        }
        let mut piece = front.clone();
        piece.to = piece.from + events_max as u32;
        front.from = piece.to;
        Some(Some(piece))
    }

    /// Puts pieces back where they belong.
    pub(super) fn give_back(&self, pieces: Vec<Piece>) {
        let mut returned = self.returned.borrow_mut();
        for piece in pieces.into_iter().rev() {
            let at = returned.partition_point(|p| p.order() < piece.order());
            returned.insert(at, piece);
        }
    }

    /// Left-over logs without events are removed.
    pub(super) fn remove_drained(self: &Rc<Self>) {
        let mut logs = self.logs.borrow_mut();
        let own = logs.len() - 1;
        let drained: Vec<Log> =
            logs.iter_mut().take(own).filter_map(|slot| slot.take_if(|log| log.waiting() == 0)).collect();
        if drained.is_empty() {
            return;
        }
        let (channel, own) = (self.name.clone(), self.own.clone());
        io::spawn(async move {
            // The marks taken over from them must be durable here before they go there.
            let saved = own.save_marks().await;
            for log in drained {
                let directory = log.directory().to_owned();
                let removed = match &saved {
                    Ok(()) => log.remove().await,
                    Err(error) => Err(error.clone()),
                };
                match removed {
                    Ok(()) => {
                        tracing::info!(%channel, directory = %directory.display(), "the adopted log is drained and removed")
                    }
                    Err(error) => {
                        tracing::warn!(%channel, directory = %directory.display(), %error, "the adopted log is drained but cannot be removed; the next start tries again")
                    }
                }
            }
        });
    }

    /// When every shard is open: a mark that another shard deleted is deleted in this log too, and what no log
    /// has a value for any more need not be remembered as deleted.
    fn settle_marks(&self) {
        let shared = self.config.marks.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value, time_ms) in shared.table.all().filter(|(_, value, _)| value.is_empty()) {
            if !shared.valued.contains(key) {
                self.own.forget_mark(key);
            } else if self.own.with_marks(|table| table.has(key)) {
                self.own.adopt_mark(key.clone(), value.clone(), time_ms);
            }
        }
    }

    fn is_ready(&self) -> bool {
        !self.returned.borrow().is_empty() || self.logs.borrow().iter().flatten().any(Log::has_unread)
    }
}

impl Channel for FileChannel {
    fn name(&self) -> &str {
        &self.0.name
    }
    fn transaction_capacity(&self) -> usize {
        self.0.config.transaction_capacity
    }
    fn begin_put(&self) -> Result<Box<dyn PutTransaction>, ChannelError> {
        if self.0.closed.get() {
            return Err(ChannelError::Closed(self.0.name.to_string()));
        }
        if let Some(error) = self.0.own.failure() {
            return Err(self.0.error(error));
        }
        Ok(Box::new(FilePut::new(self.0.clone())))
    }
    fn begin_take(&self) -> Result<Box<dyn TakeTransaction>, ChannelError> {
        Ok(Box::new(self.begin_bounded()?))
    }
    fn wait_ready(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async {
            loop {
                let (appended, returned) = (self.0.own.ready(), self.0.ready.notified());
                if self.0.is_ready() {
                    return;
                }
                tokio::select! {
                    () = appended => {}
                    () = returned => {}
                }
            }
        })
    }
    fn keep_pace(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.0.own.keep_pace())
    }
    fn marks(&self, source: &str) -> Vec<SourceMark> {
        self.0.settle_marks();
        let mut latest = MarkList::default();
        self.0.own.with_marks(|table| latest.add(source, table.all()));
        // What other shards' logs held at the start; a mark that was deleted since is deleted here too.
        let shared = self.0.config.marks.lock().unwrap_or_else(PoisonError::into_inner);
        latest.add(source, shared.table.all());
        latest.0.into_iter().map(|(mark, _)| mark).filter(|mark| !mark.value.is_empty()).collect()
    }
    fn is_durable(&self) -> bool {
        true
    }
    fn close(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async {
            let again = self.0.closed.replace(true);
            let logs: Vec<Log> = self.0.logs.borrow().iter().flatten().cloned().collect();
            for log in logs {
                log.close().await;
            }
            self.0.locks.borrow_mut().clear();
            if !again && self.0.config.open_shards.fetch_sub(1, Ordering::Relaxed) == 1 {
                self.0.open.set(0);
                self.0.closed_flag.set(1);
            }
        })
    }
}

/// Latest mark per key.
#[derive(Default)]
struct MarkList(Vec<(SourceMark, u64)>);

impl MarkList {
    fn add<'a>(&mut self, source: &str, marks: impl Iterator<Item = (&'a Bytes, &'a Bytes, u64)>) {
        for (key, value, time_ms) in marks {
            let Some((name, key)) = split_key(key).filter(|(name, _)| name.as_bytes() == source.as_bytes())
            else {
                continue;
            };
            let mark = SourceMark { source: name, key, value: value.clone() };
            match self.0.iter_mut().find(|(m, _)| m.key == mark.key) {
                Some(known) if known.1 >= time_ms => {}
                Some(known) => *known = (mark, time_ms),
                None => self.0.push((mark, time_ms)),
            }
        }
    }
}

/// A mark as the log keeps it: its key is the source's name and the source's key.
pub(super) fn mark(mark: SourceMark) -> Mark {
    let name = mark.source.as_bytes();
    let mut key = BytesMut::with_capacity(4 + name.len() + mark.key.len());
    key.put_u32_le(name.len() as u32);
    key.put_slice(name);
    key.put_slice(&mark.key);
    (key.freeze(), mark.value)
}

fn split_key(key: &Bytes) -> Option<(Text, Bytes)> {
    let end = (u32::from_le_bytes(*key.first_chunk::<4>()?) as usize).checked_add(4)?;
    (end <= key.len()).then(|| (Text::from_utf8_lossy(key.slice(4..end)), key.slice(end..)))
}
