//! Each guest plugged together with the provider: one component, which runs in hosts that know nothing of us.

use crate::guest::{Language, component, languages};
use crate::scene::{NAME, Scene, no_answer};
use crate::support::closed::closed;
use crate::support::plug::plug;
use crate::support::program::{HOME, Outcome, finish};
use managed_identity_emulator::{ExpiresIn, Source};
use managed_identity_host::{EMBEDDED_0_2, EMBEDDED_0_3};
use ring::digest::{Context, SHA256};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use wit_parser::decoding::{DecodedWasm, decode};

/// The hosts, and what installs them.
pub(crate) const HOSTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/hosts");

/// A host that runs commands of WASI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// The command.
    Wasmtime,
    /// With what `jco transpile` makes.
    Node,
    /// With the package `wasmtime`.
    Python,
}

/// What does not work: what is then on standard error, and why. The table in `examples/README.md` has the reason, and says that
/// everything else works, because the tests are made of this.
pub(crate) const FAILURES: [(Language, Host, &str, &str); 2] = [
    (
        Language::RustAsync,
        Host::Node,
        "TypeError: Cannot read private member #statusCode from an object whose class did not declare it",
        "jco looks for the vault's response among the provider's",
    ),
    (
        Language::RustAsync,
        Host::Python,
        "wasmtime._error.WasmtimeError: component imports instance `wasi:cli/environment@0.3.2`, but a matching implementation was \
         not found in the linker",
        "the package has no WASI 0.3",
    ),
];

/// What a host says of a server whose authority it does not trust, and how it can be made to trust it: by a variable that names
/// the file, or not at all. The table in `examples/README.md` has the variables.
pub(crate) const TRUST: [(Host, &str, Option<&str>); 3] = [
    (Host::Wasmtime, "TLS-protocol-error", None),
    (Host::Node, "internal-error", Some("NODE_EXTRA_CA_CERTS")),
    (Host::Python, "TLS-certificate-error", None),
];

macro_rules! cells {
    ($(($language:ident, $module:ident, $folder:literal))*) => {
        $(mod $module {
            use super::{Host, Language, cell};

            #[test]
            fn in_wasmtime() {
                cell(Language::$language, Host::Wasmtime);
            }

            #[test]
            fn in_node() {
                cell(Language::$language, Host::Node);
            }

            #[test]
            fn in_python() {
                cell(Language::$language, Host::Python);
            }
        })*
    };
}

languages!(cells);

/// A guest in a host prints to the byte what it prints in ours, where it works. Where it does not, it fails as is known.
fn cell(language: Language, host: Host) {
    let mut scene = Scene::new(language, &format!("in-{host:?}"));
    let authority = scene.environment.iter().find(|(name, _)| name == "SSL_CERT_FILE");
    let authority = PathBuf::from(&authority.unwrap().1);
    // So that all who ask get the same, at whatever second they ask.
    scene.platform.configure(|settings| {
        settings.repeat_tokens = true;
        settings.expires_in = ExpiresIn::Absent;
    });
    let url = scene.platform.serve_plain(&mut scene.vault);
    for source in [Source::AppService, Source::Imds] {
        scene.environment = scene.platform.environment_for(source).into_iter().collect();
        let outcome = host.run(language, &scene.environment, None, &[&url, NAME]);
        if let Some((.., expected, _)) = failure(language, host) {
            assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:?}");
            assert!(outcome.stderr.contains(expected), "{outcome:?}");
            return;
        }
        scene.host.clone_from(&url);
        let ours = scene.run(&[&url, NAME]);
        assert!(ours.success().starts_with("secret: greeting\nfrom: "), "{ours:?}");
        same(&outcome, &ours);

        // The platform's endpoint is gone.
        for (_, value) in &mut scene.environment {
            if value.starts_with("http://") {
                let closed = closed();
                let rest = value.trim_start_matches("http://");
                *value = format!("http://{closed}{}", &rest[rest.find('/').unwrap_or(rest.len())..]);
            }
        }
        let (environment, arguments) = (&scene.environment, &[url.as_str(), NAME]);
        // Both try again for a while, so side by side.
        let (ours, outcome) = thread::scope(|threads| {
            let theirs = threads.spawn(|| host.run(language, environment, None, arguments));
            (scene.run(arguments), theirs.join().unwrap())
        });
        assert!(ours.stderr.starts_with("error: endpoint-unreachable: "), "{ours:?}");
        same(&outcome, &ours);
    }

    // A vault with a certificate that nobody knows, and then one whose authority the host is told of.
    scene.environment = scene.platform.environment_for(Source::Imds).into_iter().collect();
    let with_tls = scene.vault.base_url().to_owned();
    let asked = scene.vault.requests().len();
    let arguments = [&with_tls, NAME];
    let untold = host.run(language, &scene.environment, None, &arguments);
    distrusts(language, host, &untold);
    let told = host.run(language, &scene.environment, Some(&authority), &arguments);
    if host.trust().1.is_some() {
        scene.succeeds(&told, NAME);
        assert_eq!(scene.vault.requests().len(), asked + 1);
    } else {
        same(&told, &untold);
        assert_eq!(scene.vault.requests().len(), asked);
    }
}

