//! The scripted server: one for each case, on loopback, byte by byte.

use crate::case::{Action, Fault, Reply, Scheme};
use crate::script::Script;
use crate::wire::Arrived;
use managed_identity_emulator::tls::Certificate;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// More than the head or body of any token request.
const LONGEST_PART: usize = 256 * 1024;

/// A running server, which ends when it is dropped.
pub struct Server {
    endpoint: String,
    closed: String,
    certificate: Option<Certificate>,
    accepting: JoinHandle<()>,
    /// Bound and not listening, so that nobody else gets the port and nobody is answered there.
    _closed: TcpSocket,
}

impl Server {
    /// Starts a server for a script. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When the system gives no port or no certificate.
    pub async fn start(scheme: Scheme, script: Script) -> io::Result<Self> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(loopback).await?;
        let closed = TcpSocket::new_v4()?;
        closed.bind(loopback)?;
        let (port, closed_port) = (listener.local_addr()?.port(), closed.local_addr()?.port());
        let (endpoint, closed_url, certificate) = match scheme {
            Scheme::Http => (
                format!("http://127.0.0.1:{port}"),
                format!("http://127.0.0.1:{closed_port}"),
                None,
            ),
            Scheme::Https => (
                format!("https://localhost:{port}"),
                format!("https://localhost:{closed_port}"),
                Some(Certificate::issue(["localhost", "127.0.0.1"])?),
            ),
        };
        let acceptor = match &certificate {
            None => None,
            Some(certificate) => Some(TlsAcceptor::from(certificate.server_config()?)),
        };
        let accepting = tokio::spawn(accept(listener, acceptor, script, endpoint.clone()));
        Ok(Self {
            endpoint,
            closed: closed_url,
            certificate,
            accepting,
            _closed: closed,
        })
    }

    /// Its base URL, without a slash at its end.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The base URL of a port where nothing listens.
    #[must_use]
    pub fn closed(&self) -> &str {
        &self.closed
    }

    /// What it presents, when it speaks TLS.
    #[must_use]
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, script: Script, endpoint: String) {
    // Dropped with this future, and with it every connection.
    let started = Instant::now();
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, script, endpoint) = (acceptor.clone(), script.clone(), endpoint.clone());
        connections.spawn(async move {
            // A client may go away at any time; what the case expects decides whether that is right.
            let _ = match acceptor {
                None => {
                    script.connected();
                    serve(
                        stream,
                        |stream: &TcpStream| stream.set_zero_linger(),
                        &script,
                        &endpoint,
                        started,
                    )
                    .await
                }
                // Who looks at the certificate and leaves has sent nothing.
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => {
                        serve(
                            stream,
                            |stream: &TlsStream<TcpStream>| stream.get_ref().0.set_zero_linger(),
                            &script,
                            &endpoint,
                            started,
                        )
                        .await
                    }
                    Err(error) => Err(error),
                },
            };
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection to its end.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    reset: impl Fn(&S) -> io::Result<()>,
    script: &Script,
    endpoint: &str,
    started: Instant,
) -> io::Result<()> {
    let mut received = Vec::new();
    loop {
        let request = match receive(&mut stream, &mut received).await? {
            Received::Request(request) => request,
            Received::End => return stream.shutdown().await,
            Received::Nonsense => {
                script.refuse("What the client sent is no HTTP/1.1 request");
                return stream.shutdown().await;
            }
        };
        if let Some(document) = discovery(&request, endpoint) {
            send(&mut stream, &document, document.status()).await?;
            continue;
        }
        match script.arrived(&request, started.elapsed()) {
            None => {
                send(&mut stream, &Reply::default(), 500).await?;
                return stream.shutdown().await;
            }
            Some(Action::Reply(reply)) => {
                tokio::time::sleep(Duration::from_millis(reply.delay_ms)).await;
                send(&mut stream, &reply, reply.status()).await?;
                let closes = |value: &str| value.eq_ignore_ascii_case("close");
                let is_last = request.header("connection").is_some_and(closes)
                    || reply
                        .headers()
                        .iter()
                        .any(|(name, value)| name.eq_ignore_ascii_case("connection") && closes(value));
                if is_last {
                    return stream.shutdown().await;
                }
            }
            Some(Action::Fault(fault)) => {
                match fault {
                    Fault::Reset => return reset(&stream),
                    Fault::Close => {}
                    Fault::Silence => while stream.read_buf(&mut received).await? > 0 {},
                    Fault::NotHttp => stream.write_all(b"SSH-2.0-x\r\n").await?,
                    Fault::CutShort => {
                        stream
                            .write_all(b"HTTP/1.1 200 Scripted\r\nContent-Length: 1000\r\n\r\n{\"access_t")
                            .await?;
                    }
                }
                return stream.shutdown().await;
            }
        }
    }
}

