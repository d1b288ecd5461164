//! The service of Flume 0.9's Avro sink, over HTTP: the server's side.
//!
//! `POST` with a content length; the body is Avro's HTTP framing (`u32` size and bytes, repeated, a size of 0 at
//! the end) of one call with its handshake. Protocol `FlumeOGEventAvroServer`, `null append(AvroFlumeOGEvent)`.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};

use super::datum::{DatumError, Reader, put_bytes, put_long};
use super::protocol::{HandshakeRequest, Match};
use crate::codec::rpc::{Inbound, Method, Outcome, ServerSession, Ticket};
use crate::codec::thrift::scribe::OldEvent;
use crate::event::{BatchBuilder, EventBatch};

/// The protocol, as sent to clients that do not know it.
const TEXT: &str = r#"{"protocol":"FlumeOGEventAvroServer","namespace":"com.cloudera.flume.handlers.avro","types":[{"type":"enum","name":"Priority","symbols":["FATAL","ERROR","WARN","INFO","DEBUG","TRACE"]},{"type":"record","name":"AvroFlumeOGEvent","fields":[{"name":"timestamp","type":"long"},{"name":"priority","type":"Priority"},{"name":"body","type":"bytes"},{"name":"nanos","type":"long"},{"name":"host","type":"string"},{"name":"fields","type":{"type":"map","values":"bytes"}}]}],"messages":{"append":{"request":[{"name":"evt","type":"AvroFlumeOGEvent"}],"response":"null"}}}"#;
/// MD5 of [`TEXT`].
const HASH: [u8; 16] =
    [0x47, 0xfd, 0x3a, 0x2e, 0x23, 0x6f, 0xb7, 0xe9, 0x8d, 0x0c, 0xc0, 0x1f, 0xdf, 0x78, 0x33, 0xb1];
/// Bytes of an HTTP head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header lines of a request.
const HEADERS_MAX: usize = 64;
/// Protocols of clients that are remembered per shard.
const KNOWN_MAX: usize = 64;

/// Hashes of clients' protocols whose text was seen: HTTP connections are short, the handshake is not repeated.
pub type Known = Rc<RefCell<HashSet<[u8; 16]>>>;

/// A connection of a Flume 0.9 Avro sink.
pub struct OldAvroServer {
    limit: usize,
    known: Known,
    input: Vec<u8>,
    /// Where the body of the request under way begins, and its size.
    body: Option<(usize, usize)>,
}

impl OldAvroServer {
    /// A new connection; requests with more than `limit` bytes end it.
    pub fn new(limit: usize, known: Known) -> Self {
        Self { limit, known, input: Vec::new(), body: None }
    }

    /// Looks for the end of the head.
    fn read_head(&self) -> Result<Option<(usize, usize)>, String> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let start = match request.parse(&self.input) {
            Ok(httparse::Status::Complete(start)) => start,
            Ok(httparse::Status::Partial) if self.input.len() <= HEAD_BYTES_MAX => return Ok(None),
            Ok(httparse::Status::Partial) => return Err("an HTTP head of more than 16 KiB".to_owned()),
            Err(error) => return Err(format!("not an HTTP request: {error}")),
        };
        if request.method != Some("POST") {
            return Err(format!("HTTP {} instead of POST", request.method.unwrap_or_default()));
        }
        let length = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length"));
        let length = length.and_then(|h| std::str::from_utf8(h.value).ok()?.trim().parse::<usize>().ok());
        match length {
            Some(length) if length <= self.limit => Ok(Some((start, length))),
            Some(length) => Err(format!("a request of {length} bytes, at most {} are accepted", self.limit)),
            None => Err("a request without Content-Length".to_owned()),
        }
    }

    fn handle(&self, body: &[u8]) -> Result<Inbound, String> {
        let call = unframe(body).ok_or("damaged HTTP framing")?;
        let mut reader = Reader::new(&call);
        let request =
            HandshakeRequest::read(&mut reader).map_err(|e| format!("not an Avro handshake: {e}"))?;
        if request.client_protocol.is_some() && self.known.borrow().len() < KNOWN_MAX {
            self.known.borrow_mut().insert(request.client_hash);
        }
        let known = request.client_protocol.is_some()
            || request.client_hash == HASH
            || self.known.borrow().contains(&request.client_hash);
        let matched = match (known, request.server_hash == HASH) {
            (false, _) => Match::None,
            (true, true) => Match::Both,
            (true, false) => Match::Client,
        };
        let mut prefix = BytesMut::new();
        put_handshake(&mut prefix, matched);
        if matched == Match::None {
            return Ok(Inbound::Answer(respond(&[&prefix])));
        }
        let read = |reader: &mut Reader<'_>| -> Result<Option<EventBatch>, DatumError> {
            reader.map(|_, _| ())?;
            match reader.bytes()? {
                b"" => Ok(None),
                b"append" => read_event(reader).map(Some),
                _ => Err(DatumError::Branch(0)),
            }
        };
        Ok(match read(&mut reader) {
            Ok(Some(batch)) => {
                Inbound::Call(Ticket { serial: 0, method: Method::Append, prefix: prefix.freeze() }, batch)
            }
            Ok(None) => Inbound::Answer(respond(&[&prefix])),
            Err(error) => {
                let text = format!("org.apache.avro.AvroRuntimeException: {error}");
                Inbound::Answer(refuse(&prefix, &text))
            }
        })
    }
}

fn put_handshake(out: &mut BytesMut, matched: Match) {
    if matched == Match::Both {
        out.put_slice(&[0, 0, 0, 0]);
        return;
    }
    put_long(out, if matched == Match::Client { 1 } else { 2 });
    put_long(out, 1);
    put_bytes(out, TEXT.as_bytes());
    put_long(out, 1);
    out.put_slice(&HASH);
    put_long(out, 0);
}

