//! Who asks.

use crate::config::Config;
use crate::secret::SecretHash;
use managed_identity_host::Identity;
use managed_identity_host::grants::{Caller, Gate, Granted};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A caller that is known, and what it may do.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) granted: Granted,
    /// The identity that it gets when it names none.
    pub(crate) default_identity: Identity,
}

/// All callers, by what they are known by.
#[derive(Debug)]
pub(crate) struct Callers {
    by_name: BTreeMap<Caller, Arc<Known>>,
    by_secret: Vec<(SecretHash, Arc<Known>)>,
    by_user: HashMap<u32, Arc<Known>>,
}

impl Callers {
    pub(crate) fn new(config: &Config, gate: &Gate) -> Self {
        let mut callers = Self {
            by_name: BTreeMap::new(),
            by_secret: Vec::new(),
            by_user: HashMap::new(),
        };
        for (caller, how) in &config.callers {
            let known = Arc::new(Known {
                granted: gate.caller(caller.clone()),
                default_identity: how.default_identity.clone(),
            });
            callers
                .by_secret
                .extend(how.secrets.iter().map(|hash| (*hash, Arc::clone(&known))));
            callers
                .by_user
                .extend(how.users.iter().map(|user| (*user, Arc::clone(&known))));
            callers.by_name.insert(caller.clone(), known);
        }
        callers
    }

    pub(crate) fn by_name(&self, caller: &Caller) -> Option<&Arc<Known>> {
        self.by_name.get(caller)
    }

    /// Whose secret it is. Takes the same time whoever's it is, and when it is nobody's.
    pub(crate) fn by_secret(&self, secret: &[u8]) -> Option<&Arc<Known>> {
        let hash = SecretHash::of(secret);
        let mut found = None;
        for (known, caller) in &self.by_secret {
            if *known == hash {
                found = Some(caller);
            }
        }
        found
    }

    pub(crate) fn by_user(&self, user: u32) -> Option<&Arc<Known>> {
        self.by_user.get(&user)
    }
}
