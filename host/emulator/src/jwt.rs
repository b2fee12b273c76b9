//! JSON Web Tokens as somebody who is shown one reads them (RFC 7515, section 7.1).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::keys::SigningKey;

/// A token that was read, and is not believed yet.
pub(crate) struct Shown<'a, C> {
    pub claims: C,
    header: &'a str,
    signed: &'a str,
    signature: Vec<u8>,
}

/// `aud`, which is one text or a list.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

impl<'a, C: DeserializeOwned> Shown<'a, C> {
    /// Reads a token with these claims. There is none if it is malformed, or has other ones.
    pub(crate) fn read(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        Some(Self {
            claims: serde_json::from_slice(&claims).ok()?,
            header,
            signed,
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    /// Whether the signature is this key's.
    pub(crate) fn is_signed_by(&self, key: &SigningKey) -> bool {
        key.has_signed(self.signed.as_bytes(), &self.signature)
    }

    /// Whether the header names this key, as it stands in the key set, and the one algorithm that goes with it.
    pub(crate) fn names(&self, key: &SigningKey) -> bool {
        let header = URL_SAFE_NO_PAD.decode(self.header).ok();
        let header: Option<Header> = header.and_then(|header| serde_json::from_slice(&header).ok());
        header.is_some_and(|header| header.alg == "RS256" && header.kid == key.key_id())
    }
}

impl Audience {
    pub(crate) fn is(&self, wanted: &str) -> bool {
        match self {
            Self::One(audience) => audience == wanted,
            Self::Several(audiences) => audiences.iter().any(|audience| audience == wanted),
        }
    }
}
