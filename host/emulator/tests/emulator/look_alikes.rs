//! The workload-identity proxy and NMI, which look like IMDS and are not.

use managed_identity_emulator::http::{HeaderName, HeaderValue, StatusCode};
use managed_identity_emulator::{Emulator, Fault, Source};
use serde_json::{Value, json};

use crate::client::{Answer, get, imds, path_of};
use crate::{Has, VAULT, emulator, emulator_with, machine};

async fn ask(emulator: &Emulator, source: Source, query: &str, headers: &[(&str, &str)]) -> Answer {
    let host = emulator
        .environment_for(source)
        .remove("AZURE_POD_IDENTITY_AUTHORITY_HOST")
        .unwrap();
    let target = format!("{}/metadata/identity/oauth2/token?{query}", path_of(&host));
    get(emulator, &target, headers).await
}

fn text(answer: &Answer) -> (u16, String) {
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    (answer.status, String::from_utf8(answer.body.clone()).unwrap())
}

#[tokio::test]
async fn the_proxy_wants_no_header_and_understands_client_id_alone() {
    let emulator = emulator();
    let users = &emulator.identities().user_assigned;
    for (query, identity) in [
        (String::new(), &users[0]),
        (format!("&client_id={}", users[1].client_id), &users[1]),
        (format!("&object_id={}", users[1].object_id), &users[0]),
        (format!("&msi_res_id={}", users[1].resource_id), &users[0]),
    ] {
        let query = format!("resource={VAULT}{query}");
        let answer = ask(&emulator, Source::WorkloadIdentityProxy, &query, &[]).await;
        assert_eq!(answer.status, 200, "{query}");
        let body = answer.json();
        assert_eq!(body["expires_in"], 86_390, "ten seconds less");
        assert!(body["expires_on"].is_string());
        assert_eq!(crate::tokens::claims(&body)["appid"], identity.client_id, "{query}");
    }
}

#[tokio::test]
async fn the_proxy_refuses_in_text() {
    let emulator = emulator();
    for (query, code) in [
        (format!("resource={VAULT}&client_id=nobody"), "AADSTS700016"),
        ("resource=https://unknown.example".to_owned(), "AADSTS500011"),
        (String::new(), "AADSTS500011"),
    ] {
        let (status, message) = text(&ask(&emulator, Source::WorkloadIdentityProxy, &query, &[]).await);
        assert!(status == 500 && message.contains(code), "{query}: {status} {message}");
    }
}

#[tokio::test]
async fn nmi_answers_with_an_array() {
    let emulator = emulator();
    let users = &emulator.identities().user_assigned;
    for (query, identity) in [
        (String::new(), &users[0]),
        (format!("&client_id={}", users[1].client_id), &users[1]),
        (format!("&msi_res_id={}", users[1].resource_id), &users[1]),
        (format!("&object_id={}", users[1].object_id), &users[0]),
    ] {
        let query = format!("resource={VAULT}{query}");
        let answer = ask(&emulator, Source::Nmi, &query, &[("metadata", "true")]).await;
        assert_eq!(answer.status, 200, "{query}");
        let body = answer.json();
        let [token] = body.as_array().unwrap().as_slice() else {
            panic!("{body}")
        };
        assert!(token.as_object().unwrap().values().all(Value::is_string), "{token}");
        assert_eq!(crate::tokens::claims(token)["appid"], identity.client_id, "{query}");
    }
}

#[tokio::test]
async fn nmi_refuses_what_is_not_bound_and_says_when_to_come_back() {
    let emulator = emulator();
    let metadata = [("metadata", "true")];
    let ok = format!("resource={VAULT}");
    let answer = ask(&emulator, Source::Nmi, &ok, &[]).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]),
        (400, &json!("invalid_request"))
    );
    let answer = ask(&emulator, Source::Nmi, &format!("{ok}&client_id=nobody"), &metadata).await;
    assert_eq!(text(&answer).0, 404);
    let answer = ask(&emulator, Source::Nmi, "resource=https://unknown.example", &metadata).await;
    let (status, message) = text(&answer);
    assert!(status == 403 && message.contains("AADSTS500011"), "{message}");
    let unbound = emulator_with(machine(Has { system: true, users: 0 }));
    assert_eq!(ask(&unbound, Source::Nmi, &ok, &metadata).await.status, 404);

    let retry_after = (HeaderName::from_static("retry-after"), HeaderValue::from_static("20"));
    emulator.add_fault(
        Fault::reply(StatusCode::SERVICE_UNAVAILABLE, "identity is being assigned")
            .header(retry_after.0, retry_after.1)
            .on(Source::Nmi)
            .times(1),
    );
    assert_eq!(imds(&emulator, VAULT, "").await.status, 200, "another source");
    let answer = ask(&emulator, Source::Nmi, &ok, &metadata).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("20")));
    assert_eq!(ask(&emulator, Source::Nmi, &ok, &metadata).await.status, 200);
}
