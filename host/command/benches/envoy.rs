//! What a token costs a request through Envoy: `./x envoy-load`. wrk sends requests through the real Envoy, with one worker,
//! to a bare hyper server: without a filter, and with each of the three ways to add a cached token. All run in one run, in
//! rounds, each on the same processor. The table and the plot are written to `target/bench`.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

#[path = "../../../tests/envoy/installed.rs"]
#[expect(clippy::unwrap_used, reason = "shared with the tests")]
mod installed;
#[path = "load/instructions.rs"]
mod instructions;
mod load;

use load::{Load, Outcome, Program, arguments, bare, managed_identity, platform, size_of, target};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const AUDIENCE: &str = "https://vault.azure.net";
const TYPES: &str = "type.googleapis.com/envoy.extensions";
const ROUNDS: usize = 7;
const SECONDS: u64 = 5;
/// How long something may take to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Outcome<()> {
    match arguments().iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bare"] => bare(),
        ["instructions"] => instructions::run(),
        [] => run(ROUNDS, SECONDS),
        ["--rounds", rounds, "--seconds", seconds] => run(rounds.parse()?, seconds.parse()?),
        _ => Err("usage: ./x envoy-load [--rounds N --seconds N], or ./x envoy-instructions".into()),
    }
}

/// How a request gets its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    NoFilter,
    /// No filter either: Envoy adds a constant as long as a token, for what those bytes cost by themselves.
    Constant,
    /// The module, with no rule for the requests: what Envoy's own part of any module costs, and a hook of ours.
    Idle,
    Module,
    ExtAuthz,
    Sds,
    /// A module that does nothing, and one that sets a constant: the least of each, `floor.c`.
    Empty,
    Least,
    /// The filter of [`Way::Sds`], with a secret that nobody has to tell.
    Injector,
}

impl Way {
    /// Those whose load is measured.
    const ALL: [Self; 7] = [
        Self::NoFilter,
        Self::Constant,
        Self::Idle,
        Self::Least,
        Self::Module,
        Self::ExtAuthz,
        Self::Sds,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::NoFilter => "no filter",
            Self::Constant => "a constant as long",
            Self::Idle => "dynamic module, no rule",
            Self::Module => "dynamic module",
            Self::ExtAuthz => "ext_authz gRPC",
            Self::Sds => "SDS",
            Self::Empty => "a module in C that does nothing",
            Self::Least => "a module in C that sets a constant as long",
            Self::Injector => "credential injector",
        }
    }

    /// The dynamic module, as Envoy finds it.
    fn module(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Least => "least",
            _ => "managed_identity_envoy",
        }
    }

    /// Whether the upstream sees that a request has a token, or what is as long.
    fn is_authorized(self) -> bool {
        !matches!(self, Self::NoFilter | Self::Idle | Self::Empty)
    }

    /// The filter before the router's.
    fn filter(self) -> Option<Value> {
        let rules = match self {
            Self::Module => json!([{"audience": AUDIENCE}]),
            _ => json!([]),
        };
        let broker = json!({"envoy_grpc": {"cluster_name": "managed-identity"}});
        let secret = match self {
            // One that is among the configuration's own.
            Self::Injector => Value::Null,
            _ => json!({
                "resource_api_version": "V3",
                "api_config_source": {
                    "api_type": "GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [broker],
                },
            }),
        };
        let (name, config) = match self {
            Self::NoFilter | Self::Constant => return None,
            Self::Idle | Self::Module | Self::Empty | Self::Least => (
                "managed-identity",
                json!({
                    "@type": format!("{TYPES}.filters.http.dynamic_modules.v3.DynamicModuleFilter"),
                    "dynamic_module_config": {
                        "name": self.module(),
                        "do_not_close": true,
                    },
                    "filter_name": "managed-identity",
                    "filter_config": {
                        "@type": "type.googleapis.com/google.protobuf.StringValue",
                        "value": json!({"rules": rules}).to_string(),
                    },
                }),
            ),
            Self::ExtAuthz => (
                "envoy.filters.http.ext_authz",
                json!({
                    "@type": format!("{TYPES}.filters.http.ext_authz.v3.ExtAuthz"),
                    "transport_api_version": "V3",
                    "grpc_service": {"envoy_grpc": {"cluster_name": "managed-identity"}, "timeout": "15s"},
                }),
            ),
            Self::Sds | Self::Injector => (
                "envoy.filters.http.credential_injector",
                json!({
                    "@type": format!("{TYPES}.filters.http.credential_injector.v3.CredentialInjector"),
                    "overwrite": true,
                    "credential": {
                        "name": "envoy.http.injected_credentials.generic",
                        "typed_config": {
                            "@type": format!("{TYPES}.http.injected_credentials.generic.v3.Generic"),
                            "credential": {"name": "vault", "sds_config": secret},
                        },
                    },
                }),
            ),
        };
        Some(json!({"name": name, "typed_config": config}))
    }

    /// The configuration of the broker beside Envoy.
    fn broker(self, socket: &str) -> Option<String> {
        let (protocol, secret) = match self {
            Self::ExtAuthz => ("envoy-ext-authz", ""),
            Self::Sds => (
                "envoy-sds",
                "[secret.vault]\ncaller = \"envoy\"\naudience = \"https://vault.azure.net\"\n",
            ),
            _ => return None,
        };
        Some(format!(
            "[listener.envoy]\naddress = \"unix:{socket}\"\nprotocols = [\"{protocol}\"]\ncaller = \"envoy\"\n{secret}\
             [caller.envoy]\n[[caller.envoy.token]]\naudiences = [\"{AUDIENCE}\"]\n"
        ))
    }
}

