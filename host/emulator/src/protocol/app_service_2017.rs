//! App Service and Functions: version 2017-09-01 of their endpoint, which Azure Machine Learning has as well.
//!
//! The protocol ("How to use managed identities for App Service and Azure Functions", the previous version of the REST
//! endpoint reference):
//!
//! 1. The platform gives the application `MSI_ENDPOINT`, a URL, and `MSI_SECRET`. App Service and Functions always set
//!    `WEBSITE_SITE_NAME` too, by which the two platforms can be told apart.
//! 2. The client sends `GET $MSI_ENDPOINT?api-version=2017-09-01&resource=R` with the secret in the header `secret`.
//! 3. The query may choose a user-assigned identity by `clientid`, spelled so, and by nothing else: all other
//!    parameters are ignored. A client that sends `client_id` thus gets a token for another identity than it asked for.
//! 4. The reply has `expires_on` as a date, `06/20/2019 02:57:58 +00:00`, and no `expires_in`. Errors look like those
//!    of 2019-08-01.

use http::StatusCode;
use serde_json::Map;

use super::app_service::{Refusal, bad_request, refusal};
use super::{Addresses, Endpoint, Place, Platform, Source, TokenRequest, Variables};
use crate::expiry::{self, DocumentedExpiry};
use crate::identities::{Identity, Selector};
use crate::reply::Reply;
use crate::settings::{ExpiresIn, ExpiresOn};

pub(super) const APP_SERVICE: Endpoint = Endpoint {
    source: Source::AppService2017,
    place: Place::At(APP_SERVICE_PATH),
    tls_only: false,
    rate_limited: false,
    environment: |addresses| {
        let mut variables = environment(APP_SERVICE_PATH, addresses);
        variables.push(("WEBSITE_SITE_NAME", "emulator".to_owned()));
        Some(variables)
    },
    answer,
};

pub(super) const AZURE_ML: Endpoint = Endpoint {
    source: Source::AzureMl,
    place: Place::At(AZURE_ML_PATH),
    tls_only: false,
    rate_limited: false,
    environment: |addresses| Some(environment(AZURE_ML_PATH, addresses)),
    answer,
};

const APP_SERVICE_PATH: &str = "/app-service-2017/msi/token";
const AZURE_ML_PATH: &str = "/azure-ml/msi/token";
const API_VERSION: &str = "2017-09-01";

const EXPIRY: DocumentedExpiry = DocumentedExpiry {
    expires_on: ExpiresOn::MonthDayYear,
    expires_in: ExpiresIn::Absent,
    ext_expires_in: false,
};

fn environment(path: &str, addresses: &Addresses<'_>) -> Variables {
    vec![
        ("MSI_ENDPOINT", format!("{}{path}", addresses.base_url)),
        ("MSI_SECRET", addresses.header_secret.reveal().to_owned()),
    ]
}

fn answer(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Reply {
    token(request, platform).unwrap_or_else(|refusal| refusal.reply(platform))
}

fn token(request: &TokenRequest<'_>, platform: &Platform<'_>) -> Result<Reply, Refusal> {
    if request.method != http::Method::GET {
        return Err(refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "The requested resource supports only GET.",
        ));
    }
    let secret = request.headers.get("secret");
    if !secret.is_some_and(|sent| platform.header_secret.is(sent.as_bytes())) {
        return Err(refusal(
            StatusCode::UNAUTHORIZED,
            "The secret header is missing or not valid.",
        ));
    }
    if let Some(name) = request.query.duplicate() {
        return Err(bad_request(format!(
            "Query parameter '{name}' is specified more than once."
        )));
    }
    match request.required("api-version") {
        Some(API_VERSION) => {}
        Some(other) => return Err(bad_request(format!("The API version '{other}' is not supported."))),
        None => return Err(bad_request("An API version is required, but was not specified.")),
    }
    let resource = request
        .required("resource")
        .ok_or_else(|| bad_request("Required query parameter 'resource' is missing."))?;
    let identity = chosen_identity(request, platform)?;
    if platform.settings.is_unknown_resource(resource) {
        let message = "An unexpected error occured while fetching the AAD Token.";
        return Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, message));
    }

    let issued = platform
        .issue(identity, resource)
        .map_err(|error| refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let mut body = Map::new();
    expiry::write(&mut body, &issued, &EXPIRY, platform.settings);
    body.insert("access_token".to_owned(), issued.access_token.into());
    body.insert("resource".to_owned(), issued.resource.into());
    body.insert("token_type".to_owned(), "Bearer".into());
    Ok(Reply::json(StatusCode::OK, &body))
}

fn chosen_identity<'a>(request: &TokenRequest<'_>, platform: &Platform<'a>) -> Result<&'a Identity, Refusal> {
    let identities = platform.identities;
    match request.query.get("clientid") {
        Some(client_id) => identities.find_user_assigned(Selector::Client(client_id)),
        None => identities.system_assigned.as_ref(),
    }
    .ok_or_else(|| bad_request("No MSI found for specified ClientId/ResourceId."))
}
