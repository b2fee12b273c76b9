//! What `./x release` writes: each file says what it is, and nothing in it is anything else than what was built.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use managed_identity_emulator::Source;
use managed_identity_guest_build::Guest;
use managed_identity_host::{EMBEDDED_0_2, EMBEDDED_0_3};
use managed_identity_release::{Provider, Release};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use support::emulated::Emulated;
use support::program::run;
use wasm_metadata::{Metadata, Payload};
use wasmtime::wasmparser;
use wit_component::WitPrinter;
use wit_parser::decoding::{DecodedWasm, decode};
use wit_parser::{PackageId, Resolve};

const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version of WASI, the component that was built for it, and the crates that are in that component and in no other.
const PROVIDERS: [(&str, &[u8], &[&str]); 2] = [
    ("0.2", EMBEDDED_0_2, &["wasip2", "wit-bindgen"]),
    ("0.3", EMBEDDED_0_3, &["wasip3"]),
];

/// The crates in both. Whoever adds a dependency to the provider adds it here, and has then thought of who audits it.
const CRATES: [&str; 28] = [
    "base64",
    "bitflags",
    "block-buffer",
    "cfg-if",
    "crypto-common",
    "digest",
    "futures",
    "futures-channel",
    "futures-core",
    "futures-io",
    "futures-sink",
    "futures-task",
    "futures-util",
    "generic-array",
    "itoa",
    "managed-identity-provider",
    "memchr",
    "pin-project-lite",
    "rust-std",
    "serde",
    "serde_core",
    "serde_json",
    "sha2",
    "slab",
    "typenum",
    "wit-bindgen",
    "zeroize",
    "zmij",
];

fn workspace(path: &str) -> PathBuf {
    Path::new(WORKSPACE).join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(workspace(path)).unwrap()
}

/// A folder for a release that no other test writes to, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("release").join(name);
    let _ = fs::remove_dir_all(&folder);
    folder
}

fn release() -> Release {
    Release {
        workspace: WORKSPACE.into(),
        revision: Some(REVISION.to_owned()),
        providers: PROVIDERS.map(|(version, component, _)| Provider {
            version,
            component: component.to_vec(),
        }),
    }
}

/// The files of a release, by their names.
fn files(name: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = folder(name);
    let names = release().write(&folder).unwrap();
    let files: BTreeMap<_, _> = names
        .iter()
        .map(|name| (name.clone(), fs::read(folder.join(name)).unwrap()))
        .collect();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), files.len());
    files
}

fn hex(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_release_is_these_files_and_each_is_explained() {
    let files = files("files");
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "LICENSE",
            "SHA256SUMS",
            "cloud-identity-0.2.0.tar",
            "cloud-identity-0.2.0.wasm",
            "cloud-identity-0.3.0.tar",
            "cloud-identity-0.3.0.wasm",
            "managed-identity-provider-0.2.cdx.json",
            "managed-identity-provider-0.2.wasm",
            "managed-identity-provider-0.3.cdx.json",
            "managed-identity-provider-0.3.wasm",
            "managed-identity.cdx.json",
        ]
    );
    let explained = text("RELEASING.md");
    for name in names {
        assert!(
            explained.contains(&format!("`{name}`")),
            "RELEASING.md does not name {name}"
        );
    }
}

#[test]
fn the_sums_are_those_of_all_files() {
    let mut files = files("sums");
    let sums = String::from_utf8(files.remove("SHA256SUMS").unwrap()).unwrap();
    let listed: Vec<_> = sums.lines().map(|line| line.split_once("  ").unwrap()).collect();
    let expected: Vec<_> = files
        .iter()
        .map(|(name, contents)| (hex(contents), name.as_str()))
        .collect();
    assert_eq!(
        listed,
        expected
            .iter()
            .map(|(sum, name)| (sum.as_str(), *name))
            .collect::<Vec<_>>()
    );
    assert!(sums.ends_with('\n'));
}

#[test]
fn the_same_components_give_the_same_files() {
    assert_eq!(files("once"), files("twice"));
}

/// The sources as a clone has them.
fn copy_sources(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        // What builds and tools leave there.
        if name == "target" || name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            copy_sources(&entry.path(), &to.join(&name));
        } else {
            fs::copy(entry.path(), to.join(&name)).unwrap();
        }
    }
}

