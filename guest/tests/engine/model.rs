//! Whatever happens in whatever order, some things hold: random calls, clock moves, replies, faults and cancellations against
//! a few sentences about what is owed to a caller and to the platform.

use crate::world::{Reply, World};
use futures_util::future::{Either, LocalBoxFuture, select};
use managed_identity_provider::engine::Engine;
use managed_identity_provider::error::{Cause, Error};
use managed_identity_provider::platform::{Platform as _, TransportFault};
use managed_identity_provider::request::{Identity, TokenRequest};
use proptest::collection::vec;
use proptest::prelude::*;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

const AUDIENCES: [&str; 3] = ["https://a.example", "https://b.example", "https://c.example"];

/// How long a random life lasts: more than the longest token in it.
const LIFE: u64 = 12 * 3600;

/// What the platform does from some moment on.
#[derive(Clone, Debug)]
enum Mood {
    /// Answers with a token, after so many milliseconds.
    Well { delay: u64 },
    /// Asks everybody to come back after so many seconds.
    Throttles { seconds: u64 },
    /// Answers with a failure of this status.
    Fails { status: u16 },
    /// Takes no connection.
    Down,
    /// Takes requests and answers nothing.
    Silent,
    /// Answers with a token that has expired.
    Expired,
}

/// One caller.
#[derive(Clone, Debug)]
struct Call {
    /// Seconds since the beginning.
    at: u64,
    audience: usize,
    timeout: Duration,
    /// When the caller leaves without an answer.
    leaves: Option<Duration>,
}

/// What came of a call.
#[derive(Debug)]
struct Answered {
    audience: usize,
    began: Duration,
    ended: Duration,
    timeout: Duration,
    /// The expiry of the token; nothing if the caller left.
    result: Option<Result<u64, Error>>,
}

