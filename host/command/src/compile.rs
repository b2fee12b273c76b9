//! `managed-identity compile`, and what becomes of its results.

use crate::arguments::CompileArguments;
use crate::report;
use anyhow::{Context as _, bail};
use managed_identity_host::{BrokerBuilder, is_precompiled, precompile};
use serde_json::json;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

pub(crate) fn run(arguments: &CompileArguments) -> anyhow::Result<ExitCode> {
    let component = arguments.component()?;
    if is_precompiled(&component) {
        bail!("The provider is compiled already. Give the component that it was made from.");
    }
    let artefact = precompile(&component)?;
    let output = &arguments.output;
    write(output, &artefact).with_context(|| format!("{} cannot be written", output.display()))?;
    if arguments.json {
        report::line(json!({
            "output": output.display().to_string(),
            "component_bytes": component.len(),
            "compiled_bytes": artefact.len(),
            "version": env!("CARGO_PKG_VERSION"),
        }))?;
    } else {
        report::line(format_args!(
            "{file}: {compiled} bytes of native code, from a component of {bytes}\n\
             It runs with this version, on machines like this one, outside of the sandbox:\n  \
             managed-identity token --resource … --provider {file} --trust-compiled-code",
            file = output.display(),
            compiled = artefact.len(),
            bytes = component.len(),
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Puts a file in the place of what was there, whole or not at all, and for nobody else to write.
fn write(output: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = output.as_os_str().to_owned();
    name.push(format!(".{}", process::id()));
    let unfinished = PathBuf::from(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    // One that is there already is not ours to remove.
    let mut file = options.open(&unfinished)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&unfinished, output));
    if written.is_err() {
        // The error that is told is the first.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// What a provider's file holds, and whose it was when it was read.
pub(crate) fn read(file: &Path) -> anyhow::Result<(Vec<u8>, Metadata)> {
    let read = || {
        let mut open = File::open(file)?;
        let metadata = open.metadata()?;
        let mut bytes = Vec::new();
        open.read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>((bytes, metadata))
    };
    read().with_context(|| format!("The provider {} cannot be read", file.display()))
}

/// Makes a broker run the provider in `file`: a component, or compiled code if that is `trusted`.
pub(crate) fn load(builder: BrokerBuilder, file: &Path, trusted: bool) -> anyhow::Result<BrokerBuilder> {
    let (bytes, metadata) = read(file)?;
    if !is_precompiled(&bytes) {
        return Ok(builder.provider(bytes));
    }
    if !trusted {
        bail!(
            "{} is compiled code, which runs outside of the sandbox and can do whatever you can. If you have made it \
             yourself with `managed-identity compile`, add --trust-compiled-code.",
            file.display()
        );
    }
    if let Some(who) = writer(&metadata) {
        bail!(
            "{} is compiled code that {who} can write. Make it again with `managed-identity compile`, in a folder of your \
             own.",
            file.display()
        );
    }
    // SAFETY: the user answers for the file, and nobody else could have written what was read from it.
    #[expect(unsafe_code, reason = "native code cannot be checked, only trusted")]
    Ok(unsafe { builder.precompiled_provider(bytes) })
}

/// Who else can write a file than this user and the system's administrator.
#[cfg(unix)]
fn writer(file: &Metadata) -> Option<&'static str> {
    use std::os::unix::fs::MetadataExt as _;
    if file.uid() != 0 && file.uid() != rustix::process::geteuid().as_raw() {
        Some("another user, its owner,")
    } else if file.mode() & 0o002 != 0 {
        Some("everybody")
    } else if file.mode() & 0o020 != 0 {
        Some("its group")
    } else {
        None
    }
}

/// Where access is not told by owner and mode, the user's word has to do.
#[cfg(not(unix))]
fn writer(_: &Metadata) -> Option<&'static str> {
    None
}
