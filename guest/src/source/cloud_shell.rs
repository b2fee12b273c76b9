//! Azure Cloud Shell, where the identity is that of the person who is signed in.
//!
//! Protocol, from Microsoft's "Acquire a token for user authentication in Cloud Shell":
//! 1. The shell sets `MSI_ENDPOINT` and no secret.
//! 2. `POST $MSI_ENDPOINT` with the header `Metadata: true` and the form `resource=…`, without a query.
//! 3. There is one identity, so nothing selects one.
//! 4. Errors are nested: `{"error":{"code":"…","message":"…"}}`.

use super::{Ask, Detection, Source, unsupported};
use crate::endpoint::Endpoint;
use crate::environment::Environment;
use crate::error::Error;
use crate::platform::HttpRequest;
use crate::request::Identity;
use crate::retry::{LOCAL_SERVICE, RetryPolicy};
use crate::secret::Secret;

const NAME: &str = "cloud-shell";

struct CloudShell(Endpoint);

pub(super) fn detect(environment: &Environment) -> Detection {
    let Some(endpoint) = environment.get("MSI_ENDPOINT") else {
        return Detection::No("Cloud Shell: no, it would need MSI_ENDPOINT.".to_owned());
    };
    let source = Endpoint::parse("MSI_ENDPOINT", endpoint).map(|endpoint| {
        let source: Box<dyn Source> = Box::new(CloudShell(endpoint));
        source
    });
    Detection::announced(source, NAME, "MSI_ENDPOINT without MSI_SECRET announces Cloud Shell.")
}

impl Source for CloudShell {
    fn name(&self) -> &'static str {
        NAME
    }

    fn endpoint(&self) -> String {
        self.0.to_string()
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn needs(&self) -> super::Needs {
        super::Needs {
            method: crate::platform::Method::Post,
            ..super::Needs::of(self.endpoint())
        }
    }

    fn check(&self, identity: &Identity) -> Result<(), Error> {
        match identity {
            Identity::PlatformDefault | Identity::SystemAssigned => Ok(()),
            _ => Err(unsupported(
                "Cloud Shell has one identity, that of the signed-in user, and cannot select another. Ask for the \
                 platform's default identity, and unset AZURE_CLIENT_ID if it is set.",
            )),
        }
    }

    fn request(&self, ask: Ask<'_>, _: Option<&Secret>) -> HttpRequest {
        let form = [("resource", ask.audience.resource())];
        self.0.post(&form, vec![("metadata", Secret::from("true"))])
    }

    fn retry_policy(&self) -> &'static RetryPolicy {
        &LOCAL_SERVICE
    }

    fn has_credential(&self) -> bool {
        false
    }
}
