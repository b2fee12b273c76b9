//! A broker behind a policy.

use super::{AuthorizeRule, Caller, Grant, Policy};
use crate::broker::Broker;
use crate::outbound::Origin;
use crate::token::{AccessToken, SourceDescription, TokenRequest};
use arc_swap::ArcSwap;
use managed_identity_provider::error::{Cause, Error};
use managed_identity_provider::secret::Secret;
use std::sync::Arc;

/// Puts a policy before a broker. Cheap to clone; clones share policy and limits.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    broker: Broker,
    policy: ArcSwap<Policy>,
}

impl Gate {
    /// Lets callers ask `broker` for what `policy` grants them.
    #[must_use]
    pub fn new(broker: Broker, policy: Policy) -> Self {
        Self(Arc::new(Inner {
            broker,
            policy: ArcSwap::from_pointee(policy),
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

    /// Puts another policy in force, also for those who are asking already.
    pub fn replace(&self, policy: Policy) {
        self.0.policy.store(Arc::new(policy));
    }

    /// What `caller` has of this broker: what it is granted, when it asks.
    #[must_use]
    pub fn caller(&self, caller: Caller) -> Granted {
        Granted {
            gate: self.clone(),
            caller,
        }
    }
}

/// A broker as one caller sees it: each call is decided by the policy in force, and is an audit event.
#[derive(Clone, Debug)]
pub struct Granted {
    gate: Gate,
    caller: Caller,
}

impl Granted {
    /// Who asks.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Where it asks.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What is granted now.
    #[must_use]
    pub fn grant(&self) -> Option<Arc<Grant>> {
        self.gate.0.policy.load().grant(&self.caller).cloned()
    }

    /// A token that is valid now, if it is granted.
    ///
    /// # Errors
    /// [`Cause::Denied`] when it is not granted, [`Cause::Throttled`] when it is asked for too often, and what
    /// [`Broker::token`] fails with.
    pub async fn token(&self, request: &TokenRequest) -> Result<Arc<AccessToken>, Error> {
        let granted = self.grant().is_some_and(|grant| {
            grant.token.iter().any(|rule| {
                rule.audiences.iter().any(|audience| audience.has(&request.audience))
                    && rule.identities.iter().any(|identity| identity.has(&request.identity))
            })
        });
        if !granted {
            return Err(self.denied(&format!("the audience {:?}", request.audience)));
        }
        self.gate.broker().token(request).await
    }

    /// Drops cached tokens of one audience, or of all that are granted. What is not granted stays as it is.
    ///
    /// # Errors
    /// As for [`Broker::forget`], and [`Cause::Denied`].
    pub async fn forget(&self, audience: Option<&str>) -> Result<(), Error> {
        match audience {
            Some(audience) => self.gate.broker().forget(Some(audience)).await,
            None => Err(self.denied("to drop all tokens")),
        }
    }

    /// Where tokens come from, for callers that are granted any.
    ///
    /// # Errors
    /// As for [`Broker::describe_source`], and [`Cause::Denied`].
    pub async fn describe_source(&self) -> Result<SourceDescription, Error> {
        if self.grant().is_none_or(|grant| grant.token.is_empty()) {
            return Err(self.denied("to know where tokens come from"));
        }
        self.gate.broker().describe_source().await
    }

    /// What the policy has for requests of this caller to `origin`.
    #[must_use]
    pub fn destination(&self, origin: &Origin) -> Destination {
        let Some(grant) = self.grant() else {
            return Destination::Denied;
        };
        let authorized = grant
            .authorize_only
            .iter()
            .find(|rule| rule.hosts.iter().any(|host| host.has(origin)));
        match authorized {
            Some(rule) => Destination::Authorized(rule.clone()),
            None if grant.http.iter().any(|host| host.has(origin)) => Destination::Plain,
            None => Destination::Denied,
        }
    }

    /// The token for a request to a host of `rule`, which the caller must not see. With a challenge, the claims that are
    /// asked for and the token that was rejected, a new one.
    ///
    /// # Errors
    /// As for [`token`](Self::token).
    pub async fn authorization(
        &self,
        rule: &AuthorizeRule,
        challenge: Option<(&str, Secret)>,
    ) -> Result<Arc<AccessToken>, Error> {
        let mut request = TokenRequest::new(rule.audience.clone()).with_identity(rule.identity.clone());
        if let Some((claims, rejected)) = challenge {
            request = request.with_claims(claims).with_rejected_token(rejected);
        }
        self.gate.broker().token(&request).await
    }

    fn denied(&self, what: &str) -> Error {
        Error::new(
            Cause::Denied,
            format!("The caller {:?} is not granted {what}.", self.caller.name()),
        )
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
