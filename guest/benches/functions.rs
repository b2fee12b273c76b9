//! What the parts of the provider that work on text cost, natively: `./x bench functions`. What a call costs as a whole is
//! measured by the benchmark of the command, beside the clients of others.

use criterion::{Criterion, criterion_group, criterion_main};
use managed_identity_provider::request::{Identity, TokenRequest};
use managed_identity_provider::secret::Secret;
use managed_identity_provider::{claims, expiry, failure_body, reply};
use std::hint::black_box;

/// 2026-07-01T00:00:00Z.
const NOW: u64 = 1_782_864_000;

/// As long as most tokens of managed identities.
const TOKEN_LENGTH: usize = 1_600;

/// `{"aud":"https://vault.azure.net","exp":1782950400,"oid":"00000000-0000-0000-0000-000000000000"}`
const PAYLOAD: &str = "eyJhdWQiOiJodHRwczovL3ZhdWx0LmF6dXJlLm5ldCIsImV4cCI6MTc4Mjk1MDQwMCwib2lkIjoiMDAwMDAwMDAtMDAwMC0wMDAw\
                       LTAwMDAtMDAwMDAwMDAwMDAwIn0";

fn functions(criterion: &mut Criterion) {
    criterion.bench_function("a request, checked", |bencher| {
        bencher.iter(|| {
            let audience = black_box("https://vault.azure.net/.default");
            TokenRequest::checked(audience, Identity::SystemAssigned, None, None, None).is_ok()
        });
    });

    let issued = format!(
        "{{\"access_token\":\"{}\",\"expires_in\":\"86399\",\"expires_on\":\"1782950400\",\"resource\":\"https://vault.azure.net\",\
         \"token_type\":\"Bearer\"}}",
        "t".repeat(TOKEN_LENGTH)
    );
    assert!(reply::parse(issued.as_bytes(), NOW).is_ok(), "{issued}");
    criterion.bench_function("a reply with a token, read", |bencher| {
        bencher.iter(|| reply::parse(black_box(issued.as_bytes()), NOW).is_ok());
    });

    let refused =
        br#"{"error":"invalid_request","error_description":"Identity not found for https://vault.azure.net"}"#;
    let secrets = [Secret::new("s".repeat(TOKEN_LENGTH))];
    criterion.bench_function("a refusal, read and searched for secrets", |bencher| {
        bencher.iter(|| failure_body::read(black_box(refused), &secrets));
    });

    let token = format!("eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}.{}", "s".repeat(342));
    assert!(claims::decode(&token).is_ok(), "{token}");
    criterion.bench_function("the claims of a token, read", |bencher| {
        bencher.iter(|| claims::decode(black_box(&token)).is_ok());
    });

    let date = "Wed, 01 Jul 2026 00:00:00 GMT";
    assert_eq!(expiry::http_date(date), Some(NOW));
    criterion.bench_function("a date of an HTTP header, read", |bencher| {
        bencher.iter(|| expiry::http_date(black_box(date)));
    });
}

criterion_group!(benches, functions);
criterion_main!(benches);
