//! The log on the simulated disk: power that goes at any moment, faults, and damage by name.
//!
//! Every event carries a number of its own, so that whatever comes out of a log can be held against what
//! went in: what was acknowledged is there, nothing is there that nobody put, the order is kept, and a
//! transaction is there whole or not at all.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use super::*;
use crate::io::sim::{StopButton, StopKind, World};
use crate::io::{self as seam, OpenOptions};

mod damage;
mod opening;
mod power;
mod reading;
mod verify;

pub(super) const DIRECTORY: &str = "/data/shard-0";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Events with these numbers, and some bytes to fill.
pub(super) struct Numbers {
    pub(super) ids: Vec<u64>,
    pub(super) filler: usize,
}

impl Record for Numbers {
    fn events(&self) -> u32 {
        self.ids.len() as u32
    }
    fn size(&self) -> usize {
        8 * self.ids.len() + self.filler
    }
    fn write(&self, out: &mut [u8]) {
        let (numbers, rest) = out.split_at_mut(8 * self.ids.len());
        for (out, id) in numbers.chunks_exact_mut(8).zip(&self.ids) {
            out.copy_from_slice(&id.to_le_bytes());
        }
        rest.fill(self.ids.first().map_or(0, |id| *id as u8 | 1));
    }
}

/// Number of an event: its producer's, its transaction's, its own.
pub(super) fn id(producer: u64, transaction: u64, event: u64) -> u64 {
    producer << 48 | transaction << 16 | event
}
fn producer_of(id: u64) -> u64 {
    id >> 48
}
fn transaction_of(id: u64) -> u64 {
    id >> 16 & 0xffff_ffff
}

pub(super) fn options() -> LogOptions {
    LogOptions {
        directory: DIRECTORY.into(),
        channel: "c1".into(),
        shard: 0,
        segment_size_max: 128 << 10,
        transaction_size_max: 4 << 20,
        minimum_space: 1 << 20,
        durability: Durability::Commit,
        state_interval: Duration::from_millis(500),
        copies: vec!["/checkpoint".into()],
        on_damage: OnDamage::Stop,
        take_only: false,
        keys: Arc::default(),
    }
}

/// The same, encrypted.
pub(super) fn encrypted() -> LogOptions {
    let key = cipher::Key::new("k0", vec![7; 32]).unwrap();
    LogOptions { keys: Arc::new(Keys(vec![key])), ..options() }
}

