//! Sends requests to the identity endpoint, if they are permitted.

use super::body::LimitedBody;
use super::connector::{Resolve, SystemResolver};
use super::denial::{Denial, DenialReason};
use super::error::{BoxError, OutboundError};
use super::exchange::{Exchanger, read_request_body};
use super::origin::Origin;
use super::pace::Pace;
use super::policy::{Destinations, EndpointPolicy};
use super::seen::SeenReply;
use super::transport::Transport;
use bytes::Bytes;
use http::{HeaderName, Request, Response, header};
use http_body::Body;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, RequestOptions};

/// The target of this module's events.
pub(super) const LOG_TARGET: &str = "managed_identity::outbound";

/// Limits on time and size, for each request.
///
/// The times are upper bounds: a component may ask for shorter ones with its request's options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundConfig {
    /// How long resolving, connecting and the handshake of TLS may take together. Default: 2 s. Most endpoints are on the
    /// same machine or link and answer within milliseconds; where there is none, link-local packets just vanish, and every caller
    /// waits this long to be told.
    pub connect_timeout: Duration,
    /// The same for endpoints that may be at a public address, TLS included. Default: 10 s.
    pub public_connect_timeout: Duration,
    /// How long the head of the reply may take, from the connection on. Default: 60 s. The metadata service asks Azure
    /// for the token while the caller waits, and may take long when it is throttled.
    pub first_byte_timeout: Duration,
    /// How long the body may stand still. Default: 10 s. It is one JSON object, sent at once.
    pub between_bytes_timeout: Duration,
    /// How long everything together may take. Default: 120 s. It is there for an endpoint that sends a byte now and then.
    pub exchange_timeout: Duration,
    /// How many bytes the body of a reply may have. Default: 1 MiB. Tokens have a few kilobytes.
    pub response_body_limit: u64,
    /// How many bytes the head of a reply may have. Default: 64 KiB. At least 8 KiB. It is looked at between reads, so
    /// that a head of up to twice as many may pass.
    pub response_head_limit: usize,
    /// How many fields the head of a reply may have. Default: 64.
    pub response_field_limit: usize,
    /// How many bytes the body of a request may have. Default: 64 KiB. Signed assertions have a few kilobytes.
    pub request_body_limit: usize,
    /// How many requests may be under way at once; more wait. Default: 128. A component that asks for more has lost count.
    pub concurrent_requests: usize,
    /// How long an unused connection is kept. Default: 30 s.
    pub idle_timeout: Duration,
    /// How many unused connections are kept per origin. Default: 8. The metadata service answers five requests at once.
    pub idle_connections: usize,
}

impl Default for OutboundConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            public_connect_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(60),
            between_bytes_timeout: Duration::from_secs(10),
            exchange_timeout: Duration::from_secs(120),
            response_body_limit: 1024 * 1024,
            response_head_limit: 64 * 1024,
            response_field_limit: 64,
            request_body_limit: 64 * 1024,
            concurrent_requests: 128,
            idle_timeout: Duration::from_secs(30),
            idle_connections: 8,
        }
    }
}

/// An HTTP client that reaches the endpoints of its policy, and no others. Clones share their connections.
#[derive(Clone)]
pub struct Outbound {
    shared: Arc<Shared>,
}

struct Shared {
    policy: Arc<EndpointPolicy>,
    exchanger: Exchanger,
    last_reply: Mutex<Option<SeenReply>>,
    last_denial: Mutex<Option<Denial>>,
    last_tls_failure: Mutex<Option<String>>,
}

impl Outbound {
    /// A client without connections.
    #[must_use]
    pub fn new(policy: EndpointPolicy, config: OutboundConfig) -> Self {
        Self::with_resolver(policy, config, Arc::new(SystemResolver::default()))
    }

    pub(super) fn with_resolver(policy: EndpointPolicy, config: OutboundConfig, resolver: Arc<dyn Resolve>) -> Self {
        Self::made(policy, |destinations| Exchanger::new(destinations, config, resolver))
    }

    /// A client whose permitted requests go by this transport.
    pub(crate) fn with_transport(
        policy: EndpointPolicy,
        config: OutboundConfig,
        transport: Arc<dyn Transport>,
    ) -> Self {
        let resolver = Arc::new(SystemResolver::default());
        Self::made(policy, |destinations| {
            Exchanger::new(destinations, config, resolver).with_transport(transport)
        })
    }

    fn made(policy: EndpointPolicy, exchanger: impl FnOnce(Arc<dyn Destinations>) -> Exchanger) -> Self {
        let policy = Arc::new(policy);
        let destinations: Arc<dyn Destinations> = policy.clone();
        Self {
            shared: Arc::new(Shared {
                policy,
                exchanger: exchanger(destinations),
                last_reply: Mutex::new(None),
                last_denial: Mutex::new(None),
                last_tls_failure: Mutex::new(None),
            }),
        }
    }

    /// What may be reached.
    #[must_use]
    pub fn policy(&self) -> &EndpointPolicy {
        &self.shared.policy
    }

    /// The reply that came last, to any clone. A request that got none leaves the one before in its place.
    #[must_use]
    pub fn last_reply(&self) -> Option<SeenReply> {
        self.reply().clone()
    }

