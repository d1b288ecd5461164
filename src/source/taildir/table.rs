//! Where each file has been read to: shared by the shards, kept in marks and in Flume's position file.
//!
//! A mark is committed with the lines it stands behind, so it wins over the position file, which is written
//! every few seconds for Flume and for channels that keep no marks.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::sync::watch;

use super::share::Shares;
use crate::component::Shard;
use crate::event::{SourceMark, Text};

/// Device and inode: which file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

impl FileId {
    /// Key of its mark: both numbers, little-endian.
    pub fn key(self) -> Bytes {
        let mut key = BytesMut::with_capacity(16);
        key.put_u64_le(self.device);
        key.put_u64_le(self.inode);
        key.freeze()
    }
    fn from_key(mut key: &[u8]) -> Option<Self> {
        (key.len() == 16).then(|| Self { device: key.get_u64_le(), inode: key.get_u64_le() })
    }
}

/// Checksum of a piece of a file, by which it is recognised: inodes are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Print {
    /// Length of the piece in bytes.
    pub size: u16,
    /// CRC-32 of the piece.
    pub crc: u32,
}

impl Print {
    /// Of these bytes, at most 64 KiB.
    pub fn of(bytes: &[u8]) -> Self {
        Self { size: bytes.len() as u16, crc: crc32fast::hash(bytes) }
    }
}

/// How far a file has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Bytes that are in the channels.
    pub offset: u64,
    /// Of the file's first bytes, at most up to the offset.
    pub head: Print,
    /// Of the bytes just before the offset.
    pub tail: Print,
    /// Its name then.
    pub path: PathBuf,
    /// When, in nanoseconds since 1970, never twice: the latest of several marks counts.
    pub stamp: u64,
}

/// Version of the mark's encoding.
const MARK_VERSION: u8 = 1;
/// What a mark has before the path.
const MARK_FIXED_BYTES: usize = 33;

impl Position {
    /// The mark: version, shard that read it, stamp, offset, both prints, path; little-endian.
    pub fn to_mark(&self, source: &Text, id: FileId, shard: usize) -> SourceMark {
        use std::os::unix::ffi::OsStrExt;
        let path = self.path.as_os_str().as_bytes();
        let mut value = BytesMut::with_capacity(MARK_FIXED_BYTES + path.len());
        value.put_u8(MARK_VERSION);
        value.put_u32_le(shard as u32);
        value.put_u64_le(self.stamp);
        value.put_u64_le(self.offset);
        for print in [self.head, self.tail] {
            value.put_u16_le(print.size);
            value.put_u32_le(print.crc);
        }
        value.put_slice(path);
        SourceMark { source: source.clone(), key: id.key(), value: value.freeze() }
    }

    /// With the shard.
    fn from_mark(mut value: &[u8]) -> Option<(Self, usize)> {
        use std::os::unix::ffi::OsStrExt;
        if value.len() < MARK_FIXED_BYTES || value.get_u8() != MARK_VERSION {
            return None;
        }
        let shard = value.get_u32_le() as usize;
        let stamp = value.get_u64_le();
        let offset = value.get_u64_le();
        let mut print = || Print { size: value.get_u16_le(), crc: value.get_u32_le() };
        let (head, tail) = (print(), print());
        Some((Self { offset, head, tail, path: std::ffi::OsStr::from_bytes(value).into(), stamp }, shard))
    }
}

/// What was in a file before it was truncated: a copy of it may still hold lines that were not read.
#[derive(Clone, Debug)]
pub struct Ghost {
    /// Which file it was.
    pub id: FileId,
    /// Where it had been read to.
    pub position: Position,
}

/// Ghosts remembered, for copies seen later than the truncation: rotations within one scan interval. In the
/// channels each shard keeps as many, at about 200 bytes: 13 KB.
const GHOSTS_MAX: usize = 64;
/// What the keys of their marks begin with; shard and slot follow. Keys of files have another length.
const GHOST_KEY: &[u8; 4] = b"past";

/// Shard and slot: a shard's marks of ghosts replace each other, so that they do not add up.
type Slot = (u32, u32);

