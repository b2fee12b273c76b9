//! What operators see: numbers and spans. Never a token, a secret, a claim or a query.
//!
//! # Metrics
//!
//! They go through the [`metrics`] facade: to whatever recorder the program has installed, and nowhere without one. A
//! [`Broker`](crate::Broker) asks for the recorder once, when it is built, so **install the recorder first**. All labels
//! have few values: none is made of an audience, an identity, a URL or a caller's name.
//!
//! | name | kind | unit | labels | meaning |
//! |---|---|---|---|---|
//! | `managed_identity_requests_total` | counter | | `outcome`, `cause` | calls for a token that have ended: `token`; `stale`, a token that is valid and whose successor is overdue; `error`; `abandoned` by the caller. `cause` is one of the closed list for `error`, and for `stale` when the provider failed; else `none` |
//! | `managed_identity_hits_total` | counter | | | those that were answered without asking the provider |
//! | `managed_identity_flights_total` | counter | | | questions put to the provider; equal ones of many callers are one |
//! | `managed_identity_refreshes_total` | counter | | | tokens that were replaced by their successors |
//! | `managed_identity_upstream_seconds` | histogram | seconds | `outcome` | requests of the provider to the identity endpoint, from its asking to the head of the reply, with the wait for its turn: by the class of the status, `2xx` to `5xx`, or `denied`, `unresolved`, `unconnected`, `untrusted`, `timeout`, `malformed`, `broken`, `unsent`, `abandoned` |
//! | `managed_identity_tokens_held` | gauge | | | tokens that are kept to be given again, of all brokers of this process |
//! | `managed_identity_earliest_expiry_seconds` | gauge | seconds | | until the first of them expires; infinite when none is kept, which OpenTelemetry leaves out. Set when the set of tokens changes and every 15 s; of several brokers, the last one that set it counts |
//! | `managed_identity_provider_restarts_total` | counter | | `reason` | provider instances that failed and were replaced: `trap`, `cpu` when it computed for too long, `stuck` when it did not answer in time, `other` |
//! | `managed_identity_denials_total` | counter | | `kind` | what was refused: to the provider, a request to elsewhere than its `endpoint`; to callers, what they are not granted, `token`, `authorize-only`, `http`, `forget` or `describe-source`, or more of it than their `rate` |
//!
//! # Spans
//!
//! | name | target | level | fields |
//! |---|---|---|---|
//! | `token` | `managed_identity::broker` | `INFO` | `audience`, `identity` (its kind), and at the end `outcome`, `cause`, `source` |
//! | `upstream` | `managed_identity::outbound` | `DEBUG` | `http.request.method`, `server.origin`, `url.path`, and at the end `http.response.status_code` or `error.type` |
//!
//! A call that is answered without the provider has no span: it takes less time than a span does. The spans of requests to
//! the endpoint are not inside of those of calls: many calls share one request, and some requests have none.
//!
//! # Export
//!
//! With the cargo feature `opentelemetry`, an [`Exporter`] sends both to a collector, by OTLP over HTTP.

mod export;
mod span;

pub use export::{ExportConfig, ExportError, Exporter};

use crate::audit::Kind;
use crate::outbound::{LimitedBody, Outbound, OutboundError};
use crate::token::{AccessToken, TokenRequest};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use managed_identity_provider::error::{Cause, Error};
use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tracing::Instrument;
use wasmtime::Trap;
use wasmtime_wasi_http::RequestOptions;

/// Counter: calls for a token that have ended, by [`OUTCOME`] and [`CAUSE`].
pub const REQUESTS: &str = "managed_identity_requests_total";
/// Counter: calls that were answered without asking the provider.
pub const HITS: &str = "managed_identity_hits_total";
/// Counter: questions put to the provider. Equal ones of many callers are one.
pub const FLIGHTS: &str = "managed_identity_flights_total";
/// Counter: tokens that were replaced by their successors.
pub const REFRESHES: &str = "managed_identity_refreshes_total";
/// Histogram, in seconds: requests of the provider to the identity endpoint, by [`OUTCOME`].
pub const UPSTREAM: &str = "managed_identity_upstream_seconds";
/// Gauge: tokens that are kept to be given again.
pub const TOKENS_HELD: &str = "managed_identity_tokens_held";
/// Gauge, in seconds: until the first of the kept tokens expires. Infinite when none is kept.
pub const EARLIEST_EXPIRY: &str = "managed_identity_earliest_expiry_seconds";
/// Counter: provider instances that failed and were replaced, by [`REASON`].
pub const RESTARTS: &str = "managed_identity_provider_restarts_total";
/// Counter: what was refused, by [`KIND`].
pub const DENIALS: &str = "managed_identity_denials_total";

