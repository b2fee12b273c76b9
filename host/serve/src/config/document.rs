//! A configuration as a TOML document.

use super::{
    Address, CallerConfig, Config, ConfigError, Federated, Limits, ListenerConfig, Protocol, SecretConfig, TlsFiles,
    Upstream, listener_place, secret_place, users,
};
use crate::secret::SecretHash;
use managed_identity_host::Identity;
use managed_identity_host::document::{Document, DocumentError, Entry, Table, nearest};
use managed_identity_host::grants::{AudiencePattern, Caller, Grant, IdentityPattern};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;
use url::{Host, Url};

/// How many calls of one caller may be under way at once where nothing is said: it is often a herd of worker processes.
const CONCURRENCY: u32 = 4_096;

/// The longest name of a listener, which is in logs and metrics.
const LONGEST_NAME: usize = 64;

/// The longest name of a secret, which is in logs.
const LONGEST_SECRET_NAME: usize = 128;

/// What stands before a token in `Authorization` where nothing is said.
const PREFIX: &str = "Bearer ";

/// What time limits can be.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3600);

const EMPTY: &str = "which says nothing; write what belongs into it, or leave it out";

impl Config {
    /// Reads a configuration from a document, and [checks](Self::check) it. Nothing in the document is passed over: a key
    /// that is unknown, a list that is empty, a text that could mean something else than it says are errors.
    ///
    /// ```
    /// # let config = managed_identity_serve::Config::from_toml(r#"
    /// [listener.programs]             # the name is in logs and metrics
    /// address = "127.0.0.1:4141"      # also: "[::1]:4141", "unix:/run/x.sock", "systemd:NAME"
    /// protocols = ["app-service"]     # also: imds, envoy-ext-authz, envoy-sds, metrics, health
    ///
    /// [caller.report]                 # known by what it sends as X-IDENTITY-HEADER; here is its hash
    /// secrets = ["sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"]
    ///
    /// [[caller.report.token]]         # what it is granted, as `Policy::from_toml` has it
    /// audiences = ["https://vault.azure.net"]
    /// # "#)?;
    /// # assert_eq!(config.listeners.len(), 1);
    /// # Ok::<(), managed_identity_serve::ConfigError>(())
    /// ```
    ///
    /// `examples/serve/broker.toml` has all that there is. What a caller is granted is written as
    /// [`Policy::from_toml`](managed_identity_host::grants::Policy::from_toml) says; of its calls, 4,096 may be under way at
    /// once where `concurrency` says nothing else.
    ///
    /// # Errors
    /// When the document is none, or says what cannot safely be done. The message begins with the line, if it is about one.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Self::from_toml_with(text, users::of_this_machine)
    }

    /// The same, on a machine with these users.
    fn from_toml_with(text: &str, user: impl Fn(&str) -> Option<u32>) -> Result<Self, ConfigError> {
        let mut reader = Reader {
            config: Self::default(),
            lines: HashMap::new(),
            user,
        };
        reader.read(&Document::parse(text)?)?;
        let Reader { config, lines, .. } = reader;
        config.fault().map_err(|fault| {
            let line = |key| lines.get(&(fault.place.clone(), key)).copied();
            ConfigError {
                line: line(fault.key).or_else(|| line("")),
                message: fault.message,
            }
        })?;
        Ok(config)
    }
}

struct Reader<U> {
    config: Config,
    /// Where each table is, and each key in it: what is wrong with a configuration as a whole has a line too.
    lines: HashMap<(String, &'static str), usize>,
    user: U,
}

impl<U: Fn(&str) -> Option<u32>> Reader<U> {
    fn read(&mut self, document: &Document<'_>) -> Result<(), DocumentError> {
        for entry in document.root().entries() {
            match entry.key() {
                "upstream" => self.config.upstream = upstream(entry)?,
                "listener" => {
                    for entry in entry.table("`listener`", "[listener.NAME]")?.entries() {
                        self.listener(entry)?;
                    }
                }
                "caller" => {
                    for entry in entry.table("`caller`", "[caller.NAME]")?.entries() {
                        self.caller(entry)?;
                    }
                }
                "secret" => {
                    for entry in entry.table("`secret`", "[secret.NAME]")?.entries() {
                        self.secret(entry)?;
                    }
                }
                "limits" => self.config.limits = limits(entry)?,
                _ => {
                    let known = ["upstream", "listener", "caller", "secret", "limits"];
                    return Err(entry.unknown("the configuration", &known));
                }
            }
        }
        Ok(())
    }

