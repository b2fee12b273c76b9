//! The use of `wasi:sockets` 0.3, for components that are to have none.

use std::fmt::Debug;
use std::net::SocketAddr;
use wasip3::sockets::ip_name_lookup;
use wasip3::sockets::types::{
    IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket, UdpSocket,
};

/// What came of it, in a word; or at which step it was refused, and with what.
type Tried = Result<&'static str, String>;

fn refused<E: Debug>(step: &'static str) -> impl FnOnce(E) -> String {
    move |error| format!("refused {step}: {error:?}")
}

pub(crate) async fn connect(address: SocketAddr) -> Tried {
    let socket = TcpSocket::create(family(address)).map_err(refused("socket"))?;
    socket
        .connect(socket_address(address))
        .await
        .map_err(refused("connect"))?;
    Ok("connected")
}

pub(crate) fn listen(address: SocketAddr) -> Tried {
    let socket = TcpSocket::create(family(address)).map_err(refused("socket"))?;
    socket.bind(socket_address(address)).map_err(refused("bind"))?;
    socket.listen().map_err(refused("listen"))?;
    Ok("listening")
}

pub(crate) async fn datagram(address: SocketAddr) -> Tried {
    let socket = UdpSocket::create(family(address)).map_err(refused("socket"))?;
    socket
        .send(b"x".to_vec(), Some(socket_address(address)))
        .await
        .map_err(refused("send"))?;
    Ok("sent")
}

pub(crate) async fn resolve(name: &str) -> Tried {
    ip_name_lookup::resolve_addresses(name.to_owned())
        .await
        .map_err(refused("resolve"))?;
    Ok("resolved")
}

fn family(address: SocketAddr) -> IpAddressFamily {
    if address.is_ipv4() {
        IpAddressFamily::Ipv4
    } else {
        IpAddressFamily::Ipv6
    }
}

fn socket_address(address: SocketAddr) -> IpSocketAddress {
    match address {
        SocketAddr::V4(address) => IpSocketAddress::Ipv4(Ipv4SocketAddress {
            port: address.port(),
            address: address.ip().octets().into(),
        }),
        SocketAddr::V6(address) => IpSocketAddress::Ipv6(Ipv6SocketAddress {
            port: address.port(),
            flow_info: 0,
            address: address.ip().segments().into(),
            scope_id: 0,
        }),
    }
}
