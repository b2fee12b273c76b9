#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use super::*;
use std::collections::BTreeMap;

const HASH: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OTHER_HASH: &str = "sha256:ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const ID: &str = "12345678-90ab-cdef-1234-567890abcdef";

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::from_toml_with(text, |name| (name == "www-data").then_some(33))
}

/// What a document must have so that nothing else is wrong with it.
fn with_listener(text: &str) -> String {
    format!("{text}\n[listener.l]\naddress = '127.0.0.1:0'\nprotocols = ['health']\n")
}

/// A listener of these lines, and callers who can be known.
fn listener(lines: &str) -> String {
    format!(
        "[listener.l]\n{lines}\n[caller.secret]\nsecrets = ['{HASH}']\n[caller.user]\nusers = [1000]\n[caller.named]\n"
    )
}

#[test]
fn a_document_is_the_configuration_that_it_shows() {
    let text = format!(
        r#"
[upstream.federated]
tenant-id = "contoso.example"
client-id = "{ID}"
token-file = "/var/run/token"
authority = "https://login.example/adfs"

[listener.all]
address = "unix:/run/all.sock"
mode = "0660"
protocols = ["app-service", "imds"]
callers = ["web"]

[listener.far]
address = "0.0.0.0:4141"
protocols = ["app-service", "health"]
tls = {{ certificate = "/etc/tls.crt", key = "/etc/tls.key" }}
hosts = ["Broker.internal", "[::2]"]

[listener.near]
address = "[::1]:0"
protocols = ["envoy-ext-authz"]
caller = "a b"

[caller.web]
secrets = ["{HASH}", "{OTHER_HASH}"]
users = [1000, "www-data", 0]
default-identity = "client-id:{ID}"
rate = "5/minute"
[[caller.web.token]]
audiences = ["https://vault.azure.net"]
identities = ["client-id:{ID}"]

[caller."a b"]
concurrency = 1

[limits]
connections = 100
header-bytes = 0x4000
body-bytes = 1
request-timeout = "1s"
idle-timeout = "1h"
token-timeout = "1m30s"
drain-timeout = "100ms"
"#
    );
    let config = read(&text).unwrap();
    let web = Caller::new("web");
    let listeners: BTreeMap<_, _> = [
        (
            "all",
            ListenerConfig {
                address: Address::Unix("/run/all.sock".into(), 0o660),
                protocols: vec![Protocol::AppService, Protocol::Imds],
                caller: None,
                callers: Some(vec![web.clone()]),
                tls: None,
                hosts: Vec::new(),
            },
        ),
        (
            "far",
            ListenerConfig {
                address: Address::Tcp("0.0.0.0:4141".parse().unwrap()),
                protocols: vec![Protocol::AppService, Protocol::Health],
                caller: None,
                callers: None,
                tls: Some(TlsFiles {
                    certificate: "/etc/tls.crt".into(),
                    key: "/etc/tls.key".into(),
                }),
                hosts: vec!["broker.internal".to_owned(), "[::2]".to_owned()],
            },
        ),
        (
            "near",
            ListenerConfig {
                address: Address::Tcp("[::1]:0".parse().unwrap()),
                protocols: vec![Protocol::EnvoyExtAuthz],
                caller: Some(Caller::new("a b")),
                callers: None,
                tls: None,
                hosts: Vec::new(),
            },
        ),
    ]
    .map(|(name, listener)| (name.to_owned(), listener))
    .into();
    assert_eq!(config.listeners, listeners);
    assert_eq!(
        config.upstream,
        Upstream::Federated(Federated {
            tenant_id: "contoso.example".to_owned(),
            client_id: ID.to_owned(),
            token_file: "/var/run/token".into(),
            authority: Some("https://login.example/adfs".to_owned()),
        })
    );
    let how = &config.callers[&web];
    assert_eq!(
        how.secrets,
        [HASH, OTHER_HASH].map(|hash| SecretHash::parse(hash).unwrap())
    );
    assert_eq!(how.users, [1000, 33, 0]);
    assert_eq!(how.default_identity, Identity::ClientId(ID.to_owned()));
    let grant = config.policy.grant(&web).unwrap();
    assert_eq!(
        (grant.in_flight, grant.rate),
        (4_096, Some("5/minute".parse().unwrap()))
    );
    assert_eq!(grant.token.len(), 1);
    assert_eq!(config.policy.grant(&Caller::new("a b")).unwrap().in_flight, 1);
    assert_eq!(
        config.limits,
        Limits {
            connections: 100,
            header_bytes: 16_384,
            body_bytes: 1,
            request_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(3600),
            token_timeout: Duration::from_secs(90),
            drain_timeout: Duration::from_millis(100),
        }
    );
    assert_eq!(config.check(), Ok(()));
}

