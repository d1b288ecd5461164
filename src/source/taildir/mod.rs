//! `TAILDIR` source: one event per line appended to files.
//!
//! Flume: `org.apache.flume.source.taildir.TaildirSource`. Each file belongs to one shard, by a hash of its
//! device and inode. The position behind a line is committed with the line, so that a line goes into the
//! channels exactly once, whenever the process is killed.
//!
//! Beyond Flume: a renamed file is followed and not read again; a file deleted or renamed away is read to
//! its end; a file truncated and written anew is noticed even if it is longer by then; the rest of its old
//! content is read from the copy `logrotate` made (`copytruncate`), and the copy is not read twice.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use self::reader::Reader;
use self::table::Table;
use super::deliver::{Backoff, Deliver};
use super::{Claim, OpenError, Placement, Source, SourceConfig, SourceContext, SourceEntry, SourceError};
use crate::codec::java_regex::JavaRegex;
use crate::config::{Millis, ParseContext, Positive, Property, PropertySpec, Words};
use crate::event::Headers;
use crate::io::stop::Stop;
use crate::io::{Change, FileType, Io, LocalBoxFuture, OpenOptions};

mod file;
mod reader;
mod share;
mod table;
#[cfg(test)]
mod tests;

const FILEGROUPS: Property<Words> =
    Property::required("filegroups", "Names of the file groups.").example("f1");
const FILEGROUP: Property<String> = Property::family(
    "filegroups.",
    "Absolute path of a group's files. Its last element is a regular expression, which must match the whole \
     file name.",
);
const POSITION_FILE: Property<PathBuf> = Property::optional(
    "positionFile",
    "~/.flume/taildir_position.json",
    "File that keeps inode, position and path of each file, in Flume's form.",
);
const HEADERS: Property<String> =
    Property::family("headers.", "`headers.<group>.<key>`: header of every event of a group.");
const BYTE_OFFSET_HEADER: Property<bool> = Property::optional(
    "byteOffsetHeader",
    "false",
    "Header `byteoffset`: where the line begins in the file.",
);
const SKIP_TO_END: Property<bool> = Property::optional(
    "skipToEnd",
    "false",
    "Begin at the end of files that are there at start and not yet known.",
);
const IDLE_TIMEOUT: Property<Millis> = Property::optional(
    "idleTimeout",
    "120000",
    "A file that has not grown for so long is closed; a last line without line feed becomes an event then.",
);
const WRITE_POS_INTERVAL: Property<Millis> =
    Property::optional("writePosInterval", "3000", "How often the position file is written.");
const BATCH_SIZE: Property<Positive> = Property::optional(
    "batchSize",
    "100",
    "Lines of one batch. While there is a backlog, as many as a transaction may have.",
);
const MAX_BATCH_COUNT: Property<i64> = Property::optional(
    "maxBatchCount",
    "9223372036854775807",
    "Batches read from one file before the others have their turn.",
);
const BACKOFF_SLEEP_INCREMENT: Property<Millis> =
    Property::optional("backoffSleepIncrement", "1000", "How much longer to wait each time nothing was new.");
const MAX_BACKOFF_SLEEP: Property<Millis> = Property::optional(
    "maxBackoffSleep",
    "5000",
    "Longest wait between two looks at the files. Where the kernel reports changes, they end the wait.",
);
const CACHE_PATTERN_MATCHING: Property<bool> =
    Property::optional("cachePatternMatching", "true", "Read a directory again only after it has changed.");
const FILE_HEADER: Property<bool> =
    Property::optional("fileHeader", "false", "Header with the absolute path of the file.");
const FILE_HEADER_KEY: Property<String> = Property::optional("fileHeaderKey", "file", "Name of that header.");

/// Every property the TAILDIR source reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[
    &FILEGROUPS,
    &FILEGROUP,
    &POSITION_FILE,
    &HEADERS,
    &BYTE_OFFSET_HEADER,
    &SKIP_TO_END,
    &IDLE_TIMEOUT,
    &WRITE_POS_INTERVAL,
    &BATCH_SIZE,
    &MAX_BATCH_COUNT,
    &BACKOFF_SLEEP_INCREMENT,
    &MAX_BACKOFF_SLEEP,
    &CACHE_PATTERN_MATCHING,
    &FILE_HEADER,
    &FILE_HEADER_KEY,
];

/// Row of the registry.
pub const ENTRY: SourceEntry = SourceEntry {
    name: "taildir",
    class: "org.apache.flume.source.taildir.TaildirSource",
    summary: "One event per line appended to files; follows rotation and keeps its place.",
    placement: Placement::EveryShard,
    properties: PROPERTIES,
    parse,
};