/// The embedded ones were built in the folder of these sources. Here they are built once more, of a copy that has another
/// path, with nothing of a build before.
#[test]
fn the_same_sources_give_the_same_components_in_another_folder() {
    let elsewhere = folder("elsewhere and longer");
    let sources = elsewhere.join("sources");
    copy_sources(Path::new(WORKSPACE), &sources);
    for (version, embedded, _) in PROVIDERS {
        let built = Guest::new(sources.join("guest"), "managed-identity-provider")
            .features([format!("wasi-{}", version.replace('.', "-"))])
            .component(&elsewhere.join("built"))
            .unwrap();
        assert!(
            built.component == embedded,
            "{version}: {} bytes with the digest {}, and {} with {} embedded; were MANAGED_IDENTITY_PROVIDER_0_2 and \
             MANAGED_IDENTITY_PROVIDER_0_3 unset when this was built?",
            built.component.len(),
            hex(&built.component),
            embedded.len(),
            hex(embedded)
        );
    }
    fs::remove_dir_all(elsewhere).unwrap();
}

#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let folder = folder("occupied");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("mine"), "mine").unwrap();
    let error = release().write(&folder).unwrap_err().to_string();
    assert!(
        error.ends_with("is not empty: remove it, or name another folder"),
        "{error}"
    );
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
}

#[test]
fn a_component_of_another_compiler_is_refused() {
    let mut release = release();
    // What tells the compiler is the path of its standard library's sources.
    let mark = b"/rustc/";
    let component = &mut release.providers[1].component;
    while let Some(at) = component.windows(mark.len()).position(|window| window == mark) {
        component[at] = b'_';
    }
    let error = release.write(&folder("compiler")).unwrap_err().to_string();
    assert!(
        error.starts_with("the component for WASI 0.3 was not built by"),
        "{error}"
    );
}

fn metadata(wasm: &[u8]) -> Metadata {
    let Payload::Component { metadata, .. } = Payload::from_binary(wasm).unwrap() else {
        panic!("it is no component");
    };
    metadata
}

#[test]
fn a_provider_is_the_embedded_one_and_sections_that_say_what_it_is() {
    let files = files("metadata");
    for (version, embedded, _) in PROVIDERS {
        let released = &files[&format!("managed-identity-provider-{version}.wasm")];
        assert!(
            released.ends_with(&embedded[8..]) && released.starts_with(&embedded[..8]),
            "{version}"
        );
        let added: Vec<_> = wasmparser::Parser::new(0)
            .parse_all(&released[..released.len() - (embedded.len() - 8)])
            .map_while(Result::ok)
            .filter_map(|payload| match payload {
                wasmparser::Payload::CustomSection(section) => Some(section.name().to_owned()),
                wasmparser::Payload::Version { .. } | wasmparser::Payload::End(_) => None,
                other => panic!("{version}: {other:?} was added"),
            })
            // There once the repository has a public address.
            .filter(|name| name != "source")
            .collect();
        assert_eq!(
            added,
            [
                "component-name",
                "version",
                "description",
                "authors",
                "licenses",
                "revision",
                ".dep-v0"
            ]
        );
        // It has to be one that the host's build script takes.
        assert!(released.len() <= 256 * 1024, "{version}: {} bytes", released.len());

        let metadata = metadata(released);
        let shown = |field: Option<String>| field.unwrap_or_default();
        assert_eq!(shown(metadata.name), "managed-identity-provider");
        assert_eq!(shown(metadata.version.map(|it| it.to_string())), VERSION);
        assert_eq!(shown(metadata.revision.map(|it| it.to_string())), REVISION);
        assert_eq!(
            shown(metadata.licenses.map(|it| it.to_string())),
            env!("CARGO_PKG_LICENSE")
        );
        assert_eq!(
            shown(metadata.authors.map(|it| it.to_string())),
            env!("CARGO_PKG_AUTHORS")
        );
        assert!(shown(metadata.description.map(|it| it.to_string())).ends_with(&format!("for WASI {version}")));
    }
}

#[test]
fn a_provider_runs_from_its_file() {
    let emulated = Emulated::start();
    let folder = folder("running");
    release().write(&folder).unwrap();
    for (version, _, _) in PROVIDERS {
        let file = folder.join(format!("managed-identity-provider-{version}.wasm"));
        let arguments = [
            "token",
            "--resource",
            "https://vault.azure.net",
            "--provider",
            file.to_str().unwrap(),
        ];
        let outcome = run(emulated.environment_for(Source::AppService), &arguments);
        // A token of three parts.
        assert_eq!(outcome.success().split('.').count(), 3, "{version}");
    }
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn string<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no `{key}` in {value}"))
}

/// The bill's components, its subject first.
fn parts(bill: &Value) -> Vec<&Value> {
    let rest = bill["components"].as_array().unwrap();
    [&bill["metadata"]["component"]].into_iter().chain(rest).collect()
}

