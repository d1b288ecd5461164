//! A batch as the log stores it: bodies, offsets and headers in the form they have in memory, so that
//! storing is one copy and reading back is slicing.
//!
//! ```text
//! version u8 · flags u8 (1 = bodies are followed by a line feed, 2 = events have headers of their own) · 0 u16
//! events u32 · size of common headers u32 · size of events' own headers u32
//! common headers: key length u32, value length u32, key, value ...
//! end of each body u32 ...
//! if events have headers of their own: end of each event's headers u32 ..., then the headers as above
//! bodies, separators included
//! ```
//! All numbers are little-endian.

use bytes::Bytes;

use crate::event::{EventBatch, EventHeaders, Headers, Separator, Text};
use crate::wal::Record;

const VERSION: u8 = 1;
const FLAG_NEWLINE: u8 = 1;
const FLAG_EACH: u8 = 2;
const FIXED_SIZE: usize = 16;

/// Parts are cut so that several fit one group of the log: 448 KiB and their frame's header into 512 KiB.
/// Larger only if a single event is.
const PART_SIZE_MAX: usize = 448 << 10;

/// Events `from..to` of a batch, to be stored as one record.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    batch: &'a EventBatch,
    from: usize,
    to: usize,
    common_size: usize,
}

impl<'a> Part<'a> {
    /// Adds the parts of a batch to a list.
    pub fn split(batch: &'a EventBatch, into: &mut Vec<Self>) {
        let common_size = batch.common().iter().map(|(k, v)| 8 + k.len() + v.len()).sum();
        let count = batch.len();
        let mut from = 0;
        while from < count {
            let mut part = Self { batch, from, to: count, common_size };
            if part.size() > PART_SIZE_MAX {
                // The most events that fit, at least one.
                let (mut fits, mut too_many) = (from + 1, count);
                while too_many - fits > 1 {
                    part.to = fits + (too_many - fits) / 2;
                    if part.size() <= PART_SIZE_MAX { fits = part.to } else { too_many = part.to }
                }
                part.to = fits;
            }
            from = part.to;
            into.push(part);
        }
    }

    /// Start and end in an area whose events end at `ends`, each followed by `gap` bytes.
    fn span(&self, ends: &[u32], gap: usize) -> (usize, usize) {
        let end_of = |count: usize| if count == 0 { 0 } else { ends[count - 1] as usize + gap };
        (end_of(self.from), end_of(self.to))
    }
    fn count(&self) -> usize {
        self.to - self.from
    }
}

impl Record for Part<'_> {
    fn events(&self) -> u32 {
        self.count() as u32
    }
    fn size(&self) -> usize {
        let (_, ends, separator) = self.batch.area();
        let (start, end) = self.span(ends, separator.size());
        let each = self.batch.each().map_or(0, |each| {
            let (start, end) = self.span(each.as_encoded().1, 0);
            end - start + 4 * self.count()
        });
        FIXED_SIZE + self.common_size + 4 * self.count() + each + end - start
    }
    fn write(&self, out: &mut [u8]) {
        let (bodies, ends, separator) = self.batch.area();
        let each = self.batch.each().map(EventHeaders::as_encoded);
        let (start, end) = self.span(ends, separator.size());
        let each_span = each.map(|(_, ends)| self.span(ends, 0));
        let newline = if separator == Separator::Newline { FLAG_NEWLINE } else { 0 };
        out[0] = VERSION;
        out[1] = newline | if each.is_some() { FLAG_EACH } else { 0 };
        out[2..4].fill(0);
        let mut rest = &mut out[4..];
        put(&mut rest, &(self.count() as u32).to_le_bytes());
        put(&mut rest, &(self.common_size as u32).to_le_bytes());
        put(&mut rest, &(each_span.map_or(0, |(start, end)| end - start) as u32).to_le_bytes());
        for (key, value) in self.batch.common().iter() {
            put(&mut rest, &(key.len() as u32).to_le_bytes());
            put(&mut rest, &(value.len() as u32).to_le_bytes());
            put(&mut rest, key.as_bytes());
            put(&mut rest, value.as_bytes());
        }
        put_ends(&mut rest, &ends[self.from..self.to], start as u32);
        if let (Some((encoded, ends)), Some((start, end))) = (each, each_span) {
            put_ends(&mut rest, &ends[self.from..self.to], start as u32);
            put(&mut rest, &encoded[start..end]);
        }
        put(&mut rest, &bodies[start..end]);
    }
}

fn put(rest: &mut &mut [u8], bytes: &[u8]) {
    let (head, tail) = std::mem::take(rest).split_at_mut(bytes.len());
    head.copy_from_slice(bytes);
    *rest = tail;
}

fn put_ends(rest: &mut &mut [u8], ends: &[u32], start: u32) {
    let (head, tail) = std::mem::take(rest).split_at_mut(4 * ends.len());
    for (out, end) in head.chunks_exact_mut(4).zip(ends) {
        out.copy_from_slice(&(end - start).to_le_bytes());
    }
    *rest = tail;
}

