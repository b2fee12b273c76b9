//! What is counted of each caller, whatever the policy of the moment.

use super::rate::{Bucket, Rate};
use super::{Caller, Grant};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many refusals of one caller are recorded, all of them at once or one after the other.
const RECORDED_REFUSALS: Rate = Rate::per_minute(NonZeroU32::MIN.saturating_add(599));

/// The counts of one caller. All who ask under its name share them.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) caller: Caller,
    all: Bucket,
    refreshing: Bucket,
    in_flight: AtomicU32,
    refusals: Bucket,
    unrecorded: AtomicU64,
}

impl Counts {
    fn new(caller: Caller, now: Instant) -> Self {
        Self {
            caller,
            all: Bucket::new(now),
            refreshing: Bucket::new(now),
            in_flight: AtomicU32::new(0),
            refusals: Bucket::new(now),
            unrecorded: AtomicU64::new(0),
        }
    }

    /// Counts a call.
    ///
    /// # Errors
    /// When there are too many: how long until there are not.
    pub(super) fn count(&self, grant: &Grant) -> Result<(), Duration> {
        match grant.rate {
            Some(rate) => self.all.take(rate, Instant::now()),
            None => Ok(()),
        }
    }

    /// Counts a call that no cache answers.
    ///
    /// # Errors
    /// When there are too many: how long until there are not.
    pub(super) fn count_refreshing(&self, grant: &Grant) -> Result<(), Duration> {
        self.refreshing.take(grant.refresh_rate, Instant::now())
    }

    /// Counts a call as under way for as long as its place is held, unless there are too many.
    pub(super) fn enter(self: &Arc<Self>, grant: &Grant) -> Option<Arc<Place>> {
        let next = |count: u32| (count < grant.in_flight).then(|| count.saturating_add(1));
        let entered = self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        entered.ok().map(|_| Arc::new(Place(Arc::clone(self))))
    }

    /// Whether a refusal is recorded. Those that are not are counted.
    pub(super) fn records_refusal(&self) -> bool {
        let recorded = self.refusals.take(RECORDED_REFUSALS, Instant::now()).is_ok();
        if !recorded {
            self.unrecorded.fetch_add(1, Ordering::Relaxed);
        }
        recorded
    }

    /// How many refusals have not been recorded, since this was asked last.
    pub(super) fn unrecorded(&self) -> u64 {
        self.unrecorded.swap(0, Ordering::Relaxed)
    }

    /// Whether nothing is lost when counting starts anew.
    fn is_idle(&self, now: Instant) -> bool {
        self.all.is_full(now)
            && self.refreshing.is_full(now)
            && self.refusals.is_full(now)
            && self.unrecorded.load(Ordering::Relaxed) == 0
    }
}

/// A call of one caller among those under way.
#[derive(Debug)]
pub(super) struct Place(Arc<Counts>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The counts of all callers. Those of callers who are gone are kept for as long as they limit anything, so that nobody
/// gets more by coming again; and no longer, so that a host may make up as many names as it likes.
#[derive(Debug, Default)]
pub(super) struct Register(Mutex<Callers>);

#[derive(Debug, Default)]
struct Callers {
    counts: HashMap<Caller, Arc<Counts>>,
    /// From how many on it is worth looking for those that are gone.
    look_at: usize,
}

/// With so few callers, nobody looks for those that are gone.
const FEW: usize = 64;

impl Register {
    pub(super) fn counts(&self, caller: Caller) -> Arc<Counts> {
        let mut callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = callers.counts.get(&caller) {
            return Arc::clone(counts);
        }
        let now = Instant::now();
        if callers.counts.len() >= callers.look_at.max(FEW) {
            callers
                .counts
                .retain(|_, counts| Arc::strong_count(counts) > 1 || !counts.is_idle(now));
            callers.look_at = callers.counts.len().saturating_mul(2);
        }
        let counts = Arc::new(Counts::new(caller.clone(), now));
        callers.counts.insert(caller, Arc::clone(&counts));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_one_count_and_it_outlives_whoever_asked() {
        let register = Register::default();
        let counts = register.counts(Caller::new("report"));
        assert!(Arc::ptr_eq(&counts, &register.counts(Caller::new("report"))));
        assert!(!Arc::ptr_eq(&counts, &register.counts(Caller::new("other"))));
        let grant = Grant::default().with_refresh_rate(Rate::per_hour(NonZeroU32::MIN));
        assert!(counts.count_refreshing(&grant).is_ok());
        drop(counts);
        // So many that those who are gone are looked for.
        for number in 0..10 * FEW {
            let _ = register.counts(Caller::new(&number.to_string()));
        }
        assert!(register.counts(Caller::new("report")).count_refreshing(&grant).is_err());
    }

    #[test]
    fn callers_who_are_gone_and_limited_by_nothing_are_forgotten() {
        let register = Register::default();
        let here = register.counts(Caller::new("here"));
        for number in 0..100 * FEW {
            let _ = register.counts(Caller::new(&number.to_string()));
        }
        let callers = register.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(callers.counts.len() <= 2 * FEW, "{}", callers.counts.len());
        assert!(callers.counts.contains_key(&here.caller));
    }

    #[test]
    fn calls_under_way_are_counted_up_and_down() {
        let register = Register::default();
        let counts = register.counts(Caller::new("report"));
        let grant = Grant::default().with_in_flight(2);
        let (first, second) = (counts.enter(&grant), counts.enter(&grant));
        assert!(first.is_some() && second.is_some());
        assert!(counts.enter(&grant).is_none());
        drop(first);
        assert!(counts.enter(&grant).is_some());
        assert!(counts.enter(&Grant::default().with_in_flight(0)).is_none());
    }

    #[test]
    fn refusals_are_recorded_up_to_a_limit_and_then_counted() {
        let register = Register::default();
        let counts = register.counts(Caller::new("report"));
        let recorded = (0..2000).filter(|_| counts.records_refusal()).count();
        // The bucket fills again while this runs.
        assert!((600..1500).contains(&recorded), "{recorded}");
        assert_eq!(counts.unrecorded(), 2000 - recorded as u64);
        assert_eq!(counts.unrecorded(), 0);
    }
}
