//! A broker behind a policy.

mod refusal;

use super::limits::{Counts, Place, Register};
use super::{AuthorizeRule, Caller, Grant, Policy};
use crate::audit::{self, Asked, Decision, Kind};
use crate::broker::{Broker, Watch};
use crate::outbound::Origin;
use crate::token::{AccessToken, Identity, SourceDescription, TokenRequest};
use arc_swap::ArcSwap;
use managed_identity_provider::error::{Cause, Error};
use managed_identity_provider::request::check_sizes;
use managed_identity_provider::secret::Secret;
use std::sync::Arc;
use std::time::Duration;

/// When to try again where too many calls are under way: soon, because the first of them may end at any time.
const RETRY_WHEN_BUSY: Duration = Duration::from_millis(100);

/// What stands in an audit event of a call whose caller has stopped waiting.
const CANCELLED: &str = "cancelled";

/// Puts a policy before a broker. Cheap to clone; clones share policy and limits.
///
/// ```no_run
/// use managed_identity_host::grants::{Caller, Gate, Policy};
/// use managed_identity_host::{Broker, TokenRequest};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let policy = Policy::from_toml(&std::fs::read_to_string("policy.toml")?)?;
/// let gate = Gate::new(Broker::from_environment()?, policy);
/// let report = gate.caller(Caller::new("report"));
/// let token = report.token(&TokenRequest::new("https://vault.azure.net")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    broker: Broker,
    policy: ArcSwap<Policy>,
    register: Register,
}

impl Gate {
    /// Lets callers ask `broker` for what `policy` grants them.
    #[must_use]
    pub fn new(broker: Broker, policy: Policy) -> Self {
        Self(Arc::new(Inner {
            broker,
            policy: ArcSwap::from_pointee(policy),
            register: Register::default(),
        }))
    }

    /// The broker behind it.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.0.broker
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.0.policy.load_full()
    }

    /// Puts another policy in force, also for those who are asking already. What they have used of their rates stays used.
    pub fn replace(&self, policy: Policy) {
        self.0.policy.store(Arc::new(policy));
    }

    /// What `caller` has of this broker: what it is granted, when it asks. All who ask under one name share its limits.
    #[must_use]
    pub fn caller(&self, caller: Caller) -> Granted {
        Granted {
            gate: self.clone(),
            counts: self.0.register.counts(caller),
        }
    }
}

/// A broker as one caller sees it: each call is decided by the policy in force, and is an [audit](crate::audit) event.
#[derive(Clone, Debug)]
pub struct Granted {
    gate: Gate,
    counts: Arc<Counts>,
}

