//! Secret discovery and the file in its place: new tokens reach a running Envoy, which goes on or refuses by itself while the
//! broker or the platform is away.

use crate::proxy::{Envoy, Folder, configured, refusal, request};
use crate::support::emulated::Emulated;
use crate::support::served::Served;
use crate::{FORGED, SECRET, is_opened, proxied, vault};
use managed_identity_emulator::{Fault, KeyVault, Source};

/// Each way, by its example. All that is tested of one holds for the other.
const WAYS: [&str; 2] = ["sds.yaml", "secret-file.yaml"];

/// The socket and the file in the examples.
const SOCKET: &str = "/run/managed-identity/envoy.sock";
const FILE: &str = "# file = \"/run/managed-identity/vault.yaml\"";

/// How long tokens live where they are to expire.
const SHORT_SECONDS: i64 = 6;

/// Both ways at once, because each has to wait for tokens to expire.
fn each_way(test: &str, run: impl Fn(&str, &Folder) + Sync) {
    std::thread::scope(|scope| {
        for way in WAYS {
            let run = &run;
            scope.spawn(move || run(way, &Folder::new(&format!("{test}-{way}"))));
        }
    });
}

/// The broker of both ways.
fn broker(folder: &Folder, platform: &Emulated) -> Served {
    let (socket, file) = (folder.path("envoy.sock"), folder.path("vault.yaml"));
    let file = format!("file = \"{file}\"");
    let toml = configured("sds.toml", &[(SOCKET, &socket), (FILE, &file)]);
    let config = folder.write("broker.toml", &toml);
    Served::start(platform, Source::Imds, &["--config", &config], &["envoy-sds"])
}

/// Envoy as the example has it.
fn started(folder: &Folder, way: &str, vault: &KeyVault) -> Envoy {
    let own = folder.path("");
    let own = own.trim_end_matches('/');
    let yaml = proxied(way, "vault", vault, &[("/run/managed-identity", own)]);
    // It does not start without the file, which the broker writes soon after it listens.
    if way == "secret-file.yaml" {
        let file = folder.path("vault.yaml");
        let begun = std::time::Instant::now();
        while !std::path::Path::new(&file).exists() {
            assert!(begun.elapsed().as_secs() < 20, "no file");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    Envoy::start(folder, &yaml, &[])
}

/// Asks until the answer has this status.
fn until(envoy: &Envoy, what: &str, expected: u16) {
    let address = envoy.address("outbound");
    envoy.wait_for(what, |_| {
        let (status, _) = request(address, SECRET, &[FORGED])?;
        (status == expected).then_some(())
    });
}

/// How many requests the vault has refused. It would refuse an expired token.
fn refused(vault: &KeyVault) -> usize {
    vault.requests().iter().filter(|sent| sent.status != Some(200)).count()
}

#[test]
fn each_new_token_reaches_a_running_envoy() {
    each_way("rotation", |way, folder| {
        let platform = Emulated::start();
        platform.configure(|settings| settings.token_lifetime_seconds = 10);
        let vault = vault(&platform);
        let _served = broker(folder, &platform);
        let envoy = started(folder, way, &vault);
        until(&envoy, "it is told the first token", 200);
        let address = envoy.address("outbound");
        envoy.wait_for("the third token arrives", |_| {
            let (status, reply) = request(address, SECRET, &[FORGED])?;
            assert_eq!(status, 200, "{way}: {reply}");
            (vault.tokens() >= 3).then_some(())
        });
        assert_eq!(refused(&vault), 0, "{way}");
        assert_eq!(envoy.terminate(), Some(0));
    });
}

#[test]
fn while_the_platform_is_away_the_last_token_is_used_as_long_as_it_is_valid() {
    each_way("away", |way, folder| {
        let platform = Emulated::start();
        platform.configure(|settings| settings.token_lifetime_seconds = SHORT_SECONDS);
        platform.add_fault(Fault::reply(400_u16.try_into().unwrap(), "{}"));
        let vault = vault(&platform);
        let _served = broker(folder, &platform);

        // From the start: Envoy listens, and sends nothing.
        let envoy = started(folder, way, &vault);
        let address = envoy.address("outbound");
        for _ in 0..3 {
            let (status, reply) = request(address, SECRET, &[FORGED]).unwrap();
            assert_eq!(status, 401, "{way}: {reply}");
        }
        assert!(!platform.requests().is_empty() || way == "secret-file.yaml", "{way}");
        assert!(vault.requests().is_empty(), "{way}");
        platform.clear_faults();
        until(&envoy, "there is a token", 200);

        // Later: it goes on, and ends in time.
        platform.add_fault(Fault::reply(400_u16.try_into().unwrap(), "{}"));
        is_opened(address);
        until(&envoy, "the last token has expired", 401);
        let sent = vault.requests().len();
        assert_eq!(request(address, SECRET, &[FORGED]).unwrap().0, 401, "{way}");
        assert_eq!(vault.requests().len(), sent, "{way}: something was sent");
        assert_eq!(refused(&vault), 0, "{way}: an expired token was sent");
        platform.clear_faults();
        until(&envoy, "there is a token again", 200);
    });
}

#[test]
fn envoy_goes_on_without_the_broker_and_takes_the_token_of_its_successor() {
    each_way("successor", |way, folder| {
        let platform = Emulated::start();
        let vault = vault(&platform);
        let mut first = broker(folder, &platform);
        let envoy = started(folder, way, &vault);
        until(&envoy, "it is told the first token", 200);
        let address = envoy.address("outbound");

        first.child.kill().unwrap();
        first.child.wait().unwrap();
        is_opened(address);
        assert_eq!(vault.tokens(), 1, "{way}");

        let _second = broker(folder, &platform);
        envoy.wait_for("the successor's token arrives", |_| {
            let (status, reply) = request(address, SECRET, &[FORGED])?;
            assert_eq!(status, 200, "{way}: {reply}");
            (vault.tokens() == 2).then_some(())
        });
        assert_eq!(envoy.terminate(), Some(0));
    });
}

#[test]
fn envoy_starts_before_the_broker_does() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("before");
    let own = folder.path("");
    let replaced = [
        ("/run/managed-identity", own.trim_end_matches('/')),
        ("initial_fetch_timeout: 15s", "initial_fetch_timeout: 0.1s"),
    ];
    let envoy = Envoy::start(&folder, &proxied("sds.yaml", "vault", &vault, &replaced), &[]);
    let address = envoy.address("outbound");
    let (status, reply) = request(address, SECRET, &[FORGED]).unwrap();
    assert_eq!(status, 401, "{reply}");
    assert!(vault.requests().is_empty());
    let _served = broker(&folder, &platform);
    until(&envoy, "it has found the broker", 200);
    is_opened(address);
}

#[test]
fn envoy_refuses_what_it_does_not_know() {
    for (way, from, to, said) in [
        (
            "sds.yaml",
            "allow_request_without_credential",
            "allow_requests_without_credential",
            "allow_requests_without_credential",
        ),
        ("sds.yaml", "id: gateway-1", "# no id", "node"),
        (
            "secret-file.yaml",
            "path: /run/managed-identity/vault.yaml",
            "path: /no/such/vault.yaml",
            "/no/such/vault.yaml",
        ),
        (
            "secret-file.yaml",
            "watched_directory",
            "watch_directory",
            "watch_directory",
        ),
    ] {
        let folder = Folder::new("secrets-refused");
        let refused = refusal(&folder, &configured(way, &[(from, to)]), &[]);
        assert!(refused.contains(said), "{way} {to}: {refused}");
    }
}
