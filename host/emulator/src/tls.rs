//! Certificates that are made at start: for the emulator's own TLS endpoints, and for tests that need a TLS server.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;
use std::io;
use std::sync::Arc;

/// A certificate with its key, and the authority that signed it: another one each time.
pub struct Certificate {
    chain: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    authority_pem: String,
}

impl Certificate {
    /// A certificate for these DNS names and IP addresses, signed by an authority of its own.
    ///
    /// # Errors
    /// When a name is none, or the system has no random numbers.
    pub fn issue<N: Into<String>>(names: impl IntoIterator<Item = N>) -> io::Result<Self> {
        let mut authority = CertificateParams::default();
        // Different names for both: a certificate with one name as subject and issuer counts as self-signed for OpenSSL.
        authority.distinguished_name = distinguished_name("managed-identity emulator");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().map_err(other)?).map_err(other)?;
        let key = KeyPair::generate().map_err(other)?;
        let names = names.into_iter().map(Into::into).collect::<Vec<String>>();
        let subject = names.first().map_or("localhost", String::as_str);
        let subject = distinguished_name(subject);
        let mut parameters = CertificateParams::new(names).map_err(other)?;
        parameters.distinguished_name = subject;
        parameters.use_authority_key_identifier_extension = true;
        let chain = parameters.signed_by(&key, &authority).map_err(other)?;
        Ok(Self {
            chain: chain.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            authority_pem: authority.pem(),
        })
    }

    /// The certificate of the authority, in PEM: what a client has to trust.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    /// The SHA-1 digest of the certificate in hexadecimal, as `IDENTITY_SERVER_THUMBPRINT` has it.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        digest(&SHA1_FOR_LEGACY_USE_ONLY, &self.chain)
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect()
    }

    /// What a TLS server needs to present this certificate.
    ///
    /// # Errors
    /// When the TLS library refuses the key, which it has no reason to.
    pub fn server_config(&self) -> io::Result<Arc<ServerConfig>> {
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(other)?
            .with_no_client_auth()
            .with_single_cert(vec![self.chain.clone()], self.key.clone_key())
            .map_err(other)?;
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Certificate({})", self.thumbprint())
    }
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the test set up what it unwraps")]

    use super::*;

    #[test]
    fn a_certificate_is_usable_and_prints_no_key() {
        let certificate = Certificate::issue(["localhost", "127.0.0.1"]).unwrap();
        certificate.server_config().unwrap();
        assert_eq!(certificate.thumbprint().len(), 40);
        assert!(certificate.authority_pem().starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(!format!("{certificate:?}").contains("KEY"));
        assert_ne!(
            certificate.thumbprint(),
            Certificate::issue(["localhost"]).unwrap().thumbprint()
        );
    }
}
