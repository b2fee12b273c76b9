//! Whether a server can safely do as a configuration says.

use super::{Address, Config, ConfigError, ListenerConfig, Protocol, listener_place, secret_place};
use crate::secret::SecretHash;
use managed_identity_host::Identity;
use managed_identity_host::document::nearest;
use managed_identity_host::grants::{Caller, IdentityPattern};
use std::path::Path;

/// What is wrong, and with what.
#[derive(Debug)]
pub(super) struct Fault {
    /// The table, without brackets, such as `listener.NAME`; none when it is the whole configuration.
    pub(super) place: String,
    /// The key in it; empty when it is the table.
    pub(super) key: &'static str,
    pub(super) message: String,
}

impl Fault {
    fn new(place: &str, key: &'static str, message: impl Into<String>) -> Self {
        Self {
            place: place.to_owned(),
            key,
            message: message.into(),
        }
    }
}

impl From<Fault> for ConfigError {
    fn from(fault: Fault) -> Self {
        Self {
            line: None,
            message: fault.message,
        }
    }
}

impl Config {
    /// Whether a server can safely do this. A document that was read has been checked already.
    ///
    /// # Errors
    /// When it cannot be done, or somebody could get tokens whom nobody meant: says who, and what to change.
    pub fn check(&self) -> Result<(), ConfigError> {
        Ok(self.fault()?)
    }