fn refuse(prefix: &[u8], text: &str) -> Bytes {
    let mut error = BytesMut::from(&[0, 1, 0][..]);
    put_bytes(&mut error, text.as_bytes());
    respond(&[prefix, &error])
}

/// Joins the buffers of a body.
fn unframe(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut call = Vec::with_capacity(body.len());
    loop {
        let (size, rest) = body.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at_checked(u32::from_be_bytes(*size) as usize)?;
        if bytes.is_empty() {
            return Some(call);
        }
        call.extend_from_slice(bytes);
        body = rest;
    }
}

fn respond(buffers: &[&[u8]]) -> Bytes {
    let size = buffers.iter().map(|b| 4 + b.len()).sum::<usize>() + 4;
    let mut out = BytesMut::with_capacity(128 + size);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: avro/binary\r\nContent-Length: {size}\r\n\r\n");
    out.put_slice(head.as_bytes());
    for buffer in buffers {
        out.put_u32(buffer.len() as u32);
        out.put_slice(buffer);
    }
    out.put_u32(0);
    out.freeze()
}

fn read_event(reader: &mut Reader<'_>) -> Result<EventBatch, DatumError> {
    let event = OldEvent {
        timestamp: reader.long()?,
        priority: reader.size()?,
        body: reader.bytes()?,
        nanos: reader.long()?,
        host: reader.bytes()?,
    };
    let mut fields = Vec::new();
    reader.map(|key, value| fields.push((key, value)))?;
    let mut builder = BatchBuilder::default();
    event.push(fields.into_iter(), &mut builder);
    Ok(builder.finish())
}

impl ServerSession for OldAvroServer {
    fn feed(&mut self, bytes: &[u8], inbound: &mut VecDeque<Inbound>) -> Result<(), String> {
        self.input.extend_from_slice(bytes);
        while !self.input.is_empty() {
            if self.body.is_none() {
                self.body = self.read_head()?;
            }
            let Some((start, size)) = self.body else { return Ok(()) };
            let Some(body) = self.input.get(start..start + size) else { return Ok(()) };
            inbound.push_back(self.handle(body)?);
            self.body = None;
            self.input.drain(..start + size);
        }
        self.input = Vec::new();
        Ok(())
    }
    fn answer(&mut self, ticket: &Ticket, outcome: Outcome<'_>, out: &mut BytesMut) {
        let answer = match outcome {
            // No error, and null takes no bytes.
            Outcome::Ok => respond(&[&ticket.prefix, &[0, 0]]),
            Outcome::Failed(reason) => refuse(&ticket.prefix, reason),
        };
        out.put_slice(&answer);
    }
    fn held_bytes(&self) -> usize {
        self.input.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::avro::protocol::Offer;

    fn request(protocol: bool, event: &[u8]) -> Vec<u8> {
        let mut call = BytesMut::new();
        HandshakeRequest {
            client_hash: [7; 16],
            client_protocol: protocol.then_some(&b"{}"[..]),
            server_hash: HASH,
            offer: Offer::default(),
        }
        .put(&mut call);
        put_long(&mut call, 0);
        put_bytes(&mut call, b"append");
        call.put_slice(event);
        let mut body = BytesMut::new();
        for piece in call.chunks(20) {
            body.put_u32(piece.len() as u32);
            body.put_slice(piece);
        }
        body.put_u32(0);
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\ncontent-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), &body].concat()
    }

    fn event() -> BytesMut {
        let mut out = BytesMut::new();
        put_long(&mut out, 1_300_000_000_000);
        put_long(&mut out, 1);
        put_bytes(&mut out, b"body");
        put_long(&mut out, 42);
        put_bytes(&mut out, b"web1");
        put_long(&mut out, 1);
        put_bytes(&mut out, b"service");
        put_bytes(&mut out, b"nginx");
        put_long(&mut out, 0);
        out
    }

    #[test]
    fn events_come_in_any_pieces_once_the_protocol_is_known() {
        let known = Known::default();
        for piece in [1, 50, 10_000] {
            known.borrow_mut().clear();
            let mut server = OldAvroServer::new(10_000, known.clone());
            let mut inbound = VecDeque::new();
            let all = [request(false, &event()), request(true, &event()), request(false, &event())].concat();
            all.chunks(piece).for_each(|piece| server.feed(piece, &mut inbound).unwrap());
            let Some(Inbound::Answer(none)) = inbound.pop_front() else { panic!() };
            assert!(String::from_utf8_lossy(&none).contains("FlumeOGEventAvroServer"));
            for _ in 0..2 {
                let Some(Inbound::Call(ticket, batch)) = inbound.pop_front() else { panic!() };
                assert_eq!(batch.body(0), b"body");
                let expected = [
                    ("timestamp", "1300000000000"),
                    ("pri", "ERROR"),
                    ("nanos", "42"),
                    ("host", "web1"),
                    ("FlumeOG", "yes"),
                    ("service", "nginx"),
                ];
                assert_eq!(batch.headers(0).collect::<Vec<_>>(), expected);
                let mut out = BytesMut::new();
                server.answer(&ticket, Outcome::Ok, &mut out);
                assert!(out.ends_with(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]));
            }
        }
    }

    #[test]
    fn other_requests_end_the_connection() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"POST / HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\x7f\xff\xff\xff",
            b"\x16\x03\x01\x02\x00",
        ] {
            let mut server = OldAvroServer::new(10_000, Known::default());
            assert!(server.feed(bytes, &mut VecDeque::new()).is_err());
        }
        let mut server = OldAvroServer::new(10_000, Known::default());
        assert!(server.feed(&[b'A'; 20_000], &mut VecDeque::new()).is_err());
    }
}
