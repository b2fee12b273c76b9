//! Identifiers that occur once: token ids, correlation ids and the App Service header secret.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Makes identifiers. They are a hash of a random seed and a counter, so that making one cannot fail.
pub(crate) struct Unique {
    seed: [u8; 32],
    counter: AtomicU64,
}

impl Unique {
    pub(crate) fn from_system_randomness() -> io::Result<Self> {
        Ok(Self {
            seed: random()?,
            counter: AtomicU64::new(0),
        })
    }

    /// A random-looking GUID (version 4, RFC 9562).
    pub(crate) fn guid(&self) -> String {
        guid(self.bytes())
    }

    /// 22 characters, as in the `uti` claim.
    pub(crate) fn short_id(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.bytes())
    }

    fn bytes(&self) -> [u8; 16] {
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        let digest = Sha256::new()
            .chain_update(self.seed)
            .chain_update(count.to_be_bytes())
            .finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        bytes
    }
}

/// The value of `IDENTITY_HEADER`, which proves to App Service's endpoint that a request comes from the application and
/// was not merely relayed by it. It opens nothing but this emulator, yet is kept out of every log and `Debug` as the
/// real one would be.
pub(crate) struct HeaderSecret(String);

impl HeaderSecret {
    pub(crate) fn from_system_randomness() -> io::Result<Self> {
        Ok(Self(guid(random()?)))
    }

    /// The secret itself, for the environment of the program under test.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether the value is the secret. The time this takes tells nothing about where they differ, because hashes are
    /// compared.
    pub(crate) fn is(&self, value: &[u8]) -> bool {
        Sha256::digest(&self.0) == Sha256::digest(value)
    }
}

impl fmt::Debug for HeaderSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| io::Error::other(format!("the system gave no random bytes: {error}")))?;
    Ok(bytes)
}

fn guid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.into_iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the test set up what it unwraps")]

    use super::*;
    use crate::identities::is_guid;

    #[test]
    fn identifiers_are_well_formed_and_never_repeat() {
        let unique = Unique::from_system_randomness().unwrap();
        let (first, second) = (unique.guid(), unique.guid());
        assert!(is_guid(&first) && first.as_bytes()[14] == b'4', "{first}");
        assert_ne!(first, second);
        assert_eq!(unique.short_id().len(), 22);
        assert_ne!(unique.short_id(), unique.short_id());
    }

    #[test]
    fn the_header_secret_is_recognised_and_never_printed() {
        let secret = HeaderSecret::from_system_randomness().unwrap();
        assert!(secret.is(secret.reveal().as_bytes()));
        for wrong in [b"".as_slice(), b"guess", &secret.reveal().as_bytes()[1..]] {
            assert!(!secret.is(wrong));
        }
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_ne!(
            secret.reveal(),
            HeaderSecret::from_system_randomness().unwrap().reveal()
        );
    }
}
