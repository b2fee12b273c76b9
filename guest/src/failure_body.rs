//! What the body of a failed reply says, whatever its shape.
//!
//! Identity endpoints and what stands before them (proxies, gateways, sidecars) report failures in at least these ways:
//!
//! | shape | who sends it |
//! |---|---|
//! | `{"error":"…","error_description":"…"}` | the metadata service, Azure Arc, Entra ID (RFC 6749, section 5.2) |
//! | `{"statusCode":…,"message":"…","correlationId":"…"}`, or parts of it | App Service, Functions, Container Apps |
//! | `{"error":{"code":"…","message":"…","innererror":{"trace":"…"}}}`, or parts of it | Cloud Shell, Azure ML |
//! | `{"error":{"correlationId":"…","code":"…","message":"…"}}` | Service Fabric |
//! | plain text | the workload identity proxy, Docker Desktop, gateways |
//! | an HTML page | web servers, proxies |
//!
//! A failure body is written by others and ends up in errors and logs, so nothing of it gets there but through
//! [`snippet`]: short, one line, and without anything that could be a token or a key.

use crate::endpoint::percent_encode;
use crate::json::{Json, Object};
use crate::secret::Secret;

/// The most characters that are ever quoted of a body.
pub const SNIPPET_CHARS: usize = 200;

/// How much of a body is looked at.
const MAX_BODY_BYTES: usize = 64 * 1024;

const REDACTED: &str = "[redacted]";

/// What a failure body says. All of it is fit to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailureBody {
    /// The endpoint's name for what went wrong, such as `invalid_request`; its number where it has no name.
    pub code: Option<String>,
    /// The endpoint's words, or a description of a body that has none; absent when the body is empty.
    pub message: Option<String>,
    /// By what the operator of the endpoint finds this failure in its logs.
    pub correlation_id: Option<String>,
}

impl FailureBody {
    /// The number of the Entra ID error in the message: 700213 for `AADSTS700213: No matching federated identity …`.
    #[must_use]
    pub fn entra_code(&self) -> Option<u32> {
        find_entra_code(self.message.as_deref()?).map(|(_, code)| code)
    }

    fn of_message(text: &str) -> Self {
        Self {
            message: message(text),
            ..Self::default()
        }
    }
}

/// Reads the body of a reply whose status is a failure. Every body has a reading.
///
/// `secrets` is what the request carried. An endpoint may quote it, in whatever notation its body has, so it is blotted out
/// after that has been decoded.
#[must_use]
pub fn read(body: &[u8], secrets: &[Secret]) -> FailureBody {
    let whole = body.len() <= MAX_BODY_BYTES;
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_BODY_BYTES)]);
    let text = text.trim_start_matches('\u{feff}').trim();

    let blotted = blot(text, secrets);
    let text = blotted.as_str();

    match decoded(text, secrets) {
        Ok(Json::Object(object)) => of_object(&object),
        Ok(Json::List(items)) => match items.first() {
            Some(Json::Object(object)) => of_object(object),
            _ => FailureBody::of_message("a JSON array without an error in it"),
        },
        Ok(Json::Text(text)) => FailureBody::of_message(&text),
        // Half an object is not quoted: without its field names, a short token in it could not be told from a word.
        Err(_) if text.starts_with('{') && whole => FailureBody::of_message("JSON that is not well formed"),
        Err(_) if text.starts_with('{') => FailureBody::of_message("JSON that is too long to be read"),
        Err(_) if text.starts_with('<') => FailureBody::of_message(&describe_markup(text)),
        _ => FailureBody::of_message(text),
    }
}

/// The JSON in `text`, if it is any, without the secrets that it spells out.
fn decoded(text: &str, secrets: &[Secret]) -> serde_json::Result<Json> {
    let mut value = serde_json::from_str(text)?;
    blot_value(&mut value, secrets);
    Ok(value)
}

