//! How results and failures are printed.

use anyhow::Error;
use managed_identity_host::{Cause, TokenError};
use serde_json::{Value, json};
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// Prints a line of results.
pub(crate) fn line(text: impl std::fmt::Display) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{text}")?;
    output.flush()?;
    Ok(())
}

/// Prints a failure to standard error: sentences, or one JSON object.
pub(crate) fn failure(json: bool, error: &Error) -> ExitCode {
    if is_broken_pipe(error) {
        // Whoever read the output has seen enough.
        return ExitCode::SUCCESS;
    }
    let text = if json {
        json_failure(error).to_string()
    } else {
        text_failure(error)
    };
    // There is nowhere left to report that standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
    ExitCode::FAILURE
}

/// Says on standard error what is not as it should be, and does not change how the command ends.
pub(crate) fn warning(error: &Error) {
    // There is nowhere left to report that standard error is closed.
    let _ = writeln!(io::stderr().lock(), "warning: {error:#}");
}

fn is_broken_pipe(error: &Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn json_failure(error: &Error) -> Value {
    json!({ "error": match error.downcast_ref::<TokenError>() {
        Some(error) => token_error(error),
        None => token_error(&TokenError::new(Cause::Internal, format!("{error:#}"))),
    }})
}

/// A failure with all its fields; those that are unknown are null.
pub(crate) fn token_error(error: &TokenError) -> Value {
    json!({
        "cause": error.cause.name(),
        "message": error.message,
        "source": error.source,
        "http_status": error.http_status,
        "retry_after_ms": error.retry_after_ms,
        "correlation_id": error.correlation_id,
    })
}

fn text_failure(error: &Error) -> String {
    let Some(error) = error.downcast_ref::<TokenError>() else {
        return format!("error: {error:#}");
    };
    let mut text = format!("error: {}\n  cause: {}", error.message, error.cause);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("\n  {name}: {value}"));
        }
    };
    add("source", error.source.clone());
    add("HTTP status", error.http_status.map(|status| status.to_string()));
    add(
        "retry after",
        error.retry_after_ms.map(|milliseconds| format!("{milliseconds} ms")),
    );
    add("correlation id", error.correlation_id.clone());
    if error.cause == Cause::Denied {
        add(
            "to allow it",
            Some("--allow-endpoint URL, if the endpoint is the right one".to_owned()),
        );
    }
    text
}

/// A moment for a person: in UTC, and how far away it is.
pub(crate) fn moment(seconds: u64, now: SystemTime) -> String {
    let Some(moment) = SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .filter(|_| seconds <= LATEST)
    else {
        return format!("{seconds} (beyond the year 9999)");
    };
    let relative = match moment.duration_since(now) {
        Ok(ahead) => format!("in {}", whole_seconds(ahead)),
        Err(passed) => format!("{} ago", whole_seconds(passed.duration())),
    };
    format!("{} ({seconds}), {relative}", humantime::format_rfc3339_seconds(moment))
}

/// 9999-12-31T23:59:59Z, the last moment that RFC 3339 can write.
const LATEST: u64 = 253_402_300_799;

fn whole_seconds(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_shown_in_both_forms_with_its_distance() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(moment(1_700_003_600, now), "2023-11-14T23:13:20Z (1700003600), in 1h");
        assert_eq!(moment(1_699_999_940, now), "2023-11-14T22:12:20Z (1699999940), 1m ago");
        assert_eq!(moment(u64::MAX, now), "18446744073709551615 (beyond the year 9999)");
    }

    #[test]
    fn every_failure_has_all_fields_in_json() {
        let error = TokenError::new(Cause::Throttled, "Too often.")
            .with_source("imds")
            .with_status(429);
        assert_eq!(
            json_failure(&error.into()).to_string(),
            r#"{"error":{"cause":"throttled","message":"Too often.","source":"imds","http_status":429,"retry_after_ms":null,"correlation_id":null}}"#
        );
        let other = json_failure(&anyhow::anyhow!("inner").context("outer"));
        assert_eq!(
            (&other["error"]["cause"], &other["error"]["message"]),
            (&json!("internal"), &json!("outer: inner"))
        );
    }
}
