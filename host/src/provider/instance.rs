//! One instance of the component: its store, what it is given, and the calls it answers.

use super::Surroundings;
use super::component::{Compiled, WasiVersion};
use super::cpu::Meter;
use super::desk::{Answer, Desk, Question};
use crate::bindings::{v0_2, v0_3};
use crate::grant::Directory;
use crate::outbound::OutboundHooks;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::cell::RefCell;
use std::sync::Arc;
use wasmtime::component::{Accessor, Linker, ResourceTable};
use wasmtime::{Engine, Store, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// How many bytes the component may hand to the host in one call. The largest thing is a token, of at most 64 KiB.
const HOSTCALL_FUEL: usize = 80 * 1024;

/// How many calls run side by side in one instance; more wait for their turn. Equal calls count once. The engine takes a
/// time for each call that grows with their number, so that a thousand at once take a second and ten thousand a minute.
const MOST_CALLS: usize = 1_000;

/// How many handles the component may hold: a call holds fewer than a dozen.
const MOST_HANDLES: usize = 16 * MOST_CALLS;

/// How many bytes of random numbers the component may ask for at once. It draws eight, for jitter.
const MOST_RANDOM_BYTES: u64 = 4096;

/// How many things of `wasi:http`, `wasi:io` and the like the component may hold. It needs two for each reply that is being
/// read, and no more are than [`OutboundConfig::concurrent_requests`]. The largest are requests that it does not send:
/// authority and method may each be as long as one call permits and the path 64 KiB, which makes 90 MiB in all.
///
/// [`OutboundConfig::concurrent_requests`]: crate::outbound::OutboundConfig::concurrent_requests
const MOST_RESOURCES: usize = 384;

/// How many bytes the header fields of one request may have, in memory. Those of the largest have a few kilobytes.
const FIELDS_LIMIT: usize = 16 * 1024;

/// The bounds of one instance.
pub(super) struct Limits {
    pub(super) memory: usize,
    pub(super) meter: Arc<Meter>,
}

/// What the store holds for the component.
pub(super) struct World {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: OutboundHooks,
    table: ResourceTable,
    limits: StoreLimits,
}

impl WasiView for World {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for World {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

/// All of WASI, over a context that holds no socket, no argument, no standard stream, and no file but those that the source
/// needs: a provider in any language starts, and can reach nothing but the identity endpoint.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<World>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// What an instance has of WASI. The directory is opened anew for each: it may have been replaced, or made only now.
fn belongings(environment: &[(String, String)], directory: Option<&Directory>) -> WasiCtx {
    let mut wasi = WasiCtx::builder();
    wasi.envs(environment)
        .allow_tcp(false)
        .allow_udp(false)
        .max_random_size(MOST_RANDOM_BYTES);
    if let Some(Directory { place, name }) = directory
        && let Err(error) = wasi.preopened_dir(place, name, FsPerms::ReadOnly)
    {
        // Not the end: the component says which file it misses, once it does.
        tracing::warn!(
            target: "managed_identity::provider",
            directory = %place.display(),
            "the directory of the credential cannot be opened: {}",
            error.root_cause()
        );
    }
    wasi.build()
}

fn store(compiled: &Compiled, surroundings: &Surroundings, limits: &Limits) -> Store<World> {
    let wasi = belongings(&surroundings.environment, surroundings.directory.as_ref());
    let mut http = WasiHttpCtx::new();
    http.set_field_size_limit(FIELDS_LIMIT);
    let mut table = ResourceTable::new();
    table.set_max_capacity(MOST_RESOURCES);
    let world = World {
        wasi,
        http,
        hooks: OutboundHooks::new(surroundings.outbound.clone()),
        table,
        limits: StoreLimitsBuilder::new().memory_size(limits.memory).build(),
    };
    let mut store = Store::new(compiled.instance.engine(), world);
    store.limiter(|world| &mut world.limits);
    store.set_hostcall_fuel(HOSTCALL_FUEL);
    store.set_max_component_handles(MOST_HANDLES);
    limits.meter.watch(&mut store);
    store
}

/// Starts an instance and puts the desk's calls to it until it fails. Returns why it failed.
pub(super) async fn drive(
    compiled: &Compiled,
    surroundings: &Surroundings,
    limits: Limits,
    desk: &RefCell<Desk>,
) -> String {
    let store = store(compiled, surroundings, &limits);
    let driven = match compiled.version {
        WasiVersion::V0_2 => drive_0_2(compiled, store, desk).await,
        WasiVersion::V0_3 => drive_0_3(compiled, store, desk).await,
    };
    let Err(error) = driven;
    // The root cause alone: a backtrace of the component's insides says nothing to the caller.
    error.root_cause().to_string()
}

enum Never {}

async fn drive_0_2(compiled: &Compiled, mut store: Store<World>, desk: &RefCell<Desk>) -> wasmtime::Result<Never> {
    let instance = v0_2::CallerPre::new(compiled.instance.clone())?
        .instantiate_async(&mut store)
        .await?;
    let provider = instance.cloud_identity_managed_identity();
    loop {
        let (number, question) = Desk::next(desk).await;
        let answer = match question {
            Question::Token(request, time_left) => {
                let request = v0_2::request(&request, time_left);
                let result = provider.call_get_token(&mut store, &request).await?;
                Answer::Token(result.map(v0_2::access_token).map_err(v0_2::error))
            }
            Question::Forget(audience) => {
                provider.call_forget(&mut store, audience.as_deref()).await?;
                Answer::Forgotten
            }
            Question::Describe => {
                let result = provider.call_describe_source(&mut store).await?;
                Answer::Description(result.map(v0_2::description).map_err(v0_2::error))
            }
        };
        desk.borrow_mut().answer(number, answer);
    }
}

async fn drive_0_3(compiled: &Compiled, mut store: Store<World>, desk: &RefCell<Desk>) -> wasmtime::Result<Never> {
    let instance = v0_3::CallerPre::new(compiled.instance.clone())?
        .instantiate_async(&mut store)
        .await?;
    let provider = instance.cloud_identity_managed_identity();
    store
        .run_concurrent(async |accessor| {
            let mut running = FuturesUnordered::new();
            loop {
                tokio::select! {
                    Some(answered) = running.next() => {
                        let (number, answer) = answered?;
                        desk.borrow_mut().answer(number, answer);
                    }
                    (number, question) = Desk::next(desk), if running.len() < MOST_CALLS => {
                        running.push(put_0_3(accessor, provider, number, question));
                    }
                }
            }
        })
        .await?
}

async fn put_0_3(
    accessor: &Accessor<World>,
    provider: &v0_3::exports::cloud::identity::managed_identity::Guest,
    number: u64,
    question: Question,
) -> wasmtime::Result<(u64, Answer)> {
    let answer = match question {
        Question::Token(request, time_left) => {
            let request = v0_3::request(&request, time_left);
            let result = provider.call_get_token(accessor, request).await?;
            Answer::Token(result.map(v0_3::access_token).map_err(v0_3::error))
        }
        Question::Forget(audience) => {
            provider.call_forget(accessor, audience).await?;
            Answer::Forgotten
        }
        Question::Describe => {
            let result = provider.call_describe_source(accessor).await?;
            Answer::Description(result.map(v0_3::description).map_err(v0_3::error))
        }
    };
    Ok((number, answer))
}
