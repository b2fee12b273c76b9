//! Microsoft Entra Workload ID on Kubernetes: a service account's token, exchanged for one of an identity.
//!
//! Protocol, from Microsoft's "Use Microsoft Entra Workload ID with AKS" and "Microsoft identity platform and the OAuth
//! 2.0 client credentials flow" (third case, with a federated credential):
//! 1. The webhook of the cluster sets `AZURE_FEDERATED_TOKEN_FILE`, `AZURE_TENANT_ID`, `AZURE_CLIENT_ID` and
//!    `AZURE_AUTHORITY_HOST`. The file holds a token of the pod's service account, which Kubernetes replaces before it
//!    expires, so it is read anew for every request.
//! 2. `POST {authority}/{tenant}/oauth2/v2.0/token` with a form: the client id, the file's contents as assertion, and the
//!    scope, which is the resource and `/.default`.
//! 3. The reply has `expires_in` as a number and no `expires_on`. Errors have `AADSTS` numbers.
//!
//! With identity bindings ("Identity bindings in AKS"), a proxy of the cluster takes the place of the authority:
//! `AZURE_KUBERNETES_TOKEN_PROXY` is its address, `AZURE_KUBERNETES_SNI_NAME` the name that its certificate is for, and
//! `AZURE_KUBERNETES_CA_FILE` or `AZURE_KUBERNETES_CA_DATA` the one authority that it is trusted by. As in Azure's own
//! clients, the proxy is used only when the workload says so: here by `MANAGED_IDENTITY_USE_TOKEN_PROXY=true`.

use super::{Ask, Detection, Source, not_configured, unsupported};
use crate::endpoint::Endpoint;
use crate::environment::Environment;
use crate::error::{Cause, Error};
use crate::platform::{CredentialFile, HttpRequest};
use crate::request::Identity;
use crate::retry::{LOCAL_SERVICE, RetryPolicy};
use crate::secret::Secret;

const NAME: &str = "workload-identity";

/// The authority of the public cloud.
const PUBLIC_AUTHORITY: &str = "https://login.microsoftonline.com";

/// The authorities of Azure's clouds ("National clouds", Microsoft Entra documentation), which have public addresses.
#[cfg(not(target_arch = "wasm32"))]
const AUTHORITIES: [&str; 5] = [
    "login.chinacloudapi.cn",
    "login.microsoft.com",
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.partner.microsoftonline.cn",
];

/// The largest assertion, in bytes. Those of Kubernetes have one or two thousand.
const ASSERTION_LIMIT: usize = 16 * 1024;

const FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
const PROXY: &str = "AZURE_KUBERNETES_TOKEN_PROXY";
const PROXY_SETTINGS: [&str; 3] = [
    "AZURE_KUBERNETES_SNI_NAME",
    "AZURE_KUBERNETES_CA_FILE",
    "AZURE_KUBERNETES_CA_DATA",
];
const USE_PROXY: &str = "MANAGED_IDENTITY_USE_TOKEN_PROXY";

struct WorkloadIdentity {
    endpoint: Endpoint,
    file: CredentialFile,
    #[cfg(not(target_arch = "wasm32"))]
    trust: super::Trust,
}

pub(super) fn detect(environment: &Environment) -> Detection {
    let Some(file) = environment.get(FILE) else {
        return Detection::No(format!(
            "Workload identity: no, it would need {FILE} and AZURE_TENANT_ID."
        ));
    };
    let mut reason = format!("{FILE} and AZURE_TENANT_ID announce workload identity.");
    if environment.has(PROXY) {
        reason.push_str(match environment.get(USE_PROXY) {
            Some("true") => " AZURE_KUBERNETES_TOKEN_PROXY takes the place of the authority.",
            _ => {
                " AZURE_KUBERNETES_TOKEN_PROXY is set and not used: MANAGED_IDENTITY_USE_TOKEN_PROXY=true would turn \
                 identity bindings on."
            }
        });
    }
    Detection::announced(source(environment, file), NAME, &reason)
}

