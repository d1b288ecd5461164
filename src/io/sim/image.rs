//! Content of one simulated file, in sectors of [`BLOCK`] bytes.
//!
//! For each sector and for the size the disk knows the durable version, and every version since. A sync
//! makes the latest version it covers durable; a loss of power chooses among what is left.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;

use super::policy::{CrashPolicy, Keep};
use super::rng::Rng;
use crate::io::buffer::BLOCK;

/// One sector; shared between versions.
pub(super) type Sector = Rc<[u8; BLOCK]>;

/// Versions kept of one sector between two syncs. More writes than this drop the second oldest: a little
/// less choice for a loss of power, and bounded memory.
const VERSIONS_MAX: usize = 16;

/// What a file holds: absent sectors are holes.
#[derive(Clone, Default)]
struct Image {
    sectors: BTreeMap<u64, Sector>,
    size_bytes: u64,
}

/// Content of one file.
#[derive(Default)]
pub(super) struct Content {
    seen: Image,
    durable: Image,
    /// Versions since the durable one, oldest first, with the number of the change; `None` is a hole.
    versions: BTreeMap<u64, Vec<(u64, Option<Sector>)>>,
    /// The same for the size.
    sizes: Vec<(u64, u64)>,
}

/// The part of a write that falls into one sector.
fn pieces(offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, usize, &[u8])> {
    let block = BLOCK as u64;
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = data.get(at..).filter(|rest| !rest.is_empty())?;
        let position = offset + at as u64;
        let start = (position % block) as usize;
        let piece = &rest[..rest.len().min(BLOCK - start)];
        at += piece.len();
        Some((position / block, start, piece))
    })
}

impl Image {
    fn page(&self, index: u64) -> [u8; BLOCK] {
        self.sectors.get(&index).map_or([0; BLOCK], |sector| **sector)
    }
    fn read(&self, offset: u64, into: &mut [u8]) {
        let block = BLOCK as u64;
        let mut at = 0;
        while at < into.len() {
            let position = offset + at as u64;
            let start = (position % block) as usize;
            let count = (into.len() - at).min(BLOCK - start);
            match self.sectors.get(&(position / block)) {
                Some(sector) => into[at..at + count].copy_from_slice(&sector[start..start + count]),
                None => into[at..at + count].fill(0),
            }
            at += count;
        }
    }
    fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.size_bytes).unwrap_or(usize::MAX)];
        self.read(0, &mut bytes);
        bytes
    }
    /// Drops what lies beyond the size; gives the sectors that changed.
    fn trim(&mut self) -> Vec<(u64, Option<Sector>)> {
        let block = BLOCK as u64;
        let mut changed: Vec<_> =
            self.sectors.split_off(&self.size_bytes.div_ceil(block)).into_keys().map(|i| (i, None)).collect();
        let tail = (self.size_bytes % block) as usize;
        let last = self.size_bytes / block;
        if tail > 0
            && let Some(sector) = self.sectors.get_mut(&last)
            && sector[tail..].iter().any(|b| *b != 0)
        {
            Rc::make_mut(sector)[tail..].fill(0);
            changed.push((last, Some(sector.clone())));
        }
        changed
    }
}

