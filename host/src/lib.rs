//! Platform identity tokens from a sandboxed provider.
//!
//! A [`Broker`] runs the managed-identity provider component and hands out its tokens. The component can reach the
//! platform's identity endpoint and nothing else: see [`outbound`]. Where the platform leaves a credential in a file, it can
//! also read that file's directory; which one, and by what the endpoint is known, follows from the source that the
//! environment selects.
//!
//! A whole program that asks, goes on with a token that is always valid, and ends in good order:
//!
//! ```no_run
//! use futures_util::StreamExt;
//! use managed_identity_host::{Broker, Cause, Identity, TokenRequest};
//! use std::time::Duration;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // One broker for the whole program. It is cheap to clone, and its clones share one provider and its cache.
//!     let broker = Broker::from_environment()?;
//!
//!     // Asks for a token, now and whenever one is needed. As long as one is at hand, that takes less than a microsecond.
//!     let request = TokenRequest::new("https://vault.azure.net")
//!         .with_identity(Identity::SystemAssigned)
//!         .with_timeout(Duration::from_secs(10));
//!     match broker.token(&request).await {
//!         Ok(token) => println!("{} from {}, valid until {}", token.token_type, token.source, token.expires_on),
//!         Err(error) if error.cause == Cause::NotConfigured => println!("no identity here: {error}"),
//!         Err(error) => return Err(error.into()),
//!     }
//!
//!     // Follows a token through its renewals, for whoever keeps connections open. It ends when the broker does.
//!     let mut tokens = broker.watch(TokenRequest::new("https://ossrdbms-aad.database.windows.net"));
//!     let pool = tokio::spawn(async move {
//!         while let Some(result) = tokens.next().await {
//!             match result {
//!                 Ok(token) => println!("new connections log in with the token until {}", token.expires_on),
//!                 Err(error) => println!("no token at present: {error}"),
//!             }
//!         }
//!     });
//!
//!     // Calls that have begun get their answers. Then the provider's thread ends, and no token is held any more.
//!     tokio::signal::ctrl_c().await?;
//!     broker.shutdown().await;
//!     pool.await?;
//!     Ok(())
//! }
//! ```
//!
//! Programs without an async runtime use a [`BlockingBroker`]. Who compiles the provider ahead of time ([`precompile`])
//! starts without a compiler's work; who has a provider of their own, in whatever language, gives it to the
//! [`BrokerBuilder`].
//!
//! For programs that let others ask, plugins first of all:
//!
//! | module | what it is for |
//! |---|---|
//! | [`grants`] | a policy: who gets which tokens, and to where whose requests are sent |
//! | [`plugin`] | an engine that runs plugins under it |
//! | [`linker`] | the same interface for a wasmtime host that has an engine of its own |
//! | [`authorized_http`] | `wasi:http` for plugins, with tokens that they do not see |
//! | [`audit`] | an event for each decision |
//! | [`telemetry`] | metrics and spans |
//! | [`document`] | for documents of their own that hold a policy: the strict reader |

pub mod audit;
pub mod authorized_http;
mod bindings;
mod broker;
pub mod document;
pub mod grants;
pub mod linker;
pub mod outbound;
pub mod plugin;
mod provider;
mod provision;
mod sandbox;
pub mod telemetry;
mod token;

pub use broker::{BlockingBroker, Broker, BrokerBuilder, Watch};
pub use managed_identity_provider::claims;
pub use managed_identity_provider::environment::VARIABLES;
pub use managed_identity_provider::error::{Cause, Error as TokenError};
pub use managed_identity_provider::secret::Secret;
pub use provider::{
    CodeOrigin, EMBEDDED_0_2, EMBEDDED_0_3, ProviderDescription, ProviderError, WasiVersion, is_precompiled, precompile,
};
pub use token::{AccessToken, Identity, SourceDescription, TokenRequest};

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
