//! What the command line asks to be served.

use crate::arguments::ServeArguments;
use anyhow::Context as _;
use managed_identity_host::grants::{Caller, Grant, Policy, TokenRule};
use managed_identity_serve::config::{Address, CallerConfig, ListenerConfig};
use managed_identity_serve::{Config, Protocol, SecretHash};
use std::path::Path;

/// The only caller, when the command line says what it is granted.
const ANYBODY: &str = "anybody";

/// Read again at each reload.
pub(super) fn config(arguments: &ServeArguments) -> anyhow::Result<Config> {
    match &arguments.config {
        Some(file) => read(file),
        None => of_flags(arguments),
    }
}

fn read(file: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("The configuration {} cannot be read", file.display()))?;
    Config::from_toml(&text).with_context(|| format!("The configuration {} cannot be used", file.display()))
}

/// What the flags say.
fn of_flags(arguments: &ServeArguments) -> anyhow::Result<Config> {
    let mut config = Config::default();
    let anybody = Caller::new(ANYBODY);
    let mut how = CallerConfig::default();
    if let Some(file) = &arguments.header_secret_file {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("The secret {} cannot be read", file.display()))?;
        let text = text.trim();
        how.secrets
            .push(SecretHash::parse(text).unwrap_or_else(|_| SecretHash::of(text.as_bytes())));
    }
    let is_secret = !how.secrets.is_empty();
    config.callers.insert(anybody.clone(), how);
    let mut grant = Grant::default().with_in_flight(4_096);
    if !arguments.audiences.is_empty() {
        grant.token.push(TokenRule::new(arguments.audiences.clone()));
    }
    config.policy = Policy::default().with(anybody.clone(), grant);
    let listeners = [
        (arguments.app_service, vec![Protocol::AppService]),
        (arguments.imds, vec![Protocol::Imds]),
        (arguments.ext_authz, vec![Protocol::EnvoyExtAuthz]),
        (arguments.metrics, vec![Protocol::Metrics, Protocol::Health]),
    ];
    for (address, protocols) in listeners {
        let Some(address) = address else { continue };
        let name = protocols.first().map_or_else(String::new, ToString::to_string);
        let by_secret = is_secret && protocols.contains(&Protocol::AppService);
        let listener = ListenerConfig {
            address: Address::Tcp(address),
            protocols,
            caller: (!by_secret).then(|| anybody.clone()),
            callers: None,
            tls: None,
            hosts: Vec::new(),
        };
        config.listeners.insert(name, listener);
    }
    Ok(config)
}
