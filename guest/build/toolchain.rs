//! Which compiler builds guests: one that has std for the target, else one that has std's sources.
//!
//! rustup installs std for `wasm32-unknown-unknown` beside the compiler. Where rustup's servers cannot be reached, Debian's
//! packages `rustc-web` and `rust-web-src` do: a compiler, and the sources to build std from. Cargo does that with
//! `-Zbuild-std`, which a stable compiler allows only under `RUSTC_BOOTSTRAP`.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

/// The target that guests are compiled for.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// Names the compiler for guests, before any other choice.
pub(crate) const RUSTC_VARIABLE: &str = "MANAGED_IDENTITY_GUEST_RUSTC";

/// Where Debian's packages put their compiler. It is asked for by path because rustup's usually hides it in `PATH`.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// The oldest compiler that guests promise to build with: the workspace's `rust-version`.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

/// A compiler with what it needs to build for [`TARGET`].
#[derive(Debug)]
pub(crate) struct Toolchain {
    compiler: Compiler,
    /// A linker for a compiler that comes without one.
    linker: Option<PathBuf>,
}

impl Toolchain {
    pub(crate) fn find() -> Result<Self> {
        let chosen = env::var_os(RUSTC_VARIABLE).filter(|value| !value.is_empty());
        let default = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let candidates = match &chosen {
            Some(rustc) => vec![Compiler::inspect(rustc)],
            None => vec![Compiler::inspect(&default), Compiler::inspect(OsStr::new(DEBIAN_RUSTC))],
        };
        let candidates: Vec<_> = candidates.into_iter().flatten().collect();
        let Some(best) = choose(&candidates) else {
            bail!(cannot_build(&candidates, chosen.as_deref()))
        };

        // Debian's compiler has no linker for the target, but the compiler that runs us often has.
        let linker = match best.own_linker() {
            Some(_) => None,
            None => {
                let other = if chosen.is_some() {
                    Compiler::inspect(&default)
                } else {
                    None
                };
                let lent = candidates.iter().chain(&other).find_map(Compiler::own_linker);
                let Some(linker) = lent.or_else(linker_in_path) else {
                    bail!(
                        "`{}` has no linker for {TARGET}: install Debian's package `lld`",
                        best.rustc.display()
                    )
                };
                Some(linker)
            }
        };
        Ok(Self {
            compiler: best.clone(),
            linker,
        })
    }

    /// Makes `cargo` build with this compiler.
    pub(crate) fn apply(&self, cargo: &mut Command) {
        cargo.env("RUSTC", &self.compiler.rustc);
        if let Some(linker) = &self.linker {
            cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        if !self.compiler.has_target {
            cargo.env("RUSTC_BOOTSTRAP", "1").arg("-Zbuild-std=std,panic_abort");
        }
    }

    /// Where std's sources are, if they are there.
    pub(crate) fn library_sources(&self) -> PathBuf {
        self.compiler.sysroot.join("lib/rustlib/src/rust")
    }

    /// The compiler's release.
    pub(crate) fn release(&self) -> &str {
        &self.compiler.release
    }

    /// The commit that the compiler was built from.
    pub(crate) fn commit_hash(&self) -> &str {
        &self.compiler.commit_hash
    }
}

/// What a compiler says of itself, and what is installed beside it.
#[derive(Clone, Debug)]
struct Compiler {
    rustc: PathBuf,
    release: String,
    commit_hash: String,
    host: String,
    sysroot: PathBuf,
    has_target: bool,
    has_sources: bool,
}

impl Compiler {
    /// `None` when there is no such compiler, or it does not know the target.
    fn inspect(rustc: &OsStr) -> Option<Self> {
        let ask = |arguments: &[&str]| {
            let output = Command::new(rustc).args(arguments).output().ok()?;
            output
                .status
                .success()
                .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let version = ask(&["-vV"])?;
        let field = |name: &str| {
            version
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|rest| rest.trim().to_owned())
        };
        let folders = ask(&["--print", "sysroot", "--print", "target-libdir", "--target", TARGET])?;
        let mut folders = folders.lines().map(PathBuf::from);
        let (sysroot, target_libdir) = (folders.next()?, folders.next()?);
        Some(Self {
            rustc: rustc.into(),
            release: field("release:")?,
            commit_hash: field("commit-hash:")?,
            host: field("host:")?,
            has_target: target_libdir.is_dir(),
            has_sources: sysroot.join("lib/rustlib/src/rust/library/Cargo.lock").is_file(),
            sysroot,
        })
    }

    fn is_new_enough(&self) -> bool {
        version(&self.release) >= version(OLDEST)
    }

