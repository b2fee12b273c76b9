//! The emulator as its clients see it: over TCP, byte for byte where bytes matter.
//!
//! All tests share one signing key and take a free port each. Tests about time run on Tokio's paused clock, which jumps
//! to the next timer whenever everything waits, so that an hour of delay takes no time.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, and unwraps only what it set up"
)]

mod app_service;
mod app_service_2017;
mod azure_arc;
mod client;
mod cloud_shell;
mod control;
mod faults;
mod imds;
mod key_vault;
mod look_alikes;
mod server;
mod service_fabric;
mod tokens;
mod workload_identity;

use std::path::PathBuf;
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
    started(EmulatorConfig {
        identities,
        ..EmulatorConfig::default()
    })
}

/// An emulator with this configuration and the common key.
fn started(config: EmulatorConfig) -> Emulator {
    Emulator::start(EmulatorConfig {
        signing_key: Some(signing_key()),
        ..config
    })
    .unwrap()
}

/// The key of all tests.
fn signing_key() -> SigningKey {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    KEY.get_or_init(|| SigningKey::generate().unwrap()).clone()
}

/// A directory of one test, removed with all that is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("managed-identity-emulator-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    fn files(&self) -> usize {
        std::fs::read_dir(&self.0).unwrap().count()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
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
