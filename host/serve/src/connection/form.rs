//! Which requests are answered at all: those about whose meaning no two programs can differ.
//!
//! hyper refuses what it cannot read. What it reads more leniently than is safe next to a proxy, or what is for proxies, is
//! refused here.

use crate::protocol::Reply;
use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Body;

/// With what a request is refused, before its connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused(StatusCode);

impl Refused {
    pub(super) const BAD_REQUEST: Self = Self(StatusCode::BAD_REQUEST);
    pub(super) const TOO_LARGE: Self = Self(StatusCode::PAYLOAD_TOO_LARGE);
    const LENGTH_REQUIRED: Self = Self(StatusCode::LENGTH_REQUIRED);

    pub(super) fn reply(self) -> Reply {
        let mut reply = Response::new(Full::new(Bytes::new()));
        *reply.status_mut() = self.0;
        reply
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        reply
    }
}

/// Whether a request is answered.
pub(super) fn check(request: &Parts, body: &impl Body, most: usize) -> Result<(), Refused> {
    // Only a path and a query (RFC 9112, 3.2.1). The other forms of targets are for proxies, which this is none; whoever is
    // taken for one gives tokens to those who were to ask somebody else.
    let target = &request.uri;
    let is_path = target.scheme().is_none() && target.authority().is_none() && target.path().starts_with('/');
    if !is_path || request.method == Method::CONNECT {
        return Err(Refused::BAD_REQUEST);
    }
    if !target.path_and_query().is_some_and(|target| target.as_str().is_ascii()) {
        return Err(Refused::BAD_REQUEST);
    }
    let mut hosts = request.headers.get_all(HOST).iter();
    // RFC 9112, 3.2.
    let has_host = hosts.next().is_some() || request.version < Version::HTTP_11;
    if !has_host || hosts.next().is_some() {
        return Err(Refused::BAD_REQUEST);
    }
    // Clients of ours have no body that they do not know the length of. Without this coding there are no two lengths that
    // could contradict each other (RFC 9112, 6.1); hyper has already dropped the other, so that it cannot be looked for.
    if request.headers.contains_key(TRANSFER_ENCODING) {
        return Err(Refused::LENGTH_REQUIRED);
    }
    if request
        .headers
        .values()
        .any(|value| std::str::from_utf8(value.as_bytes()).is_err())
    {
        return Err(Refused::BAD_REQUEST);
    }
    let length = body.size_hint().lower();
    if usize::try_from(length).is_ok_and(|length| length <= most) {
        Ok(())
    } else {
        Err(Refused::TOO_LARGE)
    }
}
