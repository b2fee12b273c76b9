//! The engine against a scripted platform, with a clock that is moved by hand: minutes of retries take microseconds.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod model;
mod world;

use managed_identity_provider::engine::{Engine, Issued};
use managed_identity_provider::error::{Cause, Error};
use managed_identity_provider::platform::{Platform, TransportFault};
use managed_identity_provider::request::{Identity, TokenRequest};
use std::time::Duration;
use world::{Inline, Reply, World};

const VAULT: &str = "https://vault.azure.net";
const CLIENT: &str = "12345678-90ab-cdef-1234-567890abcdef";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn request(audience: &str, timeout: Duration) -> TokenRequest {
    let milliseconds = u32::try_from(timeout.as_millis()).unwrap();
    TokenRequest::checked(audience, Identity::PlatformDefault, None, None, Some(milliseconds)).unwrap()
}

/// Asks once, from start to end.
fn ask(world: &World, engine: &Engine<World>, request: TokenRequest) -> Result<Issued, Error> {
    world.run(engine.get_token(request))
}

fn secret(issued: &Issued) -> &str {
    issued.token.secret.expose()
}

#[test]
fn a_second_request_is_answered_from_the_cache() {
    let world = World::app_service();
    let engine = Engine::new(world.clone());
    let first = ask(&world, &engine, request(VAULT, seconds(10))).unwrap();
    let second = ask(&world, &engine, request(&format!("{VAULT}/.default"), seconds(10))).unwrap();
    assert_eq!((secret(&first), secret(&second)), ("token-1", "token-1"));
    assert_eq!(world.requests().len(), 1);
    assert_eq!(first.token.source, "app-service");
    assert!(!second.stale);
}

#[test]
fn audiences_and_identities_have_tokens_of_their_own() {
    let world = World::app_service();
    let engine = Engine::new(world.clone());
    for (audience, identity) in [
        (VAULT, Identity::SystemAssigned),
        ("https://storage.azure.com", Identity::SystemAssigned),
        (VAULT, Identity::ClientId(CLIENT.to_owned())),
        (VAULT, Identity::ObjectId(CLIENT.to_owned())),
    ] {
        ask(
            &world,
            &engine,
            TokenRequest::checked(audience, identity, None, None, None).unwrap(),
        )
        .unwrap();
    }
    assert_eq!(world.requests().len(), 4);
    // One identity has one entry, however its identifier is written.
    let upper = Identity::ClientId(CLIENT.to_uppercase());
    ask(
        &world,
        &engine,
        TokenRequest::checked(VAULT, upper, None, None, None).unwrap(),
    )
    .unwrap();
    assert_eq!(world.requests().len(), 4);
}

#[test]
fn a_thousand_callers_share_one_request() {
    let world = World::app_service().answering(|_| Reply::token("t", 3600).after(seconds(1)));
    let engine = Engine::new(world.clone());
    let results = world.run(futures_util::future::join_all(
        (0..1000).map(|_| engine.get_token(request(VAULT, seconds(5)))),
    ));
    assert!(results.iter().all(|result| secret(result.as_ref().unwrap()) == "t"));
    assert_eq!(world.requests().len(), 1);
}

#[test]
fn different_audiences_are_asked_for_side_by_side() {
    let world = World::app_service().answering(|_| Reply::token("t", 3600).after(seconds(1)));
    let engine = Engine::new(world.clone());
    let calls =
        (0..1000).map(|number| engine.get_token(request(&format!("https://r{}.example", number % 100), seconds(5))));
    let results = world.run(futures_util::future::join_all(calls));
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(world.requests().len(), 100);
    assert_eq!(world.elapsed(), seconds(1));
}

#[test]
fn a_failing_audience_delays_no_other() {
    let world = World::imds().answering(|request| match request.query("resource") {
        Some("https://bad.example") => Reply::status(410, ""),
        _ => Reply::token("t", 3600),
    });
    let engine = Engine::new(world.clone());
    let (bad, good) = world.run(async {
        let good = async {
            let result = engine.get_token(request(VAULT, seconds(80))).await;
            (result, world.elapsed())
        };
        futures_util::future::join(engine.get_token(request("https://bad.example", seconds(80))), good).await
    });
    assert_eq!(good.1, Duration::ZERO);
    assert!(good.0.is_ok());
    assert_eq!(bad.unwrap_err().cause, Cause::PlatformUpdating);
}

