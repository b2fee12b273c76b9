//! The cache of `guest/cache`, plugged together with the provider as a component for each draft of `wasi:keyvalue`, in
//! instances that live for one call.
//!
//! What the cache decides is tested where it is written. Here it is the real component on a real store, in front of the real
//! provider and an emulated platform, whose requests are counted.

#![expect(clippy::unwrap_used, reason = "servers, stores and instances are the tests' own")]

mod deployment;
#[path = "../support/plug.rs"]
mod plug;
mod store;

use deployment::{DAY, Deployment, Draft, KEY, Outcome, VAULT, cached, request};
use http::StatusCode;
use managed_identity_emulator::{Fault, http};
use managed_identity_test_guests::{CACHE_DRAFT, CACHE_DRAFT2};
use std::collections::BTreeSet;
use std::time::Duration;
use wit_parser::decoding::{DecodedWasm, decode};

/// Every test is of both drafts.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        mod draft {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Draft::Wasmtime).await;
            })*
        }

        mod draft2 {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Draft::Spin).await;
            })*
        }
    };
}

tests!(
    instances_share_one_request,
    an_entry_with_a_flipped_bit_is_asked_for_again,
    an_expired_token_is_asked_for_again,
    keys_rotate,
    instances_with_other_keys_share_nothing,
    nothing_that_can_be_read_stands_in_the_store,
    an_outage_costs_one_request_and_no_token,
    a_rejected_token_goes_for_all,
    forgetting_reaches_all_instances,
    a_host_that_denies_the_store_costs_no_token,
    without_a_key_nothing_is_asked,
    the_source_and_claims_are_told_as_by_the_provider,
);

async fn instances_share_one_request(draft: Draft) {
    let deployment = Deployment::start(draft);
    let first = deployment.token().await;
    for _ in 0..3 {
        assert_eq!(deployment.token().await, first);
    }
    assert_eq!(deployment.requests(), 1);
    deployment.stop().await;
}

async fn an_entry_with_a_flipped_bit_is_asked_for_again(draft: Draft) {
    let deployment = Deployment::start(draft);
    let first = deployment.token().await;
    for value in deployment.values().values_mut() {
        value[100] ^= 1;
    }
    let second = deployment.token().await;
    assert_ne!(second, first);
    assert_eq!(deployment.token().await, second);
    assert_eq!(deployment.requests(), 2);
    deployment.stop().await;
}

async fn an_expired_token_is_asked_for_again(draft: Draft) {
    let deployment = Deployment::start(draft);
    let first = deployment.token().await;
    // It is renewed after half a day, or some minutes before.
    deployment.pass(DAY / 2 - Duration::from_secs(600));
    assert_eq!((deployment.token().await, deployment.requests()), (first.clone(), 1));
    deployment.pass(Duration::from_secs(660));
    let second = deployment.token().await;
    assert_ne!(second, first);
    // And when nobody asked in time, it is expired.
    deployment.pass(2 * DAY);
    deployment.add_fault(Fault::reply(StatusCode::INTERNAL_SERVER_ERROR, ""));
    assert_eq!(deployment.cause().await, "platform-failure");
    deployment.stop().await;
}

async fn keys_rotate(draft: Draft) {
    let other = "8NtYzWvzFHUIvzgRRqnuw2wo3wuWqTRB0ftFVAM8R9s=";
    let mut deployment = Deployment::start(draft);
    let first = deployment.token().await;
    deployment.set("MANAGED_IDENTITY_CACHE_KEY", &format!("{other},{KEY}"));
    assert_eq!((deployment.token().await, deployment.requests()), (first.clone(), 1));
    deployment.pass(DAY / 2 + Duration::from_secs(60));
    let second = deployment.token().await;
    assert_eq!(deployment.values().len(), 1);
    deployment.set("MANAGED_IDENTITY_CACHE_KEY", other);
    assert_eq!((deployment.token().await, deployment.requests()), (second, 2));
    deployment.stop().await;
}

async fn instances_with_other_keys_share_nothing(draft: Draft) {
    for (variable, value) in [
        (
            "MANAGED_IDENTITY_CACHE_KEY",
            "8NtYzWvzFHUIvzgRRqnuw2wo3wuWqTRB0ftFVAM8R9s=",
        ),
        ("MANAGED_IDENTITY_CACHE_NAMESPACE", "blue"),
        ("AZURE_CLIENT_ID", deployment::CLIENT_ID),
    ] {
        let mut deployment = Deployment::start(draft);
        let first = deployment.token().await;
        deployment.set(variable, value);
        assert_ne!(deployment.token().await, first, "{variable}");
        assert_eq!((deployment.requests(), deployment.values().len()), (2, 2), "{variable}");
        deployment.stop().await;
    }
}

async fn nothing_that_can_be_read_stands_in_the_store(draft: Draft) {
    let mut deployment = Deployment::start(draft);
    deployment.set("AZURE_CLIENT_ID", deployment::CLIENT_ID);
    let token = deployment.token().await;
    let all: Vec<u8> = deployment
        .values()
        .iter()
        .flat_map(|(name, value)| [name.as_bytes(), value].concat())
        .collect();
    assert!(all.len() > token.len());
    let endpoint = deployment.endpoint();
    let readable = [VAULT, deployment::CLIENT_ID, &endpoint, "Bearer", "app-service"];
    let pieces = token
        .as_bytes()
        .windows(16)
        .chain(readable.iter().map(|text| text.as_bytes()));
    for piece in pieces {
        let text = String::from_utf8_lossy(piece);
        assert!(
            !all.windows(piece.len()).any(|part| part == piece),
            "{text} stands in the store"
        );
    }
    deployment.stop().await;
}

