//! Spin's manifest, version 2, as far as a file can be checked without Spin: which keys there are, how names and hosts are
//! written, and what excludes what.
//!
//! The rules are those of Spin 4: `crates/manifest/src/{schema/v2.rs,normalize.rs}`, `crates/serde/src/{id,dependencies}.rs`,
//! `crates/http/src/config.rs` and `crates/outbound-networking-config/src/allowed_hosts.rs` of its repository. One rule is ours:
//! Spin ignores the name of a configuration that it does not know, and we do not.

use http::Uri;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use toml::Value;

/// What a dependency can inherit (`CAPABILITY_SETS` in `crates/capabilities/src/lib.rs`).
const CONFIGURATIONS: [&str; 7] = [
    "ai_models",
    "allowed_outbound_hosts",
    "environment",
    "files",
    "key_value_stores",
    "sqlite_databases",
    "variables",
];

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    spin_manifest_version: u64,
    #[expect(dead_code, reason = "checked by being read")]
    application: Application,
    #[serde(default)]
    variables: BTreeMap<String, Variable>,
    trigger: BTreeMap<String, Vec<Trigger>>,
    #[serde(default)]
    pub(crate) component: BTreeMap<String, Component>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "checked by being read")]
struct Application {
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    authors: Vec<String>,
    #[serde(default)]
    targets: Vec<Value>,
    #[serde(default)]
    trigger: BTreeMap<String, toml::Table>,
    #[serde(default)]
    tool: BTreeMap<String, toml::Table>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    #[serde(default, rename = "description")]
    _description: Option<String>,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    default: Option<String>,
    #[serde(default, rename = "secret")]
    _secret: bool,
}

/// A trigger of the type `http`, with a component: the static response is for applications without one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trigger {
    #[serde(default, rename = "id")]
    _id: String,
    component: String,
    route: Value,
    #[serde(default, rename = "executor")]
    _executor: Option<Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Component {
    /// The path of the component; applications of ours have no others.
    pub(crate) source: PathBuf,
    #[serde(default, rename = "description")]
    _description: String,
    #[serde(default)]
    variables: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
    #[serde(default, rename = "files")]
    _files: Vec<Value>,
    #[serde(default, rename = "exclude_files")]
    _exclude_files: Vec<String>,
    #[serde(default, rename = "allowed_http_hosts")]
    _allowed_http_hosts: Vec<String>,
    #[serde(default)]
    pub(crate) allowed_outbound_hosts: Vec<String>,
    #[serde(default)]
    pub(crate) key_value_stores: Vec<String>,
    #[serde(default)]
    sqlite_databases: Vec<String>,
    #[serde(default, rename = "ai_models")]
    _ai_models: Vec<String>,
    #[serde(default, rename = "targets")]
    _targets: Option<Vec<Value>>,
    #[serde(default)]
    pub(crate) build: Option<Build>,
    #[serde(default, rename = "tool")]
    _tool: BTreeMap<String, toml::Table>,
    #[serde(default)]
    dependencies_inherit_configuration: Option<bool>,
    #[serde(default)]
    pub(crate) dependencies: BTreeMap<String, Dependency>,
    #[serde(default, rename = "profile")]
    _profile: BTreeMap<String, toml::Table>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Build {
    pub(crate) command: Commands,
    #[serde(default, rename = "workdir")]
    _workdir: Option<String>,
    #[serde(default, rename = "watch")]
    _watch: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
#[expect(dead_code, reason = "checked by being read")]
pub(crate) enum Commands {
    Single(String),
    Multiple(Vec<String>),
}

/// How an import is satisfied, in the order in which Spin tries the forms.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
#[expect(dead_code, reason = "checked by being read")]
pub(crate) enum Dependency {
    Version(String),
    Package {
        version: String,
        registry: Option<String>,
        package: Option<String>,
        export: Option<String>,
        inherit_configuration: Option<Inherit>,
    },
    Local {
        path: PathBuf,
        export: Option<String>,
        inherit_configuration: Option<Inherit>,
    },
    Url {
        url: String,
        digest: String,
        export: Option<String>,
        inherit_configuration: Option<Inherit>,
    },
    AppComponent {
        component: String,
        export: Option<String>,
        inherit_configuration: Option<Inherit>,
    },
}

/// What a dependency inherits.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Inherit {
    All(bool),
    Some(Vec<String>),
}

impl Inherit {
    /// Whether it inherits this configuration.
    pub(crate) fn has(&self, configuration: &str) -> bool {
        match self {
            Self::All(all) => *all,
            Self::Some(some) => some.iter().any(|name| name == configuration),
        }
    }
}

impl Dependency {
    fn inherits(&self) -> Option<&Inherit> {
        match self {
            Self::Version(_) => None,
            Self::Package {
                inherit_configuration, ..
            }
            | Self::Local {
                inherit_configuration, ..
            }
            | Self::Url {
                inherit_configuration, ..
            }
            | Self::AppComponent {
                inherit_configuration, ..
            } => inherit_configuration.as_ref(),
        }
    }

    fn export(&self) -> Option<&str> {
        match self {
            Self::Package { export, .. } | Self::Local { export, .. } => export.as_deref(),
            _ => None,
        }
    }
}

impl Manifest {
    /// Reads a manifest.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let manifest: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if self.spin_manifest_version != 2 {
            return Err("spin_manifest_version is not 2".to_owned());
        }
        for (name, variable) in &self.variables {
            check_id(name, '_', true)?;
            if variable.required == variable.default.is_some() {
                return Err(format!("variable {name} is either required or has a default"));
            }
        }
        for (kind, triggers) in &self.trigger {
            if kind != "http" {
                return Err(format!("trigger {kind} is not http"));
            }
            for trigger in triggers {
                if !self.component.contains_key(&trigger.component) {
                    return Err(format!("there is no component {}", trigger.component));
                }
                check_route(&trigger.route)?;
            }
        }
        for (id, component) in &self.component {
            check_id(id, '-', false)?;
            component.check().map_err(|error| format!("component {id}: {error}"))?;
        }
        Ok(())
    }
}

