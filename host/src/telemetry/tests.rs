#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use super::*;
use crate::outbound::{Endpoint, EndpointPolicy, OutboundConfig};
use crate::token::Identity;
use futures_util::FutureExt;
use http_body_util::Empty;
use managed_identity_provider::secret::Secret;
use metrics::{CounterFn, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, with_local_recorder};
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};

const MODULE: &str = include_str!("../telemetry.rs");

/// Keeps all numbers, by name and labels: `name{label=value}`.
#[derive(Clone, Default)]
struct Numbers(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

impl Numbers {
    fn number(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let name = match labels.is_empty() {
            true => key.name().to_owned(),
            false => format!("{}{{{}}}", key.name(), labels.join(",")),
        };
        Arc::clone(self.0.lock().unwrap().entry(name).or_default())
    }

    /// The counters that are not zero.
    fn counted(&self) -> BTreeMap<String, u64> {
        let numbers = self.0.lock().unwrap();
        numbers
            .iter()
            .filter(|(name, _)| ![TOKENS_HELD, EARLIEST_EXPIRY].contains(&name.as_str()))
            .map(|(name, number)| (name.clone(), number.load(Ordering::Relaxed)))
            .filter(|(_, number)| *number > 0)
            .collect()
    }

    fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.0.lock().unwrap()[name].load(Ordering::Relaxed))
    }

    fn telemetry(&self) -> Telemetry {
        with_local_recorder(self, Telemetry::new)
    }
}

/// Counts measurements; their sizes are the clock's.
struct Measurements(Arc<AtomicU64>);

impl HistogramFn for Measurements {
    fn record(&self, seconds: f64) {
        assert!(seconds >= 0.0);
        self.0.increment(1);
    }
}

impl Recorder for Numbers {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.number(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.number(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Measurements(self.number(key))))
    }
}

/// Keeps what spans say, as `name field=value`, in order.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<String>>>);