#[test]
fn what_is_not_said_has_its_default() {
    let config = read(&listener(
        "address = 'unix:/run/x.sock'\nprotocols = ['imds', 'metrics']",
    ))
    .unwrap();
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.upstream, Upstream::Environment);
    assert_eq!(
        config.listeners["l"].address,
        Address::Unix("/run/x.sock".into(), 0o600)
    );
    // Whoever is granted nothing is known all the same.
    assert_eq!(config.callers.len(), 3);
    assert_eq!(
        read(&with_listener("[upstream]")).unwrap().upstream,
        Upstream::Environment
    );
}

#[test]
fn what_can_safely_be_done_is_not_refused() {
    let tls = "tls = { certificate = '/c', key = '/k' }";
    for lines in [
        "address = '127.0.0.1:1'\nprotocols = ['app-service', 'metrics', 'health']".to_owned(),
        "address = '127.0.0.1:1'\nprotocols = ['app-service', 'imds', 'health']\ncaller = 'named'".to_owned(),
        "address = 'unix:/x'\nmode = '0666'\nprotocols = ['envoy-ext-authz']".to_owned(),
        "address = 'unix:/x'\nmode = '0666'\nprotocols = ['metrics']".to_owned(),
        "address = 'unix:/x'\nmode = '0660'\nprotocols = ['imds']\ncaller = 'named'".to_owned(),
        "address = 'systemd:x'\nprotocols = ['imds', 'app-service']".to_owned(),
        "address = 'systemd:x'\nprotocols = ['metrics']".to_owned(),
        format!("address = '[::]:1'\nprotocols = ['app-service', 'health']\n{tls}"),
        format!("address = '10.0.0.4:1'\nprotocols = ['app-service']\ncallers = ['secret']\n{tls}"),
        format!("address = '0.0.0.0:1'\nprotocols = ['health']\n{tls}"),
    ] {
        assert_eq!(read(&listener(&lines)).err(), None, "{lines}");
    }
}

