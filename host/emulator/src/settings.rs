//! What can be changed while the emulator runs: how long tokens live, how their expiry is written, what is throttled.
//!
//! In process it is [`Emulator::configure`](crate::Emulator::configure), from outside `PATCH /control/config` with the
//! members to change; a member set to `null` goes back to its default. All members, with their defaults:
//!
//! ```json
//! {
//!   "token_lifetime_seconds": 86400,
//!   "expires_on": "documented",
//!   "expires_in": "documented",
//!   "refresh_in": null,
//!   "clock_offset_seconds": 0,
//!   "unknown_resources": ["https://unknown.*", "https://not-registered.example"],
//!   "rate_limit": null,
//!   "repeat_tokens": false,
//!   "assertion_lifetime_seconds": 3600
//! }
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How the emulator answers, changeable at any time. See the [module](self) for the JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Seconds between the emulator's now and a token's expiry. Azure gives managed identities 24 hours. Zero and
    /// negative values make tokens that are already expired.
    pub token_lifetime_seconds: i64,
    /// How a reply writes the moment of expiry.
    pub expires_on: ExpiresOn,
    /// How a reply writes the seconds until expiry.
    pub expires_in: ExpiresIn,
    /// Seconds after which a client should refresh the token; left out of the reply when absent, as Azure mostly does.
    pub refresh_in: Option<u64>,
    /// Seconds that the emulator's clock is ahead of the machine's (negative: behind). Tokens, expiry times and the
    /// `Date` header all follow it, so that a client sees a machine with a wrong clock.
    pub clock_offset_seconds: i64,
    /// Resources that the tenant does not know (AADSTS500011). An entry that ends in `*` stands for everything that
    /// starts with it; otherwise a trailing slash makes no difference.
    pub unknown_resources: Vec<String>,
    /// Throttles IMDS as Azure does; off when absent.
    pub rate_limit: Option<RateLimit>,
    /// Answers with the same token until it is near its expiry, as Azure does, and not with a new one each time. Entra's
    /// own endpoint, which workload identity uses, gives new tokens all the same.
    pub repeat_tokens: bool,
    /// Seconds for which the federated token of workload identity is valid; clusters make it an hour. Zero and negative
    /// values make it expired. A change writes a new file.
    pub assertion_lifetime_seconds: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            token_lifetime_seconds: 24 * 60 * 60,
            expires_on: ExpiresOn::default(),
            expires_in: ExpiresIn::default(),
            refresh_in: None,
            clock_offset_seconds: 0,
            unknown_resources: vec![
                "https://unknown.*".to_owned(),
                "https://not-registered.example".to_owned(),
            ],
            rate_limit: None,
            repeat_tokens: false,
            assertion_lifetime_seconds: 60 * 60,
        }
    }
}

/// How a reply writes `expires_on`. All forms are on record from real platforms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpiresOn {
    /// As the protocol's documentation says.
    #[default]
    Documented,
    /// Seconds since 1970 in a string: `"1586984735"`.
    String,
    /// Seconds since 1970 as a JSON number.
    Number,
    /// `"2024-10-18T19:51:37.0000000+00:00"`, as some App Service machines write it.
    Iso8601,
    /// `"06/20/2019 02:57:58 +00:00"`, the form of the 2017-09-01 protocol on Linux.
    MonthDayYear,
    /// Not at all.
    Absent,
}

/// How a reply writes `expires_in`; `ext_expires_in` follows it where the protocol has that member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpiresIn {
    /// As the protocol's documentation says: a string from IMDS, absent from App Service.
    #[default]
    Documented,
    /// Seconds in a string.
    String,
    /// Seconds as a JSON number.
    Number,
    /// Not at all.
    Absent,
}

/// A throttle. The default is the documented limit of the identity category of IMDS ("Azure Instance Metadata Service",
/// rate limiting).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimit {
    /// Requests accepted within any one second.
    pub requests_per_second: u32,
    /// Requests in progress at once.
    pub concurrent: u32,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            requests_per_second: 20,
            concurrent: 5,
        }
    }
}

