//! HTTP to wherever a plugin is granted to go, except to this machine and to what hands out identities.
//!
//! Which origins a plugin may reach, its grant says, request by request ([`crate::authorized_http`]). What is decided here
//! is the same for all plugins, so that they can share connections: how a request has to be spelled, and which addresses
//! are out of reach whatever name leads there.

use super::address::{AddressClass, Reach};
use super::body::LimitedBody;
use super::client::{OutboundConfig, is_connection_field};
use super::connector::{Resolve, SystemResolver};
use super::denial::{Denial, DenialReason};
use super::error::{BoxError, OutboundError};
use super::exchange::{Exchanger, read_request_body};
use super::origin::{Origin, Scheme, check_encoded_path};
use super::policy::{Destinations, Target};
use super::trust::{RootCertificates, Trust};
use bytes::Bytes;
use http::{HeaderMap, Method, Response, Uri};
use http_body::Body;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::time::{sleep, timeout};
use url::Host;
use wasmtime_wasi_http::RequestOptions;

/// Which addresses plugins' requests may go to.
#[derive(Clone, Debug, Default)]
pub(crate) struct EgressPolicy {
    /// The identity endpoints of this host's own brokers.
    withheld: Vec<Origin>,
    root_certificates: RootCertificates,
}

/// Addresses at which a cloud's platform answers, and which are not link-local.
const PLATFORM: [IpAddr; 5] = [
    // Azure ("What is IP address 168.63.129.16?", Azure Virtual Network documentation).
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // Alibaba Cloud's metadata service.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // The metadata services of Amazon EC2, Google Compute Engine and Oracle Cloud over IPv6.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
];

impl EgressPolicy {
    /// Everything is out of reach that any plugin must not reach, and these origins.
    pub(crate) fn withholding(origins: impl IntoIterator<Item = Origin>) -> Self {
        Self {
            withheld: origins.into_iter().collect(),
            root_certificates: RootCertificates::default(),
        }
    }

    /// Trusts these authorities besides the system's.
    pub(crate) fn with_root_certificates(mut self, certificates: RootCertificates) -> Self {
        self.root_certificates = self.root_certificates.and(&certificates);
        self
    }

    /// Reads where a request goes, and refuses what can be refused without asking a resolver.
    pub(crate) fn check(&self, method: &Method, uri: &Uri, fields: &HeaderMap) -> Result<Target, Denial> {
        self.decide(method, uri, fields)
            .map_err(|reason| Denial::new(method, uri, reason))
    }

    fn decide(&self, method: &Method, uri: &Uri, fields: &HeaderMap) -> Result<Target, DenialReason> {
        if let Some(name) = fields.keys().find(|name| is_connection_field(name)) {
            return Err(DenialReason::HeaderField(name.clone()));
        }
        let target = Target::parse(method, uri, check_encoded_path)?;
        let origin = target.origin();
        let address = origin.address().map(|address| SocketAddr::new(address, origin.port()));
        match address.filter(|address| !self.permits(origin, *address)) {
            Some(address) => Err(self.prohibited(origin, vec![address.ip()])),
            None if self.withheld.contains(origin) => Err(self.prohibited(origin, Vec::new())),
            None => Ok(target),
        }
    }

    /// Whether one of the withheld endpoints is there. One that is on this machine is withheld at all of the machine's
    /// loopback addresses, because a server may listen on any of them.
    fn withholds(&self, address: SocketAddr) -> bool {
        let is_loopback = AddressClass::of(address.ip()) == AddressClass::Loopback;
        self.withheld.iter().any(|origin| {
            origin.port() == address.port()
                && match origin.host() {
                    Host::Domain(name) => is_loopback && name == "localhost",
                    Host::Ipv4(own) => is_same(IpAddr::V4(*own), address.ip(), is_loopback),
                    Host::Ipv6(own) => is_same(IpAddr::V6(*own), address.ip(), is_loopback),
                }
        })
    }
}

fn is_same(own: IpAddr, other: IpAddr, other_is_loopback: bool) -> bool {
    own.to_canonical() == other.to_canonical() || (other_is_loopback && AddressClass::of(own) == AddressClass::Loopback)
}

/// Whether an origin is this machine by its very name, so that whoever granted it has meant a sidecar or a test's server. A
/// name that merely leads to loopback is not, and no wildcard has such an origin.
fn is_loopback_by_name(origin: &Origin) -> bool {
    match origin.host() {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => AddressClass::of((*address).into()) == AddressClass::Loopback,
    }
}

