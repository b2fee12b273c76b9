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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;
    use crate::config::CallerConfig;
    use managed_identity_host::Broker;

    fn secret(caller: u32, number: u32) -> String {
        format!("secret-{number}-of-caller-{caller}")
    }

    /// 300 callers with two secrets and two users each.
    fn callers() -> Callers {
        let mut config = Config::default();
        for caller in 0..300 {
            let how = CallerConfig {
                secrets: [1, 2]
                    .map(|number| SecretHash::of(secret(caller, number).as_bytes()))
                    .into(),
                users: vec![1_000 + caller, 2_000 + caller],
                default_identity: Identity::SystemAssigned,
            };
            config.callers.insert(Caller::new(&caller.to_string()), how);
        }
        let broker = Broker::builder().environment([("", ""); 0]).build().unwrap();
        Callers::new(&config, &Gate::new(broker, config.policy.clone()))
    }

    fn name(known: Option<&Arc<Known>>) -> Option<String> {
        known.map(|known| known.granted.caller().name().to_owned())
    }

    #[tokio::test]
    async fn a_caller_is_known_by_each_of_its_secrets_and_users_and_nobody_else_is() {
        let callers = callers();
        for caller in [0, 1, 150, 299] {
            let expected = Some(caller.to_string());
            for number in [1, 2] {
                assert_eq!(name(callers.by_secret(secret(caller, number).as_bytes())), expected);
                assert_eq!(name(callers.by_user(number * 1_000 + caller)), expected);
            }
            assert_eq!(name(callers.by_name(&Caller::new(&caller.to_string()))), expected);
        }
        let hash = SecretHash::of(secret(0, 1).as_bytes()).to_string();
        for nobody in [
            "",
            "secret-1-of-caller-",
            "secret-3-of-caller-0",
            "secret-1-of-caller-0 ",
            &hash,
        ] {
            assert_eq!(name(callers.by_secret(nobody.as_bytes())), None, "{nobody:?}");
        }
        assert_eq!(name(callers.by_secret(&[0xff; 32])), None);
        assert_eq!(name(callers.by_user(0)), None);
        assert_eq!(name(callers.by_name(&Caller::new("300"))), None);
    }
}
