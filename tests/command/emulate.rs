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
        let mut emulate = Emulate::start(
            &[
                &["--listen", "127.0.0.1:0", "--output", "json", "--token-lifetime", "30m"],
                source,
            ]
            .concat(),
        );
        let ready: Value = serde_json::from_str(&emulate.line()).unwrap();
        assert_eq!(keys(&ready), ["listening", "environment"]);
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
