//! `managed-identity conformance`: any client, held against the cases.

use crate::arguments::{ConformanceArguments, Output};
use crate::report;
use anyhow::Context as _;
use managed_identity_conformance::case::{self, Case};
use managed_identity_conformance::process::Process;
use managed_identity_conformance::run::{Outcome, Verdict, replay_all};
use managed_identity_conformance::table;
use serde_json::{Value, json};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

pub(crate) async fn run(arguments: ConformanceArguments) -> anyhow::Result<ExitCode> {
    if !arguments.tables.is_empty() {
        return make_table(&arguments.tables);
    }
    let cases = match arguments.cases.as_deref().map_or_else(case::embedded, case::load) {
        Ok(cases) => cases,
        Err(error) => return usage(format_args!("{error}")),
    };
    let cases = select(cases, arguments.case.as_deref());
    if cases.is_empty() {
        let pattern = arguments.case.unwrap_or_default();
        return usage(format_args!("there is no case like `{pattern}`; --list names them all"));
    }
    let command = match arguments.command {
        Some(command) if !arguments.list => command,
        _ => return list(&cases, arguments.output),
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.map_or(2 * processors, usize::from);
    let started = Instant::now();
    let mut progress = Progress::new(cases.len());
    let client = Process::new(command);
    let interrupted = crate::emulate::interrupted()?;
    let played = tokio::select! {
        outcomes = replay_all(&client, &cases, jobs, |outcome| progress.advance(outcome)) => Some(outcomes),
        // What is dropped here ends the clients that run and takes the files of their cases with it.
        () = interrupted => None,
    };
    progress.end();
    let Some(outcomes) = played else {
        anyhow::bail!("stopped before the end; nothing can be said of the client");
    };
    let summary = Summary::of(&outcomes);
    match arguments.output {
        Output::Json => report::line(json!({
            "passed": summary.passed,
            "failed": summary.failed,
            "not_run": summary.not_run,
            "results": outcomes.iter().map(json_outcome).collect::<Vec<_>>(),
        }))?,
        Output::Text => {
            let colours = Colours {
                on: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            };
            for outcome in &outcomes {
                if let Some(text) = text_outcome(outcome, colours) {
                    report::line(text)?;
                }
            }
            report::line(format_args!("{summary}, in {:.1} s", started.elapsed().as_secs_f64()))?;
        }
    }
    if summary.passed + summary.failed == 0 {
        anyhow::bail!(
            "no case could be run here, so nothing is known of the client; the reasons stand beside the cases"
        );
    }
    Ok(match summary.failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// The cases whose names have the pattern in them.
fn select(mut cases: Vec<Case>, pattern: Option<&str>) -> Vec<Case> {
    if let Some(pattern) = pattern {
        cases.retain(|case| case.is_named_like(pattern));
    }
    cases
}

fn list(cases: &[Case], output: Output) -> anyhow::Result<ExitCode> {
    match output {
        Output::Json => {
            let cases = cases
                .iter()
                .map(|case| json!({ "name": case.name(), "description": case.description() }));
            report::line(json!({ "cases": cases.collect::<Vec<_>>() }))?;
        }
        Output::Text => cases.iter().try_for_each(|case| report::line(case.name()))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn make_table(columns: &[(String, PathBuf)]) -> anyhow::Result<ExitCode> {
    let read = |(title, file): &(String, PathBuf)| {
        let results = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        Ok((title.clone(), results))
    };
    let columns = columns.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
    report::line(table::markdown(&columns)?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// What was asked for makes no sense, though it is well-formed.
fn usage(why: std::fmt::Arguments<'_>) -> anyhow::Result<ExitCode> {
    writeln!(io::stderr().lock(), "error: {why}").context("Standard error cannot be written")?;
    Ok(ExitCode::from(2))
}

fn json_outcome(outcome: &Outcome) -> Value {
    let (passed, difference, not_run) = match &outcome.verdict {
        Verdict::Passed => (true, None, None),
        Verdict::Failed(differences) => (false, Some(differences.join("\n")), None),
        Verdict::NotRun(reason) => (false, None, Some(reason)),
    };
    json!({
        "case": outcome.name,
        "source": outcome.name.split('/').next(),
        "description": outcome.description,
        "passed": passed,
        "not_run": not_run,
        "difference": difference,
        "took_ms": u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX),
    })
}

/// What a person wants to know of a case: nothing, when it passed.
fn text_outcome(outcome: &Outcome, colours: Colours) -> Option<String> {
    match &outcome.verdict {
        Verdict::Passed => None,
        Verdict::NotRun(reason) => Some(format!(
            "{}  {}: {reason}",
            colours.paint("33", "not run"),
            outcome.name
        )),
        Verdict::Failed(differences) => {
            let mut text = format!(
                "{}  {}\n         {}",
                colours.paint("31", "failed "),
                outcome.name,
                outcome.description
            );
            for difference in differences {
                text.push_str("\n       - ");
                text.push_str(&difference.replace('\n', "\n         "));
            }
            Some(text)
        }
    }
}

#[derive(Clone, Copy)]
struct Colours {
    on: bool,
}

impl Colours {
    /// The text in a colour of ECMA-48, where somebody sees it.
    fn paint(self, colour: &str, text: &str) -> String {
        if self.on {
            format!("\u{1b}[{colour}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// How many cases came to which end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    passed: usize,
    failed: usize,
    not_run: usize,
}

impl Summary {
    fn of(outcomes: &[Outcome]) -> Self {
        let mut summary = Self::default();
        for outcome in outcomes {
            match outcome.verdict {
                Verdict::Passed => summary.passed += 1,
                Verdict::Failed(_) => summary.failed += 1,
                Verdict::NotRun(_) => summary.not_run += 1,
            }
        }
        summary
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} passed, {} failed, {} not run",
            self.passed, self.failed, self.not_run
        )
    }
}

/// A line that is overwritten, for whoever looks at a terminal.
struct Progress {
    is_shown: bool,
    done: usize,
    failed: usize,
    all: usize,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self {
            is_shown: io::stderr().is_terminal(),
            done: 0,
            failed: 0,
            all,
        }
    }

    fn advance(&mut self, outcome: &Outcome) {
        self.done += 1;
        self.failed += usize::from(matches!(outcome.verdict, Verdict::Failed(_)));
        if self.is_shown {
            let Self { done, failed, all, .. } = self;
            // A terminal that is gone is no reason to stop.
            let _ = write!(io::stderr().lock(), "\r{done} of {all} cases, {failed} failed");
        }
    }

    fn end(&self) {
        if self.is_shown {
            let _ = write!(io::stderr().lock(), "\r\u{1b}[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn outcome(verdict: Verdict) -> Outcome {
        Outcome {
            name: "imds/x".to_owned(),
            description: "A client does x.".to_owned(),
            verdict,
            took: Duration::from_millis(7),
        }
    }

    #[test]
    fn a_failure_shows_its_case_and_its_differences() {
        let failed = outcome(Verdict::Failed(vec!["one".to_owned(), "two\nlines".to_owned()]));
        assert_eq!(
            text_outcome(&failed, Colours { on: false }).as_deref(),
            Some("failed   imds/x\n         A client does x.\n       - one\n       - two\n         lines")
        );
        assert!(text_outcome(&failed, Colours { on: true }).is_some_and(|text| text.starts_with("\u{1b}[31mfailed")));
        assert_eq!(text_outcome(&outcome(Verdict::Passed), Colours { on: false }), None);
        let not_run = outcome(Verdict::NotRun("no reason".to_owned()));
        assert_eq!(
            text_outcome(&not_run, Colours { on: false }).as_deref(),
            Some("not run  imds/x: no reason")
        );
        assert_eq!(
            json_outcome(&failed),
            json!({ "case": "imds/x", "source": "imds", "description": "A client does x.", "passed": false,
                "not_run": null, "difference": "one\ntwo\nlines", "took_ms": 7 })
        );
        assert_eq!(
            Summary::of(&[failed, not_run]).to_string(),
            "0 passed, 1 failed, 1 not run"
        );
    }
}
