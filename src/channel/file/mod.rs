//! `file` channel: events wait in a write-ahead log on disk.
//!
//! Flume: `org.apache.flume.channel.file.FileChannel`. Each shard has a log of its own below one of
//! `dataDirs`; `capacity` is shared. A commit counts when the log says so, see [`crate::wal`]. Logs that
//! an earlier run with another number of shards left behind are drained and removed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::budget::Budget;
use super::{Channel, ChannelConfig, ChannelContext, ChannelEntry};
use crate::component::{Claim, OpenError};
use crate::config::{CommaList, ParseContext, Property, PropertySpec, PropertyValue, Seconds};
use crate::io::{Io, LocalBoxFuture};
use crate::wal::cipher::Keys;
use crate::wal::{Durability, LogOptions, MarkTable, OnDamage, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN};

pub mod encryption;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod model;
pub mod payload;
mod shard;
#[cfg(test)]
mod tests;
mod transaction;
mod verify;

pub use shard::FileChannel;
pub(super) use transaction::FileTake;

const CHECKPOINT_DIR: Property<PathBuf> = Property::optional(
    "checkpointDir",
    "~/.flume/file-channel/checkpoint",
    "Directory for copies of the consumers' positions. The positions themselves lie beside the events.",
);
const DATA_DIRS: Property<CommaList> = Property::optional(
    "dataDirs",
    "~/.flume/file-channel/data",
    "Directories for the events, separated by commas. The shards' logs are spread over them; use one per disk. Another \
     number of shards, or another order, is no harm: logs no shard writes to are drained and removed.",
);
const USE_DUAL_CHECKPOINTS: Property<bool> = Property::optional(
    "useDualCheckpoints",
    "false",
    "Keep a second copy of the consumers' positions, in `backupCheckpointDir`.",
);
const BACKUP_CHECKPOINT_DIR: Property<PathBuf> = Property::absent(
    "backupCheckpointDir",
    "Directory for the second copy of the consumers' positions. Must differ from `checkpointDir`.",
);
const COMPRESS_BACKUP_CHECKPOINT: Property<bool> = Property::optional(
    "compressBackupCheckpoint",
    "false",
    "Accepted and without effect: a copy of the positions has at most 8 KiB.",
);
const CAPACITY: Property<i64> = Property::optional(
    "capacity",
    "1000000",
    "Most events that may wait. 0 or less counts as 1000000. May be changed over a backlog: the start does not replay.",
);
const TRANSACTION_CAPACITY: Property<i64> = Property::optional(
    "transactionCapacity",
    "10000",
    "Most events of one put or take transaction. 0 or less counts as 10000. Must not exceed `capacity`.",
);
const KEEP_ALIVE: Property<Seconds> = Property::optional(
    "keep-alive",
    "3",
    "How long a put waits for room before the source is told that the channel is full.",
);
const CHECKPOINT_INTERVAL: Property<i64> = Property::optional(
    "checkpointInterval",
    "30000",
    "How often the consumers' positions are synced and copied, in milliseconds. The death of the process loses \
     none of them in any case. 0 or less counts as 30000.",
);
const MAX_FILE_SIZE: Property<u64> = Property::optional(
    "maxFileSize",
    "1623195647",
    "Largest log file in bytes; also the limit for one transaction. Files are usually smaller, from 1 MiB up to \
     256 MiB by how quickly they fill.",
);
const MINIMUM_REQUIRED_SPACE: Property<u64> = Property::optional(
    "minimumRequiredSpace",
    "524288000",
    "Puts are refused when less space would be left on a disk, in bytes; at least 1048576. Takes go on.",
);
const USE_LOG_REPLAY_V1: Property<bool> = Property::optional(
    "use-log-replay-v1",
    "false",
    "Accepted and without effect: there is no replay; only the end of the log is read at the start.",
);
const USE_FAST_REPLAY: Property<bool> = Property::optional(
    "use-fast-replay",
    "false",
    "Accepted and without effect: there is no replay; only the end of the log is read at the start.",
);
const FSYNC_PER_TRANSACTION: Property<bool> = Property::optional(
    "fsyncPerTransaction",
    "true",
    "true: a committed transaction survives power loss. false: it survives the death of the process, and is \
     synced every `fsyncInterval`.",
);
const FSYNC_INTERVAL: Property<Seconds> = Property::optional(
    "fsyncInterval",
    "5",
    "How often the log is synced if `fsyncPerTransaction = false`, in seconds. 0 = left to the operating system, except \
     that a log file is synced when it is full.",
);
const CHECKPOINT_ON_CLOSE: Property<bool> = Property::optional(
    "checkpointOnClose",
    "true",
    "Accepted and without effect: the consumers' positions are always up to date, and synced and copied at every close.",
);
const ON_DAMAGE: Property<OnDamage> = Property::optional(
    "onDamage",
    "stop",
    "What takes do at a place of the log that cannot be read: `stop` there, or `skip` it and count the events. After a \
     start what waits is verified in the background, and such places are reported before a take gets there.",
);