/// What an authority says of itself (OpenID Connect Discovery 1.0), which some clients ask for before anything else. It
/// carries no secret and decides nothing, so no case is about it.
fn discovery(request: &Arrived, endpoint: &str) -> Option<Reply> {
    let base = request.path.strip_suffix("/v2.0/.well-known/openid-configuration")?;
    let tenant = base.strip_prefix('/').filter(|_| request.method == "GET")?;
    let authority = format!("{endpoint}/{tenant}");
    Reply::json(&serde_json::json!({
        "issuer": format!("{authority}/v2.0"),
        "authorization_endpoint": format!("{authority}/oauth2/v2.0/authorize"),
        "token_endpoint": format!("{authority}/oauth2/v2.0/token"),
        "jwks_uri": format!("{authority}/discovery/v2.0/keys"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }))
    .into()
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), reply: &Reply, status: u16) -> io::Result<()> {
    let (headers, body) = (reply.headers(), reply.body());
    let has = |wanted: &str| headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
    let mut bytes = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in &headers {
        bytes.push_str(&format!("{name}: {value}\r\n"));
    }
    let has_body = !matches!(status, 204 | 304);
    if has_body && !has("content-length") && !has("transfer-encoding") {
        bytes.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    bytes.push_str("\r\n");
    let mut bytes = bytes.into_bytes();
    if has_body {
        bytes.extend(body);
    }
    stream.write_all(&bytes).await?;
    stream.flush().await
}

enum Received {
    Request(Arrived),
    End,
    Nonsense,
}

/// Reads one request. What comes after it stays in `received`.
async fn receive(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), received: &mut Vec<u8>) -> io::Result<Received> {
    let end = loop {
        if let Some(end) = find(received, b"\r\n\r\n") {
            break end;
        }
        // A TLS greeting on a port without TLS never has an empty line.
        let is_text = received.first().is_none_or(u8::is_ascii_uppercase);
        if !is_text || received.len() > LONGEST_PART {
            return Ok(Received::Nonsense);
        }
        if stream.read_buf(received).await? == 0 {
            return Ok(if received.is_empty() {
                Received::End
            } else {
                Received::Nonsense
            });
        }
    };
    let head: Vec<u8> = received.drain(..end + 4).collect();
    let Some(mut request) = std::str::from_utf8(&head).ok().and_then(Arrived::parse_head) else {
        return Ok(Received::Nonsense);
    };
    if request
        .header("expect")
        .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        stream.flush().await?;
    }
    let body = if request
        .header("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    {
        chunked(stream, received).await?
    } else {
        match request.header("content-length").map(str::parse::<usize>) {
            None => Some(Vec::new()),
            Some(Ok(length)) if length <= LONGEST_PART => take(stream, received, length).await?,
            Some(_) => None,
        }
    };
    Ok(match body {
        None => Received::Nonsense,
        Some(body) => {
            request.body = body;
            Received::Request(request)
        }
    })
}

/// Takes so many bytes, or nothing when the client ends before.
async fn take(
    stream: &mut (impl AsyncRead + Unpin),
    received: &mut Vec<u8>,
    length: usize,
) -> io::Result<Option<Vec<u8>>> {
    while received.len() < length {
        if stream.read_buf(received).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(received.drain(..length).collect()))
}

