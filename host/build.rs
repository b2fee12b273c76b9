//! Embeds the provider: builds its component for each WASI, or takes the ones that the environment names.

use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use managed_identity_guest_build::{Guest, prebuilt, report};
use sha2::{Digest as _, Sha256};

/// The variable that gives a prebuilt component and names the embedded one to `env!`, and the guest's feature.
const PROVIDERS: [(&str, &str); 2] = [
    ("MANAGED_IDENTITY_PROVIDER_0_2", "wasi-0-2"),
    ("MANAGED_IDENTITY_PROVIDER_0_3", "wasi-0-3"),
];

/// What a component may weigh, in bytes: it is compiled at first start, and read by whoever audits it.
const SIZE_LIMIT: usize = 256 * 1024;

fn main() -> ExitCode {
    report(embed_providers())
}

fn embed_providers() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let out_dir = env::var("OUT_DIR").context("cargo sets OUT_DIR for build scripts")?;
    for (variable, feature) in PROVIDERS {
        let component = match prebuilt(variable)? {
            Some(component) => component,
            None => Guest::new("../guest", "managed-identity-provider")
                .features([feature])
                .build(Path::new(&out_dir))?,
        };
        let bytes = fs::read(&component).with_context(|| format!("cannot read {}", component.display()))?;
        let size = bytes.len();
        if size > SIZE_LIMIT {
            bail!(
                "{} is {size} bytes, more than the {SIZE_LIMIT} that a provider may have",
                component.display()
            );
        }
        println!("cargo::rustc-env={variable}={}", component.display());
        // So that no start has to read all of it.
        println!("cargo::rustc-env={variable}_SHA256={}", hex(&Sha256::digest(&bytes)));
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
