//! Whether the server lives (`/livez`, `/healthz`) and is ready (`/readyz`), by the paths that Kubernetes uses.

use super::{Reply, Service, status};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

pub(super) fn is_path(path: &str) -> bool {
    matches!(path, "/livez" | "/healthz" | "/readyz")
}

/// `ok`, `ready`, or with status 503 why it is not ready, in a sentence.
pub(super) fn answer(request: &Parts, service: &Service) -> Reply {
    let reason = match request.uri.path() {
        "/readyz" => service.shared.readiness.reason(),
        _ => return text(StatusCode::OK, "ok"),
    };
    match reason {
        None => text(StatusCode::OK, "ready"),
        Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, &reason),
    }
}

fn text(code: StatusCode, text: &str) -> Reply {
    let body = Full::new(Bytes::from(format!("{text}\n")));
    let (mut head, _) = status(code).into_parts();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    head.headers.insert(header::CONTENT_TYPE, plain);
    // An answer of another moment is of no use.
    let no_store = HeaderValue::from_static("no-store");
    head.headers.insert(header::CACHE_CONTROL, no_store);
    Response::from_parts(head, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_line_of_text() {
        let reply = text(StatusCode::SERVICE_UNAVAILABLE, "It ends.");
        assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(reply.headers()[header::CACHE_CONTROL], "no-store");
    }
}
