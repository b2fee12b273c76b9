//! The component for WASI 0.2: one call at a time, and every language can make it.

mod executor;

use crate::engine::{Engine, Step};
use crate::error::{Cause, Error};
use crate::platform::{CredentialFile, FileFault, HttpReply, HttpRequest, Method, Platform, TransportFault};
use crate::preopened::{closest, expect_file};
use executor::{block_on, ready, spawn};
use futures_util::future::LocalBoxFuture;
use std::time::Duration;
use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::filesystem;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{DescriptorFlags, DescriptorType, OpenFlags, PathFlags};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureTrailers, IncomingBody, IncomingResponse, OutgoingBody, OutgoingRequest, Scheme,
};
use wasip2::io::streams::StreamError;
use wasip2::{cli, random};
use zeroize::Zeroizing;

#[expect(unsafe_code, reason = "generated code, which speaks the canonical ABI")]
mod bindings {
    use super::Component;

    wit_bindgen::generate!({
        path: "../wit/0.2",
        world: "provider",
        with: {
            "wasi:cli/environment@0.2.12": wasip2::cli::environment,
            "wasi:clocks/monotonic-clock@0.2.12": wasip2::clocks::monotonic_clock,
            "wasi:clocks/wall-clock@0.2.12": wasip2::clocks::wall_clock,
            "wasi:filesystem/preopens@0.2.12": wasip2::filesystem::preopens,
            "wasi:filesystem/types@0.2.12": wasip2::filesystem::types,
            "wasi:http/outgoing-handler@0.2.12": wasip2::http::outgoing_handler,
            "wasi:http/types@0.2.12": wasip2::http::types,
            "wasi:io/error@0.2.12": wasip2::io::error,
            "wasi:io/poll@0.2.12": wasip2::io::poll,
            "wasi:io/streams@0.2.12": wasip2::io::streams,
            "wasi:random/random@0.2.12": wasip2::random::random,
        },
    });

    export!(Component);
}

use bindings::exports;

crate::boundary::conversions!(bindings::exports::cloud::identity);
crate::boundary::faults!(ErrorCode);
crate::boundary::file_faults!(filesystem::types::ErrorCode);

struct Component;

thread_local! {
    static ENGINE: Engine<Wasi> = Engine::new(Wasi);
}

impl exports::cloud::identity::managed_identity::Guest for Component {
    fn get_token(token_request: wit::TokenRequest) -> Result<wit::AccessToken, wit::Error> {
        let token_request = request(token_request).map_err(error)?;
        ENGINE
            .with(|engine| match engine.begin(token_request)? {
                Step::Issued(issued) => Ok(issued),
                Step::Waits(waiting) => block_on(engine.finish(waiting)).unwrap_or_else(|| {
                    Err(Error::new(
                        Cause::Internal,
                        "The provider waits for nothing. Please report this.",
                    ))
                }),
            })
            .map(access_token)
            .map_err(error)
    }

    fn forget(audience: Option<String>) {
        ENGINE.with(|engine| engine.forget(audience.as_deref()));
    }

    fn describe_source() -> Result<wit::SourceDescription, wit::Error> {
        Ok(description(ENGINE.with(Engine::describe_source)))
    }
}

struct Wasi;

impl Platform for Wasi {
    const BACKGROUND: bool = false;

    async fn send(&self, request: HttpRequest, limit: usize) -> Result<HttpReply, TransportFault> {
        let pending = outgoing(request)?;
        loop {
            if let Some(response) = pending.get() {
                let response = response.map_err(|()| TransportFault::Other)?.map_err(fault)?;
                return incoming(&response, limit).await;
            }
            ready(pending.subscribe()).await;
        }
    }

    async fn read_file(&self, file: &CredentialFile) -> Result<Zeroizing<Vec<u8>>, FileFault> {
        let (directory, path) = closest(get_directories(), file).ok_or(FileFault::NotGranted)?;
        let links = match file.may_be_link {
            true => PathFlags::SYMLINK_FOLLOW,
            false => PathFlags::empty(),
        };
        // Looked at before it is opened: opening a pipe waits for whoever writes to it.
        let found = directory.stat_at(links, &path).map_err(file_fault)?;
        expect_file(
            found.type_ == DescriptorType::RegularFile,
            found.type_ == DescriptorType::SymbolicLink,
        )?;
        let file_read = directory
            .open_at(links, &path, OpenFlags::empty(), DescriptorFlags::READ)
            .map_err(file_fault)?;
        let mut contents = Zeroizing::new(Vec::with_capacity(file.limit + 1));
        loop {
            let missing = file.limit + 1 - contents.len();
            let (chunk, ended) = file_read
                .read(missing as u64, contents.len() as u64)
                .map_err(file_fault)?;
            let chunk = Zeroizing::new(chunk);
            contents.extend_from_slice(&chunk);
            if contents.len() > file.limit {
                return Err(FileFault::TooLarge);
            }
            if ended || chunk.is_empty() {
                return Ok(contents);
            }
        }
    }

