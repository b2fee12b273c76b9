//! Where a guest gets by HTTP: to the endpoint, in exactly the spelling in which the environment names it.

use super::witness::Witness;
use super::*;
use std::net::Ipv6Addr;

/// Hosts and ports. `{ok}` is the endpoint's port, `{no}` the other server's.
const AUTHORITIES: &[&str] = &[
    // Other servers.
    "127.0.0.1:{no}",
    "127.0.0.1",
    "127.0.0.1:80",
    "127.0.0.2:{ok}",
    "localhost:{ok}",
    "localhost:{no}",
    "[::1]:{ok}",
    "0.0.0.0:{ok}",
    "[::]:{ok}",
    "10.0.0.1",
    "169.254.169.254",
    "169.254.169.254:{ok}",
    "168.63.129.16",
    "8.8.8.8",
    "203.0.113.7:{ok}",
    "[2001:db8::1]:{ok}",
    "evil.example",
    "127.0.0.1.evil.example:{ok}",
    "metadata.azure.internal",
    // Other spellings of the right one.
    "[::ffff:127.0.0.1]:{ok}",
    "[::ffff:7f00:1]:{ok}",
    "2130706433:{ok}",
    "017700000001:{ok}",
    "0x7f000001:{ok}",
    "0x7f.1:{ok}",
    "0177.0.0.1:{ok}",
    "127.1:{ok}",
    "127.0.0.001:{ok}",
    "127.0.0.1.:{ok}",
    "127.0.0.1:0{ok}",
    "\u{ff11}27.0.0.1:{ok}",
    "127\u{3002}0.0.1:{ok}",
    "127.0.0.%31:{ok}",
    "127.0.0.1%3A{ok}",
    // User information.
    "127.0.0.1:{ok}@evil.example",
    "127.0.0.1:{ok}@127.0.0.1:{no}",
    "127.0.0.1:{no}@127.0.0.1:{ok}",
    "user@127.0.0.1:{ok}",
    "user:password@127.0.0.1:{ok}",
    "@127.0.0.1:{ok}",
    "127.0.0.1:{ok}@",
    "127.0.0.1:{ok}\\@127.0.0.1:{no}",
    // No host, no port, too much of either.
    "",
    "-",
    "*",
    ":{ok}",
    "127.0.0.1:",
    "127.0.0.1:0",
    "127.0.0.1:99999",
    "127.0.0.1:{ok}:{no}",
    "127.0.0.1:{ok},127.0.0.1:{no}",
    "[::1",
    "[::1%25lo]:{ok}",
    // More than an authority.
    "127.0.0.1:{ok}/msi",
    "127.0.0.1:{ok}?",
    "127.0.0.1:{ok}#",
    "127.0.0.1:{ok}\\evil.example",
    "http://127.0.0.1:{ok}",
    "//127.0.0.1:{ok}",
    " 127.0.0.1:{ok}",
    "127.0.0.1:{ok} ",
    "127.0.0.1:{ok}\t",
    "127.0.0.1:{ok}\n",
    "127.0.0.1:{ok}\0",
    "127.0.0.1:{ok}\r\nHost: evil.example",
];

/// Paths and queries.
const PATHS: &[&str] = &[
    // Other paths.
    "",
    "-",
    "/",
    "/admin",
    "/msi",
    "/msi/",
    "/msi/tokens",
    "/msi/token/",
    "/msi/token/x",
    "/msi/token;x",
    "/msi/token%00",
    "/MSI/TOKEN",
    "/x/msi/token",
    "/admin?/msi/token",
    "?/msi/token",
    // Paths that some servers would take for the right one, or for another.
    "/msi/./token",
    "/msi/../msi/token",
    "/msi/token/..",
    "/msi/token/../admin",
    "/msi/token/..;/admin",
    "/msi/%2e%2e/msi/token",
    "/msi/token/%2E%2E/admin",
    "/msi/token/%252e%252e/admin",
    "/msi%2ftoken",
    "/msi/toke%6e",
    "//msi/token",
    "/msi//token",
    "//127.0.0.1:{no}/msi/token",
    "/msi\\token",
    "/msi/token\\..\\admin",
    "\\\\127.0.0.1:{no}\\msi\\token",
    "/msi/tok\u{e9}n",
    "/msi/token%",
    "/msi/token?%",
    "/msi/token?\u{e9}",
    // Other forms of the request line (RFC 9112 section 3.2).
    "http://evil.example/msi/token",
    "http://127.0.0.1:{no}/msi/token",
    "http://127.0.0.1:{ok}/msi/token",
    "127.0.0.1:{no}",
    "@127.0.0.1:{no}/msi/token",
    ":{no}/msi/token",
    "msi/token",
    "*",
    // More than a path.
    " /msi/token",
    "/msi/token ",
    "/msi/token\t",
    "/msi/token\n",
    "/msi/token\0",
    "/msi/token?x y",
    "/msi/token?x\r\ny",
    "/msi/token\r\nX: y",
    "/msi/token HTTP/1.1\r\nHost: evil.example\r\n\r\nGET /admin",
];

