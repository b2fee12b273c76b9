//! What a component or the command is made of: its crates with their checksums, and for a component, which is released as it
//! was built, the standard library that they were linked with.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use managed_identity_guest_build::{CompilerVersion, Crate, Guest, TARGET, compiler, crates_of_program};
use serde::Deserialize;

use crate::{COMMAND, PROVIDER, Provider};

/// The platform that the bill of the command is for. It is always the same one, so that a release is the same wherever it is
/// made.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// What a component or the command is made of.
pub(crate) struct Inventory {
    /// The provider or the command first.
    pub(crate) crates: Vec<Crate>,
    /// The SHA-256 of what the registry gave for each crate, absent for those that are not from one.
    pub(crate) checksums: Vec<Option<String>>,
    /// What it is built for.
    pub(crate) target: &'static str,
    /// Whose standard library is in it. Absent for the command, which whoever takes the sources builds.
    pub(crate) compiler: Option<CompilerVersion>,
}

impl Inventory {
    pub(crate) fn of(workspace: &Path, provider: &Provider) -> Result<Self> {
        let crates = Guest::new(workspace.join("guest"), PROVIDER)
            .features([provider.feature()])
            .crates()?;
        let checksums = checksums(&crates, &lock(workspace)?)?;
        let compiler = compiler()?;
        let mark = format!("/rustc/{}/library", compiler.commit);
        ensure!(
            contains(&provider.component, mark.as_bytes()),
            "the component for WASI {} was not built by the compiler that builds guests here, which is {} ({}): build it \
             again, and unset MANAGED_IDENTITY_PROVIDER_0_2 and MANAGED_IDENTITY_PROVIDER_0_3",
            provider.version,
            compiler.release,
            compiler.commit
        );
        Ok(Self {
            crates,
            checksums,
            target: TARGET,
            compiler: Some(compiler),
        })
    }

    /// The command with all its features: what it has without them is less.
    pub(crate) fn of_command(workspace: &Path) -> Result<Self> {
        let crates = crates_of_program(&workspace.join("host/command"), COMMAND, PLATFORM)?;
        let checksums = checksums(&crates, &lock(workspace)?)?;
        Ok(Self {
            crates,
            checksums,
            target: PLATFORM,
            compiler: None,
        })
    }

    /// The provider or the command itself.
    pub(crate) fn root(&self) -> &Crate {
        &self.crates[0]
    }
}

fn lock(workspace: &Path) -> Result<String> {
    let lock = workspace.join("Cargo.lock");
    fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

fn checksums(crates: &[Crate], lock: &str) -> Result<Vec<Option<String>>> {
    let lock: Lock = toml::from_str(lock).context("cannot read Cargo.lock")?;
    let locked: HashMap<_, _> = lock
        .package
        .into_iter()
        .map(|package| ((package.name, package.version), package.checksum))
        .collect();
    crates
        .iter()
        .map(|it| match locked.get(&(it.name.clone(), it.version.clone())) {
            Some(checksum) => Ok(checksum.clone()),
            None => bail!("{} {} is not in Cargo.lock", it.name, it.version),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

    use super::*;

    fn named(name: &str, version: &str) -> Crate {
        Crate {
            name: name.to_owned(),
            version: version.to_owned(),
            licence: String::new(),
            features: Vec::new(),
            dependencies: Vec::new(),
        }
    }

    #[test]
    fn checksums_are_those_of_the_version_in_use() {
        let lock = r#"
            version = 4
            [[package]]
            name = "guest"
            version = "0.2.0"
            [[package]]
            name = "slab"
            version = "0.4.12"
            source = "registry"
            checksum = "04"
            [[package]]
            name = "slab"
            version = "0.5.0"
            source = "registry"
            checksum = "05"
        "#;
        let crates = [named("guest", "0.2.0"), named("slab", "0.5.0")];
        assert_eq!(checksums(&crates, lock).unwrap(), [None, Some("05".to_owned())]);
        let error = checksums(&[named("slab", "0.6.0")], lock).unwrap_err();
        assert_eq!(error.to_string(), "slab 0.6.0 is not in Cargo.lock");
    }
}