impl Settings {
    /// These settings with the members of a JSON object replaced.
    ///
    /// # Errors
    /// A sentence that says which member is unknown or malformed.
    pub(crate) fn patched(&self, patch: &Value) -> Result<Self, String> {
        let Value::Object(patch) = patch else {
            return Err("the settings to change are a JSON object".to_owned());
        };
        let mut merged = serde_json::to_value(self).map_err(|error| error.to_string())?;
        if let Value::Object(members) = &mut merged {
            for (name, value) in patch {
                match value {
                    Value::Null => members.remove(name),
                    value => members.insert(name.clone(), value.clone()),
                };
            }
        }
        serde_json::from_value(merged).map_err(|error| error.to_string())
    }

    /// Whether the tenant has no such resource.
    ///
    /// Besides the configured ones these are the two mistakes that Entra answers in the same way: something that is
    /// neither an absolute URI nor a GUID, and a v2 *scope* (a resource followed by `/.default`).
    pub(crate) fn is_unknown_resource(&self, resource: &str) -> bool {
        let malformed = url::Url::parse(resource).is_err() && !crate::identities::is_guid(resource);
        malformed
            || resource.ends_with("/.default")
            || self
                .unknown_resources
                .iter()
                .any(|unknown| match unknown.strip_suffix('*') {
                    Some(start) => resource.starts_with(start),
                    None => resource.trim_end_matches('/') == unknown.trim_end_matches('/'),
                })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the test set up what it unwraps")]

    use super::*;
    use serde_json::json;

    #[test]
    fn the_documented_json_is_the_default() {
        let documented = json!({
            "token_lifetime_seconds": 86400,
            "expires_on": "documented",
            "expires_in": "documented",
            "refresh_in": null,
            "clock_offset_seconds": 0,
            "unknown_resources": ["https://unknown.*", "https://not-registered.example"],
            "rate_limit": null,
            "repeat_tokens": false,
            "assertion_lifetime_seconds": 3600
        });
        assert_eq!(serde_json::to_value(Settings::default()).unwrap(), documented);
    }

    #[test]
    fn a_patch_changes_what_it_names_and_null_restores_the_default() {
        let changed = Settings::default()
            .patched(&json!({"token_lifetime_seconds": 60, "expires_on": "iso8601", "rate_limit": {}}))
            .unwrap();
        assert_eq!(changed.token_lifetime_seconds, 60);
        assert_eq!(changed.expires_on, ExpiresOn::Iso8601);
        assert_eq!(
            changed.rate_limit,
            Some(RateLimit {
                requests_per_second: 20,
                concurrent: 5
            })
        );
        let restored = changed
            .patched(&json!({"token_lifetime_seconds": null, "expires_on": null, "rate_limit": null}))
            .unwrap();
        assert_eq!(restored, Settings::default());
    }

    #[test]
    fn an_unknown_or_malformed_member_is_refused_by_name() {
        for (patch, named) in [
            (json!({"token_lifetime": 60}), "token_lifetime"),
            (json!({"expires_on": "tomorrow"}), "tomorrow"),
            (json!({"rate_limit": {"per_minute": 3}}), "per_minute"),
            (json!([1]), "JSON object"),
        ] {
            let message = Settings::default().patched(&patch).unwrap_err();
            assert!(message.contains(named), "{patch}: {message}");
        }
    }

    #[test]
    fn resources_are_known_unless_they_are_listed_or_malformed() {
        let settings = Settings::default();
        for (resource, unknown) in [
            ("https://vault.azure.net", false),
            ("https://vault.azure.net/", false),
            ("api://7e000000-0000-4000-8000-000000000001", false),
            ("7e000000-0000-4000-8000-000000000001", false),
            ("urn:example:api", false),
            ("https://unknown.example", true),
            ("https://not-registered.example", true),
            ("https://not-registered.example/", true),
            ("https://not-registered.example.org", false),
            ("https://vault.azure.net/.default", true),
            ("vault", true),
            ("", true),
        ] {
            assert_eq!(settings.is_unknown_resource(resource), unknown, "{resource}");
        }
    }
}
