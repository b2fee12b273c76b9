//! The token endpoint of App Service, version 2019-08-01.

use super::{Reply, Service, status};
use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::Full;
use managed_identity_host::TokenRequest;
use serde_json::json;
use url::form_urlencoded;

pub(super) fn is_path(path: &str) -> bool {
    path == "/msi/token"
}

pub(super) async fn answer(request: &Parts, service: &Service) -> Reply {
    let Some(secret) = request.headers.get("x-identity-header") else {
        return status(StatusCode::UNAUTHORIZED);
    };
    let Some(asker) = service.asker_by_secret(secret.as_bytes()) else {
        return status(StatusCode::UNAUTHORIZED);
    };
    let query = request.uri.query().unwrap_or_default();
    let Some((_, resource)) = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "resource") else {
        return status(StatusCode::BAD_REQUEST);
    };
    let question = TokenRequest::new(resource)
        .with_identity(asker.default_identity.clone())
        .with_timeout(service.shared.limits.token_timeout);
    match asker.granted.token(&question).await {
        Ok(token) => {
            let body = json!({
                "access_token": token.token.expose(),
                "expires_on": token.expires_on.to_string(),
                "resource": token.audience,
                "token_type": token.token_type,
                "client_id": token.client_id,
            });
            Response::new(Full::new(Bytes::from(body.to_string())))
        }
        Err(_) => status(StatusCode::FORBIDDEN),
    }
}