async fn chunked(stream: &mut (impl AsyncRead + Unpin), received: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = find(received, b"\r\n") {
                break end;
            }
            if received.len() > LONGEST_PART || stream.read_buf(received).await? == 0 {
                return Ok(None);
            }
        };
        let line: Vec<u8> = received.drain(..end + 2).collect();
        let size = String::from_utf8_lossy(&line);
        let size = size.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(size, 16) else {
            return Ok(None);
        };
        if body.len().saturating_add(size) > LONGEST_PART {
            return Ok(None);
        }
        let Some(chunk) = take(stream, received, size + 2).await? else {
            return Ok(None);
        };
        body.extend_from_slice(&chunk[..size]);
        if size == 0 {
            return Ok(Some(body));
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;

    async fn server(exchanges: &str) -> (Server, Script) {
        let script = Script::default();
        script.begin(serde_json::from_str(exchanges).unwrap());
        (Server::start(Scheme::Http, script.clone()).await.unwrap(), script)
    }

    /// Sends this on one connection and reads until the server closes it.
    async fn talk(server: &Server, text: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(server.endpoint().trim_start_matches("http://"))
            .await
            .unwrap();
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await?;
        Ok(reply)
    }

    #[tokio::test]
    async fn replies_come_as_scripted_over_one_connection() {
        let (server, script) = server(
            r#"[{"request":{"path":"/a"},"reply":{"status":401,"headers":{"WWW-Authenticate":["Basic","Other"]},"text":"no"}},
                {"request":{"method":"POST","path":"/b","form":{"x":"y"}},"reply":{"body":{"access_token":"t"}}},
                {"request":{"method":"POST","path":"/c","form":{"x":"yz"}},"reply":{"status":204}}]"#,
        )
        .await;
        let reply = talk(
            &server,
            "GET /a HTTP/1.1\r\n\r\nPOST /b HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded; charset=utf-8\r\nContent-Length: 3\r\n\r\nx=y\
             POST /c HTTP/1.1\r\ncontent-type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nx=y\r\n1;e\r\nz\r\n0\r\n\r\n",
        )
        .await
        .unwrap();
        assert_eq!(
            reply,
            "HTTP/1.1 401 Scripted\r\nWWW-Authenticate: Basic\r\nWWW-Authenticate: Other\r\nContent-Length: 2\r\n\r\nno\
             HTTP/1.1 200 Scripted\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 20\r\n\r\n\
             {\"access_token\":\"t\"}HTTP/1.1 204 Scripted\r\n\r\n"
        );
        assert_eq!(script.end(), [""; 0]);
    }

    #[tokio::test]
    async fn faults_come_as_scripted() {
        for (fault, expected) in [
            ("close", Ok("")),
            ("not-http", Ok("SSH-2.0-x\r\n")),
            (
                "cut-short",
                Ok("HTTP/1.1 200 Scripted\r\nContent-Length: 1000\r\n\r\n{\"access_t"),
            ),
            ("silence", Ok("")),
            ("reset", Err(io::ErrorKind::ConnectionReset)),
        ] {
            let (server, script) = server(&format!(r#"[{{"request":{{"path":"/"}},"fault":"{fault}"}}]"#)).await;
            let reply = talk(&server, "GET / HTTP/1.1\r\n\r\n").await;
            assert_eq!(reply.as_deref().map_err(io::Error::kind), expected, "{fault}");
            assert_eq!(script.end(), [""; 0], "{fault}");
        }
    }

    #[tokio::test]
    async fn what_is_not_expected_is_refused_and_named() {
        let get = r#"[{"request":{"path":"/"},"reply":{}}]"#;
        for (exchanges, text, fault) in [
            (get, "GET /other HTTP/1.1\r\n\r\n", "path: expected `/`, got `/other`"),
            (get, "\u{16}\u{3}\u{1}", "no HTTP/1.1 request"),
            (get, "GET / SSH-2.0\r\n\r\n", "no HTTP/1.1 request"),
            (
                get,
                "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nx",
                "no HTTP/1.1 request",
            ),
            ("[]", "", "Nothing may be sent, and the client made a connection"),
        ] {
            let (server, script) = server(exchanges).await;
            let _ = talk(&server, text).await;
            script.failed().await;
            let faults = script.end();
            assert!(faults[0].contains(fault), "{faults:?}: no {fault}");
        }
    }

    #[tokio::test]
    async fn nothing_listens_at_the_closed_port() {
        let (server, _) = server("[]").await;
        let error = TcpStream::connect(server.closed().trim_start_matches("http://"))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
