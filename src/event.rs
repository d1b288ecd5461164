//! Events and the batch they travel in.
//!
//! [`EventBatch`] is the unit everywhere between a source and a sink: the bodies back to back in one
//! shared buffer, an array of end offsets, the headers all events have in common once, and headers that
//! differ per event only if any do. An interceptor that sets one value for every event therefore costs
//! O(1), a text sink can write the body area verbatim, and nothing is allocated per event.
//!
//! Flume: `org.apache.flume.Event` (headers: a map of strings, body: bytes).

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// Longest body area of one batch, in bytes: offsets are `u32`.
pub const BODIES_BYTES_MAX: usize = u32::MAX as usize;

/// UTF-8 text in a shared buffer; cloning it copies no bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Text(Bytes);

impl Text {
    /// Text that lives as long as the program; allocates nothing.
    pub const fn from_static(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }

    /// Takes bytes that came from outside; malformed sequences become U+FFFD, as Java's decoder does.
    pub fn from_utf8_lossy(bytes: Bytes) -> Self {
        match String::from_utf8_lossy(&bytes) {
            Cow::Borrowed(_) => Self(bytes),
            Cow::Owned(text) => Self(Bytes::from(text)),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Constructed from str or checked above; the check is repeated instead of `unsafe`.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The text's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}
impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(Bytes::from(text))
    }
}
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Headers in insertion order. Small: looked up by scanning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Text, Text)>);

impl Headers {
    /// No headers; allocates nothing.
    pub const fn new() -> Self {
        Self(Vec::new())
    }
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k.as_bytes() == key.as_bytes()).map(|(_, v)| v.as_str())
    }
    /// Sets `key`, replacing an earlier value in place.
    pub fn insert(&mut self, key: impl Into<Text>, value: impl Into<Text>) {
        let (key, value) = (key.into(), value.into());
        match self.0.iter_mut().find(|(k, _)| *k == key) {
            Some(slot) => slot.1 = value,
            None => self.0.push((key, value)),
        }
    }
    /// Removes `key`; true if it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(k, _)| k.as_bytes() != key.as_bytes());
        self.0.len() != before
    }
    /// Keeps only the headers for which `keep(key, value)` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &str) -> bool) {
        self.0.retain(|(k, v)| keep(k.as_str(), v.as_str()));
    }
    /// Key and value of each header, in insertion order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
    /// Number of headers.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<Text>, V: Into<Text>> FromIterator<(K, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        let mut headers = Self::new();
        for (key, value) in iter {
            headers.insert(key, value);
        }
        headers
    }
}

/// Headers that differ between the events of a batch, all in one buffer.
///
/// Encoding of one header: key length (u32 LE), value length (u32 LE), key, value. `ends[i]` is where the
/// headers of event `i` end in `encoded`. The file channel stores both as they are.
#[derive(Clone, Debug, Default)]
pub struct EventHeaders {
    encoded: Bytes,
    ends: Vec<u32>,
}

impl EventHeaders {
    /// Takes encoded headers from outside.
    ///
    /// Returns `None` unless every entry lies within its event's range, is UTF-8, and the ends rise.
    pub fn from_encoded(encoded: Bytes, ends: Vec<u32>) -> Option<Self> {
        let mut at = 0usize;
        for &end in &ends {
            let end = end as usize;
            if end < at || end > encoded.len() {
                return None;
            }
            let mut rest = &encoded[at..end];
            while !rest.is_empty() {
                let (key, value, tail) = split_entry(rest)?;
                std::str::from_utf8(key).ok()?;
                std::str::from_utf8(value).ok()?;
                rest = tail;
            }
            at = end;
        }
        (at == encoded.len()).then_some(Self { encoded, ends })
    }

    /// The encoded area and the end offset of each event's part of it.
    pub fn as_encoded(&self) -> (&Bytes, &[u32]) {
        (&self.encoded, &self.ends)
    }

    fn range(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.encoded[start..self.ends[index] as usize]
    }

