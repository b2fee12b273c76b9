//! Comparing what happened with what a case expects. Every difference is a sentence; none means that it fits.

mod requests;

pub use requests::request;

use crate::answer::{Answer, Description, FailureAnswer, TokenAnswer, abbreviated};
use crate::case::{Accepted, Expectation, ExpectedSource, Moment};

/// How much earlier than a case says a client may look for a successor, in seconds. Clients that were started together
/// would renew together, so good ones spread that out, towards the past: a token that is renewed late may not be renewed.
const RENEWAL_SPREAD: u64 = 300;

/// How exactly moments have to be met.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// When the case began, in seconds since 1970-01-01T00:00:00Z.
    pub began: u64,
    /// How much earlier a moment may be.
    pub early: u64,
    /// How much later it may be.
    pub late: u64,
    /// Whether the time is the world's: other work passes it too.
    pub is_real: bool,
}

impl Clock {
    /// Time that passes only by waiting. As much may have passed as this.
    #[must_use]
    pub fn virtual_time(began: u64, passed: u64) -> Self {
        Self {
            began,
            early: 0,
            late: passed,
            is_real: false,
        }
    }

    /// Time as it is. A machine with much to do gets more of it.
    #[must_use]
    pub fn real_time(began: u64, passed: u64) -> Self {
        Self {
            began,
            early: 2,
            late: passed.saturating_add(1).max(15),
            is_real: true,
        }
    }

    /// Whether a moment is the expected one, or at most `spread` seconds before it.
    fn meets(self, expected: Moment, spread: u64, actual: u64) -> bool {
        let (early, late) = self.range(expected);
        (early.saturating_sub(spread)..=late).contains(&actual)
    }

    /// The first and the last moment that count as the expected one.
    fn range(self, expected: Moment) -> (u64, u64) {
        match expected {
            Moment::At(moment) => (moment, moment),
            Moment::FromNow(offset) => {
                let moment = self.began.saturating_add_signed(offset);
                (moment.saturating_sub(self.early), moment.saturating_add(self.late))
            }
        }
    }

    fn describe(self, expected: Moment, spread: u64) -> String {
        let (moment, offset, early, late) = match expected {
            Moment::At(moment) if spread == 0 => return format!("{moment}"),
            Moment::At(moment) => (moment, String::new(), 0, 0),
            Moment::FromNow(offset) => (
                self.began.saturating_add_signed(offset),
                format!("the beginning {offset:+} s, "),
                self.early,
                self.late,
            ),
        };
        format!(
            "{moment} ({offset}at most {} s earlier or {late} s later)",
            early + spread
        )
    }
}

/// How an answer differs from the one that is expected.
#[must_use]
pub fn answer(expected: &Expectation, answer: &Answer, clock: Clock) -> Vec<String> {
    match (answer, &expected.token, &expected.error) {
        (Answer::Broken(reason), ..) => vec![reason.clone()],
        (Answer::Token(answer), Some(token), _) => token_answer(expected, token, answer, clock),
        (Answer::Failure(answer), _, Some(causes)) => failure_answer(expected, causes, answer, clock),
        (Answer::Token(answer), _, causes) => {
            let causes = causes
                .as_ref()
                .map_or_else(|| "an error".to_owned(), |causes| format!("the error {causes}"));
            vec![format!(
                "expected {causes}, the client answered with the token `{}`",
                abbreviated(&answer.access_token)
            )]
        }
        (Answer::Failure(answer), token, _) => vec![format!(
            "expected the token `{}`, the client answered with an error: {}{}",
            token.as_deref().unwrap_or_default(),
            answer
                .cause
                .as_ref()
                .map_or_else(String::new, |cause| format!("{cause}: ")),
            abbreviated(&answer.message)
        )],
    }
}

fn token_answer(expected: &Expectation, token: &str, answer: &TokenAnswer, clock: Clock) -> Vec<String> {
    let mut faults = Vec::new();
    if answer.access_token != token {
        faults.push(format!(
            "token: expected `{token}`, got `{}`",
            abbreviated(&answer.access_token)
        ));
    }
    // Who hands a token out without saying how long it is valid leaves its caller to guess.
    if expected.expires_on.is_some() && answer.expires_on.is_none() {
        faults.push("expires_on: the client does not say it".to_owned());
    }
    for (name, expected, actual, spread) in [
        ("expires_on", expected.expires_on, answer.expires_on, 0),
        ("refresh_on", expected.refresh_on, answer.refresh_on, RENEWAL_SPREAD),
    ] {
        if let (Some(expected), Some(actual)) = (expected, actual)
            && !clock.meets(expected, spread, actual)
        {
            let expected = clock.describe(expected, spread);
            faults.push(format!("{name}: expected {expected}, got {actual}"));
        }
    }
    equal(
        "client_id",
        expected.client_id.as_ref(),
        answer.client_id.as_ref(),
        &mut faults,
    );
    equal("source", expected.source.as_ref(), answer.source.as_ref(), &mut faults);
    equal("stale", expected.stale.as_ref(), answer.stale.as_ref(), &mut faults);
    faults
}

