//! The way to the endpoint: addresses, a route, a connection.

use super::bounded::bounded;
use super::cause;
use super::line::{Check, Line, documentation};
use managed_identity_host::outbound::{AddressClass, Endpoint, Origin, Scheme};
use managed_identity_host::{Broker, Cause, TokenError};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How many addresses of a name are shown.
const MOST_ADDRESSES: usize = 4;

/// Which addresses the endpoint has, and from which address of this machine each would be asked. Nothing is sent, but for what
/// it takes to look up a name.
pub(super) async fn route(endpoint: &str, time: Duration) -> Line {
    let Ok(endpoint) = Endpoint::granted(endpoint) else {
        return Line::skipped(Check::Route, "The endpoint is no URL that leads anywhere.");
    };
    let origin = endpoint.origin().clone();
    let name = match origin.address() {
        Some(_) => String::new(),
        None => format!("{} is ", origin.host()),
    };
    let started = Instant::now();
    let Some(found) = bounded(time, move || addresses(&origin)).await else {
        return unresolved(&name, "the look-up does not end in time");
    };
    let took = started.elapsed();
    let addresses = match found {
        Ok(addresses) if addresses.is_empty() => return unresolved(&name, "it has no address"),
        Ok(addresses) => addresses,
        Err(error) => return unresolved(&name, &error.to_string()),
    };
    let mut ways = Vec::new();
    let mut obstacle = None;
    for address in addresses.into_iter().take(MOST_ADDRESSES) {
        let (ip, class) = (address.ip(), class(address.ip()));
        match source_address(address) {
            Ok(from) => ways.push(format!("{ip} ({class}), from {from}")),
            Err(error) => obstacle = Some(format!("{ip} ({class}): {error}")),
        }
    }
    match obstacle {
        Some(obstacle) if ways.is_empty() => Line::fail(
            Check::Route,
            format!("{name}{obstacle}."),
            "This machine or container has no route to the address, so no packet leaves it.",
            "Look at its routes (`ip route get ADDRESS`). The metadata service is reached through the network of the virtual \
             machine: a pod or container needs a way to there.",
        )
        .of(Cause::EndpointUnreachable),
        _ => {
            let looked_up = if name.is_empty() { String::new() } else { format!(" ({})", time_of(took)) };
            Line::pass(
                Check::Route,
                format!("{name}{}{looked_up}.", ways.join("; ")),
                "This machine knows a way to the endpoint.",
            )
        }
    }
}

fn unresolved(name: &str, why: &str) -> Line {
    let name = name.trim_end_matches(" is ");
    Line::fail(
        Check::Route,
        format!("The host name {name} cannot be resolved: {why}."),
        "Without an address there is nobody to connect to.",
        "Check the spelling in the environment, /etc/hosts and /etc/resolv.conf, and in a cluster its DNS and policies.",
    )
    .of(Cause::EndpointUnreachable)
}

fn addresses(origin: &Origin) -> io::Result<Vec<SocketAddr>> {
    match origin.address() {
        Some(address) => Ok(vec![SocketAddr::new(address, origin.port())]),
        None => Ok((origin.host().to_string().as_str(), origin.port())
            .to_socket_addrs()?
            .collect()),
    }
}

/// The address that packets to `address` would come from. Connecting a socket for datagrams asks the routing table and sends
/// none.
fn source_address(address: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(address)?;
    Ok(socket.local_addr()?.ip())
}

fn class(address: IpAddr) -> &'static str {
    match AddressClass::of(address) {
        AddressClass::Loopback => "this machine",
        AddressClass::LinkLocal => "link-local",
        AddressClass::Private => "private network",
        AddressClass::Public => "public",
        _ => "no single host",
    }
}

/// Whether the endpoint takes a connection, and proves on `https` that it is the right one.
pub(super) async fn connection(broker: &Broker, endpoint: &str, source: &str, time: Duration) -> Line {
    let started = Instant::now();
    let probed = timeout(time, broker.probe_endpoint()).await.unwrap_or_else(|_| {
        let message = format!("{endpoint} takes no connection within {}.", time_of(time));
        Err(TokenError::new(Cause::EndpointUnreachable, message).with_source(source))
    });
    let took = time_of(started.elapsed());
    match probed {
        Ok(()) => {
            let is_https =
                Endpoint::granted(endpoint).is_ok_and(|endpoint| endpoint.origin().scheme() == Scheme::Https);
            let what = if is_https {
                "takes connections, and its certificate is the right one"
            } else {
                "takes connections"
            };
            let found = format!("{endpoint} {what} ({took}).");
            let line = Line::pass(Check::Connection, found, "No firewall or network policy is in the way.");
            line.see(documentation::of_source(Some(source)))
        }
        Err(error) => {
            let mut line = cause::line(Check::Connection, &error);
            line.found.push_str(&format!(" ({took})"));
            line
        }
    }
}

/// A time as a person reads it.
pub(super) fn time_of(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::line::Status;

    #[tokio::test]
    async fn addresses_have_a_kind_and_a_way_to_them() {
        let line = route("http://127.0.0.1:1/msi/token", Duration::from_secs(10)).await;
        assert_eq!(line.found, "127.0.0.1 (this machine), from 127.0.0.1.");
        assert_eq!(line.status, Status::Pass);
    }

    #[test]
    fn a_name_that_is_none_is_said_by_name() {
        let line = unresolved("a.invalid is ", "no such host");
        assert_eq!(line.found, "The host name a.invalid cannot be resolved: no such host.");
    }
}
