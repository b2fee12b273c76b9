//! The suite, held against clients that are wrong on purpose: each has to fail, and for its own reason.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use managed_identity_conformance::answer::{Answer, FailureAnswer, TokenAnswer};
use managed_identity_conformance::case::{Case, File, Identity, Node, Request, Runner};
use managed_identity_conformance::process::Process;
use managed_identity_conformance::run::{Client, Ended, NotStarted, Session, Setting, Verdict, replay, replay_all};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SECRET: &str = "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a";

/// What a client does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deviation {
    None,
    OtherMethod,
    OtherPath,
    OtherAudience,
    NoSelector,
    SelectorTwice,
    MoreParameters,
    NoMetadataHeader,
    HeaderOfAnotherSource,
    OneRequestMore,
    NoRequest,
    UselessConnection,
    AnotherIdentityAccepted,
    AnotherToken,
    ExpiryIgnored,
    ExpiryUnknown,
    OtherCause,
    NoMessage,
    SecretInError,
    KeyInError,
    SecretOnStandardError,
    FailureInsteadOfToken,
}

/// A small client of the metadata service and of App Service.
struct Sketch(Deviation);

struct Instance {
    deviation: Deviation,
    environment: BTreeMap<String, String>,
    /// The text of the last file that it was given.
    key: String,
}

/// The text of the last of some files.
fn last_text(files: &[File]) -> Option<String> {
    files.iter().rev().find_map(|file| match file.node() {
        Node::Text(text) => Some(text),
        _ => None,
    })
}

impl Client for Sketch {
    const RUNNER: Runner = Runner::Components;
    type Session = Instance;

    async fn start(&self, setting: &Setting) -> Result<Instance, NotStarted> {
        Ok(Instance {
            deviation: self.0,
            environment: setting.scenario.environment.clone(),
            key: last_text(&setting.scenario.files).unwrap_or_default(),
        })
    }
}

impl Session for Instance {
    fn lay_out(&mut self, files: &[File]) -> io::Result<()> {
        if let Some(text) = last_text(files) {
            self.key = text;
        }
        Ok(())
    }

    async fn ask(&mut self, request: &Request) -> Answer {
        let wrong = |deviation| self.deviation == deviation;
        let failure = |cause: &str, status| {
            let message = if wrong(Deviation::NoMessage) {
                ""
            } else {
                "The request failed."
            };
            let mut shown = format!("{cause}: {message}");
            if wrong(Deviation::SecretInError) {
                shown.push_str(SECRET);
            }
            if wrong(Deviation::KeyInError) {
                shown.push_str(&self.key);
            }
            let cause = if wrong(Deviation::OtherCause) {
                "internal"
            } else {
                cause
            };
            Answer::Failure(FailureAnswer {
                cause: Some(cause.to_owned()),
                message: message.to_owned(),
                http_status: Some(status),
                shown,
                ..FailureAnswer::default()
            })
        };
        let (host, path, header) = match self.environment.get("IDENTITY_HEADER") {
            None => (
                &self.environment["AZURE_POD_IDENTITY_AUTHORITY_HOST"],
                "/metadata/identity/oauth2/token",
                "metadata: true",
            ),
            Some(_) => (
                &self.environment["IDENTITY_ENDPOINT"],
                "/msi/token",
                "x-identity-header: ",
            ),
        };
        let host = host.trim_start_matches("http://").trim_end_matches("/msi/token");
        let id = match &request.identity {
            Identity::ClientId(id) => id,
            _ if wrong(Deviation::UselessConnection) => {
                let mut stream = TcpStream::connect(host).await.unwrap();
                // Until the server has noticed.
                let _ = stream.read(&mut [0]).await;
                return failure("unsupported", None);
            }
            _ => return failure("unsupported", None),
        };
        let method = if wrong(Deviation::OtherMethod) { "POST" } else { "GET" };
        let path = if wrong(Deviation::OtherPath) { "/token" } else { path };
        let audience = if wrong(Deviation::OtherAudience) {
            "https://graph.microsoft.com"
        } else {
            &request.audience
        };
        let mut target = format!("{path}?resource={audience}");
        if !wrong(Deviation::NoSelector) {
            target.push_str(&format!("&client_id={id}"));
        }
        if wrong(Deviation::SelectorTwice) {
            target.push_str(&format!("&client_id={id}"));
        }
        if wrong(Deviation::MoreParameters) {
            target.push_str("&bypass_cache=true");
        }
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
        if !wrong(Deviation::NoMetadataHeader) {
            head.push_str(&format!(
                "{header}{}\r\n",
                self.environment.get("IDENTITY_HEADER").map_or("", String::as_str)
            ));
        }
        if wrong(Deviation::HeaderOfAnotherSource) {
            head.push_str(&format!("x-identity-header: {SECRET}\r\n"));
        }
        head.push_str("\r\n");
        let reply = match wrong(Deviation::NoRequest) {
            true => (
                200,
                json!({ "access_token": "token-a", "expires_in": "3600", "client_id": id }),
            ),
            false => exchange(host, &head).await,
        };
        if wrong(Deviation::OneRequestMore) {
            exchange(host, &head).await;
        }
        let (status, body) = reply;
        if status != 200 || wrong(Deviation::FailureInsteadOfToken) {
            return failure("credential-rejected", Some(status));
        }
        if body["client_id"] != id.as_str() && !wrong(Deviation::AnotherIdentityAccepted) {
            return failure("identity-mismatch", Some(200));
        }
        let token = if wrong(Deviation::AnotherToken) {
            "token-b"
        } else {
            body["access_token"].as_str().unwrap()
        };
        let lifetime: u64 = if wrong(Deviation::ExpiryIgnored) {
            86_400
        } else {
            body["expires_in"].as_str().unwrap().parse().unwrap()
        };
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        Answer::Token(TokenAnswer {
            access_token: token.to_owned(),
            expires_on: (!wrong(Deviation::ExpiryUnknown)).then_some(now + lifetime),
            ..TokenAnswer::default()
        })
    }

