//! Brokers as an embedder makes them, over both built-in providers.

use managed_identity_host::{Broker, Cause, TokenError, TokenRequest, WasiVersion};
use std::path::PathBuf;
use std::time::Duration;

/// Every built-in provider.
pub(crate) const WASI: [WasiVersion; 2] = [WasiVersion::V0_2, WasiVersion::V0_3];

/// A broker for exactly this environment. Compiled components are shared with the command's tests.
pub(crate) fn broker<N: Into<String>, V: Into<String>>(
    wasi: WasiVersion,
    environment: impl IntoIterator<Item = (N, V)>,
) -> Broker {
    Broker::builder()
        .wasi(wasi)
        .environment(environment)
        .compilation_cache(Some(PathBuf::from(concat!(
            env!("CARGO_TARGET_TMPDIR"),
            "/home/.cache/managed-identity"
        ))))
        .build()
        .unwrap()
}

/// A request for the audience `https://CASE.example`.
pub(crate) fn request(case: &str, timeout: Duration) -> TokenRequest {
    TokenRequest::new(format!("https://{case}.example")).with_timeout(timeout)
}

/// The token's text.
pub(crate) async fn ask(broker: &Broker, request: &TokenRequest) -> Result<String, TokenError> {
    broker.token(request).await.map(|token| token.token.expose().to_owned())
}

/// The cause of a token's absence, if it is absent.
pub(crate) async fn cause(broker: &Broker, request: &TokenRequest) -> Option<Cause> {
    ask(broker, request).await.err().map(|error| error.cause)
}
