//! Which failures are worth another try, and when.

use crate::expiry::http_date;
use crate::platform::HttpReply;
use std::time::Duration;

/// The longest wait that a reply can ask for. Longer ones are cut: a day is past every token's refresh.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How one source wants to be tried again. Delays grow exponentially with full jitter: the n-th is drawn evenly from
/// zero (or [`RetryPolicy::floor`]) to `base * 2^n`, at most `cap`.
#[derive(Debug)]
pub struct RetryPolicy {
    /// Statuses that are tried again. All 5xx are named by 500.
    pub statuses: &'static [u16],
    /// Tries in all, the first included.
    pub attempts: u32,
    /// Tries in all when the connection itself fails: where nothing listens, nothing will.
    pub connection_attempts: u32,
    /// The upper bound of the first delay.
    pub base: Duration,
    /// The lower bound of every delay.
    pub floor: Duration,
    /// The upper bound of every delay that the platform did not ask for.
    pub cap: Duration,
    /// For how long 410 is tried again, regardless of the number of tries.
    pub updating: Duration,
}

/// The metadata service: 404, 410, 429 and 5xx, at least a second apart, 410 for 70 seconds ("How to use managed
/// identities … to acquire an access token", section on error handling). Azure's own clients stop after about six tries.
pub static IMDS: RetryPolicy = RetryPolicy {
    statuses: &[404, 410, 429, 500],
    attempts: 6,
    connection_attempts: 3,
    base: Duration::from_secs(2),
    floor: Duration::from_secs(1),
    cap: Duration::from_secs(20),
    updating: Duration::from_secs(70),
};

/// A service without rules of its own, on the same machine mostly: the statuses that RFC 9110 calls temporary. Entra's token
/// endpoint has no others.
pub static LOCAL_SERVICE: RetryPolicy = RetryPolicy {
    statuses: &[408, 429, 500],
    attempts: 5,
    connection_attempts: 3,
    base: Duration::from_millis(500),
    floor: Duration::from_millis(100),
    cap: Duration::from_secs(10),
    updating: Duration::ZERO,
};

/// The agent of Azure Arc: as a service of this machine, and it passes on that the platform is being updated. 404 says
/// that it does not have the identity, which no second try changes.
pub static AZURE_ARC: RetryPolicy = RetryPolicy {
    statuses: &[408, 410, 429, 500],
    updating: IMDS.updating,
    ..LOCAL_SERVICE
};

impl RetryPolicy {
    /// Whether a reply with this status may be followed by another try.
    #[must_use]
    pub fn covers(&self, status: u16) -> bool {
        let class = if status >= 500 { 500 } else { status };
        self.statuses.contains(&class)
    }

    /// The delay before try `attempt + 1`, where the first try is number 1; `random` is drawn for each delay.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: u64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(16);
        let upper = (self.base * (1 << doublings)).min(self.cap).max(self.floor);
        let spread = (upper - self.floor).as_millis().min(u128::from(u32::MAX)) as u64;
        self.floor + Duration::from_millis(random % (spread + 1))
    }
}

/// What a reply says about when to come back: milliseconds (`retry-after-ms`, `x-ms-retry-after-ms`, which Azure services
/// send), or `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3).
#[must_use]
pub fn retry_after(reply: &HttpReply, now: u64) -> Option<Duration> {
    let milliseconds = ["retry-after-ms", "x-ms-retry-after-ms"]
        .iter()
        .find_map(|name| reply.header(name)?.trim().parse().ok())
        .map(Duration::from_millis);
    let wait = milliseconds.or_else(|| {
        let text = reply.header("retry-after")?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        http_date(text).map(|date| Duration::from_secs(date.saturating_sub(now)))
    })?;
    Some(wait.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_statuses_are_tried_again_and_no_others() {
        for (policy, yes, no) in [
            (
                &IMDS,
                &[404, 410, 429, 500, 502, 503, 504, 599][..],
                &[200, 302, 400, 401, 403, 405, 408][..],
            ),
            (
                &LOCAL_SERVICE,
                &[408, 429, 500, 503],
                &[200, 302, 400, 401, 403, 404, 410],
            ),
        ] {
            assert!(yes.iter().all(|status| policy.covers(*status)));
            assert!(!no.iter().any(|status| policy.covers(*status)));
        }
    }

    #[test]
    fn delays_grow_within_their_bounds() {
        for policy in [&IMDS, &LOCAL_SERVICE] {
            for attempt in 0..100 {
                let longest = policy.delay(attempt, u64::MAX);
                assert!(policy.delay(attempt, 0) == policy.floor && longest >= policy.floor && longest <= policy.cap);
            }
        }
        let full = (IMDS.base - IMDS.floor).as_millis() as u64;
        assert_eq!(IMDS.delay(1, full), IMDS.base);
    }

    #[test]
    fn every_form_of_retry_after_is_read() {
        let cases: &[(&[(&str, &str)], Option<u64>)] = &[
            (&[], None),
            (&[("retry-after", "2")], Some(2_000)),
            (&[("retry-after", " 2 ")], Some(2_000)),
            (&[("retry-after-ms", "150")], Some(150)),
            (&[("x-ms-retry-after-ms", "250"), ("retry-after", "9")], Some(250)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")], Some(37_000)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:48:37 GMT")], Some(0)),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "99999999999")], Some(24 * 3600 * 1000)),
            (&[("retry-after-ms", "x"), ("retry-after", "1")], Some(1_000)),
        ];
        for (headers, expected) in cases {
            let headers = headers
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect();
            let reply = HttpReply {
                status: 429,
                headers,
                ..HttpReply::default()
            };
            let wait = retry_after(&reply, 784_111_740);
            assert_eq!(
                wait.map(|wait| wait.as_millis() as u64),
                *expected,
                "{:?}",
                reply.headers
            );
        }
    }
}
