//! The conformance cases, played against what we ship: the engine, both components, the command.
//!
//! The cases are data, in `tests/conformance`; what plays them is in `tests/conformance_runners`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "conformance_runners/components.rs"]
mod components;
#[path = "conformance_runners/native.rs"]
mod native;

use components::Components;
use managed_identity_conformance::case::{self, Case, Runner};
use managed_identity_conformance::process::Process;
use managed_identity_conformance::run::{Client, Verdict, replay_all};
use managed_identity_host::WasiVersion;
use native::Native;
use std::path::Path;

/// Fewer than these are not the suite.
const AT_LEAST: usize = 250;

/// Compiled components are kept here, away from the user's own.
const CACHES: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/home/.cache");

fn cases() -> Vec<Case> {
    match case::load(Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/conformance"
    ))) {
        Ok(cases) => cases,
        Err(error) => panic!("{error}"),
    }
}

/// Plays all cases and fails with everything that is wrong with any of them.
#[expect(
    clippy::print_stdout,
    reason = "how many cases ran is for whoever looks at the test's output"
)]
fn pass<C: Client>(client: &C, jobs: usize) {
    let cases = cases();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let outcomes = runtime.block_on(replay_all(client, &cases, jobs, |_| {}));
    let mut wrong = String::new();
    let mut ran = 0;
    for (case, outcome) in cases.iter().zip(&outcomes) {
        let faults = match &outcome.verdict {
            Verdict::Passed => Vec::new(),
            Verdict::Failed(faults) => faults.clone(),
            // A case is left out because it says so, or because no program can be asked.
            Verdict::NotRun(_) if case.not_in(C::RUNNER).is_some() || C::RUNNER == Runner::BlackBox => continue,
            Verdict::NotRun(reason) => vec![format!("not run: {reason}")],
        };
        ran += 1;
        if !faults.is_empty() {
            wrong.push_str(&format!(
                "\n{}: {}\n  {}",
                outcome.name,
                outcome.description,
                faults.join("\n  ")
            ));
        }
    }
    println!("{ran} cases ran, {} did not", cases.len() - ran);
    assert!(wrong.is_empty(), "of {ran} cases:{wrong}");
    assert!(
        ran >= AT_LEAST,
        "{ran} cases ran, which is not the suite of at least {AT_LEAST}"
    );
}

#[test]
fn the_engine_where_work_goes_on_between_calls() {
    pass(&Native::<true>, 1);
}

#[test]
fn the_engine_where_nothing_moves_between_calls() {
    pass(&Native::<false>, 1);
}

#[test]
fn the_component_for_wasi_0_2() {
    pass(&Components(WasiVersion::V0_2), 16);
}

#[test]
fn the_component_for_wasi_0_3() {
    pass(&Components(WasiVersion::V0_3), 16);
}

#[test]
fn the_command_as_a_black_box() {
    let command = env!("CARGO_BIN_EXE_managed-identity");
    pass(
        &Process::new(format!("XDG_CACHE_HOME='{CACHES}' '{command}' token --requests")),
        16,
    );
}

#[test]
fn the_command_carries_all_cases() {
    let names = |cases: Vec<Case>| cases.iter().map(|case| case.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(case::embedded().unwrap()), names(cases()));
}
