//! The platform's identity sources: how each is recognised, asked and understood.
//!
//! One file per source. A new one adds its file here, a line to `DETECTORS`, and its variables to
//! [`VARIABLES`](crate::environment::VARIABLES).

mod app_service;
mod azure_arc;
mod cloud_shell;
mod imds;
mod msi_2017;
mod service_fabric;
mod workload_identity;

use crate::environment::Environment;
use crate::error::{Cause, Error};
#[cfg(not(target_arch = "wasm32"))]
use crate::platform::Method;
use crate::platform::{CredentialFile, HttpReply, HttpRequest};
use crate::request::{Audience, Identity, guid};
use crate::retry::RetryPolicy;
use crate::secret::Secret;

/// What one token is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The resource.
    pub audience: &'a Audience,
    /// Whose token; never [`Identity::PlatformDefault`], which is resolved before.
    pub identity: &'a Identity,
    /// The claims challenge that the token has to answer, as JSON text.
    pub claims: Option<&'a str>,
    /// The SHA-256 digest, in lower-case hexadecimal, of a token that the audience no longer takes.
    pub revoked: Option<&'a str>,
}

/// One identity source, ready to be asked.
///
/// One try is: read the [credential file](Source::credential_file) if there is one, send the [request](Source::request),
/// and if the reply is a [challenge](Source::challenge), read the file that it names and send the request once more.
pub trait Source {
    /// The name that users see, such as `imds`.
    fn name(&self) -> &'static str;

    /// The address that is asked, without query or secret.
    fn endpoint(&self) -> String;

    /// What a host has to grant.
    #[cfg(not(target_arch = "wasm32"))]
    fn needs(&self) -> Needs {
        Needs::of(self.endpoint())
    }

    /// Whether a token for this identity can be asked for at all.
    ///
    /// # Errors
    /// [`Cause::Unsupported`] when the source has no way to select such an identity. Nothing has been sent then.
    fn check(&self, _identity: &Identity) -> Result<(), Error> {
        Ok(())
    }

    /// The identity that is meant when neither the request nor `AZURE_CLIENT_ID` names one.
    ///
    /// # Errors
    /// [`Cause::NotConfigured`] when the source takes no request without a name.
    fn unnamed_identity(&self) -> Result<Identity, Error> {
        Ok(Identity::SystemAssigned)
    }

    /// The file that is read for each request; `None` where requests need none.
    fn credential_file(&self) -> Option<&CredentialFile> {
        None
    }

    /// The request for one token, with the contents of the credential file if one was read.
    fn request(&self, ask: Ask<'_>, credential: Option<&Secret>) -> HttpRequest;

    /// The file whose contents the reply to a request without a credential asks for; `None` when it is no challenge.
    ///
    /// # Errors
    /// When it is a challenge that must not be answered.
    fn challenge(&self, _reply: &HttpReply) -> Option<Result<CredentialFile, Error>> {
        None
    }

    /// Which failures are worth another try, and when.
    fn retry_policy(&self) -> &'static RetryPolicy;

    /// Whether every request carries a secret, which the platform may reject. The answer to a challenge does so anyway.
    fn has_credential(&self) -> bool {
        true
    }

    /// Whether the platform is known to answer for another identity than was asked for without saying so, so that only
    /// a reply that names the right one is believed.
    fn must_name_identity(&self) -> bool {
        false
    }

    /// What this source alone means by a failed reply, to the request with (`answered`) or without the answer to a
    /// challenge; `None` leaves it to the rules that all sources share.
    fn failure(&self, _reply: &HttpReply, _answered: bool) -> Option<Error> {
        None
    }

    /// What to do about a failed reply (`replied`) or about anything else that failed, where this source knows better than
    /// the rules that all sources share.
    fn advice(&self, _cause: Cause, _replied: bool) -> Option<&'static str> {
        None
    }
}

/// The query or form parameter that selects a user-assigned identity, in the spellings of one source.
struct Selectors {
    client_id: &'static str,
    object_id: &'static str,
    resource_id: &'static str,
}

impl Selectors {
    fn parameter<'a>(&self, identity: &'a Identity) -> Option<(&'static str, &'a str)> {
        match identity {
            Identity::PlatformDefault | Identity::SystemAssigned => None,
            Identity::ClientId(id) => Some((self.client_id, id)),
            Identity::ObjectId(id) => Some((self.object_id, id)),
            Identity::ResourceId(id) => Some((self.resource_id, id)),
        }
    }
}

