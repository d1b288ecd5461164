//! The files of one shard: finding them, reading them in turn, letting go of them.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fmt::Write;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::file::{self, HEAD_BYTES, LINE_BYTES_MAX, Piece, READ_BYTES, Tailed, last};
use super::table::{FileId, Ghost, Position, Print, Resume};
use super::{Held, Listings, TaildirConfig};
use crate::component::Shard;
use crate::event::{BatchBuilder, EventBatch, EventHeadersBuilder, Separator, SourceMark, Text};
use crate::io::stop::Stop;
use crate::io::{File, FileType, Io, Metadata, OpenOptions};
use crate::metrics::SourceCounters;
use crate::source::SourceContext;
use crate::source::deliver::{Deliver, Progress};

/// Reads of one file before the others have their turn, in bytes 5.2 MiB: Flume reads a busy file for ever
/// unless `maxBatchCount` is set.
const READS_PER_TURN: u64 = 13;
/// A deleted file is let go when it has not grown for so long: its writer may still have lines to write.
const DELETED_GRACE: Duration = Duration::from_secs(3);
/// A directory listing is trusted if the directory had not changed for so long when it was read: file
/// systems count time in ticks, some in seconds.
const LISTING_SETTLED: Duration = Duration::from_secs(2);
/// How long a file that looks like a copy of one being read is watched before it is taken for one.
const COPY_PATIENCE: Duration = Duration::from_secs(10);
/// Content that makes a file look like a copy: less is repeated rather than taken for one by mistake.
const COPY_BYTES_MIN: u16 = 128;
/// Files kept open per shard; the longest idle ones are closed beyond it. Half of the usual limit of 1024
/// for one of several shards.
const OPEN_FILES_MAX: usize = 256;
/// Scans that must miss a closed file before it is let go: one may miss a file being renamed.
const SCANS_MISSED: u32 = 2;

/// A file that began like one being read.
pub struct HeldCopy {
    /// Since when it has not changed.
    since: Duration,
    size: u64,
}

/// Oldest first, as in Flume, so that a rotated file comes before its successor. Within one tick of the clock
/// `app.log.1` comes before `app.log`.
fn first_to_read(a: (SystemTime, &PathBuf), b: (SystemTime, &PathBuf)) -> Ordering {
    a.0.cmp(&b.0).then_with(|| b.1.cmp(a.1))
}

/// The files of one shard.
pub struct Reader {
    config: Arc<TaildirConfig>,
    name: Text,
    shard: Shard,
    io: Io,
    counters: Arc<SourceCounters>,
    deliver: Deliver,
    files: HashMap<FileId, Tailed>,
    listings: Listings,
    held: Held,
    scanned: bool,
    stamp: u64,
}

impl Reader {
    /// No files yet.
    pub fn new(config: Arc<TaildirConfig>, cx: &SourceContext, deliver: Deliver) -> Self {
        Self {
            config,
            name: Text::from(&*cx.name),
            shard: cx.shard,
            io: cx.io.clone(),
            counters: cx.counters.clone(),
            deliver,
            files: HashMap::new(),
            listings: Listings::new(),
            held: Held::new(),
            scanned: false,
            stamp: 0,
        }
    }

    fn next_stamp(&mut self) -> u64 {
        self.stamp = (self.io.unix_time().as_nanos() as u64).max(self.stamp + 1);
        self.stamp
    }

