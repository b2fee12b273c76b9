//! How findings are shown: lines for a person, with a spinner and colours on a terminal only, or one JSON object in the end.

use super::line::{Check, Line, Status, worst};
use crate::arguments::Output;
use crate::report;
use serde_json::{Value, json};
use std::io::{self, IsTerminal as _, Write as _};
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// How long a check takes before a spinner shows that it is under way, and between two pictures of the spinner.
const TICK: Duration = Duration::from_millis(100);

const FRAMES: [char; 4] = ['|', '/', '-', '\\'];

/// Removes the line on which the cursor stands (ECMA-48, EL) and goes to its begin.
const CLEAR_LINE: &str = "\r\u{1b}[2K";

/// Where lines go.
pub(super) struct Screen {
    output: Output,
    colours: bool,
    spinner: bool,
}

impl Screen {
    /// As far as the standard streams are terminals. `NO_COLOR` (no-color.org) is obeyed.
    pub(super) fn new(output: Output) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
        let terminal = io::stdout().is_terminal() && !dumb;
        let text = output == Output::Text;
        Self {
            output,
            colours: text && terminal && !set("NO_COLOR"),
            spinner: text && terminal && io::stderr().is_terminal(),
        }
    }

    /// Does the work of a check, and shows meanwhile that it is under way.
    pub(super) async fn during<T>(&self, check: Check, work: impl Future<Output = T>) -> T {
        if !self.spinner {
            return work.await;
        }
        let mut work = pin!(work);
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut frames = FRAMES.iter().cycle();
        let mut shown = false;
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                _ = ticks.tick() => if let Some(frame) = frames.next() {
                    shown = true;
                    // A spinner that cannot be written is no loss.
                    let _ = write!(io::stderr(), "{CLEAR_LINE}{frame} {}", check.name());
                }
            }
        };
        if shown {
            let _ = write!(io::stderr(), "{CLEAR_LINE}");
        }
        done
    }

    /// Shows lines as soon as they are there, to those who watch.
    pub(super) fn show(&self, lines: &[Line]) -> anyhow::Result<()> {
        if self.output == Output::Json {
            return Ok(());
        }
        lines.iter().try_for_each(|line| report::line(text(line, self.colours)))
    }

    /// Ends with a summary, or with the whole in JSON: these members, and the lines.
    pub(super) fn end(&self, lines: &[Line], mut members: Value) -> anyhow::Result<()> {
        match self.output {
            Output::Text => report::line(format_args!("\n{}", summary(lines))),
            Output::Json => {
                members["status"] = json!(worst(lines).name());
                members["lines"] = lines.iter().map(Line::json).collect();
                report::line(members)
            }
        }
    }
}

/// A line for a person: what was found, and where that is not as it should be, what follows.
fn text(line: &Line, colours: bool) -> String {
    const INDENT: &str = "        ";
    let (status, check) = (line.status.name(), line.check.name());
    let (colour, reset) = match (colours, line.status) {
        (false, _) => ("", ""),
        (true, Status::Pass) => ("\u{1b}[32m", "\u{1b}[0m"),
        (true, Status::Warn) => ("\u{1b}[33m", "\u{1b}[0m"),
        (true, Status::Fail) => ("\u{1b}[1;31m", "\u{1b}[0m"),
        (true, Status::Skipped) => ("\u{1b}[2m", "\u{1b}[0m"),
    };
    let mut text = format!("{colour}{status:<7}{reset} {check:<10} {}", line.found);
    if matches!(line.status, Status::Warn | Status::Fail) {
        text.push_str(&format!("\n{INDENT}means: {}", line.meaning));
        if let Some(advice) = &line.advice {
            text.push_str(&format!("\n{INDENT}do:    {advice}"));
        }
        text.push_str(&format!("\n{INDENT}see:   {}", line.documentation));
    }
    text
}

/// How many lines ended in which way.
fn summary(lines: &[Line]) -> String {
    let count = |status| lines.iter().filter(|line| line.status == status).count();
    let counted = |status, one: &str, many: &str| match count(status) {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    };
    format!(
        "{}, {}, {} passed, {} skipped",
        counted(Status::Fail, "failure", "failures"),
        counted(Status::Warn, "warning", "warnings"),
        count(Status::Pass),
        count(Status::Skipped)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_as_it_should_be_says_more_than_what_was_found() {
        let pass = Line::pass(Check::Clock, "all well", "it is");
        assert_eq!(text(&pass, false), "pass    clock      all well");
        let warn = Line::warn(Check::Token, "found", "meaning", "advice").see("title");
        assert_eq!(
            text(&warn, false),
            "warn    token      found\n        means: meaning\n        do:    advice\n        see:   title"
        );
        assert!(text(&warn, true).starts_with("\u{1b}[33mwarn   \u{1b}[0m token"));
        assert_eq!(summary(&[pass, warn]), "0 failures, 1 warning, 1 passed, 0 skipped");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_check_brings_comes_through_with_a_spinner_and_without() {
        for spinner in [true, false] {
            let screen = Screen {
                output: Output::Text,
                colours: false,
                spinner,
            };
            let work = async {
                tokio::time::sleep(TICK * 3).await;
                7
            };
            assert_eq!(screen.during(Check::Answer, work).await, 7);
        }
    }
}
