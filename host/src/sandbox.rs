//! What a store holds, and all of WASI over it.
//!
//! One type for providers and plugins: each type of store data has all the glue of WASI compiled for it, which is most of what
//! this library takes to compile and to load.

use crate::linker::{IdentityCtx, IdentityView};
use crate::plugin::{PluginBound, Quota};
use crate::provider::Bounds;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Engine, ResourceLimiter, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

/// What a store holds for its component.
pub(crate) struct Sandbox {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Box<dyn WasiHttpHooks>,
    table: ResourceTable,
    role: Role,
}

/// What the component is, and what only such a component has.
enum Role {
    Provider(Bounds),
    Plugin(Quota, IdentityCtx),
}

impl Sandbox {
    /// For a provider.
    pub(crate) fn provider(wasi: WasiCtx, hooks: impl WasiHttpHooks + 'static, bounds: Bounds) -> Self {
        Self::new(wasi, hooks, Role::Provider(bounds))
    }

    /// For a plugin that is who `identity` says.
    pub(crate) fn plugin(
        wasi: WasiCtx,
        hooks: impl WasiHttpHooks + 'static,
        quota: Quota,
        identity: IdentityCtx,
    ) -> Self {
        Self::new(wasi, hooks, Role::Plugin(quota, identity))
    }

    fn new(wasi: WasiCtx, hooks: impl WasiHttpHooks + 'static, role: Role) -> Self {
        Self {
            wasi,
            http: WasiHttpCtx::new(),
            hooks: Box::new(hooks),
            table: ResourceTable::new(),
            role,
        }
    }

    /// Bounds the header fields of one request or response, in bytes of memory, and how many things of `wasi:http`, `wasi:io`
    /// and the like there are at once.
    pub(crate) fn with_limits(mut self, fields: usize, resources: usize) -> Self {
        self.http.set_field_size_limit(fields);
        self.table.set_max_capacity(resources);
        self
    }

    /// A store that holds it, within its bounds.
    pub(crate) fn into_store(self, engine: &Engine) -> Store<Self> {
        let mut store = Store::new(engine, self);
        store.limiter(Self::limiter);
        store
    }

    /// The files, clocks and the like.
    pub(crate) fn wasi(&mut self) -> &mut WasiCtx {
        &mut self.wasi
    }

    /// What a plugin was refused for lack of room.
    pub(crate) fn refused(&self) -> Option<PluginBound> {
        match &self.role {
            Role::Provider(_) => None,
            Role::Plugin(quota, _) => quota.refused(),
        }
    }

    fn limiter(&mut self) -> &mut dyn ResourceLimiter {
        match &mut self.role {
            Role::Provider(bounds) => bounds,
            Role::Plugin(quota, _) => quota,
        }
    }
}

impl WasiView for Sandbox {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Sandbox {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut *self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

impl IdentityView for Sandbox {
    fn identity(&mut self) -> &mut IdentityCtx {
        match &mut self.role {
            Role::Plugin(_, identity) => identity,
            // Providers export `cloud:identity`. One that imports it is refused when it is compiled, because their linker
            // does not have it.
            Role::Provider(_) => unreachable!("a provider's linker has no `cloud:identity`"),
        }
    }
}

/// All of WASI 0.2.
pub(crate) fn add_wasi_0_2(linker: &mut Linker<Sandbox>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)
}

/// All of WASI 0.3. The linker's engine needs [`wasm_component_model_async`](wasmtime::Config::wasm_component_model_async).
pub(crate) fn add_wasi_0_3(linker: &mut Linker<Sandbox>) -> wasmtime::Result<()> {
    wasmtime_wasi::p3::add_to_linker(linker)?;
    wasmtime_wasi_http::p3::add_to_linker(linker)
}
