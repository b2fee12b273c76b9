//! A plugin that asks for a token and tells whose it is. Its arguments are audiences.
//!
//! It gets tokens through an interface, and only the ones that its host grants: it could not reach the identity endpoint.
#![cfg(target_arch = "wasm32")]

use bindings::cloud::identity::managed_identity::{TokenRequest, get_token};
use bindings::cloud::identity::token_claims::decode;
use bindings::cloud::identity::types::{Error, Identity};
use std::io::Write as _;

mod bindings {
    wit_bindgen::generate!({
        path: "../../../../wit/0.2",
        inline: "
            package example:who-am-i;
            world plugin {
                import cloud:identity/managed-identity@0.2.0;
                import cloud:identity/token-claims@0.2.0;
            }
        ",
        world: "example:who-am-i/plugin",
        generate_all,
    });
}

wasip2::cli::command::export!(Plugin);

struct Plugin;

impl wasip2::exports::cli::run::Guest for Plugin {
    fn run() -> Result<(), ()> {
        let mut output = wasip2::cli::stdout::get_stdout();
        let mut all_granted = true;
        for audience in wasip2::cli::environment::get_arguments().into_iter().skip(1) {
            let line = match who_am_i(&audience) {
                Ok(line) => line,
                Err(error) => {
                    all_granted = false;
                    format!("{audience}: {}", error.message)
                }
            };
            // Where nobody listens, nothing is lost.
            let _ = writeln!(output, "{line}");
        }
        if all_granted { Ok(()) } else { Err(()) }
    }
}

fn who_am_i(audience: &str) -> Result<String, Error> {
    let token = get_token(&TokenRequest {
        audience: audience.to_owned(),
        identity: Identity::PlatformDefault,
        claims: None,
        rejected_token: None,
        timeout_ms: Some(10_000),
    })?;
    let claims = decode(&token.token)?;
    Ok(format!(
        "{audience}: object {} of tenant {}, by {}",
        claims.object_id.as_deref().unwrap_or("(not said)"),
        claims.tenant_id.as_deref().unwrap_or("(not said)"),
        token.source
    ))
}
