//! What makes two requests the same, and what entries are called in the store.
//!
//! A token is selected by the source, the endpoint, and each variable that a provider looks at; by the audience; and by the
//! identity. That a variable is a secret makes no difference: an App Service whose header differs is another app. The name
//! of an entry is three keyed digests, so that all of one deployment, or of one audience, can be found by their beginning and
//! nobody without the key learns what they are. That of a token that was rejected is one:
//!
//! ```text
//! managed-identity-cache.1.<deployment, 128 bits>.<audience, 128 bits>.<identity, 256 bits>
//! managed-identity-cache.1.rejected.<token, 256 bits>
//! ```
//!
//! Digits, lower-case letters, dots and hyphens, less than 200 of them: every store known to us takes that.

use crate::keys::Key;
use crate::surroundings::Origin;
use crate::token::Identity;
use std::fmt::Write as _;

/// The variables that select a token: all that the provider of this project looks at.
pub const VARIABLES: &[&str] = &[
    "AZURE_AUTHORITY_HOST",
    "AZURE_CLIENT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_KUBERNETES_CA_DATA",
    "AZURE_KUBERNETES_CA_FILE",
    "AZURE_KUBERNETES_SNI_NAME",
    "AZURE_KUBERNETES_TOKEN_PROXY",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    "AZURE_TENANT_ID",
    "DEFAULT_IDENTITY_CLIENT_ID",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "IDENTITY_SERVER_THUMBPRINT",
    "IMDS_ENDPOINT",
    "MANAGED_IDENTITY_ARC_AGENT",
    "MANAGED_IDENTITY_USE_TOKEN_PROXY",
    "MSI_ENDPOINT",
    "MSI_SECRET",
    "ProgramData",
    "WEBSITE_SITE_NAME",
];

/// What every name begins with. The number is that of the form of names and entries.
pub const PREFIX: &str = "managed-identity-cache.1.";

/// What a scope adds to the resource that it stands for.
const SCOPE_SUFFIX: &str = "/.default";

/// The resource that an audience names, be it a resource or a scope.
#[must_use]
pub fn resource(audience: &str) -> &str {
    audience.strip_suffix(SCOPE_SUFFIX).unwrap_or(audience)
}

/// What selects tokens of one deployment: all but the audience and the identity.
pub struct Deployment {
    fields: Vec<String>,
}

impl Deployment {
    /// Everything of `environment` that selects a token, and where tokens come from.
    #[must_use]
    pub fn new(namespace: &str, origin: &Origin, environment: &[(String, String)]) -> Self {
        let mut fields = vec![namespace.to_owned(), origin.source.clone(), origin.endpoint.clone()];
        // In an order of our own: that in which a host lists them says nothing.
        for variable in VARIABLES {
            let set = environment
                .iter()
                .find(|(name, value)| name == variable && !value.is_empty());
            fields.extend(set.map(|(name, value)| format!("{name}={value}")));
        }
        Self { fields }
    }

    /// What the names of all its entries begin with, or of those for one audience.
    #[must_use]
    pub fn prefix(&self, key: &Key, audience: Option<&str>) -> String {
        let mut name = PREFIX.to_owned();
        self.push(&mut name, key, &["deployment"], 16);
        if let Some(audience) = audience {
            self.push(&mut name, key, &["audience", resource(audience)], 16);
        }
        name
    }

    /// The name of the entry for one audience and identity.
    #[must_use]
    pub fn name(&self, key: &Key, audience: &str, identity: &Identity) -> String {
        let (kind, id) = match identity {
            Identity::PlatformDefault => ("platform-default", ""),
            Identity::SystemAssigned => ("system-assigned", ""),
            Identity::ClientId(id) => ("client-id", id.as_str()),
            Identity::ObjectId(id) => ("object-id", id.as_str()),
            Identity::ResourceId(id) => ("resource-id", id.as_str()),
        };
        let mut name = self.prefix(key, Some(audience));
        // Azure compares identifiers without case.
        let fields = ["entry", resource(audience), kind, &id.to_ascii_lowercase()];
        self.push(&mut name, key, &fields, 32);
        name.pop();
        name
    }

    /// The name under which it stands that a token was rejected, by whatever audience and identity it was asked for.
    #[must_use]
    pub fn rejection(&self, key: &Key, token: &str) -> String {
        let mut name = format!("{PREFIX}rejected.");
        self.push(&mut name, key, &["rejected", token], 32);
        name.pop();
        name
    }