    fn remember(&mut self, place: &str, key: &'static str, line: usize) {
        self.lines.insert((place.to_owned(), key), line);
    }

    fn listener(&mut self, entry: Entry<'_>) -> Result<(), DocumentError> {
        const KEYS: &[&str] = &["address", "mode", "protocols", "caller", "callers", "tls", "hosts"];
        let name = entry.key();
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(is_name) {
            let message = format!(
                "a listener has no name, or one with more than letters, digits, `-` and `_`, or of more than {LONGEST_NAME}; \
                 write it like `[listener.programs]`"
            );
            return Err(entry.key_error(message));
        }
        let section = listener_place(name);
        let place = format!("[{section}]");
        let table = entry.table(&format!("`{section}`"), &place)?;
        self.remember(&section, "", entry.line());
        let (mut address, mut mode, mut protocols) = (None, None, None);
        let (mut caller, mut callers, mut tls, mut hosts) = (None, None, None, Vec::new());
        for entry in table.entries() {
            if let Some(key) = KEYS.iter().find(|key| **key == entry.key()) {
                self.remember(&section, key, entry.line());
            }
            match entry.key() {
                "address" => address = Some(entry.text_like(&place, "127.0.0.1:4141", Address::parse)?),
                "mode" => mode = Some((entry, entry.text_like(&place, "0660", access)?)),
                "protocols" => protocols = Some(entry.texts(&place, EMPTY, protocol)?),
                "caller" => caller = Some(entry.text(&place, named)?),
                "callers" => callers = Some(entry.texts(&place, EMPTY, named)?),
                "tls" => tls = Some(tls_files(entry, &section)?),
                "hosts" => hosts = entry.texts(&place, EMPTY, host)?,
                _ => return Err(entry.unknown(&format!("`{place}`"), KEYS)),
            }
        }
        let Some(mut address) = address else {
            return Err(table.missing(&place, "address = \"127.0.0.1:4141\""));
        };
        let Some(protocols) = protocols else {
            return Err(table.missing(&place, "protocols = [\"app-service\"]"));
        };
        match (&mut address, mode) {
            (Address::Unix(_, access), Some((_, mode))) => *access = mode,
            (_, Some((entry, _))) => {
                let message = format!(
                    "`mode` of `{place}` is for sockets in the file system, and {address} is none; leave it out, or write an \
                     address that begins with `unix:`"
                );
                return Err(entry.key_error(message));
            }
            (_, None) => {}
        }
        let listener = ListenerConfig {
            address,
            protocols,
            caller,
            callers,
            tls,
            hosts,
        };
        self.config.listeners.insert(name.to_owned(), listener);
        Ok(())
    }

    fn caller(&mut self, entry: Entry<'_>) -> Result<(), DocumentError> {
        const KEYS: &[&str] = &["secrets", "users", "default-identity"];
        let caller = Caller::read(entry)?;
        let section = caller.place();
        let place = format!("[{section}]");
        self.remember(&section, "", entry.line());
        let mut how = CallerConfig::default();
        let mut grant = Grant::default().with_in_flight(CONCURRENCY);
        for entry in entry.table(&format!("`{section}`"), &place)?.entries() {
            if let Some(key) = KEYS.iter().find(|key| **key == entry.key()) {
                self.remember(&section, key, entry.line());
            }
            match entry.key() {
                "secrets" => how.secrets = secrets(entry, &place)?,
                "users" => how.users = self.users(entry, &place)?,
                "default-identity" => how.default_identity = entry.text(&place, identity)?,
                _ if grant.read(entry, &caller)? => {}
                _ => return Err(entry.unknown(&format!("`{place}`"), &[KEYS, Grant::KEYS].concat())),
            }
        }
        self.config.policy = std::mem::take(&mut self.config.policy).with(caller.clone(), grant);
        self.config.callers.insert(caller, how);
        Ok(())
    }

