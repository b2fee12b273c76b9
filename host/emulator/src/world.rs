//! Everything that outlives a request: who the emulator is, what it was told, what it has seen.

use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use crate::fault::Faults;
use crate::identities::Identities;
use crate::keys::SigningKey;
use crate::record::Recorder;
use crate::settings::Settings;
use crate::throttle::Throttle;
use crate::unique::{HeaderSecret, Unique};

/// The state that all connections share.
pub(crate) struct World {
    pub base_url: String,
    pub key: SigningKey,
    pub header_secret: HeaderSecret,
    pub unique: Unique,
    pub faults: Faults,
    pub recorder: Recorder,
    pub throttle: Throttle,
    identities: RwLock<Arc<Identities>>,
    settings: RwLock<Arc<Settings>>,
}

impl World {
    pub(crate) fn new(
        base_url: String,
        key: SigningKey,
        identities: Identities,
        settings: Settings,
    ) -> std::io::Result<Self> {
        Ok(Self {
            base_url,
            key,
            header_secret: HeaderSecret::from_system_randomness()?,
            unique: Unique::from_system_randomness()?,
            faults: Faults::default(),
            recorder: Recorder::new(),
            throttle: Throttle::default(),
            identities: RwLock::new(Arc::new(identities)),
            settings: RwLock::new(Arc::new(settings)),
        })
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

    pub(crate) fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        change(Arc::make_mut(
            &mut self.settings.write().unwrap_or_else(PoisonError::into_inner),
        ));
    }

    pub(crate) fn patch_settings(&self, patch: &Value) -> Result<(), String> {
        let mut settings = self.settings.write().unwrap_or_else(PoisonError::into_inner);
        *settings = Arc::new(settings.patched(patch)?);
        Ok(())
    }
}
