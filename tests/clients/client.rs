//! A client that runs: its adapter reads a request from each line, and answers it with one.

use crate::installed;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Nothing here takes as long. A client that still says nothing hangs.
const GUARD: Duration = Duration::from_secs(240);

/// The clients; their versions are pinned in `tests/peers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    AzureIdentityPython,
    MsalPython,
    AzureIdentityNode,
    MsalNode,
    AzureIdentityRust,
}

impl Client {
    pub(crate) const ALL: [Self; 5] = [
        Self::AzureIdentityPython,
        Self::MsalPython,
        Self::AzureIdentityNode,
        Self::MsalNode,
        Self::AzureIdentityRust,
    ];

    /// Its folder in `tests/peers`.
    pub(crate) fn peer(self) -> &'static str {
        match self {
            Self::AzureIdentityPython => "azure-identity-python",
            Self::MsalPython => "msal-python",
            Self::AzureIdentityNode => "azure-identity-node",
            Self::MsalNode => "msal-node",
            Self::AzureIdentityRust => "azure-identity-rust",
        }
    }
}

/// A request for a token as the identity of the machine, which is what a client asks for that names none.
pub(crate) fn system_assigned(audience: &str) -> Value {
    json!({"audience": audience, "identity": {"kind": "system-assigned"}, "timeout_ms": 120_000})
}

/// A request for a token as this identity.
pub(crate) fn user_assigned(audience: &str, client_id: &str) -> Value {
    json!({"audience": audience, "identity": {"kind": "client-id", "id": client_id}, "timeout_ms": 120_000})
}

/// A process of a client. It is killed when dropped.
pub(crate) struct Running {
    client: Client,
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// With nothing in its environment but these variables.
    pub(crate) fn start(client: Client, environment: &[(String, String)]) -> Self {
        let mut command = installed::adapter(client);
        let mut child = command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (answered, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                if answered.send(line.unwrap()).is_err() {
                    break;
                }
            }
        });
        let mut stderr = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        Self {
            client,
            stdin: child.stdin.take(),
            child,
            answers,
            stderr: Some(stderr),
        }
    }

    pub(crate) fn tell(&mut self, request: &Value) {
        writeln!(self.stdin.as_mut().unwrap(), "{request}").unwrap();
    }

    pub(crate) fn answer(&mut self) -> Value {
        match self.answers.recv_timeout(GUARD) {
            Ok(line) => serde_json::from_str(&line).unwrap(),
            Err(RecvTimeoutError::Timeout) => panic!("{:?} hangs", self.client),
            Err(RecvTimeoutError::Disconnected) => {
                panic!(
                    "{:?} broke off: {}",
                    self.client,
                    self.stderr.take().unwrap().join().unwrap()
                )
            }
        }
    }

    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        self.tell(request);
        self.answer()
    }

    /// Waits for its end, now that nothing more is asked: what it wrote to standard error.
    pub(crate) fn end(mut self) -> String {
        drop(self.stdin.take());
        match self.answers.recv_timeout(GUARD) {
            Ok(line) => panic!("{:?} answered what nobody asked: {line}", self.client),
            Err(RecvTimeoutError::Timeout) => panic!("{:?} does not end", self.client),
            Err(RecvTimeoutError::Disconnected) => {}
        }
        assert!(self.child.wait().unwrap().success(), "{:?}", self.client);
        self.stderr.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
