//! How many instructions a call for a cached token takes: counted by valgrind, so the same on each machine, and not to grow
//! unnoticed. They are those of an unoptimised build, some ten times as many as of a release: what a change adds shows in both, and
//! to optimise the host for this test alone would take minutes.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[expect(dead_code, reason = "other tests take other parts")]
#[path = "support/emulated.rs"]
mod emulated;

use emulated::Emulated;
use managed_identity_emulator::Source;
use std::process::Command;

/// Where compiled components are kept, for this alone.
const HOME: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/instructions");

/// What a call took when this was last written, in the builds of tests, and by which compiler.
const RECORDED: (u64, &str) = (5_382, "1.95");

/// By how many percent it may differ, by the same compiler and by another.
const TOLERATED: (u64, u64) = (5, 30);

/// How many calls are counted, and how many are made before, in a run of its own whose instructions are not.
const CALLS: (u64, u64) = (20_000, 1_000);

#[test]
fn a_cached_token_takes_no_more_instructions_than_before() {
    let emulated = Emulated::start();
    // Compiles the component and keeps it, for a processor as valgrind has it.
    call(&emulated, 1);
    let (counted, before) = CALLS;
    let [all, before] = [before + counted, before].map(|calls| instructions(&call(&emulated, calls)));
    let took = (all - before) / counted;

    let (recorded, compiler) = RECORDED;
    let used = Command::new("rustc").arg("--version").output().unwrap();
    let used = String::from_utf8(used.stdout).unwrap();
    let is_same = used.starts_with(&format!("rustc {compiler}."));
    let tolerated = if is_same { TOLERATED.0 } else { TOLERATED.1 };
    assert!(
        took.abs_diff(recorded) * 100 <= recorded * tolerated,
        "a call takes {took} instructions with {}, and took {recorded} with rustc {compiler}: find out why; if it is to be so, write \
         it into RECORDED",
        used.trim()
    );
}

/// Runs the program that makes so many calls within valgrind, and returns what is on standard error.
fn call(emulated: &Emulated, calls: u64) -> String {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env!("CARGO_BIN_EXE_bench-client"));
    command.args(["calls", &calls.to_string()]);
    command
        .env_clear()
        .env("HOME", HOME)
        .env("PATH", std::env::var_os("PATH").unwrap());
    command.envs(emulated.environment_for(Source::AppService));
    let missing = |error| panic!("valgrind cannot be run ({error}); on Debian: apt-get install valgrind");
    let output = command.output().unwrap_or_else(missing);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    stderr
}

/// From the line `==1== Collected : 123456`.
fn instructions(said: &str) -> u64 {
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    collected
        .unwrap_or_else(|| panic!("no count in {said}"))
        .1
        .trim()
        .parse()
        .unwrap()
}