/// Every property the file channel reads.
pub const PROPERTIES: &[&dyn PropertySpec] = {
    const OWN: [&dyn PropertySpec; 2] = [&CAPACITY, &KEEP_ALIVE];
    &super::joined::<{ OWN.len() + STORE_PROPERTIES.len() }>(&OWN, STORE_PROPERTIES)
};

/// Those of them that any channel has which keeps events in a log.
pub(super) const STORE_PROPERTIES: &[&dyn PropertySpec] = &[
    &CHECKPOINT_DIR,
    &DATA_DIRS,
    &USE_DUAL_CHECKPOINTS,
    &BACKUP_CHECKPOINT_DIR,
    &COMPRESS_BACKUP_CHECKPOINT,
    &TRANSACTION_CAPACITY,
    &CHECKPOINT_INTERVAL,
    &MAX_FILE_SIZE,
    &MINIMUM_REQUIRED_SPACE,
    &USE_LOG_REPLAY_V1,
    &USE_FAST_REPLAY,
    &FSYNC_PER_TRANSACTION,
    &FSYNC_INTERVAL,
    &CHECKPOINT_ON_CLOSE,
    &ON_DAMAGE,
    &encryption::ACTIVE_KEY,
    &encryption::CIPHER_PROVIDER,
    &encryption::KEY_PROVIDER,
    &encryption::KEY_STORE,
    &encryption::KEY_STORE_PASSWORD,
    &encryption::KEYS,
    &encryption::KEY_PASSWORDS,
    &encryption::KEY_FILE,
];

/// Row of the registry.
pub const ENTRY: ChannelEntry = ChannelEntry {
    name: "file",
    class: "org.apache.flume.channel.file.FileChannel",
    summary: "Events wait in a write-ahead log on disk: what was committed survives power loss.",
    properties: PROPERTIES,
    parse,
};

/// Flume's limit for one log file.
const FILE_SIZE_MAX: u64 = 1_623_195_647;
/// Flume's floor of `minimumRequiredSpace`.
const SPACE_FLOOR: u64 = 1 << 20;

impl PropertyValue for OnDamage {
    const KIND: &'static str = "`stop` or `skip`";
    const EXAMPLE: &'static str = "stop";
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "stop" => Ok(Self::Stop),
            "skip" => Ok(Self::Skip),
            _ => Err("neither `stop` nor `skip`".to_owned()),
        }
    }
}

/// A file channel's settings and what its shards share.
#[derive(Debug)]
pub struct FileConfig {
    budget: Budget,
    transaction_capacity: usize,
    keep_alive: Duration,
    checkpoint_dir: PathBuf,
    data_dirs: Vec<PathBuf>,
    backup_dir: Option<PathBuf>,
    checkpoint_interval: Duration,
    file_size_max: u64,
    minimum_space: u64,
    durability: Durability,
    on_damage: OnDamage,
    encryption: encryption::Source,
    /// The keys, read by the first shard that opens.
    keys: tokio::sync::OnceCell<Arc<Keys>>,
    /// Marks every shard found on disk when it was opened: files may belong to another shard than before.
    marks: Mutex<SharedMarks>,
    /// Set once the disks were looked at, before a shard creates anything.
    space_checked: tokio::sync::OnceCell<()>,
    open_shards: AtomicUsize,
    /// Held by the shard whose logs are being verified.
    verifying: tokio::sync::Semaphore,
}

