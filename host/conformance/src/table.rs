//! The table of results: which client passes how many cases of which source, and what it fails at.
//!
//! It is made from what the runner prints with `--output json`, one text for each client, and is Markdown, because
//! `tests/conformance/README.md` is where it goes. Equal results make equal tables: whatever differs from run to run, such
//! as port numbers, is left out.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write as _};

use serde::Deserialize;

/// The order of the rows: the sources as they are detected, from the most particular to the most general, then the rest by name.
const SOURCES: [&str; 11] = [
    "detection",
    "service-fabric",
    "app-service",
    "app-service-2017",
    "azure-ml",
    "azure-arc",
    "cloud-shell",
    "workload-identity",
    "identity-bindings",
    "imds",
    "imds-proxy",
];

/// How many reasons for failures are listed for a client.
const REASONS: usize = 5;

/// What a client's own words come after.
const OWN_WORDS: [&str; 6] = [
    "the client answered with an error: ",
    "that is no JSON object: ",
    "that cannot be read (",
    "and the client sent ",
    "printed more than it was asked for: ",
    "The client cannot be asked: ",
];

/// How many characters of a difference are shown.
const EXAMPLE: usize = 240;

/// The results of a client, as the runner prints them.
#[derive(Deserialize)]
struct Results {
    results: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    case: String,
    source: String,
    #[serde(default)]
    passed: bool,
    /// Why the case could not be run; absent where it was.
    not_run: Option<String>,
    /// What was expected and what came, for a case that failed.
    difference: Option<String>,
}

/// A text that is not what the runner prints.
#[derive(Debug, thiserror::Error)]
#[error("the results of {client} cannot be read")]
pub struct UnreadableResults {
    client: String,
    source: serde_json::Error,
}

/// Makes the table from pairs of a client's name and its results as JSON. The columns are in the order of the pairs.
///
/// A cell says how many of the cases that were run were passed. A list below the table says which failures each client has
/// most, at most five.
///
/// # Errors
///
/// When a text is not what `managed-identity conformance --output json` prints.
pub fn markdown(clients: &[(String, String)]) -> Result<String, UnreadableResults> {
    let mut columns = Vec::new();
    for (client, json) in clients {
        let unreadable = |source| UnreadableResults {
            client: client.clone(),
            source,
        };
        columns.push((
            client.as_str(),
            serde_json::from_str::<Results>(json).map_err(unreadable)?.results,
        ));
    }
    let mut text = table(&columns);
    for (client, outcomes) in &columns {
        text += &remarks(client, outcomes);
    }
    Ok(text)
}

fn table(columns: &[(&str, Vec<Outcome>)]) -> String {
    let mut text = row("source", columns.iter().map(|(client, _)| (*client).to_owned()));
    text += &row("---", columns.iter().map(|_| "---:".to_owned()));
    for source in rows(columns) {
        text += &row(
            &source,
            columns
                .iter()
                .map(|(_, outcomes)| cell(outcomes.iter().filter(|o| o.source == source))),
        );
    }
    text + &row("**all**", columns.iter().map(|(_, outcomes)| cell(outcomes.iter())))
}

fn rows(columns: &[(&str, Vec<Outcome>)]) -> Vec<String> {
    let mut sources: Vec<String> = columns
        .iter()
        .flat_map(|(_, o)| o.iter().map(|o| o.source.clone()))
        .collect();
    sources.sort_by_cached_key(|source| {
        (
            SOURCES
                .iter()
                .position(|known| known == source)
                .unwrap_or(SOURCES.len()),
            source.clone(),
        )
    });
    sources.dedup();
    sources
}

fn row(first: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: String = cells.map(|cell| format!(" {cell} |")).collect();
    format!("| {first} |{cells}\n")
}

/// `passed/run`, or a dash where nothing was run.
fn cell<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> String {
    let (mut passed, mut run) = (0, 0);
    for outcome in outcomes.filter(|outcome| outcome.not_run.is_none()) {
        run += 1;
        passed += usize::from(outcome.passed);
    }
    if run == 0 {
        "–".to_owned()
    } else {
        format!("{passed}/{run}")
    }
}

