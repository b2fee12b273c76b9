//! An upstream of the module that keeps what arrives at it.

use crate::proxy::configured;
use crate::support::server::{Request, Server};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// The example of the module, which sends to this server and listens anywhere.
pub(crate) fn sent_to(upstream: &Server, others: &[(&str, &str)]) -> String {
    let authority = upstream.authority();
    let (_, port) = authority.rsplit_once(':').unwrap();
    let port = format!("port_value: {port}");
    let mut replaced = vec![
        ("port_value: 10000", "port_value: 0"),
        ("port_value: 9901", "port_value: 0"),
        ("port_value: 8080", &port),
    ];
    replaced.extend(others);
    configured("module.yaml", &replaced)
}

/// A configuration with a second listener, `copy`, which is as the first.
pub(crate) fn copied(yaml: &str) -> String {
    let (before, rest) = yaml.split_once("  listeners:\n").unwrap();
    let (listener, clusters) = rest.split_once("  clusters:\n").unwrap();
    let copy = listener.replacen("name: ingress\n", "name: copy\n", 1);
    format!("{before}  listeners:\n{listener}{copy}  clusters:\n{clusters}")
}

/// The value of a field, as it arrived.
pub(crate) fn field(request: &Request, name: &str) -> Option<String> {
    let mut values = request.headers().into_iter().filter(|(own, _)| own == name);
    let (_, value) = values.next()?;
    assert!(values.next().is_none(), "{name} twice in {}", request.text());
    Some(value)
}

/// What a token says, if this is the value of a field that carries one.
pub(crate) fn claims(value: &str) -> Option<Value> {
    let token = value.strip_prefix("Bearer ")?;
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// For whom the token is that came in `authorization`, or else that value as it came.
pub(crate) fn audience(request: &Request) -> Option<String> {
    let value = field(request, "authorization")?;
    Some(match claims(&value) {
        Some(claims) => claims["aud"].as_str().unwrap().to_owned(),
        None => value,
    })
}
