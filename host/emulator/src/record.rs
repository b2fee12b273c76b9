//! What was asked of the emulator, for tests and for curious developers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::request::Parts;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::protocol::Source;
use crate::query::Query;

/// How many requests are remembered; older ones are forgotten, though still counted.
const REMEMBERED: usize = 4096;

/// How many resources are counted one by one; the rest count as one, named `(others)`.
const COUNTED_RESOURCES: usize = 4096;

/// Headers whose values are secrets: those of the emulated protocols and those in which clients of HTTP put
/// credentials.
const SECRET_HEADERS: &[&str] = &[
    "authorization",
    "cookie",
    "proxy-authorization",
    "secret",
    "x-identity-header",
];

/// Members of forms whose values are secrets.
const SECRET_MEMBERS: &[&str] = &["client_assertion", "client_secret"];

/// A request as it arrived, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordedRequest {
    /// Counts requests since the start of the emulator, from 1. It goes on counting when records are cleared.
    pub sequence: u64,
    /// Milliseconds since the start of the emulator.
    pub elapsed_ms: u64,
    /// The source whose token endpoint was asked; absent for any other path.
    pub protocol: Option<Source>,
    /// The method.
    pub method: String,
    /// The path, as sent.
    pub path: String,
    /// The query, as sent, without the question mark.
    pub query: String,
    /// The form in the body of a token request, as sent. The values of secret members are `[redacted]`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub form: String,
    /// The headers in the order of their arrival, names in lower case. The values of secret ones are `[redacted]`.
    pub headers: Vec<(String, String)>,
    /// The status of the reply; absent while there is none, and for ever if a fault withheld it or the client left.
    pub status: Option<u16>,
    /// Token requests in progress when this one arrived, itself included.
    pub in_flight: u64,
}

impl RecordedRequest {
    /// The value of the first header of this name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(sent, _)| sent == name)
            .map(|(_, value)| value.as_str())
    }

    /// The decoded value of the first parameter of this name, in the query or else in the form.
    pub fn parameter(&self, name: &str) -> Option<String> {
        [&self.query, &self.form]
            .iter()
            .find_map(|encoded| Query::parse(encoded).get(name).map(str::to_owned))
    }
}

/// Numbers about what was asked. Only requests to a token endpoint count as requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Token requests, whatever became of them.
    pub requests: u64,
    /// Token requests by the `resource` they named.
    pub per_resource: BTreeMap<String, u64>,
    /// Token requests in progress now. A request ends when its reply is sent, or given up.
    pub in_flight: u64,
    /// The most token requests that were ever in progress at once.
    pub max_in_flight: u64,
    /// Connections accepted, those to the control endpoint among them.
    pub connections: u64,
}

/// Keeps the records. Clones keep them together.
#[derive(Clone, Debug)]
pub(crate) struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    ledger: Mutex<Ledger>,
    /// The number of token requests, for those who wait for one.
    arrived: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ledger {
    records: VecDeque<RecordedRequest>,
    last_sequence: u64,
    stats: Stats,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked<'a> {
    pub resource: Option<&'a str>,
    /// The form in its body.
    pub form: &'a str,
}

/// A request in progress; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct InProgress {
    recorder: Recorder,
    sequence: u64,
    is_token_request: bool,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            started: Instant::now(),
            ledger: Mutex::default(),
            arrived: watch::Sender::new(0),
        }))
    }

    pub(crate) fn connected(&self) {
        self.ledger().stats.connections += 1;
    }

    /// Records a request. Its status is known later.
    pub(crate) fn arrived(&self, request: &Parts, source: Option<Source>, asked: &Asked<'_>) -> InProgress {
        let mut ledger = self.ledger();
        if source.is_some() {
            ledger.stats.count(asked.resource);
            self.0.arrived.send_replace(ledger.stats.requests);
        }
        ledger.last_sequence += 1;
        let sequence = ledger.last_sequence;
        let record = RecordedRequest {
            sequence,
            elapsed_ms: u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            protocol: source,
            method: request.method.to_string(),
            path: request.uri.path().to_owned(),
            query: request.uri.query().unwrap_or_default().to_owned(),
            form: recorded_form(asked.form),
            headers: request
                .headers
                .iter()
                .map(|(name, value)| recorded_header(name.as_str(), value))
                .collect(),
            status: None,
            in_flight: ledger.stats.in_flight,
        };
        if ledger.records.len() == REMEMBERED {
            ledger.records.pop_front();
        }
        ledger.records.push_back(record);
        InProgress {
            recorder: self.clone(),
            sequence,
            is_token_request: source.is_some(),
        }
    }

    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        self.ledger().records.iter().cloned().collect()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.ledger().stats.clone()
    }

    /// Forgets all requests and starts counting anew; requests in progress stay in progress.
    pub(crate) fn clear(&self) {
        let mut ledger = self.ledger();
        let in_flight = ledger.stats.in_flight;
        ledger.records.clear();
        ledger.stats = Stats {
            in_flight,
            max_in_flight: in_flight,
            ..Stats::default()
        };
        self.0.arrived.send_replace(0);
    }

    /// Waits until so many token requests have arrived since the start, or since the records were cleared.
    pub(crate) async fn wait_for(&self, requests: u64) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self
            .0
            .arrived
            .subscribe()
            .wait_for(|arrived| *arrived >= requests)
            .await;
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InProgress {
    pub(crate) fn answered(&self, status: http::StatusCode) {
        let mut ledger = self.recorder.ledger();
        if let Ok(at) = ledger
            .records
            .binary_search_by_key(&self.sequence, |record| record.sequence)
        {
            ledger.records[at].status = Some(status.as_u16());
        }
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        if self.is_token_request {
            self.recorder.ledger().stats.in_flight -= 1;
        }
    }
}

