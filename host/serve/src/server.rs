//! A server: its listeners, and what they share.

mod accept;
#[cfg(unix)]
mod descriptors;
#[cfg(test)]
mod tests;

use crate::callers::Callers;
use crate::config::{Address, Config, ConfigError, ListenerConfig, Protocol};
use crate::connection::Connections;
#[cfg(unix)]
use crate::listener::Inherited;
use crate::listener::{ListenError, Listener};
use crate::protocol::{Service, Shared};
use crate::readiness::{Readiness, ReadinessWatch};
use crate::secrets::file::SecretFileError;
use crate::secrets::{self, Secrets};
use crate::telemetry;
use crate::telemetry::LOG_TARGET;
use crate::tls::{Certificate, CertificateError, server_config};
use accept::Accepting;
use arc_swap::ArcSwap;
use managed_identity_host::Broker;
use managed_identity_host::grants::Gate;
use metrics_exporter_prometheus::PrometheusHandle;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nothing can be listened to there.
    #[error("the listener {name} cannot listen: {error}")]
    Listen {
        /// The listener's name.
        name: String,
        /// Why not.
        error: ListenError,
    },
    /// Another configuration wants a listener to be another one than it is.
    #[error(
        "`{keys}` cannot change while the server runs, and grants that were meant for the new listener must not be had at \
         the old one; start the server again, or write what was there before"
    )]
    Running {
        /// What differs, such as `listener.programs.address`.
        keys: String,
    },
    /// The certificate of a listener cannot be shown.
    #[error("the listener {name} cannot speak TLS: {error}")]
    Certificate {
        /// The listener's name.
        name: String,
        /// Why not.
        error: Box<CertificateError>,
    },
    /// A secret cannot be in its file.
    #[error("the secret {name} cannot be written: {file} {error}")]
    SecretFile {
        /// The secret's name.
        name: String,
        /// The file.
        file: String,
        /// Why not.
        error: SecretFileError,
    },
}

/// One protocol at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listening {
    /// What is spoken.
    pub protocol: Protocol,
    /// The listener's name.
    pub listener: String,
    /// Where: `127.0.0.1:4141`, or `unix:` and a path.
    pub address: String,
    /// The URL that clients are given, where the protocol has one.
    pub url: Option<String>,
}

/// A server that has its sockets and does not accept anybody yet.
pub struct Server {
    listeners: Vec<(String, Accepting)>,
    listening: Vec<Listening>,
    control: Control,
}

/// Changes a server while it runs. Cheap to clone; clones are for the same server.
#[derive(Clone)]
pub struct Control {
    gate: Gate,
    shared: Arc<Shared>,
    connections: Arc<Connections>,
    /// As they were when the server began.
    listeners: Arc<BTreeMap<String, ListenerConfig>>,
    /// By the name of the listener.
    certificates: Arc<BTreeMap<String, Certificate>>,
}

