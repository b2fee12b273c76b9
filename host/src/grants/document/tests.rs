#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use super::*;
use crate::token::Identity;
use proptest::prelude::*;

/// Uses every key.
const WHOLE: &str = r#"
[caller.report]
rate = "100/minute"
refresh-rate = "10/minute"
concurrency = 0x10

[[caller.report.token]]
audiences = ["https://vault.azure.net", "https://*.database.windows.net"]
identities = ["system-assigned", "client-id:12345678-90AB-cdef-1234-567890abcdef"]

[[caller.report.token]]
audiences = ["api://x"]

[[caller.report.authorize-only]]
hosts = ["*.vault.azure.net", "192.0.2.1:8443"]
audience = "https://vault.azure.net"
identity = "object-id:12345678-90ab-cdef-1234-567890abcdef"

[[caller.report.authorize-only]]
hosts = ["management.azure.com"]
audience = "https://management.azure.com/"

[[caller.report.http]]
hosts = ["https://api.example.com"]

[[caller.report.http]]
hosts = ["http://localhost:8080", "[::1]:1"]

[caller."a b"]
"#;

fn hosts(texts: &[&str]) -> Vec<HostPattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_document_is_the_policy_that_it_shows() {
    const ID: &str = "12345678-90ab-cdef-1234-567890abcdef";
    let audiences = ["https://vault.azure.net", "https://*.database.windows.net"];
    let identities = ["system-assigned", &format!("client-id:{ID}")];
    let grant = Grant::default()
        .with_rate("100/minute".parse().unwrap())
        .with_refresh_rate("10/minute".parse().unwrap())
        .with_in_flight(16)
        .with_token(
            TokenRule::new(audiences.map(|text| text.parse().unwrap()))
                .with_identities(identities.map(|text| text.parse().unwrap())),
        )
        .with_token(TokenRule::new(["api://x".parse().unwrap()]))
        .with_authorize_only(
            AuthorizeRule::new(
                hosts(&["*.vault.azure.net", "192.0.2.1:8443"]),
                "https://vault.azure.net",
            )
            .with_identity(Identity::ObjectId(ID.to_owned())),
        )
        .with_authorize_only(AuthorizeRule::new(
            hosts(&["management.azure.com"]),
            "https://management.azure.com/",
        ))
        .with_http(hosts(&["https://api.example.com", "http://localhost:8080", "[::1]:1"]));
    assert_eq!(
        grant.token[1].identities,
        [IdentityPattern::Exactly(Identity::PlatformDefault)]
    );
    let policy = Policy::default()
        .with(Caller::new("report"), grant)
        .with(Caller::new("a b"), Grant::default());
    assert_eq!(Policy::from_toml(WHOLE), Ok(policy));
}

#[test]
fn an_empty_document_grants_nothing() {
    for text in ["", "\n# nothing\n", "[caller]", "caller = {}"] {
        assert_eq!(Policy::from_toml(text), Ok(Policy::default()), "{text:?}");
    }
}