    fn secret(&mut self, entry: Entry<'_>) -> Result<(), DocumentError> {
        const KEYS: &[&str] = &["caller", "audience", "identity", "prefix", "file"];
        let name = entry.key();
        if name.is_empty() || name.len() > LONGEST_SECRET_NAME || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!(
                "a secret has no name, or one with more than visible ASCII, or of more than {LONGEST_SECRET_NAME}; write it \
                 like `[secret.vault]`, as the proxy asks for it"
            );
            return Err(entry.key_error(message));
        }
        let section = secret_place(name);
        let place = format!("[{section}]");
        let table = entry.table(&format!("`{section}`"), &place)?;
        self.remember(&section, "", entry.line());
        let (mut caller, mut audience, mut as_whom, mut prefix, mut file) = (None, None, None, None, None);
        for entry in table.entries() {
            if let Some(key) = KEYS.iter().find(|key| **key == entry.key()) {
                self.remember(&section, key, entry.line());
            }
            match entry.key() {
                "caller" => caller = Some(entry.text(&place, named)?),
                "audience" => audience = Some(entry.text(&place, audience_of_secret)?),
                "identity" => as_whom = Some(entry.text(&place, identity)?),
                "prefix" => prefix = Some(entry.text_like(&place, PREFIX, prefix_of_secret)?),
                "file" => file = Some(entry.text_like(&place, "/run/managed-identity/vault.yaml", secret_file)?),
                _ => return Err(entry.unknown(&format!("`{place}`"), KEYS)),
            }
        }
        let missing = |example| table.missing(&place, example);
        let secret = SecretConfig {
            caller: caller.ok_or_else(|| missing("caller = \"envoy\""))?,
            audience: audience.ok_or_else(|| missing("audience = \"https://vault.azure.net\""))?,
            identity: as_whom,
            prefix: prefix.unwrap_or_else(|| PREFIX.to_owned()),
            file,
        };
        self.config.secrets.insert(name.to_owned(), secret);
        Ok(())
    }

    fn users(&self, entry: Entry<'_>, place: &str) -> Result<Vec<u32>, DocumentError> {
        // The last number is nobody's: `chown(2)` takes it for "as it is".
        const LAST: u64 = u32::MAX as u64 - 1;
        entry.list(
            place,
            "numbers and names of users, as in `users = [1000, \"www-data\"]`",
            EMPTY,
            |item| {
                let refuse = |message: String| Err(item.error(format!("{message}, in `users` of `{place}`")));
                match (item.text(), item.number()) {
                    (Some(name), _) => Some((self.user)(name).map_or_else(
                        || {
                            let name = managed_identity_host::document::shown(name);
                            refuse(format!(
                                "\"{name}\" is no user in /etc/passwd; write the number that `id -u` prints for it"
                            ))
                        },
                        Ok,
                    )),
                    (None, Some(number)) if number > LAST => Some(refuse(format!("{number} is no number of a user"))),
                    (None, Some(number)) => u32::try_from(number).ok().map(Ok),
                    (None, None) => None,
                }
            },
        )
    }
}

/// What is in the document is not shown, because it may be a secret.
fn secrets(entry: Entry<'_>, place: &str) -> Result<Vec<SecretHash>, DocumentError> {
    entry.list(
        place,
        "a list of hashes, as in `secrets = [\"sha256:…\"]`",
        EMPTY,
        |item| {
            item.text().map(|text| {
                SecretHash::parse(text)
                    .map_err(|error| item.error(format!("what stands in `secrets` of `{place}` {error}")))
            })
        },
    )
}

fn upstream(entry: Entry<'_>) -> Result<Upstream, DocumentError> {
    let mut upstream = Upstream::Environment;
    for entry in entry.table("`upstream`", "[upstream]")?.entries() {
        match entry.key() {
            "federated" => upstream = Upstream::Federated(federated(entry)?),
            _ => return Err(entry.unknown("`[upstream]`", &["federated"])),
        }
    }
    Ok(upstream)
}

