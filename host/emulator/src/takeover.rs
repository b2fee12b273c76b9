//! Answers that no library for HTTP would write: the connection is taken from it, and bytes are put on the wire.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::reply::Reply;

/// How much of a flood is written at once.
const WAVE_BYTES: usize = 16 * 1024;

/// How long a client may leave a flood unread.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(60);

const INTERIM_REPLY: &[u8] = b"HTTP/1.1 103 Early Hints\r\n\r\n";

/// What happens to a connection instead of an answer.
#[derive(Debug)]
pub(crate) enum Takeover {
    /// It is closed.
    Close,
    /// It is reset (RST), so that the client learns of an error and not of an end.
    Reset,
    /// It carries these bytes and is closed.
    Raw(Bytes),
    /// It carries a reply whose head has a header of so many bytes, which does not end.
    EndlessHeader { bytes: u64 },
    /// It carries so many interim replies (1xx) and then this one.
    InterimReplies { count: u64, reply: Bytes },
}

/// A connection, encrypted or not.
pub(crate) trait Carrier: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn tcp(&self) -> &TcpStream;
}

impl Carrier for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Carrier for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl Takeover {
    pub(crate) async fn run(self, mut stream: impl Carrier) {
        // A client that has seen enough leaves, which is no matter.
        let _ = self.write(&mut stream).await;
    }

    async fn write(self, stream: &mut impl Carrier) -> io::Result<()> {
        match self {
            Self::Close => {}
            Self::Reset => return stream.tcp().set_zero_linger(),
            Self::Raw(bytes) => write(stream, &bytes).await?,
            Self::EndlessHeader { bytes } => {
                write(stream, b"HTTP/1.1 200 OK\r\nx-endless: ").await?;
                repeat(stream, b"x", bytes).await?;
            }
            Self::InterimReplies { count, reply } => {
                repeat(stream, INTERIM_REPLY, count).await?;
                write(stream, &reply).await?;
            }
        }
        stream.shutdown().await
    }
}

/// Writes the same bytes so many times.
async fn repeat(stream: &mut impl Carrier, bytes: &[u8], times: u64) -> io::Result<()> {
    let at_once = (WAVE_BYTES / bytes.len()).max(1);
    let wave = bytes.repeat(at_once);
    let mut left = times;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(usize::MAX).min(at_once);
        write(stream, &wave[..now * bytes.len()]).await?;
        left -= now as u64;
    }
    Ok(())
}

async fn write(stream: &mut impl Carrier, bytes: &[u8]) -> io::Result<()> {
    tokio::time::timeout(UNREAD_TIMEOUT, async {
        stream.write_all(bytes).await?;
        stream.flush().await
    })
    .await?
}

/// A reply as it looks on the wire, the last of its connection.
pub(crate) fn serialised(reply: &Reply) -> Bytes {
    let mut wire = format!("HTTP/1.1 {}\r\n", reply.status).into_bytes();
    for (name, value) in &reply.headers {
        wire.extend_from_slice(name.as_str().as_bytes());
        wire.extend_from_slice(b": ");
        wire.extend_from_slice(value.as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
    let end = format!("content-length: {}\r\nconnection: close\r\n\r\n", reply.body.len());
    wire.extend_from_slice(end.as_bytes());
    wire.extend_from_slice(&reply.body);
    wire.into()
}
