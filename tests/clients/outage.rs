//! An outage: the server is killed with requests under way, and started again at the same addresses.

use crate::client::{Client, Running, system_assigned};
use crate::platform::{Configuration, Protocol, SECRET, claims, free_addresses};
use crate::support::emulated::Emulated;
use managed_identity_emulator::Fault;
use std::time::{Duration, Instant};

/// Whether it asks again by itself when a connection breaks off. MSAL leaves that to whoever asks.
fn asks_again(client: Client) -> bool {
    match client {
        Client::AzureIdentityPython | Client::AzureIdentityRust | Client::AzureIdentityNode => true,
        Client::MsalPython | Client::MsalNode => false,
    }
}

#[test]
fn clients_survive_a_server_that_is_killed_and_started_again() {
    let platform = Emulated::start();
    let addresses = free_addresses();
    let configuration = Configuration::granting(addresses, "[\"https://*.clients.example\"]", "[\"platform-default\"]");
    let mut served = configuration.serve(&platform);
    let mut clients: Vec<_> = Client::ALL
        .iter()
        .flat_map(|client| Protocol::BOTH.map(|protocol| (*client, protocol)))
        .map(|(client, protocol)| {
            let environment = protocol.environment(served.address(protocol.name()), SECRET);
            (client, protocol, Running::start(client, &environment))
        })
        .collect();
    for round in 1..=3 {
        // One of its own for each, so that neither its cache nor the server's answers.
        let audience = |client: Client, protocol: Protocol| {
            format!("https://{}-{}-{round}.clients.example", client.peer(), protocol.name())
        };
        // Those of the rounds before are counted too, and how many a client makes is up to it.
        let before = platform.stats().requests;
        for (client, protocol, running) in &mut clients {
            let audience = audience(*client, *protocol);
            platform.add_fault(Fault::hang().for_resource(&audience).times(1));
            running.tell(&system_assigned(&audience));
        }
        // All of them wait.
        let deadline = Instant::now() + Duration::from_secs(120);
        while platform.stats().requests < before + u64::try_from(clients.len()).unwrap() {
            assert!(Instant::now() < deadline, "{:?}", platform.stats());
            std::thread::yield_now();
        }
        served.signal("KILL");
        let (code, _) = served.end();
        assert_eq!(code, None);
        served = configuration.serve(&platform);
        for (client, protocol, running) in &mut clients {
            let audience = audience(*client, *protocol);
            let mut answer = running.answer();
            if !asks_again(*client) {
                assert!(answer["error"].is_object(), "{client:?} by {protocol:?}: {answer}");
                answer = running.ask(&system_assigned(&audience));
            }
            assert_eq!(claims(&answer)["aud"], *audience, "{client:?} by {protocol:?}");
        }
        platform.clear_faults();
    }
    for (_, _, running) in clients {
        running.end();
    }
}
