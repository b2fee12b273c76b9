//! A small fleet: the order of things that the large one shows, and that it is counted right.

use crate::model::{Counts, Fleet, SCENARIOS, Scenario, peaks};
use crate::policy::Policy;

fn run(scenario: &'static Scenario, policy: Policy) -> Counts {
    let fleet = Fleet {
        nodes: 100,
        pods: 50,
        scenario,
        policy,
        seed: 7,
    };
    fleet.run()
}

#[test]
fn jitter_at_least_halves_the_peak_of_a_refresh_and_lowers_that_of_an_outage() {
    let [with, without] =
        [Policy::Ours, Policy::OursNoJitter].map(|policy| peaks(&run(&SCENARIOS[0], policy).issuer, &SCENARIOS[0]));
    assert!(
        with[0] > 0.0 && 2.0 * with[0] <= without[0],
        "before the outage: {with:?}/s, without {without:?}/s"
    );
    // Tries with full jitter come sooner on average, which takes back a part of what the spread gains.
    assert!(
        with[1] > 0.0 && with[1] < without[1],
        "from the outage on: {with:?}/s, without {without:?}/s"
    );
}

#[test]
fn one_engine_per_node_asks_a_fraction_of_what_its_pods_would() {
    for scenario in &SCENARIOS {
        let [each, shared] = [Policy::Ours, Policy::OursBroker].map(|policy| run(scenario, policy));
        let [each, shared] = [each, shared].map(|counts| counts.metadata.iter().sum::<u64>());
        assert!(
            shared > 0 && 20 * shared <= each,
            "{}: {shared} and {each}",
            scenario.title
        );
    }
}

#[test]
fn an_outage_that_is_shorter_than_half_a_life_withholds_no_token() {
    for policy in [Policy::Ours, Policy::OursBroker, Policy::OursNoJitter] {
        let counts = run(&SCENARIOS[0], policy);
        assert!(
            counts.unavailable > 0 && counts.last_back > 0,
            "{policy:?} saw no outage"
        );
        assert_eq!((counts.pods_without, counts.time_without), (0, 0), "{policy:?}");
    }
    let counts = run(&SCENARIOS[0], Policy::AzureIdentity);
    assert_eq!(
        counts.pods_without, 5000,
        "it asks five minutes before the end, and that is in the outage"
    );
}

#[test]
fn every_request_is_counted_once_wherever_it_is_counted() {
    for scenario in &SCENARIOS {
        for policy in Policy::ALL {
            let counts = run(scenario, policy);
            let metadata: u64 = counts.metadata.iter().sum();
            let issuer: u64 = counts.issuer.iter().sum();
            let replies = counts.issued + counts.kept + counts.throttled + counts.unavailable;
            let context = format!("{}, {}", scenario.title, policy.name());
            assert_eq!(metadata, replies, "{context}");
            assert!(
                issuer >= counts.issued + counts.unavailable && issuer <= metadata,
                "{context}"
            );
            if scenario.kept_until.is_none() {
                assert_eq!(
                    (issuer, counts.kept),
                    (counts.issued + counts.unavailable, 0),
                    "{context}"
                );
            }
            let clients = if policy.is_shared() { 100 } else { 5000 };
            assert!(
                metadata >= 2 * clients,
                "{context}: not everybody has asked for a second token"
            );
            assert_eq!(counts.pods_without_at_end, 0, "{context}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_another() {
    let fleet = |seed| Fleet {
        nodes: 20,
        pods: 50,
        scenario: &SCENARIOS[0],
        policy: Policy::Ours,
        seed,
    };
    assert_eq!(fleet(7).run(), fleet(7).run());
    assert_ne!(fleet(7).run(), fleet(8).run());
}
