//! One connection, from its first byte to its last.
//!
//! hyper reads requests, one after the other, and writes replies. What it leaves to us is here: how long each step may take
//! ([`pace`]), how many connections there may be at once ([`open`]), which requests are answered at all ([`form`]).

mod form;
pub(crate) mod http2;
mod open;
mod pace;
#[cfg(test)]
mod tests;

use crate::config::Limits;
use crate::protocol::Reply;
use form::Refused;
use http::HeaderValue;
use http::header::CONNECTION;
use http::request::Parts;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pace::{Pace, Paced, Stage};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

pub(crate) use open::{Connections, Place, closed};

/// The user at the other end of a Unix socket.
pub(crate) type User = Option<u32>;

/// What is less than this is too little for hyper.
const LEAST_BUFFER: usize = 8_192;

/// How long a client whose request was refused may take to notice, before its connection is reset.
const LINGER: Duration = Duration::from_secs(1);

/// Serves one connection until either side ends it. The protocol is HTTP/1.1; whoever adds another chooses here.
///
/// The timeouts are ours and not hyper's, whose timeout for heads runs while a connection is idle as well, says nothing of
/// bodies and replies, and makes a timer for each request. Here is one timer for the connection. It is set when it has to
/// end earlier than it would; when it ends too early, it is set again. So requests that arrive whole and are answered at once
/// never touch it.
pub(crate) async fn serve<S, A, F>(stream: S, place: Place, limits: &Limits, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Fn(Parts) -> F,
    F: Future<Output = Reply>,
{
    let pace = Arc::new(Pace::new(place));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let pace = Arc::clone(&pace);
        let (parts, body) = request.into_parts();
        let most = limits.body_bytes;
        // The answer is not even begun for a request that is refused.
        let asked = form::check(&parts, &body, most).map(|()| (discard(body, most), answer(parts)));
        async move {
            let answered = match asked {
                Ok((discarded, answer)) => match discarded.await {
                    Ok(()) => {
                        pace.answering();
                        Ok(answer.await)
                    }
                    Err(refused) => Err(refused),
                },
                Err(refused) => Err(refused),
            };
            let mut reply = match answered {
                Ok(reply) => {
                    pace.sending();
                    reply
                }
                Err(refused) => {
                    pace.refusing();
                    refused.reply()
                }
            };
            if pace.place().is_draining() {
                reply
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(reply)
        }
    });
    let mut builder = http1::Builder::new();
    // More than 100 header fields are refused by hyper's own default, which costs least.
    builder
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(LEAST_BUFFER));
    let mut http = builder.serve_connection(TokioIo::new(Paced::new(stream, Arc::clone(&pace))), service);

    let mut armed = pace.since_idle(limits.idle_timeout);
    let mut timer = pin!(sleep_until(armed));
    // The turn of the connection that the deadline is for.
    let mut turn = pace.turn();
    let mut deadline = armed;
    poll_fn(|context| {
        // A client that breaks off is its own business.
        if Pin::new(&mut http).poll(context).is_ready() {
            return Poll::Ready(());
        }
        let stage = pace.stage();
        let is_new = turn != pace.turn();
        turn = pace.turn();
        match stage {
            // A token takes as long as the platform may take to answer, and no longer.
            Stage::Answering => return Poll::Pending,
            Stage::Idle if pace.place().is_draining() => return Poll::Ready(()),
            Stage::Idle => deadline = pace.since_idle(limits.idle_timeout),
            Stage::Receiving | Stage::Sending | Stage::Refusing if is_new => {
                deadline = after(Instant::now(), limits.request_timeout);
            }
            Stage::Lingering if is_new => deadline = after(Instant::now(), limits.request_timeout.min(LINGER)),
            Stage::Receiving | Stage::Sending | Stage::Refusing | Stage::Lingering => {}
        }
        if deadline < armed {
            armed = deadline;
            timer.as_mut().reset(armed);
        }
        while timer.as_mut().poll(context).is_ready() {
            if Instant::now() >= deadline {
                closed(stage.reason());
                return Poll::Ready(());
            }
            armed = deadline;
            timer.as_mut().reset(armed);
        }
        Poll::Pending
    })
    .await;
}

/// Reads a body that nobody needs, so that the connection can be kept.
async fn discard(mut body: Incoming, most: usize) -> Result<(), Refused> {
    if body.is_end_stream() {
        return Ok(());
    }
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refused::BAD_REQUEST)?;
        bytes += frame.data_ref().map_or(0, bytes::Bytes::len);
        if bytes > most {
            return Err(Refused::TOO_LARGE);
        }
    }
    Ok(())
}

/// Some time after another; long after it, when that is too long to be told.
fn after(moment: Instant, time: Duration) -> Instant {
    const LONG: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    moment.checked_add(time).unwrap_or(moment + LONG)
}
