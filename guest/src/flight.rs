//! One request to the platform, and all the callers who wait for it.

use crate::cache::Token;
use crate::error::Error;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// What a flight ends with: the same for all who wait.
pub(crate) type Outcome = Result<Rc<Token>, Error>;

/// A flight belongs to nobody: the caller who started it may leave at any time and the others lose nothing.
pub(crate) struct Flight {
    outcome: RefCell<Option<Outcome>>,
    waiting: RefCell<Vec<Option<Waker>>>,
    deadline: Cell<Duration>,
    activity: RefCell<String>,
}

impl Flight {
    pub(crate) fn new(deadline: Duration) -> Self {
        Self {
            outcome: RefCell::default(),
            waiting: RefCell::default(),
            deadline: Cell::new(deadline),
            activity: RefCell::default(),
        }
    }

    /// When the last of its callers gives up, on the monotonic clock.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline.get()
    }

    /// Lets the flight go on for a caller who waits longer than those before.
    pub(crate) fn extend(&self, deadline: Duration) {
        self.deadline.set(self.deadline.get().max(deadline));
    }

    /// What is being waited for, as the end of a sentence that begins "while waiting for".
    pub(crate) fn activity(&self) -> String {
        self.activity.borrow().clone()
    }

    pub(crate) fn set_activity(&self, activity: String) {
        *self.activity.borrow_mut() = activity;
    }

    /// Ends the flight for all who wait.
    pub(crate) fn land(&self, outcome: Outcome) {
        *self.outcome.borrow_mut() = Some(outcome);
        for waker in self.waiting.take().into_iter().flatten() {
            waker.wake();
        }
    }

    /// Waits for the end.
    pub(crate) async fn landed(&self) -> Outcome {
        // Each caller keeps one place in the list, so that a thousand callers cost a thousand wakers and no search.
        let mut place = None;
        poll_fn(move |context| {
            if let Some(outcome) = &*self.outcome.borrow() {
                return Poll::Ready(outcome.clone());
            }
            let mut waiting = self.waiting.borrow_mut();
            let index = *place.get_or_insert_with(|| {
                waiting.push(None);
                waiting.len() - 1
            });
            waiting[index] = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}
