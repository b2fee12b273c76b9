//! What a guest is given besides HTTP: the variables that identity sources read, clocks, and random numbers.

use super::witness::Witness;
use super::*;

#[tokio::test]
async fn a_guest_has_the_identity_variables_and_nothing_else() {
    for (wasi, guest) in GUESTS {
        let broker = broker(guest, Witness::start().address()).build().unwrap();
        for (thing, expected) in [
            ("environment", "IDENTITY_ENDPOINT IDENTITY_HEADER"),
            ("arguments", ""),
            ("directory", ""),
            ("files", ""),
            ("input", ""),
            ("terminal", ""),
        ] {
            let found = report(&broker, &[thing]).await;
            assert_eq!(found, (Cause::Unsupported, expected.to_owned()), "{wasi} {thing}");
        }
    }
}

#[tokio::test]
async fn the_process_environment_is_not_handed_on() {
    assert!(
        std::env::var_os("PATH").is_some(),
        "there is something that could be handed on"
    );
    for (wasi, guest) in GUESTS {
        let broker = Broker::builder()
            .provider(guest)
            .compilation_cache(None)
            .build()
            .unwrap();
        // A machine with an identity may run this test, so some variables may be there.
        let (_, names) = report(&broker, &["environment"]).await;
        let other = names.split_whitespace().find(|name| {
            !["AZURE_", "IDENTITY_", "IMDS_", "MSI_"]
                .iter()
                .any(|known| name.starts_with(known))
        });
        assert_eq!(other, None, "{wasi}");
    }
}

#[tokio::test]
async fn a_guest_has_no_sockets_and_resolves_no_names() {
    for (wasi, guest) in GUESTS {
        let server = Witness::start();
        let broker = broker(guest, server.address()).build().unwrap();
        let address = server.address().to_string();
        for words in [
            ["tcp", &address],
            ["tcp", "[::1]:80"],
            ["udp", &address],
            ["udp", "203.0.113.7:53"],
            ["listen", "127.0.0.1:0"],
            ["listen", "[::]:0"],
            ["resolve", "localhost"],
            ["resolve", "127.0.0.1"],
        ] {
            let (cause, message) = report(&broker, &words).await;
            let refused = [
                "AccessDenied",
                "access-denied",
                "PermanentResolverFailure",
                "permanent-resolver-failure",
            ]
            .iter()
            .any(|reason| message.contains(reason));
            assert!(
                cause == Cause::Unsupported && message.starts_with("refused ") && refused,
                "{wasi} {words:?}: {message}"
            );
        }
        assert!(server.heads().is_empty(), "{wasi}");
    }
}