impl Content {
    pub(super) fn size_bytes(&self) -> u64 {
        self.seen.size_bytes
    }
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.seen.sectors.len() as u64 * BLOCK as u64
    }
    pub(super) fn to_vec(&self) -> Vec<u8> {
        self.seen.to_vec()
    }
    pub(super) fn durable_to_vec(&self) -> Vec<u8> {
        self.durable.to_vec()
    }
    /// Reads up to `size` bytes, fewer at the end.
    pub(super) fn read(&self, size: usize, offset: u64, into: &mut Vec<u8>) {
        let rest = usize::try_from(self.seen.size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        into.clear();
        into.resize(size.min(rest), 0);
        self.seen.read(offset, into);
    }
    /// Sectors a write to a range would have to find room for.
    pub(super) fn missing_sectors(&self, offset: u64, size: usize) -> u64 {
        if size == 0 {
            return 0;
        }
        let block = BLOCK as u64;
        let (first, last) = (offset / block, (offset + size as u64 - 1) / block);
        last - first + 1 - self.seen.sectors.range(first..=last).count() as u64
    }

    fn remember(&mut self, index: u64, number: u64, sector: Option<Sector>) {
        let versions = self.versions.entry(index).or_default();
        if versions.len() == VERSIONS_MAX {
            versions.remove(1);
        }
        versions.push((number, sector));
    }
    fn remember_size(&mut self, number: u64) {
        if self.sizes.len() == VERSIONS_MAX {
            self.sizes.remove(1);
        }
        self.sizes.push((number, self.seen.size_bytes));
    }

    /// Writes; durable at once, or after a sync.
    pub(super) fn store(&mut self, offset: u64, data: &[u8], number: u64, durable: bool) {
        self.store_pieces(offset, data, number, durable, |_| true);
    }
    /// Writes the sectors that `choose` wants, told whether each is new. Not durable.
    pub(super) fn store_some(
        &mut self,
        offset: u64,
        data: &[u8],
        number: u64,
        choose: impl FnMut(bool) -> bool,
    ) {
        self.store_pieces(offset, data, number, false, choose);
    }
    fn store_pieces(
        &mut self,
        offset: u64,
        data: &[u8],
        number: u64,
        durable: bool,
        mut choose: impl FnMut(bool) -> bool,
    ) {
        let mut end = 0;
        for (index, start, piece) in pieces(offset, data) {
            if !choose(!self.seen.sectors.contains_key(&index)) {
                continue;
            }
            let mut page = self.seen.page(index);
            page[start..start + piece.len()].copy_from_slice(piece);
            let sector = Rc::new(page);
            self.seen.sectors.insert(index, sector.clone());
            if durable {
                self.versions.remove(&index);
                self.durable.sectors.insert(index, sector);
            } else {
                self.remember(index, number, Some(sector));
            }
            end = index * BLOCK as u64 + (start + piece.len()) as u64;
        }
        if end > self.seen.size_bytes {
            self.seen.size_bytes = end;
            if !durable {
                self.remember_size(number);
            }
        }
        if durable && end > self.durable.size_bytes {
            self.durable.size_bytes = end;
            self.sizes.retain(|(_, size)| *size > end);
        }
    }

    pub(super) fn set_len(&mut self, size_bytes: u64, number: u64) {
        if size_bytes == self.seen.size_bytes {
            return;
        }
        self.seen.size_bytes = size_bytes;
        for (index, sector) in self.seen.trim() {
            self.remember(index, number, sector);
        }
        self.remember_size(number);
    }
    pub(super) fn allocate(&mut self, size_bytes: u64, number: u64, zero: &Sector) {
        for index in 0..size_bytes.div_ceil(BLOCK as u64) {
            if let Entry::Vacant(hole) = self.seen.sectors.entry(index) {
                hole.insert(zero.clone());
                self.remember(index, number, Some(zero.clone()));
            }
        }
        if size_bytes > self.seen.size_bytes {
            self.seen.size_bytes = size_bytes;
            self.remember_size(number);
        }
    }
    /// Replaces everything, durably.
    pub(super) fn replace(&mut self, bytes: &[u8]) {
        *self = Self::default();
        self.store(0, bytes, 0, true);
    }

    /// Makes the versions up to `number` durable, of sectors that `covers` says are meant. With `fails`,
    /// only those it lets through; the rest counts as clean all the same.
    pub(super) fn sync(
        &mut self,
        number: u64,
        sectors: std::ops::RangeInclusive<u64>,
        mut lands: impl FnMut() -> bool,
    ) {
        let whole = *sectors.start() == 0 && *sectors.end() == u64::MAX;
        let durable = &mut self.durable;
        self.versions.retain(|index, versions| {
            if !sectors.contains(index) {
                return true;
            }
            let covered = versions.iter().take_while(|(n, _)| *n <= number).count();
            if let Some((_, newest)) = versions.drain(..covered).next_back()
                && lands()
            {
                match newest {
                    Some(sector) => drop(durable.sectors.insert(*index, sector)),
                    None => drop(durable.sectors.remove(index)),
                }
            }
            !versions.is_empty()
        });
        if whole {
            let covered = self.sizes.iter().take_while(|(n, _)| *n <= number).count();
            if let Some((_, newest)) = self.sizes.drain(..covered).next_back()
                && lands()
            {
                durable.size_bytes = newest;
            }
        }
    }

    /// Chooses what is left, and makes it both seen and durable.
    pub(super) fn lose_power(&mut self, rng: &Rng, policy: CrashPolicy) {
        let choose = |count: usize| match policy.keep {
            Keep::Random => rng.below(count + 1),
            Keep::Nothing => 0,
            Keep::Everything => count,
        };
        for (index, versions) in std::mem::take(&mut self.versions) {
            let old = self.durable.sectors.get(&index).cloned();
            let version = |chosen: usize| match chosen.checked_sub(1).and_then(|i| versions.get(i)) {
                Some((_, sector)) => sector.clone(),
                None => old.clone(),
            };
            let mut page = [0; BLOCK];
            let mut hole = true;
            for start in (0..BLOCK).step_by(policy.atom_bytes) {
                if let Some(sector) = version(choose(versions.len())) {
                    let atom = start..start + policy.atom_bytes;
                    page[atom.clone()].copy_from_slice(&sector[atom]);
                    hole = false;
                }
            }
            if hole {
                self.durable.sectors.remove(&index);
            } else {
                self.durable.sectors.insert(index, Rc::new(page));
            }
        }
        let sizes = std::mem::take(&mut self.sizes);
        if let Some((_, size)) = choose(sizes.len()).checked_sub(1).and_then(|i| sizes.get(i)) {
            self.durable.size_bytes = *size;
        }
        self.durable.trim();
        self.seen = self.durable.clone();
    }
}
