//! By what a server on `https` is known to be the right one.

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// By what a server on `https` is known to be the right one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// By a certificate for the host of the URL, from an authority that the system trusts, or the policy's
    /// [root certificates](super::EndpointPolicy::with_root_certificates).
    ///
    /// What the system trusts is read once, before the first connection. As elsewhere, `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` name other certificates than the system's.
    SystemRoots,
    /// By a certificate from one authority.
    Authority(Authority),
    /// By having the certificate with this SHA-1 digest. Who issued it, for which name and until when does not matter, so
    /// that it may be self-signed; that the server has its key is proved in each handshake.
    Thumbprint([u8; 20]),
}

impl Trust {
    /// Which of two holds where both are set for one origin.
    pub(super) fn strictness(&self) -> u8 {
        match self {
            Self::SystemRoots => 0,
            Self::Authority(authority) if authority.certificates == AuthorityCertificates::System => 1,
            Self::Authority(_) => 2,
            Self::Thumbprint(_) => 3,
        }
    }
}

/// An authority, and the name that its certificate has to be for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    pub(super) certificates: AuthorityCertificates,
    pub(super) server_name: Option<ServerName<'static>>,
}

/// Where the certificates of an authority come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AuthorityCertificates {
    System,
    File(PathBuf),
    Data(RootCertificates),
}

impl Authority {
    /// The authorities that the system trusts, for a server that goes by another name than its URL has.
    #[must_use]
    pub fn system() -> Self {
        Self::new(AuthorityCertificates::System)
    }

    /// The authority whose certificates, in PEM, are in this file. They replace what the system trusts.
    ///
    /// The file is read for each new connection, so that it may be replaced at any time. While there is nothing usable in
    /// it, what was read last holds. It may have 1 MiB.
    pub fn from_file(path: impl Into<PathBuf>) -> Self {
        Self::new(AuthorityCertificates::File(path.into()))
    }

    /// The authority with these certificates. They replace what the system trusts.
    #[must_use]
    pub fn from_certificates(certificates: RootCertificates) -> Self {
        Self::new(AuthorityCertificates::Data(certificates))
    }

    fn new(certificates: AuthorityCertificates) -> Self {
        Self {
            certificates,
            server_name: None,
        }
    }

    /// The same authority, for a server that goes by this name instead of the host of its URL: in its certificate, and as
    /// server name indication (SNI), as far as it is not an address.
    ///
    /// # Errors
    /// If it is neither a DNS name nor an address.
    pub fn with_server_name(mut self, name: &str) -> Result<Self, TrustError> {
        let name = ServerName::try_from(name).map_err(|_| TrustError::ServerName)?;
        self.server_name = Some(name.to_owned());
        Ok(self)
    }
}

/// Certificates of authorities. The default is none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RootCertificates(Arc<[CertificateDer<'static>]>);

impl RootCertificates {
    /// Reads all certificates of a PEM text. What else is in it is left out, private keys included.
    ///
    /// # Errors
    /// If there is none, or one that cannot be used.
    pub fn from_pem(pem: &str) -> Result<Self, TrustError> {
        Self::from_pem_bytes(pem.as_bytes())
    }

    pub(super) fn from_pem_bytes(pem: &[u8]) -> Result<Self, TrustError> {
        let certificates = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| TrustError::Pem)?;
        let mut store = RootCertStore::empty();
        for (index, certificate) in certificates.iter().enumerate() {
            let number = index + 1;
            store
                .add(certificate.clone())
                .map_err(|_| TrustError::Certificate { number })?;
        }
        if certificates.is_empty() {
            return Err(TrustError::NoCertificate);
        }
        Ok(Self(certificates.into()))
    }

    /// These and those of `other`.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(self.iter().chain(other.iter()).cloned().collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.0.iter()
    }
}

impl fmt::Debug for RootCertificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RootCertificates({})", self.0.len())
    }
}

/// Why nothing can be trusted by what was given. Reads as the end of a sentence: "The certificate of the authority …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// A section of the PEM text is incomplete, or not in base64.
    #[error("is not in PEM, or broken off; it has to begin with -----BEGIN CERTIFICATE----- and to be whole")]
    Pem,
    /// There is no certificate in the text.
    #[error("is missing: there is no -----BEGIN CERTIFICATE----- in what was given")]
    NoCertificate,
    /// One of the certificates is none.
    #[error("cannot be used: certificate {number} of what was given is not one of X.509")]
    Certificate {
        /// Which one, counted from 1.
        number: usize,
    },
    /// The name is neither a DNS name nor an address.
    #[error("would have to be for a server name that is neither a DNS name nor an address; correct that name")]
    ServerName,
}
