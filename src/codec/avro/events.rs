//! Flume's events as Avro datums, read straight into a [`BatchBuilder`] and written straight from an
//! [`EventBatch`]; nothing is allocated per event.
//!
//! `record AvroFlumeEvent { map<string> headers; bytes body; }`

use bytes::BytesMut;

use super::datum::{DatumError, Reader, put_bytes, put_long};
use crate::codec::headers::WireHeaders;
use crate::event::{BatchBuilder, EventBatch, Separator};

/// Reads one event and appends it.
///
/// # Errors
/// What is wrong with the bytes; the builder is unchanged then.
#[inline]
pub fn read_event(reader: &mut Reader<'_>, builder: &mut BatchBuilder) -> Result<(), DatumError> {
    let mut headers = WireHeaders::default();
    reader.map(|key, value| headers.insert(key, value))?;
    let body = reader.bytes()?;
    builder.push(body);
    headers.finish(builder);
    Ok(())
}

/// Reads one event as a batch.
///
/// # Errors
/// What is wrong with the bytes.
pub fn read_append(reader: &mut Reader<'_>) -> Result<EventBatch, DatumError> {
    let mut builder = BatchBuilder::new(Separator::None);
    read_event(reader, &mut builder)?;
    Ok(builder.finish())
}

/// Reads an array of events.
///
/// # Errors
/// What is wrong with the bytes.
pub fn read_append_batch(reader: &mut Reader<'_>) -> Result<EventBatch, DatumError> {
    let mut builder: Option<BatchBuilder> = None;
    loop {
        let count = reader.block()?;
        if count == 0 {
            return Ok(builder.map(BatchBuilder::finish).unwrap_or_default());
        }
        // An event takes at least two bytes, so a count beyond what is left is a lie.
        let left = reader.rest().len();
        let builder = builder.get_or_insert_with(|| {
            BatchBuilder::with_capacity(Separator::None, left, count.min(left / 2 + 1))
        });
        for _ in 0..count {
            read_event(reader, builder)?;
        }
    }
}

/// Writes event `index` of a batch.
#[inline]
pub fn put_event(out: &mut BytesMut, batch: &EventBatch, index: usize) {
    let count = batch.headers(index).count();
    if count > 0 {
        put_long(out, count as i64);
        for (key, value) in batch.headers(index) {
            put_bytes(out, key.as_bytes());
            put_bytes(out, value.as_bytes());
        }
    }
    put_long(out, 0);
    put_bytes(out, batch.body(index));
}

/// Writes all events of a batch as an array of one block.
pub fn put_append_batch(out: &mut BytesMut, batch: &EventBatch) {
    if !batch.is_empty() {
        put_long(out, batch.len() as i64);
        for index in 0..batch.len() {
            put_event(out, batch, index);
        }
    }
    put_long(out, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> EventBatch {
        let mut b = BatchBuilder::new(Separator::Newline);
        b.push(b"one");
        b.push("zw\u{f6}lf".as_bytes());
        b.header("k\u{e9}y", "v\u{e4}lue \u{20ac}");
        b.header("host", "own");
        b.push(b"");
        b.common_mut().insert("host", "web1");
        b.finish()
    }

    fn events(batch: &EventBatch) -> Vec<(Vec<(String, String)>, Vec<u8>)> {
        let headers = |i| {
            let mut h: Vec<_> = batch.headers(i).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            h.sort();
            h
        };
        (0..batch.len()).map(|i| (headers(i), batch.body(i).to_vec())).collect()
    }

    #[test]
    fn batches_come_back() {
        let batch = sample();
        let mut out = BytesMut::new();
        put_append_batch(&mut out, &batch);
        let mut reader = Reader::new(&out);
        let back = read_append_batch(&mut reader).unwrap();
        assert!(reader.is_empty());
        assert_eq!(events(&back), events(&batch));
        for cut in 0..out.len() {
            assert!(read_append_batch(&mut Reader::new(&out[..cut])).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn arrays_in_several_blocks() {
        // Two blocks, the second with a negative count and its size in bytes.
        let bytes = [2, 0, 2, b'a', 3, 12, 0, 2, b'b', 0, 2, b'c', 0];
        let batch = read_append_batch(&mut Reader::new(&bytes)).unwrap();
        assert_eq!(batch.bodies().collect::<Vec<_>>(), [b"a", b"b", b"c"]);
    }

    #[test]
    fn a_key_given_twice_counts_once() {
        for copies in [2usize, 40] {
            let mut out = BytesMut::new();
            put_long(&mut out, copies as i64);
            for copy in 0..copies {
                put_bytes(&mut out, b"k");
                put_bytes(&mut out, copy.to_string().as_bytes());
            }
            put_long(&mut out, 0);
            put_bytes(&mut out, b"body");
            let batch = read_append(&mut Reader::new(&out)).unwrap();
            let last = (copies - 1).to_string();
            assert_eq!(batch.headers(0).collect::<Vec<_>>(), [("k", last.as_str())]);
        }
    }

    #[test]
    fn lies_about_counts_cost_no_memory() {
        let mut out = BytesMut::new();
        put_long(&mut out, 1 << 40);
        assert_eq!(read_append_batch(&mut Reader::new(&out)).unwrap_err(), DatumError::End);
    }
}
