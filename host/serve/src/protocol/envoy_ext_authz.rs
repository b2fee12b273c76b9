//! Envoy's external authorization (`envoy.filters.http.ext_authz`). In its HTTP variant (`http_service`), Envoy asks with
//! the method, path and `Host` of a request that it is about to pass on, and adds what we answer to that request.
//!
//! | answer | when | what Envoy does |
//! |---|---|---|
//! | 200 with `Authorization` | an `authorize-only` rule has `https://` and the host | adds the token, if `allowed_upstream_headers` names `authorization` |
//! | 200 without | an `http` rule has `https://` and the host | passes the request on as it is |
//! | 403 | no rule has it | answers 403 |
//! | 429 | the caller asks more often than it may | answers 429 |
//! | 503 | there is no token now | by `failure_mode_allow` and `status_on_error` |
//!
//! A refusal names its cause in `X-Managed-Identity-Error`. What the sender of the request has in `Authorization` is not
//! looked at and never sent back; the token takes its place.
//!
//! Where the host that the sender names is not the one that the request goes to (`host_rewrite_literal`), Envoy can say
//! itself what the token is for, by `headers_to_add` of `authorization_request`: `X-Managed-Identity-Audience`, and
//! `X-Managed-Identity-Identity` for another identity than the default (`client-id:…`, as in a policy). These need a
//! `token` rule, so no caller that has only `authorize-only` rules can be made to give a token by them. Envoy's
//! `headers_to_add` replaces what the sender has put into the same headers; without it, and if `allowed_headers` lets them
//! through, the sender would choose among the audiences of the `token` rules. So give such rules only to a caller whose
//! Envoy sets these headers.
//!
//! Over TCP without TLS, such a request must also name this machine, or one of the listener's `hosts`, in `Host`. A web page
//! whose name resolves to here (DNS rebinding) can send any header, and read the token in the answer, but not choose its
//! `Host`. Requests without these headers need no such care: what they are given depends on their `Host` alone.

use super::refusal::Refusal;
use super::{Reply, Service, host_header, is_plain_tcp, reply};
use crate::callers::Known;
use crate::config::Protocol;
use crate::connection::User;
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use managed_identity_host::grants::{Destination, IdentityPattern};
use managed_identity_host::outbound::{Origin, Scheme};
use managed_identity_host::{AccessToken, Cause, TokenError, TokenRequest};
use std::sync::Arc;

const AUDIENCE: HeaderName = HeaderName::from_static("x-managed-identity-audience");
const IDENTITY: HeaderName = HeaderName::from_static("x-managed-identity-identity");

/// What Envoy asks about a request that it is about to pass on.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) method: &'a str,
    pub(crate) host: Option<&'a str>,
    /// What Envoy itself says that the token is for.
    pub(crate) audience: Option<&'a str>,
    /// Whose it is to be then, as in a policy.
    pub(crate) identity: Option<&'a str>,
}

pub(super) async fn answer(request: &Parts, user: User, service: &Service) -> Reply {
    match asked(request, user, service) {
        Ok(question) => answer_to(&question, user, service).await,
        Err(refusal) => refused(&refusal, user, service),
    }
}

/// The same for whoever asks in another way.
pub(crate) async fn answer_to(question: &Question<'_>, user: User, service: &Service) -> Reply {
    let Some(asker) = service.asker(user) else {
        return refused(&Refusal::stranger(), user, service);
    };
    let decided = match decide(question, &asker, service).await {
        Ok(Some(token)) => authorized(&token),
        Ok(None) => Ok(reply::empty(StatusCode::OK)),
        Err(refusal) => Err(refusal),
    };
    decided.unwrap_or_else(|refusal| refused(&refusal, user, service))
}