/// What a client fails at most, and what could not be run; nothing for a client that passes everything.
fn remarks(client: &str, outcomes: &[Outcome]) -> String {
    let mut failures = BTreeMap::<String, Vec<&Outcome>>::new();
    let mut not_run = BTreeMap::<&str, usize>::new();
    for outcome in outcomes {
        match &outcome.not_run {
            Some(reason) => *not_run.entry(reason).or_default() += 1,
            None if outcome.passed => {}
            None => failures
                .entry(reason(outcome.difference.as_deref().unwrap_or_default()))
                .or_default()
                .push(outcome),
        }
    }
    let mut failures: Vec<_> = failures.into_values().collect();
    for cases in &mut failures {
        cases.sort_by_key(|outcome| &outcome.case);
    }
    failures.sort_by_key(|cases| (Reverse(cases.len()), &cases[0].case));

    let mut text = String::new();
    for cases in failures.iter().take(REASONS) {
        let difference = steady(cases[0].difference.as_deref().unwrap_or("no difference was given"));
        let example = format!("{} in `{}`", code(&difference), cases[0].case);
        // A write to a String cannot fail.
        let _ = match cases.len() {
            1 => writeln!(text, "- {example}"),
            count => writeln!(text, "- {count} cases, such as {example}"),
        };
    }
    let others: usize = failures.iter().skip(REASONS).map(Vec::len).sum();
    if others > 0 {
        let _ = writeln!(text, "- and {others} more for other reasons");
    }
    for (reason, count) in not_run {
        let _ = writeln!(text, "- not run: {count}, because {}", code(reason));
    }
    if text.is_empty() {
        text
    } else {
        format!("\n{client}:\n\n{text}")
    }
}

/// What failures have in common: the first line of the difference, without the step that it was seen in, without what came
/// and what was expected, which is in backticks, and without what the client said, which is anything.
///
/// The names of headers, parameters and fields are in backticks as well, and stay: a missing client id is another failure
/// than a missing header.
fn reason(difference: &str) -> String {
    let line = difference.lines().next().unwrap_or_default();
    let line = match line.strip_prefix("Step ").and_then(|rest| rest.split_once(": ")) {
        Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => rest,
        _ => line,
    };
    let line = OWN_WORDS
        .iter()
        .filter_map(|words| line.find(words).map(|at| at + words.len()))
        .min()
        .map_or(line, |end| &line[..end]);
    let mut reason = String::new();
    for (number, part) in line.split('`').enumerate() {
        let is_name = ["header ", "parameter ", "field "]
            .iter()
            .any(|kind| reason.ends_with(kind));
        reason += match number % 2 {
            1 if !is_name => "…",
            _ => part,
        };
    }
    // What is left of values that come without backticks is numbers: statuses, moments, milliseconds.
    let words = reason
        .split(' ')
        .map(|word| match word.bytes().any(|byte| byte.is_ascii_digit()) {
            true => "…",
            false => word,
        });
    words.collect::<Vec<_>>().join(" ")
}

/// The text on one line, and the same in every run: an ellipsis stands for ports and for moments.
fn steady(text: &str) -> String {
    let mut steady = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let end = rest[start..]
            .find(|c: char| !c.is_ascii_digit())
            .map_or(rest.len(), |length| start + length);
        steady += &rest[..start];
        let port = ["127.0.0.1:", "localhost:"].iter().any(|host| steady.ends_with(host));
        // Seconds since 1970 have ten digits; nothing else in a difference has so many that would mean something.
        steady += if port || end - start >= 9 {
            "…"
        } else {
            &rest[start..end]
        };
        rest = &rest[end..];
    }
    steady += rest;
    steady.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A code span, cut where it is too long to be read.