#[test]
fn a_caller_who_leaves_early_takes_nothing_from_the_others() {
    let world = World::app_service().answering(|_| Reply::token("t", 3600).after(seconds(3)));
    let engine = Engine::new(world.clone());
    let (impatient, patient) = world.run(futures_util::future::join(
        engine.get_token(request(VAULT, seconds(1))),
        engine.get_token(request(VAULT, seconds(10))),
    ));
    assert_eq!(impatient.unwrap_err().cause, Cause::DeadlineExceeded);
    assert_eq!(secret(&patient.unwrap()), "t");
    assert_eq!(world.requests().len(), 1);
}

#[test]
fn silence_ends_at_the_deadline_and_the_message_says_what_was_waited_for() {
    let world = World::app_service().answering(|_| Reply::silence());
    let engine = Engine::new(world.clone());
    let error = ask(&world, &engine, request(VAULT, seconds(5))).unwrap_err();
    assert_eq!(error.cause, Cause::DeadlineExceeded);
    assert!(
        error.message.contains("the reply of http://127.0.0.1:41741/msi/token"),
        "{error}"
    );
    assert_eq!(world.elapsed(), seconds(5));
    // And what is asked for later is asked for anew.
    world.answer(|_| Reply::token("t", 3600));
    assert!(ask(&world, &engine, request(VAULT, seconds(5))).is_ok());
}

#[test]
fn a_try_that_hangs_is_followed_by_another() {
    let world = World::app_service().answering(|request| match request.number {
        1 => Reply::silence(),
        _ => Reply::token("t", 3600),
    });
    let engine = Engine::new(world.clone());
    assert!(ask(&world, &engine, request(VAULT, seconds(60))).is_ok());
    assert!(
        world.elapsed() >= seconds(20) && world.elapsed() < seconds(22),
        "{:?}",
        world.elapsed()
    );
}

#[test]
fn no_time_at_all_is_enough_for_a_cached_token_only() {
    let world = World::app_service();
    let engine = Engine::new(world.clone());
    let error = ask(&world, &engine, request(VAULT, Duration::ZERO)).unwrap_err();
    assert_eq!((error.cause, world.requests().len()), (Cause::DeadlineExceeded, 0));
    ask(&world, &engine, request(VAULT, seconds(1))).unwrap();
    assert!(ask(&world, &engine, request(VAULT, Duration::ZERO)).is_ok());
}

#[test]
fn statuses_are_tried_again_as_each_source_documents() {
    for (world, status, tries) in [
        (World::imds(), 404, 6),
        (World::imds(), 429, 6),
        (World::imds(), 500, 6),
        (World::imds(), 400, 1),
        (World::imds(), 403, 1),
        (World::app_service(), 503, 5),
        (World::app_service(), 429, 5),
        (World::app_service(), 404, 1),
        (World::app_service(), 401, 1),
        (World::app_service(), 302, 1),
    ] {
        let world = world.answering(move |_| Reply::status(status, ""));
        let engine = Engine::new(world.clone());
        let error = ask(&world, &engine, request(VAULT, seconds(600))).unwrap_err();
        assert_eq!(
            (error.http_status, world.requests().len()),
            (Some(status), tries),
            "{error}"
        );
    }
}

#[test]
fn an_update_of_the_metadata_service_is_waited_out_for_seventy_seconds() {
    let world = World::imds();
    let seen = world.clone();
    let world = world.answering(move |_| match seen.elapsed() {
        elapsed if elapsed < seconds(69) => Reply::status(410, ""),
        _ => Reply::token("t", 3600),
    });
    let engine = Engine::new(world.clone());
    assert!(ask(&world, &engine, request(VAULT, seconds(120))).is_ok());
    assert!(
        world.elapsed() >= seconds(69) && world.elapsed() < seconds(95),
        "{:?}",
        world.elapsed()
    );
}

