//! The engine: one source, one cache, one flight per key.

use crate::cache::{Cache, Cached, Key, Token, refresh_on};
use crate::environment::{ARC_DIRECTORY, ARC_DIRECTORY_WINDOWS, Environment};
use crate::error::{Cause, Error};
use crate::failure::Asked;
use crate::flight::{Flight, Outcome};
use crate::keyed::Keyed;
use crate::platform::{CredentialFile, HttpReply, Platform, TransportFault};
use crate::reply::{self, MAX_REPLY_BYTES, ReplyFault, TokenReply};
use crate::request::{Audience, Identity, TokenRequest};
use crate::retry::retry_after;
use crate::secret::Secret;
use crate::source::{self, Ask, Selection, Source};
use futures_util::future::{Either, select};
use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How long one try waits for its whole reply. The slowest answers that peers' trackers report stay below it.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// How much time another try has to have. With less, the failure that is known says more than the time that ran out.
const LEAST_TRY: Duration = Duration::from_millis(250);

/// The longest wait before an endpoint that took no connection is tried again: it is asked nothing by that, and when it is
/// back, callers get their tokens at once.
const RECONNECT: Duration = Duration::from_millis(1500);

/// For how long one reply can keep everybody from asking. A longer time is a mistake or an attack.
const LONGEST_THROTTLE: Duration = Duration::from_secs(3600);

/// By how much the requests are spread that waited for the end of a throttle.
const AFTER_THROTTLE: Duration = Duration::from_secs(1);

/// Where refreshes cannot run in the background, how long a caller with a valid token waits for its successor.
const INLINE_REFRESH: Duration = Duration::from_secs(2);

/// Answers requests for tokens. Cheap to clone; all clones are one engine.
pub struct Engine<P>(Rc<Shared<P>>);

struct Shared<P> {
    platform: P,
    selection: Selection,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    cache: Cache,
    flights: Keyed<Rc<Flight>>,
    last_failure: Option<Error>,
    /// The platform asked not to be asked before this time of the monotonic clock.
    throttled_until: Duration,
}

/// A token as it is handed out.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The token.
    pub token: Rc<Token>,
    /// Its successor is overdue because the platform failed; the token is still valid.
    pub stale: bool,
}

/// How far a request got without waiting.
pub(crate) enum Step {
    /// To its end.
    Issued(Issued),
    /// To a request that is under way.
    Waits(Waiting),
}

/// A caller's part in a request that is under way.
pub(crate) struct Waiting {
    flight: Rc<Flight>,
    patience: Duration,
    /// A valid token whose successor is waited for.
    at_hand: Option<Rc<Token>>,
}

/// Where tokens come from, and why.
#[derive(Clone, Debug)]
pub struct SourceDescription {
    /// The name of the source, or nothing when none can be used.
    pub source: Option<String>,
    /// The address that is asked.
    pub endpoint: Option<String>,
    /// Sentences that name the variables that decided, never their values.
    pub reasons: Vec<String>,
    /// The latest failure since the last success.
    pub last_failure: Option<Error>,
}

impl<P> Clone for Engine<P> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<P: Platform> Engine<P> {
    /// Selects the source from the platform's environment. Asks nobody yet.
    pub fn new(platform: P) -> Self {
        // Nobody grants the directory of the agent's keys where there is no agent.
        let arc_agent = platform.directories().iter().any(|directory| {
            let directory = directory.trim_end_matches(['/', '\\']);
            directory == ARC_DIRECTORY || directory.ends_with(ARC_DIRECTORY_WINDOWS)
        });
        let environment = Environment::new(platform.environment()).with_arc_agent(arc_agent);
        let selection = source::select(&environment);
        Self(Rc::new(Shared {
            platform,
            selection,
            state: RefCell::default(),
        }))
    }

    /// A token that is valid now.
    ///
    /// Comes from the cache when it has one. Otherwise all who ask for the same audience and identity wait for the same
    /// flight, each until its own time is over.
    ///
    /// # Errors
    /// One cause of the closed list. Never when a valid token is at hand, unless the caller rejected it or brings claims.
    pub async fn get_token(&self, request: TokenRequest) -> Result<Issued, Error> {
        match self.begin(request)? {
            Step::Issued(issued) => Ok(issued),
            Step::Waits(waiting) => self.finish(waiting).await,
        }
    }

