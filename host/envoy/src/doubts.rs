//! Tokens that the upstream has refused, and what is used in their place.
//!
//! A refusal (401) may be about the token, or about one request alone. And there may be no other token: metadata services
//! repeat theirs until shortly before its end, or are away. So whoever can make the upstream refuse a request must not be able
//! to take the token from all others:
//!
//! - The platform is asked for another token once for each that is refused, and not too often.
//! - Requests wait for it where the refusal has claims, because the upstream has then said what the token lacks. Else they go
//!   on with the one that there is.
//! - Where there is no other, the refused one is used as long as it is valid, and the platform is asked again now and then.

use managed_identity_host::{AccessToken, Cause, TokenError, TokenRequest};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The least time between two questions for another token, with a claims challenge and without one. An upstream that
/// refuses whoever asks would have the platform issue a token for each request otherwise.
const CHALLENGED_EVERY: Duration = Duration::from_secs(5);
const REFUSED_EVERY: Duration = Duration::from_secs(60);

/// How the question for another token ends.
pub(crate) type Answer<T> = Result<Arc<T>, TokenError>;

/// A token, as far as it matters here.
pub(crate) trait Token {
    fn is(&self, other: &Self) -> bool;
    fn is_valid(&self, unix_time: u64) -> bool;
}

impl Token for AccessToken {
    fn is(&self, other: &Self) -> bool {
        self.token.matches(other.token.expose())
    }

    fn is_valid(&self, unix_time: u64) -> bool {
        unix_time < self.expires_on
    }
}

/// A question to put to the platform, and where its answer goes.
pub(crate) struct Question<T> {
    pub(crate) request: TokenRequest,
    pub(crate) answer: watch::Sender<Option<Answer<T>>>,
}

/// What a request does in place of asking the broker.
pub(crate) enum StandIn<T> {
    /// It goes on with the refused token.
    Refused(Arc<T>),
    /// It waits for another, and goes on with the refused one if there is none.
    Awaited(Awaited<T>),
}

/// Another token, which is on its way.
pub(crate) struct Awaited<T> {
    refused: Arc<T>,
    answer: watch::Receiver<Option<Answer<T>>>,
}

/// The refused tokens of a broker.
pub(crate) struct Doubts<T> {
    /// Whether another token is wanted for any. Otherwise no request has to look.
    is_open: AtomicBool,
    doubts: Mutex<Vec<Doubt<T>>>,
}

/// The last refused token of an audience and identity.
struct Doubt<T> {
    /// How another one is asked for.
    request: TokenRequest,
    token: Arc<T>,
    /// When that was last asked for, and whether it was the first time.
    since: Instant,
    is_first: bool,
    answer: watch::Receiver<Option<Answer<T>>>,
}

impl<T: Token> Doubts<T> {
    pub(crate) fn new() -> Self {
        Self {
            is_open: AtomicBool::new(false),
            doubts: Mutex::default(),
        }
    }

    fn doubts(&self) -> MutexGuard<'_, Vec<Doubt<T>>> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The upstream refuses a token. There is a question to put if it is the first time, and the last question is long enough
    /// ago. Others that were sent with the token are told the same.
    pub(crate) fn refused(
        &self,
        wanted: &TokenRequest,
        token: &Arc<T>,
        rejected: TokenRequest,
        now: Instant,
    ) -> Option<Question<T>> {
        let mut doubts = self.doubts();
        let known = doubts.iter().position(|doubt| doubt.concerns(wanted));
        if let Some(known) = known.map(|index| &doubts[index]) {
            let has_claims = rejected.claims.is_some();
            let pause = if has_claims { CHALLENGED_EVERY } else { REFUSED_EVERY };
            let says_no_more = known.token.is(token) && (known.request.claims.is_some() || !has_claims);
            if says_no_more || now.saturating_duration_since(known.since) < pause {
                return None;
            }
        }
        let (sender, answer) = watch::channel(None);
        let doubt = Doubt {
            request: rejected.clone(),
            token: Arc::clone(token),
            since: now,
            is_first: true,
            answer,
        };
        match known {
            Some(index) => doubts[index] = doubt,
            None => doubts.push(doubt),
        }
        self.is_open.store(true, Ordering::Release);
        Some(Question {
            request: rejected,
            answer: sender,
        })
    }

