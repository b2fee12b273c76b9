//! What a hostile reply costs in memory. Alone in its file, because it measures the whole process.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use managed_identity_host::Cause;
use std::time::Duration;
use support::brokers::{WASI, broker, cause, request};
use support::server::{Act, Server};

/// By how much one reply may make the process grow, in kilobytes.
const LIMIT: u64 = 16 * 1024;

const FIFTY_MEGABYTES: u64 = 50 * 1024 * 1024;

/// A number of kilobytes in `/proc/self/status` (see `proc_pid_status(5)`).
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Makes `VmHWM`, the peak, start anew from here (see `clear_refs` in `proc_pid_clear_refs(5)`).
fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

fn floods() -> Vec<(&'static str, Act)> {
    let head = |rest: &str| format!("HTTP/1.1 200 OK\r\n{rest}").into_bytes();
    let spaces = vec![b' '; 64 * 1024];
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    let chunk = [b"10000\r\n".as_slice(), &spaces, b"\r\n"].concat();
    let lines = "X-Header: value\r\n".repeat(1000).into_bytes();
    let json = |open: &str, repeated: &str| {
        Act::Flood(
            head(&format!("\r\n{open}")),
            repeated.repeat(4096).into(),
            FIFTY_MEGABYTES,
        )
    };
    vec![
        ("a body", Act::Flood(head("\r\n"), spaces.clone(), FIFTY_MEGABYTES)),
        (
            "a body with its length",
            Act::Flood(
                head("Content-Length: 52428800\r\n\r\n"),
                spaces.clone(),
                FIFTY_MEGABYTES,
            ),
        ),
        (
            "a terabyte's length",
            Act::Flood(
                head("Content-Length: 1099511627776\r\n\r\n"),
                spaces.clone(),
                FIFTY_MEGABYTES,
            ),
        ),
        ("chunks", Act::Flood(head(chunked), chunk, FIFTY_MEGABYTES)),
        (
            "small chunks",
            Act::Flood(head(chunked), "1\r\n \r\n".repeat(1000).into(), FIFTY_MEGABYTES),
        ),
        (
            "one chunk",
            Act::Flood(
                head(&format!("{chunked}ffffffffffffffff\r\n")),
                spaces.clone(),
                FIFTY_MEGABYTES,
            ),
        ),
        (
            "a chunk extension",
            Act::Flood(head(&format!("{chunked}1;a=")), spaces.clone(), FIFTY_MEGABYTES),
        ),
        (
            "trailers",
            Act::Flood(head(&format!("{chunked}0\r\n")), lines.clone(), FIFTY_MEGABYTES),
        ),
        ("header lines", Act::Flood(head(""), lines, FIFTY_MEGABYTES)),
        ("one header line", Act::Flood(head("A: "), spaces, FIFTY_MEGABYTES)),
        (
            "interim replies",
            Act::Flood(
                Vec::new(),
                "HTTP/1.1 100 Continue\r\n\r\n".repeat(100).into(),
                FIFTY_MEGABYTES,
            ),
        ),
        ("nested arrays", json("", "[")),
        ("nested objects", json("", "{\"a\":")),
        ("a long token", json("{\"access_token\":\"", "a")),
        ("a long number", json("{\"expires_in\":1", "0")),
        ("many fields", json("{", "\"a\":1,")),
        (
            "a failure's body",
            Act::Flood(
                b"HTTP/1.1 500 No\r\n\r\n".to_vec(),
                vec![b'a'; 64 * 1024],
                FIFTY_MEGABYTES,
            ),
        ),
    ]
}

#[test]
fn no_reply_makes_the_process_grow_by_more_than_sixteen_megabytes() {
    the_measurement_sees_what_is_allocated();
    let floods = floods();
    let acts: Vec<_> = floods.iter().map(|(_, act)| act.clone()).collect();
    let server = Server::start(move |request| match request.case().strip_prefix('r') {
        Some(row) => acts[row.parse::<usize>().unwrap()].clone(),
        None => Act::token("good"),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for wasi in WASI {
        let broker = broker(wasi, server.app_service("s3cr3t"));
        let ask = |case: &str, seconds| runtime.block_on(cause(&broker, &request(case, Duration::from_secs(seconds))));
        assert_eq!(ask("warm", 10), None);
        for (row, (name, _)) in floods.iter().enumerate() {
            let before = memory("VmRSS");
            forget_peak();
            let result = ask(&format!("r{row}"), 2);
            let growth = memory("VmHWM").saturating_sub(before);
            assert!(growth <= LIMIT, "{name} ({wasi:?}): {growth} kB");
            assert!(
                matches!(
                    result,
                    Some(Cause::MalformedReply | Cause::DeadlineExceeded | Cause::EndpointIntercepted)
                ),
                "{name} ({wasi:?}): {result:?}"
            );
        }
        assert_eq!(ask("after", 10), None);
    }
}

/// Shows that the measurement measures something.
fn the_measurement_sees_what_is_allocated() {
    let before = memory("VmRSS");
    forget_peak();
    drop(std::hint::black_box(vec![1_u8; 32 * 1024 * 1024]));
    assert!(memory("VmHWM").saturating_sub(before) > LIMIT);
}
