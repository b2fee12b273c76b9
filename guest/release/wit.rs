//! A WIT package as it is published: in binary form, which holds its documentation, and as text.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tar::{Builder, HeaderMode};
use wit_parser::{PackageId, Resolve, UnresolvedPackageGroup};

use crate::metadata::Metadata;
use crate::repository;

/// A folder of WIT files, with the packages that they name in `deps` and a `wkg.toml`.
pub(crate) struct WitPackage {
    folder: PathBuf,
    resolve: Resolve,
    package: PackageId,
    manifest: Manifest,
}

/// A `wkg.toml`, as far as one of ours goes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    metadata: About,
    overrides: BTreeMap<String, Override>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    authors: String,
    description: String,
    licenses: String,
    homepage: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Override {
    path: PathBuf,
}

impl WitPackage {
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let mut resolve = Resolve::new();
        let (package, _) = resolve
            .push_dir(folder)
            .with_context(|| format!("cannot read the WIT package in {}", folder.display()))?;
        ensure!(
            resolve.packages[package].name.version.is_some(),
            "the WIT package in {} has no version, so it cannot be published",
            folder.display()
        );
        let path = folder.join("wkg.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let manifest: Manifest =
            toml::from_str(&text).with_context(|| format!("{} is not as `wkg` takes it", path.display()))?;
        let read = Self {
            folder: folder.to_owned(),
            resolve,
            package,
            manifest,
        };
        read.check_overrides()
            .with_context(|| format!("{} does not fit the WIT files beside it", path.display()))?;
        Ok(read)
    }

    /// `wkg` does not look into `deps`: a package that no override names would come from a registry.
    fn check_overrides(&self) -> Result<()> {
        for (id, package) in &self.resolve.packages {
            let name = format!("{}:{}", package.name.namespace, package.name.name);
            if id != self.package && !self.manifest.overrides.contains_key(&name) {
                bail!("`{name}` has no override: add `\"{name}\" = {{ path = \"deps/…\" }}`");
            }
        }
        for (name, Override { path }) in &self.manifest.overrides {
            let file = self.folder.join(path);
            let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let package = match UnresolvedPackageGroup::parse(&file, &text) {
                Ok(group) => group.main.name,
                Err((sources, error)) => bail!("{}", error.render(&sources)),
            };
            let found = format!("{}:{}", package.namespace, package.name);
            ensure!(found == *name, "the override of `{name}` leads to `{found}`");
        }
        Ok(())
    }

    /// `cloud-identity-0.2.0`: a colon, as the package has it, is no part of a file's name everywhere.
    pub(crate) fn file_name(&self) -> String {
        self.resolve.packages[self.package]
            .name
            .to_string()
            .replace([':', '@'], "-")
    }

    /// The package in binary form.
    pub(crate) fn encode(&self, revision: Option<&str>) -> Result<Vec<u8>> {
        let name = &self.resolve.packages[self.package].name;
        let about = &self.manifest.metadata;
        let metadata = Metadata {
            name: format!("{}:{}", name.namespace, name.name),
            version: name.version.as_ref().map(ToString::to_string).unwrap_or_default(),
            description: Some(about.description.clone()),
            authors: Some(about.authors.clone()),
            licences: Some(about.licenses.clone()),
            source: repository(),
            homepage: about.homepage.clone(),
            revision: revision.map(str::to_owned),
        };
        let bytes = wit_component::encode(&self.resolve, self.package, false)
            .with_context(|| format!("cannot encode the WIT package {name}"))?;
        metadata.put_into(&bytes, None)
    }

    /// The folder as it is, in one file. Owners, times and permissions are always the same.
    pub(crate) fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        archive.mode(HeaderMode::Deterministic);
        let top = PathBuf::from(self.file_name());
        for file in files(&self.folder)? {
            let name = top.join(file.strip_prefix(&self.folder)?);
            archive
                .append_path_with_name(&file, &name)
                .with_context(|| format!("cannot pack {}", file.display()))?;
        }
        Ok(archive.into_inner()?)
    }
}

/// The files of a folder and those below it, in order. What `wkg` leaves there when it is run is none of them.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "wit" || extension == "toml")
            || path.file_name().is_some_and(|name| name == "LICENSE")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

    use super::*;
    use std::env;
    use std::process;

    const WIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/0.2");

    /// A copy of the package with another `wkg.toml`, until it is dropped.
    struct Copy(PathBuf);

    impl Copy {
        fn new(name: &str, manifest: &str) -> Self {
            let folder = env::temp_dir().join(format!("managed-identity-release-{name}-{}", process::id()));
            for file in files(Path::new(WIT)).unwrap() {
                let copy = folder.join(file.strip_prefix(WIT).unwrap());
                fs::create_dir_all(copy.parent().unwrap()).unwrap();
                fs::copy(&file, &copy).unwrap();
            }
            fs::write(folder.join("wkg.toml"), manifest).unwrap();
            Self(folder)
        }
    }

    impl Drop for Copy {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_package_is_read_with_its_manifest() {
        let package = WitPackage::read(Path::new(WIT)).unwrap();
        assert_eq!(package.file_name(), "cloud-identity-0.2.0");
    }

    #[test]
    fn a_manifest_that_would_send_wkg_elsewhere_is_refused() {
        let manifest = fs::read_to_string(Path::new(WIT).join("wkg.toml")).unwrap();
        let line = |name: &str| format!("\"wasi:{name}\" = {{ path = \"deps/{name}.wit\" }}\n");
        let cases = [
            // Named by `provider.wit`, and by nothing but another dependency.
            (manifest.replace(&line("http"), ""), "`wasi:http` has no override: add"),
            (
                manifest.replace(&line("sockets"), ""),
                "`wasi:sockets` has no override: add",
            ),
            (
                manifest.replace("deps/random.wit", "deps/clocks.wit"),
                "the override of `wasi:random` leads to `wasi:clocks`",
            ),
            (manifest.replace("deps/random.wit", "deps/rand.wit"), "cannot read"),
            (
                manifest.replace("path = \"deps/random.wit\"", "version = \"0.2.0\""),
                "is not as `wkg` takes it",
            ),
            (manifest.replace("licenses =", "licence ="), "is not as `wkg` takes it"),
        ];
        for (place, (changed, message)) in cases.iter().enumerate() {
            assert_ne!(*changed, manifest, "{message}");
            let copy = Copy::new(&place.to_string(), changed);
            let error = WitPackage::read(&copy.0).err().map(|error| format!("{error:#}"));
            assert!(
                error.as_ref().is_some_and(|error| error.contains(message)),
                "{error:?} instead of {message}"
            );
        }
    }

    #[test]
    fn an_archive_holds_nothing_that_a_tool_left_behind() {
        let manifest = fs::read_to_string(Path::new(WIT).join("wkg.toml")).unwrap();
        let copy = Copy::new("left", &manifest);
        let clean = WitPackage::read(&copy.0).unwrap().archive().unwrap();
        for name in ["wkg.lock", "cloud:identity@0.2.0.wasm"] {
            fs::write(copy.0.join(name), "left behind").unwrap();
        }
        assert_eq!(WitPackage::read(&copy.0).unwrap().archive().unwrap(), clean);
    }
}
