//! What an operator sees and does: readiness, metrics, logs, signals, the service manager.

use crate::exchange;
use crate::support::emulated::Emulated;
use crate::support::program;
use crate::support::served::Served;
use managed_identity_emulator::Source;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What all of these servers serve.
const LISTENERS: [&str; 4] = ["--app-service", "127.0.0.1:0", "--metrics", "127.0.0.1:0"];
const PROTOCOLS: [&str; 3] = ["app-service", "metrics", "health"];
const VAULT: [&str; 2] = ["--allow", "https://vault.azure.net"];

/// When to give up waiting for what can only be asked for again and again.
const DEADLINE: Duration = Duration::from_secs(60);

/// How long between two questions.
const PAUSE: Duration = Duration::from_millis(20);

/// A directory of one test's own.
fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join("operations")
        .join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The status and the body of the answer to `GET`.
fn get(address: SocketAddr, path: &str, fields: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Connection: close\r\n\r\n");
    let reply = exchange(address, &request);
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The status of the answer to a caller with this secret.
fn ask(served: &Served, secret: &str) -> u16 {
    let path = "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net";
    let fields = format!("X-IDENTITY-HEADER: {secret}\r\n");
    get(served.address("app-service"), path, &fields).0
}

/// The samples of `/metrics`, by name and labels. Fails where a line is not as the text format has it.
fn metrics(served: &Served) -> BTreeMap<String, f64> {
    let (status, text) = get(served.address("metrics"), "/metrics", "");
    assert_eq!(status, 200);
    let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let samples = samples.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with(|first: char| first.is_ascii_lowercase()), "{line}");
        (name.to_owned(), value.parse().unwrap())
    });
    samples.collect()
}

/// Waits until this is so, which nothing tells.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "never: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Reloads so far.
fn reloads(served: &Served, outcome: &str) -> f64 {
    metrics(served)[&format!("managed_identity_serve_reloads_total{{outcome=\"{outcome}\"}}")]
}

/// Each line of a log in JSON.
fn lines(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The line that says this.
fn said<'a>(log: &'a [Value], message: &str) -> &'a Value {
    let line = log.iter().find(|line| line["message"] == message);
    line.unwrap_or_else(|| panic!("{message:?} is not in {log:#?}"))
}

#[test]
fn it_is_ready_when_its_source_is_there_and_lives_before() {
    // The port is kept, and nobody accepts there, until the platform is there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let environment = [
        ("IDENTITY_ENDPOINT".to_owned(), format!("http://{address}/msi/token")),
        ("IDENTITY_HEADER".to_owned(), "platform-secret".to_owned()),
    ];
    let served = Served::start_in(
        environment,
        &[&LISTENERS[..], &["--log-format", "json"]].concat(),
        &PROTOCOLS,
    );
    let health = served.address("health");
    let reason = format!("No connection to http://{address} at {address}");
    until("the first probe", || get(health, "/readyz", "").1.starts_with(&reason));
    assert_eq!(get(health, "/readyz", "").0, 503);
    for path in ["/livez", "/healthz"] {
        assert_eq!(get(health, path, ""), (200, "ok\n".to_owned()), "{path}");
    }
    assert_eq!(metrics(&served)["managed_identity_serve_ready"], 0.0);
    let platform = TcpListener::bind(address).unwrap();
    until("ready", || get(health, "/readyz", "") == (200, "ready\n".to_owned()));
    assert_eq!(metrics(&served)["managed_identity_serve_ready"], 1.0);
    // Without its source, it goes on serving what it holds.
    drop(platform);
    assert_eq!(get(health, "/readyz", "").0, 200);
    served.signal("TERM");
    let (code, log) = served.end();
    assert_eq!(code, Some(0), "{log}");
    let log = lines(&log);
    let not_ready = said(&log, "not ready");
    assert_eq!(
        (&not_ready["level"], &not_ready["cause"]),
        (&json!("WARN"), &json!("endpoint-unreachable"))
    );
    assert!(not_ready["reason"].as_str().unwrap().starts_with(&reason));
    said(&log, "ready");
}

#[test]
fn a_server_whose_source_is_misconfigured_starts_and_says_why_it_is_not_ready() {
    let environment = [(
        "IDENTITY_ENDPOINT".to_owned(),
        "http://127.0.0.1:1/msi/token".to_owned(),
    )];
    let served = Served::start_in(environment, &LISTENERS, &PROTOCOLS);
    let health = served.address("health");
    until("the first probe", || {
        get(health, "/readyz", "").1.contains("IDENTITY_HEADER")
    });
    assert_eq!(get(health, "/readyz", "").0, 503);
    assert_eq!(get(health, "/livez", "").0, 200);
}