    /// As far as [`get_token`](Self::get_token) gets without waiting, which is to the end whenever the token is at hand. Most
    /// calls are so, and need no future for it.
    ///
    /// # Errors
    /// As for `get_token`.
    pub(crate) fn begin(&self, request: TokenRequest) -> Result<Step, Error> {
        let shared = &self.0;
        let source = shared.selection.source.as_ref().map_err(Clone::clone)?;
        let identity = match request.identity {
            Identity::PlatformDefault => shared.selection.default_identity.clone()?,
            other => other,
        };
        source
            .check(&identity)
            .map_err(|error| error.with_source(source.name()))?;
        let mut key = Key {
            identity,
            audience: request.audience,
            claims: request.claims,
            revoked: None,
        };
        {
            let cache = &mut shared.state.borrow_mut().cache;
            if let Some(rejected) = &request.rejected_token {
                cache.reject(&key, rejected);
            }
            key.revoked = match (&key.claims, &request.rejected_token) {
                (Some(_), Some(rejected)) => Some(rejected.sha256()),
                // Who brings claims and names no token has had that of the cache rejected.
                (Some(_), None) => cache.peek(&key).map(|token| token.secret.sha256()),
                (None, _) => None,
            }
            .or_else(|| cache.revoked(&key).cloned());
        }
        let cached = match &key.claims {
            Some(_) => Cached::Nothing,
            None => shared
                .state
                .borrow_mut()
                .cache
                .look_up(&key, shared.platform.unix_time()),
        };
        match cached {
            Cached::Fresh(token) => Ok(Step::Issued(Issued { token, stale: false })),
            Cached::Due { token, failed, try_now } if !try_now || shared.throttle_left() > Duration::ZERO => {
                Ok(Step::Issued(Issued { token, stale: failed }))
            }
            Cached::Due { token, failed, .. } => {
                let flight = shared.join(&key, shared.platform.monotonic() + request.timeout.max(ATTEMPT_TIMEOUT));
                if P::BACKGROUND {
                    return Ok(Step::Issued(Issued { token, stale: failed }));
                }
                Ok(Step::Waits(Waiting {
                    flight,
                    patience: request.timeout.min(INLINE_REFRESH),
                    at_hand: Some(token),
                }))
            }
            // Whoever cannot wait for the end of it is told at once when to come back.
            Cached::Nothing if shared.throttle_left() >= request.timeout.max(Duration::from_nanos(1)) => {
                Err(shared.throttled(source.as_ref()))
            }
            Cached::Nothing => Ok(Step::Waits(Waiting {
                flight: shared.join(&key, shared.platform.monotonic() + request.timeout),
                patience: request.timeout,
                at_hand: None,
            })),
        }
    }

    /// Waits for what [`begin`](Self::begin) began.
    ///
    /// # Errors
    /// As for [`get_token`](Self::get_token).
    pub(crate) async fn finish(&self, waiting: Waiting) -> Result<Issued, Error> {
        let shared = &self.0;
        let Waiting {
            flight,
            patience,
            at_hand,
        } = waiting;
        let failure = match race(flight.landed(), shared.platform.sleep(patience)).await {
            Some(Ok(token)) => return Ok(Issued { token, stale: false }),
            Some(Err(error)) => Some(error),
            None => None,
        };
        // A refresh that failed or takes too long withholds nothing.
        if let Some(token) = at_hand
            && token.expires_on > shared.platform.unix_time()
        {
            return Ok(Issued { token, stale: true });
        }
        match failure {
            Some(error) => Err(error),
            None => {
                let source = shared.selection.source.as_ref().map_err(Clone::clone)?;
                Err(shared.deadline_exceeded(source.as_ref(), &flight))
            }
        }
    }

    /// Drops cached tokens, of one audience or all. An audience that is none holds no tokens.
    pub fn forget(&self, audience: Option<&str>) {
        let audience = match audience.map(Audience::parse) {
            None => None,
            Some(Ok(audience)) => Some(audience),
            Some(Err(_)) => return,
        };
        let state = &mut *self.0.state.borrow_mut();
        state.cache.forget(audience.as_ref());
        // Flights go on for those who wait, and new callers start their own.
        state
            .flights
            .retain(|key, _| audience.as_ref().is_some_and(|audience| key.audience != *audience));
    }

    /// Where tokens come from, and why. Asks nobody.
    #[must_use]
    pub fn describe_source(&self) -> SourceDescription {
        let Selection {
            source,
            reasons,
            default_identity,
        } = &self.0.selection;
        let unusable = source.as_ref().err().or(default_identity.as_ref().err());
        SourceDescription {
            source: source.as_ref().ok().map(|source| source.name().to_owned()),
            endpoint: source.as_ref().ok().map(|source| source.endpoint()),
            reasons: reasons.clone(),
            last_failure: match unusable {
                None => self.0.state.borrow().last_failure.clone(),
                Some(error) => Some(error.clone()),
            },
        }
    }
}

