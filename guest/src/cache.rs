//! Tokens that were acquired, by what they were asked for.

use crate::keyed::Keyed;
use crate::request::{Audience, Identity};
use crate::secret::Secret;
use std::borrow::Cow;
use std::rc::Rc;

/// How many tokens are kept. At the size of a large token this bounds the memory to a few megabytes.
pub const CAPACITY: usize = 1024;

/// How many rejected tokens are remembered.
const REJECTED_CAPACITY: usize = 64;

/// How long before its expiry a token is renewed when the platform does not say: five minutes, as Azure's own clients do.
const REFRESH_MARGIN: u64 = 300;

/// From this lifetime on, a token is renewed at half of it: metadata services hand out day-long tokens, and half a day is
/// room for an outage.
const LONG_LIFETIME: u64 = 2 * 3600;

/// After the first failed refresh, how long the old token is used before the next try, in seconds. Doubled with each
/// failure, and lengthened by up to half, so that the machines of an outage do not come back at once.
const REFRESH_BACK_OFF: u64 = 30;

/// The longest of these times, in seconds: what is lost at most when the platform is back.
const LONGEST_REFRESH_BACK_OFF: u64 = 8 * 60;

/// By how much a token is renewed early at most, in seconds, so that what was issued at once is not renewed at once.
const REFRESH_JITTER: u64 = 300;

/// What makes two requests the same. The source is not part of it: an engine has exactly one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Whose token; never [`Identity::PlatformDefault`], which is resolved before.
    pub identity: Identity,
    /// What for.
    pub audience: Audience,
    /// The claims challenge it answers.
    pub claims: Option<String>,
    /// The digest of the token that it has to replace: see [`crate::source::Ask::revoked`].
    pub revoked: Option<String>,
}

impl Key {
    /// The key under which the answer is found by requests without a claims challenge. Resource ids are compared without
    /// case, as Azure does; they are sent as they were given.
    fn cached(&self) -> Cow<'_, Self> {
        let identity = match &self.identity {
            Identity::ResourceId(id) => Identity::ResourceId(id.to_ascii_lowercase()),
            // Most requests are so, and need no key of their own.
            _ if self.claims.is_none() && self.revoked.is_none() => return Cow::Borrowed(self),
            other => other.clone(),
        };
        Cow::Owned(Self {
            identity,
            audience: self.audience.clone(),
            claims: None,
            revoked: None,
        })
    }
}

/// A token and what is known of it. Times are seconds since 1970-01-01T00:00:00Z.
#[derive(Debug)]
pub struct Token {
    /// The token itself.
    pub secret: Secret,
    /// As in an `Authorization` header.
    pub token_type: String,
    /// The resource it was asked for.
    pub audience: String,
    /// From when on it is worthless.
    pub expires_on: u64,
    /// From when on a successor is looked for.
    pub refresh_on: u64,
    /// The client id of the identity, when the platform says it.
    pub client_id: Option<String>,
    /// The name of the source.
    pub source: &'static str,
}

/// When a token that was issued at `now` is to be renewed. `random` is drawn for each token.
///
/// At the time that the platform names, else at half of a long life, else five minutes before the end; and up to five
/// minutes (or a tenth of the wait, if that is less) earlier. Never later, which would use up the margin.
#[must_use]
pub fn refresh_on(now: u64, expires_on: u64, refresh_in: Option<u64>, random: u64) -> u64 {
    let lifetime = expires_on.saturating_sub(now);
    let wait = match refresh_in {
        Some(seconds) if seconds < lifetime => seconds,
        _ if (2 * REFRESH_MARGIN..LONG_LIFETIME).contains(&lifetime) => lifetime - REFRESH_MARGIN,
        // Long ones for the room that it leaves, and those too short for the margin because half is what they have.
        _ => lifetime / 2,
    };
    now + wait - random % (REFRESH_JITTER.min(wait / 10) + 1)
}

/// What the cache has for a key.
pub(crate) enum Cached {
    /// A token that needs no successor yet.
    Fresh(Rc<Token>),
    /// A valid token whose successor is due. `failed` when the latest try for one failed.
    Due {
        token: Rc<Token>,
        failed: bool,
        try_now: bool,
    },
    /// Nothing valid.
    Nothing,
}

struct Entry {
    token: Rc<Token>,
    /// How many refreshes in a row have failed.
    failures: u32,
    /// The next refresh is not tried before this time, in seconds since 1970.
    retry_on: u64,
    last_used: u64,
}