const METHODS: &[&str] = &[
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "CONNECT",
    "TRACE",
    "PURGE",
    "get",
    "",
    " GET",
    "GET ",
    "G\0T",
    "GET /admin HTTP/1.1\r\nx:",
];

const SCHEMES: &[&str] = &[
    "https",
    "hTTpS",
    "httpx",
    "ftp",
    "file",
    "unix",
    "http+unix",
    "ws",
    "",
    "-",
    "http:",
    "http://",
    "h ttp",
    "http\r\n",
];

/// Header fields, as `name=value`.
const FIELDS: &[&str] = &[
    // Whose request it is, and for whom.
    "host=evil.example",
    "Host=127.0.0.1",
    "forwarded=for=203.0.113.7",
    "via=1.1 evil.example",
    "x-forwarded-for=203.0.113.7",
    "X-Forwarded-For=203.0.113.7",
    "x-forwarded-host=evil.example",
    "x-forwarded-whatever=x",
    "cookie=x=y",
    // What it asks for, past the request line.
    "x-http-method=PUT",
    "x-http-method-override=PUT",
    "x-original-url=/admin",
    "x-rewrite-url=/admin",
    // How it is sent.
    "connection=keep-alive",
    "keep-alive=timeout=1000",
    "proxy-connection=keep-alive",
    "proxy-authenticate=Basic",
    "proxy-authorization=Basic eDp5",
    "transfer-encoding=chunked",
    "content-length=5",
    "upgrade=h2c",
    "http2-settings=x",
    "te=trailers",
    "trailer=x",
    "expect=100-continue",
    // More than a field.
    "=x",
    "x y=1",
    "host =evil.example",
    ":authority=evil.example",
    "x\r\nhost=evil.example",
    "x=1\r\nHost: evil.example",
    "x=1\nHost: evil.example",
    "x=1\0",
];

/// Requests that are the right one, and the request line that they become.
const CONTROLS: &[(&[&str], &str)] = &[
    (
        &["GET", "http", "127.0.0.1:{ok}", "/msi/token"],
        "GET /msi/token HTTP/1.1",
    ),
    (
        &["GET", "HTTP", "127.0.0.1:{ok}", "/msi/token?a=%0d%0a", "metadata=true"],
        "GET /msi/token?a=%0d%0a HTTP/1.1",
    ),
    // What is after the number sign is for the guest alone (RFC 9110 section 7.1).
    (
        &["-", "http", "127.0.0.1:{ok}", "/msi/token#/admin"],
        "GET /msi/token HTTP/1.1",
    ),
];

/// The right request with one thing wrong, for each of the lists.
fn attempts() -> Vec<Vec<&'static str>> {
    let right = CONTROLS[0].0;
    let parts = [METHODS, SCHEMES, AUTHORITIES, PATHS];
    let mut attempts = Vec::new();
    for (part, list) in parts.iter().enumerate() {
        attempts.extend(list.iter().map(|wrong| {
            let mut attempt = right.to_vec();
            attempt[part] = wrong;
            attempt
        }));
    }
    attempts.extend(FIELDS.iter().map(|field| [right, &[*field]].concat()));
    attempts
}

async fn send(broker: &Broker, parts: &[&str], ok: SocketAddr, no: SocketAddr) -> (Cause, String) {
    let parts: Vec<String> = parts
        .iter()
        .map(|part| {
            part.replace("{ok}", &ok.port().to_string())
                .replace("{no}", &no.port().to_string())
        })
        .collect();
    let words: Vec<&str> = ["send"].into_iter().chain(parts.iter().map(String::as_str)).collect();
    report(broker, &words).await
}

/// Whether a request was stopped on its way out: by the policy, or by `wasi:http` before it.
fn was_stopped((cause, message): &(Cause, String)) -> bool {
    const BY_WASI: &[&str] = &[
        "refused ",
        "failed: ErrorCode::HttpRequestUriInvalid",
        "failed: ErrorCode::HttpRequestBodySize",
        "failed: ErrorCode::HttpProtocolError",
    ];
    match cause {
        Cause::Denied => message.starts_with("denied The request ") && message.contains(" was not sent: "),
        Cause::Unsupported => BY_WASI.iter().any(|start| message.starts_with(start)),
        _ => false,
    }
}

/// Servers where a request might end up that is for the endpoint's port: other addresses of this machine, if it has them.
fn neighbours(server: &Witness) -> Vec<Witness> {
    let port = server.address().port();
    [([127, 0, 0, 2], port).into(), (Ipv6Addr::LOCALHOST, port).into()]
        .into_iter()
        .filter_map(|address| Witness::at(address).ok())
        .collect()
}

