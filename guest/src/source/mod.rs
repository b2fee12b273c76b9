//! The platform's identity sources: how each is recognised, asked and understood.
//!
//! One file per source. A new one adds its file here, a line to `DETECTORS`, and its variables to
//! [`VARIABLES`](crate::environment::VARIABLES).

mod app_service;
mod imds;
mod recognised;

use crate::environment::Environment;
use crate::error::{Cause, Error};
#[cfg(not(target_arch = "wasm32"))]
use crate::platform::Method;
use crate::platform::{HttpReply, HttpRequest};
use crate::request::{Audience, Identity, guid};
use crate::retry::RetryPolicy;

/// One identity source, ready to be asked.
pub trait Source {
    /// The name that users see, such as `imds`.
    fn name(&self) -> &'static str;

    /// The address that is asked, without query or secret.
    fn endpoint(&self) -> String;

    /// What a host has to grant.
    #[cfg(not(target_arch = "wasm32"))]
    fn needs(&self) -> Needs {
        Needs {
            url: self.endpoint(),
            method: Method::Get,
            trust: Trust::Address,
            public: false,
            directory: None,
        }
    }

    /// The request for one token.
    ///
    /// # Errors
    /// [`Cause::Unsupported`] when the source has no way to select such an identity. Nothing has been sent then.
    fn request(&self, audience: &Audience, identity: &Identity) -> Result<HttpRequest, Error>;

    /// Which failures are worth another try, and when.
    fn retry_policy(&self) -> &'static RetryPolicy;

    /// Whether requests carry a secret, which the platform may reject.
    fn has_credential(&self) -> bool {
        true
    }

    /// What this source alone means by a failed reply; `None` leaves it to the rules that all sources share.
    fn failure(&self, _reply: &HttpReply) -> Option<Error> {
        None
    }
}

/// What a source needs of a host. Nothing else has to be granted.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The URL that requests go to, without query.
    pub url: String,
    /// The method of those requests.
    pub method: Method,
    /// By what the endpoint is known to be the right one, beyond its address.
    pub trust: Trust,
    /// Whether the endpoint is a public one of the cloud itself. All others are local: whatever the environment names at
    /// a public address is a mistake or an attack.
    pub public: bool,
    /// The directory in which the platform leaves a credential, readable and nothing else.
    pub directory: Option<String>,
}

/// By what an endpoint proves that it is the right one.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// By its address alone: `http`.
    Address,
    /// By a certificate of an authority that the system trusts.
    SystemRoots,
    /// By having exactly the certificate with this SHA-1 digest, self-signed as it may be.
    Thumbprint([u8; 20]),
    /// By a certificate of exactly this authority.
    Authority {
        /// Where its certificate comes from.
        certificate: AuthorityCertificate,
        /// The name that the certificate has to be for, and that is sent as server name indication (SNI), when it is not
        /// the host of the URL.
        server_name: Option<String>,
    },
}

/// The certificate of an authority, in PEM.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorityCertificate {
    /// Those that the system trusts.
    System,
    /// In this file, which is replaced from time to time.
    File(String),
    /// The text itself.
    Data(String),
}

/// What one detector says of the environment.
pub(crate) enum Detection {
    /// Not this source, and why.
    No(String),
    /// This source, and why.
    Yes(Box<dyn Source>, String),
    /// This source is meant and cannot be used.
    Failed(Error, String),
}

/// Asked in this order; the first that does not say no decides. The instance metadata service comes last and always
/// says yes, because nothing in the environment announces it.
const DETECTORS: &[fn(&Environment) -> Detection] = &[
    recognised::service_fabric,
    app_service::detect,
    recognised::azure_arc,
    recognised::incomplete_identity_endpoint,
    recognised::msi_endpoint,
    recognised::workload_identity,
    imds::detect,
];

/// The source that an environment selects, and why.
pub struct Selection {
    /// The source, or why none can be used.
    pub source: Result<Box<dyn Source>, Error>,
    /// The identity that stands for [`Identity::PlatformDefault`], or why none does.
    pub default_identity: Result<Identity, Error>,
    /// Sentences that name the variables that decided, never their values.
    pub reasons: Vec<String>,
}

