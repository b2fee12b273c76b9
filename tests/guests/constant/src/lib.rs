//! A provider that gives a token of the usual length without a cache, a clock or a check. It imports nothing.
#![cfg(all(target_arch = "wasm32", any(feature = "wasi-0-2", feature = "wasi-0-3")))]

#[cfg(feature = "wasi-0-2")]
#[expect(unsafe_code, reason = "generated code, which speaks the canonical ABI")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit/0.2",
        inline: "
            package managed-identity:constant;
            world guest {
                export cloud:identity/managed-identity@0.2.0;
            }
        ",
        world: "managed-identity:constant/guest",
        generate_all,
    });
    export!(Component with_types_in self);
    use super::Component;
}

#[cfg(feature = "wasi-0-3")]
#[expect(unsafe_code, reason = "generated code, which speaks the canonical ABI")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit/0.3",
        inline: "
            package managed-identity:constant;
            world guest {
                export cloud:identity/managed-identity@0.3.0;
            }
        ",
        world: "managed-identity:constant/guest",
        generate_all,
    });
    export!(Component with_types_in self);
    use super::Component;
}

use bindings::exports::cloud::identity::managed_identity::{
    AccessToken, Error, Guest, SourceDescription, TokenRequest,
};

/// How long the tokens of managed identities are.
const LENGTH: usize = 1_600;

struct Component;

impl Guest for Component {
    #[cfg(feature = "wasi-0-2")]
    fn get_token(request: TokenRequest) -> Result<AccessToken, Error> {
        Ok(token(request))
    }

    #[cfg(feature = "wasi-0-3")]
    async fn get_token(request: TokenRequest) -> Result<AccessToken, Error> {
        Ok(token(request))
    }

    fn forget(_: Option<String>) {}

    fn describe_source() -> Result<SourceDescription, Error> {
        Ok(SourceDescription {
            source: Some("constant".to_owned()),
            endpoint: None,
            reasons: Vec::new(),
            last_failure: None,
        })
    }
}

fn token(request: TokenRequest) -> AccessToken {
    AccessToken {
        token: "t".repeat(LENGTH),
        token_type: "Bearer".to_owned(),
        audience: request.audience,
        expires_on: u64::MAX,
        refresh_on: u64::MAX,
        client_id: None,
        source: "constant".to_owned(),
        stale: false,
    }
}
