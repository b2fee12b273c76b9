//! `managed-identity serve`

mod config;

use crate::arguments::ServeArguments;
use crate::{emulate, report};
use managed_identity_serve::Server;
use managed_identity_serve::config::Upstream;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;
use std::process::ExitCode;

pub(crate) async fn run(arguments: ServeArguments) -> anyhow::Result<ExitCode> {
    let config = config::config(&arguments)?;
    config::warn(&arguments);
    if arguments.check {
        return config::show(&config, arguments.output);
    }
    // Before the broker, which takes its counters from it.
    let metrics = PrometheusBuilder::new().install_recorder()?;
    let mut broker = arguments.provider.builder()?;
    if let Upstream::Federated(federated) = &config.upstream {
        broker = broker.environment(federated.environment());
    }
    let server = Server::bind(&config, broker.build()?, Some(metrics))?;
    let interrupted = emulate::interrupted()?;
    for listening in server.listening() {
        report::line(json!({
            "protocol": listening.protocol.name(),
            "listening": listening.address,
            "listener": listening.listener,
        }))?;
    }
    server.run(interrupted).await;
    Ok(ExitCode::SUCCESS)
}