/// Finds the source that `environment` selects.
#[must_use]
pub fn select(environment: &Environment) -> Selection {
    let mut reasons = Vec::new();
    let source = DETECTORS
        .iter()
        .find_map(|detect| match detect(environment) {
            Detection::No(reason) => {
                reasons.push(reason);
                None
            }
            Detection::Yes(source, reason) => {
                reasons.push(reason);
                Some(Ok(source))
            }
            Detection::Failed(error, reason) => {
                reasons.push(reason);
                Some(Err(error))
            }
        })
        .unwrap_or_else(|| Err(Error::new(Cause::Internal, "No source was considered.")));
    let default_identity = default_identity(environment);
    if default_identity != Ok(Identity::SystemAssigned) {
        reasons.push("AZURE_CLIENT_ID names the identity that is used when a request names none.".to_owned());
    }
    Selection {
        source,
        default_identity,
        reasons,
    }
}

/// `AZURE_CLIENT_ID` is how a platform's configuration names an identity; the Azure SDKs' default credentials obey it.
fn default_identity(environment: &Environment) -> Result<Identity, Error> {
    match environment.get("AZURE_CLIENT_ID") {
        None => Ok(Identity::SystemAssigned),
        Some(id) => guid("client id in AZURE_CLIENT_ID", id)
            .map(Identity::ClientId)
            .map_err(|error| Error {
                cause: Cause::NotConfigured,
                ..error
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: (&str, &str) = ("IDENTITY_ENDPOINT", "http://127.0.0.1:1/msi/token");
    const HEADER: (&str, &str) = ("IDENTITY_HEADER", "s3cr3t");

    fn selection(variables: &[(&str, &str)]) -> Selection {
        select(&Environment::new(
            variables
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string())),
        ))
    }

    #[test]
    fn the_environment_selects_the_source() {
        let cases: &[(&[(&str, &str)], Result<&str, Cause>)] = &[
            (&[], Ok("imds")),
            (&[ENDPOINT, HEADER], Ok("app-service")),
            // Azure Container Instances set the header and the thumbprint alone, and want the metadata service.
            (&[HEADER], Ok("imds")),
            (&[HEADER, ("IDENTITY_SERVER_THUMBPRINT", "aa")], Ok("imds")),
            (&[("IDENTITY_ENDPOINT", ""), HEADER], Ok("imds")),
            (&[("IDENTITY_ENDPOINT", ""), ("IDENTITY_HEADER", "")], Ok("imds")),
            (&[ENDPOINT], Err(Cause::NotConfigured)),
            (&[ENDPOINT, ("IDENTITY_HEADER", "")], Err(Cause::NotConfigured)),
            (&[("IDENTITY_ENDPOINT", "nonsense"), HEADER], Err(Cause::NotConfigured)),
            (
                &[ENDPOINT, HEADER, ("IDENTITY_SERVER_THUMBPRINT", "aa")],
                Err(Cause::Unsupported),
            ),
            (
                &[ENDPOINT, ("IMDS_ENDPOINT", "http://127.0.0.1:1")],
                Err(Cause::Unsupported),
            ),
            (&[("MSI_ENDPOINT", "http://127.0.0.1:1")], Err(Cause::Unsupported)),
            (
                &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")],
                Ok("imds"),
            ),
            (
                &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "nonsense")],
                Err(Cause::NotConfigured),
            ),
            (&[("AZURE_CLIENT_ID", "nonsense")], Ok("imds")),
            (&[("AZURE_CLIENT_ID", "")], Ok("imds")),
        ];
        for (variables, expected) in cases {
            let selection = selection(variables);
            let found = selection
                .source
                .as_ref()
                .map(|source| source.name())
                .map_err(|error| error.cause);
            assert_eq!(found, *expected, "{variables:?}");
            assert!(!selection.reasons.is_empty());
        }
    }

    #[test]
    fn reasons_and_errors_name_variables_and_never_values() {
        let thumbprint = ("IDENTITY_SERVER_THUMBPRINT", "s3cr3t");
        for variables in [
            &[ENDPOINT, HEADER][..],
            &[HEADER],
            &[ENDPOINT, HEADER, thumbprint],
            &[("MSI_SECRET", "s3cr3t")],
        ] {
            let selection = selection(variables);
            let mut text = selection.reasons.join(" ");
            if let Err(error) = &selection.source {
                text.push_str(&error.message);
            }
            assert!(!text.contains("s3cr3t") && !text.contains("127.0.0.1"), "{text}");
        }
    }

    #[test]
    fn azure_client_id_names_the_default_identity() {
        let id = "12345678-90ab-cdef-1234-567890abcdef";
        assert_eq!(
            selection(&[("AZURE_CLIENT_ID", id)]).default_identity,
            Ok(Identity::ClientId(id.to_owned()))
        );
        assert_eq!(selection(&[]).default_identity, Ok(Identity::SystemAssigned));
    }
}