#[test]
fn the_platform_is_asked_for_nothing_until_somebody_asks() {
    let platform = Emulated::start();
    let served = Served::start(
        &platform,
        Source::AppService,
        &[&LISTENERS[..], &VAULT].concat(),
        &PROTOCOLS,
    );
    let health = served.address("health");
    until("ready", || get(health, "/readyz", "").0 == 200);
    assert_eq!(metrics(&served)["managed_identity_flights_total"], 0.0);
    assert_eq!(ask(&served, "any"), 200);
    assert_eq!(ask(&served, "any"), 200);
    let metrics = metrics(&served);
    for (name, value) in [
        ("managed_identity_flights_total", 1.0),
        ("managed_identity_hits_total", 1.0),
        ("managed_identity_requests_total{outcome=\"token\",cause=\"none\"}", 2.0),
        ("managed_identity_upstream_seconds_count{outcome=\"2xx\"}", 1.0),
        (
            "managed_identity_upstream_seconds_bucket{outcome=\"2xx\",le=\"+Inf\"}",
            1.0,
        ),
        ("managed_identity_tokens_held", 1.0),
        ("managed_identity_serve_ready", 1.0),
    ] {
        assert_eq!(metrics.get(name), Some(&value), "{name} in {metrics:#?}");
    }
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let head = exchange(served.address("metrics"), request);
    let content_type = "content-type: text/plain; version=0.0.4; charset=utf-8\r\n";
    assert!(head.contains(content_type), "{head}");
}

#[test]
fn clients_are_told_what_to_set() {
    let platform = Emulated::start();
    let arguments = [&LISTENERS[..], &["--imds", "127.0.0.1:0"]].concat();
    let served = Served::start(
        &platform,
        Source::AppService,
        &arguments,
        &["app-service", "imds", "metrics", "health"],
    );
    let url = |protocol| format!("http://{}", served.address(protocol));
    for (protocol, environment) in [
        (
            "app-service",
            json!({ "IDENTITY_ENDPOINT": url("app-service") + "/msi/token" }),
        ),
        ("imds", json!({ "AZURE_POD_IDENTITY_AUTHORITY_HOST": url("imds") })),
        ("metrics", Value::Null),
        ("health", Value::Null),
    ] {
        assert_eq!(served.announced(protocol)["environment"], environment, "{protocol}");
    }
}