    fn own_linker(&self) -> Option<PathBuf> {
        let linker = self.sysroot.join("lib/rustlib").join(&self.host).join("bin/rust-lld");
        linker.is_file().then_some(linker)
    }
}

/// The first that has std for the target, else the first that can build it.
fn choose(candidates: &[Compiler]) -> Option<&Compiler> {
    let usable = || candidates.iter().filter(|compiler| compiler.is_new_enough());
    usable()
        .find(|compiler| compiler.has_target)
        .or_else(|| usable().find(|compiler| compiler.has_sources))
}

/// One sentence: what is missing, and what to run.
fn cannot_build(candidates: &[Compiler], chosen: Option<&OsStr>) -> String {
    let cure = format!("run `./x setup` (or `rustup target add {TARGET}`)");
    if let Some(chosen) = chosen {
        let chosen = Path::new(chosen).display();
        return match candidates.first() {
            Some(old) if !old.is_new_enough() => {
                format!(
                    "{RUSTC_VARIABLE} names `{chosen}`, which is {}, and guests need {OLDEST}: name a newer one",
                    old.release
                )
            }
            Some(_) => format!("{RUSTC_VARIABLE} names `{chosen}`, which has no std for {TARGET}: unset it and {cure}"),
            None => format!("{RUSTC_VARIABLE} names `{chosen}`, which is no Rust compiler that knows {TARGET}"),
        };
    }
    match candidates
        .iter()
        .find(|compiler| (compiler.has_target || compiler.has_sources) && !compiler.is_new_enough())
    {
        Some(old) => format!(
            "the guest needs std for {TARGET}, and `{}` is {}, older than {OLDEST}: {cure}",
            old.rustc.display(),
            old.release
        ),
        None => format!("the guest needs std for {TARGET}: {cure}"),
    }
}

fn linker_in_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let folders: Vec<_> = env::split_paths(&path).collect();
    let in_path = |name: &str| {
        folders
            .iter()
            .map(|folder| folder.join(name))
            .find(|file| file.is_file())
    };
    in_path("rust-lld").or_else(|| in_path("wasm-ld"))
}

/// Major and minor: all that a `rust-version` of ours says.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(rustc: &str, release: &str, has_target: bool, has_sources: bool) -> Compiler {
        Compiler {
            rustc: rustc.into(),
            release: release.to_owned(),
            commit_hash: String::new(),
            host: String::new(),
            sysroot: PathBuf::new(),
            has_target,
            has_sources,
        }
    }

    #[test]
    fn an_installed_std_is_preferred_to_one_built_from_source() {
        let cases = [
            (
                compiler("a", "1.95.0", true, false),
                compiler("b", "1.96.0", false, true),
                Some("a"),
            ),
            (
                compiler("a", "1.95.0", false, true),
                compiler("b", "1.96.0", true, false),
                Some("b"),
            ),
            (
                compiler("a", "1.95.0", false, false),
                compiler("b", "1.96.0", false, true),
                Some("b"),
            ),
            (
                compiler("a", "1.95.0", false, false),
                compiler("b", "1.85.0", true, true),
                None,
            ),
            (
                compiler("a", "1.95.0", false, false),
                compiler("b", "1.96.0", false, false),
                None,
            ),
        ];
        for (first, second, expected) in cases {
            let candidates = [first, second];
            let chosen = choose(&candidates).map(|compiler| compiler.rustc.as_path());
            assert_eq!(chosen, expected.map(Path::new), "{candidates:?}");
        }
    }

    #[test]
    fn a_missing_target_is_one_sentence_with_its_cure() {
        let bare = compiler("rustc", "1.95.0", false, false);
        let old = compiler("/usr/bin/rustc", "1.85.0", false, true);
        assert_eq!(
            cannot_build(std::slice::from_ref(&bare), None),
            "the guest needs std for wasm32-unknown-unknown: run `./x setup` (or `rustup target add wasm32-unknown-unknown`)"
        );
        for (candidates, chosen, part) in [
            (
                vec![bare.clone(), old.clone()],
                None,
                "`/usr/bin/rustc` is 1.85.0, older than 1.95",
            ),
            (
                vec![old],
                Some("/usr/bin/rustc"),
                "which is 1.85.0, and guests need 1.95",
            ),
            (vec![bare], Some("rustc"), "unset it and run `./x setup`"),
            (vec![], Some("/bin/true"), "no Rust compiler"),
        ] {
            let message = cannot_build(&candidates, chosen.map(OsStr::new));
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn releases_compare_by_number() {
        for (newer, older) in [
            ("1.100.0", "1.95"),
            ("1.95.0", "1.95"),
            ("1.97.0-nightly", "1.95"),
            ("2.0.0", "1.95"),
        ] {
            assert!(version(newer) >= version(older), "{newer} >= {older}");
        }
        assert!(version("1.85.0") < version("1.95"));
    }
}
