//! An upstream that refuses the module's token.

use super::{FORGED, SECRET, is_opened, module, proxied, vault};
use crate::proxy::{Envoy, Folder, request};
use crate::support::emulated::Emulated;
use crate::support::server::{Act, Request, Server, reply};
use crate::upstream::{copied, field, sent_to};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use managed_identity_emulator::{EmulatorConfig, Fault, Source};
use std::collections::BTreeSet;
use std::thread;

/// What the upstream demands of a token.
const CLAIMS: &str = r#"{"access_token":{"nbf":{"essential":true,"value":"1764284400"}}}"#;

fn challenged(envoy: &Envoy) -> u64 {
    envoy.counted("dynamicmodulescustom.managed_identity.challenged")
}

/// A refusal, with claims or without.
fn refused(with_claims: bool) -> Vec<u8> {
    let claims = STANDARD.encode(CLAIMS);
    let challenge = match with_claims {
        true => format!("Bearer error=\"insufficient_claims\", claims=\"{claims}\""),
        false => "Bearer error=\"invalid_token\"".to_owned(),
    };
    reply(401, &[("WWW-Authenticate", &challenge)], "{}")
}

/// Which tokens have arrived.
fn tokens(upstream: &Server) -> BTreeSet<String> {
    let requests = upstream.requests();
    requests
        .iter()
        .map(|request| field(request, "authorization").unwrap())
        .collect()
}

fn is_for(request: &Request, path: &str) -> bool {
    request.line().starts_with(&format!("GET {path} "))
}