fn refused(refusal: &Refusal, user: User, service: &Service) -> Reply {
    let Some(asker) = service.asker(user) else {
        let refusal = Refusal::stranger();
        refusal.log(Protocol::EnvoyExtAuthz, None);
        return refusal.envoy();
    };
    refusal.log(Protocol::EnvoyExtAuthz, Some(asker.granted.caller()));
    refusal.envoy()
}

/// What the HTTP variant asks.
fn asked<'a>(request: &'a Parts, user: User, service: &Service) -> Result<Question<'a>, Refusal> {
    let headers = &request.headers;
    let (identity, audience) = (once(headers, &IDENTITY)?, once(headers, &AUDIENCE)?);
    if audience.is_some() && is_plain_tcp(user, service) && !host_header::is_own(request, &service.hosts) {
        return Err(Refusal::foreign_host());
    }
    Ok(Question {
        method: request.method.as_str(),
        // Where Envoy says what the token is for, it matters to nobody.
        host: if audience.is_some() {
            None
        } else {
            once(headers, &HOST)?
        },
        audience,
        identity,
    })
}

/// The token that the request is to be sent with, if it is to be sent with one.
async fn decide(
    question: &Question<'_>,
    asker: &Known,
    service: &Service,
) -> Result<Option<Arc<AccessToken>>, Refusal> {
    let timeout = service.shared.limits.token_timeout;
    if let Some(asked) = asked_by_envoy(question, asker)? {
        return Ok(Some(asker.granted.token(&asked.with_timeout(timeout)).await?));
    }
    let host = question
        .host
        .ok_or_else(|| Refusal::malformed("The request has no Host."))?;
    let origin = Origin::parse(Scheme::Https, host)
        .map_err(|fault| Refusal::malformed(format!("The Host of the request {fault}.")))?;
    let method = question.method;
    match asker.granted.admit_http(method, &origin)? {
        Destination::Plain => Ok(None),
        Destination::Authorized(rule) => {
            let authorization = asker.granted.authorization(method, &origin, &rule, None);
            match tokio::time::timeout(timeout, authorization).await {
                Ok(token) => Ok(Some(token?)),
                Err(_) => {
                    let message = "The platform has not answered in time. Try again later.";
                    Err(TokenError::new(Cause::DeadlineExceeded, message).into())
                }
            }
        }
        Destination::Denied => Err(TokenError::new(Cause::Denied, "The host is not granted.").into()),
    }
}

/// What Envoy itself says that the token is for.
fn asked_by_envoy(question: &Question<'_>, asker: &Known) -> Result<Option<TokenRequest>, Refusal> {
    let identity = match question.identity {
        None => asker.default_identity.clone(),
        Some(text) => match IdentityPattern::parse(text) {
            Ok(IdentityPattern::Exactly(identity)) => identity,
            Ok(_) | Err(_) => {
                return Err(Refusal::malformed(
                    "What Envoy says of the identity names none. Write it as in a policy, such as client-id:…",
                ));
            }
        },
    };
    if question.audience.is_none() && question.identity.is_some() {
        return Err(Refusal::malformed(
            "What Envoy says of the identity says nothing without an audience.",
        ));
    }
    let asked = question.audience.map(TokenRequest::new);
    Ok(asked.map(|asked| asked.with_identity(identity)))
}

/// The value of a field that may be there only once.
fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Refusal::malformed(format!(
                "{name} has other characters than visible ASCII."
            ))),
        },
        (Some(_), Some(_)) => Err(Refusal::malformed(format!("{name} is there more than once."))),
    }
}

fn authorized(token: &AccessToken) -> Result<Reply, Refusal> {
    let value = format!("{} {}", token.token_type, token.token.expose());
    let Ok(mut value) = HeaderValue::try_from(value) else {
        let message = "The platform's token has characters that no header can have.";
        return Err(TokenError::new(Cause::MalformedReply, message).into());
    };
    value.set_sensitive(true);
    let mut reply = reply::empty(StatusCode::OK);
    reply.headers_mut().insert(AUTHORIZATION, value);
    Ok(reply)
}
