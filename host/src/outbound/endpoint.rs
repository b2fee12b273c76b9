//! What may be reached: one origin, with a rule for the path, the methods, how far away it may be, and what it is known by.

use super::address::Reach;
use super::origin::{Origin, OriginFault, PathFault, Scheme, check_path};
use super::pace::RequestLimits;
use super::trust::Trust;
use http::Method;

/// One endpoint that requests may go to.
///
/// As made, it permits `GET` only, and on `https` a server that the system trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    origin: Origin,
    path: PathRule,
    methods: Vec<Method>,
    reach: Reach,
    /// Present for `https`, and only there.
    trust: Option<Trust>,
    limits: Option<RequestLimits>,
}

/// Which paths of an origin an endpoint has. Paths are compared byte by byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRule {
    /// This path.
    Exact(String),
    /// This path and all below it: `/msi` has `/msi/token`, and not `/msitoken`.
    Below(String),
}

impl PathRule {
    /// The path that the rule was made from.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Exact(path) | Self::Below(path) => path,
        }
    }

    /// Whether the rule has this path.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        match self {
            Self::Exact(own) => own == path,
            Self::Below(own) => path
                .strip_prefix(own.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || own.ends_with('/')),
        }
    }

    fn into_path(self) -> String {
        match self {
            Self::Exact(path) | Self::Below(path) => path,
        }
    }
}

impl Endpoint {
    /// An endpoint that an environment variable names: exactly this path, at a loopback, link-local or private address.
    ///
    /// A public address is no error here. It is refused when it is used, unless the policy also has a
    /// [granted](Self::granted) endpoint of the same origin.
    ///
    /// # Errors
    /// If `url` is not an `http` or `https` URL of host, optional port and optional path in canonical form. The message
    /// does not contain the URL, so that it can be printed next to the name of the variable.
    pub fn from_environment(url: &str) -> Result<Self, EndpointError> {
        let (origin, path) = parse(url)?;
        Ok(Self::new(origin, PathRule::Exact(path), Reach::Local))
    }

    /// An endpoint that the user grants: this path and all below it, at any address.
    ///
    /// # Errors
    /// As for [`Endpoint::from_environment`].
    pub fn granted(url: &str) -> Result<Self, EndpointError> {
        let (origin, path) = parse(url)?;
        Ok(Self::new(origin, PathRule::Below(path), Reach::Any))
    }

    fn new(origin: Origin, path: PathRule, reach: Reach) -> Self {
        let trust = match origin.scheme() {
            Scheme::Http => None,
            Scheme::Https => Some(Trust::SystemRoots),
        };
        Self {
            origin,
            path,
            methods: vec![Method::GET],
            reach,
            trust,
            limits: None,
        }
    }

    /// The same endpoint with `path` appended to its own.
    ///
    /// # Errors
    /// If the two together are no path that all servers read in the same way.
    pub fn join(mut self, path: &str) -> Result<Self, EndpointError> {
        let joined = format!("{}{path}", self.path.path().trim_end_matches('/'));
        check_path(&joined)?;
        self.path = match self.path {
            PathRule::Exact(_) => PathRule::Exact(joined),
            PathRule::Below(_) => PathRule::Below(joined),
        };
        Ok(self)
    }

    /// The same endpoint with all paths below its own.
    #[must_use]
    pub fn with_paths_below(mut self) -> Self {
        self.path = PathRule::Below(self.path.into_path());
        self
    }

