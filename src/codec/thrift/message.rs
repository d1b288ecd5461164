//! Both sides of a connection to Flume's Thrift source, without the connection.
//!
//! Framed transport (`i32` size, message), compact or binary encoding:
//! `ThriftSourceProtocol { Status append(1: ThriftFlumeEvent), Status appendBatch(1: list<ThriftFlumeEvent>) }`
//! with `ThriftFlumeEvent { 1: required map<string, string> headers, 2: required binary body }`.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

pub use super::value::Wire;
use super::value::{CALL, EXCEPTION, I32, LIST, MAP, REPLY, Reader, STRING, STRUCT, ValueError, Writer};
use crate::codec::avro::session::Answer;
use crate::codec::headers::WireHeaders;
use crate::codec::rpc::{Inbound, Method, Outcome, ServerSession, Ticket};
use crate::event::{BatchBuilder, EventBatch, Separator};

/// `TApplicationException` types.
const UNKNOWN_METHOD: i32 = 1;
const PROTOCOL_ERROR: i32 = 7;

/// Cuts a stream into framed messages.
#[derive(Debug)]
pub struct Framed {
    limit: usize,
    head: [u8; 4],
    head_filled: usize,
    size: usize,
    payload: Vec<u8>,
}

impl Framed {
    /// Frames up to this size.
    pub const fn new(limit: usize) -> Self {
        Self { limit, head: [0; 4], head_filled: 0, size: 0, payload: Vec::new() }
    }
    /// Bytes of the unfinished frame held in memory.
    pub fn held_bytes(&self) -> usize {
        self.payload.capacity()
    }
    /// Reads from the front of `input`, which is advanced.
    ///
    /// # Errors
    /// A frame larger than the limit.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, String> {
        while self.head_filled < 4 {
            let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
            *input = rest;
            if let Some(slot) = self.head.get_mut(self.head_filled) {
                *slot = byte;
            }
            self.head_filled += 1;
            if self.head_filled == 4 {
                let size = i32::from_be_bytes(self.head);
                self.size = usize::try_from(size).ok().filter(|s| *s <= self.limit).ok_or_else(|| {
                    let hint = match self.head {
                        [0x16, 3, ..] => "; the peer speaks TLS: set ssl on both sides or on neither",
                        [0x80, 1, ..] | [0x82, ..] => "; the peer does not use the framed transport",
                        [b'G', b'E', b'T', b' '] | [b'P', b'O', b'S', b'T'] => "; the peer speaks HTTP",
                        _ => "",
                    };
                    format!("a frame of {size} bytes, at most {} are accepted{hint}", self.limit)
                })?;
                // A large claim has to be backed by bytes.
                self.payload.reserve(self.size.min(64 * 1024));
            }
        }
        let (bytes, rest) = input.split_at(input.len().min(self.size - self.payload.len()));
        self.payload.extend_from_slice(bytes);
        *input = rest;
        if self.payload.len() < self.size {
            return Ok(None);
        }
        self.head_filled = 0;
        Ok(Some(std::mem::take(&mut self.payload)))
    }
}

/// Writes a frame around what `message` writes.
pub fn put_framed(out: &mut BytesMut, message: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_i32(0);
    message(out);
    let size = (out.len() - start - 4) as i32;
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&size.to_be_bytes());
    }
}

fn read_event(reader: &mut Reader<'_>, builder: &mut BatchBuilder) -> Result<(), ValueError> {
    let mut headers = WireHeaders::default();
    let (mut body, mut has_headers) = (None, false);
    let mut last = 0;
    while let Some((number, kind)) = reader.field(&mut last)? {
        match (number, kind) {
            (1, MAP) => {
                let (key, value, count) = reader.map()?;
                if (key, value) != (STRING, STRING) {
                    return Err(ValueError::Field(1));
                }
                for _ in 0..count {
                    headers.insert(reader.bytes()?, reader.bytes()?);
                }
                has_headers = true;
            }
            (2, STRING) => body = Some(reader.bytes()?),
            (1 | 2, _) => return Err(ValueError::Field(number)),
            (_, kind) => reader.skip(kind)?,
        }
    }
    if !has_headers {
        return Err(ValueError::Missing(1));
    }
    builder.push(body.ok_or(ValueError::Missing(2))?);
    headers.finish(builder);
    Ok(())
}

