//! A plugin that reads a secret of a vault and never holds a token: its host adds one to the request on its way out.
//!
//! Its arguments are the vault's host and the names of secrets. It prints what it may know of them, and no value.
#![cfg(target_arch = "wasm32")]

use serde::Deserialize;
use std::io::{Read as _, Write as _};
use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{Fields, OutgoingRequest, Scheme};

wasip2::cli::command::export!(Plugin);

struct Plugin;

impl wasip2::exports::cli::run::Guest for Plugin {
    fn run() -> Result<(), ()> {
        let mut output = wasip2::cli::stdout::get_stdout();
        let mut arguments = wasip2::cli::environment::get_arguments().into_iter().skip(1);
        let vault = arguments.next().ok_or(())?;
        let mut all_read = true;
        for name in arguments {
            let line = match read(&vault, &name) {
                Ok(secret) => format!("{}: {} characters", secret.id, secret.value.chars().count()),
                Err(reason) => {
                    all_read = false;
                    format!("{name}: {reason}")
                }
            };
            // Where nobody listens, nothing is lost.
            let _ = writeln!(output, "{line}");
        }
        if all_read { Ok(()) } else { Err(()) }
    }
}

/// A secret as Key Vault gives it (Get Secret, Key Vault REST API 7.4).
#[derive(Deserialize)]
struct Secret {
    id: String,
    value: String,
}

fn read(vault: &str, name: &str) -> Result<Secret, String> {
    let request = OutgoingRequest::new(Fields::new());
    // What these refuse is not spelled as a host or a path.
    request.set_scheme(Some(&Scheme::Https)).map_err(|()| "no scheme")?;
    request
        .set_authority(Some(vault))
        .map_err(|()| format!("{vault:?} is no host"))?;
    request
        .set_path_with_query(Some(&format!("/secrets/{name}?api-version=7.4")))
        .map_err(|()| format!("{name:?} is no name of a secret"))?;
    let response = handle(request, None).map_err(|error| format!("not sent: {error}"))?;
    response.subscribe().block();
    let response = match response.get() {
        Some(Ok(Ok(response))) => response,
        Some(Ok(Err(error))) => return Err(format!("no reply: {error}")),
        // The reply is there, and nobody else has taken it.
        Some(Err(())) | None => return Err("no reply".to_owned()),
    };
    let status = response.status();
    let body = response.consume().map_err(|()| "no body")?;
    let mut text = String::new();
    body.stream()
        .map_err(|()| "no body")?
        .read_to_string(&mut text)
        .map_err(|error| format!("the reply broke off: {error}"))?;
    if status != 200 {
        return Err(format!("status {status}"));
    }
    serde_json::from_str(&text).map_err(|error| format!("not a secret: {error}"))
}
