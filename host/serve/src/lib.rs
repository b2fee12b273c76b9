//! Serves tokens to programs that know nothing of us: one broker per machine, which speaks the protocols that the Azure
//! SDKs already speak.
//!
//! A [`Config`] says where is listened, by which [`Protocol`]s, who asks there, and what each caller is granted. It is read
//! from a document ([`Config::from_toml`]) or made of flags. A [`Server`] does as it says: it knows the caller of each
//! request, decides by the caller's grant (see [`managed_identity_host::grants`]), and answers from the one
//! [`Broker`](managed_identity_host::Broker) that all share.

mod callers;
pub mod config;
mod connection;
mod grpc;
mod listener;
mod protocol;
mod readiness;
pub mod secret;
mod secrets;
mod server;
pub mod telemetry;
mod tls;

pub use config::{Config, ConfigError, Protocol};
pub use listener::ListenError;
pub use readiness::ReadinessWatch;
pub use secret::{HeaderSecret, SecretHash};
pub use secrets::file::SecretFileError;
pub use server::{Control, Listening, ServeError, Server};
pub use tls::CertificateError;
