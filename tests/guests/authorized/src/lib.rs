//! A plugin that sends what it is told to, and shows all of its memory.
//!
//! It keeps no secret and needs none: what is in its memory after a run is what a hostile plugin could have looked at.
#![cfg(target_arch = "wasm32")]

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme,
};
use wasip2::io::streams::StreamError;

#[expect(unsafe_code, reason = "generated code, which speaks the canonical ABI")]
mod bindings {
    use super::Component;

    wit_bindgen::generate!({
        inline: "
            package managed-identity:authorized;

            world plugin {
                /// Takes all of the plugin's memory, for somebody to search.
                import look: func(memory: list<u8>);

                /// A token, from a host that hands one over.
                import token: func() -> result<string, string>;

                record request {
                    method: string,
                    scheme: string,
                    authority: string,
                    path: string,
                    fields: list<tuple<string, string>>,
                    body: list<u8>,
                }

                record reply {
                    status: u16,
                    fields: list<tuple<string, list<u8>>>,
                    body: list<u8>,
                }

                /// Sends a request; an error is in the words of `wasi:http`.
                export send: func(request: request) -> result<reply, string>;

                /// Asks for a token, and keeps it.
                export ask: func() -> result<_, string>;

                /// Hands all memory over, from the first byte to the last.
                export show: func();
            }
        ",
        world: "plugin",
    });

    export!(Component);

    /// As `look` is made in generated code, but with any place in memory: also the first one, which no slice of Rust may
    /// begin at.
    pub(crate) fn look_at_everything() {
        #[link(wasm_import_module = "$root")]
        unsafe extern "C" {
            #[link_name = "look"]
            fn look(from: usize, length: usize);
        }
        const PAGE: usize = 64 * 1024;
        // SAFETY: the host reads what is there, and all of it is.
        unsafe { look(0, core::arch::wasm32::memory_size::<0>() * PAGE) }
    }
}

use bindings::{Guest, Reply, Request};

struct Component;

impl Guest for Component {
    fn send(request: Request) -> Result<Reply, String> {
        send(&request)
    }

    fn ask() -> Result<(), String> {
        // Kept for ever: as long as the instance.
        bindings::token().map(|token| drop(Box::leak(token.into_boxed_str())))
    }

    fn show() {
        bindings::look_at_everything();
    }
}

fn send(request: &Request) -> Result<Reply, String> {
    let fields = Fields::new();
    for (name, value) in &request.fields {
        fields
            .append(name, value.as_bytes())
            .map_err(|error| format!("{name}: {error:?}"))?;
    }
    let outgoing = OutgoingRequest::new(fields);
    let refused = |()| "refused".to_owned();
    outgoing.set_method(&method(&request.method)).map_err(refused)?;
    outgoing.set_scheme(Some(&scheme(&request.scheme))).map_err(refused)?;
    outgoing.set_authority(Some(&request.authority)).map_err(refused)?;
    outgoing.set_path_with_query(Some(&request.path)).map_err(refused)?;
    let body = outgoing.body().map_err(refused)?;
    let pending = handle(outgoing, None).map_err(named)?;
    if !request.body.is_empty() {
        let stream = body.write().map_err(refused)?;
        for chunk in request.body.chunks(4096) {
            // What becomes of it, the reply says.
            if stream.blocking_write_and_flush(chunk).is_err() {
                break;
            }
        }
    }
    let finished = OutgoingBody::finish(body, None);
    pending.subscribe().block();
    let response = match pending.get() {
        Some(Ok(response)) => response.map_err(named)?,
        _ => return Err("no reply".to_owned()),
    };
    finished.map_err(named)?;
    read(&response)
}

fn read(response: &IncomingResponse) -> Result<Reply, String> {
    let body = response.consume().map_err(|()| "no body".to_owned())?;
    let stream = body.stream().map_err(|()| "no stream".to_owned())?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(more) => bytes.extend(more),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => {
                let code = wasip2::http::types::http_error_code(&error);
                return Err(code.map_or_else(|| error.to_debug_string(), named));
            }
        }
    }
    drop(stream);
    drop(IncomingBody::finish(body));
    Ok(Reply {
        status: response.status(),
        fields: response.headers().entries(),
        body: bytes,
    })
}

fn named(code: ErrorCode) -> String {
    format!("{code:?}")
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "CONNECT" => Method::Connect,
        "OPTIONS" => Method::Options,
        "TRACE" => Method::Trace,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

fn scheme(name: &str) -> Scheme {
    match name {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    }
}
