//! What operators see of a server: numbers and log lines. Never a token or a secret.
//!
//! # Metrics
//!
//! The [broker's](managed_identity_host::telemetry) are joined by these. All labels have few values: none is made of what a
//! client sends, of an audience, or of a caller's name.
//!
//! | name | kind | labels | meaning |
//! |---|---|---|---|
//! | `managed_identity_serve_requests_total` | counter | `protocol`, `status` | requests that were answered: by the protocol's name, or `none` where no protocol has the path, and by the status of the reply |
//! | `managed_identity_serve_connections` | gauge | | connections that are open |
//! | `managed_identity_serve_connections_closed_total` | counter | `reason` | connections that the server itself has closed, and why: `idle`, `request-timeout`, `reply-timeout`, `refused` (a client that read no end of its refusal), `limit` (idle, and another one needed the place), `tls` (a handshake that failed), `drain-timeout` |
//! | `managed_identity_serve_ready` | gauge | | 1 when the server is ready, 0 when it is not: what `/readyz` says |
//! | `managed_identity_serve_reloads_total` | counter | `outcome` | reloads of the configuration: `applied`, or `refused`, when the one before stays in force |
//! | `process_start_time_seconds` | gauge | | when the process began, in seconds since 1970-01-01T00:00:00Z |
//! | `process_open_fds`, `process_max_fds` | gauge | | file descriptors that are open, and how many may be; on Linux |
//! | `process_resident_memory_bytes`, `process_virtual_memory_bytes` | gauge | | memory; on Linux |
//!
//! # Log
//!
//! Events have the target `managed_identity::serve`: what changes the server at `INFO`, what an operator should look at at
//! `WARN`. Requests that were refused are there too: at `WARN` where the platform or the broker itself is at fault, at `INFO`
//! where the caller or the policy is, and at `DEBUG` where nobody knows whose malformed request it is.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::time::{Duration, SystemTime};
use tokio::time::{MissedTickBehavior, interval};

/// The target of this crate's events.
pub const LOG_TARGET: &str = "managed_identity::serve";

/// Counter: requests that were answered, by [`PROTOCOL`] and [`STATUS`].
pub const REQUESTS: &str = "managed_identity_serve_requests_total";
/// Gauge: connections that are open.
pub const CONNECTIONS: &str = "managed_identity_serve_connections";
/// Counter: connections that the server itself has closed, by [`REASON`].
pub const CONNECTIONS_CLOSED: &str = "managed_identity_serve_connections_closed_total";
/// Gauge: 1 when the server is ready, 0 when it is not.
pub const READY: &str = "managed_identity_serve_ready";
/// Counter: reloads of the configuration, by [`OUTCOME`].
pub const RELOADS: &str = "managed_identity_serve_reloads_total";

/// Label: the name of a protocol.
pub const PROTOCOL: &str = "protocol";
/// Label: the status of a reply, in digits.
pub const STATUS: &str = "status";
/// Label: why a connection was closed.
pub const REASON: &str = "reason";
/// Label: how a reload ended, [`APPLIED`] or [`REFUSED`].
pub const OUTCOME: &str = "outcome";

/// The other configuration is in force.
pub const APPLIED: &str = "applied";
/// The other configuration cannot be used.
pub const REFUSED: &str = "refused";

/// The bounds of a histogram's buckets, in seconds: those that OpenTelemetry's conventions have for requests in HTTP, and two
/// for endpoints that take their time. What is sent to a collector has the same.
const SECONDS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
];

/// How often what was measured is put into its buckets, which takes memory until it is.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// A recorder whose numbers a server can show ([`Server::bind`](crate::Server::bind)). To be installed before there is a
/// broker, which asks for the recorder once.
///
/// # Errors
/// None, as long as there are bounds for its buckets.
pub fn prometheus() -> Result<PrometheusRecorder, BuildError> {
    Ok(PrometheusBuilder::new().set_buckets(&SECONDS)?.build_recorder())
}

/// Keeps the recorder's memory small, for as long as it is polled.
pub(crate) async fn upkeep(metrics: &PrometheusHandle) {
    let mut interval = interval(UPKEEP_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        metrics.run_upkeep();
    }
}

/// A configuration was read again, and is in force or not.
pub fn reloaded(outcome: &'static str) {
    counter!(RELOADS, OUTCOME => outcome).increment(1);
}

