//! The files of one shard: the next one, its events, its marker.

use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{ConsumeOrder, Done, SpoolConfig, meta};
use crate::component::{Shard, stable_hash};
use crate::event::{BatchBuilder, EventBatch, Separator, SourceMark, Text};
use crate::io::stop::Stop;
use crate::io::{File, FileType, Io, Metadata, OpenOptions};
use crate::metrics::SourceCounters;
use crate::serializer::deserializer::{BadFile, FIRST_BYTES, Format, Place};
use crate::source::SourceContext;
use crate::source::deliver::{Backoff, Deliver, Progress};

/// Bytes of one read, and about of one batch.
const READ_BYTES: usize = 256 * 1024;
/// How often Flume's position file is written while a file is read.
const META_INTERVAL: Duration = Duration::from_secs(1);
/// Directories below one another that are searched; deeper ones are left alone (a loop of links).
const DEPTH_MAX: usize = 64;
/// Prefix and suffix of Flume's position file; shards above the first put their number between.
const META_NAME: (&str, &str) = (".flumespool-main", ".meta");
/// A position file is one path and one number; one larger than this is not ours or Flume's.
const META_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What marks say of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    stamp: u64,
    place: Place,
    finished: bool,
    size: u64,
    modified: u64,
    path: PathBuf,
}

const MARK_VERSION: u8 = 1;
const MARK_FIXED_BYTES: usize = 1 + 8 + 8 + 4 + 1 + 8 + 8;

impl Mark {
    /// Version, stamp, offset, events behind it, finished, size, time of change, path; little-endian.
    fn encode(&self) -> Bytes {
        let path = self.path.as_os_str().as_bytes();
        let mut value = BytesMut::with_capacity(MARK_FIXED_BYTES + path.len());
        value.put_u8(MARK_VERSION);
        value.put_u64_le(self.stamp);
        value.put_u64_le(self.place.offset);
        value.put_u32_le(self.place.inner);
        value.put_u8(u8::from(self.finished));
        value.put_u64_le(self.size);
        value.put_u64_le(self.modified);
        value.put_slice(path);
        value.freeze()
    }
    fn decode(mut value: &[u8]) -> Option<Self> {
        if value.len() < MARK_FIXED_BYTES || value.get_u8() != MARK_VERSION {
            return None;
        }
        Some(Self {
            stamp: value.get_u64_le(),
            place: Place { offset: value.get_u64_le(), inner: value.get_u32_le() },
            finished: value.get_u8() == 1,
            size: value.get_u64_le(),
            modified: value.get_u64_le(),
            path: PathBuf::from(std::ffi::OsStr::from_bytes(value)),
        })
    }
}

/// What the shards share: positions found at start.
#[derive(Debug, Default)]
pub struct Known {
    channels: Vec<HashMap<Bytes, Mark>>,
    meta: HashMap<PathBuf, u64>,
}

impl Known {
    /// The position all channels have passed.
    fn resume(&self, key: &Bytes) -> Option<Mark> {
        let marks: Option<Vec<&Mark>> = self.channels.iter().map(|known| known.get(key)).collect();
        marks?.into_iter().min_by_key(|m| m.stamp).cloned()
    }
}

/// A file to read.
#[derive(Clone, Debug)]
struct Candidate {
    path: PathBuf,
    key: Bytes,
    size: u64,
    modified: SystemTime,
}

