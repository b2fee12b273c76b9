//! What the service manager is told, by the protocol of `sd_notify(3)`: `Type=notify-reload` of systemd. Without a
//! `NOTIFY_SOCKET`, nobody is.
//!
//! The service has started when it listens, also when its identity source is not there yet: those who are started after it can
//! ask, it gives the reason in its status and at `/readyz`, and a restart would help nobody.

use crate::log;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};

#[cfg(unix)]
use sd_notify::NotifyState;

/// The service manager.
pub(super) struct Manager;

impl Manager {
    /// It listens, and is ready or not for this reason.
    pub(super) fn serving(&self, reason: Option<Arc<str>>) {
        #[cfg(unix)]
        notify(&[NotifyState::Ready, NotifyState::Status(&status(reason.as_deref()))]);
    }

    /// It is ready, or not for this reason.
    pub(super) fn status(&self, reason: Option<Arc<str>>) {
        #[cfg(unix)]
        notify(&[NotifyState::Status(&status(reason.as_deref()))]);
    }

    /// It reads its configuration again.
    pub(super) fn reloading(&self) {
        #[cfg(unix)]
        match NotifyState::monotonic_usec_now() {
            // The manager tells by the time which reload is meant.
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(error) => failed(&error),
        }
    }

    /// It ends.
    pub(super) fn ending(&self) {
        #[cfg(unix)]
        notify(&[
            NotifyState::Stopping,
            NotifyState::Status("Ending, when requests that are under way have ended."),
        ]);
    }

    /// It has not got stuck.
    pub(super) fn alive(&self) {
        #[cfg(unix)]
        notify(&[NotifyState::Watchdog]);
    }

    /// When to say that it has not got stuck, if the manager waits for that.
    pub(super) fn watchdog(&self) -> Watchdog {
        #[cfg(unix)]
        let period = sd_notify::watchdog_enabled();
        #[cfg(not(unix))]
        let period = None::<Duration>;
        Watchdog::new(period)
    }
}

/// Ticks twice in each period, as `sd_watchdog_enabled(3)` recommends.
pub(super) struct Watchdog(Option<Interval>);

impl Watchdog {
    fn new(period: Option<Duration>) -> Self {
        let half = period.map(|period| period / 2).filter(|half| !half.is_zero());
        Self(half.map(|half| {
            let mut interval = interval(half);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// The next tick, which never comes where nobody waits for it.
    pub(super) async fn tick(&mut self) {
        match &mut self.0 {
            Some(interval) => drop(interval.tick().await),
            None => std::future::pending().await,
        }
    }
}

/// In one line, as the protocol has it.
fn status(reason: Option<&str>) -> String {
    match reason {
        None => "Ready.".to_owned(),
        Some(reason) => format!("Not ready: {}", reason.replace(['\n', '\r'], " ")),
    }
}

#[cfg(unix)]
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        failed(&error);
    }
}

#[cfg(unix)]
fn failed(error: &std::io::Error) {
    tracing::warn!(target: log::TARGET, error = error.to_string(), "the service manager cannot be told");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(status(None), "Ready.");
        assert_eq!(status(Some("No.\nREADY=1")), "Not ready: No. READY=1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watchdog_is_told_twice_in_its_period() {
        let start = tokio::time::Instant::now();
        let mut watchdog = Watchdog::new(Some(Duration::from_secs(30)));
        for seconds in [0, 15, 30] {
            watchdog.tick().await;
            assert_eq!(start.elapsed().as_secs(), seconds);
        }
        let never = tokio::time::timeout(Duration::from_secs(3_600), async { Watchdog::new(None).tick().await });
        assert!(never.await.is_err());
    }
}
