//! Servers on real sockets.
#![expect(clippy::unwrap_used, reason = "a test fails where something is not as expected")]

use super::{Listening, ServeError, Server, url};
use crate::config::{Address, Config, ListenerConfig, Protocol, TlsFiles};
use managed_identity_host::Broker;
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const REQUEST: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn broker() -> Broker {
    Broker::builder()
        .environment([
            ("IDENTITY_ENDPOINT", "http://127.0.0.1:9/msi/token"),
            ("IDENTITY_HEADER", "x"),
        ])
        .build()
        .unwrap()
}

/// A key and a certificate for `localhost`, in files.
struct Files {
    folder: PathBuf,
    files: TlsFiles,
}

impl Files {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("managed-identity-serve-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let files = TlsFiles {
            certificate: folder.join("certificate.pem"),
            key: folder.join("key.pem"),
        };
        Self { folder, files }
    }

    fn issue(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["localhost".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        std::fs::write(&self.files.certificate, certificate.pem()).unwrap();
        std::fs::write(&self.files.key, key.serialize_pem()).unwrap();
        certificate.der().clone()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn health(tls: Option<TlsFiles>) -> Config {
    let mut config = Config::default();
    let listener = ListenerConfig {
        address: Address::Tcp("127.0.0.1:0".parse().unwrap()),
        protocols: vec![Protocol::Health],
        caller: None,
        callers: None,
        tls,
        hosts: Vec::new(),
    };
    config.listeners.insert("health".to_owned(), listener);
    config
}

/// What a client gets that trusts only this certificate.
async fn over_tls(address: SocketAddr, trusted: &CertificateDer<'static>) -> std::io::Result<String> {
    let (mut stream, protocol) = connect(address, trusted, &["h2", "http/1.1"]).await?;
    assert_eq!(protocol, "http/1.1");
    stream.write_all(REQUEST).await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    Ok(reply)
}

/// A connection of a client that offers these protocols, and which of them is taken.
async fn connect(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    offered: &[&str],
) -> std::io::Result<(TlsStream<TcpStream>, String)> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let protocol = stream.get_ref().1.alpn_protocol().unwrap_or_default();
    let protocol = String::from_utf8(protocol.to_vec()).unwrap();
    Ok((stream, protocol))
}

#[tokio::test]
async fn over_tls_the_services_of_envoy_are_spoken_in_http2_and_http1() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const SETTINGS: u8 = 4;
    let files = Files::new("alpn");
    let certificate = files.issue();
    let (certificate_file, key_file) = (files.files.certificate.display(), files.files.key.display());
    let config: String = ["envoy-ext-authz", "envoy-sds", "imds"]
        .map(|protocol| {
            format!(
                "[listener.{protocol}]\naddress = '127.0.0.1:0'\nprotocols = ['{protocol}']\ncaller = 'envoy'\n\
                 tls = {{ certificate = '{certificate_file}', key = '{key_file}' }}\n"
            )
        })
        .concat();
    let audience = "https://vault.azure.net";
    let config = format!(
        "{config}[secret.vault]\ncaller = 'envoy'\naudience = '{audience}'\n[caller.envoy]\n\
         [[caller.envoy.token]]\naudiences = ['{audience}']\n"
    );
    let config = Config::from_toml(&config).unwrap();
    let server = Server::bind(&config, broker(), None).unwrap();
    let listening = server.listening().to_vec();
    let control = server.control();
    let (end, ended) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async move {
        let _ = ended.await;
    }));
    // A reload reads the certificate again, and with it what is spoken.
    for _ in 0..2 {
        for Listening { protocol, address, .. } in &listening {
            let address = address.parse().unwrap();
            for offered in [
                &["h2", "http/1.1"][..],
                &["http/1.1", "h2"],
                &["h2"],
                &["http/1.1"],
                &[],
            ] {
                let connected = connect(address, &certificate, offered).await;
                let expected = match (protocol.has_grpc(), offered) {
                    (true, offered) if offered.contains(&"h2") => "h2",
                    (false, ["h2"]) => {
                        assert!(connected.is_err(), "{protocol}: HTTP/2 is promised");
                        continue;
                    }
                    (_, []) => "",
                    _ => "http/1.1",
                };
                let (mut stream, taken) = connected.unwrap();
                assert_eq!(taken, expected, "{protocol} {offered:?}");
                if taken == "h2" {
                    stream.write_all(PREFACE).await.unwrap();
                    let mut frame = [0; 9];
                    stream.read_exact(&mut frame).await.unwrap();
                    assert_eq!(frame[3], SETTINGS, "{protocol} {offered:?}");
                } else {
                    stream.write_all(REQUEST).await.unwrap();
                    let mut reply = String::new();
                    stream.read_to_string(&mut reply).await.unwrap();
                    assert!(reply.starts_with("HTTP/1.1 4"), "{protocol} {offered:?}: {reply}");
                }
            }
        }
        control.reload(&config).unwrap();
    }
    end.send(()).unwrap();
    running.await.unwrap();
}

