#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use super::*;
use crate::callers::Callers;
use crate::config::Config;
use crate::secrets::Secrets;
use envoy_types::pb::google::rpc;
use http::StatusCode;
use managed_identity_emulator::{Emulator, EmulatorConfig, Fault, Source};
use managed_identity_host::Broker;
use managed_identity_host::grants::Gate;
use prost::Message as _;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Code;

/// When to give up waiting for an answer.
const DEADLINE: Duration = Duration::from_secs(60);

const CALLERS: &str = "
    [listener.l]
    address = '127.0.0.1:0'
    protocols = ['health']
    [limits]
    token-timeout = '5s'
    [caller.envoy]
    [[caller.envoy.token]]
    audiences = ['https://vault.azure.net', 'https://storage.azure.com']
    [caller.other]
    [[caller.other.token]]
    audiences = ['https://vault.azure.net']
";
const VAULT: &str = "
    [secret.vault]
    caller = 'envoy'
    audience = 'https://vault.azure.net'
";
const STORAGE: &str = "
    [secret.storage]
    caller = 'envoy'
    audience = 'https://storage.azure.com'
    prefix = 'Token '
";
const FOREIGN: &str = "
    [secret.foreign]
    caller = 'other'
    audience = 'https://vault.azure.net'
";

/// A platform, and the secrets of a server.
struct Stand {
    platform: Emulator,
    gate: Gate,
    secrets: Secrets,
    service: SecretService,
}

fn config(secrets: &[&str]) -> Config {
    Config::from_toml(&[&[CALLERS], secrets].concat().concat()).unwrap()
}

impl Stand {
    fn start() -> Self {
        let platform = Emulator::start(EmulatorConfig::default()).unwrap();
        let broker = Broker::builder()
            .environment(platform.environment_for(Source::AppService))
            .build()
            .unwrap();
        let config = config(&[VAULT, STORAGE, FOREIGN]);
        let gate = Gate::new(broker, config.policy.clone());
        let secrets = Secrets::new(&config, &gate);
        let callers = Callers::new(&config, &gate);
        let asker = Arc::clone(callers.by_name(&Caller::new("envoy")).unwrap());
        let service = SecretService::new(asker, secrets.subscribe(), DEADLINE);
        Self {
            platform,
            gate,
            secrets,
            service,
        }
    }

    fn open(&self) -> Opened {
        let (requests, asked) = mpsc::channel(8);
        let asked = stream::unfold(asked, async |mut asked| Some((asked.recv().await?, asked)));
        Opened {
            requests,
            answers: Exchange::new(Box::pin(asked), self.service.subscription(), self.service.patience).answers(),
        }
    }
}

/// A stream of a proxy.
struct Opened {
    requests: mpsc::Sender<Result<DiscoveryRequest, Status>>,
    answers: BoxStream<'static, Result<DiscoveryResponse, Status>>,
}

fn request(names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(ToString::to_string).collect(),
        type_url: TYPE.to_owned(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    }
}

impl Opened {
    async fn ask(&self, names: &[&str], nonce: &str) {
        self.requests.send(Ok(request(names, nonce))).await.unwrap();
    }

    async fn next(&mut self) -> Option<Result<DiscoveryResponse, Status>> {
        timeout(DEADLINE, self.answers.next()).await.unwrap()
    }

    /// The nonce of the next answer, and what is in it.
    async fn told(&mut self) -> (String, Vec<(String, String)>) {
        let answer = self.next().await.unwrap().unwrap();
        assert_eq!(answer.type_url, TYPE);
        assert!(!answer.version_info.is_empty());
        (answer.nonce.clone(), told(&answer))
    }
}

