//! Instances of the cache and the provider, made for each call as hosts of short-lived ones do, on one platform and one
//! store.

use crate::plug::plug;
use crate::store::{self, Values, View};
pub(crate) use bindings::cloud::identity::types::{Identity, TokenRequest};
use managed_identity_emulator::{Emulator, EmulatorConfig, Fault, Source};
use managed_identity_host::EMBEDDED_0_2;
use managed_identity_host::outbound::{Endpoint, EndpointPolicy, Outbound, OutboundConfig, OutboundHooks};
use managed_identity_test_guests::{CACHE_DRAFT, CACHE_DRAFT2};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{HostWallClock, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use wasmtime_wasi_keyvalue::{WasiKeyValue, WasiKeyValueCtx, WasiKeyValueCtxBuilder};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit/0.2",
        inline: "
            package test:cache;
            world caller {
                export cloud:identity/managed-identity@0.2.0;
                export cloud:identity/token-claims@0.2.0;
            }
        ",
        world: "test:cache/caller",
        exports: { default: async },
    });
}

pub(crate) const VAULT: &str = "https://vault.azure.net";

/// How long the platform's tokens live.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// One of the identities of the emulated machine.
pub(crate) const CLIENT_ID: &str = "a0000000-0000-4000-8000-0000000000c1";

/// As `openssl rand -base64 32` prints it.
pub(crate) const KEY: &str = "kAcsmbWcVhCdwSkoAq3MgwDOVeMwpoeQtFm6TRAR9Rg=";

/// The draft of `wasi:keyvalue`, by who has it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Draft {
    Wasmtime,
    Spin,
}

/// What `wac plug cache.wasm --plug provider.wasm` gives.
pub(crate) fn cached(draft: Draft) -> Vec<u8> {
    let cache = match draft {
        Draft::Wasmtime => CACHE_DRAFT,
        Draft::Spin => CACHE_DRAFT2,
    };
    plug(cache, EMBEDDED_0_2).unwrap()
}

/// Compiled once for all tests of the process.
fn compiled(draft: Draft) -> &'static (Engine, Component) {
    static WASMTIME: OnceLock<(Engine, Component)> = OnceLock::new();
    static SPIN: OnceLock<(Engine, Component)> = OnceLock::new();
    let compiled = match draft {
        Draft::Wasmtime => &WASMTIME,
        Draft::Spin => &SPIN,
    };
    compiled.get_or_init(|| {
        let engine = Engine::default();
        let component = Component::new(&engine, cached(draft)).unwrap();
        (engine, component)
    })
}

/// What an instance has of the host.
struct World {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: OutboundHooks,
    table: ResourceTable,
    values: Values,
    /// The name of the store, if it is granted.
    granted: Option<&'static str>,
    /// The store that wasmtime itself has.
    own: WasiKeyValueCtx,
}

impl World {
    fn store(&mut self) -> View<'_> {
        View {
            values: &self.values,
            granted: self.granted,
            table: &mut self.table,
        }
    }
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

/// The machine's clock, moved on by hand.
struct Clock(Arc<AtomicU64>);

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        let passed = Duration::from_secs(self.0.load(Ordering::Relaxed));
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + passed
    }
}

/// A token, or the name of the cause that there is none.
pub(crate) enum Outcome {
    Token(Token),
    Cause(String),
}

pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) stale: bool,
}

/// A request for the vault, as the default identity.
pub(crate) fn request() -> TokenRequest {
    TokenRequest {
        audience: VAULT.to_owned(),
        identity: Identity::PlatformDefault,
        claims: None,
        rejected_token: None,
        timeout_ms: Some(30_000),
    }
}

/// An instance in its store.
struct Instance {
    store: Store<World>,
    exports: bindings::Caller,
}

/// A platform, a store, and instances when they are called.
pub(crate) struct Deployment {
    draft: Draft,
    emulator: Emulator,
    environment: BTreeMap<String, String>,
    values: Values,
    store_is_denied: AtomicBool,
    passed: Arc<AtomicU64>,
}

impl Deployment {
    pub(crate) fn start(draft: Draft) -> Self {
        let emulator = Emulator::start(EmulatorConfig::default()).unwrap();
        let mut environment = emulator.environment_for(Source::AppService);
        environment.insert("MANAGED_IDENTITY_CACHE_KEY".to_owned(), KEY.to_owned());
        Self {
            draft,
            emulator,
            environment,
            values: Values::default(),
            store_is_denied: AtomicBool::new(false),
            passed: Arc::default(),
        }
    }

    pub(crate) async fn stop(self) {
        self.emulator.shutdown().await;
    }

    /// Sets a variable of the instances to come.
    pub(crate) fn set(&mut self, variable: &str, value: &str) {
        self.environment.insert(variable.to_owned(), value.to_owned());
    }

    pub(crate) fn deny_store(&self) {
        self.store_is_denied.store(true, Ordering::Relaxed);
    }

    /// Moves on all clocks.
    pub(crate) fn pass(&self, time: Duration) {
        self.passed.fetch_add(time.as_secs(), Ordering::Relaxed);
        let offset = i64::try_from(self.passed.load(Ordering::Relaxed)).unwrap();
        self.emulator
            .configure(|settings| settings.clock_offset_seconds = offset);
    }

