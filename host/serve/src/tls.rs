//! The certificates that listeners show.

use crate::config::TlsFiles;
use crate::telemetry::LOG_TARGET;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{} cannot be read: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A file has not what it should have.
    #[error("{} {problem}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The files do not belong together, or are of a kind that is not known.
    #[error("the certificate {} cannot be used with the key {}: {error}", certificate.display(), key.display())]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What the TLS library says.
        error: rustls::Error,
    },
}

/// The certificate of one listener, as it was last read. Cheap to clone; clones share it.
#[derive(Clone)]
pub(crate) struct Certificate(Arc<ArcSwap<ServerConfig>>);

impl Certificate {
    pub(crate) fn read(files: &TlsFiles, has_http2: bool) -> Result<Self, CertificateError> {
        server_config(files, has_http2).map(|config| Self(Arc::new(ArcSwap::new(config))))
    }

    /// What is shown to the next connection.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.0.load_full()
    }

    /// Shows this to connections that begin from now on.
    pub(crate) fn replace(&self, config: Arc<ServerConfig>) {
        self.0.store(config);
    }
}

/// Reads the files. Where HTTP/2 is spoken, clients that offer both are given that.
pub(crate) fn server_config(files: &TlsFiles, has_http2: bool) -> Result<Arc<ServerConfig>, CertificateError> {
    let malformed = |file: &Path, problem| CertificateError::Malformed {
        file: file.to_owned(),
        problem,
    };
    let certificates = CertificateDer::pem_slice_iter(&read(&files.certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| malformed(&files.certificate, "is no PEM file"))?;
    if certificates.is_empty() {
        return Err(malformed(
            &files.certificate,
            "has no certificate in it (BEGIN CERTIFICATE)",
        ));
    }
    let key = PrivateKeyDer::from_pem_slice(&zeroize::Zeroizing::new(read(&files.key)?)).map_err(|_| {
        malformed(
            &files.key,
            "has no private key in it that can be used (BEGIN PRIVATE KEY, without a passphrase)",
        )
    })?;
    warn_of_readers(&files.key);
    let unusable = |error| CertificateError::Unusable {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        error,
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(unusable)?;
    let spoken: &[&[u8]] = if has_http2 {
        &[b"h2", b"http/1.1"]
    } else {
        &[b"http/1.1"]
    };
    config.alpn_protocols = spoken.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

fn read(file: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(file).map_err(|error| CertificateError::Unreadable {
        file: file.to_owned(),
        error,
    })
}

/// Whoever reads the key can pass for this server.
#[cfg(unix)]
fn warn_of_readers(key: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(key).map_or(0, |key| key.permissions().mode());
    if mode & 0o044 != 0 {
        tracing::warn!(
            target: LOG_TARGET,
            key = %key.display(),
            mode = format!("{:o}", mode & 0o7777),
            "the private key can be read by other users than its owner; `chmod 600` it"
        );
    }
}

#[cfg(not(unix))]
fn warn_of_readers(_key: &Path) {}
