//! A policy before a broker: who gets which tokens, how often, and what the audit trail tells of it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use futures_util::FutureExt as _;
use managed_identity_host::audit::TARGET;
use managed_identity_host::grants::{AuthorizeRule, Caller, Destination, Gate, Granted, Policy};
use managed_identity_host::outbound::{Endpoint, Origin};
use managed_identity_host::{Cause, Identity, Secret, TokenRequest, WasiVersion};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::brokers::{broker, request};
use support::server::{Act, Server, reply, token_reply};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, SubscriberExt as _};

/// Long enough for any of this on any machine.
const PATIENT: Duration = Duration::from_secs(60);

/// What all these tests make tokens of; no event may have it.
const TOKEN: &str = "s3cr3t-t0k3n";

/// What a caller is granted: the audience that [`request`] makes of `vault`.
const VAULT: &str = "[[caller.report.token]]\naudiences = ['https://vault.example']\n";

/// A platform that gives each audience a token named after it.
fn platform() -> Server {
    Server::start(|request| Act::token(&format!("{TOKEN}-{}", request.case())))
}

fn gate(server: &Server, policy: &str) -> Gate {
    let policy = Policy::from_toml(policy).unwrap();
    Gate::new(broker(WasiVersion::V0_3, server.app_service("s3cr3t")), policy)
}

fn caller(gate: &Gate, name: &str) -> Granted {
    gate.caller(Caller::new(name))
}

fn vault() -> TokenRequest {
    request("vault", PATIENT)
}

fn origin(url: &str) -> Origin {
    Endpoint::granted(url).unwrap().origin().clone()
}

async fn cause(granted: &Granted, request: &TokenRequest) -> Option<Cause> {
    granted.token(request).await.err().map(|error| error.cause)
}

/// Listens to everything that is told to `tracing` on this thread, of whatever target.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Told>>>);

/// Fields and values.
type Told = BTreeMap<&'static str, String>;

impl Heard {
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        tracing::subscriber::set_default(tracing_subscriber::registry().with(self.clone()))
    }

    /// The audit events since this was asked last.
    fn take(&self) -> Vec<Told> {
        let mut events = std::mem::take(&mut *self.0.lock().unwrap());
        for event in &events {
            for value in event.values() {
                assert!(!value.contains(TOKEN), "{event:?}");
            }
        }
        events.retain_mut(|event| event.remove("target").is_some_and(|target| target == TARGET));
        events
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Heard {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Fields(Told);
        impl Visit for Fields {
            fn record_str(&mut self, field: &Field, value: &str) {
                self.0.insert(field.name(), value.to_owned());
            }

            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                self.0.insert(field.name(), format!("{value:?}"));
            }
        }
        let mut fields = Fields(BTreeMap::from([("target", event.metadata().target().to_owned())]));
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }
}

