//! The desk between callers and the component: who waits, since when, until when.

use crate::token::{AccessToken, SourceDescription, TokenRequest};
use managed_identity_provider::error::{Cause, Error};
use managed_identity_provider::request::{DEFAULT_TIMEOUT, LONGEST_TIMEOUT};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// How long after a caller's deadline the component may still answer. It answers by the deadline itself, so past this it
/// is not working.
const GRACE: Duration = Duration::from_millis(500);

/// How long the questions may take that need no network.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(5);

/// One question of one caller.
pub(crate) struct Call {
    ask: Ask,
    deadline: Instant,
}

/// What can be asked, and where the answer goes.
pub(crate) enum Ask {
    Token(Box<TokenRequest>, oneshot::Sender<Result<AccessToken, Error>>),
    Forget(Option<String>, oneshot::Sender<Result<(), Error>>),
    Describe(oneshot::Sender<Result<SourceDescription, Error>>),
}

impl Call {
    /// A call whose time starts now.
    pub(crate) fn new(ask: Ask) -> Self {
        let timeout = match &ask {
            Ask::Token(request, _) => request.timeout.unwrap_or(DEFAULT_TIMEOUT).min(LONGEST_TIMEOUT),
            Ask::Forget(..) | Ask::Describe(_) => LOCAL_TIMEOUT,
        };
        Self {
            ask,
            deadline: Instant::now() + timeout,
        }
    }

    /// What is left of the caller's time.
    pub(crate) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub(crate) fn ask(&self) -> &Ask {
        &self.ask
    }

    fn fail(self, error: Error) {
        // A caller that is no longer there needs no answer.
        match self.ask {
            Ask::Token(_, reply) => drop(reply.send(Err(error))),
            Ask::Forget(_, reply) => drop(reply.send(Err(error))),
            Ask::Describe(reply) => drop(reply.send(Err(error))),
        }
    }
}

/// All calls that have no answer yet.
#[derive(Default)]
pub(crate) struct Desk {
    waiting: VecDeque<Call>,
    running: BTreeMap<u64, Call>,
    next: u64,
    answered: u64,
    arrived: Rc<Notify>,
}

impl Desk {
    pub(crate) fn accept(&mut self, call: Call) {
        self.waiting.push_back(call);
        self.arrived.notify_one();
    }

    /// The next call to put to the component, when one comes. It is found by its number until it is answered.
    pub(crate) async fn next(desk: &RefCell<Self>) -> u64 {
        loop {
            let arrived = {
                let mut desk = desk.borrow_mut();
                if let Some(call) = desk.waiting.pop_front() {
                    desk.next += 1;
                    let number = desk.next;
                    desk.running.insert(number, call);
                    return number;
                }
                Rc::clone(&desk.arrived)
            };
            arrived.notified().await;
        }
    }

    pub(crate) fn running(&self, number: u64) -> Option<&Call> {
        self.running.get(&number)
    }

    /// Takes a call off the desk in order to answer it.
    pub(crate) fn finish(&mut self, number: u64) -> Option<Ask> {
        self.answered += 1;
        self.running.remove(&number).map(|call| call.ask)
    }

    /// How many calls the component has answered.
    pub(crate) fn answered(&self) -> u64 {
        self.answered
    }

    /// Waits until some call is overdue; for ever when there is none.
    pub(crate) fn next_deadline(desk: &RefCell<Self>) -> impl Future<Output = ()> + use<> {
        let desk = desk.borrow();
        let running = desk.running.values().map(|call| call.deadline + GRACE);
        let earliest = running.chain(desk.waiting.iter().map(|call| call.deadline)).min();
        async move {
            match earliest {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Answers every call whose time is over. True when one of them was with the component, which then does not work.
    pub(crate) fn turn_away_overdue(&mut self) -> bool {
        let now = Instant::now();
        let overdue: VecDeque<Call>;
        (overdue, self.waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|call| call.deadline <= now);
        for call in overdue {
            call.fail(Error::new(
                Cause::DeadlineExceeded,
                "The caller's time ran out while waiting for its turn. A provider for WASI 0.2 answers one call at a time; \
                 use the one for WASI 0.3, or allow more time.",
            ));
        }
        let stuck: Vec<u64> = self
            .running
            .iter()
            .filter(|(_, call)| call.deadline + GRACE <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in &stuck {
            if let Some(call) = self.running.remove(number) {
                call.fail(Error::new(
                    Cause::DeadlineExceeded,
                    "The caller's time ran out while waiting for the provider component, which did not answer and is replaced.",
                ));
            }
        }
        !stuck.is_empty()
    }

    /// Answers every call that was with a component that failed.
    pub(crate) fn turn_away_running(&mut self, failure: &str) {
        for (_, call) in std::mem::take(&mut self.running) {
            call.fail(Error::new(
                Cause::Internal,
                format!("The provider component failed and is replaced: {failure}. Ask again."),
            ));
        }
    }
}
