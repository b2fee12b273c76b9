//! The directory in which the platform leaves a credential, while a broker lives.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use managed_identity_host::{Broker, Cause, WasiVersion};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, process};
use support::brokers::{WASI, ask, request};
use support::server::{Act, Request, Server, reply, token_reply};

const PATIENT: Duration = Duration::from_secs(20);

/// A folder of the test's own, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The agent of Azure Arc: it asks for the contents of one file and gives them back as token.
fn agent(request: &Request) -> Act {
    let key = request
        .headers()
        .into_iter()
        .find_map(|(name, value)| (name == "authorization").then_some(value));
    match key {
        None => {
            let challenge = "Basic realm=/var/opt/azcmagent/tokens/a.key";
            Act::Reply(reply(401, &[("WWW-Authenticate", challenge)], ""))
        }
        Some(key) => Act::ok(&token_reply(&key.replace("Basic ", "token-of-"))),
    }
}

fn broker(wasi: WasiVersion, server: &Server, keys: &Path) -> Broker {
    Broker::builder()
        .wasi(wasi)
        .environment([
            ("IDENTITY_ENDPOINT", server.url("/metadata/identity/oauth2/token")),
            ("IMDS_ENDPOINT", server.url("")),
        ])
        .arc_directory(keys)
        .compilation_cache(Some(PathBuf::from(concat!(
            env!("CARGO_TARGET_TMPDIR"),
            "/home/.cache/managed-identity"
        ))))
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_directory_may_appear_and_be_replaced() {
    for wasi in WASI {
        let folder = Folder::new("replaced");
        let keys = folder.0.join("keys");
        let server = Server::start(agent);
        let broker = broker(wasi, &server, &keys);

        let error = ask(&broker, &request("missing", PATIENT)).await.unwrap_err();
        assert_eq!(error.cause, Cause::CredentialUnreadable, "{error}");
        assert!(error.message.contains("a directory that does not exist"), "{error}");

        fs::create_dir(&keys).unwrap();
        fs::write(keys.join("a.key"), "first").unwrap();
        assert_eq!(ask(&broker, &request("made", PATIENT)).await.unwrap(), "token-of-first");

        // An agent that is installed anew.
        fs::rename(&keys, folder.0.join("old")).unwrap();
        fs::create_dir(&keys).unwrap();
        fs::write(keys.join("a.key"), "second").unwrap();
        assert_eq!(
            ask(&broker, &request("replaced", PATIENT)).await.unwrap(),
            "token-of-second"
        );
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_directory_may_be_a_link_that_is_moved() {
    use std::os::unix::fs::symlink;
    for wasi in WASI {
        let folder = Folder::new("moved");
        let keys = folder.0.join("keys");
        let server = Server::start(agent);
        let broker = broker(wasi, &server, &keys);
        for version in ["v1", "v2"] {
            let place = folder.0.join(version);
            fs::create_dir(&place).unwrap();
            fs::write(place.join("a.key"), version).unwrap();
            symlink(&place, folder.0.join("new")).unwrap();
            fs::rename(folder.0.join("new"), &keys).unwrap();
            let token = ask(&broker, &request(version, PATIENT)).await.unwrap();
            assert_eq!(token, format!("token-of-{version}"));
        }
    }
}
