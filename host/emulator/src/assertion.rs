//! The token that a Kubernetes cluster gives to a pod, which workload identity exchanges for one of Entra's.
//!
//! The emulator is the cluster too: it signs the assertion, keeps it in a file and writes a new one when four fifths of
//! its life are over, as the kubelet does ("Configure Service Accounts for Pods", ServiceAccount token volume
//! projection). Entra takes it if a federated identity credential names its issuer, subject and audience.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::arc_keys::write_private;
use crate::jwt::{Audience, Shown};
use crate::keys::SigningKey;
use crate::settings::Settings;

/// The audience of assertions for Entra, in every cloud that the reference names.
pub(crate) const AUDIENCE: &str = "api://AzureADTokenExchange";

/// The service account whose assertions the federated identity credential takes.
pub(crate) const SUBJECT: &str = "system:serviceaccount:default:emulator";

/// Who vouches for whom.
pub(crate) struct Federation {
    /// The issuer of the cluster.
    pub issuer: String,
    /// Where the assertion is kept.
    pub file: Option<PathBuf>,
    /// The settings that the file follows have changed.
    pub changed: Notify,
    /// Whether the file is the emulator's, to be removed in the end.
    written: AtomicBool,
}

/// The claims that a cluster writes, as far as Entra looks at them. `aud` is a list in a service account token.
#[derive(Serialize)]
struct Claims<'a> {
    aud: [&'a str; 1],
    exp: i64,
    iat: i64,
    iss: &'a str,
    nbf: i64,
    sub: &'a str,
}

/// The claims that were presented.
#[derive(Deserialize)]
struct Presented {
    aud: Audience,
    exp: i64,
    #[serde(default)]
    nbf: i64,
    iss: String,
    sub: String,
}

/// Why an assertion is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    Malformed,
    Signature,
    Issuer(String),
    Subject(String),
    Audience,
    Time { now: i64, not_before: i64, expires_on: i64 },
}

impl Federation {
    pub(crate) fn new(base_url: &str, file: Option<PathBuf>) -> Self {
        Self {
            issuer: format!("{base_url}/cluster/"),
            file,
            changed: Notify::new(),
            written: AtomicBool::new(false),
        }
    }

    /// Puts a new assertion in the place of the present one, at once or not at all. Does nothing without a file.
    pub(crate) fn write(&self, key: &SigningKey, settings: &Settings, now: i64) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let assertion = key.sign(&Claims {
            aud: [AUDIENCE],
            exp: now.saturating_add(settings.assertion_lifetime_seconds),
            iat: now,
            iss: &self.issuer,
            nbf: now,
            sub: SUBJECT,
        })?;
        let mut draft = file.clone().into_os_string();
        draft.push(".new");
        let draft = Path::new(&draft);
        // A draft of a process that was killed may still be there.
        let _ = fs::remove_file(draft);
        write_private(draft, assertion.as_bytes())
            .and_then(|()| fs::rename(draft, file))
            .inspect(|()| self.written.store(true, Ordering::Relaxed))
            .map_err(|error| {
                let _ = fs::remove_file(draft);
                let message = format!("the federated token file {} cannot be written: {error}", file.display());
                io::Error::new(error.kind(), message)
            })
    }

    /// Removes the file, if it was written.
    pub(crate) fn remove(&self) {
        if let Some(file) = self.file.as_ref().filter(|_| self.written.load(Ordering::Relaxed)) {
            // Somebody else may have removed it, and nobody could be told.
            let _ = fs::remove_file(file);
        }
    }

    /// How long after it was written the assertion is replaced; never, if it is expired from the start.
    pub(crate) fn rotates_after(settings: &Settings) -> Option<Duration> {
        let lifetime = u64::try_from(settings.assertion_lifetime_seconds).ok()?;
        // Beyond a century Tokio's timers would round anyway.
        let after = (lifetime.min(3_000_000_000) * 4 / 5).max(1);
        (lifetime > 0).then(|| Duration::from_secs(after))
    }

    /// Looks at an assertion as Entra does.
    pub(crate) fn check(&self, assertion: &str, key: &SigningKey, now: i64) -> Result<(), Flaw> {
        let shown: Shown<'_, Presented> = Shown::read(assertion).ok_or(Flaw::Malformed)?;
        let is_signed = shown.is_signed_by(key);
        let claims = shown.claims;
        if claims.iss != self.issuer {
            return Err(Flaw::Issuer(claims.iss));
        }
        if !is_signed {
            return Err(Flaw::Signature);
        }
        if claims.sub != SUBJECT {
            return Err(Flaw::Subject(claims.sub));
        }
        if !claims.aud.is(AUDIENCE) {
            return Err(Flaw::Audience);
        }
        if now >= claims.exp || now < claims.nbf {
            return Err(Flaw::Time {
                now,
                not_before: claims.nbf,
                expires_on: claims.exp,
            });
        }
        Ok(())
    }
}
