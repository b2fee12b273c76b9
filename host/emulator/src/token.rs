//! The tokens that the emulator issues: signed JSON Web Tokens with the claims of an Entra v1 application token.
//!
//! Claims follow "Access token claims reference" of the Microsoft identity platform, for the app-only tokens that
//! managed identities get. The issuer is the emulator itself, at a URL below which OpenID Connect discovery works, so
//! software that verifies tokens can be pointed at it in place of `https://sts.windows.net/`.

use std::io;

use serde::Serialize;

use crate::identities::{Identities, Identity};
use crate::keys::SigningKey;
use crate::settings::Settings;

/// Entra dates tokens five minutes back (`iat`, `nbf`), so that a verifier whose clock is a little behind takes them.
const BACKDATED_SECONDS: i64 = 300;

/// Whose token for what.
pub(crate) struct Wanted<'a> {
    pub identity: &'a Identity,
    pub resource: &'a str,
    /// What the client can do with refusals of the resource (`xms_cc`), such as `cp1`.
    pub capabilities: Vec<String>,
}

impl<'a> Wanted<'a> {
    /// A token for a client that has announced nothing.
    pub(crate) fn new(identity: &'a Identity, resource: &'a str) -> Self {
        Self {
            identity,
            resource,
            capabilities: Vec::new(),
        }
    }
}

/// A token and what a reply says about it.
#[derive(Clone)]
pub(crate) struct Issued {
    pub access_token: String,
    pub client_id: String,
    pub resource: String,
    pub not_before: i64,
    pub expires_on: i64,
    pub expires_in: i64,
}

/// The claims in the order in which Entra writes them.
#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    iss: &'a str,
    iat: i64,
    nbf: i64,
    exp: i64,
    appid: &'a str,
    /// How the application proved who it is; 2 stands for a certificate, which is what a managed identity has.
    appidacr: &'a str,
    idp: &'a str,
    idtyp: &'a str,
    oid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    roles: &'a [String],
    sub: &'a str,
    tid: &'a str,
    uti: &'a str,
    ver: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    xms_cc: &'a [String],
    xms_mirid: &'a str,
}

/// Where tokens come from: the issuer's name, its key, the time it thinks it is.
pub(crate) struct Issuer<'a> {
    pub base_url: &'a str,
    pub key: &'a SigningKey,
    pub identities: &'a Identities,
    pub settings: &'a Settings,
    /// Seconds since 1970 on the emulator's clock.
    pub now: i64,
}

impl Issuer<'_> {
    /// A new token as wanted. `token_id` becomes `uti`; it makes every token different.
    ///
    /// # Errors
    /// When the signature fails, which does not happen with a key made by this crate.
    pub(crate) fn issue(&self, wanted: &Wanted<'_>, token_id: &str) -> io::Result<Issued> {
        let Wanted {
            identity,
            resource,
            capabilities,
        } = wanted;
        let issuer = issuer_url(self.base_url, &self.identities.tenant_id);
        let expires_in = self.settings.token_lifetime_seconds;
        let not_before = self.now.saturating_sub(BACKDATED_SECONDS);
        let expires_on = self.now.saturating_add(expires_in);
        let access_token = self.key.sign(&Claims {
            aud: resource,
            iss: &issuer,
            iat: not_before,
            nbf: not_before,
            exp: expires_on,
            appid: &identity.client_id,
            appidacr: "2",
            idp: &issuer,
            idtyp: "app",
            oid: &identity.object_id,
            roles: &identity.roles,
            sub: &identity.object_id,
            tid: &self.identities.tenant_id,
            uti: token_id,
            ver: "1.0",
            xms_cc: capabilities,
            xms_mirid: &identity.resource_id,
        })?;
        Ok(Issued {
            access_token,
            client_id: identity.client_id.clone(),
            resource: (*resource).to_owned(),
            not_before,
            expires_on,
            expires_in,
        })
    }
}

/// The issuer of a tenant's tokens, with the trailing slash that Entra's v1 issuer has. Discovery removes it (OpenID
/// Connect Discovery 1.0, section 4.1).
pub(crate) fn issuer_url(base_url: &str, tenant_id: &str) -> String {
    format!("{base_url}/{tenant_id}/")
}