impl<P: Platform> Shared<P> {
    /// The flight for `key`: the one that is under way, or a new one.
    fn join(self: &Rc<Self>, key: &Key, deadline: Duration) -> Rc<Flight> {
        let mut state = self.state.borrow_mut();
        // Where nothing moves between calls, a flight whose callers have all left has stood still since, and its reply with
        // it. Its successor asks anew.
        let now = self.platform.monotonic();
        if let Some(flight) = state
            .flights
            .get(key)
            .filter(|flight| P::BACKGROUND || now < flight.deadline())
        {
            flight.extend(deadline);
            return Rc::clone(flight);
        }
        let flight = Rc::new(Flight::new(deadline));
        state.flights.insert(key.clone(), Rc::clone(&flight));
        drop(state);
        let (shared, key, started) = (Rc::clone(self), key.clone(), Rc::clone(&flight));
        self.platform.spawn(Box::pin(async move {
            let outcome = shared.fly(&key, &started).await;
            shared.landed(&key, &started, outcome);
        }));
        flight
    }

    /// For how long the platform asked not to be asked.
    fn throttle_left(&self) -> Duration {
        let until = self.state.borrow().throttled_until;
        until.saturating_sub(self.platform.monotonic())
    }

    /// The error of a request that is not sent, because the platform asked not to be asked.
    fn throttled(&self, source: &dyn Source) -> Error {
        let left = self.throttle_left();
        let mut error = Error::new(
            Cause::Throttled,
            format!(
                "{} has answered that it is asked too often, and is not asked again for {} s. Come back then, or wait \
                 longer.",
                source.endpoint(),
                left.as_secs() + u64::from(left.subsec_nanos() > 0)
            ),
        );
        error.retry_after_ms = Some(u32::try_from(left.as_millis()).unwrap_or(u32::MAX));
        error.with_source(source.name()).with_status(429)
    }

    /// Keeps what a flight brought and tells all who wait.
    fn landed(&self, key: &Key, flight: &Rc<Flight>, outcome: Outcome) {
        let mut state = self.state.borrow_mut();
        // One that was forgotten or replaced on its way is of no use to later callers.
        let is_current = state
            .flights
            .get(key)
            .is_some_and(|current| Rc::ptr_eq(current, flight));
        if is_current {
            state.flights.remove(key);
        }
        match &outcome {
            Ok(token) => {
                state.last_failure = None;
                if is_current {
                    state.cache.insert(key, Rc::clone(token));
                }
            }
            Err(error) => {
                state.last_failure = Some(error.clone());
                // A challenge that could not be met says nothing of the cached token's refresh.
                if key.claims.is_none() {
                    let random = self.platform.random();
                    state.cache.refresh_failed(key, self.platform.unix_time(), random);
                }
            }
        }
        drop(state);
        flight.land(outcome);
    }

    /// Asks the source, again where that helps and the callers' time allows.
    async fn fly(&self, key: &Key, flight: &Flight) -> Outcome {
        let source = self.selection.source.as_ref().map_err(Clone::clone)?.as_ref();
        let asked = Asked {
            source,
            ask: Ask {
                audience: &key.audience,
                identity: &key.identity,
                claims: key.claims.as_deref(),
                revoked: key.revoked.as_deref(),
            },
        };
        let policy = source.retry_policy();
        // Whoever has a valid token is in no hurry: one try, and the next after the back-off of failed refreshes. In an
        // outage, a fleet would otherwise ask six times as often for nothing.
        let is_refresh = key.claims.is_none() && {
            let state = self.state.borrow();
            let cached = state.cache.peek(key);
            cached.is_some_and(|token| token.expires_on > self.platform.unix_time())
        };
        let started = self.platform.monotonic();
        let mut attempt = 0;
        loop {
            // What another request was told holds for all of them.
            let left = self.throttle_left();
            if left > Duration::ZERO {
                let now = self.platform.monotonic();
                if now + left >= flight.deadline() {
                    return Err(self.throttled(source));
                }
                flight.set_activity(format!(
                    "the end of the time for which {} asked not to be asked",
                    source.endpoint()
                ));
                let spread = Duration::from_millis(self.platform.random() % (AFTER_THROTTLE.as_millis() as u64 + 1));
                let latest = flight.deadline().saturating_sub(now);
                self.platform.sleep((left + spread).min(left.max(latest / 2))).await;
                continue;
            }
            attempt += 1;
            // A reply counts its token's life from when it was written, and it may be read much later.
            let asked_at = self.platform.unix_time();
            let (error, may_try_again, hint) = match self.attempt(&asked, flight, attempt).await? {
                Exchange::Reply { reply, .. } if reply.status == 200 => {
                    return self.understand(&asked, &reply, asked_at);
                }
                Exchange::Reply {
                    reply,
                    secrets,
                    answered,
                } => {
                    let now = self.platform.unix_time();
                    let updating = reply.status == 410 && self.platform.monotonic() < started + policy.updating;
                    let again = policy.covers(reply.status) && (updating || attempt < policy.attempts);
                    let error = asked.failed(&reply, answered, &secrets, now);
                    let hint = retry_after(&reply, now);
                    if reply.status == 429
                        && let Some(wait) = hint
                    {
                        let until = self.platform.monotonic() + wait.min(LONGEST_THROTTLE);
                        let state = &mut self.state.borrow_mut();
                        state.throttled_until = state.throttled_until.max(until);
                    }
                    (error, again, hint)
                }
                Exchange::Fault(fault) => {
                    let again = fault.is_transient() && attempt < policy.connection_attempts;
                    (asked.fault(fault), again, None)
                }
                Exchange::Failed(error) => return Err(error.with_source(source.name())),
            };
            let mut wait = policy
                .delay(attempt, self.platform.random())
                .max(hint.unwrap_or_default());
            if error.http_status.is_none() {
                wait = wait.min(RECONNECT);
            }
            if !may_try_again || is_refresh || self.platform.monotonic() + wait + LEAST_TRY >= flight.deadline() {
                return Err(error);
            }
            flight.set_activity(format!("the next try; the one before failed: {}", error.message));
            self.platform.sleep(wait).await;
        }
    }

