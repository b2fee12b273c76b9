//! The secret discovery service of Envoy, `envoy.service.secret.v3.SecretDiscoveryService`, for generic secrets.
//!
//! A proxy opens a stream and names the secrets that it wants. The answer has those of which something is known; a new answer
//! with all of them follows whenever one of them changes (the state-of-the-world variant of the xDS protocol). Each answer has
//! a nonce, by which the proxy says that it has taken or refused it.
//!
//! There is an answer for each name that is asked for, also when there is no token: the value is empty then. Envoy waits for
//! each secret before it listens, so one that is never told would hold it up (`initial_fetch_timeout`, 15 s), and it does not
//! take it as news that a secret is missing from an answer. An empty value lets it start, and answer 401 where the secret is
//! needed, until there is a token. That is so for names that nobody has configured and for names that are told to others: which
//! of the two it is, is not told. To a stream that ended with an error instead, it would connect again and again, and never
//! learn of a reload that grants the name.

use crate::callers::Known;
use crate::secrets::{Named, Secret, Value};
use crate::telemetry::LOG_TARGET;
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryService;
use envoy_types::util::pack_any;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt as _};
use managed_identity_host::grants::Caller;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};
use tonic::{Request, Response, Status, Streaming};

/// What is asked for here.
const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The most names on one stream. Envoy opens a stream for each secret.
const MOST_NAMES: usize = 1_000;

/// The longest text of a client's in a log line.
const LONGEST_TEXT: usize = 128;

/// The service as one caller has it.
pub(super) struct SecretService {
    asker: Arc<Known>,
    secrets: watch::Receiver<Option<Arc<Named>>>,
    /// How long the first request of a stream may take to arrive.
    patience: Duration,
}

impl SecretService {
    pub(super) fn new(asker: Arc<Known>, secrets: watch::Receiver<Option<Arc<Named>>>, patience: Duration) -> Self {
        Self {
            asker,
            secrets,
            patience,
        }
    }

    fn subscription(&self) -> Subscription {
        Subscription {
            caller: self.asker.granted.caller().clone(),
            secrets: self.secrets.clone(),
            names: BTreeMap::new(),
        }
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for SecretService {
    type DeltaSecretsStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;
    type StreamSecretsStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented(
            "Secrets are told as a whole here. Write `api_type: GRPC` in the `api_config_source`.",
        ))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let exchange = Exchange::new(request.into_inner(), self.subscription(), self.patience);
        Ok(Response::new(exchange.answers()))
    }

    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        let request = request.into_inner();
        let mut subscription = self.subscription();
        subscription.ask(&request)?;
        while !subscription.is_known() {
            subscription.changed().await?;
        }
        // Whoever asks once and is told of no change is better off with a reason.
        if let Some(name) = subscription.withheld() {
            return Err(if subscription.is_told(&name) {
                Status::unavailable(format!(
                    "There is no token for the secret `{name}` for now. Try again later."
                ))
            } else {
                Status::permission_denied(format!("There is no secret `{}` for this caller.", shown(&name)))
            });
        }
        Ok(Response::new(subscription.answer(version(0), String::new())))
    }
}

/// One stream: what comes from the proxy, and what is told to it.
struct Exchange<S> {
    requests: S,
    subscription: Subscription,
    /// The number of the last answer, which is its nonce.
    answers: u64,
    version: u64,
    /// There is something to tell.
    is_due: bool,
    is_over: bool,
    /// When it ends if nothing has been asked for.
    unasked: Option<Pin<Box<Sleep>>>,
}