/// One way, the broker if there is one, and what was measured.
struct Measured {
    way: Way,
    /// Where Envoy finds modules.
    modules: PathBuf,
    folder: PathBuf,
    configuration: Value,
    environment: Vec<(String, String)>,
    broker: Option<Program>,
    loads: Vec<Load>,
    /// How long Envoy's worker was busy for one request, in microseconds.
    costs: Vec<f64>,
    /// Resident memory of Envoy after each load, in KiB.
    sizes: Vec<u64>,
}

impl Measured {
    fn new(
        way: Way,
        folder: &Path,
        upstream: SocketAddr,
        environment: &[(String, String)],
        token: usize,
    ) -> Outcome<Self> {
        let modules = folder.to_owned();
        let folder = folder.join(format!("{way:?}"));
        fs::create_dir_all(&folder)?;
        let socket = folder.join("s").to_string_lossy().into_owned();
        let broker = match way.broker(&socket) {
            None => None,
            Some(text) => {
                let file = folder.join("broker.toml");
                fs::write(&file, text)?;
                let mut serve = managed_identity(&["serve", "--config", &file.to_string_lossy()])?;
                serve.envs(environment.iter().cloned());
                Some(Program::start(&mut serve)?)
            }
        };
        Ok(Self {
            way,
            modules,
            folder,
            configuration: configuration(way, upstream, &socket, token),
            environment: environment.to_vec(),
            broker,
            loads: Vec::new(),
            costs: Vec::new(),
            sizes: Vec::new(),
        })
    }

