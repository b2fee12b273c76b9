//! `managed-identity serve` as a user runs it, against an emulated platform.

use super::program;
use managed_identity_emulator::Source;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::thread::JoinHandle;

use super::emulated::Emulated;

/// A server that listens. It is killed when dropped.
pub(crate) struct Served {
    pub(crate) child: Child,
    listening: Vec<Value>,
    stderr: Option<JoinHandle<String>>,
}

impl Served {
    /// With the identity source of this emulator, and these arguments after `serve`; returns when each of `protocols` is
    /// announced.
    pub(crate) fn start(platform: &Emulated, source: Source, arguments: &[&str], protocols: &[&str]) -> Self {
        Self::start_in(platform.environment_for(source), arguments, protocols)
    }

    pub(crate) fn start_in(
        environment: impl IntoIterator<Item = (String, String)>,
        arguments: &[&str],
        protocols: &[&str],
    ) -> Self {
        let arguments: Vec<&str> = ["serve"].iter().chain(arguments).copied().collect();
        let mut child = program::command(environment, &arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut listening: Vec<Value> = Vec::new();
        while !protocols
            .iter()
            .all(|protocol| listening.iter().any(|line| line["protocol"] == *protocol))
        {
            let Some(line) = lines.next() else {
                panic!("it ended before it listened: {}", stderr.join().unwrap());
            };
            listening.push(serde_json::from_str(&line.unwrap()).unwrap());
        }
        Self {
            child,
            listening,
            stderr: Some(stderr),
        }
    }

    /// The line that announces this protocol.
    pub(crate) fn announced(&self, protocol: &str) -> &Value {
        self.listening.iter().find(|line| line["protocol"] == protocol).unwrap()
    }

    /// Where this protocol is spoken.
    pub(crate) fn address(&self, protocol: &str) -> SocketAddr {
        self.announced(protocol)["listening"].as_str().unwrap().parse().unwrap()
    }

    /// Sends a signal, by its name (`TERM`).
    pub(crate) fn signal(&self, name: &str) {
        let status = std::process::Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for its end: the exit code, and what it wrote to standard error.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, self.stderr.take().unwrap().join().unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
