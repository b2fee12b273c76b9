//! The token endpoint of App Service, Functions and Container Apps, version 2019-08-01.
//!
//! 1. The client sends `GET /msi/token?api-version=2019-08-01&resource=R` with a secret in `X-IDENTITY-HEADER`. It is by
//!    its secret that a caller is known; where the listener has one caller for all, any secret will do, because the header
//!    alone keeps those out who can make a server fetch a URL, but not with a header of their choice.
//! 2. The query may choose an identity by `client_id`, `principal_id` (also called `object_id`) or `mi_res_id`. Without a
//!    choice it is the default identity of the caller.
//! 3. The reply has `expires_on` in a string. Refusals have `statusCode`, `message` and `correlationId`.
//!
//! `R` is a resource; a scope that ends in `/.default` is taken, too, because clients have sent one.
//!
//! Version 2025-03-30 adds `token_sha256_to_refresh`, the SHA-256 of a token that was rejected, in hexadecimal
//! (MSAL.NET, docs/msiv1_token_revocation.md): it is not given out again. `xms_cc`, what the client can do with claims
//! challenges, is taken and changes nothing: what the broker can do decides.

use super::query::Query;
use super::refusal::Refusal;
use super::reply::{self, Object};
use super::selector::{self, Selector};
use super::{Reply, Service};
use crate::config::Protocol;
use http::request::Parts;
use http::{Method, StatusCode};
use managed_identity_host::grants::Granted;
use managed_identity_host::{AccessToken, Identity, TokenError, TokenRequest};
use std::sync::Arc;

const API_VERSIONS: &[&str] = &["2019-08-01", "2025-03-30"];

const SELECTORS: &[Selector] = &[
    ("client_id", Identity::ClientId),
    ("principal_id", Identity::ObjectId),
    ("object_id", Identity::ObjectId),
    ("mi_res_id", Identity::ResourceId),
];

/// `clientid` is of version 2017-09-01, `msi_res_id` is the metadata service's.
const FOREIGN: &[(&str, &str)] = &[("clientid", "client_id"), ("msi_res_id", "mi_res_id")];

pub(super) fn is_path(path: &str) -> bool {
    path.strip_suffix('/').unwrap_or(path) == "/msi/token"
}

pub(super) async fn answer(request: &Parts, service: &Service) -> Reply {
    if request.method != Method::GET {
        return refused(&Refusal::method(), None);
    }
    let mut secrets = request.headers.get_all("x-identity-header").iter();
    let asker = match (secrets.next(), secrets.next()) {
        (Some(secret), None) if !secret.is_empty() => service.asker_by_secret(secret.as_bytes()),
        _ => None,
    };
    let Some(asker) = asker else {
        return refused(&Refusal::secret(), None);
    };
    let caller = asker.granted.caller();
    let asked = match Asked::read(request, &asker.default_identity) {
        Ok(asked) => asked,
        Err(refusal) => return refused(&refusal, Some(caller)),
    };
    let token_request = asked.request.with_timeout(service.shared.limits.token_timeout);
    match token(&asker.granted, token_request, asked.rejected.as_deref()).await {
        Ok(token) => given(service, &token, &asked.resource),
        Err(error) => refused(&error.into(), Some(caller)),
    }
}

fn refused(refusal: &Refusal, caller: Option<&managed_identity_host::grants::Caller>) -> Reply {
    refusal.log(Protocol::AppService, caller);
    refusal.app_service()
}

/// What is asked for.
struct Asked {
    request: TokenRequest,
    /// As it was written.
    resource: String,
    /// The SHA-256 of a token that is no good, in hexadecimal.
    rejected: Option<String>,
}

impl Asked {
    fn read(request: &Parts, default_identity: &Identity) -> Result<Self, Refusal> {
        let query = Query::parse(request.uri.query().unwrap_or_default())?;
        match query.required("api-version") {
            Some(version) if API_VERSIONS.contains(&version) => {}
            Some(_) => {
                return Err(Refusal::malformed(
                    "The API version is not supported. Use 2019-08-01, with the secret in X-IDENTITY-HEADER.",
                ));
            }
            None => return Err(Refusal::malformed("An API version is required, but was not specified.")),
        }
        let resource = query
            .required("resource")
            .ok_or_else(|| Refusal::malformed("Required query parameter 'resource' is missing."))?;
        let identity = selector::chosen(&query, SELECTORS, FOREIGN)?.unwrap_or_else(|| default_identity.clone());
        let rejected = query.required("token_sha256_to_refresh").map(str::to_owned);
        let is_hash = |text: &String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if rejected.as_ref().is_some_and(|rejected| !is_hash(rejected)) {
            return Err(Refusal::malformed(
                "Query parameter 'token_sha256_to_refresh' is not a SHA-256 in hexadecimal.",
            ));
        }
        Ok(Self {
            request: TokenRequest::new(resource).with_identity(identity),
            resource: resource.to_owned(),
            rejected,
        })
    }
}

/// A token that is not the rejected one.
async fn token(
    granted: &Granted,
    request: TokenRequest,
    rejected: Option<&str>,
) -> Result<Arc<AccessToken>, TokenError> {
    let token = granted.token(&request).await?;
    match rejected {
        Some(hash) if token.token.sha256().eq_ignore_ascii_case(hash) => {
            granted.token(&request.with_rejected_token(token.token.clone())).await
        }
        _ => Ok(token),
    }
}

fn given(service: &Service, token: &Arc<AccessToken>, resource: &str) -> Reply {
    let access_token = token.token.expose();
    let mut body = Object::with_room_for(access_token.len() + resource.len())
        .text("access_token", access_token)
        .number_as_text("expires_on", token.expires_on)
        .text("resource", resource)
        .text("token_type", &token.token_type);
    body = match &token.client_id {
        Some(client_id) => body.text("client_id", client_id),
        None => match &service.shared.claimed.claimed(token).client_id {
            Some(client_id) => body.text("client_id", client_id),
            None => body,
        },
    };
    reply::json(StatusCode::OK, body)
}
