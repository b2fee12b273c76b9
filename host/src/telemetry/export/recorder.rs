//! Gives the numbers of the `metrics` facade to OpenTelemetry.
//!
//! Counters and gauges are numbers that the SDK reads when it sends them, so that counting costs one atomic addition.
//! Histograms have to be the SDK's own. Each name is one instrument, whatever its labels: the SDK would take several for a
//! conflict.

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The bounds of a histogram's buckets, in seconds: those that OpenTelemetry's conventions have for requests in HTTP, and
/// two for endpoints that take their time.
const SECONDS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
];

/// What a value is told apart by.
type Labels = Vec<(String, String)>;

/// The values of one instrument.
type Values = Arc<Mutex<HashMap<Labels, Arc<Value>>>>;

/// A recorder whose numbers an OpenTelemetry meter has.
#[derive(Debug)]
pub(super) struct MeterRecorder {
    meter: Meter,
    instruments: Mutex<Instruments>,
}

#[derive(Debug, Default)]
struct Instruments {
    descriptions: HashMap<String, (Option<Unit>, SharedString)>,
    counters: HashMap<String, Values>,
    gauges: HashMap<String, Values>,
    histograms: HashMap<String, opentelemetry::metrics::Histogram<f64>>,
}

/// One number, with its labels as OpenTelemetry has them. It is sent once it has been set.
#[derive(Debug)]
struct Value {
    attributes: Vec<KeyValue>,
    /// A count, or the bits of a float.
    number: AtomicU64,
}

/// What a gauge holds that was never set: the bits of one of the many floats that are no number.
const UNSET: u64 = u64::MAX;

#[derive(Debug)]
struct Measured {
    attributes: Vec<KeyValue>,
    histogram: opentelemetry::metrics::Histogram<f64>,
}

impl MeterRecorder {
    pub(super) fn new(meter: Meter) -> Self {
        Self {
            meter,
            instruments: Mutex::default(),
        }
    }

    fn instruments(&self) -> MutexGuard<'_, Instruments> {
        lock(&self.instruments)
    }

    fn describe(&self, name: &KeyName, unit: Option<Unit>, description: SharedString) {
        let name = name.as_str().to_owned();
        self.instruments().descriptions.insert(name, (unit, description));
    }
}

impl Instruments {
    fn description(&self, key: &Key) -> (Option<Unit>, String) {
        match self.descriptions.get(key.name()) {
            Some((unit, description)) => (*unit, description.to_string()),
            None => (None, String::new()),
        }
    }
}

/// Nothing that is locked here is left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn labels(key: &Key) -> Labels {
    key.labels()
        .map(|label| (label.key().to_owned(), label.value().to_owned()))
        .collect()
}

fn attributes(key: &Key) -> Vec<KeyValue> {
    labels(key)
        .into_iter()
        .map(|(name, value)| KeyValue::new(name, value))
        .collect()
}

fn label(unit: Option<Unit>) -> &'static str {
    unit.map_or("", |unit| unit.as_canonical_label())
}

/// The one value for these labels.
fn value(values: &Values, key: &Key, initial: u64) -> Arc<Value> {
    let value = || {
        Arc::new(Value {
            attributes: attributes(key),
            number: AtomicU64::new(initial),
        })
    };
    Arc::clone(lock(values).entry(labels(key)).or_insert_with(value))
}

/// Calls `observe` with each value that has been set.
fn each(values: &Values, initial: u64, mut observe: impl FnMut(u64, &[KeyValue])) {
    for value in lock(values).values() {
        let number = value.number.load(Ordering::Relaxed);
        if number != initial {
            observe(number, &value.attributes);
        }
    }
}

impl Recorder for MeterRecorder {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe(&name, unit, description);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe(&name, unit, description);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, description: SharedString) {
        self.describe(&name, unit, description);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut instruments = self.instruments();
        let (unit, description) = instruments.description(key);
        let values = instruments.counters.entry(key.name().to_owned()).or_insert_with(|| {
            let values = Values::default();
            let observed = Arc::clone(&values);
            self.meter
                .u64_observable_counter(key.name().to_owned())
                .with_description(description)
                .with_unit(label(unit))
                .with_callback(move |observer| {
                    each(&observed, 0, |count, attributes| observer.observe(count, attributes));
                })
                .build();
            values
        });
        Counter::from_arc(value(values, key, 0))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let mut instruments = self.instruments();
        let (unit, description) = instruments.description(key);
        let values = instruments.gauges.entry(key.name().to_owned()).or_insert_with(|| {
            let values = Values::default();
            let observed = Arc::clone(&values);
            self.meter
                .f64_observable_gauge(key.name().to_owned())
                .with_description(description)
                .with_unit(label(unit))
                .with_callback(move |observer| {
                    each(&observed, UNSET, |bits, attributes| {
                        observer.observe(f64::from_bits(bits), attributes);
                    });
                })
                .build();
            values
        });
        Gauge::from_arc(value(values, key, UNSET))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let mut instruments = self.instruments();
        let (unit, description) = instruments.description(key);
        let histogram = instruments.histograms.entry(key.name().to_owned()).or_insert_with(|| {
            let builder = self
                .meter
                .f64_histogram(key.name().to_owned())
                .with_description(description)
                .with_unit(label(unit));
            match unit {
                Some(Unit::Seconds) => builder.with_boundaries(SECONDS.to_vec()).build(),
                _ => builder.build(),
            }
        });
        Histogram::from_arc(Arc::new(Measured {
            attributes: attributes(key),
            histogram: histogram.clone(),
        }))
    }
}

impl CounterFn for Value {
    fn increment(&self, value: u64) {
        self.number.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.number.fetch_max(value, Ordering::Relaxed);
    }
}

impl Value {
    fn add(&self, change: f64) {
        let changed = |number| {
            let before = if number == UNSET { 0.0 } else { f64::from_bits(number) };
            Some((before + change).to_bits())
        };
        // The function always has a result, so that there is one.
        let _ = self.number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }
}

impl GaugeFn for Value {
    fn increment(&self, value: f64) {
        self.add(value);
    }

    fn decrement(&self, value: f64) {
        self.add(-value);
    }

    fn set(&self, value: f64) {
        self.number.store(value.to_bits(), Ordering::Relaxed);
    }
}

impl HistogramFn for Measured {
    fn record(&self, value: f64) {
        self.histogram.record(value, &self.attributes);
    }
}
