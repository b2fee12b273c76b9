//! Azure Arc: the challenge, the key files, whose token it gives.

use managed_identity_emulator::{Emulator, EmulatorConfig, Source};
use serde_json::json;

use crate::client::{Answer, encoded, get, path_of, try_send};
use crate::{Has, Scratch, VAULT, emulator, emulator_with, machine, started};

fn target(emulator: &Emulator, query: &str) -> String {
    let endpoint = emulator
        .environment_for(Source::AzureArc)
        .remove("IDENTITY_ENDPOINT")
        .unwrap();
    format!("{}?api-version=2020-06-01&{query}", path_of(&endpoint))
}

async fn ask(emulator: &Emulator, query: &str, authorization: Option<&str>) -> Answer {
    let target = target(emulator, &format!("resource={}{query}", encoded(VAULT)));
    let mut headers = vec![("metadata", "true")];
    headers.extend(authorization.map(|value| ("authorization", value)));
    get(emulator, &target, &headers).await
}

/// The name of the key file that a challenge names.
fn key_file(challenge: &Answer) -> String {
    assert_eq!(challenge.status, 401, "{challenge:?}");
    let realm = challenge.header("www-authenticate").unwrap();
    let name = realm.strip_prefix("Basic realm=/var/opt/azcmagent/tokens/").unwrap();
    assert!(name.len() == 40 && name.ends_with(".key"), "{realm}");
    name.to_owned()
}

fn challenging(directory: &Scratch) -> Emulator {
    started(EmulatorConfig {
        arc_directory: Some(directory.0.clone()),
        ..EmulatorConfig::default()
    })
}

#[tokio::test]
async fn whoever_can_read_the_key_gets_a_token_once() {
    let directory = Scratch::new("arc-once");
    let emulator = challenging(&directory);
    let name = key_file(&ask(&emulator, "", None).await);
    let file = directory.0.join(&name);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let authorization = format!("Basic {}", std::fs::read_to_string(&file).unwrap());
    let answer = ask(&emulator, "", Some(&authorization)).await;
    assert_eq!((answer.status, &answer.json()["resource"]), (200, &json!(VAULT)));
    assert!(!file.exists(), "a used key is gone");
    assert_ne!(key_file(&ask(&emulator, "", Some(&authorization)).await), name);
}

#[tokio::test]
async fn a_wrong_key_gets_a_new_challenge() {
    let directory = Scratch::new("arc-wrong");
    let emulator = challenging(&directory);
    let first = key_file(&ask(&emulator, "", None).await);
    let key = std::fs::read_to_string(directory.0.join(&first)).unwrap();
    let wrong = [
        "Basic guess".to_owned(),
        "Basic".to_owned(),
        format!("Bearer {key}"),
        key.clone(),
    ];
    for authorization in &wrong {
        let again = key_file(&ask(&emulator, "", Some(authorization)).await);
        assert_ne!(again, first, "{authorization}");
    }
    assert_eq!(ask(&emulator, "", Some(&format!("basic {key}"))).await.status, 200);
    assert_eq!(directory.files(), wrong.len());
    assert!(!format!("{:?}", emulator.requests()).contains(&key));
}

#[tokio::test]
async fn key_files_are_few_and_gone_when_it_stops() {
    let directory = Scratch::new("arc-stop");
    for by_drop in [false, true] {
        let emulator = challenging(&directory);
        for _ in 0..70 {
            key_file(&ask(&emulator, "", None).await);
        }
        assert_eq!(directory.files(), 64);
        if by_drop {
            drop(emulator);
        } else {
            emulator.shutdown().await;
        }
        assert_eq!(directory.files(), 0, "{by_drop}");
    }
}

#[tokio::test]
async fn without_a_directory_there_is_no_challenge() {
    assert_eq!(ask(&emulator(), "", None).await.status, 200);
}

#[tokio::test]
async fn a_request_gets_the_identity_it_names_and_is_told_so() {
    let emulator = emulator();
    let identities = emulator.identities();
    let (system, user) = (
        identities.system_assigned.as_ref().unwrap(),
        &identities.user_assigned[1],
    );
    for (query, identity, echo) in [
        (String::new(), system, None),
        (format!("&client_id={}", user.client_id.to_uppercase()), user, None),
        (
            format!("&object_id={}", user.object_id),
            user,
            Some(("object_id", &user.object_id)),
        ),
        (
            format!("&msi_res_id={}", user.resource_id),
            user,
            Some(("msi_res_id", &user.resource_id)),
        ),
        // The name that App Service uses is ignored here.
        (format!("&mi_res_id={}", user.resource_id), system, None),
    ] {
        let answer = ask(&emulator, &query, None).await;
        assert_eq!(answer.status, 200, "{query}");
        let body = answer.json();
        assert_eq!(body["client_id"], identity.client_id, "{query}");
        for name in ["object_id", "msi_res_id"] {
            let expected = echo.filter(|(echoed, _)| *echoed == name).map(|(_, id)| id.as_str());
            assert_eq!(body.get(name).and_then(|id| id.as_str()), expected, "{query} {name}");
        }
    }
}

#[tokio::test]
async fn every_malformed_request_is_refused() {
    let emulator = emulator();
    let metadata = [("metadata", "true")];
    let ok = target(&emulator, &format!("resource={VAULT}"));
    let path = ok.split('?').next().unwrap().to_owned();
    for (target, headers, status, error) in [
        (ok.clone(), vec![], 400, "invalid_request"),
        (
            ok.clone(),
            vec![("metadata", "true"), ("x-forwarded-for", "1")],
            400,
            "invalid_request",
        ),
        (format!("{ok}&resource=a"), metadata.to_vec(), 400, "invalid_request"),
        (
            format!("{path}?resource={VAULT}"),
            metadata.to_vec(),
            400,
            "invalid_request",
        ),
        (
            format!("{path}?api-version=2018-02-01&resource={VAULT}"),
            metadata.to_vec(),
            400,
            "invalid_request",
        ),
        (
            target(&emulator, "resource="),
            metadata.to_vec(),
            400,
            "invalid_request",
        ),
        (
            format!("{ok}&client_id=a&object_id=b"),
            metadata.to_vec(),
            400,
            "invalid_request",
        ),
        (
            target(&emulator, "resource=https://unknown.example"),
            metadata.to_vec(),
            400,
            "invalid_resource",
        ),
        (
            format!("{ok}&client_id=nobody"),
            metadata.to_vec(),
            404,
            "identity_not_found",
        ),
    ] {
        let answer = get(&emulator, &target, &headers).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]),
            (status, &json!(error)),
            "{target}"
        );
    }
    assert_eq!(
        try_send(&emulator, "POST", &ok, &metadata, "").await.unwrap().status,
        405
    );

    let alone = emulator_with(machine(Has {
        system: false,
        users: 2,
    }));
    assert_eq!(ask(&alone, "", None).await.status, 404);
}
