//! Capacity that the shards of one channel share, so that Flume's numbers keep their meaning on any number
//! of cores.

use std::time::Duration;

use tokio::sync::Semaphore;

use crate::io::Io;

/// Most units one reservation may ask for.
const REQUEST_MAX: u64 = u32::MAX as u64;

/// A number of units (events, or slots of bytes) lent to puts and given back by committed takes.
///
/// Lives on all shards. Waiters are served in the order they came, so a large batch is not starved by
/// small ones.
#[derive(Debug)]
pub struct Budget {
    capacity: u64,
    free: Semaphore,
}

impl Budget {
    /// A budget of `capacity` units, all free.
    pub fn new(capacity: u64) -> Self {
        let capacity = capacity.min(Semaphore::MAX_PERMITS as u64);
        Self { capacity, free: Semaphore::new(capacity as usize) }
    }
    /// All units, free or lent.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }
    /// Units lent now. More than the capacity after a restart with a smaller one.
    pub fn used(&self) -> u64 {
        self.capacity.saturating_sub(self.free.available_permits() as u64)
    }
    /// Takes `units`, waiting up to `keep_alive` for them. False if they could not be had in time. Cancel-safe.
    pub async fn reserve(&self, units: u64, keep_alive: Duration, io: &Io) -> bool {
        if units > self.capacity.min(REQUEST_MAX) {
            return false;
        }
        // Checked above: fits u32.
        let units = units as u32;
        if let Ok(permit) = self.free.try_acquire_many(units) {
            permit.forget();
            return true;
        }
        if keep_alive.is_zero() {
            return false;
        }
        tokio::select! {
            biased;
            permit = self.free.acquire_many(units) => permit.map(|p| p.forget()).is_ok(),
            () = io.sleep(keep_alive) => false,
        }
    }
    /// Takes up to `units` that are in use already although nobody reserved them: events found on disk at
    /// the start. Returns how many could not be taken because more wait than the capacity allows; that many
    /// must not be released later.
    pub fn adopt(&self, units: u64) -> u64 {
        let taken = self.free.forget_permits(units.min(usize::MAX as u64) as usize) as u64;
        units - taken
    }
    /// Gives units back.
    pub fn release(&self, units: u64) {
        if units > 0 {
            self.free.add_permits(units as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let budget = Budget::new(10);
        assert_eq!(budget.adopt(4), 0);
        assert_eq!(budget.used(), 4);
        assert_eq!(budget.adopt(9), 3);
        budget.release(10);
        assert_eq!(budget.used(), 0);
    }
}
