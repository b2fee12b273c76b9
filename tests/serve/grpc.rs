//! The gRPC services of Envoy, with a client that is not Envoy: external authorization, and the discovery of secrets.

use crate::support::emulated::Emulated;
use crate::support::program::run;
use crate::support::served::Served;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use envoy_types::pb::google::rpc;
use futures_util::stream;
use managed_identity_emulator::{Fault, Source};
use prost::Message as _;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

/// When to give up waiting for an answer.
const DEADLINE: Duration = Duration::from_secs(60);

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

const CONFIG: &str = "
    [listener.authorization]
    address = '127.0.0.1:0'
    protocols = ['envoy-ext-authz']
    caller = 'envoy'
    [listener.secrets]
    address = '127.0.0.1:0'
    protocols = ['envoy-sds']
    caller = 'envoy'
    [secret.vault]
    caller = 'envoy'
    audience = 'https://vault.azure.net'
    [secret.storage]
    caller = 'envoy'
    audience = 'https://storage.azure.com'
    prefix = 'Token '
    [secret.foreign]
    caller = 'other'
    audience = 'https://vault.azure.net'
    [caller.envoy]
    [[caller.envoy.token]]
    audiences = ['https://vault.azure.net', 'https://storage.azure.com', 'https://unknown.example']
    [[caller.envoy.authorize-only]]
    hosts = ['granted.vault.azure.net']
    audience = 'https://vault.azure.net'
    [[caller.envoy.http]]
    hosts = ['plain.example']
    [caller.other]
    [[caller.other.token]]
    audiences = ['https://vault.azure.net']
";

/// A server with both services, and what runs its clients.
struct Stand {
    platform: Emulated,
    served: Served,
    runtime: Runtime,
}

impl Stand {
    fn start() -> Self {
        let platform = Emulated::start();
        let name = format!("grpc-{}-{:?}.toml", std::process::id(), std::thread::current().id());
        let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&file, CONFIG).unwrap();
        let arguments = ["--config", file.to_str().unwrap()];
        let served = Served::start(&platform, Source::Imds, &arguments, &["envoy-ext-authz", "envoy-sds"]);
        std::fs::remove_file(&file).unwrap();
        Self {
            platform,
            served,
            runtime: Builder::new_current_thread().enable_all().build().unwrap(),
        }
    }

    fn url(&self, protocol: &str) -> String {
        format!("http://{}", self.served.address(protocol))
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { timeout(DEADLINE, future).await })
            .unwrap()
    }
}

/// What Envoy asks of a request to this host, on a route with these extensions.
fn check(host: &str, extensions: &[(&str, &str)]) -> CheckRequest {
    let http = HttpRequest {
        method: "GET".to_owned(),
        host: host.to_owned(),
        path: "/any".to_owned(),
        // As the sender has them.
        headers: [
            ("x-managed-identity-audience", "https://vault.azure.net"),
            ("authorization", "Bearer forged"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
        ..HttpRequest::default()
    };
    let request = Request {
        http: Some(http),
        ..Request::default()
    };
    let extensions = extensions
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(request),
            context_extensions: extensions.collect(),
            ..AttributeContext::default()
        }),
    }
}

