//! A TCP connection that brings syslog messages.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::{AsyncRead, ReadBuf};

use super::put_patiently;
use crate::codec::syslog::frame::{Frame, Framer};
use crate::event::{BatchBuilder, EventBatch, Headers, Separator};
use crate::io::Stream;
use crate::io::stop::Stop;
use crate::source::SourceContext;

/// Most bytes of one read. The connections of a shard share the buffer: an idle one keeps only the
/// beginning of a message, if there is one.
const READ_BYTES: usize = 256 * 1024;
/// Connections of a shard; more wait in the kernel's queue. An idle one costs about 1.5 KiB: 24 MiB.
pub(super) const CONNECTIONS_MAX: usize = 16_384;
/// Unfinished messages of all connections of a shard, in bytes. A connection that would exceed it is
/// closed: 16,384 × the usual event size of 2,500 bytes is 40 MiB, and few are unfinished at once.
const UNFINISHED_BYTES_MAX: usize = 32 << 20;

/// What the connections of a shard share.
pub(super) struct Shared {
    pub(super) cx: SourceContext,
    scratch: RefCell<Vec<u8>>,
    unfinished: std::cell::Cell<usize>,
}

impl Shared {
    pub(super) fn new(cx: SourceContext) -> Rc<Self> {
        Rc::new(Self { cx, scratch: RefCell::default(), unfinished: std::cell::Cell::new(0) })
    }
}

/// What a connection may bring.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Longest message in bytes.
    pub event_size: usize,
    /// Most events of one transaction; the channels' own limit holds too.
    pub batch_size: Option<usize>,
}

/// Puts a batch in transactions of at most so many events. False if the stop came first.
async fn put_in_parts(cx: &SourceContext, mut batch: EventBatch, most: Option<usize>, stop: &Stop) -> bool {
    while let Some(most) = most
        && batch.len() > most
    {
        if !put_patiently(cx, batch.split_to(most), stop).await {
            return false;
        }
    }
    put_patiently(cx, batch, stop).await
}

/// Reads a connection to its end or to the stop. `push` adds the event of one message.
pub(super) async fn serve(
    shared: &Shared,
    (mut stream, peer): (Box<dyn Stream>, SocketAddr),
    limits: Limits,
    headers: Headers,
    stop: &Stop,
    mut push: impl FnMut(&[u8], bool, &mut BatchBuilder),
) {
    let mut carry = Carry { shared, bytes: Vec::new() };
    let mut framer = Framer::new(limits.event_size);
    loop {
        let mut batch = BatchBuilder::new(Separator::None);
        let read = poll_fn(|task| {
            let mut scratch = shared.scratch.borrow_mut();
            scratch.resize(READ_BYTES, 0);
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut stream).poll_read(task, &mut buffer) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {
                    let data = buffer.filled();
                    carry.cut(&mut framer, data, |message, frame| push(message, frame.is_cut, &mut batch));
                    Poll::Ready(Ok(!data.is_empty()))
                }
            }
        });
        let (goes_on, is_broken) = match stop.or(read).await {
            Some(Ok(goes_on)) => (goes_on, false),
            Some(Err(error)) => {
                tracing::debug!(source = %shared.cx.name, %peer, %error, "connection broke");
                (false, true)
            }
            None => (false, true),
        };
        if !batch.is_empty() {
            *batch.common_mut() = headers.clone();
            let batch = batch.finish();
            shared.cx.counters.event_received.add(batch.len() as u64);
            if !put_in_parts(&shared.cx, batch, limits.batch_size, stop).await {
                return;
            }
        }
        if shared.unfinished.get() > UNFINISHED_BYTES_MAX {
            tracing::warn!(source = %shared.cx.name, %peer, limit = UNFINISHED_BYTES_MAX, "too many unfinished messages; connection closed");
            return;
        }
        if !goes_on {
            // What a sender that closed in order left without a line feed is a message too.
            if !is_broken && !carry.bytes.is_empty() {
                let mut batch = BatchBuilder::new(Separator::None);
                let rest = std::mem::take(&mut *carry.bytes_mut());
                let mut at = 0;
                while let Some(frame) = framer.last(&rest, &mut at) {
                    push(&rest[frame.start..frame.end], frame.is_cut, &mut batch);
                }
                *batch.common_mut() = headers.clone();
                let batch = batch.finish();
                if !batch.is_empty() {
                    shared.cx.counters.event_received.add(batch.len() as u64);
                    put_in_parts(&shared.cx, batch, limits.batch_size, stop).await;
                }
            }
            return;
        }
    }
}

/// The beginning of a message whose rest has not arrived.
struct Carry<'a> {
    shared: &'a Shared,
    bytes: Vec<u8>,
}

impl Carry<'_> {
    fn cut(&mut self, framer: &mut Framer, data: &[u8], mut message: impl FnMut(&[u8], Frame)) {
        let before = self.bytes.len();
        let mut at = 0;
        if before == 0 {
            while let Some(frame) = framer.next(data, &mut at) {
                message(&data[frame.start..frame.end], frame);
            }
            self.bytes.extend_from_slice(&data[at..]);
        } else {
            self.bytes.extend_from_slice(data);
            while let Some(frame) = framer.next(&self.bytes, &mut at) {
                message(&self.bytes[frame.start..frame.end], frame);
            }
            self.bytes.drain(..at);
            if self.bytes.is_empty() {
                self.bytes = Vec::new();
            }
        }
        self.account(before);
    }
    fn bytes_mut(&mut self) -> &mut Vec<u8> {
        let before = self.bytes.len();
        self.shared.unfinished.set(self.shared.unfinished.get() - before);
        // Accounted as empty from here on: the caller takes them.
        &mut self.bytes
    }
    fn account(&self, before: usize) {
        self.shared.unfinished.set(self.shared.unfinished.get() - before + self.bytes.len());
    }
}

impl Drop for Carry<'_> {
    fn drop(&mut self) {
        self.shared.unfinished.set(self.shared.unfinished.get() - self.bytes.len());
    }
}
