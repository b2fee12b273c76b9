//! What the command tells a collector, where `OTEL_EXPORTER_OTLP_ENDPOINT` names one.

use crate::report;
use managed_identity_host::telemetry::{ExportConfig, Exporter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry;

/// Sends metrics and spans until it is finished.
pub(crate) struct Telemetry(Option<Exporter>);

impl Telemetry {
    /// To be started before there is a broker. That nothing can be sent keeps nobody from getting a token: it is said, and
    /// the command goes on.
    pub(crate) fn start() -> Self {
        Self(start().unwrap_or_else(|error| {
            report::warning(&error);
            None
        }))
    }

    /// Sends what is left.
    pub(crate) fn finish(self) {
        if let Some(Err(error)) = self.0.map(Exporter::shutdown) {
            report::warning(&error.into());
        }
    }
}

fn start() -> anyhow::Result<Option<Exporter>> {
    let Some(config) = ExportConfig::from_environment()? else {
        return Ok(None);
    };
    let exporter = Exporter::start(&config)?;
    tracing::subscriber::set_global_default(registry().with(exporter.layer()))?;
    Ok(Some(exporter))
}