/// The cache. Least recently used tokens go first when it is full.
#[derive(Default)]
pub(crate) struct Cache {
    entries: Keyed<Entry>,
    rejected: Vec<Secret>,
    /// The digest of the token that was rejected last, until there is another one.
    revoked: Keyed<String>,
    uses: u64,
}

impl Cache {
    pub(crate) fn look_up(&mut self, key: &Key, now: u64) -> Cached {
        self.uses += 1;
        let key = key.cached();
        let Some(entry) = self.entries.get_mut(&key) else {
            return Cached::Nothing;
        };
        if entry.token.expires_on <= now {
            self.entries.remove(&key);
            return Cached::Nothing;
        }
        entry.last_used = self.uses;
        let token = Rc::clone(&entry.token);
        if now < token.refresh_on {
            return Cached::Fresh(token);
        }
        Cached::Due {
            token,
            failed: entry.failures > 0,
            try_now: entry.failures == 0 || entry.retry_on <= now,
        }
    }

    /// The token that a request without a claims challenge would get, if there is one.
    pub(crate) fn peek(&self, key: &Key) -> Option<&Token> {
        self.entries.get(&key.cached()).map(|entry| entry.token.as_ref())
    }

    pub(crate) fn insert(&mut self, key: &Key, token: Rc<Token>) {
        self.uses += 1;
        let key = key.cached();
        self.revoked.remove(&key);
        if self.entries.len() >= CAPACITY && self.entries.get(&key).is_none() {
            let oldest = self
                .entries
                .iter()
                .min_by_key(|(_, entry)| entry.last_used)
                .map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.entries.remove(&oldest);
            }
        }
        self.entries.insert(
            key.into_owned(),
            Entry {
                token,
                failures: 0,
                retry_on: 0,
                last_used: self.uses,
            },
        );
    }

    /// Notes that a refresh failed, so that the next is not tried at once.
    pub(crate) fn refresh_failed(&mut self, key: &Key, now: u64, random: u64) {
        if let Some(entry) = self.entries.get_mut(&key.cached()) {
            let wait = (REFRESH_BACK_OFF << entry.failures.min(8)).min(LONGEST_REFRESH_BACK_OFF);
            entry.failures += 1;
            entry.retry_on = now + wait + random % (wait / 2 + 1);
        }
    }

    /// Drops a token wherever it is kept, and remembers not to hand it out again.
    pub(crate) fn reject(&mut self, key: &Key, token: &Secret) {
        self.entries
            .retain(|_, entry| !entry.token.secret.matches(token.expose()));
        if !self.is_rejected(token) {
            if self.rejected.len() >= REJECTED_CAPACITY {
                self.rejected.remove(0);
            }
            self.rejected.push(token.clone());
        }
        // Once there is another token, it is a late caller who brings the old one.
        let key = key.cached();
        if self.entries.get(&key).is_none() && (self.revoked.len() < CAPACITY || self.revoked.get(&key).is_some()) {
            self.revoked.insert(key.into_owned(), token.sha256());
        }
    }

    /// The digest of the token that the next one has to replace: see [`crate::source::Ask::revoked`].
    pub(crate) fn revoked(&self, key: &Key) -> Option<&String> {
        self.revoked.get(&key.cached())
    }

    pub(crate) fn is_rejected(&self, token: &Secret) -> bool {
        self.rejected.iter().any(|rejected| rejected.matches(token.expose()))
    }

    pub(crate) fn forget(&mut self, audience: Option<&Audience>) {
        self.entries
            .retain(|key, _| audience.is_some_and(|audience| key.audience != *audience));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(audience: &str) -> Key {
        Key {
            identity: Identity::SystemAssigned,
            audience: Audience::parse(audience).expect("a good audience"),
            claims: None,
            revoked: None,
        }
    }

    fn token(secret: &str) -> Rc<Token> {
        Rc::new(Token {
            secret: Secret::from(secret),
            token_type: "Bearer".to_owned(),
            audience: "a".to_owned(),
            expires_on: 1000,
            refresh_on: 700,
            client_id: None,
            source: "imds",
        })
    }

    #[test]
    fn a_token_is_renewed_when_the_platform_says_or_at_half_life_or_five_minutes_early() {
        for (lifetime, refresh_in, expected) in [
            (3600, Some(600), 600),
            (3600, Some(3600), 3300),
            (3600, None, 3300),
            (86_400, None, 43_200),
            (7200, None, 3600),
            (600, None, 300),
            (60, None, 30),
            (0, None, 0),
        ] {
            let renewed = |random| refresh_on(5000, 5000 + lifetime, refresh_in, random);
            assert_eq!(renewed(0), 5000 + expected, "{lifetime} {refresh_in:?}");
            // Spread over five minutes or a tenth of the wait, and never later.
            let earliest = (0..1000).map(renewed).min().unwrap_or_default();
            assert_eq!(
                earliest,
                5000 + expected - REFRESH_JITTER.min(expected / 10),
                "{lifetime} {refresh_in:?}"
            );
            assert!(
                (0..1000).all(|random| renewed(random) <= 5000 + expected),
                "{lifetime} {refresh_in:?}"
            );
        }
    }

    #[test]
    fn failed_refreshes_are_tried_again_ever_later_up_to_a_bound() {
        let mut cache = Cache::default();
        let long = Token {
            expires_on: 100_000,
            ..Rc::into_inner(token("t")).expect("the only one")
        };
        cache.insert(&key("a"), Rc::new(long));
        let mut now = 700;
        for (shortest, longest) in [(30, 45), (60, 90), (120, 180), (240, 360), (480, 720), (480, 720)] {
            let waits = |cache: &mut Cache, after| {
                matches!(
                    cache.look_up(&key("a"), now + after),
                    Cached::Due {
                        try_now: false,
                        failed: true,
                        ..
                    }
                )
            };
            cache.refresh_failed(&key("a"), now, longest - shortest);
            assert!(
                waits(&mut cache, longest - 1) && !waits(&mut cache, longest),
                "{longest}"
            );
            now += longest;
        }
        cache.insert(&key("a"), token("u"));
        assert!(matches!(cache.look_up(&key("a"), 699), Cached::Fresh(_)));
    }

    #[test]
    fn a_token_is_fresh_then_due_then_gone() {
        let mut cache = Cache::default();
        cache.insert(&key("a"), token("t"));
        assert!(matches!(cache.look_up(&key("a"), 699), Cached::Fresh(_)));
        assert!(matches!(
            cache.look_up(&key("a"), 700),
            Cached::Due {
                failed: false,
                try_now: true,
                ..
            }
        ));
        cache.refresh_failed(&key("a"), 700, 0);
        assert!(matches!(
            cache.look_up(&key("a"), 729),
            Cached::Due {
                failed: true,
                try_now: false,
                ..
            }
        ));
        assert!(matches!(
            cache.look_up(&key("a"), 730),
            Cached::Due {
                failed: true,
                try_now: true,
                ..
            }
        ));
        assert!(matches!(cache.look_up(&key("a"), 1000), Cached::Nothing));
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = Cache::default();
        for number in 0..CAPACITY {
            cache.insert(&key(&format!("r{number}")), token("t"));
        }
        assert!(matches!(cache.look_up(&key("r0"), 0), Cached::Fresh(_)));
        cache.insert(&key("one-more"), token("t"));
        assert!(matches!(cache.look_up(&key("r0"), 0), Cached::Fresh(_)));
        assert!(matches!(cache.look_up(&key("r1"), 0), Cached::Nothing));
        assert_eq!(cache.entries.len(), CAPACITY);
    }

    #[test]
    fn forgetting_takes_one_audience_or_all_and_rejecting_takes_the_token() {
        let mut cache = Cache::default();
        for audience in ["a", "b", "c"] {
            cache.insert(&key(audience), token(audience));
        }
        cache.forget(Some(&key("a").audience));
        assert!(matches!(cache.look_up(&key("a"), 0), Cached::Nothing));
        assert!(matches!(cache.look_up(&key("b"), 0), Cached::Fresh(_)));
        cache.reject(&key("b"), &Secret::from("b"));
        assert!(matches!(cache.look_up(&key("b"), 0), Cached::Nothing));
        assert!(cache.is_rejected(&Secret::from("b")) && !cache.is_rejected(&Secret::from("c")));
        assert_eq!(cache.revoked(&key("b")), Some(&Secret::from("b").sha256()));
        assert_eq!(cache.revoked(&key("c")), None);
        cache.insert(&key("b"), token("d"));
        assert_eq!(cache.revoked(&key("b")), None);
        cache.reject(&key("b"), &Secret::from("b"));
        assert_eq!(cache.revoked(&key("b")), None, "a late caller");
        cache.forget(None);
        assert!(matches!(cache.look_up(&key("c"), 0), Cached::Nothing));
    }

    #[test]
    fn spellings_of_one_resource_id_share_an_entry() {
        let mut cache = Cache::default();
        let of = |id: &str| Key {
            identity: Identity::ResourceId(id.to_owned()),
            ..key("a")
        };
        cache.insert(&of("/subscriptions/S/x"), token("t"));
        assert!(matches!(cache.look_up(&of("/Subscriptions/s/X"), 0), Cached::Fresh(_)));
    }
}
