//! Writes what a release consists of, from components that were built and from the sources.
//!
//! | file | what |
//! |---|---|
//! | `managed-identity-provider-0.2.wasm` | the provider as the host embeds it, byte for byte, and sections that say what it is |
//! | `managed-identity-provider-0.2.cdx.json` | its bill of materials, in CycloneDX |
//! | `cloud-identity-0.2.0.wasm` | the WIT package in binary form, as `wkg publish` takes it |
//! | `cloud-identity-0.2.0.tar` | the same as text, with the packages that it names: what goes into somebody's `wit` folder |
//! | `managed-identity.cdx.json` | the bill of materials of the command |
//! | `LICENSE` | for all of these but the packages of WASI, which bring their own |
//! | `SHA256SUMS` | of all of these |
//!
//! and of the first four the same for 0.3. There is no time, name of a machine or random number in any of them: the same
//! sources, lock file and compiler give the same bytes.
//!
//! ```no_run
//! use managed_identity_release::{Provider, Release};
//!
//! let release = Release {
//!     workspace: "/sources".into(),
//!     revision: None,
//!     providers: Provider::VERSIONS.map(|version| Provider {
//!         version,
//!         component: std::fs::read(format!("provider-{version}.wasm")).unwrap_or_default(),
//!     }),
//! };
//! for file in release.write("/sources/target/release-artifacts".as_ref())? {
//!     eprintln!("{file}");
//! }
//! # anyhow::Ok(())
//! ```

mod bill;
mod inventory;
mod metadata;
mod wit;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use bill::{Bill, Subject};
use inventory::Inventory;
use metadata::Metadata;
use wit::WitPackage;

/// The provider's crate, and what its files begin with.
const PROVIDER: &str = "managed-identity-provider";

/// The command's crate, and what its bill begins with.
const COMMAND: &str = "managed-identity";

/// The file with the checksums of all the others, in the format of `sha256sum`.
const SUMS: &str = "SHA256SUMS";

/// What is released.
#[derive(Clone, Debug)]
pub struct Release {
    /// The folder of the sources.
    pub workspace: PathBuf,
    /// The commit of the sources, if they are exactly those of one.
    pub revision: Option<String>,
    /// The providers, built from these sources.
    pub providers: [Provider; 2],
}

/// A provider component.
#[derive(Clone, Debug)]
pub struct Provider {
    /// The version of WASI and of the contract, one of [`Provider::VERSIONS`].
    pub version: &'static str,
    /// The component as it was built.
    pub component: Vec<u8>,
}

impl Provider {
    /// The versions of WASI that there is a provider for.
    pub const VERSIONS: [&'static str; 2] = ["0.2", "0.3"];

    /// The feature of the provider's crate that the component was built with.
    fn feature(&self) -> String {
        format!("wasi-{}", self.version.replace('.', "-"))
    }
}

impl Release {
    /// Writes the files into `folder`, which is made if need be and otherwise has to be empty, and gives their names.
    ///
    /// # Errors
    ///
    /// When the folder has something in it or cannot be written, when a component was not built from these sources by the
    /// compiler that is here, or when the WIT packages or their `wkg.toml` are wrong.
    pub fn write(&self, folder: &Path) -> Result<Vec<String>> {
        let mut files = Vec::new();
        let mut bills = Vec::new();
        for provider in &self.providers {
            let inventory = Inventory::of(&self.workspace, provider)?;
            let description = format!(
                "Platform identity tokens for WebAssembly: the provider of cloud:identity for WASI {}",
                provider.version
            );
            let metadata = self.metadata(PROVIDER, description, &inventory);
            let component = metadata.put_into(&provider.component, Some(&inventory))?;
            let bill = Bill::of(&inventory, Subject::Component(&component), &metadata)?;
            let name = format!("{PROVIDER}-{}", provider.version);
            bills.push(format!("{name}.cdx.json"));
            files.push((format!("{name}.cdx.json"), bill));
            files.push((format!("{name}.wasm"), component));

            let package = WitPackage::read(&self.workspace.join("wit").join(provider.version))?;
            let name = package.file_name();
            files.push((format!("{name}.tar"), package.archive()?));
            files.push((format!("{name}.wasm"), package.encode(self.revision.as_deref())?));
        }
        let inventory = Inventory::of_command(&self.workspace)?;
        let description = "Platform identity tokens from a sandboxed provider: the command, with all its features";
        let metadata = self.metadata(COMMAND, description.to_owned(), &inventory);
        let bill = Bill::of(&inventory, Subject::Program(&bills), &metadata)?;
        files.push((format!("{COMMAND}.cdx.json"), bill));
        let licence = self.workspace.join("LICENSE");
        let licence = fs::read(&licence).with_context(|| format!("cannot read {}", licence.display()))?;
        files.push(("LICENSE".to_owned(), licence));
        files.sort();
        files.push((SUMS.to_owned(), sums(&files).into_bytes()));

        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let occupied = fs::read_dir(folder)
            .with_context(|| format!("cannot read {}", folder.display()))?
            .next()
            .is_some();
        // A file of an earlier release among these would look as if it belonged to them.
        ensure!(
            !occupied,
            "{} is not empty: remove it, or name another folder",
            folder.display()
        );
        for (name, contents) in &files {
            let path = folder.join(name);
            fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(files.into_iter().map(|(name, _)| name).collect())
    }

    fn metadata(&self, name: &str, description: String, inventory: &Inventory) -> Metadata {
        let root = inventory.root();
        Metadata {
            name: name.to_owned(),
            version: root.version.clone(),
            description: Some(description),
            authors: Some(env!("CARGO_PKG_AUTHORS").to_owned()),
            licences: Some(root.licence.clone()),
            source: repository(),
            homepage: None,
            revision: self.revision.clone(),
        }
    }
}

/// Where the sources are published, once the manifest of this crate says it.
fn repository() -> Option<String> {
    let repository = env!("CARGO_PKG_REPOSITORY");
    (!repository.is_empty()).then(|| repository.to_owned())
}

fn sums(files: &[(String, Vec<u8>)]) -> String {
    files
        .iter()
        .map(|(name, contents)| format!("{}  {name}\n", sha256(contents)))
        .collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
