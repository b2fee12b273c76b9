//! `examples/spin` without Spin, which cannot be installed from any package registry: its components are built by its own
//! `build.sh`, composed by its manifests as Spin composes them, and run on wasmtime with what the manifests grant, against an
//! emulated platform and vault.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod compose;
mod host;
mod manifest;
#[path = "../support/plug.rs"]
mod plug;
#[path = "../cache/store.rs"]
mod store;

use compose::{Dependency, compose, deny};
use host::Application;
use http::StatusCode;
use managed_identity_emulator::{Emulator, EmulatorConfig, KeyVault, Source};
use managed_identity_host::EMBEDDED_0_2;
use managed_identity_test_guests::CACHE_DRAFT2;
use manifest::{Commands, Inherit, Manifest};
use plug::plug;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use wit_parser::decoding::{DecodedWasm, decode};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/spin");

/// The two manifests: without a cache of tokens, and with one.
const MANIFESTS: [&str; 2] = ["spin.toml", "spin-cache.toml"];

/// The handlers, as components of the manifests are called.
const HANDLERS: [&str; 2] = ["rust", "javascript"];

const SECRET: &str = "twenty-eight characters long";

/// As `openssl rand -base64 32` prints it.
const KEY: &str = "kAcsmbWcVhCdwSkoAq3MgwDOVeMwpoeQtFm6TRAR9Rg=";

fn text(manifest: &str) -> String {
    fs::read_to_string(Path::new(FOLDER).join(manifest)).unwrap()
}

fn read(manifest: &str) -> Manifest {
    Manifest::read(&text(manifest)).unwrap()
}

/// A handler, built by `build.sh`, once for all tests of the process.
fn handler(name: &str) -> &'static [u8] {
    static RUST: OnceLock<Vec<u8>> = OnceLock::new();
    static JAVASCRIPT: OnceLock<Vec<u8>> = OnceLock::new();
    let built = match name {
        "rust" => &RUST,
        _ => &JAVASCRIPT,
    };
    built.get_or_init(|| build(name))
}

/// A part, as `build.sh` makes it.
fn build(name: &str) -> Vec<u8> {
    let script = Path::new(FOLDER).join("build.sh");
    let output = Command::new(&script).arg(name).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} failed: {errors}", script.display());
    let printed = String::from_utf8(output.stdout).unwrap();
    fs::read(printed.trim_end()).unwrap()
}

#[test]
fn the_script_builds_the_provider_that_is_embedded_elsewhere() {
    assert!(build("provider") == EMBEDDED_0_2);
}

/// What `build.sh provider-with-cache` makes, of the components that the tests have anyway.
fn provider_with_cache() -> Vec<u8> {
    plug(CACHE_DRAFT2, EMBEDDED_0_2).unwrap()
}

/// The dependencies of a component, as its manifest has them.
fn dependencies(component: &manifest::Component) -> Vec<Dependency> {
    let local = |(name, dependency): (&String, &manifest::Dependency)| {
        let manifest::Dependency::Local {
            path,
            inherit_configuration,
            ..
        } = dependency
        else {
            panic!("{name} is no file");
        };
        Dependency {
            name: name.clone(),
            component: match path.file_name().unwrap().to_str().unwrap() {
                "provider.wasm" => EMBEDDED_0_2.to_vec(),
                "provider-with-cache.wasm" => provider_with_cache(),
                other => panic!("nobody builds {other}"),
            },
            inherits: inherit_configuration.clone().unwrap_or(Inherit::All(false)),
        }
    };
    component.dependencies.iter().map(local).collect()
}

/// A platform and a vault.
struct Cloud {
    emulator: Emulator,
    vault: KeyVault,
    vault_url: String,
}

impl Cloud {
    fn start() -> Self {
        let emulator = Emulator::start(EmulatorConfig::default()).unwrap();
        let mut vault = emulator.start_key_vault([("greeting", SECRET)]).unwrap();
        let vault_url = vault.serve_plain().unwrap();
        Self {
            emulator,
            vault,
            vault_url,
        }
    }

