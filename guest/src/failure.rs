//! From what came back to the one cause of the closed list, with a sentence that says what to do.

use crate::error::{Cause, Error};
use crate::failure_body::{self, FailureBody, path_snippet};
use crate::platform::{CredentialFile, FileFault, HttpReply, TransportFault};
use crate::reply::ReplyFault;
use crate::retry::retry_after;
use crate::secret::Secret;
use crate::source::{Ask, Source};

/// What was asked, for messages.
pub(crate) struct Asked<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) ask: Ask<'a>,
}

impl Asked<'_> {
    fn error(&self, cause: Cause, message: String) -> Error {
        Error::new(cause, message).with_source(self.source.name())
    }

    /// What to do: what the source knows, or else `general`. `replied` tells a failed reply from one that never came.
    pub(crate) fn advice(&self, cause: Cause, replied: bool, general: &'static str) -> &'static str {
        self.source.advice(cause, replied).unwrap_or(general)
    }

    /// The error for a credential file that cannot be read.
    pub(crate) fn unreadable(&self, file: &CredentialFile, fault: FileFault) -> Error {
        let why = fault.description();
        match fault {
            FileFault::Link | FileFault::NotAFile | FileFault::TooLarge => self.unusable_file(file, why),
            FileFault::NotGranted | FileFault::NotFound | FileFault::Forbidden | FileFault::Failed => {
                let advice = "Check that the platform has left it there, and that this user and the host may read it.";
                let advice = self.advice(Cause::CredentialUnreadable, false, advice);
                self.error(
                    Cause::CredentialUnreadable,
                    format!("{} ({}) {why}. {advice}", file.what, path_snippet(&file.name)),
                )
            }
        }
    }

    /// The error for a credential file that is not what the platform leaves; `why` ends a sentence that begins with it.
    pub(crate) fn unusable_file(&self, file: &CredentialFile, why: &str) -> Error {
        self.error(
            Cause::CredentialUnreadable,
            format!(
                "{} ({}) {why}. It was not sent. Look for whatever else writes to its directory.",
                file.what,
                path_snippet(&file.name)
            ),
        )
    }

    /// The error for a request that got no reply.
    pub(crate) fn fault(&self, fault: TransportFault) -> Error {
        let cause = match fault {
            TransportFault::Denied => Cause::Denied,
            TransportFault::TooLarge | TransportFault::BrokenOff => Cause::MalformedReply,
            TransportFault::NotHttp | TransportFault::Certificate | TransportFault::NotTls => {
                Cause::EndpointIntercepted
            }
            TransportFault::Misconfigured => Cause::NotConfigured,
            TransportFault::Other => Cause::Internal,
            TransportFault::NameNotFound | TransportFault::NotConnected | TransportFault::NoReply => {
                Cause::EndpointUnreachable
            }
        };
        let general = match fault {
            TransportFault::Denied => {
                "An identity endpoint is expected at a loopback, link-local or private address: correct the environment, \
                 or have the host grant this endpoint."
            }
            TransportFault::TooLarge | TransportFault::BrokenOff | TransportFault::NotHttp => {
                "Check what listens there; a token reply is a few kilobytes of JSON over HTTP."
            }
            TransportFault::Certificate | TransportFault::NotTls => {
                "Let requests to this address bypass proxies that break TLS open, or have the host trust its authority."
            }
            TransportFault::Misconfigured => "Correct the variables that name the endpoint's certificate authority.",
            TransportFault::Other => "See the log of the host.",
            _ => "Check that the platform's identity service runs and that the environment is the platform's own.",
        };
        let advice = match fault {
            TransportFault::TooLarge | TransportFault::BrokenOff | TransportFault::NotHttp | TransportFault::Other => {
                general
            }
            _ => self.advice(cause, false, general),
        };
        self.error(
            cause,
            format!("{} {}. {advice}", self.source.endpoint(), fault.description()),
        )
    }

    /// The error for a successful reply that holds no usable token.
    pub(crate) fn unusable(&self, fault: &ReplyFault) -> Error {
        let endpoint = self.source.endpoint();
        let error = match fault {
            ReplyFault::NotJson { html: true } => self.error(
                Cause::EndpointIntercepted,
                format!(
                    "{endpoint} answers with a web page instead of a token. A proxy or login page answers in its place: \
                     let requests to this address bypass it."
                ),
            ),
            ReplyFault::Expired => self.error(
                Cause::TokenRejected,
                format!("{endpoint} returns a token that has already expired. Compare this machine's clock with the platform's."),
            ),
            other => self.error(
                Cause::MalformedReply,
                format!("{endpoint} answers with something other than a token reply: {other}. Check what listens there."),
            ),
        };
        error.with_status(200)
    }

    /// The error for a reply that is not a success.
    pub(crate) fn failed(&self, reply: &HttpReply, answered: bool, secrets: &[Secret], now: u64) -> Error {
        let body = failure_body::read(&reply.body, secrets);
        let mut error = match self.source.failure(reply, answered) {
            Some(error) => error.with_source(self.source.name()),
            None => self.by_rules(reply, answered, &body),
        };
        error.http_status = Some(reply.status);
        error.retry_after_ms = retry_after(reply, now).map(|wait| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX));
        error.correlation_id = body.correlation_id;
        error
    }

    fn by_rules(&self, reply: &HttpReply, answered: bool, body: &FailureBody) -> Error {
        let cause = cause_of(reply, body, answered || self.source.has_credential());
        let (endpoint, status) = (self.source.endpoint(), reply.status);
        let identity = self.ask.identity.describe();
        let audience = self.ask.audience.resource();
        let (what, general) = match cause {
            Cause::IdentityNotFound => (
                format!("{endpoint} does not know {identity}."),
                "Assign it to this workload, or correct the identifier.",
            ),
            Cause::IdentityAmbiguous => (
                format!("{endpoint} has several identities assigned, and the request chooses none."),
                "Name one by client id, object id or resource id.",
            ),
            Cause::AudienceNotFound => (
                format!("The platform does not know the audience {audience}."),
                "Check its spelling, and that its application is registered in the identity's tenant.",
            ),
            Cause::CredentialRejected => (
                format!("{endpoint} rejects the credential that it was given (HTTP {status})."),
                "Restart the workload so that the platform hands it a new one.",
            ),
            Cause::EndpointIntercepted if (300..400).contains(&status) => (
                format!(
                    "{endpoint} answers with a redirect (HTTP {status}), which no identity endpoint does. It was not followed."
                ),
                "Let requests to this address bypass proxies, and check the environment.",
            ),
            Cause::EndpointIntercepted => (
                format!("Something other than the identity endpoint answers at {endpoint} (HTTP {status})."),
                "Let requests to this address bypass proxies, and check the environment.",
            ),
            Cause::EndpointUnreachable => (
                format!("{endpoint} answers that there is no identity endpoint (HTTP {status})."),
                "Check that this workload has a managed identity.",
            ),
            Cause::NotConfigured => (
                format!("{endpoint} does not know the tenant (HTTP {status})."),
                "Correct AZURE_TENANT_ID, or AZURE_AUTHORITY_HOST if the tenant is in another cloud.",
            ),
            Cause::Throttled => (
                format!("{endpoint} answers that it is asked too often (HTTP {status})."),
                "Ask again later, and share one cache.",
            ),
            Cause::PlatformUpdating => (
                format!("{endpoint} is being updated (HTTP {status})."),
                "Ask again; it takes up to 70 seconds.",
            ),
            Cause::PlatformFailure => (format!("{endpoint} failed (HTTP {status})."), "Ask again later."),
            Cause::InvalidRequest => (
                format!("{endpoint} calls the request for {audience} as {identity} wrong (HTTP {status})."),
                "Check both.",
            ),
            _ => (
                format!("{endpoint} answers HTTP {status}, which its protocol does not have."),
                "Check what listens there.",
            ),
        };
        let text = format!("{what} {}", self.advice(cause, true, general));
        let said = match (&body.code, &body.message) {
            (_, Some(message)) => format!(" It says: {message}"),
            (Some(code), None) => format!(" It says: {code}"),
            (None, None) => String::new(),
        };
        self.error(cause, text + &said)
    }
}

