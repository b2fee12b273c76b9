//! Which request gets which token.

use arc_swap::ArcSwapOption;
use managed_identity_host::{AccessToken, Secret, TokenRequest};
use std::sync::Arc;

/// A token with the value of the header that carries it.
pub(crate) struct Carried {
    pub(crate) token: Arc<AccessToken>,
    pub(crate) value: Secret,
}

/// What a request must be, and what it is given.
pub(crate) struct Rule {
    pub(crate) host: Option<Host>,
    /// A prefix of the path that ends at a segment's end.
    pub(crate) path: Option<String>,
    /// The name of the route that Envoy has chosen.
    pub(crate) route: Option<String>,
    pub(crate) request: TokenRequest,
    carried: ArcSwapOption<Carried>,
}

/// One host, or all below a domain.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Exactly(String),
    Below(String),
}

/// What rules look at. Each is asked for only when a rule needs it.
pub(crate) trait Asked {
    fn host(&self) -> Option<&[u8]>;
    fn path(&self) -> Option<&[u8]>;
    fn route(&self) -> Option<&[u8]>;
}

impl Rule {
    pub(crate) fn new(request: TokenRequest) -> Self {
        Self {
            host: None,
            path: None,
            route: None,
            request,
            carried: ArcSwapOption::empty(),
        }
    }

    pub(crate) fn matches(&self, asked: &impl Asked) -> bool {
        let host = |host: &Host| asked.host().is_some_and(|name| host.has(name));
        let path = |prefix: &String| asked.path().is_some_and(|path| is_below(path, prefix.as_bytes()));
        let route = |name: &String| asked.route() == Some(name.as_bytes());
        self.host.as_ref().is_none_or(host)
            && self.path.as_ref().is_none_or(path)
            && self.route.as_ref().is_none_or(route)
    }

    /// The header's value for a token. It is made once for each token.
    pub(crate) fn carried(&self, token: &Arc<AccessToken>) -> Arc<Carried> {
        if let Some(carried) = &*self.carried.load()
            && Arc::ptr_eq(&carried.token, token)
        {
            return Arc::clone(carried);
        }
        let (kind, text) = (token.token_type.as_str(), token.token.expose());
        // At its full length at once, so that no outgrown copy stays behind.
        let mut value = String::with_capacity(kind.len() + 1 + text.len());
        value.extend([kind, " ", text]);
        let carried = Arc::new(Carried {
            token: Arc::clone(token),
            value: Secret::new(value),
        });
        self.carried.store(Some(Arc::clone(&carried)));
        carried
    }
}

impl Host {
    /// Whether this is the host of an authority, whatever its port and case.
    fn has(&self, authority: &[u8]) -> bool {
        let name = without_port(authority);
        match self {
            Self::Exactly(own) => name.eq_ignore_ascii_case(own.as_bytes()),
            Self::Below(domain) => name
                .len()
                .checked_sub(domain.len() + 1)
                .filter(|dot| *dot > 0)
                .is_some_and(|dot| name[dot] == b'.' && name[dot + 1..].eq_ignore_ascii_case(domain.as_bytes())),
        }
    }
}

fn without_port(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|byte| *byte == b':') {
        Some(colon) if authority[colon + 1..].iter().all(u8::is_ascii_digit) => &authority[..colon],
        _ => authority,
    }
}

fn is_below(path: &[u8], prefix: &[u8]) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| prefix.ends_with(b"/") || matches!(rest.first(), None | Some(b'/' | b'?' | b'#')))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Request(&'static str, &'static str, &'static str);

    impl Asked for Request {
        fn host(&self) -> Option<&[u8]> {
            Some(self.0.as_bytes())
        }
        fn path(&self) -> Option<&[u8]> {
            Some(self.1.as_bytes())
        }
        fn route(&self) -> Option<&[u8]> {
            Some(self.2.as_bytes())
        }
    }

    #[test]
    fn a_rule_is_for_its_host_path_and_route() {
        let exactly = || Some(Host::Exactly("a.example".to_owned()));
        let below = || Some(Host::Below("vault.azure.net".to_owned()));
        let text = |text: &str| Some(text.to_owned());
        for (host, path, route, request, expected) in [
            (None, None, None, Request("x", "/", ""), true),
            (exactly(), None, None, Request("a.example", "/", ""), true),
            (exactly(), None, None, Request("A.Example:8443", "/", ""), true),
            (exactly(), None, None, Request("b.a.example", "/", ""), false),
            (below(), None, None, Request("x.vault.azure.net", "/", ""), true),
            (below(), None, None, Request("x.y.VAULT.azure.net:443", "/", ""), true),
            (below(), None, None, Request("vault.azure.net", "/", ""), false),
            (below(), None, None, Request(".vault.azure.net", "/", ""), false),
            (below(), None, None, Request("evilvault.azure.net", "/", ""), false),
            (below(), None, None, Request("x.vault.azure.net.evil", "/", ""), false),
            (None, text("/a"), None, Request("x", "/a", ""), true),
            (None, text("/a"), None, Request("x", "/a/b", ""), true),
            (None, text("/a"), None, Request("x", "/a?q", ""), true),
            (None, text("/a"), None, Request("x", "/ab", ""), false),
            (None, text("/a/"), None, Request("x", "/a/b", ""), true),
            (None, text("/a/"), None, Request("x", "/a", ""), false),
            (None, None, text("r"), Request("x", "/", "r"), true),
            (None, None, text("r"), Request("x", "/", "s"), false),
            (exactly(), text("/a"), text("r"), Request("a.example", "/a", "s"), false),
        ] {
            let mut rule = Rule::new(TokenRequest::new("https://audience.example"));
            (rule.host, rule.path, rule.route) = (host, path, route);
            let Request(host, path, route) = request;
            assert_eq!(
                rule.matches(&request),
                expected,
                "{host} {path} {route} {:?}",
                rule.host
            );
        }
    }
}
