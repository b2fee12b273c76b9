//! The query of a request, decoded as forms are (`application/x-www-form-urlencoded`), and strictly: what two servers could
//! read in two ways is refused.

use managed_identity_host::document::shown;
use std::borrow::Cow;

/// More parameters than any token request has.
const MOST_PARAMETERS: usize = 32;

/// Decoded parameters. The case of names does not count, because Azure's servers do not count it: a selector in capital
/// letters that was overlooked would give a token of another identity.
#[derive(Debug)]
pub(super) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// Why a query is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryFault {
    /// `%` without two hexadecimal digits, or octets that are not UTF-8.
    #[error("The query has a parameter that is not percent-encoded UTF-8")]
    Encoding,
    /// Two parameters of one name, of which another server may have read the other one. The name is escaped, because it is
    /// logged: a line break in it would begin a line that looks like one of ours.
    #[error("Query parameter '{0}' is specified more than once")]
    Duplicate(String),
    #[error("The query has more than {MOST_PARAMETERS} parameters")]
    TooMany,
}

impl<'a> Query<'a> {
    pub(super) fn parse(raw: &'a str) -> Result<Self, QueryFault> {
        let mut parameters: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::with_capacity(4);
        for parameter in raw.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            if parameters
                .iter()
                .any(|(earlier, _)| earlier.eq_ignore_ascii_case(&name))
            {
                return Err(QueryFault::Duplicate(shown(&name).into_owned()));
            }
            if parameters.len() == MOST_PARAMETERS {
                return Err(QueryFault::TooMany);
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut parameters = self.0.iter();
        let (_, value) = parameters.find(|(sent, _)| sent.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// The value of a parameter that has to say something.
    pub(super) fn required(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }
}

fn decoded(text: &str) -> Result<Cow<'_, str>, QueryFault> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Ok(Cow::Borrowed(text));
    }
    let mut octets = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        octets.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit(), digit());
                let octet = high.zip(low).map(|(high, low)| high * 16 + low);
                octet
                    .and_then(|octet| u8::try_from(octet).ok())
                    .ok_or(QueryFault::Encoding)?
            }
            other => other,
        });
    }
    match String::from_utf8(octets) {
        Ok(text) => Ok(Cow::Owned(text)),
        Err(_) => Err(QueryFault::Encoding),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails where something is not as expected")]

    use super::*;

    #[test]
    fn values_are_decoded_and_names_found_in_any_case() {
        let query =
            Query::parse("resource=https%3A%2F%2Fvault.azure.net&&empty=&flag&plus=a+b&Client%5FID=%C3%A9&e=a=b")
                .unwrap();
        for (name, value) in [
            ("resource", Some("https://vault.azure.net")),
            ("Resource", Some("https://vault.azure.net")),
            ("empty", Some("")),
            ("flag", Some("")),
            ("plus", Some("a b")),
            ("client_id", Some("\u{e9}")),
            ("e", Some("a=b")),
            ("missing", None),
        ] {
            assert_eq!(query.get(name), value, "{name}");
        }
        assert_eq!(query.required("empty"), None);
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let duplicate = |name: &str| QueryFault::Duplicate(name.to_owned());
        let many: String = (0..=MOST_PARAMETERS).map(|number| format!("p{number}&")).collect();
        for (raw, fault) in [
            ("a=%", QueryFault::Encoding),
            ("a=%4", QueryFault::Encoding),
            ("a=%zz", QueryFault::Encoding),
            ("a=%+1", QueryFault::Encoding),
            ("a=%ff", QueryFault::Encoding),
            ("%ff=a", QueryFault::Encoding),
            ("a=%c3", QueryFault::Encoding),
            ("a=1&b=2&a=1", duplicate("a")),
            ("resource=1&Resource=2", duplicate("Resource")),
            ("resource=1&%72esource=2", duplicate("resource")),
            (many.as_str(), QueryFault::TooMany),
        ] {
            assert_eq!(Query::parse(raw).unwrap_err(), fault, "{raw}");
        }
    }
}
