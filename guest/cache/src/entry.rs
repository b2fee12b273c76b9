//! What is kept for one audience and identity, and its form in the store.
//!
//! ```text
//! entry:      version (1 byte) · nonce (24) · ciphertext · tag (16)
//! plaintext:  token or nothing · failed refreshes · time of the next try
//! ```
//!
//! The name of the entry and the version are authenticated with it (the associated data of XChaCha20-Poly1305), so that an
//! entry that somebody moves to another name is as broken as one with a flipped bit. The nonce is random: 192 bits of it make
//! a second use of one less likely than any other accident, however many instances encrypt.

use crate::keys::Key;
use crate::token::{AccessToken, Secret};
use chacha20poly1305::aead::AeadInOut;
use std::time::Duration;
use zeroize::Zeroizing;

/// The length of a nonce, in bytes.
pub const NONCE: usize = 24;

/// The form described above.
const VERSION: u8 = 1;

/// The longest entry that is read or written: the 64 KiB of the longest token, and room for the rest.
pub const LONGEST: usize = 72 * 1024;

/// How much before its end a stored token counts as expired, in seconds. Its end is a time of the clock of the machine that
/// got it, and another machine reads it: clocks kept by NTP differ by less than a second, seconds are whole, and the token
/// has a way to go yet.
pub const CLOCK_DIFFERENCE: u64 = 10;

/// For how long others use the old token while one instance asks for its successor, in seconds. Longer than that instance
/// waits, and short enough that its end, if it is cut off, delays little.
const LEASE: u64 = 10;

/// After the first failed refresh, how long the old token is used before the next try, in seconds. Doubled with each
/// failure, and lengthened by up to half, as by the provider.
const BACK_OFF: u64 = 30;

/// The longest of these times before it is lengthened, in seconds.
const LONGEST_BACK_OFF: u64 = 8 * 60;

/// A later time for the next try than this, in seconds from now, was set by a clock that went wrong, and is not waited for.
const LONGEST_WAIT: u64 = LONGEST_BACK_OFF + LONGEST_BACK_OFF / 2;

/// What is kept.
#[derive(Default)]
pub struct Entry {
    /// The token; absent in what says of a token that it was rejected.
    pub token: Option<AccessToken>,
    /// How many refreshes in a row have failed.
    failures: u32,
    /// The next refresh is not tried before this time, in seconds since 1970.
    retry_on: u64,
}

impl Entry {
    /// The token, if it can still be used at `now`.
    #[must_use]
    pub fn valid(&self, now: u64) -> Option<&AccessToken> {
        self.token
            .as_ref()
            .filter(|token| now.saturating_add(CLOCK_DIFFERENCE) < token.expires_on)
    }

    /// Whether somebody asks for a successor just now, or nobody is to ask yet because it failed.
    #[must_use]
    pub fn waits(&self, now: u64) -> bool {
        now < self.retry_on && self.retry_on <= now.saturating_add(LONGEST_WAIT)
    }

    /// Whether the latest refresh failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Notes that a successor is asked for.
    pub fn lease(&mut self, now: u64) {
        self.retry_on = now.saturating_add(LEASE);
    }

    /// Notes that there was none. `random` is drawn for each failure; `hint` is when the platform wants to be asked again.
    pub fn fail(&mut self, now: u64, random: u64, hint: Option<Duration>) {
        let wait = (BACK_OFF << self.failures.min(8)).min(LONGEST_BACK_OFF);
        let wait = wait + random % (wait / 2 + 1);
        let hint = hint
            .map_or(0, |hint| hint.as_secs().saturating_add(1))
            .min(LONGEST_WAIT);
        self.failures = self.failures.saturating_add(1);
        self.retry_on = now.saturating_add(wait.max(hint));
    }

    /// Keeps a new token.
    pub fn keep(&mut self, token: AccessToken) {
        self.token = Some(token);
        self.failures = 0;
        self.retry_on = 0;
    }

    /// Drops the token.
    pub fn forget(&mut self) {
        self.token = None;
        self.failures = 0;
        self.retry_on = 0;
    }