/// The packages in Cargo.lock: name and version, and the checksum of those from the registry.
fn locked() -> BTreeMap<(String, String), Option<String>> {
    let lock: toml::Table = text("Cargo.lock").parse().unwrap();
    let field = |package: &toml::Value, key: &str| package.get(key).map(|it| it.as_str().unwrap().to_owned());
    lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let key = (field(package, "name").unwrap(), field(package, "version").unwrap());
            (key, field(package, "checksum"))
        })
        .collect()
}

#[test]
fn a_bill_names_the_crates_that_are_in_the_component_and_no_others() {
    let files = files("bills");
    let locked = locked();
    for (version, component, own) in PROVIDERS {
        let bill = json(&files[&format!("managed-identity-provider-{version}.cdx.json")]);
        let parts = parts(&bill);
        let mut names: Vec<_> = parts.iter().map(|part| string(part, "name")).collect();
        let mut expected: Vec<_> = CRATES.iter().chain(own).copied().collect();
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected, "{version}");

        let crates = crates_named(&parts, &locked);
        // A crate that can panic names its folder in the component, whatever cargo says of it.
        let seen = crates_seen(component);
        assert!(seen.is_subset(&crates), "{seen:?} in the component for {version}");
        assert!(seen.iter().any(|it| it.starts_with("serde_json-")), "{seen:?}");

        // What scanners find in the component itself is the same list.
        let inside = metadata(&files[&format!("managed-identity-provider-{version}.wasm")]);
        let inside: BTreeSet<_> = inside
            .dependencies
            .unwrap()
            .version_info()
            .packages
            .iter()
            .map(|package| format!("{}-{}", package.name, package.version))
            .collect();
        assert_eq!(inside, crates, "{version}");
    }
}

/// The crates that a bill names, each as `Cargo.lock` has it.
fn crates_named(parts: &[&Value], locked: &BTreeMap<(String, String), Option<String>>) -> BTreeSet<String> {
    let mut crates = BTreeSet::new();
    for part in parts {
        let (name, version) = (string(part, "name"), string(part, "version"));
        assert_eq!(string(part, "purl"), string(part, "bom-ref"));
        assert!(!string(&part["licenses"][0], "expression").is_empty(), "{name}");
        if name == "rust-std" {
            continue;
        }
        // Ours are from no registry, where other crates could have their names.
        let kind = match &locked[&(name.to_owned(), version.to_owned())] {
            Some(checksum) => {
                assert_eq!(string(&part["hashes"][0], "content"), checksum, "{name}");
                "pkg:cargo/"
            }
            None => "pkg:generic/managed-identity",
        };
        assert!(string(part, "purl").starts_with(kind), "{part}");
        crates.insert(format!("{name}-{version}"));
    }
    crates
}

