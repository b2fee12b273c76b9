//! `managed-identity source`

use crate::arguments::{Output, SourceArguments};
use crate::report;
use managed_identity_host::SourceDescription;
use serde_json::json;
use std::process::ExitCode;

pub(crate) async fn run(arguments: SourceArguments) -> anyhow::Result<ExitCode> {
    let broker = arguments.provider.builder()?.build()?;
    let description = broker.describe_source().await?;
    match arguments.output {
        Output::Text => report::line(text(&description))?,
        Output::Json => report::line(json!({
            "source": description.source,
            "endpoint": description.endpoint,
            "reasons": description.reasons,
            "last_failure": description.last_failure.as_ref().map(report::token_error),
        }))?,
    }
    // Nothing has been asked yet, so a failure here is one of configuration.
    Ok(if description.last_failure.is_none() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A description for a person.
pub(crate) fn text(description: &SourceDescription) -> String {
    let mut text = format!(
        "source:   {}\nendpoint: {}\nbecause:",
        description.source.as_deref().unwrap_or("none can be used"),
        description.endpoint.as_deref().unwrap_or("-"),
    );
    for reason in &description.reasons {
        text.push_str("\n  - ");
        text.push_str(reason);
    }
    if let Some(error) = &description.last_failure {
        text.push_str(&format!("\nfailure:  {error}"));
    }
    text
}
