//! Scribe's service, and the one of Flume 0.9: the server's sides.
//!
//! Scribe: framed, binary encoding whose messages carry no version;
//! `ResultCode Log(1: list<LogEntry>)`, `LogEntry { 1: string category, 2: string message }`, OK = 0,
//! TRY_LATER = 1. Flume 0.9: unframed, binary; `oneway void append(1: ThriftFlumeEvent)`, `void close()`.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::message::{Framed, put_framed};
use super::value::{
    CALL, EXCEPTION, I32, I64, LIST, MAP, ONEWAY, REPLY, Reader, STRING, STRUCT, ValueError, Wire, Writer,
};
use crate::codec::headers::WireHeaders;
use crate::codec::rpc::{Inbound, Method, Outcome, ServerSession, Ticket};
use crate::event::{BatchBuilder, EventBatch, Separator};

/// Names of Flume 0.9's priorities, in the order of their numbers.
pub const PRIORITIES: [&str; 6] = ["FATAL", "ERROR", "WARN", "INFO", "DEBUG", "TRACE"];

/// A connection of a Scribe client.
pub struct ScribeServer {
    frames: Framed,
}

impl ScribeServer {
    /// A new connection; frames with more than `limit` bytes end it.
    pub fn new(limit: usize) -> Self {
        Self { frames: Framed::new(limit) }
    }
    fn handle(message: &[u8]) -> Result<Inbound, String> {
        let mut reader = Reader::new(Wire::Binary, message);
        let head = reader.message().map_err(|e| e.to_string())?;
        if head.name != b"Log" {
            let name = String::from_utf8_lossy(head.name.get(..100).unwrap_or(head.name));
            let text = format!("Invalid method name: '{name}'");
            let mut out = BytesMut::new();
            put_framed(&mut out, |out| {
                let mut writer = Writer::new(Wire::Binary, out);
                writer.unversioned_message(head.name, EXCEPTION, head.sequence);
                let mut last = 0;
                writer.field(&mut last, 1, STRING);
                writer.bytes(text.as_bytes());
                writer.field(&mut last, 2, I32);
                writer.i32(1);
                writer.stop();
            });
            return Ok(Inbound::Answer(out.freeze()));
        }
        let batch = read_entries(&mut reader).map_err(|e| e.to_string())?;
        let ticket = Ticket { serial: head.sequence, method: Method::AppendBatch, prefix: Bytes::new() };
        Ok(Inbound::Call(ticket, batch))
    }
}

fn read_entries(reader: &mut Reader<'_>) -> Result<EventBatch, ValueError> {
    let mut builder = BatchBuilder::with_capacity(Separator::None, reader.rest().len(), 1);
    let mut last = 0;
    while let Some((number, kind)) = reader.field(&mut last)? {
        if (number, kind) != (1, LIST) {
            reader.skip(kind)?;
            continue;
        }
        let (kind, count) = reader.list()?;
        if kind != STRUCT && count > 0 {
            return Err(ValueError::Field(1));
        }
        for _ in 0..count {
            let (mut category, mut message, mut last) = (None, &[][..], 0);
            while let Some((number, kind)) = reader.field(&mut last)? {
                match (number, kind) {
                    (1, STRING) => category = Some(reader.bytes()?),
                    (2, STRING) => message = reader.bytes()?,
                    (_, kind) => reader.skip(kind)?,
                }
            }
            builder.push(message);
            if let Some(category) = category {
                builder.header("category", &String::from_utf8_lossy(category));
            }
        }
    }
    Ok(builder.finish())
}

impl ServerSession for ScribeServer {
    fn feed(&mut self, mut bytes: &[u8], inbound: &mut VecDeque<Inbound>) -> Result<(), String> {
        while let Some(message) = self.frames.feed(&mut bytes)? {
            inbound.push_back(Self::handle(&message)?);
        }
        Ok(())
    }
    fn answer(&mut self, ticket: &Ticket, outcome: Outcome<'_>, out: &mut BytesMut) {
        put_framed(out, |out| {
            let mut writer = Writer::new(Wire::Binary, out);
            writer.unversioned_message(b"Log", REPLY, ticket.serial);
            writer.field(&mut 0, 0, I32);
            writer.i32(if outcome == Outcome::Ok { 0 } else { 1 });
            writer.stop();
        });
    }
    fn held_bytes(&self) -> usize {
        self.frames.held_bytes()
    }
}

/// An event of Flume 0.9, whichever way it came.
#[derive(Debug, Default)]
pub struct OldEvent<'a> {
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Index into [`PRIORITIES`].
    pub priority: usize,
    /// The body.
    pub body: &'a [u8],
    /// Nanoseconds of the sender's clock.
    pub nanos: i64,
    /// The sender.
    pub host: &'a [u8],
}

