//! Cuts a byte stream into messages: at line feeds, or by the octet counts of RFC 6587 §3.4.1.
//!
//! A message that begins with a number, a blank and `<` is octet-counted (Flume knows lines only); any
//! other ends at a line feed. Empty lines are skipped, a carriage return before the line feed is part of
//! the line's end. A message longer than the event size comes in pieces of that size, the first of them
//! marked as cut, so that memory is bounded and nothing is lost.

/// A message, or a piece of one, in what was given to [`Framer::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it begins.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// It reached the event size: Flume's `Incomplete`.
    pub is_cut: bool,
}

/// Digits of an octet count: enough for the largest message anybody sends; more are no count.
const COUNT_DIGITS_MAX: usize = 10;

/// See the module's doc. Keeps what must be known between reads.
#[derive(Clone, Debug)]
pub struct Framer {
    event_size: usize,
    /// Bytes of the current octet-counted message not yet handed out.
    counted: usize,
    /// The line before was cut: what follows is the rest of it and has no count.
    in_line: bool,
}

impl Framer {
    /// Messages of `event_size` bytes and more are cut.
    pub fn new(event_size: usize) -> Self {
        Self { event_size: event_size.max(1), counted: 0, in_line: false }
    }

    /// The next message in `data` at or behind `at`, and where to go on; `None` if more must be read, with
    /// `at` moved to what must be kept.
    pub fn next(&mut self, data: &[u8], at: &mut usize) -> Option<Frame> {
        loop {
            let rest = data.get(*at..)?;
            if self.counted > 0 {
                let piece = self.counted.min(self.event_size);
                if rest.len() < piece {
                    return None;
                }
                let frame = Frame { start: *at, end: *at + piece, is_cut: self.counted > self.event_size };
                self.counted -= piece;
                *at += piece;
                return Some(frame);
            }
            match rest.first()? {
                b'\n' => {
                    self.in_line = false;
                    *at += 1;
                }
                b'1'..=b'9' if !self.in_line => match octet_count(rest) {
                    Count::Is(count, size) => {
                        self.counted = count;
                        *at += size;
                    }
                    Count::NeedsMore if rest.len() < self.event_size => return None,
                    Count::NeedsMore | Count::Not => return self.line(rest, at),
                },
                _ => return self.line(rest, at),
            }
        }
    }

    /// What is left when the stream has ended.
    pub fn last(&mut self, data: &[u8], at: &mut usize) -> Option<Frame> {
        if let Some(frame) = self.next(data, at) {
            return Some(frame);
        }
        let start = *at;
        *at = data.len();
        self.counted = 0;
        (start < data.len()).then_some(Frame { start, end: data.len(), is_cut: false })
    }

    fn line(&mut self, rest: &[u8], at: &mut usize) -> Option<Frame> {
        let window = &rest[..rest.len().min(self.event_size)];
        let start = *at;
        match memchr::memchr(b'\n', window) {
            Some(end) => {
                *at += end + 1;
                self.in_line = false;
                let end = if end > 0 && window[end - 1] == b'\r' { end - 1 } else { end };
                Some(Frame { start, end: start + end, is_cut: false })
            }
            None if window.len() == self.event_size => {
                *at += window.len();
                self.in_line = true;
                Some(Frame { start, end: *at, is_cut: true })
            }
            None => None,
        }
    }
}

enum Count {
    /// The count, and the bytes it takes with its blank.
    Is(usize, usize),
    NeedsMore,
    Not,
}

fn octet_count(rest: &[u8]) -> Count {
    let digits = rest.iter().take(COUNT_DIGITS_MAX + 1).take_while(|b| b.is_ascii_digit()).count();
    if digits > COUNT_DIGITS_MAX {
        return Count::Not;
    }
    match (rest.get(digits), rest.get(digits + 1)) {
        (None, _) | (Some(b' '), None) => Count::NeedsMore,
        (Some(b' '), Some(b'<')) => {
            let count = std::str::from_utf8(&rest[..digits]).ok().and_then(|text| text.parse().ok());
            count.map_or(Count::Not, |count| Count::Is(count, digits + 1))
        }
        _ => Count::Not,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of a stream that arrives in pieces of `size` bytes; `…` marks a cut one.
    fn frames(stream: &str, event_size: usize, size: usize) -> Vec<String> {
        let mut framer = Framer::new(event_size);
        let (mut buffer, mut found) = (Vec::new(), Vec::new());
        let mut show = |buffer: &[u8], frame: Frame| {
            let cut = if frame.is_cut { "…" } else { "" };
            found.push(format!("{}{cut}", String::from_utf8_lossy(&buffer[frame.start..frame.end])));
        };
        for piece in stream.as_bytes().chunks(size) {
            buffer.extend_from_slice(piece);
            let mut at = 0;
            while let Some(frame) = framer.next(&buffer, &mut at) {
                show(&buffer, frame);
            }
            buffer.drain(..at);
            assert!(buffer.len() <= event_size.max(COUNT_DIGITS_MAX + 2), "bounded");
        }
        let mut at = 0;
        while let Some(frame) = framer.last(&buffer, &mut at) {
            show(&buffer, frame);
        }
        found
    }

    #[test]
    fn streams_are_cut_the_same_however_they_arrive() {
        let table: &[(&str, &[&str])] = &[
            ("<1>a\n<2>b\n", &["<1>a", "<2>b"]),
            ("\n\n<1>a\r\n\n<2>b", &["<1>a", "<2>b"]),
            ("6 <1>a\nb6 <2>c\nd", &["<1>a\nb", "<2>c\nd"]),
            ("5 <1>ab<2>b\n", &["<1>ab", "<2>b"]),
            ("12345678\n<1>b\n", &["12345678", "<1>b"]),
            ("5 no\n", &["5 no"]),
            ("12345678901 <a\n", &["1234567890…", "1 <a"]),
            ("<1>3456789ab\n<2>", &["<1>3456789…", "ab", "<2>"]),
            ("<1>3456789\n<2>\n", &["<1>3456789…", "<2>"]),
        ];
        for (stream, expected) in table {
            for size in [1, 2, 3, 7, 100] {
                assert_eq!(frames(stream, 10, size), *expected, "{stream:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_counted_message_over_the_event_size_comes_in_pieces() {
        let stream = "22 <1>3456789012345678902<3>x\n";
        for size in [1, 4, 100] {
            assert_eq!(frames(stream, 10, size), ["<1>3456789…", "0123456789…", "02", "<3>x"], "{size}");
        }
    }

    #[test]
    fn a_count_beyond_all_reason_needs_no_memory() {
        let stream = format!("9999999999 <1>{}", "x".repeat(1000));
        let found = frames(&stream, 100, 64);
        assert_eq!(found.len(), 11);
        assert!(found[..10].iter().all(|frame| frame.ends_with('…')));
    }
}
