//! What each cause of the closed list means here, and what to do about it.

use super::line::{Check, Line, documentation};
use managed_identity_host::{Cause, TokenError};

/// What a failure means, what to do, and where the documentation writes of it.
struct Explanation {
    meaning: &'static str,
    advice: &'static str,
    documentation: String,
}

/// The check that a failed request for a token belongs to.
pub(super) fn check_of(cause: Cause) -> Check {
    match cause {
        Cause::InvalidRequest
        | Cause::NotConfigured
        | Cause::Denied
        | Cause::AudienceNotFound
        | Cause::CredentialUnreadable
        | Cause::CredentialRejected
        | Cause::TokenRejected => Check::Token,
        Cause::Unsupported | Cause::IdentityNotFound | Cause::IdentityAmbiguous | Cause::IdentityMismatch => {
            Check::Identity
        }
        Cause::EndpointUnreachable
        | Cause::EndpointIntercepted
        | Cause::Throttled
        | Cause::PlatformUpdating
        | Cause::PlatformFailure
        | Cause::MalformedReply
        | Cause::DeadlineExceeded => Check::Answer,
        Cause::Internal => Check::Provider,
    }
}

/// The line of a failure.
pub(super) fn line(check: Check, error: &TokenError) -> Line {
    let Explanation {
        meaning,
        advice,
        documentation,
    } = explain(error.cause, error.source.as_deref());
    let mut found = error.message.clone();
    if let Some(milliseconds) = error.retry_after_ms {
        found.push_str(&format!(" It asks to be left alone for {milliseconds} ms."));
    }
    if let Some(id) = &error.correlation_id {
        found.push_str(&format!(" Correlation id: {id}."));
    }
    Line::fail(check, found, meaning, advice)
        .see(documentation)
        .of(error.cause)
}