    /// The same endpoint with these methods. `CONNECT` and `TRACE` stay refused.
    #[must_use]
    pub fn with_methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().collect();
        self
    }

    /// The same endpoint at this distance.
    #[must_use]
    pub fn with_reach(mut self, reach: Reach) -> Self {
        self.reach = reach;
        self
    }

    /// The same endpoint, where only a server that is known in this way gets a request.
    ///
    /// # Errors
    /// If the endpoint is one of `http`, where a server shows nothing that it could be known by.
    pub fn with_trust(mut self, trust: Trust) -> Result<Self, EndpointError> {
        if self.trust.is_none() {
            return Err(EndpointError::NotHttps);
        }
        self.trust = Some(trust);
        Ok(self)
    }

    /// The same endpoint, asked so often by this process and no oftener. As made, it is asked without limit.
    #[must_use]
    pub fn with_limits(mut self, limits: RequestLimits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// How often it is asked at most.
    #[must_use]
    pub fn limits(&self) -> Option<RequestLimits> {
        self.limits
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Which paths it has.
    #[must_use]
    pub fn path(&self) -> &PathRule {
        &self.path
    }

    /// Which methods it takes.
    #[must_use]
    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// How far away it may be.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// What its server is known by; on `http`, nothing but its address.
    #[must_use]
    pub fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }
}

