//! What a caller asks for, checked: nothing malformed gets past this point.

use crate::error::{Cause, Error};
use crate::secret::Secret;
use std::time::Duration;

/// How long a caller waits when it does not say, chosen to outlast the 70 seconds for which the Azure Instance Metadata
/// Service may ask to wait while it updates itself.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(90);

/// The longest wait that is granted. A caller who asks for more gets this.
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// The longest audience or identifier, in bytes. Azure resource ids, the longest of them, stay below 1,024.
const LONGEST_IDENTIFIER: usize = 2048;

/// The longest claims challenge, in bytes.
const LONGEST_CLAIMS: usize = 16 * 1024;

/// The longest token that may be called rejected, in bytes: no longer one is ever issued.
const LONGEST_TOKEN: usize = crate::reply::MAX_TOKEN_BYTES;

/// Refuses a request that is too large to be meant, before anybody copies it.
///
/// # Errors
/// [`Cause::InvalidRequest`], with a message that names the part.
pub fn check_sizes(
    audience: &str,
    identifier: Option<&str>,
    claims: Option<&str>,
    rejected_token: Option<&str>,
) -> Result<(), Error> {
    for (name, text, limit) in [
        ("audience", Some(audience), LONGEST_IDENTIFIER),
        ("identifier of the identity", identifier, LONGEST_IDENTIFIER),
        ("claims challenge", claims, LONGEST_CLAIMS),
        ("rejected token", rejected_token, LONGEST_TOKEN),
    ] {
        if text.is_some_and(|text| text.len() > limit) {
            let message = format!("The {name} is longer than {limit} bytes. Pass it as the platform gave it.");
            return Err(Error::new(Cause::InvalidRequest, message));
        }
    }
    Ok(())
}

/// What a scope adds to the resource that it stands for.
const SCOPE_SUFFIX: &str = "/.default";

/// A resource that tokens are asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Audience(String);

impl Audience {
    /// Takes a resource, or one scope that ends in `/.default`.
    ///
    /// Only that suffix is taken off. `https://example.com//.default` therefore asks for `https://example.com/`, which
    /// Entra distinguishes from `https://example.com`.
    ///
    /// # Errors
    /// [`Cause::InvalidRequest`] when it is empty, holds white space or anything but visible ASCII, or is too long.
    pub fn parse(text: &str) -> Result<Self, Error> {
        resource(text).map(|resource| Self(resource.to_owned()))
    }

    /// The resource, as version 1 token requests have it.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.0
    }
}

/// As [`Audience::parse`], without another copy of the text.
impl TryFrom<String> for Audience {
    type Error = Error;

    fn try_from(mut text: String) -> Result<Self, Error> {
        let length = resource(&text)?.len();
        text.truncate(length);
        Ok(Self(text))
    }
}

/// The resource that `text` names, which is how it begins.
fn resource(text: &str) -> Result<&str, Error> {
    let refuse = |why: &str| {
        Err(Error::new(
            Cause::InvalidRequest,
            format!(
                "The audience {why}. Ask for one resource, such as https://vault.azure.net, or one scope that ends in /.default."
            ),
        ))
    };
    if text.is_empty() {
        return refuse("is empty");
    }
    if text.len() > LONGEST_IDENTIFIER {
        return refuse("is too long");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return match text.bytes().any(|byte| byte.is_ascii_whitespace()) {
            true => refuse("contains white space; several scopes cannot be asked for at once"),
            false => refuse("contains something other than visible ASCII characters"),
        };
    }
    match text.strip_suffix(SCOPE_SUFFIX).unwrap_or(text) {
        "" | ".default" => refuse("names no resource"),
        resource => Ok(resource),
    }
}

/// Which of the platform's identities to act as.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Identity {
    /// The one that the platform's configuration names, else the system-assigned one.
    PlatformDefault,
    /// The identity that lives and dies with this machine, app or pod.
    SystemAssigned,
    /// A user-assigned identity, by its client (application) id.
    ClientId(String),
    /// A user-assigned identity, by the object id of its service principal.
    ObjectId(String),
    /// A user-assigned identity, by its Azure resource id.
    ResourceId(String),
}

