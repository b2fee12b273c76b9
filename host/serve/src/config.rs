//! What a server is to do.

mod address;
mod check;
mod document;
mod users;

use crate::secret::SecretHash;
use managed_identity_host::Identity;
use managed_identity_host::document::DocumentError;
use managed_identity_host::grants::{Caller, Policy};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use address::AddressError;

/// Why a configuration cannot be used. Says where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    line: Option<usize>,
    message: String,
}

impl ConfigError {
    /// The line of the document, counted from 1, if it is about one.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(formatter, "line {line}: ")?;
        }
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

impl From<DocumentError> for ConfigError {
    fn from(error: DocumentError) -> Self {
        Self {
            line: Some(error.line()),
            message: error.message().to_owned(),
        }
    }
}

/// What a server is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Where tokens come from.
    pub upstream: Upstream,
    /// Where is listened, by name.
    pub listeners: BTreeMap<String, ListenerConfig>,
    /// How callers are known, and as whom they ask.
    pub callers: BTreeMap<Caller, CallerConfig>,
    /// What callers are granted.
    pub policy: Policy,
    /// Secrets that proxies are told, by name.
    pub secrets: BTreeMap<String, SecretConfig>,
    /// What is too much.
    pub limits: Limits,
}

impl Config {
    /// As whom the token of a secret is: as it says, or as its caller is when that names none.
    #[must_use]
    pub fn secret_identity(&self, secret: &SecretConfig) -> Identity {
        let of_caller = || self.callers.get(&secret.caller).map(|how| how.default_identity.clone());
        secret.identity.clone().or_else(of_caller).unwrap_or_default()
    }
}

/// A token that a proxy is told by the name of a secret, and each successor of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretConfig {
    /// Who is told it, whose grants say whether.
    pub caller: Caller,
    /// For what the token is.
    pub audience: String,
    /// As whom; the default identity of the caller when absent.
    pub identity: Option<Identity>,
    /// What stands before the token, such as `Bearer ` with its space.
    pub prefix: String,
    /// The file that it is written to, for proxies that read it there.
    pub file: Option<PathBuf>,
}

/// The table of a secret in a document, without brackets.
fn secret_place(name: &str) -> String {
    format!("secret.{name}")
}

/// Where tokens come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Upstream {
    /// The identity source that the process environment selects.
    #[default]
    Environment,
    /// A federated identity, for machines that have none of their own.
    Federated(Federated),
}

/// An application or user-assigned identity that trusts the issuer of a token in a file (workload identity federation).
/// The file is read again for each request, so whoever issues the token may replace it at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Federated {
    /// The tenant in which the identity is.
    pub tenant_id: String,
    /// The client (application) id of the identity.
    pub client_id: String,
    /// The file with the token: of a Kubernetes service account, of a GitHub job, a SPIFFE JWT-SVID.
    pub token_file: PathBuf,
    /// The authority that exchanges it; `https://login.microsoftonline.com` when absent.
    pub authority: Option<String>,
}

impl Federated {
    /// The environment variables that say the same to the provider.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut variables = vec![
            ("AZURE_TENANT_ID".to_owned(), self.tenant_id.clone()),
            ("AZURE_CLIENT_ID".to_owned(), self.client_id.clone()),
            (
                "AZURE_FEDERATED_TOKEN_FILE".to_owned(),
                self.token_file.to_string_lossy().into_owned(),
            ),
        ];
        if let Some(authority) = &self.authority {
            variables.push(("AZURE_AUTHORITY_HOST".to_owned(), authority.clone()));
        }
        variables
    }
}

/// Where is listened, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The address.
    pub address: Address,
    /// What is spoken there; at least one.
    pub protocols: Vec<Protocol>,
    /// Who everybody is that asks here. When absent, callers are known by their secret in the protocol of App Service, and by
    /// their user on a Unix socket.
    pub caller: Option<Caller>,
    /// Who may ask here, of those that are known by secret or user; all of them when absent.
    pub callers: Option<Vec<Caller>>,
    /// The certificate that is shown; without it, no TLS is spoken.
    pub tls: Option<TlsFiles>,
    /// Names of this machine, besides those of loopback, that may stand in `Host`.
    pub hosts: Vec<String>,
}

