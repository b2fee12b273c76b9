//! The `managed-identity` command as a user runs it: arguments and environment in, two streams and a code out.

use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Compiled components are kept here, by all tests together and away from the user's own.
pub(crate) const HOME: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/home");

/// What came out.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The command, with nothing in its environment but these variables and a home.
pub(crate) fn command<N: AsRef<OsStr>, V: AsRef<OsStr>>(
    environment: impl IntoIterator<Item = (N, V)>,
    arguments: &[&str],
) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_managed-identity"));
    command
        .env_clear()
        .env("HOME", HOME)
        .envs(environment)
        .args(arguments)
        .stdin(Stdio::null());
    command
}

/// Runs the command to its end.
pub(crate) fn run<N: AsRef<OsStr>, V: AsRef<OsStr>>(
    environment: impl IntoIterator<Item = (N, V)>,
    arguments: &[&str],
) -> Outcome {
    finish(command(environment, arguments), "")
}

/// Runs a command to its end, with this on its standard input.
pub(crate) fn finish(mut command: Command, input: &str) -> Outcome {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing may be gone before it could be told anything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Outcome {
    /// Standard output of a success, without the line end; nothing but that line end may follow.
    pub(crate) fn success(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.stderr, "", "a success has nothing to say");
        self.stdout.strip_suffix('\n').unwrap()
    }

    /// One line of JSON on standard output.
    pub(crate) fn json(&self) -> Value {
        let line = self.success();
        assert!(!line.contains('\n'), "{line}");
        serde_json::from_str(line).unwrap()
    }

    /// The one JSON object that a failure prints on standard error, checked for its form. Returns what is in `error`.
    pub(crate) fn error(&self) -> Value {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.stdout, "", "a failure prints no result");
        let mut object: Value = serde_json::from_str(&self.stderr).unwrap();
        assert_eq!(keys(&object), ["error"]);
        let error = object["error"].take();
        assert_eq!(
            keys(&error),
            [
                "cause",
                "message",
                "source",
                "http_status",
                "retry_after_ms",
                "correlation_id"
            ]
        );
        assert!(!error["message"].as_str().unwrap().is_empty());
        error
    }

    /// The cause of such a failure.
    pub(crate) fn cause(&self) -> String {
        self.error()["cause"].as_str().unwrap().to_owned()
    }

    /// Fails the test when one of these is anywhere in what was printed.
    pub(crate) fn must_not_show(&self, secrets: &[&str]) {
        for secret in secrets {
            assert!(
                !self.stdout.contains(secret) && !self.stderr.contains(secret),
                "{secret} in {self:?}"
            );
        }
    }
}

/// The names in a JSON object, in their order.
pub(crate) fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}
