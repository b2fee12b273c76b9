//! `managed-identity token --requests`: one instance that answers a program's requests, line by line.

use crate::{report, token};
use managed_identity_host::{Broker, Cause, Identity, Secret, TokenError, TokenRequest};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{self, BufRead as _, Read as _};
use std::process::ExitCode;
use std::time::Duration;

/// Longer than any request can be: a rejected token and a claims challenge, with room for escapes.
const LONGEST_LINE: u64 = 1024 * 1024;

/// Answers requests until standard input ends.
pub(crate) async fn run(broker: &Broker) -> anyhow::Result<ExitCode> {
    let mut input = io::stdin().lock();
    loop {
        let mut line = Vec::new();
        // Nothing else runs on this thread that a blocking read could hold up: the broker has its own.
        if (&mut input).take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        if line.len() as u64 == LONGEST_LINE {
            // Where the next line begins cannot be told without reading this one to its end, which may never come.
            report::line(failure(&refused(&"a line is longer than 1 MiB")))?;
            return Ok(ExitCode::FAILURE);
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let line = Secret::new(String::from_utf8_lossy(&line).into_owned());
        let result = match parse(line.expose()) {
            Ok(request) => broker.token(&request).await,
            Err(error) => Err(error),
        };
        report::line(match &result {
            Ok(token) => token::json(token),
            Err(error) => failure(error),
        })?;
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    audience: String,
    #[serde(default)]
    identity: RequestedIdentity,
    claims: Option<String>,
    rejected_token: Option<String>,
    timeout_ms: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum RequestedIdentity {
    #[default]
    PlatformDefault,
    SystemAssigned,
    ClientId {
        id: String,
    },
    ObjectId {
        id: String,
    },
    ResourceId {
        id: String,
    },
}

fn parse(line: &str) -> Result<TokenRequest, TokenError> {
    // The parser's own message may repeat a value; where it stopped says enough.
    let request: Request = serde_json::from_str(line).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => refused(&format_args!(
            "the object at column {} is not like {{\"audience\": …, \"identity\": {{\"kind\": \"client-id\", \"id\": …}}, \
             \"claims\": …, \"rejected_token\": …, \"timeout_ms\": …}}",
            error.column()
        )),
        _ => refused(&format_args!("it is no JSON at column {}", error.column())),
    })?;
    let mut parsed = TokenRequest::new(request.audience).with_identity(match request.identity {
        RequestedIdentity::PlatformDefault => Identity::PlatformDefault,
        RequestedIdentity::SystemAssigned => Identity::SystemAssigned,
        RequestedIdentity::ClientId { id } => Identity::ClientId(id),
        RequestedIdentity::ObjectId { id } => Identity::ObjectId(id),
        RequestedIdentity::ResourceId { id } => Identity::ResourceId(id),
    });
    parsed.claims = request.claims;
    parsed.rejected_token = request.rejected_token.map(Secret::new);
    parsed.timeout = request
        .timeout_ms
        .map(|milliseconds| Duration::from_millis(milliseconds.into()));
    Ok(parsed)
}

fn refused(why: &dyn std::fmt::Display) -> TokenError {
    TokenError::new(Cause::InvalidRequest, format!("The request cannot be read: {why}."))
}

fn failure(error: &TokenError) -> Value {
    json!({ "error": report::token_error(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_an_audience_and_may_have_more() {
        let request = parse(
            r#"{"audience":"a","identity":{"kind":"client-id","id":"i"},"claims":"c","rejected_token":"t","timeout_ms":1500}"#,
        )
        .expect("a good request");
        assert_eq!(
            (request.audience.as_str(), request.identity),
            ("a", Identity::ClientId("i".to_owned()))
        );
        assert_eq!(
            (request.claims.as_deref(), request.timeout),
            (Some("c"), Some(Duration::from_millis(1500)))
        );
        assert!(request.rejected_token.is_some_and(|token| token.matches("t")));
        let request = parse(r#"{"audience":"a"}"#).expect("a good request");
        assert_eq!((request.identity, request.timeout), (Identity::PlatformDefault, None));
    }

    #[test]
    fn a_malformed_line_is_refused_and_not_repeated() {
        for line in [
            "s3cr3t",
            r#"["s3cr3t"]"#,
            r#"{"audience":1,"claims":"s3cr3t"}"#,
            r#"{"rejected_token":"s3cr3t"}"#,
            r#"{"audience":"a","s3cr3t":1}"#,
            r#"{"audience":"a","identity":"s3cr3t"}"#,
            r#"{"audience":"a","identity":{"kind":"s3cr3t"}}"#,
            r#"{"audience":"a","identity":{"kind":"client-id"},"claims":"s3cr3t"}"#,
            r#"{"audience":"a","timeout_ms":"s3cr3t"}"#,
            r#"{"audience":"a","timeout_ms":-1,"claims":"s3cr3t"}"#,
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.cause, Cause::InvalidRequest, "{line}");
            assert!(!error.message.contains("s3cr3t"), "{error}");
        }
    }
}