impl Visit for Spans {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.lock().unwrap().push(format!("{field}={value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.lock().unwrap().push(format!("{field}={value:?}"));
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("managed_identity::")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let name = format!("{}::{}", span.metadata().target(), span.metadata().name());
        self.0.lock().unwrap().push(name);
        span.record(&mut self.clone());
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Spans {
    fn text(&self) -> String {
        self.0.lock().unwrap().join(" ")
    }
}

fn token(stale: bool) -> Arc<AccessToken> {
    Arc::new(AccessToken {
        token: Secret::from("very-secret"),
        token_type: "Bearer".to_owned(),
        audience: "https://vault.azure.net".to_owned(),
        expires_on: 2_000,
        refresh_on: 1_500,
        client_id: None,
        source: "imds".to_owned(),
        stale,
    })
}

#[test]
fn each_thing_that_happens_is_counted_where_it_belongs() {
    type Happen = fn(&Telemetry);
    for (happen, expected) in [
        (
            (|telemetry| telemetry.hit()) as Happen,
            &[
                ("managed_identity_hits_total", 1),
                ("managed_identity_requests_total{outcome=token,cause=none}", 1),
            ][..],
        ),
        (
            |telemetry| telemetry.answered(&token(false)),
            &[("managed_identity_requests_total{outcome=token,cause=none}", 1)],
        ),
        (
            |telemetry| telemetry.answered(&token(true)),
            &[("managed_identity_requests_total{outcome=stale,cause=none}", 1)],
        ),
        (
            |telemetry| telemetry.answered_despite(&Error::new(Cause::EndpointUnreachable, "x")),
            &[(
                "managed_identity_requests_total{outcome=stale,cause=endpoint-unreachable}",
                1,
            )],
        ),
        (
            |telemetry| {
                telemetry.failed(&Error::new(Cause::InvalidRequest, "x"));
                telemetry.failed(&Error::new(Cause::Internal, "x"));
                telemetry.failed(&Error::new(Cause::Internal, "x"));
            },
            &[
                ("managed_identity_requests_total{outcome=error,cause=internal}", 2),
                (
                    "managed_identity_requests_total{outcome=error,cause=invalid-request}",
                    1,
                ),
            ],
        ),
        (|telemetry| telemetry.flight(), &[("managed_identity_flights_total", 1)]),
        (
            |telemetry| telemetry.refreshed(),
            &[("managed_identity_refreshes_total", 1)],
        ),
        (
            |telemetry| Restart::ALL.into_iter().for_each(|reason| telemetry.restarted(reason)),
            &[
                ("managed_identity_provider_restarts_total{reason=cpu}", 1),
                ("managed_identity_provider_restarts_total{reason=other}", 1),
                ("managed_identity_provider_restarts_total{reason=stuck}", 1),
                ("managed_identity_provider_restarts_total{reason=trap}", 1),
            ],
        ),
        (
            |telemetry| {
                for what in Denied::ALL {
                    telemetry.refused(what, &Error::new(Cause::Denied, "x"));
                    telemetry.refused(what, &Error::new(Cause::InvalidRequest, "x"));
                }
                telemetry.refused(Denied::Token, &Error::new(Cause::Throttled, "x"));
            },
            &[
                ("managed_identity_denials_total{kind=authorize-only}", 1),
                ("managed_identity_denials_total{kind=describe-source}", 1),
                ("managed_identity_denials_total{kind=endpoint}", 1),
                ("managed_identity_denials_total{kind=forget}", 1),
                ("managed_identity_denials_total{kind=http}", 1),
                ("managed_identity_denials_total{kind=rate}", 2),
                ("managed_identity_denials_total{kind=token}", 1),
            ],
        ),
    ] {
        let numbers = Numbers::default();
        happen(&numbers.telemetry());
        let expected: BTreeMap<_, _> = expected
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        assert_eq!(numbers.counted(), expected);
    }
}

#[test]
fn every_name_and_every_value_of_a_label_is_documented() {
    let numbers = Numbers::default();
    drop(numbers.telemetry());
    let table: BTreeMap<_, _> = MODULE
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `managed_identity_"))
        .filter_map(|line| line.split_once('`'))
        .map(|(name, rest)| (format!("managed_identity_{name}"), rest))
        .collect();
    let mut names = BTreeSet::new();
    for number in numbers.0.lock().unwrap().keys() {
        let (name, labels) = number.split_once('{').unwrap_or((number, ""));
        names.insert(name.to_owned());
        let row = table[name];
        for (label, value) in labels
            .trim_end_matches('}')
            .split(',')
            .filter_map(|label| label.split_once('='))
        {
            assert!(row.contains(&format!("`{label}`")), "{number}");
            let is_range = matches!(value, "3xx" | "4xx");
            let is_listed = label == CAUSE || row.contains(&format!("`{value}`"));
            assert!(is_range || is_listed, "{number}");
        }
    }
    assert_eq!(names, table.into_keys().collect());
}

#[test]
fn tokens_of_all_brokers_are_counted_together_and_those_of_an_ended_one_no_more() {
    let numbers = Numbers::default();
    let (one, other) = (numbers.telemetry(), numbers.telemetry());
    let held = |expected: f64| assert_eq!(numbers.gauge(TOKENS_HELD).to_bits(), expected.to_bits());
    held(0.0);
    for (tokens, together) in [(2, 2.0), (2, 2.0), (5, 5.0), (1, 1.0)] {
        one.holds(tokens, Some(2_000), 1_000);
        held(together);
    }
    other.holds(3, Some(2_000), 1_000);
    held(4.0);
    drop(one);
    held(3.0);
    drop(other);
    held(0.0);
}

#[tokio::test(start_paused = true)]
async fn the_time_to_the_earliest_expiry_runs_down_by_itself() {
    let numbers = Numbers::default();
    let telemetry = numbers.telemetry();
    let expiry = || numbers.gauge(EARLIEST_EXPIRY);
    for (tokens, earliest, now, expected) in [
        (1, Some(1_100), 1_000, 100.0),
        (1, Some(1_000), 1_000, 0.0),
        (1, Some(900), 1_000, 0.0),
        (0, None, 1_000, f64::INFINITY),
        (2, Some(1_100), 1_000, 100.0),
    ] {
        telemetry.holds(tokens, earliest, now);
        assert_eq!(expiry().to_bits(), expected.to_bits());
    }
    let began = tokio::time::Instant::now();
    let now = || 1_000 + began.elapsed().as_secs();
    let aged = tokio::time::timeout(Duration::from_secs(61), telemetry.age(now)).await;
    assert!(aged.is_err());
    assert_eq!(expiry().to_bits(), 40.0_f64.to_bits());
}

#[test]
fn a_call_has_a_span_that_says_how_it_ended_and_holds_no_secret() {
    let requests = || TokenRequest::new("https://vault.azure.net");
    let failed = || Error::new(Cause::IdentityNotFound, "very-secret").with_source("imds");
    for (request, result, expected) in [
        (
            requests(),
            Ok(token(false)),
            "audience=https://vault.azure.net identity=platform-default outcome=token cause=none source=imds",
        ),
        (
            requests()
                .with_identity(Identity::ClientId("very-secret".to_owned()))
                .with_claims("very-secret")
                .with_rejected_token(Secret::from("very-secret")),
            Ok(token(true)),
            "audience=https://vault.azure.net identity=client-id outcome=stale cause=none source=imds",
        ),
        (
            TokenRequest::new("a\nb\u{202e}").with_identity(Identity::SystemAssigned),
            Err(failed()),
            r"audience=a\nb\u{202e} identity=system-assigned outcome=error cause=identity-not-found source=imds otel.status_code=ERROR",
        ),
    ] {
        let (numbers, spans) = (Numbers::default(), Spans::default());
        let telemetry = numbers.telemetry();
        let ended = tracing::subscriber::with_default(spans.clone(), || {
            telemetry.asked(&request, async { result.clone() }).now_or_never()
        });
        assert_eq!(ended.unwrap().is_ok(), result.is_ok());
        assert_eq!(spans.text(), format!("managed_identity::broker::token {expected}"));
        assert_eq!(numbers.counted(), BTreeMap::new(), "who asks counts how it ended");
    }
}

#[test]
fn a_long_audience_is_cut_off() {
    let spans = Spans::default();
    let request = TokenRequest::new("\0".repeat(1_000_000));
    let telemetry = Numbers::default().telemetry();
    tracing::subscriber::with_default(spans.clone(), || {
        drop(telemetry.asked(&request, async { Ok(token(false)) }).now_or_never());
    });
    assert!(spans.text().contains('\u{2026}') && spans.text().len() < 2_000);
}

#[test]
fn a_call_that_is_given_up_is_counted_as_abandoned() {
    let numbers = Numbers::default();
    let telemetry = numbers.telemetry();
    let request = TokenRequest::new("https://vault.azure.net");
    assert!(telemetry.asked(&request, pending()).now_or_never().is_none());
    let abandoned = "managed_identity_requests_total{outcome=abandoned,cause=none}".to_owned();
    assert_eq!(numbers.counted(), BTreeMap::from([(abandoned, 1)]));
}

/// Takes one connection, reads a request and sends this. Without anything to send, it keeps the connection open.
async fn endpoint(reply: &'static str) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        assert!(connection.read(&mut [0; 4096]).await.unwrap() > 0);
        match reply {
            "" => pending().await,
            reply => connection.write_all(reply.as_bytes()).await.unwrap(),
        }
    });
    url
}

async fn closed_port() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    format!("http://{}/token", listener.local_addr().unwrap())
}

