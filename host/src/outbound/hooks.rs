//! Joins the client to `wasi:http`.

use super::client::{Outbound, is_host_field};
use crate::telemetry::Telemetry;
use http::uri::Scheme;
use http::{Request, Response};
use http_body_util::BodyExt;
use std::sync::Arc;
use wasmtime_wasi_http::{Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks};

/// How many bytes are copied out of the component for each write to a request's body.
const WRITE_LIMIT: usize = 16 * 1024;

/// What a store's `wasi:http` does: sends through an [`Outbound`], so to the identity endpoint or nowhere.
#[derive(Clone, Debug)]
pub struct OutboundHooks {
    outbound: Outbound,
    telemetry: Option<Telemetry>,
}

impl OutboundHooks {
    /// Hooks for one store. Stores that share a client share its connections.
    #[must_use]
    pub fn new(outbound: Outbound) -> Self {
        Self {
            outbound,
            telemetry: None,
        }
    }

    /// The same hooks, which measure requests.
    pub(crate) fn with_telemetry(mut self, telemetry: Telemetry) -> Self {
        self.telemetry = Some(telemetry);
        self
    }

    /// The client.
    #[must_use]
    pub fn outbound(&self) -> &Outbound {
        &self.outbound
    }
}

impl WasiHttpHooks for OutboundHooks {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(is_host_field)
    }

    /// All of them, so that the policy refuses the wrong ones and says so. Otherwise the component would see a protocol
    /// error, and nobody an event.
    fn is_supported_scheme(&mut self, _: &Scheme) -> bool {
        true
    }

    /// No: it is made from the target that was checked.
    fn set_host_header(&mut self) -> bool {
        false
    }

    /// None: a component that leaves the scheme out has not said what it wants.
    fn default_scheme(&mut self) -> Option<Scheme> {
        None
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        // How the component fared with the body of the reply. Nothing here depends on it: a body that is given up is
        // dropped, which closes its connection.
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<
        dyn Future<Output = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>>
            + Send,
    > {
        let (outbound, telemetry) = (self.outbound.clone(), self.telemetry.clone());
        Box::new(async move {
            let options = options.unwrap_or_default();
            let response = match telemetry {
                Some(telemetry) => telemetry.send(&outbound, request, options).await?,
                None => outbound.send(request, options).await?,
            };
            let response = response.map(|body| body.map_err(Error::from).boxed_unsync());
            // The request was sent whole before the reply began, and the pool drives the connection: nothing is left to do.
            let rest: Box<dyn Future<Output = Result<(), Error>> + Send> = Box::new(std::future::ready(Ok(())));
            Ok((response, rest))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        WRITE_LIMIT
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        WRITE_LIMIT
    }
}
