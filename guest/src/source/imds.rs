//! The Azure Instance Metadata Service (IMDS) of virtual machines and scale sets.
//!
//! Protocol, from Microsoft's "How to use managed identities for Azure resources on an Azure VM to acquire an access
//! token" and "Azure Instance Metadata Service":
//! 1. `GET http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=…`, with the header
//!    `Metadata: true`, without `X-Forwarded-For`, past every proxy, and with no parameter twice.
//! 2. At most one of `client_id`, `object_id` and `msi_res_id` selects a user-assigned identity.
//! 3. The reply is JSON whose numbers are strings.
//! 4. 404, 410, 429 and 5xx may be tried again, at least a second apart; 410 for up to 70 seconds. No other 4xx may.
//!
//! The address is the same in every Azure cloud. `AZURE_POD_IDENTITY_AUTHORITY_HOST` names another server that speaks
//! the protocol, such as the workload identity proxy or an emulator.
//!
//! `IDENTITY_HEADER` is a secret of another source and is never sent here, even when it is set, as it is on Azure
//! Container Instances.

use super::{Detection, Source};
use crate::endpoint::Endpoint;
use crate::environment::Environment;
use crate::error::{Cause, Error};
use crate::platform::{HttpReply, HttpRequest};
use crate::request::{Audience, Identity};
use crate::retry::{IMDS, RetryPolicy};
use crate::secret::Secret;

/// The oldest version of the protocol that has everything asked for here, and so the one that every host speaks.
const API_VERSION: &str = "2018-02-01";

/// The well-known link-local address.
const AUTHORITY: &str = "http://169.254.169.254";

/// Where the identity category answers.
const PATH: &str = "/metadata/identity/oauth2/token";

struct Imds(Endpoint);

pub(super) fn detect(environment: &Environment) -> Detection {
    const OVERRIDE: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";
    let (variable, value) = match environment.get(OVERRIDE) {
        Some(value) => (OVERRIDE, value),
        None => ("", AUTHORITY),
    };
    match Endpoint::parse(variable, value) {
        Ok(endpoint) if variable.is_empty() => Detection::Yes(
            Box::new(Imds(endpoint.join(PATH))),
            "No variable announces another source, so the instance metadata service at its well-known address is used."
                .to_owned(),
        ),
        Ok(endpoint) => Detection::Yes(
            Box::new(Imds(endpoint.join(PATH))),
            format!("{OVERRIDE} names the instance metadata service."),
        ),
        Err(error) => Detection::Failed(
            error.with_source("imds"),
            format!("{OVERRIDE} is set and cannot be used."),
        ),
    }
}

impl Source for Imds {
    fn name(&self) -> &'static str {
        "imds"
    }

    fn endpoint(&self) -> String {
        self.0.to_string()
    }

    fn request(&self, audience: &Audience, identity: &Identity) -> Result<HttpRequest, Error> {
        let mut query = vec![("api-version", API_VERSION), ("resource", audience.resource())];
        match identity {
            Identity::PlatformDefault | Identity::SystemAssigned => {}
            Identity::ClientId(id) => query.push(("client_id", id)),
            Identity::ObjectId(id) => query.push(("object_id", id)),
            Identity::ResourceId(id) => query.push(("msi_res_id", id)),
        }
        Ok(self.0.get(&query, vec![("metadata", Secret::from("true"))]))
    }

    fn retry_policy(&self) -> &'static RetryPolicy {
        &IMDS
    }

    fn has_credential(&self) -> bool {
        false
    }

    /// Docker Desktop answers in place of the metadata service, with 403 and the word "unreachable".
    fn failure(&self, reply: &HttpReply) -> Option<Error> {
        let unreachable = reply.status == 403 && String::from_utf8_lossy(&reply.body).contains("unreachable");
        unreachable.then(|| {
            Error::new(
                Cause::EndpointUnreachable,
                "There is no instance metadata service here: a container engine answers in its place. Run on an Azure \
                 virtual machine, or name an emulator in AZURE_POD_IDENTITY_AUTHORITY_HOST.",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imds(variables: &[(&str, &str)]) -> Box<dyn Source> {
        let environment = Environment::new(
            variables
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string())),
        );
        match detect(&environment) {
            Detection::Yes(source, _) => source,
            _ => panic!("the metadata service is always selected"),
        }
    }

    fn path(identity: &Identity) -> String {
        let audience = Audience::parse("https://vault.azure.net").expect("a good audience");
        imds(&[])
            .request(&audience, identity)
            .expect("every selector is known")
            .path_with_query
    }

    #[test]
    fn each_identity_has_its_documented_selector() {
        let common = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
        for (identity, selector) in [
            (Identity::SystemAssigned, ""),
            (Identity::ClientId("c".to_owned()), "&client_id=c"),
            (Identity::ObjectId("o".to_owned()), "&object_id=o"),
            (Identity::ResourceId("/r/s".to_owned()), "&msi_res_id=%2Fr%2Fs"),
        ] {
            assert_eq!(path(&identity), format!("{common}{selector}"));
        }
    }

    #[test]
    fn the_only_header_is_metadata_whatever_else_is_set() {
        let source = imds(&[("IDENTITY_HEADER", "s3cr3t")]);
        let audience = Audience::parse("r").expect("a good audience");
        let request = source.request(&audience, &Identity::SystemAssigned).expect("a request");
        assert_eq!(request.authority, "169.254.169.254");
        let headers: Vec<_> = request
            .headers
            .iter()
            .map(|(name, value)| (*name, value.expose()))
            .collect();
        assert_eq!(headers, [("metadata", "true")]);
    }

    #[test]
    fn another_authority_may_have_a_path() {
        let source = imds(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:8000/base/")]);
        assert_eq!(
            source.endpoint(),
            "http://127.0.0.1:8000/base/metadata/identity/oauth2/token"
        );
    }
}
