//! How much is logged of what anybody can cause.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many lines there may be in a [`PERIOD`]: enough to see what is wrong, and too few to fill a disk.
const LINES: u32 = 20;
const PERIOD: Duration = Duration::from_secs(1);

/// Counts lines of one kind.
#[derive(Debug)]
pub(super) struct LogVolume(Mutex<Counted>);

#[derive(Debug)]
struct Counted {
    /// When the period began.
    since: Option<Instant>,
    lines: u32,
    /// What was not logged since the last line that was.
    unlogged: u64,
}

impl LogVolume {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Counted {
            since: None,
            lines: 0,
            unlogged: 0,
        }))
    }

    /// Whether a line may be logged now, and then how many were not since the last one that was.
    pub(super) fn line(&self, now: Instant) -> Option<u64> {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |since: Instant| now.saturating_duration_since(since) >= PERIOD;
        if counted.since.is_none_or(is_over) {
            counted.since = Some(now);
            counted.lines = 0;
        }
        if counted.lines >= LINES {
            counted.unlogged = counted.unlogged.saturating_add(1);
            return None;
        }
        counted.lines += 1;
        Some(std::mem::take(&mut counted.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_logged_in_part_and_counted() {
        let volume = LogVolume::new();
        let start = Instant::now();
        let logged = |at: Instant| (0..1_000).filter_map(|_| volume.line(at)).collect::<Vec<_>>();
        assert_eq!(logged(start), [0; LINES as usize]);
        assert_eq!(logged(start + PERIOD - Duration::from_nanos(1)), [] as [u64; 0]);
        let later = logged(start + PERIOD);
        assert_eq!(later.len(), LINES as usize);
        assert_eq!(later.first(), Some(&(2_000 - u64::from(LINES))));
        assert_eq!(later.iter().sum::<u64>(), 2_000 - u64::from(LINES));
    }
}
