//! Sends permitted requests, and limits what comes back.

use super::address::Reach;
use super::body::{BodyLimits, LimitedBody};
use super::connector::{ConnectFault, Connector, Resolve, SystemResolver};
use super::denial::{Denial, DenialReason};
use super::error::{BoxError, OutboundError, cause};
use super::pace::Pace;
use super::policy::{EndpointPolicy, Target};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Version, header};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, RequestOptions};

/// The target of this module's events.
pub(super) const LOG_TARGET: &str = "managed_identity::outbound";

/// The smallest buffer that hyper accepts for the head of a reply, in bytes.
const SMALLEST_HEAD_LIMIT: usize = 8 * 1024;

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

/// How many bytes a reply may have on the wire: twice its own, which leaves room for chunks of any sensible size.
fn wire_limit(config: &OutboundConfig) -> usize {
    let body = usize::try_from(config.response_body_limit).unwrap_or(usize::MAX);
    config.response_head_limit.saturating_add(body).saturating_mul(2)
}

/// An HTTP client that reaches the endpoints of its policy, and no others. Clones share their connections.
#[derive(Clone)]
pub struct Outbound {
    shared: Arc<Shared>,
}

struct Shared {
    policy: Arc<EndpointPolicy>,
    config: OutboundConfig,
    client: Client<Connector, Full<Bytes>>,
    last_denial: Mutex<Option<Denial>>,
    last_tls_failure: Mutex<Option<String>>,
    places: Arc<Semaphore>,
}

impl Outbound {
    /// A client without connections.
    #[must_use]
    pub fn new(policy: EndpointPolicy, config: OutboundConfig) -> Self {
        Self::with_resolver(policy, config, Arc::new(SystemResolver))
    }

    pub(super) fn with_resolver(
        policy: EndpointPolicy,
        mut config: OutboundConfig,
        resolver: Arc<dyn Resolve>,
    ) -> Self {
        let policy = Arc::new(policy);
        config.response_head_limit = config.response_head_limit.max(SMALLEST_HEAD_LIMIT);
        let places = Arc::new(Semaphore::new(
            config.concurrent_requests.clamp(1, Semaphore::MAX_PERMITS),
        ));
        let limit = wire_limit(&config);
        let timeouts = (config.connect_timeout, config.public_connect_timeout);
        let connector = Connector::new(Arc::clone(&policy), resolver, timeouts, limit);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(config.idle_timeout)
            .pool_max_idle_per_host(config.idle_connections)
            .http1_max_buf_size(config.response_head_limit)
            .http1_max_headers(config.response_field_limit)
            .set_host(false)
            .build(connector);
        Self {
            shared: Arc::new(Shared {
                policy,
                config,
                client,
                last_denial: Mutex::new(None),
                last_tls_failure: Mutex::new(None),
                places,
            }),
        }
    }

