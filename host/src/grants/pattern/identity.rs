//! Identities, by the names that the interface has for them.

use super::PatternError;
use crate::token::Identity;
use managed_identity_provider::request;
use std::fmt;
use std::str::FromStr;

/// Which identities a rule is for: `platform-default`, `system-assigned`, `client-id:GUID`, `object-id:GUID`,
/// `resource-id:/subscriptions/…`, or `any`.
///
/// Identities are compared by kind and identifier, and identifiers without regard to case. A rule for `client-id:…` is not
/// for a request that names the same identity by its object id, nor for one that leaves the choice to the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityPattern {
    /// All of them.
    Any,
    /// This one.
    Exactly(Identity),
}

impl IdentityPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let identity = match text.split_once(':') {
            None => match text {
                "any" => return Ok(Self::Any),
                "platform-default" => Identity::PlatformDefault,
                "system-assigned" => Identity::SystemAssigned,
                "client-id" | "object-id" | "resource-id" => {
                    return Err(PatternError::new(format!(
                        "has no identifier; write `{text}:` and the id"
                    )));
                }
                _ => return Err(unknown()),
            },
            Some(("client-id", id)) => Identity::ClientId(checked(request::Identity::ClientId(id.to_owned()))?),
            Some(("object-id", id)) => Identity::ObjectId(checked(request::Identity::ObjectId(id.to_owned()))?),
            Some(("resource-id", id)) => Identity::ResourceId(checked(request::Identity::ResourceId(id.to_owned()))?),
            Some(_) => return Err(unknown()),
        };
        Ok(Self::Exactly(identity))
    }

    /// Whether the rule is for this identity.
    #[must_use]
    pub fn has(&self, identity: &Identity) -> bool {
        match (self, identity) {
            (Self::Any, _) => true,
            (Self::Exactly(Identity::ClientId(own)), Identity::ClientId(id))
            | (Self::Exactly(Identity::ObjectId(own)), Identity::ObjectId(id))
            | (Self::Exactly(Identity::ResourceId(own)), Identity::ResourceId(id)) => own.eq_ignore_ascii_case(id),
            (Self::Exactly(own), identity) => own == identity,
        }
    }
}

fn unknown() -> PatternError {
    PatternError::new(
        "is no identity; write `platform-default`, `system-assigned`, `client-id:` and a GUID, `object-id:` and a GUID, \
         `resource-id:` and a path, or `any`",
    )
}

/// The identifier as the provider reads it, so that no rule is for an identity that nobody can ask for.
fn checked(identity: request::Identity) -> Result<String, PatternError> {
    let checked = request::TokenRequest::checked("https://vault.azure.net", identity, None, None, None)
        .map_err(|error| PatternError::new(format!("is no identity: {}", error.message)))?;
    Ok(match checked.identity {
        request::Identity::ClientId(id) | request::Identity::ObjectId(id) | request::Identity::ResourceId(id) => id,
        request::Identity::PlatformDefault | request::Identity::SystemAssigned => String::new(),
    })
}

impl FromStr for IdentityPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => formatter.write_str("any"),
            Self::Exactly(identity) => named(identity).fmt(formatter),
        }
    }
}

/// The identity as a policy writes it.
pub(crate) fn named(identity: &Identity) -> impl fmt::Display {
    fmt::from_fn(move |formatter| match identity {
        Identity::PlatformDefault => formatter.write_str("platform-default"),
        Identity::SystemAssigned => formatter.write_str("system-assigned"),
        Identity::ClientId(id) => write!(formatter, "client-id:{id}"),
        Identity::ObjectId(id) => write!(formatter, "object-id:{id}"),
        Identity::ResourceId(id) => write!(formatter, "resource-id:{id}"),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the patterns are literals")]

    use super::*;

    const LOWER: &str = "12345678-90ab-cdef-1234-567890abcdef";
    const UPPER: &str = "12345678-90AB-CDEF-1234-567890ABCDEF";
    const RESOURCE: &str =
        "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n";

    #[test]
    fn identities_are_compared_by_kind_and_by_identifier_in_any_case() {
        let client = |id: &str| Identity::ClientId(id.to_owned());
        let object = |id: &str| Identity::ObjectId(id.to_owned());
        let resource = |id: &str| Identity::ResourceId(id.to_owned());
        let by_client = format!("client-id:{UPPER}");
        let by_object = format!("object-id:{LOWER}");
        let by_resource = format!("resource-id:{RESOURCE}");
        for (pattern, identity, has) in [
            ("any", Identity::PlatformDefault, true),
            ("any", client(LOWER), true),
            ("platform-default", Identity::PlatformDefault, true),
            ("platform-default", Identity::SystemAssigned, false),
            ("platform-default", client(LOWER), false),
            ("system-assigned", Identity::SystemAssigned, true),
            ("system-assigned", Identity::PlatformDefault, false),
            (&by_client, client(LOWER), true),
            (&by_client, client(UPPER), true),
            (&by_client, object(LOWER), false),
            (&by_client, client("22345678-90ab-cdef-1234-567890abcdef"), false),
            (&by_client, client(&format!("{LOWER} ")), false),
            (&by_client, client(""), false),
            (&by_client, Identity::PlatformDefault, false),
            (&by_object, object(UPPER), true),
            (&by_object, client(LOWER), false),
            (&by_resource, resource(RESOURCE), true),
            (&by_resource, resource(&RESOURCE.to_uppercase()), true),
            (&by_resource, resource(&format!("{RESOURCE}2")), false),
            (&by_resource, client(RESOURCE), false),
        ] {
            let pattern = IdentityPattern::parse(pattern).unwrap();
            assert_eq!(pattern.has(&identity), has, "{pattern} and {identity:?}");
        }
    }

    #[test]
    fn what_is_no_identity_is_refused_with_what_to_write() {
        for (text, message) in [
            ("", "is no identity; write"),
            ("*", "is no identity; write"),
            ("Any", "is no identity; write"),
            ("system_assigned", "is no identity; write"),
            ("system-assigned:", "is no identity; write"),
            (LOWER, "is no identity; write"),
            ("clientid:x", "is no identity; write"),
            ("client-id", "has no identifier; write `client-id:`"),
            ("client-id:", "is not a GUID"),
            ("client-id:*", "is not a GUID"),
            ("client-id: 12345678-90ab-cdef-1234-567890abcdef", "is not a GUID"),
            ("object-id:my-identity", "is not a GUID"),
            ("resource-id:my-identity", "does not have the form"),
            ("resource-id:/subscriptions/a b", "does not have the form"),
        ] {
            let error = IdentityPattern::parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text:?} {error}");
        }
    }

    #[test]
    fn a_pattern_prints_as_it_can_be_read_again() {
        for text in ["any", "platform-default", "system-assigned"] {
            assert_eq!(text.parse::<IdentityPattern>().unwrap().to_string(), text);
        }
        let folded: IdentityPattern = format!("object-id:{UPPER}").parse().unwrap();
        assert_eq!(folded.to_string(), format!("object-id:{LOWER}"));
        let resource = format!("resource-id:{RESOURCE}");
        assert_eq!(resource.parse::<IdentityPattern>().unwrap().to_string(), resource);
    }
}
