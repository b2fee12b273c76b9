//! The workload identity of AKS: a pod exchanges the token of its service account for one of Entra's.
//!
//! The protocol ("Microsoft identity platform and the OAuth 2.0 client credentials flow", the third case: access token
//! request with a federated credential):
//!
//! 1. The cluster gives the pod `AZURE_FEDERATED_TOKEN_FILE`, `AZURE_CLIENT_ID`, `AZURE_TENANT_ID` and
//!    `AZURE_AUTHORITY_HOST`, and replaces the file before the token in it expires.
//! 2. The client sends `POST {authority}/{tenant}/oauth2/v2.0/token`, over TLS, with a form: `client_id`, the contents
//!    of the file as `client_assertion`, `client_assertion_type`, `grant_type=client_credentials` and
//!    `scope={resource}/.default`.
//! 3. Entra looks for a federated identity credential of the user-assigned identity whose issuer, subject and audience
//!    are those of the assertion. Each identity of the emulator has one, for the assertions that the emulator makes.
//! 4. The reply has `expires_in` and `ext_expires_in` as numbers, and neither `expires_on` nor the identity. Errors
//!    have an AADSTS code.
//!
//! With *identity bindings* the client sends the same request to a proxy in its cluster, `AZURE_KUBERNETES_TOKEN_PROXY`,
//! whose certificate has the name `AZURE_KUBERNETES_SNI_NAME` and is signed by the authority in
//! `AZURE_KUBERNETES_CA_DATA`. The name is not in any DNS: a client connects to the address of the proxy and says the
//! name in its TLS handshake. One that does not is told 421.

use http::StatusCode;
use serde_json::{Map, json};

use super::{Addresses, Endpoint, Place, Platform, Source, TokenRequest, Variables, only_post};
use crate::assertion::Flaw;
use crate::clock;
use crate::entra::Refusal;
use crate::expiry::{self, DocumentedExpiry};
use crate::identities::Selector;
use crate::reply::Reply;
use crate::settings::{ExpiresIn, ExpiresOn};
use crate::token::Wanted;

pub(super) const ENTRA: Endpoint = Endpoint {
    source: Source::WorkloadIdentity,
    place: Place::OfTenant(""),
    tls_only: true,
    rate_limited: false,
    environment,
    answer,
};

pub(super) const TOKEN_PROXY: Endpoint = Endpoint {
    source: Source::IdentityBindings,
    place: Place::OfTenant(PROXY_PATH),
    tls_only: true,
    rate_limited: false,
    environment: proxy_environment,
    answer: proxy_answer,
};

/// The name of the token proxy, which clients have to say.
pub(crate) const SERVER_NAME: &str = "token-proxy.localhost";

const PROXY_PATH: &str = "/token-proxy";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

const EXPIRY: DocumentedExpiry = DocumentedExpiry {
    expires_on: ExpiresOn::Absent,
    expires_in: ExpiresIn::Number,
    ext_expires_in: true,
};

fn environment(addresses: &Addresses<'_>) -> Option<Variables> {
    let (secure, file) = (addresses.secure?, addresses.federated_token_file?);
    let identities = addresses.identities;
    let mut variables = vec![
        ("AZURE_AUTHORITY_HOST", secure.base_url.clone()),
        ("AZURE_FEDERATED_TOKEN_FILE", file.to_str()?.to_owned()),
        ("AZURE_TENANT_ID", identities.tenant_id.clone()),
    ];
    // As in a pod whose service account is not annotated, a machine without identities names none.
    if let Some(identity) = identities.user_assigned.first() {
        variables.push(("AZURE_CLIENT_ID", identity.client_id.clone()));
    }
    Some(variables)
}

fn proxy_environment(addresses: &Addresses<'_>) -> Option<Variables> {
    let mut variables = environment(addresses)?;
    let secure = addresses.secure?;
    variables.extend([
        (
            "AZURE_KUBERNETES_CA_DATA",
            secure.certificate.authority_pem().to_owned(),
        ),
        ("AZURE_KUBERNETES_SNI_NAME", SERVER_NAME.to_owned()),
        (
            "AZURE_KUBERNETES_TOKEN_PROXY",
            format!("{}{PROXY_PATH}", secure.base_url),
        ),
        ("MANAGED_IDENTITY_USE_TOKEN_PROXY", "true".to_owned()),
    ]);
    Some(variables)
}