/// Why a file is set aside.
enum SetAside {
    Bad(BadFile),
    Io(std::io::Error),
    /// The stop was requested.
    Stopped,
}
impl From<BadFile> for SetAside {
    fn from(bad: BadFile) -> Self {
        Self::Bad(bad)
    }
}
impl From<std::io::Error> for SetAside {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads the files of one shard.
pub struct Worker {
    config: Arc<SpoolConfig>,
    name: Text,
    shard: Shard,
    io: Io,
    counters: Arc<SourceCounters>,
    deliver: Deliver,
    keeps_marks: bool,
    queue: VecDeque<Candidate>,
    listed_at: Option<Duration>,
    /// Files that are not read again unless they change, with the state they were set aside in.
    aside: HashMap<PathBuf, (u64, SystemTime)>,
    /// Marks of files that are done with; they go with the next batch.
    to_forget: Vec<Bytes>,
    own_marks: HashMap<Bytes, PathBuf>,
    stamp: u64,
    meta_written: bool,
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

fn key_of(metadata: &Metadata) -> Bytes {
    let mut key = BytesMut::with_capacity(16);
    key.put_u64_le(metadata.device);
    key.put_u64_le(metadata.inode);
    key.freeze()
}

impl Worker {
    /// No files yet.
    pub fn new(config: Arc<SpoolConfig>, cx: &SourceContext) -> Self {
        let backoff =
            Backoff::new(Duration::from_millis(10), config.max_backoff.max(Duration::from_millis(10)));
        Self {
            name: Text::from(&*cx.name),
            shard: cx.shard,
            io: cx.io.clone(),
            counters: cx.counters.clone(),
            deliver: Deliver::new(cx, usize::MAX, backoff),
            keeps_marks: !cx.channels.marks(&cx.name).is_empty(),
            config,
            queue: VecDeque::new(),
            listed_at: None,
            aside: HashMap::new(),
            to_forget: Vec::new(),
            own_marks: HashMap::new(),
            stamp: 0,
            meta_written: false,
        }
    }

    /// Takes over what this shard's channels know, and Flume's position files.
    pub async fn load(&mut self, channels: Vec<Vec<SourceMark>>) {
        if self.shard.index == 0 {
            self.load_meta_files().await;
        }
        let mut known = self.config.shared.lock().unwrap_or_else(|e| e.into_inner());
        if known.channels.len() < channels.len() {
            known.channels.resize_with(channels.len(), HashMap::new);
        }
        for (known, marks) in known.channels.iter_mut().zip(channels) {
            for mark in marks {
                let Some(position) = Mark::decode(&mark.value) else { continue };
                self.own_marks.insert(mark.key.clone(), position.path.clone());
                if known.get(&mark.key).is_none_or(|other| other.stamp < position.stamp) {
                    known.insert(mark.key, position);
                }
            }
        }
    }

    async fn load_meta_files(&self) {
        let Ok(entries) = self.io.read_dir(&self.config.tracker).await else { return };
        for (name, _) in entries {
            let name = name.to_string_lossy();
            if !name.starts_with(META_NAME.0) || !name.ends_with(META_NAME.1) {
                continue;
            }
            let path = self.config.tracker.join(&*name);
            let Ok(file) = self.io.open(&path, OpenOptions::READ).await else { continue };
            let Ok(metadata) = file.metadata().await else { continue };
            let size = (metadata.size_bytes as usize).min(META_BYTES_MAX);
            let Ok(text) = read(&*file, 0, size).await else { continue };
            match meta::read(&text) {
                Some((file, offset)) => {
                    let file = PathBuf::from(std::ffi::OsStr::from_bytes(&file));
                    self.config.shared.lock().unwrap_or_else(|e| e.into_inner()).meta.insert(file, offset);
                }
                // Flume leaves empty ones behind after a full disk, and dies of them.
                None if text.is_empty() => {}
                None => {
                    tracing::warn!(source = %self.name, file = %path.display(), "not a position file; it is ignored");
                }
            }
        }
    }

    /// Reads files until the stop is requested.
    pub async fn run(&mut self, stop: &Stop) {
        while !stop.is_requested() {
            match self.next().await {
                Some(candidate) => self.consume(&candidate, stop).await,
                None => {
                    self.forget_rest(stop).await;
                    stop.or(self.io.sleep(self.config.poll_delay)).await;
                }
            }
        }
    }

    /// The next file. The directory is read again when all are done, and between files no more often than
    /// `pollDelay`: a large one takes longer to list than a small file to read.
    async fn next(&mut self) -> Option<Candidate> {
        let now = self.io.now();
        let is_stale = self.listed_at.is_none_or(|at| now.saturating_sub(at) >= self.config.poll_delay);
        if self.queue.is_empty() || (is_stale && self.config.order != ConsumeOrder::Random) {
            self.list().await;
            self.listed_at = Some(now);
        }
        self.queue.pop_front()
    }

