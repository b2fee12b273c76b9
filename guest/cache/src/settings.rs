//! What the environment says to the cache.

use crate::keys::{KeyFault, Keys};

/// The variable with the key, or with several separated by commas: the first encrypts, all decrypt.
pub const KEY: &str = "MANAGED_IDENTITY_CACHE_KEY";

/// The variable with a text that keeps apart what shares a key and a store, such as the name of a deployment.
pub const NAMESPACE: &str = "MANAGED_IDENTITY_CACHE_NAMESPACE";

/// The variable with the name of the store.
pub const STORE: &str = "MANAGED_IDENTITY_CACHE_STORE";

/// The store where the environment names none. Spin gives every application one that is called `default`; wasmtime has one
/// in memory, whose name is empty.
pub const DEFAULT_STORE: &str = if cfg!(feature = "keyvalue-draft2") {
    "default"
} else {
    ""
};

/// The settings. An empty variable counts as unset.
pub struct Settings {
    /// The keys.
    pub keys: Keys,
    /// The namespace, empty when none is set.
    pub namespace: String,
    /// The name of the store.
    pub store: String,
}

impl Settings {
    /// Reads the settings.
    ///
    /// # Errors
    /// When there is no key, or one that is none. Each fault is a sentence that says what to do, and has nothing of the value.
    pub fn read(environment: &[(String, String)]) -> Result<Self, KeyFault> {
        let value = |variable: &str| {
            environment
                .iter()
                .find(|(name, value)| name == variable && !value.is_empty())
                .map(|(_, value)| value.as_str())
        };
        Ok(Self {
            keys: Keys::parse(value(KEY).unwrap_or_default())?,
            namespace: value(NAMESPACE).unwrap_or_default().to_owned(),
            store: value(STORE).unwrap_or(DEFAULT_STORE).to_owned(),
        })
    }
}