/// What all logs of a channel held at the start.
#[derive(Debug, Default)]
struct SharedMarks {
    /// The latest of each key, with what was deleted.
    table: MarkTable,
    /// Keys that have a value in some log. When such a mark is deleted that must be remembered, or the value
    /// would come back with the next start. There are as many as there were marks at the start.
    valued: HashSet<Bytes>,
}

/// Reads the settings of a file channel.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn ChannelConfig>> {
    parse_config(cx).map(|config| Arc::new(config) as Arc<dyn ChannelConfig>)
}

fn parse_config(cx: &mut ParseContext<'_>) -> Option<FileConfig> {
    let capacity = positive(cx, &CAPACITY);
    let keep_alive = cx.get(&KEEP_ALIVE);
    parse_rest(cx, CAPACITY.name(), capacity, keep_alive)
}

/// The settings of a file channel whose capacity and patience come from elsewhere: `capacity_name` is what the
/// operator calls the capacity.
pub(super) fn parse_rest(
    cx: &mut ParseContext<'_>,
    capacity_name: &str,
    capacity: Option<u64>,
    keep_alive: Option<Seconds>,
) -> Option<FileConfig> {
    let transaction_capacity = positive(cx, &TRANSACTION_CAPACITY);
    let interval = positive(cx, &CHECKPOINT_INTERVAL);
    let checkpoint_dir = cx.get(&CHECKPOINT_DIR);
    let data_dirs = cx.get(&DATA_DIRS).and_then(|list| directories(cx, &list));
    let backup_dir = parse_backup(cx, checkpoint_dir.as_deref());
    let file_size = parse_file_size(cx);
    let minimum_space = cx.get(&MINIMUM_REQUIRED_SPACE);
    let per_transaction = cx.get(&FSYNC_PER_TRANSACTION);
    let every = cx.get(&FSYNC_INTERVAL);
    let on_damage = cx.get(&ON_DAMAGE);
    for ignored in [&COMPRESS_BACKUP_CHECKPOINT, &USE_LOG_REPLAY_V1, &USE_FAST_REPLAY, &CHECKPOINT_ON_CLOSE] {
        cx.get(ignored);
    }
    let encryption = encryption::parse(cx);
    let (capacity, transaction_capacity) = (capacity?, transaction_capacity?);
    if transaction_capacity > capacity {
        cx.error(
            TRANSACTION_CAPACITY.name(),
            format!("File Channel transaction capacity cannot be greater than the capacity of the channel ({capacity})"),
            Some(format!("set {} = {transaction_capacity}", cx.full_key(capacity_name))),
        );
        return None;
    }
    let durability = match (per_transaction?, every?.0) {
        (true, _) => Durability::Commit,
        (false, Duration::ZERO) => Durability::Os,
        (false, every) => Durability::Interval(every),
    };
    Some(FileConfig {
        budget: Budget::new(capacity),
        transaction_capacity: transaction_capacity as usize,
        keep_alive: keep_alive?.0,
        checkpoint_dir: checkpoint_dir?,
        data_dirs: data_dirs?,
        backup_dir: backup_dir?,
        checkpoint_interval: Duration::from_millis(interval?),
        file_size_max: file_size?,
        minimum_space: minimum_space?.max(SPACE_FLOOR),
        durability,
        on_damage: on_damage?,
        encryption: encryption?,
        keys: tokio::sync::OnceCell::new(),
        marks: Mutex::default(),
        space_checked: tokio::sync::OnceCell::new(),
        open_shards: AtomicUsize::new(0),
        verifying: tokio::sync::Semaphore::new(1),
    })
}

fn positive(cx: &mut ParseContext<'_>, property: &Property<i64>) -> Option<u64> {
    let number = cx.get(property)?;
    if number > 0 {
        return Some(number as u64);
    }
    let default = property.default().and_then(|d| d.parse().ok())?;
    cx.warning(property.name(), format!("must be above 0; {default} is used, as in Flume"), None);
    Some(default)
}

