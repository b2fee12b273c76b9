//! `emulate` and `demo`: a platform where there is none.

use crate::support::program::{command, keys, run};
use crate::{VAULT, WASI, token_arguments};
use managed_identity_host::claims;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A running `emulate`, stopped by force if a test fails.
struct Emulate {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Emulate {
    fn start(arguments: &[&str]) -> Self {
        let arguments = [&["emulate"], arguments].concat();
        let mut child = command::<&str, &str>([], &arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.strip_suffix('\n').expect("a whole line").to_owned()
    }

    /// Asks it to end, as a shell or a supervisor does.
    fn stop(mut self, signal: &str) -> (ExitStatus, String) {
        let kill = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
        let status = self.child.wait().unwrap();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
        (status, rest)
    }
}

impl Drop for Emulate {
    fn drop(&mut self) {
        // It has ended by itself if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

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