    async fn list(&mut self) {
        let config = self.config.clone();
        let mut found = Vec::new();
        let mut directories = vec![(config.directory.clone(), 0)];
        while let Some((directory, depth)) = directories.pop() {
            let entries = match self.io.read_dir(&directory).await {
                Ok(entries) => entries,
                Err(error) => {
                    tracing::error!(source = %self.name, directory = %directory.display(), %error, "cannot look into the directory; let the user this program runs as read it");
                    continue;
                }
            };
            for (name, kind) in entries {
                let bytes = name.as_bytes();
                if bytes.starts_with(b".") || config.ignore.0.is_full_match(bytes) {
                    continue;
                }
                let path = directory.join(&name);
                if kind == FileType::Directory {
                    if config.recursive && depth < DEPTH_MAX && path != config.tracker {
                        directories.push((path, depth + 1));
                    }
                    continue;
                }
                if bytes.ends_with(config.suffix.as_bytes()) || !config.include.0.is_full_match(bytes) {
                    continue;
                }
                let Ok(metadata) = self.io.metadata(&path).await else { continue };
                let key = key_of(&metadata);
                if metadata.file_type != FileType::File || !self.shard.owns(stable_hash(&key)) {
                    continue;
                }
                if self.aside.get(&path) == Some(&(metadata.size_bytes, metadata.modified))
                    || self.is_tracked(&path).await
                {
                    continue;
                }
                found.push(Candidate { path, key, size: metadata.size_bytes, modified: metadata.modified });
            }
        }
        match config.order {
            // Between two of one time the smaller name comes first, as in Flume.
            ConsumeOrder::Oldest => found.sort_by(|a, b| {
                a.modified.cmp(&b.modified).then_with(|| a.path.file_name().cmp(&b.path.file_name()))
            }),
            ConsumeOrder::Youngest => found.sort_by(|a, b| {
                b.modified.cmp(&a.modified).then_with(|| a.path.file_name().cmp(&b.path.file_name()))
            }),
            ConsumeOrder::Random => {
                for index in (1..found.len()).rev() {
                    found.swap(index, (self.io.random() % (index as u64 + 1)) as usize);
                }
            }
        }
        // A file of which a part is in the channels comes first, as Flume's position file has it.
        let known = config.shared.lock().unwrap_or_else(|e| e.into_inner());
        found.sort_by_key(|c| !(known.meta.contains_key(&c.path) || known.resume(&c.key).is_some()));
        drop(known);
        self.queue = found.into();
    }

    fn tracker_of(&self, path: &Path) -> PathBuf {
        let relative = path.strip_prefix(&self.config.directory).unwrap_or(path);
        let mut marker = self.config.tracker.join(relative).into_os_string();
        marker.push(&self.config.suffix);
        marker.into()
    }

    async fn is_tracked(&self, path: &Path) -> bool {
        self.config.done == Done::Track && self.io.metadata(&self.tracker_of(path)).await.is_ok()
    }

    async fn consume(&mut self, candidate: &Candidate, stop: &Stop) {
        let path = candidate.path.display();
        match self.read_file(candidate, stop).await {
            Ok(()) if self.has_changed(candidate).await => {
                self.set_aside(
                    candidate,
                    "it was changed while it was read (files must not change once they are here)",
                )
                .await;
            }
            Ok(()) => {
                match self.finish(candidate).await {
                    Ok(()) => {
                        tracing::info!(source = %self.name, file = %path, "file was read");
                        self.forget(candidate);
                    }
                    Err(error) => {
                        self.set_aside(candidate, &format!("it was read, but cannot be marked as done ({error}); it will not be read again")).await;
                    }
                }
            }
            Err(SetAside::Stopped) => {}
            Err(SetAside::Io(error)) if error.kind() == ErrorKind::NotFound => {
                tracing::warn!(source = %self.name, file = %path, "file has gone before it was read");
            }
            Err(SetAside::Io(error)) => {
                self.set_aside(candidate, &format!("cannot read it: {error}")).await;
            }
            Err(SetAside::Bad(bad)) => self.set_aside(candidate, &bad.0).await,
        }
    }

    /// A channel may have been full for long since the last event was read.
    async fn has_changed(&self, candidate: &Candidate) -> bool {
        let now = self.io.metadata(&candidate.path).await;
        now.is_ok_and(|m| m.size_bytes != candidate.size || m.modified != candidate.modified)
    }

