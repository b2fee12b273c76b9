//! The spans: their names, targets and fields.

use super::NO_CAUSE;
use crate::outbound::{EndpointPolicy, OutboundError};
use crate::token::{AccessToken, Identity, TokenRequest};
use http::{Request, Response};
use managed_identity_provider::error::Error;
use std::sync::Arc;
use tracing::field::Empty;
use tracing::{Level, Span, debug_span, info_span, span_enabled};

/// The target of spans of calls.
const BROKER_TARGET: &str = "managed_identity::broker";

/// The target of spans of requests to the endpoint.
const OUTBOUND_TARGET: &str = "managed_identity::outbound";

/// The longest text of a caller in a span, in characters.
const TEXT_LIMIT: usize = 200;

/// A call that is put to the provider.
pub(super) fn token(request: &TokenRequest) -> Span {
    if !span_enabled!(target: BROKER_TARGET, Level::INFO) {
        return Span::none();
    }
    info_span!(
        target: BROKER_TARGET,
        "token",
        audience = printable(&request.audience),
        identity = kind(&request.identity),
        outcome = Empty,
        cause = Empty,
        source = Empty,
        otel.status_code = Empty,
    )
}

/// Says in the span of a call how it ended.
pub(super) fn token_ended(span: &Span, result: &Result<Arc<AccessToken>, Error>) {
    match result {
        Ok(token) => {
            span.record("outcome", if token.stale { "stale" } else { "token" });
            span.record("cause", NO_CAUSE);
            span.record("source", token.source.as_str());
        }
        Err(error) => {
            span.record("outcome", "error");
            span.record("cause", error.cause.name());
            if let Some(source) = &error.source {
                span.record("source", source.as_str());
            }
            span.record("otel.status_code", "ERROR");
        }
    }
}

/// A request of the provider to its endpoint. One that the policy refuses may hold anything anywhere, so that its span
/// says nothing of it.
pub(super) fn upstream<B>(policy: &EndpointPolicy, request: &Request<B>) -> Span {
    if !span_enabled!(target: OUTBOUND_TARGET, Level::DEBUG) {
        return Span::none();
    }
    let span = debug_span!(
        target: OUTBOUND_TARGET,
        "upstream",
        otel.kind = "client",
        http.request.method = Empty,
        server.origin = Empty,
        url.path = Empty,
        http.response.status_code = Empty,
        error.r#type = Empty,
        otel.status_code = Empty,
    );
    if let Ok(target) = policy.check(request.method(), request.uri()) {
        span.record("http.request.method", target.method().as_str());
        span.record("server.origin", target.origin().to_string());
        span.record("url.path", target.uri().path());
    }
    span
}

/// Says in the span of a request how it ended.
pub(super) fn upstream_ended<B>(span: &Span, result: &Result<Response<B>, OutboundError>, outcome: &'static str) {
    match result {
        Ok(response) => {
            // OpenTelemetry has no unsigned numbers, and would have a text.
            span.record("http.response.status_code", i64::from(response.status().as_u16()));
        }
        Err(_) => {
            span.record("error.type", outcome);
            span.record("otel.status_code", "ERROR");
        }
    }
}

fn kind(identity: &Identity) -> &'static str {
    match identity {
        Identity::PlatformDefault => "platform-default",
        Identity::SystemAssigned => "system-assigned",
        Identity::ClientId(_) => "client-id",
        Identity::ObjectId(_) => "object-id",
        Identity::ResourceId(_) => "resource-id",
    }
}

/// A caller's text, on one line and not too long. It has not been checked yet.
fn printable(text: &str) -> String {
    let mut printable: String = text.chars().take(TEXT_LIMIT).flat_map(char::escape_debug).collect();
    if text.chars().nth(TEXT_LIMIT).is_some() {
        printable.push('\u{2026}');
    }
    printable
}
