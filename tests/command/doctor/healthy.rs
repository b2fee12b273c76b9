//! Machines on which nothing is wrong.

use super::{CHECKS, Environment, Folder, Report};
use crate::support::emulated::Emulated;
use crate::{VAULT, WASI};
use managed_identity_emulator::Source;

/// The sources whose credential, if they have one, is where a test can put it.
const SOURCES: [(Source, &str); 9] = [
    (Source::Imds, "imds"),
    (Source::AppService, "app-service"),
    (Source::AppService2017, "app-service-2017"),
    (Source::AzureMl, "azure-ml"),
    (Source::ServiceFabric, "service-fabric"),
    (Source::CloudShell, "cloud-shell"),
    (Source::WorkloadIdentity, "workload-identity"),
    (Source::IdentityBindings, "workload-identity"),
    (Source::WorkloadIdentityProxy, "imds"),
];

/// What leads to a source, and makes its certificate known.
fn environment(platform: &Emulated, folder: &Folder, source: Source) -> Environment {
    let authority = folder.write("ca.pem", platform.certificate().unwrap().authority_pem());
    let mut environment: Environment = platform.environment_for(source).into_iter().collect();
    environment.push(("SSL_CERT_FILE".to_owned(), authority));
    if source == Source::WorkloadIdentityProxy {
        // As the webhook that starts the proxy does.
        let pod = platform.environment_for(Source::WorkloadIdentity);
        environment.extend(pod.into_iter().filter(|(name, _)| name == "AZURE_CLIENT_ID"));
    }
    environment
}

#[test]
fn on_a_healthy_machine_every_line_passes_or_has_nothing_to_look_at() {
    let folder = Folder::new("healthy");
    let platform = Emulated::start_with(folder.emulator());
    for (source, name) in SOURCES {
        let report = Report::new(&environment(&platform, &folder, source), &["--resource", VAULT]);
        assert_eq!(
            (report.wrong(), report.code),
            (vec![], 0),
            "{source:?}: {}",
            report.object
        );
        assert_eq!(report.object["source"], name);
        assert_eq!(report.object["resource"], VAULT);
        for check in CHECKS {
            let is_skipped = report.line(check)["status"] == "skipped";
            let has_file = name == "workload-identity";
            let expected = check == "policy" || check == "credential" && !has_file;
            assert_eq!(is_skipped, expected, "{source:?}: {}", report.line(check));
        }
        assert!(report.found("token").contains(name), "{}", report.line("token"));
        assert!(report.found("claims").contains(VAULT), "{}", report.line("claims"));
    }
}

#[test]
fn the_lines_say_what_was_seen() {
    let folder = Folder::new("seen");
    let platform = Emulated::start_with(folder.emulator());
    let user_assigned = &platform.identities().user_assigned[0];
    let tenant = platform.identities().tenant_id.clone();
    for wasi in WASI {
        let report = Report::new(
            &environment(&platform, &folder, Source::WorkloadIdentity),
            &["--wasi", wasi, "--client-id", &user_assigned.client_id],
        );
        let authority = platform.tls_base_url().unwrap();
        for (check, words) in [
            ("source", authority),
            ("source", "AZURE_FEDERATED_TOKEN_FILE"),
            ("credential", "system:serviceaccount:default:emulator"),
            ("credential", "api://AzureADTokenExchange"),
            ("route", "127.0.0.1 (this machine)"),
            ("connection", "certificate is the right one"),
            ("answer", "HTTP 200"),
            ("clock", "This machine's clock is"),
            ("identity", &user_assigned.client_id),
            ("identity", "user-assigned"),
            ("token", "Bearer"),
            ("claims", &tenant),
            ("claims", &user_assigned.object_id),
            ("claims", "https://management.azure.com/"),
            ("provider", wasi),
        ] {
            assert!(report.found(check).contains(words), "{words} in {}", report.line(check));
        }
    }
}
