//! Many requests by each way, while tokens change each second and the upstream fails now and then: none leaves without a
//! valid token, and none is lost. `./x envoy-soak` sends 100,000 by each.

#![expect(clippy::print_stdout, reason = "what a long run has found is for the reader")]

use crate::proxy::{Envoy, Folder};
use crate::support::emulated::Emulated;
use crate::support::served::Served;
use crate::{SECRET, broker, module, proxied, vault};
use managed_identity_emulator::key_vault::Behaviour;
use managed_identity_emulator::{KeyVault, Source};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const CLIENTS: usize = 8;

/// The upstream answers 503 to the last of so many.
const FAIL_EACH: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// How many tokens the upstream must have seen at the least, whatever the number of requests.
const TOKENS: usize = 3;

/// When to give up waiting for that.
const DEADLINE: Duration = Duration::from_secs(60);

/// How much the memory of Envoy may grow in the second half of a run, in KiB: less than 100 bytes for each of 100,000
/// requests, and what allocators keep of a burst.
const GROWTH: u64 = 8 * 1024;

fn requests() -> usize {
    match std::env::var("MANAGED_IDENTITY_ENVOY_REQUESTS") {
        Ok(number) => number.parse().unwrap(),
        Err(_) => 2_000,
    }
}

/// What clients were answered.
#[derive(Default)]
struct Tally {
    good: AtomicUsize,
    /// By the upstream, as it was told to.
    failed: AtomicUsize,
    /// Connections that ended before a reply began.
    broken: AtomicUsize,
    wrong: Mutex<Vec<String>>,
}

impl Tally {
    fn answered(&self) -> usize {
        self.good.load(Ordering::SeqCst) + self.failed.load(Ordering::SeqCst)
    }

    fn count(&self, reply: Option<(u16, String)>) {
        match reply {
            Some((200, body)) if body.contains("hello from the vault") => self.good.fetch_add(1, Ordering::SeqCst),
            Some((503, body)) if body.contains("ServiceUnavailable") => self.failed.fetch_add(1, Ordering::SeqCst),
            None => self.broken.fetch_add(1, Ordering::SeqCst),
            Some((status, body)) => {
                self.wrong.lock().unwrap().push(format!("{status}: {body}"));
                0
            }
        };
    }
}

/// A client that keeps its connection.
struct Client {
    envoy: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    fn new(envoy: SocketAddr) -> Self {
        Self {
            envoy,
            connection: None,
        }
    }

    /// The status and the body, unless the connection ends before.
    fn ask(&mut self) -> Option<(u16, String)> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(self.envoy).ok()?;
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                BufReader::new(stream)
            }
        };
        // In one piece: the second of two would wait for the other side's word on the first.
        let request = format!("GET {SECRET} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer forged\r\n\r\n");
        connection.get_mut().write_all(request.as_bytes()).ok()?;
        let (mut status, mut length, mut is_kept) = (None, 0, true);
        loop {
            let mut line = String::new();
            if connection.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(": ") {
                _ if status.is_none() => status = line.split(' ').nth(1)?.parse().ok(),
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("connection", "close")) => is_kept = false,
                Some(_) => {}
                None if line.is_empty() => break,
                None => panic!("{line:?} in a head"),
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).ok()?;
        if is_kept {
            self.connection = Some(connection);
        }
        Some((status?, String::from_utf8(body).unwrap()))
    }
}

/// One way, ready.
struct Way {
    platform: Emulated,
    vault: KeyVault,
    folder: Folder,
    // Kept until the end.
    _served: Option<Served>,
    envoy: Envoy,
    listener: &'static str,
}

/// A platform whose tokens are to be renewed after a second, and live for an hour.
fn rotating() -> (Emulated, KeyVault) {
    let platform = Emulated::start();
    platform.configure(|settings| settings.refresh_in = Some(1));
    let vault = vault(&platform);
    (platform, vault)
}

impl Way {
    fn module() -> Self {
        let (platform, vault) = rotating();
        let folder = Folder::new("load-module");
        let yaml = proxied("module.yaml", "upstream", &vault, &[]);
        let envoy = Envoy::start(&folder, &yaml, &module(platform.environment_for(Source::Imds)));
        Self {
            platform,
            vault,
            folder,
            _served: None,
            envoy,
            listener: "ingress",
        }
    }

