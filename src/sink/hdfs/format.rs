//! What the bytes of a file are: a serializer's, the same compressed, or a SequenceFile.

use super::sequence_file::{SequenceFile, WriteFormat};
use crate::codec::hadoop_codec::HadoopCodec;
use crate::event::EventBatch;
use crate::io::Io;
use crate::serializer::output::{EventSerializer, Output, SerializerConfig};

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
    /// A writer for one file.
    pub fn build(&self, io: &Io) -> Encoder {
        let random = [io.random(), io.random()];
        match self {
            Self::DataStream(serializer) => Encoder::Data(serializer.build(random)),
            Self::CompressedStream(serializer, codec) => Encoder::Compressed {
                serializer: serializer.build(random),
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
