//! `managed-identity emulate`

use crate::arguments::{EmulateArguments, EmulatedSource, Output};
use crate::report;
use anyhow::Context as _;
use managed_identity_emulator::{Emulator, EmulatorConfig, Source};
use serde_json::json;
use std::process::ExitCode;

pub(crate) async fn run(arguments: EmulateArguments) -> anyhow::Result<ExitCode> {
    let config = EmulatorConfig {
        listen: arguments.listen,
        ..EmulatorConfig::default()
    };
    let emulator =
        Emulator::start(config).with_context(|| format!("The emulator cannot listen on {}", arguments.listen))?;
    if let Some(lifetime) = arguments.token_lifetime {
        emulator.configure(|settings| {
            settings.token_lifetime_seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)
        });
    }
    let environment = match arguments.source {
        None => emulator.environment(),
        Some(EmulatedSource::Imds) => emulator.environment_for(Source::Imds),
        Some(EmulatedSource::AppService) => emulator.environment_for(Source::AppService),
    };
    match arguments.output {
        Output::Json => {
            report::line(json!({ "listening": emulator.listening().to_string(), "environment": environment }))?
        }
        Output::Text => {
            report::line(format_args!(
                "# Listening on {}. Paste these lines into a shell; stop with Ctrl-C.",
                emulator.listening()
            ))?;
            for (name, value) in &environment {
                report::line(format_args!("export {name}='{}'", value.replace('\'', "'\\''")))?;
            }
        }
    }
    interrupted().await?;
    emulator.shutdown().await;
    Ok(ExitCode::SUCCESS)
}

/// Waits for Ctrl-C or, where there is such a thing, a request to terminate.
async fn interrupted() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
