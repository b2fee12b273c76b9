//! What a connection is doing, and since when: told by what passes between its socket and hyper.

use super::after;
use super::open::Place;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// How much more is read from a client whose request was refused, so that it finds the reply and not a reset connection:
/// closing a socket with bytes that nobody has read throws away what was sent before.
const LINGERING_BYTES: usize = 4 * 1024 * 1024;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing of a next request has come.
    Idle,
    /// A request has begun, and its head and body are not there yet.
    Receiving,
    /// A request is there, and its reply is not.
    Answering,
    /// A reply is there, and not yet sent.
    Sending,
    /// As before; and then the connection is closed, whatever is still to be read.
    Refusing,
    /// The reply of a refusal is sent, and the client may not have noticed.
    Lingering,
}

impl Stage {
    const ALL: [Self; 6] = [
        Self::Idle,
        Self::Receiving,
        Self::Answering,
        Self::Sending,
        Self::Refusing,
        Self::Lingering,
    ];

    /// The reason in the metrics, for a connection that is closed because this has taken too long.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Receiving => "request-timeout",
            Self::Answering | Self::Sending => "reply-timeout",
            Self::Refusing | Self::Lingering => "refused",
        }
    }
}

/// What one connection is doing. Only its own task writes it, so that nothing here waits or contends; what others read is in
/// the [`Place`].
pub(super) struct Pace {
    place: Place,
    /// The stage, and in the bits above it how many there have been, so that the same stage of another request differs.
    turn: AtomicU32,
}

/// The bits of a stage.
const STAGE: u32 = 0b111;

impl Pace {
    pub(super) fn new(place: Place) -> Self {
        Self {
            place,
            turn: AtomicU32::new(Stage::Idle as u32),
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Differs whenever something else has begun.
    pub(super) fn turn(&self) -> u32 {
        self.turn.load(Ordering::Relaxed)
    }

    pub(super) fn stage(&self) -> Stage {
        let index = (self.turn() & STAGE) as usize;
        Stage::ALL.get(index).copied().unwrap_or(Stage::Idle)
    }

    fn go(&self, stage: Stage) {
        let turns = (self.turn() | STAGE).wrapping_add(1);
        self.turn.store(turns | stage as u32, Ordering::Relaxed);
    }

    /// When a connection that is idle has been so for this long.
    pub(super) fn since_idle(&self, time: Duration) -> Instant {
        after(self.place.idle_since(), time)
    }

    /// The first byte of a request has come. False when the connection has been told to end before.
    fn receiving(&self) -> bool {
        self.go(Stage::Receiving);
        self.place.arriving()
    }

    /// A request is there. It may have come with the one before it, so that nothing was read for it.
    pub(super) fn answering(&self) {
        self.go(Stage::Answering);
        // When the connection has been told to end, it does so when this reply waits for anything.
        self.place.busy();
    }

    pub(super) fn sending(&self) {
        self.go(Stage::Sending);
    }

    pub(super) fn refusing(&self) {
        self.go(Stage::Refusing);
    }

    fn idle(&self) {
        self.go(Stage::Idle);
        self.place.idle();
    }
}

/// The socket of a connection, whose [`Pace`] it tells.
pub(super) struct Paced<S> {
    stream: S,
    pace: Arc<Pace>,
    /// Bytes that were read after a refusal.
    lingered: usize,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, pace: Arc<Pace>) -> Self {
        Self {
            stream,
            pace,
            lingered: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let has_begun = self.pace.stage() == Stage::Idle && buffer.filled().len() > before;
        if has_begun && !self.pace.receiving() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has written all that it had, and so the whole of a reply that was there before.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        if self.pace.stage() == Stage::Sending {
            self.pace.idle();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.pace.stage() {
            // What hyper cannot read, it refuses without asking the service.
            Stage::Receiving | Stage::Refusing => {
                ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
                self.pace.go(Stage::Lingering);
                self.poll_linger(context)
            }
            Stage::Lingering => self.poll_linger(context),
            Stage::Idle | Stage::Answering | Stage::Sending => {
                // Over TLS, this writes.
                let shut = Pin::new(&mut self.stream).poll_shutdown(context);
                if shut.is_pending() && self.pace.stage() == Stage::Idle {
                    self.pace.sending();
                }
                shut
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Paced<S> {
    /// Reads what a client still sends, until it has done so or it is too much.
    fn poll_linger(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [0; 4096];
        while self.lingered < LINGERING_BYTES {
            let mut buffer = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => break,
                Ok(()) => self.lingered += buffer.filled().len(),
                Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
