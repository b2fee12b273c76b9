//! An HTTP client of a few lines, which sends exactly what a test says and shows exactly what comes back.

use std::net::SocketAddr;
use std::sync::Arc;

use managed_identity_emulator::tls::Certificate;
use managed_identity_emulator::{Emulator, KeyVault};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Everything that came back on a connection, up to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as sent, chunk headers included if it came in chunks.
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Some(Self {
            status,
            headers,
            body: bytes[end + 4..].to_vec(),
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(sent, _)| sent == name)
            .map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(
            self.header("content-type"),
            Some("application/json; charset=utf-8"),
            "{self:?}"
        );
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Sends bytes and the end of the stream, and reads to the end of the stream.
pub(crate) async fn exchange_raw(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may refuse and close before it has read everything; what it sent until then counts.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let mut chunk = [0; 8192];
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        answer.extend_from_slice(&chunk[..read]);
    }
    answer
}

/// Sends a request and reads the answer; `None` if there was none.
pub(crate) async fn try_send(
    emulator: &Emulator,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<Answer> {
    let request = request(emulator.listening(), method, target, headers, body);
    Answer::parse(&exchange_raw(emulator.listening(), request.as_bytes()).await)
}

fn request(host: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut request = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    request.push_str(body);
    request
}

/// A request over TLS, to a server that the client thinks has this name; `None` if there was no answer.
pub(crate) async fn try_send_tls(
    emulator: &Emulator,
    server_name: &str,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<Answer> {
    let address = emulator.tls_listening().unwrap();
    let request = request(address, method, target, headers, body);
    exchange_tls(address, emulator.certificate().unwrap(), server_name, &request).await
}

/// A request to a vault.
pub(crate) async fn ask_vault(vault: &KeyVault, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    let request = request(vault.listening(), method, target, headers, "");
    exchange_tls(vault.listening(), vault.certificate(), "localhost", &request)
        .await
        .unwrap()
}

/// The same without TLS, at a URL that [`KeyVault::serve_plain`] returned.
pub(crate) async fn ask_plain_vault(base_url: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    let address = base_url.strip_prefix("http://").unwrap().parse().unwrap();
    let request = request(address, "GET", target, headers, "");
    Answer::parse(&exchange_raw(address, request.as_bytes()).await).unwrap()
}

async fn exchange_tls(
    address: SocketAddr,
    certificate: &Certificate,
    server_name: &str,
    request: &str,
) -> Option<Answer> {
    let mut roots = RootCertStore::empty();
    let pem = certificate.authority_pem();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(server_name.to_owned()).unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    // A stream that ends without saying so counts as far as it came.
    let _ = stream.read_to_end(&mut answer).await;
    Answer::parse(&answer)
}

/// A form, sent to the port with TLS.
pub(crate) async fn post_tls(emulator: &Emulator, server_name: &str, target: &str, form: &str) -> Answer {
    try_send_tls(emulator, server_name, "POST", target, &[FORM], form)
        .await
        .unwrap()
}

pub(crate) const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// The path and query of a URL.
pub(crate) fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").unwrap().1;
    &rest[rest.find('/').unwrap()..]
}

pub(crate) async fn get(emulator: &Emulator, target: &str, headers: &[(&str, &str)]) -> Answer {
    try_send(emulator, "GET", target, headers, "").await.unwrap()
}

/// A token request to IMDS, complete but for what the test adds to the query.
pub(crate) async fn imds(emulator: &Emulator, resource: &str, query: &str) -> Answer {
    get(emulator, &imds_target(resource, query), &[("metadata", "true")]).await
}

pub(crate) fn imds_target(resource: &str, query: &str) -> String {
    format!(
        "/metadata/identity/oauth2/token?api-version=2018-02-01&resource={}{query}",
        encoded(resource)
    )
}

/// A token request to App Service, complete but for what the test adds to the query.
pub(crate) async fn app_service(emulator: &Emulator, resource: &str, query: &str) -> Answer {
    let secret = header_secret(emulator);
    get(
        emulator,
        &app_service_target(resource, query),
        &[("x-identity-header", &secret)],
    )
    .await
}

pub(crate) fn app_service_target(resource: &str, query: &str) -> String {
    format!(
        "/msi/token?api-version=2019-08-01&resource={}{query}",
        encoded(resource)
    )
}

pub(crate) fn header_secret(emulator: &Emulator) -> String {
    emulator.environment().remove("IDENTITY_HEADER").unwrap()
}

/// Percent-encodes what has a meaning in a query.
pub(crate) fn encoded(value: &str) -> String {
    value
        .replace('%', "%25")
        .replace(':', "%3A")
        .replace('/', "%2F")
        .replace('&', "%26")
        .replace(' ', "%20")
}

/// A JSON request to the control endpoint.
pub(crate) async fn control(emulator: &Emulator, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let headers = [("content-type", "application/json")];
    try_send(emulator, method, &format!("/control/{path}"), &headers, &body)
        .await
        .unwrap()
}

/// The names of the members of an object, sorted.
pub(crate) fn names(object: &Value) -> Vec<&str> {
    let mut names: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}
