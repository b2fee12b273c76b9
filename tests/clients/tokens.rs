//! Tokens: each client gets the right ones, and all of them together those of one broker.

use crate::client::{Client, Running, system_assigned, user_assigned};
use crate::platform::{ANY, Configuration, Protocol, SECRET, claims};
use crate::support::emulated::Emulated;

const AUDIENCES: [&str; 2] = ["https://vault.azure.net", "https://storage.azure.com"];

#[test]
fn every_client_gets_the_token_of_its_audience_and_identity() {
    let platform = Emulated::start();
    let identities = platform.identities();
    let system = identities.system_assigned.clone().unwrap();
    let user = identities.user_assigned[0].clone();
    let granted = format!("[\"platform-default\", \"client-id:{}\"]", user.client_id);
    let configuration = Configuration::granting(ANY, &format!("{AUDIENCES:?}"), &granted);
    let served = configuration.serve(&platform);
    for client in Client::ALL {
        for protocol in Protocol::BOTH {
            let environment = protocol.environment(served.address(protocol.name()), SECRET);
            let mut running = Running::start(client, &environment);
            for audience in AUDIENCES {
                for (request, identity) in [
                    (system_assigned(audience), &system),
                    (user_assigned(audience, &user.client_id), &user),
                ] {
                    let answer = running.ask(&request);
                    let claims = claims(&answer);
                    let got = ["aud", "oid", "appid", "iss"].map(|claim| claims[claim].as_str().unwrap().to_owned());
                    let issuer = claims["iss"].as_str().unwrap();
                    assert!(issuer.starts_with(platform.base_url()), "{client:?}: {issuer}");
                    let expected = [audience, &identity.object_id, &identity.client_id, issuer];
                    assert_eq!(got, expected, "{client:?} by {protocol:?}");
                    // MSAL for Python says for how many seconds a token is valid, and its adapter adds the time of day.
                    let expires_on = answer["expires_on"].as_i64().unwrap();
                    let late = expires_on.abs_diff(claims["exp"].as_i64().unwrap());
                    assert!(late < 120, "{client:?} by {protocol:?}: {late}");
                }
            }
            running.end();
        }
    }
    // All of them shared what two identities got for two audiences.
    let stats = platform.stats();
    assert_eq!(stats.requests, 4, "{stats:?}");
    assert!(stats.per_resource.values().all(|count| *count == 2), "{stats:?}");
}