fn federated(entry: Entry<'_>) -> Result<Federated, DocumentError> {
    const PLACE: &str = "[upstream.federated]";
    const KEYS: &[&str] = &["tenant-id", "client-id", "token-file", "authority"];
    let table = entry.table("`upstream.federated`", PLACE)?;
    let (mut tenant_id, mut client_id, mut token_file, mut authority) = (None, None, None, None);
    for entry in table.entries() {
        match entry.key() {
            "tenant-id" => tenant_id = Some(entry.text(PLACE, tenant)?),
            "client-id" => client_id = Some(entry.text(PLACE, client)?),
            "token-file" => token_file = Some(entry.text(PLACE, absolute)?),
            "authority" => authority = Some(entry.text(PLACE, authority_url)?),
            _ => return Err(entry.unknown(&format!("`{PLACE}`"), KEYS)),
        }
    }
    let missing = |example| table.missing(PLACE, example);
    Ok(Federated {
        tenant_id: tenant_id.ok_or_else(|| missing("tenant-id = \"12345678-90ab-cdef-1234-567890abcdef\""))?,
        client_id: client_id.ok_or_else(|| missing("client-id = \"12345678-90ab-cdef-1234-567890abcdef\""))?,
        token_file: token_file
            .ok_or_else(|| missing("token-file = \"/var/run/secrets/azure/tokens/azure-identity-token\""))?,
        authority,
    })
}

fn limits(entry: Entry<'_>) -> Result<Limits, DocumentError> {
    const PLACE: &str = "[limits]";
    const KEYS: &[&str] = &[
        "connections",
        "header-bytes",
        "body-bytes",
        "request-timeout",
        "idle-timeout",
        "token-timeout",
        "drain-timeout",
    ];
    let mut limits = Limits::default();
    let count = |entry: Entry<'_>, range, example| {
        let number = entry.number(PLACE, range, example)?;
        Ok::<_, DocumentError>(usize::try_from(number).unwrap_or(usize::MAX))
    };
    let time = |entry: Entry<'_>| entry.text_like(PLACE, "10s", time);
    for entry in entry.table("`limits`", PLACE)?.entries() {
        match entry.key() {
            "connections" => limits.connections = count(entry, 1..=1_000_000, 16_384)?,
            // Less is no buffer that hyper could work with.
            "header-bytes" => limits.header_bytes = count(entry, 8_192..=1 << 20, 16_384)?,
            "body-bytes" => limits.body_bytes = count(entry, 1..=1 << 24, 65_536)?,
            "request-timeout" => limits.request_timeout = time(entry)?,
            "idle-timeout" => limits.idle_timeout = time(entry)?,
            "token-timeout" => limits.token_timeout = time(entry)?,
            "drain-timeout" => limits.drain_timeout = time(entry)?,
            _ => return Err(entry.unknown(&format!("`{PLACE}`"), KEYS)),
        }
    }
    Ok(limits)
}

fn tls_files(entry: Entry<'_>, section: &str) -> Result<TlsFiles, DocumentError> {
    let place = format!("[{section}.tls]");
    let table: Table<'_> = entry.table(&format!("`{section}.tls`"), &place)?;
    let (mut certificate, mut key) = (None, None);
    for entry in table.entries() {
        match entry.key() {
            "certificate" => certificate = Some(entry.text(&place, absolute)?),
            "key" => key = Some(entry.text(&place, absolute)?),
            _ => return Err(entry.unknown(&format!("`{place}`"), &["certificate", "key"])),
        }
    }
    let missing = |example| table.missing(&place, example);
    Ok(TlsFiles {
        certificate: certificate.ok_or_else(|| missing("certificate = \"/etc/managed-identity/tls.crt\""))?,
        key: key.ok_or_else(|| missing("key = \"/etc/managed-identity/tls.key\""))?,
    })
}

/// What is wrong with a text: the end of a sentence that begins with it.
type Wrong = String;

fn protocol(text: &str) -> Result<Protocol, Wrong> {
    if let Some(protocol) = Protocol::ALL.iter().find(|protocol| protocol.name() == text) {
        return Ok(*protocol);
    }
    let names: Vec<&str> = Protocol::ALL.iter().map(|protocol| protocol.name()).collect();
    Err(match nearest(text, &names) {
        Some(near) => format!("is no protocol; write `{near}`"),
        None => format!("is no protocol; there are `{}`", names.join("`, `")),
    })
}