/// The cause of a failed reply, by what its body says first and by its status second.
fn cause_of(reply: &HttpReply, body: &FailureBody, has_credential: bool) -> Cause {
    let looks_like_a_page = reply.body.trim_ascii_start().starts_with(b"<");
    let message = body.message.as_deref().unwrap_or_default().to_ascii_lowercase();
    let code = body.code.as_deref().unwrap_or_default().to_ascii_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| message.contains(phrase));
    if (400..500).contains(&reply.status) && !matches!(reply.status, 408 | 410 | 429) {
        match body.entra_code() {
            Some(500_011) => return Cause::AudienceNotFound,
            // No matching federated credential; assertion expired; assertion malformed or of a bad signature.
            Some(70_021 | 700_213 | 700_211 | 700_212 | 700_222 | 700_223 | 700_024 | 700_027 | 50_027 | 7_000_215) => {
                return Cause::CredentialRejected;
            }
            // The tenant is not found, or its name is malformed.
            Some(90_002 | 900_021 | 900_023) => return Cause::NotConfigured,
            // The application is not found in the directory.
            Some(700_016) => return Cause::IdentityNotFound,
            _ => {}
        }
        if says(&["multiple user assigned identities", "multiple identities"]) {
            return Cause::IdentityAmbiguous;
        }
        match code.as_str() {
            "invalid_resource" => return Cause::AudienceNotFound,
            // Service Fabric's.
            "secretheadernotfound" => return Cause::CredentialRejected,
            _ => {}
        }
        let unknown = [
            "identity not found",
            "no user assigned",
            "unable to load the proper managed identity",
            "no managed identity",
            // NMI's.
            "no azureassignedidentity found",
            "no azure identity found",
            "not been assigned",
            "not assigned",
        ];
        if says(&unknown) || matches!(code.as_str(), "identity_not_found" | "managedidentitynotfound") {
            return Cause::IdentityNotFound;
        }
    }
    match reply.status {
        300..400 | 407 | 511 => Cause::EndpointIntercepted,
        410 => Cause::PlatformUpdating,
        429 => Cause::Throttled,
        408 | 500.. => Cause::PlatformFailure,
        400..500 if looks_like_a_page => Cause::EndpointIntercepted,
        400 => Cause::InvalidRequest,
        401 | 403 if has_credential => Cause::CredentialRejected,
        // Who asks for no credential has none to reject: this is a proxy's or a network policy's answer.
        401 | 403 => Cause::EndpointIntercepted,
        404 => Cause::EndpointUnreachable,
        405 => Cause::EndpointIntercepted,
        _ => Cause::MalformedReply,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::request::{Audience, Identity};
    use zeroize::Zeroizing;

    const APP_SERVICE: [(&str, &str); 2] = [
        ("IDENTITY_ENDPOINT", "http://127.0.0.1:41741/msi/token"),
        ("IDENTITY_HEADER", "s3cr3t"),
    ];

    fn failed(environment: &[(&str, &str)], status: u16, body: &str) -> Error {
        let variables = environment
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        let Ok(source) = crate::source::select(&Environment::new(variables)).source else {
            panic!("the environment announces a source");
        };
        let asked = Asked {
            source: source.as_ref(),
            ask: Ask {
                audience: &Audience::parse("https://vault.azure.net").expect("a good audience"),
                identity: &Identity::SystemAssigned,
                claims: None,
                revoked: None,
            },
        };
        let reply = HttpReply {
            status,
            headers: Vec::new(),
            body: Zeroizing::new(body.as_bytes().to_vec()),
        };
        asked.failed(&reply, false, &[], 0)
    }

    #[test]
    fn every_failed_reply_has_its_cause() {
        let multiple = r#"{"error":"invalid_request","error_description":"Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request"}"#;
        let cases = [
            (
                400,
                r#"{"error":"invalid_request","error_description":"Identity not found"}"#,
                Cause::IdentityNotFound,
            ),
            (
                400,
                r#"{"statusCode":400,"message":"No User Assigned or Delegated Managed Identity found for specified ClientId/ResourceId/PrincipalId.","correlationId":"c"}"#,
                Cause::IdentityNotFound,
            ),
            (
                404,
                r#"{"error":{"code":"ManagedIdentityNotFound","message":"x"}}"#,
                Cause::IdentityNotFound,
            ),
            (400, multiple, Cause::IdentityAmbiguous),
            (
                400,
                r#"{"error":"invalid_resource","error_description":"AADSTS500011: The resource principal named x was not found"}"#,
                Cause::AudienceNotFound,
            ),
            (400, r#"{"message":"AADSTS500011: unknown"}"#, Cause::AudienceNotFound),
            (
                401,
                r#"{"error":"invalid_client","error_description":"AADSTS700024: expired"}"#,
                Cause::CredentialRejected,
            ),
            (
                400,
                r#"{"error":"invalid_request","error_description":"something else"}"#,
                Cause::InvalidRequest,
            ),
            (400, "", Cause::InvalidRequest),
            (401, "", Cause::CredentialRejected),
            (403, "nope", Cause::CredentialRejected),
            (403, "<html>proxy</html>", Cause::EndpointIntercepted),
            (407, "", Cause::EndpointIntercepted),
            (302, "", Cause::EndpointIntercepted),
            (404, "", Cause::EndpointUnreachable),
            (405, "", Cause::EndpointIntercepted),
            (408, "", Cause::PlatformFailure),
            (410, "", Cause::PlatformUpdating),
            (429, "", Cause::Throttled),
            (500, "<html>oops</html>", Cause::PlatformFailure),
            (503, "", Cause::PlatformFailure),
            (204, "", Cause::MalformedReply),
        ];
        for (status, body, cause) in cases {
            let error = failed(&APP_SERVICE, status, body);
            assert_eq!(error.cause, cause, "{status} {body}: {error}");
            assert_eq!(
                (error.http_status, error.source.as_deref()),
                (Some(status), Some("app-service"))
            );
            assert!(error.message.len() > 40, "{error}");
        }
    }

    #[test]
    fn the_metadata_service_has_no_credential_to_reject() {
        assert_eq!(failed(&[], 403, "denied by policy").cause, Cause::EndpointIntercepted);
        assert_eq!(
            failed(&[], 403, "A socket operation was attempted to an unreachable network").cause,
            Cause::EndpointUnreachable
        );
    }

    #[test]
    fn what_the_platform_says_is_kept_and_its_identifier_too() {
        let error = failed(
            &APP_SERVICE,
            400,
            r#"{"statusCode":400,"message":"Bad thing","correlationId":"abc-1"}"#,
        );
        assert!(error.message.contains("It says: Bad thing"), "{error}");
        assert_eq!(error.correlation_id.as_deref(), Some("abc-1"));
    }
}
