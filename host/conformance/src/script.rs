//! The script of one case: which requests are expected next, and what is answered.

use crate::case::{Action, Exchange};
use crate::matching;
use crate::wire::Arrived;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Cheap to clone; all clones are one script.
#[derive(Clone, Debug, Default)]
pub struct Script(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    has_begun: bool,
    exchanges: Vec<Exchange>,
    /// How many exchanges are over. One that is repeated is, as soon as it has happened once.
    done: usize,
    /// When the last request of the step arrived.
    last: Option<Duration>,
    faults: Vec<String>,
}

impl State {
    /// The exchange that the next request has to belong to.
    fn next(&self) -> Option<(usize, &Exchange)> {
        let repeated = self
            .done
            .checked_sub(1)
            .filter(|last| self.exchanges.get(*last).is_some_and(|it| it.repeated));
        let number = repeated.unwrap_or(self.done);
        self.exchanges.get(number).map(|exchange| (number, exchange))
    }
}

impl Script {
    /// Begins a step.
    pub fn begin(&self, exchanges: Vec<Exchange>) {
        let mut state = self.state();
        state.has_begun = true;
        state.exchanges = exchanges;
        state.done = 0;
        state.last = None;
    }

    /// A request has arrived, at this moment of a clock that never goes back. Without an action it is none that the case
    /// expects, which is then on record.
    pub fn arrived(&self, request: &Arrived, at: Duration) -> Option<Action> {
        let mut state = self.state();
        let outcome = match state.next() {
            None => Err(format!(
                "Nothing more was expected, and the client sent {} {}",
                request.method,
                target(request)
            )),
            Some((number, exchange)) => match matching::request(&exchange.request, request) {
                faults if faults.is_empty() => match state.last.map(|last| at.saturating_sub(last)) {
                    Some(passed) if passed < Duration::from_millis(exchange.after_ms) => Err(format!(
                        "Request {} came {} ms after the one before, and not {} ms",
                        number + 1,
                        passed.as_millis(),
                        exchange.after_ms
                    )),
                    _ => Ok((number, exchange.action())),
                },
                faults => Err(format!("Request {} differs: {}", number + 1, faults.join("; "))),
            },
        };
        let action = match outcome {
            Ok((number, action)) => {
                state.done = number + 1;
                state.last = Some(at);
                Some(action)
            }
            Err(fault) => {
                // What follows the first fault follows from it.
                if state.faults.is_empty() {
                    state.faults.push(fault);
                }
                None
            }
        };
        drop(state);
        self.0.changed.notify_waiters();
        action
    }

    /// Something has arrived that breaks the case whatever it expects.
    pub fn refuse(&self, fault: impl Into<String>) {
        let mut state = self.state();
        if state.faults.is_empty() {
            state.faults.push(fault.into());
        }
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// A connection was made. Where nothing may be sent, there is no use for one.
    pub fn connected(&self) {
        let is_useless = {
            let state = self.state();
            state.has_begun && state.exchanges.is_empty()
        };
        if is_useless {
            self.refuse("Nothing may be sent, and the client made a connection");
        }
    }

    /// Whether every exchange of the step has happened.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let state = self.state();
        state.done >= state.exchanges.len()
    }

    /// Waits until the client has sent what it should not have.
    pub async fn failed(&self) {
        self.until(|state| !state.faults.is_empty()).await;
    }

    /// Waits until every exchange of the step has happened.
    pub async fn completed(&self) {
        self.until(|state| state.done >= state.exchanges.len()).await;
    }

    /// Ends a step: takes what was wrong with it.
    #[must_use]
    pub fn end(&self) -> Vec<String> {
        let mut state = self.state();
        let mut faults = std::mem::take(&mut state.faults);
        if faults.is_empty()
            && let Some(missing) = state.exchanges.get(state.done)
        {
            let method = missing.request.method.as_deref().unwrap_or("GET");
            faults.push(format!(
                "Request {} of {} was never sent: {method} {}",
                state.done + 1,
                state.exchanges.len(),
                missing.request.path
            ));
        }
        faults
    }

    async fn until(&self, condition: impl Fn(&State) -> bool) {
        loop {
            let changed = self.0.changed.notified();
            if condition(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves nothing half-done here.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn target(request: &Arrived) -> String {
    let query: Vec<_> = request
        .query
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    match &query[..] {
        [] => request.path.clone(),
        query => format!("{}?{}", request.path, query.join("&")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchanges(text: &str) -> Vec<Exchange> {
        serde_json::from_str(text).expect("well-formed")
    }

    fn get(path: &str) -> Arrived {
        Arrived::new("GET", path, Vec::new(), Vec::new())
    }

    #[test]
    fn requests_have_to_come_in_order_and_whole() {
        let two = r#"[{"request":{"path":"/a"},"reply":{}},{"request":{"path":"/b"},"reply":{}}]"#;
        for (sent, fault) in [
            (&["/a", "/b"][..], None),
            (&["/a"], Some("Request 2 of 2 was never sent: GET /b")),
            (&["/b", "/a"], Some("Request 1 differs: path: expected `/a`, got `/b`")),
            (
                &["/a", "/b", "/c?x=1"],
                Some("Nothing more was expected, and the client sent GET /c?x=1"),
            ),
        ] {
            let script = Script::default();
            script.begin(exchanges(two));
            for path in sent {
                let _ = script.arrived(&get(path), Duration::ZERO);
            }
            let faults = script.end();
            assert_eq!(faults.first().map(String::as_str), fault, "{sent:?}");
            assert!(faults.len() < 2, "{faults:?}");
        }
    }

    #[test]
    fn a_repeated_exchange_happens_once_or_more() {
        let repeated = r#"[{"request":{"path":"/a"},"fault":"reset","repeated":true}]"#;
        for (times, complete) in [(0, false), (1, true), (3, true)] {
            let script = Script::default();
            script.begin(exchanges(repeated));
            for _ in 0..times {
                assert!(matches!(
                    script.arrived(&get("/a"), Duration::ZERO),
                    Some(Action::Fault(_))
                ));
            }
            assert_eq!(
                (script.is_complete(), script.end().is_empty()),
                (complete, complete),
                "{times}"
            );
        }
    }

    #[test]
    fn a_request_may_come_too_early() {
        for (second, fault) in [
            (2000, None),
            (
                1999,
                Some("Request 2 came 999 ms after the one before, and not 1000 ms"),
            ),
        ] {
            let script = Script::default();
            script.begin(exchanges(
                r#"[{"request":{"path":"/a"},"reply":{}},{"request":{"path":"/a"},"reply":{},"after_ms":1000}]"#,
            ));
            assert!(script.arrived(&get("/a"), Duration::from_millis(1000)).is_some());
            let _ = script.arrived(&get("/a"), Duration::from_millis(second));
            assert_eq!(script.end().first().map(String::as_str), fault);
        }
    }

    #[test]
    fn a_connection_is_a_fault_only_where_nothing_may_be_sent() {
        let script = Script::default();
        script.connected();
        script.begin(exchanges(r#"[{"request":{"path":"/a"},"reply":{}}]"#));
        script.connected();
        assert!(script.arrived(&get("/a"), Duration::ZERO).is_some() && script.end().is_empty());
        script.begin(Vec::new());
        script.connected();
        assert_eq!(script.end(), ["Nothing may be sent, and the client made a connection"]);
    }
}
