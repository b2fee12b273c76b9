//! All connections that are open, and how many there may be.

use metrics::Gauge;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Connections that are open now.
const OPEN: &str = "managed_identity_serve_connections";

/// Connections that the server has closed against the will of the client, by reason.
const CLOSED: &str = "managed_identity_serve_connections_closed_total";

/// Counts a connection that is closed against the will of the client.
pub(crate) fn closed(reason: &'static str) {
    metrics::counter!(CLOSED, "reason" => reason).increment(1);
}

/// All connections that are open. The lock is taken when one begins or ends, and never for a request.
pub(crate) struct Connections {
    most: usize,
    /// What moments are counted from.
    origin: Instant,
    slots: Mutex<Slots>,
    /// How many are waiting until there is room, or until all have ended.
    waiting: AtomicUsize,
    is_draining: AtomicBool,
    /// A connection has ended or become idle while somebody waited.
    changed: Notify,
    gauge: Gauge,
}

#[derive(Default)]
struct Slots {
    open: HashMap<u64, Slot>,
    next: u64,
    /// How many have been told to end and have not yet.
    ending: usize,
}

struct Slot {
    idle: Arc<AtomicU64>,
    task: Option<AbortHandle>,
}

/// Instead of the moment since which a connection is idle: it has a request under way.
const BUSY: u64 = 0;
/// Beside the moment since which a connection was idle: a request is arriving.
const ARRIVING: u64 = 1;
/// Instead of that moment: it was told to end, because it was idle.
const ENDING: u64 = u64::MAX;

