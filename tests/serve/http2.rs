//! Clients that speak HTTP/2 wrongly, frame by frame, at the services of Envoy.

use crate::support::emulated::Emulated;
use crate::support::served::Served;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use managed_identity_emulator::Source;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// When to give up waiting for what the server does by itself. It closes whoever says nothing later than that.
const DEADLINE: Duration = Duration::from_secs(15);

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// How a client that does something ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The server waits for more, until the client goes.
    Kept,
    /// The server answers what it has asked.
    Answered,
    /// The server refuses what it has asked, and goes on.
    Reset,
    /// The server closes the connection.
    Closed,
}

use End::{Answered, Closed, Kept, Reset};

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field of a request with its name, in HPACK without compression.
fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [&[0][..], &text(name), &text(value)].concat()
}

/// The fields of a call of this method.
fn fields(method: &str) -> Vec<u8> {
    [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", method),
        field(":authority", "localhost"),
        field("content-type", "application/grpc"),
    ]
    .concat()
}

fn serve(platform: &Emulated) -> Served {
    let arguments = ["--ext-authz=127.0.0.1:0", "--allow=https://vault.azure.net"];
    Served::start(platform, Source::AppService, &arguments, &["envoy-ext-authz"])
}

/// What is answered with a token.
fn granted() -> CheckRequest {
    let request = Request {
        http: Some(HttpRequest::default()),
        ..Request::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(request),
            context_extensions: [("audience".to_owned(), "https://vault.azure.net".to_owned())].into(),
            ..AttributeContext::default()
        }),
    }
}

/// A client that does all as it should gets a token.
fn is_served(address: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut client = AuthorizationClient::connect(format!("http://{address}")).await.unwrap();
        let answer = client.check(granted()).await.unwrap().into_inner();
        assert_eq!(answer.status.unwrap().code, 0);
    });
}

