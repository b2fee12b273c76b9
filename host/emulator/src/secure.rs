//! The port with TLS: where it is, and the certificate that it presents.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use rustls::ServerConfig;

use crate::protocol::TOKEN_PROXY_SERVER_NAME;
use crate::tls::Certificate;

/// The port with TLS.
pub(crate) struct Secure {
    pub listening: SocketAddr,
    /// `https://` and the address, without a trailing slash.
    pub base_url: String,
    pub certificate: Certificate,
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
            certificate,
        })
    }
}
