//! What platforms say, through both components: every way to write an expiry, every way to report a failure.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use managed_identity_emulator::http::StatusCode;
use managed_identity_emulator::{Emulator, EmulatorConfig, ExpiresIn, ExpiresOn, Fault, Identities, RateLimit, Source};
use managed_identity_host::{Cause, Identity, TokenRequest};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::brokers::{WASI, broker, cause, request};
use support::server::{Act, Server};

const PATIENT: Duration = Duration::from_secs(20);

/// When a token expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry {
    /// So many seconds after the reply.
    In(u64),
    /// At this time.
    On(u64),
    /// There is no token, for this cause.
    No(Cause),
}

use Expiry::{In, No, On};

const SOON: Expiry = In(3600);
/// 3333-11-22T04:05:06Z
const LATE: Expiry = On(43_040_261_106);
const FAIL: Expiry = No(Cause::MalformedReply);
const GONE: Expiry = No(Cause::TokenRejected);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Puts `rows` of `expires_in` and `expires_on`, as JSON or absent, to both components.
async fn check(rows: &'static [(&'static str, &'static str, Expiry)]) {
    let server = Server::start(|request| {
        let row: usize = request.case().trim_start_matches('r').parse().unwrap();
        let (expires_in, expires_on, _) = rows[row];
        let field = |name: &str, json: &str| match json {
            "" => String::new(),
            json => format!(r#","{name}":{json}"#),
        };
        let (expires_in, expires_on) = (field("expires_in", expires_in), field("expires_on", expires_on));
        Act::ok(&format!(r#"{{"access_token":"t{row}"{expires_in}{expires_on}}}"#))
    });
    let mut faults = Vec::new();
    for wasi in WASI {
        let broker = broker(wasi, server.app_service("s3cr3t"));
        for (row, (expires_in, expires_on, expected)) in rows.iter().enumerate() {
            let before = now();
            let result = broker.token(&request(&format!("r{row}"), PATIENT)).await;
            let good = match (&result, *expected) {
                (Ok(token), In(seconds)) => (before + seconds..=now() + seconds).contains(&token.expires_on),
                (Ok(token), On(moment)) => token.expires_on == moment,
                (Err(error), No(cause)) => error.cause == cause,
                _ => false,
            };
            let named = result
                .as_ref()
                .map_or(true, |token| token.token.matches(&format!("t{row}")));
            if !good || !named {
                faults.push(format!(
                    "row {row:02} ({wasi:?}) {expires_in} {expires_on}: {result:?}, not {expected:?}"
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(
        server.requests().len(),
        WASI.len() * rows.len(),
        "each row is asked for once"
    );
}

/// The matrix of the C++ SDK's own test suite, in its order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_matrix_of_47_expiries() {
    const IN: &str = "3600";
    const IN_TEXT: &str = r#""3600""#;
    const ON: &str = "43040261106";
    const ON_TEXT: &str = r#""43040261106""#;
    const ISO: &str = r#""3333-11-22T04:05:06.000Z""#;
    const HTTP: &str = r#""Sun, 22 Nov 3333 04:05:06 GMT""#;
    const UNKNOWN: &str = r#""unknown format""#;
    const EMPTY: &str = r#""""#;
    const NULL: &str = "null";
    const ABSENT: &str = "";

    #[rustfmt::skip]
    const ROWS: &[(&str, &str, Expiry)] = &[
        (IN, ABSENT, SOON), // 00
        (IN_TEXT, ABSENT, SOON),
        (UNKNOWN, ABSENT, FAIL),
        (EMPTY, ABSENT, FAIL),
        (NULL, ABSENT, FAIL),
        (ABSENT, ON, LATE), // 05
        (ABSENT, ON_TEXT, LATE),
        (ABSENT, ISO, LATE),
        (ABSENT, HTTP, LATE),
        (ABSENT, UNKNOWN, FAIL),
        (ABSENT, EMPTY, FAIL), // 10
        (ABSENT, NULL, FAIL),
        (IN, ON, SOON),
        (IN, ON_TEXT, SOON),
        (IN, ISO, SOON),
        (IN, HTTP, SOON), // 15
        (IN, UNKNOWN, SOON),
        (IN, EMPTY, SOON),
        (IN, NULL, SOON),
        (IN_TEXT, ON, SOON),
        (IN_TEXT, ON_TEXT, SOON), // 20
        (IN_TEXT, ISO, SOON),
        (IN_TEXT, HTTP, SOON),
        (IN_TEXT, UNKNOWN, SOON),
        (IN_TEXT, EMPTY, SOON),
        (IN_TEXT, NULL, SOON), // 25
        (UNKNOWN, ON, LATE),
        (UNKNOWN, ON_TEXT, LATE),
        (UNKNOWN, ISO, LATE),
        (UNKNOWN, HTTP, LATE),
        (UNKNOWN, UNKNOWN, FAIL), // 30
        (UNKNOWN, EMPTY, FAIL),
        (UNKNOWN, NULL, FAIL),
        (EMPTY, ON, LATE),
        (EMPTY, ON_TEXT, LATE),
        (EMPTY, ISO, LATE), // 35
        (EMPTY, HTTP, LATE),
        (EMPTY, UNKNOWN, FAIL),
        (EMPTY, EMPTY, FAIL),
        (EMPTY, NULL, FAIL),
        (NULL, ON, LATE), // 40
        (NULL, ON_TEXT, LATE),
        (NULL, ISO, LATE),
        (NULL, HTTP, LATE),
        (NULL, UNKNOWN, FAIL),
        (NULL, EMPTY, FAIL), // 45
        (NULL, NULL, FAIL),
    ];
    assert_eq!(ROWS.len(), 47);
    assert_eq!(ROWS.iter().filter(|(_, _, expected)| *expected == FAIL).count(), 15);
    check(ROWS).await;
}

/// App Service of 2017 and of some regions, and what resembles a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_expiries_that_platforms_write() {
    // 3019-06-20T02:57:58Z and 3020-01-16T05:24:12Z.
    const JUNE: Expiry = On(33_117_908_278);
    const JANUARY: Expiry = On(33_136_061_052);
    check(&[
        ("", r#""06/20/3019 02:57:58 +00:00""#, JUNE),
        ("", r#""6/20/3019 2:57:58 AM +00:00""#, JUNE),
        ("", r#""6/20/3019 4:57:58 AM +02:00""#, JUNE),
        ("", r#""06/20/3019 02:57:58""#, JUNE),
        ("", r#""3019-06-20T02:57:58.0000000+00:00""#, JUNE),
        ("", r#""3019-06-20 02:57:58""#, JUNE),
        ("", r#""1/16/3020 5:24:12 AM +00:00""#, JANUARY),
        ("", r#""1/15/3020 5:24:12 PM -12:00""#, JANUARY),
        ("", "33117908278.75", JUNE),
        (r#""3599.999""#, "", In(3599)),
        ("3.6e3", "", SOON),
        (r#"" 3600 ""#, "", SOON),
        // The dates of the reference are over.
        ("", r#""06/20/2019 02:57:58 +00:00""#, GONE),
        ("", r#""1/16/2020 5:24:12 AM +00:00""#, GONE),
        ("0", "", GONE),
        (r#""0""#, r#""43040261106""#, GONE),
        ("", "0", GONE),
        ("", "3600", GONE),
        ("", "1", GONE),
        // What cannot be meant leaves the word to the other field.
        ("-1", "", FAIL),
        ("-3600", "43040261106", LATE),
        ("", "-1", FAIL),
        ("9223372036854775808", "", FAIL),
        ("18446744073709551616", "43040261106", LATE),
        ("1e300", "43040261106", LATE),
        ("", "9223372036854775808", FAIL),
        ("", "1e300", FAIL),
        (r#""15609740s28""#, "", FAIL),
        ("", r#""15609740s28""#, FAIL),
        ("", r#""3333-02-30T00:00:00Z""#, FAIL),
        ("", r#""20/06/3019 02:57:58 +00:00""#, FAIL),
        ("true", r#"["43040261106"]"#, FAIL),
        (r#"{"seconds":3600}"#, "43040261106", LATE),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_of_the_emulator_is_the_same_day() {
    let emulator = Emulator::start(EmulatorConfig::default()).unwrap();
    for wasi in WASI {
        for source in [Source::Imds, Source::AppService] {
            for (expires_in, expires_on) in [
                (ExpiresIn::Documented, ExpiresOn::Documented),
                (ExpiresIn::String, ExpiresOn::Absent),
                (ExpiresIn::Number, ExpiresOn::Absent),
                (ExpiresIn::Absent, ExpiresOn::String),
                (ExpiresIn::Absent, ExpiresOn::Number),
                (ExpiresIn::Absent, ExpiresOn::Iso8601),
                (ExpiresIn::Absent, ExpiresOn::MonthDayYear),
            ] {
                emulator.configure(|settings| {
                    settings.expires_in = expires_in;
                    settings.expires_on = expires_on;
                });
                let broker = broker(wasi, emulator.environment_for(source));
                let before = now();
                let token = broker.token(&request("vault", PATIENT)).await.unwrap();
                let lifetime = token.expires_on - before;
                assert!(
                    (86_000..87_000).contains(&lifetime),
                    "{wasi:?} {source:?} {expires_on:?}: {lifetime}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_of_a_failure_has_its_cause() {
    #[rustfmt::skip]
    const ROWS: &[(u16, &str, Cause)] = &[
        (400, r#"{"error":"invalid_request","error_description":"Identity not found"}"#, Cause::IdentityNotFound),
        (400, r#"{"statusCode":400,"message":"No User Assigned or Delegated Managed Identity found for specified ClientId/ResourceId/PrincipalId.","correlationId":"c"}"#, Cause::IdentityNotFound),
        (400, r#"{"statusCode":400,"message":"No Managed Identity found for specified ClientId/ResourceId/PrincipalId."}"#, Cause::IdentityNotFound),
        (404, r#"{"error":{"code":"ManagedIdentityNotFound","message":"x"}}"#, Cause::IdentityNotFound),
        (403, r#"{"error":"x","error_description":"AADSTS700016: Application with identifier 'x' was not found in the directory"}"#, Cause::IdentityNotFound),
        (400, r#"{"error":"invalid_request","error_description":"Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request"}"#, Cause::IdentityAmbiguous),
        (400, r#"{"error":"invalid_resource","error_description":"AADSTS500011: The resource principal named x was not found"}"#, Cause::AudienceNotFound),
        (400, r#"{"error":"invalid_resource"}"#, Cause::AudienceNotFound),
        (400, r#"{"message":"AADSTS500011: unknown"}"#, Cause::AudienceNotFound),
        (400, "AADSTS500011: in words alone", Cause::AudienceNotFound),
        (401, r#"{"error":"invalid_client","error_description":"AADSTS700024: Client assertion is not within its valid time range."}"#, Cause::CredentialRejected),
        (400, r#"{"error":"invalid_client","error_description":"AADSTS70021: No matching federated identity record found"}"#, Cause::CredentialRejected),
        (400, r#"{"error":"invalid_client","error_description":"AADSTS700213: No matching federated identity record found"}"#, Cause::CredentialRejected),
        (401, r#"{"statusCode":401,"message":"The X-IDENTITY-HEADER header is missing or not valid."}"#, Cause::CredentialRejected),
        (401, "", Cause::CredentialRejected),
        (403, "", Cause::CredentialRejected),
        (400, r#"{"error":"invalid_request","error_description":"Required metadata header not specified"}"#, Cause::InvalidRequest),
        (400, r#"{"error":{"code":"x"}}"#, Cause::InvalidRequest),
        (400, r#"{"error":{"message":"x","innererror":{"trace":"c"}}}"#, Cause::InvalidRequest),
        (400, r#"{"unknown":"form"}"#, Cause::InvalidRequest),
        (400, "not JSON", Cause::InvalidRequest),
        (400, "", Cause::InvalidRequest),
        (403, "<html>proxy</html>", Cause::EndpointIntercepted),
        (407, "", Cause::EndpointIntercepted),
        (405, "", Cause::EndpointIntercepted),
        (511, "", Cause::EndpointIntercepted),
        (404, "", Cause::EndpointUnreachable),
        (410, "", Cause::PlatformUpdating),
        (418, "", Cause::MalformedReply),
    ];
    let server = Server::start(|request| {
        let row: usize = request.case().trim_start_matches('r').parse().unwrap();
        let (status, body, _) = ROWS[row];
        Act::status(status, body)
    });
    let mut faults = Vec::new();
    for wasi in WASI {
        let broker = broker(wasi, server.app_service("s3cr3t"));
        for (row, (status, body, expected)) in ROWS.iter().enumerate() {
            // Short enough that no wait fits in before the second try of what is worth one.
            let error = broker
                .token(&request(&format!("r{row}"), Duration::from_secs(1)))
                .await
                .unwrap_err();
            if (error.cause, error.http_status, error.source.as_deref())
                != (*expected, Some(*status), Some("app-service"))
            {
                faults.push(format!("{status} {body} ({wasi:?}): {error:?}, not {expected}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The identity as which something is asked for, by its number in the emulator.
fn user_assigned(emulator: &Emulator, number: usize) -> Identity {
    Identity::ClientId(emulator.identities().user_assigned[number].client_id.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_platforms_refuse_as_documented() {
    let emulator = Emulator::start(EmulatorConfig::default()).unwrap();
    let stranger = Identity::ClientId("0badc0de-0000-4000-8000-000000000001".to_owned());
    let vault = || TokenRequest::new("https://vault.azure.net").with_timeout(Duration::from_secs(2));
    let unknown = || TokenRequest::new("https://not-registered.example").with_timeout(Duration::from_secs(2));
    let as_documented = Identities::default();
    let only_user_assigned = Identities {
        system_assigned: None,
        ..Identities::default()
    };
    let one_user_assigned = Identities {
        user_assigned: only_user_assigned.user_assigned[..1].to_vec(),
        ..only_user_assigned.clone()
    };
    let none = Identities {
        user_assigned: Vec::new(),
        ..only_user_assigned.clone()
    };
    let named = user_assigned(&emulator, 1);
    let rows = [
        (&as_documented, Source::Imds, vault(), None),
        (
            &as_documented,
            Source::Imds,
            vault().with_identity(stranger.clone()),
            Some(Cause::IdentityNotFound),
        ),
        (&as_documented, Source::Imds, unknown(), Some(Cause::AudienceNotFound)),
        (
            &only_user_assigned,
            Source::Imds,
            vault(),
            Some(Cause::IdentityAmbiguous),
        ),
        (
            &only_user_assigned,
            Source::Imds,
            vault().with_identity(named.clone()),
            None,
        ),
        (&one_user_assigned, Source::Imds, vault(), None),
        (&none, Source::Imds, vault(), Some(Cause::IdentityNotFound)),
        (
            &as_documented,
            Source::AppService,
            vault().with_identity(stranger),
            Some(Cause::IdentityNotFound),
        ),
        (
            &only_user_assigned,
            Source::AppService,
            vault(),
            Some(Cause::IdentityNotFound),
        ),
        (
            &only_user_assigned,
            Source::AppService,
            vault().with_identity(named),
            None,
        ),
        // App Service keeps Entra's reason to itself.
        (
            &as_documented,
            Source::AppService,
            unknown(),
            Some(Cause::PlatformFailure),
        ),
    ];
    for wasi in WASI {
        for (number, (identities, source, request, expected)) in rows.iter().enumerate() {
            emulator.set_identities(Identities::clone(identities)).unwrap();
            let broker = broker(wasi, emulator.environment_for(*source));
            assert_eq!(cause(&broker, request).await, *expected, "row {number} ({wasi:?})");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_secret_a_throttle_and_an_outage_have_their_causes() {
    let emulator = Emulator::start(EmulatorConfig::default()).unwrap();
    for wasi in WASI {
        let mut environment = emulator.environment_for(Source::AppService);
        environment.insert("IDENTITY_HEADER".to_owned(), "wrong".to_owned());
        let app_service = broker(wasi, environment);
        let hasty = request("vault", Duration::from_millis(900));
        assert_eq!(cause(&app_service, &hasty).await, Some(Cause::CredentialRejected));

        let imds = broker(wasi, emulator.environment_for(Source::Imds));
        emulator.configure(|settings| {
            settings.rate_limit = Some(RateLimit {
                requests_per_second: 0,
                concurrent: 0,
            });
        });
        assert_eq!(cause(&imds, &hasty).await, Some(Cause::Throttled));
        emulator.configure(|settings| settings.rate_limit = None);

        emulator.add_fault(Fault::reply(StatusCode::SERVICE_UNAVAILABLE, ""));
        assert_eq!(cause(&imds, &hasty).await, Some(Cause::PlatformFailure));
        emulator.clear_faults();

        // One failure is no outage: asked again, it gives a token.
        emulator.clear_requests();
        emulator.add_fault(Fault::reply(StatusCode::INTERNAL_SERVER_ERROR, "").times(1));
        assert_eq!(cause(&imds, &request("vault", PATIENT)).await, None);
        assert_eq!(emulator.stats().requests, 2);
    }
}