/// The IPv4 address that a translator on the way would send to: NAT64 (RFC 6052), 6to4 (RFC 3056), stateless translation
/// (RFC 2765), and the deprecated addresses that are IPv4 behind zeros (RFC 4291 section 2.5.5.1).
fn translated(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let ipv4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] => {
            Some(ipv4(high, low))
        }
        [0x2002, high, low, ..] => Some(ipv4(high, low)),
        _ => None,
    }
}

/// Whether this is for a translator of the network's own (RFC 8215). Where in it the IPv4 address stands, that network alone
/// knows, and so nobody can tell where it leads.
fn is_locally_translated(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [0x64, 0xff9b, 1, ..])
}

impl Destinations for EgressPolicy {
    /// As far as time is concerned, all of them are far away.
    fn reach(&self, origin: &Origin) -> Option<Reach> {
        (!self.withheld.contains(origin)).then_some(Reach::Any)
    }

    fn permits(&self, origin: &Origin, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let class = AddressClass::of(ip);
        if PLATFORM.contains(&ip) || self.withholds(address) {
            return false;
        }
        match class {
            AddressClass::Loopback => is_loopback_by_name(origin),
            AddressClass::LinkLocal | AddressClass::Unusable => false,
            AddressClass::Private | AddressClass::Public => match ip {
                IpAddr::V4(_) => true,
                IpAddr::V6(ip) if is_locally_translated(ip) => false,
                IpAddr::V6(ip) => translated(ip).is_none_or(|ip| {
                    let within = AddressClass::of(ip.into());
                    matches!(within, AddressClass::Private | AddressClass::Public) && !PLATFORM.contains(&ip.into())
                }),
            },
        }
    }

    fn prohibited(&self, origin: &Origin, addresses: Vec<IpAddr>) -> DenialReason {
        DenialReason::OutOfReach {
            origin: origin.clone(),
            addresses,
        }
    }

    fn trust(&self, origin: &Origin) -> Option<&Trust> {
        (origin.scheme() == Scheme::Https).then_some(&Trust::SystemRoots)
    }

    fn root_certificates(&self) -> &RootCertificates {
        &self.root_certificates
    }
}

/// An HTTP client for plugins' requests, after they have been decided upon. Clones share their connections.
///
/// Connections are shared by all, whoever asks and with a token or without: in HTTP/1.1 no request leaves anything on its
/// connection that the next one could profit from. Who a request is from, each of them says anew.
#[derive(Clone)]
pub(crate) struct Egress(Arc<Shared>);

struct Shared {
    policy: Arc<EgressPolicy>,
    exchanger: Exchanger,
}

impl Egress {
    /// A client without connections.
    pub(crate) fn new(policy: EgressPolicy, config: OutboundConfig) -> Self {
        Self::with_resolver(policy, config, Arc::new(SystemResolver::default()))
    }

    pub(super) fn with_resolver(policy: EgressPolicy, config: OutboundConfig, resolver: Arc<dyn Resolve>) -> Self {
        let policy = Arc::new(policy);
        let destinations: Arc<dyn Destinations> = policy.clone();
        Self(Arc::new(Shared {
            policy,
            exchanger: Exchanger::new(destinations, config, resolver),
        }))
    }

    /// What is out of reach.
    pub(crate) fn policy(&self) -> &EgressPolicy {
        &self.0.policy
    }