    /// One try. The error ends the flight: its time is over.
    async fn attempt(&self, asked: &Asked<'_>, flight: &Flight, attempt: u32) -> Result<Exchange, Error> {
        let source = asked.source;
        let before = match flight.activity() {
            text if attempt > 1 => text.replacen("the next try; ", "", 1),
            _ => String::new(),
        };
        let waiting_for = format!("the reply of {}", source.endpoint());
        flight.set_activity(match before.as_str() {
            "" => waiting_for,
            before => format!("{waiting_for}; {before}"),
        });
        let give_up = self.platform.monotonic() + ATTEMPT_TIMEOUT;
        let mut exchange = pin!(self.exchange(asked));
        loop {
            // The deadline moves when a more patient caller joins, so it is read again each time it seems to be reached.
            let until = flight.deadline().min(give_up);
            let now = self.platform.monotonic();
            if now >= until {
                return match until == give_up {
                    true => Ok(Exchange::Fault(TransportFault::NoReply)),
                    false => Err(self.deadline_exceeded(source, flight)),
                };
            }
            if let Some(exchange) = race(exchange.as_mut(), self.platform.sleep(until - now)).await {
                return Ok(exchange);
            }
        }
    }

    /// All that one try sends and reads: the credential file, the request, and the answer to a challenge.
    async fn exchange(&self, asked: &Asked<'_>) -> Exchange {
        let source = asked.source;
        let mut credential = None;
        if let Some(file) = source.credential_file() {
            match self.credential(asked, file).await {
                Ok(text) => credential = Some(text),
                Err(error) => return Exchange::Failed(error),
            }
        }
        let mut answered = false;
        loop {
            let request = source.request(asked.ask, credential.as_ref());
            let mut secrets = request.secrets();
            secrets.extend(credential.clone());
            let reply = match self.platform.send(request, MAX_REPLY_BYTES).await {
                Ok(reply) => reply,
                Err(fault) => return Exchange::Fault(fault),
            };
            match source.challenge(&reply).filter(|_| !answered) {
                None => {
                    return Exchange::Reply {
                        reply,
                        secrets,
                        answered,
                    };
                }
                Some(Err(error)) => return Exchange::Failed(error),
                Some(Ok(file)) => match self.credential(asked, &file).await {
                    Ok(text) => credential = Some(text),
                    Err(error) => return Exchange::Failed(error.with_status(reply.status)),
                },
            }
            answered = true;
        }
    }

