//! Standard output and error of a plugin, up to a number of bytes.

use super::limits::PluginBound;
use super::time::Meter;
use bytes::Bytes;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

/// How many bytes are taken at once. Some streams would take a mebibyte, which is more than a call may hand over.
const PIECE: usize = 64 * 1024;

/// How many bytes may still be written, to all streams that share it.
#[derive(Clone)]
pub(super) struct Budget {
    left: Arc<AtomicU64>,
    limit: Option<u64>,
    meter: Meter,
}

impl Budget {
    /// A budget that stops the plugin of `meter` when it is used up; without end when `limit` is absent.
    pub(super) fn new(limit: Option<u64>, meter: Meter) -> Self {
        Self {
            left: Arc::new(AtomicU64::new(limit.unwrap_or_default())),
            limit,
            meter,
        }
    }

    fn spend(&self, bytes: usize) -> Result<(), PluginBound> {
        let Some(limit) = self.limit else { return Ok(()) };
        let spend = |left: u64| left.checked_sub(u64::try_from(bytes).ok()?);
        if self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend)
            .is_ok()
        {
            return Ok(());
        }
        let bound = PluginBound::Output(limit);
        self.meter.stop(bound);
        Err(bound)
    }
}

/// A stream that ends with its budget.
pub(super) struct Limited<S> {
    stream: S,
    budget: Budget,
}

impl<S> Limited<S> {
    pub(super) fn new(stream: S, budget: Budget) -> Self {
        Self { stream, budget }
    }
}

impl<S: StdoutStream> IsTerminal for Limited<S> {
    fn is_terminal(&self) -> bool {
        self.stream.is_terminal()
    }
}

impl<S: StdoutStream> StdoutStream for Limited<S> {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(LimitedWrite {
            stream: Box::into_pin(self.stream.async_stream()),
            budget: self.budget.clone(),
        })
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(LimitedStream {
            stream: self.stream.p2_stream(),
            budget: self.budget.clone(),
        })
    }
}

/// For WASI 0.3.
struct LimitedWrite {
    stream: Pin<Box<dyn AsyncWrite + Send + Sync>>,
    budget: Budget,
}

impl AsyncWrite for LimitedWrite {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        let written = std::task::ready!(self.stream.as_mut().poll_write(context, piece))?;
        self.budget.spend(written).map_err(io::Error::other)?;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }
}

/// For WASI 0.2.
struct LimitedStream {
    stream: Box<dyn OutputStream>,
    budget: Budget,
}

#[async_trait]
impl Pollable for LimitedStream {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[async_trait]
impl OutputStream for LimitedStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.budget
            .spend(bytes.len())
            .map_err(|bound| StreamError::Trap(bound.into()))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.stream.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(self.stream.check_write()?.min(PIECE))
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}
