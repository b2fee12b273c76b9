//! The Azure Instance Metadata Service, as on virtual machines and scale sets.
//!
//! The protocol ("Azure Instance Metadata Service" and "How to use managed identities for Azure resources on an Azure
//! VM to acquire an access token"):
//!
//! 1. The client sends `GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=R` with `Metadata: true`.
//! 2. A request that was forwarded (`X-Forwarded-For`) or names a parameter twice is refused: both are marks of a
//!    server that was tricked into asking (SSRF).
//! 3. The query may choose an identity by `client_id`, `object_id` or `msi_res_id`, one of them. Without a choice IMDS
//!    takes the system-assigned identity, else the only user-assigned one, else it refuses.
//! 4. The reply is JSON in which all numbers are strings.
//!
//! Any other parameter is ignored, `mi_res_id` (the name App Service gives to `msi_res_id`) among them. A client that
//! sends the wrong name thus gets a token for another identity than it asked for, and should notice.

use http::StatusCode;
use http::header::SERVER;
use serde_json::{Map, json};

use super::{Addresses, Endpoint, Place, Platform, Source, TokenRequest, Variables, method_not_allowed};
use crate::entra;
use crate::expiry::{self, DocumentedExpiry};
use crate::identities::{Identity, Selector};
use crate::reply::Reply;
use crate::settings::{ExpiresIn, ExpiresOn};

pub(super) const ENDPOINT: Endpoint = Endpoint {
    source: Source::Imds,
    place: Place::At("/metadata/identity/oauth2/token"),
    tls_only: false,
    rate_limited: true,
    environment,
    answer,
};

/// The documented versions from 2018-02-01, the first with this path, to the newest; IMDS names the three newest in its
/// refusal.
const API_VERSIONS: &[&str] = &[
    "2018-02-01",
    "2018-04-02",
    "2018-10-01",
    "2019-02-01",
    "2019-03-11",
    "2019-04-30",
    "2019-06-01",
    "2019-06-04",
    "2019-08-01",
    "2019-08-15",
    "2019-11-01",
    "2020-06-01",
    "2020-07-15",
    "2020-09-01",
    "2020-10-01",
    "2020-12-01",
    "2021-01-01",
    "2021-02-01",
    "2021-03-01",
    "2021-05-01",
    "2021-10-01",
    "2021-11-01",
    "2021-11-15",
    "2021-12-13",
    "2023-07-01",
];

const EXPIRY: DocumentedExpiry = DocumentedExpiry {
    expires_on: ExpiresOn::String,
    expires_in: ExpiresIn::String,
    ext_expires_in: true,
};

/// The address of IMDS is fixed, so nothing but this override, which the Azure SDKs have from pod identity, can lead a
/// client elsewhere.
fn environment(addresses: &Addresses<'_>) -> Option<Variables> {
    Some(vec![(
        "AZURE_POD_IDENTITY_AUTHORITY_HOST",
        addresses.base_url.to_owned(),
    )])
}

fn answer(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Reply {
    let reply = token(request, platform).unwrap_or_else(|refusal| refusal);
    reply.with(SERVER, "IMDS/emulator")
}

fn token(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Result<Reply, Reply> {
    if request.method != http::Method::GET {
        return Err(method_not_allowed(&json!({"error": "Method not allowed"})));
    }
    if !request.has_metadata_header() {
        return Err(invalid_request("Required metadata header not specified"));
    }
    if request.headers.contains_key("x-forwarded-for") {
        return Err(invalid_request(
            "Request contains an X-Forwarded-For header, which is not allowed",
        ));
    }
    if let Some(name) = request.query.duplicate() {
        return Err(invalid_request(&format!(
            "Query variable '{name}' is specified more than once"
        )));
    }
    check_api_version(request)?;
    let resource = request
        .required("resource")
        .ok_or_else(|| invalid_request("Required query variable 'resource' is missing"))?;
    let identity = chosen_identity(request, platform)?;
    if platform.settings.is_unknown_resource(resource) {
        return Err(unknown_resource(resource, platform));
    }

    let issued = platform.issue(identity, resource).map_err(|error| {
        let body = json!({"error": "unknown", "error_description": error.to_string()});
        Reply::json(StatusCode::INTERNAL_SERVER_ERROR, &body)
    })?;
    let mut body = Map::new();
    expiry::write(&mut body, &issued, &EXPIRY, platform.settings);
    body.insert("not_before".to_owned(), issued.not_before.to_string().into());
    body.insert("access_token".to_owned(), issued.access_token.into());
    body.insert("client_id".to_owned(), issued.client_id.into());
    body.insert("refresh_token".to_owned(), "".into());
    body.insert("resource".to_owned(), issued.resource.into());
    body.insert("token_type".to_owned(), "Bearer".into());
    Ok(Reply::json(StatusCode::OK, &body))
}

fn check_api_version(request: &TokenRequest<'_>) -> Result<(), Reply> {
    let complaint = match request.required("api-version") {
        Some(version) if API_VERSIONS.contains(&version) => return Ok(()),
        Some(_) => "api-version is invalid or was not specified in the request",
        None => "api-version was not specified in the request",
    };
    let newest: Vec<_> = API_VERSIONS.iter().rev().take(3).collect();
    let body = json!({
        "error": format!("Bad request. {complaint}. For more information refer to aka.ms/azureimds"),
        "newest-versions": newest,
    });
    Err(Reply::json(StatusCode::BAD_REQUEST, &body))
}

fn chosen_identity<'a>(request: &TokenRequest<'_>, platform: &Platform<'a>) -> Result<&'a Identity, Reply> {
    let identities = platform.identities;
    let selectors: Vec<_> = [
        request.query.get("client_id").map(Selector::Client),
        request.query.get("object_id").map(Selector::Object),
        request.query.get("msi_res_id").map(Selector::Resource),
    ]
    .into_iter()
    .flatten()
    .collect();
    let chosen = match *selectors {
        [selector] => identities.find(selector),
        [] => match (&identities.system_assigned, identities.user_assigned.as_slice()) {
            (Some(system), _) => Some(system),
            (None, [only]) => Some(only),
            (None, []) => None,
            (None, _) => {
                return Err(invalid_request(
                    "Multiple user assigned identities exist, please specify the clientId / resourceId of the \
                     identity in the token request",
                ));
            }
        },
        _ => {
            return Err(invalid_request(
                "Only one of client_id, object_id and msi_res_id may be specified",
            ));
        }
    };
    chosen.ok_or_else(|| invalid_request("Identity not found"))
}

/// Entra's refusal of a resource that the tenant does not know, which IMDS passes on.
fn unknown_resource(resource: &str, platform: &Platform<'_>) -> Reply {
    let refusal = entra::Refusal::unknown_resource(resource, &platform.identities.tenant_id);
    Reply::json(
        StatusCode::BAD_REQUEST,
        &json!({"error": refusal.error, "error_description": refusal.description(platform)}),
    )
}

fn invalid_request(description: &str) -> Reply {
    Reply::json(
        StatusCode::BAD_REQUEST,
        &json!({"error": "invalid_request", "error_description": description}),
    )
}