/// The table of a listener in a document, without brackets. Its name needs no quotes.
fn listener_place(name: &str) -> String {
    format!("listener.{name}")
}

impl ListenerConfig {
    /// Whether this caller may ask there, if it is known there at all.
    pub(crate) fn admits(&self, caller: &Caller) -> bool {
        self.caller.as_ref().is_none_or(|only| only == caller)
            && self.callers.as_ref().is_none_or(|some| some.contains(caller))
    }

    /// Whether HTTP/2 is spoken there, which is what gRPC needs.
    pub(crate) fn has_http2(&self) -> bool {
        self.protocols.iter().any(|protocol| protocol.has_grpc())
    }

    /// What the other has otherwise. That the certificate is in other files is no difference.
    pub(crate) fn differs(&self, other: &Self) -> Vec<&'static str> {
        [
            ("address", self.address == other.address),
            ("protocols", self.protocols == other.protocols),
            ("caller", self.caller == other.caller),
            ("callers", self.callers == other.callers),
            ("tls", self.tls.is_some() == other.tls.is_some()),
            ("hosts", self.hosts == other.hosts),
        ]
        .into_iter()
        .filter_map(|(key, is_same)| (!is_same).then_some(key))
        .collect()
    }
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A socket in the file system, and who may connect to it (such as 0o660; the server's own user alone when nothing else
    /// is said).
    Unix(PathBuf, u32),
    /// A socket that systemd has opened, by its `FileDescriptorName`.
    Systemd(String),
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// The token endpoint of App Service, version 2019-08-01: `IDENTITY_ENDPOINT` and `IDENTITY_HEADER`.
    AppService,
    /// The token endpoint of the Azure Instance Metadata Service.
    Imds,
    /// Envoy's external authorization, over HTTP and gRPC, which adds the token to a request.
    EnvoyExtAuthz,
    /// Envoy's discovery of secrets, over gRPC: `envoy.service.secret.v3.SecretDiscoveryService`.
    EnvoySds,
    /// Metrics in the text format of Prometheus.
    Metrics,
    /// Whether the server lives and is ready.
    Health,
}

impl Protocol {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::AppService,
        Self::Imds,
        Self::EnvoyExtAuthz,
        Self::EnvoySds,
        Self::Metrics,
        Self::Health,
    ];

    /// The name in documents and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AppService => "app-service",
            Self::Imds => "imds",
            Self::EnvoyExtAuthz => "envoy-ext-authz",
            Self::EnvoySds => "envoy-sds",
            Self::Metrics => "metrics",
            Self::Health => "health",
        }
    }

    /// Whether whoever asks is somebody's caller, and gets what that one is granted.
    #[must_use]
    pub fn gives_tokens(self) -> bool {
        matches!(
            self,
            Self::AppService | Self::Imds | Self::EnvoyExtAuthz | Self::EnvoySds
        )
    }

    /// Whether it is spoken over gRPC, and so over HTTP/2.
    #[must_use]
    pub fn has_grpc(self) -> bool {
        matches!(self, Self::EnvoyExtAuthz | Self::EnvoySds)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The files of a certificate, in PEM. They are read at start and at each reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How one caller is known, and as whom it asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallerConfig {
    /// Its secrets, of which any is taken, so that one can follow another.
    pub secrets: Vec<SecretHash>,
    /// The users (uid) whose processes it is, on Unix sockets.
    pub users: Vec<u32>,
    /// The identity that it gets when it names none.
    pub default_identity: Identity,
}

/// What is too much.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections open at once, on all listeners. The default is 16,384.
    pub connections: usize,
    /// Bytes of a request's line and header fields together. The default is 16,384.
    pub header_bytes: usize,
    /// Bytes of a request's body, which nothing needs. The default is 65,536.
    pub body_bytes: usize,
    /// How long a request may take to arrive, from its first byte on. The default is 10 s.
    pub request_timeout: Duration,
    /// How long a connection is kept without a request. The default is 5 minutes.
    pub idle_timeout: Duration,
    /// How long the platform may take to answer. The default is 30 s.
    pub token_timeout: Duration,
    /// How long requests that are under way may take to end, when the server ends. The default is 30 s.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            header_bytes: 16_384,
            body_bytes: 65_536,
            request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            token_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
        }
    }
}