fn explain(cause: Cause, source: Option<&str>) -> Explanation {
    let of_source = documentation::of_source(source);
    let section = |title: &str, section: &str| format!("{title}: {section}");
    let (meaning, advice, documentation) = match cause {
        Cause::InvalidRequest => (
            "The request itself is wrong: its resource, or the identifier of its identity.",
            "Give --resource as the resource's documentation spells it, such as https://vault.azure.net, and the identifier \
             as the identity's overview page shows it.",
            section(of_source, "error handling"),
        ),
        Cause::Unsupported => (
            "This source has no way to select the identity that is asked for, so nothing was sent.",
            "Name the identity in a way that the source knows, or leave it out: unset AZURE_CLIENT_ID where the platform \
             alone decides.",
            of_source.to_owned(),
        ),
        Cause::NotConfigured => (
            "The environment announces a source that cannot be used as it is. No other source is tried in its place, because \
             that would act as another identity.",
            "Correct or unset the variable that is named; `managed-identity source` shows which ones decide.",
            of_source.to_owned(),
        ),
        Cause::Denied => (
            "The host does not let the provider send anything there. The environment may name endpoints on this machine, \
             its link or a private network, and Azure's own authorities.",
            "Correct the variable that names the endpoint: a wrong one would get the secret. If it is the right one, permit it \
             with --allow-endpoint URL.",
            of_source.to_owned(),
        ),
        Cause::IdentityNotFound => (
            "This workload does not have the identity that is asked for, or none at all.",
            "Assign the identity (`az vm identity assign`, `az webapp identity assign` and the like), or correct its \
             identifier. A new assignment takes some minutes to arrive.",
            section(documentation::FAQ, "assigning identities to resources"),
        ),
        Cause::IdentityAmbiguous => (
            "Several user-assigned identities are assigned, none is the machine's own, and the request names none of them.",
            "Name one: set AZURE_CLIENT_ID, or ask with --client-id, --object-id or --resource-id.",
            section(documentation::FAQ, "which identity IMDS defaults to"),
        ),
        Cause::IdentityMismatch => (
            "The platform answered for another identity than was asked for. Its token was not handed out.",
            "Compare the identifier with the identities that are assigned. Agents of Azure Arc before version 1.67 know no \
             user-assigned ones: update the agent.",
            of_source.to_owned(),
        ),
        Cause::AudienceNotFound => (
            "The identity's tenant knows no such resource (AADSTS500011), so there can be no token for it.",
            "Check the spelling of --resource, its last slash included, that it belongs to this cloud, and that its \
             application is registered in the tenant.",
            section(documentation::CODES, "AADSTS500011"),
        ),
        Cause::EndpointUnreachable => (
            "There is nothing here that gives tokens, or no way to it.",
            "Check that this is the platform that the environment speaks of, that an identity is enabled on it, and that no \
             firewall, network policy or container network is in the way.",
            of_source.to_owned(),
        ),
        Cause::EndpointIntercepted => (
            "Something answers in the place of the identity endpoint: a proxy, a login page or a network policy.",
            "Let requests to this address pass by the proxy, also by a transparent one, and look for network policies that \
             answer by themselves.",
            section(documentation::METADATA_SERVICE, "proxies"),
        ),
        Cause::CredentialUnreadable => (
            "The platform leaves a credential in a file, and without its contents it gives no token.",
            "Check that the file is mounted or written, and that this user may read it: on Azure Arc as a member of the group \
             himds, in a pod by the volume of the service account's token.",
            of_source.to_owned(),
        ),
        Cause::CredentialRejected => (
            "The platform does not take the credential that was sent: a secret of the environment, a key, or the token of a \
             service account.",
            "Restart the workload, so that it gets the secret that holds now. For a service account, compare issuer, subject \
             and audience with the identity's federated credential, and look at the token's age above.",
            match source {
                Some("workload-identity") => section(documentation::CODES, "AADSTS700213, AADSTS700024"),
                _ => of_source.to_owned(),
            },
        ),
        Cause::Throttled => (
            "The platform is asked too often, by all programs of this machine together.",
            "Wait as long as it says. Keep tokens until they are due, and let the programs of a machine share one broker: \
             `managed-identity serve`.",
            section(documentation::METADATA_SERVICE, "rate limiting"),
        ),
        Cause::PlatformUpdating => (
            "The metadata service is being updated (HTTP 410), which takes 70 seconds at most.",
            "Try again in a minute, or with --timeout 90s, which waits for it.",
            section(of_source, "retry guidance"),
        ),
        Cause::PlatformFailure => (
            "The platform is there, and fails.",
            "Try again in some minutes. If it lasts, look at the service's health and open a support request with the \
             correlation id.",
            section(of_source, "error handling"),
        ),
        Cause::MalformedReply => (
            "What answers does not speak the protocol of this source.",
            "Look at what listens at this address: another program on the port, an emulator, or a proxy that cuts replies \
             short.",
            of_source.to_owned(),
        ),
        Cause::TokenRejected => (
            "The token has expired before it came, which is so when this machine's clock is ahead.",
            "Set the clock of this machine (`timedatectl status` says whether it is kept right), and look at the line of the \
             clock above.",
            section(documentation::CLAIMS, "exp"),
        ),
        Cause::DeadlineExceeded => (
            "The endpoint takes connections and does not answer in time.",
            "Try again with --timeout 90s. If it stays silent, restart the service that answers there, and look for \
             something that swallows packets on the way.",
            section(of_source, "retry guidance"),
        ),
        Cause::Internal => (
            "The provider or the host failed, and not the platform.",
            "Try the other provider with --wasi 0.2, or the built-in one where --provider names another; and report it.",
            "managed-identity, README: How it fits together".to_owned(),
        ),
    };
    Explanation {
        meaning,
        advice,
        documentation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_cause_has_an_explanation_of_its_own() {
        for source in [None, Some("imds"), Some("workload-identity")] {
            let explained: BTreeSet<_> = Cause::ALL
                .map(|cause| {
                    let explanation = explain(cause, source);
                    assert!(!explanation.documentation.is_empty());
                    (explanation.meaning, explanation.advice)
                })
                .into();
            assert_eq!(explained.len(), Cause::ALL.len());
        }
    }

    #[test]
    fn the_line_of_a_failure_says_all_that_the_platform_said() {
        let mut error = TokenError::new(Cause::Throttled, "Too often.\r\nSet-Cookie: \u{1b}[2J").with_source("imds");
        error.retry_after_ms = Some(1500);
        error.correlation_id = Some("c0ffee".to_owned());
        let line = line(check_of(error.cause), &error);
        assert_eq!((line.check, line.cause), (Check::Answer, Some(Cause::Throttled)));
        assert_eq!(
            line.found,
            "Too often.  Set-Cookie: \\u{1b}[2J It asks to be left alone for 1500 ms. Correlation id: c0ffee."
        );
        assert!(line.advice.is_some_and(|advice| advice.contains("serve")));
    }
}
