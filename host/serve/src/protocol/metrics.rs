//! Metrics in the text format of Prometheus.

use super::{Reply, Service, not_found};
use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body_util::Full;

pub(super) fn is_path(path: &str) -> bool {
    path == "/metrics"
}

pub(super) fn answer(_request: &Parts, service: &Service) -> Reply {
    match &service.shared.metrics {
        Some(metrics) => Response::new(Full::new(Bytes::from(metrics.render()))),
        None => not_found(),
    }
}
