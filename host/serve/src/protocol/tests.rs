//! Requests and replies, with a real broker on an emulated platform.
#![expect(clippy::unwrap_used, reason = "a test fails where something is not as expected")]

use super::*;
use crate::config::{CallerConfig, Config};
use crate::secret::SecretHash;
use http::{HeaderValue, Request};
use http_body_util::BodyExt as _;
use managed_identity_emulator::{Emulator, EmulatorConfig, Fault, Source};
use managed_identity_host::grants::{Gate, Policy};
use managed_identity_host::{Broker, Identity};
use serde_json::{Value, json};

const SYSTEM: &str = "50000000-0000-4000-8000-0000000000c1";
const A: &str = "a0000000-0000-4000-8000-0000000000c1";
const B_OBJECT: &str = "b0000000-0000-4000-8000-0000000000b1";
const B: &str = "b0000000-0000-4000-8000-0000000000c1";
const VAULT: &str = "https://vault.azure.net";

const POLICY: &str = "
    [caller.report]
    [[caller.report.token]]
    audiences = ['https://vault.azure.net']
    identities = ['any']

    [caller.batch]
    [[caller.batch.token]]
    audiences = ['https://storage.azure.com']
    identities = ['client-id:a0000000-0000-4000-8000-0000000000c1']

    [caller.envoy]
    [[caller.envoy.authorize-only]]
    hosts = ['secret.vault.azure.net', 'odd.example:8443']
    audience = 'https://vault.azure.net'
    [[caller.envoy.http]]
    hosts = ['plain.example']
";

/// A platform, and a listener before it.
struct Stand {
    platform: Emulator,
    service: Service,
}

/// What was answered.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Value,
}

impl Stand {
    fn start(protocols: &[Protocol]) -> Self {
        let platform = Emulator::start(EmulatorConfig::default()).unwrap();
        let broker = Broker::builder()
            .environment(platform.environment_for(Source::Imds))
            .build()
            .unwrap();
        let mut config = Config {
            policy: Policy::from_toml(POLICY).unwrap(),
            ..Config::default()
        };
        for (name, secret, user, default_identity) in [
            ("report", "s3cr3t-report", 1001, Identity::PlatformDefault),
            ("batch", "s3cr3t-batch", 1002, Identity::ClientId(A.to_owned())),
            ("envoy", "s3cr3t-envoy", 1003, Identity::PlatformDefault),
        ] {
            let mut how = CallerConfig::default();
            how.secrets.push(SecretHash::of(secret.as_bytes()));
            how.users.push(user);
            how.default_identity = default_identity;
            config.callers.insert(Caller::new(name), how);
        }
        let gate = Gate::new(broker, config.policy.clone());
        let shared = Shared {
            secrets: crate::secrets::Secrets::new(&config, &gate),
            callers: ArcSwap::from_pointee(Callers::new(&config, &gate)),
            limits: config.limits,
            readiness: Readiness::not_yet("starting"),
            metrics: None,
            requests: Default::default(),
            claimed: Default::default(),
        };
        let service = Service {
            shared: Arc::new(shared),
            protocols: protocols.to_vec(),
            caller: None,
            callers: None,
            hosts: Vec::new(),
            is_tls: false,
        };
        Self { platform, service }
    }

    async fn ask(&self, user: User, method: &str, target: &str, fields: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap().into_parts().0;
        let reply = answer(&request, user, &self.service).await;
        let (parts, body) = reply.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: serde_json::from_slice(&body)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into())),
        }
    }

    async fn app_service(&self, secret: &str, query: &str) -> Answer {
        let target = format!("/msi/token?{query}");
        let fields = [("host", "localhost:4141"), ("x-identity-header", secret)];
        self.ask(None, "GET", &target, &fields).await
    }

    async fn imds(&self, user: u32, query: &str) -> Answer {
        let target = format!("/metadata/identity/oauth2/token?{query}");
        self.ask(Some(user), "GET", &target, &[("metadata", "TRUE")]).await
    }

    async fn envoy(&self, fields: &[(&str, &str)]) -> Answer {
        self.ask(Some(1003), "POST", "/metrics?x=1", fields).await
    }
}

/// What the token's own claims say of whose it is.
fn whose(token: &str) -> String {
    let claims = managed_identity_host::claims::decode(token).unwrap();
    claims.application_id.unwrap()
}