#[test]
fn a_secret_that_has_changed_is_taken_at_sighup_and_a_file_that_is_gone_changes_nothing() {
    let platform = Emulated::start();
    let folder = scratch("secret");
    let (file, trail) = (folder.join("secret"), folder.join("audit.jsonl"));
    let [old, new] = [
        "the-old-secret-of-the-callers-0123456789abc",
        "the-new-secret-of-the-callers-0123456789abc",
    ];
    fs::write(&file, old).unwrap();
    let own = [
        "--header-secret-file",
        file.to_str().unwrap(),
        "--audit",
        trail.to_str().unwrap(),
        "--log-format",
        "json",
        "--log-level",
        "debug",
    ];
    let arguments = [&LISTENERS[..], &VAULT, &own].concat();
    let served = Served::start(&platform, Source::AppService, &arguments, &PROTOCOLS);
    assert_eq!((ask(&served, old), ask(&served, new)), (200, 401));

    fs::write(&file, new).unwrap();
    let kept = folder.join("audit.jsonl.1");
    fs::rename(&trail, &kept).unwrap();
    served.signal("HUP");
    until("reloaded", || reloads(&served, "applied") == 1.0);
    assert_eq!((ask(&served, old), ask(&served, new)), (401, 200));
    for file in [&kept, &trail] {
        assert_eq!(
            fs::read_to_string(file).unwrap().lines().count(),
            1,
            "{}",
            file.display()
        );
    }

    fs::remove_file(&file).unwrap();
    served.signal("HUP");
    until("refused", || reloads(&served, "refused") == 1.0);
    assert_eq!((ask(&served, old), ask(&served, new)), (401, 200));

    served.signal("INT");
    let (code, log) = served.end();
    assert_eq!(code, Some(0), "{log}");
    for secret in [old, new, "eyJ"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    let log = lines(&log);
    for line in &log {
        let time = line["timestamp"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{line}");
        assert!(line["level"].is_string() && line["target"].is_string(), "{line}");
    }
    let start = said(&log, "serving");
    assert_eq!(
        (&start["version"], &start["source"], &start["callers"]),
        (&json!(env!("CARGO_PKG_VERSION")), &json!("app-service"), &json!(1))
    );
    assert!(
        start["listeners"]
            .as_str()
            .unwrap()
            .contains("app-service at 127.0.0.1:")
    );
    said(&log, "reloaded");
    let refused = said(&log, "not reloaded, the configuration before stays in force");
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains(file.to_str().unwrap()), "{error}");
    said(&log, "ending, when requests that are under way have ended");
    said(&log, "ended");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_document_that_has_changed_is_taken_at_sighup_and_one_that_is_wrong_is_refused_with_its_line() {
    let platform = Emulated::start();
    let folder = scratch("document");
    let file = folder.join("broker.toml");
    let document = |audience: &str, port: u16| {
        format!(
            "[listener.apps]\naddress = \"127.0.0.1:{port}\"\nprotocols = [\"app-service\", \"metrics\", \"health\"]\n\
             caller = \"report\"\n[caller.report]\n[[caller.report.token]]\naudiences = [\"{audience}\"]\n"
        )
    };
    fs::write(&file, document("https://other.example", 0)).unwrap();
    let arguments = ["--config", file.to_str().unwrap(), "--log-format", "json"];
    let served = Served::start(&platform, Source::AppService, &arguments, &PROTOCOLS);
    let denied = ask(&served, "any");
    assert!((400..500).contains(&denied), "{denied}");
    // What was meant for another listener is not to be had at this one.
    fs::write(&file, document("https://vault.azure.net", 1)).unwrap();
    served.signal("HUP");
    until("refused", || reloads(&served, "refused") == 1.0);
    assert_eq!(ask(&served, "any"), denied);
    let limits = "[limits]\nconnections = 100\n";
    fs::write(&file, document("https://vault.azure.net", 0) + limits).unwrap();
    served.signal("HUP");
    until("reloaded", || reloads(&served, "applied") == 1.0);
    assert_eq!(ask(&served, "any"), 200);
    fs::write(&file, document("https://vault.azure.net", 0) + "colour = \"blue\"\n").unwrap();
    served.signal("HUP");
    until("refused again", || reloads(&served, "refused") == 2.0);
    assert_eq!(ask(&served, "any"), 200);
    served.signal("TERM");
    let (code, log) = served.end();
    assert_eq!(code, Some(0), "{log}");
    let log = lines(&log);
    assert_eq!(
        said(&log, "what these keys say needs a restart")["keys"],
        "limits.connections"
    );
    let refusals = log
        .iter()
        .filter(|line| line["message"] == "not reloaded, the configuration before stays in force");
    let errors: Vec<&str> = refusals.map(|line| line["error"].as_str().unwrap()).collect();
    assert!(
        matches!(errors[..], [first, second] if first.contains("`listener.apps.address` cannot change")
            && second.contains(file.to_str().unwrap()) && second.contains("line 8")),
        "{errors:?}"
    );
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_log_for_people_has_a_line_for_each_event_and_no_colours_where_nobody_looks() {
    let platform = Emulated::start();
    let served = Served::start(&platform, Source::AppService, &LISTENERS, &PROTOCOLS);
    until("ready", || get(served.address("health"), "/readyz", "").0 == 200);
    // What is refused is told under the same name.
    assert_eq!(ask(&served, ""), 401);
    served.signal("TERM");
    let (code, log) = served.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("status=401"), "{log}");
    assert!(!log.contains('\u{1b}'), "{log:?}");
    for line in log.lines() {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{line}");
        assert!(
            rest.trim_start().starts_with("INFO managed_identity::serve: ")
                || rest.trim_start().starts_with("WARN managed_identity::serve: "),
            "{line}"
        );
    }
    assert!(log.lines().count() >= 4, "{log}");
}

#[test]
fn only_what_is_wrong_is_logged_when_nothing_else_is_wanted() {
    let platform = Emulated::start();
    let arguments = [&LISTENERS[..], &["--log-level", "error"]].concat();
    let served = Served::start(&platform, Source::AppService, &arguments, &PROTOCOLS);
    until("ready", || get(served.address("health"), "/readyz", "").0 == 200);
    served.signal("TERM");
    assert_eq!(served.end(), (Some(0), String::new()));
}

#[test]
fn a_failure_to_start_is_a_line_of_json_too() {
    let folder = scratch("failure");
    let missing = folder.join("missing");
    let arguments = [
        "serve",
        "--app-service",
        "127.0.0.1:0",
        "--header-secret-file",
        missing.to_str().unwrap(),
        "--log-format",
        "json",
    ];
    let outcome = program::run([("", ""); 0], &arguments);
    let error = outcome.error();
    assert!(
        error["message"].as_str().unwrap().contains(missing.to_str().unwrap()),
        "{error}"
    );
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_service_manager_is_told_each_step() {
    let platform = Emulated::start();
    // Below /tmp, because the path of a socket is short.
    let folder = std::env::temp_dir().join(format!("managed-identity-notify-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let told = || {
        let mut buffer = [0; 4_096];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    // What is told next, besides the life signs.
    let step = || loop {
        let told = told();
        if told != "WATCHDOG=1\n" {
            break told;
        }
    };
    let mut environment: Vec<_> = platform.environment_for(Source::AppService).into_iter().collect();
    environment.extend([
        ("NOTIFY_SOCKET".to_owned(), path.display().to_string()),
        ("WATCHDOG_USEC".to_owned(), "100000".to_owned()),
    ]);
    let served = Served::start_in(environment, &LISTENERS, &PROTOCOLS);
    let first = step();
    assert!(first.starts_with("READY=1\nSTATUS="), "{first}");
    let mut status = first.clone();
    while !status.ends_with("STATUS=Ready.\n") {
        status = step();
    }
    while told() != "WATCHDOG=1\n" {}
    served.signal("HUP");
    let reloading = step();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(time.trim_end().parse::<u64>().is_ok_and(|time| time > 0), "{reloading}");
    assert_eq!(step(), "READY=1\nSTATUS=Ready.\n");
    served.signal("TERM");
    assert!(step().starts_with("STOPPING=1\nSTATUS="));
    let (code, log) = served.end();
    assert_eq!(code, Some(0), "{log}");
    fs::remove_dir_all(folder).unwrap();
}
