//! Makes a TCP connection into one with TLS, to a server that has proved to be the right one.
//!
//! TLS 1.2 and 1.3 with rustls and ring. No connection resumes an earlier one, sends early data or presents a client
//! certificate: each server proves itself anew, before it gets a byte of a request.

use super::origin::Origin;
use super::trust::{Authority, AuthorityCertificates, RootCertificates, Trust, TrustError};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA1_OUTPUT_LEN, digest};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring::default_provider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use std::collections::HashMap;
use std::fmt;
use std::hint::black_box;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Host;

/// The only protocol that is offered inside TLS (RFC 7301).
const HTTP_1_1: &[u8] = b"http/1.1";

/// How many bytes the file of an authority may have. A whole system's certificates have a quarter of it.
const AUTHORITY_FILE_LIMIT: u64 = 1024 * 1024;

/// The TLS side of a connector: what was read of the certificates that it trusts.
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    /// Trusted besides the system's.
    additional: RootCertificates,
    system: OnceCell<Arc<ClientConfig>>,
    /// What is in each file of an authority, or was while it was last usable.
    files: Mutex<HashMap<PathBuf, Loaded>>,
}

/// The certificates of a file, and the settings made of them.
#[derive(Clone)]
struct Loaded {
    certificates: RootCertificates,
    config: Arc<ClientConfig>,
}

/// What is known of a server before it is connected to.
pub(super) struct Handshake {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Handshake {
    /// The stream that comes of it is for use: its server is the right one.
    pub(super) async fn shake(self, stream: TcpStream) -> Result<TlsStream<TcpStream>, TlsFault> {
        let Self { config, name } = self;
        TlsConnector::from(config)
            .connect(name.clone(), stream)
            .await
            .map_err(|error| match tls_error(&error) {
                Some(error) => TlsFault::of(error, name.to_str()),
                None => TlsFault::Lost(error.kind()),
            })
    }
}

/// Why there is no connection with TLS, although there is one without.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TlsFault {
    /// It is not known what to trust.
    #[error("{0}")]
    Roots(String),
    /// The server is another one than the right one.
    #[error(transparent)]
    Certificate(#[from] CertificateFault),
    /// The server gives the handshake up.
    #[error("alert {0}: {1}")]
    Alert(u8, String),
    /// What the server says is not TLS, or not one that is safe.
    #[error("{0}")]
    Protocol(String),
    /// The connection failed.
    #[error("{0}")]
    Lost(io::ErrorKind),
}

/// Why a server's certificate does not show that it is the right one. Reads as the end of a sentence that begins with the
/// certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateFault {
    /// It is not the one that is pinned.
    #[error("has the thumbprint {found}, and not the one that the environment names")]
    Thumbprint {
        /// The SHA-1 digest of the certificate that the server has, in hexadecimal.
        found: String,
    },
    /// Its authority is not trusted.
    #[error("is from an authority that is not trusted")]
    UnknownAuthority,
    /// It, or what the server said with its key, has a signature that is not the right one: the authority has another key
    /// than the one of its name that is trusted, or the server has only a copy of the certificate.
    #[error("is not signed by an authority that is trusted, or the server does not have its key")]
    Signature,
    /// It is for other names.
    #[error("is not for the name {expected}")]
    Name {
        /// The name that it has to be for.
        expected: String,
    },
    /// It was valid until some time ago.
    #[error("has expired")]
    Expired,
    /// It will be valid some time from now.
    #[error("is not valid yet; check this machine's clock")]
    NotYetValid,
    /// Something else is wrong with it.
    #[error("cannot be used: {0}")]
    Other(String),
}

impl Tls {
    pub(super) fn new(additional: RootCertificates) -> Self {
        Self {
            provider: Arc::new(default_provider()),
            additional,
            system: OnceCell::new(),
            files: Mutex::default(),
        }
    }

    /// What a connection to `origin` needs. It is made before the connection is, so that nobody is asked for one that
    /// could not be used.
    pub(super) async fn handshake(&self, origin: &Origin, trust: &Trust) -> Result<Handshake, TlsFault> {
        Ok(Handshake {
            name: server_name(origin, trust)?,
            config: self.config(trust).await?,
        })
    }

