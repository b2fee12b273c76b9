//! Requests that the module holds until there is a token.

use super::{FORGED, SECRET, is_opened, module, proxied, vault};
use crate::gate::Gate;
use crate::proxy::{Envoy, Folder, request};
use crate::support::emulated::Emulated;
use managed_identity_emulator::KeyVault;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;

/// Envoy before a platform that answers when it is let.
struct Held {
    platform: Emulated,
    vault: KeyVault,
    _folder: Folder,
    gate: Gate,
    envoy: Envoy,
}

impl Held {
    fn new(name: &str, others: &[(&str, &str)], arguments: &[&str]) -> Self {
        let platform = Emulated::start();
        let vault = vault(&platform);
        let folder = Folder::new(&format!("held-{name}"));
        let (gate, environment) = Gate::before(&platform);
        let yaml = proxied("module.yaml", "upstream", &vault, others);
        let envoy = Envoy::start_with(&folder, &yaml, &module(environment), arguments);
        Self {
            platform,
            vault,
            _folder: folder,
            gate,
            envoy,
        }
    }

    fn counted(&self, name: &str) -> u64 {
        self.envoy
            .counted(&format!("dynamicmodulescustom.managed_identity.{name}"))
    }
}

#[test]
fn many_first_requests_are_held_for_one_token() {
    const CLIENTS: u64 = 32;
    let held = Held::new("many", &[], &[]);
    let address = held.envoy.address("ingress");
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(move || request(address, SECRET, &[FORGED]).unwrap()))
            .collect();
        held.envoy.wait_for("all have come", |envoy| {
            (envoy.counted("http.ingress.downstream_rq_active") == CLIENTS).then_some(())
        });
        held.gate.wait_for(1);
        assert!(held.vault.requests().is_empty());
        held.gate.open();
        for client in clients {
            let (status, reply) = client.join().unwrap();
            assert_eq!(status, 200, "{reply}");
        }
    });
    assert_eq!((held.gate.came(), held.platform.requests().len()), (1, 1));
    assert_eq!(held.vault.tokens(), 1);
    assert_eq!(held.counted("fetched") + held.counted("hit"), CLIENTS);
    assert_eq!(held.envoy.terminate(), Some(0));
}

#[test]
fn a_request_is_held_as_long_as_it_is_configured() {
    let held = Held::new("time", &[("\"10s\"", "\"200ms\"")], &[]);
    let address = held.envoy.address("ingress");
    let (status, reply) = request(address, SECRET, &[FORGED]).unwrap();
    assert_eq!(status, 503, "{reply}");
    assert!(reply.contains("x-managed-identity-error: deadline-exceeded"), "{reply}");
    assert_eq!((held.counted("failed"), held.counted("denied")), (1, 1));
    assert!(held.vault.requests().is_empty());
    // Whoever comes when the platform is back gets a token.
    held.gate.open();
    held.envoy.wait_for("there is a token", |_| {
        let (status, _) = request(address, SECRET, &[FORGED])?;
        (status == 200).then_some(())
    });
    assert_eq!(held.envoy.terminate(), Some(0));
}

#[test]
fn the_only_worker_goes_on_while_requests_are_held() {
    let held = Held::new("worker", &[], &["--concurrency", "1"]);
    let address = held.envoy.address("ingress");
    let client = thread::spawn(move || request(address, SECRET, &[FORGED]));
    held.gate.wait_for(1);
    for _ in 0..8 {
        let (status, _) = request(address, "/health", &[]).unwrap();
        assert_eq!(status, 401);
    }
    assert!(!client.is_finished());
    held.gate.open();
    let (status, reply) = client.join().unwrap().unwrap();
    assert_eq!(status, 200, "{reply}");
    assert_eq!(held.envoy.terminate(), Some(0));
}

#[test]
fn whoever_leaves_while_held_harms_nobody() {
    let held = Held::new("leaves", &[], &[]);
    let address = held.envoy.address("ingress");
    let leaver = || {
        let mut stream = TcpStream::connect(address).unwrap();
        let head = format!("GET {SECRET} HTTP/1.1\r\nHost: localhost\r\n{FORGED}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let first = leaver();
    held.gate.wait_for(1);
    let stayer = thread::spawn(move || request(address, SECRET, &[FORGED]));
    let second = leaver();
    held.envoy.wait_for("all have come", |envoy| {
        (envoy.counted("http.ingress.downstream_rq_active") == 3).then_some(())
    });
    drop((first, second));
    held.envoy.wait_for("they have left", |envoy| {
        (envoy.counted("http.ingress.downstream_cx_destroy_remote_active_rq") == 2).then_some(())
    });
    held.gate.open();
    let (status, reply) = stayer.join().unwrap().unwrap();
    assert_eq!(status, 200, "{reply}");
    // Nothing was sent for those who left.
    assert_eq!(held.vault.requests().len(), 1);
    is_opened(address);
    assert_eq!(held.platform.requests().len(), 1);
    assert_eq!(held.envoy.terminate(), Some(0));
}

#[test]
fn all_leave_while_held_and_the_token_is_there_for_the_next() {
    let held = Held::new("all-leave", &[], &[]);
    let address = held.envoy.address("ingress");
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("GET {SECRET} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    held.gate.wait_for(1);
    drop(stream);
    held.envoy.wait_for("it has left", |envoy| {
        (envoy.counted("http.ingress.downstream_cx_destroy_remote_active_rq") == 1).then_some(())
    });
    held.gate.open();
    is_opened(address);
    assert_eq!((held.gate.came(), held.platform.requests().len()), (1, 1));
    assert_eq!(held.envoy.terminate(), Some(0));
}

#[test]
fn the_body_of_a_held_request_arrives_whole() {
    /// More than Envoy keeps before it makes the client wait.
    const LENGTH: usize = 4 << 20;
    let held = Held::new("body", &[], &[]);
    let mut stream = TcpStream::connect(held.envoy.address("ingress")).unwrap();
    let head = format!(
        "POST {SECRET} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {LENGTH}\r\n{FORGED}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sender = thread::spawn(move || writer.write_all(&vec![b'x'; LENGTH]));
    held.gate.wait_for(1);
    held.gate.open();
    sender.join().unwrap().unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    // The vault says so of a method once it has read the body, and has taken the token.
    assert!(reply.starts_with("HTTP/1.1 405 "), "{reply}");
    assert_eq!(held.envoy.counted("cluster.upstream.upstream_rq_4xx"), 1);
    assert_eq!(held.envoy.terminate(), Some(0));
}
