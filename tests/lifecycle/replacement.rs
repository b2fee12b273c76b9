//! Instances that fail in the middle of their work.

use super::support::brokers::WASI;
use super::support::server::{Act, reply};
use super::*;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use managed_identity_host::Cause;
use managed_identity_test_guests::{HOSTILE_0_2, HOSTILE_0_3};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::timeout;

/// How many call at once, and for how many audiences: fewer than the host connects for at once.
const CALLERS: usize = 1_000;
const AUDIENCES: usize = 100;

/// Asks for a token again and again until it is told to stop. Returns how often it got one; each time, or it panics.
fn reader(broker: &Broker, request: TokenRequest, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<usize> {
    let (broker, stop) = (broker.clone(), Arc::clone(stop));
    tokio::spawn(async move {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) || count == 0 {
            broker.token(&request).await.unwrap();
            count += 1;
            tokio::task::yield_now().await;
        }
        count
    })
}

/// Every caller waits for the server when the instance traps. Those who read tokens that are cached see nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_in_the_middle_of_a_thousand_calls_costs_nobody_a_token() {
    let server = scripted(|case, time| match (case, time) {
        ("fresh", _) => Act::status(TOKEN, ""),
        ("due", _) => Act::status(DUE_TOKEN, ""),
        ("trap", 0) => Act::Gated(reply(TRAP, &[], "")),
        (case, 0) if case.starts_with('r') => Act::Hold(Vec::new()),
        _ => Act::status(TOKEN, ""),
    });
    let broker = broker(HOSTILE_0_3, &server);
    let (fresh, due) = (fetch(&server, "fresh"), fetch(&server, "due"));
    assert!(!broker.token(&fresh).await.unwrap().stale);
    assert!(!broker.token(&due).await.unwrap().stale);
    let calls: Vec<_> = (0..CALLERS)
        .map(|number| match number {
            0 => "trap".to_owned(),
            number => format!("r{}", number % AUDIENCES),
        })
        .map(|case| {
            let (broker, request) = (broker.clone(), fetch(&server, &case));
            tokio::spawn(async move { broker.token(&request).await })
        })
        .collect();
    server.wait_for_requests(2 + 1 + AUDIENCES).await;
    let stop = Arc::new(AtomicBool::new(false));
    let readers = [&fresh, &due].map(|request| reader(&broker, request.clone(), &stop));
    server.release();
    for call in join_all(calls).await {
        call.unwrap().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
    broker.token(&fetch(&server, "next")).await.unwrap();
}

/// One that fails each time it is asked takes others with it twice at most, and each of them is told why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_that_fails_every_instance_is_not_asked_for_ever() {
    for guest in [HOSTILE_0_2, HOSTILE_0_3] {
        let server = scripted(|case, time| match (case, time) {
            ("poison", _) => Act::status(TRAP, ""),
            _ => Act::status(TOKEN, ""),
        });
        let broker = broker(guest, &server);
        let calls: Vec<_> = (0..50)
            .map(|number| match number {
                10 => "poison".to_owned(),
                number => format!("r{number}"),
            })
            .map(|case| {
                let (broker, request) = (broker.clone(), fetch(&server, &case));
                tokio::spawn(async move { (case, broker.token(&request).await) })
            })
            .collect();
        for call in join_all(calls).await {
            match call.unwrap() {
                (case, Ok(_)) => assert_ne!(case, "poison"),
                (_, Err(error)) => {
                    assert_eq!(error.cause, Cause::Internal, "{error}");
                    assert!(error.message.contains("failed and is replaced"), "{error}");
                }
            }
        }
        let asked = server
            .requests()
            .into_iter()
            .filter(|request| request.case() == "poison");
        assert_eq!(asked.count(), 2);
        broker.token(&fetch(&server, "next")).await.unwrap();
    }
}

/// A token whose successor is due, and a provider that does not bring it: by a trap, an error, or silence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_valid_token_is_never_withheld() {
    for guest in [HOSTILE_0_2, HOSTILE_0_3] {
        for then in [Act::status(TRAP, ""), Act::status(FAILURE, ""), Act::Hold(Vec::new())] {
            let silent = matches!(then, Act::Hold(_));
            let server = scripted(move |_, time| match time {
                0 => Act::status(DUE_TOKEN, ""),
                _ => then.clone(),
            });
            let broker = broker(guest, &server);
            let request = fetch(&server, "vault");
            let first = broker.token(&request).await.unwrap();
            let hasty = match silent {
                true => request.clone().with_timeout(Duration::from_millis(100)),
                false => request.clone(),
            };
            let again = broker.token(&hasty).await.unwrap();
            assert!(!first.stale && again.stale);
            assert_eq!(first.token.expose(), again.token.expose());
            // It was asked for, and not guessed.
            assert!(server.requests().len() >= 2);
            if !silent {
                let doubted = request.clone().with_rejected_token(again.token.clone());
                broker.token(&doubted).await.unwrap_err();
                broker.token(&request).await.unwrap_err();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_token_is_withheld() {
    for guest in [HOSTILE_0_2, HOSTILE_0_3] {
        let server = scripted(|_, time| match time {
            0 => Act::status(DUE_TOKEN, ""),
            _ => Act::status(FAILURE, ""),
        });
        let broker = broker(guest, &server);
        let request = fetch(&server, "vault");
        broker.token(&request).await.unwrap();
        assert!(broker.token(&request).await.unwrap().stale);
        broker.forget(Some(&request.audience)).await.unwrap();
        assert_eq!(broker.token(&request).await.unwrap_err().cause, Cause::Unsupported);
    }
}

/// One that has no memory to start with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_a_provider_that_never_starts_is_told_why_before_his_time_is_over() {
    for wasi in WASI {
        let server = Server::always(Act::Hold(Vec::new()));
        let builder = Broker::builder().wasi(wasi).environment(server.app_service("s3cr3t"));
        let broker = builder.memory_limit(1).build().unwrap();
        let request = TokenRequest::new("https://vault.azure.net").with_timeout(PATIENCE * 2);
        for _ in 0..2 {
            let error = timeout(PATIENCE, broker.token(&request)).await.unwrap().unwrap_err();
            assert_eq!(error.cause, Cause::Internal, "{wasi:?}: {error}");
            assert!(error.message.contains("failed and is replaced"), "{wasi:?}: {error}");
        }
        broker.forget(None).await.unwrap();
        timeout(PATIENCE, broker.shutdown()).await.unwrap();
    }
}

/// What the first instance knew is gone, and the platform says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_valid_token_is_not_held_back_until_the_callers_time_is_over() {
    for guest in [HOSTILE_0_2, HOSTILE_0_3] {
        let server = scripted(move |_, time| match time {
            0 => Act::status(DUE_TOKEN, ""),
            _ => Act::Hold(Vec::new()),
        });
        let broker = broker(guest, &server);
        let request = fetch(&server, "vault");
        broker.token(&request).await.unwrap();
        let patient = request.clone().with_timeout(PATIENCE * 2);
        let again = timeout(PATIENCE, broker.token(&patient)).await.unwrap().unwrap();
        assert!(again.stale);
        // Who doubts it waits for another.
        let doubted = request.with_rejected_token(again.token.clone());
        let mut call = Box::pin(broker.token(&doubted));
        assert!(call.as_mut().now_or_never().is_none());
    }
}
