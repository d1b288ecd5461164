//! How blocks of an Avro container file are packed.
//!
//! Avro specification 1.11, "Object Container Files", "Required Codecs" and "Optional Codecs"; the levels are
//! those of Avro's Java library.

use std::borrow::Cow;
use std::io::{self, Read, Write};

/// What a container file begins with.
pub const MAGIC: &[u8] = b"Obj\x01";
/// Size of the marker behind every block.
pub const SYNC_BYTES: usize = 16;

/// Memory an xz block may ask for, in KiB: the largest preset's dictionary is 64 MiB.
const XZ_MEMORY_KIB: u32 = 128 * 1024;

/// A codec of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// `null`
    Null,
    /// `deflate`: raw deflate
    Deflate,
    /// `snappy`: with a CRC-32 behind it
    Snappy,
    /// `bzip2`
    Bzip2,
    /// `xz`
    Xz,
    /// `zstandard`
    Zstandard,
}

impl Packing {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Null, Self::Deflate, Self::Snappy, Self::Bzip2, Self::Xz, Self::Zstandard];
    /// Their names, for messages.
    pub const LIST: &str = "null, deflate, snappy, bzip2, xz and zstandard";

    /// Avro's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Deflate => "deflate",
            Self::Snappy => "snappy",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstandard => "zstandard",
        }
    }

    /// A block as it stands in the file.
    pub fn pack(self, block: &[u8]) -> Cow<'_, [u8]> {
        let room = || Vec::with_capacity(block.len() / 3 + 64);
        // Reading from and writing to memory does not fail.
        let done = |packed: io::Result<Vec<u8>>| {
            Cow::Owned(packed.unwrap_or_else(|e| panic!("packing {} bytes in memory: {e}", block.len())))
        };
        let read = |mut reader: Box<dyn Read + '_>| {
            let mut out = room();
            done(reader.read_to_end(&mut out).map(|_| out))
        };
        match self {
            Self::Null => Cow::Borrowed(block),
            Self::Deflate => {
                read(Box::new(flate2::read::DeflateEncoder::new(block, flate2::Compression::default())))
            }
            Self::Bzip2 => read(Box::new(bzip2::read::BzEncoder::new(block, bzip2::Compression::best()))),
            Self::Snappy => {
                let packed = snap::raw::Encoder::new().compress_vec(block).map_err(io::Error::other);
                done(packed.map(|mut packed| {
                    packed.extend_from_slice(&crc32fast::hash(block).to_be_bytes());
                    packed
                }))
            }
            Self::Xz => {
                let packed = lzma_rust2::XzWriter::new(room(), lzma_rust2::XzOptions::with_preset(6));
                done(packed.and_then(|mut writer| {
                    writer.write_all(block)?;
                    writer.finish()
                }))
            }
            Self::Zstandard => done(zstd::bulk::compress(block, 3)),
        }
    }

    /// The block behind the bytes in a file, if it has at most `bytes_max` bytes.
    ///
    /// # Errors
    /// What is damaged.
    pub fn unpack(self, packed: &[u8], bytes_max: usize) -> Result<Cow<'_, [u8]>, String> {
        let too_large = || format!("more than {} MiB unpacked", bytes_max >> 20);
        let read = |from: &mut dyn Read| {
            let mut data = Vec::new();
            from.take(bytes_max as u64 + 1).read_to_end(&mut data).map_err(|e| e.to_string())?;
            if data.len() > bytes_max {
                return Err(too_large());
            }
            Ok(Cow::Owned(data))
        };
        match self {
            Self::Null => Ok(Cow::Borrowed(packed)),
            Self::Deflate => read(&mut flate2::read::DeflateDecoder::new(packed)),
            Self::Bzip2 => read(&mut bzip2::read::BzDecoder::new(packed)),
            Self::Xz => read(&mut lzma_rust2::XzReader::new_mem_limit(packed, false, XZ_MEMORY_KIB)),
            Self::Zstandard => read(&mut zstd::Decoder::new(packed).map_err(|e| e.to_string())?),
            Self::Snappy => {
                let (packed, crc) = packed.split_last_chunk::<4>().ok_or("too short")?;
                let size = snap::raw::decompress_len(packed).map_err(|e| e.to_string())?;
                if size > bytes_max {
                    return Err(too_large());
                }
                let data = snap::raw::Decoder::new().decompress_vec(packed).map_err(|e| e.to_string())?;
                match crc32fast::hash(&data) == u32::from_be_bytes(*crc) {
                    true => Ok(Cow::Owned(data)),
                    false => Err("checksum".to_owned()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_and_are_bounded() {
        let block: Vec<u8> = (0..100_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        for packing in Packing::ALL {
            let packed = packing.pack(&block);
            assert_eq!(packing == Packing::Null, packed.len() == block.len(), "{packing:?}");
            assert_eq!(packing.unpack(&packed, block.len()).unwrap(), block, "{packing:?}");
            assert!(packing.unpack(&packing.pack(b""), 0).unwrap().is_empty(), "{packing:?}");
            if packing == Packing::Null {
                continue;
            }
            assert!(
                packing.unpack(&packed, block.len() - 1).unwrap_err().contains("more than"),
                "{packing:?}"
            );
            let mut damaged = packed.to_vec();
            damaged[packed.len() / 2] ^= 0x55;
            let found = packing.unpack(&damaged, block.len());
            // Neither deflate nor Avro's zstandard has a checksum.
            let unchecked = matches!(packing, Packing::Deflate | Packing::Zstandard);
            assert!(unchecked || found.is_err(), "{packing:?}");
            assert!(packing.unpack(&packed[..packed.len() / 2], block.len()).is_err(), "{packing:?}");
        }
    }

    #[test]
    fn an_xz_block_cannot_ask_for_all_memory() {
        // A dictionary of 1 GiB, announced by a block of no data.
        let mut options = lzma_rust2::XzOptions::with_preset(0);
        options.lzma_options.dict_size = 1 << 30;
        let mut head = Vec::new();
        let packed = Packing::Xz.pack(b"x");
        head.extend_from_slice(&packed);
        // Stream header 12 bytes, then: size, flags, filter id 0x21, size of properties 1, dictionary.
        assert_eq!(head[14..16], [0x21, 1]);
        head[16] = 38;
        let crc = crc32fast::hash(&head[12..20]).to_le_bytes();
        head[20..24].copy_from_slice(&crc);
        assert!(Packing::Xz.unpack(&head, 100).is_err());
        assert_eq!(Packing::Xz.unpack(&packed, 100).unwrap(), &b"x"[..]);
    }
}