#[tokio::test]
async fn nothing_but_the_endpoint_is_reached() {
    for (wasi, guest) in GUESTS {
        let (endpoint, other) = (Witness::start(), Witness::start());
        let neighbours = neighbours(&endpoint);
        let (ok, no) = (endpoint.address(), other.address());
        let broker = broker(guest, ok).build().unwrap();

        let mut passed = Vec::new();
        for attempt in attempts() {
            let outcome = send(&broker, &attempt, ok, no).await;
            if !was_stopped(&outcome) {
                passed.push((attempt, outcome));
            }
        }
        assert!(passed.is_empty(), "{wasi}: {passed:#?}");
        assert_eq!(endpoint.heads(), [""; 0], "{wasi}");

        for (parts, _) in CONTROLS {
            let outcome = send(&broker, parts, ok, no).await;
            assert_eq!(
                outcome,
                (Cause::Unsupported, "status 200".to_owned()),
                "{wasi} {parts:?}"
            );
        }
        let heads = endpoint.heads();
        assert_eq!(heads.len(), CONTROLS.len(), "{wasi}: {heads:?}");
        for (head, (_, line)) in heads.iter().zip(CONTROLS) {
            let lines: Vec<&str> = head.split("\r\n").collect();
            assert_eq!(lines[0], *line, "{wasi}");
            assert!(lines.contains(&format!("host: {ok}").as_str()), "{wasi}: {head:?}");
        }
        for server in neighbours.iter().chain([&other]) {
            assert_eq!(server.heads(), [""; 0], "{wasi} {}", server.address());
        }
    }
}

#[tokio::test]
async fn a_granted_endpoint_is_reached_beside_the_environments() {
    for (wasi, guest) in GUESTS {
        let (endpoint, granted) = (Witness::start(), Witness::start());
        let broker = broker(guest, endpoint.address())
            .allow_endpoint(&format!("http://{}/granted", granted.address()))
            .unwrap()
            .build()
            .unwrap();
        for (path, reached) in [
            ("/granted", true),
            ("/granted/below", true),
            ("/grantedx", false),
            ("/", false),
        ] {
            let parts = ["GET", "http", "127.0.0.1:{no}", path];
            let outcome = send(&broker, &parts, endpoint.address(), granted.address()).await;
            assert_eq!(was_stopped(&outcome), !reached, "{wasi} {path}: {outcome:?}");
        }
        assert_eq!((endpoint.heads().len(), granted.heads().len()), (0, 2), "{wasi}");
    }
}

#[tokio::test]
async fn of_the_metadata_service_only_its_tokens_are_reached() {
    for (wasi, guest) in GUESTS {
        let server = Witness::start();
        let host = format!("http://{}", server.address());
        let broker = in_environment(guest, &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &host)])
            .build()
            .unwrap();
        for (path, reached) in [
            ("/metadata/identity/oauth2/token", true),
            ("/metadata/identity/oauth2/token?resource=x", true),
            ("/metadata/identity/oauth2", false),
            ("/metadata/identity/oauth2/token/x", false),
            ("/metadata/identity/info", false),
            ("/metadata/instance", false),
            ("/metadata/attested/document", false),
            ("/metadata/scheduledevents", false),
            ("/", false),
        ] {
            let parts = ["GET", "http", "127.0.0.1:{ok}", path, "metadata=true"];
            let outcome = send(&broker, &parts, server.address(), server.address()).await;
            assert_eq!(was_stopped(&outcome), !reached, "{wasi} {path}: {outcome:?}");
        }
        assert_eq!(server.heads().len(), 2, "{wasi}");
    }
}

#[tokio::test]
async fn an_environment_does_not_open_what_is_not_local() {
    for (wasi, guest) in GUESTS {
        // Many systems take 0.0.0.0 for the loopback address when they connect.
        let server = Witness::start();
        for host in [
            "0.0.0.0",
            "[::]",
            "8.8.8.8",
            "203.0.113.7",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            let authority = format!("{host}:{}", server.address().port());
            let endpoint = format!("http://{authority}{PATH}");
            let broker = in_environment(guest, &[("IDENTITY_ENDPOINT", &endpoint), ("IDENTITY_HEADER", "x")])
                .build()
                .unwrap();
            let parts = ["GET", "http", &authority, PATH];
            let (cause, message) = send(&broker, &parts, server.address(), server.address()).await;
            assert_eq!(cause, Cause::Denied, "{wasi} {host}: {message}");
        }
        assert_eq!(server.heads(), [""; 0], "{wasi}");
    }
}

#[tokio::test]
async fn a_redirect_is_given_to_the_guest_and_not_followed() {
    for (wasi, guest) in GUESTS {
        let other = Witness::start();
        let endpoint = Witness::redirecting(&format!("http://{}{PATH}", other.address()));
        let broker = broker(guest, endpoint.address()).build().unwrap();
        let outcome = send(&broker, CONTROLS[0].0, endpoint.address(), other.address()).await;
        assert_eq!(outcome, (Cause::Unsupported, "status 307".to_owned()), "{wasi}");
        assert_eq!((endpoint.heads().len(), other.heads().len()), (1, 0), "{wasi}");
    }
}
