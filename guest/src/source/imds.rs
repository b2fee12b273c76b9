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

use super::{Ask, Detection, Selectors, Source};
use crate::endpoint::Endpoint;
use crate::environment::Environment;
use crate::error::{Cause, Error};
use crate::platform::{HttpReply, HttpRequest};
use crate::retry::{IMDS, RetryPolicy};
use crate::secret::Secret;

/// The oldest version of the protocol that has everything asked for here, and so the one that every host speaks.
const API_VERSION: &str = "2018-02-01";

/// The well-known link-local address.
const AUTHORITY: &str = "http://169.254.169.254";

/// Where the identity category answers.
const PATH: &str = "/metadata/identity/oauth2/token";

const NAME: &str = "imds";

struct Imds(Endpoint);

/// The documented names.
const SELECTORS: Selectors = Selectors {
    client_id: "client_id",
    object_id: "object_id",
    resource_id: "msi_res_id",
};

/// A server that is named by a variable.
pub(super) fn named(environment: &Environment) -> Detection {
    const OVERRIDE: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";
    match environment.get(OVERRIDE) {
        None => Detection::No(format!("{OVERRIDE} is not set.")),
        Some(value) => Detection::announced(
            Endpoint::parse(OVERRIDE, value).map(source),
            NAME,
            "AZURE_POD_IDENTITY_AUTHORITY_HOST names the instance metadata service.",
        ),
    }
}

/// The service at its well-known address.
pub(super) fn well_known(_: &Environment) -> Detection {
    Detection::announced(
        Endpoint::parse("", AUTHORITY).map(source),
        NAME,
        "No variable announces another source, so the instance metadata service at its well-known address is used.",
    )
}

fn source(authority: Endpoint) -> Box<dyn Source> {
    Box::new(Imds(authority.join(PATH)))
}

impl Source for Imds {
    fn name(&self) -> &'static str {
        NAME
    }

    fn endpoint(&self) -> String {
        self.0.to_string()
    }

    fn request(&self, ask: Ask<'_>, _: Option<&Secret>) -> HttpRequest {
        let mut query = vec![("api-version", API_VERSION), ("resource", ask.audience.resource())];
        query.extend(SELECTORS.parameter(ask.identity));
        self.0.get(&query, vec![("metadata", Secret::from("true"))])
    }

    fn retry_policy(&self) -> &'static RetryPolicy {
        &IMDS
    }

    fn has_credential(&self) -> bool {
        false
    }

    /// Docker Desktop answers in place of the metadata service, with 403 and the word "unreachable".
    fn failure(&self, reply: &HttpReply, _: bool) -> Option<Error> {
        let unreachable = reply.status == 403 && String::from_utf8_lossy(&reply.body).contains("unreachable");
        unreachable.then(|| {
            Error::new(
                Cause::EndpointUnreachable,
                "There is no instance metadata service here: a container engine answers in its place. Run on an Azure \
                 virtual machine, or name an emulator in AZURE_POD_IDENTITY_AUTHORITY_HOST.",
            )
        })
    }

    fn advice(&self, cause: Cause, _: bool) -> Option<&'static str> {
        match cause {
            Cause::EndpointUnreachable => Some(
                "Check that this machine has a managed identity and that no network policy, proxy or firewall blocks the \
                 metadata service; off Azure, name an emulator in AZURE_POD_IDENTITY_AUTHORITY_HOST.",
            ),
            Cause::EndpointIntercepted => Some(
                "The metadata service is blocked by a proxy or a network policy, or something else answers in its place: \
                 let requests to this address bypass proxies.",
            ),
            _ => None,
        }
    }
}
