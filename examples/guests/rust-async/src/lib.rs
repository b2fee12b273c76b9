//! `fetch-secret VAULT-URL SECRET` reads a secret of a vault, and tells as whom: the program of `../rust` for WASI 0.3, where
//! what takes time is an `async fn`, and whoever runs the component does something else meanwhile.
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
use vault::{Reply, Vault};
use wasip3::cli::types::ErrorCode;
use wasip3::cli::{environment, stderr, stdout};
use wasip3::wit_bindgen::{FutureReader, StreamReader};
use wasip3::wit_stream;

/// `cloud:identity`. What is WASI's comes with `wasip3`.
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit/0.3",
        inline: "
            package example:fetch-secret;
            world imports {
                import cloud:identity/managed-identity@0.3.0;
                import cloud:identity/token-claims@0.3.0;
            }
        ",
        world: "example:fetch-secret/imports",
        generate_all,
    });
}

wasip3::cli::command::export!(FetchSecret);

struct FetchSecret;

impl wasip3::exports::cli::run::Guest for FetchSecret {
    async fn run() -> Result<(), ()> {
        match fetch_secret(&environment::get_arguments()).await {
            Ok(report) => print(stdout::write_via_stream, report).await.map_err(drop),
            Err(error) => {
                // There is nowhere left to say that standard error is closed.
                let _ = print(stderr::write_via_stream, format!("error: {error}\n")).await;
                Err(())
            }
        }
    }
}

/// Hands the host a stream to read, and waits until it has.
async fn print(
    write_via_stream: fn(StreamReader<u8>) -> FutureReader<Result<(), ErrorCode>>,
    text: String,
) -> Result<(), ErrorCode> {
    let (mut writer, reader) = wit_stream::new();
    let written = write_via_stream(reader);
    // What could not be written, `written` tells too.
    writer.write_all(text.into_bytes()).await;
    drop(writer);
    written.await
}

async fn fetch_secret(arguments: &[String]) -> Result<String, Error> {
    let [_, url, name] = arguments else {
        return Err(Error::Usage);
    };
    let vault = Vault::at(url).ok_or_else(|| Error::NotAVault(url.clone()))?;
    let mut exchange = ask(&vault, name, None).await?;
    if exchange.reply.status == 401 {
        exchange = ask(&vault, name, Some(exchange)).await?;
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
async fn ask(vault: &Vault, name: &str, refused: Option<Exchange>) -> Result<Exchange, Error> {
    let (rejected_token, claims) = match refused {
        Some(exchange) => (Some(exchange.token.token), exchange.reply.claims_challenge),
        None => (None, None),
    };
    let token = get_token(TokenRequest {
        audience: "https://vault.azure.net".into(),
        identity: Identity::PlatformDefault,
        claims,
        rejected_token,
        timeout_ms: Some(30_000),
    })
    .await?;
    let claims = decode(&token.token).map_err(Error::Claims)?;
    let reply = vault
        .get(name, &format!("{} {}", token.token_type, token.token))
        .await?;
    Ok(Exchange { token, claims, reply })
}
