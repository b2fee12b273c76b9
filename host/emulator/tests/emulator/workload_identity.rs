//! Workload identity and identity bindings: what Entra takes for a federated token, and what it says otherwise.

use managed_identity_emulator::{Emulator, EmulatorConfig, Source};
use serde_json::{Value, json};

use crate::client::{encoded, names, path_of, post_tls, try_send, try_send_tls};
use crate::{Scratch, VAULT, emulator, signing_key, started};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

fn federated(directory: &Scratch) -> Emulator {
    started(EmulatorConfig {
        federated_token_file: Some(directory.0.join("token")),
        ..EmulatorConfig::default()
    })
}

fn target(emulator: &Emulator, source: Source) -> String {
    let environment = emulator.environment_for(source);
    let base = match source {
        Source::IdentityBindings => &environment["AZURE_KUBERNETES_TOKEN_PROXY"],
        _ => &environment["AZURE_AUTHORITY_HOST"],
    };
    let url = format!("{base}/{}/oauth2/v2.0/token", environment["AZURE_TENANT_ID"]);
    path_of(&url).to_owned()
}

fn assertion(emulator: &Emulator) -> String {
    let file = emulator
        .environment_for(Source::WorkloadIdentity)
        .remove("AZURE_FEDERATED_TOKEN_FILE");
    std::fs::read_to_string(file.unwrap()).unwrap()
}

/// A complete request, member by member.
fn members(emulator: &Emulator) -> Vec<(&'static str, String)> {
    vec![
        ("client_id", emulator.identities().user_assigned[0].client_id.clone()),
        ("client_assertion", assertion(emulator)),
        ("client_assertion_type", ASSERTION_TYPE.to_owned()),
        ("grant_type", "client_credentials".to_owned()),
        ("scope", format!("{VAULT}/.default")),
    ]
}

fn form(members: &[(&str, String)]) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    members.join("&")
}

#[tokio::test]
async fn the_federated_token_is_exchanged() {
    let directory = Scratch::new("wi-exchange");
    let emulator = federated(&directory);
    let answer = post_tls(
        &emulator,
        "localhost",
        &target(&emulator, Source::WorkloadIdentity),
        &form(&members(&emulator)),
    )
    .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    let names = names(&body);
    assert_eq!(names, ["access_token", "expires_in", "ext_expires_in", "token_type"]);
    assert_eq!(
        (&body["expires_in"], &body["token_type"]),
        (&json!(86_400), &json!("Bearer"))
    );
    let claims = crate::tokens::claims(&body);
    assert_eq!(claims["aud"], VAULT);
    assert_eq!(claims["appid"], emulator.identities().user_assigned[0].client_id);
    let record = &emulator.requests()[0];
    assert_eq!(record.protocol, Some(Source::WorkloadIdentity));
    assert_eq!(record.parameter("client_assertion").as_deref(), Some("[redacted]"));
    assert_eq!(emulator.stats().per_resource[VAULT], 1, "the scope's resource");
}

#[tokio::test]
async fn the_trailing_slash_of_a_resource_is_kept() {
    let directory = Scratch::new("wi-slash");
    let emulator = federated(&directory);
    let mut members = members(&emulator);
    members[4].1 = format!("{VAULT}//.default");
    let target = target(&emulator, Source::WorkloadIdentity);
    let answer = post_tls(&emulator, "127.0.0.1", &target, &form(&members)).await;
    assert_eq!(crate::tokens::claims(&answer.json())["aud"], format!("{VAULT}/"));
}

