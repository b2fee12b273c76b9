//! Plugins that do harm, each beside one that goes on getting tokens, cached ones and new ones, in its own time.

use super::*;
use managed_identity_host::plugin::PluginBound;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// How long a plugin that does harm may, by one bound or the other: many of the well-behaved one's calls.
const TIME: Duration = Duration::from_millis(400);

/// What a plugin that floods asks for.
const FLOOD: &str = "https://flood.example";

/// A hundred megabytes.
const HUGE: &str = "100000000";

/// One thread, which all plugins share, and two.
fn runtimes() -> [(&'static str, Runtime); 2] {
    [
        (
            "one thread",
            Builder::new_current_thread().enable_all().build().unwrap(),
        ),
        (
            "two threads",
            Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
        ),
    ]
}

/// Whether a plugin that was given an order came to the end that it deserves.
type Deserved = fn(&Result<PluginOutcome, PluginError>) -> bool;

/// Orders that take time without end, and whether it passes without computing, so that a deadline has to end it.
const OF_TIME: &[(&[&str], bool, Deserved)] = &[
    (&["spin"], false, computed),
    (&["spin-calling"], false, computed),
    (&["sleep"], true, late),
    (&["flood", FLOOD], true, |end| late(end) || computed(end)),
];

/// Orders that take too much of something else, in however long.
const OF_AMOUNT: &[(&[&str], bool, Deserved)] = &[
    (&["grow"], false, |end| {
        matches!(end, Err(PluginError::Limit(PluginBound::Memory(_))))
    }),
    (&["recurse"], false, |end| {
        matches!(end, Err(PluginError::Limit(PluginBound::Stack(_))))
    }),
    (&["trap"], false, trapped),
    (&["hoard"], false, trapped),
    (&["print"], false, printed),
    (&["huge", "audience", HUGE], false, trapped),
    (&["huge", "claims", HUGE], false, trapped),
    (&["huge", "decode", HUGE], false, trapped),
    (&["huge", "header", HUGE], false, trapped),
    // In 0.2 it is one call, and in 0.3 a stream, of which the host takes what it wants.
    (&["huge", "output", HUGE], false, |end| trapped(end) || printed(end)),
];

fn late(end: &Result<PluginOutcome, PluginError>) -> bool {
    matches!(end, Err(PluginError::OutOfTime(_)))
}

fn computed(end: &Result<PluginOutcome, PluginError>) -> bool {
    matches!(end, Err(PluginError::Limit(PluginBound::Computing(_))))
}

fn trapped(end: &Result<PluginOutcome, PluginError>) -> bool {
    matches!(end, Err(PluginError::Trap(_)))
}

fn printed(end: &Result<PluginOutcome, PluginError>) -> bool {
    matches!(end, Err(PluginError::Limit(PluginBound::Output(_))))
}

#[test]
fn harm_ends_at_a_bound_and_a_neighbour_gets_its_tokens_meanwhile() {
    let emulated = Emulated::start();
    let flood = (0..64).map(|number| format!("{FLOOD}/{number}"));
    let policy = Policy::default()
        .with(Caller::new("good"), good())
        .with(Caller::new("bad"), tokens(flood.chain([FLOOD.to_owned()])));
    for (wasi, bytes) in PLUGINS {
        let gate = gate(&emulated, policy.clone());
        for (orders, computing) in [(OF_TIME, TIME), (OF_AMOUNT, PluginLimits::default().computing)] {
            let limits = limits(|limits| (limits.computing, limits.output) = (computing, Some(1024 * 1024)));
            let plugin = engine(wasi).limits(limits).build().unwrap().load(bytes).unwrap();
            for ((threads, runtime), (words, waits, deserved)) in runtimes()
                .iter()
                .flat_map(|runtime| orders.iter().map(move |order| (runtime, order)))
            {
                let mut bad = order(&plugin, &gate, "bad", words).stdout(tokio::io::empty());
                if *waits {
                    bad = bad.deadline(TIME);
                }
                let end = runtime.block_on(async {
                    let bad = tokio::spawn(bad.run());
                    let mut rounds = 0;
                    while !bad.is_finished() || rounds == 0 {
                        let good = order(&plugin, &gate, "good", &["tokens", "5", "10000", VAULT]);
                        assert_eq!(line(good).await.unwrap(), "ok 5 times", "{wasi} {threads} {words:?}");
                        rounds += 1;
                    }
                    bad.await.unwrap()
                });
                assert!(deserved(&end), "{wasi} {threads} {words:?}: {end:?}");
            }
        }
    }
}

#[test]
fn many_that_compute_without_end_leave_a_neighbour_its_turn() {
    let emulated = Emulated::start();
    let policy = Policy::default().with(Caller::new("good"), good());
    for (wasi, bytes) in PLUGINS {
        let gate = gate(&emulated, policy.clone());
        let limits = limits(|limits| limits.computing = TIME);
        let plugin = engine(wasi).limits(limits).build().unwrap().load(bytes).unwrap();
        for (threads, runtime) in runtimes() {
            runtime.block_on(async {
                let spin = || tokio::spawn(order(&plugin, &gate, "bad", &["spin"]).run());
                let spinning: Vec<_> = (0..10).map(|_| spin()).collect();
                let good = order(&plugin, &gate, "good", &["tokens", "5", "10000", VAULT]);
                assert_eq!(line(good).await.unwrap(), "ok 5 times", "{wasi} {threads}");
                for spinning in spinning {
                    let end = spinning.await.unwrap();
                    assert!(computed(&end), "{wasi} {threads}: {end:?}");
                }
            });
        }
    }
}

#[tokio::test]
async fn a_plugin_that_is_too_much_ends_by_the_same_bound_without_a_pool() {
    let emulated = emulator();
    let gate = gate(&emulated, Policy::default());
    for (wasi, bytes) in PLUGINS {
        for pooled in [true, false] {
            let limits = limits(|limits| {
                (limits.memory, limits.total_computing) = (16 * 1024 * 1024, Some(TIME));
            });
            let engine = engine(wasi).limits(limits);
            let engine = if pooled { engine } else { engine.without_pool() }.build().unwrap();
            let plugin = engine.load(bytes).unwrap();
            for (words, bound) in [
                (["grow"], PluginBound::Memory(16 * 1024 * 1024)),
                (["spin"], PluginBound::TotalComputing(TIME)),
            ] {
                let error = order(&plugin, &gate, "bad", &words).run().await.unwrap_err();
                assert!(
                    matches!(&error, PluginError::Limit(met) if *met == bound),
                    "{wasi} {words:?}, pool {pooled}: {error}"
                );
            }
        }
    }
}

#[tokio::test]
async fn one_more_than_there_is_room_for_is_refused_and_room_is_made() {
    let emulated = emulator();
    let gate = gate(&emulated, Policy::default());
    for (wasi, bytes) in PLUGINS {
        let engine = engine(wasi).plugins_at_once(1).build().unwrap();
        assert!(engine.is_pooled());
        let plugin = engine.load(bytes).unwrap();
        let mut first = Box::pin(order(&plugin, &gate, "nobody", &["sleep"]).run());
        // As far as it gets: to its sleep.
        for _ in 0..100 {
            let pending = poll_fn(|context| Poll::Ready(first.as_mut().poll(context).is_pending())).await;
            assert!(pending, "{wasi}");
            tokio::task::yield_now().await;
        }
        let second = order(&plugin, &gate, "nobody", &["files"]).run().await;
        assert!(matches!(second, Err(PluginError::Full)), "{wasi}: {second:?}");
        drop(first);
        let third = order(&plugin, &gate, "nobody", &["files"]).run().await;
        assert_eq!(third.unwrap(), PluginOutcome::Exited(0), "{wasi}");
    }
}

/// What the neighbour is granted: it asks for new tokens more often than is usual.
fn good() -> Grant {
    tokens([VAULT]).with_refresh_rate("1000/second".parse().unwrap())
}
