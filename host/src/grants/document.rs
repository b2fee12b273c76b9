//! A policy as a TOML document.

use super::{
    AudiencePattern, AuthorizeRule, Caller, Grant, HostPattern, IdentityPattern, PatternError, Policy, Rate, TokenRule,
};
use crate::audit::shown;
use crate::outbound::Scheme;
use std::fmt;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// The longest text of the document in a message, in bytes.
const LONGEST_TEXT: usize = 256;

/// The most calls that `concurrency` may allow at once.
const LARGEST_CONCURRENCY: u32 = 65_535;

/// Why a document is no policy. Names the line and says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct PolicyError {
    line: usize,
    message: String,
}

impl PolicyError {
    /// The line of the document, counted from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }
}

impl Policy {
    /// Reads a policy from a document. Nothing in it is passed over: a key that is unknown, a list that is empty, a pattern
    /// that could mean something else than it says are errors.
    ///
    /// ```
    /// # let policy = managed_identity_host::grants::Policy::from_toml(r#"
    /// [caller.report]                 # the caller's name, as the host gives it
    /// rate = "100/minute"             # of all that it asks; without it, no limit. Also: second, hour
    /// refresh-rate = "10/minute"      # of what no cache answers: challenges, rejected tokens, forget; else 30/minute
    /// concurrency = 16                # calls under way at once; else 64
    ///
    /// [[caller.report.token]]         # tokens that it gets
    /// audiences = ["https://vault.azure.net", "https://*.database.windows.net"]
    /// identities = ["system-assigned", "client-id:12345678-90ab-cdef-1234-567890abcdef"]    # else platform-default
    ///
    /// [[caller.report.authorize-only]]    # requests that are sent with a token which it does not see
    /// hosts = ["*.vault.azure.net"]
    /// audience = "https://vault.azure.net"
    /// identity = "platform-default"       # which is what it is without this line
    ///
    /// [[caller.report.http]]          # requests that are sent as they are
    /// hosts = ["https://api.example.com"]
    /// # "#)?;
    /// # assert_eq!(policy.callers().count(), 1);
    /// # Ok::<(), managed_identity_host::grants::PolicyError>(())
    /// ```
    ///
    /// What the patterns mean is said at [`AudiencePattern`], [`IdentityPattern`] and [`HostPattern`].
    ///
    /// # Errors
    /// When the document is none. The message begins with the line.
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        let document = Document { text };
        let root = DeTable::parse(text).map_err(|error| document.syntax(&error))?;
        let mut policy = Self::default();
        for (key, value) in entries(root.get_ref()) {
            if key.get_ref() != "caller" {
                return Err(document.unknown_key(key, "the policy", &["caller"]));
            }
            for (name, value) in entries(document.table(value, "`caller`", "[caller.NAME]")?) {
                let caller = document.caller(name)?;
                let grant = document.grant(value, &section(caller.name()).to_string())?;
                policy = policy.with(caller, grant);
            }
        }
        Ok(policy)
    }
}

/// The name of the table that is about a caller, without brackets.
pub(super) fn section(caller: &str) -> impl fmt::Display {
    fmt::from_fn(move |formatter| {
        let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let name = shown(caller, LONGEST_TEXT);
        if !name.is_empty() && name.bytes().all(is_bare) {
            write!(formatter, "caller.{name}")
        } else {
            // What `shown` has cut or escaped is no name any more, and nothing that could be copied.
            let is_whole = name == caller;
            let name = if is_whole {
                name.replace('\\', "\\\\")
            } else {
                name.into_owned()
            };
            write!(formatter, "caller.\"{}\"", name.replace('"', "\\\""))
        }
    })
}

/// What a table holds, in the order in which it stands in the document.
fn entries<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t Spanned<DeString<'i>>, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// The text, for the lines of what is wrong with it.
#[derive(Clone, Copy)]
struct Document<'t> {
    text: &'t str,
}

