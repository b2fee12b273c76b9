//! `wasi:http` for plugins: what a plugin is granted, with the tokens that it must not see.

use crate::grants::Granted;
use http::uri::Scheme;
use http::{Request, Response};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// What the `wasi:http` of a plugin's store does.
#[derive(Clone, Debug)]
pub struct AuthorizedHttp {
    granted: Granted,
}

impl AuthorizedHttp {
    /// Sends for this caller what it is granted.
    #[must_use]
    pub fn new(granted: Granted) -> Self {
        Self { granted }
    }

    /// Who asks.
    #[must_use]
    pub fn granted(&self) -> &Granted {
        &self.granted
    }
}

impl WasiHttpHooks for AuthorizedHttp {
    fn default_scheme(&mut self) -> Option<Scheme> {
        None
    }

    fn send_request(
        &mut self,
        _: Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<
        dyn Future<Output = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>>
            + Send,
    > {
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }
}