#[tokio::test]
async fn entra_refuses_by_number() {
    let directory = Scratch::new("wi-refusals");
    let emulator = federated(&directory);
    let issuer = crate::tokens::claims(&json!({"access_token": assertion(&emulator)}))["iss"].clone();
    let good = json!({
        "iss": issuer, "sub": "system:serviceaccount:default:emulator", "aud": ["api://AzureADTokenExchange"],
        "exp": 4_000_000_000_i64, "nbf": 0,
    });
    let signed = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        signing_key().sign(&claims).unwrap()
    };
    let mut forged = signed("nbf", json!(0));
    let last = if forged.pop() == Some('A') { 'Q' } else { 'A' };
    forged.push(last);
    let system = emulator.identities().system_assigned.clone().unwrap().client_id;
    for (name, value, status, code, error) in [
        (
            "client_assertion",
            signed("iss", json!("https://other.example")),
            400,
            70_021,
            "invalid_request",
        ),
        (
            "client_assertion",
            signed("sub", json!("system:serviceaccount:a:b")),
            401,
            700_213,
            "invalid_client",
        ),
        (
            "client_assertion",
            signed("aud", json!("api://other")),
            401,
            700_212,
            "invalid_client",
        ),
        (
            "client_assertion",
            signed("exp", json!(1_000_000_000)),
            401,
            700_024,
            "invalid_client",
        ),
        (
            "client_assertion",
            signed("nbf", json!(3_999_999_999_i64)),
            401,
            700_024,
            "invalid_client",
        ),
        ("client_assertion", forged, 401, 700_027, "invalid_client"),
        ("client_assertion", "nonsense".to_owned(), 401, 50_027, "invalid_client"),
        ("client_assertion", String::new(), 401, 7_000_218, "invalid_client"),
        (
            "client_assertion_type",
            "password".to_owned(),
            400,
            50_012,
            "invalid_request",
        ),
        (
            "client_id",
            "00000000-0000-4000-8000-000000000000".to_owned(),
            400,
            700_016,
            "unauthorized_client",
        ),
        // A system-assigned identity cannot have federated credentials.
        ("client_id", system, 400, 700_016, "unauthorized_client"),
        ("client_id", String::new(), 400, 900_144, "invalid_request"),
        (
            "grant_type",
            "password".to_owned(),
            400,
            70_003,
            "unsupported_grant_type",
        ),
        ("scope", VAULT.to_owned(), 400, 70_011, "invalid_scope"),
        ("scope", format!("a {VAULT}/.default"), 400, 70_011, "invalid_scope"),
        (
            "scope",
            "https://unknown.example/.default".to_owned(),
            400,
            500_011,
            "invalid_resource",
        ),
    ] {
        let mut members = members(&emulator);
        for member in &mut members {
            if member.0 == name {
                member.1.clone_from(&value);
            }
        }
        let target = target(&emulator, Source::WorkloadIdentity);
        let answer = post_tls(&emulator, "127.0.0.1", &target, &form(&members)).await;
        assert_refusal(&answer.json(), code, error);
        assert_eq!(answer.status, status, "{code}");
    }

    let mut members = members(&emulator);
    members[1] = ("client_secret", "guess".to_owned());
    let path = target(&emulator, Source::WorkloadIdentity);
    let answer = post_tls(&emulator, "127.0.0.1", &path, &form(&members)).await;
    assert_refusal(&answer.json(), 7_000_215, "invalid_client");
    let other = "/11111111-0000-4000-8000-000000000001/oauth2/v2.0/token";
    let answer = post_tls(&emulator, "127.0.0.1", other, &form(&members)).await;
    assert_refusal(&answer.json(), 90_002, "invalid_request");
    let answer = try_send_tls(&emulator, "127.0.0.1", "GET", &path, &[], "")
        .await
        .unwrap();
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    let answer = try_send(&emulator, "POST", &path, &[crate::client::FORM], &form(&members))
        .await
        .unwrap();
    assert_eq!(answer.status, 400, "not without TLS");
}

#[track_caller]
fn assert_refusal(body: &Value, code: u32, error: &str) {
    assert_eq!(
        (&body["error_codes"], &body["error"]),
        (&json!([code]), &json!(error)),
        "{body}"
    );
    let description = body["error_description"].as_str().unwrap();
    assert!(description.starts_with(&format!("AADSTS{code}: ")), "{description}");
    for name in ["trace_id", "correlation_id", "timestamp"] {
        let value = body[name].as_str().unwrap();
        assert!(description.contains(value), "{name} {value} in {description}");
    }
}

#[tokio::test]
async fn the_token_proxy_insists_on_its_name() {
    let directory = Scratch::new("wi-bindings");
    let emulator = federated(&directory);
    let environment = emulator.environment_for(Source::IdentityBindings);
    assert_eq!(environment["MANAGED_IDENTITY_USE_TOKEN_PROXY"], "true");
    assert_eq!(
        environment["AZURE_KUBERNETES_CA_DATA"],
        emulator.certificate().unwrap().authority_pem()
    );
    let name = &environment["AZURE_KUBERNETES_SNI_NAME"];
    let target = target(&emulator, Source::IdentityBindings);
    let form = form(&members(&emulator));
    for (server_name, status) in [(name.as_str(), 200), ("localhost", 421), ("127.0.0.1", 421)] {
        let answer = post_tls(&emulator, server_name, &target, &form).await;
        assert_eq!(answer.status, status, "{server_name}");
    }
    assert_eq!(emulator.requests()[0].protocol, Some(Source::IdentityBindings));
}

#[tokio::test]
async fn the_file_follows_the_settings_and_is_removed_at_the_end() {
    let directory = Scratch::new("wi-file");
    for by_drop in [false, true] {
        let emulator = federated(&directory);
        let lifetime = |token: &str| {
            let claims = crate::tokens::claims(&json!({"access_token": token}));
            claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
        };
        assert_eq!(lifetime(&assertion(&emulator)), 3600);
        emulator.configure(|settings| settings.assertion_lifetime_seconds = -60);
        assert_eq!(lifetime(&assertion(&emulator)), -60);
        let path = target(&emulator, Source::WorkloadIdentity);
        let answer = post_tls(&emulator, "127.0.0.1", &path, &form(&members(&emulator))).await;
        assert_refusal(&answer.json(), 700_024, "invalid_client");
        std::fs::remove_file(directory.0.join("token")).unwrap();
        emulator.rotate_federated_token().unwrap();
        assert_eq!(directory.files(), 1);
        if by_drop {
            drop(emulator);
        } else {
            emulator.shutdown().await;
        }
        assert_eq!(directory.files(), 0, "{by_drop}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_file_is_replaced_before_it_is_outdated() {
    let directory = Scratch::new("wi-rotation");
    let emulator = federated(&directory);
    std::fs::remove_file(directory.0.join("token")).unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(2870)).await;
    assert_eq!(directory.files(), 0);
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    assert_eq!(directory.files(), 1);
    drop(emulator);
}

#[tokio::test]
async fn without_a_file_there_is_no_workload_identity() {
    let emulator = emulator();
    for source in [Source::WorkloadIdentity, Source::IdentityBindings] {
        assert!(!emulator.offers(source) && emulator.environment_for(source).is_empty());
    }
}
