//! The managed identities that the emulated machine has, and which of them a request means.
//!
//! Azure knows two kinds. A machine has at most one *system-assigned* identity, which lives and dies with it, and any
//! number of *user-assigned* ones, which are Azure resources of their own. A request names a user-assigned identity by
//! its client id, its object id (also called principal id) or its resource id; a request without a name means the
//! system-assigned one. What happens when there is none differs between the platforms, so it is up to the files in
//! `protocol/`.

use serde::{Deserialize, Serialize};

/// One managed identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The application id: the token's `appid`. A GUID.
    pub client_id: String,
    /// The service principal's id: the token's `oid` and `sub`. A GUID.
    pub object_id: String,
    /// The Azure resource id, which becomes the token's `xms_mirid`: that of the identity itself when it is
    /// user-assigned, that of its machine or application when it is system-assigned.
    pub resource_id: String,
    /// Application roles, which become the token's `roles`; the claim is left out when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
}

/// All identities of the emulated machine.
///
/// The default is a machine with one system-assigned and two user-assigned identities. Their ids are fixed, so that
/// documentation and tests can name them:
///
/// | identity | client id | object id |
/// |---|---|---|
/// | system-assigned | `50000000-0000-4000-8000-0000000000c1` | `50000000-0000-4000-8000-0000000000b1` |
/// | `identity-a` | `a0000000-0000-4000-8000-0000000000c1` | `a0000000-0000-4000-8000-0000000000b1` |
/// | `identity-b` | `b0000000-0000-4000-8000-0000000000c1` | `b0000000-0000-4000-8000-0000000000b1` |
///
/// The tenant is `7e000000-0000-4000-8000-000000000001`. The resource ids of the user-assigned identities are
/// `/subscriptions/5b000000-0000-4000-8000-000000000001/resourcegroups/emulator/providers/Microsoft.ManagedIdentity/userAssignedIdentities/`
/// followed by the name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identities {
    /// The Entra tenant that issues the tokens. A GUID.
    pub tenant_id: String,
    /// The identity of the machine itself, if it has one.
    #[serde(default)]
    pub system_assigned: Option<Identity>,
    /// The identities that somebody assigned to the machine.
    #[serde(default)]
    pub user_assigned: Vec<Identity>,
}

/// The resource group of the default identities.
const DEFAULT_RESOURCE_GROUP: &str = "/subscriptions/5b000000-0000-4000-8000-000000000001/resourcegroups/emulator";

impl Default for Identities {
    fn default() -> Self {
        let identity = |first: char, resource: &str| Identity {
            client_id: format!("{first}0000000-0000-4000-8000-0000000000c1"),
            object_id: format!("{first}0000000-0000-4000-8000-0000000000b1"),
            resource_id: format!("{DEFAULT_RESOURCE_GROUP}/providers/{resource}"),
            roles: Vec::new(),
        };
        Self {
            tenant_id: "7e000000-0000-4000-8000-000000000001".to_owned(),
            system_assigned: Some(identity('5', "Microsoft.Compute/virtualMachines/emulator")),
            user_assigned: vec![
                identity('a', "Microsoft.ManagedIdentity/userAssignedIdentities/identity-a"),
                identity('b', "Microsoft.ManagedIdentity/userAssignedIdentities/identity-b"),
            ],
        }
    }
}