#[test]
fn the_platforms_own_delay_is_kept_and_never_waited_for_in_vain() {
    let throttled = |number: u64| match number {
        1 => Reply::status(429, "").header("retry-after", "7"),
        _ => Reply::token("t", 3600),
    };
    let world = World::imds().answering(move |request| throttled(request.number));
    let engine = Engine::new(world.clone());
    assert!(ask(&world, &engine, request(VAULT, seconds(30))).is_ok());
    assert!(
        world.elapsed() >= seconds(7) && world.elapsed() < seconds(8),
        "{:?}",
        world.elapsed()
    );

    let world = World::imds().answering(move |request| throttled(request.number));
    let engine = Engine::new(world.clone());
    let error = ask(&world, &engine, request(VAULT, seconds(5))).unwrap_err();
    assert_eq!((error.cause, error.retry_after_ms), (Cause::Throttled, Some(7000)));
    assert_eq!(
        world.elapsed(),
        Duration::ZERO,
        "a caller with less time is told at once"
    );
}

#[test]
fn faults_of_the_transport_have_their_causes() {
    for (fault, cause, tries) in [
        (TransportFault::Denied, Cause::Denied, 1),
        (TransportFault::NameNotFound, Cause::EndpointUnreachable, 3),
        (TransportFault::NotConnected, Cause::EndpointUnreachable, 3),
        (TransportFault::NoReply, Cause::EndpointUnreachable, 3),
        (TransportFault::BrokenOff, Cause::MalformedReply, 3),
        (TransportFault::TooLarge, Cause::MalformedReply, 1),
        (TransportFault::NotHttp, Cause::EndpointIntercepted, 1),
        (TransportFault::Other, Cause::Internal, 3),
    ] {
        let world = World::app_service().answering(move |_| Reply::fault(fault));
        let engine = Engine::new(world.clone());
        let error = ask(&world, &engine, request(VAULT, seconds(60))).unwrap_err();
        assert_eq!((error.cause, world.requests().len()), (cause, tries), "{fault:?}");
    }
}

/// Where refreshes run in the background and where a caller has to wait for them, the promise is the same.
fn keeps_a_valid_token_and_drops_an_expired_one<P: Platform>(world: &World, engine: &Engine<P>) {
    let ask = || world.run(engine.get_token(request(VAULT, seconds(60))));
    world.answer(|request| match request.number {
        1 => Reply::token("old", 3600),
        _ => Reply::status(500, ""),
    });
    let first = ask().unwrap();
    let latest = world.wall() + 3300;
    assert!((latest - 300..=latest).contains(&first.token.refresh_on));
    world.pass(seconds(3301));
    assert_eq!(secret(&ask().unwrap()), "old");
    world.settle();
    let third = ask().unwrap();
    assert!(secret(&third) == "old" && third.stale, "the refresh has failed by now");
    world.pass(seconds(300));
    assert_eq!(ask().unwrap_err().cause, Cause::PlatformFailure);
}

#[test]
fn a_valid_token_is_not_withheld_when_its_refresh_fails_and_an_expired_one_is() {
    let world = World::app_service();
    keeps_a_valid_token_and_drops_an_expired_one(&world, &Engine::new(world.clone()));
    let world = World::app_service();
    keeps_a_valid_token_and_drops_an_expired_one(&world, &Engine::new(Inline(world.clone())));
}

#[test]
fn a_due_token_is_returned_at_once_while_its_successor_is_fetched_in_the_background() {
    let world = World::app_service()
        .answering(|request| Reply::token(&format!("token-{}", request.number), 3600).after(seconds(2)));
    let engine = Engine::new(world.clone());
    ask(&world, &engine, request(VAULT, seconds(60))).unwrap();
    world.pass(seconds(3301));
    let before = world.elapsed();
    for _ in 0..10 {
        assert_eq!(
            secret(&ask(&world, &engine, request(VAULT, seconds(60))).unwrap()),
            "token-1"
        );
    }
    assert_eq!(world.elapsed(), before);
    world.settle();
    assert_eq!(
        secret(&ask(&world, &engine, request(VAULT, seconds(60))).unwrap()),
        "token-2"
    );
    assert_eq!(world.requests().len(), 2);
}