#[tokio::test]
async fn each_secret_gets_what_its_owner_is_granted() {
    let stand = Stand::start(&[Protocol::AppService]);
    let vault = format!("api-version=2019-08-01&resource={VAULT}");
    let storage = "api-version=2019-08-01&resource=https%3A%2F%2Fstorage.azure.com";
    for (secret, query, client) in [
        ("s3cr3t-report", vault.clone(), Ok(SYSTEM)),
        ("s3cr3t-report", format!("{vault}/.default"), Ok(SYSTEM)),
        ("s3cr3t-report", format!("{vault}&client_id={A}"), Ok(A)),
        ("s3cr3t-report", format!("{vault}&CLIENT_ID={A}"), Ok(A)),
        ("s3cr3t-report", format!("{vault}&object_id={B_OBJECT}"), Ok(B)),
        ("s3cr3t-report", format!("{vault}&principal_id={B_OBJECT}"), Ok(B)),
        ("s3cr3t-batch", storage.to_owned(), Ok(A)),
        ("s3cr3t-batch", vault.clone(), Err(403)),
        ("s3cr3t-report", storage.to_owned(), Err(403)),
        ("s3cr3t-nobody", vault.clone(), Err(401)),
        ("", vault.clone(), Err(401)),
        ("s3cr3t-report", format!("resource={VAULT}"), Err(400)),
        ("s3cr3t-report", "api-version=2019-08-01".to_owned(), Err(400)),
        ("s3cr3t-report", "api-version=2019-08-01&resource=".to_owned(), Err(400)),
        (
            "s3cr3t-report",
            format!("api-version=2017-09-01&resource={VAULT}"),
            Err(400),
        ),
        ("s3cr3t-report", format!("{vault}&client_id="), Err(400)),
        (
            "s3cr3t-report",
            format!("{vault}&client_id={A}&object_id={B_OBJECT}"),
            Err(400),
        ),
        ("s3cr3t-report", format!("{vault}&clientid={A}"), Err(400)),
        (
            "s3cr3t-report",
            format!("{vault}&msi_res_id=/subscriptions/a"),
            Err(400),
        ),
        ("s3cr3t-report", format!("{vault}&resource={VAULT}"), Err(400)),
        ("s3cr3t-report", format!("{vault}&x=%ff"), Err(400)),
        (
            "s3cr3t-report",
            format!("{vault}&client_id=a0000000-0000-4000-8000-0000000000ff"),
            Err(400),
        ),
        ("s3cr3t-report", format!("{vault}&token_sha256_to_refresh=zz"), Err(400)),
    ] {
        let answer = stand.app_service(secret, &query).await;
        match client {
            Ok(client) => {
                assert_eq!(answer.status, 200, "{query}: {answer:?}");
                assert_eq!(answer.body["client_id"], client, "{query}");
                assert_eq!(whose(answer.body["access_token"].as_str().unwrap()), client, "{query}");
                assert_eq!(answer.headers["cache-control"], "no-store");
                let resource = query.split("resource=").nth(1).unwrap().split('&').next().unwrap();
                assert_eq!(
                    answer.body["resource"],
                    resource.replace("%3A", ":").replace("%2F", "/")
                );
            }
            Err(status) => {
                assert_eq!(answer.status, status, "{query}: {answer:?}");
                assert_eq!(answer.body["statusCode"], status);
                assert_eq!(answer.body["correlationId"].as_str().unwrap().len(), 36);
                assert!(!answer.body.to_string().contains("s3cr3t"), "{answer:?}");
            }
        }
    }
    let target = format!("/msi/token?{vault}");
    let fields = [("host", "localhost"), ("x-identity-header", "s3cr3t-report")];
    let posted = stand.ask(None, "POST", &target, &fields).await;
    assert_eq!(
        (posted.status, &posted.headers["allow"]),
        (405, &HeaderValue::from_static("GET"))
    );
    let missing = stand.ask(None, "GET", &target, &fields[..1]).await;
    let wrong = stand.app_service("s3cr3t-nobody", &vault).await;
    assert_eq!(
        (missing.status, &missing.body["message"]),
        (401, &wrong.body["message"])
    );
}

#[tokio::test]
async fn a_token_that_was_revoked_is_not_given_again() {
    let stand = Stand::start(&[Protocol::AppService]);
    let query = format!("api-version=2025-03-30&resource={VAULT}&xms_cc=cp1");
    let token = |answer: Answer| answer.body["access_token"].as_str().unwrap().to_owned();
    let first = token(stand.app_service("s3cr3t-report", &query).await);
    assert_eq!(token(stand.app_service("s3cr3t-report", &query).await), first);
    let hash = managed_identity_host::Secret::new(first.clone()).sha256();
    let revoking = format!("{query}&token_sha256_to_refresh={hash}");
    let second = token(stand.app_service("s3cr3t-report", &revoking).await);
    assert_ne!(second, first);
    assert_eq!(
        token(stand.app_service("s3cr3t-report", &revoking).await),
        second,
        "it is not the revoked one"
    );
}