#[test]
fn a_mistake_is_told_with_its_line_and_its_cure() {
    let caller = |lines: &str| with_listener(&format!("[caller.a]\n{lines}"));
    let limits = |lines: &str| with_listener(&format!("[limits]\n{lines}"));
    let federated = |lines: &str| {
        let all = ["tenant-id = 't'", &format!("client-id = '{ID}'"), "token-file = '/t'"];
        let others = all
            .iter()
            .filter(|line| !lines.starts_with(line.split(' ').next().unwrap()))
            .map(|line| format!("{line}\n"))
            .collect::<String>();
        with_listener(&format!("[upstream.federated]\n{lines}\n{others}"))
    };
    let tcp =
        |protocols: &str, rest: &str| listener(&format!("address = '127.0.0.1:1'\nprotocols = [{protocols}]\n{rest}"));
    let far =
        |protocols: &str, rest: &str| listener(&format!("address = '0.0.0.0:1'\nprotocols = [{protocols}]\n{rest}"));
    let tls = "tls = { certificate = '/c', key = '/k' }";
    for (text, message) in [
        // What a document is made of.
        (
            String::new(),
            "nothing would be served, because there is no listener; write one: `[listener.NAME]`",
        ),
        ("[caller.a]".to_owned(), "nothing would be served"),
        (
            "listener = 1".to_owned(),
            "line 1: `listener` is a number; write it as a table, `[listener.NAME]`",
        ),
        (
            "[listeners.a]".to_owned(),
            "line 1: `listeners` is no key of the configuration; write `listener`",
        ),
        (
            "x = 1".to_owned(),
            "line 1: `x` is no key of the configuration; its keys are `upstream`, `listener`, `caller`, `secret`, `limits`",
        ),
        ("[listener.a".to_owned(), "line 1: this is not TOML"),
        (
            "[listener.a]\naddress = 127.0.0.1:4141".to_owned(),
            "line 2: what `address` is set to is no number, and a text needs quotes",
        ),
        (
            "[caller.a]\n[caller.a]".to_owned(),
            "line 2: `a` stands here for the second time",
        ),
        // Listeners.
        (
            "[listener.'a b']".to_owned(),
            "line 1: a listener has no name, or one with more than letters",
        ),
        (
            format!("[listener.{}]", "a".repeat(65)),
            "line 1: a listener has no name",
        ),
        (
            "[listener.a]\nprotocols = ['imds']".to_owned(),
            "line 1: this `[listener.a]` has no `address`; add it, as in `address = \"127.0.0.1:4141\"`",
        ),
        (
            "[listener.a]\naddress = '[::1]:1'".to_owned(),
            "line 1: this `[listener.a]` has no `protocols`; add it",
        ),
        (
            "[listener.a]\naddress = 4141".to_owned(),
            "line 2: `address` of `[listener.a]` is a number; write it like `address = \"127.0.0.1:4141\"`",
        ),
        (
            "[listener.a]\naddress = ':4141'".to_owned(),
            "line 2: \":4141\", which is `address` of `[listener.a]`, does not say of which address",
        ),
        (
            "[listener.a]\naddress = 'unix:x.sock'".to_owned(),
            "line 2: \"unix:x.sock\", which is `address` of `[listener.a]`, names no socket by its absolute path",
        ),
        (
            "[listener.a]\nadress = 'x'".to_owned(),
            "line 2: `adress` is no key of `[listener.a]`; write `address`",
        ),
        (
            "[listener.a]\nprotocols = []".to_owned(),
            "line 2: `protocols` of `[listener.a]` is an empty list, which says nothing",
        ),
        (
            "[listener.a]\nprotocols = 'imds'".to_owned(),
            "line 2: `protocols` of `[listener.a]` is a text; write a list of texts",
        ),
        (
            "[listener.a]\nprotocols = [\n'imds',\n'app_service']".to_owned(),
            "line 4: \"app_service\" in `protocols` of `[listener.a]` is no protocol; write `app-service`",
        ),
        (
            "[listener.a]\nprotocols = ['http']".to_owned(),
            "is no protocol; there are `app-service`, `imds`, `envoy-ext-authz`, `envoy-sds`, `metrics`, `health`",
        ),
        (
            tcp("'health', 'health'", ""),
            "line 3: `protocols` of `[listener.l]` has `health` twice; write it once",
        ),
        (
            tcp("'health'", "mode = '0660'"),
            "line 4: `mode` of `[listener.l]` is for sockets in the file system, and 127.0.0.1:1 is none",
        ),
        (
            tcp("'health'", "mode = 0o660"),
            "line 4: `mode` of `[listener.l]` is a number; write it like `mode = \"0660\"`",
        ),
        (
            tcp("'health'", "mode = 0660"),
            "line 4: what `mode` is set to is no number",
        ),
        (tcp("'health'", "mode = '0760x'"), "is no mode of a socket"),
        (tcp("'health'", "mode = '4755'"), "is no mode of a socket"),
        (
            tcp("'health'", "mode = '0060'"),
            "is no mode of a socket that its owner can use; write `0600`",
        ),
        (tcp("'health'", "mode = '66'"), "is no mode of a socket"),
        (
            tcp("'health'", "hosts = ['a:1']"),
            "line 4: \"a:1\" in `hosts` of `[listener.l]` is no name of a host",
        ),
        (tcp("'health'", "hosts = ['*.a']"), "is no name of a host"),
        (
            tcp("'health'", "hosts = []"),
            "line 4: `hosts` of `[listener.l]` is an empty list",
        ),
        (
            tcp("'health'", "tls = {}"),
            "line 4: this `[listener.l.tls]` has no `certificate`",
        ),
        (
            tcp("'health'", "tls = { certificate = '/c' }"),
            "line 4: this `[listener.l.tls]` has no `key`",
        ),
        (
            tcp("'health'", "tls = { certificate = 'c' }"),
            "line 4: \"c\", which is `certificate` of `[listener.l.tls]`, is no absolute path",
        ),
        (
            tcp("'health'", "tls = { cert = '/c' }"),
            "line 4: `cert` is no key of `[listener.l.tls]`",
        ),
        (
            tcp("'health'", "tls = true"),
            "line 4: `listener.l.tls` is true or false; write it as a table, `[listener.l.tls]`",
        ),
        // Who asks there.
        (
            tcp("'imds'", "caller = 'named'\ncallers = ['user']"),
            "line 5: `[listener.l]` has `caller` and `callers`",
        ),
        (
            tcp("'imds'", "caller = 'naned'"),
            "line 4: `caller` of `[listener.l]` names `naned`, of whom nothing is said; write `named`, or add `[caller.naned]`",
        ),
        (
            tcp("'app-service'", "callers = ['secret', 'some body']"),
            "line 4: `callers` of `[listener.l]` names `some body`, of whom nothing is said; add `[caller.\"some body\"]`",
        ),
        (
            tcp("'app-service'", "callers = []"),
            "line 4: `callers` of `[listener.l]` is an empty list",
        ),
        (
            tcp("'app-service'", "callers = ['secret', 'secret']"),
            "line 4: `callers` of `[listener.l]` has `secret` twice",
        ),
        (
            tcp("'metrics', 'health'", "caller = 'named'"),
            "line 4: `[listener.l]` gives tokens to nobody, so it has no `caller`; leave it out",
        ),
        (
            tcp("'health'", "callers = ['named']"),
            "so it has no `callers`; leave it out",
        ),
        (
            tcp("'app-service'", "callers = ['user', 'named']"),
            "line 1: nobody could get a token at `[listener.l]`: in `app-service` callers are known by secrets, and none has one",
        ),
        (
            tcp("'health', 'imds'", ""),
            "line 1: nobody could get a token at `[listener.l]`: in `imds` callers cannot be told apart over TCP; add `caller = \"NAME\"` here",
        ),
        (
            tcp("'envoy-ext-authz', 'health'", "caller = 'named'"),
            "`[listener.l]` has `envoy-ext-authz` beside other protocols",
        ),
        (
            tcp("'envoy-ext-authz'", "callers = ['user']"),
            "in `envoy-ext-authz` callers cannot be told apart over TCP",
        ),
        (
            listener("address = 'unix:/x'\nprotocols = ['imds']\ncallers = ['secret']"),
            "line 1: nobody could get a token at `[listener.l]`: in `imds` callers are known by their users, and none has one; add `users = [1000]`",
        ),
        (
            listener("address = 'systemd:x'\nprotocols = ['envoy-ext-authz']\ncallers = ['secret']"),
            "callers are known by their users, and none has one",
        ),
        (
            listener("address = 'unix:/x'\nprotocols = ['app-service']\ncallers = ['user']"),
            "callers are known by secrets, and none has one",
        ),
        (
            listener("address = 'unix:/x'\nmode = '0666'\nprotocols = ['imds']\ncaller = 'named'"),
            "line 3: `mode` of `[listener.l]` is 0666, so every user of this machine can connect and be `named`; write `mode = \"0660\"`",
        ),
        // Addresses.
        (
            far("'imds'", &format!("caller = 'named'\n{tls}")),
            "line 2: `[listener.l]` is at 0.0.0.0:1, which is no loopback address, so other machines could reach it: `imds` has no secrets",
        ),
        (
            far("'envoy-ext-authz'", &format!("caller = 'named'\n{tls}")),
            "`envoy-ext-authz` answers whoever asks with a token; write a loopback address, such as `127.0.0.1:1`",
        ),
        (
            far("'app-service', 'metrics'", tls),
            "`metrics` tells whoever asks what the callers do",
        ),
        (
            far("'app-service'", ""),
            "line 2: `[listener.l]` is at 0.0.0.0:1, which is no loopback address, so other machines could reach it: what is said there would cross the network in the clear; add `tls",
        ),
        (far("'health'", ""), "would cross the network in the clear"),
        (
            far("'app-service'", &format!("caller = 'named'\n{tls}")),
            "line 4: `[listener.l]` is at 0.0.0.0:1, which is no loopback address, so other machines could reach it: whoever reached it would be `named`; leave `caller` out",
        ),
        (
            listener("address = '[::ffff:127.0.0.1]:1'\nprotocols = ['app-service']"),
            "is at [::ffff:127.0.0.1]:1, which is no loopback address",
        ),
        (
            listener("address = '[::]:1'\nprotocols = ['app-service']"),
            "is at [::]:1, which is no loopback address",
        ),
        (
            format!(
                "{}\n[listener.z]\naddress = '127.0.0.1:1'\nprotocols = ['health']",
                tcp("'health'", "")
            ),
            "line 12: `[listener.z]` has the address 127.0.0.1:1, which is that of `[listener.l]`; write another one",
        ),
        // Callers.
        (
            caller("secret = ['x']"),
            "line 2: `secret` is no key of `[caller.a]`; write `secrets`",
        ),
        (
            caller("x = 1"),
            "line 2: `x` is no key of `[caller.a]`; its keys are `secrets`, `users`, `default-identity`, `rate`, `refresh-rate`, `concurrency`, `token`, `authorize-only`, `http`",
        ),
        (
            caller("secrets = []"),
            "line 2: `secrets` of `[caller.a]` is an empty list",
        ),
        (
            caller("secrets = 'x'"),
            "line 2: `secrets` of `[caller.a]` is a text; write a list of hashes, as in `secrets = [\"sha256:…\"]`",
        ),
        (
            caller("secrets = [\n1]"),
            "line 3: `secrets` of `[caller.a]` has a number in its list",
        ),
        (
            caller("secrets = [\n'hunter2']"),
            "line 3: what stands in `secrets` of `[caller.a]` is no hash of a secret; write what `managed-identity secret new` prints",
        ),
        (
            caller(&format!("secrets = ['{HASH}', '{HASH}']")),
            "line 2: a secret stands twice in `secrets` of `[caller.a]`",
        ),
        (
            caller(&format!(
                "secrets = ['{HASH}']\n[caller.b]\nsecrets = ['{OTHER_HASH}', '{HASH}']"
            )),
            "line 4: a secret in `secrets` of `[caller.b]` is in those of `[caller.a]` too",
        ),
        (caller("users = []"), "line 2: `users` of `[caller.a]` is an empty list"),
        (
            caller("users = 1000"),
            "line 2: `users` of `[caller.a]` is a number; write numbers and names of users",
        ),
        (
            caller("users = [\n1.5]"),
            "line 3: `users` of `[caller.a]` has a number in its list",
        ),
        (
            caller("users = [\n4294967295]"),
            "line 3: 4294967295 is no number of a user, in `users` of `[caller.a]`",
        ),
        (
            caller("users = [1,\n'nobody-here']"),
            "line 3: \"nobody-here\" is no user in /etc/passwd; write the number that `id -u` prints for it, in `users` of `[caller.a]`",
        ),
        (
            caller("users = [33, 'www-data']"),
            "line 2: the user 33 stands twice in `users` of `[caller.a]`",
        ),
        (
            caller("users = [33]\n[caller.b]\nusers = ['www-data']"),
            "line 4: the user 33 in `users` of `[caller.b]` is in those of `[caller.a]` too",
        ),
        (
            caller("default-identity = 'me'"),
            "line 2: \"me\", which is `default-identity` of `[caller.a]`, is no identity; write",
        ),
        (
            caller("default-identity = 'any'"),
            "line 2: \"any\", which is `default-identity` of `[caller.a]`, is no identity",
        ),
        (
            caller("default-identity = 'system-assigned'\n[[caller.a.token]]\naudiences = ['x']"),
            "line 2: `[caller.a]` has the default identity system-assigned, which no `[[caller.a.token]]` is for, so it would always be denied; add `identities = [\"system-assigned\"]`",
        ),
        (
            caller("rate = 5"),
            "line 2: `rate` of `[caller.a]` is a number; write it like `rate = \"100/minute\"`",
        ),
        (
            caller("[[caller.a.token]]"),
            "line 2: this `[[caller.a.token]]` has no `audiences`",
        ),
        // Limits.
        (
            limits("connection = 1"),
            "line 2: `connection` is no key of `[limits]`; write `connections`",
        ),
        (
            limits("connections = 0"),
            "line 2: `connections` of `[limits]` is no number from 1 to 1000000; write it like `connections = 16384`",
        ),
        (
            limits("header-bytes = 8191"),
            "line 2: `header-bytes` of `[limits]` is no number from 8192",
        ),
        (
            limits("body-bytes = '1M'"),
            "line 2: `body-bytes` of `[limits]` is no number from 1",
        ),
        (
            limits("request-timeout = 10"),
            "line 2: `request-timeout` of `[limits]` is a number; write it like `request-timeout = \"10s\"`",
        ),
        (
            limits("request-timeout = '10'"),
            "line 2: \"10\", which is `request-timeout` of `[limits]`, is no time; write it like `10s`",
        ),
        (
            limits("idle-timeout = '0s'"),
            "\"0s\", which is `idle-timeout` of `[limits]`, is no time from 100ms to 1h",
        ),
        (limits("drain-timeout = '61m'"), "is no time from 100ms to 1h"),
        (
            limits("token-timeout = 10s"),
            "line 2: what `token-timeout` is set to is no number",
        ),
        // The upstream.
        (
            "upstream = 'x'".to_owned(),
            "line 1: `upstream` is a text; write it as a table, `[upstream]`",
        ),
        (
            "[upstream]\nfederation = {}".to_owned(),
            "line 2: `federation` is no key of `[upstream]`; write `federated`",
        ),
        (
            "[upstream]\nx = {}".to_owned(),
            "line 2: `x` is no key of `[upstream]`; its only key is `federated`",
        ),
        (
            with_listener("[upstream.federated]"),
            "line 1: this `[upstream.federated]` has no `tenant-id`; add it",
        ),
        (
            with_listener("[upstream.federated]\ntenant-id = 't'"),
            "line 1: this `[upstream.federated]` has no `client-id`",
        ),
        (
            with_listener(&format!("[upstream.federated]\ntenant-id = 't'\nclient-id = '{ID}'")),
            "line 1: this `[upstream.federated]` has no `token-file`",
        ),
        (
            federated("tenant-id = 'a/b'"),
            "line 2: \"a/b\", which is `tenant-id` of `[upstream.federated]`, is neither a GUID nor a domain name",
        ),
        (
            federated("client-id = 'x'"),
            "line 2: \"x\", which is `client-id` of `[upstream.federated]`, is no GUID",
        ),
        (
            federated("token-file = 'token'"),
            "line 2: \"token\", which is `token-file` of `[upstream.federated]`, is no absolute path",
        ),
        (federated("token-file = '/'"), "is no absolute path of a file"),
        (
            federated("authority = 'http://127.0.0.1:1'"),
            "line 2: \"http://127.0.0.1:1\", which is `authority` of `[upstream.federated]`, is not `https`",
        ),
        (
            federated("authority = 'login'"),
            "is no URL; write it like `https://login.microsoftonline.com`",
        ),
        (
            federated("authority = 'https://a?b'"),
            "has more than a host and a path",
        ),
        (
            federated("x = 1"),
            "line 2: `x` is no key of `[upstream.federated]`; its keys are",
        ),
    ] {
        let error = read(&text).expect_err(&text).to_string();
        assert!(error.contains(message), "{text:?}\n  {error}\n  {message}");
        assert!(error.starts_with(message) || !message.starts_with("line "), "{error}");
    }
}

