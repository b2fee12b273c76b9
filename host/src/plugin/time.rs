//! The time that plugins take.
//!
//! Compiled code compares the engine's epoch with a deadline at every loop and call. A ticker thread moves the epoch while
//! any plugin computes, and sleeps otherwise. At each tick a plugin gives way to whatever else its thread has to do, and is
//! stopped if it has computed for too long.

use super::limits::{PluginBound, PluginLimits};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use wasmtime::{Engine, Store, UpdateDeadline};

/// How long a plugin computes before it gives way.
const TICK: Duration = Duration::from_millis(10);

/// The thread that moves the epoch of an engine. Ends when it is dropped.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    /// How many plugins compute now.
    computing: AtomicUsize,
    stop: AtomicBool,
}

impl Ticker {
    pub(super) fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (engine, watched) = (engine.clone(), Arc::clone(&shared));
        let handle = thread::Builder::new()
            .name("managed-identity-plugins".to_owned())
            .spawn(move || {
                while !watched.stop.load(Ordering::Relaxed) {
                    if watched.computing.load(Ordering::Relaxed) > 0 {
                        thread::sleep(TICK);
                        engine.increment_epoch();
                    } else {
                        thread::park();
                    }
                }
            })?;
        Ok(Self {
            shared,
            thread: handle.thread().clone(),
        })
    }

    fn enter(&self) -> Computing<'_> {
        if self.shared.computing.fetch_add(1, Ordering::Relaxed) == 0 {
            self.thread.unpark();
        }
        Computing(&self.shared)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

/// While it exists, the epoch moves.
struct Computing<'a>(&'a Shared);

impl Drop for Computing<'_> {
    fn drop(&mut self) {
        self.0.computing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long one plugin has computed.
#[derive(Clone, Default)]
pub(super) struct Meter(Arc<Mutex<Spent>>);

#[derive(Default)]
struct Spent {
    /// Before this turn.
    total: Duration,
    /// The same, since the plugin last waited for something.
    piece: Duration,
    /// When this turn began, while there is one.
    turn: Option<Instant>,
    /// The plugin was made to give way in this turn, and has more to do.
    gives_way: bool,
    /// Something else than time is used up.
    stopped: Option<PluginBound>,
}

impl Meter {
    /// Runs a plugin, noting each time it is entered and left.
    pub(super) async fn measure<T>(&self, ticker: &Ticker, plugin: impl Future<Output = T>) -> T {
        let mut plugin = pin!(plugin);
        poll_fn(|context| {
            let _computing = ticker.enter();
            self.spent().turn = Some(Instant::now());
            let result = plugin.as_mut().poll(context);
            self.spent().leave();
            result
        })
        .await
    }

    /// Stops the plugin as soon as it computes again.
    pub(super) fn stop(&self, bound: PluginBound) {
        self.spent().stopped = Some(bound);
    }

    /// Why the plugin was to be stopped. It may have failed by itself before it was.
    pub(super) fn stopped(&self) -> Option<PluginBound> {
        self.spent().stopped
    }

    /// Makes a store give way at each tick, and stop its plugin beyond a limit.
    pub(super) fn watch<T: 'static>(&self, store: &mut Store<T>, limits: &PluginLimits) {
        let (meter, computing, total) = (self.clone(), limits.computing, limits.total_computing);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            meter.spent().tick(computing, total)?;
            // Not `Yield`, by which the plugin would be polled again before the runtime has looked at its sockets and timers.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
    }

    fn spent(&self) -> MutexGuard<'_, Spent> {
        // Nothing panics while it is locked, and durations have no wrong state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spent {
    fn leave(&mut self) {
        let turn = self.turn.take().map_or(Duration::ZERO, |since| since.elapsed());
        self.total += turn;
        self.piece = if std::mem::take(&mut self.gives_way) {
            self.piece + turn
        } else {
            Duration::ZERO
        };
    }

    fn tick(&mut self, computing: Duration, total: Option<Duration>) -> Result<(), PluginBound> {
        let turn = self.turn.map_or(Duration::ZERO, |since| since.elapsed());
        if let Some(bound) = self.stopped {
            return Err(bound);
        }
        if self.piece + turn > computing {
            return Err(PluginBound::Computing(computing));
        }
        if let Some(total) = total.filter(|total| self.total + turn > *total) {
            return Err(PluginBound::TotalComputing(total));
        }
        self.gives_way = true;
        Ok(())
    }
}
