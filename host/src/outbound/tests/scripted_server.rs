//! A server for tests that answers as it is told, right or wrong.

#![expect(clippy::unwrap_used, reason = "only tests use it, on their own loopback sockets")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What the server does with one request.
#[derive(Clone)]
pub(super) enum Act {
    /// Sends this and waits for the next request on the connection.
    Reply(Vec<u8>),
    /// Sends this and closes the connection.
    Close(Vec<u8>),
    /// Sends this and nothing more, with the connection open.
    Hold(Vec<u8>),
    /// Sends the first once, and the second for as long as somebody reads.
    Flood(Vec<u8>, Vec<u8>),
    /// Sends this and resets the connection once it has been read (when told to by [`Server::go`]).
    Reset(Vec<u8>),
}

impl Act {
    /// A whole reply, on a connection that stays open.
    pub(super) fn ok(body: &str) -> Self {
        Self::Reply(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into())
    }
}

/// What the server has seen.
#[derive(Default)]
pub(super) struct Seen {
    /// The head and body of each request.
    pub(super) requests: Vec<String>,
    pub(super) connections: usize,
    /// How many connections the client has closed.
    pub(super) closed: usize,
}

/// Listens on a loopback port of its own, and is gone when dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    change: Arc<Notify>,
    go: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Server {
    /// A server that answers the requests with `acts` in turn, whichever connection they come on, and then with the last.
    pub(super) async fn start(acts: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, change, go) = (
            Arc::<Mutex<Seen>>::default(),
            Arc::new(Notify::new()),
            Arc::new(Notify::new()),
        );
        let acts: Arc<[Act]> = acts.into_iter().collect();
        let task = tokio::spawn({
            let (seen, change, go) = (Arc::clone(&seen), Arc::clone(&change), Arc::clone(&go));
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    seen.lock().unwrap().connections += 1;
                    tokio::spawn(converse(
                        stream,
                        Arc::clone(&acts),
                        Arc::clone(&seen),
                        Arc::clone(&change),
                        Arc::clone(&go),
                    ));
                }
            }
        });
        Self {
            address,
            seen,
            change,
            go,
            task,
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().requests.clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    /// Waits until the client has closed a connection.
    pub(super) async fn until_closed(&self) {
        loop {
            let change = self.change.notified();
            if self.seen.lock().unwrap().closed > 0 {
                return;
            }
            change.await;
        }
    }

    /// Lets a waiting [`Act::Reset`] go on.
    pub(super) fn go(&self) {
        self.go.notify_one();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(
    mut stream: TcpStream,
    acts: Arc<[Act]>,
    seen: Arc<Mutex<Seen>>,
    change: Arc<Notify>,
    go: Arc<Notify>,
) {
    let mut buffer = Vec::new();
    while let Some(request) = next_request(&mut stream, &mut buffer).await {
        let act = {
            let mut seen = seen.lock().unwrap();
            seen.requests.push(request);
            acts[(seen.requests.len() - 1).min(acts.len() - 1)].clone()
        };
        match act {
            Act::Reply(bytes) => stream.write_all(&bytes).await.unwrap(),
            Act::Close(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                return;
            }
            Act::Hold(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                break;
            }
            Act::Flood(first, rest) => {
                let mut sent = stream.write_all(&first).await;
                while sent.is_ok() {
                    sent = stream.write_all(&rest).await;
                }
                break;
            }
            Act::Reset(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                go.notified().await;
                stream.set_zero_linger().unwrap();
                return;
            }
        }
    }
    // The client closes, with or without a reset.
    while !matches!(stream.read_buf(&mut buffer).await, Ok(0) | Err(_)) {}
    seen.lock().unwrap().closed += 1;
    change.notify_one();
}

/// The next request with its body, or `None` if the client has closed the connection.
async fn next_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        let text = String::from_utf8(buffer.clone()).unwrap();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let declared = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = declared.map_or(0, |length| length.parse().unwrap());
            if rest.len() >= length {
                let end = head.len() + 4 + length;
                buffer.drain(..end);
                return Some(text[..end].to_owned());
            }
        }
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}
