//! Stops a provider that computes without end.
//!
//! The engine's epoch is a counter that compiled code compares with a deadline at every loop and call. A ticker thread
//! moves it while the component runs, and sleeps otherwise: an idle provider costs nothing.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;
use wasmtime::{Engine, Store, UpdateDeadline};

/// How often the epoch moves while the component runs.
const TICK: Duration = Duration::from_millis(50);

/// How many ticks the component may compute without giving way: one second. A token takes well under a millisecond.
const LONGEST_TURN: u64 = 20;

/// Knows when the component's thread is inside the component.
#[derive(Default)]
pub(crate) struct Meter {
    turns: AtomicU64,
    running: AtomicBool,
    ticker: std::sync::OnceLock<Thread>,
}

impl Meter {
    /// Runs `work`, noting each time it is entered and left.
    pub(crate) async fn measure<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            self.turns.fetch_add(1, Ordering::Relaxed);
            if !self.running.swap(true, Ordering::Relaxed)
                && let Some(ticker) = self.ticker.get()
            {
                ticker.unpark();
            }
            let result = work.as_mut().poll(context);
            self.running.store(false, Ordering::Relaxed);
            result
        })
        .await
    }

    /// Makes a store stop its component when it has computed for too long in one turn.
    pub(crate) fn watch<T>(self: &Arc<Self>, store: &mut Store<T>) {
        let meter = Arc::clone(self);
        let (mut turn, mut ticks) = (0, 0);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            let now = meter.turns.load(Ordering::Relaxed);
            ticks = if now == turn { ticks + 1 } else { 0 };
            turn = now;
            Ok(if ticks > LONGEST_TURN {
                UpdateDeadline::Interrupt
            } else {
                UpdateDeadline::Continue(1)
            })
        });
    }
}

/// The thread that moves the epoch. Ends when it is dropped.
pub(crate) struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<Thread>,
}

impl Ticker {
    pub(crate) fn start(engine: &Engine, meter: Arc<Meter>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (engine, stopped, watched) = (engine.clone(), Arc::clone(&stop), Arc::clone(&meter));
        let spawned = thread::Builder::new()
            .name("managed-identity-ticker".to_owned())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    if watched.running.load(Ordering::Relaxed) {
                        thread::sleep(TICK);
                        engine.increment_epoch();
                    } else {
                        thread::park();
                    }
                }
            });
        let thread = spawned.ok().map(|handle| handle.thread().clone());
        if let Some(thread) = &thread {
            // A meter belongs to one ticker, so it cannot have been set before.
            let _ = meter.ticker.set(thread.clone());
        } else {
            tracing::error!(target: "managed_identity::provider", "no thread for the time limit of the provider");
        }
        Self { stop, thread }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }
}
