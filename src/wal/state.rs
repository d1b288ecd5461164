//! The consumer's position: which events are acknowledged, in memory and in the mapped state page.

use std::collections::{BTreeMap, VecDeque};

use super::frame::{put_u32, put_u64, u32_at, u64_at};
use crate::io::MapMut;

/// Size of one of the page's two slots.
const SLOT_SIZE: usize = 4096;
/// Size of the page.
pub const PAGE_SIZE: usize = 2 * SLOT_SIZE;
const MAGIC: [u8; 4] = *b"MRst";
const VERSION: u32 = 1;
const FIXED_SIZE: usize = 88;
/// Ranges that fit a slot. Further ones are left out: after a crash their events come again.
const RANGES_MAX: usize = (SLOT_SIZE - FIXED_SIZE) / 16;

/// What the state page says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Counts the writes; the slot with the higher one counts.
    pub generation: u64,
    /// The log it belongs to.
    pub log_id: u64,
    /// Number of the first event not acknowledged.
    pub low_seq: u64,
    /// Where its frame starts.
    pub low_position: u64,
    /// Everything before this position of the log is durable.
    pub durable: u64,
    /// Everything before this position is on the medium; behind `durable` only if the log is mapped.
    pub synced: u64,
    /// Position of a snapshot of marks that is durable.
    pub snapshot: u64,
    /// Which run of the kernel wrote it; 0 = not known. In the same run the page is exact, after another
    /// it may be older than the log.
    pub boot: u64,
    /// Acknowledged events above `low_seq`: from, to.
    pub ranges: Vec<(u64, u64)>,
}

impl State {
    /// The state as a slot.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; FIXED_SIZE + 16 * self.ranges.len().min(RANGES_MAX)];
        self.fill(&mut out, self.ranges.iter().copied());
        out
    }
    fn fill(&self, out: &mut [u8], ranges: impl Iterator<Item = (u64, u64)>) -> usize {
        out[..4].copy_from_slice(&MAGIC);
        put_u32(out, 4, 0);
        put_u32(out, 12, VERSION);
        let numbers = [
            self.generation,
            self.log_id,
            self.low_seq,
            self.low_position,
            self.durable,
            self.snapshot,
            self.synced,
            self.boot,
        ];
        numbers.iter().enumerate().for_each(|(i, n)| put_u64(out, 16 + 8 * i, *n));
        let mut count = 0;
        for (from, to) in ranges.take(RANGES_MAX) {
            put_u64(out, FIXED_SIZE + 16 * count, from);
            put_u64(out, FIXED_SIZE + 16 * count + 8, to);
            count += 1;
        }
        put_u32(out, 80, count as u32);
        put_u32(out, 84, 0);
        let used = FIXED_SIZE + 16 * count;
        put_u32(out, 8, used as u32);
        let checksum = crc32fast::hash(&out[..used]);
        put_u32(out, 4, checksum);
        used
    }
    /// Reads a slot.
    pub fn decode(slot: &[u8]) -> Option<Self> {
        let fixed = slot.get(..FIXED_SIZE)?;
        let used = u32_at(fixed, 8) as usize;
        let count = u32_at(fixed, 80) as usize;
        let sound = fixed[..4] == MAGIC && u32_at(fixed, 12) == VERSION;
        if !sound || count > RANGES_MAX || used != FIXED_SIZE + 16 * count || used > slot.len() {
            return None;
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&slot[..4]);
        hasher.update(&[0; 4]);
        hasher.update(&slot[8..used]);
        if hasher.finalize() != u32_at(slot, 4) {
            return None;
        }
        let range = |i| (u64_at(slot, FIXED_SIZE + 16 * i), u64_at(slot, FIXED_SIZE + 16 * i + 8));
        Some(Self {
            generation: u64_at(slot, 16),
            log_id: u64_at(slot, 24),
            low_seq: u64_at(slot, 32),
            low_position: u64_at(slot, 40),
            durable: u64_at(slot, 48),
            snapshot: u64_at(slot, 56),
            synced: u64_at(slot, 64),
            boot: u64_at(slot, 72),
            ranges: (0..count).map(range).collect(),
        })
    }
    /// True if it speaks of events beyond the end of a log that lost some with the power.
    pub fn is_ahead_of(&self, end_seq: u64) -> bool {
        self.low_seq > end_seq || self.ranges.iter().any(|(_, to)| *to > end_seq)
    }
    /// The newer valid slot of a page.
    pub fn from_page(page: &[u8]) -> Option<Self> {
        let slots = page.chunks(SLOT_SIZE).take(2).filter_map(Self::decode);
        slots.max_by_key(|state| state.generation)
    }
}

