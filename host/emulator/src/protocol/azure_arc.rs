//! The agent of Azure Arc, on servers outside Azure.
//!
//! The protocol ("Authenticate against Azure resources with Azure Arc-enabled servers"):
//!
//! 1. The agent tells programs its address by `IDENTITY_ENDPOINT` and `IMDS_ENDPOINT`.
//! 2. The client sends `GET $IDENTITY_ENDPOINT?api-version=2020-06-01&resource=R` with `Metadata: true`.
//! 3. The agent writes a key into a file that only administrators of the machine can read, and answers 401 with
//!    `WWW-Authenticate: Basic realm=/var/opt/azcmagent/tokens/NAME.key`.
//! 4. The client sends the request again with `Authorization: Basic` and the contents of the file. A key is good for
//!    one request, and its file is gone afterwards; a wrong key gets a new challenge.
//! 5. The query may choose a user-assigned identity by `client_id`, `object_id` or `msi_res_id`. The reply repeats the
//!    id that was asked for. Other parameters are ignored, `mi_res_id` among them, so that a client which sends that
//!    gets a token of the system-assigned identity, and should notice.
//!
//! Newer agents may answer at once. This one does where it has no directory for key files.

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde_json::{Map, json};

use super::{Addresses, Endpoint, Place, Platform, Source, TokenRequest, Variables, method_not_allowed};
use crate::arc_keys::ArcKeys;
use crate::entra;
use crate::expiry::{self, DocumentedExpiry};
use crate::identities::{Identity, Selector};
use crate::reply::Reply;
use crate::settings::{ExpiresIn, ExpiresOn};

pub(super) const ENDPOINT: Endpoint = Endpoint {
    source: Source::AzureArc,
    place: Place::At(PATH),
    tls_only: false,
    rate_limited: false,
    environment,
    answer,
};

/// The directory of key files on Linux. Clients take a key from nowhere else.
const TOKENS_DIRECTORY: &str = "/var/opt/azcmagent/tokens";

const PREFIX: &str = "/azure-arc";
const PATH: &str = "/azure-arc/metadata/identity/oauth2/token";
const API_VERSIONS: &[&str] = &["2019-08-15", "2019-11-01", "2020-06-01", "2021-02-01"];

const EXPIRY: DocumentedExpiry = DocumentedExpiry {
    expires_on: ExpiresOn::String,
    expires_in: ExpiresIn::String,
    ext_expires_in: true,
};

fn environment(addresses: &Addresses<'_>) -> Option<Variables> {
    Some(vec![
        ("IDENTITY_ENDPOINT", format!("{}{PATH}", addresses.base_url)),
        ("IMDS_ENDPOINT", format!("{}{PREFIX}", addresses.base_url)),
    ])
}

fn answer(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Reply {
    token(request, platform).unwrap_or_else(|refusal| refusal)
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
    match request.required("api-version") {
        Some(version) if API_VERSIONS.contains(&version) => {}
        _ => {
            return Err(invalid_request(
                "api-version is invalid or was not specified in the request",
            ));
        }
    }
    let resource = request
        .required("resource")
        .ok_or_else(|| invalid_request("Required query variable 'resource' is missing"))?;
    if let Some(keys) = platform.arc_keys {
        check_key(request, keys, platform)?;
    }
    let (identity, echo) = chosen_identity(request, platform)?;
    if platform.settings.is_unknown_resource(resource) {
        let refusal = entra::Refusal::unknown_resource(resource, &platform.identities.tenant_id);
        return Err(error(
            StatusCode::BAD_REQUEST,
            refusal.error,
            &refusal.description(platform),
        ));
    }

    let issued = platform
        .issue(identity, resource)
        .map_err(|problem| error(StatusCode::INTERNAL_SERVER_ERROR, "unknown", &problem.to_string()))?;
    let mut body = Map::new();
    expiry::write(&mut body, &issued, &EXPIRY, platform.settings);
    body.insert("not_before".to_owned(), issued.not_before.to_string().into());
    body.insert("access_token".to_owned(), issued.access_token.into());
    body.insert("client_id".to_owned(), issued.client_id.into());
    body.insert("refresh_token".to_owned(), "".into());
    body.insert("resource".to_owned(), issued.resource.into());
    body.insert("token_type".to_owned(), "Bearer".into());
    match echo {
        Some(Selector::Object(_)) => {
            body.insert("object_id".to_owned(), identity.object_id.clone().into());
        }
        Some(Selector::Resource(_)) => {
            body.insert("msi_res_id".to_owned(), identity.resource_id.clone().into());
        }
        Some(Selector::Client(_)) | None => {}
    }
    Ok(Reply::json(StatusCode::OK, &body))
}

/// Lets a request pass that proves that its sender can read key files, and challenges all others.
fn check_key(request: &TokenRequest<'_>, keys: &ArcKeys, platform: &Platform<'_>) -> Result<(), Reply> {
    let sent = request.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let key = sent.and_then(|sent| {
        let (scheme, key) = sent.split_at_checked("Basic ".len())?;
        scheme.eq_ignore_ascii_case(b"Basic ").then_some(key)
    });
    if key.is_some_and(|key| keys.redeem(key)) {
        return Ok(());
    }
    let challenge = keys
        .write(platform.unique)
        .and_then(|name| {
            HeaderValue::try_from(format!("Basic realm={TOKENS_DIRECTORY}/{name}")).map_err(std::io::Error::other)
        })
        .map_err(|problem| {
            let description = format!("the key file cannot be written: {problem}");
            error(StatusCode::INTERNAL_SERVER_ERROR, "unknown", &description)
        })?;
    let mut refusal = error(
        StatusCode::UNAUTHORIZED,
        "unauthorized_client",
        "Missing or invalid Basic Authorization header",
    );
    refusal.headers.push((WWW_AUTHENTICATE, challenge));
    Err(refusal)
}

/// The identity, and the id by which it was chosen.
fn chosen_identity<'a, 'r>(
    request: &'r TokenRequest<'_>,
    platform: &Platform<'a>,
) -> Result<(&'a Identity, Option<Selector<'r>>), Reply> {
    let selectors: Vec<_> = [
        request.query.get("client_id").map(Selector::Client),
        request.query.get("object_id").map(Selector::Object),
        request.query.get("msi_res_id").map(Selector::Resource),
    ]
    .into_iter()
    .flatten()
    .collect();
    let (chosen, selector) = match *selectors {
        [] => (platform.identities.system_assigned.as_ref(), None),
        [selector] => (platform.identities.find(selector), Some(selector)),
        _ => {
            return Err(invalid_request(
                "Only one of client_id, object_id and msi_res_id may be specified",
            ));
        }
    };
    match chosen {
        Some(identity) => Ok((identity, selector)),
        None => Err(error(
            StatusCode::NOT_FOUND,
            "identity_not_found",
            "The requested identity is not assigned to this machine",
        )),
    }
}

fn invalid_request(description: &str) -> Reply {
    error(StatusCode::BAD_REQUEST, "invalid_request", description)
}

fn error(status: StatusCode, error: &str, description: &str) -> Reply {
    Reply::json(status, &json!({"error": error, "error_description": description}))
}
