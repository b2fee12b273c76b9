//! HTTP to the collector, under the same rules as all HTTP of this crate.

use super::{ExportConfig, ExportError};
use crate::outbound::{Authority, Endpoint, EndpointPolicy, Outbound, OutboundConfig, Trust};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use opentelemetry_http::{HttpClient, HttpError};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use wasmtime_wasi_http::RequestOptions;

/// The target of this module's events. They are not sent to the collector themselves, because they are in no span.
const LOG_TARGET: &str = "managed_identity::telemetry";

/// How many bytes one delivery may have. The SDK sends 512 spans at once, of less than a kilobyte each.
const REQUEST_LIMIT: usize = 16 * 1024 * 1024;

/// A client that reaches the collector and nothing else. Cheap to clone.
///
/// Its connections are on a thread of its own: the SDK asks from threads without a runtime, and the program may block its
/// only one while it waits for the last delivery.
#[derive(Clone, Debug)]
pub(super) struct Client {
    outbound: Outbound,
    runtime: Handle,
    /// What came of the latest delivery that failed. The SDK does not say.
    failure: Arc<Mutex<Option<String>>>,
}

/// Keeps the thread of a [`Client`] running until it is dropped.
#[derive(Debug)]
pub(super) struct Running {
    _stop: oneshot::Sender<()>,
}

impl Client {
    pub(super) fn start(config: &ExportConfig) -> Result<(Self, Running), ExportError> {
        let limits = OutboundConfig {
            exchange_timeout: config.timeout,
            request_body_limit: REQUEST_LIMIT,
            ..OutboundConfig::default()
        };
        let outbound = Outbound::new(policy(config)?, limits);
        let (stop, stopped) = oneshot::channel();
        let (report, started) = mpsc::channel();
        thread::Builder::new()
            .name("managed-identity-telemetry".to_owned())
            .spawn(move || {
                // Made here, because a runtime must not be dropped on a thread of another one.
                match Builder::new_current_thread().enable_io().enable_time().build() {
                    Ok(runtime) => {
                        drop(report.send(Ok(runtime.handle().clone())));
                        // An error is how the end is told: the other side was dropped.
                        drop(runtime.block_on(stopped));
                        // Name look-ups run on threads of their own, which nobody waits for any more.
                        runtime.shutdown_background();
                    }
                    Err(error) => drop(report.send(Err(error))),
                }
            })
            .map_err(ExportError::Thread)?;
        let runtime = started
            .recv()
            .unwrap_or_else(|_| Err(std::io::Error::other("it has ended at once")))
            .map_err(ExportError::Thread)?;
        let client = Self {
            outbound,
            runtime,
            failure: Arc::default(),
        };
        Ok((client, Running { _stop: stop }))
    }

    /// Why a delivery failed, if one has since this was asked last. A sentence.
    pub(super) fn take_failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn failed(&self, failure: String) {
        tracing::warn!(target: LOG_TARGET, failure, "metrics or spans have not reached the collector");
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }
}

/// `POST` to the URLs of the collector. They are the user's choice, so that they may be anywhere.
fn policy(config: &ExportConfig) -> Result<EndpointPolicy, ExportError> {
    let mut policy = EndpointPolicy::default();
    for url in config.traces.iter().chain(&config.metrics) {
        let mut endpoint = Endpoint::granted(url)?.with_methods([Method::POST]);
        if let Some(path) = &config.certificate
            && endpoint.trust().is_some()
        {
            endpoint = endpoint.with_trust(Trust::Authority(Authority::from_file(path)))?;
        }
        policy.allow(endpoint);
    }
    Ok(policy)
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let outbound = self.outbound.clone();
        let exchange = async move {
            let sent = outbound.send(request.map(Full::new), RequestOptions::default()).await?;
            let (head, body) = sent.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        let exchanged: Result<_, HttpError> = self.runtime.spawn(exchange).await?;
        match &exchanged {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => self.failed(format!("It answers with the status {}.", response.status().as_u16())),
            Err(error) => self.failed(error.to_string()),
        }
        exchanged
    }
}
