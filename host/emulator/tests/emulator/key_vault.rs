//! The stand-in for Key Vault: which tokens it takes, and what it says to others.

use crate::client::{Answer, app_service, ask_plain_vault, ask_vault};
use crate::{VAULT, emulator, signing_key, started};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use managed_identity_emulator::key_vault::{Behaviour, Echo};
use managed_identity_emulator::{Emulator, EmulatorConfig, KeyVault, SigningKey};
use serde_json::{Value, json};
use tokio::net::TcpStream;

const GREETING: &str = "/secrets/greeting?api-version=7.4";

fn vault(emulator: &Emulator) -> KeyVault {
    emulator.start_key_vault([("greeting", "hello")]).unwrap()
}

async fn token(emulator: &Emulator, resource: &str) -> String {
    let reply = app_service(emulator, resource, "").await.json();
    reply["access_token"].as_str().unwrap().to_owned()
}

async fn ask(vault: &KeyVault, token: &str) -> Answer {
    ask_vault(vault, "GET", GREETING, &[("authorization", &format!("Bearer {token}"))]).await
}

/// The claims of a token, some of them changed, signed anew.
fn forged(token: &str, key: &SigningKey, changes: Value) -> String {
    let claims = token.split('.').nth(1).unwrap();
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    key.sign(&claims).unwrap()
}

#[tokio::test]
async fn a_good_token_opens_it() {
    let emulator = emulator();
    let vault = vault(&emulator);
    let token = token(&emulator, VAULT).await;
    let answer = ask(&vault, &token).await;
    assert_eq!(answer.status, 200);
    let body = answer.json();
    assert_eq!(body["value"], "hello");
    assert!(
        body["id"]
            .as_str()
            .unwrap()
            .starts_with(&format!("{}/secrets/greeting/", vault.base_url()))
    );
    let [request] = &vault.requests()[..] else {
        panic!("one request")
    };
    assert_eq!(
        (request.path.as_str(), request.status),
        ("/secrets/greeting", Some(200))
    );
    assert_eq!(request.header("authorization"), Some("[redacted]"));
    assert_eq!(vault.tokens(), 1);
    assert!(!format!("{vault:?}").contains("hello"));
}

#[tokio::test]
async fn other_tokens_are_refused_with_the_challenge_of_key_vault() {
    let emulator = emulator();
    let vault = vault(&emulator);
    let good = token(&emulator, VAULT).await;
    let (head, signature) = good.rsplit_once('.').unwrap();
    let unsigned = format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#),
        head.split_once('.').unwrap().1
    );
    let other_emulator = crate::emulator();
    let elsewhere = token(&other_emulator, VAULT).await;
    let key = signing_key();
    for (what, authorization) in [
        ("none", String::new()),
        ("another scheme", format!("Basic {good}")),
        ("no token", "Bearer ".to_owned()),
        ("garbage", "Bearer a.b.c".to_owned()),
        (
            "another audience",
            format!("Bearer {}", token(&emulator, "https://storage.azure.com").await),
        ),
        ("another issuer", format!("Bearer {elsewhere}")),
        (
            "another key",
            format!("Bearer {}", forged(&good, &SigningKey::generate().unwrap(), json!({}))),
        ),
        ("no signature", format!("Bearer {unsigned}")),
        (
            "another signature",
            format!("Bearer {head}.{}", signature.chars().rev().collect::<String>()),
        ),
        (
            "expired",
            format!("Bearer {}", forged(&good, &key, json!({"exp": 1_700_000_000}))),
        ),
        (
            "not yet valid",
            format!("Bearer {}", forged(&good, &key, json!({"nbf": 9_000_000_000_u64}))),
        ),
    ] {
        let answer = ask_vault(&vault, "GET", GREETING, &[("authorization", &authorization)]).await;
        assert_eq!(answer.status, 401, "{what}");
        assert_eq!(answer.json()["error"]["code"], "Unauthorized", "{what}");
        let tenant = &emulator.identities().tenant_id;
        let expected = format!(
            r#"Bearer authorization="{}/{tenant}", resource="https://vault.azure.net""#,
            emulator.tls_base_url().unwrap()
        );
        assert_eq!(answer.header("www-authenticate"), Some(expected.as_str()), "{what}");
    }
    assert_eq!(vault.tokens(), 0);
    // What was changed is what made the difference.
    assert_eq!(
        ask(&vault, &forged(&good, &key, json!({"roles": ["x"]}))).await.status,
        200
    );
}

