//! When a token of the store is handed out, and when the provider is asked.
//!
//! | in the store | what happens |
//! |---|---|
//! | a token before its `refresh-on` | it is handed out |
//! | one after it | the provider is asked, by one instance at a time and for two seconds at most; if that fails, the token is handed out, marked stale, and nobody asks for a while that grows |
//! | an expired one, a broken one, none | the provider is asked |
//!
//! Claims are always a question for the provider. A rejected token is dropped from the store before anything else is done,
//! and its digest stays, so that it is not taken from a provider either that knows nothing of the rejection. As with the
//! provider, another token that is in the store by then is the answer. A store that fails is one with nothing in it.

use crate::entry::{Entry, NONCE};
use crate::keys::{Key, Keys};
use crate::selection::Deployment;
use crate::settings::{KEY, STORE, Settings};
use crate::surroundings::{Failure, Provider, Store, StoreFault, Surroundings};
use crate::token::{AccessToken, Identity, TokenRequest};
use std::cell::Cell;
use std::time::Duration;

/// How long a client with a valid token waits for its successor, in milliseconds. As long as by the provider.
const PATIENCE: u32 = 2000;

/// The longest audience or identifier for which the store is asked, in bytes. The provider refuses longer ones.
const LONGEST_IDENTIFIER: usize = 2048;

/// The cache.
pub struct Cache<S, P> {
    surroundings: S,
    provider: P,
}

impl<S: Surroundings, P: Provider> Cache<S, P> {
    /// A cache in front of `provider`.
    pub fn new(surroundings: S, provider: P) -> Self {
        Self { surroundings, provider }
    }

    /// A token that is valid now.
    ///
    /// # Errors
    /// The provider's, when there is no valid token in the store that could be handed out in its place; `not-configured`
    /// without a key.
    pub fn get_token(&self, mut request: TokenRequest) -> Result<AccessToken, P::Error> {
        let limit = Limit {
            started: self.surroundings.monotonic(),
            milliseconds: request.timeout_ms,
        };
        let environment = self.surroundings.environment();
        let settings = Settings::read(&environment).map_err(|fault| P::Error::not_configured(fault.to_string()))?;
        request.rejected_token = request.rejected_token.filter(|token| !token.expose().is_empty());
        let Some(place) = self.place(&settings, &environment, &request) else {
            return self.provider.get_token(&request);
        };
        let mut entry = place.read();
        if let Some(token) = &request.rejected_token
            && entry.reject(token.expose())
        {
            place.write(&entry, &self.surroundings);
        }
        let now = self.surroundings.unix_time();
        let spare = entry.valid(now).filter(|_| request.claims.is_none()).cloned();
        if let Some(token) = &spare {
            let due = token.refresh_on <= now;
            if !due || entry.waits(now) {
                return Ok(AccessToken {
                    stale: due && entry.has_failed(),
                    ..token.clone()
                });
            }
            entry.lease(now);
            place.write(&entry, &self.surroundings);
        }
        match self.ask(&mut request, &entry, &limit, spare.is_some()) {
            Ok(token) => {
                // One that is stale comes from the memory of a provider that failed, and says nothing new.
                if !token.stale {
                    entry.keep(token.clone());
                    place.write(&entry, &self.surroundings);
                }
                Ok(token)
            }
            // A challenge that could not be met says nothing of the token in the store.
            Err(error) if request.claims.is_some() => Err(error),
            Err(error) => {
                let now = self.surroundings.unix_time();
                match entry.valid(now).cloned() {
                    Some(token) => {
                        entry.fail(now, self.random(), error.retry_after());
                        place.write(&entry, &self.surroundings);
                        Ok(AccessToken { stale: true, ..token })
                    }
                    None => {
                        if entry.token.is_some() {
                            entry.forget();
                            place.write(&entry, &self.surroundings);
                        }
                        Err(error)
                    }
                }
            }
        }
    }

    /// Drops tokens from the store and from the provider's memory, of one audience or all of this deployment. Where the store
    /// cannot list what it has, those of the identities that have no name, of one audience.
    pub fn forget(&self, audience: Option<&str>) {
        self.provider.forget(audience);
        let environment = self.surroundings.environment();
        let (Ok(settings), Some(origin)) = (Settings::read(&environment), self.provider.origin()) else {
            return;
        };
        let Ok(store) = self.surroundings.open(&settings.store) else {
            return;
        };
        let deployment = Deployment::new(&settings.namespace, &origin, &environment);
        let all = store.names();
        for key in settings.keys.iter() {
            let names = match (&all, audience) {
                (Ok(all), _) => {
                    let prefix = deployment.prefix(key, audience);
                    all.iter().filter(|name| name.starts_with(&prefix)).cloned().collect()
                }
                (Err(_), Some(audience)) => [Identity::PlatformDefault, Identity::SystemAssigned]
                    .iter()
                    .map(|identity| deployment.name(key, audience, identity))
                    .collect(),
                (Err(_), None) => Vec::new(),
            };
            for name in names {
                let stored = store.get(&name).ok().flatten();
                let mut entry = stored
                    .and_then(|stored| Entry::open(key, &name, &stored))
                    .unwrap_or_default();
                // What was rejected stays so.
                entry.forget();
                write(&store, key, &name, &entry, &self.surroundings);
            }
        }
    }

