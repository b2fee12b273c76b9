//! What the command tells others: a collector, where `OTEL_EXPORTER_OTLP_ENDPOINT` names one, and the audit trail.

use crate::{audit, report};
use managed_identity_host::telemetry::{ExportConfig, Exporter};
use std::path::Path;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Registry, registry};

/// Sends metrics and spans until it is finished.
pub(crate) struct Telemetry(Option<Exporter>);

impl Telemetry {
    /// To be started before there is a broker, with the file that the audit trail goes to. That nothing can be sent keeps
    /// nobody from getting a token: it is said, and the command goes on.
    ///
    /// # Errors
    /// When there is no audit trail although one is wanted.
    pub(crate) fn start(trail: Option<&Path>) -> anyhow::Result<Self> {
        let exporter = exporter().unwrap_or_else(|error| {
            report::warning(&error);
            None
        });
        let trail = trail.map(audit::layer::<Registry>).transpose()?;
        if exporter.is_some() || trail.is_some() {
            let exported = exporter.as_ref().map(Exporter::layer);
            tracing::subscriber::set_global_default(registry().with(trail).with(exported))?;
        }
        Ok(Self(exporter))
    }

    /// Sends what is left.
    pub(crate) fn finish(self) {
        if let Some(Err(error)) = self.0.map(Exporter::shutdown) {
            report::warning(&error.into());
        }
    }
}

fn exporter() -> anyhow::Result<Option<Exporter>> {
    let config = ExportConfig::from_environment()?;
    Ok(config.map(|config| Exporter::start(&config)).transpose()?)
}