impl Identity {
    /// Checks the identifier and folds its case, so that one identity has one spelling.
    fn checked(self) -> Result<Self, Error> {
        match self {
            Self::ClientId(id) => guid("client id", &id).map(Self::ClientId),
            Self::ObjectId(id) => guid("object id", &id).map(Self::ObjectId),
            Self::ResourceId(id) => resource_id(id).map(Self::ResourceId),
            other => Ok(other),
        }
    }

    /// The identity for a person to read.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::PlatformDefault => "the default identity".to_owned(),
            Self::SystemAssigned => "the system-assigned identity".to_owned(),
            Self::ClientId(id) => format!("the identity with client id {id}"),
            Self::ObjectId(id) => format!("the identity with object id {id}"),
            Self::ResourceId(id) => format!("the identity {id}"),
        }
    }
}

/// A checked request.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    /// What the token is for.
    pub audience: Audience,
    /// Whose token it is.
    pub identity: Identity,
    /// The claims challenge as JSON text; bypasses the cache.
    pub claims: Option<String>,
    /// A token that must not be returned again.
    pub rejected_token: Option<Secret>,
    /// How long the caller waits.
    pub timeout: Duration,
}

impl TokenRequest {
    /// A request for one audience as the platform's default identity.
    ///
    /// # Errors
    /// [`Cause::InvalidRequest`], as for [`Audience::parse`].
    pub fn new(audience: &str) -> Result<Self, Error> {
        Self::checked(audience, Identity::PlatformDefault, None, None, None)
    }

    /// Checks every part of a request as it comes over the component boundary.
    ///
    /// # Errors
    /// [`Cause::InvalidRequest`], with a message that names the part.
    pub fn checked(
        audience: impl AsRef<str> + Into<String>,
        identity: Identity,
        claims: Option<&str>,
        rejected_token: Option<String>,
        timeout_ms: Option<u32>,
    ) -> Result<Self, Error> {
        let rejected_token = rejected_token.map(Secret::new);
        let identifier = match &identity {
            Identity::PlatformDefault | Identity::SystemAssigned => None,
            Identity::ClientId(id) | Identity::ObjectId(id) | Identity::ResourceId(id) => Some(id.as_str()),
        };
        check_sizes(
            audience.as_ref(),
            identifier,
            claims,
            rejected_token.as_ref().map(Secret::expose),
        )?;
        Ok(Self {
            audience: audience.into().try_into()?,
            identity: identity.checked()?,
            claims: claims.map(claims_challenge).transpose()?,
            rejected_token: rejected_token.filter(|token| !token.is_empty()),
            timeout: timeout_ms
                .map_or(DEFAULT_TIMEOUT, |milliseconds| {
                    Duration::from_millis(milliseconds.into())
                })
                .min(LONGEST_TIMEOUT),
        })
    }
}

/// A GUID in lower case, or an error that names what it was meant to be.
pub(crate) fn guid(what: &str, text: &str) -> Result<String, Error> {
    let is_guid = text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if is_guid {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(Error::new(
            Cause::InvalidRequest,
            format!(
                "The {what} is not a GUID such as 12345678-90ab-cdef-1234-567890abcdef. Copy it from the identity's \
                 overview page; a name or a resource id is not accepted here."
            ),
        ))
    }
}

fn resource_id(text: String) -> Result<String, Error> {
    let starts_well = text
        .get(..15)
        .is_some_and(|start| start.eq_ignore_ascii_case("/subscriptions/"));
    if starts_well && text.len() <= LONGEST_IDENTIFIER && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text)
    } else {
        Err(Error::new(
            Cause::InvalidRequest,
            "The resource id does not have the form /subscriptions/…/resourceGroups/…/providers/\
             Microsoft.ManagedIdentity/userAssignedIdentities/…. Copy it from the identity's properties page.",
        ))
    }
}