#[test]
fn a_mistake_is_told_with_its_line_and_its_cure() {
    let token = |rest: &str| format!("[caller.a]\n\n[[caller.a.token]]\n{rest}");
    let authorize = |rest: &str| format!("[[caller.a.authorize-only]]\n{rest}");
    let good = "hosts = ['a.example']\naudience = 'https://a.example'\n";
    for (text, message) in [
        (
            "x = 1".to_owned(),
            "line 1: `x` is no key of the policy; its only key is `caller`",
        ),
        (
            "\n[callers.a]".to_owned(),
            "line 2: `callers` is no key of the policy; write `caller`",
        ),
        (
            "caller = 1".to_owned(),
            "line 1: `caller` is a number; write it as a table, `[caller.NAME]`",
        ),
        (
            "[[caller]]".to_owned(),
            "line 1: `caller` is a list; write it as a table",
        ),
        (
            "[caller]\na = []".to_owned(),
            "line 2: `caller.a` is a list; write it as a table, `[caller.a]`",
        ),
        ("[caller.\"\"]".to_owned(), "line 1: a caller has an empty name"),
        ("[caller.\"a\\u0000\"]".to_owned(), "control characters"),
        (
            "[caller.a]\n[caller.b]\n[caller.a]".to_owned(),
            "line 3: `a` stands here for the second time; write it once",
        ),
        (
            "[caller.a]\nrate = '1/hour'\nrate = '2/hour'".to_owned(),
            "line 3: `rate` stands here for the second time",
        ),
        ("[caller.a".to_owned(), "line 1: this is not TOML"),
        ("[caller.a]\n\nrate = 1 2".to_owned(), "line 3: this is not TOML"),
        (
            "[caller.a]\nrate = 100".to_owned(),
            "line 2: `rate` of `[caller.a]` is a number; write it like `rate = \"100/minute\"`",
        ),
        (
            "[caller.a]\nrate = 5/minute".to_owned(),
            "line 2: what `rate` is set to is no number, and a text needs quotes; write it like `rate = \"…\"`",
        ),
        (
            "[caller.a]\nrate = '100'".to_owned(),
            "line 2: \"100\", which is `rate` of `[caller.a]`, is no rate; write",
        ),
        (
            "[caller.a]\nrefresh_rate = '1/hour'".to_owned(),
            "line 2: `refresh_rate` is no key of `[caller.a]`; write `refresh-rate`",
        ),
        (
            "[caller.a]\nrefresh-rate = true".to_owned(),
            "`refresh-rate` of `[caller.a]` is true or false",
        ),
        (
            "[caller.a]\nconcurrency = 0".to_owned(),
            "line 2: `concurrency` of `[caller.a]` is no number from 1 to 65535",
        ),
        ("[caller.a]\nconcurrency = 65536".to_owned(), "is no number from 1"),
        ("[caller.a]\nconcurrency = -1".to_owned(), "is no number from 1"),
        ("[caller.a]\nconcurrency = 1.0".to_owned(), "is no number from 1"),
        ("[caller.a]\nconcurrency = '1'".to_owned(), "is no number from 1"),
        (
            "[caller.a]\ntokens = []".to_owned(),
            "line 2: `tokens` is no key of `[caller.a]`; write `token`",
        ),
        (
            "[caller.a]\naudiences = []".to_owned(),
            "`audiences` is no key of `[caller.a]`; its keys are `rate`, `refresh-rate`, `concurrency`, `token`, `authorize-only`, `http`",
        ),
        (
            "[caller.a]\ntoken = []".to_owned(),
            "line 2: what should be `[[caller.a.token]]` is an empty list; write `[[caller.a.token]]`",
        ),
        (
            "[caller.a]\n[caller.a.token]\naudiences = ['x']".to_owned(),
            "line 2: what should be `[[caller.a.token]]` is a table; write `[[caller.a.token]]`",
        ),
        (
            "[caller.a]\ntoken = [{audiences = ['x']},\n1]".to_owned(),
            "line 3: what should be `[[caller.a.token]]` is a list with a number in it",
        ),
        (
            "[[caller.'a b'.token]]\nx = 1".to_owned(),
            "line 2: `x` is no key of `[[caller.\"a b\".token]]`",
        ),
        (
            token(""),
            "line 3: this `[[caller.a.token]]` has no `audiences`; add it, as in `audiences = [\"https://vault.azure.net\"]`",
        ),
        (
            token("audience = 'x'"),
            "line 4: `audience` is no key of `[[caller.a.token]]`; write `audiences`",
        ),
        (
            token("audiences = ['x']\nidentity = 'any'"),
            "line 5: `identity` is no key of `[[caller.a.token]]`; write `identities`",
        ),
        (
            token("audiences = 'x'"),
            "line 4: `audiences` of `[[caller.a.token]]` is a text; write a list of texts, as in `audiences = [\"…\"]`",
        ),
        (
            token("audiences = []"),
            "line 4: `audiences` of `[[caller.a.token]]` is an empty list, which grants nothing",
        ),
        (
            token("audiences = ['x']\nidentities = []"),
            "line 5: `identities` of `[[caller.a.token]]` is an empty list",
        ),
        (
            token("audiences = [\n'x',\n1]"),
            "line 6: `audiences` of `[[caller.a.token]]` has a number in its list",
        ),
        (
            token("audiences = [\n'x',\n'https://*']"),
            "line 6: \"https://*\" in `audiences` of `[[caller.a.token]]` has a `*` where it has no meaning",
        ),
        (
            token("audiences = ['x']\nidentities = ['me']"),
            "line 5: \"me\" in `identities` of `[[caller.a.token]]` is no identity; write",
        ),
        (
            token("audiences = ['x']\n[[caller.a.token]]\n"),
            "line 5: this `[[caller.a.token]]` has no `audiences`",
        ),
        (
            authorize(""),
            "line 1: this `[[caller.a.authorize-only]]` has no `hosts`",
        ),
        (
            authorize("hosts = ['a.example']"),
            "line 1: this `[[caller.a.authorize-only]]` has no `audience`",
        ),
        (
            authorize("hosts = ['http://a.example']"),
            "line 2: \"http://a.example\" in `hosts` of `[[caller.a.authorize-only]]` is not `https`",
        ),
        (authorize("hosts = ['*']"), "has a `*` where it has no meaning"),
        (
            authorize("hosts = ['a.example']\naudience = '*'"),
            "line 3: \"*\", which is `audience` of `[[caller.a.authorize-only]]`, has a wildcard",
        ),
        (
            authorize("hosts = ['a.example']\naudience = ['a']"),
            "line 3: `audience` of `[[caller.a.authorize-only]]` is a list; write one text",
        ),
        (
            authorize("hosts = ['a.example']\naudiences = ['a']"),
            "write `audience`",
        ),
        (
            authorize(&format!("{good}identity = 'any'")),
            "line 4: \"any\", which is `identity` of `[[caller.a.authorize-only]]`, is no identity",
        ),
        (
            "[[caller.a.http]]".to_owned(),
            "line 1: this `[[caller.a.http]]` has no `hosts`",
        ),
        (
            "[[caller.a.http]]\nhost = 'x'".to_owned(),
            "line 2: `host` is no key of `[[caller.a.http]]`; write `hosts`",
        ),
        (
            "[[caller.a.http]]\nhosts = ['a.example/x']".to_owned(),
            "leave the path out",
        ),
    ] {
        let error = Policy::from_toml(&text).expect_err(&text).to_string();
        assert!(error.contains(message), "{text:?}\n  {error}\n  {message}");
    }
}

