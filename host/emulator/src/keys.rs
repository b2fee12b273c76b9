//! The key that signs tokens, and its public half as other software reads it.
//!
//! Signatures are RS256 (RFC 7518, section 3.3), as Entra's are. The public half is a JSON Web Key (RFC 7517), named by
//! its thumbprint (RFC 7638). The key is made when the emulator starts and never leaves the process.

use std::fmt;
use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rsa::pkcs1v15;
use rsa::signature::{Keypair, SignatureEncoding, Signer, Verifier};
use rsa::traits::PublicKeyParts;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The size of Entra's own keys. Software that verifies tokens refuses smaller ones.
const KEY_BITS: usize = 2048;

/// An RSA key that signs tokens. Cheap to clone; clones share the key.
///
/// Making one takes about a tenth of a second, so tests that start many emulators may make one and hand it to each of
/// them in [`EmulatorConfig::signing_key`](crate::EmulatorConfig::signing_key).
#[derive(Clone)]
pub struct SigningKey(Arc<Inner>);

struct Inner {
    private: pkcs1v15::SigningKey<Sha256>,
    key_id: String,
    /// The public modulus and exponent, base64url.
    modulus: String,
    exponent: String,
}

impl SigningKey {
    /// Makes a new 2048-bit key.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate() -> io::Result<Self> {
        let private = rsa::PrivateKey::new(&mut getrandom::SysRng, KEY_BITS)
            .map_err(|error| io::Error::other(format!("no signing key could be made: {error}")))?;
        let modulus = URL_SAFE_NO_PAD.encode(private.n_bytes());
        let exponent = URL_SAFE_NO_PAD.encode(private.e_bytes());
        // RFC 7638: the hash of the required members in this very order, without white space.
        let members = format!(r#"{{"e":"{exponent}","kty":"RSA","n":"{modulus}"}}"#);
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(members));
        let private = pkcs1v15::SigningKey::new(private);
        Ok(Self(Arc::new(Inner {
            private,
            key_id,
            modulus,
            exponent,
        })))
    }

    /// The key's name, as tokens and the key set carry it (`kid`).
    pub fn key_id(&self) -> &str {
        &self.0.key_id
    }

    /// The JSON Web Key Set with the public half.
    pub(crate) fn key_set(&self) -> Value {
        json!({"keys": [{
            "kty": "RSA",
            "use": "sig",
            "alg": "RS256",
            "kid": self.0.key_id,
            "n": self.0.modulus,
            "e": self.0.exponent,
        }]})
    }

    /// A signed JSON Web Token in compact form (RFC 7515, section 7.1), for instance an assertion that Entra should
    /// refuse.
    ///
    /// # Errors
    /// When the claims cannot be written as JSON, or the signature fails, which does not happen with a key made here.
    pub fn sign(&self, claims: &impl Serialize) -> io::Result<String> {
        let header = json!({"typ": "JWT", "alg": "RS256", "kid": self.0.key_id});
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims)?));
        let signature = self.0.private.try_sign(token.as_bytes()).map_err(io::Error::other)?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature.to_bytes()));
        Ok(token)
    }

    /// Whether a signature is this key's.
    pub(crate) fn has_signed(&self, signed: &[u8], signature: &[u8]) -> bool {
        pkcs1v15::Signature::try_from(signature)
            .is_ok_and(|signature| self.0.private.verifying_key().verify(signed, &signature).is_ok())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("key_id", &self.0.key_id)
            .finish_non_exhaustive()
    }
}
