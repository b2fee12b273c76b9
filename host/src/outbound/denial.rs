//! Requests that were not sent, and why.

use super::address::AddressClass;
use super::origin::{Origin, OriginFault, PathFault};
use http::{HeaderName, Method, Uri};
use std::net::IpAddr;

/// A request that was not sent, and why. Names no query and no header value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The request {method} {url} was not sent: it {reason}.")]
pub struct Denial {
    /// The method.
    pub method: Method,
    /// Where the request was to go: scheme, host, port and path, escaped and cut off if long.
    pub url: String,
    /// Why not.
    pub reason: DenialReason,
}

impl Denial {
    pub(crate) fn new(method: &Method, uri: &Uri, reason: DenialReason) -> Self {
        Self {
            method: method.clone(),
            url: printable(uri),
            reason,
        }
    }
}

/// Why a request was not sent. Reads as the end of a sentence that begins with "The request".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DenialReason {
    /// No scheme, or another one than `http` and `https`.
    #[error("has another scheme than http or https")]
    Scheme,
    /// Host or port are not in canonical form.
    #[error(transparent)]
    OriginFault(#[from] OriginFault),
    /// Path or query can be read in two ways.
    #[error(transparent)]
    PathFault(#[from] PathFault),
    /// No endpoint has this scheme, host and port.
    #[error("is for another origin than the identity endpoint's")]
    Origin,
    /// The origin is permitted, this path is not.
    #[error("is for another path than the identity endpoint's")]
    Path,
    /// Origin and path are permitted, this method is not.
    #[error("has a method that the identity endpoint does not have")]
    Method,
    /// The endpoint is where no identity endpoint that the environment names may be.
    #[error("{}", address_text(origin, addresses))]
    Address {
        /// The origin that leads there.
        origin: Origin,
        /// All its addresses; none of them is permitted.
        addresses: Vec<IpAddr>,
    },
    /// The caller's grant does not have this origin.
    #[error("is for an origin that its caller is not granted")]
    NotGranted,
    /// The origin is one that no plugin may reach, whatever it is granted: this machine (unless that is what the origin
    /// says), the link, the platform, the identity endpoint.
    #[error("would go to {}, which is out of reach for plugins", list(addresses, origin))]
    OutOfReach {
        /// The origin that leads there.
        origin: Origin,
        /// All its addresses; none of them may be reached. Empty where the origin itself may not.
        addresses: Vec<IpAddr>,
    },
    /// A field that is not the component's to set.
    #[error("has the header field {0}, which only the host may set")]
    HeaderField(HeaderName),
}

/// How much of an address list a message has.
const ADDRESSES_PRINTED: usize = 4;

/// The addresses, or where there are none the origin.
fn list(addresses: &[IpAddr], origin: &Origin) -> String {
    if addresses.is_empty() {
        return origin.to_string();
    }
    let printed = addresses.iter().take(ADDRESSES_PRINTED).map(ToString::to_string);
    printed.collect::<Vec<_>>().join(", ")
}

fn address_text(origin: &Origin, addresses: &[IpAddr]) -> String {
    let list = list(addresses, origin);
    if addresses
        .iter()
        .any(|address| AddressClass::of(*address) == AddressClass::Public)
    {
        format!("would go to the public address {list}; if that is meant, permit it with --allow-endpoint {origin}")
    } else {
        format!("would go to {list}, which is no address of a single host")
    }
}

/// The longest URL in a message, in characters.
const PRINTED_URL_LIMIT: usize = 200;

/// `uri` without user information and query, fit for a log line whatever it was made of.
pub(super) fn printable(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit('@').next().unwrap_or_default();
    let url = format!("{}://{host}{}", uri.scheme_str().unwrap_or("(no scheme)"), uri.path());
    let mut text: String = url
        .chars()
        .flat_map(char::escape_debug)
        .take(PRINTED_URL_LIMIT)
        .collect();
    if url.len() > PRINTED_URL_LIMIT {
        text.push('\u{2026}');
    }
    text
}