#[test]
fn the_first_mistake_is_told_first() {
    let error = Policy::from_toml("[caller.b]\nx = 1\n[caller.a]\ny = 1").unwrap_err();
    assert_eq!(error.line(), 2, "{error}");
}

#[test]
fn a_message_is_one_line_however_long_the_document() {
    for text in [
        format!("\"{}\\n\\u001b[31m\" = 1", "k".repeat(1_000_000)),
        format!("[[caller.a.http]]\nhosts = ['{}']", "h".repeat(1_000_000)),
        "[".repeat(100_000),
        format!("x = {}", "[".repeat(100_000)),
        format!("x = {}", "{a=".repeat(100_000)),
    ] {
        let error = Policy::from_toml(&text).unwrap_err().to_string();
        assert!(
            error.len() < 2000 && !error.chars().any(char::is_control),
            "{error:.3000}"
        );
    }
}

proptest! {
    /// Whatever is made of a good document is read or refused, and a refusal names one of its lines.
    #[test]
    fn no_document_makes_it_panic(
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), 0_usize..8, prop::sample::select(vec![
                "", "\n", "[", "]", "[[", "\"", "'", "=", ".", ",", "{", "}", "#", "*", "\u{fc}", "\0", "\\u0000", "1979-05-27",
                "caller", "token", "audiences", "\"\"\"", "inf", "-", "0x", "/", ":", "https://", "\r\n", "\u{feff}",
            ])),
            0..6,
        )
    ) {
        let mut text = WHOLE.to_owned();
        for (place, cut, inserted) in edits {
            let mut start = place.index(text.len() + 1);
            while !text.is_char_boundary(start) {
                start -= 1;
            }
            let mut end = (start + cut).min(text.len());
            while !text.is_char_boundary(end) {
                end += 1;
            }
            text.replace_range(start..end, inserted);
        }
        if let Err(error) = Policy::from_toml(&text) {
            prop_assert!((1..=text.split('\n').count()).contains(&error.line()), "{error}");
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = Policy::from_toml(&text);
        let _ = (AudiencePattern::parse(&text), HostPattern::parse(&text), IdentityPattern::parse(&text), Rate::parse(&text));
    }
}
