//! A compressed byte stream: zlib in both directions over any other stream, as Flume's
//! `compression-type = deflate` has it.
//!
//! RFC 1950, one continuous stream per direction and connection. Every flush ends with an empty block
//! (`Z_SYNC_FLUSH`), so that the other side can read everything written so far. Compressor and
//! decompressor are made at the first byte: an idle connection costs nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Compressed bytes read at once.
const INPUT_BYTES: usize = 16 * 1024;
/// Compressed bytes that may wait to be written.
const OUTPUT_BYTES: usize = 64 * 1024;

/// See the module.
pub struct ZlibStream<S> {
    inner: S,
    level: Compression,
    /// A client ends its stream when it closes; Flume's server never does.
    finish: bool,
    decompress: Option<Box<Decompress>>,
    input: Vec<u8>,
    input_at: usize,
    /// The last call filled its buffer: there may be more without further input.
    more: bool,
    ended: bool,
    compress: Option<Box<Compress>>,
    output: Vec<u8>,
    output_at: usize,
    unflushed: bool,
    finished: bool,
}

impl<S> ZlibStream<S> {
    /// Wraps a stream. `level` is 0 to 9.
    pub fn new(inner: S, level: u32, finish: bool) -> Self {
        Self {
            inner,
            level: Compression::new(level.min(9)),
            finish,
            decompress: None,
            input: Vec::new(),
            input_at: 0,
            more: false,
            ended: false,
            compress: None,
            output: Vec::new(),
            output_at: 0,
            unflushed: false,
            finished: false,
        }
    }

    /// Compresses into the output buffer and returns what was consumed.
    fn deflate(&mut self, bytes: &[u8], flush: FlushCompress) -> io::Result<usize> {
        let level = self.level;
        let compress = self.compress.get_or_insert_with(|| Box::new(Compress::new(level, true)));
        let before = compress.total_in();
        self.output.reserve(OUTPUT_BYTES);
        compress.compress_vec(bytes, &mut self.output, flush).map_err(io::Error::other)?;
        Ok((compress.total_in() - before) as usize)
    }

    /// Ends a block (or the stream) with however many calls that takes.
    fn end_block(&mut self, flush: FlushCompress) -> io::Result<()> {
        loop {
            self.deflate(&[], flush)?;
            // Room was left: the compressor has nothing more to say.
            if self.output.len() < self.output.capacity() {
                return Ok(());
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> ZlibStream<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.output.get(self.output_at..).filter(|r| !r.is_empty()) {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output_at += written;
        }
        self.output.clear();
        self.output_at = 0;
        if self.output.capacity() > 2 * OUTPUT_BYTES {
            self.output = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ZlibStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            let waiting = this.input.get(this.input_at..).unwrap_or_default();
            if !waiting.is_empty() || this.more {
                let decompress = this.decompress.get_or_insert_with(|| Box::new(Decompress::new(true)));
                let (ins, outs) = (decompress.total_in(), decompress.total_out());
                let status = decompress
                    .decompress(waiting, buf.initialize_unfilled(), FlushDecompress::None)
                    .map_err(|e| {
                        io::Error::new(io::ErrorKind::InvalidData, format!("not a deflate stream: {e}"))
                    })?;
                this.input_at += (decompress.total_in() - ins) as usize;
                let produced = (decompress.total_out() - outs) as usize;
                buf.advance(produced);
                this.more = buf.remaining() == 0;
                this.ended = status == Status::StreamEnd;
                if produced > 0 {
                    return Poll::Ready(Ok(()));
                }
                if this.ended || this.input_at < this.input.len() {
                    continue;
                }
            }
            this.input.resize(INPUT_BYTES, 0);
            let mut raw = ReadBuf::new(&mut this.input);
            match Pin::new(&mut this.inner).poll_read(cx, &mut raw) {
                Poll::Ready(Ok(())) => {
                    let size = raw.filled().len();
                    this.input_at = 0;
                    this.input.truncate(size);
                    if size == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                other => {
                    // Nothing is kept for a connection that waits.
                    this.input = Vec::new();
                    this.input_at = 0;
                    return other;
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ZlibStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.output.len() - this.output_at >= OUTPUT_BYTES {
            ready!(this.poll_drain(cx))?;
        }
        // A piece at a time, so that the output buffer stays bounded.
        let piece = bytes.get(..OUTPUT_BYTES).unwrap_or(bytes);
        let taken = this.deflate(piece, FlushCompress::None)?;
        this.unflushed = true;
        Poll::Ready(Ok(taken))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unflushed {
            this.end_block(FlushCompress::Sync)?;
            this.unflushed = false;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.finished && this.compress.is_some() {
            this.end_block(if this.finish { FlushCompress::Finish } else { FlushCompress::Sync })?;
            this.unflushed = false;
        }
        this.finished = true;
        ready!(this.poll_drain(cx))?;
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }
    fn noise(size: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..size).map(|_| next()).collect()
    }

    #[test]
    fn what_is_flushed_can_be_read() {
        run(async {
            for (level, pipe) in [(0, 100), (1, 1 << 20), (6, 7), (9, 4096)] {
                let (a, b) = duplex(pipe);
                let (mut a, mut b) = (ZlibStream::new(a, level, true), ZlibStream::new(b, 6, false));
                for message in [b"hello".to_vec(), vec![b'x'; 300_000], noise(200_000), vec![1]] {
                    let mut back = vec![0; message.len()];
                    let (sent, read) = tokio::join!(
                        async {
                            a.write_all(&message).await?;
                            a.flush().await
                        },
                        b.read_exact(&mut back)
                    );
                    sent.unwrap();
                    read.unwrap();
                    assert!(back == message, "level {level}, pipe {pipe}, {} bytes", message.len());
                }
                let (closed, end) = tokio::join!(a.shutdown(), b.read_u8());
                closed.unwrap();
                assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            }
        });
    }

    #[test]
    fn a_client_of_flume_is_understood() {
        run(async {
            let recorded = include_bytes!("../../tests/fixtures/avro/avro-deflate.request.bin");
            let plain = include_bytes!("../../tests/fixtures/avro/avro-plain.request.bin");
            let mut stream = ZlibStream::new(&recorded[..], 6, false);
            let mut back = Vec::new();
            let mut piece = [0; 1000];
            loop {
                let mut buf = ReadBuf::new(&mut piece);
                std::future::poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut buf)).await.unwrap();
                if buf.filled().is_empty() {
                    break;
                }
                back.extend_from_slice(buf.filled());
            }
            assert!(back == plain);
        });
    }

    #[test]
    fn other_bytes_are_an_error() {
        run(async {
            let mut stream = ZlibStream::new(&b"GET / HTTP/1.1"[..], 6, false);
            let mut piece = [0; 100];
            let mut buf = ReadBuf::new(&mut piece);
            let error = std::future::poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut buf)).await;
            assert!(error.unwrap_err().to_string().contains("deflate"));
        });
    }
}