impl Ghost {
    fn to_mark(&self, source: &Text, slot: Slot) -> SourceMark {
        let mut key = BytesMut::with_capacity(12);
        key.put_slice(GHOST_KEY);
        key.put_u32_le(slot.0);
        key.put_u32_le(slot.1);
        let mark = self.position.to_mark(source, self.id, slot.0 as usize);
        let mut value = BytesMut::with_capacity(mark.key.len() + mark.value.len());
        value.put_slice(&mark.key);
        value.put_slice(&mark.value);
        SourceMark { source: source.clone(), key: key.freeze(), value: value.freeze() }
    }
    fn from_mark(mark: &SourceMark) -> Option<(Slot, Self)> {
        let mut slot = mark.key.strip_prefix(GHOST_KEY)?;
        let (id, position) = mark.value.split_at_checked(16)?;
        let ghost = Self { id: FileId::from_key(id)?, position: Position::from_mark(position)?.0 };
        (slot.len() == 8).then(|| ((slot.get_u32_le(), slot.get_u32_le()), ghost))
    }
}

/// What the shards of one TAILDIR source share. Locked only for a look-up or a change, never across an await.
#[derive(Debug)]
pub struct Table {
    inner: Mutex<Inner>,
    opened: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Per durable channel what it has of each file.
    channels: Vec<HashMap<FileId, Position>>,
    /// From the position file, by inode.
    file: HashMap<u64, (PathBuf, u64)>,
    live: HashMap<FileId, Position>,
    /// Behind what was read last and may not be in the channels yet.
    read: HashMap<FileId, Position>,
    /// Earliest first.
    ghosts: Vec<Ghost>,
    /// Stamps of the ghosts in the channels.
    slots: HashMap<Slot, u64>,
    shares: Shares,
    finished: usize,
    changed: bool,
}

/// Where to resume a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// By a mark: the prints are to be compared.
    Mark(Position),
    /// By the position file.
    Offset(u64),
}

impl Default for Table {
    fn default() -> Self {
        Self { inner: Mutex::default(), opened: watch::Sender::new(0) }
    }
}

impl Inner {
    fn push_ghost(&mut self, ghost: Ghost) {
        let at = self.ghosts.partition_point(|g| g.position.stamp < ghost.position.stamp);
        self.ghosts.insert(at, ghost);
        if self.ghosts.len() > GHOSTS_MAX {
            self.ghosts.remove(0);
        }
    }
}

