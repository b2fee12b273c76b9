//! App Service 2017 and Azure ML, which share a protocol.

use managed_identity_emulator::{Emulator, Source};
use serde_json::json;

use crate::client::{Answer, get, names, path_of, try_send};
use crate::{Has, VAULT, emulator, emulator_with, machine};

const SOURCES: [Source; 2] = [Source::AppService2017, Source::AzureMl];

async fn ask(emulator: &Emulator, source: Source, query: &str) -> Answer {
    let environment = emulator.environment_for(source);
    let target = format!("{}?{query}", path_of(&environment["MSI_ENDPOINT"]));
    get(emulator, &target, &[("secret", &environment["MSI_SECRET"])]).await
}

#[tokio::test]
async fn a_request_gets_the_identity_it_names_by_clientid_and_by_nothing_else() {
    let emulator = emulator();
    let identities = emulator.identities();
    let (system, user) = (
        identities.system_assigned.as_ref().unwrap(),
        &identities.user_assigned[1],
    );
    for source in SOURCES {
        for (query, identity) in [
            (String::new(), system),
            (format!("&clientid={}", user.client_id.to_uppercase()), user),
            (format!("&client_id={}", user.client_id), system),
            (format!("&object_id={}", user.object_id), system),
            (format!("&mi_res_id={}", user.resource_id), system),
        ] {
            let query = format!("api-version=2017-09-01&resource={VAULT}{query}");
            let answer = ask(&emulator, source, &query).await;
            assert_eq!(answer.status, 200, "{source} {query}");
            let body = answer.json();
            let names = names(&body);
            assert_eq!(names, ["access_token", "expires_on", "resource", "token_type"]);
            let claims = crate::tokens::claims(&body);
            assert_eq!(claims["appid"], identity.client_id, "{source} {query}");
            // A date as on Linux: 06/20/2019 02:57:58 +00:00
            let date = body["expires_on"].as_str().unwrap();
            assert!(
                date.len() == 26 && date.ends_with(" +00:00") && &date[2..3] == "/",
                "{date}"
            );
        }
    }
    assert_eq!(emulator.requests()[0].protocol, Some(Source::AppService2017));
}

#[tokio::test]
async fn every_malformed_request_is_refused() {
    let emulator = emulator();
    let ok = format!("api-version=2017-09-01&resource={VAULT}");
    for source in SOURCES {
        for (query, status, message) in [
            (
                format!("resource={VAULT}"),
                400,
                "An API version is required, but was not specified.",
            ),
            (
                format!("api-version=2019-08-01&resource={VAULT}"),
                400,
                "The API version '2019-08-01' is not supported.",
            ),
            (
                "api-version=2017-09-01".to_owned(),
                400,
                "Required query parameter 'resource' is missing.",
            ),
            (
                format!("{ok}&resource=a"),
                400,
                "Query parameter 'resource' is specified more than once.",
            ),
            (
                format!("{ok}&clientid=nobody"),
                400,
                "No MSI found for specified ClientId/ResourceId.",
            ),
            (
                "api-version=2017-09-01&resource=https://unknown.example".to_owned(),
                500,
                "An unexpected error occured while fetching the AAD Token.",
            ),
        ] {
            let answer = ask(&emulator, source, &query).await;
            let body = answer.json();
            assert_eq!(
                (answer.status, &body["message"]),
                (status, &json!(message)),
                "{source} {query}"
            );
            assert_eq!(body["statusCode"], status);
            assert!(body["correlationId"].is_string());
        }
        let path = path_of(&emulator.environment_for(source)["MSI_ENDPOINT"]).to_owned();
        for headers in [vec![], vec![("secret", "guess")], vec![("metadata", "true")]] {
            let answer = get(&emulator, &format!("{path}?{ok}"), &headers).await;
            assert_eq!(answer.status, 401, "{source} {headers:?}");
        }
        assert_eq!(try_send(&emulator, "POST", &path, &[], "").await.unwrap().status, 405);
    }
}

#[tokio::test]
async fn a_machine_without_a_system_assigned_identity_has_no_default() {
    let emulator = emulator_with(machine(Has {
        system: false,
        users: 1,
    }));
    for source in SOURCES {
        let answer = ask(&emulator, source, &format!("api-version=2017-09-01&resource={VAULT}")).await;
        assert_eq!(answer.status, 400, "{source}");
    }
}

#[tokio::test]
async fn only_app_service_says_that_it_is_a_site() {
    let emulator = emulator();
    let named = SOURCES.map(|source| emulator.environment_for(source).contains_key("WEBSITE_SITE_NAME"));
    assert_eq!(named, [true, false]);
}
