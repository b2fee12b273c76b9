//! Builds a guest crate into a component, for whoever is no build script.
//!
//! It knows the compilers that can build guests here, which plain `cargo build` does not.

use anyhow::{Context, Result, bail};
use managed_identity_guest_build::Guest;
use std::path::Path;
use std::{env, fs};

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [folder, package, target_dir, file, features @ ..] = &arguments[..] else {
        bail!("usage: managed-identity-guest-build FOLDER PACKAGE TARGET-FOLDER FILE.wasm [FEATURE...]");
    };
    let built = Guest::new(folder, package)
        .features(features)
        .component(Path::new(target_dir))?;
    fs::write(file, built.component).with_context(|| format!("cannot write {file}"))
}
