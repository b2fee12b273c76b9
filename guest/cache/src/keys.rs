//! The keys: how they are written, and what is derived from them.
//!
//! A key is 32 random bytes. It serves two purposes, encrypting entries and naming them, and HKDF (RFC 5869) makes a key for
//! each, so that neither says anything of the other.

use crate::settings::KEY;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use chacha20poly1305::XChaCha20Poly1305;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use zeroize::Zeroizing;

/// The length of a key, in bytes.
const LENGTH: usize = 32;

/// How many keys may be named. A rotation needs two; each costs a look-up where there is no entry.
const MOST: usize = 8;

/// What our keys are derived with, so that nothing else that is derived from the same secret is the same.
const SALT: &[u8] = b"managed-identity-cache 1";

/// `openssl rand -base64 32` pads, and secret managers are known to drop the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// All keys, the one that encrypts first. There is at least one.
pub struct Keys(Vec<Key>);

impl Keys {
    /// Reads keys in base64, separated by commas.
    ///
    /// # Errors
    /// When there is none, or one of them is not 32 bytes in base64.
    pub fn parse(text: &str) -> Result<Self, KeyFault> {
        if text.trim().is_empty() {
            return Err(KeyFault::Missing);
        }
        let mut keys = Vec::new();
        for (index, text) in text.split(',').enumerate() {
            if index == MOST {
                return Err(KeyFault::TooMany);
            }
            let secret = BASE64
                .decode(text.trim())
                .map(Zeroizing::new)
                .map_err(|_| KeyFault::NotBase64 { number: index + 1 })?;
            if secret.len() != LENGTH {
                return Err(KeyFault::WrongLength { number: index + 1 });
            }
            keys.push(Key::derive(&secret));
        }
        Ok(Self(keys))
    }

    /// The keys in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }
}

/// What is derived from one secret.
pub struct Key {
    cipher: XChaCha20Poly1305,
    /// As long as HMAC's block, which it takes as it is.
    names: Zeroizing<[u8; 64]>,
}

impl Key {
    fn derive(secret: &[u8]) -> Self {
        let derivation = Hkdf::<Sha256>::new(Some(SALT), secret);
        let (mut entries, mut names) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 64]));
        // It fails only for more than 255 digests.
        let expanded = derivation
            .expand(b"entries", entries.as_mut())
            .and_then(|()| derivation.expand(b"names", names.as_mut()));
        debug_assert!(expanded.is_ok());
        Self {
            cipher: XChaCha20Poly1305::new((&*entries).into()),
            names,
        }
    }

    /// What encrypts entries.
    pub(crate) fn cipher(&self) -> &XChaCha20Poly1305 {
        &self.cipher
    }

    /// The keyed digest (HMAC-SHA-256) of fields. Each is preceded by its length, so that no other fields give the same.
    pub(crate) fn digest(&self, fields: &[&[u8]]) -> [u8; 32] {
        let mut digest = <Hmac<Sha256> as KeyInit>::new((&*self.names).into());
        for field in fields {
            digest.update(&(field.len() as u64).to_be_bytes());
            digest.update(field);
        }
        digest.finalize().into_bytes().into()
    }
}

/// What is wrong with the keys. Numbers count from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFault {
    /// The variable is not set, or empty.
    Missing,
    /// A key is not base64.
    NotBase64 {
        /// Which one.
        number: usize,
    },
    /// A key does not have 32 bytes.
    WrongLength {
        /// Which one.
        number: usize,
    },
    /// There are more than eight.
    TooMany,
}

impl fmt::Display for KeyFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(formatter, "The cache of tokens has no key: {KEY} is not set.")?,
            Self::NotBase64 { number } => write!(formatter, "Key {number} in {KEY} is not base64.")?,
            Self::WrongLength { number } => write!(formatter, "Key {number} in {KEY} does not have {LENGTH} bytes.")?,
            Self::TooMany => write!(formatter, "There are more than {MOST} keys in {KEY}.")?,
        }
        formatter.write_str(
            " Set it to what `openssl rand -base64 32` prints, while keys change to the new one and the old one, separated by \
             a comma, or compose the component without the cache.",
        )
    }
}

impl std::error::Error for KeyFault {}