/// Label: how a call or a request ended.
pub const OUTCOME: &str = "outcome";
/// Label: why a call failed, as [`Cause::name`] has it, or `none`.
pub const CAUSE: &str = "cause";
/// Label: why an instance was replaced.
pub const REASON: &str = "reason";
/// Label: what was refused.
pub const KIND: &str = "kind";

/// The value of [`CAUSE`] where nothing failed.
const NO_CAUSE: &str = "none";

/// How often the gauge is set that changes by itself.
const AGE_INTERVAL: Duration = Duration::from_secs(15);

/// Counts what one broker and its provider do. Clones count together.
///
/// Its handles are made once, so that counting costs a few nanoseconds, and next to nothing without a recorder.
#[derive(Clone)]
pub(crate) struct Telemetry(Arc<Handles>);

struct Handles {
    hits: Counter,
    flights: Counter,
    refreshes: Counter,
    tokens: Counter,
    abandoned: Counter,
    stale: Counter,
    stale_by_cause: [Counter; Cause::ALL.len()],
    errors_by_cause: [Counter; Cause::ALL.len()],
    upstream: [Histogram; UPSTREAM_OUTCOMES.len()],
    restarts: [Counter; Restart::ALL.len()],
    denials: [Counter; Denied::ALL.len()],
    tokens_held: Gauge,
    earliest_expiry: Gauge,
    /// What this broker has added to the gauge of all.
    held: AtomicUsize,
    /// When the first token expires, in seconds since 1970-01-01T00:00:00Z.
    expires_on: AtomicU64,
}

/// The moment at which nothing expires.
const NEVER: u64 = u64::MAX;

impl Telemetry {
    /// Counts with the recorder that is installed now.
    pub(crate) fn new() -> Self {
        describe();
        let requests = |outcome, cause| counter!(REQUESTS, OUTCOME => outcome, CAUSE => cause);
        Self(Arc::new(Handles {
            hits: counter!(HITS),
            flights: counter!(FLIGHTS),
            refreshes: counter!(REFRESHES),
            tokens: requests("token", NO_CAUSE),
            abandoned: requests("abandoned", NO_CAUSE),
            stale: requests("stale", NO_CAUSE),
            stale_by_cause: Cause::ALL.map(|cause| requests("stale", cause.name())),
            errors_by_cause: Cause::ALL.map(|cause| requests("error", cause.name())),
            upstream: UPSTREAM_OUTCOMES.map(|outcome| histogram!(UPSTREAM, OUTCOME => outcome)),
            restarts: Restart::ALL.map(|reason| counter!(RESTARTS, REASON => reason.name())),
            denials: Denied::ALL.map(|kind| counter!(DENIALS, KIND => kind.name())),
            tokens_held: gauge!(TOKENS_HELD),
            earliest_expiry: gauge!(EARLIEST_EXPIRY),
            held: AtomicUsize::new(0),
            expires_on: AtomicU64::new(NEVER),
        }))
    }

    /// A call was answered without the provider.
    pub(crate) fn hit(&self) {
        self.0.hits.increment(1);
        self.0.tokens.increment(1);
    }

    /// A call was answered by the provider.
    pub(crate) fn answered(&self, token: &AccessToken) {
        match token.stale {
            true => self.0.stale.increment(1),
            false => self.0.tokens.increment(1),
        }
    }

    /// The provider failed, and a call was answered all the same.
    pub(crate) fn answered_despite(&self, error: &Error) {
        by_cause(&self.0.stale_by_cause, error.cause);
    }

    /// A call was answered with an error.
    pub(crate) fn failed(&self, error: &Error) {
        by_cause(&self.0.errors_by_cause, error.cause);
    }

    /// A question is put to the provider.
    pub(crate) fn flight(&self) {
        self.0.flights.increment(1);
    }

    /// A kept token was replaced by another one.
    pub(crate) fn refreshed(&self) {
        self.0.refreshes.increment(1);
    }