impl Table {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes over what one shard's channels know. Marks that cannot be read are left out.
    pub fn open_shard(&self, channels: &[Vec<SourceMark>]) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if inner.channels.len() < channels.len() {
            inner.channels.resize_with(channels.len(), HashMap::new);
        }
        for (slot, ghost) in channels.iter().flatten().filter_map(Ghost::from_mark) {
            let stamp = ghost.position.stamp;
            if inner.slots.get(&slot).is_none_or(|known| *known < stamp) {
                inner.slots.insert(slot, stamp);
                inner.push_ghost(ghost);
            }
        }
        let Inner { channels: known, shares, .. } = inner;
        for (known, marks) in known.iter_mut().zip(channels) {
            for mark in marks {
                let (Some(id), Some((position, shard))) =
                    (FileId::from_key(&mark.key), Position::from_mark(&mark.value))
                else {
                    continue;
                };
                // The file may have been another shard's in an earlier run, and left an older mark there.
                if known.get(&id).is_none_or(|other| other.stamp < position.stamp) {
                    known.insert(id, position);
                    shares.keep(id, shard);
                }
            }
        }
        self.opened.send_modify(|count| *count += 1);
    }

    /// Waits until every shard has brought what it knows.
    pub async fn all_opened(&self, shards: usize) {
        let _ = self.opened.subscribe().wait_for(|count| *count >= shards).await;
    }

    /// Takes over Flume's position file.
    pub fn load_file(&self, entries: Vec<(u64, u64, PathBuf)>) {
        let mut inner = self.lock();
        inner.file = entries.into_iter().map(|(inode, offset, path)| (inode, (path, offset))).collect();
    }

    /// Tells a shard which of the files it has found, given with their sizes, it is to read; deals those that are
    /// nobody's yet. `has`: what the shard reads already. Exactly one shard is told of a file, and always the same.
    pub fn deal(&self, shard: Shard, found: &[(FileId, u64)], has: impl Fn(&FileId) -> bool) -> Vec<bool> {
        let mut inner = self.lock();
        let Inner { channels, file, live, shares, .. } = &mut *inner;
        let read_to = |id: &FileId| {
            let known = live.get(id).or_else(|| channels.iter().find_map(|known| known.get(id)));
            known.map(|p| p.offset).or_else(|| file.get(&id.inode).map(|(_, offset)| *offset)).unwrap_or(0)
        };
        let left: Vec<_> = found.iter().map(|(id, size)| (*id, size.saturating_sub(read_to(id)))).collect();
        shares.drop_of(shard.index, |id| has(id) || channels.iter().any(|known| known.contains_key(id)));
        shares.deal(&left, shard.count).into_iter().map(|owner| owner == shard.index).collect()
    }

    /// Where to resume a file that is seen for the first time.
    ///
    /// The position file knows neither device nor content, so its entry counts for a file of the same name,
    /// as in Flume, or of another name if the old one is known to be another file now (`renamed`).
    pub fn resume(&self, id: FileId, path: &Path, renamed: impl Fn(&Path) -> bool) -> Option<Resume> {
        let inner = self.lock();
        // A device may be numbered otherwise after a reboot; inode, name and prints still say which file.
        let known = |of: &HashMap<FileId, Position>| {
            let same = of.get(&id);
            same.or_else(|| of.iter().find(|(k, p)| k.inode == id.inode && p.path == path).map(|(_, p)| p))
                .cloned()
        };
        let positions: Option<Vec<Position>> = inner.channels.iter().map(known).collect();
        // The earliest is the furthest that all channels have passed.
        if let Some(position) = positions.into_iter().flatten().min_by_key(|p| p.stamp) {
            return Some(Resume::Mark(position));
        }
        let (name, offset) = inner.file.get(&id.inode)?;
        (name == path || renamed(name)).then_some(Resume::Offset(*offset))
    }

    /// A shard reads the file, and this is how far it is.
    pub fn set_live(&self, id: FileId, position: Position) {
        let mut inner = self.lock();
        inner.live.insert(id, position);
        inner.changed = true;
    }

    /// A shard has read the file up to here; the channels may not have it yet. Whoever finds a copy of it
    /// must know by now.
    pub fn set_read(&self, id: FileId, position: Position) {
        self.lock().read.insert(id, position);
    }

    /// The file is gone.
    pub fn forget(&self, id: FileId) {
        let mut inner = self.lock();
        inner.live.remove(&id);
        inner.read.remove(&id);
        inner.shares.release(id);
        inner.file.remove(&id.inode);
        inner.channels.iter_mut().for_each(|known| {
            known.remove(&id);
        });
        inner.changed = true;
    }

    /// The file was truncated or overwritten behind this position. Returns the mark that keeps it: it must be
    /// in the channels before anything of the new content is, or a copy would be read anew after a restart.
    pub fn add_ghost(&self, source: &Text, shard: usize, ghost: Ghost) -> SourceMark {
        let mut inner = self.lock();
        let slots = (0..GHOSTS_MAX as u32).map(|slot| (shard as u32, slot));
        let slot = slots.min_by_key(|slot| inner.slots.get(slot).copied().unwrap_or(0)).unwrap_or_default();
        inner.slots.insert(slot, ghost.position.stamp);
        let mark = ghost.to_mark(source, slot);
        inner.push_ghost(ghost);
        mark
    }

    /// Former contents of truncated files, latest first.
    pub fn ghosts(&self) -> Vec<Ghost> {
        self.lock().ghosts.iter().rev().cloned().collect()
    }

    /// Files that begin with a piece of this size or more and have been read behind it: those being read,
    /// and those that marks speak of and no shard has found yet.
    pub fn known_beyond(&self, head_size: u16) -> Vec<Ghost> {
        let inner = self.lock();
        let unclaimed = inner.channels.iter().flatten().filter(|(id, _)| !inner.live.contains_key(id));
        let known = inner.live.iter().chain(&inner.read).chain(unclaimed);
        let beyond = known.filter(|(_, p)| p.head.size >= head_size && p.offset >= u64::from(head_size));
        beyond.map(|(id, position)| Ghost { id: *id, position: position.clone() }).collect()
    }

    /// True if a shard reads the file.
    pub fn is_live(&self, id: FileId) -> bool {
        self.lock().live.contains_key(&id)
    }

    /// True for one caller: the last of the shards to finish.
    pub fn finish_shard(&self, shards: usize) -> bool {
        let mut inner = self.lock();
        inner.finished += 1;
        inner.finished == shards
    }

    /// Content of the position file, if it has changed since the last call.
    pub fn changed_file(&self) -> Option<Bytes> {
        let mut inner = self.lock();
        if !std::mem::take(&mut inner.changed) {
            return None;
        }
        let mut entries: Vec<_> = inner.live.iter().collect();
        entries.sort_by_key(|(id, _)| **id);
        let entries = entries.into_iter().map(|(id, position)| {
            serde_json::json!({ "inode": id.inode, "pos": position.offset, "file": position.path.to_string_lossy() })
        });
        Some(Bytes::from(serde_json::Value::Array(entries.collect()).to_string()))
    }

    /// The position file could not be written: try again.
    pub fn mark_changed(&self) {
        self.lock().changed = true;
    }
}