#[tokio::test]
async fn what_is_asked_has_to_make_sense() {
    let emulator = emulator();
    let vault = vault(&emulator);
    let authorization = format!("Bearer {}", token(&emulator, VAULT).await);
    for (method, target, status, code) in [
        ("GET", "/secrets/greeting", 400, "BadParameter"),
        ("GET", "/secrets/greeting?api-version=", 400, "BadParameter"),
        ("GET", "/secrets/other?api-version=7.4", 404, "SecretNotFound"),
        ("GET", "/keys/greeting?api-version=7.4", 404, "NotFound"),
        ("PUT", GREETING, 405, "MethodNotAllowed"),
    ] {
        let answer = ask_vault(&vault, method, target, &[("authorization", &authorization)]).await;
        assert_eq!(answer.status, status, "{method} {target}");
        assert_eq!(answer.json()["error"]["code"], code, "{method} {target}");
    }
}

#[tokio::test]
async fn a_revoked_token_stays_revoked_and_the_next_is_taken() {
    let emulator = emulator();
    let vault = vault(&emulator);
    let claims = r#"{"access_token":{"nbf":{"essential":true}}}"#;
    vault.demand_claims(claims);
    let (first, second) = (token(&emulator, VAULT).await, token(&emulator, VAULT).await);
    for (token, status) in [(&first, 401), (&first, 401), (&second, 200), (&first, 401)] {
        let answer = ask(&vault, token).await;
        assert_eq!(answer.status, status);
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        let expected = format!(r#", error="insufficient_claims", claims="{}""#, STANDARD.encode(claims));
        assert_eq!(challenge.ends_with(&expected), status == 401, "{challenge}");
    }
    assert_eq!(vault.tokens(), 2);
}

#[tokio::test]
async fn it_does_wrong_what_it_is_told_to() {
    let emulator = emulator();
    let vault = vault(&emulator);
    let token = token(&emulator, VAULT).await;
    let behave = |redirect_to: Option<&str>, echo| {
        vault.behave(Behaviour {
            redirect_to: redirect_to.map(str::to_owned),
            echo,
            ..Behaviour::default()
        });
    };
    behave(Some("https://elsewhere.example/"), None);
    let answer = ask(&vault, &token).await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (302, Some("https://elsewhere.example/"))
    );
    behave(None, Some(Echo::Header));
    let answer = ask(&vault, &token).await;
    assert_eq!(
        answer.header("x-echoed-authorization"),
        Some(&*format!("Bearer {token}"))
    );
    behave(None, Some(Echo::Body));
    let answer = ask(&vault, &token).await;
    assert!(String::from_utf8(answer.body).unwrap().contains(&token));
    behave(None, Some(Echo::Chunks(100)));
    let answer = ask(&vault, &token).await;
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    let body = String::from_utf8(answer.body).unwrap();
    assert!(body.starts_with("64\r\n") && !body.contains(&token), "{body}");
    behave(None, None);
    assert_eq!(ask(&vault, &token).await.json()["value"], "hello");
}

#[tokio::test]
async fn it_is_the_same_vault_without_tls_once_it_is_told_to_be_there() {
    let emulator = emulator();
    let mut vault = vault(&emulator);
    let plain = vault.serve_plain().unwrap();
    let claims = r#"{"access_token":{"nbf":{"essential":true}}}"#;
    vault.demand_claims(claims);
    let (first, second) = (token(&emulator, VAULT).await, token(&emulator, VAULT).await);
    // What one port has been told, the other knows.
    assert_eq!(ask(&vault, &first).await.status, 401);
    for (token, status) in [(&first, 401), (&second, 200)] {
        let authorization = format!("Bearer {token}");
        let answer = ask_plain_vault(&plain, GREETING, &[("authorization", &authorization)]).await;
        assert_eq!(answer.status, status);
        if status == 200 {
            let body = answer.json();
            assert_eq!(body["value"], "hello");
            let id = body["id"].as_str().unwrap();
            assert!(id.starts_with(&format!("{plain}/secrets/greeting/")), "{id}");
        }
    }
    assert_eq!(ask(&vault, &second).await.status, 200);
    assert_eq!(ask_plain_vault(&plain, GREETING, &[]).await.status, 401);
    assert_eq!((vault.tokens(), vault.requests().len()), (2, 5));

    drop(vault);
    // The tasks end at the next moment at which they could have run.
    while TcpStream::connect(plain.strip_prefix("http://").unwrap()).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn whoever_trusts_the_platform_trusts_the_vault() {
    let emulator = emulator();
    let platform = emulator.certificate().unwrap();
    assert_eq!(vault(&emulator).certificate().authority_pem(), platform.authority_pem());
    // Where the platform has no certificate, the vault has one all the same.
    let emulator = started(EmulatorConfig {
        tls: false,
        ..EmulatorConfig::default()
    });
    let vault = vault(&emulator);
    let token = token(&emulator, VAULT).await;
    assert_eq!(ask(&vault, &token).await.status, 200);
}
