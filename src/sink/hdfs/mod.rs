//! `hdfs` sink: events to files of a cluster or of the local disk, rolled by time, size and count.
//!
//! Flume: `org.apache.flume.sink.hdfs.HDFSEventSink`, `BucketWriter`. One lane by default, so that a flow that
//! says one file an hour makes one. A delivery is: write, one sync per touched file, all files at once, then
//! commit the takes; while there is a backlog up to 4 MiB or 100 ms of takes share the syncs. Closing,
//! renaming and recovering run beside the lane (`finisher`).
//!
//! After any failure the touched files are given up where they stand: what was committed in them is kept,
//! completed and renamed, the takes are rolled back, and the next delivery begins new files. On the local
//! disk what was not committed is cut off; on HDFS, which cannot be cut here, such a file may end with
//! events, or part of one, that are delivered again in the next (Flume's files may too).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{
    DeliveryError, EventSchema, Group, Lanes, OpenError, Schemas, Sink, SinkConfig, SinkContext, SinkEntry,
    Status,
};
use crate::channel::TakeTransaction;
use crate::client::hdfs::{self as client, FileSystem, FsError, FsErrorKind, HadoopConf, Location};
use crate::codec::escape::{Machine, Resolver, Template, Times};
use crate::component::stable_hash;
use crate::config::{ParseContext, PropertySpec};
use crate::event::EventBatch;
use crate::io::{FileType, Io, LocalBoxFuture, machine};

mod bucket;
mod config;
mod finisher;
mod format;
mod journal;
mod sequence_file;
#[cfg(test)]
mod tests;

use bucket::{Bucket, Flusher, OpenFile, fitting, journal_error};
pub use config::PROPERTIES;
use config::{Durability, HdfsConfig};
use finisher::{CLOSING_MAX, Ending, Finisher};
use journal::{Journal, Name};

/// Its row of the registry.
pub const ENTRY: SinkEntry = SinkEntry {
    name: "hdfs",
    class: "org.apache.flume.sink.hdfs.HDFSEventSink",
    summary: "Writes events to files in HDFS, or on the local disk where no cluster is configured.",
    lanes: Lanes::One,
    properties: PROPERTIES,
    parse,
};

/// Files that end within one group of takes before the group is closed.
const ROLLED_MAX: usize = 64;
/// Files flushed at once: as many calls in flight.
const FLUSHES_MAX: usize = 64;
/// Groups of takes that wait for their files to be closed (`hdfs.durability = close`) before all are closed:
/// 65,536 groups of at most 100 ms are an hour and a half.
const HELD_MAX: usize = 65_536;
/// How long a stop waits for files to be completed; the rest is left to the next start.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Longest part of a path: file systems take 255 bytes, and the number and suffixes have to fit.
const NAME_BYTES_MAX: usize = 200;
/// How often events without a usable time are complained about.
const UNTIMED_INTERVAL: Duration = Duration::from_secs(60);

/// Text to config.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SinkConfig>> {
    config::parse(cx).map(|config| config as Arc<dyn SinkConfig>)
}

impl SinkConfig for HdfsConfig {
    fn batch_size(&self) -> Option<usize> {
        Some(self.batch_size)
    }
    fn open(self: Arc<Self>, cx: SinkContext) -> LocalBoxFuture<'static, Result<Box<dyn Sink>, OpenError>> {
        Box::pin(async move { Ok(Box::new(Hdfs::open(self, cx).await?) as Box<dyn Sink>) })
    }
}

/// A path as file systems want it: no empty parts, no `.`; `..` cannot come out of a header, and no part is
/// longer than a file system takes.
fn clean_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if !out.is_empty() || path.starts_with('/') {
            out.push('/');
        }
        let part = if part == ".." { "__" } else { part };
        match part.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= 255).last() {
            Some(end) => out.extend(part[..end].chars().map(|c| if c == '\0' { '_' } else { c })),
            None => out.push('_'),
        }
    }
    if out.is_empty() { "/".to_owned() } else { out }
}

