//! Brokers that are shut down, and what is left of them.

use super::support::brokers::{WASI, ask, broker, request};
use super::support::server::{Act, Server, reply, token_reply};
use super::{PATIENCE, fetch, scripted};
use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt as _};
use managed_identity_host::{
    AccessToken, BlockingBroker, Broker, BrokerBuilder, Cause, TokenError, TokenRequest, Watch,
};
use managed_identity_test_guests::HOSTILE_0_3;
use std::sync::Arc;
use tokio::time::timeout;

/// Answers when it is released.
fn gated() -> Server {
    Server::start(|request| Act::Gated(reply(200, &[], &token_reply(&request.case()))))
}

fn is_shut_down(error: &TokenError) -> bool {
    error.cause == Cause::Internal && error.message.contains("has been shut down")
}

#[test]
fn what_embedders_hold_goes_from_thread_to_thread() {
    fn is_shared<T: Send + Sync + 'static>() {}
    fn is_sent<T: Send + 'static>() {}
    fn future_is_sent(broker: &Broker, request: &TokenRequest) {
        fn sent<T: Send>(_: T) {}
        sent(broker.token(request));
        sent(broker.forget(None));
        sent(broker.describe_source());
        sent(broker.shutdown());
    }
    let _ = future_is_sent;
    is_shared::<Broker>();
    is_shared::<BlockingBroker>();
    is_shared::<AccessToken>();
    is_sent::<BrokerBuilder>();
    is_sent::<Watch>();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_have_begun_get_their_answers_and_later_ones_fail() {
    for wasi in WASI {
        let server = gated();
        let broker = broker(wasi, server.app_service("s3cr3t"));
        let patient = request("vault", PATIENCE);
        let mut begun: Vec<_> = (0..20).map(|_| Box::pin(ask(&broker, &patient))).collect();
        for call in &mut begun {
            assert!(call.as_mut().now_or_never().is_none(), "{wasi:?}");
        }
        let (one, other) = (broker.clone(), broker.clone());
        let mut ends = [Box::pin(one.shutdown()), Box::pin(other.shutdown())];
        for end in &mut ends {
            assert!(end.as_mut().now_or_never().is_none(), "{wasi:?}: calls are under way");
        }
        for error in [
            broker.token(&patient).await.unwrap_err(),
            broker.forget(None).await.unwrap_err(),
            broker.describe_source().await.unwrap_err(),
        ] {
            assert!(is_shut_down(&error), "{wasi:?}: {error}");
        }
        server.wait_for_requests(1).await;
        server.release();
        for result in join_all(begun).await {
            assert_eq!(result.unwrap(), "vault", "{wasi:?}");
        }
        timeout(PATIENCE, join_all(ends)).await.unwrap();
        // Once more, when it is over.
        timeout(PATIENCE, broker.shutdown()).await.unwrap();
        assert!(is_shut_down(&broker.token(&patient).await.unwrap_err()), "{wasi:?}");
    }
}

#[tokio::test]
async fn a_token_that_was_held_is_dropped() {
    for wasi in WASI {
        let server = Server::start(|request| Act::token(&request.case()));
        let broker = broker(wasi, server.app_service("s3cr3t"));
        let request = request("vault", PATIENCE);
        let token = broker.token(&request).await.unwrap();
        assert!(
            Arc::ptr_eq(&token, &broker.token(&request).await.unwrap()),
            "it is held"
        );
        broker.shutdown().await;
        assert!(is_shut_down(&broker.token(&request).await.unwrap_err()), "{wasi:?}");
        assert_eq!(Arc::strong_count(&token), 1, "{wasi:?}");
    }
}

#[tokio::test]
async fn nobody_who_has_left_is_waited_for() {
    for wasi in WASI {
        let server = Server::always(Act::Hold(Vec::new()));
        let broker = broker(wasi, server.app_service("s3cr3t"));
        let request = request("vault", PATIENCE);
        let mut call = Box::pin(broker.token(&request));
        assert!(call.as_mut().now_or_never().is_none());
        server.wait_for_requests(1).await;
        let mut end = Box::pin(broker.shutdown());
        assert!(end.as_mut().now_or_never().is_none());
        drop(call);
        timeout(PATIENCE / 2, end)
            .await
            .expect("the caller's own deadline is not waited for");
    }
}

#[tokio::test]
async fn a_shutdown_that_nobody_waits_for_goes_on() {
    let server = gated();
    let broker = broker(WASI[1], server.app_service("s3cr3t"));
    let patient = request("vault", PATIENCE);
    let mut call = Box::pin(ask(&broker, &patient));
    assert!(call.as_mut().now_or_never().is_none());
    assert!(broker.shutdown().now_or_never().is_none());
    server.release();
    assert_eq!(call.await.unwrap(), "vault");
    broker.shutdown().await;
}

#[tokio::test]
async fn a_watch_gives_the_token_at_once_and_ends_with_the_broker() {
    for wasi in WASI {
        let server = Server::start(|request| Act::token(&request.case()));
        let broker = broker(wasi, server.app_service("s3cr3t"));
        let mut watch = broker.watch(request("vault", PATIENCE));
        let first = watch.next().await.unwrap().unwrap();
        assert_eq!(first.token.expose(), "vault");
        assert!(
            watch.next().now_or_never().is_none(),
            "{wasi:?}: there is no other token"
        );
        let (next, ()) = tokio::join!(timeout(PATIENCE, watch.next()), broker.shutdown());
        assert!(next.unwrap().is_none(), "{wasi:?}");
        assert!(broker.watch(request("vault", PATIENCE)).next().await.is_none());
    }
}

#[tokio::test]
async fn a_watch_tells_a_failure_when_there_is_no_token() {
    let server = Server::always(Act::status(
        400,
        r#"{"error":"invalid_request","error_description":"no"}"#,
    ));
    let broker = broker(WASI[1], server.app_service("s3cr3t"));
    let mut watch = broker.watch(request("vault", PATIENCE));
    watch.next().await.unwrap().unwrap_err();
}

/// The server sees the end of the provider's connections, which it keeps open for as long as it lives.
#[tokio::test]
async fn a_provider_ends_with_the_last_that_holds_it() {
    for wasi in WASI {
        let server = Server::start(|request| Act::token(&request.case()));
        let broker = broker(wasi, server.app_service("s3cr3t"));
        let mut watch = broker.watch(request("vault", PATIENCE));
        watch.next().await.unwrap().unwrap();
        // Its timer is under way.
        assert!(watch.next().now_or_never().is_none());
        let blocking = broker.blocking();
        drop(broker);
        drop(blocking);
        assert!(
            server.wait_for_closed(1).now_or_never().is_none(),
            "{wasi:?}: the watch holds it"
        );
        drop(watch);
        timeout(PATIENCE, server.wait_for_closed(1)).await.unwrap();
    }
}

#[test]
fn a_program_without_a_runtime_gets_tokens() {
    for wasi in WASI {
        let server = Server::start(|request| Act::token(&request.case()));
        let broker = broker(wasi, server.app_service("s3cr3t")).blocking();
        let request = request("vault", PATIENCE);
        assert_eq!(broker.token(&request).unwrap().token.expose(), "vault");
        assert_eq!(broker.describe_source().unwrap().source.as_deref(), Some("app-service"));
        broker.forget(None).unwrap();
        broker.token(&request).unwrap();
        assert_eq!(server.requests().len(), 2, "{wasi:?}");
        broker.shutdown();
        assert!(is_shut_down(&broker.token(&request).unwrap_err()));
    }
}

/// A call blocks its thread alone, which is the runtime's only one here.
#[tokio::test]
async fn a_blocking_call_on_a_runtime_does_not_hang() {
    let server = Server::start(|request| Act::token(&request.case()));
    let broker = broker(WASI[1], server.app_service("s3cr3t"));
    broker.blocking().token(&request("vault", PATIENCE)).unwrap();
    broker.blocking().shutdown();
}

/// More than a runtime lets a task have before it must give way, which a thread that is blocked cannot.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn any_number_of_blocking_calls_in_one_task_does_not_hang() {
    let server = Server::start(|request| Act::token(&request.case()));
    let broker = broker(WASI[1], server.app_service("s3cr3t"));
    let (done, is_done) = std::sync::mpsc::channel();
    let blocking = broker.blocking();
    tokio::spawn(async move {
        for _ in 0..1_000 {
            blocking.describe_source().unwrap();
        }
        blocking.shutdown();
        done.send(()).unwrap();
    });
    // The runtime's own thread would be blocked with it.
    is_done.recv_timeout(PATIENCE).expect("a blocking call hangs");
}

/// While instances fail one after the other, a shutdown comes to its end as well.
#[tokio::test]
async fn a_provider_that_goes_on_failing_is_shut_down() {
    let server = scripted(|_, _| Act::status(super::TRAP, ""));
    let broker = super::broker(HOSTILE_0_3, &server);
    let request = fetch(&server, "trap");
    broker.token(&request).await.unwrap_err();
    timeout(PATIENCE, broker.shutdown()).await.unwrap();
}
