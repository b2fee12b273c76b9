//! Renewal: a client that finds its token too old gets a newer one.

use crate::client::{Client, Running, system_assigned};
use crate::platform::{ANY, Configuration, Protocol, SECRET, claims};
use crate::support::emulated::Emulated;
use std::thread;
use std::time::{Duration, Instant};

/// So short that every client asks for another one soon, whatever its rules.
const LIFETIME_SECONDS: i64 = 8;

/// Between two calls of a client.
const PAUSE: Duration = Duration::from_millis(50);

/// When to give up.
const DEADLINE: Duration = Duration::from_secs(120);

#[test]
fn a_client_whose_token_is_old_gets_a_newer_one() {
    let platform = Emulated::start();
    platform.configure(|settings| settings.token_lifetime_seconds = LIFETIME_SECONDS);
    let configuration = Configuration::granting(ANY, "[\"https://*.clients.example\"]", "[\"platform-default\"]");
    let served = configuration.serve(&platform);
    let address = |protocol: Protocol| protocol.environment(served.address(protocol.name()), SECRET);
    thread::scope(|scope| {
        for client in Client::ALL {
            for protocol in Protocol::BOTH {
                let environment = address(protocol);
                scope.spawn(move || {
                    // One of its own, which nobody else renews.
                    let audience = format!("https://{}-{}.clients.example", client.peer(), protocol.name());
                    let question = system_assigned(&audience);
                    let mut running = Running::start(client, &environment);
                    let first = claims(&running.ask(&question));
                    let begun = Instant::now();
                    loop {
                        let next = claims(&running.ask(&question));
                        if next["uti"] != first["uti"] {
                            assert_eq!(next["aud"], *audience, "{client:?}");
                            assert!(
                                next["exp"].as_i64() > first["exp"].as_i64(),
                                "{client:?}: {next} after {first}"
                            );
                            break;
                        }
                        assert!(begun.elapsed() < DEADLINE, "{client:?} by {protocol:?} keeps its token");
                        thread::sleep(PAUSE);
                    }
                    running.end();
                });
            }
        }
    });
}
