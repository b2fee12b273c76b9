//! `managed-identity emulate`, running.

use super::program::command;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A running `emulate`, stopped by force if a test fails.
pub(crate) struct Emulate {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Emulate {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let arguments = [&["emulate"], arguments].concat();
        let mut child = command::<&str, &str>([], &arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.strip_suffix('\n').expect("a whole line").to_owned()
    }

    /// Asks it to end, as a shell or a supervisor does.
    pub(crate) fn stop(mut self, signal: &str) -> (ExitStatus, String) {
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
