//! Headers of one event from the wire, where a key may occur twice.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::event::BatchBuilder;

/// Headers that are checked for doubles by scanning; a map is built for more.
const SCANNED_MAX: usize = 16;

/// Collects the headers of one event: the last value of a key counts, as in a Java map, and malformed UTF-8
/// becomes U+FFFD. Allocates nothing for up to 16 well-formed headers.
pub struct WireHeaders<'a> {
    few: [(Cow<'a, str>, &'a [u8]); SCANNED_MAX],
    used: usize,
    many: Option<HashMap<Cow<'a, str>, &'a [u8]>>,
}

impl Default for WireHeaders<'_> {
    fn default() -> Self {
        Self { few: std::array::from_fn(|_| (Cow::Borrowed(""), &[][..])), used: 0, many: None }
    }
}

impl<'a> WireHeaders<'a> {
    /// Adds a header.
    #[inline]
    pub fn insert(&mut self, key: &'a [u8], value: &'a [u8]) {
        let key = String::from_utf8_lossy(key);
        if let Some(many) = &mut self.many {
            many.insert(key, value);
            return;
        }
        let place = self.few.iter().take(self.used).position(|(k, _)| *k == key).unwrap_or(self.used);
        match self.few.get_mut(place) {
            Some(slot) => {
                *slot = (key, value);
                self.used = self.used.max(place + 1);
            }
            None => {
                let mut many: HashMap<_, _> = self.few.iter_mut().map(std::mem::take).collect();
                many.insert(key, value);
                self.many = Some(many);
            }
        }
    }
    /// Gives them to the event pushed last.
    #[inline]
    pub fn finish(self, builder: &mut BatchBuilder) {
        let put = |builder: &mut BatchBuilder, key: &str, value: &[u8]| {
            builder.header(key, &String::from_utf8_lossy(value));
        };
        match self.many {
            None => self.few.iter().take(self.used).for_each(|(k, v)| put(builder, k, v)),
            Some(many) => many.iter().for_each(|(k, v)| put(builder, k, v)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_key_counts() {
        for keys in [1usize, 3, 16, 17, 100] {
            let names: Vec<String> = (0..keys).map(|k| format!("k{k}")).collect();
            let mut headers = WireHeaders::default();
            for round in [&b"first"[..], b"last"] {
                names.iter().for_each(|name| headers.insert(name.as_bytes(), round));
            }
            let mut builder = BatchBuilder::default();
            builder.push(b"");
            headers.finish(&mut builder);
            let batch = builder.finish();
            assert_eq!(batch.headers(0).count(), keys);
            assert!(batch.headers(0).all(|(_, v)| v == "last"));
        }
    }

    #[test]
    fn malformed_keys_that_look_alike_are_one() {
        let mut headers = WireHeaders::default();
        headers.insert(b"k\xff", b"1");
        headers.insert(b"k\xfe", b"\xff2");
        let mut builder = BatchBuilder::default();
        builder.push(b"");
        headers.finish(&mut builder);
        assert_eq!(builder.finish().headers(0).collect::<Vec<_>>(), [("k\u{fffd}", "\u{fffd}2")]);
    }
}