/// Reads the arguments of `append` or `appendBatch`.
fn read_arguments(reader: &mut Reader<'_>, method: Method) -> Result<EventBatch, ValueError> {
    let mut builder = BatchBuilder::with_capacity(Separator::None, reader.rest().len(), 1);
    let mut last = 0;
    let mut found = false;
    while let Some((number, kind)) = reader.field(&mut last)? {
        match (number, kind, method) {
            (1, STRUCT, Method::Append) => read_event(reader, &mut builder)?,
            (1, LIST, Method::AppendBatch | Method::Columns) => {
                let (kind, count) = reader.list()?;
                if kind != STRUCT && count > 0 {
                    return Err(ValueError::Field(1));
                }
                for _ in 0..count {
                    read_event(reader, &mut builder)?;
                }
            }
            (1, ..) => return Err(ValueError::Field(1)),
            (_, kind, _) => reader.skip(kind)?,
        }
        found |= number == 1;
    }
    if found { Ok(builder.finish()) } else { Err(ValueError::Missing(1)) }
}

/// The server's side.
pub struct ThriftServer {
    wire: Wire,
    frames: Framed,
}

impl ThriftServer {
    /// A new connection; frames with more than `limit` bytes end it.
    pub fn new(wire: Wire, limit: usize) -> Self {
        Self { wire, frames: Framed::new(limit) }
    }

    fn handle(&self, message: &[u8]) -> Result<Inbound, String> {
        let mut reader = Reader::new(self.wire, message);
        let head = match reader.message() {
            Ok(head) if head.kind == CALL => head,
            Ok(head) => return Err(format!("a message of kind {} is no call", head.kind)),
            Err(error) => {
                let hint = match (self.wire, message) {
                    (Wire::Compact, [0x80, 1, ..]) => "; the peer speaks binary: set protocol = binary",
                    (Wire::Binary, [0x82, ..]) => "; the peer speaks compact: remove protocol = binary",
                    (_, [0, 0, 0, ..]) => "; an Avro client perhaps",
                    _ => "",
                };
                return Err(format!("{error}{hint}"));
            }
        };
        let method = match head.name {
            b"append" => Method::Append,
            b"appendBatch" => Method::AppendBatch,
            other => {
                let name = String::from_utf8_lossy(other.get(..100).unwrap_or(other));
                let text = format!("Invalid method name: '{name}'");
                return Ok(self.exception(other, head.sequence, UNKNOWN_METHOD, &text));
            }
        };
        Ok(match read_arguments(&mut reader, method) {
            Ok(batch) => Inbound::Call(Ticket { serial: head.sequence, method, prefix: Bytes::new() }, batch),
            Err(error) => self.exception(head.name, head.sequence, PROTOCOL_ERROR, &error.to_string()),
        })
    }

    fn exception(&self, name: &[u8], sequence: i32, kind: i32, text: &str) -> Inbound {
        let mut out = BytesMut::new();
        put_framed(&mut out, |out| {
            let mut writer = Writer::new(self.wire, out);
            writer.message(name, EXCEPTION, sequence);
            let mut last = 0;
            writer.field(&mut last, 1, STRING);
            writer.bytes(text.as_bytes());
            writer.field(&mut last, 2, I32);
            writer.i32(kind);
            writer.stop();
        });
        Inbound::Answer(out.freeze())
    }
}

impl ServerSession for ThriftServer {
    fn feed(&mut self, mut bytes: &[u8], inbound: &mut VecDeque<Inbound>) -> Result<(), String> {
        while let Some(message) = self.frames.feed(&mut bytes)? {
            inbound.push_back(self.handle(&message)?);
        }
        Ok(())
    }
    fn answer(&mut self, ticket: &Ticket, outcome: Outcome<'_>, out: &mut BytesMut) {
        let name = if ticket.method == Method::Append { &b"append"[..] } else { b"appendBatch" };
        put_framed(out, |out| {
            let mut writer = Writer::new(self.wire, out);
            writer.message(name, REPLY, ticket.serial);
            writer.field(&mut 0, 0, I32);
            writer.i32(if outcome == Outcome::Ok { 0 } else { 1 });
            writer.stop();
        });
    }
    fn held_bytes(&self) -> usize {
        self.frames.held_bytes()
    }
}