#[test]
fn a_check_is_allowed_or_denied_with_its_cause() {
    let stand = Stand::start();
    let audience = |audience| vec![("audience", audience)];
    let malformed = vec![("audience", "https://vault.azure.net"), ("identity", "nobody")];
    let cases: [(_, _, _, _, Result<bool, (i32, &str)>); 9] = [
        (
            "an audience",
            "any.example",
            audience("https://vault.azure.net"),
            Code::Ok,
            Ok(true),
        ),
        (
            "an audience that is not granted",
            "granted.vault.azure.net",
            audience("https://graph.microsoft.com"),
            Code::PermissionDenied,
            Err((403, "denied")),
        ),
        (
            "an audience that the platform does not know",
            "any.example",
            audience("https://unknown.example"),
            Code::Unavailable,
            Err((503, "audience-not-found")),
        ),
        (
            "a host that is granted",
            "granted.vault.azure.net",
            vec![],
            Code::Ok,
            Ok(true),
        ),
        (
            "a host that needs no token",
            "plain.example",
            vec![],
            Code::Ok,
            Ok(false),
        ),
        (
            "a host that is not granted",
            "other.vault.azure.net",
            vec![],
            Code::PermissionDenied,
            Err((403, "denied")),
        ),
        (
            "no host",
            "",
            vec![],
            Code::InvalidArgument,
            Err((400, "invalid-request")),
        ),
        (
            "an identity that is none",
            "any.example",
            malformed,
            Code::InvalidArgument,
            Err((400, "invalid-request")),
        ),
        (
            "an identity that is not granted",
            "any.example",
            vec![("audience", "https://vault.azure.net"), ("identity", "system-assigned")],
            Code::PermissionDenied,
            Err((403, "denied")),
        ),
    ];
    stand.run(async {
        let mut client = AuthorizationClient::connect(stand.url("envoy-ext-authz"))
            .await
            .unwrap();
        for (name, host, extensions, code, expected) in cases {
            let answer = client.check(check(host, &extensions)).await.unwrap().into_inner();
            assert_eq!(answer.status.unwrap().code, i32::from(code), "{name}");
            match (answer.http_response.unwrap(), expected) {
                (HttpResponse::OkResponse(ok), Ok(has_token)) => {
                    assert_eq!(ok.headers.len(), usize::from(has_token), "{name}: {ok:?}");
                    for option in &ok.headers {
                        let header = option.header.as_ref().unwrap();
                        assert_eq!(header.key, "authorization", "{name}");
                        assert!(header.value.starts_with("Bearer ey"), "{name}");
                        // In place of what the sender has.
                        let action = HeaderAppendAction::OverwriteIfExistsOrAdd;
                        assert_eq!(option.append_action, i32::from(action), "{name}");
                    }
                    assert!(ok.response_headers_to_add.is_empty(), "{name}: the sender would see it");
                }
                (HttpResponse::DeniedResponse(denied), Err((status, cause))) => {
                    assert_eq!(denied.status.unwrap().code, status, "{name}: {}", denied.body);
                    let told = denied.headers.iter().filter_map(|option| option.header.as_ref());
                    let told = told.filter(|header| header.key == "x-managed-identity-error");
                    let told: Vec<_> = told.map(|header| header.value.as_str()).collect();
                    assert_eq!(told, [cause], "{name}");
                    assert!(denied.body.contains(cause) && !denied.body.contains("ey"), "{name}");
                }
                (answer, _) => panic!("{name}: {answer:?}"),
            }
        }
    });
}

#[test]
fn without_the_platform_a_check_is_denied_and_with_a_token_at_hand_it_is_not() {
    let stand = Stand::start();
    let vault = || check("any.example", &[("audience", "https://vault.azure.net")]);
    let storage = || check("any.example", &[("audience", "https://storage.azure.com")]);
    stand.run(async {
        let mut client = AuthorizationClient::connect(stand.url("envoy-ext-authz"))
            .await
            .unwrap();
        let code = async |client: &mut AuthorizationClient<_>, request| {
            let answer = client.check(request).await.unwrap().into_inner();
            Code::from(answer.status.unwrap().code)
        };
        assert_eq!(code(&mut client, vault()).await, Code::Ok);
        stand.platform.add_fault(Fault::reset());
        assert_eq!(code(&mut client, storage()).await, Code::Unavailable);
        assert_eq!(code(&mut client, vault()).await, Code::Ok);
        stand.platform.clear_faults();
        assert_eq!(code(&mut client, storage()).await, Code::Ok);
    });
}

