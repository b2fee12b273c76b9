//! The engine of plugins.

use super::command::linker;
use super::limits::{MEMORIES, PluginLimits, TABLES};
use super::time::Ticker;
use super::{Plugin, PluginError};
use crate::broker::default_compilation_cache;
use crate::provider::compilation_cache;
use crate::sandbox::Sandbox;
use std::path::PathBuf;
use std::sync::Arc;
use wasmtime::component::Linker;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmFeatures};

/// How many plugins run at once, unless said otherwise.
const PLUGINS: u32 = 100;

/// What a stack has for the host's own calls, besides WebAssembly's, in bytes.
const HOST_STACK: usize = 1024 * 1024;

/// How many stacks the calls of a plugin take. In WASI 0.3 they run side by side, and each may wait in the middle of one.
const STACKS: u32 = 16;

/// How much address space a memory reserves that is not in a pool, in bytes. One that outgrows it is moved.
const RESERVATION: u64 = 16 * 1024 * 1024;

/// Proposals that no language needs yet for a component, each of which is code that a plugin could find a fault in.
///
/// Not among them is what the engine itself needs: the modules that it makes between the parts of a composition have several
/// memories, and it panics when it may not have them.
const UNUSED: WasmFeatures = WasmFeatures::CM64
    .union(WasmFeatures::CM_ASYNC_STACKFUL)
    .union(WasmFeatures::CM_ERROR_CONTEXT)
    .union(WasmFeatures::CM_FIXED_LENGTH_LISTS)
    .union(WasmFeatures::CM_GC)
    .union(WasmFeatures::CM_IMPLEMENTS)
    .union(WasmFeatures::CM_MAP)
    .union(WasmFeatures::CM_MORE_ASYNC_BUILTINS)
    .union(WasmFeatures::CM_THREADING)
    .union(WasmFeatures::CUSTOM_PAGE_SIZES)
    .union(WasmFeatures::EXCEPTIONS)
    .union(WasmFeatures::FUNCTION_REFERENCES)
    .union(WasmFeatures::GC)
    .union(WasmFeatures::MEMORY64)
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::SHARED_EVERYTHING_THREADS)
    .union(WasmFeatures::STACK_SWITCHING)
    .union(WasmFeatures::THREADS)
    .union(WasmFeatures::WIDE_ARITHMETIC);

/// Compiles and runs plugins. Cheap to clone; clones share the room for instances, which is freed with the last of them and of
/// the plugins.
#[derive(Clone)]
pub struct PluginEngine(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) engine: Engine,
    pub(super) linker: Linker<Sandbox>,
    pub(super) ticker: Ticker,
    pub(super) limits: PluginLimits,
    pub(super) is_async: bool,
    pooled: bool,
}

impl PluginEngine {
    /// An engine with other settings than the defaults.
    #[must_use]
    pub fn builder() -> PluginEngineBuilder {
        PluginEngineBuilder {
            limits: PluginLimits::default(),
            is_async: false,
            pooling: true,
            plugins: PLUGINS,
            compilation_cache: default_compilation_cache(),
        }
    }

    /// Compiles a component, and checks that it can be run and asks for nothing that plugins are not given.
    ///
    /// Takes milliseconds for a small component and seconds for one with an interpreter in it, unless a
    /// [cache](PluginEngineBuilder::compilation_cache) has it.
    ///
    /// # Errors
    /// When it cannot be compiled or run.
    pub fn load(&self, component: &[u8]) -> Result<Plugin, PluginError> {
        Plugin::load(self, component)
    }

    /// Whether instances come from a pool that is reserved in advance. They do not where address space is short.
    #[must_use]
    pub fn is_pooled(&self) -> bool {
        self.0.pooled
    }
}

impl std::fmt::Debug for PluginEngine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PluginEngine")
            .field("limits", &self.0.limits)
            .field("is_async", &self.0.is_async)
            .field("pooled", &self.0.pooled)
            .finish_non_exhaustive()
    }
}

/// Settings of a [`PluginEngine`].
#[derive(Clone, Debug)]
pub struct PluginEngineBuilder {
    limits: PluginLimits,
    is_async: bool,
    pooling: bool,
    plugins: u32,
    compilation_cache: Option<PathBuf>,
}

