//! The `Host` of a request on plain TCP, against DNS rebinding: a web page whose name its owner lets resolve to 127.0.0.1 can
//! have a browser ask us, but the browser then says that name.

use http::header::HOST;
use http::request::Parts;
use std::net::{IpAddr, Ipv4Addr};

/// Where unmodified clients of the metadata service ask, whatever leads them to us.
const METADATA_SERVICE: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Whether a request was meant for this machine: its `Host` is a loopback address, `localhost`, the address of the metadata
/// service, or one of these names. The port does not count, because port forwarding changes it.
pub(super) fn is_own(request: &Parts, hosts: &[String]) -> bool {
    let mut fields = request.headers.get_all(HOST).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return false;
    };
    let Some(name) = field.to_str().ok().and_then(without_port) else {
        return false;
    };
    is_of_loopback(name) || hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
}

fn is_of_loopback(name: &str) -> bool {
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let address = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse().map(IpAddr::V6),
        None => name.parse().map(IpAddr::V4),
    };
    address.is_ok_and(|address| address.is_loopback() || address == METADATA_SERVICE)
}

fn without_port(authority: &str) -> Option<&str> {
    let name = match authority.find(']') {
        Some(end) => authority.get(..=end)?,
        None => authority.split(':').next()?,
    };
    let is_port = |rest: &str| {
        rest.strip_prefix(':')
            .is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let rest = authority.get(name.len()..)?;
    (rest.is_empty() || is_port(rest)).then_some(name)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails where something is not as expected")]

    use super::*;
    use http::{HeaderValue, Request};

    fn request(hosts: &[&[u8]]) -> Parts {
        let mut request = Request::new(()).into_parts().0;
        for host in hosts {
            request.headers.append(HOST, HeaderValue::from_bytes(host).unwrap());
        }
        request
    }

    #[test]
    fn only_names_of_this_machine_are_its_own() {
        let hosts = ["broker.internal".to_owned(), "192.0.2.1".to_owned()];
        for (host, own) in [
            ("localhost", true),
            ("LocalHost:4141", true),
            ("127.0.0.1", true),
            ("127.0.0.1:80", true),
            ("127.8.9.10:80", true),
            ("[::1]", true),
            ("[::1]:4141", true),
            ("169.254.169.254", true),
            ("Broker.Internal:1", true),
            ("192.0.2.1", true),
            ("", false),
            (":80", false),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("evil.example:127", false),
            ("evil.localhost", false),
            ("localhost.", false),
            ("127.0.0.1.evil.example", false),
            ("127.1", false),
            ("2130706433", false),
            ("0.0.0.0", false),
            ("169.254.169.253", false),
            ("::1", false),
            ("[::1", false),
            ("[::1]x", false),
            ("[127.0.0.1]", false),
            ("user@localhost", false),
            ("localhost@evil.example", false),
            ("localhost:http", false),
            ("localhost:80:80", false),
            ("localhost, evil.example", false),
        ] {
            assert_eq!(is_own(&request(&[host.as_bytes()]), &hosts), own, "{host:?}");
        }
    }

    #[test]
    fn it_has_to_be_said_once() {
        for hosts in [&[] as &[&[u8]], &[b"localhost", b"localhost"], &[b"\xff"]] {
            assert!(!is_own(&request(hosts), &[]), "{hosts:?}");
        }
    }
}