impl OldEvent<'_> {
    /// Appends it with the headers Flume's legacy sources give it; `fields` are its own.
    pub fn push<'f>(&self, fields: impl Iterator<Item = (&'f [u8], &'f [u8])>, builder: &mut BatchBuilder) {
        let (timestamp, nanos) = (self.timestamp.to_string(), self.nanos.to_string());
        let priority = PRIORITIES.get(self.priority).copied().unwrap_or("INFO");
        let mut headers = WireHeaders::default();
        headers.insert(b"timestamp", timestamp.as_bytes());
        headers.insert(b"pri", priority.as_bytes());
        headers.insert(b"nanos", nanos.as_bytes());
        headers.insert(b"host", self.host);
        headers.insert(b"FlumeOG", b"yes");
        // Collected first: the borrow of the fields is shorter than ours.
        let fields: Vec<_> = fields.collect();
        for (key, value) in &fields {
            headers.insert(key, value);
        }
        builder.push(self.body);
        headers.finish(builder);
    }
}

/// A connection of a Flume 0.9 Thrift sink.
pub struct OldThriftServer {
    limit: usize,
    input: Vec<u8>,
}

impl OldThriftServer {
    /// A new connection; messages with more than `limit` bytes end it.
    pub fn new(limit: usize) -> Self {
        Self { limit, input: Vec::new() }
    }
}

/// Reads one message; the second value is what follows it.
fn read_old(bytes: &[u8]) -> Result<(Inbound, &[u8]), ValueError> {
    let mut reader = Reader::new(Wire::Binary, bytes);
    if !matches!(bytes, [0x80, 1, ..] | [0, ..] | [0x80] | []) {
        return Err(ValueError::Message);
    }
    let head = reader.message()?;
    if head.name.len() > 100 {
        return Err(ValueError::Message);
    }
    let reply = |kind: u8, error: Option<&str>| {
        let mut out = BytesMut::new();
        let mut writer = Writer::new(Wire::Binary, &mut out);
        writer.message(head.name, kind, head.sequence);
        if let Some(text) = error {
            let mut last = 0;
            writer.field(&mut last, 1, STRING);
            writer.bytes(text.as_bytes());
            writer.field(&mut last, 2, I32);
            writer.i32(1);
        }
        writer.stop();
        Inbound::Answer(out.freeze())
    };
    let inbound = match (head.name, head.kind) {
        (b"append", CALL | ONEWAY) => {
            let mut builder = BatchBuilder::default();
            let mut last = 0;
            while let Some((number, kind)) = reader.field(&mut last)? {
                match (number, kind) {
                    (1, STRUCT) => read_old_event(&mut reader, &mut builder)?,
                    (_, kind) => reader.skip(kind)?,
                }
            }
            let ticket = Ticket { serial: head.sequence, method: Method::Append, prefix: Bytes::new() };
            Inbound::Call(ticket, builder.finish())
        }
        (b"close", _) => {
            reader.skip(STRUCT)?;
            reply(REPLY, None)
        }
        _ => {
            reader.skip(STRUCT)?;
            reply(EXCEPTION, Some("Invalid method name"))
        }
    };
    Ok((inbound, reader.rest()))
}

fn read_old_event(reader: &mut Reader<'_>, builder: &mut BatchBuilder) -> Result<(), ValueError> {
    let mut event = OldEvent { priority: 3, ..OldEvent::default() };
    let mut fields = Vec::new();
    let mut last = 0;
    while let Some((number, kind)) = reader.field(&mut last)? {
        match (number, kind) {
            (1, I64) => event.timestamp = reader.i64()?,
            (2, I32) => event.priority = usize::try_from(reader.i32()?).unwrap_or(usize::MAX),
            (3, STRING) => event.body = reader.bytes()?,
            (4, I64) => event.nanos = reader.i64()?,
            (5, STRING) => event.host = reader.bytes()?,
            (6, MAP) => {
                let (key, value, count) = reader.map()?;
                if (key, value) != (STRING, STRING) {
                    return Err(ValueError::Field(6));
                }
                for _ in 0..count {
                    fields.push((reader.bytes()?, reader.bytes()?));
                }
            }
            (_, kind) => reader.skip(kind)?,
        }
    }
    event.push(fields.into_iter(), builder);
    Ok(())
}

