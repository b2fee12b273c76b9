//! The plugin over WASI 0.2.

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme,
};
use wasip2::io::streams::StreamError;

#[expect(
    unsafe_code,
    clippy::too_many_arguments,
    reason = "generated code, which speaks the canonical ABI"
)]
mod bindings {
    use super::Component;

    wit_bindgen::generate!({ path: "wit", world: "plugin" });

    export!(Component);
}

use bindings::{Guest, Reply, Request};

struct Component;

impl Guest for Component {
    fn send(request: Request) -> Result<Reply, String> {
        send(&request)
    }

    fn ask() -> Result<(), String> {
        bindings::token().map(crate::keep)
    }

    fn show() {
        crate::look_at_everything();
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

crate::conversions!();
