//! The module asks the identity endpoint through a cluster of Envoy.

use super::{FORGED, SECRET, is_opened, module, nobody, proxied, vault};
use crate::gate::Gate;
use crate::proxy::{Envoy, Folder, refusal, request};
use crate::support::emulated::Emulated;
use managed_identity_emulator::{KeyVault, Source};
use std::net::SocketAddr;
use std::thread;

const EXAMPLE: &str = "module-cluster.yaml";

/// The identity endpoint in the example.
const ENDPOINT: &str = "address: 169.254.169.254, port_value: 80 }";

/// How many counters of Envoy begin that are about it.
const COUNTED: &str = "cluster.identity.upstream_rq_";

/// The example, whose cluster has its endpoint at this port.
fn example(vault: &KeyVault, port: u16, others: &[(&str, &str)]) -> String {
    let endpoint = format!("address: 127.0.0.1, port_value: {port} }}");
    let mut replaced = vec![(ENDPOINT, endpoint.as_str())];
    replaced.extend(others);
    proxied(EXAMPLE, "upstream", vault, &replaced)
}

/// Where the address in a URL leads.
fn address(url: &str) -> SocketAddr {
    let rest = url.strip_prefix("http://").unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}

fn platform_address(platform: &Emulated) -> SocketAddr {
    address(&platform.environment_for(Source::AppService)["IDENTITY_ENDPOINT"])
}

fn counted(envoy: &Envoy, name: &str) -> u64 {
    envoy.counted(&format!("{COUNTED}{name}"))
}

#[test]
fn the_token_arrives_through_the_cluster() {
    for source in [Source::Imds, Source::AppService] {
        let platform = Emulated::start();
        let vault = vault(&platform);
        let folder = Folder::new(&format!("cluster-{source:?}"));
        let yaml = example(&vault, platform_address(&platform).port(), &[]);
        let envoy = Envoy::start(&folder, &yaml, &module(platform.environment_for(source)));
        is_opened(envoy.address("ingress"));
        // Envoy has asked, and nobody else.
        assert_eq!((counted(&envoy, "total"), counted(&envoy, "200")), (1, 1));
        let requests = platform.requests();
        assert_eq!(requests.len(), 1, "{}", envoy.log());
        // What the cluster takes away, because no identity endpoint would take it.
        for name in ["x-forwarded-for", "x-envoy-internal", "x-envoy-expected-rq-timeout-ms"] {
            assert!(requests[0].header(name).is_none(), "{name}");
        }
        assert_eq!(envoy.terminate(), Some(0));
    }
}

#[test]
fn a_cluster_that_envoy_does_not_have_is_named() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("cluster-unknown");
    let unknown = [("\"cluster\": \"identity\"", "\"cluster\": \"nowhere\"")];
    let yaml = example(&vault, 1, &unknown);
    let environment = platform.environment_for(Source::AppService);
    let envoy = Envoy::start(&folder, &yaml, &module(environment));
    let (status, reply) = request(envoy.address("ingress"), SECRET, &[FORGED]).unwrap();
    assert_eq!(status, 503, "{reply}");
    assert!(
        reply.contains("x-managed-identity-error: endpoint-unreachable"),
        "{reply}"
    );
    assert!(
        envoy.log().contains("Envoy has no cluster `nowhere`"),
        "{}",
        envoy.log()
    );
    assert!(platform.requests().is_empty() && vault.requests().is_empty());
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn a_cluster_without_a_name_is_refused() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("cluster-refused");
    let yaml = example(&vault, 1, &[("\"cluster\": \"identity\"", "\"cluster\": \"\"")]);
    let said = refusal(&folder, &yaml, &module(platform.environment_for(Source::Imds)));
    assert!(said.contains("`outbound.cluster` is missing"), "{said}");
}

