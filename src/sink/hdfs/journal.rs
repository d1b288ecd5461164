//! The list of files a lane has open, kept on the local disk, so that a restart can finish them.
//!
//! Flume has none: a crash leaves `.tmp` files for ever. One text file per lane, appended to: a CRC-32 in
//! hexadecimal, a blank, a JSON object, a line feed. `open` is synced before the file is created; the size that
//! takes are about to be committed for is written before the commit, without a sync: it outlives the
//! process, and after a restart of the machine (another boot id) sizes are not relied upon.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::io::{File, Io, Lock, OpenOptions};

/// A journal larger than this is written anew with what is still open: some 15,000 commits apart.
const BYTES_MAX: u64 = 1024 * 1024;
/// Agents of one name, sink name and path that may run on a host at once.
const SLOTS: usize = 16;

/// The name a file gets when it is complete, in parts, because the number may have to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub directory: String,
    pub prefix: String,
    pub counter: u64,
    pub suffix: String,
}

impl Name {
    /// The path.
    pub fn path(&self) -> String {
        self.within("", "")
    }
    /// The path with something around the file's name.
    pub fn within(&self, before: &str, after: &str) -> String {
        let Self { directory, prefix, counter, suffix } = self;
        let slash = if directory.ends_with('/') { "" } else { "/" };
        super::clean_path(&format!("{directory}{slash}{before}{prefix}.{counter}{suffix}{after}"))
    }
}

/// A file that is not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub uri: String,
    pub in_use: String,
    pub name: Name,
    /// Bytes for which takes were, or were about to be, committed.
    pub committed: u64,
    /// [`Self::committed`] is exact: what lies behind it was never acknowledged.
    pub exact: bool,
}

/// One lane's journal.
pub(super) struct Journal {
    io: Io,
    path: PathBuf,
    directory: PathBuf,
    _lock: Box<dyn Lock>,
    file: RefCell<Rc<dyn File>>,
    position: Cell<u64>,
    live: RefCell<BTreeMap<u64, Entry>>,
    next_id: Cell<u64>,
    boot: String,
    /// While the file is written anew: lines that follow.
    waiting: RefCell<Option<Vec<u8>>>,
}

fn line(value: &Value) -> Vec<u8> {
    let text = value.to_string();
    format!("{:08x} {text}\n", crc32fast::hash(text.as_bytes())).into_bytes()
}

fn open_line(id: u64, e: &Entry) -> Vec<u8> {
    let Name { directory, prefix, counter, suffix } = &e.name;
    line(
        &json!({"op": "open", "id": id, "uri": e.uri, "in_use": e.in_use, "size": e.committed, "exact": e.exact,
        "name": [directory, prefix, counter, suffix]}),
    )
}

/// The entries of a journal's text; lines that do not check out are left out.
fn read(text: &[u8], boot: &str) -> Vec<Entry> {
    let mut live = BTreeMap::new();
    let mut same_boot = false;
    for line in text.split(|b| *b == b'\n') {
        let Some((sum, json)) = line.split_at_checked(9) else { continue };
        let sum = std::str::from_utf8(&sum[..8]).ok().and_then(|s| u32::from_str_radix(s, 16).ok());
        if sum != Some(crc32fast::hash(json)) {
            continue;
        }
        let Ok(value) = serde_json::from_slice::<Value>(json) else { continue };
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let id = value["id"].as_u64().unwrap_or(0);
        match value["op"].as_str() {
            Some("boot") => same_boot = !boot.is_empty() && value["boot"] == boot,
            Some("open") => {
                let entry = (|| {
                    let name = Name {
                        directory: text(&value["name"][0])?,
                        prefix: text(&value["name"][1])?,
                        counter: value["name"][2].as_u64()?,
                        suffix: text(&value["name"][3])?,
                    };
                    Some(Entry {
                        uri: text(&value["uri"])?,
                        in_use: text(&value["in_use"])?,
                        name,
                        committed: value["size"].as_u64()?,
                        exact: value["exact"].as_bool()?,
                    })
                })();
                live.extend(entry.map(|entry| (id, entry)));
            }
            Some("size") => {
                if let (Some(entry), Some(size)) = (live.get_mut(&id), value["size"].as_u64()) {
                    entry.committed = size;
                }
            }
            Some("done") => {
                live.remove(&id);
            }
            _ => {}
        }
    }
    live.into_values().map(|e| Entry { exact: e.exact && same_boot, ..e }).collect()
}

