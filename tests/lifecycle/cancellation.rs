//! Callers that leave, at every stage of their call.

use super::support::brokers::{WASI, ask, broker, request};
use super::support::server::{Act, Server, reply, token_reply};
use super::{PATIENCE, fetch, scripted};
use futures_util::FutureExt as _;
use managed_identity_host::Secret;
use managed_identity_test_guests::HOSTILE_0_2;
use tokio::time::timeout;

/// When a caller leaves.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// It has made its future and not begun.
    Unsent,
    /// Its question has been sent.
    Sent,
    /// The platform has been asked for it.
    Asked,
    /// The platform has answered, and it has not looked.
    Answered,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_takes_nothing_from_the_others() {
    for wasi in WASI {
        for stage in [Stage::Unsent, Stage::Sent, Stage::Asked, Stage::Answered] {
            let server = Server::start(|request| Act::Gated(reply(200, &[], &token_reply(&request.case()))));
            let broker = broker(wasi, server.app_service("s3cr3t"));
            let plain = request("vault", PATIENCE);
            let requests = [
                plain.clone(),
                plain.clone().with_rejected_token(Secret::from("old")),
                request("other", PATIENCE),
            ];
            let mut leaving: Vec<_> = requests.iter().map(|request| Box::pin(ask(&broker, request))).collect();
            if !matches!(stage, Stage::Unsent) {
                for call in &mut leaving {
                    assert!(call.as_mut().now_or_never().is_none());
                }
            }
            if matches!(stage, Stage::Asked | Stage::Answered) {
                server.wait_for_requests(1).await;
            }
            if matches!(stage, Stage::Answered) {
                server.release();
                // Whoever asks now is answered after those who asked before.
                for request in &requests {
                    ask(&broker, request).await.unwrap();
                }
            }
            drop(leaving);
            let staying = requests.clone().map(|request| {
                let broker = broker.clone();
                tokio::spawn(async move { ask(&broker, &request).await })
            });
            server.release();
            for (call, expected) in staying.into_iter().zip(["vault", "vault", "other"]) {
                let token = timeout(PATIENCE, call).await.unwrap().unwrap();
                assert_eq!(token.as_deref(), Ok(expected), "{wasi:?} {stage:?}");
            }
            // Nobody is left to wait for.
            timeout(PATIENCE, broker.shutdown()).await.unwrap();
        }
    }
}

/// A question that doubts a token keeps it from being given, and no longer than it is there itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubt_that_is_given_up_does_not_last() {
    let server = scripted(|_, _| Act::status(super::TOKEN, ""));
    // Where calls wait for each other, so that what is answered last is known.
    let broker = super::broker(HOSTILE_0_2, &server);
    let plain = fetch(&server, "vault");
    broker.token(&plain).await.unwrap();
    broker.token(&plain).await.unwrap();
    assert_eq!(server.requests().len(), 1, "the token is held");
    let doubted = plain.clone().with_rejected_token(Secret::from("another"));
    assert!(broker.token(&doubted).now_or_never().is_none());
    broker.describe_source().await.unwrap();
    let asked = server.requests().len();
    broker.token(&plain).await.unwrap();
    broker.token(&plain).await.unwrap();
    assert_eq!(
        server.requests().len(),
        asked + 1,
        "the token was dropped, and the next one is held"
    );
}