    /// The contents of a credential file, without the white space around them.
    async fn credential(&self, asked: &Asked<'_>, file: &CredentialFile) -> Result<Secret, Error> {
        let contents = self.platform.read_file(file).await;
        let contents = contents.map_err(|fault| asked.unreadable(file, fault))?;
        let text = contents.trim_ascii();
        match str::from_utf8(text) {
            Ok("") => Err(asked.unusable_file(file, "is empty")),
            Ok(text) if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Secret::from(text)),
            _ => Err(asked.unusable_file(
                file,
                "holds something other than one credential in visible ASCII characters",
            )),
        }
    }

    /// Turns a successful reply into a token, or says why it is none.
    fn understand(&self, asked: &Asked<'_>, reply: &HttpReply, asked_at: u64) -> Outcome {
        let reply = reply::parse(&reply.body, asked_at).map_err(|fault| asked.unusable(&fault))?;
        if reply.expires_on <= self.platform.unix_time() {
            return Err(asked.unusable(&ReplyFault::Expired));
        }
        let refuse = |cause, message: String| {
            Err(Error::new(cause, message)
                .with_source(asked.source.name())
                .with_status(200))
        };
        let endpoint = asked.source.endpoint();
        let identity = asked.ask.identity.describe();
        match names_the_identity(&reply, asked.ask.identity) {
            Some(true) => {}
            None if !asked.source.must_name_identity() => {}
            Some(false) => {
                let advice = asked.advice(
                    Cause::IdentityMismatch,
                    true,
                    "Assign that identity to this workload, or correct the identifier.",
                );
                let message = format!("{endpoint} answers with a token of another identity than {identity}. {advice}");
                return refuse(Cause::IdentityMismatch, message);
            }
            None => {
                let advice = asked.advice(Cause::IdentityMismatch, true, "Ask for the system-assigned identity.");
                let message = format!(
                    "{endpoint} answers with a token that may be of another identity than {identity}: it does not name \
                     the one that it is for. {advice}"
                );
                return refuse(Cause::IdentityMismatch, message);
            }
        }
        let audience = asked.ask.audience.resource();
        let same = |resource: &String| {
            resource
                .trim_end_matches('/')
                .eq_ignore_ascii_case(audience.trim_end_matches('/'))
        };
        if !reply.resource.as_ref().is_none_or(same) {
            let message = format!(
                "{endpoint} answers with a token for another audience than {audience}. Check what listens there."
            );
            return refuse(Cause::MalformedReply, message);
        }
        let is_revoked = asked.ask.revoked.is_some_and(|digest| digest == reply.token.sha256());
        if is_revoked || self.state.borrow().cache.is_rejected(&reply.token) {
            let message = format!(
                "{endpoint} still returns the token for {audience} that was rejected. The platform caches tokens; ask \
                 again when that one has expired, or restart the workload's identity."
            );
            return refuse(Cause::TokenRejected, message);
        }
        Ok(Rc::new(Token {
            refresh_on: refresh_on(asked_at, reply.expires_on, reply.refresh_in, self.platform.random()),
            expires_on: reply.expires_on,
            secret: reply.token,
            token_type: reply.token_type,
            audience: audience.to_owned(),
            client_id: reply.client_id,
            source: asked.source.name(),
        }))
    }

    fn deadline_exceeded(&self, source: &dyn Source, flight: &Flight) -> Error {
        let activity = match flight.activity() {
            text if text.is_empty() => format!("{} to be asked", source.endpoint()),
            text => text,
        };
        Error::new(
            Cause::DeadlineExceeded,
            format!(
                "The caller's time ran out while waiting for {}. Ask again, with more time.",
                activity.trim_end_matches('.')
            ),
        )
        .with_source(source.name())
    }
}

/// What a try came to.
enum Exchange {
    /// A reply of any status.
    Reply {
        reply: HttpReply,
        /// What the request carried.
        secrets: Vec<Secret>,
        /// Whether it is the reply to the answer of a challenge.
        answered: bool,
    },
    /// No reply.
    Fault(TransportFault),
    /// Nothing that another try could change.
    Failed(Error),
}

/// Whether a reply is for the identity that was asked for; nothing when it does not say. A platform that falls back to
/// another identity must not go unnoticed.
fn names_the_identity(reply: &TokenReply, asked: &Identity) -> Option<bool> {
    let (said, asked) = match asked {
        Identity::PlatformDefault | Identity::SystemAssigned => return Some(true),
        Identity::ClientId(id) => (&reply.client_id, id),
        Identity::ObjectId(id) => (&reply.object_id, id),
        Identity::ResourceId(id) => (&reply.resource_id, id),
    };
    said.as_ref().map(|said| said.eq_ignore_ascii_case(asked))
}

/// The result of `work`, or nothing when `limit` ends first. What is ready counts, even when both are.
async fn race<T>(work: impl Future<Output = T>, limit: impl Future<Output = ()>) -> Option<T> {
    match select(pin!(work), pin!(limit)).await {
        Either::Left((result, _)) => Some(result),
        Either::Right(_) => None,
    }
}
