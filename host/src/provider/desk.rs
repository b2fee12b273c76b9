//! The desk between callers and the component: who waits for what, since when, until when.
//!
//! Callers with the same question share one call to the component. The component would let them share one request to the
//! platform anyway; but each call inside it costs more the more there are, so that ten thousand callers of one token would
//! take seconds to wake. Which token answers a question, and when it is renewed, stays the component's decision.
//!
//! When an instance fails, what it was asked is asked again in the next one, once. Whoever asks for a token that the host
//! still holds is given that meanwhile.

use crate::broker::hits::{Generation, Hits, Invalidation, is_plain, resource};
use crate::token::{AccessToken, Identity, SourceDescription, TokenRequest, unix_time};
use managed_identity_provider::error::{Cause, Error};
use managed_identity_provider::request::{DEFAULT_TIMEOUT, LONGEST_TIMEOUT};
use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

/// How long after its deadline the component may still answer. It answers by the deadline itself, so past this it is not
/// working.
const GRACE: Duration = Duration::from_millis(500);

/// How long the questions may take that need no network.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Something of a caller's that is dropped when its question has its answer, and not when the caller leaves.
pub(crate) type Place = Arc<dyn Any + Send + Sync>;

/// One question of one caller.
pub(crate) struct Call {
    ask: Ask,
    deadline: Instant,
    /// What must not be given any more from this question on.
    invalidation: Option<Invalidation>,
    place: Option<Place>,
}

/// What can be asked, and where the answer goes.
pub(crate) enum Ask {
    Token(Box<TokenRequest>, ReplyTo<Arc<AccessToken>>),
    Forget(Option<String>, ReplyTo<()>),
    Describe(ReplyTo<SourceDescription>),
}

/// Where an answer goes.
pub(crate) type ReplyTo<T> = oneshot::Sender<Result<T, Error>>;

impl Call {
    /// A call whose time starts now.
    pub(crate) fn new(ask: Ask, invalidation: Option<Invalidation>) -> Self {
        let timeout = match &ask {
            Ask::Token(request, _) => request.timeout.unwrap_or(DEFAULT_TIMEOUT).min(LONGEST_TIMEOUT),
            Ask::Forget(..) | Ask::Describe(_) => LOCAL_TIMEOUT,
        };
        Self {
            ask,
            deadline: Instant::now() + timeout,
            invalidation,
            place: None,
        }
    }

    /// The same, which takes this place.
    pub(crate) fn with_place(mut self, place: Option<Place>) -> Self {
        self.place = place;
        self
    }
}

/// What is put to the component.
#[derive(Clone)]
pub(super) enum Question {
    /// The request, and how long the component may take.
    Token(Box<TokenRequest>, Duration),
    Forget(Option<String>),
    Describe,
}

/// What the component answers.
pub(super) enum Answer {
    Token(Result<AccessToken, Error>),
    Forgotten,
    Description(Result<SourceDescription, Error>),
}

/// Where the answer of a caller goes.
enum Reply {
    Token(ReplyTo<Arc<AccessToken>>),
    Forgotten(ReplyTo<()>),
    Description(ReplyTo<SourceDescription>),
}

impl Reply {
    fn is_closed(&self) -> bool {
        match self {
            Self::Token(reply) => reply.is_closed(),
            Self::Forgotten(reply) => reply.is_closed(),
            Self::Description(reply) => reply.is_closed(),
        }
    }

    /// Ready when the caller is no longer there.
    fn poll_closed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Token(reply) => reply.poll_closed(context),
            Self::Forgotten(reply) => reply.poll_closed(context),
            Self::Description(reply) => reply.poll_closed(context),
        }
    }

    // A caller that is no longer there needs no answer, so what `send` returns is dropped.
    fn fail(self, error: Error) {
        match self {
            Self::Token(reply) => drop(reply.send(Err(error))),
            Self::Forgotten(reply) => drop(reply.send(Err(error))),
            Self::Description(reply) => drop(reply.send(Err(error))),
        }
    }
}

