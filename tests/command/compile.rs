//! `compile`, and `--provider` with what it has made.

use crate::support::emulated::Emulated;
use crate::support::program::{Outcome, run};
use crate::{VAULT, WASI};
use managed_identity_emulator::Source;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

const NOTHING: [(&str, &str); 0] = [];

/// A folder for one test, which is empty at first.
fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("compiled-by-command")
        .join(test);
    // What an earlier run has left, if there was one.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn compiled(folder: &Path, wasi: &str) -> String {
    let file = folder.join(format!("{wasi}.cwasm")).display().to_string();
    run(NOTHING, &["compile", "--wasi", wasi, "--output", &file]).success();
    file
}

fn token(emulated: &Emulated, more: &[&str]) -> Outcome {
    let arguments = ["token", "--resource", VAULT, "--output", "json", "--provider"];
    run(
        emulated.environment_for(Source::AppService),
        &[&arguments[..], more].concat(),
    )
}

fn message(outcome: &Outcome) -> String {
    outcome.error()["message"].as_str().unwrap().to_owned()
}

#[test]
fn what_was_compiled_gives_tokens() {
    let emulated = Emulated::start();
    let folder = folder("tokens");
    for wasi in WASI {
        let file = compiled(&folder, wasi);
        let outcome = token(&emulated, &[&file, "--trust-compiled-code"]);
        assert_eq!(outcome.json()["source"], "app-service", "{wasi}");
        // A component needs no trust, and does not mind it.
        let component = folder.join(format!("{wasi}.wasm"));
        let bytes = match wasi {
            "0.2" => managed_identity_host::EMBEDDED_0_2,
            _ => managed_identity_host::EMBEDDED_0_3,
        };
        fs::write(&component, bytes).unwrap();
        let component = component.display().to_string();
        token(&emulated, &[&component, "--trust-compiled-code"]).json();
        // The same, from the file.
        let again = folder.join("again.cwasm").display().to_string();
        run(NOTHING, &["compile", "--provider", &component, "--output", &again]).success();
        assert_eq!(fs::read(&again).unwrap().len(), fs::read(&file).unwrap().len());
        let outcome = run(NOTHING, &["compile", "--json", "--provider", &file, "--output", &again]);
        assert!(message(&outcome).contains("compiled already"), "{outcome:?}");
    }
    let left: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 5, "nothing unfinished is left: {left:?}");
}

#[test]
fn it_says_what_it_made_and_how_to_use_it() {
    let folder = folder("says");
    let file = folder.join("p.cwasm").display().to_string();
    let text = run(NOTHING, &["compile", "--output", &file]);
    let size = fs::metadata(&file).unwrap().len();
    let bytes = managed_identity_host::EMBEDDED_0_3.len();
    for part in [&size.to_string(), &bytes.to_string(), &file, "--trust-compiled-code"] {
        assert!(text.success().contains(part), "{part}: {text:?}");
    }
    assert_eq!(
        run(NOTHING, &["compile", "--json", "--output", &file]).json(),
        json!({
            "output": file,
            "component_bytes": bytes,
            "compiled_bytes": size,
            "version": env!("CARGO_PKG_VERSION"),
        })
    );
    let nowhere = folder.join("no/such/folder").display().to_string();
    let outcome = run(NOTHING, &["compile", "--json", "--output", &nowhere]);
    assert!(message(&outcome).contains(&nowhere), "{outcome:?}");
    let usage = run(NOTHING, &["compile"]);
    assert_eq!(usage.code, Some(2));
}

#[test]
fn compiled_code_is_not_run_without_consent() {
    let emulated = Emulated::start();
    let file = compiled(&folder("consent"), "0.3");
    let outcome = token(&emulated, &[&file]);
    assert!(message(&outcome).contains("--trust-compiled-code"), "{outcome:?}");
    assert_eq!(emulated.stats().requests, 0);
    let alone = ["token", "--resource", VAULT, "--trust-compiled-code"];
    assert_eq!(run(emulated.environment_for(Source::AppService), &alone).code, Some(2));
}

#[test]
fn damaged_code_is_refused() {
    let emulated = Emulated::start();
    let file = compiled(&folder("damaged"), "0.3");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let outcome = token(&emulated, &[&file, "--trust-compiled-code"]);
    assert!(message(&outcome).contains("it is damaged"), "{outcome:?}");
}

#[cfg(unix)]
#[test]
fn code_that_others_could_have_written_is_refused_even_with_consent() {
    use std::os::unix::fs::PermissionsExt as _;
    let emulated = Emulated::start();
    let file = compiled(&folder("others"), "0.3");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    for (mode, who) in [
        (0o620, Some("its group")),
        (0o602, Some("everybody")),
        (0o666, Some("everybody")),
        (0o644, None),
        (0o400, None),
    ] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let outcome = token(&emulated, &[&file, "--trust-compiled-code"]);
        match who {
            Some(who) => assert!(message(&outcome).contains(who), "{mode:o}: {outcome:?}"),
            None => drop(outcome.json()),
        }
    }
    // What was there before decides nothing about what replaces it.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    run(NOTHING, &["compile", "--output", &file]).success();
    token(&emulated, &[&file, "--trust-compiled-code"]).json();
}