    /// The application of a component, with the addresses of this cloud in the places of Azure's. `change` is the last to
    /// change it.
    fn application(&self, manifest: &str, name: &str, change: impl FnOnce(&mut manifest::Component)) -> Application {
        let mut component = read(manifest).component.remove(name).unwrap();
        let identity = self.emulator.environment_for(Source::AppService);
        for host in &mut component.allowed_outbound_hosts {
            *host = match host.as_str() {
                "http://169.254.169.254" => self.emulator.base_url().to_owned(),
                "https://my-vault.vault.azure.net" => self.vault_url.clone(),
                other => panic!("{other} is not expected"),
            };
        }
        component
            .environment
            .insert("VAULT_URL".to_owned(), self.vault_url.clone());
        component
            .environment
            .insert("MANAGED_IDENTITY_CACHE_KEY".to_owned(), KEY.to_owned());
        component.environment.extend(identity);
        change(&mut component);
        let composed = compose(handler(name), &dependencies(&component)).unwrap();
        Application::new(&composed, component.environment, &component.allowed_outbound_hosts)
            .with_stores(&component.key_value_stores)
    }

    fn requests(&self) -> u64 {
        self.emulator.stats().requests
    }

    async fn stop(self) {
        drop(self.vault);
        self.emulator.shutdown().await;
    }
}

/// Changes what the dependencies of a component inherit.
fn inherit(component: &mut manifest::Component, configurations: &[&str]) {
    for dependency in component.dependencies.values_mut() {
        if let manifest::Dependency::Local {
            inherit_configuration, ..
        } = dependency
        {
            let names = configurations.iter().map(|name| (*name).to_owned()).collect();
            *inherit_configuration = Some(Inherit::Some(names));
        }
    }
}

