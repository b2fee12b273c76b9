//! `managed-identity emulate`

use crate::arguments::{EmulateArguments, Output};
use crate::report;
use anyhow::{Context as _, bail};
use managed_identity_emulator::{Emulator, EmulatorConfig, Source};
use serde_json::{Map, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

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
    // Whoever reads what is printed may end the emulator at once.
    let interrupted = interrupted()?;
    match arguments.output {
        Output::Json => print_json(&emulator, arguments.source)?,
        Output::Text => print_shell(&emulator, arguments.source)?,
    }
    interrupted.await;
    emulator.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

/// The variables to begin with: those of the source, or those that need no choice.
fn first_environment(emulator: &Emulator, source: Option<Source>) -> BTreeMap<String, String> {
    match source {
        Some(source) => emulator.environment_for(source),
        None => emulator.environment(),
    }
}

fn print_json(emulator: &Emulator, source: Option<Source>) -> anyhow::Result<()> {
    let mut ready = json!({
        "listening": emulator.listening().to_string(),
        "listening_tls": emulator.tls_listening().map(|address| address.to_string()),
        "environment": first_environment(emulator, source),
    });
    if source.is_none() {
        let environments: Map<_, _> = offered(emulator)
            .map(|source| (source.to_string(), json!(emulator.environment_for(source))))
            .collect();
        ready["environments"] = environments.into();
    }
    report::line(ready)
}

fn print_shell(emulator: &Emulator, source: Option<Source>) -> anyhow::Result<()> {
    let mut text = format!(
        "# Listening on {}. Paste these lines into a shell; stop with Ctrl-C.",
        emulator.listening()
    );
    text.push_str(&exports(&first_environment(emulator, source)));
    if source.is_none() {
        let listed = offered(emulator).filter(|source| !matches!(source, Source::AppService | Source::Imds));
        for source in listed {
            let lines = exports(&emulator.environment_for(source));
            // A value may have several lines, and all of them are comments.
            text.push_str(&format!("\n#\n# --source {source}:{}", lines.replace('\n', "\n# ")));
        }
    }
    report::line(text)
}

/// Each variable on a line that a shell understands, with the line's end before it.
fn exports(environment: &BTreeMap<String, String>) -> String {
    environment
        .iter()
        .map(|(name, value)| format!("\nexport {name}='{}'", value.replace('\'', "'\\''")))
        .collect()
}

fn offered(emulator: &Emulator) -> impl Iterator<Item = Source> + '_ {
    Source::ALL.iter().copied().filter(|source| emulator.offers(*source))
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
