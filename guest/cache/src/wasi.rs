//! The component: the traits of [`crate::surroundings`] on WASI and on the provider that is plugged in, and the exports.

use crate::cache::Cache;
use crate::surroundings::{Failure, Origin, Provider, Store, StoreFault, Surroundings};
use crate::token::{AccessToken, Identity, Secret, TokenRequest};
use bindings::cloud::identity::{managed_identity as inner, token_claims as inner_claims, types as wit};
use bindings::exports::cloud::identity::{managed_identity, token_claims};
use std::time::Duration;
use wasip2::{cli, clocks, random};

/// The world for each draft of `wasi:keyvalue`.
macro_rules! bindings {
    ($world:literal, $keyvalue:ident) => {
        use bindings::wasi::$keyvalue::store;

        #[expect(unsafe_code, reason = "generated code, which speaks the canonical ABI")]
        mod bindings {
            use super::Component;

            wit_bindgen::generate!({
                path: ["../../wit/0.2", "wit"],
                world: $world,
                generate_all,
                // What comes from the provider goes to the client as it is.
                merge_structurally_equal_types: true,
                with: {
                    "wasi:cli/environment@0.2.12": wasip2::cli::environment,
                    "wasi:clocks/monotonic-clock@0.2.12": wasip2::clocks::monotonic_clock,
                    "wasi:clocks/wall-clock@0.2.12": wasip2::clocks::wall_clock,
                    "wasi:io/poll@0.2.12": wasip2::io::poll,
                    "wasi:random/random@0.2.12": wasip2::random::random,
                },
            });

            export!(Component);
        }
    };
}

#[cfg(feature = "keyvalue-draft")]
bindings!("cloud:identity-cache/cache-draft", keyvalue0_2_0_draft);
#[cfg(not(feature = "keyvalue-draft"))]
bindings!("cloud:identity-cache/cache-draft2", keyvalue0_2_0_draft2);

/// The drafts differ in what a cursor is.
#[cfg(feature = "keyvalue-draft")]
fn lent(cursor: &Option<u64>) -> Option<u64> {
    *cursor
}

#[cfg(not(feature = "keyvalue-draft"))]
fn lent(cursor: &Option<String>) -> Option<&str> {
    cursor.as_deref()
}

/// A cycle of cursors ends there.
const MOST_PAGES: usize = 10_000;

struct Component;

fn cache() -> Cache<Wasi, Inner> {
    Cache::new(Wasi, Inner)
}

impl managed_identity::Guest for Component {
    fn get_token(request: wit::TokenRequest) -> Result<wit::AccessToken, wit::Error> {
        let identity = match request.identity {
            wit::Identity::PlatformDefault => Identity::PlatformDefault,
            wit::Identity::SystemAssigned => Identity::SystemAssigned,
            wit::Identity::ClientId(id) => Identity::ClientId(id),
            wit::Identity::ObjectId(id) => Identity::ObjectId(id),
            wit::Identity::ResourceId(id) => Identity::ResourceId(id),
        };
        let token = cache().get_token(TokenRequest {
            audience: request.audience,
            identity,
            claims: request.claims,
            rejected_token: request.rejected_token.map(Secret::new),
            timeout_ms: request.timeout_ms,
        })?;
        Ok(wit::AccessToken {
            token: token.secret.expose().to_owned(),
            token_type: token.token_type,
            audience: token.audience,
            expires_on: token.expires_on,
            refresh_on: token.refresh_on,
            client_id: token.client_id,
            source: token.source,
            stale: token.stale,
        })
    }

    fn forget(audience: Option<String>) {
        cache().forget(audience.as_deref());
    }

    fn describe_source() -> Result<wit::SourceDescription, wit::Error> {
        let mut description = inner::describe_source()?;
        description.reasons.push(cache().reason());
        Ok(description)
    }
}

impl token_claims::Guest for Component {
    fn decode(token: String) -> Result<token_claims::Claims, wit::Error> {
        let token = Secret::new(token);
        inner_claims::decode(token.expose())
    }
}