    /// Headers of event `index`, key and value.
    pub fn iter(&self, index: usize) -> EventHeadersIter<'_> {
        EventHeadersIter { rest: self.range(index) }
    }

    fn slice(&self, from: usize, to: usize) -> Self {
        let start = if from == 0 { 0 } else { self.ends[from - 1] };
        let end = if to == 0 { 0 } else { self.ends[to - 1] };
        Self {
            encoded: self.encoded.slice(start as usize..end.max(start) as usize),
            ends: self.ends[from..to].iter().map(|e| e - start).collect(),
        }
    }
}

fn split_entry(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (key_size, rest) = bytes.split_first_chunk::<4>()?;
    let (value_size, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_size) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_size) as usize)?;
    Some((key, value, rest))
}

/// Iterator over one event's own headers.
#[derive(Clone, Debug)]
pub struct EventHeadersIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for EventHeadersIter<'a> {
    type Item = (&'a str, &'a str);
    fn next(&mut self) -> Option<Self::Item> {
        let (key, value, rest) = split_entry(self.rest)?;
        self.rest = rest;
        Some((std::str::from_utf8(key).unwrap_or_default(), std::str::from_utf8(value).unwrap_or_default()))
    }
}

/// Builds [`EventHeaders`] in one pass over the events of a batch.
#[derive(Debug, Default)]
pub struct EventHeadersBuilder {
    encoded: BytesMut,
    ends: Vec<u32>,
}

impl EventHeadersBuilder {
    /// A builder with room for the headers of `events` events.
    pub fn with_capacity(events: usize) -> Self {
        Self { encoded: BytesMut::with_capacity(events * 32), ends: Vec::with_capacity(events) }
    }
    /// Adds a header to the current event. A key must not be added twice to one event.
    pub fn header(&mut self, key: &str, value: &str) {
        self.encoded.put_u32_le(key.len() as u32);
        self.encoded.put_u32_le(value.len() as u32);
        self.encoded.put_slice(key.as_bytes());
        self.encoded.put_slice(value.as_bytes());
    }
    /// Ends the current event's headers; the next call to [`Self::header`] belongs to the next event.
    pub fn end_event(&mut self) {
        self.ends.push(self.encoded.len() as u32);
    }
    /// Number of events ended so far.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
    /// True if no event was ended.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
    /// Bytes of headers so far.
    pub fn encoded_bytes(&self) -> usize {
        self.encoded.len()
    }
    /// The headers; `None` if no event has any.
    pub fn finish(self) -> Option<EventHeaders> {
        (!self.encoded.is_empty()).then(|| EventHeaders { encoded: self.encoded.freeze(), ends: self.ends })
    }
}

/// What follows each body in the body area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Separator {
    /// Nothing: bodies touch.
    #[default]
    None,
    /// One line feed, as the source read it.
    Newline,
}

impl Separator {
    /// Size in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::None => 0,
            Self::Newline => 1,
        }
    }
}

/// What a source needs to resume behind the events of a batch; committed atomically with them.
///
/// Flume keeps such positions in files beside the channel (`taildir_position.json`), so that a crash
/// between the two repeats events. Here they travel in the same frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceMark {
    /// Name of the source component.
    pub source: Text,
    /// What the position belongs to, for example device and inode of a file.
    pub key: Bytes,
    /// The position, in the source's own encoding. Empty = forget this key.
    pub value: Bytes,
}

/// A run of events; see the module's doc.
#[derive(Clone, Debug, Default)]
pub struct EventBatch {
    bodies: Bytes,
    ends: Vec<u32>,
    separator: Separator,
    common: Headers,
    each: Option<EventHeaders>,
    marks: Vec<SourceMark>,
}

impl EventBatch {
    /// A batch over bodies that already lie back to back.
    ///
    /// `ends[i]` is where body `i` ends, separator excluded; body `i + 1` starts behind the separator.
    ///
    /// # Errors
    /// `None` if the ends do not rise or do not account for the whole area.
    pub fn from_parts(bodies: Bytes, ends: Vec<u32>, separator: Separator) -> Option<Self> {
        let mut at = 0usize;
        for &end in &ends {
            if (end as usize) < at {
                return None;
            }
            at = end as usize + separator.size();
        }
        (at == bodies.len()).then(|| Self { bodies, ends, separator, ..Self::default() })
    }