    /// What may be reached.
    #[must_use]
    pub fn policy(&self) -> &EndpointPolicy {
        &self.shared.policy
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

    /// Why the latest request was not sent because of TLS, unless another one, of any clone, has been since. A component is
    /// told no more than that there is something wrong with a certificate.
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
        let sent = self.try_send(request, options).await;
        match &sent {
            Ok(_) => *self.tls_failure() = None,
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
                *self.tls_failure() = error.is_of_tls().then(|| error.to_string());
                tracing::debug!(target: LOG_TARGET, %error, "request failed");
            }
        }
        sent
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
        let config = &self.shared.config;
        let mut deadline = Box::pin(sleep(config.exchange_timeout));
        let (parts, body) = request.into_parts();
        if let Some(name) = parts.headers.keys().find(|name| is_host_field(name)) {
            return Err(Denial::new(&parts.method, &parts.uri, DenialReason::HeaderField(name.clone())).into());
        }
        let target = self.shared.policy.check(&parts.method, &parts.uri)?;
        let is_public = self.shared.policy.reach(target.origin()) == Some(Reach::Any);
        let times = Times::new(config, options, is_public);
        let body = timeout(
            times.first_byte,
            read_request_body(target.method(), body, config.request_body_limit),
        )
        .await
        .map_err(|elapsed| OutboundError::RequestBody(elapsed.into()))??;
        let places = Arc::clone(&self.shared.places);
        let origin = target.origin();
        let limits = self.shared.policy.limits(origin);
        let pace = limits.map(|limits| Pace::shared(origin, limits));
        let exchange = async {
            // The semaphore is never closed, so that there is always a place in the end.
            let place = places.acquire_owned().await.ok();
            let turn = match &pace {
                Some(pace) => pace.turn().await,
                None => None,
            };
            let response = self.exchange(&target, parts.headers, body, &times).await?;
            Ok::<_, OutboundError>((response.into_parts(), [place, turn]))
        };
        let ((mut head, incoming), place) = tokio::select! {
            biased;
            exchanged = exchange => exchanged?,
            () = &mut deadline => {
                let origin = target.origin().clone();
                return Err(OutboundError::TooSlow { origin, after: config.exchange_timeout });
            }
        };
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let reason = "it switches protocols without being asked to".to_owned();
            return Err(OutboundError::NotHttp {
                origin: target.origin().clone(),
                reason,
            });
        }
        // What the client noted about the connection is not part of the reply.
        head.extensions.clear();
        let limits = BodyLimits {
            origin: target.origin().clone(),
            bytes: config.response_body_limit,
            between_bytes: times.between_bytes,
            exchange: config.exchange_timeout,
            head_bytes: config.response_head_limit,
            head_fields: config.response_field_limit,
        };
        Ok(Response::from_parts(
            head,
            LimitedBody::new(incoming, limits, deadline, place)?,
        ))
    }

    /// Sends a request that consists of the checked target, the component's other fields, and a whole body.
    async fn exchange(
        &self,
        target: &Target,
        mut fields: HeaderMap,
        body: Bytes,
        times: &Times,
    ) -> Result<Response<Incoming>, OutboundError> {
        // What the body's length is, hyper knows.
        fields.remove(header::CONTENT_LENGTH);
        fields.insert(header::HOST, target.host().clone());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = target.method().clone();
        *request.uri_mut() = target.uri().clone();
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = fields;

        let mut connection = capture_connection(&mut request);
        let mut response = pin!(self.shared.client.request(request));
        let origin = || target.origin().clone();
        tokio::select! {
            biased;
            response = &mut response => return response.map_err(|error| self.explain(target, &error)),
            _ = connection.wait_for_connection_metadata() => {}
            () = sleep(times.connect) => {
                return Err(OutboundError::ConnectTimeout { origin: origin(), after: times.connect });
            }
        }
        match timeout(times.first_byte, response).await {
            Ok(response) => response.map_err(|error| self.explain(target, &error)),
            Err(_) => Err(OutboundError::NoReply {
                origin: origin(),
                after: times.first_byte,
            }),
        }
    }

    fn explain(&self, target: &Target, error: &legacy::Error) -> OutboundError {
        let denied = |reason| Denial::new(target.method(), target.uri(), reason).into();
        match cause::<ConnectFault>(error) {
            None => {
                let config = &self.shared.config;
                OutboundError::in_reply(
                    target.origin(),
                    error,
                    config.response_head_limit,
                    config.response_field_limit,
                )
            }
            Some(ConnectFault::Addresses(addresses)) => denied(DenialReason::Address {
                origin: target.origin().clone(),
                addresses: addresses.clone(),
            }),
            Some(fault) => {
                OutboundError::in_connecting(target.origin(), fault).unwrap_or_else(|| denied(DenialReason::Origin))
            }
        }
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Outbound")
            .field("policy", &self.shared.policy)
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

/// Whether a request's field is the host's to set, or to leave out.
///
/// Besides those that `wasi:http` keeps from components by default:
/// - the metadata service refuses a request with `X-Forwarded-For`, which is how it tells that a proxy was tricked into
///   asking ("Azure Instance Metadata Service", Azure documentation). The other fields of its kind do the same
///   elsewhere, and have no place in a request that nobody forwards;
/// - `Expect`, `TE` and `Trailer` change how the exchange goes on, which is between this client and the endpoint;
/// - `X-HTTP-Method-Override`, `X-Original-URL`, `X-Rewrite-URL` and their kind ask for another method or path than the one
///   that was checked;
/// - `Cookie`: no state is kept between requests.
pub(super) fn is_host_field(name: &HeaderName) -> bool {
    const NAMES: [HeaderName; 6] = [
        header::FORWARDED,
        header::VIA,
        header::EXPECT,
        header::TE,
        header::TRAILER,
        header::COOKIE,
    ];
    const PREFIXES: [&str; 5] = ["proxy-", "x-forwarded-", "x-http-method", "x-original-", "x-rewrite-"];
    DEFAULT_FORBIDDEN_HEADERS.contains(name)
        || NAMES.contains(name)
        || PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
}

/// The times of one request: the smaller of what the host permits and what the component asks for.
struct Times {
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
}

impl Times {
    fn new(config: &OutboundConfig, options: RequestOptions, is_public: bool) -> Self {
        let smaller = |limit: Duration, wish: Option<Duration>| wish.unwrap_or(limit).min(limit);
        Self {
            connect: smaller(
                match is_public {
                    true => config.public_connect_timeout,
                    false => config.connect_timeout,
                },
                options.connect_timeout,
            ),
            first_byte: smaller(config.first_byte_timeout, options.first_byte_timeout),
            between_bytes: smaller(config.between_bytes_timeout, options.between_bytes_timeout),
        }
    }
}

/// Reads the whole body of a request, so that it is sent with its length: not every identity endpoint takes chunks.
async fn read_request_body<B>(method: &Method, body: B, limit: usize) -> Result<Bytes, OutboundError>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let has_body = !matches!(*method, Method::GET | Method::HEAD);
    let limit = if has_body { limit } else { 0 };
    let too_large = OutboundError::RequestTooLarge {
        limit: u64::try_from(limit).unwrap_or(u64::MAX),
    };
    if body.size_hint().lower() > u64::try_from(limit).unwrap_or(u64::MAX) {
        return Err(too_large);
    }
    if !has_body {
        return Ok(Bytes::new());
    }
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large),
        Err(error) => Err(OutboundError::RequestBody(error)),
    }
}