/// Checks that the vault was not trusted, which each language spells in its way.
#[track_caller]
fn distrusts(language: Language, host: Host, outcome: &Outcome) {
    no_answer(outcome);
    let code = match language {
        // Its `fetch` tells nobody more.
        Language::JavaScript => "NetworkError",
        _ => host.trust().0,
    };
    let plain = |text: &str| text.to_lowercase().replace('-', "");
    assert!(plain(&outcome.stderr).contains(&plain(code)), "{outcome:?}");
}

#[track_caller]
fn same(one: &Outcome, other: &Outcome) {
    assert_eq!(
        (one.code, &one.stdout, &one.stderr),
        (other.code, &other.stdout, &other.stderr)
    );
}

pub(crate) fn failure(language: Language, host: Host) -> Option<(Language, Host, &'static str, &'static str)> {
    FAILURES
        .into_iter()
        .find(|known| (known.0, known.1) == (language, host))
}

impl Host {
    pub(crate) const ALL: [Self; 3] = [Self::Wasmtime, Self::Node, Self::Python];

    /// Its entry in [`TRUST`].
    pub(crate) fn trust(self) -> (&'static str, Option<&'static str>) {
        let [trust] = TRUST.into_iter().filter(|trust| trust.0 == self).collect::<Vec<_>>()[..] else {
            panic!("{self:?} has one entry");
        };
        (trust.1, trust.2)
    }

    /// Runs the composition of a language, as `examples/hosts/README.md` says. It gets these variables; the host itself is told
    /// of an authority by every variable that a host is known to look at.
    pub(crate) fn run(
        self,
        language: Language,
        environment: &[(String, String)],
        authority: Option<&Path>,
        arguments: &[&str],
    ) -> Outcome {
        finish(self.command(language, environment, authority, arguments), "")
    }

    pub(crate) fn command(
        self,
        language: Language,
        environment: &[(String, String)],
        authority: Option<&Path>,
        arguments: &[&str],
    ) -> Command {
        let hosts = installed();
        let (mut command, file) = match self {
            Self::Wasmtime => {
                let mut command = Command::new(hosts.join("bin/wasmtime"));
                command.args(["run", "-S", "http"]);
                (command, composition(language))
            }
            Self::Node => {
                let mut command = Command::new(hosts.join("bin/node"));
                command.arg(hosts.join("node/run.mjs"));
                (command, transpiled(language, &hosts))
            }
            Self::Python => {
                let mut command = Command::new(hosts.join("python/bin/python"));
                command.arg(Path::new(HOSTS).join("run.py"));
                (command, composition(language))
            }
        };
        command.env_clear().env("HOME", HOME).stdin(Stdio::null());
        if let Some(authority) = authority {
            let variables = TRUST.into_iter().filter_map(|trust| trust.2);
            command.envs(variables.chain(["SSL_CERT_FILE"]).map(|variable| (variable, authority)));
        }
        for (name, value) in environment {
            command.env(name, value).args(["--env", name]);
        }
        command.arg(file).args(arguments);
        command
    }
}

/// Where the hosts are. They are installed if need be.
pub(crate) fn installed() -> PathBuf {
    let mut script = Command::new(Path::new(HOSTS).join("install.sh"));
    let output = script.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{script:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    PathBuf::from(printed.strip_suffix('\n').unwrap())
}

/// The provider that a guest of this language can be plugged into.
fn provider(language: Language) -> &'static [u8] {
    match language {
        Language::RustAsync => EMBEDDED_0_3,
        _ => EMBEDDED_0_2,
    }
}

/// The guest of a language and its provider, as one component.
pub(crate) fn composition(language: Language) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("polyglot")
        .join(language.folder());
    let file = folder.join("fetch-secret-alone.wasm");
    let guest = fs::read(component(language)).unwrap();
    made_of(&[&guest, provider(language)], &folder.join("composition"), || {
        fs::write(&file, plug(&guest, provider(language)).unwrap()).unwrap();
    });
    file
}