struct Caller {
    reply: Reply,
    deadline: Instant,
    matter: u64,
}

/// One question and all who wait for its answer.
struct Matter {
    question: Question,
    callers: Vec<u64>,
    shared: Option<Shared>,
    /// Until when the component was asked to answer; nothing while it has not been asked.
    asked_until: Option<Instant>,
    /// When it was put to the component.
    put: Generation,
    /// Those of its callers. They end with it.
    invalidations: Vec<Invalidation>,
    /// Those of its callers. Who leaves is still at work as long as the component is, and makes no room for another question.
    places: Vec<Place>,
    /// An instance has failed while it had this question.
    interrupted: bool,
}

impl Matter {
    fn new(question: Question, callers: Vec<u64>, shared: Option<Shared>) -> Self {
        Self {
            question,
            callers,
            shared,
            asked_until: None,
            put: Generation::default(),
            invalidations: Vec::new(),
            places: Vec::new(),
            interrupted: false,
        }
    }

    /// The token that a component gave, unless it is one that nobody may be given, whatever the component thinks.
    fn checked(&self, token: AccessToken) -> Result<AccessToken, Error> {
        let rejected = match &self.question {
            Question::Token(request, _) => request.rejected_token.as_ref(),
            Question::Forget(_) | Question::Describe => None,
        };
        let (cause, message) = if token.token.expose().is_empty() {
            (Cause::MalformedReply, "The provider component gave an empty token.")
        } else if token.expires_on <= unix_time() {
            (
                Cause::MalformedReply,
                "The provider component gave a token that has expired.",
            )
        } else if rejected.is_some_and(|rejected| rejected.matches(token.token.expose())) {
            (
                Cause::TokenRejected,
                "The provider component gave the rejected token again.",
            )
        } else {
            return Ok(token);
        };
        Err(Error::new(cause, message).with_source(&token.source))
    }

    /// The token that the host holds for those who wait.
    fn held(&self, hits: &Hits) -> Option<Arc<AccessToken>> {
        match &self.question {
            Question::Token(request, _) => hits.held(request, unix_time()),
            Question::Forget(_) | Question::Describe => None,
        }
    }
}

/// What makes two token requests one question.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Shared {
    audience: String,
    identity: Identity,
    claims: Option<String>,
}

