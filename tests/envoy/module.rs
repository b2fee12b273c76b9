//! The module inside Envoy: which request gets which token, and what filters share.

use super::{FORGED, SECRET, is_opened, module, nobody, proxied, vault};
use crate::proxy::{Envoy, Folder, request, request_of};
use crate::support::emulated::Emulated;
use crate::support::server::{Act, Server};
use crate::upstream::{audience, claims, copied, field, sent_to};
use managed_identity_emulator::{Identities, Source};
use std::collections::BTreeSet;

/// What Envoy calls the counters of the module.
const COUNTED: &str = "dynamicmodulescustom.managed_identity.";

/// The rule of the example.
const RULE: &str = r#"{ "route": "vault", "audience": "https://vault.azure.net" }"#;

/// What the client's own field looks like at the upstream.
const UNTOUCHED: &str = "Bearer forged";

fn counted(envoy: &Envoy, name: &str) -> u64 {
    envoy.counted(&format!("{COUNTED}{name}"))
}

#[test]
fn the_module_puts_the_token_into_requests() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("module");
    let yaml = proxied("module.yaml", "upstream", &vault, &[]);
    let envoy = Envoy::start(&folder, &yaml, &module(platform.environment_for(Source::Imds)));
    is_opened(envoy.address("ingress"));
    // One broker, which asked the platform once.
    assert_eq!(platform.requests().len(), 1, "{}", envoy.log());
    assert_eq!((counted(&envoy, "fetched"), counted(&envoy, "hit")), (1, 2));
    // Where the filter is off, the client's own arrives.
    let (status, _) = request(envoy.address("ingress"), "/health", &[FORGED]).unwrap();
    assert_eq!(status, 401);
    assert_eq!(platform.requests().len(), 1);
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn the_module_denies_when_there_is_no_token() {
    let platform = Emulated::start();
    let vault = vault(&platform);
    let folder = Folder::new("module-down");
    let yaml = proxied("module.yaml", "upstream", &vault, &[]);
    let envoy = Envoy::start(&folder, &yaml, &module(nobody(&platform)));
    for denied in 1..=2 {
        let (status, reply) = request(envoy.address("ingress"), SECRET, &[FORGED]).unwrap();
        assert_eq!(status, 503, "{reply}");
        assert!(
            reply.contains("x-managed-identity-error: endpoint-unreachable"),
            "{reply}"
        );
        let counters = ["failed", "denied", "passed"].map(|name| counted(&envoy, name));
        assert_eq!(counters, [denied, denied, 0]);
    }
    assert!(vault.requests().is_empty());
    // The log says why and what to do, and not for each request.
    let log = envoy.log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("no token: ")).collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains("endpoint-unreachable: "), "{log}");
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn without_a_token_requests_pass_where_they_may_and_the_clients_own_does_not() {
    let platform = Emulated::start();
    for (header, sent) in [("authorization", FORGED), ("x-token", "X-Token: Bearer forged")] {
        let upstream = Server::always(Act::ok("{}"));
        let folder = Folder::new(&format!("pass-{header}"));
        let pass = format!("\"on-failure\": \"pass\", \"header\": \"{header}\"");
        let yaml = sent_to(&upstream, &[("\"on-failure\": \"deny\"", pass.as_str())]);
        let envoy = Envoy::start(&folder, &yaml, &module(nobody(&platform)));
        let (status, reply) = request(envoy.address("ingress"), "/x", &[sent, sent]).unwrap();
        assert_eq!(status, 200, "{reply}");
        assert_eq!(upstream.requests().len(), 1);
        assert_eq!(field(&upstream.requests()[0], header), None);
        let counters = ["failed", "denied", "passed"].map(|name| counted(&envoy, name));
        assert_eq!(counters, [1, 0, 1]);
        assert_eq!(envoy.terminate(), Some(0));
    }
}