    /// Whether any request has to look for a stand-in.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// What a request does while there is no other token than a refused one, and a question to put if it is time to ask
    /// again. `held` is the token that the broker would give.
    pub(crate) fn stand_in(
        &self,
        wanted: &TokenRequest,
        held: Option<&T>,
        now: Instant,
        unix_time: u64,
    ) -> Option<(StandIn<T>, Option<Question<T>>)> {
        let mut doubts = self.doubts();
        if !doubts.iter().any(|doubt| doubt.is_open(unix_time)) {
            self.is_open.store(false, Ordering::Release);
            return None;
        }
        let doubt = doubts.iter_mut().find(|doubt| doubt.concerns(wanted))?;
        if !doubt.is_open(unix_time) || held.is_some_and(|held| !doubt.token.is(held)) {
            return None;
        }
        let failed = match &*doubt.answer.borrow() {
            Some(Err(error)) => Some(error.cause),
            _ => None,
        };
        let refused = Arc::clone(&doubt.token);
        let Some(cause) = failed else {
            let waits = doubt.is_first && doubt.request.claims.is_some();
            let stand_in = match waits {
                true => StandIn::Awaited(Awaited {
                    refused,
                    answer: doubt.answer.clone(),
                }),
                false => StandIn::Refused(refused),
            };
            return Some((stand_in, None));
        };
        // A platform that repeats its tokens does so for hours, one that was away may soon be back.
        let is_urgent = doubt.request.claims.is_some() && cause != Cause::TokenRejected;
        let pause = if is_urgent { CHALLENGED_EVERY } else { REFUSED_EVERY };
        let is_due = now.saturating_duration_since(doubt.since) >= pause;
        Some((StandIn::Refused(refused), is_due.then(|| doubt.again(now))))
    }
}

impl<T: Token> Doubt<T> {
    fn concerns(&self, wanted: &TokenRequest) -> bool {
        (&self.request.audience, &self.request.identity) == (&wanted.audience, &wanted.identity)
    }

    /// Whether another token is wanted, and the refused one can be used meanwhile.
    fn is_open(&self, unix_time: u64) -> bool {
        self.token.is_valid(unix_time) && !matches!(&*self.answer.borrow(), Some(Ok(_)))
    }

    fn again(&mut self, now: Instant) -> Question<T> {
        let (sender, answer) = watch::channel(None);
        (self.since, self.is_first, self.answer) = (now, false, answer);
        Question {
            request: self.request.clone(),
            answer: sender,
        }
    }
}

