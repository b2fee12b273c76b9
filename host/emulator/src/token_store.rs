//! Tokens that were given out and are given out again.
//!
//! The real endpoints keep a token and answer with it until it is near its expiry, so a client that asks again "for a
//! new one" mostly gets the old one. [`Settings::repeat_tokens`](crate::Settings::repeat_tokens) has the emulator do so.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::protocol::Source;
use crate::token::{Issued, Wanted};

/// A token is not given out again in its last five minutes, or its last tenth if that is shorter.
const NEAR_EXPIRY_SECONDS: i64 = 300;

/// How many tokens are kept. A client that asks for more resources gets new ones for all.
const KEPT: usize = 4096;

/// Who asked, for whom, for what.
type Key = (Source, String, String, Vec<String>);

/// The tokens given out.
#[derive(Default)]
pub(crate) struct TokenStore(Mutex<BTreeMap<Key, Kept>>);

struct Kept {
    issued: Issued,
    give_until: i64,
}

impl TokenStore {
    /// The token given out before, unless it is near its expiry or has the hash of a revoked one; else a new one.
    pub(crate) fn give(
        &self,
        source: Source,
        wanted: &Wanted<'_>,
        revoked: Option<&str>,
        now: i64,
        issue: impl FnOnce() -> io::Result<Issued>,
    ) -> io::Result<Issued> {
        let key = (
            source,
            wanted.identity.client_id.clone(),
            wanted.resource.to_owned(),
            wanted.capabilities.clone(),
        );
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Kept { issued, give_until }) = kept.get(&key)
            && now < *give_until
            && !revoked.is_some_and(|hash| is_hash_of(hash, &issued.access_token))
        {
            let mut again = issued.clone();
            again.expires_in = again.expires_on.saturating_sub(now);
            return Ok(again);
        }
        let issued = issue()?;
        if kept.len() >= KEPT {
            kept.clear();
        }
        let margin = (issued.expires_in / 10).clamp(0, NEAR_EXPIRY_SECONDS);
        let give_until = issued.expires_on.saturating_sub(margin);
        kept.insert(
            key,
            Kept {
                issued: issued.clone(),
                give_until,
            },
        );
        Ok(issued)
    }
}

/// Whether the text is the SHA-256 of the token in hexadecimal.
fn is_hash_of(hash: &str, token: &str) -> bool {
    let actual: String = Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
    hash.eq_ignore_ascii_case(&actual)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the test set up what it unwraps")]

    use super::*;
    use crate::identities::Identities;

    #[test]
    fn the_hash_is_the_one_that_clients_send() {
        let hash = "cc0af97287543b65da2c7e1476426021826cab166f1e063ed012b855ff819656";
        assert!(is_hash_of(hash, "test_token") && is_hash_of(&hash.to_uppercase(), "test_token"));
        assert!(!is_hash_of(hash, "test_token2") && !is_hash_of("", "test_token"));
    }

    #[test]
    fn a_token_is_repeated_until_it_is_near_its_expiry_or_revoked() {
        let identities = Identities::default();
        let store = TokenStore::default();
        let wanted = Wanted::new(&identities.user_assigned[0], "https://vault.azure.net");
        let mut made = 0;
        let mut give = |now: i64, lifetime: i64, revoked: Option<&str>| {
            let issue = || {
                made += 1;
                Ok(Issued {
                    access_token: format!("token {made}"),
                    client_id: String::new(),
                    resource: String::new(),
                    not_before: now,
                    expires_on: now + lifetime,
                    expires_in: lifetime,
                })
            };
            let issued = store.give(Source::Imds, &wanted, revoked, now, issue).unwrap();
            (issued.access_token, issued.expires_in)
        };
        let sha256 =
            |token: &str| -> String { Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect() };
        for (now, revoked, token, expires_in) in [
            (0, None, "token 1", 86_400),
            (10, None, "token 1", 86_390),
            (20, Some(sha256("another")), "token 1", 86_380),
            (30, Some(sha256("token 1")), "token 2", 86_400),
            (40, None, "token 2", 86_390),
            (86_129, None, "token 2", 301),
            (86_130, None, "token 3", 86_400),
        ] {
            let given = give(now, 86_400, revoked.as_deref());
            assert_eq!(given, (token.to_owned(), expires_in), "at {now}");
        }
        // The last tenth of a minute.
        assert_eq!(give(200_000, 60, None).0, "token 4");
        assert_eq!(give(200_053, 60, None).0, "token 4");
        assert_eq!(give(200_054, 60, None).0, "token 5");
    }
}
