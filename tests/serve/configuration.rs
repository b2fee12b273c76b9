//! What the command is told: documents, flags, secrets.

use crate::exchange;
use crate::support::emulated::Emulated;
use crate::support::program::{Outcome, command, finish, run};
use crate::support::served::Served;
use managed_identity_emulator::{Emulator, EmulatorConfig, Source};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NOTHING: [(&str, &str); 0] = [];

/// A folder of the test's own, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The reply to a program with this secret.
fn ask(served: &Served, secret: &str, audience: &str) -> String {
    exchange(
        served.address("app-service"),
        &format!(
            "GET /msi/token?api-version=2019-08-01&resource={audience} HTTP/1.1\r\n\
             Host: localhost\r\nX-IDENTITY-HEADER: {secret}\r\nConnection: close\r\n\r\n"
        ),
    )
}

fn status(reply: &str) -> &str {
    reply.split(' ').nth(1).unwrap()
}

fn serve(arguments: &[&str]) -> Outcome {
    run(NOTHING, &[&["serve"], arguments].concat())
}

#[test]
fn what_the_flags_lack_is_a_usage_error_that_names_it() {
    for (arguments, words) in [
        (
            &[][..],
            &["--config", "--app-service", "--imds", "--ext-authz", "--metrics"][..],
        ),
        (
            &["--metrics", "127.0.0.1:0", "--allow", "https://a.example"],
            &["--app-service", "--imds"],
        ),
        (
            &["--imds", "127.0.0.1:0", "--header-secret-file", "x"],
            &["--app-service"],
        ),
        (&["--config", "x", "--imds", "127.0.0.1:0"], &["--imds"]),
        (&["--imds", "127.0.0.1:0", "--output", "json"], &["--check"]),
        (&["--app-service", "0.0.0.0:0"], &["no loopback address", "--config"]),
        (&["--app-service", "[::ffff:127.0.0.1]:0"], &["no loopback address"]),
        (&["--metrics", "10.0.0.4:1"], &["no loopback address"]),
        (&["--imds", "localhost:80"], &["write `127.0.0.1:80`"]),
        (&["--imds", "unix:x.sock"], &["absolute path"]),
    ] {
        let outcome = serve(arguments);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{outcome:?}");
        for word in words {
            assert!(outcome.stderr.contains(word), "{word} in {outcome:?}");
        }
    }
}

