//! The filter's configuration: JSON, read strictly. Messages name the key and the cure.

use crate::brokers::Environment;
use crate::rule::{Host, Rule};
use managed_identity_host::grants::{AudiencePattern, IdentityPattern};
use managed_identity_host::{Identity, TokenRequest};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;

/// How long a request is held for its token, unless the configuration says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest that it may say.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// What a configuration may say.
const KEYS: [&str; 7] = [
    "rules",
    "header",
    "on-failure",
    "timeout",
    "claims-challenge",
    "outbound",
    "environment",
];

/// What the filter does.
pub(crate) struct Settings {
    pub(crate) rules: Vec<Arc<Rule>>,
    pub(crate) header: String,
    pub(crate) pass: bool,
    pub(crate) timeout: Duration,
    pub(crate) claims_challenge: bool,
    pub(crate) outbound: Outbound,
    pub(crate) environment: Environment,
}

/// By what way the identity endpoint is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outbound {
    /// By the module's own client.
    Host,
    /// Through a cluster of Envoy's. Each request may take this long, if the host does not say less.
    Cluster { name: String, timeout: Option<Duration> },
}

/// What the filter does on one route.
pub(crate) enum RouteSettings {
    Off,
    Rule(Arc<Rule>),
}

/// Why a configuration is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(String);

fn error(message: impl Into<String>) -> ConfigError {
    ConfigError(message.into())
}

impl Settings {
    pub(crate) fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let mut document = document(text, "`{\"rules\": [{\"audience\": …}]}`")?;
        only(&document, "", &KEYS)?;
        let mut rules = Vec::new();
        match document.remove("rules") {
            None => {}
            Some(Value::Array(entries)) => {
                for (index, entry) in entries.into_iter().enumerate() {
                    rules.push(Arc::new(rule(entry, &format!("rules[{index}]"))?));
                }
            }
            Some(_) => return Err(error("`rules` is not a list; write one object for each rule")),
        }
        let header = text_of(&mut document, "header", "")?.unwrap_or_else(|| "authorization".to_owned());
        let is_token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        if header.is_empty() || !header.bytes().all(is_token) || header == "host" {
            return Err(error(format!(
                "`header` is `{header}`; write the name of a header in lower case, such as `authorization`"
            )));
        }
        let pass = match text_of(&mut document, "on-failure", "")?.as_deref() {
            None | Some("deny") => false,
            Some("pass") => true,
            Some(other) => return Err(error(format!("`on-failure` is `{other}`; write `deny` or `pass`"))),
        };
        let timeout = time_of(&mut document, "timeout", "")?.unwrap_or(DEFAULT_TIMEOUT);
        let claims_challenge = match document.remove("claims-challenge") {
            None => true,
            Some(Value::Bool(value)) => value,
            Some(_) => {
                return Err(error(
                    "`claims-challenge` is no truth value; write `true` or `false`, without quotes",
                ));
            }
        };
        let outbound = outbound(document.remove("outbound"))?;
        let environment = match document.remove("environment") {
            None => Environment::new(),
            Some(Value::Object(variables)) => variables
                .into_iter()
                .map(|(name, value)| match value {
                    Value::String(value) => Ok((name, value)),
                    _ => Err(error(format!("`environment.{name}` is not text; write it in quotes"))),
                })
                .collect::<Result<_, _>>()?,
            Some(_) => {
                return Err(error(
                    "`environment` is not an object of variables; write `{\"NAME\": \"value\"}`",
                ));
            }
        };
        Ok(Self {
            rules,
            header,
            pass,
            timeout,
            claims_challenge,
            outbound,
            environment,
        })
    }
}

impl RouteSettings {
    pub(crate) fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        if text.trim_ascii() == b"off" {
            return Ok(Self::Off);
        }
        let mut document = document(text, "`{\"audience\": …}` or `{\"off\": true}`")?;
        if let Some(off) = document.remove("off") {
            if let Some(key) = document.keys().next() {
                return Err(error(format!("`{key}` has no meaning beside `off`; write one of both")));
            }
            return match off {
                Value::Bool(true) => Ok(Self::Off),
                _ => Err(error("`off` can only be `true`; leave it out otherwise")),
            };
        }
        only(&document, "", &["audience", "identity", "off"])?;
        let request = request(&mut document, "")?;
        Ok(Self::Rule(Arc::new(Rule::new(request))))
    }
}

