//! The body of a reply, limited in size and time.

use super::error::OutboundError;
use super::origin::Origin;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};

/// The body of a reply.
///
/// It ends with an error when it has too many bytes, when nothing comes for too long, and when the exchange as a whole
/// takes too long. The connection is then closed, as it is when the body is dropped before its end.
pub struct LimitedBody {
    arriving: Option<Arriving>,
    /// The places among the requests under way, given back with the connection.
    places: [Option<OwnedSemaphorePermit>; 2],
    limits: BodyLimits,
    remaining: u64,
    /// When the whole exchange has to be over.
    deadline: Pin<Box<Sleep>>,
    /// Runs only while the reader waits, so that a slow reader is not taken for a slow endpoint.
    waiting: Option<Pin<Box<Sleep>>>,
}

/// A body that comes piece by piece over a connection, or came whole by a [`Transport`](super::Transport).
pub(super) enum Arriving {
    Incoming(Incoming),
    Whole(Full<Bytes>),
}

impl Arriving {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self {
            Self::Incoming(body) => Pin::new(body).poll_frame(context),
            Self::Whole(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Incoming(body) => body.is_end_stream(),
            Self::Whole(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Incoming(body) => body.size_hint(),
            Self::Whole(body) => body.size_hint(),
        }
    }
}

/// What a [`LimitedBody`] is limited to, and what its errors name.
#[derive(Debug)]
pub(super) struct BodyLimits {
    pub(super) origin: Origin,
    pub(super) bytes: u64,
    pub(super) between_bytes: Duration,
    pub(super) exchange: Duration,
    pub(super) head_bytes: usize,
    pub(super) head_fields: usize,
}

impl LimitedBody {
    /// Fails at once if the reply declares more than it may have. `deadline` began with the exchange.
    pub(super) fn new(
        arriving: Arriving,
        limits: BodyLimits,
        deadline: Pin<Box<Sleep>>,
        places: [Option<OwnedSemaphorePermit>; 2],
    ) -> Result<Self, OutboundError> {
        if arriving.size_hint().lower() > limits.bytes {
            return Err(OutboundError::BodyTooLarge {
                origin: limits.origin,
                limit: limits.bytes,
            });
        }
        let remaining = limits.bytes;
        Ok(Self {
            arriving: Some(arriving),
            places,
            limits,
            remaining,
            deadline,
            waiting: None,
        })
    }
}

impl Body for LimitedBody {
    type Data = Bytes;
    type Error = OutboundError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, OutboundError>>> {
        let this = self.get_mut();
        let Some(arriving) = &mut this.arriving else {
            return Poll::Ready(None);
        };
        let limits = &this.limits;
        let origin = || limits.origin.clone();
        let error = if this.deadline.as_mut().poll(context).is_ready() {
            OutboundError::TooSlow {
                origin: origin(),
                after: limits.exchange,
            }
        } else {
            match arriving.poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.waiting = None;
                    let bytes = frame.data_ref().map_or(0, Bytes::len);
                    match u64::try_from(bytes)
                        .ok()
                        .and_then(|bytes| this.remaining.checked_sub(bytes))
                    {
                        Some(remaining) => {
                            this.remaining = remaining;
                            return Poll::Ready(Some(Ok(frame)));
                        }
                        None => OutboundError::BodyTooLarge {
                            origin: origin(),
                            limit: limits.bytes,
                        },
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    OutboundError::in_reply(&limits.origin, &error, limits.head_bytes, limits.head_fields)
                }
                Poll::Ready(None) => {
                    this.arriving = None;
                    this.places = [None, None];
                    return Poll::Ready(None);
                }
                Poll::Pending => {
                    let waiting = this
                        .waiting
                        .get_or_insert_with(|| Box::pin(sleep(limits.between_bytes)));
                    ready!(waiting.as_mut().poll(context));
                    OutboundError::Stalled {
                        origin: origin(),
                        after: limits.between_bytes,
                    }
                }
            }
        };
        tracing::debug!(target: super::client::LOG_TARGET, %error, "the reply failed");
        this.arriving = None;
        this.places = [None, None];
        Poll::Ready(Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.arriving.as_ref().is_none_or(Arriving::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.arriving
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Arriving::size_hint)
    }
}

impl fmt::Debug for LimitedBody {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LimitedBody")
            .field("limits", &self.limits)
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the connection is the test's own")]

    use super::super::origin::Scheme;
    use super::*;
    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    /// A body of which one byte comes after each of these pauses, in seconds.
    async fn drip(pauses: &'static [u64], exchange: u64) -> LimitedBody {
        let (near, mut far) = tokio::io::duplex(1024);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
        tokio::spawn(connection);
        tokio::spawn(async move {
            far.read_u8().await.unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", pauses.len());
            far.write_all(head.as_bytes()).await.unwrap();
            for pause in pauses {
                sleep(Duration::from_secs(*pause)).await;
                // The reader may have given up.
                let _ = far.write_all(b"x").await;
            }
        });
        let deadline = Box::pin(sleep(Duration::from_secs(exchange)));
        let response = sender
            .send_request(http::Request::new(Empty::<Bytes>::new()))
            .await
            .unwrap();
        let limits = BodyLimits {
            origin: Origin::parse(Scheme::Http, "127.0.0.1").unwrap(),
            bytes: 100,
            between_bytes: Duration::from_secs(10),
            exchange: Duration::from_secs(exchange),
            head_bytes: 8192,
            head_fields: 64,
        };
        LimitedBody::new(Arriving::Incoming(response.into_body()), limits, deadline, [None, None]).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn each_pause_counts_by_itself_and_all_of_it_together() {
        for (pauses, exchange, after, whole) in [
            ([6, 6, 6, 6].as_slice(), 120, 24, Ok(())),
            (&[6, 6, 11], 120, 22, Err("stopped in the middle of its reply for 10s")),
            (&[6, 6, 6, 6], 20, 20, Err("has not finished its reply within 20s")),
        ] {
            let body = drip(pauses, exchange).await;
            let start = Instant::now();
            let collected = body.collect().await;
            // Timers go in milliseconds, and each may be one late.
            assert_eq!(start.elapsed().as_secs(), after, "{pauses:?}");
            match whole {
                Ok(()) => assert_eq!(collected.unwrap().to_bytes().len(), pauses.len()),
                Err(text) => {
                    let error = collected.unwrap_err().to_string();
                    assert!(error.contains(text), "{error}");
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_not_taken_for_a_slow_endpoint() {
        let mut body = drip(&[1, 35], 120).await;
        assert!(body.frame().await.unwrap().is_ok());
        sleep(Duration::from_secs(30)).await;
        assert!(body.frame().await.unwrap().is_ok());
    }
}