    async fn set_aside(&mut self, candidate: &Candidate, reason: &str) {
        self.counters.event_read_fail.add(1);
        self.counters.generic_processing_fail.add(1);
        tracing::error!(source = %self.name, file = %candidate.path.display(), reason, "file is set aside, the others go on; to have it read from its start, put a copy of it there under another name");
        // The state it is in now: it is looked at again when it changes once more.
        let now = self.io.metadata(&candidate.path).await;
        let state = now.map_or((candidate.size, candidate.modified), |m| (m.size_bytes, m.modified));
        self.aside.insert(candidate.path.clone(), state);
    }

    fn forget(&mut self, candidate: &Candidate) {
        if self.own_marks.remove(&candidate.key).is_some() {
            self.to_forget.push(candidate.key.clone());
        }
        let mut known = self.config.shared.lock().unwrap_or_else(|e| e.into_inner());
        known.meta.remove(&candidate.path);
        known.channels.iter_mut().for_each(|known| {
            known.remove(&candidate.key);
        });
    }

    /// Where to go on in a file.
    fn place(&self, candidate: &Candidate) -> Result<(Option<Place>, bool), BadFile> {
        let known = self.config.shared.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(mark) = known.resume(&candidate.key) {
            let same_path = mark.path == candidate.path;
            if mark.size == candidate.size && mark.modified == nanos(candidate.modified) {
                return Ok((Some(mark.place), mark.finished));
            }
            // An inode used again has another name, or a file that was done with.
            let may_be_new = mark.finished && self.config.done == Done::Delete;
            if same_path && !may_be_new && mark.place > Place::default() {
                return Err(BadFile(format!(
                    "it was changed after {} of its bytes were read (files must not change once they are here)",
                    mark.place.offset
                )));
            }
            return Ok((None, false));
        }
        let offset = known.meta.get(&candidate.path).filter(|offset| **offset <= candidate.size);
        Ok((offset.map(|offset| Place { offset: *offset, inner: 0 }), false))
    }

    /// Puts all events of a file into the channels.
    async fn read_file(&mut self, candidate: &Candidate, stop: &Stop) -> Result<(), SetAside> {
        let end = Rc::new(Cell::new(None));
        let read = self.push_file(candidate, &end, stop).await;
        let left = self.deliver.settle(stop).await;
        if left.is_none() && !matches!(read, Err(SetAside::Stopped)) {
            return read;
        }
        if let Some(place) = end.get() {
            self.write_meta(candidate, place.offset).await;
        }
        Err(SetAside::Stopped)
    }

