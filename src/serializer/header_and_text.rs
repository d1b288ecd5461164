//! `HEADER_AND_TEXT`: headers as Java prints a map, a blank, the body, a line feed.
//!
//! Flume: `org.apache.flume.serialization.HeaderAndBodyTextEventSerializer`.

use super::output::{EventSerializer, Output};
use super::text::Options;
use crate::codec::java_map;
use crate::event::EventBatch;

/// The serializer.
#[derive(Debug)]
pub struct HeaderAndText {
    options: Options,
    headers: String,
}

impl HeaderAndText {
    /// A serializer for one file.
    pub fn new(options: Options) -> Self {
        Self { options, headers: String::new() }
    }
}

impl EventSerializer for HeaderAndText {
    fn append(&mut self, batch: &EventBatch, from: usize, to: usize, out: &mut Output) {
        for index in from..to {
            // Headers that are common to the batch are written out once.
            if batch.each().is_some() || index == from {
                self.headers.clear();
                java_map::write(batch.headers(index), &mut self.headers);
            }
            out.put(self.headers.as_bytes());
            out.put(b" ");
            out.put(batch.body(index));
            if self.options.append_newline {
                out.put(b"\n");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{BatchBuilder, Separator};

    #[test]
    fn headers_come_first() {
        let mut builder = BatchBuilder::new(Separator::None);
        builder.push(b"one");
        builder.push(b"two");
        builder.header("a", "2");
        builder.common_mut().insert("b", "1");
        let mut out = Output::default();
        HeaderAndText::new(Options { append_newline: true }).append(&builder.finish(), 0, 2, &mut out);
        assert_eq!(out.take().concat(), b"{b=1} one\n{a=2, b=1} two\n");
    }
}
