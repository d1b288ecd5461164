//! Compression as Hadoop's codecs frame it.
//!
//! gzip, zlib (`DefaultCodec`), bzip2 and Zstandard are whole members one after the other; Snappy and LZ4 are
//! blocks: uncompressed size, compressed size (both 32 bits, big-endian), data.
//! Hadoop: `org.apache.hadoop.io.compress.BlockCompressorStream`.

use std::io::Read;

/// A compression codec of Hadoop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HadoopCodec {
    /// `GzipCodec`
    Gzip,
    /// `DefaultCodec`: zlib
    Default,
    /// `DeflateCodec`: the same under another name
    Deflate,
    /// `BZip2Codec`
    Bzip2,
    /// `SnappyCodec`
    Snappy,
    /// `Lz4Codec`
    Lz4,
    /// `ZStandardCodec`
    Zstandard,
}

/// Data of one block of the block codecs: Hadoop's buffer of 256 KiB less what incompressible data may grow.
const BLOCK_BYTES: usize = 256 * 1024 - (256 * 1024 / 6 + 32);

impl HadoopCodec {
    const ALL: [Self; 7] =
        [Self::Gzip, Self::Default, Self::Deflate, Self::Bzip2, Self::Snappy, Self::Lz4, Self::Zstandard];

    /// Class name in Hadoop.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Gzip => "org.apache.hadoop.io.compress.GzipCodec",
            Self::Default => "org.apache.hadoop.io.compress.DefaultCodec",
            Self::Deflate => "org.apache.hadoop.io.compress.DeflateCodec",
            Self::Bzip2 => "org.apache.hadoop.io.compress.BZip2Codec",
            Self::Snappy => "org.apache.hadoop.io.compress.SnappyCodec",
            Self::Lz4 => "org.apache.hadoop.io.compress.Lz4Codec",
            Self::Zstandard => "org.apache.hadoop.io.compress.ZStandardCodec",
        }
    }
    /// Extension of its files.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Gzip => ".gz",
            Self::Default | Self::Deflate => ".deflate",
            Self::Bzip2 => ".bz2",
            Self::Snappy => ".snappy",
            Self::Lz4 => ".lz4",
            Self::Zstandard => ".zst",
        }
    }
    /// Finds a codec by its class name, the simple class name, or that without `Codec`, in any case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| {
            let class = codec.class();
            let simple = class.rsplit('.').next().unwrap_or(class);
            let short = simple.strip_suffix("Codec").unwrap_or(simple);
            [class, simple, short].iter().any(|known| known.eq_ignore_ascii_case(name))
        })
    }

    /// Compresses the pieces, as one stream, to a whole number of members or blocks.
    pub fn compress(self, pieces: &[&[u8]]) -> Vec<u8> {
        let mut input = Pieces { pieces, at: 0 };
        let mut out = Vec::new();
        let level = flate2::Compression::default();
        // Reading from memory and writing to memory do not fail.
        let done = match self {
            Self::Gzip => flate2::read::GzEncoder::new(input, level).read_to_end(&mut out).map(drop),
            Self::Default | Self::Deflate => {
                flate2::read::ZlibEncoder::new(input, level).read_to_end(&mut out).map(drop)
            }
            Self::Bzip2 => {
                bzip2::read::BzEncoder::new(input, bzip2::Compression::best()).read_to_end(&mut out).map(drop)
            }
            Self::Zstandard => zstd::stream::copy_encode(input, &mut out, 3),
            Self::Snappy | Self::Lz4 => {
                let mut block = Vec::with_capacity(BLOCK_BYTES);
                loop {
                    block.clear();
                    let _ = (&mut input).take(BLOCK_BYTES as u64).read_to_end(&mut block);
                    if block.is_empty() {
                        break Ok(());
                    }
                    let data = match self {
                        Self::Snappy => snap::raw::Encoder::new().compress_vec(&block).unwrap_or_default(),
                        _ => lz4_flex::block::compress(&block),
                    };
                    out.extend_from_slice(&(block.len() as u32).to_be_bytes());
                    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
                    out.extend_from_slice(&data);
                }
            }
        };
        done.unwrap_or_else(|e| panic!("compressing in memory: {e}"));
        out
    }
}

struct Pieces<'a> {
    pieces: &'a [&'a [u8]],
    at: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while let Some(piece) = self.pieces.first() {
            let rest = piece.get(self.at..).unwrap_or_default();
            if rest.is_empty() {
                self.pieces = &self.pieces[1..];
                self.at = 0;
                continue;
            }
            let size = rest.len().min(buf.len());
            buf[..size].copy_from_slice(&rest[..size]);
            self.at += size;
            return Ok(size);
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decompress(codec: HadoopCodec, mut data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match codec {
            HadoopCodec::Gzip => {
                flate2::read::MultiGzDecoder::new(data).read_to_end(&mut out).map(drop).unwrap()
            }
            HadoopCodec::Default | HadoopCodec::Deflate => {
                while !data.is_empty() {
                    flate2::bufread::ZlibDecoder::new(&mut data).read_to_end(&mut out).unwrap();
                }
            }
            HadoopCodec::Bzip2 => {
                bzip2::read::MultiBzDecoder::new(data).read_to_end(&mut out).map(drop).unwrap();
            }
            HadoopCodec::Zstandard => zstd::stream::copy_decode(data, &mut out).unwrap(),
            HadoopCodec::Snappy | HadoopCodec::Lz4 => {
                while let Some((sizes, rest)) = data.split_first_chunk::<8>() {
                    let size = u32::from_be_bytes(sizes[..4].try_into().unwrap()) as usize;
                    let packed = u32::from_be_bytes(sizes[4..].try_into().unwrap()) as usize;
                    let block = match codec {
                        HadoopCodec::Snappy => {
                            snap::raw::Decoder::new().decompress_vec(&rest[..packed]).unwrap()
                        }
                        _ => lz4_flex::block::decompress(&rest[..packed], size).unwrap(),
                    };
                    assert_eq!(block.len(), size);
                    out.extend(block);
                    data = &rest[packed..];
                }
            }
        }
        out
    }

    #[test]
    fn members_one_after_the_other_give_everything() {
        let large: Vec<u8> = (0..600_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        for codec in HadoopCodec::ALL {
            let mut file = codec.compress(&[b"hello ", b"", b"world\n"]);
            file.extend(codec.compress(&[&large]));
            let expected = [b"hello world\n".to_vec(), large.clone()].concat();
            assert_eq!(decompress(codec, &file), expected, "{codec:?}");
        }
    }

    #[test]
    fn names_as_flume_takes_them() {
        let table = [
            ("gzip", Some(HadoopCodec::Gzip)),
            ("GzipCodec", Some(HadoopCodec::Gzip)),
            ("org.apache.hadoop.io.compress.GzipCodec", Some(HadoopCodec::Gzip)),
            ("bzip2", Some(HadoopCodec::Bzip2)),
            ("SNAPPY", Some(HadoopCodec::Snappy)),
            ("deflate", Some(HadoopCodec::Deflate)),
            ("default", Some(HadoopCodec::Default)),
            ("lz4", Some(HadoopCodec::Lz4)),
            ("ZStandard", Some(HadoopCodec::Zstandard)),
            ("lzo", None),
            ("", None),
        ];
        for (name, codec) in table {
            assert_eq!(HadoopCodec::named(name), codec, "{name}");
        }
    }
}