    /// Sends all events of a file on their way; `end` is the place behind the last one the channels have.
    async fn push_file(
        &mut self,
        candidate: &Candidate,
        end: &Rc<Cell<Option<Place>>>,
        stop: &Stop,
    ) -> Result<(), SetAside> {
        let file = self.io.open(&candidate.path, OpenOptions::READ).await?;
        let metadata = file.metadata().await?;
        let unchanged =
            |now: &Metadata| now.size_bytes == candidate.size && now.modified == candidate.modified;
        if key_of(&metadata) != candidate.key || !unchanged(&metadata) {
            // Still being written, or replaced: the next listing has it as it is then.
            return Err(SetAside::Stopped);
        }
        let (resume, finished) = self.place(candidate)?;
        if finished {
            return Ok(());
        }
        let first_size = match self.config.format {
            Format::Avro(_) => FIRST_BYTES,
            _ => 4,
        };
        let first = read(&*file, 0, first_size.min(candidate.size as usize)).await?;
        let mut deserializer = self.config.format.begin(self.config.text, &first)?;
        let mut place = resume.filter(|p| *p > deserializer.start()).unwrap_or(deserializer.start());
        let mut want = READ_BYTES;
        let mut meta_at = self.io.now();
        loop {
            let left = candidate.size.saturating_sub(place.offset);
            let window = read(&*file, place.offset, want.min(left as usize)).await?;
            let at_end = window.len() as u64 == left;
            if (window.len() as u64) < left.min(want as u64) {
                return Err(BadFile("it was cut short while it was read".to_owned()).into());
            }
            let mut builder = BatchBuilder::with_capacity(Separator::Newline, window.len() + 1024, 256);
            if let Format::Blob(_) | Format::Avro(_) = self.config.format {
                builder = BatchBuilder::new(Separator::None);
            }
            let mut places = Vec::new();
            let cut = deserializer.cut(&window, place, at_end, &mut builder, &mut places);
            if candidate.size == 0 {
                // As in Flume, a file without content is an event without content.
                builder.push(b"");
                places.push(place);
            }
            let is_last = at_end && cut.is_ok() && places.last().is_none_or(|p| p.offset == candidate.size);
            // Judged before the last events go: what was read must be what is there.
            let intact = !is_last || unchanged(&file.metadata().await?);
            let found = places.last().copied();
            if let Some(last) = found {
                let piece = self.piece(candidate, places, is_last && intact, end.clone());
                let batch = self.with_headers(candidate, builder.finish());
                if !self.deliver.push(batch, piece, stop).await {
                    return Err(SetAside::Stopped);
                }
                place = last;
            }
            cut?;
            if !intact {
                return Err(BadFile(
                    "it was changed while it was read (files must not change once they are here)".to_owned(),
                )
                .into());
            }
            if is_last {
                return Ok(());
            }
            if found.is_none() {
                if want >= deserializer.window_max().max(READ_BYTES) {
                    let most = deserializer.window_max();
                    return Err(BadFile(format!(
                        "its event at byte {} is longer than {most} bytes",
                        place.offset
                    ))
                    .into());
                }
                want = (want * 2).min(deserializer.window_max().max(READ_BYTES));
                continue;
            }
            want = READ_BYTES;
            if stop.is_requested() {
                return Err(SetAside::Stopped);
            }
            if !self.keeps_marks
                && self.io.now().saturating_sub(meta_at) >= META_INTERVAL
                && let Some(end) = end.get()
            {
                self.write_meta(candidate, end.offset).await;
                meta_at = self.io.now();
            }
        }
    }

    fn with_headers(&self, candidate: &Candidate, mut batch: EventBatch) -> EventBatch {
        if let Some(key) = &self.config.file_header {
            batch.common_mut().insert(key.as_str(), &*candidate.path.to_string_lossy());
        }
        if let Some(key) = &self.config.basename_header {
            let name = candidate.path.file_name().unwrap_or_default();
            batch.common_mut().insert(key.as_str(), &*name.to_string_lossy());
        }
        batch
    }

    fn piece(
        &mut self,
        candidate: &Candidate,
        places: Vec<Place>,
        is_last: bool,
        end: Rc<Cell<Option<Place>>>,
    ) -> Piece {
        self.stamp = nanos(UNIX_EPOCH + self.io.unix_time()).max(self.stamp + 1);
        if self.keeps_marks {
            self.own_marks.insert(candidate.key.clone(), candidate.path.clone());
        }
        Piece {
            config: self.config.clone(),
            name: self.name.clone(),
            key: candidate.key.clone(),
            path: candidate.path.clone(),
            size: candidate.size,
            modified: nanos(candidate.modified),
            stamp: self.stamp,
            keeps_marks: self.keeps_marks,
            is_last,
            places,
            end,
        }
    }

    /// Marks a file as done. Its events are committed.
    async fn finish(&mut self, candidate: &Candidate) -> std::io::Result<()> {
        let path = &candidate.path;
        match self.config.done {
            Done::Delete => self.io.remove_file(path).await?,
            Done::Rename => {
                let mut target = path.clone().into_os_string();
                target.push(&self.config.suffix);
                self.io.rename_new(path, Path::new(&target)).await?;
            }
            Done::Track => {
                let marker = self.tracker_of(path);
                if let Some(parent) = marker.parent() {
                    self.io.create_dir_all(parent).await?;
                }
                self.io.open(&marker, OpenOptions::WRITE).await?.sync_data().await?;
            }
        }
        // Before the mark is forgotten, the marker must survive a power failure.
        let marked = if self.config.done == Done::Track { self.tracker_of(path) } else { path.clone() };
        if let Some(directory) = marked.parent() {
            self.io.sync_dir(directory).await?;
        }
        if std::mem::take(&mut self.meta_written) {
            let _ = self.io.remove_file(&self.meta_path()).await;
        }
        Ok(())
    }

