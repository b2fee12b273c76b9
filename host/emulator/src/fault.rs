//! Faults: ways in which the next replies differ from the documented one.
//!
//! A fault says which requests it strikes (a source, a resource, the next so many), what they are answered, and how the
//! answer travels. Faults are looked at in the order in which they were added; the first that matches strikes, alone.
//!
//! From outside, faults are JSON objects, in `POST /control/faults` one, in `PUT /control/faults` a list that replaces
//! all. Every member may be left out; a fault without any strikes every token request and changes nothing.
//!
//! ```json
//! {
//!   "protocol": "imds",
//!   "resource": "https://vault.azure.net",
//!   "times": 2,
//!   "delay_ms": 250,
//!   "status": 429,
//!   "headers": {"retry-after": "1"},
//!   "body": {"error": "too_many_requests"}
//! }
//! ```
//!
//! `protocol` is the [name](Source::name) of a source. `resource` is the one that is asked for, which workload identity
//! calls a scope: there it is the scope without its `/.default`.
//!
//! `body` is sent as it is when it is a string, and as JSON otherwise. With `status` or `body` the documented reply is
//! replaced (by status 200, an empty body, where only the other is given); `headers` are added to either. Instead of
//! arriving whole, the reply may suffer one of these:
//!
//! - `"hang": true`: it never comes;
//! - `"close": true`: the connection is closed instead;
//! - `"drip": {"interval_ms": 100}`: its body comes one byte per interval;
//! - `"endless_body_bytes": 50000000`: spaces follow its body, up to so many bytes in all, in chunks without a length;
//! - `"truncate": {"after_bytes": 20}`: the connection is closed after so many bytes of the body, short of its
//!   `Content-Length`;
//! - `"reset": true`: the connection is reset instead (RST), which clients see as an error and not as an end;
//! - `"raw": "SSH-2.0-emulator\r\n"`: the connection carries this text, which need not be HTTP, and is closed;
//! - `"endless_header_bytes": 50000000`: a reply begins, and one of its headers has so many bytes and no end;
//! - `"interim_replies": 1000`: so many interim replies (`103 Early Hints`) come first.
//!
//! # Examples
//!
//! A pod identity that is still being assigned, and Docker Desktop, which has no metadata service:
//!
//! ```json
//! [
//!   {"protocol": "nmi", "times": 1, "status": 503, "headers": {"retry-after": "20"}},
//!   {"protocol": "imds", "status": 403, "body": "connecting to 169.254.169.254:80: unreachable network"}
//! ]
//! ```

mod document;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

pub(crate) use document::FaultDocument;

use crate::protocol::Source;
use crate::reply::Reply;

/// A way in which replies differ from the documented one. See the [module](self) for the JSON form.
///
/// ```
/// use managed_identity_emulator::{Fault, Source, http::StatusCode};
/// use std::time::Duration;
///
/// let throttled_twice = Fault::reply(StatusCode::TOO_MANY_REQUESTS, "").on(Source::Imds).times(2);
/// let slow = Fault::delay(Duration::from_millis(250)).for_resource("https://vault.azure.net");
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    source: Option<Source>,
    resource: Option<String>,
    times: Option<u64>,
    delay: Duration,
    instead: Option<(StatusCode, Bytes)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    delivery: Delivery,
}

/// How a reply travels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Delivery {
    #[default]
    Whole,
    Hang,
    Close,
    Drip {
        interval: Duration,
    },
    Endless {
        bytes: u64,
    },
    Truncated {
        after_bytes: usize,
    },
    Reset,
    Raw(Bytes),
    EndlessHeader {
        bytes: u64,
    },
    InterimReplies {
        count: u64,
    },
}

impl Fault {
    /// Answers with this status and body instead of the documented ones.
    pub fn reply(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self {
            instead: Some((status, body.into())),
            ..Self::delivered(Delivery::Whole)
        }
    }

    /// Answers as documented, but later.
    pub fn delay(delay: Duration) -> Self {
        Self::delivered(Delivery::Whole).delayed(delay)
    }

    /// Never answers.
    pub fn hang() -> Self {
        Self::delivered(Delivery::Hang)
    }

    /// Closes the connection instead of answering.
    pub fn close() -> Self {
        Self::delivered(Delivery::Close)
    }

    /// Sends the documented reply's body one byte per interval.
    pub fn drip(interval: Duration) -> Self {
        Self::delivered(Delivery::Drip { interval })
    }

    /// Sends the documented reply's body and then spaces, up to so many bytes in all.
    pub fn endless(bytes: u64) -> Self {
        Self::delivered(Delivery::Endless { bytes })
    }

    /// Closes the connection after so many bytes of the documented reply's body, short of its `Content-Length`.
    pub fn truncate(after_bytes: usize) -> Self {
        Self::delivered(Delivery::Truncated { after_bytes })
    }

