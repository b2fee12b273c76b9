//! A provider that is not ours, in another language: `tests/guests/provider-javascript`, on QuickJS.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use managed_identity_host::{Broker, Cause, Identity, TokenRequest};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::program::{HOME, run};
use wit_parser::decoding::{DecodedWasm, decode};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/guests/provider-javascript");
const WIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/0.2");
const VAULT: &str = "https://vault.azure.net";

/// The variable of which the provider makes its tokens.
const ENVIRONMENT: [(&str, &str); 1] = [("IDENTITY_HEADER", "secret")];

/// The built component. What is built once is used again until its sources change.
fn component() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("provider-javascript");
    fs::create_dir_all(folder.join("wit/deps")).unwrap();
    // Other tests build the same, maybe in other processes.
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let identity = Path::new(WIT).join("identity.wit");
    let source = |name: &str| Path::new(SOURCE).join(name);
    let lock_file = source("package-lock.json");
    if !is_copy(&lock_file, &folder.join("installed.json")) {
        for name in ["package.json", "package-lock.json"] {
            fs::copy(source(name), folder.join(name)).unwrap();
        }
        // Not `ci`, which insists on the tool's parts for every platform, and not all of them were published.
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"]);
        succeed(npm.current_dir(&folder));
        // Last, so that it says that all the rest is there.
        fs::copy(&lock_file, folder.join("installed.json")).unwrap();
    }
    let sources = [
        (source("provider.js"), folder.join("provider.js")),
        (source("provider.wit"), folder.join("wit/provider.wit")),
        (identity, folder.join("wit/deps/identity.wit")),
    ];
    let component = folder.join("provider.wasm");
    if component.exists() && sources.iter().all(|(from, to)| is_copy(from, to)) {
        return component;
    }
    let deps = fs::read_dir(Path::new(WIT).join("deps")).unwrap();
    for file in deps.map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "wit") {
            fs::copy(&file, folder.join("wit/deps").join(file.file_name().unwrap())).unwrap();
        }
    }
    for (from, to) in &sources {
        fs::copy(from, to).unwrap();
    }
    // One that is there is known to be of these sources.
    let _ = fs::remove_file(&component);
    let mut componentize = Command::new(folder.join("node_modules/.bin/componentize-qjs"));
    componentize.args(["--sync", "--opt-size", "--wit", "wit", "--world", "provider"]);
    componentize.args(["--js", "provider.js", "--output", "provider.wasm"]);
    succeed(componentize.current_dir(&folder));
    component
}

fn is_copy(one: &Path, other: &Path) -> bool {
    fs::read(one).ok() == fs::read(other).ok()
}

fn succeed(command: &mut Command) {
    match command.output() {
        Ok(output) => assert!(output.status.success(), "{command:?}: {output:?}"),
        Err(error) if error.kind() == ErrorKind::NotFound => panic!(
            "{command:?} needs Node.js 18 or newer, with npm. Install it, on Debian with `apt-get install nodejs npm`, and \
             run this again."
        ),
        Err(error) => panic!("{command:?}: {error}"),
    }
}

#[test]
fn it_imports_what_a_language_needs_and_nothing_that_reaches_the_network() {
    let DecodedWasm::Component(resolve, world) = decode(&fs::read(component()).unwrap()).unwrap() else {
        panic!("it is no component");
    };
    let packages: BTreeSet<_> = resolve.worlds[world]
        .imports
        .keys()
        .map(|key| resolve.name_world_key(key))
        .map(|name| name.split_once('/').unwrap().0.to_owned())
        .collect();
    let expected = ["wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:io", "wasi:random"];
    assert_eq!(packages.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn its_tokens_come_through_a_broker() {
    let broker = Broker::builder()
        .provider(fs::read(component()).unwrap())
        .environment(ENVIRONMENT)
        .compilation_cache(Some(Path::new(HOME).join(".cache/managed-identity")))
        .build()
        .unwrap();
    let ask = async |request: &TokenRequest| {
        let token = broker.token(request).await.unwrap();
        assert_eq!((token.source.as_str(), token.audience.as_str()), ("javascript", VAULT));
        token.token.expose().to_owned()
    };
    let plain = TokenRequest::new(VAULT);
    let named = plain.clone().with_identity(Identity::ClientId("me".to_owned()));
    assert_eq!(ask(&plain).await, "secret 1 platform-default");
    assert_eq!(ask(&named).await, "secret 2 client-id me");
    // It has no cache of its own. That of the broker is enough, and is told.
    assert_eq!(ask(&plain).await, "secret 1 platform-default");
    let token = broker.token(&plain).await.unwrap().token.clone();
    let rejecting = plain.clone().with_rejected_token(token);
    assert_eq!(ask(&rejecting).await, "secret 3 platform-default");
    assert_eq!(ask(&plain).await, "secret 4 platform-default");
    broker.forget(Some(VAULT)).await.unwrap();
    assert_eq!(ask(&named).await, "secret 5 client-id me");
    let error = broker.token(&plain.clone().with_claims("{}")).await.unwrap_err();
    assert_eq!(
        (error.cause, error.source.as_deref()),
        (Cause::Unsupported, Some("javascript"))
    );
    let description = broker.describe_source().await.unwrap();
    assert_eq!(description.source.as_deref(), Some("javascript"));
    assert_eq!(description.reasons, ["It makes its tokens itself."]);
}

#[test]
fn its_tokens_come_through_the_command() {
    let file = component().display().to_string();
    let arguments = ["token", "--resource", VAULT, "--provider", &file];
    assert_eq!(run(ENVIRONMENT, &arguments).success(), "secret 1 platform-default");
    let compiled = format!("{}.{}", file.trim_end_matches(".wasm"), "cwasm");
    run(ENVIRONMENT, &["compile", "--provider", &file, "--output", &compiled]).success();
    let arguments = [
        "token",
        "--resource",
        VAULT,
        "--provider",
        &compiled,
        "--trust-compiled-code",
    ];
    assert_eq!(run(ENVIRONMENT, &arguments).success(), "secret 1 platform-default");
}
