//! Work that may never end, and is waited for no longer than its time.

use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// The longest that the command may take.
const LONGEST: Duration = Duration::from_secs(3600);

/// The time that is left to all checks together.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    end: Instant,
}

impl Budget {
    pub(super) fn new(time: Duration) -> Self {
        Self {
            end: Instant::now() + time.min(LONGEST),
        }
    }

    /// What one check may take: `most`, or what is left.
    pub(super) fn at_most(self, most: Duration) -> Duration {
        self.left().min(most)
    }

    pub(super) fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }
}

/// Runs `work` on a thread of its own; nothing when it does not end in time.
///
/// The runtime's own threads for such work would be waited for at the end of the program, and a file system or a resolver may
/// be what hangs.
pub(super) async fn bounded<T: Send + 'static>(time: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, waiting) = oneshot::channel();
    let thread = std::thread::Builder::new().spawn(move || {
        // Nobody waits any more when it comes too late.
        let _ = done.send(work());
    });
    thread.ok()?;
    timeout(time, waiting).await.ok()?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_end_is_given_up() {
        let (keep, forever) = std::sync::mpsc::channel::<()>();
        let never = bounded(Duration::from_millis(20), move || forever.recv()).await;
        assert!(never.is_none());
        drop(keep);
        assert_eq!(bounded(LONGEST, || 7).await, Some(7));
    }
}
