//! Hostile guests in the place of the provider: each tries to get more than HTTP to the identity endpoint, and gets nothing.
//!
//! The orders that a guest takes are listed in its crate, `tests/guests/hostile`.

#![expect(clippy::unwrap_used, reason = "servers and brokers are the tests' own")]

mod belongings;
mod exhaustion;
mod reach;
mod witness;

use managed_identity_host::{Broker, BrokerBuilder, Cause, TokenError, TokenRequest};
use managed_identity_test_guests::{HOSTILE_0_2, HOSTILE_0_3};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Both guests, by the version of WASI.
const GUESTS: [(&str, &[u8]); 2] = [("0.2", HOSTILE_0_2), ("0.3", HOSTILE_0_3)];

/// The path of the endpoint that the environment names.
const PATH: &str = "/msi/token";

/// Far longer than any order takes that is not meant to last.
const PATIENCE: Duration = Duration::from_secs(20);

/// A guest in an environment that names an endpoint of `server`.
fn broker(guest: &[u8], server: SocketAddr) -> BrokerBuilder {
    in_environment(
        guest,
        &[
            ("IDENTITY_ENDPOINT", &format!("http://{server}{PATH}")),
            ("IDENTITY_HEADER", "s3cr3t"),
            ("SECRET_DECOY", "x"),
        ],
    )
}

fn in_environment(guest: &[u8], variables: &[(&str, &str)]) -> BrokerBuilder {
    Broker::builder()
        .provider(guest)
        .compilation_cache(None)
        .environment(variables.iter().copied())
}

/// Gives an order. Only `ok` and `spin-later` give a token, and each time for another audience: the guest is to be asked,
/// and not the tokens that the broker holds.
async fn order(broker: &Broker, words: &[&str], timeout: Duration) -> Result<(), TokenError> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let mut order = words.join("\u{1f}");
    if matches!(words[0], "ok" | "spin-later") {
        order.push_str(&format!("\u{1f}{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    }
    let request = TokenRequest::new(order).with_timeout(timeout);
    broker.token(&request).await.map(drop)
}

/// Gives an order that ends with a report.
async fn report(broker: &Broker, words: &[&str]) -> (Cause, String) {
    let error = order(broker, words, PATIENCE).await.unwrap_err();
    (error.cause, error.message)
}
