//! Entry points for fuzzing: every parser of foreign bytes, as a function of bytes that must not panic.
//!
//! `fuzz/` drives them with libFuzzer; `tests/it/fuzz_corpus.rs` replays the corpora (`fuzz/corpus/<name>/`)
//! in every test run. A new parser is a function here, a row in [`TARGETS`], a file of two lines in
//! `fuzz/fuzz_targets/`, and a few files of corpus.

use bytes::Bytes;

use crate::event::EventHeaders;

/// Name of each target, and what it does with the bytes.
pub const TARGETS: &[(&str, fn(&[u8]))] = &[("event_headers", event_headers)];

/// Headers of events as a file channel stores them.
pub fn event_headers(data: &[u8]) {
    let (ends, encoded) = data.split_at(data.len().min(8));
    let ends: Vec<u32> = ends.chunks_exact(2).map(|c| u32::from(c[0]) | u32::from(c[1]) << 8).collect();
    if let Some(headers) = EventHeaders::from_encoded(Bytes::copy_from_slice(encoded), ends.clone()) {
        for index in 0..ends.len() {
            headers.iter(index).for_each(drop);
        }
    }
}
