//! Endpoints on `https`, against servers with real certificates: which are taken for the right one, and that no other gets a
//! byte of a request.

#![expect(clippy::unwrap_used, reason = "servers and certificates are the tests' own")]

mod certificates;
mod server;

use bytes::Bytes;
use certificates::{Issued, h2_only, presented};
use http::Request;
use http_body_util::{BodyExt, Empty};
use managed_identity_emulator::tls::Certificate;
use managed_identity_host::outbound::{
    Authority, CertificateFault, Endpoint, EndpointPolicy, Outbound, OutboundConfig, OutboundError, RootCertificates,
    Trust,
};
use managed_identity_host::{Broker, Cause, TokenRequest};
use managed_identity_test_guests::{HOSTILE_0_2, HOSTILE_0_3};
use rustls::version::{TLS12, TLS13};
use server::Server;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wasmtime_wasi_http::{Error as WasiError, RequestOptions};

/// What is waited for where a test waits for a limit.
const SHORT: Duration = Duration::from_millis(40);

fn endpoint(url: &str, trust: &Trust) -> Endpoint {
    Endpoint::from_environment(url)
        .unwrap()
        .with_trust(trust.clone())
        .unwrap()
}

/// A client for one endpoint, which trusts `roots` besides the system's.
fn client(url: &str, trust: &Trust, roots: &RootCertificates) -> Outbound {
    let policy = EndpointPolicy::from_iter([endpoint(url, trust)]).with_root_certificates(roots.clone());
    Outbound::new(policy, OutboundConfig::default())
}

async fn fetch(client: &Outbound, url: &str) -> Result<Bytes, OutboundError> {
    let request = Request::get(url)
        .header("x-identity-header", "s3cr3t")
        .body(Empty::<Bytes>::new());
    let response = client.send(request.unwrap(), RequestOptions::default()).await?;
    Ok(response.into_body().collect().await?.to_bytes())
}

fn roots(certificate: &Certificate) -> RootCertificates {
    RootCertificates::from_pem(certificate.authority_pem()).unwrap()
}

/// The thumbprint as the policy takes it.
fn pin(thumbprint: &str) -> Trust {
    let bytes: Vec<u8> = (0..thumbprint.len())
        .step_by(2)
        .map(|index| u8::from_str_radix(&thumbprint[index..index + 2], 16).unwrap())
        .collect();
    Trust::Thumbprint(bytes.try_into().unwrap())
}

/// A certificate for the names that a server on loopback goes by.
fn local() -> Certificate {
    Certificate::issue(["localhost", "127.0.0.1"]).unwrap()
}

#[tokio::test]
async fn a_server_that_proves_to_be_the_right_one_gets_the_request() {
    let (certificate, other) = (local(), local());
    let foreign = Certificate::issue(["elsewhere.example"]).unwrap();
    let expired = Issued::until(2021);
    let data = |certificate: &Certificate| Trust::Authority(Authority::from_certificates(roots(certificate)));
    for (what, presented, trust, additional) in [
        (
            "an authority beside the system's",
            presented(&certificate),
            Trust::SystemRoots,
            &roots(&other).and(&roots(&certificate)),
        ),
        (
            "one authority",
            presented(&certificate),
            data(&certificate),
            &RootCertificates::default(),
        ),
        (
            "a pin",
            presented(&certificate),
            pin(&certificate.thumbprint()),
            &RootCertificates::default(),
        ),
        (
            "a pin, and a name of elsewhere",
            presented(&foreign),
            pin(&foreign.thumbprint()),
            &RootCertificates::default(),
        ),
        (
            "a pin, and a certificate of yesterday",
            expired.presented(&[&TLS13]),
            pin(&expired.thumbprint()),
            &RootCertificates::default(),
        ),
        (
            "a pin, and TLS 1.2",
            expired.presented(&[&TLS12]),
            pin(&expired.thumbprint()),
            &RootCertificates::default(),
        ),
    ] {
        let mut server = Server::start(presented).await;
        let url = server.url("127.0.0.1");
        let fetched = fetch(&client(&url, &trust, additional), &url).await;
        assert_eq!(fetched.unwrap(), "{}", "{what}");
        let visit = server.visit().await;
        assert!(
            visit.request.starts_with("GET /token HTTP/1.1\r\n"),
            "{what}: {visit:?}"
        );
        assert_eq!(visit.protocol.as_deref(), Some("http/1.1"), "{what}");
    }
}