/// The provider.
struct Inner;

impl Provider for Inner {
    type Error = wit::Error;

    fn get_token(&self, request: &TokenRequest) -> Result<AccessToken, wit::Error> {
        let identity = match &request.identity {
            Identity::PlatformDefault => wit::Identity::PlatformDefault,
            Identity::SystemAssigned => wit::Identity::SystemAssigned,
            Identity::ClientId(id) => wit::Identity::ClientId(id.clone()),
            Identity::ObjectId(id) => wit::Identity::ObjectId(id.clone()),
            Identity::ResourceId(id) => wit::Identity::ResourceId(id.clone()),
        };
        let request = wit::TokenRequest {
            audience: request.audience.clone(),
            identity,
            claims: request.claims.clone(),
            rejected_token: request.rejected_token.as_ref().map(|token| token.expose().to_owned()),
            timeout_ms: request.timeout_ms,
        };
        let token = inner::get_token(&request);
        // The copy that was made for the call.
        drop(request.rejected_token.map(Secret::new));
        let token = token?;
        Ok(AccessToken {
            secret: Secret::new(token.token),
            token_type: token.token_type,
            audience: token.audience,
            expires_on: token.expires_on,
            refresh_on: token.refresh_on,
            client_id: token.client_id,
            source: token.source,
            stale: token.stale,
        })
    }

    fn forget(&self, audience: Option<&str>) {
        inner::forget(audience);
    }

    fn origin(&self) -> Option<Origin> {
        let description = inner::describe_source().ok()?;
        Some(Origin {
            source: description.source?,
            endpoint: description.endpoint?,
        })
    }
}

impl Failure for wit::Error {
    fn not_configured(message: String) -> Self {
        failure(wit::Cause::NotConfigured, message)
    }

    fn token_rejected(message: String) -> Self {
        failure(wit::Cause::TokenRejected, message)
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_after_ms
            .map(|milliseconds| Duration::from_millis(milliseconds.into()))
    }
}

fn failure(cause: wit::Cause, message: String) -> wit::Error {
    wit::Error {
        cause,
        message,
        source: None,
        http_status: None,
        retry_after_ms: None,
        correlation_id: None,
    }
}

/// The world around, without the provider.
struct Wasi;

impl Surroundings for Wasi {
    type Store = store::Bucket;

    fn open(&self, name: &str) -> Result<store::Bucket, StoreFault> {
        store::open(name).map_err(|error| fault(&error))
    }

    fn environment(&self) -> Vec<(String, String)> {
        cli::environment::get_environment()
    }

    fn unix_time(&self) -> u64 {
        clocks::wall_clock::now().seconds
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(clocks::monotonic_clock::now())
    }

    fn random(&self, length: usize) -> Vec<u8> {
        random::random::get_random_bytes(length as u64)
    }
}

impl Store for store::Bucket {
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreFault> {
        store::Bucket::get(self, name).map_err(|error| fault(&error))
    }

    fn set(&self, name: &str, value: &[u8]) -> Result<(), StoreFault> {
        store::Bucket::set(self, name, value).map_err(|error| fault(&error))
    }

    fn delete(&self, name: &str) -> Result<(), StoreFault> {
        store::Bucket::delete(self, name).map_err(|error| fault(&error))
    }

    fn names(&self) -> Result<Vec<String>, StoreFault> {
        let (mut names, mut cursor) = (Vec::new(), None);
        for _ in 0..MOST_PAGES {
            let page = match self.list_keys(lent(&cursor)) {
                Ok(page) => page,
                Err(error) => return Err(fault(&error)),
            };
            names.extend(page.keys);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(names);
            }
        }
        Err(StoreFault::Failed)
    }
}

fn fault(error: &store::Error) -> StoreFault {
    match error {
        store::Error::NoSuchStore => StoreFault::NoSuchStore,
        store::Error::AccessDenied => StoreFault::AccessDenied,
        store::Error::Other(_) => StoreFault::Failed,
    }
}