/// A caller with grants, and a secret of these lines.
fn secret(lines: &str) -> String {
    with_listener(&format!(
        "[secret.vault]\n{lines}\n[caller.envoy]\n[[caller.envoy.token]]\naudiences = ['https://vault.azure.net']\n\
         [caller.batch]\ndefault-identity = 'client-id:{ID}'\n[[caller.batch.token]]\n\
         audiences = ['https://*.a.example']\nidentities = ['client-id:{ID}', 'system-assigned']\n"
    ))
}

#[test]
fn a_secret_is_what_its_table_says() {
    let config = read(&secret("caller = 'envoy'\naudience = 'https://vault.azure.net'")).unwrap();
    let vault = &config.secrets["vault"];
    let expected = SecretConfig {
        caller: Caller::new("envoy"),
        audience: "https://vault.azure.net".to_owned(),
        identity: None,
        prefix: "Bearer ".to_owned(),
        file: None,
    };
    assert_eq!(*vault, expected);
    assert_eq!(config.secret_identity(vault), Identity::PlatformDefault);
    let config = read(&secret(
        "caller = 'batch'\naudience = 'https://b.a.example'\nprefix = ''\nfile = '/run/a.json'",
    ))
    .unwrap();
    let vault = &config.secrets["vault"];
    assert_eq!(
        (vault.prefix.as_str(), vault.file.as_deref()),
        ("", Some(std::path::Path::new("/run/a.json")))
    );
    assert_eq!(config.secret_identity(vault), Identity::ClientId(ID.to_owned()));
    let config = read(&secret(
        "caller = 'batch'\naudience = 'https://b.a.example'\nidentity = 'system-assigned'",
    ))
    .unwrap();
    assert_eq!(
        config.secret_identity(&config.secrets["vault"]),
        Identity::SystemAssigned
    );
}

