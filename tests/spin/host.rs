//! What Spin does for an application, on wasmtime: an instance for each request, requests to the hosts that the manifest names,
//! and a key-value store that all of them share.

use crate::manifest::HostPattern;
use crate::store::{self, Values, View};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Cache, CacheConfig, Config, Engine, Store};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

/// How much an instance may print, in bytes.
const PRINTED: usize = 64 * 1024;

/// Compiled components are kept: an engine for JavaScript takes a while.
fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let mut cache = CacheConfig::new();
        cache.with_directory(Path::new(env!("CARGO_TARGET_TMPDIR")).join("spin-compiled"));
        let mut config = Config::new();
        config.cache(Some(Cache::new(cache).unwrap()));
        Engine::new(&config).unwrap()
    })
}

/// Tests in other processes may want the same: one compiles it, the others find it.
fn compiled(component: &[u8]) -> Component {
    let lock = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("spin-compiled.lock")).unwrap();
    lock.lock().unwrap();
    Component::new(engine(), component).unwrap()
}

/// One of the application's components, composed and ready for requests.
pub(crate) struct Application {
    component: ProxyPre<World>,
    environment: BTreeMap<String, String>,
    allowed: Arc<[HostPattern]>,
    granted: Option<String>,
    values: Values,
    refused: Refused,
    told: Told,
}

/// All that instances have told anybody but the vault: heads and bodies of answers, and what they print.
type Told = Arc<Mutex<String>>;

/// The authorities of requests that were refused.
type Refused = Arc<Mutex<Vec<String>>>;

struct World {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: Network,
    table: ResourceTable,
    granted: Option<String>,
    values: Values,
}

impl World {
    fn store(&mut self) -> View<'_> {
        View {
            values: &self.values,
            granted: self.granted.as_deref(),
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

/// What `allowed_outbound_hosts` lets through, without TLS: the servers are here.
struct Network {
    allowed: Arc<[HostPattern]>,
    refused: Refused,
}

type Rest = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Network {
    fn send_request(
        &mut self,
        mut request: Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Rest,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Rest), Error>> + Send> {
        let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        if !self.allowed.iter().any(|pattern| pattern.allows(request.uri())) {
            self.refused.lock().unwrap().push(authority);
            return Box::new(async { Err(Error::HttpRequestDenied) });
        }
        Box::new(async move {
            let stream = TcpStream::connect(authority).await.map_err(Error::Connect)?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            // The server is told the path; the field `host` is there already.
            *request.uri_mut() = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
            let response = sender.send_request(request).await?;
            let response = response.map(|body| body.map_err(Error::from).boxed_unsync());
            let rest: Rest = Box::new(std::future::ready(Ok(())));
            Ok((response, rest))
        })
    }
}

impl Application {
    /// An application of one composed component.
    pub(crate) fn new(
        component: &[u8],
        environment: BTreeMap<String, String>,
        allowed_outbound_hosts: &[String],
    ) -> Self {
        let component = compiled(component);
        let mut linker = Linker::new(engine());
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).unwrap();
        store::draft2::add_to_linker(&mut linker, World::store);
        let component = ProxyPre::new(linker.instantiate_pre(&component).unwrap()).unwrap();
        Self {
            component,
            environment,
            allowed: allowed_outbound_hosts
                .iter()
                .map(|host| HostPattern::parse(host).unwrap())
                .collect(),
            granted: None,
            values: Values::default(),
            refused: Refused::default(),
            told: Told::default(),
        }
    }

    /// All that it has told so far, in answers and in print.
    pub(crate) fn told(&self) -> String {
        self.told.lock().unwrap().clone()
    }

    /// The same with the first of these `key_value_stores`.
    pub(crate) fn with_stores(mut self, key_value_stores: &[String]) -> Self {
        self.granted = key_value_stores.first().cloned();
        self
    }

    /// What is in the store.
    pub(crate) fn values(&self) -> BTreeMap<String, Vec<u8>> {
        self.values.lock().clone()
    }

    /// The authorities to which it may not send, and tried.
    pub(crate) fn refused(&self) -> Vec<String> {
        self.refused.lock().unwrap().clone()
    }

    /// The answer of a new instance.
    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        let variables: Vec<_> = self.environment.clone().into_iter().collect();
        let printed = [MemoryOutputPipe::new(PRINTED), MemoryOutputPipe::new(PRINTED)];
        let mut wasi = WasiCtx::builder();
        wasi.envs(&variables)
            .stdout(printed[0].clone())
            .stderr(printed[1].clone());
        let world = World {
            wasi: wasi.build(),
            http: WasiHttpCtx::new(),
            hooks: Network {
                allowed: Arc::clone(&self.allowed),
                refused: Arc::clone(&self.refused),
            },
            table: ResourceTable::new(),
            granted: self.granted.clone(),
            values: self.values.clone(),
        };
        let mut store = Store::new(engine(), world);
        let request = Request::builder()
            .method(Method::GET)
            .uri(format!("http://application.example{path}"))
            .header("host", "application.example")
            .body(Empty::<Bytes>::new().map_err(|never| -> Error { match never {} }))
            .unwrap();
        let request = store
            .data_mut()
            .http()
            .new_incoming_request(Scheme::Http, request)
            .unwrap();
        let (sender, reply) = oneshot::channel();
        let reply_to = store.data_mut().http().new_response_outparam(sender).unwrap();
        let component = self.component.clone();
        // The component goes on after it has begun to answer.
        let task = tokio::spawn(async move {
            let proxy = component.instantiate_async(&mut store).await?;
            proxy
                .wasi_http_incoming_handler()
                .call_handle(&mut store, request, reply_to)
                .await
        });
        let Ok(reply) = reply.await else {
            panic!("it ended without an answer: {:?}", task.await.unwrap());
        };
        let (head, body) = reply.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        task.await.unwrap().unwrap();
        let mut told = self.told.lock().unwrap();
        told.push_str(&format!("{:?}\n{body}\n", head.headers));
        for stream in printed {
            told.push_str(&String::from_utf8_lossy(&stream.contents()));
        }
        (head.status, body)
    }
}
