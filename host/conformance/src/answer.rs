//! What a client answers.

use crate::case::present;
use serde::Deserialize;
use serde_json::Value;

/// What a client answers to one request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A token.
    Token(TokenAnswer),
    /// A reason why there is none.
    Failure(FailureAnswer),
    /// Nothing that could be understood, and why.
    Broken(String),
}

/// A token as a client hands it out. What a client does not say at all is not checked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TokenAnswer {
    /// The token.
    pub access_token: String,
    /// From when on it is worthless.
    pub expires_on: Option<u64>,
    /// From when on the client looks for a successor.
    pub refresh_on: Option<u64>,
    /// The client id of the identity; `Some(None)` says that it is unknown.
    #[serde(deserialize_with = "present")]
    pub client_id: Option<Option<String>>,
    /// The name of the source.
    pub source: Option<String>,
    /// Whether the successor is overdue.
    pub stale: Option<bool>,
}

/// A failure as a client reports it. What a client does not say at all is not checked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct FailureAnswer {
    /// The cause, of a closed list.
    pub cause: Option<String>,
    /// Sentences for a person.
    pub message: String,
    /// The status of the reply that decided; `Some(None)` says that there was none.
    #[serde(deserialize_with = "present")]
    pub http_status: Option<Option<u16>>,
    /// Milliseconds until another try makes sense.
    #[serde(deserialize_with = "present")]
    pub retry_after_ms: Option<Option<u64>>,
    /// The platform's identifier of the failed request.
    #[serde(deserialize_with = "present")]
    pub correlation_id: Option<Option<String>>,
    /// Everything that is shown to whoever reads the failure, in which secrets are looked for.
    #[serde(skip)]
    pub shown: String,
}

/// What a client says of where its tokens come from.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// The name of the source, or nothing when none can be used.
    pub source: Option<String>,
    /// The address that is asked.
    pub endpoint: Option<String>,
    /// Why.
    pub reasons: Vec<String>,
}

impl Answer {
    /// Reads an answer as `managed-identity token --output json` prints it: an object with `access_token`, or one with
    /// `error`. Unknown fields are left alone.
    #[must_use]
    pub fn parse(line: &str) -> Self {
        let broken = |why: &str| Self::Broken(format!("The client answered {why}: {}", abbreviated(line)));
        let Ok(Value::Object(mut object)) = serde_json::from_str::<Value>(line) else {
            return broken("with a line that is no JSON object");
        };
        match (object.remove("error"), object.contains_key("access_token")) {
            (None, true) => match serde_json::from_value(Value::Object(object)) {
                Ok(token) => Self::Token(token),
                Err(error) => broken(&format!("with a token that cannot be read ({error})")),
            },
            (Some(error), false) => match serde_json::from_value::<FailureAnswer>(error) {
                Ok(failure) => Self::Failure(FailureAnswer {
                    shown: line.to_owned(),
                    ..failure
                }),
                Err(error) => broken(&format!("with an error that cannot be read ({error})")),
            },
            _ => broken("with an object that has not exactly one of `access_token` and `error`"),
        }
    }
}

/// The beginning of a text, for a message.
pub(crate) fn abbreviated(text: &str) -> String {
    const LONGEST: usize = 300;
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_token_or_an_error() {
        let Answer::Token(token) = Answer::parse(r#"{"access_token":"t","expires_on":7,"client_id":null,"more":1}"#)
        else {
            panic!("a token");
        };
        assert_eq!((token.access_token.as_str(), token.expires_on), ("t", Some(7)));
        assert_eq!((token.client_id, token.stale), (Some(None), None));
        let Answer::Failure(failure) = Answer::parse(r#"{"error":{"message":"m","http_status":null}}"#) else {
            panic!("a failure");
        };
        assert_eq!(
            (failure.cause, failure.http_status, failure.retry_after_ms),
            (None, Some(None), None)
        );
        assert!(failure.shown.contains("message"));
    }

    #[test]
    fn what_is_neither_is_broken() {
        for line in [
            "",
            "Traceback",
            "[]",
            "{}",
            r#"{"access_token":7}"#,
            r#"{"access_token":"t","expires_on":"soon"}"#,
            r#"{"access_token":"t","error":{}}"#,
            r#"{"error":"text"}"#,
        ] {
            assert!(matches!(Answer::parse(line), Answer::Broken(_)), "{line}");
        }
    }
}
