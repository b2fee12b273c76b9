//! Metrics in the text format of Prometheus.

use super::{Reply, Service, not_found};
use crate::telemetry;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response, header};
use http_body_util::Full;

/// The text format's own ("Exposition formats", Prometheus documentation).
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub(super) fn is_path(path: &str) -> bool {
    path == "/metrics"
}

pub(super) fn answer(_request: &Parts, service: &Service) -> Reply {
    let Some(metrics) = &service.shared.metrics else {
        return not_found();
    };
    telemetry::measure_process();
    let mut reply = Response::new(Full::new(Bytes::from(metrics.render())));
    reply.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    reply
}