    /// Resets the connection instead of answering.
    pub fn reset() -> Self {
        Self::delivered(Delivery::Reset)
    }

    /// Sends these bytes, which need not be HTTP, and closes the connection.
    pub fn raw(bytes: impl Into<Bytes>) -> Self {
        Self::delivered(Delivery::Raw(bytes.into()))
    }

    /// Begins a reply with a header of so many bytes, and closes the connection before the header ends.
    pub fn endless_header(bytes: u64) -> Self {
        Self::delivered(Delivery::EndlessHeader { bytes })
    }

    /// Sends so many interim replies (`103 Early Hints`) before the documented one.
    pub fn interim_replies(count: u64) -> Self {
        Self::delivered(Delivery::InterimReplies { count })
    }

    fn delivered(delivery: Delivery) -> Self {
        Self {
            source: None,
            resource: None,
            times: None,
            delay: Duration::ZERO,
            instead: None,
            headers: Vec::new(),
            delivery,
        }
    }

    /// Strikes requests to this source only.
    #[must_use]
    pub fn on(mut self, source: Source) -> Self {
        self.source = Some(source);
        self
    }

    /// Strikes requests for exactly this resource only.
    #[must_use]
    pub fn for_resource(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Strikes this many requests and is then gone. Without a number it stays until faults are cleared.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Waits before doing anything else.
    #[must_use]
    pub fn delayed(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sends this header too, in place of one of the same name.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    fn is_unspent(&self) -> bool {
        self.times != Some(0)
    }

    fn strikes(&self, source: Source, resource: Option<&str>) -> bool {
        self.source.is_none_or(|wanted| wanted == source)
            && self.resource.as_deref().is_none_or(|wanted| Some(wanted) == resource)
    }

    pub(crate) fn waits(&self) -> Duration {
        self.delay
    }

    pub(crate) fn delivery(&self) -> Delivery {
        self.delivery.clone()
    }

    /// The reply to send, given the documented one, which is asked for only where it is needed.
    pub(crate) fn altered(&self, documented: impl FnOnce() -> Reply) -> Reply {
        let mut reply = match &self.instead {
            Some((status, body)) => Reply::new(*status, body.clone()),
            None => documented(),
        };
        reply.headers.extend_from_slice(&self.headers);
        reply
    }
}

/// The faults that wait for requests.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    pub(crate) fn add(&self, fault: Fault) {
        self.lock().extend(Some(fault).filter(Fault::is_unspent));
    }

    pub(crate) fn replace(&self, mut faults: Vec<Fault>) {
        faults.retain(Fault::is_unspent);
        *self.lock() = faults;
    }

    pub(crate) fn list(&self) -> Vec<Fault> {
        self.lock().clone()
    }

    /// The fault that strikes a request, which thereby counts as struck.
    pub(crate) fn strike(&self, source: Source, resource: Option<&str>) -> Option<Fault> {
        let mut faults = self.lock();
        let fault = faults.iter_mut().find(|fault| fault.strikes(source, resource))?;
        fault.times = fault.times.map(|times| times - 1);
        let struck = fault.clone();
        faults.retain(Fault::is_unspent);
        Some(struck)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VAULT: Option<&str> = Some("https://vault.azure.net");

    #[test]
    fn a_fault_strikes_what_it_names_and_as_often_as_it_says() {
        let faults = Faults::default();
        faults.add(
            Fault::hang()
                .on(Source::Imds)
                .for_resource("https://vault.azure.net")
                .times(2),
        );
        for (source, resource, struck) in [
            (Source::AppService, VAULT, false),
            (Source::Imds, Some("https://storage.azure.com"), false),
            (Source::Imds, None, false),
            (Source::Imds, VAULT, true),
            (Source::Imds, VAULT, true),
            (Source::Imds, VAULT, false),
        ] {
            assert_eq!(
                faults.strike(source, resource).is_some(),
                struck,
                "{source:?} {resource:?}"
            );
        }
    }

    #[test]
    fn the_first_matching_fault_strikes_alone() {
        let faults = Faults::default();
        faults.add(Fault::close().times(1));
        faults.add(Fault::hang());
        faults.add(Fault::close().times(0));
        let struck: Vec<_> = (0..3)
            .filter_map(|_| faults.strike(Source::Imds, VAULT))
            .map(|fault| fault.delivery())
            .collect();
        assert_eq!(struck, [Delivery::Close, Delivery::Hang, Delivery::Hang]);
        assert_eq!(faults.list().len(), 1, "spent faults are gone");
        faults.replace(Vec::new());
        assert!(faults.strike(Source::Imds, VAULT).is_none());
    }
}
