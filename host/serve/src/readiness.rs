//! Whether the server is ready for work.

use arc_swap::ArcSwap;
use std::sync::Arc;

/// Whether the server is ready, and why not. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Readiness(Arc<ArcSwap<Option<String>>>);

impl Readiness {
    pub(crate) fn not_yet(reason: impl Into<String>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Some(reason.into()))))
    }

    pub(crate) fn set_ready(&self) {
        self.0.store(Arc::new(None));
    }

    pub(crate) fn set_not_ready(&self, reason: impl Into<String>) {
        self.0.store(Arc::new(Some(reason.into())));
    }

    /// Why it is not ready; nothing when it is.
    pub(crate) fn reason(&self) -> Arc<Option<String>> {
        self.0.load_full()
    }
}
