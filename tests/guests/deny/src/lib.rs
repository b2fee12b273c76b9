//! What Spin puts in the place of everything that a dependency does not inherit, as far as our components import it.
//!
//! Spin's own (`crates/capabilities` of its repository) answers in the same way: no variables, no directories, and an error
//! for each request and each store.
#![cfg(target_arch = "wasm32")]

#[expect(unsafe_code, reason = "generated code, which speaks the canonical ABI")]
mod bindings {
    use super::Deny;

    wit_bindgen::generate!({
        path: ["../../../wit/0.2", "../../../guest/cache/wit/deps/keyvalue-0.2.0-draft2", "wit"],
        world: "test:deny/deny",
        generate_all,
    });

    export!(Deny);
}

use bindings::exports::wasi::cli::environment;
use bindings::exports::wasi::filesystem::preopens;
use bindings::exports::wasi::http::outgoing_handler;
use bindings::exports::wasi::keyvalue::store;

struct Deny;

impl environment::Guest for Deny {
    fn get_environment() -> Vec<(String, String)> {
        Vec::new()
    }

    fn get_arguments() -> Vec<String> {
        Vec::new()
    }

    fn initial_cwd() -> Option<String> {
        None
    }
}

impl preopens::Guest for Deny {
    fn get_directories() -> Vec<(preopens::Descriptor, String)> {
        Vec::new()
    }
}

impl outgoing_handler::Guest for Deny {
    fn handle(
        _: outgoing_handler::OutgoingRequest,
        _: Option<outgoing_handler::RequestOptions>,
    ) -> Result<outgoing_handler::FutureIncomingResponse, outgoing_handler::ErrorCode> {
        let message = "\"wasi:http/outgoing-handler\" is not permitted";
        Err(outgoing_handler::ErrorCode::InternalError(Some(message.into())))
    }
}

impl store::Guest for Deny {
    type Bucket = Self;

    fn open(_: String) -> Result<store::Bucket, store::Error> {
        Err(store::Error::AccessDenied)
    }
}

/// Nobody has one.
impl store::GuestBucket for Deny {
    fn get(&self, _: String) -> Result<Option<Vec<u8>>, store::Error> {
        Err(store::Error::AccessDenied)
    }

    fn set(&self, _: String, _: Vec<u8>) -> Result<(), store::Error> {
        Err(store::Error::AccessDenied)
    }

    fn delete(&self, _: String) -> Result<(), store::Error> {
        Err(store::Error::AccessDenied)
    }

    fn exists(&self, _: String) -> Result<bool, store::Error> {
        Err(store::Error::AccessDenied)
    }

    fn list_keys(&self, _: Option<String>) -> Result<store::KeyResponse, store::Error> {
        Err(store::Error::AccessDenied)
    }
}
