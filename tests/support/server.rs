//! A server that answers as it is told, right or wrong, byte by byte.
//!
//! The emulator speaks the protocols as documented. This one keeps every request as it came over the wire, and sends what
//! no well-meaning server would.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// What the server does with one request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Sends this and waits for the next request on the connection.
    Reply(Vec<u8>),
    /// Sends this, once [`Server::release`] was called, and waits for the next request.
    Gated(Vec<u8>),
    /// Sends this and closes the connection.
    Close(Vec<u8>),
    /// Sends this and nothing more, with the connection open.
    Hold(Vec<u8>),
    /// Sends the first part at once and the second one byte per interval, again and again.
    Drip(Vec<u8>, Vec<u8>, Duration),
    /// Sends the first part once and the second again and again, up to so many bytes, then waits.
    Flood(Vec<u8>, Vec<u8>, u64),
    /// Resets the connection.
    Reset,
}

impl Act {
    /// A whole reply of this status, on a connection that stays open.
    pub(crate) fn status(status: u16, body: &str) -> Self {
        Self::Reply(reply(status, &[], body))
    }

    /// A whole successful reply.
    pub(crate) fn ok(body: &str) -> Self {
        Self::status(200, body)
    }

    /// A good token for an hour.
    pub(crate) fn token(token: &str) -> Self {
        Self::ok(&token_reply(token))
    }
}

/// The body of a good reply: a token for an hour.
pub(crate) fn token_reply(token: &str) -> String {
    format!(r#"{{"access_token":"{token}","expires_in":"3600","token_type":"Bearer"}}"#)
}

/// A whole reply with its length.
pub(crate) fn reply(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let length = body.len();
    format!("HTTP/1.1 {status} Status\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

/// The head of a request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request(String);

impl Request {
    /// All of it.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Method, target and version.
    pub(crate) fn line(&self) -> &str {
        self.0.lines().next().unwrap_or_default()
    }

    /// Names in lower case and values, sorted.
    pub(crate) fn headers(&self) -> Vec<(String, String)> {
        let mut headers: Vec<_> = self
            .0
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        headers.sort();
        headers
    }

    /// The decoded value of a query parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let target = self.line().split(' ').nth(1)?;
        let (_, query) = target.split_once('?')?;
        url::form_urlencoded::parse(query.as_bytes())
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.into_owned())
    }

    /// The host of the audience that a token is asked for: `case` in `https://case.example`.
    pub(crate) fn case(&self) -> String {
        let resource = self.parameter("resource").unwrap_or_default();
        let host = resource.trim_start_matches("https://");
        host.trim_end_matches(".example").to_owned()
    }
}

type Script = dyn Fn(&Request) -> Act + Send + Sync;

struct Shared {
    script: Box<Script>,
    requests: Mutex<Vec<Request>>,
    /// How many requests have come.
    arrived: watch::Sender<usize>,
    connections: watch::Sender<usize>,
    /// How many connections the client has closed.
    closed: watch::Sender<usize>,
    released: watch::Sender<bool>,
}

/// Listens on a loopback port of its own, on a thread of its own, and is gone when dropped.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// A server that does with each request what `script` says.
    pub(crate) fn start(script: impl Fn(&Request) -> Act + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            requests: Mutex::default(),
            arrived: watch::Sender::new(0),
            connections: watch::Sender::new(0),
            closed: watch::Sender::new(0),
            released: watch::Sender::new(false),
        });
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener, serving) => {}
                }
            });
        });
        Self {
            address,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// A server that does the same with every request.
    pub(crate) fn always(act: Act) -> Self {
        Self::start(move |_| act.clone())
    }

    /// `http://` and the address, followed by `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The address and port.
    pub(crate) fn authority(&self) -> String {
        self.address.to_string()
    }

    /// What leads a client here as to App Service.
    pub(crate) fn app_service(&self, secret: &str) -> Vec<(String, String)> {
        vec![
            ("IDENTITY_ENDPOINT".to_owned(), self.url("/msi/token")),
            ("IDENTITY_HEADER".to_owned(), secret.to_owned()),
        ]
    }

    /// What leads a client here as to the metadata service.
    pub(crate) fn imds(&self) -> Vec<(String, String)> {
        vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST".to_owned(), self.url(""))]
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        *self.shared.connections.borrow()
    }

    /// Waits until so many requests have come.
    pub(crate) async fn wait_for_requests(&self, count: usize) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self
            .shared
            .arrived
            .subscribe()
            .wait_for(|arrived| *arrived >= count)
            .await;
    }

    /// Waits until the client has closed so many connections.
    pub(crate) async fn wait_for_closed(&self, count: usize) {
        let _ = self.shared.closed.subscribe().wait_for(|closed| *closed >= count).await;
    }

    /// Lets every [`Act::Gated`] reply go, now and later.
    pub(crate) fn release(&self) {
        self.shared.released.send_replace(true);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server's thread has been printed already.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        shared.connections.send_modify(|connections| *connections += 1);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // Each write that fails means that the client has gone, which is for the client to explain.
            let _ = converse(stream, &shared).await;
            shared.closed.send_modify(|closed| *closed += 1);
        });
    }
}

async fn converse(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(request) = next_request(&mut stream, &mut buffer).await? {
        let act = (shared.script)(&request);
        shared.requests.lock().unwrap().push(request);
        shared.arrived.send_modify(|arrived| *arrived += 1);
        match act {
            Act::Reply(bytes) => stream.write_all(&bytes).await?,
            Act::Gated(bytes) => {
                let _ = shared.released.subscribe().wait_for(|released| *released).await;
                stream.write_all(&bytes).await?;
            }
            Act::Close(bytes) => return stream.write_all(&bytes).await,
            Act::Hold(bytes) => {
                stream.write_all(&bytes).await?;
                break;
            }
            Act::Drip(first, rest, interval) => {
                stream.write_all(&first).await?;
                for byte in rest.iter().cycle() {
                    tokio::time::sleep(interval).await;
                    stream.write_all(std::slice::from_ref(byte)).await?;
                }
            }
            Act::Flood(first, rest, limit) => {
                stream.write_all(&first).await?;
                let mut sent = 0;
                while sent < limit {
                    stream.write_all(&rest).await?;
                    sent += rest.len() as u64;
                }
                break;
            }
            Act::Reset => return stream.set_zero_linger(),
        }
    }
    // Until the client closes, with or without a reset.
    while stream.read_buf(&mut buffer).await? > 0 {
        buffer.clear();
    }
    Ok(())
}

/// The head of the next request, or nothing when the client has closed the connection. No request here has a body.
async fn next_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Request>> {
    const END: &[u8] = b"\r\n\r\n";
    loop {
        if let Some(end) = buffer.windows(END.len()).position(|window| window == END) {
            let rest = buffer.split_off(end + END.len());
            let head = std::mem::replace(buffer, rest);
            return Ok(Some(Request(String::from_utf8_lossy(&head).into_owned())));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}
