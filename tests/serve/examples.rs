//! The examples of how the server is run, held against the schemas of what runs it.

use managed_identity_serve::Config;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/serve");

/// What checks manifests, by the schemas of Kubernetes itself, which come with it.
const VALIDATOR: &str = "kubernetes-validate==1.37.0";

/// The version of Kubernetes that the manifests are for.
const KUBERNETES: &str = "1.30";

/// Runs it to its end. Where it is missing, `install` is how to get it.
fn run(command: &mut Command, install: &str) -> Output {
    let output = command.output();
    output.unwrap_or_else(|error| {
        panic!("{command:?}: {error}. Install it, on Debian with `{install}`, and run this again.")
    })
}

fn succeed(command: &mut Command, install: &str) -> String {
    let output = run(command, install);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?} (`{install}`): {stdout}{stderr}");
    stdout + &stderr
}

/// The validator, installed once below the build folder.
fn validator() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubernetes-validate");
    fs::create_dir_all(&folder).unwrap();
    // Other tests install the same, maybe in other processes.
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let (environment, installed) = (folder.join("venv"), folder.join("installed"));
    if fs::read_to_string(&installed).is_ok_and(|version| version == VALIDATOR) {
        return environment.join("bin/kubernetes-validate");
    }
    const INSTALL: &str = "apt-get install python3-venv";
    succeed(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&environment),
        INSTALL,
    );
    let mut pip = Command::new(environment.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        VALIDATOR,
    ]);
    succeed(&mut pip, INSTALL);
    // Last, so that it says that all the rest is there.
    fs::write(&installed, VALIDATOR).unwrap();
    environment.join("bin/kubernetes-validate")
}

fn validate(file: &Path) -> Output {
    let mut command = Command::new(validator());
    command.args(["--strict", "--kubernetes-version", KUBERNETES]).arg(file);
    run(&mut command, "apt-get install python3-venv")
}

#[test]
fn the_manifests_are_what_kubernetes_takes() {
    for name in ["daemonset.yaml", "application.yaml"] {
        let file = Path::new(EXAMPLES).join("kubernetes").join(name);
        let output = validate(&file);
        assert!(output.status.success(), "{name}: {output:?}");
        // What it does not look at, it would not find wrong either.
        let text = fs::read_to_string(&file).unwrap();
        let wrong = text.replace("containers:", "container:");
        assert_ne!(wrong, text, "{name}");
        let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("wrong-{}-{name}", std::process::id()));
        fs::write(&copy, wrong).unwrap();
        assert!(!validate(&copy).status.success(), "{name}");
        fs::remove_file(copy).unwrap();
    }
}

#[test]
fn the_units_are_what_systemd_takes() {
    let units = Path::new(EXAMPLES).join("systemd");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("units-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let mut files = Vec::new();
    for entry in fs::read_dir(units).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        // The program is looked for, and is elsewhere here; the type is one that systemd has since 253.
        let text = text
            .replace(
                "/usr/local/bin/managed-identity",
                env!("CARGO_BIN_EXE_managed-identity"),
            )
            .replace("Type=notify-reload", "Type=notify");
        let file = folder.join(path.file_name().unwrap());
        fs::write(&file, text).unwrap();
        files.push(file);
    }
    assert_eq!(files.len(), 3);
    let verify = || {
        let mut command = Command::new("systemd-analyze");
        command
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .args(&files);
        command
    };
    let said = succeed(&mut verify(), "apt-get install systemd");
    let ours: Vec<_> = said.lines().filter(|line| line.contains("managed-identity")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
    // What it does not look at, it would not find wrong either.
    let service = folder.join("managed-identity.service");
    let text = fs::read_to_string(&service).unwrap();
    fs::write(&service, text.replace("ProtectSystem=", "ProtectSystems=")).unwrap();
    let output = run(&mut verify(), "apt-get install systemd");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("ProtectSystems"),
        "{output:?}"
    );
    fs::remove_dir_all(folder).unwrap();
}

/// The document in the ConfigMap.
fn document() -> String {
    let manifest = fs::read_to_string(Path::new(EXAMPLES).join("kubernetes/daemonset.yaml")).unwrap();
    let (_, document) = manifest.split_once("  broker.toml: |\n").unwrap();
    let (document, _) = document.split_once("\n---\n").unwrap();
    let lines = document
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_document_of_the_manifest_can_be_used() {
    let config = Config::from_toml(&document()).unwrap();
    assert_eq!(config.listeners.len(), 3);
    assert_eq!(config.limits.drain_timeout.as_secs(), 20);
}

#[test]
fn the_manifest_gives_the_server_the_time_to_end_and_asks_where_it_answers() {
    let manifest = fs::read_to_string(Path::new(EXAMPLES).join("kubernetes/daemonset.yaml")).unwrap();
    assert!(document().contains("drain-timeout = \"20s\""), "{}", document());
    assert!(manifest.contains("terminationGracePeriodSeconds: 30\n"));
    assert!(document().contains("address = \"127.0.0.1:9464\"\nprotocols = [\"metrics\", \"health\"]"));
    assert_eq!(manifest.matches("host: 127.0.0.1\n").count(), 3);
    assert_eq!(manifest.matches("port: 9464\n").count(), 3);
}
