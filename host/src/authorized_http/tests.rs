//! What is decided on a request before anything is sent, and what becomes of a reply's head.

#![expect(clippy::unwrap_used, reason = "the rules are literals")]

use super::*;
use crate::broker::Broker;
use crate::grants::{Gate, Grant, HostPattern, Policy};
use crate::token::Identity;
use std::sync::OnceLock;

/// A caller that is granted these hosts, authorized and as they are.
fn granted(authorized: &[&str], plain: &[&str]) -> AuthorizedHttp {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    let broker = BROKER.get_or_init(|| {
        Broker::builder()
            .environment([
                ("IDENTITY_ENDPOINT", "http://127.0.0.1:41741/msi/token"),
                ("IDENTITY_HEADER", "s3cr3t"),
            ])
            .compilation_cache(None)
            .build()
            .unwrap()
    });
    let patterns = |hosts: &[&str]| -> Vec<HostPattern> {
        // One that is refused for what it says grants nothing, which is as good.
        hosts.iter().filter_map(|host| HostPattern::parse(host).ok()).collect()
    };
    let mut grant = Grant::default();
    grant.authorize_only.push(AuthorizeRule {
        hosts: patterns(authorized),
        audience: "https://vault.azure.net".to_owned(),
        identity: Identity::SystemAssigned,
    });
    grant.http = patterns(plain);
    let caller = Caller::new("plugin");
    let gate = Gate::new(broker.clone(), Policy::default().with(caller.clone(), grant));
    AuthorizedHttp::new(gate.caller(caller))
}

fn decided(http: &AuthorizedHttp, url: &str, field: &str) -> &'static str {
    let name: http::HeaderName = field.parse().unwrap();
    let fields = HeaderMap::from_iter([(name, HeaderValue::from_static("x"))]);
    match http.decide(&Method::GET, &url.parse().unwrap(), &fields) {
        Ok((_, Some(_))) => "authorized",
        Ok((_, None)) => "plain",
        Err(Refusal::Policy(_)) => "not granted",
        Err(Refusal::Request(denial)) => match denial.reason {
            DenialReason::NotGranted => "not granted",
            DenialReason::OutOfReach { .. } => "out of reach",
            DenialReason::HeaderField(_) => "field",
            _ => "spelling",
        },
    }
}

#[test]
fn each_request_is_decided_by_its_origin() {
    let http = granted(
        &["*.vault.azure.net", "exact.example:8443", "*.0.0.1"],
        &[
            "plain.example",
            "http://local.example",
            "http://127.0.0.1:41741",
            "http://127.0.0.1:8080",
        ],
    );
    for (url, field, decision) in [
        ("https://one.vault.azure.net/secrets/a", "accept", "authorized"),
        ("https://ONE.vault.azure.net/", "accept", "authorized"),
        // A wildcard is exactly one label.
        ("https://vault.azure.net/", "accept", "not granted"),
        ("https://a.b.vault.azure.net/", "accept", "not granted"),
        ("https://evilvault.azure.net/", "accept", "not granted"),
        ("https://one.vault.azure.net.evil.example/", "accept", "not granted"),
        ("https://one.vault.azure.net:444/", "accept", "not granted"),
        ("http://one.vault.azure.net/", "accept", "not granted"),
        ("https://127.0.0.1/", "accept", "not granted"),
        ("https://exact.example:8443/", "accept", "authorized"),
        ("https://exact.example/", "accept", "not granted"),
        ("https://a.exact.example:8443/", "accept", "not granted"),
        ("https://exact.example:8443/", "authorization", "field"),
        ("https://exact.example:8443/", "cookie", "field"),
        ("https://plain.example/", "authorization", "plain"),
        ("https://plain.example/", "cookie", "plain"),
        ("https://plain.example/", "host", "field"),
        ("http://plain.example/", "accept", "not granted"),
        ("http://local.example/", "accept", "plain"),
        ("http://127.0.0.1:8080/", "accept", "plain"),
        ("http://127.0.0.1:41741/msi/token", "accept", "out of reach"),
        ("https://user@plain.example/", "accept", "spelling"),
        ("https://plain.example/a/..", "accept", "spelling"),
    ] {
        assert_eq!(decided(&http, url, field), decision, "{url} {field}");
    }
}

#[test]
fn a_rule_for_http_authorizes_nothing() {
    let http = granted(&["http://sidecar.example"], &[]);
    assert_eq!(decided(&http, "http://sidecar.example/", "accept"), "not granted");
}

#[test]
fn one_caller_has_one_number_of_places_however_many_stores_it_has() {
    let http = granted(&[], &[]);
    let (one, again) = (http.for_caller(Caller::new("one")), http.for_caller(Caller::new("one")));
    assert!(Arc::ptr_eq(&one.places, &again.places));
    assert!(!Arc::ptr_eq(&one.places, &http.places));
    assert!(Arc::ptr_eq(
        &http.places,
        &http.for_caller(Caller::new("plugin")).places
    ));
    assert_eq!(one.granted().caller().name(), "one");
}

#[test]
fn nothing_of_a_token_is_in_what_is_printed() {
    let http = granted(&["one.example"], &[]);
    assert!(!format!("{http:?}").contains("s3cr3t"));
    let mut value = HeaderValue::from_static("Bearer s3cr3t");
    value.set_sensitive(true);
    assert!(!format!("{value:?}").contains("s3cr3t"));
}
