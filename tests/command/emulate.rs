//! `emulate` and `demo`: a platform where there is none.

use crate::support::emulate::Emulate;
use crate::support::program::{keys, run};
use crate::{VAULT, WASI, token_arguments};
use managed_identity_host::claims;
use managed_identity_test_guests::PLUGIN_0_2;
use serde_json::Value;
use std::process::Command;

fn environment(ready: &Value) -> Vec<(String, String)> {
    ready["environment"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect()
}

#[test]
fn one_line_of_json_says_that_it_is_ready_and_it_serves_until_it_is_told_to_end() {
    for (signal, source, expected) in [
        ("-TERM", &[][..], "app-service"),
        ("-INT", &["--source", "app-service"], "app-service"),
        ("-TERM", &["--source", "imds"], "imds"),
    ] {
        let all = source.is_empty();
        let mut emulate = Emulate::start(
            &[
                &["--listen", "127.0.0.1:0", "--output", "json", "--token-lifetime", "30m"],
                source,
            ]
            .concat(),
        );
        let ready: Value = serde_json::from_str(&emulate.line()).unwrap();
        let members = ["listening", "listening_tls", "environment", "environments"];
        assert_eq!(keys(&ready), &members[..if all { 4 } else { 3 }]);
        let address: std::net::SocketAddr = ready["listening"].as_str().unwrap().parse().unwrap();
        assert!(address.ip().is_loopback() && address.port() > 0);
        let environment = environment(&ready);
        for (name, value) in &environment {
            assert!(
                name == "IDENTITY_HEADER" || value.contains(&address.to_string()),
                "{name}={value}"
            );
        }
        for wasi in WASI {
            let json = run(environment.clone(), &token_arguments(wasi, &[])).json();
            assert_eq!(json["source"], expected);
            let claims = claims::decode(json["access_token"].as_str().unwrap()).unwrap();
            let lifetime = claims.expires_on.unwrap() - claims.issued_at.unwrap();
            assert!((1800..2400).contains(&lifetime), "{lifetime}");
        }
        let (status, rest) = emulate.stop(signal);
        assert_eq!((status.code(), rest.as_str()), (Some(0), ""), "{signal}");
    }
}

#[test]
fn the_text_form_can_be_pasted_into_a_shell() {
    let mut emulate = Emulate::start(&["--source", "app-service"]);
    assert!(emulate.line().starts_with("# Listening on 127.0.0.1:"));
    let exports = format!("{}\n{}", emulate.line(), emulate.line());
    assert!(
        exports.lines().all(|line| line.starts_with("export IDENTITY_")),
        "{exports}"
    );
    let program = env!("CARGO_BIN_EXE_managed-identity");
    let script = format!("{exports}\nexec \"{program}\" token --resource {VAULT}\n");
    let mut shell = Command::new("sh");
    shell
        .env_clear()
        .env("HOME", crate::support::program::HOME)
        .args(["-c", &script]);
    let outcome = crate::support::program::finish(shell, "");
    assert_eq!(claims::decode(outcome.success()).unwrap().audiences, [VAULT]);
    assert_eq!(emulate.stop("-TERM").0.code(), Some(0));
}

#[test]
fn every_source_that_has_what_it_needs_is_offered() {
    let without_file = [
        "imds",
        "app-service",
        "app-service-2017",
        "azure-ml",
        "azure-arc",
        "service-fabric",
        "cloud-shell",
        "workload-identity-proxy",
        "nmi",
    ];
    let mut emulate = Emulate::start(&["--output", "json"]);
    let ready: Value = serde_json::from_str(&emulate.line()).unwrap();
    assert_eq!(keys(&ready["environments"]), without_file);

    let directory = scratch("offered");
    let (token, authority) = (directory.join("token"), directory.join("ca.pem"));
    let files = [&token, &authority].map(|file| file.to_str().unwrap());
    let mut emulate = Emulate::start(&[
        "--output",
        "json",
        "--arc-directory",
        directory.to_str().unwrap(),
        "--federated-token-file",
        files[0],
        "--ca-file",
        files[1],
    ]);
    let ready: Value = serde_json::from_str(&emulate.line()).unwrap();
    let offered = keys(&ready["environments"]);
    assert_eq!(offered.len(), without_file.len() + 2, "{offered:?}");
    let bindings = &ready["environments"]["identity-bindings"];
    assert_eq!(bindings["AZURE_FEDERATED_TOKEN_FILE"], files[0]);
    let pem = std::fs::read_to_string(&authority).unwrap();
    assert_eq!(bindings["AZURE_KUBERNETES_CA_DATA"], pem.as_str());
    assert!(token.exists());
    assert_eq!(emulate.stop("-TERM").0.code(), Some(0));
    assert!(!token.exists(), "the emulator removes what it alone can vouch for");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_vault_takes_the_tokens_and_has_the_secrets() {
    let directory = scratch("vault");
    let [authority, plugin] = ["ca.pem", "plugin.wasm"].map(|name| directory.join(name).to_str().unwrap().to_owned());
    std::fs::write(&plugin, PLUGIN_0_2).unwrap();
    for source in ["app-service", "imds"] {
        let vault = [
            "--vault",
            "greeting=hello",
            "--vault",
            "empty=",
            "--ca-file",
            &authority,
        ];
        let mut emulate = Emulate::start(&[&["--output", "json", "--source", source][..], &vault].concat());
        let ready: Value = serde_json::from_str(&emulate.line()).unwrap();
        let [secure, plain] = ["VAULT_URL", "VAULT_URL_PLAIN"].map(|name| ready["environment"][name].as_str().unwrap());
        let (secure, plain) = (
            secure.strip_prefix("https://").unwrap(),
            plain.strip_prefix("http://").unwrap(),
        );
        let authorize = format!("{secure}={VAULT}");
        let authorized = ["--authorize", &authorize];
        let as_they_are = ["--allow-http", &format!("http://{plain}")];
        for (grants, scheme, vault, name, status) in [
            (authorized, "https", secure, "greeting", 200),
            (authorized, "https", secure, "empty", 200),
            (authorized, "https", secure, "other", 404),
            (as_they_are, "http", plain, "greeting", 401),
        ] {
            let path = format!("/secrets/{name}?api-version=7.4");
            let arguments = [&["run"][..], &grants, &[&plugin, "send", scheme, vault, &path]].concat();
            let mut environment = environment(&ready);
            environment.push(("SSL_CERT_FILE".to_owned(), authority.clone()));
            let outcome = run(environment, &arguments);
            assert_eq!(outcome.success(), format!("ok status {status}"), "{source} {name}");
        }
        assert_eq!(emulate.stop("-TERM").0.code(), Some(0));
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn the_text_form_says_how_a_component_reads_a_secret() {
    let directory = scratch("it's");
    let authority = directory.join("ca.pem");
    let vault = ["--vault", "first=1", "--vault", "second=2"];
    let ca_file = ["--ca-file", authority.to_str().unwrap()];
    for (more, quoted) in [
        (&ca_file[..], authority.display().to_string().replace('\'', "'\\''")),
        (&[], "ca.pem".to_owned()),
    ] {
        let mut emulate = Emulate::start(&[&["--source", "imds"], &vault[..], more].concat());
        let lines: Vec<_> = (0..8).map(|_| emulate.line()).collect();
        assert!(
            lines[2].starts_with("export VAULT_URL='https://127.0.0.1:"),
            "{lines:?}"
        );
        assert!(
            lines[3].starts_with("export VAULT_URL_PLAIN='http://127.0.0.1:"),
            "{lines:?}"
        );
        assert!(lines[4..].iter().all(|line| line.starts_with('#')), "{lines:?}");
        assert!(
            lines[6].starts_with(&format!("#   SSL_CERT_FILE='{quoted}' managed-identity run ")),
            "{lines:?}"
        );
        assert!(lines[6].ends_with(" first"), "{lines:?}");
        let (status, rest) = emulate.stop("-TERM");
        assert_eq!((status.code(), rest.as_str()), (Some(0), ""));
    }
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn the_whole_text_form_is_a_script_too() {
    let directory = scratch("script");
    let token = directory.join("token");
    let mut emulate = Emulate::start(&["--federated-token-file", token.to_str().unwrap()]);
    let mut lines = vec![emulate.line()];
    // The last source is the last in the text.
    while !lines.iter().any(|line| line.starts_with("# --source nmi")) || lines.len() < 5 {
        lines.push(emulate.line());
    }
    let (comments, exports): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.starts_with('#'));
    assert!(exports.iter().all(|line| line.starts_with("export ")), "{exports:?}");
    assert_eq!(exports.len(), 3);
    for name in ["azure-arc", "identity-bindings"] {
        assert!(
            comments.contains(&&format!("# --source {name}:")),
            "{name} in {comments:?}"
        );
    }
    assert_eq!(emulate.stop("-TERM").0.code(), Some(0));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_cannot_be_emulated_is_refused_with_the_reason() {
    for (arguments, code, named) in [
        (&["--source", "workload-identity"][..], 1, "--federated-token-file"),
        (&["--source", "identity-bindings"], 1, "--federated-token-file"),
        (&["--source", "smtp"], 2, "service-fabric"),
        (&["--token-lifetime", "101y"], 2, "100 years"),
        (&["--token-lifetime", "18446744073709551615"], 2, "100 years"),
        (&["--arc-directory", "/does/not/exist"], 1, "/does/not/exist"),
        (&["--federated-token-file", "/does/not/exist"], 1, "/does/not/exist"),
        (&["--ca-file", "/does/not/exist"], 1, "/does/not/exist"),
        (&["--vault", "greeting"], 2, "greeting=hello"),
        (&["--vault", "=hello"], 2, "greeting=hello"),
        (&["--vault", "a/b=hello"], 2, "greeting=hello"),
    ] {
        let outcome = run::<&str, &str>([], &[&["emulate"], arguments].concat());
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (Some(code), ""),
            "{arguments:?}: {outcome:?}"
        );
        assert!(outcome.stderr.contains(named), "{arguments:?}: {outcome:?}");
    }
}

/// A new directory for the files of one test.
fn scratch(name: &str) -> std::path::PathBuf {
    let directory = std::env::temp_dir().join(format!("managed-identity-emulate-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

#[test]
fn it_listens_on_this_machine_only() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let outcome = run::<&str, &str>([], &["emulate", "--listen", address]);
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (Some(1), ""),
            "{address}: {outcome:?}"
        );
        assert!(outcome.stderr.contains(address), "{outcome:?}");
    }
}

#[test]
fn the_demo_shows_a_decoded_token_a_cached_one_and_a_refusal() {
    for wasi in WASI {
        // What is set on the machine has no say in it.
        let environment = [
            ("IDENTITY_ENDPOINT", "http://203.0.113.9/"),
            ("http_proxy", "http://203.0.113.9/"),
        ];
        let outcome = run(environment, &["demo", "--wasi", wasi]);
        let text = outcome.success();
        for part in [
            "app-service",
            "\"aud\": \"https://vault.azure.net\"",
            "valid until",
            "the platform was asked 1 time",
            "denied: ",
            "203.0.113.7",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("a secret that must not travel"));
    }
}