impl Shared {
    /// A caller who rejects a token has a question of its own.
    fn of(request: &TokenRequest) -> Option<Self> {
        request.rejected_token.is_none().then(|| Self {
            audience: request.audience.clone(),
            identity: request.identity.clone(),
            claims: request.claims.clone(),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Caller(u64),
    Matter(u64),
}

/// All calls that have no answer yet.
#[derive(Default)]
pub(crate) struct Desk {
    callers: HashMap<u64, Caller>,
    matters: HashMap<u64, Matter>,
    /// Matters that the component has not been asked.
    waiting: VecDeque<u64>,
    /// Matters that another caller may join.
    joinable: HashMap<Shared, u64>,
    timers: BTreeSet<(Instant, Timer)>,
    next: u64,
    answered: u64,
    arrived: Rc<Notify>,
    hits: Arc<Hits>,
    /// An instance is there that takes questions.
    is_served: bool,
}

impl Desk {
    pub(super) fn new(hits: Arc<Hits>) -> Self {
        Self {
            hits,
            ..Self::default()
        }
    }

    pub(super) fn accept(&mut self, call: Call) {
        let Call {
            ask,
            deadline,
            invalidation,
            place,
        } = call;
        let (question, reply, shared) = match ask {
            Ask::Token(request, reply) => {
                let shared = Shared::of(&request);
                if !is_plain(&request) {
                    // Whoever asks after this must not get what was answered before it.
                    let concerned = resource(&request.audience);
                    self.joinable
                        .retain(|shared, _| shared.claims.is_some() || resource(&shared.audience) != concerned);
                }
                (Question::Token(request, Duration::ZERO), Reply::Token(reply), shared)
            }
            Ask::Forget(audience, reply) => {
                // Whoever asks after this must not get what was fetched before it.
                self.joinable.clear();
                (Question::Forget(audience), Reply::Forgotten(reply), None)
            }
            Ask::Describe(reply) => (Question::Describe, Reply::Description(reply), None),
        };
        let known = shared.as_ref().and_then(|shared| self.joinable.get(shared).copied());
        let matter = known.unwrap_or_else(|| {
            let number = self.number();
            if let Some(shared) = &shared {
                self.joinable.insert(shared.clone(), number);
            }
            self.queue(number, Matter::new(question, Vec::new(), shared));
            number
        });
        let caller = self.number();
        self.timers.insert((deadline, Timer::Caller(caller)));
        self.callers.insert(
            caller,
            Caller {
                reply,
                deadline,
                matter,
            },
        );
        if let Some(matter) = self.matters.get_mut(&matter) {
            matter.callers.push(caller);
            matter.invalidations.extend(invalidation);
            matter.places.extend(place);
        }
        if !self.is_served {
            self.answer_held(matter);
        }
    }

    fn queue(&mut self, number: u64, matter: Matter) {
        self.matters.insert(number, matter);
        self.waiting.push_back(number);
        self.arrived.notify_one();
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The next question for the component, when there is one, and the number by which its answer finds its callers.
    pub(super) async fn next(desk: &RefCell<Self>) -> (u64, Question) {
        loop {
            let arrived = {
                let mut desk = desk.borrow_mut();
                if let Some(next) = desk.take_waiting() {
                    return next;
                }
                Rc::clone(&desk.arrived)
            };
            arrived.notified().await;
        }
    }

    fn take_waiting(&mut self) -> Option<(u64, Question)> {
        self.is_served = true;
        while let Some(number) = self.waiting.pop_front() {
            self.drop_who_left(number);
            let Some(matter) = self.matters.get_mut(&number) else {
                continue;
            };
            let deadlines = matter
                .callers
                .iter()
                .filter_map(|caller| self.callers.get(caller))
                .map(|caller| caller.deadline);
            let Some(latest) = deadlines.max() else {
                // Everybody has left or been turned away meanwhile.
                self.close(number);
                continue;
            };
            matter.asked_until = Some(latest);
            matter.put = self.hits.generation();
            if let Question::Token(_, time_left) = &mut matter.question {
                *time_left = latest.saturating_duration_since(Instant::now());
            }
            let question = matter.question.clone();
            if let Question::Token(..) = question {
                self.hits.telemetry().flight();
            }
            self.timers.insert((latest + GRACE, Timer::Matter(number)));
            return Some((number, question));
        }
        None
    }

    /// Takes callers off the desk who no longer wait for an answer.
    fn drop_who_left(&mut self, number: u64) {
        let Some(matter) = self.matters.get_mut(&number) else {
            return;
        };
        let callers = &self.callers;
        let has_left = |caller: &mut u64| callers.get(caller).is_none_or(|caller| caller.reply.is_closed());
        let left: Vec<u64> = matter.callers.extract_if(.., has_left).collect();
        for caller in left {
            self.remove_caller(caller);
        }
    }

    /// Hands an answer to all who wait for it.
    pub(super) fn answer(&mut self, number: u64, answer: Answer) {
        self.answered += 1;
        let Some(mut matter) = self.close(number) else { return };
        if let Answer::Token(Err(error)) = &answer
            && error.cause == Cause::DeadlineExceeded
            && self.ask_again(&mut matter)
        {
            return;
        }
        let answer = match answer {
            Answer::Token(result) => Answered::Token(result.and_then(|token| matter.checked(token)).map(Arc::new)),
            Answer::Forgotten => Answered::Forgotten,
            Answer::Description(result) => Answered::Description(result),
        };
        if let (Question::Token(request, _), Answered::Token(Ok(token))) = (&matter.question, &answer) {
            self.hits.keep(request, token, matter.put, unix_time());
        }
        self.settle(matter, &answer);
    }

    /// Answers a question with the token that the host holds, if it holds one.
    fn answer_held(&mut self, number: u64) {
        let held = self.matters.get(&number).and_then(|matter| matter.held(&self.hits));
        if let Some(held) = held
            && let Some(matter) = self.close(number)
        {
            self.settle(matter, &Answered::Token(Ok(held)));
        }
    }

    /// Tells an answer to all who wait for it.
    fn settle(&mut self, mut matter: Matter, answer: &Answered) {
        // Before anybody is told, so that whoever is can ask the next question at once.
        matter.places.clear();
        for caller in matter.callers {
            let Some(caller) = self.remove_caller(caller) else {
                continue;
            };
            match (caller.reply, answer) {
                (Reply::Token(reply), Answered::Token(result)) => drop(reply.send(result.clone())),
                (Reply::Forgotten(reply), Answered::Forgotten) => drop(reply.send(Ok(()))),
                (Reply::Description(reply), Answered::Description(result)) => drop(reply.send(result.clone())),
                (reply, Answered::Failed(error)) => reply.fail(error.clone()),
                (reply, _) => reply.fail(Error::new(
                    Cause::Internal,
                    "The answer is to another question. Please report this.",
                )),
            }
        }
    }

    /// The component's time was that of those who had asked by then. Whoever came later and is more patient asks again, and
    /// finds the request to the platform still under way. True when nobody is left to be told.
    fn ask_again(&mut self, matter: &mut Matter) -> bool {
        let asked_until = matter.asked_until;
        let patient: Vec<u64> = matter
            .callers
            .extract_if(.., |caller| {
                self.callers
                    .get(caller)
                    .is_some_and(|caller| Some(caller.deadline) > asked_until)
            })
            .collect();
        if !patient.is_empty() {
            let mut again = Matter::new(matter.question.clone(), patient, matter.shared.clone());
            again.invalidations = std::mem::take(&mut matter.invalidations);
            again.places = std::mem::take(&mut matter.places);
            again.interrupted = matter.interrupted;
            self.reopen(again);
        }
        matter.callers.is_empty()
    }

    /// Puts a question back among those that wait, for callers who have no answer to it.
    fn reopen(&mut self, matter: Matter) {
        let number = self.number();
        for caller in &matter.callers {
            if let Some(caller) = self.callers.get_mut(caller) {
                caller.matter = number;
            }
        }
        if let Some(shared) = &matter.shared {
            self.joinable.entry(shared.clone()).or_insert(number);
        }
        self.queue(number, matter);
    }

    /// How many questions the component has answered.
    pub(super) fn answered(&self) -> u64 {
        self.answered
    }

    /// Waits until something is overdue; for ever when nothing can be.
    pub(super) fn next_deadline(desk: &RefCell<Self>) -> impl Future<Output = ()> + use<> {
        let earliest = desk.borrow().timers.first().map(|(deadline, _)| *deadline);
        async move {
            match earliest {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Answers every call whose time is over. True when the component has not answered by then what it was asked, and so
    /// does not work.
    pub(super) fn turn_away_overdue(&mut self) -> bool {
        let now = Instant::now();
        let mut stuck = false;
        while let Some((deadline, timer)) = self.timers.first().copied().filter(|(deadline, _)| *deadline <= now) {
            self.timers.pop_first();
            match timer {
                Timer::Matter(number) => {
                    stuck = true;
                    if let Some(mut matter) = self.close(number) {
                        matter.places.clear();
                        for caller in matter.callers {
                            self.turn_away(caller, "the provider component, which did not answer and is replaced.");
                        }
                    }
                }
                Timer::Caller(caller) => self.caller_is_due(caller, deadline),
            }
        }
        stuck
    }

    fn caller_is_due(&mut self, number: u64, deadline: Instant) {
        let Some(caller) = self.callers.get(&number) else {
            return;
        };
        let asked_until = self.matters.get(&caller.matter).and_then(|matter| matter.asked_until);
        match asked_until {
            None => self.turn_away(
                number,
                "its turn. A provider for WASI 0.2 answers one call at a time, one for WASI 0.3 a thousand; or it is being replaced.",
            ),
            Some(asked_until) if deadline < asked_until => {
                self.turn_away(number, "the platform's reply, which other callers go on waiting for.");
            }
            // The component answers about now, and says what it was waiting for. Should it not, the matter's timer comes.
            Some(_) => {}
        }
    }

    fn turn_away(&mut self, caller: u64, waiting_for: &str) {
        if let Some(caller) = self.remove_caller(caller) {
            let message = format!("The caller's time ran out while waiting for {waiting_for}");
            caller.reply.fail(Error::new(Cause::DeadlineExceeded, message));
        }
    }

    /// Takes back what was asked of an instance that failed. What it was asked is asked again in the next, for those whose
    /// time is not over; a question that was with two instances that failed may be the reason, and is not asked a third time.
    /// Neither is one that waited for two of which the second, at least, did not even start.
    pub(super) fn instance_failed(&mut self, failure: &str) {
        let has_started = std::mem::take(&mut self.is_served);
        let numbers: Vec<u64> = self.matters.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.answer_held(number));
        let concerned =
            |(number, matter): (&u64, &Matter)| (matter.asked_until.is_some() || !has_started).then_some(*number);
        let mut running: Vec<u64> = self.matters.iter().filter_map(concerned).collect();
        // In the order in which they were asked.
        running.sort_unstable();
        for number in running {
            let Some(mut matter) = self.close(number) else { continue };
            if matches!(matter.question, Question::Forget(_)) {
                // The next instance begins with nothing that it could drop.
                self.settle(matter, &Answered::Forgotten);
                continue;
            }
            let now = Instant::now();
            let callers = &self.callers;
            let is_patient = |caller: &mut u64| callers.get(caller).is_some_and(|caller| now < caller.deadline);
            let patient: Vec<u64> = match matter.interrupted {
                true => Vec::new(),
                false => matter.callers.extract_if(.., is_patient).collect(),
            };
            if !patient.is_empty() {
                let mut again = Matter::new(matter.question.clone(), patient, matter.shared.clone());
                again.invalidations = std::mem::take(&mut matter.invalidations);
                again.places = std::mem::take(&mut matter.places);
                again.interrupted = true;
                self.reopen(again);
            }
            let message = format!("The provider component failed and is replaced: {failure}. Ask again.");
            self.settle(matter, &Answered::Failed(Error::new(Cause::Internal, message)));
        }
        let matters = &self.matters;
        self.waiting.retain(|number| matters.contains_key(number));
    }

    /// Ready when nobody waits for an answer: everybody has one, or has left.
    pub(super) fn deserted(desk: &RefCell<Self>) -> impl Future<Output = ()> {
        poll_fn(|context| {
            let mut desk = desk.borrow_mut();
            let mut all_gone = true;
            for caller in desk.callers.values_mut() {
                // Each has to be asked, to know when it leaves.
                all_gone &= caller.reply.poll_closed(context).is_ready();
            }
            if all_gone { Poll::Ready(()) } else { Poll::Pending }
        })
    }

    fn remove_caller(&mut self, number: u64) -> Option<Caller> {
        let caller = self.callers.remove(&number)?;
        self.timers.remove(&(caller.deadline, Timer::Caller(number)));
        Some(caller)
    }

    /// Takes a matter off the desk. Its callers stay until each has its answer.
    fn close(&mut self, number: u64) -> Option<Matter> {
        let matter = self.matters.remove(&number)?;
        if let Some(asked_until) = matter.asked_until {
            self.timers.remove(&(asked_until + GRACE, Timer::Matter(number)));
        }
        if let Some(shared) = &matter.shared
            && self.joinable.get(shared) == Some(&number)
        {
            self.joinable.remove(shared);
        }
        Some(matter)
    }
}

/// An answer that can be given more than once.
enum Answered {
    Token(Result<Arc<AccessToken>, Error>),
    Forgotten,
    Description(Result<SourceDescription, Error>),
    /// An answer to whatever was asked.
    Failed(Error),
}

#[cfg(test)]
mod tests;
