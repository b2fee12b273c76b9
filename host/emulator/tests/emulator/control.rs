//! The control endpoint.

use serde_json::{Value, json};

use crate::client::{app_service, control, get, header_secret, imds, try_send};
use crate::{VAULT, emulator};

#[tokio::test]
async fn faults_are_added_listed_replaced_and_removed() {
    let emulator = emulator();
    let throttled = json!({"protocol": "imds", "times": 2, "status": 429, "headers": {"retry-after": "1"}});
    assert_eq!(control(&emulator, "POST", "faults", &throttled).await.status, 204);
    assert_eq!(imds(&emulator, VAULT, "").await.status, 429);
    let mut left = throttled.clone();
    left["times"] = 1.into();
    assert_eq!(
        control(&emulator, "GET", "faults", &Value::Null).await.json(),
        json!([left])
    );

    let others = json!([{"status": 500, "times": 1}, {"status": 502, "body": {"error": "x"}}]);
    assert_eq!(control(&emulator, "PUT", "faults", &others).await.status, 204);
    let statuses = [
        imds(&emulator, VAULT, "").await.status,
        app_service(&emulator, VAULT, "").await.status,
    ];
    assert_eq!(statuses, [500, 502]);

    assert_eq!(control(&emulator, "DELETE", "faults", &Value::Null).await.status, 204);
    assert_eq!(
        control(&emulator, "GET", "faults", &Value::Null).await.json(),
        json!([])
    );
    assert_eq!(imds(&emulator, VAULT, "").await.status, 200);
}

#[tokio::test]
async fn settings_are_shown_and_patched() {
    let emulator = emulator();
    let patch = json!({"token_lifetime_seconds": 60, "expires_on": "number"});
    assert_eq!(control(&emulator, "PATCH", "config", &patch).await.status, 204);
    let shown = control(&emulator, "GET", "config", &Value::Null).await.json();
    assert_eq!(
        (&shown["token_lifetime_seconds"], &shown["expires_in"]),
        (&json!(60), &json!("documented"))
    );
    let reply = imds(&emulator, VAULT, "").await.json();
    assert!(
        reply["expires_on"].is_number() && reply["expires_in"] == "60",
        "{reply}"
    );
    assert_eq!(emulator.settings().token_lifetime_seconds, 60);
}

#[tokio::test]
async fn identities_are_shown_and_replaced() {
    let emulator = emulator();
    let mut identities = control(&emulator, "GET", "identities", &Value::Null).await.json();
    identities["system_assigned"] = Value::Null;
    assert_eq!(control(&emulator, "PUT", "identities", &identities).await.status, 204);
    let answer = imds(&emulator, VAULT, "").await;
    assert!(
        answer.json()["error_description"]
            .as_str()
            .unwrap()
            .starts_with("Multiple user assigned"),
        "{answer:?}"
    );

    identities["tenant_id"] = "contoso".into();
    let answer = control(&emulator, "PUT", "identities", &identities).await;
    assert!(
        answer.status == 400 && answer.json()["error"].as_str().unwrap().contains("contoso"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn requests_are_listed_without_secrets_and_cleared() {
    let emulator = emulator();
    let secret = header_secret(&emulator);
    app_service(&emulator, VAULT, "").await;
    get(&emulator, "/elsewhere?a=b", &[("authorization", "Bearer s3cret")]).await;
    let answer = control(&emulator, "GET", "requests", &Value::Null).await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(!text.contains(&secret) && !text.contains("s3cret"), "{text}");
    let listed = answer.json();
    assert_eq!(listed["max_in_flight"], 1);
    let [token, other] = listed["requests"].as_array().unwrap().as_slice() else {
        panic!("{listed}")
    };
    assert_eq!(
        (
            &token["sequence"],
            &token["protocol"],
            &token["method"],
            &token["path"],
            &token["status"]
        ),
        (
            &json!(1),
            &json!("app-service"),
            &json!("GET"),
            &json!("/msi/token"),
            &json!(200)
        )
    );
    assert!(
        token["query"]
            .as_str()
            .unwrap()
            .contains("resource=https%3A%2F%2Fvault.azure.net"),
        "{token}"
    );
    assert!(
        token["headers"]
            .as_array()
            .unwrap()
            .contains(&json!(["x-identity-header", "[redacted]"])),
        "{token}"
    );
    assert_eq!(
        (&other["protocol"], &other["path"], &other["query"], &other["status"]),
        (&Value::Null, &json!("/elsewhere"), &json!("a=b"), &json!(404))
    );

    assert_eq!(control(&emulator, "DELETE", "requests", &Value::Null).await.status, 204);
    let listed = control(&emulator, "GET", "requests", &Value::Null).await.json();
    assert_eq!(listed, json!({"requests": [], "max_in_flight": 0}));
}

#[tokio::test]
async fn stats_count_token_requests_by_resource() {
    let emulator = emulator();
    for resource in [VAULT, VAULT, "https://storage.azure.com"] {
        imds(&emulator, resource, "").await;
    }
    get(&emulator, "/.well-known/openid-configuration", &[]).await;
    let stats = control(&emulator, "GET", "stats", &Value::Null).await.json();
    assert_eq!(
        stats,
        json!({
            "requests": 3,
            "per_resource": {"https://storage.azure.com": 1, "https://vault.azure.net": 2},
            "in_flight": 0,
            "max_in_flight": 1,
            "connections": 5,
        })
    );
}

#[tokio::test]
async fn mistakes_are_explained() {
    let emulator = emulator();
    for (method, path, body, status, named) in [
        ("POST", "faults", json!({"explode": true}), 400, "explode"),
        (
            "POST",
            "faults",
            json!({"hang": true, "close": true}),
            400,
            "at most one of",
        ),
        ("PUT", "faults", json!({"hang": true}), 400, "expected a sequence"),
        ("PATCH", "config", json!({"token_lifetime": 1}), 400, "token_lifetime"),
        ("PATCH", "faults", json!({}), 405, "GET, POST, PUT, DELETE"),
        ("PUT", "config", json!({}), 405, "GET, PATCH"),
        ("POST", "stats", json!({}), 405, "GET"),
        ("GET", "everything", Value::Null, 404, "/control/faults"),
    ] {
        let answer = control(&emulator, method, path, &body).await;
        assert_eq!(answer.status, status, "{method} {path} {body}");
        let message = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(message.contains(named), "{method} {path} {body}: {message}");
    }
    assert_eq!(
        control(&emulator, "GET", "faults", &Value::Null).await.json(),
        json!([])
    );
}

#[tokio::test]
async fn a_body_that_a_web_page_could_send_across_origins_is_refused() {
    let emulator = emulator();
    for headers in [
        vec![],
        vec![("content-type", "text/plain")],
        vec![("content-type", "application/json-patch")],
    ] {
        let answer = try_send(&emulator, "POST", "/control/faults", &headers, r#"{"hang":true}"#)
            .await
            .unwrap();
        assert_eq!(answer.status, 415, "{headers:?}");
    }
    let headers = [("content-type", "application/json; charset=utf-8")];
    let answer = try_send(&emulator, "POST", "/control/faults", &headers, r#"{"times":0}"#)
        .await
        .unwrap();
    assert_eq!(answer.status, 204);
}

#[tokio::test]
async fn an_oversized_body_is_refused() {
    let emulator = emulator();
    let answer = control(
        &emulator,
        "POST",
        "faults",
        &json!({"body": "x".repeat(3 * 1024 * 1024)}),
    )
    .await;
    assert_eq!(answer.status, 400);
}
