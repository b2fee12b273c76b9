//! What `serve` says of its work on standard error: one line for each event, for people or as JSON.

use clap::ValueEnum;
use managed_identity_host::audit;
use std::io::{self, IsTerminal as _};
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::fmt;
use tracing_subscriber::registry::LookupSpan;

/// The target of the events that the command itself logs.
pub(crate) const TARGET: &str = managed_identity_serve::telemetry::LOG_TARGET;

/// How the targets of this project's events begin.
const OURS: &str = "managed_identity";

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Time, level, target, what happened, and its fields
    Text,
    /// One object
    Json,
}

/// Which events are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Threshold {
    /// What does not work
    Error,
    /// And what should be looked at
    Warn,
    /// And what changes the server, and what callers are refused
    Info,
    /// And malformed requests of callers that are not known
    Debug,
}

impl Threshold {
    fn level(self) -> Level {
        match self {
            Self::Error => Level::ERROR,
            Self::Warn => Level::WARN,
            Self::Info => Level::INFO,
            Self::Debug => Level::DEBUG,
        }
    }
}

/// How and what is logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) format: Format,
    pub(crate) threshold: Threshold,
}

/// What writes the lines.
pub(crate) fn layer<S>(settings: Settings) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let threshold = settings.threshold.level();
    let filter = FilterFn::new(move |metadata| is_logged(metadata, threshold))
        .with_max_level_hint(LevelFilter::from_level(threshold));
    // Where standard error is closed, there is nowhere left to report it.
    let lines = fmt::layer().with_writer(io::stderr).log_internal_errors(false);
    match settings.format {
        Format::Text => lines.with_ansi(io::stderr().is_terminal()).with_filter(filter).boxed(),
        Format::Json => {
            let lines = lines.with_ansi(false).json().flatten_event(true);
            let lines = lines.with_current_span(false).with_span_list(false);
            lines.with_filter(filter).boxed()
        }
    }
}

/// Events of this project as far as the threshold goes, and those of others only where something is wrong: what they hold is
/// not known. Who asked for what is for those who read the audit trail.
fn is_logged(metadata: &Metadata<'_>, threshold: Level) -> bool {
    let threshold = match metadata.target().starts_with(OURS) {
        true => threshold,
        false => threshold.min(Level::WARN),
    };
    metadata.is_event() && metadata.target() != audit::TARGET && *metadata.level() <= threshold
}
