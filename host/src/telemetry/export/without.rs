//! In place of the exporter, where it was not built.

use super::{ExportConfig, ExportError};
use metrics::NoopRecorder;
use tracing_subscriber::layer::Identity;

/// Sends metrics and spans to a collector. There is none without the cargo feature `opentelemetry`.
#[derive(Debug)]
pub enum Exporter {}

impl Exporter {
    /// Fails.
    ///
    /// # Errors
    /// [`ExportError::NotBuilt`].
    pub fn start(_: &ExportConfig) -> Result<Self, ExportError> {
        Err(ExportError::NotBuilt)
    }

    /// Fails.
    ///
    /// # Errors
    /// [`ExportError::NotBuilt`].
    pub fn start_without_recorder(_: &ExportConfig) -> Result<(Self, Option<NoopRecorder>), ExportError> {
        Err(ExportError::NotBuilt)
    }

    /// Takes the spans of this crate to the collector.
    #[must_use]
    pub fn layer(&self) -> Identity {
        match *self {}
    }

    /// Sends what is left.
    ///
    /// # Errors
    /// None.
    pub fn shutdown(self) -> Result<(), ExportError> {
        match self {}
    }
}
