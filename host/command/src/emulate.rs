//! `managed-identity emulate`

use crate::arguments::{EmulateArguments, Output};
use crate::report;
use anyhow::{Context as _, bail};
use managed_identity_emulator::{Emulator, EmulatorConfig, KeyVault, Source};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Leads to the vault, with TLS.
const VAULT_URL: &str = "VAULT_URL";

/// Leads to the same vault without TLS. Its name says what is wrong with it.
const VAULT_URL_PLAIN: &str = "VAULT_URL_PLAIN";

/// What is running, and what of it is to be told.
struct Stage {
    emulator: Emulator,
    source: Option<Source>,
    vault: Option<Vault>,
    /// Where the authority of all certificates was written to.
    ca_file: Option<PathBuf>,
}

/// A vault that takes the tokens.
struct Vault {
    running: KeyVault,
    plain_url: String,
    /// The name of one of its secrets.
    secret: String,
}

pub(crate) async fn run(arguments: EmulateArguments) -> anyhow::Result<ExitCode> {
    let config = EmulatorConfig {
        listen: arguments.listen,
        arc_directory: arguments.arc_directory,
        federated_token_file: arguments.federated_token_file,
        ..EmulatorConfig::default()
    };
    let emulator =
        Emulator::start(config).with_context(|| format!("The emulator cannot start on {}", arguments.listen))?;
    if let Some(lifetime) = arguments.token_lifetime {
        emulator.configure(|settings| settings.token_lifetime_seconds = lifetime);
    }
    if let Some(source) = arguments.source
        && !emulator.offers(source)
    {
        bail!("The source {source} needs a file for the federated token: add --federated-token-file FILE");
    }
    if let (Some(file), Some(certificate)) = (&arguments.ca_file, emulator.certificate()) {
        std::fs::write(file, certificate.authority_pem())
            .with_context(|| format!("The certificate cannot be written to {}", file.display()))?;
    }
    let stage = Stage {
        vault: Vault::start(&emulator, arguments.secrets).context("The vault cannot start")?,
        emulator,
        source: arguments.source,
        ca_file: arguments.ca_file,
    };
    // Whoever reads what is printed may end the emulator at once.
    let interrupted = interrupted()?;
    match arguments.output {
        Output::Json => stage.print_json()?,
        Output::Text => stage.print_shell()?,
    }
    interrupted.await;
    stage.emulator.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

impl Vault {
    /// None without secrets: there would be nothing to ask it for.
    fn start(emulator: &Emulator, secrets: Vec<(String, String)>) -> anyhow::Result<Option<Self>> {
        let Some((secret, _)) = secrets.first().cloned() else {
            return Ok(None);
        };
        let mut running = emulator.start_key_vault(secrets)?;
        Ok(Some(Self {
            plain_url: running.serve_plain()?,
            running,
            secret,
        }))
    }

    /// How a component reads a secret of it, as comments.
    fn instructions(&self, ca_file: Option<&Path>) -> anyhow::Result<String> {
        let ca_file = match ca_file {
            Some(file) => std::path::absolute(file)?.display().to_string(),
            None => "ca.pem".to_owned(),
        };
        Ok(format!(
            "\n#\n# A component that reads a secret of the vault, whose certificate is of the authority in --ca-file:\
             \n#   SSL_CERT_FILE={} managed-identity run --allow https://vault.azure.net --allow-http \"${VAULT_URL}\" \
             fetch-secret.wasm \"${VAULT_URL}\" {}\
             \n# {VAULT_URL_PLAIN} is the same vault without TLS, only for hosts that can trust no such authority.",
            quoted(&ca_file),
            self.secret
        ))
    }
}

impl Stage {
    /// The variables to begin with: those of the source, or those that need no choice, and those of the vault.
    fn environment(&self) -> BTreeMap<String, String> {
        let mut environment = match self.source {
            Some(source) => self.emulator.environment_for(source),
            None => self.emulator.environment(),
        };
        if let Some(vault) = &self.vault {
            environment.insert(VAULT_URL.to_owned(), vault.running.base_url().to_owned());
            environment.insert(VAULT_URL_PLAIN.to_owned(), vault.plain_url.clone());
        }
        environment
    }

    fn print_json(&self) -> anyhow::Result<()> {
        let mut ready = json!({
            "listening": self.emulator.listening().to_string(),
            "listening_tls": self.emulator.tls_listening().map(|address| address.to_string()),
            "environment": self.environment(),
        });
        if self.source.is_none() {
            let environments: Map<_, _> = self
                .offered()
                .map(|source| (source.to_string(), json!(self.emulator.environment_for(source))))
                .collect();
            ready["environments"] = environments.into();
        }
        report::line(ready)
    }

    fn print_shell(&self) -> anyhow::Result<()> {
        let mut text = format!(
            "# Listening on {}. Paste these lines into a shell; stop with Ctrl-C.",
            self.emulator.listening()
        );
        text.push_str(&exports(&self.environment()));
        if let Some(vault) = &self.vault {
            text.push_str(&vault.instructions(self.ca_file.as_deref())?);
        }
        if self.source.is_none() {
            let listed = self
                .offered()
                .filter(|source| !matches!(source, Source::AppService | Source::Imds));
            for source in listed {
                let lines = exports(&self.emulator.environment_for(source));
                // A value may have several lines, and all of them are comments.
                text.push_str(&format!("\n#\n# --source {source}:{}", lines.replace('\n', "\n# ")));
            }
        }
        report::line(text)
    }

    fn offered(&self) -> impl Iterator<Item = Source> + '_ {
        Source::ALL
            .iter()
            .copied()
            .filter(|source| self.emulator.offers(*source))
    }
}

/// Each variable on a line that a shell understands, with the line's end before it.
fn exports(environment: &BTreeMap<String, String>) -> String {
    environment
        .iter()
        .map(|(name, value)| format!("\nexport {name}={}", quoted(value)))
        .collect()
}

/// As a shell takes it whole.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "'\\''"))
}

/// Completes at Ctrl-C or, where there is such a thing, at a request to terminate or a terminal's end. Those that come between
/// this call and the first look at what it returns are not lost.
#[cfg(unix)]
pub(crate) fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}

#[cfg(not(unix))]
pub(crate) fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    // Where the signal cannot be had, nothing can be waited for, and the program ends as any does.
    Ok(async { tokio::signal::ctrl_c().await.unwrap_or(()) })
}
