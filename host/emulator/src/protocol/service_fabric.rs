//! Service Fabric.
//!
//! The protocol ("Service Fabric managed identity: REST API"):
//!
//! 1. The platform gives the service `IDENTITY_ENDPOINT`, an `https` URL, `IDENTITY_HEADER`, a secret, and
//!    `IDENTITY_SERVER_THUMBPRINT`, the SHA-1 digest of the certificate that the endpoint presents, which no authority
//!    vouches for.
//! 2. The client sends `GET $IDENTITY_ENDPOINT?api-version=2019-07-01-preview&resource=R` with the secret in the header
//!    `Secret`, after it has seen that certificate and no other.
//! 3. Which identity a service has, its application manifest says; the request cannot choose.
//! 4. A client that learns that a token was revoked names it by `token_sha256_to_refresh`, its SHA-256 in hexadecimal,
//!    and is not given that token again. `xms_cc` says what the client can do with such news, and the token repeats it.
//! 5. The reply has `expires_on` as a number and no `expires_in`. Errors are
//!    `{"error": {"correlationId": …, "code": …, "message": …}}`.

use http::StatusCode;
use serde_json::{Map, json};

use super::{Addresses, Endpoint, Place, Platform, Source, TokenRequest, Variables, method_not_allowed};
use crate::entra;
use crate::expiry::{self, DocumentedExpiry};
use crate::reply::Reply;
use crate::settings::{ExpiresIn, ExpiresOn};
use crate::token::Wanted;

pub(super) const ENDPOINT: Endpoint = Endpoint {
    source: Source::ServiceFabric,
    place: Place::At(PATH),
    tls_only: true,
    rate_limited: false,
    environment,
    answer,
};

const PATH: &str = "/service-fabric/token";
const API_VERSIONS: &[&str] = &["2019-07-01-preview", "2020-05-01"];

const EXPIRY: DocumentedExpiry = DocumentedExpiry {
    expires_on: ExpiresOn::Number,
    expires_in: ExpiresIn::Absent,
    ext_expires_in: false,
};

fn environment(addresses: &Addresses<'_>) -> Option<Variables> {
    let secure = addresses.secure?;
    Some(vec![
        ("IDENTITY_ENDPOINT", format!("{}{PATH}", secure.base_url)),
        ("IDENTITY_HEADER", addresses.header_secret.reveal().to_owned()),
        ("IDENTITY_SERVER_THUMBPRINT", secure.certificate.thumbprint()),
    ])
}

/// A refusal, before it has a correlation id.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

fn answer(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Reply {
    token(request, platform).unwrap_or_else(|Refusal { status, code, message }| {
        let correlation_id = platform.unique.guid();
        let body = json!({"error": {"correlationId": correlation_id, "code": code, "message": message}});
        match status {
            StatusCode::METHOD_NOT_ALLOWED => method_not_allowed(&body),
            status => Reply::json(status, &body),
        }
    })
}

fn token(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Result<Reply, Refusal> {
    if request.method != http::Method::GET {
        let message = "The requested resource does not support this method.";
        return Err(refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message));
    }
    match request.headers.get("secret") {
        Some(secret) if platform.header_secret.is(secret.as_bytes()) => {}
        Some(_) => {
            let message = "The secret in the request headers is not that of a service on this node.";
            return Err(refusal(StatusCode::UNAUTHORIZED, "SecretHeaderInvalid", message));
        }
        None => {
            let message = "Secret is not found in the request headers.";
            return Err(refusal(StatusCode::BAD_REQUEST, "SecretHeaderNotFound", message));
        }
    }
    let version = request.query.get("api-version").unwrap_or_default();
    if !API_VERSIONS.contains(&version) {
        let message = format!(
            "The api-version '{version}' is not supported. Supported version is '{}'.",
            API_VERSIONS[0]
        );
        return Err(refusal(StatusCode::BAD_REQUEST, "InvalidApiVersion", message));
    }
    let resource = request.required("resource").ok_or_else(|| {
        let message = "The parameter 'resource' should not be null or empty string.";
        refusal(StatusCode::BAD_REQUEST, "ArgumentNullOrEmpty", message)
    })?;
    let identities = platform.identities;
    let identity = identities
        .system_assigned
        .as_ref()
        .or(identities.user_assigned.first())
        .ok_or_else(|| {
            let message = "Managed identity not found for the specified application host.";
            refusal(StatusCode::NOT_FOUND, "ManagedIdentityNotFound", message)
        })?;
    if platform.settings.is_unknown_resource(resource) {
        let message = entra::Refusal::unknown_resource(resource, &identities.tenant_id).description(platform);
        return Err(internal(message));
    }

    let capabilities = request.required("xms_cc").unwrap_or_default();
    let wanted = Wanted {
        capabilities: capabilities
            .split(',')
            .map(str::trim)
            .filter(|capability| !capability.is_empty())
            .map(str::to_owned)
            .collect(),
        ..Wanted::new(identity, resource)
    };
    let issued = platform
        .issue_wanted(&wanted, request.query.get("token_sha256_to_refresh"))
        .map_err(|error| internal(error.to_string()))?;
    let mut body = Map::new();
    expiry::write(&mut body, &issued, &EXPIRY, platform.settings);
    body.insert("access_token".to_owned(), issued.access_token.into());
    body.insert("resource".to_owned(), issued.resource.into());
    body.insert("token_type".to_owned(), "Bearer".into());
    Ok(Reply::json(StatusCode::OK, &body))
}

fn internal(message: String) -> Refusal {
    refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", message)
}

fn refusal(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal {
        status,
        code,
        message: message.into(),
    }
}
