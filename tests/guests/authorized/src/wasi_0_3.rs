//! The plugin over WASI 0.3.

use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request as Outgoing, Response, Scheme};
use wasip3::{wit_future, wit_stream};
use wit_bindgen::StreamResult;

#[expect(
    unsafe_code,
    clippy::too_many_arguments,
    reason = "generated code, which speaks the canonical ABI"
)]
mod bindings {
    use super::Component;

    wit_bindgen::generate!({ path: "wit", world: "plugin-async" });

    export!(Component);
}

use bindings::{Guest, Reply, Request};

struct Component;

impl Guest for Component {
    async fn send(request: Request) -> Result<Reply, String> {
        send(request).await
    }

    fn ask() -> Result<(), String> {
        bindings::token().map(crate::keep)
    }

    fn show() {
        crate::look_at_everything();
    }
}

async fn send(request: Request) -> Result<Reply, String> {
    let fields = Fields::new();
    for (name, value) in &request.fields {
        fields
            .append(name, value.as_bytes())
            .map_err(|error| format!("{name}: {error:?}"))?;
    }
    let body = (!request.body.is_empty()).then(|| {
        let (mut writer, reader) = wit_stream::new();
        drop(wit_bindgen::spawn_local(async move {
            // What becomes of it, the reply says.
            drop(writer.write_all(request.body).await);
        }));
        reader
    });
    let (writer, trailers) = wit_future::new(|| Ok(None));
    drop(writer);
    let (outgoing, _sent) = Outgoing::new(fields, body, trailers, None);
    let refused = |()| "refused".to_owned();
    outgoing.set_method(&method(&request.method)).map_err(refused)?;
    outgoing.set_scheme(Some(&scheme(&request.scheme))).map_err(refused)?;
    outgoing.set_authority(Some(&request.authority)).map_err(refused)?;
    outgoing.set_path_with_query(Some(&request.path)).map_err(refused)?;
    read(client::send(outgoing).await.map_err(named)?).await
}

async fn read(response: Response) -> Result<Reply, String> {
    let status = response.get_status_code();
    let fields = response.get_headers().copy_all();
    let (writer, result) = wit_future::new(|| Ok(()));
    drop(writer);
    let (mut stream, trailers) = Response::consume_body(response, result);
    let mut body = Vec::new();
    loop {
        let (outcome, chunk) = stream.read(Vec::with_capacity(64 * 1024)).await;
        body.extend(chunk);
        if matches!(outcome, StreamResult::Dropped | StreamResult::Cancelled) {
            break;
        }
    }
    drop(stream);
    // The end of the stream does not say whether the body was whole; this does.
    trailers.await.map_err(named)?;
    Ok(Reply { status, fields, body })
}

crate::conversions!();
