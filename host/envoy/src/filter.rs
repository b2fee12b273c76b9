//! What happens to a request.

use crate::abi::{ConfigHandle, HeadersStatus, Level, Scheduler, Stream, log};
use crate::brokers::{self, Found, Shared};
use crate::config::{RouteSettings, Settings};
use crate::rule::{Asked, Rule};
use managed_identity_host::authorized_http::claims_challenge_of;
use managed_identity_host::{AccessToken, Cause, TokenError};
use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The least time between two warnings of the same cause. In an outage each request fails.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Which configuration a filter has, and with what it is served.
pub(crate) struct Config {
    settings: Settings,
    /// None when Envoy only checks its configuration.
    shared: Option<Arc<Shared>>,
    counters: Counters,
    /// Of which failures the log was told, and when.
    told: Mutex<Vec<(Cause, Instant)>>,
}

/// The counters of a filter. Envoy prefixes them with its own namespace.
struct Counters {
    hit: Option<usize>,
    fetched: Option<usize>,
    denied: Option<usize>,
    passed: Option<usize>,
    failed: Option<usize>,
    challenged: Option<usize>,
}

impl Config {
    pub(crate) fn load(handle: &ConfigHandle, text: &[u8], only_check: bool) -> Result<Self, String> {
        let settings = Settings::parse(text).map_err(|error| error.to_string())?;
        let shared = match only_check {
            true => None,
            false => {
                Some(brokers::shared(&settings.environment, &settings.outbound).map_err(|error| error.to_string())?)
            }
        };
        let counter = |name: &str| handle.define_counter(&format!("managed_identity.{name}"));
        let counters = Counters {
            hit: counter("hit"),
            fetched: counter("fetched"),
            denied: counter("denied"),
            passed: counter("passed"),
            failed: counter("failed"),
            challenged: counter("challenged"),
        };
        Ok(Self {
            settings,
            shared,
            counters,
            told: Mutex::default(),
        })
    }

    /// Whether a failure is for the log of whoever looks there only when something is wrong.
    fn is_news(&self, cause: Cause, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match told.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, since)) if now.saturating_duration_since(*since) < TOLD_EVERY => return false,
            Some((_, since)) => *since = now,
            None => told.push((cause, now)),
        }
        true
    }
}

/// A request on its way. Envoy calls it on one thread, but from within its own calls, too.
pub(crate) struct Filter {
    config: Arc<Config>,
    /// Which token the request has been given.
    given: RefCell<Option<(Arc<Rule>, Arc<AccessToken>)>>,
    pending: RefCell<Option<(Arc<Rule>, Arc<Pending>)>>,
    /// Whether the reply is Envoy's own, and not the upstream's.
    is_local: Cell<bool>,
}

/// An answer that a request waits for.
struct Pending(Mutex<State>);

struct State {
    /// There as long as the worker can be told. It must not be used when the filter is gone, because the worker may be, too.
    scheduler: Option<Scheduler>,
    answer: Option<Result<Arc<AccessToken>, TokenError>>,
}

impl Pending {
    fn answer(&self, answer: Result<Arc<AccessToken>, TokenError>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.answer = Some(answer);
        // Under the lock, so that the filter's end waits for it.
        if let Some(scheduler) = state.scheduler.take() {
            scheduler.commit();
        }
    }

    fn give_up(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).scheduler = None;
    }

    fn take(&self) -> Option<Result<Arc<AccessToken>, TokenError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).answer.take()
    }
}

impl Asked for Stream {
    fn host(&self) -> Option<&[u8]> {
        self.request_header(b":authority")
    }

    fn path(&self) -> Option<&[u8]> {
        self.request_header(b":path")
    }

    fn route(&self) -> Option<&[u8]> {
        self.route_name()
    }
}

