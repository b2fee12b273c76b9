//! What is not a failed request: variables, files, proxies, clocks, and tokens that are not what they should be.

use super::{Environment, Folder, Report, TOKEN_BEGIN, owned};
use crate::support::emulated::Emulated;
use crate::support::program::run;
use crate::support::server::{Act, Server, reply, token_reply};
use crate::{SECRET, VAULT};
use managed_identity_emulator::http::StatusCode;
use managed_identity_emulator::{Fault, Settings, Source};
use std::time::{Duration, Instant};

/// In whatever must not be seen.
const MARKER: &str = "hunter2";

fn of(platform: &Emulated, source: Source) -> Environment {
    platform.environment_for(source).into_iter().collect()
}

#[test]
fn variables_that_contradict_each_other_or_say_nothing_are_warnings() {
    let platform = Emulated::start();
    let app_service = of(&platform, Source::AppService);
    for (more, words) in [
        (
            &[
                ("MSI_ENDPOINT", "http://127.0.0.1:1/hunter2"),
                ("MSI_SECRET", "hunter2"),
            ][..],
            "MSI_ENDPOINT",
        ),
        (
            &[
                ("AZURE_FEDERATED_TOKEN_FILE", "/run/hunter2"),
                ("AZURE_TENANT_ID", "hunter2"),
            ],
            "AZURE_FEDERATED_TOKEN_FILE",
        ),
        (&[("IMDS_ENDPOINT", "http://127.0.0.1:1/hunter2")], "IMDS_ENDPOINT"),
        (&[("IDENTITY_SERVER_THUMBPRINT", "")], "IDENTITY_SERVER_THUMBPRINT"),
        (
            &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1/hunter2")],
            "AZURE_POD_IDENTITY_AUTHORITY_HOST",
        ),
    ] {
        let environment = [app_service.clone(), owned(more)].concat();
        let report = Report::new(&environment, &["--resource", VAULT]);
        assert_eq!(
            (report.wrong(), report.code),
            (vec![("variables", "warn")], 3),
            "{more:?}"
        );
        assert!(
            report.found("variables").contains(words),
            "{}",
            report.line("variables")
        );
        report.must_not_show(&[MARKER]);
    }
}

#[test]
fn a_proxy_that_others_would_obey_is_a_warning_that_shows_nothing_of_it() {
    let platform = Emulated::start();
    let app_service = of(&platform, Source::AppService);
    let proxy = "http://user:hunter2@proxy.example:3128";
    for (more, expected) in [
        (&[("HTTP_PROXY", proxy)][..], &[("proxies", "warn")][..]),
        (
            &[("http_proxy", proxy), ("ALL_PROXY", proxy)],
            &[("proxies", "warn"), ("proxies", "warn")],
        ),
        (&[("HTTPS_PROXY", proxy)], &[]),
        (&[("HTTP_PROXY", proxy), ("NO_PROXY", "example.com,127.0.0.1")], &[]),
    ] {
        let environment = [app_service.clone(), owned(more)].concat();
        let report = Report::new(&environment, &["--resource", VAULT]);
        assert_eq!(report.wrong(), expected, "{more:?}: {}", report.object);
        report.must_not_show(&[MARKER, "proxy.example"]);
    }
}

#[test]
fn a_clock_that_is_wrong_is_seen_by_the_date_of_the_reply() {
    let platform = Emulated::start();
    for (offset, words, wrong) in [
        (0, "This machine's clock is", &[][..]),
        (150, "behind the endpoint's", &[("clock", "warn")]),
        (-150, "ahead of the endpoint's", &[("clock", "warn")]),
        (-7200, "ahead of the endpoint's", &[("clock", "fail")]),
        // Its tokens begin in what is the future here, and are not taken.
        (7200, "behind the endpoint's", &[("answer", "fail"), ("clock", "fail")]),
    ] {
        platform.configure(|settings| settings.clock_offset_seconds = offset);
        let report = Report::new(&of(&platform, Source::Imds), &["--resource", VAULT]);
        assert_eq!(report.wrong(), wrong, "{offset}: {}", report.object);
        assert!(report.found("clock").contains(words), "{}", report.line("clock"));
    }
}

#[test]
fn a_reply_without_a_date_tells_nothing_of_clocks() {
    let server = Server::always(Act::Reply(reply(200, &[], &token_reply("e30.e30.e30"))));
    let report = Report::new(&server.app_service(SECRET), &["--resource", VAULT]);
    let line = report.line("clock");
    assert_eq!(line["status"], "skipped", "{line}");
    assert!(report.found("clock").contains("no date"), "{line}");
}