/// Cuts a prefix so that number, suffix and in-use marks fit behind it.
fn short(prefix: &str) -> &str {
    let start = prefix.rfind('/').map_or(0, |slash| slash + 1);
    let end = prefix
        .char_indices()
        .map(|(at, c)| at + c.len_utf8())
        .take_while(|end| end - start.min(*end) <= NAME_BYTES_MAX);
    end.last().map_or("", |end| &prefix[..end])
}

/// Takes that wait for files to be closed.
struct Held {
    files: Vec<u64>,
    transactions: Vec<(Box<dyn TakeTransaction>, u64)>,
}

impl Drop for Held {
    fn drop(&mut self) {
        while let Some(last) = self.transactions.pop() {
            drop(last);
        }
    }
}

struct Hdfs {
    config: Arc<HdfsConfig>,
    cx: SinkContext,
    location: Location,
    fs: Rc<dyn FileSystem>,
    journal: Rc<Journal>,
    finisher: Finisher,
    resolver: Resolver,
    /// If the serializer needs the schemas of events: each has buckets of its own.
    schemas: Option<Schemas>,
    buckets: HashMap<String, Bucket>,
    uses: u64,
    /// Files that end with the takes under way.
    rolled: Vec<OpenFile>,
    held: Vec<Held>,
    untimed: u64,
    untimed_told: Option<Duration>,
}

impl Hdfs {
    async fn open(config: Arc<HdfsConfig>, cx: SinkContext) -> Result<Self, OpenError> {
        let refuse = |message: String| OpenError::new(config::PATH.name(), &config.path, message);
        let conf = HadoopConf::of_machine(&cx.io).await.map_err(|e| {
            refuse(format!("the Hadoop configuration cannot be read: {e}"))
                .hint("correct the file, or point HADOOP_CONF_DIR to a directory with a valid one")
        })?;
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let user = config
            .access
            .proxy_user
            .clone()
            .or_else(|| variable("HADOOP_USER_NAME"))
            .or_else(|| variable("USER"));
        let home = format!("/user/{}", user.as_deref().unwrap_or("root"));
        let location = Location::new(&config.path, &conf, &home).map_err(|e| {
            refuse(e).hint("use for example hdfs://namenode:8020/flume/%Y-%m-%d or file:///var/flume")
        })?;
        let fs = client::open(&location.uri, &conf, &config.access, &cx.io)
            .map_err(|e| refuse(e.message).hint("check HADOOP_CONF_DIR and the host in the path"))?;
        if fs.can_truncate() {
            check_directory(&cx.io, &location.path).await.map_err(|e| {
                refuse(e).hint("name a directory the files can lie in; what is missing of it is created")
            })?;
        }
        let (journal, left) = open_journal(&config, &cx).await?;
        let finisher = Finisher::new(
            cx.name.clone(),
            cx.io.clone(),
            journal.clone(),
            cx.counters.clone(),
            config.finish_within,
        );
        if !left.is_empty() {
            tracing::info!(sink = %cx.name, files = left.len(), "completing files that an earlier run left open");
        }
        for (id, entry) in left {
            let fs = match entry.uri == location.uri {
                true => Ok(fs.clone()),
                false => client::open(&entry.uri, &conf, &config.access, &cx.io),
            };
            match fs {
                Ok(fs) => finisher.finish(fs, id, entry, Ending::Recover),
                Err(error) => {
                    tracing::error!(sink = %cx.name, file = %entry.in_use, uri = %entry.uri, %error, "a file that an earlier run left open cannot be completed");
                }
            }
        }
        let template = Template::new(&location.path).map_err(refuse)?;
        let machine = match template.needs_machine() || config.prefix.needs_machine() {
            true => this_machine(&cx.io).await,
            false => Machine::default(),
        };
        let times = Times {
            zone: config.zone.clone().unwrap_or_else(machine::time_zone),
            rounding: config.rounding,
            use_clock: config.use_clock,
        };
        let resolver = Resolver::new(template, config.prefix.clone(), times, machine);
        let body = config.format.serializer().and_then(|s| s.avro_body());
        let schemas = body.map(|options| {
            Schemas::new(&cx.io, options.schema_url.clone(), config.access.clone(), config.tls.clone())
        });
        Ok(Self {
            config,
            cx,
            location,
            fs,
            journal,
            finisher,
            resolver,
            schemas,
            buckets: HashMap::new(),
            uses: 0,
            rolled: Vec::new(),
            held: Vec::new(),
            untimed: 0,
            untimed_told: None,
        })
    }

