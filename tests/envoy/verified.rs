//! An upstream that knows of the platform only what it publishes: another listener of Envoy, whose `jwt_authn` checks issuer,
//! audience, lifetime and signature by the key set that it fetches.

use super::{FORGED, broker, module};
use crate::proxy::{Envoy, Folder, configured, exchange, request};
use crate::support::emulated::Emulated;
use managed_identity_emulator::{EmulatorConfig, SigningKey, Source};
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;

const VAULT: &str = "https://vault.azure.net";

/// Moments that are over, and that are not.
const PAST: u64 = 1_000_000_000;
const FUTURE: u64 = 4_000_000_000;

/// A platform whose key the test has, and an upstream that verifies.
struct Verified {
    platform: Emulated,
    key: SigningKey,
    folder: Folder,
}

impl Verified {
    fn new(name: &str) -> Self {
        let key = SigningKey::generate().unwrap();
        let platform = Emulated::start_with(EmulatorConfig {
            signing_key: Some(key.clone()),
            ..EmulatorConfig::default()
        });
        let folder = Folder::new(&format!("verified-{name}"));
        Self { platform, key, folder }
    }

    fn issuer(&self) -> String {
        format!("{}/{}/", self.platform.base_url(), self.platform.identities().tenant_id)
    }

    /// An example that sends to the upstream, which is there as well.
    fn yaml(&self, example: &str, others: &[(&str, &str)]) -> String {
        let socket = self.folder.path("verifier.sock");
        let listener = format!(
            r#"  listeners:
    - name: verifier
      address: {{ pipe: {{ path: {socket} }} }}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: verifier
                route_config:
                  virtual_hosts:
                    - name: verifier
                      domains: ["*"]
                      routes:
                        - match: {{ prefix: "/" }}
                          direct_response: {{ status: 200, body: {{ inline_string: verified }} }}
                http_filters:
                  - name: envoy.filters.http.jwt_authn
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
                      providers:
                        platform:
                          issuer: {issuer}
                          audiences: [{VAULT}]
                          require_expiration: true
                          remote_jwks:
                            http_uri: {{ uri: "{issuer}discovery/keys", cluster: platform, timeout: 5s }}
                      rules:
                        - match: {{ prefix: "/" }}
                          requires: {{ provider_name: platform }}
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"#,
            issuer = self.issuer(),
        );
        let listening = self.platform.listening();
        let cluster = format!(
            r#"  clusters:
    - name: platform
      load_assignment:
        cluster_name: platform
        endpoints:
          - lb_endpoints:
              - endpoint: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}
"#,
            listening.ip(),
            listening.port(),
        );
        let upstream = format!("pipe: {{ path: {socket} }}");
        let mut replaced = vec![
            ("port_value: 10000", "port_value: 0"),
            ("port_value: 9901", "port_value: 0"),
            ("socket_address: { address: 127.0.0.1, port_value: 8080 }", &upstream),
            ("  listeners:\n", &listener),
            ("  clusters:\n", &cluster),
        ];
        replaced.extend(others);
        configured(example, &replaced)
    }

    /// A token that says this, by default what one of the platform says.
    fn token(&self, key: &SigningKey, differs: &Value) -> String {
        let mut claims = json!({"iss": self.issuer(), "aud": VAULT, "nbf": PAST, "exp": FUTURE, "sub": "somebody"});
        for (name, value) in differs.as_object().unwrap() {
            claims[name] = value.clone();
        }
        key.sign(&claims).unwrap()
    }

    /// What is wrong with a token does not get past the upstream, and nothing else is in its way.
    fn verifies(&self) {
        let asked = |token: &str| {
            let stream = UnixStream::connect(self.folder.path("verifier.sock")).unwrap();
            exchange(stream, "localhost", "/", &[&format!("Authorization: Bearer {token}")]).unwrap()
        };
        let good = self.token(&self.key, &json!({}));
        let other_key = SigningKey::generate().unwrap();
        let (signed, _) = good.rsplit_once('.').unwrap();
        let other_signature = self.token(&self.key, &json!({"sub": "somebody else"}));
        let (_, signature) = other_signature.rsplit_once('.').unwrap();
        for (what, token, expected) in [
            ("all is well", good.clone(), 200),
            ("another key", self.token(&other_key, &json!({})), 401),
            ("another's signature", format!("{signed}.{signature}"), 401),
            ("no signature", format!("{signed}."), 401),
            (
                "another issuer",
                self.token(&self.key, &json!({"iss": "https://sts.example/"})),
                401,
            ),
            ("expired", self.token(&self.key, &json!({"exp": PAST})), 401),
            ("not yet valid", self.token(&self.key, &json!({"nbf": FUTURE - 1})), 401),
            (
                "another audience",
                self.token(&self.key, &json!({"aud": "https://storage.azure.com"})),
                403,
            ),
            ("no token", "forged".to_owned(), 401),
        ] {
            let (status, reply) = asked(&token);
            assert_eq!(status, expected, "{what}: {reply}");
        }
    }

    /// Envoy puts tokens into requests that get past.
    fn lets_through(&self, envoy: &Envoy, listener: &str) {
        let address = envoy.address(listener);
        envoy.wait_for("it has a token", |_| {
            let (status, _) = request(address, "/", &[FORGED])?;
            (status == 200).then_some(())
        });
        for _ in 0..3 {
            let (status, reply) = request(address, "/", &[FORGED]).unwrap();
            assert_eq!(status, 200, "{reply}");
            assert!(reply.ends_with("verified"), "{reply}");
        }
        let requests = self.platform.requests();
        let keys = requests
            .iter()
            .filter(|request| request.path.ends_with("/discovery/keys"));
        assert!(keys.count() >= 1, "nobody has fetched the keys");
    }
}

