//! Builds a guest crate into a component, from the build script of whoever embeds it; or from a shell, by the program of the
//! same name.
//!
//! A build script cannot depend on an artifact for another target with stable cargo, so it runs a second cargo: for
//! `wasm32-unknown-unknown`, because what std gives that target imports nothing, and the component then imports only what
//! its world names. The core module is encoded with `wit-component`, the library behind `wasm-tools component new`.
//!
//! ```no_run
//! use managed_identity_guest_build::{Guest, report};
//!
//! fn main() -> std::process::ExitCode {
//!     report(embed())
//! }
//!
//! fn embed() -> anyhow::Result<()> {
//!     let out_dir = std::env::var("OUT_DIR")?;
//!     let component = Guest::new("../guest", "managed-identity-provider")
//!         .features(["wasi-0-2"])
//!         .build(out_dir.as_ref())?;
//!     println!("cargo::rustc-env=PROVIDER={}", component.display());
//!     Ok(())
//! }
//! ```
//!
//! The same sources, lock file and compiler give the same bytes in any folder: paths of this machine are remapped, and
//! flags meant for the outer build do not reach the inner one.

#![expect(
    clippy::print_stdout,
    reason = "standard output is how a build script talks to cargo"
)]

mod environment;
mod inventory;
mod toolchain;

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use toolchain::Toolchain;
use wit_component::ComponentEncoder;

pub use inventory::{Crate, crates_of_program};
pub use toolchain::TARGET;

/// The profile of the workspace that guests are built with.
const PROFILE: &str = "component";

/// The first eight bytes of a component: the magic number, the version, and the layer that tells it from a core module.
/// Source: the Component Model's `Binary.md`, "preamble".
const COMPONENT_PREAMBLE: [u8; 8] = *b"\0asm\x0d\0\x01\0";

/// A library crate (`cdylib`) that becomes a component.
#[derive(Clone, Debug)]
pub struct Guest {
    manifest_dir: PathBuf,
    package: String,
    features: Vec<String>,
}

/// What came of a guest.
#[derive(Clone, Debug)]
pub struct Built {
    /// The component, in binary form.
    pub component: Vec<u8>,
    /// The files that it depends on.
    pub watched: Vec<PathBuf>,
}

impl Guest {
    /// The package `package`, whose `Cargo.toml` is in `manifest_dir`, with no features, not even default ones.
    pub fn new(manifest_dir: impl Into<PathBuf>, package: impl Into<String>) -> Self {
        Self {
            manifest_dir: manifest_dir.into(),
            package: package.into(),
            features: Vec::new(),
        }
    }

    /// Adds features of the package.
    #[must_use]
    pub fn features<S: Into<String>>(mut self, features: impl IntoIterator<Item = S>) -> Self {
        self.features.extend(features.into_iter().map(Into::into));
        self
    }