#[tokio::test]
async fn a_rotated_certificate_is_shown_after_a_reload_and_a_broken_one_never() {
    let files = Files::new("tls");
    let first = files.issue();
    let config = health(Some(files.files.clone()));
    let server = Server::bind(&config, broker(), None).unwrap();
    let address: SocketAddr = server.listening()[0].address.parse().unwrap();
    let url = server.listening()[0].url.clone();
    assert_eq!(url, Some(format!("https://{address}/readyz")));
    let control = server.control();
    let (end, ended) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async move {
        let _ = ended.await;
    }));
    let answered = |reply: std::io::Result<String>| reply.is_ok_and(|reply| reply.starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(answered(over_tls(address, &first).await));

    // Not before it is told to.
    let second = files.issue();
    assert!(answered(over_tls(address, &first).await));
    control.reload(&config).unwrap();
    assert!(answered(over_tls(address, &second).await));
    assert!(over_tls(address, &first).await.is_err());

    std::fs::write(&files.files.certificate, "-----BEGIN CERTIFICATE-----\n").unwrap();
    assert!(matches!(control.reload(&config), Err(ServeError::Certificate { .. })));
    assert!(answered(over_tls(address, &second).await));

    // Who speaks no TLS gets nothing, and harms nobody.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(REQUEST).await.unwrap();
    let mut bytes = Vec::new();
    // A reset, or an alert.
    let _ = plain.read_to_end(&mut bytes).await;
    assert!(!bytes.starts_with(b"HTTP"));
    assert!(answered(over_tls(address, &second).await));

    end.send(()).unwrap();
    running.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_certificate_that_cannot_be_shown_is_named() {
    let files = Files::new("bad-tls");
    files.issue();
    let TlsFiles { certificate, key } = &files.files;
    let (good_certificate, good_key) = (std::fs::read(certificate).unwrap(), std::fs::read(key).unwrap());
    let other = KeyPair::generate().unwrap().serialize_pem();
    // The files' contents, the file that is named, and with which words.
    let cases: [(&[u8], &[u8], _, _); 4] = [
        (b"nothing", &good_key, certificate, "has no certificate in it"),
        (&good_certificate, b"nothing", key, "has no private key in it"),
        (&good_certificate, &good_certificate, key, "has no private key in it"),
        (&good_certificate, other.as_bytes(), key, "cannot be used with the key"),
    ];
    for (written_certificate, written_key, named, words) in cases {
        std::fs::write(certificate, written_certificate).unwrap();
        std::fs::write(key, written_key).unwrap();
        let error = Server::bind(&health(Some(files.files.clone())), broker(), None)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(&named.display().to_string()) && error.contains(words),
            "{error}"
        );
        assert!(!error.contains("BEGIN PRIVATE KEY-----\n"), "{error}");
    }
    std::fs::remove_file(key).unwrap();
    let error = Server::bind(&health(Some(files.files.clone())), broker(), None)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains(&key.display().to_string()), "{error}");
}

#[test]
fn clients_are_given_urls() {
    let cases = [
        (
            Protocol::AppService,
            false,
            "127.0.0.1:4141",
            "http://127.0.0.1:4141/msi/token",
        ),
        (Protocol::AppService, true, "[::1]:4141", "https://[::1]:4141/msi/token"),
        (Protocol::Imds, false, "127.0.0.1:4242", "http://127.0.0.1:4242"),
        (Protocol::EnvoyExtAuthz, false, "127.0.0.1:1", "http://127.0.0.1:1"),
        (Protocol::Metrics, false, "127.0.0.1:1", "http://127.0.0.1:1/metrics"),
        (Protocol::Health, true, "0.0.0.0:1", "https://0.0.0.0:1/readyz"),
    ];
    for (protocol, is_tls, address, expected) in cases {
        assert_eq!(url(protocol, is_tls, address), expected);
    }
}
