//! External authorization, over gRPC and HTTP: audiences by route, and what Envoy does when the broker or the platform is
//! away.

use crate::proxy::{Envoy, Folder, configured, refusal, request};
use crate::support::emulated::Emulated;
use crate::support::served::Served;
use crate::{FORGED, SECRET, broker, is_opened, nobody, proxied, vault};
use managed_identity_emulator::{Fault, KeyVault, Source};
use std::collections::BTreeMap;

/// The two variants. All that is tested of one holds for the other, but for where the cause of a failure is.
const VARIANTS: [&str; 2] = ["ext-authz-grpc.yaml", "ext-authz-http.yaml"];

/// The socket in the examples.
const SOCKET: &str = "/run/managed-identity/envoy.sock";

/// What the vault says of a token that is good, and for somebody else.
const FOREIGN_AUDIENCE: &str = "akv10022: invalid audience";

fn started(folder: &Folder, example: &str, vault: &KeyVault, others: &[(&str, &str)]) -> Envoy {
    let socket = folder.path("envoy.sock");
    let mut replaced = vec![(SOCKET, socket.as_str())];
    replaced.extend(others);
    Envoy::start(folder, &proxied(example, "vault", vault, &replaced), &[])
}

/// Both variants at once, because each has to wait for tokens to expire.
fn each_variant(run: impl Fn(&str, &Folder) + Sync) {
    std::thread::scope(|scope| {
        for example in VARIANTS {
            let run = &run;
            scope.spawn(move || run(example, &Folder::new(&format!("warm-{example}"))));
        }
    });
}

/// The broker of the example, with this identity source.
fn served(folder: &Folder, platform: &Emulated) -> Served {
    let environment = platform.environment_for(Source::Imds).into_iter().collect();
    broker(folder, "ext-authz.toml", environment, "envoy-ext-authz")
}

#[test]
fn over_http_the_token_is_added_as_over_grpc() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("http");
    let served = served(&folder, &platform);
    let envoy = started(&folder, "ext-authz-http.yaml", &vault, &[]);
    let address = envoy.address("outbound");
    is_opened(address);
    assert_eq!(platform.requests().len(), 1);

    // What the sender says of audiences is replaced by what Envoy says: by one that is good, and by one that is not granted.
    let storage = "X-Managed-Identity-Audience: https://storage.azure.com";
    let (status, reply) = request(address, SECRET, &[FORGED, storage]).unwrap();
    assert_eq!(status, 200, "{reply}");
    let before = vault.requests().len();
    let wanted = "X-Managed-Identity-Audience: https://vault.azure.net";
    let (status, reply) = request(address, "/storage/secrets/greeting", &[wanted]).unwrap();
    assert_eq!(status, 403, "{reply}");
    assert!(reply.contains("x-managed-identity-error: denied"), "{reply}");
    assert_eq!(vault.requests().len(), before);

    // Where Envoy does not ask, the client's own arrives.
    let (status, _) = request(address, "/public", &[FORGED]).unwrap();
    assert_eq!(status, 401);
    assert_eq!(vault.requests().len(), before + 1);

    // An open connection of Envoy does not hold up the end.
    served.signal("TERM");
    let (code, said) = served.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn each_route_has_the_audience_that_it_says() {
    for example in VARIANTS {
        let platform = Emulated::start();
        let vault = vault(&platform);
        let folder = Folder::new("audiences");
        let socket = folder.path("envoy.sock");
        let two = "audiences = [\"https://vault.azure.net\", \"https://storage.azure.com\"]";
        let granted = [
            (SOCKET, socket.as_str()),
            ("audiences = [\"https://vault.azure.net\"]", two),
        ];
        let file = folder.write("broker.toml", &configured("ext-authz.toml", &granted));
        let environment = platform.environment_for(Source::Imds);
        let _served = Served::start_in(environment, &["--config", &file], &["envoy-ext-authz"]);

        // A third route, whose audience is still not granted.
        let yaml = proxied(example, "vault", &vault, &[(SOCKET, &socket)]);
        let from = yaml.find("- match: { prefix: /storage }").unwrap();
        let to = yaml.find("- match: { prefix: / }").unwrap();
        let graph = yaml[from..to]
            .replace("/storage", "/graph")
            .replace("https://storage.azure.com", "https://graph.microsoft.com");
        let yaml = [&yaml[..to], &graph, &yaml[to..]].concat();
        let envoy = Envoy::start(&folder, &yaml, &[]);
        let address = envoy.address("outbound");

        // Whether it is the first request or one with the token at hand.
        for _ in 0..2 {
            is_opened(address);
            let (status, reply) = request(address, "/storage/secrets/greeting", &[FORGED]).unwrap();
            assert_eq!(status, 401, "{example}: {reply}");
            assert!(reply.contains(FOREIGN_AUDIENCE), "{example}: {reply}");
            let before = vault.requests().len();
            let (status, reply) = request(address, "/graph/secrets/greeting", &[FORGED]).unwrap();
            assert_eq!(status, 403, "{example}: {reply}");
            assert!(reply.contains("x-managed-identity-error: denied"), "{example}: {reply}");
            assert_eq!(vault.requests().len(), before, "{example}");
        }
        let asked: BTreeMap<String, u64> = platform.stats().per_resource;
        let each = |audience: &str| (audience.to_owned(), 1);
        let expected = ["https://storage.azure.com", "https://vault.azure.net"].map(each);
        assert_eq!(asked, expected.into(), "{example}");
    }
}

