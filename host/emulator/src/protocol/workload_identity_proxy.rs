//! The proxy sidecar of workload identity, which lets programs that know only IMDS use a federated identity.
//!
//! The protocol ("Azure AD Workload Identity", proxy init and proxy sidecar): as IMDS has it, but
//!
//! 1. neither `Metadata: true` nor `api-version` is looked at,
//! 2. the query may choose an identity by `client_id` only; without it the one that the pod's service account names is
//!    meant, here the first user-assigned one. Other selectors are ignored, so a client gets a token for another
//!    identity than it asked for, and should notice,
//! 3. the reply has `expires_in` as a number, ten seconds less than the token lives,
//! 4. errors are text, and whatever went wrong is status 500.

use http::StatusCode;
use serde_json::Map;

use super::{Addresses, Endpoint, Place, Platform, Source, TokenRequest, Variables};
use crate::entra;
use crate::expiry::{self, DocumentedExpiry};
use crate::identities::Selector;
use crate::reply::Reply;
use crate::settings::{ExpiresIn, ExpiresOn};

pub(super) const ENDPOINT: Endpoint = Endpoint {
    source: Source::WorkloadIdentityProxy,
    place: Place::At(PATH),
    tls_only: false,
    rate_limited: false,
    environment,
    answer,
};

const PREFIX: &str = "/workload-identity-proxy";
const PATH: &str = "/workload-identity-proxy/metadata/identity/oauth2/token";

/// By how much the proxy understates the lifetime of a token.
const MARGIN_SECONDS: i64 = 10;

const EXPIRY: DocumentedExpiry = DocumentedExpiry {
    expires_on: ExpiresOn::String,
    expires_in: ExpiresIn::Number,
    ext_expires_in: false,
};

fn environment(addresses: &Addresses<'_>) -> Option<Variables> {
    let host = format!("{}{PREFIX}", addresses.base_url);
    Some(vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", host)])
}

fn answer(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Reply {
    token(request, platform)
        .unwrap_or_else(|message| Reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{message}\n")))
}

fn token(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Result<Reply, String> {
    let identities = platform.identities;
    let tenant = &identities.tenant_id;
    let client_id = request.required("client_id");
    let identity = match client_id {
        Some(client_id) => identities.find_user_assigned(Selector::Client(client_id)),
        None => identities.user_assigned.first(),
    }
    .ok_or_else(|| {
        let named = client_id.unwrap_or_default();
        format!(
            "failed to acquire token: AADSTS700016: Application with identifier '{named}' was not found in the \
             directory '{tenant}'."
        )
    })?;
    let resource = request.query.get("resource").unwrap_or_default();
    if platform.settings.is_unknown_resource(resource) {
        let refusal = entra::Refusal::unknown_resource(resource, tenant);
        return Err(format!("failed to acquire token: {}", refusal.description(platform)));
    }

    let mut issued = platform
        .issue(identity, resource)
        .map_err(|error| format!("failed to acquire token: {error}"))?;
    issued.expires_in = issued.expires_in.saturating_sub(MARGIN_SECONDS);
    let mut body = Map::new();
    expiry::write(&mut body, &issued, &EXPIRY, platform.settings);
    body.insert("access_token".to_owned(), issued.access_token.into());
    body.insert("resource".to_owned(), issued.resource.into());
    body.insert("token_type".to_owned(), "Bearer".into());
    Ok(Reply::json(StatusCode::OK, &body))
}
