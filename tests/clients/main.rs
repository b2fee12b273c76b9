//! Today's clients, unmodified, through `managed-identity serve`.
//!
//! They are those of `tests/peers`, with the adapters by which they are also held against the conformance cases; the herd has
//! a program of its own. The tests install them from their registries, once.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails where something is not as expected")]

#[path = "../support/mod.rs"]
mod support;

mod client;
mod herd;
mod installed;
mod outage;
mod platform;
mod refusals;
mod renewal;
mod tokens;
