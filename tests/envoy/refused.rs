//! What the module refuses when it is loaded, and what it says then.

use super::{library, module};
use crate::proxy::{Folder, configured, refusal};
use std::process::Command;

/// The rule of the example, and the beginning of it.
const RULE: &str = r#"{ "route": "vault", "audience": "https://vault.azure.net" }"#;
const BEGUN: &str = r#"{ "route": "vault","#;

/// What the example has for the route `storage`.
const ROUTE: &str = r#"'{"audience": "https://storage.azure.com"}'"#;

/// What is replaced, by what, and what is said of it: which key is wrong, and what to do.
const REFUSED: &[(&str, &str, &str, &str)] = &[
    (
        "\"rules\":",
        "\"rulez\":",
        "`rulez` is no key here",
        "write `rules`, `header`",
    ),
    (
        "\"timeout\":",
        "\"time-out\":",
        "`time-out` is no key here",
        "`timeout`",
    ),
    (
        RULE,
        "\"https://vault.azure.net\"",
        "`rules[0]` is not an object",
        "write",
    ),
    (
        RULE,
        "{ \"route\": \"vault\" }",
        "`rules[0].audience` is missing",
        "such as `https://vault.azure.net`",
    ),
    (
        "\"audience\": \"https://vault.azure.net\"",
        "\"audience\": \"https://a.example https://b.example\"",
        "`rules[0].audience`",
        "several scopes cannot be asked for at once",
    ),
    (
        "\"audience\": \"https://vault.azure.net\"",
        "\"audience\": \"https://*.azure.net\"",
        "`rules[0].audience`",
        "write the one that the token is for",
    ),
    (
        BEGUN,
        r#"{ "rout": "vault","#,
        "`rules[0].rout` is no key here",
        "write `host`, `path`, `route`",
    ),
    (
        BEGUN,
        r#"{ "route": 7,"#,
        "`rules[0].route` is not text",
        "write it in quotes",
    ),
    (
        BEGUN,
        r#"{ "host": "https://a.example","#,
        "`rules[0].host` is `https://a.example`",
        "without scheme and port",
    ),
    (
        BEGUN,
        r#"{ "host": "a.example:443","#,
        "`rules[0].host` is `a.example:443`",
        "without scheme and port",
    ),
    (
        BEGUN,
        r#"{ "host": "a.*","#,
        "`rules[0].host` is `a.*`",
        "`*.` and a domain",
    ),
    (
        BEGUN,
        r#"{ "host": "*","#,
        "`rules[0].host` is `*`",
        "leave it out for any host",
    ),
    (BEGUN, r#"{ "path": "a","#, "`rules[0].path` is `a`", "begins with `/`"),
    (
        BEGUN,
        r#"{ "path": "/a/*","#,
        "`rules[0].path` is `/a/*`",
        "write a prefix",
    ),
    (
        BEGUN,
        r#"{ "path": "/a?b","#,
        "`rules[0].path` is `/a?b`",
        "write a prefix",
    ),
    (
        BEGUN,
        r#"{ "identity": "somebody","#,
        "`rules[0].identity` is `somebody`",
        "`client-id:`",
    ),
    (
        BEGUN,
        r#"{ "identity": "any","#,
        "`rules[0].identity` is `any`",
        "`client-id:`",
    ),
    (
        BEGUN,
        r#"{ "identity": "client-id:gateway","#,
        "`rules[0].identity` is `client-id:gateway`",
        "not a GUID",
    ),
    (
        BEGUN,
        r#"{ "identity": "resource-id:gateway","#,
        "`rules[0].identity`",
        "/subscriptions/",
    ),
    ("\"10s\"", "\"10\"", "`timeout` is `10`", "such as `10s`"),
    ("\"10s\"", "\"2h\"", "`timeout` is `2h`", "up to an hour"),
    ("\"10s\"", "10", "`timeout` is not text", "write it in quotes"),
    (
        "\"deny\"",
        "\"allow\"",
        "`on-failure` is `allow`",
        "write `deny` or `pass`",
    ),
    (
        "\"timeout\"",
        "\"header\": \"Authorization\", \"timeout\"",
        "`header` is `Authorization`",
        "in lower case",
    ),
    (
        "\"timeout\"",
        "\"claims-challenge\": \"no\", \"timeout\"",
        "`claims-challenge`",
        "write `true` or `false`",
    ),
    (
        "\"timeout\"",
        "\"outbound\": \"identity\", \"timeout\"",
        "`outbound`",
        "`{\"cluster\": …}`",
    ),
    (
        "\"timeout\"",
        "\"environment\": [], \"timeout\"",
        "`environment`",
        "an object of variables",
    ),
    ("\"deny\",", "\"deny\"", "not JSON", "line 6"),
    (
        ROUTE,
        "'{\"audiense\": \"https://a.example\"}'",
        "`audiense` is no key here",
        "a route's configuration is refused",
    ),
    (
        ROUTE,
        "'{\"audience\": \"https://a.example\", \"host\": \"a.example\"}'",
        "`host` is no key here",
        "`off`",
    ),
    (
        ROUTE,
        "'{\"audience\": \"a b\"}'",
        "`audience`",
        "a route's configuration is refused",
    ),
    (
        ROUTE,
        "'{\"off\": false}'",
        "`off` can only be `true`",
        "leave it out otherwise",
    ),
    (ROUTE, "'on'", "not JSON", "a route's configuration is refused"),
    (ROUTE, "'[]'", "not an object", "a route's configuration is refused"),
];

#[test]
fn whatever_is_wrong_is_refused_by_the_check_with_its_key_and_what_to_do() {
    let environment = module([]);
    std::thread::scope(|scope| {
        // As many at once as machines have processors at the least.
        for (part, cases) in REFUSED.chunks(REFUSED.len().div_ceil(2)).enumerate() {
            let environment = &environment;
            scope.spawn(move || {
                let folder = Folder::new(&format!("refused-{part}"));
                for (from, to, key, cure) in cases {
                    let said = refusal(&folder, &configured("module.yaml", &[(from, to)]), environment);
                    let line = said.lines().find(|line| line.contains("managed identity: "));
                    let line = line.unwrap_or_else(|| panic!("nothing is said of {to}: {said}"));
                    assert!(line.contains(key) && line.contains(cure), "{to}: {line}");
                }
            });
        }
    });
}

#[test]
fn a_program_that_is_not_envoy_is_refused_and_told_what_it_lacks() {
    // Any program that can load a library will do.
    let script = "import ctypes, sys\n\
                  begin = ctypes.CDLL(sys.argv[1]).envoy_dynamic_module_on_program_init\n\
                  begin.restype = ctypes.c_char_p\n\
                  sys.exit({None: 0}.get(begin(), 1))\n";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(library())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("this program does not have `envoy_dynamic_module_callback_log`")
            && said.contains("the module is for Envoy 1.40"),
        "{said}"
    );
}
