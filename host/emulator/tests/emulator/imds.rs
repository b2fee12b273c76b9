//! IMDS: what it answers, what it refuses, whose token it gives.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::client::{get, imds, imds_target, try_send};
use crate::{Has, VAULT, emulator, emulator_with, machine};

const TOKEN: &str = "/metadata/identity/oauth2/token";
const METADATA: (&str, &str) = ("metadata", "true");

#[tokio::test]
async fn a_token_reply_has_exactly_the_documented_members_and_all_of_them_are_strings() {
    let emulator = emulator();
    let answer = imds(&emulator, VAULT, "").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("server").unwrap().starts_with("IMDS/"));
    assert!(answer.header("date").unwrap().ends_with(" GMT"));
    let Value::Object(body) = answer.json() else {
        panic!("the body is an object")
    };
    let names: BTreeSet<_> = body.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        BTreeSet::from([
            "access_token",
            "client_id",
            "expires_in",
            "expires_on",
            "ext_expires_in",
            "not_before",
            "refresh_token",
            "resource",
            "token_type",
        ])
    );
    assert!(body.values().all(Value::is_string), "{body:?}");
    let number = |name: &str| body[name].as_str().unwrap().parse::<i64>().unwrap();
    assert_eq!((number("expires_in"), number("ext_expires_in")), (86_400, 86_400));
    assert_eq!(number("expires_on") - number("not_before"), 86_400 + 300);
    assert_eq!(body["resource"], VAULT);
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["refresh_token"], "");
    assert_eq!(
        body["client_id"],
        emulator.identities().system_assigned.as_ref().unwrap().client_id
    );
}

#[tokio::test]
async fn every_malformed_request_is_refused_as_documented() {
    let emulator = emulator();
    let ok = imds_target(VAULT, "");
    let api = "api-version=2018-02-01";
    let invalid = |description: &str| json!({"error": "invalid_request", "error_description": description});
    let no_header = invalid("Required metadata header not specified");
    let no_resource = invalid("Required query variable 'resource' is missing");
    let not_found = invalid("Identity not found");
    let two_selectors = invalid("Only one of client_id, object_id and msi_res_id may be specified");
    let duplicate = |name: &str| invalid(&format!("Query variable '{name}' is specified more than once"));
    for (target, headers, refusal) in [
        (ok.clone(), vec![], no_header.clone()),
        (ok.clone(), vec![("metadata", "false")], no_header.clone()),
        (ok.clone(), vec![("metadata", "")], no_header),
        (
            ok.clone(),
            vec![METADATA, ("x-forwarded-for", "10.0.0.1")],
            invalid("Request contains an X-Forwarded-For header, which is not allowed"),
        ),
        (
            format!("{ok}&resource=https://b.example"),
            vec![METADATA],
            duplicate("resource"),
        ),
        (
            format!("{ok}&API-Version=2018-02-01"),
            vec![METADATA],
            duplicate("API-Version"),
        ),
        (format!("{ok}&x=1&x=2"), vec![METADATA], duplicate("x")),
        (format!("{TOKEN}?{api}"), vec![METADATA], no_resource.clone()),
        (format!("{TOKEN}?{api}&resource="), vec![METADATA], no_resource),
        (
            format!("{ok}&client_id=00000000-0000-4000-8000-000000000000"),
            vec![METADATA],
            not_found.clone(),
        ),
        (format!("{ok}&object_id=nobody"), vec![METADATA], not_found.clone()),
        (
            format!("{ok}&msi_res_id=%2Fsubscriptions%2Fnone"),
            vec![METADATA],
            not_found.clone(),
        ),
        (format!("{ok}&client_id="), vec![METADATA], not_found),
        (format!("{ok}&client_id=a&object_id=b"), vec![METADATA], two_selectors),
    ] {
        let answer = get(&emulator, &target, &headers).await;
        assert_eq!((answer.status, answer.json()), (400, refusal), "{target} {headers:?}");
    }
}

#[tokio::test]
async fn documented_api_versions_are_served_and_others_are_told_the_newest() {
    let emulator = emulator();
    for version in [
        "2018-02-01",
        "2019-08-01",
        "2019-11-01",
        "2020-06-01",
        "2021-02-01",
        "2021-12-13",
    ] {
        let target = format!("{TOKEN}?api-version={version}&resource={VAULT}");
        assert_eq!(get(&emulator, &target, &[METADATA]).await.status, 200, "{version}");
    }
    for (query, complaint) in [
        ("", "Bad request. api-version was not specified in the request."),
        (
            "api-version=&",
            "Bad request. api-version was not specified in the request.",
        ),
        (
            "api-version=2017-09-01&",
            "Bad request. api-version is invalid or was not specified in the request.",
        ),
        (
            "api-version=latest&",
            "Bad request. api-version is invalid or was not specified in the request.",
        ),
    ] {
        let answer = get(&emulator, &format!("{TOKEN}?{query}resource={VAULT}"), &[METADATA]).await;
        assert_eq!(answer.status, 400, "{query}");
        let body = answer.json();
        assert!(
            body["error"].as_str().unwrap().starts_with(complaint),
            "{query}: {body}"
        );
        assert_eq!(
            body["newest-versions"],
            json!(["2023-07-01", "2021-12-13", "2021-11-15"]),
            "{query}"
        );
    }
}

