//! `SECURITY.md` names files and tests that there are, and numbers that the code has.

use crate::{rows, section, text, workspace};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// What stands between backticks, in its order.
fn quoted(document: &str) -> impl Iterator<Item = &str> {
    document.split('`').skip(1).step_by(2)
}

/// Whether it is a path in this repository, by how it looks.
fn is_path(quoted: &str) -> bool {
    let folders = ["examples/", "guest/", "host/", "tests/", "wit/"];
    let endings = [".md", ".toml", ".lock"];
    quoted
        .chars()
        .all(|it| it.is_ascii_alphanumeric() || "_./-".contains(it))
        && (folders.iter().any(|folder| quoted.starts_with(folder))
            || (!quoted.contains('/') && endings.iter().any(|ending| quoted.ends_with(ending))))
}

/// Whether it is the name of a test, by how it looks: a sentence.
fn is_test(quoted: &str) -> bool {
    quoted
        .chars()
        .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_')
        && quoted.matches('_').count() > 1
}

#[test]
fn each_file_that_is_named_is_there_and_each_test_is_in_the_file_before_it() {
    let document = text("SECURITY.md");
    let (mut files, mut tests) = (0, 0);
    let mut last = "";
    for quoted in quoted(&document) {
        if is_path(quoted) {
            assert!(
                workspace(quoted).exists(),
                "SECURITY.md names {quoted}, which is not there"
            );
            last = quoted;
            files += 1;
        } else if is_test(quoted) {
            assert!(
                text(last).contains(&format!("fn {quoted}(")),
                "SECURITY.md names the test {quoted} in {last}, where it is not"
            );
            tests += 1;
        }
    }
    // That the patterns find something.
    assert!(files > 80 && tests > 50, "{files} files, {tests} tests");
}

#[test]
fn each_number_is_that_of_the_code() {
    let document = text("SECURITY.md");
    let mut numbers = 0;
    for cells in rows(section(&document, "Limits")) {
        let [what, numbers_of_row, files] = cells[..] else {
            panic!("{cells:?}");
        };
        let files: Vec<_> = quoted(files).map(text).collect();
        let mut used = BTreeSet::new();
        for number in quoted(numbers_of_row) {
            let found = files.iter().enumerate().filter(|(_, file)| has(file, number));
            let found: Vec<_> = found.map(|(index, _)| index).collect();
            assert!(!found.is_empty(), "{what}: `{number}` is not in the code");
            used.extend(found);
            numbers += 1;
        }
        assert_eq!(used.len(), files.len(), "{what}: a file is named that has none of it");
    }
    assert!(numbers > 30, "{numbers}");
}

/// Whether it stands there, and is not the beginning of a longer number or name.
fn has(file: &str, number: &str) -> bool {
    file.match_indices(number).any(|(at, _)| {
        let (before, after) = (&file[..at], &file[at + number.len()..]);
        let goes_on = |it: char| it.is_alphanumeric() || it == '_';
        !before.ends_with(goes_on) && !after.starts_with(goes_on) && !after.starts_with(" *")
    })
}

/// In these, and in no others but tests and guests.
const UNSAFE: [&str; 8] = [
    // Loads compiled code.
    "host/command/src/compile.rs",
    "host/src/broker/builder.rs",
    "host/src/provider/artefact.rs",
    "host/src/provider/kept.rs",
    // Envoy's boundary.
    "host/envoy/src/abi.rs",
    // Generated bindings.
    "guest/cache/src/wasi.rs",
    "guest/src/wasi_0_2.rs",
    "guest/src/wasi_0_3.rs",
];

#[test]
fn unsafe_code_is_where_it_is_said_to_be() {
    let mut found = BTreeSet::new();
    for folder in ["guest", "host"] {
        sources(&workspace(folder), Path::new(folder), &mut found);
    }
    assert_eq!(found, UNSAFE.map(str::to_owned).into());
    let manifest: toml::Table = text("Cargo.toml").parse().unwrap();
    assert_eq!(
        manifest["workspace"]["lints"]["rust"]["unsafe_code"].as_str(),
        Some("deny")
    );
}

/// The sources below a folder that permit themselves unsafe code.
fn sources(folder: &Path, name: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = name.join(path.file_name().unwrap());
        if path.is_dir() {
            sources(&path, &name, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let permits = ["expect(", "allow("].iter().any(|attribute| {
                source
                    .split(attribute)
                    .skip(1)
                    .any(|rest| rest.trim_start().starts_with("unsafe_code"))
            });
            if permits {
                found.insert(name.to_str().unwrap().replace('\\', "/"));
            }
        }
    }
}

#[test]
fn the_engine_is_a_long_term_release_without_what_is_said_to_be_left_out() {
    let manifest: toml::Table = text("Cargo.toml").parse().unwrap();
    let engine = &manifest["workspace"]["dependencies"]["wasmtime"];
    let version = engine["version"].as_str().unwrap();
    let major: u32 = version.split('.').next().unwrap().parse().unwrap();
    assert_eq!(major % 12, 0, "every twelfth release is a long-term one");
    let said = format!("The sandbox is wasmtime {major}, a long-term release");
    assert!(text("SECURITY.md").contains(&said), "SECURITY.md does not say: {said}");
    assert_eq!(engine["default-features"].as_bool(), Some(false));
    let features: Vec<_> = engine["features"].as_array().unwrap().iter().collect();
    for left_out in ["gc", "threads", "winch"] {
        let named = features.iter().any(|it| it.as_str().unwrap().starts_with(left_out));
        assert!(!named, "{left_out}");
    }
}
