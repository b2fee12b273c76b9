//! What it costs to cross the boundary of a component: a provider without the host's cache in front, and a plugin that asks the
//! host.

use super::upstream::Upstream;
use crate::load::Outcome;
use managed_identity_host::grants::{AudiencePattern, Caller, Gate, Grant, Policy, TokenRule};
use managed_identity_host::outbound::{Endpoint, EndpointPolicy, Outbound, OutboundConfig, OutboundHooks};
use managed_identity_host::plugin::{PluginEngine, PluginOutcome};
use managed_identity_host::{Broker, EMBEDDED_0_2, EMBEDDED_0_3};
use std::time::{Duration, Instant};
use wasmtime::component::{Component, InstancePre, Linker, ResourceTable};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};
use wasmtime_wasi::cli::{WasiCli, WasiCliView as _};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p2::{self, pipe::MemoryOutputPipe};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView, p3};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

const AUDIENCE: &str = "https://vault.azure.net";
const CONSTANT_0_2: &[u8] = include_bytes!(env!("CONSTANT_0_2"));
const CONSTANT_0_3: &[u8] = include_bytes!(env!("CONSTANT_0_3"));
pub(crate) const PLUGIN_0_2: &[u8] = include_bytes!(env!("PLUGIN_0_2"));

const CALLS: u32 = 20_000;
const INSTANCES: u32 = 500;

mod v0_2 {
    wasmtime::component::bindgen!({
        path: "../../wit/0.2",
        inline: "
            package managed-identity:bench;
            world provider {
                export cloud:identity/managed-identity@0.2.0;
            }
        ",
        world: "managed-identity:bench/provider",
    });
}

mod v0_3 {
    wasmtime::component::bindgen!({
        path: "../../wit/0.3",
        inline: "
            package managed-identity:bench;
            world provider {
                export cloud:identity/managed-identity@0.3.0;
            }
        ",
        world: "managed-identity:bench/provider",
        exports: { default: async | store },
    });
}

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

/// A provider, ready to be instantiated.
struct Provider {
    instance: InstancePre<World>,
    environment: Vec<(&'static str, String)>,
    outbound: Outbound,
}

impl Provider {
    /// Asynchronous, or called on the thread of whoever calls.
    fn new(component: &[u8], upstream: &Upstream, is_async: bool) -> Outcome<Self> {
        let mut config = Config::new();
        config.wasm_component_model_async(is_async);
        config.concurrency_support(is_async);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(PoolingAllocationConfig::new()));
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        let component = Component::new(&engine, component)?;
        // What the provider imports. All of WASI would take a minute to compile.
        if is_async {
            p3::cli::add_to_linker(&mut linker)?;
            p3::clocks::add_to_linker(&mut linker)?;
            p3::filesystem::add_to_linker(&mut linker)?;
            p3::random::add_to_linker(&mut linker)?;
            wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        } else {
            p2::add_to_linker_proxy_interfaces_sync(&mut linker)?;
            p2::bindings::cli::environment::add_to_linker::<World, WasiCli>(&mut linker, World::cli)?;
            p2::bindings::filesystem::preopens::add_to_linker::<World, WasiFilesystem>(&mut linker, World::filesystem)?;
            p2::bindings::sync::filesystem::types::add_to_linker::<World, WasiFilesystem>(
                &mut linker,
                World::filesystem,
            )?;
            wasmtime_wasi_http::p2::add_only_http_to_linker_sync(&mut linker)?;
        }
        let environment = upstream.environment().to_vec();
        let endpoint = Endpoint::from_environment(&environment[0].1)?;
        Ok(Self {
            instance: linker.instantiate_pre(&component)?,
            environment,
            outbound: Outbound::new(EndpointPolicy::from_iter([endpoint]), OutboundConfig::default()),
        })
    }

    fn store(&self) -> Store<World> {
        let world = World {
            wasi: WasiCtx::builder().envs(&self.environment).build(),
            http: WasiHttpCtx::new(),
            hooks: OutboundHooks::new(self.outbound.clone()),
            table: ResourceTable::new(),
        };
        Store::new(self.instance.engine(), world)
    }

    /// The time for an instance, without that for its store.
    async fn instantiate(&self, is_async: bool) -> Outcome<Duration> {
        let mut time = Duration::ZERO;
        for _ in 0..INSTANCES {
            let mut store = self.store();
            let start = Instant::now();
            if is_async {
                self.instance.instantiate_async(&mut store).await?;
            } else {
                self.instance.instantiate(&mut store)?;
            }
            time += start.elapsed();
        }
        Ok(time / INSTANCES)
    }
}

/// What is measured here, each in nanoseconds.
pub(crate) struct Boundary {
    provider_0_2: Provider,
    provider_0_3: Provider,
    /// Make a token as long without a cache, a clock or a check: what a call costs a component that does nothing else.
    constant_0_2: Provider,
    constant_0_3: Provider,
    plugins: PluginEngine,
    gate: Gate,
}

