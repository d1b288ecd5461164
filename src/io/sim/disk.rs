//! The simulated disk: what reads see, what would survive, and everything between.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::image::{Content, Sector};
use super::policy::{CrashPolicy, Fault, Keep, Latency, Names, Operation, Stats};
use super::rng::Rng;
use crate::io::buffer::BLOCK;
use crate::io::{Change, FileType, Metadata, Space};

/// A disk. Cheap to clone; every clone is the same disk.
#[derive(Clone)]
pub struct Disk {
    pub(super) state: Rc<RefCell<State>>,
    pub(super) rng: Rc<Rng>,
}

pub(super) type Ino = u64;
const ROOT: Ino = 1;

pub(super) enum Node {
    File(Content),
    Directory(Directory),
}

#[derive(Default)]
pub(super) struct Directory {
    /// Names as seen.
    seen: BTreeMap<OsString, Ino>,
    /// Names that survive.
    durable: BTreeMap<OsString, Ino>,
}

pub(super) struct Inode {
    pub(super) node: Node,
    /// Open files.
    handles: u64,
    /// Names seen.
    links: u64,
    modified: Duration,
}

/// One change of names: entries that are set or cleared together.
struct NameChange {
    number: u64,
    entries: Vec<(Ino, OsString, Option<Ino>)>,
}

/// A write that was handed to the disk and is not complete.
struct InFlight {
    ino: Ino,
    offset: u64,
    data: Bytes,
}

/// Changes to be told to a watcher.
#[derive(Default)]
pub(super) struct Watcher {
    pub(super) directory: Ino,
    pub(super) changes: RefCell<Vec<Change>>,
    pub(super) gone: std::cell::Cell<bool>,
    pub(super) notify: Notify,
}

/// Everything that is known about a disk.
pub(super) struct State {
    inodes: BTreeMap<Ino, Inode>,
    inode_last: Ino,
    /// Numbers every change of content or names.
    change_last: u64,
    name_changes: Vec<NameChange>,
    in_flight: BTreeMap<u64, InFlight>,
    locks: BTreeMap<Ino, u64>,
    watchers: Vec<Rc<Watcher>>,
    faults: Vec<Fault>,
    pub(super) latency: Latency,
    pub(super) policy: CrashPolicy,
    pub(super) stats: Stats,
    /// Durability points until the machine stops, and how.
    pub(super) stop_in: Option<(u64, super::StopKind)>,
    capacity_bytes: u64,
    /// Counts kills and losses of power; what an earlier life left behind must not touch the disk.
    pub(super) life: u64,
    /// Wall-clock time, as of the start of the present life.
    pub(super) clock: Duration,
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// The names of a path from the root; relative paths start there too.
fn names(path: &Path) -> Vec<&OsStr> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => drop(names.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    names
}

impl Disk {
    /// An empty disk of 1 TiB.
    pub fn new(seed: u64) -> Self {
        let root = Inode {
            node: Node::Directory(Directory::default()),
            handles: 0,
            links: 1,
            modified: Duration::ZERO,
        };
        let state = State {
            inodes: BTreeMap::from([(ROOT, root)]),
            inode_last: ROOT,
            change_last: 0,
            name_changes: Vec::new(),
            in_flight: BTreeMap::new(),
            locks: BTreeMap::new(),
            watchers: Vec::new(),
            faults: Vec::new(),
            latency: Latency::default(),
            policy: CrashPolicy::default(),
            stats: Stats::default(),
            stop_in: None,
            capacity_bytes: 1 << 40,
            life: 0,
            clock: super::EPOCH,
        };
        Self { state: Rc::new(RefCell::new(state)), rng: Rc::new(Rng::new(seed)) }
    }

