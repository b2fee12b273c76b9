//! Connections and requests: which part of the emulator answers, and how faults change the answer.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

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

use crate::clock;
use crate::control;
use crate::delivery::{DeliveredBody, deliver};
use crate::fault::Delivery;
use crate::loopback;
use crate::oidc;
use crate::protocol::{ENDPOINTS, Endpoint, Platform, TokenRequest};
use crate::query::Query;
use crate::record::InProgress;
use crate::reply::Reply;
use crate::throttle::{self, Place};
use crate::token::Issuer;
use crate::world::World;

/// Room for a request line and headers; more is answered with 431. Real token requests need less than 4 KiB.
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;

/// How long a connection may take to send a request's head, or idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections at once. Further ones wait in the listener's queue.
const MAX_CONNECTIONS: usize = 1024;

/// How long accepting rests when the system is short of file descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// What a request occupies until its reply is sent.
type Held = (Option<InProgress>, Option<Place>);
type Answer = Result<Response<DeliveredBody<Held>>, Hangup>;

/// Closes the connection without an answer.
#[derive(Debug)]
struct Hangup;

impl fmt::Display for Hangup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is closed on purpose")
    }
}

impl std::error::Error for Hangup {}

/// Accepts connections until told to stop, then drops them all.
pub(crate) async fn run(listener: TcpListener, world: Arc<World>, mut stop: oneshot::Receiver<Infallible>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Resolves when the sender is dropped, for it has nothing to send.
            _ = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    world.recorder.connected();
                    connections.spawn(converse(stream, Arc::clone(&world)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_REST).await,
            },
        }
    }
    connections.shutdown().await;
}

/// Serves one connection. Whatever goes wrong on it ends it and concerns nobody else.
async fn converse(stream: TcpStream, world: Arc<World>) {
    // A dripped byte travels at once, not together with the next.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let world = Arc::clone(&world);
        async move { answer(request, &world).await }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, world: &World) -> Answer {
    let (parts, body) = request.into_parts();
    let named_loopback = loopback::names_loopback(&parts);
    if named_loopback && control::owns(parts.uri.path()) {
        let reply = match Limited::new(body, control::MAX_BODY_BYTES).collect().await {
            Ok(body) => control::answer(&parts, &body.to_bytes(), world),
            Err(_) => control::unreadable_body(),
        };
        return Ok(deliver(reply, Delivery::Whole, clock::now(0), (None, None)));
    }

    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let endpoint = ENDPOINTS
        .iter()
        .find(|endpoint| named_loopback && endpoint.path == parts.uri.path());
    let source = endpoint.map(|endpoint| endpoint.source);
    let in_progress = world.recorder.arrived(&parts, source, query.get("resource"));
    match endpoint {
        Some(endpoint) => answer_token_request(endpoint, &parts, &query, world, in_progress).await,
        None => {
            let reply = if named_loopback {
                other_paths(&parts, world)
            } else {
                foreign_host()
            };
            in_progress.answered(reply.status);
            let now = clock::now(world.settings().clock_offset_seconds);
            Ok(deliver(reply, Delivery::Whole, now, (Some(in_progress), None)))
        }
    }
}

async fn answer_token_request(
    endpoint: &Endpoint,
    parts: &Parts,
    query: &Query,
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

    let fault = world.faults.strike(endpoint.source, query.get("resource"));
    let delivery = fault.as_ref().map_or(Delivery::Whole, |fault| fault.delivery());
    if let Some(delay) = fault
        .as_ref()
        .map(|fault| fault.waits())
        .filter(|delay| !delay.is_zero())
    {
        tokio::time::sleep(delay).await;
    }
    match delivery {
        // Ends when the client leaves or the emulator stops.
        Delivery::Hang => std::future::pending().await,
        Delivery::Close => return Err(Hangup),
        _ => {}
    }

    let (identities, settings) = (world.identities(), world.settings());
    let now = clock::now(settings.clock_offset_seconds);
    let documented = || {
        let issuer = Issuer {
            base_url: &world.base_url,
            key: &world.key,
            identities: &identities,
            settings: &settings,
            now,
        };
        let platform = Platform {
            identities: &identities,
            settings: &settings,
            issuer,
            header_secret: &world.header_secret,
            unique: &world.unique,
        };
        let request = TokenRequest {
            method: &parts.method,
            headers: &parts.headers,
            query,
        };
        (endpoint.answer)(&request, &platform)
    };
    let reply = match &fault {
        Some(fault) => fault.altered(documented),
        None => documented(),
    };
    in_progress.answered(reply.status);
    Ok(deliver(reply, delivery, now, (Some(in_progress), place)))
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
