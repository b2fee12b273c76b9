//! The configuration, read again.

use super::config;
use crate::arguments::ServeArguments;
use crate::{audit, log};
use managed_identity_serve::config::Limits;
use managed_identity_serve::telemetry::{APPLIED, REFUSED, reloaded};
use managed_identity_serve::{Config, Control};

/// Puts configurations in force while a server runs.
pub(super) struct Reloading {
    arguments: ServeArguments,
    /// What the server was started with, which some of it stays.
    started: Config,
    control: Control,
    trail: Option<audit::Trail>,
}

impl Reloading {
    pub(super) fn new(
        arguments: ServeArguments,
        started: Config,
        control: Control,
        trail: Option<audit::Trail>,
    ) -> Self {
        Self {
            arguments,
            started,
            control,
            trail,
        }
    }

    /// Reads the configuration, and what it names, and puts it in force; or says why not, and all is as it was. Opens the
    /// audit file again in any case.
    pub(super) fn reload(&self) {
        if let Some(Err(error)) = self.trail.as_ref().map(audit::Trail::reopen) {
            let error = format!("{error:#}");
            tracing::error!(target: log::TARGET, error, "the audit file that was open stays the one that is written");
        }
        match self.apply() {
            Ok(config) => {
                let restart = needs_restart(&self.started, &config).join(", ");
                if !restart.is_empty() {
                    tracing::warn!(target: log::TARGET, keys = restart, "what these keys say needs a restart");
                }
                tracing::info!(target: log::TARGET, callers = config.callers.len(), "reloaded");
                reloaded(APPLIED);
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(target: log::TARGET, error, "not reloaded, the configuration before stays in force");
                reloaded(REFUSED);
            }
        }
    }

    fn apply(&self) -> anyhow::Result<Config> {
        let config = config::config(&self.arguments)?;
        self.control.reload(&config)?;
        Ok(config)
    }
}

/// The keys that differ and that a running server does not take.
fn needs_restart(started: &Config, new: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    if started.upstream != new.upstream {
        keys.push("upstream".to_owned());
    }
    // Those that are there have not changed, or the reload was refused.
    let new_listeners = new
        .listeners
        .keys()
        .filter(|name| !started.listeners.contains_key(*name));
    keys.extend(new_listeners.map(|name| format!("listener.{name}")));
    let changed = limit_keys(&started.limits, &new.limits);
    keys.extend(changed.into_iter().map(|key| format!("limits.{key}")));
    keys
}

/// What differs between the first of each pair and the second, by name.
fn differing<const N: usize>(pairs: [(&'static str, bool); N]) -> Vec<&'static str> {
    let differ = pairs.into_iter().filter(|(_, is_same)| !is_same);
    differ.map(|(key, _)| key).collect()
}

fn limit_keys(old: &Limits, new: &Limits) -> Vec<&'static str> {
    differing([
        ("connections", old.connections == new.connections),
        ("header-bytes", old.header_bytes == new.header_bytes),
        ("body-bytes", old.body_bytes == new.body_bytes),
        ("request-timeout", old.request_timeout == new.request_timeout),
        ("idle-timeout", old.idle_timeout == new.idle_timeout),
        ("token-timeout", old.token_timeout == new.token_timeout),
        ("drain-timeout", old.drain_timeout == new.drain_timeout),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use managed_identity_serve::Protocol;
    use managed_identity_serve::config::{Address, Federated, ListenerConfig, Upstream};
    use std::time::Duration;

    fn started() -> Config {
        let mut config = Config::default();
        for name in ["apps", "proxy"] {
            let listener = ListenerConfig {
                address: Address::Systemd(name.to_owned()),
                protocols: vec![Protocol::AppService],
                caller: None,
                callers: None,
                tls: None,
                hosts: Vec::new(),
            };
            config.listeners.insert(name.to_owned(), listener);
        }
        config
    }

    #[test]
    fn what_a_running_server_does_not_take_is_named() {
        type Change = fn(&mut Config);
        let cases: [(Change, &[&str]); 5] = [
            (|_| {}, &[]),
            (|config| config.callers.clear(), &[]),
            (
                |config| {
                    config.upstream = Upstream::Federated(Federated {
                        tenant_id: "t".to_owned(),
                        client_id: "c".to_owned(),
                        token_file: "/token".into(),
                        authority: None,
                    });
                },
                &["upstream"],
            ),
            (
                |config| {
                    let apps = config.listeners.get("apps").cloned();
                    config.listeners.extend(apps.map(|apps| ("more".to_owned(), apps)));
                },
                &["listener.more"],
            ),
            (
                |config| {
                    config.limits.connections += 1;
                    config.limits.drain_timeout = Duration::ZERO;
                },
                &["limits.connections", "limits.drain-timeout"],
            ),
        ];
        for (change, keys) in cases {
            let mut new = started();
            change(&mut new);
            assert_eq!(needs_restart(&started(), &new), keys);
        }
    }
}
