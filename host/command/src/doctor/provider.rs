//! The provider: whether it starts, where its machine code comes from, and how long that takes.

use super::bounded::{Budget, bounded};
use super::cause;
use super::line::{Check, Line};
use super::network::time_of;
use crate::arguments::ProviderArguments;
use managed_identity_host::{Broker, Cause, CodeOrigin, SourceDescription, TokenError, WasiVersion};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// A provider that runs.
pub(super) struct Started {
    pub(super) broker: Broker,
    /// What it says of the environment.
    pub(super) description: SourceDescription,
    what: String,
    took: Duration,
}

/// Starts the provider in these variables, or in those of the process, and asks it where tokens come from.
pub(super) async fn start(
    arguments: ProviderArguments,
    environment: Option<Vec<(String, String)>>,
    budget: Budget,
) -> Result<Started, TokenError> {
    let internal = |message| TokenError::new(Cause::Internal, message);
    let started = Instant::now();
    let time = budget.left();
    // A compiler's work, and a file that may be anywhere.
    let built = bounded(time, move || {
        let what = arguments.describe();
        let mut builder = arguments.builder()?;
        if let Some(environment) = environment {
            builder = builder.environment(environment);
        }
        anyhow::Ok((what, builder.build()?))
    });
    let late = || internal(format!("The provider does not start within {time:?}."));
    let built = built.await.ok_or_else(late)?;
    let ((what, bytes), broker) = built.map_err(|error| internal(format!("{error:#}.")))?;
    let described = timeout(budget.left(), broker.describe_source()).await;
    let description = described.map_err(|_| late())??;
    let size = bytes.map_or_else(String::new, |bytes| format!(" ({} KB)", bytes / 1000));
    Ok(Started {
        broker,
        description,
        what: format!("{what}{size}"),
        took: started.elapsed(),
    })
}

/// The line of a provider that does not run, or has failed at its work.
pub(super) fn failed(error: &TokenError) -> Line {
    cause::line(Check::Provider, error)
}

/// The line of a provider that runs.
pub(super) fn health(started: &Started) -> Line {
    let Started { what, took, .. } = started;
    let provider = started.broker.describe_provider();
    let wasi = match provider.wasi {
        WasiVersion::V0_2 => "0.2",
        WasiVersion::V0_3 => "0.3",
    };
    let (code, is_kept) = match provider.code {
        CodeOrigin::Taken => ("its code is from the compilation cache", true),
        CodeOrigin::Kept => ("it was compiled, and its code is in the compilation cache now", true),
        CodeOrigin::Precompiled => ("it was compiled ahead of time", true),
        _ => ("it was compiled, and its code cannot be kept", false),
    };
    let capitalized = what.chars().next().map_or_else(String::new, |first| {
        format!("{}{}", first.to_uppercase(), &what[first.len_utf8()..])
    });
    let found = format!(
        "{capitalized} for WASI {wasi} runs; {code}. It took {} to start and to answer.",
        time_of(*took)
    );
    if is_kept {
        return Line::pass(
            Check::Provider,
            found,
            "The engine works on this machine, and the component is what it should be.",
        );
    }
    Line::warn(
        Check::Provider,
        found,
        "It works, and each start takes the compiler's time anew: HOME and XDG_CACHE_HOME are unset, or the folder cannot be \
         written, or others can write to it.",
        "Give it a folder of its own in XDG_CACHE_HOME, or compile the provider ahead of time: `managed-identity compile`.",
    )
}
