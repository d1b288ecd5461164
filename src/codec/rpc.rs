//! What the RPC servers have in common, whatever bytes they speak: calls come in, answers go out in order.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::event::EventBatch;

/// How events were handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// One event.
    Append,
    /// A batch that has to be put in one transaction.
    AppendBatch,
    /// Events grouped by another Millrace for the way only; they may be put in several transactions.
    Columns,
}

/// What the answer to a call needs to know of it.
#[derive(Debug)]
pub struct Ticket {
    /// Serial or sequence number of the call.
    pub serial: i32,
    /// Which method.
    pub method: Method,
    /// Goes before the answer: an Avro handshake. Empty nearly always.
    pub prefix: Bytes,
}

/// What arrived.
#[derive(Debug)]
pub enum Inbound {
    /// Events to put; answer with the ticket afterwards.
    Call(Ticket, EventBatch),
    /// Something that is answered without the channels.
    Answer(Bytes),
    /// A polite goodbye: answer what is owed, then close.
    Close,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// Committed.
    Ok,
    /// A channel refused, with its reason. Nothing of the batch may be taken for delivered.
    Failed(&'a str),
}

/// The server's side of one connection; pure.
pub trait ServerSession {
    /// Takes bytes from the peer and appends the calls they complete.
    ///
    /// # Errors
    /// Why the connection cannot go on, for the log.
    fn feed(&mut self, bytes: &[u8], inbound: &mut VecDeque<Inbound>) -> Result<(), String>;
    /// Appends the answer to a call.
    fn answer(&mut self, ticket: &Ticket, outcome: Outcome<'_>, out: &mut BytesMut);
    /// True if bytes were kept because the calls before them already hold enough memory: feed nothing, when those
    /// calls are under way, to go on.
    fn has_more(&self) -> bool {
        false
    }
    /// Bytes held of a call that is not complete yet; 0 between calls.
    fn held_bytes(&self) -> usize;
}
