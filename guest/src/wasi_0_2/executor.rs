//! Runs futures on `wasi:io/poll`.
//!
//! There are few of them: the call itself and the flights it started or found. So there is one waker, and each round polls
//! them all.

use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use wasip2::io::poll::{Pollable, poll};

thread_local! {
    static SPAWNED: RefCell<Vec<LocalBoxFuture<'static, ()>>> = RefCell::default();
    /// What the futures wait for. Weak, because a pollable must be gone before the resource that it came from, and a
    /// future may be dropped in the round in which it registered.
    static WAITING: RefCell<Vec<Weak<Pollable>>> = RefCell::default();
    /// One for all calls, of which there is one at a time.
    static WOKEN: Arc<Woken> = Arc::new(Woken(AtomicBool::new(false)));
}

/// Moves `work` on in this and all later calls of [`block_on`], until it ends.
pub(super) fn spawn(work: LocalBoxFuture<'static, ()>) {
    SPAWNED.with_borrow_mut(|spawned| spawned.push(work));
}

/// Waits until `pollable` is ready.
pub(super) async fn ready(pollable: Pollable) {
    let pollable = Rc::new(pollable);
    poll_fn(|_| {
        if pollable.ready() {
            return Poll::Ready(());
        }
        WAITING.with_borrow_mut(|waiting| waiting.push(Rc::downgrade(&pollable)));
        Poll::Pending
    })
    .await;
}

/// Runs `work` to its end, or returns nothing when it waits for something that cannot come.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> Option<T> {
    let woken = WOKEN.with(Arc::clone);
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut work = pin!(work);
    loop {
        WAITING.with_borrow_mut(Vec::clear);
        woken.0.store(false, Ordering::Relaxed);
        if let Poll::Ready(result) = work.as_mut().poll(&mut context) {
            return Some(result);
        }
        // Taken out while they run, because they may spawn.
        let mut running = SPAWNED.take();
        running.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
        SPAWNED.with_borrow_mut(|spawned| {
            // What was spawned just now has not been polled yet, so it is due for another round.
            woken.0.fetch_or(!spawned.is_empty(), Ordering::Relaxed);
            running.append(spawned);
            *spawned = running;
        });
        if woken.0.load(Ordering::Relaxed) {
            continue;
        }
        let waiting: Vec<_> = WAITING.take().iter().filter_map(Weak::upgrade).collect();
        if waiting.is_empty() {
            return None;
        }
        poll(&waiting.iter().map(Rc::as_ref).collect::<Vec<_>>());
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
