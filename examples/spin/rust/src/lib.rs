//! `GET /rust/NAME` reads the secret NAME of a vault, and answers how long it is.
//!
//! It holds no credential: it gets tokens through `cloud:identity`, which `spin.toml` has answered by the provider.
#![cfg(target_arch = "wasm32")]

use bindings::cloud::identity::managed_identity::get_token;
use bindings::cloud::identity::types::{self, Cause, Identity, TokenRequest};
use serde_json::{Value, json};
use spin_sdk::http::{self, IntoResponse, Request, Response};
use spin_sdk::http_component;
use std::env;

/// `cloud:identity`. What is WASI's comes with the SDK.
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit/0.2",
        inline: "
            package example:spin;
            world imports {
                import cloud:identity/managed-identity@0.2.0;
            }
        ",
        world: "example:spin/imports",
        generate_all,
    });
}

#[http_component]
async fn handle(request: Request) -> impl IntoResponse {
    let name = request.path().rsplit('/').next().unwrap_or_default();
    let (status, body) = match length_of_secret(name).await {
        Ok(length) => (200, json!({ "secret": name, "length": length })),
        Err(error) => (error.status(), json!({ "error": error.to_string() })),
    };
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(body.to_string())
        .build()
}

async fn length_of_secret(name: &str) -> Result<usize, Error> {
    // What vaults allow in names, so that a name is never more than one part of a path.
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(Error::NotAName);
    }
    let vault = env::var("VAULT_URL").ok().filter(|url| !url.is_empty());
    let vault = vault.ok_or(Error::NoVault)?;
    let url = format!("{}/secrets/{name}?api-version=7.4", vault.trim_end_matches('/'));
    let token = token(None, None)?;
    let mut reply = ask(&url, &token).await?;
    if *reply.status() == 401 {
        // The token is no longer good enough. Without these two, the same one would come back from the cache.
        let another = token_after(token, &reply)?;
        reply = ask(&url, &another).await?;
    }
    if *reply.status() != 200 {
        return Err(Error::Vault(format!("status {}", reply.status())));
    }
    let secret: Value = serde_json::from_slice(reply.body()).map_err(|_| Error::Vault("not a secret".into()))?;
    let value = secret["value"].as_str().ok_or_else(|| Error::Vault("not a secret".into()))?;
    Ok(value.chars().count())
}

fn token(claims: Option<String>, rejected_token: Option<String>) -> Result<String, Error> {
    let request = TokenRequest {
        audience: "https://vault.azure.net".into(),
        identity: Identity::PlatformDefault,
        claims,
        rejected_token,
        timeout_ms: Some(10_000),
    };
    get_token(&request).map(|token| token.token).map_err(Error::Token)
}

fn token_after(refused: String, reply: &Response) -> Result<String, Error> {
    let challenge = reply.header("www-authenticate").and_then(|value| value.as_str());
    token(challenge.and_then(claims), Some(refused))
}

/// What is in `claims="…"` of a challenge. The name has no case (RFC 9110, section 11.2), and may be the end of another one.
fn claims(challenge: &str) -> Option<String> {
    const NAME: &str = "claims=\"";
    let in_lower_case = challenge.to_ascii_lowercase();
    let goes_on = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut places = in_lower_case.match_indices(NAME).map(|(place, _)| place);
    let place = places.find(|place| !in_lower_case[..*place].ends_with(goes_on))?;
    let (claims, _) = challenge[place + NAME.len()..].split_once('"')?;
    Some(claims.to_owned())
}

async fn ask(url: &str, token: &str) -> Result<Response, Error> {
    let request = Request::get(url)
        .header("authorization", format!("Bearer {token}"))
        .header("accept", "application/json")
        .build();
    http::send(request)
        .await
        .map_err(|error: http::SendError| Error::Vault(format!("no answer: {error}")))
}

/// Why there is no length.
enum Error {
    NotAName,
    NoVault,
    Token(types::Error),
    Vault(String),
}

impl Error {
    /// The status of the reply: whose fault it is.
    fn status(&self) -> u16 {
        match self {
            Self::NotAName => 400,
            Self::NoVault => 500,
            Self::Token(error) if matches!(error.cause, Cause::Throttled | Cause::PlatformUpdating) => 503,
            Self::Token(_) | Self::Vault(_) => 502,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAName => formatter.write_str("not the name of a secret"),
            Self::NoVault => formatter.write_str("VAULT_URL is not set: spin.toml has it in `environment`"),
            Self::Token(error) => formatter.write_str(&error.message),
            Self::Vault(problem) => write!(formatter, "vault: {problem}"),
        }
    }
}