#[tokio::test]
async fn the_metadata_header_is_taken_in_any_case() {
    let emulator = emulator();
    for value in ["true", "True", "TRUE"] {
        assert_eq!(
            get(&emulator, &imds_target(VAULT, ""), &[("Metadata", value)])
                .await
                .status,
            200,
            "{value}"
        );
    }
}

#[tokio::test]
async fn unknown_resources_are_refused_in_the_words_of_entra() {
    let emulator = emulator();
    let tenant = emulator.identities().tenant_id.clone();
    for resource in [
        "https://unknown.example",
        "https://not-registered.example",
        "not a uri",
        "https://vault.azure.net/.default",
    ] {
        let answer = imds(&emulator, resource, "").await;
        let body = answer.json();
        assert_eq!(
            (answer.status, &body["error"]),
            (400, &json!("invalid_resource")),
            "{resource}"
        );
        let expected = format!(
            "AADSTS500011: The resource principal named {resource} was not found in the tenant named {tenant}."
        );
        assert!(
            body["error_description"].as_str().unwrap().starts_with(&expected),
            "{body}"
        );
    }
}

#[tokio::test]
async fn resources_come_back_as_they_were_sent() {
    let emulator = emulator();
    for resource in [
        "https://vault.azure.net/",
        "api://app/a b&c%",
        "7e000000-0000-4000-8000-000000000001",
    ] {
        assert_eq!(imds(&emulator, resource, "").await.json()["resource"], resource);
    }
}

#[tokio::test]
async fn only_get_is_allowed_and_other_metadata_paths_do_not_exist() {
    let emulator = emulator();
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = try_send(&emulator, method, &imds_target(VAULT, ""), &[METADATA], "")
            .await
            .unwrap();
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")), "{method}");
    }
    for path in [
        "/metadata/instance?api-version=2021-02-01",
        "/metadata/identity",
        "/metadata/identity/oauth2/token/",
    ] {
        let answer = get(&emulator, path, &[METADATA]).await;
        assert_eq!(
            (answer.status, answer.json()),
            (404, json!({"error": "Not found"})),
            "{path}"
        );
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
        (format!("&client_id={}", system.client_id), &system.client_id),
        (format!("&object_id={}", system.object_id), &system.client_id),
        (format!("&client_id={}", user.client_id), &user.client_id),
        (format!("&client_id={}", user.client_id.to_uppercase()), &user.client_id),
        (format!("&object_id={}", user.object_id), &user.client_id),
        (
            format!("&msi_res_id={}", user.resource_id.to_uppercase()),
            &user.client_id,
        ),
        // The name that App Service uses is ignored here.
        (format!("&mi_res_id={}", user.resource_id), &system.client_id),
        (format!("&principal_id={}", user.object_id), &system.client_id),
    ] {
        let answer = imds(&emulator, VAULT, &query).await;
        assert_eq!(
            (answer.status, &answer.json()["client_id"]),
            (200, &json!(client_id)),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_request_without_a_name_gets_the_system_assigned_or_the_only_identity() {
    let everything = machine(Has { system: true, users: 2 });
    let system = &everything.system_assigned.as_ref().unwrap().client_id;
    let only_user = &everything.user_assigned[0].client_id;
    let several = "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in \
                   the token request";
    for (has, expected) in [
        (Has { system: true, users: 0 }, Ok(system)),
        (Has { system: true, users: 1 }, Ok(system)),
        (Has { system: true, users: 2 }, Ok(system)),
        (
            Has {
                system: false,
                users: 1,
            },
            Ok(only_user),
        ),
        (
            Has {
                system: false,
                users: 2,
            },
            Err(several),
        ),
        (
            Has {
                system: false,
                users: 0,
            },
            Err("Identity not found"),
        ),
    ] {
        let emulator = emulator_with(machine(has));
        let answer = imds(&emulator, VAULT, "").await;
        let body = answer.json();
        match expected {
            Ok(client_id) => assert_eq!((answer.status, &body["client_id"]), (200, &json!(client_id)), "{has:?}"),
            Err(description) => assert_eq!(
                (answer.status, body),
                (
                    400,
                    json!({"error": "invalid_request", "error_description": description})
                ),
                "{has:?}"
            ),
        }
    }
}
