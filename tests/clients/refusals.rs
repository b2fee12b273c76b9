//! Refusals: each client takes them for what they are, says so, and goes on.

use crate::client::{Client, Running, system_assigned, user_assigned};
use crate::platform::{ANY, Configuration, Protocol, SECRET, claims};
use crate::support::emulated::Emulated;
use serde_json::Value;

const GRANTED: &str = "https://vault.azure.net";
const DENIED: &str = "https://management.azure.com";
const WRONG: &str = "a-secret-that-is-nobodys";

/// That a client failed as it fails where Azure refuses: with an error of its own for that, and no other.
fn refusal(client: Client, answer: &Value) -> String {
    let error = &answer["error"];
    let message = error["message"]
        .as_str()
        .unwrap_or_else(|| panic!("{client:?}: {answer}"));
    let classes: &[Option<&str>] = match client {
        Client::AzureIdentityPython => &[Some("ClientAuthenticationError"), Some("CredentialUnavailableError")],
        // It returns what went wrong, and raises nothing.
        Client::MsalPython => &[None],
        Client::AzureIdentityNode => &[Some("AuthenticationError"), Some("CredentialUnavailableError")],
        Client::MsalNode => &[Some("ServerError")],
        Client::AzureIdentityRust => &[Some("Credential")],
    };
    assert!(classes.contains(&error["class"].as_str()), "{client:?}: {answer}");
    message.to_owned()
}

fn served(platform: &Emulated) -> (Configuration, crate::support::served::Served) {
    let configuration = Configuration::granting(ANY, &format!("[\"{GRANTED}\"]"), "[\"platform-default\"]");
    let served = configuration.serve(platform);
    (configuration, served)
}

#[test]
fn a_wrong_secret_is_a_failure_to_authenticate() {
    let platform = Emulated::start();
    let (_configuration, served) = served(&platform);
    for client in Client::ALL {
        let environment = Protocol::AppService.environment(served.address("app-service"), WRONG);
        let mut running = Running::start(client, &environment);
        let answer = running.ask(&system_assigned(GRANTED));
        refusal(client, &answer);
        let told = format!("{answer}{}", running.end());
        for secret in [SECRET, WRONG] {
            assert!(!told.contains(secret), "{client:?}: {told}");
        }
    }
    assert_eq!(platform.stats().requests, 0);
}

#[test]
fn what_is_not_granted_is_a_failure_to_authenticate_that_says_why() {
    let platform = Emulated::start();
    let unassigned = platform.identities().user_assigned[1].client_id.clone();
    let (_configuration, served) = served(&platform);
    for client in Client::ALL {
        for protocol in Protocol::BOTH {
            let environment = protocol.environment(served.address(protocol.name()), SECRET);
            let mut running = Running::start(client, &environment);
            for (request, reason) in [
                (system_assigned(DENIED), DENIED),
                (user_assigned(GRANTED, &unassigned), unassigned.as_str()),
            ] {
                let message = refusal(client, &running.ask(&request));
                let is_told = message.contains("is not granted") && message.contains(reason);
                assert!(is_told, "{client:?} by {protocol:?}: {message}");
            }
            // The same process, for what it may have.
            assert_eq!(claims(&running.ask(&system_assigned(GRANTED)))["aud"], GRANTED);
            let told = running.end();
            assert!(!told.contains(SECRET), "{client:?} by {protocol:?}: {told}");
        }
    }
    assert_eq!(platform.stats().requests, 1);
}