#[test]
fn a_listener_has_its_own_service_and_no_other() {
    let stand = Stand::start();
    stand.run(async {
        let mut secrets = SecretDiscoveryServiceClient::connect(stand.url("envoy-ext-authz"))
            .await
            .unwrap();
        let refused = secrets.fetch_secrets(DiscoveryRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
        let mut checks = AuthorizationClient::connect(stand.url("envoy-sds")).await.unwrap();
        let refused = checks.check(CheckRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
        // More than any request has.
        let mut checks = AuthorizationClient::connect(stand.url("envoy-ext-authz"))
            .await
            .unwrap();
        let large = check(&"x".repeat(2 * 1024 * 1024), &[]);
        let refused = checks.check(large).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        let answer = checks.check(check("plain.example", &[])).await.unwrap().into_inner();
        assert_eq!(answer.status.unwrap().code, 0);
    });
    assert_eq!(stand.platform.requests().len(), 0);
}

/// A stream of secrets, as a proxy has it.
struct Proxy {
    requests: mpsc::UnboundedSender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
}

impl Proxy {
    async fn open(stand: &Stand, names: &[&str]) -> Self {
        let mut client = SecretDiscoveryServiceClient::connect(stand.url("envoy-sds"))
            .await
            .unwrap();
        let (requests, asked) = mpsc::unbounded_channel();
        requests.send(request(names, "")).unwrap();
        let asked = stream::unfold(asked, async |mut asked| Some((asked.recv().await?, asked)));
        let answers = client.stream_secrets(asked).await.unwrap().into_inner();
        Self { requests, answers }
    }

    fn send(&self, request: DiscoveryRequest) {
        self.requests.send(request).unwrap();
    }

    async fn next(&mut self) -> Answer {
        Answer::new(&self.answers.message().await.unwrap().unwrap())
    }
}

fn request(names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(ToString::to_string).collect(),
        type_url: TYPE.to_owned(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    }
}

/// What a proxy is told.
#[derive(Debug)]
struct Answer {
    version: u64,
    nonce: String,
    secrets: Vec<(String, String)>,
}

impl Answer {
    fn new(answer: &DiscoveryResponse) -> Self {
        assert_eq!(answer.type_url, TYPE);
        let secrets = answer.resources.iter().map(|resource| {
            assert_eq!(resource.type_url, TYPE);
            let secret = tls::Secret::decode(resource.value.as_slice()).unwrap();
            let Some(tls::secret::Type::GenericSecret(generic)) = secret.r#type else {
                panic!("{}: no generic secret", secret.name)
            };
            let Some(Specifier::InlineString(text)) = generic.secret.unwrap().specifier else {
                panic!("{}: no text", secret.name)
            };
            (secret.name, text)
        });
        Self {
            version: answer.version_info.parse().unwrap(),
            nonce: answer.nonce.clone(),
            secrets: secrets.collect(),
        }
    }

    fn names(&self) -> Vec<&str> {
        self.secrets.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn value(&self, name: &str) -> &str {
        let found = self.secrets.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("no {name} in {:?}", self.names())).1
    }
}

#[test]
fn a_stream_is_told_what_it_names_and_what_is_not_for_it_is_empty() {
    let stand = Stand::start();
    stand.run(async {
        let mut proxy = Proxy::open(&stand, &["vault"]).await;
        let first = proxy.next().await;
        assert_eq!(first.names(), ["vault"]);
        assert!(first.value("vault").starts_with("Bearer ey"));

        // An acknowledgement is not answered: the next answer is to the names that follow it.
        proxy.send(request(&["vault"], &first.nonce));
        proxy.send(request(&["vault", "storage"], &first.nonce));
        let mut second = proxy.next().await;
        if second.names() == ["vault"] {
            // The other token was not there yet.
            second = proxy.next().await;
        }
        assert_eq!(second.names(), ["storage", "vault"]);
        assert!(second.value("storage").starts_with("Token ey"));
        assert_eq!(second.value("vault"), first.value("vault"));
        assert_ne!(second.nonce, first.nonce);
        assert!(second.version > first.version);

        // What another caller has, and what nobody has, look the same.
        for name in ["foreign", "unknown"] {
            let mut proxy = Proxy::open(&stand, &[name]).await;
            let told = proxy.next().await;
            assert_eq!(told.secrets, [(name.to_owned(), String::new())]);
        }
    });
    assert_eq!(stand.platform.requests().len(), 2);
}

#[test]
fn a_proxy_that_refuses_an_answer_is_told_the_next_one_and_not_the_same_again() {
    let stand = Stand::start();
    stand.platform.configure(|settings| settings.token_lifetime_seconds = 6);
    let tokens: Vec<String> = stand.run(async {
        let mut proxy = Proxy::open(&stand, &["vault"]).await;
        let first = proxy.next().await;
        let refusal = |nonce: &str| DiscoveryRequest {
            error_detail: Some(rpc::Status {
                code: 3,
                message: format!("what is in it: {}", first.value("vault")),
                ..rpc::Status::default()
            }),
            ..request(&["vault"], nonce)
        };
        proxy.send(refusal(&first.nonce));
        // About an answer that there was not.
        proxy.send(refusal("77"));
        let second = proxy.next().await;
        assert_ne!(second.value("vault"), first.value("vault"), "it is told again");
        assert!(second.value("vault").starts_with("Bearer ey"));
        proxy.send(request(&["vault"], &second.nonce));
        let third = proxy.next().await;
        assert!(third.version > second.version && second.version > first.version);
        [first, second, third]
            .iter()
            .map(|told| told.value("vault").to_owned())
            .collect()
    });
    stand.served.signal("TERM");
    let Stand { served, .. } = stand;
    let (code, log) = served.end();
    assert_eq!(code, Some(0), "{log}");
    let refused = log
        .lines()
        .filter(|line| line.contains("the proxy has refused a secret"))
        .count();
    assert_eq!(refused, 1, "{log}");
    for token in tokens {
        assert!(
            !log.contains(token.trim_start_matches("Bearer ")),
            "a token is in the log"
        );
    }
}

#[test]
fn whoever_asks_once_gets_a_value_or_a_reason() {
    let stand = Stand::start();
    stand.run(async {
        let mut client = SecretDiscoveryServiceClient::connect(stand.url("envoy-sds"))
            .await
            .unwrap();
        let told = client.fetch_secrets(request(&["vault", "storage"], "")).await.unwrap();
        let told = Answer::new(told.get_ref());
        assert_eq!(told.names(), ["storage", "vault"]);
        assert!(told.value("vault").starts_with("Bearer ey"));
        for name in ["foreign", "unknown"] {
            let refused: Status = client.fetch_secrets(request(&[name], "")).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        }
        let mut other = request(&["vault"], "");
        other.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned();
        let refused = client.fetch_secrets(other).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");

        let delta = stream::iter([DeltaDiscoveryRequest::default()]);
        let refused = client.delta_secrets(delta).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
        assert!(refused.message().contains("api_type: GRPC"), "{refused}");
    });
}

#[test]
fn a_listener_for_secrets_without_any_is_refused_by_the_check_and_at_the_start() {
    let from = CONFIG.find("[secret.vault]").unwrap();
    let to = CONFIG.find("[caller.envoy]").unwrap();
    let name = format!("grpc-no-secrets-{}.toml", std::process::id());
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, [&CONFIG[..from], &CONFIG[to..]].concat()).unwrap();
    for arguments in [
        &["serve", "--config", file.to_str().unwrap(), "--check"][..],
        &["serve", "--config", file.to_str().unwrap()],
    ] {
        let outcome = run([("PATH", "")], arguments);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let said = "`[listener.secrets]` has `envoy-sds`, but there is no secret for anybody who may ask there";
        assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
    }
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn a_stream_ends_with_the_server() {
    let stand = Stand::start();
    let mut proxy = stand.run(async {
        let mut proxy = Proxy::open(&stand, &["vault"]).await;
        proxy.next().await;
        proxy
    });
    stand.served.signal("TERM");
    let ended = stand.run(proxy.answers.message()).unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    drop(proxy);
    let Stand { served, .. } = stand;
    let (code, log) = served.end();
    assert_eq!(code, Some(0), "{log}");
}
