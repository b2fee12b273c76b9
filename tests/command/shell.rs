//! The command among others in a shell: help, pipes that end early, full disks.

use crate::VAULT;
use crate::support::emulated::Emulated;
use crate::support::program::{command, run};
use managed_identity_emulator::Source;
use std::process::{Command, Output, Stdio};

const COMMANDS: [&str; 9] = [
    "token",
    "source",
    "doctor",
    "inspect",
    "compile",
    "emulate",
    "demo",
    "run",
    "conformance",
];

#[test]
fn the_help_of_every_command_has_examples() {
    let outcome = run::<&str, &str>([], &["--help"]);
    let overview = outcome.success();
    for name in COMMANDS {
        assert!(overview.contains(name), "{overview}");
        let outcome = run::<&str, &str>([], &[name, "--help"]);
        let help = outcome.success();
        let examples = help.split_once("Examples:").map(|(_, examples)| examples);
        let example = format!("managed-identity {name}");
        assert!(
            examples.is_some_and(|text| text.contains(&example)),
            "examples in {help}"
        );
    }
}

#[test]
fn the_version_is_that_of_the_workspace() {
    assert_eq!(
        run::<&str, &str>([], &["--version"]).success(),
        format!("managed-identity {}", env!("CARGO_PKG_VERSION"))
    );
}

/// What a command does whose output nobody reads any more.
fn unread(mut command: Command) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command.stdout(writer).stderr(Stdio::piped()).output().unwrap()
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let emulated = Emulated::start();
    let app_service = emulated.environment_for(Source::AppService);
    for arguments in [
        &["token", "--resource", VAULT][..],
        &["token", "--resource", VAULT, "--output", "json"],
        &["source"],
        &["source", "--output", "json"],
        &["doctor"],
        &["doctor", "--output", "json"],
        &["inspect", "e30.e30.e30"],
        &["emulate"],
        &["emulate", "--output", "json"],
        &["demo"],
        &["--help"],
        &["token", "--help"],
    ] {
        let output = unread(command(&app_service, arguments));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn errors_that_nobody_reads_are_still_failures() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command::<&str, &str>([], &["inspect", "--output", "json", "nonsense"])
        .stderr(writer)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let emulated = Emulated::start();
    for arguments in [
        &["token", "--resource", VAULT][..],
        &["source"],
        &["doctor"],
        &["inspect", "e30.e30.e30"],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = command(emulated.environment_for(Source::AppService), arguments)
            .stdout(full)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(
            stderr.starts_with("error: ") && !stderr.contains("panicked"),
            "{stderr}"
        );
    }
}
