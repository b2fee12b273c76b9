//! One request for a token, and all that can be read from how it went: the answer, the clocks, the identity, the token.

use super::cause;
use super::line::{Check, Line, documentation};
use super::network::time_of;
use super::variables::Variables;
use crate::report;
use managed_identity_host::outbound::SeenReply;
use managed_identity_host::{AccessToken, Broker, Cause, Identity, TokenError, TokenRequest};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The checks that a request for a token answers, in their order.
pub(super) const CHECKS: [Check; 5] = [
    Check::Answer,
    Check::Clock,
    Check::Identity,
    Check::Token,
    Check::Claims,
];

/// How many seconds two clocks may differ without anybody taking note.
const SMALL_SKEW: u64 = 60;

/// How many seconds Entra and most of those that verify its tokens put up with.
const LARGEST_SKEW: u64 = 5 * 60;

/// A request that has ended.
pub(super) struct Outcome {
    result: Result<Arc<AccessToken>, TokenError>,
    reply: Option<SeenReply>,
    took: Duration,
}

/// Asks for one token.
pub(super) async fn ask(broker: &Broker, resource: &str, identity: &Identity, time: Duration) -> Outcome {
    let request = TokenRequest::new(resource)
        .with_identity(identity.clone())
        .with_timeout(time);
    let started = Instant::now();
    let result = broker.token(&request).await;
    Outcome {
        result,
        reply: broker.last_reply(),
        took: started.elapsed(),
    }
}

/// What the outcome says to each of [`CHECKS`], but for the failure of the provider itself.
pub(super) fn lines(outcome: &Outcome, resource: &str, source: &str, asked: &Asked) -> Vec<Line> {
    let failure = outcome.result.as_ref().err();
    let failed = failure.map(|error| cause::check_of(error.cause));
    let mut lines = vec![
        match failure {
            Some(error) if failed == Some(Check::Answer) => cause::line(Check::Answer, error),
            _ => answer(outcome.reply.as_ref(), source),
        },
        clock(outcome.reply.as_ref()),
    ];
    match (&outcome.result, failed) {
        (Ok(token), _) => {
            lines.push(super::identity::check(token, asked, source));
            lines.push(issued(token, resource, outcome.took));
            lines.extend(super::claims::check(token, resource, SystemTime::now()));
        }
        (Err(error), failed) => {
            let none = "No token came.";
            lines.push(match failed {
                Some(Check::Identity) => cause::line(Check::Identity, error),
                _ => Line::skipped(Check::Identity, none),
            });
            lines.push(match failed {
                Some(Check::Token) => cause::line(Check::Token, error),
                _ => Line::skipped(Check::Token, none),
            });
            lines.push(Line::skipped(Check::Claims, none));
        }
    }
    lines
}

impl Outcome {
    /// The failure of the provider itself, if it was that.
    pub(super) fn provider_failure(&self) -> Option<&TokenError> {
        let error = self.result.as_ref().err();
        error.filter(|error| cause::check_of(error.cause) == Check::Provider)
    }
}

/// Whose token is asked for.
pub(super) struct Asked {
    pub(super) identity: Identity,
    /// Who named it; nothing where nobody did.
    pub(super) by: Option<&'static str>,
}

impl Asked {
    /// As the provider reads it: the request's identity, or that of the platform's configuration.
    pub(super) fn new(identity: &Identity, source: &str, variables: &Variables) -> Self {
        let named = |variable: &'static str| {
            let id = variables.get(variable)?;
            Some(Self {
                identity: Identity::ClientId(id.to_owned()),
                by: Some(variable),
            })
        };
        let of_machine_learning = || named("DEFAULT_IDENTITY_CLIENT_ID").filter(|_| source == "azure-ml");
        let unnamed = || Self {
            identity: Identity::SystemAssigned,
            by: None,
        };
        match identity {
            Identity::PlatformDefault => named("AZURE_CLIENT_ID")
                .or_else(of_machine_learning)
                .unwrap_or_else(unnamed),
            named => Self {
                identity: named.clone(),
                by: Some("the command line"),
            },
        }
    }
}

