//! What the command tells others: a collector, where `OTEL_EXPORTER_OTLP_ENDPOINT` names one, the audit trail, its log, and
//! whoever asks for metrics.

use crate::{audit, log, report};
use anyhow::anyhow;
use managed_identity_host::telemetry::{ExportConfig, Exporter};
use metrics::Recorder;
use metrics_exporter_prometheus::PrometheusHandle;
use metrics_util::layers::FanoutBuilder;
use std::path::Path;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Registry, registry};

/// What is to be told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// The file that the audit trail goes to.
    pub(crate) trail: Option<&'a Path>,
    /// How lines are logged; none are without it.
    pub(crate) log: Option<log::Settings>,
    /// Whether metrics can be asked for.
    pub(crate) metrics: bool,
}

/// Sends metrics and spans until it is finished.
pub(crate) struct Telemetry {
    exporter: Option<Exporter>,
    has_log: bool,
    served: Served,
}

/// What a server needs of it.
#[derive(Clone, Default)]
pub(crate) struct Served {
    /// The audit trail, if there is one.
    pub(crate) trail: Option<audit::Trail>,
    /// The metrics, if they can be asked for.
    pub(crate) metrics: Option<PrometheusHandle>,
}

impl Telemetry {
    /// To be started before there is a broker. That nothing can be sent keeps nobody from getting a token: it is said, and the
    /// command goes on.
    ///
    /// # Errors
    /// When there is no audit trail, or there are no metrics, although they are wanted.
    pub(crate) fn start(wanted: Wanted<'_>) -> anyhow::Result<Self> {
        let (metrics, recorder) = match wanted.metrics {
            true => {
                let recorder = managed_identity_serve::telemetry::prometheus()?;
                (Some(recorder.handle()), Some(recorder))
            }
            false => (None, None),
        };
        let (exporter, failure) = match exporter(recorder) {
            Ok(exporter) => (exporter, None),
            Err(failure) => (None, Some(failure)),
        };
        let trail = wanted.trail.map(audit::Trail::open).transpose()?;
        let has_log = wanted.log.is_some();
        if exporter.is_some() || trail.is_some() || has_log {
            let exported = exporter.as_ref().map(Exporter::layer);
            let trail = trail.as_ref().map(audit::Trail::layer);
            let log = wanted.log.map(log::layer::<Registry>);
            tracing::subscriber::set_global_default(registry().with(log).with(trail).with(exported))?;
        }
        let telemetry = Self {
            exporter,
            has_log,
            served: Served { trail, metrics },
        };
        if let Some(failure) = failure {
            telemetry.warn(&failure);
        }
        Ok(telemetry)
    }

    /// What a server needs of it.
    pub(crate) fn served(&self) -> Served {
        self.served.clone()
    }

    /// Sends what is left.
    pub(crate) fn finish(mut self) {
        if let Some(Err(error)) = self.exporter.take().map(Exporter::shutdown) {
            self.warn(&error.into());
        }
    }

    fn warn(&self, failure: &anyhow::Error) {
        match self.has_log {
            true => tracing::warn!(target: log::TARGET, failure = format!("{failure:#}"), "not all can be told"),
            false => report::warning(failure),
        }
    }
}

/// Starts what sends to a collector, if one is named, and installs its recorder of metrics, or `other`, or both. `other` is
/// installed in any case.
fn exporter<R: Recorder + Send + Sync + 'static>(other: Option<R>) -> anyhow::Result<Option<Exporter>> {
    let started = ExportConfig::from_environment()
        .and_then(|config| config.as_ref().map(Exporter::start_without_recorder).transpose());
    let (exporter, sent, failure) = match started {
        Ok(Some((exporter, recorder))) => (Some(exporter), recorder, None),
        Ok(None) => (None, None, None),
        Err(failure) => (None, None, Some(failure)),
    };
    match (sent, other) {
        (Some(sent), Some(other)) => {
            let both = FanoutBuilder::default().add_recorder(sent).add_recorder(other);
            install(both.build())?;
        }
        (Some(one), None) => install(one)?,
        (None, Some(one)) => install(one)?,
        (None, None) => {}
    }
    match failure {
        Some(failure) => Err(failure.into()),
        None => Ok(exporter),
    }
}

fn install(recorder: impl Recorder + Sync + 'static) -> anyhow::Result<()> {
    metrics::set_global_recorder(recorder).map_err(|_| anyhow!("Another recorder of metrics is installed already."))
}
