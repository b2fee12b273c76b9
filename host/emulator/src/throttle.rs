//! The throttle of the metadata service: so many requests a second, so many at once.
//!
//! "Azure Instance Metadata Service" (rate limiting) documents 20 requests per second and 5 at once for the identity
//! category, and status 429 for what exceeds them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use http::header::RETRY_AFTER;
use serde_json::json;
use tokio::time::Instant;

use crate::reply::Reply;
use crate::settings::RateLimit;

/// Counts requests. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Throttle(Arc<Mutex<Load>>);

#[derive(Debug, Default)]
struct Load {
    /// When the requests of the last second were accepted, oldest first.
    recent: VecDeque<Instant>,
    in_progress: u32,
}

/// A request in progress; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Place(Throttle);

impl Throttle {
    /// Accepts a request, or says that there are too many.
    pub(crate) fn admit(&self, limit: RateLimit, now: Instant) -> Option<Place> {
        let mut load = self.lock();
        while load
            .recent
            .front()
            .is_some_and(|accepted| now.duration_since(*accepted) >= Duration::from_secs(1))
        {
            load.recent.pop_front();
        }
        let within_rate = load.recent.len() < usize::try_from(limit.requests_per_second).unwrap_or(usize::MAX);
        if !within_rate || load.in_progress >= limit.concurrent {
            return None;
        }
        load.recent.push_back(now);
        load.in_progress += 1;
        Some(Place(self.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Load> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().in_progress -= 1;
    }
}

/// The refusal. The next second brings new places.
pub(crate) fn too_many_requests() -> Reply {
    let body = json!({"error": "invalid_request", "error_description": "Temporarily throttled, too many requests"});
    Reply::json(StatusCode::TOO_MANY_REQUESTS, &body).with(RETRY_AFTER, "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_beyond_the_rate_are_refused_until_a_second_has_passed() {
        let throttle = Throttle::default();
        let limit = RateLimit {
            requests_per_second: 2,
            concurrent: 100,
        };
        let start = Instant::now();
        for (milliseconds, admitted) in [
            (0, true),
            (500, true),
            (999, false),
            (1000, true),
            (1001, false),
            (1500, true),
        ] {
            let now = start + Duration::from_millis(milliseconds);
            assert_eq!(
                throttle.admit(limit, now).is_some(),
                admitted,
                "after {milliseconds} ms"
            );
        }
    }

    #[test]
    fn a_request_that_ends_makes_room_for_another() {
        let throttle = Throttle::default();
        let limit = RateLimit {
            requests_per_second: 100,
            concurrent: 2,
        };
        let now = Instant::now();
        let first = throttle.admit(limit, now);
        let _second = throttle.admit(limit, now);
        assert!(throttle.admit(limit, now).is_none());
        drop(first);
        assert!(throttle.admit(limit, now).is_some());
    }
}
