//! Service Fabric: TLS with a certificate known by its thumbprint, and tokens that can be revoked.

use managed_identity_emulator::{Emulator, EmulatorConfig, Source};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::client::{Answer, get, names, path_of, try_send_tls};
use crate::{Has, VAULT, emulator, emulator_with, machine, started};

fn target(emulator: &Emulator, query: &str) -> String {
    let endpoint = emulator
        .environment_for(Source::ServiceFabric)
        .remove("IDENTITY_ENDPOINT")
        .unwrap();
    assert!(endpoint.starts_with("https://127.0.0.1:"), "{endpoint}");
    format!("{}?{query}", path_of(&endpoint))
}

async fn send(emulator: &Emulator, method: &str, query: &str, headers: &[(&str, &str)]) -> Answer {
    let target = target(emulator, query);
    try_send_tls(emulator, "127.0.0.1", method, &target, headers, "")
        .await
        .unwrap()
}

async fn ask(emulator: &Emulator, query: &str) -> Answer {
    let secret = emulator
        .environment_for(Source::ServiceFabric)
        .remove("IDENTITY_HEADER")
        .unwrap();
    send(emulator, "GET", query, &[("secret", &secret)]).await
}

fn ok() -> String {
    format!("api-version=2019-07-01-preview&resource={VAULT}")
}

#[tokio::test]
async fn a_token_comes_over_tls_and_its_expiry_is_a_number() {
    let emulator = emulator();
    let environment = emulator.environment_for(Source::ServiceFabric);
    assert_eq!(
        environment["IDENTITY_SERVER_THUMBPRINT"],
        emulator.certificate().unwrap().thumbprint()
    );
    for version in ["2019-07-01-preview", "2020-05-01"] {
        let answer = ask(&emulator, &format!("api-version={version}&resource={VAULT}")).await;
        assert_eq!(answer.status, 200, "{version}");
        let body = answer.json();
        let names = names(&body);
        assert_eq!(names, ["access_token", "expires_on", "resource", "token_type"]);
        assert!(body["expires_on"].is_number());
        assert_eq!(crate::tokens::claims(&body).get("xms_cc"), None);
    }
    assert_eq!(emulator.requests()[0].protocol, Some(Source::ServiceFabric));
    assert_eq!(emulator.requests()[0].header("secret"), Some("[redacted]"));
}

#[tokio::test]
async fn every_malformed_request_is_refused() {
    let emulator = emulator();
    for (query, status, code) in [
        (format!("resource={VAULT}"), 400, "InvalidApiVersion"),
        (
            format!("api-version=2018-02-01&resource={VAULT}"),
            400,
            "InvalidApiVersion",
        ),
        ("api-version=2020-05-01".to_owned(), 400, "ArgumentNullOrEmpty"),
        (
            "api-version=2020-05-01&resource=".to_owned(),
            400,
            "ArgumentNullOrEmpty",
        ),
        (
            "api-version=2020-05-01&resource=https://unknown.example".to_owned(),
            500,
            "InternalServerError",
        ),
    ] {
        assert_refusal(&ask(&emulator, &query).await, status, code);
    }
    assert_refusal(&send(&emulator, "GET", &ok(), &[]).await, 400, "SecretHeaderNotFound");
    let wrong = [("secret", "guess")];
    assert_refusal(&send(&emulator, "GET", &ok(), &wrong).await, 401, "SecretHeaderInvalid");
    assert_refusal(&send(&emulator, "POST", &ok(), &[]).await, 405, "MethodNotAllowed");

    let nobody = emulator_with(machine(Has {
        system: false,
        users: 0,
    }));
    assert_refusal(&ask(&nobody, &ok()).await, 404, "ManagedIdentityNotFound");
    assert_eq!(
        get(&emulator, &target(&emulator, &ok()), &[]).await.status,
        400,
        "not without TLS"
    );
}

#[tokio::test]
async fn a_revoked_token_is_not_given_out_again() {
    let emulator = emulator();
    emulator.configure(|settings| settings.repeat_tokens = true);
    let token = |answer: Answer| answer.json()["access_token"].as_str().unwrap().to_owned();
    let first = token(ask(&emulator, &format!("{}&xms_cc=cp1", ok())).await);
    assert_eq!(token(ask(&emulator, &format!("{}&xms_cc=cp1", ok())).await), first);
    let hash: String = Sha256::digest(&first)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let revoking = format!("{}&xms_cc=cp1&token_sha256_to_refresh={hash}", ok());
    let second = token(ask(&emulator, &revoking).await);
    assert_ne!(second, first);
    // The hash is of the first token still, so the second remains.
    assert_eq!(token(ask(&emulator, &revoking).await), second);
    assert_eq!(token(ask(&emulator, &format!("{}&xms_cc=cp1", ok())).await), second);
    let claims = crate::tokens::claims(&json!({"access_token": second}));
    assert_eq!(claims["xms_cc"], json!(["cp1"]));
}

#[tokio::test]
async fn without_tls_there_is_no_service_fabric() {
    let emulator = started(EmulatorConfig {
        tls: false,
        ..EmulatorConfig::default()
    });
    assert!(!emulator.offers(Source::ServiceFabric) && emulator.offers(Source::AzureArc));
    assert!(emulator.environment_for(Source::ServiceFabric).is_empty());
    assert_eq!((emulator.tls_base_url(), emulator.tls_listening()), (None, None));
}

#[tokio::test]
async fn a_client_that_expects_another_server_sends_no_request() {
    let emulator = emulator();
    let target = target(&emulator, &ok());
    let answer = try_send_tls(&emulator, "attacker.example", "GET", &target, &[], "").await;
    assert!(answer.is_none() && emulator.requests().is_empty());
}

#[track_caller]
fn assert_refusal(answer: &Answer, status: u16, code: &str) {
    let body = answer.json();
    let error = &body["error"];
    let names = names(&body["error"]);
    assert_eq!(names, ["code", "correlationId", "message"]);
    assert_eq!((answer.status, &error["code"]), (status, &json!(code)));
}
