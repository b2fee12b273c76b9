//! What a server that rejects a token asks for instead.
//!
//! A server of Entra's continuous access evaluation answers 401 with a challenge like this one ("Claims challenges, claims
//! requests and client capabilities", Microsoft identity platform), among others, in one field or several:
//!
//! ```text
//! WWW-Authenticate: Bearer realm="", error="insufficient_claims", claims="eyJhY2Nlc3NfdG9rZW4iOnsibmJmIjp7…"
//! ```

use http::{HeaderMap, header};

/// The claims of the first claims challenge, in base64 as they were sent.
///
/// One pass over fields whose number and size are limited already. What is no list of challenges (RFC 9110 section 11.6.1)
/// is passed over from there on, field by field.
pub(super) fn claims_challenge(fields: &HeaderMap) -> Option<String> {
    fields
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .find_map(|value| claims_challenge_of(value.as_bytes()))
}

/// The claims of the first claims challenge in the value of one `WWW-Authenticate` field, in base64 as they were sent. They
/// are what [`TokenRequest::with_claims`](crate::TokenRequest::with_claims) takes.
#[must_use]
pub fn claims_challenge_of(value: &[u8]) -> Option<String> {
    challenges(value).iter().find_map(Challenge::claims)
}

/// A scheme and its parameters.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    /// In lower case, as are the names of the parameters.
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn claims(&self) -> Option<String> {
        let is_for_claims = self.scheme == "bearer" && self.parameter("error") == Some("insufficient_claims");
        self.parameter("claims")
            .filter(|claims| is_for_claims && !claims.is_empty())
            .map(str::to_owned)
    }

    /// The value of a parameter. One that is there twice is not there: nobody can tell which of both is meant.
    fn parameter(&self, name: &str) -> Option<&str> {
        let mut found = self.parameters.iter().filter(|(own, _)| own == name);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value)
    }
}

/// The challenges of one field, as far as they can be read.
fn challenges(field: &[u8]) -> Vec<Challenge> {
    let mut rest = Rest(field);
    let mut challenges = Vec::new();
    while rest.commas() {
        let Some(challenge) = rest.challenge() else { break };
        challenges.push(challenge);
    }
    challenges
}

/// What has not been read of a field.
#[derive(Clone, Copy)]
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// Passes over commas and spaces between elements of a list, and says whether there is anything behind them.
    fn commas(&mut self) -> bool {
        self.take_while(|byte| matches!(byte, b',' | b' ' | b'\t'));
        !self.0.is_empty()
    }

    fn challenge(&mut self) -> Option<Challenge> {
        let scheme = lower_case(self.token()?);
        let spaces = self.spaces();
        let mut parameters = Vec::new();
        if self.is_at_end_of_element() {
            return Some(Challenge { scheme, parameters });
        }
        if spaces.is_empty() {
            return None;
        }
        if self.token68() {
            return Some(Challenge { scheme, parameters });
        }
        while let Some(parameter) = self.parameter() {
            parameters.push(parameter);
            self.spaces();
            if !self.is_at_end_of_element() {
                return None;
            }
            // What follows the comma is another parameter, or else the next challenge.
            let mut next = *self;
            if !next.commas() || next.parameter().is_none() {
                return Some(Challenge { scheme, parameters });
            }
            self.commas();
        }
        None
    }

    /// One value instead of parameters: not for bearer tokens, but other schemes' have it.
    fn token68(&mut self) -> bool {
        let mut rest = *self;
        let value = rest.take_while(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte));
        rest.take_while(|byte| byte == b'=');
        rest.spaces();
        let is_one = !value.is_empty() && rest.is_at_end_of_element();
        if is_one {
            *self = rest;
        }
        is_one
    }

    fn parameter(&mut self) -> Option<(String, String)> {
        let name = lower_case(self.token()?);
        self.spaces();
        self.0 = self.0.strip_prefix(b"=")?;
        self.spaces();
        let value = match self.0.strip_prefix(b"\"") {
            Some(rest) => {
                self.0 = rest;
                self.quoted()?
            }
            None => self.token()?.to_vec(),
        };
        Some((name, String::from_utf8(value).ok()?))
    }

    /// The rest of a quoted string, up to and with its closing mark.
    fn quoted(&mut self) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        loop {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            match byte {
                b'"' => return Some(text),
                b'\\' => {
                    let (escaped, rest) = self.0.split_first()?;
                    self.0 = rest;
                    text.push(*escaped);
                }
                byte => text.push(*byte),
            }
        }
    }

    /// RFC 9110 section 5.6.2.
    fn token(&mut self) -> Option<&'a [u8]> {
        let token = self.take_while(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        (!token.is_empty()).then_some(token)
    }

    fn spaces(&mut self) -> &'a [u8] {
        self.take_while(|byte| matches!(byte, b' ' | b'\t'))
    }

    fn is_at_end_of_element(&self) -> bool {
        matches!(self.0.first(), None | Some(b','))
    }

    fn take_while(&mut self, has: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|byte| !has(*byte)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }
}

