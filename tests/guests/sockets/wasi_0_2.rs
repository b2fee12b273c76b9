//! The use of `wasi:sockets` 0.2, for components that are to have none.

use std::fmt::Debug;
use std::net::SocketAddr;
use wasip2::sockets::network::{IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress};
use wasip2::sockets::{instance_network, ip_name_lookup, tcp_create_socket, udp_create_socket};

/// What came of it, in a word; or at which step it was refused, and with what.
type Tried = Result<&'static str, String>;

fn refused<E: Debug>(step: &'static str) -> impl FnOnce(E) -> String {
    move |error| format!("refused {step}: {error:?}")
}

pub(crate) fn connect(address: SocketAddr) -> Tried {
    let socket = tcp_create_socket::create_tcp_socket(family(address)).map_err(refused("socket"))?;
    socket
        .start_connect(&instance_network::instance_network(), socket_address(address))
        .map_err(refused("connect"))?;
    socket.subscribe().block();
    socket.finish_connect().map_err(refused("connect"))?;
    Ok("connected")
}

pub(crate) fn listen(address: SocketAddr) -> Tried {
    let socket = tcp_create_socket::create_tcp_socket(family(address)).map_err(refused("socket"))?;
    socket
        .start_bind(&instance_network::instance_network(), socket_address(address))
        .map_err(refused("bind"))?;
    socket.finish_bind().map_err(refused("bind"))?;
    socket.start_listen().map_err(refused("listen"))?;
    Ok("listening")
}

pub(crate) fn datagram(address: SocketAddr) -> Tried {
    let socket = udp_create_socket::create_udp_socket(family(address)).map_err(refused("socket"))?;
    let any = SocketAddr::new(
        if address.is_ipv4() {
            [0; 4].into()
        } else {
            [0_u16; 8].into()
        },
        0,
    );
    socket
        .start_bind(&instance_network::instance_network(), socket_address(any))
        .map_err(refused("bind"))?;
    socket.finish_bind().map_err(refused("bind"))?;
    socket
        .stream(Some(socket_address(address)))
        .map_err(refused("stream"))?;
    Ok("bound")
}

pub(crate) fn resolve(name: &str) -> Tried {
    let addresses =
        ip_name_lookup::resolve_addresses(&instance_network::instance_network(), name).map_err(refused("resolve"))?;
    addresses.subscribe().block();
    addresses.resolve_next_address().map_err(refused("resolve"))?;
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
