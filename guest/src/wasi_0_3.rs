//! The component for WASI 0.3: calls run side by side in one instance, and work goes on after a call has returned.

use crate::engine::{Engine, Step};
use crate::platform::{CredentialFile, FileFault, HttpReply, HttpRequest, Method, Platform, TransportFault};
use crate::preopened::{closest, expect_file};
use futures_util::future::LocalBoxFuture;
use std::time::Duration;
use wasip3::clocks::{monotonic_clock, system_clock};
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, RequestOptions, Response, Scheme};
use wasip3::{cli, random, wit_future, wit_stream};
use wit_bindgen::StreamResult;
use zeroize::Zeroizing;

#[expect(unsafe_code, reason = "generated code, which speaks the canonical ABI")]
mod bindings {
    use super::Component;

    wit_bindgen::generate!({
        path: "../wit/0.3",
        world: "provider",
        // A look at a small local file takes no time in which others would get anywhere, and waiting for it side by side
        // with them would cost several kilobytes of code.
        sync: [
            "import:wasi:filesystem/types@0.3.2#[method]descriptor.stat-at",
            "import:wasi:filesystem/types@0.3.2#[method]descriptor.open-at",
        ],
        with: {
            "wasi:cli/environment@0.3.2": wasip3::cli::environment,
            "wasi:clocks/monotonic-clock@0.3.2": wasip3::clocks::monotonic_clock,
            "wasi:clocks/system-clock@0.3.2": wasip3::clocks::system_clock,
            "wasi:clocks/types@0.3.2": wasip3::clocks::types,
            "wasi:filesystem/preopens@0.3.2": generate,
            "wasi:filesystem/types@0.3.2": generate,
            "wasi:http/client@0.3.2": wasip3::http::client,
            "wasi:http/types@0.3.2": wasip3::http::types,
            "wasi:random/random@0.3.2": wasip3::random::random,
        },
    });

    export!(Component);
}

use bindings::exports;
use bindings::wasi::filesystem;
use filesystem::preopens::get_directories;
use filesystem::types::{DescriptorFlags, DescriptorType, OpenFlags, PathFlags};

crate::boundary::conversions!(bindings::exports::cloud::identity);

struct Component;

thread_local! {
    static ENGINE: Engine<Wasi> = Engine::new(Wasi);
}

