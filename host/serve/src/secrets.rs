//! Secrets by name: tokens that a proxy is given ahead of the requests that it sends them with.
//!
//! A proxy that adds a token to requests by itself (`credential_injector` of Envoy) knows a secret by its name, and takes each
//! value that it is told. So a secret is a sequence of values: a token, its successor in time, and so on. While a renewal
//! fails, the last token stays, as long as it is valid. When it is not, the value is withheld: it is empty, which is what
//! makes Envoy refuse requests (see [`Value::text`]).
//!
//! Each who is told a secret has a sequence of its own, so each token that is handed out is decided by the policy in force,
//! and recorded. All are fed by the one broker, so the platform is asked once.

pub(crate) mod file;

use crate::config::{Config, SecretConfig};
use crate::telemetry::LOG_TARGET;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use managed_identity_host::grants::{Caller, Gate, Granted};
use managed_identity_host::{AccessToken, TokenError, TokenRequest};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::sleep;
use zeroize::Zeroizing;

/// How long before it expires a token that has no successor is withdrawn: a request that leaves with it has to arrive.
const MARGIN: Duration = Duration::from_secs(1);

/// The longest wait for a token to expire: a machine that slept has another time than its timers.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// All secrets, by name.
pub(crate) type Named = BTreeMap<String, Arc<Secret>>;

/// The secrets of a server, which may change while it runs.
pub(crate) struct Secrets(watch::Sender<Option<Arc<Named>>>);

impl Secrets {
    pub(crate) fn new(config: &Config, gate: &Gate) -> Self {
        let named = named(config, gate, &Named::new());
        Self(watch::Sender::new(Some(Arc::new(named))))
    }

    /// Puts those of another configuration in their place. Those that are the same go on. Nothing comes back after the end.
    pub(crate) fn replace(&self, config: &Config, gate: &Gate) {
        self.0.send_if_modified(|state| match state {
            Some(old) => {
                *state = Some(Arc::new(named(config, gate, old)));
                true
            }
            None => false,
        });
    }

    /// Tells all who are told secrets to go.
    pub(crate) fn end(&self) {
        self.0.send_replace(None);
    }

    /// Tells which there are; none at all when the server ends.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Named>>> {
        self.0.subscribe()
    }
}

fn named(config: &Config, gate: &Gate, old: &Named) -> Named {
    let secrets = config.secrets.iter().map(|(name, how)| {
        let request = TokenRequest::new(how.audience.clone())
            .with_identity(config.secret_identity(how))
            .with_timeout(config.limits.token_timeout);
        let same = old.get(name).filter(|secret| {
            secret.config == *how
                && secret.request.identity == request.identity
                && secret.request.timeout == request.timeout
        });
        let secret = same.cloned().unwrap_or_else(|| {
            Arc::new(Secret {
                name: name.clone(),
                config: how.clone(),
                request,
                granted: gate.caller(how.caller.clone()),
            })
        });
        (name.clone(), secret)
    });
    secrets.collect()
}

/// One secret.
pub(crate) struct Secret {
    name: String,
    config: SecretConfig,
    request: TokenRequest,
    granted: Granted,
}

impl Secret {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Who is told it.
    pub(crate) fn caller(&self) -> &Caller {
        &self.config.caller
    }

    /// The file that it is written to.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.config.file.as_deref()
    }

    /// Its values from now on: each is in place of all before. Ends when the broker is shut down.
    pub(crate) fn values(self: &Arc<Self>) -> BoxStream<'static, Value> {
        let values = Values {
            secret: Arc::clone(self),
            tokens: self.granted.watch(self.request.clone()),
            told: Told::Nothing,
        };
        let next = async |mut values: Values<_>| Some((values.next().await?, values));
        Box::pin(stream::unfold(values, next))
    }

    /// What is in place of a token when there is one.
    fn value(&self, token: &AccessToken) -> Option<Value> {
        let (prefix, token) = (&self.config.prefix, token.token.expose());
        // Enough room from the start, so that no part is left behind in memory.
        let mut text = Zeroizing::new(String::with_capacity(prefix.len() + token.len()));
        text.push_str(prefix);
        text.push_str(token);
        let is_sendable = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        is_sendable.then(|| Value::Token(text.into()))
    }
}

/// What a secret is for now.
#[derive(Clone)]
pub(crate) enum Value {
    /// Nothing that a request could be sent with.
    Withheld,
    /// What stands in the header.
    Token(Arc<Zeroizing<String>>),
}

impl From<Zeroizing<String>> for Value {
    fn from(text: Zeroizing<String>) -> Self {
        Self::Token(Arc::new(text))
    }
}

impl Value {
    /// What is told. A proxy cannot be told that a secret it has is there no longer: Envoy refuses an update without it, and
    /// goes on with the last value. An empty one it takes, and sends no request with (401), unless it is configured to send
    /// requests without.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Withheld => "",
            Self::Token(text) => text,
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Withheld => "Withheld",
            Self::Token(_) => "Token([redacted])",
        })
    }
}

/// The values of one secret for one who is told them.
struct Values<T> {
    secret: Arc<Secret>,
    tokens: T,
    told: Told,
}

enum Told {
    Nothing,
    /// A token that expires then, in seconds since 1970.
    Token(u64),
    /// That it is withheld, and why.
    Withheld(&'static str),
}

impl<T: Stream<Item = Result<Arc<AccessToken>, TokenError>> + Unpin> Values<T> {
    async fn next(&mut self) -> Option<Value> {
        loop {
            let expiry = match self.told {
                Told::Token(expires_on) => Some(expires_on),
                Told::Nothing | Told::Withheld(_) => None,
            };
            tokio::select! {
                biased;
                item = self.tokens.next() => {
                    let told = match item? {
                        Ok(token) => self.given(&token),
                        Err(error) => self.withheld(error.cause.name()),
                    };
                    if told.is_some() {
                        return told;
                    }
                }
                () = expired(expiry) => return self.withheld("expired"),
            }
        }
    }

    fn given(&mut self, token: &AccessToken) -> Option<Value> {
        if left(token.expires_on).is_zero() {
            return self.withheld("expired");
        }
        let Some(value) = self.secret.value(token) else {
            return self.withheld("malformed-reply");
        };
        if matches!(self.told, Told::Withheld(_)) {
            tracing::info!(target: LOG_TARGET, secret = self.secret.name, "there is a token for the secret again");
        }
        self.told = Told::Token(token.expires_on);
        Some(value)
    }

    /// The same is not told, and not logged, twice.
    fn withheld(&mut self, cause: &'static str) -> Option<Value> {
        let before = std::mem::replace(&mut self.told, Told::Withheld(cause));
        let is_told = matches!(before, Told::Withheld(_));
        if !matches!(before, Told::Withheld(before) if before == cause) {
            tracing::warn!(
                target: LOG_TARGET,
                secret = self.secret.name,
                cause,
                "there is no token for the secret, so requests that need it are refused"
            );
        }
        (!is_told).then_some(Value::Withheld)
    }
}

/// How long a token may still be sent.
fn left(expires_on: u64) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let end = Duration::from_secs(expires_on).saturating_sub(MARGIN);
    end.saturating_sub(now.unwrap_or_default())
}

/// Waits until a token may not be sent any more; for ever where there is none.
async fn expired(expires_on: Option<u64>) {
    let Some(expires_on) = expires_on else {
        return std::future::pending().await;
    };
    loop {
        let left = left(expires_on);
        if left.is_zero() {
            return;
        }
        sleep(left.min(LONGEST_WAIT)).await;
    }
}
