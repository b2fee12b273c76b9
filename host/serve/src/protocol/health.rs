//! Whether the server lives (`/livez`, `/healthz`) and is ready (`/readyz`), by the paths that Kubernetes uses.

use super::{Reply, Service, status};
use http::StatusCode;
use http::request::Parts;

pub(super) fn is_path(path: &str) -> bool {
    matches!(path, "/livez" | "/healthz" | "/readyz")
}

pub(super) fn answer(request: &Parts, service: &Service) -> Reply {
    match request.uri.path() {
        "/readyz" if service.shared.readiness.reason().is_some() => status(StatusCode::SERVICE_UNAVAILABLE),
        _ => status(StatusCode::OK),
    }
}
