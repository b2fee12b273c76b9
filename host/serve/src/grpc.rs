//! The gRPC services of Envoy: external authorization, and the discovery of secrets.

mod authorization;
mod secrets;

use crate::config::Protocol;
use crate::connection::User;
use crate::protocol::{Refusal, Service};
use authorization::Authorizer;
use bytes::Bytes;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use secrets::SecretService;
use std::sync::Arc;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;

/// The largest message that is read: Envoy says of itself what extensions it has, and of a request all header fields.
const LARGEST_MESSAGE: usize = 1024 * 1024;

/// The reply to a request over HTTP/2, whatever it is.
pub(crate) async fn answer(request: Request<Incoming>, user: User, service: Arc<Service>) -> Response<Body> {
    let is_grpc = request.headers().get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value == b"application/grpc" || value.starts_with(b"application/grpc+")
    });
    if !is_grpc {
        let mut reply = Response::new(Body::empty());
        *reply.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return reply;
    }
    let called = request.uri().path().trim_start_matches('/').split('/').next();
    match called {
        Some("envoy.service.auth.v3.Authorization") if service.speaks(Protocol::EnvoyExtAuthz) => {
            authorization(request, user, service).await
        }
        Some("envoy.service.secret.v3.SecretDiscoveryService") if service.speaks(Protocol::EnvoySds) => {
            secrets(request, user, &service).await
        }
        _ => Status::unimplemented("This listener has no such service.").into_http(),
    }
}

async fn authorization(request: Request<Incoming>, user: User, service: Arc<Service>) -> Response<Body> {
    let request = match whole(request, &service).await {
        Ok(request) => request,
        Err(status) => return status.into_http(),
    };
    let mut server = AuthorizationServer::new(Authorizer { service, user }).max_decoding_message_size(LARGEST_MESSAGE);
    match server.call(request).await {
        Ok(reply) => reply,
        Err(never) => match never {},
    }
}

/// The request with all of its body, so that whoever sends it slowly has to end some time.
async fn whole(request: Request<Incoming>, service: &Service) -> Result<Request<Full<Bytes>>, Status> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, LARGEST_MESSAGE).collect();
    match timeout(service.shared.limits.request_timeout, body).await {
        Ok(Ok(body)) => Ok(Request::from_parts(parts, body.to_bytes().into())),
        Ok(Err(_)) => Err(Status::resource_exhausted("The request is too large, or broken.")),
        Err(_) => Err(Status::deadline_exceeded("The request takes too long to arrive.")),
    }
}

async fn secrets(request: Request<Incoming>, user: User, service: &Service) -> Response<Body> {
    let Some(asker) = service.asker(user) else {
        Refusal::stranger().log(Protocol::EnvoySds, None);
        service
            .shared
            .requests
            .observed(Some(Protocol::EnvoySds), StatusCode::FORBIDDEN);
        return Status::permission_denied("No caller is known by this connection.").into_http();
    };
    service
        .shared
        .requests
        .observed(Some(Protocol::EnvoySds), StatusCode::OK);
    let told = SecretService::new(
        asker,
        service.shared.secrets.subscribe(),
        service.shared.limits.request_timeout,
    );
    let mut server = SecretDiscoveryServiceServer::new(told).max_decoding_message_size(LARGEST_MESSAGE);
    let is_stream = !request.uri().path().ends_with("/FetchSecrets");
    let replied = if is_stream {
        server.call(request).await
    } else {
        match whole(request, service).await {
            Ok(request) => server.call(request).await,
            Err(status) => return status.into_http(),
        }
    };
    match replied {
        Ok(reply) => reply,
        Err(never) => match never {},
    }
}
