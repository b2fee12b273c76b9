//! The managed-identity provider: platform identity tokens for code that holds no secret.
//!
//! The [`engine`] is plain Rust over one trait, [`platform::Platform`], and names no WASI type. On `wasm32` a thin skin
//! implements that trait and exports `cloud:identity`: the feature `wasi-0-2` builds the synchronous component for
//! WASI 0.2, the feature `wasi-0-3` the concurrent one for WASI 0.3. Natively the crate is the engine alone, which is how
//! its tests move a clock by hand, and how a host learns which endpoint an environment selects:
//!
//! ```
//! use managed_identity_provider::{environment::Environment, source};
//!
//! let selection = source::select(&Environment::new([]));
//! let source = selection.source.map_err(|error| error.message)?;
//! assert_eq!(source.endpoint(), "http://169.254.169.254/metadata/identity/oauth2/token");
//! # Ok::<(), String>(())
//! ```

pub mod cache;
pub mod claims;
pub mod endpoint;
pub mod engine;
pub mod environment;
pub mod error;
pub mod expiry;
mod failure;
pub mod failure_body;
mod flight;
mod keyed;
pub mod platform;
#[cfg(any(target_arch = "wasm32", test))]
mod preopened;
pub mod reply;
pub mod request;
pub mod retry;
pub mod secret;
pub mod source;

#[cfg(target_arch = "wasm32")]
mod boundary;
#[cfg(all(target_arch = "wasm32", feature = "wasi-0-2", not(feature = "wasi-0-3")))]
mod wasi_0_2;
#[cfg(all(target_arch = "wasm32", feature = "wasi-0-3"))]
mod wasi_0_3;