    /// So many tokens are kept from now on, and the first of them expires then.
    pub(crate) fn holds(&self, tokens: usize, earliest_expires_on: Option<u64>, now: u64) {
        let handles = &self.0;
        let before = handles.held.swap(tokens, Ordering::Relaxed);
        match tokens.checked_sub(before) {
            Some(0) => {}
            Some(more) => handles.tokens_held.increment(float(more)),
            None => handles.tokens_held.decrement(float(before - tokens)),
        }
        handles
            .expires_on
            .store(earliest_expires_on.unwrap_or(NEVER), Ordering::Relaxed);
        self.aged(now);
    }

    /// Goes on saying how long the kept tokens last, by the clock `now`, for as long as it is polled.
    pub(crate) async fn age(&self, now: impl Fn() -> u64) {
        loop {
            tokio::time::sleep(AGE_INTERVAL).await;
            self.aged(now());
        }
    }

    fn aged(&self, now: u64) {
        let seconds = match self.0.expires_on.load(Ordering::Relaxed) {
            NEVER => f64::INFINITY,
            expires_on => Duration::from_secs(expires_on.saturating_sub(now)).as_secs_f64(),
        };
        self.0.earliest_expiry.set(seconds);
    }

    /// The provider's instance failed and is replaced.
    pub(crate) fn restarted(&self, reason: Restart) {
        self.0.restarts[reason as usize].increment(1);
    }

    /// A caller was refused this. An error of another cause than those of a policy is no denial.
    pub(crate) fn refused(&self, what: impl Into<Denied>, error: &Error) {
        match error.cause {
            Cause::Denied => self.denied(what.into()),
            Cause::Throttled => self.denied(Denied::Rate),
            _ => {}
        }
    }

    fn denied(&self, what: Denied) {
        self.0.denials[what as usize].increment(1);
    }

    /// Puts a call to the provider, with `fetch`, in a span, and counts it if it is given up.
    pub(crate) async fn asked(
        &self,
        request: &TokenRequest,
        fetch: impl Future<Output = Result<Arc<AccessToken>, Error>>,
    ) -> Result<Arc<AccessToken>, Error> {
        let span = span::token(request);
        let unfinished = Unfinished(Some(|| self.0.abandoned.increment(1)));
        let result = fetch.instrument(span.clone()).await;
        unfinished.finished();
        span::token_ended(&span, &result);
        result
    }

    /// Sends a request of the provider to its endpoint, in a span, and measures how long the reply takes.
    pub(crate) async fn send<B>(
        &self,
        outbound: &Outbound,
        request: Request<B>,
        options: RequestOptions,
    ) -> Result<Response<LimitedBody>, OutboundError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        let span = span::upstream(outbound.policy(), &request);
        let began = Instant::now();
        let took = |outcome: &'static str| {
            let known = UPSTREAM_OUTCOMES.iter().zip(&self.0.upstream);
            if let Some((_, histogram)) = known.into_iter().find(|(name, _)| **name == outcome) {
                histogram.record(began.elapsed());
            }
        };
        let unfinished = Unfinished(Some(|| took(ABANDONED)));
        let result = outbound.send(request, options).instrument(span.clone()).await;
        unfinished.finished();
        let outcome = upstream_outcome(&result);
        took(outcome);
        if let Err(OutboundError::Denied(_)) = result {
            self.denied(Denied::Endpoint);
        }
        span::upstream_ended(&span, &result, outcome);
        result
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Handles {
    /// The gauge is one of all brokers, and this one holds nothing any more.
    fn drop(&mut self) {
        self.tokens_held.decrement(float(*self.held.get_mut()));
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

fn by_cause(counters: &[Counter; Cause::ALL.len()], cause: Cause) {
    // The order of the list is that of the enum, which a test of it holds.
    counters[cause as usize].increment(1);
}

/// Counts of tokens are far below the 2^32 from which on a float would need care.
fn float(count: usize) -> f64 {
    u32::try_from(count).unwrap_or(u32::MAX).into()
}

/// Calls its function when it is dropped before the end.
struct Unfinished<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Unfinished<F> {
    fn finished(mut self) {
        self.0 = None;
    }
}

impl<F: FnOnce()> Drop for Unfinished<F> {
    fn drop(&mut self) {
        if let Some(abandoned) = self.0.take() {
            abandoned();
        }
    }
}

/// Why an instance of the provider was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// It trapped, as its code does when it panics or finds no memory.
    Trap,
    /// It computed for too long.
    Cpu,
    /// It has not answered in time what it was asked.
    Stuck,
    /// The host refused to go on with it, or to start it.
    Other,
}

impl Restart {
    const ALL: [Self; 4] = [Self::Trap, Self::Cpu, Self::Stuck, Self::Other];

    /// Why the engine has ended it.
    pub(crate) fn of(error: &wasmtime::Error) -> Self {
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt | Trap::OutOfFuel) => Self::Cpu,
            Some(_) => Self::Trap,
            None => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Cpu => "cpu",
            Self::Stuck => "stuck",
            Self::Other => "other",
        }
    }
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// To the provider: a request to elsewhere than its endpoint.
    Endpoint,
    /// To a caller: a token.
    Token,
    /// To a caller: a request with a token that it does not see.
    AuthorizeOnly,
    /// To a caller: a request as it is.
    Http,
    /// To a caller: to drop tokens.
    Forget,
    /// To a caller: to know where tokens come from.
    DescribeSource,
    /// To a caller: any of these, more often or more at once than it may.
    Rate,
}