/// True for a page that was made and never stored to.
pub fn is_untouched(page: &[u8]) -> bool {
    page.len() >= PAGE_SIZE && page.iter().all(|byte| *byte == 0)
}

/// The page in a mapped file. Each write goes to the slot that does not count, so that whatever happens in
/// the middle the other one is whole.
pub struct StatePage {
    map: Box<dyn MapMut>,
    scratch: Box<[u8; SLOT_SIZE]>,
}

impl StatePage {
    /// A page over a mapping of [`PAGE_SIZE`] bytes.
    pub fn new(map: Box<dyn MapMut>) -> Self {
        Self { map, scratch: Box::new([0; SLOT_SIZE]) }
    }
    /// Stores a state. Survives the death of the process at once.
    pub fn store(&mut self, state: &mut State, tracker: &Tracker) {
        state.generation += 1;
        state.low_seq = tracker.low_seq;
        state.low_position = tracker.low_position;
        let used = state.fill(&mut *self.scratch, tracker.ranges());
        let slot = (state.generation % 2) as usize * SLOT_SIZE;
        self.map.write(slot, &self.scratch[..used]);
    }
    /// A future that makes the page durable.
    pub fn flush(&self) -> crate::io::LocalBoxFuture<'static, std::io::Result<()>> {
        self.map.flush(0..PAGE_SIZE)
    }
}

/// Which events were delivered to a take and which acknowledged.
///
/// Bound: a delivered frame leaves when its events are acknowledged, and open take transactions hold at
/// most transaction capacity x lanes events.
#[derive(Debug, Default)]
pub struct Tracker {
    /// Number of the first event not acknowledged.
    pub low_seq: u64,
    /// Where its frame starts, or where the next unread one will.
    pub low_position: u64,
    acked: BTreeMap<u64, u64>,
    delivered: VecDeque<Delivered>,
}

#[derive(Debug)]
struct Delivered {
    end_seq: u64,
    position: u64,
    end: u64,
}

