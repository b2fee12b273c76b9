//! Where nobody listens.

use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpSocket;

/// An address of this machine at which nobody listens, nor will while this process lives: the port is taken. One that was only
/// seen to be free, another test would get for its server.
pub(crate) fn closed() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    Box::leak(Box::new(socket)).local_addr().unwrap()
}