    async fn stop(self) -> Ended {
        let shown = if self.deviation == Deviation::SecretOnStandardError {
            SECRET
        } else {
            ""
        };
        Ended {
            faults: Vec::new(),
            shown: shown.to_owned(),
        }
    }
}

async fn exchange(host: &str, head: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (
        head[9..12].parse().unwrap(),
        serde_json::from_str(body).unwrap_or_default(),
    )
}

/// A token, an identity that is not the right one, a refusal before anything is sent, a rejected secret, and the refusal
/// again, with a key in a file.
fn cases() -> Vec<Case> {
    let imds = |name: &str, reply: Value, expect: Value| {
        let case = json!({
            "description": "The metadata service is asked.",
            "environment": { "AZURE_POD_IDENTITY_AUTHORITY_HOST": "${endpoint}" },
            "steps": [{
                "request": { "audience": "https://vault.azure.net", "identity": { "client_id": "id-a" } },
                "exchanges": [{
                    "request": {
                        "path": "/metadata/identity/oauth2/token",
                        "query": { "resource": "https://vault.azure.net", "client_id": "id-a" },
                        "headers": { "metadata": "true" },
                        "absent_headers": ["x-identity-header"],
                    },
                    "reply": { "body": reply },
                }],
                "expect": expect,
            }],
            "secrets": [SECRET],
        });
        Case::parse(name, &case.to_string()).unwrap()
    };
    let token = |id: &str| json!({ "access_token": "token-a", "expires_in": "3600", "client_id": id });
    let refused = json!({
        "description": "What cannot be is refused before anything is sent.",
        "environment": { "AZURE_POD_IDENTITY_AUTHORITY_HOST": "${endpoint}" },
        "steps": [{
            "request": { "audience": "https://vault.azure.net", "identity": { "object_id": "id-a" } },
            "exchanges": [],
            "expect": { "error": "unsupported" },
        }],
    });
    let keyed = |name: &str, case_files: Value, step_files: Value| {
        let mut case = refused.clone();
        for (place, files) in [("", case_files), ("/steps/0", step_files)] {
            if !files.is_null() {
                case.pointer_mut(place).unwrap()["files"] = files;
            }
        }
        Case::parse(name, &case.to_string()).unwrap()
    };
    let key = json!([{ "path": "${dir}/a.key", "text": "arc-key-a" }]);
    let rejected = json!({
        "description": "The secret is wrong.",
        "environment": { "IDENTITY_ENDPOINT": "${endpoint}/msi/token", "IDENTITY_HEADER": SECRET },
        "steps": [{
            "request": { "audience": "https://vault.azure.net", "identity": { "client_id": "id-a" } },
            "exchanges": [{
                "request": {
                    "path": "/msi/token",
                    "query": { "resource": "https://vault.azure.net", "client_id": "id-a" },
                    "headers": { "x-identity-header": SECRET },
                },
                "reply": { "status": 401 },
            }],
            "expect": { "error": "credential-rejected", "http_status": 401 },
        }],
    });
    vec![
        imds(
            "imds/token",
            token("id-a"),
            json!({ "token": "token-a", "expires_on": "${now+3600}" }),
        ),
        imds("imds/mismatch", token("id-b"), json!({ "error": "identity-mismatch" })),
        Case::parse("imds/refused", &refused.to_string()).unwrap(),
        Case::parse("app-service/rejected", &rejected.to_string()).unwrap(),
        keyed("imds/key-of-the-case", key.clone(), Value::Null),
        keyed("imds/key-of-the-step", Value::Null, key),
    ]
}

