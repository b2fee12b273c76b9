//! Connections in memory, on a clock that stands still while anybody has something to do.
#![expect(clippy::unwrap_used, reason = "a test fails where something is not as expected")]

use super::{Connections, Place, serve};
use crate::config::Limits;
use crate::protocol::Reply;
use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body_util::Full;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A server without sockets. It answers with the path that it is asked for, `/slow` after the time of a slow platform, `/held`
/// when it is told to, and `/large` with more than a client that does not read has room for.
struct Serving {
    connections: Arc<Connections>,
    limits: Limits,
    held: Arc<Notify>,
}

impl Serving {
    fn new(most: usize) -> Self {
        let limits = Limits {
            request_timeout: seconds(10),
            idle_timeout: seconds(300),
            header_bytes: 4_096,
            body_bytes: 1_024,
            ..Limits::default()
        };
        Self {
            connections: Arc::new(Connections::new(most)),
            limits,
            held: Arc::default(),
        }
    }

    async fn connect(&self) -> Client {
        let place = self.connections.place().await;
        self.serve(place)
    }

    fn serve(&self, place: Place) -> Client {
        let (client, server) = duplex(16 * 1024);
        let (limits, held) = (self.limits.clone(), Arc::clone(&self.held));
        let id = place.id();
        let task = tokio::spawn(async move {
            let answer = |request| answer(request, Arc::clone(&held));
            serve(server, place, &limits, answer).await;
        });
        self.connections.serving(id, task.abort_handle());
        Client {
            stream: client,
            begun: Instant::now(),
        }
    }
}

async fn answer(request: Parts, held: Arc<Notify>) -> Reply {
    let path = request.uri.path();
    match path {
        "/slow" => sleep(seconds(100)).await,
        "/held" => held.notified().await,
        _ => {}
    }
    let body = match path {
        "/large" => "x".repeat(1024 * 1024),
        _ => path.to_owned(),
    };
    Response::new(Full::new(Bytes::from(body)))
}