impl<S: Stream<Item = Result<DiscoveryRequest, Status>> + Send + Unpin + 'static> Exchange<S> {
    fn new(requests: S, subscription: Subscription, patience: Duration) -> Self {
        Self {
            requests,
            subscription,
            answers: 0,
            version: 0,
            is_due: false,
            is_over: false,
            unasked: Some(Box::pin(sleep(patience))),
        }
    }

    fn answers(self) -> BoxStream<'static, Result<DiscoveryResponse, Status>> {
        let next = async |mut exchange: Self| {
            if exchange.is_over {
                return None;
            }
            let item = exchange.next().await.transpose()?;
            exchange.is_over = item.is_err();
            Some((item, exchange))
        };
        Box::pin(stream::unfold(self, next))
    }

    /// The next answer; nothing when the proxy has ended the stream.
    async fn next(&mut self) -> Result<Option<DiscoveryResponse>, Status> {
        loop {
            tokio::select! {
                biased;
                request = self.requests.next() => match request {
                    Some(Ok(request)) => {
                        self.unasked = None;
                        self.asked(&request)?;
                    }
                    // A connection that broke off is not answered.
                    Some(Err(_)) | None => return Ok(None),
                },
                () = passed(&mut self.unasked) => {
                    return Err(Status::deadline_exceeded("Nothing was asked for in time."));
                }
                changed = self.subscription.changed(), if !self.is_due => {
                    changed?;
                    self.is_due = true;
                }
                () = std::future::ready(()), if self.is_due => {
                    self.is_due = false;
                    if self.subscription.knows_any() {
                        return Ok(Some(self.answer()));
                    }
                }
            }
        }
    }

    fn asked(&mut self, request: &DiscoveryRequest) -> Result<(), Status> {
        let is_first = request.response_nonce.is_empty();
        if !is_first && request.response_nonce != self.answers.to_string() {
            // About an answer that another one has followed.
            return Ok(());
        }
        if let Some(error) = &request.error_detail {
            // Its message may show the answer that it is about, so it is not logged.
            tracing::warn!(
                target: LOG_TARGET,
                caller = self.subscription.caller.name(),
                code = error.code,
                "the proxy has refused a secret, and goes on with the one before; its log says why"
            );
        }
        let has_changed = self.subscription.ask(request)?;
        self.is_due |= has_changed || is_first;
        Ok(())
    }

    fn answer(&mut self) -> DiscoveryResponse {
        self.answers += 1;
        self.version = version(self.version);
        self.subscription.answer(self.version, self.answers.to_string())
    }
}

/// Waits for a moment; for ever where there is none.
async fn passed(moment: &mut Option<Pin<Box<Sleep>>>) {
    match moment {
        Some(moment) => moment.await,
        None => std::future::pending().await,
    }
}

/// When an answer is made, in milliseconds since 1970, which operators can read: later than the one before in any case.
fn version(last: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    now.max(last.saturating_add(1))
}

/// The secrets that one stream is told.
struct Subscription {
    caller: Caller,
    secrets: watch::Receiver<Option<Arc<Named>>>,
    names: BTreeMap<String, Asked>,
}

/// One name that was asked for.
#[derive(Default)]
struct Asked {
    /// What goes by the name for this caller.
    secret: Option<(Arc<Secret>, BoxStream<'static, Value>)>,
    /// The latest value; nothing as long as none is known.
    value: Option<Value>,
}

impl Subscription {
    /// Takes the names of a request. Whether they are others than before.
    fn ask(&mut self, request: &DiscoveryRequest) -> Result<bool, Status> {
        // Where none is said, there is one only.
        if !request.type_url.is_empty() && request.type_url != TYPE {
            return Err(Status::invalid_argument(format!(
                "Here are secrets only, of the type {TYPE}."
            )));
        }
        if request.resource_names.len() > MOST_NAMES {
            return Err(Status::invalid_argument(format!(
                "These are more than {MOST_NAMES} names."
            )));
        }
        let named = self.named()?;
        let before = self.names.len();
        self.names.retain(|name, _| request.resource_names.contains(name));
        let mut has_changed = self.names.len() != before;
        for name in &request.resource_names {
            if !self.names.contains_key(name) {
                let asked = self.asked(name, &named);
                self.names.insert(name.clone(), asked);
                has_changed = true;
            }
        }
        Ok(has_changed)
    }

    fn named(&mut self) -> Result<Arc<Named>, Status> {
        let named = self.secrets.borrow_and_update().clone();
        named.ok_or_else(|| Status::unavailable("The server is ending. Connect again."))
    }

