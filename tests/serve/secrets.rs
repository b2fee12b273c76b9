//! Secrets in files: what a proxy reads there, and when.

use crate::support::emulated::Emulated;
use crate::support::program::run;
use crate::support::served::Served;
use managed_identity_emulator::{Fault, Source};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// When to give up waiting for what can only be asked for again and again.
const DEADLINE: Duration = Duration::from_secs(60);

/// How long between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// A folder that only this user can write to, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("secrets-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A configuration with these secrets of one audience in files of their names.
    fn configure(&self, secrets: &[&str]) -> String {
        let mut text = "[listener.l]\naddress = '127.0.0.1:0'\nprotocols = ['health']\n[caller.envoy]\n\
                        [[caller.envoy.token]]\naudiences = ['https://vault.azure.net']\n"
            .to_owned();
        for name in secrets {
            let file = self.path(&format!("{name}.yaml"));
            text += &format!(
                "[secret.{name}]\ncaller = 'envoy'\naudience = 'https://vault.azure.net'\nfile = '{}'\n",
                file.display()
            );
        }
        let path = self.path("broker.toml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// What a secret is by its file, which is whole whenever it is there.
    fn value(&self, name: &str) -> Option<String> {
        let path = self.path(&format!("{name}.yaml"));
        let text = fs::read_to_string(&path).ok()?;
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let read: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("torn: {error}"));
        assert_eq!(read["resources"][0]["name"], name);
        let text = &read["resources"][0]["generic_secret"]["secret"]["inline_string"];
        Some(text.as_str().unwrap().to_owned())
    }

    /// The value when it is like this.
    fn until(&self, name: &str, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            if let Some(value) = self.value(name).filter(|value| is_so(value)) {
                return value;
            }
            assert!(begun.elapsed() < DEADLINE, "never: {name} {what}");
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn serve(platform: &Emulated, config: &str) -> Served {
    Served::start(platform, Source::AppService, &["--config", config], &["health"])
}

fn is_token(value: &str) -> bool {
    value.starts_with("Bearer ey")
}

#[test]
fn a_file_has_each_token_in_turn_and_is_read_whole_at_any_time() {
    let (platform, folder) = (Emulated::start(), Folder::new("rotated"));
    platform.configure(|settings| settings.token_lifetime_seconds = 4);
    let served = serve(&platform, &folder.configure(&["vault"]));
    let mut seen = BTreeSet::new();
    while seen.len() < 4 {
        let next = folder.until("vault", "has a successor", |value| {
            is_token(value) && !seen.contains(value)
        });
        seen.insert(next);
    }
    served.signal("TERM");
    let (code, log) = served.end();
    assert_eq!(code, Some(0), "{log}");
    // It stays, so that a proxy goes on while the server is started again.
    assert!(is_token(&folder.value("vault").unwrap()));
    for value in seen {
        assert!(
            !log.contains(value.trim_start_matches("Bearer ")),
            "a token is in the log"
        );
    }
}

#[test]
fn what_has_expired_is_not_there_any_more_and_comes_back_with_the_platform() {
    let (platform, folder) = (Emulated::start(), Folder::new("expired"));
    platform.configure(|settings| settings.token_lifetime_seconds = 5);
    let fail = || platform.add_fault(Fault::reply(400_u16.try_into().unwrap(), "{}"));
    // Nothing to begin with: the file is there all the same, so that a proxy can start.
    fail();
    let served = serve(&platform, &folder.configure(&["vault"]));
    folder.until("vault", "is empty", str::is_empty);
    platform.clear_faults();
    folder.until("vault", "is there", is_token);
    fail();
    folder.until("vault", "has expired", str::is_empty);
    platform.clear_faults();
    folder.until("vault", "is there again", is_token);
    drop(served);
}

#[test]
fn a_reload_writes_what_is_new_and_withdraws_what_is_gone() {
    let (platform, folder) = (Emulated::start(), Folder::new("reloaded"));
    let served = serve(&platform, &folder.configure(&["one", "two"]));
    let two = folder.until("two", "is there", is_token);
    folder.until("one", "is there", is_token);
    folder.configure(&["two", "three"]);
    served.signal("HUP");
    folder.until("one", "is withdrawn", str::is_empty);
    folder.until("three", "is there", is_token);
    assert_eq!(folder.value("two").unwrap(), two, "it goes on");
}

#[test]
fn one_that_was_killed_leaves_its_last_token_and_its_successor_goes_on() {
    let (platform, folder) = (Emulated::start(), Folder::new("killed"));
    let config = folder.configure(&["vault"]);
    let mut served = serve(&platform, &config);
    let first = folder.until("vault", "is there", is_token);
    served.child.kill().unwrap();
    served.child.wait().unwrap();
    assert_eq!(folder.value("vault").unwrap(), first);
    // What it was in the middle of is in nobody's way.
    fs::write(folder.path(".vault.yaml.new"), "half").unwrap();
    let _served = serve(&platform, &config);
    let next = folder.until("vault", "has a successor", |value| value != first);
    assert!(is_token(&next), "there is no time without one");
}

#[test]
fn a_place_that_others_can_write_to_is_refused() {
    let (platform, folder) = (Emulated::start(), Folder::new("shared"));
    let config = folder.configure(&["vault"]);
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o777)).unwrap();
    let outcome = run(
        platform.environment_for(Source::AppService),
        &["serve", "--config", &config],
    );
    assert_ne!(outcome.code, Some(0));
    let words = "is in a directory that others than the server's user can write to (mode 0777)";
    assert!(outcome.stderr.contains(words), "{}", outcome.stderr);
    assert!(!folder.path("vault.yaml").exists());
}