#[tokio::test]
async fn users_of_a_socket_get_what_they_are_granted() {
    let stand = Stand::start(&[Protocol::Imds]);
    let vault = format!("api-version=2018-02-01&resource={VAULT}");
    for (user, query, client) in [
        (1001, vault.clone(), Ok(SYSTEM)),
        (1001, format!("{vault}&client_id={A}"), Ok(A)),
        (1001, format!("{vault}&object_id={B_OBJECT}"), Ok(B)),
        (1001, format!("api-version=2031-01-01&resource={VAULT}"), Ok(SYSTEM)),
        (
            1002,
            "api-version=2018-02-01&resource=https://storage.azure.com".to_owned(),
            Ok(A),
        ),
        (1002, vault.clone(), Err((403, "access_denied"))),
        (1000, vault.clone(), Err((403, "access_denied"))),
        (1001, "api-version=2018-02-01".to_owned(), Err((400, "invalid_request"))),
        (
            1001,
            format!("{vault}&mi_res_id=/subscriptions/a"),
            Err((400, "invalid_request")),
        ),
        (1001, format!("{vault}&Resource=b"), Err((400, "invalid_request"))),
    ] {
        let answer = stand.imds(user, &query).await;
        assert!(answer.headers["server"].to_str().unwrap().contains("IMDS"));
        match client {
            Ok(client) => {
                assert_eq!(answer.status, 200, "{query}: {answer:?}");
                assert_eq!(answer.body["client_id"], client);
                let number = |name: &str| answer.body[name].as_str().unwrap().parse::<u64>().unwrap();
                assert!(number("not_before") <= unix_time());
                assert!(number("expires_on") - unix_time() <= number("expires_in"));
                assert_eq!(number("ext_expires_in"), number("expires_in"));
                assert_eq!(answer.body["refresh_token"], "");
            }
            Err((status, error)) => {
                assert_eq!(
                    (answer.status, &answer.body["error"]),
                    (status, &json!(error)),
                    "{query}: {answer:?}"
                );
            }
        }
    }
    let wrong = stand.imds(1001, &format!("{vault}&mi_res_id=/subscriptions/a")).await;
    assert!(wrong.body["error_description"].as_str().unwrap().contains("msi_res_id"));
    let version = stand.imds(1001, &format!("api-version=1&resource={VAULT}")).await;
    assert_eq!(version.status, 400);
    assert!(version.body["newest-versions"].is_array());

    let token = format!("/metadata/identity/oauth2/token/?{vault}");
    let metadata = ("metadata", "true");
    for (method, target, fields, status) in [
        ("GET", token.as_str(), vec![metadata], 200),
        ("GET", &token, vec![], 400),
        ("GET", &token, vec![("metadata", "false")], 400),
        ("GET", &token, vec![metadata, ("metadata", "false")], 400),
        ("GET", &token, vec![metadata, ("x-forwarded-for", "192.0.2.1")], 400),
        ("POST", &token, vec![metadata], 405),
        ("GET", "/metadata/identity/oauth2/token/", vec![metadata], 400),
        ("GET", "/metadata/instance?api-version=2021-02-01", vec![metadata], 404),
        (
            "GET",
            "/metadata/identity/getplatformmetadata?cred-api-version=2.0",
            vec![metadata],
            404,
        ),
    ] {
        let answer = stand.ask(Some(1001), method, target, &fields).await;
        assert_eq!(answer.status, status, "{method} {target} {fields:?}");
        assert!(answer.body.is_object(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_request_for_another_server_is_refused_on_plain_tcp_only() {
    let mut stand = Stand::start(&[Protocol::AppService, Protocol::Imds, Protocol::Health]);
    for path in ["/msi/token", "/metadata/instance", "/livez", "/elsewhere"] {
        let evil = [("host", "evil.example")];
        assert_eq!(stand.ask(None, "GET", path, &evil).await.status, 421, "{path}");
        assert_eq!(stand.ask(None, "GET", path, &[]).await.status, 421, "{path}");
        assert_ne!(stand.ask(Some(1001), "GET", path, &evil).await.status, 421, "{path}");
        let absolute = format!("http://localhost{path}");
        assert_eq!(
            stand.ask(None, "GET", &absolute, &[("host", "localhost")]).await.status,
            400,
            "{path}"
        );
    }
    stand.service.is_tls = true;
    assert_eq!(
        stand
            .ask(None, "GET", "/livez", &[("host", "evil.example")])
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn envoy_is_given_a_token_for_a_host_that_is_granted() {
    // Whatever else the listener is to speak.
    let stand = Stand::start(&[Protocol::Metrics, Protocol::Health, Protocol::EnvoyExtAuthz]);
    for (fields, status, authorized) in [
        (vec![("host", "secret.vault.azure.net")], 200, true),
        (vec![("host", "SECRET.vault.azure.net:443")], 200, true),
        (
            vec![("host", "odd.example:8443"), ("authorization", "Bearer of-the-client")],
            200,
            true,
        ),
        (
            vec![("host", "plain.example"), ("authorization", "Bearer of-the-client")],
            200,
            false,
        ),
        (vec![("host", "odd.example")], 403, false),
        (vec![("host", "other.vault.azure.net")], 403, false),
        (vec![], 400, false),
        (
            vec![("host", "secret.vault.azure.net"), ("host", "evil.example")],
            400,
            false,
        ),
        (vec![("host", "user@secret.vault.azure.net")], 400, false),
        // It has no `token` rule.
        (
            vec![
                ("host", "secret.vault.azure.net"),
                ("x-managed-identity-audience", VAULT),
            ],
            403,
            false,
        ),
        (
            vec![
                ("host", "secret.vault.azure.net"),
                ("x-managed-identity-identity", "system-assigned"),
            ],
            400,
            false,
        ),
    ] {
        let answer = stand.envoy(&fields).await;
        assert_eq!(answer.status, status, "{fields:?}: {answer:?}");
        let authorization = answer.headers.get("authorization").map(|value| value.to_str().unwrap());
        assert_eq!(authorization.is_some(), authorized, "{fields:?}");
        if let Some(authorization) = authorization {
            assert_eq!(whose(authorization.strip_prefix("Bearer ").unwrap()), SYSTEM);
        }
        assert_eq!(answer.headers.contains_key("x-managed-identity-error"), status != 200);
        assert!(!format!("{answer:?}").contains("of-the-client"));
    }
    // A caller with `token` rules lets its Envoy say what the token is for.
    for (fields, status) in [
        (vec![("x-managed-identity-audience", VAULT)], 200),
        (
            vec![
                ("x-managed-identity-audience", VAULT),
                ("x-managed-identity-identity", "system-assigned"),
            ],
            200,
        ),
        (vec![("x-managed-identity-audience", "https://storage.azure.com")], 403),
        (
            vec![
                ("x-managed-identity-audience", VAULT),
                ("x-managed-identity-audience", VAULT),
            ],
            400,
        ),
        (
            vec![
                ("x-managed-identity-audience", VAULT),
                ("x-managed-identity-identity", "any"),
            ],
            400,
        ),
    ] {
        let answer = stand.ask(Some(1001), "GET", "/", &fields).await;
        assert_eq!(answer.status, status, "{fields:?}: {answer:?}");
    }
    let stranger = stand
        .ask(Some(1000), "GET", "/", &[("host", "secret.vault.azure.net")])
        .await;
    assert_eq!(stranger.status, 403);
}

#[tokio::test]
async fn a_web_page_cannot_say_in_envoys_place_what_a_token_is_for() {
    let mut stand = Stand::start(&[Protocol::EnvoyExtAuthz]);
    stand.service.caller = Some(Caller::new("report"));
    stand.service.hosts.push("proxied.example".to_owned());
    let audience = ("x-managed-identity-audience", VAULT);
    for (fields, is_tls, status) in [
        (vec![("host", "rebound.example:8000"), audience], false, 403),
        (vec![audience], false, 403),
        (vec![("host", "localhost"), audience], false, 200),
        (vec![("host", "proxied.example:8443"), audience], false, 200),
        (vec![("host", "rebound.example:8000"), audience], true, 200),
    ] {
        stand.service.is_tls = is_tls;
        let answer = stand.ask(None, "GET", "/", &fields).await;
        assert_eq!(answer.status, status, "{fields:?}: {answer:?}");
        assert_eq!(answer.headers.contains_key("authorization"), status == 200);
    }
}

#[tokio::test]
async fn a_platform_that_throttles_is_passed_on_with_its_wait() {
    let stand = Stand::start(&[Protocol::AppService, Protocol::Imds]);
    let fault =
        Fault::reply(StatusCode::TOO_MANY_REQUESTS, "").header(http::header::RETRY_AFTER, "120".parse().unwrap());
    stand.platform.add_fault(fault);
    let query = format!("api-version=2019-08-01&resource={VAULT}");
    for answer in [
        stand.app_service("s3cr3t-report", &query).await,
        stand.imds(1001, &query).await,
    ] {
        assert_eq!(answer.status, 429, "{answer:?}");
        let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((100..=120).contains(&wait), "{wait}");
    }
}

#[tokio::test]
async fn what_a_token_says_is_read_once_and_forgotten_with_it() {
    let stand = Stand::start(&[Protocol::Imds]);
    let query = format!("api-version=2019-08-01&resource={VAULT}");
    for _ in 0..3 {
        assert_eq!(stand.imds(1001, &query).await.status, 200);
    }
    assert_eq!(stand.service.shared.claimed.count(), 1);
    for client in [A, B] {
        assert_eq!(
            stand.imds(1001, &format!("{query}&client_id={client}")).await.status,
            200
        );
    }
    assert_eq!(stand.service.shared.claimed.count(), 3);
}
