//! `cloud:identity` for the plugins of a host that has a [`Linker`] of its own.
//!
//! The host puts an [`IdentityCtx`] into each plugin's store: which caller the plugin is, is the host's choice, and nothing
//! that the plugin passes changes it. Each call is decided by what that caller is granted. A failure of any kind is an
//! `error` of the interface, never a trap.
//!
//! ```no_run
//! use managed_identity_host::grants::{AudiencePattern, Caller, Gate, Grant, Policy, TokenRule};
//! use managed_identity_host::linker::{self, IdentityCtx, IdentityView};
//! use managed_identity_host::Broker;
//! use wasmtime::component::{Component, Linker};
//! use wasmtime::{Engine, Store};
//!
//! /// What a plugin's store holds.
//! struct State {
//!     identity: IdentityCtx,
//! }
//!
//! impl IdentityView for State {
//!     fn identity(&mut self) -> &mut IdentityCtx {
//!         &mut self.identity
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // One broker and one policy for all plugins. `Policy::from_toml` reads the same from a document.
//!     let rule = TokenRule::new([AudiencePattern::parse("https://vault.azure.net")?]);
//!     let grant = Grant::default().with_token(rule);
//!     let plugin = Caller::new("backup");
//!     let gate = Gate::new(Broker::from_environment()?, Policy::default().with(plugin.clone(), grant));
//!
//!     // One linker for all plugins.
//!     let engine = Engine::default();
//!     let mut linker = Linker::new(&engine);
//!     linker::add_to_linker_0_2(&mut linker)?;
//!
//!     // One store for each plugin, which says who it is.
//!     let component = Component::from_file(&engine, "backup.wasm")?;
//!     let identity = IdentityCtx::new(gate.caller(plugin));
//!     let mut store = Store::new(&engine, State { identity });
//!     // This one has the world `client` of `cloud:identity`, and so a function `run`.
//!     let instance = linker.instantiate_async(&mut store, &component).await?;
//!     let run = instance.get_typed_func::<(), (Result<String, String>,)>(&mut store, "run")?;
//!     let (result,) = run.call_async(&mut store, ()).await?;
//!     println!("{}", result?);
//!     Ok(())
//! }
//! ```
//!
//! [`Linker`] and [`Store`](wasmtime::Store) are those of the `wasmtime` that this library depends on: the host program needs
//! the same major version. Plugins that are commands, or use other parts of WASI, find those where the host adds them, with
//! `wasmtime_wasi::p2::add_to_linker_async` for instance; [`authorized_http`](crate::authorized_http) is for `wasi:http`.
//!
//! Calls are asynchronous for the host: while a plugin waits, its thread is free. What a plugin does with its own time is the
//! business of whoever runs it, and so is how much it hands over in one call: set an epoch deadline and
//! [`Store::set_hostcall_fuel`](wasmtime::Store::set_hostcall_fuel), or let a [`PluginEngine`](crate::plugin::PluginEngine)
//! run the plugin, which does both.

use crate::bindings::{v0_2, v0_3};
use crate::grants::Granted;
use crate::token::{AccessToken, SourceDescription, TokenRequest};
use managed_identity_provider::claims::{self, Claims};
use managed_identity_provider::error::Error;
use managed_identity_provider::request::check_sizes;
use managed_identity_provider::secret::Secret;
use std::sync::Arc;
use wasmtime::component::{Accessor, HasData, Linker};

/// What a plugin's store holds for `cloud:identity`: who the plugin is.
#[derive(Clone, Debug)]
pub struct IdentityCtx {
    granted: Granted,
}

/// Store data that has an [`IdentityCtx`].
pub trait IdentityView: Send {
    /// Who the plugin is.
    fn identity(&mut self) -> &mut IdentityCtx;
}

/// Lets plugins import `managed-identity` and `token-claims` of `cloud:identity@0.2.0`.
///
/// A call suspends the plugin's instance until it is answered.
///
/// # Errors
/// When the linker has something by one of these names.
pub fn add_to_linker_0_2<T: IdentityView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    v0_2::cloud::identity::managed_identity::add_to_linker::<T, HasIdentity>(linker, T::identity)?;
    v0_2::cloud::identity::token_claims::add_to_linker::<T, HasIdentity>(linker, T::identity)
}