    fn reply(&self) -> MutexGuard<'_, Option<SeenReply>> {
        self.shared.last_reply.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request that was denied last, by any clone, to be named where a failure is explained.
    #[must_use]
    pub fn last_denial(&self) -> Option<Denial> {
        self.shared
            .last_denial
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Why the latest request was not sent because of TLS or a [transport](super::Transport), unless another one, of any
    /// clone, has been since. A component is told no more than that there is something wrong with a certificate, or that
    /// nobody is reached.
    #[must_use]
    pub fn last_tls_failure(&self) -> Option<String> {
        self.tls_failure().clone()
    }

    fn tls_failure(&self) -> MutexGuard<'_, Option<String>> {
        self.shared
            .last_tls_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request, if the policy permits it, and waits for the head of the reply.
    ///
    /// The request's `Host` and `Content-Length` are set here. Its body is read to the end before anything is sent; for
    /// `GET` and `HEAD` it is not read at all. A reply of any status is a reply, redirects included.
    ///
    /// Dropping the future, or the body before its end, gives the request up and closes its connection.
    ///
    /// # Errors
    /// See [`OutboundError`]. Each denial is also an event at level `WARN`, with method, origin and path.
    pub async fn send<B>(
        &self,
        request: Request<B>,
        options: RequestOptions,
    ) -> Result<Response<LimitedBody>, OutboundError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let started = Instant::now();
        let sent = self.try_send(request, options).await;
        match &sent {
            Ok(reply) => {
                *self.reply() = Some(SeenReply::of(reply, started.elapsed()));
                *self.tls_failure() = None;
            }
            Err(OutboundError::Denied(denial)) => {
                tracing::warn!(
                    target: LOG_TARGET,
                    method = %denial.method,
                    url = %denial.url,
                    reason = %denial.reason,
                    "request denied"
                );
                *self.shared.last_denial.lock().unwrap_or_else(PoisonError::into_inner) = Some(denial.clone());
            }
            Err(error) => {
                *self.tls_failure() = error.is_told_in_part().then(|| error.to_string());
                tracing::debug!(target: LOG_TARGET, %error, "request failed");
            }
        }
        sent
    }

    /// Connects to the endpoint at `origin`, as [`send`](Self::send) does, and sends nothing: on `https`, its server has
    /// proved to be the right one when this succeeds. The connection is closed. Where a transport would carry the request,
    /// nobody is connected to.
    ///
    /// # Errors
    /// If the policy does not permit it, or there is no connection.
    pub(crate) async fn connect(&self, origin: &Origin) -> Result<(), OutboundError> {
        self.shared.exchanger.connect(origin).await
    }

    async fn try_send<B>(
        &self,
        request: Request<B>,
        options: RequestOptions,
    ) -> Result<Response<LimitedBody>, OutboundError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let exchanger = &self.shared.exchanger;
        let config = exchanger.config();
        let deadline = Box::pin(sleep(config.exchange_timeout));
        let (parts, body) = request.into_parts();
        if let Some(name) = parts.headers.keys().find(|name| is_host_field(name)) {
            return Err(Denial::new(&parts.method, &parts.uri, DenialReason::HeaderField(name.clone())).into());
        }
        let target = self.shared.policy.check(&parts.method, &parts.uri)?;
        let times = exchanger.times(&target, options);
        let body = timeout(
            times.first_byte,
            read_request_body(target.method(), body, config.request_body_limit),
        )
        .await
        .map_err(|elapsed| OutboundError::RequestBody(elapsed.into()))??;
        let limits = self.shared.policy.limits(target.origin());
        let pace = limits.map(|limits| Pace::shared(target.origin(), limits));
        exchanger
            .send(&target, parts.headers, body, &times, deadline, pace)
            .await
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Outbound")
            .field("policy", &self.shared.policy)
            .field("config", self.shared.exchanger.config())
            .finish_non_exhaustive()
    }
}

/// Whether a request's field is the host's to set, or to leave out, when a component talks to the identity endpoint.
///
/// Besides those of the [connection](is_connection_field):
/// - `X-HTTP-Method-Override`, `X-Original-URL`, `X-Rewrite-URL` and their kind ask for another method or path than the one
///   that was checked;
/// - `Cookie`: no state is kept between requests.
pub(super) fn is_host_field(name: &HeaderName) -> bool {
    const PREFIXES: [&str; 3] = ["x-http-method", "x-original-", "x-rewrite-"];
    is_connection_field(name)
        || *name == header::COOKIE
        || PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
}

/// Whether a request's field is about the connection or those on the way, of which this client is the only one.
///
/// Besides those that `wasi:http` keeps from components by default:
/// - the metadata service refuses a request with `X-Forwarded-For`, which is how it tells that a proxy was tricked into
///   asking ("Azure Instance Metadata Service", Azure documentation). The other fields of its kind do the same
///   elsewhere, and have no place in a request that nobody forwards;
/// - `Expect`, `TE` and `Trailer` change how the exchange goes on, which is between this client and the server.
pub(crate) fn is_connection_field(name: &HeaderName) -> bool {
    const NAMES: [HeaderName; 5] = [
        header::FORWARDED,
        header::VIA,
        header::EXPECT,
        header::TE,
        header::TRAILER,
    ];
    const PREFIXES: [&str; 2] = ["proxy-", "x-forwarded-"];
    DEFAULT_FORBIDDEN_HEADERS.contains(name)
        || NAMES.contains(name)
        || PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
}
