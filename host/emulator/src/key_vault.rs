//! A stand-in for a vault of Azure Key Vault: something that a token opens.
//!
//! The part of the protocol that it speaks ("Get Secret", Azure Key Vault REST API; "Authentication, requests and
//! responses", Azure Key Vault documentation), over TLS, and without if it is told to
//! [for clients that trust no authority of one's own](KeyVault::serve_plain):
//!
//! 1. `GET /secrets/{name}?api-version=7.4` without a token, or with one that is not taken, is answered 401, with the
//!    challenge `WWW-Authenticate: Bearer authorization="https://login…/{tenant}", resource="https://vault.azure.net"`.
//! 2. A token is taken when it is signed by the key in the emulator's key set, from its issuer, for the audience
//!    `https://vault.azure.net`, and valid now. The reply is `{"value": …, "id": …, "attributes": {…}}`.
//! 3. A token that was revoked is answered 401 with `error="insufficient_claims"` and `claims="…"` in the challenge
//!    ("Claims challenges, claims requests and client capabilities", Microsoft identity platform).
//!
//! What a server does wrong that a client must be safe from, it does when it is told to: see [`Behaviour`].

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::clock;
use crate::jwt::{Audience, Shown};
use crate::loopback;
use crate::query::Query;
use crate::record::{Asked, RecordedRequest, Recorder};
use crate::reply::Reply;
use crate::secure::Secure;
use crate::tls::Certificate;
use crate::token;
use crate::world::World;

/// The audience of tokens for vaults in Azure's public cloud.
const AUDIENCE: &str = "https://vault.azure.net";

/// How long a connection may take to shake hands, or to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long accepting rests when the system is short of file descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// The field in which [`Echo::Header`] repeats the authorization.
const ECHO_FIELD: HeaderName = HeaderName::from_static("x-echoed-authorization");

/// What the vault does besides what Key Vault does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// Requests that are permitted are redirected to this URL.
    pub redirect_to: Option<String>,
    /// Replies to permitted requests repeat the authorization.
    pub echo: Option<Echo>,
    /// Of the permitted requests, each time the last of so many is answered 503.
    pub fail_each: Option<NonZeroU32>,
}

/// Where a reply repeats the authorization of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// In the field `x-echoed-authorization`.
    Header,
    /// In the body.
    Body,
    /// In the body, which comes in chunks of so many bytes.
    Chunks(usize),
}

/// A running vault. It stops when it is dropped, and outlives the [`Emulator`](crate::Emulator) if need be.
pub struct KeyVault {
    secure: Secure,
    vault: Arc<Vault>,
    /// One for each port. They end with it.
    servers: JoinSet<()>,
}

/// A port of the vault.
#[derive(Clone)]
struct Port {
    /// How it is reached, and with what the ids of secrets begin.
    base_url: Arc<str>,
    /// Without one, it speaks plain HTTP.
    acceptor: Option<TlsAcceptor>,
    vault: Arc<Vault>,
}

/// What all connections share.
struct Vault {
    /// Who issues the tokens.
    world: Arc<World>,
    secrets: BTreeMap<String, String>,
    recorder: Recorder,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    behaviour: Behaviour,
    /// The claims of the challenges by which the next good tokens will be refused.
    demands: Vec<String>,
    /// SHA-256 of the tokens that were, and the claims that they lack.
    revoked: BTreeMap<[u8; 32], String>,
    /// SHA-256 of all good tokens so far.
    tokens: HashSet<[u8; 32]>,
    /// Counts the permitted requests.
    permitted: u32,
}

/// The claims that the vault looks at.
#[derive(Deserialize)]
struct Claims {
    aud: Audience,
    exp: i64,
    nbf: i64,
    iss: String,
}

impl KeyVault {
    pub(crate) fn start(
        listener: TcpListener,
        secure: Secure,
        world: Arc<World>,
        secrets: BTreeMap<String, String>,
    ) -> Self {
        let vault = Arc::new(Vault {
            world,
            secrets,
            recorder: Recorder::new(),
            state: Mutex::default(),
        });
        let port = Port {
            base_url: secure.base_url.as_str().into(),
            acceptor: Some(Arc::clone(&secure.server_config).into()),
            vault: Arc::clone(&vault),
        };
        let mut servers = JoinSet::new();
        servers.spawn(serve(listener, port));
        Self { secure, vault, servers }
    }

    /// Serves the same vault also without TLS, on a port of its own of the same address: for clients that cannot be made to
    /// trust an authority of one's own. Returns `http://` and the address, without a trailing slash.
    ///
    /// No vault of Azure's does this: whoever sees such a request has the token.
    ///
    /// # Errors
    /// What the operating system says about the address.
    ///
    /// # Panics
    /// Outside a Tokio runtime with I/O and time.
    pub fn serve_plain(&mut self) -> io::Result<String> {
        let (listener, listening) = loopback::listen(SocketAddr::new(self.secure.listening.ip(), 0))?;
        let base_url = format!("http://{listening}");
        let port = Port {
            base_url: base_url.as_str().into(),
            acceptor: None,
            vault: Arc::clone(&self.vault),
        };
        self.servers.spawn(serve(listener, port));
        Ok(base_url)
    }

