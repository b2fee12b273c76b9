//! `fetch-secret VAULT-URL SECRET` reads a secret of a vault, and tells as whom.
//!
//! It holds no credential and cannot reach the identity endpoint: it gets tokens through `cloud:identity`, and only those that
//! whoever runs it grants.
#![cfg(target_arch = "wasm32")]

mod error;
mod vault;

use bindings::cloud::identity::managed_identity::get_token;
use bindings::cloud::identity::token_claims::{Claims, decode};
use bindings::cloud::identity::types::{AccessToken, Identity, TokenRequest};
use error::Error;
use std::io::{self, Write};
use vault::{Reply, Vault};
use wasip2::cli::{environment, stderr, stdout};

/// `cloud:identity`. What is WASI's comes with `wasip2`.
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit/0.2",
        inline: "
            package example:fetch-secret;
            world imports {
                import cloud:identity/managed-identity@0.2.0;
                import cloud:identity/token-claims@0.2.0;
            }
        ",
        world: "example:fetch-secret/imports",
        generate_all,
    });
}

wasip2::cli::command::export!(FetchSecret);

struct FetchSecret;

impl wasip2::exports::cli::run::Guest for FetchSecret {
    fn run() -> Result<(), ()> {
        match fetch_secret(&environment::get_arguments()) {
            Ok(report) => print(stdout::get_stdout(), &report).map_err(drop),
            Err(error) => {
                // There is nowhere left to say that standard error is closed.
                let _ = print(stderr::get_stderr(), &format!("error: {error}\n"));
                Err(())
            }
        }
    }
}

fn print(mut stream: impl Write, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

fn fetch_secret(arguments: &[String]) -> Result<String, Error> {
    let [_, url, name] = arguments else {
        return Err(Error::Usage);
    };
    let vault = Vault::at(url).ok_or_else(|| Error::NotAVault(url.clone()))?;
    let mut exchange = ask(&vault, name, None)?;
    if exchange.reply.status == 401 {
        exchange = ask(&vault, name, Some(exchange))?;
    }
    let Exchange { token, claims, reply } = exchange;
    Ok(format!(
        "secret: {}\nfrom: {}\naudience: {}\ntenant: {}\nobject: {}\napplication: {}\nexpires: {}\n",
        reply.secret_name()?,
        token.source,
        or_dash((!claims.audiences.is_empty()).then(|| claims.audiences.join(", "))),
        or_dash(claims.tenant_id),
        or_dash(claims.object_id),
        or_dash(claims.application_id),
        token.expires_on,
    ))
}

/// Every claim may be absent, or say nothing.
fn or_dash(claim: Option<String>) -> String {
    claim.filter(|claim| !claim.is_empty()).unwrap_or_else(|| "-".into())
}

/// A token, what it says of itself, and what the vault answered to it.
struct Exchange {
    token: AccessToken,
    claims: Claims,
    reply: Reply,
}

/// Asks for a token, and the vault with it. After an exchange in which the vault refused the token, asks for another one, with
/// what the vault said that it wants to see.
fn ask(vault: &Vault, name: &str, refused: Option<Exchange>) -> Result<Exchange, Error> {
    let (rejected_token, claims) = match refused {
        Some(exchange) => (Some(exchange.token.token), exchange.reply.claims_challenge),
        None => (None, None),
    };
    let token = get_token(&TokenRequest {
        audience: "https://vault.azure.net".into(),
        identity: Identity::PlatformDefault,
        claims,
        rejected_token,
        timeout_ms: Some(30_000),
    })?;
    let claims = decode(&token.token).map_err(Error::Claims)?;
    let reply = vault.get(name, &format!("{} {}", token.token_type, token.token))?;
    Ok(Exchange { token, claims, reply })
}
