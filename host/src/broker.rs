//! What embedders hold: tokens, from a provider that runs on a thread of its own.

mod blocking;
mod builder;
pub(crate) mod hits;
mod probe;
mod watch;

pub use blocking::BlockingBroker;
pub use builder::BrokerBuilder;
pub(crate) use builder::default_compilation_cache;
pub use watch::Watch;

use crate::outbound::Outbound;
use crate::provider::{Ask, Call, Message, Place, ProviderDescription, ProviderError, ReplyTo, Running};
use crate::telemetry::Telemetry;
use crate::token::{AccessToken, Identity, SourceDescription, TokenRequest, unix_time};
use futures_util::future::{Either, select};
use hits::{Hits, Invalidation, Renewing};
use managed_identity_provider::error::{Cause, Error};
use managed_identity_provider::request::check_sizes;
use managed_identity_provider::secret::Secret;
use probe::Credential;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch::Receiver;
use tokio::sync::{mpsc, oneshot};

/// Hands out tokens. Cheap to clone; all clones share one provider, which ends with the last of them.
///
/// Usable from any async runtime: the provider runs on a thread of its own. A caller may stop waiting at any time, by
/// dropping the future, without harm to others.
///
/// A token whose successor is not due is given on the caller's own thread, in less than a microsecond. Everything else is
/// the provider's decision. Should the provider fail, be in the middle of its replacement or not answer in five seconds, a
/// token that is still valid is given all the same, marked as [`stale`](AccessToken::stale).
///
/// ```no_run
/// use managed_identity_host::{Broker, TokenRequest};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::from_environment()?;
/// let token = broker.token(&TokenRequest::new("https://vault.azure.net")).await?;
/// println!("valid until {}", token.expires_on);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    hits: Arc<Hits>,
    messages: mpsc::UnboundedSender<Message>,
    provider: ProviderDescription,
    outbound: Outbound,
    /// Why nothing can be asked, when the environment names an endpoint that cannot be reached safely.
    misconfigured: Option<Error>,
    /// What the platform leaves in a file for the source.
    credential: Option<Credential>,
    is_shut_down: AtomicBool,
    /// The runtime of the provider's thread, for timers.
    runtime: Handle,
    /// Closed when the provider's thread has nothing more to do.
    ended: Receiver<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How long a caller waits for the successor of a token that is still valid. The built-in provider answers within two
/// seconds then; but not after it was replaced and has forgotten the token, while the platform does not answer.
const LONGEST_WAIT_FOR_SUCCESSOR: Duration = Duration::from_secs(5);

/// How a call for a token ended.
enum Outcome {
    /// Without the provider, by a token whose successor is not due.
    Hit(Arc<AccessToken>),
    /// By the provider's answer.
    Answered(Arc<AccessToken>),
    /// By a failure, and a token that is valid all the same.
    Held(Arc<AccessToken>, Error),
    /// Without a token.
    Failed(Error),
}

impl Broker {
    /// A broker for the identity source that the process environment selects.
    ///
    /// # Errors
    /// When the provider cannot be started. An environment without an identity source is not an error here: each
    /// request then fails with its own.
    pub fn from_environment() -> Result<Self, ProviderError> {
        Self::builder().build()
    }

    /// A broker with other settings.
    #[must_use]
    pub fn builder() -> BrokerBuilder {
        BrokerBuilder::new()
    }

    fn new(
        hits: Arc<Hits>,
        running: Running,
        provider: ProviderDescription,
        outbound: Outbound,
        misconfigured: Option<Error>,
        credential: Option<Credential>,
    ) -> Self {
        Self(Arc::new(Inner {
            hits,
            messages: running.messages,
            provider,
            outbound,
            misconfigured,
            credential,
            is_shut_down: AtomicBool::new(false),
            runtime: running.runtime,
            ended: running.ended,
            thread: Mutex::new(Some(running.thread)),
        }))
    }

    /// A token that is valid now.
    ///
    /// # Errors
    /// One cause of the closed list, by the request's time-out. Never while a valid token is at hand, unless the caller
    /// rejected it or brings claims.
    pub async fn token(&self, request: &TokenRequest) -> Result<Arc<AccessToken>, Error> {
        self.token_in(None, request).await
    }