#[tokio::test]
async fn another_server_is_refused_and_gets_nothing_of_the_request() {
    use CertificateFault::{Expired, Name, Signature, Thumbprint, UnknownAuthority};
    let (certificate, other) = (local(), local());
    let foreign = Certificate::issue(["elsewhere.example", "127.0.0.2"]).unwrap();
    let expired = Issued::until(2021);
    let data = |certificate: &Certificate| Trust::Authority(Authority::from_certificates(roots(certificate)));
    let expired_root = RootCertificates::from_pem(expired.authority_pem()).unwrap();
    let none = RootCertificates::default();
    let name = || Name {
        expected: "127.0.0.1".to_owned(),
    };
    let found = |thumbprint: String| Thumbprint { found: thumbprint };
    for (what, presented, trust, additional, fault) in [
        (
            "another pin",
            presented(&certificate),
            pin(&other.thumbprint()),
            &roots(&certificate),
            found(certificate.thumbprint()),
        ),
        (
            "a pin that differs at its end",
            presented(&certificate),
            pin(&format!("{}{}", &certificate.thumbprint()[..38], {
                if certificate.thumbprint().ends_with("00") {
                    "01"
                } else {
                    "00"
                }
            })),
            &none,
            found(certificate.thumbprint()),
        ),
        (
            "a pin without its key, TLS 1.3",
            expired.copied(&[&TLS13]),
            pin(&expired.thumbprint()),
            &none,
            Signature,
        ),
        (
            "a pin without its key, TLS 1.2",
            expired.copied(&[&TLS12]),
            pin(&expired.thumbprint()),
            &none,
            Signature,
        ),
        (
            "the system's authorities and another",
            presented(&certificate),
            Trust::SystemRoots,
            &expired_root,
            UnknownAuthority,
        ),
        (
            "another authority of the same name",
            presented(&certificate),
            data(&other),
            &none,
            Signature,
        ),
        // What is added to the system's authorities does not add to the one that was given.
        (
            "one authority, and another beside the system's",
            presented(&certificate),
            data(&other),
            &roots(&certificate),
            Signature,
        ),
        (
            "another name",
            presented(&foreign),
            Trust::SystemRoots,
            &roots(&foreign),
            name(),
        ),
        (
            "one authority and another name",
            presented(&foreign),
            data(&foreign),
            &none,
            name(),
        ),
        (
            "a certificate of yesterday",
            expired.presented(&[&TLS13]),
            Trust::SystemRoots,
            &expired_root,
            Expired,
        ),
    ] {
        let mut server = Server::start(presented).await;
        let url = server.url("127.0.0.1");
        let client = client(&url, &trust, additional);
        let error = fetch(&client, &url).await.unwrap_err();
        let message = error.to_string();
        assert!(
            matches!(&error, OutboundError::Certificate { fault: found, .. } if *found == fault),
            "{what}: {error:?}"
        );
        assert_eq!(client.last_tls_failure(), Some(message), "{what}");
        assert!(matches!(WasiError::from(error), WasiError::TlsCertificateError));
        let visit = server.visit().await;
        assert_eq!(
            (visit.completed, visit.request.as_str()),
            (false, ""),
            "{what}: {visit:?}"
        );
    }
}

#[tokio::test]
async fn the_strictest_trust_of_an_origin_holds_for_all_its_paths() {
    let certificate = local();
    let mut server = Server::start(presented(&certificate)).await;
    let url = server.url("127.0.0.1");
    let granted = Endpoint::granted(&url).unwrap();
    let policy = EndpointPolicy::from_iter([granted, endpoint(&url, &pin(&local().thumbprint()))])
        .with_root_certificates(roots(&certificate));
    let client = Outbound::new(policy, OutboundConfig::default());
    let error = fetch(&client, &format!("{url}/below")).await.unwrap_err();
    assert!(error.to_string().contains(&certificate.thumbprint()), "{error}");
    assert_eq!(server.visit().await.request, "");
}

#[tokio::test]
async fn a_server_is_told_the_name_that_it_has_to_prove() {
    let certificate = Certificate::issue(["localhost", "127.0.0.1", "proxy.example"]).unwrap();
    let data = Authority::from_certificates(roots(&certificate));
    let named = |name| Trust::Authority(data.clone().with_server_name(name).unwrap());
    let system = Authority::system().with_server_name("proxy.example").unwrap();
    for (host, trust, name) in [
        ("localhost", Trust::SystemRoots, Some("localhost")),
        ("localhost", Trust::Authority(data.clone()), Some("localhost")),
        ("localhost", pin(&certificate.thumbprint()), Some("localhost")),
        // An address is no server name (RFC 6066 section 3).
        ("127.0.0.1", Trust::SystemRoots, None),
        ("127.0.0.1", named("proxy.example"), Some("proxy.example")),
        ("localhost", named("proxy.example"), Some("proxy.example")),
        ("localhost", named("127.0.0.1"), None),
        ("localhost", Trust::Authority(system), Some("proxy.example")),
    ] {
        let mut server = Server::start(presented(&certificate)).await;
        let url = server.url(host);
        fetch(&client(&url, &trust, &roots(&certificate)), &url).await.unwrap();
        let visit = server.visit().await;
        assert_eq!(visit.server_name.as_deref(), name, "{host} {trust:?}");
        let authority = url.trim_start_matches("https://").trim_end_matches("/token");
        assert!(visit.request.contains(&format!("host: {authority}\r\n")), "{visit:?}");
    }
    let mut server = Server::start(presented(&certificate)).await;
    let url = server.url("localhost");
    let trust = named("other.example");
    let error = fetch(&client(&url, &trust, &roots(&certificate)), &url).await;
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("is not for the name other.example")
    );
    assert_eq!(server.visit().await.server_name.as_deref(), Some("other.example"));
}