    /// Builds the component into `out_dir` and tells cargo which files to watch.
    ///
    /// # Errors
    ///
    /// When no compiler here can build the target, when the guest does not compile, or when its core module and its WIT
    /// world do not fit.
    pub fn build(&self, out_dir: &Path) -> Result<PathBuf> {
        println!("cargo::rerun-if-env-changed={}", toolchain::RUSTC_VARIABLE);
        let built = self.component(&shared_target_dir(out_dir))?;
        for file in built.watched {
            println!("cargo::rerun-if-changed={}", file.display());
        }
        let path = out_dir.join(self.file_name());
        fs::write(&path, built.component).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Builds the component and says nothing to cargo. What is made on the way stays in `target_dir`, for the next guest.
    ///
    /// # Errors
    ///
    /// As for [`build`](Self::build).
    pub fn component(&self, target_dir: &Path) -> Result<Built> {
        let manifest_dir = self.manifest_dir.canonicalize().with_context(|| {
            format!(
                "the sources of guest `{}` are not at {}",
                self.package,
                self.manifest_dir.display()
            )
        })?;
        let workspace = workspace_root(&manifest_dir)?;
        let toolchain = Toolchain::find()?;
        fs::create_dir_all(target_dir).with_context(|| format!("cannot create {}", target_dir.display()))?;

        // Cargo puts the module of every feature set at one path, so the path is ours until the module has been read.
        // This is a lock of our own, not cargo's: the inner cargo takes and leaves its own while we hold this one.
        let lock = File::create(target_dir.join("component.lock")).context("cannot create the guest build's lock")?;
        lock.lock().context("cannot take the guest build's lock")?;
        self.compile(&manifest_dir, &workspace, target_dir, &toolchain)?;
        let artifact = target_dir
            .join(TARGET)
            .join(PROFILE)
            .join(self.package.replace('-', "_"));
        let module = read(&artifact.with_extension("wasm"))?;
        let dep_info = String::from_utf8_lossy(&read(&artifact.with_extension("d"))?).into_owned();
        drop(lock);

        let component = ComponentEncoder::default()
            .validate(true)
            .module(&module)
            .and_then(|encoder| encoder.encode())
            .with_context(|| format!("cannot encode guest `{}` as a component", self.package))?;
        Ok(Built {
            component: without_names(&component)?,
            watched: watched(&dep_info, &manifest_dir, &workspace),
        })
    }

    /// The crates that are compiled into the component, itself first. The network is not used: what was built is here.
    ///
    /// # Errors
    ///
    /// When cargo cannot tell, such as for a crate that was not downloaded.
    pub fn crates(&self) -> Result<Vec<Crate>> {
        inventory::of_guest(&self.manifest_dir, &self.package, &self.features)
    }

    /// Runs the inner cargo. Its messages go to standard error, which the outer one shows when the build fails.
    fn compile(&self, manifest_dir: &Path, workspace: &Path, target_dir: &Path, toolchain: &Toolchain) -> Result<()> {
        let mut cargo = Command::new(cargo());
        environment::clean(&mut cargo);
        // `rustc --crate-type cdylib` rather than `build`: a crate that is also an rlib would miss link-time optimisation.
        cargo
            .current_dir(manifest_dir)
            .args([
                "rustc",
                "--lib",
                "--crate-type",
                "cdylib",
                "--profile",
                PROFILE,
                "--target",
                TARGET,
            ])
            .args([
                "--package",
                &self.package,
                "--no-default-features",
                "--features",
                &self.features.join(","),
            ])
            .arg("--target-dir")
            .arg(target_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if workspace.join("Cargo.lock").exists() {
            cargo.arg("--locked");
        }
        toolchain.apply(&mut cargo);
        environment::remap_paths(&mut cargo, workspace, target_dir, toolchain);
        // The compiler leaves five bytes for each number that the linker fills in, such as that of a function that is called.
        // Without this they stay five, which is a sixteenth of a component. It excludes debug information, whatever the profile.
        cargo.args([
            "--",
            "-C",
            "link-arg=--strip-debug",
            "-C",
            "link-arg=--compress-relocations",
        ]);
        let status = cargo.status().context("cannot start cargo for the guest")?;
        ensure!(
            status.success(),
            DidNotCompile {
                package: self.package.clone()
            }
        );
        Ok(())
    }

    fn file_name(&self) -> String {
        let mut name = self.package.clone();
        for feature in &self.features {
            name.push('-');
            name.push_str(feature);
        }
        name + ".wasm"
    }
}

/// The compiler that guests are built with here, and whose standard library is in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompilerVersion {
    /// Its release, such as `1.95.0`.
    pub release: String,
    /// The commit that it was built from. A component names it wherever the standard library can panic.
    pub commit: String,
}

/// Which compiler guests are built with here.
///
/// # Errors
///
/// When no compiler here can build the target.
pub fn compiler() -> Result<CompilerVersion> {
    let toolchain = Toolchain::find()?;
    Ok(CompilerVersion {
        release: toolchain.release().to_owned(),
        commit: toolchain.commit_hash().to_owned(),
    })
}

/// Ends a build script: tells cargo the error, if there is one.
///
/// Cargo takes a logged error as failure whatever the exit code, and after another code than zero it adds a transcript of
/// the build script. That is wanted only where it holds the compiler's messages; else it would bury the one sentence.
pub fn report(result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    println!("cargo::error={error:#}");
    if error.is::<DidNotCompile>() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The inner cargo failed, and has said why on standard error.
#[derive(Debug)]
struct DidNotCompile {
    package: String,
}

impl fmt::Display for DidNotCompile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "guest `{}` did not compile for {TARGET}: the compiler's messages are below",
            self.package
        )
    }
}

