//! Entry points for fuzzing: every parser of foreign bytes, as a function of bytes that must not panic.
//!
//! `fuzz/` drives them with libFuzzer; `tests/it/fuzz_corpus.rs` replays the corpora (`fuzz/corpus/<name>/`)
//! in every test run. A new parser is a function here, a row in [`TARGETS`], a file of two lines in
//! `fuzz/fuzz_targets/`, and a few files of corpus.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::codec::avro::legacy::{Known, OldAvroServer};
use crate::codec::avro::protocol::Offer;
use crate::codec::avro::session::{AvroClient, AvroServer};
use crate::codec::columns::ColumnsDecoder;
use crate::codec::rpc::{Inbound, Outcome, ServerSession};
use crate::codec::thrift::message::ThriftServer;
use crate::codec::thrift::scribe::{OldThriftServer, ScribeServer};
use crate::codec::thrift::value::Wire;
use crate::event::{EventBatch, EventHeaders};

mod wal;

pub use wal::{wal_frame, wal_recovery};

/// Name of each target, and what it does with the bytes.
pub const TARGETS: &[(&str, fn(&[u8]))] = &[
    ("event_headers", event_headers),
    ("wal_frame", wal_frame),
    ("wal_recovery", wal_recovery),
    ("flume_file_channel", flume_file_channel),
    ("avro_server", avro_server),
    ("avro_client", avro_client),
    ("columns", columns),
    ("thrift_server", thrift_server),
    ("scribe_server", scribe_server),
    ("legacy_servers", legacy_servers),
    ("keystore", keystore),
    ("flume_json", flume_json),
    ("syslog", syslog),
    ("java_regex", java_regex),
    ("date_pattern", date_pattern),
    ("flow", flow),
    ("escape", escape),
    ("avro_container", avro_container),
];

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

/// Largest call the servers accept here.
const CALL_BYTES_MAX: usize = 1 << 16;

/// A client's bytes in two pieces; every call is answered.
fn serve(mut session: impl ServerSession, data: &[u8]) {
    let (mut inbound, mut out) = (VecDeque::new(), BytesMut::new());
    let (first, second) = data.split_at(data.len() / 2);
    for piece in [first, second] {
        if session.feed(piece, &mut inbound).is_err() {
            return;
        }
        for next in inbound.drain(..) {
            if let Inbound::Call(ticket, batch) = next {
                walk(&batch);
                session.answer(&ticket, Outcome::Failed("full"), &mut out);
            }
        }
    }
}

/// Touches every part of a batch.
fn walk(batch: &EventBatch) {
    for index in 0..batch.len() {
        batch.headers(index).for_each(drop);
        let _ = batch.body(index);
    }
}

/// The avro source: frames, handshake, calls.
pub fn avro_server(data: &[u8]) {
    serve(AvroServer::new(CALL_BYTES_MAX), data);
}

/// The avro sink: answers to calls.
pub fn avro_client(mut data: &[u8]) {
    let mut client = AvroClient::new(Offer { columns: true, zstd: true });
    let (mut out, batch) = (BytesMut::new(), EventBatch::default());
    loop {
        out.clear();
        let sent = client.put_call(&mut out, &batch, false);
        if sent.is_err() || !matches!(client.feed(&mut data), Ok(Some(_))) {
            return;
        }
    }
}

/// Batches by columns.
pub fn columns(data: &[u8]) {
    if let Ok(batch) = ColumnsDecoder::default().read(Bytes::copy_from_slice(data), CALL_BYTES_MAX) {
        walk(&batch);
    }
}

/// The thrift source, in both encodings.
pub fn thrift_server(data: &[u8]) {
    serve(ThriftServer::new(Wire::Compact, CALL_BYTES_MAX), data);
    serve(ThriftServer::new(Wire::Binary, CALL_BYTES_MAX), data);
}