impl Component {
    fn check(&self) -> Result<(), String> {
        for name in self.variables.keys() {
            check_id(name, '_', true)?;
        }
        for host in &self.allowed_outbound_hosts {
            HostPattern::parse(host)?;
        }
        for label in self.key_value_stores.iter().chain(&self.sqlite_databases) {
            check_id(label, '-', false).or_else(|_| check_id(label, '_', false))?;
        }
        let names: Vec<_> = self
            .dependencies
            .keys()
            .map(|name| DependencyName::parse(name))
            .collect::<Result<_, _>>()?;
        for ((text, dependency), name) in self.dependencies.iter().zip(&names) {
            match (name, dependency) {
                (DependencyName::Plain, Dependency::Version(_) | Dependency::Package { package: None, .. }) => {
                    return Err(format!("dependency {text} names no package"));
                }
                (DependencyName::Package { interface: None, .. }, _) if dependency.export().is_some() => {
                    return Err(format!("dependency {text} is a whole package, and so has no `export`"));
                }
                _ => {}
            }
            if let Some(Inherit::Some(inherited)) = dependency.inherits() {
                for name in inherited {
                    if !CONFIGURATIONS.contains(&name.as_str()) {
                        return Err(format!("dependency {text} inherits {name}, which is no configuration"));
                    }
                }
            }
        }
        for (index, one) in names.iter().enumerate() {
            if let Some(other) = names[index + 1..].iter().find(|other| one.conflicts_with(other)) {
                return Err(format!("dependencies conflict: {one:?} and {other:?}"));
            }
        }
        if self.dependencies_inherit_configuration.is_some()
            && self
                .dependencies
                .values()
                .any(|dependency| dependency.inherits().is_some())
        {
            return Err(
                "`dependencies_inherit_configuration` and `inherit_configuration` exclude each other".to_owned(),
            );
        }
        Ok(())
    }
}

/// Words of letters and digits, each beginning with a letter and all in one case.
fn check_id(id: &str, separator: char, lower: bool) -> Result<(), String> {
    let is_word = |word: &str| {
        let first = word.chars().next().filter(char::is_ascii_alphabetic);
        first.is_some_and(|first| {
            (!lower || first.is_ascii_lowercase())
                && word.chars().all(|c| {
                    c.is_ascii_digit()
                        || c.is_ascii_alphabetic() && c.is_ascii_uppercase() == first.is_ascii_uppercase()
                })
        })
    };
    match id.split(separator).all(is_word) {
        true => Ok(()),
        false => Err(format!("{id:?} is no name of words with {separator:?} between them")),
    }
}

/// `"/path/:parameter/..."`, or `{ private = true }` for what only other components call.
fn check_route(route: &Value) -> Result<(), String> {
    let good = match route {
        Value::String(path) => path.starts_with('/'),
        Value::Table(table) => table.len() == 1 && table.get("private") == Some(&Value::Boolean(true)),
        _ => false,
    };
    good.then_some(()).ok_or_else(|| format!("{route:?} is no route"))
}

/// `plain-name`, `package:name`, `package:name/interface`, each package with `@version` or without.
#[derive(Debug, PartialEq)]
pub(crate) enum DependencyName {
    Plain,
    Package {
        package: String,
        interface: Option<String>,
        version: Option<String>,
    },
}