/// Reads a position file: `[{"inode":1,"pos":2,"file":"/path"}]`. An empty file holds nothing; Flume can
/// leave one behind.
///
/// # Errors
/// What is wrong with it.
pub fn parse_file(text: &[u8]) -> Result<Vec<(u64, u64, PathBuf)>, String> {
    if text.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let entries: Vec<serde_json::Value> =
        serde_json::from_slice(text).map_err(|e| format!("not a JSON array of positions: {e}"))?;
    let entry = |value: &serde_json::Value| {
        let number = |key: &str| value.get(key)?.as_u64();
        Some((number("inode")?, number("pos")?, value.get("file")?.as_str()?.into()))
    };
    let read = |(index, value): (usize, &serde_json::Value)| {
        entry(value).ok_or_else(|| format!("entry {index} lacks inode, pos or file: {value}"))
    };
    entries.iter().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: FileId = FileId { device: 8, inode: 77 };

    fn position(offset: u64, stamp: u64) -> Position {
        Position { offset, head: Print::of(b"head"), tail: Print::of(b"tail"), path: "/log/a".into(), stamp }
    }
    fn mark(offset: u64, stamp: u64) -> SourceMark {
        position(offset, stamp).to_mark(&"r1".into(), ID, 3)
    }
    fn resume(table: &Table) -> Option<Resume> {
        table.resume(ID, Path::new("/log/a"), |_| false)
    }

    #[test]
    fn marks_come_back() {
        let mark = mark(5, 9);
        assert_eq!(FileId::from_key(&mark.key), Some(ID));
        assert_eq!(Position::from_mark(&mark.value), Some((position(5, 9), 3)));
        for size in 0..MARK_FIXED_BYTES {
            assert_eq!(Position::from_mark(&mark.value[..size]), None);
        }
    }

    #[test]
    fn the_latest_mark_of_a_channel_and_the_earliest_of_several_channels_count() {
        let table = Table::default();
        table.open_shard(&[vec![mark(5, 9)], vec![mark(7, 3)]]);
        table.open_shard(&[vec![mark(1, 2)], vec![mark(8, 4)]]);
        assert_eq!(resume(&table), Some(Resume::Mark(position(8, 4))));
    }

    #[test]
    fn a_file_stays_with_the_shard_that_has_lines_of_it() {
        let other = FileId { inode: 78, ..ID };
        for shards in [2, 4] {
            let table = Table::default();
            // Every shard brings what all of them know.
            let marks = [vec![position(5, 9).to_mark(&"r1".into(), ID, 0), mark(8, 10)]];
            (0..shards).for_each(|_| table.open_shard(&marks));
            let owners = |shards: usize| -> Vec<Vec<bool>> {
                let shard = |index| Shard { index, count: shards };
                let found = [(other, 1 << 30), (ID, 100)];
                (0..shards).map(|index| table.deal(shard(index), &found, |_| true)).collect()
            };
            // The mark of shard 3 is the later one.
            let owner = |file: usize| owners(shards).iter().position(|own| own[file]);
            assert_eq!(owner(1), Some(if shards == 4 { 3 } else { 1 }));
            assert_eq!(owner(0), Some(0));
        }
    }

    #[test]
    fn a_mark_wins_over_the_position_file() {
        let table = Table::default();
        table.load_file(vec![(77, 3, "/log/a".into())]);
        assert_eq!(resume(&table), Some(Resume::Offset(3)));
        table.open_shard(&[vec![mark(5, 9)]]);
        assert_eq!(resume(&table), Some(Resume::Mark(position(5, 9))));
        // A second channel that knows nothing of the file: nothing is certain but the file.
        table.open_shard(&[vec![], vec![]]);
        assert_eq!(resume(&table), Some(Resume::Offset(3)));
        assert_eq!(table.resume(ID, Path::new("/log/b"), |_| false), None);
        assert_eq!(
            table.resume(ID, Path::new("/log/b"), |old| old == Path::new("/log/a")),
            Some(Resume::Offset(3))
        );
    }

    #[test]
    fn ghosts_come_back_and_do_not_add_up() {
        let (table, source) = (Table::default(), Text::from("r1"));
        let ghost = |stamp| Ghost { id: ID, position: position(5, stamp) };
        let stamps = |table: &Table| table.ghosts().iter().map(|g| g.position.stamp).collect::<Vec<_>>();
        let mut marks: HashMap<Bytes, SourceMark> = HashMap::new();
        for stamp in 1..=GHOSTS_MAX as u64 + 3 {
            let mark = table.add_ghost(&source, 1, ghost(stamp));
            marks.insert(mark.key.clone(), mark);
        }
        assert_eq!(marks.len(), GHOSTS_MAX);
        let latest: Vec<u64> = (4..=GHOSTS_MAX as u64 + 3).rev().collect();
        assert_eq!(stamps(&table), latest);
        let again = Table::default();
        again.open_shard(&[marks.into_values().collect()]);
        again.open_shard(&[vec![table.add_ghost(&source, 0, ghost(100))]]);
        assert_eq!(stamps(&again)[..2], [100, latest[0]]);
        assert_eq!(again.ghosts().len(), GHOSTS_MAX);
        // The oldest slot of this shard is the next to go.
        let mark = again.add_ghost(&source, 1, ghost(101));
        assert_eq!(Ghost::from_mark(&mark).map(|(slot, _)| slot), Some((1, 3)));
        assert_eq!(resume(&again), None);
    }

    #[test]
    fn the_position_file_is_flumes() {
        let table = Table::default();
        assert_eq!(table.changed_file(), None);
        table.set_live(ID, position(5, 9));
        let text = table.changed_file().unwrap();
        assert_eq!(text, r#"[{"file":"/log/a","inode":77,"pos":5}]"#);
        assert_eq!(parse_file(&text), Ok(vec![(77, 5, "/log/a".into())]));
        assert_eq!(table.changed_file(), None);
        table.forget(ID);
        assert_eq!(table.changed_file().unwrap(), "[]");
    }

    #[test]
    fn bad_position_files_are_explained() {
        assert_eq!(parse_file(b" \n"), Ok(vec![]));
        for (text, problem) in [
            ("[{\"inode\":1,\"pos\":2}]", "entry 0 lacks"),
            ("{}", "not a JSON array"),
            ("[{\"inode\":1,\"pos\":2,\"file\":", "not a JSON array"),
            ("[{\"inode\":-1,\"pos\":2,\"file\":\"/a\"}]", "entry 0 lacks"),
        ] {
            assert!(parse_file(text.as_bytes()).unwrap_err().contains(problem), "{text}");
        }
    }
}
