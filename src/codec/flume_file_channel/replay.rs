//! From logs and checkpoint to the events that wait, in order.
//!
//! Records of all logs are read in write order. A put counts with the commit of its transaction, a take
//! with its own; what neither committed nor rolled back is as if it had not been tried. Takes in flight at
//! the checkpoint stand at the head of the queue again, in the order of their puts.
//!
//! Memory: 8 bytes per event of the queue, and 8 per event put or taken behind the checkpoint (in all logs, if
//! there is none).

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

use bytes::Bytes;

use super::checkpoint::Checkpoint;
use super::log::{self, Body, Meta, Record, Slot};
use super::{Malformed, Pointer};

/// Turns the payload of an encrypted record into plain text.
pub type Decrypt = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// One log file.
pub struct LogFile {
    /// Its bytes, or a mapping of them.
    pub bytes: Bytes,
    /// `log-<N>.meta`; `None` if it was never completed.
    pub meta: Option<Meta>,
    /// Set if it is encrypted.
    pub decrypt: Option<Decrypt>,
}

impl LogFile {
    fn plain<'a>(&self, payload: &'a [u8]) -> Cow<'a, [u8]> {
        match &self.decrypt {
            Some(decrypt) => Cow::Owned(decrypt(payload)),
            None => Cow::Borrowed(payload),
        }
    }
}

/// A place that cannot be read; what follows it in that log cannot be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Number of the log.
    pub file: u32,
    /// Offset in it.
    pub offset: usize,
    /// Bytes from there to the end.
    pub size: usize,
    /// What is wrong.
    pub problem: Malformed,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Events that wait.
    pub queue: Vec<Pointer>,
    /// Records read.
    pub records: u64,
    /// Places that cannot be read.
    pub faults: Vec<Fault>,
}

/// The logs of a channel by number.
pub type Logs = BTreeMap<u32, LogFile>;

#[derive(Default)]
struct Transaction {
    puts: Vec<Pointer>,
    takes: Vec<Pointer>,
}

/// Finds out which events wait.
pub fn replay(logs: &Logs, checkpoint: Option<&Checkpoint>) -> Replayed {
    let mut replayed = Replayed::default();
    let mut taken: HashSet<Pointer> = HashSet::new();
    let mut open: HashMap<u64, Transaction> = HashMap::new();
    if let Some(checkpoint) = checkpoint {
        let mut returned: Vec<Pointer> = Vec::new();
        for (id, pointers) in &checkpoint.takes {
            open.entry(*id).or_default().takes.extend(pointers);
            returned.extend(pointers);
        }
        returned.sort_by_cached_key(|pointer| (order_of(logs, *pointer), *pointer));
        returned.dedup();
        replayed.queue = returned;
        replayed.queue.extend(&checkpoint.queue);
        for (id, pointers) in &checkpoint.puts {
            open.entry(*id).or_default().puts.extend(pointers);
        }
    }
    let since = checkpoint.map(|c| c.order);
    let mut readers: Vec<Reader<'_>> =
        logs.iter().map(|(number, file)| Reader::new(*number, file, since)).collect();
    let mut heads = BinaryHeap::new();
    let faults = &mut replayed.faults;
    for (index, reader) in readers.iter_mut().enumerate() {
        heads.extend(reader.next(since, faults).map(|head| Reverse((head.order, index, head))));
    }
    while let Some(Reverse((_, index, head))) = heads.pop() {
        replayed.records += 1;
        let transaction = head.transaction;
        match head.what {
            What::Put(pointer) => open.entry(transaction).or_default().puts.push(pointer),
            What::Take(pointer) => open.entry(transaction).or_default().takes.push(pointer),
            What::Rollback => drop(open.remove(&transaction)),
            What::Commit { takes } => {
                if let Some(done) = open.remove(&transaction) {
                    if takes { taken.extend(done.takes) } else { replayed.queue.extend(done.puts) }
                }
            }
        }
        if let Some(reader) = readers.get_mut(index) {
            let next = reader.next(since, &mut replayed.faults);
            heads.extend(next.map(|head| Reverse((head.order, index, head))));
        }
    }
    // Each pointer is put once; a take may come before its put's commit only in order, not in fact.
    replayed.queue.retain(|pointer| !taken.contains(pointer));
    replayed
}

