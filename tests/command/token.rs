//! `token`, against an emulated platform: what a success prints.

use crate::support::emulated::Emulated;
use crate::support::program::{finish, keys, run};
use crate::{VAULT, WASI, token_arguments};
use managed_identity_emulator::Source;
use managed_identity_host::{EMBEDDED_0_2, EMBEDDED_0_3, claims};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

const SYSTEM: &str = "50000000-0000-4000-8000-0000000000c1";
const SOURCES: [(Source, &str); 2] = [(Source::Imds, "imds"), (Source::AppService, "app-service")];

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn json_has_all_that_is_known_and_nothing_else() {
    let emulated = Emulated::start();
    for (source, name) in SOURCES {
        for wasi in WASI {
            let before = now();
            let json = run(emulated.environment_for(source), &token_arguments(wasi, &[])).json();
            assert_eq!(
                keys(&json),
                [
                    "access_token",
                    "token_type",
                    "expires_on",
                    "refresh_on",
                    "resource",
                    "client_id",
                    "source",
                    "stale"
                ]
            );
            let claims = claims::decode(json["access_token"].as_str().unwrap()).unwrap();
            assert_eq!(claims.audiences, [VAULT]);
            assert_eq!(json["token_type"], "Bearer");
            assert_eq!(json["resource"], VAULT);
            assert_eq!(json["client_id"], SYSTEM);
            assert_eq!(json["source"], name);
            assert_eq!(json["stale"], false);
            let expires_on = json["expires_on"].as_u64().unwrap();
            let refresh_on = json["refresh_on"].as_u64().unwrap();
            assert!((before + 86_000..before + 86_800).contains(&expires_on), "{json}");
            assert!(before < refresh_on && refresh_on < expires_on, "{json}");
        }
    }
}

#[test]
fn text_is_the_token_and_header_is_ready_for_curl() {
    let emulated = Emulated::start();
    for wasi in WASI {
        for (output, prefix) in [("text", ""), ("header", "Authorization: Bearer ")] {
            let arguments = ["token", "--resource", VAULT, "--wasi", wasi, "--output", output];
            let outcome = run(emulated.environment_for(Source::AppService), &arguments);
            let token = outcome.success().strip_prefix(prefix).unwrap();
            assert_eq!(claims::decode(token).unwrap().audiences, [VAULT]);
        }
        let outcome = run(
            emulated.environment_for(Source::Imds),
            &["token", "--resource", VAULT, "--wasi", wasi],
        );
        assert!(claims::decode(outcome.success()).is_ok(), "text is the default");
    }
}

#[test]
fn a_scope_and_its_resource_are_the_same_audience() {
    let emulated = Emulated::start();
    for wasi in WASI {
        let scope = format!("{VAULT}/.default");
        let arguments = ["token", "--scope", &scope, "--output", "json", "--wasi", wasi];
        let json = run(emulated.environment_for(Source::AppService), &arguments).json();
        assert_eq!(json["resource"], VAULT);
    }
    for request in emulated.requests() {
        assert_eq!(request.parameter("resource").as_deref(), Some(VAULT));
    }
}

#[test]
fn the_token_is_that_of_the_identity_that_was_chosen() {
    let emulated = Emulated::start();
    let identity = &emulated.identities().user_assigned[1];
    for (source, _) in SOURCES {
        for wasi in WASI {
            for (option, id) in [
                ("--client-id", identity.client_id.to_uppercase()),
                ("--object-id", identity.object_id.clone()),
                ("--resource-id", identity.resource_id.clone()),
            ] {
                let outcome = run(emulated.environment_for(source), &token_arguments(wasi, &[option, &id]));
                let json = outcome.json();
                let claims = claims::decode(json["access_token"].as_str().unwrap()).unwrap();
                assert_eq!(json["client_id"], identity.client_id.as_str(), "{source:?} {option}");
                assert_eq!(
                    claims.object_id,
                    Some(identity.object_id.clone()),
                    "{source:?} {option}"
                );
            }
        }
    }
}

#[test]
fn a_claims_challenge_is_taken_as_json_and_as_base64() {
    let emulated = Emulated::start();
    for wasi in WASI {
        for (claims, good) in [
            (r#"{"access_token":{"nbf":{"essential":true}}}"#, true),
            ("eyJhY2Nlc3NfdG9rZW4iOnt9fQ==", true),
            ("nonsense", false),
            ("", false),
        ] {
            let outcome = run(
                emulated.environment_for(Source::AppService),
                &token_arguments(wasi, &["--claims", claims]),
            );
            match good {
                true => drop(outcome.json()),
                false => assert_eq!(outcome.cause(), "invalid-request", "{claims}"),
            }
        }
    }
}

#[test]
fn another_provider_can_be_given_as_a_file() {
    let emulated = Emulated::start();
    let folder = concat!(env!("CARGO_TARGET_TMPDIR"), "/providers");
    std::fs::create_dir_all(folder).unwrap();
    for (name, bytes, good) in [
        ("0.2", EMBEDDED_0_2, true),
        ("0.3", EMBEDDED_0_3, true),
        ("none", b"not a component".as_slice(), false),
        ("empty", b"\0asm\x0d\0\x01\0".as_slice(), false),
    ] {
        let file = format!("{folder}/{name}.wasm");
        std::fs::write(&file, bytes).unwrap();
        let arguments = ["token", "--resource", VAULT, "--output", "json", "--provider", &file];
        let outcome = run(emulated.environment_for(Source::AppService), &arguments);
        match good {
            true => assert_eq!(outcome.json()["source"], "app-service"),
            false => assert_eq!(outcome.cause(), "internal"),
        }
    }
    let missing = format!("{folder}/missing.wasm");
    let arguments = ["token", "--resource", VAULT, "--output", "json", "--provider", &missing];
    let error = run(emulated.environment_for(Source::AppService), &arguments).error();
    assert!(error["message"].as_str().unwrap().contains(&missing), "{error}");
}

#[test]
fn what_json_prints_can_be_piped_into_inspect() {
    let emulated = Emulated::start();
    let token = run(emulated.environment_for(Source::Imds), &token_arguments("0.3", &[]));
    let inspect = crate::support::program::command::<&str, &str>([], &["inspect", "--output", "json"]);
    let inspected: Value = finish(inspect, &token.stdout).json();
    assert_eq!(inspected["claims"]["aud"], json!(VAULT));
    assert_eq!(inspected["claims"]["appid"], json!(SYSTEM));
}
