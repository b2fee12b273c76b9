//! What is answered when there is no token.
//!
//! Unmodified clients decide by the status alone whether to ask again, and for how long: clients of the metadata service
//! repeat 404, 410, 429 and everything from 500 on for over a minute, those of App Service 408, 429, 500 and 502 to 504.
//! So a status from the first list below is one that nobody repeats, and one from the second is for what passes:
//!
//! | status | when | again? |
//! |---|---|---|
//! | 400 | the request is malformed, or asks for an identity or audience that there is not | no |
//! | 401 | nobody knows the secret | no |
//! | 403 | the policy refuses it | no |
//! | 405 | another method than GET | no |
//! | 421 | it was meant for another server | no |
//! | 424 | what the broker itself depends on has to be put right: its environment, its credential, what stands between | no |
//! | 429 | too many requests, by the policy or the platform | yes, after `Retry-After` |
//! | 500 | a fault of ours | yes |
//! | 502 | the platform answers nonsense | yes |
//! | 503 | the platform is away, fails, or updates itself | yes, after `Retry-After` where the platform says it |
//! | 504 | the platform took too long | yes |
//!
//! The metadata service itself says 410 while it updates itself. Nothing is gained by that here: the broker has waited
//! already, clients of App Service take 410 for the end, and 503 is repeated by all.

use super::log_volume::LogVolume;
use super::reply::{self, Object};
use super::{QueryFault, Reply};
use crate::config::Protocol;
use crate::telemetry::LOG_TARGET;
use http::header::{ALLOW, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use managed_identity_host::grants::Caller;
use managed_identity_host::{Cause, TokenError};
use std::fmt::Write as _;
use std::time::Instant;

/// Tells Envoy, and whoever reads its logs, what the cause was.
pub(super) const ERROR: HeaderName = HeaderName::from_static("x-managed-identity-error");

/// Why there is no token, in terms of HTTP.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    cause: Cause,
    message: String,
    /// In whole seconds, at least one.
    retry_after: Option<u64>,
    /// By what operators find this refusal in the log: the platform's own, where it has refused.
    correlation_id: String,
}

impl Refusal {
    fn new(status: StatusCode, cause: Cause, message: impl Into<String>) -> Self {
        Self {
            status,
            cause,
            message: message.into(),
            retry_after: None,
            correlation_id: guid(),
        }
    }