    async fn config(&self, trust: &Trust) -> Result<Arc<ClientConfig>, TlsFault> {
        match trust {
            Trust::Thumbprint(thumbprint) => self.pinned(*thumbprint),
            Trust::SystemRoots => self.system().await,
            Trust::Authority(Authority { certificates, .. }) => match certificates {
                AuthorityCertificates::System => self.system().await,
                AuthorityCertificates::Data(certificates) => verified(&self.provider, store(certificates)),
                AuthorityCertificates::File(path) => self.file(path).await,
            },
        }
    }

    fn pinned(&self, thumbprint: [u8; SHA1_OUTPUT_LEN]) -> Result<Arc<ClientConfig>, TlsFault> {
        let verifier = PinnedVerifier {
            thumbprint,
            algorithms: self.provider.signature_verification_algorithms,
        };
        let config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsFault::Protocol(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(finished(config))
    }

    async fn system(&self) -> Result<Arc<ClientConfig>, TlsFault> {
        let load = || async {
            let (provider, additional) = (Arc::clone(&self.provider), self.additional.clone());
            // A system has a hundred or more, in as many files on some.
            blocking(move || verified(&provider, system_store(&additional)?)).await
        };
        self.system.get_or_try_init(load).await.map(Arc::clone)
    }

    async fn file(&self, path: &Path) -> Result<Arc<ClientConfig>, TlsFault> {
        let owned = path.to_owned();
        let read = blocking(move || Ok(read_authority(&owned))).await?;
        let last = self.files().get(path).cloned();
        match (read, last) {
            (Ok(certificates), Some(last)) if certificates == last.certificates => Ok(last.config),
            (Ok(certificates), _) => {
                let config = verified(&self.provider, store(&certificates))?;
                let loaded = Loaded { certificates, config };
                self.files().insert(path.to_owned(), loaded.clone());
                Ok(loaded.config)
            }
            (Err(reason), Some(last)) => {
                tracing::warn!(
                    target: super::client::LOG_TARGET,
                    path = %path.display(),
                    reason,
                    "the certificate of the authority cannot be read again; the last one holds"
                );
                Ok(last.config)
            }
            (Err(reason), None) => Err(TlsFault::Roots(format!(
                "the certificate of its authority, {}, {reason}",
                path.display()
            ))),
        }
    }

    fn files(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Loaded>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what may take a while without delaying other requests.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TlsFault> + Send + 'static,
) -> Result<T, TlsFault> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(TlsFault::Roots(format!("reading certificates failed: {error}"))))
}

/// The certificates in a file, or the end of a sentence that begins with the file.
fn read_authority(path: &Path) -> Result<RootCertificates, String> {
    let cannot_be_read = |error: io::Error| format!("cannot be read: {}", error.kind());
    // Opening a pipe would wait for whoever writes to it.
    if !std::fs::metadata(path).map_err(cannot_be_read)?.is_file() {
        return Err("is no regular file".to_owned());
    }
    let mut pem = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(AUTHORITY_FILE_LIMIT + 1).read_to_end(&mut pem))
        .map_err(cannot_be_read)?;
    if u64::try_from(pem.len()).unwrap_or(u64::MAX) > AUTHORITY_FILE_LIMIT {
        return Err(format!("has more than {AUTHORITY_FILE_LIMIT} bytes"));
    }
    RootCertificates::from_pem_bytes(&pem).map_err(|error: TrustError| error.to_string())
}

fn store(certificates: &RootCertificates) -> RootCertStore {
    let mut store = RootCertStore::empty();
    // All of them were added to a store once before.
    store.add_parsable_certificates(certificates.iter().cloned());
    store
}

