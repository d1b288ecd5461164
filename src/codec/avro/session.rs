//! Both sides of an Avro connection, without the connection.
//!
//! The server's answers are byte for byte Flume's: three buffers, the first one the handshake or nothing,
//! because small clients exist that rely on it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::datum::{DatumError, Reader, put_bytes, put_long};
use super::events::{put_append_batch, put_event, read_append, read_append_batch};
use super::frame::{Frame, FrameDecoder, put_frame};
use super::protocol::{
    COLUMNS, HASH, HandshakeRequest, HandshakeResponse, Match, Offer, REASON_KEY, TEXT, check,
};
use crate::codec::columns::{ColumnsDecoder, ColumnsEncoder};
use crate::codec::rpc::{Inbound, Method, Outcome, ServerSession, Ticket};
use crate::event::EventBatch;

/// Largest frame accepted unless configured otherwise: 16 times the largest batch a usual sink sends
/// (10,000 events of 400 bytes), and small enough that a shard survives a few at once.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// Calls are decoded ahead of the channels up to so many bytes: the window of our own sink, 8 batches of 512 KiB.
/// What comes behind them stays compressed, since 256 KiB from the socket may be 40 blocks of 64 MiB.
const AHEAD_BYTES: usize = 4 << 20;

/// The server's side.
pub struct AvroServer {
    frames: FrameDecoder,
    limit: usize,
    /// A handshake has matched: calls come without one from here on.
    matched: bool,
    /// What both sides can do.
    agreed: Offer,
    columns: ColumnsDecoder,
    /// Hash of a client whose protocol's text was seen on this connection.
    learned: Option<[u8; 16]>,
    /// Bytes behind the calls that hold [`AHEAD_BYTES`]; at most one read of the socket.
    unread: Vec<u8>,
}

impl AvroServer {
    /// A new connection; frames with more than `limit` bytes end it.
    pub fn new(limit: usize) -> Self {
        Self {
            frames: FrameDecoder::new(limit),
            limit,
            matched: false,
            agreed: Offer::default(),
            columns: ColumnsDecoder::default(),
            learned: None,
            unread: Vec::new(),
        }
    }

    fn handle(&mut self, frame: Frame) -> Result<Inbound, String> {
        let payload = Bytes::from(frame.payload);
        let mut reader = Reader::new(&payload);
        let mut prefix = BytesMut::new();
        if !self.matched {
            let request =
                HandshakeRequest::read(&mut reader).map_err(|e| format!("not an Avro handshake: {e}"))?;
            let response = self.shake_hands(&request)?;
            response.put(&mut prefix);
            if response.matched == Match::None {
                let mut out = BytesMut::new();
                put_frame(&mut out, frame.serial, &[&prefix]);
                return Ok(Inbound::Answer(out.freeze()));
            }
        }
        let prefix = prefix.freeze();
        Ok(match self.call(&mut reader, &payload) {
            Ok(Some((method, batch))) => {
                Inbound::Call(Ticket { serial: frame.serial, method, prefix }, batch)
            }
            // An empty name is a handshake and nothing else.
            Ok(None) => {
                let mut out = BytesMut::new();
                put_frame(&mut out, frame.serial, &[&prefix]);
                Inbound::Answer(out.freeze())
            }
            Err(text) => {
                let mut out = BytesMut::new();
                let mut error = BytesMut::from(&[1, 0][..]);
                put_bytes(&mut error, text.as_bytes());
                put_frame(&mut out, frame.serial, &[&prefix, &[0], &error]);
                Inbound::Answer(out.freeze())
            }
        })
    }

    fn shake_hands(&mut self, request: &HandshakeRequest<'_>) -> Result<HandshakeResponse, String> {
        if let Some(text) = request.client_protocol {
            check(text)?;
            self.learned = Some(request.client_hash);
        }
        let known = request.client_hash == HASH || self.learned == Some(request.client_hash);
        let matched = match (known, request.server_hash == HASH) {
            (false, _) => Match::None,
            (true, true) => Match::Both,
            (true, false) => Match::Client,
        };
        if matched != Match::None {
            self.matched = true;
            self.agreed = request.offer.and(Offer { columns: true, zstd: true });
        }
        let offer = if known { self.agreed } else { Offer::default() };
        Ok(HandshakeResponse { matched, server_hash: (matched != Match::Both).then_some(HASH), offer })
    }