#[test]
fn a_document_that_cannot_be_used_is_told_with_its_line() {
    let folder = Folder::new("unusable");
    let unknown = folder.file("unknown.toml", "\n[listners.a]\n");
    let open = folder.file(
        "open.toml",
        "[listener.a]\naddress = '0.0.0.0:1'\nprotocols = ['metrics']\n",
    );
    let missing = folder.path("missing.toml");
    for (file, words) in [
        (
            &unknown,
            "line 2: `listners` is no key of the configuration; write `listener`",
        ),
        (&open, "line 2: `[listener.a]` is at 0.0.0.0:1"),
        (&missing, "cannot be read"),
    ] {
        for check in [&[][..], &["--check"]] {
            let outcome = serve(&[&["--config", file], check].concat());
            assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:?}");
            assert!(
                outcome.stderr.contains(words) && outcome.stderr.contains(file.as_str()),
                "{outcome:?}"
            );
        }
        let outcome = serve(&["--config", file, "--check", "--output", "json"]);
        assert!(
            outcome.error()["message"].as_str().unwrap().contains(words),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_check_says_what_would_be_served() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/serve/broker.toml");
    let text = serve(&["--config", example, "--check"]);
    for line in [
        "tokens: of the identity source that the environment selects",
        "listener programs: app-service at 127.0.0.1:4141, for report",
        "listener local: imds at unix:/run/managed-identity/imds.sock, for nightly, report",
        "listener envoy: envoy-ext-authz at unix:/run/managed-identity/envoy.sock, everybody is envoy",
        "listener others: app-service, health at 0.0.0.0:4143 with TLS, for report",
        "listener operations: metrics, health at 127.0.0.1:9464",
        "caller report: tokens for https://vault.azure.net, https://*.database.windows.net, 2 secrets, 2 users",
    ] {
        assert!(
            text.success().lines().any(|printed| printed == line),
            "{line} in {text:?}"
        );
    }
    let object = serve(&["--config", example, "--check", "--output", "json"]).json();
    assert_eq!(object["listeners"]["envoy"]["caller"], "envoy");
    assert_eq!(object["callers"]["nightly"]["users"], json!([1001]));
    assert_eq!(object["upstream"]["kind"], "environment");
}

#[test]
fn who_is_served_without_a_secret_and_what_nobody_gets_is_warned_of() {
    let folder = Folder::new("warned");
    let secret = folder.file("secret", "correct-horse-battery-staple\n");
    let readable = folder.file("readable", "correct-horse-battery-staple\n");
    fs::set_permissions(&readable, fs::Permissions::from_mode(0o644)).unwrap();
    let hash = finish(command(NOTHING, &["secret", "hash"]), "correct-horse-battery-staple");
    let hashes = folder.file("hashes", hash.success());
    fs::set_permissions(&hashes, fs::Permissions::from_mode(0o644)).unwrap();
    let socket = format!("unix:{}", folder.path("x.sock"));
    let (tcp, allow) = ("127.0.0.1:0", ["--allow", "https://a.example"]);
    for (arguments, warnings) in [
        (
            vec!["--app-service", tcp],
            &["the port of --app-service gets tokens", "nothing is allowed"][..],
        ),
        (
            vec!["--app-service", tcp, "--header-secret-file", &secret],
            &["nothing is allowed"],
        ),
        (
            [
                &["--app-service", tcp, "--header-secret-file", &secret, "--imds", tcp],
                &allow[..],
            ]
            .concat(),
            &["the port of --imds gets tokens"],
        ),
        (
            [&["--app-service", tcp, "--header-secret-file", &readable], &allow[..]].concat(),
            &["may read the secrets in"],
        ),
        (
            [&["--app-service", tcp, "--header-secret-file", &hashes], &allow[..]].concat(),
            &[],
        ),
        ([&["--imds", &socket], &allow[..]].concat(), &[]),
        (vec!["--metrics", tcp], &[]),
    ] {
        let outcome = serve(&[&arguments[..], &["--check"]].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(outcome.stderr.matches(" WARN ").count(), warnings.len(), "{outcome:?}");
        for warning in warnings {
            assert!(outcome.stderr.contains(warning), "{warning} in {outcome:?}");
        }
        outcome.must_not_show(&["correct-horse"]);
    }
    for (text, words) in [
        ("", "it is empty"),
        ("hunter2", "line 1: what stands there has less than 16 bytes"),
    ] {
        let outcome = serve(&["--app-service", tcp, "--header-secret-file", &folder.file("bad", text)]);
        assert!(outcome.code == Some(1) && outcome.stderr.contains(words), "{outcome:?}");
        outcome.must_not_show(&["hunter2"]);
    }
}

#[test]
fn a_new_secret_is_printed_with_its_hash_or_kept_in_a_file_of_its_owner() {
    let folder = Folder::new("new");
    let new = run(NOTHING, &["secret", "new", "--output", "json"]).json();
    let (secret, hash) = (new["secret"].as_str().unwrap(), new["hash"].as_str().unwrap());
    let hashed = finish(command(NOTHING, &["secret", "hash"]), &format!("{secret}\n"));
    assert_eq!(hashed.success(), hash);
    let hashed = finish(command(NOTHING, &["secret", "hash", "--output", "json"]), secret);
    assert_eq!(hashed.json(), json!({ "hash": hash }));

    let text = run(NOTHING, &["secret", "new"]);
    assert!(text.success().contains("\nIDENTITY_HEADER=") && text.success().contains("\nsecrets = [\"sha256:"));

    let file = folder.path("secret");
    let made = run(NOTHING, &["secret", "new", "--file", &file]);
    let kept = fs::read_to_string(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    made.must_not_show(&[kept.trim()]);
    assert_eq!(
        finish(command(NOTHING, &["secret", "hash"]), &kept).success(),
        made.success()
    );
    let again = run(NOTHING, &["secret", "new", "--file", &file]);
    assert!(
        again.code == Some(1) && again.stderr.contains("no secret is overwritten"),
        "{again:?}"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), kept);

    for input in [
        "",
        "short",
        "two words of a secret",
        "a-first-line-of-it\na-second-line-of-it",
    ] {
        let outcome = finish(command(NOTHING, &["secret", "hash"]), input);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{input:?}");
        if !input.is_empty() {
            outcome.must_not_show(&[input]);
        }
    }
}

#[test]
fn callers_are_known_by_any_of_their_secrets_and_get_what_is_theirs() {
    let folder = Folder::new("known");
    let platform = Emulated::start();
    let made: Vec<Value> = (0..3)
        .map(|_| run(NOTHING, &["secret", "new", "--output", "json"]).json())
        .collect();
    let [old, new, other] = [0, 1, 2].map(|index| made[index]["secret"].as_str().unwrap());
    let [old_hash, new_hash, other_hash] = [0, 1, 2].map(|index| &made[index]["hash"]);
    let config = folder.file(
        "broker.toml",
        &format!(
            "[listener.programs]\naddress = '127.0.0.1:0'\nprotocols = ['app-service']\n\
             [caller.report]\nsecrets = [{old_hash}, {new_hash}]\n\
             [[caller.report.token]]\naudiences = ['https://vault.azure.net']\n\
             [caller.other]\nsecrets = [{other_hash}]\n\
             [[caller.other.token]]\naudiences = ['https://storage.azure.com']\n"
        ),
    );
    let served = Served::start(&platform, Source::AppService, &["--config", &config], &["app-service"]);
    assert_eq!(served.announced("app-service")["listener"], "programs");
    let (vault, storage) = ("https://vault.azure.net", "https://storage.azure.com");
    for (secret, audience, expected) in [
        (old, vault, "200"),
        (new, vault, "200"),
        (other, storage, "200"),
        (old, storage, "403"),
        (other, vault, "403"),
        ("correct-horse-battery-staple", vault, "401"),
        (old_hash.as_str().unwrap(), vault, "401"),
    ] {
        assert_eq!(status(&ask(&served, secret, audience)), expected, "{audience}");
    }
    served.signal("TERM");
    let (_, stderr) = served.end();
    assert!(
        [old, new, other].iter().all(|secret| !stderr.contains(secret)),
        "{stderr}"
    );
}

/// How the file with a federated token is replaced.
type Replace = fn(&Path, &str, usize);

#[test]
fn a_socket_of_systemd_that_everybody_may_connect_to_is_nobodys() {
    let folder = Folder::new("systemd");
    let document = folder.file(
        "broker.toml",
        "[listener.local]\naddress = \"systemd:local\"\nprotocols = [\"imds\"]\ncaller = \"report\"\n[caller.report]\n",
    );
    let path = folder.path("imds.sock");
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    for (mode, code, words) in [
        // As systemd makes them, unless told otherwise.
        (0o666, Some(1), "write `SocketMode=0660` in its socket unit"),
        (0o660, None, "\"protocol\":\"imds\""),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        // From the third descriptor on, as systemd passes them.
        let mut served = Command::new("sh")
            .args(["-c", r#"exec "$0" serve --config "$1" 3<&0 </dev/null 2>&1"#])
            .args([env!("CARGO_BIN_EXE_managed-identity"), &document])
            .env("LISTEN_FDS", "1")
            .env("LISTEN_FDNAMES", "local")
            .env_remove("LISTEN_PID")
            .stdin(OwnedFd::from(socket.try_clone().unwrap()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(served.stdout.take().unwrap()).lines();
        let said = output.map(|line| line.unwrap()).find(|line| line.contains(words));
        assert!(said.is_some(), "{mode:o}: {words}");
        if code.is_none() {
            served.kill().unwrap();
        }
        assert_eq!(served.wait().unwrap().code(), code);
    }
}

#[test]
fn a_federated_identity_follows_its_token_file_however_that_is_replaced() {
    let folder = Folder::new("federated");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let cluster = folder.0.join("cluster");
    let config = EmulatorConfig {
        federated_token_file: Some(cluster.clone()),
        ..EmulatorConfig::default()
    };
    let platform = runtime.block_on(async { Emulator::start(config) }).unwrap();
    let ca = folder.file("ca.pem", platform.certificate().unwrap().authority_pem());
    let identities = platform.identities();
    let [first, second] = [0, 1].map(|index| identities.user_assigned[index].client_id.clone());

    // AKS: the file is a link into a directory, which is a link that is moved.
    let aks: Replace = |file, text, version| {
        let directory = file.parent().unwrap();
        let place = format!("..{version}");
        fs::create_dir(directory.join(&place)).unwrap();
        fs::write(directory.join(&place).join("token"), text).unwrap();
        symlink(&place, directory.join("..new")).unwrap();
        fs::rename(directory.join("..new"), directory.join("..data")).unwrap();
        if version == 0 {
            symlink("..data/token", file).unwrap();
        }
    };
    // SPIFFE: another file is moved over it.
    let spiffe: Replace = |file, text, _| {
        let draft = file.with_extension("new");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, file).unwrap();
    };
    // GitHub: a step writes it, with the end of a line.
    let github: Replace = |file, text, _| fs::write(file, format!("{text}\n")).unwrap();

    for (style, replace) in [("aks", aks), ("spiffe", spiffe), ("github", github)] {
        let directory = folder.0.join(style);
        fs::create_dir(&directory).unwrap();
        let file = directory.join("token");
        let made = [(); 2].map(|()| run(NOTHING, &["secret", "new", "--output", "json"]).json());
        let config = folder.file(
            "broker.toml",
            &format!(
                "[upstream.federated]\ntenant-id = '{}'\nclient-id = '{first}'\ntoken-file = '{}'\nauthority = '{}'\n\
                 [listener.programs]\naddress = '127.0.0.1:0'\nprotocols = ['app-service']\n\
                 [caller.first]\nsecrets = [{}]\n[[caller.first.token]]\naudiences = ['*']\n\
                 [caller.second]\nsecrets = [{}]\ndefault-identity = 'client-id:{second}'\n\
                 [[caller.second.token]]\naudiences = ['*']\nidentities = ['client-id:{second}']\n",
                identities.tenant_id,
                file.display(),
                platform.tls_base_url().unwrap(),
                made[0]["hash"],
                made[1]["hash"],
            ),
        );
        let environment = [("SSL_CERT_FILE".to_owned(), ca.clone())];
        let served = Served::start_in(environment, &["--config", &config], &["app-service"]);
        let secrets = [0, 1].map(|index| made[index]["secret"].as_str().unwrap());

        // A file that is not there yet keeps nobody from listening.
        let missing = ask(&served, secrets[0], "https://missing.example");
        assert_ne!(status(&missing), "200", "{style}");

        replace(&file, "no.assertion.yet", 0);
        let refused = ask(&served, secrets[0], "https://refused.example");
        assert_ne!(status(&refused), "200", "{style}");

        for version in 1..3 {
            platform.rotate_federated_token().unwrap();
            replace(&file, &fs::read_to_string(&cluster).unwrap(), version);
            for (secret, client) in secrets.iter().zip([&first, &second]) {
                let reply = ask(&served, secret, &format!("https://v{version}.example"));
                assert_eq!(status(&reply), "200", "{style} {version} {reply}");
                assert_eq!(claim(&reply, "appid"), **client, "{style}");
            }
        }
    }
}

/// What the token in a reply says of itself.
fn claim(reply: &str, name: &str) -> Value {
    use base64::Engine as _;
    let (_, body) = reply.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    let token = body["access_token"].as_str().unwrap();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(token.split('.').nth(1).unwrap())
        .unwrap();
    serde_json::from_slice::<Value>(&payload).unwrap()[name].take()
}
