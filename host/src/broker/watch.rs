//! Tokens one after the other, each when it is there.

use super::Broker;
use crate::grants::Granted;
use crate::token::{AccessToken, TokenRequest, unix_time};
use futures_util::Stream;
use futures_util::stream::{self, BoxStream};
use managed_identity_provider::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// After a try that brought no new token, how long until the next; doubled with each.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);

/// The longest wait between two tries. The provider itself decides how often it asks the platform.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);

/// The longest wait for a token to come due. Asking earlier costs next to nothing, and shows a token that took the place of
/// one that somebody rejected, or the time that has passed while the machine slept.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The tokens for one request: the one that is valid now, and then each successor when it is there.
///
/// Made by [`Broker::watch`], and by [`Granted::watch`] for one caller. While there is a valid token, failures are not told.
/// Without one, a failure is an item, and the next try follows after a time that grows from a second to a minute, or as the
/// platform asks. That a token is not granted any more is told at once. The stream ends when the broker is shut down.
///
/// It works as long as it is polled, and needs no runtime of its own: its timers run on the provider's thread. Whoever polls
/// late gets the latest token. Like a clone of the broker, it keeps the provider running, and nothing is left of it when it
/// is dropped.
pub struct Watch(BoxStream<'static, Result<Arc<AccessToken>, Error>>);

impl Watch {
    pub(super) fn new(broker: Broker, request: TokenRequest) -> Self {
        Self(Box::pin(tokens(broker, request)))
    }

    pub(crate) fn granted(granted: Granted, request: TokenRequest) -> Self {
        Self(Box::pin(tokens(granted, request)))
    }
}

impl Stream for Watch {
    type Item = Result<Arc<AccessToken>, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// Where tokens and time come from.
trait Tap: Send + 'static {
    fn token(&self, request: &TokenRequest) -> impl Future<Output = Result<Arc<AccessToken>, Error>> + Send;

    /// Waits. False when there is nothing more to wait for.
    fn pause(&self, time: Duration) -> impl Future<Output = bool> + Send;

    /// Whether no token will come any more.
    fn is_dry(&self) -> bool;

    /// In seconds since 1970.
    fn now(&self) -> u64;

    /// Whether the token that was given last may be had no longer, however long it is valid.
    fn is_revoked(&self, _: &TokenRequest) -> bool {
        false
    }
}

impl Tap for Broker {
    async fn token(&self, request: &TokenRequest) -> Result<Arc<AccessToken>, Error> {
        Self::token(self, request).await
    }

    async fn pause(&self, time: Duration) -> bool {
        Self::pause(self, time).await
    }

    fn is_dry(&self) -> bool {
        self.is_shut_down()
    }

    fn now(&self) -> u64 {
        unix_time()
    }
}

impl Tap for Granted {
    async fn token(&self, request: &TokenRequest) -> Result<Arc<AccessToken>, Error> {
        Self::token(self, request).await
    }

    async fn pause(&self, time: Duration) -> bool {
        self.gate().broker().pause(time).await
    }

    fn is_dry(&self) -> bool {
        self.gate().broker().is_shut_down()
    }

    fn now(&self) -> u64 {
        unix_time()
    }

    fn is_revoked(&self, request: &TokenRequest) -> bool {
        !self.is_granted(&request.audience, &request.identity)
    }
}

struct Watching<T> {
    tap: T,
    request: TokenRequest,
    /// The token that was given last.
    out: Option<Arc<AccessToken>>,
    /// How long to wait before asking.
    wait: Duration,
    back_off: Duration,
}

fn tokens<T: Tap>(tap: T, request: TokenRequest) -> impl Stream<Item = Result<Arc<AccessToken>, Error>> + Send {
    let watching = Watching {
        tap,
        request,
        out: None,
        wait: Duration::ZERO,
        back_off: FIRST_BACK_OFF,
    };
    stream::unfold(watching, async |mut watching| {
        let item = watching.next().await?;
        Some((item, watching))
    })
}

impl<T: Tap> Watching<T> {
    async fn next(&mut self) -> Option<Result<Arc<AccessToken>, Error>> {
        loop {
            if self.wait > Duration::ZERO && !self.tap.pause(self.wait).await {
                return None;
            }
            let result = self.tap.token(&self.request).await;
            if self.tap.is_dry() {
                return None;
            }
            let now = self.tap.now();
            match result {
                Ok(token) => {
                    // They were about a token before the first. Who has doubts about another asks the broker.
                    self.request.claims = None;
                    self.request.rejected_token = None;
                    let is_new = !self.is_out(&token);
                    if is_new {
                        self.back_off = FIRST_BACK_OFF;
                    }
                    self.wait = match token.refresh_on.min(token.expires_on).saturating_sub(now) {
                        0 => self.next_back_off(),
                        seconds => Duration::from_secs(seconds).min(LONGEST_WAIT),
                    };
                    self.wait_no_longer_than(&token, now);
                    self.out = Some(Arc::clone(&token));
                    if is_new {
                        return Some(Ok(token));
                    }
                }
                Err(error) => {
                    let asked_for = error.retry_after_ms.map(|time| Duration::from_millis(time.into()));
                    self.wait = self.next_back_off().max(asked_for.unwrap_or_default());
                    let is_revoked = self.tap.is_revoked(&self.request);
                    match self.out.take().filter(|token| now < token.expires_on && !is_revoked) {
                        Some(token) => {
                            self.wait_no_longer_than(&token, now);
                            self.out = Some(token);
                        }
                        None => return Some(Err(error)),
                    }
                }
            }
        }
    }

    fn is_out(&self, token: &AccessToken) -> bool {
        self.out
            .as_ref()
            .is_some_and(|out| out.token.matches(token.token.expose()))
    }

    fn next_back_off(&mut self) -> Duration {
        let wait = self.back_off;
        self.back_off = (wait * 2).min(LONGEST_BACK_OFF);
        wait
    }

    /// Asks again when a token expires, if not before: from then on there is none.
    fn wait_no_longer_than(&mut self, token: &AccessToken, now: u64) {
        let left = Duration::from_secs(token.expires_on.saturating_sub(now));
        self.wait = self.wait.min(left.max(FIRST_BACK_OFF));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;
    use futures_util::{FutureExt as _, StreamExt as _};
    use managed_identity_provider::error::Cause;
    use managed_identity_provider::secret::Secret;
    use std::sync::Mutex;

    const START: u64 = 1_000_000;

    /// A platform whose clock moves when somebody waits, and stands still when nobody may wait any longer.
    struct Script {
        state: Mutex<State>,
        /// What is asked for is answered by when it is asked, and in seconds from the start.
        answer: Box<Answer>,
        ends: u64,
    }

    type Answer = dyn Fn(u64) -> Result<AccessToken, Error> + Send + Sync;

    #[derive(Default)]
    struct State {
        elapsed: Duration,
        asked: Vec<(u64, bool)>,
    }

    impl Tap for Arc<Script> {
        async fn token(&self, request: &TokenRequest) -> Result<Arc<AccessToken>, Error> {
            let elapsed = self.elapsed();
            let doubts = request.claims.is_some() || request.rejected_token.is_some();
            self.state.lock().unwrap().asked.push((elapsed, doubts));
            (self.answer)(elapsed).map(Arc::new)
        }

        async fn pause(&self, time: Duration) -> bool {
            assert!(
                time >= Duration::from_secs(1),
                "asks in too quick a succession: {time:?}"
            );
            self.state.lock().unwrap().elapsed += time;
            true
        }

        fn is_dry(&self) -> bool {
            self.elapsed() >= self.ends
        }

        fn now(&self) -> u64 {
            START + self.elapsed()
        }

        fn is_revoked(&self, request: &TokenRequest) -> bool {
            request.audience == "revoked"
        }
    }

    impl Script {
        fn elapsed(&self) -> u64 {
            self.state.lock().unwrap().elapsed.as_secs()
        }
    }

    fn token(text: &str, refresh_on: u64, expires_on: u64) -> AccessToken {
        AccessToken {
            token: Secret::from(text),
            token_type: "Bearer".to_owned(),
            audience: "a".to_owned(),
            expires_on: START + expires_on,
            refresh_on: START + refresh_on,
            client_id: None,
            source: "imds".to_owned(),
            stale: false,
        }
    }

    fn failure() -> Error {
        Error::new(Cause::PlatformFailure, "It failed.")
    }

    /// What comes until the broker is shut down at `ends`: when, and a token or nothing; and when it was asked, and whether
    /// with doubts.
    fn watched(
        request: TokenRequest,
        ends: u64,
        answer: impl Fn(u64) -> Result<AccessToken, Error> + Send + Sync + 'static,
    ) -> (Vec<(u64, Option<String>)>, Vec<(u64, bool)>) {
        let script = Arc::new(Script {
            state: Mutex::default(),
            answer: Box::new(answer),
            ends,
        });
        let items = tokens(Arc::clone(&script), request).map(|item| {
            let text = item.ok().map(|token| token.token.expose().to_owned());
            (script.elapsed(), text)
        });
        let items = items.collect::<Vec<_>>().now_or_never().unwrap();
        (items, std::mem::take(&mut script.state.lock().unwrap().asked))
    }

    fn given(time: u64, text: &str) -> (u64, Option<String>) {
        (time, Some(text.to_owned()))
    }

    #[test]
    fn each_successor_comes_when_it_is_there_and_no_token_comes_twice() {
        // Renewed in the background: at first, who asks still gets the old one.
        let (items, asked) = watched(TokenRequest::new("a"), 300, |time| {
            Ok(match time {
                0..=101 => token("first", 100, 200),
                102..=220 => token("second", 200, 300),
                _ => token("third", 300, 400),
            })
        });
        assert_eq!(items, [given(0, "first"), given(103, "second"), given(231, "third")]);
        let times: Vec<_> = asked.iter().map(|(time, _)| *time).collect();
        assert_eq!(
            times,
            [0, 60, 100, 101, 103, 163, 200, 201, 203, 207, 215, 231, 291, 300]
        );
    }

    #[test]
    fn failures_are_told_when_there_is_no_valid_token_and_not_before() {
        let (items, _) = watched(TokenRequest::new("a"), 250, |time| match time {
            0 => Ok(token("first", 50, 100)),
            1..=160 => Err(failure()),
            _ => Ok(token("second", 1_000, 2_000)),
        });
        assert_eq!(items.first(), Some(&given(0, "first")));
        assert_eq!(items.last(), Some(&given(items.last().unwrap().0, "second")));
        let failures = &items[1..items.len() - 1];
        assert!(!failures.is_empty() && failures.iter().all(|(_, token)| token.is_none()));
        assert_eq!(failures[0].0, 100, "the first is told when the token expires");
    }

    #[test]
    fn that_a_token_is_not_granted_any_more_is_told_while_it_is_valid() {
        let (items, _) = watched(TokenRequest::new("revoked"), 100, |time| match time {
            0 => Ok(token("first", 10_000, 20_000)),
            _ => Err(failure()),
        });
        assert_eq!(items[..2], [given(0, "first"), (60, None)]);
        assert!(items[2..].iter().all(|(_, token)| token.is_none()));
    }

    #[test]
    fn tries_without_a_token_are_further_and_further_apart() {
        let (items, _) = watched(TokenRequest::new("a"), 300, |_| Err(failure()));
        let times: Vec<_> = items.iter().map(|(time, _)| *time).collect();
        assert_eq!(times, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
        let (items, _) = watched(TokenRequest::new("a"), 300, |_| {
            let mut error = failure();
            error.retry_after_ms = Some(120_000);
            Err(error)
        });
        assert_eq!(items.iter().map(|(time, _)| *time).collect::<Vec<_>>(), [0, 120, 240]);
    }

    #[test]
    fn a_token_that_took_the_place_of_a_rejected_one_is_found_before_the_old_one_comes_due() {
        let (items, _) = watched(TokenRequest::new("a"), 200, |time| {
            Ok(token(if time < 70 { "first" } else { "second" }, 10_000, 20_000))
        });
        assert_eq!(items, [given(0, "first"), given(120, "second")]);
    }

    #[test]
    fn doubts_are_told_until_they_are_answered_and_not_again() {
        for request in [
            TokenRequest::new("a").with_claims("{}"),
            TokenRequest::new("a").with_rejected_token(Secret::from("t")),
        ] {
            let (_, asked) = watched(request, 100, |time| match time {
                0 => Err(failure()),
                _ => Ok(token("t", 10_000, 20_000)),
            });
            assert_eq!(asked, [(0, true), (1, true), (61, false), (121, false)]);
        }
    }

    #[test]
    fn one_that_cannot_wait_ends() {
        struct Ended;
        impl Tap for Ended {
            async fn token(&self, _: &TokenRequest) -> Result<Arc<AccessToken>, Error> {
                Err(failure())
            }
            async fn pause(&self, _: Duration) -> bool {
                false
            }
            fn is_dry(&self) -> bool {
                false
            }
            fn now(&self) -> u64 {
                START
            }
        }
        let items = tokens(Ended, TokenRequest::new("a")).count().now_or_never();
        assert_eq!(items, Some(1));
    }
}
