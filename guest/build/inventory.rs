//! The crates that a component or a program is made of, as cargo resolves them for it.
//!
//! `cargo tree` rather than `cargo metadata`: the latter turns on the features of the whole workspace and counts what only
//! runs at build time among the rest, so that it would name crates that no component holds.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::toolchain::TARGET;
use crate::{cargo, environment};

/// A crate that is compiled into a component or a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence, as its manifest says it; empty when it does not.
    pub licence: String,
    /// The features that it is compiled with, in order.
    pub features: Vec<String>,
    /// The crates that it uses itself, as places in the list that this one is in.
    pub dependencies: Vec<usize>,
}

/// The crates of a guest with these features: first the guest itself, then the others as they are first used.
pub(crate) fn of_guest(manifest_dir: &Path, package: &str, features: &[String]) -> Result<Vec<Crate>> {
    // Without the network: whoever asks has built the component, and so has its crates.
    let features = ["--offline", "--no-default-features", "--features", &features.join(",")];
    tree(manifest_dir, package, TARGET, &features)
}

/// The crates that are compiled into a program, or a library for other languages, for a target and with all its features:
/// first the program itself, then the others as they are first used. What is missing of them is downloaded.
///
/// # Errors
///
/// When cargo cannot tell.
pub fn crates_of_program(manifest_dir: &Path, package: &str, target: &str) -> Result<Vec<Crate>> {
    tree(manifest_dir, package, target, &["--all-features"])
}

fn tree(manifest_dir: &Path, package: &str, target: &str, selection: &[&str]) -> Result<Vec<Crate>> {
    let mut tree = Command::new(cargo());
    environment::clean(&mut tree);
    tree.current_dir(manifest_dir)
        .args(["tree", "--locked", "--target", target, "--package", package])
        .args(selection)
        .args(["--edges", "normal,no-proc-macro", "--prefix", "depth"])
        .args(["--charset", "ascii", "--color", "never", "--format", FORMAT]);
    let output = tree
        .output()
        .with_context(|| format!("cannot start cargo to list the crates of `{package}`"))?;
    if !output.status.success() {
        bail!(
            "cannot list the crates of `{package}`: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// Package, licence and features, none of which has a tab in it.
const FORMAT: &str = "\t{p}\t{l}\t{f}";

/// What cargo appends to a crate whose dependencies it has already shown.
const SHOWN_BEFORE: &str = " (*)";

/// Lines such as `2<tab>slab v0.4.12<tab>MIT<tab>std`, each below the crate that uses it, one step deeper.
fn parse(tree: &str) -> Result<Vec<Crate>> {
    let mut crates: Vec<Crate> = Vec::new();
    // The places of the crates from the root to the line before.
    let mut path: Vec<usize> = Vec::new();
    for line in tree.lines() {
        let fields: Vec<_> = line.strip_suffix(SHOWN_BEFORE).unwrap_or(line).split('\t').collect();
        let [depth, package, licence, features] = fields[..] else {
            bail!("cargo's tree has a line that cannot be read: `{line}`");
        };
        let depth: usize = depth
            .parse()
            .with_context(|| format!("cargo's tree has a line without a depth: `{line}`"))?;
        // After the version comes the folder of a crate that is not from a registry.
        let mut words = package.split(' ');
        let (Some(name), Some(version)) = (words.next(), words.next().and_then(|word| word.strip_prefix('v'))) else {
            bail!("cargo's tree has a crate without a version: `{line}`");
        };
        let known = crates.iter().position(|it| it.name == name && it.version == version);
        let place = known.unwrap_or_else(|| {
            crates.push(Crate {
                name: name.to_owned(),
                version: version.to_owned(),
                licence: licence.to_owned(),
                features: features
                    .split(',')
                    .filter(|it| !it.is_empty())
                    .map(str::to_owned)
                    .collect(),
                dependencies: Vec::new(),
            });
            crates.len() - 1
        });
        path.truncate(depth);
        match path.last() {
            Some(user) if path.len() == depth => {
                let dependencies = &mut crates[*user].dependencies;
                if !dependencies.contains(&place) {
                    dependencies.push(place);
                }
            }
            None if depth == 0 && place == 0 => {}
            _ => bail!("cargo's tree has a crate that nothing uses: `{line}`"),
        }
        path.push(place);
    }
    if crates.is_empty() {
        bail!("cargo's tree is empty");
    }
    Ok(crates)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

    use super::*;

    #[test]
    fn a_tree_gives_each_crate_once_with_what_it_uses() {
        let tree = "0\tguest v0.2.0 (/w/g u e s t)\tApache-2.0\twasi-0-2\n\
                    1\tfutures v0.3.34\tMIT OR Apache-2.0\tdefault,std\n\
                    2\tslab v0.4.12\tMIT\t\n\
                    1\tjson v1.0.0+build.1\t\t\n\
                    2\tfutures v0.3.34\tMIT OR Apache-2.0\tdefault,std (*)\n\
                    2\tslab v0.4.12\tMIT\t (*)\n\
                    1\tslab v0.5.0\tMIT\t\n";
        let crates = parse(tree).unwrap();
        let shown: Vec<_> = crates
            .iter()
            .map(|it| {
                (
                    &*it.name,
                    &*it.version,
                    &*it.licence,
                    it.features.join(" "),
                    &it.dependencies[..],
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("guest", "0.2.0", "Apache-2.0", "wasi-0-2".to_owned(), &[1, 3, 4][..]),
                ("futures", "0.3.34", "MIT OR Apache-2.0", "default std".to_owned(), &[2]),
                ("slab", "0.4.12", "MIT", String::new(), &[]),
                ("json", "1.0.0+build.1", "", String::new(), &[1, 2]),
                ("slab", "0.5.0", "MIT", String::new(), &[]),
            ]
        );
    }

    #[test]
    fn a_tree_that_is_none_is_an_error() {
        for (tree, message) in [
            ("", "is empty"),
            ("warning: text", "cannot be read"),
            ("x\tguest v0.2.0\t\t", "without a depth"),
            ("0\tguest\t\t", "without a version"),
            ("1\tguest v0.2.0\t\t", "that nothing uses"),
            ("0\tguest v0.2.0\t\t\n2\tslab v0.4.12\t\t", "that nothing uses"),
            ("0\tguest v0.2.0\t\t\n0\tother v0.2.0\t\t", "that nothing uses"),
        ] {
            let error = parse(tree).unwrap_err().to_string();
            assert!(error.contains(message), "{tree:?}: {error}");
        }
    }
}
