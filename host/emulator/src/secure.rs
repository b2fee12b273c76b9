//! Ports with TLS: where they are, and the certificate that they present.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use rustls::ServerConfig;

use crate::protocol::TOKEN_PROXY_SERVER_NAME;
use crate::tls::Certificate;

/// A port with TLS.
pub(crate) struct Secure {
    pub listening: SocketAddr,
    /// `https://` and the address, without a trailing slash.
    pub base_url: String,
    pub certificate: Arc<Certificate>,
    pub server_config: Arc<ServerConfig>,
}

impl Secure {
    /// A certificate for every name under which the port can be reached.
    pub(crate) fn new(listening: SocketAddr) -> io::Result<Self> {
        let mut addresses = vec![IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        if !addresses.contains(&listening.ip()) {
            addresses.push(listening.ip());
        }
        let names = addresses
            .iter()
            .map(IpAddr::to_string)
            .chain(["localhost", TOKEN_PROXY_SERVER_NAME].map(str::to_owned));
        let certificate = Certificate::issue(names)?;
        Ok(Self {
            listening,
            base_url: format!("https://{listening}"),
            server_config: certificate.server_config()?,
            certificate: Arc::new(certificate),
        })
    }

    /// Another port of the same address, which presents the same certificate: clients have one authority to trust.
    pub(crate) fn beside(&self, listening: SocketAddr) -> Self {
        Self {
            listening,
            base_url: format!("https://{listening}"),
            certificate: Arc::clone(&self.certificate),
            server_config: Arc::clone(&self.server_config),
        }
    }
}
