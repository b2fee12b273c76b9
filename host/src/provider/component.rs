//! The provider component and the engine that compiles it.

use super::artefact::Trusted;
use super::instance::linker;
use super::kept;
use super::private::{is_private, is_secluded};
use crate::sandbox::Sandbox;
use std::path::Path;
use wasmtime::component::{Component, InstancePre};
use wasmtime::{Cache, CacheConfig, Config, Engine};

/// The provider that is built with this library, for WASI 0.2.
pub const EMBEDDED_0_2: &[u8] = include_bytes!(env!("MANAGED_IDENTITY_PROVIDER_0_2"));

/// The provider that is built with this library, for WASI 0.3.
pub const EMBEDDED_0_3: &[u8] = include_bytes!(env!("MANAGED_IDENTITY_PROVIDER_0_3"));

/// How much address space a memory of the provider reserves, in bytes: as much as it may take by default.
const RESERVATION: u64 = 64 * 1024 * 1024;

/// Which version of `cloud:identity`, and with it of WASI, a provider speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WasiVersion {
    /// One call at a time; every other caller waits for its turn.
    V0_2,
    /// Calls run side by side.
    #[default]
    V0_3,
}

/// Why a provider cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The WebAssembly engine cannot be set up on this machine.
    #[error("the WebAssembly engine cannot be set up: {0:#}")]
    Engine(wasmtime::Error),
    /// The bytes are not a component that this engine can compile.
    #[error("the provider is not a WebAssembly component that can be compiled: {0:#}")]
    NotAComponent(wasmtime::Error),
    /// The component does not export the interface.
    #[error(
        "the component does not export `cloud:identity/managed-identity` in version 0.2 or 0.3; build it for the world \
         `provider` of the package `cloud:identity`"
    )]
    NotAProvider,
    /// The component imports something that a provider is not given.
    #[error("the provider asks for more than a provider is given: {0:#}")]
    Imports(wasmtime::Error),
    /// The bytes are not compiled code that this version can run on this machine.
    #[error(
        "the compiled provider cannot be loaded: {0}; compile it again, with this version and on a machine of this kind"
    )]
    Artefact(String),
    /// The thread that runs the provider cannot be started.
    #[error("the thread of the provider cannot be started: {0}")]
    Thread(std::io::Error),
}

/// Where the machine code of a provider comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodeOrigin {
    /// It was compiled at a former start, and taken from the compilation cache.
    Taken,
    /// It was compiled now, and is kept in the compilation cache for the next start.
    Kept,
    /// It was compiled now, and will be at the next start: there is no compilation cache, or it cannot be used.
    Compiled,
    /// It was compiled ahead of time, by [`precompile`](crate::precompile).
    Precompiled,
}

/// What a broker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProviderDescription {
    /// Which version of the interface it has, and with it of WASI.
    pub wasi: WasiVersion,
    /// Where its machine code comes from.
    pub code: CodeOrigin,
}

/// What a provider is loaded from.
pub(crate) enum Provider {
    /// One that is built with this library.
    Embedded(WasiVersion),
    Component(Vec<u8>),
    Precompiled(Trusted),
}

impl Provider {
    /// Whether it is one that is built with this library, and not the user's.
    pub(crate) fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded(_))
    }
}

/// A provider that is built with this library, and its SHA-256 digest in hexadecimal.
pub(super) fn embedded(version: WasiVersion) -> (&'static [u8], &'static str) {
    match version {
        WasiVersion::V0_2 => (EMBEDDED_0_2, env!("MANAGED_IDENTITY_PROVIDER_0_2_SHA256")),
        WasiVersion::V0_3 => (EMBEDDED_0_3, env!("MANAGED_IDENTITY_PROVIDER_0_3_SHA256")),
    }
}

/// A component, compiled, known to be a provider and to ask for nothing that it will not be given.
pub(crate) struct Compiled {
    pub(super) instance: InstancePre<Sandbox>,
    pub(super) version: WasiVersion,
    code: CodeOrigin,
}