    /// The request is not one of the protocol's.
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Cause::InvalidRequest, message)
    }

    /// Only GET asks for tokens.
    pub(super) fn method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            Cause::InvalidRequest,
            "The requested resource supports only GET.",
        )
    }

    /// Nobody has this secret, or none was sent. Both are answered alike.
    pub(super) fn secret() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            Cause::Denied,
            "The X-IDENTITY-HEADER header is missing or not valid.",
        )
    }

    /// Whoever is at the other end may not ask here.
    pub(crate) fn stranger() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            Cause::Denied,
            "No caller of this listener runs as the user of this process. Add the user to `users` of a `[caller]` that the \
             listener admits.",
        )
    }

    /// The request was meant for another server.
    pub(super) fn misdirected() -> Self {
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            Cause::Denied,
            "The Host header names another server. Ask for localhost or 127.0.0.1, or add the name to `hosts` of the \
             listener.",
        )
    }

    /// A web page may have sent it, and not Envoy.
    pub(super) fn foreign_host() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            Cause::Denied,
            "The request says by header what the token is for, and its Host names another server, so that a web page could \
             have sent it. Add the name to `hosts` of the listener, or let Envoy ask over a Unix socket.",
        )
    }

    /// There is nothing at this path.
    pub(super) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            Cause::Unsupported,
            "Nothing but tokens is served here, at /metadata/identity/oauth2/token.",
        )
    }

    fn is_unattributed(&self) -> bool {
        matches!(
            self.status,
            StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_FOUND
        )
    }

    /// Tells the log. The messages hold no secret, and nothing of the request that could be taken for a line of the log.
    ///
    /// Whoever can connect can be refused without end, so only some of it is logged, and the rest at the level for
    /// debugging. Those whom nobody knows cannot keep out what is said of callers, nor can either keep out failures.
    pub(crate) fn log(&self, protocol: Protocol, caller: Option<&Caller>) {
        static STRANGERS: LogVolume = LogVolume::new();
        static CALLERS: LogVolume = LogVolume::new();
        static FAILURES: LogVolume = LogVolume::new();
        let (status, cause) = (self.status.as_u16(), self.cause.name());
        let (is_known, caller, protocol) = (caller.is_some(), caller.map(Caller::name), protocol.name());
        let (correlation_id, message) = (&*self.correlation_id, &*self.message);
        if !is_known && self.is_unattributed() {
            tracing::debug!(target: LOG_TARGET, protocol, status, cause, correlation_id, "request refused");
            return;
        }
        let is_failure = self.status.is_server_error() || self.status == StatusCode::FAILED_DEPENDENCY;
        let volume = match (is_failure, is_known) {
            (true, _) => &FAILURES,
            (false, true) => &CALLERS,
            (false, false) => &STRANGERS,
        };
        let Some(unlogged) = volume.line(Instant::now()) else {
            tracing::debug!(target: LOG_TARGET, protocol, caller, status, cause, correlation_id, "no token: {message}");
            return;
        };
        let unlogged = (unlogged > 0).then_some(unlogged);
        if is_failure {
            tracing::warn!(
                target: LOG_TARGET,
                protocol,
                caller,
                status,
                cause,
                correlation_id,
                unlogged,
                "no token: {message}"
            );
        } else {
            tracing::info!(
                target: LOG_TARGET,
                protocol,
                caller,
                status,
                cause,
                correlation_id,
                unlogged,
                "no token: {message}"
            );
        }
    }

    /// As App Service refuses.
    pub(super) fn app_service(&self) -> Reply {
        let known =
            "No User Assigned or Delegated Managed Identity found for specified ClientId/ResourceId/PrincipalId.";
        let message = self.documented(known);
        let body = Object::with_room_for(message.len() + self.correlation_id.len())
            .number("statusCode", self.status.as_u16())
            .text("message", &message)
            .text("correlationId", &self.correlation_id);
        self.with_fields(reply::json(self.status, body))
    }

    /// As the metadata service refuses. The correlation id stands where Entra puts it in the same shape (RFC 6749).
    pub(super) fn imds(&self) -> Reply {
        let description = self.documented("Identity not found.");
        let body = Object::with_room_for(description.len() + self.correlation_id.len())
            .text("error", self.imds_error())
            .text("error_description", &description)
            .text("correlation_id", &self.correlation_id);
        self.with_fields(reply::json(self.status, body))
    }

    /// For Envoy, which passes a refusal by 4xx on to whoever has sent the request; that one is told no more than that it is
    /// refused. What the request itself has nothing to do with is 503: to Envoy an error, and not a decision.
    pub(super) fn envoy(&self) -> Reply {
        let (status, description) = match self.status {
            StatusCode::FORBIDDEN => (self.status, "The policy grants no token for this request."),
            StatusCode::TOO_MANY_REQUESTS if self.cause == Cause::Throttled => (self.status, "Too many requests."),
            StatusCode::BAD_REQUEST if self.cause == Cause::InvalidRequest => {
                (self.status, "The request is malformed.")
            }
            _ => (
                StatusCode::SERVICE_UNAVAILABLE,
                "There is no token for this request now.",
            ),
        };
        let body = Object::with_room_for(128)
            .text("error", self.cause.name())
            .text("error_description", description)
            .text("correlation_id", &self.correlation_id);
        let mut reply = self.with_fields(reply::json(status, body));
        let cause = HeaderValue::from_static(self.cause.name());
        reply.headers_mut().insert(ERROR, cause);
        reply
    }

    /// For people.
    pub(super) fn text(&self) -> Reply {
        self.with_fields(reply::text(self.status, &self.message))
    }

    fn with_fields(&self, mut reply: Reply) -> Reply {
        if let Some(seconds) = self.retry_after {
            reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        }
        reply
    }

    /// The message after the documented one, by which clients know two of the causes.
    fn documented(&self, not_found: &str) -> String {
        let documented = match self.cause {
            Cause::IdentityNotFound => not_found,
            Cause::IdentityAmbiguous => {
                "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the \
                 token request."
            }
            _ => return self.message.clone(),
        };
        format!("{documented} {}", self.message)
    }

    /// One of the documented names of errors.
    fn imds_error(&self) -> &'static str {
        match self.status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED | StatusCode::MISDIRECTED_REQUEST => "access_denied",
            StatusCode::TOO_MANY_REQUESTS => "too_many_requests",
            StatusCode::NOT_FOUND => "not_found",
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                "temporarily_unavailable"
            }
            StatusCode::INTERNAL_SERVER_ERROR | StatusCode::FAILED_DEPENDENCY => "unknown",
            _ if self.cause == Cause::AudienceNotFound => "invalid_resource",
            _ => "invalid_request",
        }
    }
}