    /// Each load is that of a new process, because one can be faster than its equal for as long as it lives.
    fn measure(&mut self, seconds: u64) -> Outcome<()> {
        let mut pinned = Command::new("taskset");
        pinned.args(["--cpu-list", &ENVOYS.to_string()]);
        let envoy = Envoy::start(
            pinned,
            &self.modules,
            &self.folder,
            &self.configuration,
            &self.environment,
            PATIENCE,
        )?;
        let begun = Instant::now();
        let authorized = self.way.is_authorized();
        // Envoy knows where it will listen before it does, and may listen before a secret is there.
        while ask(envoy.listening).map(|reply| reply.contains("x-authorized: yes")) != Some(authorized) {
            if begun.elapsed() > PATIENCE {
                return Err(format!("{}: the upstream does not see what it should", self.way.name()).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let address = format!("http://{}/", envoy.listening);
        // The first load warms up.
        Load::run(&address, &[], 1)?;
        let before = envoy.worked()?;
        let load = Load::run(&address, &[], seconds)?;
        let worked = envoy.worked()?.saturating_sub(before);
        self.costs
            .push(worked as f64 / 1_000.0 / (load.requests * seconds as f64));
        self.loads.push(load);
        self.sizes.push(size_of(envoy.child.id())?.0);
        Ok(())
    }
}

/// A running Envoy with one worker. It is killed when dropped.
struct Envoy {
    child: Child,
    listening: SocketAddr,
}

impl Envoy {
    /// Runs it by the program that `under` is, with the modules of a folder, and waits for it to listen.
    fn start(
        mut under: Command,
        modules: &Path,
        folder: &Path,
        configuration: &Value,
        environment: &[(String, String)],
        patience: Duration,
    ) -> Outcome<Self> {
        let (file, admin) = (folder.join("envoy.json"), folder.join("admin"));
        fs::write(&file, configuration.to_string())?;
        let log = fs::File::create(folder.join("envoy.log"))?;
        let child = under
            .arg(installed::envoy())
            .arg("--config-path")
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&admin)
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"])
            .envs(environment.iter().cloned())
            .env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", modules)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{under:?} cannot be started: {error}"))?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut envoy = Self {
            child,
            listening: nowhere,
        };
        let begun = Instant::now();
        loop {
            if let Some(address) = envoy.address(&admin) {
                envoy.listening = address;
                return Ok(envoy);
            }
            if begun.elapsed() > patience || envoy.child.try_wait()?.is_some() {
                let log = fs::read_to_string(folder.join("envoy.log"))?;
                return Err(format!("Envoy does not listen: {log}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn address(&self, admin: &Path) -> Option<SocketAddr> {
        let admin = fs::read_to_string(admin).ok()?.trim().parse().ok()?;
        let reply = get(admin, "/listeners").ok()?;
        let line = reply.lines().find_map(|line| line.strip_prefix("load::"))?;
        line.trim().parse().ok()
    }
}

impl Envoy {
    /// How long its worker has been busy, in nanoseconds.
    fn worked(&self) -> Outcome<u64> {
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?.path();
            if fs::read_to_string(task.join("comm"))?.starts_with("wrk:worker") {
                let times = fs::read_to_string(task.join("schedstat"))?;
                return Ok(times.split(' ').next().ok_or("no time")?.parse()?);
            }
        }
        Err("Envoy has no worker".into())
    }

    /// Ends it as an operator does.
    fn terminate(mut self) -> Outcome<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        match self.child.wait()?.success() {
            true => Ok(()),
            false => Err("Envoy did not end well".into()),
        }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(way: Way, upstream: SocketAddr, socket: &str, token: usize) -> Value {
    let loopback = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let at = |name: &str, address: Value| {
        let endpoint = json!({"endpoint": {"address": address}});
        json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]})
    };
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")},
    });
    let constant = format!("Bearer {}", "x".repeat(token));
    let filters: Vec<Value> = way.filter().into_iter().chain([router]).collect();
    let mut route = json!({"match": {"prefix": "/"}, "route": {"cluster": "upstream"}});
    if way == Way::ExtAuthz {
        route["typed_per_filter_config"] = json!({"envoy.filters.http.ext_authz": {
            "@type": format!("{TYPES}.filters.http.ext_authz.v3.ExtAuthzPerRoute"),
            "check_settings": {"context_extensions": {"audience": AUDIENCE}},
        }});
    }
    if way == Way::Constant {
        route["request_headers_to_add"] = json!([{"header": {"key": "authorization", "value": constant}}]);
    }
    let mut clusters = vec![json!({
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": at("upstream", loopback(upstream.port())),
    })];
    if way.broker(socket).is_some() {
        clusters.push(json!({
            "name": "managed-identity",
            "type": "STATIC",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": {"http2_protocol_options": {}},
            }},
            "load_assignment": at("managed-identity", json!({"pipe": {"path": socket}})),
        }));
    }
    json!({
        "node": {"id": "load", "cluster": "load"},
        "admin": {"address": loopback(0)},
        "static_resources": {
            "listeners": [{
                "name": "load",
                "address": loopback(0),
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": format!(
                            "{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"
                        ),
                        "stat_prefix": "load",
                        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
                        "http_filters": filters,
                    },
                }]}],
            }],
            "clusters": clusters,
            "secrets": match way {
                Way::Injector => json!([{"name": "vault", "generic_secret": {"secret": {"inline_string": constant}}}]),
                _ => json!([]),
            },
        },
    })
}