/// Whether a value can stand in a header field: visible ASCII characters and spaces.
fn is_sendable(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

/// The secret in a variable, which has to be one that a header field can carry.
fn header_secret(variable: &str, value: &str) -> Result<Secret, Error> {
    if is_sendable(value) {
        return Ok(Secret::from(value));
    }
    Err(Error::new(
        Cause::NotConfigured,
        format!(
            "The environment variable {variable} contains characters that no HTTP header can carry. Set it to the value \
             that the platform gave, without line breaks."
        ),
    ))
}

fn not_configured(message: impl Into<String>) -> Error {
    Error::new(Cause::NotConfigured, message)
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(Cause::Unsupported, message)
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

#[cfg(not(target_arch = "wasm32"))]
impl Needs {
    /// What most sources need: `GET` from a local URL.
    fn of(url: String) -> Self {
        Self {
            url,
            method: Method::Get,
            trust: Trust::Address,
            public: false,
            directory: None,
        }
    }
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

impl Detection {
    /// A source that the environment announces, if it can be used.
    fn announced(source: Result<Box<dyn Source>, Error>, name: &'static str, reason: &str) -> Self {
        match source {
            Ok(source) => Self::Yes(source, reason.to_owned()),
            Err(error) => Self::Failed(error.with_source(name), format!("{reason} It cannot be used.")),
        }
    }
}

/// Asked in this order; the first that does not say no decides. The instance metadata service comes last and always
/// says yes, because nothing in the environment announces it.
///
/// Variables that the platform itself sets for one workload come before the program that an administrator installed, and
/// that before what is true of every virtual machine. Falling through to the next source when an announced one cannot be
/// used would act as another identity, so it never happens.
const DETECTORS: &[fn(&Environment) -> Detection] = &[
    service_fabric::detect,
    app_service::detect,
    azure_arc::announced,
    incomplete_identity_endpoint,
    msi_2017::detect,
    cloud_shell::detect,
    workload_identity::detect,
    imds::named,
    azure_arc::installed,
    imds::well_known,
];

/// `IDENTITY_ENDPOINT` alone announces nothing: the secret that its protocol needs is missing.
fn incomplete_identity_endpoint(environment: &Environment) -> Detection {
    if !environment.has("IDENTITY_ENDPOINT") {
        return Detection::No("IDENTITY_ENDPOINT is not set.".to_owned());
    }
    Detection::Failed(
        not_configured(
            "IDENTITY_ENDPOINT is set, and neither IDENTITY_HEADER (App Service) nor IMDS_ENDPOINT (Azure Arc) is. Set \
             the other variable too, or unset IDENTITY_ENDPOINT to use the instance metadata service.",
        ),
        "IDENTITY_ENDPOINT is set without a variable that says which protocol it speaks.".to_owned(),
    )
}

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
    // `AZURE_CLIENT_ID` is how a platform's configuration names an identity; the Azure SDKs' default credentials obey it.
    let default_identity = match (environment.get("AZURE_CLIENT_ID"), &source) {
        (Some(id), _) => {
            reasons.push("AZURE_CLIENT_ID names the identity that is used when a request names none.".to_owned());
            named_identity("AZURE_CLIENT_ID", id)
        }
        (None, Ok(source)) => source
            .unnamed_identity()
            .map_err(|error| error.with_source(source.name())),
        (None, Err(_)) => Ok(Identity::SystemAssigned),
    };
    let default_identity = match (default_identity, &source) {
        (Ok(identity), Ok(source)) => source
            .check(&identity)
            .map(|()| identity)
            .map_err(|error| error.with_source(source.name())),
        (other, _) => other,
    };
    Selection {
        source,
        default_identity,
        reasons,
    }
}

/// The identity whose client id a variable holds.
fn named_identity(variable: &str, id: &str) -> Result<Identity, Error> {
    guid(&format!("client id in {variable}"), id)
        .map(Identity::ClientId)
        .map_err(|error| Error {
            cause: Cause::NotConfigured,
            ..error
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: (&str, &str) = ("IDENTITY_ENDPOINT", "http://127.0.0.1:1/msi/token");
    const HEADER: (&str, &str) = ("IDENTITY_HEADER", "s3cr3t");

    const HTTPS: (&str, &str) = (
        "IDENTITY_ENDPOINT",
        "https://10.0.0.4:2377/metadata/identity/oauth2/token",
    );
    const THUMBPRINT: (&str, &str) = ("IDENTITY_SERVER_THUMBPRINT", "00112233445566778899aabbccddeeff01234567");
    const MSI: (&str, &str) = ("MSI_ENDPOINT", "http://127.0.0.1:1");
    const FILE: (&str, &str) = ("AZURE_FEDERATED_TOKEN_FILE", "/run/token");
    const TENANT: (&str, &str) = ("AZURE_TENANT_ID", "7e000000-0000-4000-8000-000000000001");

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
            (&[ENDPOINT, HEADER, THUMBPRINT], Err(Cause::NotConfigured)),
            (&[HTTPS, HEADER, THUMBPRINT], Ok("service-fabric")),
            (&[ENDPOINT, ("IMDS_ENDPOINT", "http://127.0.0.1:1")], Ok("azure-arc")),
            (&[MSI], Ok("cloud-shell")),
            (&[MSI, ("MSI_SECRET", "s")], Ok("azure-ml")),
            (
                &[MSI, ("MSI_SECRET", "s"), ("WEBSITE_SITE_NAME", "w")],
                Ok("app-service-2017"),
            ),
            (&[FILE, TENANT], Ok("workload-identity")),
            (&[FILE], Err(Cause::NotConfigured)),
            (&[TENANT], Ok("imds")),
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
