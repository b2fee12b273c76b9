//! One instance of the component: its store, what it is given, and the calls it answers.

use super::Surroundings;
use super::component::{Compiled, WasiVersion};
use super::cpu::Meter;
use super::desk::{Ask, Desk};
use crate::bindings::{v0_2, v0_3};
use crate::outbound::OutboundHooks;
use crate::token::{AccessToken, SourceDescription, TokenRequest};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use managed_identity_provider::error::Error;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::{Accessor, Linker, ResourceTable};
use wasmtime::{Engine, Store, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// How many bytes the component may hand to the host in one call. Its largest request is a few kilobytes.
const HOSTCALL_FUEL: usize = 1024 * 1024;

/// How many calls run side by side in one instance; more wait for their turn.
const MOST_CALLS: usize = 10_000;

/// How many handles the component may hold: a call holds fewer than ten.
const MOST_HANDLES: usize = 16 * MOST_CALLS;

/// How many bytes of random numbers the component may ask for at once. It draws eight, for jitter.
const MOST_RANDOM_BYTES: u64 = 4096;

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

/// All of WASI, over a context that holds no file, no socket, no argument and no standard stream: a provider in any
/// language starts, and can reach nothing but the identity endpoint.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<World>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    Ok(linker)
}

fn store(compiled: &Compiled, surroundings: &Surroundings, limits: &Limits) -> Store<World> {
    let wasi = WasiCtx::builder()
        .envs(&surroundings.environment)
        .allow_tcp(false)
        .allow_udp(false)
        .max_random_size(MOST_RANDOM_BYTES)
        .build();
    let world = World {
        wasi,
        http: WasiHttpCtx::new(),
        hooks: OutboundHooks::new(surroundings.outbound.clone()),
        table: ResourceTable::new(),
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
        let number = Desk::next(desk).await;
        let answer = match question(desk, number) {
            Question::Token(request, time_left) => {
                let result = provider
                    .call_get_token(&mut store, &v0_2::request(&request, time_left))
                    .await?;
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
            Question::Gone => continue,
        };
        reply(desk, number, answer);
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
                    Some(result) = running.next() => result?,
                    number = Desk::next(desk), if running.len() < MOST_CALLS => {
                        running.push(put_0_3(accessor, provider, desk, number));
                    }
                }
            }
        })
        .await?
}

async fn put_0_3(
    accessor: &Accessor<World>,
    provider: &v0_3::exports::cloud::identity::managed_identity::Guest,
    desk: &RefCell<Desk>,
    number: u64,
) -> wasmtime::Result<()> {
    let answer = match question(desk, number) {
        Question::Token(request, time_left) => {
            let result = provider
                .call_get_token(accessor, v0_3::request(&request, time_left))
                .await?;
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
        Question::Gone => return Ok(()),
    };
    reply(desk, number, answer);
    Ok(())
}

/// What the call with a number asks, copied off the desk.
enum Question {
    Token(Box<TokenRequest>, Duration),
    Forget(Option<String>),
    Describe,
    Gone,
}

fn question(desk: &RefCell<Desk>, number: u64) -> Question {
    let desk = desk.borrow();
    match desk.running(number) {
        None => Question::Gone,
        Some(call) => match call.ask() {
            Ask::Token(request, _) => Question::Token(request.clone(), call.time_left()),
            Ask::Forget(audience, _) => Question::Forget(audience.clone()),
            Ask::Describe(_) => Question::Describe,
        },
    }
}

enum Answer {
    Token(Result<AccessToken, Error>),
    Forgotten,
    Description(Result<SourceDescription, Error>),
}

fn reply(desk: &RefCell<Desk>, number: u64, answer: Answer) {
    // A caller that stopped waiting is no longer on the desk, or no longer listens; both are fine.
    match (desk.borrow_mut().finish(number), answer) {
        (Some(Ask::Token(_, reply)), Answer::Token(result)) => drop(reply.send(result)),
        (Some(Ask::Forget(_, reply)), Answer::Forgotten) => drop(reply.send(Ok(()))),
        (Some(Ask::Describe(reply)), Answer::Description(result)) => drop(reply.send(result)),
        _ => {}
    }
}