/// When the position file is first written, as in Flume.
const FIRST_WRITE: Duration = Duration::from_secs(5);
/// Names of written files remembered between two looks; beyond that all files are looked at.
const WRITTEN_MAX: usize = 1024;
/// A position file larger than this is not Flume's: a million files at 256 bytes.
const POSITION_FILE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Files to read.
#[derive(Debug)]
struct Group {
    name: String,
    directory: PathBuf,
    pattern: JavaRegex,
    /// As written.
    shown: String,
    headers: Headers,
}

impl Group {
    fn matches(&self, name: &std::ffi::OsStr) -> bool {
        self.pattern.is_full_match(name.as_bytes())
    }
}

/// A TAILDIR source's settings and what its shards share.
#[derive(Debug)]
struct TaildirConfig {
    groups: Vec<Group>,
    position_file: PathBuf,
    byte_offset_header: bool,
    skip_to_end: bool,
    idle_timeout: Duration,
    write_interval: Duration,
    batch_size: usize,
    batches_max: u64,
    backoff: (Duration, Duration),
    cache: bool,
    file_header: Option<String>,
    table: Table,
}

/// Reads the settings of a TAILDIR source.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    parse_config(cx).map(|config| config as Arc<dyn SourceConfig>)
}

fn parse_config(cx: &mut ParseContext<'_>) -> Option<Arc<TaildirConfig>> {
    let names = cx.get(&FILEGROUPS);
    let paths = cx.family(&FILEGROUP);
    let headers = cx.family(&HEADERS);
    let position_file = cx.get(&POSITION_FILE);
    let byte_offset_header = cx.get(&BYTE_OFFSET_HEADER);
    let skip_to_end = cx.get(&SKIP_TO_END);
    let idle_timeout = cx.get(&IDLE_TIMEOUT);
    let write_interval = cx.get(&WRITE_POS_INTERVAL);
    let batch_size = cx.get(&BATCH_SIZE);
    let batches_max = cx.get(&MAX_BATCH_COUNT);
    let increment = cx.get(&BACKOFF_SLEEP_INCREMENT);
    let max_sleep = cx.get(&MAX_BACKOFF_SLEEP);
    let cache = cx.get(&CACHE_PATTERN_MATCHING);
    let file_header = cx.get(&FILE_HEADER);
    let file_header_key = cx.get(&FILE_HEADER_KEY);
    let names = names?.0;
    let mut groups = Vec::new();
    let mut bad = false;
    for name in &names {
        match paths.iter().find(|(key, _)| key == name) {
            Some((_, path)) => match parse_group(cx, name, path, &headers) {
                Some(group) => groups.push(group),
                None => bad = true,
            },
            None => cx.warning(
                FILEGROUPS.name(),
                format!("group {name} has no path; it is ignored, as in Flume"),
                Some(format!("add: {} = /var/log/.*\\\\.log", cx.full_key(&format!("filegroups.{name}")))),
            ),
        }
    }
    for (key, _) in &paths {
        if !names.contains(key) {
            let all = format!("{} {key}", names.join(" "));
            let hint = format!("set {} = {all}", cx.full_key(FILEGROUPS.name()));
            cx.warning(
                &format!("filegroups.{key}"),
                "is not listed in filegroups; it is ignored",
                Some(hint),
            );
        }
    }
    if groups.is_empty() && !bad {
        let example = format!("add: {} = /var/log/.*\\\\.log", cx.full_key("filegroups.f1"));
        cx.error(FILEGROUPS.name(), "no group has a path", Some(example));
        return None;
    }
    let (file_header, file_header_key) = (file_header?, file_header_key?);
    (!bad).then_some(())?;
    Some(Arc::new(TaildirConfig {
        groups,
        position_file: position_file?,
        byte_offset_header: byte_offset_header?,
        skip_to_end: skip_to_end?,
        idle_timeout: idle_timeout?.0,
        write_interval: write_interval?.0,
        batch_size: batch_size?.0,
        batches_max: match batches_max? {
            count if count > 0 => count.cast_unsigned(),
            _ => u64::MAX,
        },
        backoff: (increment?.0, max_sleep?.0),
        cache: cache?,
        file_header: file_header.then_some(file_header_key),
        table: Table::default(),
    }))
}

fn parse_group(
    cx: &mut ParseContext<'_>,
    name: &str,
    path: &str,
    headers: &[(String, String)],
) -> Option<Group> {
    let key = format!("filegroups.{name}");
    let (directory, last) = match path.rsplit_once('/') {
        Some((directory, last)) if path.starts_with('/') => (directory, last),
        _ => {
            let example = format!("for example: {} = /var/log/app\\\\.log", cx.full_key(&key));
            cx.error(&key, "not an absolute path", Some(example));
            return None;
        }
    };
    if last.is_empty() {
        cx.error(
            &key,
            "is a directory; the last element of the path must match file names",
            Some(format!("for all its files: {} = {directory}/.*", cx.full_key(&key))),
        );
        return None;
    }
    let pattern = match JavaRegex::new(last) {
        Ok(pattern) => pattern,
        Err(problem) => {
            cx.error(&key, format!("its last element is not a regular expression: {problem}"), None);
            return None;
        }
    };
    let own = headers
        .iter()
        .filter_map(|(header, value)| Some((header.strip_prefix(name)?.strip_prefix('.')?, value)));
    let directory = if directory.is_empty() { "/" } else { directory };
    Some(Group {
        name: name.to_owned(),
        directory: directory.into(),
        pattern,
        shown: path.to_owned(),
        headers: own.map(|(key, value)| (key, value.as_str())).collect(),
    })
}

