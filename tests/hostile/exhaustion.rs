//! Guests that take time, memory, connections, or that fail: callers get an answer in time, the host stays as it was, and
//! the next call works.

use super::witness::Witness;
use super::*;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

/// How long a caller waits for a guest that does harm.
const TIMEOUT: Duration = Duration::from_millis(500);

/// When every caller has an answer, however slow the machine. What is expected is little more than one second.
const IN_TIME: Duration = Duration::from_secs(10);

/// How much the process may grow for one order, in KiB: the guest's own memory, and about half of it again.
const GROWTH: u64 = 100 * 1024;

/// More connections than the host makes at once, and fewer than a process may have.
const CONNECTIONS: usize = 200;

/// Whether an error is one that a failing guest leads to.
fn is_named(error: &TokenError) -> bool {
    matches!(error.cause, Cause::Internal | Cause::DeadlineExceeded) && !error.message.is_empty()
}

/// A server that accepts every connection, keeps it, and says nothing.
fn silent_server() -> (SocketAddr, Arc<Mutex<Vec<TcpStream>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let visitors = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&visitors);
    thread::spawn(move || {
        for visitor in listener.incoming().flatten() {
            kept.lock().unwrap().push(visitor);
        }
    });
    (address, visitors)
}

/// The most memory that the process has had since [`forget_peak`], in KiB; `None` where the system does not say.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Makes [`peak`] start from now (proc_pid_clear_refs(5)). Where that is not permitted, it goes on from the last peak.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

#[tokio::test]
async fn harm_ends_in_time_with_a_cause_and_the_next_call_works() {
    const ORDERS: &[&[&str]] = &[
        &["spin"],
        &["spin-calling"],
        &["spin-yielding"],
        &["spin-politely"],
        &["never"],
        &["sleep", "3600"],
        &["trap"],
        &["exit"],
        &["recurse"],
        &["grow"],
        &["huge", "token", "40000000"],
        &["huge", "message", "40000000"],
        &["huge", "name", "40000000"],
        &["huge", "value", "40000000"],
        &["huge", "authority", "40000000"],
        &["huge", "method", "40000000"],
        &["huge", "path", "20000000"],
        &["hoard", "timers", "0"],
        &["hoard", "fields", "1"],
        &["hoard", "fields", "8000"],
        &["hoard", "requests", "1000"],
        &["hoard", "requests", "70000"],
        &["hoard", "requests", "900000"],
        &["flood", "20000", "GET", "http", "{silent}", PATH],
        &["flood", "20000", "GET", "http", "{silent}", "/denied"],
    ];
    for (wasi, guest) in GUESTS {
        let (silent, _visitors) = silent_server();
        let silent = silent.to_string();
        let broker = broker(guest, silent.parse().unwrap()).build().unwrap();
        order(&broker, &["ok"], PATIENCE).await.unwrap();
        for words in ORDERS {
            let words: Vec<&str> = words
                .iter()
                .map(|word| if *word == "{silent}" { &silent } else { *word })
                .collect();
            forget_peak();
            let (before, began) = (peak(), Instant::now());
            let error = order(&broker, &words, TIMEOUT).await.unwrap_err();
            let took = began.elapsed();
            assert!(is_named(&error), "{wasi} {words:?}: {error:?}");
            assert!(took < IN_TIME, "{wasi} {words:?}: {took:?}");
            if let (Some(before), Some(after)) = (before, peak()) {
                let growth = after.saturating_sub(before);
                assert!(growth < GROWTH, "{wasi} {words:?}: {growth} KiB more");
            }
            order(&broker, &["ok"], PATIENCE).await.unwrap();
        }
    }
}