impl Boundary {
    pub(crate) fn new(upstream: &Upstream) -> Outcome<Self> {
        let broker = Broker::builder().environment(upstream.environment()).build()?;
        let rule = TokenRule::new([AudiencePattern::parse(AUDIENCE)?]);
        let policy = Policy::default().with(Caller::new("plugin"), Grant::default().with_token(rule));
        Ok(Self {
            provider_0_2: Provider::new(EMBEDDED_0_2, upstream, false)?,
            provider_0_3: Provider::new(EMBEDDED_0_3, upstream, true)?,
            constant_0_2: Provider::new(CONSTANT_0_2, upstream, false)?,
            constant_0_3: Provider::new(CONSTANT_0_3, upstream, true)?,
            plugins: PluginEngine::builder().build()?,
            gate: Gate::new(broker, policy),
        })
    }

    pub(crate) async fn instantiate_0_2(&self) -> Outcome<f64> {
        Ok(self.provider_0_2.instantiate(false).await?.as_nanos() as f64)
    }

    pub(crate) async fn instantiate_0_3(&self) -> Outcome<f64> {
        Ok(self.provider_0_3.instantiate(true).await?.as_nanos() as f64)
    }

    /// A cached token by a call of the provider's export. Not for a thread of a runtime, which must not wait for the first one.
    pub(crate) fn get_token_0_2(&self) -> Outcome<f64> {
        call_0_2(&self.provider_0_2)
    }

    pub(crate) fn constant_0_2(&self) -> Outcome<f64> {
        call_0_2(&self.constant_0_2)
    }

    /// The same with the async provider, one call after the other.
    pub(crate) async fn get_token_0_3(&self) -> Outcome<f64> {
        call_0_3(&self.provider_0_3).await
    }

    pub(crate) async fn constant_0_3(&self) -> Outcome<f64> {
        call_0_3(&self.constant_0_3).await
    }

    /// A plugin's call for a cached token, by its own clock.
    pub(crate) async fn plugin(&self) -> Outcome<f64> {
        let plugin = self.plugins.load(PLUGIN_0_2)?;
        let output = MemoryOutputPipe::new(1024);
        let command = plugin
            .command(self.gate.caller(Caller::new("plugin")))
            .args(["plugin", "hits", &CALLS.to_string(), AUDIENCE])
            .stdout(output.clone());
        let outcome = command.run().await?;
        let output = String::from_utf8(output.contents().to_vec())?;
        match (outcome, output.strip_prefix("ok ")) {
            (PluginOutcome::Exited(0), Some(time)) => Ok(time.trim().parse::<f64>()? / f64::from(CALLS)),
            (outcome, _) => Err(format!("{outcome:?}: {output}").into()),
        }
    }
}

fn call_0_2(provider: &Provider) -> Outcome<f64> {
    use v0_2::cloud::identity::types::Identity;
    use v0_2::exports::cloud::identity::managed_identity::TokenRequest;
    let mut store = provider.store();
    let instance = v0_2::ProviderPre::new(provider.instance.clone())?.instantiate(&mut store)?;
    let exports = instance.cloud_identity_managed_identity();
    let request = TokenRequest {
        audience: AUDIENCE.to_owned(),
        identity: Identity::PlatformDefault,
        claims: None,
        rejected_token: None,
        timeout_ms: None,
    };
    let first = exports.call_get_token(&mut store, &request)?;
    first.map_err(|error| error.message)?;
    let start = Instant::now();
    for _ in 0..CALLS {
        let token = exports.call_get_token(&mut store, &request)?;
        std::hint::black_box(token.map_err(|error| error.message)?.token.len());
    }
    Ok(start.elapsed().as_nanos() as f64 / f64::from(CALLS))
}

async fn call_0_3(provider: &Provider) -> Outcome<f64> {
    use v0_3::cloud::identity::types::Identity;
    use v0_3::exports::cloud::identity::managed_identity::TokenRequest;
    let mut store = provider.store();
    let instance = v0_3::ProviderPre::new(provider.instance.clone())?
        .instantiate_async(&mut store)
        .await?;
    let exports = instance.cloud_identity_managed_identity();
    let request = || TokenRequest {
        audience: AUDIENCE.to_owned(),
        identity: Identity::PlatformDefault,
        claims: None,
        rejected_token: None,
        timeout_ms: None,
    };
    let time = store
        .run_concurrent(async |accessor| {
            let first = exports.call_get_token(accessor, request()).await?;
            first.map_err(|error| wasmtime::Error::msg(error.message))?;
            let start = Instant::now();
            for _ in 0..CALLS {
                let token = exports.call_get_token(accessor, request()).await?;
                let token = token.map_err(|error| wasmtime::Error::msg(error.message))?;
                std::hint::black_box(token.token.len());
            }
            Ok::<_, wasmtime::Error>(start.elapsed())
        })
        .await??;
    Ok(time.as_nanos() as f64 / f64::from(CALLS))
}