#[test]
fn a_listener_for_secrets_needs_one_that_is_told_there() {
    const CALLERS: &str = "[caller.envoy]\nusers = [1]\n[[caller.envoy.token]]\naudiences = ['https://a.example']\n\
                           [caller.other]\nusers = [2]\n[[caller.other.token]]\naudiences = ['https://a.example']\n";
    const SECRET: &str = "[secret.vault]\ncaller = 'envoy'\naudience = 'https://a.example'\n";
    for (who, secret, expected) in [
        ("", SECRET, None),
        ("caller = 'envoy'\n", SECRET, None),
        ("callers = ['other', 'envoy']\n", SECRET, None),
        ("", "", Some("with `caller` and `audience`")),
        (
            "caller = 'envoy'\n",
            "",
            Some("with `caller = \"envoy\"` and `audience`"),
        ),
        (
            "caller = 'other'\n",
            SECRET,
            Some("with `caller = \"other\"` and `audience`"),
        ),
        (
            "callers = ['other']\n",
            SECRET,
            Some("with `caller = \"other\"` and `audience`"),
        ),
    ] {
        let text = format!("[listener.l]\naddress = 'unix:/x'\nprotocols = ['envoy-sds']\n{who}{secret}{CALLERS}");
        match (read(&text), expected) {
            (Ok(_), None) => {}
            (Err(error), Some(cure)) => {
                let error = error.to_string();
                let fault =
                    "line 3: `[listener.l]` has `envoy-sds`, but there is no secret for anybody who may ask there";
                assert!(error.starts_with(fault) && error.ends_with(cure), "{who}: {error}");
            }
            (read, _) => panic!("{who}{secret}: {read:?}"),
        }
    }
}