/// The client's side.
pub struct ThriftClient {
    wire: Wire,
    frames: Framed,
    next: i32,
    unanswered: VecDeque<i32>,
}

impl ThriftClient {
    /// A new connection.
    pub fn new(wire: Wire) -> Self {
        Self { wire, frames: Framed::new(1 << 20), next: 1, unanswered: VecDeque::new() }
    }
    /// Appends the call for a batch.
    pub fn put_call(&mut self, out: &mut BytesMut, batch: &EventBatch) {
        let sequence = self.next;
        self.next = self.next.wrapping_add(1);
        self.unanswered.push_back(sequence);
        out.reserve(batch.size_bytes() + 32 * batch.len());
        put_framed(out, |out| {
            let mut writer = Writer::new(self.wire, out);
            writer.message(b"appendBatch", CALL, sequence);
            writer.field(&mut 0, 1, LIST);
            writer.list(STRUCT, batch.len());
            for index in 0..batch.len() {
                put_event(&mut writer, batch, index);
            }
            writer.stop();
        });
    }
    /// Takes bytes from the server; at most one answer per call of this function.
    ///
    /// # Errors
    /// Why the connection cannot go on.
    pub fn feed(&mut self, bytes: &mut &[u8]) -> Result<Option<Answer>, String> {
        let Some(message) = self.frames.feed(bytes)? else { return Ok(None) };
        let bad = |e: ValueError| format!("an answer that is no Thrift: {e}");
        let mut reader = Reader::new(self.wire, &message);
        let head = reader.message().map_err(bad)?;
        match self.unanswered.pop_front() {
            Some(sequence) if sequence == head.sequence => {}
            _ => return Err(format!("answer {} out of turn", head.sequence)),
        }
        let (mut status, mut text, mut last) = (None, None, 0);
        while let Some((number, kind)) = reader.field(&mut last).map_err(bad)? {
            match (number, kind) {
                (0, I32) => status = Some(reader.i32().map_err(bad)?),
                (1, STRING) => text = Some(reader.bytes().map_err(bad)?),
                (_, kind) => reader.skip(kind).map_err(bad)?,
            }
        }
        Ok(Some(match (head.kind, status) {
            (REPLY, Some(0)) => Answer::Ok,
            (REPLY, Some(1)) => {
                Answer::Refused("the source answered FAILED: its channel did not take the batch".to_owned())
            }
            (REPLY, Some(other)) => Answer::Refused(format!("the source answered with status {other}")),
            _ => Answer::Refused(String::from_utf8_lossy(text.unwrap_or(b"no status")).into_owned()),
        }))
    }
}

