//! Builds the components that are measured beside the provider, and no other guest of the tests.

use std::env;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use managed_identity_guest_build::{Guest, report};

/// The guest, the variable that names the component to `env!`, and the guest's feature.
const GUESTS: [(&str, &str, &str); 3] = [
    ("constant", "CONSTANT_0_2", "wasi-0-2"),
    ("constant", "CONSTANT_0_3", "wasi-0-3"),
    ("plugin", "PLUGIN_0_2", "wasi-0-2"),
];

fn main() -> ExitCode {
    report(build())
}

fn build() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let out_dir = env::var("OUT_DIR").context("cargo sets OUT_DIR for build scripts")?;
    for (guest, variable, feature) in GUESTS {
        let folder = Path::new("../../tests/guests").join(guest);
        let component = Guest::new(folder, format!("managed-identity-{guest}-guest"))
            .features([feature])
            .build(Path::new(&out_dir))?;
        println!("cargo::rustc-env={variable}={}", component.display());
    }
    Ok(())
}