fn code(text: &str) -> String {
    let cut = text.char_indices().nth(EXAMPLE).map(|(end, _)| &text[..end]);
    let (shown, more) = cut.map_or((text, ""), |cut| (cut, " …"));
    // Two backticks, so that a name in backticks can be inside.
    if shown.contains('`') {
        format!("`` {shown}{more} ``")
    } else {
        format!("`{shown}{more}`")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        answer::Answer,
        case::Exchange,
        matching::{self, Clock},
        script::Script,
        wire::Arrived,
    };

    fn passed(case: &str) -> Value {
        json!({ "case": case, "source": case.split('/').next(), "passed": true })
    }

    fn failed(case: &str, difference: &str) -> Value {
        json!({ "case": case, "source": case.split('/').next(), "passed": false, "difference": difference })
    }

    fn not_run(case: &str, reason: &str) -> Value {
        json!({ "case": case, "source": case.split('/').next(), "passed": false, "not_run": reason })
    }

    fn client(name: &str, results: &[Value]) -> (String, String) {
        (
            name.to_owned(),
            json!({ "cases": results.len(), "results": results }).to_string(),
        )
    }

    #[test]
    fn a_cell_says_how_many_of_the_cases_that_ran_were_passed() {
        let ours = [
            passed("imds/a"),
            passed("imds/b"),
            passed("azure-arc/a"),
            passed("zzz/a"),
        ];
        let theirs = [
            passed("imds/a"),
            failed("imds/b", "no"),
            not_run("azure-arc/a", "needs a mount namespace"),
            passed("aaa/b"),
        ];
        let text = markdown(&[client("ours", &ours), client("theirs 1.0", &theirs)]).unwrap();
        let expected = "\
| source | ours | theirs 1.0 |
| --- | ---: | ---: |
| azure-arc | 1/1 | – |
| imds | 2/2 | 1/2 |
| aaa | – | 1/1 |
| zzz | 1/1 | – |
| **all** | 4/4 | 2/3 |

theirs 1.0:

- `no` in `imds/b`
- not run: 1, because `needs a mount namespace`
";
        assert_eq!(text, expected);
    }

    /// What the runner says of a request to App Service, in which step it came, with what the expected one has.
    fn of_a_request(step: &str, query: Value, target: &str, header: &str) -> String {
        let expected =
            serde_json::from_value(json!({ "path": "/token", "query": query, "headers": { "secret": "hunter2" } }))
                .unwrap();
        let script = Script::default();
        let exchange = json!({ "request": { "path": "/" }, "reply": {} });
        let mut exchange: Exchange = serde_json::from_value(exchange).unwrap();
        exchange.request = expected;
        script.begin(vec![exchange]);
        let headers = vec![("secret".to_owned(), header.to_owned())];
        assert!(
            script
                .arrived(&Arrived::new("GET", target, headers, Vec::new()), Duration::ZERO)
                .is_none(),
            "{target} differs"
        );
        format!("{step}{}", script.end().join("\n"))
    }

    /// What the runner says of an answer.
    fn of_an_answer(step: &str, expected: Value, line: &str) -> String {
        let expected = serde_json::from_value(expected).unwrap();
        let faults = matching::answer(&expected, &Answer::parse(line), Clock::real_time(1_800_000_000, 0));
        assert!(!faults.is_empty(), "{line} differs");
        format!("{step}{}", faults.join("\n"))
    }

    #[test]
    fn failures_are_grouped_by_what_they_have_in_common() {
        let query = |id: &str| json!({ "resource": "https://vault.azure.net", "client_id": id });
        let target = |rest: &str| format!("/token?resource=https://vault.azure.net{rest}");
        let token = |token: &str| json!({ "token": token, "expires_on": "${now+3600}" });
        let error = |cause: &str| json!({ "error": cause, "http_status": 400 });
        let said = |message: &str| json!({ "error": { "message": message } }).to_string();
        let groups = [
            vec![
                of_a_request("", query("a"), &target(""), "hunter2"),
                of_a_request("Step 2: ", query("b"), &target(""), "hunter2"),
            ],
            vec![
                of_a_request("", query("a"), &target("&client_id=b"), "hunter2"),
                of_a_request("Step 1: ", query("c"), &target("&client_id=d"), "hunter2"),
            ],
            vec![
                of_a_request("", query("a"), &target("&client_id=a"), "853b9a84"),
                of_a_request("Step 3: ", query("b"), &target("&client_id=b"), "wrong"),
            ],
            vec![
                of_an_answer("", token("token-a"), &said("invalid digit at column 4")),
                of_an_answer("Step 2: ", token("token-b"), &said("missing `resource`\nat line 1")),
            ],
            vec![
                of_an_answer("", token("a"), r#"{"access_token":"a","expires_on":1800000000}"#),
                of_an_answer("Step 2: ", token("b"), r#"{"access_token":"b","expires_on":7}"#),
            ],
            vec![
                of_an_answer("", error("denied"), r#"{"access_token":"a"}"#),
                of_an_answer("Step 2: ", error("denied"), r#"{"access_token":"b"}"#),
            ],
            vec![
                of_an_answer("", error("denied"), r#"{"error":{"message":"a","http_status":401}}"#),
                of_an_answer(
                    "Step 9: ",
                    error("denied"),
                    r#"{"error":{"message":"b","http_status":500}}"#,
                ),
            ],
            vec![
                of_an_answer("", token("a"), "Traceback"),
                of_an_answer("Step 12: ", token("b"), "panicked at 7"),
            ],
        ];
        let mut seen = Vec::new();
        for group in groups {
            let reasons: Vec<_> = group.iter().map(|difference| reason(difference)).collect();
            assert_eq!(reasons[0], reasons[1], "{group:?}");
            assert!(!seen.contains(&reasons[0]), "{seen:?} {reasons:?}");
            seen.extend(reasons.into_iter().take(1));
        }
        assert_eq!(
            seen[..2],
            [
                "Request … differs: query parameter `client_id`: expected …, it is missing",
                "Request … differs: query parameter `client_id`: expected …, got …"
            ]
            .map(|reason| reason.replace('`', ""))
        );
    }

    #[test]
    fn the_most_frequent_failures_come_first() {
        let outcomes = [
            failed("imds/c", "expires_on: expected 7, got 8"),
            failed("imds/b", "Step 2: token: expected `a`, got `b`\nclient_id: expected 1"),
            failed("imds/a", "token: expected `b`, got `c`"),
        ];
        let text = markdown(&[client("theirs", &outcomes)]).unwrap();
        let list: Vec<&str> = text.lines().filter(|line| line.starts_with('-')).collect();
        let expected = [
            "- 2 cases, such as `` token: expected `b`, got `c` `` in `imds/a`",
            "- `expires_on: expected 7, got 8` in `imds/c`",
        ];
        assert_eq!(list, expected);
    }

    #[test]
    fn no_more_than_five_reasons_are_listed() {
        let outcomes: Vec<Value> = ["a", "b", "c", "d", "e", "f", "g"]
            .iter()
            .map(|n| failed(&format!("imds/{n}"), &format!("reason {n}")))
            .collect();
        let text = markdown(&[client("theirs", &outcomes)]).unwrap();
        assert_eq!(text.matches("- `reason").count(), 5);
        assert!(
            text.ends_with("- `reason e` in `imds/e`\n- and 2 more for other reasons\n"),
            "{text}"
        );
    }

    #[test]
    fn the_same_failure_reads_the_same_in_every_run() {
        for (difference, expected) in [
            ("asked http://127.0.0.1:40123/x", "asked http://127.0.0.1:…/x"),
            ("asked https://localhost:9/x", "asked https://localhost:…/x"),
            (
                "`expires_on` is 1795452003, expected 1795452010",
                "`expires_on` is …, expected …",
            ),
            (
                "api-version 2019-08-01\n\tstatus 400",
                "api-version 2019-08-01 status 400",
            ),
            ("", ""),
        ] {
            assert_eq!(steady(difference), expected);
        }
    }

    #[test]
    fn a_long_difference_is_cut() {
        assert_eq!(code(&"é".repeat(EXAMPLE)), format!("`{}`", "é".repeat(EXAMPLE)));
        assert_eq!(code(&"é".repeat(EXAMPLE + 1)), format!("`{} …`", "é".repeat(EXAMPLE)));
    }

    #[test]
    fn a_text_that_is_no_result_is_refused_with_the_name_of_the_client() {
        let clients = [client("ours", &[]), ("theirs".to_owned(), "Traceback".to_owned())];
        assert_eq!(
            markdown(&clients).unwrap_err().to_string(),
            "the results of theirs cannot be read"
        );
    }
}