#[test]
fn the_first_rule_that_matches_decides_and_all_else_passes_as_it_came() {
    let platform = Emulated::start();
    let upstream = Server::always(Act::ok("{}"));
    let rules = r#"
        { "host": "vault.example", "path": "/only", "audience": "https://both.example" },
        { "host": "vault.example", "audience": "https://host.example" },
        { "host": "*.vault.example", "audience": "https://below.example" },
        { "host": "[::1]", "audience": "https://six.example" },
        { "path": "/a", "audience": "https://path.example" },
        { "path": "/a/b", "audience": "https://never.example" },
        { "path": "/folder/", "audience": "https://folder.example" },
        { "route": "named", "audience": "https://route.example" }"#;
    let rules = rules.replace('\n', " ");
    let other_route = "- name: named\n                          match: { prefix: \"/named\" }\n                          \
         route: { cluster: upstream }\n                        - name: vault\n";
    let others = [(RULE, rules.as_str()), ("- name: vault\n", other_route)];
    let environment = module(platform.environment_for(Source::Imds));
    let cases = [
        ("vault.example", "/", Some("host")),
        ("VAULT.Example:8443", "/", Some("host")),
        ("vault.example", "/only", Some("both")),
        ("vault.example:80", "/only/this", Some("both")),
        ("vault.example", "/onlyest", Some("host")),
        ("vault.example", "/a", Some("host")),
        ("one.vault.example", "/", Some("below")),
        ("one.two.Vault.example:443", "/a", Some("below")),
        ("onevault.example", "/", None),
        ("vault.example.evil", "/", None),
        ("vault.example.", "/", None),
        ("[::1]:8080", "/", Some("six")),
        ("localhost", "/a", Some("path")),
        ("localhost", "/a/b", Some("path")),
        ("localhost", "/a?b", Some("path")),
        ("localhost", "/ab", None),
        ("localhost", "/A", None),
        ("localhost", "/a%2fb", None),
        ("localhost", "/b?/a", None),
        // As Envoy normalizes it, which is as the upstream is sent it.
        ("localhost", "/a/../b", None),
        ("localhost", "/a/%2e%2e/b", None),
        ("localhost", "/b/../a", Some("path")),
        ("localhost", "/%61/b", Some("path")),
        ("localhost", "/a\\b", Some("path")),
        ("localhost", "/a//b", Some("path")),
        ("localhost", "//a", None),
        ("localhost", "/folder", None),
        ("localhost", "/folder/b", Some("folder")),
        ("localhost", "/named/b", Some("route")),
        ("localhost", "/", None),
    ];
    let merged = [("localhost", "//a", Some("path")), ("localhost", "/a//b", Some("path"))];
    let merges = "normalize_path: true\n                merge_slashes: true";
    for (name, cases, how) in [
        ("kept", &cases[..], "normalize_path: true"),
        ("merged", &merged, merges),
    ] {
        let folder = Folder::new(&format!("rules-{name}"));
        let yaml = sent_to(&upstream, &[&others[..], &[("normalize_path: true", how)]].concat());
        let envoy = Envoy::start(&folder, &yaml, &environment);
        let address = envoy.address("ingress");
        let before = platform.requests().len();
        for (host, target, expected) in cases {
            let (status, reply) = request_of(address, host, target, &[FORGED]).unwrap();
            assert_eq!(status, 200, "{host} {target}: {reply}");
            let arrived = upstream.requests().pop().unwrap();
            let expected = expected.map_or(UNTOUCHED.to_owned(), |name| format!("https://{name}.example"));
            assert_eq!(
                audience(&arrived),
                Some(expected),
                "{host} {target}: {}",
                arrived.text()
            );
        }
        let named: BTreeSet<_> = cases.iter().filter_map(|(_, _, name)| *name).collect();
        assert_eq!(platform.requests().len() - before, named.len());
        assert_eq!(envoy.terminate(), Some(0));
    }
}

/// What configures the filter for a route or a virtual host, with this many spaces before each line.
fn for_route(spaces: usize, json: &str) -> String {
    let lines = [
        "typed_per_filter_config:",
        "  managed-identity:",
        "    \"@type\": type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute",
        "    dynamic_module_config: { name: managed_identity_envoy, do_not_close: true }",
        "    filter_config:",
        "      \"@type\": type.googleapis.com/google.protobuf.StringValue",
        &format!("      value: '{json}'"),
    ];
    lines.map(|line| format!("\n{}{line}", " ".repeat(spaces))).concat()
}