    fn meta_path(&self) -> PathBuf {
        let (prefix, suffix) = META_NAME;
        self.config.tracker.join(match self.shard.index {
            0 => format!("{prefix}{suffix}"),
            index => format!("{prefix}-{index}{suffix}"),
        })
    }

    async fn write_meta(&mut self, candidate: &Candidate, offset: u64) {
        let mut sync = [0; 16];
        sync.as_mut_slice().put_u64(self.io.random());
        let text = meta::write(candidate.path.as_os_str().as_bytes(), offset, sync);
        let path = self.meta_path();
        let temporary = path.with_extension("meta.tmp");
        let written = async {
            let file = self.io.open(&temporary, OpenOptions::TRUNCATE).await?;
            file.write_at(text, 0).await?;
            file.sync_data().await?;
            self.io.rename(&temporary, &path).await
        };
        match written.await {
            Ok(()) => self.meta_written = true,
            Err(error) => {
                tracing::warn!(source = %self.name, file = %path.display(), %error, "cannot write the position file");
            }
        }
    }

    /// Takes the marks of files that are done with out of the channels, when there is nothing else to do.
    async fn forget_rest(&mut self, stop: &Stop) {
        let mut gone = Vec::new();
        for (key, path) in &self.own_marks {
            if !self.aside.contains_key(path)
                && matches!(self.io.metadata(path).await, Err(e) if e.kind() == ErrorKind::NotFound)
            {
                gone.push(key.clone());
            }
        }
        for key in &gone {
            self.own_marks.remove(key);
        }
        self.to_forget.append(&mut gone);
        let keys: HashSet<Bytes> = self.to_forget.drain(..).collect();
        for key in keys {
            if self.own_marks.contains_key(&key) {
                continue;
            }
            let mark = SourceMark { source: self.name.clone(), key, value: Bytes::new() };
            self.deliver.push(EventBatch::default(), mark, stop).await;
        }
    }
}

/// Events of a file on their way.
struct Piece {
    config: Arc<SpoolConfig>,
    name: Text,
    key: Bytes,
    path: PathBuf,
    size: u64,
    modified: u64,
    stamp: u64,
    keeps_marks: bool,
    /// The file ends with it.
    is_last: bool,
    /// The place behind each event.
    places: Vec<Place>,
    end: Rc<Cell<Option<Place>>>,
}

impl Piece {
    fn mark_of(&self, events: usize) -> Option<Mark> {
        let place = *self.places.get(events.checked_sub(1)?)?;
        let finished = self.is_last && events == self.places.len();
        let (stamp, size, modified, path) = (self.stamp, self.size, self.modified, self.path.clone());
        Some(Mark { stamp, place, finished, size, modified, path })
    }
}

impl Progress for Piece {
    fn mark(&self, events: usize) -> Option<SourceMark> {
        let value = self.mark_of(events)?.encode();
        Some(SourceMark { source: self.name.clone(), key: self.key.clone(), value })
    }
    fn committed(&self, events: usize) {
        let Some(mark) = self.mark_of(events) else { return };
        self.end.set(Some(mark.place));
        let mut known = self.config.shared.lock().unwrap_or_else(|e| e.into_inner());
        if self.keeps_marks {
            known.channels.iter_mut().for_each(|known| {
                known.insert(self.key.clone(), mark.clone());
            });
        } else {
            known.meta.insert(self.path.clone(), mark.place.offset);
        }
    }
}

/// Reads up to `size` bytes at `offset`; fewer only at the end of the file.
async fn read(file: &dyn File, offset: u64, size: usize) -> std::io::Result<Vec<u8>> {
    let (result, mut bytes) = file.read_at(Vec::with_capacity(size), offset).await;
    result?;
    while bytes.len() < size {
        let more = Vec::with_capacity(size - bytes.len());
        let (result, more) = file.read_at(more, offset + bytes.len() as u64).await;
        if result? == 0 {
            break;
        }
        bytes.extend_from_slice(&more);
    }
    bytes.truncate(size);
    Ok(bytes)
}
