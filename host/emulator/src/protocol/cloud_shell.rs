//! Cloud Shell.
//!
//! The protocol ("Acquire a token in Azure Cloud Shell"):
//!
//! 1. The shell has `MSI_ENDPOINT`, a URL.
//! 2. The client sends `POST $MSI_ENDPOINT` with `Metadata: true` and the form `resource=R`. There is no version.
//! 3. The token is that of the person who opened the shell, so there is no other identity to choose. The emulator has
//!    no persons and gives the system-assigned identity, or the first there is.
//! 4. All members of the reply are strings. Errors are `{"error": {"code": …, "message": …}}`.

use http::StatusCode;
use serde_json::{Map, json};

use super::{Addresses, Endpoint, Place, Platform, Source, TokenRequest, Variables, only_post};
use crate::expiry::{self, DocumentedExpiry};
use crate::reply::Reply;
use crate::settings::{ExpiresIn, ExpiresOn};

pub(super) const ENDPOINT: Endpoint = Endpoint {
    source: Source::CloudShell,
    place: Place::At(PATH),
    tls_only: false,
    rate_limited: false,
    environment,
    answer,
};

const PATH: &str = "/cloud-shell/oauth2/token";

const EXPIRY: DocumentedExpiry = DocumentedExpiry {
    expires_on: ExpiresOn::String,
    expires_in: ExpiresIn::String,
    ext_expires_in: false,
};

fn environment(addresses: &Addresses<'_>) -> Option<Variables> {
    Some(vec![("MSI_ENDPOINT", format!("{}{PATH}", addresses.base_url))])
}

fn answer(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Reply {
    token(request, platform).unwrap_or_else(|refusal| refusal)
}

fn token(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Result<Reply, Reply> {
    if request.method != http::Method::POST {
        return Err(only_post(&body("MethodNotAllowed", "Only POST is supported.")));
    }
    if !request.has_metadata_header() {
        return Err(bad_request("bad_request_102", "Required metadata header not specified"));
    }
    let resource = request
        .required_in_form("resource")
        .ok_or_else(|| bad_request("invalid_request", "The parameter 'resource' is missing."))?;
    let identities = platform.identities;
    let identity = identities
        .system_assigned
        .as_ref()
        .or(identities.user_assigned.first())
        .ok_or_else(|| bad_request("IdentityNotFound", "This shell has no identity."))?;
    if platform.settings.is_unknown_resource(resource) {
        let message = format!("Audience {resource} is not a supported MSI token audience.");
        return Err(bad_request("AudienceNotSupported", &message));
    }

    let issued = platform.issue(identity, resource).map_err(|error| {
        let body = body("InternalServerError", &error.to_string());
        Reply::json(StatusCode::INTERNAL_SERVER_ERROR, &body)
    })?;
    let mut body = Map::new();
    expiry::write(&mut body, &issued, &EXPIRY, platform.settings);
    body.insert("not_before".to_owned(), issued.not_before.to_string().into());
    body.insert("access_token".to_owned(), issued.access_token.into());
    body.insert("refresh_token".to_owned(), "".into());
    body.insert("resource".to_owned(), issued.resource.into());
    body.insert("token_type".to_owned(), "Bearer".into());
    Ok(Reply::json(StatusCode::OK, &body))
}

fn bad_request(code: &str, message: &str) -> Reply {
    Reply::json(StatusCode::BAD_REQUEST, &body(code, message))
}

fn body(code: &str, message: &str) -> serde_json::Value {
    json!({"error": {"code": code, "message": message}})
}