    /// The same for whoever takes a place. That is held until the provider has answered, also when the future is dropped.
    pub(crate) async fn token_in(
        &self,
        place: Option<Place>,
        request: &TokenRequest,
    ) -> Result<Arc<AccessToken>, Error> {
        let outcome = match self.hit(request) {
            Some(token) => Outcome::Hit(token),
            None => match self.telemetry().asked(request, self.fetch(request, place)).await {
                Ok(token) => Outcome::Answered(token),
                Err(error) => match self.0.hits.held(request, unix_time()) {
                    Some(token) if !self.is_shut_down() => Outcome::Held(token, error),
                    _ => Outcome::Failed(error),
                },
            },
        };
        self.ended(outcome)
    }

    /// The token that answers a request at once, on the caller's own thread. For event loops that must not wait.
    ///
    /// A token whose successor is due is given as long as it is valid for a minute yet, and the provider is asked for the
    /// successor in the background, for one caller at a time. `None` means that [`token`](Self::token) has to be called.
    #[must_use]
    pub fn cached(&self, request: &TokenRequest) -> Option<Arc<AccessToken>> {
        let (token, renewing) = self.0.hits.valid(request, unix_time())?;
        if self.is_shut_down() {
            return None;
        }
        if let Some(renewing) = renewing {
            self.renew(request.clone(), renewing);
        }
        self.telemetry().hit();
        Some(token)
    }

    /// Asks the provider for a token that nobody waits for.
    fn renew(&self, request: TokenRequest, renewing: Renewing) {
        let broker = self.clone();
        self.0.runtime.spawn(async move {
            let _until_then = renewing;
            if let Err(error) = broker.telemetry().asked(&request, broker.fetch(&request, None)).await {
                tracing::warn!(target: "managed_identity::broker", %error, "a token that is due is not renewed");
            }
        });
    }

    /// Drops cached tokens, of one audience or all.
    ///
    /// # Errors
    /// When the provider does not answer.
    pub async fn forget(&self, audience: Option<&str>) -> Result<(), Error> {
        let invalidation = self.0.hits.forgotten(audience);
        let ask = |reply| Ask::Forget(audience.map(str::to_owned), reply);
        self.ask(ask, Some(invalidation), None).await
    }

    /// Where tokens come from, and why. Asks the provider and not the platform.
    ///
    /// # Errors
    /// When the provider does not answer.
    pub async fn describe_source(&self) -> Result<SourceDescription, Error> {
        let mut description = self.ask(Ask::Describe, None, None).await?;
        if let Some(error) = &self.0.misconfigured {
            description.last_failure = Some(error.clone());
        }
        Ok(description)
    }

    /// What provider is run, and where its machine code comes from.
    #[must_use]
    pub fn describe_provider(&self) -> ProviderDescription {
        self.0.provider
    }