fn outbound(value: Option<Value>) -> Result<Outbound, ConfigError> {
    match value {
        None => Ok(Outbound::Host),
        Some(Value::String(text)) if text == "host" => Ok(Outbound::Host),
        Some(Value::Object(mut entry)) => {
            only(&entry, "outbound.", &["cluster", "timeout"])?;
            let name = text_of(&mut entry, "cluster", "outbound.")?.filter(|name| !name.is_empty());
            let name =
                name.ok_or_else(|| error("`outbound.cluster` is missing; write the name of one of Envoy's clusters"))?;
            let timeout = time_of(&mut entry, "timeout", "outbound.")?;
            Ok(Outbound::Cluster { name, timeout })
        }
        Some(_) => Err(error(
            "`outbound` names no way; write `\"host\"`, or `{\"cluster\": …}` with the name of one of Envoy's clusters",
        )),
    }
}

/// `example` is one for whoever has written something else.
fn document(text: &[u8], example: &str) -> Result<Map<String, Value>, ConfigError> {
    if text.trim_ascii().is_empty() {
        return Err(error(format!(
            "There is no configuration; write JSON such as {example} into `filter_config`"
        )));
    }
    let value = serde_json::from_slice(text).map_err(|fault| {
        error(format!(
            "The configuration is not JSON: {fault}; write such as {example}"
        ))
    })?;
    match value {
        Value::Object(document) => Ok(document),
        _ => Err(error(format!(
            "The configuration is JSON, but not an object; write one such as {example}"
        ))),
    }
}

fn rule(entry: Value, place: &str) -> Result<Rule, ConfigError> {
    let Value::Object(mut entry) = entry else {
        return Err(error(format!(
            "`{place}` is not an object; write one such as `{{\"audience\": …}}`"
        )));
    };
    let place = &format!("{place}.");
    only(&entry, place, &["host", "path", "route", "audience", "identity"])?;
    let mut rule = Rule::new(request(&mut entry, place)?);
    rule.host = text_of(&mut entry, "host", place)?
        .map(|text| {
            host(&text).ok_or_else(|| {
                error(format!(
                    "`{place}host` is `{text}`; write a host without scheme and port, or `*.` and a domain, or leave it out \
                     for any host"
                ))
            })
        })
        .transpose()?;
    rule.path = text_of(&mut entry, "path", place)?;
    if let Some(path) = rule
        .path
        .as_ref()
        .filter(|path| !path.starts_with('/') || path.contains(['?', '#', '*']))
    {
        return Err(error(format!(
            "`{place}path` is `{path}`; write a prefix that begins with `/`, and nothing for what is below it"
        )));
    }
    rule.route = text_of(&mut entry, "route", place)?;
    Ok(rule)
}

fn host(text: &str) -> Option<Host> {
    let (name, is_below) = text.strip_prefix("*.").map_or((text, false), |domain| (domain, true));
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.[]:".contains(&byte);
    let is_plain = !name.contains(':') || (name.starts_with('[') && name.ends_with(']'));
    let is_name = is_plain && !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_of_name);
    is_name.then(|| match is_below {
        true => Host::Below(name.to_owned()),
        false => Host::Exactly(name.to_owned()),
    })
}

fn request(entry: &mut Map<String, Value>, place: &str) -> Result<TokenRequest, ConfigError> {
    let audience = text_of(entry, "audience", place)?.filter(|audience| !audience.is_empty());
    let Some(audience) = audience else {
        return Err(error(format!(
            "`{place}audience` is missing; write for whom the token is, such as `https://vault.azure.net`"
        )));
    };
    check_audience(&audience, place)?;
    let identity = match text_of(entry, "identity", place)? {
        None => Identity::PlatformDefault,
        Some(text) => identity(&text, place)?,
    };
    Ok(TokenRequest::new(audience).with_identity(identity))
}

fn check_audience(text: &str, place: &str) -> Result<(), ConfigError> {
    let wrong = |what: &str| Err(error(format!("`{place}audience` is `{text}`, which {what}")));
    // A scope stands for its resource.
    match AudiencePattern::parse(text.strip_suffix("/.default").unwrap_or(text)) {
        Ok(pattern) if pattern.exact().is_some() => Ok(()),
        Ok(_) => wrong("is more than one audience; write the one that the token is for"),
        Err(fault) => wrong(&fault.to_string()),
    }
}

