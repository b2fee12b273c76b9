//! A server: its listeners, and what they share.

use crate::callers::Callers;
use crate::config::{Address, Config, ConfigError, Protocol};
use crate::connection;
use crate::listener::Listener;
use crate::protocol::{Service, Shared};
use crate::readiness::{Readiness, ReadinessWatch};
use crate::telemetry;
use arc_swap::ArcSwap;
use managed_identity_host::Broker;
use managed_identity_host::grants::Gate;
use metrics_exporter_prometheus::PrometheusHandle;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use tokio::task::JoinSet;

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
        error: io::Error,
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
    listeners: Vec<(Listener, Arc<Service>)>,
    listening: Vec<Listening>,
    control: Control,
}

/// Changes a server while it runs. Cheap to clone; clones are for the same server.
#[derive(Clone)]
pub struct Control {
    gate: Gate,
    shared: Arc<Shared>,
}

impl Server {
    /// Listens, without accepting anybody. To be called in a tokio runtime.
    ///
    /// # Errors
    /// When the configuration cannot be used, or a listener cannot listen.
    pub fn bind(config: &Config, broker: Broker, metrics: Option<PrometheusHandle>) -> Result<Self, ServeError> {
        config.check()?;
        telemetry::describe();
        let gate = Gate::new(broker, config.policy.clone());
        let shared = Arc::new(Shared {
            callers: ArcSwap::from_pointee(Callers::new(config, &gate)),
            limits: config.limits.clone(),
            readiness: Readiness::not_yet("The identity source has not been probed yet."),
            metrics,
        });
        let mut listeners = Vec::new();
        let mut listening = Vec::new();
        for (name, listener) in &config.listeners {
            let failed = |error| ServeError::Listen {
                name: name.clone(),
                error,
            };
            let socket = Listener::bind(&listener.address).map_err(failed)?;
            let address = match &listener.address {
                Address::Unix(path, _) => format!("unix:{}", path.display()),
                _ => socket.local_address().map_err(failed)?.to_string(),
            };
            for protocol in &listener.protocols {
                listening.push(Listening {
                    protocol: *protocol,
                    listener: name.clone(),
                    address: address.clone(),
                    url: None,
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
            listeners.push((socket, Arc::new(service)));
        }
        let control = Control { gate, shared };
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

    /// Serves until `end`, and then ends: accepts nobody more, and lets requests that are under way end.
    pub async fn run(self, end: impl Future<Output = ()>) {
        let mut accepting = JoinSet::new();
        for (listener, service) in self.listeners {
            accepting.spawn(async move {
                while let Ok(stream) = listener.accept().await {
                    tokio::spawn(connection::serve(stream, None, Arc::clone(&service)));
                }
            });
        }
        let mut background = JoinSet::new();
        let (readiness, broker) = (
            self.control.shared.readiness.clone(),
            self.control.gate.broker().clone(),
        );
        background.spawn(async move {
            let probe = || {
                let broker = broker.clone();
                async move { broker.probe().await }
            };
            readiness.probe(probe).await;
        });
        if let Some(metrics) = self.control.shared.metrics.clone() {
            background.spawn(async move { telemetry::upkeep(&metrics).await });
        }
        let mut end = pin!(end);
        end.as_mut().await;
        self.control.shared.readiness.set_not_ready("The server is ending.");
        accepting.shutdown().await;
        self.control.gate.broker().shutdown().await;
    }
}

impl Control {
    /// Tells whether the server is ready.
    #[must_use]
    pub fn readiness(&self) -> ReadinessWatch {
        self.shared.readiness.watch()
    }

    /// Puts what another configuration says of callers, grants and certificates in force; what it says of listeners, the
    /// upstream and limits needs a new start.
    ///
    /// # Errors
    /// When it cannot be used; all is as it was then.
    pub fn reload(&self, config: &Config) -> Result<(), ServeError> {
        config.check()?;
        self.gate.replace(config.policy.clone());
        self.shared.callers.store(Arc::new(Callers::new(config, &self.gate)));
        Ok(())
    }
}
