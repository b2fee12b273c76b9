//! `managed-identity secret`

use crate::arguments::{Output, SecretArguments, SecretCommand};
use crate::report;
use anyhow::Context as _;
use managed_identity_serve::{HeaderSecret, SecretHash};
use serde_json::json;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

/// More than any secret has, and a bound on what is read.
const LARGEST_INPUT: u64 = 64 * 1024;

pub(crate) fn run(arguments: &SecretArguments) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        SecretCommand::New { file: None } => new(arguments.output)?,
        SecretCommand::New { file: Some(file) } => new_in(file, arguments.output)?,
        SecretCommand::Hash => print_hash(hash_of_input()?, None, arguments.output)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn new(output: Output) -> anyhow::Result<()> {
    let secret = HeaderSecret::generate()?;
    let (secret, hash) = (secret.reveal(), secret.hash());
    match output {
        Output::Json => report::line(json!({ "secret": secret, "hash": hash.to_string() })),
        Output::Text => report::line(format_args!(
            "# For the program, in its environment; it is shown here and nowhere else:\n\
             IDENTITY_HEADER={secret}\n\
             # For the broker's document, in the [caller.NAME] of the program:\n\
             secrets = [\"{hash}\"]"
        )),
    }
}

fn new_in(file: &Path, output: Output) -> anyhow::Result<()> {
    let secret = HeaderSecret::generate()?;
    let mut created = create(file)?;
    let written = writeln!(created, "{}", secret.reveal()).and_then(|()| created.sync_all());
    if let Err(error) = written {
        // Half a secret is none. That it cannot be written is what has to be told.
        let _ = fs::remove_file(file);
        return Err(error).with_context(|| format!("The secret cannot be written to {}", file.display()));
    }
    print_hash(secret.hash(), Some(file), output)
}

/// A file that was not there before, and that only its owner can read.
fn create(file: &Path) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow::anyhow!(
            "{} exists, and no secret is overwritten: programs may still use it. Write the new one to another file",
            file.display()
        ),
        _ => anyhow::Error::new(error).context(format!("The secret cannot be written to {}", file.display())),
    })
}

fn hash_of_input() -> anyhow::Result<SecretHash> {
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(LARGEST_INPUT)
        .read_to_string(&mut text)
        .context("The secret cannot be read from standard input")?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let secret = HeaderSecret::parse(text.strip_suffix('\r').unwrap_or(text));
    secret
        .map(|secret| secret.hash())
        .map_err(|error| anyhow::anyhow!("What stands on standard input {error}"))
}

fn print_hash(hash: SecretHash, file: Option<&Path>, output: Output) -> anyhow::Result<()> {
    match (output, file) {
        (Output::Text, _) => report::line(hash),
        (Output::Json, None) => report::line(json!({ "hash": hash.to_string() })),
        (Output::Json, Some(file)) => report::line(json!({ "hash": hash.to_string(), "file": file })),
    }
}
