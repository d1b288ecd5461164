//! What the bytes of a file are: a serializer's, the same compressed, or a SequenceFile.

use std::rc::Rc;

use super::sequence_file::{SequenceFile, WriteFormat};
use crate::codec::hadoop_codec::HadoopCodec;
use crate::event::EventBatch;
use crate::io::Io;
use crate::serializer::config::{FileTraits, SerializerConfig};
use crate::serializer::output::{EventSerializer, Output};

/// `hdfs.fileType` with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// `DataStream`
    DataStream(SerializerConfig),
    /// `CompressedStream`
    CompressedStream(SerializerConfig, HadoopCodec),
    /// `SequenceFile`
    SequenceFile(WriteFormat, Option<HadoopCodec>),
}

impl FileFormat {
    /// The serializer, unless the file is a SequenceFile.
    pub fn serializer(&self) -> Option<&SerializerConfig> {
        match self {
            Self::DataStream(serializer) | Self::CompressedStream(serializer, _) => Some(serializer),
            Self::SequenceFile(..) => None,
        }
    }
    /// A writer for one file, whose events have this schema if the serializer needs one.
    pub fn build(&self, io: &Io, schema: Option<Rc<str>>) -> Encoder {
        let random = [io.random(), io.random()];
        let file = FileTraits { random, schema };
        match self {
            Self::DataStream(serializer) => Encoder::Data(serializer.build(file)),
            Self::CompressedStream(serializer, codec) => Encoder::Compressed {
                serializer: serializer.build(file),
                codec: *codec,
                plain: Output::default(),
            },
            Self::SequenceFile(values, codec) => {
                Encoder::Sequence(SequenceFile::new(*values, *codec, random))
            }
        }
    }
}

/// Writes one file.
pub enum Encoder {
    /// As the serializer writes.
    Data(Box<dyn EventSerializer>),
    /// Compressed: each flush ends a member, so that a file cut off there can be read.
    Compressed {
        /// Makes the bytes.
        serializer: Box<dyn EventSerializer>,
        /// Compresses them.
        codec: HadoopCodec,
        /// Not yet compressed.
        plain: Output,
    },
    /// A SequenceFile.
    Sequence(SequenceFile),
}

impl Encoder {
    /// Start of the file.
    pub fn begin(&mut self, out: &mut Output) {
        match self {
            Self::Data(serializer) => serializer.begin(out),
            Self::Compressed { serializer, plain, .. } => serializer.begin(plain),
            Self::Sequence(file) => file.begin(out),
        }
    }
    /// Appends events `from..to`; `unix_ms` is the time for events that say none.
    pub fn append(&mut self, batch: &EventBatch, from: usize, to: usize, unix_ms: i64, out: &mut Output) {
        match self {
            Self::Data(serializer) => serializer.append(batch, from, to, out),
            Self::Compressed { serializer, plain, .. } => serializer.append(batch, from, to, plain),
            Self::Sequence(file) => file.append(batch, from, to, unix_ms, out),
        }
    }
    /// Hands over everything: a file cut off here can be read up to here.
    pub fn flush(&mut self, out: &mut Output) {
        match self {
            Self::Data(serializer) => serializer.flush(out),
            Self::Compressed { serializer, codec, plain } => {
                serializer.flush(plain);
                if !plain.is_empty() {
                    let pieces = plain.take();
                    let pieces: Vec<&[u8]> = pieces.iter().map(AsRef::as_ref).collect();
                    out.share(codec.compress(&pieces).into());
                }
            }
            Self::Sequence(file) => file.flush(out),
        }
    }
}