    /// Whether a listener can safely be at this address: where systemd has opened the socket, the configuration does not
    /// tell, and this has to be asked again when the socket is there.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_listener(&self, name: &str, address: &Address) -> Result<(), ConfigError> {
        match self.listeners.get(name) {
            Some(listener) => Ok(self.listener_fault(name, listener, address)?),
            None => Ok(()),
        }
    }

    pub(super) fn fault(&self) -> Result<(), Fault> {
        if self.listeners.is_empty() && self.secrets.values().all(|secret| secret.file.is_none()) {
            let message = "nothing would be served, because there is no listener; write one: `[listener.NAME]` with \
                           `address = \"127.0.0.1:4141\"` and `protocols = [\"app-service\"]`";
            return Err(Fault::new("", "", message));
        }
        self.caller_fault()?;
        self.secret_fault()?;
        let mut others: Vec<(&str, &Address)> = Vec::new();
        for (name, listener) in &self.listeners {
            self.listener_fault(name, listener, &listener.address)?;
            if let Some((other, _)) = others.iter().find(|(_, address)| address.excludes(&listener.address)) {
                let (place, other, address) = (listener_place(name), listener_place(other), &listener.address);
                let message = format!(
                    "`[{place}]` has the address {address}, which is that of `[{other}]`; write another one, or all the \
                     protocols into one listener"
                );
                return Err(Fault::new(&place, "address", message));
            }
            others.push((name, &listener.address));
        }
        Ok(())
    }

    /// Each is known by what nobody else is known by, and may do what it does when it names no identity.
    fn caller_fault(&self) -> Result<(), Fault> {
        let mut secrets: Vec<(&SecretHash, String)> = Vec::new();
        let mut users: Vec<(u32, String)> = Vec::new();
        for (caller, how) in &self.callers {
            let place = caller.place();
            for secret in &how.secrets {
                if let Some((_, other)) = secrets.iter().find(|(known, _)| *known == secret) {
                    let message = format!(
                        "{}; a secret tells one caller from all others, so make one for each: `managed-identity secret new`",
                        twice("a secret", "secrets", &place, other)
                    );
                    return Err(Fault::new(&place, "secrets", message));
                }
                secrets.push((secret, place.clone()));
            }
            for user in &how.users {
                if let Some((_, other)) = users.iter().find(|(known, _)| known == user) {
                    let message = format!(
                        "{}; the processes of a user are one caller, so write the user once",
                        twice(&format!("the user {user}"), "users", &place, other)
                    );
                    return Err(Fault::new(&place, "users", message));
                }
                users.push((*user, place.clone()));
            }
            let identity = &how.default_identity;
            let rules = self.policy.grant(caller).map_or(&[][..], |grant| &grant.token);
            let has_identity = rules
                .iter()
                .any(|rule| rule.identities.iter().any(|pattern| pattern.has(identity)));
            if *identity != Identity::PlatformDefault && !rules.is_empty() && !has_identity {
                let pattern = IdentityPattern::Exactly(identity.clone());
                let message = format!(
                    "`[{place}]` has the default identity {pattern}, which no `[[{place}.token]]` is for, so it would always \
                     be denied; add `identities = [\"{pattern}\"]` there"
                );
                return Err(Fault::new(&place, "default-identity", message));
            }
        }
        Ok(())
    }

    /// Each is granted to whom it is told, and has a file of its own if it has one.
    fn secret_fault(&self) -> Result<(), Fault> {
        let mut files: Vec<(&Path, &str)> = Vec::new();
        for (name, secret) in &self.secrets {
            let place = &secret_place(name);
            let caller = &secret.caller;
            self.is_known(caller, place, "caller")?;
            let identity = self.secret_identity(secret);
            let rules = self.policy.grant(caller).map_or(&[][..], |grant| &grant.token);
            let is_granted = rules.iter().any(|rule| {
                rule.audiences.iter().any(|pattern| pattern.has(&secret.audience))
                    && rule.identities.iter().any(|pattern| pattern.has(&identity))
            });
            if !is_granted {
                let (audience, pattern) = (&secret.audience, IdentityPattern::Exactly(identity.clone()));
                let identities = match identity {
                    Identity::PlatformDefault => String::new(),
                    _ => format!(" and `identities = [\"{pattern}\"]`"),
                };
                let message = format!(
                    "`[{place}]` is a token for {audience} as {pattern}, which `{caller}` is not granted; add a \
                     `[[{}.token]]` with `audiences = [\"{audience}\"]`{identities}",
                    caller.place()
                );
                return Err(Fault::new(place, "audience", message));
            }
            if let Some(file) = secret.file.as_deref() {
                if let Some((_, other)) = files.iter().find(|(known, _)| *known == file) {
                    let message = format!(
                        "`file` of `[{place}]` is that of `[{}]`; a file has one secret, so write another one",
                        secret_place(other)
                    );
                    return Err(Fault::new(place, "file", message));
                }
                files.push((file, name));
            }
        }
        Ok(())
    }

    fn listener_fault(&self, name: &str, listener: &ListenerConfig, address: &Address) -> Result<(), Fault> {
        let place = &listener_place(name);
        if listener.protocols.is_empty() {
            let message = format!("`[{place}]` has no protocols; add some, as in `protocols = [\"app-service\"]`");
            return Err(Fault::new(place, "", message));
        }
        for (key, name) in [
            (
                "protocols",
                first_duplicate(&listener.protocols).map(ToString::to_string),
            ),
            (
                "callers",
                listener
                    .callers
                    .as_deref()
                    .and_then(first_duplicate)
                    .map(ToString::to_string),
            ),
        ] {
            if let Some(name) = name {
                let message = format!("`{key}` of `[{place}]` has `{name}` twice; write it once");
                return Err(Fault::new(place, key, message));
            }
        }
        if listener.protocols.len() > 1 && listener.protocols.contains(&Protocol::EnvoyExtAuthz) {
            let message = format!(
                "`[{place}]` has `envoy-ext-authz` beside other protocols, but Envoy asks there for every path; write another \
                 listener for it"
            );
            return Err(Fault::new(place, "protocols", message));
        }
        if listener.caller.is_some() && listener.callers.is_some() {
            let message = format!(
                "`[{place}]` has `caller` and `callers`; write `caller` if everybody there is that one, or `callers` for \
                 those who may ask there and are known by their secrets or users"
            );
            return Err(Fault::new(place, "callers", message));
        }
        if listener.protocols.contains(&Protocol::EnvoySds)
            && !self.secrets.values().any(|secret| listener.admits(&secret.caller))
        {
            let caller = match listener.caller.iter().chain(listener.callers.iter().flatten()).next() {
                Some(caller) => format!("`caller = \"{caller}\"`"),
                None => "`caller`".to_owned(),
            };
            let message = format!(
                "`[{place}]` has `envoy-sds`, but there is no secret for anybody who may ask there; add a `[secret.NAME]` \
                 with {caller} and `audience`"
            );
            return Err(Fault::new(place, "protocols", message));
        }
        let key = if listener.caller.is_some() { "caller" } else { "callers" };
        let named = listener.caller.iter().chain(listener.callers.iter().flatten());
        for caller in named.clone() {
            self.is_known(caller, place, key)?;
        }
        if named.count() > 0 && !listener.protocols.iter().any(|protocol| protocol.gives_tokens()) {
            let message = format!("`[{place}]` gives tokens to nobody, so it has no `{key}`; leave it out");
            return Err(Fault::new(place, key, message));
        }
        if !address.is_local() {
            not_local(listener, address, place)?;
        }
        match &listener.caller {
            Some(caller) => not_everybody(caller, listener, address, place),
            None => listener
                .protocols
                .iter()
                .try_for_each(|protocol| self.somebody_is_known(*protocol, listener, address, place)),
        }
    }

    fn is_known(&self, caller: &Caller, place: &str, key: &'static str) -> Result<(), Fault> {
        if self.callers.contains_key(caller) {
            return Ok(());
        }
        let known: Vec<&str> = self.callers.keys().map(Caller::name).collect();
        let instead = match nearest(caller.name(), &known) {
            Some(near) => format!("write `{near}`, or add `[{}]`", caller.place()),
            None => format!("add `[{}]`", caller.place()),
        };
        let message = format!("`{key}` of `[{place}]` names `{caller}`, of whom nothing is said; {instead}");
        Err(Fault::new(place, key, message))
    }

    /// Without `caller`, there is somebody who can be known by this protocol at this address.
    fn somebody_is_known(
        &self,
        protocol: Protocol,
        listener: &ListenerConfig,
        address: &Address,
        place: &str,
    ) -> Result<(), Fault> {
        let mut admitted = self.callers.iter().filter_map(|(caller, how)| {
            let is_admitted = listener.callers.as_ref().is_none_or(|callers| callers.contains(caller));
            is_admitted.then_some(how)
        });
        let message = match protocol {
            Protocol::Metrics | Protocol::Health => return Ok(()),
            Protocol::AppService if admitted.any(|how| !how.secrets.is_empty()) => return Ok(()),
            Protocol::AppService => format!(
                "nobody could get a token at `[{place}]`: in `{protocol}` callers are known by secrets, and none has one; \
                 add `secrets = [\"sha256:…\"]` to a `[caller.NAME]` (`managed-identity secret new` makes one), or \
                 `caller = \"NAME\"` here, if everybody who can connect may be that caller"
            ),
            Protocol::Imds | Protocol::EnvoyExtAuthz | Protocol::EnvoySds => match address {
                Address::Tcp(_) => format!(
                    "nobody could get a token at `[{place}]`: in `{protocol}` callers cannot be told apart over TCP; add \
                     `caller = \"NAME\"` here, if everybody who can connect may be that caller, or write an address such as \
                     `unix:/run/managed-identity/token.sock`, where they are known by their users"
                ),
                _ if admitted.any(|how| !how.users.is_empty()) => return Ok(()),
                _ => format!(
                    "nobody could get a token at `[{place}]`: in `{protocol}` callers are known by their users, and none has \
                     one; add `users = [1000]` to a `[caller.NAME]`, or `caller = \"NAME\"` here, if everybody who can \
                     connect may be that caller"
                ),
            },
        };
        Err(Fault::new(place, "", message))
    }
}