#[test]
fn a_claims_challenge_gets_the_client_another_token_with_the_next_request() {
    let folder = Folder::new("claims");
    let platform = Emulated::start_with(EmulatorConfig {
        federated_token_file: Some(folder.path("federated").into()),
        ..EmulatorConfig::default()
    });
    let vault = vault(&platform);
    // The one source to which claims are told, over TLS.
    let authority = platform.certificate().unwrap().authority_pem().to_owned();
    let mut environment = platform.environment_for(Source::WorkloadIdentity);
    environment.insert("SSL_CERT_FILE".to_owned(), folder.write("authority.pem", &authority));
    let yaml = proxied("module.yaml", "upstream", &vault, &[]);
    let envoy = Envoy::start(&folder, &yaml, &module(environment));
    let address = envoy.address("ingress");
    is_opened(address);

    vault.demand_claims(CLAIMS);
    let (status, reply) = request(address, SECRET, &[FORGED]).unwrap();
    // The upstream's own word reaches the client.
    assert_eq!(status, 401, "{reply}");
    assert!(reply.contains("insufficient_claims"), "{reply}");
    is_opened(address);
    assert_eq!((challenged(&envoy), vault.tokens()), (1, 2));
    let asked = platform.requests();
    assert_eq!(asked.len(), 2, "{}", envoy.log());
    assert_eq!(asked[0].parameter("claims"), None);
    let claims = asked[1].parameter("claims").unwrap();
    assert!(claims.contains("1764284400"), "{claims}");
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn a_refusal_without_claims_gets_another_token_once() {
    let platform = Emulated::start();
    let upstream = Server::always(Act::Reply(refused(false)));
    let folder = Folder::new("refused");
    let yaml = sent_to(&upstream, &[]);
    let envoy = Envoy::start(&folder, &yaml, &module(platform.environment_for(Source::Imds)));
    let address = envoy.address("ingress");
    envoy.wait_for("another token arrives", |_| {
        let (status, reply) = request(address, "/", &[FORGED])?;
        assert_eq!(status, 401, "{reply}");
        (tokens(&upstream).len() == 2).then_some(())
    });
    // That is refused too, and nothing is asked for it so soon.
    for _ in 0..8 {
        assert_eq!(request(address, "/", &[FORGED]).unwrap().0, 401);
    }
    assert_eq!((challenged(&envoy), tokens(&upstream).len()), (1, 2));
    assert_eq!(platform.requests().len(), 2);
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn a_storm_of_refusals_is_one_question() {
    const CLIENTS: usize = 8;
    for with_claims in [true, false] {
        let platform = Emulated::start();
        let upstream = Server::start(move |request| match is_for(request, "/storm") {
            true => Act::Gated(refused(with_claims)),
            false => Act::ok("{}"),
        });
        let folder = Folder::new(&format!("storm-{with_claims}"));
        // Each filter has rules of its own, and all have one broker.
        let yaml = copied(&sent_to(&upstream, &[]));
        let envoy = Envoy::start(&folder, &yaml, &module(platform.environment_for(Source::Imds)));
        let addresses = ["ingress", "copy"].map(|listener| envoy.address(listener));
        assert_eq!(request(addresses[0], "/", &[FORGED]).unwrap().0, 200);
        thread::scope(|scope| {
            let clients: Vec<_> = addresses
                .iter()
                .flat_map(|address| [*address; CLIENTS])
                .map(|address| {
                    scope.spawn(move || {
                        let (status, _) = request(address, "/storm", &[FORGED]).unwrap();
                        let (next, reply) = request(address, "/next", &[FORGED]).unwrap();
                        assert_eq!((status, next), (401, 200), "{reply}");
                    })
                })
                .collect();
            envoy.wait_for("all have arrived", |_| {
                (upstream.requests().len() == 1 + 2 * CLIENTS).then_some(())
            });
            assert_eq!(tokens(&upstream).len(), 1);
            upstream.release();
            clients.into_iter().for_each(|client| client.join().unwrap());
        });
        envoy.wait_for("another token arrives", |_| {
            assert_eq!(request(addresses[1], "/", &[FORGED])?.0, 200);
            (tokens(&upstream).len() == 2).then_some(())
        });
        assert_eq!((challenged(&envoy), platform.requests().len()), (1, 2), "{with_claims}");
        if with_claims {
            // Each client's next request has waited for the other token.
            let requests = upstream.requests();
            let next = requests.iter().filter(|request| is_for(request, "/next"));
            let next: BTreeSet<_> = next.map(|request| field(request, "authorization").unwrap()).collect();
            assert_eq!(next.len(), 1);
            assert_ne!(next.first(), field(&requests[0], "authorization").as_ref());
        }
        assert_eq!(envoy.terminate(), Some(0));
    }
}

#[test]
fn a_refused_token_is_used_as_long_as_the_platform_has_no_other() {
    for (name, with_claims) in [("repeats", true), ("repeats", false), ("fails", true), ("fails", false)] {
        let platform = Emulated::start();
        // As metadata services do, for most of a day.
        platform.configure(|settings| settings.repeat_tokens = true);
        let upstream = Server::start(move |request| match is_for(request, "/refused") {
            true => Act::Reply(refused(with_claims)),
            false => Act::ok("{}"),
        });
        let folder = Folder::new(&format!("kept-{name}-{with_claims}"));
        let yaml = sent_to(&upstream, &[]);
        let envoy = Envoy::start(&folder, &yaml, &module(platform.environment_for(Source::AppService)));
        let address = envoy.address("ingress");
        assert_eq!(request(address, "/", &[FORGED]).unwrap().0, 200);
        if name == "fails" {
            platform.add_fault(Fault::reply(400_u16.try_into().unwrap(), "{}"));
        }
        // Whoever can make the upstream refuse one request does not take the token from all others.
        assert_eq!(request(address, "/refused", &[FORGED]).unwrap().0, 401);
        for _ in 0..16 {
            let (status, reply) = request(address, "/", &[FORGED]).unwrap();
            assert_eq!(status, 200, "{name} {with_claims}: {reply}");
        }
        assert_eq!(tokens(&upstream).len(), 1);
        envoy.wait_for("the platform is asked", |_| {
            (platform.requests().len() >= 2).then_some(())
        });
        // Once, and not for each request.
        assert_eq!(
            (challenged(&envoy), platform.requests().len()),
            (1, 2),
            "{name} {with_claims}"
        );
        assert_eq!(envoy.terminate(), Some(0));
    }
}

#[test]
fn no_refusal_counts_where_it_is_not_to() {
    let switched_off = ("\"on-failure\"", "\"claims-challenge\": false, \"on-failure\"");
    // Envoy's own, which has not asked the upstream.
    let own = (
        "- name: vault\n                          match: { prefix: \"/\" }\n                          route: { cluster: upstream }",
        "- name: vault\n                          match: { prefix: \"/\" }\n                          \
         direct_response: { status: 401 }",
    );
    for (name, other, arrive) in [("off", switched_off, 8), ("own", own, 0)] {
        let platform = Emulated::start();
        let upstream = Server::always(Act::Reply(refused(true)));
        let folder = Folder::new(&format!("uncounted-{name}"));
        let yaml = sent_to(&upstream, &[other]);
        let envoy = Envoy::start(&folder, &yaml, &module(platform.environment_for(Source::Imds)));
        for _ in 0..8 {
            let (status, _) = request(envoy.address("ingress"), "/", &[FORGED]).unwrap();
            assert_eq!(status, 401, "{name}");
        }
        assert_eq!(upstream.requests().len(), arrive, "{name}");
        // It would count before the client is answered.
        assert_eq!((challenged(&envoy), platform.requests().len()), (0, 1), "{name}");
        assert_eq!(envoy.terminate(), Some(0));
    }
}