impl Document<'_> {
    fn caller(self, name: &Spanned<DeString<'_>>) -> Result<Caller, PolicyError> {
        let text = name.get_ref();
        if text.is_empty() || text.chars().any(char::is_control) {
            let message =
                "a caller has an empty name, or one with control characters; write the name that the host gives it";
            return Err(self.error(name.span(), message));
        }
        Ok(Caller::new(text))
    }

    fn grant(self, value: &Spanned<DeValue<'_>>, section: &str) -> Result<Grant, PolicyError> {
        const KEYS: &[&str] = &["rate", "refresh-rate", "concurrency", "token", "authorize-only", "http"];
        let place = format!("[{section}]");
        let mut grant = Grant::default();
        for (key, value) in entries(self.table(value, &format!("`{section}`"), &place)?) {
            match key.get_ref().as_ref() {
                "rate" => grant.rate = Some(self.rate(key, value, &place)?),
                "refresh-rate" => grant.refresh_rate = self.rate(key, value, &place)?,
                "concurrency" => grant.in_flight = self.concurrency(value, &place)?,
                "token" => {
                    let place = format!("[[{section}.token]]");
                    for rule in self.tables(value, &place)? {
                        grant.token.push(self.token_rule(rule, &place)?);
                    }
                }
                "authorize-only" => {
                    let place = format!("[[{section}.authorize-only]]");
                    for rule in self.tables(value, &place)? {
                        grant.authorize_only.push(self.authorize_rule(rule, &place)?);
                    }
                }
                "http" => {
                    let place = format!("[[{section}.http]]");
                    for rule in self.tables(value, &place)? {
                        grant.http.extend(self.http_rule(rule, &place)?);
                    }
                }
                _ => return Err(self.unknown_key(key, &format!("`{place}`"), KEYS)),
            }
        }
        Ok(grant)
    }

    fn token_rule(self, rule: Rule<'_, '_>, place: &str) -> Result<TokenRule, PolicyError> {
        let mut audiences = None;
        let mut identities = None;
        for (key, value) in entries(rule.table) {
            match key.get_ref().as_ref() {
                "audiences" => audiences = Some(self.list(key, value, place, AudiencePattern::parse)?),
                "identities" => identities = Some(self.list(key, value, place, IdentityPattern::parse)?),
                _ => return Err(self.unknown_key(key, &format!("`{place}`"), &["audiences", "identities"])),
            }
        }
        let Some(audiences) = audiences else {
            return Err(self.missing(&rule, place, "audiences = [\"https://vault.azure.net\"]"));
        };
        let rule = TokenRule::new(audiences);
        Ok(match identities {
            Some(identities) => rule.with_identities(identities),
            None => rule,
        })
    }

    fn authorize_rule(self, rule: Rule<'_, '_>, place: &str) -> Result<AuthorizeRule, PolicyError> {
        let mut hosts = None;
        let mut audience = None;
        let mut identity = None;
        let https = |text: &str| match HostPattern::parse(text)? {
            pattern if pattern.scheme() == Scheme::Https => Ok(pattern),
            _ => Err(PatternError::new(
                "is not `https`, without which no token is sent; leave `http://` out",
            )),
        };
        let exact = |text: &str| match AudiencePattern::parse(text)?.exact() {
            Some(audience) => Ok(audience.to_owned()),
            None => Err(PatternError::new(
                "has a wildcard; write the one audience that the hosts take tokens for",
            )),
        };
        let one = |text: &str| match IdentityPattern::parse(text)? {
            IdentityPattern::Exactly(identity) => Ok(identity),
            IdentityPattern::Any => Err(PatternError::new("is no identity; write the one whose token is sent")),
        };
        for (key, value) in entries(rule.table) {
            match key.get_ref().as_ref() {
                "hosts" => hosts = Some(self.list(key, value, place, https)?),
                "audience" => audience = Some(self.text(key, value, place, exact)?),
                "identity" => identity = Some(self.text(key, value, place, one)?),
                _ => return Err(self.unknown_key(key, &format!("`{place}`"), &["hosts", "audience", "identity"])),
            }
        }
        let Some(hosts) = hosts else {
            return Err(self.missing(&rule, place, "hosts = [\"*.vault.azure.net\"]"));
        };
        let Some(audience) = audience else {
            return Err(self.missing(&rule, place, "audience = \"https://vault.azure.net\""));
        };
        Ok(AuthorizeRule::new(hosts, audience).with_identity(identity.unwrap_or_default()))
    }

    fn http_rule(self, rule: Rule<'_, '_>, place: &str) -> Result<Vec<HostPattern>, PolicyError> {
        let mut hosts = None;
        for (key, value) in entries(rule.table) {
            match key.get_ref().as_ref() {
                "hosts" => hosts = Some(self.list(key, value, place, HostPattern::parse)?),
                _ => return Err(self.unknown_key(key, &format!("`{place}`"), &["hosts"])),
            }
        }
        hosts.ok_or_else(|| self.missing(&rule, place, "hosts = [\"api.example.com\"]"))
    }

    fn rate(self, key: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>, place: &str) -> Result<Rate, PolicyError> {
        match value.get_ref() {
            DeValue::String(_) => self.text(key, value, place, Rate::parse),
            other => {
                let (key, kind) = (key.get_ref(), kind(other));
                let message = format!("`{key}` of `{place}` is {kind}; write it like `{key} = \"100/minute\"`");
                Err(self.error(value.span(), message))
            }
        }
    }

    fn concurrency(self, value: &Spanned<DeValue<'_>>, place: &str) -> Result<u32, PolicyError> {
        let number = match value.get_ref() {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        number
            .filter(|number| (1..=LARGEST_CONCURRENCY).contains(number))
            .ok_or_else(|| {
                let message = format!(
                    "`concurrency` of `{place}` is no number from 1 to {LARGEST_CONCURRENCY}; write it like `concurrency = 64`"
                );
                self.error(value.span(), message)
            })
    }

    /// One text, read by `parse`.
    fn text<T>(
        self,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        place: &str,
        parse: impl Fn(&str) -> Result<T, PatternError>,
    ) -> Result<T, PolicyError> {
        let key = key.get_ref();
        let DeValue::String(text) = value.get_ref() else {
            let kind = kind(value.get_ref());
            let message = format!("`{key}` of `{place}` is {kind}; write one text, as in `{key} = \"…\"`");
            return Err(self.error(value.span(), message));
        };
        parse(text).map_err(|error| {
            let text = shown(text, LONGEST_TEXT);
            self.error(
                value.span(),
                format!("\"{text}\", which is `{key}` of `{place}`, {error}"),
            )
        })
    }

    /// A list of at least one text, each read by `parse`.
    fn list<T>(
        self,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        place: &str,
        parse: impl Fn(&str) -> Result<T, PatternError>,
    ) -> Result<Vec<T>, PolicyError> {
        let key = key.get_ref();
        let refuse = |span, kind: &str| {
            let message = format!("`{key}` of `{place}` {kind}; write a list of texts, as in `{key} = [\"…\"]`");
            Err(self.error(span, message))
        };
        let DeValue::Array(items) = value.get_ref() else {
            return refuse(value.span(), &format!("is {}", kind(value.get_ref())));
        };
        if items.is_empty() {
            let message = format!(
                "`{key}` of `{place}` is an empty list, which grants nothing; write what is granted, or leave the `{place}` out"
            );
            return Err(self.error(value.span(), message));
        }
        let mut list = Vec::with_capacity(items.len());
        for item in items.iter() {
            let DeValue::String(text) = item.get_ref() else {
                return refuse(item.span(), &format!("has {} in its list", kind(item.get_ref())));
            };
            list.push(parse(text).map_err(|error| {
                let text = shown(text, LONGEST_TEXT);
                self.error(item.span(), format!("\"{text}\" in `{key}` of `{place}` {error}"))
            })?);
        }
        Ok(list)
    }

    fn table<'t, 'i>(
        self,
        value: &'t Spanned<DeValue<'i>>,
        what: &str,
        write: &str,
    ) -> Result<&'t DeTable<'i>, PolicyError> {
        match value.get_ref() {
            DeValue::Table(table) => Ok(table),
            other => {
                let message = format!("{what} is {}; write it as a table, `{write}`", kind(other));
                Err(self.error(value.span(), message))
            }
        }
    }

    /// The tables of an array of at least one.
    fn tables<'t, 'i>(self, value: &'t Spanned<DeValue<'i>>, place: &str) -> Result<Vec<Rule<'t, 'i>>, PolicyError> {
        let refuse = |span, kind: &str| {
            let message = format!("what should be `{place}` is {kind}; write `{place}`, once for each rule");
            Err(self.error(span, message))
        };
        let DeValue::Array(items) = value.get_ref() else {
            return refuse(value.span(), kind(value.get_ref()));
        };
        if items.is_empty() {
            return refuse(value.span(), "an empty list");
        }
        let mut rules = Vec::with_capacity(items.len());
        for item in items.iter() {
            let DeValue::Table(table) = item.get_ref() else {
                return refuse(item.span(), &format!("a list with {} in it", kind(item.get_ref())));
            };
            rules.push(Rule {
                table,
                span: item.span(),
            });
        }
        Ok(rules)
    }

    fn unknown_key(self, key: &Spanned<DeString<'_>>, place: &str, known: &[&str]) -> PolicyError {
        let name = shown(key.get_ref(), LONGEST_TEXT);
        let instead = match nearest(&name, known) {
            Some(near) => format!("write `{near}`"),
            None => format!("its keys are `{}`", known.join("`, `")),
        };
        self.error(key.span(), format!("`{name}` is no key of {place}; {instead}"))
    }

    fn missing(self, rule: &Rule<'_, '_>, place: &str, example: &str) -> PolicyError {
        let key = example.split(' ').next().unwrap_or_default();
        let message = format!("this `{place}` has no `{key}`; add it, as in `{example}`");
        self.error(rule.span.clone(), message)
    }

    fn syntax(self, error: &toml::de::Error) -> PolicyError {
        let span = error.span().unwrap_or(0..0);
        let what = error.message().lines().collect::<Vec<_>>().join(", ");
        if what == "duplicate key" {
            let name = shown(self.text.get(span.clone()).unwrap_or_default(), LONGEST_TEXT);
            return self.error(
                span,
                format!("`{name}` stands here for the second time; write it once, with all that belongs to it"),
            );
        }
        let what = shown(&what, LONGEST_TEXT);
        self.error(span, format!("this is not TOML (https://toml.io): {what}"))
    }

    fn error(self, span: Range<usize>, message: impl Into<String>) -> PolicyError {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        PolicyError {
            line: 1 + before.iter().filter(|&&byte| byte == b'\n').count(),
            message: message.into(),
        }
    }
}

/// One table of an array of tables.
struct Rule<'t, 'i> {
    table: &'t DeTable<'i>,
    span: Range<usize>,
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The known key that was most likely meant, if one is near.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let key = key.to_ascii_lowercase().replace('_', "-");
    known
        .iter()
        .map(|known| (distance(&key, known), *known))
        .filter(|(distance, known)| distance * 3 <= known.len())
        .min()
        .map(|(_, known)| known)
}

/// How many letters have to be added, taken away or replaced to make the one text the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut last = i + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(b.bytes()) {
            let next = (diagonal + usize::from(left != right)).min(last + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, next);
            last = next;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