struct Client {
    stream: DuplexStream,
    begun: Instant,
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Reads as far as this.
    async fn read_to(&mut self, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            let byte = self.stream.read_u8().await;
            text.push(char::from(byte.unwrap_or_else(|_| panic!("no {end:?} after {text:?}"))));
        }
        text
    }

    /// All that still comes, and when the connection ended.
    async fn end(&mut self) -> (String, Duration) {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).await.unwrap();
        (String::from_utf8(bytes).unwrap(), self.begun.elapsed())
    }

    /// Whether it is open, once everybody has done what they can.
    async fn is_open(&mut self) -> bool {
        tokio::select! {
            biased;
            read = self.stream.read_u8() => {
                assert!(read.is_err(), "more came than was asked for");
                false
            }
            () = sleep(Duration::from_millis(1)) => true,
        }
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn whoever_sends_slowly_is_cut_off_and_whoever_only_waits_much_later() {
    // At once, then one byte of this every second, for ever; and after how long the connection ends.
    let cases: &[(&str, &[u8], &[u8], Duration)] = &[
        ("nothing", b"", b"", seconds(300)),
        ("half a request", b"GET /a HTTP/1.1\r\nHost:", b"", seconds(10)),
        ("one byte", b"G", b"", seconds(10)),
        (
            "one header field that never ends",
            b"GET /a HTTP/1.1\r\nHost: ",
            b"x",
            seconds(10),
        ),
        ("empty lines", b"\r\n", b"\n", seconds(10)),
        (
            "half a body",
            b"GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
            b"b",
            seconds(10),
        ),
        (
            "a request and half of one",
            b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET",
            b"",
            seconds(300),
        ),
        (
            "a request and a slow one",
            b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
            b"x",
            seconds(11),
        ),
    ];
    for (name, at_once, slowly, ends) in cases {
        let serving = Serving::new(10);
        let mut client = serving.connect().await;
        client.send(at_once).await;
        let (mut reading, mut writing) = tokio::io::split(client.stream);
        let drip = tokio::spawn({
            let slowly = slowly.to_vec();
            async move {
                loop {
                    sleep(seconds(1)).await;
                    if writing.write_all(&slowly).await.is_err() {
                        break;
                    }
                }
            }
        });
        let mut bytes = Vec::new();
        reading.read_to_end(&mut bytes).await.unwrap();
        let took = client.begun.elapsed();
        drip.abort();
        assert!(took >= *ends && took < *ends + seconds(1), "{name}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_now_and_then_is_kept() {
    let serving = Serving::new(10);
    let mut client = serving.connect().await;
    for _ in 0..20 {
        client.send(REQUEST).await;
        client.read_to("\r\n\r\n/a").await;
        sleep(seconds(299)).await;
    }
    let (_, ended) = client.end().await;
    assert_eq!(ended.as_secs(), 19 * 299 + 300);
}

#[tokio::test(start_paused = true)]
async fn a_slow_platform_is_waited_for() {
    let serving = Serving::new(10);
    let mut client = serving.connect().await;
    client.send(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    client.read_to("\r\n\r\n/slow").await;
    assert_eq!(client.begun.elapsed().as_secs(), 100);
    // Being idle is counted from here.
    let (_, ended) = client.end().await;
    assert_eq!(ended.as_secs(), 400);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_reply_is_cut_off() {
    let serving = Serving::new(10);
    let mut client = serving.connect().await;
    client.send(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    sleep(seconds(1)).await;
    // Waits for its end without reading.
    serving.connections.drained().await;
    assert_eq!(client.begun.elapsed().as_secs(), 10);
    assert!(client.end().await.0.len() < 1024 * 1024);
}

#[tokio::test(start_paused = true)]
async fn only_one_form_of_a_request_is_answered() {
    let long_field = format!("GET /a HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(5_000));
    let many_fields = format!("GET /a HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(200));
    let endless = format!("GET /a HTTP/1.1\r\nHost: x\r\nX: {}", "y".repeat(1_000_000));
    let long_body = format!(
        "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1025\r\n\r\n{}",
        "y".repeat(1025)
    );
    // The status, or nothing where the connection is only closed.
    let cases: &[(&[u8], &str)] = &[
        (b"GET /a HTTP/1.0\r\n\r\n", "200"),
        (b"GET /a?b=%FF HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "200"),
        (
            b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
            "200",
        ),
        (
            "GET /a HTTP/1.1\r\nHost: x\r\nCookie: ä\r\nConnection: close\r\n\r\n".as_bytes(),
            "200",
        ),
        (b"GET http://169.254.169.254/a HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        (b"GET //a@b/ HTTP/1.1\r\n\r\n", "400"),
        (b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", "400"),
        (b"CONNECT /a HTTP/1.1\r\nHost: a.example\r\n\r\n", "400"),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        (b"GET a HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        (b"GET /a HTTP/1.1\r\n\r\n", "400"),
        (b"GET /a HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", "400"),
        (b"GET /a HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", "400"),
        (b"GET /a\r\n", "400"),
        (b"GET /a HTTP/2.0\r\nHost: x\r\n\r\n", "400"),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
        ("GET /ä HTTP/1.1\r\nHost: x\r\n\r\n".as_bytes(), "400"),
        (b"GET /a HTTP/1.1\r\nHost: x\r\nX: \xff\r\n\r\n", "400"),
        (b"GET /a HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", "400"),
        (b"GET /a HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n", "400"),
        (b"GET /a HTTP/1.1\r\nHost: x\r\nX : a\r\n\r\n", "400"),
        (b"GET /a HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", "400"),
        (
            b"GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "400",
        ),
        (b"GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na", "400"),
        (
            b"GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "411",
        ),
        (
            b"GET /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            "411",
        ),
        (
            b"GET /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "411",
        ),
        (
            b"GET /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
            "400",
        ),
        (
            b"GET /a HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        (long_body.as_bytes(), "413"),
        (long_field.as_bytes(), "431"),
        (many_fields.as_bytes(), "431"),
        (endless.as_bytes(), "431"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400"),
        (b"\x00\x00\x00\x00", "400"),
    ];
    for (request, status) in cases {
        let shown = String::from_utf8_lossy(request.get(..request.len().min(100)).unwrap()).into_owned();
        let serving = Serving::new(10);
        let mut client = serving.connect().await;
        client.send(request).await;
        // A refusal is told at once, before the client has done anything more.
        let reply = match *status {
            "" => String::new(),
            _ => client.read_to("\r\n\r\n").await,
        };
        let (rest, _) = client.end().await;
        assert!(
            if status.is_empty() {
                reply.is_empty()
            } else {
                reply.starts_with(&format!("HTTP/1.1 {status} "))
            } || reply.starts_with(&format!("HTTP/1.0 {status} ")),
            "{shown:?}: {reply:?}"
        );
        assert!(*status == "200" || rest.is_empty(), "{shown:?}: {rest:?}");
        assert!(
            client.begun.elapsed() <= seconds(1),
            "{shown:?}: {:?}",
            client.begun.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_read_and_its_connection_kept() {
    let serving = Serving::new(10);
    let mut client = serving.connect().await;
    let body = "y".repeat(1_024);
    for expect in ["", "Expect: 100-continue\r\n"] {
        let request = format!("POST /a HTTP/1.1\r\nHost: x\r\n{expect}Content-Length: 1024\r\n\r\n{body}");
        client.send(request.as_bytes()).await;
        let reply = client.read_to("\r\n\r\n/a").await;
        assert!(reply.contains("HTTP/1.1 200 OK\r\n"), "{reply}");
    }
    assert!(client.is_open().await);
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_together_are_answered_in_their_order() {
    let serving = Serving::new(10);
    let mut client = serving.connect().await;
    let paths = ["/a", "/slow", "/b", "/slow", "/c"];
    for path in paths {
        client
            .send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
            .await;
    }
    for path in paths {
        client.read_to(&format!("\r\n\r\n{path}")).await;
    }
    assert!(client.is_open().await);
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_room_the_longest_idle_makes_it_and_nobody_with_a_request() {
    let serving = Serving::new(3);
    let mut held = serving.connect().await;
    held.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(held.is_open().await);
    let mut first = serving.connect().await;
    let mut second = serving.connect().await;
    assert!(first.is_open().await);
    // From now on, the second has been idle for longer.
    first.send(REQUEST).await;
    first.read_to("\r\n\r\n/a").await;
    let mut third = serving.connect().await;
    assert!(!second.is_open().await);
    assert!(first.is_open().await && third.is_open().await && held.is_open().await);

    // All have requests, and somebody waits.
    for client in [&mut first, &mut third] {
        client.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(client.is_open().await);
    }
    let waiting = tokio::spawn({
        let connections = Arc::clone(&serving.connections);
        async move { connections.place().await }
    });
    sleep(seconds(60)).await;
    assert!(!waiting.is_finished());
    // One of them becomes idle, and is the one that goes.
    serving.held.notify_one();
    held.read_to("\r\n\r\n/held").await;
    let mut fourth = serving.serve(waiting.await.unwrap());
    assert!(!held.is_open().await);
    assert!(first.is_open().await && third.is_open().await && fourth.is_open().await);

    // One of them goes by itself.
    drop(fourth);
    let mut fifth = serving.connect().await;
    assert!(first.is_open().await && third.is_open().await && fifth.is_open().await);
}

#[tokio::test(start_paused = true)]
async fn clients_that_only_begin_requests_keep_nobody_out() {
    let serving = Serving::new(3);
    let mut held = serving.connect().await;
    held.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut first = serving.connect().await;
    first.send(b"GET /a HTTP/1.1\r\n").await;
    assert!(held.is_open().await && first.is_open().await);
    sleep(seconds(1)).await;
    let mut second = serving.connect().await;
    second.send(b"GET /a HTTP/1.1\r\n").await;
    assert!(second.is_open().await);
    // Nobody is idle, and nobody has to wait until a request is given up.
    let before = Instant::now();
    let mut third = serving.connect().await;
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert!(!first.is_open().await);
    // Whoever is idle goes first.
    let mut fourth = serving.connect().await;
    assert!(!third.is_open().await);
    assert!(held.is_open().await && second.is_open().await && fourth.is_open().await);
    second.send(b"Host: x\r\n\r\n").await;
    second.read_to("\r\n\r\n/a").await;
}

#[tokio::test(start_paused = true)]
async fn at_the_end_idle_connections_are_closed_and_requests_get_their_replies() {
    let serving = Serving::new(10);
    let mut idle = serving.connect().await;
    let mut used = serving.connect().await;
    used.send(REQUEST).await;
    used.read_to("\r\n\r\n/a").await;
    let mut half = serving.connect().await;
    half.send(b"GET /a HTTP/1.1\r\nHost: x\r\n").await;
    let mut held = serving.connect().await;
    held.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(held.is_open().await && half.is_open().await);

    serving.connections.drain();
    let drained = tokio::spawn({
        let connections = Arc::clone(&serving.connections);
        async move { connections.drained().await }
    });
    assert!(!idle.is_open().await);
    assert!(!used.is_open().await);
    assert!(half.is_open().await && held.is_open().await);
    half.send(b"\r\n").await;
    let (reply, _) = half.end().await;
    assert!(
        reply.contains("\r\nconnection: close\r\n") && reply.ends_with("/a"),
        "{reply}"
    );
    assert!(!drained.is_finished());
    serving.held.notify_one();
    let (reply, _) = held.end().await;
    assert!(
        reply.contains("\r\nconnection: close\r\n") && reply.ends_with("/held"),
        "{reply}"
    );
    drained.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn requests_that_do_not_end_are_given_up() {
    let serving = Serving::new(10);
    let mut held = serving.connect().await;
    held.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(held.is_open().await);
    serving.connections.drain();
    assert!(
        tokio::time::timeout(seconds(30), serving.connections.drained())
            .await
            .is_err()
    );
    assert_eq!(serving.connections.end_all(), 1);
    assert_eq!(held.end().await.0, "");
    serving.connections.drained().await;
}
