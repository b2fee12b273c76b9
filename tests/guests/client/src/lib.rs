//! A component of the world `client` of `cloud:identity`, which exports a function rather than a command: it asks for a token
//! and says whence that came.
#![cfg(target_arch = "wasm32")]

use bindings::cloud::identity::managed_identity::{TokenRequest, get_token};
use bindings::cloud::identity::types::Identity;

#[expect(unsafe_code, reason = "generated code, which speaks the canonical ABI")]
mod bindings {
    wit_bindgen::generate!({ path: "../../../wit/0.2", world: "client" });
    export!(Component with_types_in self);
    use super::Component;
}

struct Component;

impl bindings::Guest for Component {
    fn run() -> Result<String, String> {
        let request = TokenRequest {
            audience: "https://vault.azure.net".into(),
            identity: Identity::PlatformDefault,
            claims: None,
            rejected_token: None,
            timeout_ms: Some(10_000),
        };
        let token = get_token(&request).map_err(|error| error.message)?;
        Ok(format!(
            "a token from {}, valid until {}",
            token.source, token.expires_on
        ))
    }
}
