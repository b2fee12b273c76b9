//! HTTP/2, which Envoy speaks to its gRPC services, from the first frame on and without asking whether we do.

use super::{LINGER, Place, after, closed};
use crate::config::Limits;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

/// What a client that speaks HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests at once on one connection. Envoy opens another connection when it has more.
const MOST_STREAMS: u32 = 1_000;

/// How often a client that says nothing is asked whether it is still there, and how long it may take to say so.
const PINGS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

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
/// may be without any, and how it ends when the server does.
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
        open: Mutex::new(0),
        ended: Notify::new(),
    });
    let service = service_fn(|request| {
        let open = Open::new(&streams);
        let answer = answer(request);
        async move {
            let reply = answer.await;
            Ok::<_, Infallible>(reply.map(|body| Held { body, _open: open }))
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
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut timer = pin!(sleep_until(after(Instant::now(), limits.idle_timeout)));
    let mut is_ending = false;
    loop {
        let is_late = tokio::select! {
            _ = connection.as_mut() => return,
            () = streams.ended.notified() => false,
            () = timer.as_mut() => true,
        };
        let is_idle = *streams.open() == 0;
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
            timer.as_mut().reset(deadline);
        }
    }
}

/// The requests under way on one connection.
struct Streams {
    place: Place,
    open: Mutex<usize>,
    ended: Notify,
}

impl Streams {
    fn open(&self) -> MutexGuard<'_, usize> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of them, which has ended when this is dropped.
struct Open(Arc<Streams>);

impl Open {
    fn new(streams: &Arc<Streams>) -> Self {
        let mut open = streams.open();
        if *open == 0 {
            // False when the connection was told to end, which ends this with it.
            streams.place.busy();
        }
        *open += 1;
        Self(Arc::clone(streams))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        {
            let mut open = self.0.open();
            *open -= 1;
            if *open == 0 {
                self.0.place.idle();
            }
        }
        self.0.ended.notify_one();
    }
}

/// The body of a reply, with which the request ends.
struct Held<B> {
    body: B,
    _open: Open,
}

impl<B: Body + Unpin> Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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