    /// The entry encrypted, as it is stored under `name`. Nothing when it would be too long.
    #[must_use]
    pub fn seal(&self, key: &Key, name: &str, nonce: &[u8; NONCE]) -> Option<Vec<u8>> {
        let mut text = Zeroizing::new(Vec::new());
        self.write(&mut text);
        key.cipher()
            .encrypt_in_place(nonce.into(), &associated(name), &mut *text)
            .ok()?;
        let sealed = [&[VERSION], &nonce[..], &text[..]].concat();
        (sealed.len() <= LONGEST).then_some(sealed)
    }

    /// Reads what is stored under `name`. Nothing when it is not what [`Entry::seal`] made with this key, under this name.
    #[must_use]
    pub fn open(key: &Key, name: &str, stored: &[u8]) -> Option<Self> {
        if stored.len() > LONGEST {
            return None;
        }
        let (&[VERSION], rest) = stored.split_first_chunk()? else {
            return None;
        };
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>()?;
        let mut text = Zeroizing::new(sealed.to_vec());
        key.cipher()
            .decrypt_in_place(nonce.into(), &associated(name), &mut *text)
            .ok()?;
        let mut reader = Reader(&text);
        let entry = reader.entry()?;
        reader.0.is_empty().then_some(entry)
    }

    fn write(&self, text: &mut Zeroizing<Vec<u8>>) {
        // At once, because what a growing buffer leaves behind is not overwritten.
        text.reserve_exact(self.token.as_ref().map_or(0, |token| token.secret.expose().len()) + 8 * 1024);
        match &self.token {
            None => text.push(0),
            Some(token) => {
                text.push(1);
                text.extend(token.expires_on.to_be_bytes());
                text.extend(token.refresh_on.to_be_bytes());
                for part in [token.secret.expose(), &token.token_type, &token.audience, &token.source] {
                    write_text(text, part);
                }
                match &token.client_id {
                    None => text.push(0),
                    Some(id) => {
                        text.push(1);
                        write_text(text, id);
                    }
                }
            }
        }
        text.extend(self.failures.to_be_bytes());
        text.extend(self.retry_on.to_be_bytes());
    }
}

fn write_text(text: &mut Zeroizing<Vec<u8>>, part: &str) {
    text.extend((part.len() as u32).to_be_bytes());
    text.extend(part.as_bytes());
}

/// What is authenticated with an entry and not stored in it.
fn associated(name: &str) -> Vec<u8> {
    [&[VERSION], name.as_bytes()].concat()
}