    /// One event with these headers.
    pub fn single(headers: Headers, body: impl Into<Bytes>) -> Self {
        let bodies = body.into();
        let ends = vec![bodies.len() as u32];
        Self { bodies, ends, common: headers, ..Self::default() }
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
    /// True if it holds no event (it may still carry marks).
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
    /// Sum of the body sizes in bytes, separators excluded.
    pub fn body_bytes(&self) -> u64 {
        (self.bodies.len() - self.separator.size() * self.len()) as u64
    }
    /// Bytes this batch keeps in memory or would store, about.
    pub fn size_bytes(&self) -> usize {
        let each = self.each.as_ref().map_or(0, |e| e.encoded.len() + 4 * e.ends.len());
        self.bodies.len() + 4 * self.ends.len() + each
    }

    fn body_range(&self, index: usize) -> std::ops::Range<usize> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize + self.separator.size() };
        start..self.ends[index] as usize
    }
    /// Body of event `index`. Panics if there is no such event.
    pub fn body(&self, index: usize) -> &[u8] {
        &self.bodies[self.body_range(index)]
    }
    /// Body of event `index` as a shared buffer; copies nothing.
    pub fn body_shared(&self, index: usize) -> Bytes {
        self.bodies.slice(self.body_range(index))
    }
    /// All bodies in order.
    pub fn bodies(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.body(i))
    }
    /// The body area as it is, separators included, with its end offsets.
    pub fn area(&self) -> (&Bytes, &[u32], Separator) {
        (&self.bodies, &self.ends, self.separator)
    }
    /// The body area if every body is followed by a line feed, so that it can be written verbatim.
    pub fn as_lines(&self) -> Option<&Bytes> {
        (self.separator == Separator::Newline).then_some(&self.bodies)
    }

    /// Headers that every event has unless it has its own of that name.
    pub fn common(&self) -> &Headers {
        &self.common
    }
    /// The same, to change. Prefer [`Self::set_header`], which also minds events' own headers.
    pub fn common_mut(&mut self) -> &mut Headers {
        &mut self.common
    }
    /// Headers that differ per event.
    pub fn each(&self) -> Option<&EventHeaders> {
        self.each.as_ref()
    }
    /// Replaces the headers that differ per event.
    ///
    /// # Panics
    /// If they are not for as many events as the batch holds.
    pub fn set_each(&mut self, each: Option<EventHeaders>) {
        assert!(
            each.as_ref().is_none_or(|e| e.ends.len() == self.len()),
            "headers for another number of events"
        );
        self.each = each;
    }
    /// Value of header `key` of event `index`.
    pub fn header(&self, index: usize, key: &str) -> Option<&str> {
        let own = self.each.as_ref().and_then(|e| e.iter(index).find(|(k, _)| *k == key));
        own.map(|(_, v)| v).or_else(|| self.common.get(key))
    }
    /// All headers of event `index`: its own first, then the common ones that it does not override.
    pub fn headers(&self, index: usize) -> impl Iterator<Item = (&str, &str)> {
        let own = self.each.as_ref().map_or(EventHeadersIter { rest: &[] }, |e| e.iter(index));
        let overridden = own.clone();
        own.chain(self.common.iter().filter(move |(k, _)| !overridden.clone().any(|(own, _)| own == *k)))
    }
    /// True if `key` has one value for the whole batch: O(1) work per batch is enough then.
    pub fn is_common(&self, key: &str) -> bool {
        self.each.as_ref().is_none_or(|e| (0..self.len()).all(|i| !e.iter(i).any(|(k, _)| k == key)))
    }
    /// Sets `key` on every event. With `preserve_existing` events that have it keep their value.
    ///
    /// O(1) unless events have headers of their own.
    pub fn set_header(&mut self, key: &str, value: &str, preserve_existing: bool) {
        if !self.is_common(key) {
            // Some events have their own value, others take the common one or none.
            if preserve_existing {
                if self.common.get(key).is_none() {
                    self.common.insert(key, value);
                }
                return;
            }
            self.remove_own(|k, _| k != key);
        } else if preserve_existing && self.common.get(key).is_some() {
            return;
        }
        self.common.insert(key, value);
    }
    /// Removes every header for which `keep(key, value)` is false, from every event.
    pub fn retain_headers(&mut self, mut keep: impl FnMut(&str, &str) -> bool) {
        self.common.retain(&mut keep);
        self.remove_own(keep);
    }
    fn remove_own(&mut self, mut keep: impl FnMut(&str, &str) -> bool) {
        let Some(each) = self.each.take() else { return };
        let mut builder = EventHeadersBuilder::with_capacity(self.len());
        for index in 0..self.len() {
            each.iter(index).filter(|(k, v)| keep(k, v)).for_each(|(k, v)| builder.header(k, v));
            builder.end_event();
        }
        self.each = builder.finish();
    }

    /// What the sources need to resume behind this batch.
    pub fn marks(&self) -> &[SourceMark] {
        &self.marks
    }
    /// Adds a mark, replacing an earlier one for the same source and key.
    pub fn set_mark(&mut self, mark: SourceMark) {
        self.marks.retain(|m| m.source != mark.source || m.key != mark.key);
        self.marks.push(mark);
    }
    /// Removes and returns the marks.
    pub fn take_marks(&mut self) -> Vec<SourceMark> {
        std::mem::take(&mut self.marks)
    }

    /// Drops the events for which `keep(index)` is false. Copies the kept bodies unless all are kept.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let kept: Vec<usize> = (0..self.len()).filter(|&i| keep(i)).collect();
        if kept.len() != self.len() {
            *self = self.select(&kept);
        }
    }
    /// A batch of the events at these indices, in this order, with the same common headers and marks.
    pub fn select(&self, indices: &[usize]) -> Self {
        let bytes = indices.iter().map(|&index| self.body_range(index).len() + self.separator.size()).sum();
        let mut builder = BatchBuilder::with_capacity(self.separator, bytes, indices.len());
        for &index in indices {
            builder.push(self.body(index));
            if let Some(each) = &self.each {
                each.iter(index).for_each(|(k, v)| builder.header(k, v));
            }
        }
        let mut batch = builder.finish();
        batch.common = self.common.clone();
        batch.marks = self.marks.clone();
        batch
    }
    /// Events `from..to` as a batch of their own; bodies are shared, not copied. Marks stay behind.
    pub fn slice(&self, from: usize, to: usize) -> Self {
        let start = if from == 0 { 0 } else { self.ends[from - 1] as usize + self.separator.size() };
        let end = if to == from { start } else { self.ends[to - 1] as usize + self.separator.size() };
        Self {
            bodies: self.bodies.slice(start..end),
            ends: self.ends[from..to].iter().map(|e| e - start as u32).collect(),
            separator: self.separator,
            common: self.common.clone(),
            each: self.each.as_ref().map(|e| e.slice(from, to)),
            marks: Vec::new(),
        }
    }
    /// Splits off the first `count` events (all if there are fewer); `self` keeps the rest and the marks.
    pub fn split_to(&mut self, count: usize) -> Self {
        if count >= self.len() {
            let marks = self.take_marks();
            let mut rest = Self { separator: self.separator, common: self.common.clone(), ..Self::default() };
            rest.marks = marks;
            return std::mem::replace(self, rest);
        }
        let head = self.slice(0, count);
        let marks = self.take_marks();
        *self = self.slice(count, self.len());
        self.marks = marks;
        head
    }
    /// One batch of all events, in order. Copies the bodies unless there is only one part. Marks are left
    /// out: this is for sinks.
    pub fn concat(mut parts: Vec<Self>) -> Self {
        if parts.len() <= 1 {
            return parts.pop().unwrap_or_default();
        }
        let (separator, common) = parts.first().map(|p| (p.separator, p.common.clone())).unwrap_or_default();
        let alike = parts.iter().all(|p| p.common == common);
        let bytes = parts.iter().map(|p| p.bodies.len()).sum();
        if alike && parts.iter().all(|p| p.separator == separator && p.each.is_none()) {
            // One area behind the other.
            let mut area = BytesMut::with_capacity(bytes);
            let mut ends = Vec::with_capacity(parts.iter().map(Self::len).sum());
            for part in &parts {
                let start = area.len() as u32;
                area.extend_from_slice(&part.bodies);
                ends.extend(part.ends.iter().map(|end| start + end));
            }
            let joined = Self::from_parts(area.freeze(), ends, separator);
            return joined.map(|joined| Self { common, ..joined }).unwrap_or_default();
        }
        let mut builder = BatchBuilder::with_capacity(separator, bytes, parts.iter().map(Self::len).sum());
        for part in &parts {
            for (index, body) in part.bodies().enumerate() {
                builder.push(body);
                if alike {
                    let own = part.each.iter().flat_map(|e| e.iter(index));
                    own.for_each(|(k, v)| builder.header(k, v));
                } else {
                    part.headers(index).for_each(|(k, v)| builder.header(k, v));
                }
            }
        }
        if alike {
            *builder.common_mut() = common;
        }
        builder.finish()
    }
    /// Replaces every body by what `edit` appends for it to the new area. Keeps headers and marks.
    pub fn map_bodies(&mut self, mut edit: impl FnMut(&[u8], &mut BytesMut)) {
        let mut area = BytesMut::with_capacity(self.bodies.len());
        let mut ends = Vec::with_capacity(self.len());
        for body in self.bodies() {
            edit(body, &mut area);
            ends.push(area.len() as u32);
            if self.separator == Separator::Newline {
                area.put_u8(b'\n');
            }
        }
        self.bodies = area.freeze();
        self.ends = ends;
    }
}