impl std::error::Error for DidNotCompile {}

/// A component that the environment variable `variable` names, to embed instead of building one; `None` when the variable
/// is not set or empty. Tells cargo to watch both the variable and the file.
///
/// # Errors
///
/// When the path is not absolute, cannot be read, or is no component.
pub fn prebuilt(variable: &str) -> Result<Option<PathBuf>> {
    println!("cargo::rerun-if-env-changed={variable}");
    let Some(path) = env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
    else {
        return Ok(None);
    };
    if !path.is_absolute() {
        bail!("{variable} must be an absolute path, and `{}` is not", path.display());
    }
    println!("cargo::rerun-if-changed={}", path.display());
    check_component(&read(&path)?).with_context(|| format!("{variable} names {}", path.display()))?;
    Ok(Some(path))
}

/// The component without the names of its inner parts. They serve whoever prints the component as text, and would be 7 KB
/// of it.
fn without_names(component: &[u8]) -> Result<Vec<u8>> {
    const CUSTOM_SECTION: u8 = 0;
    const NAMES: &[u8] = b"component-name";
    let (preamble, mut rest) = component.split_at(COMPONENT_PREAMBLE.len());
    let mut kept = preamble.to_vec();
    while let Some((&id, after_id)) = rest.split_first() {
        let (length, contents) = leb128(after_id).context("the component has a section without a length")?;
        let (contents, after) = contents
            .split_at_checked(length)
            .context("the component ends within a section")?;
        let name = leb128(contents).and_then(|(length, rest)| rest.get(..length));
        if id != CUSTOM_SECTION || name != Some(NAMES) {
            kept.extend_from_slice(&rest[..rest.len() - after.len()]);
        }
        rest = after;
    }
    Ok(kept)
}