impl<T: Token> Awaited<T> {
    /// The other token, if it arrives in time.
    pub(crate) async fn arrived(mut self, time: Duration, unix_time: impl Fn() -> u64) -> Answer<T> {
        let answer = tokio::time::timeout(time, self.answer.wait_for(Option::is_some)).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        match answer {
            Some(Ok(token)) => Ok(token),
            _ if self.refused.is_valid(unix_time()) => Ok(self.refused),
            Some(Err(error)) => Err(error),
            None => Err(TokenError::new(
                Cause::DeadlineExceeded,
                "No token has come in place of one that was refused and has expired since.",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the answers are literals")]

    use super::*;
    use managed_identity_host::Secret;

    #[derive(Debug, PartialEq, Eq)]
    struct Text(&'static str, u64);

    impl Token for Text {
        fn is(&self, other: &Self) -> bool {
            self.0 == other.0
        }

        fn is_valid(&self, unix_time: u64) -> bool {
            unix_time < self.1
        }
    }

    /// When the tokens here expire.
    const END: u64 = 1_000;

    const PLAIN: Option<&str> = None;
    const CLAIMS: Option<&str> = Some("{}");

    fn token(text: &'static str) -> Arc<Text> {
        Arc::new(Text(text, END))
    }

    fn wanted() -> TokenRequest {
        TokenRequest::new("https://audience.example")
    }

    struct Doubted(Doubts<Text>, Instant);

    impl Doubted {
        fn new() -> Self {
            Self(Doubts::new(), Instant::now())
        }

        fn refused(&self, seconds: u64, text: &'static str, claims: Option<&str>) -> Option<Question<Text>> {
            let mut request = wanted().with_rejected_token(Secret::from(text));
            request.claims = claims.map(str::to_owned);
            let now = self.1 + Duration::from_secs(seconds);
            self.0.refused(&wanted(), &token(text), request, now)
        }

        fn stand_in(&self, seconds: u64, held: Option<&Text>) -> Option<(StandIn<Text>, Option<Question<Text>>)> {
            let now = self.1 + Duration::from_secs(seconds);
            self.0.stand_in(&wanted(), held, now, seconds)
        }

        /// What a request does that many seconds later, and whether that asks again.
        #[track_caller]
        fn does(&self, seconds: u64, expected: &str, asks: bool) -> Option<Question<Text>> {
            let (does, question) = match self.stand_in(seconds, None) {
                Some((StandIn::Refused(_), question)) => ("goes on", question),
                Some((StandIn::Awaited(_), question)) => ("waits", question),
                None => ("asks the broker", None),
            };
            assert_eq!((does, question.is_some()), (expected, asks), "after {seconds} s");
            question
        }
    }

    fn fails(question: &Question<Text>, cause: Cause) {
        question.answer.send_replace(Some(Err(TokenError::new(cause, "x"))));
    }

    #[test]
    fn an_upstream_that_refuses_every_token_is_believed_now_and_then() {
        let doubted = Doubted::new();
        for (seconds, text, claims, is_believed) in [
            (0, "a", PLAIN, true),
            (1, "a", CLAIMS, false),
            (4, "b", CLAIMS, false),
            (5, "b", CLAIMS, true),
            (70, "b", PLAIN, false),
            (70, "b", CLAIMS, false),
            (64, "c", PLAIN, false),
            (65, "c", PLAIN, true),
            (66, "d", CLAIMS, false),
            (200, "c", PLAIN, false),
            // Of the same token, something new.
            (201, "c", CLAIMS, true),
            (300, "c", CLAIMS, false),
        ] {
            let question = doubted.refused(seconds, text, claims);
            assert_eq!(question.is_some(), is_believed, "{text} after {seconds} s");
        }
        // What one audience or identity is told does not concern another.
        let other = TokenRequest::new("https://other.example");
        assert!(
            doubted
                .0
                .refused(&other, &token("c"), other.clone(), doubted.1)
                .is_some()
        );
    }

    #[test]
    fn requests_wait_for_another_token_where_the_refusal_has_claims() {
        let doubted = Doubted::new();
        doubted.does(0, "asks the broker", false);
        let question = doubted.refused(0, "a", PLAIN).unwrap();
        assert_eq!(question.request.claims, None);
        doubted.does(0, "goes on", false);
        let question = doubted.refused(5, "a", CLAIMS).unwrap();
        assert_eq!(question.request.claims.as_deref(), CLAIMS);
        doubted.does(5, "waits", false);
        // The broker has another one already.
        assert!(doubted.stand_in(5, Some(&token("b"))).is_none());
        assert!(doubted.stand_in(5, Some(&token("a"))).is_some());
        question.answer.send_replace(Some(Ok(token("b"))));
        doubted.does(5, "asks the broker", false);
        assert!(!doubted.0.is_open());
    }

    #[test]
    fn a_refused_token_is_used_while_there_is_no_other_and_the_platform_is_asked_now_and_then() {
        for (claims, cause, pause) in [
            (PLAIN, Cause::TokenRejected, 60),
            (PLAIN, Cause::EndpointUnreachable, 60),
            (CLAIMS, Cause::TokenRejected, 60),
            (CLAIMS, Cause::EndpointUnreachable, 5),
        ] {
            let doubted = Doubted::new();
            fails(&doubted.refused(0, "a", claims).unwrap(), cause);
            for _ in 0..2 {
                doubted.does(pause - 1, "goes on", false);
            }
            let again = doubted.does(pause, "goes on", true).unwrap();
            assert_eq!(again.request.claims.as_deref(), claims);
            // Nobody waits a second time.
            doubted.does(pause, "goes on", false);
            fails(&again, cause);
            doubted.does(2 * pause - 1, "goes on", false);
            let again = doubted.does(2 * pause, "goes on", true).unwrap();
            again.answer.send_replace(Some(Ok(token("b"))));
            doubted.does(2 * pause, "asks the broker", false);
        }
    }

    #[test]
    fn an_expired_token_is_used_for_nothing() {
        let doubted = Doubted::new();
        fails(&doubted.refused(0, "a", PLAIN).unwrap(), Cause::TokenRejected);
        doubted.does(END - 1, "goes on", true);
        doubted.does(END, "asks the broker", false);
        assert!(!doubted.0.is_open());
    }

    #[test]
    fn whoever_waits_gets_the_other_token_or_the_refused_one_as_long_as_it_is_valid() {
        let cause = Cause::TokenRejected;
        for (answer, seconds, expected) in [
            (Some(Ok(token("b"))), 1, Ok(token("b"))),
            (Some(Err(TokenError::new(cause, "x"))), 1, Ok(token("a"))),
            (Some(Err(TokenError::new(cause, "x"))), END, Err(cause)),
            (None, 1, Ok(token("a"))),
            (None, END, Err(Cause::DeadlineExceeded)),
        ] {
            let doubted = Doubted::new();
            let question = doubted.refused(0, "a", CLAIMS).unwrap();
            let Some((StandIn::Awaited(other), None)) = doubted.stand_in(0, None) else {
                panic!("it does not wait");
            };
            if let Some(answer) = answer {
                question.answer.send_replace(Some(answer));
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            let arrived = runtime.block_on(other.arrived(Duration::ZERO, || seconds));
            assert_eq!(arrived.map_err(|error| error.cause), expected);
        }
    }
}
