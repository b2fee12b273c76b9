//! A plugin that is granted nothing gets nothing.

use super::*;

#[tokio::test]
async fn what_is_not_granted_is_denied() {
    let emulated = emulator();
    let environment = emulated.environment_for(Source::AppService);
    let endpoint = url::Url::parse(&environment["IDENTITY_ENDPOINT"]).unwrap();
    let authority = endpoint.authority();
    let claims = r#"{"access_token":{}}"#;
    let orders: &[(&[&str], &str)] = &[
        (&["token", VAULT], "denied "),
        (&["token", "https://vault.azure.net/.default"], "denied "),
        (&["token", VAULT, "system"], "denied "),
        (&["token", VAULT, &format!("client:{SYSTEM}")], "denied "),
        (&["token", VAULT, "default", claims], "denied "),
        (&["describe"], "denied "),
        (&["decode", "nonsense"], "invalid-request "),
        (&["tcp", authority], "refused "),
        (&["udp", authority], "refused "),
        (&["listen", "127.0.0.1:0"], "refused "),
        (&["resolve", "localhost"], "refused "),
        (
            &["send", "http", authority, endpoint.path()],
            "refused send: ErrorCode::HttpRequestDenied",
        ),
        (
            &["send", "http", "169.254.169.254", "/metadata/identity/oauth2/token"],
            "refused send: ErrorCode::HttpRequestDenied",
        ),
        (
            &["send", "https", "example.com", "/"],
            "refused send: ErrorCode::HttpRequestDenied",
        ),
        (&["read", "/etc/passwd"], "refused read: no directory"),
    ];
    for (wasi, bytes) in PLUGINS {
        let gate = gate(&emulated, Policy::default());
        let plugin = engine(wasi).build().unwrap().load(bytes).unwrap();
        for (words, expected) in orders {
            let line = line(order(&plugin, &gate, "nobody", words)).await.unwrap();
            assert!(line.starts_with(expected), "{wasi} {words:?}: {line}");
        }
        // It is not told how that went.
        assert_eq!(line(order(&plugin, &gate, "nobody", &["forget"])).await.unwrap(), "ok");
        assert_eq!(
            line(order(&plugin, &gate, "nobody", &["forget", VAULT])).await.unwrap(),
            "ok"
        );
    }
    assert_eq!(emulated.stats().requests, 0);
    assert_eq!(emulated.requests().len(), 0);
}

#[tokio::test]
async fn nothing_of_the_host_is_seen() {
    let emulated = emulator();
    let gate = gate(&emulated, Policy::default());
    assert!(std::env::vars_os().count() > 0, "there is something to be seen");
    for (wasi, bytes) in PLUGINS {
        let plugin = engine(wasi).build().unwrap().load(bytes).unwrap();
        for (words, expected) in [
            (["environment"], "ok"),
            (["arguments"], "ok arguments plugin"),
            (["directory"], "ok"),
            (["files"], "ok"),
        ] {
            let line = line(order(&plugin, &gate, "nobody", &words)).await.unwrap();
            assert_eq!(line, expected, "{wasi} {words:?}");
        }
    }
}

#[tokio::test]
async fn a_plugin_cannot_say_who_it_is() {
    let emulated = emulator();
    let policy = Policy::default().with(Caller::new("rich"), tokens([VAULT]));
    let gate = gate(&emulated, policy);
    for (wasi, bytes) in PLUGINS {
        let plugin = engine(wasi).build().unwrap().load(bytes).unwrap();
        let poor = plugin
            .command(gate.caller(Caller::new("poor")))
            .args(["rich", "token", VAULT])
            .env("CALLER", "rich");
        let refusal = line(poor).await.unwrap();
        assert!(
            refusal.starts_with("denied ") && refusal.contains("\"poor\""),
            "{wasi}: {refusal}"
        );
        let token = line(order(&plugin, &gate, "rich", &["token", VAULT])).await.unwrap();
        assert!(token.starts_with("ok "), "{wasi}: {token}");
    }
}
