//! Decides whether a request may be sent, on the request as it will be written.

use super::address::Reach;
use super::denial::{Denial, DenialReason, printable};
use super::endpoint::Endpoint;
use super::origin::{Origin, OriginFault, PATH_AND_QUERY_LIMIT, PathFault, Scheme, check_path, check_query};
use super::pace::RequestLimits;
use super::trust::{RootCertificates, Trust};
use http::{HeaderValue, Method, Uri};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The endpoints that may be reached. The default is none.
#[derive(Clone, Debug, Default)]
pub struct EndpointPolicy {
    endpoints: Vec<Endpoint>,
    root_certificates: RootCertificates,
}

impl FromIterator<Endpoint> for EndpointPolicy {
    fn from_iter<T: IntoIterator<Item = Endpoint>>(endpoints: T) -> Self {
        Self {
            endpoints: endpoints.into_iter().collect(),
            root_certificates: RootCertificates::default(),
        }
    }
}

impl EndpointPolicy {
    /// Permits one endpoint more.
    pub fn allow(&mut self, endpoint: Endpoint) {
        self.endpoints.push(endpoint);
    }

    /// Trusts these authorities too where the ones of the system are trusted: [`Trust::SystemRoots`] and
    /// [`Authority::system`](super::Authority::system).
    #[must_use]
    pub fn with_root_certificates(mut self, certificates: RootCertificates) -> Self {
        self.root_certificates = certificates;
        self
    }

    /// The endpoints that may be reached.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// How far away `origin` may be, or `None` if no endpoint has it.
    ///
    /// A grant for one of an origin's paths takes the limit off its address for all of them: the address is either the
    /// one that the user meant or it is not.
    #[must_use]
    pub fn reach(&self, origin: &Origin) -> Option<Reach> {
        let mut reaches = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.origin() == origin)
            .map(Endpoint::reach);
        let first = reaches.next()?;
        Some(if first == Reach::Any || reaches.any(|reach| reach == Reach::Any) {
            Reach::Any
        } else {
            Reach::Local
        })
    }

    /// What the server of `origin` is known by, or `None` if no endpoint has it or its scheme is `http`.
    ///
    /// An origin has one server and is known by one thing. Where its endpoints differ, the strictest holds for all: a
    /// thumbprint, else an authority that was given, else what the system trusts; of two as strict, the first.
    #[must_use]
    pub fn trust(&self, origin: &Origin) -> Option<&Trust> {
        let endpoints = self.endpoints.iter().filter(|endpoint| endpoint.origin() == origin);
        // The last of the greatest is what `max_by_key` gives, so the first comes last.
        endpoints
            .filter_map(Endpoint::trust)
            .rev()
            .max_by_key(|trust| trust.strictness())
    }

    /// How often the server of `origin` is asked at most: what any of its endpoints says first.
    #[must_use]
    pub fn limits(&self, origin: &Origin) -> Option<RequestLimits> {
        let mut endpoints = self.endpoints.iter().filter(|endpoint| endpoint.origin() == origin);
        endpoints.find_map(Endpoint::limits)
    }

    /// Decides on a request, and says where exactly it goes.
    ///
    /// # Errors
    /// If the request is for anything but one of the endpoints, or spelled in a way that could be read as something else.
    pub fn check(&self, method: &Method, uri: &Uri) -> Result<Target, Denial> {
        self.decide(method, uri)
            .map_err(|reason| Denial::new(method, uri, reason))
    }

    fn decide(&self, method: &Method, uri: &Uri) -> Result<Target, DenialReason> {
        let target = Target::parse(method, uri, check_path)?;
        let (origin, path) = (target.origin(), target.uri().path());
        let reach = self.reach(origin).ok_or(DenialReason::Origin)?;
        let mut endpoints = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.origin() == origin && endpoint.path().has(path))
            .peekable();
        if endpoints.peek().is_none() {
            return Err(DenialReason::Path);
        }
        if !endpoints.any(|endpoint| endpoint.methods().contains(method)) {
            return Err(DenialReason::Method);
        }
        match origin.address().filter(|address| !reach.permits(*address)) {
            Some(address) => Err(self.prohibited(origin, vec![address])),
            None => Ok(target),
        }
    }
}

