//! What is spoken, with the bytes on the wire.

use crate::exchange;
use crate::support::emulated::Emulated;
use crate::support::served::Served;
use managed_identity_emulator::{Fault, Source, http};
use serde_json::Value;

const VAULT: &str = "https%3A%2F%2Fvault.azure.net";

/// Each protocol, and the header that its requests have.
const PROTOCOLS: [(&str, &str, &str); 2] = [
    ("app-service", "/msi/token", "X-IDENTITY-HEADER: any"),
    ("imds", "/metadata/identity/oauth2/token", "Metadata: true"),
];

fn serve(platform: &Emulated, source: Source) -> Served {
    let arguments = [
        "--app-service=127.0.0.1:0",
        "--imds=127.0.0.1:0",
        "--ext-authz=127.0.0.1:0",
        "--allow=https://vault.azure.net",
        "--allow=https://other.example",
    ];
    Served::start(
        platform,
        source,
        &arguments,
        &["app-service", "imds", "envoy-ext-authz"],
    )
}

/// The status line, the header fields and the body.
fn get(address: std::net::SocketAddr, target: &str, fields: &[&str]) -> (u16, String, String) {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let reply = exchange(
        address,
        &format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}Connection: close\r\n\r\n"),
    );
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

fn json(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|_| panic!("{body}"))
}

/// The name and kind of each member, in order of name.
fn shape(body: &Value) -> Vec<(String, &'static str)> {
    let kind = |value: &Value| match value {
        Value::String(_) => "string",
        Value::Number(_) => "number",
        _ => "something else",
    };
    let mut members: Vec<_> = body
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), kind(value)))
        .collect();
    members.sort();
    members
}

