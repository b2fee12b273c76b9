//! When a token of the store is handed out, and when the provider is asked.
//!
//! | in the store | what happens |
//! |---|---|
//! | a token before its `refresh-on` | it is handed out |
//! | one after it | the provider is asked, by one instance at a time and for two seconds at most; if that fails, the token is handed out, marked stale, and nobody asks for a while that grows |
//! | an expired one, a broken one, none | the provider is asked |
//!
//! Claims are always a question for the provider. That a token was rejected is written down before anything else is done, under
//! a name of its own, and looked up for each token before it is handed out, be it the store's or the provider's: instances
//! write entries without locks, and one that asked before the rejection may put the token back after it. As with the provider,
//! another token that is in the store by then is the answer. A store that fails is one with nothing in it.

use crate::entry::{Entry, NONCE};
use crate::keys::{Key, Keys};
use crate::selection::Deployment;
use crate::settings::{KEY, STORE, Settings};
use crate::surroundings::{Failure, Provider, Store, StoreFault, Surroundings};
use crate::token::{AccessToken, Identity, Secret, TokenRequest};
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
        if let Some(token) = &request.rejected_token {
            place.reject(token.expose(), &self.surroundings);
        }
        let mut entry = place.read().unwrap_or_default();
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
        match self.ask(&mut request, &place, &entry, &limit, spare.is_some()) {
            Ok(token) => {
                // One that is stale comes from the memory of a provider that failed, and says nothing new.
                if !token.stale {
                    entry.keep(token.clone());
                    place.write(&entry, &self.surroundings);
                }
                Ok(token)
            }
            Err(error) => match spare {
                Some(spare) => self.instead(&place, spare, error),
                None => {
                    // A challenge that could not be met says nothing of the token in the store; else it has expired.
                    if request.claims.is_none() && entry.token.is_some() {
                        place.clear();
                    }
                    Err(error)
                }
            },
        }
    }

    /// What is handed out when a valid token could not be renewed. Meanwhile another instance may have renewed it, or have had
    /// it rejected.
    fn instead(
        &self,
        place: &Place<'_, S::Store>,
        spare: AccessToken,
        error: P::Error,
    ) -> Result<AccessToken, P::Error> {
        let now = self.surroundings.unix_time();
        let Some(mut entry) = place.read() else {
            return Ok(AccessToken { stale: true, ..spare });
        };
        let Some(token) = entry.valid(now).cloned() else {
            return Err(error);
        };
        let due = token.refresh_on <= now;
        if due {
            entry.fail(now, self.random(), error.retry_after());
            place.write(&entry, &self.surroundings);
        }
        Ok(AccessToken { stale: due, ..token })
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
            // What was rejected stays so: it stands under names of another form.
            for name in names {
                let _ = store.delete(&name);
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
            deployment,
            rejected: request.rejected_token.clone(),
            found: Cell::new(0),
        })
    }

    /// Asks the provider, and does not take a rejected token for an answer.
    fn ask(
        &self,
        request: &mut TokenRequest,
        place: &Place<'_, S::Store>,
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
        if !place.is_rejected(&token).unwrap_or(false) {
            return Ok(token);
        }
        // A provider that is younger than the rejection knows nothing of it, and the platform may still have that token.
        request.rejected_token = Some(token.secret);
        request.timeout_ms = limit.left(self.surroundings.monotonic(), has_spare);
        let token = self.provider.get_token(request)?;
        if !place.is_rejected(&token).unwrap_or(false) {
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
    deployment: Deployment,
    /// The token that the client has had rejected. It does not get that, even if the store takes no note.
    rejected: Option<Secret>,
    /// Which of the names had an entry; the first when none had one.
    found: Cell<usize>,
}

impl<S: Store> Place<'_, S> {
    /// What is stored, by the first key that there is something for, without a token that must not be handed out. Nothing
    /// when the store fails.
    fn read(&self) -> Option<Entry> {
        for (index, (key, name)) in self.keys.iter().zip(&self.names).enumerate() {
            // One that fails once would keep the client waiting again.
            let stored = self.store.get(name).ok()?;
            if let Some(mut entry) = stored.and_then(|stored| Entry::open(key, name, &stored)) {
                self.found.set(index);
                if let Some(token) = &entry.token
                    && self.is_rejected(token)?
                {
                    entry.forget();
                }
                return Some(entry);
            }
        }
        Some(Entry::default())
    }

    /// Stores the entry under the name of the first key, and under no other.
    fn write(&self, entry: &Entry, surroundings: &impl Surroundings) {
        let Some((key, name)) = self.keys.iter().zip(&self.names).next() else {
            return;
        };
        let found = self.found.get();
        if seal_and_store(&self.store, key, name, entry, surroundings) && found > 0 {
            let _ = self.store.delete(&self.names[found]);
            self.found.set(0);
        }
    }

    /// Drops what was read.
    fn clear(&self) {
        let _ = self.store.delete(&self.names[self.found.get()]);
    }

    /// Writes down that a token must not be handed out, for those who know any of the keys. Where the store does not take it,
    /// at least the entry goes that has the token.
    fn reject(&self, token: &str, surroundings: &impl Surroundings) {
        for (key, name) in self.keys.iter().zip(&self.names) {
            let rejection = self.deployment.rejection(key, token);
            if seal_and_store(&self.store, key, &rejection, &Entry::default(), surroundings) {
                continue;
            }
            let has_another = |stored: Vec<u8>| {
                let stored = Entry::open(key, name, &stored).and_then(|entry| entry.token);
                stored.is_none_or(|stored| stored.secret.expose() != token)
            };
            let stays = self.store.get(name).is_ok_and(|stored| stored.is_none_or(has_another));
            if !stays {
                let _ = self.store.delete(name);
            }
        }
    }

    /// Whether a token must not be handed out. Nothing when the store fails.
    fn is_rejected(&self, token: &AccessToken) -> Option<bool> {
        let rejected = self.rejected.as_ref();
        if rejected.is_some_and(|rejected| rejected.expose() == token.secret.expose()) {
            return Some(true);
        }
        for key in self.keys.iter() {
            let name = self.deployment.rejection(key, token.secret.expose());
            let stored = self.store.get(&name).ok()?;
            // Somebody without the key could write anything there, but must not take a token away by that.
            if stored.is_some_and(|stored| Entry::open(key, &name, &stored).is_some()) {
                return Some(true);
            }
        }
        Some(false)
    }
}

/// Puts the entry in the place of what is stored under `name`. Where it cannot, what is there stays.
fn seal_and_store(store: &impl Store, key: &Key, name: &str, entry: &Entry, surroundings: &impl Surroundings) -> bool {
    let nonce = <[u8; NONCE]>::try_from(surroundings.random(NONCE)).ok();
    let sealed = nonce.and_then(|nonce| entry.seal(key, name, &nonce));
    sealed.is_some_and(|sealed| store.set(name, &sealed).is_ok())
}

#[cfg(test)]
mod tests;
