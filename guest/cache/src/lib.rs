//! A cache of tokens that instances share.
//!
//! Where every request gets an instance of its own, a provider's memory ends with the request, and each request asks the
//! platform. This component goes between a client and a provider of `cloud:identity`, any provider, and keeps tokens in a
//! `wasi:keyvalue` store, which outlives instances:
//!
//! ```text
//! client ── get-token ──> cache ── get-token ──> provider ──> the platform
//!                           └──── get, set ────> key-value store
//! ```
//!
//! A token at rest is a risk that has to be chosen: composing the cache in is that choice, and without a key in
//! [`settings::KEY`] it hands out nothing. Whoever has both the key and the store has the tokens in it. Whoever has the
//! key can act as the identities of all who share it, because a token that one has stored is found by the others: machines
//! whose identities differ need keys that differ, or at least values of [`settings::NAMESPACE`] that do.
//!
//! What the store gets to see is how many entries there are, which of them belong to one deployment and to one audience, how
//! long they are and when they change, and how many tokens were rejected. An entry is encrypted with XChaCha20-Poly1305 and
//! bound to its name, and the name is a keyed digest of everything that selects a token ([`selection`]), so that an entry that
//! was changed, moved, or written by somebody without the key is no entry. But whoever can write can put an old entry back, or
//! take away what says that a token was rejected: nothing outlives instances that could know better.
//!
//! | module | what |
//! |---|---|
//! | [`cache`] | when a token of the store is handed out, and when the provider is asked |
//! | [`settings`], [`keys`] | what the environment says, and the keys that are made of it |
//! | [`selection`] | what makes two requests the same, and the names of entries |
//! | [`entry`] | what is kept, and its form in the store |
//! | [`surroundings`] | the traits of all that is outside: tests implement them too |

pub mod cache;
pub mod entry;
pub mod keys;
pub mod selection;
pub mod settings;
pub mod surroundings;
pub mod token;

#[cfg(target_arch = "wasm32")]
mod wasi;
