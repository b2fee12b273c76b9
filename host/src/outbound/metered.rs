//! A connection that carries only as much as a reply can have.
//!
//! The limits on head and body count what HTTP makes of the bytes. Interim replies, chunk sizes, chunk extensions and
//! trailers are none of both, and can go on for ever; so the bytes themselves are counted, from request to request.

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// How hyper is told that there is too much; nothing else about a socket is called so.
pub(super) const TOO_MUCH: io::ErrorKind = io::ErrorKind::FileTooLarge;

/// A stream that fails when more than `limit` bytes come between two writes.
pub(super) struct Metered<S> {
    stream: S,
    limit: usize,
    received: usize,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S, limit: usize) -> Self {
        Self {
            stream,
            limit,
            received: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S: Read + Unpin> Read for Metered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut chunk = [0; CHUNK];
        let room = buffer.remaining().min(CHUNK);
        let mut read = hyper::rt::ReadBuf::new(&mut chunk[..room]);
        ready!(Pin::new(&mut this.stream).poll_read(context, read.unfilled()))?;
        this.received = this.received.saturating_add(read.filled().len());
        if this.received > this.limit {
            return Poll::Ready(Err(TOO_MUCH.into()));
        }
        buffer.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

/// How many bytes are read at once: more than most replies have.
const CHUNK: usize = 8 * 1024;

impl<S: Write + Unpin> Write for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // The next request begins, and with it the next reply.
        self.received = 0;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.received = 0;
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: Connection> Connection for Metered<S> {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}
