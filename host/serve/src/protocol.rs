//! What is spoken: each protocol turns a request into a reply.

mod app_service;
mod envoy_ext_authz;
mod health;
mod imds;
mod metrics;

use crate::callers::{Callers, Known};
use crate::config::{Limits, Protocol};
use crate::connection::User;
use crate::readiness::Readiness;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::Full;
use managed_identity_host::grants::Caller;
use metrics_exporter_prometheus::PrometheusHandle;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(crate) type Reply = Response<Full<Bytes>>;

/// What all listeners share.
pub(crate) struct Shared {
    pub(crate) callers: ArcSwap<Callers>,
    pub(crate) limits: Limits,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Option<PrometheusHandle>,
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
    fn speaks(&self, protocol: Protocol) -> bool {
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
    let path = request.uri.path();
    if service.speaks(Protocol::AppService) && app_service::is_path(path) {
        return app_service::answer(request, service).await;
    }
    if service.speaks(Protocol::Imds) && imds::is_path(path) {
        return imds::answer(request, user, service).await;
    }
    if service.speaks(Protocol::Health) && health::is_path(path) {
        return health::answer(request, service);
    }
    if service.speaks(Protocol::Metrics) && metrics::is_path(path) {
        return metrics::answer(request, service);
    }
    // Last, because every path is one of its: it gets the path of the request that it decides on.
    if service.speaks(Protocol::EnvoyExtAuthz) {
        return envoy_ext_authz::answer(request, user, service).await;
    }
    not_found()
}

fn not_found() -> Reply {
    status(StatusCode::NOT_FOUND)
}

/// A reply with nothing in it.
fn status(status: StatusCode) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::new()));
    *reply.status_mut() = status;
    reply
}
