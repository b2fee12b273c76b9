//! What a newcomer does, as `emulate` prints it and as the README of the guests has it.

use crate::guest::{GUESTS, Language, component};
use crate::support::emulate::Emulate;
use crate::support::program::{HOME, Outcome, finish};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The commands of the README that come after those that leave the emulator running.
fn of_the_readme() -> String {
    let readme = fs::read_to_string(Path::new(GUESTS).join("README.md")).unwrap();
    let commands = readme
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .find(|commands| commands.contains("managed-identity run"));
    commands.expect("the README runs a guest").to_owned()
}

#[test]
fn a_secret_is_read_by_the_commands_that_are_told() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("polyglot/by-hand");
    fs::create_dir_all(&folder).unwrap();
    let ca_file = folder.join("ca.pem");
    let arguments = ["--source", "imds", "--vault", "greeting=hello", "--ca-file"];
    let mut emulate = Emulate::start(&[&arguments[..], &[ca_file.to_str().unwrap()]].concat());
    let mut printed = vec![emulate.line()];
    while !printed[printed.len() - 1].starts_with("# VAULT_URL_PLAIN") {
        printed.push(emulate.line());
    }
    let printed = printed.join("\n");
    let told = printed.lines().find_map(|line| line.strip_prefix("#   ")).unwrap();

    let component = component(Language::Rust).display().to_string();
    let program = Path::new(env!("CARGO_BIN_EXE_managed-identity")).parent().unwrap();
    let run = |commands: &str| -> Outcome {
        let mut shell = Command::new("sh");
        let script = format!("PATH='{}':$PATH\n{printed}\n{commands}", program.display());
        shell
            .env_clear()
            .env("HOME", HOME)
            .current_dir(&folder)
            .args(["-c", &script]);
        finish(shell, "")
    };
    let of_the_readme = of_the_readme();
    for (commands, file) in [
        (told, "fetch-secret.wasm"),
        (&of_the_readme, "target/guests/rust/fetch-secret.wasm"),
    ] {
        assert_eq!(commands.matches(file).count(), 1, "{commands}");
        let outcome = run(&commands.replace(file, &component));
        assert!(
            outcome.success().starts_with("secret: greeting\nfrom: imds\n"),
            "{commands}: {outcome:?}"
        );
    }
    emulate.stop("-TERM");
}