impl Destinations for EndpointPolicy {
    fn reach(&self, origin: &Origin) -> Option<Reach> {
        self.reach(origin)
    }

    fn permits(&self, origin: &Origin, address: SocketAddr) -> bool {
        self.reach(origin).is_some_and(|reach| reach.permits(address.ip()))
    }

    fn prohibited(&self, origin: &Origin, addresses: Vec<IpAddr>) -> DenialReason {
        DenialReason::Address {
            origin: origin.clone(),
            addresses,
        }
    }

    fn trust(&self, origin: &Origin) -> Option<&Trust> {
        self.trust(origin)
    }

    fn root_certificates(&self) -> &RootCertificates {
        &self.root_certificates
    }
}

/// What a client asks, each time that it makes a connection, of the policy that a request has passed already.
pub(super) trait Destinations: Send + Sync + 'static {
    /// How far away `origin` may be, which is also how long a connection may take; `None` if it may not be reached.
    fn reach(&self, origin: &Origin) -> Option<Reach>;

    /// Whether this address, one that `origin` has, may be connected to.
    fn permits(&self, origin: &Origin, address: SocketAddr) -> bool;

    /// What is told when none of an origin's addresses may be connected to.
    fn prohibited(&self, origin: &Origin, addresses: Vec<IpAddr>) -> DenialReason;

    /// What the server of `origin` is known by, on `https`.
    fn trust(&self, origin: &Origin) -> Option<&Trust>;

    /// What is trusted besides the authorities of the system.
    fn root_certificates(&self) -> &RootCertificates;
}

/// Where a permitted request goes. Only a policy, such as [`EndpointPolicy::check`], makes one, and what is sent is built
/// from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    method: Method,
    origin: Origin,
    uri: Uri,
    host: HeaderValue,
}

impl Target {
    /// Reads where a request goes, if it is spelled in the one way that all read alike. `check_path` says which paths are.
    pub(super) fn parse(
        method: &Method,
        uri: &Uri,
        check_path: impl FnOnce(&str) -> Result<(), PathFault>,
    ) -> Result<Self, DenialReason> {
        if matches!(*method, Method::CONNECT | Method::TRACE) {
            return Err(DenialReason::Method);
        }
        let scheme = uri.scheme_str().and_then(Scheme::parse).ok_or(DenialReason::Scheme)?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let origin = Origin::parse(scheme, authority)?;
        let path = uri.path();
        check_path(path)?;
        if let Some(query) = uri.query() {
            check_query(query)?;
            if path.len() + query.len() >= PATH_AND_QUERY_LIMIT {
                return Err(PathFault::TooLong.into());
            }
        }
        Self::new(method, origin, path, uri.query())
    }

