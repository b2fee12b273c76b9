//! Authorized HTTP as a plugin has it: a real component sends ordinary requests, and the host adds a token that is in no byte
//! of the component's memory. The servers are a vault that looks at tokens as Azure's does, and one that keeps what comes
//! over the wire.

#![expect(clippy::unwrap_used, reason = "servers, brokers and plugins are the tests' own")]

mod plugin;
#[path = "../support/mod.rs"]
mod support;

use http::StatusCode;
use managed_identity_emulator::key_vault::{Behaviour, Echo, KeyVault};
use managed_identity_emulator::{Emulator, EmulatorConfig, Fault, SigningKey, Source, http};
use managed_identity_host::authorized_http::{AuthorizedHttp, AuthorizedHttpConfig};
use managed_identity_host::grants::{
    AudiencePattern, AuthorizeRule, Caller, Gate, Grant, HostPattern, IdentityPattern, Policy, TokenRule,
};
use managed_identity_host::outbound::RootCertificates;
use managed_identity_host::{Identity, TokenRequest, WasiVersion};
use plugin::{Plugin, Request, VAULT, occurrences};
use std::sync::OnceLock;
use support::brokers::broker;
use support::server::{Act, Server, reply};

/// Every test is of a plugin for 0.2 and of one for 0.3.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        mod wasi_0_2 {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::WasiVersion::V0_2).await;
            })*
        }

        mod wasi_0_3 {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::WasiVersion::V0_3).await;
            })*
        }
    };
}

tests!(
    the_plugin_gets_the_secret_and_nothing_of_the_token,
    the_search_of_memory_finds_what_is_there,
    what_is_not_granted_or_not_the_plugins_to_say_is_not_sent,
    a_plain_destination_gets_the_request_as_it_is,
    a_redirect_is_the_plugins_to_follow_and_takes_no_token_along,
    a_claims_challenge_is_answered_once,
    a_request_with_a_body_is_sent_again_whole,
    a_challenge_for_which_there_is_no_token_is_the_plugins,
    a_401_without_claims_is_the_plugins_and_asks_for_no_token,
    a_plugin_without_an_identity_is_told_the_cause,
    a_reply_that_repeats_the_token_is_withheld,
    a_server_that_is_not_known_gets_no_token,
    callers_share_connections_and_nothing_else,
    a_caller_waits_for_its_own_requests_and_for_nobody_elses,
);

/// What a plugin is told that asks for what it is not granted.
const DENIED: &str = "ErrorCode::HttpRequestDenied";

/// What it is told where a URL can be read in two ways.
const INVALID: &str = "ErrorCode::HttpRequestUriInvalid";

/// What it is told where an address is out of reach.
const PROHIBITED: &str = "ErrorCode::DestinationIpProhibited";

/// An emulated machine, a vault, and a gate before a broker.
struct Scene {
    /// What its plugins are made for.
    wasi: WasiVersion,
    emulator: Emulator,
    vault: KeyVault,
    gate: Gate,
}

impl Scene {
    fn new(wasi: WasiVersion) -> Self {
        static KEY: OnceLock<SigningKey> = OnceLock::new();
        let config = EmulatorConfig {
            signing_key: Some(KEY.get_or_init(|| SigningKey::generate().unwrap()).clone()),
            ..EmulatorConfig::default()
        };
        let emulator = Emulator::start(config).unwrap();
        let vault = emulator
            .start_key_vault([("greeting", "hello from the vault")])
            .unwrap();
        let broker = broker(wasi, emulator.environment_for(Source::AppService));
        let gate = Gate::new(broker, Policy::default());
        Self {
            wasi,
            emulator,
            vault,
            gate,
        }
    }

    /// A plugin that is granted the vault, authorized, and these hosts as they are.
    async fn plugin(&self, hosts: &[&str]) -> Plugin {
        self.plugin_with(self.grant(hosts)).await
    }