    /// Reads the body of a request whole, so that it can be sent again.
    pub(crate) async fn read<B>(
        &self,
        target: &Target,
        body: B,
        options: RequestOptions,
    ) -> Result<Bytes, OutboundError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let times = self.0.exchanger.times(target, options);
        let limit = self.0.exchanger.config().request_body_limit;
        timeout(times.first_byte, read_request_body(target.method(), body, limit))
            .await
            .map_err(|elapsed| OutboundError::RequestBody(elapsed.into()))?
    }

    /// Sends a request and waits for the head of the reply. Fields that name host and length are made from the target and
    /// the body.
    pub(crate) async fn send(
        &self,
        target: &Target,
        fields: HeaderMap,
        body: Bytes,
        options: RequestOptions,
    ) -> Result<Response<LimitedBody>, OutboundError> {
        let exchanger = &self.0.exchanger;
        let times = exchanger.times(target, options);
        let deadline = Box::pin(sleep(exchanger.config().exchange_timeout));
        exchanger.send(target, fields, body, &times, deadline, None).await
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "the origins are literals and the servers the tests' own"
    )]

    use super::super::connector::tests::Scripted;
    use super::*;
    use http_body_util::Empty;
    use std::sync::atomic::Ordering;
    use tokio::net::TcpListener;

    fn origin(url: &str) -> Origin {
        let target = Target::parse(&Method::GET, &url.parse().unwrap(), check_encoded_path);
        target.unwrap().origin().clone()
    }

    #[test]
    fn no_name_leads_to_this_machine_the_link_or_the_platform() {
        let policy = EgressPolicy::default();
        let [name, local, v4, v6] = [
            "https://name.example",
            "https://localhost",
            "https://127.0.0.1",
            "https://[::1]",
        ]
        .map(origin);
        // The second says whether an origin that is this machine by its very name may go there.
        for (address, anybody, this_machine) in [
            ("8.8.8.8", true, true),
            ("2001:4860:4860::8888", true, true),
            ("10.0.0.4", true, true),
            ("192.168.1.1", true, true),
            ("fd12:3456::1", true, true),
            ("127.0.0.1", false, true),
            ("127.9.9.9", false, true),
            ("::1", false, true),
            ("::ffff:127.0.0.1", false, true),
            ("169.254.169.254", false, false),
            ("169.254.0.1", false, false),
            ("::ffff:169.254.169.254", false, false),
            ("fe80::1", false, false),
            ("168.63.129.16", false, false),
            ("::ffff:168.63.129.16", false, false),
            ("100.100.100.200", false, false),
            ("fd00:ec2::254", false, false),
            ("fd20:ce::254", false, false),
            ("fd00:c1::a9fe:a9fe", false, false),
            ("0.0.0.0", false, false),
            ("::", false, false),
            ("255.255.255.255", false, false),
            ("224.0.0.1", false, false),
            // By way of a translator.
            ("64:ff9b::169.254.169.254", false, false),
            ("64:ff9b::127.0.0.1", false, false),
            ("64:ff9b::168.63.129.16", false, false),
            ("64:ff9b::8.8.8.8", true, true),
            ("64:ff9b:1::169.254.169.254", false, false),
            ("64:ff9b:1:a9fe:a9:fe00::", false, false),
            ("64:ff9b:1:fffe::8.8.8.8", false, false),
            ("::ffff:0:169.254.169.254", false, false),
            ("::ffff:0:127.0.0.1", false, false),
            ("::ffff:0:8.8.8.8", true, true),
            ("2002:a9fe:a9fe::1", false, false),
            ("2002:808:808::1", true, true),
            ("::169.254.169.254", false, false),
            ("::127.0.0.1", false, false),
        ] {
            let socket = SocketAddr::new(address.parse().unwrap(), 443);
            assert_eq!(policy.permits(&name, socket), anybody, "{address}");
            for origin in [&local, &v4, &v6] {
                assert_eq!(policy.permits(origin, socket), this_machine, "{origin} {address}");
            }
        }
    }

    #[test]
    fn the_identity_endpoint_is_out_of_reach_by_all_its_names() {
        for (withheld, url, address, permitted) in [
            (
                "http://127.0.0.1:41741",
                "http://127.0.0.1:41741",
                "127.0.0.1:41741",
                false,
            ),
            (
                "http://127.0.0.1:41741",
                "http://localhost:41741",
                "127.0.0.1:41741",
                false,
            ),
            ("http://127.0.0.1:41741", "http://localhost:41741", "[::1]:41741", false),
            (
                "http://127.0.0.1:41741",
                "https://127.0.0.2:41741",
                "127.0.0.2:41741",
                false,
            ),
            (
                "http://127.0.0.1:41741",
                "http://localhost:41742",
                "127.0.0.1:41742",
                true,
            ),
            (
                "http://localhost:42356",
                "http://127.0.0.1:42356",
                "127.0.0.1:42356",
                false,
            ),
            ("http://[::1]:42356", "http://127.0.0.1:42356", "127.0.0.1:42356", false),
            (
                "https://10.0.0.4:2377",
                "https://name.example:2377",
                "10.0.0.4:2377",
                false,
            ),
            (
                "https://10.0.0.4:2377",
                "https://name.example:2377",
                "[::ffff:10.0.0.4]:2377",
                false,
            ),
            (
                "https://10.0.0.4:2377",
                "https://name.example:2377",
                "10.0.0.5:2377",
                true,
            ),
            ("https://10.0.0.4:2377", "https://10.0.0.4", "10.0.0.4:443", true),
        ] {
            let policy = EgressPolicy::withholding([origin(withheld)]);
            let (origin, address) = (origin(url), address.parse().unwrap());
            assert_eq!(
                policy.permits(&origin, address),
                permitted,
                "{withheld} {origin} {address}"
            );
        }
        // One that has a name is withheld by that name.
        let policy = EgressPolicy::withholding([origin("https://login.example")]);
        let check = |url: &str| policy.check(&Method::GET, &url.parse().unwrap(), &HeaderMap::new());
        assert!(matches!(
            check("https://login.example/x").unwrap_err().reason,
            DenialReason::OutOfReach { .. }
        ));
        assert!(check("https://other.example/x").is_ok());
    }

    #[tokio::test]
    async fn a_name_that_leads_out_of_reach_is_not_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for addresses in [
            ["127.0.0.1"].as_slice(),
            &["169.254.169.254"],
            &["168.63.129.16", "::ffff:169.254.169.254"],
            &["fd00:ec2::254", "127.0.0.1"],
        ] {
            let resolver = Scripted::new(addresses);
            let egress = Egress::with_resolver(EgressPolicy::default(), OutboundConfig::default(), resolver.clone());
            let uri: Uri = format!("http://vault.example:{port}/").parse().unwrap();
            let target = egress.policy().check(&Method::GET, &uri, &HeaderMap::new()).unwrap();
            let options = RequestOptions::default();
            let body = egress.read(&target, Empty::<Bytes>::new(), options).await.unwrap();
            let error = egress.send(&target, HeaderMap::new(), body, options).await.unwrap_err();
            let expected: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
            assert!(
                matches!(&error, OutboundError::Denied(denial) if matches!(
                    &denial.reason,
                    DenialReason::OutOfReach { addresses, .. } if *addresses == expected
                )),
                "{error:?}"
            );
            assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);
        }
    }

    #[test]
    fn requests_are_spelled_in_one_way() {
        let policy = EgressPolicy::default();
        for (method, url, field, taken) in [
            ("GET", "https://vault.example/secrets/a?api-version=7.4", "accept", true),
            (
                "PATCH",
                "https://vault.example/a%20b/%C3%A9?x=%2F",
                "authorization",
                true,
            ),
            ("MERGE", "https://vault.example:8443/", "cookie", true),
            ("CONNECT", "https://vault.example/", "accept", false),
            ("TRACE", "https://vault.example/", "accept", false),
            ("GET", "ftp://vault.example/", "accept", false),
            ("GET", "https://user@vault.example/", "accept", false),
            ("GET", "https://vault.example./", "accept", false),
            ("GET", "https://127.1/", "accept", false),
            ("GET", "https://vault.example/a/../b", "accept", false),
            ("GET", "https://vault.example/a/%2e%2E/b", "accept", false),
            ("GET", "https://vault.example/a%2Fb", "accept", false),
            ("GET", "https://vault.example/a%5cb", "accept", false),
            ("GET", "https://vault.example/a%0d%0ab", "accept", false),
            ("GET", "https://vault.example/a%", "accept", false),
            ("GET", "https://vault.example/a%4", "accept", false),
            ("GET", "https://vault.example/a%zz", "accept", false),
            ("GET", "https://vault.example//a", "accept", false),
            ("GET", "https://vault.example/", "host", false),
            ("GET", "https://vault.example/", "connection", false),
            ("GET", "https://vault.example/", "te", false),
            ("GET", "https://vault.example/", "proxy-authorization", false),
            ("GET", "https://vault.example/", "x-forwarded-for", false),
        ] {
            let name: http::HeaderName = field.parse().unwrap();
            let fields = HeaderMap::from_iter([(name, http::HeaderValue::from_static("x"))]);
            let target = policy.check(&method.parse().unwrap(), &url.parse().unwrap(), &fields);
            assert_eq!(target.is_ok(), taken, "{method} {url} {field}: {target:?}");
            if let Ok(target) = target {
                assert_eq!(target.uri().to_string(), url);
            }
        }
    }
}