    fn new(method: &Method, origin: Origin, path: &str, query: Option<&str>) -> Result<Self, DenialReason> {
        let authority = origin.authority();
        let mut uri = format!("{origin}{path}");
        if let Some(query) = query {
            uri.push('?');
            uri.push_str(query);
        }
        // The checks leave nothing for these two to refuse. Should one of them disagree, it is right.
        let uri = Uri::try_from(uri).map_err(|_| PathFault::PathCharacter)?;
        let host = HeaderValue::try_from(authority).map_err(|_| OriginFault::Character)?;
        Ok(Self {
            method: method.clone(),
            origin,
            uri,
            host,
        })
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The whole URI in canonical form.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The value of the `Host` field.
    #[must_use]
    pub fn host(&self) -> &HeaderValue {
        &self.host
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.method, printable(&self.uri))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the endpoints are literals")]

    use super::*;
    use crate::outbound::Authority;
    use http::uri::Builder;

    fn policy() -> EndpointPolicy {
        let from_environment = |url| Endpoint::from_environment(url).unwrap();
        EndpointPolicy::from_iter([
            from_environment("http://127.0.0.1:41741/msi/token"),
            from_environment("http://169.254.169.254")
                .join("/metadata/identity")
                .unwrap()
                .with_paths_below(),
            from_environment("http://localhost:8080/token").with_methods([Method::GET, Method::POST]),
            from_environment("http://[::1]/x"),
            from_environment("http://[::ffff:7f00:1]:90/x"),
            from_environment("http://8.8.8.8/token"),
            from_environment("http://9.9.9.9/token"),
            Endpoint::granted("http://9.9.9.9/granted").unwrap(),
            Endpoint::granted("http://0.0.0.0:1").unwrap(),
            Endpoint::granted("http://[ff02::1]:1").unwrap(),
            from_environment("http://127.0.0.1:9").with_paths_below().with_methods([
                Method::GET,
                Method::CONNECT,
                Method::TRACE,
            ]),
        ])
    }

    /// Decides as for a component: `wasi:http` hands over the parts, and the bridge joins them with this builder.
    ///
    /// `None` where the builder makes no URI of them, so that there is no request.
    fn decide(method: &str, scheme: &str, authority: &str, path: &str) -> Option<Result<Target, DenialReason>> {
        let uri = Builder::new()
            .scheme(scheme)
            .authority(authority)
            .path_and_query(path)
            .build()
            .ok()?;
        Some(
            policy()
                .check(&method.parse().unwrap(), &uri)
                .map_err(|denial| denial.reason),
        )
    }

    #[test]
    fn what_the_sources_send_is_sent_in_canonical_form() {
        for (method, authority, path, uri) in [
            (
                "GET",
                "127.0.0.1:41741",
                "/msi/token",
                "http://127.0.0.1:41741/msi/token",
            ),
            (
                "GET",
                "127.0.0.1:41741",
                "/msi/token?a=b%20c",
                "http://127.0.0.1:41741/msi/token?a=b%20c",
            ),
            (
                "GET",
                "169.254.169.254",
                "/metadata/identity",
                "http://169.254.169.254/metadata/identity",
            ),
            (
                "GET",
                "169.254.169.254:80",
                "/metadata/identity/a/b?",
                "http://169.254.169.254/metadata/identity/a/b?",
            ),
            ("POST", "LOCALHOST:8080", "/token", "http://localhost:8080/token"),
            ("GET", "[::1]", "/x", "http://[::1]/x"),
            ("GET", "[::1]:80", "/x", "http://[::1]/x"),
            ("GET", "[::FFFF:7f00:1]:90", "/x", "http://[::ffff:7f00:1]:90/x"),
            ("GET", "9.9.9.9", "/granted/below", "http://9.9.9.9/granted/below"),
            ("GET", "9.9.9.9", "/token", "http://9.9.9.9/token"),
            ("GET", "127.0.0.1:9", "", "http://127.0.0.1:9/"),
            ("GET", "127.0.0.1:9", "?x", "http://127.0.0.1:9/?x"),
            // A fragment never leaves the URI builder.
            (
                "GET",
                "127.0.0.1:41741",
                "/msi/token#x",
                "http://127.0.0.1:41741/msi/token",
            ),
        ] {
            let target = decide(method, "HTTP", authority, path).unwrap().unwrap();
            assert_eq!(target.uri().to_string(), uri);
            assert_eq!(
                target.host().to_str().unwrap(),
                target.uri().authority().unwrap().as_str()
            );
            assert_eq!(target.method().as_str(), method);
        }
    }

    #[test]
    fn other_origins_and_other_spellings_of_the_same_are_denied() {
        use OriginFault::{Character, NoHost, NotAHost, Port, TrailingDot, UserInformation};
        let canonical = |text: &str| OriginFault::NotCanonical {
            canonical: text.to_owned(),
        };
        for (authority, fault) in [
            ("127.0.0.1", None),
            ("127.0.0.1:80", None),
            ("127.0.0.1:41742", None),
            ("127.0.0.2:41741", None),
            ("localhost:41741", None),
            ("[::1]:41741", None),
            ("[::ffff:7f00:1]:41741", None),
            ("169.254.169.253", None),
            ("evil.example", None),
            ("127.0.0.1.evil.example:41741", None),
            ("xn--bcher-kva.example:41741", None),
            ("127.0.0.1:41741@evil.example", Some(UserInformation)),
            ("evil.example@127.0.0.1:41741", Some(UserInformation)),
            ("a:b@127.0.0.1:41741", Some(UserInformation)),
            (":41741", Some(NoHost)),
            ("127.0.0.1.:41741", Some(TrailingDot)),
            ("localhost.:8080", Some(TrailingDot)),
            ("2130706433:41741", Some(canonical("127.0.0.1"))),
            ("017700000001:41741", Some(canonical("127.0.0.1"))),
            ("0x7f000001:41741", Some(canonical("127.0.0.1"))),
            ("0x7f.1:41741", Some(canonical("127.0.0.1"))),
            ("0177.0.0.1:41741", Some(canonical("127.0.0.1"))),
            ("127.1:41741", Some(canonical("127.0.0.1"))),
            ("127.0.0.001:41741", Some(canonical("127.0.0.1"))),
            ("2852039166", Some(canonical("169.254.169.254"))),
            ("[0::1]", Some(canonical("[::1]"))),
            ("[::ffff:127.0.0.1]:90", Some(canonical("[::ffff:7f00:1]"))),
            ("[::1%25lo]", Some(Character)),
            ("*", Some(Character)),
            ("localhost!:8080", Some(Character)),
            ("127.0.0.256:41741", Some(NotAHost)),
            ("127.0.0.1:", Some(Port)),
            ("127.0.0.1:0", Some(Port)),
            ("127.0.0.1:041741", Some(Port)),
        ] {
            // None of the paths matters: the origin is looked at first.
            for path in ["/msi/token", "/"] {
                let reason = fault.clone().map_or(DenialReason::Origin, DenialReason::OriginFault);
                assert_eq!(
                    decide("GET", "http", authority, path),
                    Some(Err(reason)),
                    "{authority:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_uri_is_not_sent() {
        for (authority, path) in [
            ("", "/msi/token"),
            ("127.0.0.1%3A41741", "/msi/token"),
            ("loc%61lhost:8080", "/token"),
            ("l\u{f6}calhost:8080", "/token"),
            ("\u{ff11}27.0.0.1:41741", "/msi/token"),
            ("127\u{3002}0.0.1:41741", "/msi/token"),
            ("127.0.0.1:41741\\.evil.example", "/msi/token"),
            ("127.0.0.1:41741/evil", "/msi/token"),
            ("127.0.0.1:41741#", "/msi/token"),
            ("127.0.0.1:41741 ", "/msi/token"),
            ("127.0.0.1:41741\r\nx: y", "/msi/token"),
            ("127.0.0.1:41741\0", "/msi/token"),
            ("127.0.0.1:107277", "/msi/token"),
            ("169.254.169.254", "/metadata/identity/..\\instance"),
            ("169.254.169.254", "/metadata/identity/ x"),
            ("169.254.169.254", "/metadata/identity HTTP/1.1\r\nx: y"),
            ("169.254.169.254", "/metadata/identity?x\r\nx: y"),
            ("169.254.169.254", "\\\\evil.example\\metadata/identity"),
        ] {
            // Some by the URI builder, the rest by the policy: which of the two is the library's business.
            assert!(
                !matches!(decide("GET", "http", authority, path), Some(Ok(_))),
                "{authority:?} {path:?}"
            );
        }
    }

    #[test]
    fn other_paths_and_ambiguous_ones_are_denied() {
        use PathFault::{DotSegment, EmptySegment, NotAbsolute, PathCharacter, PercentEncoded, QueryCharacter};
        for (path, fault) in [
            ("", None),
            ("/", None),
            ("/metadata", None),
            ("/metadata/instance", None),
            ("/metadata/identityx", None),
            ("/metadata/identity;x", None),
            ("/Metadata/identity", None),
            ("/x/metadata/identity", None),
            ("?/metadata/identity", None),
            ("/metadata/identity/../instance", Some(DotSegment)),
            ("/metadata/identity/..;/instance", Some(DotSegment)),
            ("/metadata/identity/.", Some(DotSegment)),
            ("/../metadata/identity", Some(DotSegment)),
            ("/metadata/identity/%2e%2e/instance", Some(PercentEncoded)),
            ("/metadata/identity/%2E./instance", Some(PercentEncoded)),
            ("/metadata/identity%2f..%2finstance", Some(PercentEncoded)),
            ("/metadata/identity/..%5cinstance", Some(PercentEncoded)),
            ("/metadata/identity/%252e%252e/instance", Some(PercentEncoded)),
            ("/metadata/identity/%00", Some(PercentEncoded)),
            ("/metadata/identity//instance", Some(EmptySegment)),
            ("//evil.example/metadata/identity", Some(EmptySegment)),
            ("///metadata/identity", Some(EmptySegment)),
            ("/metadata/identity/\u{e9}", Some(PathCharacter)),
            ("/metadata/identity/|", Some(PathCharacter)),
            ("/metadata/identity?x={y}", Some(QueryCharacter)),
            ("/metadata/identity?x=%0", Some(QueryCharacter)),
            // Other forms of the request line (RFC 9112 section 3.2).
            ("*", Some(NotAbsolute)),
            ("http://evil.example/metadata/identity", Some(NotAbsolute)),
            ("http://169.254.169.254/metadata/identity", Some(NotAbsolute)),
            ("evil.example:80", Some(NotAbsolute)),
            ("@evil.example/metadata/identity", Some(NotAbsolute)),
        ] {
            let reason = fault.map_or(DenialReason::Path, DenialReason::PathFault);
            // A URI builder that refuses the path by itself is as good.
            if let Some(verdict) = decide("GET", "http", "169.254.169.254", path) {
                assert_eq!(verdict, Err(reason), "{path:?}");
            }
        }
        for path in ["/msi", "/msi/token/", "/msi/tokens", "/MSI/token", "/msi/token/x"] {
            assert_eq!(
                decide("GET", "http", "127.0.0.1:41741", path),
                Some(Err(DenialReason::Path)),
                "{path:?}"
            );
        }
    }

    #[test]
    fn other_schemes_and_methods_are_denied() {
        for (method, scheme, authority, path, reason) in [
            ("GET", "https", "127.0.0.1:41741", "/msi/token", DenialReason::Origin),
            ("GET", "ftp", "127.0.0.1:41741", "/msi/token", DenialReason::Scheme),
            ("GET", "httpx", "127.0.0.1:41741", "/msi/token", DenialReason::Scheme),
            ("GET", "unix", "127.0.0.1:41741", "/msi/token", DenialReason::Scheme),
            ("POST", "http", "127.0.0.1:41741", "/msi/token", DenialReason::Method),
            ("HEAD", "http", "127.0.0.1:41741", "/msi/token", DenialReason::Method),
            ("get", "http", "127.0.0.1:41741", "/msi/token", DenialReason::Method),
            ("PURGE", "http", "127.0.0.1:41741", "/msi/token", DenialReason::Method),
            ("DELETE", "http", "localhost:8080", "/token", DenialReason::Method),
            ("CONNECT", "http", "127.0.0.1:9", "/", DenialReason::Method),
            ("TRACE", "http", "127.0.0.1:9", "/", DenialReason::Method),
        ] {
            assert_eq!(
                decide(method, scheme, authority, path),
                Some(Err(reason)),
                "{method} {scheme} {authority}"
            );
        }
    }

    #[test]
    fn addresses_that_are_not_permitted_are_denied_before_connecting() {
        for (authority, path, address) in [
            ("8.8.8.8", "/token", "8.8.8.8"),
            ("0.0.0.0:1", "/", "0.0.0.0"),
            ("[ff02::1]:1", "/", "ff02::1"),
        ] {
            let origin = Origin::parse(Scheme::Http, authority).unwrap();
            let reason = DenialReason::Address {
                origin,
                addresses: vec![address.parse().unwrap()],
            };
            assert_eq!(decide("GET", "http", authority, path), Some(Err(reason)), "{authority}");
        }
    }

    #[test]
    fn relative_uris_are_denied() {
        for uri in ["/msi/token", "*", "127.0.0.1:41741"] {
            let denial = policy().check(&Method::GET, &uri.parse().unwrap()).unwrap_err();
            assert_eq!(denial.reason, DenialReason::Scheme, "{uri}");
        }
    }

    #[test]
    fn nothing_is_permitted_by_default() {
        let uri = "http://169.254.169.254/metadata/identity/oauth2/token".parse().unwrap();
        let denial = EndpointPolicy::default().check(&Method::GET, &uri).unwrap_err();
        assert_eq!(denial.reason, DenialReason::Origin);
    }

    #[test]
    fn a_grant_lifts_the_limit_on_an_origins_address_and_on_no_other() {
        let policy = policy();
        for (authority, reach) in [
            ("9.9.9.9", Some(Reach::Any)),
            ("9.9.9.9:81", None),
            ("8.8.8.8", Some(Reach::Local)),
            ("127.0.0.1:41741", Some(Reach::Local)),
        ] {
            assert_eq!(
                policy.reach(&Origin::parse(Scheme::Http, authority).unwrap()),
                reach,
                "{authority}"
            );
        }
    }

    #[test]
    fn an_origin_is_known_by_the_strictest_that_any_of_its_endpoints_has() {
        let endpoint = |path: &str, trust: &Trust| {
            let url = format!("https://localhost:1/{path}");
            Endpoint::granted(&url).unwrap().with_trust(trust.clone()).unwrap()
        };
        let file = |path| Trust::Authority(Authority::from_file(path));
        let (a, b) = (Trust::Thumbprint([1; 20]), Trust::Thumbprint([2; 20]));
        let elsewhere = Trust::Authority(Authority::system().with_server_name("elsewhere").unwrap());
        let origin = Origin::parse(Scheme::Https, "localhost:1").unwrap();
        for (trusts, strictest) in [
            (vec![Trust::SystemRoots], Trust::SystemRoots),
            (vec![Trust::SystemRoots, elsewhere.clone()], elsewhere.clone()),
            (vec![file("a"), elsewhere, Trust::SystemRoots], file("a")),
            (vec![file("a"), file("b")], file("a")),
            (vec![Trust::SystemRoots, file("a"), a.clone()], a.clone()),
            (vec![b.clone(), a, file("a")], b),
        ] {
            let numbered = trusts.iter().enumerate();
            let policy: EndpointPolicy = numbered
                .map(|(index, trust)| endpoint(&index.to_string(), trust))
                .collect();
            assert_eq!(policy.trust(&origin), Some(&strictest), "{trusts:?}");
            let other = Origin::parse(Scheme::Https, "localhost:2").unwrap();
            assert_eq!(policy.trust(&other), None);
        }
    }

    #[test]
    fn a_long_path_and_query_is_denied() {
        let mut policy = EndpointPolicy::default();
        policy.allow(Endpoint::from_environment("http://127.0.0.1/a").unwrap());
        for (length, fits) in [
            (PATH_AND_QUERY_LIMIT - "/a?".len(), true),
            (PATH_AND_QUERY_LIMIT - 2, false),
        ] {
            let uri = format!("http://127.0.0.1/a?{}", "x".repeat(length)).parse().unwrap();
            assert_eq!(policy.check(&Method::GET, &uri).is_ok(), fits, "{length}");
        }
    }

    #[test]
    fn denials_say_what_and_why_without_query_or_user() {
        let deny = |uri: &str| {
            policy()
                .check(&Method::GET, &uri.parse().unwrap())
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            deny("http://user:hunter2@evil.example/x?key=hunter2"),
            "The request GET http://evil.example/x was not sent: it has user information before its host."
        );
        assert_eq!(
            deny("http://8.8.8.8/token?key=hunter2"),
            "The request GET http://8.8.8.8/token was not sent: it would go to the public address 8.8.8.8; \
             if that is meant, permit it with --allow-endpoint http://8.8.8.8."
        );
        let long = deny(&format!("http://evil.example/{}?key=hunter2", "x".repeat(4000)));
        assert!(long.len() < 400 && !long.contains("hunter2"), "{long}");
        let odd = deny("http://evil.example/\u{202e}x");
        assert!(odd.is_ascii(), "{odd}");
    }
}
