//! What the emulated platforms say, through both components: every way in which the emulator writes an expiry, everything
//! that it refuses. What any platform may say is in the conformance cases.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use managed_identity_emulator::http::StatusCode;
use managed_identity_emulator::{Emulator, EmulatorConfig, ExpiresIn, ExpiresOn, Fault, Identities, RateLimit, Source};
use managed_identity_host::{Cause, Identity, TokenRequest};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::brokers::{WASI, broker, cause, request};

const PATIENT: Duration = Duration::from_secs(20);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
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

        // What was said of the throttle is remembered, so these ask somebody who has not heard it.
        let imds = broker(wasi, emulator.environment_for(Source::Imds));
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
