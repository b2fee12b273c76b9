//! Everything that outlives a request: who the emulator is, what it was told, what it has seen.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use crate::arc_keys::ArcKeys;
use crate::assertion::Federation;
use crate::clock;
use crate::config::EmulatorConfig;
use crate::fault::Faults;
use crate::identities::Identities;
use crate::keys::SigningKey;
use crate::record::Recorder;
use crate::secure::Secure;
use crate::settings::Settings;
use crate::throttle::Throttle;
use crate::token_store::TokenStore;
use crate::unique::{HeaderSecret, Unique};

/// The state that all connections share.
pub(crate) struct World {
    pub base_url: String,
    pub secure: Option<Secure>,
    pub key: SigningKey,
    pub header_secret: HeaderSecret,
    pub unique: Unique,
    pub faults: Faults,
    pub recorder: Recorder,
    pub throttle: Throttle,
    pub tokens: TokenStore,
    pub arc_keys: Option<ArcKeys>,
    pub federation: Federation,
    identities: RwLock<Arc<Identities>>,
    settings: RwLock<Arc<Settings>>,
}

impl World {
    pub(crate) fn new(base_url: String, secure: Option<Secure>, config: EmulatorConfig) -> io::Result<Self> {
        let arc_keys = config.arc_directory.map(ArcKeys::new).transpose()?;
        let file = config.federated_token_file.map(std::path::absolute).transpose()?;
        let world = Self {
            federation: Federation::new(&base_url, file),
            base_url,
            secure,
            key: config.signing_key.map_or_else(SigningKey::generate, Ok)?,
            header_secret: HeaderSecret::from_system_randomness()?,
            unique: Unique::from_system_randomness()?,
            faults: Faults::default(),
            recorder: Recorder::new(),
            throttle: Throttle::default(),
            tokens: TokenStore::default(),
            arc_keys,
            identities: RwLock::new(Arc::new(config.identities)),
            settings: RwLock::new(Arc::new(config.settings)),
        };
        world.write_assertion()?;
        Ok(world)
    }

    /// Writes the federated token anew, if there is a file for it.
    pub(crate) fn write_assertion(&self) -> io::Result<()> {
        let settings = self.settings();
        let now = clock::now(settings.clock_offset_seconds);
        self.federation.write(&self.key, &settings, now)
    }

    /// Removes the files that were written.
    pub(crate) fn remove_files(&self) {
        if let Some(keys) = &self.arc_keys {
            keys.clear();
        }
        self.federation.remove();
    }

    pub(crate) fn identities(&self) -> Arc<Identities> {
        Arc::clone(&self.identities.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_identities(&self, identities: Identities) -> Result<(), String> {
        identities.check()?;
        *self.identities.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(identities);
        Ok(())
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn change_settings(&self, change: impl FnOnce(&mut Settings)) -> io::Result<()> {
        let before = self.settings();
        change(Arc::make_mut(
            &mut self.settings.write().unwrap_or_else(PoisonError::into_inner),
        ));
        self.follow_settings(&before)
    }

    pub(crate) fn patch_settings(&self, patch: &Value) -> Result<(), String> {
        let before = self.settings();
        {
            let mut settings = self.settings.write().unwrap_or_else(PoisonError::into_inner);
            *settings = Arc::new(settings.patched(patch)?);
        }
        self.follow_settings(&before).map_err(|error| error.to_string())
    }

    /// Does what changed settings ask for at once.
    fn follow_settings(&self, before: &Settings) -> io::Result<()> {
        let after = self.settings();
        if (after.assertion_lifetime_seconds, after.clock_offset_seconds)
            == (before.assertion_lifetime_seconds, before.clock_offset_seconds)
        {
            return Ok(());
        }
        self.federation.changed.notify_one();
        self.write_assertion()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.remove_files();
    }
}