#[test]
fn without_a_token_envoy_answers_as_it_is_configured() {
    let over_grpc = "x-managed-identity-error: endpoint-unreachable";
    // The status that the example says is replaced by this. Over gRPC the broker's own arrives, with the cause.
    for (example, name, expected, cause) in [
        ("ext-authz-grpc.yaml", "ServiceUnavailable", 503, Some(over_grpc)),
        ("ext-authz-grpc.yaml", "Forbidden", 503, Some(over_grpc)),
        ("ext-authz-http.yaml", "ServiceUnavailable", 503, None),
        ("ext-authz-http.yaml", "Forbidden", 403, None),
    ] {
        let platform = Emulated::start();
        let vault = vault(&platform);
        let folder = Folder::new("cold");
        let _served = broker(&folder, "ext-authz.toml", nobody(&platform), "envoy-ext-authz");
        let code = format!("status_on_error: {{ code: {name} }}");
        let replaced = [("status_on_error: { code: ServiceUnavailable }", code.as_str())];
        let envoy = started(&folder, example, &vault, &replaced);
        let (status, reply) = request(envoy.address("outbound"), SECRET, &[FORGED]).unwrap();
        assert_eq!(status, expected, "{example} {name}: {reply}");
        assert!(
            cause.is_none_or(|cause| reply.contains(cause)),
            "{example} {name}: {reply}"
        );
        assert!(vault.requests().is_empty(), "{example} {name}");
    }
}

#[test]
fn a_token_at_hand_is_used_while_the_platform_is_away() {
    each_variant(|example, folder| {
        let platform = Emulated::start();
        // It is due for renewal at once, so the broker asks again with the first request that follows.
        platform.configure(|settings| settings.token_lifetime_seconds = 8);
        let vault = vault(&platform);
        let _served = served(folder, &platform);
        let envoy = started(folder, example, &vault, &[]);
        let address = envoy.address("outbound");
        is_opened(address);

        platform.add_fault(Fault::reset());
        let asked = platform.requests().len();
        let answered = std::cell::Cell::new(0);
        let failed = envoy.wait_for("it has no token any more", |_| {
            let (status, reply) = request(address, SECRET, &[FORGED])?;
            answered.set(answered.get() + u32::from(status == 200));
            // One that leaves just before the token expires may arrive just after.
            (status != 200 && status != 401).then_some((status, reply))
        });
        assert!(answered.get() > 0, "{example}");
        assert!(platform.requests().len() > asked, "{example}: it was not even tried");
        assert_eq!(failed.0, 503, "{example}: {}", failed.1);
        let late = vault.requests().iter().filter(|sent| sent.status != Some(200)).count();
        assert!(late <= 1, "{example}: the expired token is sent");

        platform.clear_faults();
        envoy.wait_for("it has a token again", |_| {
            let (status, _) = request(address, SECRET, &[FORGED])?;
            (status == 200).then_some(())
        });
    });
}

#[test]
fn a_broker_that_was_killed_is_asked_again_when_it_is_back() {
    for example in VARIANTS {
        let platform = Emulated::start();
        let vault = vault(&platform);
        let folder = Folder::new("killed");
        let mut first = served(&folder, &platform);
        let envoy = started(&folder, example, &vault, &[]);
        let address = envoy.address("outbound");
        is_opened(address);

        // SIGKILL, so that it tells nobody and leaves its socket behind.
        first.child.kill().unwrap();
        first.child.wait().unwrap();
        let before = vault.requests().len();
        let (status, reply) = request(address, SECRET, &[FORGED]).unwrap();
        assert_eq!(status, 503, "{example}: {reply}");
        assert_eq!(vault.requests().len(), before, "{example}");

        let _second = served(&folder, &platform);
        envoy.wait_for("it asks the successor", |_| {
            let (status, _) = request(address, SECRET, &[FORGED])?;
            (status == 200).then_some(())
        });
        is_opened(address);
        assert_eq!(vault.tokens(), 2, "{example}");
        assert_eq!(envoy.terminate(), Some(0));
    }
}

#[test]
fn envoy_refuses_what_it_does_not_know() {
    for (example, from, to, said) in [
        (
            "ext-authz-grpc.yaml",
            "context_extensions",
            "context_extension",
            "context_extension",
        ),
        (
            "ext-authz-grpc.yaml",
            "ServiceUnavailable",
            "NoSuchStatus",
            "NoSuchStatus",
        ),
        (
            "ext-authz-grpc.yaml",
            "transport_api_version: V3",
            "transport_api_version: V2",
            "V2",
        ),
        (
            "ext-authz-http.yaml",
            "headers_to_add",
            "header_to_add",
            "header_to_add",
        ),
        (
            "ext-authz-http.yaml",
            "cluster: managed-identity, timeout: 31s",
            "cluster: managed-identity",
            "Timeout",
        ),
    ] {
        let folder = Folder::new("authz-refused");
        let refused = refusal(&folder, &configured(example, &[(from, to)]), &[]);
        assert!(refused.contains(said), "{example} {to}: {refused}");
    }
}
