//! What every guest does, and what it prints, to the byte: in all languages the same.

use crate::guest::{Language, languages};
use crate::scene::{NAME, Scene, fails, no_answer, succeeds};
use crate::support::closed::closed;
use crate::support::program::run;
use crate::support::server::{Act, Server, reply, token_reply};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use managed_identity_emulator::http::StatusCode;
use managed_identity_emulator::http::header::{HeaderValue, RETRY_AFTER};
use managed_identity_emulator::key_vault::Behaviour;
use managed_identity_emulator::{Fault, RecordedRequest};
use managed_identity_host::claims;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Makes tests of scenarios: a module for each language, and a test for each scenario in it.
macro_rules! scenarios {
    ($($name:ident,)*) => {
        languages!(tests [$($name)*]);
    };
}

macro_rules! tests {
    ($names:tt $(($language:ident, $module:ident, $folder:literal))*) => {
        $(mod $module {
            tests!(one $language $names);
        })*
    };
    (one $language:ident [$($name:ident)*]) => {
        $(#[test]
        fn $name() {
            super::$name(super::Scene::new(super::Language::$language, stringify!($name)));
        })*
    };
}

scenarios!(
    a_secret_is_read,
    the_name_is_what_the_id_says,
    what_a_token_does_not_say_is_a_dash,
    arguments_that_are_wrong_ask_for_nothing,
    what_is_not_granted_is_denied,
    where_no_identity_endpoint_listens_the_cause_says_so,
    a_wait_that_the_platform_asks_for_is_told,
    a_malformed_token_has_no_claims,
    a_claims_challenge_is_answered_with_another_token,
    what_a_challenge_claims_is_passed_on_as_it_is,
    a_token_that_is_refused_without_a_challenge_is_not_used_again,
    a_second_refusal_is_a_status,
    other_statuses_are_told,
    a_body_that_is_no_secret_is_told,
    a_vault_that_does_not_answer_is_told,
);

/// Statuses of the vault's replies so far.
fn statuses(requests: &[RecordedRequest]) -> Vec<u16> {
    requests.iter().filter_map(|request| request.status).collect()
}

fn a_secret_is_read(scene: Scene) {
    let url = scene.vault.base_url();
    for url in [url.to_owned(), format!("{url}/")] {
        let outcome = scene.run(&[&url, NAME]);
        scene.succeeds(&outcome, NAME);
    }
    let requests = scene.vault.requests();
    assert_eq!(statuses(&requests), [200, 200]);
    for request in requests {
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("GET", "/secrets/greeting")
        );
        assert_eq!(request.parameter("api-version").as_deref(), Some("7.4"));
        assert_eq!(request.header("accept"), Some("application/json"));
    }
    assert_eq!(scene.platform.stats().requests, 2);
}

/// A vault that answers everything with these bodies, one after the other, without looking at the token.
fn careless(scene: &mut Scene, bodies: &'static [&'static str]) -> Server {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |_| Act::ok(bodies[asked.fetch_add(1, Ordering::Relaxed)]));
    scene.host = server.url("");
    server
}

fn the_name_is_what_the_id_says(mut scene: Scene) {
    let bodies = &[
        r#"{"id":"https://vault.example/secrets/one/0123"}"#,
        r#" {"value":{"a":[1]},"id":"https://vault.example/secrets/two"} "#,
        r#"{"id":"/secrets/three/secrets/four"}"#,
        "{\"id\":\"https://vault.example/secrets/f\\u00fcnf/\"}",
    ];
    let server = careless(&mut scene, bodies);
    for name in ["one", "two", "three", "f\u{fc}nf"] {
        let outcome = scene.run(&[&server.url(""), "other"]);
        scene.succeeds(&outcome, name);
    }
}

