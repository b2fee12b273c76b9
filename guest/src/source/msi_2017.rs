//! Version 2017-09-01 of App Service's endpoint, which Azure Machine Learning still speaks.
//!
//! Protocol, from the 2017 edition of Microsoft's "How to use managed identities for App Service and Azure Functions" and
//! from Azure Machine Learning's "Set up authentication":
//! 1. The platform sets `MSI_ENDPOINT`, an address on this machine, and `MSI_SECRET`.
//! 2. `GET $MSI_ENDPOINT?api-version=2017-09-01&resource=…` with the header `Secret: $MSI_SECRET`.
//! 3. `clientid` (one word) selects a user-assigned identity. There is no other selector.
//! 4. The reply's `expires_on` is a date: `06/20/2019 02:57:58 +00:00` on Linux, `1/16/2020 5:24:12 AM +00:00` on Windows.
//!
//! App Service sets `WEBSITE_SITE_NAME` for every site and function, which tells the two platforms apart. On Azure Machine
//! Learning, `DEFAULT_IDENTITY_CLIENT_ID` names the identity of the compute that runs the job.

use super::{Ask, Detection, Source, header_secret, named_identity, unsupported};
use crate::endpoint::Endpoint;
use crate::environment::Environment;
use crate::error::Error;
use crate::platform::HttpRequest;
use crate::request::Identity;
use crate::retry::{LOCAL_SERVICE, RetryPolicy};
use crate::secret::Secret;

const API_VERSION: &str = "2017-09-01";

struct Msi2017 {
    name: &'static str,
    endpoint: Endpoint,
    secret: Secret,
    unnamed: Result<Identity, Error>,
}

pub(super) fn detect(environment: &Environment) -> Detection {
    let (Some(endpoint), Some(secret)) = (environment.get("MSI_ENDPOINT"), environment.get("MSI_SECRET")) else {
        return Detection::No(
            "Azure Machine Learning and App Service of 2017: no, they would need both MSI_ENDPOINT and MSI_SECRET."
                .to_owned(),
        );
    };
    let (name, reason, unnamed) = if environment.has("WEBSITE_SITE_NAME") {
        (
            "app-service-2017",
            "MSI_ENDPOINT, MSI_SECRET and WEBSITE_SITE_NAME announce App Service with its protocol of 2017.",
            Ok(Identity::SystemAssigned),
        )
    } else {
        const DEFAULT: &str = "DEFAULT_IDENTITY_CLIENT_ID";
        (
            "azure-ml",
            match environment.has(DEFAULT) {
                false => "MSI_ENDPOINT and MSI_SECRET announce Azure Machine Learning.",
                true => {
                    "MSI_ENDPOINT and MSI_SECRET announce Azure Machine Learning, and DEFAULT_IDENTITY_CLIENT_ID the \
                     identity of its compute."
                }
            },
            environment
                .get(DEFAULT)
                .map_or(Ok(Identity::SystemAssigned), |id| named_identity(DEFAULT, id)),
        )
    };
    let source = Endpoint::parse("MSI_ENDPOINT", endpoint).and_then(|endpoint| {
        let secret = header_secret("MSI_SECRET", secret)?;
        let source: Box<dyn Source> = Box::new(Msi2017 {
            name,
            endpoint,
            secret,
            unnamed,
        });
        Ok(source)
    });
    Detection::announced(source, name, reason)
}

impl Source for Msi2017 {
    fn name(&self) -> &'static str {
        self.name
    }

    fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    fn check(&self, identity: &Identity) -> Result<(), Error> {
        match identity {
            Identity::ObjectId(_) | Identity::ResourceId(_) => Err(unsupported(
                "This platform's protocol of 2017 selects identities by client id only. Ask with the client id of the \
                 identity, which its overview page shows.",
            )),
            _ => Ok(()),
        }
    }

    fn unnamed_identity(&self) -> Result<Identity, Error> {
        self.unnamed.clone()
    }

    fn request(&self, ask: Ask<'_>, _: Option<&Secret>) -> HttpRequest {
        let mut query = vec![("api-version", API_VERSION), ("resource", ask.audience.resource())];
        if let Identity::ClientId(id) = ask.identity {
            query.push(("clientid", id));
        }
        self.endpoint.get(&query, vec![("secret", self.secret.clone())])
    }

    fn retry_policy(&self) -> &'static RetryPolicy {
        &LOCAL_SERVICE
    }
}