/// Neither the secret nor a token, of which each begins so, nor the key has left the application.
#[track_caller]
fn tells_no_secret(application: &Application) {
    let told = application.told();
    assert!(!told.is_empty());
    for secret in [SECRET, "eyJ", KEY] {
        assert!(!told.contains(secret), "{told}");
    }
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[tokio::test]
async fn each_handler_reads_the_secret_and_tells_neither_it_nor_the_token() {
    for name in HANDLERS {
        let cloud = Cloud::start();
        let application = cloud.application("spin.toml", name, |_| ());
        let (status, body) = application.get(&format!("/{name}/greeting")).await;
        assert_eq!(status, StatusCode::OK, "{name}: {body}");
        let expected = serde_json::json!({ "secret": "greeting", "length": SECRET.len() });
        assert_eq!(json(&body), expected, "{name}");
        assert_eq!((cloud.requests(), cloud.vault.tokens()), (1, 1), "{name}");
        tells_no_secret(&application);
        cloud.stop().await;
    }
}

#[tokio::test]
async fn without_the_cache_each_request_is_one_to_the_platform_and_with_it_one_is_for_all() {
    for (manifest, expected) in MANIFESTS.into_iter().zip([3, 1]) {
        for name in HANDLERS {
            let cloud = Cloud::start();
            let application = cloud.application(manifest, name, |_| ());
            for _ in 0..3 {
                let (status, body) = application.get(&format!("/{name}/greeting")).await;
                assert_eq!(status, StatusCode::OK, "{manifest}, {name}: {body}");
            }
            assert_eq!(cloud.requests(), expected, "{manifest}, {name}");
            assert_eq!(application.values().len(), if expected == 1 { 1 } else { 0 });
            tells_no_secret(&application);
            cloud.stop().await;
        }
    }
}

#[tokio::test]
async fn a_vault_that_refuses_a_token_gets_another_one() {
    for manifest in MANIFESTS {
        for name in HANDLERS {
            let cloud = Cloud::start();
            let application = cloud.application(manifest, name, |_| ());
            let path = format!("/{name}/greeting");
            assert_eq!(application.get(&path).await.0, StatusCode::OK);
            cloud
                .vault
                .demand_claims(r#"{"access_token":{"nbf":{"essential":true,"value":"1"}}}"#);
            let (status, body) = application.get(&path).await;
            assert_eq!(status, StatusCode::OK, "{manifest}, {name}: {body}");
            let asked = cloud.requests();
            assert_eq!(application.get(&path).await.0, StatusCode::OK);
            // The cache has the new one.
            assert_eq!(
                cloud.requests() - asked,
                u64::from(manifest == "spin.toml"),
                "{manifest}, {name}"
            );
            cloud.stop().await;
        }
    }
}

#[tokio::test]
async fn what_goes_wrong_is_told_by_status_and_sentence() {
    for name in HANDLERS {
        let cloud = Cloud::start();
        for (path, change, status, part) in [
            ("missing", None, StatusCode::BAD_GATEWAY, "vault: status 404"),
            (
                "not%20a%20name",
                None,
                StatusCode::BAD_REQUEST,
                "not the name of a secret",
            ),
            ("", None, StatusCode::BAD_REQUEST, "not the name of a secret"),
            (
                "greeting",
                Some(("VAULT_URL", "")),
                StatusCode::INTERNAL_SERVER_ERROR,
                "VAULT_URL is not set",
            ),
            (
                "greeting",
                Some(("AZURE_CLIENT_ID", "00000000-0000-4000-8000-000000000000")),
                StatusCode::BAD_GATEWAY,
                "identity",
            ),
        ] {
            let application = cloud.application("spin.toml", name, |component| {
                if let Some((variable, value)) = change {
                    component.environment.insert(variable.to_owned(), value.to_owned());
                }
            });
            let (own_status, body) = application.get(&format!("/{name}/{path}")).await;
            assert_eq!(own_status, status, "{name}, {path}, {change:?}: {body}");
            let error = json(&body)["error"].as_str().unwrap().to_owned();
            assert!(error.contains(part), "{name}, {path}, {change:?}: {error}");
            tells_no_secret(&application);
        }
        cloud.stop().await;
    }
}

#[tokio::test]
async fn a_dependency_that_does_not_inherit_its_hosts_reaches_nobody() {
    for manifest in MANIFESTS {
        let cloud = Cloud::start();
        let application = cloud.application(manifest, "rust", |component| inherit(component, &["environment"]));
        let (status, body) = application.get("/rust/greeting").await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{manifest}: {body}");
        // Not even as far as to be refused: there is nothing that it could send with.
        assert_eq!((cloud.requests(), application.refused()), (0, Vec::new()), "{manifest}");
        cloud.stop().await;
    }
}

#[tokio::test]
async fn a_dependency_that_does_not_inherit_its_environment_asks_the_default_endpoint_and_is_refused() {
    let cloud = Cloud::start();
    let application = cloud.application("spin.toml", "rust", |component| {
        inherit(component, &["allowed_outbound_hosts"]);
    });
    let (status, body) = application.get("/rust/greeting").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{body}");
    assert_eq!(
        (cloud.requests(), application.refused()),
        (0, vec!["169.254.169.254".to_owned()])
    );
    cloud.stop().await;
}

#[tokio::test]
async fn a_host_that_the_manifest_does_not_name_is_not_reached() {
    let cloud = Cloud::start();
    let application = cloud.application("spin.toml", "rust", |component| {
        component.allowed_outbound_hosts.retain(|host| *host == cloud.vault_url);
    });
    let (status, body) = application.get("/rust/greeting").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{body}");
    assert_eq!((cloud.requests(), application.refused().len()), (0, 1));
    cloud.stop().await;
}

#[tokio::test]
async fn a_cache_that_does_not_get_the_store_costs_no_secret() {
    type Change = fn(&mut manifest::Component);
    let changes: [(&str, Change); 2] = [
        ("not inherited", |component| {
            inherit(component, &["allowed_outbound_hosts", "environment"]);
        }),
        ("not granted", |component| component.key_value_stores.clear()),
    ];
    for (what, change) in changes {
        let cloud = Cloud::start();
        let application = cloud.application("spin-cache.toml", "rust", change);
        for _ in 0..2 {
            let (status, body) = application.get("/rust/greeting").await;
            assert_eq!(status, StatusCode::OK, "{what}: {body}");
        }
        assert_eq!((cloud.requests(), application.values().len()), (2, 0), "{what}");
        cloud.stop().await;
    }
}

#[tokio::test]
async fn a_cache_without_a_key_says_what_to_do() {
    let cloud = Cloud::start();
    let application = cloud.application("spin-cache.toml", "rust", |component| {
        component.environment.remove("MANAGED_IDENTITY_CACHE_KEY");
    });
    let (status, body) = application.get("/rust/greeting").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(body.contains("openssl rand -base64 32"), "{body}");
    assert_eq!(cloud.requests(), 0);
    cloud.stop().await;
}

#[test]
fn only_what_is_inherited_is_left_of_the_imports() {
    let imports = |component: &[u8]| -> BTreeSet<String> {
        let DecodedWasm::Component(resolve, world) = decode(component).unwrap() else {
            panic!("it is no component");
        };
        let names = resolve.worlds[world]
            .imports
            .keys()
            .map(|key| resolve.name_world_key(key));
        names.map(|name| name.split('@').next().unwrap().to_owned()).collect()
    };
    let denied = [
        ("allowed_outbound_hosts", "wasi:http/outgoing-handler"),
        ("environment", "wasi:cli/environment"),
        ("files", "wasi:filesystem/preopens"),
        ("key_value_stores", "wasi:keyvalue/store"),
    ];
    let provider = provider_with_cache();
    let all = imports(&provider);
    for (configuration, interface) in denied {
        assert!(all.contains(interface));
        let one = imports(&deny(&provider, &Inherit::Some(vec![configuration.to_owned()])).unwrap());
        for (_, other) in denied {
            assert_eq!(one.contains(other), other == interface, "{configuration}: {one:?}");
        }
    }
    assert_eq!(imports(&deny(&provider, &Inherit::All(true)).unwrap()), all);
}

#[test]
fn a_composition_that_spin_refuses_is_refused() {
    let dependency = |name: &str, component: &[u8]| Dependency {
        name: name.to_owned(),
        component: component.to_vec(),
        inherits: Inherit::All(true),
    };
    let good = || dependency("cloud:identity@0.2.0", EMBEDDED_0_2);
    for (what, dependencies, part) in [
        (
            "another version",
            vec![dependency("cloud:identity@0.3.0", EMBEDDED_0_2)],
            "matches no import",
        ),
        (
            "another interface",
            vec![dependency("cloud:identity/token-claims@0.2.0", EMBEDDED_0_2)],
            "matches no import",
        ),
        (
            "no provider",
            vec![dependency("cloud:identity@0.2.0", managed_identity_test_guests::DENY)],
            "does not export",
        ),
        (
            "two providers",
            vec![
                good(),
                dependency("cloud:identity/managed-identity@0.2.0", EMBEDDED_0_2),
            ],
            "two dependencies satisfy",
        ),
    ] {
        let error = compose(handler("rust"), &dependencies).unwrap_err();
        assert!(error.contains(part), "{what}: {error}");
    }
}

#[test]
fn the_manifests_keep_spins_rules() {
    for name in MANIFESTS {
        let manifest = read(name);
        assert_eq!(
            manifest.component.keys().collect::<BTreeSet<_>>(),
            BTreeSet::from(["rust", "javascript"].map(String::from).each_ref())
        );
        for (id, component) in &manifest.component {
            // What it names is what the script makes that it names.
            let Some(Commands::Single(command)) = component.build.as_ref().map(|build| &build.command) else {
                panic!("{name}: {id} has no command");
            };
            let parts: BTreeSet<_> = command.strip_prefix("./build.sh ").unwrap().split(' ').collect();
            let stem = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
            let mut named = BTreeSet::from([stem(&component.source)]);
            for dependency in component.dependencies.values() {
                if let manifest::Dependency::Local { path, .. } = dependency {
                    assert_eq!(path.parent(), component.source.parent());
                    named.insert(stem(path));
                }
            }
            assert_eq!(
                named.iter().map(String::as_str).collect::<BTreeSet<_>>(),
                parts,
                "{name}: {id}"
            );
            assert!(
                !component.environment.contains_key("MANAGED_IDENTITY_CACHE_KEY"),
                "{name}: {id}"
            );
        }
    }
}

#[test]
fn a_manifest_that_spin_refuses_is_refused() {
    let good = text("spin-cache.toml");
    let inherited = r#"inherit_configuration = ["allowed_outbound_hosts", "environment", "key_value_stores"]"#;
    let cases: &[(&str, &str, &str)] = &[
        ("spin_manifest_version = 2", "spin_manifest_version = 1", "not 2"),
        (
            "spin_manifest_version = 2",
            "spin_manifest_version = 2\nspin_version = 4",
            "spin_version",
        ),
        ("version = \"0.1.0\"", "versoin = \"0.1.0\"", "versoin"),
        ("name = \"vault-reader-with-cache\"", "", "name"),
        ("[[trigger.http]]", "[[trigger.htp]]", "htp"),
        ("route = \"/rust/:name\"", "route = \"rust/:name\"", "no route"),
        ("route = \"/rust/:name\"", "path = \"/rust/:name\"", "path"),
        ("component = \"rust\"", "component = \"rst\"", "no component rst"),
        ("[component.javascript]", "[component.java_script]", ""),
        ("source = \"../../target/spin/rust.wasm\"", "", "source"),
        (
            "source = \"../../target/spin/rust.wasm\"",
            "sauce = \"rust.wasm\"",
            "sauce",
        ),
        ("\"http://169.254.169.254\"", "\"169.254.169.254\"", "no scheme"),
        (
            "\"http://169.254.169.254\"",
            "\"http://169.254.169.254/metadata\"",
            "path",
        ),
        (
            "\"http://169.254.169.254\"",
            "\"imds://169.254.169.254\"",
            "no port of its own",
        ),
        ("\"http://169.254.169.254\"", "\"http://169.254.*\"", "first label"),
        (
            "\"http://169.254.169.254\"",
            "\"http://169.254.169.254:http\"",
            "no port",
        ),
        ("[\"default\"]", "[\"de fault\"]", "de fault"),
        ("cloud:identity@0.2.0", "cloud:identity@two", "no version"),
        ("cloud:identity@0.2.0", "cloud/identity", "no package"),
        ("cloud:identity@0.2.0", "Cloud:idEntity", "name of words"),
        ("{ path = ", "{ file = ", "Dependency"),
        (
            "{ path = ",
            "{ export = \"cloud:identity/types@0.2.0\", path = ",
            "no `export`",
        ),
        (
            "{ path = ",
            "{ url = \"https://example.com/p.wasm\", path = ",
            "Dependency",
        ),
        (
            inherited,
            "inherit_configuration = [\"allowed_hosts\"]",
            "allowed_hosts",
        ),
        (inherited, "inherits = true", "Dependency"),
        (
            "[component.rust.build]",
            "\"cloud:identity/managed-identity@0.2.1\" = { path = \"other.wasm\" }\n[component.rust.build]",
            "conflict",
        ),
        (
            "key_value_stores = [\"default\"]",
            "key_value_stores = [\"default\"]\ndependencies_inherit_configuration = true",
            "exclude each other",
        ),
        ("command = ", "comand = ", "comand"),
    ];
    assert!(Manifest::read(&good).is_ok());
    for (from, to, part) in cases {
        let changed = good.replacen(from, to, 1);
        assert_ne!(changed, good, "{from}");
        let error = Manifest::read(&changed).map(drop).expect_err(to);
        assert!(error.contains(part), "{to}: {error}");
    }
    // And some that are allowed.
    for (from, to) in [
        ("\"http://169.254.169.254\"", "\"http://127.0.0.1:40342\""),
        ("\"http://169.254.169.254\"", "\"*://*:*\""),
        ("\"http://169.254.169.254\"", "\"https://*.vault.azure.net\""),
        ("route = \"/rust/:name\"", "route = { private = true }"),
        (inherited, "inherit_configuration = true"),
        ("cloud:identity@0.2.0", "cloud:identity/managed-identity"),
    ] {
        let changed = good.replacen(from, to, 1);
        assert_ne!(changed, good, "{from}");
        assert!(
            Manifest::read(&changed).is_ok(),
            "{to}: {:?}",
            Manifest::read(&changed).err()
        );
    }
}

#[test]
fn hosts_are_matched_as_spin_matches_them() {
    for (pattern, url, expected) in [
        ("http://169.254.169.254", "http://169.254.169.254/metadata", true),
        ("http://169.254.169.254", "http://169.254.169.254:80/metadata", true),
        ("http://169.254.169.254", "http://169.254.169.254:8080/metadata", false),
        ("http://169.254.169.254", "https://169.254.169.254/metadata", false),
        (
            "https://*.vault.azure.net",
            "https://my-vault.vault.azure.net/secrets/x",
            true,
        ),
        ("https://*.vault.azure.net", "https://vault.azure.net/secrets/x", false),
        (
            "https://*.vault.azure.net",
            "https://myvault.azure.net/secrets/x",
            false,
        ),
        ("*://*:*", "http://anywhere.example:1/", true),
        ("http://127.0.0.1:8000..8010", "http://127.0.0.1:8009/", true),
        ("http://127.0.0.1:8000..8010", "http://127.0.0.1:8010/", false),
        ("http://self", "http://self/", false),
    ] {
        let pattern = manifest::HostPattern::parse(pattern).unwrap();
        assert_eq!(pattern.allows(&url.parse().unwrap()), expected, "{pattern:?}, {url}");
    }
}

#[test]
fn the_runtime_configuration_does_not_block_the_metadata_service() {
    let settings: BTreeMap<String, toml::Value> = toml::from_str(&text("runtime-config.toml")).unwrap();
    let blocked = settings["outbound_networking"]["block_networks"].as_array().unwrap();
    let blocked: Vec<_> = blocked.iter().map(|network| network.as_str().unwrap()).collect();
    assert!(
        !blocked.is_empty()
            && !blocked
                .iter()
                .any(|network| *network == "private" || network.starts_with("169.254."))
    );
    let stores = settings["key_value_store"].as_table().unwrap();
    for component in read("spin-cache.toml").component.values() {
        assert!(
            component
                .key_value_stores
                .iter()
                .all(|label| stores.contains_key(label))
        );
    }
}