fn directories(cx: &mut ParseContext<'_>, list: &CommaList) -> Option<Vec<PathBuf>> {
    let mut directories: Vec<PathBuf> = Vec::new();
    for text in &list.0 {
        match PathBuf::parse(text) {
            Ok(directory) if directories.contains(&directory) => {
                cx.error(DATA_DIRS.name(), format!("{text:?} is listed twice"), None);
                return None;
            }
            Ok(directory) => directories.push(directory),
            Err(problem) => {
                cx.error(DATA_DIRS.name(), problem, None);
                return None;
            }
        }
    }
    if directories.is_empty() {
        let hint = format!("for example: {} = /data1/flume,/data2/flume", cx.full_key(DATA_DIRS.name()));
        cx.error(DATA_DIRS.name(), "lists no directory", Some(hint));
        return None;
    }
    Some(directories)
}

fn parse_backup(cx: &mut ParseContext<'_>, checkpoint: Option<&Path>) -> Option<Option<PathBuf>> {
    let dual = cx.get(&USE_DUAL_CHECKPOINTS)?;
    let backup = cx.get_opt(&BACKUP_CHECKPOINT_DIR)?;
    if !dual {
        return Some(None);
    }
    let hint = Some(format!("set {} to a directory of its own", cx.full_key(BACKUP_CHECKPOINT_DIR.name())));
    match backup {
        None => {
            let message = "Dual checkpointing is enabled, but the backup directory is not set";
            cx.error(USE_DUAL_CHECKPOINTS.name(), message, hint);
            None
        }
        Some(backup) if checkpoint == Some(&backup) => {
            let message = "must not be the same directory as checkpointDir";
            cx.error(BACKUP_CHECKPOINT_DIR.name(), message, hint);
            None
        }
        backup => Some(backup),
    }
}

fn parse_file_size(cx: &mut ParseContext<'_>) -> Option<u64> {
    let size = cx.get(&MAX_FILE_SIZE)?;
    if size < SEGMENT_SIZE_MIN {
        cx.warning(
            MAX_FILE_SIZE.name(),
            format!("is too small for a log file; {SEGMENT_SIZE_MIN} is used"),
            None,
        );
    }
    Some(size.clamp(SEGMENT_SIZE_MIN, FILE_SIZE_MAX))
}

impl ChannelConfig for FileConfig {
    fn claims(&self) -> Vec<Claim> {
        let dirs = self.data_dirs.iter().chain([&self.checkpoint_dir]).chain(&self.backup_dir);
        dirs.cloned().map(Claim::Path).collect()
    }
    fn capacity(&self) -> u64 {
        self.budget.capacity()
    }
    fn transaction_capacity(&self) -> usize {
        self.transaction_capacity
    }
    fn durability(&self) -> String {
        match self.durability {
            Durability::Commit => "commit: a committed event survives power loss".to_owned(),
            Durability::Interval(every) => format!(
                "interval:{}s: a committed event survives the death of the process; power loss takes the last {0} s",
                every.as_secs()
            ),
            Durability::Os => {
                "os: a committed event survives the death of the process; when it reaches the disk is left to the system".to_owned()
            }
        }
    }
    fn open(
        self: Arc<Self>,
        cx: ChannelContext,
    ) -> LocalBoxFuture<'static, Result<Rc<dyn Channel>, OpenError>> {
        Box::pin(async move { Ok(FileChannel::open(self, cx).await? as Rc<dyn Channel>) })
    }
}

impl FileConfig {
    /// A directory in which a shard once kept a log. What cannot be read holds none.
    pub(super) async fn old_log(&self, io: &Io) -> Option<PathBuf> {
        for directory in &self.data_dirs {
            let entries = io.read_dir(directory).await.unwrap_or_default();
            if let Some((name, _)) =
                entries.iter().find(|(name, _)| name.to_string_lossy().starts_with("shard-"))
            {
                return Some(directory.join(name));
            }
        }
        None
    }

    /// Where the log of a shard lies.
    fn log_directory(&self, shard: usize) -> PathBuf {
        self.data_dirs[shard % self.data_dirs.len()].join(format!("shard-{shard}"))
    }

