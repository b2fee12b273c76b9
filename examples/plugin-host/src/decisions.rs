//! Keeps what the host decided, to be printed when the plugins have ended.
//!
//! A real host would write the events to its log instead: each is one of `tracing`, with these fields and more.

use managed_identity_host::audit;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The decisions so far. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Decisions(Arc<Mutex<Vec<Decision>>>);

/// One of them, as it is in the audit trail.
#[derive(Clone, Default)]
pub(crate) struct Decision {
    pub(crate) caller: String,
    pub(crate) decision: String,
    /// What was asked for.
    pub(crate) matter: String,
}

impl Decisions {
    /// What was decided for one plugin, in order.
    pub(crate) fn of(&self, caller: &str) -> Vec<Decision> {
        let decisions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        decisions
            .iter()
            .filter(|decision| decision.caller == caller)
            .cloned()
            .collect()
    }
}

impl<S: Subscriber> Layer<S> for Decisions {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.target() == audit::TARGET {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target() == audit::TARGET
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut decision = Decision::default();
        event.record(&mut decision);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(decision);
    }
}

impl Visit for Decision {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "caller" => value.clone_into(&mut self.caller),
            "decision" => value.clone_into(&mut self.decision),
            "kind" | "audience" | "method" | "destination" => {
                if !self.matter.is_empty() {
                    self.matter.push(' ');
                }
                self.matter.push_str(value);
            }
            "fingerprint" => {
                // Writing to a `String` cannot fail.
                let _ = write!(self.matter, " (token {value}…)");
            }
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
