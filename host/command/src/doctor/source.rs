//! Which source the environment selects, and why.

use super::cause;
use super::line::{Check, Line, documentation};
use managed_identity_host::{Identity, SourceDescription};

/// The line of the source, and whether it can be asked.
pub(super) fn check(description: &SourceDescription, identity: &Identity) -> (Line, bool) {
    let Some(source) = &description.source else {
        return match &description.last_failure {
            Some(error) => (cause::line(Check::Source, error), false),
            None => {
                let line = Line::warn(
                    Check::Source,
                    "The provider does not say where its tokens come from.",
                    "It is none of those that are built in, and may have its tokens from anywhere.",
                    "Leave --provider out to have the built-in one looked at.",
                );
                (line, true)
            }
        };
    };
    let of_source = documentation::of_source(Some(source));
    match &description.last_failure {
        None => {
            let endpoint = description.endpoint.as_deref().unwrap_or("no endpoint");
            let decisive = description.reasons.iter().filter(|reason| !is_negative(reason));
            let decisive: Vec<&str> = decisive.map(String::as_str).collect();
            let found = format!("{source} at {endpoint}. {}", decisive.join(" "));
            let line = Line::pass(Check::Source, found, "The variables that are set announce it.");
            (line.see(of_source), true)
        }
        // Nothing has been asked yet, so this is about the identity that the environment names, or about the endpoint.
        Some(error) if *identity == Identity::PlatformDefault => (cause::line(Check::Source, error), false),
        Some(error) => {
            let line = Line::warn(
                Check::Source,
                format!("{source}; but: {}", error.message),
                "Requests that name no identity fail. This one names one.",
                "Set AZURE_CLIENT_ID to the client id of the identity that is meant, for programs that name none.",
            );
            (line.see(of_source).of(error.cause), true)
        }
    }
}

/// Whether a reason says why a source was passed over.
fn is_negative(reason: &str) -> bool {
    [": no, ", " is not set.", " is not installed here."]
        .iter()
        .any(|words| reason.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_passed_over_does_not_stand_in_the_way_of_what_decided() {
        for (reason, expected) in [
            (
                "App Service: no, it would need both IDENTITY_ENDPOINT and IDENTITY_HEADER.",
                true,
            ),
            ("Azure Arc: its agent is not installed here.", true),
            ("IDENTITY_ENDPOINT is not set.", true),
            ("MSI_ENDPOINT without MSI_SECRET announces Cloud Shell.", false),
            (
                "No variable announces another source, so the instance metadata service at its well-known address is used.",
                false,
            ),
        ] {
            assert_eq!(is_negative(reason), expected, "{reason}");
        }
    }
}