    /// The token for a request, and then each successor when it is there: for connection pools and the like. Claims and a
    /// rejected token count for the first token alone.
    ///
    /// ```no_run
    /// use futures_util::StreamExt;
    /// use managed_identity_host::{Broker, TokenRequest};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = Broker::from_environment()?;
    /// let mut tokens = broker.watch(TokenRequest::new("https://ossrdbms-aad.database.windows.net"));
    /// while let Some(result) = tokens.next().await {
    ///     match result {
    ///         Ok(token) => println!("log in with the token that is valid until {}", token.expires_on),
    ///         Err(error) => println!("no token at present: {error}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn watch(&self, request: TokenRequest) -> Watch {
        Watch::new(self.clone(), request)
    }

    /// What the provider reaches.
    pub(crate) fn outbound(&self) -> &Outbound {
        &self.0.outbound
    }

    /// This broker for code that is not async.
    #[must_use]
    pub fn blocking(&self) -> BlockingBroker {
        BlockingBroker::new(self.clone())
    }

    /// Ends the provider, for all clones, and returns when its thread has ended. Calls that have begun get their answers;
    /// those that begin later fail. All tokens are dropped.
    ///
    /// May be called more than once. What was begun goes on when the future is dropped.
    pub async fn shutdown(&self) {
        let inner = &*self.0;
        if !inner.is_shut_down.swap(true, Ordering::AcqRel) {
            // A thread that has ended already needs not be told.
            let _ = inner.messages.send(Message::Drain);
        }
        let mut ended = inner.ended.clone();
        while ended.changed().await.is_ok() {}
        let thread = inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It has done its last; a panic of it has been printed.
            let _ = thread.join();
        }
    }

    /// Waits on the provider's thread, whatever the caller runs on. False when that ends before.
    async fn pause(&self, time: Duration) -> bool {
        let (mut over, is_over) = oneshot::channel();
        self.0.runtime.spawn(async move {
            tokio::select! {
                () = over.closed() => {}
                () = tokio::time::sleep(time) => drop(over.send(())),
            }
        });
        is_over.await.is_ok()
    }

    /// What counts for this broker.
    pub(crate) fn telemetry(&self) -> &Telemetry {
        self.0.hits.telemetry()
    }

    fn is_shut_down(&self) -> bool {
        self.0.is_shut_down.load(Ordering::Acquire)
    }

    fn hit(&self, request: &TokenRequest) -> Option<Arc<AccessToken>> {
        let token = self.0.hits.fresh(request, unix_time())?;
        (!self.is_shut_down()).then_some(token)
    }

    /// Asks the provider.
    async fn fetch(&self, request: &TokenRequest, place: Option<Place>) -> Result<Arc<AccessToken>, Error> {
        if let Some(error) = &self.0.misconfigured {
            return Err(error.clone());
        }
        let identifier = match &request.identity {
            Identity::PlatformDefault | Identity::SystemAssigned => None,
            Identity::ClientId(id) | Identity::ObjectId(id) | Identity::ResourceId(id) => Some(id.as_str()),
        };
        let rejected = request.rejected_token.as_ref().map(Secret::expose);
        check_sizes(&request.audience, identifier, request.claims.as_deref(), rejected)?;
        let invalidation = self.0.hits.challenged(request);
        let ask = |reply| Ask::Token(Box::new(request.clone()), reply);
        let answer = self.ask(ask, invalidation, place);
        if !self.holds(request) {
            return answer.await;
        }
        match select(pin!(answer), pin!(self.pause(LONGEST_WAIT_FOR_SUCCESSOR))).await {
            Either::Right((_, _)) if self.holds(request) => Err(Error::new(
                Cause::DeadlineExceeded,
                "The provider has not answered, and a held token is valid meanwhile.",
            )),
            Either::Left((result, _)) => result,
            Either::Right((_, answer)) => answer.await,
        }
    }

    /// Whether there is a token to give when the provider does not answer, and will be for a moment yet.
    fn holds(&self, request: &TokenRequest) -> bool {
        self.0.hits.held(request, unix_time().saturating_add(1)).is_some()
    }

    /// Every call for a token ends here.
    fn ended(&self, outcome: Outcome) -> Result<Arc<AccessToken>, Error> {
        let telemetry = self.telemetry();
        match outcome {
            Outcome::Hit(token) => {
                telemetry.hit();
                Ok(token)
            }
            Outcome::Answered(token) => {
                telemetry.answered(&token);
                Ok(token)
            }
            Outcome::Held(token, error) => {
                telemetry.answered_despite(&error);
                tracing::debug!(target: "managed_identity::broker", %error, "a held token is given");
                Ok(token)
            }
            Outcome::Failed(error) => {
                telemetry.failed(&error);
                Err(self.explain(error))
            }
        }
    }

    async fn ask<T>(
        &self,
        ask: impl FnOnce(ReplyTo<T>) -> Ask,
        invalidation: Option<Invalidation>,
        place: Option<Place>,
    ) -> Result<T, Error> {
        if self.is_shut_down() {
            return Err(self.gone());
        }
        let (reply, answer) = oneshot::channel();
        let call = Call::new(ask(reply), invalidation).with_place(place);
        let sent = self.0.messages.send(Message::Call(call));
        sent.map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?
    }

    fn gone(&self) -> Error {
        let message = match self.is_shut_down() {
            true => "The broker has been shut down. Build a new one.",
            false => "The provider's thread has ended. Build a new broker.",
        };
        Error::new(Cause::Internal, message)
    }

    /// Adds what the component cannot know: which rule of the host denied a request, or what is wrong with a certificate.
    fn explain(&self, mut error: Error) -> Error {
        let outbound = &self.0.outbound;
        let reason = match error.cause {
            Cause::Denied => outbound.last_denial().map(|denial| denial.to_string()),
            Cause::EndpointIntercepted | Cause::EndpointUnreachable | Cause::NotConfigured
                if error.http_status.is_none() =>
            {
                outbound.last_tls_failure()
            }
            _ => None,
        };
        if let Some(reason) = reason {
            error.message = format!("{} {reason}", error.message);
        }
        error
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Broker").finish_non_exhaustive()
    }
}
