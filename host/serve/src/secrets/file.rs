//! Secrets in files, for proxies that read them there: `path_config_source` of Envoy.
//!
//! The file has what the discovery service would answer, as JSON, which is YAML as well. It is replaced as a whole, so whoever
//! reads it finds the value before or the value after. Only the server's own user can read it, from its first byte on.
//!
//! When the server ends, the file stays as it is: Envoy goes on with it while the server is started again, and starts itself
//! only where the file is there. What is in it is worthless when the token expires, so it belongs on a file system in memory.

use super::{Named, Secret, Value};
use crate::telemetry::LOG_TARGET;
use futures_util::StreamExt as _;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;
use zeroize::Zeroizing;

/// How long after a file could not be written it is tried again; doubled with each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the file is said to hold.
const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Why a secret cannot be in a file. Reads as the end of a sentence that begins with the file.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// There is no such directory, or it cannot be looked at.
    #[error("is in no directory that can be looked at ({0}); make one that only the server's user can write to")]
    Directory(io::Error),
    /// Whoever can write to the directory can put another file in its place.
    #[error(
        "is in a directory that others than the server's user can write to (mode {0:04o}), so they could put another file \
         there; write one in a directory of the mode 0755 or 0700"
    )]
    Shared(u32),
    /// The same.
    #[error(
        "is in a directory of another user ({0}), who could put another file there; write one in a directory of the server's own user"
    )]
    Foreign(u32),
    /// The path is that of something else.
    #[error("is no file; write the path of one")]
    NoFile,
}

/// Whether a secret can be in this file.
pub(crate) fn check(path: &Path) -> Result<(), SecretFileError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let about = fs::metadata(directory).map_err(SecretFileError::Directory)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        const OTHERS_WRITE: u32 = 0o022;
        if about.mode() & OTHERS_WRITE != 0 {
            return Err(SecretFileError::Shared(about.mode() & 0o7777));
        }
        let owner = about.uid();
        if owner != 0 && owner != rustix::process::geteuid().as_raw() {
            return Err(SecretFileError::Foreign(owner));
        }
    }
    let is_other = fs::symlink_metadata(path).is_ok_and(|about| !about.is_file() && !about.is_symlink());
    if !about.is_dir() || is_other {
        return Err(SecretFileError::NoFile);
    }
    Ok(())
}

/// Writes the secrets that have files, and their successors, for as long as it is polled.
pub(crate) async fn keep(mut secrets: watch::Receiver<Option<Arc<Named>>>) {
    let mut writers: BTreeMap<PathBuf, Writer> = BTreeMap::new();
    loop {
        // At the end, the files stay as they are.
        let Some(named) = secrets.borrow_and_update().clone() else {
            break;
        };
        let wanted: BTreeMap<&Path, &Arc<Secret>> = named
            .values()
            .filter_map(|secret| Some((secret.file()?, secret)))
            .collect();
        let is_wanted = |path: &Path, writer: &Writer| {
            wanted
                .get(path)
                .is_some_and(|secret| Arc::ptr_eq(secret, &writer.secret))
        };
        let gone: Vec<PathBuf> = writers
            .iter()
            .filter(|(path, writer)| !is_wanted(path, writer))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            if let Some(writer) = writers.remove(&path) {
                let secret = Arc::clone(&writer.secret);
                writer.end().await;
                if !wanted.contains_key(path.as_path()) {
                    // It is not to be had there any more.
                    let _ = write(&secret, &path, &Value::Withheld).await;
                }
            }
        }
        for (path, secret) in wanted {
            if !writers.contains_key(path) {
                writers.insert(path.to_owned(), Writer::start(secret, path));
            }
        }
        if secrets.changed().await.is_err() {
            break;
        }
    }
    for writer in writers.into_values() {
        writer.end().await;
    }
}

/// Who writes one file. Never more than one does.
struct Writer {
    secret: Arc<Secret>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Writer {
    fn start(secret: &Arc<Secret>, path: &Path) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self {
            secret: Arc::clone(secret),
            stop,
            task: tokio::spawn(write_values(Arc::clone(secret), path.to_owned(), stopped)),
        }
    }

    /// When what it is writing is written.
    async fn end(self) {
        drop(self.stop);
        // Without the one who asked for it, nobody has to know how it ended.
        let _ = self.task.await;
    }
}

