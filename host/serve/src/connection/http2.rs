//! HTTP/2, which Envoy speaks to its gRPC services, from the first frame on and without asking whether we do.
//!
//! hyper's library for it ends connections that break the protocol or ask for too much work: header fields without end,
//! requests that are taken back at once. What it leaves to us is here: how long a client may say nothing, ask for nothing, or
//! not take what it is told, the answers to a flood of pings among that.
//!
//! | a client that | is closed after | reason in the metrics |
//! |---|---|---|
//! | does not end the first 24 bytes | `request-timeout` | `request-timeout` |
//! | says nothing, in the middle of a request's head too | 20 s: it has not answered a ping | `silent` |
//! | sends half a body | `request-timeout`: the request is answered, and the connection goes on | |
//! | does not take a reply, by its window or by its socket | `request-timeout` | `reply-timeout` |
//! | answers pings and has no request | `idle-timeout` | `idle` |

mod streams;
#[cfg(test)]
mod tests;

use super::{LINGER, Place, after, closed};
use crate::config::Limits;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use streams::{Held, Open, Streams, Watched};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until, timeout_at};

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
    let streams = Streams::new(place);
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
    let stream = Watched::new(stream, &streams);
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
