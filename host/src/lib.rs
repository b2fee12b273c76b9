//! Platform identity tokens from a sandboxed provider.
//!
//! A [`Broker`] runs the managed-identity provider component and hands out its tokens. The component can reach the
//! platform's identity endpoint and nothing else: see [`outbound`]. Where the platform leaves a credential in a file, it can
//! also read that file's directory; which one, and by what the endpoint is known, follows from the source that the
//! environment selects.
//!
//! ```no_run
//! use managed_identity_host::{Broker, Identity, TokenRequest};
//! use std::time::Duration;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let broker = Broker::from_environment()?;
//!     let request = TokenRequest::new("https://vault.azure.net")
//!         .with_identity(Identity::SystemAssigned)
//!         .with_timeout(Duration::from_secs(10));
//!     let token = broker.token(&request).await?;
//!     println!("{} from {}, valid until {}", token.token_type, token.source, token.expires_on);
//!     Ok(())
//! }
//! ```

pub mod audit;
pub mod authorized_http;
mod bindings;
mod broker;
pub mod grants;
pub mod outbound;
mod provider;
mod provision;
pub mod telemetry;
mod token;

pub use broker::{BlockingBroker, Broker, BrokerBuilder, Watch};
pub use managed_identity_provider::claims;
pub use managed_identity_provider::error::{Cause, Error as TokenError};
pub use managed_identity_provider::secret::Secret;
pub use provider::{EMBEDDED_0_2, EMBEDDED_0_3, ProviderError, WasiVersion, is_precompiled, precompile};
pub use token::{AccessToken, Identity, SourceDescription, TokenRequest};

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