impl DependencyName {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if !text.contains([':', '/']) {
            return check_id(text, '-', false).map(|()| Self::Plain);
        }
        let (name, version) = match text.split_once('@') {
            None => (text, None),
            Some((name, version)) => (name, Some(version)),
        };
        if version.is_some_and(|version| version.split('.').filter(|part| part.parse::<u64>().is_ok()).count() < 3) {
            return Err(format!("{text:?} has no version after its @"));
        }
        let (package, interface) = match name.split_once('/') {
            None => (name, None),
            Some((package, interface)) => (package, Some(interface)),
        };
        let Some((namespace, own_name)) = package.split_once(':') else {
            return Err(format!("{text:?} names no package"));
        };
        for part in [Some(namespace), Some(own_name), interface].into_iter().flatten() {
            check_id(part, '-', false)?;
        }
        Ok(Self::Package {
            package: package.to_owned(),
            interface: interface.map(str::to_owned),
            version: version.map(str::to_owned),
        })
    }

    /// Two of one package, neither of whose interfaces nor incompatible versions tell them apart.
    fn conflicts_with(&self, other: &Self) -> bool {
        let Self::Package {
            package,
            interface,
            version,
        } = self
        else {
            return false;
        };
        let Self::Package {
            package: other_package,
            interface: other_interface,
            version: other_version,
        } = other
        else {
            return false;
        };
        let differ = |one: Option<&str>, other: Option<&str>| one.is_some() && other.is_some() && one != other;
        package == other_package
            && !differ(interface.as_deref(), other_interface.as_deref())
            && !differ(version.as_deref().map(track), other_version.as_deref().map(track))
    }
}

/// The part of a version that has to be equal for two to be compatible.
fn track(version: &str) -> &str {
    if version.contains('-') {
        return version;
    }
    let mut length = 0;
    for part in version.split('.') {
        length += part.len();
        if part != "0" {
            break;
        }
        length += 1;
    }
    &version[..length.min(version.len())]
}

/// One of `allowed_outbound_hosts`: `scheme://host[:port]`, with `*` for any of the three, or as the first label of a host.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HostPattern {
    scheme: Option<String>,
    host: Host,
    port: Option<Port>,
}

#[derive(Clone, Debug, PartialEq)]
enum Host {
    Any,
    Subdomain(String),
    /// The application itself.
    Oneself,
    Exactly(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Port {
    Exactly(u16),
    Range(u16, u16),
}

impl HostPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{text:?} is no host: {what}"));
        let Some((scheme, rest)) = text.trim().split_once("://") else {
            return wrong("it has no scheme");
        };
        if scheme != "*" && (scheme.is_empty() || !scheme.chars().all(char::is_alphabetic)) {
            return wrong("the scheme has something else than letters");
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('/') {
            return wrong("it has a path");
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        };
        let number = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is no port"));
        let port = match (port, scheme) {
            (Some("*"), _) => None,
            (Some(port), _) => Some(match port.split_once("..") {
                Some((from, to)) => Port::Range(number(from)?, number(to)?),
                None => Port::Exactly(number(port)?),
            }),
            (None, "http") => Some(Port::Exactly(80)),
            (None, "https") => Some(Port::Exactly(443)),
            (None, _) => return wrong("the scheme has no port of its own"),
        };
        let host = match host.strip_prefix("*.") {
            _ if host == "*" => Host::Any,
            _ if host == "self" => Host::Oneself,
            Some(domain) if !domain.contains('*') && !domain.is_empty() => Host::Subdomain(format!(".{domain}")),
            None if !host.contains(['*', '{', ' ']) && !host.is_empty() => Host::Exactly(host.to_owned()),
            _ => return wrong("a `*` is a whole host or its first label"),
        };
        Ok(Self {
            scheme: (scheme != "*").then(|| scheme.to_owned()),
            host,
            port,
        })
    }

    /// Whether a request may go there.
    pub(crate) fn allows(&self, uri: &Uri) -> bool {
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return false;
        };
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        let host_is_allowed = match &self.host {
            Host::Any => true,
            Host::Oneself => false,
            Host::Subdomain(suffix) => host.ends_with(suffix),
            Host::Exactly(own) => host == own,
        };
        let port_is_allowed = match self.port {
            None => true,
            Some(Port::Exactly(own)) => port == own,
            Some(Port::Range(from, to)) => (from..to).contains(&port),
        };
        self.scheme.as_deref().is_none_or(|own| own == scheme) && host_is_allowed && port_is_allowed
    }
}
