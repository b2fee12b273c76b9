//! Between the engine's types and those that the bindings generate.
//!
//! Each version of `cloud:identity` has types of its own with the same fields, so the conversions are written once, as a
//! macro over the generated modules.

/// Defines the conversions for one set of generated types. `$exports` is the module `exports::cloud::identity`.
macro_rules! conversions {
    ($($exports:ident)::+) => {
        use $($exports)::+::{token_claims, types as wit};

        fn error(error: crate::error::Error) -> wit::Error {
            wit::Error {
                cause: cause(error.cause),
                message: error.message,
                source: error.source,
                http_status: error.http_status,
                retry_after_ms: error.retry_after_ms,
                correlation_id: error.correlation_id,
            }
        }

        fn cause(cause: crate::error::Cause) -> wit::Cause {
            use crate::error::Cause;
            match cause {
                Cause::InvalidRequest => wit::Cause::InvalidRequest,
                Cause::Unsupported => wit::Cause::Unsupported,
                Cause::NotConfigured => wit::Cause::NotConfigured,
                Cause::Denied => wit::Cause::Denied,
                Cause::IdentityNotFound => wit::Cause::IdentityNotFound,
                Cause::IdentityAmbiguous => wit::Cause::IdentityAmbiguous,
                Cause::IdentityMismatch => wit::Cause::IdentityMismatch,
                Cause::AudienceNotFound => wit::Cause::AudienceNotFound,
                Cause::EndpointUnreachable => wit::Cause::EndpointUnreachable,
                Cause::EndpointIntercepted => wit::Cause::EndpointIntercepted,
                Cause::CredentialUnreadable => wit::Cause::CredentialUnreadable,
                Cause::CredentialRejected => wit::Cause::CredentialRejected,
                Cause::Throttled => wit::Cause::Throttled,
                Cause::PlatformUpdating => wit::Cause::PlatformUpdating,
                Cause::PlatformFailure => wit::Cause::PlatformFailure,
                Cause::MalformedReply => wit::Cause::MalformedReply,
                Cause::TokenRejected => wit::Cause::TokenRejected,
                Cause::DeadlineExceeded => wit::Cause::DeadlineExceeded,
                Cause::Internal => wit::Cause::Internal,
            }
        }

        fn request(request: wit::TokenRequest) -> Result<crate::request::TokenRequest, crate::error::Error> {
            use crate::request::Identity;
            let identity = match request.identity {
                wit::Identity::PlatformDefault => Identity::PlatformDefault,
                wit::Identity::SystemAssigned => Identity::SystemAssigned,
                wit::Identity::ClientId(id) => Identity::ClientId(id),
                wit::Identity::ObjectId(id) => Identity::ObjectId(id),
                wit::Identity::ResourceId(id) => Identity::ResourceId(id),
            };
            crate::request::TokenRequest::checked(
                request.audience,
                identity,
                request.claims.as_deref(),
                request.rejected_token,
                request.timeout_ms,
            )
        }

        fn access_token(issued: crate::engine::Issued) -> wit::AccessToken {
            let token = &issued.token;
            wit::AccessToken {
                token: token.secret.expose().to_owned(),
                token_type: token.token_type.clone(),
                audience: token.audience.clone(),
                expires_on: token.expires_on,
                refresh_on: token.refresh_on,
                client_id: token.client_id.clone(),
                source: token.source.to_owned(),
                stale: issued.stale,
            }
        }

        fn description(description: crate::engine::SourceDescription) -> wit::SourceDescription {
            wit::SourceDescription {
                source: description.source,
                endpoint: description.endpoint,
                reasons: description.reasons,
                last_failure: description.last_failure.map(error),
            }
        }

        impl token_claims::Guest for Component {
            fn decode(token: String) -> Result<token_claims::Claims, wit::Error> {
                let token = crate::secret::Secret::new(token);
                let claims = crate::claims::decode(token.expose()).map_err(error)?;
                Ok(token_claims::Claims {
                    issuer: claims.issuer,
                    audiences: claims.audiences,
                    subject: claims.subject,
                    tenant_id: claims.tenant_id,
                    object_id: claims.object_id,
                    application_id: claims.application_id,
                    resource_id: claims.resource_id,
                    roles: claims.roles,
                    issued_at: claims.issued_at,
                    not_before: claims.not_before,
                    expires_on: claims.expires_on,
                    json: claims.json,
                })
            }
        }
    };
}
pub(crate) use conversions;

/// Defines `fault`, which reads the error codes of `wasi:http`: they are the same in 0.2 and 0.3.
///
/// Hosts map what happens to codes rather freely, and wasmtime itself changed its mapping between versions, so only broad
/// classes are told apart.
macro_rules! faults {
    ($code:ident) => {
        fn fault(code: $code) -> crate::platform::TransportFault {
            use crate::platform::TransportFault;
            match code {
                $code::HttpRequestDenied | $code::DestinationIpProhibited => TransportFault::Denied,
                $code::DnsTimeout | $code::DnsError(_) | $code::DestinationNotFound => TransportFault::NameNotFound,
                $code::DestinationUnavailable
                | $code::DestinationIpUnroutable
                | $code::ConnectionRefused
                | $code::ConnectionTimeout
                | $code::ConnectionLimitReached => TransportFault::NotConnected,
                $code::ConfigurationError => TransportFault::Misconfigured,
                $code::TlsCertificateError => TransportFault::Certificate,
                $code::TlsProtocolError | $code::TlsAlertReceived(_) => TransportFault::NotTls,
                $code::ConnectionReadTimeout | $code::ConnectionWriteTimeout | $code::HttpResponseTimeout => {
                    TransportFault::NoReply
                }
                $code::ConnectionTerminated | $code::HttpResponseIncomplete => TransportFault::BrokenOff,
                $code::HttpResponseHeaderSectionSize(_)
                | $code::HttpResponseHeaderSize(_)
                | $code::HttpResponseBodySize(_)
                | $code::HttpResponseTrailerSectionSize(_)
                | $code::HttpResponseTrailerSize(_) => TransportFault::TooLarge,
                $code::HttpProtocolError
                | $code::HttpResponseTransferCoding(_)
                | $code::HttpResponseContentCoding(_)
                | $code::HttpUpgradeFailed => TransportFault::NotHttp,
                _ => TransportFault::Other,
            }
        }
    };
}
pub(crate) use faults;

/// Defines `file_fault`, which reads the error codes of `wasi:filesystem`: they have the same names in 0.2 and 0.3.
macro_rules! file_faults {
    ($($code:ident)::+) => {
        fn file_fault(code: $($code)::+) -> crate::platform::FileFault {
            use crate::platform::FileFault;
            use $($code)::+ as Code;
            match code {
                Code::NoEntry | Code::NotDirectory => FileFault::NotFound,
                // Hosts say so of paths that lead out of the directory.
                Code::Loop | Code::NotPermitted => FileFault::Link,
                Code::Access => FileFault::Forbidden,
                Code::IsDirectory => FileFault::NotAFile,
                _ => FileFault::Failed,
            }
        }
    };
}
pub(crate) use file_faults;
