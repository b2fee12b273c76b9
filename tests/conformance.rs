//! The conformance cases, played against what we ship: the engine, both components, the command.
//!
//! The cases are data, in `tests/conformance`; what plays them is in `tests/conformance_runners`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "conformance_runners/components.rs"]
mod components;
#[path = "conformance_runners/native.rs"]
mod native;

use components::Components;
use managed_identity_conformance::answer::Answer;
use managed_identity_conformance::case::{self, Case, File, Request, Runner};
use managed_identity_conformance::process::Process;
use managed_identity_conformance::run::{Client, Ended, NotStarted, Session, Setting, Verdict, replay, replay_all};
use managed_identity_conformance::script::Script;
use managed_identity_host::WasiVersion;
use native::Native;
use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;

/// Fewer than these are not the suite.
const AT_LEAST: usize = 250;

/// Compiled components are kept here, away from the user's own.
const CACHES: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/home/.cache");

/// Set to 1 where no mount namespaces can be made: the cases that need one are then left out, and not failed.
const NO_MOUNT_NAMESPACES: &str = "MANAGED_IDENTITY_NO_MOUNT_NAMESPACES";

fn cases() -> Vec<Case> {
    match case::load(Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/conformance"
    ))) {
        Ok(cases) => cases,
        Err(error) => panic!("{error}"),
    }
}

/// Whether a runner cannot play a case, wherever it runs.
fn is_out_of_reach(runner: Runner, case: &Case) -> bool {
    let outline = case.outline();
    // No program can be asked for its source, or made to believe that another one is installed.
    case.not_in(runner).is_some() || runner == Runner::BlackBox && (outline.arc_agent || outline.steps.is_empty())
}

/// Whether a program can play a case only where a directory can be put in the place of the system's.
fn needs_mount_namespace(runner: Runner, case: &Case) -> bool {
    runner == Runner::BlackBox
        && case
            .outline()
            .all_files()
            .any(|file| Path::new(&file.path).starts_with("/var/opt"))
}

/// Plays all cases and fails with everything that is wrong with any of them.
#[expect(
    clippy::print_stdout,
    reason = "how many cases ran is for whoever looks at the test's output"
)]
fn pass<C: Client>(client: &C, jobs: usize) {
    let cases = cases();
    let may_lack_namespaces = std::env::var_os(NO_MOUNT_NAMESPACES).is_some_and(|value| value == "1");
    let outcomes = runtime().block_on(replay_all(client, &cases, jobs, |_| {}));
    let mut wrong = String::new();
    let (mut out_of_reach, mut without_namespace, mut ran) = (0, 0, 0);
    for (case, outcome) in cases.iter().zip(&outcomes) {
        let faults = match &outcome.verdict {
            Verdict::NotRun(_) if is_out_of_reach(C::RUNNER, case) => {
                out_of_reach += 1;
                continue;
            }
            Verdict::NotRun(_) if may_lack_namespaces && needs_mount_namespace(C::RUNNER, case) => {
                without_namespace += 1;
                continue;
            }
            Verdict::NotRun(reason) if needs_mount_namespace(C::RUNNER, case) => vec![format!(
                "not run: {reason}. Allow it, or say with {NO_MOUNT_NAMESPACES}=1 that this machine cannot."
            )],
            Verdict::NotRun(reason) => vec![format!("not run: {reason}")],
            Verdict::Passed => Vec::new(),
            Verdict::Failed(faults) => faults.clone(),
        };
        ran += usize::from(!matches!(outcome.verdict, Verdict::NotRun(_)));
        if !faults.is_empty() {
            wrong.push_str(&format!(
                "\n{}: {}\n  {}",
                outcome.name,
                outcome.description,
                faults.join("\n  ")
            ));
        }
    }
    println!("{ran} cases ran; {out_of_reach} cannot be played here");
    if without_namespace > 0 {
        println!("{without_namespace} were left out, because {NO_MOUNT_NAMESPACES} is set");
    }
    assert!(wrong.is_empty(), "of {ran} cases:{wrong}");
    let exceptions = cases.iter().filter(|case| is_out_of_reach(C::RUNNER, case)).count();
    assert_eq!(ran, cases.len() - exceptions - without_namespace, "cases ran");
    assert!(
        cases.len() >= AT_LEAST,
        "{} cases are not the suite of at least {AT_LEAST}",
        cases.len()
    );
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
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

/// A client whose messages are written down.
struct Recorded<C> {
    client: C,
    messages: Rc<RefCell<Vec<String>>>,
}

impl<C: Client> Client for Recorded<C> {
    const RUNNER: Runner = C::RUNNER;
    const IN_MEMORY: bool = C::IN_MEMORY;
    type Session = Recorded<C::Session>;

    async fn start(&self, setting: &Setting) -> Result<Self::Session, NotStarted> {
        let messages = Rc::clone(&self.messages);
        let client = self.client.start(setting).await?;
        Ok(Recorded { client, messages })
    }
}

impl<S: Session> Session for Recorded<S> {
    fn lay_out(&mut self, files: &[File]) -> io::Result<()> {
        self.client.lay_out(files)
    }

    async fn ask(&mut self, request: &Request) -> Answer {
        let answer = self.client.ask(request).await;
        if let Answer::Failure(failure) = &answer {
            self.messages.borrow_mut().push(failure.message.clone());
        }
        answer
    }

    async fn settle(&mut self, script: &Script) {
        self.client.settle(script).await;
    }

    async fn stop(self) -> Ended {
        self.client.stop().await
    }
}

/// Whoever looks for the reason why a key was not sent finds it in the message, and no other.
#[test]
fn each_refusal_of_an_agent_of_azure_arc_has_words_of_its_own() {
    let refusals = [
        "key-of-4097-bytes-is-refused",
        "realm-with-dots-is-refused",
        "symbolic-link-is-refused",
        "key-with-another-extension-is-refused",
        "negotiate-challenge-is-refused",
        "second-401-ends-it",
        "redirect-on-the-challenge-leg-is-not-followed",
    ];
    let client = Recorded {
        client: Native::<false>,
        messages: Rc::default(),
    };
    let cases = cases();
    let mut phrases = Vec::new();
    for name in refusals {
        let name = format!("azure-arc/{name}");
        let case = cases.iter().find(|case| case.name() == name).unwrap();
        let outcome = runtime().block_on(replay(&client, case));
        assert_eq!(outcome.verdict, Verdict::Passed, "{name}");
        phrases.extend(case.outline().steps[0].expect.message_has.clone());
    }
    let messages = client.messages.take();
    assert_eq!((messages.len(), phrases.len()), (refusals.len(), refusals.len()));
    for (number, phrase) in phrases.iter().enumerate() {
        for (other, message) in messages.iter().enumerate() {
            assert_eq!(message.contains(phrase), number == other, "{phrase}: {message}");
        }
    }
}

#[test]
fn the_command_carries_all_cases() {
    let names = |cases: Vec<Case>| cases.iter().map(|case| case.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(case::embedded().unwrap()), names(cases()));
}
