//! The token endpoint of the Azure Instance Metadata Service.
//!
//! 1. The client sends `GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=R` with `Metadata: true`.
//! 2. A request that was forwarded (`X-Forwarded-For`) or names a parameter twice is refused: both are marks of a server
//!    that was tricked into asking (SSRF).
//! 3. The query may choose an identity by `client_id`, `object_id` or `msi_res_id`. Without a choice it is the default
//!    identity of the caller, who is known by the listener or by the user at the other end of a Unix socket.
//! 4. The reply is JSON in which all numbers are strings.
//!
//! Nothing else of the metadata service is served, and nothing is ever passed on to it. Clients that probe are answered:
//! azidentity asks without `Metadata` and @azure/identity without a query, and either takes any reply for a sign of life;
//! MSAL.NET looks for version 2 (`/metadata/identity/getplatformmetadata`) and takes 404 for its absence, where `Server`
//! names the service.

use super::query::{Query, QueryFault};
use super::refusal::Refusal;
use super::reply::{self, Object};
use super::selector::{self, Selector};
use super::{Reply, Service, unix_time};
use crate::config::Protocol;
use crate::connection::User;
use bytes::Bytes;
use http::header::SERVER;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::Full;
use managed_identity_host::grants::Caller;
use managed_identity_host::{AccessToken, Identity, TokenRequest};
use std::sync::Arc;

const SELECTORS: &[Selector] = &[
    ("client_id", Identity::ClientId),
    ("object_id", Identity::ObjectId),
    ("msi_res_id", Identity::ResourceId),
];

/// The names that App Service has for the same.
const FOREIGN: &[(&str, &str)] = &[
    ("clientid", "client_id"),
    ("principal_id", "object_id"),
    ("mi_res_id", "msi_res_id"),
];

/// The first version with this path.
const FIRST_VERSION: &str = "2018-02-01";

/// The body that the metadata service has for a version that it does not know. Clients are told the newest ones.
const WRONG_VERSION: &str = "{\"error\":\"Bad request. api-version is invalid or was not specified in the request. For more \
                             information refer to aka.ms/azureimds\",\"newest-versions\":[\"2023-07-01\",\"2021-12-13\",\
                             \"2021-11-15\"]}";

pub(super) fn is_path(path: &str) -> bool {
    path == "/metadata" || path.starts_with("/metadata/")
}

pub(super) async fn answer(request: &Parts, user: User, service: &Service) -> Reply {
    signed(token(request, user, service).await)
}

fn refused(refusal: &Refusal, caller: Option<&Caller>) -> Reply {
    refusal.log(Protocol::Imds, caller);
    refusal.imds()
}

/// Says who answers, as clients look for it.
pub(super) fn signed(mut reply: Reply) -> Reply {
    const SERVICE: HeaderValue = HeaderValue::from_static("IMDS/managed-identity");
    reply.headers_mut().insert(SERVER, SERVICE);
    reply
}

async fn token(request: &Parts, user: User, service: &Service) -> Reply {
    // Some clients write it with a slash at its end.
    let path = request.uri.path();
    if path.strip_suffix('/').unwrap_or(path) != "/metadata/identity/oauth2/token" {
        return refused(&Refusal::not_found(), None);
    }
    if let Err(refusal) = check(&request.method, &request.headers) {
        return refused(&refusal, None);
    }
    let Some(asker) = service.asker(user) else {
        return refused(&Refusal::stranger(), None);
    };
    let caller = asker.granted.caller();
    let query = match Query::parse(request.uri.query().unwrap_or_default()) {
        Ok(query) => query,
        Err(QueryFault::Duplicate(name)) => {
            let message = format!("Query variable '{name}' is specified more than once");
            return refused(&Refusal::malformed(message), Some(caller));
        }
        Err(fault) => return refused(&fault.into(), Some(caller)),
    };
    if !query.required("api-version").is_some_and(is_version) {
        let mut reply = reply::json(StatusCode::BAD_REQUEST, Object::with_room_for(0));
        *reply.body_mut() = Full::new(Bytes::from_static(WRONG_VERSION.as_bytes()));
        return reply;
    }
    let Some(resource) = query.required("resource") else {
        let refusal = Refusal::malformed("Required query variable 'resource' is missing");
        return refused(&refusal, Some(caller));
    };
    let identity = match selector::chosen(&query, SELECTORS, FOREIGN) {
        Ok(chosen) => chosen.unwrap_or_else(|| asker.default_identity.clone()),
        Err(refusal) => return refused(&refusal, Some(caller)),
    };
    let asked = TokenRequest::new(resource)
        .with_identity(identity)
        .with_timeout(service.shared.limits.token_timeout);
    match asker.granted.token(&asked).await {
        Ok(token) => given(service, &token, resource),
        Err(error) => refused(&error.into(), Some(caller)),
    }
}

fn check(method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    if method != Method::GET {
        return Err(Refusal::method());
    }
    let mut metadata = headers.get_all("metadata").iter();
    let is_true = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"true");
    if !metadata.next().is_some_and(is_true) || !metadata.all(is_true) {
        return Err(Refusal::malformed("Required metadata header not specified"));
    }
    if headers.contains_key("x-forwarded-for") {
        return Err(Refusal::malformed(
            "Request contains an X-Forwarded-For header, which is not allowed",
        ));
    }
    Ok(())
}

/// Whether it is a date from the first version on. New versions have changed nothing for tokens, so one that is not known
/// here is taken as those that are.
fn is_version(text: &str) -> bool {
    let is_date = text.len() == FIRST_VERSION.len()
        && text.bytes().enumerate().all(|(index, byte)| match index {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    is_date && text >= FIRST_VERSION
}

fn given(service: &Service, token: &Arc<AccessToken>, resource: &str) -> Reply {
    let access_token = token.token.expose();
    let claimed = service.shared.claimed.claimed(token);
    let now = unix_time();
    let expires_in = token.expires_on.saturating_sub(now);
    let mut body = Object::with_room_for(access_token.len() + resource.len() + 64).text("access_token", access_token);
    if let Some(client_id) = token.client_id.as_ref().or(claimed.client_id.as_ref()) {
        body = body.text("client_id", client_id);
    }
    let body = body
        .number_as_text("expires_in", expires_in)
        .number_as_text("expires_on", token.expires_on)
        .number_as_text("ext_expires_in", expires_in)
        .number_as_text("not_before", claimed.not_before.unwrap_or(now))
        .text("refresh_token", "")
        .text("resource", resource)
        .text("token_type", &token.token_type);
    reply::json(StatusCode::OK, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_dates_from_the_first_one_on() {
        for (text, good) in [
            ("2018-02-01", true),
            ("2019-08-01", true),
            ("2023-07-01", true),
            ("2031-01-01", true),
            ("2017-12-01", false),
            ("2018-01-31", false),
            ("2018-02-1", false),
            ("2018-02-01x", false),
            ("2018/02/01", false),
            ("latest", false),
            ("", false),
        ] {
            assert_eq!(is_version(text), good, "{text}");
        }
    }

    #[test]
    fn an_unknown_version_is_refused_with_the_newest_ones() {
        let body: serde_json::Value = serde_json::from_str(WRONG_VERSION).expect("JSON");
        assert_eq!(body["newest-versions"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn whatever_belongs_to_the_metadata_service_is_answered_here() {
        for (path, own) in [
            ("/metadata", true),
            ("/metadata/", true),
            ("/metadata/instance", true),
            ("/metadata/identity/oauth2/token", true),
            ("/metadatax", false),
            ("/", false),
        ] {
            assert_eq!(is_path(path), own, "{path}");
        }
    }
}