fn what_a_token_does_not_say_is_a_dash(mut scene: Scene) {
    let server = careless(&mut scene, &[r#"{"id":"/secrets/one"}"#; 3]);
    for (payload, audience) in [
        ("{}", "-"),
        (r#"{"aud":["a","b"],"oid":7}"#, "a, b"),
        (r#"{"aud":[],"tid":"","oid":"","appid":""}"#, "-"),
    ] {
        let token = format!("e30.{}.e30", URL_SAFE_NO_PAD.encode(payload));
        scene.platform.clear_faults();
        scene
            .platform
            .add_fault(Fault::reply(StatusCode::OK, token_reply(&token)));
        let outcome = scene.run(&[&server.url(""), "one"]);
        let expected = format!("secret: one\nfrom: imds\naudience: {audience}\ntenant: -\nobject: -\napplication: -\n");
        // Until when a token is valid, whoever gives it says too.
        succeeds(&outcome, &expected);
    }
}

fn arguments_that_are_wrong_ask_for_nothing(scene: Scene) {
    let url = scene.vault.base_url();
    for arguments in [&[][..], &[url], &[url, NAME, "more"]] {
        fails(&scene.run(arguments), "usage: fetch-secret VAULT-URL SECRET");
    }
    let authority = url.strip_prefix("https://").unwrap();
    for url in [
        authority.to_owned(),
        format!("ftp://{authority}"),
        "https:///".to_owned(),
        format!("{url}//"),
        format!("{url}?x"),
        format!("https://me@{authority}"),
        format!("https://me you.{authority}"),
        "https://a%b.example".to_owned(),
        "https://a~b.example".to_owned(),
    ] {
        fails(&scene.run(&[&url, NAME]), &format!("not the URL of a vault: {url}"));
    }
    assert_eq!(scene.platform.stats().requests, 0);
    assert!(scene.vault.requests().is_empty());
}

fn what_is_not_granted_is_denied(mut scene: Scene) {
    scene.grants = scene
        .grants
        .replace("https://vault.azure.net", "https://management.azure.com");
    fails(
        &scene.fetch(NAME),
        "denied: By the host's policy, the caller \"fetch-secret\" is not granted tokens for \"https://vault.azure.net\". Add \
         it to `audiences` of `[[caller.fetch-secret.token]]`.",
    );
    assert_eq!(scene.platform.stats().requests, 0);
    assert!(scene.vault.requests().is_empty());
}

/// The failure of a guest for which there is no token, as the command tells it to its own user.
fn without_token(scene: &Scene, options: &[&str]) -> String {
    let arguments = ["token", "--resource", "https://vault.azure.net", "--output", "json"];
    let error = run(scene.environment.iter().cloned(), &[&arguments, options].concat()).error();
    let [cause, message] = ["cause", "message"].map(|member| error[member].as_str().unwrap());
    format!("{cause}: {message}")
}

fn where_no_identity_endpoint_listens_the_cause_says_so(mut scene: Scene) {
    let address = closed();
    for (name, value) in &mut scene.environment {
        if name == "AZURE_POD_IDENTITY_AUTHORITY_HOST" {
            *value = format!("http://{address}");
        }
    }
    let expected = without_token(&scene, &[]);
    assert!(expected.starts_with("endpoint-unreachable: ") && expected.contains(&address.to_string()));
    fails(&scene.fetch(NAME), &expected);
    assert!(scene.vault.requests().is_empty());
}

fn a_wait_that_the_platform_asks_for_is_told(scene: Scene) {
    // Longer than anybody waits, so that nothing is tried again.
    let throttled =
        Fault::reply(StatusCode::TOO_MANY_REQUESTS, "").header(RETRY_AFTER, HeaderValue::from_static("120"));
    scene.platform.add_fault(throttled);
    let expected = without_token(&scene, &[]);
    assert!(expected.starts_with("throttled: "), "{expected}");
    fails(&scene.fetch(NAME), &format!("{expected} (again in 120000 ms)"));
}

fn a_malformed_token_has_no_claims(scene: Scene) {
    const MALFORMED: &str = "not-a-jwt";
    scene
        .platform
        .add_fault(Fault::reply(StatusCode::OK, token_reply(MALFORMED)));
    let expected = claims::decode(MALFORMED).unwrap_err().message;
    let outcome = scene.fetch(NAME);
    outcome.must_not_show(&[MALFORMED]);
    fails(&outcome, &format!("claims: invalid-request: {expected}"));
    assert!(scene.vault.requests().is_empty());
}

fn a_claims_challenge_is_answered_with_another_token(scene: Scene) {
    scene
        .vault
        .demand_claims(r#"{"access_token":{"nbf":{"essential":true}}}"#);
    let outcome = scene.fetch(NAME);
    scene.succeeds(&outcome, NAME);
    assert_eq!(statuses(&scene.vault.requests()), [401, 200]);
    assert_eq!((scene.vault.tokens(), scene.platform.stats().requests), (2, 2));
}

fn what_a_challenge_claims_is_passed_on_as_it_is(mut scene: Scene) {
    // No claims, which whoever gives tokens says; a guest that read them would have to say it in its own words.
    let claims = STANDARD.encode("[]");
    let expected = without_token(&scene, &["--claims", &claims]);
    assert!(expected.starts_with("invalid-request: "), "{expected}");
    for (asked, challenge) in [
        format!(r#"Bearer realm="", error="insufficient_claims", claims="{claims}", x="y""#),
        // Names of parameters have no case, and one may end as another does.
        format!(r#"Bearer subclaims="e30=", Claims="{claims}""#),
    ]
    .iter()
    .enumerate()
    {
        let server = Server::always(Act::Reply(reply(401, &[("WWW-Authenticate", challenge)], "")));
        scene.host = server.url("");
        fails(&scene.run(&[&scene.host, NAME]), &expected);
        let requests = scene.platform.stats().requests;
        assert_eq!(
            (server.requests().len(), requests),
            (1, 1 + asked as u64),
            "{challenge}"
        );
    }
}

fn a_token_that_is_refused_without_a_challenge_is_not_used_again(mut scene: Scene) {
    for challenge in [
        &[][..],
        &[("WWW-Authenticate", "Bearer authorization=\"https://login.example\"")],
    ] {
        let refusal = reply(401, challenge, "");
        let asked = AtomicUsize::new(0);
        let server = Server::start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Act::Reply(refusal.clone()),
            _ => Act::ok(r#"{"id":"https://vault.example/secrets/one"}"#),
        });
        scene.host = server.url("");
        let outcome = scene.run(&[&scene.host, NAME]);
        scene.succeeds(&outcome, "one");
        let authorizations: Vec<_> = server
            .requests()
            .iter()
            .map(|request| request.headers().into_iter().find(|(name, _)| name == "authorization"))
            .collect();
        let [Some(first), Some(second)] = &authorizations[..] else {
            panic!("two requests with a token, and not {}", authorizations.len());
        };
        assert!(first.1.starts_with("Bearer ") && first != second);
    }
    assert_eq!(scene.platform.stats().requests, 4);
}

fn a_second_refusal_is_a_status(scene: Scene) {
    for _ in 0..2 {
        scene
            .vault
            .demand_claims(r#"{"access_token":{"nbf":{"essential":true}}}"#);
    }
    fails(&scene.fetch(NAME), "vault: status 401");
    assert_eq!(statuses(&scene.vault.requests()), [401, 401]);
    assert_eq!(scene.platform.stats().requests, 2);
}

fn other_statuses_are_told(scene: Scene) {
    // A name is one part of the path, whatever is in it.
    for name in ["other", "greeting?", "greet ing"] {
        fails(&scene.fetch(name), "vault: status 404");
    }
    for (behaviour, status) in [
        (
            Behaviour {
                redirect_to: Some(format!("{}/elsewhere", scene.vault.base_url())),
                ..Behaviour::default()
            },
            302,
        ),
        (
            Behaviour {
                fail_each: NonZeroU32::new(1),
                ..Behaviour::default()
            },
            503,
        ),
    ] {
        scene.vault.behave(behaviour);
        fails(&scene.fetch(NAME), &format!("vault: status {status}"));
    }
    assert_eq!(statuses(&scene.vault.requests()), [404, 404, 404, 302, 503]);
}

fn a_body_that_is_no_secret_is_told(mut scene: Scene) {
    let bodies = &[
        "",
        "null",
        r#"["https://vault.example/secrets/one"]"#,
        r#"{"id":["/secrets/one"]}"#,
        r#"{"id":"https://vault.example/secrets/one","value":}"#,
        r#"{"id":"https://vault.example/keys/one"}"#,
    ];
    let server = careless(&mut scene, bodies);
    for _ in bodies {
        fails(&scene.run(&[&server.url(""), NAME]), "vault: not a secret");
    }
    assert_eq!(server.requests().len(), bodies.len());
}

fn a_vault_that_does_not_answer_is_told(mut scene: Scene) {
    // It is there, but not granted, or not known.
    let granted = std::mem::replace(&mut scene.host, "https://elsewhere.example".to_owned());
    no_answer(&scene.fetch(NAME));
    scene.host = granted;
    let trusted = scene.environment.pop();
    no_answer(&scene.fetch(NAME));
    scene.environment.extend(trusted);
    assert!(scene.vault.requests().is_empty());

    let address = closed();
    scene.host = format!("http://{address}");
    no_answer(&scene.run(&[&scene.host, NAME]));

    let whole = reply(200, &[], r#"{"id":"https://vault.example/secrets/one"}"#);
    let broken_off = Act::Close(whole[..whole.len() - 2].to_vec());
    for act in [Act::Close(Vec::new()), Act::Close(b"SSH-2.0\r\n".to_vec()), broken_off] {
        let server = Server::always(act);
        scene.host = server.url("");
        no_answer(&scene.run(&[&scene.host, NAME]));
    }
}