/// The JSON text of a claims challenge, which comes as JSON or, from a `WWW-Authenticate` header, in base64.
fn claims_challenge(text: &str) -> Result<String, Error> {
    use base64::Engine as _;
    use base64::alphabet::{STANDARD, URL_SAFE};
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

    let refused = || {
        Error::new(
            Cause::InvalidRequest,
            "The claims challenge is neither a JSON object nor the base64 of one. Pass the value of `claims` of the \
             WWW-Authenticate header as it came.",
        )
    };
    if text.len() > LONGEST_CLAIMS {
        return Err(refused());
    }
    let json = if text.trim_start().starts_with('{') {
        text.to_owned()
    } else {
        let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let bytes = [&STANDARD, &URL_SAFE]
            .into_iter()
            .find_map(|alphabet| GeneralPurpose::new(alphabet, lenient).decode(text.trim()).ok())
            .ok_or_else(refused)?;
        String::from_utf8(bytes).map_err(|_| refused())?
    };
    // This checks the syntax and keeps nothing.
    match serde_json::from_str::<serde::de::IgnoredAny>(&json) {
        Ok(_) if json.trim_start().starts_with('{') => Ok(json),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_kept_and_a_scope_loses_its_suffix_only() {
        for (text, resource) in [
            ("https://vault.azure.net", "https://vault.azure.net"),
            ("https://vault.azure.net/", "https://vault.azure.net/"),
            ("https://vault.azure.net/.default", "https://vault.azure.net"),
            ("https://vault.azure.net//.default", "https://vault.azure.net/"),
            ("https://vault.azure.net/.Default", "https://vault.azure.net/.Default"),
            ("api://AzureADTokenExchange", "api://AzureADTokenExchange"),
            (
                "00000003-0000-0000-c000-000000000000",
                "00000003-0000-0000-c000-000000000000",
            ),
        ] {
            assert_eq!(
                Audience::parse(text).map(|audience| audience.0),
                Ok(resource.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn a_bad_audience_is_refused() {
        let long = "a".repeat(LONGEST_IDENTIFIER + 1);
        for text in [
            "",
            " ",
            "/.default",
            ".default",
            "a b",
            "https://a/.default https://b/.default",
            "https://a\r\nX: y",
            "\u{e9}",
            "a\0b",
            &long,
        ] {
            assert_eq!(
                Audience::parse(text).map_err(|error| error.cause),
                Err(Cause::InvalidRequest),
                "{text:?}"
            );
        }
    }

    #[test]
    fn identifiers_are_checked_and_guids_folded() {
        let identity =
            |identity| TokenRequest::checked("r", identity, None, None, None).map(|request| request.identity);
        let upper = "12345678-90AB-CDEF-1234-567890ABCDEF".to_owned();
        assert_eq!(
            identity(Identity::ClientId(upper.clone())),
            Ok(Identity::ClientId(upper.to_lowercase()))
        );
        assert_eq!(
            identity(Identity::ObjectId(upper.clone())),
            Ok(Identity::ObjectId(upper.to_lowercase()))
        );
        let resource = "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n";
        assert!(identity(Identity::ResourceId(resource.to_owned())).is_ok());
        for bad in [
            "",
            "my-identity",
            "12345678-90ab-cdef-1234-567890abcde",
            "{12345678-90ab-cdef-1234-567890abcdef}",
        ] {
            for kind in [Identity::ClientId, Identity::ObjectId, Identity::ResourceId] {
                let error = identity(kind(bad.to_owned())).expect_err("a malformed identifier");
                assert_eq!(error.cause, Cause::InvalidRequest, "{bad}");
            }
        }
    }

    #[test]
    fn a_claims_challenge_is_read_as_json_and_as_base64() {
        let json = r#"{"access_token":{"nbf":{"essential":true,"value":"1"}}}"#;
        let base64 = "eyJhY2Nlc3NfdG9rZW4iOnsibmJmIjp7ImVzc2VudGlhbCI6dHJ1ZSwidmFsdWUiOiIxIn19fQ==";
        for text in [json, base64, base64.trim_end_matches('=')] {
            assert_eq!(claims_challenge(text).as_deref(), Ok(json));
        }
        for bad in ["", "{", "[]", "%%%", "bnVsbA==", &"{".repeat(LONGEST_CLAIMS + 1)] {
            assert!(claims_challenge(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_timeout_has_a_default_and_an_upper_bound() {
        let timeout = |milliseconds| {
            TokenRequest::checked("r", Identity::PlatformDefault, None, None, milliseconds)
                .expect("a good request")
                .timeout
        };
        assert_eq!(timeout(None), DEFAULT_TIMEOUT);
        assert_eq!(timeout(Some(0)), Duration::ZERO);
        assert_eq!(timeout(Some(1500)), Duration::from_millis(1500));
        assert_eq!(timeout(Some(u32::MAX)), LONGEST_TIMEOUT);
    }
}