    fn log_options(
        &self,
        directory: PathBuf,
        channel: &Arc<str>,
        shard: usize,
        take_only: bool,
        keys: &Arc<Keys>,
    ) -> LogOptions {
        let block = crate::io::buffer::BLOCK as u64;
        LogOptions {
            directory,
            channel: channel.clone(),
            shard: shard as u32,
            segment_size_max: self.file_size_max.min(SEGMENT_SIZE_MAX) / block * block,
            transaction_size_max: self.file_size_max / block * block,
            minimum_space: self.minimum_space,
            durability: self.durability,
            state_interval: self.checkpoint_interval,
            copies: std::iter::once(&self.checkpoint_dir).chain(&self.backup_dir).cloned().collect(),
            on_damage: self.on_damage,
            take_only,
            keys: keys.clone(),
        }
    }

    /// The keys to encrypt and read with.
    async fn keys(&self, io: &Io) -> Result<Arc<Keys>, OpenError> {
        let load = || async { encryption::load(io, &self.encryption).await.map(Arc::new) };
        self.keys.get_or_try_init(load).await.cloned()
    }

    /// Logs on disk that no shard writes to now, and that this shard adopts: shard number and directory.
    async fn left_over(&self, io: &Io, index: usize, count: usize) -> std::io::Result<Vec<(usize, PathBuf)>> {
        let mut found = Vec::new();
        for data_dir in &self.data_dirs {
            for (name, _) in io.read_dir(data_dir).await? {
                let number = name.to_str().and_then(|n| n.strip_prefix("shard-")?.parse::<usize>().ok());
                let Some(number) = number else { continue };
                let directory = data_dir.join(&name);
                let in_use = number < count && directory == self.log_directory(number);
                if !in_use && number % count == index {
                    found.push((number, directory));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Notes marks that a source deleted, so that those found at the start do not come back. Answers which of
    /// them need not be remembered.
    fn delete_marks(&self, keys: &[Bytes], now_ms: u64) -> Vec<Bytes> {
        if keys.is_empty() {
            return Vec::new();
        }
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let (valued, gone): (Vec<&Bytes>, Vec<&Bytes>) =
            keys.iter().partition(|key| marks.valued.contains(*key));
        valued.into_iter().for_each(|key| marks.table.set(key.clone(), Bytes::new(), now_ms));
        gone.into_iter().cloned().collect()
    }

    /// A new channel on a full disk could take nothing, and is refused. One with logs starts, so that sinks can
    /// drain it.
    async fn check_space(&self, io: &Io) -> Result<(), OpenError> {
        let cannot = |directory: &Path, error: std::io::Error| {
            OpenError::new(
                DATA_DIRS.name(),
                directory.display().to_string(),
                format!("cannot use the directory: {error}"),
            )
        };
        let mut has_logs = false;
        for directory in &self.data_dirs {
            let entries = io.read_dir(directory).await.map_err(|e| cannot(directory, e))?;
            has_logs |= entries.iter().any(|(name, _)| name.to_string_lossy().starts_with("shard-"));
        }
        for directory in &self.data_dirs {
            let available = io.space(directory).await.map_err(|e| cannot(directory, e))?.available_bytes;
            if available >= self.minimum_space {
                continue;
            }
            let message = format!(
                "the disk of {} has {available} bytes left, and the channel takes nothing with less than this",
                directory.display()
            );
            let hint =
                "make room, name a directory on another disk in dataDirs, or lower minimumRequiredSpace";
            if !has_logs {
                let value = self.minimum_space.to_string();
                return Err(OpenError::new(MINIMUM_REQUIRED_SPACE.name(), value, message).hint(hint));
            }
            tracing::error!(minimum_required_space = self.minimum_space, hint, "{message}; sinks go on");
        }
        Ok(())
    }

    fn share_marks(&self, table: &MarkTable) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value, time_ms) in table.all() {
            marks.table.merge(key.clone(), value.clone(), time_ms);
            if !value.is_empty() {
                marks.valued.insert(key.clone());
            }
        }
    }
}