async fn write_values(secret: Arc<Secret>, path: PathBuf, mut stopped: oneshot::Receiver<()>) {
    let mut values = secret.values();
    // Envoy does not start without the file. One that is there may still be of use, until more is known.
    let mut unwritten = (!path.exists()).then_some(Value::Withheld);
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(value) = &unwritten
            && write(&secret, &path, value).await.is_ok()
        {
            unwritten = None;
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            biased;
            _ = &mut stopped => return,
            value = values.next() => match value {
                Some(value) => unwritten = Some(value),
                None => return,
            },
            () = sleep(pause), if unwritten.is_some() => pause = (pause * 2).min(LONGEST_PAUSE),
        }
    }
}

async fn write(secret: &Arc<Secret>, path: &Path, value: &Value) -> Result<(), ()> {
    let (text, place) = (text(secret.name(), value), path.to_owned());
    let written = spawn_blocking(move || {
        check(&place).map_err(|error| format!("it {error}"))?;
        replace(&place, text.as_bytes()).map_err(|error| error.to_string())
    });
    let written = written.await.unwrap_or_else(|error| Err(error.to_string()));
    written.map_err(|error| {
        tracing::warn!(
            target: LOG_TARGET,
            secret = secret.name(),
            file = %path.display(),
            error,
            "the file of the secret could not be written, and stays as it was"
        );
    })
}

/// What stands in the file.
fn text(name: &str, value: &Value) -> Zeroizing<String> {
    let document = json!({
        "resources": [{
            "@type": TYPE,
            "name": name,
            "generic_secret": { "secret": { "inline_string": value.text() } },
        }],
    });
    Zeroizing::new(document.to_string())
}

/// Puts a file in the place of another one.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let new = path.with_file_name(name);
    // Of somebody who was stopped in the middle.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = create(&new).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    });
    if written.is_err() {
        // It may not even be there.
        let _ = fs::remove_file(&new);
    }
    written
}

/// A new file that is nobody else's.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.open(path)
}

#[cfg(all(test, unix))]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A directory of one test's own, gone when dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str, mode: u32) -> Self {
            let path = std::env::temp_dir().join(format!("managed-identity-{test}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_text_says_what_the_service_would_whatever_is_in_it() {
        for (name, value) in [("vault", "Bearer a.b-c_d"), ("a\"b\\c\n", "\"\\\u{1}: {}"), ("", "")] {
            let told = match value {
                "" => Value::Withheld,
                text => Value::from(Zeroizing::new(text.to_owned())),
            };
            let text = text(name, &told);
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            let secret = &read["resources"][0];
            assert_eq!(secret["@type"], TYPE);
            assert_eq!(secret["name"], name);
            assert_eq!(secret["generic_secret"]["secret"]["inline_string"], value);
            assert!(!format!("{told:?}").contains("Bearer"));
        }
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_is_its_owners_alone() {
        let folder = Folder::new("replaced", 0o755);
        let path = folder.0.join("vault.yaml");
        // What is left of somebody who was stopped stands in nobody's way.
        fs::write(folder.0.join(".vault.yaml.new"), "half").unwrap();
        let content = |number: usize| format!("{number}").repeat(20_000);
        replace(&path, content(0).as_bytes()).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = std::collections::BTreeSet::new();
                while !is_over.load(Ordering::Acquire) {
                    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
                    let text = fs::read_to_string(&path).unwrap();
                    assert_eq!(text.len(), 20_000);
                    let first = text.as_bytes()[0];
                    assert!(text.bytes().all(|byte| byte == first), "torn");
                    seen.insert(first);
                }
                seen.len()
            });
            for number in 0..500 {
                replace(&path, content(number % 10).as_bytes()).unwrap();
            }
            is_over.store(true, Ordering::Release);
            assert!(reader.join().unwrap() > 1, "it has seen no change");
        });
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_place_where_others_could_put_another_file_is_refused() {
        for (mode, expected) in [
            (0o755, None),
            (0o700, None),
            (0o770, Some("mode 0770")),
            (0o777, Some("mode 0777")),
            (0o1777, Some("mode 1777")),
        ] {
            let folder = Folder::new(&format!("place-{mode:o}"), mode);
            let checked = check(&folder.0.join("vault.yaml")).map_err(|error| error.to_string());
            match (checked, expected) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => assert!(error.contains(words), "{error}"),
                (checked, _) => panic!("{mode:o}: {checked:?}"),
            }
        }
        let folder = Folder::new("place", 0o700);
        assert!(matches!(
            check(&folder.0.join("a/vault.yaml")),
            Err(SecretFileError::Directory(_))
        ));
        fs::create_dir(folder.0.join("vault.yaml")).unwrap();
        assert!(matches!(
            check(&folder.0.join("vault.yaml")),
            Err(SecretFileError::NoFile)
        ));
    }
}
