//! Clients in memory that speak HTTP/2 frame by frame, on a clock that stands still while anybody has something to do.
#![expect(clippy::unwrap_used, reason = "a test fails where something is not as expected")]

use super::{PREFACE, serve, tell_apart};
use crate::config::Limits;
use crate::connection::Connections;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use metrics_exporter_prometheus::PrometheusBuilder;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

/// Flags, of which the first two are the same bit.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The header fields of a request, in the static table of HPACK but for the path (RFC 7541, appendix A).
fn fields(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    [&[0x83, 0x86, 0x04, length], path.as_bytes(), &[0x01, 1, b'x']].concat()
}

fn request(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(path))
}

/// More room than there are bytes: for each request (SETTINGS_INITIAL_WINDOW_SIZE), and for all together.
fn room() -> Vec<u8> {
    const LARGE: u32 = 1 << 30;
    let setting = [&[0, 4][..], &LARGE.to_be_bytes()].concat();
    [
        frame(SETTINGS, 0, 0, &setting),
        frame(WINDOW_UPDATE, 0, 0, &LARGE.to_be_bytes()),
    ]
    .concat()
}

type Reply = Response<BoxBody<Bytes, Infallible>>;

/// `/slow` after the time of a slow platform, `/large` with more than fits, `/news` with something every four minutes; `/body`
/// when the whole request is there.
async fn answer(request: Request<Incoming>) -> Reply {
    let (parts, body) = request.into_parts();
    let large = || Full::new(Bytes::from(vec![b'x'; 1024 * 1024])).boxed();
    Response::new(match parts.uri.path() {
        "/slow" => {
            sleep(seconds(100)).await;
            Full::default().boxed()
        }
        "/large" => large(),
        "/news" => {
            let news = stream::unfold((), async |()| {
                sleep(seconds(240)).await;
                Some((Ok(Frame::data(Bytes::from_static(b"news"))), ()))
            });
            StreamBody::new(Box::pin(news)).boxed()
        }
        "/body" => {
            let _ = body.collect().await;
            Full::default().boxed()
        }
        _ => Full::new(Bytes::from_static(b"here")).boxed(),
    })
}

struct Serving {
    connections: Arc<Connections>,
    served: JoinHandle<()>,
    client: DuplexStream,
    begun: Instant,
}

impl Serving {
    async fn start() -> Self {
        let connections = Arc::new(Connections::new(10));
        let place = connections.place().await;
        let id = place.id();
        let (client, server) = duplex(16 * 1024);
        let served = tokio::spawn(async move {
            let limits = Limits {
                request_timeout: seconds(10),
                idle_timeout: seconds(300),
                ..Limits::default()
            };
            if let Some((stream, is_http2)) = tell_apart(server, &place, &limits).await {
                assert!(is_http2);
                serve(stream, place, &limits, answer).await;
            }
        });
        connections.serving(id, served.abort_handle());
        Self {
            connections,
            served,
            client,
            begun: Instant::now(),
        }
    }

    /// When the server has closed the connection, and nothing of it is left.
    async fn ended(self) -> Duration {
        self.served.await.unwrap();
        let took = self.begun.elapsed();
        timeout(seconds(1), self.connections.drained()).await.unwrap();
        took
    }
}