fn told<const N: usize>(fields: [(&'static str, &str); N]) -> Told {
    fields.map(|(name, value)| (name, value.to_owned())).into()
}

fn fingerprint(token: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    digest.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn who_is_granted_nothing_is_denied_everything_and_the_platform_hears_nothing() {
    let server = platform();
    let gate = gate(&server, VAULT);
    let nobody = caller(&gate, "nobody");
    let rule = AuthorizeRule::new(["vault.example".parse().unwrap()], "https://vault.example");
    let refreshing = vault().with_claims("{}").with_rejected_token(Secret::from(TOKEN));
    for error in [
        nobody.token(&vault()).await.unwrap_err(),
        nobody.token(&refreshing).await.unwrap_err(),
        nobody
            .authorization("GET", &origin("https://vault.example"), &rule, None)
            .await
            .unwrap_err(),
        nobody.admit_http("GET", &origin("https://vault.example")).unwrap_err(),
        nobody.forget(None).await.unwrap_err(),
        nobody.forget(Some("https://vault.example")).await.unwrap_err(),
        nobody.describe_source().await.unwrap_err(),
    ] {
        assert_eq!(error.cause, Cause::Denied);
        assert!(
            error.message.contains("\"nobody\"") && error.message.contains("[[caller.nobody."),
            "{error}"
        );
    }
    assert_eq!(
        nobody.destination(&origin("https://vault.example")),
        Destination::Denied
    );
    assert!(nobody.grant().is_none());
    assert_eq!(server.requests().len(), 0);
    // The one who is granted it gets it, from whatever task it asks.
    let report = caller(&gate, "report");
    let elsewhere = report.clone();
    let call = tokio::spawn(async move { elsewhere.token(&vault()).await });
    assert!(call.await.unwrap().is_ok());
    assert!(report.describe_source().await.unwrap().source.is_some());
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_rule_holds_for_its_audiences_and_identities_together() {
    const ID: &str = "12345678-90ab-cdef-1234-567890abcdef";
    let server = platform();
    let policy = format!(
        "[[caller.report.token]]\naudiences = ['https://vault.example', 'https://*.db.example']\nidentities = ['client-id:{ID}']\n\
         [[caller.report.token]]\naudiences = ['https://mail.example']\n"
    );
    let report = caller(&gate(&server, &policy), "report");
    let client = Identity::ClientId(ID.to_uppercase());
    for (audience, identity, denied) in [
        ("https://vault.example", &client, None),
        ("https://vault.example/.default", &client, None),
        ("https://a.db.example", &client, None),
        (
            "https://vault.example",
            &Identity::PlatformDefault,
            Some("Add \"platform-default\" to `identities`"),
        ),
        (
            "https://vault.example",
            &Identity::ObjectId(ID.to_owned()),
            Some("as object-id:12345678"),
        ),
        (
            "https://a.b.db.example",
            &client,
            Some("Add it to `audiences` of `[[caller.report.token]]`"),
        ),
        ("https://mail.example", &Identity::PlatformDefault, None),
        ("https://mail.example", &client, Some("Add \"client-id:12345678")),
        (
            "https://other.example\r\n\u{1b}[31m",
            &client,
            Some("\"https://other.example\\r\\n\\u{1b}[31m\""),
        ),
    ] {
        let asked = TokenRequest::new(audience)
            .with_identity(identity.clone())
            .with_timeout(PATIENT);
        match (report.token(&asked).await, denied) {
            (Ok(_), None) => {}
            (Err(error), Some(message)) => {
                assert_eq!(error.cause, Cause::Denied, "{audience} {identity:?}");
                assert!(error.message.contains(message), "{error}");
            }
            (result, _) => panic!("{audience} {identity:?}: {result:?}"),
        }
    }
}

#[tokio::test]
async fn another_policy_holds_at_once_for_those_who_ask_already() {
    let server = platform();
    let with_token =
        "[[caller.report.authorize-only]]\nhosts = ['*.vault.example']\naudience = 'https://vault.example'\n";
    let gate = gate(&server, with_token);
    let report = caller(&gate, "report");
    let place = origin("https://a.vault.example");
    let Destination::Authorized(rule) = report.destination(&place) else {
        panic!("it is granted");
    };
    assert_eq!(
        report.destination(&origin("http://a.vault.example")),
        Destination::Denied
    );
    assert!(report.authorization("GET", &place, &rule, None).await.is_ok());
    assert_eq!(
        cause(&report, &vault()).await,
        Some(Cause::Denied),
        "it must not see the token"
    );
    let elsewhere = report
        .authorization("GET", &origin("https://b.example"), &rule, None)
        .await;
    assert_eq!(elsewhere.unwrap_err().cause, Cause::Denied);

    gate.replace(Policy::from_toml(VAULT).unwrap());
    assert_eq!(report.destination(&place), Destination::Denied);
    assert_eq!(
        report
            .authorization("GET", &place, &rule, None)
            .await
            .unwrap_err()
            .cause,
        Cause::Denied
    );
    assert_eq!(cause(&report, &vault()).await, None);

    gate.replace(Policy::default());
    assert_eq!(cause(&report, &vault()).await, Some(Cause::Denied));
    assert_eq!(server.requests().len(), 1, "all of this was one token");
}

#[tokio::test]
async fn the_audit_trail_tells_of_each_decision_and_never_of_a_token() {
    let server = Server::start(|request| match request.case().as_str() {
        "failing" => Act::status(400, "{}"),
        case => Act::token(&format!("{TOKEN}-{case}")),
    });
    let gate = gate(
        &server,
        "[caller.report]
         [[caller.report.token]]
         audiences = ['https://vault.example', 'https://failing.example']
         [[caller.report.authorize-only]]
         hosts = ['*.vault.example']
         audience = 'https://vault.example'
         [[caller.report.http]]
         hosts = ['http://plain.example:8080']",
    );
    let report = caller(&gate, "report");
    let heard = Heard::default();
    let _listening = heard.listen();

    let token = report.token(&vault()).await.unwrap();
    let expires_on = token.expires_on.to_string();
    let fingerprint = fingerprint(&format!("{TOKEN}-vault"));
    let issued = |kind| {
        told([
            ("caller", "report"),
            ("kind", kind),
            ("decision", "allowed"),
            ("audience", "https://vault.example"),
            ("identity", "platform-default"),
            ("source", token.source.as_str()),
            ("fingerprint", fingerprint.as_str()),
            ("expires_on", expires_on.as_str()),
            ("stale", "false"),
        ])
    };
    assert_eq!(heard.take(), [issued("token")]);

    let rejected = Secret::new(format!("{TOKEN}-rejected"));
    let failing = request("failing", PATIENT)
        .with_claims("{\"a\":1}")
        .with_rejected_token(rejected);
    let failure = report.token(&failing).await.unwrap_err();
    let event = [
        ("caller", "report"),
        ("kind", "token"),
        ("decision", "allowed"),
        ("audience", "https://failing.example"),
        ("identity", "platform-default"),
        ("cause", failure.cause.name()),
    ];
    assert_eq!(heard.take(), [told(event)]);

    let garbage = TokenRequest::new("\u{202e}\n").with_identity(Identity::ClientId("\0".to_owned()));
    assert_eq!(cause(&report, &garbage).await, Some(Cause::Denied));
    let event = [
        ("caller", "report"),
        ("kind", "token"),
        ("decision", "denied"),
        ("audience", "\\u{202e}\\n"),
        ("identity", "client-id:\\u{0}"),
        ("cause", "denied"),
    ];
    assert_eq!(heard.take(), [told(event)]);

    let place = origin("https://a.vault.example");
    let Ok(Destination::Authorized(rule)) = report.admit_http("PUT", &place) else {
        panic!("it is granted");
    };
    assert_eq!(heard.take(), [], "told of when the token is there");
    report.authorization("PUT", &place, &rule, None).await.unwrap();
    let mut event = issued("authorize-only");
    event.extend(told([("method", "PUT"), ("destination", "https://a.vault.example")]));
    assert_eq!(heard.take(), [event]);

    assert_eq!(
        report.admit_http("GET", &origin("http://plain.example:8080")),
        Ok(Destination::Plain)
    );
    assert!(report.admit_http("GET\n", &origin("https://169.254.169.254")).is_err());
    report.forget(None).await.unwrap();
    report.forget(Some("https://vault.example/.default")).await.unwrap();
    report.forget(Some("https://other.example")).await.unwrap_err();
    report.describe_source().await.unwrap();
    let event = |kind, decision| told([("caller", "report"), ("kind", kind), ("decision", decision)]);
    let with = |mut event: Told, name, value: &str| {
        event.insert(name, value.to_owned());
        event
    };
    let sent = |decision, method, place| with(with(event("http", decision), "method", method), "destination", place);
    assert_eq!(
        heard.take(),
        [
            sent("allowed", "GET", "http://plain.example:8080"),
            with(sent("denied", "GET\\n", "https://169.254.169.254"), "cause", "denied"),
            event("forget", "allowed"),
            with(event("forget", "allowed"), "audience", "https://vault.example/.default"),
            with(
                with(event("forget", "denied"), "audience", "https://other.example"),
                "cause",
                "denied"
            ),
            event("describe-source", "allowed"),
        ]
    );
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_told_of_too() {
    let server = Server::always(Act::Hold(Vec::new()));
    let report = caller(&gate(&server, VAULT), "report");
    let heard = Heard::default();
    let _listening = heard.listen();
    let asked = vault();
    let mut call = Box::pin(report.token(&asked));
    assert!(call.as_mut().now_or_never().is_none());
    assert_eq!(heard.take(), []);
    drop(call);
    let events = heard.take();
    assert_eq!(
        (events[0]["decision"].as_str(), events[0]["cause"].as_str()),
        ("allowed", "cancelled")
    );
    assert_eq!(events.len(), 1);
}

#[tokio::test]
async fn a_flood_of_denied_calls_reaches_neither_the_provider_nor_the_disk() {
    const CALLS: u64 = 10_000;
    let server = platform();
    let gate = gate(&server, VAULT);
    let hostile = caller(&gate, "hostile");
    let heard = Heard::default();
    let _listening = heard.listen();
    for number in 0..CALLS {
        let asked = TokenRequest::new(format!("https://{number}.example"));
        // No reply of the provider is waited for, because it is not asked.
        let error = hostile.token(&asked).now_or_never().unwrap().unwrap_err();
        assert_eq!(error.cause, Cause::Denied);
    }
    assert_eq!(server.requests().len(), 0);
    // Those without an event are counted in the next.
    gate.replace(Policy::from_toml("[[caller.hostile.token]]\naudiences = ['*']").unwrap());
    assert_eq!(cause(&hostile, &vault()).await, None);
    let events = heard.take();
    let unrecorded: u64 = events
        .iter()
        .filter_map(|event| event.get("unrecorded")?.parse::<u64>().ok())
        .sum();
    assert_eq!(events.len() as u64 + unrecorded, CALLS + 1);
    assert!(unrecorded > CALLS / 2, "{unrecorded}");
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_looked_at() {
    let server = platform();
    let report = caller(
        &gate(
            &server,
            "[[caller.report.token]]\naudiences = ['*']\nidentities = ['any']",
        ),
        "report",
    );
    let heard = Heard::default();
    let _listening = heard.listen();
    let large = "a".repeat(10_000_000);
    for asked in [
        TokenRequest::new(large.as_str()),
        vault().with_identity(Identity::ClientId(large.clone())),
        vault().with_claims(large.as_str()),
        vault().with_rejected_token(Secret::from(large.as_str())),
    ] {
        assert_eq!(cause(&report, &asked).await, Some(Cause::InvalidRequest));
    }
    assert_eq!(
        report.forget(Some(&large)).await.unwrap_err().cause,
        Cause::InvalidRequest
    );
    let events = heard.take();
    assert_eq!(events.len(), 5);
    for event in events {
        assert_eq!(
            (event["decision"].as_str(), event["cause"].as_str()),
            ("denied", "invalid-request")
        );
        assert!(event.values().all(|value| value.len() < 3000), "{event:?}");
    }
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn all_who_ask_under_one_name_share_its_rate() {
    let server = platform();
    let limited = |rate: &str| {
        format!(
            "[caller.report]\nrate = '{rate}'\n{VAULT}{}",
            VAULT.replace("report", "other")
        )
    };
    let gate = gate(&server, &limited("3/hour"));
    let heard = Heard::default();
    let _listening = heard.listen();
    let (first, second) = (caller(&gate, "report"), caller(&gate, "report"));
    assert_eq!(cause(&first, &vault()).await, None);
    assert_eq!(cause(&second, &vault()).await, None);
    // What is denied counts too.
    assert_eq!(
        cause(&first.clone(), &request("other", PATIENT)).await,
        Some(Cause::Denied)
    );
    drop(heard.take());
    for granted in [&first, &second, &caller(&gate, "report")] {
        let error = granted.token(&vault()).await.unwrap_err();
        assert_eq!(error.cause, Cause::Throttled);
        assert!(error.message.contains("`rate` of `[caller.report]`"), "{error}");
        assert!((1..=1_200_000).contains(&error.retry_after_ms.unwrap()), "{error:?}");
    }
    assert_eq!(first.describe_source().await.unwrap_err().cause, Cause::Throttled);
    assert_eq!(first.forget(None).await.unwrap_err().cause, Cause::Throttled);
    assert!(heard.take().iter().all(|event| event["decision"] == "throttled"));
    // Nobody else is limited, and the same policy again gives nothing back.
    assert_eq!(cause(&caller(&gate, "other"), &vault()).await, None);
    gate.replace(Policy::from_toml(&limited("3/hour")).unwrap());
    assert_eq!(cause(&first, &vault()).await, Some(Cause::Throttled));
    gate.replace(Policy::from_toml(&format!("{VAULT}{}", VAULT.replace("report", "other"))).unwrap());
    assert_eq!(cause(&first, &vault()).await, None);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn what_no_cache_answers_has_a_rate_of_its_own() {
    let server = platform();
    let policy = format!("[caller.report]\nrefresh-rate = '3/hour'\n{VAULT}");
    let report = caller(&gate(&server, &policy), "report");
    let claims = vault().with_claims("{\"access_token\":{}}");
    let rejected = vault().with_rejected_token(Secret::from("another"));
    assert_eq!(cause(&report, &claims).await, None);
    assert_eq!(cause(&report, &rejected).await, None);
    assert_eq!(report.forget(None).await, Ok(()));
    let asked = server.requests().len();
    for error in [
        report.token(&claims).await.unwrap_err(),
        report.token(&rejected).await.unwrap_err(),
        report.forget(None).await.unwrap_err(),
    ] {
        assert_eq!(error.cause, Cause::Throttled);
        assert!(
            error.message.contains("`refresh-rate`") && error.retry_after_ms.is_some(),
            "{error:?}"
        );
    }
    assert_eq!(server.requests().len(), asked);
    for _ in 0..10 {
        assert_eq!(cause(&report, &vault()).await, None);
    }
}

#[tokio::test]
async fn a_caller_has_so_many_calls_under_way_and_no_more() {
    let server = Server::start(|request| Act::Gated(reply(200, &[], &token_reply(&request.case()))));
    let policy = format!(
        "[caller.report]\nconcurrency = 2\n{VAULT}{}",
        VAULT.replace("report", "other")
    );
    let gate = gate(&server, &policy);
    let report = caller(&gate, "report");
    let asked = vault();
    let mut under_way: Vec<_> = (0..2).map(|_| Box::pin(report.token(&asked))).collect();
    for call in &mut under_way {
        assert!(call.as_mut().now_or_never().is_none());
    }
    let error = report.token(&asked).now_or_never().unwrap().unwrap_err();
    assert_eq!(error.cause, Cause::Throttled);
    assert!(
        error.message.contains("`concurrency`") && error.retry_after_ms.is_some(),
        "{error:?}"
    );
    // Another caller has its own. Whoever leaves makes no room for as long as the provider is at work.
    let other = caller(&gate, "other");
    let mut others = Box::pin(other.token(&asked));
    assert!(others.as_mut().now_or_never().is_none());
    server.wait_for_requests(1).await;
    drop(under_way.pop());
    assert_eq!(cause(&report, &asked).await, Some(Cause::Throttled));
    server.release();
    assert!(others.await.is_ok() && under_way.remove(0).await.is_ok());
    for _ in 0..10 {
        assert_eq!(cause(&report, &asked).await, None);
    }
}

#[tokio::test]
async fn a_caller_drops_what_it_is_granted_by_name_and_nothing_else() {
    let server = platform();
    let gate = gate(
        &server,
        "[[caller.report.token]]
         audiences = ['https://vault.example', 'https://*.db.example']
         [[caller.other.token]]
         audiences = ['*']",
    );
    let (report, other) = (caller(&gate, "report"), caller(&gate, "other"));
    let asked_for = || {
        let mut cases: Vec<_> = server.requests().iter().map(|request| request.case()).collect();
        cases.sort();
        cases
    };
    let ask_all = async || {
        for case in ["vault", "a.db", "mail"] {
            assert_eq!(cause(&other, &request(case, PATIENT)).await, None);
        }
    };
    ask_all().await;
    ask_all().await;
    assert_eq!(asked_for(), ["a.db", "mail", "vault"]);
    report.forget(None).await.unwrap();
    ask_all().await;
    assert_eq!(asked_for(), ["a.db", "mail", "vault", "vault"]);
    report.forget(Some("https://a.db.example")).await.unwrap();
    ask_all().await;
    assert_eq!(asked_for(), ["a.db", "a.db", "mail", "vault", "vault"]);
    assert_eq!(
        report.forget(Some("https://mail.example")).await.unwrap_err().cause,
        Cause::Denied
    );
    // Granted everything, and nothing by name.
    other.forget(None).await.unwrap();
    ask_all().await;
    assert_eq!(asked_for(), ["a.db", "a.db", "mail", "vault", "vault"]);
}

/// What a caller may do who is granted any audience: ask for ever new ones, and wait for none of them.
#[tokio::test]
async fn who_asks_for_ever_new_audiences_and_leaves_takes_no_more_than_its_places() {
    const PLACES: usize = 64;
    let server = Server::start(|request| match request.case().as_str() {
        "vault" => Act::token(TOKEN),
        _ => Act::Hold(Vec::new()),
    });
    let gate = gate(&server, &format!("{VAULT}[[caller.flood.token]]\naudiences = ['*']\n"));
    let flood = caller(&gate, "flood");
    for round in 0..20 {
        let requests: Vec<_> = (0..PLACES)
            .map(|number| request(&format!("{round}-{number}"), PATIENT))
            .collect();
        let mut calls = futures_util::future::join_all(requests.iter().map(|request| cause(&flood, request)));
        match round {
            0 => tokio::select! {
                _ = &mut calls => unreachable!("nothing answers"),
                () = server.wait_for_requests(PLACES) => {}
            },
            // The first ones were abandoned after they had begun, and are at work all the same.
            _ => assert_eq!(calls.await, [Some(Cause::Throttled); PLACES]),
        }
    }
    assert_eq!(cause(&caller(&gate, "report"), &vault()).await, None);
    assert_eq!(server.requests().len(), PLACES + 1);
}
