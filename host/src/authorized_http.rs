//! `wasi:http` for plugins: to where they are granted to go, with the tokens that they must not see.
//!
//! A plugin sends ordinary requests, in `wasi:http` 0.2 or 0.3. What becomes of one is decided by its caller's grant
//! ([`Granted::destination`]) when it is sent:
//!
//! | the origin is | the request is |
//! |---|---|
//! | one of an [`AuthorizeRule`], on `https` | sent with `Authorization`, which the host adds |
//! | one of [`Grant::http`](crate::grants::Grant::http) | sent as it is |
//! | any other | refused: `HTTP-request-denied` |
//!
//! ```no_run
//! # fn example(gate: managed_identity_host::grants::Gate) {
//! use managed_identity_host::authorized_http::AuthorizedHttp;
//! use managed_identity_host::grants::Caller;
//! use wasmtime::component::ResourceTable;
//! use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
//!
//! struct PluginState {
//!     table: ResourceTable,
//!     http: WasiHttpCtx,
//!     hooks: AuthorizedHttp,
//! }
//!
//! impl WasiHttpView for PluginState {
//!     fn http(&mut self) -> WasiHttpCtxView<'_> {
//!         WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
//!     }
//! }
//!
//! let one = AuthorizedHttp::new(gate.caller(Caller::new("one")));
//! let another = one.for_caller(Caller::new("another"));
//! let state = PluginState { table: ResourceTable::new(), http: WasiHttpCtx::new(), hooks: another };
//! # }
//! ```
//!
//! # What no grant permits
//! - Any spelling of a URL but the canonical one, as for the provider itself ([`crate::outbound`]); only a path may have
//!   percent-encoded characters, but for dots, slashes, backslashes and controls. The methods `CONNECT` and `TRACE`. Fields
//!   that are about the connection, such as `Host` and `Proxy-Authorization`.
//! - `Authorization` and `Cookie` of the plugin's own, where the host authorizes. Such a request is refused, and not sent
//!   without them: the plugin would not get what it means.
//! - The metadata service and everything else on link-local addresses, the platform's own addresses, and this machine,
//!   whatever name leads there. A grant that says `localhost` or a loopback address, exactly, permits that: a sidecar,
//!   or the stand-in of a test. The identity endpoint of the host's own broker stays out of reach also then.
//!
//! # What keeps tokens from plugins
//! - Redirects are not followed. A plugin that follows one sends a new request, which is decided anew.
//! - A reply that repeats the token, or a part of it, is not passed on: headers and body are searched as they come. Replies
//!   to authorized requests come uncompressed; one that is not is refused. This is for servers that echo by accident: a
//!   server that works together with a plugin can always tell it what it was sent, and a plugin that gets at single characters of an echo
//!   (with `Range`, say) gets them. Grant hosts that are trusted with the token.
//! - Cookies are not kept, and those of authorized replies are not passed on.
//! - Errors name no secret.
//!
//! A server that rejects the token with a claims challenge gets the request once more, with a token that answers it. The plugin
//! sees the reply to that, or the 401 where there is no other token.

mod challenge;
mod config;
mod echo;
mod reply;

pub use config::AuthorizedHttpConfig;

use crate::grants::{AuthorizeRule, Caller, Destination, Granted};
use crate::outbound::{
    Denial, DenialReason, Egress, EgressPolicy, Endpoint, Origin, OutboundError, PathFault, RootCertificates, Scheme,
    Target, is_connection_field,
};
use crate::token::AccessToken;
use challenge::claims_challenge;
pub use challenge::claims_challenge_of;
use echo::Search;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, uri};
use managed_identity_provider::error::{Cause, Error as TokenError};
use managed_identity_provider::secret::Secret;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use wasmtime_wasi_http::{Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks};

/// How many bytes are copied out of a plugin for each write to a request's body.
const WRITE_LIMIT: usize = 64 * 1024;

/// The target of this module's events.
const LOG_TARGET: &str = "managed_identity::authorized_http";

/// What the `wasi:http` of a plugin's store does. Cheap to clone: clones, and those made by
/// [`for_caller`](Self::for_caller), share their connections.
///
/// It needs a tokio runtime with I/O and time enabled, and keeps its connections on the runtime that made them.
#[derive(Clone)]
pub struct AuthorizedHttp {
    granted: Granted,
    client: Arc<Client>,
    /// The caller's places among its requests under way.
    places: Arc<Semaphore>,
}

/// What all callers at one gate share.
struct Client {
    egress: Egress,
    config: AuthorizedHttpConfig,
    places: Mutex<HashMap<Caller, Weak<Semaphore>>>,
}

/// Why a request is not sent.
enum Refusal {
    /// For what it is.
    Request(Denial),
    /// By the policy, which has told the audit trail.
    Policy(TokenError),
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::Request(denial)
    }
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        Self::Policy(error)
    }
}