// The nesting is bounded by the parser.
fn blot_value(value: &mut Json, secrets: &[Secret]) {
    match value {
        Json::Text(text) => *text = blot(text, secrets),
        Json::List(items) => items.iter_mut().for_each(|item| blot_value(item, secrets)),
        Json::Object(object) => object.iter_mut().for_each(|(_, item)| blot_value(item, secrets)),
        Json::Null | Json::Bool | Json::Whole(_) | Json::Number(_) => {}
    }
}

/// `text` without the secrets, plain or percent-encoded.
fn blot(text: &str, secrets: &[Secret]) -> String {
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        let mut encoded = String::new();
        percent_encode(secret.expose(), &mut encoded);
        for form in [secret.expose(), &encoded, &encoded.to_ascii_lowercase()] {
            if text.contains(form) {
                text = text.replace(form, BLOT);
            }
        }
    }
    text
}

/// What stands in the place of a secret.
const BLOT: &str = "***";

/// One line of at most `limit` (and never more than [`SNIPPET_CHARS`]) characters that shows how `text` begins.
///
/// White space and control characters become single spaces, invisible characters vanish. Every run of 40 or more
/// characters of which tokens and keys are made becomes `[redacted]`, and so does a run of 20 or more that looks like
/// the beginning of a JSON Web Token. GUIDs (36 characters), `name=GUID` and the host in a URL stay readable.
#[must_use]
pub fn snippet(text: &str, limit: usize) -> String {
    let limit = limit.min(SNIPPET_CHARS);
    let visible: String = text.chars().filter(|&c| !is_invisible(c)).collect();

    let mut line = String::new();
    let mut rest = visible.as_str();
    // One character more than fits shows that something is cut off.
    while let Some(next) = rest.chars().next()
        && line.chars().count() <= limit
    {
        let run = rest.find(|c| !is_token_character(c)).unwrap_or(rest.len());
        if run > 0 {
            push_run(&mut line, &rest[..run]);
            rest = &rest[run..];
        } else {
            if !next.is_whitespace() && !next.is_control() {
                line.push(next);
            } else if !line.is_empty() && !line.ends_with(' ') {
                line.push(' ');
            }
            rest = &rest[next.len_utf8()..];
        }
    }

    let mut line = line.trim_end().to_owned();
    if line.chars().count() > limit {
        line = line.chars().take(limit.saturating_sub(1)).collect();
        if limit > 0 {
            line.push('…');
        }
    }
    line
}

/// A path that somebody else has named, for a message: its visible ASCII characters, at most 120 of them. Unlike in
/// [`snippet`], long names stay, because they are what is wrong; only what looks like a JSON Web Token does not.
#[must_use]
pub fn path_snippet(path: &str) -> String {
    const LONGEST: usize = 120;
    if path.contains("eyJ") {
        return REDACTED.to_owned();
    }
    let mut shown: String = path.chars().filter(char::is_ascii_graphic).take(LONGEST).collect();
    if path.len() > LONGEST {
        shown.push('…');
    }
    shown
}

fn of_object(object: &Object) -> FailureBody {
    let error = get(object, "error").and_then(Json::as_object);
    let inner = error
        .and_then(|error| get(error, "innererror"))
        .and_then(Json::as_object);

    let code = text(error, &["code"]).or_else(|| text(Some(object), &["error", "code", "statusCode"]));
    let words = text(error, &["message", "error_description"])
        .or_else(|| text(Some(object), &["error_description", "message", "detail", "title"]));
    let correlation_id = text(error, &["correlationId", "correlation_id"])
        .or_else(|| text(Some(object), &["correlationId", "correlation_id", "trace_id"]))
        .or_else(|| text(inner, &["trace"]));

    let words = words.or_else(|| {
        // The names alone: a reply in disguise has its token in the values.
        let names = || {
            object
                .iter()
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        (code.is_none() && correlation_id.is_none()).then(|| match object.is_empty() {
            true => "an empty JSON object".to_owned(),
            false => format!("a JSON object with no known error field, only {}", names()),
        })
    });
    FailureBody {
        code: code.map(|code| snippet(&code, SNIPPET_CHARS)),
        message: words.as_deref().and_then(message),
        correlation_id: correlation_id.map(|id| snippet(&id, SNIPPET_CHARS)),
    }
}

/// The first of these fields that has a text or a number in it.
fn text(object: Option<&Object>, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| match get(object?, name)? {
        Json::Text(text) if !text.trim().is_empty() => Some(text.clone()),
        Json::Whole(number) => Some(number.to_string()),
        _ => None,
    })
}