    fn asked(&self, name: &str, named: &Named) -> Asked {
        match self.secret(name, named) {
            Some(secret) => Asked {
                value: None,
                secret: Some((Arc::clone(secret), secret.values())),
            },
            None => {
                tracing::warn!(
                    target: LOG_TARGET,
                    caller = self.caller.name(),
                    secret = shown(name),
                    "a secret is asked for that there is not for this caller, so it is told an empty one; add a `[secret.NAME]`"
                );
                Asked {
                    value: Some(Value::Withheld),
                    secret: None,
                }
            }
        }
    }

    fn secret<'n>(&self, name: &str, named: &'n Named) -> Option<&'n Arc<Secret>> {
        named.get(name).filter(|secret| *secret.caller() == self.caller)
    }

    /// Waits until there is something new.
    async fn changed(&mut self) -> Result<(), Status> {
        let Self { secrets, names, .. } = self;
        tokio::select! {
            biased;
            changed = secrets.changed() => {
                changed.map_err(|_| Status::unavailable("The server is ending. Connect again."))?;
                self.reload()
            }
            () = poll_fn(|context| poll_values(names, context)) => Ok(()),
        }
    }

    /// Has what the names stand for now. A value that was told stays until there is one in its place.
    fn reload(&mut self) -> Result<(), Status> {
        let named = self.named()?;
        let mut changed = Vec::new();
        for (name, asked) in &self.names {
            let new = self.secret(name, &named);
            let old = asked.secret.as_ref().map(|(secret, _)| secret);
            let is_same = match (new, old) {
                (Some(new), Some(old)) => Arc::ptr_eq(new, old),
                (new, old) => new.is_none() && old.is_none(),
            };
            if !is_same {
                changed.push((name.clone(), self.asked(name, &named)));
            }
        }
        self.names.extend(changed);
        Ok(())
    }

    fn is_known(&self) -> bool {
        self.names.values().all(|asked| asked.value.is_some())
    }

    fn knows_any(&self) -> bool {
        self.names.values().any(|asked| asked.value.is_some())
    }

    /// A name that has no token.
    fn withheld(&self) -> Option<String> {
        let is_withheld = |asked: &Asked| matches!(asked.value, Some(Value::Withheld));
        let name = self.names.iter().find(|(_, asked)| is_withheld(asked));
        name.map(|(name, _)| name.clone())
    }

    /// Whether the name stands for a secret.
    fn is_told(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(|asked| asked.secret.is_some())
    }

    fn answer(&self, version: u64, nonce: String) -> DiscoveryResponse {
        let known = self
            .names
            .iter()
            .filter_map(|(name, asked)| Some((name, asked.value.as_ref()?)));
        DiscoveryResponse {
            version_info: version.to_string(),
            resources: known.map(|(name, value)| pack_any(secret(name, value))).collect(),
            type_url: TYPE.to_owned(),
            nonce,
            ..DiscoveryResponse::default()
        }
    }
}

/// Ready when one of them has a new value.
fn poll_values(names: &mut BTreeMap<String, Asked>, context: &mut Context<'_>) -> Poll<()> {
    let mut polled = Poll::Pending;
    for asked in names.values_mut() {
        let Some((_, values)) = &mut asked.secret else {
            continue;
        };
        // When they have ended, the server has too.
        if let Poll::Ready(Some(value)) = values.poll_next_unpin(context) {
            asked.value = Some(value);
            polled = Poll::Ready(());
        }
    }
    polled
}

fn secret(name: &str, value: &Value) -> tls::Secret {
    let source = DataSource {
        specifier: Some(Specifier::InlineString(value.text().to_owned())),
        ..DataSource::default()
    };
    let generic = tls::GenericSecret {
        secret: Some(source),
        ..tls::GenericSecret::default()
    };
    tls::Secret {
        name: name.to_owned(),
        r#type: Some(tls::secret::Type::GenericSecret(generic)),
    }
}

/// What a client sent, in a log line.
fn shown(text: &str) -> String {
    text.escape_debug().take(LONGEST_TEXT).collect()
}

#[cfg(test)]
mod tests;
