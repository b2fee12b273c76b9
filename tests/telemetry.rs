//! What a collector gets: the metrics and spans of `managed_identity_host::telemetry`, by OTLP over HTTP.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use managed_identity_host::telemetry::{self, ExportConfig, ExportError, Exporter};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Metric, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use support::closed::closed;
use support::program::{self, Outcome};
use support::server::{Act, Server};
use tracing_subscriber::layer::SubscriberExt;

/// What must be in nothing that the collector gets.
const TOKEN: &str = "eyJ-very-secret-token";

/// One delivery, as it came.
struct Delivery {
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// Takes deliveries until its test ends.
struct Collector {
    url: String,
    deliveries: Arc<Mutex<Vec<Delivery>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let deliveries = Arc::default();
        let received = Arc::clone(&deliveries);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let received = Arc::clone(&received);
                thread::spawn(move || while take(connection.as_ref().unwrap(), &received).is_some() {});
            }
        });
        Self { url, deliveries }
    }

    /// All that came to `path`, decoded.
    fn decoded<M: Message + Default>(&self, path: &str) -> Vec<M> {
        let deliveries = self.deliveries.lock().unwrap();
        let found: Vec<M> = deliveries
            .iter()
            .filter(|delivery| delivery.path == path)
            .map(|delivery| {
                assert_eq!(delivery.headers["content-type"], "application/x-protobuf");
                M::decode(delivery.body.as_slice()).unwrap()
            })
            .collect();
        assert!(!found.is_empty(), "nothing came to {path}");
        found
    }

    fn resources(&self) -> Vec<BTreeMap<String, String>> {
        let traces = self.decoded::<ExportTraceServiceRequest>("/v1/traces").into_iter();
        let traces = traces
            .flat_map(|request| request.resource_spans)
            .map(|spans| spans.resource);
        let metrics = self.decoded::<ExportMetricsServiceRequest>("/v1/metrics").into_iter();
        let metrics = metrics
            .flat_map(|request| request.resource_metrics)
            .map(|metrics| metrics.resource);
        let resources = traces.chain(metrics).flatten();
        resources
            .map(|Resource { attributes, .. }| texts(&attributes))
            .collect()
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.decoded::<ExportTraceServiceRequest>("/v1/traces").into_iter();
        requests
            .flat_map(|request| request.resource_spans)
            .flat_map(|spans| spans.scope_spans)
            .flat_map(|spans| spans.spans)
            .collect()
    }

    fn metrics(&self) -> Vec<Metric> {
        let requests = self.decoded::<ExportMetricsServiceRequest>("/v1/metrics").into_iter();
        requests
            .flat_map(|request| request.resource_metrics)
            .flat_map(|metrics| metrics.scope_metrics)
            .flat_map(|metrics| metrics.metrics)
            .collect()
    }

    fn metric(&self, name: &str) -> Metric {
        let mut found = self.metrics();
        found.retain(|metric| metric.name == name);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found.remove(0)
    }

    fn assert_holds_no(&self, secret: &str) {
        for delivery in self.deliveries.lock().unwrap().iter() {
            let is_there = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_there(&delivery.body), "{}", delivery.path);
            assert!(
                !is_there(format!("{:?}", delivery.headers).as_bytes()),
                "{}",
                delivery.path
            );
        }
    }
}

/// Reads one request and answers it. `None` at the end of the connection.
fn take(mut connection: &TcpStream, deliveries: &Mutex<Vec<Delivery>>) -> Option<()> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    let mut next = || {
        line.clear();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        Some(line.trim_end().to_owned())
    };
    let request = next()?;
    let mut headers = BTreeMap::new();
    loop {
        let line = next()?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    assert!(reader.buffer().is_empty(), "the next request comes after the answer");
    let [method, path, _] = request.split(' ').collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(method, "POST");
    deliveries.lock().unwrap().push(Delivery {
        path: path.to_owned(),
        headers,
        body,
    });
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
    connection.write_all(answer.as_bytes()).ok()
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    };
    attributes
        .iter()
        .map(|attribute| (attribute.key.clone(), text(&attribute.value)))
        .collect()
}

/// The points of a counter or gauge, by one of their labels.
fn points(metric: &Metric, label: &str) -> BTreeMap<String, f64> {
    let points = match metric.data.as_ref().unwrap() {
        Data::Sum(sum) => &sum.data_points,
        Data::Gauge(gauge) => &gauge.data_points,
        other => panic!("{other:?}"),
    };
    let number = |value: &Option<number_data_point::Value>| match value {
        Some(number_data_point::Value::AsInt(number)) => f64::from(i32::try_from(*number).unwrap()),
        Some(number_data_point::Value::AsDouble(number)) => *number,
        None => panic!("a point without a number"),
    };
    points
        .iter()
        .map(|point| {
            let labels = texts(&point.attributes);
            (labels.get(label).cloned().unwrap_or_default(), number(&point.value))
        })
        .collect()
}

