//! How often a caller may ask.
//!
//! A token bucket that keeps one number, the moment at which it would be full again: the generic cell rate algorithm of
//! ITU-T I.371. It needs no lock and no timer, and its state means the same whatever the rate is, so that another policy
//! may put another rate over it.

use super::PatternError;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// More than any caller needs, and what keeps the time between two requests a whole number of nanoseconds, nearly.
const LARGEST_COUNT: u32 = 1_000_000;

/// So many requests in a second, minute or hour: `100/minute`. All of them may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: NonZeroU32,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Unit {
    const ALL: [Self; 3] = [Self::Second, Self::Minute, Self::Hour];

    const fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
        }
    }

    const fn nanoseconds(self) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        match self {
            Self::Second => SECOND,
            Self::Minute => 60 * SECOND,
            Self::Hour => 3600 * SECOND,
        }
    }
}

impl Rate {
    /// So many requests a second.
    #[must_use]
    pub const fn per_second(count: NonZeroU32) -> Self {
        Self {
            count,
            unit: Unit::Second,
        }
    }

    /// So many requests a minute.
    #[must_use]
    pub const fn per_minute(count: NonZeroU32) -> Self {
        Self {
            count,
            unit: Unit::Minute,
        }
    }

    /// So many requests an hour.
    #[must_use]
    pub const fn per_hour(count: NonZeroU32) -> Self {
        Self {
            count,
            unit: Unit::Hour,
        }
    }

    /// Reads `100/minute`.
    ///
    /// # Errors
    /// When it is no rate.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        Self::read(text).ok_or_else(|| {
            PatternError::new(format!(
                "is no rate; write a number from 1 to {LARGEST_COUNT}, a slash, and `second`, `minute` or `hour`, such as \
                 `100/minute`"
            ))
        })
    }

    fn read(text: &str) -> Option<Self> {
        let (count, unit) = text.split_once('/')?;
        let unit = Unit::ALL.into_iter().find(|known| known.name() == unit)?;
        let read: NonZeroU32 = count.parse().ok()?;
        // `+1` and `01` are numbers too, but nobody means them.
        (read.get() <= LARGEST_COUNT && read.to_string() == count).then_some(Self { count: read, unit })
    }

    /// Nanoseconds in which the bucket gains room for one more request.
    fn interval(self) -> u64 {
        (self.unit.nanoseconds() / u64::from(self.count.get())).max(1)
    }
}

impl FromStr for Rate {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.count, self.unit.name())
    }
}

/// What a rate is counted in.
#[derive(Debug)]
pub(super) struct Bucket {
    start: Instant,
    /// When it is full again, in nanoseconds since `start`.
    full_at: AtomicU64,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            start: now,
            full_at: AtomicU64::new(0),
        }
    }

    /// Takes one request out.
    ///
    /// # Errors
    /// When it is empty: how long until it is not.
    pub(super) fn take(&self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let now = self.nanoseconds(now);
        let interval = rate.interval();
        let whole = interval.saturating_mul(u64::from(rate.count.get()));
        let mut wait = Duration::ZERO;
        let taken = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                // Under a slower rate before this one, it may have been emptier than this one can be.
                let missing = full_at.saturating_sub(now).min(whole);
                let missing = missing.saturating_add(interval);
                wait = Duration::from_nanos(missing.saturating_sub(whole));
                wait.is_zero().then(|| now.saturating_add(missing))
            });
        taken.map(|_| ()).map_err(|_| wait)
    }

    /// Whether nothing is lost when another takes its place.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.full_at.load(Ordering::Relaxed) <= self.nanoseconds(now)
    }

    fn nanoseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the rates are literals")]

    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    /// How many requests a bucket lets pass at this moment.
    fn taken(bucket: &Bucket, rate: Rate, now: Instant) -> u32 {
        let mut count = 0;
        while bucket.take(rate, now).is_ok() {
            count += 1;
        }
        count
    }

    #[test]
    fn a_rate_is_read_in_one_spelling() {
        for text in ["1/second", "100/minute", "1000000/hour"] {
            assert_eq!(rate(text).to_string(), text);
        }
        for text in [
            "",
            "/",
            "100",
            "100/",
            "/minute",
            "0/minute",
            "-1/minute",
            "+1/minute",
            "01/minute",
            "1.5/second",
            "1000001/hour",
            "99999999999/hour",
            "100/min",
            "100/Minute",
            "100 / minute",
            "100/minute/2",
        ] {
            let message = Rate::parse(text).unwrap_err().to_string();
            assert!(message.contains("such as `100/minute`"), "{text:?}: {message}");
        }
    }

    #[test]
    fn all_of_a_rate_may_come_at_once_and_then_one_by_one() {
        for (text, count, interval) in [
            ("1/second", 1, Duration::from_secs(1)),
            ("10/minute", 10, Duration::from_secs(6)),
            ("7/minute", 7, Duration::from_nanos(8_571_428_571)),
            ("3600/hour", 3600, Duration::from_secs(1)),
            ("999999/second", 999_999, Duration::from_nanos(1000)),
        ] {
            let (rate, start) = (rate(text), Instant::now());
            let bucket = Bucket::new(start);
            assert_eq!(taken(&bucket, rate, start), count, "{text}");
            assert_eq!(bucket.take(rate, start), Err(interval), "{text}");
            let nearly = start + interval - Duration::from_nanos(1);
            assert_eq!(bucket.take(rate, nearly), Err(Duration::from_nanos(1)), "{text}");
            assert_eq!(taken(&bucket, rate, start + interval), 1, "{text}");
            assert!(!bucket.is_full(start + interval * count), "{text}");
            assert!(bucket.is_full(start + interval * (count + 1)), "{text}");
            assert_eq!(
                taken(&bucket, rate, start + Duration::from_secs(1_000_000)),
                count,
                "{text}"
            );
        }
    }

    #[test]
    fn another_rate_starts_with_what_the_one_before_has_left() {
        let start = Instant::now();
        let bucket = Bucket::new(start);
        assert_eq!(taken(&bucket, rate("10/hour"), start), 10);
        // Empty, and not for an hour: no longer than this rate takes to fill it.
        assert_eq!(bucket.take(rate("10/second"), start), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(rate("10/minute"), start), Err(Duration::from_secs(6)));
    }

    #[test]
    fn a_clock_that_is_read_late_gains_nothing() {
        let start = Instant::now();
        let bucket = Bucket::new(start);
        let later = start + Duration::from_secs(5);
        assert_eq!(taken(&bucket, rate("5/second"), later), 5);
        assert!(bucket.take(rate("5/second"), start).is_err());
    }

    #[test]
    fn threads_share_a_bucket_without_losing_count() {
        let start = Instant::now();
        let bucket = Bucket::new(start);
        let passed: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..1000)
                            .filter(|_| bucket.take(rate("1500/hour"), start).is_ok())
                            .count()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| u32::try_from(thread.join().unwrap()).unwrap())
                .sum()
        });
        assert_eq!(passed, 1500);
    }
}