impl Stats {
    fn count(&mut self, resource: Option<&str>) {
        self.requests += 1;
        self.in_flight += 1;
        self.max_in_flight = self.max_in_flight.max(self.in_flight);
        if let Some(resource) = resource {
            let room = self.per_resource.len() < COUNTED_RESOURCES || self.per_resource.contains_key(resource);
            let counted = if room { resource } else { "(others)" };
            *self.per_resource.entry(counted.to_owned()).or_default() += 1;
        }
    }
}

fn recorded_header(name: &str, value: &http::HeaderValue) -> (String, String) {
    let value = if SECRET_HEADERS.contains(&name) {
        "[redacted]".to_owned()
    } else {
        String::from_utf8_lossy(value.as_bytes()).into_owned()
    };
    (name.to_owned(), value)
}

fn recorded_form(form: &str) -> String {
    let members: Vec<_> = form
        .split('&')
        .map(|member| {
            let name = member.split('=').next().unwrap_or_default();
            let is_secret = SECRET_MEMBERS
                .iter()
                .any(|secret| Query::parse(name).get(secret).is_some());
            if is_secret {
                format!("{name}=[redacted]")
            } else {
                member.to_owned()
            }
        })
        .collect();
    members.join("&")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the test set up what it unwraps")]

    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn asking(resource: &str) -> Asked<'_> {
        Asked {
            resource: Some(resource),
            form: "",
        }
    }

    #[test]
    fn a_record_keeps_everything_but_secrets() {
        let recorder = Recorder::new();
        let sent = request(
            "/msi/token?resource=https%3A%2F%2Fvault.azure.net",
            &[
                ("X-IDENTITY-HEADER", "s3cret"),
                ("Secret", "s3cret"),
                ("Authorization", "Basic s3cret"),
                ("Metadata", "true"),
            ],
        );
        recorder
            .arrived(
                &sent,
                Some(Source::AppService),
                &Asked {
                    resource: None,
                    form: "client%5Fassertion=s3cret&scope=a%2Fb&client_secret=s3cret",
                },
            )
            .answered(http::StatusCode::OK);
        let [record] = &recorder.requests()[..] else {
            panic!("one request was recorded")
        };
        assert_eq!((record.sequence, record.status, record.in_flight), (1, Some(200), 1));
        assert_eq!((&*record.method, &*record.path), ("GET", "/msi/token"));
        assert_eq!(record.parameter("resource").as_deref(), Some("https://vault.azure.net"));
        assert_eq!(record.header("metadata"), Some("true"));
        assert_eq!(record.parameter("scope").as_deref(), Some("a/b"));
        assert_eq!(record.parameter("client_assertion").as_deref(), Some("[redacted]"));
        for name in ["x-identity-header", "secret", "authorization"] {
            assert_eq!(record.header(name), Some("[redacted]"));
        }
        assert!(!format!("{recorder:?}").contains("s3cret"));
    }

    #[test]
    fn only_token_requests_are_counted_and_they_end_when_dropped() {
        let recorder = Recorder::new();
        let parts = request("/", &[]);
        let first = recorder.arrived(&parts, Some(Source::Imds), &asking("a"));
        let second = recorder.arrived(&parts, Some(Source::Imds), &asking("a"));
        let _other = recorder.arrived(&parts, None, &Asked::default());
        drop(first);
        let third = recorder.arrived(&parts, Some(Source::AppService), &asking("b"));
        let stats = recorder.stats();
        assert_eq!((stats.requests, stats.in_flight, stats.max_in_flight), (3, 2, 2));
        assert_eq!(
            stats.per_resource,
            BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 1)])
        );
        drop((second, third));
        assert_eq!(recorder.stats().in_flight, 0);
    }

    #[test]
    fn clearing_forgets_all_but_what_is_in_progress() {
        let recorder = Recorder::new();
        let parts = request("/", &[]);
        let running = recorder.arrived(&parts, Some(Source::Imds), &asking("a"));
        recorder.clear();
        running.answered(http::StatusCode::OK);
        assert_eq!(recorder.requests(), []);
        assert_eq!(
            recorder.stats(),
            Stats {
                in_flight: 1,
                max_in_flight: 1,
                ..Stats::default()
            }
        );
        drop(running);
        let _next = recorder.arrived(&parts, None, &Asked::default());
        assert_eq!(recorder.requests()[0].sequence, 2);
    }

    #[test]
    fn memory_is_bounded() {
        let recorder = Recorder::new();
        let parts = request("/", &[]);
        for number in 0..REMEMBERED + 2 {
            recorder.arrived(&parts, Some(Source::Imds), &asking(&number.to_string()));
        }
        assert_eq!(recorder.requests().len(), REMEMBERED);
        assert_eq!(recorder.requests()[0].sequence, 3);
        let stats = recorder.stats();
        assert_eq!(stats.per_resource.get("(others)"), Some(&2));
        assert_eq!(stats.requests, REMEMBERED as u64 + 2);
    }
}
