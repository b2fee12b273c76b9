//! What the project says about whom and what it trusts is so: `DEPENDENCIES.md`, `deny.toml`, `SECURITY.md`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod dependencies;
mod security;

use std::fs;
use std::path::{Path, PathBuf};

fn workspace(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path)
}

fn text(path: &str) -> String {
    let file = workspace(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{} cannot be read: {error}", file.display()))
}

/// The part of a document below a heading of the second level, up to the next one.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let (_, rest) = document
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("there is no section {heading:?}"));
    rest.split("\n## ").next().unwrap()
}

/// The cells of the rows of a table, its head left out.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = text.lines().filter(|line| line.starts_with('|'));
    lines
        .skip(2)
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
}