    /// A sentence that says whether tokens are kept, for `describe-source`. It names variables, never their values.
    #[must_use]
    pub fn reason(&self) -> String {
        let settings = match Settings::read(&self.surroundings.environment()) {
            Ok(settings) => settings,
            Err(fault) => return fault.to_string(),
        };
        match self.surroundings.open(&settings.store) {
            Ok(_) => format!("Tokens are kept in a key-value store, encrypted with the key in {KEY}."),
            Err(StoreFault::NoSuchStore) => format!(
                "Tokens are not kept, because the host has no key-value store of that name. Set {STORE} to the name of one."
            ),
            Err(StoreFault::AccessDenied) => format!(
                "Tokens are not kept, because the host refuses access to the key-value store. Grant it, in Spin by \
                 `key_value_stores`, which the dependency also has to inherit, or set {STORE} to the name of another one."
            ),
            Err(StoreFault::Failed) => {
                "Tokens are not kept, because the key-value store of the host cannot be opened.".to_owned()
            }
        }
    }

    /// Where the answer to `request` is kept, if it can be kept at all.
    fn place<'a>(
        &self,
        settings: &'a Settings,
        environment: &[(String, String)],
        request: &TokenRequest,
    ) -> Option<Place<'a, S::Store>> {
        let identifier = match &request.identity {
            Identity::PlatformDefault | Identity::SystemAssigned => "",
            Identity::ClientId(id) | Identity::ObjectId(id) | Identity::ResourceId(id) => id,
        };
        if request.audience.len().max(identifier.len()) > LONGEST_IDENTIFIER {
            return None;
        }
        let deployment = Deployment::new(&settings.namespace, &self.provider.origin()?, environment);
        let store = self.surroundings.open(&settings.store).ok()?;
        let name = |key| deployment.name(key, &request.audience, &request.identity);
        Some(Place {
            store,
            keys: &settings.keys,
            names: settings.keys.iter().map(name).collect(),
            found: Cell::new(0),
        })
    }

    /// Asks the provider, and does not take a rejected token for an answer.
    fn ask(
        &self,
        request: &mut TokenRequest,
        entry: &Entry,
        limit: &Limit,
        has_spare: bool,
    ) -> Result<AccessToken, P::Error> {
        if request.claims.is_some() && request.rejected_token.is_none() {
            // Who brings claims and names no token has had that of the store rejected.
            request.rejected_token = entry.token.as_ref().map(|token| token.secret.clone());
        }
        request.timeout_ms = limit.left(self.surroundings.monotonic(), has_spare);
        let token = self.provider.get_token(request)?;
        if !entry.is_rejected(token.secret.expose()) {
            return Ok(token);
        }
        // A provider that is younger than the rejection knows nothing of it, and the platform may still have that token.
        request.rejected_token = Some(token.secret);
        request.timeout_ms = limit.left(self.surroundings.monotonic(), has_spare);
        let token = self.provider.get_token(request)?;
        if !entry.is_rejected(token.secret.expose()) {
            return Ok(token);
        }
        Err(P::Error::token_rejected(
            "The provider returns a token that was rejected. Ask again later.".to_owned(),
        ))
    }

    fn random(&self) -> u64 {
        let bytes = self.surroundings.random(8);
        bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// The time that the client has given.
struct Limit {
    started: Duration,
    milliseconds: Option<u32>,
}

impl Limit {
    /// What is left of it for the provider, in milliseconds.
    fn left(&self, now: Duration, has_spare: bool) -> Option<u32> {
        let elapsed = u32::try_from(now.saturating_sub(self.started).as_millis()).unwrap_or(u32::MAX);
        let left = self.milliseconds.map(|limit| limit.saturating_sub(elapsed));
        match has_spare {
            true => Some(left.unwrap_or(PATIENCE).min(PATIENCE)),
            false => left,
        }
    }
}

/// Where one entry is kept: under a name for each key.
struct Place<'a, S> {
    store: S,
    keys: &'a Keys,
    names: Vec<String>,
    /// Which of the names had an entry; the first when none had one.
    found: Cell<usize>,
}

impl<S: Store> Place<'_, S> {
    /// What is stored, by the first key that there is something for.
    fn read(&self) -> Entry {
        for (index, (key, name)) in self.keys.iter().zip(&self.names).enumerate() {
            // One that fails once would keep the client waiting again.
            let Ok(stored) = self.store.get(name) else { break };
            if let Some(entry) = stored.and_then(|stored| Entry::open(key, name, &stored)) {
                self.found.set(index);
                return entry;
            }
        }
        Entry::default()
    }

    /// Stores the entry under the name of the first key, and under no other.
    fn write(&self, entry: &Entry, surroundings: &impl Surroundings) {
        let Some((key, name)) = self.keys.iter().zip(&self.names).next() else {
            return;
        };
        let found = self.found.get();
        if write(&self.store, key, name, entry, surroundings) && found > 0 {
            let _ = self.store.delete(&self.names[found]);
            self.found.set(0);
        }
    }
}

/// Puts the entry in the place of what is stored under `name`, and says whether that is out of date now. Where the store does
/// not take it, what is there stays, unless it has a token that is not to be handed out again.
fn write(store: &impl Store, key: &Key, name: &str, entry: &Entry, surroundings: &impl Surroundings) -> bool {
    let nonce = <[u8; NONCE]>::try_from(surroundings.random(NONCE)).ok();
    let sealed = nonce
        .filter(|_| !entry.is_empty())
        .and_then(|nonce| entry.seal(key, name, &nonce));
    let is_stored = sealed.is_some_and(|sealed| store.set(name, &sealed).is_ok());
    if !is_stored && entry.token.is_none() {
        let _ = store.delete(name);
    }
    is_stored || entry.token.is_none()
}

#[cfg(test)]
mod tests;
