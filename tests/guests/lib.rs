//! Components that tests run: some in the place of the provider, some as its client.

/// The plugin that sends requests over WASI 0.2, and shows all of its memory.
pub const AUTHORIZED_0_2: &[u8] = include_bytes!(env!("AUTHORIZED_0_2"));

/// The same over WASI 0.3.
pub const AUTHORIZED_0_3: &[u8] = include_bytes!(env!("AUTHORIZED_0_3"));

/// A component of the world `client` of `cloud:identity` 0.2.
pub const CLIENT: &[u8] = include_bytes!(env!("CLIENT"));

/// `guest/cache` for the draft of `wasi:keyvalue` that wasmtime has.
pub const CACHE_DRAFT: &[u8] = include_bytes!(env!("CACHE_DRAFT"));

/// `guest/cache` for the draft that Spin has.
pub const CACHE_DRAFT2: &[u8] = include_bytes!(env!("CACHE_DRAFT2"));

/// What Spin puts in the place of everything that a dependency does not inherit.
pub const DENY: &[u8] = include_bytes!(env!("DENY"));

/// The hostile guest for WASI 0.2. Its crate says what it can be told to do.
pub const HOSTILE_0_2: &[u8] = include_bytes!(env!("HOSTILE_0_2"));

/// The hostile guest for WASI 0.3.
pub const HOSTILE_0_3: &[u8] = include_bytes!(env!("HOSTILE_0_3"));

/// The plugin for WASI 0.2. Its crate says what it can be told to do.
pub const PLUGIN_0_2: &[u8] = include_bytes!(env!("PLUGIN_0_2"));

/// The plugin for WASI 0.3.
pub const PLUGIN_0_3: &[u8] = include_bytes!(env!("PLUGIN_0_3"));
