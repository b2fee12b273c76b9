//! The emulator as its clients see it: over TCP, byte for byte where bytes matter.
//!
//! All tests share one signing key and take a free port each. Tests about time run on Tokio's paused clock, which jumps
//! to the next timer whenever everything waits, so that an hour of delay takes no time.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, and unwraps only what it set up"
)]

mod app_service;
mod client;
mod control;
mod faults;
mod imds;
mod server;
mod tokens;

use std::sync::OnceLock;

use managed_identity_emulator::{Emulator, EmulatorConfig, Identities, SigningKey};

/// The resource that tests ask for when it does not matter which.
const VAULT: &str = "https://vault.azure.net";

/// An emulator with the defaults.
fn emulator() -> Emulator {
    emulator_with(Identities::default())
}

/// An emulator with these identities.
fn emulator_with(identities: Identities) -> Emulator {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    let key = KEY.get_or_init(|| SigningKey::generate().unwrap());
    Emulator::start(EmulatorConfig {
        identities,
        signing_key: Some(key.clone()),
        ..EmulatorConfig::default()
    })
    .unwrap()
}

/// Which identities a machine has.
#[derive(Clone, Copy, Debug)]
struct Has {
    system: bool,
    users: usize,
}

fn machine(has: Has) -> Identities {
    let mut identities = Identities::default();
    identities.user_assigned.truncate(has.users);
    identities.system_assigned = identities.system_assigned.filter(|_| has.system);
    identities
}
