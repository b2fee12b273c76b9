//! OpenID Connect discovery, through which software that verifies tokens finds the emulator's public key.
//!
//! The paths are those of Entra's v1 endpoints: `/{tenant}/.well-known/openid-configuration` leads to
//! `/{tenant}/discovery/keys`. The former is also at the root, for a person who looks; its `issuer` is the tenant's
//! there too.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::keys::SigningKey;
use crate::reply::Reply;
use crate::token;

const CONFIGURATION: &str = ".well-known/openid-configuration";
const KEYS: &str = "discovery/keys";

/// The answer to a request, if its path is one of discovery.
pub(crate) fn answer(method: &Method, path: &str, base_url: &str, tenant: &str, key: &SigningKey) -> Option<Reply> {
    let path = path.strip_prefix('/')?;
    let document = match path.split_once('/') {
        _ if path == CONFIGURATION => configuration(base_url, tenant),
        Some((named, CONFIGURATION)) if named.eq_ignore_ascii_case(tenant) => configuration(base_url, tenant),
        Some((named, KEYS)) if named.eq_ignore_ascii_case(tenant) => key.key_set(),
        _ => return None,
    };
    Some(if method == Method::GET {
        Reply::json(StatusCode::OK, &document)
    } else {
        Reply::empty(StatusCode::METHOD_NOT_ALLOWED).with(http::header::ALLOW, "GET")
    })
}

/// The provider metadata (OpenID Connect Discovery 1.0, section 3). The authorization and token endpoints are there
/// because the specification requires them and strict readers insist; the emulator has neither.
fn configuration(base_url: &str, tenant: &str) -> Value {
    json!({
        "issuer": token::issuer_url(base_url, tenant),
        "authorization_endpoint": format!("{base_url}/{tenant}/oauth2/authorize"),
        "token_endpoint": format!("{base_url}/{tenant}/oauth2/token"),
        "jwks_uri": format!("{base_url}/{tenant}/{KEYS}"),
        "response_types_supported": ["code", "id_token", "token id_token", "token"],
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "scopes_supported": ["openid"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "claims_supported": ["sub", "iss", "aud", "exp", "iat", "oid", "tid", "appid", "idtyp", "roles", "uti", "ver"],
    })
}
