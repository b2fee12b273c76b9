//! Limits of plugins' HTTP.

use crate::outbound::OutboundConfig;
use std::time::Duration;

/// Limits on time, size and number of a plugin's requests.
///
/// The times are upper bounds: a plugin may ask for shorter ones with its request's options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizedHttpConfig {
    /// How long resolving, connecting and the handshake of TLS may take together. Default: 10 s.
    pub connect_timeout: Duration,
    /// How long each of these may take: the request's turn, its body's coming, its token's, and the head of the reply, from
    /// the connection on. Default: 60 s.
    pub first_byte_timeout: Duration,
    /// How long the body of a reply may stand still. Default: 60 s.
    pub between_bytes_timeout: Duration,
    /// How long sending a request and reading its reply may take together. Default: 10 min.
    pub exchange_timeout: Duration,
    /// How many bytes the body of a request may have. Default: 8 MiB. It is kept in the host's memory, so that the request
    /// can be sent again with another token: for each caller, [`requests_at_once`](Self::requests_at_once) times as much at
    /// most.
    pub request_body_limit: usize,
    /// How many bytes the body of a reply may have. Default: 1 GiB. It is passed on as it comes.
    pub response_body_limit: u64,
    /// How many bytes the head of a reply may have. Default: 64 KiB. At least 8 KiB.
    pub response_head_limit: usize,
    /// How many fields the head of a reply may have. Default: 100.
    pub response_field_limit: usize,
    /// How many requests one caller may have under way at once; more wait. Default: 16. A request is under way until its
    /// reply has been read or dropped.
    pub requests_at_once: usize,
    /// How long an unused connection is kept. Default: 60 s.
    pub idle_timeout: Duration,
    /// How many unused connections are kept per origin. Default: 8.
    pub idle_connections: usize,
}

impl Default for AuthorizedHttpConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(60),
            between_bytes_timeout: Duration::from_secs(60),
            exchange_timeout: Duration::from_secs(600),
            request_body_limit: 8 * 1024 * 1024,
            response_body_limit: 1024 * 1024 * 1024,
            response_head_limit: 64 * 1024,
            response_field_limit: 100,
            requests_at_once: 16,
            idle_timeout: Duration::from_secs(60),
            idle_connections: 8,
        }
    }
}

impl AuthorizedHttpConfig {
    /// The same for the client that all callers share. Their numbers are limited one by one, so that none of them takes
    /// another's place.
    pub(super) fn outbound(&self) -> OutboundConfig {
        OutboundConfig {
            connect_timeout: self.connect_timeout,
            public_connect_timeout: self.connect_timeout,
            first_byte_timeout: self.first_byte_timeout,
            between_bytes_timeout: self.between_bytes_timeout,
            exchange_timeout: self.exchange_timeout,
            response_body_limit: self.response_body_limit,
            response_head_limit: self.response_head_limit,
            response_field_limit: self.response_field_limit,
            request_body_limit: self.request_body_limit,
            concurrent_requests: usize::MAX,
            idle_timeout: self.idle_timeout,
            idle_connections: self.idle_connections,
        }
    }
}