fn pairs<V>(pairs: impl IntoIterator<Item = (&'static str, V)>) -> BTreeMap<String, V> {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

// The recorder of metrics is the process's, so that this is the only test that starts an exporter that sends them.
#[test]
fn numbers_and_spans_of_this_crate_reach_the_collector() {
    let collector = Collector::start();
    let exporter = Exporter::start(&ExportConfig::new(&collector.url)).unwrap();
    let subscriber = tracing_subscriber::registry().with(exporter.layer());
    let second = Exporter::start(&ExportConfig::new(&collector.url));
    assert!(matches!(second, Err(ExportError::Recorder)), "{second:?}");

    metrics::describe_counter!(telemetry::RESTARTS, metrics::Unit::Count, "Replaced.");
    metrics::describe_histogram!(telemetry::UPSTREAM, metrics::Unit::Seconds, "Asked.");
    let restarts = |reason: &'static str| metrics::counter!(telemetry::RESTARTS, telemetry::REASON => reason);
    restarts("trap").increment(2);
    restarts("trap").increment(1);
    restarts("cpu").absolute(7);
    restarts("stuck").increment(0);
    let held = metrics::gauge!(telemetry::TOKENS_HELD);
    held.increment(5.0);
    held.decrement(2.0);
    metrics::gauge!(telemetry::EARLIEST_EXPIRY).set(60.0);
    metrics::gauge!("infinite").set(f64::INFINITY);
    let _never_set = metrics::gauge!("never_set");
    let upstream = metrics::histogram!(telemetry::UPSTREAM, telemetry::OUTCOME => "2xx");
    upstream.record(0.02);
    upstream.record(20.0);
    tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!(target: "managed_identity::broker", "token", audience = "https://a.example");
        let _entered = span.enter();
        tracing::trace_span!(target: "managed_identity::broker", "too small").in_scope(|| {});
        tracing::info_span!(target: "hyper", "of somebody else", secret = TOKEN).in_scope(|| {});
        tracing::warn!(target: "hyper", secret = TOKEN, "of somebody else");
        tracing::info!(target: "managed_identity::audit", caller = TOKEN, "for others");
        tracing::debug_span!(target: "managed_identity::outbound", "upstream", otel.kind = "client").in_scope(|| {});
    });
    exporter.shutdown().unwrap();

    for resource in collector.resources() {
        assert_eq!(resource["service.name"], "managed-identity");
    }
    let restarts = collector.metric(telemetry::RESTARTS);
    assert_eq!(
        (restarts.description.as_str(), restarts.unit.as_str()),
        ("Replaced.", "")
    );
    assert_eq!(
        points(&restarts, telemetry::REASON),
        pairs([("trap", 3.0), ("cpu", 7.0)])
    );
    assert_eq!(
        points(&collector.metric(telemetry::TOKENS_HELD), ""),
        pairs([("", 3.0)])
    );
    let expiry = collector.metric(telemetry::EARLIEST_EXPIRY);
    assert_eq!(points(&expiry, ""), pairs([("", 60.0)]));
    let names: Vec<_> = collector.metrics().into_iter().map(|metric| metric.name).collect();
    assert!(
        !names
            .iter()
            .any(|name| ["infinite", "never_set"].contains(&name.as_str())),
        "{names:?}"
    );
    let upstream = collector.metric(telemetry::UPSTREAM);
    assert_eq!(upstream.unit, "s");
    let Some(Data::Histogram(upstream)) = upstream.data else {
        panic!("{upstream:?}");
    };
    let [point] = upstream.data_points.as_slice() else {
        panic!("{upstream:?}");
    };
    assert_eq!(texts(&point.attributes), pairs([("outcome", "2xx".to_owned())]));
    let buckets: Vec<_> = point
        .explicit_bounds
        .iter()
        .zip(&point.bucket_counts)
        .filter(|(_, count)| **count > 0)
        .map(|(bound, count)| (bound.to_string(), *count))
        .collect();
    assert_eq!(buckets, [("0.025".to_owned(), 1), ("30".to_owned(), 1)]);

    let mut spans = collector.spans();
    spans.sort_by(|left, right| left.name.cmp(&right.name));
    let [token, upstream] = spans.as_slice() else {
        panic!("{spans:?}");
    };
    assert_eq!((token.name.as_str(), upstream.name.as_str()), ("token", "upstream"));
    assert_eq!(upstream.parent_span_id, token.span_id);
    assert_eq!(texts(&token.attributes)["audience"], "https://a.example");
    assert!(token.events.is_empty(), "{token:?}");
    collector.assert_holds_no(TOKEN);
}