fn failure_answer(expected: &Expectation, causes: &Accepted, answer: &FailureAnswer, clock: Clock) -> Vec<String> {
    let mut faults = Vec::new();
    if answer.message.trim().is_empty() {
        faults.push("message: the client does not say what is wrong".to_owned());
    }
    if let Some(cause) = &answer.cause {
        if !causes.all().contains(cause) {
            faults.push(format!(
                "cause: expected {causes}, got `{cause}`: {}",
                abbreviated(&answer.message)
            ));
        }
        for text in expected
            .message_has
            .iter()
            .filter(|text| !answer.message.contains(*text))
        {
            faults.push(format!(
                "message: `{text}` is missing in `{}`",
                abbreviated(&answer.message)
            ));
        }
        for text in expected
            .message_lacks
            .iter()
            .filter(|text| answer.message.contains(*text))
        {
            faults.push(format!(
                "message: `{text}` must not be in `{}`",
                abbreviated(&answer.message)
            ));
        }
    }
    equal(
        "http_status",
        expected.http_status.map(Some).as_ref(),
        answer.http_status.as_ref(),
        &mut faults,
    );
    equal(
        "correlation_id",
        expected.correlation_id.clone().map(Some).as_ref(),
        answer.correlation_id.as_ref(),
        &mut faults,
    );
    match (expected.retry_after_ms, answer.retry_after_ms) {
        // A wait that ends at a moment is shorter when it is told later.
        (Some(expected), Some(Some(actual)))
            if clock.is_real && (expected.saturating_sub(15_000).max(1)..=expected + 1_000).contains(&actual) => {}
        (expected, actual) => equal(
            "retry_after_ms",
            expected.map(Some).as_ref(),
            actual.as_ref(),
            &mut faults,
        ),
    }
    faults
}

/// Compares what is both expected and said.
fn equal<T: PartialEq + std::fmt::Debug>(
    name: &str,
    expected: Option<&T>,
    actual: Option<&T>,
    faults: &mut Vec<String>,
) {
    if let (Some(expected), Some(actual)) = (expected, actual)
        && expected != actual
    {
        faults.push(format!("{name}: expected {expected:?}, got {actual:?}"));
    }
}