#[test]
fn a_secret_that_could_not_be_told_is_refused() {
    let vault = "caller = 'envoy'\naudience = 'https://vault.azure.net'";
    for (text, message) in [
        (
            secret("audience = 'https://a.example'"),
            "line 1: this `[secret.vault]` has no `caller`",
        ),
        (
            secret("caller = 'envoy'"),
            "line 1: this `[secret.vault]` has no `audience`",
        ),
        (
            secret("caller = 'envoi'\naudience = 'https://vault.azure.net'"),
            "line 2: `caller` of `[secret.vault]` names `envoi`, of whom nothing is said; write `envoy`",
        ),
        (
            secret("caller = 'envoy'\naudience = 'https://a.example'"),
            "line 3: `[secret.vault]` is a token for https://a.example as platform-default, which `envoy` is not granted; \
             add a `[[caller.envoy.token]]` with `audiences = [\"https://a.example\"]`",
        ),
        (
            secret("caller = 'envoy'\naudience = 'https://vault.azure.net'\nidentity = 'system-assigned'"),
            "with `audiences = [\"https://vault.azure.net\"]` and `identities = [\"system-assigned\"]`",
        ),
        (
            secret("caller = 'batch'\naudience = 'https://*.a.example'"),
            "is more than one audience; write the one that the token is for",
        ),
        (
            secret(&format!("{vault}\nidentity = '*'")),
            "line 4: \"*\", which is `identity` of `[secret.vault]`",
        ),
        (
            secret(&format!("{vault}\nprefix = \"a\\n\"")),
            "cannot stand at the start of a header",
        ),
        (
            secret(&format!("{vault}\nfile = 'vault.yaml'")),
            "is no absolute path of a file",
        ),
        (
            secret(&format!("{vault}\nfile = '/run/vault'")),
            "ends in neither `.yaml` nor `.json`",
        ),
        (
            secret(&format!("{vault}\nfiles = '/a.yaml'")),
            "`files` is no key of `[secret.vault]`; write `file`",
        ),
        (
            secret(&format!(
                "{vault}\nfile = '/run/a.yaml'\n[secret.other]\n{vault}\nfile = '/run/a.yaml'"
            )),
            "line 4: `file` of `[secret.vault]` is that of `[secret.other]`; a file has one secret",
        ),
        (
            with_listener("[secret.'a b']"),
            "line 1: a secret has no name, or one with more than visible ASCII",
        ),
    ] {
        let error = read(&text).expect_err(&text).to_string();
        assert!(error.contains(message), "{text:?}\n  {error}\n  {message}");
    }
    // Whoever reads files needs no listener.
    let rest = secret(&format!("{vault}\nfile = '/run/a.yaml'"));
    assert!(read(rest.split("[listener.l]").next().unwrap()).is_ok());
}

