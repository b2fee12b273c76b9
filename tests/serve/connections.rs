//! Connections: clients that are broken, many, or under way when the server ends.

use crate::exchange;
use crate::support::emulated::Emulated;
use crate::support::served::Served;
use managed_identity_emulator::{Fault, Source};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

const TOKEN: &str = "GET /msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\n\
                     Host: localhost\r\nX-IDENTITY-HEADER: any\r\nConnection: close\r\n\r\n";

fn start(platform: &Emulated, address: &str) -> Served {
    let arguments = ["--app-service", address, "--allow", "https://vault.azure.net"];
    Served::start(platform, Source::AppService, &arguments, &["app-service"])
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn gets_a_token(address: SocketAddr) {
    let reply = exchange(address, TOKEN);
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
}

#[test]
fn broken_clients_get_a_refusal_or_nothing_and_others_their_tokens() {
    let platform = Emulated::start();
    let served = start(&platform, "127.0.0.1:0");
    let address = served.address("app-service");
    let endless = format!(
        "GET /msi/token HTTP/1.1\r\nHost: localhost\r\nX: {}",
        "y".repeat(1024 * 1024)
    );
    let large = format!(
        "GET /msi/token HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "y".repeat(1024 * 1024)
    );
    let authorized = |target: &str, more: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nX-IDENTITY-HEADER: any\r\n{more}\r\n").into_bytes()
    };
    let good = "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net";
    let absolute = format!("http://169.254.169.254{good}");
    let mut invalid = authorized(good, "X: ?\r\n");
    let at = invalid.iter().rposition(|byte| *byte == b'?').unwrap();
    invalid[at] = 0xff;
    let cases: &[(&str, &[u8])] = &[
        ("nothing", b""),
        ("half a request", b"GET /msi/token HTTP/1.1\r\nHost: local"),
        ("HTTP/0.9", b"GET /msi/token\r\n"),
        (
            "HTTP/2",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        ),
        ("TLS", b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03"),
        ("a megabyte of header", large.as_bytes()),
        ("a megabyte of header that does not end", endless.as_bytes()),
        ("an absolute target", &authorized(&absolute, "")),
        ("a tunnel", &authorized("vault.azure.net:443", "")),
        (
            "bytes that are no text in the target",
            b"GET /msi/token?resource=\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ),
        ("bytes that are no text in a field", &invalid),
        ("a null", &authorized(good, "X: a\0b\r\n")),
        ("a bare carriage return", &authorized(good, "X: a\rb\r\n")),
        ("a folded field", &authorized(good, "X: a\r\n b\r\n")),
        ("two hosts", &authorized(good, "Host: localhost\r\n")),
        ("no host", b"GET /msi/token HTTP/1.1\r\n\r\n"),
        (
            "two lengths",
            &authorized(good, "Content-Length: 1\r\nContent-Length: 2\r\n"),
        ),
        (
            "a length and chunks",
            &authorized(good, "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"),
        ),
        (
            "chunks and a length",
            &authorized(good, "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"),
        ),
        ("a huge body", &authorized(good, "Content-Length: 99999999999\r\n")),
        (
            "more than a length",
            &authorized(good, "Content-Length: 99999999999999999999999\r\n"),
        ),
    ];
    for (name, bytes) in cases {
        let mut client = connect(address);
        // It may be refused before it has sent all.
        let _ = client.write_all(bytes);
        let _ = client.shutdown(Shutdown::Write);
        let mut reply = Vec::new();
        // A reset is a close.
        let _ = client.read_to_end(&mut reply);
        let reply = String::from_utf8_lossy(&reply);
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 4"), "{name}: {reply}");
        gets_a_token(address);
    }
    assert_eq!(
        platform.requests().len(),
        1,
        "the token is kept, and nobody else got one"
    );
}

#[test]
fn two_thousand_idle_connections_are_in_nobodys_way() {
    let platform = Emulated::start();
    let served = start(&platform, "127.0.0.1:0");
    let address = served.address("app-service");
    // This process may not have as many files open as the server.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let mut idle: Vec<TcpStream> = (0..2_000).map(|_| connect(address)).collect();
    gets_a_token(address);
    // They are still there, the first and the last.
    for client in [0, 1_999] {
        let client = &mut idle[client];
        client.write_all(TOKEN.as_bytes()).unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    }
}

#[test]
fn a_request_that_is_under_way_gets_its_reply_and_nobody_else_is_let_in() {
    let platform = Emulated::start();
    platform.add_fault(Fault::delay(Duration::from_secs(2)));
    let served = start(&platform, "127.0.0.1:0");
    let address = served.address("app-service");
    let mut idle = connect(address);
    let mut client = connect(address);
    let keep_alive = TOKEN.replace("Connection: close\r\n", "");
    client.write_all(keep_alive.as_bytes()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(platform.wait_for_requests(1));

    served.signal("TERM");
    // Closed at once, while the other is under way.
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    assert!(TcpStream::connect(address).is_err());
    let mut reply = String::new();
    client.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
    assert!(reply.contains("\r\nconnection: close\r\n"), "{reply}");
    let (code, _) = served.end();
    assert_eq!(code, Some(0));
}

#[test]
fn a_server_that_was_killed_is_followed_by_another_at_once() {
    let platform = Emulated::start();
    let mut served = start(&platform, "127.0.0.1:0");
    let address = served.address("app-service");
    for _ in 0..3 {
        gets_a_token(address);
        // With connections in all states: idle, half a request, and one that the server has closed.
        let _idle = connect(address);
        let mut half = connect(address);
        half.write_all(b"GET /msi/token HTTP/1.1\r\n").unwrap();
        served.child.kill().unwrap();
        served.end();
        served = start(&platform, &address.to_string());
        assert_eq!(served.address("app-service"), address);
    }
    gets_a_token(address);
}
