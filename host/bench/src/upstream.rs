//! A platform that answers at once, or after a time, and is never what is waited for: it looks for one field in what comes,
//! and sends what is ready.

use crate::load::Outcome;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// How long the tokens of managed identities are.
pub(crate) const TOKEN_LENGTH: usize = 1_600;

/// Listens until it is dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    behaviour: Arc<Behaviour>,
    _runtime: Runtime,
}

struct Behaviour {
    milliseconds: AtomicU64,
    requests: AtomicU64,
    body: String,
}

impl Upstream {
    pub(crate) fn start() -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let behaviour = Arc::new(Behaviour {
            milliseconds: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            body: body()?,
        });
        let shared = Arc::clone(&behaviour);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&shared)));
            }
        });
        Ok(Self {
            address,
            behaviour,
            _runtime: runtime,
        })
    }

    /// From now on, each request is answered after so many milliseconds, and counted from zero.
    pub(crate) fn after(&self, milliseconds: u64) {
        self.behaviour.milliseconds.store(milliseconds, Ordering::Relaxed);
        self.behaviour.requests.store(0, Ordering::Relaxed);
    }

    pub(crate) fn requests(&self) -> u64 {
        self.behaviour.requests.load(Ordering::Relaxed)
    }

    /// What leads programs here: those of Azure as to App Service, those of Google as to their own.
    pub(crate) fn environment(&self) -> [(&'static str, String); 3] {
        let address = self.address;
        [
            ("IDENTITY_ENDPOINT", format!("http://{address}/msi/token")),
            ("IDENTITY_HEADER", "a-secret-of-nobody".to_owned()),
            ("GCE_METADATA_HOST", address.to_string()),
        ]
    }
}

/// The start of the body of each reply, after which comes the resource: the fields of either platform are no harm to the
/// clients of the other.
fn body() -> Outcome<String> {
    let expires_on = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 86_400;
    let token = "t".repeat(TOKEN_LENGTH);
    Ok(format!(
        r#"{{"access_token":"{token}","expires_on":"{expires_on}","expires_in":86400,"token_type":"Bearer","resource":""#
    ))
}

/// The reply to a request.
fn reply(body: &str, received: &[u8]) -> String {
    let line = received.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let after = line.split_once("resource=").map_or("", |(_, after)| after);
    let resource = after.split(['&', ' ']).next().unwrap_or_default();
    let resource = resource.replace("%3A", ":").replace("%2F", "/");
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nMetadata-Flavor: Google\r\nContent-Length: {}\r\n\r\n{body}{resource}\"}}",
        body.len() + resource.len() + 2
    )
}

async fn answer(mut stream: TcpStream, behaviour: Arc<Behaviour>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = Vec::with_capacity(1024);
    while stream.read_buf(&mut received).await? > 0 {
        if !received.ends_with(b"\r\n\r\n") {
            continue;
        }
        behaviour.requests.fetch_add(1, Ordering::Relaxed);
        let milliseconds = behaviour.milliseconds.load(Ordering::Relaxed);
        if milliseconds > 0 {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
        // Some say that this is their only request, and wait for the end.
        let is_last = received
            .windows(17)
            .any(|window| window.eq_ignore_ascii_case(b"connection: close"));
        stream.write_all(reply(&behaviour.body, &received).as_bytes()).await?;
        if is_last {
            break;
        }
        received.clear();
    }
    Ok(())
}
