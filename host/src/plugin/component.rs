//! A component that can be run, and what it needs for that.

use super::{PluginEngine, PluginError};
use crate::sandbox::Sandbox;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre};
use wasmtime::wasmparser::{Parser, Payload};

/// The interface of a command.
const COMMAND: &str = "wasi:cli/run";

/// The function of the world `client`, and of the interface of a command.
const RUN: &str = "run";

/// What plugins are given in version 0.2: the packages of `wasi:cli/imports` and `wasi:http`, and the identity.
const GIVEN_0_2: [&str; 8] = [
    "cloud:identity",
    "wasi:cli",
    "wasi:clocks",
    "wasi:filesystem",
    "wasi:http",
    "wasi:io",
    "wasi:random",
    "wasi:sockets",
];

/// The same in version 0.3, where streams are part of the component model.
const GIVEN_0_3: [&str; 7] = [
    "cloud:identity",
    "wasi:cli",
    "wasi:clocks",
    "wasi:filesystem",
    "wasi:http",
    "wasi:random",
    "wasi:sockets",
];

/// A compiled component that can be run, any number of times. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    pub(super) engine: PluginEngine,
    pub(super) instance: InstancePre<Sandbox>,
    pub(super) entry: Entry,
}

/// What is called to run a plugin.
#[derive(Clone, Copy)]
pub(super) enum Entry {
    /// `run: func() -> result` of a command.
    Command(ComponentExportIndex),
    /// `run: func() -> result<string, string>` of the world `client`.
    Client(ComponentExportIndex),
}

/// Whether a component is for WASI 0.3, and has to be run
/// [`with_async(true)`](super::PluginEngineBuilder::with_async).
///
/// # Errors
/// When the bytes are not a component.
pub fn needs_async(component: &[u8]) -> Result<bool, PluginError> {
    Ok(Names::of(component)?.need_async())
}

impl Plugin {
    pub(super) fn load(engine: &PluginEngine, bytes: &[u8]) -> Result<Self, PluginError> {
        let is_async = engine.0.is_async;
        let names = Names::of(bytes)?;
        if names.need_async() && !is_async {
            return Err(PluginError::NeedsAsync);
        }
        let component = Component::new(&engine.0.engine, bytes).map_err(PluginError::NotAComponent)?;
        let instance = engine.0.linker.instantiate_pre(&component).map_err(|error| {
            let foreign: Vec<String> = names
                .imports
                .iter()
                .filter(|name| !is_given(name, is_async))
                .cloned()
                .collect();
            if foreign.is_empty() {
                PluginError::Mismatch(error)
            } else {
                PluginError::Imports(foreign)
            }
        })?;
        let entry = names.entry(&component).ok_or(PluginError::NotAPlugin)?;
        Ok(Self {
            engine: engine.clone(),
            instance,
            entry,
        })
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.entry {
            Entry::Command(_) => "command",
            Entry::Client(_) => "client",
        };
        formatter
            .debug_struct("Plugin")
            .field("kind", &kind)
            .finish_non_exhaustive()
    }
}

/// What a component imports and exports, without compiling it.
struct Names {
    imports: Vec<String>,
    exports: Vec<String>,
}

impl Names {
    fn of(bytes: &[u8]) -> Result<Self, PluginError> {
        let refuse = |message: String| PluginError::NotAComponent(wasmtime::Error::msg(message));
        if Parser::is_core_wasm(bytes) {
            let advice = "it is a core module; make a component of it with `wasm-tools component new`";
            return Err(refuse(advice.to_owned()));
        }
        if !Parser::is_component(bytes) {
            return Err(refuse("it does not begin as a component does".to_owned()));
        }
        let mut names = Self {
            imports: Vec::new(),
            exports: Vec::new(),
        };
        names.read(bytes).map_err(|error| refuse(error.to_string()))?;
        Ok(names)
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), wasmtime::wasmparser::BinaryReaderError> {
        // How many modules and components lie around the section at hand.
        let mut depth = 0_u32;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(imports) if depth == 0 => {
                    for import in imports {
                        self.imports.push(import?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(exports) if depth == 0 => {
                    for export in exports {
                        self.exports.push(export?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn need_async(&self) -> bool {
        let mut names = self.imports.iter().chain(&self.exports);
        names
            .any(|name| package(name).is_some_and(|(package, version)| GIVEN_0_3.contains(&package) && is_0_3(version)))
    }

    fn entry(&self, component: &Component) -> Option<Entry> {
        let command = self.exports.iter().find_map(|name| {
            let (interface, version) = name.split_once('@')?;
            if interface != COMMAND || !(is_0_2(version) || is_0_3(version)) {
                return None;
            }
            let interface = component.get_export_index(None, name)?;
            component.get_export_index(Some(&interface), RUN)
        });
        match command {
            Some(run) => Some(Entry::Command(run)),
            None => component.get_export_index(None, RUN).map(Entry::Client),
        }
    }
}

/// The package and the version in `package/interface@version`.
fn package(name: &str) -> Option<(&str, &str)> {
    let (interface, version) = name.split_once('@')?;
    let (package, _) = interface.split_once('/')?;
    Some((package, version))
}

fn is_given(name: &str, is_async: bool) -> bool {
    package(name).is_some_and(|(package, version)| {
        (is_0_2(version) && GIVEN_0_2.contains(&package))
            || (is_async && is_0_3(version) && GIVEN_0_3.contains(&package))
    })
}

/// Releases alone: what came before one differs from it.
fn is_0_2(version: &str) -> bool {
    version.starts_with("0.2.") && !version.contains('-')
}

fn is_0_3(version: &str) -> bool {
    version.starts_with("0.3.") && !version.contains('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_is_given() {
        for (name, sync, with_async) in [
            ("wasi:cli/environment@0.2.0", true, true),
            ("wasi:io/streams@0.2.12", true, true),
            ("wasi:cli/environment@0.3.2", false, true),
            ("cloud:identity/managed-identity@0.2.0", true, true),
            ("cloud:identity/managed-identity@0.3.0", false, true),
            ("wasi:io/streams@0.3.0", false, false),
            ("wasi:cli/environment@0.2.0-rc-2023-12-05", false, false),
            ("wasi:keyvalue/store@0.2.0-draft", false, false),
            ("wasi:config/store@0.2.0", false, false),
            ("acme:host/power@1.0.0", false, false),
            ("log", false, false),
        ] {
            assert_eq!(
                (is_given(name, false), is_given(name, true)),
                (sync, with_async),
                "{name}"
            );
        }
    }
}
