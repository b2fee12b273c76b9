//! The brokers of this process.
//!
//! All filters of equal environment and `outbound` share one broker, with its provider and its tokens, also across reloads as long as an
//! old configuration lives until the new one is there. A broker ends with the last configuration that uses it.

use crate::abi::{Level, log};
use crate::callouts::Cluster;
use crate::config::Outbound;
use managed_identity_host::{Broker, Cause, ProviderError};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::runtime::Runtime;

/// The variables that a filter's configuration sets.
pub(crate) type Environment = BTreeMap<String, String>;

/// A broker, and the thread on which the module waits for it.
pub(crate) struct Shared {
    pub(crate) broker: Broker,
    runtime: Option<Runtime>,
}

impl Shared {
    /// Runs something on the module's own thread.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(task);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Envoy's threads drop this, and must not wait for what is under way.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("The provider cannot be started: {0}")]
    Provider(#[from] ProviderError),
    #[error("The module's thread cannot be started: {0}")]
    Thread(#[from] io::Error),
}

/// What makes two filters' brokers different.
type Key = (Environment, Outbound);

static BROKERS: Mutex<Vec<(Key, Weak<Shared>)>> = Mutex::new(Vec::new());

/// The broker of an environment, which asks in this way; started if there is none.
pub(crate) fn shared(environment: &Environment, outbound: &Outbound) -> Result<Arc<Shared>, StartError> {
    let mut brokers = BROKERS.lock().unwrap_or_else(PoisonError::into_inner);
    brokers.retain(|(_, broker)| broker.strong_count() > 0);
    let known = brokers
        .iter()
        .find(|((variables, way), _)| (variables, way) == (environment, outbound));
    if let Some(shared) = known.and_then(|(_, broker)| broker.upgrade()) {
        return Ok(shared);
    }
    let builder = match environment.is_empty() {
        true => Broker::builder(),
        false => {
            let others = std::env::vars_os().filter_map(|(name, value)| {
                let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
                (!environment.contains_key(&name)).then_some((name, value))
            });
            Broker::builder().environment(others.chain(environment.clone()))
        }
    };
    let builder = match outbound {
        Outbound::Host => builder,
        Outbound::Cluster { name, timeout } => builder.transport(Arc::new(Cluster::new(name, *timeout))),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("managed-id")
        .build()?;
    let shared = Arc::new(Shared {
        broker: builder.build()?,
        runtime: Some(runtime),
    });
    brokers.push(((environment.clone(), outbound.clone()), Arc::downgrade(&shared)));
    if *outbound != Outbound::Host {
        let broker = shared.broker.clone();
        // Not every source can be asked through a cluster. That is for the log now, not only for the first request.
        shared.spawn(async move {
            if let Err(error) = broker.probe().await
                && error.cause == Cause::NotConfigured
            {
                log(Level::Warn, &format!("there will be no tokens: {error}"));
            }
        });
    }
    Ok(shared)
}