impl SourceConfig for TaildirConfig {
    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Path(self.position_file.clone())]
    }
    fn batch_size(&self) -> Option<usize> {
        Some(self.batch_size)
    }
    fn open(
        self: Arc<Self>,
        cx: SourceContext,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Source>, OpenError>> {
        Box::pin(async move {
            for group in &self.groups {
                check_group(&cx.io, group).await?;
            }
            if cx.shard.index == 0 {
                load_position_file(&cx.io, &self).await?;
            }
            self.table.open_shard(&cx.channels.marks(&cx.name));
            Ok(Box::new(Taildir { config: self, cx }) as Box<dyn Source>)
        })
    }
}

/// The directory must be there; if the last element names one thing only, that must be a readable file.
async fn check_group(io: &Io, group: &Group) -> Result<(), OpenError> {
    let error = |message: String| {
        OpenError::new("filegroups.", &group.shown, format!("filegroups.{}: {message}", group.name))
    };
    let directory = group.directory.display();
    match io.metadata(&group.directory).await {
        Ok(metadata) if metadata.file_type == FileType::Directory => {}
        Ok(_) => return Err(error(format!("{directory} is not a directory"))),
        Err(e) => {
            return Err(error(format!("cannot look into the directory {directory}: {e}"))
                .hint(format!("create it (mkdir -p {directory}), or correct the path")));
        }
    }
    // Java opens directories as files and fails at each read; here it is said at once.
    let literal = Path::new(&group.shown);
    match io.metadata(literal).await {
        Ok(metadata) if metadata.file_type == FileType::Directory => {
            return Err(error(format!("{} is a directory, not a file", group.shown))
                .hint(format!("for all its files: filegroups.{} = {}/.*", group.name, group.shown)));
        }
        Ok(_) => {}
        Err(_) => return Ok(()),
    }
    io.open(literal, OpenOptions::READ).await.map(drop).map_err(|e| {
        error(format!("cannot read {}: {e}", group.shown))
            .hint("let the user this program runs as read the file (chmod, or its group)")
    })
}

async fn load_position_file(io: &Io, config: &TaildirConfig) -> Result<(), OpenError> {
    let path = &config.position_file;
    let shown = path.display().to_string();
    let error = |message: String| OpenError::new(POSITION_FILE.name(), &shown, message);
    if let Some(parent) = path.parent() {
        io.create_dir_all(parent).await.map_err(|e| {
            error(format!("cannot create the directory {}: {e}", parent.display()))
                .hint("set positionFile to a path this program may write")
        })?;
    }
    let file = match io.open(path, OpenOptions::READ).await {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => {
            return Err(error(format!("cannot read it: {e}"))
                .hint("set positionFile to a file this program may read and write"));
        }
    };
    let cannot = |e: std::io::Error| error(format!("cannot read it: {e}"));
    let metadata = file.metadata().await.map_err(cannot)?;
    if metadata.file_type == FileType::Directory {
        return Err(error("is a directory".to_owned())
            .hint(format!("set positionFile = {shown}/taildir_position.json")));
    }
    let size = (metadata.size_bytes as usize).min(POSITION_FILE_BYTES_MAX);
    let text = file::read(&*file, 0, size).await.map_err(cannot)?;
    let entries = table::parse_file(&text).map_err(|problem| {
        error(problem).hint(format!("repair it, or begin all files anew with: mv {shown} {shown}.bad"))
    })?;
    config.table.load_file(entries);
    Ok(())
}

/// Changes the kernel has reported and nobody has looked at yet.
#[derive(Default)]
struct News {
    names: bool,
    written: HashSet<(PathBuf, OsString)>,
    arrived: bool,
}

struct Taildir {
    config: Arc<TaildirConfig>,
    cx: SourceContext,
}

