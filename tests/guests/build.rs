//! Builds the components that tests run.

use std::env;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use managed_identity_guest_build::{Guest, report};

/// The guest's folder, the variable that names the component to `env!`, and the guest's feature.
const GUESTS: [(&str, &str, &str); 4] = [
    ("hostile", "HOSTILE_0_2", "wasi-0-2"),
    ("hostile", "HOSTILE_0_3", "wasi-0-3"),
    ("plugin", "PLUGIN_0_2", "wasi-0-2"),
    ("plugin", "PLUGIN_0_3", "wasi-0-3"),
];

fn main() -> ExitCode {
    report(build())
}

fn build() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let out_dir = env::var("OUT_DIR").context("cargo sets OUT_DIR for build scripts")?;
    for (guest, variable, feature) in GUESTS {
        let component = Guest::new(guest, format!("managed-identity-{guest}-guest"))
            .features([feature])
            .build(Path::new(&out_dir))?;
        println!("cargo::rustc-env={variable}={}", component.display());
    }
    for (variable, feature) in [("AUTHORIZED_0_2", "wasi-0-2"), ("AUTHORIZED_0_3", "wasi-0-3")] {
        let guest = Guest::new("authorized", "managed-identity-authorized-guest").features([feature]);
        println!(
            "cargo::rustc-env={variable}={}",
            guest.build(Path::new(&out_dir))?.display()
        );
    }
    let client = Guest::new("client", "managed-identity-client-guest").build(Path::new(&out_dir))?;
    println!("cargo::rustc-env=CLIENT={}", client.display());
    for (variable, feature) in [("CACHE_DRAFT", "keyvalue-draft"), ("CACHE_DRAFT2", "keyvalue-draft2")] {
        let cache = Guest::new("../../guest/cache", "managed-identity-cache").features([feature]);
        println!(
            "cargo::rustc-env={variable}={}",
            cache.build(Path::new(&out_dir))?.display()
        );
    }
    let deny = Guest::new("deny", "managed-identity-deny-guest").build(Path::new(&out_dir))?;
    println!("cargo::rustc-env=DENY={}", deny.display());
    Ok(())
}
