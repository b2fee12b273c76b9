//! The two versions of `cloud:identity` as wasmtime sees them, and the conversions from and to the host's own types.
//!
//! The host stands on both sides of the interface: it calls what a provider exports, and answers what a plugin imports. The
//! types are the same on both.

/// Version 0.2: synchronous exports, called one at a time.
pub(crate) mod v0_2 {
    wasmtime::component::bindgen!({
        path: "../wit/0.2",
        inline: "
            package managed-identity:host;
            world caller {
                import cloud:identity/managed-identity@0.2.0;
                import cloud:identity/token-claims@0.2.0;
                export cloud:identity/managed-identity@0.2.0;
            }
        ",
        world: "managed-identity:host/caller",
        imports: { default: async },
        exports: { default: async },
    });
    super::conversions!();
}

/// Version 0.3: calls run side by side.
pub(crate) mod v0_3 {
    wasmtime::component::bindgen!({
        path: "../wit/0.3",
        inline: "
            package managed-identity:host;
            world caller {
                import cloud:identity/managed-identity@0.3.0;
                import cloud:identity/token-claims@0.3.0;
                export cloud:identity/managed-identity@0.3.0;
            }
        ",
        world: "managed-identity:host/caller",
        imports: { default: async },
        exports: { default: async | store },
    });
    super::conversions!();
}

/// Both versions have the same fields in types of their own.
macro_rules! conversions {
    () => {
        use crate::token;
        use cloud::identity::types as wit;
        use managed_identity_provider::claims::Claims;
        use managed_identity_provider::error::{Cause, Error};
        use managed_identity_provider::secret::Secret;
        use std::time::Duration;

        pub(crate) fn request(request: &token::TokenRequest, time_left: Duration) -> wit::TokenRequest {
            let identity = match &request.identity {
                token::Identity::PlatformDefault => wit::Identity::PlatformDefault,
                token::Identity::SystemAssigned => wit::Identity::SystemAssigned,
                token::Identity::ClientId(id) => wit::Identity::ClientId(id.clone()),
                token::Identity::ObjectId(id) => wit::Identity::ObjectId(id.clone()),
                token::Identity::ResourceId(id) => wit::Identity::ResourceId(id.clone()),
            };
            wit::TokenRequest {
                audience: request.audience.clone(),
                identity,
                claims: request.claims.clone(),
                rejected_token: request
                    .rejected_token
                    .as_ref()
                    .map(|token| token.expose().to_owned()),
                timeout_ms: Some(u32::try_from(time_left.as_millis()).unwrap_or(u32::MAX)),
            }
        }

        pub(crate) fn access_token(token: wit::AccessToken) -> token::AccessToken {
            token::AccessToken {
                token: Secret::new(token.token),
                token_type: token.token_type,
                audience: token.audience,
                expires_on: token.expires_on,
                refresh_on: token.refresh_on,
                client_id: token.client_id,
                source: token.source,
                stale: token.stale,
            }
        }

        pub(crate) fn description(description: wit::SourceDescription) -> token::SourceDescription {
            token::SourceDescription {
                source: description.source,
                endpoint: description.endpoint,
                reasons: description.reasons,
                last_failure: description.last_failure.map(error),
            }
        }

        pub(crate) fn error(error: wit::Error) -> Error {
            let cause = match error.cause {
                wit::Cause::InvalidRequest => Cause::InvalidRequest,
                wit::Cause::Unsupported => Cause::Unsupported,
                wit::Cause::NotConfigured => Cause::NotConfigured,
                wit::Cause::Denied => Cause::Denied,
                wit::Cause::IdentityNotFound => Cause::IdentityNotFound,
                wit::Cause::IdentityAmbiguous => Cause::IdentityAmbiguous,
                wit::Cause::IdentityMismatch => Cause::IdentityMismatch,
                wit::Cause::AudienceNotFound => Cause::AudienceNotFound,
                wit::Cause::EndpointUnreachable => Cause::EndpointUnreachable,
                wit::Cause::EndpointIntercepted => Cause::EndpointIntercepted,
                wit::Cause::CredentialUnreadable => Cause::CredentialUnreadable,
                wit::Cause::CredentialRejected => Cause::CredentialRejected,
                wit::Cause::Throttled => Cause::Throttled,
                wit::Cause::PlatformUpdating => Cause::PlatformUpdating,
                wit::Cause::PlatformFailure => Cause::PlatformFailure,
                wit::Cause::MalformedReply => Cause::MalformedReply,
                wit::Cause::TokenRejected => Cause::TokenRejected,
                wit::Cause::DeadlineExceeded => Cause::DeadlineExceeded,
                wit::Cause::Internal => Cause::Internal,
            };
            let mut converted = Error::new(cause, error.message);
            converted.source = error.source;
            converted.http_status = error.http_status;
            converted.retry_after_ms = error.retry_after_ms;
            converted.correlation_id = error.correlation_id;
            converted
        }

        /// What a plugin asks for.
        pub(crate) fn asked(request: wit::TokenRequest) -> token::TokenRequest {
            let identity = match request.identity {
                wit::Identity::PlatformDefault => token::Identity::PlatformDefault,
                wit::Identity::SystemAssigned => token::Identity::SystemAssigned,
                wit::Identity::ClientId(id) => token::Identity::ClientId(id),
                wit::Identity::ObjectId(id) => token::Identity::ObjectId(id),
                wit::Identity::ResourceId(id) => token::Identity::ResourceId(id),
            };
            let mut asked = token::TokenRequest::new(request.audience).with_identity(identity);
            asked.claims = request.claims;
            asked.rejected_token = request.rejected_token.map(Secret::new);
            asked.timeout = request.timeout_ms.map(|time| Duration::from_millis(time.into()));
            asked
        }

        pub(crate) fn wit_access_token(token: &token::AccessToken) -> wit::AccessToken {
            wit::AccessToken {
                token: token.token.expose().to_owned(),
                token_type: token.token_type.clone(),
                audience: token.audience.clone(),
                expires_on: token.expires_on,
                refresh_on: token.refresh_on,
                client_id: token.client_id.clone(),
                source: token.source.clone(),
                stale: token.stale,
            }
        }

        pub(crate) fn wit_description(description: token::SourceDescription) -> wit::SourceDescription {
            wit::SourceDescription {
                source: description.source,
                endpoint: description.endpoint,
                reasons: description.reasons,
                last_failure: description.last_failure.map(wit_error),
            }
        }

        pub(crate) fn wit_claims(claims: Claims) -> cloud::identity::token_claims::Claims {
            cloud::identity::token_claims::Claims {
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
            }
        }

        pub(crate) fn wit_error(error: Error) -> wit::Error {
            let cause = match error.cause {
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
            };
            wit::Error {
                cause,
                message: error.message,
                source: error.source,
                http_status: error.http_status,
                retry_after_ms: error.retry_after_ms,
                correlation_id: error.correlation_id,
            }
        }
    };
}
use conversions;