#[test]
fn another_identity_than_was_asked_for_is_an_error() {
    for (asked, echo, fits) in [
        (
            Identity::ClientId(CLIENT.to_owned()),
            format!(r#","client_id":"{}""#, CLIENT.to_uppercase()),
            true,
        ),
        (
            Identity::ClientId(CLIENT.to_owned()),
            r#","client_id":"other""#.to_owned(),
            false,
        ),
        (Identity::ClientId(CLIENT.to_owned()), String::new(), true),
        (
            Identity::ObjectId(CLIENT.to_owned()),
            r#","object_id":"other""#.to_owned(),
            false,
        ),
        (
            Identity::ResourceId("/subscriptions/a".to_owned()),
            r#","mi_res_id":"/Subscriptions/A""#.to_owned(),
            true,
        ),
        (
            Identity::ResourceId("/subscriptions/a".to_owned()),
            r#","msi_res_id":"/subscriptions/b""#.to_owned(),
            false,
        ),
        (Identity::SystemAssigned, r#","client_id":"whatever""#.to_owned(), true),
    ] {
        let body = format!(r#"{{"access_token":"t","expires_in":"3600"{echo}}}"#);
        let world = World::app_service().answering(move |_| Reply::status(200, &body));
        let engine = Engine::new(world.clone());
        let result = ask(
            &world,
            &engine,
            TokenRequest::checked(VAULT, asked, None, None, None).unwrap(),
        );
        match result {
            Ok(_) => assert!(fits, "{echo}"),
            Err(error) => assert!(!fits && error.cause == Cause::IdentityMismatch, "{error}"),
        }
    }
}

#[test]
fn a_token_for_another_audience_is_an_error() {
    for (resource, fits) in [
        (VAULT, true),
        ("https://VAULT.azure.net/", true),
        ("https://graph.microsoft.com", false),
    ] {
        let body = format!(r#"{{"access_token":"t","expires_in":3600,"resource":"{resource}"}}"#);
        let world = World::app_service().answering(move |_| Reply::status(200, &body));
        let result = ask(&world, &Engine::new(world.clone()), request(VAULT, seconds(5)));
        assert_eq!(
            result.map(|_| ()).map_err(|error| error.cause),
            if fits { Ok(()) } else { Err(Cause::MalformedReply) }
        );
    }
}

#[test]
fn claims_bypass_the_cache_and_refresh_it() {
    let world = World::app_service();
    let engine = Engine::new(world.clone());
    ask(&world, &engine, request(VAULT, seconds(5))).unwrap();
    let claims = TokenRequest::checked(VAULT, Identity::PlatformDefault, Some("{}"), None, None).unwrap();
    assert_eq!(secret(&ask(&world, &engine, claims).unwrap()), "token-2");
    assert_eq!(
        secret(&ask(&world, &engine, request(VAULT, seconds(5))).unwrap()),
        "token-2"
    );
}

#[test]
fn a_rejected_token_is_never_returned_again() {
    let world =
        World::app_service().answering(|request| Reply::token(if request.number < 3 { "old" } else { "new" }, 3600));
    let engine = Engine::new(world.clone());
    assert_eq!(
        secret(&ask(&world, &engine, request(VAULT, seconds(5))).unwrap()),
        "old"
    );
    let rejecting =
        || TokenRequest::checked(VAULT, Identity::PlatformDefault, None, Some("old".to_owned()), None).unwrap();
    assert_eq!(
        ask(&world, &engine, rejecting()).unwrap_err().cause,
        Cause::TokenRejected
    );
    assert_eq!(
        secret(&ask(&world, &engine, request(VAULT, seconds(5))).unwrap()),
        "new"
    );
    assert_eq!(secret(&ask(&world, &engine, rejecting()).unwrap()), "new");
    assert_eq!(world.requests().len(), 3);
}

#[test]
fn what_was_forgotten_is_asked_for_again_even_when_it_was_under_way() {
    let world = World::app_service();
    let engine = Engine::new(world.clone());
    let other = "https://storage.azure.com";
    ask(&world, &engine, request(VAULT, seconds(5))).unwrap();
    ask(&world, &engine, request(other, seconds(5))).unwrap();
    engine.forget(Some(&format!("{VAULT}/.default")));
    ask(&world, &engine, request(other, seconds(5))).unwrap();
    assert_eq!(world.requests().len(), 2);
    ask(&world, &engine, request(VAULT, seconds(5))).unwrap();
    engine.forget(None);
    ask(&world, &engine, request(other, seconds(5))).unwrap();
    assert_eq!(world.requests().len(), 4);

    world.answer(|_| Reply::token("slow", 3600).after(seconds(2)));
    engine.forget(None);
    let (result, ()) = world.run(futures_util::future::join(
        engine.get_token(request(VAULT, seconds(5))),
        async {
            engine.forget(None);
        },
    ));
    assert!(result.is_ok(), "whoever waits gets what was fetched");
    world.answer(|_| Reply::token("fresh", 3600));
    assert_eq!(
        secret(&ask(&world, &engine, request(VAULT, seconds(5))).unwrap()),
        "fresh"
    );
}

#[test]
fn an_expired_token_in_a_reply_is_refused() {
    let world = World::app_service().answering(|_| Reply::status(200, r#"{"access_token":"t","expires_on":"1000"}"#));
    let error = ask(&world, &Engine::new(world.clone()), request(VAULT, seconds(5))).unwrap_err();
    assert_eq!(error.cause, Cause::TokenRejected);
}

#[test]
fn a_login_page_is_told_apart_from_a_broken_reply() {
    for (body, cause) in [
        ("<!DOCTYPE html><html>Sign in</html>", Cause::EndpointIntercepted),
        ("{", Cause::MalformedReply),
        ("", Cause::MalformedReply),
        ("[]", Cause::MalformedReply),
        (r#"{"access_token":"","expires_in":3600}"#, Cause::MalformedReply),
        (r#"{"access_token":"a\r\nb","expires_in":3600}"#, Cause::MalformedReply),
        (
            r#"{"access_token":"t","expires_in":3600,"token_type":"mtls_pop"}"#,
            Cause::MalformedReply,
        ),
    ] {
        let world = World::app_service().answering(move |_| Reply::status(200, body));
        let error = ask(&world, &Engine::new(world.clone()), request(VAULT, seconds(5))).unwrap_err();
        assert_eq!((error.cause, world.requests().len()), (cause, 1), "{body}");
    }
}

#[test]
fn a_secret_that_the_platform_echoes_does_not_reach_the_error() {
    const SECRET: &str = "s3c+r3t/\"key=";
    for body in [
        r#"{"message":"bad s3c+r3t/\"key= here","correlationId":"s3c+r3t/\"key="}"#,
        r#"{"message":"bad s3c\u002Br3t\/\u0022key= here","correlationId":"s3c\u002Br3t\/\u0022key="}"#,
        r#"{"error":{"code":"s3c%2Br3t%2F%22key%3D","message":"bad s3c%2br3t%2f%22key%3d here"}}"#,
        "bad s3c+r3t/\"key= here",
        r#""bad s3c+r3t/\"key= here""#,
    ] {
        let environment = [
            ("IDENTITY_ENDPOINT", "http://127.0.0.1:41741/msi/token"),
            ("IDENTITY_HEADER", SECRET),
        ];
        let world = World::new(&environment).answering(move |_| Reply::status(400, body));
        let error = ask(&world, &Engine::new(world.clone()), request(VAULT, seconds(5))).unwrap_err();
        let shown = format!("{error:?}");
        assert!(error.message.contains("bad *** here"), "{shown}");
        assert!(!shown.contains("r3t"), "{shown}");
    }
}

#[test]
fn a_reply_that_is_read_late_counts_from_when_it_was_asked_for() {
    let world = World::app_service().answering(|request| match request.number {
        1 => Reply::token("late", 10).after(seconds(3)),
        _ => Reply::token("new", 3600),
    });
    let engine = Engine::new(Inline(world.clone()));
    let inline = |timeout| world.run(engine.get_token(request(VAULT, timeout)));
    assert_eq!(inline(seconds(1)).unwrap_err().cause, Cause::DeadlineExceeded);
    world.pass(seconds(15));
    assert_eq!(secret(&inline(seconds(10)).unwrap()), "new");

    let world = World::app_service().answering(|_| Reply::token("t", 100).after(seconds(15)));
    let engine = Engine::new(world.clone());
    let begun = world.wall();
    let issued = ask(&world, &engine, request(VAULT, seconds(30))).unwrap();
    assert_eq!(issued.token.expires_on, begun + 100);
}

#[test]
fn what_is_too_large_to_be_meant_is_refused() {
    let long = "a".repeat(100_000);
    let sized = |audience: &str, claims: Option<&str>, token: Option<String>| {
        TokenRequest::checked(audience, Identity::PlatformDefault, claims, token, None).map_err(|error| error.cause)
    };
    for refused in [
        sized(&long, None, None),
        sized(VAULT, Some(&long), None),
        sized(VAULT, None, Some(long.clone())),
    ] {
        assert_eq!(refused.unwrap_err(), Cause::InvalidRequest);
    }
    assert!(sized(VAULT, None, Some("a".repeat(1000))).is_ok());
}

#[test]
fn forgetting_one_audience_leaves_the_flights_of_others() {
    let world = World::app_service().answering(|_| Reply::token("t", 3600).after(seconds(2)));
    let engine = Engine::new(world.clone());
    let (result, ()) = world.run(futures_util::future::join(
        engine.get_token(request(VAULT, seconds(5))),
        async { engine.forget(Some("https://storage.azure.com")) },
    ));
    result.unwrap();
    ask(&world, &engine, request(VAULT, seconds(5))).unwrap();
    assert_eq!(world.requests().len(), 1);
}

#[test]
fn a_bad_default_identity_fails_those_who_rely_on_it_and_no_others() {
    let world = World::new(&[("AZURE_CLIENT_ID", "junk")]);
    let engine = Engine::new(world.clone());
    let error = ask(&world, &engine, request(VAULT, seconds(5))).unwrap_err();
    assert!(
        error.cause == Cause::NotConfigured && error.message.contains("AZURE_CLIENT_ID"),
        "{error}"
    );
    assert_eq!(engine.describe_source().last_failure, Some(error));
    let system = TokenRequest::checked(VAULT, Identity::SystemAssigned, None, None, None).unwrap();
    assert!(ask(&world, &engine, system).is_ok());
}

#[test]
fn the_description_names_the_source_and_keeps_the_latest_failure() {
    let world = World::app_service().answering(|request| match request.number {
        1 => Reply::status(400, r#"{"message":"nope"}"#),
        _ => Reply::token("t", 3600),
    });
    let engine = Engine::new(world.clone());
    let before = engine.describe_source();
    assert_eq!(
        (before.source.as_deref(), before.last_failure),
        (Some("app-service"), None)
    );
    assert_eq!(before.endpoint.as_deref(), Some("http://127.0.0.1:41741/msi/token"));
    let error = ask(&world, &engine, request(VAULT, seconds(5))).unwrap_err();
    assert_eq!(engine.describe_source().last_failure, Some(error));
    ask(&world, &engine, request(VAULT, seconds(5))).unwrap();
    assert_eq!(engine.describe_source().last_failure, None);
}

#[test]
fn without_a_usable_source_every_request_fails_with_the_reason() {
    let world = World::new(&[("IDENTITY_ENDPOINT", "http://127.0.0.1:1/msi/token")]);
    let engine = Engine::new(world.clone());
    let error = ask(&world, &engine, request(VAULT, seconds(5))).unwrap_err();
    assert_eq!((error.cause, world.requests().len()), (Cause::NotConfigured, 0));
    assert_eq!(engine.describe_source().source, None);
}

#[test]
fn azure_client_id_names_the_identity_of_requests_that_name_none() {
    let world = World::new(&[("AZURE_CLIENT_ID", CLIENT)]);
    let engine = Engine::new(world.clone());
    ask(&world, &engine, request(VAULT, seconds(5))).unwrap();
    let system = TokenRequest::checked(VAULT, Identity::SystemAssigned, None, None, None).unwrap();
    ask(&world, &engine, system).unwrap();
    let selectors: Vec<_> = world
        .requests()
        .iter()
        .map(|request| request.query("client_id").map(str::to_owned))
        .collect();
    assert_eq!(selectors, [Some(CLIENT.to_owned()), None]);
}

#[test]
fn an_outage_is_not_noticed_until_the_token_expires_and_forgotten_when_it_is_over() {
    let world = World::imds();
    let back = std::rc::Rc::new(std::cell::Cell::new(None::<Duration>));
    let (clock, until) = (world.clone(), std::rc::Rc::clone(&back));
    world.answer(move |request| {
        let is_back = until.get().is_some_and(|back| clock.elapsed() >= back);
        match request.number == 1 || is_back {
            true => Reply::token(&format!("token-{}", request.number), 3600),
            false => Reply::fault(TransportFault::NotConnected),
        }
    });
    let engine = Engine::new(world.clone());
    let first = ask(&world, &engine, request(VAULT, seconds(5))).unwrap();
    while world.wall() + 60 < first.token.expires_on {
        let issued = ask(&world, &engine, request(VAULT, seconds(5))).unwrap();
        assert_eq!(secret(&issued), "token-1");
        world.settle();
        world.pass(seconds(60));
    }
    let during = world.requests().len();
    assert!(
        (2..60).contains(&during),
        "{during} requests in an hour, most of them before the token was due"
    );

    world.pass(seconds(60));
    let before = world.elapsed();
    let error = ask(&world, &engine, request(VAULT, seconds(5))).unwrap_err();
    assert_eq!(error.cause, Cause::EndpointUnreachable, "{error}");
    assert!(world.elapsed() - before <= seconds(5));

    // Whoever waits while it comes back has a token two seconds later, and so has whoever asks again.
    for head_start in [0, 200, 400, 800, 1400, 1900] {
        back.set(None);
        world.pass(seconds(3601));
        back.set(Some(world.elapsed() + Duration::from_millis(head_start)));
        let mut answered = ask(&world, &engine, request(VAULT, seconds(60)));
        while answered.is_err() {
            answered = ask(&world, &engine, request(VAULT, seconds(60)));
        }
        let late = world.elapsed() - back.get().unwrap();
        assert!(late <= seconds(2), "{late:?} after it was back");
    }
}

#[test]
fn what_one_request_is_told_by_a_throttled_platform_holds_for_all() {
    let world = World::imds().answering(|request| match request.number {
        1 => Reply::status(429, "").header("retry-after", "30"),
        _ => Reply::token("t", 3600),
    });
    let engine = Engine::new(world.clone());
    let error = ask(&world, &engine, request(VAULT, seconds(5))).unwrap_err();
    assert_eq!((error.cause, error.retry_after_ms), (Cause::Throttled, Some(30_000)));
    world.pass(seconds(10));

    // Another audience, and no time to wait: told at once, without a request.
    let before = world.elapsed();
    let error = ask(&world, &engine, request("https://other.example", seconds(5))).unwrap_err();
    assert_eq!((error.cause, error.retry_after_ms), (Cause::Throttled, Some(20_000)));
    assert!(error.message.contains("20 s"), "{error}");
    assert_eq!((world.elapsed(), world.requests().len()), (before, 1));

    // Time to wait: one request, when the time is over, give or take what spreads those who waited.
    assert!(ask(&world, &engine, request("https://other.example", seconds(60))).is_ok());
    assert_eq!(world.requests().len(), 2);
    let waited = world.elapsed() - before;
    assert!(waited >= seconds(20) && waited <= seconds(21), "{waited:?}");
}

#[test]
fn a_valid_token_is_not_renewed_while_the_platform_asks_not_to_be_asked() {
    let world = World::imds().answering(|request| match request.query("resource") {
        Some(VAULT) => Reply::token(&format!("token-{}", request.number), 3600),
        _ => Reply::status(429, "").header("retry-after", "600"),
    });
    let engine = Engine::new(world.clone());
    ask(&world, &engine, request(VAULT, seconds(5))).unwrap();
    world.pass(seconds(3301));
    ask(&world, &engine, request("https://other.example", seconds(5))).unwrap_err();
    let issued = ask(&world, &engine, request(VAULT, seconds(5))).unwrap();
    world.settle();
    assert_eq!((secret(&issued), world.requests().len()), ("token-1", 2));
}
