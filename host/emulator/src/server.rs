//! Connections and requests: which part of the emulator answers, and how faults change the answer.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::arrival::Arrival;
use crate::assertion::Federation;
use crate::clock;
use crate::control;
use crate::delivery::{DeliveredBody, deliver};
use crate::fault::Delivery;
use crate::loopback;
use crate::oidc;
use crate::protocol::{ENDPOINTS, Endpoint, Platform, TokenRequest};
use crate::query::Query;
use crate::record::{Asked, InProgress};
use crate::reply::Reply;
use crate::takeover::{self, Carrier, Takeover};
use crate::throttle::{self, Place};
use crate::token::Issuer;
use crate::world::World;

/// Room for a request line and headers; more is answered with 431. Real token requests need less than 4 KiB.
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;

/// Room for a form; an assertion may have 16 KiB.
const MAX_FORM_BYTES: usize = 64 * 1024;

/// How long a connection may take to send a request's head, or idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections at once. Further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 1024;

/// How long accepting rests when the system is short of file descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// What a request occupies until its reply is sent.
type Held = (Option<InProgress>, Option<Place>);
type Answer = Result<Response<DeliveredBody<Held>>, Box<Interruption>>;

/// The connection is taken over, and the request is in progress until that is done.
type Interruption = (Takeover, Held);

/// Ends the conversation in HTTP.
#[derive(Debug)]
struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is taken over on purpose")
    }
}

impl std::error::Error for Interrupted {}