/// The composition of a language in JavaScript.
fn transpiled(language: Language, hosts: &Path) -> PathBuf {
    let composition = composition(language);
    // Below the packages that it imports.
    let folder = hosts.join("node").join(language.folder());
    // By itself, jco knows no other 0.3 than 0.3.0.
    let of_0_3 = ["cli", "clocks", "filesystem", "http", "random"]
        .map(|package| format!("--map=wasi:{package}/*@0.3.2=@bytecodealliance/preview3-shim/{package}#*"));
    let options = if language == Language::RustAsync {
        &of_0_3[..]
    } else {
        &[]
    };
    made_of(&[&fs::read(&composition).unwrap()], &folder, || {
        transpile(hosts, &composition, &folder, options);
    });
    folder.join("fetch-secret-alone.js")
}

pub(crate) fn transpile(hosts: &Path, component: &Path, folder: &Path, options: &[String]) {
    let mut jco = Command::new(hosts.join("bin/node"));
    jco.arg(hosts.join("bin/jco"))
        .arg("transpile")
        .arg(component)
        .args(options);
    jco.args(["--quiet", "--out-dir"]).arg(folder);
    let output = jco.env("HOME", HOME).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{jco:?}: {output:?}");
}

/// Makes something, unless it has been made of the same. Other tests make the same, maybe in other processes.
pub(crate) fn made_of(sources: &[&[u8]], folder: &Path, make: impl FnOnce()) {
    fs::create_dir_all(folder).unwrap();
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    let mut digest = Context::new(&SHA256);
    for source in sources {
        digest.update(source);
    }
    let digest = digest.finish();
    let known = folder.join("made-of");
    if fs::read(&known).ok().as_deref() != Some(digest.as_ref()) {
        make();
        // Last, so that it says that all the rest is there.
        fs::write(known, digest).unwrap();
    }
}

#[test]
fn the_commands_of_the_readme_run_a_guest_in_each_host() {
    let mut scene = Scene::new(Language::Rust, "in-all");
    let url = scene.platform.serve_plain(&mut scene.vault);
    let readme = fs::read_to_string(Path::new(HOSTS).join("README.md")).unwrap();
    let mut blocks = readme
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let commands = blocks.find(|commands| commands.contains("wasmtime run")).unwrap();
    let hosts = installed().display().to_string();
    let commands = commands
        .replace("$PWD/", "")
        .replace("target/hosts", &hosts)
        .replace("examples/hosts", HOSTS)
        .replace("whole.wasm", &composition(Language::Rust).display().to_string())
        .replace("/whole/whole.js", "/whole/fetch-secret-alone.js");
    let mut shell = Command::new("sh");
    shell
        .args(["-e", "-c", &commands])
        .env("HOME", HOME)
        .env("VAULT_URL_PLAIN", &url);
    shell.envs(scene.platform.environment_for(Source::AppService));
    let outcome = finish(shell, "");
    let printed = outcome.success().strip_prefix(&format!("{hosts}\n")).unwrap();
    assert_eq!(
        printed.matches("secret: greeting\nfrom: app-service\n").count(),
        3,
        "{outcome:?}"
    );
    assert_eq!(scene.vault.requests().len(), 3);
}

#[test]
fn compositions_import_nothing_but_wasi() {
    for language in Language::ALL {
        let (resolve, world) = match decode(&fs::read(composition(*language)).unwrap()).unwrap() {
            DecodedWasm::Component(resolve, world) => (resolve, world),
            DecodedWasm::WitPackage(..) => panic!("{language:?} is no component"),
        };
        let world = &resolve.worlds[world];
        let imports: Vec<_> = world.imports.keys().map(|key| resolve.name_world_key(key)).collect();
        assert!(!imports.is_empty());
        for import in imports {
            assert!(
                import.starts_with("wasi:"),
                "the composition of {language:?} imports {import}"
            );
        }
        let exports: Vec<_> = world.exports.keys().map(|key| resolve.name_world_key(key)).collect();
        // Those in Python have more, which nobody calls.
        assert!(
            exports.iter().any(|name| name.starts_with("wasi:cli/run@")),
            "the composition of {language:?} exports {exports:?}"
        );
    }
}

#[test]
fn a_guest_does_not_fit_the_provider_of_the_other_version() {
    for (language, provider) in [(Language::Rust, EMBEDDED_0_3), (Language::RustAsync, EMBEDDED_0_2)] {
        let guest = fs::read(component(language)).unwrap();
        assert_eq!(
            plug(&guest, provider).unwrap_err(),
            "the socket component had no matching imports for the plugs that were provided"
        );
    }
}