    async fn run(&mut self) -> Result<Status, DeliveryError> {
        // A cancelled delivery left events behind that were rolled back.
        self.give_up_touched(true);
        self.settle().await?;
        self.close_due();
        while self.finisher.pending() >= CLOSING_MAX {
            self.finisher.changed().await;
        }
        if self.held.len() >= HELD_MAX {
            self.close_all();
        }
        let mut group = Group::default();
        let placed = async {
            let (channel, io, counters) =
                (self.cx.channel.clone(), self.cx.io.clone(), self.cx.counters.clone());
            while let Some(batches) = group.next(&*channel, self.config.batch_size, &io, &counters).await? {
                for batch in &batches {
                    counters.event_drain_attempt.add(batch.len() as u64);
                    let Some(schemas) = &mut self.schemas else {
                        self.place(batch, 0, batch.len(), None);
                        continue;
                    };
                    let mut from = 0;
                    for run in schemas.runs(batch).await? {
                        self.place(batch, from, run.to, Some(&run.schema));
                        from = run.to;
                    }
                }
                if self.rolled.len() >= ROLLED_MAX {
                    group.close();
                }
            }
            Ok::<(), DeliveryError>(())
        };
        if let Err(error) = placed.await {
            self.give_up_touched(true);
            return Err(error);
        }
        self.tell_untimed();
        if group.is_empty() {
            return Ok(Status::Empty);
        }
        let delivered = self.flush().await;
        if let Err(error) = delivered {
            self.cx.counters.event_write_fail.add(1);
            match error.kind {
                FsErrorKind::Settings => {
                    tracing::error!(sink = %self.cx.name, %error, "cannot deliver; the events stay in the channel");
                }
                _ => {
                    tracing::warn!(sink = %self.cx.name, %error, "cannot deliver; the events stay in the channel and go into a new file");
                }
            }
            self.give_up_touched(false);
            return Ok(Status::Backoff);
        }
        let files = self.settle_touched();
        match self.config.durability {
            Durability::Hsync => group.commit(&self.cx.counters).await?,
            Durability::Close => self.held.push(Held { files, transactions: group.into_transactions() }),
        }
        Ok(Status::Ready)
    }

    /// Appends events `from..to`, which have one schema, to their buckets.
    fn place(&mut self, batch: &EventBatch, from: usize, to: usize, schema: Option<&Rc<EventSchema>>) {
        let unix = self.cx.io.unix_time();
        if from == to {
            return;
        }
        if self.resolver.is_common(batch) {
            let (path, prefix) = self.resolver.resolve(batch, from, unix);
            let names = (path.to_owned(), prefix.to_owned());
            return self.place_run(batch, from, to, &names, schema, unix);
        }
        let (mut start, mut names) = (from, (String::new(), String::new()));
        for index in from..to {
            let (path, prefix) = self.resolver.resolve(batch, index, unix);
            if path == names.0 && prefix == names.1 {
                continue;
            }
            let next = (path.to_owned(), prefix.to_owned());
            self.place_run(batch, start, index, &names, schema, unix);
            names = next;
            start = index;
        }
        self.place_run(batch, start, to, &names, schema, unix);
    }