/// Tells the recorder what the numbers are, and begins those with nothing that count what has not happened yet.
pub(crate) fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "Requests that were answered.");
    describe_gauge!(CONNECTIONS, Unit::Count, "Connections that are open.");
    describe_counter!(
        CONNECTIONS_CLOSED,
        Unit::Count,
        "Connections that the server has closed."
    );
    describe_gauge!(READY, "1 when the server is ready, 0 when it is not.");
    describe_counter!(RELOADS, Unit::Count, "Reloads of the configuration.");
    describe_gauge!(
        START_TIME,
        Unit::Seconds,
        "When the process began, in seconds since 1970."
    );
    describe_gauge!(OPEN_FDS, Unit::Count, "File descriptors that are open.");
    describe_gauge!(MAX_FDS, Unit::Count, "File descriptors that may be open.");
    describe_gauge!(RESIDENT_MEMORY, Unit::Bytes, "Memory that is resident.");
    describe_gauge!(VIRTUAL_MEMORY, Unit::Bytes, "Memory that has addresses.");
    for outcome in [APPLIED, REFUSED] {
        counter!(RELOADS, OUTCOME => outcome).absolute(0);
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    gauge!(START_TIME).set(since.unwrap_or_default().as_secs_f64());
}

const START_TIME: &str = "process_start_time_seconds";
const OPEN_FDS: &str = "process_open_fds";
const MAX_FDS: &str = "process_max_fds";
const RESIDENT_MEMORY: &str = "process_resident_memory_bytes";
const VIRTUAL_MEMORY: &str = "process_virtual_memory_bytes";

/// Looks how much of the machine this process has. Elsewhere than on Linux, it finds nothing.
pub(crate) fn measure_process() {
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        // One is the directory itself.
        gauge!(OPEN_FDS).set(float(entries.count().saturating_sub(1)));
    }
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(limit) = number_after(&limits, "Max open files") {
        gauge!(MAX_FDS).set(limit);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (key, name) in [("VmRSS:", RESIDENT_MEMORY), ("VmSize:", VIRTUAL_MEMORY)] {
        if let Some(kibibytes) = number_after(&status, key) {
            gauge!(name).set(kibibytes * 1024.0);
        }
    }
}

/// The first number on the line that begins with this key.
fn number_after(text: &str, key: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// Counts of what a process has open are far below the 2^32 from which on a float would need care.
fn float(count: usize) -> f64 {
    u32::try_from(count).unwrap_or(u32::MAX).into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;
    use metrics::{histogram, with_local_recorder};

    #[test]
    fn what_is_measured_is_shown_with_its_buckets_and_description() {
        let recorder = prometheus().unwrap();
        let text = with_local_recorder(&recorder, || {
            describe();
            reloaded(APPLIED);
            histogram!("managed_identity_upstream_seconds", "outcome" => "2xx").record(0.02);
            measure_process();
            recorder.handle().render()
        });
        for line in [
            "# HELP managed_identity_serve_reloads_total Reloads of the configuration.",
            "# TYPE managed_identity_serve_reloads_total counter",
            "managed_identity_serve_reloads_total{outcome=\"applied\"} 1",
            "managed_identity_serve_reloads_total{outcome=\"refused\"} 0",
            "managed_identity_upstream_seconds_bucket{outcome=\"2xx\",le=\"0.01\"} 0",
            "managed_identity_upstream_seconds_bucket{outcome=\"2xx\",le=\"0.025\"} 1",
            "managed_identity_upstream_seconds_count{outcome=\"2xx\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        #[cfg(target_os = "linux")]
        for name in [START_TIME, OPEN_FDS, MAX_FDS, RESIDENT_MEMORY, VIRTUAL_MEMORY] {
            let value = number_after(&text, &format!("{name} "));
            assert!(value.is_some_and(|value| value >= 1.0), "{name} in {text}");
        }
    }

    #[test]
    fn numbers_are_found_by_their_key() {
        let limits = "Limit  Soft  Hard\nMax open files            1024                 4096                 files\n";
        for (text, key, expected) in [
            (limits, "Max open files", Some(1024.0)),
            ("VmSize:\t    200 kB\nVmRSS:\t     100 kB\n", "VmRSS:", Some(100.0)),
            ("Max open files            unlimited ", "Max open files", None),
            ("", "VmRSS:", None),
        ] {
            assert_eq!(number_after(text, key), expected, "{text}");
        }
    }
}
