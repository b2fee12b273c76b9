//! Cloud Shell: a form, and nobody to choose.

use managed_identity_emulator::{Emulator, Source};
use serde_json::{Value, json};

use crate::client::{Answer, FORM, path_of, try_send};
use crate::{VAULT, emulator};

async fn ask(emulator: &Emulator, method: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let endpoint = emulator
        .environment_for(Source::CloudShell)
        .remove("MSI_ENDPOINT")
        .unwrap();
    try_send(emulator, method, path_of(&endpoint), headers, body)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_form_gets_a_token_and_all_members_of_the_reply_are_strings() {
    let emulator = emulator();
    let user = &emulator.identities().user_assigned[0].client_id;
    let form = format!("resource={VAULT}&client_id={user}");
    let answer = ask(&emulator, "POST", &[("metadata", "true"), FORM], &form).await;
    assert_eq!(answer.status, 200);
    let body = answer.json();
    let body = body.as_object().unwrap();
    assert!(body.values().all(Value::is_string), "{body:?}");
    assert_eq!(
        (&body["resource"], &body["expires_in"]),
        (&json!(VAULT), &json!("86400"))
    );
    let system = emulator.identities().system_assigned.clone().unwrap();
    let claims = crate::tokens::claims(&Value::Object(body.clone()));
    assert_eq!(claims["appid"], system.client_id, "there is no choice");
    let record = &emulator.requests()[0];
    assert_eq!(record.protocol, Some(Source::CloudShell));
    assert_eq!(record.parameter("resource").as_deref(), Some(VAULT));
    assert_eq!(emulator.stats().per_resource[VAULT], 1);
}

#[tokio::test]
async fn every_malformed_request_is_refused() {
    let emulator = emulator();
    let metadata = ("metadata", "true");
    let ok = format!("resource={VAULT}");
    for (method, headers, body, status, code) in [
        ("POST", vec![FORM], ok.as_str(), 400, "bad_request_102"),
        ("POST", vec![metadata], ok.as_str(), 400, "invalid_request"),
        ("POST", vec![metadata, FORM], "", 400, "invalid_request"),
        ("POST", vec![metadata, FORM], "resource=", 400, "invalid_request"),
        (
            "POST",
            vec![metadata, FORM],
            "resource=https://unknown.example",
            400,
            "AudienceNotSupported",
        ),
        ("GET", vec![metadata], "", 405, "MethodNotAllowed"),
    ] {
        let answer = ask(&emulator, method, &headers, body).await;
        let refusal = answer.json();
        assert_eq!(
            (answer.status, &refusal["error"]["code"]),
            (status, &json!(code)),
            "{method} {headers:?} {body}"
        );
        assert!(refusal["error"]["message"].is_string());
    }
}