impl PluginEngineBuilder {
    /// Bounds each plugin by these.
    #[must_use]
    pub fn limits(mut self, limits: PluginLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Runs plugins for WASI 0.3 as well. Without it, as by default, the part of the engine that they need is off.
    #[must_use]
    pub fn with_async(mut self, is_async: bool) -> Self {
        self.is_async = is_async;
        self
    }

    /// Makes room for so many plugins at once; 100 by default. One more is refused, [`PluginError::Full`].
    ///
    /// Address space is reserved for them all, some 32 GiB for each. Where there is not as much, instances are made one by
    /// one, without such a limit.
    #[must_use]
    pub fn plugins_at_once(mut self, plugins: u32) -> Self {
        self.plugins = plugins;
        self
    }

    /// Reserves no address space in advance, and makes instances one by one.
    #[must_use]
    pub fn without_pool(mut self) -> Self {
        self.pooling = false;
        self
    }

    /// Keeps compiled code in this folder, or nowhere. Whoever can write there can run code in this process: a folder to which
    /// others can write is not used. The default is that of [`BrokerBuilder`](crate::BrokerBuilder::compilation_cache).
    #[must_use]
    pub fn compilation_cache(mut self, folder: Option<PathBuf>) -> Self {
        self.compilation_cache = folder;
        self
    }

    /// Sets the engine up.
    ///
    /// # Errors
    /// When it cannot be on this machine.
    pub fn build(self) -> Result<PluginEngine, PluginError> {
        let mut config = self.config();
        let pooled = self.pooling.then(|| {
            config.allocation_strategy(self.pool());
            // The pool is reserved here, so this is also how to find out whether there is room for it.
            Engine::new(&config)
        });
        let (engine, pooled) = match pooled {
            Some(Ok(engine)) => (engine, true),
            refused => {
                if let Some(Err(error)) = refused {
                    tracing::debug!(target: "managed_identity::plugin", "no pool for plugins: {error:#}");
                }
                config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
                // By default, each memory reserves 4 GiB.
                config.memory_reservation(RESERVATION);
                config.memory_reservation_for_growth(RESERVATION);
                (Engine::new(&config).map_err(PluginError::Engine)?, false)
            }
        };
        Ok(PluginEngine(Arc::new(Inner {
            linker: linker(&engine, self.is_async).map_err(PluginError::Engine)?,
            ticker: Ticker::start(&engine).map_err(PluginError::Thread)?,
            engine,
            limits: self.limits,
            is_async: self.is_async,
            pooled,
        })))
    }

    fn config(&self) -> Config {
        let mut config = Config::new();
        config.epoch_interruption(true);
        config.max_wasm_stack(self.limits.stack);
        config.async_stack_size(self.limits.stack.saturating_add(HOST_STACK));
        config.wasm_features(UNUSED, false);
        config.wasm_component_model_async(self.is_async);
        config.concurrency_support(self.is_async);
        config.cache(compilation_cache(self.compilation_cache.as_deref()));
        config
    }

    fn pool(&self) -> PoolingAllocationConfig {
        let count = |of_each: usize| {
            let of_each = u32::try_from(of_each).unwrap_or(u32::MAX);
            self.plugins.saturating_mul(of_each)
        };
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(self.plugins)
            .total_core_instances(count(self.limits.instances))
            .total_memories(count(MEMORIES))
            .total_tables(count(TABLES))
            .total_stacks(self.plugins.saturating_mul(if self.is_async { STACKS } else { 1 }))
            .max_memory_size(self.limits.memory)
            .table_elements(self.limits.table_elements)
            .max_tables_per_module(4);
        pool
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "an engine can be set up wherever tests run")]

    use super::*;

    #[test]
    fn a_pool_for_which_there_is_no_room_is_done_without() {
        assert!(!PluginEngine::builder().without_pool().build().unwrap().is_pooled());
        let too_many = PluginEngine::builder().plugins_at_once(100_000_000).build().unwrap();
        assert!(!too_many.is_pooled());
        if cfg!(target_pointer_width = "64") {
            assert!(PluginEngine::builder().build().unwrap().is_pooled());
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_its_reason() {
        let engine = PluginEngine::builder()
            .without_pool()
            .compilation_cache(None)
            .build()
            .unwrap();
        for bytes in [b"not wasm".as_slice(), b"\0asm\x01\0\0\0", b"(component)", b""] {
            assert!(
                matches!(engine.load(bytes), Err(PluginError::NotAComponent(_))),
                "{bytes:?}"
            );
        }
        assert!(matches!(
            engine.load(b"\0asm\x0d\0\x01\0"),
            Err(PluginError::NotAPlugin)
        ));
        // (component (import "log" (func)))
        let foreign = b"\0asm\x0d\0\x01\0\x07\x05\x01\x40\0\x01\0\x0a\x08\x01\0\x03log\x01\0";
        let error = engine.load(foreign).unwrap_err();
        assert!(
            matches!(&error, PluginError::Imports(names) if names == &["log"]),
            "{error}"
        );
    }
}
