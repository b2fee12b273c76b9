//! A server that speaks TLS and remembers what it saw.

use super::certificates::Presented;
use rustls::server::Acceptor;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::LazyConfigAcceptor;

/// What the server saw of one connection.
#[derive(Debug, Default)]
pub(crate) struct Visit {
    /// Whether the handshake was completed.
    pub(crate) completed: bool,
    /// The server name indication.
    pub(crate) server_name: Option<String>,
    /// The protocol that was agreed on for inside.
    pub(crate) protocol: Option<String>,
    /// All that came, decrypted.
    pub(crate) request: String,
}

/// Answers every request alike, and is gone when dropped.
pub(crate) struct Server {
    port: u16,
    presented: Arc<Mutex<Presented>>,
    visits: mpsc::UnboundedReceiver<Visit>,
    task: JoinHandle<()>,
}

impl Server {
    /// A server that closes each connection after its first reply.
    pub(crate) async fn start(presented: Presented) -> Self {
        Self::with_header(presented, "Connection: close\r\n").await
    }

    /// A server that leaves closing to the client.
    pub(crate) async fn keeping_connections(presented: Presented) -> Self {
        Self::with_header(presented, "").await
    }

    async fn with_header(presented: Presented, header: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let presented = Arc::new(Mutex::new(presented));
        let (seen, visits) = mpsc::unbounded_channel();
        let task = tokio::spawn({
            let presented = Arc::clone(&presented);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let config = Arc::clone(&presented.lock().unwrap());
                    // One after the other, so that visits are in the order of the connections.
                    let visit = converse(stream, config, header).await;
                    // The test may have seen enough.
                    let _ = seen.send(visit);
                }
            }
        });
        Self {
            port,
            presented,
            visits,
            task,
        }
    }

    /// Presents something else to those who come next.
    pub(crate) fn present(&self, presented: Presented) {
        *self.presented.lock().unwrap() = presented;
    }

    pub(crate) fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/token", self.port)
    }

    /// The next connection, once it is over.
    pub(crate) async fn visit(&mut self) -> Visit {
        self.visits.recv().await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(stream: TcpStream, config: Presented, header: &str) -> Visit {
    let mut visit = Visit::default();
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await;
    let Ok(start) = start else { return visit };
    visit.server_name = start.client_hello().server_name().map(str::to_owned);
    let Ok(mut stream) = start.into_stream(config).await else {
        return visit;
    };
    visit.completed = true;
    let protocol = stream.get_ref().1.alpn_protocol();
    visit.protocol = protocol.map(|name| String::from_utf8_lossy(name).into_owned());
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        visit.request += &String::from_utf8_lossy(&buffer[..length]);
        if visit.request.ends_with("\r\n\r\n") {
            let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{header}\r\n{{}}");
            if stream.write_all(reply.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                break;
            }
            if !header.is_empty() {
                let _ = stream.shutdown().await;
            }
        }
    }
    visit
}
