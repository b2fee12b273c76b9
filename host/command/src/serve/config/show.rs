//! What `serve --check` prints.

use crate::arguments::Output;
use crate::report;
use managed_identity_host::grants::{Caller, IdentityPattern};
use managed_identity_serve::config::{Address, CallerConfig, ListenerConfig, Upstream};
use managed_identity_serve::{Config, Protocol};
use serde_json::{Map, Value, json};
use std::process::ExitCode;

/// Prints what would be served.
pub(in crate::serve) fn show(config: &Config, output: Output) -> anyhow::Result<ExitCode> {
    match output {
        Output::Text => text(config)?,
        Output::Json => report::line(object(config))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn text(config: &Config) -> anyhow::Result<()> {
    match &config.upstream {
        Upstream::Environment => report::line("tokens: of the identity source that the environment selects")?,
        Upstream::Federated(federated) => report::line(format_args!(
            "tokens: of the identity {} in {}, by the token in {}",
            federated.client_id,
            federated.tenant_id,
            federated.token_file.display()
        ))?,
    }
    for (name, listener) in &config.listeners {
        let protocols = joined(&listener.protocols);
        let tls = if listener.tls.is_some() { " with TLS" } else { "" };
        let for_whom = match (&listener.caller, askers(config, listener)) {
            (Some(caller), _) => format!(", everybody is {caller}"),
            (None, callers) if callers.is_empty() => String::new(),
            (None, callers) => format!(", for {}", joined(&callers)),
        };
        report::line(format_args!(
            "listener {name}: {protocols} at {}{tls}{for_whom}",
            listener.address
        ))?;
    }
    for (caller, how) in &config.callers {
        let audiences = audiences(config, caller);
        let granted = if audiences.is_empty() {
            "no token".to_owned()
        } else {
            format!("tokens for {}", audiences.join(", "))
        };
        let counted = |count: usize, what: &str| match count {
            0 => String::new(),
            1 => format!(", 1 {what}"),
            _ => format!(", {count} {what}s"),
        };
        report::line(format_args!(
            "caller {caller}: {granted}{}{}",
            counted(how.secrets.len(), "secret"),
            counted(how.users.len(), "user")
        ))?;
    }
    for (name, secret) in &config.secrets {
        let file = secret.file.as_ref();
        let file = file.map_or_else(String::new, |file| format!(", in {}", file.display()));
        report::line(format_args!(
            "secret {name}: a token for {} as {}, told to {}{file}",
            secret.audience,
            IdentityPattern::Exactly(config.secret_identity(secret)),
            secret.caller
        ))?;
    }
    Ok(())
}

fn object(config: &Config) -> Value {
    let upstream = match &config.upstream {
        Upstream::Environment => json!({ "kind": "environment" }),
        Upstream::Federated(federated) => json!({
            "kind": "federated",
            "tenant_id": federated.tenant_id,
            "client_id": federated.client_id,
            "token_file": federated.token_file,
            "authority": federated.authority,
        }),
    };
    let listeners: Map<String, Value> = config
        .listeners
        .iter()
        .map(|(name, listener)| {
            let callers: Vec<&str> = askers(config, listener).into_iter().map(Caller::name).collect();
            let value = json!({
                "address": listener.address.to_string(),
                "protocols": listener.protocols.iter().map(|protocol| protocol.name()).collect::<Vec<_>>(),
                "tls": listener.tls.is_some(),
                "caller": listener.caller.as_ref().map(Caller::name),
                "callers": callers,
            });
            (name.clone(), value)
        })
        .collect();
    let callers: Map<String, Value> = config
        .callers
        .iter()
        .map(|(caller, how)| {
            let value = json!({
                "audiences": audiences(config, caller),
                "default_identity": IdentityPattern::Exactly(how.default_identity.clone()).to_string(),
                "secrets": how.secrets.len(),
                "users": how.users,
            });
            (caller.name().to_owned(), value)
        })
        .collect();
    let secrets: Map<String, Value> = config
        .secrets
        .iter()
        .map(|(name, secret)| {
            let value = json!({
                "caller": secret.caller.name(),
                "audience": secret.audience,
                "identity": IdentityPattern::Exactly(config.secret_identity(secret)).to_string(),
                "file": secret.file,
            });
            (name.clone(), value)
        })
        .collect();
    json!({ "upstream": upstream, "listeners": listeners, "callers": callers, "secrets": secrets })
}

/// Who can be known there.
fn askers<'c>(config: &'c Config, listener: &'c ListenerConfig) -> Vec<&'c Caller> {
    if let Some(caller) = &listener.caller {
        return vec![caller];
    }
    let is_known = |how: &CallerConfig| {
        listener.protocols.iter().any(|protocol| match protocol {
            Protocol::AppService => !how.secrets.is_empty(),
            Protocol::Imds | Protocol::EnvoyExtAuthz | Protocol::EnvoySds => {
                !how.users.is_empty() && !matches!(listener.address, Address::Tcp(_))
            }
            Protocol::Metrics | Protocol::Health => false,
        })
    };
    let is_admitted = |caller: &Caller| listener.callers.as_ref().is_none_or(|callers| callers.contains(caller));
    config
        .callers
        .iter()
        .filter(|(caller, how)| is_admitted(caller) && is_known(how))
        .map(|(caller, _)| caller)
        .collect()
}

fn audiences(config: &Config, caller: &Caller) -> Vec<String> {
    let rules = config.policy.grant(caller).map_or(&[][..], |grant| &grant.token);
    rules
        .iter()
        .flat_map(|rule| &rule.audiences)
        .map(ToString::to_string)
        .collect()
}

fn joined(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