impl ServerSession for OldThriftServer {
    fn feed(&mut self, bytes: &[u8], inbound: &mut VecDeque<Inbound>) -> Result<(), String> {
        self.input.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(rest) = self.input.get(at..).filter(|r| !r.is_empty()) {
            match read_old(rest) {
                Ok((next, after)) => {
                    at = self.input.len() - after.len();
                    inbound.push_back(next);
                }
                Err(ValueError::End) => break,
                Err(error) => return Err(format!("not a message of a Flume 0.9 Thrift sink: {error}")),
            }
        }
        self.input.drain(..at);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        if self.input.len() > self.limit {
            return Err(format!("a message of more than {} bytes", self.limit));
        }
        Ok(())
    }
    /// The calls are one-way.
    fn answer(&mut self, _ticket: &Ticket, _outcome: Outcome<'_>, _out: &mut BytesMut) {}
    fn held_bytes(&self) -> usize {
        self.input.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scribe(entries: &[(Option<&str>, &str)]) -> BytesMut {
        let mut out = BytesMut::new();
        put_framed(&mut out, |out| {
            let mut writer = Writer::new(Wire::Binary, out);
            writer.unversioned_message(b"Log", CALL, 5);
            writer.field(&mut 0, 1, LIST);
            writer.list(STRUCT, entries.len());
            for (category, message) in entries {
                let mut last = 0;
                if let Some(category) = category {
                    writer.field(&mut last, 1, STRING);
                    writer.bytes(category.as_bytes());
                }
                writer.field(&mut last, 2, STRING);
                writer.bytes(message.as_bytes());
                writer.stop();
            }
            writer.stop();
        });
        out
    }

    #[test]
    fn scribe_entries_become_events() {
        let mut server = ScribeServer::new(1000);
        let mut inbound = VecDeque::new();
        let request = scribe(&[(Some("web"), "one"), (None, "two")]);
        request.chunks(3).for_each(|piece| server.feed(piece, &mut inbound).unwrap());
        let Some(Inbound::Call(ticket, batch)) = inbound.pop_front() else { panic!() };
        assert_eq!((batch.body(0), batch.header(0, "category")), (&b"one"[..], Some("web")));
        assert_eq!((batch.body(1), batch.header(1, "category")), (&b"two"[..], None));
        let mut out = BytesMut::new();
        server.answer(&ticket, Outcome::Failed(""), &mut out);
        let log = [0, 0, 0, 3, b'L', b'o', b'g', 2, 0, 0, 0, 5, 8, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(out[4..], log);
        assert_eq!(out[..4], [0, 0, 0, log.len() as u8]);
        server.feed(&scribe(&[]), &mut inbound).unwrap();
        let Some(Inbound::Call(_, batch)) = inbound.pop_front() else { panic!() };
        assert!(batch.is_empty());
        assert!(server.feed(&[0, 0, 4, 0], &mut inbound).unwrap_err().contains("1024 bytes"));
    }

    #[test]
    fn flume_0_9_events_come_in_any_pieces() {
        let mut out = BytesMut::new();
        for body in ["one", "two"] {
            let mut writer = Writer::new(Wire::Binary, &mut out);
            writer.message(b"append", ONEWAY, 0);
            writer.field(&mut 0, 1, STRUCT);
            let mut last = 0;
            writer.field(&mut last, 2, I32);
            writer.i32(1);
            writer.field(&mut last, 3, STRING);
            writer.bytes(body.as_bytes());
            writer.field(&mut last, 5, STRING);
            writer.bytes(b"web1");
            writer.field(&mut last, 6, MAP);
            writer.map(STRING, STRING, 1);
            writer.bytes(b"k");
            writer.bytes(b"v");
            writer.stop();
            writer.stop();
        }
        let mut writer = Writer::new(Wire::Binary, &mut out);
        writer.message(b"close", CALL, 9);
        writer.stop();
        for piece in [1, 7, 1000] {
            let mut server = OldThriftServer::new(1000);
            let mut inbound = VecDeque::new();
            out.chunks(piece).for_each(|piece| server.feed(piece, &mut inbound).unwrap());
            assert_eq!((inbound.len(), server.held_bytes()), (3, 0));
            for body in [b"one", b"two"] {
                let Some(Inbound::Call(_, batch)) = inbound.pop_front() else { panic!() };
                assert_eq!(batch.body(0), body);
                let headers: Vec<_> = batch.headers(0).collect();
                assert_eq!(
                    headers,
                    [
                        ("timestamp", "0"),
                        ("pri", "ERROR"),
                        ("nanos", "0"),
                        ("host", "web1"),
                        ("FlumeOG", "yes"),
                        ("k", "v")
                    ]
                );
            }
            let Some(Inbound::Answer(answer)) = inbound.pop_front() else { panic!() };
            assert_eq!(answer[..4], [0x80, 1, 0, REPLY]);
        }
        let mut server = OldThriftServer::new(1000);
        assert!(server.feed(b"GET / HTTP/1.1", &mut VecDeque::new()).is_err());
        let mut server = OldThriftServer::new(1000);
        assert!(server.feed(&[0x80, 1, 0, 1, 0x7f, 0xff, 0xff, 0xff], &mut VecDeque::new()).is_ok());
        assert!(server.feed(&[0; 2000], &mut VecDeque::new()).is_err(), "a name of 2 GiB");
    }
}