/// What the broker, or the policy before it, fails with.
impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        Self {
            status: status_of(error.cause),
            cause: error.cause,
            message: error.message,
            retry_after: error
                .retry_after_ms
                .map(|milliseconds| u64::from(milliseconds).div_ceil(1_000).max(1)),
            correlation_id: error.correlation_id.unwrap_or_else(guid),
        }
    }
}

impl From<QueryFault> for Refusal {
    fn from(fault: QueryFault) -> Self {
        Self::malformed(fault.to_string())
    }
}

fn status_of(cause: Cause) -> StatusCode {
    match cause {
        Cause::InvalidRequest
        | Cause::Unsupported
        | Cause::IdentityNotFound
        | Cause::IdentityAmbiguous
        | Cause::IdentityMismatch
        | Cause::AudienceNotFound => StatusCode::BAD_REQUEST,
        Cause::Denied => StatusCode::FORBIDDEN,
        Cause::NotConfigured | Cause::EndpointIntercepted | Cause::CredentialUnreadable | Cause::CredentialRejected => {
            StatusCode::FAILED_DEPENDENCY
        }
        Cause::Throttled => StatusCode::TOO_MANY_REQUESTS,
        Cause::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Cause::MalformedReply => StatusCode::BAD_GATEWAY,
        Cause::EndpointUnreachable | Cause::PlatformUpdating | Cause::PlatformFailure | Cause::TokenRejected => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Cause::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// A random GUID (RFC 9562, version 4); of zeros, where the system has no randomness to give.
fn guid() -> String {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; 16];
    if ring::rand::SystemRandom::new().fill(&mut bytes).is_ok() {
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
    }
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails where something is not as expected")]

    use super::*;
    use http_body_util::BodyExt as _;
    use serde_json::Value;

    /// Of all clients of the metadata service together, and of App Service.
    const REPEATED: [u16; 13] = [404, 408, 410, 429, 500, 501, 502, 503, 504, 505, 506, 507, 508];

    fn body(reply: Reply) -> Value {
        let collected = pollster(reply.into_body().collect());
        serde_json::from_slice(&collected.to_bytes()).unwrap()
    }

    /// The bodies are whole already.
    fn pollster<T, E: std::fmt::Debug>(future: impl Future<Output = Result<T, E>>) -> T {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            std::task::Poll::Ready(result) => result.unwrap(),
            std::task::Poll::Pending => panic!("the body is not whole"),
        }
    }

    #[test]
    fn every_cause_has_a_status_in_every_protocol_that_is_repeated_only_where_that_helps() {
        // Cause, App Service and IMDS, name of the IMDS error, Envoy.
        let table = [
            (Cause::InvalidRequest, 400, "invalid_request", 400),
            (Cause::Unsupported, 400, "invalid_request", 503),
            (Cause::NotConfigured, 424, "unknown", 503),
            (Cause::Denied, 403, "access_denied", 403),
            (Cause::IdentityNotFound, 400, "invalid_request", 503),
            (Cause::IdentityAmbiguous, 400, "invalid_request", 503),
            (Cause::IdentityMismatch, 400, "invalid_request", 503),
            (Cause::AudienceNotFound, 400, "invalid_resource", 503),
            (Cause::EndpointUnreachable, 503, "temporarily_unavailable", 503),
            (Cause::EndpointIntercepted, 424, "unknown", 503),
            (Cause::CredentialUnreadable, 424, "unknown", 503),
            (Cause::CredentialRejected, 424, "unknown", 503),
            (Cause::Throttled, 429, "too_many_requests", 429),
            (Cause::PlatformUpdating, 503, "temporarily_unavailable", 503),
            (Cause::PlatformFailure, 503, "temporarily_unavailable", 503),
            (Cause::MalformedReply, 502, "temporarily_unavailable", 503),
            (Cause::TokenRejected, 503, "temporarily_unavailable", 503),
            (Cause::DeadlineExceeded, 504, "temporarily_unavailable", 503),
            (Cause::Internal, 500, "unknown", 503),
        ];
        assert_eq!(table.map(|(cause, ..)| cause), Cause::ALL);
        let passing = [
            Cause::EndpointUnreachable,
            Cause::Throttled,
            Cause::PlatformUpdating,
            Cause::PlatformFailure,
            Cause::MalformedReply,
            Cause::TokenRejected,
            Cause::DeadlineExceeded,
            Cause::Internal,
        ];
        for (cause, status, imds_error, envoy_status) in table {
            let refusal = Refusal::from(TokenError::new(cause, "Do this."));
            assert_eq!(REPEATED.contains(&status), passing.contains(&cause), "{cause}");

            let reply = refusal.app_service();
            assert_eq!(reply.status().as_u16(), status, "{cause}");
            assert_eq!(reply.headers()["cache-control"], "no-store");
            assert_eq!(reply.headers()["content-type"], "application/json; charset=utf-8");
            assert!(!reply.headers().contains_key(RETRY_AFTER));
            let said = body(reply);
            assert_eq!(said["statusCode"], status);
            assert!(said["message"].as_str().unwrap().ends_with("Do this."), "{said}");
            assert_eq!(said["correlationId"].as_str().unwrap().len(), 36);

            let reply = refusal.imds();
            assert_eq!(reply.status().as_u16(), status, "{cause}");
            let said = body(reply);
            assert_eq!(said["error"], imds_error, "{cause}");
            assert!(
                said["error_description"].as_str().unwrap().ends_with("Do this."),
                "{said}"
            );

            let reply = refusal.envoy();
            assert_eq!(reply.status().as_u16(), envoy_status, "{cause}");
            assert_eq!(reply.headers()[ERROR], cause.name());
            let said = body(reply);
            assert!(
                !said.to_string().contains("Do this."),
                "whoever sent the request is told nothing of the policy"
            );
        }
    }

    #[test]
    fn the_platforms_wait_is_rounded_up_and_its_correlation_id_kept() {
        for (milliseconds, seconds) in [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2"), (u32::MAX, "4294968")] {
            let mut error = TokenError::new(Cause::Throttled, "");
            error.retry_after_ms = Some(milliseconds);
            error.correlation_id = Some("its-own".to_owned());
            let refusal = Refusal::from(error);
            for reply in [refusal.app_service(), refusal.imds(), refusal.envoy()] {
                assert_eq!(reply.headers()[RETRY_AFTER], seconds, "{milliseconds}");
                assert!(body(reply).to_string().contains("its-own"));
            }
        }
    }

    #[test]
    fn clients_know_the_documented_words() {
        let refusal = |cause| Refusal::from(TokenError::new(cause, "More."));
        let not_found = refusal(Cause::IdentityNotFound);
        assert_eq!(body(not_found.imds())["error_description"], "Identity not found. More.");
        let message = "No User Assigned or Delegated Managed Identity found for specified \
                       ClientId/ResourceId/PrincipalId. More.";
        assert_eq!(body(not_found.app_service())["message"], message);
        let ambiguous = body(refusal(Cause::IdentityAmbiguous).imds());
        let description = ambiguous["error_description"].as_str().unwrap();
        assert!(
            description.starts_with("Multiple user assigned identities exist"),
            "{description}"
        );
    }

    #[test]
    fn only_get_is_allowed() {
        let reply = Refusal::method().app_service();
        assert_eq!(reply.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(reply.headers()[ALLOW], "GET");
    }

    #[test]
    fn every_refusal_has_a_guid_of_its_own() {
        let (one, other) = (guid(), guid());
        assert_ne!(one, other);
        let parts: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
    }
}
