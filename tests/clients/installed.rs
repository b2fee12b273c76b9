//! Where the clients are: below `target/peers`, where `./x conformance` also puts them.

use crate::client::Client;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/peers");

/// What Debian calls what they need.
const PYTHON: &str = "Python 3 with its module venv. Install it, on Debian with `apt-get install python3-venv`";
const NODE: &str = "Node.js 20 or newer, with npm. Install it, on Debian with `apt-get install nodejs npm`";
const RUST: &str = "cargo. Install it with rustup (https://rustup.rs)";

/// The adapter of a client, ready to be started. What is installed once is used again until its pinned versions change.
pub(crate) fn adapter(client: Client) -> Command {
    let folder = folder(client);
    let source = Path::new(PEERS).join(client.peer());
    match client {
        Client::AzureIdentityPython | Client::MsalPython => {
            let mut python = python(client);
            python.arg(source.join("adapter.py"));
            python
        }
        Client::AzureIdentityNode | Client::MsalNode => {
            install(&folder, &source.join("package-lock.json"), || {
                for name in ["package.json", "package-lock.json"] {
                    fs::copy(source.join(name), folder.join(name)).unwrap();
                }
                let arguments = ["ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"];
                succeed(Command::new("npm").args(arguments).current_dir(&folder), NODE);
            });
            // Beside its packages, because that is where Node.js looks for them. Never half a file: others may run it, also
            // other threads of this test.
            static COPIES: AtomicUsize = AtomicUsize::new(0);
            let number = COPIES.fetch_add(1, Ordering::Relaxed);
            let adapter = folder.join("adapter.mjs");
            let copy = folder.join(format!("adapter.{}-{number}.mjs", std::process::id()));
            fs::copy(source.join("adapter.mjs"), &copy).unwrap();
            fs::rename(&copy, &adapter).unwrap();
            let mut node = Command::new("node");
            node.arg(adapter);
            node
        }
        Client::AzureIdentityRust => {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build.args(["build", "--quiet", "--locked", "--manifest-path"]);
            build.arg(source.join("Cargo.toml")).arg("--target-dir").arg(&folder);
            // Nobody debugs it.
            build.env("CARGO_PROFILE_DEV_DEBUG", "0");
            // It has a lock of its own.
            succeed(&mut build, RUST);
            Command::new(folder.join("debug/peer-azure-identity-rust"))
        }
    }
}

/// Python, with a client's packages.
pub(crate) fn python(client: Client) -> Command {
    let folder = folder(client);
    let requirements = Path::new(PEERS).join(client.peer()).join("requirements.txt");
    install(&folder, &requirements, || {
        succeed(
            Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder),
            PYTHON,
        );
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        succeed(pip.arg("--requirement").arg(&requirements), PYTHON);
    });
    Command::new(folder.join("bin/python"))
}

fn folder(client: Client) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    target.join("peers").join(client.peer())
}

/// Installs what this file pins, unless it is there.
fn install(folder: &Path, pinned: &Path, install: impl FnOnce()) {
    fs::create_dir_all(folder).unwrap();
    // Beside the folder, which may be emptied. Other tests need the same, maybe in other processes.
    let lock = File::create(folder.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    // The names that `./x conformance` gives them.
    let name = match pinned.file_name() {
        Some(name) if name == "package-lock.json" => Path::new("installed.json"),
        Some(name) => Path::new(name),
        None => return,
    };
    let installed = folder.join(name);
    if fs::read(&installed).ok() == fs::read(pinned).ok() {
        return;
    }
    install();
    // Last, so that it says that all the rest is there.
    fs::copy(pinned, installed).unwrap();
}

fn succeed(command: &mut Command, needed: &str) {
    match command.output() {
        Ok(output) => assert!(
            output.status.success(),
            "{command:?} failed; it needs {needed}, if it is that: {output:?}"
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("{command:?} needs {needed}, and run this again.")
        }
        Err(error) => panic!("{command:?}: {error}"),
    }
}
