//! Whether the server is ready for work: not until its identity source was seen to be there, and no longer when it ends.
//!
//! Once ready, it stays so while it serves. When the platform's endpoint goes away later, the tokens that are held are given
//! all the same, and nobody gains when an orchestrator takes the server away from its clients.

use crate::telemetry::{LOG_TARGET, READY};
use managed_identity_host::TokenError;
use metrics::{Gauge, gauge};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// How long after the first probe that failed the next one is made; doubled while they go on failing.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest time between two probes.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Whether the server is ready, and why not. Cheap to clone; clones share it.
#[derive(Clone)]
pub(crate) struct Readiness(Arc<Shared>);

struct Shared {
    state: watch::Sender<State>,
    gauge: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Not yet, and why.
    NotYet(Arc<str>),
    Ready,
    /// No more, and why.
    NoMore(Arc<str>),
}

impl State {
    fn reason(&self) -> Option<Arc<str>> {
        match self {
            Self::NotYet(reason) | Self::NoMore(reason) => Some(Arc::clone(reason)),
            Self::Ready => None,
        }
    }
}

impl Readiness {
    pub(crate) fn not_yet(reason: impl Into<Arc<str>>) -> Self {
        let shared = Shared {
            state: watch::Sender::new(State::NotYet(reason.into())),
            gauge: gauge!(READY),
        };
        shared.gauge.set(0.0);
        Self(Arc::new(shared))
    }

    pub(crate) fn set_ready(&self) {
        self.set(State::Ready);
    }

    /// For good: who ends is not ready again.
    pub(crate) fn set_not_ready(&self, reason: impl Into<Arc<str>>) {
        self.set(State::NoMore(reason.into()));
    }

    fn set(&self, new: State) {
        let gauge = if new == State::Ready { 1.0 } else { 0.0 };
        self.0.state.send_if_modified(|state| {
            if *state == new || matches!(state, State::NoMore(_)) {
                return false;
            }
            *state = new;
            self.0.gauge.set(gauge);
            true
        });
    }

    /// Why it is not ready, in a sentence; nothing when it is.
    pub(crate) fn reason(&self) -> Option<Arc<str>> {
        self.0.state.borrow().reason()
    }

    /// Tells of changes.
    pub(crate) fn watch(&self) -> ReadinessWatch {
        ReadinessWatch(self.0.state.subscribe())
    }

    /// Probes until that succeeds, and is ready then.
    pub(crate) async fn probe<F: Future<Output = Result<(), TokenError>>>(&self, mut probe: impl FnMut() -> F) {
        let mut pause = FIRST_PAUSE;
        while let Err(error) = probe().await {
            let (cause, reason) = (error.cause.name(), Arc::from(error.message));
            // The same again and again would fill the log.
            if self.reason().as_ref() != Some(&reason) {
                tracing::warn!(target: LOG_TARGET, cause, reason = &*reason, "not ready");
            }
            self.set(State::NotYet(reason));
            sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
        tracing::info!(target: LOG_TARGET, "ready");
        self.set_ready();
    }
}

/// Tells whether a server is ready, and when that changes.
#[derive(Clone, Debug)]
pub struct ReadinessWatch(watch::Receiver<State>);

impl ReadinessWatch {
    /// Why the server is not ready, in a sentence; nothing when it is.
    #[must_use]
    pub fn reason(&self) -> Option<Arc<str>> {
        self.0.borrow().reason()
    }

    /// Waits until it is another than when it was waited for last; for ever, when the server is gone.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use managed_identity_host::Cause;
    use std::future::ready;
    use tokio::time::Instant;

    fn failure(message: &str) -> TokenError {
        TokenError::new(Cause::EndpointUnreachable, message)
    }

    #[tokio::test(start_paused = true)]
    async fn the_source_is_probed_at_once_and_then_ever_more_rarely_until_it_is_there() {
        let readiness = Readiness::not_yet("Not probed yet.");
        let (start, mut probed) = (Instant::now(), Vec::new());
        let probe = || {
            probed.push(start.elapsed().as_secs());
            assert!(readiness.reason().is_some());
            ready(match probed.len() {
                9 => Ok(()),
                number => Err(failure(&format!("Failure {number}."))),
            })
        };
        readiness.probe(probe).await;
        assert_eq!(probed, [0, 1, 3, 7, 15, 31, 61, 91, 121]);
        assert_eq!(readiness.reason(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_reason_is_that_of_the_latest_probe_and_changes_are_told() {
        let readiness = Readiness::not_yet("Not probed yet.");
        let mut watch = readiness.watch();
        let mut failures = vec![failure("Second."), failure("First.")];
        let probing = readiness.probe(|| ready(failures.pop().map_or(Ok(()), Err)));
        let mut reasons = vec![watch.reason()];
        let watching = async {
            while reasons.last() != Some(&None) {
                watch.changed().await;
                reasons.push(watch.reason());
            }
            reasons
        };
        let ((), reasons) = tokio::join!(probing, watching);
        let reasons: Vec<_> = reasons.iter().map(Option::as_deref).collect();
        assert_eq!(
            reasons,
            [Some("Not probed yet."), Some("First."), Some("Second."), None]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_ends_is_not_ready_again() {
        let readiness = Readiness::not_yet("Not probed yet.");
        readiness.set_ready();
        assert_eq!(readiness.reason(), None);
        readiness.set_not_ready("It ends.");
        readiness.probe(|| ready(Ok(()))).await;
        assert_eq!(readiness.reason().as_deref(), Some("It ends."));
    }
}