/// Lets plugins import `managed-identity` and `token-claims` of `cloud:identity@0.3.0`.
///
/// Calls of `get-token` run side by side. The linker's engine needs
/// [`wasm_component_model_async`](wasmtime::Config::wasm_component_model_async).
///
/// # Errors
/// When the linker has something by one of these names.
pub fn add_to_linker_0_3<T: IdentityView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    v0_3::cloud::identity::managed_identity::add_to_linker::<T, HasIdentity>(linker, T::identity)?;
    v0_3::cloud::identity::token_claims::add_to_linker::<T, HasIdentity>(linker, T::identity)
}

impl IdentityCtx {
    /// The plugin is the caller of `granted`, and gets what that is granted.
    #[must_use]
    pub fn new(granted: Granted) -> Self {
        Self { granted }
    }

    /// Who the plugin is.
    #[must_use]
    pub fn granted(&self) -> &Granted {
        &self.granted
    }

    async fn token(&self, request: TokenRequest) -> Result<Arc<AccessToken>, Error> {
        self.granted.token(&request).await
    }

    /// The interface has no failure here, and needs none: each decision is recorded.
    async fn forget(&self, audience: Option<String>) {
        let _ = self.granted.forget(audience.as_deref()).await;
    }

    async fn describe_source(&self) -> Result<SourceDescription, Error> {
        self.granted.describe_source().await
    }
}

/// Needs no grant: whoever has a token can read it.
fn decode(token: String) -> Result<Claims, Error> {
    let token = Secret::new(token);
    check_sizes("", None, None, Some(token.expose()))?;
    claims::decode(token.expose())
}

/// Where the generated code finds the context in a store.
struct HasIdentity;

impl HasData for HasIdentity {
    type Data<'a> = &'a mut IdentityCtx;
}

impl v0_2::cloud::identity::types::Host for IdentityCtx {}

impl v0_2::cloud::identity::managed_identity::Host for IdentityCtx {
    async fn get_token(
        &mut self,
        request: v0_2::cloud::identity::types::TokenRequest,
    ) -> Result<v0_2::cloud::identity::types::AccessToken, v0_2::cloud::identity::types::Error> {
        match self.token(v0_2::asked(request)).await {
            Ok(token) => Ok(v0_2::wit_access_token(&token)),
            Err(error) => Err(v0_2::wit_error(error)),
        }
    }

    async fn forget(&mut self, audience: Option<String>) {
        IdentityCtx::forget(self, audience).await;
    }

    async fn describe_source(
        &mut self,
    ) -> Result<v0_2::cloud::identity::types::SourceDescription, v0_2::cloud::identity::types::Error> {
        let description = IdentityCtx::describe_source(self).await;
        description.map(v0_2::wit_description).map_err(v0_2::wit_error)
    }
}

impl v0_2::cloud::identity::token_claims::Host for IdentityCtx {
    async fn decode(
        &mut self,
        token: String,
    ) -> Result<v0_2::cloud::identity::token_claims::Claims, v0_2::cloud::identity::types::Error> {
        decode(token).map(v0_2::wit_claims).map_err(v0_2::wit_error)
    }
}

impl v0_3::cloud::identity::types::Host for IdentityCtx {}

impl<T: Send> v0_3::cloud::identity::managed_identity::HostWithStore<T> for HasIdentity {
    async fn get_token(
        accessor: &Accessor<T, Self>,
        request: v0_3::cloud::identity::types::TokenRequest,
    ) -> Result<v0_3::cloud::identity::types::AccessToken, v0_3::cloud::identity::types::Error> {
        let identity = accessor.with(|mut access| access.get().clone());
        match identity.token(v0_3::asked(request)).await {
            Ok(token) => Ok(v0_3::wit_access_token(&token)),
            Err(error) => Err(v0_3::wit_error(error)),
        }
    }
}

impl v0_3::cloud::identity::managed_identity::Host for IdentityCtx {
    async fn forget(&mut self, audience: Option<String>) {
        IdentityCtx::forget(self, audience).await;
    }

    async fn describe_source(
        &mut self,
    ) -> Result<v0_3::cloud::identity::types::SourceDescription, v0_3::cloud::identity::types::Error> {
        let description = IdentityCtx::describe_source(self).await;
        description.map(v0_3::wit_description).map_err(v0_3::wit_error)
    }
}

impl v0_3::cloud::identity::token_claims::Host for IdentityCtx {
    async fn decode(
        &mut self,
        token: String,
    ) -> Result<v0_3::cloud::identity::token_claims::Claims, v0_3::cloud::identity::types::Error> {
        decode(token).map(v0_3::wit_claims).map_err(v0_3::wit_error)
    }
}