impl Connections {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            origin: Instant::now(),
            slots: Mutex::default(),
            waiting: AtomicUsize::new(0),
            is_draining: AtomicBool::new(false),
            changed: Notify::new(),
            gauge: metrics::gauge!(OPEN),
        }
    }

    /// A place for one more, which is waited for when there are too many: until one has ended. The one that has been idle
    /// longest is told to end; if none is idle, the one whose request has taken longest to arrive. So clients that only
    /// begin requests keep nobody out.
    pub(crate) async fn place(self: &Arc<Self>) -> Place {
        if let Some(place) = self.take() {
            return place;
        }
        let _waiting = Waiting::new(self);
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before the look, so that nothing is missed that changes after it.
            changed.as_mut().enable();
            if let Some(place) = self.take() {
                return place;
            }
            self.end_one();
            changed.await;
        }
    }

    fn take(self: &Arc<Self>) -> Option<Place> {
        let mut slots = self.slots();
        if slots.open.len() >= self.most {
            return None;
        }
        let id = slots.next;
        slots.next += 1;
        let idle = Arc::new(AtomicU64::new(self.now()));
        let slot = Slot {
            idle: Arc::clone(&idle),
            task: None,
        };
        slots.open.insert(id, slot);
        self.gauge.increment(1.0);
        Some(Place {
            connections: Arc::clone(self),
            id,
            idle,
        })
    }

    /// Says which task serves the connection with this place, so that it can be told to end.
    pub(crate) fn serving(&self, id: PlaceId, task: AbortHandle) {
        if let Some(slot) = self.slots().open.get_mut(&id.0) {
            slot.task = Some(task);
        }
    }

    /// Tells the connection to end that has been idle longest.
    fn end_one(&self) {
        let mut slots = self.slots();
        // The places of those are for others who wait.
        if slots.ending >= self.waiting.load(Ordering::SeqCst) {
            return;
        }
        loop {
            let longest = slots
                .open
                .values()
                .filter_map(|slot| Some((slot.waiting_since()?, slot)))
                .min_by_key(|(since, _)| (since & ARRIVING, *since));
            let Some((since, slot)) = longest else { return };
            // It may have got a request meanwhile.
            if slot.end(since) {
                slots.ending += 1;
                closed("limit");
                return;
            }
        }
    }

    /// From now on replies end their connections, and so does being idle.
    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Ordering::SeqCst);
    }

    /// Ends connections that are idle, and waits until the others have ended: once this [drains](Self::drain), they do so by
    /// themselves when they become idle.
    pub(crate) async fn drained(&self) {
        let _waiting = Waiting::new(self);
        {
            let mut slots = self.slots();
            let ended = slots.open.values().filter(|slot| slot.end_if_idle()).count();
            slots.ending += ended;
        }
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.slots().open.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Ends all, whatever they do, and says how many there were.
    pub(crate) fn end_all(&self) -> usize {
        let slots = self.slots();
        for task in slots.open.values().filter_map(|slot| slot.task.as_ref()) {
            task.abort();
            closed("drain-timeout");
        }
        slots.open.len()
    }

    /// Nanoseconds since the first, of which there are enough for 584 years. Even, so that there is a bit for more.
    fn now(&self) -> u64 {
        let nanoseconds = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(ENDING);
        nanoseconds.clamp(2, ENDING - 1) & !ARRIVING
    }

    fn tell(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.changed.notify_waiters();
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Since when it has no request, or none that has arrived, if it can be told to end.
    fn waiting_since(&self) -> Option<u64> {
        let since = self.idle.load(Ordering::SeqCst);
        (self.task.is_some() && since != BUSY && since != ENDING).then_some(since)
    }

    /// Tells it to end, if nothing has changed since then.
    fn end(&self, since: u64) -> bool {
        let is_idle = self
            .idle
            .compare_exchange(since, ENDING, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok();
        if let Some(task) = self.task.as_ref().filter(|_| is_idle) {
            task.abort();
        }
        is_idle
    }

    fn end_if_idle(&self) -> bool {
        let idle = self.waiting_since().filter(|since| since & ARRIVING == 0);
        idle.is_some_and(|since| self.end(since))
    }
}

/// Somebody who waits.
struct Waiting<'a>(&'a Connections);

impl<'a> Waiting<'a> {
    fn new(connections: &'a Connections) -> Self {
        connections.waiting.fetch_add(1, Ordering::SeqCst);
        Self(connections)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Which place it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlaceId(u64);

/// The place of one connection, which is free again when this is dropped.
pub(crate) struct Place {
    connections: Arc<Connections>,
    id: u64,
    /// Since when it is idle, or something else.
    idle: Arc<AtomicU64>,
}

impl Place {
    pub(crate) fn id(&self) -> PlaceId {
        PlaceId(self.id)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.connections.is_draining.load(Ordering::SeqCst)
    }

    /// A request has begun to arrive. False when the connection was told to end before, which it has to do.
    pub(super) fn arriving(&self) -> bool {
        self.change(|since| since | ARRIVING)
    }

    /// A request is there. False when the connection was told to end before.
    pub(super) fn busy(&self) -> bool {
        self.change(|_| BUSY)
    }

    fn change(&self, next: impl Fn(u64) -> u64) -> bool {
        let since = self.idle.load(Ordering::SeqCst);
        // Nobody else changes it, but to tell it to end.
        since == BUSY
            || since != ENDING
                && self
                    .idle
                    .compare_exchange(since, next(since), Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
    }

    /// No request is under way any more.
    pub(super) fn idle(&self) {
        let since = self.idle.load(Ordering::SeqCst);
        if since == BUSY || since != ENDING && since & ARRIVING != 0 {
            self.idle.store(self.connections.now(), Ordering::SeqCst);
            self.connections.tell();
        }
    }

    /// Since when no request is under way; now, when one is.
    pub(super) fn idle_since(&self) -> Instant {
        match self.idle.load(Ordering::SeqCst) {
            BUSY | ENDING => Instant::now(),
            since => self.connections.origin + Duration::from_nanos(since),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut slots = self.connections.slots();
            slots.open.remove(&self.id);
            if self.idle.load(Ordering::SeqCst) == ENDING {
                slots.ending = slots.ending.saturating_sub(1);
            }
        }
        self.connections.gauge.decrement(1.0);
        self.connections.tell();
    }
}