    /// Reads the call; the error is what the client is told.
    fn call(
        &mut self,
        reader: &mut Reader<'_>,
        payload: &Bytes,
    ) -> Result<Option<(Method, EventBatch)>, String> {
        let told = |error: DatumError| match error {
            DatumError::End => "java.io.EOFException".to_owned(),
            other => format!("org.apache.avro.AvroRuntimeException: {other}"),
        };
        reader.map(|_, _| ()).map_err(told)?;
        let name = reader.bytes().map_err(told)?;
        Ok(Some(match name {
            b"" => return Ok(None),
            b"append" => (Method::Append, read_append(reader).map_err(told)?),
            b"appendBatch" => (Method::AppendBatch, read_append_batch(reader).map_err(told)?),
            COLUMNS if self.agreed.columns => {
                let start = payload.len() - reader.rest().len();
                (Method::Columns, self.columns.read(payload.slice(start..), self.limit)?)
            }
            other => {
                let name = String::from_utf8_lossy(other.get(..100).unwrap_or(other));
                return Err(format!("org.apache.avro.AvroRuntimeException: No such remote message: {name}"));
            }
        }))
    }
}

impl ServerSession for AvroServer {
    fn feed(&mut self, bytes: &[u8], inbound: &mut VecDeque<Inbound>) -> Result<(), String> {
        let mut kept = std::mem::take(&mut self.unread);
        let mut rest = if kept.is_empty() {
            bytes
        } else {
            kept.extend_from_slice(bytes);
            &kept
        };
        let mut ahead = 0;
        while ahead < AHEAD_BYTES {
            let Some(frame) = self.frames.feed(&mut rest).map_err(|e| e.to_string())? else { break };
            let call = self.handle(frame)?;
            if let Inbound::Call(_, batch) = &call {
                ahead += batch.size_bytes();
            }
            inbound.push_back(call);
        }
        self.unread.extend_from_slice(rest);
        Ok(())
    }
    fn has_more(&self) -> bool {
        !self.unread.is_empty()
    }
    fn answer(&mut self, ticket: &Ticket, outcome: Outcome<'_>, out: &mut BytesMut) {
        match outcome {
            Outcome::Ok => put_frame(out, ticket.serial, &[&ticket.prefix, &[0], &[0, 0]]),
            Outcome::Failed(reason) if self.agreed.columns => {
                let mut metadata = BytesMut::new();
                put_long(&mut metadata, 1);
                put_bytes(&mut metadata, REASON_KEY);
                put_bytes(&mut metadata, reason.as_bytes());
                put_long(&mut metadata, 0);
                put_frame(out, ticket.serial, &[&ticket.prefix, &metadata, &[0, 2]]);
            }
            Outcome::Failed(_) => put_frame(out, ticket.serial, &[&ticket.prefix, &[0], &[0, 2]]),
        }
    }
    fn held_bytes(&self) -> usize {
        self.frames.held_bytes() + self.unread.capacity()
    }
}

/// An answer as the client understands it.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The oldest unanswered call was committed by the other side.
    Ok,
    /// The oldest unanswered call was refused.
    Refused(String),
    /// The server does not know our protocol yet: make the call again.
    Again,
}

/// The client's side.
pub struct AvroClient {
    frames: FrameDecoder,
    wanted: Offer,
    agreed: Offer,
    matched: bool,
    send_protocol: bool,
    server_hash: [u8; 16],
    next_serial: i32,
    unanswered: VecDeque<i32>,
    encoder: ColumnsEncoder,
}

impl AvroClient {
    /// A new connection that offers `wanted` to a Millrace.
    pub fn new(wanted: Offer) -> Self {
        Self {
            frames: FrameDecoder::new(1 << 20),
            wanted,
            agreed: Offer::default(),
            matched: false,
            send_protocol: false,
            server_hash: HASH,
            next_serial: 1,
            unanswered: VecDeque::new(),
            encoder: ColumnsEncoder::default(),
        }
    }
    /// True once the handshake is over: only then may several calls be on the way.
    pub const fn is_matched(&self) -> bool {
        self.matched
    }
    /// What both sides can do; known after the handshake.
    pub const fn agreed(&self) -> Offer {
        self.agreed
    }
    /// Calls on the way.
    pub fn unanswered(&self) -> usize {
        self.unanswered.len()
    }