impl Source for Taildir {
    fn run(self: Box<Self>, stop: Stop) -> LocalBoxFuture<'static, Result<(), SourceError>> {
        Box::pin(async move {
            let config = &self.config;
            if stop.or(config.table.all_opened(self.cx.shard.count)).await.is_none() {
                return Ok(());
            }
            let news = Rc::new((RefCell::new(News::default()), Notify::new()));
            let watchers = self.watch(&news);
            let backoff = Backoff::new(
                Duration::from_millis(5).min(config.backoff.0),
                config.backoff.1.max(Duration::from_millis(5)),
            );
            let deliver = Deliver::new(&self.cx, usize::MAX, backoff);
            let mut reader = Reader::new(config.clone(), &self.cx, deliver);
            self.follow(&mut reader, &news, &stop).await;
            watchers.iter().for_each(tokio::task::JoinHandle::abort);
            // What is on its way counts, unless a channel refuses it now.
            reader.settle(&stop).await;
            if config.table.finish_shard(self.cx.shard.count) {
                self.write_position_file().await;
            }
            Ok(())
        })
    }
    fn describe(&self) -> String {
        let groups: Vec<&str> = self.config.groups.iter().map(|g| g.shown.as_str()).collect();
        format!("reads {}", groups.join(", "))
    }
}

impl Taildir {
    async fn follow(&self, reader: &mut Reader, news: &(RefCell<News>, Notify), stop: &Stop) {
        let config = &self.config;
        let io = &self.cx.io;
        let writes = self.cx.shard.index == 0;
        let mut next_write = io.now() + FIRST_WRITE;
        let mut wait = config.backoff.0;
        let mut next_scan = io.now();
        while !stop.is_requested() {
            let fresh = std::mem::take(&mut *news.0.borrow_mut());
            if fresh.names || io.now() >= next_scan {
                reader.scan(stop).await;
                next_scan = io.now() + wait;
            } else {
                reader.touch(&fresh.written);
            }
            let progress = reader.read_all(stop).await;
            reader.rest(stop).await;
            if writes && io.now() >= next_write {
                self.write_position_file().await;
                next_write = io.now() + config.write_interval;
            }
            if progress || fresh.arrived {
                wait = config.backoff.0;
            } else {
                wait = (wait + config.backoff.0).min(config.backoff.1);
            }
            if reader.has_more() {
                tokio::task::yield_now().await;
                continue;
            }
            next_scan = next_scan.min(io.now() + wait);
            let mut until = next_scan.saturating_sub(io.now());
            if writes {
                until = until.min(next_write.saturating_sub(io.now()));
            }
            tokio::select! {
                biased;
                () = stop.requested() => {}
                () = news.1.notified() => {}
                () = io.sleep(until) => {}
            }
        }
    }

    /// One task per directory gathers what the kernel reports. Without inotify the files are looked at as
    /// often as Flume does.
    fn watch(&self, news: &Rc<(RefCell<News>, Notify)>) -> Vec<tokio::task::JoinHandle<()>> {
        let directories: HashSet<&PathBuf> = self.config.groups.iter().map(|g| &g.directory).collect();
        let mut tasks = Vec::new();
        for directory in directories {
            let mut watch = match self.cx.io.watch(directory) {
                Ok(watch) => watch,
                Err(error) => {
                    tracing::info!(source = %self.cx.name, directory = %directory.display(), %error, "the kernel cannot report changes here; looking every few seconds instead");
                    continue;
                }
            };
            let (news, directory) = (news.clone(), directory.clone());
            tasks.push(crate::io::spawn(async move {
                while let Ok(changes) = watch.changed().await {
                    let mut pending = news.0.borrow_mut();
                    pending.arrived = true;
                    for change in changes {
                        match change {
                            Change::Written(name) if pending.written.len() < WRITTEN_MAX => {
                                pending.written.insert((directory.clone(), name));
                            }
                            _ => pending.names = true,
                        }
                    }
                    drop(pending);
                    news.1.notify_one();
                }
            }));
        }
        tasks
    }

    /// Writes the position file if something has changed: a new file takes the place of the old one, so
    /// that no moment has half of it.
    async fn write_position_file(&self) {
        let table = &self.config.table;
        let Some(text) = table.changed_file() else { return };
        if let Err(error) = replace_file(&self.cx.io, &self.config.position_file, text).await {
            table.mark_changed();
            tracing::warn!(source = %self.cx.name, file = %self.config.position_file.display(), %error, "cannot write the position file; trying again");
        }
    }
}

async fn replace_file(io: &Io, path: &Path, text: bytes::Bytes) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let file = io.open(&temporary, OpenOptions::TRUNCATE).await?;
    file.write_at(text, 0).await?;
    file.sync_data().await?;
    io.rename(&temporary, path).await
}

/// Names in a directory, read again only when it has changed.
#[derive(Default)]
struct Listing {
    names: Vec<OsString>,
    /// The directory's time of change when it was read, and when that was.
    read: Option<(std::time::SystemTime, Duration)>,
}

type Listings = BTreeMap<PathBuf, Listing>;
type Held = HashMap<table::FileId, reader::HeldCopy>;