    fn beside(name: &str, example: &str, protocol: &str) -> Self {
        let (platform, vault) = rotating();
        let folder = Folder::new(&format!("load-{name}"));
        let environment = platform.environment_for(Source::Imds).into_iter().collect();
        let served = broker(&folder, &format!("{name}.toml"), environment, protocol);
        let socket = folder.path("envoy.sock");
        let at = [("/run/managed-identity/envoy.sock", socket.as_str())];
        let envoy = Envoy::start(&folder, &proxied(example, "vault", &vault, &at), &[]);
        Self {
            platform,
            vault,
            folder,
            _served: Some(served),
            envoy,
            listener: "outbound",
        }
    }

    /// Sends the requests, then drains the listeners and ends Envoy while more come.
    fn endures(self) {
        let address = self.envoy.address(self.listener);
        // Envoy may listen before it knows a secret, and then says so.
        self.envoy.wait_for("it has a token", |_| {
            (Client::new(address).ask()?.0 == 200).then_some(())
        });
        self.vault.behave(Behaviour {
            fail_each: Some(FAIL_EACH),
            ..Behaviour::default()
        });
        let (tally, is_over, wanted) = (Tally::default(), AtomicBool::new(false), requests());
        let mut early = 0;
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut client = Client::new(address);
                        while !is_over.load(Ordering::SeqCst) {
                            tally.count(client.ask());
                        }
                    })
                })
                .collect();
            // Whatever is wrong here, the clients have to end.
            let _ends = Ends(&is_over);
            let begun = Instant::now();
            self.reach(&tally, wanted / 2, begun);
            early = self.envoy.resident();
            self.reach(&tally, wanted, begun);
            while self.vault.tokens() < TOKENS {
                assert!(begun.elapsed() < DEADLINE, "the tokens do not change");
                thread::yield_now();
            }
            is_over.store(true, Ordering::SeqCst);
            clients.into_iter().for_each(|client| client.join().unwrap());
            println!(
                "{}: {} requests in {:.1} s, of which {} failed at the upstream as they had to; {} tokens by {} requests to \
                 the platform; Envoy has {early} KiB after half of them, and {} KiB at the end",
                self.listener,
                tally.answered(),
                begun.elapsed().as_secs_f64(),
                tally.failed.load(Ordering::SeqCst),
                self.vault.tokens(),
                self.platform.requests().len(),
                self.envoy.resident(),
            );
        });
        self.is_in_order(&tally);
        // All that were permitted, and that is all there were, were counted.
        let failed = tally.failed.load(Ordering::SeqCst);
        assert!(
            failed.abs_diff(tally.answered() / FAIL_EACH.get() as usize) <= 1,
            "{failed} failed"
        );
        assert_eq!(tally.broken.load(Ordering::SeqCst), 0);
        let late = self.envoy.resident();
        assert!(late < early + GROWTH, "Envoy grows from {early} KiB to {late} KiB");
        self.ends_well(address);
    }

    fn reach(&self, tally: &Tally, wanted: usize, begun: Instant) {
        // Slow machines take as long as they need, as long as they go on.
        let (mut last, mut since) = (0, begun);
        loop {
            let answered = tally.answered();
            if answered >= wanted {
                return;
            }
            if answered > last {
                (last, since) = (answered, Instant::now());
            }
            self.is_in_order(tally);
            assert!(since.elapsed() < DEADLINE, "no reply any more: {}", self.envoy.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_in_order(&self, tally: &Tally) {
        let wrong = tally.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{wrong:?}: {}", self.envoy.log());
    }

    /// Under load, the listeners are drained and Envoy is told to end.
    fn ends_well(self, address: SocketAddr) {
        let (tally, is_over) = (Tally::default(), AtomicBool::new(false));
        let folder = self.folder;
        let code = thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut client = Client::new(address);
                    // Nobody listens any more at the end.
                    while !is_over.load(Ordering::SeqCst) {
                        tally.count(client.ask());
                    }
                });
            }
            let _ends = Ends(&is_over);
            while tally.answered() < 100 {
                thread::yield_now();
            }
            self.envoy.tell("/drain_listeners?graceful");
            let drained = tally.answered() + 100;
            while tally.answered() < drained && tally.broken.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            self.envoy.terminate()
        });
        let log = fs::read_to_string(folder.path("envoy.log")).unwrap();
        assert_eq!(code, Some(0), "{log}");
        let wrong = tally.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{wrong:?}: {log}");
    }
}

