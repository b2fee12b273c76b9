//! Writes the files of a release: what `./x release` runs once the components are built.

#![expect(clippy::print_stdout, reason = "what it wrote is what it prints")]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use managed_identity_release::{Provider, Release};

/// Writes the files of a release.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The provider for WASI 0.2, as it was built.
    #[arg(long, value_name = "FILE")]
    provider_0_2: PathBuf,
    /// The provider for WASI 0.3, as it was built.
    #[arg(long, value_name = "FILE")]
    provider_0_3: PathBuf,
    /// The folder of the sources.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    workspace: PathBuf,
    /// The commit of the sources.
    #[arg(long, value_name = "COMMIT")]
    revision: Option<String>,
    /// Where the files go: a folder that is empty, or is not there yet.
    folder: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let provider = |version, path: &Path| -> Result<Provider> {
        let component = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Provider { version, component })
    };
    let [old, new] = Provider::VERSIONS;
    let release = Release {
        providers: [
            provider(old, &arguments.provider_0_2)?,
            provider(new, &arguments.provider_0_3)?,
        ],
        workspace: arguments.workspace,
        revision: arguments.revision,
    };
    for name in release.write(&arguments.folder)? {
        println!("{}", arguments.folder.join(name).display());
    }
    Ok(())
}
