//! `inspect`: everything that a token says, and nothing that it proves.

use crate::support::program::{Outcome, command, finish, keys, run};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// What the tokens here are signed with; recognisable in whatever is printed.
const SIGNATURE: &str = "c2lnbmF0dXJlLXRoYXQtaXMtbmV2ZXItc2hvd24";

fn token(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"typ": "JWT", "alg": "RS256", "kid": "key-1"});
    format!("{}.{}.{SIGNATURE}", part(&header), part(claims))
}

fn good() -> String {
    token(
        &json!({"aud": "https://vault.azure.net", "iat": 1_700_000_000, "nbf": 1_700_000_000, "exp": 4_000_000_000_u64}),
    )
}

fn inspect(arguments: &[&str], input: &str) -> Outcome {
    let arguments = [&["inspect"], arguments].concat();
    let outcome = finish(command::<&str, &str>([], &arguments), input);
    outcome.must_not_show(&[SIGNATURE]);
    outcome
}

#[test]
fn a_token_is_taken_from_wherever_it_comes() {
    let token = good();
    let object = json!({"access_token": token, "token_type": "Bearer"}).to_string();
    let header = format!("Authorization: Bearer {token}\r\n");
    let bearer = format!("Bearer {token}");
    for (arguments, input) in [
        (&["--output", "json", token.as_str()][..], ""),
        (&["--output", "json", bearer.as_str()], ""),
        (&["--output", "json"], token.as_str()),
        (&["--output", "json", "-"], token.as_str()),
        (&["--output", "json", "-"], header.as_str()),
        (&["--output", "json"], object.as_str()),
    ] {
        let json = inspect(arguments, input).json();
        assert_eq!(keys(&json), ["verified", "header", "claims", "times"]);
        assert_eq!(json["verified"], false);
        assert_eq!(json["header"]["kid"], "key-1");
        assert_eq!(json["claims"]["aud"], "https://vault.azure.net");
        assert_eq!(
            keys(&json["times"]),
            ["issued_at", "not_before", "expires_on", "seconds_left"]
        );
        assert_eq!(json["times"]["expires_on"], 4_000_000_000_u64);
        assert!(json["times"]["seconds_left"].as_i64().unwrap() > 0);
    }
}

#[test]
fn text_shows_times_in_both_forms_and_warns() {
    let outcome = inspect(&[], &good());
    let text = outcome.success();
    for part in [
        "Nothing was verified",
        "2096-10-02T07:06:40Z",
        "4000000000",
        "2023-11-14T22:13:20Z",
        "key-1",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("has expired"), "{text}");
}

#[test]
fn an_expired_token_is_shown_as_such() {
    let expired = token(&json!({"aud": "a", "exp": 1_600_000_000}));
    let json = inspect(&["--output", "json"], &expired).json();
    assert!(json["times"]["seconds_left"].as_i64().unwrap() < 0, "{json}");
    assert!(inspect(&[], &expired).success().contains("has expired"));
}

#[test]
fn a_token_without_times_or_with_absurd_ones_is_shown_too() {
    for (claims, part) in [
        (json!({"aud": "a"}), "when it expires"),
        (json!({"aud": "a", "exp": u64::MAX}), "claims"),
        (json!({"aud": "a", "exp": -5}), "claims"),
        (json!({"aud": "a", "exp": "soon"}), "claims"),
        (json!({"aud": ["a", "b"], "exp": 1.5e9}), "claims"),
    ] {
        let token = token(&claims);
        assert!(inspect(&[], &token).success().contains(part), "{claims}");
        assert_eq!(inspect(&["--output", "json"], &token).json()["claims"], claims);
    }
}

#[test]
fn what_is_no_token_fails_and_is_not_repeated() {
    let whole = good();
    let cut = &whole[..whole.len() / 2];
    let long = format!("{whole}{}", "A".repeat(300 * 1024));
    let broken_payload = format!("{}.bm90IGpzb24tczNjcjN0.{SIGNATURE}", whole.split('.').next().unwrap());
    for text in [
        "",
        " \n",
        "s3cr3t-that-is-no-token",
        "s3cr3t.s3cr3t",
        "s3cr3t.s3cr3t.s3cr3t.s3cr3t",
        "czNjcjN0.czNjcjN0.czNjcjN0",
        "{\"access_token\":\"s3cr3t\"}",
        "{\"access_token\":5}",
        "h\u{e9}.s3cr3t.\u{1F512}",
        cut,
        &broken_payload,
        &long,
    ] {
        for output in ["json", "text"] {
            let outcome = inspect(&["--output", output], text);
            assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{text:.80}");
            outcome.must_not_show(&["s3cr3t", "czNjcjN0", "eyJ"]);
            assert!(
                !outcome.stderr.is_empty() && !outcome.stderr.contains("panicked"),
                "{outcome:?}"
            );
            if output == "json" {
                assert_eq!(outcome.cause(), "invalid-request", "{text:.80}");
            }
        }
    }
    let outcome = run::<&str, &str>([], &["inspect", "s3cr3t.s3cr3t.s3cr3t"]);
    assert_eq!(outcome.code, Some(1));
    outcome.must_not_show(&["s3cr3t"]);
}

#[test]
fn input_that_is_not_text_fails_with_a_sentence() {
    use std::io::Write as _;
    use std::process::Stdio;

    let mut command = command::<&str, &str>([], &["inspect"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"\xff\xfe\x00").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: "));
}
