//! Sends requests whose target was checked, and limits what comes back.

use super::address::Reach;
use super::body::{Arriving, BodyLimits, LimitedBody};
use super::client::OutboundConfig;
use super::connector::{ConnectFault, Connector, Resolve};
use super::denial::{Denial, DenialReason};
use super::error::{BoxError, OutboundError, cause};
use super::origin::Origin;
use super::pace::Pace;
use super::policy::{Destinations, Target};
use super::transport::{Transport, carries};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep, timeout};
use wasmtime_wasi_http::RequestOptions;

/// The smallest buffer that hyper accepts for the head of a reply, in bytes.
const SMALLEST_HEAD_LIMIT: usize = 8 * 1024;

/// How many bytes a reply may have on the wire: twice its own, which leaves room for chunks of any sensible size.
fn wire_limit(config: &OutboundConfig) -> usize {
    let body = usize::try_from(config.response_body_limit).unwrap_or(usize::MAX);
    config.response_head_limit.saturating_add(body).saturating_mul(2)
}

/// Connections, and what may happen on them.
pub(super) struct Exchanger {
    destinations: Arc<dyn Destinations>,
    config: OutboundConfig,
    client: Client<Connector, Full<Bytes>>,
    connector: Connector,
    /// What requests go by instead.
    transport: Option<Arc<dyn Transport>>,
    places: Arc<Semaphore>,
}

impl Exchanger {
    /// No connections yet.
    pub(super) fn new(
        destinations: Arc<dyn Destinations>,
        mut config: OutboundConfig,
        resolver: Arc<dyn Resolve>,
    ) -> Self {
        config.response_head_limit = config.response_head_limit.max(SMALLEST_HEAD_LIMIT);
        let places = Arc::new(Semaphore::new(
            config.concurrent_requests.clamp(1, Semaphore::MAX_PERMITS),
        ));
        let limit = wire_limit(&config);
        let timeouts = (config.connect_timeout, config.public_connect_timeout);
        let connector = Connector::new(Arc::clone(&destinations), resolver, timeouts, limit);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(config.idle_timeout)
            .pool_max_idle_per_host(config.idle_connections)
            .http1_max_buf_size(config.response_head_limit)
            .http1_max_headers(config.response_field_limit)
            .set_host(false)
            .build(connector.clone());
        Self {
            destinations,
            config,
            client,
            connector,
            transport: None,
            places,
        }
    }

    /// The same for requests that go by this transport.
    pub(super) fn with_transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// The limits, as far as they can be kept.
    pub(super) fn config(&self) -> &OutboundConfig {
        &self.config
    }

    /// The times of one request to `target`.
    pub(super) fn times(&self, target: &Target, options: RequestOptions) -> Times {
        let is_public = self.destinations.reach(target.origin()) == Some(Reach::Any);
        Times::new(&self.config, options, is_public)
    }

