//! Tokens that are given on the caller's own thread, and those that must not be any more.

use super::PATIENCE;
use super::support::brokers::{WASI, ask, broker, request};
use super::support::server::{Act, Server, reply, token_reply};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use managed_identity_host::{Secret, TokenRequest};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A server that never gives the same token twice.
fn counting() -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |_| Act::token(&format!("t{}", count.fetch_add(1, Ordering::Relaxed))))
}

/// Every way to ask for one and the same token.
fn spellings() -> [TokenRequest; 2] {
    ["https://vault.example", "https://vault.example/.default"]
        .map(|audience| TokenRequest::new(audience).with_timeout(PATIENCE))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hit_waits_for_nothing() {
    for wasi in WASI {
        let server = Server::start(|request| match request.case().as_str() {
            "slow" => Act::Gated(reply(200, &[], &token_reply("slow"))),
            case => Act::token(case),
        });
        let broker = broker(wasi, server.app_service("s3cr3t"));
        let vault = request("vault", PATIENCE);
        ask(&broker, &vault).await.unwrap();
        let slow = request("slow", PATIENCE);
        let mut waiting = Box::pin(ask(&broker, &slow));
        assert!(waiting.as_mut().now_or_never().is_none());
        server.wait_for_requests(2).await;
        let hit = broker.token(&vault).now_or_never();
        assert_eq!(hit.unwrap().unwrap().token.expose(), "vault", "{wasi:?}");
        server.release();
        waiting.await.unwrap();
        assert_eq!(server.requests().len(), 2, "{wasi:?}");
    }
}

/// However many ask at the same time, under whatever spelling: who asks after a rejection or a forget was answered gets a
/// younger token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_older_token_is_given_after_a_rejection_or_a_forget() {
    for wasi in WASI {
        let server = counting();
        let broker = broker(wasi, server.app_service("s3cr3t"));
        let stop = Arc::new(AtomicBool::new(false));
        let others: Vec<_> = spellings()
            .into_iter()
            .map(|request| {
                let (broker, stop) = (broker.clone(), Arc::clone(&stop));
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        broker.token(&request).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        let mut gone = HashSet::new();
        for round in 0..100 {
            let [plain, scope] = spellings();
            let token = ask(&broker, &plain).await.unwrap();
            match round % 3 {
                0 => {
                    let doubt = scope.clone().with_rejected_token(Secret::from(token.as_str()));
                    assert_ne!(ask(&broker, &doubt).await.unwrap(), token);
                }
                1 => {
                    let doubt = scope.clone().with_claims(r#"{"access_token":{}}"#);
                    // The source of these tokens meets no challenge, and says so.
                    let doubt = doubt.with_rejected_token(Secret::from(token.as_str()));
                    let _ = ask(&broker, &doubt).await;
                }
                _ => broker.forget(Some(&scope.audience)).await.unwrap(),
            }
            gone.insert(token);
            for request in [&plain, &scope] {
                let next = ask(&broker, request).await.unwrap();
                assert!(!gone.contains(&next), "{wasi:?}, round {round}: {next}");
            }
        }
        stop.store(true, Ordering::Relaxed);
        for other in join_all(others).await {
            other.unwrap();
        }
    }
}
