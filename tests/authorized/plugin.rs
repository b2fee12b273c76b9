//! A plugin in a store of its own, and a search of all its memory.

use managed_identity_host::authorized_http::AuthorizedHttp;
use managed_identity_host::{TokenRequest, WasiVersion};
use managed_identity_test_guests::{AUTHORIZED_0_2, AUTHORIZED_0_3};
use std::collections::HashSet;
use std::sync::OnceLock;
use wasmtime::component::{Component, ComponentType, Instance, Lift, Linker, Lower, ResourceTable};
use wasmtime::{Config, Engine, Store, StoreContextMut};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// The audience of vaults.
pub(crate) const VAULT: &str = "https://vault.azure.net";

/// How long a piece of a token may be that is found in memory by chance: 96 bits.
const PIECE: usize = 16;

/// What the plugin is told to send.
#[derive(Clone, Debug, ComponentType, Lower)]
#[component(record)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) scheme: String,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// A request for a whole URL.
    pub(crate) fn get(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Self {
            method: "GET".to_owned(),
            scheme: scheme.to_owned(),
            authority: authority.to_owned(),
            path: path.to_owned(),
            fields: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(crate) fn method(mut self, method: &str) -> Self {
        self.method = method.to_owned();
        self
    }

    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn body(mut self, body: &str) -> Self {
        self.body = body.as_bytes().to_vec();
        self
    }
}

/// What it got.
#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let (_, value) = self.fields.iter().find(|(own, _)| own == name)?;
        std::str::from_utf8(value).ok()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A running plugin.
pub(crate) struct Plugin {
    store: Store<World>,
    instance: Instance,
}

struct World {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: AuthorizedHttp,
    table: ResourceTable,
    looked_at: Vec<u8>,
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

/// Compiled once for all tests of the process.
fn compiled(wasi: WasiVersion) -> &'static (Engine, Component) {
    static V0_2: OnceLock<(Engine, Component)> = OnceLock::new();
    static V0_3: OnceLock<(Engine, Component)> = OnceLock::new();
    let (compiled, component) = match wasi {
        WasiVersion::V0_2 => (&V0_2, AUTHORIZED_0_2),
        WasiVersion::V0_3 => (&V0_3, AUTHORIZED_0_3),
    };
    compiled.get_or_init(|| {
        let mut config = Config::new();
        config.wasm_component_model_async(true);
        let engine = Engine::new(&config).unwrap();
        let component = Component::new(&engine, component).unwrap();
        (engine, component)
    })
}

fn linker(engine: &Engine) -> Linker<World> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).unwrap();
    wasmtime_wasi::p3::add_to_linker(&mut linker).unwrap();
    wasmtime_wasi_http::p3::add_to_linker(&mut linker).unwrap();
    linker
        .root()
        .func_wrap(
            "look",
            |mut store: StoreContextMut<'_, World>, (memory,): (Vec<u8>,)| {
                store.data_mut().looked_at = memory;
                Ok(())
            },
        )
        .unwrap();
    linker
        .root()
        .func_wrap_async("token", |store: StoreContextMut<'_, World>, (): ()| {
            let granted = store.data().hooks.granted().clone();
            Box::new(async move {
                let token = granted.token(&TokenRequest::new(VAULT)).await;
                let token = token.map(|token| token.token.expose().to_owned());
                Ok((token.map_err(|error| error.cause.name().to_owned()),))
            })
        })
        .unwrap();
    linker
}

impl Plugin {
    pub(crate) async fn start(wasi: WasiVersion, hooks: AuthorizedHttp) -> Self {
        let (engine, component) = compiled(wasi);
        let world = World {
            wasi: WasiCtx::builder().build(),
            http: WasiHttpCtx::new(),
            hooks,
            table: ResourceTable::new(),
            looked_at: Vec::new(),
        };
        let mut store = Store::new(engine, world);
        let instance = linker(engine).instantiate_async(&mut store, component).await.unwrap();
        Self { store, instance }
    }

    /// Sends a request; an error is in the words of `wasi:http`.
    pub(crate) async fn send(&mut self, request: &Request) -> Result<Reply, String> {
        let send = self
            .instance
            .get_typed_func::<(Request,), (Result<Reply, String>,)>(&mut self.store, "send")
            .unwrap();
        send.call_async(&mut self.store, (request.clone(),)).await.unwrap().0
    }

    /// Asks for a token in the ordinary way, and keeps it if there is one.
    pub(crate) async fn ask(&mut self) -> Result<(), String> {
        let ask = self
            .instance
            .get_typed_func::<(), (Result<(), String>,)>(&mut self.store, "ask")
            .unwrap();
        ask.call_async(&mut self.store, ()).await.unwrap().0
    }

    /// All of its linear memory.
    pub(crate) async fn memory(&mut self) -> Vec<u8> {
        let show = self.instance.get_typed_func::<(), ()>(&mut self.store, "show").unwrap();
        show.call_async(&mut self.store, ()).await.unwrap();
        let memory = std::mem::take(&mut self.store.data_mut().looked_at);
        assert!(
            memory.len() >= 64 * 1024 && memory.len().is_multiple_of(64 * 1024),
            "it is whole pages"
        );
        memory
    }

    /// How many pieces of the token are anywhere in its memory. The header of a token does not count: it is the same for all
    /// tokens of a key, and opens nothing.
    pub(crate) async fn pieces_of(&mut self, token: &str) -> usize {
        let (_, rest) = token.split_once('.').unwrap();
        let parts: Vec<&str> = rest.split('.').collect();
        assert!(
            parts.len() == 2 && parts.iter().all(|part| part.len() > 300),
            "a signed web token"
        );
        let pieces: HashSet<&[u8]> = parts.iter().flat_map(|part| part.as_bytes().windows(PIECE)).collect();
        let memory = self.memory().await;
        let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        memory
            .split(|byte| !is_base64(byte))
            .flat_map(|run| run.windows(PIECE))
            .filter(|window| pieces.contains(window))
            .count()
    }
}

/// How often `needle` is in `memory`.
pub(crate) fn occurrences(memory: &[u8], needle: &[u8]) -> usize {
    memory.windows(needle.len()).filter(|window| *window == needle).count()
}