    /// Appends the call for a batch, by columns if the other side understands them.
    ///
    /// # Errors
    /// What the compressor says.
    pub fn put_call(&mut self, out: &mut BytesMut, batch: &EventBatch, single: bool) -> std::io::Result<()> {
        let serial = self.next_serial;
        self.next_serial = self.next_serial.wrapping_add(1);
        let mut head = BytesMut::with_capacity(64);
        if !self.matched {
            let request = HandshakeRequest {
                client_hash: HASH,
                client_protocol: self.send_protocol.then_some(TEXT.as_bytes()),
                server_hash: self.server_hash,
                offer: self.wanted,
            };
            request.put(&mut head);
        }
        put_long(&mut head, 0);
        let columns = self.agreed.columns && self.matched;
        put_bytes(
            &mut head,
            if columns {
                COLUMNS
            } else if single {
                b"append"
            } else {
                b"appendBatch"
            },
        );
        // Serial, two buffers, the first one; then the second, whose size is known afterwards.
        let start = out.len();
        put_frame(out, serial, &[&head, &[]]);
        if let Some(count) = out.get_mut(start + 4..start + 8) {
            count.copy_from_slice(&2i32.to_be_bytes());
        }
        let body = out.len();
        if columns {
            self.encoder.put(out, batch, self.agreed.zstd)?;
        } else if single {
            put_event(out, batch, 0);
        } else {
            out.reserve(batch.size_bytes() + 8 * batch.len());
            put_append_batch(out, batch);
        }
        let size = (out.len() - body) as i32;
        if let Some(place) = out.get_mut(body - 4..body) {
            place.copy_from_slice(&size.to_be_bytes());
        }
        self.unanswered.push_back(serial);
        Ok(())
    }

    /// Takes bytes from the server; at most one answer per call of this function.
    ///
    /// # Errors
    /// Why the connection cannot go on.
    pub fn feed(&mut self, bytes: &mut &[u8]) -> Result<Option<Answer>, String> {
        let Some(frame) = self.frames.feed(bytes).map_err(|e| e.to_string())? else { return Ok(None) };
        match self.unanswered.pop_front() {
            Some(serial) if serial == frame.serial => {}
            Some(serial) => return Err(format!("answer {} where {serial} was due", frame.serial)),
            None => return Err(format!("answer {} without a call", frame.serial)),
        }
        self.answer(&frame.payload).map(Some)
    }