fn first_duplicate<T: PartialEq>(list: &[T]) -> Option<&T> {
    list.iter()
        .enumerate()
        .find_map(|(index, item)| list.get(..index)?.contains(item).then_some(item))
}

fn twice(what: &str, key: &str, place: &str, other: &str) -> String {
    if place == other {
        format!("{what} stands twice in `{key}` of `[{place}]`")
    } else {
        format!("{what} in `{key}` of `[{place}]` is in those of `[{other}]` too")
    }
}

/// Over the network, tokens are given by secret and under TLS alone.
fn not_local(listener: &ListenerConfig, address: &Address, place: &str) -> Result<(), Fault> {
    let foreign = listener.protocols.iter().find_map(|protocol| match protocol {
        Protocol::AppService | Protocol::Health => None,
        Protocol::Imds => Some((protocol, "has no secrets, so whoever reached it would be answered")),
        Protocol::EnvoyExtAuthz => Some((protocol, "answers whoever asks with a token")),
        Protocol::EnvoySds => Some((protocol, "tells whoever asks its secrets")),
        Protocol::Metrics => Some((protocol, "tells whoever asks what the callers do")),
    });
    let (key, reason) = if let Some((protocol, why)) = foreign {
        let port = match address {
            Address::Tcp(address) => address.port(),
            _ => 0,
        };
        let reason =
            format!("`{protocol}` {why}; write a loopback address, such as `127.0.0.1:{port}`, or a Unix socket");
        ("address", reason)
    } else if listener.tls.is_none() {
        let reason = "what is said there would cross the network in the clear; add `tls = { certificate = \"/…\", key = \
                      \"/…\" }`, or write a loopback address";
        ("address", reason.to_owned())
    } else if let Some(caller) = &listener.caller {
        let reason = format!(
            "whoever reached it would be `{caller}`; leave `caller` out, and let callers be known by their `secrets`"
        );
        ("caller", reason)
    } else {
        return Ok(());
    };
    let message = format!(
        "`[{place}]` is at {address}, which is no loopback address, so other machines could reach it: {reason}"
    );
    Err(Fault::new(place, key, message))
}

/// A socket that every user may connect to does not tell who its caller is.
fn not_everybody(caller: &Caller, listener: &ListenerConfig, address: &Address, place: &str) -> Result<(), Fault> {
    const OTHERS_WRITE: u32 = 0o002;
    match address {
        Address::Unix(_, mode)
            if mode & OTHERS_WRITE != 0 && listener.protocols.iter().any(|protocol| protocol.gives_tokens()) =>
        {
            let write = match listener.address {
                Address::Systemd(_) => "`SocketMode=0660` in its socket unit",
                _ => "`mode = \"0660\"`",
            };
            let message = format!(
                "`mode` of `[{place}]` is {mode:04o}, so every user of this machine can connect and be `{caller}`; write \
                 {write}, or leave `caller` out and let callers be known by their `users`"
            );
            Err(Fault::new(place, "mode", message))
        }
        _ => Ok(()),
    }
}
