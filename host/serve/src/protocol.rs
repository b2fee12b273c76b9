//! What is spoken: each protocol turns a request into a reply.

mod app_service;
mod claimed;
mod envoy_ext_authz;
mod health;
mod host_header;
mod imds;
mod log_volume;
mod metrics;
mod query;
mod refusal;
mod reply;
mod requests;
mod selector;

use crate::callers::{Callers, Known};
use crate::config::{Limits, Protocol};
use crate::connection::User;
use crate::readiness::Readiness;
use crate::secrets::Secrets;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode, Version};
use http_body_util::Full;
use managed_identity_host::grants::Caller;
use metrics_exporter_prometheus::PrometheusHandle;
use query::QueryFault;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

pub(crate) use envoy_ext_authz::{Question, answer_to as ext_authz};
pub(crate) use refusal::Refusal;

pub(crate) type Reply = Response<Full<Bytes>>;

/// What all listeners share.
pub(crate) struct Shared {
    pub(crate) callers: ArcSwap<Callers>,
    pub(crate) secrets: Secrets,
    pub(crate) limits: Limits,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Option<PrometheusHandle>,
    pub(crate) requests: requests::Requests,
    pub(crate) claimed: claimed::Memory,
}

/// What one listener serves.
pub(crate) struct Service {
    pub(crate) shared: Arc<Shared>,
    pub(crate) protocols: Vec<Protocol>,
    pub(crate) caller: Option<Caller>,
    pub(crate) callers: Option<BTreeSet<Caller>>,
    /// Names of this machine, besides those of loopback, that may stand in `Host`.
    pub(crate) hosts: Vec<String>,
    pub(crate) is_tls: bool,
}

impl Service {
    pub(crate) fn speaks(&self, protocol: Protocol) -> bool {
        self.protocols.contains(&protocol)
    }

    /// Who asks, by the listener alone or by the user at the other end.
    pub(crate) fn asker(&self, user: User) -> Option<Arc<Known>> {
        let callers = self.shared.callers.load();
        let known = match (&self.caller, user) {
            (Some(caller), _) => callers.by_name(caller),
            (None, Some(user)) => callers.by_user(user),
            (None, None) => None,
        };
        known.filter(|known| self.admits(known)).cloned()
    }

    /// Who asks, by the listener alone or by a secret.
    pub(crate) fn asker_by_secret(&self, secret: &[u8]) -> Option<Arc<Known>> {
        let callers = self.shared.callers.load();
        let known = match &self.caller {
            Some(caller) => callers.by_name(caller),
            None => callers.by_secret(secret),
        };
        known.filter(|known| self.admits(known)).cloned()
    }

    fn admits(&self, known: &Known) -> bool {
        self.callers
            .as_ref()
            .is_none_or(|callers| callers.contains(known.granted.caller()))
    }
}

/// The reply to a request, whatever it is.
pub(crate) async fn answer(request: &Parts, user: User, service: &Service) -> Reply {
    let protocol = spoken(request.uri.path(), service);
    let reply = match refused(protocol, request, user, service) {
        Some(reply) => reply,
        None => match protocol {
            Some(Protocol::AppService) => app_service::answer(request, service).await,
            Some(Protocol::Imds) => imds::answer(request, user, service).await,
            Some(Protocol::EnvoyExtAuthz) => envoy_ext_authz::answer(request, user, service).await,
            // Only over gRPC.
            Some(Protocol::EnvoySds) | None => not_found(),
            Some(Protocol::Health) => health::answer(request, service),
            Some(Protocol::Metrics) => metrics::answer(request, service),
        },
    };
    service.shared.requests.observed(protocol, reply.status());
    reply
}

/// What is spoken at this path.
fn spoken(path: &str, service: &Service) -> Option<Protocol> {
    // Every path is one of its, because it gets the path of the request that it decides on. So where it is spoken nothing
    // else is: a reply of another protocol would be taken for a decision.
    if service.speaks(Protocol::EnvoyExtAuthz) {
        return Some(Protocol::EnvoyExtAuthz);
    }
    let is_there = |protocol: &Protocol| match protocol {
        Protocol::AppService => app_service::is_path(path),
        Protocol::Imds => imds::is_path(path),
        Protocol::Metrics => metrics::is_path(path),
        Protocol::Health => health::is_path(path),
        Protocol::EnvoyExtAuthz | Protocol::EnvoySds => false,
    };
    service.protocols.iter().copied().find(is_there)
}

/// The refusal of a request that was meant for somebody else, whatever it asks for.
fn refused(protocol: Option<Protocol>, request: &Parts, user: User, service: &Service) -> Option<Reply> {
    // Until HTTP/2, where it is the only form, only proxies are sent a whole URL.
    if request.version < Version::HTTP_2 && request.uri.authority().is_some() {
        let refusal = Refusal::malformed("The request has a whole URL for its target, but this is not a proxy.");
        return Some(told(protocol, &refusal));
    }
    // Envoy asks in the name of whatever host a request of its own goes to; which of these matter is looked at there.
    let names_hosts = protocol == Some(Protocol::EnvoyExtAuthz);
    if is_plain_tcp(user, service) && !names_hosts && !host_header::is_own(request, &service.hosts) {
        return Some(told(protocol, &Refusal::misdirected()));
    }
    None
}

/// Whether a web page could have asked, of which only `Host` tells.
fn is_plain_tcp(user: User, service: &Service) -> bool {
    user.is_none() && !service.is_tls
}

/// A refusal in the words of the protocol.
fn told(protocol: Option<Protocol>, refusal: &Refusal) -> Reply {
    if let Some(protocol) = protocol {
        refusal.log(protocol, None);
    }
    match protocol {
        Some(Protocol::AppService) => refusal.app_service(),
        Some(Protocol::Imds) => imds::signed(refusal.imds()),
        Some(Protocol::EnvoyExtAuthz) => refusal.envoy(),
        Some(Protocol::EnvoySds | Protocol::Metrics | Protocol::Health) | None => refusal.text(),
    }
}

fn not_found() -> Reply {
    status(StatusCode::NOT_FOUND)
}

/// A reply with nothing in it.
fn status(status: StatusCode) -> Reply {
    reply::empty(status)
}

/// The time as tokens have it.
fn unix_time() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
