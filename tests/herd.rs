//! Many callers at once: one request for what all want, side by side for what differs, and nobody waits for a stranger.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use managed_identity_emulator::{Emulator, EmulatorConfig, Fault, Source};
use managed_identity_host::{Broker, Cause, TokenError, WasiVersion};
use std::collections::HashSet;
use std::time::Duration;
use support::brokers::{WASI, ask, broker, request};
use support::server::{Act, Server, reply, token_reply};

/// Long enough for any of this on any machine: what is tested here is order, not speed.
const PATIENT: Duration = Duration::from_secs(60);

/// A server that answers with a token named after the audience, and only when it is released.
fn gated() -> Server {
    Server::start(|request| Act::Gated(reply(200, &[], &token_reply(&request.case()))))
}

fn spawned(broker: &Broker, case: &str) -> tokio::task::JoinHandle<Result<String, TokenError>> {
    let (broker, request) = (broker.clone(), request(case, PATIENT));
    tokio::spawn(async move { ask(&broker, &request).await })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_one_audience_on_a_cold_provider_make_one_request() {
    for (wasi, callers) in [
        (WasiVersion::V0_3, 1_000),
        (WasiVersion::V0_3, 10_000),
        (WasiVersion::V0_2, 50),
    ] {
        let emulator = Emulator::start(EmulatorConfig::default()).unwrap();
        emulator.add_fault(Fault::delay(Duration::from_millis(100)));
        let broker = broker(wasi, emulator.environment_for(Source::AppService));
        let calls: Vec<_> = (0..callers).map(|_| spawned(&broker, "vault")).collect();
        let results: Vec<_> = join_all(calls)
            .await
            .into_iter()
            .map(|result| result.unwrap())
            .collect();
        let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert!(
            failed.is_empty(),
            "{wasi:?}: {} of {callers} callers: {}",
            failed.len(),
            failed[0]
        );
        // The emulator makes a new token for each request.
        let tokens: HashSet<_> = results.into_iter().flatten().collect();
        assert_eq!(tokens.len(), 1, "{wasi:?}, {callers} callers: different tokens");
        assert_eq!(emulator.stats().requests, 1, "{wasi:?}, {callers} callers");
    }
}

/// Nobody is answered before all have asked: each caller finds the flight of the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_callers_join_one_flight() {
    let server = gated();
    let broker = broker(WasiVersion::V0_3, server.app_service("s3cr3t"));
    let request = request("vault", PATIENT);
    let mut calls: Vec<_> = (0..10_000).map(|_| Box::pin(ask(&broker, &request))).collect();
    for call in &mut calls {
        assert!(call.as_mut().now_or_never().is_none(), "nobody has been answered");
    }
    server.wait_for_requests(1).await;
    server.release();
    for result in join_all(calls).await {
        assert_eq!(result.unwrap(), "vault");
    }
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_audiences_make_a_hundred_requests_side_by_side() {
    let server = gated();
    let broker = broker(WasiVersion::V0_3, server.app_service("s3cr3t"));
    let calls: Vec<_> = (0..1_000)
        .map(|number| {
            let case = format!("r{}", number % 100);
            let call = spawned(&broker, &case);
            async move { (case, call.await.unwrap()) }
        })
        .collect();
    // The first reply comes after the last request: all of them are under way at once.
    tokio::time::timeout(PATIENT, server.wait_for_requests(100))
        .await
        .unwrap();
    server.release();
    for (case, result) in join_all(calls).await {
        assert_eq!(result, Ok(case));
    }
    let asked: HashSet<_> = server.requests().iter().map(|request| request.case()).collect();
    assert_eq!((asked.len(), server.requests().len()), (100, 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_platform_is_asked_once_for_each_audience_and_in_parallel() {
    let emulator = Emulator::start(EmulatorConfig::default()).unwrap();
    emulator.add_fault(Fault::delay(Duration::from_millis(500)));
    let broker = broker(WasiVersion::V0_3, emulator.environment_for(Source::AppService));
    let calls: Vec<_> = (0..1_000)
        .map(|number| spawned(&broker, &format!("r{}", number % 100)))
        .collect();
    let tokens: HashSet<_> = join_all(calls)
        .await
        .into_iter()
        .map(|result| result.unwrap().unwrap())
        .collect();
    let stats = emulator.stats();
    assert_eq!(
        (tokens.len(), stats.requests, stats.per_resource.len()),
        (100, 100, 100)
    );
    assert!(stats.max_in_flight > 50, "{} at once", stats.max_in_flight);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_leaves_takes_nothing_from_the_others() {
    for wasi in WASI {
        let server = gated();
        let broker = broker(wasi, server.app_service("s3cr3t"));
        // The one for whom the request is made.
        let first = spawned(&broker, "vault");
        server.wait_for_requests(1).await;
        let others: Vec<_> = (0..20).map(|_| spawned(&broker, "vault")).collect();
        // And one who joined it, known to have asked.
        let request = request("vault", PATIENT);
        let mut joined = Box::pin(ask(&broker, &request));
        assert!(joined.as_mut().now_or_never().is_none());
        drop(joined);
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        server.release();
        for other in others {
            assert_eq!(other.await.unwrap().unwrap(), "vault", "{wasi:?}");
        }
        assert_eq!(server.requests().len(), 1, "{wasi:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_have_left_the_next_caller_is_served() {
    for wasi in WASI {
        let server = gated();
        let broker = broker(wasi, server.app_service("s3cr3t"));
        let gone: Vec<_> = (0..20).map(|_| spawned(&broker, "vault")).collect();
        server.wait_for_requests(1).await;
        for call in gone {
            call.abort();
            assert!(call.await.unwrap_err().is_cancelled());
        }
        server.release();
        assert_eq!(spawned(&broker, "vault").await.unwrap().unwrap(), "vault", "{wasi:?}");
        assert_eq!(server.requests().len(), 1, "{wasi:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_or_failing_audience_delays_no_other() {
    let server = Server::start(|request| match request.case().as_str() {
        "silent" => Act::Hold(Vec::new()),
        // Tried again for 70 seconds.
        "updating" => Act::status(410, ""),
        "busy" => Act::status(503, ""),
        case => Act::token(case),
    });
    let broker = broker(WasiVersion::V0_3, server.imds());
    let bad = ["silent", "updating", "busy"].map(|case| spawned(&broker, case));
    server.wait_for_requests(3).await;
    for number in 0..50 {
        let case = format!("good{number}");
        assert_eq!(spawned(&broker, &case).await.unwrap(), Ok(case));
    }
    for call in bad {
        assert!(!call.is_finished(), "the others were not delayed until it had ended");
        call.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_for_wasi_0_2_turns_callers_away_in_time_while_another_waits() {
    let server = gated();
    let broker = broker(WasiVersion::V0_2, server.app_service("s3cr3t"));
    let first = spawned(&broker, "slow");
    server.wait_for_requests(1).await;
    let late = request("vault", Duration::from_millis(200));
    assert_eq!(ask(&broker, &late).await.unwrap_err().cause, Cause::DeadlineExceeded);
    assert!(!first.is_finished());
    let next = spawned(&broker, "next");
    server.release();
    assert_eq!(first.await.unwrap().unwrap(), "slow");
    assert_eq!(next.await.unwrap().unwrap(), "next");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impatient_callers_leave_the_flight_to_the_patient() {
    for wasi in WASI {
        let server = gated();
        let broker = broker(wasi, server.app_service("s3cr3t"));
        let patient = spawned(&broker, "vault");
        server.wait_for_requests(1).await;
        let hasty = request("vault", Duration::from_millis(100));
        let hasty = join_all((0..100).map(|_| ask(&broker, &hasty))).await;
        for result in hasty {
            assert_eq!(result.unwrap_err().cause, Cause::DeadlineExceeded, "{wasi:?}");
        }
        server.release();
        assert_eq!(patient.await.unwrap().unwrap(), "vault", "{wasi:?}");
        assert_eq!(server.requests().len(), 1, "{wasi:?}");
    }
}

/// The caller's leaving ends the request that nobody waits for any more, by the caller's own deadline at the latest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_nobody_waits_for_is_given_up() {
    for wasi in WASI {
        let server = Server::always(Act::Hold(Vec::new()));
        let broker = broker(wasi, server.app_service("s3cr3t"));
        let hasty = request("vault", Duration::from_millis(200));
        assert_eq!(ask(&broker, &hasty).await.unwrap_err().cause, Cause::DeadlineExceeded);
        if wasi == WasiVersion::V0_2 {
            // Work goes on there only while some call waits.
            let _ = ask(&broker, &request("other", Duration::from_millis(50))).await;
        }
        tokio::time::timeout(PATIENT, server.wait_for_closed(1))
            .await
            .expect("the connection is closed");
    }
}
