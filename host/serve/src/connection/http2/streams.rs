//! What is under way on one connection, and since when its client does not take what there is for it.

use crate::connection::Place;
use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The requests under way on one connection.
pub(super) struct Streams {
    pub(super) place: Place,
    state: Mutex<State>,
    /// One of them has ended.
    pub(super) ended: Notify,
}

#[derive(Default)]
struct State {
    /// How many there are.
    open: usize,
    /// How many parts of replies there have been.
    parts: u64,
    /// Those that are still here, by their numbers, and since when.
    untaken: BTreeMap<u64, Instant>,
    /// Since when the socket has not taken all that was written to it.
    blocked: Option<Instant>,
}

impl Streams {
    pub(super) fn new(place: Place) -> Arc<Self> {
        Arc::new(Self {
            place,
            state: Mutex::default(),
            ended: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.state().open == 0
    }

    /// Since when the client does not take what there is for it.
    pub(super) fn untaken_since(&self) -> Option<Instant> {
        let state = self.state();
        let first = state.untaken.first_key_value().map(|(_, since)| *since);
        first.into_iter().chain(state.blocked).min()
    }
}

/// One of them, which has ended when this is dropped.
pub(super) struct Open(Arc<Streams>);

impl Open {
    pub(super) fn new(streams: &Arc<Streams>) -> Arc<Self> {
        let mut state = streams.state();
        if state.open == 0 {
            // False when the connection was told to end, which ends this with it.
            streams.place.busy();
        }
        state.open += 1;
        Arc::new(Self(Arc::clone(streams)))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        {
            let mut state = self.0.state();
            state.open -= 1;
            if state.open == 0 {
                self.0.place.idle();
            }
        }
        self.0.ended.notify_one();
    }
}

/// The body of a reply.
pub(super) struct Held<B> {
    pub(super) body: B,
    pub(super) open: Arc<Open>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Held<B> {
    type Data = Part;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        polled.map_ok(|frame| frame.map_data(|bytes| Part::new(bytes, &self.open)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A part of a reply, which is dropped when all of it is written. Until then the client has not made room for it, and the
/// request has not ended.
pub(super) struct Part {
    bytes: Bytes,
    number: u64,
    open: Arc<Open>,
}

impl Part {
    fn new(bytes: Bytes, open: &Arc<Open>) -> Self {
        let mut state = open.0.state();
        state.parts += 1;
        let number = state.parts;
        state.untaken.insert(number, Instant::now());
        Self {
            bytes,
            number,
            open: Arc::clone(open),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.open.0.state().untaken.remove(&self.number);
    }
}

impl Buf for Part {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

/// The socket of a connection, which tells when the client does not read from it. A client that reads ever so slowly does not
/// take all of it either.
pub(super) struct Watched<S> {
    stream: S,
    streams: Arc<Streams>,
    is_blocked: bool,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, streams: &Arc<Streams>) -> Self {
        Self {
            stream,
            streams: Arc::clone(streams),
            is_blocked: false,
        }
    }

    fn tell(&mut self, is_blocked: bool) {
        if self.is_blocked != is_blocked {
            self.is_blocked = is_blocked;
            self.streams.state().blocked = is_blocked.then(Instant::now);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if polled.is_pending() {
            self.tell(true);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        if polled.is_pending() {
            self.tell(true);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Ready when all that was written has been taken.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        let is_blocked = polled.is_pending();
        self.tell(is_blocked);
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        if polled.is_pending() {
            self.tell(true);
        }
        polled
    }
}
