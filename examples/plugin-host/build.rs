//! Builds the plugins that ship with the host, and puts them into a folder with their arguments.

use anyhow::{Context, Result};
use managed_identity_guest_build::{Guest, report};
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

const PLUGINS: [&str; 2] = ["who-am-i", "read-secret"];

fn main() -> ExitCode {
    report(build())
}

fn build() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let out_dir = env::var("OUT_DIR").context("cargo sets OUT_DIR for build scripts")?;
    let folder = Path::new(&out_dir).join("plugins");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for plugin in PLUGINS {
        let component =
            Guest::new(format!("plugins/{plugin}"), format!("example-plugin-{plugin}")).build(Path::new(&out_dir))?;
        let arguments = format!("plugins/{plugin}.args");
        println!("cargo::rerun-if-changed={arguments}");
        for (from, to) in [
            (component.as_path(), folder.join(plugin).with_extension("wasm")),
            (Path::new(&arguments), folder.join(plugin).with_extension("args")),
        ] {
            fs::copy(from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        }
    }
    println!("cargo::rustc-env=PLUGINS={}", folder.display());
    Ok(())
}