/// Folders of crates in the component's messages: `/crates/NAME-VERSION/src/…`.
fn crates_seen(component: &[u8]) -> BTreeSet<String> {
    String::from_utf8_lossy(component)
        .split("/crates/")
        .skip(1)
        .filter_map(|rest| rest.split_once('/'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Folders of crates in the messages of a program that was built here, and in what is there for a debugger:
/// `…/registry/src/INDEX/NAME-VERSION`, and then a slash or whatever comes next.
#[cfg(target_os = "linux")]
fn crates_seen_in_program(program: &[u8]) -> BTreeSet<String> {
    let is_in_a_name = |it: &char| it.is_ascii_alphanumeric() || "_-.+".contains(*it);
    String::from_utf8_lossy(program)
        .split("/registry/src/")
        .skip(1)
        .filter_map(|rest| rest.split('/').nth(1))
        .map(|rest| rest.chars().take_while(is_in_a_name).collect())
        .collect()
}

#[test]
#[cfg(target_os = "linux")]
fn the_bill_of_the_command_names_the_crates_that_are_in_it() {
    use managed_identity_guest_build::crates_of_program;
    let files = files("command");
    let bill = json(&files["managed-identity.cdx.json"]);
    let parts = parts(&bill);
    let crates = crates_named(&parts, &locked());
    // The tests' own build of it, with at least as many features.
    let seen = crates_seen_in_program(&fs::read(env!("CARGO_BIN_EXE_managed-identity")).unwrap());
    let missing: Vec<_> = seen.difference(&crates).collect();
    assert!(missing.is_empty(), "in the command, and not in its bill: {missing:?}");
    assert!(seen.len() > 50, "{seen:?}");

    // Whoever embeds the library, or loads the module into Envoy, has no other crates.
    for (folder, package) in [
        ("host", "managed-identity-host"),
        ("host/serve", "managed-identity-serve"),
        ("host/envoy", "managed-identity-envoy"),
    ] {
        let theirs = crates_of_program(&workspace(folder), package, "x86_64-unknown-linux-gnu").unwrap();
        for it in theirs.iter().filter(|it| it.name != "managed-identity-envoy") {
            assert!(
                crates.contains(&format!("{}-{}", it.name, it.version)),
                "{it:?} of {package}"
            );
        }
    }
}

#[test]
fn the_bill_of_the_command_is_about_sources_and_leads_to_the_bills_of_what_is_embedded() {
    let files = files("program");
    let bill = json(&files["managed-identity.cdx.json"]);
    let subject = &bill["metadata"]["component"];
    assert_eq!(
        (string(subject, "name"), string(subject, "version")),
        ("managed-identity", VERSION)
    );
    assert_eq!(string(subject, "type"), "application");
    // It was not built, and so there is nothing to have a digest of, and no compiler.
    assert_eq!(string(&bill["metadata"]["lifecycles"][0], "phase"), "pre-build");
    assert_eq!(subject["hashes"], Value::Null);
    assert!(parts(&bill).iter().all(|part| string(part, "name") != "rust-std"));
    let others: Vec<_> = subject["externalReferences"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|reference| string(reference, "type") == "bom")
        .map(|reference| string(reference, "url"))
        .collect();
    assert_eq!(
        others,
        [
            "managed-identity-provider-0.2.cdx.json",
            "managed-identity-provider-0.3.cdx.json"
        ]
    );
    assert!(others.iter().all(|name| files.contains_key(*name)));
}

#[test]
fn a_bill_is_about_its_component_and_says_how_it_was_built() {
    let files = files("subjects");
    for (version, component, _) in PROVIDERS {
        let bill = json(&files[&format!("managed-identity-provider-{version}.cdx.json")]);
        assert_eq!(
            (string(&bill, "bomFormat"), string(&bill, "specVersion")),
            ("CycloneDX", "1.6")
        );
        let subject = &bill["metadata"]["component"];
        assert_eq!(string(subject, "name"), "managed-identity-provider");
        assert_eq!(string(subject, "version"), VERSION);
        let released = &files[&format!("managed-identity-provider-{version}.wasm")];
        assert_eq!(string(&subject["hashes"][0], "content"), hex(released));
        let properties: BTreeMap<_, _> = subject["properties"]
            .as_array()
            .unwrap()
            .iter()
            .map(|property| (string(property, "name"), string(property, "value")))
            .collect();
        let feature = format!("wasi-{}", version.replace('.', "-"));
        assert_eq!(
            properties,
            BTreeMap::from([
                ("cargo:features", feature.as_str()),
                ("cargo:target", "wasm32-unknown-unknown"),
                ("vcs:revision", REVISION),
            ])
        );
        let std = parts(&bill)
            .into_iter()
            .find(|part| string(part, "name") == "rust-std")
            .unwrap();
        let commit = string(&std["properties"][0], "value");
        assert!(
            String::from_utf8_lossy(component).contains(&format!("/rustc/{commit}/library/")),
            "{commit} built another component"
        );
    }
}

#[test]
fn a_bill_tells_what_uses_what() {
    let files = files("edges");
    for subject in [
        "managed-identity-provider-0.2",
        "managed-identity-provider-0.3",
        "managed-identity",
    ] {
        let bill = json(&files[&format!("{subject}.cdx.json")]);
        let parts = parts(&bill);
        let known: BTreeSet<_> = parts.iter().map(|part| string(part, "bom-ref")).collect();
        assert_eq!(known.len(), parts.len(), "each has a reference of its own");
        let uses: BTreeMap<_, Vec<_>> = bill["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| {
                let used = it["dependsOn"].as_array().unwrap().iter();
                (string(it, "ref"), used.map(|it| it.as_str().unwrap()).collect())
            })
            .collect();
        assert_eq!(uses.keys().copied().collect::<BTreeSet<_>>(), known);
        let mut reached = BTreeSet::new();
        let mut next = vec![string(&bill["metadata"]["component"], "bom-ref")];
        while let Some(part) = next.pop() {
            if reached.insert(part) {
                next.extend(&uses[part]);
            }
        }
        assert_eq!(reached, known, "{subject}: nothing is there that nothing uses");
        let named = |name: &str| *known.iter().find(|it| it.contains(&format!("/{name}@"))).unwrap();
        assert!(uses[named("serde_json")].contains(&named("memchr")));
    }
}

/// The package in `wit/`, as whoever vendors it reads it.
fn sources(version: &str) -> (Resolve, PackageId) {
    let mut resolve = Resolve::new();
    let (package, _) = resolve.push_dir(workspace("wit").join(version)).unwrap();
    (resolve, package)
}

fn published(wasm: &[u8]) -> (Resolve, PackageId) {
    let DecodedWasm::WitPackage(resolve, package) = decode(wasm).unwrap() else {
        panic!("it is no WIT package");
    };
    (resolve, package)
}

fn printed(resolve: &Resolve, package: PackageId, docs: bool) -> String {
    let mut printer = WitPrinter::default();
    printer.emit_docs(docs).print(resolve, package, &[]).unwrap();
    printer.output.to_string()
}

#[test]
fn a_published_package_is_the_one_in_the_sources_with_all_its_documentation() {
    let files = files("packages");
    for (version, _, _) in PROVIDERS {
        let wasm = &files[&format!("cloud-identity-{version}.0.wasm")];
        let (resolve, package) = published(wasm);
        assert_eq!(
            resolve.packages[package].name.to_string(),
            format!("cloud:identity@{version}.0")
        );
        let (source, source_package) = sources(version);
        let (found, expected) = (printed(&resolve, package, true), printed(&source, source_package, true));
        assert_eq!(found, expected, "{version}");
        assert!(found.matches("///").count() > 90, "{found}");

        let metadata = metadata(wasm);
        assert_eq!(metadata.name.as_deref(), Some("cloud:identity"));
        assert_eq!(metadata.version.unwrap().to_string(), format!("{version}.0"));
        assert_eq!(metadata.licenses.unwrap().to_string(), env!("CARGO_PKG_LICENSE"));
        assert_eq!(metadata.authors.unwrap().to_string(), env!("CARGO_PKG_AUTHORS"));
        assert_eq!(metadata.revision.unwrap().to_string(), REVISION);
        assert!(!metadata.description.unwrap().to_string().is_empty());
    }
}

/// The format of components has no place for the documentation of an interface, so it is read in the package. It can be,
/// because the two are the same.
#[test]
fn what_a_provider_exports_is_what_the_published_package_documents() {
    let files = files("exports");
    for (version, _, _) in PROVIDERS {
        let (package_resolve, package) = published(&files[&format!("cloud-identity-{version}.0.wasm")]);
        let component = &files[&format!("managed-identity-provider-{version}.wasm")];
        let DecodedWasm::Component(resolve, world) = decode(component).unwrap() else {
            panic!("it is no component");
        };
        let own = resolve
            .packages
            .iter()
            .find(|(_, it)| it.name == package_resolve.packages[package].name)
            .map(|(id, _)| id)
            .unwrap();
        let exported = printed(&resolve, own, false);
        assert_eq!(
            resolve.packages[own].interfaces.len(),
            resolve.worlds[world].exports.len()
        );
        // The package also has worlds, which come last.
        let documented = printed(&package_resolve, package, false);
        let interfaces = documented.split("\nworld ").next().unwrap();
        assert_eq!(exported.trim_end(), interfaces.trim_end(), "{version}");
        assert!(exported.matches("\ninterface ").count() == 3, "{exported}");
    }
}

#[test]
fn an_archive_is_the_folder_of_the_package() {
    let files = files("archives");
    for (version, _, _) in PROVIDERS {
        let mut archive = tar::Archive::new(&files[&format!("cloud-identity-{version}.0.tar")][..]);
        let target = folder(&format!("unpacked-{version}"));
        archive.unpack(&target).unwrap();
        let unpacked = target.join(format!("cloud-identity-{version}.0"));
        let source = workspace("wit").join(version);
        for below in ["", "deps"] {
            let names = |folder: &Path| -> BTreeSet<_> {
                fs::read_dir(folder.join(below))
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name())
                    .filter(|name| name != "wkg.lock")
                    .collect()
            };
            assert_eq!(names(&unpacked), names(&source), "{version}");
            for name in names(&source) {
                let file = |folder: &Path| folder.join(below).join(&name);
                if file(&source).is_file() {
                    assert_eq!(fs::read(file(&unpacked)).unwrap(), fs::read(file(&source)).unwrap());
                }
            }
        }
        assert!(
            unpacked.join("deps/LICENSE").is_file(),
            "the licence of WASI's packages"
        );
        let mut resolve = Resolve::new();
        resolve.push_dir(&unpacked).unwrap();
    }
}
