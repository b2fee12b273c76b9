//! `token`, against a server that keeps every byte: what is sent, and above all what is not.

use crate::support::program::run;
use crate::support::server::{Act, Request, Server, reply};
use crate::{SECRET, WASI, token_arguments};

const CLIENT: &str = "12345678-90ab-cdef-1234-567890abcdef";
const OBJECT: &str = "0b1ec700-0000-4000-8000-000000000001";
const RESOURCE_ID: &str =
    "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n";
const RESOURCE_ID_ENCODED: &str =
    "%2Fsubscriptions%2Fs%2Fresourcegroups%2Fg%2Fproviders%2FMicrosoft.ManagedIdentity%2FuserAssignedIdentities%2Fn";

/// The endpoints of two sources on one server.
struct Wire {
    environment: Vec<(String, String)>,
    line: String,
    header: (&'static str, &'static str),
    selectors: [&'static str; 3],
}

fn wires(server: &Server) -> [Wire; 2] {
    const RESOURCE: &str = "resource=https%3A%2F%2Fvault.azure.net";
    [
        Wire {
            environment: server.imds(),
            line: format!("GET /metadata/identity/oauth2/token?api-version=2018-02-01&{RESOURCE}"),
            header: ("metadata", "true"),
            selectors: ["client_id", "object_id", "msi_res_id"],
        },
        Wire {
            environment: server.app_service(SECRET),
            line: format!("GET /msi/token?api-version=2019-08-01&{RESOURCE}"),
            header: ("x-identity-header", SECRET),
            selectors: ["client_id", "principal_id", "mi_res_id"],
        },
    ]
}

fn last(server: &Server) -> Request {
    server.requests().last().unwrap().clone()
}

#[test]
fn each_request_is_exactly_as_documented() {
    let server = Server::always(Act::token("t0k3n"));
    for wire in wires(&server) {
        let [client, object, resource] = wire.selectors;
        for wasi in WASI {
            for (arguments, selector) in [
                (&[][..], String::new()),
                (&["--system-assigned"], String::new()),
                (&["--client-id", CLIENT], format!("&{client}={CLIENT}")),
                (&["--object-id", OBJECT], format!("&{object}={OBJECT}")),
                (
                    &["--resource-id", RESOURCE_ID],
                    format!("&{resource}={RESOURCE_ID_ENCODED}"),
                ),
            ] {
                let outcome = run(wire.environment.clone(), &token_arguments(wasi, arguments));
                assert_eq!(outcome.json()["access_token"], "t0k3n");
                let request = last(&server);
                assert_eq!(request.line(), format!("{}{selector} HTTP/1.1", wire.line));
                let mut headers = [("host", server.authority()), (wire.header.0, wire.header.1.to_owned())];
                headers.sort();
                assert_eq!(
                    request.headers(),
                    headers.map(|(name, value)| (name.to_owned(), value)),
                    "no header but these"
                );
            }
        }
    }
    assert_eq!(server.requests().len(), 2 * 2 * 5, "one request each");
}

#[test]
fn azure_client_id_chooses_where_the_caller_does_not() {
    let server = Server::always(Act::token("t0k3n"));
    for wire in wires(&server) {
        for wasi in WASI {
            for (arguments, selector) in [
                (&[][..], format!("&client_id={CLIENT}")),
                (&["--system-assigned"], String::new()),
                (&["--client-id", OBJECT], format!("&client_id={OBJECT}")),
            ] {
                let mut environment = wire.environment.clone();
                environment.push(("AZURE_CLIENT_ID".to_owned(), CLIENT.to_owned()));
                run(environment, &token_arguments(wasi, arguments)).json();
                assert_eq!(
                    last(&server).line(),
                    format!("{}{selector} HTTP/1.1", wire.line),
                    "{arguments:?}"
                );
            }
        }
    }
}

#[test]
fn the_identity_header_is_never_sent_to_the_metadata_service() {
    let server = Server::always(Act::token("t0k3n"));
    for wasi in WASI {
        for more in [
            &[][..],
            // As on Azure Container Instances.
            &[("IDENTITY_SERVER_THUMBPRINT", "aa11")],
            // An empty variable counts as unset.
            &[("IDENTITY_ENDPOINT", "")],
            &[("IDENTITY_ENDPOINT", ""), ("IMDS_ENDPOINT", ""), ("MSI_ENDPOINT", "")],
        ] {
            let mut environment = server.imds();
            environment.push(("IDENTITY_HEADER".to_owned(), SECRET.to_owned()));
            environment.extend(more.iter().map(|(name, value)| (name.to_string(), value.to_string())));
            let outcome = run(environment, &token_arguments(wasi, &[]));
            assert_eq!(outcome.json()["source"], "imds", "{more:?}");
            assert!(!last(&server).text().contains(SECRET));
        }
    }
    assert_eq!(server.requests().len(), 2 * 4);
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let server = Server::always(Act::token("t0k3n"));
    for wasi in WASI {
        let empty = [
            "AZURE_POD_IDENTITY_AUTHORITY_HOST",
            "AZURE_CLIENT_ID",
            "IDENTITY_SERVER_THUMBPRINT",
            "IMDS_ENDPOINT",
            "MSI_ENDPOINT",
            "MSI_SECRET",
        ];
        let mut environment = server.app_service(SECRET);
        environment.extend(empty.map(|name| (name.to_owned(), String::new())));
        assert_eq!(
            run(environment, &token_arguments(wasi, &[])).json()["source"],
            "app-service"
        );
        assert!(!last(&server).line().contains("client_id"));
    }
}

#[test]
fn proxy_variables_are_ignored() {
    let server = Server::always(Act::token("t0k3n"));
    let proxy = Server::always(Act::token("stolen"));
    for wasi in WASI {
        let mut environment = server.app_service(SECRET);
        for name in [
            "http_proxy",
            "HTTP_PROXY",
            "https_proxy",
            "HTTPS_PROXY",
            "all_proxy",
            "ALL_PROXY",
        ] {
            environment.push((name.to_owned(), proxy.url("/")));
        }
        let json = run(environment, &token_arguments(wasi, &[])).json();
        assert_eq!(json["access_token"], "t0k3n");
    }
    assert_eq!((server.requests().len(), proxy.connections()), (2, 0));
}

#[test]
fn redirects_are_not_followed() {
    let elsewhere = Server::always(Act::token("stolen"));
    for status in [301, 302, 303, 307, 308] {
        // One to another origin, one to another path of the same, one without a place.
        for location in [elsewhere.url("/msi/token"), "/other".to_owned(), String::new()] {
            let server = Server::always(Act::Reply(reply(status, &[("Location", &location)], "")));
            for wasi in WASI {
                let outcome = run(server.app_service(SECRET), &token_arguments(wasi, &[]));
                outcome.must_not_show(&[SECRET]);
                let error = outcome.error();
                assert_eq!(error["cause"], "endpoint-intercepted", "{error}");
                assert_eq!(error["http_status"], status);
            }
            assert_eq!(server.requests().len(), 2, "each asked once, and not again");
        }
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn a_public_endpoint_is_denied_and_the_grant_of_another_url_changes_nothing() {
    // TEST-NET-3 (RFC 5737) belongs to nobody, and counts as public.
    let public = ["http://203.0.113.7/msi/token", "http://203.0.113.7:8080/msi/token"];
    let server = Server::always(Act::token("t0k3n"));
    let granted = server.url("/msi/token");
    for wasi in WASI {
        for endpoint in public {
            for grants in [&[][..], &["--allow-endpoint", &granted]] {
                let environment = [("IDENTITY_ENDPOINT", endpoint), ("IDENTITY_HEADER", SECRET)];
                let outcome = run(environment, &token_arguments(wasi, grants));
                outcome.must_not_show(&[SECRET]);
                let error = outcome.error();
                assert_eq!(error["cause"], "denied", "{error}");
                assert_eq!(error["source"], "app-service");
                assert!(error["message"].as_str().unwrap().contains("203.0.113.7"), "{error}");
                assert!(
                    error["message"].as_str().unwrap().contains("--allow-endpoint"),
                    "{error}"
                );
            }
        }
    }
    assert_eq!(server.connections(), 0);
    for wasi in WASI {
        // And what the environment names close by needs no grant, whatever else is granted.
        let grants = [
            "--allow-endpoint",
            "http://203.0.113.7/",
            "--allow-endpoint",
            "http://203.0.113.8/x",
        ];
        let json = run(server.app_service(SECRET), &token_arguments(wasi, &grants)).json();
        assert_eq!(json["access_token"], "t0k3n");
    }
}

#[test]
fn an_endpoint_that_cannot_be_meant_is_not_asked() {
    let server = Server::always(Act::token("stolen"));
    let with_user = format!("http://user:{SECRET}@{}/msi/token", server.authority());
    let with_query = server.url("/msi/token?a=b");
    let with_dots = server.url("/msi/../token");
    for wasi in WASI {
        for endpoint in [
            "nonsense",
            "ftp://127.0.0.1/x",
            "/msi/token",
            &with_user,
            &with_query,
            &with_dots,
        ] {
            let environment = [("IDENTITY_ENDPOINT", endpoint), ("IDENTITY_HEADER", SECRET)];
            let outcome = run(environment, &token_arguments(wasi, &[]));
            outcome.must_not_show(&[SECRET]);
            assert_eq!(outcome.cause(), "not-configured", "{endpoint}");
        }
        // A line break in the secret would be another header.
        let mut environment = server.app_service("one\r\nX-Forwarded-For: two");
        environment.push(("AZURE_CLIENT_ID".to_owned(), CLIENT.to_owned()));
        assert_eq!(run(environment, &token_arguments(wasi, &[])).cause(), "not-configured");
    }
    assert_eq!(server.connections(), 0);
}
