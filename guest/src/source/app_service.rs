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

use super::{Ask, Detection, Selectors, Source, header_secret};
use crate::endpoint::Endpoint;
use crate::environment::Environment;
use crate::platform::HttpRequest;
use crate::retry::{LOCAL_SERVICE, RetryPolicy};
use crate::secret::Secret;

const API_VERSION: &str = "2019-08-01";
const NAME: &str = "app-service";

struct AppService {
    endpoint: Endpoint,
    header: Secret,
}

const SELECTORS: Selectors = Selectors {
    client_id: "client_id",
    object_id: "principal_id",
    resource_id: "mi_res_id",
};

pub(super) fn detect(environment: &Environment) -> Detection {
    let (Some(endpoint), Some(header)) = (environment.get("IDENTITY_ENDPOINT"), environment.get("IDENTITY_HEADER"))
    else {
        return Detection::No("App Service: no, it would need both IDENTITY_ENDPOINT and IDENTITY_HEADER.".to_owned());
    };
    let source = Endpoint::parse("IDENTITY_ENDPOINT", endpoint).and_then(|endpoint| {
        let header = header_secret("IDENTITY_HEADER", header)?;
        let source: Box<dyn Source> = Box::new(AppService { endpoint, header });
        Ok(source)
    });
    Detection::announced(
        source,
        NAME,
        "IDENTITY_ENDPOINT and IDENTITY_HEADER announce App Service.",
    )
}

impl Source for AppService {
    fn name(&self) -> &'static str {
        NAME
    }

    fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    fn request(&self, ask: Ask<'_>, _: Option<&Secret>) -> HttpRequest {
        let mut query = vec![("api-version", API_VERSION), ("resource", ask.audience.resource())];
        query.extend(SELECTORS.parameter(ask.identity));
        self.endpoint
            .get(&query, vec![("x-identity-header", self.header.clone())])
    }

    fn retry_policy(&self) -> &'static RetryPolicy {
        &LOCAL_SERVICE
    }
}
