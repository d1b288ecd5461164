//! Which shard reads which file: a new one goes to the shard with the least left to read.
//!
//! A hash in place of this left one core alone with its last files while the other stood still.

use std::collections::HashMap;

use super::table::FileId;

/// What a file counts for besides the bytes that are left in it: files that grow slowly are dealt evenly, too. As much
/// as one read.
const FILE_BYTES: u64 = super::file::READ_BYTES as u64;

/// The shard of each file. It stays the same as long as the file is there: lines of two shards have no order.
#[derive(Debug, Default)]
pub struct Shares(HashMap<FileId, usize>);

impl Shares {
    /// The file was this shard's in an earlier run: its channel may still have lines of it.
    pub fn keep(&mut self, id: FileId, shard: usize) {
        self.0.insert(id, shard);
    }

    /// The file is gone.
    pub fn release(&mut self, id: FileId) {
        self.0.remove(&id);
    }

    /// Drops what a shard owns and has no use for. Only the owner may know that.
    pub fn drop_of(&mut self, shard: usize, is_wanted: impl Fn(&FileId) -> bool) {
        self.0.retain(|id, owner| *owner != shard || is_wanted(id));
    }

    /// The owner of each file, given with the bytes that are left to read. Files without one are dealt, those
    /// with most left first, each to the shard with the least.
    pub fn deal(&mut self, found: &[(FileId, u64)], shards: usize) -> Vec<usize> {
        let mut loads = vec![0u64; shards.max(1)];
        let mut unowned = Vec::new();
        for (id, left) in found {
            // There may have been more shards in an earlier run.
            match self.0.get(id).and_then(|owner| loads.get_mut(*owner)) {
                Some(load) => *load += left + FILE_BYTES,
                None => unowned.push((*left, *id)),
            }
        }
        unowned.sort_by_key(|(left, id)| (std::cmp::Reverse(*left), *id));
        for (left, id) in unowned {
            let Some((owner, load)) = loads.iter_mut().enumerate().min_by_key(|(_, load)| **load) else {
                break;
            };
            *load += left + FILE_BYTES;
            self.0.insert(id, owner);
        }
        found.iter().map(|(id, _)| self.0.get(id).copied().unwrap_or_default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(inode: u64) -> FileId {
        FileId { device: 1, inode }
    }

    #[test]
    fn files_are_dealt_by_what_is_left_and_stay() {
        let mut shares = Shares::default();
        let backlog: Vec<_> = [900 << 20, 500 << 20, 400 << 20, 0, 0, 0].iter().zip(1..).collect();
        let backlog: Vec<_> = backlog.into_iter().map(|(left, inode)| (id(inode), *left)).collect();
        let owners = shares.deal(&backlog, 2);
        assert_eq!((owners[0], owners[1], owners[2]), (0, 1, 1));
        // Later, in another order, with one read to its end and a new one.
        let later = [(id(7), 1 << 20), (id(2), 500 << 20), (id(1), 0)];
        assert_eq!(shares.deal(&later, 2), [0, 1, 0]);
        assert_eq!(shares.deal(&backlog, 2), owners);
    }

    #[test]
    fn files_that_only_grow_are_dealt_evenly() {
        let files: Vec<_> = (0..64).map(|inode| (id(inode), 0)).collect();
        let owners = Shares::default().deal(&files, 4);
        assert!((0..4).all(|shard| owners.iter().filter(|o| **o == shard).count() == 16));
    }

    #[test]
    fn what_an_earlier_run_knew_is_kept_while_there_are_as_many_shards() {
        let mut shares = Shares::default();
        shares.keep(id(1), 3);
        assert_eq!(shares.deal(&[(id(1), 5)], 4), [3]);
        assert_eq!(shares.deal(&[(id(1), 5)], 2), [0]);
        // Another shard cannot say that nobody wants it.
        shares.drop_of(1, |_| false);
        assert_eq!(shares.deal(&[(id(1), 5), (id(2), 0)], 2), [0, 1]);
        shares.drop_of(0, |_| false);
        shares.release(id(2));
        assert_eq!(shares.deal(&[(id(2), 9), (id(1), 5)], 2), [0, 1]);
    }
}