impl Server {
    /// Listens, without accepting anybody. To be called in a tokio runtime, once in a process when sockets of systemd are
    /// taken. Lets the process have as many files open as it may.
    ///
    /// # Errors
    /// When the configuration cannot be used, a certificate cannot be shown, or a listener cannot listen.
    pub fn bind(config: &Config, broker: Broker, metrics: Option<PrometheusHandle>) -> Result<Self, ServeError> {
        config.check()?;
        telemetry::describe();
        let certificates = certificates(config)?;
        secret_files(config)?;
        let sockets = sockets(config)?;
        let gate = Gate::new(broker, config.policy.clone());
        let shared = Arc::new(Shared {
            callers: ArcSwap::from_pointee(Callers::new(config, &gate)),
            secrets: Secrets::new(config, &gate),
            limits: config.limits.clone(),
            readiness: Readiness::not_yet("The identity source has not been probed yet."),
            metrics,
            requests: Default::default(),
            claimed: Default::default(),
        });
        let mut listeners = Vec::new();
        let mut listening = Vec::new();
        for ((name, listener), socket) in config.listeners.iter().zip(sockets) {
            let address = socket.address();
            for protocol in &listener.protocols {
                listening.push(Listening {
                    protocol: *protocol,
                    listener: name.clone(),
                    address: address.clone(),
                    url: socket
                        .tcp_address()
                        .map(|address| url(*protocol, listener.tls.is_some(), &address.to_string())),
                });
            }
            let service = Service {
                shared: Arc::clone(&shared),
                protocols: listener.protocols.clone(),
                caller: listener.caller.clone(),
                callers: listener.callers.clone().map(FromIterator::from_iter),
                hosts: listener.hosts.clone(),
                is_tls: listener.tls.is_some(),
            };
            let accepting = Accepting {
                listener: socket,
                service: Arc::new(service),
                certificate: certificates.get(name).cloned(),
            };
            listeners.push((name.clone(), accepting));
        }
        #[cfg(unix)]
        let most = descriptors::connections(config.limits.connections);
        #[cfg(not(unix))]
        let most = config.limits.connections;
        let control = Control {
            gate,
            shared,
            connections: Arc::new(Connections::new(most)),
            listeners: Arc::new(config.listeners.clone()),
            certificates: Arc::new(certificates),
        };
        Ok(Self {
            listeners,
            listening,
            control,
        })
    }

    /// What is spoken where.
    #[must_use]
    pub fn listening(&self) -> &[Listening] {
        &self.listening
    }

    /// To change the server while it runs.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Serves until `end`, and then ends: accepts nobody more, closes connections that are idle, and lets requests that are
    /// under way end, for as long as the limits say.
    pub async fn run(self, end: impl Future<Output = ()>) {
        let Self { listeners, control, .. } = self;
        let mut accepting = JoinSet::new();
        for (name, listener) in listeners {
            accepting.spawn(listener.run(name, Arc::clone(&control.connections)));
        }
        let mut background = JoinSet::new();
        let (readiness, broker) = (control.shared.readiness.clone(), control.gate.broker().clone());
        background.spawn(async move {
            let probe = || {
                let broker = broker.clone();
                async move { broker.probe().await }
            };
            readiness.probe(probe).await;
        });
        background.spawn(secrets::file::keep(control.shared.secrets.subscribe()));
        if let Some(metrics) = control.shared.metrics.clone() {
            background.spawn(async move { telemetry::upkeep(&metrics).await });
        }
        end.await;
        let until = Instant::now().checked_add(control.shared.limits.drain_timeout);
        let until = until.unwrap_or_else(|| Instant::now() + std::time::Duration::from_secs(365 * 24 * 60 * 60));
        control.drain();
        // First of all, so that a successor can listen.
        accepting.shutdown().await;
        if timeout_at(until, control.connections.drained()).await.is_err() {
            let connections = control.connections.end_all();
            tracing::warn!(
                target: LOG_TARGET,
                connections,
                "requests that are still under way are given up: the time to end is over"
            );
        }
        // Calls of the platform that nobody waits for any more may take longer, and end with the process.
        if timeout_at(until, control.gate.broker().shutdown()).await.is_err() {
            tracing::warn!(target: LOG_TARGET, "the identity source has not ended in time");
        }
    }
}

/// The certificates of those listeners that speak TLS.
fn certificates(config: &Config) -> Result<BTreeMap<String, Certificate>, ServeError> {
    let mut certificates = BTreeMap::new();
    for (name, listener) in &config.listeners {
        if let Some(files) = &listener.tls {
            let certificate =
                Certificate::read(files, listener.has_http2()).map_err(|error| ServeError::Certificate {
                    name: name.clone(),
                    error: error.into(),
                })?;
            certificates.insert(name.clone(), certificate);
        }
    }
    Ok(certificates)
}

/// Each secret that is to be in a file can be there.
fn secret_files(config: &Config) -> Result<(), ServeError> {
    for (name, secret) in &config.secrets {
        if let Some(file) = &secret.file {
            secrets::file::check(file).map_err(|error| ServeError::SecretFile {
                name: name.clone(),
                file: file.display().to_string(),
                error,
            })?;
        }
    }
    Ok(())
}