/// Names and values.
fn told(answer: &DiscoveryResponse) -> Vec<(String, String)> {
    let values = answer.resources.iter().map(|resource| {
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
    values.collect()
}

fn withheld(name: &str) -> (String, String) {
    (name.to_owned(), String::new())
}

#[tokio::test]
async fn a_secret_is_told_with_its_prefix_and_names_may_follow() {
    let stand = Stand::start();
    let mut opened = stand.open();
    opened.ask(&["vault"], "").await;
    let (nonce, first) = opened.told().await;
    assert!(first.len() == 1 && first[0].0 == "vault" && first[0].1.starts_with("Bearer ey"));
    // What is taken is not told again, what is refused neither, and who speaks of a former answer is not heard.
    opened.ask(&["vault"], &nonce).await;
    let mut refused = request(&["vault"], &nonce);
    refused.error_detail = Some(rpc::Status::default());
    opened.requests.send(Ok(refused)).await.unwrap();
    opened.ask(&["foreign"], "99").await;
    opened.ask(&["vault", "storage"], &nonce).await;
    let (mut latest, mut second) = opened.told().await;
    assert_eq!(latest, "2");
    assert!(second.contains(&first[0]));
    while second.len() < 2 {
        (latest, second) = opened.told().await;
    }
    assert!(second[0].0 == "storage" && second[0].1.starts_with("Token ey"));
    opened.ask(&["storage"], &latest).await;
    assert_eq!(opened.told().await.1, second[..1]);
}

#[tokio::test]
async fn who_is_told_nothing_learns_nothing_and_is_not_kept_waiting() {
    let stand = Stand::start();
    let mut opened = stand.open();
    opened.ask(&["foreign", "nobodys"], "").await;
    assert_eq!(opened.told().await.1, [withheld("foreign"), withheld("nobodys")]);
    assert_eq!(stand.platform.stats().requests, 0);
    // Once they are told, they are.
    let vault = VAULT.replace("vault]", "nobodys]");
    stand.secrets.replace(&config(&[VAULT, &vault, FOREIGN]), &stand.gate);
    let (_, mut after) = opened.told().await;
    while after.len() < 2 {
        after = opened.told().await.1;
    }
    assert_eq!(after[0], withheld("foreign"));
    assert!(after[1].1.starts_with("Bearer ey"));
}

#[tokio::test]
async fn a_token_is_followed_by_its_successor() {
    let stand = Stand::start();
    stand.platform.configure(|settings| settings.token_lifetime_seconds = 8);
    let mut opened = stand.open();
    opened.ask(&["vault"], "").await;
    let (_, first) = opened.told().await;
    let (_, second) = opened.told().await;
    assert!(second[0].1.starts_with("Bearer ey"));
    assert_ne!(first, second);
}

#[tokio::test]
async fn without_a_valid_token_the_secret_is_withheld_until_there_is_one() {
    let stand = Stand::start();
    let fail = || stand.platform.add_fault(Fault::reply(StatusCode::BAD_REQUEST, "{}"));
    fail();
    let mut opened = stand.open();
    opened.ask(&["vault"], "").await;
    assert_eq!(opened.told().await.1, [withheld("vault")]);
    stand.platform.configure(|settings| settings.token_lifetime_seconds = 6);
    stand.platform.clear_faults();
    let (_, told) = opened.told().await;
    assert!(told[0].1.starts_with("Bearer ey"));
    // While it is valid, no failure takes it away.
    fail();
    let begun = std::time::Instant::now();
    assert_eq!(opened.told().await.1, [withheld("vault")]);
    assert!(begun.elapsed() > Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_secret_that_is_taken_away_is_withheld_and_the_others_go_on() {
    let stand = Stand::start();
    let mut opened = stand.open();
    opened.ask(&["storage", "vault"], "").await;
    let (_, mut before) = opened.told().await;
    while before.len() < 2 {
        before = opened.told().await.1;
    }
    stand.secrets.replace(&config(&[VAULT]), &stand.gate);
    assert_eq!(opened.told().await.1, [withheld("storage"), before[1].clone()]);
}

#[tokio::test]
async fn streams_end_with_the_server_and_with_the_proxy() {
    let stand = Stand::start();
    let (mut ended, mut left) = (stand.open(), stand.open());
    for opened in [&mut ended, &mut left] {
        opened.ask(&["vault"], "").await;
        opened.told().await;
    }
    let Opened { requests, mut answers } = left;
    drop(requests);
    assert!(timeout(DEADLINE, answers.next()).await.unwrap().is_none());
    stand.secrets.end();
    assert_eq!(ended.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(ended.next().await.is_none());
    // It does not begin anew.
    stand.secrets.replace(&config(&[VAULT]), &stand.gate);
    let mut late = stand.open();
    late.ask(&["vault"], "").await;
    assert_eq!(late.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_stream_that_asks_for_nothing_is_ended_and_one_that_has_asked_is_not() {
    let stand = Stand::start();
    let patience = Duration::from_millis(50);
    for has_asked in [false, true] {
        let first = has_asked.then(|| Ok(request(&["vault"], "")));
        let asked = stream::iter(first).chain(stream::pending());
        let mut answers = Exchange::new(Box::pin(asked), stand.service.subscription(), patience).answers();
        let mut next = async || timeout(DEADLINE, answers.next()).await.unwrap();
        if has_asked {
            assert!(next().await.unwrap().is_ok());
            // Nothing follows for as long as the token is good.
            assert!(timeout(patience * 4, answers.next()).await.is_err());
        } else {
            assert_eq!(next().await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
            assert!(next().await.is_none());
        }
    }
}

#[tokio::test]
async fn what_is_no_request_for_secrets_is_refused() {
    let stand = Stand::start();
    let many = vec!["a"; MOST_NAMES + 1];
    let mut other = request(&["vault"], "");
    other.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned();
    for wrong in [other, request(&many, "")] {
        let mut opened = stand.open();
        opened.requests.send(Ok(wrong)).await.unwrap();
        assert_eq!(opened.next().await.unwrap().unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn who_asks_once_is_told_or_told_why_not() {
    let stand = Stand::start();
    let fetch = |names: &[&str]| {
        let request = Request::new(request(names, ""));
        let service = &stand.service;
        async move { service.fetch_secrets(request).await.map(Response::into_inner) }
    };
    let answer = fetch(&["vault", "storage"]).await.unwrap();
    assert_eq!(told(&answer).len(), 2);
    for name in ["foreign", "nobodys"] {
        let status = fetch(&["vault", name]).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message().contains(name)),
            (Code::PermissionDenied, true)
        );
    }
    assert_eq!(told(&fetch(&[]).await.unwrap()), []);
}