fn source(environment: &Environment, file: &str) -> Result<Box<dyn Source>, Error> {
    let tenant = environment.get("AZURE_TENANT_ID").ok_or_else(|| {
        not_configured(
            "AZURE_FEDERATED_TOKEN_FILE is set and AZURE_TENANT_ID is not. Set it to the identity's tenant; the webhook of \
             workload identity does so for pods with the label azure.workload.identity/use.",
        )
    })?;
    if !tenant
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
        || tenant.starts_with('.')
    {
        return Err(not_configured(
            "The environment variable AZURE_TENANT_ID is neither a GUID nor a domain name. Set it to the identity's \
             tenant.",
        ));
    }
    let use_proxy = match environment.get(USE_PROXY) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            return Err(not_configured(format!(
                "The environment variable {USE_PROXY} is neither true nor false. Correct it, or unset it."
            )));
        }
    };
    let (variable, authority) = if use_proxy {
        let Some(proxy) = environment.get(PROXY) else {
            let set = PROXY_SETTINGS.iter().find(|name| environment.has(name));
            return Err(not_configured(format!(
                "{} is set and {PROXY} is not. Set it to the address of the cluster's proxy, or unset {USE_PROXY}.",
                set.unwrap_or(&USE_PROXY)
            )));
        };
        let [_, ca_file, ca_data] = PROXY_SETTINGS;
        if environment.has(ca_file) && environment.has(ca_data) {
            return Err(not_configured(format!(
                "Both {ca_file} and {ca_data} are set, and only one authority can be trusted. Unset one of them."
            )));
        }
        (PROXY, proxy)
    } else {
        const VARIABLE: &str = "AZURE_AUTHORITY_HOST";
        (VARIABLE, environment.get(VARIABLE).unwrap_or(PUBLIC_AUTHORITY))
    };
    let authority = Endpoint::parse(variable, authority)?;
    if !authority.is_https() {
        return Err(not_configured(format!(
            "The environment variable {variable} has the scheme http, and the service account's token is sent over https \
             only. Nothing was sent. Correct the variable."
        )));
    }
    Ok(Box::new(WorkloadIdentity {
        endpoint: authority.join(&format!("/{tenant}/oauth2/v2.0/token")),
        file: assertion_file(file)?,
        #[cfg(not(target_arch = "wasm32"))]
        trust: trust(environment, use_proxy),
    }))
}

#[cfg(not(target_arch = "wasm32"))]
fn trust(environment: &Environment, use_proxy: bool) -> super::Trust {
    use super::{AuthorityCertificate, Trust};
    if !use_proxy {
        return Trust::SystemRoots;
    }
    let [server_name, file, data] = PROXY_SETTINGS.map(|name| environment.get(name).map(str::to_owned));
    Trust::Authority {
        certificate: match (file, data) {
            (Some(file), _) => AuthorityCertificate::File(file),
            (None, Some(data)) => AuthorityCertificate::Data(data),
            (None, None) => AuthorityCertificate::System,
        },
        server_name,
    }
}

/// The file of an absolute path, in the notation of Unix or of Windows.
fn assertion_file(path: &str) -> Result<CredentialFile, Error> {
    let windows = path.as_bytes().get(1) == Some(&b':');
    let separators: &[char] = if windows { &['/', '\\'] } else { &['/'] };
    let file = path.rsplit_once(separators).filter(|(directory, name)| {
        (windows || directory.starts_with('/') || directory.is_empty()) && !matches!(*name, "" | "." | "..")
    });
    let Some((directory, name)) = file else {
        return Err(not_configured(format!(
            "The environment variable {FILE} is not the absolute path of a file. Set it to where the service account's \
             token is mounted."
        )));
    };
    Ok(CredentialFile {
        what: "The file that AZURE_FEDERATED_TOKEN_FILE names",
        directory: if directory.is_empty() { "/" } else { directory }.to_owned(),
        name: name.to_owned(),
        limit: ASSERTION_LIMIT,
        may_be_link: true,
    })
}