fn mood() -> impl Strategy<Value = Mood> {
    prop_oneof![
        4 => (0_u64..3000).prop_map(|delay| Mood::Well { delay }),
        2 => (1_u64..600).prop_map(|seconds| Mood::Throttles { seconds }),
        2 => prop_oneof![Just(500), Just(503), Just(404), Just(400), Just(429)].prop_map(|status| Mood::Fails { status }),
        1 => Just(Mood::Down),
        1 => Just(Mood::Silent),
        1 => Just(Mood::Expired),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let timeout = prop_oneof![0_u64..50, 100..3000_u64, 5000..120_000_u64].prop_map(Duration::from_millis);
    let leaves = proptest::option::weighted(0.2, (0_u64..5000).prop_map(Duration::from_millis));
    (0..LIFE, 0..AUDIENCES.len(), timeout, leaves).prop_map(|(at, audience, timeout, leaves)| Call {
        at,
        audience,
        timeout,
        leaves,
    })
}

/// Calls that come in bursts: at one of a few moments, or within a few seconds after it.
fn calls() -> impl Strategy<Value = Vec<Call>> {
    (
        vec(0..LIFE, 1..12),
        vec((any::<prop::sample::Index>(), 0_u64..8, call()), 1..60),
    )
        .prop_map(|(moments, calls)| {
            calls
                .into_iter()
                .map(|(moment, after, call)| Call {
                    at: moments[moment.index(moments.len())] + after,
                    ..call
                })
                .collect()
        })
}

async fn make(world: &World, engine: &Engine<World>, call: &Call) -> Answered {
    world.sleep(Duration::from_secs(call.at)).await;
    let began = world.elapsed();
    let milliseconds = u32::try_from(call.timeout.as_millis()).unwrap();
    let request = TokenRequest::checked(
        AUDIENCES[call.audience],
        Identity::SystemAssigned,
        None,
        None,
        Some(milliseconds),
    );
    let token = pin!(engine.get_token(request.unwrap()));
    let result = match call.leaves {
        None => Some(token.await),
        Some(after) => match select(token, pin!(world.sleep(after))).await {
            Either::Left((result, _)) => Some(result),
            Either::Right(_) => None,
        },
    };
    let ended = world.elapsed();
    Answered {
        audience: call.audience,
        began,
        ended,
        timeout: call.timeout,
        result: result.map(|result| result.map(|issued| issued.token.expires_on)),
    }
}

/// Runs all of them side by side. The world's timers wake nobody, so each is asked every time.
async fn all<'a, T>(work: impl Iterator<Item = impl Future<Output = T> + 'a>) -> Vec<T> {
    let mut running: Vec<LocalBoxFuture<'a, T>> = work.map(|work| Box::pin(work) as _).collect();
    let mut done = Vec::new();
    poll_fn(|context| {
        running.retain_mut(|work| match work.as_mut().poll(context) {
            Poll::Ready(result) => {
                done.push(result);
                false
            }
            Poll::Pending => true,
        });
        match running.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    done
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_owed_to_callers_and_to_the_platform(
        moods in vec((0..LIFE, mood()), 1..12),
        calls in calls(),
        // One for the whole life: a successor with a shorter one would be worse than what it replaces.
        lifetime in prop_oneof![60_u64..900, 3600..3601_u64, 7200..40_000_u64],
    ) {
        let mut moods = moods;
        moods.sort_by_key(|(from, _)| *from);
        let world = World::imds();
        let beginning = world.wall();
        let throttles = std::rc::Rc::new(RefCell::new(Vec::new()));
        let noted = std::rc::Rc::clone(&throttles);
        let answering = world.clone();
        world.answer(move |request| {
            let now = answering.elapsed();
            let wall = beginning + now.as_secs();
            let mood = moods.iter().rev().find(|(from, _)| *from <= now.as_secs());
            match mood.map_or(&Mood::Well { delay: 0 }, |(_, mood)| mood) {
                Mood::Well { delay } => {
                    Reply::token(&format!("token-{}", request.number), lifetime).after(Duration::from_millis(*delay))
                }
                Mood::Throttles { seconds } => {
                    noted.borrow_mut().push((now, Duration::from_secs(*seconds)));
                    Reply::status(429, "").header("retry-after", &seconds.to_string())
                }
                Mood::Fails { status } => Reply::status(*status, ""),
                Mood::Down => Reply::fault(TransportFault::NotConnected),
                Mood::Silent => Reply::silence(),
                Mood::Expired => Reply::status(
                    200,
                    &format!(r#"{{"access_token":"old","expires_on":"{}","token_type":"Bearer"}}"#, wall - 1),
                ),
            }
        });
        let engine = Engine::new(world.clone());
        let mut answered = world.run(all(calls.iter().map(|call| make(&world, &engine, call))));
        answered.sort_by_key(|answer| answer.began);

        for answer in &answered {
            // Each caller is answered in its own time.
            prop_assert!(answer.ended - answer.began <= answer.timeout, "{answer:?}");
            // Nobody gets an expired token.
            if let Some(Ok(expires_on)) = answer.result {
                prop_assert!(expires_on > beginning + answer.ended.as_secs(), "{answer:?}");
            }
            // Nobody is refused while a token that somebody got before is still valid.
            if let Some(Err(error)) = &answer.result {
                let valid = answered.iter().find(|earlier| {
                    earlier.audience == answer.audience
                        && earlier.ended < answer.began
                        && matches!(earlier.result, Some(Ok(expires_on)) if expires_on > beginning + answer.began.as_secs())
                });
                prop_assert!(valid.is_none(), "{error}: {answer:?} although {valid:?}");
                prop_assert!(error.cause != Cause::Internal, "{error}");
            }
        }
        let requests = world.requests();
        // One request for one audience at a time.
        for request in &requests {
            prop_assert!(request.abreast == 1, "{} at {:?}", request.abreast, request.at);
        }
        // Nothing is asked before the time that the platform named is over, whatever it is for. What was under way when
        // the platform said so is not held against anybody: replies here come at once, so nothing was.
        for (said, wait) in throttles.borrow().iter() {
            let early = requests.iter().find(|request| request.at > *said && request.at < *said + *wait);
            prop_assert!(early.is_none(), "asked at {:?}, told at {said:?} to wait {wait:?}", early.map(|early| early.at));
        }
        // A caller costs the platform at most the tries of one flight.
        for audience in AUDIENCES {
            let asked = requests.iter().filter(|request| request.query("resource") == Some(audience)).count();
            let callers = calls.iter().filter(|call| AUDIENCES[call.audience] == audience).count();
            prop_assert!(asked <= 6 * callers, "{asked} requests for {callers} callers");
        }
    }
}