/// A field by its name in any case: .NET services differ in whether they write `message` or `Message`.
fn get<'a>(object: &'a Object, name: &str) -> Option<&'a Json> {
    crate::json::field(object, name).or_else(|| {
        object
            .iter()
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    })
}

/// The snippet of `text`, moved to where the number of the Entra ID error is, when that would be cut off: the proxies
/// that pass on Entra's reply as text put a long account of their own before it.
fn message(text: &str) -> Option<String> {
    let line = snippet(text, SNIPPET_CHARS);
    let line = match find_entra_code(text) {
        Some((at, code)) if find_entra_code(&line).is_none_or(|(_, shown)| shown != code) => {
            snippet(&format!("… {}", &text[at..]), SNIPPET_CHARS)
        }
        _ => line,
    };
    (!line.is_empty()).then_some(line)
}

/// Where the first `AADSTS<number>` is, and the number.
fn find_entra_code(text: &str) -> Option<(usize, u32)> {
    const PREFIX: &str = "AADSTS";
    text.match_indices(PREFIX).find_map(|(at, _)| {
        let rest = &text[at + PREFIX.len()..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Some((at, rest[..digits].parse().ok()?))
    })
}

fn describe_markup(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let title = lower.find("<title").and_then(|at| {
        let start = at + lower[at..].find('>')? + 1;
        let end = start + lower[start..].find('<')?;
        Some(text[start..end].trim()).filter(|title| !title.is_empty())
    });
    match title {
        Some(title) => format!("an HTML page titled \"{title}\""),
        None => "an HTML or XML page".to_owned(),
    }
}

/// Format characters that show nothing and could split a token, or turn the direction of a line.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn is_token_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "+/=_.~-".contains(c)
}

/// Appends a run of token characters, without the part that could be a secret.
fn push_run(line: &mut String, run: &str) {
    let host = if line.ends_with(':') { host_length(run) } else { 0 };
    let (readable, rest) = if is_secret(run) { run.split_at(host) } else { (run, "") };
    line.push_str(readable);
    line.push_str(if is_secret(rest) { REDACTED } else { rest });
}

fn is_secret(run: &str) -> bool {
    let is_web_token = run.find("eyJ").is_some_and(|at| run.len() - at >= 20);
    is_web_token || (run.len() >= 40 && !is_named_guid(run))
}

