//! The emulator hands a token to whoever asks, so it is reachable from its own machine only: it listens on loopback,
//! and it answers only requests that name a loopback host. The latter stops web pages that rebind their own name to
//! 127.0.0.1.

use std::io;
use std::net::{IpAddr, SocketAddr};

use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;
use tokio::net::TcpListener;

/// Refuses to listen anywhere but on loopback.
pub(crate) fn check_listen_address(address: SocketAddr) -> io::Result<()> {
    if is_loopback(address.ip()) {
        return Ok(());
    }
    let message = format!(
        "the emulator gives tokens to anybody who asks, so it listens on loopback only, and {address} is not a loopback \
         address; use 127.0.0.1:0 or [::1]:0"
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// Listens on an address that was [checked](check_listen_address), or on another port of it, and says on which.
pub(crate) fn listen(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::bind(address).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("the emulator cannot listen on {address}: {error}"),
        )
    })?;
    listener.set_nonblocking(true)?;
    let listening = listener.local_addr()?;
    Ok((TcpListener::from_std(listener)?, listening))
}

/// Whether the request names this machine: in its one `Host` header and, if it is in absolute form, in its target too.
pub(crate) fn names_loopback(request: &Parts) -> bool {
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| Authority::try_from(host.as_bytes()).ok());
    hosts.next().is_none()
        && host.as_ref().is_some_and(is_loopback_authority)
        && request.uri.authority().is_none_or(is_loopback_authority)
}

fn is_loopback_authority(authority: &Authority) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let name = host.strip_suffix('.').unwrap_or(host);
    // RFC 6761, section 6.3: localhost and the names below it mean loopback, always.
    let under_localhost = name
        .rsplit('.')
        .next()
        .is_some_and(|label| label.eq_ignore_ascii_case("localhost"));
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    under_localhost || address.parse().is_ok_and(is_loopback)
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the test set up what it unwraps")]

    use super::*;

    #[test]
    fn only_loopback_addresses_are_listened_on() {
        for (address, accepted) in [
            ("127.0.0.1:0", true),
            ("127.1.2.3:8080", true),
            ("[::1]:0", true),
            ("0.0.0.0:0", false),
            ("[::]:0", false),
            ("10.0.0.1:0", false),
            ("169.254.169.254:80", false),
        ] {
            let checked = check_listen_address(address.parse().unwrap());
            assert_eq!(checked.is_ok(), accepted, "{address}");
            if let Err(error) = checked {
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                assert!(error.to_string().contains(address), "{error}");
            }
        }
    }

    #[test]
    fn only_requests_that_name_loopback_are_answered() {
        for (target, hosts, accepted) in [
            ("/", vec!["127.0.0.1:4000"], true),
            ("/", vec!["localhost"], true),
            ("/", vec!["LocalHost.:80"], true),
            ("/", vec!["app.localhost:4000"], true),
            ("/", vec!["[::1]:4000"], true),
            ("/", vec!["[::ffff:127.0.0.1]"], true),
            ("http://127.0.0.1:4000/", vec!["127.0.0.1:4000"], true),
            ("/", vec![], false),
            ("/", vec![""], false),
            ("/", vec!["attacker.example"], false),
            ("/", vec!["localhost.attacker.example"], false),
            ("/", vec!["notlocalhost"], false),
            ("/", vec!["169.254.169.254"], false),
            ("/", vec!["attacker.example@127.0.0.1"], false),
            ("/", vec!["127.0.0.1", "attacker.example"], false),
            ("http://attacker.example/", vec!["127.0.0.1:4000"], false),
        ] {
            let mut request = http::Request::get(target);
            for host in &hosts {
                request = request.header(HOST, *host);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(names_loopback(&parts), accepted, "{target} {hosts:?}");
        }
    }
}