#[test]
fn the_modules_tokens_are_good_by_the_published_keys() {
    let verified = Verified::new("module");
    let yaml = verified.yaml("module.yaml", &[]);
    let environment = module(verified.platform.environment_for(Source::Imds));
    let envoy = Envoy::start(&verified.folder, &yaml, &environment);
    verified.verifies();
    verified.lets_through(&envoy, "ingress");
    let address = envoy.address("ingress");
    // A token for somebody else, and the client's own.
    assert_eq!(request(address, "/storage/b", &[FORGED]).unwrap().0, 403);
    assert_eq!(request(address, "/health", &[FORGED]).unwrap().0, 401);
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn the_tokens_of_external_authorization_are_good_by_the_published_keys() {
    let verified = Verified::new("ext-authz");
    let socket = verified.folder.path("envoy.sock");
    let environment = verified.platform.environment_for(Source::Imds).into_iter().collect();
    let _served = broker(&verified.folder, "ext-authz.toml", environment, "envoy-ext-authz");
    let yaml = verified.yaml("ext-authz-grpc.yaml", &[("/run/managed-identity/envoy.sock", &socket)]);
    let envoy = Envoy::start(&verified.folder, &yaml, &[]);
    verified.verifies();
    verified.lets_through(&envoy, "outbound");
    assert_eq!(request(envoy.address("outbound"), "/public", &[FORGED]).unwrap().0, 401);
    assert_eq!(envoy.terminate(), Some(0));
}

#[test]
fn the_tokens_of_secret_discovery_are_good_by_the_published_keys() {
    let verified = Verified::new("sds");
    let socket = verified.folder.path("envoy.sock");
    let environment = verified.platform.environment_for(Source::Imds).into_iter().collect();
    let _served = broker(&verified.folder, "sds.toml", environment, "envoy-sds");
    let yaml = verified.yaml("sds.yaml", &[("/run/managed-identity/envoy.sock", &socket)]);
    let envoy = Envoy::start(&verified.folder, &yaml, &[]);
    verified.verifies();
    verified.lets_through(&envoy, "outbound");
    assert_eq!(envoy.terminate(), Some(0));
}
