//! What a component or a WIT package says of itself, in the custom sections that `wasm-tools metadata show` prints and `wkg`
//! turns into annotations of an OCI image.
//!
//! The sections are put between the preamble and what follows. Rewriting the file, as the tools do, would also encode anew all
//! that is in it, and a released provider would no longer hold the embedded one. At the end, `cargo audit` would not find
//! them: it looks no further than to the end of the first module.
//!
//! There is none with documentation. `package-docs` of `wit-parser` holds that of one package: in a component, of its nameless
//! world, but not of the interfaces of `cloud:identity` that it exports. Readers also take one from a component within, so
//! that a composition of two that have it could not be read at all. It is in the WIT packages.

use anyhow::{Context, Result};
use auditable_serde::{DependencyKind, Package, Source as CrateSource, VersionInfo};
use semver::Version as CrateVersion;
use wasm_encoder::{ComponentNameSection, ComponentSection};
use wasm_metadata::{Authors, Dependencies, Description, Homepage, Licenses, Revision, Source, Version};

use crate::inventory::Inventory;

/// The format of the list of crates in which build-time crates are told from the others. Source: `auditable-serde`,
/// `VersionInfo::format`.
const FORMAT: u32 = 1;

/// How long magic number, version and layer are together. Source: the Component Model's `Binary.md`, "preamble".
const PREAMBLE: usize = 8;

/// What is said. A `None` leaves the section out.
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) description: Option<String>,
    pub(crate) authors: Option<String>,
    pub(crate) licences: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) homepage: Option<String>,
    pub(crate) revision: Option<String>,
}

impl Metadata {
    /// The component with these sections, and with an inventory also `.dep-v0`: the crates as `cargo auditable` would name them,
    /// so that a scanner finds them in the component itself, where there is no bill of materials beside it.
    pub(crate) fn put_into(&self, component: &[u8], inventory: Option<&Inventory>) -> Result<Vec<u8>> {
        let (preamble, rest) = component
            .split_at_checked(PREAMBLE)
            .context("a component has eight bytes at least")?;
        let mut bytes = preamble.to_vec();
        let mut name = ComponentNameSection::new();
        name.component(&self.name);
        name.append_to_component(&mut bytes);
        Version::new(self.version.clone()).append_to_component(&mut bytes);
        if let Some(description) = &self.description {
            Description::new(description.clone()).append_to_component(&mut bytes);
        }
        if let Some(authors) = &self.authors {
            Authors::new(authors.clone()).append_to_component(&mut bytes);
        }
        if let Some(licences) = &self.licences {
            Licenses::new(licences)
                .with_context(|| format!("`{licences}` is no licence expression of SPDX"))?
                .append_to_component(&mut bytes);
        }
        if let Some(source) = &self.source {
            Source::new(source)
                .with_context(|| format!("the source `{source}` is no URL"))?
                .append_to_component(&mut bytes);
        }
        if let Some(homepage) = &self.homepage {
            Homepage::new(homepage)
                .with_context(|| format!("the homepage `{homepage}` is no URL"))?
                .append_to_component(&mut bytes);
        }
        if let Some(revision) = &self.revision {
            Revision::new(revision.clone()).append_to_component(&mut bytes);
        }
        if let Some(inventory) = inventory {
            Dependencies::new(auditable(inventory)?)?.append_to_component(&mut bytes);
        }
        bytes.extend_from_slice(rest);
        Ok(bytes)
    }
}

fn auditable(inventory: &Inventory) -> Result<VersionInfo> {
    let packages = inventory
        .crates
        .iter()
        .zip(&inventory.checksums)
        .enumerate()
        .map(|(place, (it, checksum))| {
            Ok(Package {
                name: it.name.clone(),
                version: CrateVersion::parse(&it.version)
                    .with_context(|| format!("{} has the version `{}`", it.name, it.version))?,
                // `deny.toml` allows one registry.
                source: match checksum {
                    Some(_) => CrateSource::CratesIo,
                    None => CrateSource::Local,
                },
                kind: DependencyKind::Runtime,
                dependencies: it.dependencies.clone(),
                root: place == 0,
            })
        })
        .collect::<Result<_>>()?;
    Ok(VersionInfo {
        packages,
        format: FORMAT,
    })
}