/// Tells the clients that it is over, also when a check has failed.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn the_module_endures_under_load() {
    let way = Way::module();
    let envoy = &way.envoy;
    let address = envoy.address(way.listener);
    envoy.wait_for("it has a token", |_| {
        (Client::new(address).ask()?.0 == 200).then_some(())
    });
    // From then on no request waits, however often the token changes.
    let fetched = || envoy.stat("dynamicmodulescustom.managed_identity.fetched");
    let before = fetched();
    assert!(before.is_some(), "no such counter");
    let mut client = Client::new(address);
    let begun = Instant::now();
    while way.vault.tokens() < TOKENS {
        assert_eq!(client.ask().unwrap().0, 200);
        assert!(begun.elapsed() < DEADLINE, "the tokens do not change");
    }
    assert_eq!(fetched(), before);
    drop(client);
    way.endures();
}

#[test]
fn external_authorization_endures_under_load() {
    Way::beside("ext-authz", "ext-authz-grpc.yaml", "envoy-ext-authz").endures();
}

#[test]
fn secret_discovery_endures_under_load() {
    Way::beside("sds", "sds.yaml", "envoy-sds").endures();
}

#[test]
fn the_module_survives_reloads_under_load() {
    let (platform, vault) = rotating();
    let folder = Folder::new("load-reload");
    let yaml = proxied("module.yaml", "upstream", &vault, &[]);
    let (before, rest) = yaml.split_once("  listeners:\n").unwrap();
    let (listener, clusters) = rest.split_once("  clusters:\n").unwrap();
    let listener: String = listener
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("    ").unwrap()))
        .collect();
    let of_type = "- \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n  name: ingress\n";
    let listener = format!("resources:\n{}", listener.replacen("- name: ingress\n", of_type, 1));
    assert!(listener.contains(of_type) && listener.contains("\"10s\""));
    let reload = |seconds: usize| {
        let text = listener.replace("\"10s\"", &format!("\"{}s\"", 10 + seconds));
        fs::rename(folder.write("next.yaml", &text), folder.path("listener.yaml")).unwrap();
    };
    reload(0);
    let discovered = format!(
        "node: {{ id: test, cluster: test }}\ndynamic_resources:\n  lds_config:\n    resource_api_version: V3\n    \
         path_config_source: {{ path: {} }}\n{before}  clusters:\n{clusters}",
        folder.path("listener.yaml")
    );
    let environment = module(platform.environment_for(Source::Imds));
    // Whoever is slow has the time to end what the old listener has begun: Envoy breaks it off otherwise.
    let envoy = Envoy::start_with(&folder, &discovered, &environment, &["--drain-time-s", "60"]);
    let address = envoy.address("ingress");
    let (tally, is_over) = (Tally::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !is_over.load(Ordering::SeqCst) {
                    let mut client = Client::new(address);
                    (0..20).for_each(|_| tally.count(client.ask()));
                }
            });
        }
        let _ends = Ends(&is_over);
        for round in 1..=10 {
            let answered = tally.answered();
            reload(round);
            envoy.wait_for("it has the next listener", |envoy| {
                let updates = envoy.stat("listener_manager.lds.update_success")?;
                (updates > round as u64 && tally.answered() > answered + 100).then_some(())
            });
        }
    });
    let wrong = tally.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{wrong:?}: {}", envoy.log());
    assert_eq!(
        tally.broken.load(Ordering::SeqCst),
        0,
        "connections broke: {}",
        envoy.log()
    );
    // All of them had one broker.
    let (asked, tokens) = (platform.requests().len(), vault.tokens());
    assert!(asked <= tokens + 1, "{asked} requests for {tokens} tokens");
    assert_eq!(envoy.terminate(), Some(0));
}