impl Tracker {
    /// Starts from a stored state.
    pub fn new(low_seq: u64, low_position: u64, ranges: &[(u64, u64)]) -> Self {
        let mut tracker = Self { low_seq, low_position, ..Self::default() };
        for &(from, to) in ranges {
            if from < to && to > low_seq {
                tracker.insert(from.max(low_seq), to);
            }
        }
        tracker
    }
    /// Notes that the reader passed a frame; frames without events too.
    pub fn deliver(&mut self, end_seq: u64, position: u64, end: u64) {
        self.delivered.push_back(Delivered { end_seq, position, end });
        self.settle();
    }
    /// Notes that there is nothing before `end` any more to deliver.
    pub fn pass(&mut self, end: u64) {
        self.deliver(self.low_seq, end, end);
    }
    /// Notes that events `from..to` are acknowledged.
    pub fn ack(&mut self, from: u64, to: u64) {
        if from < to && to > self.low_seq {
            self.insert(from.max(self.low_seq), to);
            self.settle();
        }
    }
    fn insert(&mut self, mut from: u64, mut to: u64) {
        if let Some((&before, &end)) = self.acked.range(..=from).next_back()
            && end >= from
        {
            self.acked.remove(&before);
            (from, to) = (before, to.max(end));
        }
        while let Some((&next, &end)) = self.acked.range(from..=to).next() {
            self.acked.remove(&next);
            to = to.max(end);
        }
        self.acked.insert(from, to);
    }
    fn settle(&mut self) {
        if let Some(entry) = self.acked.first_entry()
            && *entry.key() <= self.low_seq
        {
            self.low_seq = self.low_seq.max(entry.remove());
        }
        while let Some(front) = self.delivered.front() {
            if front.end_seq > self.low_seq {
                self.low_position = front.position;
                return;
            }
            self.low_position = front.end;
            self.delivered.pop_front();
        }
    }
    /// Acknowledged events above the low watermark.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.acked.iter().map(|(from, to)| (*from, *to))
    }
    /// Number of acknowledged events above the low watermark.
    pub fn acked_above(&self) -> u64 {
        self.ranges().map(|(from, to)| to - from).sum()
    }
    /// The first run of events in `from..to` that is not acknowledged.
    pub fn first_open(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        let mut from = from.max(self.low_seq);
        if let Some((_, &end)) = self.acked.range(..=from).next_back() {
            from = from.max(end);
        }
        if from >= to {
            return None;
        }
        let until = self.acked.range(from..to).next().map_or(to, |(&next, _)| next);
        Some((from, until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_and_every_flip_is_noticed() {
        let state = State {
            generation: 4,
            log_id: 3,
            low_seq: 10,
            low_position: 4096,
            durable: 8192,
            synced: 8000,
            snapshot: 4096,
            boot: 77,
            ranges: vec![(12, 14), (20, 30)],
        };
        let bytes = state.encode();
        assert_eq!(State::decode(&bytes), Some(state));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(State::decode(&flipped), None, "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert_eq!(State::decode(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn the_newer_slot_counts() {
        let mut page = vec![0; PAGE_SIZE];
        assert_eq!(State::from_page(&page), None);
        for generation in [6, 5] {
            let state = State { generation, low_seq: generation * 10, ..State::default() };
            let bytes = state.encode();
            let at = (generation % 2) as usize * SLOT_SIZE;
            page[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        assert_eq!(State::from_page(&page).unwrap().low_seq, 60);
        page[20] ^= 1;
        assert_eq!(State::from_page(&page).unwrap().low_seq, 50);
    }

    #[test]
    fn acknowledgements_out_of_order() {
        let mut tracker = Tracker::new(0, 100, &[]);
        tracker.deliver(10, 100, 200);
        tracker.deliver(20, 200, 300);
        tracker.deliver(20, 300, 350);
        tracker.deliver(30, 350, 400);
        tracker.ack(10, 20);
        assert_eq!((tracker.low_seq, tracker.low_position), (0, 100));
        tracker.ack(0, 4);
        assert_eq!((tracker.low_seq, tracker.low_position, tracker.acked_above()), (4, 100, 10));
        assert_eq!(tracker.first_open(0, 30), Some((4, 10)));
        assert_eq!(tracker.first_open(10, 30), Some((20, 30)));
        assert_eq!(tracker.first_open(10, 20), None);
        tracker.ack(4, 10);
        assert_eq!((tracker.low_seq, tracker.low_position, tracker.acked_above()), (20, 350, 0));
        tracker.ack(20, 30);
        assert_eq!((tracker.low_seq, tracker.low_position), (30, 400));
    }

    #[test]
    fn ranges_join() {
        let mut tracker = Tracker::new(0, 0, &[(5, 7), (1, 3)]);
        tracker.ack(2, 6);
        assert_eq!(tracker.ranges().collect::<Vec<_>>(), [(1, 7)]);
        tracker.ack(9, 12);
        tracker.ack(7, 9);
        assert_eq!(tracker.ranges().collect::<Vec<_>>(), [(1, 12)]);
        tracker.ack(0, 1);
        assert_eq!((tracker.low_seq, tracker.acked_above()), (12, 0));
    }
}
