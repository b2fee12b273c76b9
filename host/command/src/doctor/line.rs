//! What is found: one line for each check, and more than one where a check finds more.

use crate::inspect::visible;
use managed_identity_host::Cause;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::process::ExitCode;

/// How the command ends when nothing failed and something is not as it should be.
const WARNING: u8 = 3;

/// How a check ended; the later, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    /// Nothing was looked at, for a reason that the line gives.
    Skipped,
    Pass,
    Warn,
    Fail,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Skipped => "skipped",
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }

    pub(super) fn exit_code(self) -> ExitCode {
        match self {
            Self::Skipped | Self::Pass => ExitCode::SUCCESS,
            Self::Warn => ExitCode::from(WARNING),
            Self::Fail => ExitCode::FAILURE,
        }
    }
}

/// What is looked at, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Check {
    Source,
    Variables,
    Credential,
    Proxies,
    Route,
    Connection,
    Answer,
    Clock,
    Identity,
    Token,
    Claims,
    Policy,
    Provider,
}

impl Check {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Variables => "variables",
            Self::Credential => "credential",
            Self::Proxies => "proxies",
            Self::Route => "route",
            Self::Connection => "connection",
            Self::Answer => "answer",
            Self::Clock => "clock",
            Self::Identity => "identity",
            Self::Token => "token",
            Self::Claims => "claims",
            Self::Policy => "policy",
            Self::Provider => "provider",
        }
    }

    /// Where Microsoft's documentation, or ours where it is ours alone, writes of what is looked at.
    fn documentation(self) -> &'static str {
        match self {
            Self::Source | Self::Answer | Self::Token => documentation::TOKEN,
            Self::Variables => documentation::DEFAULT_CREDENTIAL,
            Self::Credential => documentation::WORKLOAD_IDENTITY,
            Self::Proxies | Self::Route | Self::Connection => documentation::METADATA_SERVICE,
            Self::Clock | Self::Claims => documentation::CLAIMS,
            Self::Identity => documentation::FAQ,
            Self::Policy => "managed-identity, README: Plugins",
            Self::Provider => "managed-identity, README: How it fits together",
        }
    }
}

/// Titles of Microsoft's documentation.
pub(super) mod documentation {
    pub(in crate::doctor) const TOKEN: &str =
        "How to use managed identities for Azure resources on an Azure VM to acquire an access token";
    pub(in crate::doctor) const METADATA_SERVICE: &str = "Azure Instance Metadata Service";
    pub(in crate::doctor) const FAQ: &str = "Managed identities for Azure resources frequently asked questions";
    pub(in crate::doctor) const APP_SERVICE: &str = "How to use managed identities for App Service and Azure Functions";
    pub(in crate::doctor) const ARC: &str = "Authenticate against Azure resources with Azure Arc-enabled servers";
    pub(in crate::doctor) const SERVICE_FABRIC: &str =
        "How to leverage a Service Fabric application's managed identity to access Azure services";
    pub(in crate::doctor) const CLOUD_SHELL: &str = "Acquire a token for user authentication in Cloud Shell";
    pub(in crate::doctor) const MACHINE_LEARNING: &str = "Set up authentication (Azure Machine Learning)";
    pub(in crate::doctor) const WORKLOAD_IDENTITY: &str = "Use Microsoft Entra Workload ID with AKS";
    pub(in crate::doctor) const DEFAULT_CREDENTIAL: &str =
        "Azure Identity client library: DefaultAzureCredential, ManagedIdentityCredential";
    pub(in crate::doctor) const CLAIMS: &str = "Access token claims reference (Microsoft identity platform)";
    pub(in crate::doctor) const CODES: &str = "Microsoft Entra authentication and authorization error codes";