    /// Files of these names may have grown.
    pub fn touch(&mut self, written: &HashSet<(PathBuf, OsString)>) {
        if written.is_empty() {
            return;
        }
        let is_written = |path: &Path| {
            let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return false };
            written.contains(&(directory.to_owned(), name.to_owned()))
        };
        for file in self.files.values_mut() {
            // A renamed file is reported under its new name.
            file.dirty |= !file.listed || is_written(&file.path);
        }
    }

    /// True if some file was left before its end.
    pub fn has_more(&self) -> bool {
        self.files.values().any(|f| f.dirty && !f.complained)
    }

    /// Looks at every name of every group.
    pub async fn scan(&mut self, stop: &Stop) {
        for file in self.files.values_mut() {
            file.listed = false;
        }
        let config = self.config.clone();
        let mut found: Vec<(FileId, PathBuf, usize, Metadata)> = Vec::new();
        let mut seen = HashSet::new();
        for (index, group) in config.groups.iter().enumerate() {
            if let Err(error) = self.list(&group.directory).await {
                tracing::warn!(source = %self.name, directory = %group.directory.display(), %error, "cannot look into the directory");
                continue;
            }
            let Some(listing) = self.listings.get(&group.directory) else { continue };
            let matching = listing.names.iter().filter(|name| group.matches(name));
            let paths: Vec<PathBuf> = matching.map(|name| group.directory.join(name)).collect();
            for path in paths {
                let Ok(metadata) = self.io.metadata(&path).await else { continue };
                if metadata.file_type != FileType::File {
                    continue;
                }
                let id = FileId { device: metadata.device, inode: metadata.inode };
                // Two names or two groups of one file: the first counts.
                if seen.insert(id) {
                    found.push((id, path, index, metadata));
                }
            }
        }
        let sizes: Vec<_> = found.iter().map(|(id, .., metadata)| (*id, metadata.size_bytes)).collect();
        let has = |id: &FileId| self.files.contains_key(id) || seen.contains(id);
        let mut own = config.table.deal(self.shard, &sizes, has).into_iter();
        found.retain(|_| own.next().unwrap_or_default());
        found.sort_by(|(_, a, _, x), (_, b, _, y)| first_to_read((x.modified, a), (y.modified, b)));
        for (id, path, group, metadata) in found {
            match self.files.get_mut(&id) {
                Some(file) => {
                    if file.path != path {
                        tracing::info!(source = %self.name, from = %file.path.display(), to = %path.display(), "file was renamed; going on in it");
                        file.path = path;
                        file.group = group;
                    }
                    file.listed = true;
                    file.modified = metadata.modified;
                    file.scans_missed = 0;
                    file.dirty |= (!file.placed && metadata.size_bytes > 0)
                        || file.seen.is_none_or(|seen| seen != (metadata.size_bytes, metadata.modified));
                }
                None => self.adopt(id, path, group, &metadata, stop).await,
            }
            if stop.is_requested() {
                return;
            }
        }
        for file in self.files.values_mut().filter(|f| !f.listed) {
            // No name to look at: the open file says whether it has grown.
            file.dirty = true;
            file.scans_missed += 1;
        }
        self.scanned = true;
    }

    /// Reads a directory unless its listing is known to be current.
    async fn list(&mut self, directory: &Path) -> std::io::Result<()> {
        let changed = self.io.metadata(directory).await?.modified;
        let listing = self.listings.entry(directory.to_owned()).or_default();
        let now = self.io.now();
        if self.config.cache
            && let Some((then, at)) = listing.read
            && then == changed
            && now.saturating_sub(at) >= LISTING_SETTLED
            && at != Duration::ZERO
        {
            return Ok(());
        }
        let entries = self.io.read_dir(directory).await?;
        listing.names = entries
            .into_iter()
            .filter(|(_, kind)| *kind != FileType::Directory)
            .map(|(name, _)| name)
            .collect();
        // Read within the tick of a change, it may miss another change of that tick: then read once more.
        let first_read = match listing.read {
            Some((then, at)) if then == changed => at,
            _ => now,
        };
        listing.read = Some((changed, first_read));
        Ok(())
    }

    /// Begins or resumes a file.
    async fn adopt(&mut self, id: FileId, path: PathBuf, group: usize, metadata: &Metadata, stop: &Stop) {
        let mut file = Tailed::new(id, path, group, self.io.now());
        file.modified = metadata.modified;
        match self.place(&mut file, metadata, stop).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                // It is tried again at each scan; said once.
                self.complain(&mut file, &error);
                self.files.insert(id, file);
                return;
            }
        }
        self.held.remove(&id);
        if file.offset > 0 {
            tracing::info!(source = %self.name, file = %file.path.display(), offset = file.offset, "going on in file");
        } else {
            tracing::info!(source = %self.name, file = %file.path.display(), "reading file");
        }
        self.remember(&file);
        if file.offset > 0 {
            self.keep_place(&file, stop).await;
        }
        self.files.insert(id, file);
    }

    /// Finds where to begin. False: not yet.
    async fn place(&mut self, file: &mut Tailed, metadata: &Metadata, stop: &Stop) -> std::io::Result<bool> {
        let Some(open) = file.open(&self.io).await? else { return Ok(false) };
        // Rotation appends to the name. Any other new name may be another file with an inode used again.
        let rotated = |old: &Path| {
            let names = (old.file_name().map(|n| n.as_bytes()), file.path.file_name().map(|n| n.as_bytes()));
            old.parent() == file.path.parent()
                && matches!(names, (Some(old), Some(new)) if new.starts_with(old))
        };
        match self.config.table.resume(file.id, &file.path, rotated) {
            Some(Resume::Mark(position)) => {
                if position.offset <= metadata.size_bytes
                    && let Some((head, tail)) =
                        file::holds(&*open, position.head, position.tail, position.offset).await?
                {
                    (file.offset, file.head, file.tail) = (position.offset, head, tail);
                } else {
                    tracing::info!(source = %self.name, file = %file.path.display(), "file has other content than before; reading it from its start");
                    self.replaced(file, position, stop).await;
                }
                return Ok(true);
            }
            Some(Resume::Offset(offset)) => {
                let offset = if offset <= metadata.size_bytes { offset } else { 0 };
                self.begin_at(file, &*open, offset).await?;
                return Ok(true);
            }
            None => {}
        }
        if !self.scanned && self.config.skip_to_end {
            self.begin_at(file, &*open, metadata.size_bytes).await?;
            return Ok(true);
        }
        self.place_copy(file, &*open, metadata).await
    }

    async fn begin_at(&self, file: &mut Tailed, open: &dyn File, offset: u64) -> std::io::Result<()> {
        file.offset = offset;
        file.head = file::read(open, 0, HEAD_BYTES).await?;
        let size = (file::TAIL_BYTES as u64).min(offset);
        file.tail = file::read(open, offset - size, size as usize).await?;
        Ok(())
    }

    /// A new file may be the copy of one that was, or is about to be, truncated: its lines up to where that
    /// one was read are in the channels already. False: to be seen.
    async fn place_copy(
        &mut self,
        file: &mut Tailed,
        open: &dyn File,
        metadata: &Metadata,
    ) -> std::io::Result<bool> {
        if metadata.size_bytes == 0 {
            // A copy just begun, perhaps.
            file.placed = false;
            return Ok(true);
        }
        for ghost in self.config.table.ghosts() {
            let Position { offset, head, tail, .. } = ghost.position;
            if head.size < COPY_BYTES_MIN || ghost.id == file.id {
                continue;
            }
            if offset <= metadata.size_bytes
                && let Some((head, tail)) = file::holds(open, head, tail, offset).await?
            {
                tracing::info!(source = %self.name, file = %file.path.display(), of = %ghost.position.path.display(), offset, "file is a copy made before a truncation; reading its rest");
                (file.offset, file.head, file.tail) = (offset, head, tail);
                return Ok(true);
            }
        }
        let first = file::read(open, 0, HEAD_BYTES).await?;
        let begins_like = |g: &Ghost| {
            let size = usize::from(g.position.head.size);
            g.id != file.id && first.get(..size).is_some_and(|piece| Print::of(piece) == g.position.head)
        };
        let originals = self.config.table.known_beyond(COPY_BYTES_MIN);
        let Some(original) = originals.iter().find(|g| begins_like(g)) else { return Ok(true) };
        let now = self.io.now();
        let held = self.held.entry(file.id).or_insert(HeldCopy { since: now, size: metadata.size_bytes });
        if held.size != metadata.size_bytes {
            (held.since, held.size) = (now, metadata.size_bytes);
        }
        if now.saturating_sub(held.since) < COPY_PATIENCE {
            return Ok(false);
        }
        // The original goes on: all that was copied is or will be read there. Only if it really is the same.
        let Position { offset, head, tail, .. } = original.position;
        if offset <= metadata.size_bytes && file::holds(open, head, tail, offset).await?.is_none() {
            return Ok(true);
        }
        if offset > metadata.size_bytes && !self.is_prefix(open, metadata.size_bytes, original).await {
            return Ok(true);
        }
        if !self.config.table.is_live(original.id) {
            self.begin_at(file, open, offset.min(metadata.size_bytes)).await?;
            return Ok(true);
        }
        tracing::info!(source = %self.name, file = %file.path.display(), of = %original.position.path.display(), "file is a copy; its lines are read in the original");
        self.begin_at(file, open, metadata.size_bytes).await?;
        Ok(true)
    }

    /// Finds where to begin in a file that was empty when it was found. False: not yet.
    async fn place_late(&mut self, file: &mut Tailed, open: &dyn File, stop: &Stop) -> std::io::Result<bool> {
        let metadata = open.metadata().await?;
        let has_content = metadata.size_bytes > 0;
        if !has_content || !self.place_copy(file, open, &metadata).await? {
            file.seen = Some((metadata.size_bytes, metadata.modified));
            file.dirty = false;
            return Ok(false);
        }
        file.placed = true;
        self.held.remove(&file.id);
        self.remember(file);
        if file.offset > 0 {
            self.keep_place(file, stop).await;
        }
        Ok(true)
    }

    /// True if a file's last bytes stand at the same place of the original.
    async fn is_prefix(&self, open: &dyn File, size: u64, original: &Ghost) -> bool {
        let Ok(Some(other)) = file::open_as(&self.io, &original.position.path, original.id).await else {
            return false;
        };
        let window = (4096u64).min(size);
        let ours = file::read(open, size - window, window as usize).await;
        let theirs = file::read(&*other, size - window, window as usize).await;
        matches!((ours, theirs), (Ok(a), Ok(b)) if a == b)
    }

    /// Writes a place without lines into channels that keep marks, so that it is not found anew.
    async fn keep_place(&mut self, file: &Tailed, stop: &Stop) {
        let stamp = self.next_stamp();
        let mark =
            file.position_at(file.offset, &file.tail, stamp).to_mark(&self.name, file.id, self.shard.index);
        self.deliver.push(EventBatch::default(), mark, stop).await;
    }

    fn remember(&mut self, file: &Tailed) {
        let stamp = self.next_stamp();
        self.config.table.set_live(file.id, file.position_at(file.offset, &file.tail, stamp));
    }

    /// Reads what is new in all files. True if there was something.
    pub async fn read_all(&mut self, stop: &Stop) -> bool {
        let mut due: Vec<&Tailed> = self.files.values().filter(|f| f.dirty).collect();
        due.sort_by(|a, b| first_to_read((a.modified, &a.path), (b.modified, &b.path)));
        let due: Vec<FileId> = due.into_iter().map(|f| f.id).collect();
        let mut progress = false;
        for id in due {
            if stop.is_requested() {
                break;
            }
            // Taken out while it is read, and put back.
            let Some(mut file) = self.files.remove(&id) else { continue };
            match self.read_file(&mut file, stop).await {
                Ok(read) => {
                    progress |= read;
                    file.complained = false;
                    self.files.insert(id, file);
                }
                Err(error) if error.kind() == ErrorKind::NotFound && file.file.is_none() => {
                    // Renamed between the scan and now, or gone: the next scans say.
                    file.dirty = false;
                    if file.scans_missed >= SCANS_MISSED {
                        self.let_go(file, stop).await;
                    } else {
                        self.files.insert(id, file);
                    }
                }
                Err(error) => {
                    self.complain(&mut file, &error);
                    self.files.insert(id, file);
                }
            }
        }
        progress
    }

    fn complain(&self, file: &mut Tailed, error: &std::io::Error) {
        if !file.complained {
            self.counters.event_read_fail.add(1);
            tracing::error!(source = %self.name, file = %file.path.display(), %error, "cannot read the file; let the user this program runs as read it (chmod, or its group); trying again, the others go on");
        }
        file.complained = true;
        file.file = None;
    }

    async fn read_file(&mut self, file: &mut Tailed, stop: &Stop) -> std::io::Result<bool> {
        let Some(open) = file.open(&self.io).await? else {
            // The name belongs to another file, and this one was closed: nothing is left to read it by.
            return Err(ErrorKind::NotFound.into());
        };
        if !file.placed && !self.place_late(file, &*open, stop).await? {
            return Ok(false);
        }
        let mut progress = false;
        let mut batches = 0;
        for _ in 0..READS_PER_TURN {
            let metadata = open.metadata().await?;
            let piece = file.read_new(&*open, &metadata).await?;
            let grown = file.seen.is_none_or(|(size, _)| size != metadata.size_bytes);
            if grown {
                file.grown_at = self.io.now();
            }
            match piece {
                Piece::Replaced => {
                    tracing::info!(source = %self.name, file = %file.path.display(), read_to = file.offset, "file was truncated; reading it from its start");
                    let stamp = self.next_stamp();
                    let old = file.position_at(file.offset, &file.tail, stamp);
                    self.replaced(file, old, stop).await;
                    progress = true;
                    // The mark of what was there may not have been taken.
                    if stop.is_requested() {
                        return Ok(progress);
                    }
                }
                Piece::End => {
                    file.seen = Some((metadata.size_bytes, metadata.modified));
                    file.dirty = false;
                    return Ok(progress);
                }
                Piece::New { bytes, known } => {
                    let before = file.offset;
                    let new = bytes.len() - known;
                    let lines = self.take_lines(file, bytes, known, false, stop).await;
                    progress |= lines > 0;
                    batches += (lines as u64).div_ceil(self.config.batch_size as u64);
                    if stop.is_requested() {
                        return Ok(progress);
                    }
                    if file.offset == before && new >= file.want {
                        // A line longer than one read.
                        file.want = (file.want * 2).min(LINE_BYTES_MAX);
                        continue;
                    }
                    file.want = READ_BYTES;
                    let at_end = before + new as u64 >= metadata.size_bytes;
                    if at_end {
                        file.seen = Some((metadata.size_bytes, metadata.modified));
                        // The next look decides; a growth meanwhile shows in size or time.
                        file.dirty = open.metadata().await.is_ok_and(|now| {
                            (now.size_bytes, now.modified) != (metadata.size_bytes, metadata.modified)
                        });
                        if !file.dirty {
                            return Ok(progress);
                        }
                    }
                    if batches >= self.config.batches_max {
                        return Ok(progress);
                    }
                }
            }
        }
        Ok(progress)
    }

    /// Sends the complete lines among new bytes on their way to the channels; with `all`, also what follows the
    /// last line feed. Returns how many, and moves the reading behind them.
    async fn take_lines(
        &mut self,
        file: &mut Tailed,
        bytes: Vec<u8>,
        known: usize,
        all: bool,
        stop: &Stop,
    ) -> usize {
        let new = bytes.get(known..).unwrap_or_default();
        let mut ends: Vec<u32> = memchr::memchr_iter(b'\n', new).map(|end| end as u32).collect();
        let complete = ends.last().map_or(0, |end| *end as usize + 1);
        let too_long = ends.is_empty() && new.len() >= LINE_BYTES_MAX;
        if too_long {
            tracing::warn!(source = %self.name, file = %file.path.display(), offset = file.offset, "a line is longer than {LINE_BYTES_MAX} bytes; it becomes several events");
        }
        // Where each line ends in the file, its line feed included.
        let mut raw_ends: Vec<u32> = ends.iter().map(|end| end + 1).collect();
        let has_rest = (all || too_long) && complete < new.len();
        if has_rest {
            ends.push(new.len() as u32);
            raw_ends.push(new.len() as u32);
        }
        if ends.is_empty() {
            return 0;
        }
        let has_return = memchr::memmem::find(new.get(..complete).unwrap_or_default(), b"\r\n").is_some();
        let start_of =
            |index: usize| if index == 0 { 0 } else { raw_ends.get(index - 1).map_or(0, |e| *e as usize) };
        let area = Bytes::from(bytes);
        let mut batch = if has_rest || has_return {
            let mut builder = BatchBuilder::with_capacity(Separator::Newline, area.len() - known, ends.len());
            for (index, end) in ends.iter().enumerate() {
                let line = area.get(known + start_of(index)..known + *end as usize).unwrap_or_default();
                let is_complete = !has_rest || index + 1 < ends.len();
                let line = if is_complete { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
                builder.push(line);
            }
            builder.finish()
        } else {
            let lines = area.slice(known..known + complete);
            EventBatch::from_parts(lines, ends, Separator::Newline).unwrap_or_default()
        };
        self.set_headers(file, &mut batch, start_of);
        let total = batch.len();
        let read = area.get(..known + start_of(total)).unwrap_or_default();
        let (offset, tail) = (file.offset + start_of(total) as u64, last(read).to_vec());
        let sent = Sent {
            config: self.config.clone(),
            name: self.name.clone(),
            shard: self.shard.index,
            id: file.id,
            path: file.path.clone(),
            head: file.head.clone(),
            stamp: self.next_stamp(),
            start: file.offset,
            known,
            ends: raw_ends,
            area,
        };
        self.config.table.set_read(file.id, sent.position(total));
        if !self.deliver.push(batch, sent, stop).await {
            return 0;
        }
        (file.offset, file.tail) = (offset, tail);
        total
    }

    fn set_headers(&self, file: &Tailed, batch: &mut EventBatch, start_of: impl Fn(usize) -> usize) {
        if let Some(group) = self.config.groups.get(file.group) {
            *batch.common_mut() = group.headers.clone();
        }
        if let Some(key) = &self.config.file_header {
            batch.common_mut().insert(key.as_str(), &*file.path.to_string_lossy());
        }
        if self.config.byte_offset_header {
            let mut each = EventHeadersBuilder::with_capacity(batch.len());
            let mut text = String::new();
            for index in 0..batch.len() {
                text.clear();
                let _ = write!(text, "{}", file.offset + start_of(index) as u64);
                each.header("byteoffset", &text);
                each.end_event();
            }
            batch.set_each(each.finish());
        }
    }

    /// The content up to a position is gone: its rest may be in a copy, read here or by another shard.
    async fn replaced(&mut self, file: &mut Tailed, old: Position, stop: &Stop) {
        if old.offset > 0 {
            let old = self.drain_copy(file, &old, stop).await.unwrap_or(old);
            // Another shard may go on in a copy from here as soon as it knows.
            if !self.settle(stop).await {
                return;
            }
            let ghost = Ghost { id: file.id, position: old };
            let mark = self.config.table.add_ghost(&self.name, self.shard.index, ghost);
            self.deliver.push(EventBatch::default(), mark, stop).await;
        }
        file.restart();
        self.remember(file);
    }

    /// Reads what a truncated file still held from a copy of it in the same directory, unless a group's
    /// pattern matches the copy's name: then it is read as a file of its own.
    ///
    /// Returns where the reading ended, if there was a copy.
    async fn drain_copy(&mut self, file: &mut Tailed, old: &Position, stop: &Stop) -> Option<Position> {
        let directory = file.path.parent()?.to_owned();
        let entries = self.io.read_dir(&directory).await.ok()?;
        for (name, kind) in entries {
            let config = &self.config;
            if kind != FileType::File
                || config.groups.iter().any(|g| g.directory == directory && g.matches(&name))
            {
                continue;
            }
            let path = directory.join(name);
            match self.drain_if_copy(file, &path, old, stop).await {
                Ok(true) => {
                    let stamp = self.next_stamp();
                    return Some(file.position_at(file.offset, &file.tail, stamp));
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(source = %self.name, file = %path.display(), %error, "cannot look whether it is a copy");
                }
            }
        }
        None
    }

    async fn drain_if_copy(
        &mut self,
        file: &mut Tailed,
        path: &Path,
        old: &Position,
        stop: &Stop,
    ) -> std::io::Result<bool> {
        let metadata = self.io.metadata(path).await?;
        if metadata.size_bytes <= old.offset {
            return Ok(false);
        }
        let copy = self.io.open(path, OpenOptions::READ).await?;
        let Some((head, tail)) = file::holds(&*copy, old.head, old.tail, old.offset).await? else {
            return Ok(false);
        };
        (file.offset, file.head, file.tail) = (old.offset, head, tail);
        tracing::info!(source = %self.name, file = %path.display(), of = %file.path.display(), offset = old.offset, "reading the rest of the truncated file from its copy");
        // The marks carry the prints of the old content: killed here, the rest is found by them again.
        let mut want = READ_BYTES;
        loop {
            let known = file.tail.len();
            let bytes = file::read(&*copy, file.offset - known as u64, known + want).await?;
            let at_end = bytes.len() < known + want;
            let before = file.offset;
            if bytes.len() > known {
                self.take_lines(file, bytes, known, at_end, stop).await;
            }
            if at_end || stop.is_requested() {
                return Ok(true);
            }
            want = if file.offset == before { (want * 2).min(LINE_BYTES_MAX) } else { READ_BYTES };
        }
    }

    /// Closes files that rest, and lets go of those that are gone.
    pub async fn rest(&mut self, stop: &Stop) {
        let now = self.io.now();
        let open = self.files.values().filter(|f| f.file.is_some()).count();
        let mut resting: Vec<(Duration, FileId)> = Vec::new();
        for file in self.files.values().filter(|f| !f.dirty || f.complained) {
            let idle = now.saturating_sub(file.grown_at);
            let limit = if file.listed {
                self.config.idle_timeout
            } else {
                self.config.idle_timeout.min(DELETED_GRACE)
            };
            if idle >= limit && (file.file.is_some() || !file.listed) {
                resting.push((file.grown_at, file.id));
            }
        }
        if open > OPEN_FILES_MAX {
            let mut longest: Vec<_> = self
                .files
                .values()
                .filter(|f| f.file.is_some() && !f.dirty && f.listed)
                .map(|f| (f.grown_at, f.id))
                .collect();
            longest.sort();
            for (_, id) in longest.into_iter().take(open - OPEN_FILES_MAX) {
                if let Some(file) = self.files.get_mut(&id) {
                    file.file = None;
                }
            }
        }
        resting.sort();
        for (_, id) in resting {
            let Some(mut file) = self.files.remove(&id) else { continue };
            if let Err(error) = self.put_to_rest(&mut file, stop).await {
                self.complain(&mut file, &error);
            }
            if file.listed {
                self.files.insert(id, file);
            } else if self.is_deleted(&file).await
                || now.saturating_sub(file.grown_at) >= self.config.idle_timeout
            {
                self.let_go(file, stop).await;
            } else {
                self.files.insert(id, file);
            }
            if stop.is_requested() {
                return;
            }
        }
    }

    async fn is_deleted(&self, file: &Tailed) -> bool {
        match &file.file {
            Some(open) => open.metadata().await.is_ok_and(|m| m.links == 0),
            None => file.scans_missed >= SCANS_MISSED,
        }
    }

    /// Emits a last line without line feed, and closes the file if it has a name to open it by again.
    async fn put_to_rest(&mut self, file: &mut Tailed, stop: &Stop) -> std::io::Result<()> {
        let Some(open) = file.file.clone() else { return Ok(()) };
        let metadata = open.metadata().await?;
        let idle = self.io.now().saturating_sub(file.grown_at);
        let ends_for_good = metadata.links == 0 || idle >= self.config.idle_timeout;
        if metadata.size_bytes > file.offset && ends_for_good && file.placed {
            file.want = LINE_BYTES_MAX;
            if let Piece::New { bytes, known } = file.read_new(&*open, &metadata).await? {
                self.take_lines(file, bytes, known, true, stop).await;
            }
            file.want = READ_BYTES;
            file.dirty = file.offset < metadata.size_bytes;
        }
        if file.listed && !file.dirty {
            file.file = None;
        }
        Ok(())
    }

    /// Forgets a file, in the channels too.
    async fn let_go(&mut self, file: Tailed, stop: &Stop) {
        // Or what is on its way would bring it back.
        if !self.settle(stop).await {
            return;
        }
        tracing::info!(source = %self.name, file = %file.path.display(), read_to = file.offset, "file is gone or no longer matches; letting go of it");
        self.config.table.forget(file.id);
        let mark = SourceMark { source: self.name.clone(), key: file.id.key(), value: Bytes::new() };
        self.deliver.push(EventBatch::default(), mark, stop).await;
    }

    /// Waits until the channels have all that was read. False: the stop came, and they have not.
    pub async fn settle(&self, stop: &Stop) -> bool {
        self.deliver.settle(stop).await.is_none()
    }
}

/// Lines on their way, and where the file is when some of them are in the channels.
struct Sent {
    config: Arc<TaildirConfig>,
    name: Text,
    shard: usize,
    id: FileId,
    path: PathBuf,
    head: Vec<u8>,
    stamp: u64,
    /// Where the first line begins in the file.
    start: u64,
    /// As they were read, behind so many bytes known before.
    area: Bytes,
    known: usize,
    /// Where each line ends, counted from the first one's start, its line feed included.
    ends: Vec<u32>,
}

impl Sent {
    fn position(&self, lines: usize) -> Position {
        let size = lines.checked_sub(1).and_then(|index| self.ends.get(index)).map_or(0, |end| *end as usize);
        let read = self.area.get(..self.known + size).unwrap_or_default();
        let offset = self.start + size as u64;
        file::position(&self.head, offset, read, self.path.clone(), self.stamp)
    }
}

impl Progress for Sent {
    fn mark(&self, lines: usize) -> Option<SourceMark> {
        Some(self.position(lines).to_mark(&self.name, self.id, self.shard))
    }
    fn committed(&self, lines: usize) {
        self.config.table.set_live(self.id, self.position(lines));
    }
}