/// How long the `//host` is with which a run begins after `https:`. Only lower-case names with a dot count, with no
/// part as long as a key.
fn host_length(run: &str) -> usize {
    let Some(rest) = run.strip_prefix("//") else {
        return 0;
    };
    let host = rest.split('/').next().unwrap_or_default();
    let is_part = |part: &str| {
        (1..40).contains(&part.len())
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if host.contains('.') && host.split('.').all(is_part) {
        "//".len() + host.len()
    } else {
        0
    }
}

/// Whether a run is `name=GUID`, as in `client_id=72f988bf-86f1-41af-91ab-2d7cd011db47`.
fn is_named_guid(run: &str) -> bool {
    run.trim_end_matches('.').split_once('=').is_some_and(|(name, value)| {
        name.len() < 20
            && name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_')
            && value.len() == 36
            && value.bytes().enumerate().all(|(index, b)| match index {
                8 | 13 | 18 | 23 => b == b'-',
                _ => b.is_ascii_hexdigit(),
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";

    fn parts(body: &str) -> (Option<String>, Option<String>, Option<String>) {
        let FailureBody {
            code,
            message,
            correlation_id,
        } = read(body.as_bytes(), &[]);
        (code, message, correlation_id)
    }

    #[test]
    fn a_path_is_shown_as_far_as_it_helps() {
        for (path, shown) in [
            (
                "/var/opt/azcmagent/tokens/../../../etc/shadow.key",
                "/var/opt/azcmagent/tokens/../../../etc/shadow.key",
            ),
            ("/a\r\nb\0c d", "/abcd"),
            ("eyJhbGciOiJub25lIn0.e30.", REDACTED),
        ] {
            assert_eq!(path_snippet(path), shown);
        }
        assert_eq!(path_snippet(&"a".repeat(6000)).chars().count(), 121);
    }

    #[test]
    fn every_known_shape_is_understood() {
        for (body, code, message, correlation_id) in [
            (
                r#"{"statusCode":500,"message":"Words","correlationId":"id"}"#,
                "500",
                "Words",
                "id",
            ),
            (r#"{"message":"Words","correlationId":"id"}"#, "", "Words", "id"),
            (r#"{"message":"Words"}"#, "", "Words", ""),
            (r#"{"error":"name","error_description":"Words"}"#, "name", "Words", ""),
            (r#"{"error":"name"}"#, "name", "", ""),
            (r#"{"error_description":"Words"}"#, "", "Words", ""),
            (r#"{"error":{"code":"name"}}"#, "name", "", ""),
            (r#"{"error":{"message":"Words"}}"#, "", "Words", ""),
            (r#"{"error":{"code":"name","message":"Words"}}"#, "name", "Words", ""),
            (
                r#"{"error":{"code":"name","message":"Words","innererror":{"trace":"trace"}}}"#,
                "name",
                "Words",
                "trace",
            ),
            (
                r#"{"error":{"correlationId":"id","code":"SecretHeaderNotFound","message":"Words"}}"#,
                "SecretHeaderNotFound",
                "Words",
                "id",
            ),
            (
                r#"{"error":"invalid_client","error_description":"AADSTS700213: Words","error_codes":[700213],
                    "trace_id":"trace","correlation_id":"id"}"#,
                "invalid_client",
                "AADSTS700213: Words",
                "id",
            ),
            (r#"{"error":"name","trace_id":"trace"}"#, "name", "", "trace"),
            (r#"{"Message":"Words","StatusCode":404}"#, "404", "Words", ""),
            (
                r#"{"type":"about:blank","title":"Title","status":403,"detail":"Words"}"#,
                "",
                "Words",
                "",
            ),
            (
                r#"{"error":{"code":404,"message":" Words\r\n of\ttwo lines "}}"#,
                "404",
                "Words of two lines",
                "",
            ),
            (
                r#"{"error":"","message":"  ","error_description":"Words"}"#,
                "",
                "Words",
                "",
            ),
            (
                r#"{"error":null,"message":["x"],"error_description":"Words"}"#,
                "",
                "Words",
                "",
            ),
            (r#"[{"error":"name","error_description":"Words"}]"#, "name", "Words", ""),
            (r#""Words""#, "", "Words", ""),
            ("Words", "", "Words", ""),
            ("\u{feff}Words", "", "Words", ""),
            ("[error] Words", "", "[error] Words", ""),
            ("502", "", "502", ""),
            ("", "", "", ""),
            (" \r\n\t", "", "", ""),
            ("\u{feff}", "", "", ""),
        ] {
            let expected = [code, message, correlation_id].map(|text| (!text.is_empty()).then(|| text.to_owned()));
            assert_eq!(parts(body), expected.into(), "{body}");
        }
    }

    #[test]
    fn a_body_without_words_is_described_and_not_quoted() {
        for (body, expected) in [
            (
                r#"{"notExpectedJson":"value"}"#,
                "a JSON object with no known error field, only notExpectedJson",
            ),
            (
                r#"{"access_token":"short","expires_in":"3600"}"#,
                "a JSON object with no known error field, only access_token, expires_in",
            ),
            ("{}", "an empty JSON object"),
            ("[]", "a JSON array without an error in it"),
            (r#"["short"]"#, "a JSON array without an error in it"),
            (r#"{"access_token":"short"#, "JSON that is not well formed"),
            ("<html><body>Hello</body></html>", "an HTML or XML page"),
            ("<?xml version=\"1.0\"?><Error/>", "an HTML or XML page"),
            (
                "<!DOCTYPE html>\n<HTML><HEAD><TITLE lang=en>\n 404 - Not\n found </TITLE>…",
                "an HTML page titled \"404 - Not found\"",
            ),
            ("<html><title></title>", "an HTML or XML page"),
            ("<html><title>cut", "an HTML or XML page"),
            ("<html><title", "an HTML or XML page"),
        ] {
            assert_eq!(parts(body), (None, Some(expected.to_owned()), None), "{body}");
        }
    }

    #[test]
    fn bodies_that_are_binary_huge_or_deep_are_read_too() {
        assert_eq!(
            read(b"\xFF\xFE bad \x00 gateway", &[]).message.as_deref(),
            Some("\u{fffd}\u{fffd} bad gateway")
        );
        let huge = format!(r#"{{"message":"{}"}}"#, "word ".repeat(MAX_BODY_BYTES));
        assert_eq!(
            read(huge.as_bytes(), &[]).message.as_deref(),
            Some("JSON that is too long to be read")
        );
        let text = read("word ".repeat(MAX_BODY_BYTES).as_bytes(), &[])
            .message
            .expect("text is quoted");
        assert_eq!(text.chars().count(), SNIPPET_CHARS);
        assert!(read("[".repeat(MAX_BODY_BYTES).as_bytes(), &[]).message.is_some());
        assert!(
            read(r#"{"a":"#.repeat(MAX_BODY_BYTES / 5).as_bytes(), &[])
                .message
                .is_some()
        );
    }

    #[test]
    fn no_part_of_a_reading_shows_a_token() {
        let token = format!("eyJhbGciOiJSUzI1NiJ9.{}.sig", "e30".repeat(50));
        for body in [
            format!(r#"{{"error":"{token}","error_description":"{token}","correlationId":"{token}"}}"#),
            format!(r#"{{"{token}":1}}"#),
            format!(r#"{{"access_token":"{token}"}}"#),
            format!("<html><title>{token}</title>"),
            format!("Authorization: Bearer {token}"),
            format!("AADSTS1: {} {token} AADSTS2", "word ".repeat(100)),
            format!("{} AADSTS1: {token}", "word ".repeat(100)),
            token.clone(),
        ] {
            let reading = format!("{:?}", read(body.as_bytes(), &[]));
            assert!(!reading.contains("eyJ") && !reading.contains("e30e30"), "{reading}");
        }
    }

    #[test]
    fn the_entra_code_is_found_wherever_it_stands() {
        let preface = "FromAssertion(): http call(https://login.microsoftonline.com/) failed: ".repeat(4);
        let cut_in_the_number = "a ".repeat((SNIPPET_CHARS - "AADSTS7002".len()) / 2);
        for (text, expected) in [
            (
                "AADSTS700213: No matching federated identity record found".to_owned(),
                Some(700_213),
            ),
            ("error=AADSTS50011".to_owned(), Some(50_011)),
            (format!("{preface}AADSTS70021: no match"), Some(70_021)),
            (format!("{cut_in_the_number}AADSTS700213: no match"), Some(700_213)),
            ("AADSTS: AADSTSx AADSTS53003.".to_owned(), Some(53_003)),
            ("AADSTS99999999999999999999".to_owned(), None),
            ("AADSTS".to_owned(), None),
            ("aadsts700213".to_owned(), None),
            (String::new(), None),
        ] {
            let json = serde_json::json!({ "error": "x", "error_description": text }).to_string();
            for body in [&text, &json] {
                let failure = read(body.as_bytes(), &[]);
                assert_eq!(failure.entra_code(), expected, "{body}");
                assert!(
                    failure
                        .message
                        .is_none_or(|message| message.chars().count() <= SNIPPET_CHARS)
                );
            }
        }
    }

    #[test]
    fn a_snippet_hides_what_could_be_a_secret_and_keeps_the_rest() {
        let a39 = "a".repeat(39);
        let a40 = "a".repeat(40);
        let label40 = format!("https://{a40}.example.com");
        let unredacted = [
            "",
            "Identity not found",
            GUID,
            &format!("Trace ID: {GUID} Correlation ID: {GUID}"),
            &format!("client_id={GUID}, correlation_id={GUID}."),
            "AADSTS500011: The resource principal named https://example.com was not found",
            "https://login.microsoftonline.com/common/oauth2",
            "https://a-long-name-of-an-app.privatelink.northeurope.azurecontainerapps.io:443/",
            "http://169.254.169.254/metadata/identity/oauth2/token",
            "eyJhbGciOiJSUzI1NiJ",
            "Straße, 東京, naïve",
            &a39,
        ];
        for text in unredacted {
            assert_eq!(snippet(text, SNIPPET_CHARS), text);
        }
        for (text, expected) in [
            (a40.as_str(), "[redacted]"),
            (&format!("key: {a40}; word"), "key: [redacted]; word"),
            (&format!("\"{a40}\",\"{a39}\""), &format!("\"[redacted]\",\"{a39}\"")),
            (&format!("{}\u{200b}{a39}", &a40[..20]), "[redacted]"),
            ("eyJhbGciOiJSUzI1NiJ9", "[redacted]"),
            ("token=eyJhbGciOiJSUzI1NiJ9", "[redacted]"),
            (
                "AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
                "[redacted]",
            ),
            (
                &format!("https://login.microsoftonline.com/{GUID}/token"),
                "https://login.microsoftonline.com[redacted]",
            ),
            (&format!("https://example.com/{a39}"), "https://example.com[redacted]"),
            (
                &format!("https://example.com/{}", &a39[..38]),
                &format!("https://example.com/{}", &a39[..38]),
            ),
            (&label40, "https:[redacted]"),
            (&format!("//example.com/{a40}"), "[redacted]"),
            (&format!("https://eyJhbGciOiJSUzI1NiJ9.{a39}"), "https:[redacted]"),
            (&format!("token={GUID}{GUID}"), "[redacted]"),
        ] {
            assert_eq!(snippet(text, SNIPPET_CHARS), expected, "{text}");
        }
    }

    #[test]
    fn a_snippet_is_one_line_of_visible_characters() {
        for (text, expected) in [
            ("  a \r\n\t b  ", "a b"),
            ("a\u{0}\u{1b}[31mb", "a [31mb"),
            ("a\u{85}b\u{2028}c\u{a0}d", "a b c d"),
            ("a\u{202e}b\u{feff}c", "abc"),
            ("\n", ""),
        ] {
            assert_eq!(snippet(text, SNIPPET_CHARS), expected, "{text:?}");
        }
    }

    #[test]
    fn a_snippet_is_cut_between_characters_and_says_so() {
        for (text, limit, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("äöüß", 3, "äö…"),
            ("東京都庁", 2, "東…"),
            ("abc \n", 3, "abc"),
            ("abc  d", 4, "abc…"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
            ("", 0, ""),
        ] {
            assert_eq!(snippet(text, limit), expected, "{text:?} {limit}");
        }
        let words = "word ".repeat(100);
        assert_eq!(snippet(&words, usize::MAX).chars().count(), SNIPPET_CHARS);
        let secret_at_the_cut = format!("{}{}", "x ".repeat(95), "b".repeat(500));
        assert!(!snippet(&secret_at_the_cut, SNIPPET_CHARS).contains('b'));
    }
}