    /// Appends events `from..to` to one bucket, into as many files as its limits ask for.
    fn place_run(
        &mut self,
        batch: &EventBatch,
        mut from: usize,
        to: usize,
        (path, prefix): &(String, String),
        schema: Option<&Rc<EventSchema>>,
        unix: Duration,
    ) {
        if from == to {
            return;
        }
        let now = self.cx.io.now();
        let mut key = format!("{path}/{prefix}");
        if let Some(schema) = schema {
            key.push_str(&format!("\0{}", schema.id));
        }
        self.uses += 1;
        if !self.buckets.contains_key(&key) {
            if self.buckets.len() >= self.config.open_files_max {
                self.evict();
            }
            let lane = if self.cx.lanes > 1 { format!("-{}", self.cx.lane) } else { String::new() };
            let bucket = Bucket {
                directory: clean_path(path),
                prefix: format!("{}{lane}", short(prefix)),
                counter: unix.as_millis() as u64,
                used: 0,
                file: None,
            };
            self.buckets.insert(key.clone(), bucket);
        }
        let Some(bucket) = self.buckets.get_mut(&key) else { return };
        bucket.used = self.uses;
        let config = &self.config;
        let unix_ms = unix.as_millis() as i64;
        while from < to {
            if let Some(file) = &bucket.file {
                let due = (config.roll_count > 0 && file.events >= config.roll_count)
                    || (config.roll_size_bytes > 0 && file.body_bytes >= config.roll_size_bytes);
                // Takes that wait for the close go into one file as a whole.
                if due && !(config.durability == Durability::Close && file.touched) {
                    self.rolled.extend(bucket.file.take());
                }
            }
            if bucket.file.is_none() {
                bucket.counter = bucket.counter.max(unix.as_millis() as u64) + 1;
                let name = Name {
                    directory: bucket.directory.clone(),
                    prefix: bucket.prefix.clone(),
                    counter: bucket.counter,
                    suffix: config.suffix.clone(),
                };
                let mut file = OpenFile {
                    id: self.journal.next_id(),
                    in_use: name.within(&config.in_use_prefix, &config.in_use_suffix),
                    name,
                    writer: None,
                    encoder: config.format.build(&self.cx.io, schema.map(|s| s.text.clone())),
                    out: Default::default(),
                    events: 0,
                    body_bytes: 0,
                    opened: now,
                    last_event: now,
                    size: 0,
                    committed: 0,
                    touched: false,
                    failed: false,
                };
                file.encoder.begin(&mut file.out);
                bucket.file = Some(file);
            }
            let Some(file) = &mut bucket.file else { return };
            let left = |limit: u64, used: u64| (limit > 0).then(|| limit.saturating_sub(used).max(1));
            let count = match config.durability {
                Durability::Close => to - from,
                Durability::Hsync => fitting(
                    batch,
                    from,
                    to,
                    left(config.roll_count, file.events),
                    left(config.roll_size_bytes, file.body_bytes),
                ),
            };
            file.append(batch, from, from + count, now, unix_ms);
            from += count;
        }
    }

    /// Makes room for another bucket: the one longest unused goes.
    fn evict(&mut self) {
        let oldest = self.buckets.iter().min_by_key(|(_, b)| b.used).map(|(key, _)| key.clone());
        let Some(bucket) = oldest.and_then(|key| self.buckets.remove(&key)) else { return };
        match bucket.file {
            Some(file) if file.touched => self.rolled.push(file),
            Some(file) => self.close(file),
            None => {}
        }
    }

