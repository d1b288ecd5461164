//! `TEXT`: each body, followed by a line feed.
//!
//! Flume: `org.apache.flume.serialization.BodyTextEventSerializer`. Bodies that already lie in memory with
//! their line feeds go out as they are, without being copied or looked at.

use super::output::{EventSerializer, Output};
use crate::config::{ParseContext, Property};
use crate::event::{EventBatch, Separator};

/// `appendNewline`
pub const APPEND_NEWLINE: Property<bool> =
    Property::optional("appendNewline", "true", "Whether a line feed follows each event.");

/// Options of the text serializers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `appendNewline`
    pub append_newline: bool,
}

/// Reads the options.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Options> {
    Some(Options { append_newline: cx.get(&APPEND_NEWLINE)? })
}

/// The serializer.
#[derive(Debug)]
pub struct Text {
    options: Options,
}

impl Text {
    /// A serializer for one file.
    pub fn new(options: Options) -> Self {
        Self { options }
    }
}

impl EventSerializer for Text {
    fn append(&mut self, batch: &EventBatch, from: usize, to: usize, out: &mut Output) {
        let (area, ends, separator) = batch.area();
        let wanted = if self.options.append_newline { Separator::Newline } else { Separator::None };
        if from == to {
            return;
        }
        if separator == wanted {
            let start = from.checked_sub(1).map_or(0, |last| ends[last] as usize + separator.size());
            let end = ends[to - 1] as usize + separator.size();
            return out.share(area.slice(start..end));
        }
        for index in from..to {
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
    use crate::event::BatchBuilder;

    #[test]
    fn bodies_with_and_without_line_feeds() {
        for separator in [Separator::None, Separator::Newline] {
            let mut builder = BatchBuilder::new(separator);
            ["a", "", "b\nc", "d"].iter().for_each(|b| builder.push(b.as_bytes()));
            let batch = builder.finish();
            for (append_newline, expected) in [(true, "\nb\nc\n"), (false, "b\nc")] {
                let mut out = Output::default();
                Text::new(Options { append_newline }).append(&batch, 1, 3, &mut out);
                assert_eq!(out.take().concat(), expected.as_bytes(), "{separator:?}");
            }
        }
    }

    #[test]
    fn lines_are_not_copied() {
        let mut builder = BatchBuilder::new(Separator::Newline);
        (0..2000).for_each(|i| builder.push(format!("line {i}").as_bytes()));
        let batch = builder.finish();
        let mut out = Output::default();
        Text::new(Options { append_newline: true }).append(&batch, 0, batch.len(), &mut out);
        let pieces = out.take();
        assert_eq!(pieces.len(), 1);
        assert_eq!(pieces[0].as_ptr(), batch.area().0.as_ptr());
    }
}
