//! `managed-identity serve`

mod announcement;
mod config;
mod manager;
mod reload;
mod signals;

use crate::arguments::ServeArguments;
use crate::telemetry::Served;
use crate::{log, report};
use managed_identity_host::Broker;
use managed_identity_serve::config::Upstream;
use managed_identity_serve::{Config, Server};
use manager::Manager;
use reload::Reloading;
use signals::{Signal, Signals};
use std::pin::pin;
use std::process::ExitCode;
use tokio::sync::oneshot;

pub(crate) async fn run(arguments: ServeArguments, telemetry: Served) -> anyhow::Result<ExitCode> {
    let config = config::config(&arguments)?;
    config::warn(&arguments);
    if arguments.check {
        return config::show(&config, arguments.output);
    }
    let mut broker = arguments.provider.clone().builder()?;
    if let Upstream::Federated(federated) = &config.upstream {
        broker = broker.environment(federated.environment());
    }
    let broker = broker.build()?;
    let server = Server::bind(&config, broker.clone(), telemetry.metrics)?;
    // Whoever reads what is printed may end or reload the server at once.
    let mut signals = Signals::new()?;
    for listening in server.listening() {
        report::line(announcement::line(listening))?;
    }
    log_start(&config, &broker, &server).await;

    let control = server.control();
    let mut readiness = control.readiness();
    let manager = Manager;
    let mut watchdog = manager.watchdog();
    let reloading = Reloading::new(arguments, config, control, telemetry.trail);
    let (end, ended) = oneshot::channel();
    let mut end = Some(end);
    let mut serving = pin!(server.run(async {
        // It is told, or whoever would tell is gone: in both cases, it is to end.
        let _ = ended.await;
    }));
    manager.serving(readiness.reason());
    loop {
        tokio::select! {
            () = &mut serving => break,
            signal = signals.next() => match signal {
                Signal::End => {
                    let Some(end) = end.take() else {
                        tracing::warn!(target: log::TARGET, "stopped in the middle of requests");
                        std::process::exit(1);
                    };
                    tracing::info!(target: log::TARGET, "ending, when requests that are under way have ended");
                    manager.ending();
                    // It may have ended by itself.
                    let _ = end.send(());
                }
                Signal::Reload if end.is_some() => {
                    manager.reloading();
                    reloading.reload();
                    manager.serving(readiness.reason());
                }
                Signal::Reload => {}
            },
            () = readiness.changed(), if end.is_some() => manager.status(readiness.reason()),
            () = watchdog.tick() => manager.alive(),
        }
    }
    tracing::info!(target: log::TARGET, "ended");
    Ok(ExitCode::SUCCESS)
}

/// What an operator wants to know of a server that has begun.
async fn log_start(config: &Config, broker: &Broker, server: &Server) {
    let description = broker.describe_source().await.ok();
    let source = description
        .as_ref()
        .and_then(|description| description.source.as_deref());
    let listeners: Vec<_> = server
        .listening()
        .iter()
        .map(|listening| format!("{} at {}", listening.protocol, listening.address))
        .collect();
    tracing::info!(
        target: log::TARGET,
        version = env!("CARGO_PKG_VERSION"),
        source = source.unwrap_or("none"),
        listeners = listeners.join(", "),
        callers = config.callers.len(),
        "serving"
    );
}