    /// Writes and syncs every touched file, many at a time.
    async fn flush(&mut self) -> Result<(), FsError> {
        let uri = self.fs.uri();
        let open = self.buckets.values_mut().filter_map(|b| b.file.as_mut()).filter(|f| f.touched);
        let mut files: Vec<&mut OpenFile> = open.chain(&mut self.rolled).collect();
        let new =
            files.iter().filter(|f| f.writer.is_none()).map(|f| (f.id, f.entry(uri))).collect::<Vec<_>>();
        if !new.is_empty() {
            self.journal.opened(new).await.map_err(journal_error)?;
        }
        let lane = Flusher {
            io: &self.cx.io,
            fs: &self.fs,
            journal: &self.journal,
            counters: &self.cx.counters,
            in_use: (&self.config.in_use_prefix, &self.config.in_use_suffix),
            sync: self.config.durability == Durability::Hsync,
        };
        let mut first_error = None;
        for wave in files.chunks_mut(FLUSHES_MAX) {
            let flushes = wave.iter_mut().map(|file| Box::pin(file.flush(&lane)) as LocalBoxFuture<'_, _>);
            for result in join(flushes.collect()).await {
                if let Err(error) = result {
                    first_error.get_or_insert(error);
                }
            }
            if first_error.is_some() {
                break;
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        if self.config.durability == Durability::Hsync {
            let sizes: Vec<(u64, u64)> = files.iter().map(|f| (f.id, f.size)).collect();
            self.journal.sized(&sizes).await.map_err(journal_error)?;
            files.iter_mut().for_each(|f| f.committed = f.size);
        }
        Ok(())
    }

    /// The events of the touched files are safe: hands rolled files over; gives the numbers of all touched.
    fn settle_touched(&mut self) -> Vec<u64> {
        let mut ids = Vec::new();
        for file in self.buckets.values_mut().filter_map(|b| b.file.as_mut()).filter(|f| f.touched) {
            file.touched = false;
            ids.push(file.id);
        }
        for file in std::mem::take(&mut self.rolled) {
            ids.push(file.id);
            self.close(file);
        }
        ids
    }

    /// Gives up the touched files, whose takes are rolled back. A file whose flush went well may stay, but
    /// for files that can be cut back: those lose what is delivered again.
    fn give_up_touched(&mut self, all: bool) {
        let keep = |file: &OpenFile| {
            let flushed = !all && !file.failed && file.writer.is_some() && file.out.is_empty();
            flushed && !self.fs.can_truncate() && self.config.durability == Durability::Hsync
        };
        let mut lost = Vec::new();
        self.buckets.retain(|_, bucket| {
            let Some(file) = &mut bucket.file else { return true };
            if !file.touched {
                return true;
            }
            if keep(file) {
                file.touched = false;
                return true;
            }
            lost.extend(bucket.file.take());
            false
        });
        let (kept, rolled): (Vec<_>, Vec<_>) = std::mem::take(&mut self.rolled).into_iter().partition(keep);
        lost.extend(rolled);
        kept.into_iter().for_each(|file| self.close(file));
        if lost.is_empty() {
            return;
        }
        let ids: Vec<u64> = lost.iter().map(|f| f.id).collect();
        lost.into_iter().for_each(|file| self.abandon(file));
        self.roll_back_held(&ids);
    }

    /// Takes that wait for one of these files go back to the channel, last first, and so do the open files
    /// that hold more of their events.
    fn roll_back_held(&mut self, lost: &[u64]) {
        let mut lost = lost.to_vec();
        let mut at = self.held.len();
        while at > 0 {
            at -= 1;
            if self.held[at].files.iter().any(|id| lost.contains(id)) {
                lost.extend(&self.held[at].files);
                drop(self.held.remove(at));
                // Earlier ones may share a file that is lost only now.
                at = self.held.len();
            }
        }
        let mut files = Vec::new();
        self.buckets.retain(|_, bucket| match &bucket.file {
            Some(file) if lost.contains(&file.id) => {
                files.extend(bucket.file.take());
                false
            }
            _ => true,
        });
        files.into_iter().for_each(|file| self.abandon(file));
    }

    /// Commits takes whose files are closed; rolls back those whose files are lost.
    async fn settle(&mut self) -> Result<(), DeliveryError> {
        let reports = self.finisher.take_reports();
        if self.held.is_empty() {
            return Ok(());
        }
        let lost: Vec<u64> = reports.iter().filter(|(_, whole)| !whole).map(|(id, _)| *id).collect();
        if !lost.is_empty() {
            self.roll_back_held(&lost);
        }
        for held in &mut self.held {
            held.files.retain(|id| !reports.iter().any(|(done, _)| done == id));
        }
        let (mut done, held): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|held| held.files.is_empty());
        self.held = held;
        for held in &mut done {
            for (transaction, events) in std::mem::take(&mut held.transactions) {
                transaction.commit().await?;
                self.cx.counters.event_drain_success.add(events);
            }
        }
        Ok(())
    }

    /// Closes what has been open or idle long enough.
    fn close_due(&mut self) {
        let now = self.cx.io.now();
        let over = |since: Duration, limit: Option<Duration>| limit.is_some_and(|limit| now >= since + limit);
        let (interval, idle) = (self.config.roll_interval, self.config.idle_timeout);
        let mut due = Vec::new();
        self.buckets.retain(|_, bucket| match &bucket.file {
            Some(file) if !file.touched && (over(file.opened, interval) || over(file.last_event, idle)) => {
                due.extend(bucket.file.take());
                false
            }
            _ => true,
        });
        due.into_iter().for_each(|file| self.close(file));
    }

    fn close_all(&mut self) {
        let files: Vec<OpenFile> = self.buckets.drain().filter_map(|(_, bucket)| bucket.file).collect();
        files.into_iter().for_each(|file| self.close(file));
    }

    /// Completes a file in the background.
    fn close(&self, mut file: OpenFile) {
        let entry = file.entry(self.fs.uri());
        if let Some(writer) = file.writer.take() {
            self.finisher.finish(self.fs.clone(), file.id, entry, Ending::Close(writer));
        }
    }

    /// Drops a file's writer and keeps what was committed in it.
    fn abandon(&self, mut file: OpenFile) {
        let entry = file.entry(self.fs.uri());
        if file.writer.take().is_some() {
            self.cx.counters.connection_closed.add(1);
        }
        // Also if it was never created as far as this side knows: a create that ran out of time may have
        // been done after all.
        self.finisher.finish(self.fs.clone(), file.id, entry, Ending::Recover);
    }

    fn tell_untimed(&mut self) {
        self.untimed += self.resolver.take_untimed();
        let now = self.cx.io.now();
        if self.untimed > 0 && self.untimed_told.is_none_or(|told| now >= told + UNTIMED_INTERVAL) {
            self.untimed_told = Some(now);
            tracing::warn!(sink = %self.cx.name, events = self.untimed,
                "Expected timestamp in the Flume event headers, but it was null or not a number; these events went where the clock says. \
                 Add a timestamp interceptor to the source, or set hdfs.useLocalTimeStamp = true");
            self.untimed = 0;
        }
    }

    async fn finish_all(&mut self) {
        self.give_up_touched(true);
        self.close_all();
        let deadline = self.cx.io.sleep(STOP_LIMIT);
        let io = self.cx.io.clone();
        let finisher = self.finisher.clone();
        let finished = async {
            while finisher.pending() > 0 {
                tokio::select! {
                    () = finisher.changed() => {}
                    () = io.sleep(Duration::from_millis(100)) => {}
                }
            }
        };
        tokio::select! {
            () = finished => {}
            () = deadline => {
                tracing::warn!(sink = %self.cx.name, files = self.finisher.pending(), "files not completed in time; the next start completes them");
            }
        }
        if let Err(error) = self.settle().await {
            tracing::warn!(sink = %self.cx.name, %error, "events in closed files are delivered again");
        }
        while let Some(held) = self.held.pop() {
            drop(held);
        }
    }
}

impl Sink for Hdfs {
    fn process(&mut self) -> LocalBoxFuture<'_, Result<Status, DeliveryError>> {
        Box::pin(self.run())
    }
    fn tick(&mut self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async {
            self.close_due();
            if let Err(error) = self.settle().await {
                tracing::warn!(sink = %self.cx.name, %error, "events in closed files are delivered again");
            }
        })
    }
    fn stop(&mut self) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.finish_all())
    }
    fn describe(&self) -> String {
        let durable = match self.config.durability {
            Durability::Hsync => "each delivery is synced",
            Durability::Close => "events leave the channel when their file is closed",
        };
        format!("writes to {}{}; {durable}", self.location.uri, self.location.path)
    }
}