#[test]
fn a_source_that_only_the_modules_own_client_can_ask_is_named() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("cluster-pinned");
    let yaml = example(&vault, 1, &[]);
    let environment = [
        (
            "IDENTITY_ENDPOINT",
            "https://127.0.0.1:1/metadata/identity/oauth2/token",
        ),
        ("IDENTITY_HEADER", "secret"),
        ("IDENTITY_SERVER_THUMBPRINT", "0123456789abcdef0123456789abcdef01234567"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let envoy = Envoy::start(&folder, &yaml, &module(environment));
    // Before anybody asks.
    envoy.wait_for("it says so", |envoy| {
        let log = envoy.log();
        (log.contains("there will be no tokens") && log.contains("\"outbound\": \"host\"")).then_some(())
    });
    let (status, reply) = request(envoy.address("ingress"), SECRET, &[FORGED]).unwrap();
    assert_eq!(status, 503, "{reply}");
    assert!(reply.contains("x-managed-identity-error: not-configured"), "{reply}");
    assert_eq!(counted(&envoy, "total"), 0);
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn the_module_denies_when_nobody_answers_the_cluster() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("cluster-down");
    let environment = nobody(&platform);
    let (_, endpoint) = environment
        .iter()
        .find(|(name, _)| name == "IDENTITY_ENDPOINT")
        .unwrap();
    let yaml = example(&vault, address(endpoint).port(), &[]);
    let envoy = Envoy::start(&folder, &yaml, &module(environment));
    let (status, reply) = request(envoy.address("ingress"), SECRET, &[FORGED]).unwrap();
    assert_eq!(status, 503, "{reply}");
    assert!(
        reply.contains("x-managed-identity-error: endpoint-unreachable"),
        "{reply}"
    );
    assert!(counted(&envoy, "503") >= 1);
    assert!(vault.requests().is_empty());
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn no_worker_waits_for_the_cluster() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("cluster-slow");
    let gate = Gate::to(platform_address(&platform));
    let yaml = example(&vault, gate.port(), &[]);
    let envoy = Envoy::start(&folder, &yaml, &module(platform.environment_for(Source::Imds)));
    let address = envoy.address("ingress");
    let held = thread::spawn(move || request(address, SECRET, &[FORGED]));
    gate.wait_for(1);
    // More connections than there are workers.
    for _ in 0..8 {
        let (status, _) = request(address, "/health", &[]).unwrap();
        assert_eq!(status, 401);
    }
    assert!(!held.is_finished());
    gate.open();
    let (status, reply) = held.join().unwrap().unwrap();
    assert_eq!(status, 200, "{reply}");
    assert_eq!(platform.requests().len(), 1);
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn the_clusters_own_time_ends_what_hangs() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("cluster-time");
    let gate = Gate::to(platform_address(&platform));
    let yaml = example(
        &vault,
        gate.port(),
        &[("\"timeout\": \"5s\"", "\"timeout\": \"100ms\"")],
    );
    let environment = platform.environment_for(Source::AppService);
    let envoy = Envoy::start(&folder, &yaml, &module(environment));
    let (status, reply) = request(envoy.address("ingress"), SECRET, &[FORGED]).unwrap();
    assert_eq!(status, 503, "{reply}");
    assert!(reply.contains("x-managed-identity-error: "), "{reply}");
    assert!(counted(&envoy, "timeout") >= 1);
    assert_eq!(envoy.terminate(), Some(0));
}

/// An example whose listeners are in a file of their own, which Envoy follows.
fn discovered(folder: &Folder, yaml: &str) -> (String, String) {
    let (before, rest) = yaml.split_once("  listeners:\n").unwrap();
    let (listeners, clusters) = rest.split_once("  clusters:\n").unwrap();
    let resource = "    - \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n      name: ";
    let listeners = format!("resources:\n{}", listeners.replacen("    - name: ", resource, 1));
    let path = folder.path("listeners.yaml");
    let bootstrap = format!(
        "node: {{ id: test, cluster: test }}\n\
         dynamic_resources:\n  lds_config: {{ path_config_source: {{ path: {path} }} }}\n\
         {before}  clusters:\n{clusters}"
    );
    (bootstrap, listeners)
}

/// Puts another file in the place of the listeners', which is what Envoy looks out for.
fn reload(folder: &Folder, listeners: &str) {
    let new = folder.write("listeners.new", listeners);
    std::fs::rename(new, folder.path("listeners.yaml")).unwrap();
}

#[test]
fn what_an_old_configuration_asked_is_asked_again_by_the_new_one() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("cluster-reload");
    let gate = Gate::to(platform_address(&platform));
    let patient = [
        ("\"timeout\": \"10s\"", "\"timeout\": \"30s\""),
        ("\"timeout\": \"5s\"", "\"timeout\": \"60s\""),
    ];
    let (bootstrap, listeners) = discovered(&folder, &example(&vault, gate.port(), &patient));
    folder.write("listeners.yaml", &listeners);
    let envoy = Envoy::start(&folder, &bootstrap, &module(platform.environment_for(Source::Imds)));
    let address = envoy.address("ingress");
    let before = thread::spawn(move || request(address, SECRET, &[FORGED]));
    gate.wait_for(1);

    reload(
        &folder,
        &listeners.replace("\"timeout\": \"30s\"", "\"timeout\": \"29s\""),
    );
    envoy.wait_for("it has read the new configuration", |envoy| {
        (envoy.counted("listener_manager.listener_modified") == 1).then_some(())
    });
    // The old configuration ends with its connections, a second later, and with it what it has asked.
    gate.wait_for(2);
    assert_eq!(counted(&envoy, "total"), 2, "{}", envoy.log());
    assert_eq!(envoy.counted("cluster.identity.upstream_cx_destroy_local"), 1);
    assert_eq!(envoy.counted("dynamicmodulescustom.managed_identity.failed"), 0);
    // Envoy has closed the connection on which it was held.
    assert!(before.join().unwrap().is_none_or(|(status, _)| status != 200));
    let after = thread::spawn(move || request(address, SECRET, &[FORGED]));
    assert!(platform.requests().is_empty());
    gate.open_from(2);
    let (status, reply) = after.join().unwrap().unwrap();
    assert_eq!(status, 200, "{reply}");
    assert_eq!((gate.came(), platform.requests().len()), (2, 1));
    is_opened(address);
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn a_request_that_was_held_before_a_reload_gets_its_answer() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("cluster-held");
    let gate = Gate::to(platform_address(&platform));
    let (bootstrap, listeners) = discovered(&folder, &example(&vault, gate.port(), &[]));
    folder.write("listeners.yaml", &listeners);
    let environment = module(platform.environment_for(Source::Imds));
    let envoy = Envoy::start_with(&folder, &bootstrap, &environment, &["--drain-time-s", "600"]);
    let address = envoy.address("ingress");
    let held = thread::spawn(move || request(address, SECRET, &[FORGED]));
    gate.wait_for(1);
    reload(
        &folder,
        &listeners.replace("\"timeout\": \"10s\"", "\"timeout\": \"11s\""),
    );
    envoy.wait_for("it has read the new configuration", |envoy| {
        (envoy.counted("listener_manager.listener_modified") == 1).then_some(())
    });
    gate.open();
    let (status, reply) = held.join().unwrap().unwrap();
    assert_eq!(status, 200, "{reply}");
    // Both configurations have one broker.
    is_opened(address);
    assert_eq!((gate.came(), platform.requests().len()), (1, 1));
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn envoy_ends_while_the_endpoint_hangs() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("cluster-end");
    let gate = Gate::to(platform_address(&platform));
    let yaml = example(&vault, gate.port(), &[]);
    let envoy = Envoy::start(&folder, &yaml, &module(platform.environment_for(Source::Imds)));
    let address = envoy.address("ingress");
    let held = thread::spawn(move || request(address, SECRET, &[FORGED]));
    gate.wait_for(1);
    assert_eq!(envoy.terminate(), Some(0));
    assert!(held.join().unwrap().is_none_or(|(status, _)| status != 200));
    assert!(vault.requests().is_empty());
}