#[test]
fn broken_clients_are_refused_or_closed_and_others_get_their_tokens() {
    let platform = Emulated::start();
    let served = serve(&platform);
    let address = served.address("envoy-ext-authz");
    let settings = frame(SETTINGS, 0, 0, &[]);
    let begun = [PREFACE, &settings].concat();
    let after = |frames: &[u8]| [&begun, frames].concat();
    let many = |times: u32, each: &dyn Fn(u32) -> Vec<u8>| after(&(0..times).flat_map(each).collect::<Vec<u8>>());
    let call = |stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(CHECK));
    let half = fields(CHECK);
    let long = field("x-long", &"y".repeat(120));
    let increment = (i32::MAX as u32).to_be_bytes();
    let huge = [&[0xff, 0xff, 0xff][..], &[DATA, 0, 0, 0, 0, 1]].concat();
    let uppercase = [fields(CHECK), field("X-Upper", "x")].concat();
    let hop = [fields(CHECK), field("connection", "close")].concat();
    let missing = [field(":method", "POST"), field(":scheme", "http")].concat();
    let late = [fields(CHECK), field(":path", "/")].concat();
    let cases: &[(&str, End, Vec<u8>)] = &[
        ("half the first bytes", Kept, PREFACE[..14].to_vec()),
        (
            "wrong first bytes",
            Closed,
            b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
        ),
        ("another version", Closed, b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("nothing after the first bytes", Kept, PREFACE.to_vec()),
        (
            "HTTP/1 after the first bytes",
            Closed,
            [PREFACE, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat(),
        ),
        ("no settings", Answered, [PREFACE, &call(1)].concat()),
        ("half a frame", Kept, after(&call(1)[..20])),
        ("half a head", Kept, after(&frame(HEADERS, END_STREAM, 1, &half))),
        (
            "a head without its body",
            Kept,
            after(&frame(HEADERS, END_HEADERS, 1, &half)),
        ),
        ("a call without a message", Answered, after(&call(1))),
        (
            "a frame larger than is allowed",
            Closed,
            after(&frame(DATA, 0, 1, &vec![0; 100_000])),
        ),
        ("the length of a frame that nobody could hold", Closed, after(&huge)),
        (
            "header fields without end",
            Closed,
            after(
                &[
                    frame(HEADERS, 0, 1, &half),
                    (0..20_000).flat_map(|_| frame(CONTINUATION, 0, 1, &long)).collect(),
                ]
                .concat(),
            ),
        ),
        (
            "empty header fields without end",
            Closed,
            after(
                &[
                    frame(HEADERS, 0, 1, &half),
                    (0..100_000).flat_map(|_| frame(CONTINUATION, 0, 1, &[])).collect(),
                ]
                .concat(),
            ),
        ),
        (
            "header fields that something else comes between",
            Closed,
            after(&[frame(HEADERS, 0, 1, &half), frame(PING, 0, 0, &[0; 8])].concat()),
        ),
        (
            "the end of a head that has not begun",
            Closed,
            after(&frame(CONTINUATION, END_HEADERS, 1, &half)),
        ),
        ("a flood of settings", Kept, many(50_000, &|_| settings.clone())),
        ("a flood of pings", Kept, many(50_000, &|_| frame(PING, 0, 0, &[7; 8]))),
        (
            "calls that are taken back at once",
            Closed,
            many(10_000, &|number| {
                [
                    call(2 * number + 1),
                    frame(RESET, 0, 2 * number + 1, &8_u32.to_be_bytes()),
                ]
                .concat()
            }),
        ),
        (
            "more calls than there may be",
            Closed,
            many(5_000, &|number| frame(HEADERS, END_HEADERS, 2 * number + 1, &half)),
        ),
        ("empty parts without end", Closed, {
            let call = frame(HEADERS, END_HEADERS, 1, &half);
            after(&[call, (0..50_000).flat_map(|_| frame(DATA, 0, 1, &[])).collect()].concat())
        }),
        (
            "priorities without end",
            Kept,
            many(50_000, &|_| frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
        ),
        (
            "more room than there is",
            Closed,
            after(
                &[
                    frame(WINDOW_UPDATE, 0, 0, &increment),
                    frame(WINDOW_UPDATE, 0, 0, &increment),
                ]
                .concat(),
            ),
        ),
        ("no room", Closed, after(&frame(WINDOW_UPDATE, 0, 0, &[0; 4]))),
        ("a push", Closed, after(&frame(PUSH, END_HEADERS, 1, &half))),
        ("a call with the number of a server", Closed, after(&call(2))),
        ("a call with no number", Closed, after(&call(0))),
        ("the same call twice", Closed, after(&[call(3), call(3)].concat())),
        ("a part of no call", Closed, after(&frame(DATA, END_STREAM, 5, b"x"))),
        (
            "settings of half a length",
            Closed,
            after(&frame(SETTINGS, 0, 0, &[0; 5])),
        ),
        ("settings of a call", Closed, after(&frame(SETTINGS, 0, 1, &[]))),
        (
            "a frame size that is none",
            Closed,
            after(&frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])),
        ),
        ("a ping of half a length", Closed, after(&frame(PING, 0, 0, &[0; 4]))),
        (
            "a frame that nobody knows",
            Kept,
            after(&frame(0xbe, 0xff, 0, &[1; 100])),
        ),
        (
            "compression that is none",
            Closed,
            after(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 64])),
        ),
        (
            "a table that is too large",
            Closed,
            after(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0x3f, 0xff, 0xff, 0x7f])),
        ),
        (
            "a name in upper case",
            Closed,
            after(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &uppercase)),
        ),
        (
            "a field of HTTP/1",
            Reset,
            after(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &hop)),
        ),
        (
            "no path",
            Answered,
            after(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &missing)),
        ),
        (
            "a path after other fields",
            Reset,
            after(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &late)),
        ),
    ];
    for (name, end, bytes) in cases {
        let reply = exchange(address, bytes, *end, name);
        let kinds = kinds(&reply);
        let is_as_expected = match end {
            Kept => !kinds.contains(&GOAWAY),
            Answered => kinds.contains(&HEADERS),
            Reset => kinds.contains(&RESET),
            // What is said last is lost where it is not all read.
            Closed => reply.is_empty() || reply.starts_with(b"HTTP/1.1 400 ") || kinds.contains(&GOAWAY),
        };
        assert!(is_as_expected, "{name}: {}", String::from_utf8_lossy(&reply));
        assert!(!contains(&reply, b"Bearer ey"), "{name}: it gets a token");
        is_served(address);
    }
    assert_eq!(
        platform.requests().len(),
        1,
        "the token is kept, and nobody else got one"
    );
    served.signal("TERM");
    let (code, log) = served.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("panicked"), "{log}");
}

/// A call of this method, up to its message.
fn call(method: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &fields(method))
}