/// A file of its own for each test.
fn file(test: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("authority-{test}-{}.pem", std::process::id()))
}

#[tokio::test]
async fn the_file_of_an_authority_is_read_for_each_connection() {
    let (first, second) = (local(), local());
    let path = file("rotated");
    let mut server = Server::start(presented(&first)).await;
    let url = server.url("127.0.0.1");
    std::fs::write(&path, first.authority_pem()).unwrap();
    let client = client(
        &url,
        &Trust::Authority(Authority::from_file(&path)),
        &RootCertificates::default(),
    );
    fetch(&client, &url).await.unwrap();

    // In the middle of a rotation, what was read last holds.
    let too_large = second
        .authority_pem()
        .repeat(1 + 1024 * 1024 / second.authority_pem().len());
    for unusable in [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\nMIIB",
        "-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----\n",
        &too_large,
    ] {
        std::fs::write(&path, unusable).unwrap();
        fetch(&client, &url).await.unwrap();
    }
    std::fs::remove_file(&path).unwrap();
    fetch(&client, &url).await.unwrap();

    // Once rotated, the old one is trusted no more.
    std::fs::write(&path, second.authority_pem()).unwrap();
    let error = fetch(&client, &url).await.unwrap_err();
    assert!(matches!(error, OutboundError::Certificate { .. }), "{error:?}");
    server.present(presented(&second));
    fetch(&client, &url).await.unwrap();
    let both = format!("{}{}", first.authority_pem(), second.authority_pem());
    std::fs::write(&path, both).unwrap();
    server.present(presented(&first));
    fetch(&client, &url).await.unwrap();
    std::fs::remove_file(&path).unwrap();

    let mut completed = Vec::new();
    for _ in 0..10 {
        completed.push(server.visit().await.completed);
    }
    assert_eq!(completed, [true, true, true, true, true, true, true, false, true, true]);
}

#[tokio::test]
async fn an_authority_that_cannot_be_read_at_first_is_an_error_and_nobody_is_asked() {
    let certificate = local();
    let path = file("first");
    let mut server = Server::start(presented(&certificate)).await;
    let url = server.url("127.0.0.1");
    let trust = Trust::Authority(Authority::from_file(&path));
    let client = client(&url, &trust, &roots(&certificate));
    let too_large = certificate
        .authority_pem()
        .repeat(1 + 1024 * 1024 / certificate.authority_pem().len());
    for (text, words) in [
        (None, "entity not found"),
        (Some(""), "is missing"),
        (Some("-----BEGIN CERTIFICATE-----\nMIIB"), "broken off"),
        (Some(too_large.as_str()), "more than 1048576 bytes"),
    ] {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let error = fetch(&client, &url).await.unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(words) && message.contains(path.to_str().unwrap()),
            "{message}"
        );
        assert!(matches!(error, OutboundError::Authority { .. }));
        assert!(matches!(WasiError::from(error), WasiError::ConfigurationError));
    }
    std::fs::write(&path, certificate.authority_pem()).unwrap();
    fetch(&client, &url).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    // The first that came is the one that succeeded.
    assert!(server.visit().await.completed);

    let folder = Trust::Authority(Authority::from_file(env!("CARGO_TARGET_TMPDIR")));
    let error = fetch(&self::client(&url, &folder, &RootCertificates::default()), &url).await;
    assert!(error.unwrap_err().to_string().contains("is no regular file"));
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/token", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut received = vec![0; 4096];
        let length = stream.read(&mut received).await.unwrap();
        received.truncate(length);
        let reply = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(reply).await.unwrap();
        stream.read_to_end(&mut received).await.ok();
        received
    });
    let error = fetch(
        &client(&url, &pin(&local().thumbprint()), &RootCertificates::default()),
        &url,
    )
    .await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
    assert!(matches!(WasiError::from(error), WasiError::TlsProtocolError));
    let received = server.await.unwrap();
    assert!(!received.is_empty() && !received.windows(6).any(|bytes| bytes == b"s3cr3t"));
}