/// Runs all futures to their ends.
async fn join<T>(futures: Vec<LocalBoxFuture<'_, T>>) -> Vec<T> {
    let mut slots: Vec<(Option<LocalBoxFuture<'_, T>>, Option<T>)> =
        futures.into_iter().map(|f| (Some(f), None)).collect();
    std::future::poll_fn(|cx| {
        let mut all = true;
        for (future, value) in &mut slots {
            if let Some(running) = future {
                match running.as_mut().poll(cx) {
                    std::task::Poll::Ready(done) => (*future, *value) = (None, Some(done)),
                    std::task::Poll::Pending => all = false,
                }
            }
        }
        if all { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    slots.into_iter().filter_map(|(_, value)| value).collect()
}

async fn this_machine(io: &Io) -> Machine {
    let name = machine::host_name();
    let addresses = io.resolve(&name, 0).await.unwrap_or_default();
    let Some(address) =
        addresses.iter().map(|a| a.ip()).find(|ip| ip.is_ipv4()).or(addresses.first().map(|a| a.ip()))
    else {
        return Machine { full_name: name.clone(), address: "127.0.0.1".to_owned(), name };
    };
    let full = crate::io::off_core(move || machine::canonical_name(address)).await;
    Machine { full_name: full.unwrap_or_else(|| name.clone()), address: address.to_string(), name }
}

/// Looks whether the part of a local path before its first escape can be a directory.
async fn check_directory(io: &Io, path: &str) -> Result<(), String> {
    let literal = path.split('%').next().unwrap_or_default();
    let literal = if literal.len() == path.len() {
        literal
    } else {
        // Without the slash at the end, which would hide that it is a file.
        &literal[..literal.rfind('/').map_or(0, |at| at.max(1))]
    };
    for directory in Path::new(literal).ancestors().filter(|a| !a.as_os_str().is_empty()) {
        match io.metadata(directory).await {
            Ok(found) if found.file_type == FileType::Directory => return Ok(()),
            Ok(_) => return Err(format!("{} is not a directory", directory.display())),
            // Not there yet, or below a file, which is found further up.
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(format!("{}: {error}", directory.display())),
        }
    }
    Ok(())
}

/// Opens the journal of this lane where the flow says, or in the user's directory.
async fn open_journal(
    config: &HdfsConfig,
    cx: &SinkContext,
) -> Result<(Rc<Journal>, Vec<(u64, journal::Entry)>), OpenError> {
    const KEY: &str = "hdfs.journalDir";
    // Agents of one name on one host are told apart by what they write; twins share the directory.
    let hash = stable_hash(config.path.as_bytes()) as u32;
    let part = format!("{}-{}-{hash:08x}", cx.agent, cx.name).replace('/', "_");
    if let Some(directory) = &config.journal_dir {
        return Journal::open(&cx.io, &directory.join(part), cx.lane).await.map_err(|e| {
            OpenError::new(KEY, directory.display().to_string(), format!("cannot be used: {e}"))
                .hint("name a local directory this user may write to")
        });
    }
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    if let Some(home) = home {
        let directory = home.join(".millrace/hdfs").join(&part);
        match Journal::open(&cx.io, &directory, cx.lane).await {
            Ok(opened) => return Ok(opened),
            Err(error) => {
                tracing::debug!(sink = %cx.name, directory = %directory.display(), %error, "no journal there");
            }
        }
    }
    let directory = std::env::temp_dir().join("millrace-hdfs").join(part);
    tracing::warn!(sink = %cx.name, directory = %directory.display(),
        "no home directory to write to: the list of open files is kept in a temporary directory and may not survive a restart of the machine; set hdfs.journalDir");
    Journal::open(&cx.io, &directory, cx.lane).await.map_err(|e| {
        OpenError::new(KEY, "", format!("is not set, and {} cannot be used: {e}", directory.display()))
            .hint("set it to a local directory this user may write to")
    })
}
