//! The sample in the README is what the command prints.

use super::owned;
use crate::support::emulated::Emulated;
use crate::support::program::run;
use managed_identity_emulator::Source;

const README: &str = include_str!("../../../README.md");

/// A resource that the emulated tenant does not know.
const UNKNOWN: &str = "https://unknown.example";

/// What is the same on every machine and in every run: no number, no id of a request, and nothing of how far apart two readings
/// of one clock are.
fn lasting(text: &str) -> Vec<String> {
    let lasting = |line: &str| {
        let line = match line.split_once("This machine's clock is") {
            Some((before, _)) => before,
            None => line,
        };
        let words: Vec<String> = line.split(' ').map(without_numbers).collect();
        words.join(" ")
    };
    text.lines().map(lasting).collect()
}

fn without_numbers(word: &str) -> String {
    let parts: Vec<&str> = word.trim_end_matches('.').split('-').collect();
    let is_hexadecimal = |part: &&str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if parts.len() == 5 && parts.iter().all(is_hexadecimal) {
        return "ID".to_owned();
    }
    let mut lasting = String::new();
    for character in word.chars() {
        match character {
            '0'..='9' | '.' if lasting.ends_with('#') => {}
            '0'..='9' => lasting.push('#'),
            other => lasting.push(other),
        }
    }
    lasting
}

#[test]
fn the_sample_in_the_readme_is_what_it_prints() {
    let shown = README
        .split("```text\n$ managed-identity doctor --resource https://unknown.example\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("the README shows a run");
    let platform = Emulated::start();
    let mut environment: Vec<_> = platform.environment_for(Source::AppService).into_iter().collect();
    environment.extend(owned(&[("HTTP_PROXY", "http://proxy.example:3128")]));
    // The first run may be the one that compiles the provider.
    let printed = [(); 2].map(|()| run(environment.clone(), &["doctor", "--resource", UNKNOWN]));
    assert_eq!(lasting(shown), lasting(&printed[1].stdout));
}
