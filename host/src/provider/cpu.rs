//! Stops a provider that computes without end.
//!
//! The engine's epoch is a counter that compiled code compares with a deadline at every loop and call. A ticker thread
//! moves it while the component runs, and sleeps otherwise: an idle provider costs nothing. At each tick the component gives
//! way, so that callers whose time is over are told on time, whatever the component does.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;
use wasmtime::{CallHook, Engine, Store, UpdateDeadline};

/// How often the epoch moves while the component runs.
const TICK: Duration = Duration::from_millis(50);

/// How many ticks the component may compute in one piece: one second. A token takes well under a millisecond.
const LONGEST_ENTRY: u64 = 20;

/// How many ticks the component may keep its thread busy, in however many pieces: ten seconds. Waking ten thousand callers
/// takes one.
const LONGEST_TURN: u64 = 200;

/// Knows when the component's thread is inside the component.
#[derive(Default)]
pub(crate) struct Meter {
    /// Counts how often the component had nothing more to do.
    turns: AtomicU64,
    /// The component is made to give way, and has more to do.
    gives_way: AtomicBool,
    /// Counts how often WebAssembly was entered; many times in a turn, when many calls are served.
    entries: AtomicU64,
    running: AtomicBool,
    ticker: std::sync::OnceLock<Thread>,
}

impl Meter {
    /// Runs `work`, noting each time it is entered and left.
    pub(crate) async fn measure<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            if !self.running.swap(true, Ordering::Relaxed)
                && let Some(ticker) = self.ticker.get()
            {
                ticker.unpark();
            }
            let result = work.as_mut().poll(context);
            self.running.store(false, Ordering::Relaxed);
            if !self.gives_way.swap(false, Ordering::Relaxed) {
                self.turns.fetch_add(1, Ordering::Relaxed);
            }
            result
        })
        .await
    }

    /// Makes a store stop its component when it computes for too long.
    pub(crate) fn watch<T: 'static>(self: &Arc<Self>, store: &mut Store<T>) {
        let meter = Arc::clone(self);
        let mut in_host = 0_u32;
        store.call_hook(move |_, crossing| {
            match crossing {
                CallHook::CallingHost => in_host += 1,
                CallHook::ReturningFromHost => in_host = in_host.saturating_sub(1),
                // The host calls back for memory while the component calls it; that is the same piece of work.
                CallHook::CallingWasm if in_host == 0 => {
                    meter.entries.fetch_add(1, Ordering::Relaxed);
                }
                CallHook::CallingWasm | CallHook::ReturningFromWasm => {}
            }
            Ok(())
        });
        let meter = Arc::clone(self);
        let (mut entry, mut turn) = (Span::default(), Span::default());
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            let turns = meter.turns.load(Ordering::Relaxed);
            // Whichever number has grown, the component has given way since.
            let too_long = entry.ticks_in(turns + meter.entries.load(Ordering::Relaxed)) > LONGEST_ENTRY;
            let too_busy = turn.ticks_in(turns) > LONGEST_TURN;
            Ok(if too_long || too_busy {
                UpdateDeadline::Interrupt
            } else {
                meter.gives_way.store(true, Ordering::Relaxed);
                UpdateDeadline::Yield(1)
            })
        });
    }
}

/// Counts ticks for as long as a number stays the same.
#[derive(Default)]
struct Span {
    number: u64,
    ticks: u64,
}

impl Span {
    fn ticks_in(&mut self, number: u64) -> u64 {
        if number != self.number {
            *self = Self { number, ticks: 0 };
        }
        self.ticks += 1;
        self.ticks
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