    /// Counts so far.
    pub fn stats(&self) -> Stats {
        self.state.borrow().stats
    }
    /// Sets how this disk loses power.
    pub fn set_policy(&self, policy: CrashPolicy) {
        assert!(policy.atom_bytes > 0 && BLOCK.is_multiple_of(policy.atom_bytes), "parts of a sector");
        self.state.borrow_mut().policy = policy;
    }
    /// Sets how long operations take.
    pub fn set_latency(&self, latency: Latency) {
        self.state.borrow_mut().latency = latency;
    }
    /// Sets the size of the disk; less than what it holds already means that nothing more fits.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.borrow_mut().capacity_bytes = bytes;
    }
    /// Adds a failure to come.
    pub fn add_fault(&self, fault: Fault) {
        self.state.borrow_mut().faults.push(fault);
    }
    /// Forgets failures that have not come yet.
    pub fn clear_faults(&self) {
        self.state.borrow_mut().faults.clear();
    }
    /// Stops the machine when `point` more durability points have passed: 0 stops it at the next one, which
    /// then does not count as reached: its data are in flight. `None` in effect if it is never reached.
    pub fn stop_at(&self, point: u64, kind: super::StopKind) {
        self.state.borrow_mut().stop_in = Some((point, kind));
    }
    /// Takes [`Disk::stop_at`] back.
    pub fn stop_never(&self) {
        self.state.borrow_mut().stop_in = None;
    }

    /// Paths of all files seen, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.state.borrow();
        let mut found = Vec::new();
        state.walk(ROOT, &mut PathBuf::from("/"), &mut found);
        found
    }
    /// Content of a file as reads see it.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        let ino = state.find(path.as_ref()).ok()?;
        state.content(ino).map(Content::to_vec)
    }
    /// Content of a file as it would be after a loss of power that keeps [`Keep::Nothing`], whatever
    /// becomes of its name.
    pub fn read_durable(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        let ino = state.find(path.as_ref()).ok()?;
        state.content(ino).map(Content::durable_to_vec)
    }
    /// Damages a file behind everybody's back: the changed content is durable and seen. The closure may
    /// flip, cut and append. False if there is no such file.
    pub fn damage(&self, path: impl AsRef<Path>, damage: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.state.borrow_mut();
        let Ok(ino) = state.find(path.as_ref()) else { return false };
        let Some(content) = state.content_mut(ino) else { return false };
        let mut bytes = content.to_vec();
        damage(&mut bytes);
        content.replace(&bytes);
        true
    }
    /// Flips one bit of a file, durably. False if there is no such byte.
    pub fn flip_bit(&self, path: impl AsRef<Path>, offset: usize, bit: u8) -> bool {
        let mut hit = false;
        self.damage(path, |bytes| {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 1 << (bit % 8);
                hit = true;
            }
        });
        hit
    }

    /// The process dies, the kernel lives: completed writes and stores stay, writes in flight happen in
    /// part, everything open is closed.
    pub fn kill(&self) {
        let state = &mut *self.state.borrow_mut();
        for (_, write) in std::mem::take(&mut state.in_flight) {
            let number = state.next_change();
            if let Some(content) = state.content_mut(write.ino) {
                content.store_some(write.offset, &write.data, number, |_| self.rng.below(2) == 0);
            }
        }
        state.end_life();
    }

    /// The power goes: what was not durable is lost, kept or torn according to the [`CrashPolicy`].
    pub fn lose_power(&self) {
        let state = &mut *self.state.borrow_mut();
        let policy = state.policy;
        for (_, write) in std::mem::take(&mut state.in_flight) {
            let number = state.next_change();
            if let Some(content) = state.content_mut(write.ino) {
                // Not durable, so one more version to choose from.
                content.store(write.offset, &write.data, number, false);
            }
        }
        for inode in state.inodes.values_mut() {
            if let Node::File(content) = &mut inode.node {
                content.lose_power(&self.rng, policy);
            }
        }
        let mut changes = std::mem::take(&mut state.name_changes);
        match (policy.keep, policy.names) {
            (Keep::Everything, _) => {}
            (Keep::Nothing, _) => changes.clear(),
            (Keep::Random, Names::Ordered) => changes.truncate(self.rng.below(changes.len() + 1)),
            (Keep::Random, Names::AnySubset) => changes.retain(|_| self.rng.below(2) == 0),
        }
        for change in changes {
            state.make_durable(change);
        }
        for inode in state.inodes.values_mut() {
            if let Node::Directory(directory) = &mut inode.node {
                directory.seen = directory.durable.clone();
            }
        }
        state.end_life();
    }

    /// What was handed to the kernel before an orderly end gets done.
    pub(super) fn settle(&self) {
        let state = &mut *self.state.borrow_mut();
        for (_, write) in std::mem::take(&mut state.in_flight) {
            let number = state.next_change();
            if let Some(content) = state.content_mut(write.ino) {
                content.store(write.offset, &write.data, number, false);
            }
        }
        state.end_life();
    }
}

