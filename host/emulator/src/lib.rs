//! Azure's managed-identity endpoints on loopback, without Azure.
//!
//! A managed identity is a token that a program gets by asking an HTTP endpoint which only its own machine can reach.
//! That endpoint does not exist on a laptop or in a test. This crate is one: a server on 127.0.0.1 that speaks the
//! protocols as documented, required headers, refusals and string-typed numbers included, for a machine with made-up
//! identities. Any client can be pointed at it through the environment variables that it gives out:
//!
//! ```
//! use managed_identity_emulator::{Emulator, EmulatorConfig, Fault, Source, http::StatusCode};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let emulator = Emulator::start(EmulatorConfig::default())?;
//!
//! // What the program under test needs to find App Service's endpoint (and to be let in).
//! let environment = emulator.environment_for(Source::AppService);
//! assert_eq!(environment["IDENTITY_ENDPOINT"], format!("{}/msi/token", emulator.base_url()));
//! assert!(environment.contains_key("IDENTITY_HEADER"));
//!
//! // Tokens of a minute, and a first request that fails.
//! emulator.configure(|settings| settings.token_lifetime_seconds = 60);
//! emulator.add_fault(Fault::reply(StatusCode::SERVICE_UNAVAILABLE, "").times(1));
//!
//! // ... run the program ...
//!
//! // What it asked for.
//! for request in emulator.requests() {
//!     assert_eq!(request.protocol, Some(Source::AppService));
//!     assert!(request.header("x-forwarded-for").is_none());
//! }
//! assert_eq!(emulator.stats().requests, 0);
//! emulator.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What it serves
//!
//! There are two ports. All paths are on both, but those marked with TLS are refused without.
//!
//! | path | source | what |
//! |---|---|---|
//! | `/metadata/identity/oauth2/token` | `imds` | IMDS, as on virtual machines |
//! | `/msi/token` | `app-service` | App Service, Functions and Container Apps, version 2019-08-01 |
//! | `/app-service-2017/msi/token` | `app-service-2017` | App Service and Functions, version 2017-09-01 |
//! | `/azure-ml/msi/token` | `azure-ml` | Azure Machine Learning, which speaks that version |
//! | `/azure-arc/metadata/identity/oauth2/token` | `azure-arc` | the agent of Azure Arc, with a challenge if it has a [directory](EmulatorConfig::arc_directory) for key files |
//! | `/service-fabric/token` | `service-fabric` | Service Fabric; TLS |
//! | `/cloud-shell/oauth2/token` | `cloud-shell` | Cloud Shell |
//! | `/{tenant}/oauth2/v2.0/token` | `workload-identity` | Entra, to which pods of AKS present the [federated token](EmulatorConfig::federated_token_file); TLS |
//! | `/token-proxy/{tenant}/oauth2/v2.0/token` | `identity-bindings` | the token proxy of AKS identity bindings; TLS, for the name `token-proxy.localhost` |
//! | `/workload-identity-proxy/metadata/identity/oauth2/token` | `workload-identity-proxy` | the proxy sidecar of workload identity |
//! | `/nmi/metadata/identity/oauth2/token` | `nmi` | the node-managed identity of pod identity |
//! | `/{tenant}/.well-known/openid-configuration` | | OpenID Connect discovery, at the root too |
//! | `/{tenant}/discovery/keys` | | the key set that verifies the tokens |
//! | `/control/...` | | faults, settings, records: see [`control`], [`fault`] and [`settings`] |
//!
//! The certificate of the port with TLS is made at start, signed by an authority that is made at start too:
//! [`Emulator::certificate`] has it.
//!
//! Tokens are JSON Web Tokens with the claims that Entra (v1) gives to managed identities, signed with RS256 by a key
//! that is made at start. Their issuer is the emulator, so software that discovers its keys can verify them, and none
//! that trusts Entra takes them. Every request gets a new token; on Azure, the endpoint hands out one token for most of
//! its lifetime, and here too with [`Settings::repeat_tokens`].
//!
//! A vault that takes the tokens, on a port of its own, is there when it is [started](Emulator::start_key_vault): see
//! [`key_vault`].
//!
//! # What it refuses
//!
//! Anybody who can reach the emulator gets tokens, so only the machine itself can: it listens on loopback only and
//! answers only requests whose `Host` is a loopback name or address. It prints nothing, and keeps secrets, assertions and
//! keys out of records and `Debug`. The files that it writes, if it is told where, are for its own user only, and are
//! removed when it stops.

pub use http;

mod arc_keys;
mod arrival;
mod assertion;
mod clock;
mod config;
pub mod control;
mod delivery;
mod emulator;
mod entra;
mod expiry;
pub mod fault;
mod identities;
mod jwt;
pub mod key_vault;
mod keys;
mod loopback;
mod oidc;
mod protocol;
mod query;
mod record;
mod reply;
mod secure;
mod server;
pub mod settings;
mod takeover;
mod throttle;
pub mod tls;
mod token;
mod token_store;
mod unique;
mod world;

pub use config::EmulatorConfig;
pub use emulator::Emulator;
pub use fault::Fault;
pub use identities::{Identities, Identity};
pub use key_vault::KeyVault;
pub use keys::SigningKey;
pub use protocol::Source;
pub use record::{RecordedRequest, Stats};
pub use settings::{ExpiresIn, ExpiresOn, RateLimit, Settings};