/// Events `from..to` of a stored record; their bodies share its memory. `None` if it is not a record.
pub fn decode(payload: &Bytes, from: usize, to: usize) -> Option<EventBatch> {
    let fixed = payload.get(..FIXED_SIZE)?;
    let number = |at: usize| Some(u32::from_le_bytes(*fixed.get(at..)?.first_chunk::<4>()?) as usize);
    let (count, common_size, each_size) = (number(4)?, number(8)?, number(12)?);
    let flags = *fixed.get(1)?;
    if *fixed.first()? != VERSION || flags & !(FLAG_NEWLINE | FLAG_EACH) != 0 || from > to || to > count {
        return None;
    }
    let separator = if flags & FLAG_NEWLINE != 0 { Separator::Newline } else { Separator::None };
    let mut at = FIXED_SIZE;
    let mut part = |size: usize| {
        let start = at;
        at = at.checked_add(size).filter(|end| *end <= payload.len())?;
        Some(start..at)
    };
    let common = part(common_size)?;
    let ends = part(count.checked_mul(4)?)?;
    let each =
        if flags & FLAG_EACH != 0 { Some((part(count.checked_mul(4)?)?, part(each_size)?)) } else { None };
    let bodies = payload.slice(at..);

    let (ends, start, end) = ends_of(payload.get(ends)?, from, to, separator.size())?;
    if end > bodies.len() {
        return None;
    }
    let mut batch = EventBatch::from_parts(bodies.slice(start..end), ends, separator)?;
    *batch.common_mut() = headers(payload.slice(common))?;
    if let Some((ends, encoded)) = each {
        let (ends, start, end) = ends_of(payload.get(ends)?, from, to, 0)?;
        let encoded = payload.slice(encoded);
        if end > encoded.len() {
            return None;
        }
        if end > start {
            batch.set_each(Some(EventHeaders::from_encoded(encoded.slice(start..end), ends)?));
        }
    }
    Some(batch)
}

/// End offsets of events `from..to` relative to their start, their start and end in the area.
fn ends_of(stored: &[u8], from: usize, to: usize, gap: usize) -> Option<(Vec<u32>, usize, usize)> {
    let end_at = |index: usize| Some(u32::from_le_bytes(*stored.get(4 * index..)?.first_chunk::<4>()?));
    let start = if from == 0 { 0 } else { (end_at(from - 1)? as usize).checked_add(gap)? };
    let start_u32 = u32::try_from(start).ok()?;
    let mut ends = Vec::with_capacity(to - from);
    for bytes in stored.get(4 * from..4 * to)?.chunks_exact(4) {
        ends.push(u32::from_le_bytes(*bytes.first_chunk::<4>()?).checked_sub(start_u32)?);
    }
    let end = match ends.last() {
        Some(last) => start.checked_add(*last as usize)?.checked_add(gap)?,
        None => start,
    };
    Some((ends, start, end))
}

fn headers(encoded: Bytes) -> Option<Headers> {
    let mut headers = Headers::new();
    let mut rest = encoded;
    while !rest.is_empty() {
        let key_size = u32::from_le_bytes(*rest.first_chunk::<4>()?) as usize;
        let value_size = u32::from_le_bytes(*rest.get(4..)?.first_chunk::<4>()?) as usize;
        let value_at = 8usize.checked_add(key_size)?;
        let end = value_at.checked_add(value_size).filter(|end| *end <= rest.len())?;
        headers.insert(
            Text::from_utf8_lossy(rest.slice(8..value_at)),
            Text::from_utf8_lossy(rest.slice(value_at..end)),
        );
        rest = rest.slice(end..);
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::BatchBuilder;

    fn encode(batch: &EventBatch) -> Vec<Bytes> {
        let mut parts = Vec::new();
        Part::split(batch, &mut parts);
        parts
            .iter()
            .map(|part| {
                let mut out = vec![0xee; part.size()];
                part.write(&mut out);
                out.into()
            })
            .collect()
    }

    fn sample(separator: Separator) -> EventBatch {
        let mut builder = BatchBuilder::new(separator);
        for i in 0..6 {
            builder.push("x".repeat(i).as_bytes());
            if i % 2 == 1 {
                builder.header("n", &i.to_string());
            }
        }
        builder.common_mut().insert("host", "web1");
        builder.common_mut().insert("empty", "");
        builder.finish()
    }

    fn same(a: &EventBatch, b: &EventBatch) {
        assert_eq!(a.bodies().collect::<Vec<_>>(), b.bodies().collect::<Vec<_>>());
        assert_eq!(a.area().2, b.area().2);
        for i in 0..a.len() {
            assert_eq!(a.headers(i).collect::<Vec<_>>(), b.headers(i).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_batch_comes_back_whole_and_in_parts() {
        for separator in [Separator::None, Separator::Newline] {
            let batch = sample(separator);
            let records = encode(&batch);
            assert_eq!(records.len(), 1);
            for from in 0..=6 {
                for to in from..=6 {
                    same(&decode(&records[0], from, to).unwrap(), &batch.slice(from, to));
                }
            }
        }
    }

    #[test]
    fn a_large_batch_is_cut_between_events() {
        let mut builder = BatchBuilder::new(Separator::Newline);
        let sizes = [100_000, 200_000, 300_000, 900_000, 10, 20, 400_000, 60_000];
        sizes.iter().for_each(|size| builder.push(&vec![b'a'; *size]));
        let batch = builder.finish();
        let records = encode(&batch);
        let counts: Vec<usize> =
            records.iter().map(|r| u32::from_le_bytes(r[4..8].try_into().unwrap()) as usize).collect();
        assert_eq!(counts, [2, 1, 1, 3, 1]);
        let mut at = 0;
        for (record, count) in records.iter().zip(counts) {
            same(&decode(record, 0, count).unwrap(), &batch.slice(at, at + count));
            at += count;
        }
    }

    #[test]
    fn hostile_bytes_are_refused_or_read_but_never_panic() {
        let good = encode(&sample(Separator::Newline)).remove(0);
        for cut in 0..good.len() {
            assert!(decode(&good.slice(..cut), 0, 6).is_none(), "cut at {cut}");
        }
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = good.to_vec();
                bytes[at] = value;
                let bytes = Bytes::from(bytes);
                for (from, to) in [(0, 6), (2, 4), (6, 6)] {
                    let _ = decode(&bytes, from, to);
                }
            }
        }
        assert!(decode(&good, 0, 7).is_none());
    }
}