/// True if the first record of a log can be read: its key fits. `None` if it has none.
pub fn opens(file: &LogFile) -> Option<bool> {
    match log::slot(&file.bytes, 0) {
        Ok(Slot::Record { payload, .. }) => Some(log::record(&file.plain(payload)).is_ok()),
        _ => None,
    }
}

/// The record at a pointer, handed to a function. `None`: the integrity tool invalidated it.
///
/// # Errors
/// There is no such record.
pub fn at<T>(
    logs: &Logs,
    pointer: Pointer,
    read: impl FnOnce(&Record<'_>) -> T,
) -> Result<Option<T>, Malformed> {
    let file = logs.get(&pointer.file).ok_or(Malformed("the log file is missing"))?;
    match log::slot(&file.bytes, pointer.offset as usize)? {
        Slot::Record { payload, .. } => Ok(Some(read(&log::record(&file.plain(payload))?))),
        Slot::Invalidated { .. } => Ok(None),
        Slot::End => Err(Malformed("the log ends before the record")),
    }
}

fn order_of(logs: &Logs, pointer: Pointer) -> u64 {
    at(logs, pointer, |record| record.order).ok().flatten().unwrap_or(u64::MAX)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Put(Pointer),
    Take(Pointer),
    Rollback,
    Commit { takes: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    order: u64,
    transaction: u64,
    what: What,
}

struct Reader<'a> {
    number: u32,
    file: &'a LogFile,
    offset: usize,
}

impl<'a> Reader<'a> {
    fn new(number: u32, file: &'a LogFile, since: Option<u64>) -> Self {
        // Where the log ended at this checkpoint, or at one before it.
        let known = file.meta.as_ref().zip(since).filter(|(meta, since)| meta.checkpoint_order <= *since);
        let offset = known.map_or(0, |(meta, _)| meta.checkpoint_position as usize);
        Self { number, file, offset }
    }

    fn next(&mut self, since: Option<u64>, faults: &mut Vec<Fault>) -> Option<Head> {
        loop {
            match self.step() {
                Ok(None) => return None,
                Ok(Some(Some(head))) if since.is_none_or(|since| head.order > since) => return Some(head),
                Ok(Some(_)) => {}
                Err(problem) => {
                    let size = self.file.bytes.len().saturating_sub(self.offset);
                    faults.push(Fault { file: self.number, offset: self.offset, size, problem });
                    self.offset = self.file.bytes.len();
                    return None;
                }
            }
        }
    }

    /// The next record; `None` at the end, `Some(None)` for an invalidated one.
    fn step(&mut self) -> Result<Option<Option<Head>>, Malformed> {
        match log::slot(&self.file.bytes, self.offset)? {
            Slot::End => Ok(None),
            Slot::Invalidated { next } => {
                self.offset = next;
                Ok(Some(None))
            }
            Slot::Record { payload, next } => {
                let plain = self.file.plain(payload);
                let record = log::record(&plain)?;
                let offset = u32::try_from(self.offset).map_err(|_| Malformed("the log is too large"))?;
                let what = match record.body {
                    Body::Put(_) => What::Put(Pointer { file: self.number, offset }),
                    Body::Take(pointer) => What::Take(pointer),
                    Body::Rollback => What::Rollback,
                    Body::Commit { takes } => What::Commit { takes },
                };
                self.offset = next;
                Ok(Some(Some(Head { order: record.order, transaction: record.transaction, what })))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{checkpoint, log};
    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/flume-file-channel");
        std::fs::read(format!("{root}/{name}")).unwrap()
    }
    fn logs_of(directory: &str) -> Logs {
        let log = |number| {
            let path = format!("{directory}/data/log-{number}");
            (number, file(fixture(&path), fixture(&format!("{path}.meta"))))
        };
        [log(1), log(2)].into_iter().collect()
    }
    fn stored(directory: &str) -> Result<Checkpoint, Malformed> {
        let part = |name: &str| fixture(&format!("{directory}/checkpoint/{name}"));
        checkpoint::read(
            &part("checkpoint"),
            &part("checkpoint.meta"),
            &part("inflightputs"),
            &part("inflighttakes"),
        )
    }

    fn file(bytes: Vec<u8>, meta: Vec<u8>) -> LogFile {
        LogFile { bytes: bytes.into(), meta: Some(log::meta(&meta).unwrap()), decrypt: None }
    }

    fn bodies(logs: &Logs, replayed: &Replayed) -> Vec<String> {
        let body = |record: &Record<'_>| {
            let Body::Put(event) = &record.body else { panic!("{record:?}") };
            assert!(event.is_sound());
            let mut headers: Vec<_> =
                event.headers().map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
            headers.sort();
            assert_eq!(headers[0], ("host".into(), "web1".into()));
            let body = String::from_utf8(event.body.to_vec()).unwrap();
            assert_eq!(format!("{:010} xxxxxxxxx", headers[1].1.parse::<u32>().unwrap()), body);
            headers[1].1.clone()
        };
        replayed.queue.iter().map(|pointer| at(logs, *pointer, body).unwrap().unwrap()).collect()
    }

    const WAITING: [&str; 7] = ["3", "4", "5", "6", "7", "8", "9"];

    #[test]
    fn a_clean_stop_with_and_without_its_checkpoint() {
        let logs = logs_of("fc-checkpoint");
        let stored = stored("fc-checkpoint").unwrap();
        let replayed = replay(&logs, Some(&stored));
        assert_eq!((replayed.records, replayed.faults.len()), (0, 0));
        assert_eq!(bodies(&logs, &replayed), WAITING);
        assert_eq!(bodies(&logs, &replay(&logs, None)), WAITING);

        let bare = logs_of("fc-no-checkpoint");
        let replayed = replay(&bare, None);
        assert_eq!((replayed.records, replayed.faults.len()), (24, 0));
        assert_eq!(bodies(&bare, &replayed), WAITING);
    }

    #[test]
    fn killed_in_the_middle() {
        for (logs, stored) in [
            (logs_of("fc-killed"), stored("fc-killed")),
            (logs_of("fc-killed-inflight"), stored("fc-killed-inflight")),
        ] {
            let stored = stored.unwrap();
            let with = replay(&logs, Some(&stored));
            assert_eq!(bodies(&logs, &with), WAITING);
            assert_eq!(with.faults, []);
            assert_eq!(bodies(&logs, &replay(&logs, None)), WAITING);
        }
        assert_eq!(stored("fc-killed-inflight").unwrap().takes[0].1.len(), 3);
    }

    #[test]
    fn empty_files_of_an_interrupted_roll() {
        let mut logs = logs_of("fc-interrupted-roll");
        for number in [3, 4] {
            logs.insert(number, LogFile { bytes: Bytes::new(), meta: None, decrypt: None });
        }
        assert_eq!(bodies(&logs, &replay(&logs, None)), WAITING);
    }

    #[test]
    fn damage_ends_its_log_and_no_other() {
        let mut logs = logs_of("fc-no-checkpoint");
        let first = logs.get_mut(&1).unwrap();
        let mut bytes = first.bytes.to_vec();
        bytes[0x56] = 0x11;
        first.bytes = bytes.into();
        let replayed = replay(&logs, None);
        assert_eq!(replayed.faults.len(), 1);
        assert_eq!((replayed.faults[0].file, replayed.faults[0].offset), (1, 0x56));
        assert!(!replayed.faults[0].problem.0.is_empty());
    }

    #[test]
    fn a_bad_checkpoint_is_refused() {
        let good = fixture("fc-checkpoint/checkpoint/checkpoint");
        let meta = fixture("fc-checkpoint/checkpoint/checkpoint.meta");
        for (at, what) in [(7, "version"), (15, "one time"), (39, "being written")] {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            let error = checkpoint::read(&bytes, &meta, &[], &[]).unwrap_err();
            assert!(error.0.contains(what), "{error}");
        }
        for cut in 0..good.len() {
            let _ = checkpoint::read(&good[..cut], &meta, &[], &[]);
        }
        let mut takes = fixture("fc-killed-inflight/checkpoint/inflighttakes");
        takes[20] ^= 1;
        assert!(checkpoint::read(&good, &meta, &[], &takes).unwrap_err().0.contains("checksum"));
    }
}
