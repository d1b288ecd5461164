//! `BlobDeserializer`: one event per chunk of a file, most often the whole file.
//!
//! Flume: `org.apache.flume.sink.solr.morphline.BlobDeserializer`.

use super::{BadFile, Deserializer, Place};
use crate::event::BatchBuilder;

/// Cuts chunks of this size.
#[derive(Debug)]
pub struct Chunks(pub usize);

impl Deserializer for Chunks {
    fn start(&self) -> Place {
        Place::default()
    }
    fn window_max(&self) -> usize {
        self.0
    }
    fn cut(
        &mut self,
        window: &[u8],
        place: Place,
        at_end: bool,
        batch: &mut BatchBuilder,
        places: &mut Vec<Place>,
    ) -> Result<(), BadFile> {
        let mut offset = place.offset;
        for chunk in window.chunks(self.0) {
            if chunk.len() < self.0 && !at_end {
                break;
            }
            offset += chunk.len() as u64;
            batch.push(chunk);
            places.push(Place { offset, inner: 0 });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_full_but_the_last() {
        let mut batch = BatchBuilder::default();
        let mut places = Vec::new();
        let place = Place { offset: 10, inner: 0 };
        Chunks(4).cut(b"abc", place, false, &mut batch, &mut places).unwrap();
        assert!(places.is_empty());
        Chunks(4).cut(b"abcdefgh12", place, true, &mut batch, &mut places).unwrap();
        assert_eq!(batch.finish().bodies().collect::<Vec<_>>(), [&b"abcd"[..], b"efgh", b"12"]);
        assert_eq!(places.iter().map(|p| p.offset).collect::<Vec<_>>(), [14, 18, 20]);
    }
}