fn identity(text: &str, place: &str) -> Result<Identity, ConfigError> {
    let has_kind = ["client-id:", "object-id:", "resource-id:"]
        .iter()
        .any(|kind| text.starts_with(kind));
    match IdentityPattern::parse(text) {
        Ok(IdentityPattern::Exactly(identity)) => Ok(identity),
        Err(fault) if has_kind => Err(error(format!("`{place}identity` is `{text}`, which {fault}"))),
        Ok(IdentityPattern::Any) | Err(_) => Err(error(format!(
            "`{place}identity` is `{text}`; write `system-assigned`, or `client-id:`, `object-id:` or `resource-id:` and \
             the id"
        ))),
    }
}

fn text_of(entry: &mut Map<String, Value>, key: &str, place: &str) -> Result<Option<String>, ConfigError> {
    match entry.remove(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(error(format!("`{place}{key}` is not text; write it in quotes"))),
    }
}

fn time_of(entry: &mut Map<String, Value>, key: &str, place: &str) -> Result<Option<Duration>, ConfigError> {
    let Some(text) = text_of(entry, key, place)? else {
        return Ok(None);
    };
    let time = humantime::parse_duration(&text).ok();
    match time.filter(|time| (Duration::from_millis(1)..=LONGEST_TIMEOUT).contains(time)) {
        Some(time) => Ok(Some(time)),
        None => Err(error(format!(
            "`{place}{key}` is `{text}`; write a time up to an hour, such as `10s`"
        ))),
    }
}

