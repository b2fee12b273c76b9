//! Embeds the conformance cases: the program carries them wherever it is installed.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn main() -> io::Result<()> {
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let cases = package.join("../../tests/conformance");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", cases.display());
    let mut files = Vec::new();
    if cases.is_dir() {
        for folder in sorted(&cases)?.iter().filter(|entry| entry.is_dir()) {
            files.extend(
                sorted(folder)?
                    .into_iter()
                    .filter(|file| file.extension().is_some_and(|it| it == "json")),
            );
        }
    }
    if files.is_empty() {
        return Err(io::Error::other(format!(
            "there are no conformance cases to embed: none of the folders of {} has a .json file",
            cases.display()
        )));
    }
    let mut list = String::from("&[\n");
    for file in files {
        let name = name(&file);
        let file = file.canonicalize()?;
        list.push_str(&format!("    ({name:?}, include_str!({file:?})),\n"));
    }
    list.push(']');
    fs::write(Path::new(&variable("OUT_DIR")?).join("cases.rs"), list)
}

/// The name of a case is its folder and its file: `imds/client-id-selects-an-identity`.
fn name(file: &Path) -> String {
    let folder = file.parent().and_then(Path::file_name).unwrap_or_default();
    let stem = file.file_stem().unwrap_or_default();
    format!("{}/{}", folder.to_string_lossy(), stem.to_string_lossy())
}

fn sorted(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

fn variable(name: &str) -> io::Result<String> {
    env::var(name).map_err(|_| io::Error::other(format!("cargo sets {name} for build scripts")))
}
