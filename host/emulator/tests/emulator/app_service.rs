//! App Service: what it answers, what it refuses, whose token it gives.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::client::{app_service, app_service_target, get, header_secret, try_send};
use crate::{Has, VAULT, emulator, emulator_with, machine};

#[tokio::test]
async fn a_token_reply_has_exactly_the_documented_members_and_all_of_them_are_strings() {
    let emulator = emulator();
    let answer = app_service(&emulator, VAULT, "").await;
    assert_eq!(answer.status, 200);
    let Value::Object(body) = answer.json() else {
        panic!("the body is an object")
    };
    let names: BTreeSet<_> = body.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        BTreeSet::from(["access_token", "client_id", "expires_on", "resource", "token_type"])
    );
    assert!(body.values().all(Value::is_string), "{body:?}");
    assert!(body["expires_on"].as_str().unwrap().parse::<i64>().is_ok());
    assert_eq!(body["resource"], VAULT);
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(
        body["client_id"],
        emulator.identities().system_assigned.as_ref().unwrap().client_id
    );
}

#[tokio::test]
async fn a_wrong_or_missing_secret_is_unauthorized() {
    let emulator = emulator();
    let secret = header_secret(&emulator);
    let longer = format!("{secret}0");
    for headers in [
        vec![],
        vec![("x-identity-header", "")],
        vec![("x-identity-header", "guess")],
        vec![("x-identity-header", &secret[1..])],
        vec![("x-identity-header", longer.as_str())],
        // Headers of the 2017 protocol and of IMDS do not open this one.
        vec![("secret", secret.as_str())],
        vec![("metadata", "true")],
    ] {
        let answer = get(&emulator, &app_service_target(VAULT, ""), &headers).await;
        assert_eq!(answer.status, 401, "{headers:?}");
        assert_refusal(
            &answer.json(),
            401,
            "The X-IDENTITY-HEADER header is missing or not valid.",
        );
    }
}

#[tokio::test]
async fn every_malformed_request_is_refused_as_documented() {
    let emulator = emulator();
    let secret = header_secret(&emulator);
    let ok = app_service_target(VAULT, "");
    let system = emulator
        .identities()
        .system_assigned
        .as_ref()
        .unwrap()
        .client_id
        .clone();
    let not_assigned =
        "No User Assigned or Delegated Managed Identity found for specified ClientId/ResourceId/PrincipalId.";
    let two_selectors = "Only one of client_id, principal_id, object_id and mi_res_id may be specified.";
    let no_resource = "Required query parameter 'resource' is missing.";
    for (target, message) in [
        (
            format!("/msi/token?resource={VAULT}"),
            "An API version is required, but was not specified.",
        ),
        (
            format!("/msi/token?api-version=2017-09-01&resource={VAULT}"),
            "The API version '2017-09-01' is not supported.",
        ),
        ("/msi/token?api-version=2019-08-01".to_owned(), no_resource),
        ("/msi/token?api-version=2019-08-01&resource=".to_owned(), no_resource),
        (
            format!("{ok}&resource=https://b.example"),
            "Query parameter 'resource' is specified more than once.",
        ),
        (
            format!("{ok}&client_id=00000000-0000-4000-8000-000000000000"),
            not_assigned,
        ),
        (format!("{ok}&principal_id=nobody"), not_assigned),
        (format!("{ok}&object_id="), not_assigned),
        (format!("{ok}&mi_res_id=%2Fsubscriptions%2Fnone"), not_assigned),
        // A selector means a user-assigned identity.
        (format!("{ok}&client_id={system}"), not_assigned),
        (format!("{ok}&client_id=a&mi_res_id=b"), two_selectors),
        (format!("{ok}&principal_id=a&object_id=a"), two_selectors),
    ] {
        let answer = get(&emulator, &target, &[("x-identity-header", &secret)]).await;
        assert_eq!(answer.status, 400, "{target}");
        assert_refusal(&answer.json(), 400, message);
    }
}

#[tokio::test]
async fn an_unknown_resource_is_an_unexpected_error() {
    let emulator = emulator();
    let answer = app_service(&emulator, "https://not-registered.example", "").await;
    assert_eq!(answer.status, 500);
    assert_refusal(
        &answer.json(),
        500,
        "An unexpected error occured while fetching the AAD Token.",
    );
}

#[tokio::test]
async fn only_get_is_allowed() {
    let emulator = emulator();
    let secret = header_secret(&emulator);
    for method in ["POST", "PUT", "HEAD"] {
        let headers = [("x-identity-header", secret.as_str())];
        let answer = try_send(&emulator, method, &app_service_target(VAULT, ""), &headers, "")
            .await
            .unwrap();
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")), "{method}");
    }
}

#[tokio::test]
async fn a_request_gets_the_identity_it_names() {
    let emulator = emulator();
    let identities = emulator.identities();
    let (system, user) = (
        identities.system_assigned.as_ref().unwrap(),
        &identities.user_assigned[1],
    );
    for (query, client_id) in [
        (String::new(), &system.client_id),
        (format!("&client_id={}", user.client_id), &user.client_id),
        (
            format!("&principal_id={}", user.object_id.to_uppercase()),
            &user.client_id,
        ),
        (format!("&object_id={}", user.object_id), &user.client_id),
        (format!("&mi_res_id={}", user.resource_id), &user.client_id),
        // The name that IMDS uses is ignored here.
        (format!("&msi_res_id={}", user.resource_id), &system.client_id),
    ] {
        let answer = app_service(&emulator, VAULT, &query).await;
        assert_eq!(
            (answer.status, &answer.json()["client_id"]),
            (200, &json!(client_id)),
            "{query}"
        );
    }
}

#[tokio::test]
async fn no_user_assigned_identity_takes_the_place_of_a_missing_system_assigned_one() {
    for users in 0..=2 {
        let emulator = emulator_with(machine(Has { system: false, users }));
        let answer = app_service(&emulator, VAULT, "").await;
        assert_eq!(answer.status, 400, "{users}");
        assert_refusal(
            &answer.json(),
            400,
            "No Managed Identity found for specified ClientId/ResourceId/PrincipalId.",
        );
    }
}

#[track_caller]
fn assert_refusal(body: &Value, status: u16, message: &str) {
    let correlation_id = body["correlationId"].as_str().unwrap();
    assert_eq!(correlation_id.len(), 36, "{body}");
    assert_eq!(
        body,
        &json!({"statusCode": status, "message": message, "correlationId": correlation_id})
    );
}