/// Keys are looked at before anything else: a misspelt one is why another is missing.
fn only(entry: &Map<String, Value>, place: &str, known: &[&str]) -> Result<(), ConfigError> {
    let Some(key) = entry.keys().find(|key| !known.contains(&key.as_str())) else {
        return Ok(());
    };
    let (last, others) = known.split_last().map_or(("", known), |(last, others)| (*last, others));
    Err(error(format!(
        "`{place}{key}` is no key here; write `{}` or `{last}`",
        others.join("`, `")
    )))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the configurations are literals")]

    use super::*;

    #[test]
    fn what_is_not_said_has_a_default() {
        let settings = Settings::parse(br#"{"rules":[{"audience":"https://a.example"}]}"#).unwrap();
        assert_eq!(settings.rules.len(), 1);
        assert_eq!((settings.header.as_str(), settings.pass), ("authorization", false));
        assert_eq!((settings.timeout, settings.claims_challenge), (DEFAULT_TIMEOUT, true));
        assert_eq!(settings.outbound, Outbound::Host);
        assert!(settings.environment.is_empty());
    }

    #[test]
    fn everything_that_is_said_counts() {
        let settings = Settings::parse(
            br#"{"rules":[{"host":"*.vault.azure.net","path":"/p","route":"r","audience":"a","identity":"client-id:12345678-90AB-CDEF-1234-567890abcdef"}],
            "header":"x-token","on-failure":"pass","timeout":"1s","claims-challenge":false,"outbound":"host",
            "environment":{"IDENTITY_ENDPOINT":"http://127.0.0.1/"}}"#,
        )
        .unwrap();
        let rule = &settings.rules[0];
        assert_eq!(rule.host, Some(Host::Below("vault.azure.net".to_owned())));
        let client = "12345678-90ab-cdef-1234-567890abcdef".to_owned();
        assert_eq!(rule.request.identity, Identity::ClientId(client));
        assert_eq!((settings.pass, settings.timeout), (true, Duration::from_secs(1)));
        assert_eq!(settings.environment["IDENTITY_ENDPOINT"], "http://127.0.0.1/");
    }

    #[test]
    fn the_endpoint_is_asked_by_the_host_or_through_a_cluster() {
        let second = Duration::from_secs(1);
        for (text, timeout) in [
            (r#"{"outbound":{"cluster":"c"}}"#, None),
            (r#"{"outbound":{"cluster":"c","timeout":"1s"}}"#, Some(second)),
        ] {
            let name = "c".to_owned();
            let settings = Settings::parse(text.as_bytes()).unwrap();
            assert_eq!(settings.outbound, Outbound::Cluster { name, timeout });
        }
    }

    #[test]
    fn whatever_is_wrong_is_named() {
        for (text, expected) in [
            ("", "There is no configuration"),
            ("{", "not JSON"),
            ("[]", "not an object"),
            (r#"{"rule":[]}"#, "`rule` is no key here"),
            (r#"{"rules":{}}"#, "`rules` is not a list"),
            (r#"{"rules":[1]}"#, "`rules[0]` is not an object"),
            (r#"{"rules":[{}]}"#, "`rules[0].audience` is missing"),
            (
                r#"{"rules":[{"audiense":"a"}]}"#,
                "`rules[0].audiense` is no key here; write `host`, `path`, `route`, `audience` or `identity`",
            ),
            (r#"{"rules":[{"audience":1}]}"#, "`rules[0].audience` is not text"),
            (r#"{"rules":[{"audience":"a","x":1}]}"#, "`rules[0].x` is no key"),
            (
                r#"{"rules":[{"audience":"a","identity":"x"}]}"#,
                "`rules[0].identity` is `x`",
            ),
            (
                r#"{"rules":[{"audience":"a","host":"https://x"}]}"#,
                "`rules[0].host` is `https://x`",
            ),
            (
                r#"{"rules":[{"audience":"a","host":"a:80"}]}"#,
                "`rules[0].host` is `a:80`",
            ),
            (r#"{"rules":[{"audience":"a","path":"x"}]}"#, "`rules[0].path` is `x`"),
            (
                r#"{"rules":[{"audience":"a","path":"/x/*"}]}"#,
                "`rules[0].path` is `/x/*`",
            ),
            (
                r#"{"rules":[{"audience":"a b"}]}"#,
                "`rules[0].audience` is `a b`, which is no audience",
            ),
            (
                r#"{"rules":[{"audience":"https://*.a.example"}]}"#,
                "which is more than one audience",
            ),
            (
                r#"{"rules":[{"audience":"a","identity":"any"}]}"#,
                "`rules[0].identity` is `any`; write",
            ),
            (
                r#"{"rules":[{"audience":"a","identity":"client-id:x"}]}"#,
                "`rules[0].identity` is `client-id:x`, which is no identity",
            ),
            (r#"{"header":"A b"}"#, "`header` is `A b`"),
            (r#"{"on-failure":"allow"}"#, "`on-failure` is `allow`"),
            (r#"{"timeout":"0s"}"#, "`timeout` is `0s`"),
            (r#"{"timeout":"2h"}"#, "`timeout` is `2h`"),
            (r#"{"claims-challenge":1}"#, "`claims-challenge`"),
            (r#"{"outbound":"x"}"#, "`outbound` names no way"),
            (r#"{"outbound":{}}"#, "`outbound.cluster` is missing"),
            (r#"{"outbound":{"cluster":""}}"#, "`outbound.cluster` is missing"),
            (r#"{"outbound":{"cluster":1}}"#, "`outbound.cluster` is not text"),
            (
                r#"{"outbound":{"cluster":"c","timeout":"0s"}}"#,
                "`outbound.timeout` is `0s`",
            ),
            (
                r#"{"outbound":{"cluster":"c","host":"h"}}"#,
                "`outbound.host` is no key",
            ),
            (r#"{"environment":{"A":1}}"#, "`environment.A`"),
        ] {
            let message = Settings::parse(text.as_bytes()).err().unwrap().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn a_route_has_a_token_of_its_own_or_none() {
        assert!(matches!(RouteSettings::parse(b"off"), Ok(RouteSettings::Off)));
        assert!(matches!(
            RouteSettings::parse(br#"{"off":true}"#),
            Ok(RouteSettings::Off)
        ));
        assert!(matches!(
            RouteSettings::parse(br#"{"audience":"a","identity":"system-assigned"}"#),
            Ok(RouteSettings::Rule(rule)) if rule.request.identity == Identity::SystemAssigned
        ));
        for (wrong, expected) in [
            ("", "There is no configuration"),
            ("[]", "write one such as `{\"audience\": …}` or `{\"off\": true}`"),
            ("{}", "`audience` is missing"),
            (r#"{"off":false}"#, "`off` can only be `true`"),
            (
                r#"{"off":true,"audience":"a"}"#,
                "`audience` has no meaning beside `off`",
            ),
            (
                r#"{"audience":"a","host":"h"}"#,
                "`host` is no key here; write `audience`, `identity` or `off`",
            ),
        ] {
            let message = RouteSettings::parse(wrong.as_bytes()).err().unwrap().to_string();
            assert!(message.contains(expected), "{wrong}: {message}");
        }
    }
}
