//! A component and its dependencies made one, as Spin does it (`crates/compose` and `crates/capabilities` of its repository, 4.0):
//! each dependency gets a denial in the place of every interface that it does not inherit, is made an instance of its own, and
//! its exports are the arguments of the component, by the names of what that imports.

use crate::manifest::{DependencyName, Inherit};
use managed_identity_test_guests::DENY;
use std::collections::BTreeMap;
use wac_graph::types::{ItemKind, Package, SubtypeChecker, are_semver_compatible};
use wac_graph::{CompositionGraph, EncodeOptions, NodeId, PackageId};

/// What is inherited with which configuration, of the interfaces that Spin denies and our components import.
const CAPABILITIES: [(&str, &str); 4] = [
    ("allowed_outbound_hosts", "wasi:http/outgoing-handler@"),
    ("environment", "wasi:cli/environment@"),
    ("files", "wasi:filesystem/preopens@"),
    ("key_value_stores", "wasi:keyvalue/store@"),
];

/// What the manifest says of a dependency, with the component itself.
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) component: Vec<u8>,
    pub(crate) inherits: Inherit,
}

/// The application's component with its dependencies.
pub(crate) fn compose(component: &[u8], dependencies: &[Dependency]) -> Result<Vec<u8>, String> {
    let mut graph = CompositionGraph::new();
    let (package, instance) = instantiate(&mut graph, "component", component)?;
    let mut arguments: BTreeMap<String, NodeId> = BTreeMap::new();
    for dependency in dependencies {
        let denied = deny(&dependency.component, &dependency.inherits)?;
        let name = DependencyName::parse(&dependency.name)?;
        let matching: Vec<_> = items(&graph, package, Side::Imports)
            .into_iter()
            .filter(|(import, _)| matches(&name, import))
            .collect();
        if matching.is_empty() {
            return Err(format!("dependency {} matches no import", dependency.name));
        }
        let (own_package, own_instance) = instantiate(&mut graph, &dependency.name, &denied)?;
        let exports: BTreeMap<_, _> = items(&graph, own_package, Side::Exports).into_iter().collect();
        for (import, wanted) in matching {
            let Some(export) = exports.get(&import) else {
                return Err(format!("dependency {} does not export {import}", dependency.name));
            };
            let mut cache = Default::default();
            SubtypeChecker::new(&mut cache)
                .is_subtype(*export, graph.types(), wanted, graph.types())
                .map_err(|error| format!("dependency {} has another {import}: {error:#}", dependency.name))?;
            let export = graph
                .alias_instance_export(own_instance, &import)
                .map_err(|error| error.to_string())?;
            if arguments.insert(import.clone(), export).is_some() {
                return Err(format!("two dependencies satisfy {import}"));
            }
        }
    }
    for (import, argument) in arguments {
        graph
            .set_instantiation_argument(instance, &import, argument)
            .map_err(|error| error.to_string())?;
    }
    finish(graph, package, instance)
}

/// The dependency with a denial in the place of what it does not inherit.
pub(crate) fn deny(dependency: &[u8], inherits: &Inherit) -> Result<Vec<u8>, String> {
    let mut graph = CompositionGraph::new();
    let (package, instance) = instantiate(&mut graph, "dependency", dependency)?;
    let denials = register(&mut graph, "denials", DENY)?;
    let imports = items(&graph, package, Side::Imports);
    let mut denied = Vec::new();
    for (denial, kind) in items(&graph, denials, Side::Exports) {
        let inherited = CAPABILITIES
            .iter()
            .any(|(configuration, interface)| inherits.has(configuration) && denial.starts_with(interface));
        let import = imports
            .iter()
            .find(|(import, _)| *import == denial || are_semver_compatible(&denial, import));
        if let Some((import, wanted)) = import.filter(|_| !inherited) {
            let mut cache = Default::default();
            SubtypeChecker::new(&mut cache)
                .is_subtype(kind, graph.types(), *wanted, graph.types())
                .map_err(|error| format!("{denial} does not fit {import}: {error:#}"))?;
            denied.push((denial, import));
        }
    }
    if denied.is_empty() {
        return Ok(dependency.to_vec());
    }
    let denier = graph.instantiate(denials);
    for (denial, import) in denied {
        let export = graph
            .alias_instance_export(denier, &denial)
            .map_err(|error| error.to_string())?;
        graph
            .set_instantiation_argument(instance, import, export)
            .map_err(|error| error.to_string())?;
    }
    finish(graph, package, instance)
}

/// Whether a dependency of this name is for this import.
fn matches(name: &DependencyName, import: &str) -> bool {
    let DependencyName::Package {
        package,
        interface,
        version,
    } = name
    else {
        return false;
    };
    let (path, own_version) = match import.split_once('@') {
        Some((path, version)) => (path, Some(version)),
        None => (import, None),
    };
    let Some((own_package, own_interface)) = path.split_once('/') else {
        return false;
    };
    own_package == package
        && interface.as_deref().is_none_or(|interface| interface == own_interface)
        && version.as_deref().is_none_or(|version| Some(version) == own_version)
}

fn register(graph: &mut CompositionGraph, name: &str, component: &[u8]) -> Result<PackageId, String> {
    let package = Package::from_bytes(name, None, component.to_vec(), graph.types_mut())
        .map_err(|error| format!("{name} is no component: {error:#}"))?;
    graph.register_package(package).map_err(|error| error.to_string())
}

fn instantiate(graph: &mut CompositionGraph, name: &str, component: &[u8]) -> Result<(PackageId, NodeId), String> {
    let package = register(graph, name, component)?;
    Ok((package, graph.instantiate(package)))
}

#[derive(Clone, Copy)]
enum Side {
    Imports,
    Exports,
}

fn items(graph: &CompositionGraph, package: PackageId, side: Side) -> Vec<(String, ItemKind)> {
    let world = &graph.types()[graph[package].ty()];
    let items = match side {
        Side::Imports => &world.imports,
        Side::Exports => &world.exports,
    };
    items.iter().map(|(name, kind)| (name.clone(), *kind)).collect()
}

/// The composition, which exports what this instance exports.
fn finish(mut graph: CompositionGraph, package: PackageId, instance: NodeId) -> Result<Vec<u8>, String> {
    for (name, _) in items(&graph, package, Side::Exports) {
        let export = graph
            .alias_instance_export(instance, &name)
            .map_err(|error| error.to_string())?;
        graph.export(export, &name).map_err(|error| error.to_string())?;
    }
    graph
        .encode(EncodeOptions::default())
        .map_err(|error| error.to_string())
}
