//! Every cause of the closed list, as an environment or a platform brings it about.

use super::{Environment, Folder, Report, owned};
use crate::support::closed::closed;
use crate::support::emulated::Emulated;
use crate::{SECRET, VAULT};
use managed_identity_emulator::http::StatusCode;
use managed_identity_emulator::http::header::{HeaderValue, RETRY_AFTER};
use managed_identity_emulator::{EmulatorConfig, Fault, Source};
use managed_identity_host::Cause;
use managed_identity_test_guests::HOSTILE_0_3;
use std::collections::BTreeSet;

/// An identity that the emulated machine does not have.
const UNKNOWN: &str = "c0000000-0000-4000-8000-0000000000c1";

/// One of those that it has.
const ASSIGNED: &str = "a0000000-0000-4000-8000-0000000000c1";

struct Case {
    cause: Cause,
    /// The check that fails, and the only one.
    check: &'static str,
    /// Part of what is to be done.
    advice: &'static str,
    environment: Environment,
    arguments: Vec<String>,
    /// What the platform does otherwise than documented.
    fault: Option<Fault>,
}

impl Case {
    fn new(cause: Cause, check: &'static str, advice: &'static str, environment: Environment) -> Self {
        let arguments = ["--resource", VAULT].map(str::to_owned).into();
        Self {
            cause,
            check,
            advice,
            environment,
            arguments,
            fault: None,
        }
    }

    fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|argument| argument.to_string()));
        self
    }

    fn asking(mut self, resource: &str) -> Self {
        resource.clone_into(&mut self.arguments[1]);
        self
    }

    fn when(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    fn play(&self) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let report = Report::new(&self.environment, &arguments);
        let name = self.cause.name();
        let failed: Vec<_> = report
            .wrong()
            .into_iter()
            .filter(|(_, status)| *status == "fail")
            .collect();
        assert_eq!(failed, [(self.check, "fail")], "{name}: {}", report.object);
        let line = report.line(self.check);
        assert_eq!((line["cause"].as_str(), report.code), (Some(name), 1), "{line}");
        assert!(
            line["advice"].as_str().unwrap().contains(self.advice),
            "{} in {line}",
            self.advice
        );
        report.must_not_show(&[SECRET]);
    }
}

fn reply(status: u16, body: &'static str) -> Fault {
    Fault::reply(StatusCode::from_u16(status).unwrap(), body)
}

/// Those for which the emulated platform has all that it needs.
fn cases(platform: &Emulated, folder: &Folder) -> Vec<Case> {
    let of = |source| -> Environment { platform.environment_for(source).into_iter().collect() };
    let (imds, app_service) = (of(Source::Imds), of(Source::AppService));
    let elsewhere = |url: &str| owned(&[("IDENTITY_ENDPOINT", url), ("IDENTITY_HEADER", SECRET)]);
    let mut other_secret = app_service.clone();
    other_secret.retain(|(name, _)| name != "IDENTITY_HEADER");
    other_secret.extend(owned(&[("IDENTITY_HEADER", SECRET)]));
    let mut no_file = of(Source::WorkloadIdentity);
    no_file.retain(|(name, _)| name != "AZURE_FEDERATED_TOKEN_FILE");
    let authority = folder.write("ca.pem", platform.certificate().unwrap().authority_pem());
    no_file.extend(owned(&[
        ("AZURE_FEDERATED_TOKEN_FILE", &folder.file("missing")),
        ("SSL_CERT_FILE", &authority),
    ]));
    let hostile = folder.write("hostile.wasm", HOSTILE_0_3);
    let throttled = reply(429, "").header(RETRY_AFTER, HeaderValue::from_static("120"));
    let for_another = r#"{"access_token":"t","expires_in":"3600","token_type":"Bearer","client_id":"b0000000-0000-4000-8000-0000000000c1"}"#;

    vec![
        Case::new(
            Cause::InvalidRequest,
            "token",
            "https://vault.azure.net",
            app_service.clone(),
        )
        .asking("a b"),
        Case::new(
            Cause::InvalidRequest,
            "token",
            "https://vault.azure.net",
            app_service.clone(),
        )
        .when(reply(
            400,
            r#"{"error":"invalid_request","error_description":"something"}"#,
        )),
        Case::new(Cause::Unsupported, "identity", "AZURE_CLIENT_ID", of(Source::AzureMl))
            .with(&["--object-id", ASSIGNED]),
        Case::new(
            Cause::NotConfigured,
            "source",
            "managed-identity source",
            owned(&[("IDENTITY_ENDPOINT", "http://127.0.0.1:1/")]),
        ),
        Case::new(
            Cause::Denied,
            "connection",
            "--allow-endpoint",
            elsewhere("http://203.0.113.7/msi/token"),
        ),
        Case::new(
            Cause::IdentityNotFound,
            "identity",
            "az vm identity assign",
            imds.clone(),
        )
        .with(&["--client-id", UNKNOWN]),
        Case::new(Cause::IdentityMismatch, "identity", "1.67", of(Source::AzureArc))
            .with(&["--client-id", ASSIGNED])
            .when(reply(200, for_another)),
        Case::new(Cause::AudienceNotFound, "token", "--resource", imds.clone()).asking("https://unknown.example"),
        Case::new(
            Cause::EndpointUnreachable,
            "connection",
            "firewall",
            elsewhere(&format!("http://{}/msi/token", closed())),
        ),
        Case::new(Cause::EndpointUnreachable, "answer", "firewall", app_service.clone()).when(reply(404, "")),
        Case::new(Cause::EndpointUnreachable, "answer", "container network", imds.clone())
            .when(reply(403, "connecting to 169.254.169.254:80: unreachable network")),
        Case::new(Cause::EndpointIntercepted, "answer", "proxy", app_service.clone())
            .when(reply(200, "<html><title>Log in</title></html>")),
        Case::new(Cause::CredentialUnreadable, "credential", "mounted", no_file),
        Case::new(Cause::CredentialRejected, "token", "Restart", other_secret),
        Case::new(
            Cause::Throttled,
            "answer",
            "managed-identity serve",
            app_service.clone(),
        )
        .when(throttled),
        Case::new(Cause::PlatformUpdating, "answer", "--timeout 90s", imds.clone())
            .with(&["--timeout", "2s"])
            .when(reply(410, "")),
        Case::new(Cause::PlatformFailure, "answer", "support request", imds.clone())
            .with(&["--timeout", "2s"])
            .when(reply(503, "")),
        Case::new(Cause::MalformedReply, "answer", "another program", app_service.clone()).when(reply(200, "{}")),
        Case::new(Cause::TokenRejected, "token", "timedatectl", app_service.clone()).when(reply(
            200,
            r#"{"access_token":"t","expires_on":"1","token_type":"Bearer"}"#,
        )),
        Case::new(Cause::DeadlineExceeded, "answer", "--timeout 90s", app_service.clone())
            .with(&["--timeout", "2s"])
            .when(Fault::hang()),
        Case::new(Cause::Internal, "provider", "--provider", app_service.clone())
            .asking("trap")
            .with(&["--provider", &hostile]),
        Case::new(Cause::Internal, "provider", "--provider", app_service).with(&["--provider", "/no/such/file.wasm"]),
    ]
}

