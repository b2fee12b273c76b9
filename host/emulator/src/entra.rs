//! Entra's refusals, in its own words and as other endpoints pass them on.
//!
//! "Microsoft Entra authentication and authorization error codes" has the codes; the form is that of the token endpoint
//! (RFC 6749, section 5.2) with Entra's additions.

use http::StatusCode;
use serde_json::json;

use crate::clock;
use crate::protocol::Platform;
use crate::reply::Reply;

/// A refusal.
pub(crate) struct Refusal {
    pub status: StatusCode,
    /// OAuth's name for it.
    pub error: &'static str,
    /// The number of its AADSTS code.
    pub code: u32,
    pub message: String,
}

impl Refusal {
    /// The resource that no service principal of the tenant has.
    pub(crate) fn unknown_resource(resource: &str, tenant: &str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            error: "invalid_resource",
            code: 500_011,
            message: format!(
                "The resource principal named {resource} was not found in the tenant named {tenant}. This can happen if \
                 the application has not been installed by the administrator of the tenant or consented to by any user \
                 in the tenant. You might have sent your authentication request to the wrong tenant."
            ),
        }
    }

    /// The sentence with which Entra describes it, without trace.
    pub(crate) fn sentence(&self) -> String {
        format!("AADSTS{}: {}", self.code, self.message)
    }

    /// Entra's reply.
    pub(crate) fn reply(&self, platform: &Platform<'_>) -> Reply {
        let (trace, correlation) = (platform.unique.guid(), platform.unique.guid());
        let timestamp = clock::universal(platform.issuer.now);
        let body = json!({
            "error": self.error,
            "error_description": self.described(&trace, &correlation, &timestamp),
            "error_codes": [self.code],
            "timestamp": timestamp,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": format!("https://login.microsoftonline.com/error?code={}", self.code),
        });
        Reply::json(self.status, &body)
    }

    /// The description with its trace, as an endpoint has it that passes it on.
    pub(crate) fn description(&self, platform: &Platform<'_>) -> String {
        let (trace, correlation) = (platform.unique.guid(), platform.unique.guid());
        self.described(&trace, &correlation, &clock::universal(platform.issuer.now))
    }

    fn described(&self, trace: &str, correlation: &str, timestamp: &str) -> String {
        format!(
            "{} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {timestamp}",
            self.sentence()
        )
    }
}
