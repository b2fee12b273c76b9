//! HTTP/2, which Envoy speaks to its gRPC services, from the first frame on and without asking whether we do.
//!
//! hyper's library for it ends connections that break the protocol or ask for too much work: endless header fields, requests
//! that are taken back at once, frames that only make us answer. What it leaves to us is here: how long a client may say
//! nothing, ask for nothing, or not take what it is told.
//!
//! | a client that | is closed after | reason in the metrics |
//! |---|---|---|
//! | does not end the first 24 bytes | `request-timeout` | `request-timeout` |
//! | says nothing, in the middle of a request's head too | two times 10 s: it has not answered a ping | `silent` |
//! | sends half a body | `request-timeout`: the request is answered, and the connection goes on | |
//! | does not take a reply, by its window or by its socket | `request-timeout` | `reply-timeout` |
//! | answers pings and has no request | `idle-timeout` | `idle` |

use super::{LINGER, Place, after, closed};
use crate::config::Limits;
use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

#[cfg(test)]
mod tests;

/// What a client that speaks HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests at once on one connection. Envoy opens another connection when it has more.
const MOST_STREAMS: u32 = 1_000;

/// How often a client that says nothing is asked whether it is still there, and how long it may take to say so. It cannot say
/// so in the middle of a request's head.
const PINGS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));

/// A connection of which the first bytes have been read already.
pub(crate) struct Begun<S> {
    head: Bytes,
    stream: S,
}

/// Reads until it is clear what the client speaks. None when it has gone, or said nothing for too long.
pub(crate) async fn tell_apart<S>(mut stream: S, place: &Place, limits: &Limits) -> Option<(Begun<S>, bool)>
where
    S: AsyncRead + Unpin,
{
    let mut head = [0; PREFACE.len()];
    let mut length = 0;
    let mut deadline = after(Instant::now(), limits.idle_timeout);
    while length < PREFACE.len() && PREFACE.starts_with(head.get(..length)?) {
        match timeout_at(deadline, stream.read(head.get_mut(length..)?)).await {
            Ok(Ok(0)) if length == 0 => return None,
            // HTTP/1 knows what to make of half a request.
            Ok(Ok(0)) => break,
            Ok(Ok(read)) => {
                if length == 0 {
                    deadline = after(Instant::now(), limits.request_timeout);
                    if !place.arriving() {
                        return None;
                    }
                }
                length += read;
            }
            Ok(Err(_)) => return None,
            Err(_) => {
                closed(if length == 0 { "idle" } else { "request-timeout" });
                return None;
            }
        }
    }
    let head = head.get(..length)?;
    let is_http2 = head == PREFACE;
    let head = Bytes::copy_from_slice(head);
    Some((Begun { head, stream }, is_http2))
}

/// Serves one connection until either side ends it. Each request has its time within `answer`; here is how long a connection
/// may be without any, how long a client may leave replies where they are, and how it ends when the server does.
pub(crate) async fn serve<S, A, F, B>(stream: S, place: Place, limits: &Limits, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let streams = Arc::new(Streams {
        place,
        state: Mutex::default(),
        ended: Notify::new(),
    });
    // Nothing is under way before there is a request.
    streams.place.idle();
    let service = service_fn(|request| {
        let open = Open::new(&streams);
        let answer = answer(request);
        async move {
            let reply = answer.await;
            Ok::<_, Infallible>(reply.map(|body| Held { body, open }))
        }
    });
    let header_bytes = u32::try_from(limits.header_bytes).unwrap_or(u32::MAX);
    let (interval, patience) = PINGS;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .max_header_list_size(header_bytes)
        .keep_alive_interval(Some(interval))
        .keep_alive_timeout(patience);
    let stream = Watched {
        stream,
        streams: Arc::clone(&streams),
        is_blocked: false,
    };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // Nobody sets it when a client stops taking replies, so it comes at least as often as that has to be looked at.
    let look = limits.request_timeout.min(limits.idle_timeout);
    let mut timer = pin!(sleep_until(after(Instant::now(), look)));
    let mut is_ending = false;
    loop {
        let is_late = tokio::select! {
            ended = connection.as_mut() => {
                if ended.is_err_and(|error| error.is_timeout()) {
                    closed("silent");
                }
                return;
            }
            () = streams.ended.notified() => false,
            () = timer.as_mut() => true,
        };
        let untaken = streams.untaken_since();
        let untaken = untaken.map(|since| after(since, limits.request_timeout));
        if untaken.is_some_and(|deadline| Instant::now() >= deadline) {
            closed("reply-timeout");
            return;
        }
        let is_idle = streams.is_idle();
        if is_ending {
            if is_idle && is_late {
                return;
            }
            timer.as_mut().reset(after(Instant::now(), LINGER));
            continue;
        }
        let deadline = after(streams.place.idle_since(), limits.idle_timeout);
        let is_idle_too_long = is_idle && Instant::now() >= deadline;
        if is_idle_too_long {
            closed("idle");
        }
        is_ending = is_idle_too_long || streams.place.is_draining();
        if is_ending {
            connection.as_mut().graceful_shutdown();
            timer.as_mut().reset(after(Instant::now(), LINGER));
        } else {
            let next = deadline.min(after(Instant::now(), look));
            timer.as_mut().reset(untaken.map_or(next, |untaken| untaken.min(next)));
        }
    }
}

/// The requests under way on one connection.
struct Streams {
    place: Place,
    state: Mutex<State>,
    ended: Notify,
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
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        self.state().open == 0
    }

    /// Since when the client does not take what there is for it.
    fn untaken_since(&self) -> Option<Instant> {
        let state = self.state();
        let first = state.untaken.first_key_value().map(|(_, since)| *since);
        first.into_iter().chain(state.blocked).min()
    }
}

/// One of them, which has ended when this is dropped.
struct Open(Arc<Streams>);

impl Open {
    fn new(streams: &Arc<Streams>) -> Arc<Self> {
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
struct Held<B> {
    body: B,
    open: Arc<Open>,
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
struct Part {
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
struct Watched<S> {
    stream: S,
    streams: Arc<Streams>,
    is_blocked: bool,
}

impl<S> Watched<S> {
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

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.head.len().min(buffer.remaining());
        buffer.put_slice(&self.head.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
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