/// Builds a batch by copying bodies into one buffer.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    area: BytesMut,
    ends: Vec<u32>,
    separator: Separator,
    each: EventHeadersBuilder,
    has_each: bool,
    common: Headers,
}

impl BatchBuilder {
    /// An empty builder; [`Separator::Newline`] for sources that read lines.
    pub fn new(separator: Separator) -> Self {
        Self { separator, ..Self::default() }
    }
    /// An empty builder with room for this many bytes of bodies and this many events.
    pub fn with_capacity(separator: Separator, bytes: usize, events: usize) -> Self {
        Self {
            area: BytesMut::with_capacity(bytes),
            ends: Vec::with_capacity(events),
            separator,
            ..Self::default()
        }
    }
    /// Number of events so far.
    pub fn len(&self) -> usize {
        self.ends.len()
    }
    /// True before the first event.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
    /// Bytes of bodies and separators so far.
    pub fn area_bytes(&self) -> usize {
        self.area.len()
    }
    /// Adds an event. Headers of its own follow by [`Self::header`].
    ///
    /// # Panics
    /// If the area would exceed [`BODIES_BYTES_MAX`].
    pub fn push(&mut self, body: &[u8]) {
        self.close_event();
        assert!(self.area.len() + body.len() < BODIES_BYTES_MAX, "body area over 4 GiB");
        self.area.put_slice(body);
        self.ends.push(self.area.len() as u32);
        if self.separator == Separator::Newline {
            self.area.put_u8(b'\n');
        }
    }
    /// Gives the event pushed last a header of its own. A key must not be given twice.
    pub fn header(&mut self, key: &str, value: &str) {
        if !self.has_each {
            self.has_each = true;
            for _ in 1..self.ends.len() {
                self.each.end_event();
            }
        }
        self.each.header(key, value);
    }
    /// Headers for every event of the batch.
    pub fn common_mut(&mut self) -> &mut Headers {
        &mut self.common
    }
    fn close_event(&mut self) {
        if self.has_each && self.each.len() < self.ends.len() {
            self.each.end_event();
        }
    }
    /// The batch.
    pub fn finish(mut self) -> EventBatch {
        self.close_event();
        EventBatch {
            bodies: self.area.freeze(),
            ends: self.ends,
            separator: self.separator,
            common: self.common,
            each: if self.has_each { self.each.finish() } else { None },
            marks: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> EventBatch {
        let mut b = BatchBuilder::new(Separator::Newline);
        for i in 0..5 {
            b.push(format!("line {i}").as_bytes());
            if i % 2 == 1 {
                b.header("n", &i.to_string());
            }
        }
        b.common_mut().insert("host", "web1");
        b.finish()
    }

    #[test]
    fn bodies_and_headers_come_back() {
        let batch = sample();
        assert_eq!(batch.len(), 5);
        assert_eq!(batch.body(3), b"line 3");
        assert_eq!(batch.as_lines().unwrap().as_ref(), b"line 0\nline 1\nline 2\nline 3\nline 4\n");
        assert_eq!(batch.header(1, "n"), Some("1"));
        assert_eq!(batch.header(2, "n"), None);
        assert_eq!(batch.headers(3).collect::<Vec<_>>(), [("n", "3"), ("host", "web1")]);
        assert_eq!(batch.body_bytes(), 30);
    }

    #[test]
    fn split_keeps_offsets_headers_and_marks() {
        let mut rest = sample();
        let mark = SourceMark {
            source: "r1".into(),
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"9"),
        };
        rest.set_mark(mark.clone());
        let head = rest.split_to(2);
        assert_eq!(head.bodies().collect::<Vec<_>>(), [b"line 0", b"line 1"]);
        assert_eq!(rest.bodies().collect::<Vec<_>>(), [b"line 2", b"line 3", b"line 4"]);
        assert_eq!((head.header(1, "n"), rest.header(1, "n")), (Some("1"), Some("3")));
        assert!(head.marks().is_empty());
        assert_eq!(rest.marks(), [mark]);
        let tail = rest.split_to(99);
        assert_eq!((tail.len(), rest.len(), rest.marks().len()), (3, 0, 1));
    }

    #[test]
    fn retain_compacts() {
        let mut batch = sample();
        batch.retain(|i| i != 2);
        assert_eq!(batch.as_lines().unwrap().as_ref(), b"line 0\nline 1\nline 3\nline 4\n");
        assert_eq!(batch.header(2, "n"), Some("3"));
        assert_eq!(batch.header(2, "host"), Some("web1"));
    }

    #[test]
    fn set_header_minds_own_values() {
        let mut batch = sample();
        batch.set_header("n", "x", true);
        assert_eq!((batch.header(0, "n"), batch.header(1, "n")), (Some("x"), Some("1")));
        batch.set_header("n", "y", false);
        assert!((0..5).all(|i| batch.header(i, "n") == Some("y")));
        batch.set_header("host", "web2", true);
        assert_eq!(batch.header(0, "host"), Some("web1"));
    }

    #[test]
    fn concat_keeps_order_and_headers() {
        let mut other = sample();
        other.common_mut().insert("host", "web2");
        for (second, host) in [(sample(), "web1"), (other, "web2")] {
            let all = EventBatch::concat(vec![sample(), second]);
            assert_eq!((all.len(), all.body(4), all.body(5)), (10, &b"line 4"[..], &b"line 0"[..]));
            assert_eq!((all.header(0, "host"), all.header(6, "host")), (Some("web1"), Some(host)));
            assert_eq!(
                (all.header(1, "n"), all.header(5, "n"), all.header(8, "n")),
                (Some("1"), None, Some("3"))
            );
        }
        assert!(EventBatch::concat(Vec::new()).is_empty());
    }

    #[test]
    fn parts_from_outside_are_checked() {
        let area = || Bytes::from_static(b"ab\ncd\n");
        assert!(EventBatch::from_parts(area(), vec![2, 5], Separator::Newline).is_some());
        assert!(EventBatch::from_parts(area(), vec![5, 2], Separator::Newline).is_none());
        assert!(EventBatch::from_parts(area(), vec![2], Separator::Newline).is_none());
        assert!(
            EventHeaders::from_encoded(Bytes::from_static(&[1, 0, 0, 0, 9, 0, 0, 0, b'k']), vec![9])
                .is_none()
        );
    }

    #[test]
    fn select_and_map() {
        let mut batch = sample().select(&[4, 1]);
        assert_eq!(batch.header(1, "n"), Some("1"));
        batch.map_bodies(|b, out| out.extend_from_slice(&b[5..]));
        assert_eq!(batch.as_lines().unwrap().as_ref(), b"4\n1\n");
    }
}
