//! How often an endpoint is asked, by all of a process together.
//!
//! The metadata service takes 20 requests per second and five at once for its identity category, for the whole virtual
//! machine ("Azure Instance Metadata Service", section on rate limiting), and answers more with 429. Whatever number of
//! providers a process has, they share these places, in the order in which they ask.

use super::origin::Origin;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Mutex as FairMutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// How many requests an endpoint takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestLimits {
    /// How many may begin within any second. At least one.
    pub per_second: usize,
    /// How many may be under way at once. At least one.
    pub at_once: usize,
}

impl RequestLimits {
    /// Those of the instance metadata service's identity category.
    pub const METADATA_SERVICE: Self = Self {
        per_second: 20,
        at_once: 5,
    };
}

/// The places at one endpoint.
pub(super) struct Pace {
    at_once: Arc<Semaphore>,
    /// When the latest requests began. Who holds the lock is next.
    begun: FairMutex<VecDeque<Instant>>,
    per_second: usize,
}

impl Pace {
    fn new(limits: RequestLimits) -> Self {
        Self {
            at_once: Arc::new(Semaphore::new(limits.at_once.clamp(1, Semaphore::MAX_PERMITS))),
            begun: FairMutex::default(),
            per_second: limits.per_second.max(1),
        }
    }

    /// The one that all of this process share for `origin`.
    pub(super) fn shared(origin: &Origin, limits: RequestLimits) -> Arc<Self> {
        type Paces = HashMap<(Origin, RequestLimits), Weak<Pace>>;
        static PACES: LazyLock<Mutex<Paces>> = LazyLock::new(Mutex::default);
        let mut paces = PACES.lock().unwrap_or_else(PoisonError::into_inner);
        paces.retain(|_, pace| pace.strong_count() > 0);
        let known = (origin.clone(), limits);
        if let Some(pace) = paces.get(&known).and_then(Weak::upgrade) {
            return pace;
        }
        let pace = Arc::new(Self::new(limits));
        paces.insert(known, Arc::downgrade(&pace));
        pace
    }

    /// Waits for a turn. The request is under way until what is returned is dropped. Who stops waiting loses nothing but
    /// the place in the queue.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed. It and the lock are fair, so that the order is that of arrival.
        let place = Arc::clone(&self.at_once).acquire_owned().await.ok();
        let mut begun = self.begun.lock().await;
        while begun.len() >= self.per_second {
            if let Some(first) = begun.front() {
                sleep_until(*first + Duration::from_secs(1)).await;
            }
            begun.pop_front();
        }
        begun.push_back(Instant::now());
        place
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the origins are literals")]

    use super::super::origin::Scheme;
    use super::*;
    use futures_util::future::join_all;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::sleep;

    fn origin(authority: &str) -> Origin {
        Origin::parse(Scheme::Http, authority).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_begin_in_a_second_and_no_more_are_under_way_than_the_service_takes() {
        let pace = Pace::new(RequestLimits::METADATA_SERVICE);
        let under_way = AtomicUsize::new(0);
        let most = AtomicUsize::new(0);
        let begun: Vec<(usize, Instant)> = join_all((0..100).map(async |number| {
            let _place = pace.turn().await;
            let at = Instant::now();
            most.fetch_max(under_way.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            sleep(Duration::from_millis(30)).await;
            under_way.fetch_sub(1, Ordering::Relaxed);
            (number, at)
        }))
        .await;
        assert_eq!(most.into_inner(), 5);
        let mut by_time = begun.clone();
        by_time.sort_by_key(|(_, at)| *at);
        assert_eq!(by_time, begun, "the order is that of arrival");
        for window in by_time.windows(21) {
            assert!(window[20].1 - window[0].1 >= Duration::from_secs(1));
        }
        // Nor are they slower than that.
        assert!(by_time[99].1 - by_time[0].1 < Duration::from_millis(4_200));
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_the_queue_holds_up_nobody() {
        let pace = Pace::new(RequestLimits {
            per_second: 1,
            at_once: 1,
        });
        drop(pace.turn().await);
        let before = Instant::now();
        {
            let mut impatient = Box::pin(pace.turn());
            tokio::select! {
                _ = &mut impatient => panic!("the second is not over"),
                () = sleep(Duration::from_millis(500)) => {}
            }
        }
        drop(pace.turn().await);
        assert_eq!(before.elapsed(), Duration::from_secs(1));
    }

    #[test]
    fn one_endpoint_has_one_pace_in_a_process() {
        let limits = RequestLimits::METADATA_SERVICE;
        let (a, again) = (
            Pace::shared(&origin("192.0.2.1"), limits),
            Pace::shared(&origin("192.0.2.1:80"), limits),
        );
        assert!(Arc::ptr_eq(&a, &again));
        assert!(!Arc::ptr_eq(&a, &Pace::shared(&origin("192.0.2.2"), limits)));
    }
}