    /// Waits for a place, and where there is a `pace` for a turn, sends the request, and waits for the head of the reply.
    /// `deadline` is when all of it, the reply's body included, has to be over.
    pub(super) async fn send(
        &self,
        target: &Target,
        fields: HeaderMap,
        body: Bytes,
        times: &Times,
        mut deadline: Pin<Box<Sleep>>,
        pace: Option<Arc<Pace>>,
    ) -> Result<Response<LimitedBody>, OutboundError> {
        let config = &self.config;
        let places = Arc::clone(&self.places);
        let over = deadline.deadline();
        let exchange = async {
            // The semaphore is never closed, so that there is always a place in the end.
            let place = places.acquire_owned().await.ok();
            let turn = match &pace {
                Some(pace) => pace.turn().await,
                None => None,
            };
            let response = self.exchange(target, fields, body, times, over).await?;
            Ok::<_, OutboundError>((response.into_parts(), [place, turn]))
        };
        let ((mut head, arriving), place) = tokio::select! {
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
            LimitedBody::new(arriving, limits, deadline, place)?,
        ))
    }

    /// Sends a request that consists of the checked target, the component's other fields, and a whole body. All of it has
    /// to be `over` by then.
    async fn exchange(
        &self,
        target: &Target,
        mut fields: HeaderMap,
        body: Bytes,
        times: &Times,
        over: Instant,
    ) -> Result<Response<Arriving>, OutboundError> {
        // What the body's length is, hyper knows.
        fields.remove(header::CONTENT_LENGTH);
        fields.insert(header::HOST, target.host().clone());
        let mut request = Request::new(body);
        *request.method_mut() = target.method().clone();
        *request.uri_mut() = target.uri().clone();
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = fields;

        if let Some(transport) = &self.transport {
            let time = times.connect.saturating_add(times.first_byte);
            let time = time.min(over.saturating_duration_since(Instant::now()));
            return self.carry(&**transport, target, request, time).await;
        }
        let mut request = request.map(Full::new);
        let mut connection = capture_connection(&mut request);
        let mut response = pin!(self.client.request(request));
        let origin = || target.origin().clone();
        tokio::select! {
            biased;
            response = &mut response => {
                let response = response.map_err(|error| self.explain(target, &error))?;
                return Ok(response.map(Arriving::Incoming));
            }
            _ = connection.wait_for_connection_metadata() => {}
            () = sleep(times.connect) => {
                return Err(OutboundError::ConnectTimeout { origin: origin(), after: times.connect });
            }
        }
        match timeout(times.first_byte, response).await {
            Ok(Ok(response)) => Ok(response.map(Arriving::Incoming)),
            Ok(Err(error)) => Err(self.explain(target, &error)),
            Err(_) => Err(OutboundError::NoReply {
                origin: origin(),
                after: times.first_byte,
            }),
        }
    }

    /// Has the transport send a request, whose reply comes whole.
    async fn carry(
        &self,
        transport: &dyn Transport,
        target: &Target,
        mut request: Request<Bytes>,
        time: Duration,
    ) -> Result<Response<Arriving>, OutboundError> {
        let origin = target.origin();
        self.check_carried(origin)?;
        if !request.body().is_empty() {
            let length = HeaderValue::from(request.body().len());
            request.headers_mut().insert(header::CONTENT_LENGTH, length);
        }
        let config = &self.config;
        let response = match timeout(time, transport.carry(request, time)).await {
            Ok(carried) => {
                carried.map_err(|error| OutboundError::in_transport(origin, error, config.response_body_limit))?
            }
            Err(_) => {
                let origin = origin.clone();
                return Err(OutboundError::NoReply { origin, after: time });
            }
        };
        let fields = response.headers();
        let bytes: usize = fields
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        if bytes > config.response_head_limit || fields.len() > config.response_field_limit {
            return Err(OutboundError::HeadTooLarge {
                origin: origin.clone(),
                bytes: config.response_head_limit,
                fields: config.response_field_limit,
            });
        }
        Ok(response.map(|body| Arriving::Whole(Full::new(body))))
    }

    /// Whether the server of `origin` needs no more of a transport than any can do.
    fn check_carried(&self, origin: &Origin) -> Result<(), OutboundError> {
        match carries(self.destinations.trust(origin)) {
            true => Ok(()),
            false => Err(OutboundError::NotForTransport { origin: origin.clone() }),
        }
    }

    /// Connects as for a request, and closes the connection. What a transport connects to, it knows itself.
    pub(super) async fn connect(&self, origin: &Origin) -> Result<(), OutboundError> {
        if self.transport.is_some() {
            return self.check_carried(origin);
        }
        let connected = self.connector.clone().connect(origin).await;
        let denied = |reason| {
            // What is asked there, if anything is, is a request of this kind.
            let (method, url) = (Method::GET, origin.to_string());
            Denial { method, url, reason }.into()
        };
        connected.map(drop).map_err(|fault| match fault {
            ConnectFault::Addresses(addresses) => denied(self.destinations.prohibited(origin, addresses)),
            fault => OutboundError::in_connecting(origin, &fault).unwrap_or_else(|| denied(DenialReason::Origin)),
        })
    }

    fn explain(&self, target: &Target, error: &legacy::Error) -> OutboundError {
        let denied = |reason| Denial::new(target.method(), target.uri(), reason).into();
        match cause::<ConnectFault>(error) {
            None => {
                let config = &self.config;
                OutboundError::in_reply(
                    target.origin(),
                    error,
                    config.response_head_limit,
                    config.response_field_limit,
                )
            }
            Some(ConnectFault::Addresses(addresses)) => {
                denied(self.destinations.prohibited(target.origin(), addresses.clone()))
            }
            Some(fault) => {
                OutboundError::in_connecting(target.origin(), fault).unwrap_or_else(|| denied(DenialReason::Origin))
            }
        }
    }
}

/// The times of one request: the smaller of what the host permits and what the component asks for.
pub(super) struct Times {
    connect: Duration,
    pub(super) first_byte: Duration,
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
pub(super) async fn read_request_body<B>(method: &Method, body: B, limit: usize) -> Result<Bytes, OutboundError>
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
