//! Sends metrics and spans to a collector.

#[cfg(feature = "opentelemetry")]
mod collector;
#[cfg(feature = "opentelemetry")]
mod otlp;
#[cfg(feature = "opentelemetry")]
mod recorder;
#[cfg(not(feature = "opentelemetry"))]
mod without;

#[cfg(feature = "opentelemetry")]
pub use otlp::Exporter;
#[cfg(not(feature = "opentelemetry"))]
pub use without::Exporter;

use crate::outbound::EndpointError;
use std::path::PathBuf;
use std::time::Duration;

/// How long one delivery may take, when nothing else is said (OpenTelemetry specification, "OTLP exporter").
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where metrics and spans are sent.
///
/// What it does not have, the OpenTelemetry SDK reads from its own variables when the [`Exporter`] starts: header fields
/// (`OTEL_EXPORTER_OTLP_HEADERS`), attributes (`OTEL_RESOURCE_ATTRIBUTES`), intervals, batches and sampling. The name of the
/// service is `managed-identity` unless `OTEL_SERVICE_NAME` has another one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportConfig {
    /// The URL for spans, such as `http://127.0.0.1:4318/v1/traces`; nothing when they are not sent.
    pub traces: Option<String>,
    /// The URL for metrics, such as `http://127.0.0.1:4318/v1/metrics`; nothing when they are not sent.
    pub metrics: Option<String>,
    /// A file with the certificates, in PEM, of the authority that the collector is known by, instead of those that the
    /// system trusts.
    pub certificate: Option<PathBuf>,
    /// How long one delivery may take. The default is 10 s.
    pub timeout: Duration,
}