    pub(crate) fn add_fault(&self, fault: Fault) {
        self.emulator.add_fault(fault);
    }

    pub(crate) fn endpoint(&self) -> String {
        self.environment["IDENTITY_ENDPOINT"].clone()
    }

    /// How often the platform was asked.
    pub(crate) fn requests(&self) -> u64 {
        self.emulator.stats().requests
    }

    /// What is in the store.
    pub(crate) fn values(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.values.lock()
    }

    /// A new instance on the store that outlives it.
    async fn instance(&self) -> Instance {
        self.instance_on(BTreeMap::new(), |linker| match self.draft {
            Draft::Wasmtime => store::draft::add_to_linker(linker, World::store),
            Draft::Spin => store::draft2::add_to_linker(linker, World::store),
        })
        .await
    }

    async fn instance_on(&self, own: BTreeMap<String, Vec<u8>>, add_store: impl Fn(&mut Linker<World>)) -> Instance {
        let (engine, component) = compiled(self.draft);
        let mut linker = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).unwrap();
        add_store(&mut linker);
        let endpoint = Endpoint::from_environment(&self.endpoint()).unwrap();
        let outbound = Outbound::new(EndpointPolicy::from_iter([endpoint]), OutboundConfig::default());
        let variables: Vec<_> = self.environment.clone().into_iter().collect();
        let mut wasi = WasiCtx::builder();
        wasi.envs(&variables).wall_clock(Clock(Arc::clone(&self.passed)));
        let world = World {
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            hooks: OutboundHooks::new(outbound),
            table: ResourceTable::new(),
            values: self.values.clone(),
            granted: (!self.store_is_denied.load(Ordering::Relaxed)).then_some(match self.draft {
                Draft::Wasmtime => "",
                Draft::Spin => "default",
            }),
            own: WasiKeyValueCtxBuilder::new().in_memory_data(own).build(),
        };
        let mut store = Store::new(engine, world);
        let exports = bindings::Caller::instantiate_async(&mut store, component, &linker)
            .await
            .unwrap();
        Instance { store, exports }
    }

    /// What a new instance answers.
    pub(crate) async fn ask(&self, request: TokenRequest) -> Outcome {
        self.instance().await.ask(&request).await
    }

    /// The token that a new instance gives for a plain request.
    pub(crate) async fn token(&self) -> String {
        self.ask(request()).await.fresh()
    }

    /// The same of one that has the store of wasmtime itself.
    pub(crate) async fn token_on_wasmtime(&self, own: BTreeMap<String, Vec<u8>>) -> String {
        let mut instance = self
            .instance_on(own, |linker| {
                wasmtime_wasi_keyvalue::add_to_linker(linker, |world: &mut World| {
                    WasiKeyValue::new(&world.own, &mut world.table)
                })
                .unwrap();
            })
            .await;
        instance.ask(&request()).await.fresh()
    }

    /// Why a new instance gives no token.
    pub(crate) async fn cause(&self) -> String {
        match self.ask(request()).await {
            Outcome::Cause(cause) => cause,
            Outcome::Token(_) => panic!("there is a token"),
        }
    }

    pub(crate) async fn forget(&self, audience: Option<&str>) {
        let mut instance = self.instance().await;
        let exports = instance.exports.cloud_identity_managed_identity();
        exports.call_forget(&mut instance.store, audience).await.unwrap();
    }

    /// What `describe-source` gives as reasons.
    pub(crate) async fn reasons(&self) -> String {
        let mut instance = self.instance().await;
        let exports = instance.exports.cloud_identity_managed_identity();
        let description = exports.call_describe_source(&mut instance.store).await.unwrap();
        description.unwrap().reasons.join(" ")
    }

    /// For whom a token says that it is.
    pub(crate) async fn audiences(&self, token: &str) -> Vec<String> {
        let mut instance = self.instance().await;
        let exports = instance.exports.cloud_identity_token_claims();
        let claims = exports.call_decode(&mut instance.store, token).await.unwrap();
        claims.unwrap().audiences
    }
}

impl Instance {
    async fn ask(&mut self, request: &TokenRequest) -> Outcome {
        let exports = self.exports.cloud_identity_managed_identity();
        match exports.call_get_token(&mut self.store, request).await.unwrap() {
            Ok(token) => Outcome::Token(Token {
                text: token.token,
                stale: token.stale,
            }),
            Err(error) => Outcome::Cause(cause_name(&error.cause)),
        }
    }
}

impl Outcome {
    fn fresh(self) -> String {
        match self {
            Self::Token(token) => {
                assert!(!token.stale);
                token.text
            }
            Self::Cause(cause) => panic!("there is no token: {cause}"),
        }
    }
}

/// The name of a cause as WIT spells it.
fn cause_name(cause: &bindings::cloud::identity::types::Cause) -> String {
    let mut name = String::new();
    for letter in format!("{cause:?}")
        .chars()
        .skip_while(|letter| *letter != ':')
        .filter(|letter| *letter != ':')
    {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}
