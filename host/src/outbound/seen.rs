//! What is remembered of a reply, for whoever looks into a failure.

use http::{Response, header};
use managed_identity_provider::expiry::http_date;
use std::time::{Duration, SystemTime};

/// The latest reply of an endpoint, as far as it tells about the way there and about clocks. Nothing is kept of its body, nor
/// of any field that could hold a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeenReply {
    /// Its status.
    pub status: u16,
    /// The endpoint's time, in seconds since 1970, if it said that in a form that can be read (`Date`).
    pub date: Option<u64>,
    /// The time here when its head was there, in seconds since 1970.
    pub received: u64,
    /// How long that took, from when the request was made.
    pub took: Duration,
}

impl SeenReply {
    pub(super) fn of<B>(reply: &Response<B>, took: Duration) -> Self {
        let date = reply.headers().get(header::DATE);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            status: reply.status().as_u16(),
            date: date.and_then(|date| http_date(date.to_str().ok()?)),
            received: now.map_or(0, |now| now.as_secs()),
            took,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the replies are literals")]

    use super::*;

    #[test]
    fn a_date_counts_if_it_can_be_read() {
        for (date, expected) in [
            (Some("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777)),
            (Some("now"), None),
            (Some("\u{e9}"), None),
            (None, None),
        ] {
            let mut reply = Response::builder().status(418);
            if let Some(date) = date {
                reply = reply.header(header::DATE, date);
            }
            let seen = SeenReply::of(&reply.body(()).unwrap(), Duration::from_millis(5));
            assert_eq!((seen.status, seen.date), (418, expected), "{date:?}");
            assert_eq!(seen.took, Duration::from_millis(5));
            assert!(seen.received > 1_700_000_000);
        }
    }
}