/// The Scribe source.
pub fn scribe_server(data: &[u8]) {
    serve(ScribeServer::new(CALL_BYTES_MAX), data);
}

/// The legacy sources.
pub fn legacy_servers(data: &[u8]) {
    serve(OldThriftServer::new(CALL_BYTES_MAX), data);
    serve(OldAvroServer::new(CALL_BYTES_MAX, Known::default()), data);
}

/// Key stores of every format.
pub fn keystore(data: &[u8]) {
    let _ = crate::codec::keystore::read(data, Some("changeit"));
    let _ = crate::codec::keystore::read(data, None);
}

/// Requests to the http source, as UTF-8 and as UTF-16.
pub fn flume_json(data: &[u8]) {
    use crate::codec::charset::Charset;
    for charset in [Charset::Utf8, Charset::Utf16] {
        if let Ok(batch) = crate::codec::flume_json::read_events(&charset.decode(data), charset) {
            (0..batch.len()).for_each(|index| batch.headers(index).for_each(drop));
        }
    }
}

/// A stream of syslog messages through the framing and both parsers. The first byte is the event size.
pub fn syslog(data: &[u8]) {
    use crate::codec::charset::Charset;
    use crate::codec::syslog::{KeepFields, classic, frame::Framer, multiport};
    use crate::event::{BatchBuilder, Separator};
    let Some((size, stream)) = data.split_first() else { return };
    let keep = KeepFields::named("priority version timestamp hostname");
    let mut framer = Framer::new(usize::from(*size));
    let mut classic = classic::Parser::new(keep, None, jiff::tz::TimeZone::UTC);
    let mut multiport = multiport::Parser::new(keep);
    let mut batch = BatchBuilder::new(Separator::None);
    let mut at = 0;
    while let Some(frame) = framer.last(stream, &mut at) {
        let message = &stream[frame.start..frame.end];
        classic.push(message, frame.is_cut, 1_795_132_800, &mut batch);
        multiport.push(message, frame.is_cut, Charset::Utf8, 1_795_132_800_000, &mut batch);
    }
    let batch = batch.finish();
    (0..batch.len()).for_each(|index| batch.headers(index).for_each(drop));
}

/// An expression, a replacement and a text, with line feeds between them.
pub fn java_regex(data: &[u8]) {
    use crate::codec::java_regex::{JavaRegex, Replacement, as_java_sees};
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let mut part = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (pattern, replacement, text) = (part(), part(), part());
    let Ok(regex) = JavaRegex::new(&pattern) else { return };
    let _ = regex.is_match(text.as_bytes());
    if let Ok(replacement) = Replacement::new(&replacement, &regex) {
        let mut out = BytesMut::new();
        regex.replace_all(&as_java_sees(text.as_bytes()), &replacement, &mut regex.groups(), &mut out);
    }
}

/// A date pattern and a date, with a line feed between them.
pub fn date_pattern(data: &[u8]) {
    use crate::codec::date_pattern::{DatePattern, Dialect};
    let text = String::from_utf8_lossy(data);
    let (pattern, date) = text.split_once('\n').unwrap_or((&text, ""));
    for dialect in [Dialect::Joda, Dialect::SimpleDateFormat] {
        if let Ok(pattern) = DatePattern::new(pattern, dialect) {
            let _ = pattern.parse(date, &jiff::tz::TimeZone::UTC, 2026);
        }
    }
}

/// A flow as an operator writes it: the text, its substitutions, every component's settings, all checks.
pub fn flow(data: &[u8]) {
    use crate::config::model::AgentConfig;
    let Ok(entries) = crate::config::properties::parse("flow.properties", data) else { return };
    let mut diagnostics = Vec::new();
    if let Some(config) = AgentConfig::read("a1", &entries, &mut diagnostics) {
        crate::agent::compile::compile(&config, &mut diagnostics);
    }
    for diagnostic in diagnostics {
        assert!(!diagnostic.to_string().is_empty());
    }
}