fn system_store(additional: &RootCertificates) -> Result<RootCertStore, TlsFault> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(target: super::client::LOG_TARGET, %error, "a certificate of the system cannot be read");
    }
    let mut store = store(additional);
    // Systems keep a few that are older than the rules of today.
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        return Err(TlsFault::Roots(
            "this system trusts no authority; install its package of root certificates (ca-certificates), or name a file \
             of them in SSL_CERT_FILE"
                .to_owned(),
        ));
    }
    Ok(store)
}

fn verified(provider: &Arc<CryptoProvider>, store: RootCertStore) -> Result<Arc<ClientConfig>, TlsFault> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsFault::Protocol(error.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(finished(config))
}

fn finished(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    // A resumed connection would be trusted because of a certificate that may be trusted no more.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// The name that the server's certificate has to be for. A name is also sent to the server, an address is not.
fn server_name(origin: &Origin, trust: &Trust) -> Result<ServerName<'static>, TlsFault> {
    if let Trust::Authority(Authority {
        server_name: Some(name),
        ..
    }) = trust
    {
        return Ok(name.clone());
    }
    match origin.host() {
        Host::Ipv4(address) => Ok(ServerName::from(IpAddr::from(*address))),
        Host::Ipv6(address) => Ok(ServerName::from(IpAddr::from(*address))),
        Host::Domain(name) => ServerName::try_from(name.clone())
            .map_err(|_| TlsFault::Protocol(format!("{name} is no name that a certificate can be for"))),
    }
}

/// Takes exactly one certificate, and looks at nothing in it but its key.
#[derive(Debug)]
struct PinnedVerifier {
    thumbprint: [u8; SHA1_OUTPUT_LEN],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = digest(&SHA1_FOR_LEGACY_USE_ONLY, end_entity);
        if equal(found.as_ref(), &self.thumbprint) {
            return Ok(ServerCertVerified::assertion());
        }
        let found = found.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        let fault = CertificateFault::Thumbprint { found };
        Err(CertificateError::Other(OtherError(Arc::new(fault))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Compares in a time that does not depend on where the first difference is.
fn equal(left: &[u8], right: &[u8]) -> bool {
    let difference = left
        .iter()
        .zip(right)
        .fold(0, |all, (left, right)| black_box(all | (left ^ right)));
    left.len() == right.len() && difference == 0
}

/// The error of the TLS library inside of `error`, which does not name it as its source.
pub(super) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

impl TlsFault {
    /// What the library's error says of a server that goes by `name`.
    pub(super) fn of(error: &rustls::Error, name: impl fmt::Display) -> Self {
        match error {
            rustls::Error::InvalidCertificate(error) => Self::Certificate(CertificateFault::of(error, name)),
            rustls::Error::NoCertificatesPresented => {
                Self::Certificate(CertificateFault::Other("there is none".to_owned()))
            }
            rustls::Error::AlertReceived(alert) => Self::Alert(u8::from(*alert), format!("{alert:?}")),
            rustls::Error::InvalidMessage(_) => Self::Protocol("what it sends is not TLS".to_owned()),
            other => Self::Protocol(other.to_string()),
        }
    }
}

impl CertificateFault {
    fn of(error: &CertificateError, name: impl fmt::Display) -> Self {
        match error {
            CertificateError::UnknownIssuer => Self::UnknownAuthority,
            CertificateError::BadSignature => Self::Signature,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::Name {
                expected: name.to_string(),
            },
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::Other(OtherError(other)) => match other.downcast_ref::<Self>() {
                Some(own) => own.clone(),
                None => Self::Other(other.to_string()),
            },
            other => Self::Other(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_equal_in_every_byte_or_not_at_all() {
        let thumbprint: [u8; SHA1_OUTPUT_LEN] = std::array::from_fn(|index| u8::try_from(index).unwrap_or(0));
        assert!(equal(&thumbprint, &thumbprint));
        for index in 0..SHA1_OUTPUT_LEN {
            let mut other = thumbprint;
            other[index] ^= 0x80;
            assert!(!equal(&thumbprint, &other), "{index}");
        }
        assert!(!equal(&thumbprint, &thumbprint[1..]) && !equal(&thumbprint[1..], &thumbprint));
    }
}
