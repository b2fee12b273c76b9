//! Documents that a host would decide by.

use super::{Environment, Folder, Report};
use crate::VAULT;
use crate::support::emulated::Emulated;
use managed_identity_emulator::Source;

const GRANTS: &str = r#"
[[caller.report.token]]
audiences = ["https://vault.azure.net"]

[[caller.backup.authorize-only]]
hosts = ["*.vault.azure.net"]
audience = "https://vault.azure.net"
"#;

const CONFIG: &str = r#"
[listener.programs]
address = "127.0.0.1:4141"
protocols = ["app-service"]

[caller.payroll]
secrets = ["sha256:0d3f1ac54dbb02ea9e0eb7a2ac0a5ef0ad2b6d2b61aed0b7fd6ed2a4cf0d4b2c"]
default-identity = "client-id:a0000000-0000-4000-8000-0000000000c1"

[[caller.payroll.token]]
audiences = ["https://vault.azure.net"]
identities = ["client-id:a0000000-0000-4000-8000-0000000000c1"]
"#;

const STORAGE: &str = "https://storage.azure.com";

#[test]
fn what_a_document_grants_is_told_and_what_it_refuses_too() {
    let folder = Folder::new("policies");
    let platform = Emulated::start();
    let grants = folder.write("grants.toml", GRANTS);
    let config = folder.write("broker.toml", CONFIG);
    let broken = folder.write("broken.toml", "[caller.report]\nrat = 1\n");
    let missing = folder.file("missing.toml");
    let environment: Environment = platform.environment_for(Source::AppService).into_iter().collect();
    for (option, file, caller, resource, status, words) in [
        ("--grants", &grants, None, VAULT, "pass", "backup, report"),
        ("--grants", &grants, Some("report"), VAULT, "pass", "grants the token"),
        (
            "--grants",
            &grants,
            Some("report"),
            STORAGE,
            "fail",
            "[[caller.report.token]]",
        ),
        (
            "--grants",
            &grants,
            Some("backup"),
            VAULT,
            "pass",
            "not the token itself",
        ),
        (
            "--grants",
            &grants,
            Some("nobody"),
            VAULT,
            "fail",
            "grants nothing to \"nobody\"",
        ),
        ("--grants", &broken, Some("report"), VAULT, "fail", "line 2"),
        ("--grants", &missing, None, VAULT, "fail", "cannot be read"),
        ("--config", &config, None, VAULT, "pass", "payroll"),
        ("--config", &config, Some("payroll"), VAULT, "pass", "grants the token"),
        (
            "--config",
            &config,
            Some("payroll"),
            STORAGE,
            "fail",
            "[[caller.payroll.token]]",
        ),
        ("--config", &grants, None, VAULT, "fail", "cannot be used"),
    ] {
        let mut arguments = vec!["--resource", resource, option, file];
        if let Some(caller) = caller {
            arguments.extend(["--caller", caller]);
        }
        let report = Report::new(&environment, &arguments);
        let line = report.line("policy");
        assert_eq!(line["status"], status, "{arguments:?}: {line}");
        assert!(report.found("policy").contains(words), "{words} in {line}");
        let wrong = if status == "fail" {
            vec![("policy", "fail")]
        } else {
            vec![]
        };
        assert_eq!(report.wrong(), wrong, "{}", report.object);
    }
    // A policy refuses before the platform is asked: one request for each run, in both forms of output.
    assert_eq!(platform.stats().requests, 22);
}

#[test]
fn the_source_of_a_document_is_looked_at_instead_of_the_environments() {
    let folder = Folder::new("federated-policy");
    let platform = Emulated::start_with(folder.emulator());
    let of_pod = platform.environment_for(Source::WorkloadIdentity);
    let config = format!(
        "{CONFIG}\n[upstream.federated]\ntenant-id = {:?}\nclient-id = {:?}\ntoken-file = {:?}\nauthority = {:?}\n",
        of_pod["AZURE_TENANT_ID"],
        of_pod["AZURE_CLIENT_ID"],
        of_pod["AZURE_FEDERATED_TOKEN_FILE"],
        of_pod["AZURE_AUTHORITY_HOST"],
    );
    let config = folder.write("broker.toml", config);
    let authority = folder.write("ca.pem", platform.certificate().unwrap().authority_pem());
    let environment = vec![
        ("IDENTITY_ENDPOINT".to_owned(), "http://127.0.0.1:1/".to_owned()),
        ("SSL_CERT_FILE".to_owned(), authority),
    ];
    let report = Report::new(&environment, &["--resource", VAULT, "--config", &config]);
    assert_eq!((report.wrong(), report.code), (vec![], 0), "{}", report.object);
    assert_eq!(report.object["source"], "workload-identity");
}