/// A path with escape sequences and the value of a header, with a line feed between them, at the time that
/// the first eight bytes say.
pub fn escape(data: &[u8]) {
    use crate::codec::escape::{Machine, Resolver, Template, Times};
    use crate::event::{BatchBuilder, Separator};
    let Some((millis, text)) = data.split_first_chunk::<8>() else { return };
    let text = String::from_utf8_lossy(text);
    let (path, value) = text.split_once('\n').unwrap_or((&text, ""));
    let Ok(path) = Template::new(path) else { return };
    let Ok(prefix) = Template::new("%S-%{h}") else { return };
    let mut batch = BatchBuilder::new(Separator::None);
    batch.push(b"");
    batch.header("timestamp", &i64::from_le_bytes(*millis).to_string());
    batch.header("h", value);
    let times = Times { zone: jiff::tz::TimeZone::UTC, rounding: None, use_clock: false };
    let now = std::time::Duration::from_millis(u64::from_le_bytes(*millis));
    let mut resolver = Resolver::new(path, prefix, times, Machine::default());
    let _ = resolver.resolve(&batch.finish(), 0, now);
}

/// Flume's own file channel: a log and, behind its first bytes, metadata and a checkpoint.
///
/// The first three bytes say how large the metadata, the checkpoint and its own metadata are.
pub fn flume_file_channel(data: &[u8]) {
    use crate::codec::flume_file_channel::{checkpoint, log, replay};
    let (sizes, rest) = data.split_at(data.len().min(3));
    let size = |i: usize| sizes.get(i).map_or(0, |n| usize::from(*n));
    let (meta, rest) = rest.split_at(size(0).min(rest.len()));
    let (checkpoint_meta, rest) = rest.split_at(size(1).min(rest.len()));
    let (inflight, rest) = rest.split_at((size(2) * 8).min(rest.len()));
    let stored = checkpoint::read(rest, checkpoint_meta, &[], inflight).ok();
    let file =
        replay::LogFile { bytes: Bytes::copy_from_slice(rest), meta: log::meta(meta).ok(), decrypt: None };
    let logs: replay::Logs = [(1, file)].into_iter().collect();
    for checkpoint in [None, stored.as_ref()] {
        for pointer in replay::replay(&logs, checkpoint).queue {
            let _ = replay::at(&logs, pointer, |record| {
                if let log::Body::Put(event) = &record.body {
                    event.headers().for_each(drop);
                    event.is_sound();
                }
            });
        }
    }
}

/// An Avro container file, read whole and in windows that grow.
pub fn avro_container(data: &[u8]) {
    use crate::event::BatchBuilder;
    use crate::serializer::deserializer::avro::{Container, SchemaHeader};
    use crate::serializer::deserializer::{Deserializer as _, Place};
    let read = |step: usize| {
        let Ok(mut reader) = Container::begin(SchemaHeader::Hash, data) else { return None };
        let (mut bodies, mut place, mut window) = (Vec::new(), reader.start(), step);
        loop {
            let rest = data.get(place.offset as usize..).unwrap_or_default();
            let at_end = window >= rest.len();
            let (mut batch, mut places) = (BatchBuilder::default(), Vec::<Place>::new());
            let cut = reader.cut(&rest[..window.min(rest.len())], place, at_end, &mut batch, &mut places);
            let batch = batch.finish();
            assert_eq!(batch.len(), places.len());
            assert!(places.is_sorted());
            bodies.extend(batch.bodies().map(<[u8]>::to_vec));
            match places.last() {
                Some(last) => (place, window) = (*last, step),
                None if at_end => break,
                None => window *= 2,
            }
            if cut.is_err() {
                break;
            }
        }
        Some(bodies)
    };
    // Blocks may have millions of data without a size; a few are as good.
    if data.len() < 1 << 14 {
        assert_eq!(read(usize::MAX), read(64));
    }
}
