//! All that is outside: a store, clocks, random bytes, the environment, and the provider.
//!
//! The component implements these traits on WASI and on the interfaces that it imports; tests implement them with a provider
//! that follows a script and a clock that they move by hand. Nothing here waits other than by returning late.

use crate::token::{AccessToken, TokenRequest};
use std::time::Duration;

/// The world around the cache, without the provider.
pub trait Surroundings {
    /// An open store.
    type Store: Store;

    /// Opens the store with this name.
    ///
    /// # Errors
    /// When there is none, or access to it is refused.
    fn open(&self, name: &str) -> Result<Self::Store, StoreFault>;

    /// The environment variables.
    fn environment(&self) -> Vec<(String, String)>;

    /// The wall clock, in whole seconds since 1970-01-01T00:00:00Z. It may jump.
    fn unix_time(&self) -> u64;

    /// A clock that never goes back, from an arbitrary start.
    fn monotonic(&self) -> Duration;

    /// Random bytes that nobody can predict.
    fn random(&self, length: usize) -> Vec<u8>;
}

/// A key-value store. It is neither trusted nor relied upon: what it returns may be anybody's, and it may fail.
pub trait Store {
    /// The value at `name`.
    ///
    /// # Errors
    /// When the store fails.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreFault>;

    /// Puts `value` at `name`.
    ///
    /// # Errors
    /// When the store fails.
    fn set(&self, name: &str, value: &[u8]) -> Result<(), StoreFault>;

    /// Removes what is at `name`, if anything is.
    ///
    /// # Errors
    /// When the store fails.
    fn delete(&self, name: &str) -> Result<(), StoreFault>;

    /// All names.
    ///
    /// # Errors
    /// When the store fails, or cannot list what it has.
    fn names(&self) -> Result<Vec<String>, StoreFault>;
}

/// Why a store does not do what it is asked. What it says itself is left out: nobody knows what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// The host has no store with this name.
    NoSuchStore,
    /// The host refuses access.
    AccessDenied,
    /// It failed in another way.
    Failed,
}

/// The provider that is asked where the store has no answer.
pub trait Provider {
    /// Its errors, which are handed on as they are.
    type Error: Failure;

    /// A token from the provider's own cache or from the platform.
    ///
    /// # Errors
    /// As the provider says.
    fn get_token(&self, request: &TokenRequest) -> Result<AccessToken, Self::Error>;

    /// Drops what the provider keeps, of one audience or all.
    fn forget(&self, audience: Option<&str>);

    /// Where its tokens come from. Nothing when it has no source: then it has no tokens either.
    fn origin(&self) -> Option<Origin>;
}

/// Where tokens come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The name of the source.
    pub source: String,
    /// The address that is asked.
    pub endpoint: String,
}

/// What the cache has to know of an error, and to say by one.
pub trait Failure {
    /// The cause `not-configured`.
    fn not_configured(message: String) -> Self;

    /// The cause `token-rejected`.
    fn token_rejected(message: String) -> Self;

    /// When another try makes sense, if the platform said so.
    fn retry_after(&self) -> Option<Duration>;
}
