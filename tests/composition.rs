//! A guest and the provider, plugged together, run in a host that knows nothing of us but the outbound policy.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/mod.rs"]
mod support;

use managed_identity_emulator::{Emulator, EmulatorConfig, Source};
use managed_identity_host::EMBEDDED_0_2;
use managed_identity_host::outbound::{Endpoint, EndpointPolicy, Outbound, OutboundConfig, OutboundHooks};
use managed_identity_test_guests::CLIENT;
use support::plug::plug;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

struct World {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: OutboundHooks,
    table: ResourceTable,
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

#[tokio::test]
async fn a_guest_gets_a_token_from_the_provider_it_is_plugged_into() {
    let emulator = Emulator::start(EmulatorConfig::default()).unwrap();
    let environment = emulator.environment_for(Source::AppService);
    let endpoint = Endpoint::from_environment(&environment["IDENTITY_ENDPOINT"]).unwrap();
    let outbound = Outbound::new(EndpointPolicy::from_iter([endpoint]), OutboundConfig::default());

    let engine = Engine::default();
    let component = Component::new(&engine, plug(CLIENT, EMBEDDED_0_2).unwrap()).unwrap();
    let imports = component.component_type();
    for (name, _) in imports.imports(&engine) {
        assert!(name.starts_with("wasi:"), "the composition imports {name}");
    }

    let mut linker = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).unwrap();
    let variables: Vec<_> = environment.into_iter().collect();
    let world = World {
        wasi: WasiCtx::builder().envs(&variables).build(),
        http: WasiHttpCtx::new(),
        hooks: OutboundHooks::new(outbound),
        table: ResourceTable::new(),
    };
    let mut store = Store::new(&engine, world);
    let instance = linker.instantiate_async(&mut store, &component).await.unwrap();
    let run = instance
        .get_typed_func::<(), (Result<String, String>,)>(&mut store, "run")
        .unwrap();
    let (result,) = run.call_async(&mut store, ()).await.unwrap();
    let text = result.unwrap();
    assert!(text.starts_with("a token from app-service, valid until "), "{text}");
    assert_eq!(emulator.stats().requests, 1);
    emulator.shutdown().await;
}