/// How a description of the source differs from the one that is expected.
#[must_use]
pub fn description(expected: &ExpectedSource, actual: &Description) -> Vec<String> {
    let mut faults = Vec::new();
    equal("source.name", Some(&expected.name), Some(&actual.source), &mut faults);
    equal(
        "source.endpoint",
        expected.endpoint.clone().map(Some).as_ref(),
        Some(&actual.endpoint),
        &mut faults,
    );
    let reasons = actual.reasons.join(" ");
    for text in expected.reasons_have.iter().filter(|text| !reasons.contains(*text)) {
        faults.push(format!("source: `{text}` is missing in the reasons `{reasons}`"));
    }
    for text in expected.reasons_lack.iter().filter(|text| reasons.contains(*text)) {
        faults.push(format!("source: `{text}` must not be in the reasons `{reasons}`"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_departure_of_an_answer_is_named() {
        let token =
            r#"{"token":"t","expires_on":"${now+60}","refresh_on":430,"client_id":"c","source":"imds","stale":false}"#;
        let error = r#"{"error":["throttled","denied"],"http_status":429,"retry_after_ms":7000,"correlation_id":"c",
            "message_has":["Wait"],"message_lacks":["hunter2"]}"#;
        let whole =
            r#"{"access_token":"t","expires_on":160,"refresh_on":430,"client_id":"c","source":"imds","stale":false}"#;
        let failure = r#"{"error":{"cause":"denied","message":"Wait.","http_status":429,"retry_after_ms":7000,"correlation_id":"c"}}"#;
        for (expected, line, difference) in [
            (token, whole.to_owned(), None),
            (token, r#"{"access_token":"t","expires_on":160}"#.to_owned(), None),
            (
                token,
                whole.replace(r#""t""#, r#""u""#),
                Some("token: expected `t`, got `u`"),
            ),
            (token, whole.replace("160", "159"), Some("expires_on: expected 160")),
            (token, whole.replace("160", "162"), Some("expires_on: expected 160")),
            (
                token,
                r#"{"access_token":"t"}"#.to_owned(),
                Some("expires_on: the client does not say it"),
            ),
            (
                token,
                whole.replace("430", "431"),
                Some("refresh_on: expected 430 (at most 300 s earlier or 0 s later), got 431"),
            ),
            (token, whole.replace("430", "130"), None),
            (
                token,
                whole.replace("430", "129"),
                Some("refresh_on: expected 430 (at most 300 s earlier or 0 s later), got 129"),
            ),
            (
                token,
                whole.replace(r#""c""#, "null"),
                Some("client_id: expected Some(\"c\"), got None"),
            ),
            (
                token,
                whole.replace("imds", "azure-arc"),
                Some("source: expected \"imds\", got \"azure-arc\""),
            ),
            (
                token,
                whole.replace("false", "true"),
                Some("stale: expected false, got true"),
            ),
            (
                token,
                failure.to_owned(),
                Some("expected the token `t`, the client answered with an error: denied: Wait."),
            ),
            (token, "nonsense".to_owned(), Some("no JSON object: nonsense")),
            (error, failure.to_owned(), None),
            (error, r#"{"error":{"message":"other words"}}"#.to_owned(), None),
            (
                error,
                r#"{"error":{"message":""}}"#.to_owned(),
                Some("does not say what is wrong"),
            ),
            (
                error,
                failure.replace("denied", "internal"),
                Some("cause: expected `throttled` or `denied`, got `internal`"),
            ),
            (
                error,
                failure.replace("Wait", "Stay"),
                Some("`Wait` is missing in `Stay.`"),
            ),
            (
                error,
                failure.replace("Wait.", "Wait hunter2."),
                Some("`hunter2` must not be in"),
            ),
            (
                error,
                failure.replace("429", "null"),
                Some("http_status: expected Some(429), got None"),
            ),
            (
                error,
                failure.replace("7000", "7001"),
                Some("retry_after_ms: expected Some(7000), got Some(7001)"),
            ),
            (
                error,
                failure.replace(r#""c""#, "null"),
                Some("correlation_id: expected Some(\"c\"), got None"),
            ),
            (
                error,
                whole.to_owned(),
                Some("expected the error `throttled` or `denied`, the client answered with the token `t`"),
            ),
        ] {
            let expected = serde_json::from_str(expected).expect("well-formed");
            let faults = answer(&expected, &Answer::parse(&line), Clock::virtual_time(100, 1));
            match difference {
                None => assert_eq!(faults, [""; 0], "{line}"),
                Some(difference) => {
                    assert!(
                        faults.len() == 1 && faults[0].contains(difference),
                        "{faults:?}: no {difference}"
                    );
                }
            }
        }
    }

    #[test]
    fn real_time_is_given_some_room_and_an_absolute_moment_none() {
        let clock = Clock::real_time(100, 0);
        for (spread, actual, expected) in [
            (0, 157, false),
            (0, 158, true),
            (0, 175, true),
            (0, 176, false),
            (50, 107, false),
            (50, 108, true),
            (50, 176, false),
        ] {
            assert_eq!(
                clock.meets(Moment::FromNow(60), spread, actual),
                expected,
                "{spread} {actual}"
            );
        }
        assert!(Clock::real_time(100, 30).meets(Moment::FromNow(60), 0, 190));
        assert!(clock.meets(Moment::At(160), 0, 160) && !clock.meets(Moment::At(160), 0, 161));
    }

    #[test]
    fn every_departure_of_a_description_is_named() {
        let expected: ExpectedSource = serde_json::from_str(
            r#"{"name":"imds","endpoint":"http://host/token","reasons_have":["IDENTITY_ENDPOINT"],"reasons_lack":["s3cr3t"]}"#,
        )
        .expect("well-formed");
        let good = Description {
            source: Some("imds".to_owned()),
            endpoint: Some("http://host/token".to_owned()),
            reasons: vec!["IDENTITY_ENDPOINT is not set.".to_owned()],
        };
        assert_eq!(description(&expected, &good), [""; 0]);
        for (actual, difference) in [
            (
                Description {
                    source: None,
                    ..good.clone()
                },
                "source.name",
            ),
            (
                Description {
                    endpoint: Some("x".to_owned()),
                    ..good.clone()
                },
                "source.endpoint",
            ),
            (
                Description {
                    reasons: Vec::new(),
                    ..good.clone()
                },
                "`IDENTITY_ENDPOINT` is missing",
            ),
            (
                Description {
                    reasons: vec!["IDENTITY_ENDPOINT s3cr3t".to_owned()],
                    ..good.clone()
                },
                "`s3cr3t` must not be in",
            ),
        ] {
            let faults = description(&expected, &actual);
            assert!(
                faults.len() == 1 && faults[0].contains(difference),
                "{faults:?}: no {difference}"
            );
        }
    }
}