impl Filter {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            given: RefCell::default(),
            pending: RefCell::default(),
            is_local: Cell::new(false),
        }
    }

    pub(crate) fn request_headers(&self, stream: &Stream) -> HeadersStatus {
        let rule = match stream.route_settings() {
            Some(RouteSettings::Off) => return HeadersStatus::Continue,
            Some(RouteSettings::Rule(rule)) => rule,
            None => match self.config.settings.rules.iter().find(|rule| rule.matches(stream)) {
                Some(rule) => rule,
                None => return HeadersStatus::Continue,
            },
        };
        let Some(shared) = &self.config.shared else {
            return self.fail(
                stream,
                &TokenError::new(Cause::Internal, "This configuration was only checked."),
            );
        };
        let answer = match shared.token(&rule.request, self.config.settings.timeout) {
            Found::AtHand(token) => {
                stream.count(self.config.counters.hit);
                return self.give(stream, rule, &token);
            }
            Found::Later(answer) => answer,
        };
        let Some(scheduler) = stream.scheduler() else {
            return self.fail(stream, &TokenError::new(Cause::Internal, "Envoy gives no scheduler."));
        };
        let pending = Arc::new(Pending(Mutex::new(State {
            scheduler: Some(scheduler),
            answer: None,
        })));
        *self.pending.borrow_mut() = Some((Arc::clone(rule), Arc::clone(&pending)));
        shared.spawn(async move { pending.answer(answer.await) });
        HeadersStatus::StopAllIterationAndWatermark
    }

    /// The answer is there.
    pub(crate) fn scheduled(&self, stream: &Stream) {
        let Some((rule, pending)) = self.pending.borrow_mut().take() else {
            return;
        };
        let status = match pending.take() {
            Some(Ok(token)) => {
                stream.count(self.config.counters.fetched);
                self.give(stream, &rule, &token)
            }
            Some(Err(error)) => self.fail(stream, &error),
            None => self.fail(stream, &TokenError::new(Cause::Internal, "The answer is lost.")),
        };
        if status == HeadersStatus::Continue {
            stream.continue_decoding();
        }
    }

    pub(crate) fn response_headers(&self, stream: &Stream) {
        if !self.config.settings.claims_challenge || self.is_local.get() {
            return;
        }
        let Some((rule, token)) = self.given.borrow_mut().take() else {
            return;
        };
        if stream.response_header(b":status", 0) != Some(b"401") {
            return;
        }
        let claims = stream.challenges().iter().find_map(|field| claims_challenge_of(field));
        let Some(shared) = &self.config.shared else { return };
        if shared.refused(&rule.request, &token, claims, self.config.settings.timeout) {
            stream.count(self.config.counters.challenged);
        }
    }

    pub(crate) fn local_reply(&self) {
        self.is_local.set(true);
    }

    fn give(&self, stream: &Stream, rule: &Arc<Rule>, token: &Arc<AccessToken>) -> HeadersStatus {
        let carried = rule.carried(token);
        if !stream.set_request_header(
            self.config.settings.header.as_bytes(),
            carried.value.expose().as_bytes(),
        ) {
            return self.fail(
                stream,
                &TokenError::new(Cause::Internal, "Envoy does not take the header."),
            );
        }
        *self.given.borrow_mut() = Some((Arc::clone(rule), Arc::clone(token)));
        HeadersStatus::Continue
    }

    fn fail(&self, stream: &Stream, error: &TokenError) -> HeadersStatus {
        stream.count(self.config.counters.failed);
        let level = match self.config.is_news(error.cause, Instant::now()) {
            true => Level::Warn,
            false => Level::Debug,
        };
        log(level, &format!("no token: {error}"));
        if self.config.settings.pass {
            stream.count(self.config.counters.passed);
            // What the client has sent in this header is not for the upstream either.
            stream.remove_request_header(self.config.settings.header.as_bytes());
            return HeadersStatus::Continue;
        }
        stream.count(self.config.counters.denied);
        let retry_after = error.retry_after_ms.map(|time| time.div_ceil(1000).to_string());
        let mut headers: Vec<(&[u8], &[u8])> = vec![(b"x-managed-identity-error", error.cause.name().as_bytes())];
        if let Some(time) = &retry_after {
            headers.push((b"retry-after", time.as_bytes()));
        }
        stream.respond(503, &headers, b"no token\n", b"managed_identity_no_token");
        HeadersStatus::StopIteration
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Some((_, pending)) = self.pending.get_mut().take() {
            pending.give_up();
        }
    }
}