/// An unsigned number of at most 32 bits in LEB128, as the binary format has them, and what follows it.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0;
    for (index, byte) in bytes.iter().enumerate().take(5) {
        number |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

fn check_component(bytes: &[u8]) -> Result<()> {
    if bytes.starts_with(&COMPONENT_PREAMBLE) {
        Ok(())
    } else if bytes.starts_with(&COMPONENT_PREAMBLE[..4]) {
        bail!("a core module, not a component: encode it with `wasm-tools component new`")
    } else {
        bail!("not a component in binary form")
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The cargo that runs us, so that a `+toolchain` or a cargo outside `PATH` stays the one in use.
fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

fn workspace_root(manifest_dir: &Path) -> Result<PathBuf> {
    let mut command = Command::new(cargo());
    environment::clean(&mut command);
    let output = command
        .current_dir(manifest_dir)
        .args(["locate-project", "--workspace", "--message-format", "plain"])
        .output()
        .context("cannot start cargo to find the guest's workspace")?;
    let manifest = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    match manifest.parent() {
        Some(root) if output.status.success() => Ok(root.to_owned()),
        _ => bail!(
            "cannot find the guest's workspace from {}: {}",
            manifest_dir.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    }
}

/// `<target>/guest` for the `OUT_DIR` `<target>/<profile>/build/<package>-<hash>/out`: apart from the outer build's folder,
/// whose lock the outer cargo holds while it waits for us, yet one for all profiles and guests, which share dependencies.
fn shared_target_dir(out_dir: &Path) -> PathBuf {
    out_dir
        .ancestors()
        .find(|folder| folder.ends_with("build"))
        .and_then(|build| build.parent()?.parent())
        .unwrap_or(out_dir)
        .join("guest")
}

/// What a rebuild depends on: the files that the compiler read, WIT included (bindings name their WIT files to it), and what
/// selects dependencies and profiles.
fn watched(dep_info: &str, manifest_dir: &Path, workspace: &Path) -> Vec<PathBuf> {
    let mut files = vec![
        manifest_dir.join("Cargo.toml"),
        workspace.join("Cargo.toml"),
        workspace.join("Cargo.lock"),
    ];
    files.retain(|file| file.exists());
    files.extend(dependencies(dep_info).into_iter().map(|file| workspace.join(file)));
    files.dedup();
    files
}

/// The right-hand sides of a dep-info file: `artifact: file file\ with\ spaces`.
fn dependencies(dep_info: &str) -> Vec<String> {
    let mut files = Vec::new();
    for (_, list) in dep_info.lines().filter_map(|line| line.split_once(": ")) {
        let mut file = String::new();
        let mut characters = list.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '\\' if characters.next_if_eq(&' ').is_some() => file.push(' '),
                ' ' => files.push(std::mem::take(&mut file)),
                _ => file.push(character),
            }
        }
        files.push(file);
    }
    files.retain(|file| !file.is_empty());
    files
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

    use super::*;

    #[test]
    fn names_are_left_out_and_all_else_is_kept() {
        let names = b"\x00\x10\x0ecomponent-name\x01";
        let producers = b"\x00\x0b\x09producers\x00";
        let types = b"\x07\x01\x00";
        let component = |sections: &[&[u8]]| [&COMPONENT_PREAMBLE, &sections.concat()[..]].concat();
        assert_eq!(
            without_names(&component(&[types, names, producers])).unwrap(),
            component(&[types, producers])
        );
        for broken in [&b"\x07"[..], b"\x07\x05\x00", b"\x07\xff\xff\xff\xff\xff"] {
            assert!(without_names(&component(&[types, broken])).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn dep_info_gives_its_files() {
        let cases: [(&str, &[&str]); 5] = [
            ("", &[]),
            ("/t/g.wasm: /g/src/lib.rs /w/a.wit\n", &["/g/src/lib.rs", "/w/a.wit"]),
            ("/t/g.wasm: /g/a\\ b/lib.rs", &["/g/a b/lib.rs"]),
            ("C:\\t\\g.wasm: C:\\g\\lib.rs", &["C:\\g\\lib.rs"]),
            ("a: b\n\nc: d\n", &["b", "d"]),
        ];
        for (dep_info, files) in cases {
            assert_eq!(dependencies(dep_info), files, "{dep_info:?}");
        }
    }

    #[test]
    fn guests_of_all_profiles_share_one_folder_apart_from_the_outer_build() {
        for (out_dir, folder) in [
            ("/w/target/debug/build/host-1f/out", "/w/target/guest"),
            ("/w/target/release/build/host-2f/out", "/w/target/guest"),
            ("/build/w/target/debug/build/host/3f/out", "/build/w/target/guest"),
            ("/elsewhere/out", "/elsewhere/out/guest"),
        ] {
            assert_eq!(shared_target_dir(Path::new(out_dir)), Path::new(folder), "{out_dir}");
        }
    }

    #[test]
    fn each_feature_set_has_its_own_component() {
        let guest = Guest::new("guest", "provider");
        assert_eq!(guest.file_name(), "provider.wasm");
        assert_eq!(guest.features(["wasi-0-3"]).file_name(), "provider-wasi-0-3.wasm");
    }

    #[test]
    fn only_a_component_is_taken_as_one() {
        check_component(b"\0asm\x0d\0\x01\0rest").unwrap();
        for (bytes, message) in [
            (&b"\0asm\x01\0\0\0"[..], "core module"),
            (b"(component)", "not a component"),
            (b"\0asm\x0d\0\x01", "core module"),
            (b"", "not a component"),
        ] {
            let error = check_component(bytes).unwrap_err().to_string();
            assert!(error.contains(message), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn an_absent_guest_is_named() {
        let error = Guest::new("no-such-folder", "provider")
            .build(Path::new("/nowhere"))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the sources of guest `provider` are not at no-such-folder"
        );
    }
}
