//! What the inner cargo sees of the outer one's world: the user's network and registry settings, not the outer build's flags.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::toolchain::Toolchain;

/// Settings that say where crates come from and how cargo talks, and the jobserver that both builds share.
const KEPT: [&str; 10] = [
    "CARGO_BUILD_JOBS",
    "CARGO_CACHE_",
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
];

/// What the outer cargo, clippy or the user set for the outer build: `CARGO_ENCODED_RUSTFLAGS`, `CARGO_BUILD_TARGET`,
/// `CARGO_TARGET_DIR`, `CARGO_PROFILE_*`, `CARGO_FEATURE_*`, `RUSTC_WORKSPACE_WRAPPER` and so on. Left in place, they break
/// the inner build or make its bytes depend on who builds.
const REMOVED: [&str; 5] = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "__CARGO"];

/// Removes from `cargo` the variables of the outer build.
pub(crate) fn clean(cargo: &mut Command) {
    for (name, _) in env::vars_os() {
        if belongs_to_outer_build(&name.to_string_lossy()) {
            cargo.env_remove(name);
        }
    }
}

fn belongs_to_outer_build(name: &str) -> bool {
    let starts_with_any = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    starts_with_any(&REMOVED) && !starts_with_any(&KEPT)
}

/// Keeps the paths of this machine out of panic messages, and with them its folder names out of the component's bytes.
pub(crate) fn remap_paths(cargo: &mut Command, workspace: &Path, target_dir: &Path, toolchain: &Toolchain) {
    let mut prefixes = vec![(workspace.to_owned(), "/workspace".to_owned())];
    prefixes.push((target_dir.to_owned(), "/target".to_owned()));
    if let Some(home) = cargo_home() {
        // Registry folders are named after their index, which differs where crates come from a mirror.
        let registries = home.join("registry/src");
        prefixes.push((home, "/cargo".to_owned()));
        for registry in registries.read_dir().into_iter().flatten().flatten() {
            prefixes.push((registry.path(), "/crates".to_owned()));
        }
    }
    // What the compiler itself calls its sources when they are not there.
    let sources = toolchain.library_sources();
    let virtual_sources = format!("/rustc/{}", toolchain.commit_hash());
    prefixes.extend(sources.canonicalize().map(|real| (real, virtual_sources.clone())));
    prefixes.push((sources, virtual_sources));

    // The last prefix that matches a path wins, so the general ones come first.
    let mut flags = OsString::new();
    for (from, to) in prefixes {
        if !flags.is_empty() {
            flags.push("\u{1f}");
        }
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags);
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_outer_build_are_removed_and_the_users_settings_kept() {
        for (name, removed) in [
            ("CARGO", true),
            ("CARGO_BUILD_RUSTFLAGS", true),
            ("CARGO_BUILD_TARGET", true),
            ("CARGO_CFG_TARGET_ARCH", true),
            ("CARGO_ENCODED_RUSTFLAGS", true),
            ("CARGO_FEATURE_DEFAULT", true),
            ("CARGO_MANIFEST_DIR", true),
            ("CARGO_PROFILE_COMPONENT_OPT_LEVEL", true),
            ("CARGO_TARGET_DIR", true),
            ("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", true),
            ("RUSTC", true),
            ("RUSTC_BOOTSTRAP", true),
            ("RUSTC_WORKSPACE_WRAPPER", true),
            ("RUSTC_WRAPPER", true),
            ("RUSTDOCFLAGS", true),
            ("RUSTFLAGS", true),
            ("__CARGO_DEFAULT_LIB_METADATA", true),
            ("CARGO_BUILD_JOBS", false),
            ("CARGO_HOME", false),
            ("CARGO_HTTP_CAINFO", false),
            ("CARGO_MAKEFLAGS", false),
            ("CARGO_NET_OFFLINE", false),
            ("CARGO_REGISTRIES_MIRROR_INDEX", false),
            ("CARGO_SOURCE_CRATES_IO_REPLACE_WITH", false),
            ("HOME", false),
            ("PATH", false),
            ("RUSTUP_TOOLCHAIN", false),
            ("RUST_BACKTRACE", false),
        ] {
            assert_eq!(belongs_to_outer_build(name), removed, "{name}");
        }
    }
}