/// Reads all, and says of settings and pings that they have come. Returns how many bytes of bodies there were.
async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> usize {
    let mut bytes = 0;
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        if stream.read_exact(&mut payload).await.is_err() {
            break;
        }
        let answer = match (head[3], head[4] & ACK) {
            (SETTINGS, 0) => frame(SETTINGS, ACK, 0, &[]),
            (PING, 0) => frame(PING, ACK, 0, &payload),
            (DATA, _) => {
                bytes += payload.len();
                continue;
            }
            _ => continue,
        };
        if stream.write_all(&answer).await.is_err() {
            break;
        }
    }
    bytes
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What a client does after what it has sent.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// Neither reads nor writes.
    Nothing,
    /// Reads, and says nothing.
    Reads,
    /// Reads, and answers settings and pings, but makes no room.
    Answers,
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_or_takes_nothing_is_closed_in_time() {
    let none = frame(SETTINGS, 0, 0, &[]);
    let half = frame(HEADERS, END_STREAM, 1, &fields("/"));
    let body = frame(HEADERS, END_HEADERS, 1, &fields("/body"));
    let body = [body, frame(DATA, 0, 1, b"half")].concat();
    let cases = [
        ("nothing after its first bytes", vec![], Then::Reads, 20, "silent"),
        ("nothing after its settings", none.clone(), Then::Reads, 20, "silent"),
        (
            "half the head of a request",
            [&none[..], &half].concat(),
            Then::Reads,
            20,
            "silent",
        ),
        (
            "half a frame",
            [&none[..], &half[..12]].concat(),
            Then::Reads,
            20,
            "silent",
        ),
        ("half a body", [&none[..], &body].concat(), Then::Reads, 20, "silent"),
        (
            "a request, and nothing more",
            [&none[..], &request(1, "/")].concat(),
            Then::Reads,
            20,
            "silent",
        ),
        ("nothing but answers", none.clone(), Then::Answers, 300, "idle"),
        (
            "a request, and then nothing but answers",
            [&none[..], &request(1, "/")].concat(),
            Then::Answers,
            300,
            "idle",
        ),
        (
            "a reply that it makes no room for",
            [&none[..], &request(1, "/large")].concat(),
            Then::Answers,
            10,
            "reply-timeout",
        ),
        (
            "a reply that it makes no room for, and others that it takes",
            [&none[..], &request(1, "/large"), &request(3, "/")].concat(),
            Then::Answers,
            10,
            "reply-timeout",
        ),
        (
            "a reply that it has room for and does not read",
            [&room()[..], &request(1, "/large")].concat(),
            Then::Nothing,
            10,
            "reply-timeout",
        ),
    ];
    for (name, sent, then, expected, reason) in cases {
        let recorder = PrometheusBuilder::new().build_recorder();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let mut serving = Serving::start().await;
        serving.client.write_all(PREFACE).await.unwrap();
        serving.client.write_all(&sent).await.unwrap();
        let (other, _kept) = duplex(1);
        let client = std::mem::replace(&mut serving.client, other);
        let client = tokio::spawn(async move {
            match then {
                Then::Nothing => {
                    sleep(seconds(1_000)).await;
                    drop(client);
                }
                Then::Reads => {
                    let (mut reading, _writing) = tokio::io::split(client);
                    let _ = tokio::io::copy(&mut reading, &mut tokio::io::sink()).await;
                }
                Then::Answers => {
                    converse(client).await;
                }
            }
        });
        let took = serving.ended().await;
        client.abort();
        let expected = seconds(expected);
        // A second for a client to notice that it is about to be closed.
        assert!(took >= expected && took <= expected + seconds(2), "{name}: {took:?}");
        let counted = format!("managed_identity_serve_connections_closed_total{{reason=\"{reason}\"}} 1");
        let metrics = recorder.handle().render();
        let closed: Vec<&str> = metrics.lines().filter(|line| line.contains("reason=")).collect();
        assert_eq!(closed, [counted], "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn half_of_the_first_bytes_is_half_a_request() {
    let mut serving = Serving::start().await;
    serving.client.write_all(&PREFACE[..20]).await.unwrap();
    assert_eq!(serving.ended().await, seconds(10));
}

#[tokio::test(start_paused = true)]
async fn a_slow_platform_is_waited_for_and_a_long_stream_goes_on() {
    for (path, least) in [("/slow", 100), ("/news", 3_600)] {
        let mut serving = Serving::start().await;
        let sent = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &request(1, path)].concat();
        serving.client.write_all(&sent).await.unwrap();
        let (other, _kept) = duplex(1);
        let client = std::mem::replace(&mut serving.client, other);
        let client = tokio::spawn(converse(client));
        sleep(seconds(least)).await;
        assert!(!serving.served.is_finished(), "{path}");
        if path == "/news" {
            // It does not hold up the end of the server for longer than it has to.
            serving.connections.drain();
            assert!(!serving.served.is_finished());
            assert_eq!(serving.connections.end_all(), 1);
            assert!(client.await.unwrap() >= 14 * b"news".len());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_request_is_closed_when_the_server_ends() {
    let mut serving = Serving::start().await;
    let sent = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    serving.client.write_all(&sent).await.unwrap();
    sleep(seconds(1)).await;
    serving.connections.drain();
    timeout(seconds(1), serving.connections.drained()).await.unwrap();
}