async fn content(io: &Io, path: &Path) -> std::io::Result<Vec<u8>> {
    let file = match io.open(path, OpenOptions::READ).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    loop {
        let (read, piece) = file.read_at(Vec::with_capacity(256 * 1024), text.len() as u64).await;
        if read? == 0 {
            return Ok(text);
        }
        text.extend_from_slice(&piece);
    }
}

impl Journal {
    /// Opens a lane's journal in a directory, and gives back what this and other agents that are gone left
    /// open; it is this journal's from now on.
    ///
    /// # Errors
    /// The local disk's.
    pub async fn open(
        io: &Io,
        directory: &Path,
        lane: usize,
    ) -> std::io::Result<(Rc<Self>, Vec<(u64, Entry)>)> {
        io.create_dir_all(directory).await?;
        let boot = content(io, Path::new("/proc/sys/kernel/random/boot_id")).await.unwrap_or_default();
        let boot = String::from_utf8_lossy(&boot).trim().to_owned();
        let lock_of = |name: &str| io.lock(&directory.join(format!("{name}.lock")));
        let names =
            (0..SLOTS).map(|slot| if slot == 0 { format!("{lane}") } else { format!("{lane}.{slot}") });
        let mut own = None;
        for name in names {
            match lock_of(&name) {
                Ok(lock) => {
                    own = Some((name, lock));
                    break;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let Some((name, lock)) = own else {
            return Err(std::io::Error::other(format!("{SLOTS} agents use {} already", directory.display())));
        };
        let path = directory.join(format!("{name}.journal"));
        let mut left = read(&content(io, &path).await?, &boot);
        // Journals whose owners are gone.
        let mut adopted = Vec::new();
        for (file, _) in io.read_dir(directory).await? {
            let Some(other) = file.to_str().and_then(|f| f.strip_suffix(".journal")) else { continue };
            if other != name
                && let Ok(lock) = lock_of(other)
            {
                let path = directory.join(&file);
                left.extend(read(&content(io, &path).await?, &boot));
                adopted.push((path, lock));
            }
        }
        let live: BTreeMap<u64, Entry> = (1..).zip(left).collect();
        let entries = live.iter().map(|(id, entry)| (*id, entry.clone())).collect();
        let file = io.open(&directory.join(format!("{name}.new")), OpenOptions::TRUNCATE).await?;
        let journal = Rc::new(Self {
            io: io.clone(),
            path,
            directory: directory.to_owned(),
            _lock: lock,
            file: RefCell::new(file),
            position: Cell::new(0),
            next_id: Cell::new(live.len() as u64 + 1),
            live: RefCell::new(live),
            boot,
            waiting: RefCell::default(),
        });
        journal.rewrite().await?;
        for (path, _lock) in adopted {
            io.remove_file(&path).await?;
        }
        Ok((journal, entries))
    }

    /// Writes the journal anew with what is open.
    async fn rewrite(&self) -> std::io::Result<()> {
        let mut text = line(&json!({"op": "boot", "boot": self.boot}));
        for (id, entry) in self.live.borrow().iter() {
            text.extend(open_line(*id, entry));
        }
        *self.waiting.borrow_mut() = Some(Vec::new());
        let new = self.path.with_extension("new");
        let size = text.len() as u64;
        let written = async {
            let file = self.io.open(&new, OpenOptions::TRUNCATE).await?;
            file.write_at(Bytes::from(text), 0).await?;
            file.sync_data().await?;
            self.io.rename(&new, &self.path).await?;
            self.io.sync_dir(&self.directory).await?;
            Ok(file)
        };
        let written = written.await;
        let waiting = self.waiting.borrow_mut().take().unwrap_or_default();
        if let Ok(file) = &written {
            *self.file.borrow_mut() = file.clone();
            self.position.set(size);
        }
        self.append(waiting).await?;
        written.map(drop)
    }

    async fn append(&self, text: Vec<u8>) -> std::io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        if let Some(waiting) = self.waiting.borrow_mut().as_mut() {
            waiting.extend(text);
            return Ok(());
        }
        let file = self.file.borrow().clone();
        let position = self.position.get();
        self.position.set(position + text.len() as u64);
        file.write_at(Bytes::from(text), position).await
    }

    /// A number for a new file.
    pub fn next_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    /// Notes files about to be created; durable when it returns.
    pub async fn opened(&self, files: Vec<(u64, Entry)>) -> std::io::Result<()> {
        let text = files.iter().flat_map(|(id, entry)| open_line(*id, entry)).collect();
        self.live.borrow_mut().extend(files);
        if self.position.get() > BYTES_MAX {
            return self.rewrite().await;
        }
        self.append(text).await?;
        let file = self.file.borrow().clone();
        file.sync_data().await
    }
    /// Notes the sizes for which takes are about to be committed.
    pub async fn sized(&self, sizes: &[(u64, u64)]) -> std::io::Result<()> {
        let mut text = Vec::new();
        for (id, size) in sizes {
            if let Some(entry) = self.live.borrow_mut().get_mut(id) {
                entry.committed = *size;
            }
            text.extend(line(&json!({"op": "size", "id": id, "size": size})));
        }
        self.append(text).await
    }
    /// Forgets a file: it has its final name, or is gone.
    pub async fn done(&self, id: u64) -> std::io::Result<()> {
        self.live.borrow_mut().remove(&id);
        self.append(line(&json!({"op": "done", "id": id}))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{EngineKind, run_local};

    fn entry(name: &str) -> Entry {
        let name = Name { directory: "/out".into(), prefix: name.into(), counter: 7, suffix: ".log".into() };
        Entry { uri: "file://".into(), in_use: name.within("_", ".tmp"), name, committed: 0, exact: true }
    }

    #[test]
    fn what_is_open_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        run_local(EngineKind::Portable, |io| async move {
            let directory = dir.path().join("a/b");
            let (journal, left) = Journal::open(&io, &directory, 0).await.unwrap();
            assert!(left.is_empty());
            let (a, b) = (journal.next_id(), journal.next_id());
            journal.opened(vec![(a, entry("a")), (b, entry("b"))]).await.unwrap();
            journal.sized(&[(a, 10), (b, 20)]).await.unwrap();
            journal.sized(&[(b, 30)]).await.unwrap();
            journal.done(a).await.unwrap();
            let expected = Entry { committed: 30, ..entry("b") };
            assert_eq!(expected.in_use, "/out/_b.7.log.tmp");

            // While its owner lives a second agent gets a journal of its own, empty.
            let (second, left) = Journal::open(&io, &directory, 0).await.unwrap();
            assert!(left.is_empty());
            let c = second.next_id();
            second.opened(vec![(c, entry("c"))]).await.unwrap();
            drop((journal, second));

            let (third, left) = Journal::open(&io, &directory, 0).await.unwrap();
            assert_eq!(
                left.iter().map(|(_, e)| e.clone()).collect::<Vec<_>>(),
                [expected.clone(), entry("c")]
            );
            // Damage costs a line, not the journal.
            let mut text = content(&io, &third.path).await.unwrap();
            let second_line = text.iter().position(|b| *b == b'\n').unwrap() + 1;
            text[second_line + 20] ^= 1;
            assert_eq!(read(&text, &third.boot), [entry("c")]);
            // After a restart of the machine sizes are not relied upon.
            assert!(read(&text, "another").iter().all(|e| !e.exact));
        })
        .unwrap();
    }

    #[test]
    fn a_large_journal_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        run_local(EngineKind::Portable, |io| async move {
            let (journal, _) = Journal::open(&io, dir.path(), 0).await.unwrap();
            let id = journal.next_id();
            journal.opened(vec![(id, entry("kept"))]).await.unwrap();
            let sizes: Vec<(u64, u64)> = (0..40_000).map(|size| (id, size)).collect();
            journal.sized(&sizes).await.unwrap();
            assert!(journal.position.get() > BYTES_MAX);
            let other = journal.next_id();
            journal.opened(vec![(other, entry("other"))]).await.unwrap();
            assert!(journal.position.get() < 1000);
            journal.done(other).await.unwrap();
            drop(journal);
            let (_journal, left) = Journal::open(&io, dir.path(), 0).await.unwrap();
            assert_eq!(left[0].1, Entry { committed: 39_999, ..entry("kept") });
            assert_eq!(left.len(), 1);
        })
        .unwrap();
    }
}
