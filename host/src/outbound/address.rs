//! Which network addresses an endpoint may have.
//!
//! Azure's identity endpoints live on link-local addresses (virtual machines, the App Service front end), on loopback
//! (services of the same machine) or on the private network (Service Fabric). None has a public address, so a public one
//! in an environment variable is a mistake or an attack, and takes a grant. The platform's own 168.63.129.16 ("What is
//! IP address 168.63.129.16?", Azure Virtual Network documentation) counts as public here: it hands out a machine's
//! certificates and extension settings, and no identity.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of address an address is, as far as reaching it is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressClass {
    /// The machine itself: 127.0.0.0/8 and `::1`.
    Loopback,
    /// The same link: 169.254.0.0/16 (RFC 3927) and `fe80::/10` (RFC 4291 section 2.5.6).
    LinkLocal,
    /// The same network: RFC 1918 for IPv4, unique local addresses `fc00::/7` (RFC 4193) for IPv6.
    Private,
    /// Anything else that one host can have.
    Public,
    /// No single host: 0.0.0.0/8, `::`, multicast, broadcast.
    Unusable,
}

impl AddressClass {
    /// The class of `address`. An IPv4 address that is mapped into IPv6 has the class of the IPv4 address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        if address.is_loopback() {
            Self::Loopback
        } else if address.is_link_local() {
            Self::LinkLocal
        } else if address.is_private() {
            Self::Private
        } else if address.octets()[0] == 0 || address.is_multicast() || address.is_broadcast() {
            Self::Unusable
        } else {
            Self::Public
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        if address.is_loopback() {
            Self::Loopback
        } else if address.is_unicast_link_local() {
            Self::LinkLocal
        } else if address.is_unique_local() {
            Self::Private
        } else if address.is_unspecified() || address.is_multicast() {
            Self::Unusable
        } else {
            Self::Public
        }
    }
}

/// How far an endpoint may be away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Loopback, link-local or private addresses only: what the environment may name.
    Local,
    /// Any address that a single host can have: what the user may grant.
    Any,
}

impl Reach {
    /// Whether a connection to `address` is permitted.
    #[must_use]
    pub fn permits(self, address: IpAddr) -> bool {
        match AddressClass::of(address) {
            AddressClass::Loopback | AddressClass::LinkLocal | AddressClass::Private => true,
            AddressClass::Public => self == Self::Any,
            AddressClass::Unusable => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the addresses are literals")]

    use super::AddressClass::{LinkLocal, Loopback, Private, Public, Unusable};
    use super::*;

    const CLASSES: &[(&str, AddressClass)] = &[
        ("127.0.0.1", Loopback),
        ("127.255.255.254", Loopback),
        ("::1", Loopback),
        ("169.254.169.254", LinkLocal),
        ("169.253.255.255", Public),
        ("169.255.0.0", Public),
        ("fe80::1", LinkLocal),
        ("febf::1", LinkLocal),
        ("fec0::1", Public),
        ("10.0.0.1", Private),
        ("172.15.255.255", Public),
        ("172.16.0.1", Private),
        ("172.31.255.255", Private),
        ("172.32.0.0", Public),
        ("192.168.0.1", Private),
        ("192.169.0.1", Public),
        ("fc00::1", Private),
        ("fdff::1", Private),
        ("fbff::1", Public),
        ("8.8.8.8", Public),
        ("100.64.0.1", Public),
        ("168.63.129.16", Public),
        ("2001:4860:4860::8888", Public),
        ("64:ff9b::7f00:1", Public),
        ("::7f00:1", Public),
        ("0.0.0.0", Unusable),
        ("0.1.2.3", Unusable),
        ("::", Unusable),
        ("224.0.0.1", Unusable),
        ("239.255.255.250", Unusable),
        ("255.255.255.255", Unusable),
        ("ff02::1", Unusable),
        ("::ffff:127.0.0.1", Loopback),
        ("::ffff:169.254.169.254", LinkLocal),
        ("::ffff:10.0.0.1", Private),
        ("::ffff:8.8.8.8", Public),
        ("::ffff:0.0.0.0", Unusable),
        ("::ffff:255.255.255.255", Unusable),
    ];

    #[test]
    fn each_address_has_its_class() {
        for (address, class) in CLASSES {
            assert_eq!(AddressClass::of(address.parse().unwrap()), *class, "{address}");
        }
    }

    #[test]
    fn public_addresses_take_a_grant_and_unusable_ones_are_never_reached() {
        for (address, class) in CLASSES {
            let address = address.parse().unwrap();
            assert_eq!(
                Reach::Local.permits(address),
                !matches!(class, Public | Unusable),
                "{address}"
            );
            assert_eq!(Reach::Any.permits(address), *class != Unusable, "{address}");
        }
    }
}