    /// The address and port that accept connections with TLS.
    pub fn listening(&self) -> SocketAddr {
        self.secure.listening
    }

    /// `https://` and the address, without a trailing slash.
    pub fn base_url(&self) -> &str {
        &self.secure.base_url
    }

    /// The certificate that it presents, for `localhost` and the loopback addresses. Clients have to trust its
    /// [authority](Certificate::authority_pem).
    pub fn certificate(&self) -> &Certificate {
        &self.secure.certificate
    }

    /// Changes what it does wrong, from the next request on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.vault.state().behaviour = behaviour;
    }

    /// Revokes the next good token: it is answered with a challenge for these claims (a JSON object) then and ever after.
    /// Each call revokes one.
    pub fn demand_claims(&self, claims: &str) {
        self.vault.state().demands.push(claims.to_owned());
    }

    /// The requests so far, oldest first, with the status of their replies. Of `Authorization` there is only that it was
    /// there.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.vault.recorder.requests()
    }

    /// How many different good tokens it has been shown.
    pub fn tokens(&self) -> usize {
        self.vault.state().tokens.len()
    }
}

impl fmt::Debug for KeyVault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KeyVault")
            .field("listening", &self.secure.listening)
            .finish_non_exhaustive()
    }
}

/// Accepts connections for ever.
async fn serve(listener: TcpListener, port: Port) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, port.clone()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_REST).await,
            },
        }
    }
}

/// Serves one connection. Whatever goes wrong on it ends it and concerns nobody else.
async fn converse(stream: TcpStream, port: Port) {
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = &port.acceptor else {
        return answer_all(stream, &port).await;
    };
    if let Ok(Ok(stream)) = tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await {
        answer_all(stream, &port).await;
    }
}

