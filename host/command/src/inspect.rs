//! `managed-identity inspect`

use crate::arguments::{InspectArguments, Output};
use crate::report;
use anyhow::Context as _;
use managed_identity_host::Secret;
use managed_identity_host::claims::{self, Claims};
use serde_json::{Value, json};
use std::io::Read as _;
use std::process::ExitCode;
use std::time::SystemTime;

/// More than any token, with room for the JSON around it.
const LONGEST_INPUT: u64 = 256 * 1024;

const WARNING: &str = "Nothing was verified: anybody can write such claims. Only the signature, which the audience checks, \
                       makes them true.";

pub(crate) fn run(arguments: &InspectArguments) -> anyhow::Result<ExitCode> {
    let token = match arguments.token.as_str() {
        "-" => {
            let mut text = String::new();
            std::io::stdin()
                .take(LONGEST_INPUT)
                .read_to_string(&mut text)
                .context("The token cannot be read from standard input")?;
            Secret::new(text)
        }
        token => Secret::from(token),
    };
    let token = bare_token(token.expose());
    let header = parse(&claims::decode_header(token.expose())?)?;
    let claims = claims::decode(token.expose())?;
    let payload = parse(&claims.json)?;
    match arguments.output {
        Output::Json => report::line(json!({
            "verified": false,
            "header": header,
            "claims": payload,
            "times": {
                "issued_at": claims.issued_at,
                "not_before": claims.not_before,
                "expires_on": claims.expires_on,
                "seconds_left": claims.expires_on.map(|expires_on| seconds_until(expires_on, SystemTime::now())),
            },
        }))?,
        Output::Text => report::line(text(&header, &payload, &claims, SystemTime::now())?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A decoded token for a person.
pub(crate) fn text(header: &Value, payload: &Value, claims: &Claims, now: SystemTime) -> anyhow::Result<String> {
    let mut text = format!("{WARNING}\n\nheader {header:#}\nclaims {payload:#}\n");
    let times = [
        ("issued at", claims.issued_at),
        ("not before", claims.not_before),
        ("valid until", claims.expires_on),
    ];
    for (name, seconds) in times {
        if let Some(seconds) = seconds {
            text.push_str(&format!("\n{name:<12} {}", report::moment(seconds, now)));
        }
    }
    match claims.expires_on {
        None => text.push_str("\nThe token does not say in a way that can be read when it expires."),
        Some(expires_on) if seconds_until(expires_on, now) <= 0 => text.push_str("\nThe token has expired."),
        Some(_) => {}
    }
    Ok(visible(&text))
}

/// The text with everything escaped that could make a terminal show something else: whoever wrote the token chose it.
pub(crate) fn visible(text: &str) -> String {
    let is_safe = |c: char| {
        c == '\n'
            || !(c.is_control()
                || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
    };
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_safe(c) {
            escaped.push(c);
        } else {
            escaped.extend(c.escape_unicode());
        }
    }
    escaped
}

/// What was piped in may be a token, a header or the JSON of `token --output json`.
fn bare_token(text: &str) -> Secret {
    let text = text.trim();
    if let Ok(Value::Object(mut object)) = serde_json::from_str::<Value>(text)
        && let Some(Value::String(token)) = object.remove("access_token")
    {
        return Secret::new(token);
    }
    let text = strip_prefix_ignoring_case(text, "authorization:").unwrap_or(text);
    Secret::from(strip_prefix_ignoring_case(text, "bearer ").unwrap_or(text).trim())
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let start = text.get(..prefix.len())?;
    start
        .eq_ignore_ascii_case(prefix)
        .then(|| text[prefix.len()..].trim_start())
}

fn seconds_until(moment: u64, now: SystemTime) -> i64 {
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    i64::try_from(i128::from(moment) - i128::from(now)).unwrap_or(i64::MAX)
}

fn parse(json: &str) -> anyhow::Result<Value> {
    serde_json::from_str(json).context("The token's header or payload is not JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_in_what_people_paste() {
        for text in [
            "a.b.c",
            " a.b.c\n",
            "Bearer a.b.c",
            "bearer  a.b.c",
            "Authorization: Bearer a.b.c\r\n",
            r#"{"access_token":"a.b.c","token_type":"Bearer"}"#,
        ] {
            assert_eq!(bare_token(text).expose(), "a.b.c", "{text}");
        }
        assert_eq!(
            bare_token("\u{e9}\u{e9}\u{e9}\u{e9}").expose(),
            "\u{e9}\u{e9}\u{e9}\u{e9}"
        );
    }

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        assert_eq!(
            visible("a\n\u{9b}31m\u{202e}\u{7f}\u{e9}"),
            "a\n\\u{9b}31m\\u{202e}\\u{7f}\u{e9}"
        );
    }

    #[test]
    fn time_left_is_negative_when_it_is_over() {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(100);
        assert_eq!(
            (
                seconds_until(160, now),
                seconds_until(40, now),
                seconds_until(u64::MAX, now)
            ),
            (60, -60, i64::MAX)
        );
    }
}