impl Source for WorkloadIdentity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn needs(&self) -> super::Needs {
        super::Needs {
            url: self.endpoint(),
            method: crate::platform::Method::Post,
            trust: self.trust.clone(),
            public: self.trust == super::Trust::SystemRoots && AUTHORITIES.contains(&self.endpoint.host()),
            directory: Some(self.file.directory.clone()),
        }
    }

    fn check(&self, identity: &Identity) -> Result<(), Error> {
        match identity {
            Identity::ClientId(_) => Ok(()),
            _ => Err(unsupported(
                "Workload identity selects identities by client id only. Ask with the client id of the identity that \
                 trusts this service account, or set AZURE_CLIENT_ID.",
            )),
        }
    }

    fn unnamed_identity(&self) -> Result<Identity, Error> {
        Err(not_configured(
            "Workload identity needs the client id of an identity, and AZURE_CLIENT_ID is not set. Annotate the service \
             account with azure.workload.identity/client-id, or name the identity in the request.",
        ))
    }

    fn credential_file(&self) -> Option<&CredentialFile> {
        Some(&self.file)
    }

    fn request(&self, ask: Ask<'_>, credential: Option<&Secret>) -> HttpRequest {
        let scope = format!("{}/.default", ask.audience.resource());
        let client_id = match ask.identity {
            Identity::ClientId(id) => id.as_str(),
            _ => "",
        };
        let mut form = vec![
            ("client_id", client_id),
            (
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ),
            ("client_assertion", credential.map_or("", Secret::expose)),
            ("grant_type", "client_credentials"),
            ("scope", &scope),
        ];
        if let Some(claims) = ask.claims {
            form.push(("claims", claims));
        }
        self.endpoint.post(&form, Vec::new())
    }

    fn retry_policy(&self) -> &'static RetryPolicy {
        &LOCAL_SERVICE
    }

    fn advice(&self, cause: Cause, replied: bool) -> Option<&'static str> {
        match cause {
            Cause::CredentialRejected => Some(
                "Compare issuer, subject and audience of the identity's federated credential with the cluster and the \
                 service account, and check that the token file is the one that Kubernetes keeps fresh.",
            ),
            Cause::CredentialUnreadable => Some(
                "Check that the service account's token is mounted, and let the host give the provider read access to its \
                 directory.",
            ),
            Cause::Denied => Some(
                "Authorities of Azure's clouds are known; any other at a public address has to be granted by the host.",
            ),
            Cause::EndpointUnreachable if !replied => {
                Some("Check the pod's name resolution, and network policies on the way to the authority.")
            }
            Cause::IdentityNotFound => {
                Some("Check the client id and AZURE_TENANT_ID: the identity has to be in that tenant.")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_assertion_is_a_file_in_a_directory() {
        for (path, directory, name) in [
            (
                "/var/run/secrets/azure/tokens/azure-identity-token",
                "/var/run/secrets/azure/tokens",
                "azure-identity-token",
            ),
            ("/token", "/", "token"),
            (
                r"C:\var\run\secrets\azure\tokens\azure-identity-token",
                r"C:\var\run\secrets\azure\tokens",
                "azure-identity-token",
            ),
            ("C:/tokens/t", "C:/tokens", "t"),
        ] {
            let file = assertion_file(path).expect("an absolute path");
            assert_eq!((file.directory.as_str(), file.name.as_str()), (directory, name));
        }
        for path in ["token", "./token", "a/token", "/a/", "/a/..", "\\a\\b", "C:token"] {
            assert_eq!(
                assertion_file(path).map_err(|error| error.cause),
                Err(Cause::NotConfigured),
                "{path}"
            );
        }
    }
}