/// Who may connect to a socket: like `0660`.
fn access(text: &str) -> Result<u32, Wrong> {
    const OWNER: u32 = 0o600;
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| is_octal && *mode <= 0o777 && mode & OWNER == OWNER)
        .ok_or_else(|| {
            "is no mode of a socket that its owner can use; write `0600`, `0660` for its group too, or `0666` for all"
                .to_owned()
        })
}

fn named(text: &str) -> Result<Caller, Wrong> {
    Ok(Caller::new(text))
}

fn host(text: &str) -> Result<String, Wrong> {
    match Host::parse(text) {
        Ok(host) if !text.contains('*') => Ok(host.to_string()),
        _ => {
            Err("is no name of a host; write it alone, without port and wildcard, such as `broker.internal`".to_owned())
        }
    }
}

fn identity(text: &str) -> Result<Identity, Wrong> {
    match IdentityPattern::parse(text).map_err(|error| error.to_string())? {
        IdentityPattern::Exactly(identity) => Ok(identity),
        IdentityPattern::Any => Err("is no identity; write the one that the caller gets when it names none".to_owned()),
    }
}

/// A pattern that is one audience.
fn audience_of_secret(text: &str) -> Result<String, Wrong> {
    let pattern = AudiencePattern::parse(text).map_err(|error| error.to_string())?;
    if pattern.exact().is_none() {
        return Err("is more than one audience; write the one that the token is for".to_owned());
    }
    Ok(text.to_owned())
}

/// What can stand in a header before a token.
fn prefix_of_secret(text: &str) -> Result<String, Wrong> {
    if text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) && !text.starts_with(' ') {
        return Ok(text.to_owned());
    }
    Err("cannot stand at the start of a header; write visible ASCII, such as `Bearer ` with its space".to_owned())
}

/// Envoy knows by the end of a name how to read a file.
fn secret_file(text: &str) -> Result<PathBuf, Wrong> {
    let path = absolute(text)?;
    match path.extension().and_then(|end| end.to_str()) {
        Some("yaml" | "yml" | "json") => Ok(path),
        _ => Err("ends in neither `.yaml` nor `.json`, by which Envoy knows how to read it".to_owned()),
    }
}

/// As the provider takes it.
fn tenant(text: &str) -> Result<String, Wrong> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    if text.is_empty() || text.starts_with('.') || !text.bytes().all(is_name) {
        return Err("is neither a GUID nor a domain name; write the tenant that the identity is in".to_owned());
    }
    Ok(text.to_owned())
}

fn client(text: &str) -> Result<String, Wrong> {
    match IdentityPattern::parse(&format!("client-id:{text}")) {
        Ok(IdentityPattern::Exactly(Identity::ClientId(id))) => Ok(id),
        _ => Err("is no GUID; write the client (application) id of the identity".to_owned()),
    }
}

fn absolute(text: &str) -> Result<PathBuf, Wrong> {
    let path = PathBuf::from(text);
    if path.is_absolute() && path.file_name().is_some() && !text.chars().any(char::is_control) {
        return Ok(path);
    }
    Err("is no absolute path of a file; write it from the root on".to_owned())
}

fn authority_url(text: &str) -> Result<String, Wrong> {
    let wrong = |what: &str| Err(format!("{what}; write it like `https://login.microsoftonline.com`"));
    let Ok(url) = Url::parse(text) else {
        return wrong("is no URL");
    };
    if url.scheme() != "https" {
        return wrong("is not `https`, without which no federated token is sent");
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return wrong("has more than a host and a path");
    }
    Ok(text.to_owned())
}

fn time(text: &str) -> Result<Duration, Wrong> {
    match humantime::parse_duration(text) {
        Ok(time) if (SHORTEST..=LONGEST).contains(&time) => Ok(time),
        Ok(_) => Err("is no time from 100ms to 1h; write one, such as `10s`".to_owned()),
        Err(_) => Err("is no time; write it like `10s`, `500ms` or `1m30s`".to_owned()),
    }
}

#[cfg(test)]
mod tests;
