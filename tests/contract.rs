//! The contract in `wit/`, and that the built components keep it: what they import, export, weigh and give away.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use managed_identity_host::{EMBEDDED_0_2, EMBEDDED_0_3};
use std::collections::BTreeSet;
use std::path::Path;
use wit_parser::decoding::{DecodedWasm, decode};
use wit_parser::{
    Docs, FunctionKind, InterfaceId, PackageId, Resolve, Type, TypeDefKind, WorldId, WorldItem, WorldKey,
};

/// A version of the contract, and its provider.
struct Version {
    name: &'static str,
    component: &'static [u8],
    /// The interfaces of WASI that a provider is given to call.
    calls: &'static [&'static str],
    /// Those whose types these are made of.
    types: &'static [&'static str],
}

const VERSIONS: [Version; 2] = [
    Version {
        name: "0.2",
        component: EMBEDDED_0_2,
        calls: &[
            "wasi:cli/environment@0.2.12",
            "wasi:clocks/monotonic-clock@0.2.12",
            "wasi:clocks/wall-clock@0.2.12",
            "wasi:filesystem/preopens@0.2.12",
            "wasi:http/outgoing-handler@0.2.12",
            "wasi:random/random@0.2.12",
        ],
        types: &[
            "wasi:clocks/wall-clock@0.2.12",
            "wasi:filesystem/types@0.2.12",
            "wasi:http/types@0.2.12",
            "wasi:io/error@0.2.12",
            "wasi:io/poll@0.2.12",
            "wasi:io/streams@0.2.12",
        ],
    },
    Version {
        name: "0.3",
        component: EMBEDDED_0_3,
        calls: &[
            "wasi:cli/environment@0.3.2",
            "wasi:clocks/monotonic-clock@0.3.2",
            "wasi:clocks/system-clock@0.3.2",
            "wasi:filesystem/preopens@0.3.2",
            "wasi:http/client@0.3.2",
            "wasi:random/random@0.3.2",
        ],
        types: &[
            "wasi:clocks/types@0.3.2",
            "wasi:filesystem/types@0.3.2",
            "wasi:http/types@0.3.2",
        ],
    },
];

impl Version {
    fn folder(&self) -> String {
        format!("{}/../../wit/{}", env!("CARGO_MANIFEST_DIR"), self.name)
    }

    fn identity_wit(&self) -> String {
        std::fs::read_to_string(format!("{}/identity.wit", self.folder())).unwrap()
    }

    /// The package as it is written.
    fn package(&self) -> (Resolve, PackageId) {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(Path::new(&self.folder())).unwrap();
        (resolve, package)
    }

    /// The world that the built component turns out to have.
    fn built(&self) -> (Resolve, WorldId) {
        match decode(self.component).unwrap() {
            DecodedWasm::Component(resolve, world) => (resolve, world),
            DecodedWasm::WitPackage(..) => panic!("the provider is no component"),
        }
    }
}

/// The interfaces, functions and types on one side of a world, with their versions.
fn names<'a>(resolve: &Resolve, items: impl IntoIterator<Item = &'a WorldKey>) -> BTreeSet<String> {
    items.into_iter().map(|key| resolve.name_world_key(key)).collect()
}

