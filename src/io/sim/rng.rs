//! The dice: one seed, the same throws every time.

use std::cell::Cell;

/// A SplitMix64 sequence.
#[derive(Debug)]
pub(super) struct Rng(Cell<u64>);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }
    pub(super) fn next(&self) -> u64 {
        crate::io::split_mix(&self.0)
    }
    /// A number below `bound`; 0 for 0.
    pub(super) fn below(&self, bound: usize) -> usize {
        (self.next() % (bound as u64).max(1)) as usize
    }
    /// A number in a range.
    pub(super) fn within(&self, range: &std::ops::RangeInclusive<u64>) -> u64 {
        let width = range.end().saturating_sub(*range.start()).saturating_add(1);
        range.start() + self.next() % width
    }
}
