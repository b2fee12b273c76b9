//! The gRPC variant of Envoy's external authorization. It decides as the HTTP variant does, with one difference: what a token
//! is for, when the host does not tell, is in `context_extensions` (`audience`, and `identity` for another one than the
//! default). These come from Envoy's configuration of a route and never from the sender of the request, whose header fields
//! are not looked at. A web page cannot ask here: no browser speaks HTTP/2 without TLS, and with it the certificate is not for
//! a name that somebody else has made resolve to here.

use crate::config::Protocol;
use crate::connection::User;
use crate::protocol::{Question, Reply, Service, ext_authz};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::auth::v3::authorization_server::Authorization;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::rpc;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use std::sync::Arc;
use tonic::{Code, Request, Response, Status};

/// What Envoy asks of whoever is at the other end of its connection.
pub(super) struct Authorizer {
    pub(super) service: Arc<Service>,
    pub(super) user: User,
}

#[tonic::async_trait]
impl Authorization for Authorizer {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let http = attributes.request.and_then(|request| request.http).unwrap_or_default();
        let said = |key| attributes.context_extensions.get(key).map(String::as_str);
        let question = Question {
            method: &http.method,
            host: Some(http.host.as_str()).filter(|host| !host.is_empty()),
            audience: said("audience"),
            identity: said("identity"),
        };
        let reply = ext_authz(&question, self.user, &self.service).await;
        let requests = &self.service.shared.requests;
        requests.observed(Some(Protocol::EnvoyExtAuthz), reply.status());
        Ok(Response::new(told(reply).await))
    }
}

/// The reply of the HTTP variant, in the words of this one.
async fn told(reply: Reply) -> CheckResponse {
    let (parts, body) = reply.into_parts();
    let code = match parts.status {
        StatusCode::OK => Code::Ok,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        StatusCode::BAD_REQUEST => Code::InvalidArgument,
        _ => Code::Unavailable,
    };
    let response = if parts.status == StatusCode::OK {
        let headers = parts.headers.get(http::header::AUTHORIZATION).map(|value| {
            let mut only = HeaderMap::new();
            only.insert(http::header::AUTHORIZATION, value.clone());
            options(&only)
        });
        HttpResponse::OkResponse(OkHttpResponse {
            headers: headers.unwrap_or_default(),
            ..Default::default()
        })
    } else {
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus {
                code: parts.status.as_u16().into(),
            }),
            headers: options(&parts.headers),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    CheckResponse {
        status: Some(rpc::Status {
            code: code.into(),
            ..Default::default()
        }),
        http_response: Some(response),
        ..Default::default()
    }
}

/// Each takes the place of what the request or the reply has by the same name.
fn options(headers: &HeaderMap) -> Vec<HeaderValueOption> {
    headers
        .iter()
        .filter_map(|(name, value)| {
            let header = HeaderValue {
                key: name.as_str().to_owned(),
                // All of ours are visible ASCII.
                value: value.to_str().ok()?.to_owned(),
                ..Default::default()
            };
            Some(HeaderValueOption {
                header: Some(header),
                append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
                ..Default::default()
            })
        })
        .collect()
}