fn owned(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn the_packages_have_their_names_interfaces_and_worlds() {
    for version in &VERSIONS {
        let (resolve, package) = version.package();
        let package = &resolve.packages[package];
        assert_eq!(package.name.to_string(), format!("cloud:identity@{}.0", version.name));
        let interfaces: Vec<_> = package.interfaces.keys().map(String::as_str).collect();
        assert_eq!(interfaces, ["types", "managed-identity", "token-claims"]);
        let worlds: BTreeSet<_> = package.worlds.keys().map(String::as_str).collect();
        assert_eq!(worlds, BTreeSet::from(["client", "provider"]));
        // Whoever vendors this package vendors those as well, and they are the W3C's.
        for (_, other) in &resolve.packages {
            assert!(
                other.name.namespace == "wasi" || other.name == package.name,
                "{}",
                other.name
            );
        }
    }
}

#[test]
fn everything_in_the_contract_is_documented() {
    for version in &VERSIONS {
        let (resolve, package) = version.package();
        let package = &resolve.packages[package];
        let mut bare = Vec::new();
        let mut count = 0;
        let mut check = |path: &[&str], docs: &Docs| {
            count += 1;
            let text = docs.contents.as_deref().unwrap_or_default().trim();
            if !text.ends_with('.') {
                bare.push(path.join("."));
            }
        };
        check(&["the package"], &package.docs);
        for (name, world) in &package.worlds {
            check(&[name], &resolve.worlds[*world].docs);
            for (item, export) in &resolve.worlds[*world].exports {
                if let WorldItem::Function(function) = export {
                    check(&[name, &resolve.name_world_key(item)], &function.docs);
                }
            }
        }
        for (interface_name, interface) in &package.interfaces {
            let interface = &resolve.interfaces[*interface];
            check(&[interface_name], &interface.docs);
            for (name, function) in &interface.functions {
                check(&[interface_name, name], &function.docs);
            }
            for (name, id) in &interface.types {
                let definition = &resolve.types[*id];
                let mut check = |part: &str, docs: &Docs| check(&[interface_name, name, part], docs);
                match &definition.kind {
                    // The name of a type of another interface, which is documented there.
                    TypeDefKind::Type(Type::Id(_)) => continue,
                    TypeDefKind::Record(record) => record.fields.iter().for_each(|f| check(&f.name, &f.docs)),
                    TypeDefKind::Variant(variant) => variant.cases.iter().for_each(|c| check(&c.name, &c.docs)),
                    TypeDefKind::Enum(cases) => cases.cases.iter().for_each(|c| check(&c.name, &c.docs)),
                    TypeDefKind::Flags(flags) => flags.flags.iter().for_each(|f| check(&f.name, &f.docs)),
                    other => panic!(
                        "{interface_name}.{name} is a {}, which this test does not know",
                        other.as_str()
                    ),
                }
                check("", &definition.docs);
            }
        }
        assert_eq!(
            bare,
            Vec::<String>::new(),
            "without a whole sentence in {}",
            version.name
        );
        assert!(count > 70, "only {count} items were looked at");
    }
}

#[test]
fn the_two_versions_differ_in_async_and_version_as_text() {
    let [old, new] = VERSIONS.map(|version| version.identity_wit());
    let normalised = |text: &str| {
        text.replace("package cloud:identity@0.3.0;", "package cloud:identity@0.2.0;")
            .replace("async func(", "func(")
    };
    assert_eq!(normalised(&old), old, "version 0.2 is synchronous");
    assert_ne!(new, old);
    for (number, (new, old)) in normalised(&new).lines().zip(old.lines()).enumerate() {
        assert_eq!(new, old, "line {}", number + 1);
    }
    assert_eq!(normalised(&new), old);
}

/// A package as text, without what may differ: functions are synchronous, the version is left out.
fn structure(resolve: &Resolve, package: PackageId) -> (Vec<String>, BTreeSet<String>) {
    let mut lines = Vec::new();
    let mut asynchronous = BTreeSet::new();
    let package = &resolve.packages[package];
    for (interface_name, interface) in &package.interfaces {
        let interface = &resolve.interfaces[*interface];
        for (name, id) in &interface.types {
            lines.push(format!(
                "{interface_name}.{name} = {}",
                definition(resolve, &resolve.types[*id].kind)
            ));
        }
        for (name, function) in &interface.functions {
            if function.kind == FunctionKind::AsyncFreestanding {
                asynchronous.insert(format!("{interface_name}.{name}"));
            }
            let parameters: Vec<_> = function
                .params
                .iter()
                .map(|parameter| format!("{}: {}", parameter.name, type_name(resolve, &parameter.ty)))
                .collect();
            let result = function.result.as_ref().map(|result| type_name(resolve, result));
            lines.push(format!(
                "{interface_name}.{name}({}) -> {result:?}",
                parameters.join(", ")
            ));
        }
    }
    (lines, asynchronous)
}

fn definition(resolve: &Resolve, kind: &TypeDefKind) -> String {
    let of = |ty: &Type| type_name(resolve, ty);
    let optional = |ty: &Option<Type>| ty.as_ref().map_or("_".to_owned(), of);
    let list = |parts: Vec<String>| parts.join(", ");
    match kind {
        TypeDefKind::Record(record) => list(
            record
                .fields
                .iter()
                .map(|f| format!("{}: {}", f.name, of(&f.ty)))
                .collect(),
        ),
        TypeDefKind::Variant(variant) => list(
            variant
                .cases
                .iter()
                .map(|c| format!("{}({})", c.name, optional(&c.ty)))
                .collect(),
        ),
        TypeDefKind::Enum(cases) => list(cases.cases.iter().map(|c| c.name.clone()).collect()),
        TypeDefKind::Option(inner) => format!("option<{}>", of(inner)),
        TypeDefKind::List(inner) => format!("list<{}>", of(inner)),
        TypeDefKind::Result(result) => format!("result<{}, {}>", optional(&result.ok), optional(&result.err)),
        TypeDefKind::Type(inner) => of(inner),
        other => panic!("a {}, which this test does not know", other.as_str()),
    }
}

fn type_name(resolve: &Resolve, ty: &Type) -> String {
    match ty {
        Type::Id(id) => match &resolve.types[*id].name {
            Some(name) => name.clone(),
            None => definition(resolve, &resolve.types[*id].kind),
        },
        plain => format!("{plain:?}"),
    }
}

#[test]
fn the_two_versions_differ_in_async_and_version_as_types() {
    let [(old, old_async), (new, new_async)] = VERSIONS.map(|version| {
        let (resolve, package) = version.package();
        structure(&resolve, package)
    });
    assert_eq!(old, new);
    assert!(old.len() > 12, "{old:?}");
    assert_eq!(old_async, BTreeSet::new());
    assert_eq!(new_async, owned(&["managed-identity.get-token"]));
}

#[test]
fn a_provider_imports_and_exports_what_its_world_says_and_no_more() {
    for version in &VERSIONS {
        let imports = &owned(version.calls) | &owned(version.types);
        let exports: BTreeSet<_> = ["types", "managed-identity", "token-claims"]
            .map(|name| format!("cloud:identity/{name}@{}.0", version.name))
            .into();

        let (resolve, package) = version.package();
        let world = &resolve.worlds[resolve.select_world(&[package], Some("provider")).unwrap()];
        assert_eq!(
            names(&resolve, world.imports.keys()),
            imports,
            "the world in wit/{}",
            version.name
        );
        assert_eq!(
            names(&resolve, world.exports.keys()),
            exports,
            "the world in wit/{}",
            version.name
        );

        let (built, world) = version.built();
        let world = &built.worlds[world];
        assert_eq!(
            names(&built, world.imports.keys()),
            imports,
            "the component for {}",
            version.name
        );
        assert_eq!(
            names(&built, world.exports.keys()),
            exports,
            "the component for {}",
            version.name
        );
    }
}

fn functions(resolve: &Resolve, interface: InterfaceId) -> BTreeSet<String> {
    resolve.interfaces[interface].functions.keys().cloned().collect()
}

/// An import of an interface is one of the functions in it that are called. None of these reaches further than the
/// interfaces' names promise.
#[test]
fn a_provider_makes_no_server_and_opens_no_stream_but_those_of_http() {
    for version in &VERSIONS {
        let (resolve, world) = version.built();
        for (key, item) in &resolve.worlds[world].imports {
            let WorldItem::Interface { id, .. } = item else {
                panic!("{} is no interface", resolve.name_world_key(key));
            };
            for function in functions(&resolve, *id) {
                for word in [
                    "stdin",
                    "stdout",
                    "stderr",
                    "preopen",
                    "socket",
                    "exit",
                    "incoming-handler",
                    "insecure",
                ] {
                    assert!(!function.contains(word), "{}: {function}", resolve.name_world_key(key));
                }
            }
        }
    }
}

#[test]
fn a_provider_is_small() {
    for version in &VERSIONS {
        let size = version.component.len();
        assert!(
            size <= 256 * 1024,
            "the component for {} has {size} bytes",
            version.name
        );
        assert!(size > 16 * 1024, "{size} bytes are no provider");
    }
}

#[test]
fn a_provider_names_no_path_of_the_machine_that_built_it() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let mut paths: Vec<String> = [
        "/root/",
        "/home/",
        "/Users/",
        "C:\\Users",
        "/.cargo/",
        "/tmp/",
        "index.crates.io",
    ]
    .map(str::to_owned)
    .into();
    paths.push(workspace.to_str().unwrap().to_owned());
    // A home of `/` is in everything.
    paths.extend(
        ["CARGO_HOME", "RUSTUP_HOME", "HOME"]
            .iter()
            .filter_map(|name| std::env::var(name).ok())
            .filter(|path| path.len() > 1),
    );
    for version in &VERSIONS {
        for path in &paths {
            let found = version
                .component
                .windows(path.len())
                .position(|window| window == path.as_bytes());
            let around = found.map(|at| {
                let context = &version.component[at.saturating_sub(40)..(at + 80).min(version.component.len())];
                String::from_utf8_lossy(context).into_owned()
            });
            assert_eq!(around, None, "{path} in the component for {}", version.name);
        }
    }
}
