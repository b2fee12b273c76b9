//! Real, unmodified Envoy with each of the three ways to give it tokens: the configurations of `examples/envoy`, with only
//! ports and paths of the test's own. The upstream is an emulated vault, which verifies the tokens' signature, audience and
//! lifetime.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod challenge;
mod cluster;
mod ext_authz;
mod gate;
mod held;
mod installed;
mod load;
mod module;
mod proxy;
mod refused;
mod secrets;
#[path = "../support/mod.rs"]
mod support;
mod upstream;
mod verified;

use managed_identity_emulator::{KeyVault, Source};
use proxy::{Envoy, Folder, configured, request};
use std::net::SocketAddr;
use std::path::PathBuf;
use support::closed::closed;
use support::emulated::Emulated;
use support::served::Served;

/// What the vault answers whoever has a token for it.
const SECRET: &str = "/secrets/greeting?api-version=7.4";

/// A client's own, which must not reach the upstream.
const FORGED: &str = "Authorization: Bearer forged";

fn vault(platform: &Emulated) -> KeyVault {
    platform.vault("greeting", "hello from the vault")
}

/// An example that sends to this vault, over TLS, and listens anywhere. `cluster` is the upstream's name in it.
fn proxied(example: &str, cluster: &str, vault: &KeyVault, others: &[(&str, &str)]) -> String {
    let assignment = format!("load_assignment:\n        cluster_name: {cluster}\n");
    let over_tls = format!(
        "transport_socket:\n        name: envoy.transport_sockets.tls\n        typed_config:\n          \
         \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n      {assignment}"
    );
    let port = format!("port_value: {}", vault.listening().port());
    let mut replaced = vec![
        ("port_value: 10000", "port_value: 0"),
        ("port_value: 9901", "port_value: 0"),
        ("port_value: 8080", &port),
        (&assignment, &over_tls),
    ];
    replaced.extend(others);
    configured(example, &replaced)
}

#[track_caller]
fn is_opened(envoy: SocketAddr) {
    for _ in 0..3 {
        let (status, reply) = request(envoy, SECRET, &[FORGED]).unwrap();
        assert_eq!(status, 200, "{reply}");
        assert!(reply.contains("hello from the vault"), "{reply}");
    }
}

/// An environment whose identity endpoint nobody listens at.
fn nobody(platform: &Emulated) -> Vec<(String, String)> {
    let mut environment = platform.environment_for(Source::AppService);
    environment.insert("IDENTITY_ENDPOINT".to_owned(), format!("http://{}/msi/token", closed()));
    environment.into_iter().collect()
}

/// Where the module is, beside this test.
fn library() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let file = this.with_file_name("libmanaged_identity_envoy.so");
    assert!(
        file.is_file(),
        "{} is not there; run the tests with --workspace",
        file.display()
    );
    file
}

/// An environment in which Envoy finds the module.
fn module(environment: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
    let library = library();
    let mut environment: Vec<_> = environment.into_iter().collect();
    let search = "ENVOY_DYNAMIC_MODULES_SEARCH_PATH".to_owned();
    environment.push((search, library.parent().unwrap().to_str().unwrap().to_owned()));
    environment
}

/// A broker with the configuration of an example, listening in this folder.
fn broker(folder: &Folder, example: &str, environment: Vec<(String, String)>, protocol: &str) -> Served {
    let socket = folder.path("envoy.sock");
    let toml = configured(example, &[("/run/managed-identity/envoy.sock", &socket)]);
    let file = folder.write("broker.toml", &toml);
    Served::start_in(environment, &["--config", &file], &[protocol])
}

#[test]
fn the_sidecar_gives_the_token_over_grpc() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("grpc");
    let environment = platform.environment_for(Source::Imds).into_iter().collect();
    let served = broker(&folder, "ext-authz.toml", environment, "envoy-ext-authz");
    let socket = folder.path("envoy.sock");
    let at = [("/run/managed-identity/envoy.sock", socket.as_str())];
    let yaml = proxied("ext-authz-grpc.yaml", "vault", &vault, &at);
    let envoy = Envoy::start(&folder, &yaml, &[]);
    let address = envoy.address("outbound");
    is_opened(address);
    assert_eq!(platform.requests().len(), 1);

    // Not granted, whatever the sender says of audiences.
    let says = ["x-managed-identity-audience: https://vault.azure.net"];
    let before = vault.requests().len();
    let (status, reply) = request(address, "/storage/secrets/greeting", &says).unwrap();
    assert_eq!(status, 403, "{reply}");
    assert!(reply.contains("x-managed-identity-error: denied"), "{reply}");
    assert_eq!(vault.requests().len(), before);

    // Where Envoy does not ask, the client's own arrives.
    let (status, _) = request(address, "/public", &[FORGED]).unwrap();
    assert_ne!(status, 200);
    assert_eq!(vault.requests().len(), before + 1);

    // Nobody answers any more.
    drop(served);
    let (status, _) = request(address, SECRET, &[]).unwrap();
    assert_eq!(status, 503);
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn the_sidecar_denies_when_there_is_no_token() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("grpc-down");
    let served = broker(&folder, "ext-authz.toml", nobody(&platform), "envoy-ext-authz");
    let socket = folder.path("envoy.sock");
    let at = [("/run/managed-identity/envoy.sock", socket.as_str())];
    let yaml = proxied("ext-authz-grpc.yaml", "vault", &vault, &at);
    let envoy = Envoy::start(&folder, &yaml, &[]);
    let (status, reply) = request(envoy.address("outbound"), SECRET, &[FORGED]).unwrap();
    assert_eq!(status, 503, "{reply}");
    assert!(
        reply.contains("x-managed-identity-error: endpoint-unreachable"),
        "{reply}"
    );
    assert!(vault.requests().is_empty());
    // The connection of Envoy does not hold it up.
    served.signal("TERM");
    let (code, said) = served.end();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn secret_discovery_tells_the_token() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("sds");
    let environment = platform.environment_for(Source::Imds).into_iter().collect();
    let served = broker(&folder, "sds.toml", environment, "envoy-sds");
    let socket = folder.path("envoy.sock");
    let at = [("/run/managed-identity/envoy.sock", socket.as_str())];
    let yaml = proxied("sds.yaml", "vault", &vault, &at);
    let envoy = Envoy::start(&folder, &yaml, &[]);
    let address = envoy.address("outbound");
    // Envoy listens before it knows the secret, and answers 401.
    envoy.wait_for("it is told the token", |_| {
        let (status, _) = request(address, SECRET, &[FORGED])?;
        (status == 200).then_some(())
    });
    is_opened(address);
    assert_eq!(platform.requests().len(), 1);
    // The last secret stays when the broker ends, which the open stream does not hold up.
    served.signal("TERM");
    let (code, said) = served.end();
    assert_eq!(code, Some(0), "{said}");
    is_opened(address);
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn what_nobody_may_ask_for_is_refused_at_load() {
    let folder = Folder::new("refused");
    let toml = configured(
        "sds.toml",
        &[(
            "caller = \"envoy\"                                # who",
            "caller = \"nobody\" # who",
        )],
    );
    let file = folder.write("broker.toml", &toml);
    let output = support::program::command([("PATH", "")], &["serve", "--config", &file, "--check"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nobody"), "{said}");
}