/// Answers the requests of one connection, until it ends.
async fn answer_all(stream: impl AsyncRead + AsyncWrite + Unpin, port: &Port) {
    let service = service_fn(|request: Request<Incoming>| async {
        Ok::<_, Infallible>(port.vault.serve(request, &port.base_url).await)
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Vault {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, request: Request<Incoming>, base_url: &str) -> Response<Chunks> {
        let (parts, mut body) = request.into_parts();
        // Nothing that is asked has a body; the connection can be used again when it has been read.
        while let Some(Ok(_)) = body.frame().await {}
        let in_progress = self.recorder.arrived(&parts, None, &Asked::default());
        let (reply, chunk) = self.answer(&parts, base_url).unwrap_or_else(|refusal| (refusal, None));
        in_progress.answered(reply.status);
        Chunks::of(reply, chunk)
    }

    /// The reply, and the size of its chunks if it has any.
    fn answer(&self, request: &Parts, base_url: &str) -> Result<(Reply, Option<usize>), Reply> {
        if !loopback::names_loopback(request) {
            let message = "this vault answers requests for loopback hosts only";
            return Err(error(StatusCode::BAD_REQUEST, "BadParameter", message));
        }
        let authorization = self.authorize(request)?;
        let (behaviour, permitted) = {
            let mut state = self.state();
            state.permitted = state.permitted.wrapping_add(1);
            (state.behaviour.clone(), state.permitted)
        };
        if behaviour.fail_each.is_some_and(|count| permitted % count == 0) {
            let message = "The service is busy.";
            return Err(error(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message));
        }
        if let Some(url) = &behaviour.redirect_to {
            return Ok((with(Reply::empty(StatusCode::FOUND), LOCATION, url), None));
        }
        let reply = self.secret(request, base_url)?;
        Ok(match behaviour.echo {
            None => (reply, None),
            Some(Echo::Header) => (with(reply, ECHO_FIELD, authorization), None),
            Some(Echo::Body) => (Reply::text(StatusCode::OK, echo(authorization)), None),
            Some(Echo::Chunks(size)) => (Reply::text(StatusCode::OK, echo(authorization)), Some(size.max(1))),
        })
    }

    /// The value of `Authorization`, if the token in it is taken.
    fn authorize<'a>(&self, request: &'a Parts) -> Result<&'a str, Reply> {
        let unauthorized = |message: &str| self.unauthorized(message, None);
        let authorization = request
            .headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let (scheme, token) = authorization.split_once(' ').unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("bearer") || request.headers.get_all(AUTHORIZATION).iter().count() > 1 {
            return Err(unauthorized("AKV10000: Request is missing a Bearer or PoP token."));
        }
        self.check(token).map_err(|flaw| unauthorized(&flaw))?;

        let digest = <[u8; 32]>::from(Sha256::digest(token));
        let mut state = self.state();
        state.tokens.insert(digest);
        if !state.revoked.contains_key(&digest) && !state.demands.is_empty() {
            let claims = state.demands.remove(0);
            state.revoked.insert(digest, claims);
        }
        match state.revoked.get(&digest) {
            None => Ok(authorization),
            Some(claims) => Err(self.unauthorized(
                "AKV10150: The token was issued before what it vouches for has changed.",
                Some(claims),
            )),
        }
    }

    /// Looks at a token as Key Vault does.
    fn check(&self, token: &str) -> Result<(), String> {
        let settings = self.world.settings();
        let issuer = token::issuer_url(&self.world.base_url, &self.world.identities().tenant_id);
        let shown: Shown<'_, Claims> =
            Shown::read(token).ok_or("AKV10001: Error validating token: it is no JSON Web Token with these claims.")?;
        if !shown.names(&self.world.key) || !shown.is_signed_by(&self.world.key) {
            return Err("AKV10001: Error validating token: it is not signed by a key of the issuer.".to_owned());
        }
        let claims = &shown.claims;
        if claims.iss != issuer {
            return Err(format!(
                "AKV10032: Invalid issuer. Expected {issuer}, found {}.",
                claims.iss
            ));
        }
        if !claims.aud.is(AUDIENCE) {
            return Err(format!("AKV10022: Invalid audience. Expected {AUDIENCE}."));
        }
        let now = clock::now(settings.clock_offset_seconds);
        if now < claims.nbf || now >= claims.exp {
            return Err("AKV10001: Error validating token: it is not valid now.".to_owned());
        }
        Ok(())
    }

    fn secret(&self, request: &Parts, base_url: &str) -> Result<Reply, Reply> {
        let path = request.uri.path();
        let Some(name) = path.strip_prefix("/secrets/").filter(|name| !name.contains('/')) else {
            return Err(error(
                StatusCode::NOT_FOUND,
                "NotFound",
                "There is nothing at this path.",
            ));
        };
        if request.method != Method::GET {
            let message = format!("Method {} is not allowed.", request.method);
            return Err(error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", &message));
        }
        let query = Query::parse(request.uri.query().unwrap_or_default());
        if query.get("api-version").is_none_or(str::is_empty) {
            let message = "api-version must be specified";
            return Err(error(StatusCode::BAD_REQUEST, "BadParameter", message));
        }
        let value = self.secrets.get(name).ok_or_else(|| {
            let message = format!("A secret with (name/id) {name} was not found in this key vault.");
            error(StatusCode::NOT_FOUND, "SecretNotFound", &message)
        })?;
        Ok(Reply::json(
            StatusCode::OK,
            &json!({
                "value": value,
                "id": format!("{base_url}/secrets/{name}/00000000000000000000000000000001"),
                "attributes": {"enabled": true, "recoveryLevel": "Recoverable+Purgeable"},
            }),
        ))
    }

    /// The challenge, which names the issuer in the way of Key Vault, and the claims that the token lacks.
    fn unauthorized(&self, message: &str, claims: Option<&str>) -> Reply {
        let base_url = self
            .world
            .secure
            .as_ref()
            .map_or(&self.world.base_url, |secure| &secure.base_url);
        let tenant = &self.world.identities().tenant_id;
        let mut challenge = format!(r#"Bearer authorization="{base_url}/{tenant}", resource="{AUDIENCE}""#);
        if let Some(claims) = claims {
            let claims = STANDARD.encode(claims);
            challenge.push_str(&format!(r#", error="insufficient_claims", claims="{claims}""#));
        }
        let reply = error(StatusCode::UNAUTHORIZED, "Unauthorized", message);
        with(reply, WWW_AUTHENTICATE, &challenge)
    }
}

fn error(status: StatusCode, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({"error": {"code": code, "message": message}}))
}

fn echo(authorization: &str) -> String {
    json!({"request": {"headers": {"Authorization": authorization}}}).to_string()
}

/// The reply with a field more, as far as it can be sent.
fn with(mut reply: Reply, name: HeaderName, value: &str) -> Reply {
    reply
        .headers
        .extend(HeaderValue::from_str(value).map(|value| (name, value)));
    reply
}

/// A body in chunks, or in one piece.
struct Chunks {
    rest: Bytes,
    size: Option<usize>,
}

impl Chunks {
    fn of(reply: Reply, size: Option<usize>) -> Response<Self> {
        let Reply { status, headers, body } = reply;
        let length = HeaderValue::from(body.len());
        let mut response = Response::new(Self { rest: body, size });
        *response.status_mut() = status;
        response.headers_mut().extend(headers);
        if size.is_none() {
            response.headers_mut().insert(CONTENT_LENGTH, length);
        }
        response
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let size = self.size.unwrap_or(usize::MAX).min(self.rest.len());
        let chunk = self.rest.split_to(size);
        Poll::Ready((!chunk.is_empty()).then(|| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match (self.size, u64::try_from(self.rest.len())) {
            (None, Ok(length)) => SizeHint::with_exact(length),
            _ => SizeHint::default(),
        }
    }
}