    async fn plugin_with(&self, grant: Grant) -> Plugin {
        let caller = Caller::new("plugin");
        self.gate.replace(Policy::default().with(caller.clone(), grant));
        let hooks = self.hooks(AuthorizedHttp::new(self.gate.caller(caller)));
        Plugin::start(self.wasi, hooks).await
    }

    fn hooks(&self, hooks: AuthorizedHttp) -> AuthorizedHttp {
        hooks.with_root_certificates(RootCertificates::from_pem(self.vault.certificate().authority_pem()).unwrap())
    }

    fn grant(&self, hosts: &[&str]) -> Grant {
        let mut grant = Grant::default();
        grant.authorize_only.push(AuthorizeRule {
            hosts: vec![pattern(&self.vault.listening().to_string())],
            audience: VAULT.to_owned(),
            identity: Identity::PlatformDefault,
        });
        grant.http = hosts.iter().map(|host| pattern(host)).collect();
        grant
    }

    fn secret(&self) -> Request {
        Request::get(&self.url("/secrets/greeting?api-version=7.4"))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.vault.base_url())
    }

    /// The token that the broker has at present.
    async fn token(&self) -> String {
        let token = self.gate.broker().token(&TokenRequest::new(VAULT)).await.unwrap();
        token.token.expose().to_owned()
    }
}

fn pattern(host: &str) -> HostPattern {
    HostPattern::parse(host).unwrap()
}