    fn answer(&mut self, payload: &[u8]) -> Result<Answer, String> {
        let bad = |e: DatumError| format!("an answer that is no Avro: {e}");
        let mut reader = Reader::new(payload);
        if !self.matched {
            let response = HandshakeResponse::read(&mut reader).map_err(bad)?;
            if let Some(hash) = response.server_hash {
                self.server_hash = hash;
            }
            if response.matched == Match::None {
                if self.send_protocol {
                    return Err("the server does not accept Flume's protocol".to_owned());
                }
                self.send_protocol = true;
                return Ok(Answer::Again);
            }
            self.matched = true;
            self.agreed = response.offer.and(self.wanted);
        }
        let mut reason = None;
        reader
            .map(|key, value| {
                if key == REASON_KEY {
                    reason = Some(value)
                }
            })
            .map_err(bad)?;
        if reader.boolean().map_err(bad)? {
            reader.long().map_err(bad)?;
            return Ok(Answer::Refused(reader.string().map_err(bad)?.into_owned()));
        }
        Ok(match (reader.long().map_err(bad)?, reason) {
            (0, _) => Answer::Ok,
            (_, Some(reason)) => Answer::Refused(String::from_utf8_lossy(reason).into_owned()),
            (1, None) => {
                Answer::Refused("the source answered FAILED: its channel did not take the batch".into())
            }
            (other, None) => Answer::Refused(format!("the source answered with status {other}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{BatchBuilder, Headers};

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../../tests/fixtures/avro/", $name, ".bin")).as_slice()
        };
    }

    /// Feeds what a client sent and answers each call in turn with these outcomes.
    fn serve(requests: &[u8], piece: usize, outcomes: &[bool]) -> (Vec<EventBatch>, BytesMut) {
        let mut server = AvroServer::new(FRAME_BYTES_MAX);
        let (mut batches, mut out, mut inbound) = (Vec::new(), BytesMut::new(), VecDeque::new());
        let mut outcomes = outcomes.iter();
        for piece in requests.chunks(piece) {
            server.feed(piece, &mut inbound).unwrap();
            for next in inbound.drain(..) {
                match next {
                    Inbound::Answer(bytes) => out.extend_from_slice(&bytes),
                    Inbound::Call(ticket, batch) => {
                        let outcome =
                            if *outcomes.next().unwrap() { Outcome::Ok } else { Outcome::Failed("full") };
                        server.answer(&ticket, outcome, &mut out);
                        batches.push(batch);
                    }
                    Inbound::Close => unreachable!(),
                }
            }
        }
        assert_eq!((outcomes.next(), server.held_bytes()), (None, 0));
        (batches, out)
    }

    #[test]
    fn answers_are_flumes_byte_for_byte() {
        for (requests, responses, outcomes) in [
            (fixture!("avro-plain.request"), fixture!("avro-plain.response"), &[true, true, true][..]),
            (fixture!("avro-full-append.request"), fixture!("avro-full-append.response"), &[true, false]),
            (fixture!("avro-full-batch.request"), fixture!("avro-full-batch.response"), &[false]),
            (
                fixture!("avro-raw-none-error.request"),
                fixture!("avro-raw-none-error.response"),
                &[true, true, true],
            ),
        ] {
            for piece in [1, 100, usize::MAX] {
                assert_eq!(serve(requests, piece, outcomes).1, responses);
            }
        }
    }

    #[test]
    fn events_of_flumes_client_are_read() {
        let (batches, _) = serve(fixture!("avro-plain.request"), usize::MAX, &[true; 3]);
        assert_eq!(batches.iter().map(EventBatch::len).collect::<Vec<_>>(), [1, 1, 3]);
        assert_eq!(batches[0].body(0), b"hello");
        assert_eq!(batches[1].body(0), "grüße 你好".as_bytes());
        assert_eq!(batches[1].header(0, "host"), Some("web1"));
        assert_eq!((batches[2].header(0, "kéy"), batches[2].body(0)), (Some("välue €"), &b""[..]));
        assert_eq!(batches[2].header(1, "empty"), Some(""));
        assert_eq!(batches[2].body(1), (0..=255).collect::<Vec<u8>>());
        assert_eq!(batches[2].header(2, "file"), Some("/var/log/app.log"));
        assert_eq!(batches[2].body(2).len(), 9000);
        assert_eq!(batches[2].header(0, "file"), None);
    }

    /// The events of the recorded connection, header order as on the wire.
    fn recorded() -> [EventBatch; 3] {
        let mut batches = [0, 1, 2].map(|_| BatchBuilder::default());
        batches[0].push(b"hello");
        batches[1].push("grüße 你好".as_bytes());
        batches[1].header("host", "web1");
        let last = &mut batches[2];
        last.push(b"");
        last.header("kéy", "välue €");
        last.push(&(0..=255).collect::<Vec<u8>>());
        last.header("empty", "");
        last.push(&(0..9000).map(|i| b'a' + (i % 26) as u8).collect::<Vec<u8>>());
        last.header("file", "/var/log/app.log");
        last.header("host", "web1");
        last.header("timestamp", "1700000000000");
        batches.map(BatchBuilder::finish)
    }

    #[test]
    fn calls_are_what_flumes_client_sends() {
        let mut client = AvroClient::new(Offer::default());
        let mut out = BytesMut::new();
        let mut responses = fixture!("avro-plain.response");
        for (index, batch) in recorded().iter().enumerate() {
            client.put_call(&mut out, batch, index < 2).unwrap();
            assert_eq!(client.feed(&mut responses), Ok(Some(Answer::Ok)));
        }
        // Flume cuts the last request into two buffers at 8192 bytes; the stream in them is the same.
        let frames = |mut bytes: &[u8]| {
            let mut decoder = FrameDecoder::new(1 << 20);
            std::iter::from_fn(|| decoder.feed(&mut bytes).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(frames(&out), frames(fixture!("avro-plain.request")));
        let same = 123;
        assert_eq!(out[..same], fixture!("avro-plain.request")[..same]);
    }

    #[test]
    fn refusals_and_handshakes_are_understood() {
        let batch = &recorded()[0];
        let mut out = BytesMut::new();
        let mut client = AvroClient::new(Offer::default());
        let mut responses = fixture!("avro-raw-none-error.response");
        let mut answers = Vec::new();
        for _ in 0..6 {
            client.put_call(&mut out, batch, true).unwrap();
            answers.push(client.feed(&mut responses).unwrap().unwrap());
        }
        let refused = |text: &str| Answer::Refused(text.into());
        assert_eq!(answers[..3], [Answer::Again, Answer::Ok, Answer::Ok]);
        assert_eq!(
            answers[3],
            refused("org.apache.avro.AvroRuntimeException: No such remote message: nosuch")
        );
        assert_eq!(answers[4..], [refused("java.io.EOFException"), Answer::Ok]);
        // The second request carried the protocol.
        let text = TEXT.as_bytes();
        assert_eq!(out.windows(text.len()).filter(|w| *w == text).count(), 1);
    }

    fn talk(
        client: &mut AvroClient,
        server: &mut AvroServer,
        batch: &EventBatch,
        outcome: Outcome<'_>,
    ) -> (Method, Answer) {
        let (mut out, mut back, mut inbound) = (BytesMut::new(), BytesMut::new(), VecDeque::new());
        client.put_call(&mut out, batch, false).unwrap();
        server.feed(&out, &mut inbound).unwrap();
        let Some(Inbound::Call(ticket, received)) = inbound.pop_front() else { panic!("no call") };
        assert_eq!(received.bodies().collect::<Vec<_>>(), batch.bodies().collect::<Vec<_>>());
        assert_eq!(received.header(0, "host"), batch.header(0, "host"));
        server.answer(&ticket, outcome, &mut back);
        let answer = client.feed(&mut &back[..]).unwrap().unwrap();
        (ticket.method, answer)
    }

    #[test]
    fn two_of_ours_agree_on_columns() {
        for zstd in [false, true] {
            let mut client = AvroClient::new(Offer { columns: true, zstd });
            let mut server = AvroServer::new(FRAME_BYTES_MAX);
            let batch = &recorded()[2];
            assert_eq!(talk(&mut client, &mut server, batch, Outcome::Ok), (Method::AppendBatch, Answer::Ok));
            assert_eq!(client.agreed(), Offer { columns: true, zstd });
            assert_eq!(talk(&mut client, &mut server, batch, Outcome::Ok), (Method::Columns, Answer::Ok));
            let refused = Answer::Refused("channel full".into());
            assert_eq!(
                talk(&mut client, &mut server, batch, Outcome::Failed("channel full")),
                (Method::Columns, refused)
            );
        }
    }

    #[test]
    fn a_row_of_bombs_is_opened_one_at_a_time() {
        const BODY: usize = 3 << 20;
        let mut client = AvroClient::new(Offer { columns: true, zstd: true });
        let mut server = AvroServer::new(FRAME_BYTES_MAX);
        talk(&mut client, &mut server, &recorded()[2], Outcome::Ok);
        let mut bomb = BatchBuilder::default();
        bomb.push(&vec![0; BODY]);
        let bomb = bomb.finish();
        let (mut out, mut inbound, mut calls) = (BytesMut::new(), VecDeque::new(), 0);
        (0..20).for_each(|_| client.put_call(&mut out, &bomb, false).unwrap());
        assert!(out.len() < 64 * 1024, "no bombs: {} bytes", out.len());
        server.feed(&out, &mut inbound).unwrap();
        loop {
            let bytes: usize = inbound
                .drain(..)
                .map(|call| match call {
                    Inbound::Call(_, batch) => {
                        calls += 1;
                        batch.size_bytes()
                    }
                    other => panic!("{other:?}"),
                })
                .sum();
            assert!(bytes < AHEAD_BYTES + BODY + 1024, "{bytes} at once");
            if !server.has_more() {
                break;
            }
            server.feed(&[], &mut inbound).unwrap();
        }
        assert_eq!((calls, server.held_bytes() < 64 * 1024), (20, true));
    }

    #[test]
    fn columns_are_for_those_who_agreed() {
        let mut server = AvroServer::new(FRAME_BYTES_MAX);
        let (mut out, mut inbound) = (BytesMut::new(), VecDeque::new());
        let mut head = BytesMut::new();
        HandshakeRequest {
            client_hash: HASH,
            client_protocol: None,
            server_hash: HASH,
            offer: Offer::default(),
        }
        .put(&mut head);
        put_long(&mut head, 0);
        put_bytes(&mut head, COLUMNS);
        put_frame(&mut out, 1, &[&head]);
        server.feed(&out, &mut inbound).unwrap();
        let Some(Inbound::Answer(answer)) = inbound.pop_front() else { panic!("accepted") };
        assert!(String::from_utf8_lossy(&answer).contains("No such remote message"));
    }

    #[test]
    fn truncated_handshakes_end_the_connection() {
        let mut out = BytesMut::new();
        put_frame(&mut out, 1, &[&[0; 20]]);
        let error = AvroServer::new(1000).feed(&out, &mut VecDeque::new()).unwrap_err();
        assert!(error.contains("handshake"), "{error}");
    }

    #[test]
    fn strangers_answers_end_the_connection() {
        let mut client = AvroClient::new(Offer::default());
        assert!(client.feed(&mut fixture!("avro-plain.response")).is_err());
        let mut out = BytesMut::new();
        let batch = EventBatch::single(Headers::new(), "x");
        client.put_call(&mut out, &batch, true).unwrap();
        client.put_call(&mut out, &batch, true).unwrap();
        let mut answer = BytesMut::new();
        put_frame(&mut answer, 2, &[&[0, 0, 0, 0], &[0], &[0, 0]]);
        assert!(client.feed(&mut &answer[..]).unwrap_err().contains("where 1 was due"));
    }
}