fn put_event(writer: &mut Writer<'_>, batch: &EventBatch, index: usize) {
    let mut last = 0;
    writer.field(&mut last, 1, MAP);
    writer.map(STRING, STRING, batch.headers(index).count());
    for (key, value) in batch.headers(index) {
        writer.bytes(key.as_bytes());
        writer.bytes(value.as_bytes());
    }
    writer.field(&mut last, 2, STRING);
    writer.bytes(batch.body(index));
    writer.stop();
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../../tests/fixtures/thrift/", $name, ".bin")).as_slice()
        };
    }

    fn serve(wire: Wire, requests: &[u8], piece: usize, outcomes: &[bool]) -> (Vec<EventBatch>, BytesMut) {
        let mut server = ThriftServer::new(wire, 1 << 20);
        let (mut batches, mut out, mut inbound) = (Vec::new(), BytesMut::new(), VecDeque::new());
        let mut outcomes = outcomes.iter();
        for piece in requests.chunks(piece) {
            server.feed(piece, &mut inbound).unwrap();
            for next in inbound.drain(..) {
                match next {
                    Inbound::Answer(bytes) => out.extend_from_slice(&bytes),
                    Inbound::Call(ticket, batch) => {
                        let outcome =
                            if *outcomes.next().unwrap() { Outcome::Ok } else { Outcome::Failed("") };
                        server.answer(&ticket, outcome, &mut out);
                        batches.push(batch);
                    }
                    Inbound::Close => unreachable!(),
                }
            }
        }
        assert_eq!(server.held_bytes(), 0);
        (batches, out)
    }

    #[test]
    fn recorded_clients_are_answered_byte_for_byte() {
        for piece in [1, 1000, usize::MAX] {
            for (wire, requests, responses, outcomes) in [
                (
                    Wire::Compact,
                    fixture!("thrift-compact.request"),
                    fixture!("thrift-compact.response"),
                    &[true; 3][..],
                ),
                (
                    Wire::Binary,
                    fixture!("thrift-binary.request"),
                    fixture!("thrift-binary.response"),
                    &[true; 3],
                ),
                (
                    Wire::Compact,
                    fixture!("thrift-full.request"),
                    fixture!("thrift-full.response"),
                    &[true, false],
                ),
            ] {
                let (batches, out) = serve(wire, requests, piece, outcomes);
                assert_eq!(out, responses);
                assert_eq!(batches[0].body(0), b"hello");
                assert_eq!(batches[1].header(0, "host"), Some("web1"));
                if let Some(last) = batches.get(2) {
                    assert_eq!((last.len(), last.header(0, "kéy")), (3, Some("välue €")));
                    assert_eq!((last.header(1, "empty"), last.body(2).len()), (Some(""), 9000));
                }
            }
        }
    }

    #[test]
    fn recorded_answers_are_understood_and_calls_come_back() {
        for (wire, requests, mut responses, answers) in [
            (Wire::Compact, fixture!("thrift-full.request"), fixture!("thrift-full.response"), 1),
            (Wire::Binary, fixture!("thrift-binary.request"), fixture!("thrift-binary.response"), 3),
        ] {
            let (batches, _) = serve(wire, requests, usize::MAX, &[true; 3][..answers.max(2)]);
            let mut client = ThriftClient::new(wire);
            let mut out = BytesMut::new();
            for (index, batch) in batches.iter().enumerate() {
                client.put_call(&mut out, batch);
                let answer = client.feed(&mut responses).unwrap().unwrap();
                assert_eq!(answer == Answer::Ok, index < answers, "{answer:?}");
            }
            let (back, _) = serve(wire, &out, usize::MAX, &[true; 3][..batches.len()]);
            for (a, b) in batches.iter().zip(&back) {
                assert_eq!(a.bodies().collect::<Vec<_>>(), b.bodies().collect::<Vec<_>>());
                for i in 0..a.len() {
                    assert_eq!(a.headers(i).collect::<Vec<_>>(), b.headers(i).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn other_protocols_are_named() {
        let error = |wire, bytes: &[u8]| {
            ThriftServer::new(wire, 1 << 20).feed(bytes, &mut VecDeque::new()).unwrap_err()
        };
        assert!(error(Wire::Compact, fixture!("thrift-binary.request")).contains("protocol = binary"));
        assert!(error(Wire::Binary, fixture!("thrift-compact.request")).contains("remove protocol"));
        assert!(error(Wire::Compact, &[0x16, 3, 1, 2]).contains("ssl"));
        assert!(error(Wire::Compact, &[0x7f, 0xff, 0xff, 0xff]).contains("2147483647"));
        assert!(error(Wire::Compact, &[0xff; 4]).contains("-1 bytes"));
    }

    #[test]
    fn wrong_calls_are_answered_and_the_connection_goes_on() {
        let mut server = ThriftServer::new(Wire::Binary, 1 << 20);
        let mut out = BytesMut::new();
        for (name, field) in [(&b"nosuch"[..], 1), (b"appendBatch", 2)] {
            put_framed(&mut out, |out| {
                let mut writer = Writer::new(Wire::Binary, out);
                writer.message(name, CALL, 7);
                writer.field(&mut 0, field, I32);
                writer.i32(1);
                writer.stop();
            });
        }
        let mut inbound = VecDeque::new();
        server.feed(&out, &mut inbound).unwrap();
        for expected in ["Invalid method name: 'nosuch'", "required field 1"] {
            let Some(Inbound::Answer(bytes)) = inbound.pop_front() else { panic!() };
            assert!(String::from_utf8_lossy(&bytes).contains(expected));
        }
    }
}