fn answer(reply: Option<&SeenReply>, source: &str) -> Line {
    let Some(reply) = reply else {
        return Line::skipped(Check::Answer, "Nothing was sent, or nothing came back.");
    };
    let found = format!("It answers HTTP {} ({}).", reply.status, time_of(reply.took));
    Line::pass(Check::Answer, found, "What answers speaks the protocol of this source.")
        .see(documentation::of_source(Some(source)))
}

/// Compares this machine's clock with the one of the reply's `Date`, which has whole seconds.
fn clock(reply: Option<&SeenReply>) -> Line {
    let Some(reply) = reply else {
        return Line::skipped(
            Check::Clock,
            "There is no reply whose date could be compared with this machine's clock.",
        );
    };
    let Some(date) = reply.date else {
        let reason = "The reply has no date (`Date`) that could be compared with this machine's clock.";
        return Line::skipped(Check::Clock, reason);
    };
    let skew = reply.received.abs_diff(date);
    let direction = if reply.received > date { "ahead of" } else { "behind" };
    let found = match skew {
        0 => "This machine's clock is that of the endpoint.".to_owned(),
        seconds => format!("This machine's clock is {seconds} s {direction} the endpoint's."),
    };
    let advice = "Set the clock of the one that is wrong: `timedatectl status` says whether this one is kept right.";
    if skew <= SMALL_SKEW {
        Line::pass(Check::Clock, found, "Both know when a token begins and ends.")
    } else if skew <= LARGEST_SKEW {
        Line::warn(
            Check::Clock,
            found,
            "Tokens still work: those that verify them put up with five minutes. Renewals come too early or too late.",
            advice,
        )
    } else {
        Line::fail(
            Check::Clock,
            found,
            "A clock that is ahead takes good tokens for expired; one that is behind goes on with expired ones, and its \
             signed assertions are refused. Five minutes are what is put up with.",
            advice,
        )
    }
}

fn issued(token: &AccessToken, resource: &str, took: Duration) -> Line {
    let until = report::moment(token.expires_on, SystemTime::now());
    let found = format!(
        "A token of type {} for {resource} came from {} ({}), valid until {until}.",
        token.token_type,
        token.source,
        time_of(took)
    );
    if !token.token_type.eq_ignore_ascii_case("bearer") {
        return Line::warn(
            Check::Token,
            found,
            "Resources of Azure take tokens of type Bearer.",
            "Look at what answers in the place of the endpoint.",
        );
    }
    Line::pass(
        Check::Token,
        found,
        "What the identity may do there, its role assignments decide.",
    )
}

/// The line for a token that was not asked for.
pub(super) fn not_asked(reason: &str) -> Vec<Line> {
    CHECKS.map(|check| Line::skipped(check, reason)).into()
}

/// How a failure to ask is told where there is no line for it: the wait was over before the provider's.
pub(super) fn late(time: Duration) -> Outcome {
    let message = format!("No answer came within {time:?}.");
    Outcome {
        result: Err(TokenError::new(Cause::DeadlineExceeded, message)),
        reply: None,
        took: time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::line::Status;

    #[test]
    fn each_cause_fails_the_line_that_it_belongs_to_and_no_other() {
        for cause in Cause::ALL {
            let outcome = Outcome {
                result: Err(TokenError::new(cause, "It failed.")),
                reply: None,
                took: Duration::ZERO,
            };
            let asked = Asked {
                identity: Identity::SystemAssigned,
                by: None,
            };
            let lines = lines(&outcome, "r", "imds", &asked);
            assert_eq!(
                lines.iter().map(|line| line.check).collect::<Vec<_>>(),
                CHECKS,
                "{cause}"
            );
            let failed: Vec<_> = lines.iter().filter(|line| line.status == Status::Fail).collect();
            match (outcome.provider_failure(), &failed[..]) {
                (Some(_), []) => assert_eq!(cause, Cause::Internal),
                (None, [line]) => {
                    assert_eq!((line.check, line.cause), (cause::check_of(cause), Some(cause)));
                    assert!(line.advice.is_some());
                }
                other => panic!("{cause}: {other:?}"),
            }
        }
    }
}