impl exports::cloud::identity::managed_identity::Guest for Component {
    async fn get_token(token_request: wit::TokenRequest) -> Result<wit::AccessToken, wit::Error> {
        let token_request = request(token_request).map_err(error)?;
        let issued = match ENGINE.with(|engine| engine.begin(token_request)) {
            Ok(Step::Issued(issued)) => Ok(issued),
            Ok(Step::Waits(waiting)) => {
                let engine = ENGINE.with(Engine::clone);
                // Apart, so that the others carry no room for it.
                Box::pin(async move { engine.finish(waiting).await }).await
            }
            Err(error) => Err(error),
        };
        issued.map(access_token).map_err(error)
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
    const BACKGROUND: bool = true;

    async fn send(&self, request: HttpRequest, limit: usize) -> Result<HttpReply, TransportFault> {
        // An error on the way out also fails `send`, so the future that reports it is not needed.
        let (request, _sent) = outgoing(request)?;
        let response = client::send(request).await.map_err(fault)?;
        incoming(response, limit).await
    }

    async fn read_file(&self, file: &CredentialFile) -> Result<Zeroizing<Vec<u8>>, FileFault> {
        let (directory, path) = closest(get_directories(), file).ok_or(FileFault::NotGranted)?;
        let links = match file.may_be_link {
            true => PathFlags::SYMLINK_FOLLOW,
            false => PathFlags::empty(),
        };
        // Looked at before it is opened: opening a pipe waits for whoever writes to it.
        let stat = directory.stat_at(links, &path).map_err(file_fault)?;
        let found = stat.type_;
        expect_file(
            matches!(found, DescriptorType::RegularFile),
            matches!(found, DescriptorType::SymbolicLink),
        )?;
        let file_read = directory
            .open_at(links, &path, OpenFlags::empty(), DescriptorFlags::READ)
            .map_err(file_fault)?;
        // The future would say why the reading failed, at the price of several kilobytes of code. That it failed shows.
        let (mut stream, _) = file_read.read_via_stream(0);
        let mut contents = Zeroizing::new(Vec::with_capacity(file.limit + 1));
        loop {
            let (outcome, chunk) = stream.read(Vec::with_capacity(file.limit + 1)).await;
            let chunk = Zeroizing::new(chunk);
            if contents.len() + chunk.len() > file.limit {
                return Err(FileFault::TooLarge);
            }
            contents.extend_from_slice(&chunk);
            if is_over(&outcome) {
                break;
            }
        }
        match contents.is_empty() && stat.size > 0 {
            true => Err(FileFault::Failed),
            false => Ok(contents),
        }
    }

    fn directories(&self) -> Vec<String> {
        get_directories().into_iter().map(|(_, name)| name).collect()
    }

    async fn sleep(&self, duration: Duration) {
        monotonic_clock::wait_for(nanoseconds(duration)).await;
    }

    fn unix_time(&self) -> u64 {
        u64::try_from(system_clock::now().seconds).unwrap_or(0)
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
        // Dropping the handle detaches the task.
        drop(wit_bindgen::spawn_local(work));
    }
}

type Sent = wit_bindgen::FutureReader<Result<(), ErrorCode>>;

fn outgoing(request: HttpRequest) -> Result<(Request, Sent), TransportFault> {
    let fields = Fields::new();
    for (name, value) in &request.headers {
        fields
            .append(name, value.expose().as_bytes())
            .map_err(|_| TransportFault::Other)?;
    }
    let body = request.body.map(|body| {
        let (mut writer, reader) = wit_stream::new();
        drop(wit_bindgen::spawn_local(async move {
            // What the host did not take is not sent, and the host then fails the request.
            drop(writer.write_all(body.expose().as_bytes().to_vec()).await);
        }));
        reader
    });
    let (trailers_writer, trailers) = wit_future::new(|| Ok(None));
    drop(trailers_writer);
    let options = RequestOptions::new();
    let (outgoing, sent) = Request::new(fields, body, trailers, Some(options));
    let method = match request.method {
        Method::Get => wasip3::http::types::Method::Get,
        Method::Post => wasip3::http::types::Method::Post,
    };
    let scheme = if request.https { Scheme::Https } else { Scheme::Http };
    outgoing
        .set_method(&method)
        .and_then(|()| outgoing.set_scheme(Some(&scheme)))
        .and_then(|()| outgoing.set_authority(Some(&request.authority)))
        .and_then(|()| outgoing.set_path_with_query(Some(&request.path_with_query)))
        .map_err(|()| TransportFault::Other)?;
    Ok((outgoing, sent))
}

async fn incoming(response: Response, limit: usize) -> Result<HttpReply, TransportFault> {
    let status = response.get_status_code();
    let headers = response
        .get_headers()
        .copy_all()
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_ascii_lowercase(), String::from_utf8(value).ok()?)))
        .collect();
    let (result_writer, result) = wit_future::new(|| Ok(()));
    drop(result_writer);
    let (mut stream, trailers) = Response::consume_body(response, result);
    let mut body = Zeroizing::new(Vec::with_capacity(limit.min(CHUNK)));
    loop {
        let (outcome, chunk) = stream.read(Vec::with_capacity(CHUNK)).await;
        let chunk = Zeroizing::new(chunk);
        if body.len() + chunk.len() > limit {
            return Err(TransportFault::TooLarge);
        }
        body.extend_from_slice(&chunk);
        if is_over(&outcome) {
            break;
        }
    }
    drop(stream);
    // The end of the stream does not say whether the body was whole; this does.
    trailers.await.map_err(fault)?;
    Ok(HttpReply { status, headers, body })
}

fn is_over(outcome: &StreamResult) -> bool {
    matches!(outcome, StreamResult::Dropped | StreamResult::Cancelled)
}

/// Larger than most token replies, so that one read suffices.
const CHUNK: usize = 8 * 1024;

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

crate::boundary::faults!(ErrorCode);
crate::boundary::file_faults!(filesystem::types::ErrorCode);
