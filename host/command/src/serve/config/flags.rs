//! What flags alone ask to be served: one caller, who gets what `--allow` says.

use crate::arguments::ServeArguments;
use crate::log;
use anyhow::Context as _;
use managed_identity_host::grants::{Caller, Grant, Policy, TokenRule};
use managed_identity_serve::config::{Address, CallerConfig, ListenerConfig};
use managed_identity_serve::secret::SecretFile;
use managed_identity_serve::{Config, Protocol};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The only caller.
const ANYBODY: &str = "anybody";

/// How many calls may be under way at once. The caller is all programs of the machine, with all their processes.
const CONCURRENCY: u32 = 4_096;

/// More than any file of secrets has.
const LARGEST_FILE: u64 = 64 * 1024;

pub(super) fn config(arguments: &ServeArguments) -> anyhow::Result<Config> {
    let mut config = Config::default();
    let anybody = Caller::new(ANYBODY);
    let mut how = CallerConfig::default();
    if let Some(file) = &arguments.header_secret_file {
        how.secrets = secrets(file)?.hashes;
    }
    config.callers.insert(anybody.clone(), how);
    let mut grant = Grant::default().with_in_flight(CONCURRENCY);
    if !arguments.audiences.is_empty() {
        grant.token.push(TokenRule::new(arguments.audiences.clone()));
    }
    config.policy = Policy::default().with(anybody.clone(), grant);
    for (protocols, address) in listeners(arguments) {
        let Some(first) = protocols.first() else { continue };
        let is_anybody = first.gives_tokens() && !is_by_secret(arguments, *first);
        let listener = ListenerConfig {
            address: address.clone(),
            protocols: protocols.to_vec(),
            caller: is_anybody.then(|| anybody.clone()),
            callers: None,
            tls: None,
            hosts: Vec::new(),
        };
        config.listeners.insert(first.to_string(), listener);
    }
    config.check()?;
    Ok(config)
}

/// Says who is served without a secret, that nobody gets anything, and who else can read the secrets.
pub(super) fn warn(arguments: &ServeArguments) {
    let mut open: Vec<String> = Vec::new();
    let mut gives_tokens = false;
    for (protocols, address) in listeners(arguments) {
        let Some(first) = protocols.first().filter(|protocol| protocol.gives_tokens()) else {
            continue;
        };
        gives_tokens = true;
        if matches!(address, Address::Tcp(_)) && !is_by_secret(arguments, *first) {
            open.push(format!("--{}", flag(*first)));
        }
    }
    if !open.is_empty() {
        let cure = match open.as_slice() {
            [only] if *only == "--app-service" => "Give --header-secret-file, or an address like `unix:/run/x.sock`",
            _ => {
                "Give addresses like `unix:/run/x.sock`, to which only you can connect, or --config, where callers are known \
                 by secret or by user"
            }
        };
        tracing::warn!(
            target: log::TARGET,
            "every program on this machine that can reach the port of {} gets tokens, whoever runs it. {cure}.",
            open.join(" and ")
        );
    }
    if gives_tokens && arguments.audiences.is_empty() {
        tracing::warn!(
            target: log::TARGET,
            "nobody gets a token for anything, because nothing is allowed. Give --allow and an audience, such as \
             --allow https://vault.azure.net."
        );
    }
    if let Some(file) = &arguments.header_secret_file {
        warn_of_readers(file);
    }
}

fn listeners(arguments: &ServeArguments) -> impl Iterator<Item = (&'static [Protocol], &Address)> {
    let all: [(&'static [Protocol], _); 4] = [
        (&[Protocol::AppService], &arguments.app_service),
        (&[Protocol::Imds], &arguments.imds),
        (&[Protocol::EnvoyExtAuthz], &arguments.ext_authz),
        (&[Protocol::Metrics, Protocol::Health], &arguments.metrics),
    ];
    all.into_iter()
        .filter_map(|(protocols, address)| Some((protocols, address.as_ref()?)))
}

fn flag(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::EnvoyExtAuthz => "ext-authz",
        // It has no flag, because its secrets are named in a document.
        Protocol::EnvoySds => "config",
        other => other.name(),
    }
}

fn is_by_secret(arguments: &ServeArguments, protocol: Protocol) -> bool {
    protocol == Protocol::AppService && arguments.header_secret_file.is_some()
}

fn secrets(file: &Path) -> anyhow::Result<SecretFile> {
    let mut text = String::new();
    File::open(file)
        .and_then(|opened| opened.take(LARGEST_FILE).read_to_string(&mut text))
        .with_context(|| format!("The secrets {} cannot be read", file.display()))?;
    SecretFile::parse(&text).with_context(|| format!("The secrets {} cannot be used", file.display()))
}

/// Whoever can read a secret can send it.
#[cfg(unix)]
fn warn_of_readers(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    const OTHERS: u32 = 0o077;
    // What cannot be looked at could not be read either, which was told.
    let Ok(metadata) = std::fs::metadata(file) else { return };
    let mode = metadata.permissions().mode();
    if metadata.is_file() && mode & OTHERS != 0 && secrets(file).is_ok_and(|secrets| secrets.has_secrets) {
        tracing::warn!(
            target: log::TARGET,
            "other users of this machine may read the secrets in {}. Run `chmod 600` on it, or keep hashes there: \
             `managed-identity secret hash` prints them.",
            file.display()
        );
    }
}

#[cfg(not(unix))]
fn warn_of_readers(_file: &Path) {}