impl Denied {
    const ALL: [Self; 7] = [
        Self::Endpoint,
        Self::Token,
        Self::AuthorizeOnly,
        Self::Http,
        Self::Forget,
        Self::DescribeSource,
        Self::Rate,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Token => "token",
            Self::AuthorizeOnly => "authorize-only",
            Self::Http => "http",
            Self::Forget => "forget",
            Self::DescribeSource => "describe-source",
            Self::Rate => "rate",
        }
    }
}

impl From<Kind> for Denied {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Token => Self::Token,
            Kind::AuthorizeOnly => Self::AuthorizeOnly,
            Kind::Http => Self::Http,
            Kind::Forget => Self::Forget,
            Kind::DescribeSource => Self::DescribeSource,
        }
    }
}

/// The outcome of a request that nobody waited for any longer.
const ABANDONED: &str = "abandoned";

/// All values of [`OUTCOME`] in [`UPSTREAM`].
const UPSTREAM_OUTCOMES: [&str; 13] = [
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "denied",
    "unresolved",
    "unconnected",
    "untrusted",
    "timeout",
    "malformed",
    "broken",
    "unsent",
    ABANDONED,
];

fn upstream_outcome<B>(result: &Result<Response<B>, OutboundError>) -> &'static str {
    match result {
        Ok(response) => match response.status().as_u16() {
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500..600 => "5xx",
            _ => "malformed",
        },
        Err(error) => match error {
            OutboundError::Denied(_) => "denied",
            OutboundError::NameNotFound { .. } => "unresolved",
            OutboundError::NotConnected { .. } | OutboundError::NotCarried { .. } => "unconnected",
            OutboundError::Certificate { .. }
            | OutboundError::Authority { .. }
            | OutboundError::NotForTransport { .. }
            | OutboundError::TlsAlert { .. }
            | OutboundError::NotTls { .. } => "untrusted",
            OutboundError::ConnectTimeout { .. }
            | OutboundError::NoReply { .. }
            | OutboundError::Stalled { .. }
            | OutboundError::TooSlow { .. } => "timeout",
            OutboundError::HeadTooLarge { .. }
            | OutboundError::BodyTooLarge { .. }
            | OutboundError::Flood { .. }
            | OutboundError::NotHttp { .. } => "malformed",
            OutboundError::BrokenOff { .. } | OutboundError::ConnectionLost { .. } => "broken",
            OutboundError::RequestTooLarge { .. } | OutboundError::RequestBody(_) => "unsent",
        },
    }
}

/// Tells the recorder what the numbers are. Recorders take the first description or the latest, which are the same.
fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "Calls for a token that have ended.");
    describe_counter!(
        HITS,
        Unit::Count,
        "Calls that were answered without asking the provider."
    );
    describe_counter!(FLIGHTS, Unit::Count, "Questions put to the provider.");
    describe_counter!(REFRESHES, Unit::Count, "Tokens that were replaced by their successors.");
    describe_histogram!(
        UPSTREAM,
        Unit::Seconds,
        "Requests to the identity endpoint, to the head of the reply."
    );
    describe_gauge!(TOKENS_HELD, Unit::Count, "Tokens that are kept to be given again.");
    describe_gauge!(
        EARLIEST_EXPIRY,
        Unit::Seconds,
        "Time until the first of the kept tokens expires."
    );
    describe_counter!(
        RESTARTS,
        Unit::Count,
        "Provider instances that failed and were replaced."
    );
    describe_counter!(DENIALS, Unit::Count, "What the provider or a caller was refused.");
}

#[cfg(test)]
mod tests;