#[tokio::test]
async fn every_deviation_is_noticed() {
    use Deviation::*;
    const TOKEN: usize = 0;
    const MISMATCH: usize = 1;
    const REFUSED: usize = 2;
    const REJECTED: usize = 3;
    const KEY_OF_THE_CASE: usize = 4;
    const KEY_OF_THE_STEP: usize = 5;
    let cases = cases();
    for outcome in replay_all(&Sketch(None), &cases, 2, |_| {}).await {
        assert_eq!(outcome.verdict, Verdict::Passed, "{}", outcome.name);
    }
    for (deviation, case, difference) in [
        (OtherMethod, TOKEN, "method: expected `GET`, got `POST`"),
        (OtherPath, TOKEN, "path: expected"),
        (OtherAudience, TOKEN, "query parameter `resource`: expected"),
        (
            NoSelector,
            TOKEN,
            "query parameter `client_id`: expected `id-a`, it is missing",
        ),
        (
            SelectorTwice,
            TOKEN,
            "query parameter `client_id`: expected `id-a` once",
        ),
        (MoreParameters, TOKEN, "query parameter `bypass_cache`: not expected"),
        (
            NoMetadataHeader,
            TOKEN,
            "header `metadata`: expected `true`, it is missing",
        ),
        (NoMetadataHeader, REJECTED, "header `x-identity-header`: expected"),
        (
            HeaderOfAnotherSource,
            TOKEN,
            "header `x-identity-header`: must not be there",
        ),
        (OneRequestMore, TOKEN, "Nothing more was expected"),
        (NoRequest, TOKEN, "Request 1 of 1 was never sent"),
        (
            UselessConnection,
            REFUSED,
            "Nothing may be sent, and the client made a connection",
        ),
        (
            AnotherIdentityAccepted,
            MISMATCH,
            "expected the error `identity-mismatch`, the client answered with the token",
        ),
        (AnotherToken, TOKEN, "token: expected `token-a`, got `token-b`"),
        (ExpiryIgnored, TOKEN, "expires_on: expected"),
        (ExpiryUnknown, TOKEN, "expires_on: the client does not say it"),
        (
            OtherCause,
            REJECTED,
            "cause: expected `credential-rejected`, got `internal`",
        ),
        (NoMessage, REFUSED, "does not say what is wrong"),
        (SecretInError, REJECTED, "The error shows the secret"),
        (KeyInError, KEY_OF_THE_CASE, "The error shows the secret `arc-key-a`"),
        (KeyInError, KEY_OF_THE_STEP, "The error shows the secret `arc-key-a`"),
        (
            SecretOnStandardError,
            REJECTED,
            "What the client printed shows the secret",
        ),
        (SecretOnStandardError, TOKEN, "What the client printed shows the secret"),
        (
            FailureInsteadOfToken,
            TOKEN,
            "expected the token `token-a`, the client answered with an error",
        ),
    ] {
        let outcome = replay(&Sketch(deviation), &cases[case]).await;
        let Verdict::Failed(faults) = outcome.verdict else {
            panic!("{deviation:?} passes {}", outcome.name);
        };
        assert!(
            faults.iter().any(|fault| fault.contains(difference)),
            "{deviation:?}: {faults:?}: no {difference}"
        );
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_program_is_held_to_the_protocol() {
    // This one asks for nothing on the network, which a program in the shell cannot.
    let case = &cases()[2];
    let good = r#"read -r line && echo '{"error":{"cause":"unsupported","message":"No."}}'"#;
    for (command, difference) in [
        (good.to_owned(), None),
        (format!("{good}; echo"), None),
        (format!("{good}; cat >&2"), None),
        (
            good.replace("unsupported", "denied"),
            Some("cause: expected `unsupported`, got `denied`"),
        ),
        (
            "echo Traceback".to_owned(),
            Some("a line that is no JSON object: Traceback"),
        ),
        (
            "read -r line; echo broken >&2; exit 3".to_owned(),
            Some("ended without an answer (exit status: 3). Its standard error ends:\nbroken"),
        ),
        (
            "no-such-program-anywhere".to_owned(),
            Some("ended without an answer (exit status: 127)"),
        ),
        (format!("{good}; exit 1"), Some("did not end well (exit status: 1)")),
        (
            format!("{good}; echo more"),
            Some("printed more than it was asked for: more"),
        ),
        (
            format!("{good}; echo \"$AZURE_POD_IDENTITY_AUTHORITY_HOST\" | grep -q ^http://127.0.0.1: || exit 4"),
            None,
        ),
        (
            format!("{good}; test -z \"$USER$CARGO\" && test -d \"$HOME\" || exit 5"),
            None,
        ),
        (
            r#"read -r line; printf '{"error":{"message":"%s"}}\n' "$(echo "$line" | tr -d '"')""#.to_owned(),
            None,
        ),
    ] {
        let outcome = replay(&Process::new(&command), case).await;
        match (&outcome.verdict, difference) {
            (Verdict::Passed, None) => {}
            (Verdict::Failed(faults), Some(difference)) if faults.iter().any(|fault| fault.contains(difference)) => {}
            (verdict, _) => panic!("{command}: {verdict:?}, not {difference:?}"),
        }
    }
    let leak = format!("echo {SECRET} >&2; {good}").replace("unsupported", "credential-rejected");
    let outcome = replay(&Process::new(leak), &cases()[3]).await;
    assert!(
        format!("{:?}", outcome.verdict).contains("What the client printed shows the secret"),
        "{outcome:?}"
    );
}