#[test]
fn every_cause_fails_the_one_line_that_it_belongs_to() {
    let folder = Folder::new("causes");
    let platform = Emulated::start_with(folder.emulator());
    let mut played = BTreeSet::new();
    for case in cases(&platform, &folder) {
        platform.clear_faults();
        platform.configure(|_| {});
        if let Some(fault) = &case.fault {
            platform.add_fault(fault.clone());
        }
        case.play();
        played.insert(case.cause.name());
    }

    // These two need another machine: one with several identities and none of its own, and one whose agent challenges.
    platform.clear_faults();
    let mut identities = platform.identities().as_ref().clone();
    identities.system_assigned = None;
    platform.set_identities(identities).unwrap();
    let imds = platform.environment_for(Source::Imds).into_iter().collect();
    let ambiguous = Case::new(Cause::IdentityAmbiguous, "identity", "set AZURE_CLIENT_ID", imds);
    ambiguous.play();
    played.insert(ambiguous.cause.name());

    let challenging = Emulated::start_with(EmulatorConfig {
        arc_directory: Some(folder.0.clone()),
        ..EmulatorConfig::default()
    });
    // The keys are elsewhere than where clients look for them.
    let arc = challenging.environment_for(Source::AzureArc).into_iter().collect();
    Case::new(Cause::CredentialUnreadable, "token", "group himds", arc).play();

    let all: BTreeSet<_> = Cause::ALL.map(Cause::name).into();
    assert_eq!(played, all);
}

#[test]
fn what_depends_on_something_that_failed_is_skipped_with_the_reason() {
    let environment = owned(&[("IDENTITY_ENDPOINT", "http://127.0.0.1:1/")]);
    let nowhere = owned(&[
        ("IDENTITY_ENDPOINT", &format!("http://{}/msi/token", closed())),
        ("IDENTITY_HEADER", SECRET),
    ]);
    for (environment, arguments, skipped, reason) in [
        (&environment, &[][..], "connection", "the line of the source says why"),
        (&environment, &[], "claims", "the line of the source says why"),
        (&nowhere, &[], "token", "cannot be connected to"),
        (
            &nowhere,
            &["--provider", "/no/such/file.wasm"],
            "source",
            "the last line says why",
        ),
    ] {
        let report = Report::new(environment, arguments);
        let line = report.line(skipped);
        assert_eq!(line["status"], "skipped", "{line}");
        assert!(line["found"].as_str().unwrap().contains(reason), "{line}");
    }
}