/// Compiles a provider, or takes the code that is kept in the folder `cache`, unless it is compiled already.
///
/// Compiled code is trusted code: a cache folder to which others can write is not used.
pub(crate) fn compile(provider: &Provider, cache: Option<&Path>) -> Result<Compiled, ProviderError> {
    let engine = engine()?;
    let loaded = match provider {
        Provider::Embedded(version) => {
            let (bytes, digest) = embedded(*version);
            kept::component(&engine, bytes, Some(digest), cache)
        }
        Provider::Component(bytes) => kept::component(&engine, bytes, None, cache),
        Provider::Precompiled(artefact) => Ok((artefact.load(&engine)?, CodeOrigin::Precompiled)),
    };
    let (component, code) = loaded.map_err(ProviderError::NotAComponent)?;
    Compiled::new(&component, code)
}

impl Compiled {
    /// What it is, for those who look into a failure.
    pub(crate) fn describe(&self) -> ProviderDescription {
        ProviderDescription {
            wasi: self.version,
            code: self.code,
        }
    }

    pub(super) fn new(component: &Component, code: CodeOrigin) -> Result<Self, ProviderError> {
        let version = version(component).ok_or(ProviderError::NotAProvider)?;
        let linker = linker(component).map_err(ProviderError::Engine)?;
        let instance = linker.instantiate_pre(component).map_err(ProviderError::Imports)?;
        Ok(Self {
            instance,
            version,
            code,
        })
    }
}

/// The engine of a provider. Its settings are the same for code that was compiled ahead of time.
pub(super) fn engine() -> Result<Engine, ProviderError> {
    let mut config = Config::new();
    // One instance for the life of the process: the pooling allocator would cost milliseconds to set up and save nothing.
    config.allocation_strategy(wasmtime::InstanceAllocationStrategy::OnDemand);
    // By default, each memory reserves 4 GiB of address space, which a process may not have.
    config.memory_reservation(RESERVATION);
    config.memory_reservation_for_growth(RESERVATION);
    config.epoch_interruption(true);
    config.wasm_component_model_async(true);
    Engine::new(&config).map_err(ProviderError::Engine)
}

/// The engine's own cache of compiled code in a folder, unless others can write to that. It compresses, and keeps itself small:
/// for plugins, of which there are many and large ones.
pub(crate) fn compilation_cache(folder: Option<&Path>) -> Option<Cache> {
    let folder = folder.filter(|folder| is_private(folder))?.join("plugins");
    let mut settings = CacheConfig::new();
    settings.with_directory(is_secluded(&folder).then_some(folder)?);
    // Without a cache everything works, only slower; a read-only home is no reason to fail.
    Cache::new(settings)
        .inspect_err(|error| tracing::debug!(target: "managed_identity::provider", "no compilation cache: {error:#}"))
        .ok()
}

/// The version of the interface that a component exports, the newer one if it has both.
fn version(component: &Component) -> Option<WasiVersion> {
    let exports = |interface: &str| component.get_export_index(None, interface).is_some();
    if exports("cloud:identity/managed-identity@0.3.0") {
        Some(WasiVersion::V0_3)
    } else if exports("cloud:identity/managed-identity@0.2.0") {
        Some(WasiVersion::V0_2)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_provider_is_refused_with_its_reason() {
        let compile = |bytes: &[u8], cache| compile(&Provider::Component(bytes.to_vec()), cache);
        assert!(matches!(
            compile(b"not wasm", None),
            Err(ProviderError::NotAComponent(_))
        ));
        assert!(matches!(
            compile(b"\0asm\x01\0\0\0", None),
            Err(ProviderError::NotAComponent(_))
        ));
        assert!(matches!(
            compile(b"(component)", None),
            Err(ProviderError::NotAComponent(_))
        ));
        assert!(matches!(
            compile(b"\0asm\x0d\0\x01\0", None),
            Err(ProviderError::NotAProvider)
        ));
    }
}