impl Granted {
    /// Who asks.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.counts.caller
    }

    /// Where it asks.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What is granted now.
    #[must_use]
    pub fn grant(&self) -> Option<Arc<Grant>> {
        self.gate.0.policy.load().grant(self.caller()).cloned()
    }

    /// Whether a token for this audience as this identity is granted now. Counts nothing and records nothing.
    #[must_use]
    pub fn is_granted(&self, audience: &str, identity: &Identity) -> bool {
        self.grant().is_some_and(|grant| grant.has_token(audience, identity))
    }

    /// The token that is valid now, if it is granted, and then each successor when it is there: as [`Broker::watch`] has
    /// them. Each look for a successor is decided, counted and recorded as a call of [`token`](Self::token) is; there is one
    /// in a minute at least.
    #[must_use]
    pub fn watch(&self, request: TokenRequest) -> Watch {
        Watch::granted(self.clone(), request)
    }

    /// A token that is valid now, if it is granted.
    ///
    /// # Errors
    /// [`Cause::Denied`] when it is not granted, [`Cause::Throttled`] when it is asked for too often, and what
    /// [`Broker::token`] fails with.
    pub async fn token(&self, request: &TokenRequest) -> Result<Arc<AccessToken>, Error> {
        let asked = Asked::new(Kind::Token).token(&request.audience, &request.identity);
        let decide = |grant: Option<&Grant>| {
            let identifier = match &request.identity {
                Identity::PlatformDefault | Identity::SystemAssigned => None,
                Identity::ClientId(id) | Identity::ObjectId(id) | Identity::ResourceId(id) => Some(id.as_str()),
            };
            let rejected = request.rejected_token.as_ref().map(Secret::expose);
            check_sizes(&request.audience, identifier, request.claims.as_deref(), rejected)?;
            if grant.is_some_and(|grant| grant.has_token(&request.audience, &request.identity)) {
                return Ok(());
            }
            let has_audience = grant.is_some_and(|grant| grant.has_audience(&request.audience));
            Err(self.token_denied(&request.audience, &request.identity, has_audience))
        };
        let refreshes = request.claims.is_some() || request.rejected_token.is_some();
        let call = self.admit(asked, refreshes, decide)?;
        let result = self.gate.broker().token_in(Some(call.place.clone()), request).await;
        call.issued(result)
    }

    /// Drops cached tokens of one audience, or of all that are granted by name. What is not granted stays as it is, and so
    /// do tokens that are granted by a wildcard, unless they are named here.
    ///
    /// Others who ask for the same audience get a new token, too.
    ///
    /// # Errors
    /// As for [`Broker::forget`], and [`Cause::Denied`] and [`Cause::Throttled`] as for [`token`](Self::token).
    pub async fn forget(&self, audience: Option<&str>) -> Result<(), Error> {
        let mut asked = Asked::new(Kind::Forget);
        asked.audience = audience;
        let mut granted = Vec::new();
        let decide = |grant: Option<&Grant>| {
            check_sizes(audience.unwrap_or_default(), None, None, None)?;
            match (audience, grant) {
                (Some(audience), Some(grant)) if grant.has_audience(audience) => granted.push(audience.to_owned()),
                (None, Some(grant)) if !grant.token.is_empty() => {
                    let patterns = grant.token.iter().flat_map(|rule| &rule.audiences);
                    granted.extend(patterns.filter_map(|pattern| pattern.exact().map(str::to_owned)));
                }
                (Some(audience), _) => return Err(self.token_denied(audience, &Identity::PlatformDefault, false)),
                (None, _) => return Err(self.nothing_granted("to drop tokens")),
            }
            Ok(())
        };
        let call = self.admit(asked, true, decide)?;
        let mut result = Ok(());
        for audience in &granted {
            result = self.gate.broker().forget(Some(audience)).await;
            if result.is_err() {
                break;
            }
        }
        call.ended(result)
    }

    /// Where tokens come from, for callers that are granted any.
    ///
    /// # Errors
    /// As for [`Broker::describe_source`], and [`Cause::Denied`] and [`Cause::Throttled`] as for [`token`](Self::token).
    pub async fn describe_source(&self) -> Result<SourceDescription, Error> {
        let decide = |grant: Option<&Grant>| match grant {
            Some(grant) if !grant.token.is_empty() => Ok(()),
            _ => Err(self.nothing_granted("to know where tokens come from")),
        };
        let call = self.admit(Asked::new(Kind::DescribeSource), false, decide)?;
        let result = self.gate.broker().describe_source().await;
        call.ended(result)
    }

    /// What the policy has for requests of this caller to `origin`. Counts nothing and records nothing; see
    /// [`admit_http`](Self::admit_http).
    #[must_use]
    pub fn destination(&self, origin: &Origin) -> Destination {
        let policy = self.gate.0.policy.load();
        destination(policy.grant(self.caller()).map(Arc::as_ref), origin)
    }

    /// Decides on a request of this caller that is about to be sent, and is not called for one that is not.
    ///
    /// A request that is sent as it is, and one that is denied, is counted and recorded here. One that is sent with a token
    /// is counted and recorded when [`authorization`](Self::authorization) gets the token.
    ///
    /// # Errors
    /// [`Cause::Denied`] when the policy has nothing for `origin`, and [`Cause::Throttled`].
    pub fn admit_http(&self, method: &str, origin: &Origin) -> Result<Destination, Error> {
        let mut asked = Asked::new(Kind::Http);
        asked.request = Some((method, origin));
        let policy = self.gate.0.policy.load();
        let grant = policy.grant(self.caller()).map(Arc::as_ref);
        let destination = destination(grant, origin);
        if matches!(destination, Destination::Authorized(_)) {
            return Ok(destination);
        }
        self.count(asked, grant)?;
        if destination == Destination::Denied {
            let error = self.denied(
                format_args!("requests to {origin}"),
                format_args!(
                    "Add the host to `hosts` of `[[{0}.http]]`, or of `[[{0}.authorize-only]]` for requests with a token.",
                    self.section()
                ),
            );
            return Err(self.refused(asked, error));
        }
        self.record(&asked, Decision::Allowed, None, None);
        Ok(destination)
    }

    /// Records that a request of this caller is not sent, for another reason than the policy's.
    pub(crate) fn refuse_http(&self, method: &str, url: &str) {
        let mut asked = Asked::new(Kind::Http);
        asked.request = Some((method, &url));
        self.refused(asked, Error::new(Cause::Denied, ""));
    }

    /// The token for a request by this method to this origin, a host of `rule`, which the caller must not see. With a
    /// challenge, the claims that are asked for and the token that was rejected, a new one.
    ///
    /// # Errors
    /// As for [`token`](Self::token).
    pub async fn authorization(
        &self,
        method: &str,
        origin: &Origin,
        rule: &AuthorizeRule,
        challenge: Option<(&str, Secret)>,
    ) -> Result<Arc<AccessToken>, Error> {
        let mut asked = Asked::new(Kind::AuthorizeOnly).token(&rule.audience, &rule.identity);
        asked.request = Some((method, origin));
        // The rule may be from before the policy was replaced.
        let decide = |grant: Option<&Grant>| {
            if grant.and_then(|grant| grant.authorized(origin)) == Some(rule) {
                return Ok(());
            }
            Err(self.denied(
                format_args!("requests with a token for {} any more", refusal::shown(&rule.audience)),
                format_args!("Add the host to `hosts` of `[[{}.authorize-only]]`.", self.section()),
            ))
        };
        let call = self.admit(asked, challenge.is_some(), decide)?;
        let mut request = TokenRequest::new(rule.audience.clone()).with_identity(rule.identity.clone());
        if let Some((claims, rejected)) = challenge {
            request = request.with_claims(claims).with_rejected_token(rejected);
        }
        let result = self.gate.broker().token_in(Some(call.place.clone()), &request).await;
        call.issued(result)
    }

    /// Decides on a call by the policy in force and by what the caller has under way. `decide` fails with why not.
    fn admit<'a>(
        &'a self,
        asked: Asked<'a>,
        refreshes: bool,
        decide: impl FnOnce(Option<&Grant>) -> Result<(), Error>,
    ) -> Result<Call<'a>, Error> {
        let policy = self.gate.0.policy.load();
        let grant = policy.grant(self.caller()).map(Arc::as_ref);
        self.count(asked, grant)?;
        decide(grant).map_err(|error| self.refused(asked, error))?;
        let Some(grant) = grant else {
            return Err(self.refused(asked, self.nothing_granted("this")));
        };
        if refreshes && let Err(wait) = self.counts.count_refreshing(grant) {
            let error = self.throttled(
                wait,
                format_args!("asks for new tokens more often than {}", grant.refresh_rate),
                "refresh-rate",
            );
            return Err(self.refused(asked, error));
        }
        let Some(place) = self.counts.enter(grant) else {
            let error = self.throttled(
                RETRY_WHEN_BUSY,
                format_args!("has {} calls under way", grant.in_flight),
                "concurrency",
            );
            return Err(self.refused(asked, error));
        };
        Ok(Call {
            granted: self,
            asked,
            place,
            ended: false,
        })
    }

    fn count(&self, asked: Asked<'_>, grant: Option<&Grant>) -> Result<(), Error> {
        let Some((grant, rate)) = grant.and_then(|grant| Some((grant, grant.rate?))) else {
            return Ok(());
        };
        self.counts.count(grant).map_err(|wait| {
            let error = self.throttled(wait, format_args!("asks more often than {rate}"), "rate");
            self.refused(asked, error)
        })
    }

    fn record(&self, asked: &Asked<'_>, decision: Decision, token: Option<&AccessToken>, cause: Option<&str>) {
        if audit::is_heard() {
            let caller = self.caller().name();
            audit::record(caller, asked, decision, token, cause, self.counts.unrecorded());
        }
    }

    /// Records that a call is refused with this error.
    fn refused(&self, asked: Asked<'_>, error: Error) -> Error {
        self.gate.broker().telemetry().refused(asked.kind, &error);
        if audit::is_heard() && self.counts.records_refusal() {
            let decision = match error.cause {
                Cause::Throttled => Decision::Throttled,
                _ => Decision::Denied,
            };
            self.record(&asked, decision, None, Some(error.cause.name()));
        }
        error
    }
}

