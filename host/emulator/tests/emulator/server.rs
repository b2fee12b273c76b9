//! The server itself: who may reach it, what it withstands, how it starts and stops.

use std::collections::BTreeMap;
use std::io;

use managed_identity_emulator::{Emulator, EmulatorConfig, Fault, Identities, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{exchange_raw, header_secret, imds, imds_target};
use crate::{VAULT, emulator};

#[tokio::test]
async fn the_environment_leads_to_each_source() {
    let emulator = emulator();
    let base = emulator.base_url();
    assert_eq!(base, format!("http://{}", emulator.listening()));
    let imds = BTreeMap::from([("AZURE_POD_IDENTITY_AUTHORITY_HOST".to_owned(), base.to_owned())]);
    assert_eq!(emulator.environment_for(Source::Imds), imds);
    let app_service = emulator.environment_for(Source::AppService);
    assert_eq!(
        app_service.keys().collect::<Vec<_>>(),
        ["IDENTITY_ENDPOINT", "IDENTITY_HEADER"]
    );
    assert_eq!(app_service["IDENTITY_ENDPOINT"], format!("{base}/msi/token"));
    assert_eq!(emulator.environment(), imds.into_iter().chain(app_service).collect());
}

#[tokio::test]
async fn secrets_differ_between_emulators_and_are_never_printed() {
    let (first, second) = (emulator(), emulator());
    assert_ne!(header_secret(&first), header_secret(&second));
    assert!(!format!("{first:?}").contains(&header_secret(&first)));
}

#[tokio::test]
async fn wrong_configurations_are_refused_with_the_reason() {
    let malformed = Identities {
        tenant_id: "contoso".to_owned(),
        ..Identities::default()
    };
    for (config, named) in [
        (
            EmulatorConfig {
                listen: "0.0.0.0:0".parse().unwrap(),
                ..EmulatorConfig::default()
            },
            "loopback",
        ),
        (
            EmulatorConfig {
                listen: "[::]:0".parse().unwrap(),
                ..EmulatorConfig::default()
            },
            "loopback",
        ),
        (
            EmulatorConfig {
                identities: malformed,
                ..EmulatorConfig::default()
            },
            "contoso",
        ),
    ] {
        let error = Emulator::start(config).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(named), "{error}");
    }
    let taken = emulator();
    let config = EmulatorConfig {
        listen: taken.listening(),
        ..EmulatorConfig::default()
    };
    let error = Emulator::start(config).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&taken.listening().to_string()), "{error}");
}

#[test]
fn starting_without_a_runtime_is_an_error_and_not_a_panic() {
    assert!(
        Emulator::start(EmulatorConfig::default())
            .unwrap_err()
            .to_string()
            .contains("runtime")
    );
}

#[tokio::test]
async fn requests_that_name_another_host_are_refused_everywhere_and_recorded() {
    let emulator = emulator();
    let token = imds_target(VAULT, "");
    for (target, host) in [
        (token.as_str(), "host: attacker.example\r\n"),
        (token.as_str(), "host: attacker.example:80\r\n"),
        (token.as_str(), ""),
        ("/control/requests", "host: attacker.example\r\n"),
        ("/.well-known/openid-configuration", "host: attacker.example\r\n"),
        (
            "http://169.254.169.254/metadata/identity/oauth2/token",
            "host: localhost\r\n",
        ),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\n{host}metadata: true\r\nconnection: close\r\n\r\n");
        let answer = exchange_raw(emulator.listening(), request.as_bytes()).await;
        assert!(
            answer.starts_with(b"HTTP/1.1 400 "),
            "{target} {host}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    let requests = emulator.requests();
    assert_eq!(requests.len(), 6);
    assert!(
        requests
            .iter()
            .all(|request| request.protocol.is_none() && request.status == Some(400)),
        "{requests:?}"
    );
    assert_eq!(emulator.stats().requests, 0);
}

#[tokio::test]
async fn loopback_names_reach_it() {
    let emulator = emulator();
    for host in ["localhost", "127.0.0.1:1", "[::1]", "app.localhost"] {
        let target = imds_target(VAULT, "");
        let request = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nmetadata: true\r\nconnection: close\r\n\r\n");
        let answer = exchange_raw(emulator.listening(), request.as_bytes()).await;
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{host}");
    }
}

#[tokio::test]
async fn garbage_ends_its_own_connection_and_nothing_else() {
    let emulator = emulator();
    let long_header = format!(
        "GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "x".repeat(64 * 1024)
    );
    let many_headers = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(100));
    let every_byte: Vec<u8> = (0..=255).cycle().take(4096).collect();
    for (garbage, status) in [
        (b"\r\n\r\n\0\0\0\0\r\n\r\n".as_slice(), Some("400")),
        (every_byte.as_slice(), Some("400")),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Some("400")),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
        (b"GET / HTTP/9.9\r\n\r\n", Some("400")),
        (b"GET http://[::1 HTTP/1.1\r\nhost: localhost\r\n\r\n", Some("400")),
        (
            b"GET /\xff\xfe HTTP/1.1\r\nhost: \xff\r\nconnection: close\r\n\r\n",
            Some("400"),
        ),
        (
            b"POST /msi/token HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
            Some("400"),
        ),
        (
            b"CONNECT attacker.example:443 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            Some("400"),
        ),
        (
            b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            Some("404"),
        ),
        (long_header.as_bytes(), Some("431")),
        (many_headers.as_bytes(), Some("431")),
    ] {
        let answer = exchange_raw(emulator.listening(), garbage).await;
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(
            text.split(' ').nth(1),
            status,
            "{}",
            String::from_utf8_lossy(&garbage[..garbage.len().min(60)])
        );
    }
    assert_eq!(imds(&emulator, VAULT, "").await.status, 200);
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    let emulator = emulator();
    let mut stream = TcpStream::connect(emulator.listening()).await.unwrap();
    for number in 1..=3 {
        let request = format!("GET /{number} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0);
        }
    }
    let paths: Vec<_> = emulator.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/1", "/2", "/3"]);
    assert_eq!(emulator.stats().connections, 1);
}

#[tokio::test]
async fn stopping_closes_the_port_and_drops_requests_in_progress() {
    for by_drop in [false, true] {
        let emulator = emulator();
        let address = emulator.listening();
        emulator.add_fault(Fault::hang());
        let target = imds_target(VAULT, "");
        let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nmetadata: true\r\n\r\n");
        let hanging = tokio::spawn(async move { exchange_raw(address, request.as_bytes()).await });
        emulator.wait_for_requests(1).await;
        if by_drop {
            drop(emulator);
        } else {
            emulator.shutdown().await;
            assert!(TcpStream::connect(address).await.is_err());
        }
        assert_eq!(hanging.await.unwrap(), b"");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_are_served_at_once() {
    let emulator = std::sync::Arc::new(emulator());
    let clients: Vec<_> = (0..100)
        .map(|number| {
            let emulator = std::sync::Arc::clone(&emulator);
            tokio::spawn(async move { imds(&emulator, &format!("https://{number}.example"), "").await.status })
        })
        .collect();
    for client in clients {
        assert_eq!(client.await.unwrap(), 200);
    }
    let stats = emulator.stats();
    assert_eq!(
        (stats.requests, stats.per_resource.len(), stats.in_flight),
        (100, 100, 0)
    );
}
