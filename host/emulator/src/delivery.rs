//! The body of a reply on its way to the client, whole or as a fault has it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderValue, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::clock;
use crate::fault::Delivery;
use crate::reply::Reply;

/// Spaces that follow the body of an endless reply; JSON may be followed by as many as one likes.
static PADDING: [u8; 16 * 1024] = [b' '; 16 * 1024];

/// A body that holds on to something (the places its request takes up) until it is sent or given up.
pub(crate) struct DeliveredBody<Held> {
    course: Course,
    _held: Held,
}

enum Course {
    Whole(Bytes),
    Drip {
        rest: Bytes,
        interval: Duration,
        pause: Pin<Box<Sleep>>,
    },
    Endless {
        rest: Bytes,
        left: u64,
    },
    Truncated {
        rest: Bytes,
        paused: bool,
    },
}

/// Turns a reply into a response dated `now`, whose body takes the given course.
pub(crate) fn deliver<Held>(reply: Reply, delivery: Delivery, now: i64, held: Held) -> Response<DeliveredBody<Held>> {
    let Reply { status, headers, body } = reply;
    let mut length = None;
    let course = match delivery {
        // The server delivers all of these but the first in ways of its own.
        Delivery::Whole
        | Delivery::Hang
        | Delivery::Close
        | Delivery::Reset
        | Delivery::Raw(_)
        | Delivery::EndlessHeader { .. }
        | Delivery::InterimReplies { .. } => Course::Whole(body),
        Delivery::Drip { interval } => {
            length = Some(body.len());
            Course::Drip {
                rest: body,
                interval,
                pause: Box::pin(tokio::time::sleep(interval)),
            }
        }
        Delivery::Endless { bytes } => {
            let left = bytes.saturating_sub(u64::try_from(body.len()).unwrap_or(u64::MAX));
            Course::Endless { rest: body, left }
        }
        Delivery::Truncated { after_bytes } => {
            // The promise exceeds what is sent even if the body is shorter than the place of the cut.
            length = Some(body.len().max(after_bytes.saturating_add(1)));
            Course::Truncated {
                rest: body.slice(..after_bytes.min(body.len())),
                paused: false,
            }
        }
    };
    let mut response = Response::new(DeliveredBody { course, _held: held });
    *response.status_mut() = status;
    for (name, value) in headers {
        response.headers_mut().insert(name, value);
    }
    if let Some(length) = length {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    if let Ok(date) = HeaderValue::try_from(clock::http_date(now)) {
        response.headers_mut().entry(DATE).or_insert(date);
    }
    response
}

impl<Held: Unpin> Body for DeliveredBody<Held> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let data = match &mut self.get_mut().course {
            Course::Whole(rest) => std::mem::take(rest),
            Course::Drip { rest, .. } if rest.is_empty() => Bytes::new(),
            Course::Drip { rest, interval, pause } => {
                ready!(pause.as_mut().poll(cx));
                *pause = Box::pin(tokio::time::sleep(*interval));
                rest.split_to(1)
            }
            Course::Endless { rest, left } if rest.is_empty() => {
                let size = usize::try_from(*left).unwrap_or(usize::MAX).min(PADDING.len());
                *left -= size as u64;
                Bytes::from_static(&PADDING[..size])
            }
            Course::Endless { rest, .. } => std::mem::take(rest),
            Course::Truncated { rest, paused } if rest.is_empty() => {
                if !*paused {
                    // An error makes hyper drop what it has not sent yet, and a pause makes it send that first.
                    *paused = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                return Poll::Ready(Some(Err(io::Error::other("the reply is cut short on purpose"))));
            }
            Course::Truncated { rest, .. } => std::mem::take(rest),
        };
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.course, Course::Whole(rest) if rest.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.course {
            Course::Whole(rest) => SizeHint::with_exact(rest.len() as u64),
            _ => SizeHint::default(),
        }
    }
}
