//! Today's clients, unmodified, through `managed-identity serve`.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails where something is not as expected")]

#[path = "../support/mod.rs"]
mod support;

use support::emulated::Emulated;

#[test]
fn the_emulator_starts() {
    let platform = Emulated::start();
    assert!(platform.listening().ip().is_loopback());
}