async fn the_plugin_gets_the_secret_and_nothing_of_the_token(wasi: WasiVersion) {
    let scene = Scene::new(wasi);
    let mut plugin = scene.plugin(&[]).await;
    for _ in 0..2 {
        let reply = plugin.send(&scene.secret()).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(
            reply.text().contains(r#""value":"hello from the vault""#),
            "{}",
            reply.text()
        );
    }
    for request in scene.vault.requests() {
        assert_eq!(request.header("authorization"), Some("[redacted]"));
        assert_eq!(request.header("accept-encoding"), Some("identity"));
    }
    assert_eq!((scene.vault.requests().len(), scene.vault.tokens()), (2, 1));
    assert_eq!(scene.emulator.stats().requests, 1);
    assert_eq!(plugin.pieces_of(&scene.token().await).await, 0);
    assert_eq!(plugin.ask().await, Err("denied".to_owned()));
}

async fn the_search_of_memory_finds_what_is_there(wasi: WasiVersion) {
    let scene = Scene::new(wasi);
    let mut grant = scene.grant(&[]);
    grant.token.push(TokenRule {
        audiences: vec![AudiencePattern::parse(VAULT).unwrap()],
        identities: vec![IdentityPattern::Any],
    });
    let mut plugin = scene.plugin_with(grant).await;
    let planted = "a text that nobody else would think of";
    assert_eq!(occurrences(&plugin.memory().await, planted.as_bytes()), 0);
    let _ = plugin.send(&scene.secret().field("x-planted", planted)).await;
    assert!(occurrences(&plugin.memory().await, planted.as_bytes()) > 0);

    let token = scene.token().await;
    assert_eq!(plugin.pieces_of(&token).await, 0);
    plugin.ask().await.unwrap();
    let parts: usize = token.split('.').skip(1).map(|part| part.len() - 15).sum();
    assert!(plugin.pieces_of(&token).await >= parts);
}

async fn what_is_not_granted_or_not_the_plugins_to_say_is_not_sent(wasi: WasiVersion) {
    let scene = Scene::new(wasi);
    let identity_port = scene.emulator.listening().port();
    let vault_port = scene.vault.listening().port();
    // Granted all the same, and out of reach.
    let out_of_reach = [
        "169.254.169.254".to_owned(),
        "168.63.129.16".to_owned(),
        "100.100.100.200".to_owned(),
        "[fe80::1]".to_owned(),
        "[fd00:ec2::254]".to_owned(),
        "[::ffff:a9fe:a9fe]".to_owned(),
        "[64:ff9b::a9fe:a9fe]".to_owned(),
        format!("127.0.0.1:{identity_port}"),
        format!("127.0.0.2:{identity_port}"),
        format!("localhost:{identity_port}"),
    ];
    let granted: Vec<_> = out_of_reach.iter().map(|host| format!("http://{host}")).collect();
    let granted: Vec<_> = granted
        .iter()
        .map(String::as_str)
        // A pattern may be refused for what it says, which is as good.
        .filter(|host| HostPattern::parse(host).is_ok())
        .collect();
    assert!(granted.iter().any(|host| host.ends_with(&format!(":{identity_port}"))));
    let mut plugin = scene.plugin(&granted).await;
    let secret = || scene.secret();
    let at = |authority: &str| Request::get(&format!("https://{authority}/secrets/greeting?api-version=7.4"));
    let mut cases = vec![
        ("another port", at("127.0.0.1:1"), DENIED),
        ("another host", at("vault.example"), DENIED),
        (
            "the same host by another name",
            at(&format!("localhost:{vault_port}")),
            DENIED,
        ),
        ("another spelling", at(&format!("127.1:{vault_port}")), INVALID),
        ("a number", at(&format!("2130706433:{vault_port}")), INVALID),
        (
            "without TLS",
            Request {
                scheme: "http".to_owned(),
                ..secret()
            },
            DENIED,
        ),
        (
            "another scheme",
            Request {
                scheme: "ftp".to_owned(),
                ..secret()
            },
            DENIED,
        ),
        (
            "its own authorization",
            secret().field("authorization", "Bearer x"),
            DENIED,
        ),
        ("its own cookie", secret().field("cookie", "session=x"), DENIED),
        (
            "a tunnel",
            secret().method("CONNECT"),
            "ErrorCode::HttpRequestMethodInvalid",
        ),
        (
            "a trace",
            secret().method("TRACE"),
            "ErrorCode::HttpRequestMethodInvalid",
        ),
        (
            "a dot segment",
            Request {
                path: "/secrets/../keys".to_owned(),
                ..secret()
            },
            INVALID,
        ),
        (
            "an encoded one",
            Request {
                path: "/secrets/%2e%2E/keys".to_owned(),
                ..secret()
            },
            INVALID,
        ),
        (
            "an encoded slash",
            Request {
                path: "/secrets%2fgreeting".to_owned(),
                ..secret()
            },
            INVALID,
        ),
        (
            "half an octet",
            Request {
                path: "/secrets/%2".to_owned(),
                ..secret()
            },
            INVALID,
        ),
        (
            "two slashes",
            Request {
                path: "//evil.example/".to_owned(),
                ..secret()
            },
            INVALID,
        ),
        (
            "a host field",
            secret().field("host", "evil.example"),
            "HeaderError::Forbidden",
        ),
        (
            "a field of the connection",
            secret().field("connection", "x"),
            "HeaderError::Forbidden",
        ),
        (
            "a field of a proxy",
            secret().field("x-forwarded-for", "x"),
            "HeaderError::Forbidden",
        ),
        (
            "credentials for a proxy",
            secret().field("proxy-authorization", "Basic x"),
            "HeaderError::Forbidden",
        ),
    ];
    let urls: Vec<_> = granted.iter().map(|host| (*host, format!("{host}/"))).collect();
    cases.extend(urls.iter().map(|(host, url)| (*host, Request::get(url), PROHIBITED)));
    for (what, request, expected) in cases {
        let error = plugin.send(&request).await.unwrap_err();
        assert!(error.contains(expected), "{what}: {error}");
    }
    // User information: where it is not refused by the plugin's own library, it is here.
    assert!(plugin.send(&at(&format!("user@127.0.0.1:{vault_port}"))).await.is_err());
    assert_eq!(scene.vault.requests(), []);
    assert_eq!(scene.emulator.stats().connections, 0);
    // Not even a token was asked for.
    assert_eq!(plugin.pieces_of(&scene.token().await).await, 0);
}

async fn a_plain_destination_gets_the_request_as_it_is(wasi: WasiVersion) {
    let scene = Scene::new(wasi);
    let server = Server::always(Act::Reply(reply(200, &[("Set-Cookie", "a=b")], "plain")));
    let mut plugin = scene.plugin(&[&format!("http://{}", server.authority())]).await;
    let request = Request::get(&server.url("/a%20b?c"))
        .method("POST")
        .field("authorization", "Bearer of-the-plugin")
        .field("accept-encoding", "gzip")
        .body("hello");
    let reply = plugin.send(&request).await.unwrap();
    assert_eq!((reply.status, reply.text()), (200, "plain"));
    assert_eq!(reply.field("set-cookie"), Some("a=b"));
    let [request] = &server.requests()[..] else {
        panic!("one request")
    };
    assert_eq!(request.line(), "POST /a%20b?c HTTP/1.1");
    let host = server.authority();
    let expected = [
        ("accept-encoding", "gzip"),
        ("authorization", "Bearer of-the-plugin"),
        ("content-length", "5"),
        ("host", host.as_str()),
    ];
    assert_eq!(
        request.headers(),
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert_eq!(scene.emulator.stats().requests, 0, "no token was asked for");
}

async fn a_redirect_is_the_plugins_to_follow_and_takes_no_token_along(wasi: WasiVersion) {
    let scene = Scene::new(wasi);
    let elsewhere = Server::always(Act::ok("elsewhere"));
    let target = elsewhere.url("/secrets/greeting");
    scene.vault.behave(Behaviour {
        redirect_to: Some(target.clone()),
        ..Behaviour::default()
    });
    let granted = format!("http://{}", elsewhere.authority());
    for (hosts, followed) in [(vec![], Err(DENIED)), (vec![granted.as_str()], Ok("elsewhere"))] {
        let mut plugin = scene.plugin(&hosts).await;
        let redirect = plugin.send(&scene.secret()).await.unwrap();
        assert_eq!(
            (redirect.status, redirect.field("location")),
            (302, Some(target.as_str()))
        );
        assert_eq!(elsewhere.connections(), 0);
        let found = plugin.send(&Request::get(redirect.field("location").unwrap())).await;
        match (found, followed) {
            (Ok(reply), Ok(text)) => assert_eq!(reply.text(), text),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            (found, _) => panic!("{found:?}"),
        }
        assert_eq!(plugin.pieces_of(&scene.token().await).await, 0);
    }
    let [request] = &elsewhere.requests()[..] else {
        panic!("one request")
    };
    assert_eq!(request.headers(), [("host".to_owned(), elsewhere.authority())]);
}

async fn a_claims_challenge_is_answered_once(wasi: WasiVersion) {
    const CLAIMS: &str = r#"{"access_token":{"nbf":{"essential":true,"value":"1700000000"}}}"#;
    for (what, revoked, status, requests, tokens) in [
        ("no challenge", 0, 200, 1, 1),
        ("a challenge that a new token answers", 1, 200, 2, 2),
        ("a challenge that no token answers", 2, 401, 2, 2),
    ] {
        let scene = Scene::new(wasi);
        for _ in 0..revoked {
            scene.vault.demand_claims(CLAIMS);
        }
        let mut plugin = scene.plugin(&[]).await;
        let first = scene.token().await;
        let reply = plugin.send(&scene.secret()).await.unwrap();
        assert_eq!(reply.status, status, "{what}: {}", reply.text());
        assert_eq!(scene.vault.requests().len(), requests, "{what}");
        assert_eq!(scene.vault.tokens(), tokens, "{what}");
        assert_eq!(scene.emulator.stats().requests, tokens as u64, "{what}");
        for token in [first, scene.token().await] {
            assert_eq!(plugin.pieces_of(&token).await, 0, "{what}");
        }
    }
}

async fn a_request_with_a_body_is_sent_again_whole(wasi: WasiVersion) {
    let scene = Scene::new(wasi);
    scene.vault.demand_claims("{}");
    let mut plugin = scene.plugin(&[]).await;
    let body = "x".repeat(100_000);
    let reply = plugin.send(&scene.secret().method("PUT").body(&body)).await.unwrap();
    // What the vault says once it takes the token.
    assert_eq!(reply.status, 405, "{}", reply.text());
    let lengths: Vec<_> = scene
        .vault
        .requests()
        .iter()
        .map(|request| request.header("content-length").map(str::to_owned))
        .collect();
    assert_eq!(lengths, [Some("100000".to_owned()), Some("100000".to_owned())]);
}

async fn a_challenge_for_which_there_is_no_token_is_the_plugins(wasi: WasiVersion) {
    let scene = Scene::new(wasi);
    let mut plugin = scene.plugin(&[]).await;
    let token = scene.token().await;
    scene.vault.demand_claims("{}");
    let refusal = r#"{"error":"invalid_request","error_description":"Identity not found"}"#;
    scene.emulator.add_fault(Fault::reply(StatusCode::BAD_REQUEST, refusal));
    let reply = plugin.send(&scene.secret()).await.unwrap();
    assert_eq!(reply.status, 401);
    assert!(reply.field("www-authenticate").unwrap().contains("insufficient_claims"));
    assert!(reply.text().contains("Unauthorized"), "{}", reply.text());
    assert_eq!(scene.vault.requests().len(), 1);
    assert_eq!(plugin.pieces_of(&token).await, 0);
}

async fn a_401_without_claims_is_the_plugins_and_asks_for_no_token(wasi: WasiVersion) {
    let scene = Scene::new(wasi);
    let mut grant = scene.grant(&[]);
    grant.authorize_only[0].audience = "https://storage.azure.com".to_owned();
    let mut plugin = scene.plugin_with(grant).await;
    let reply = plugin.send(&scene.secret()).await.unwrap();
    assert_eq!(reply.status, 401);
    let challenge = reply.field("www-authenticate").unwrap();
    assert!(
        challenge.contains(r#"resource="https://vault.azure.net""#),
        "{challenge}"
    );
    assert!(!challenge.contains("claims"), "{challenge}");
    assert_eq!((scene.vault.requests().len(), scene.emulator.stats().requests), (1, 1));
}

async fn a_plugin_without_an_identity_is_told_the_cause(wasi: WasiVersion) {
    let scene = Scene::new(wasi);
    let refusal = r#"{"error":"invalid_request","error_description":"Identity not found"}"#;
    scene.emulator.add_fault(Fault::reply(StatusCode::BAD_REQUEST, refusal));
    let mut plugin = scene.plugin(&[]).await;
    let error = plugin.send(&scene.secret()).await.unwrap_err();
    assert!(error.contains("the host has no token for this request: "), "{error}");
    assert_eq!(scene.vault.requests(), []);
}

async fn a_reply_that_repeats_the_token_is_withheld(wasi: WasiVersion) {
    let scene = Scene::new(wasi);
    for echo in [
        Echo::Header,
        Echo::Body,
        Echo::Chunks(1),
        Echo::Chunks(7),
        Echo::Chunks(100),
        Echo::Chunks(1500),
    ] {
        scene.vault.behave(Behaviour {
            echo: Some(echo),
            ..Behaviour::default()
        });
        let mut plugin = scene.plugin(&[]).await;
        let error = plugin.send(&scene.secret()).await.unwrap_err();
        assert!(error.contains("the reply is withheld"), "{echo:?}: {error}");
        assert_eq!(plugin.pieces_of(&scene.token().await).await, 0, "{echo:?}");
    }
    // It is the echo that is withheld, and nothing else of this vault.
    scene.vault.behave(Behaviour::default());
    let mut plugin = scene.plugin(&[]).await;
    assert_eq!(plugin.send(&scene.secret()).await.unwrap().status, 200);
    assert!(scene.vault.requests().iter().all(|request| request.status == Some(200)));
}

async fn a_server_that_is_not_known_gets_no_token(wasi: WasiVersion) {
    let scene = Scene::new(wasi);
    let caller = Caller::new("plugin");
    scene
        .gate
        .replace(Policy::default().with(caller.clone(), scene.grant(&[])));
    // Without the vault's authority.
    let mut plugin = Plugin::start(wasi, AuthorizedHttp::new(scene.gate.caller(caller))).await;
    let error = plugin.send(&scene.secret()).await.unwrap_err();
    assert!(error.contains("TlsCertificateError"), "{error}");
    assert_eq!(scene.vault.requests(), []);
    assert_eq!(plugin.pieces_of(&scene.token().await).await, 0);
}

async fn a_caller_waits_for_its_own_requests_and_for_nobody_elses(wasi: WasiVersion) {
    let scene = Scene::new(wasi);
    let server = Server::start(|request| match request.line().contains("/slow") {
        true => Act::Gated(reply(200, &[], "slow")),
        false => Act::ok("fast"),
    });
    let grant = scene.grant(&[&format!("http://{}", server.authority())]);
    let (one, other) = (Caller::new("one"), Caller::new("other"));
    scene.gate.replace(
        Policy::default()
            .with(one.clone(), grant.clone())
            .with(other.clone(), grant),
    );
    let config = AuthorizedHttpConfig {
        requests_at_once: 1,
        ..AuthorizedHttpConfig::default()
    };
    let hooks = AuthorizedHttp::with_config(scene.gate.caller(one), config);
    let mut slow = Plugin::start(wasi, hooks.clone()).await;
    let mut fast = Plugin::start(wasi, hooks.clone()).await;
    let mut others = Plugin::start(wasi, hooks.for_caller(other)).await;
    let requests = [Request::get(&server.url("/slow")), Request::get(&server.url("/fast"))];
    let others_request = Request::get(&server.url("/other"));
    let both = async {
        let slow = async {
            let reply = slow.send(&requests[0]).await;
            reply.unwrap().text().to_owned()
        };
        let fast = async {
            server.wait_for_requests(1).await;
            fast.send(&requests[1]).await.unwrap().text().to_owned()
        };
        tokio::join!(slow, fast)
    };
    let others = async {
        server.wait_for_requests(1).await;
        for _ in 0..5 {
            assert_eq!(others.send(&others_request).await.unwrap().text(), "fast");
        }
        let seen: Vec<_> = server
            .requests()
            .iter()
            .map(|request| request.line().to_owned())
            .collect();
        assert!(seen.iter().all(|line| !line.contains("/fast")), "{seen:?}");
        server.release();
    };
    let ((slow, fast), ()) = tokio::join!(both, others);
    assert_eq!((slow.as_str(), fast.as_str()), ("slow", "fast"));
}

async fn callers_share_connections_and_nothing_else(wasi: WasiVersion) {
    let scene = Scene::new(wasi);
    let (one, other) = (Caller::new("one"), Caller::new("other"));
    scene
        .gate
        .replace(Policy::default().with(one.clone(), scene.grant(&[])));
    let config = AuthorizedHttpConfig {
        requests_at_once: 1,
        ..AuthorizedHttpConfig::default()
    };
    let hooks = scene.hooks(AuthorizedHttp::with_config(scene.gate.caller(one), config));
    let mut granted = Plugin::start(wasi, hooks.clone()).await;
    let mut again = Plugin::start(wasi, hooks.clone()).await;
    let mut stranger = Plugin::start(wasi, hooks.for_caller(other.clone())).await;
    assert_eq!(granted.send(&scene.secret()).await.unwrap().status, 200);
    assert_eq!(again.send(&scene.secret()).await.unwrap().status, 200);
    let error = stranger.send(&scene.secret()).await.unwrap_err();
    assert!(error.contains(DENIED), "{error}");
    // What is granted holds from the next request on, as does what is not any more.
    scene.gate.replace(Policy::default().with(other, scene.grant(&[])));
    assert_eq!(stranger.send(&scene.secret()).await.unwrap().status, 200);
    let error = granted.send(&scene.secret()).await.unwrap_err();
    assert!(error.contains(DENIED), "{error}");
}