async fn an_outage_costs_one_request_and_no_token(draft: Draft) {
    let deployment = Deployment::start(draft);
    let first = deployment.token().await;
    deployment.pass(DAY / 2 + Duration::from_secs(60));
    deployment.add_fault(Fault::reply(StatusCode::FORBIDDEN, ""));
    for _ in 0..5 {
        let Outcome::Token(token) = deployment.ask(request()).await else {
            panic!("a valid token was withheld");
        };
        assert_eq!((token.text, token.stale), (first.clone(), true));
    }
    assert_eq!(deployment.requests(), 2);
    deployment.stop().await;
}

async fn a_rejected_token_goes_for_all(draft: Draft) {
    let deployment = Deployment::start(draft);
    let first = deployment.token().await;
    let rejecting = deployment::TokenRequest {
        rejected_token: Some(first.clone()),
        ..request()
    };
    let Outcome::Token(second) = deployment.ask(rejecting).await else {
        panic!("there is another token");
    };
    assert_ne!(second.text, first);
    assert_eq!((deployment.token().await, deployment.requests()), (second.text, 2));
    deployment.stop().await;
}

async fn forgetting_reaches_all_instances(draft: Draft) {
    let deployment = Deployment::start(draft);
    let first = deployment.token().await;
    deployment.forget(Some("https://storage.azure.com")).await;
    assert_eq!(deployment.token().await, first);
    deployment.forget(Some(VAULT)).await;
    assert!(deployment.values().is_empty());
    assert_ne!(deployment.token().await, first);
    deployment.forget(None).await;
    assert!(deployment.values().is_empty());
    deployment.stop().await;
}

async fn a_host_that_denies_the_store_costs_no_token(draft: Draft) {
    let deployment = Deployment::start(draft);
    deployment.deny_store();
    let first = deployment.token().await;
    assert_ne!(deployment.token().await, first);
    assert_eq!((deployment.requests(), deployment.values().len()), (2, 0));
    assert!(
        deployment
            .reasons()
            .await
            .contains("the host refuses access to the key-value store")
    );
    deployment.forget(None).await;
    deployment.stop().await;
}

async fn without_a_key_nothing_is_asked(draft: Draft) {
    for key in ["", "c2VjcmV0"] {
        let mut deployment = Deployment::start(draft);
        deployment.set("MANAGED_IDENTITY_CACHE_KEY", key);
        assert_eq!(deployment.cause().await, "not-configured");
        assert!(deployment.reasons().await.contains("`openssl rand -base64 32`"));
        assert_eq!(deployment.requests(), 0);
        deployment.stop().await;
    }
}

async fn the_source_and_claims_are_told_as_by_the_provider(draft: Draft) {
    let deployment = Deployment::start(draft);
    let token = deployment.token().await;
    assert_eq!(deployment.audiences(&token).await, [VAULT]);
    let reasons = deployment.reasons().await;
    assert!(
        reasons.contains("IDENTITY_ENDPOINT") && reasons.contains("Tokens are kept in a key-value store"),
        "{reasons}"
    );
    deployment.stop().await;
}

/// The published implementation of wasmtime, whose store in memory ends with the instance: it takes what the cache has
/// written elsewhere.
#[tokio::test]
async fn the_store_of_wasmtime_itself_serves() {
    let deployment = Deployment::start(Draft::Wasmtime);
    let first = deployment.token().await;
    let full = deployment.values().clone();
    assert_eq!(deployment.token_on_wasmtime(full).await, first);
    assert_eq!(deployment.requests(), 1);
    assert_ne!(deployment.token_on_wasmtime(Default::default()).await, first);
    assert_eq!(deployment.requests(), 2);
    deployment.stop().await;
}

#[test]
fn it_imports_the_provider_and_what_its_world_names() {
    for (draft, component, keyvalue) in [
        (Draft::Wasmtime, CACHE_DRAFT, "wasi:keyvalue/store@0.2.0-draft"),
        (Draft::Spin, CACHE_DRAFT2, "wasi:keyvalue/store@0.2.0-draft2"),
    ] {
        let (imports, exports) = interfaces(component);
        let mut expected = BTreeSet::from([
            "cloud:identity/managed-identity@0.2.0",
            "cloud:identity/token-claims@0.2.0",
            "cloud:identity/types@0.2.0",
            "wasi:cli/environment@0.2.12",
            "wasi:clocks/monotonic-clock@0.2.12",
            "wasi:clocks/wall-clock@0.2.12",
            "wasi:random/random@0.2.12",
        ]);
        expected.insert(keyvalue);
        let own: BTreeSet<_> = imports.iter().map(String::as_str).collect();
        assert_eq!(own, expected);
        // Composed, it stands where the provider stood.
        let (imports, composed) = interfaces(&cached(draft));
        assert!(imports.iter().all(|name| name.starts_with("wasi:")), "{imports:?}");
        assert_eq!(composed, exports);
        assert_eq!(composed, interfaces(managed_identity_host::EMBEDDED_0_2).1);
    }
}

fn interfaces(component: &[u8]) -> (BTreeSet<String>, BTreeSet<String>) {
    let DecodedWasm::Component(resolve, world) = decode(component).unwrap() else {
        panic!("it is no component");
    };
    let world = &resolve.worlds[world];
    let names = |keys: Vec<_>| keys.into_iter().map(|key| resolve.name_world_key(key)).collect();
    (
        names(world.imports.keys().collect()),
        names(world.exports.keys().collect()),
    )
}