#[tokio::test]
async fn a_server_that_refuses_the_handshake_is_quoted() {
    let certificate = local();
    let strict = Issued::until(4000);
    for (presented, thumbprint, code, name) in [
        (
            h2_only(&certificate),
            certificate.thumbprint(),
            120,
            "NoApplicationProtocol",
        ),
        (
            strict.wanting_client_certificates(),
            strict.thumbprint(),
            116,
            "CertificateRequired",
        ),
    ] {
        let server = Server::start(presented).await;
        let url = server.url("127.0.0.1");
        let client = client(&url, &pin(&thumbprint), &RootCertificates::default());
        let error = fetch(&client, &url).await.unwrap_err();
        assert!(error.to_string().contains(&format!("alert {code} ({name})")), "{error}");
        let error = WasiError::from(error);
        assert!(
            matches!(&error, WasiError::TlsAlertReceived { alert_id: Some(id), .. } if *id == code),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_slow_handshake_counts_against_the_time_to_connect() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/token", listener.local_addr().unwrap());
    let trust = pin(&local().thumbprint());
    let policy = || EndpointPolicy::from_iter([endpoint(&url, &trust)]);
    let request = || Request::get(&url).body(Empty::<Bytes>::new()).unwrap();
    // The listener takes connections and says nothing.
    let by_host = Outbound::new(
        policy(),
        OutboundConfig {
            connect_timeout: SHORT,
            ..OutboundConfig::default()
        },
    );
    let error = by_host.send(request(), RequestOptions::default()).await.unwrap_err();
    assert!(matches!(error, OutboundError::ConnectTimeout { .. }), "{error:?}");
    let by_component = RequestOptions {
        connect_timeout: Some(SHORT),
        ..RequestOptions::default()
    };
    let patient = Outbound::new(policy(), OutboundConfig::default());
    let error = patient.send(request(), by_component).await.unwrap_err();
    assert!(matches!(error, OutboundError::ConnectTimeout { .. }), "{error:?}");
}

#[tokio::test]
async fn a_connection_with_tls_is_kept_and_used_again() {
    let certificate = local();
    let mut server = Server::keeping_connections(presented(&certificate)).await;
    let url = server.url("127.0.0.1");
    let client = client(&url, &Trust::SystemRoots, &roots(&certificate));
    for _ in 0..3 {
        assert_eq!(fetch(&client, &url).await.unwrap(), "{}");
    }
    drop(client);
    assert_eq!(server.visit().await.request.matches("GET /token").count(), 3);
}

#[tokio::test]
async fn a_component_reaches_a_granted_endpoint_on_https_and_only_the_right_server() {
    for guest in [HOSTILE_0_2, HOSTILE_0_3] {
        let certificate = local();
        let mut server = Server::start(presented(&certificate)).await;
        let url = server.url("127.0.0.1");
        let authority = url.trim_start_matches("https://").trim_end_matches("/token");
        for (trusted, outcome) in [(local(), "TlsCertificateError"), (certificate, "status 200")] {
            let broker = Broker::builder()
                .provider(guest)
                .compilation_cache(None)
                .environment([("", ""); 0])
                .allow_endpoint(&url)
                .unwrap()
                .root_certificates(trusted.authority_pem())
                .unwrap()
                .build()
                .unwrap();
            let order = ["send", "GET", "https", authority, "/token"].join("\u{1f}");
            let error = broker.token(&TokenRequest::new(order)).await.unwrap_err();
            assert!(error.message.contains(outcome), "{}", error.message);
            assert_eq!(server.visit().await.completed, outcome == "status 200");
        }
    }
}

#[tokio::test]
async fn a_caller_is_told_what_is_wrong_with_a_certificate() {
    let certificate = local();
    let server = Server::start(presented(&certificate)).await;
    let broker = Broker::builder()
        .environment([
            ("IDENTITY_ENDPOINT", server.url("127.0.0.1")),
            ("IDENTITY_HEADER", "s3cr3t".to_owned()),
        ])
        .compilation_cache(None)
        .root_certificates(local().authority_pem())
        .unwrap()
        .build()
        .unwrap();
    let request = TokenRequest::new("https://vault.azure.net").with_timeout(Duration::from_secs(1));
    let error = broker.token(&request).await.unwrap_err();
    assert_eq!(error.cause, Cause::EndpointIntercepted, "{error:?}");
    assert!(
        error.message.contains("its certificate is not signed by"),
        "{}",
        error.message
    );
}
