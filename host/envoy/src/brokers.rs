//! The brokers of this process.
//!
//! All filters of equal environment and `outbound` share one broker, with its provider and its tokens, also across reloads as long as an
//! old configuration lives until the new one is there. A broker ends with the last configuration that uses it.

use crate::abi::{Level, log};
use crate::callouts::Cluster;
use crate::config::Outbound;
use crate::doubts::{Answer, Doubts, Question, StandIn};
use managed_identity_host::{AccessToken, Broker, Cause, ProviderError, TokenRequest};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;

/// The variables that a filter's configuration sets.
pub(crate) type Environment = BTreeMap<String, String>;

/// A broker, and the thread on which the module waits for it.
pub(crate) struct Shared {
    broker: Broker,
    doubts: Doubts<AccessToken>,
    runtime: Option<Runtime>,
}

/// The token of a request.
pub(crate) enum Found {
    AtHand(Arc<AccessToken>),
    /// It has to wait.
    Later(Pin<Box<dyn Future<Output = Answer<AccessToken>> + Send>>),
}

impl Shared {
    /// The token of a request that waits this long at most.
    pub(crate) fn token(&self, wanted: &TokenRequest, time: Duration) -> Found {
        let held = self.broker.cached(wanted);
        if self.doubts.is_open()
            && let Some((stand_in, question)) =
                self.doubts
                    .stand_in(wanted, held.as_deref(), Instant::now(), unix_time())
        {
            question.into_iter().for_each(|question| self.put(question));
            return match stand_in {
                StandIn::Refused(token) => Found::AtHand(token),
                StandIn::Awaited(other) => Found::Later(Box::pin(other.arrived(time, unix_time))),
            };
        }
        if let Some(token) = held {
            return Found::AtHand(token);
        }
        let (broker, request) = (self.broker.clone(), wanted.clone().with_timeout(time));
        Found::Later(Box::pin(async move { broker.token(&request).await }))
    }

    /// The upstream refuses a token, perhaps for claims that it lacks. False when that leads to nothing.
    pub(crate) fn refused(
        &self,
        wanted: &TokenRequest,
        token: &Arc<AccessToken>,
        claims: Option<String>,
        time: Duration,
    ) -> bool {
        // A late one, of a token that has a successor.
        if self
            .broker
            .cached(wanted)
            .is_some_and(|held| !held.token.matches(token.token.expose()))
        {
            return false;
        }
        let mut request = wanted
            .clone()
            .with_rejected_token(token.token.clone())
            .with_timeout(time);
        request.claims = claims;
        let question = self.doubts.refused(wanted, token, request, Instant::now());
        let is_new = question.is_some();
        question.into_iter().for_each(|question| self.put(question));
        is_new
    }

    /// Asks for another token than one that was refused.
    fn put(&self, question: Question<AccessToken>) {
        let broker = self.broker.clone();
        self.spawn(async move {
            let answer = broker.token(&question.request).await;
            if let Err(error) = &answer {
                log(
                    Level::Warn,
                    &format!(
                        "no token in place of one that the upstream refuses, which is used until it expires: {error}"
                    ),
                );
            }
            question.answer.send_replace(Some(answer));
        });
    }

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
        .enable_time()
        .build()?;
    let shared = Arc::new(Shared {
        broker: builder.build()?,
        doubts: Doubts::new(),
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

/// Seconds since 1970-01-01T00:00:00Z.
fn unix_time() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}
