//! The bill of materials of a component or of the command, in CycloneDX 1.6.
//!
//! Types rather than a JSON value: the order of keys is then that of the specification in every build.

use anyhow::{Context, Result};
use managed_identity_guest_build::{CompilerVersion, Crate};
use serde::Serialize;

use crate::inventory::Inventory;
use crate::metadata::Metadata;
use crate::sha256;

/// The document. It has no serial number and no time, which would make each one differ.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Bill {
    bom_format: &'static str,
    spec_version: &'static str,
    version: u32,
    metadata: About,
    components: Vec<Component>,
    dependencies: Vec<Dependency>,
}

#[derive(Serialize)]
struct About {
    lifecycles: [Lifecycle; 1],
    tools: Tools,
    component: Component,
}

#[derive(Serialize)]
struct Lifecycle {
    phase: &'static str,
}

#[derive(Serialize)]
struct Tools {
    components: [Tool; 1],
}

#[derive(Serialize)]
struct Tool {
    r#type: &'static str,
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Component {
    r#type: &'static str,
    #[serde(rename = "bom-ref")]
    bom_ref: String,
    name: String,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    licenses: Vec<Licence>,
    purl: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_references: Vec<Reference>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    properties: Vec<Property>,
}

#[derive(Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Serialize)]
struct Licence {
    expression: String,
}

#[derive(Serialize)]
struct Reference {
    r#type: &'static str,
    url: String,
}

#[derive(Serialize)]
struct Property {
    name: &'static str,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    r#ref: String,
    depends_on: Vec<String>,
}

/// What a bill is about.
#[derive(Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// A component that is released with this content.
    Component(&'a [u8]),
    /// A program that whoever takes the sources builds, which has components in it whose bills are these files.
    Program(&'a [String]),
}

impl Bill {
    /// The bill as JSON.
    pub(crate) fn of(inventory: &Inventory, subject: Subject<'_>, metadata: &Metadata) -> Result<Vec<u8>> {
        let mut parts = inventory.crates.iter().zip(&inventory.checksums).map(|(it, checksum)| {
            let purl = purl(it, checksum.as_deref());
            Component {
                r#type: "library",
                bom_ref: purl.clone(),
                name: it.name.clone(),
                version: it.version.clone(),
                description: None,
                hashes: checksum.iter().map(|checksum| hash(checksum.clone())).collect(),
                licenses: licence(&it.licence),
                purl,
                external_references: Vec::new(),
                properties: property("cargo:features", it.features.join(",")),
            }
        });
        let mut root = parts.next().context("everything is made of one crate at least")?;
        root.description = metadata.description.clone();
        root.external_references
            .extend(metadata.source.iter().map(|url| Reference {
                r#type: "vcs",
                url: url.clone(),
            }));
        let phase = match subject {
            Subject::Component(content) => {
                root.hashes.push(hash(sha256(content)));
                "build"
            }
            Subject::Program(bills) => {
                root.r#type = "application";
                root.external_references.extend(bills.iter().map(|file| Reference {
                    r#type: "bom",
                    url: file.clone(),
                }));
                "pre-build"
            }
        };
        root.properties
            .extend(property("cargo:target", inventory.target.to_owned()));
        root.properties
            .extend(property("vcs:revision", metadata.revision.clone().unwrap_or_default()));
        let mut components: Vec<_> = parts.collect();

        let reference = |place: &usize| purl(&inventory.crates[*place], inventory.checksums[*place].as_deref());
        let mut dependencies: Vec<_> = inventory
            .crates
            .iter()
            .enumerate()
            .map(|(place, it)| Dependency {
                r#ref: reference(&place),
                depends_on: it.dependencies.iter().map(reference).collect(),
            })
            .collect();
        if let Some(compiler) = &inventory.compiler {
            let std = standard_library(compiler);
            // Said once, for the whole: which crates do without it is nowhere recorded.
            dependencies[0].depends_on.push(std.bom_ref.clone());
            dependencies.push(Dependency {
                r#ref: std.bom_ref.clone(),
                depends_on: Vec::new(),
            });
            components.push(std);
        }

        let bill = Self {
            bom_format: "CycloneDX",
            spec_version: "1.6",
            version: 1,
            metadata: About {
                lifecycles: [Lifecycle { phase }],
                tools: Tools {
                    components: [Tool {
                        r#type: "application",
                        name: env!("CARGO_PKG_NAME"),
                        version: env!("CARGO_PKG_VERSION"),
                    }],
                },
                component: root,
            },
            components,
            dependencies,
        };
        let mut json = serde_json::to_vec_pretty(&bill)?;
        json.push(b'\n');
        Ok(json)
    }
}

/// Rust's standard library, with the few crates of its own that it is built from and that cargo does not know of.
fn standard_library(compiler: &CompilerVersion) -> Component {
    let version = &compiler.release;
    let purl = format!("pkg:generic/rust-std@{version}");
    Component {
        r#type: "library",
        bom_ref: purl.clone(),
        name: "rust-std".to_owned(),
        version: version.clone(),
        description: Some("Rust's standard library, as it comes with the compiler".to_owned()),
        hashes: Vec::new(),
        licenses: licence("MIT OR Apache-2.0"),
        purl,
        external_references: Vec::new(),
        properties: property("vcs:revision", compiler.commit.clone()),
    }
}

/// The package URL of a crate: as a crate only where it is from the registry, since somebody else may have ours' name there.
/// Of the characters that a version may have, it is only `+` that has to be escaped.
fn purl(it: &Crate, checksum: Option<&str>) -> String {
    let kind = if checksum.is_some() { "cargo" } else { "generic" };
    format!("pkg:{kind}/{}@{}", it.name, it.version.replace('+', "%2B"))
}

fn hash(content: String) -> Hash {
    Hash {
        alg: "SHA-256",
        content,
    }
}

/// Older manifests separate alternatives by a slash, which no expression of SPDX has.
fn licence(text: &str) -> Vec<Licence> {
    let expression = text.replace(" / ", "/").replace('/', " OR ");
    if expression.is_empty() {
        Vec::new()
    } else {
        vec![Licence { expression }]
    }
}

fn property(name: &'static str, value: String) -> Vec<Property> {
    if value.is_empty() {
        Vec::new()
    } else {
        vec![Property { name, value }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_expressions() {
        for (manifest, expression) in [
            ("MIT OR Apache-2.0", "MIT OR Apache-2.0"),
            ("MIT/Apache-2.0", "MIT OR Apache-2.0"),
            ("MIT / Apache-2.0", "MIT OR Apache-2.0"),
        ] {
            let licences = licence(manifest);
            assert_eq!(licences.len(), 1);
            assert_eq!(licences[0].expression, expression);
        }
        assert!(licence("").is_empty());
    }

    #[test]
    fn package_urls_are_escaped_and_tell_where_a_crate_is_from() {
        let it = Crate {
            name: "wasip2".to_owned(),
            version: "2.0.1+wasi-0.2.12".to_owned(),
            licence: String::new(),
            features: Vec::new(),
            dependencies: Vec::new(),
        };
        assert_eq!(purl(&it, Some("00")), "pkg:cargo/wasip2@2.0.1%2Bwasi-0.2.12");
        assert_eq!(purl(&it, None), "pkg:generic/wasip2@2.0.1%2Bwasi-0.2.12");
    }
}