fn destination(grant: Option<&Grant>, origin: &Origin) -> Destination {
    let Some(grant) = grant else {
        return Destination::Denied;
    };
    match grant.authorized(origin) {
        Some(rule) => Destination::Authorized(rule.clone()),
        None if grant.http.iter().any(|host| host.has(origin)) => Destination::Plain,
        None => Destination::Denied,
    }
}

/// A call that is allowed and under way. It is counted, and recorded when it ends.
struct Call<'a> {
    granted: &'a Granted,
    asked: Asked<'a>,
    place: Arc<Place>,
    ended: bool,
}

impl Call<'_> {
    fn issued(mut self, result: Result<Arc<AccessToken>, Error>) -> Result<Arc<AccessToken>, Error> {
        self.end(result.as_ref().map(|token| Some(token.as_ref())));
        result
    }

    fn ended<T>(mut self, result: Result<T, Error>) -> Result<T, Error> {
        self.end(result.as_ref().map(|_| None));
        result
    }

    fn end(&mut self, result: Result<Option<&AccessToken>, &Error>) {
        self.ended = true;
        let (token, cause) = match result {
            Ok(token) => (token, None),
            Err(error) => (None, Some(error.cause.name())),
        };
        self.granted.record(&self.asked, Decision::Allowed, token, cause);
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.granted
                .record(&self.asked, Decision::Allowed, None, Some(CANCELLED));
        }
    }
}

/// Where a request of a caller may go, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Nowhere.
    Denied,
    /// As it is.
    Plain,
    /// With a token.
    Authorized(AuthorizeRule),
}