/// The sockets of the listeners, in their order.
fn sockets(config: &Config) -> Result<Vec<Listener>, ServeError> {
    #[cfg(unix)]
    let mut inherited = {
        let addresses = config.listeners.values().map(|listener| &listener.address);
        Inherited::of_process(
            addresses
                .into_iter()
                .any(|address| matches!(address, Address::Systemd(_))),
        )
    };
    let mut sockets = Vec::new();
    for (name, listener) in &config.listeners {
        #[cfg(unix)]
        let socket = Listener::bind(&listener.address, &mut inherited);
        #[cfg(not(unix))]
        let socket = Listener::bind(&listener.address);
        let socket = socket.map_err(|error| ServeError::Listen {
            name: name.clone(),
            error,
        })?;
        if let (Address::Systemd(_), Some(address)) = (&listener.address, socket.tcp_address()) {
            // Known only now.
            config.check_listener(name, &Address::Tcp(address))?;
        }
        #[cfg(unix)]
        if let (Address::Systemd(_), Some((path, mode))) = (&listener.address, socket.unix_address()) {
            config.check_listener(name, &Address::Unix(path, mode))?;
        }
        sockets.push(socket);
    }
    Ok(sockets)
}

/// What clients are given.
fn url(protocol: Protocol, is_tls: bool, address: &str) -> String {
    let scheme = if is_tls { "https" } else { "http" };
    let path = match protocol {
        Protocol::AppService => "/msi/token",
        // AZURE_POD_IDENTITY_AUTHORITY_HOST, and the cluster of Envoy, have no path.
        Protocol::Imds | Protocol::EnvoyExtAuthz | Protocol::EnvoySds => "",
        Protocol::Metrics => "/metrics",
        Protocol::Health => "/readyz",
    };
    format!("{scheme}://{address}{path}")
}

impl Control {
    /// Tells whether the server is ready.
    #[must_use]
    pub fn readiness(&self) -> ReadinessWatch {
        self.shared.readiness.watch()
    }

    /// Puts what another configuration says of callers, grants and certificates in force; what it says of further listeners,
    /// the upstream and limits needs a new start.
    ///
    /// # Errors
    /// When it cannot be used, or has other listeners in place of those that are there; all is as it was then.
    pub fn reload(&self, config: &Config) -> Result<(), ServeError> {
        config.check()?;
        let mut changed = Vec::new();
        for (name, running) in &*self.listeners {
            match config.listeners.get(name) {
                Some(listener) => {
                    let keys = running.differs(listener).into_iter();
                    changed.extend(keys.map(|key| format!("listener.{name}.{key}")));
                }
                None => changed.push(format!("listener.{name}")),
            }
        }
        if !changed.is_empty() {
            let keys = changed.join("`, `");
            return Err(ServeError::Running { keys });
        }
        secret_files(config)?;
        let mut renewed = Vec::new();
        for (name, certificate) in &*self.certificates {
            let Some(listener) = config.listeners.get(name) else {
                continue;
            };
            if let Some(files) = &listener.tls {
                let shown = server_config(files, listener.has_http2()).map_err(|error| ServeError::Certificate {
                    name: name.clone(),
                    error: error.into(),
                })?;
                renewed.push((certificate, shown));
            }
        }
        for (certificate, shown) in renewed {
            certificate.replace(shown);
        }
        self.gate.replace(config.policy.clone());
        self.shared.callers.store(Arc::new(Callers::new(config, &self.gate)));
        self.shared.secrets.replace(config, &self.gate);
        Ok(())
    }

    /// Says that the server is about to end: it is no longer ready, and each reply asks its client to connect elsewhere next
    /// time. It goes on accepting. [`Server::run`] does this itself when it ends.
    pub fn drain(&self) {
        self.shared.readiness.set_not_ready("The server is ending.");
        self.shared.secrets.end();
        self.connections.drain();
    }
}