fn lower_case(token: &[u8]) -> String {
    String::from_utf8_lossy(token).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the fields are literals")]

    use super::*;
    use http::HeaderValue;

    #[test]
    fn the_claims_of_the_first_claims_challenge_are_found() {
        for (fields, claims) in [
            (vec![], None),
            (vec![""], None),
            (
                vec![r#"Bearer error="insufficient_claims", claims="e30=""#],
                Some("e30="),
            ),
            (vec![r#"bearer claims="e30=",error=insufficient_claims"#], Some("e30=")),
            (
                vec![r#"BEARER Error="insufficient_claims" , CLAIMS = e30"#],
                Some("e30"),
            ),
            (
                vec![r#"Bearer authorization="https://login.example/t", resource="https://vault.azure.net""#],
                None,
            ),
            (
                vec![
                    r#"Bearer authorization="https://login.example/t, claims=\"no\"", resource="https://vault.azure.net", error="insufficient_claims", claims="e30=""#,
                ],
                Some("e30="),
            ),
            // Several challenges in one field, and several fields.
            (
                vec![r#"Negotiate, Basic realm="a, b", Bearer error="insufficient_claims", claims="e30=", Digest x=y"#],
                Some("e30="),
            ),
            (
                vec!["Negotiate YQ==, Bearer error=insufficient_claims,claims=e30"],
                Some("e30"),
            ),
            (
                vec![
                    "Basic realm=x",
                    r#"PoP nonce="n""#,
                    r#"Bearer error="insufficient_claims", claims="e30=""#,
                ],
                Some("e30="),
            ),
            (
                vec![r#",, Bearer ,Bearer error="insufficient_claims",,claims="a\"b""#],
                Some("a\"b"),
            ),
            // What belongs to another challenge does not count.
            (
                vec![r#"PoP error="insufficient_claims", claims="e30=", Bearer realm="""#],
                None,
            ),
            (vec![r#"Bearer error="insufficient_claims", PoP claims="e30=""#], None),
            (
                vec![r#"Bearer error="insufficient_claims""#, r#"Bearer claims="e30=""#],
                None,
            ),
            (vec![r#"Bearer error="invalid_token", claims="e30=""#], None),
            (vec![r#"Bearer error="insufficient_claims", claims="""#], None),
            (
                vec![r#"Bearer error="insufficient_claims", claims="a", claims="b""#],
                None,
            ),
            // What cannot be read is passed over, and the next field is not.
            (vec![r#"Bearer error="insufficient_claims", claims="e30="#], None),
            (vec![r#"Bearer error="insufficient_claims" claims="e30=""#], None),
            (
                vec!["Bearer =", r#"Bearer error="insufficient_claims", claims="e30=""#],
                Some("e30="),
            ),
            (vec!["\"Bearer\" error=insufficient_claims, claims=x"], None),
            (vec!["Bearer error=insufficient_claims; claims=x"], None),
        ] {
            let mut map = HeaderMap::new();
            for field in &fields {
                map.append(header::WWW_AUTHENTICATE, HeaderValue::from_str(field).unwrap());
            }
            assert_eq!(claims_challenge(&map).as_deref(), claims, "{fields:?}");
        }
    }

    #[test]
    fn any_bytes_are_read_in_one_go() {
        for field in [
            ",".repeat(60_000),
            "a ".repeat(30_000),
            "a=b,".repeat(15_000),
            "Bearer a=b".to_owned() + &",c=d".repeat(15_000),
            "Bearer a=\"".to_owned() + &"\\".repeat(60_000),
            "x,".repeat(30_000),
            "\u{e9}\u{2028}=\"".to_owned(),
        ] {
            // It has an end, which is all that is asked.
            let _ = challenges(field.as_bytes());
        }
    }
}
