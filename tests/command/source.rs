//! `source`: which source, why, and never a value.

use crate::WASI;
use crate::support::program::{keys, run};
use serde_json::Value;

/// In every value that could be a secret.
const MARKER: &str = "v4lu3";

/// In every address; such a value may be seen as the endpoint, and nowhere else.
const HOST: &str = "127.0.0.1:1";

struct Case {
    environment: &'static [(&'static str, &'static str)],
    source: Option<&'static str>,
    endpoint: Option<&'static str>,
    /// The cause of the failure, where nothing can be used.
    cause: Option<&'static str>,
    /// Variables that the reasons have to name.
    named: &'static [&'static str],
}

const ENDPOINT: (&str, &str) = ("IDENTITY_ENDPOINT", "http://127.0.0.1:1/msi/token");
const HEADER: (&str, &str) = ("IDENTITY_HEADER", "s3cr3t-v4lu3");
const THUMBPRINT: (&str, &str) = ("IDENTITY_SERVER_THUMBPRINT", "v4lu3");
const WELL_KNOWN: &str = "http://169.254.169.254/metadata/identity/oauth2/token";

const CASES: &[Case] = &[
    Case {
        environment: &[],
        source: Some("imds"),
        endpoint: Some(WELL_KNOWN),
        cause: None,
        named: &[],
    },
    Case {
        environment: &[HEADER],
        source: Some("imds"),
        endpoint: Some(WELL_KNOWN),
        cause: None,
        named: &[],
    },
    Case {
        environment: &[("IDENTITY_ENDPOINT", ""), HEADER, THUMBPRINT],
        source: Some("imds"),
        endpoint: Some(WELL_KNOWN),
        cause: None,
        named: &[],
    },
    Case {
        environment: &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1/base/")],
        source: Some("imds"),
        endpoint: Some("http://127.0.0.1:1/base/metadata/identity/oauth2/token"),
        cause: None,
        named: &["AZURE_POD_IDENTITY_AUTHORITY_HOST"],
    },
    Case {
        environment: &[
            ENDPOINT,
            HEADER,
            ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1"),
        ],
        source: Some("app-service"),
        endpoint: Some("http://127.0.0.1:1/msi/token"),
        cause: None,
        named: &["IDENTITY_ENDPOINT", "IDENTITY_HEADER"],
    },
    Case {
        environment: &[
            ENDPOINT,
            HEADER,
            ("AZURE_CLIENT_ID", "00000000-0000-4000-8000-0000000v4lu3"),
        ],
        source: Some("app-service"),
        endpoint: Some("http://127.0.0.1:1/msi/token"),
        cause: Some("not-configured"),
        named: &["AZURE_CLIENT_ID"],
    },
    Case {
        environment: &[ENDPOINT],
        source: None,
        endpoint: None,
        cause: Some("not-configured"),
        named: &["IDENTITY_ENDPOINT"],
    },
    Case {
        environment: &[("IDENTITY_ENDPOINT", "http://u:v4lu3@127.0.0.1:1/"), HEADER],
        source: None,
        endpoint: None,
        cause: Some("not-configured"),
        named: &["IDENTITY_ENDPOINT"],
    },
    Case {
        environment: &[ENDPOINT, HEADER, THUMBPRINT],
        source: None,
        endpoint: None,
        cause: Some("not-configured"),
        named: &["IDENTITY_SERVER_THUMBPRINT"],
    },
    Case {
        environment: &[("IDENTITY_ENDPOINT", "https://127.0.0.1:1/token"), HEADER, THUMBPRINT],
        source: None,
        endpoint: None,
        cause: Some("not-configured"),
        named: &["IDENTITY_SERVER_THUMBPRINT"],
    },
    Case {
        environment: &[("MSI_ENDPOINT", "http://127.0.0.1:1/"), ("MSI_SECRET", "v4lu3")],
        source: Some("azure-ml"),
        endpoint: Some("http://127.0.0.1:1/"),
        cause: None,
        named: &["MSI_ENDPOINT", "MSI_SECRET"],
    },
    Case {
        environment: &[
            ("AZURE_FEDERATED_TOKEN_FILE", "/run/v4lu3/token"),
            ("AZURE_TENANT_ID", "v4lu3"),
            ("AZURE_AUTHORITY_HOST", "http://127.0.0.1:1/"),
        ],
        source: None,
        endpoint: None,
        cause: Some("not-configured"),
        named: &["AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST"],
    },
];

#[test]
fn the_source_and_its_reasons_are_shown_and_no_values() {
    for case in CASES {
        for wasi in WASI {
            let json = ["source", "--wasi", wasi, "--output", "json"];
            let outcome = run(case.environment.iter().copied(), &json);
            outcome.must_not_show(&[MARKER]);
            assert_eq!(outcome.code, Some(i32::from(case.cause.is_some())), "{outcome:?}");
            assert_eq!(outcome.stderr, "");
            let mut shown: Value = serde_json::from_str(&outcome.stdout).unwrap();
            assert_eq!(keys(&shown), ["source", "endpoint", "reasons", "last_failure"]);
            assert_eq!(shown["source"].as_str(), case.source, "{:?}", case.environment);
            assert_eq!(shown["endpoint"].take().as_str(), case.endpoint);
            assert_eq!(shown["last_failure"]["cause"].as_str(), case.cause, "{shown}");
            assert!(!shown["reasons"].as_array().unwrap().is_empty());
            let rest = shown.to_string();
            assert!(!rest.contains(HOST), "an address is no reason: {rest}");
            for variable in case.named {
                assert!(rest.contains(variable), "{variable} in {rest}");
            }

            let text = run(case.environment.iter().copied(), &["source", "--wasi", wasi]);
            text.must_not_show(&[MARKER]);
            assert_eq!((text.code, text.stderr.as_str()), (outcome.code, ""));
            assert!(
                text.stdout.contains(case.source.unwrap_or("none can be used")),
                "{text:?}"
            );
        }
    }
}

/// Taken for unset, such a variable would lead to another identity than the one it names.
#[cfg(unix)]
#[test]
fn a_variable_that_is_not_text_is_an_error_and_not_unset() {
    use std::os::unix::ffi::OsStrExt as _;
    let outcome = crate::support::program::command([HEADER], &["token", "--resource", "r", "--output", "json"])
        .env(
            "IDENTITY_ENDPOINT",
            std::ffi::OsStr::from_bytes(b"http://127.0.0.1:1/v4lu3\xff"),
        )
        .output()
        .unwrap();
    let stderr = String::from_utf8(outcome.stderr).unwrap();
    assert_eq!(
        (outcome.status.code(), outcome.stdout.as_slice()),
        (Some(1), b"".as_slice())
    );
    assert!(
        stderr.contains("not-configured") && stderr.contains("IDENTITY_ENDPOINT"),
        "{stderr}"
    );
    assert!(!stderr.contains(MARKER), "{stderr}");
}
