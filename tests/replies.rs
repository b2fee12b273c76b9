//! Replies that no well-meaning server sends: each ends with its cause and in time, and harms nobody else.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "replies/shapes.rs"]
mod shapes;
mod support;

use futures_util::stream::{self, StreamExt as _};
use managed_identity_host::{Cause, Identity, WasiVersion};
use shapes::{Outcome, all};
use std::time::{Duration, Instant};
use support::brokers::{WASI, broker, request};
use support::server::{Act, Server};

const TIMEOUT: Duration = Duration::from_secs(2);

/// How long past its time-out a call may take.
const GRACE: Duration = Duration::from_secs(2);

/// The value of `IDENTITY_HEADER`, which these servers like to repeat.
const SECRET: &str = "853b9a84-5bfa-4b22-a3f3-0b9a43d9ad8a";

/// What a server sends that should not be handed on, and must not be shown either.
const TOKEN: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL3ZhdWx0In0.c2lnbmF0dXJl";

/// The client id that every bad reply is an answer to.
const CLIENT: &str = "12345678-90ab-cdef-1234-567890abcdef";

/// Asks for a token that one reply should bring, and then for a good one through the same component.
async fn check(wasi: WasiVersion, name: &'static str, act: Act, expected: Outcome) -> Result<(), String> {
    let server = Server::start(move |request| match request.case().as_str() {
        "good" => Act::token("good"),
        _ => act.clone(),
    });
    let broker = broker(wasi, server.app_service(SECRET));
    let asked = request("case", TIMEOUT).with_identity(Identity::ClientId(CLIENT.to_owned()));
    let started = Instant::now();
    let result = tokio::time::timeout(Duration::from_secs(30), broker.token(&asked)).await;
    let elapsed = started.elapsed();
    let context = format!("{name} ({wasi:?}, {elapsed:.1?})");
    let result = result.map_err(|_| format!("{context}: never ends"))?;
    if elapsed > TIMEOUT + GRACE {
        return Err(format!("{context}: too late"));
    }
    let got = match &result {
        Ok(token) if token.token.matches(TOKEN) => Outcome::Token,
        Ok(_) => return Err(format!("{context}: another token")),
        Err(error) => Outcome::No(error.cause),
    };
    let as_expected = match expected {
        Outcome::Either(one, other) => got == Outcome::No(one) || got == Outcome::No(other),
        expected => got == expected,
    };
    if !as_expected {
        return Err(format!("{context}: {result:?}, expected {expected:?}"));
    }
    if let Err(error) = &result {
        let shown = format!("{error} {error:?}");
        if shown.contains(SECRET) || shown.contains("eyJ0eXAi") {
            return Err(format!("{context}: shows a secret: {shown}"));
        }
    }
    match broker.token(&request("good", Duration::from_secs(10))).await {
        // What a throttled platform says holds for everybody.
        Err(error) if expected == Outcome::No(Cause::Throttled) && error.cause == Cause::Throttled => Ok(()),
        Ok(token) if token.token.matches("good") => Ok(()),
        other => Err(format!("{context}: and after it {other:?}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reply_ends_with_its_cause_by_the_timeout() {
    let checks = WASI
        .into_iter()
        .flat_map(|wasi| {
            all()
                .into_iter()
                .map(move |(name, act, expected)| (wasi, name, act, expected))
        })
        .map(|(wasi, name, act, expected)| check(wasi, name, act, expected));
    let results: Vec<_> = stream::iter(checks).buffer_unordered(8).collect().await;
    let faults: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    assert!(faults.is_empty(), "{} replies:\n{}", faults.len(), faults.join("\n"));
}

/// The patience of one caller is not that of another, and a connection that fails is not used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_replies_to_some_do_not_reach_others_in_the_same_component() {
    // What a throttled platform says is meant for everybody.
    let mut cases = all();
    cases.retain(|(_, _, expected)| *expected != Outcome::No(Cause::Throttled));
    let acts: Vec<_> = cases.iter().map(|(_, act, _)| act.clone()).collect();
    let server = Server::start(move |request| match request.case().strip_prefix('r') {
        Some(row) => acts[row.parse::<usize>().unwrap()].clone(),
        None => Act::token("good"),
    });
    let broker = broker(WasiVersion::V0_3, server.app_service(SECRET));
    let bad = (0..cases.len()).map(|row| {
        let asked = request(&format!("r{row}"), TIMEOUT).with_identity(Identity::ClientId(CLIENT.to_owned()));
        let broker = broker.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            (broker.token(&asked).await, started.elapsed())
        })
    });
    let bad: Vec<_> = bad.collect();
    for number in 0..20 {
        let good = broker
            .token(&request(&format!("good{number}"), Duration::from_secs(10)))
            .await;
        assert!(good.as_ref().is_ok_and(|token| token.token.matches("good")), "{good:?}");
    }
    for ((name, _, expected), call) in cases.iter().zip(bad) {
        let (result, elapsed) = call.await.unwrap();
        assert!(elapsed <= TIMEOUT + GRACE, "{name}: {elapsed:.1?}");
        // All at once on a busy machine, what would fail in time may be late; a token must still be the right one.
        match (&result, expected) {
            (Ok(token), Outcome::Token) => assert!(token.token.matches(TOKEN), "{name}"),
            (Ok(_), _) => panic!("{name}: a token"),
            (Err(error), _) => assert_ne!(error.cause, Cause::Internal, "{name}: {error}"),
        }
    }
}

/// Whoever sends as fast as it can is read as slowly as it takes for others to be served in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_does_not_keep_the_component_from_serving_others() {
    let mut faults = Vec::new();
    for (name, act, _) in shapes::floods() {
        let server = Server::start(move |request| match request.case().as_str() {
            "flood" => act.clone(),
            _ => Act::token("good"),
        });
        let broker = broker(WasiVersion::V0_3, server.app_service(SECRET));
        let (flooded, flood) = (broker.clone(), request("flood", TIMEOUT));
        let flooded = tokio::spawn(async move { flooded.token(&flood).await });
        server.wait_for_requests(1).await;
        for number in 0..5 {
            let good = request(&format!("good{number}"), Duration::from_secs(1));
            if let Err(error) = broker.token(&good).await {
                faults.push(format!("{name}: {error}"));
            }
        }
        flooded.abort();
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
