//! `managed-identity run`

use crate::arguments::RunArguments;
use crate::report;
use anyhow::{Context as _, bail};
use managed_identity_host::Identity;
use managed_identity_host::grants::{AuthorizeRule, Caller, Gate, Grant, IdentityPattern, Policy, TokenRule};
use managed_identity_host::plugin::{
    Plugin, PluginBound, PluginEngine, PluginError, PluginLimits, PluginOutcome, needs_async,
};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

/// How long after its deadline a plugin may take to be stopped.
const GRACE: Duration = Duration::from_millis(500);

/// The exit code of a plugin whose own does not fit into eight bits.
const OTHER_FAILURE: u8 = 255;

pub(crate) async fn run(arguments: RunArguments) -> anyhow::Result<ExitCode> {
    let file = arguments.plugin.clone();
    let component = std::fs::read(&file).with_context(|| format!("The plugin {} cannot be read", file.display()))?;
    let caller = caller(&arguments)?;
    let policy = policy(&arguments, &caller)?;
    let gate = Gate::new(arguments.provider.builder()?.build()?, policy);

    let plugin = load(&component, arguments.memory).with_context(|| format!("{} cannot be run", file.display()))?;
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
    let mut command = plugin
        .command(gate.caller(caller))
        .args([&*name])
        .args(&arguments.arguments)
        .inherit_input()
        .inherit_output();
    for (name, value) in &arguments.variables {
        command = command.env(name, value);
    }
    if let Some(timeout) = arguments.timeout {
        command = command.deadline(timeout);
        watch(timeout)?;
    }
    match command.run().await.map_err(advise)? {
        PluginOutcome::Exited(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(OTHER_FAILURE))),
        PluginOutcome::Finished(text) => {
            report::line(text)?;
            Ok(ExitCode::SUCCESS)
        }
        PluginOutcome::Failed(text) => {
            // As for a failure of ours, there is nowhere left to report that standard error is closed.
            let _ = writeln!(io::stderr().lock(), "error: {text}");
            Ok(ExitCode::FAILURE)
        }
        _ => bail!("The plugin ended in a way that this command does not know"),
    }
}

/// Ends this process when the plugin's time is over and it has not been stopped: it writes to somebody who does not read, and
/// the thread that would stop it waits for that.
fn watch(timeout: Duration) -> anyhow::Result<()> {
    let late = timeout.saturating_add(GRACE);
    thread::Builder::new()
        .spawn(move || {
            thread::sleep(late);
            report::failure(false, &advise(PluginError::OutOfTime(timeout)));
            process::exit(1);
        })
        .context("The thread that keeps the plugin's time cannot be started")?;
    Ok(())
}

/// Who the plugin is: by its file's name, unless said otherwise.
fn caller(arguments: &RunArguments) -> anyhow::Result<Caller> {
    let stem = arguments.plugin.file_stem().and_then(|stem| stem.to_str());
    let name = arguments.caller.as_deref().or(stem);
    Ok(Caller::new(name.context(
        "The plugin's file has a name that is not text; say who it is with --caller",
    )?))
}

fn policy(arguments: &RunArguments, caller: &Caller) -> anyhow::Result<Policy> {
    if let Some(file) = &arguments.grants {
        let policy = policy_of(file)?;
        if policy.grant(caller).is_none() {
            let known: Vec<&str> = policy.callers().map(Caller::name).collect();
            if known.is_empty() {
                bail!("{} grants nothing to anybody", file.display());
            }
            bail!(
                "{} grants nothing to {:?}; it has {}. Say which of them the plugin is with --caller",
                file.display(),
                caller.name(),
                known.join(", ")
            );
        }
        return Ok(policy);
    }
    let mut grant = Grant::default();
    if !arguments.audiences.is_empty() {
        grant.token.push(TokenRule {
            audiences: arguments.audiences.clone(),
            identities: vec![IdentityPattern::Exactly(Identity::PlatformDefault)],
        });
    }
    for (host, audience) in &arguments.authorize {
        grant.authorize_only.push(AuthorizeRule {
            hosts: vec![host.clone()],
            audience: audience.clone(),
            identity: Identity::PlatformDefault,
        });
    }
    grant.http.clone_from(&arguments.http);
    Ok(Policy::default().with(caller.clone(), grant))
}

/// The policy in a file.
fn policy_of(file: &Path) -> anyhow::Result<Policy> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("The grants {} cannot be read", file.display()))?;
    Policy::from_toml(&text).with_context(|| format!("The grants {} cannot be used", file.display()))
}

fn load(component: &[u8], memory: usize) -> Result<Plugin, PluginError> {
    let mut limits = PluginLimits::default();
    limits.memory = memory;
    // Where it goes, and whether that has room, is the user's business.
    limits.output = None;
    PluginEngine::builder()
        .with_async(needs_async(component)?)
        .limits(limits)
        // A pool is for many.
        .without_pool()
        .build()?
        .load(component)
}

/// Adds the option that helps, if there is one.
fn advise(error: PluginError) -> anyhow::Error {
    let option = match &error {
        PluginError::OutOfTime(_) => "--timeout",
        PluginError::Limit(PluginBound::Memory(_)) => "--memory",
        _ => return error.into(),
    };
    anyhow::anyhow!("{error}. {option} gives it more")
}
