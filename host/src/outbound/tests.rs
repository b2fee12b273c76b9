//! The whole way of a request, against servers that behave and servers that do not.

#![expect(clippy::unwrap_used, reason = "the endpoints are the tests' own")]

mod reply;
mod request;
mod scripted_server;
mod soundness;

use self::scripted_server::{Act, Server};
use super::connector::tests::Scripted;
use super::*;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wasmtime_wasi_http::{Error as WasiError, RequestOptions, WasiBody, WasiHttpHooks};

/// What a component asks for where a test waits for a limit.
const SHORT: Duration = Duration::from_millis(40);

/// Far longer than any test takes.
const LONG: Duration = Duration::from_secs(60);

/// A client for everything on the server's origin, by GET and POST.
fn client(server: &Server, config: OutboundConfig) -> Outbound {
    let endpoint = Endpoint::from_environment(&server.url("/")).unwrap();
    let endpoint = endpoint.with_paths_below().with_methods([Method::GET, Method::POST]);
    Outbound::new(EndpointPolicy::from_iter([endpoint]), config)
}

fn get(url: &str) -> Request<Empty<Bytes>> {
    Request::get(url).body(Empty::new()).unwrap()
}

fn post(url: &str, body: &str) -> Request<Full<Bytes>> {
    Request::post(url).body(Full::from(body.to_owned())).unwrap()
}

async fn whole(response: Response<LimitedBody>) -> Result<(StatusCode, Bytes), OutboundError> {
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

async fn fetch(client: &Outbound, url: &str, options: RequestOptions) -> Result<(StatusCode, Bytes), OutboundError> {
    whole(client.send(get(url), options).await?).await
}

/// Sends one request to a server that does `act`, and gives the code that a component would get.
async fn failure(act: Act, config: OutboundConfig, options: RequestOptions) -> (OutboundError, String) {
    let server = Server::start([act]).await;
    let fetched = fetch(&client(&server, config.clone()), &server.url("/"), options)
        .await
        .unwrap_err();
    let again = fetch(&client(&server, config), &server.url("/"), options)
        .await
        .unwrap_err();
    (fetched, format!("{:?}", WasiError::from(again)))
}
