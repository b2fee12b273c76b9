//! What tokens say of themselves, where the broker does not say it: nothing of it is verified, and nothing here depends on
//! its truth.

use arc_swap::ArcSwap;
use managed_identity_host::{AccessToken, claims};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// As many tokens as the broker itself keeps.
const CAPACITY: usize = 1024;

/// What a token says.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    /// Whose it is.
    pub(super) client_id: Option<String>,
    /// From when on it is valid.
    pub(super) not_before: Option<u64>,
}

impl Claimed {
    /// Nothing, when the token is opaque.
    fn of(token: &AccessToken) -> Self {
        claims::decode(token.token.expose()).map_or_else(
            |_| Self::default(),
            |claims| Self {
                client_id: claims.application_id,
                not_before: claims.not_before.or(claims.issued_at),
            },
        )
    }
}

/// What the tokens of late have said, so that each is decoded once and not at each request.
#[derive(Debug, Default)]
pub(crate) struct Memory(ArcSwap<HashMap<usize, Entry>>);

/// It does not keep the token in memory, but its address from being another token's.
#[derive(Clone, Debug)]
struct Entry {
    token: Weak<AccessToken>,
    claimed: Arc<Claimed>,
}

impl Memory {
    pub(super) fn claimed(&self, token: &Arc<AccessToken>) -> Arc<Claimed> {
        let address = Arc::as_ptr(token).addr();
        let remembered = self.0.load();
        if let Some(entry) = remembered.get(&address) {
            return Arc::clone(&entry.claimed);
        }
        let claimed = Arc::new(Claimed::of(token));
        // A stale token may be a copy that the broker has made for this one call.
        if !token.stale {
            let mut entries = HashMap::clone(&remembered);
            entries.retain(|_, entry| entry.token.strong_count() > 0);
            if entries.len() >= CAPACITY {
                entries.clear();
            }
            let token = Arc::downgrade(token);
            let entry = Entry {
                token,
                claimed: Arc::clone(&claimed),
            };
            entries.insert(address, entry);
            // Of two threads that do this at once one is forgotten, and decodes again.
            self.0.store(Arc::new(entries));
        }
        claimed
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.load().len()
    }
}