#[test]
fn a_collector_that_cannot_be_used_is_named() {
    let refused = |url: &str| Exporter::start(&ExportConfig::new(url)).unwrap_err().to_string();
    for url in [
        "collector:4318",
        "ftp://collector",
        "http://user:password@collector",
        "http://collector/?key=x",
    ] {
        let error = refused(url);
        assert!(error.starts_with("The URL of the collector "), "{error}");
        assert!(!error.contains("password") && !error.contains("key=x"), "{error}");
    }
}

#[test]
fn a_collector_that_does_not_answer_holds_up_the_end_no_longer_than_its_time() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut config = ExportConfig::new(&format!("http://{}", listener.local_addr().unwrap()));
    config.metrics = None;
    config.timeout = Duration::from_millis(200);
    let exporter = Exporter::start(&config).unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(exporter.layer()), || {
        tracing::info_span!(target: "managed_identity::broker", "token").in_scope(|| {});
    });
    let error = exporter.shutdown().unwrap_err();
    assert!(matches!(error, ExportError::NotDelivered(_)), "{error}");
    assert!(error.to_string().contains("within 200ms"), "{error}");
}

/// The command, asked for one token of an endpoint that has it.
fn token(variables: &[(&str, &str)]) -> Outcome {
    let server = Server::always(Act::token(TOKEN));
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let environment = server.app_service("very-secret-header").into_iter().chain(variables);
    program::run(environment, &["token", "--resource", "https://vault.azure.net"])
}

#[test]
fn the_command_tells_the_collector_what_it_did() {
    let collector = Collector::start();
    let outcome = token(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=of-the-collector"),
        ("OTEL_SERVICE_NAME", "my-service"),
    ]);
    assert_eq!(outcome.success(), TOKEN);

    for delivery in collector.deliveries.lock().unwrap().iter() {
        assert_eq!(delivery.headers["api-key"], "of-the-collector");
    }
    for resource in collector.resources() {
        assert_eq!(resource["service.name"], "my-service");
    }
    // What is held is gone with the broker, by now or soon.
    for (name, label, expected) in [
        (telemetry::REQUESTS, telemetry::OUTCOME, pairs([("token", 1.0)])),
        (telemetry::FLIGHTS, "", pairs([("", 1.0)])),
    ] {
        assert_eq!(points(&collector.metric(name), label), expected, "{name}");
    }

    let spans = collector.spans();
    let attributes = |name: &str| {
        let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
        assert_eq!(found.len(), 1, "{name}: {spans:?}");
        texts(&found[0].attributes)
    };
    let token = attributes("token");
    for (name, value) in [
        ("audience", "https://vault.azure.net"),
        ("identity", "platform-default"),
        ("outcome", "token"),
        ("cause", "none"),
        ("source", "app-service"),
    ] {
        assert_eq!(token[name], value);
    }
    let upstream = attributes("upstream");
    assert_eq!(upstream["http.request.method"], "GET");
    assert_eq!(upstream["url.path"], "/msi/token");
    assert_eq!(upstream["http.response.status_code"], "Some(IntValue(200))");
    for secret in [TOKEN, "very-secret-header", "api-version"] {
        collector.assert_holds_no(secret);
    }
}

#[test]
fn a_collector_that_gets_nothing_keeps_nobody_from_a_token() {
    let closed = format!("http://{}", closed());
    for (variables, warning) in [
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector")][..],
            "warning: The URL of the collector ",
        ),
        (
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", closed.as_str()),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ],
            "warning: The environment variable OTEL_EXPORTER_OTLP_PROTOCOL ",
        ),
        (
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", closed.as_str()),
                ("OTEL_SDK_DISABLED", "true"),
            ],
            "",
        ),
    ] {
        let outcome = token(variables);
        assert_eq!(
            (outcome.code, outcome.stdout.trim_end()),
            (Some(0), TOKEN),
            "{outcome:?}"
        );
        assert!(outcome.stderr.starts_with(warning), "{outcome:?}");
        assert_eq!(outcome.stderr.is_empty(), warning.is_empty(), "{outcome:?}");
        assert!(!outcome.stderr.contains(TOKEN), "{outcome:?}");
    }
}
