//! App Service, Functions and Container Apps: version 2019-08-01 of their endpoint.
//!
//! The protocol ("How to use managed identities for App Service and Azure Functions", REST endpoint reference):
//!
//! 1. The platform gives the application `IDENTITY_ENDPOINT`, a URL, and `IDENTITY_HEADER`, a secret that changes with
//!    time.
//! 2. The client sends `GET $IDENTITY_ENDPOINT?api-version=2019-08-01&resource=R` with the secret in the header
//!    `X-IDENTITY-HEADER`.
//! 3. The query may choose a user-assigned identity by `client_id`, `principal_id` (also called `object_id`) or
//!    `mi_res_id`, one of them. Without a choice the system-assigned identity is meant, and no other takes its place.
//! 4. The reply has `expires_on` in a string and no `expires_in`. Errors have `statusCode`, `message` and
//!    `correlationId`.
//!
//! The resource is not examined by the endpoint but by Entra, and all that a client learns of Entra's refusal is status
//! 500 with "An unexpected error occured while fetching the AAD Token." (the spelling is Azure's).

use http::StatusCode;
use serde_json::{Map, json};

use super::{Addresses, Endpoint, Place, Platform, Source, TokenRequest, Variables, method_not_allowed};
use crate::expiry::{self, DocumentedExpiry};
use crate::identities::{Identity, Selector};
use crate::reply::Reply;
use crate::settings::{ExpiresIn, ExpiresOn};

pub(super) const ENDPOINT: Endpoint = Endpoint {
    source: Source::AppService,
    place: Place::At(PATH),
    tls_only: false,
    rate_limited: false,
    environment,
    answer,
};

const PATH: &str = "/msi/token";
const API_VERSION: &str = "2019-08-01";

const EXPIRY: DocumentedExpiry = DocumentedExpiry {
    expires_on: ExpiresOn::String,
    expires_in: ExpiresIn::Absent,
    ext_expires_in: false,
};

fn environment(addresses: &Addresses<'_>) -> Option<Variables> {
    Some(vec![
        ("IDENTITY_ENDPOINT", format!("{}{PATH}", addresses.base_url)),
        ("IDENTITY_HEADER", addresses.header_secret.reveal().to_owned()),
    ])
}

/// A refusal, before it has a correlation id. The 2017 version has the same.
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    pub(super) fn reply(self, platform: &Platform<'_>) -> Reply {
        let body = json!({
            "statusCode": self.status.as_u16(),
            "message": self.message,
            "correlationId": platform.unique.guid(),
        });
        match self.status {
            StatusCode::METHOD_NOT_ALLOWED => method_not_allowed(&body),
            status => Reply::json(status, &body),
        }
    }
}

fn answer(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Reply {
    token(request, platform).unwrap_or_else(|refusal| refusal.reply(platform))
}

fn token(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Result<Reply, Refusal> {
    if request.method != http::Method::GET {
        return Err(refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "The requested resource supports only GET.",
        ));
    }
    let secret = request.headers.get("x-identity-header");
    if !secret.is_some_and(|sent| platform.header_secret.is(sent.as_bytes())) {
        return Err(refusal(
            StatusCode::UNAUTHORIZED,
            "The X-IDENTITY-HEADER header is missing or not valid.",
        ));
    }
    if let Some(name) = request.query.duplicate() {
        return Err(bad_request(format!(
            "Query parameter '{name}' is specified more than once."
        )));
    }
    match request.required("api-version") {
        Some(API_VERSION) => {}
        Some(other) => return Err(bad_request(format!("The API version '{other}' is not supported."))),
        None => return Err(bad_request("An API version is required, but was not specified.")),
    }
    let resource = request
        .required("resource")
        .ok_or_else(|| bad_request("Required query parameter 'resource' is missing."))?;
    let identity = chosen_identity(request, platform)?;
    if platform.settings.is_unknown_resource(resource) {
        let message = "An unexpected error occured while fetching the AAD Token.";
        return Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, message));
    }

    let issued = platform
        .issue(identity, resource)
        .map_err(|error| refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let mut body = Map::new();
    expiry::write(&mut body, &issued, &EXPIRY, platform.settings);
    body.insert("access_token".to_owned(), issued.access_token.into());
    body.insert("client_id".to_owned(), issued.client_id.into());
    body.insert("resource".to_owned(), issued.resource.into());
    body.insert("token_type".to_owned(), "Bearer".into());
    Ok(Reply::json(StatusCode::OK, &body))
}

fn chosen_identity<'a>(request: &TokenRequest<'_>, platform: &Platform<'a>) -> Result<&'a Identity, Refusal> {
    let identities = platform.identities;
    let selectors: Vec<_> = [
        request.query.get("client_id").map(Selector::Client),
        request.query.get("principal_id").map(Selector::Object),
        request.query.get("object_id").map(Selector::Object),
        request.query.get("mi_res_id").map(Selector::Resource),
    ]
    .into_iter()
    .flatten()
    .collect();
    match *selectors {
        [] => identities
            .system_assigned
            .as_ref()
            .ok_or_else(|| bad_request("No Managed Identity found for specified ClientId/ResourceId/PrincipalId.")),
        [selector] => identities.find_user_assigned(selector).ok_or_else(|| {
            bad_request(
                "No User Assigned or Delegated Managed Identity found for specified ClientId/ResourceId/PrincipalId.",
            )
        }),
        _ => Err(bad_request(
            "Only one of client_id, principal_id, object_id and mi_res_id may be specified.",
        )),
    }
}

pub(super) fn bad_request(message: impl Into<String>) -> Refusal {
    refusal(StatusCode::BAD_REQUEST, message)
}

pub(super) fn refusal(status: StatusCode, message: impl Into<String>) -> Refusal {
    Refusal {
        status,
        message: message.into(),
    }
}