/// Why a URL is no endpoint. Reads as the end of a sentence: "IDENTITY_ENDPOINT has a query; …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// No `://`.
    #[error("is not an absolute URL; write it like http://127.0.0.1:41741/msi/token")]
    NotAbsolute,
    /// Another scheme than `http` and `https`.
    #[error("has another scheme than http or https")]
    Scheme,
    /// The scheme `http`, where only a server with a certificate is the right one.
    #[error("has the scheme http, and its server has to show a certificate; it has to begin with https://")]
    NotHttps,
    /// A query: it would be lost, because every request has its own.
    #[error("has a query; remove it, each request has its own")]
    Query,
    /// A fragment: it would never be sent.
    #[error("has a fragment; remove it")]
    Fragment,
    /// Host or port.
    #[error(transparent)]
    Origin(#[from] OriginFault),
    /// Path.
    #[error(transparent)]
    Path(#[from] PathFault),
}

fn parse(url: &str) -> Result<(Origin, String), EndpointError> {
    let (scheme, rest) = url.split_once("://").ok_or(EndpointError::NotAbsolute)?;
    let scheme = Scheme::parse(scheme).ok_or(EndpointError::Scheme)?;
    if rest.contains('#') {
        return Err(EndpointError::Fragment);
    }
    if rest.contains('?') {
        return Err(EndpointError::Query);
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let origin = Origin::parse(scheme, authority)?;
    check_path(path)?;
    Ok((origin, path.to_owned()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the endpoints are literals")]

    use super::*;

    #[test]
    fn the_environments_endpoints_are_read() {
        for (url, origin, path) in [
            ("http://169.254.169.254", "http://169.254.169.254", "/"),
            ("http://169.254.169.254:80/", "http://169.254.169.254", "/"),
            (
                "http://127.0.0.1:41741/msi/token",
                "http://127.0.0.1:41741",
                "/msi/token",
            ),
            (
                "HTTP://LocalHost:42356/MSI/token/",
                "http://localhost:42356",
                "/MSI/token/",
            ),
            ("http://[fe80::1]:2377/x", "http://[fe80::1]:2377", "/x"),
            ("http://8.8.8.8/", "http://8.8.8.8", "/"),
            ("https://10.0.0.4:2377/x", "https://10.0.0.4:2377", "/x"),
            ("HTTPS://localhost:443/x", "https://localhost", "/x"),
        ] {
            let endpoint = Endpoint::from_environment(url).unwrap();
            assert_eq!(endpoint.origin().to_string(), origin, "{url}");
            assert_eq!(endpoint.path(), &PathRule::Exact(path.to_owned()), "{url}");
            assert_eq!(
                (endpoint.methods(), endpoint.reach()),
                ([Method::GET].as_slice(), Reach::Local),
                "{url}"
            );
        }
    }

    #[test]
    fn a_grant_has_all_below_its_path_at_any_address() {
        let endpoint = Endpoint::granted("http://8.8.8.8/a").unwrap();
        assert_eq!(endpoint.path(), &PathRule::Below("/a".to_owned()));
        assert_eq!(endpoint.reach(), Reach::Any);
    }

    #[test]
    fn only_https_has_a_server_that_is_known_by_something() {
        let pin = Trust::Thumbprint([7; 20]);
        for make in [Endpoint::from_environment, Endpoint::granted] {
            let http = make("http://localhost/x").unwrap();
            assert_eq!(http.trust(), None);
            assert_eq!(http.with_trust(pin.clone()), Err(EndpointError::NotHttps));
            let https = make("https://localhost/x").unwrap();
            assert_eq!(https.trust(), Some(&Trust::SystemRoots));
            assert_eq!(https.with_trust(pin.clone()).unwrap().trust(), Some(&pin));
        }
    }

    #[test]
    fn other_urls_are_refused_without_being_repeated() {
        for (url, error) in [
            ("", EndpointError::NotAbsolute),
            ("localhost/hunter2", EndpointError::NotAbsolute),
            ("//localhost/hunter2", EndpointError::NotAbsolute),
            ("http:/localhost", EndpointError::NotAbsolute),
            ("ftp://localhost/hunter2", EndpointError::Scheme),
            (" http://localhost/hunter2", EndpointError::Scheme),
            ("httpss://localhost/hunter2", EndpointError::Scheme),
            ("http://localhost/x?key=hunter2", EndpointError::Query),
            ("http://localhost?key=hunter2", EndpointError::Query),
            ("http://localhost/x#hunter2", EndpointError::Fragment),
            ("http://", EndpointError::Origin(OriginFault::NoHost)),
            ("http:///x", EndpointError::Origin(OriginFault::NoHost)),
            (
                "http://user:hunter2@localhost/x",
                EndpointError::Origin(OriginFault::UserInformation),
            ),
            (
                "http://localhost\\@hunter2/x",
                EndpointError::Origin(OriginFault::UserInformation),
            ),
            ("http://local\thost/", EndpointError::Origin(OriginFault::Character)),
            ("http://[fe80::1%eth0]/", EndpointError::Origin(OriginFault::Character)),
            (
                "http://localhost/a/../hunter2",
                EndpointError::Path(PathFault::DotSegment),
            ),
            (
                "http://localhost/%68unter2",
                EndpointError::Path(PathFault::PercentEncoded),
            ),
            (
                "http://localhost/hunter2\r\n",
                EndpointError::Path(PathFault::PathCharacter),
            ),
        ] {
            let found = Endpoint::from_environment(url).unwrap_err();
            assert_eq!(found, error, "{url:?}");
            assert_eq!(Endpoint::granted(url).unwrap_err(), error, "{url:?}");
            assert!(!found.to_string().contains("hunter2"), "{found}");
        }
        let found = Endpoint::from_environment("http://127.1/x").unwrap_err().to_string();
        assert!(found.contains("127.0.0.1"), "{found}");
    }

    #[test]
    fn joined_paths_have_one_slash_between_them() {
        for (url, path) in [
            ("http://localhost", "/metadata/identity"),
            ("http://localhost/", "/metadata/identity"),
            ("http://localhost/a", "/a/metadata/identity"),
            ("http://localhost/a/", "/a/metadata/identity"),
        ] {
            let endpoint = Endpoint::from_environment(url)
                .unwrap()
                .join("/metadata/identity")
                .unwrap();
            assert_eq!(endpoint.path().path(), path);
        }
        let endpoint = Endpoint::from_environment("http://localhost/a").unwrap();
        assert_eq!(endpoint.join("/../b"), Err(EndpointError::Path(PathFault::DotSegment)));
    }

    #[test]
    fn a_rule_for_all_below_ends_at_a_slash() {
        for (rule, path, has) in [
            ("/msi", "/msi", true),
            ("/msi", "/msi/", true),
            ("/msi", "/msi/token", true),
            ("/msi", "/msitoken", false),
            ("/msi", "/MSI", false),
            ("/msi", "/", false),
            ("/msi/", "/msi/token", true),
            ("/msi/", "/msi", false),
            ("/", "/", true),
            ("/", "/anything/else", true),
        ] {
            assert_eq!(PathRule::Below(rule.to_owned()).has(path), has, "{rule} {path}");
            assert_eq!(
                PathRule::Exact(rule.to_owned()).has(path),
                rule == path,
                "{rule} {path}"
            );
        }
    }
}
