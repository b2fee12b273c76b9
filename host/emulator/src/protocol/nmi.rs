//! The node-managed identity (NMI) of AAD Pod Identity, the archived predecessor of workload identity.
//!
//! The protocol ("AAD Pod Identity", NMI): as IMDS has it, but
//!
//! 1. `Metadata: true` is required, and `api-version` not looked at,
//! 2. the query may choose an identity by `client_id` or `msi_res_id`; without a choice the first one that is bound to
//!    the pod is meant, here the first user-assigned one,
//! 3. the reply may be an array of tokens, and here it always is,
//! 4. errors are text: 404 where no identity is bound to the pod, 403 where it may not use this one, and 503 with
//!    `Retry-After: 20` while an identity is still being assigned. The latter two take a
//!    [fault](crate::fault#examples).

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Addresses, Endpoint, Place, Platform, Source, TokenRequest, Variables, method_not_allowed};
use crate::entra;
use crate::expiry::{self, DocumentedExpiry};
use crate::identities::Selector;
use crate::reply::Reply;
use crate::settings::{ExpiresIn, ExpiresOn};

pub(super) const ENDPOINT: Endpoint = Endpoint {
    source: Source::Nmi,
    place: Place::At(PATH),
    tls_only: false,
    rate_limited: false,
    environment,
    answer,
};

const PREFIX: &str = "/nmi";
const PATH: &str = "/nmi/metadata/identity/oauth2/token";

const EXPIRY: DocumentedExpiry = DocumentedExpiry {
    expires_on: ExpiresOn::String,
    expires_in: ExpiresIn::String,
    ext_expires_in: false,
};

fn environment(addresses: &Addresses<'_>) -> Option<Variables> {
    let host = format!("{}{PREFIX}", addresses.base_url);
    Some(vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", host)])
}

fn answer(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Reply {
    token(request, platform).unwrap_or_else(|refusal| refusal)
}

fn token(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Result<Reply, Reply> {
    if request.method != http::Method::GET {
        return Err(method_not_allowed(&json!({"error": "Method not allowed"})));
    }
    if !request.has_metadata_header() {
        let description = "Required metadata header not specified";
        let body = json!({"error": "invalid_request", "error_description": description});
        return Err(Reply::json(StatusCode::BAD_REQUEST, &body));
    }
    let identities = platform.identities;
    let selectors: Vec<_> = [
        request.query.get("client_id").map(Selector::Client),
        request.query.get("msi_res_id").map(Selector::Resource),
    ]
    .into_iter()
    .flatten()
    .collect();
    // An identity that has all the ids of the request.
    let identity = identities
        .user_assigned
        .iter()
        .find(|identity| selectors.iter().all(|selector| identity.is(*selector)))
        .ok_or_else(|| Reply::text(StatusCode::NOT_FOUND, "no azure identity found for request\n"))?;
    let resource = request.query.get("resource").unwrap_or_default();
    if platform.settings.is_unknown_resource(resource) {
        let refusal = entra::Refusal::unknown_resource(resource, &identities.tenant_id);
        let message = format!(
            "failed to get service principal token: {}\n",
            refusal.description(platform)
        );
        return Err(Reply::text(StatusCode::FORBIDDEN, message));
    }

    let issued = platform
        .issue(identity, resource)
        .map_err(|error| Reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))?;
    let mut body = Map::new();
    expiry::write(&mut body, &issued, &EXPIRY, platform.settings);
    body.insert("not_before".to_owned(), issued.not_before.to_string().into());
    body.insert("access_token".to_owned(), issued.access_token.into());
    body.insert("refresh_token".to_owned(), "".into());
    body.insert("resource".to_owned(), issued.resource.into());
    body.insert("token_type".to_owned(), "Bearer".into());
    Ok(Reply::json(StatusCode::OK, &[Value::Object(body)]))
}
