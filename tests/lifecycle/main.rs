//! The life of a provider: instances that fail and are replaced, callers that leave, brokers that are shut down.
//!
//! What fails here is the hostile guest (`tests/guests/hostile`), which does by the status of a reply what it is told. The
//! server decides when, so that nothing depends on the clock.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod cancellation;
mod hits;
mod metrics;
mod replacement;
mod shutdown;
#[path = "../support/mod.rs"]
mod support;

use managed_identity_host::{Broker, TokenRequest};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;
use support::server::{Act, Request, Server};

/// Long enough for any of this on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The path of the endpoint that the environment names.
const PATH: &str = "/msi/token";

/// Statuses by which the server tells the guest what to do.
const TOKEN: u16 = 200;
const DUE_TOKEN: u16 = 201;
const TRAP: u16 = 418;
const FAILURE: u16 = 500;

/// A guest in the place of the provider, whose endpoint is `server`.
fn broker(guest: &[u8], server: &Server) -> Broker {
    Broker::builder()
        .provider(guest)
        .environment(server.app_service("s3cr3t"))
        .compilation_cache(Some(PathBuf::from(concat!(
            env!("CARGO_TARGET_TMPDIR"),
            "/home/.cache/managed-identity"
        ))))
        .build()
        .unwrap()
}

/// A request that makes the guest ask `server` for `https://CASE.example`, each time that the guest is asked.
fn fetch(server: &Server, case: &str) -> TokenRequest {
    let path = format!("{PATH}?resource=https://{case}.example");
    let order = ["fetch", "GET", "http", &server.authority(), &path].join("\u{1f}");
    TokenRequest::new(order).with_timeout(PATIENCE)
}

/// A server that answers by case and by how often it has been asked for it, from 0 on.
fn scripted(script: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> Server {
    let asked: Mutex<HashMap<String, usize>> = Mutex::default();
    Server::start(move |request: &Request| {
        let case = request.case();
        let mut asked = asked.lock().unwrap();
        let count = asked.entry(case.clone()).or_default();
        *count += 1;
        script(&case, *count - 1)
    })
}