impl ExportConfig {
    /// For a collector that takes both, at `v1/traces` and `v1/metrics` below this URL.
    #[must_use]
    pub fn new(endpoint: &str) -> Self {
        Self {
            traces: Some(below(endpoint, "v1/traces")),
            metrics: Some(below(endpoint, "v1/metrics")),
            certificate: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// What the process environment says: nothing when it names no collector.
    ///
    /// Read are `OTEL_SDK_DISABLED`, `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER` (`otlp` or `none`), and of
    /// `OTEL_EXPORTER_OTLP_…`: `ENDPOINT`, `TRACES_ENDPOINT`, `METRICS_ENDPOINT`, `CERTIFICATE`, `TIMEOUT` (in
    /// milliseconds) and `PROTOCOL` (`http/protobuf`), as the OpenTelemetry specification has them.
    ///
    /// # Errors
    /// When one of them has a value that is not supported.
    pub fn from_environment() -> Result<Option<Self>, ExportError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, ExportError> {
        // An empty variable counts as unset, as the specification has it.
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let either = |name: &'static str, supported: &'static [&'static str]| match variable(name) {
            Some(value) if !supported.contains(&value.as_str()) => Err(ExportError::Unsupported { name, supported }),
            value => Ok(value),
        };
        let is_disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let endpoint = variable("OTEL_EXPORTER_OTLP_ENDPOINT");
        let url = |own: &str, path: &str| variable(own).or_else(|| Some(below(endpoint.as_deref()?, path)));
        let traces = url("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "v1/traces");
        let metrics = url("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "v1/metrics");
        if is_disabled || (traces.is_none() && metrics.is_none()) {
            return Ok(None);
        }
        for name in [
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
        ] {
            either(name, &["http/protobuf"])?;
        }
        let is_sent = |name| either(name, &["otlp", "none"]).map(|exporter| exporter.as_deref() != Some("none"));
        let (sends_traces, sends_metrics) = (is_sent("OTEL_TRACES_EXPORTER")?, is_sent("OTEL_METRICS_EXPORTER")?);
        let timeout = match variable("OTEL_EXPORTER_OTLP_TIMEOUT") {
            Some(text) => Duration::from_millis(text.parse().map_err(|_| ExportError::Timeout)?),
            None => DEFAULT_TIMEOUT,
        };
        let config = Self {
            traces: traces.filter(|_| sends_traces),
            metrics: metrics.filter(|_| sends_metrics),
            certificate: variable("OTEL_EXPORTER_OTLP_CERTIFICATE").map(PathBuf::from),
            timeout,
        };
        Ok((config.traces.is_some() || config.metrics.is_some()).then_some(config))
    }
}

fn below(endpoint: &str, path: &str) -> String {
    format!("{}/{path}", endpoint.trim_end_matches('/'))
}

/// Why nothing is sent to a collector, or was not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// This build cannot.
    #[error(
        "A collector is named, and this program was built without OpenTelemetry. Build it with the feature `opentelemetry`, or unset OTEL_EXPORTER_OTLP_ENDPOINT."
    )]
    NotBuilt,
    /// A variable has a value that this exporter does not have.
    #[error("The environment variable {name} has a value that is not supported. Set it to {}.", supported.join(" or "))]
    Unsupported {
        /// The variable.
        name: &'static str,
        /// Which values are.
        supported: &'static [&'static str],
    },
    /// The time-out is none.
    #[error(
        "The environment variable OTEL_EXPORTER_OTLP_TIMEOUT is not a whole number of milliseconds. Set it to one, such as 10000."
    )]
    Timeout,
    /// The collector's URL is none.
    #[error("The URL of the collector {0}.")]
    Endpoint(#[from] EndpointError),
    /// The OpenTelemetry SDK does not take its own settings.
    #[error("The OpenTelemetry exporter cannot be made: {0}. Check the variables that begin with OTEL_.")]
    Settings(String),
    /// Another recorder of metrics is installed.
    #[error("A recorder of metrics is installed in this process already. Start the exporter before, or instead.")]
    Recorder,
    /// There is no thread for it.
    #[error("The thread that sends to the collector cannot be started: {0}.")]
    Thread(std::io::Error),
    /// The collector did not get what was left.
    #[error("The last metrics or spans have not reached the collector. {0}")]
    NotDelivered(String),
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Option<ExportConfig>, ExportError> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        ExportConfig::from_variables(variable)
    }

    #[test]
    fn the_environment_says_where_to_send() {
        const BOTH: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");
        let (traces, metrics) = ("http://collector:4318/v1/traces", "http://collector:4318/v1/metrics");
        for (variables, expected) in [
            (&[][..], None),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], None),
            (&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], None),
            (&[BOTH], Some((Some(traces), Some(metrics)))),
            (&[BOTH, ("OTEL_SDK_DISABLED", "True")], None),
            (&[BOTH, ("OTEL_TRACES_EXPORTER", "none")], Some((None, Some(metrics)))),
            (&[BOTH, ("OTEL_METRICS_EXPORTER", "none")], Some((Some(traces), None))),
            (
                &[
                    BOTH,
                    ("OTEL_METRICS_EXPORTER", "none"),
                    ("OTEL_TRACES_EXPORTER", "none"),
                ],
                None,
            ),
            (
                &[BOTH, ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://other/m")],
                Some((Some(traces), Some("http://other/m"))),
            ),
            (
                &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://other/t")],
                Some((Some("http://other/t"), None)),
            ),
        ] {
            let found = config(variables).unwrap();
            let found = found
                .as_ref()
                .map(|config| (config.traces.as_deref(), config.metrics.as_deref()));
            assert_eq!(found, expected, "{variables:?}");
        }
        let found = config(&[
            BOTH,
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ]);
        let found = found.unwrap().unwrap();
        assert_eq!(found.timeout, Duration::from_millis(1500));
        assert_eq!(found.certificate, Some(PathBuf::from("/ca.pem")));
    }

    #[test]
    fn a_setting_that_is_not_supported_is_named() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_METRICS_EXPORTER", "prometheus"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ] {
            let error = config(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector"), (name, value)]).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