#[test]
fn a_federated_token_is_looked_at_before_it_is_presented() {
    let folder = Folder::new("federated");
    let platform = Emulated::start_with(folder.emulator());
    let authority = folder.write("ca.pem", platform.certificate().unwrap().authority_pem());
    let mut environment = of(&platform, Source::WorkloadIdentity);
    environment.push(("SSL_CERT_FILE".to_owned(), authority));
    for (lifetime, words, wrong) in [
        (3600, "is valid until", &[][..]),
        (120, "about to expire", &[("credential", "warn")]),
        (-60, "has expired", &[("credential", "fail"), ("token", "fail")]),
    ] {
        platform.configure(|settings| settings.assertion_lifetime_seconds = lifetime);
        let report = Report::new(&environment, &["--resource", VAULT]);
        assert_eq!(report.wrong(), wrong, "{lifetime}: {}", report.object);
        assert!(
            report.found("credential").contains(words),
            "{}",
            report.line("credential")
        );
    }

    environment.retain(|(name, _)| name != "AZURE_FEDERATED_TOKEN_FILE");
    let other = folder.write("other", "hunter2");
    for (file, code, check, words) in [
        (other, "fail", "credential", "does not hold the token"),
        (
            folder.0.to_str().unwrap().to_owned(),
            "fail",
            "credential",
            "it is no file",
        ),
    ] {
        let environment = [environment.clone(), owned(&[("AZURE_FEDERATED_TOKEN_FILE", &file)])].concat();
        let report = Report::new(&environment, &["--resource", VAULT]);
        let line = report.line(check);
        assert_eq!(line["status"], code, "{line}");
        assert!(report.found(check).contains(words), "{line}");
        report.must_not_show(&[MARKER]);
    }
}

#[test]
fn the_directory_of_azure_arc_is_looked_at() {
    // Where the agent itself is installed, this test has no say.
    let platform = Emulated::start();
    let report = Report::new(&of(&platform, Source::AzureArc), &["--resource", VAULT]);
    assert_eq!(report.wrong(), [("credential", "warn")], "{}", report.object);
    assert!(report.found("credential").contains("/var/opt/azcmagent/tokens"));
    assert!(report.line("credential")["advice"].as_str().unwrap().contains("himds"));
}

#[test]
fn an_identity_that_the_platform_chose_because_it_is_the_only_one_is_a_warning() {
    let platform = Emulated::start();
    let mut identities = platform.identities().as_ref().clone();
    identities.system_assigned = None;
    identities.user_assigned.truncate(1);
    let only = identities.user_assigned[0].client_id.clone();
    platform.set_identities(identities).unwrap();
    let imds = of(&platform, Source::Imds);
    let report = Report::new(&imds, &["--resource", VAULT]);
    assert_eq!(
        (report.wrong(), report.code),
        (vec![("identity", "warn")], 3),
        "{}",
        report.object
    );
    assert!(report.found("identity").contains(&only), "{}", report.line("identity"));

    let named = [imds.clone(), owned(&[("AZURE_CLIENT_ID", &only)])].concat();
    for (environment, arguments) in [(&named, &[][..]), (&imds, &["--client-id", &only])] {
        let report = Report::new(environment, arguments);
        assert_eq!((report.wrong(), report.code), (vec![], 0), "{}", report.object);
    }
    // Asked for by name, what is not there must not be replaced in silence.
    let report = Report::new(&imds, &["--system-assigned"]);
    assert_eq!(report.wrong(), [("identity", "fail")], "{}", report.object);
}

#[test]
fn a_token_that_is_not_what_was_asked_for_is_told_by_its_claims() {
    let platform = Emulated::start();
    let app_service = of(&platform, Source::AppService);
    let token = run(app_service.clone(), &["token", "--resource", VAULT]);
    let token = token.success().to_owned();
    let answering = |token: &str| {
        platform.clear_faults();
        platform.add_fault(Fault::reply(StatusCode::OK, token_reply(token)));
    };
    answering(&token);
    let report = Report::new(&app_service, &["--resource", "https://storage.azure.com"]);
    assert_eq!(
        (report.wrong(), report.code),
        (vec![("claims", "warn")], 3),
        "{}",
        report.object
    );
    assert!(
        report.found("claims").contains("is not for https://storage.azure.com"),
        "{}",
        report.line("claims")
    );
    report.must_not_show(&[&token, TOKEN_BEGIN]);

    answering("hunter2-opaque");
    let report = Report::new(&app_service, &["--resource", VAULT]);
    assert_eq!(report.wrong(), [("claims", "warn")], "{}", report.object);
    report.must_not_show(&[MARKER]);
}

#[test]
fn it_ends_when_its_time_is_over() {
    let platform = Emulated::start();
    platform.configure(|settings| *settings = Settings::default());
    platform.add_fault(Fault::hang());
    let started = Instant::now();
    let report = Report::new(&of(&platform, Source::AppService), &["--timeout", "1s"]);
    assert_eq!(report.wrong(), [("answer", "fail")], "{}", report.object);
    // Twice, with the start of a process on a busy machine.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());

    let report = Report::new(&of(&platform, Source::AppService), &["--timeout", "0"]);
    assert_eq!(report.wrong(), [("provider", "fail")], "{}", report.object);
    assert!(report.found("provider").contains("does not start within"));
}

#[test]
fn it_asks_the_platform_once() {
    let platform = Emulated::start();
    let report = Report::new(&of(&platform, Source::AppService), &["--resource", VAULT]);
    assert_eq!(report.code, 0);
    // Once for each form of output.
    assert_eq!(platform.stats().requests, 2);
}