    fn push(&self, name: &mut String, key: &Key, fields: &[&str], length: usize) {
        let fields: Vec<&[u8]> = fields
            .iter()
            .copied()
            .chain(self.fields.iter().map(String::as_str))
            .map(str::as_bytes)
            .collect();
        for byte in &key.digest(&fields)[..length] {
            // Writing to a `String` cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        name.push('.');
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the keys are good")]

    use super::*;
    use crate::keys::Keys;
    use managed_identity_provider::environment;
    use managed_identity_provider::request::Audience;
    use std::collections::BTreeSet;

    fn keys() -> Keys {
        Keys::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=,/////////////////////////////////////////wA=")
            .unwrap()
    }

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn deployment(namespace: &str, endpoint: &str, environment: &[(&str, &str)]) -> Deployment {
        let origin = Origin {
            source: "imds".to_owned(),
            endpoint: endpoint.to_owned(),
        };
        Deployment::new(namespace, &origin, &variables(environment))
    }

    #[test]
    fn the_variables_are_those_of_the_provider() {
        assert_eq!(VARIABLES, environment::VARIABLES);
    }

    #[test]
    fn a_scope_and_its_resource_are_one_as_they_are_to_the_provider() {
        for audience in [
            "https://vault.azure.net",
            "https://vault.azure.net/",
            "https://vault.azure.net/.default",
            "https://vault.azure.net//.default",
            "api://app/.default",
            "https://vault.azure.net/.default/.default",
        ] {
            assert_eq!(resource(audience), Audience::parse(audience).unwrap().resource());
        }
    }

    #[test]
    fn whatever_selects_another_token_gives_another_name() {
        let keys = keys();
        let mut keys = keys.iter();
        let (key, other_key) = (keys.next().unwrap(), keys.next().unwrap());
        let client = Identity::ClientId("a".to_owned());
        let named = |deployment: &Deployment| deployment.name(key, "audience", &client);
        let mut names = vec![
            named(&deployment("", "http://a", &[])),
            named(&deployment("ns", "http://a", &[])),
            named(&deployment("", "http://b", &[])),
            // Where one field ends and the next begins makes a difference.
            named(&deployment("nshttp://a", "", &[])),
            deployment("", "http://a", &[]).name(other_key, "audience", &client),
        ];
        for variable in VARIABLES {
            names.push(named(&deployment("", "http://a", &[(variable, "x")])));
            names.push(named(&deployment("", "http://a", &[(variable, "y")])));
        }
        let plain = deployment("", "http://a", &[]);
        for identity in [
            Identity::PlatformDefault,
            Identity::SystemAssigned,
            Identity::ClientId("b".to_owned()),
            Identity::ObjectId("a".to_owned()),
            Identity::ResourceId("a".to_owned()),
        ] {
            names.push(plain.name(key, "audience", &identity));
        }
        names.push(plain.name(key, "audience/", &client));
        let source = Origin {
            source: "app-service".to_owned(),
            endpoint: "http://a".to_owned(),
        };
        names.push(named(&Deployment::new("", &source, &[])));
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:#?}");
    }

    #[test]
    fn what_selects_nothing_changes_no_name() {
        let keys = keys();
        let key = keys.iter().next().unwrap();
        let name = |environment: &[(&str, &str)], audience: &str, identity: &Identity| {
            deployment("", "http://a", environment).name(key, audience, identity)
        };
        let environment = [("AZURE_CLIENT_ID", "x"), ("AZURE_TENANT_ID", "y")];
        let expected = name(&environment, "r", &Identity::ResourceId("/subscriptions/s".to_owned()));
        for (environment, audience, id) in [
            (&environment[..], "r/.default", "/subscriptions/s"),
            (&environment, "r", "/Subscriptions/S"),
            (&[environment[1], environment[0]], "r", "/subscriptions/s"),
            (
                &[environment[0], environment[1], ("PATH", "/bin"), ("MSI_SECRET", "")],
                "r",
                "/subscriptions/s",
            ),
        ] {
            assert_eq!(
                name(environment, audience, &Identity::ResourceId(id.to_owned())),
                expected
            );
        }
    }

    #[test]
    fn entries_are_found_by_the_beginnings_of_their_names() {
        let keys = keys();
        let key = keys.iter().next().unwrap();
        let (ours, theirs) = (
            deployment("ours", "http://a", &[]),
            deployment("theirs", "http://a", &[]),
        );
        let name = ours.name(key, "https://vault.azure.net", &Identity::SystemAssigned);
        for (prefix, expected) in [
            (ours.prefix(key, None), true),
            (ours.prefix(key, Some("https://vault.azure.net")), true),
            (ours.prefix(key, Some("https://vault.azure.net/.default")), true),
            (ours.prefix(key, Some("https://vault.azure.net/")), false),
            (theirs.prefix(key, None), false),
            (theirs.prefix(key, Some("https://vault.azure.net")), false),
        ] {
            assert_eq!(name.starts_with(&prefix), expected, "{prefix}");
        }
        let plain = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase() || c == '.' || c == '-';
        assert!(name.len() < 200 && name.chars().all(plain), "{name}");
    }

    /// So that another release finds what this one has stored; whoever changes it changes the number in [`PREFIX`] too.
    #[test]
    fn names_stay_as_they_are() {
        let keys = keys();
        let name = deployment("", "http://169.254.169.254/metadata/identity/oauth2/token", &[]).name(
            keys.iter().next().unwrap(),
            "https://vault.azure.net",
            &Identity::PlatformDefault,
        );
        assert_eq!(
            name,
            "managed-identity-cache.1.cc9d3f7ba93926b0493732f289b5a68e.804cc5b2a4b1cb3d6cbcab05e222d896.\
             55400c286c80973d4d494d532a004cce68d02640ad9055b692fb9eda81d5c1da"
        );
    }
}
