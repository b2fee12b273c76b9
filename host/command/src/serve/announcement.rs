//! The lines that say where is listened, for whoever starts clients.

use managed_identity_serve::{Listening, Protocol};
use serde_json::{Map, Value, json};

/// The path of the token endpoint of App Service, which clients are given with it.
const APP_SERVICE_PATH: &str = "/msi/token";

/// One line.
pub(super) fn line(listening: &Listening) -> Value {
    let mut line = json!({
        "protocol": listening.protocol.name(),
        "listening": listening.address,
        "listener": listening.listener,
    });
    let environment = environment(listening);
    if !environment.is_empty() {
        line["environment"] = environment.into();
    }
    line
}

/// The variables by which clients find it, as far as they are no secret.
fn environment(listening: &Listening) -> Map<String, Value> {
    let (name, path) = match listening.protocol {
        Protocol::AppService => ("IDENTITY_ENDPOINT", APP_SERVICE_PATH),
        Protocol::Imds => ("AZURE_POD_IDENTITY_AUTHORITY_HOST", ""),
        Protocol::EnvoyExtAuthz | Protocol::EnvoySds | Protocol::Metrics | Protocol::Health => return Map::new(),
    };
    let of_address = || {
        let is_tcp = !listening.address.starts_with("unix:");
        is_tcp.then(|| format!("http://{}{path}", listening.address))
    };
    let url = listening.url.clone().or_else(of_address);
    url.map(|url| (name.to_owned(), Value::String(url)))
        .into_iter()
        .collect()
}