/// The rest of a plaintext. Nothing where it ends too early or is not of the form, which only another release can bring about.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn entry(&mut self) -> Option<Entry> {
        let token = match self.number()? {
            [0] => None,
            [1] => Some(self.token()?),
            _ => return None,
        };
        Some(Entry {
            token,
            failures: u32::from_be_bytes(self.number()?),
            retry_on: u64::from_be_bytes(self.number()?),
        })
    }

    fn token(&mut self) -> Option<AccessToken> {
        Some(AccessToken {
            expires_on: u64::from_be_bytes(self.number()?),
            refresh_on: u64::from_be_bytes(self.number()?),
            secret: Secret::new(self.text()?),
            token_type: self.text()?,
            audience: self.text()?,
            source: self.text()?,
            client_id: match self.number()? {
                [0] => None,
                [1] => Some(self.text()?),
                _ => return None,
            },
            stale: false,
        })
    }

    fn number<const LENGTH: usize>(&mut self) -> Option<[u8; LENGTH]> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*number)
    }

    fn text(&mut self) -> Option<String> {
        let length = u32::from_be_bytes(self.number()?);
        let (text, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        std::str::from_utf8(text).ok().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the keys are good")]

    use super::*;
    use crate::keys::Keys;
    use proptest::prelude::*;

    const NAME: &str = "managed-identity-cache.1.name";

    fn keys() -> Keys {
        Keys::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=,/////////////////////////////////////////wA=")
            .unwrap()
    }

    fn entry() -> Entry {
        let mut entry = Entry::default();
        entry.keep(AccessToken {
            secret: Secret::new("header.claims.signature".to_owned()),
            token_type: "Bearer".to_owned(),
            audience: "https://vault.azure.net".to_owned(),
            expires_on: 1_700_086_400,
            refresh_on: 1_700_043_200,
            client_id: None,
            source: "imds".to_owned(),
            stale: false,
        });
        entry.fail(1_700_000_000, 0, None);
        entry
    }

    fn hexadecimal(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// So that another release reads what this one has stored; whoever changes it changes the version, and the number in
    /// [`crate::selection::PREFIX`].
    #[test]
    fn the_form_stays_as_it_is() {
        let keys = keys();
        let key = keys.iter().next().unwrap();
        let sealed = entry().seal(key, NAME, &[7; NONCE]).unwrap();
        assert_eq!(
            hexadecimal(&sealed),
            "010707070707070707070707070707070707070707070707075ce9d323a38298be6b761785b7be48aedde366b649a164\
             93fdbf36335f3fcf495175648c38c30c2fcbe9b297e0e2dc3683c60ded960fd93b35144e5a89a22ad06a34fa8f159429\
             2a6cc07541f8491ac132d1a6e16b7e612c6e2ff2358b8be58110f5ce6644bb5be5a244296ab11e92e81ee6a889e57f"
        );
    }

    #[test]
    fn what_was_sealed_is_opened_with_the_same_key_and_name_and_no_other() {
        let keys = keys();
        let mut keys = keys.iter();
        let (key, other) = (keys.next().unwrap(), keys.next().unwrap());
        let sealed = entry().seal(key, NAME, &[7; NONCE]).unwrap();
        let opened = Entry::open(key, NAME, &sealed).unwrap();
        let token = opened.valid(1_700_000_000).unwrap();
        assert_eq!(
            (token.secret.expose(), token.expires_on, token.refresh_on),
            ("header.claims.signature", 1_700_086_400, 1_700_043_200)
        );
        assert!(opened.has_failed() && opened.waits(1_700_000_029) && !opened.waits(1_700_000_030));
        assert!(Entry::open(other, NAME, &sealed).is_none());
        assert!(Entry::open(key, "managed-identity-cache.1.other", &sealed).is_none());
    }

    #[test]
    fn an_entry_of_a_later_form_is_none() {
        let keys = keys();
        let key = keys.iter().next().unwrap();
        let seal = |text: &[u8]| {
            let mut text = text.to_vec();
            key.cipher()
                .encrypt_in_place(&[7; NONCE].into(), &associated(NAME), &mut text)
                .unwrap();
            [&[VERSION], &[7; NONCE][..], &text].concat()
        };
        let mut text = Zeroizing::new(Vec::new());
        entry().write(&mut text);
        assert!(Entry::open(key, NAME, &seal(&text)).is_some());
        for length in 0..text.len() {
            assert!(Entry::open(key, NAME, &seal(&text[..length])).is_none(), "{length}");
        }
        text.push(0);
        assert!(Entry::open(key, NAME, &seal(&text)).is_none());
        text[0] = 2;
        assert!(Entry::open(key, NAME, &seal(&text)).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_are_an_entry_by_chance(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let keys = keys();
            let key = keys.iter().next().unwrap();
            prop_assert!(Entry::open(key, NAME, &bytes).is_none());
            let versioned = [&[VERSION], &bytes[..]].concat();
            prop_assert!(Entry::open(key, NAME, &versioned).is_none());
        }

        #[test]
        fn no_flipped_bit_goes_unnoticed(bit in 0..8 * 256_usize) {
            let keys = keys();
            let key = keys.iter().next().unwrap();
            let mut sealed = entry().seal(key, NAME, &[7; NONCE]).unwrap();
            let bit = bit % (8 * sealed.len());
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Entry::open(key, NAME, &sealed).is_none());
        }

        #[test]
        fn no_plaintext_makes_the_reader_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader(&bytes);
            let _ = reader.entry();
        }
    }
}
