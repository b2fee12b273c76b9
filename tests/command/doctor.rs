//! `doctor`: each thing that can be wrong has a line that says so, and nothing that is right has one.

#[path = "doctor/causes.rs"]
mod causes;
#[path = "doctor/findings.rs"]
mod findings;
#[path = "doctor/healthy.rs"]
mod healthy;
#[path = "doctor/policies.rs"]
mod policies;
#[path = "doctor/sample.rs"]
mod sample;

use crate::support::program::{Outcome, keys, run};
use managed_identity_emulator::EmulatorConfig;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// How every token and assertion here begins.
const TOKEN_BEGIN: &str = "eyJ";

/// The checks, in their order.
const CHECKS: [&str; 13] = [
    "source",
    "variables",
    "credential",
    "proxies",
    "route",
    "connection",
    "answer",
    "clock",
    "identity",
    "token",
    "claims",
    "policy",
    "provider",
];

type Environment = Vec<(String, String)>;

fn owned(variables: &[(&str, &str)]) -> Environment {
    let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    variables.iter().map(owned).collect()
}

/// A folder of one test's own, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("doctor-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// The name of a new file with these contents.
    fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        let file = self.file(name);
        std::fs::write(&file, contents).unwrap();
        file
    }

    /// An emulator that has the federated token here.
    fn emulator(&self) -> EmulatorConfig {
        EmulatorConfig {
            federated_token_file: Some(self.0.join("assertion")),
            ..EmulatorConfig::default()
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What `doctor` found, as JSON says it, after it was seen that text says the same.
struct Report {
    code: i32,
    object: Value,
    /// All that was printed, in both forms.
    printed: [Outcome; 2],
}

impl Report {
    /// Of `doctor` with these arguments, in this environment, which is also what must not be shown of it: its secrets.
    fn new(environment: &Environment, arguments: &[&str]) -> Self {
        let asked = |output| {
            let arguments = [&["doctor", "--output", output][..], arguments].concat();
            run(environment.iter().cloned(), &arguments)
        };
        let printed = [asked("json"), asked("text")];
        for outcome in &printed {
            assert_eq!(outcome.stderr, "", "findings are results: {outcome:?}");
            outcome.must_not_show(&[TOKEN_BEGIN, "\u{1b}", "\r"]);
            for (name, value) in environment {
                if matches!(name.as_str(), "IDENTITY_HEADER" | "MSI_SECRET") && !value.is_empty() {
                    outcome.must_not_show(&[value]);
                }
            }
        }
        let [json, text] = &printed;
        assert_eq!(json.stdout.lines().count(), 1, "{json:?}");
        let object: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(
            keys(&object),
            ["status", "resource", "source", "endpoint", "elapsed_ms", "lines"]
        );
        let report = Self {
            code: json.code.unwrap(),
            object,
            printed: printed.clone(),
        };
        assert_eq!(text.code, json.code, "{text:?}");
        let lines = text.stdout.lines();
        let heads = lines.filter(|line| !line.starts_with(' ') && !line.is_empty());
        let heads = heads.map(|line| line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>());
        let expected = report.lines().iter().map(|line| {
            let text = |name: &str| line[name].as_str().unwrap().to_owned();
            vec![text("status"), text("check")]
        });
        // The last line of the text is the summary.
        let heads: Vec<_> = heads.collect();
        assert_eq!(heads[..heads.len() - 1], expected.collect::<Vec<_>>(), "{text:?}");
        report.check_form();
        report
    }

    fn check_form(&self) {
        let mut last = 0;
        for line in self.lines() {
            assert_eq!(
                keys(line),
                [
                    "check",
                    "status",
                    "found",
                    "meaning",
                    "advice",
                    "documentation",
                    "cause"
                ]
            );
            let place = CHECKS.iter().position(|check| *check == line["check"]).unwrap();
            assert!(place == last || place == last + 1, "{line} out of order");
            last = place;
            for name in ["found", "meaning", "documentation"] {
                assert!(!line[name].as_str().unwrap().is_empty(), "{line}");
            }
            let has_advice = line["advice"].as_str().is_some_and(|advice| !advice.is_empty());
            let is_wrong = line["status"] == "warn" || line["status"] == "fail";
            assert_eq!(has_advice, is_wrong, "{line}");
        }
        assert_eq!(last, CHECKS.len() - 1, "each check has a line");
        let has = |status: &str| self.lines().iter().any(|line| line["status"] == status);
        let (status, code) = match (has("fail"), has("warn")) {
            (true, _) => ("fail", 1),
            (false, true) => ("warn", 3),
            (false, false) => ("pass", 0),
        };
        assert_eq!((self.object["status"].as_str(), self.code), (Some(status), code));
    }

    fn lines(&self) -> &[Value] {
        self.object["lines"].as_array().unwrap()
    }

    /// The lines that are not as they should be: check and status.
    fn wrong(&self) -> Vec<(&str, &str)> {
        let lines = self.lines().iter();
        let pairs = lines.map(|line| (line["check"].as_str().unwrap(), line["status"].as_str().unwrap()));
        pairs.filter(|(_, status)| matches!(*status, "warn" | "fail")).collect()
    }

    /// The first line of a check.
    fn line(&self, check: &str) -> &Value {
        self.lines().iter().find(|line| line["check"] == check).unwrap()
    }

    fn found(&self, check: &str) -> &str {
        self.line(check)["found"].as_str().unwrap()
    }

    fn must_not_show(&self, secrets: &[&str]) {
        for outcome in &self.printed {
            outcome.must_not_show(secrets);
        }
    }
}