impl State {
    fn next_change(&mut self) -> u64 {
        self.change_last += 1;
        self.change_last
    }

    /// The number of the latest change, for a sync that covers everything up to now.
    pub(super) fn change_number(&self) -> u64 {
        self.change_last
    }

    fn end_life(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.watchers.clear();
        self.stop_in = None;
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
            inode.links = 0;
        }
        // Count names afresh: a loss of power may have brought old ones back.
        let mut reached = vec![ROOT];
        let mut next = 0;
        while let Some(ino) = reached.get(next).copied() {
            next += 1;
            if let Some(Node::Directory(directory)) = self.inodes.get(&ino).map(|i| &i.node) {
                reached.extend(directory.seen.values());
            }
        }
        for ino in &reached {
            if let Some(inode) = self.inodes.get_mut(ino) {
                inode.links += 1;
            }
        }
        self.reap();
    }

    fn walk(&self, ino: Ino, path: &mut PathBuf, found: &mut Vec<PathBuf>) {
        match self.inodes.get(&ino).map(|i| &i.node) {
            Some(Node::File(_)) => found.push(path.clone()),
            Some(Node::Directory(directory)) => {
                for (name, ino) in &directory.seen {
                    path.push(name);
                    self.walk(*ino, path, found);
                    path.pop();
                }
            }
            None => {}
        }
    }

    pub(super) fn content(&self, ino: Ino) -> Option<&Content> {
        match &self.inodes.get(&ino)?.node {
            Node::File(content) => Some(content),
            Node::Directory(_) => None,
        }
    }
    pub(super) fn content_mut(&mut self, ino: Ino) -> Option<&mut Content> {
        match &mut self.inodes.get_mut(&ino)?.node {
            Node::File(content) => Some(content),
            Node::Directory(_) => None,
        }
    }
    fn directory(&self, ino: Ino) -> io::Result<&Directory> {
        match self.inodes.get(&ino).map(|i| &i.node) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => Err(errno(libc::ENOTDIR)),
            None => Err(errno(libc::ENOENT)),
        }
    }
    fn look_up(&self, names: &[&OsStr]) -> io::Result<Ino> {
        names.iter().try_fold(ROOT, |ino, name| {
            self.directory(ino)?.seen.get(*name).copied().ok_or_else(|| errno(libc::ENOENT))
        })
    }
    pub(super) fn find(&self, path: &Path) -> io::Result<Ino> {
        self.look_up(&names(path))
    }
    /// Directory and last name of a path.
    fn parent<'a>(&self, path: &'a Path) -> io::Result<(Ino, &'a OsStr)> {
        let names = names(path);
        let Some((last, above)) = names.split_last() else { return Err(errno(libc::EBUSY)) };
        let ino = self.look_up(above)?;
        self.directory(ino)?;
        Ok((ino, *last))
    }

    /// Sets or clears names as one change.
    fn change_names(&mut self, entries: Vec<(Ino, OsString, Option<Ino>)>) {
        let number = self.next_change();
        let mut maybe_orphans = Vec::new();
        for (directory, name, ino) in &entries {
            if let Some(Node::Directory(d)) = self.inodes.get_mut(directory).map(|i| &mut i.node) {
                let old = match ino {
                    Some(ino) => d.seen.insert(name.clone(), *ino),
                    None => d.seen.remove(name),
                };
                maybe_orphans.extend(old);
                if let Some(old) = old.and_then(|old| self.inodes.get_mut(&old)) {
                    old.links -= 1;
                }
            }
            if let Some(new) = ino.and_then(|ino| self.inodes.get_mut(&ino)) {
                new.links += 1;
            }
            self.tell(*directory, Change::Names);
        }
        self.name_changes.push(NameChange { number, entries });
        for ino in maybe_orphans {
            if self.inodes.get(&ino).is_some_and(|i| i.links == 0) {
                for watcher in self.watchers.iter().filter(|w| w.directory == ino) {
                    watcher.gone.set(true);
                    watcher.notify.notify_one();
                }
            }
        }
    }

    fn make_durable(&mut self, change: NameChange) {
        for (directory, name, ino) in change.entries {
            if let Some(Node::Directory(d)) = self.inodes.get_mut(&directory).map(|i| &mut i.node) {
                match ino {
                    Some(ino) => drop(d.durable.insert(name, ino)),
                    None => drop(d.durable.remove(&name)),
                }
            }
        }
    }

    fn create(&mut self, directory: Ino, name: &OsStr, node: Node, now: Duration) -> Ino {
        self.inode_last += 1;
        let ino = self.inode_last;
        self.inodes.insert(ino, Inode { node, handles: 0, links: 0, modified: now });
        self.change_names(vec![(directory, name.to_owned(), Some(ino))]);
        ino
    }

    /// Opens or creates a file and counts the handle.
    pub(super) fn open(
        &mut self,
        path: &Path,
        options: crate::io::OpenOptions,
        now: Duration,
    ) -> io::Result<Ino> {
        let ino = match self.find(path) {
            Ok(_) if options.create_new => return Err(errno(libc::EEXIST)),
            Ok(ino) if self.content(ino).is_none() && options.write => return Err(errno(libc::EISDIR)),
            Ok(ino) => ino,
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && (options.create || options.create_new) =>
            {
                let (directory, name) = self.parent(path)?;
                self.create(directory, name, Node::File(Content::default()), now)
            }
            Err(error) => return Err(error),
        };
        let number = self.next_change();
        if options.truncate
            && let Some(content) = self.content_mut(ino)
        {
            content.set_len(0, number);
        }
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.handles += 1;
        }
        Ok(ino)
    }
    pub(super) fn close(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.handles = inode.handles.saturating_sub(1);
        }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        let ino = self.find(from)?;
        let (from_directory, from_name) = self.parent(from)?;
        let (to_directory, to_name) = self.parent(to)?;
        if let Some(old) = self.directory(to_directory)?.seen.get(to_name) {
            if !replace {
                return Err(errno(libc::EEXIST));
            }
            if *old == ino {
                return Ok(());
            }
            match (self.content(ino).is_some(), self.directory(*old)) {
                (true, Ok(_)) => return Err(errno(libc::EISDIR)),
                (false, Err(_)) => return Err(errno(libc::ENOTDIR)),
                (false, Ok(d)) if !d.seen.is_empty() => return Err(errno(libc::ENOTEMPTY)),
                _ => {}
            }
        }
        self.change_names(vec![
            (from_directory, from_name.to_owned(), None),
            (to_directory, to_name.to_owned(), Some(ino)),
        ]);
        Ok(())
    }
    pub(super) fn remove(&mut self, path: &Path, want: FileType) -> io::Result<()> {
        let ino = self.find(path)?;
        match (want, self.directory(ino)) {
            (FileType::Directory, Ok(d)) if !d.seen.is_empty() => return Err(errno(libc::ENOTEMPTY)),
            (FileType::Directory, Err(_)) => return Err(errno(libc::ENOTDIR)),
            (FileType::File, Ok(_)) => return Err(errno(libc::EISDIR)),
            _ => {}
        }
        let (directory, name) = self.parent(path)?;
        self.change_names(vec![(directory, name.to_owned(), None)]);
        Ok(())
    }
    pub(super) fn create_dir_all(&mut self, path: &Path, now: Duration) -> io::Result<()> {
        let mut at = ROOT;
        for name in names(path) {
            at = match self.directory(at)?.seen.get(name) {
                Some(ino) => *ino,
                None => self.create(at, name, Node::Directory(Directory::default()), now),
            };
        }
        self.directory(at).map_err(|_| errno(libc::EEXIST)).map(drop)
    }
    pub(super) fn read_dir(&self, path: &Path) -> io::Result<Vec<(OsString, FileType)>> {
        let directory = self.directory(self.find(path)?)?;
        let kind = |ino| if self.content(ino).is_some() { FileType::File } else { FileType::Directory };
        Ok(directory.seen.iter().map(|(name, ino)| (name.clone(), kind(*ino))).collect())
    }
    pub(super) fn metadata(&self, ino: Ino) -> io::Result<Metadata> {
        let inode = self.inodes.get(&ino).ok_or_else(|| errno(libc::ENOENT))?;
        let (size_bytes, allocated_bytes, file_type) = match &inode.node {
            Node::File(content) => (content.size_bytes(), content.allocated_bytes(), FileType::File),
            Node::Directory(_) => (0, 0, FileType::Directory),
        };
        let modified = std::time::UNIX_EPOCH + inode.modified;
        let links = inode.links;
        Ok(Metadata { device: 1, inode: ino, size_bytes, allocated_bytes, modified, links, file_type })
    }
    /// Makes the changes to a directory's names up to `number` durable.
    pub(super) fn sync_names(&mut self, directory: Ino, number: u64) {
        let changes = std::mem::take(&mut self.name_changes);
        for change in changes {
            let of_it = change.entries.iter().any(|(d, _, _)| *d == directory);
            if of_it && change.number <= number {
                self.make_durable(change);
            } else {
                self.name_changes.push(change);
            }
        }
    }
    pub(super) fn check_directory(&self, path: &Path) -> io::Result<Ino> {
        let ino = self.find(path)?;
        self.directory(ino).map(|_| ino)
    }

    /// Space; counts what reads see, as a real disk cannot free what is still seen.
    pub(super) fn space(&self) -> Space {
        let used: u64 = self.inodes.values().map(|i| i.allocated_bytes()).sum();
        Space { available_bytes: self.capacity_bytes.saturating_sub(used), total_bytes: self.capacity_bytes }
    }
    /// Frees what was removed and closed.
    pub(super) fn reap(&mut self) {
        let durable: std::collections::BTreeSet<Ino> = self
            .inodes
            .values()
            .filter_map(|i| if let Node::Directory(d) = &i.node { Some(d.durable.values()) } else { None })
            .flatten()
            .copied()
            .collect();
        let pending: std::collections::BTreeSet<Ino> =
            self.name_changes.iter().flat_map(|c| c.entries.iter().filter_map(|e| e.2)).collect();
        self.inodes.retain(|ino, inode| {
            inode.links > 0 || inode.handles > 0 || durable.contains(ino) || pending.contains(ino)
        });
    }

    /// The error to answer an operation with, if a fault hits it.
    pub(super) fn fault(&mut self, operation: Operation, path: &Path) -> Option<io::Error> {
        let path = path.to_string_lossy();
        let mut error = None;
        for fault in &mut self.faults {
            if fault.operation != operation || !path.contains(&fault.path_contains) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
            } else if fault.count > 0 && error.is_none() {
                fault.count -= u64::from(fault.count != u64::MAX);
                error = Some(errno(fault.errno));
            }
        }
        self.faults.retain(|f| f.count > 0);
        error
    }

    /// Registers a write the moment it is handed over.
    pub(super) fn begin_write(&mut self, ino: Ino, offset: u64, data: Bytes) -> u64 {
        let id = self.next_change();
        self.in_flight.insert(id, InFlight { ino, offset, data });
        id
    }
    /// Completes a write.
    pub(super) fn finish_write(
        &mut self,
        id: u64,
        durable: bool,
        fault: Option<io::Error>,
        now: Duration,
        rng: &Rng,
    ) -> io::Result<()> {
        let Some(InFlight { ino, offset, data }) = self.in_flight.remove(&id) else {
            return Err(errno(libc::EIO));
        };
        let number = self.next_change();
        let available = self.space().available_bytes;
        let Some(content) = self.content_mut(ino) else { return Err(errno(libc::EBADF)) };
        if let Some(error) = fault {
            content.store_some(offset, &data, number, |_| rng.below(2) == 0);
            return Err(error);
        }
        let needed = content.missing_sectors(offset, data.len()) * BLOCK as u64;
        if needed > available {
            // What fits is written before the disk notices.
            let mut room = available / BLOCK as u64;
            content.store_some(offset, &data, number, |is_new| {
                let fits = !is_new || room > 0;
                room -= u64::from(is_new && fits);
                fits
            });
            return Err(errno(libc::ENOSPC));
        }
        content.store(offset, &data, number, durable);
        self.stats.writes += 1;
        self.stats.bytes_written += data.len() as u64;
        self.touch(ino, now);
        Ok(())
    }
    /// Stores through a mapping.
    pub(super) fn store(&mut self, ino: Ino, offset: u64, data: &[u8], now: Duration) {
        let number = self.next_change();
        let available = self.space().available_bytes;
        let Some(content) = self.content_mut(ino) else { return };
        let needed = content.missing_sectors(offset, data.len()) * BLOCK as u64;
        assert!(needed <= available, "SIGBUS: a store into a hole of a mapping on a full disk");
        content.store(offset, data, number, false);
        self.touch(ino, now);
    }
    pub(super) fn set_len(&mut self, ino: Ino, size_bytes: u64, now: Duration) {
        let number = self.next_change();
        if let Some(content) = self.content_mut(ino) {
            content.set_len(size_bytes, number);
        }
        self.touch(ino, now);
    }
    pub(super) fn allocate(&mut self, ino: Ino, size_bytes: u64, zero: &Sector) -> io::Result<()> {
        let number = self.next_change();
        let available = self.space().available_bytes;
        let Some(content) = self.content_mut(ino) else { return Err(errno(libc::EBADF)) };
        let size = usize::try_from(size_bytes).map_err(|_| errno(libc::EFBIG))?;
        if content.missing_sectors(0, size) * BLOCK as u64 > available {
            return Err(errno(libc::ENOSPC));
        }
        content.allocate(size_bytes, number, zero);
        Ok(())
    }
    fn touch(&mut self, ino: Ino, now: Duration) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.modified = now;
        }
        let mut told = Vec::new();
        for watcher in &self.watchers {
            if let Ok(directory) = self.directory(watcher.directory) {
                let names = directory.seen.iter().filter(|(_, i)| **i == ino);
                told.extend(names.map(|(name, _)| (watcher.directory, name.clone())));
            }
        }
        for (directory, name) in told {
            self.tell(directory, Change::Written(name));
        }
    }
    fn tell(&mut self, directory: Ino, change: Change) {
        self.watchers.retain(|w| Rc::strong_count(w) > 1);
        for watcher in self.watchers.iter().filter(|w| w.directory == directory) {
            let mut changes = watcher.changes.borrow_mut();
            if !changes.contains(&change) {
                changes.push(change.clone());
            }
            watcher.notify.notify_one();
        }
    }
    pub(super) fn watch(&mut self, path: &Path) -> io::Result<Rc<Watcher>> {
        let directory = self.check_directory(path)?;
        let watcher = Rc::new(Watcher { directory, ..Watcher::default() });
        self.watchers.push(watcher.clone());
        Ok(watcher)
    }

    pub(super) fn lock(&mut self, ino: Ino) -> bool {
        let life = self.life;
        match self.locks.entry(ino) {
            std::collections::btree_map::Entry::Occupied(_) => false,
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(life);
                true
            }
        }
    }
    pub(super) fn unlock(&mut self, ino: Ino, life: u64) {
        if self.locks.get(&ino) == Some(&life) {
            self.locks.remove(&ino);
        }
    }
}

impl Inode {
    fn allocated_bytes(&self) -> u64 {
        match &self.node {
            Node::File(content) => content.allocated_bytes(),
            Node::Directory(_) => 0,
        }
    }
}
