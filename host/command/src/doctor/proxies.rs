//! Proxies that other clients would obey and this host does not.
//!
//! The metadata service and its kind are for their own machine: a request that a proxy passes on is answered for the proxy's
//! machine, or not at all. So this host connects directly, whatever the variables say ("Azure Instance Metadata Service",
//! proxies). The SDKs' HTTP clients obey the variables.

use super::line::{Check, Line, documentation};
use super::variables::Variables;
use managed_identity_host::outbound::{Endpoint, Origin, Scheme};

/// The variables that curl, Python's requests, Go and reqwest read.
const OF_HTTP: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
const OF_HTTPS: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
const EXCEPTIONS: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// Looks at the variables that count for requests to this endpoint.
pub(super) fn check(variables: &Variables, endpoint: Option<&str>) -> Vec<Line> {
    let Some(endpoint) = endpoint.and_then(|endpoint| Endpoint::granted(endpoint).ok()) else {
        return vec![Line::skipped(
            Check::Proxies,
            "There is no endpoint that a proxy could be on the way to.",
        )];
    };
    let origin = endpoint.origin();
    let is_http = origin.scheme() == Scheme::Http;
    let candidates = if is_http { OF_HTTP } else { OF_HTTPS };
    let set: Vec<&str> = candidates
        .into_iter()
        .filter(|name| variables.get(name).is_some())
        .collect();
    let excepted = EXCEPTIONS
        .iter()
        .find(|name| variables.get(name).is_some_and(|list| excepts(list, origin)));
    if set.is_empty() {
        let found = "No variable names a proxy for requests to the endpoint.";
        return vec![Line::pass(
            Check::Proxies,
            found,
            "Other clients connect directly, too.",
        )];
    }
    if let Some(exception) = excepted {
        let found = format!(
            "{} names a proxy, and {exception} has the endpoint's host.",
            set.join(", ")
        );
        return vec![Line::pass(
            Check::Proxies,
            found,
            "Clients that obey the one obey the other.",
        )];
    }
    let lines = set.into_iter().map(|name| {
        // The value may hold a password in any place, so nothing of it is shown.
        let has_user = variables.get(name).is_some_and(|value| value.contains('@'));
        let secret = if has_user { ", with a user name or password," } else { "" };
        let found = format!("{name} names a proxy{secret} for requests to the endpoint. This program does not use it.");
        if is_http {
            Line::warn(
                Check::Proxies,
                found,
                "Azure SDKs and curl obey it: they ask the proxy, which answers for another machine, with an error page, or \
                 learns the secret of the endpoint.",
                format!("Add {} to NO_PROXY and no_proxy.", host(origin)),
            )
            .see(format!("{}: proxies", documentation::METADATA_SERVICE))
        } else {
            Line::warn(
                Check::Proxies,
                found,
                "Azure SDKs and curl obey it. If it is the only way out of this network, they reach the authority and this \
                 program does not.",
                format!(
                    "Let connections to {} pass directly, or see the line of the connection if they do.",
                    host(origin)
                ),
            )
        }
    });
    lines.collect()
}

/// The host as it stands in `NO_PROXY`.
fn host(origin: &Origin) -> String {
    match origin.address() {
        Some(address) => address.to_string(),
        None => origin.host().to_string(),
    }
}

/// Whether a list of exceptions has this host, as all clients read it: whole names and addresses, domains, `*`. Ranges of
/// addresses only some of them know, so they do not count.
fn excepts(list: &str, origin: &Origin) -> bool {
    let host = host(origin);
    let with_port = format!("{host}:{}", origin.port());
    list.split(',').map(str::trim).any(|entry| {
        let entry = entry.trim_matches(['[', ']']).to_ascii_lowercase();
        let domain = entry.trim_start_matches("*.").trim_start_matches('.');
        entry == "*"
            || entry == host
            || entry == with_port
            || (!domain.is_empty()
                && origin.address().is_none()
                && (host == domain || host.ends_with(&format!(".{domain}"))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::line::Status;

    const IMDS: &str = "http://169.254.169.254/metadata/identity/oauth2/token";
    const ENTRA: &str = "https://login.microsoftonline.com/t/oauth2/v2.0/token";
    const PROXY: &str = "http://user:hunter2@proxy.example:3128";

    fn statuses(variables: &[(&str, &str)], endpoint: &str) -> Vec<Status> {
        let variables = variables
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        let lines = check(&variables, Some(endpoint));
        for line in &lines {
            let json = line.json().to_string();
            assert!(!json.contains("hunter2") && !json.contains("proxy.example"), "{json}");
        }
        lines.into_iter().map(|line| line.status).collect()
    }

    #[test]
    fn a_proxy_on_the_way_is_a_warning_unless_the_host_is_excepted() {
        use Status::{Pass, Warn};
        for (variables, endpoint, expected) in [
            (&[][..], IMDS, &[Pass][..]),
            (&[("HTTP_PROXY", "")], IMDS, &[Pass]),
            (&[("HTTP_PROXY", PROXY)], IMDS, &[Warn]),
            (&[("http_proxy", PROXY), ("ALL_PROXY", PROXY)], IMDS, &[Warn, Warn]),
            (&[("HTTPS_PROXY", PROXY)], IMDS, &[Pass]),
            (&[("HTTPS_PROXY", PROXY)], ENTRA, &[Warn]),
            (&[("HTTP_PROXY", PROXY)], ENTRA, &[Pass]),
            (
                &[("HTTP_PROXY", PROXY), ("NO_PROXY", "localhost, 169.254.169.254")],
                IMDS,
                &[Pass],
            ),
            (&[("HTTP_PROXY", PROXY), ("no_proxy", "*")], IMDS, &[Pass]),
            (&[("HTTP_PROXY", PROXY), ("NO_PROXY", "169.254.0.0/16")], IMDS, &[Warn]),
            (&[("HTTP_PROXY", PROXY), ("NO_PROXY", "254")], IMDS, &[Warn]),
            (&[("HTTP_PROXY", PROXY), ("NO_PROXY", ",")], IMDS, &[Warn]),
            (
                &[("HTTPS_PROXY", PROXY), ("NO_PROXY", ".microsoftonline.com")],
                ENTRA,
                &[Pass],
            ),
            (&[("HTTPS_PROXY", PROXY), ("NO_PROXY", "online.com")], ENTRA, &[Warn]),
            (
                &[("HTTPS_PROXY", PROXY), ("NO_PROXY", "login.microsoftonline.com:443")],
                ENTRA,
                &[Pass],
            ),
        ] {
            assert_eq!(statuses(variables, endpoint), expected, "{variables:?} {endpoint}");
        }
    }
}