    fn directories(&self) -> Vec<String> {
        get_directories().into_iter().map(|(_, name)| name).collect()
    }

    async fn sleep(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        ready(monotonic_clock::subscribe_duration(nanoseconds)).await;
    }

    fn unix_time(&self) -> u64 {
        wall_clock::now().seconds
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(monotonic_clock::now())
    }

    fn random(&self) -> u64 {
        random::random::get_random_u64()
    }

    fn environment(&self) -> Vec<(String, String)> {
        cli::environment::get_environment()
    }

    fn spawn(&self, work: LocalBoxFuture<'static, ()>) {
        spawn(work);
    }
}

fn outgoing(request: HttpRequest) -> Result<wasip2::http::types::FutureIncomingResponse, TransportFault> {
    let fields = Fields::new();
    for (name, value) in &request.headers {
        fields
            .append(name, value.expose().as_bytes())
            .map_err(|_| TransportFault::Other)?;
    }
    let outgoing = OutgoingRequest::new(fields);
    let method = match request.method {
        Method::Get => wasip2::http::types::Method::Get,
        Method::Post => wasip2::http::types::Method::Post,
    };
    let scheme = if request.https { Scheme::Https } else { Scheme::Http };
    outgoing
        .set_method(&method)
        .and_then(|()| outgoing.set_scheme(Some(&scheme)))
        .and_then(|()| outgoing.set_authority(Some(&request.authority)))
        .and_then(|()| outgoing.set_path_with_query(Some(&request.path_with_query)))
        .map_err(|()| TransportFault::Other)?;
    let body = outgoing.body().map_err(|()| TransportFault::Other)?;
    let pending = outgoing_handler::handle(outgoing, None).map_err(fault)?;
    if let Some(form) = &request.body {
        let stream = body.write().map_err(|()| TransportFault::Other)?;
        // This call takes so many bytes at most. It may wait, while nothing else runs: the host takes a form at once.
        for part in form.expose().as_bytes().chunks(4096) {
            stream
                .blocking_write_and_flush(part)
                .map_err(|_| TransportFault::BrokenOff)?;
        }
    }
    OutgoingBody::finish(body, None).map_err(fault)?;
    Ok(pending)
}

async fn incoming(response: &IncomingResponse, limit: usize) -> Result<HttpReply, TransportFault> {
    let status = response.status();
    let headers = response
        .headers()
        .entries()
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_ascii_lowercase(), String::from_utf8(value).ok()?)))
        .collect();
    let incoming = response.consume().map_err(|()| TransportFault::Other)?;
    let stream = incoming.stream().map_err(|()| TransportFault::Other)?;
    let mut body = Zeroizing::new(Vec::new());
    loop {
        match stream.read(limit as u64 + 1) {
            Ok(chunk) if chunk.is_empty() => ready(stream.subscribe()).await,
            Ok(chunk) => {
                let chunk = Zeroizing::new(chunk);
                if body.len() + chunk.len() > limit {
                    return Err(TransportFault::TooLarge);
                }
                body.extend_from_slice(&chunk);
            }
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(wasip2::http::types::http_error_code(&error).map_or(TransportFault::BrokenOff, fault));
            }
        }
    }
    drop(stream);
    whole(IncomingBody::finish(incoming)).await?;
    Ok(HttpReply { status, headers, body })
}

/// The end of the stream does not say whether the body was whole; the trailers, or an error in their place, do.
async fn whole(trailers: FutureTrailers) -> Result<(), TransportFault> {
    loop {
        if let Some(trailers) = trailers.get() {
            return trailers.map_err(|()| TransportFault::Other)?.map_err(fault).map(drop);
        }
        ready(trailers.subscribe()).await;
    }
}
