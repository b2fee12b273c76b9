//! `managed-identity serve`, from outside: what a program, an operator and an attacker on the same machine see.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test fails where something is not as expected")]

#[path = "../support/mod.rs"]
mod support;

mod configuration;
mod connections;
mod examples;
mod grpc;
mod http2;
mod operations;
mod protocols;
mod secrets;

/// A plain HTTP request, as bytes on a connection of its own, and the whole reply.
fn exchange(address: std::net::SocketAddr, request: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(60)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}