fn proxy_answer(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Reply {
    let said = request.arrival.server_name();
    if !said.is_some_and(|name| name.eq_ignore_ascii_case(SERVER_NAME)) {
        let message = format!(
            "this is {SERVER_NAME}, and the TLS handshake was for {}",
            said.unwrap_or("no name")
        );
        return Reply::text(StatusCode::MISDIRECTED_REQUEST, message);
    }
    answer(request, platform)
}

fn answer(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Reply {
    if request.method != http::Method::POST {
        return only_post(&json!({"error": "invalid_request"}));
    }
    token(request, platform).unwrap_or_else(|refusal| refusal.reply(platform))
}

fn token(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Result<Reply, Refusal> {
    check_tenant(request, platform)?;
    if let Some(name) = request.form.duplicate() {
        let message = format!("The request body contains the parameter '{name}' more than once.");
        return Err(invalid_request(900_144, message));
    }
    let client_id = required(request, "client_id")?;
    if required(request, "grant_type")? != "client_credentials" {
        return Err(Refusal {
            status: StatusCode::BAD_REQUEST,
            error: "unsupported_grant_type",
            code: 70_003,
            message: "The app requested an unsupported grant type.".to_owned(),
        });
    }
    let resource = scoped_resource(required(request, "scope")?)?;
    let identity = platform
        .identities
        .find_user_assigned(Selector::Client(client_id))
        .ok_or_else(|| unknown_client(client_id, platform))?;
    check_assertion(request, platform)?;
    if platform.settings.is_unknown_resource(resource) {
        return Err(Refusal::unknown_resource(resource, &platform.identities.tenant_id));
    }
    let issued = platform
        .issue_new(&Wanted::new(identity, resource))
        .map_err(|error| Refusal {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            error: "server_error",
            code: 50_000,
            message: error.to_string(),
        })?;
    let mut body = Map::new();
    expiry::write(&mut body, &issued, &EXPIRY, platform.settings);
    body.insert("access_token".to_owned(), issued.access_token.into());
    body.insert("token_type".to_owned(), "Bearer".into());
    Ok(Reply::json(StatusCode::OK, &body))
}

fn check_tenant(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Result<(), Refusal> {
    let named = [&TOKEN_PROXY, &ENTRA]
        .iter()
        .find_map(|endpoint| endpoint.place.tenant(request.path))
        .unwrap_or_default();
    if named.eq_ignore_ascii_case(&platform.identities.tenant_id) {
        return Ok(());
    }
    let message = format!(
        "Tenant '{named}' not found. Check to make sure you have the correct tenant ID and are signing into the correct \
         cloud. Check with your subscription administrator, this may happen if there are no active subscriptions for the \
         tenant."
    );
    Err(invalid_request(90_002, message))
}

fn required<'a>(request: &'a TokenRequest<'_>, name: &str) -> Result<&'a str, Refusal> {
    request.required_in_form(name).ok_or_else(|| {
        let message = format!("The request body must contain the following parameter: '{name}'.");
        invalid_request(900_144, message)
    })
}

/// The resource of a scope, which is one, and ends in `/.default` because an application cannot ask for less.
fn scoped_resource(scope: &str) -> Result<&str, Refusal> {
    scope
        .strip_suffix("/.default")
        .filter(|resource| !resource.is_empty() && !resource.contains(' '))
        .ok_or_else(|| Refusal {
            status: StatusCode::BAD_REQUEST,
            error: "invalid_scope",
            code: 70_011,
            message: format!(
                "The provided request must include a 'scope' input parameter. The provided value for the input \
                 parameter 'scope' is not valid. The scope {scope} is not valid."
            ),
        })
}

fn unknown_client(client_id: &str, platform: &Platform<'_>) -> Refusal {
    let tenant = &platform.identities.tenant_id;
    Refusal {
        status: StatusCode::BAD_REQUEST,
        error: "unauthorized_client",
        code: 700_016,
        message: format!(
            "Application with identifier '{client_id}' was not found in the directory '{tenant}'. This can happen if the \
             application has not been installed by the administrator of the tenant or consented to by any user in the \
             tenant. You may have sent your authentication request to the wrong tenant."
        ),
    }
}

fn check_assertion(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Result<(), Refusal> {
    let Some(assertion) = request.required_in_form("client_assertion") else {
        return Err(match request.form.get("client_secret") {
            // A managed identity has none.
            Some(_) => invalid_client(
                7_000_215,
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret \
                 value, not the client secret ID.",
            ),
            None => invalid_client(
                7_000_218,
                "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
            ),
        });
    };
    if required(request, "client_assertion_type")? != ASSERTION_TYPE {
        let message =
            format!("The value of 'client_assertion_type' is not valid. The expected value is {ASSERTION_TYPE}.");
        return Err(invalid_request(50_012, message));
    }
    let flaw = match platform
        .federation
        .check(assertion, platform.issuer.key, platform.issuer.now)
    {
        Ok(()) => return Ok(()),
        Err(flaw) => flaw,
    };
    Err(match flaw {
        Flaw::Malformed => invalid_client(50_027, "JWT token is invalid or malformed."),
        Flaw::Signature => invalid_client(700_027, "Client assertion failed signature validation."),
        Flaw::Issuer(issuer) => invalid_request(
            70_021,
            format!(
                "No matching federated identity record found for presented assertion. Assertion Issuer: '{issuer}'. \
                 Please check your federated identity credential Subject, Audience and Issuer against the presented \
                 assertion."
            ),
        ),
        Flaw::Subject(subject) => invalid_client(
            700_213,
            &format!(
                "No matching federated identity record found for presented assertion subject '{subject}'. Check your \
                 federated identity credential Subject, Audience and Issuer against the presented assertion."
            ),
        ),
        Flaw::Audience => invalid_client(
            700_212,
            "No matching federated identity record found for presented assertion audience. Check your federated \
             identity credential Subject, Audience and Issuer against the presented assertion.",
        ),
        Flaw::Time {
            now,
            not_before,
            expires_on,
        } => invalid_client(
            700_024,
            &format!(
                "Client assertion is not within its valid time range. Current time: {}, assertion valid from {}, expiry \
                 time of assertion {}.",
                clock::universal(now),
                clock::universal(not_before),
                clock::universal(expires_on)
            ),
        ),
    })
}

fn invalid_client(code: u32, message: &str) -> Refusal {
    Refusal {
        status: StatusCode::UNAUTHORIZED,
        error: "invalid_client",
        code,
        message: message.to_owned(),
    }
}

fn invalid_request(code: u32, message: String) -> Refusal {
    Refusal {
        status: StatusCode::BAD_REQUEST,
        error: "invalid_request",
        code,
        message,
    }
}