#[test]
fn a_secret_in_the_wrong_place_is_not_shown() {
    for text in [
        "[caller.a]\nsecrets = ['hunter2hunter2hunter2']",
        "[caller.a]\nsecrets = 'hunter2hunter2hunter2'",
        "[caller.a]\nsecrets = hunter2hunter2hunter2",
        "[caller.a]\nsecrets = ['sha256:hunter2hunter2hunter2']",
        "[caller.a]\nsecret = 'hunter2hunter2hunter2'",
    ] {
        let error = read(text).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[test]
fn what_systemd_has_opened_is_looked_at_when_it_is_there() {
    let config = read(&listener("address = 'systemd:x'\nprotocols = ['imds']")).unwrap();
    for (address, message) in [
        ("unix:/x", None),
        ("127.0.0.1:1", Some("cannot be told apart over TCP")),
        ("0.0.0.0:1", Some("no loopback address")),
    ] {
        let checked = config.check_listener("l", &address.parse().unwrap());
        match message {
            None => assert_eq!(checked, Ok(())),
            Some(message) => assert!(checked.unwrap_err().to_string().contains(message), "{address}"),
        }
    }
}

#[test]
fn the_environment_says_the_same_as_the_table() {
    let federated = Federated {
        tenant_id: "t".to_owned(),
        client_id: ID.to_owned(),
        token_file: "/t".into(),
        authority: None,
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut expected = vec![
        pair("AZURE_TENANT_ID", "t"),
        pair("AZURE_CLIENT_ID", ID),
        pair("AZURE_FEDERATED_TOKEN_FILE", "/t"),
    ];
    assert_eq!(federated.environment(), expected);
    let authority = Some("https://login.example".to_owned());
    expected.push(pair("AZURE_AUTHORITY_HOST", "https://login.example"));
    assert_eq!(Federated { authority, ..federated }.environment(), expected);
}

#[test]
fn the_example_is_a_configuration_of_everything() {
    let text = include_str!("../../../../../examples/serve/broker.toml");
    let config = Config::from_toml_with(text, |name| (name == "nobody").then_some(65_534)).unwrap();
    assert!(config.listeners.len() > 2 && config.callers.len() > 2);
    // What is set there is the default, so that the example says what it is; what is in comments can be put in.
    assert_eq!(config.limits, Limits::default());
    let uncommented: String = text.lines().map(|line| format!("{}\n", uncommented(line))).collect();
    assert_ne!(uncommented, text);
    for key in [
        "mode",
        "callers",
        "tls",
        "hosts",
        "secrets",
        "users",
        "default-identity",
        "rate",
        "refresh-rate",
        "concurrency",
        "audiences",
        "identities",
        "authority",
        "audience",
        "identity",
        "prefix",
        "file",
    ] {
        let is_shown = uncommented.lines().any(|line| line.starts_with(&format!("{key} = ")));
        assert!(is_shown, "{key} is not in examples/serve/broker.toml");
    }
    let config = Config::from_toml_with(&uncommented, |_| Some(1)).unwrap();
    assert!(matches!(config.upstream, Upstream::Federated(_)));
    assert!(
        config
            .listeners
            .values()
            .any(|listener| matches!(listener.address, Address::Systemd(_)))
    );
}

/// The line that a comment shows, if it shows one.
fn uncommented(line: &str) -> &str {
    let is_key = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    line.strip_prefix("# ")
        .filter(|rest| rest.starts_with('[') || rest.split_once(" = ").is_some_and(|(key, _)| is_key(key)))
        .unwrap_or(line)
}
