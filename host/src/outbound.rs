//! HTTP to the platform's identity endpoint, and to nothing else.
//!
//! This is the one power of the provider component. Whatever it asks of `wasi:http` passes through [`OutboundHooks`], and from
//! there through five steps, of which each uses what the one before it has made and nothing else:
//!
//! 1. [`EndpointPolicy::check`] parses the request's method and URI, compares them with the endpoints that are allowed,
//!    and makes a [`Target`]. Spellings that two parsers could read differently are refused, not repaired.
//! 2. [`Outbound::send`] builds a new request from the target: request line and `Host` come from it, never from the text
//!    that the component wrote.
//! 3. The connector resolves the host and checks every address that it is about to use, so that a name cannot lead
//!    elsewhere after the check. An endpoint that the environment named may be loopback, link-local or private; any
//!    other address takes a known authority of Azure's clouds, or a grant by the user ([`Endpoint::granted`]). On `https`, the server proves to be the right
//!    one before it gets a byte of the request: by a certificate that the system trusts, one authority, or one certificate
//!    alone ([`Trust`]).
//! 4. Where the endpoint takes only so many requests, the request waits for its turn ([`RequestLimits`]).
//! 5. The reply's head and body are limited in size and time.
//!
//! Redirects are not followed, the variables that name proxies are not read, cookies are not kept and nothing is
//! decompressed: a reply reaches the component as it came. Connections are kept and used again, per origin.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use managed_identity_host::outbound::{Endpoint, EndpointPolicy, Outbound, OutboundConfig};
//!
//! let policy = EndpointPolicy::from_iter([
//!     Endpoint::from_environment("http://169.254.169.254")?.join("/metadata/identity/oauth2/token")?,
//! ]);
//! let outbound = Outbound::new(policy, OutboundConfig::default());
//! let request = http::Request::get("http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01")
//!     .header("metadata", "true")
//!     .body(http_body_util::Empty::new())?;
//! let response = outbound.send(request, Default::default()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A program with an HTTP client of its own can put that in place of the third step: see [`Transport`].
//!
//! It needs a tokio runtime with I/O and time enabled, and keeps its connections on the runtime that made them.
//!
//! What plugins send goes the same way with another policy in the first and third step, which keeps them from all that the
//! provider is there to reach: see [`authorized_http`](crate::authorized_http).

mod address;
mod body;
mod client;
mod connector;
mod denial;
mod egress;
mod endpoint;
mod error;
mod exchange;
mod hooks;
mod metered;
mod origin;
mod pace;
mod policy;
mod seen;
mod stream;
mod tls;
mod transport;
mod trust;

pub use address::{AddressClass, Reach};
pub use body::LimitedBody;
pub(crate) use client::is_connection_field;
pub use client::{Outbound, OutboundConfig};
pub use denial::{Denial, DenialReason};
pub(crate) use egress::{Egress, EgressPolicy};
pub use endpoint::{Endpoint, EndpointError, PathRule};
pub use error::OutboundError;
pub use hooks::OutboundHooks;
pub use origin::{Origin, OriginFault, PathFault, Scheme};
pub use pace::RequestLimits;
pub use policy::{EndpointPolicy, Target};
pub use seen::SeenReply;
pub use tls::CertificateFault;
pub use transport::{Carrying, Transport, TransportError};
pub use trust::{Authority, RootCertificates, Trust, TrustError};

#[cfg(test)]
mod tests;
