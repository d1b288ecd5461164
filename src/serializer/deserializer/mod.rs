//! Deserializers: a file's bytes to events.
//!
//! Flume: `org.apache.flume.serialization.EventDeserializer`. They are given windows of the file and do no
//! I/O themselves, so that every event has a position in the file behind it.

use crate::codec::charset::Charset;
use crate::codec::charset_lines::OnMalformed;
use crate::event::BatchBuilder;

pub mod avro;
pub mod blob;
pub mod line;

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// In bytes.
    pub offset: u64,
    /// Events already read behind that offset: formats in blocks have no offset of each event.
    pub inner: u32,
}

/// Why a file cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadFile(pub String);

/// Which deserializer, and its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// One event per line.
    Line(line::LineOptions),
    /// One event per datum of an Avro container.
    Avro(avro::SchemaHeader),
    /// One event per chunk of the file.
    Blob(usize),
}

/// How the bytes of text files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextInput {
    /// Character set of the file.
    pub charset: Charset,
    /// What to do with bytes that are no text.
    pub on_malformed: OnMalformed,
}

impl Format {
    /// A deserializer for one file, which begins with these bytes ([`FIRST_BYTES`] of them if it is as long).
    ///
    /// # Errors
    /// The file is not of this format.
    pub fn begin(&self, text: TextInput, first: &[u8]) -> Result<Box<dyn Deserializer>, BadFile> {
        Ok(match self {
            Self::Line(options) => Box::new(line::Lines::begin(*options, text, first)),
            Self::Avro(header) => Box::new(avro::Container::begin(*header, first)?),
            Self::Blob(size) => Box::new(blob::Chunks(*size)),
        })
    }
}

/// Bytes of a file's beginning a deserializer may look at: room for an Avro schema.
pub const FIRST_BYTES: usize = 1024 * 1024;

/// Reads one file.
pub trait Deserializer {
    /// Where the first event begins.
    fn start(&self) -> Place;
    /// Bytes a window must grow to before giving up on one event.
    fn window_max(&self) -> usize;
    /// Cuts events off the front of a window that begins at `place`; pushes each event and the place behind
    /// it. Pushes nothing if the window is too small for one event and not `at_end`.
    ///
    /// # Errors
    /// The file cannot be read on; events pushed before count.
    fn cut(
        &mut self,
        window: &[u8],
        place: Place,
        at_end: bool,
        batch: &mut BatchBuilder,
        places: &mut Vec<Place>,
    ) -> Result<(), BadFile>;
}