/// Dice for workloads.
pub(super) struct Dice(Cell<u64>);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Cell::new(seed ^ 0x5bf0_3635_dea5_1d2b))
    }
    pub(super) fn below(&self, bound: u64) -> u64 {
        let mut x = self.0.get().max(1);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// A world whose kernel has a boot id, as Linux has: recovery trusts the state page by it.
pub(super) fn world(seed: u64) -> World {
    let world = World::new(seed);
    world.run(|io| async move {
        let path = Path::new(BOOT_ID);
        io.create_dir_all(path.parent().unwrap()).await.unwrap();
        io.create_dir_all(Path::new("/checkpoint")).await.unwrap();
        let file = io.open(path, OpenOptions::CREATE_NEW).await.unwrap();
        file.write_at("boot 0".into(), 0).await.unwrap();
        file.sync_data().await.unwrap();
        for parent in path.ancestors().skip(1) {
            io.sync_dir(parent).await.unwrap();
        }
    });
    world
}

/// Another kernel runs from now on.
pub(super) fn reboot(world: &World) {
    assert!(world.disk.damage(BOOT_ID, |bytes| bytes[5] = bytes[5].wrapping_add(1)));
}

/// The numbers of the events of an entry that are not acknowledged.
pub(super) fn open_ids(log: &Log, entry: &Entry) -> Vec<u64> {
    let mut ids = Vec::new();
    let (mut at, end) = (entry.first_seq, entry.first_seq + u64::from(entry.events));
    while let Some((from, to)) = log.first_open(at, end) {
        for seq in from..to {
            let offset = (seq - entry.first_seq) as usize * 8;
            ids.push(frame::u64_at(&entry.payload, offset));
        }
        at = to;
    }
    ids
}

/// Marks of the log: the last transaction of each producer.
fn marks(log: &Log) -> BTreeMap<u64, u64> {
    log.with_marks(|table| {
        let number = |bytes: &Bytes| frame::u64_at(bytes, 0);
        table.iter().map(|(key, value, _)| (number(key), number(value))).collect()
    })
}
pub(super) fn mark(producer: u64, transaction: u64) -> Mark {
    let bytes = |n: u64| Bytes::copy_from_slice(&n.to_le_bytes());
    (bytes(producer), bytes(transaction))
}

/// What the harness knows, from one life of the log to the next.
#[derive(Default)]
pub(super) struct Book {
    /// Events of transactions that were handed to the log and may be in it.
    tried: BTreeMap<u64, Vec<u64>>,
    /// Events that must be in it, unless delivered; and from when on not even a loss of power may take them.
    acknowledged: BTreeMap<u64, Duration>,
    /// The latest time at which something was seen to work.
    seen: Duration,
    /// Events whose delivery was noted, and those for which that had at least begun.
    delivered: BTreeSet<u64>,
    delivering: BTreeSet<u64>,
    next_transaction: BTreeMap<u64, u64>,
    /// Since the last check.
    power_lost: bool,
    pub(super) complaint: Option<String>,
    /// On a machine that has stopped an answer reaches nobody.
    stop: Option<StopButton>,
}

impl Book {
    /// Notes an answer, given with what the log's class promises.
    fn acknowledge(&mut self, ids: Vec<u64>, now: Duration, durability: Durability) {
        if self.stop.as_ref().is_some_and(StopButton::is_pressed) {
            return;
        }
        let firm = match durability {
            Durability::Commit => Duration::ZERO,
            // The interval, the second after which the housekeeper looks, and time to write.
            Durability::Interval(every) => now + every + Duration::from_secs(2),
            Durability::Os => Duration::MAX,
        };
        self.acknowledged.extend(ids.into_iter().map(|id| (id, firm)));
        self.seen = self.seen.max(now);
    }

    /// Plans a transaction.
    fn plan(&mut self, producer: u64, events: u64) -> (u64, Vec<u64>) {
        let next = self.next_transaction.entry(producer).or_insert(1);
        let transaction = *next;
        *next += 1;
        let ids: Vec<u64> = (0..events).map(|event| id(producer, transaction, event)).collect();
        self.tried.insert(id(producer, transaction, 0), ids.clone());
        (transaction, ids)
    }

    /// Holds what a log gave after a stop against what is known.
    fn check(&mut self, found: &[u64], marks: &BTreeMap<u64, u64>) -> Result<(), String> {
        let name = |id: &u64| format!("{}/{}/{}", producer_of(*id), transaction_of(*id), id & 0xffff);
        let set: BTreeSet<u64> = found.iter().copied().collect();
        if set.len() < found.len() {
            return Err("an event came twice".to_owned());
        }
        let tried: BTreeSet<u64> = self.tried.values().flatten().copied().collect();
        if let Some(id) = set.iter().find(|id| !tried.contains(id)) {
            return Err(format!("{} is there but must not be", name(id)));
        }
        let power_lost = std::mem::take(&mut self.power_lost);
        let here = |id: &u64| self.delivering.contains(id) || set.contains(id);
        let may_go = |firm: Duration| power_lost && firm > self.seen;
        let lost = self.acknowledged.iter().find(|(id, firm)| !here(id) && !may_go(**firm));
        if let Some((id, firm)) = lost {
            return Err(format!(
                "{} was acknowledged and is lost (firm from {firm:?}, seen {:?})",
                name(id),
                self.seen
            ));
        }
        // What goes with the power is the end of the log: whoever lost an event has none behind it.
        for id in self.acknowledged.keys().filter(|id| !here(id)) {
            let behind = |other: &&u64| producer_of(**other) == producer_of(*id) && **other > *id;
            if let Some(other) = set.iter().find(behind) {
                return Err(format!("{} is lost, {} behind it is there", name(id), name(other)));
            }
        }
        let lost: BTreeSet<u64> = self.acknowledged.keys().copied().filter(|id| !here(id)).collect();
        self.acknowledged.retain(|id, _| !lost.contains(id));
        if !power_lost && let Some(id) = self.delivered.iter().find(|id| set.contains(id)) {
            return Err(format!("{} came again although nothing but the process died", name(id)));
        }
        let mut last: BTreeMap<u64, u64> = BTreeMap::new();
        for id in found {
            let before = last.insert(producer_of(*id), *id).unwrap_or(0);
            if before >= *id {
                return Err(format!("{} came after {}", name(id), name(&before)));
            }
        }
        let mut present: BTreeMap<u64, u64> = BTreeMap::new();
        self.tried.retain(|_, ids| {
            let here = |id: &u64| set.contains(id) || self.delivering.contains(id);
            let mut any = ids.iter().any(here);
            if power_lost && any && !ids.iter().any(|id| set.contains(id)) {
                // Delivered as far as it was, and gone from the log with its mark: then its source sends it again.
                any = marks.get(&producer_of(ids[0])).is_some_and(|mark| *mark >= transaction_of(ids[0]));
                any |= ids.iter().all(|id| self.acknowledged.get(id).is_some_and(|firm| !may_go(*firm)));
            }
            if any {
                let newest = present.entry(producer_of(ids[0])).or_default();
                *newest = transaction_of(ids[0]).max(*newest);
            }
            // What is not there now must never come back.
            any
        });
        for ids in self.tried.values() {
            let gone = |id: &&u64| !set.contains(id) && !self.delivering.contains(id);
            if let Some(id) = ids.iter().find(gone) {
                return Err(format!(
                    "{} is missing from a transaction of which other events are there",
                    name(id)
                ));
            }
        }
        if *marks != present {
            return Err(format!("the marks are {marks:?}, the last transactions {present:?}"));
        }
        // What was recovered is as good as acknowledged. What came again was not delivered after all.
        self.acknowledged.extend(set.iter().map(|id| (*id, Duration::ZERO)));
        self.delivering.retain(|id| !set.contains(id));
        self.delivered.retain(|id| !set.contains(id));
        // What began to be delivered and is gone is delivered.
        self.delivered.extend(self.delivering.iter().copied());
        Ok(())
    }
}

/// Everything that waits in a log, in order, with the entries.
pub(super) async fn read_all(log: &Log) -> Result<Vec<(Entry, Vec<u64>)>, WalError> {
    let mut all = Vec::new();
    while let Some(entry) = log.next().await? {
        let ids = open_ids(log, &entry);
        all.push((entry, ids));
    }
    Ok(all)
}

/// Delivers events of an entry.
async fn deliver(io: &Io, log: &Log, book: &RefCell<Book>, entries: &[(Entry, Vec<u64>)]) {
    let ids = || entries.iter().flat_map(|(_, ids)| ids.iter().copied());
    book.borrow_mut().delivering.extend(ids());
    for (entry, _) in entries {
        log.ack(entry.first_seq, entry.first_seq + u64::from(entry.events));
    }
    log.acked();
    // On a machine that stopped just now this does not return.
    let _ = io.metadata(Path::new("/")).await;
    book.borrow_mut().delivered.extend(ids());
}
