//! `token`, when it fails: codes, streams, and what is never shown.

use crate::support::closed::closed;
use crate::support::program::{keys, run};
use crate::support::server::{Act, Server, reply};
use crate::{SECRET, VAULT, WASI, token_arguments};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Looks like the beginning of a token, as an endpoint might echo it.
const TOKEN: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL3ZhdWx0LmF6dXJlLm5ldCJ9.c2lnbmF0dXJl";

#[test]
fn usage_errors_end_with_2_before_anything_is_asked() {
    let server = Server::always(Act::token("t"));
    let cases: &[&[&str]] = &[
        &[],
        &["no-such-command"],
        &["token"],
        &[
            "token",
            "--resource",
            VAULT,
            "--scope",
            "https://vault.azure.net/.default",
        ],
        &["token", "--resource"],
        &["token", "--scope", VAULT],
        &["token", "--scope", "https://a/.default https://b/.default"],
        &["token", "--resource", VAULT, "--timeout", "soon"],
        &["token", "--resource", VAULT, "--timeout", "-1s"],
        &["token", "--resource", VAULT, "--timeout", ""],
        &["token", "--resource", VAULT, "--wasi", "0.1"],
        &["token", "--resource", VAULT, "--wasi", "0.2", "--provider", "x.wasm"],
        &["token", "--resource", VAULT, "--output", "xml"],
        &["token", "--resource", VAULT, "--client-id", "a", "--object-id", "b"],
        &["token", "--resource", VAULT, "--client-id", "a", "--system-assigned"],
        &["token", "--resource", VAULT, "--allow-endpoint", "nonsense"],
        &["token", "--resource", VAULT, "--no-such-option"],
        &["source", "--resource", VAULT],
        &["doctor", "--caller", "report"],
        &["doctor", "--grants", "a.toml", "--config", "b.toml"],
        &["doctor", "--client-id", "a", "--system-assigned"],
        &["inspect", "a", "b"],
        &["emulate", "--listen", "nonsense"],
    ];
    for arguments in cases {
        let outcome = run(server.app_service(SECRET), arguments);
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (Some(2), ""),
            "{arguments:?}: {outcome:?}"
        );
        assert!(!outcome.stderr.is_empty(), "{arguments:?}");
        outcome.must_not_show(&[SECRET]);
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn a_malformed_identifier_or_audience_is_refused_before_anything_is_asked() {
    let server = Server::always(Act::token("t"));
    for wasi in WASI {
        for arguments in [
            &["--client-id", "my-identity"][..],
            &["--object-id", ""],
            &["--resource-id", "identity-a"],
        ] {
            let outcome = run(server.app_service(SECRET), &token_arguments(wasi, arguments));
            assert_eq!(outcome.cause(), "invalid-request", "{arguments:?}");
        }
        for audience in [
            "",
            " ",
            "a b",
            "https://vault.azure.net\r\nX: y",
            "/.default",
            "h\u{e9}",
        ] {
            let outcome = run(
                server.app_service(SECRET),
                &["token", "--resource", audience, "--output", "json", "--wasi", wasi],
            );
            assert_eq!(outcome.cause(), "invalid-request", "{audience:?}");
        }
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn the_json_of_a_failure_says_all_that_the_platform_said() {
    let body = format!(r#"{{"statusCode":429,"message":"Slow down, {SECRET}","correlationId":"c0ffee"}}"#);
    let throttled = Server::always(Act::Reply(reply(429, &[("Retry-After", "120")], &body)));
    for wasi in WASI {
        let outcome = run(throttled.app_service(SECRET), &token_arguments(wasi, &[]));
        outcome.must_not_show(&[SECRET]);
        let error = outcome.error();
        assert_eq!(
            (
                &error["cause"],
                &error["source"],
                &error["http_status"],
                &error["retry_after_ms"]
            ),
            (&json!("throttled"), &json!("app-service"), &json!(429), &json!(120_000)),
        );
        assert_eq!(error["correlation_id"], "c0ffee");
    }
    assert_eq!(
        throttled.requests().len(),
        2,
        "the wait is past the caller's deadline, so nothing is asked again"
    );
}

#[test]
fn a_failure_prints_no_result_and_no_secret_in_any_form_of_output() {
    let echo = format!(
        r#"{{"error":"invalid_request","error_description":"you sent {SECRET} and {TOKEN}","access_token":"{TOKEN}"}}"#
    );
    let page = format!("<html><title>{TOKEN}</title>{SECRET}</html>");
    let cases = [
        (Act::status(400, &echo), "invalid-request"),
        (Act::status(401, &echo), "credential-rejected"),
        (Act::status(403, &format!("{SECRET} {TOKEN}")), "credential-rejected"),
        (Act::status(403, &page), "endpoint-intercepted"),
        (Act::status(404, &echo), "endpoint-unreachable"),
        (Act::ok(&page), "endpoint-intercepted"),
        (Act::ok(&format!(r#"{{"access_token":"{TOKEN}"}}"#)), "malformed-reply"),
        (
            Act::ok(&format!(r#"{{"access_token":"{TOKEN}","expires_in":"soon {SECRET}","#)),
            "malformed-reply",
        ),
        (
            Act::ok(&format!(r#"{{"access_token":"{TOKEN}","expires_on":"1"}}"#)),
            "token-rejected",
        ),
    ];
    for (act, cause) in cases {
        let server = Server::always(act);
        for wasi in WASI {
            let outcome = run(server.app_service(SECRET), &token_arguments(wasi, &[]));
            outcome.must_not_show(&[SECRET, TOKEN, "eyJ0eXAi"]);
            assert_eq!(outcome.cause(), cause);
            for output in ["text", "header"] {
                let arguments = ["token", "--resource", VAULT, "--output", output, "--wasi", wasi];
                let outcome = run(server.app_service(SECRET), &arguments);
                outcome.must_not_show(&[SECRET, TOKEN, "eyJ0eXAi"]);
                assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
                assert!(outcome.stderr.contains(cause), "{outcome:?}");
            }
        }
    }
}

#[test]
fn silence_ends_with_the_timeout() {
    let server = Server::always(Act::Hold(Vec::new()));
    for wasi in WASI {
        for timeout in ["0", "300ms", "1s"] {
            let arguments = [
                "token",
                "--resource",
                VAULT,
                "--output",
                "json",
                "--wasi",
                wasi,
                "--timeout",
                timeout,
            ];
            let started = Instant::now();
            let outcome = run(server.app_service(SECRET), &arguments);
            assert_eq!(outcome.cause(), "deadline-exceeded", "{timeout}");
            outcome.must_not_show(&[SECRET]);
            // The timeout, its grace, and the start of a process on a busy machine.
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        }
    }
}

#[test]
fn where_nothing_listens_the_failure_says_so_and_what_to_do() {
    let authority = closed().to_string();
    for wasi in WASI {
        let environment = [
            ("IDENTITY_ENDPOINT", format!("http://{authority}/msi/token")),
            ("IDENTITY_HEADER", SECRET.to_owned()),
        ];
        let outcome = run(environment, &token_arguments(wasi, &[]));
        outcome.must_not_show(&[SECRET]);
        let error = outcome.error();
        assert_eq!(error["cause"], "endpoint-unreachable");
        assert_eq!(error["http_status"], Value::Null);
        assert!(error["message"].as_str().unwrap().contains(&authority), "{error}");
    }
}

#[test]
fn failures_of_other_commands_have_the_same_form() {
    for arguments in [
        &["inspect", "--output", "json", "not-a-token"][..],
        &["emulate", "--output", "json", "--listen", "0.0.0.0:0"],
        &["source", "--output", "json", "--provider", "/no/such/file.wasm"],
    ] {
        let error = run::<&str, &str>([], arguments).error();
        assert_eq!(keys(&error).len(), 6);
    }
}
