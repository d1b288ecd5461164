//! Source marks: what sources need to resume, committed with their events and kept across segments.
//!
//! The log does not know what a mark means: a key and a value, both bytes. The latest value of each key is
//! kept in memory and written whole, as a snapshot, at the start of every segment.

use std::collections::HashMap;

use bytes::{BufMut, Bytes};

use super::frame::{u32_at, u64_at};

/// A key and its new value; an empty value forgets the key.
pub type Mark = (Bytes, Bytes);

/// Bytes of one encoded mark besides key and value.
const ENTRY_SIZE: usize = 16;

/// Size of marks in a frame.
pub fn encoded_size(marks: &[Mark]) -> usize {
    marks.iter().map(|(key, value)| ENTRY_SIZE + key.len() + value.len()).sum()
}

/// Appends one mark. Time 0 stands for the frame's own.
pub fn encode(out: &mut impl BufMut, key: &[u8], value: &[u8], time_ms: u64) {
    out.put_u32_le(key.len() as u32);
    out.put_u32_le(value.len() as u32);
    out.put_u64_le(time_ms);
    out.put_slice(key);
    out.put_slice(value);
}

/// The latest marks. A deleted one stays as a key with an empty value and the time of its deletion until it is
/// [forgotten](Self::forget): another log may hold an older value of the same key, which must not come back.
#[derive(Clone, Debug, Default)]
pub struct MarkTable {
    entries: HashMap<Bytes, (u64, Bytes)>,
    bytes: usize,
}

impl MarkTable {
    /// Sets a value noted at a time; an empty one deletes the mark.
    pub fn set(&mut self, key: Bytes, value: Bytes, time_ms: u64) {
        let size = ENTRY_SIZE + key.len();
        self.bytes += size + value.len();
        if let Some((_, old)) = self.entries.insert(key, (time_ms, value)) {
            self.bytes -= size + old.len();
        }
    }
    /// Sets or deletes unless something later is known.
    pub fn merge(&mut self, key: Bytes, value: Bytes, time_ms: u64) {
        if self.entries.get(&key).is_none_or(|(known, _)| *known < time_ms) {
            self.set(key, value, time_ms);
        }
    }
    /// Forgets that a mark was deleted.
    pub fn forget(&mut self, key: &[u8]) {
        if self.entries.get(key).is_some_and(|(_, value)| value.is_empty()) {
            self.entries.remove(key);
            self.bytes -= ENTRY_SIZE + key.len();
        }
    }
    /// True if the key has a value.
    pub fn has(&self, key: &[u8]) -> bool {
        self.entries.get(key).is_some_and(|(_, value)| !value.is_empty())
    }
    /// Reads encoded marks from a frame sealed at `frame_ms`. Keys and values share the frame's memory only
    /// while they are read: what is kept is copied.
    ///
    /// False if the bytes are not marks; what came before the fault is kept.
    pub fn read(&mut self, mut bytes: &[u8], frame_ms: u64) -> bool {
        while !bytes.is_empty() {
            if bytes.len() < ENTRY_SIZE {
                return false;
            }
            let (key_size, value_size) = (u32_at(bytes, 0) as usize, u32_at(bytes, 4) as usize);
            let time_ms = match u64_at(bytes, 8) {
                0 => frame_ms,
                time_ms => time_ms,
            };
            let rest = &bytes[ENTRY_SIZE..];
            let Some((key, rest)) = rest.split_at_checked(key_size) else { return false };
            let Some((value, rest)) = rest.split_at_checked(value_size) else { return false };
            self.set(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value), time_ms);
            bytes = rest;
        }
        true
    }
    /// Key, value and time of every mark, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes, u64)> {
        self.all().filter(|(_, value, _)| !value.is_empty())
    }
    /// The same, and the keys that were deleted, with an empty value.
    pub fn all(&self) -> impl Iterator<Item = (&Bytes, &Bytes, u64)> {
        self.entries.iter().map(|(key, (time_ms, value))| (key, value, *time_ms))
    }
    /// Size of all marks encoded.
    pub fn encoded_size(&self) -> usize {
        self.bytes
    }
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_comes_back() {
        let mut table = MarkTable::default();
        table.set("a".into(), "1".into(), 5);
        table.set("b".into(), "2".into(), 6);
        table.set("a".into(), "333".into(), 7);
        table.set("b".into(), Bytes::new(), 8);
        table.set("c".into(), "4".into(), 9);
        let mut bytes = Vec::new();
        table.all().for_each(|(k, v, t)| encode(&mut bytes, k, v, t));
        assert_eq!(bytes.len(), table.encoded_size());
        let mut read = MarkTable::default();
        assert!(read.read(&bytes, 99));
        let mut entries: Vec<_> = read.iter().map(|(k, v, t)| (k.clone(), v.clone(), t)).collect();
        entries.sort();
        assert_eq!(entries, [("a".into(), "333".into(), 7), ("c".into(), "4".into(), 9)]);
        assert!(read.all().any(|(k, v, t)| k == "b" && v.is_empty() && t == 8) && !read.has(b"b"));
        let ends: Vec<usize> = table
            .all()
            .scan(0, |end, (k, v, _)| {
                *end += ENTRY_SIZE + k.len() + v.len();
                Some(*end)
            })
            .collect();
        for cut in 1..bytes.len() {
            assert_eq!(MarkTable::default().read(&bytes[..cut], 0), ends.contains(&cut), "cut at {cut}");
        }
        for key in ["a", "b", "x"] {
            read.forget(key.as_bytes());
        }
        assert_eq!((read.all().count(), read.encoded_size()), (2, 2 * ENTRY_SIZE + 2 + 4));
    }

    #[test]
    fn a_deletion_wins_over_an_older_value_only() {
        let mut table = MarkTable::default();
        table.set("a".into(), Bytes::new(), 7);
        table.merge("a".into(), "1".into(), 5);
        assert!(!table.has(b"a"));
        table.merge("a".into(), "2".into(), 8);
        assert!(table.has(b"a"));
        table.merge("a".into(), Bytes::new(), 9);
        assert!(!table.has(b"a"));
    }

    #[test]
    fn the_later_mark_wins() {
        let mut table = MarkTable::default();
        table.merge("a".into(), "1".into(), 5);
        table.merge("a".into(), "0".into(), 4);
        assert_eq!(table.iter().next().unwrap().1, "1");
        table.merge("a".into(), "2".into(), 6);
        assert_eq!(table.iter().next().unwrap().1, "2");
    }
}