impl AuthorizedHttp {
    /// Sends for this caller what it is granted.
    #[must_use]
    pub fn new(granted: Granted) -> Self {
        Self::with_config(granted, AuthorizedHttpConfig::default())
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_config(granted: Granted, config: AuthorizedHttpConfig) -> Self {
        let policy = EgressPolicy::withholding(identity_endpoints(&granted));
        Self::with_client(granted, policy, config)
    }

    /// The same, which trusts these authorities besides the system's. It has connections of its own.
    #[must_use]
    pub fn with_root_certificates(self, certificates: RootCertificates) -> Self {
        let policy = self.client.egress.policy().clone().with_root_certificates(certificates);
        Self::with_client(self.granted, policy, self.client.config.clone())
    }

    /// The same for another caller at the same gate.
    #[must_use]
    pub fn for_caller(&self, caller: Caller) -> Self {
        Self {
            places: self.client.places_of(&caller),
            granted: self.granted.gate().caller(caller),
            client: Arc::clone(&self.client),
        }
    }

    /// Who asks.
    #[must_use]
    pub fn granted(&self) -> &Granted {
        &self.granted
    }

    fn with_client(granted: Granted, policy: EgressPolicy, config: AuthorizedHttpConfig) -> Self {
        Self::with_egress(granted, Egress::new(policy, config.outbound()), config)
    }

    fn with_egress(granted: Granted, egress: Egress, config: AuthorizedHttpConfig) -> Self {
        let client = Arc::new(Client {
            egress,
            config,
            places: Mutex::default(),
        });
        Self {
            places: client.places_of(granted.caller()),
            granted,
            client,
        }
    }

    async fn send(self, request: Request<WasiBody>, options: RequestOptions) -> Result<Response<WasiBody>, Error> {
        let (parts, body) = request.into_parts();
        let (target, rule) = self
            .decide(&parts.method, &parts.uri, &parts.headers)
            .map_err(|refusal| self.refused(refusal))?;
        let egress = &self.client.egress;
        let failed = |error| self.failed(error);
        let wait = self.wait(options);
        // Before the body is read, so that the caller's places limit also how much is kept of bodies. The semaphore is never
        // closed.
        let place = timeout(wait, Arc::clone(&self.places).acquire_owned())
            .await
            .map_err(|_| Error::ConnectionLimitReached)?
            .ok();
        let body = egress.read(&target, body, options).await.map_err(failed)?;
        let mut fields = parts.headers;
        let Some(rule) = rule else {
            let reply = egress.send(&target, fields, body, options).await.map_err(failed)?;
            return reply::pass_on(reply, None, place);
        };

        let token = self.token(&target, &rule, None, wait).await;
        let token = token.map_err(|error| no_token(&error))?;
        fields.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        fields.insert(header::AUTHORIZATION, authorization(&token)?);
        let search = search(&[&token.token])?;
        let first = egress
            .send(&target, fields.clone(), body.clone(), options)
            .await
            .map_err(failed)?;
        let Some(next) = self.answer_challenge(&target, &first, &rule, &token, wait).await else {
            return reply::pass_on(first, Some(search), place);
        };
        drop(first);
        fields.insert(header::AUTHORIZATION, authorization(&next)?);
        let search = self::search(&[&token.token, &next.token])?;
        let second = egress.send(&target, fields, body, options).await.map_err(failed)?;
        reply::pass_on(second, Some(search), place)
    }

    /// Where a request goes, and by which rule it is authorized, if it is.
    fn decide(
        &self,
        method: &Method,
        uri: &http::Uri,
        fields: &HeaderMap,
    ) -> Result<(Target, Option<AuthorizeRule>), Refusal> {
        let denied = |reason| Err(Denial::new(method, uri, reason).into());
        let target = self.client.egress.policy().check(method, uri, fields)?;
        let origin = target.origin();
        match self.granted.admit_http(method.as_str(), origin)? {
            Destination::Denied => denied(DenialReason::NotGranted),
            Destination::Plain => Ok((target, None)),
            Destination::Authorized(_) if origin.scheme() != Scheme::Https => denied(DenialReason::NotGranted),
            Destination::Authorized(rule) => {
                match [header::AUTHORIZATION, header::COOKIE]
                    .into_iter()
                    .find(|name| fields.contains_key(name))
                {
                    Some(name) => denied(DenialReason::HeaderField(name)),
                    None => Ok((target, Some(rule))),
                }
            }
        }
    }

    /// The token to send the request with once more, if the reply asks for another one and there is one.
    async fn answer_challenge<B>(
        &self,
        target: &Target,
        reply: &Response<B>,
        rule: &AuthorizeRule,
        rejected: &AccessToken,
        wait: Duration,
    ) -> Option<Arc<AccessToken>> {
        if reply.status() != StatusCode::UNAUTHORIZED {
            return None;
        }
        let claims = claims_challenge(reply.headers())?;
        match self
            .token(target, rule, Some((&claims, rejected.token.clone())), wait)
            .await
        {
            Ok(next) if !next.token.matches(rejected.token.expose()) => Some(next),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(target: LOG_TARGET, %error, "no token answers the claims challenge");
                None
            }
        }
    }

