//! What servers present: certificates that are right, and those that are not.

use managed_identity_emulator::tls::Certificate;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustls::crypto::ring::{default_provider, sign::any_supported_type};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::sync::Arc;

/// What a server presents.
pub(crate) type Presented = Arc<ServerConfig>;

/// A certificate as the emulator has it, from a server that speaks HTTP/2 too.
pub(crate) fn presented(certificate: &Certificate) -> Presented {
    with_protocols(certificate, &["h2", "http/1.1"])
}

/// The same from a server that speaks HTTP/2 alone.
pub(crate) fn h2_only(certificate: &Certificate) -> Presented {
    with_protocols(certificate, &["h2"])
}

fn with_protocols(certificate: &Certificate, protocols: &[&str]) -> Presented {
    let mut config = Arc::unwrap_or_clone(certificate.server_config().unwrap());
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A certificate for 127.0.0.1 that is made here, because what is done with it is not what the emulator does.
pub(crate) struct Issued {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    authority: CertificateDer<'static>,
    authority_pem: String,
}

impl Issued {
    /// One that is valid until the start of this year.
    pub(crate) fn until(year: i32) -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        // Not the name of the emulator's.
        authority
            .distinguished_name
            .push(DnType::CommonName, "An authority of tests");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(year, 1, 1);
        Self {
            certificate: parameters.signed_by(&key, &authority).unwrap().der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            authority: authority.der().clone(),
            authority_pem: authority.pem(),
        }
    }

    pub(crate) fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    pub(crate) fn thumbprint(&self) -> String {
        digest(&SHA1_FOR_LEGACY_USE_ONLY, &self.certificate)
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect()
    }

    /// A server that speaks these versions of TLS.
    pub(crate) fn presented(&self, versions: &[&'static SupportedProtocolVersion]) -> Presented {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// A server that has a copy of the certificate, and not its key.
    pub(crate) fn copied(&self, versions: &[&'static SupportedProtocolVersion]) -> Presented {
        let other = PrivatePkcs8KeyDer::from(KeyPair::generate().unwrap().serialize_der()).into();
        let key = any_supported_type(&other).unwrap();
        let copied = CertifiedKey::new(vec![self.certificate.clone()], key);
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(copied)));
        Arc::new(config)
    }

    /// A server that takes nobody without a certificate.
    pub(crate) fn wanting_client_certificates(&self) -> Presented {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .unwrap();
        Arc::new(config)
    }
}
