//! What a broker counts of its life, by a recorder of its own.

use super::support::brokers::{WASI, broker, request};
use super::support::server::{Act, Server};
use super::{PATIENCE, TRAP, fetch, scripted};
use managed_identity_host::{Broker, Cause, TokenRequest, telemetry};
use managed_identity_test_guests::{HOSTILE_0_2, HOSTILE_0_3};
use metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit, with_local_recorder,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::time::timeout;

/// All numbers, by name and the values of the labels.
#[derive(Clone, Default)]
struct Numbers(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

/// Counts measurements; their sizes are the clock's.
struct Measurements(Arc<AtomicU64>);

impl HistogramFn for Measurements {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
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

impl Numbers {
    fn number(&self, key: &Key) -> Arc<AtomicU64> {
        let labels = key.labels().map(|label| format!(" {}", label.value()));
        let name = format!("{}{}", key.name(), labels.collect::<String>());
        Arc::clone(self.0.lock().unwrap().entry(name).or_default())
    }

    fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.0.lock().unwrap()[name].load(Ordering::Relaxed))
    }

    /// The counters and histograms that are not zero.
    fn counted(&self) -> Vec<(String, u64)> {
        let numbers = self.0.lock().unwrap();
        let loaded = numbers
            .iter()
            .map(|(name, number)| (name.clone(), number.load(Ordering::Relaxed)));
        let is_gauge = |name: &str| [telemetry::TOKENS_HELD, telemetry::EARLIEST_EXPIRY].contains(&name);
        loaded.filter(|(name, number)| *number > 0 && !is_gauge(name)).collect()
    }

    fn assert_counted(&self, expected: &[(&str, u64)]) {
        let counted = self.counted();
        let counted: Vec<_> = counted.iter().map(|(name, number)| (name.as_str(), *number)).collect();
        assert_eq!(counted, expected);
    }
}

#[tokio::test]
async fn tokens_hits_and_failures_are_counted() {
    for wasi in WASI {
        let numbers = Numbers::default();
        let server = Server::start(|request| match request.case().as_str() {
            "vault" => Act::token("vault"),
            _ => Act::status(400, r#"{"error":"invalid_resource"}"#),
        });
        let broker = with_local_recorder(&numbers, || broker(wasi, server.app_service("s3cr3t")));
        let vault = request("vault", PATIENCE);
        for _ in 0..3 {
            broker.token(&vault).await.unwrap();
        }
        assert!((numbers.gauge(telemetry::TOKENS_HELD) - 1.0).abs() < f64::EPSILON);
        let left = numbers.gauge(telemetry::EARLIEST_EXPIRY);
        assert!((1.0..=3600.0).contains(&left), "{left}");
        let error = broker.token(&request("unknown", PATIENCE)).await.unwrap_err();
        numbers.assert_counted(&[
            ("managed_identity_flights_total", 2),
            ("managed_identity_hits_total", 2),
            (
                &format!("managed_identity_requests_total error {}", error.cause.name()),
                1,
            ),
            ("managed_identity_requests_total token none", 3),
            ("managed_identity_upstream_seconds 2xx", 1),
            ("managed_identity_upstream_seconds 4xx", 1),
        ]);
        broker.shutdown().await;
        assert!(numbers.gauge(telemetry::TOKENS_HELD).abs() < f64::EPSILON);
        assert!(numbers.gauge(telemetry::EARLIEST_EXPIRY).is_infinite());
    }
}

#[tokio::test]
async fn a_successor_is_counted() {
    for wasi in WASI {
        let numbers = Numbers::default();
        let asked = AtomicU64::new(0);
        let server = Server::start(move |_| {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            // The successor of the first is due in a second, which is the least that a platform can say.
            let refresh_in = if number == 0 { 1 } else { 1800 };
            Act::ok(&format!(
                r#"{{"access_token":"t{number}","expires_in":"3600","refresh_in":"{refresh_in}","token_type":"Bearer"}}"#
            ))
        });
        let broker = with_local_recorder(&numbers, || broker(wasi, server.app_service("s3cr3t")));
        let vault = request("vault", PATIENCE);
        let succeeded = async {
            while broker.token(&vault).await.unwrap().token.expose() == "t0" {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, succeeded).await.unwrap();
        let refreshes = numbers.counted();
        let refreshes = refreshes.iter().find(|(name, _)| name == telemetry::REFRESHES);
        assert_eq!(refreshes.map(|(_, number)| *number), Some(1), "{wasi:?}");
    }
}

#[tokio::test]
async fn replacements_and_denials_are_counted() {
    for guest in [HOSTILE_0_2, HOSTILE_0_3] {
        let numbers = Numbers::default();
        let server = scripted(|_, _| Act::status(TRAP, ""));
        let broker: Broker = with_local_recorder(&numbers, || super::broker(guest, &server));
        broker.token(&fetch(&server, "trap")).await.unwrap_err();
        let elsewhere = ["fetch", "GET", "http", "169.254.169.254", "/metadata"].join("\u{1f}");
        let error = broker.token(&TokenRequest::new(elsewhere)).await.unwrap_err();
        assert_eq!(error.cause, Cause::Denied, "{error}");
        numbers.assert_counted(&[
            ("managed_identity_denials_total endpoint", 1),
            ("managed_identity_flights_total", 3),
            ("managed_identity_provider_restarts_total trap", 2),
            ("managed_identity_requests_total error denied", 1),
            ("managed_identity_requests_total error internal", 1),
            ("managed_identity_upstream_seconds 4xx", 2),
            ("managed_identity_upstream_seconds denied", 1),
        ]);
    }
}