    /// Where the protocol of a source is described.
    pub(in crate::doctor) fn of_source(source: Option<&str>) -> &'static str {
        match source {
            Some("app-service" | "app-service-2017") => APP_SERVICE,
            Some("azure-arc") => ARC,
            Some("service-fabric") => SERVICE_FABRIC,
            Some("cloud-shell") => CLOUD_SHELL,
            Some("azure-ml") => MACHINE_LEARNING,
            Some("workload-identity") => WORKLOAD_IDENTITY,
            _ => TOKEN,
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) check: Check,
    pub(super) status: Status,
    /// What was seen. Never a secret; what others wrote cannot steer a terminal.
    pub(super) found: String,
    /// What that means.
    pub(super) meaning: Cow<'static, str>,
    /// What to do, where there is something to do.
    pub(super) advice: Option<Cow<'static, str>>,
    /// Where the documentation writes of it.
    pub(super) documentation: Cow<'static, str>,
    /// The cause of the closed list, where it is one.
    pub(super) cause: Option<Cause>,
}

impl Line {
    fn new(check: Check, status: Status, found: &str, meaning: impl Into<Cow<'static, str>>) -> Self {
        Self {
            check,
            status,
            found: shown(found),
            meaning: meaning.into(),
            advice: None,
            documentation: check.documentation().into(),
            cause: None,
        }
    }

    /// As it should be.
    pub(super) fn pass(check: Check, found: impl AsRef<str>, meaning: impl Into<Cow<'static, str>>) -> Self {
        Self::new(check, Status::Pass, found.as_ref(), meaning)
    }

    /// What works, and may not be what was meant.
    pub(super) fn warn(
        check: Check,
        found: impl AsRef<str>,
        meaning: impl Into<Cow<'static, str>>,
        advice: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(check, Status::Warn, found.as_ref(), meaning).with_advice(advice)
    }

    /// What does not work.
    pub(super) fn fail(
        check: Check,
        found: impl AsRef<str>,
        meaning: impl Into<Cow<'static, str>>,
        advice: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(check, Status::Fail, found.as_ref(), meaning).with_advice(advice)
    }

    /// What was not looked at, and why.
    pub(super) fn skipped(check: Check, reason: impl AsRef<str>) -> Self {
        let meaning = "Nothing is known about it.";
        Self::new(check, Status::Skipped, reason.as_ref(), meaning)
    }

    fn with_advice(mut self, advice: impl Into<Cow<'static, str>>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// The same line with another place in the documentation.
    pub(super) fn see(mut self, documentation: impl Into<Cow<'static, str>>) -> Self {
        self.documentation = documentation.into();
        self
    }

    /// The same line, for this cause.
    pub(super) fn of(mut self, cause: Cause) -> Self {
        self.cause = Some(cause);
        self
    }

    /// All of it.
    pub(super) fn json(&self) -> Value {
        json!({
            "check": self.check.name(),
            "status": self.status.name(),
            "found": self.found,
            "meaning": self.meaning,
            "advice": self.advice,
            "documentation": self.documentation,
            "cause": self.cause.map(Cause::name),
        })
    }
}

/// The worst of some lines; those of a healthy machine pass.
pub(super) fn worst(lines: &[Line]) -> Status {
    let worst = lines.iter().map(|line| line.status).max();
    worst.unwrap_or(Status::Pass).max(Status::Pass)
}

/// What others may have written, on one line and without what steers a terminal.
pub(super) fn shown(text: &str) -> String {
    visible(&text.replace(['\r', '\n', '\t'], " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_line_decides_and_what_was_skipped_does_not() {
        let line = |status| Line {
            status,
            ..Line::skipped(Check::Token, "x")
        };
        for (statuses, expected) in [
            (&[][..], Status::Pass),
            (&[Status::Skipped], Status::Pass),
            (&[Status::Pass, Status::Skipped], Status::Pass),
            (&[Status::Pass, Status::Warn, Status::Skipped], Status::Warn),
            (&[Status::Fail, Status::Warn, Status::Pass], Status::Fail),
        ] {
            let lines: Vec<Line> = statuses.iter().copied().map(line).collect();
            assert_eq!(worst(&lines), expected, "{statuses:?}");
        }
    }

    #[test]
    fn what_is_found_is_one_line_that_steers_no_terminal() {
        let line = Line::pass(Check::Claims, "role \u{1b}[2J\r\nGET / \u{202e}", "");
        assert_eq!(line.found, "role \\u{1b}[2J  GET / \\u{202e}");
    }
}
