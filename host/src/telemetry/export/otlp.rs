//! The exporter: OpenTelemetry's SDK, with this crate's HTTP.

use super::collector::{Client, Running};
use super::recorder::MeterRecorder;
use super::{ExportConfig, ExportError};
use metrics::Recorder;
use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::time::Duration;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

/// The name of the service that no variable names, and of what measures in it.
const NAME: &str = "managed-identity";

/// How the targets of this crate's spans and events begin. Nobody else's are sent: what they hold is not known.
const TARGETS: &str = "managed_identity";

/// Events that are not sent either: who asked for what is for those who read the audit trail.
const AUDIT_TARGET: &str = "managed_identity::audit";

/// How long after its time-out a delivery may still end, and say how.
const GRACE: Duration = Duration::from_millis(500);

/// Sends metrics and spans to a collector, by OTLP over HTTP, as protobuf.
///
/// It goes through [`outbound`](crate::outbound), so by the same rules as everything: to the collector's URLs and nowhere
/// else, with the same limits and the same TLS, without redirects and proxies. It runs on threads of its own, so that it
/// needs no runtime of the program's, and holds up none.
///
/// ```no_run
/// use managed_identity_host::Broker;
/// use managed_identity_host::telemetry::{ExportConfig, Exporter};
/// use tracing_subscriber::layer::SubscriberExt;
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// // Before the broker is built, because that asks for the recorder of metrics.
/// let exporter = Exporter::start(&ExportConfig::new("http://127.0.0.1:4318"))?;
/// tracing::subscriber::set_global_default(tracing_subscriber::registry().with(exporter.layer()))?;
/// let broker = Broker::from_environment()?;
/// // …
/// exporter.shutdown()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Exporter {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    client: Client,
    timeout: Duration,
    _running: Running,
}

impl Exporter {
    /// Starts to send, and installs the process's recorder of metrics, if they are sent.
    ///
    /// # Errors
    /// When the collector's URL is none, a setting is not supported, or another recorder is installed already.
    pub fn start(config: &ExportConfig) -> Result<Self, ExportError> {
        let (exporter, recorder) = Self::start_without_recorder(config)?;
        if let Some(recorder) = recorder {
            metrics::set_global_recorder(recorder).map_err(|_| ExportError::Recorder)?;
        }
        Ok(exporter)
    }

    /// Starts to send, and leaves it to the program to install the recorder of metrics, if they are sent: for programs
    /// that have another one beside it, behind a recorder that tells both.
    ///
    /// # Errors
    /// When the collector's URL is none, or a setting is not supported.
    pub fn start_without_recorder(
        config: &ExportConfig,
    ) -> Result<(Self, Option<impl Recorder + Send + Sync + use<>>), ExportError> {
        let settings = |error: opentelemetry_otlp::ExporterBuildError| ExportError::Settings(error.to_string());
        let (client, running) = Client::start(config)?;
        let traces = match &config.traces {
            Some(url) => {
                let exporter = SpanExporter::builder()
                    .with_http()
                    .with_http_client(client.clone())
                    .with_endpoint(url)
                    .with_protocol(Protocol::HttpBinary)
                    .with_timeout(config.timeout)
                    .build()
                    .map_err(settings)?;
                let provider = SdkTracerProvider::builder()
                    .with_resource(resource())
                    .with_batch_exporter(exporter);
                Some(provider.build())
            }
            None => None,
        };
        let (metrics, recorder) = match &config.metrics {
            Some(url) => {
                let exporter = MetricExporter::builder()
                    .with_http()
                    .with_http_client(client.clone())
                    .with_endpoint(url)
                    .with_protocol(Protocol::HttpBinary)
                    .with_timeout(config.timeout)
                    .build()
                    .map_err(settings)?;
                let provider = SdkMeterProvider::builder()
                    .with_resource(resource())
                    .with_periodic_exporter(exporter)
                    .build();
                let recorder = MeterRecorder::new(provider.meter(NAME));
                (Some(provider), Some(recorder))
            }
            None => (None, None),
        };
        let exporter = Self {
            traces,
            metrics,
            client,
            timeout: config.timeout,
            _running: running,
        };
        Ok((exporter, recorder))
    }

    /// Takes the spans of this crate to the collector, and their events, as part of a subscriber.
    #[must_use]
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + 'static + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        self.traces.as_ref().map(|traces| {
            tracing_opentelemetry::layer()
                .with_tracer(traces.tracer(NAME))
                // Places in the source, and threads, say nothing to an operator.
                .with_location(false)
                .with_threads(false)
                .with_filter(filter_fn(is_ours))
        })
    }

    /// Sends what is left, and ends. Takes as long as the collector does, within its time-out. What is measured after it
    /// is not sent.
    ///
    /// # Errors
    /// When the collector does not take it.
    pub fn shutdown(self) -> Result<(), ExportError> {
        // What failed before has been an event, and may have been sent since.
        self.client.take_failure();
        let traces = self.traces.as_ref();
        let traces = traces.map_or(Ok(()), |traces| traces.shutdown_with_timeout(self.timeout + GRACE));
        let metrics = self.metrics.as_ref().map_or(Ok(()), SdkMeterProvider::shutdown);
        let failure = match (self.client.take_failure(), traces.and(metrics)) {
            (None, Ok(())) => return Ok(()),
            (Some(failure), _) => failure,
            (None, Err(error)) => format!("{error}."),
        };
        Err(ExportError::NotDelivered(failure))
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    target.starts_with(TARGETS) && target != AUDIT_TARGET && *metadata.level() <= Level::DEBUG
}

/// What the SDK finds in OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, with a name for the service if they have none.
fn resource() -> Resource {
    let is_named = std::env::var_os("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty())
        || std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|attributes| {
            let mut names = attributes.split(',').filter_map(|pair| pair.split_once('='));
            names.any(|(name, _)| name.trim() == "service.name")
        });
    match is_named {
        true => Resource::builder().build(),
        false => Resource::builder().with_service_name(NAME).build(),
    }
}