fn get(address: SocketAddr, target: &str) -> Outcome<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n"
    )?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    Ok(reply)
}

/// The reply of the upstream; none when Envoy answers itself, or does not listen yet.
fn ask(address: SocketAddr) -> Option<String> {
    let reply = get(address, "/").ok()?;
    reply.starts_with("HTTP/1.1 200 ").then_some(reply)
}

/// Which processor Envoy has for itself, so that its own work is what is measured.
const ENVOYS: usize = 0;

/// Leaves that processor, with all that is started from here on.
fn make_way() -> Outcome<()> {
    let last = std::thread::available_parallelism()?.get() - 1;
    if last == ENVOYS {
        return Err("this needs a processor for Envoy and another one for the load".into());
    }
    let moved = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid"])
        .args([format!("{}-{last}", ENVOYS + 1), std::process::id().to_string()])
        .stdout(Stdio::null())
        .status()?;
    match moved.success() {
        true => Ok(()),
        false => Err("`taskset` of util-linux cannot choose processors".into()),
    }
}

fn run(rounds: usize, seconds: u64) -> Outcome<()> {
    make_way()?;
    let (_platform, environment) = platform()?;
    let upstream = Program::start(Command::new(std::env::current_exe()?).arg("bare"))?;
    let upstream = upstream.listening().map(|address| (address, upstream))?;
    let token = token_length(&environment)?;
    // Short, because those of sockets have to be.
    let folder = std::env::temp_dir().join(format!("mi-load-{}", std::process::id()));
    modules(&folder, token)?;
    let all = Way::ALL.iter();
    let mut all: Vec<Measured> = all
        .map(|way| Measured::new(*way, &folder, upstream.0, &environment, token))
        .collect::<Outcome<_>>()?;
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        // Whoever is first in one round is last in the next.
        all.rotate_left(1);
        for measured in &mut all {
            measured.measure(seconds)?;
        }
    }
    all.sort_by_key(|measured| Way::ALL.iter().position(|way| *way == measured.way));
    let rows = rows(&all)?;
    let table = table(&rows, token, rounds, seconds);
    println!("\n{table}");
    let bench = bench_folder()?;
    fs::write(bench.join("envoy.md"), &table)?;
    fs::write(bench.join("envoy.svg"), plot(&rows)?)?;
    println!("written to {}", bench.join("envoy.md").display());
    let _ = fs::remove_dir_all(folder);
    Ok(())
}

/// How many bytes a token of this platform has.
fn token_length(environment: &[(String, String)]) -> Outcome<usize> {
    let mut asking = managed_identity(&["token", "--resource", AUDIENCE])?;
    let token = asking.envs(environment.iter().cloned()).output()?;
    match token.status.success() {
        true => Ok(token.stdout.trim_ascii().len()),
        false => Err(String::from_utf8_lossy(&token.stderr).into()),
    }
}

/// Puts our module, and those that it is compared with, into one folder, because Envoy looks into one.
fn modules(folder: &Path, token: usize) -> Outcome<()> {
    fs::create_dir_all(folder)?;
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load/floor.c");
    let length = format!("-DLENGTH={}", "Bearer ".len() + token);
    for (name, option) in [("empty", None), ("least", Some(&length))] {
        let compiled = Command::new("cc")
            .args(["-O2", "-shared", "-fPIC"])
            .args(option)
            .arg(source)
            .arg("-o")
            .arg(folder.join(format!("lib{name}.so")))
            .status()?;
        if !compiled.success() {
            return Err(format!("`cc` cannot compile {source}").into());
        }
    }
    let ours = "libmanaged_identity_envoy.so";
    let executable = std::env::current_exe()?;
    let beside = executable.parent().ok_or("the benchmark lies in no folder")?;
    fs::copy(beside.join(ours), folder.join(ours))?;
    Ok(())
}