#[test]
fn a_route_or_a_virtual_host_has_a_token_of_its_own() {
    let platform = Emulated::start();
    let upstream = Server::always(Act::ok("{}"));
    let Identities {
        system_assigned,
        user_assigned,
        ..
    } = Identities::default();
    let [system, first, second] =
        [&system_assigned.unwrap(), &user_assigned[0], &user_assigned[1]].map(|identity| identity.client_id.clone());
    let by_rule = RULE.replace(" }", &format!(", \"identity\": \"client-id:{second}\" }}"));
    let of_host = format!(r#"{{"audience": "https://host.example", "identity": "client-id:{first}"}}"#);
    let own = for_route(22, &of_host);
    let domains = format!("domains: [\"own.example\"]{own}");
    // A second virtual host, the copy of the first but for its routes' configurations, has none of its own.
    let plain = "\n                    - name: plain\n                      domains: [\"*\"]\n                      routes:\n                        \
                 - name: vault\n                          match: { prefix: \"/\" }\n                          route: { cluster: upstream }\n                \
                 http_filters:";
    let yaml = sent_to(
        &upstream,
        &[
            (RULE, &by_rule),
            ("domains: [\"*\"]", &domains),
            ("\n                http_filters:", plain),
        ],
    );
    let folder = Folder::new("routes");
    let envoy = Envoy::start(&folder, &yaml, &module(platform.environment_for(Source::Imds)));
    let storage = "https://storage.azure.com";
    for (host, target, expected) in [
        ("own.example", "/", Some(("https://host.example", &first))),
        ("own.example", "/storage/b", Some((storage, &system))),
        ("own.example", "/health", None),
        ("localhost", "/", Some(("https://vault.azure.net", &second))),
        ("localhost", "/health", Some(("https://vault.azure.net", &second))),
    ] {
        let (status, reply) = request_of(envoy.address("ingress"), host, target, &[FORGED]).unwrap();
        assert_eq!(status, 200, "{host} {target}: {reply}");
        let value = field(&upstream.requests().pop().unwrap(), "authorization").unwrap();
        match (expected, claims(&value)) {
            (Some((audience, client)), Some(claims)) => {
                assert_eq!(
                    (&claims["aud"], &claims["appid"]),
                    (&audience.into(), &client.as_str().into())
                );
            }
            (expected, _) => assert_eq!((expected, value.as_str()), (None, UNTOUCHED), "{host} {target}"),
        }
    }
    // The same question is put once, whoever puts it.
    assert_eq!(platform.requests().len(), 3);
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn an_identity_that_the_platform_does_not_have_is_named() {
    let platform = Emulated::start();
    let upstream = Server::always(Act::ok("{}"));
    let nobodys = RULE.replace(
        " }",
        ", \"identity\": \"client-id:12345678-90ab-cdef-1234-567890abcdef\" }",
    );
    let folder = Folder::new("nobodys");
    let yaml = sent_to(&upstream, &[(RULE, &nobodys)]);
    let envoy = Envoy::start(&folder, &yaml, &module(platform.environment_for(Source::Imds)));
    let (status, reply) = request(envoy.address("ingress"), "/", &[FORGED]).unwrap();
    assert_eq!(status, 503, "{reply}");
    assert!(
        reply.contains("x-managed-identity-error: identity-not-found"),
        "{reply}"
    );
    // Others go on: this one has the default identity.
    let (status, reply) = request(envoy.address("ingress"), "/storage/b", &[FORGED]).unwrap();
    assert_eq!(status, 200, "{reply}");
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!(envoy.terminate(), Some(0));
}

/// A configuration with two listeners, of which each has the filter twice: the second puts its token into `x-second`, and
/// has this in its configuration.
fn twice(yaml: &str, second: &str) -> String {
    let filter = yaml.find("                  - name: managed-identity\n").unwrap();
    let router = yaml
        .find("                  - name: envoy.filters.http.router\n")
        .unwrap();
    let own = format!("\"header\": \"x-second\", {second} \"timeout\"");
    let other = yaml[filter..router]
        .replacen("name: managed-identity\n", "name: second\n", 1)
        .replace("\"timeout\"", &own);
    copied(&[&yaml[..router], &other, &yaml[router..]].concat())
}

#[test]
fn filters_of_one_environment_have_one_broker_and_others_their_own() {
    let Identities { user_assigned, .. } = Identities::default();
    let environment = format!(
        "\"environment\": {{ \"AZURE_CLIENT_ID\": \"{}\" }},",
        user_assigned[0].client_id
    );
    for (name, second, brokers) in [("one", "", 1), ("two", environment.as_str(), 2)] {
        let platform = Emulated::start();
        let upstream = Server::always(Act::ok("{}"));
        let folder = Folder::new(&format!("brokers-{name}"));
        let yaml = twice(&sent_to(&upstream, &[]), second);
        let envoy = Envoy::start(&folder, &yaml, &module(platform.environment_for(Source::Imds)));
        let addresses = ["ingress", "copy"].map(|listener| envoy.address(listener));
        // At once, so that all have to wait.
        std::thread::scope(|scope| {
            for address in addresses {
                scope.spawn(move || {
                    let (status, reply) = request(address, "/", &[FORGED, "x-second: Bearer forged"]).unwrap();
                    assert_eq!(status, 200, "{reply}");
                });
            }
        });
        assert_eq!(platform.requests().len(), brokers, "{name}");
        let tokens: BTreeSet<_> = upstream
            .requests()
            .iter()
            .flat_map(|request| ["authorization", "x-second"].map(|name| field(request, name).unwrap()))
            .collect();
        assert_eq!(tokens.len(), brokers, "{name}");
        let clients: BTreeSet<_> = tokens
            .iter()
            .map(|value| claims(value).unwrap()["appid"].to_string())
            .collect();
        assert_eq!(clients.len(), brokers, "{name}");
        assert_eq!(envoy.terminate(), Some(0));
    }
}
