//! Counts requests.

use crate::config::Protocol;
use http::StatusCode;
use metrics::Counter;
use std::sync::OnceLock;

/// Requests that were answered, by protocol (`none` where the listener speaks nothing at that path) and status.
pub(crate) const REQUESTS: &str = "managed_identity_serve_requests_total";

/// Every status that we answer with.
const STATUSES: [StatusCode; 15] = [
    StatusCode::OK,
    StatusCode::BAD_REQUEST,
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::MISDIRECTED_REQUEST,
    StatusCode::FAILED_DEPENDENCY,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::BAD_GATEWAY,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];

/// The protocols, and none of them.
const PROTOCOLS: usize = Protocol::ALL.len() + 1;

/// Counters, kept so that none is looked up at each request. A counter begins with its first request.
pub(crate) struct Requests([[OnceLock<Counter>; STATUSES.len()]; PROTOCOLS]);

impl Default for Requests {
    fn default() -> Self {
        Self(std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new())))
    }
}

impl Requests {
    /// That a request was answered.
    pub(crate) fn observed(&self, protocol: Option<Protocol>, status: StatusCode) {
        let named = |protocol: Protocol| Protocol::ALL.iter().position(|known| *known == protocol);
        let protocol_index = protocol.and_then(named).unwrap_or(PROTOCOLS - 1);
        let status_index = STATUSES.iter().position(|known| *known == status);
        let kept = status_index.and_then(|index| self.0.get(protocol_index)?.get(index));
        match kept {
            Some(counter) => counter.get_or_init(|| counter_of(protocol, status)).increment(1),
            None => counter_of(protocol, status).increment(1),
        }
    }
}

fn counter_of(protocol: Option<Protocol>, status: StatusCode) -> Counter {
    let protocol = protocol.map_or("none", Protocol::name);
    metrics::counter!(REQUESTS, "protocol" => protocol, "status" => status.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_exporter_prometheus::PrometheusBuilder;

    #[test]
    fn requests_are_counted_by_protocol_and_status() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let requests = Requests::default();
            requests.observed(Some(Protocol::Imds), StatusCode::OK);
            requests.observed(Some(Protocol::Imds), StatusCode::OK);
            requests.observed(Some(Protocol::AppService), StatusCode::FORBIDDEN);
            requests.observed(None, StatusCode::NOT_FOUND);
            requests.observed(None, StatusCode::IM_A_TEAPOT);
        });
        let rendered = recorder.handle().render();
        for line in [
            "managed_identity_serve_requests_total{protocol=\"imds\",status=\"200\"} 2",
            "managed_identity_serve_requests_total{protocol=\"app-service\",status=\"403\"} 1",
            "managed_identity_serve_requests_total{protocol=\"none\",status=\"404\"} 1",
            "managed_identity_serve_requests_total{protocol=\"none\",status=\"418\"} 1",
        ] {
            assert!(rendered.contains(line), "{line} in {rendered}");
        }
    }
}