/// Where results are written.
fn bench_folder() -> Outcome<PathBuf> {
    let folder = target()?.join("bench");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Medians of one way. Ratios are those of medians to the ones of Envoy without a filter.
struct Row {
    name: &'static str,
    requests: f64,
    ratio: f64,
    cost: f64,
    cost_ratio: f64,
    p50: f64,
    p99: f64,
    p99_ratio: f64,
    envoy: f64,
    broker: Option<f64>,
    errors: String,
}

fn rows(all: &[Measured]) -> Outcome<Vec<Row>> {
    let first = all.first().ok_or("nothing was measured")?;
    let times = |loads: &[Load], of: fn(&Load) -> &str| -> Outcome<Vec<f64>> {
        loads.iter().map(|load| milliseconds(of(load))).collect()
    };
    let base_requests = median(first.loads.iter().map(|load| load.requests));
    let base_cost = median(first.costs.iter().copied());
    let base_p99 = median(times(&first.loads, |load| &load.p99)?.into_iter());
    let mebibytes = |kibibytes: u64| kibibytes as f64 / 1024.0;
    all.iter()
        .map(|measured| {
            let loads = &measured.loads;
            let requests = median(loads.iter().map(|load| load.requests));
            let p50 = times(loads, |load| &load.p50)?;
            let p99 = median(times(loads, |load| &load.p99)?.into_iter());
            let cost = median(measured.costs.iter().copied());
            let mut errors: Vec<&str> = loads.iter().map(|load| load.errors.as_str()).collect();
            errors.sort_unstable();
            errors.dedup();
            Ok(Row {
                name: measured.way.name(),
                requests,
                ratio: requests / base_requests,
                cost,
                cost_ratio: cost / base_cost,
                p50: median(p50.into_iter()),
                p99_ratio: p99 / base_p99,
                p99,
                envoy: median(measured.sizes.iter().map(|size| mebibytes(*size))),
                broker: match &measured.broker {
                    None => None,
                    Some(broker) => Some(mebibytes(broker.size()?.0)),
                },
                errors: errors.join("; "),
            })
        })
        .collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What wrk writes as 950.00us, 1.21ms or 1.01s.
fn milliseconds(text: &str) -> Outcome<f64> {
    for (unit, factor) in [("us", 0.001), ("ms", 1.0), ("s", 1_000.0)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Ok(number.parse::<f64>()? * factor);
        }
    }
    Err(format!("wrk said {text:?} for a time").into())
}

fn table(rows: &[Row], token: usize, rounds: usize, seconds: u64) -> String {
    let mut text = format!(
        "Envoy 1.40 with one worker, {} connections of wrk. Envoy has a processor for itself; wrk, the upstream and the \
         broker share the others. A token has {token} bytes. Medians \
         of {rounds} interleaved rounds of {seconds} s.\n\n\
         | | requests/s | of no filter | Envoy's worker per request | to no filter | p50 | p99 | p99 to no filter | RSS of Envoy | of the broker | errors |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
        load::CONNECTIONS
    );
    for row in rows {
        let broker = row.broker.map_or("-".to_owned(), |size| format!("{size:.0} MiB"));
        // A String takes whatever is written.
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.1} % | {:.1} µs | {:.2} | {:.2} ms | {:.2} ms | {:.2} | {:.0} MiB | {broker} | {} |",
            row.name,
            row.requests,
            row.ratio * 100.0,
            row.cost,
            row.cost_ratio,
            row.p50,
            row.p99,
            row.p99_ratio,
            row.envoy,
            row.errors
        );
    }
    text
}

/// Bars of requests per second.
fn plot(rows: &[Row]) -> Outcome<String> {
    const WIDTH: f64 = 400.0;
    let most = rows.iter().map(|row| row.requests).fold(1.0, f64::max);
    let height = 30 * rows.len() + 30;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"840\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"840\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"18\">requests per second through one Envoy worker, and p99</text>\n"
    );
    for (index, row) in rows.iter().enumerate() {
        let (top, width) = (30 + 30 * index, WIDTH * row.requests / most);
        writeln!(
            svg,
            "<text x=\"10\" y=\"{y}\">{name}</text><rect x=\"290\" y=\"{top}\" width=\"{width:.0}\" height=\"20\" \
             fill=\"#3b6ea5\"/><text x=\"{end:.0}\" y=\"{y}\">{requests:.0}/s, {p99:.2} ms</text>",
            y = top + 15,
            name = row.name,
            end = 296.0 + width,
            requests = row.requests,
            p99 = row.p99,
        )?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}
