//! Where is listened, as it is written.

use super::Address;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The most bytes that the path of a Unix socket can have: `sun_path` of `sockaddr_un(7)` has 108, and the last is zero.
const LONGEST_PATH: usize = 107;

/// The longest name of a socket that systemd passes, as `systemd.socket(5)` says of `FileDescriptorName`.
const LONGEST_NAME: usize = 255;

/// Who may connect to a socket in the file system of which nothing else is said: the server's own user.
pub(super) const DEFAULT_MODE: u32 = 0o600;

impl Address {
    /// Reads `127.0.0.1:4141`, `[::1]:4141`, `unix:` and an absolute path, or `systemd:` and the name of a socket. To the
    /// socket in the file system, only the server's own user may connect.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            // What `sd_listen_fds_with_names(3)` separates by colons.
            let is_name = |byte: u8| byte.is_ascii_graphic() && byte != b':';
            if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(is_name) {
                return Err(AddressError::new(
                    "names no socket of systemd; write `systemd:` and the `FileDescriptorName` of its unit",
                ));
            }
            return Ok(Self::Systemd(name.to_owned()));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Tcp(address));
        }
        if text.starts_with('/') {
            return Err(AddressError::new("is a path; write `unix:` before it"));
        }
        Err(match text.rsplit_once(':') {
            Some(("" | "*" | "localhost", port)) if port.parse::<u16>().is_ok() => AddressError(format!(
                "does not say of which address the port is; write `127.0.0.1:{port}` or `[::1]:{port}`"
            )),
            _ => AddressError::new(
                "is no address; write one and a port, such as `127.0.0.1:4141` or `[::1]:4141`, `unix:` and an absolute \
                 path, or `systemd:` and the name of a socket",
            ),
        })
    }

    /// Whether only programs on this machine can reach it, as far as the address tells: nothing is known of what systemd
    /// has opened. An IPv6 address that stands for an IPv4 one (`::ffff:127.0.0.1`) is not taken for loopback.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(..) | Self::Systemd(_) => true,
        }
    }

    /// Whether two listeners cannot both have it.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(own), Self::Tcp(other)) => own == other && own.port() != 0,
            (Self::Unix(own, _), Self::Unix(other, _)) => own == other,
            (Self::Systemd(own), Self::Systemd(other)) => own == other,
            _ => false,
        }
    }
}

fn unix(text: &str) -> Result<Address, AddressError> {
    let path = PathBuf::from(text);
    if !path.is_absolute() || text.ends_with('/') || text.chars().any(char::is_control) {
        return Err(AddressError::new(
            "names no socket by its absolute path; write it like `unix:/run/managed-identity/token.sock`",
        ));
    }
    if text.len() > LONGEST_PATH {
        let length = text.len();
        return Err(AddressError(format!(
            "has a path of {length} bytes, and that of a socket has {LONGEST_PATH} at most; write a shorter one"
        )));
    }
    Ok(Address::Unix(path, DEFAULT_MODE))
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path, _) => write!(formatter, "unix:{}", path.display()),
            Self::Systemd(name) => write!(formatter, "systemd:{name}"),
        }
    }
}

/// Why an address is none. Reads as the end of a sentence that begins with the address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(String);

impl AddressError {
    fn new(message: &str) -> Self {
        Self(message.to_owned())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the addresses are literals")]

    use super::*;

    #[test]
    fn an_address_prints_as_it_is_written() {
        for (text, is_local) in [
            ("127.0.0.1:4141", true),
            ("127.255.0.9:0", true),
            ("[::1]:4141", true),
            ("unix:/run/x.sock", true),
            ("systemd:token.socket", true),
            ("0.0.0.0:4141", false),
            ("[::]:4141", false),
            ("10.0.0.4:4141", false),
            ("169.254.169.254:80", false),
            ("[::ffff:127.0.0.1]:4141", false),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.is_local()), (text, is_local));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_to_write() {
        for (text, message) in [
            ("", "is no address; write one and a port"),
            ("127.0.0.1", "is no address"),
            ("127.0.0.1:65536", "is no address"),
            ("::1:4141", "is no address"),
            ("http://127.0.0.1:4141", "is no address"),
            ("example.com:4141", "is no address"),
            (":4141", "write `127.0.0.1:4141` or `[::1]:4141`"),
            ("*:4141", "write `127.0.0.1:4141`"),
            ("localhost:4141", "write `127.0.0.1:4141`"),
            ("/run/x.sock", "is a path; write `unix:` before it"),
            ("unix:", "by its absolute path"),
            ("unix:x.sock", "by its absolute path"),
            ("unix:/run/", "by its absolute path"),
            ("unix:/run/\nx", "by its absolute path"),
            ("systemd:", "names no socket of systemd"),
            ("systemd:a:b", "names no socket of systemd"),
            ("systemd:a b", "names no socket of systemd"),
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text:?} {error}");
        }
        let longest = format!("unix:/{}", "a".repeat(LONGEST_PATH - 1));
        assert!(Address::parse(&longest).is_ok());
        let error = Address::parse(&format!("{longest}a")).unwrap_err().to_string();
        assert!(error.contains("has a path of 108 bytes"), "{error}");
    }

    #[test]
    fn only_free_ports_can_be_had_twice() {
        for (own, other, excludes) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:1", "[::1]:1", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
            ("systemd:a", "systemd:a", true),
            ("systemd:a", "unix:/a", false),
        ] {
            let (own, other) = (own.parse::<Address>().unwrap(), other.parse().unwrap());
            assert_eq!(own.excludes(&other), excludes, "{own} {other}");
        }
    }
}
