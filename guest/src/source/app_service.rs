//! App Service, Functions and Container Apps, protocol version 2019-08-01.
//!
//! Protocol, from Microsoft's "How to use managed identities for App Service and Azure Functions" (REST endpoint
//! reference):
//! 1. The platform sets `IDENTITY_ENDPOINT`, an address on this machine, and `IDENTITY_HEADER`, a secret that changes.
//! 2. `GET $IDENTITY_ENDPOINT?api-version=2019-08-01&resource=…` with the header `X-IDENTITY-HEADER: $IDENTITY_HEADER`.
//! 3. At most one of `client_id`, `principal_id` (or `object_id`) and `mi_res_id` selects a user-assigned identity. The
//!    metadata service spells the last one `msi_res_id`, which is not known here.
//! 4. The reply is JSON with `expires_on` and without `expires_in`. The expiry is mostly a string of digits, and in some
//!    regions ISO 8601.

use super::{Detection, Source};
use crate::endpoint::Endpoint;
use crate::environment::Environment;
use crate::error::Error;
use crate::platform::HttpRequest;
use crate::request::{Audience, Identity};
use crate::retry::{LOCAL_SERVICE, RetryPolicy};
use crate::secret::Secret;

const API_VERSION: &str = "2019-08-01";
const NAME: &str = "app-service";

struct AppService {
    endpoint: Endpoint,
    header: Secret,
}

pub(super) fn detect(environment: &Environment) -> Detection {
    let (Some(endpoint), Some(header)) = (environment.get("IDENTITY_ENDPOINT"), environment.get("IDENTITY_HEADER"))
    else {
        return Detection::No("App Service: no, it would need both IDENTITY_ENDPOINT and IDENTITY_HEADER.".to_owned());
    };
    let header_is_sendable = header.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let endpoint = Endpoint::parse("IDENTITY_ENDPOINT", endpoint).and_then(|endpoint| {
        if header_is_sendable {
            Ok(endpoint)
        } else {
            Err(Error::new(
                crate::error::Cause::NotConfigured,
                "The environment variable IDENTITY_HEADER contains characters that no HTTP header can carry. Set it to \
                 the value that the platform gave, without line breaks.",
            ))
        }
    });
    match endpoint {
        Ok(endpoint) => Detection::Yes(
            Box::new(AppService {
                endpoint,
                header: Secret::from(header),
            }),
            "IDENTITY_ENDPOINT and IDENTITY_HEADER announce App Service.".to_owned(),
        ),
        Err(error) => Detection::Failed(
            error.with_source(NAME),
            "IDENTITY_ENDPOINT and IDENTITY_HEADER announce App Service and cannot be used.".to_owned(),
        ),
    }
}

impl Source for AppService {
    fn name(&self) -> &'static str {
        NAME
    }

    fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    fn request(&self, audience: &Audience, identity: &Identity) -> Result<HttpRequest, Error> {
        let mut query = vec![("api-version", API_VERSION), ("resource", audience.resource())];
        match identity {
            Identity::PlatformDefault | Identity::SystemAssigned => {}
            Identity::ClientId(id) => query.push(("client_id", id)),
            Identity::ObjectId(id) => query.push(("principal_id", id)),
            Identity::ResourceId(id) => query.push(("mi_res_id", id)),
        }
        Ok(self
            .endpoint
            .get(&query, vec![("x-identity-header", self.header.clone())]))
    }

    fn retry_policy(&self) -> &'static RetryPolicy {
        &LOCAL_SERVICE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_identity_has_its_documented_selector_and_the_secret_goes_in_its_header() {
        let variables = [
            ("IDENTITY_ENDPOINT", "http://127.0.0.1:41741/msi/token/"),
            ("IDENTITY_HEADER", "s3cr3t"),
        ];
        let environment = Environment::new(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let Detection::Yes(source, _) = detect(&environment) else {
            panic!("the environment announces App Service")
        };
        let audience = Audience::parse("https://vault.azure.net").expect("a good audience");
        for (identity, selector) in [
            (Identity::SystemAssigned, ""),
            (Identity::ClientId("c".to_owned()), "&client_id=c"),
            (Identity::ObjectId("o".to_owned()), "&principal_id=o"),
            (Identity::ResourceId("/r/s".to_owned()), "&mi_res_id=%2Fr%2Fs"),
        ] {
            let request = source.request(&audience, &identity).expect("every selector is known");
            assert_eq!(
                request.path_with_query,
                format!("/msi/token/?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net{selector}")
            );
            let headers: Vec<_> = request
                .headers
                .iter()
                .map(|(name, value)| (*name, value.expose()))
                .collect();
            assert_eq!(headers, [("x-identity-header", "s3cr3t")]);
        }
    }

    #[test]
    fn a_header_secret_with_a_line_break_is_refused_and_not_shown() {
        let variables = [
            ("IDENTITY_ENDPOINT", "http://127.0.0.1/"),
            ("IDENTITY_HEADER", "s3cr3t\r\nx: y"),
        ];
        let environment = Environment::new(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let Detection::Failed(error, _) = detect(&environment) else {
            panic!("such a header cannot be sent")
        };
        assert!(
            error.message.contains("IDENTITY_HEADER") && !error.message.contains("s3cr3t"),
            "{error}"
        );
    }
}