#[test]
fn replies_have_the_shape_of_the_platforms_own() {
    let platform = Emulated::start();
    let served = serve(&platform, Source::Imds);
    let secret = platform.environment_for(Source::AppService)["IDENTITY_HEADER"].clone();
    for (protocol, path, header) in PROTOCOLS {
        let genuine = header.replace("any", &secret);
        for (query, status) in [
            (format!("?api-version=2019-08-01&resource={VAULT}"), 200),
            (format!("?api-version=2019-08-01&resource={VAULT}&unknown=1"), 200),
            ("?api-version=2019-08-01".to_owned(), 400),
            (format!("?resource={VAULT}"), 400),
            (format!("?api-version=1999-01-01&resource={VAULT}"), 400),
            (
                format!("?api-version=2019-08-01&resource={VAULT}&resource={VAULT}"),
                400,
            ),
            (
                format!("?api-version=2019-08-01&resource={VAULT}&client_id=a&object_id=b"),
                400,
            ),
            (String::new(), 400),
        ] {
            let target = format!("{path}{query}");
            let (ours, head, body) = get(served.address(protocol), &target, &[header]);
            let (theirs, _, expected) = get(platform.listening(), &target, &[&genuine]);
            assert_eq!((ours, theirs), (status, status), "{protocol} {query}: {body}");
            assert!(head.contains("content-type: application/json"), "{head}");
            assert!(head.contains("cache-control: no-store"), "{head}");
            let mut shape_of_ours = shape(&json(&body));
            // A member of ours, by which an operator finds the refusal.
            shape_of_ours.retain(|(name, _)| name != "correlation_id");
            assert_eq!(shape_of_ours, shape(&json(&expected)), "{protocol} {query}");
            if status == 200 {
                for name in ["client_id", "resource", "token_type"] {
                    assert_eq!(json(&body)[name], json(&expected)[name], "{protocol} {name}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_allowed_is_refused_at_once_and_asked_of_nobody() {
    let platform = Emulated::start();
    let served = serve(&platform, Source::Imds);
    for (protocol, path, header) in PROTOCOLS {
        let target = format!("{path}?api-version=2019-08-01&resource=https%3A%2F%2Fstorage.azure.com");
        let (status, _, body) = get(served.address(protocol), &target, &[header]);
        assert_eq!(status, 403, "{body}");
        assert!(body.contains("https://storage.azure.com"), "{body}");
        let target =
            format!("{path}?api-version=2019-08-01&resource={VAULT}&client_id=a0000000-0000-4000-8000-0000000000c1");
        assert_eq!(get(served.address(protocol), &target, &[header]).0, 403);
        let (status, _, body) = get(served.address(protocol), &target, &[]);
        assert_eq!(status, if protocol == "imds" { 400 } else { 401 }, "{body}");
    }
    assert_eq!(platform.requests().len(), 0);
}

#[test]
fn a_request_for_another_host_is_refused() {
    let platform = Emulated::start();
    let served = serve(&platform, Source::Imds);
    for (protocol, path, header) in PROTOCOLS {
        for host in ["evil.example", "localhost.evil.example"] {
            let target = format!("{path}?api-version=2019-08-01&resource={VAULT}");
            let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{header}\r\nConnection: close\r\n\r\n");
            let reply = exchange(served.address(protocol), &request);
            assert!(reply.starts_with("HTTP/1.1 421 "), "{reply}");
        }
    }
    assert_eq!(platform.requests().len(), 0);
}

#[test]
fn a_platform_that_throttles_is_passed_on_with_its_wait() {
    let platform = Emulated::start();
    let served = serve(&platform, Source::Imds);
    let throttled = Fault::reply(http::StatusCode::TOO_MANY_REQUESTS, "")
        .header(http::header::RETRY_AFTER, http::HeaderValue::from_static("120"));
    platform.add_fault(throttled);
    for (protocol, path, header) in PROTOCOLS {
        let target = format!("{path}?api-version=2019-08-01&resource={VAULT}");
        let (status, head, body) = get(served.address(protocol), &target, &[header]);
        assert_eq!(status, 429, "{body}");
        assert!(head.contains("\r\nretry-after: 1"), "{head}");
    }
}

#[test]
fn envoy_gets_the_token_as_a_header() {
    let platform = Emulated::start();
    let served = serve(&platform, Source::Imds);
    let address = served.address("envoy-ext-authz");
    let (status, head, body) = get(
        address,
        "/any?path",
        &["X-Managed-Identity-Audience: https://vault.azure.net"],
    );
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("\r\nauthorization: bearer ey"), "{head}");
    for fields in [
        &[] as &[&str],
        &["X-Managed-Identity-Audience: https://storage.azure.com"],
    ] {
        let (status, head, _) = get(address, "/any?path", fields);
        assert_eq!(status, 403);
        assert!(head.contains("\r\nx-managed-identity-error: denied"), "{head}");
        assert!(!head.contains("\r\nauthorization:"), "{head}");
    }
}

#[test]
fn nobody_writes_lines_of_their_own_into_the_log_or_fills_it() {
    let platform = Emulated::start();
    let served = serve(&platform, Source::Imds);
    let address = served.address("imds");
    let named = "x%0d%0aFORGED+%1b%5B31m%E2%80%A8";
    let (path, query) = (PROTOCOLS[1].1, format!("?api-version=2019-08-01&resource={VAULT}"));
    let (status, _, body) = get(
        address,
        &format!("{path}{query}&{named}=1&{named}=2"),
        &["Metadata: true"],
    );
    assert_eq!(status, 400);
    assert!(json(&body)["error_description"].as_str().unwrap().is_ascii(), "{body}");
    for _ in 0..200 {
        let (status, _, _) = get(served.address("app-service"), &format!("/msi/token{query}"), &[]);
        assert_eq!(status, 401);
    }
    served.signal("TERM");
    let (code, log) = served.end();
    assert_eq!(code, Some(0));
    let forged: Vec<_> = log.lines().filter(|line| line.contains("FORGED")).collect();
    assert_eq!(forged.len(), 1, "{log}");
    assert!(forged[0].contains(" INFO ") && forged[0].is_ascii(), "{forged:?}");
    // As many as in a second, and a machine that is busy may take some seconds.
    let refused = log
        .lines()
        .filter(|line| line.contains("X-IDENTITY-HEADER header"))
        .count();
    assert!((1..200).contains(&refused), "{refused}");
}