/// How a request names an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selector<'a> {
    /// By client id.
    Client(&'a str),
    /// By object id.
    Object(&'a str),
    /// By resource id.
    Resource(&'a str),
}

impl Identities {
    /// Checks that every id has the form that Azure gives it, because a client that validates ids would otherwise fail
    /// in a way it never does on Azure.
    ///
    /// # Errors
    /// A sentence that names the offending id.
    pub fn check(&self) -> Result<(), String> {
        check_guid("tenant_id", &self.tenant_id)?;
        for identity in self.system_assigned.iter().chain(&self.user_assigned) {
            check_guid("client_id", &identity.client_id)?;
            check_guid("object_id", &identity.object_id)?;
            if !identity.resource_id.starts_with("/subscriptions/") {
                return Err(format!(
                    "resource_id {:?} is not an Azure resource id; it starts with \"/subscriptions/\"",
                    identity.resource_id
                ));
            }
        }
        Ok(())
    }

    /// The user-assigned identity that the selector names.
    pub(crate) fn find_user_assigned(&self, selector: Selector<'_>) -> Option<&Identity> {
        self.user_assigned.iter().find(|identity| identity.is(selector))
    }

    /// The identity that the selector names, the system-assigned one included (though not by resource id, because that
    /// is the id of its machine).
    pub(crate) fn find(&self, selector: Selector<'_>) -> Option<&Identity> {
        let system = match selector {
            Selector::Resource(_) => None,
            Selector::Client(_) | Selector::Object(_) => self.system_assigned.as_ref(),
        };
        system
            .filter(|identity| identity.is(selector))
            .or_else(|| self.find_user_assigned(selector))
    }
}

impl Identity {
    /// Azure compares GUIDs and resource ids without regard to case.
    pub(crate) fn is(&self, selector: Selector<'_>) -> bool {
        match selector {
            Selector::Client(id) => self.client_id.eq_ignore_ascii_case(id),
            Selector::Object(id) => self.object_id.eq_ignore_ascii_case(id),
            Selector::Resource(id) => self.resource_id.eq_ignore_ascii_case(id),
        }
    }
}

/// Whether the text is a GUID in the usual form of 8-4-4-4-12 hexadecimal digits.
pub(crate) fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn check_guid(name: &str, value: &str) -> Result<(), String> {
    if is_guid(value) {
        Ok(())
    } else {
        Err(format!(
            "{name} {value:?} is not a GUID such as 7e000000-0000-4000-8000-000000000001"
        ))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the test set up what it unwraps")]

    use super::*;

    #[test]
    fn the_default_identities_are_well_formed_and_distinct() {
        let identities = Identities::default();
        identities.check().unwrap();
        let mut ids: Vec<_> = identities
            .system_assigned
            .iter()
            .chain(&identities.user_assigned)
            .collect();
        ids.dedup_by_key(|identity| identity.client_id.clone());
        assert_eq!(ids.len(), 3);
    }

    #[test]
    fn every_kind_of_selector_finds_its_identity_whatever_its_case() {
        let identities = Identities::default();
        let wanted = &identities.user_assigned[1];
        for selector in [
            Selector::Client(&wanted.client_id.to_uppercase()),
            Selector::Object(&wanted.object_id.to_uppercase()),
            Selector::Resource(&wanted.resource_id.to_uppercase()),
        ] {
            assert_eq!(identities.find(selector), Some(wanted), "{selector:?}");
            assert_eq!(identities.find_user_assigned(selector), Some(wanted), "{selector:?}");
        }
    }

    #[test]
    fn the_system_assigned_identity_has_a_client_id_but_no_resource_id_of_its_own() {
        let identities = Identities::default();
        let system = identities.system_assigned.as_ref().unwrap();
        assert_eq!(identities.find(Selector::Client(&system.client_id)), Some(system));
        assert_eq!(identities.find_user_assigned(Selector::Client(&system.client_id)), None);
        assert_eq!(identities.find(Selector::Resource(&system.resource_id)), None);
    }

    #[test]
    fn ids_of_another_kind_find_nothing() {
        let identities = Identities::default();
        let user = &identities.user_assigned[0];
        assert_eq!(identities.find(Selector::Object(&user.client_id)), None);
        assert_eq!(identities.find(Selector::Client("")), None);
    }

    #[test]
    fn malformed_ids_are_named() {
        let mut identities = Identities::default();
        identities.user_assigned[0].object_id = "not-a-guid".to_owned();
        assert!(identities.check().unwrap_err().contains("object_id \"not-a-guid\""));
        let identities = Identities {
            tenant_id: "contoso.example".to_owned(),
            ..Identities::default()
        };
        assert!(identities.check().unwrap_err().contains("tenant_id"));
    }
}