    async fn token(
        &self,
        target: &Target,
        rule: &AuthorizeRule,
        challenge: Option<(&str, Secret)>,
        wait: Duration,
    ) -> Result<Arc<AccessToken>, TokenError> {
        let method = target.method().as_str();
        let token = self.granted.authorization(method, target.origin(), rule, challenge);
        timeout(wait, token).await.unwrap_or_else(|_| {
            let message = "The token did not come in the time that the request has.";
            Err(TokenError::new(Cause::DeadlineExceeded, message))
        })
    }

    /// How long each step before the request is sent may take.
    fn wait(&self, options: RequestOptions) -> Duration {
        let limit = self.client.config.first_byte_timeout;
        options.first_byte_timeout.unwrap_or(limit).min(limit)
    }

    fn refused(&self, refusal: Refusal) -> Error {
        match refusal {
            Refusal::Request(denial) => self.denied(&denial),
            Refusal::Policy(error) => {
                tracing::debug!(target: LOG_TARGET, %error, "request refused");
                match error.cause {
                    Cause::Throttled => Error::ConnectionLimitReached,
                    _ => Error::HttpRequestDenied,
                }
            }
        }
    }

    fn denied(&self, denial: &Denial) -> Error {
        self.granted.refuse_http(denial.method.as_str(), &denial.url);
        tracing::debug!(target: LOG_TARGET, caller = %self.granted.caller(), %denial, "request refused");
        match &denial.reason {
            // Who is not granted an address is not told what is there.
            DenialReason::OutOfReach { origin, .. } => match self.granted.destination(origin) {
                Destination::Denied => Error::HttpRequestDenied,
                _ => Error::DestinationIpProhibited,
            },
            DenialReason::PathFault(PathFault::TooLong) => Error::HttpRequestUriTooLong,
            DenialReason::PathFault(_) | DenialReason::OriginFault(_) => Error::HttpRequestUriInvalid,
            DenialReason::Method => Error::HttpRequestMethodInvalid,
            _ => Error::HttpRequestDenied,
        }
    }

    fn failed(&self, error: OutboundError) -> Error {
        if let OutboundError::Denied(denial) = &error {
            return self.denied(denial);
        }
        tracing::debug!(target: LOG_TARGET, caller = %self.granted.caller(), %error, "request failed");
        error.into()
    }
}

impl Client {
    fn places_of(&self, caller: &Caller) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, places| places.strong_count() > 0);
        if let Some(known) = places.get(caller).and_then(Weak::upgrade) {
            return known;
        }
        let new = Arc::new(Semaphore::new(
            self.config.requests_at_once.clamp(1, Semaphore::MAX_PERMITS),
        ));
        places.insert(caller.clone(), Arc::downgrade(&new));
        new
    }
}

/// Where the broker gets its tokens.
fn identity_endpoints(granted: &Granted) -> Vec<Origin> {
    let policy = granted.gate().broker().outbound().policy();
    policy.endpoints().iter().map(Endpoint::origin).cloned().collect()
}

fn authorization(token: &AccessToken) -> Result<HeaderValue, Error> {
    let text = Secret::new(format!("{} {}", token.token_type, token.token.expose()));
    let mut value = HeaderValue::from_str(text.expose()).map_err(|_| {
        Error::InternalError(Some(
            "the token has a character that no header field may have".to_owned(),
        ))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn search(tokens: &[&Secret]) -> Result<Arc<Search>, Error> {
    Search::new(tokens).map_err(|error| Error::InternalError(Some(error.to_string())))
}

/// What a plugin is told when there is no token to send its request with: the cause, which is one of a closed list.
fn no_token(error: &TokenError) -> Error {
    tracing::debug!(target: LOG_TARGET, %error, "no token for a request");
    match error.cause {
        Cause::Denied => Error::HttpRequestDenied,
        Cause::NotConfigured => Error::ConfigurationError,
        cause => Error::InternalError(Some(format!(
            "the host has no token for this request: {}",
            cause.name()
        ))),
    }
}

impl WasiHttpHooks for AuthorizedHttp {
    /// Those that no request of a plugin has. `Authorization` is not among them: whether it is the plugin's to set depends on
    /// where the request goes.
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(is_connection_field)
    }

    /// All of them, so that the wrong ones are refused as anything else is.
    fn is_supported_scheme(&mut self, _: &uri::Scheme) -> bool {
        true
    }

    /// No: it is made from the target that was checked.
    fn set_host_header(&mut self) -> bool {
        false
    }

    /// None: a plugin that leaves the scheme out has not said what it wants.
    fn default_scheme(&mut self) -> Option<uri::Scheme> {
        None
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        // How the plugin fared with the body of the reply. A body that is given up is dropped, which closes its connection.
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<
        dyn Future<Output = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>>
            + Send,
    > {
        let reply = self.clone().send(request, options.unwrap_or_default());
        Box::new(async move {
            // The request was sent whole before the reply began, and the pool drives the connection: nothing is left to do.
            let rest: Box<dyn Future<Output = Result<(), Error>> + Send> = Box::new(std::future::ready(Ok(())));
            Ok((reply.await?, rest))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        WRITE_LIMIT
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        WRITE_LIMIT
    }
}

impl fmt::Debug for AuthorizedHttp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AuthorizedHttp")
            .field("granted", &self.granted)
            .field("config", &self.client.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