#[tokio::test]
async fn a_request_to_the_endpoint_is_measured_and_has_a_span_by_its_outcome() {
    let denied = Some("managed_identity_denials_total{kind=endpoint}");
    for (url, asked, outcome, said, also) in [
        (
            endpoint("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await,
            "",
            "2xx",
            Some("http.response.status_code=200"),
            None,
        ),
        (
            endpoint("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n").await,
            "",
            "3xx",
            Some("http.response.status_code=302"),
            None,
        ),
        (
            endpoint("HTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n").await,
            "",
            "4xx",
            Some("http.response.status_code=429"),
            None,
        ),
        (
            endpoint("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await,
            "",
            "5xx",
            Some("http.response.status_code=503"),
            None,
        ),
        (
            endpoint("SSH-2.0\r\n\r\n").await,
            "",
            "malformed",
            Some("error.type=malformed otel.status_code=ERROR"),
            None,
        ),
        (
            endpoint("HTTP/1.1 200").await,
            "",
            "broken",
            Some("error.type=broken otel.status_code=ERROR"),
            None,
        ),
        (
            endpoint("").await,
            "",
            "timeout",
            Some("error.type=timeout otel.status_code=ERROR"),
            None,
        ),
        (
            closed_port().await,
            "",
            "unconnected",
            Some("error.type=unconnected otel.status_code=ERROR"),
            None,
        ),
        (closed_port().await, "/very-secret", "denied", None, denied),
    ] {
        let (numbers, spans) = (Numbers::default(), Spans::default());
        let telemetry = numbers.telemetry();
        let policy = EndpointPolicy::from_iter([Endpoint::from_environment(&url).unwrap()]);
        let outbound = Outbound::new(
            policy,
            OutboundConfig {
                first_byte_timeout: Duration::from_millis(300),
                ..OutboundConfig::default()
            },
        );
        let request = Request::get(format!("{url}{asked}?key=very-secret"))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let guard = tracing::subscriber::set_default(spans.clone());
        let result = telemetry.send(&outbound, request, RequestOptions::default()).await;
        drop(guard);

        let measured = format!("managed_identity_upstream_seconds{{outcome={outcome}}}");
        let expected = [Some(measured.as_str()), also];
        let expected: BTreeMap<_, _> = expected
            .into_iter()
            .flatten()
            .map(|name| (name.to_owned(), 1))
            .collect();
        assert_eq!(numbers.counted(), expected, "{result:?}");
        let origin = url.strip_suffix("/token").unwrap();
        let said = match said {
            Some(said) => format!(" http.request.method=GET server.origin={origin} url.path=/token {said}"),
            None => " error.type=denied otel.status_code=ERROR".to_owned(),
        };
        assert_eq!(
            spans.text(),
            format!("managed_identity::outbound::upstream otel.kind=client{said}")
        );
    }
}

#[tokio::test]
async fn a_request_to_the_endpoint_that_is_given_up_is_measured_as_abandoned() {
    let numbers = Numbers::default();
    let telemetry = numbers.telemetry();
    let url = endpoint("").await;
    let policy = EndpointPolicy::from_iter([Endpoint::from_environment(&url).unwrap()]);
    let outbound = Outbound::new(policy, OutboundConfig::default());
    let request = Request::get(url).body(Empty::<Bytes>::new()).unwrap();
    let sent = telemetry.send(&outbound, request, RequestOptions::default());
    assert!(sent.now_or_never().is_none());
    let abandoned = "managed_identity_upstream_seconds{outcome=abandoned}".to_owned();
    assert_eq!(numbers.counted(), BTreeMap::from([(abandoned, 1)]));
}

#[test]
fn an_instance_is_replaced_for_what_the_engine_says() {
    for (error, expected) in [
        (wasmtime::Error::from(Trap::Interrupt), Restart::Cpu),
        (wasmtime::Error::from(Trap::OutOfFuel), Restart::Cpu),
        (wasmtime::Error::from(Trap::UnreachableCodeReached), Restart::Trap),
        (
            wasmtime::Error::from(Trap::MemoryOutOfBounds).context("in the provider"),
            Restart::Trap,
        ),
        (wasmtime::Error::msg("too many handles"), Restart::Other),
    ] {
        assert_eq!(Restart::of(&error), expected, "{error:?}");
    }
}