#[tokio::test]
async fn too_much_at_once_is_refused() {
    for (wasi, guest) in GUESTS {
        let broker = broker(guest, Witness::start().address()).build().unwrap();
        for (words, outcomes) in [
            (["random", "1000000000"].as_slice(), ["Internal", "4096"].as_slice()),
            (&["huge", "name", "70000"], &["Internal", "refused name"]),
            (&["huge", "value", "100000"], &["Internal", "refused value"]),
            (&["huge", "path", "70000"], &["refused path"]),
        ] {
            let (cause, message) = report(&broker, words).await;
            let outcome = match cause {
                Cause::Unsupported => message,
                cause => format!("{cause:?}"),
            };
            assert!(
                outcomes.iter().any(|expected| outcome.starts_with(expected)),
                "{wasi} {words:?}: {outcome}"
            );
        }
    }
}

#[tokio::test]
async fn a_guest_holds_few_connections_and_none_after_its_end() {
    for (wasi, guest) in GUESTS {
        let (silent, visitors) = silent_server();
        let broker = broker(guest, silent).build().unwrap();
        let flood = ["flood", "300", "GET", "http", &silent.to_string(), PATH];
        assert!(is_named(&order(&broker, &flood, TIMEOUT).await.unwrap_err()), "{wasi}");
        order(&broker, &["ok"], PATIENCE).await.unwrap();
        let visitors = std::mem::take(&mut *visitors.lock().unwrap());
        assert!(
            (1..CONNECTIONS).contains(&visitors.len()),
            "{wasi}: {} connections",
            visitors.len()
        );
        for mut visitor in visitors {
            // What was sent, and then the end: an error, should the other side hold on to the connection.
            visitor.set_read_timeout(Some(IN_TIME)).unwrap();
            std::io::copy(&mut visitor, &mut std::io::sink()).unwrap();
        }
    }
}

#[tokio::test]
async fn one_that_computes_without_end_does_not_stop_the_others() {
    for (wasi, guest) in GUESTS {
        let broker = broker(guest, Witness::start().address()).build().unwrap();
        for harm in ["spin", "spin-calling", "spin-politely", "never", "trap"] {
            let orders = [
                ["ok", ""],
                ["sleep", "3600"],
                [harm, ""],
                ["ok", ""],
                ["environment", ""],
            ];
            let calls: Vec<_> = orders
                .into_iter()
                .map(|words| {
                    let broker = broker.clone();
                    tokio::spawn(async move {
                        let began = Instant::now();
                        (words, order(&broker, &words, TIMEOUT).await, began.elapsed())
                    })
                })
                .collect();
            for call in calls {
                let (words, result, took) = call.await.unwrap();
                assert!(took < IN_TIME, "{wasi} {harm} {words:?}: {took:?}");
                match (words[0], &result) {
                    ("ok", Ok(())) => {}
                    ("environment", Err(error)) if error.cause == Cause::Unsupported => {}
                    (_, Err(error)) => assert!(is_named(error), "{wasi} {harm} {words:?}: {error:?}"),
                    (_, Ok(())) => panic!("{wasi} {harm} {words:?}: a token"),
                }
            }
            order(&broker, &["ok"], PATIENCE).await.unwrap();
        }
    }
}

#[tokio::test]
async fn one_that_computes_without_end_after_its_answer_is_replaced() {
    let broker = broker(HOSTILE_0_3, Witness::start().address()).build().unwrap();
    // Asked first, so that it waits in the instance that is replaced and not in the next. There it is asked again.
    let (asleep, spinning) = tokio::join!(
        report(&broker, &["sleep", "2"]),
        order(&broker, &["spin-later"], PATIENCE)
    );
    spinning.unwrap();
    assert_eq!(asleep, (Cause::Unsupported, "woke".to_owned()));
    order(&broker, &["ok"], PATIENCE).await.unwrap();
}

#[tokio::test]
async fn one_that_fails_again_and_again_is_replaced_each_time() {
    for (wasi, guest) in GUESTS {
        let broker = broker(guest, Witness::start().address()).build().unwrap();
        for time in 0..3 {
            let error = order(&broker, &["trap"], PATIENCE).await.unwrap_err();
            assert_eq!(error.cause, Cause::Internal, "{wasi} {time}: {error:?}");
        }
        order(&broker, &["ok"], PATIENCE).await.unwrap();
    }
}