/// Accepts connections until told to stop, then drops them all.
pub(crate) async fn run(
    listener: TcpListener,
    tls_listener: Option<TcpListener>,
    world: Arc<World>,
    mut stop: oneshot::Receiver<Infallible>,
) {
    let acceptor = world
        .secure
        .as_ref()
        .map(|secure| TlsAcceptor::from(Arc::clone(&secure.server_config)));
    let secure = tls_listener.as_ref().zip(acceptor.as_ref());
    let mut connections = JoinSet::new();
    let mut rotation = pin!(rotate_assertion(&world));
    loop {
        let room = connections.len() < MAX_CONNECTIONS;
        tokio::select! {
            // Resolves when the sender is dropped, for it has nothing to send.
            _ = &mut stop => break,
            () = &mut rotation => {}
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if room => match accepted {
                Ok((stream, _)) => {
                    world.recorder.connected();
                    connections.spawn(converse(stream, Arrival::Plain, Arc::clone(&world)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_REST).await,
            },
            accepted = accept_tls(secure), if room => match accepted {
                Ok((stream, acceptor)) => {
                    world.recorder.connected();
                    connections.spawn(shake_hands(stream, acceptor, Arc::clone(&world)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_REST).await,
            },
        }
    }
    connections.shutdown().await;
}

/// Waits for a connection to the port with TLS, for ever if there is none.
async fn accept_tls(secure: Option<(&TcpListener, &TlsAcceptor)>) -> io::Result<(TcpStream, TlsAcceptor)> {
    match secure {
        Some((listener, acceptor)) => Ok((listener.accept().await?.0, acceptor.clone())),
        None => std::future::pending().await,
    }
}

/// Replaces the federated token in time, for ever.
async fn rotate_assertion(world: &World) {
    if world.federation.file.is_none() {
        return std::future::pending().await;
    }
    loop {
        let rest = async {
            match Federation::rotates_after(&world.settings()) {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = rest => {
                // Whoever needs the file finds it outdated, as on a node in trouble.
                let _ = world.write_assertion();
            }
            () = world.federation.changed.notified() => {}
        }
    }
}

/// Serves one connection with TLS, once it is one.
async fn shake_hands(stream: TcpStream, acceptor: TlsAcceptor, world: Arc<World>) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await else {
        return;
    };
    let server_name = stream.get_ref().1.server_name().map(str::to_owned);
    converse(stream, Arrival::Tls { server_name }, world).await;
}

/// Serves one connection. Whatever goes wrong on it ends it and concerns nobody else.
async fn converse(stream: impl Carrier, arrival: Arrival, world: Arc<World>) {
    // A dripped byte travels at once, not together with the next.
    let _ = stream.tcp().set_nodelay(true);
    let interruption = Arc::new(Mutex::new(None));
    let interrupting = Arc::clone(&interruption);
    let arrival = Arc::new(arrival);
    let service = service_fn(move |request| {
        let (world, arrival) = (Arc::clone(&world), Arc::clone(&arrival));
        let interrupting = Arc::clone(&interrupting);
        async move {
            answer(request, &arrival, &world).await.map_err(|interruption| {
                *interrupting.lock().unwrap_or_else(PoisonError::into_inner) = Some(interruption);
                Interrupted
            })
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = (&mut connection).await;
    let interruption = interruption.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(interruption) = interruption {
        let (takeover, _held) = *interruption;
        takeover.run(connection.into_parts().io.into_inner()).await;
    }
}

async fn answer(request: Request<Incoming>, arrival: &Arrival, world: &World) -> Answer {
    let (parts, body) = request.into_parts();
    let named_loopback = loopback::names_loopback(&parts);
    if named_loopback && control::owns(parts.uri.path()) {
        let reply = match Limited::new(body, control::MAX_BODY_BYTES).collect().await {
            Ok(body) => control::answer(&parts, &body.to_bytes(), world),
            Err(_) => control::unreadable_body(),
        };
        return Ok(deliver(reply, Delivery::Whole, clock::now(0), (None, None)));
    }

    let endpoint = ENDPOINTS
        .iter()
        .find(|endpoint| named_loopback && endpoint.place.is_at(parts.uri.path()));
    if let Some(endpoint) = endpoint {
        // Whatever breaks off or is too long is no form, and the endpoint misses what it should have said.
        let form = match Limited::new(body, MAX_FORM_BYTES).collect().await {
            Ok(body) if is_form(&parts) => body.to_bytes(),
            _ => Bytes::new(),
        };
        let form = String::from_utf8_lossy(&form);
        let asked = Question {
            query: &Query::parse(parts.uri.query().unwrap_or_default()),
            form: &Query::parse(&form),
        };
        let in_progress = world.recorder.arrived(
            &parts,
            Some(endpoint.source),
            &Asked {
                resource: asked.resource(),
                form: &form,
            },
        );
        return answer_token_request(endpoint, &parts, asked, arrival, world, in_progress).await;
    }
    let in_progress = world.recorder.arrived(&parts, None, &Asked::default());
    let reply = if named_loopback {
        other_paths(&parts, world)
    } else {
        foreign_host()
    };
    in_progress.answered(reply.status);
    let now = clock::now(world.settings().clock_offset_seconds);
    Ok(deliver(reply, Delivery::Whole, now, (Some(in_progress), None)))
}

/// What a token request says, in its query or its body.
#[derive(Clone, Copy)]
struct Question<'a> {
    query: &'a Query,
    form: &'a Query,
}

impl<'a> Question<'a> {
    /// The resource that is asked for, whatever the protocol calls it.
    fn resource(&self) -> Option<&'a str> {
        let scope = || self.form.get("scope");
        self.query
            .get("resource")
            .or_else(|| self.form.get("resource"))
            .or_else(|| scope()?.strip_suffix("/.default"))
            .or_else(scope)
    }
}

fn is_form(parts: &Parts) -> bool {
    let sent = parts
        .headers
        .get(CONTENT_TYPE)
        .map_or(b"".as_slice(), |value| value.as_bytes());
    let media_type = sent.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    media_type.eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

async fn answer_token_request(
    endpoint: &Endpoint,
    parts: &Parts,
    asked: Question<'_>,
    arrival: &Arrival,
    world: &World,
    in_progress: InProgress,
) -> Answer {
    let mut place = None;
    if let Some(limit) = world.settings().rate_limit.filter(|_| endpoint.rate_limited) {
        place = world.throttle.admit(limit, Instant::now());
        if place.is_none() {
            let reply = throttle::too_many_requests();
            in_progress.answered(reply.status);
            let now = clock::now(world.settings().clock_offset_seconds);
            return Ok(deliver(reply, Delivery::Whole, now, (Some(in_progress), None)));
        }
    }

    let fault = world.faults.strike(endpoint.source, asked.resource());
    let delivery = fault.as_ref().map_or(Delivery::Whole, |fault| fault.delivery());
    if let Some(delay) = fault
        .as_ref()
        .map(|fault| fault.waits())
        .filter(|delay| !delay.is_zero())
    {
        tokio::time::sleep(delay).await;
    }
    let takeover = match &delivery {
        // Ends when the client leaves or the emulator stops.
        Delivery::Hang => std::future::pending().await,
        Delivery::Close => Some(Takeover::Close),
        Delivery::Reset => Some(Takeover::Reset),
        Delivery::Raw(bytes) => Some(Takeover::Raw(bytes.clone())),
        Delivery::EndlessHeader { bytes } => Some(Takeover::EndlessHeader { bytes: *bytes }),
        _ => None,
    };
    if let Some(takeover) = takeover {
        return Err(Box::new((takeover, (Some(in_progress), place))));
    }

    let now = clock::now(world.settings().clock_offset_seconds);
    let documented = || documented(endpoint, parts, asked, arrival, world, now);
    let reply = match &fault {
        Some(fault) => fault.altered(documented),
        None => documented(),
    };
    in_progress.answered(reply.status);
    let held = (Some(in_progress), place);
    if let Delivery::InterimReplies { count } = delivery {
        let reply = takeover::serialised(&reply);
        return Err(Box::new((Takeover::InterimReplies { count, reply }, held)));
    }
    Ok(deliver(reply, delivery, now, held))
}

/// The reply that the protocol's documentation promises.
fn documented(
    endpoint: &Endpoint,
    parts: &Parts,
    asked: Question<'_>,
    arrival: &Arrival,
    world: &World,
    now: i64,
) -> Reply {
    if endpoint.tls_only && !arrival.is_tls() {
        return Reply::text(StatusCode::BAD_REQUEST, "this endpoint is served over TLS only\n");
    }
    let (identities, settings) = (world.identities(), world.settings());
    let issuer = Issuer {
        base_url: &world.base_url,
        key: &world.key,
        identities: &identities,
        settings: &settings,
        now,
    };
    let platform = Platform {
        source: endpoint.source,
        identities: &identities,
        settings: &settings,
        issuer,
        tokens: &world.tokens,
        header_secret: &world.header_secret,
        arc_keys: world.arc_keys.as_ref(),
        federation: &world.federation,
        unique: &world.unique,
    };
    let request = TokenRequest {
        method: &parts.method,
        path: parts.uri.path(),
        headers: &parts.headers,
        query: asked.query,
        form: asked.form,
        arrival,
    };
    (endpoint.answer)(&request, &platform)
}

/// Discovery, or nothing.
fn other_paths(parts: &Parts, world: &World) -> Reply {
    let identities = world.identities();
    oidc::answer(
        &parts.method,
        parts.uri.path(),
        &world.base_url,
        &identities.tenant_id,
        &world.key,
    )
    .unwrap_or_else(|| Reply::json(StatusCode::NOT_FOUND, &json!({"error": "Not found"})))
}

fn foreign_host() -> Reply {
    let message = "this server answers requests for loopback hosts only; send a Host such as 127.0.0.1 or localhost";
    Reply::json(
        StatusCode::BAD_REQUEST,
        &json!({"error": "invalid_request", "error_description": message}),
    )
}