#[test]
fn whoever_sends_or_takes_too_slowly_is_cut_off() {
    const CONFIG: &str = "
        [listener.authorization]
        address = '127.0.0.1:0'
        protocols = ['envoy-ext-authz']
        caller = 'envoy'
        [listener.secrets]
        address = '127.0.0.1:0'
        protocols = ['envoy-sds']
        caller = 'envoy'
        [listener.metrics]
        address = '127.0.0.1:0'
        protocols = ['metrics']
        [limits]
        request-timeout = '200ms'
        [secret.vault]
        caller = 'envoy'
        audience = 'https://vault.azure.net'
        [caller.envoy]
        [[caller.envoy.token]]
        audiences = ['https://vault.azure.net']
    ";
    let platform = Emulated::start();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("http2-{}.toml", std::process::id()));
    std::fs::write(&file, CONFIG).unwrap();
    let protocols = ["envoy-ext-authz", "envoy-sds", "metrics"];
    let arguments = ["--config", file.to_str().unwrap()];
    let served = Served::start(&platform, Source::AppService, &arguments, &protocols);
    std::fs::remove_file(&file).unwrap();

    let settings = frame(SETTINGS, 0, 0, &[]);
    // SETTINGS_INITIAL_WINDOW_SIZE.
    let no_room = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let check = call(CHECK);
    let fetch = call("/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets");
    let stream = call("/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets");
    let message = message(&granted());
    let half = frame(DATA, 0, 1, &message[..message.len() / 2]);
    let whole = frame(DATA, END_STREAM, 1, &message);
    let cases = [
        ("half a check", "envoy-ext-authz", [&settings, &check, &half], Answered),
        (
            "half a question for secrets",
            "envoy-sds",
            [&settings, &fetch, &half],
            Answered,
        ),
        (
            "a stream that asks for nothing",
            "envoy-sds",
            [&settings, &stream, &half],
            Answered,
        ),
        (
            "no room for the answer",
            "envoy-ext-authz",
            [&no_room, &check, &whole],
            Closed,
        ),
    ];
    for (name, protocol, frames, end) in cases {
        let bytes = [&[PREFACE][..], &frames.map(Vec::as_slice)].concat().concat();
        let reply = exchange(served.address(protocol), &bytes, end, name);
        assert!(kinds(&reply).contains(&HEADERS), "{name}: {reply:?}");
        assert!(!contains(&reply, b"Bearer ey"), "{name}");
    }
    let has = |line: &str| {
        const METRICS: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let metrics = crate::exchange(served.address("metrics"), METRICS);
        metrics.lines().any(|found| found == line)
    };
    assert!(has(
        "managed_identity_serve_connections_closed_total{reason=\"reply-timeout\"} 1"
    ));
    // The one that asks. Those that have ended may be about to be counted.
    let begun = Instant::now();
    while !has("managed_identity_serve_connections 1") {
        assert!(begun.elapsed() < DEADLINE, "something is left of a connection");
    }
}

/// A message as gRPC has it: not compressed, and with its length.
fn message(message: &impl prost::Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &bytes].concat()
}

/// All that is answered until the connection ends. Fails if the server does not end it where it has to.
fn exchange(address: SocketAddr, bytes: &[u8], end: End, name: &str) -> Vec<u8> {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut reading = client.try_clone().unwrap();
    // So that a flood of answers does not hold up what it answers.
    let reader = std::thread::spawn(move || {
        let mut reply = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match reading.read(&mut buffer) {
                Ok(0) => return (reply, None),
                Ok(read) => reply.extend_from_slice(&buffer[..read]),
                Err(error) => return (reply, Some(error.kind())),
            }
            let awaited = match end {
                Answered => HEADERS,
                Reset => RESET,
                Kept | Closed => continue,
            };
            if kinds(&reply).contains(&awaited) {
                let _ = reading.shutdown(Shutdown::Write);
            }
        }
    });
    // It may be refused before it has sent all.
    let _ = client.write_all(bytes);
    if end == Kept {
        let _ = client.shutdown(Shutdown::Write);
    }
    let (reply, error) = reader.join().unwrap();
    // A reset is a close; a time that is over is not.
    assert!(
        error.is_none_or(|kind| kind == ErrorKind::ConnectionReset),
        "{name}: {error:?} after {reply:?}"
    );
    reply
}

/// What the frames are that have come.
fn kinds(mut reply: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, ..] = *reply {
        kinds.push(kind);
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap();
        reply = reply.get(9 + length..).unwrap_or_default();
    }
    kinds
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
